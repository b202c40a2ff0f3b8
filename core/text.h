/* Text: a buffer that grows, lists and ranges as users write them, and the nearest known word. */
#ifndef DM_TEXT_H
#define DM_TEXT_H

#include "error.h"
#include "memory.h"

#include <stdint.h>

/* A growing string. A zeroed struct is a valid empty one. Running out of memory is remembered, not
 * returned: append freely and look once, at dm_text_take. */
struct dm_text {
    char *data; /* NUL-terminated once anything was appended, else NULL; owned */
    size_t size, capacity;
    bool failed;
};

#define DM_TEXT_INIT ((struct dm_text){0})

void dm_text_append(struct dm_text *text, const char *string);
void dm_text_append_bytes(struct dm_text *text, const void *bytes, size_t size);
void dm_text_appendf(struct dm_text *text, const char *fmt, ...) DM_PRINTF(2, 3);

/* The text as a string for free(), never NULL unless memory ran out; *text is empty afterwards. */
char *dm_text_take(struct dm_text *text);

/* Frees what it holds. Harmless after dm_text_take. */
void dm_text_finish(struct dm_text *text);

/* Cuts blanks (space, tab, CR, LF, VT, FF) off both ends, in place; returns the new beginning. */
char *dm_trim(char *text);

/* Splits "a, b,c" at its commas into trimmed strings (*items, and the array, in the arena). Blank
 * text is a list of none; an empty item, as in "a,,b", is DEMIST_CONFIG. */
demist_status dm_split_list(struct dm_arena *arena, const char *text, const char *const **items,
                            size_t *count, struct dm_error *err);

/* Reads "0-7,9" into *values = {0, 1 … 7, 9}, an array for free(), in the order written. Numbers
 * are from 0 to `max`; more than `max_count` of them, a range that runs downwards, an empty item
 * and an empty list are DEMIST_CONFIG with the offending item in the text. */
demist_status dm_parse_ranges(const char *text, int64_t max, size_t max_count, int64_t **values,
                              size_t *count, struct dm_error *err);

/* The candidate with the smallest edit distance (insert, delete, replace, swap of neighbours) to
 * `word`, ignoring ASCII case; the first of equals. NULL when none is within a third of the longer
 * word's letters, so that a wild guess is never offered. */
const char *dm_nearest(const char *word, const char *const candidates[], size_t n);

#endif

/* Memory: overflow-checked sizes, aligned blocks for numbers, and arenas for everything small
 * that lives and dies together. */
#ifndef DM_MEMORY_H
#define DM_MEMORY_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>

/* a·b and a+b into *out; false, with *out untouched, when a size_t cannot hold it. */
bool dm_mul_size(size_t a, size_t b, size_t *out);
bool dm_add_size(size_t a, size_t b, size_t *out);

/* A block of at least `bytes` bytes (at least one), not cleared, at a multiple of `align` and of
 * 64: a cache line and an AVX-512 vector. Blocks of 2 MiB and more start at a multiple of 2 MiB
 * and ask for huge pages. NULL when out of memory or when `align` is no power of two (0 counts as
 * 1). Free with dm_free_aligned, which accepts NULL. [any thread] */
void *dm_alloc_aligned(size_t bytes, size_t align);
void dm_free_aligned(void *block);

/* An arena: allocation moves a pointer, and all is freed at once. A zeroed struct is a valid empty
 * arena. One thread at a time. */
struct dm_arena_chunk;
struct dm_arena {
    struct dm_arena_chunk *chunks; /* the newest first; owned */
};

void dm_arena_init(struct dm_arena *arena);

/* Frees all that was allocated from it and leaves an empty arena. */
void dm_arena_finish(struct dm_arena *arena);

/* Zeroed memory, aligned for any C type, valid until dm_arena_finish; 0 bytes give a valid
 * pointer. NULL when out of memory. */
void *dm_arena_alloc(struct dm_arena *arena, size_t bytes);

/* The same for n elements of `size` bytes; NULL too when n·size overflows. */
void *dm_arena_array(struct dm_arena *arena, size_t n, size_t size);

/* Copies into the arena: a string, its first n bytes (text must have that many), or formatted
 * text. NULL when out of memory. */
char *dm_arena_strdup(struct dm_arena *arena, const char *text);
char *dm_arena_strndup(struct dm_arena *arena, const char *text, size_t n);
char *dm_arena_printf(struct dm_arena *arena, const char *fmt, ...) DM_PRINTF(2, 3);

#endif

/* Text: see text.h. */
#include "text.h"

#include "number.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for `extra` more bytes and the terminator. */
static bool reserve(struct dm_text *text, size_t extra)
{
    size_t need;
    if (text->failed || !dm_add_size(text->size, extra, &need) || !dm_add_size(need, 1, &need)) {
        text->failed = true;
        return false;
    }
    if (need <= text->capacity)
        return true;
    size_t capacity = text->capacity + text->capacity / 2;
    capacity = capacity < need ? need : capacity;
    capacity = capacity < 64 ? 64 : capacity;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void dm_text_append_bytes(struct dm_text *text, const void *bytes, size_t size)
{
    if (!reserve(text, size))
        return;
    if (size)
        memcpy(text->data + text->size, bytes, size);
    text->size += size;
    text->data[text->size] = '\0';
}

void dm_text_append(struct dm_text *text, const char *string)
{
    dm_text_append_bytes(text, string, strlen(string));
}

void dm_text_appendf(struct dm_text *text, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    text->failed |= n < 0;
    if (n >= 0 && reserve(text, (size_t)n)) {
        vsnprintf(text->data + text->size, (size_t)n + 1, fmt, again);
        text->size += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

char *dm_text_take(struct dm_text *text)
{
    dm_text_append_bytes(text, "", 0); /* an empty text is a string too */
    char *data = text->failed ? NULL : text->data;
    if (text->failed)
        free(text->data);
    *text = DM_TEXT_INIT;
    return data;
}

void dm_text_finish(struct dm_text *text)
{
    free(text->data);
    *text = DM_TEXT_INIT;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

char *dm_trim(char *text)
{
    while (is_blank(*text))
        text++;
    size_t n = strlen(text);
    while (n > 0 && is_blank(text[n - 1]))
        n--;
    text[n] = '\0';
    return text;
}

/* Cuts the item that *rest begins with off at its comma; *rest is NULL behind the last one. */
static char *next_item(char **rest)
{
    char *item = *rest, *comma = strchr(item, ',');
    *rest = comma ? comma + 1 : NULL;
    if (comma)
        *comma = '\0';
    return dm_trim(item);
}

static size_t count_items(const char *text)
{
    size_t n = 1;
    for (; *text; text++)
        n += *text == ',';
    return n;
}

demist_status dm_split_list(struct dm_arena *arena, const char *text, const char *const **items,
                            size_t *count, struct dm_error *err)
{
    char *copy = dm_arena_strdup(arena, text);
    const char **list = dm_arena_array(arena, count_items(text), sizeof *list);
    if (!copy || !list)
        return dm_fail_memory(err, "splitting a list");
    *items = list;
    *count = 0;
    if (!*(copy = dm_trim(copy)))
        return DEMIST_OK;
    for (char *rest = copy; rest; ++*count)
        if (!*(list[*count] = next_item(&rest)))
            return dm_fail(err, DEMIST_CONFIG, "item %zu of the list \"%s\" is empty", *count + 1,
                           text);
    return DEMIST_OK;
}

/* "7" or "0-7" into *first and *last. The item is cut at its dash. */
static demist_status parse_range(char *item, int64_t max, int64_t *first, int64_t *last,
                                 struct dm_error *err)
{
    char *dash = strchr(item, '-');
    char shown[48];
    snprintf(shown, sizeof shown, "%.40s%s", item, strlen(item) > 40 ? "…" : "");
    if (!*item)
        return dm_fail(err, DEMIST_CONFIG, "an item of the list is empty");
    if (dash)
        *dash = '\0';
    char *from = dm_trim(item), *to = dash ? dm_trim(dash + 1) : from;
    enum dm_parse a = dm_parse_int64(from, first), b = dm_parse_int64(to, last);
    if (a == DM_PARSE_MALFORMED || b == DM_PARSE_MALFORMED || *from == '+' || *to == '+' ||
        *to == '-')
        return dm_fail(err, DEMIST_CONFIG,
                       "\"%s\" is neither a number nor a range; write for instance 0-7,9", shown);
    if (a == DM_PARSE_RANGE || b == DM_PARSE_RANGE || *first > max || *last > max)
        return dm_fail(err, DEMIST_CONFIG, "\"%s\" goes beyond %" PRId64, shown, max);
    if (*first > *last)
        return dm_fail(err, DEMIST_CONFIG, "the range \"%s\" runs downwards", shown);
    return DEMIST_OK;
}

/* Reads the list in `text`, which is cut up; fills values unless it is NULL. */
static demist_status read_ranges(char *text, int64_t max, size_t max_count, int64_t *values,
                                 size_t *count, struct dm_error *err)
{
    *count = 0;
    text = dm_trim(text);
    for (char *rest = *text ? text : NULL; rest;) {
        int64_t first = 0, last = 0;
        DM_TRY(parse_range(next_item(&rest), max, &first, &last, err));
        if ((uint64_t)(last - first) >= max_count - *count)
            return dm_fail(err, DEMIST_CONFIG, "the list has more than %zu numbers", max_count);
        size_t n = (size_t)(last - first) + 1;
        for (size_t i = 0; values && i < n; i++)
            values[*count + i] = first + (int64_t)i;
        *count += n;
    }
    return DEMIST_OK;
}

demist_status dm_parse_ranges(const char *text, int64_t max, size_t max_count, int64_t **values,
                              size_t *count, struct dm_error *err)
{
    char *copy = strdup(text); /* reading cuts it up, so the second pass needs a new one */
    if (!copy)
        return dm_fail_memory(err, "reading a list of numbers");
    demist_status status = read_ranges(copy, max, max_count, NULL, count, err);
    free(copy);
    if (status)
        return status;
    if (*count == 0)
        return dm_fail(err, DEMIST_CONFIG, "the list of numbers is empty");

    copy = strdup(text);
    int64_t *list = calloc(*count, sizeof *list);
    if (!copy || !list) {
        free(copy);
        free(list);
        return dm_fail_memory(err, "reading a list of numbers");
    }
    status = read_ranges(copy, max, max_count, list, count, err);
    free(copy);
    *values = list;
    return status;
}

enum { LONGEST_WORD = 63 };

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int min(int a, int b)
{
    return a < b ? a : b;
}

/* Optimal string alignment: Levenshtein's distance with swaps of neighbours. Three rows do, as a
 * swap looks back two. */
static int distance(const char *a, int na, const char *b, int nb)
{
    int rows[3][LONGEST_WORD + 1];
    for (int j = 0; j <= nb; j++)
        rows[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            char ca = lower(a[i - 1]), cb = lower(b[j - 1]);
            row[j] = min(min(up[j], row[j - 1]) + 1, up[j - 1] + (ca != cb));
            if (i > 1 && j > 1 && ca == lower(b[j - 2]) && cb == lower(a[i - 2]))
                row[j] = min(row[j], up2[j - 2] + 1);
        }
    }
    return rows[na % 3][nb];
}

const char *dm_nearest(const char *word, const char *const candidates[], size_t n)
{
    size_t size = strlen(word);
    const char *nearest = NULL;
    int best = LONGEST_WORD + 1;
    for (size_t i = 0; size <= LONGEST_WORD && i < n; i++) {
        size_t other = strlen(candidates[i]);
        if (other > LONGEST_WORD)
            continue;
        int d = distance(word, (int)size, candidates[i], (int)other);
        int longer = (int)(size > other ? size : other);
        if (d < best && 3 * d <= longer) {
            best = d;
            nearest = candidates[i];
        }
    }
    return nearest;
}

/* Aligned blocks from the C library's allocator, and arenas as a list of chunks. */
#include "memory.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MIN_ALIGN = 64, HUGE_PAGE = 2 << 20, CHUNK = 64 << 10 };

bool dm_mul_size(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool dm_add_size(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

void *dm_alloc_aligned(size_t bytes, size_t align)
{
    if (align & (align - 1))
        return NULL;
    if (align < MIN_ALIGN)
        align = MIN_ALIGN;
    bool huge = bytes >= HUGE_PAGE;
    if (huge && align < HUGE_PAGE)
        align = HUGE_PAGE;

    void *block = NULL;
    if (posix_memalign(&block, align, bytes ? bytes : 1))
        return NULL;
    /* Whole huge pages only: the tail may share its page with another block. It is advice, and a
     * kernel without huge pages may refuse it. */
    if (huge)
        (void)madvise(block, bytes & ~((size_t)HUGE_PAGE - 1), MADV_HUGEPAGE);
    return block;
}

void dm_free_aligned(void *block)
{
    free(block);
}

struct dm_arena_chunk {
    struct dm_arena_chunk *next;
    size_t used, size; /* of data, in bytes */
    _Alignas(max_align_t) unsigned char data[];
};

void dm_arena_init(struct dm_arena *arena)
{
    *arena = (struct dm_arena){0};
}

void dm_arena_finish(struct dm_arena *arena)
{
    for (struct dm_arena_chunk *chunk = arena->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    dm_arena_init(arena);
}

/* A large request gets a chunk of its own behind the current one, whose rest stays in use. */
static struct dm_arena_chunk *add_chunk(struct dm_arena *arena, size_t bytes)
{
    size_t size = bytes > CHUNK / 4 ? bytes : CHUNK, total;
    if (!dm_add_size(size, sizeof(struct dm_arena_chunk), &total))
        return NULL;
    struct dm_arena_chunk *chunk = calloc(1, total), *current = arena->chunks;
    if (!chunk)
        return NULL;
    chunk->size = size;
    if (current && size != CHUNK) {
        chunk->next = current->next;
        current->next = chunk;
    } else {
        chunk->next = current;
        arena->chunks = chunk;
    }
    return chunk;
}

void *dm_arena_alloc(struct dm_arena *arena, size_t bytes)
{
    size_t const align = _Alignof(max_align_t);
    if (!dm_add_size(bytes, align - 1, &bytes))
        return NULL;
    bytes &= ~(align - 1);

    struct dm_arena_chunk *chunk = arena->chunks;
    if ((!chunk || bytes > chunk->size - chunk->used) && !(chunk = add_chunk(arena, bytes)))
        return NULL;
    void *block = chunk->data + chunk->used;
    chunk->used += bytes;
    return block;
}

void *dm_arena_array(struct dm_arena *arena, size_t n, size_t size)
{
    size_t bytes;
    return dm_mul_size(n, size, &bytes) ? dm_arena_alloc(arena, bytes) : NULL;
}

char *dm_arena_strndup(struct dm_arena *arena, const char *text, size_t n)
{
    size_t bytes;
    char *copy = dm_add_size(n, 1, &bytes) ? dm_arena_alloc(arena, bytes) : NULL;
    if (copy)
        memcpy(copy, text, n); /* the terminator is the arena's zero */
    return copy;
}

char *dm_arena_strdup(struct dm_arena *arena, const char *text)
{
    return dm_arena_strndup(arena, text, strlen(text));
}

char *dm_arena_printf(struct dm_arena *arena, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = n < 0 ? NULL : dm_arena_alloc(arena, (size_t)n + 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    return text;
}

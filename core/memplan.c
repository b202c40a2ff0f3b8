/* Memory planning as offset assignment. Optimal packing is NP-hard, so two plans are made and the
 * smaller one is kept: greedy by size (Pisarchyk and Lee 2020, "Efficient memory management for
 * deep neural net inference", algorithm 3), which is hard to beat on graphs with skips, and one in
 * order of the steps from both ends of an arena of the least conceivable size, which is optimal on
 * chains. */
#include "memplan.h"

#include <stdbool.h>
#include <stdlib.h>

static int64_t round_up(int64_t bytes, int64_t align)
{
    return (bytes + align - 1) & ~(align - 1);
}

static demist_status check(const struct dm_memblock *blocks, int n, int64_t align,
                           struct dm_error *err)
{
    if (n < 0 || align <= 0 || (align & (align - 1)))
        return dm_fail(err, DEMIST_INVALID, "memory plan: %d blocks aligned to %lld bytes", n,
                       (long long)align);
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        const struct dm_memblock *b = &blocks[i];
        if (b->bytes < 0 || b->first > b->last)
            return dm_fail(err, DEMIST_INVALID,
                           "memory plan: block %d: %lld bytes in steps %d to %d", i,
                           (long long)b->bytes, b->first, b->last);
        if (__builtin_add_overflow(sum, b->bytes, &sum) || __builtin_add_overflow(sum, align, &sum))
            return dm_fail_memory(err, "the values of the graph exceed the address space");
    }
    return DEMIST_OK;
}

/* The largest first; then the longest-lived; then, for determinism, in the order given. */
static int by_size(const void *a, const void *b)
{
    const struct dm_memblock *x = *(struct dm_memblock *const *)a;
    const struct dm_memblock *y = *(struct dm_memblock *const *)b;
    int64_t life_x = (int64_t)x->last - x->first, life_y = (int64_t)y->last - y->first;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    if (life_x != life_y)
        return life_x > life_y ? -1 : 1;
    return x < y ? -1 : 1;
}

static int by_step(const void *a, const void *b)
{
    const struct dm_memblock *x = *(struct dm_memblock *const *)a;
    const struct dm_memblock *y = *(struct dm_memblock *const *)b;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return by_size(a, b);
}

static bool together(const struct dm_memblock *a, const struct dm_memblock *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The offset in the smallest gap between the placed blocks (in order of offset) that live with
 * `block`, or the end of the last of them. The gap below `ceiling`, if any, counts too, and is
 * filled from above, so that what comes next finds its room in one piece. */
static int64_t best_gap(const struct dm_memblock *block, struct dm_memblock **placed, int n,
                        int64_t align, int64_t ceiling)
{
    int64_t best = -1, smallest = INT64_MAX, end = 0;
    for (int i = 0; i < n; i++) {
        const struct dm_memblock *p = placed[i];
        if (!together(block, p))
            continue;
        int64_t gap = p->offset - end;
        if (gap >= block->bytes && gap < smallest) {
            best = end;
            smallest = gap;
        }
        int64_t p_end = round_up(p->offset + p->bytes, align);
        end = p_end > end ? p_end : end;
    }
    int64_t last = ceiling - end, need = round_up(block->bytes, align);
    if (end > 0 && last >= need && last < smallest)
        best = ceiling - need;
    return best >= 0 ? best : end;
}

static void insert(struct dm_memblock **placed, int n, struct dm_memblock *block)
{
    int i = n;
    for (; i > 0 && placed[i - 1]->offset > block->offset; i--)
        placed[i] = placed[i - 1];
    placed[i] = block;
}

/* Places all blocks in the given order; returns the arena's size. `placed` is scratch. */
static int64_t place(struct dm_memblock **order, struct dm_memblock **placed, int n, int64_t align,
                     int64_t ceiling)
{
    int64_t arena = 0;
    int n_placed = 0;
    for (int i = 0; i < n; i++) {
        struct dm_memblock *block = order[i];
        block->offset = 0;
        if (block->bytes == 0)
            continue;
        block->offset = best_gap(block, placed, n_placed, align, ceiling);
        insert(placed, n_placed++, block);
        int64_t end = round_up(block->offset + block->bytes, align);
        arena = end > arena ? end : arena;
    }
    return arena;
}

/* The most bytes live in one step. They only ever grow in a step where a block begins. */
static int64_t lower_bound(const struct dm_memblock *blocks, int n, int64_t align)
{
    int64_t most = 0;
    for (int i = 0; i < n; i++) {
        int64_t live = 0;
        for (int k = 0; k < n; k++)
            if (blocks[k].first <= blocks[i].first && blocks[i].first <= blocks[k].last)
                live += round_up(blocks[k].bytes, align);
        most = live > most ? live : most;
    }
    return most;
}

demist_status dm_plan_memory(struct dm_memblock *blocks, int n, int64_t align, int64_t *arena_bytes,
                             struct dm_error *err)
{
    DM_TRY(check(blocks, n, align, err));
    *arena_bytes = 0;
    if (n == 0)
        return DEMIST_OK;
    struct dm_memblock **order = calloc((size_t)n, 2 * sizeof(struct dm_memblock *));
    if (!order)
        return dm_fail_memory(err, "a memory plan");
    struct dm_memblock **placed = order + n;
    for (int i = 0; i < n; i++)
        order[i] = &blocks[i];

    int64_t least = lower_bound(blocks, n, align);
    qsort(order, (size_t)n, sizeof(struct dm_memblock *), by_size);
    int64_t sized = place(order, placed, n, align, 0);
    *arena_bytes = sized;
    if (sized > least) {
        qsort(order, (size_t)n, sizeof(struct dm_memblock *), by_step);
        *arena_bytes = place(order, placed, n, align, least);
    }
    if (*arena_bytes > sized) { /* the first plan was the better one: make it again */
        qsort(order, (size_t)n, sizeof(struct dm_memblock *), by_size);
        *arena_bytes = place(order, placed, n, align, 0);
    }
    free(order);
    return DEMIST_OK;
}

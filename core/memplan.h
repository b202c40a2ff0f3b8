/* Where each intermediate value lies: blocks of memory that are never live together may share it.
 */
#ifndef DM_MEMPLAN_H
#define DM_MEMPLAN_H

#include "error.h"

#include <stdint.h>

/* One value: live in each step from `first` to `last`, both included. */
struct dm_memblock {
    int64_t bytes; /* ≥ 0 */
    int32_t first, last;
    int64_t offset; /* out: a multiple of the alignment */
};

/* Gives each of the n blocks an offset in one arena, such that no two that share a step share a
 * byte, and *arena_bytes the arena's size, a multiple of `align` (a power of two), near the
 * least possible (and equal to it where each block only meets its neighbours in a chain). The plan
 * depends on the arguments alone. Blocks of 0 bytes get offset 0. n = 0 needs 0 bytes.
 *
 * DEMIST_INVALID for a negative size, a step range that runs backwards or a bad alignment, named by
 * index; DEMIST_NO_MEMORY when the sizes' sum is beyond int64. O(n²). [any thread] */
demist_status dm_plan_memory(struct dm_memblock *blocks, int n, int64_t align, int64_t *arena_bytes,
                             struct dm_error *err);

#endif

/* The product of the AMX level, over the operations of cpu_tile_ops.h; included by
 * cpu_tiles_amx.c and cpu_tiles_plain.c, which define CPU_TILES, the table's name. */
#include "cpu_tiles.h"

#include "cpu_tile_ops.h"

/* Four accumulators (0 to 3) of 16 x 16, two tiles of rows (4, 5) and two of weights (6, 7): each
 * tile loaded is used twice. */
static void part(struct tiles *t, const uint16_t *a, int64_t lda, int64_t steps, const uint16_t *b)
{
    (void)t;
    const uint16_t *lower = a + TILE_ROWS * lda;
    for (int64_t i = 0; i < steps; i++, a += 32, lower += 32, b += CPU_TILE_STEP) {
        TILE_LOAD(t, 4, a, lda * 2);
        TILE_LOAD(t, 5, lower, lda * 2);
        TILE_LOAD(t, 6, b, TILE_BYTES);
        TILE_LOAD(t, 7, b + CPU_TILE_STEP / 2, TILE_BYTES);
        TILE_DOT(t, 0, 4, 6);
        TILE_DOT(t, 1, 4, 7);
        TILE_DOT(t, 2, 5, 6);
        TILE_DOT(t, 3, 5, 7);
    }
}

static void product(bool split, const uint16_t *const *a, int64_t lda, int64_t steps,
                    const uint16_t *const *b, const float *init, float *c)
{
    struct tiles tiles, *t = &tiles;
    (void)t;
    TILE_LOAD(t, 0, init, 0); /* every row the same */
    TILE_LOAD(t, 1, init + 16, 0);
    TILE_LOAD(t, 2, init, 0);
    TILE_LOAD(t, 3, init + 16, 0);
    if (split) { /* the small ones first */
        part(t, a[1], lda, steps, b[0]);
        part(t, a[0], lda, steps, b[1]);
    }
    part(t, a[0], lda, steps, b[0]);
    TILE_STORE(t, 0, c, CPU_TILE_SIDE * 4);
    TILE_STORE(t, 1, c + 16, CPU_TILE_SIDE * 4);
    TILE_STORE(t, 2, c + 16 * CPU_TILE_SIDE, CPU_TILE_SIDE * 4);
    TILE_STORE(t, 3, c + 16 * CPU_TILE_SIDE + 16, CPU_TILE_SIDE * 4);
}

const struct cpu_tiles CPU_TILES = {.begin = tiles_begin, .product = product, .end = tiles_end};

/* Products of tiles, the AMX level's: 32 rows by 32 columns at a time.
 *
 * Rows are gathered into a block [32][lda] of bf16, zeros behind the last step; weights are packed
 * by panels of 32 columns, [step][column half][16 pairs of k][16 columns][2]. In float32 both are
 * split into a bf16 number and the bf16 number nearest to the rest, x = hi + lo, and
 * lo·hi + hi·lo + hi·hi is summed: what is left out is 2⁻¹⁶ of a product at most. */
#ifndef CPU_TILES_H
#define CPU_TILES_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CPU_TILE_SIDE = 32,  /* rows and columns of a product */
    CPU_TILE_DEPTH = 32, /* k of a step */
    CPU_TILE_STEP = 1024 /* packed bf16 numbers of a step */
};

struct cpu_tiles {
    /* Around a thread's products: tiles are large, and cost each switch of threads while in use. */
    void (*begin)(void);
    void (*end)(void);
    /* c [32][32] = init[column] + Σ a·b over `steps` steps. a[0], b[0]: hi; split: a[1], b[1] lo.
     * lda in elements. */
    void (*product)(bool split, const uint16_t *const *a, int64_t lda, int64_t steps,
                    const uint16_t *const *b, const float *init, float *c);
};

extern const struct cpu_tiles cpu_tiles_amx, cpu_tiles_plain;

#endif

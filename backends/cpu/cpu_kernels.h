/* The kernels of one instruction-set level, as a table.
 *
 * All levels are compiled from cpu_kernel_body.h, each in a file and a static library of its own
 * with its own compiler flags. Only cpu_isa.c hands a table out, after it has asked the processor.
 *
 * Products: B is packed into panels of `nr` columns (two vectors), [panel][k][nr]; a last panel of
 * at most nr/2 columns is [k][nr/2]. A is given by row pointers. Each result is a sum of chains of
 * multiply-adds in the order of k: how rows are blocked changes no bit. */
#ifndef CPU_KERNELS_H
#define CPU_KERNELS_H

#include "cpu_tiles.h"

#include <demist/graph.h>

#include <stdbool.h>
#include <stdint.h>

enum {
    CPU_MAX_MR = 14,  /* the most rows of a product's tile */
    CPU_MAX_NR = 32,  /* the most columns */
    CPU_MAX_VW = 16,  /* the widest vector */
    CPU_CHANNELS = 16 /* pixel-major rows are padded to a multiple of this in every level */
};

/* What a product fetches into the caches meanwhile, so many floats for each step of k: rows that
 * come next (to the first level), and a panel that comes next (to the second). Addresses need not
 * be valid. */
struct cpu_ahead {
    const float *a, *b;
    int64_t a_step, b_step;
};

/* Rows of a product's tile: a [tap][rows] pointers, results to c, ldc apart. */
struct cpu_rows {
    int rows;
    const void *const *a;
    float *c;
    int64_t ldc;
};

/* Pixels of a picture: (r, c) at r·row + c·column. next: where the next tile's are. */
struct cpu_patch {
    float *at, *next;
    int64_t row, column;
};

struct cpu_kernels {
    const char *name;
    int vw;                        /* floats of a vector */
    int mr, nr;                    /* tile of a product */
    bool fused;                    /* a multiply-add rounds once */
    bool bf16;                     /* has instructions for products of bf16 numbers */
    const struct cpu_tiles *tiles; /* NULL: the level has none */

    /* c[i][0..vecs·vw) = init + Σ_tap Σ_k a[tap·rows + i][k]·b[tap][k][·] for i < rows <= mr;
     * vecs 1 or 2; init [vecs·vw] or NULL for zeros; c's rows are ldc apart. */
    void (*gemm)(int rows, int vecs, const float *const *a, int64_t taps, int64_t k, const float *b,
                 const float *init, float *c, int64_t ldc, const struct cpu_ahead *ahead);

    /* The same for n blocks of rows by one panel, which is read once for all of them; what follows
     * the panel in memory is fetched meanwhile. */
    void (*gemm_panel)(int n, const struct cpu_rows *blocks, int vecs, int64_t taps, int64_t k,
                       const float *b, const float *init);

    /* Both with bf16 weights, summed in float32, of taps·k of each row: bf16 numbers if the
     * level has `bf16`, else floats. b holds two steps of k in each element:
     * [tap][(k+1)/2][vecs·vw] pairs, the first one in the lower half, and 0 as the second one of an
     * odd last step. ahead: for each pair. */
    void (*gemm16)(int rows, int vecs, const void *const *a, int64_t taps, int64_t k,
                   const float *b, const float *init, float *c, int64_t ldc,
                   const struct cpu_ahead *ahead);
    void (*gemm16_panel)(int n, const struct cpu_rows *blocks, int vecs, int64_t taps, int64_t k,
                         const float *b, const float *init);
    /* n numbers from bf16, to bf16 (nearest, halves to even), and pairs (first[i], second[i]). */
    void (*widen)(int64_t n, const uint16_t *src, float *dst);
    void (*narrow)(int64_t n, const float *src, uint16_t *dst);
    void (*interleave)(int64_t n, const uint16_t *first, const uint16_t *second, float *dst);

    /* Elementwise over n floats; dst may be an operand. p0, p1: AFFINE's a, b; CLAMP's lo, hi. */
    void (*unary)(demist_op op, int64_t n, float *dst, const float *x, float p0, float p1);
    void (*binary)(demist_op op, int64_t n, float *dst, const float *x, const float *y);
    void (*scalar_right)(demist_op op, int64_t n, float *dst, const float *x, float y);
    /* to[i][0..n) = tile[i·ld + ·] (+ add[i][·] where add is given) for i < rows; to and add are
     * floats or bf16 numbers, here and below */
    void (*store)(int rows, int64_t n, const float *tile, int64_t ld, void *const *add,
                  bool add_bf16, void *const *to, bool to_bf16);
    void (*select)(int64_t n, float *dst, const float *c, const float *x, const float *y);
    /* dst = x·y + z */
    void (*multiply_add)(int64_t n, float *dst, const float *x, const float *y, const float *z);

    /* mean[c] and m2[c] = Σ (x - mean)² over `pixels` rows, ld apart, for c < channels. */
    void (*channel_stats)(const void *x, bool bf16, int64_t pixels, int64_t ld, int64_t channels,
                          float *mean, float *m2);
    /* y = act((x - mean)·scale + shift), all three by channel; act: an op, or 0 for none. */
    void (*normalise)(demist_op act, const void *x, bool x_bf16, int64_t ldx, void *y, bool y_bf16,
                      int64_t ldy, int64_t pixels, int64_t channels, const float *mean,
                      const float *scale, const float *shift);
    /* y = (x - mean)/sqrt(variance + eps)·gamma + beta over n floats; gamma, beta may be NULL */
    void (*layer_norm)(int64_t n, const float *x, float *y, const float *gamma, const float *beta,
                       float eps);
    /* x = exp(scale·x - max) over n floats, in place; returns the sum */
    float (*softmax)(int64_t n, float *x, float scale);

    /* Winograd F(m x m, 3x3), m 2 or 4. Input: the (m+2)² pixels from (y0, x0) on, zeros outside
     * h x w (in the upsampled picture: source pixel (y >> up, x >> up)); v: (m+2)² vectors of
     * `channels`, `step` elements apart; of bf16 only where the
     * level has `bf16`, m is 2 and x is bf16. next: how far on in x the tile lies that is to be
     * transformed after this one. */
    void (*winograd_input)(int m, const void *x, bool x_bf16, int64_t row_stride,
                           int64_t pixel_stride, int h, int w, int y0, int x0, int up,
                           int64_t channels, int64_t next, void *v, bool v_bf16, int64_t step);
    /* Output: (m+2)² vectors of vecs·vw, `step` apart, to m x m pixels of as many channels, with
     * bias and, if it is given, `add` added. */
    void (*winograd_output)(int m, const float *p, int64_t step, int vecs, const float *bias,
                            const struct cpu_patch *add, const struct cpu_patch *out);

    /* dst[c·ldd + r] = src[r·lds + c] for r < rows, c < columns */
    void (*transpose)(const float *src, int64_t lds, int64_t rows, int64_t columns, float *dst,
                      int64_t ldd);
};

extern const struct cpu_kernels cpu_kernels_generic, cpu_kernels_avx2, cpu_kernels_avx512,
    cpu_kernels_avx512_bf16, cpu_kernels_amx, cpu_kernels_amx_emulated;

#endif

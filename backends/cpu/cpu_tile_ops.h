/* The tile operations of AMX that the kernels use, on tiles 0 to 7 of 16 rows of 64 bytes: as
 * instructions where CPU_TILE_INSTRUCTIONS is defined, else in plain C, so that what is built on
 * them can be tested on any machine. Everything is static, as in cpu_vec.h.
 *
 * The plain version follows Intel's definition of TDPBF16PS: for each result the products of even
 * and of odd elements are summed apart, then added; subnormals are zero, which it does not copy. */
#ifndef CPU_TILE_OPS_H
#define CPU_TILE_OPS_H

#include <stdint.h>
#include <string.h>

enum { TILE_ROWS = 16, TILE_BYTES = 64 };

#if defined(CPU_TILE_INSTRUCTIONS)

#include <immintrin.h>

struct tiles {
    char nothing;
};

/* Eight tiles of 16 rows of 64 bytes. Constant, and so in memory as a whole: the compiler's
 * intrinsic admits to reading the first eight bytes only. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config __attribute__((aligned(64))) = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

static void tiles_begin(void)
{
    _tile_loadconfig(&tile_config);
}

static void tiles_end(void)
{
    _tile_release();
}

/* stride: bytes from row to row */
#define TILE_LOAD(t, n, from, stride) _tile_loadd(n, from, (long)(stride))
#define TILE_STORE(t, n, to, stride) _tile_stored(n, to, (long)(stride))
#define TILE_DOT(t, c, a, b) _tile_dpbf16ps(c, a, b)

#else

struct tiles {
    unsigned char byte[8][TILE_ROWS][TILE_BYTES];
};

static void tiles_begin(void)
{
}

static void tiles_end(void)
{
}

static inline void tile_load(struct tiles *t, int n, const void *from, int64_t stride)
{
    for (int r = 0; r < TILE_ROWS; r++)
        memcpy(t->byte[n][r], (const char *)from + r * stride, TILE_BYTES);
}

static inline void tile_store(const struct tiles *t, int n, void *to, int64_t stride)
{
    for (int r = 0; r < TILE_ROWS; r++)
        memcpy((char *)to + r * stride, t->byte[n][r], TILE_BYTES);
}

static inline float tile_bf16(const unsigned char *element)
{
    uint16_t half;
    memcpy(&half, element, sizeof half);
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* c[m][n] += Σ_k a[m][2k]·b[k][2n] + a[m][2k+1]·b[k][2n+1] */
static inline void tile_dot(struct tiles *t, int c, int a, int b)
{
    for (int m = 0; m < TILE_ROWS; m++)
        for (int n = 0; n < TILE_BYTES / 4; n++) {
            float even = 0, odd = 0, sum;
            for (int k = 0; k < TILE_BYTES / 4; k++) {
                even += tile_bf16(&t->byte[a][m][4 * k]) * tile_bf16(&t->byte[b][k][4 * n]);
                odd += tile_bf16(&t->byte[a][m][4 * k + 2]) * tile_bf16(&t->byte[b][k][4 * n + 2]);
            }
            memcpy(&sum, &t->byte[c][m][4 * n], sizeof sum);
            sum += even + odd;
            memcpy(&t->byte[c][m][4 * n], &sum, sizeof sum);
        }
}

#define TILE_LOAD(t, n, from, stride) tile_load(t, n, from, stride)
#define TILE_STORE(t, n, to, stride) tile_store(t, n, to, stride)
#define TILE_DOT(t, c, a, b) tile_dot(t, c, a, b)

#endif

#endif

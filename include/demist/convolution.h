/* Which taps of a convolution's kernel meet which inputs, along one axis: the arithmetic of CONV2D
 * and CONV_TRANSPOSE2D (docs/ops.md), for backends that compute them as sums over taps. Compiled
 * into the plugin. */
#ifndef DEMIST_CONVOLUTION_H
#define DEMIST_CONVOLUTION_H

#include <demist/abi.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Taps first, first + step, … of the kernel, n of them. The i-th meets, for output number j, input
 * j·stride + place + i·move, which may lie outside: in the padding. */
typedef struct demist_taps {
    int32_t n, first, step, place, move;
} demist_taps;

/* Of a convolution: every tap, for every output. */
static inline demist_taps demist_conv_taps(int64_t kernel, int32_t pad, int32_t dilation)
{
    demist_taps taps = {(int32_t)kernel, 0, 1, -pad, dilation};
    return taps;
}

/* Of a transposed convolution, which is one convolution of stride 1 for each phase of its stride:
 * the taps that meet outputs phase, phase + stride, …, where output number j is phase + j·stride. A
 * tap k is one of them where phase + pad − k·dilation is a multiple of the stride, so they are
 * equally far apart; there may be none. */
static inline demist_taps demist_transposed_taps(int64_t kernel, int32_t stride, int32_t pad,
                                                 int32_t dilation, int64_t phase)
{
    demist_taps taps = {0, 0, 1, 0, 0};
    for (int32_t k = 0; k < kernel; k++) {
        const int64_t at = phase + pad - (int64_t)k * dilation;
        if (at % stride != 0)
            continue;
        if (taps.n == 0) {
            taps.first = k;
            taps.place = (int32_t)(at / stride);
        } else if (taps.n == 1) {
            taps.step = k - taps.first;
            taps.move = (int32_t)(at / stride) - taps.place;
        }
        taps.n++;
    }
    return taps;
}

/* How many of `outputs` are of that phase. */
static inline int64_t demist_phase_outputs(int64_t outputs, int32_t stride, int64_t phase)
{
    return phase < outputs ? (outputs - phase + stride - 1) / stride : 0;
}

#ifdef __cplusplus
}
#endif
#endif

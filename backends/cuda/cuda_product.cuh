/* What the kernels of products share: places of rows, and what follows a sum (cuda_kernels.h has
 * the equation, `struct cu_product`). */
#ifndef CUDA_PRODUCT_CUH
#define CUDA_PRODUCT_CUH

#include "cuda_code.cuh"
#include "cuda_launch.cuh"

/* Products of a part of a float32 sum: parts have small rounding errors, and few are added. */
static constexpr int CU_PART = 128;

/* A row's place in the grid of the result. */
struct cu_place {
    int n, i, j;
};

static __device__ __forceinline__ cu_place cu_place_of(const cu_product &p, int row)
{
    const int line = row / p.width;
    return {line / p.height, line % p.height, row - line * p.width};
}

/* Where a's first channel of the place lies for a tap, in elements from p.a; −1: outside. */
static __device__ __forceinline__ int64_t cu_source(const cu_product &p, int64_t z_offset,
                                                    cu_place at, int dy, int dx)
{
    const int h = at.i * p.stride[0] + dy, w = at.j * p.stride[1] + dx;
    if (h < 0 || h >= p.in_height || w < 0 || w >= p.in_width)
        return -1;
    return z_offset + at.n * p.a_stride[0] + h * p.a_stride[1] + w * p.a_stride[2];
}

/* Finishes and stores LANES neighbouring columns (1 or 4) from `column` on, of which those below
 * p.columns exist. */
template <int LANES>
static __device__ __forceinline__ void cu_finish(const cu_product &p, int z, cu_place at,
                                                 int column, float (&a)[LANES])
{
    const int z0 = z / p.z_inner, z1 = z - z0 * p.z_inner;
    const int there = p.columns - column, first = z1 * p.column_z + column;
    cu_run_code(p.after, a, [&](int k, float(&x)[LANES]) {
        const cu_operand &o = p.operand[k];
        const int64_t base =
            at.n * o.stride[0] + at.i * o.stride[1] + at.j * o.stride[2] + first * o.stride[3];
#pragma unroll
        for (int c = 0; c < LANES; c++)
            x[c] = c < there ? cu_load(o.at, base + c * o.stride[3], o.type) : 0.0f;
    });
    const int64_t to = z0 * p.y_z[0] + z1 * p.y_z[1] + at.n * p.y_stride[0] + at.i * p.y_stride[1] +
                       at.j * p.y_stride[2] + column;
#pragma unroll
    for (int c = 0; c < LANES; c++)
        if (c < there)
            cu_store(p.y, to + c, p.y_type, a[c]);
}

#endif

/* The kernels of products that the table in cuda_product_kernels.c names: each with `fits` and
 * `run` as in cuda_kernels.h. */
#ifndef CUDA_PRODUCT_KERNELS_H
#define CUDA_PRODUCT_KERNELS_H

#include "cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(name); f32 on tiles of 64 x 64 is cu_run_product_simt, in cuda_kernels.h. narrow, square and
 * wide: 128 x 32, 64 x 64 and 128 x 128 results a block; split: 32 x 32, sums in four parts. */
#define CU_PRODUCT_KERNELS(X)                                                                      \
    X(f32_wide)   /* cuda_fma.cu */                                                                \
    X(f16_narrow) /* cuda_mma.cu */                                                                \
    X(f16_square)                                                                                  \
    X(f16_wide)                                                                                    \
    X(f16_split)                                                                                   \
    X(bf16_narrow)                                                                                 \
    X(bf16_square)                                                                                 \
    X(bf16_wide)                                                                                   \
    X(bf16_split)                                                                                  \
    X(tf32_narrow)                                                                                 \
    X(tf32_square)                                                                                 \
    X(tf32_wide)                                                                                   \
    X(tf32_split)

#define CU_DECLARE(name)                                                                           \
    bool cu_fits_product_##name(const struct cu_product *product, int capability);                 \
    cudaError_t cu_run_product_##name(cudaStream_t stream, const void *product);
CU_PRODUCT_KERNELS(CU_DECLARE)
#undef CU_DECLARE

#ifdef __cplusplus
}
#endif
#endif

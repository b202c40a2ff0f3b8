/* Sums and maxima over the threads of a block, always combined in the same order. */
#ifndef CUDA_BLOCK_CUH
#define CUDA_BLOCK_CUH

#include "cuda_device.cuh"

static __device__ __forceinline__ float cu_larger(float a, float b)
{
    return a > b || a != a ? a : b;
}

static __device__ __forceinline__ float cu_combine(bool sum, float a, float b)
{
    return sum ? a + b : cu_larger(a, b);
}

/* Over the block's threads, whole warps and at most 32 of them; every thread gets it. shared: 32
 * floats, free for use when all threads are there. */
static __device__ __forceinline__ float cu_block_reduce(bool sum, float x, float *shared)
{
    const int warps = static_cast<int>(blockDim.x) / CU_WARP;
    const int warp = static_cast<int>(threadIdx.x) / CU_WARP;
#pragma unroll
    for (int apart = CU_WARP / 2; apart > 0; apart /= 2)
        x = cu_combine(sum, x, cu_shuffle_xor(x, apart));
    if (warps == 1)
        return x;
    __syncthreads();
    if (threadIdx.x % CU_WARP == 0)
        shared[warp] = x;
    __syncthreads();
    x = shared[0];
    for (int i = 1; i < warps; i++)
        x = cu_combine(sum, x, shared[i]);
    return x;
}

#endif

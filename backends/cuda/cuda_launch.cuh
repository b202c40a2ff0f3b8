/* How kernels are started: one function, so that arguments are checked against the kernel's
 * parameters by the compiler and an error comes back as a value. */
#ifndef CUDA_LAUNCH_CUH
#define CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

template <class... P, class... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                                 cudaStream_t stream, A... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, args...);
}

/* Blocks of `size` that cover n things. */
static inline unsigned blocks_for(int64_t n, int64_t size)
{
    return (unsigned)((n + size - 1) / size);
}

#endif

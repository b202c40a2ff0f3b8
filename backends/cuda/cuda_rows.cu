/* Reductions and softmax of contiguous rows, one block each, and sums over the images. */
#include "cuda_block.cuh"
#include "cuda_launch.cuh"

enum {
    SHORT = 32, /* threads for a short row */
    LONG = 256,
    FEW = 512,  /* the longest short row */
    BLOCK = 16, /* terms of one chain of additions, so that errors grow slowly */
};

static __device__ __forceinline__ float sum_of_row(const cu_rows &r, int64_t from)
{
    float sum = 0;
    for (int k = static_cast<int>(threadIdx.x); k < r.length;) {
        float block = 0;
        for (int j = 0; j < BLOCK && k < r.length; j++, k += static_cast<int>(blockDim.x))
            block += cu_load(r.x, from + k, r.x_type);
        sum += block;
    }
    return sum;
}

static __device__ __forceinline__ float max_of_row(const cu_rows &r, int64_t from)
{
    float m = -INFINITY;
    for (int k = static_cast<int>(threadIdx.x); k < r.length; k += static_cast<int>(blockDim.x))
        m = cu_larger(m, cu_load(r.x, from + k, r.x_type));
    return m;
}

static __global__ void row_sum(const __grid_constant__ cu_rows r)
{
    __shared__ float shared[32];
    const int64_t row = blockIdx.x;
    const float sum = cu_block_reduce(true, sum_of_row(r, row * r.length), shared);
    if (threadIdx.x == 0)
        cu_store(r.y, row, r.y_type, sum / r.divisor);
}

static __global__ void row_max(const __grid_constant__ cu_rows r)
{
    __shared__ float shared[32];
    const int64_t row = blockIdx.x;
    const float m = cu_block_reduce(false, max_of_row(r, row * r.length), shared);
    if (threadIdx.x == 0)
        cu_store(r.y, row, r.y_type, m);
}

/* The exponentials are computed twice rather than stored in a narrow type. */
static __global__ void row_softmax(const __grid_constant__ cu_rows r)
{
    __shared__ float shared[32];
    const int64_t from = static_cast<int64_t>(blockIdx.x) * r.length;
    const float m = cu_block_reduce(false, max_of_row(r, from), shared);
    float sum = 0;
    for (int k = static_cast<int>(threadIdx.x); k < r.length;) {
        float block = 0;
        for (int j = 0; j < BLOCK && k < r.length; j++, k += static_cast<int>(blockDim.x))
            block += expf(cu_load(r.x, from + k, r.x_type) - m);
        sum += block;
    }
    sum = cu_block_reduce(true, sum, shared);
    for (int k = static_cast<int>(threadIdx.x); k < r.length; k += static_cast<int>(blockDim.x))
        cu_store(r.y, from + k, r.y_type, expf(cu_load(r.x, from + k, r.x_type) - m) / sum);
}

/* y[i] = Σ over images of x[image][i]; Kahan's compensation, dropped where a sum is not finite */
static __global__ void image_sum(const __grid_constant__ cu_rows r)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * LONG + threadIdx.x;
    if (i >= r.length)
        return;
    float sum = cu_load(r.x, i, r.x_type), lost = 0;
    for (int n = 1; n < r.images; n++) {
        const float v = cu_load(r.x, static_cast<int64_t>(n) * r.length + i, r.x_type);
        const float add = v - lost, next = sum + add;
        const float error = (next - sum) - add;
        lost = isfinite(error) ? error : 0.0f;
        sum = next;
    }
    cu_store(r.y, i, r.y_type, sum);
}

static cudaError_t run(cudaStream_t stream, const void *arguments, void (*kernel)(cu_rows))
{
    const cu_rows &r = *static_cast<const cu_rows *>(arguments);
    const dim3 threads(r.length <= FEW ? SHORT : LONG);
    return launch(kernel, dim3(static_cast<unsigned>(r.rows)), threads, 0, stream, r);
}

extern "C" cudaError_t cu_run_row_sum(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, row_sum);
}

extern "C" cudaError_t cu_run_row_max(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, row_max);
}

extern "C" cudaError_t cu_run_row_softmax(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, row_softmax);
}

extern "C" cudaError_t cu_run_image_sum(cudaStream_t stream, const void *arguments)
{
    const cu_rows &r = *static_cast<const cu_rows *>(arguments);
    return launch(image_sum, dim3(blocks_for(r.length, LONG)), dim3(LONG), 0, stream, r);
}

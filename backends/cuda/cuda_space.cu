/* Pooling, bilinear resizing, and the gather of an embedding: one thread an element of the result.
 */
#include "cuda_code.cuh"
#include "cuda_launch.cuh"

enum { THREADS = 256 };

struct pixel {
    int n, c, i, j;
};

/* Channels innermost, as in memory. */
static __device__ __forceinline__ bool find(const cu_image &p, pixel *at)
{
    int64_t index = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    at->c = static_cast<int>(index % p.channels);
    index /= p.channels;
    at->j = static_cast<int>(index % p.width);
    index /= p.width;
    at->i = static_cast<int>(index % p.height);
    at->n = static_cast<int>(index / p.height);
    return at->n < p.images;
}

static __device__ __forceinline__ void put(const cu_image &p, const pixel &at, float v)
{
    cu_store(p.y,
             at.n * p.y_stride[0] + at.c * p.y_stride[1] + at.i * p.y_stride[2] +
                 at.j * p.y_stride[3],
             p.y_type, v);
}

static __global__ void pool_max(const __grid_constant__ cu_image p)
{
    pixel at;
    if (!find(p, &at))
        return;
    const int64_t first = at.n * p.x_stride[0] + at.c * p.x_stride[1];
    float m = -INFINITY;
    for (int a = 0; a < p.kernel[0]; a++)
        for (int b = 0; b < p.kernel[1]; b++)
            m = cu_max(m, cu_load(p.x,
                                  first + (at.i * p.stride[0] + a) * p.x_stride[2] +
                                      (at.j * p.stride[1] + b) * p.x_stride[3],
                                  p.x_type));
    put(p, at, m);
}

static __global__ void pool_mean(const __grid_constant__ cu_image p)
{
    pixel at;
    if (!find(p, &at))
        return;
    const int64_t first = at.n * p.x_stride[0] + at.c * p.x_stride[1];
    float sum = 0;
    for (int a = 0; a < p.kernel[0]; a++) {
        float row = 0;
        for (int b = 0; b < p.kernel[1]; b++)
            row += cu_load(p.x,
                           first + (at.i * p.stride[0] + a) * p.x_stride[2] +
                               (at.j * p.stride[1] + b) * p.x_stride[3],
                           p.x_type);
        sum += row;
    }
    put(p, at, sum / static_cast<float>(p.kernel[0] * p.kernel[1]));
}

/* Pixel centres at halves: p = max(0, (i + ½)·from/to − ½), in integers as far as they go. */
static __device__ __forceinline__ float place(int i, int from, int to, int *below)
{
    const int64_t twice = static_cast<int64_t>(2 * i + 1) * from - to; /* 2·to·p */
    const int64_t whole = 2 * static_cast<int64_t>(to);
    if (twice <= 0) {
        *below = 0;
        return 0;
    }
    *below = static_cast<int>(twice / whole);
    return static_cast<float>(twice % whole) / static_cast<float>(whole);
}

static __global__ void resize(const __grid_constant__ cu_image p)
{
    pixel at;
    if (!find(p, &at))
        return;
    int a, b;
    const float u = place(at.i, p.in_height, p.height, &a);
    const float v = place(at.j, p.in_width, p.width, &b);
    const int64_t first = at.n * p.x_stride[0] + at.c * p.x_stride[1];
    const int64_t a0 = first + a * p.x_stride[2];
    const int64_t a1 = first + min(a + 1, p.in_height - 1) * p.x_stride[2];
    const int64_t b0 = b * p.x_stride[3], b1 = min(b + 1, p.in_width - 1) * p.x_stride[3];
    const auto x = [&](int64_t i) { return cu_load(p.x, i, p.x_type); };
    const float top = fmaf(v, x(a0 + b1), (1 - v) * x(a0 + b0));
    const float bottom = fmaf(v, x(a1 + b1), (1 - v) * x(a1 + b0));
    put(p, at, fmaf(u, bottom, (1 - u) * top));
}

/* A row of NaN for an id outside the table: the device cannot tell otherwise. */
static __global__ void embedding(const __grid_constant__ cu_embedding p)
{
    const int64_t index = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int64_t i = index / p.width;
    const int k = static_cast<int>(index - i * p.width);
    if (i >= p.n_ids)
        return;
    const int id = p.ids[i];
    cu_store(p.y, index, p.y_type,
             id >= 0 && id < p.rows
                 ? cu_load(p.table, id * p.table_stride[0] + k * p.table_stride[1], p.table_type)
                 : NAN);
}

static cudaError_t run(cudaStream_t stream, const void *arguments, void (*kernel)(cu_image))
{
    const cu_image &p = *static_cast<const cu_image *>(arguments);
    const int64_t n = static_cast<int64_t>(p.images) * p.channels * p.height * p.width;
    return launch(kernel, dim3(blocks_for(n, THREADS)), dim3(THREADS), 0, stream, p);
}

extern "C" cudaError_t cu_run_pool_max(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, pool_max);
}

extern "C" cudaError_t cu_run_pool_mean(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, pool_mean);
}

extern "C" cudaError_t cu_run_resize(cudaStream_t stream, const void *arguments)
{
    return run(stream, arguments, resize);
}

extern "C" cudaError_t cu_run_embedding(cudaStream_t stream, const void *arguments)
{
    const cu_embedding &p = *static_cast<const cu_embedding *>(arguments);
    const int64_t n = static_cast<int64_t>(p.n_ids) * p.width;
    return launch(embedding, dim3(blocks_for(n, THREADS)), dim3(THREADS), 0, stream, p);
}

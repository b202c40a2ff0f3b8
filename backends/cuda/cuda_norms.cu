/* Group and layer normalisation with the chain behind it: one block finds mean and variance of one
 * group and writes its result. A group that fits is kept in shared memory, so that x is read once.
 *
 * Values are taken relative to the first one, so that a large mean costs no digits, and the
 * variance is that of the differences to the mean: never E[x²] − E[x]². */
#include "cuda_block.cuh"
#include "cuda_code.cuh"
#include "cuda_launch.cuh"

enum {
    THREADS = 256,
    KEPT = 40 * 1024, /* bytes of a group that stays in shared memory, as they are */
    BLOCK = 16,       /* terms of one chain of additions */
};

/* EACH neighbouring channels at a time: 4 where addresses fit, or 1. */
template <int EACH> struct group {
    const cu_norm &p;
    int64_t x_at, y_at; /* of the group's first element */
    int spans;          /* of EACH channels in a pixel's part */
    void *kept;         /* in x's type; NULL: x is read again */

    __device__ __forceinline__ void load(int i, float (&v)[EACH]) const
    {
        const int pixel = i / spans, c = (i - pixel * spans) * EACH;
        const int64_t at = x_at + pixel * p.x_stride[1] + c;
        if (EACH == 4)
            cu_load4(p.x, at, p.x_type, v);
        else
            v[0] = cu_load(p.x, at, p.x_type);
    }

    /* What `load` gave before. */
    __device__ __forceinline__ void again(int i, float (&v)[EACH]) const
    {
        if (!kept) {
            load(i, v);
            return;
        }
        if (EACH == 4)
            cu_load4(kept, i * EACH, p.x_type, v);
        else
            v[0] = cu_load(kept, i, p.x_type);
    }

    __device__ __forceinline__ void keep(int i, const float (&v)[EACH]) const
    {
        if (EACH == 4)
            cu_store4(kept, i * EACH, p.x_type, v);
        else
            cu_store(kept, i, p.x_type, v[0]);
    }
};

template <int EACH>
static __device__ __forceinline__ float sum_of(const group<EACH> &g, int n, float first,
                                               bool squares)
{
    float sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < n;) {
        float block = 0;
        for (int j = 0; j < BLOCK && i < n; j++, i += THREADS) {
            float v[EACH];
            if (squares)
                g.again(i, v);
            else
                g.load(i, v);
#pragma unroll
            for (int c = 0; c < EACH; c++) {
                const float d = v[c] - first;
                block = squares ? fmaf(d, d, block) : block + d;
            }
            if (!squares && g.kept)
                g.keep(i, v);
        }
        sum += block;
    }
    return sum;
}

static __host__ __device__ __forceinline__ int64_t bytes_of_group(const cu_norm &p)
{
    const int64_t size = p.x_type == CU_F16 || p.x_type == CU_BF16 ? 2 : 4;
    return static_cast<int64_t>(p.members) * p.pixels * size;
}

template <int EACH>
static __global__ __launch_bounds__(THREADS) void norm(const __grid_constant__ cu_norm p)
{
    CU_SHARED(unsigned char, kept);
    __shared__ float shared[32];
    const int groups = p.channels / p.members, row = static_cast<int>(blockIdx.x) / groups;
    const int channel0 = (static_cast<int>(blockIdx.x) - row * groups) * p.members;
    const int n = p.members / EACH * p.pixels, image = row / p.rows_per_image;
    const float total = static_cast<float>(p.members) * static_cast<float>(p.pixels);
    const group<EACH> g = {p, row * p.x_stride[0] + channel0, row * p.y_stride[0] + channel0,
                           p.members / EACH, bytes_of_group(p) <= KEPT ? kept : nullptr};
    const float first = cu_load(p.x, g.x_at, p.x_type);
    const float mean = first + cu_block_reduce(true, sum_of(g, n, first, false), shared) / total;
    /* Every thread reads back what it has kept itself. */
    const float squares = cu_block_reduce(true, sum_of(g, n, mean, true), shared);
    const float scale = 1.0f / sqrtf(squares / total + p.eps);
    for (int i = static_cast<int>(threadIdx.x); i < n; i += THREADS) {
        const int pixel = i / g.spans, c0 = (i - pixel * g.spans) * EACH;
        float v[EACH];
        g.again(i, v);
#pragma unroll
        for (int c = 0; c < EACH; c++)
            v[c] = (v[c] - mean) * scale;
        cu_run_code(p.code, v, [&](int k, float(&out)[EACH]) {
            const cu_norm_operand &o = p.operand[k];
            const int64_t at = image * o.stride[0] + (channel0 + c0) * o.stride[1];
#pragma unroll
            for (int c = 0; c < EACH; c++)
                out[c] = cu_load(o.at, at + c * o.stride[1], o.type);
        });
        const int64_t at = g.y_at + pixel * p.y_stride[1] + c0;
        if (EACH == 4) {
            cu_store4(p.y, at, p.y_type, v);
        } else {
            cu_store(p.y, at, p.y_type, v[0]);
        }
    }
}

static bool fours(const void *at, int type, const int64_t *stride)
{
    const uintptr_t size = type == CU_F16 || type == CU_BF16 ? 2 : 4;
    return reinterpret_cast<uintptr_t>(at) % (4 * size) == 0 && stride[0] % 4 == 0 &&
           stride[1] % 4 == 0;
}

extern "C" cudaError_t cu_run_norm(cudaStream_t stream, const void *arguments)
{
    const cu_norm &p = *static_cast<const cu_norm *>(arguments);
    const dim3 grid(static_cast<unsigned>(p.rows) * static_cast<unsigned>(p.channels / p.members));
    const size_t bytes = bytes_of_group(p) <= KEPT ? static_cast<size_t>(bytes_of_group(p)) : 0;
    if (p.members % 4 == 0 && fours(p.x, p.x_type, p.x_stride) && fours(p.y, p.y_type, p.y_stride))
        return launch(norm<4>, grid, dim3(THREADS), bytes, stream, p);
    return launch(norm<1>, grid, dim3(THREADS), bytes, stream, p);
}

/* Elementwise chains over strided views, and what the host hands over: scalars, times. Copies,
 * casts, padding, nearest upsampling, concatenation and the packing of weights are such loops too.
 */
#include "cuda_code.cuh"
#include "cuda_launch.cuh"

enum { THREADS = 256, EACH = 4 };

/* Whether four elements are one load: neighbours, at an address that fits. */
static __device__ __forceinline__ bool joined(const void *at, int64_t first, int64_t step, int type)
{
    const uintptr_t size = type == CU_F16 || type == CU_BF16 ? 2 : 4;
    return step == 1 && (reinterpret_cast<uintptr_t>(at) + first * size) % (EACH * size) == 0;
}

static __global__ __launch_bounds__(THREADS) void map(const __grid_constant__ cu_map m)
{
    const int inner = m.n_axes - 1, width = m.size[inner];
    const int spans = (width + EACH - 1) / EACH;
    int64_t rows = 1;
    for (int d = 0; d < inner; d++)
        rows *= m.size[d];
    const int64_t index = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (index >= rows * spans)
        return;
    const unsigned row0 = static_cast<unsigned>(index / spans);
    const int x = static_cast<int>(index - static_cast<int64_t>(row0) * spans) * EACH;
    const int there = min(static_cast<int>(EACH), width - x);

    const auto first_of = [&](const int64_t *stride) {
        unsigned row = row0;
        int64_t at = x * stride[inner];
#pragma unroll 1
        for (int d = inner - 1; d >= 0; d--) {
            const unsigned size = static_cast<unsigned>(m.size[d]), place = row % size;
            at += place * stride[d];
            row /= size;
        }
        return at;
    };

    float a[EACH] = {0, 0, 0, 0};
    cu_run_code(m.code, a, [&](int k, float(&v)[EACH]) {
        const cu_map_operand &o = m.operand[k];
        const int64_t first = first_of(o.stride), step = o.stride[inner];
        if (step == 0) {
            const float same = cu_load(o.at, first, o.type);
            v[0] = v[1] = v[2] = v[3] = same;
        } else if (there == EACH && joined(o.at, first, step, o.type)) {
            cu_load4(o.at, first, o.type, v);
        } else {
#pragma unroll
            for (int i = 0; i < EACH; i++)
                v[i] = i < there ? cu_load(o.at, first + i * step, o.type) : 0.0f;
        }
    });
    const int64_t first = first_of(m.y_stride), step = m.y_stride[inner];
    if (there == EACH && joined(m.y, first, step, m.y_type)) {
        cu_store4(m.y, first, m.y_type, a);
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (i < there)
            cu_store(m.y, first + i * step, m.y_type, a[i]);
}

extern "C" cudaError_t cu_run_map(cudaStream_t stream, const void *arguments)
{
    const cu_map &m = *static_cast<const cu_map *>(arguments);
    int64_t n = (m.size[m.n_axes - 1] + EACH - 1) / EACH;
    for (int d = 0; d < m.n_axes - 1; d++)
        n *= m.size[d];
    return launch(map, dim3(blocks_for(n, THREADS)), dim3(THREADS), 0, stream, m);
}

/* --- a few words from the host --- */

static __global__ __launch_bounds__(THREADS) void set_words(const __grid_constant__ cu_words w)
{
    for (int i = static_cast<int>(threadIdx.x); i < w.n; i += THREADS)
        w.to[i] = w.value[i];
}

/* A launch copies its arguments, so that nothing of the caller's needs to live on, and nothing
 * needs to be waited for; nor does the stream change between kernels and copies. */
extern "C" cudaError_t cu_run_words(cudaStream_t stream, const void *arguments)
{
    const cu_words &w = *static_cast<const cu_words *>(arguments);
    return launch(set_words, dim3(1), dim3(THREADS), 0, stream, w);
}

/* What product kernels on tiles share: which results a block and its warps compute, how factors
 * come to shared memory, and how sums leave it.
 *
 * A block computes ROWS x COLUMNS results, each of its warps WARP_ROWS x WARP_COLUMNS. A step takes
 * 64 bytes of channels of one tap: a's rows and b's panel of the step go to shared memory by
 * asynchronous copies, STAGES - 1 steps ahead of the one that is multiplied. Chunks of 16 bytes are
 * permuted within a row (`chunk_of_a`, `chunk_of_b`), so that neither copies nor fragments meet in
 * a bank. The sums then go through shared memory once, so that a row's results are finished and
 * stored by neighbouring threads, four columns each, and the code of the fused chain stands in the
 * kernel once.
 *
 * Where GROUPS > 1, as many groups of warps compute the same tile, each every GROUPS-th step, and
 * their sums are added in the end, in one order: for long sums of few results. */
#ifndef CUDA_TILES_CUH
#define CUDA_TILES_CUH

#include "cuda_mma.cuh"
#include "cuda_product.cuh"

namespace
{

enum number { F16, BF16, TF32, F32 };
enum { STEP_BYTES = 64, CHUNK = 16, MAX_Z = 65535 };

template <number TYPE, int ROWS_, int COLUMNS_, int WARP_ROWS_, int WARP_COLUMNS_, int STAGES_ = 3,
          int GROUPS_ = 1>
struct tile {
    static constexpr number type = TYPE;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_, GROUPS = GROUPS_;
    static constexpr int WARP_ROWS = WARP_ROWS_, WARP_COLUMNS = WARP_COLUMNS_;
    static constexpr int WARPS_ACROSS = COLUMNS / WARP_COLUMNS;
    static constexpr int WARPS = ROWS / WARP_ROWS * WARPS_ACROSS; /* of a group */
    static constexpr int THREADS = CU_WARP * WARPS;               /* of a group */
    static constexpr int BLOCK = THREADS * GROUPS;                /* threads */
    static constexpr int BLOCKS = BLOCK == 256 ? 2 : 3; /* on a multiprocessor, at least */
    static constexpr int SIZE = TYPE == TF32 || TYPE == F32 ? 4 : 2; /* of an element */
    static constexpr int STEP = STEP_BYTES / SIZE;                   /* channels */
    static constexpr int A_BYTES = ROWS * STEP_BYTES, B_BYTES = COLUMNS * STEP_BYTES;
    static constexpr int STAGE = A_BYTES + B_BYTES; /* of a group */
    static constexpr int A_LOADS = A_BYTES / CHUNK / THREADS, B_LOADS = B_BYTES / CHUNK / THREADS;
    static constexpr int B_CHUNKS = COLUMNS * SIZE / CHUNK; /* of one channel */
    static constexpr int FRAGMENTS_DOWN = WARP_ROWS / 16, FRAGMENTS_ACROSS = WARP_COLUMNS / 8;
    /* Sums leave a warp 32 rows at a time. */
    static constexpr int OUT_ROWS = 32, OUT_WIDTH = WARP_COLUMNS + 8, OUT = OUT_ROWS * OUT_WIDTH;
    static constexpr int IN_BYTES = STAGES * STAGE * GROUPS, OUT_BYTES = OUT * 4 * WARPS * GROUPS;
    static constexpr int SHARED = IN_BYTES > OUT_BYTES ? IN_BYTES : OUT_BYTES;
    static_assert(A_LOADS * THREADS * CHUNK == A_BYTES && B_LOADS * THREADS * CHUNK == B_BYTES &&
                      WARP_ROWS % OUT_ROWS == 0 && WARP_COLUMNS % 16 == 0 && SHARED <= 48 * 1024,
                  "threads share the copies evenly, and no device lacks the memory");
};

/* --- copies --- */

/* Byte of a chunk within a stage's a: rows of 64 bytes, two of which span all banks. */
static __device__ __forceinline__ int chunk_of_a(int row, int chunk)
{
    return row * STEP_BYTES + (chunk ^ (row >> 1 & 3)) * CHUNK;
}

/* Within a stage's b: rows of B_CHUNKS chunks, one for each channel. tf32 reads single numbers of
 * four channels side by side, f16 and bf16 eight channels of one chunk, f32 a row's chunks. */
template <class T> static __device__ __forceinline__ int chunk_of_b(int k, int chunk)
{
    const int mixed = T::SIZE == 4       ? chunk ^ (k & 3) << 1
                      : T::B_CHUNKS >= 8 ? chunk ^ (k & 7)
                                         : chunk ^ (k >> 1 & 3);
    return (k * T::B_CHUNKS + mixed) * CHUNK;
}

/* What a thread copies for each step: one chunk of A_LOADS rows of a, and B_LOADS chunks of b. */
template <class T> struct copier {
    const cu_product &p;
    const char *a, *b;          /* of this z */
    int thread, k0, tap;        /* of the group; which channels come next */
    cu_place from[T::A_LOADS];  /* of the rows, in a, without the tap */
    int64_t source[T::A_LOADS]; /* of the tap's place; −1: outside */

    __device__ __forceinline__ copier(const cu_product &product, int z)
        : p(product), thread(static_cast<int>(threadIdx.x) % T::THREADS), k0(0), tap(0)
    {
        const int z0 = z / p.z_inner, z1 = z - z0 * p.z_inner;
        a = static_cast<const char *>(p.a) + (z0 * p.a_z[0] + z1 * p.a_z[1]) * T::SIZE;
        b = static_cast<const char *>(p.b) + (z0 * p.b_z[0] + z1 * p.b_z[1]) * T::SIZE;
#pragma unroll
        for (int i = 0; i < T::A_LOADS; i++) {
            const int row = static_cast<int>(blockIdx.x) * T::ROWS + row_of(i);
            const cu_place at = cu_place_of(p, min(row, p.rows - 1));
            const int nowhere = -(1 << 30);
            from[i] = {at.n, row < p.rows ? at.i * p.stride[0] : nowhere, at.j * p.stride[1]};
        }
        find_sources();
        skip(static_cast<int>(threadIdx.x) / T::THREADS);
    }

    __device__ __forceinline__ int row_of(int i) const
    {
        return thread / 4 + i * (T::THREADS / 4);
    }

    __device__ __forceinline__ void find_sources()
    {
        const int dy = p.taps[2 * tap], dx = p.taps[2 * tap + 1];
#pragma unroll
        for (int i = 0; i < T::A_LOADS; i++) {
            const int h = from[i].i + dy, w = from[i].j + dx;
            const bool inside = h >= 0 && h < p.in_height && w >= 0 && w < p.in_width;
            source[i] =
                inside ? from[i].n * p.a_stride[0] + h * p.a_stride[1] + w * p.a_stride[2] : -1;
        }
    }

    __device__ __forceinline__ void skip(int steps)
    {
        const int before = tap;
        for (int i = 0; i < steps; i++) {
            k0 += T::STEP;
            if (k0 >= p.depth) {
                k0 = 0;
                tap++;
            }
        }
        if (tap != before && tap < p.n_taps)
            find_sources();
    }

    /* Begins the copies of the group's next step, if there is one. */
    __device__ __forceinline__ void next(unsigned char *stage)
    {
        if (tap < p.n_taps) {
            copy_a(stage);
            copy_b(stage + T::A_BYTES);
            skip(T::GROUPS);
        }
        cu_commit_copies();
    }

    __device__ __forceinline__ void copy_a(unsigned char *to)
    {
        const int chunk = thread % 4, k = k0 + chunk * (CHUNK / T::SIZE);
#pragma unroll
        for (int i = 0; i < T::A_LOADS; i++) {
            const bool there = source[i] >= 0 && k < p.depth;
            cu_copy_async(to + chunk_of_a(row_of(i), chunk),
                          there ? a + (source[i] + k) * T::SIZE : a, there ? CHUNK : 0);
        }
    }

    __device__ __forceinline__ void copy_b(unsigned char *to)
    {
#pragma unroll
        for (int i = 0; i < T::B_LOADS; i++) {
            const int item = thread + i * T::THREADS;
            const int k = item / T::B_CHUNKS, c = item % T::B_CHUNKS;
            const int o = static_cast<int>(blockIdx.y) * T::COLUMNS + c * (CHUNK / T::SIZE);
            const int bytes = k0 + k < p.depth
                                  ? max(0, min(static_cast<int>(CHUNK), (p.columns - o) * T::SIZE))
                                  : 0;
            const int64_t row = static_cast<int64_t>(tap) * p.depth + k0 + k;
            cu_copy_async(to + chunk_of_b<T>(k, c), bytes ? b + (row * p.b_row + o) * T::SIZE : b,
                          bytes);
        }
    }
};

/* --- the kernel --- */

/* Finishes and stores the warp's sums from `row` and `column` on; put(part, to) writes 32·part to
 * 32·part + 31 of its rows to shared memory, OUT_WIDTH apart. */
template <class T, class Put>
static __device__ __forceinline__ void finish(const cu_product &p, float *out, int row, int column,
                                              int z, const Put &put)
{
    const int thread = static_cast<int>(threadIdx.x), lane = thread % CU_WARP;
    const int group = thread / T::THREADS, warp = thread % T::THREADS / CU_WARP;
#pragma unroll 1
    for (int part = 0; part < T::WARP_ROWS / T::OUT_ROWS; part++) {
        put(part, out + (group * T::WARPS + warp) * T::OUT);
        if (T::GROUPS > 1)
            __syncthreads();
        else
            __syncwarp();
#pragma unroll 1
        for (int i = group * CU_WARP + lane; i < T::OUT_ROWS * T::WARP_COLUMNS / 4;
             i += T::GROUPS * CU_WARP) {
            const int r = i / (T::WARP_COLUMNS / 4), c = i % (T::WARP_COLUMNS / 4) * 4;
            const int at = row + part * T::OUT_ROWS + r, o = column + c;
            float x[4] = {};
#pragma unroll
            for (int g = 0; g < T::GROUPS; g++) {
                const float4 v = *reinterpret_cast<const float4 *>(
                    out + (g * T::WARPS + warp) * T::OUT + r * T::OUT_WIDTH + c);
                x[0] += v.x;
                x[1] += v.y;
                x[2] += v.z;
                x[3] += v.w;
            }
            if (at < p.rows && o < p.columns)
                cu_finish(p, z, cu_place_of(p, at), o, x);
        }
        if (T::GROUPS > 1)
            __syncthreads();
        else
            __syncwarp();
    }
}

/* The whole of a block: `sums` has multiply(stage, row, column) for one step of the warp's rows and
 * columns in the tile, and put for `finish`. */
template <class T, class Sums>
static __device__ __forceinline__ void compute_tile(const cu_product &p, unsigned char *shared)
{
    const int thread = static_cast<int>(threadIdx.x);
    const int group = thread / T::THREADS, warp = thread % T::THREADS / CU_WARP;
    const int row = warp / T::WARPS_ACROSS * T::WARP_ROWS;
    const int column = warp % T::WARPS_ACROSS * T::WARP_COLUMNS;
    const int z = p.z_first + static_cast<int>(blockIdx.z);
    const int n_steps = (p.depth + T::STEP - 1) / T::STEP * p.n_taps;
    Sums s(p);
    copier<T> copies(p, z);
    const auto stage = [&](int i) {
        return shared + (i % T::STAGES * T::GROUPS + group) * T::STAGE;
    };
#pragma unroll
    for (int i = 0; i < T::STAGES - 1; i++)
        copies.next(stage(i));
#pragma unroll 1
    for (int i = 0; i * T::GROUPS < n_steps; i++) {
        cu_wait_copies<T::STAGES - 2>();
        __syncthreads(); /* all copies are there, and nobody reads the stage that is next to fill */
        copies.next(stage(i + T::STAGES - 1));
        if (T::GROUPS == 1 || i * T::GROUPS + group < n_steps)
            s.multiply(stage(i), row, column);
    }
    cu_wait_copies<0>();
    __syncthreads();
    finish<T>(p, reinterpret_cast<float *>(shared), static_cast<int>(blockIdx.x) * T::ROWS + row,
              static_cast<int>(blockIdx.y) * T::COLUMNS + column, z,
              [&](int part, float *to) { s.put(part, to); });
}

/* --- launches --- */

/* Whether chunks of 16 bytes are what a's channels and b's columns consist of. */
template <class T> static bool aligned(const cu_product &p)
{
    const int64_t each = CHUNK / T::SIZE;
    const int64_t strides[] = {p.depth,  p.a_stride[0], p.a_stride[1], p.a_stride[2], p.b_row,
                               p.a_z[0], p.a_z[1],      p.b_z[0],      p.b_z[1]};
    bool whole = reinterpret_cast<uintptr_t>(p.a) % CHUNK == 0 &&
                 reinterpret_cast<uintptr_t>(p.b) % CHUNK == 0;
    for (int64_t stride : strides)
        whole = whole && stride % each == 0;
    return whole;
}

template <class T>
static cudaError_t run_tiles(void (*kernel)(cu_product), cudaStream_t stream, const void *product)
{
    cu_product p = *static_cast<const cu_product *>(product);
    cudaError_t error = cudaSuccess;
    for (p.z_first = 0; p.z_first < p.z && error == cudaSuccess; p.z_first += MAX_Z) {
        const dim3 grid(blocks_for(p.rows, T::ROWS), blocks_for(p.columns, T::COLUMNS),
                        static_cast<unsigned>(min(p.z - p.z_first, static_cast<int>(MAX_Z))));
        error = launch(kernel, grid, dim3(T::BLOCK), T::SHARED, stream, p);
    }
    return error;
}

} // namespace

#endif

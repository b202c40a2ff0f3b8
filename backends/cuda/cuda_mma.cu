/* Products on tensor cores: convolutions as they are (implicit GEMM) and matrix products, of f16,
 * bf16 and tf32 with float32 sums.
 *
 * A block computes ROWS x COLUMNS results, each of its warps WARP_ROWS x WARP_COLUMNS. A step takes
 * 64 bytes of channels of one tap: a's rows and b's panel of the step go to shared memory by
 * asynchronous copies, STAGES - 1 steps ahead of the one that is multiplied. Chunks of 16 bytes are
 * permuted within a row (`chunk_of_a`, `chunk_of_b`), so that neither copies nor fragments meet in
 * a bank. The sums then go through shared memory once, so that a row's results are finished and
 * stored by neighbouring threads, four columns each, and the code of the fused chain stands in the
 * kernel once.
 *
 * Every result is one chain of products in the order of taps and channels, whatever the tile: the
 * kernels here of one type all give the same bits. */
#include "cuda_mma.cuh"
#include "cuda_product.cuh"
#include "cuda_product_kernels.h"

namespace
{

enum number { F16, BF16, TF32 };
enum { STEP_BYTES = 64, CHUNK = 16, ENOUGH_TILES = 32, MAX_Z = 65535 };

template <number TYPE, int ROWS_, int COLUMNS_, int WARP_ROWS_, int WARP_COLUMNS_, int STAGES_>
struct tile {
    static constexpr number type = TYPE;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_;
    static constexpr int WARP_ROWS = WARP_ROWS_, WARP_COLUMNS = WARP_COLUMNS_;
    static constexpr int WARPS_DOWN = ROWS / WARP_ROWS, WARPS_ACROSS = COLUMNS / WARP_COLUMNS;
    static constexpr int THREADS = CU_WARP * WARPS_DOWN * WARPS_ACROSS;
    static constexpr int BLOCKS = THREADS == 256 ? 2 : 3; /* on a multiprocessor, at least */
    static constexpr int SIZE = TYPE == TF32 ? 4 : 2;     /* of an element */
    static constexpr int STEP = STEP_BYTES / SIZE;        /* channels */
    static constexpr int A_BYTES = ROWS * STEP_BYTES, B_BYTES = COLUMNS * STEP_BYTES;
    static constexpr int STAGE = A_BYTES + B_BYTES;
    static constexpr int A_LOADS = A_BYTES / CHUNK / THREADS, B_LOADS = B_BYTES / CHUNK / THREADS;
    static constexpr int B_CHUNKS = COLUMNS * SIZE / CHUNK; /* of one channel */
    static constexpr int FRAGMENTS_DOWN = WARP_ROWS / 16, FRAGMENTS_ACROSS = WARP_COLUMNS / 8;
    /* Sums leave a warp 32 rows at a time. */
    static constexpr int OUT_ROWS = 32, OUT_WIDTH = WARP_COLUMNS + 8;
    static constexpr int OUT_BYTES = OUT_ROWS * OUT_WIDTH * 4 * WARPS_DOWN * WARPS_ACROSS;
    static constexpr int SHARED = STAGES * STAGE > OUT_BYTES ? STAGES *STAGE : OUT_BYTES;
    static_assert(A_LOADS * THREADS * CHUNK == A_BYTES && B_LOADS * THREADS * CHUNK == B_BYTES &&
                      THREADS % 4 == 0 && WARP_ROWS % OUT_ROWS == 0 && WARP_COLUMNS % 16 == 0,
                  "threads share the copies evenly");
};

/* --- copies --- */

/* Byte of a chunk within a stage's a: rows of 64 bytes, two of which span all banks. */
static __device__ __forceinline__ int chunk_of_a(int row, int chunk)
{
    return row * STEP_BYTES + (chunk ^ (row >> 1 & 3)) * CHUNK;
}

/* Within a stage's b: rows of B_CHUNKS chunks, one for each channel. tf32 reads single numbers of
 * four channels side by side, the others eight channels of one chunk. */
template <class T> static __device__ __forceinline__ int chunk_of_b(int k, int chunk)
{
    const int mixed = T::type == TF32    ? chunk ^ (k & 3) << 1
                      : T::B_CHUNKS >= 8 ? chunk ^ (k & 7)
                                         : chunk ^ (k >> 1 & 3);
    return (k * T::B_CHUNKS + mixed) * CHUNK;
}

/* What a thread copies for each step: one chunk of A_LOADS rows of a, and B_LOADS chunks of b. */
template <class T> struct copier {
    const cu_product &p;
    const char *a, *b;          /* of this z */
    int chunk, k0, tap;         /* which channels come next */
    cu_place from[T::A_LOADS];  /* of the rows, in a, without the tap */
    int64_t source[T::A_LOADS]; /* of the tap's place; −1: outside */

    __device__ __forceinline__ copier(const cu_product &product, int z)
        : p(product), chunk(static_cast<int>(threadIdx.x) % 4), k0(0), tap(0)
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
    }

    static __device__ __forceinline__ int row_of(int i)
    {
        return static_cast<int>(threadIdx.x) / 4 + i * (T::THREADS / 4);
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

    /* Begins the copies of the next step, if there is one. */
    __device__ __forceinline__ void next(unsigned char *stage)
    {
        if (tap < p.n_taps) {
            copy_a(stage);
            copy_b(stage + T::A_BYTES);
            k0 += T::STEP;
            if (k0 >= p.depth) {
                k0 = 0;
                if (++tap < p.n_taps)
                    find_sources();
            }
        }
        cu_commit_copies();
    }

    __device__ __forceinline__ void copy_a(unsigned char *to)
    {
        const int k = k0 + chunk * (CHUNK / T::SIZE);
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
            const int item = static_cast<int>(threadIdx.x) + i * T::THREADS;
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

/* --- multiplication --- */

template <class T> struct sums {
    float at[T::FRAGMENTS_DOWN][T::FRAGMENTS_ACROSS][4];
};

template <class T>
static __device__ __forceinline__ void load_a(uint32_t (&a)[T::FRAGMENTS_DOWN][4],
                                              const unsigned char *stage, int row, int half)
{
    const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
#pragma unroll
    for (int i = 0; i < T::FRAGMENTS_DOWN; i++) {
        cu_load_matrices(a[i], stage + chunk_of_a(row + 16 * i + lane % 16, 2 * half + lane / 16));
#pragma unroll
        for (int e = 0; T::type == TF32 && e < 4; e++)
            a[i][e] = cu_to_tf32(a[i][e]);
    }
}

template <class T>
static __device__ __forceinline__ void load_b(uint32_t (&b)[T::FRAGMENTS_ACROSS][2],
                                              const unsigned char *stage, int column, int half)
{
    const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
    if constexpr (T::type == TF32) {
#pragma unroll
        for (int j = 0; j < T::FRAGMENTS_ACROSS; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int k = 8 * half + 4 * e + lane % 4, o = column + 8 * j + lane / 4;
                b[j][e] = cu_to_tf32(*reinterpret_cast<const uint32_t *>(
                    stage + chunk_of_b<T>(k, o / 4) + o % 4 * 4));
            }
    } else {
#pragma unroll
        for (int j = 0; j < T::FRAGMENTS_ACROSS; j += 2)
            cu_load_matrices_transposed(
                b[j], stage + chunk_of_b<T>(16 * half + lane % 16, column / 8 + j + lane / 16));
    }
}

/* One step: both halves of its 64 bytes. */
template <class T>
static __device__ __forceinline__ void multiply(sums<T> &s, const unsigned char *stage, int row,
                                                int column)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t a[T::FRAGMENTS_DOWN][4], b[T::FRAGMENTS_ACROSS][2];
        load_a<T>(a, stage, row, half);
        load_b<T>(b, stage + T::A_BYTES, column, half);
#pragma unroll
        for (int i = 0; i < T::FRAGMENTS_DOWN; i++)
#pragma unroll
            for (int j = 0; j < T::FRAGMENTS_ACROSS; j++)
                if constexpr (T::type == F16)
                    cu_mma_f16(s.at[i][j], a[i], b[j]);
                else if constexpr (T::type == BF16)
                    cu_mma_bf16(s.at[i][j], a[i], b[j]);
                else
                    cu_mma_tf32(s.at[i][j], a[i], b[j]);
    }
}

/* --- results --- */

/* Rows 32·part to 32·part + 31 of the warp's sums, to shared memory. */
template <class T>
static __device__ __forceinline__ void put_sums(float *out, const sums<T> &s, int part)
{
    const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
#pragma unroll
    for (int i = 0; i < T::FRAGMENTS_DOWN; i++)
        if (i / 2 == part)
#pragma unroll
            for (int j = 0; j < T::FRAGMENTS_ACROSS; j++) {
                float *to = out + (16 * (i % 2) + lane / 4) * T::OUT_WIDTH + 8 * j + 2 * (lane % 4);
                *reinterpret_cast<float2 *>(to) = make_float2(s.at[i][j][0], s.at[i][j][1]);
                *reinterpret_cast<float2 *>(to + 8 * T::OUT_WIDTH) =
                    make_float2(s.at[i][j][2], s.at[i][j][3]);
            }
}

template <class T>
static __device__ __forceinline__ void finish(const cu_product &p, const sums<T> &s, float *out,
                                              int row, int column, int z)
{
    const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
#pragma unroll 1
    for (int part = 0; part < T::WARP_ROWS / T::OUT_ROWS; part++) {
        put_sums<T>(out, s, part);
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < T::OUT_ROWS * T::WARP_COLUMNS / 4; i += CU_WARP) {
            const int r = i / (T::WARP_COLUMNS / 4), c = i % (T::WARP_COLUMNS / 4) * 4;
            const int at = row + part * T::OUT_ROWS + r, o = column + c;
            const float4 v = *reinterpret_cast<const float4 *>(out + r * T::OUT_WIDTH + c);
            float x[4] = {v.x, v.y, v.z, v.w};
            if (at < p.rows && o < p.columns)
                cu_finish(p, z, cu_place_of(p, at), o, x);
        }
        __syncwarp();
    }
}

template <class T>
static __global__
__launch_bounds__(T::THREADS, T::BLOCKS) void product_mma(const __grid_constant__ cu_product p)
{
    CU_SHARED(unsigned char, shared);
    const int warp = static_cast<int>(threadIdx.x) / CU_WARP;
    const int z = p.z_first + static_cast<int>(blockIdx.z);
    const int row = warp / T::WARPS_ACROSS * T::WARP_ROWS;
    const int column = warp % T::WARPS_ACROSS * T::WARP_COLUMNS;
    const int n_steps = (p.depth + T::STEP - 1) / T::STEP * p.n_taps;
    sums<T> s = {};
    copier<T> copies(p, z);
#pragma unroll
    for (int i = 0; i < T::STAGES - 1; i++)
        copies.next(shared + i * T::STAGE);
#pragma unroll 1
    for (int step = 0; step < n_steps; step++) {
        cu_wait_copies<T::STAGES - 2>();
        __syncthreads(); /* everybody's copies are there, and nobody reads the stage before this */
        copies.next(shared + (step + T::STAGES - 1) % T::STAGES * T::STAGE);
        multiply<T>(s, shared + step % T::STAGES * T::STAGE, row, column);
    }
    cu_wait_copies<0>();
    __syncthreads();
    finish<T>(p, s, reinterpret_cast<float *>(shared) + warp * T::OUT_ROWS * T::OUT_WIDTH,
              static_cast<int>(blockIdx.x) * T::ROWS + row,
              static_cast<int>(blockIdx.y) * T::COLUMNS + column, z);
}

/* --- launches --- */

/* Whether chunks of 16 bytes are what a's channels and b's columns consist of. */
template <number TYPE> static bool aligned(const cu_product &p)
{
    const int64_t each = TYPE == TF32 ? 4 : 8;
    const int64_t strides[] = {p.depth,  p.a_stride[0], p.a_stride[1], p.a_stride[2], p.b_row,
                               p.a_z[0], p.a_z[1],      p.b_z[0],      p.b_z[1]};
    bool whole = reinterpret_cast<uintptr_t>(p.a) % CHUNK == 0 &&
                 reinterpret_cast<uintptr_t>(p.b) % CHUNK == 0;
    for (int64_t stride : strides)
        whole = whole && stride % each == 0;
    return whole;
}

template <class T> static bool fits(const cu_product *p, int capability)
{
    const int32_t type = T::type == F16 ? CU_F16 : T::type == BF16 ? CU_BF16 : CU_F32;
    return capability >= (T::type == F16 ? 75 : 80) && p->a_type == type && p->b_type == type &&
           (T::type != TF32 || p->tf32) && aligned<T::type>(*p);
}

/* Wide tiles are for products of enough of them; rows are those of the largest batch. */
template <class T> static bool worthwhile(const cu_product *p, int capability)
{
    const int64_t rows = static_cast<int64_t>(p->rows) * p->z;
    return fits<T>(p, capability) && p->columns > T::COLUMNS / 2 &&
           rows * p->columns >= static_cast<int64_t>(ENOUGH_TILES) * T::ROWS * T::COLUMNS;
}

template <class T> static cudaError_t run(cudaStream_t stream, const void *product)
{
    cu_product p = *static_cast<const cu_product *>(product);
    cudaError_t error = cudaSuccess;
    for (p.z_first = 0; p.z_first < p.z && error == cudaSuccess; p.z_first += MAX_Z) {
        const dim3 grid(blocks_for(p.rows, T::ROWS), blocks_for(p.columns, T::COLUMNS),
                        static_cast<unsigned>(min(p.z - p.z_first, static_cast<int>(MAX_Z))));
        error = launch(product_mma<T>, grid, dim3(T::THREADS), T::SHARED, stream, p);
    }
    return error;
}

template <number TYPE> using narrow = tile<TYPE, 128, 32, 32, 32, 3>;
template <number TYPE> using square = tile<TYPE, 64, 64, 32, 32, 3>;
/* tf32 needs more registers for the same tile. */
template <number TYPE> using wide = tile<TYPE, 128, TYPE == TF32 ? 64 : 128, 64, 32, 3>;

} // namespace

#define KERNEL(name, tile, fitting)                                                                \
    extern "C" bool cu_fits_product_##name(const cu_product *p, int capability)                    \
    {                                                                                              \
        return fitting<tile>(p, capability);                                                       \
    }                                                                                              \
    extern "C" cudaError_t cu_run_product_##name(cudaStream_t stream, const void *p)               \
    {                                                                                              \
        return run<tile>(stream, p);                                                               \
    }
KERNEL(f16_narrow, narrow<F16>, fits)
KERNEL(f16_square, square<F16>, worthwhile)
KERNEL(f16_wide, wide<F16>, worthwhile)
KERNEL(bf16_narrow, narrow<BF16>, fits)
KERNEL(bf16_square, square<BF16>, worthwhile)
KERNEL(bf16_wide, wide<BF16>, worthwhile)
KERNEL(tf32_narrow, narrow<TF32>, fits)
KERNEL(tf32_square, square<TF32>, worthwhile)
KERNEL(tf32_wide, wide<TF32>, worthwhile)

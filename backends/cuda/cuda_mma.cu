/* Products on tensor cores: convolutions as they are (implicit GEMM) and matrix products, of f16,
 * bf16 and tf32 with float32 sums; cuda_tiles.cuh says how tiles are computed.
 *
 * Every result is one chain of products in the order of taps and channels, whatever the tile: the
 * kernels of one type give the same bits, but for `split`, whose chains are four. */
#include "cuda_product_kernels.h"
#include "cuda_tiles.cuh"

namespace
{

enum { ENOUGH_TILES = 32, FEW_RESULTS = 32768, LONG_SUM = 16 };

template <class T> struct sums {
    float at[T::FRAGMENTS_DOWN][T::FRAGMENTS_ACROSS][4];

    explicit __device__ __forceinline__ sums(const cu_product &) : at{}
    {
    }

    static __device__ __forceinline__ void load_a(uint32_t (&a)[T::FRAGMENTS_DOWN][4],
                                                  const unsigned char *stage, int row, int half)
    {
        const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
#pragma unroll
        for (int i = 0; i < T::FRAGMENTS_DOWN; i++) {
            cu_load_matrices(a[i],
                             stage + chunk_of_a(row + 16 * i + lane % 16, 2 * half + lane / 16));
#pragma unroll
            for (int e = 0; T::type == TF32 && e < 4; e++)
                a[i][e] = cu_to_tf32(a[i][e]);
        }
    }

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
    __device__ __forceinline__ void multiply(const unsigned char *stage, int row, int column)
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t a[T::FRAGMENTS_DOWN][4], b[T::FRAGMENTS_ACROSS][2];
            load_a(a, stage, row, half);
            load_b(b, stage + T::A_BYTES, column, half);
#pragma unroll
            for (int i = 0; i < T::FRAGMENTS_DOWN; i++)
#pragma unroll
                for (int j = 0; j < T::FRAGMENTS_ACROSS; j++)
                    if constexpr (T::type == F16)
                        cu_mma_f16(at[i][j], a[i], b[j]);
                    else if constexpr (T::type == BF16)
                        cu_mma_bf16(at[i][j], a[i], b[j]);
                    else
                        cu_mma_tf32(at[i][j], a[i], b[j]);
        }
    }

    __device__ __forceinline__ void put(int part, float *out) const
    {
        const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
#pragma unroll
        for (int i = 0; i < T::FRAGMENTS_DOWN; i++)
            if (i / 2 == part)
#pragma unroll
                for (int j = 0; j < T::FRAGMENTS_ACROSS; j++) {
                    float *to =
                        out + (16 * (i % 2) + lane / 4) * T::OUT_WIDTH + 8 * j + 2 * (lane % 4);
                    *reinterpret_cast<float2 *>(to) = make_float2(at[i][j][0], at[i][j][1]);
                    *reinterpret_cast<float2 *>(to + 8 * T::OUT_WIDTH) =
                        make_float2(at[i][j][2], at[i][j][3]);
                }
    }
};

template <class T>
static __global__
__launch_bounds__(T::THREADS *T::GROUPS,
                  T::BLOCKS) void product_mma(const __grid_constant__ cu_product p)
{
    CU_SHARED(unsigned char, shared);
    compute_tile<T, sums<T>>(p, shared);
}

/* --- which kernel for what --- */

template <class T> static bool fits(const cu_product *p, int capability)
{
    const int32_t type = T::type == F16 ? CU_F16 : T::type == BF16 ? CU_BF16 : CU_F32;
    return capability >= (T::type == F16 ? 75 : 80) && p->a_type == type && p->b_type == type &&
           (T::type != TF32 || p->tf32) && aligned<T>(*p);
}

/* Large tiles are for products of enough of them; rows are those of the largest batch. */
template <class T> static bool worthwhile(const cu_product *p, int capability)
{
    const int64_t rows = static_cast<int64_t>(p->rows) * p->z;
    return fits<T>(p, capability) && p->columns > T::COLUMNS / 2 &&
           rows * p->columns >= static_cast<int64_t>(ENOUGH_TILES) * T::ROWS * T::COLUMNS;
}

/* For long sums of few results. The batch has no say in it, since the bits are others. */
template <class T> static bool splits(const cu_product *p, int capability)
{
    const int64_t places = static_cast<int64_t>(p->height) * p->width * p->z;
    return fits<T>(p, capability) && places * p->columns <= FEW_RESULTS &&
           (p->depth + T::STEP - 1) / T::STEP * p->n_taps >= LONG_SUM;
}

template <number TYPE> using narrow = tile<TYPE, 128, 32, 32, 32>;
template <number TYPE> using square = tile<TYPE, 64, 64, 32, 32>;
/* tf32 needs more registers for the same tile. */
template <number TYPE> using wide = tile<TYPE, 128, TYPE == TF32 ? 64 : 128, 64, 32>;
template <number TYPE> using split = tile<TYPE, 32, 32, 32, 32, 3, 4>;

} // namespace

#define KERNEL(name, tile, fitting)                                                                \
    extern "C" bool cu_fits_product_##name(const cu_product *p, int capability)                    \
    {                                                                                              \
        return fitting<tile>(p, capability);                                                       \
    }                                                                                              \
    extern "C" cudaError_t cu_run_product_##name(cudaStream_t stream, const void *p)               \
    {                                                                                              \
        return run_tiles<tile>(product_mma<tile>, stream, p);                                      \
    }
#define KERNELS(name, TYPE)                                                                        \
    KERNEL(name##_narrow, narrow<TYPE>, fits)                                                      \
    KERNEL(name##_square, square<TYPE>, worthwhile)                                                \
    KERNEL(name##_wide, wide<TYPE>, worthwhile)                                                    \
    KERNEL(name##_split, split<TYPE>, splits)
KERNELS(f16, F16)
KERNELS(bf16, BF16)
KERNELS(tf32, TF32)

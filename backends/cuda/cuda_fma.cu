/* Products of f32 by multiply-adds on large tiles: 128 x 64 results a block, 8 x 4 a thread
 * (cuda_tiles.cuh). Sums are those of cuda_simt.cu, bit for bit: parts of about PART products. */
#include "cuda_product_kernels.h"
#include "cuda_tiles.cuh"

namespace
{

enum { DOWN = 8, ACROSS = 4, LANES_ACROSS = 8, ENOUGH_TILES = 8 };

using wide = tile<F32, 128, 64, 32, 32>;
static_assert(wide::WARP_ROWS == DOWN * CU_WARP / LANES_ACROSS &&
                  wide::WARP_COLUMNS == ACROSS * LANES_ACROSS,
              "the lanes of a warp share its results");

/* Rows lane / 8 + 4·i and columns 4·(lane % 8) + c of the warp's. */
struct sums {
    const cu_product &p;
    float sum[DOWN][ACROSS], part[DOWN][ACROSS];
    int summed, k; /* products in this part; channels of the tap that are done */

    explicit __device__ __forceinline__ sums(const cu_product &product)
        : p(product), sum{}, part{}, summed(0), k(0)
    {
    }

    __device__ __forceinline__ void end_part()
    {
#pragma unroll
        for (int i = 0; i < DOWN; i++)
#pragma unroll
            for (int c = 0; c < ACROSS; c++) {
                sum[i][c] += part[i][c];
                part[i][c] = 0;
            }
        summed = 0;
    }

    /* Two channels of a step. */
    __device__ __forceinline__ void multiply_two(const unsigned char *a, const unsigned char *b,
                                                 int row, int column, int at)
    {
        const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
        const int o = column + ACROSS * (lane % LANES_ACROSS), r = row + lane / LANES_ACROSS;
        const float4 b0 = *reinterpret_cast<const float4 *>(b + chunk_of_b<wide>(at, o / 4));
        const float4 b1 = *reinterpret_cast<const float4 *>(b + chunk_of_b<wide>(at + 1, o / 4));
        const float first[ACROSS] = {b0.x, b0.y, b0.z, b0.w};
        const float second[ACROSS] = {b1.x, b1.y, b1.z, b1.w};
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
            const float2 x = *reinterpret_cast<const float2 *>(
                a + chunk_of_a(r + i * (CU_WARP / LANES_ACROSS), at / 4) + at % 4 * 4);
#pragma unroll
            for (int c = 0; c < ACROSS; c++)
                part[i][c] = fmaf(x.y, second[c], fmaf(x.x, first[c], part[i][c]));
        }
    }

    __device__ __forceinline__ void multiply(const unsigned char *stage, int row, int column)
    {
#pragma unroll 1
        for (int at = 0; at < wide::STEP; at += 2)
            multiply_two(stage, stage + wide::A_BYTES, row, column, at);
        const int rest = p.depth - k;
        summed += min(static_cast<int>(wide::STEP), rest);
        k = rest > wide::STEP ? k + wide::STEP : 0;
        if (summed >= CU_PART)
            end_part();
    }

    __device__ __forceinline__ void put(int, float *out)
    {
        const int lane = static_cast<int>(threadIdx.x) % CU_WARP;
        end_part();
#pragma unroll
        for (int i = 0; i < DOWN; i++)
            *reinterpret_cast<float4 *>(
                out + (lane / LANES_ACROSS + i * (CU_WARP / LANES_ACROSS)) * wide::OUT_WIDTH +
                ACROSS * (lane % LANES_ACROSS)) =
                make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    }
};

static __global__
__launch_bounds__(wide::THREADS,
                  wide::BLOCKS) void product_fma(const __grid_constant__ cu_product p)
{
    CU_SHARED(unsigned char, shared);
    compute_tile<wide, sums>(p, shared);
}

} // namespace

extern "C" bool cu_fits_product_f32_wide(const cu_product *p, int)
{
    const int64_t rows = static_cast<int64_t>(p->rows) * p->z;
    return p->a_type == CU_F32 && p->b_type == CU_F32 && aligned<wide>(*p) && p->columns > 32 &&
           rows * p->columns >= ENOUGH_TILES * wide::ROWS * wide::COLUMNS;
}

extern "C" cudaError_t cu_run_product_f32_wide(cudaStream_t stream, const void *p)
{
    return run_tiles<wide>(product_fma, stream, p);
}

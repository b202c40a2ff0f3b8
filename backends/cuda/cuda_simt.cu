/* The product kernel that computes everything: float32 multiply-adds on tiles in shared memory.
 * 64 x 64 results a block, 4 x 4 a thread, each in the order of taps and channels, so that neither
 * the batch nor the place changes a bit. A sum of parts of about CU_PART products has a rounding
 * error that grows with the square roots of CU_PART and of their number, not with the whole length.
 */
#include "cuda_product.cuh"

enum { SIDE = 64, STEP = 16, THREADS = 256, MAX_Z = 65535 };

static __device__ __forceinline__ void end_part(float (&sum)[4][4], float (&part)[4][4])
{
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            sum[r][c] += part[r][c];
            part[r][c] = 0;
        }
}

static __global__ __launch_bounds__(THREADS) void product_simt(const __grid_constant__ cu_product p)
{
    __shared__ float tile_a[STEP][SIDE + 4], tile_b[STEP][SIDE];
    const int item = static_cast<int>(threadIdx.x), x = item % 16, q = item / 16;
    const int row0 = static_cast<int>(blockIdx.x) * SIDE;
    const int column0 = static_cast<int>(blockIdx.y) * SIDE;
    const int z = p.z_first + static_cast<int>(blockIdx.z), z0 = z / p.z_inner,
              z1 = z - z0 * p.z_inner;
    const int64_t a_z = z0 * p.a_z[0] + z1 * p.a_z[1], b_z = z0 * p.b_z[0] + z1 * p.b_z[1];
    /* This thread loads channel item % 16 of rows item / 16 + 0, 16, 32, 48. */
    cu_place from[4];
    float sum[4][4], part[4][4];
    int summed = 0; /* in this part */
#pragma unroll
    for (int r = 0; r < 4; r++) {
        from[r] = cu_place_of(p, min(row0 + q + 16 * r, p.rows - 1));
#pragma unroll
        for (int c = 0; c < 4; c++)
            sum[r][c] = part[r][c] = 0;
    }
    for (int t = 0; t < p.n_taps; t++) {
        const int dy = p.taps[2 * t], dx = p.taps[2 * t + 1];
        int64_t source[4];
#pragma unroll
        for (int r = 0; r < 4; r++)
            source[r] = cu_source(p, a_z, from[r], dy, dx);
        for (int k0 = 0; k0 < p.depth; k0 += STEP) {
#pragma unroll
            for (int r = 0; r < 4; r++) {
                tile_a[x][q + 16 * r] = source[r] >= 0 && k0 + x < p.depth
                                            ? cu_load(p.a, source[r] + k0 + x, p.a_type)
                                            : 0.0f;
                const int k = k0 + item / SIDE + 4 * r, o = column0 + item % SIDE;
                tile_b[item / SIDE + 4 * r][item % SIDE] =
                    k < p.depth && o < p.columns
                        ? cu_load(p.b, b_z + (static_cast<int64_t>(t) * p.depth + k) * p.b_row + o,
                                  p.b_type)
                        : 0.0f;
            }
            __syncthreads();
            /* Zeros behind the last channel would turn an infinity into NaN. */
            const int steps = min(static_cast<int>(STEP), p.depth - k0);
            for (int s = 0; s < steps; s++) {
                float a[4], b[4];
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    a[r] = tile_a[s][q * 4 + r];
                    b[r] = tile_b[s][x * 4 + r];
                }
#pragma unroll
                for (int r = 0; r < 4; r++)
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        part[r][c] = fmaf(a[r], b[c], part[r][c]);
            }
            __syncthreads();
            summed += steps;
            if (summed < CU_PART)
                continue;
            summed = 0;
            end_part(sum, part);
        }
    }
    end_part(sum, part);
#pragma unroll 1
    for (int r = 0; r < 4; r++) {
        const int row = row0 + q * 4 + r, column = column0 + x * 4;
        float out[4];
#pragma unroll
        for (int c = 0; c < 4; c++)
            out[c] = r == 0 ? sum[0][c] : r == 1 ? sum[1][c] : r == 2 ? sum[2][c] : sum[3][c];
        if (row < p.rows && column < p.columns)
            cu_finish(p, z, cu_place_of(p, row), column, out);
    }
}

extern "C" cudaError_t cu_run_product_simt(cudaStream_t stream, const void *product)
{
    cu_product p = *static_cast<const cu_product *>(product);
    cudaError_t error = cudaSuccess;
    for (p.z_first = 0; p.z_first < p.z && error == cudaSuccess; p.z_first += MAX_Z) {
        const dim3 grid(blocks_for(p.rows, SIDE), blocks_for(p.columns, SIDE),
                        static_cast<unsigned>(min(p.z - p.z_first, static_cast<int>(MAX_Z))));
        error = launch(product_simt, grid, dim3(THREADS), 0, stream, p);
    }
    return error;
}

/* Attention with float32 softmax, whose weights never reach memory: for one tile of queries, keys
 * come by tiles, and sums of weighted values are rescaled as the largest logit grows (Milakov and
 * Gimelshein 2018; Dao et al. 2022). Every row goes through the keys in the same order, whatever
 * the batch.
 *
 * 128 threads do 32 queries: logits of 32 keys at a time, 4 x 2 a thread, then 4 rows x COLUMNS/16
 * of the result a thread. Columns of v beyond COLUMNS are other blocks', which compute the logits
 * again. */
#include "cuda_code.cuh"
#include "cuda_launch.cuh"

enum { QUERIES = 32, KEYS = 32, DEPTH = 32, THREADS = 128, MAX_Z = 65535 };

/* Rows of 32 numbers of `from`, which has `there` rows and `depth` columns, the rest 0. */
static __device__ __forceinline__ void load_tile(float (*tile)[DEPTH + 1], const void *from,
                                                 int type, int64_t first, int64_t stride, int there,
                                                 int depth)
{
    const int k = static_cast<int>(threadIdx.x) % DEPTH;
    for (int r = static_cast<int>(threadIdx.x) / DEPTH; r < 32; r += THREADS / DEPTH)
        tile[r][k] = r < there && k < depth ? cu_load(from, first + r * stride + k, type) : 0.0f;
}

template <int COLUMNS>
static __global__ __launch_bounds__(THREADS) void attention(const __grid_constant__ cu_attention p)
{
    __shared__ float tile_q[QUERIES][DEPTH + 1], tile_k[KEYS][DEPTH + 1];
    __shared__ float weight[QUERIES][KEYS + 1], tile_v[KEYS][COLUMNS];
    constexpr int MINE = COLUMNS / 16; /* columns of a thread: x, x + 16, … */
    const int item = static_cast<int>(threadIdx.x), x = item % 16, y = item / 16;
    const int query0 = static_cast<int>(blockIdx.x) * QUERIES;
    const int column0 = static_cast<int>(blockIdx.y) * COLUMNS;
    const int z = p.z_first + static_cast<int>(blockIdx.z), z0 = z / p.z_inner;
    const int z1 = z - z0 * p.z_inner;
    const int64_t q = z0 * p.q_stride[0] + z1 * p.q_stride[1] + query0 * p.q_stride[2];
    const int64_t k = z0 * p.k_stride[0] + z1 * p.k_stride[1];
    const int64_t v = z0 * p.v_stride[0] + z1 * p.v_stride[1] + column0;
    const int queries = min(static_cast<int>(QUERIES), p.queries - query0);
    float most[4], total[4], sum[4][MINE];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        most[r] = -INFINITY;
        total[r] = 0;
#pragma unroll
        for (int c = 0; c < MINE; c++)
            sum[r][c] = 0;
    }
    const int last = p.causal ? min(p.keys, query0 + queries) : p.keys;
    for (int key0 = 0; key0 < last; key0 += KEYS) {
        const int keys = min(static_cast<int>(KEYS), p.keys - key0);
        float logit[4][2] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
        for (int d0 = 0; d0 < p.depth; d0 += DEPTH) {
            __syncthreads();
            load_tile(tile_q, p.q, p.q_type, q + d0, p.q_stride[2], queries, p.depth - d0);
            load_tile(tile_k, p.k, p.k_type, k + key0 * p.k_stride[2] + d0, p.k_stride[2], keys,
                      p.depth - d0);
            __syncthreads();
#pragma unroll 4
            for (int d = 0; d < DEPTH; d++) {
                const float k0 = tile_k[x][d], k1 = tile_k[x + 16][d];
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const float a = tile_q[4 * y + r][d];
                    logit[r][0] = fmaf(a, k0, logit[r][0]);
                    logit[r][1] = fmaf(a, k1, logit[r][1]);
                }
            }
        }
        for (int i = item; i < KEYS * COLUMNS; i += THREADS) {
            const int m = i / COLUMNS, e = i - m * COLUMNS;
            tile_v[m][e] = m < keys && column0 + e < p.columns
                               ? cu_load(p.v, v + (key0 + m) * p.v_stride[2] + e, p.v_type)
                               : 0.0f;
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int row = query0 + 4 * y + r;
            float high = most[r];
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int m = x + 16 * c;
                const bool seen = m < keys && (!p.causal || key0 + m <= row);
                logit[r][c] = seen ? p.scale * logit[r][c] : -INFINITY;
                high = cu_max(high, logit[r][c]);
            }
            /* The 16 threads of a row are neighbours in one warp. */
#pragma unroll
            for (int apart = 8; apart > 0; apart /= 2)
                high = cu_max(high, cu_shuffle_xor(high, apart));
            /* A row that has seen no key yet keeps nothing. */
            const float shrink = most[r] == -INFINITY ? 0.0f : expf(most[r] - high);
            float part = 0;
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const float w = logit[r][c] == -INFINITY ? 0.0f : expf(logit[r][c] - high);
                weight[4 * y + r][x + 16 * c] = w;
                part += w;
            }
#pragma unroll
            for (int apart = 8; apart > 0; apart /= 2)
                part += cu_shuffle_xor(part, apart);
            total[r] = fmaf(total[r], shrink, part);
            most[r] = high;
#pragma unroll
            for (int c = 0; c < MINE; c++)
                sum[r][c] *= shrink;
        }
        __syncthreads();
#pragma unroll 4
        for (int m = 0; m < KEYS; m++) {
            float w[4];
#pragma unroll
            for (int r = 0; r < 4; r++)
                w[r] = weight[4 * y + r][m];
#pragma unroll
            for (int c = 0; c < MINE; c++) {
                const float value = tile_v[m][x + 16 * c];
#pragma unroll
                for (int r = 0; r < 4; r++)
                    sum[r][c] = fmaf(w[r], value, sum[r][c]);
            }
        }
        __syncthreads();
    }
    const int64_t to = z0 * p.y_stride[0] + z1 * p.y_stride[1] + column0;
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < MINE; c++)
            if (4 * y + r < queries && column0 + x + 16 * c < p.columns)
                cu_store(p.y, to + (query0 + 4 * y + r) * p.y_stride[2] + x + 16 * c, p.y_type,
                         sum[r][c] / total[r]);
}

template <int COLUMNS> static cudaError_t run(cudaStream_t stream, cu_attention p)
{
    cudaError_t error = cudaSuccess;
    for (p.z_first = 0; p.z_first < p.z && error == cudaSuccess; p.z_first += MAX_Z) {
        const dim3 grid(blocks_for(p.queries, QUERIES), blocks_for(p.columns, COLUMNS),
                        static_cast<unsigned>(min(p.z - p.z_first, static_cast<int>(MAX_Z))));
        error = launch(attention<COLUMNS>, grid, dim3(THREADS), 0, stream, p);
    }
    return error;
}

extern "C" cudaError_t cu_run_attention(cudaStream_t stream, const void *arguments)
{
    const cu_attention &p = *static_cast<const cu_attention *>(arguments);
    return p.columns <= 64 ? run<64>(stream, p) : run<256>(stream, p);
}

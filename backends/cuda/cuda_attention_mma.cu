/* Attention on tensor cores (Dao et al. 2022; Dao 2023): logits, weights and results of a tile of
 * queries stay in registers, keys and values come by tiles of shared memory, and sums of weighted
 * values are rescaled as the largest logit grows. f16, bf16 and tf32 factors, the weights among
 * them; logits, softmax and sums are float32. Every row goes through the keys in the same order,
 * whatever the batch.
 *
 * A warp has 16 queries. The values of a tile are copied while its logits are computed, the keys of
 * the next one while its values are summed. Rows in shared memory have DEPTH numbers, those behind
 * the last one 0, so that one kernel does all sizes of heads up to its own; chunks of 16 bytes are
 * permuted within a row, so that neither copies nor fragments meet in a bank. */
#include "cuda_code.cuh"
#include "cuda_launch.cuh"
#include "cuda_mma.cuh"

namespace
{

enum number { F16, BF16, TF32 };
enum { CHUNK = 16, FRAGMENT = 32, MAX_Z = 65535, LARGEST = 256 };

/* FRAGMENT: bytes of a row that one multiplication takes. */
template <number TYPE, int DEPTH_, int WARPS, int KEYS_> struct heads {
    static constexpr number type = TYPE;
    static constexpr int DEPTH = DEPTH_, KEYS = KEYS_, QUERIES = 16 * WARPS;
    static constexpr int THREADS = CU_WARP * WARPS;
    static constexpr int SIZE = TYPE == TF32 ? 4 : 2, EACH = CHUNK / SIZE;
    static constexpr int ROW = DEPTH * SIZE, CHUNKS = ROW / CHUNK, STEPS = ROW / FRAGMENT;
    static constexpr bool HELD = STEPS <= 4; /* q's fragments stay in registers */
    static constexpr int SHARED = (QUERIES + 2 * KEYS) * ROW;
    static_assert(SHARED <= 48 * 1024 && KEYS % 16 == 0 && DEPTH % 32 == 0,
                  "no device lacks the memory; fragments are loaded in pairs");
};

/* Byte of a chunk in a tile. Rows of a multiple of 128 bytes begin in one bank, others (64, 192)
 * every second one. Few bits are permuted, so that few addresses have to be known. */
template <class T> static __device__ __forceinline__ unsigned place(unsigned row, unsigned chunk)
{
    constexpr unsigned MIXED = T::ROW % 128 == 0 ? 8 : 4;
    const unsigned by = MIXED == 8 ? row : row / 2;
    return row * T::ROW + chunk / MIXED * MIXED * CHUNK + (chunk ^ by) % MIXED * CHUNK;
}

/* Begins the copies of ROWS rows, of which `there` exist, with `depth` numbers each; BESIDE threads
 * take a row. */
template <class T, int ROWS>
static __device__ __forceinline__ void copy_rows(unsigned char *tile, const void *from,
                                                 int64_t first, int64_t stride, int there,
                                                 int depth)
{
    constexpr int BESIDE = T::CHUNKS % 32 == 0   ? 32
                           : T::CHUNKS % 16 == 0 ? 16
                           : T::CHUNKS % 8 == 0  ? 8
                                                 : 4;
    const int chunk0 = static_cast<int>(threadIdx.x) % BESIDE;
    const int row0 = static_cast<int>(threadIdx.x) / BESIDE;
    const char *at = static_cast<const char *>(from) + (first + row0 * stride) * T::SIZE;
#pragma unroll 2
    for (int row = row0; row < ROWS; row += T::THREADS / BESIDE) {
#pragma unroll
        for (int chunk = chunk0; chunk < T::CHUNKS; chunk += BESIDE) {
            const bool exists = row < there && chunk * T::EACH < depth;
            cu_copy_async(tile + place<T>(static_cast<unsigned>(row), static_cast<unsigned>(chunk)),
                          exists ? at + chunk * CHUNK : from, exists ? CHUNK : 0);
        }
        at += T::THREADS / BESIDE * stride * T::SIZE;
    }
}

template <class T>
static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4],
                                                const uint32_t *b)
{
    if constexpr (T::type == F16)
        cu_mma_f16(c, a, b);
    else if constexpr (T::type == BF16)
        cu_mma_bf16(c, a, b);
    else
        cu_mma_tf32(c, a, b);
}

/* 16 rows of 32 bytes, or the keys of two fragments of 8. */
template <class T>
static __device__ __forceinline__ void load(uint32_t (&to)[4], const unsigned char *at)
{
    cu_load_matrices(to, at);
#pragma unroll
    for (int e = 0; T::type == TF32 && e < 4; e++)
        to[e] = cu_to_tf32(to[e]);
}

template <class T> struct softmax {
    static constexpr int LOGITS = T::KEYS / 8, RESULTS = T::DEPTH / 8;
    const cu_attention &p;
    const unsigned lane;
    const int row; /* the lane's queries are row and row + 8 */
    float weight[LOGITS][4], sum[RESULTS][4];
    float most[2], total[2]; /* total: of this lane's keys */

    __device__ __forceinline__ softmax(const cu_attention &attention, int query)
        : p(attention), lane(static_cast<int>(threadIdx.x) % CU_WARP),
          row(query + lane / 4), sum{}, most{-INFINITY, -INFINITY}, total{}
    {
    }

    static __device__ __forceinline__ void load_queries(uint32_t (&to)[4],
                                                        const unsigned char *tile, unsigned step)
    {
        const unsigned lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
        load<T>(to, tile + place<T>(16 * warp + lane % 16, 2 * step + lane / 16));
    }

    /* weight = q·k of the tile's keys. held: q's fragments, or nothing. */
    __device__ __forceinline__ void find_logits(const unsigned char *queries,
                                                const uint32_t (&held)[T::HELD ? T::STEPS : 1][4],
                                                const unsigned char *keys)
    {
#pragma unroll
        for (int j = 0; j < LOGITS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                weight[j][e] = 0;
#pragma unroll
        for (unsigned s = 0; s < T::STEPS; s++) {
            uint32_t a[4];
            if constexpr (T::HELD) {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    a[e] = held[s][e];
            } else {
                load_queries(a, queries, s);
            }
#pragma unroll
            for (int j = 0; j < LOGITS; j += 2) {
                uint32_t b[4];
                load<T>(b, keys + place<T>(8 * j + lane / 16 * 8 + lane % 8, 2 * s + lane / 8 % 2));
                multiply<T>(weight[j], a, b);
                multiply<T>(weight[j + 1], a, b + 2);
            }
        }
    }

    __device__ __forceinline__ void hide(int key0)
    {
#pragma unroll
        for (int j = 0; j < LOGITS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = key0 + 8 * j + 2 * static_cast<int>(lane % 4) + e % 2;
                if (key >= p.keys || (p.causal && key > row + 8 * (e / 2)))
                    weight[j][e] = -INFINITY;
            }
    }

    /* Logits become weights relative to the largest one so far, and so do the sums. 2^x is one
     * instruction: logits are scaled by log2(e) more. */
    __device__ __forceinline__ void find_weights(int key0)
    {
        const float scale = p.scale * 1.44269504088896341f;
#pragma unroll
        for (int j = 0; j < LOGITS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                weight[j][e] *= scale;
        if (p.causal || key0 + T::KEYS > p.keys)
            hide(key0);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float high = most[r], part = 0;
#pragma unroll
            for (int j = 0; j < LOGITS; j++)
                high = cu_max(high, cu_max(weight[j][2 * r], weight[j][2 * r + 1]));
            /* The four lanes of a row are neighbours. */
            high = cu_max(high, cu_shuffle_xor(high, 1));
            high = cu_max(high, cu_shuffle_xor(high, 2));
            const float base = high == -INFINITY ? 0.0f : high; /* no difference of infinities */
            const float shrink = exp2f(most[r] - base);
#pragma unroll
            for (int j = 0; j < LOGITS; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    weight[j][2 * r + e] = exp2f(weight[j][2 * r + e] - base);
                    part += weight[j][2 * r + e];
                }
            total[r] = fmaf(total[r], shrink, part);
            most[r] = high;
#pragma unroll
            for (int j = 0; j < RESULTS; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    sum[j][2 * r + e] *= shrink;
        }
    }

    /* Two numbers of a row as the 16 bits of each. */
    static __device__ __forceinline__ uint32_t pair(float first, float second)
    {
        return T::type == F16 ? cu_pack_f16(first, second) : cu_pack_bf16(first, second);
    }

    /* sum += weight·v. What a lane has of two fragments of logits is what it must have of one of
     * weights, 16 keys; in tf32, of 8, if keys 2i and 2i + 1 count as i and i + 4, as v's do then.
     */
    __device__ __forceinline__ void add_values(const unsigned char *values)
    {
        if constexpr (T::type == TF32) {
#pragma unroll
            for (int s = 0; s < LOGITS; s++) {
                const float *w = weight[s];
                const uint32_t a[4] = {rounded(w[0]), rounded(w[2]), rounded(w[1]), rounded(w[3])};
#pragma unroll
                for (int j = 0; j < RESULTS; j++) {
                    uint32_t b[2];
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        b[e] = cu_to_tf32(*reinterpret_cast<const uint32_t *>(
                            values + place<T>(8 * s + 2 * (lane % 4) + e, 2 * j + lane / 16) +
                            lane / 4 % 4 * 4));
                    multiply<T>(sum[j], a, b);
                }
            }
        } else {
#pragma unroll
            for (int s = 0; s < LOGITS; s += 2) {
                const float *w = weight[s], *next = weight[s + 1];
                const uint32_t a[4] = {pair(w[0], w[1]), pair(w[2], w[3]), pair(next[0], next[1]),
                                       pair(next[2], next[3])};
#pragma unroll
                for (int j = 0; j < RESULTS; j += 2) {
                    uint32_t b[4];
                    cu_load_matrices_transposed(b, values +
                                                       place<T>(8 * s + lane % 16, j + lane / 16));
                    multiply<T>(sum[j], a, b);
                    multiply<T>(sum[j + 1], a, b + 2);
                }
            }
        }
    }

    static __device__ __forceinline__ uint32_t rounded(float x)
    {
        return cu_to_tf32(__float_as_uint(x));
    }

    /* first: y's element of query 0 */
    __device__ __forceinline__ void finish(int64_t first)
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            total[r] += cu_shuffle_xor(total[r], 1);
            total[r] += cu_shuffle_xor(total[r], 2);
            const float share = 1.0f / total[r];
            const int64_t to = first + (row + 8 * r) * p.y_stride[2];
#pragma unroll
            for (int j = 0; j < RESULTS; j++) {
                const int column = 8 * j + 2 * static_cast<int>(lane % 4);
                if (row + 8 * r < p.queries && column < p.columns)
                    store(to + column, share * sum[j][2 * r], share * sum[j][2 * r + 1]);
            }
        }
    }

    __device__ __forceinline__ void store(int64_t at, float first, float second)
    {
        if (p.y_type == CU_F32)
            *reinterpret_cast<float2 *>(static_cast<float *>(p.y) + at) =
                make_float2(first, second);
        else
            *reinterpret_cast<uint32_t *>(static_cast<uint16_t *>(p.y) + at) =
                p.y_type == CU_F16 ? cu_pack_f16(first, second) : cu_pack_bf16(first, second);
    }
};

template <class T>
static __global__
__launch_bounds__(T::THREADS) void attention_mma(const __grid_constant__ cu_attention p)
{
    CU_SHARED(unsigned char, queries);
    unsigned char *const keys = queries + T::QUERIES * T::ROW, *const values =
                                                                   keys + T::KEYS * T::ROW;
    const int query0 = static_cast<int>(blockIdx.x) * T::QUERIES;
    const int z = p.z_first + static_cast<int>(blockIdx.z), z0 = z / p.z_inner;
    const int z1 = z - z0 * p.z_inner;
    const int64_t q = z0 * p.q_stride[0] + z1 * p.q_stride[1] + query0 * p.q_stride[2];
    const int64_t k = z0 * p.k_stride[0] + z1 * p.k_stride[1];
    const int64_t v = z0 * p.v_stride[0] + z1 * p.v_stride[1];
    const int last = p.causal ? min(p.keys, query0 + T::QUERIES) : p.keys;
    const auto copy_keys = [&](int key0) {
        if (key0 < last)
            copy_rows<T, T::KEYS>(keys, p.k, k + key0 * p.k_stride[2], p.k_stride[2], p.keys - key0,
                                  p.depth);
        cu_commit_copies();
    };
    softmax<T> s(p, query0 + static_cast<int>(threadIdx.x) / CU_WARP * 16);
    uint32_t held[T::HELD ? T::STEPS : 1][4] = {};
    copy_rows<T, T::QUERIES>(queries, p.q, q, p.q_stride[2], p.queries - query0, p.depth);
    copy_keys(0);
#pragma unroll 1
    for (int key0 = 0; key0 < last; key0 += T::KEYS) {
        cu_wait_copies<0>();
        __syncthreads(); /* these keys are there, and nobody reads the last values */
        copy_rows<T, T::KEYS>(values, p.v, v + key0 * p.v_stride[2], p.v_stride[2], p.keys - key0,
                              p.columns);
        cu_commit_copies();
        if (T::HELD && key0 == 0)
#pragma unroll
            for (int i = 0; i < T::STEPS; i++)
                s.load_queries(held[i], queries, i);
        s.find_logits(queries, held, keys);
        s.find_weights(key0);
        cu_wait_copies<0>();
        __syncthreads(); /* the values are there, and nobody reads these keys */
        copy_keys(key0 + T::KEYS);
        s.add_values(values);
    }
    s.finish(z0 * p.y_stride[0] + z1 * p.y_stride[1]);
}

template <class T> static cudaError_t run(cudaStream_t stream, cu_attention p)
{
    cudaError_t error = cudaSuccess;
    for (p.z_first = 0; p.z_first < p.z && error == cudaSuccess; p.z_first += MAX_Z) {
        const dim3 grid(blocks_for(p.queries, T::QUERIES), 1,
                        static_cast<unsigned>(min(p.z - p.z_first, static_cast<int>(MAX_Z))));
        error = launch(attention_mma<T>, grid, dim3(T::THREADS), T::SHARED, stream, p);
    }
    return error;
}

/* As many warps and keys as 48 KiB hold. */
template <number TYPE> static cudaError_t run_narrow(cudaStream_t stream, const cu_attention &p)
{
    const int depth = max(p.depth, p.columns);
    return depth <= 32    ? run<heads<TYPE, 32, 4, 64>>(stream, p)
           : depth <= 64  ? run<heads<TYPE, 64, 4, 64>>(stream, p)
           : depth <= 96  ? run<heads<TYPE, 96, 4, 64>>(stream, p)
           : depth <= 128 ? run<heads<TYPE, 128, 4, 64>>(stream, p)
                          : run<heads<TYPE, 256, 2, 32>>(stream, p);
}

static cudaError_t run_tf32(cudaStream_t stream, const cu_attention &p)
{
    const int depth = max(p.depth, p.columns);
    return depth <= 32    ? run<heads<TF32, 32, 4, 64>>(stream, p)
           : depth <= 64  ? run<heads<TF32, 64, 4, 64>>(stream, p)
           : depth <= 96  ? run<heads<TF32, 96, 4, 32>>(stream, p)
           : depth <= 128 ? run<heads<TF32, 128, 2, 32>>(stream, p)
                          : run<heads<TF32, 256, 1, 16>>(stream, p);
}

} // namespace

extern "C" bool cu_fits_attention_mma(const cu_attention *p, int capability)
{
    const int type = p->q_type, size = type == CU_F32 ? 4 : 2, each = CHUNK / size;
    bool fits = capability >= (type == CU_F16 ? 75 : 80) && p->k_type == type &&
                p->v_type == type && type != CU_I32 && (type != CU_F32 || p->tf32) &&
                max(p->depth, p->columns) <= LARGEST && p->depth % each == 0 &&
                p->columns % each == 0;
    for (const void *at : {p->q, p->k, p->v, static_cast<const void *>(p->y)})
        fits = fits && reinterpret_cast<uintptr_t>(at) % CHUNK == 0;
    for (int i = 0; i < 3; i++)
        fits = fits && p->q_stride[i] % each == 0 && p->k_stride[i] % each == 0 &&
               p->v_stride[i] % each == 0 && p->y_stride[i] % 2 == 0;
    return fits;
}

extern "C" cudaError_t cu_run_attention_mma(cudaStream_t stream, const void *arguments)
{
    const cu_attention &p = *static_cast<const cu_attention *>(arguments);
    return p.q_type == CU_F16    ? run_narrow<F16>(stream, p)
           : p.q_type == CU_BF16 ? run_narrow<BF16>(stream, p)
                                 : run_tf32(stream, p);
}

/* y = softmax(scale·q·kᵀ)·v, head by head, without the weights in global memory.
 *
 * Keys come in blocks of KEYS. A query keeps its largest logit so far, and the sum of its weights and
 * of the weighted values relative to that; a block with a larger logit shrinks both by a factor
 * (Milakov & Gimelshein 2018; Dao et al. 2022). With `causal`, keys behind a query weigh nothing. Every
 * sum has a fixed order and belongs to one query, so that neither the batch nor other queries change
 * a bit; sums are made of parts, as in product.cl. TYPE_Q and so on are the types in memory. */

enum { PART = 128 };

/* Strides from image to image, from head to head, and from query to query or key to key; of k in WIDE
 * kernels from channel to channel, as its keys are contiguous there. Channels are otherwise. */
#define ATTENTION                                                                                  \
    IN_OF(TYPE_Q, q), IN_OF(TYPE_K, k), IN_OF(TYPE_V, v), OUT_OF(TYPE_Y, y), int queries,          \
        int keys, int depth, int width, int heads, int q_n, int q_h, int q_x, int k_n, int k_h,    \
        int k_x, int v_n, int v_h, int v_x, int y_n, int y_h, int y_x, float scale, int causal

#define TO_HEAD(name)                                                                              \
    name += name##_at + (long)(get_global_id(2) / heads) * name##_n +                              \
            (long)(get_global_id(2) % heads) * name##_h

#ifdef WIDE
/* One work-item ROWS queries and COLUMNS of the values' channels; tiles of ROWS x 2 vectors of logits
 * and of results are summed in registers. Rows of k and v are whole vectors, whatever lies behind
 * their last element; where a pair has but one vector left, it is computed twice. */

enum { KEYS = 64, PAIR = 2 * VECTOR };

#define EACH_ROW(X) JOIN(EACH_ROW_, ROWS)(X)
#define EACH_ROW_4(X) X(0) X(1) X(2) X(3)
#define EACH_ROW_6(X) EACH_ROW_4(X) X(4) X(5)
#define EACH_ROW_8(X) EACH_ROW_6(X) X(6) X(7)
#define EACH_ROW_12(X) EACH_ROW_8(X) X(8) X(9) X(10) X(11)

#define DECLARE(r)                                                                                 \
    __global const ELEMENT(TYPE_Q) *restrict q##r = q + (long)min(row + r, queries - 1) * q_x;     \
    VT left##r, right##r;

#define CLEAR(r) left##r = right##r = (VT)(0.0f);

#define MULTIPLY(r, factor)                                                                        \
    const VT a##r = (VT)(factor);                                                                  \
    left##r = FMA(a##r, b0, left##r);                                                              \
    right##r = FMA(a##r, b1, right##r);
/* Halves are converted a vector at a time, as in product.cl. */
#if IS_HALF(TYPE_Q)
#define FETCH(r)                                                                                   \
    for (int i = 0; i < last - d;) {                                                               \
        if (i + VECTOR <= last - d) {                                                              \
            STOREV(GETV(TYPE_Q, q##r + d + i), queried[r] + i);                                    \
            i += VECTOR;                                                                           \
        } else {                                                                                   \
            queried[r][i] = GET(TYPE_Q, q##r + d + i);                                             \
            i++;                                                                                   \
        }                                                                                          \
    }
#define MULTIPLY_KEYS(r) MULTIPLY(r, queried[r][d - first])
#else
#define FETCH(r)
#define MULTIPLY_KEYS(r) MULTIPLY(r, q##r[d])
#endif
#define MULTIPLY_VALUES(r) MULTIPLY(r, weights[r][i])

#define SET_LOGITS(r)                                                                              \
    STOREV((VT)(scale) * left##r, weights[r] + j);                                                 \
    STOREV((VT)(scale) * right##r, weights[r] + j + VECTOR);
#define ADD_LOGITS(r)                                                                              \
    STOREV(FMA((VT)(scale), left##r, LOADV(weights[r] + j)), weights[r] + j);                      \
    STOREV(FMA((VT)(scale), right##r, LOADV(weights[r] + j + VECTOR)), weights[r] + j + VECTOR);

#define ADD_VALUES(r)                                                                              \
    STOREV(FMA(LOADV(sums[r] + o), (VT)(factor[r]), left##r), sums[r] + o);                        \
    STOREV(FMA(LOADV(sums[r] + o + VECTOR), (VT)(factor[r]), right##r), sums[r] + o + VECTOR);

/* Of a vector's lanes, which meet in pairs, half a vector apart. */
#define LARGER(a, b) (((a > b) | (a != a)) ? a : b)
#define SUM(a, b) (a + b)
#if VECTOR == 16
#define TO_4(OP, v) const float8 eight = OP(v.lo, v.hi); const float4 four = OP(eight.lo, eight.hi)
#elif VECTOR == 8
#define TO_4(OP, v) const float4 four = OP(v.lo, v.hi)
#else
#define TO_4(OP, v) const float4 four = v
#endif
#define ACROSS(name, OP)                                                                           \
    INLINE float name(VT v)                                                                        \
    {                                                                                              \
        TO_4(OP, v);                                                                               \
        const float2 two = OP(four.lo, four.hi);                                                   \
        return OP(two.x, two.y);                                                                   \
    }
ACROSS(largest_of, LARGER)
ACROSS(sum_of, SUM)

/* Logits become weights relative to the largest logit, which may grow; those behind the first
 * `visible` count for nothing. `sum` has a vector of partial sums. Returns what everything before
 * shrinks by. */
INLINE float weigh(float *logits, int n, int visible, float *largest, VT *sum)
{
    for (int i = max(visible, 0); i < n; i++)
        logits[i] = -INFINITY;
    VT most = LOADV(logits);
    for (int i = VECTOR; i < n; i += VECTOR)
        most = d_max_v(most, LOADV(logits + i));
    const float before = *largest;
    *largest = d_max_s(before, largest_of(most));
    const float factor = d_exp_s(before - *largest);
    VT weights = (VT)(0.0f);
    for (int i = 0; i < n; i += VECTOR) {
        const VT e = d_exp_v(LOADV(logits + i) - (VT)(*largest));
        STOREV(e, logits + i);
        weights += e;
    }
    *sum = FMA(*sum, (VT)(factor), weights);
    return factor;
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void attention(ATTENTION)
{
    const int row = get_global_id(0) * ROWS, column = get_global_id(1) * COLUMNS;
    const int columns = min(width - column, (int)COLUMNS);
    const int end = causal ? min(keys, row + ROWS) : keys;
    float weights[ROWS][KEYS], sums[ROWS][COLUMNS], largest[ROWS], factor[ROWS];
    VT sum[ROWS];
#if IS_HALF(TYPE_Q)
    float queried[ROWS][PART];
#endif
    TO_HEAD(q);
    TO_HEAD(k);
    TO_HEAD(v);
    TO_HEAD(y);
    v += column;
    EACH_ROW(DECLARE)
    for (int r = 0; r < ROWS; r++) {
        largest[r] = -INFINITY;
        sum[r] = (VT)(0.0f);
        for (int o = 0; o < columns; o += VECTOR)
            STOREV((VT)(0.0f), sums[r] + o);
    }
    for (int key = 0; key < end; key += KEYS) {
        const int n = min(end - key, (int)KEYS);
        for (int j = 0; j < n; j += PAIR) {
            __global const ELEMENT(TYPE_K) *restrict b = k + key + j;
            const int second = j + VECTOR < n ? VECTOR : 0;
            for (int d = 0; d < depth;) {
                const int first = d, last = min(d + PART, depth);
                EACH_ROW(CLEAR)
                EACH_ROW(FETCH)
                for (; d < last; d++) {
                    const VT b0 = GETV(TYPE_K, b), b1 = GETV(TYPE_K, b + second);
                    b += k_x;
                    EACH_ROW(MULTIPLY_KEYS)
                }
                if (first == 0) {
                    EACH_ROW(SET_LOGITS)
                } else {
                    EACH_ROW(ADD_LOGITS)
                }
            }
        }
        for (int r = 0; r < ROWS; r++)
            factor[r] = weigh(weights[r], (n + PAIR - 1) / PAIR * PAIR,
                              causal ? min(n, row + r + 1 - key) : n, &largest[r], &sum[r]);
        for (int o = 0; o < columns; o += PAIR) {
            __global const ELEMENT(TYPE_V) *restrict b = v + (long)key * v_x + o;
            const int second = o + VECTOR < columns ? VECTOR : 0;
            EACH_ROW(CLEAR)
            for (int i = 0; i < n; i++) {
                const VT b0 = GETV(TYPE_V, b), b1 = GETV(TYPE_V, b + second);
                b += v_x;
                EACH_ROW(MULTIPLY_VALUES)
            }
            EACH_ROW(ADD_VALUES)
        }
    }
    for (int r = 0; r < ROWS && row + r < queries; r++) {
        __global ELEMENT(TYPE_Y) *to = y + (long)(row + r) * y_x + column;
        const float all = 1.0f / sum_of(sum[r]);
        int o = 0;
        for (; o + VECTOR <= columns; o += VECTOR)
            PUTV(TYPE_Y, LOADV(sums[r] + o) * (VT)(all), to + o);
        for (; o < columns; o++)
            PUT(TYPE_Y, sums[r][o] * all, to + o);
    }
}

#else
/* A work-group of 16 x 16 has ROWS queries and blocks of as many keys; each item EACH x EACH of their
 * logits, and as many results in each of the PIECES of ROWS columns of the values' channels. Tiles of q
 * and k, or of v, and a block's weights are in local memory. */

enum {
    KEYS = ROWS,
    EACH = ROWS / 16,
    STEP = 16,
    PIECES = COLUMNS / ROWS,
    SEGMENTS = 256 / ROWS, /* of a block: the items that share a query's softmax */
    SEGMENT = KEYS / SEGMENTS,
};

/* Channels from d0 on, of rows from `first` on, of a matrix with so many of both: [channel][row] */
#define LOAD_ROWS(name, type)                                                                      \
    INLINE void name(__local float (*tile)[ROWS + 1], __global const ELEMENT(type) *from,          \
                     int first, int rows, int d0, int depth, long stride)                          \
    {                                                                                              \
        const int item = get_local_id(1) * 16 + get_local_id(0), d = d0 + item % 16;               \
        for (int r = item / 16; r < ROWS; r += 16)                                                 \
            tile[item % 16][r] =                                                                   \
                first + r < rows && d < depth ? GET(type, from + (first + r) * stride + d) : 0.0f; \
    }
LOAD_ROWS(load_queries, TYPE_Q)
LOAD_ROWS(load_keys, TYPE_K)

/* Columns from `first` on of keys from key0 on: [key][column] */
INLINE void load_values(__local float (*tile)[ROWS + 1], __global const ELEMENT(TYPE_V) *from,
                        int key0, int keys, int first, int width, long stride)
{
    const int item = get_local_id(1) * 16 + get_local_id(0), o = first + item % ROWS;
    for (int i = item / ROWS; i < STEP; i += 256 / ROWS)
        tile[i][item % ROWS] =
            key0 + i < keys && o < width ? GET(TYPE_V, from + (key0 + i) * stride + o) : 0.0f;
}

__kernel __attribute__((reqd_work_group_size(16, 16, 1))) void attention(ATTENTION)
{
    __local float tile_a[STEP][ROWS + 1], tile_b[STEP][ROWS + 1];
    __local float weights[KEYS][ROWS], shared[SEGMENTS][ROWS], factor[ROWS];
    const int x = get_local_id(0), p = get_local_id(1), item = p * 16 + x;
    const int row = get_group_id(0) * ROWS, column = get_group_id(1) * COLUMNS;
    const int mine = item % ROWS, segment = item / ROWS; /* of the softmax */
    const int end = causal ? min(keys, row + ROWS) : keys;
    float part[EACH][EACH], sum[EACH][EACH], sums[PIECES][EACH][EACH];
    float largest = -INFINITY, total = 0;
    TO_HEAD(q);
    TO_HEAD(k);
    TO_HEAD(v);
    TO_HEAD(y);
    for (int piece = 0; piece < PIECES; piece++)
        for (int r = 0; r < EACH; r++)
            for (int c = 0; c < EACH; c++)
                sums[piece][r][c] = 0;
    for (int key = 0; key < end; key += KEYS) {
        /* logits */
        for (int r = 0; r < EACH; r++)
            for (int c = 0; c < EACH; c++)
                part[r][c] = sum[r][c] = 0;
        for (int d = 0; d < depth; d += STEP) {
            load_queries(tile_a, q, row, queries, d, depth, q_x);
            load_keys(tile_b, k, key, keys, d, depth, k_x);
            barrier(CLK_LOCAL_MEM_FENCE);
            for (int s = 0; s < min((int)STEP, depth - d); s++)
                for (int r = 0; r < EACH; r++)
                    for (int c = 0; c < EACH; c++)
                        part[r][c] =
                            FMA(tile_a[s][x + 16 * r], tile_b[s][p * EACH + c], part[r][c]);
            barrier(CLK_LOCAL_MEM_FENCE);
            if ((d + STEP) % PART != 0 && d + STEP < depth)
                continue;
            for (int r = 0; r < EACH; r++)
                for (int c = 0; c < EACH; c++) {
                    sum[r][c] += part[r][c];
                    part[r][c] = 0;
                }
        }
        for (int r = 0; r < EACH; r++)
            for (int c = 0; c < EACH; c++) {
                const int i = p * EACH + c, last = causal ? row + x + 16 * r : keys - 1;
                weights[i][x + 16 * r] =
                    key + i < keys && key + i <= last ? scale * sum[r][c] : -INFINITY;
            }
        barrier(CLK_LOCAL_MEM_FENCE);
        /* weights */
        float most = weights[segment * SEGMENT][mine];
        for (int i = 1; i < SEGMENT; i++)
            most = d_max_s(most, weights[segment * SEGMENT + i][mine]);
        shared[segment][mine] = most;
        barrier(CLK_LOCAL_MEM_FENCE);
        most = largest;
        for (int i = 0; i < SEGMENTS; i++)
            most = d_max_s(most, shared[i][mine]);
        const float shrink = d_exp_s(largest - most);
        largest = most;
        if (segment == 0)
            factor[mine] = shrink;
        float added = 0;
        for (int i = segment * SEGMENT; i < (segment + 1) * SEGMENT; i++) {
            const float e = d_exp_s(weights[i][mine] - most);
            weights[i][mine] = e;
            added += e;
        }
        total = FMA(total, shrink, added);
        barrier(CLK_LOCAL_MEM_FENCE);
        /* values */
        for (int piece = 0; piece < PIECES; piece++) {
            for (int i = 0; i < min((int)KEYS, end - key); i += STEP) {
                load_values(tile_a, v, key + i, keys, column + piece * ROWS, width, v_x);
                barrier(CLK_LOCAL_MEM_FENCE);
                for (int s = 0; s < STEP; s++)
                    for (int r = 0; r < EACH; r++)
                        for (int c = 0; c < EACH; c++)
                            part[r][c] =
                                FMA(weights[i + s][x + 16 * r], tile_a[s][p * EACH + c], part[r][c]);
                barrier(CLK_LOCAL_MEM_FENCE);
            }
            for (int r = 0; r < EACH; r++)
                for (int c = 0; c < EACH; c++) {
                    sums[piece][r][c] = FMA(sums[piece][r][c], factor[x + 16 * r], part[r][c]);
                    part[r][c] = 0;
                }
        }
    }
    shared[segment][mine] = total;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = 0; r < EACH; r++) {
        const int i = row + x + 16 * r;
        float all = 0;
        for (int s = 0; s < SEGMENTS; s++)
            all += shared[s][x + 16 * r];
        all = 1.0f / all;
        for (int piece = 0; i < queries && piece < PIECES; piece++)
            for (int c = 0; c < EACH; c++) {
                const int o = column + piece * ROWS + p * EACH + c;
                if (o < width)
                    PUT(TYPE_Y, sums[piece][r][c] * all, y + (long)i * y_x + o);
            }
    }
}
#endif

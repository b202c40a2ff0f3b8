/* The kernels, written once over the vector of cpu_vec.h; included by cpu_kernels_LEVEL.c, which
 * defines CPU_KERNELS (the table's name), CPU_LEVEL_NAME and CPU_ROWS (rows of a product's tile).
 */
#include "cpu_kernels.h"
#include "cpu_vec_math.h"

#if defined(CPU_LEVEL_BF16)
#define CPU_HAS_BF16 true
#else
#define CPU_HAS_BF16 false
#endif

#if defined(__clang__)
#define CPU_UNROLL _Pragma("unroll 4")
#define CPU_UNROLL_16 _Pragma("unroll 16")
#else
#define CPU_UNROLL _Pragma("GCC unroll 4")
#define CPU_UNROLL_16 _Pragma("GCC unroll 16")
#endif

/* --- products ---
 * One function per number of rows and vectors. The accumulators are named variables: as an array,
 * gcc 12 keeps them in memory and loses more than half of the speed. */
#define REP_1(X) X(0)
#define REP_2(X) REP_1(X) X(1)
#define REP_3(X) REP_2(X) X(2)
#define REP_4(X) REP_3(X) X(3)
#define REP_5(X) REP_4(X) X(4)
#define REP_6(X) REP_5(X) X(5)
#define REP_7(X) REP_6(X) X(6)
#define REP_8(X) REP_7(X) X(7)
#define REP_9(X) REP_8(X) X(8)
#define REP_10(X) REP_9(X) X(9)
#define REP_11(X) REP_10(X) X(10)
#define REP_12(X) REP_11(X) X(11)
#define REP_13(X) REP_12(X) X(12)
#define REP_14(X) REP_13(X) X(13)

#define START2(i) vf a##i = init0, b##i = init1;
#define ROW(i) const float *r##i = a[i] + from;
#define STEP2(i)                                                                                   \
    {                                                                                              \
        const vf x = v_set(r##i[j]);                                                               \
        a##i = v_fma(x, u0, a##i);                                                                 \
        b##i = v_fma(x, u1, b##i);                                                                 \
    }
#define STORE2(i)                                                                                  \
    v_store(c + (i)*ldc, a##i);                                                                    \
    v_store(c + (i)*ldc + VW, b##i);
#define ADD2(i)                                                                                    \
    v_store(c + (i)*ldc, v_load(c + (i)*ldc) + a##i);                                              \
    v_store(c + (i)*ldc + VW, v_load(c + (i)*ldc + VW) + b##i);
#define START1(i) vf a##i = init0;
#define STEP1(i) a##i = v_fma(v_set(r##i[j]), u0, a##i);
#define STORE1(i) v_store(c + (i)*ldc, a##i);
#define ADD1(i) v_store(c + (i)*ldc, v_load(c + (i)*ldc) + a##i);

/* One part of a product: c = init + …, or c += … */
struct part {
    int64_t taps, from, k; /* of each row: k floats from `from` on */
    bool add;
};

#define PRODUCT(R)                                                                                 \
    static void product_##R##x2(const struct part *p, const float *const *a, const float *b,       \
                                const float *init, float *c, int64_t ldc,                          \
                                const struct cpu_ahead *at)                                        \
    {                                                                                              \
        const int64_t from = p->from, taps = p->taps, k = p->k;                                    \
        struct cpu_ahead ahead = *at;                                                              \
        const vf init0 = init ? v_load(init) : v_zero();                                           \
        const vf init1 = init ? v_load(init + VW) : v_zero();                                      \
        REP_##R(START2) for (int64_t tap = 0; tap < taps; tap++, a += (R))                         \
        {                                                                                          \
            REP_##R(ROW) CPU_UNROLL for (int64_t j = 0; j < k; j++, b += 2 * VW)                   \
            {                                                                                      \
                __builtin_prefetch(ahead.a);                                                       \
                ahead.a += ahead.a_step;                                                           \
                __builtin_prefetch(ahead.b, 0, 2);                                                 \
                ahead.b += ahead.b_step;                                                           \
                const vf u0 = v_load(b), u1 = v_load(b + VW);                                      \
                REP_##R(STEP2)                                                                     \
            }                                                                                      \
        }                                                                                          \
        if (p->add) {                                                                              \
            REP_##R(ADD2)                                                                          \
        } else {                                                                                   \
            REP_##R(STORE2)                                                                        \
        }                                                                                          \
    }                                                                                              \
    static void product_##R##x1(const struct part *p, const float *const *a, const float *b,       \
                                const float *init, float *c, int64_t ldc,                          \
                                const struct cpu_ahead *at)                                        \
    {                                                                                              \
        (void)at;                                                                                  \
        const int64_t from = p->from, taps = p->taps, k = p->k;                                    \
        const vf init0 = init ? v_load(init) : v_zero();                                           \
        REP_##R(START1) for (int64_t tap = 0; tap < taps; tap++, a += (R))                         \
        {                                                                                          \
            REP_##R(ROW) CPU_UNROLL for (int64_t j = 0; j < k; j++, b += VW)                       \
            {                                                                                      \
                const vf u0 = v_load(b);                                                           \
                REP_##R(STEP1)                                                                     \
            }                                                                                      \
        }                                                                                          \
        if (p->add) {                                                                              \
            REP_##R(ADD1)                                                                          \
        } else {                                                                                   \
            REP_##R(STORE1)                                                                        \
        }                                                                                          \
    }

PRODUCT(1)
PRODUCT(2)
PRODUCT(3)
PRODUCT(4)
PRODUCT(5)
PRODUCT(6)
#if CPU_ROWS > 6
PRODUCT(7)
PRODUCT(8)
PRODUCT(9)
PRODUCT(10)
PRODUCT(11)
PRODUCT(12)
PRODUCT(13)
PRODUCT(14)
#endif

typedef void (*product)(const struct part *p, const float *const *a, const float *b,
                        const float *init, float *c, int64_t ldc, const struct cpu_ahead *at);

/* In parts whose sums are added: one long chain's rounding would be the largest error of a network.
 * Parts are of taps with at most PART steps, or of DEEP channels where one tap has more; where sums
 * are that deep, so many channels follow that their errors average out. */
enum { PART = 128, DEEP = 256 };
#define PAIR(R) {product_##R##x1, product_##R##x2},
static const product products[CPU_ROWS][2] = {PAIR(1) PAIR(2) PAIR(3) PAIR(4) PAIR(5) PAIR(6)
#if CPU_ROWS > 6
                                                  PAIR(7) PAIR(8) PAIR(9) PAIR(10) PAIR(11) PAIR(12)
                                                      PAIR(13) PAIR(14)
#endif
};

static void gemm(int rows, int vecs, const float *const *a, int64_t taps, int64_t k, const float *b,
                 const float *init, float *c, int64_t ldc, const struct cpu_ahead *ahead)
{
    const product multiply = products[rows - 1][vecs - 1];
    struct part p = {.taps = taps, .k = k};
    if (taps * k <= PART || (taps == 1 && k <= DEEP)) {
        multiply(&p, a, b, init, c, ldc, ahead);
        return;
    }
    struct cpu_ahead next = *ahead;
    const int64_t most_taps = k <= PART / 2 ? PART / (int32_t)k : 1;
    for (int64_t tap = 0; tap < taps; tap += p.taps) {
        p.taps = taps - tap < most_taps ? taps - tap : most_taps;
        for (p.from = 0; p.from < k; p.from += p.k) {
            p.k = k - p.from < DEEP ? k - p.from : DEEP;
            multiply(&p, a + tap * rows, b, p.add ? NULL : init, c, ldc, &next);
            b += p.taps * p.k * vecs * VW;
            next.a += p.taps * p.k * next.a_step;
            next.b += p.taps * p.k * next.b_step;
            p.add = true;
        }
    }
}

/* What block i of n fetches while it multiplies `length` floats of a panel: its share of as many
 * that follow. One block alone needs a second stream for that; others fetch the next one's rows,
 * from `rows` on, if there are any. */
CPU_INLINE struct cpu_ahead ahead_of(int i, int n, const float *b, int64_t length, int64_t width,
                                     const float *rows)
{
    const int64_t share = (width + n - 1) / n;
    struct cpu_ahead ahead = {rows ? rows : b, b + length + i * (length / n), rows ? 16 : 0, share};
    if (n == 1 && width > 16)
        ahead.a = ahead.b + 16, ahead.a_step = share;
    return ahead;
}

/* Part by part, so that all blocks find it in the caches. */
static void gemm_panel(int n, const struct cpu_rows *blocks, int vecs, int64_t taps, int64_t k,
                       const float *b, const float *init)
{
    const bool whole = taps * k <= PART || (taps == 1 && k <= DEEP);
    const int64_t most_taps = whole ? taps : k <= PART / 2 ? PART / (int32_t)k : 1;
    const int64_t most = whole ? k : DEEP, width = vecs * VW;
    struct part p = {.add = false};
    int64_t tap = 0;
    do { /* once where there are no taps */
        p.taps = taps - tap < most_taps ? taps - tap : most_taps;
        for (p.from = 0; p.from < k; p.from += p.k) {
            p.k = k - p.from < most ? k - p.from : most;
            const int64_t length = p.taps * p.k * width;
            for (int i = 0; i < n; i++) {
                const struct cpu_rows *r = &blocks[i];
                const float *const *a = (const float *const *)r->a;
                const float *next = taps == 1 && i + 1 < n ? (const float *)r[1].a[0] : NULL;
                const struct cpu_ahead ahead =
                    ahead_of(i, n, b, length, width, next ? next + p.from : NULL);
                products[r->rows - 1][vecs - 1](&p, a + tap * r->rows, b, p.add ? NULL : init, r->c,
                                                r->ldc, &ahead);
            }
            b += length;
            p.add = true;
        }
        tap += p.taps;
    } while (tap < taps);
}

/* --- products with bf16 weights ---
 * The same tiles; a step takes two neighbours of a row and of a column. One chain for each sum: the
 * factors' rounding is hundreds of times its error. With BF16's instructions rows are bf16 numbers
 * too; without, floats: widening them once costs less than in every product. */
#if defined(CPU_LEVEL_BF16)
typedef uint16_t factor;
#define DOTS2(i)                                                                                   \
    {                                                                                              \
        const vi x = v_pair(r##i + 2 * j);                                                         \
        a##i = v_dot(a##i, x, u0);                                                                 \
        b##i = v_dot(b##i, x, u1);                                                                 \
    }
#define DOTS1(i) a##i = v_dot(a##i, v_pair(r##i + 2 * j), u0);
#define PAIRS2(R) REP_##R(DOTS2)
#define PAIRS1(R) REP_##R(DOTS1)

CPU_INLINE vf v_factor(const uint16_t *p)
{
    const uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return v_set(x);
}
#else
typedef float factor;
#define v_factor(p) v_set(*(p))
/* all second ones, then all first ones: fewer registers at a time */
#define UPPER2(i)                                                                                  \
    {                                                                                              \
        const vf x = v_set(r##i[2 * j + 1]);                                                       \
        a##i = v_fma(x, h0, a##i);                                                                 \
        b##i = v_fma(x, h1, b##i);                                                                 \
    }
#define LOWER2(i)                                                                                  \
    {                                                                                              \
        const vf x = v_set(r##i[2 * j]);                                                           \
        a##i = v_fma(x, l0, a##i);                                                                 \
        b##i = v_fma(x, l1, b##i);                                                                 \
    }
#define UPPER1(i) a##i = v_fma(v_set(r##i[2 * j + 1]), h0, a##i);
#define LOWER1(i) a##i = v_fma(v_set(r##i[2 * j]), l0, a##i);
#define PAIRS2(R)                                                                                  \
    {                                                                                              \
        const vf h0 = v_upper(u0), h1 = v_upper(u1);                                               \
        REP_##R(UPPER2)                                                                            \
    }                                                                                              \
    {                                                                                              \
        const vf l0 = v_lower(u0), l1 = v_lower(u1);                                               \
        REP_##R(LOWER2)                                                                            \
    }
#define PAIRS1(R)                                                                                  \
    {                                                                                              \
        const vf h0 = v_upper(u0);                                                                 \
        REP_##R(UPPER1)                                                                            \
    }                                                                                              \
    {                                                                                              \
        const vf l0 = v_lower(u0);                                                                 \
        REP_##R(LOWER1)                                                                            \
    }
#endif
#define ROW16(i) const factor *r##i = a[i] + from;
#define RESUME2(i)                                                                                 \
    a##i = v_load(c + (i)*ldc);                                                                    \
    b##i = v_load(c + (i)*ldc + VW);
#define RESUME1(i) a##i = v_load(c + (i)*ldc);
/* an odd last one, beside a weight of zero */
#define LAST2(i)                                                                                   \
    {                                                                                              \
        const vf x = v_factor(r##i + k - 1);                                                       \
        a##i = v_fma(x, l0, a##i);                                                                 \
        b##i = v_fma(x, l1, b##i);                                                                 \
    }
#define LAST1(i) a##i = v_fma(v_factor(r##i + k - 1), l0, a##i);

#define PRODUCT16(R)                                                                               \
    static void product16_##R##x2(const struct part *p, const factor *const *a, const float *b,    \
                                  const float *init, float *c, int64_t ldc,                        \
                                  const struct cpu_ahead *at)                                      \
    {                                                                                              \
        const int64_t from = p->from, taps = p->taps, k = p->k;                                    \
        struct cpu_ahead ahead = *at;                                                              \
        const vf init0 = init ? v_load(init) : v_zero();                                           \
        const vf init1 = init ? v_load(init + VW) : v_zero();                                      \
        REP_##R(START2) if (p->add)                                                                \
        {                                                                                          \
            REP_##R(RESUME2)                                                                       \
        }                                                                                          \
        for (int64_t tap = 0; tap < taps; tap++, a += (R)) {                                       \
            REP_##R(ROW16) CPU_UNROLL for (int64_t j = 0; j < k / 2; j++, b += 2 * VW)             \
            {                                                                                      \
                __builtin_prefetch(ahead.a);                                                       \
                ahead.a += ahead.a_step;                                                           \
                __builtin_prefetch(ahead.b, 0, 2);                                                 \
                ahead.b += ahead.b_step;                                                           \
                const vi u0 = (vi)v_load(b), u1 = (vi)v_load(b + VW);                              \
                PAIRS2(R)                                                                          \
            }                                                                                      \
            if (k % 2) {                                                                           \
                const vf l0 = v_lower((vi)v_load(b)), l1 = v_lower((vi)v_load(b + VW));            \
                REP_##R(LAST2) b += 2 * VW;                                                        \
            }                                                                                      \
        }                                                                                          \
        REP_##R(STORE2)                                                                            \
    }                                                                                              \
    static void product16_##R##x1(const struct part *p, const factor *const *a, const float *b,    \
                                  const float *init, float *c, int64_t ldc,                        \
                                  const struct cpu_ahead *at)                                      \
    {                                                                                              \
        (void)at;                                                                                  \
        const int64_t from = p->from, taps = p->taps, k = p->k;                                    \
        const vf init0 = init ? v_load(init) : v_zero();                                           \
        REP_##R(START1) if (p->add)                                                                \
        {                                                                                          \
            REP_##R(RESUME1)                                                                       \
        }                                                                                          \
        for (int64_t tap = 0; tap < taps; tap++, a += (R)) {                                       \
            REP_##R(ROW16) CPU_UNROLL for (int64_t j = 0; j < k / 2; j++, b += VW)                 \
            {                                                                                      \
                const vi u0 = (vi)v_load(b);                                                       \
                PAIRS1(R)                                                                          \
            }                                                                                      \
            if (k % 2) {                                                                           \
                const vf l0 = v_lower((vi)v_load(b));                                              \
                REP_##R(LAST1) b += VW;                                                            \
            }                                                                                      \
        }                                                                                          \
        REP_##R(STORE1)                                                                            \
    }

PRODUCT16(1)
PRODUCT16(2)
PRODUCT16(3)
PRODUCT16(4)
PRODUCT16(5)
PRODUCT16(6)
#if CPU_ROWS > 6
PRODUCT16(7)
PRODUCT16(8)
PRODUCT16(9)
PRODUCT16(10)
PRODUCT16(11)
PRODUCT16(12)
PRODUCT16(13)
PRODUCT16(14)
#endif

typedef void (*product16)(const struct part *p, const factor *const *a, const float *b,
                          const float *init, float *c, int64_t ldc, const struct cpu_ahead *at);

#define PAIR16(R) {product16_##R##x1, product16_##R##x2},
static const product16 products16[CPU_ROWS][2] = {
    PAIR16(1) PAIR16(2) PAIR16(3) PAIR16(4) PAIR16(5) PAIR16(6)
#if CPU_ROWS > 6
        PAIR16(7) PAIR16(8) PAIR16(9) PAIR16(10) PAIR16(11) PAIR16(12) PAIR16(13) PAIR16(14)
#endif
};

static void gemm16(int rows, int vecs, const void *const *a, int64_t taps, int64_t k,
                   const float *b, const float *init, float *c, int64_t ldc,
                   const struct cpu_ahead *ahead)
{
    const struct part p = {.taps = taps, .k = k};
    products16[rows - 1][vecs - 1](&p, (const factor *const *)a, b, init, c, ldc, ahead);
}

/* In parts too, but each continues the chain of the one before. */
static void gemm16_panel(int n, const struct cpu_rows *blocks, int vecs, int64_t taps, int64_t k,
                         const float *b, const float *init)
{
    const int64_t most_taps = k <= DEEP ? 2 * DEEP / (int32_t)k : 1, width = vecs * VW;
    struct part p = {.add = false};
    int64_t tap = 0;
    do { /* once where there are no taps */
        p.taps = taps - tap < most_taps ? taps - tap : most_taps;
        for (p.from = 0; p.from < k; p.from += p.k) {
            p.k = k - p.from < 2 * DEEP ? k - p.from : 2 * DEEP;
            const int64_t length = p.taps * ((p.k + 1) / 2) * width;
            for (int i = 0; i < n; i++) {
                const struct cpu_rows *r = &blocks[i];
                const factor *const *a = (const factor *const *)r->a;
                const factor *next = taps == 1 && i + 1 < n ? (const factor *)r[1].a[0] : NULL;
                const struct cpu_ahead ahead =
                    ahead_of(i, n, b, length, width,
                             next ? (const float *)(const void *)(next + p.from) : NULL);
                products16[r->rows - 1][vecs - 1](&p, a + tap * r->rows, b, init, r->c, r->ldc,
                                                  &ahead);
            }
            b += length;
            p.add = true;
        }
        tap += p.taps;
    } while (tap < taps);
}

static void widen(int64_t n, const uint16_t *src, float *dst)
{
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t m = n - i < VW ? n - i : VW;
        v_store_n(dst + i, v_load16_n(src + i, m), m);
    }
}

static void narrow(int64_t n, const float *src, uint16_t *dst)
{
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t m = n - i < VW ? n - i : VW;
        v_store16_n(dst + i, v_load_n(src + i, m), m);
    }
}

static void interleave(int64_t n, const uint16_t *first, const uint16_t *second, float *dst)
{
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t m = n - i < VW ? n - i : VW;
        const vu low = (vu)v_load16_n(first + i, m), high = (vu)v_load16_n(second + i, m);
        v_store_n(dst + i, (vf)(low >> 16 | high), m);
    }
}

/* --- elementwise --- */

/* The loop over vectors and a rest; `e` computes y from x. */
#define MAP1(e)                                                                                    \
    do {                                                                                           \
        for (int64_t i = 0; i < n; i += VW) {                                                      \
            const int64_t m = n - i < VW ? n - i : VW;                                             \
            const vf x = v_load_n(src + i, m);                                                     \
            v_store_n(dst + i, (e), m);                                                            \
        }                                                                                          \
        return;                                                                                    \
    } while (0)

static void unary(demist_op op, int64_t n, float *dst, const float *src, float p0, float p1)
{
    const vf zero = v_zero(), a = v_set(p0), b = v_set(p1);
    switch ((int)op) {
    case DEMIST_OP_NEG:
        MAP1(-x);
    case DEMIST_OP_ABS:
        MAP1(v_abs(x));
    case DEMIST_OP_EXP:
        MAP1(v_exp(x));
    case DEMIST_OP_LOG:
        MAP1(v_log(x));
    case DEMIST_OP_SQRT:
        MAP1(v_sqrt(x));
    case DEMIST_OP_TANH:
        MAP1(v_tanh(x));
    case DEMIST_OP_ERF:
        MAP1(v_erf(x));
    case DEMIST_OP_SIGMOID:
        MAP1(v_sigmoid(x));
    case DEMIST_OP_RELU:
        MAP1(v_max(zero, x));
    case DEMIST_OP_SILU:
        MAP1(v_silu(x));
    case DEMIST_OP_GELU:
        MAP1(v_gelu(x));
    case DEMIST_OP_AFFINE:
        MAP1(v_fma(a, x, b));
    case DEMIST_OP_CLAMP:
        MAP1(v_min(b, v_max(a, x)));
    case DEMIST_OP_SIN:
        for (int64_t i = 0; i < n; i++)
            dst[i] = cpu_sin_shifted(src[i], 0);
        return;
    case DEMIST_OP_COS:
        for (int64_t i = 0; i < n; i++)
            dst[i] = cpu_sin_shifted(src[i], 1);
        return;
    }
}

#define MAP2(e)                                                                                    \
    do {                                                                                           \
        for (int64_t i = 0; i < n; i += VW) {                                                      \
            const int64_t m = n - i < VW ? n - i : VW;                                             \
            const vf x = v_load_n(left + i, m);                                                    \
            LOAD_RIGHT;                                                                            \
            v_store_n(dst + i, (e), m);                                                            \
        }                                                                                          \
        return;                                                                                    \
    } while (0)
/* min and max are NaN where either operand is */
#define BINARY_OPS                                                                                 \
    switch ((int)op) {                                                                             \
    case DEMIST_OP_ADD:                                                                            \
        MAP2(x + y);                                                                               \
    case DEMIST_OP_SUB:                                                                            \
        MAP2(x - y);                                                                               \
    case DEMIST_OP_MUL:                                                                            \
        MAP2(x *y);                                                                                \
    case DEMIST_OP_DIV:                                                                            \
        MAP2(x / y);                                                                               \
    case DEMIST_OP_MIN:                                                                            \
        MAP2(v_if_nan(x, v_min(x, y)));                                                            \
    case DEMIST_OP_MAX:                                                                            \
        MAP2(v_if_nan(x, v_max(x, y)));                                                            \
    case DEMIST_OP_LESS:                                                                           \
        MAP2(v_if_less(x, y, v_set(1.0f), v_zero()));                                              \
    }

/* x where it is NaN, else y */
CPU_INLINE vf v_if_nan(vf x, vf y)
{
    const vi nan = x != x; /* NOLINT(misc-redundant-expression) */
    return (vf)((nan & (vi)x) | (~nan & (vi)y));
}

static void binary(demist_op op, int64_t n, float *dst, const float *left, const float *right)
{
#define LOAD_RIGHT const vf y = v_load_n(right + i, m)
    BINARY_OPS
#undef LOAD_RIGHT
}

static void scalar_right(demist_op op, int64_t n, float *dst, const float *left, float right){
#define LOAD_RIGHT const vf y = v_set(right)
    BINARY_OPS
#undef LOAD_RIGHT
}

CPU_INLINE void store_as(int rows, int64_t n, const float *tile, int64_t ld, void *const *add,
                         bool add_bf16, void *const *to, bool to_bf16)
{
    if (n == 2 * VW) { /* a whole panel */
        for (int i = 0; i < rows; i++, tile += ld) {
            vf a = v_load(tile), b = v_load(tile + VW);
            if (add) {
                a += v_load_as(add[i], add_bf16, 0, VW);
                b += v_load_as(add[i], add_bf16, VW, VW);
            }
            v_store_as(to[i], to_bf16, 0, a, VW);
            v_store_as(to[i], to_bf16, VW, b, VW);
        }
        return;
    }
    for (int i = 0; i < rows; i++, tile += ld)
        for (int64_t j = 0; j < n; j += VW) {
            const int64_t m = n - j < VW ? n - j : VW;
            vf x = v_load_n(tile + j, m);
            if (add)
                x += v_load_as(add[i], add_bf16, j, m);
            v_store_as(to[i], to_bf16, j, x, m);
        }
}

static void store(int rows, int64_t n, const float *tile, int64_t ld, void *const *add,
                  bool add_bf16, void *const *to, bool to_bf16)
{
    if (!to_bf16 && !add_bf16)
        store_as(rows, n, tile, ld, add, false, to, false);
    else if (!to_bf16)
        store_as(rows, n, tile, ld, add, true, to, false);
    else if (!add_bf16)
        store_as(rows, n, tile, ld, add, false, to, true);
    else
        store_as(rows, n, tile, ld, add, true, to, true);
}

static void select_kernel(int64_t n, float *dst, const float *c, const float *left,
                          const float *right)
{
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t m = n - i < VW ? n - i : VW;
        const vf x = v_load_n(left + i, m), y = v_load_n(right + i, m);
        const vi nonzero = v_load_n(c + i, m) != v_zero();
        v_store_n(dst + i, (vf)((nonzero & (vi)x) | (~nonzero & (vi)y)), m);
    }
}

static void multiply_add(int64_t n, float *dst, const float *x, const float *y, const float *z)
{
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t m = n - i < VW ? n - i : VW;
        v_store_n(dst + i, v_fma(v_load_n(x + i, m), v_load_n(y + i, m), v_load_n(z + i, m)), m);
    }
}

/* --- normalisation --- */

/* Vectors of channels that statistics take at once: their rows' cache lines lie side by side. */
enum { STATS = VW == 16 ? 4 : 2 };

/* s + d^power, power 1 or 2 */
CPU_INLINE vf add_power(vf d, int power, vf s)
{
    if (power == 1)
        return s + d;
    return v_fma(d, d, s);
}

/* sum[v] += Σ (x - m[v])^power over n <= 64 rows of `vecs` vectors, four sums side by side. */
CPU_INLINE void sum_rows(const void *x, bool bf16, int64_t at, int64_t n, int64_t ld, int vecs,
                         int64_t lanes, const vf *m, int power, vf *sum)
{
    vf s[4][STATS];
    for (int k = 0; k < 4; k++)
        for (int v = 0; v < vecs; v++)
            s[k][v] = v_zero();
    int64_t i = 0;
    for (; i + 4 <= n; i += 4, at += 4 * ld)
        for (int k = 0; k < 4; k++)
            for (int v = 0; v < vecs; v++) {
                const vf d = v_load_as(x, bf16, at + k * ld + v * VW, lanes) - m[v];
                s[k][v] = add_power(d, power, s[k][v]);
            }
    for (; i < n; i++, at += ld)
        for (int v = 0; v < vecs; v++) {
            const vf d = v_load_as(x, bf16, at + v * VW, lanes) - m[v];
            s[0][v] = add_power(d, power, s[0][v]);
        }
    for (int v = 0; v < vecs; v++)
        sum[v] += (s[0][v] + s[1][v]) + (s[2][v] + s[3][v]);
}

/* The same over any number, in a cascade: 64 rows, 64 of those, all of these. An error here scales
 * or shifts a whole group of channels, so sums must be better than one long chain. */
CPU_INLINE void sum_pixels(const void *x, bool bf16, int64_t at, int64_t pixels, int64_t ld,
                           int vecs, int64_t lanes, const vf *m, int power, vf *all)
{
    for (int v = 0; v < vecs; v++)
        all[v] = v_zero();
    for (int64_t i = 0; i < pixels;) {
        vf part[STATS];
        for (int v = 0; v < vecs; v++)
            part[v] = v_zero();
        for (int k = 0; k < 64 && i < pixels; k++) {
            const int64_t n = pixels - i < 64 ? pixels - i : 64;
            sum_rows(x, bf16, at + i * ld, n, ld, vecs, lanes, m, power, part);
            i += n;
        }
        for (int v = 0; v < vecs; v++)
            all[v] += part[v];
    }
}

/* Two passes: the squares are of differences from the mean. */
CPU_INLINE void stats_of(const void *x, bool bf16, int64_t pixels, int64_t ld, int64_t c, int vecs,
                         int64_t lanes, float *mean, float *m2)
{
    const vf count = v_set((float)pixels);
    vf m[STATS], sum[STATS];
    for (int v = 0; v < vecs; v++)
        m[v] = v_zero();
    sum_pixels(x, bf16, c, pixels, ld, vecs, lanes, m, 1, sum);
    for (int v = 0; v < vecs; v++) {
        m[v] = sum[v] / count;
        v_store_n(mean + c + v * VW, m[v], lanes);
    }
    sum_pixels(x, bf16, c, pixels, ld, vecs, lanes, m, 2, sum);
    for (int v = 0; v < vecs; v++)
        v_store_n(m2 + c + v * VW, sum[v], lanes);
}

CPU_INLINE void stats_as(const void *x, bool bf16, int64_t pixels, int64_t ld, int64_t channels,
                         float *mean, float *m2)
{
    int64_t c = 0;
    for (; c + STATS * VW <= channels; c += STATS * VW)
        stats_of(x, bf16, pixels, ld, c, STATS, VW, mean, m2);
    for (; c < channels; c += VW)
        stats_of(x, bf16, pixels, ld, c, 1, channels - c < VW ? channels - c : VW, mean, m2);
}

static void channel_stats(const void *x, bool bf16, int64_t pixels, int64_t ld, int64_t channels,
                          float *mean, float *m2)
{
    if (bf16)
        stats_as(x, true, pixels, ld, channels, mean, m2);
    else
        stats_as(x, false, pixels, ld, channels, mean, m2);
}

/* One vector of an activation that is not worth a loop of its own. */
static vf apply(demist_op act, vf v)
{
    float x[VW];
    v_store(x, v);
    unary(act, VW, x, x, 0, 0);
    return v_load(x);
}

#define NORMALISE(e)                                                                               \
    for (int64_t i = 0; i < pixels; i++)                                                           \
        for (int64_t c = 0; c < channels; c += VW) {                                               \
            const int64_t n = channels - c < VW ? channels - c : VW;                               \
            const vf v = v_fma(v_load_as(x, x_bf16, i * ldx + c, n) - v_load_n(mean + c, n),       \
                               v_load_n(scale + c, n), v_load_n(shift + c, n));                    \
            v_store_as(y, y_bf16, i *ldy + c, (e), n);                                             \
        }

CPU_INLINE void normalise_as(demist_op act, const void *x, bool x_bf16, int64_t ldx, void *y,
                             bool y_bf16, int64_t ldy, int64_t pixels, int64_t channels,
                             const float *mean, const float *scale, const float *shift)
{
    switch ((int)act) {
    case DEMIST_OP_SILU:
        NORMALISE(v_silu(v))
        return;
    case DEMIST_OP_RELU:
        NORMALISE(v_max(v_zero(), v))
        return;
    case DEMIST_OP_GELU:
        NORMALISE(v_gelu(v))
        return;
    case 0:
        NORMALISE(v)
        return;
    default:
        NORMALISE(apply(act, v))
    }
}

static void normalise(demist_op act, const void *x, bool x_bf16, int64_t ldx, void *y, bool y_bf16,
                      int64_t ldy, int64_t pixels, int64_t channels, const float *mean,
                      const float *scale, const float *shift)
{
#define AS(xb, yb) normalise_as(act, x, xb, ldx, y, yb, ldy, pixels, channels, mean, scale, shift)
    if (x_bf16 && y_bf16)
        AS(true, true);
    else if (x_bf16)
        AS(true, false);
    else if (y_bf16)
        AS(false, true);
    else
        AS(false, false);
#undef AS
}

static void layer_norm(int64_t n, const float *x, float *y, const float *gamma, const float *beta,
                       float eps)
{
    vf s = v_zero();
    int64_t i = 0;
    for (; i + VW <= n; i += VW)
        s += v_load(x + i);
    float sum = v_sum(s);
    for (int64_t j = i; j < n; j++)
        sum += x[j];
    const float mean = sum / (float)n;
    const vf m = v_set(mean);
    s = v_zero();
    for (i = 0; i + VW <= n; i += VW) {
        const vf d = v_load(x + i) - m;
        s = v_fma(d, d, s);
    }
    float m2 = v_sum(s);
    for (int64_t j = i; j < n; j++)
        m2 += (x[j] - mean) * (x[j] - mean);
    const vf scale = v_set(1.0f / __builtin_sqrtf(m2 / (float)n + eps));
    for (i = 0; i < n; i += VW) {
        const int64_t k = n - i < VW ? n - i : VW;
        vf v = (v_load_n(x + i, k) - m) * scale;
        if (gamma)
            v *= v_load_n(gamma + i, k);
        if (beta)
            v += v_load_n(beta + i, k);
        v_store_n(y + i, v, k);
    }
}

/* A NaN or +inf anywhere gives NaN everywhere; -inf gives 0 beside finite values. */
static float softmax(int64_t n, float *x, float scale)
{
    enum { SIDE = 4 }; /* chains side by side */
    const vf s = v_set(scale);
    vf largest[SIDE], sums[SIDE];
    for (int k = 0; k < SIDE; k++) {
        largest[k] = v_set(-__builtin_inff());
        sums[k] = v_zero();
    }
    int64_t i = 0;
    for (; i + SIDE * VW <= n; i += SIDE * VW)
        for (int k = 0; k < SIDE; k++)
            largest[k] = v_max(largest[k], v_load(x + i + k * VW) * s);
    for (; i + VW <= n; i += VW)
        largest[0] = v_max(largest[0], v_load(x + i) * s);
    float top = v_max_lane(v_max(v_max(largest[0], largest[1]), v_max(largest[2], largest[3])));
    for (int64_t j = i; j < n; j++) {
        const float y = x[j] * scale;
        top = y > top ? y : top;
    }
    const vf t = v_set(top);
    for (i = 0; i + SIDE * VW <= n; i += SIDE * VW)
        for (int k = 0; k < SIDE; k++) {
            const vf e = v_exp(v_load(x + i + k * VW) * s - t);
            sums[k] += e;
            v_store(x + i + k * VW, e);
        }
    for (; i < n; i += VW) {
        const int64_t rest = n - i < VW ? n - i : VW;
        v_store_n(x + i, v_exp(v_load_n(x + i, rest) * s - t), rest);
        sums[0] += v_load_n(x + i, rest);
    }
    return v_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/* --- Winograd ---
 * F(4x4, 3x3) with points 0, ±5/8, ±3/2, ∞: half the error of 0, ±1, ±2, ∞. The 1-D transforms read
 * vectors s apart and write them t apart. */
#define P_A 0.625f
#define P_B 1.5f

CPU_INLINE void input_4(const vf *d, int s, vf *o, int t)
{
    const vf a = v_set(P_A), b = v_set(P_B);
    const vf aa = v_set(P_A * P_A), bb = v_set(P_B * P_B);
    const vf aabb = v_set(P_A * P_A * P_B * P_B), sum = v_set(P_A * P_A + P_B * P_B);
    const vf d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s];
    o[0] = v_fma(aabb, d[0], v_fnma(sum, d2, d4));
    vf even = v_fnma(bb, d2, d4), odd = v_fnma(bb, d1, d3);
    o[t] = v_fma(a, odd, even);
    o[2 * t] = v_fnma(a, odd, even);
    even = v_fnma(aa, d2, d4), odd = v_fnma(aa, d1, d3);
    o[3 * t] = v_fma(b, odd, even);
    o[4 * t] = v_fnma(b, odd, even);
    o[5 * t] = v_fma(aabb, d1, v_fnma(sum, d3, d[5 * s]));
}

CPU_INLINE void output_4(const vf *d, int s, vf *o, int t)
{
    const vf e1 = d[s] + d[2 * s], o1 = d[s] - d[2 * s];
    const vf e2 = d[3 * s] + d[4 * s], o2 = d[3 * s] - d[4 * s];
    o[0] = d[0] + (e1 + e2);
    o[t] = v_fma(v_set(P_A), o1, v_set(P_B) * o2);
    o[2 * t] = v_fma(v_set(P_A * P_A), e1, v_set(P_B * P_B) * e2);
    o[3 * t] = v_fma(v_set(P_A * P_A * P_A), o1, v_fma(v_set(P_B * P_B * P_B), o2, d[5 * s]));
}

CPU_INLINE void input_2(const vf *d, int s, vf *o, int t)
{
    o[0] = d[0] - d[2 * s];
    o[t] = d[s] + d[2 * s];
    o[2 * t] = d[2 * s] - d[s];
    o[3 * t] = d[s] - d[3 * s];
}

CPU_INLINE void output_2(const vf *d, int s, vf *o, int t)
{
    o[0] = d[0] + (d[s] + d[2 * s]);
    o[t] = (d[s] - d[2 * s]) - d[3 * s];
}

/* Tiles lie in pieces all over the picture, which the hardware does not foresee: the pixels that
 * the next one does not share are fetched early. */
CPU_INLINE void transform_input(int m, const void *x, bool x_bf16, int64_t row_stride,
                                int64_t pixel_stride, int h, int w, int y0, int x0, int up,
                                int64_t channels, int64_t next, void *v, bool v_bf16, int64_t step)
{
    const int size = m + 2;
    int64_t pixel[36]; /* -1: outside */
    for (int r = 0; r < size; r++)
        for (int c = 0; c < size; c++) {
            const int y = y0 + r, z = x0 + c;
            const bool inside = y >= 0 && y < h && z >= 0 && z < w;
            pixel[r * size + c] = inside ? (y >> up) * row_stride + (z >> up) * pixel_stride : -1;
        }
    for (int64_t k = 0; k < channels; k += VW) {
        const int64_t n = channels - k < VW ? channels - k : VW;
        vf d[36], e[6];
        for (int r = 0; r < size; r++) {
            for (int c = 0; c < size; c++) {
                const int64_t p = pixel[r * size + c];
                e[c] = p >= 0 ? v_load_as(x, x_bf16, p + k, n) : v_zero();
                if (c >= 2)
                    __builtin_prefetch((const char *)x + (p + k + next) * (x_bf16 ? 2 : 4));
            }
            if (m == 4)
                input_4(e, 1, d + r * size, 1);
            else
                input_2(e, 1, d + r * size, 1);
        }
        for (int c = 0; c < size; c++) {
            if (m == 4)
                input_4(d + c, size, e, 1);
            else
                input_2(d + c, size, e, 1);
            for (int r = 0; r < size; r++)
                v_store_as(v, v_bf16, (r * size + c) * step + k, e[r], n);
        }
    }
}

static void winograd_input(int m, const void *x, bool x_bf16, int64_t row_stride,
                           int64_t pixel_stride, int h, int w, int y0, int x0, int up,
                           int64_t channels, int64_t next, void *v, bool v_bf16, int64_t step)
{
#define AS(m, xb, vb)                                                                              \
    transform_input(m, x, xb, row_stride, pixel_stride, h, w, y0, x0, up, channels, next, v, vb,   \
                    step)
    if (!x_bf16 && m == 4)
        AS(4, false, false);
    else if (!x_bf16)
        AS(2, false, false);
    else if (m == 4)
        AS(4, true, false);
#if defined(CPU_LEVEL_BF16)
    else if (v_bf16)
        AS(2, true, true);
#endif
    else
        AS(2, true, false);
#undef AS
}

/* Results lie in pieces as the input does; what is added to them is fetched a tile early. */
CPU_INLINE void transform_output(int m, const float *p, int64_t step, int vecs, const float *bias,
                                 const struct cpu_patch *add, const struct cpu_patch *out)
{
    const int size = m + 2;
    const int64_t row = out->row, column = out->column;
    const int64_t add_row = add ? add->row : 0, add_column = add ? add->column : 0;
    const float *const add_at = add ? add->at : NULL, *const add_next = add ? add->next : NULL;
    float *const at = out->at;
    for (int64_t k = 0; k < vecs * VW; k += VW) {
        vf d[36], e[6], o[4];
        for (int c = 0; c < size; c++) {
            for (int r = 0; r < size; r++)
                e[r] = v_load(p + (r * size + c) * step + k);
            if (m == 4)
                output_4(e, 1, d + c, size);
            else
                output_2(e, 1, d + c, size);
        }
        const vf b = v_load(bias + k);
        for (int r = 0; r < m; r++) {
            if (m == 4)
                output_4(d + r * size, 1, o, 1);
            else
                output_2(d + r * size, 1, o, 1);
            for (int c = 0; c < m; c++) {
                vf x = o[c] + b;
                if (add) {
                    x += v_load(add_at + r * add_row + c * add_column + k);
                    __builtin_prefetch(add_next + r * add_row + c * add_column + k);
                }
                v_store(at + r * row + c * column + k, x);
            }
        }
    }
}

static void winograd_output(int m, const float *p, int64_t step, int vecs, const float *bias,
                            const struct cpu_patch *add, const struct cpu_patch *out)
{
    if (m == 4 && add)
        transform_output(4, p, step, vecs, bias, add, out);
    else if (m == 4)
        transform_output(4, p, step, vecs, bias, NULL, out);
    else
        transform_output(2, p, step, vecs, bias, add, out);
}

#if defined(CPU_LEVEL_AVX512)
/* Lanes j of r[i + s] and j + s of r[i] change places, for i and j without bit s. */
CPU_INLINE void swap_blocks(vf *r, int s)
{
    const vi j = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const vi low = j + (((j & s) != 0) & (VW - s)), high = low + s;
    CPU_UNROLL_16
    for (int i = 0; i < VW; i++) {
        if (i & s)
            continue;
        const __m512 a = (__m512)r[i], b = (__m512)r[i + s];
        r[i] = (vf)_mm512_permutex2var_ps(a, (__m512i)low, b);
        r[i + s] = (vf)_mm512_permutex2var_ps(a, (__m512i)high, b);
    }
}
#endif

static void transpose(const float *src, int64_t lds, int64_t rows, int64_t columns, float *dst,
                      int64_t ldd)
{
    enum { BLOCK = 16 };
    for (int64_t c0 = 0; c0 < columns; c0 += BLOCK)
        for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
            const int64_t c1 = c0 + BLOCK < columns ? c0 + BLOCK : columns;
            const int64_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows;
#if defined(CPU_LEVEL_AVX512)
            if (c1 - c0 == VW && r1 - r0 == VW) {
                vf r[VW];
                for (int i = 0; i < VW; i++)
                    r[i] = v_load(src + (r0 + i) * lds + c0);
                swap_blocks(r, 8);
                swap_blocks(r, 4);
                swap_blocks(r, 2);
                swap_blocks(r, 1);
                for (int i = 0; i < VW; i++)
                    v_store(dst + (c0 + i) * ldd + r0, r[i]);
                continue;
            }
#endif
            for (int64_t c = c0; c < c1; c++)
                for (int64_t r = r0; r < r1; r++)
                    dst[c * ldd + r] = src[r * lds + c];
        }
}

/* The table but for its name and tiles. */
#define CPU_KERNEL_TABLE                                                                           \
    .vw = VW, .mr = CPU_ROWS, .nr = 2 * VW, .fused = VW > 4, .bf16 = CPU_HAS_BF16, .gemm = gemm,   \
    .gemm_panel = gemm_panel, .gemm16 = gemm16, .gemm16_panel = gemm16_panel, .widen = widen,      \
    .narrow = narrow, .interleave = interleave, .unary = unary, .binary = binary,                  \
    .scalar_right = scalar_right, .store = store, .select = select_kernel,                         \
    .multiply_add = multiply_add, .channel_stats = channel_stats, .normalise = normalise,          \
    .layer_norm = layer_norm, .softmax = softmax, .winograd_input = winograd_input,                \
    .winograd_output = winograd_output, .transpose = transpose

const struct cpu_kernels CPU_KERNELS = {.name = CPU_LEVEL_NAME, CPU_KERNEL_TABLE};

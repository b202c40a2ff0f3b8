/* What only the CPU backend promises: every level of the instruction set that the machine has gives
 * networks within their bound, the same bits for any threads and batch, functions within a few ulp,
 * Winograd within 8e-6, and in strict precision no more than three times a chain's error; bf16
 * numbers are rounded and multiplied alike at every level. Levels that the machine lacks are named
 * and skipped. */
#include "testing.h"

#include "graphbuild.h"
#include "harness.h"
#include "passes.h"
#include "philox.h"
#include "unet_graph.h"

#include "../../backends/cpu/cpu_program.h"

#include <float.h>
#include <math.h>

extern const demist_plugin demist_plugin_v1_backend_cpu, demist_plugin_v1_backend_reference;

static const char *const levels[] = {"generic",     "avx2",         "avx512",
                                     "avx512-bf16", "amx-emulated", "amx"};
enum { LEVELS = 6, BATCH = 5 };

/* A small network with all that the large one has. */
static const struct unet_shape small = {16, 32, 1, {1, 2, 3}, 3, 8 | 4, 2, 6};

/* --- levels --- */

/* False, with the reason printed, where the machine lacks the level. */
static bool open_level(struct harness *h, int level, int threads)
{
    char option[32];
    snprintf(option, sizeof option, "isa = %s", levels[level]);
    if (harness_try_open(h, &demist_plugin_v1_backend_cpu, threads, (const char *[]){option, NULL}))
        return true;
    print_message("skipped: %s\n", h->error.text);
    harness_close(h);
    return false;
}

static void test_a_forced_level_is_used_or_refused_with_a_reason(void **state)
{
    for (int i = 0; i < LEVELS; i++) {
        struct harness h;
        const char *why = NULL;
        const struct cpu_kernels *kernels = cpu_find_kernels(levels[i], &why);
        if (open_level(&h, i, 1)) {
            assert_contains(h.vtable->device_info(h.device)->detail, levels[i]);
            assert_string_equal(kernels->name, levels[i]);
            harness_close(&h);
        } else {
            assert_null(kernels);
            assert_non_null(why);
        }
    }
}

/* --- functions --- */

struct function {
    const char *name;
    demist_op op;
    long double (*exact)(long double);
    double lo, hi, ulp;
};

static long double exact_sigmoid(long double x)
{
    return 1 / (1 + expl(-x));
}

static long double exact_silu(long double x)
{
    return x / (1 + expl(-x));
}

static long double exact_gelu(long double x)
{
    return 0.5L * x * erfcl(-x * 0.70710678118654752440084436210484904L);
}

/* In units of the last place of the exact value, at least of the smallest normal float. */
static double ulps(float got, long double exact)
{
    const float nearest = (float)exact;
    if (got == nearest || (isnan(got) && isnan(nearest)))
        return 0;
    int exponent;
    frexpl(exact, &exponent);
    const int last = exponent - 24 > -149 ? exponent - 24 : -149;
    return (double)(fabsl((long double)got - exact) / ldexpl(1, last));
}

static double worst(const struct cpu_kernels *k, const struct function *f)
{
    enum { N = 40000 };
    static float x[N], y[N];
    uint32_t r = 1;
    for (int i = 0; i < N; i++) {
        r = r * 1664525 + 1013904223;
        const double u = r * 0x1p-32;
        x[i] = (float)(f->lo + u * (f->hi - f->lo)); /* evenly, and towards zero */
        if (i % 2 == 0)
            x[i] *= (float)pow(2, -60.0 * i / N);
    }
    k->unary(f->op, N, y, x, 0, 0);
    double most = 0;
    for (int i = 0; i < N; i++)
        most = fmax(most, ulps(y[i], f->exact((long double)x[i])));
    return most;
}

static void test_functions_are_within_a_few_ulp(void **state)
{
    static const struct function functions[] = {
        {"exp", DEMIST_OP_EXP, expl, -110, 89.5, 1.5},
        {"log", DEMIST_OP_LOG, logl, 0, 3e38, 1.5},
        {"log near 1", DEMIST_OP_LOG, logl, 0.5, 2, 1.5},
        {"tanh", DEMIST_OP_TANH, tanhl, -12, 12, 2.5},
        {"erf", DEMIST_OP_ERF, erfl, -6, 6, 2},
        {"sigmoid", DEMIST_OP_SIGMOID, exact_sigmoid, -87, 20, 2.5},
        {"silu", DEMIST_OP_SILU, exact_silu, -80, 40, 3},
        /* relative to the whole range's accuracy, not to the vanishing left tail's */
        {"gelu", DEMIST_OP_GELU, exact_gelu, -2, 20, 8},
        {"sin", DEMIST_OP_SIN, sinl, -1e4, 1e4, 0.51},
        {"cos", DEMIST_OP_COS, cosl, -1e4, 1e4, 0.51},
        {"sin of large numbers", DEMIST_OP_SIN, sinl, -3e38, 3e38, 0.51},
        {"cos of large numbers", DEMIST_OP_COS, cosl, -1e9, 1e9, 0.51},
    };
    for (int i = 0; i < LEVELS; i++) {
        const char *why;
        const struct cpu_kernels *k = cpu_find_kernels(levels[i], &why);
        if (!k) {
            print_message("skipped: %s: %s\n", levels[i], why);
            continue;
        }
        for (size_t f = 0; f < sizeof functions / sizeof *functions; f++) {
            const double most = worst(k, &functions[f]);
            if (!(most <= functions[f].ulp))
                fail_msg("%s, %s: %.2f ulp, the bound is %.2f", levels[i], functions[f].name, most,
                         functions[f].ulp);
        }
    }
}

static void test_functions_keep_limits_and_nan(void **state)
{
    static const struct {
        demist_op op;
        float x, y;
    } points[] = {
        {DEMIST_OP_EXP, INFINITY, INFINITY}, {DEMIST_OP_EXP, -INFINITY, 0},
        {DEMIST_OP_EXP, NAN, NAN},           {DEMIST_OP_EXP, 0, 1},
        {DEMIST_OP_LOG, 0, -INFINITY},       {DEMIST_OP_LOG, -1, NAN},
        {DEMIST_OP_LOG, INFINITY, INFINITY}, {DEMIST_OP_LOG, NAN, NAN},
        {DEMIST_OP_TANH, INFINITY, 1},       {DEMIST_OP_TANH, -INFINITY, -1},
        {DEMIST_OP_TANH, NAN, NAN},          {DEMIST_OP_ERF, INFINITY, 1},
        {DEMIST_OP_ERF, -INFINITY, -1},      {DEMIST_OP_ERF, NAN, NAN},
        {DEMIST_OP_SIGMOID, -INFINITY, 0},   {DEMIST_OP_SIGMOID, INFINITY, 1},
        {DEMIST_OP_SIGMOID, NAN, NAN},       {DEMIST_OP_RELU, NAN, NAN},
        {DEMIST_OP_RELU, -INFINITY, 0},      {DEMIST_OP_SILU, INFINITY, INFINITY},
        {DEMIST_OP_SILU, NAN, NAN},          {DEMIST_OP_GELU, INFINITY, INFINITY},
        {DEMIST_OP_GELU, NAN, NAN},          {DEMIST_OP_SIN, INFINITY, NAN},
        {DEMIST_OP_COS, NAN, NAN},           {DEMIST_OP_COS, 0, 1},
        {DEMIST_OP_SQRT, -1, NAN},           {DEMIST_OP_SIN, 0, 0},
    };
    for (int i = 0; i < LEVELS; i++) {
        const char *why;
        const struct cpu_kernels *k = cpu_find_kernels(levels[i], &why);
        for (size_t j = 0; k && j < sizeof points / sizeof *points; j++)
            for (int n = 1; n <= CPU_MAX_VW + 1; n += CPU_MAX_VW) { /* a rest, a vector */
                float x[CPU_MAX_VW + 1];
                for (int e = 0; e < n; e++)
                    x[e] = points[j].x;
                k->unary(points[j].op, n, x, x, 0, 0);
                if (!(x[0] == points[j].y || (isnan(x[0]) && isnan(points[j].y))))
                    fail_msg("%s: %s(%g) = %g", levels[i], demist_op_name(points[j].op),
                             (double)points[j].x, (double)x[0]);
            }
    }
}

/* --- bf16 --- */

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Numbers of all magnitudes but subnormal ones, halfway cases among them. */
static float some_float(uint32_t *r)
{
    for (;;) {
        *r = *r * 1664525 + 1013904223;
        const float x = float_of(*r % 3 ? *r : (*r & 0xffff0000u) | 0x8000u);
        if (x == 0 || !(fabsf(x) < FLT_MIN))
            return x;
    }
}

static void test_bf16_numbers_are_the_nearest_to_floats(void **state)
{
    enum { N = 4099 }; /* a rest beside whole vectors */
    static float x[N], back[N];
    static uint16_t y[N + 1];
    static const float special[] = {0, -0.0F, INFINITY, -INFINITY, NAN, 1, FLT_MAX, -FLT_MAX};
    enum { SPECIAL = sizeof special / sizeof *special };
    for (int i = 0; i < LEVELS; i++) {
        const char *why;
        const struct cpu_kernels *k = cpu_find_kernels(levels[i], &why);
        uint32_t r = 1;
        if (!k)
            continue;
        for (int e = 0; e < N; e++)
            x[e] = e < SPECIAL ? special[e] : some_float(&r);
        y[N] = 0x1234;
        k->narrow(N, x, y);
        k->widen(N, y, back);
        assert_int_equal(y[N], 0x1234);
        for (int e = 0; e < N; e++) {
            uint32_t bits, wanted;
            memcpy(&bits, &x[e], sizeof bits);
            wanted = bits >> 16; /* towards zero, and away from it where that is nearer, or even */
            wanted += (bits & 0xffff) > 0x8000 || ((bits & 0xffff) == 0x8000 && wanted % 2);
            if (isnan(x[e]) ? !isnan(back[e]) : y[e] != wanted || float_of(wanted << 16) != back[e])
                fail_msg("%s: %a became %04x, %a", levels[i], (double)x[e], y[e], (double)back[e]);
            if (!isnan(x[e]))
                assert_int_equal(cpu_to_bf16(x[e]), wanted);
        }
    }
}

/* a [rows][taps·k] times b [taps·k][4] by a level's kernel, which has columns to spare. */
static void multiply16(const struct cpu_kernels *k, int vecs, int rows, int64_t taps, int64_t depth,
                       const uint16_t *a, const uint16_t *b, float c[][4])
{
    static const float init[CPU_MAX_NR] = {1, 2, 3, 4};
    const int64_t pairs = (depth + 1) / 2, width = (int64_t)vecs * k->vw;
    const size_t elements = (size_t)(taps * pairs * width);
    uint32_t *packed = calloc(elements, sizeof *packed);
    float *packed_floats = malloc(elements * sizeof *packed_floats);
    float *wide = malloc((size_t)(rows * taps * depth) * sizeof *wide);
    float out[CPU_MAX_MR * CPU_MAX_NR];
    const void *row[CPU_MAX_MR * 4];
    k->widen(rows * taps * depth, a, wide);
    for (int64_t t = 0; t < taps; t++) {
        for (int64_t r = 0; r < rows; r++) {
            const int64_t at = (r * taps + t) * depth;
            row[t * rows + r] = k->bf16 ? (const void *)(a + at) : wide + at;
        }
        for (int64_t i = 0; i < depth; i++)
            for (int64_t j = 0; j < 4; j++)
                packed[(t * pairs + i / 2) * width + j] |= (uint32_t)b[(t * depth + i) * 4 + j]
                                                           << i % 2 * 16;
    }
    memcpy(packed_floats, packed, elements * sizeof *packed);
    k->gemm16(rows, vecs, row, taps, depth, packed_floats, init, out, width,
              &(struct cpu_ahead){packed_floats, packed_floats, 0, 0});
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++)
            c[r][j] = out[r * width + j];
    free(wide);
    free(packed);
    free(packed_floats);
}

/* Products of two bf16 numbers are exact in float32, so that only the order of the sums counts, and
 * that is the instruction's at every level. */
static void test_products_of_bf16_numbers_have_the_same_bits_at_every_level(void **state)
{
    enum { TAPS = 3, DEPTH = 37, ROWS = 6 };
    uint16_t a[ROWS * TAPS * DEPTH], b[TAPS * DEPTH * 4];
    for (size_t i = 0; i < sizeof a / sizeof *a; i++)
        a[i] = (uint16_t)cpu_to_bf16((float)sin(1.7 * (double)i + 1));
    for (size_t i = 0; i < sizeof b / sizeof *b; i++)
        b[i] = (uint16_t)cpu_to_bf16((float)cos(2.3 * (double)i * (double)i));
    for (int64_t depth = DEPTH - 1; depth <= DEPTH; depth++)
        for (int rows = 1; rows <= ROWS; rows++) {
            const char *why;
            float wanted[ROWS][4], got[ROWS][4];
            multiply16(cpu_find_kernels("generic", &why), 1, rows, TAPS, depth, a, b, wanted);
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < 4; j++) {
                    double exact = j + 1;
                    for (int64_t t = 0; t < TAPS; t++)
                        for (int64_t i = 0; i < depth; i++)
                            exact += (double)cpu_from_bf16(a[(r * TAPS + t) * depth + i]) *
                                     cpu_from_bf16(b[(t * depth + i) * 4 + j]);
                    assert_true(fabs(wanted[r][j] - exact) < 1e-5);
                }
            for (int i = 0; i < 2 * LEVELS; i++) {
                const struct cpu_kernels *k = cpu_find_kernels(levels[i / 2], &why);
                if (!k)
                    continue;
                multiply16(k, 1 + i % 2, rows, TAPS, depth, a, b, got);
                if (memcmp(got, wanted, (size_t)rows * sizeof *got) != 0)
                    fail_msg("%s, %d rows of %d, %d vectors: other bits than generic's",
                             levels[i / 2], rows, (int)depth, 1 + i % 2);
            }
        }
}

/* --- convolutions --- */

static float *uniform(int64_t n, double scale)
{
    static uint32_t r = 1;
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        r = r * 1664525 + 1013904223;
        x[i] = (float)(scale * (int32_t)r * 0x1p-31);
    }
    return x;
}

struct conv_case {
    int64_t in, out, h, w;
};

struct conv {
    struct conv_case c;
    float *x, *w, *b;
    struct dm_graph *graph;
};

static void conv_init(struct conv *v, struct conv_case c)
{
    struct dm_error err = DM_ERROR_INIT;
    const int64_t xs[4] = {DEMIST_BATCH, c.in, c.h, c.w}, ws[4] = {c.out, c.in, 3, 3};
    *v = (struct conv){.c = c,
                       .x = uniform(2 * c.in * c.h * c.w, 1),
                       .w = uniform(c.out * c.in * 9, sqrt(3 / (9.0 * (double)c.in))),
                       .b = uniform(c.out, 0.1)};
    assert_int_equal(dm_graph_create("conv", NULL, &v->graph, &err), DEMIST_OK);
    demist_builder *b = dm_graph_builder(v->graph);
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 4, xs);
    const demist_node *w = b->constant(b, DEMIST_F32, 4, ws, v->w);
    const demist_node *bias = b->constant(b, DEMIST_F32, 1, &c.out, v->b);
    b->output(b, "out", demist_conv2d(b, x, w, bias, 1, 1));
    assert_int_equal(dm_graph_finish(v->graph, &err), DEMIST_OK);
}

static void conv_finish(struct conv *v)
{
    dm_graph_destroy(v->graph);
    free(v->x);
    free(v->w);
    free(v->b);
}

/* One output in float64, and by one chain of fused float32 steps. */
static double conv_at(const struct conv *v, int64_t o, int64_t y, int64_t x, float *chain)
{
    double sum = v->b[o];
    *chain = v->b[o];
    for (int64_t k = 0; k < v->c.in * 9; k++) {
        const int64_t yy = y + k % 9 / 3 - 1, xx = x + k % 3 - 1;
        if (yy < 0 || yy >= v->c.h || xx < 0 || xx >= v->c.w)
            continue;
        const float a = v->x[(k / 9 * v->c.h + yy) * v->c.w + xx], w = v->w[o * v->c.in * 9 + k];
        sum += (double)a * w;
        *chain = fmaf(a, w, *chain);
    }
    return sum;
}

struct errors {
    double ours, chain; /* largest, in units of the largest result */
};

/* Of image 0, at many outputs. */
static struct errors conv_errors(const struct conv *v, const float *out)
{
    const int64_t n = v->c.out * v->c.h * v->c.w, step = 1 + n / 4000;
    struct errors e = {0, 0};
    double largest = 0;
    for (int64_t i = 0; i < n; i += step) {
        float chain;
        const double exact =
            conv_at(v, i / v->c.w / v->c.h, i / v->c.w % v->c.h, i % v->c.w, &chain);
        largest = fmax(largest, fabs(exact));
        e.ours = fmax(e.ours, fabs(exact - out[i]));
        e.chain = fmax(e.chain, fabs(exact - chain));
    }
    e.ours /= largest;
    e.chain /= largest;
    return e;
}

static const struct conv_case conv_cases[] = {
    {64, 32, 32, 32}, {256, 48, 16, 16}, {512, 32, 8, 8},  {384, 33, 16, 16},
    {256, 32, 4, 4},  {32, 40, 13, 17},  {17, 16, 12, 12}, {128, 64, 7, 9},
};

static void test_fast_convolutions_are_within_8e6(void **state)
{
    for (int i = 0; i < LEVELS; i++) {
        struct harness h;
        if (!open_level(&h, i, 2))
            continue;
        for (size_t k = 0; k < sizeof conv_cases / sizeof *conv_cases; k++) {
            struct conv v;
            conv_init(&v, conv_cases[k]);
            float *out = harness_run(&h, dm_graph_view(v.graph), 2, DEMIST_PRECISION_F32,
                                     DEMIST_COMPILE_FROZEN, (const void *[]){v.x}, NULL, 2);
            const struct errors e = conv_errors(&v, out);
            if (!(e.ours <= 8e-6))
                fail_msg("%s, %d -> %d at %d x %d: %.2e of the largest result", levels[i],
                         (int)v.c.in, (int)v.c.out, (int)v.c.h, (int)v.c.w, e.ours);
            free(out);
            conv_finish(&v);
        }
        harness_close(&h);
    }
}

static void test_strict_convolutions_are_as_good_as_a_chain(void **state)
{
    for (int i = 0; i < LEVELS; i++) {
        struct harness h;
        if (!open_level(&h, i, 2))
            continue;
        for (size_t k = 0; k < sizeof conv_cases / sizeof *conv_cases; k++) {
            struct conv v;
            conv_init(&v, conv_cases[k]);
            float *out = harness_run(&h, dm_graph_view(v.graph), 2, DEMIST_PRECISION_STRICT,
                                     DEMIST_COMPILE_FROZEN, (const void *[]){v.x}, NULL, 2);
            const struct errors e = conv_errors(&v, out);
            if (!(e.ours <= 3 * e.chain))
                fail_msg("%s, %d -> %d at %d x %d: %.2e, a chain has %.2e", levels[i], (int)v.c.in,
                         (int)v.c.out, (int)v.c.h, (int)v.c.w, e.ours, e.chain);
            free(out);
            conv_finish(&v);
        }
        harness_close(&h);
    }
}

/* --- networks --- */

struct network {
    struct dm_graph *graph;
    void *weights;
    float *x, *t;
};

static int setup(void **state)
{
    static struct network n;
    n.graph = unet_graph(&small, &n.weights);
    n.x = uniform(BATCH * 3 * 16 * 16, 1.5);
    n.t = uniform(BATCH, 500);
    *state = &n;
    return 0;
}

static int teardown(void **state)
{
    struct network *n = *state;
    dm_graph_destroy(n->graph);
    unet_release(n->weights);
    free(n->x);
    free(n->t);
    return 0;
}

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

static struct dm_lowered lower(const struct network *n, struct harness *h)
{
    struct dm_lowered lowered = {0};
    struct dm_error err = DM_ERROR_INIT;
    const struct dm_lower_options options = {.frozen = true, .supports = supports, .user = h};
    if (dm_graph_lower(n->graph, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return lowered;
}

static float *evaluate(const struct network *n, struct harness *h, const demist_graph *graph,
                       demist_precision precision, int64_t max_batch, int64_t images, int64_t first)
{
    const void *inputs[] = {n->x + first * 3 * 16 * 16, n->t + first};
    return harness_run(h, graph, max_batch, precision, DEMIST_COMPILE_FROZEN, inputs, NULL, images);
}

enum { OUT = 6 * 16 * 16 };

/* The network at every level, as built and lowered, within `bound` of the largest result and with a
 * PSNR (of a range of twice the largest) of at least `psnr` dB. */
static void check_networks(const struct network *n, demist_precision precision, double bound,
                           double psnr)
{
    struct harness reference;
    harness_open(&reference, &demist_plugin_v1_backend_reference, 2, NULL);
    float *wanted =
        evaluate(n, &reference, dm_graph_view(n->graph), DEMIST_PRECISION_STRICT, BATCH, BATCH, 0);
    double largest = 0;
    for (int i = 0; i < BATCH * OUT; i++)
        largest = fmax(largest, fabs((double)wanted[i]));
    for (int i = 0; i < LEVELS; i++) {
        struct harness h;
        if (!open_level(&h, i, 2))
            continue;
        struct dm_lowered lowered = lower(n, &h);
        for (int k = 0; k < 2; k++) {
            const demist_graph *graph = dm_graph_view(k ? lowered.graph : n->graph);
            float *out = evaluate(n, &h, graph, precision, BATCH, BATCH, 0);
            double error = 0, squares = 0;
            for (int e = 0; e < BATCH * OUT; e++) {
                const double d = fabs((double)out[e] - wanted[e]);
                error = fmax(error, d);
                squares += d * d / (BATCH * OUT);
            }
            const double db = 10 * log10(4 * largest * largest / squares);
            if (!(error <= bound * largest) || !(db >= psnr))
                fail_msg("%s, %s: off by %.2e of the largest result, %.1f dB", levels[i],
                         k ? "lowered" : "as built", error / largest, db);
            free(out);
        }
        dm_graph_destroy(lowered.graph);
        harness_close(&h);
    }
    free(wanted);
    harness_close(&reference);
}

static void test_networks_agree_with_the_reference(void **state)
{
    check_networks(*state, DEMIST_PRECISION_F32, 2e-5, 100);
    check_networks(*state, DEMIST_PRECISION_STRICT, 2e-5, 100);
}

static void test_networks_in_bf16_agree_with_the_reference(void **state)
{
    check_networks(*state, DEMIST_PRECISION_BF16, 0x1p-3, 44);
}

/* Its tests would say nothing of tiles if it did not take them. */
static void test_the_amx_level_takes_tiles(void **state)
{
    const struct network *n = *state;
    for (int k = 0; k < 3; k++) {
        static const demist_precision precisions[] = {DEMIST_PRECISION_F32, DEMIST_PRECISION_BF16,
                                                      DEMIST_PRECISION_STRICT};
        float *out[2];
        for (int i = 0; i < 2; i++) {
            struct harness h;
            harness_open(&h, &demist_plugin_v1_backend_cpu, 2,
                         (const char *[]){i ? "isa = amx-emulated" : "isa = generic", NULL});
            out[i] = evaluate(n, &h, dm_graph_view(n->graph), precisions[k], 1, 1, 0);
            harness_close(&h);
        }
        const bool same = memcmp(out[0], out[1], OUT * sizeof *out[0]) == 0;
        assert_true(same == (precisions[k] == DEMIST_PRECISION_STRICT));
        free(out[0]);
        free(out[1]);
    }
}

/* "auto" is a level whose tests have passed on a machine that has it. */
static void test_amx_is_not_taken_unasked(void **state)
{
    const char *why;
    const struct cpu_kernels *k = cpu_find_kernels("auto", &why);
    assert_non_null(k);
    assert_null(k->tiles);
}

/* BF16's instructions are for bf16 alone. */
static void test_the_bf16_level_gives_the_bits_of_avx512_in_f32(void **state)
{
    const struct network *n = *state;
    struct harness h[2];
    float *out[2];
    if (!open_level(&h[1], 3, 2))
        skip();
    open_level(&h[0], 2, 2);
    for (int i = 0; i < 2; i++) {
        struct dm_lowered lowered = lower(n, &h[i]);
        out[i] = evaluate(n, &h[i], dm_graph_view(lowered.graph), DEMIST_PRECISION_F32, 2, 2, 0);
        dm_graph_destroy(lowered.graph);
        harness_close(&h[i]);
    }
    assert_memory_equal(out[0], out[1], 2 * OUT * sizeof *out[0]);
    free(out[0]);
    free(out[1]);
}

static void check_independence(const struct network *n, demist_precision precision)
{
    for (int i = 0; i < LEVELS; i++) {
        struct harness one, many;
        if (!open_level(&one, i, 1))
            continue;
        open_level(&many, i, 5);
        struct dm_lowered lowered = lower(n, &one);
        const demist_graph *graph = dm_graph_view(lowered.graph);
        float *all = evaluate(n, &one, graph, precision, BATCH, BATCH, 0);
        for (int image = 0; image < BATCH; image += 2)
            for (int batch = 1; batch <= BATCH; batch += BATCH - 1) {
                float *alone = evaluate(n, &many, graph, precision, batch, 1, image);
                if (memcmp(alone, all + image * OUT, OUT * sizeof *all) != 0)
                    fail_msg("%s: image %d alone (largest batch %d) differs", levels[i], image,
                             batch);
                free(alone);
            }
        free(all);
        dm_graph_destroy(lowered.graph);
        harness_close(&one);
        harness_close(&many);
    }
}

static void test_networks_do_not_depend_on_threads_or_batch(void **state)
{
    check_independence(*state, DEMIST_PRECISION_F32);
    check_independence(*state, DEMIST_PRECISION_BF16);
}

/* Views, parts of concatenations and fused nodes are seen as what they are. */
static void check_observed(const struct network *n, demist_precision precision, double bound)
{
    struct harness reference, h;
    struct harness_program p[2];
    const demist_graph *g = dm_graph_view(n->graph);
    harness_open(&reference, &demist_plugin_v1_backend_reference, 2, NULL);
    harness_open(&h, &demist_plugin_v1_backend_cpu, 2, NULL);
    struct harness *both[] = {&reference, &h};
    demist_buffer **watched[2];
    for (int k = 0; k < 2; k++) {
        harness_compile(both[k], g, 2, k ? precision : DEMIST_PRECISION_STRICT,
                        DEMIST_COMPILE_OBSERVE, &p[k]);
        watched[k] = calloc((size_t)g->n_nodes, sizeof(demist_buffer *));
        harness_set(&p[k], 0, n->x, 2);
        harness_set(&p[k], 1, n->t, 2);
        for (int32_t i = 0; i < g->n_nodes; i++) {
            int32_t inside;
            assert_int_equal(both[k]->vtable->observability(p[k].program, i, &inside),
                             DEMIST_OBSERVE_MATERIALISED);
            HARNESS_OK(both[k], buffer_create,
                       (both[k]->device, harness_bytes(g->nodes[i], 2), &watched[k][i]));
            HARNESS_OK(both[k], observe, (p[k].binding, i, watched[k][i]));
        }
        harness_execute(&p[k], NULL, 2);
    }
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const size_t bytes = harness_bytes(g->nodes[i], 2);
        float *wanted = harness_read(&reference, watched[0][i], bytes);
        float *got = harness_read(&h, watched[1][i], bytes);
        double largest = 0, error = 0;
        for (size_t e = 0; e < bytes / 4; e++) {
            largest = fmax(largest, fabs((double)wanted[e]));
            error = fmax(error, fabs((double)got[e] - wanted[e]));
        }
        if (!(error <= bound * largest))
            fail_msg("%s: off by %.2e of %.2e", g->nodes[i]->name, error, largest);
        free(wanted);
        free(got);
        reference.vtable->buffer_destroy(watched[0][i]);
        h.vtable->buffer_destroy(watched[1][i]);
    }
    float *out = harness_get(&p[1], 0, 2);
    float *plain = evaluate(n, &h, g, precision, 2, 2, 0);
    assert_memory_equal(out, plain, 2 * OUT * sizeof *out);
    free(out);
    free(plain);
    for (int k = 0; k < 2; k++) {
        free(watched[k]);
        harness_program_finish(&p[k]);
        harness_close(both[k]);
    }
}

static void test_every_value_of_a_network_can_be_observed(void **state)
{
    check_observed(*state, DEMIST_PRECISION_F32, 1e-4);
    check_observed(*state, DEMIST_PRECISION_BF16, 0x1p-3);
}

/* Training packs anew what it has changed. */
static void test_networks_with_mutable_parameters_give_the_same_bits(void **state)
{
    const struct network *n = *state;
    struct harness h;
    struct harness_program p;
    const demist_graph *g = dm_graph_view(n->graph);
    harness_open(&h, &demist_plugin_v1_backend_cpu, 2, NULL);
    float *wanted = evaluate(n, &h, g, DEMIST_PRECISION_F32, 1, 1, 0);
    harness_compile(&h, g, 1, DEMIST_PRECISION_F32, 0, &p);
    harness_set(&p, 0, n->x, 1);
    harness_set(&p, 1, n->t, 1);
    for (int round = 0; round < 2; round++) {
        for (int32_t i = 0; i < g->n_params; i++) {
            const int64_t elements = demist_elements(g->params[i]);
            float *zeros = calloc((size_t)elements, sizeof *zeros);
            const void *data[] = {round == 0 ? (const void *)zeros : g->params[i]->data};
            HARNESS_OK(&h, update_params, (h.queue, p.program, 1, &i, data));
            free(zeros);
        }
        harness_execute(&p, NULL, 1);
        float *out = harness_get(&p, 0, 1);
        if (round == 0)
            for (int i = 0; i < OUT; i++)
                assert_true(out[i] == 0);
        else
            assert_memory_equal(out, wanted, OUT * sizeof *out);
        free(out);
    }
    free(wanted);
    harness_program_finish(&p);
    harness_close(&h);
}

/* out = the largest over the last axis of 2·(x + noise) + 1, repeated 2^21 times: 32 MB an image.
 */
static struct dm_graph *large_graph(int32_t *noisy)
{
    const int64_t shape[] = {DEMIST_BATCH, 4, 1}, wide[] = {DEMIST_BATCH, 4, 1 << 21};
    struct dm_graph *graph;
    demist_attrs draw = demist_no_attrs(), last = demist_no_attrs();
    assert_int_equal(dm_graph_create("large", NULL, &graph, NULL), DEMIST_OK);
    demist_builder *b = dm_graph_builder(graph);
    draw.philox.per_image = 1;
    draw.philox.seed_slot = b->scalar_slot(b, "seed");
    draw.philox.draw_slot = b->scalar_slot(b, "draw");
    draw.philox.image_slot = b->scalar_slot(b, "image");
    last.reduce.axes = 1 << 2;
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 3, shape);
    const demist_node *sum =
        demist_add(b, x, b->op(b, DEMIST_OP_PHILOX_NORMAL, 0, NULL, &draw, 3, shape));
    const demist_node *y = b->op(b, DEMIST_OP_EXPAND, 1, &sum, NULL, 3, wide);
    y = demist_affine(b, y, 2, 1);
    b->output(b, "out", b->op(b, DEMIST_OP_AMAX, 1, &y, &last, 0, NULL));
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);
    *noisy = sum->id;
    return graph;
}

/* Each image has its own input, noise, result and observed value then, too. */
static void test_a_batch_of_large_images_goes_through_in_parts(void **state)
{
    enum { N = 3 };
    struct harness h;
    struct harness_program p;
    int32_t noisy;
    demist_buffer *watched;
    demist_program_info info = DEMIST_INIT(demist_program_info);
    const float x[N * 4] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const demist_scalar scalars[3] = {{.u = 7}, {.u = 2}, {.u = 40}};
    (void)state;
    harness_open(&h, &demist_plugin_v1_backend_cpu, 2, NULL);
    struct dm_graph *graph = large_graph(&noisy);
    const demist_node *node = dm_graph_view(graph)->nodes[noisy];
    harness_compile(&h, dm_graph_view(graph), N, DEMIST_PRECISION_F32, DEMIST_COMPILE_OBSERVE, &p);
    HARNESS_OK(&h, program_info, (p.program, &info));
    assert_in_range(info.arena_bytes, 32 << 20, 60 << 20);
    HARNESS_OK(&h, buffer_create, (h.device, harness_bytes(node, N), &watched));
    HARNESS_OK(&h, observe, (p.binding, noisy, watched));
    harness_set(&p, 0, x, N);
    harness_execute(&p, scalars, N);
    float *out = harness_get(&p, 0, N), *seen = harness_read(&h, watched, sizeof x);
    for (uint32_t i = 0; i < N; i++) {
        float noise[4];
        dm_philox_normal(7, 40 + i, 0, 2, 0, 4, noise);
        for (uint32_t k = 4 * i; k < 4 * i + 4; k++) {
            assert_true(seen[k] == x[k] + noise[k % 4]);
            assert_true(out[k] == 2 * seen[k] + 1);
        }
    }
    free(out);
    free(seen);
    h.vtable->buffer_destroy(watched);
    harness_program_finish(&p);
    dm_graph_destroy(graph);
    harness_close(&h);
}

static void test_the_proposed_fusions_are_taken(void **state)
{
    const struct network *n = *state;
    struct harness h;
    harness_open(&h, &demist_plugin_v1_backend_cpu, 2, NULL);
    struct dm_lowered lowered = lower(n, &h);
    const demist_graph *g = dm_graph_view(lowered.graph);
    int fused = 0;
    for (int32_t i = 0; i < g->n_nodes; i++)
        fused += g->nodes[i]->op == DEMIST_OP_FUSED;
    assert_true(fused > 20); /* the core's proposals are taken */
    dm_graph_destroy(lowered.graph);
    harness_close(&h);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_forced_level_is_used_or_refused_with_a_reason),
        cmocka_unit_test(test_functions_are_within_a_few_ulp),
        cmocka_unit_test(test_functions_keep_limits_and_nan),
        cmocka_unit_test(test_bf16_numbers_are_the_nearest_to_floats),
        cmocka_unit_test(test_products_of_bf16_numbers_have_the_same_bits_at_every_level),
        cmocka_unit_test(test_fast_convolutions_are_within_8e6),
        cmocka_unit_test(test_strict_convolutions_are_as_good_as_a_chain),
        cmocka_unit_test(test_networks_agree_with_the_reference),
        cmocka_unit_test(test_networks_in_bf16_agree_with_the_reference),
        cmocka_unit_test(test_the_amx_level_takes_tiles),
        cmocka_unit_test(test_amx_is_not_taken_unasked),
        cmocka_unit_test(test_the_bf16_level_gives_the_bits_of_avx512_in_f32),
        cmocka_unit_test(test_networks_do_not_depend_on_threads_or_batch),
        cmocka_unit_test(test_every_value_of_a_network_can_be_observed),
        cmocka_unit_test(test_networks_with_mutable_parameters_give_the_same_bits),
        cmocka_unit_test(test_a_batch_of_large_images_goes_through_in_parts),
        cmocka_unit_test(test_the_proposed_fusions_are_taken),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

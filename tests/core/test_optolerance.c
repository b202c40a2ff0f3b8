/* The tolerances: what an honest implementation does lies within, what a wrong one does lies out.
 */
#include "testing.h"

#include <math.h>

#include "graphs.h"
#include "optolerance.h"
#include "passes.h"

static uint64_t random_state = 88172645463325252u;

/* About normal, with mean 0 and deviation 1. */
static float normal(void)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        sum += (double)(random_state >> 11) * 0x1p-53;
    }
    return (float)(sum - 6);
}

static float round_to(float x, int bits)
{
    uint32_t u, cut = 24u - (uint32_t)bits;
    memcpy(&u, &x, sizeof u);
    u += (1u << (cut - 1)) - 1 + (u >> cut & 1);
    u &= ~0u << cut;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* A row of products: the exact sum, one FMA chain, and the chain on factors of fewer bits. */
struct sums {
    double exact;
    float chain, tf32, bf16;
};

static struct sums sum_products(int k)
{
    struct sums s = {0};
    for (int i = 0; i < k; i++) {
        float a = normal(), b = normal();
        s.exact += (double)a * (double)b;
        s.chain = fmaf(a, b, s.chain);
        s.tf32 = fmaf(round_to(a, 11), round_to(b, 11), s.tf32);
        s.bf16 = fmaf(round_to(a, 8), round_to(b, 8), s.bf16);
    }
    return s;
}

static const demist_node *linear_of(struct dm_graph *graph, int64_t k)
{
    demist_builder *b = dm_graph_builder(graph);
    return demist_linear(b, f32_input(b, "x", SHAPE(N, k)), ramp(b, SHAPE(2, k)), NULL);
}

static void test_chains_of_products_keep_the_bound_of_their_precision(void **state)
{
    enum { ROWS = 500 };
    static const int lengths[] = {1, 9, 128, 1152, 4608};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        struct dm_graph *graph = new_graph();
        const demist_node *node = linear_of(graph, lengths[l]);
        static struct sums s[ROWS];
        double in[2] = {6, 6}, chain_error = 0;
        struct dm_magnitudes m = {0, in, -1, 0};
        for (int i = 0; i < ROWS; i++) {
            s[i] = sum_products(lengths[l]);
            m.out = fmax(m.out, fabs(s[i].exact));
            chain_error = fmax(chain_error, fabs((double)s[i].chain - s[i].exact));
        }
        assert_int_equal(dm_op_terms(node), lengths[l]);
        struct dm_tolerance strict = dm_op_tolerance(node, DEMIST_PRECISION_STRICT, &m);
        struct dm_tolerance f32 = dm_op_tolerance(node, DEMIST_PRECISION_F32, &m);
        struct dm_tolerance tf32 = dm_op_tolerance(node, DEMIST_PRECISION_TF32, &m);
        struct dm_tolerance bf16 = dm_op_tolerance(node, DEMIST_PRECISION_BF16, &m);
        m.chain_error = chain_error;
        struct dm_tolerance measured = dm_op_tolerance(node, DEMIST_PRECISION_STRICT, &m);
        int tf32_outside_f32 = 0, bf16_outside_tf32 = 0;
        for (int i = 0; i < ROWS; i++) {
            assert_true(dm_within(measured, (double)s[i].chain, s[i].exact));
            assert_true(dm_within(strict, (double)s[i].chain, s[i].exact));
            assert_true(dm_within(f32, (double)s[i].chain, s[i].exact));
            assert_true(dm_within(tf32, (double)s[i].tf32, s[i].exact));
            assert_true(dm_within(bf16, (double)s[i].bf16, s[i].exact));
            tf32_outside_f32 += !dm_within(f32, (double)s[i].tf32, s[i].exact);
            bf16_outside_tf32 += !dm_within(tf32, (double)s[i].bf16, s[i].exact);
        }
        /* The bounds tell the precisions apart. */
        assert_true(tf32_outside_f32 > ROWS / 2);
        assert_true(bf16_outside_tf32 > 0);
        dm_graph_destroy(graph);
    }
}

static void test_float32_functions_keep_their_ulps_and_half_precision_does_not(void **state)
{
    static const struct {
        demist_op op;
        double (*exact)(double);
        float (*rounded)(float);
    } cases[] = {
        {DEMIST_OP_EXP, exp, expf}, {DEMIST_OP_LOG, log, logf}, {DEMIST_OP_SQRT, sqrt, sqrtf},
        {DEMIST_OP_SIN, sin, sinf}, {DEMIST_OP_COS, cos, cosf}, {DEMIST_OP_TANH, tanh, tanhf},
        {DEMIST_OP_ERF, erf, erff},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct dm_graph *graph = new_graph();
        demist_builder *b = dm_graph_builder(graph);
        const demist_node *node = demist_unary(b, cases[c].op, f32_input(b, "x", SHAPE(N, 3)));
        double in[1] = {8};
        int outside = 0;
        for (int i = 0; i < 2000; i++) {
            float x = fabsf(normal()) + 1e-3f;
            double exact = cases[c].exact((double)x);
            struct dm_magnitudes m = {fabs(exact), in, -1, 0};
            struct dm_tolerance t = dm_op_tolerance(node, DEMIST_PRECISION_F32, &m);
            struct dm_tolerance half = dm_op_tolerance(node, DEMIST_PRECISION_F16, &m);
            float f16 = round_to(cases[c].rounded(round_to(x, 11)), 11);
            assert_true(dm_within(t, (double)cases[c].rounded(x), exact));
            assert_true(dm_within(half, (double)f16, exact));
            outside += !dm_within(t, (double)f16, exact);
        }
        assert_true(outside > 1000);
        dm_graph_destroy(graph);
    }
}

static void test_what_only_moves_data_is_exact(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 4, 4, 4));
    const demist_node *nodes[] = {demist_reshape(b, x, SHAPE(N, 64)),
                                  demist_slice(b, x, 1, 1, 2),
                                  demist_concat(b, 1, 2, (const demist_node *[]){x, x}),
                                  demist_upsample_nearest(b, x, 2),
                                  demist_pool2d(b, DEMIST_OP_MAX_POOL2D, x, 2),
                                  demist_binary(b, DEMIST_OP_LESS, x, x)};
    double in[2] = {3, 3};
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        struct dm_tolerance t =
            dm_op_tolerance(nodes[i], DEMIST_PRECISION_F32, &(struct dm_magnitudes){3, in, -1, 0});
        assert_true(dm_within(t, 1.5, 1.5));
        assert_false(dm_within(t, 1.5 + 0x1p-23, 1.5));
    }
    dm_graph_destroy(graph);
}

static void test_pairwise_sums_keep_the_bound_and_lost_terms_do_not(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 4096));
    demist_attrs attrs = demist_no_attrs();
    attrs.reduce.axes = 2;
    const demist_node *sum = b->op(b, DEMIST_OP_SUM, 1, &x, &attrs, 0, NULL);
    const demist_node *mean = b->op(b, DEMIST_OP_MEAN, 1, &x, &attrs, 0, NULL);
    float part[4096];
    double exact = 0, in[1] = {0};
    for (int i = 0; i < 4096; i++) {
        part[i] = fabsf(normal());
        exact += (double)part[i];
        in[0] = fmax(in[0], (double)part[i]);
    }
    double without_one = exact - (double)part[7] - 0.01;
    for (int n = 4096; n > 1; n /= 2)
        for (int i = 0; i < n / 2; i++)
            part[i] = part[2 * i] + part[2 * i + 1];
    struct dm_magnitudes m = {exact, in, -1, 0};
    struct dm_tolerance t = dm_op_tolerance(sum, DEMIST_PRECISION_F32, &m);
    assert_true(dm_within(t, (double)part[0], exact));
    assert_false(dm_within(t, without_one, exact));
    t = dm_op_tolerance(mean, DEMIST_PRECISION_F32, &m);
    assert_true(dm_within(t, (double)(part[0] / 4096), exact / 4096));
    assert_false(dm_within(t, exact / 4096 + 1e-5, exact / 4096));
    dm_graph_destroy(graph);
}

static bool accept(void *user, const demist_node *node, const char **why)
{
    return true;
}

/* The tolerance of linear, then `build`, as one fused node; out of magnitude 10. */
static struct dm_tolerance fused_tolerance(const demist_node *(*build)(demist_builder *,
                                                                       const demist_node *))
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    b->output(b, "out", build(b, linear_of(graph, 64)));
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);
    struct dm_lowered l;
    assert_int_equal(
        dm_graph_lower(graph, &(struct dm_lower_options){.supports = accept}, &l, NULL), DEMIST_OK);
    const demist_graph *view = dm_graph_view(l.graph);
    const demist_node *node = view->nodes[view->n_nodes - 1];
    assert_int_equal(node->op, DEMIST_OP_FUSED);
    double in[8] = {10, 10, 10, 10, 10, 10, 10, 10};
    struct dm_tolerance t =
        dm_op_tolerance(node, DEMIST_PRECISION_F32, &(struct dm_magnitudes){10, in, -1, 0});
    dm_graph_destroy(l.graph);
    dm_graph_destroy(graph);
    return t;
}

static const demist_node *then_relu(demist_builder *b, const demist_node *x)
{
    return demist_unary(b, DEMIST_OP_RELU, x);
}

static const demist_node *then_hundredfold(demist_builder *b, const demist_node *x)
{
    return demist_affine(b, x, 100, 0);
}

static const demist_node *then_batch_norm(demist_builder *b, const demist_node *x)
{
    static float const gamma[2] = {1, 2}, variance[2] = {1, 1e-4f};
    const demist_node *g = b->constant(b, DEMIST_F32, SHAPE(2), gamma);
    const demist_node *v = b->constant(b, DEMIST_F32, SHAPE(2), variance);
    return demist_batch_norm(b, x, g, g, g, v, 0);
}

static void test_an_error_inside_a_fused_node_grows_with_what_follows(void **state)
{
    struct dm_tolerance relu = fused_tolerance(then_relu);
    assert_true(relu.abs >= 8e-5 && relu.abs < 9e-5);
    assert_float_equal(relu.rel, 0, 0);
    double affine = fused_tolerance(then_hundredfold).abs,
           norm = fused_tolerance(then_batch_norm).abs;
    assert_true(affine >= 8e-3 && affine < 9e-3);
    assert_true(norm >= 200 * 8e-5 && norm < 300 * 8e-5);
}

static void test_non_finite_results_have_to_agree(void **state)
{
    struct dm_tolerance t = {1, 1};
    assert_true(dm_within(t, NAN, NAN));
    assert_false(dm_within(t, 0, NAN));
    assert_false(dm_within(t, NAN, 0));
    assert_true(dm_within(t, INFINITY, INFINITY));
    assert_false(dm_within(t, -INFINITY, INFINITY));
    assert_false(dm_within(t, INFINITY, 3e38));
}

static void test_every_op_has_a_finite_bound_at_every_precision(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 4, 4, 4)), *c = ramp(b, SHAPE(4));
    const demist_node *nodes[32];
    int n = 0;
    for (int op = DEMIST_OP_NEG; op < DEMIST_OP_CAST; op++)
        nodes[n++] = demist_unary(b, (demist_op)op, x);
    for (int op = DEMIST_OP_ADD; op <= DEMIST_OP_LESS; op++)
        nodes[n++] = demist_binary(b, (demist_op)op, x, c);
    nodes[n++] = demist_group_norm(b, x, c, c, 2, 1e-5f);
    nodes[n++] = demist_batch_norm(b, x, c, c, c, c, 1e-5f);
    nodes[n++] = demist_attention(b, x, x, x, 0.5f);
    assert_false(b->failed(b));
    double in[5] = {2, 2, 2, 2, 2};
    for (int i = 0; i < n; i++) {
        double before = -1;
        static const demist_precision order[] = {DEMIST_PRECISION_F32, DEMIST_PRECISION_F16,
                                                 DEMIST_PRECISION_BF16};
        for (int p = 0; p < 3; p++) {
            struct dm_tolerance t =
                dm_op_tolerance(nodes[i], order[p], &(struct dm_magnitudes){2, in, -1, 1});
            assert_true(isfinite(t.abs) && isfinite(t.rel) && t.abs >= 0 && t.rel >= 0);
            assert_true(t.abs + t.rel >= before); /* narrower is never held to more */
            before = t.abs + t.rel;
        }
        assert_true(before < 1);
    }
    dm_graph_destroy(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chains_of_products_keep_the_bound_of_their_precision),
        cmocka_unit_test(test_float32_functions_keep_their_ulps_and_half_precision_does_not),
        cmocka_unit_test(test_what_only_moves_data_is_exact),
        cmocka_unit_test(test_pairwise_sums_keep_the_bound_and_lost_terms_do_not),
        cmocka_unit_test(test_an_error_inside_a_fused_node_grows_with_what_follows),
        cmocka_unit_test(test_non_finite_results_have_to_agree),
        cmocka_unit_test(test_every_op_has_a_finite_bound_at_every_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

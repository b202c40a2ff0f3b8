/* Lowering: what is removed, folded, merged and fused, and that names, inputs and outputs stay. */
#include "testing.h"

#include <math.h>

#include "graphs.h"
#include "passes.h"
#include "sources.h"

static bool accept_all(void *user, const demist_node *node, const char **why)
{
    return true;
}

static struct dm_lowered lower(struct dm_graph *graph, const struct dm_lower_options *options)
{
    struct dm_lowered out = {NULL, NULL};
    struct dm_error err = DM_ERROR_INIT;
    if (dm_graph_finish(graph, &err) || dm_graph_lower(graph, options, &out, &err))
        fail_msg("%s", err.text);
    return out;
}

static struct dm_lowered lower_frozen(struct dm_graph *graph)
{
    return lower(graph, &(struct dm_lower_options){.frozen = true, .supports = accept_all});
}

static void destroy(struct dm_graph *graph, struct dm_lowered *lowered)
{
    dm_graph_destroy(lowered->graph);
    dm_graph_destroy(graph);
}

/* "op name(input,…)" of every node that computes something, in order. */
static const char *listing(const struct dm_lowered *lowered)
{
    static char text[4096];
    const demist_graph *view = dm_graph_view(lowered->graph);
    size_t at = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < view->n_nodes; i++) {
        const demist_node *node = view->nodes[i];
        if (node->n_inputs == 0)
            continue;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %s(", at ? "; " : "",
                               demist_op_name(node->op), node->name);
        for (int32_t k = 0; k < node->n_inputs; k++)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", k ? "," : "",
                                   node->inputs[k]->name);
        at += (size_t)snprintf(text + at, sizeof text - at, ")");
        for (int32_t k = 0; k < node->n_body; k++)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%s%s", k ? "+" : "{",
                                   node->body[k]->name, k == node->n_body - 1 ? "}" : "");
    }
    return text;
}

static const demist_node *unary(demist_builder *b, demist_op op, const demist_node *x,
                                const char *name)
{
    return b->name(b, demist_unary(b, op, x), "%s", name);
}

static const demist_node *binary(demist_builder *b, demist_op op, const demist_node *x,
                                 const demist_node *y, const char *name)
{
    return b->name(b, demist_binary(b, op, x, y), "%s", name);
}

/* ---- Dead nodes ---- */

static void test_what_no_output_needs_is_removed_but_inputs_stay(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3)), *t = f32_input(b, "t", SHAPE(N, 3));
    int32_t slot = b->scalar_slot(b, "seed");
    const demist_node *dead = binary(b, DEMIST_OP_ADD, t, ramp(b, SHAPE(3)), "dead");
    b->output(b, "out", unary(b, DEMIST_OP_EXP, x, "y"));
    struct dm_lowered l = lower_frozen(graph);
    const demist_graph *view = dm_graph_view(l.graph);
    assert_string_equal(listing(&l), "exp y(x)");
    assert_int_equal(view->n_inputs, 2);
    assert_string_equal(view->inputs[1]->name, "t");
    assert_string_equal(view->output_names[0], "out");
    assert_string_equal(view->name, "denoise");
    assert_int_equal(view->n_nodes, 3);
    assert_string_equal(dm_graph_slot_name(l.graph, slot), "seed");
    assert_int_equal(l.origins[dead->id].fate, DM_FATE_REMOVED);
    assert_int_equal(l.origins[x->id].fate, DM_FATE_KEPT);
    destroy(graph, &l);
}

/* ---- Folding ---- */

static const float *folded(const struct dm_lowered *l, const char *name)
{
    const demist_node *node = dm_graph_find(l->graph, name);
    assert_non_null(node);
    assert_int_equal(node->op, DEMIST_OP_CONSTANT);
    assert_int_equal((uintptr_t)node->data % 64, 0);
    return node->data;
}

static void test_elementwise_ops_on_constants_are_folded(void **state)
{
    static const struct {
        demist_op op;
        double expected; /* of 0.75, or of 0.75 and −1.25 */
    } cases[] = {
        {DEMIST_OP_NEG, -0.75},
        {DEMIST_OP_ABS, 0.75},
        {DEMIST_OP_EXP, 2.1170000166126747},
        {DEMIST_OP_LOG, -0.2876820724517809},
        {DEMIST_OP_SQRT, 0.8660254037844386},
        {DEMIST_OP_SIN, 0.6816387600233341},
        {DEMIST_OP_COS, 0.7316888688738209},
        {DEMIST_OP_TANH, 0.6351489523872873},
        {DEMIST_OP_ERF, 0.7111556336535151},
        {DEMIST_OP_SIGMOID, 0.679178699175393},
        {DEMIST_OP_RELU, 0.75},
        {DEMIST_OP_SILU, 0.5093840243815448},
        {DEMIST_OP_GELU, 0.5800294853917985},
        {DEMIST_OP_ADD, -0.5},
        {DEMIST_OP_SUB, 2},
        {DEMIST_OP_MUL, -0.9375},
        {DEMIST_OP_DIV, -0.6},
        {DEMIST_OP_MIN, -1.25},
        {DEMIST_OP_MAX, 0.75},
        {DEMIST_OP_LESS, 0},
        {DEMIST_OP_LINCOMB, -0.9375},
    };
    static const float u = 0.75f, v = -1.25f;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dm_graph *graph = new_graph();
        demist_builder *b = dm_graph_builder(graph);
        const demist_node *in[2] = {b->constant(b, DEMIST_F32, 0, NULL, &u),
                                    b->constant(b, DEMIST_F32, 0, NULL, &v)};
        int32_t n = cases[i].op >= DEMIST_OP_ADD ? 2 : 1;
        b->output(b, "out", b->name(b, b->op(b, cases[i].op, n, in, NULL, 0, NULL), "y"));
        struct dm_lowered l = lower_frozen(graph);
        double got = (double)*folded(&l, "y"), want = cases[i].expected;
        if (fabs(got - want) > 6e-8 * fabs(want))
            fail_msg("%s: %.9g instead of %.9g", demist_op_name(cases[i].op), got, want);
        assert_int_equal(dm_graph_view(l.graph)->n_nodes, 1);
        destroy(graph, &l);
    }
}

static void test_folding_broadcasts(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *column = ramp(b, SHAPE(3, 1)), *row = ramp(b, SHAPE(2));
    b->output(b, "out", binary(b, DEMIST_OP_MUL, column, row, "y"));
    struct dm_lowered l = lower_frozen(graph);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 2; j++)
            assert_float_equal(folded(&l, "y")[2 * i + j], (i + 0.5) * (j + 0.5), 0);
    destroy(graph, &l);
}

static void test_shape_ops_on_constants_are_folded(void **state)
{
    static float const expected_slice[] = {1.5f, 3.5f, 5.5f, 7.5f, 9.5f, 11.5f};
    static float const expected_pad[] = {0, 0, 0, 0.5f, 1.5f, 0, 2.5f, 3.5f, 0};
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = ramp(b, SHAPE(3, 4)), *small = ramp(b, SHAPE(2, 2));
    demist_attrs attrs = demist_no_attrs();
    attrs.transpose.perm[0] = 1;
    b->output(b, "t", b->name(b, b->op(b, DEMIST_OP_TRANSPOSE, 1, &x, &attrs, 0, NULL), "t"));
    attrs = demist_no_attrs();
    attrs.slice.axis = 1;
    attrs.slice.start = 1;
    attrs.slice.step = attrs.slice.length = 2;
    b->output(b, "s", b->name(b, b->op(b, DEMIST_OP_SLICE, 1, &x, &attrs, 0, NULL), "s"));
    b->output(b, "c", b->name(b, demist_concat(b, 1, 2, (const demist_node *[]){x, x}), "c"));
    attrs = demist_no_attrs();
    attrs.pad.before[0] = attrs.pad.after[1] = 1;
    b->output(b, "p", b->name(b, b->op(b, DEMIST_OP_PAD, 1, &small, &attrs, 0, NULL), "p"));
    const demist_node *e = b->op(b, DEMIST_OP_EXPAND, 1, &small, NULL, SHAPE(2, 2, 2));
    b->output(b, "e", b->name(b, e, "e"));
    b->output(b, "r", b->name(b, demist_reshape(b, x, SHAPE(2, 0)), "r"));
    struct dm_lowered l = lower_frozen(graph);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            assert_float_equal(folded(&l, "t")[3 * j + i], 4 * i + j + 0.5, 0);
            assert_float_equal(folded(&l, "c")[8 * i + j], 4 * i + j + 0.5, 0);
            assert_float_equal(folded(&l, "c")[8 * i + j + 4], 4 * i + j + 0.5, 0);
            assert_float_equal(folded(&l, "r")[4 * i + j], 4 * i + j + 0.5, 0);
        }
    assert_memory_equal(folded(&l, "s"), expected_slice, sizeof expected_slice);
    assert_memory_equal(folded(&l, "p"), expected_pad, sizeof expected_pad);
    for (int i = 0; i < 8; i++)
        assert_float_equal(folded(&l, "e")[i], (i % 4) + 0.5, 0);
    destroy(graph, &l);
}

static void test_casts_round_half_to_even_and_saturate(void **state)
{
    static float const values[] = {0.5f, 1.5f, -2.5f, 3e9f, -INFINITY, NAN, 7};
    static int32_t const expected[] = {0, 2, -2, INT32_MAX, INT32_MIN, 0, 7};
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = b->constant(b, DEMIST_F32, SHAPE(7), values);
    demist_attrs attrs = demist_no_attrs();
    attrs.cast.dtype = DEMIST_I32;
    b->output(b, "out", b->name(b, b->op(b, DEMIST_OP_CAST, 1, &x, &attrs, 0, NULL), "y"));
    struct dm_lowered l = lower_frozen(graph);
    assert_memory_equal(dm_graph_find(l.graph, "y")->data, expected, sizeof expected);
    destroy(graph, &l);
}

static void test_an_expansion_too_large_to_store_is_not_folded(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = ramp(b, SHAPE(1)), *y;
    y = b->op(b, DEMIST_OP_EXPAND, 1, &x, NULL, SHAPE(1 << 20, 1 << 19));
    b->output(b, "out", b->name(b, y, "big"));
    struct dm_lowered l = lower_frozen(graph);
    assert_string_equal(listing(&l), "expand big(constant_0)");
    destroy(graph, &l);
}

static demist_status fill(void *user, const char *key, int32_t rank, const int64_t *shape,
                          int64_t n, float *values, struct dm_error *err)
{
    for (int64_t i = 0; i < n; i++)
        values[i] = 2;
    return DEMIST_OK;
}

static void test_parameters_are_folded_only_when_frozen(void **state)
{
    for (int frozen = 0; frozen < 2; frozen++) {
        struct dm_sources *sources;
        struct dm_graph *graph;
        int32_t source;
        dm_sources_create(&sources, NULL);
        dm_sources_add_blank(sources, fill, NULL, &source, NULL);
        dm_graph_create("denoise", sources, &graph, NULL);
        demist_builder *b = dm_graph_builder(graph);
        const demist_node *w = b->param(b, 0, "w", SHAPE(3)), *x = f32_input(b, "x", SHAPE(N, 3));
        const demist_node *unused = b->param(b, 0, "unused", SHAPE(3));
        const demist_node *e = unary(b, DEMIST_OP_EXP, w, "e");
        const demist_node *c = unary(b, DEMIST_OP_NEG, ramp(b, SHAPE(3)), "c");
        b->output(b, "out", binary(b, DEMIST_OP_MUL, x, binary(b, DEMIST_OP_ADD, e, c, "s"), "y"));
        struct dm_lowered l = lower(graph, &(struct dm_lower_options){.frozen = frozen});
        assert_string_equal(listing(&l),
                            frozen ? "mul y(x,s)" : "exp e(w); add s(e,c); mul y(x,s)");
        assert_int_equal(dm_graph_view(l.graph)->n_params, !frozen);
        assert_int_equal(l.origins[unused->id].fate, DM_FATE_REMOVED);
        assert_int_equal(l.origins[w->id].fate, frozen ? DM_FATE_REMOVED : DM_FATE_KEPT);
        if (frozen)
            assert_float_equal(folded(&l, "s")[1], exp(2) - 1.5, 1e-6);
        destroy(graph, &l);
        dm_sources_destroy(sources);
    }
}

/* Whether the data are in memory or were left in the checkpoint. */
static void test_a_reshaped_parameter_is_read_like_the_parameter(void **state)
{
    const char *path = test_data("straight-path/checkpoint.safetensors");
    for (int late = 0; late < 2; late++) {
        struct dm_sources *sources;
        struct dm_graph *graph;
        struct dm_error err = DM_ERROR_INIT;
        int32_t source, rank;
        int64_t shape[DEMIST_MAX_RANK];
        float whole[1024], read[1024], halved[1024];
        dm_sources_create(&sources, NULL);
        if (late)
            dm_sources_read_late(sources);
        assert_int_equal(dm_sources_open(sources, path, "", &source, &err), DEMIST_OK);
        const char *key = "";
        for (int64_t i = 0; strstr(key, "bias") == NULL; i++)
            key = dm_sources_key(sources, source, i);
        assert_true(dm_sources_find(sources, source, key, &rank, shape));
        const int64_t n = shape[0], flat[] = {1, n, 1};
        assert_true(rank == 1 && n > 0 && n <= 1024);
        dm_graph_create("denoise", sources, &graph, NULL);
        demist_builder *b = dm_graph_builder(graph);
        const demist_node *w = b->param(b, source, key, 1, shape);
        const demist_node *r = b->name(b, demist_reshape(b, w, 3, flat), "r");
        const demist_node *x = f32_input(b, "x", SHAPE(N, n, 1));
        const demist_node *half = unary(b, DEMIST_OP_SIGMOID, w, "half");
        b->output(b, "out", binary(b, DEMIST_OP_MUL, x, r, "y"));
        b->output(b, "half", half);
        struct dm_lowered l = lower(graph, &(struct dm_lower_options){.frozen = true});
        const demist_node *param = dm_graph_find(l.graph, "r");
        assert_int_equal(param->op, DEMIST_OP_PARAM);
        assert_int_equal(dm_graph_view(l.graph)->n_params, 1);
        assert_int_equal(param->rank, 3);
        assert_ptr_equal(param->data, w->data);
        assert_true(late == !w->data);
        assert_int_equal(dm_sources_read(sources, source, key, whole, &err), DEMIST_OK);
        assert_int_equal(dm_graph_read_param(graph, param, read, &err), DEMIST_OK);
        assert_memory_equal(read, whole, (size_t)n * sizeof *read);
        memcpy(halved, folded(&l, "half"), (size_t)n * sizeof *halved);
        for (int64_t i = 0; i < n; i++)
            assert_float_equal(halved[i], 1 / (1 + exp(-whole[i])), 1e-6);
        destroy(graph, &l);
        dm_sources_destroy(sources);
    }
}

static void test_refuses_a_parameter_without_data(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    demist_node param = DEMIST_INIT(demist_node);
    param.op = DEMIST_OP_PARAM;
    param.name = "w";
    b->output(b, "out", dm_graph_append(graph, &param));
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);
    struct dm_lowered l;
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_graph_lower(graph, &(struct dm_lower_options){.frozen = true}, &l, &err),
                     DEMIST_INVALID);
    assert_string_equal(err.text, "graph 'denoise': parameter 'w' has no data");
    assert_null(l.graph);
    dm_error_clear(&err);
    dm_graph_destroy(graph);
}

/* ---- Reshapes ---- */

static void test_reshapes_merge(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 6));
    const demist_node *r1 = b->name(b, demist_reshape(b, x, SHAPE(N, 2, 3)), "r1");
    const demist_node *r2 = b->name(b, demist_reshape(b, r1, SHAPE(N, 3, 2)), "r2");
    const demist_node *r3 = b->name(b, demist_reshape(b, r2, SHAPE(N, 6)), "r3");
    const demist_node *r4 = b->name(b, demist_reshape(b, r2, SHAPE(N, 3, 1, 2)), "r4");
    b->output(b, "a", unary(b, DEMIST_OP_EXP, r3, "a"));
    b->output(b, "b", r4);
    struct dm_lowered l = lower_frozen(graph);
    assert_string_equal(listing(&l), "reshape r4(x); exp a(x)");
    assert_int_equal(l.origins[r1->id].fate, DM_FATE_REMOVED);
    assert_int_equal(l.origins[r3->id].fate, DM_FATE_REMOVED);
    dm_graph_destroy(l.graph);

    assert_int_equal(
        dm_graph_lower(graph,
                       &(struct dm_lower_options){.observe_all = true, .supports = accept_all}, &l,
                       NULL),
        DEMIST_OK);
    assert_string_equal(listing(&l),
                        "reshape r1(x); reshape r2(r1); reshape r3(r2); reshape r4(r2); exp a(r3)");
    destroy(graph, &l);
}

static void test_an_output_that_is_a_view_keeps_its_name(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 6));
    b->output(b, "out", b->name(b, demist_reshape(b, x, SHAPE(N, 6)), "r"));
    struct dm_lowered l = lower_frozen(graph);
    assert_string_equal(listing(&l), "reshape r(x)");
    destroy(graph, &l);
}

/* ---- Fusion ---- */

static void test_a_product_takes_norm_activation_and_residual(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 4, 8, 8)), *c = ramp(b, SHAPE(4));
    const demist_node *skip = unary(b, DEMIST_OP_RELU, x, "skip");
    const demist_node *conv = b->name(
        b, demist_conv2d(b, x, b->name(b, ramp(b, SHAPE(4, 4, 3, 3)), "w"), NULL, 1, 1), "conv");
    b->name(b, c, "c");
    const demist_node *norm = b->name(b, demist_batch_norm(b, conv, c, c, c, c, 1e-5f), "norm");
    const demist_node *act = unary(b, DEMIST_OP_GELU, norm, "act");
    const demist_node *sum = binary(b, DEMIST_OP_ADD, skip, act, "sum");
    const demist_node *half = b->name(b, demist_affine(b, sum, 0.5f, 0), "half");
    const demist_node *sine = unary(b, DEMIST_OP_SIN, half, "sine");
    b->output(b, "out", sine);
    struct dm_lowered l = lower_frozen(graph);
    assert_string_equal(listing(&l), "relu skip(x); "
                                     "fused half(x,w,c,skip){conv+norm+act+sum+half}; "
                                     "sin sine(half)");
    const demist_node *fused = dm_graph_find(l.graph, "half");
    assert_int_equal(fused->attrs.fused.pattern, DEMIST_PATTERN_PRODUCT);
    assert_shape(fused, SHAPE(N, 4, 8, 8));
    assert_ptr_equal(fused->body[1]->inputs[0], fused->body[0]);
    assert_ptr_equal(fused->body[3]->inputs[0], fused->inputs[3]);
    assert_ptr_equal(fused->body[3]->inputs[1], fused->body[2]);
    assert_int_equal(fused->body[4]->id, 4);
    assert_int_equal(l.origins[conv->id].fate, DM_FATE_INSIDE);
    assert_int_equal(l.origins[act->id].node, fused->id);
    assert_int_equal(l.origins[half->id].fate, DM_FATE_KEPT);
    assert_int_equal(l.origins[half->id].node, fused->id);
    destroy(graph, &l);
}

static void test_a_norm_takes_scale_and_shift_per_channel(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 4, 8, 8));
    const demist_node *scale = f32_input(b, "scale", SHAPE(N, 4, 1, 1));
    const demist_node *map = f32_input(b, "map", SHAPE(N, 1, 8, 8));
    const demist_node *g = b->name(b, demist_group_norm(b, x, NULL, NULL, 2, 1e-5f), "g");
    const demist_node *m = binary(b, DEMIST_OP_MUL, g, scale, "m");
    const demist_node *s = unary(b, DEMIST_OP_SILU, binary(b, DEMIST_OP_ADD, m, scale, "a"), "s");
    b->output(b, "out", binary(b, DEMIST_OP_MUL, s, map, "y"));
    struct dm_lowered l = lower_frozen(graph);
    assert_string_equal(listing(&l), "fused s(x,scale){g+m+a+s}; mul y(s,map)");
    assert_int_equal(dm_graph_find(l.graph, "s")->attrs.fused.pattern, DEMIST_PATTERN_NORM);
    destroy(graph, &l);
}

static void test_elementwise_chains_end_where_the_shape_changes(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 4, 1)),
                      *z = f32_input(b, "z", SHAPE(N, 4, 5));
    const demist_node *e = unary(b, DEMIST_OP_EXP, x, "e"), *f = unary(b, DEMIST_OP_NEG, e, "f");
    const demist_node *g = binary(b, DEMIST_OP_ADD, f, z, "g");
    b->output(b, "out", binary(b, DEMIST_OP_MUL, g, g, "h"));
    struct dm_lowered l = lower_frozen(graph);
    assert_string_equal(listing(&l), "fused f(x){e+f}; fused h(f,z){g+h}");
    const demist_node *h = dm_graph_find(l.graph, "h");
    assert_ptr_equal(h->body[1]->inputs[0], h->body[0]);
    assert_ptr_equal(h->body[1]->inputs[1], h->body[0]);
    destroy(graph, &l);
}

static const demist_node *softmax(demist_builder *b, const demist_node *x)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.axis.axis = 1;
    return b->op(b, DEMIST_OP_SOFTMAX, 1, &x, &attrs, 0, NULL);
}

static void test_a_value_used_elsewhere_ends_a_chain(void **state)
{
    for (int is_output = 0; is_output < 2; is_output++) {
        struct dm_graph *graph = new_graph();
        demist_builder *b = dm_graph_builder(graph);
        const demist_node *x = f32_input(b, "x", SHAPE(N, 3));
        const demist_node *y = unary(b, DEMIST_OP_EXP, unary(b, DEMIST_OP_NEG, x, "n"), "y");
        b->output(b, "out", unary(b, DEMIST_OP_SIN, unary(b, DEMIST_OP_COS, y, "c"), "z"));
        b->output(b, "y", is_output ? y : softmax(b, y));
        struct dm_lowered l = lower_frozen(graph);
        assert_contains(listing(&l), "fused y(x){n+y}; fused z(y){c+z}");
        destroy(graph, &l);
    }
}

/* Accepts fused nodes of at most *(int *)user nodes and counts what it was asked. */
struct limit {
    int most, asked;
};

static bool accept_short(void *user, const demist_node *node, const char **why)
{
    struct limit *limit = user;
    limit->asked++;
    assert_non_null(node->name);
    for (int32_t i = 0; i < node->n_inputs; i++)
        assert_true(demist_elements(node->inputs[i]) > 0);
    *why = "it is too long";
    return node->op != DEMIST_OP_FUSED || node->n_body <= limit->most;
}

static void test_shorter_chains_are_tried_when_one_is_refused(void **state)
{
    static const char *const expected[] = {
        "exp a(x); neg b(a); sin c(b); cos d(c); abs e(d)",
        "exp a(x); neg b(a); sin c(b); cos d(c); abs e(d)",
        "fused b(x){a+b}; fused d(b){c+d}; abs e(d)",
        "fused c(x){a+b+c}; fused e(c){d+e}",
        "fused d(x){a+b+c+d}; abs e(d)",
        "fused e(x){a+b+c+d+e}",
    };
    for (int most = 0; most <= 5; most++) {
        struct dm_graph *graph = new_graph();
        demist_builder *b = dm_graph_builder(graph);
        const demist_node *y = f32_input(b, "x", SHAPE(N, 3));
        static demist_op const ops[] = {DEMIST_OP_EXP, DEMIST_OP_NEG, DEMIST_OP_SIN, DEMIST_OP_COS,
                                        DEMIST_OP_ABS};
        for (int i = 0; i < 5; i++)
            y = unary(b, ops[i], y, (char[]){(char)('a' + i), 0});
        b->output(b, "out", y);
        struct limit limit = {most, 0};
        struct dm_lowered l =
            lower(graph, &(struct dm_lower_options){.supports = accept_short, .user = &limit});
        assert_string_equal(listing(&l), expected[most]);
        assert_true(limit.asked > 0);
        destroy(graph, &l);
    }
}

static bool refuse_sin(void *user, const demist_node *node, const char **why)
{
    *why = "there is no sine here";
    return node->op != DEMIST_OP_SIN && node->op != DEMIST_OP_FUSED;
}

static void test_an_unsupported_node_is_named_with_op_and_reason(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    struct dm_lowered l;
    struct dm_error err = DM_ERROR_INIT;
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3));
    unary(b, DEMIST_OP_SIN, x, "dead"); /* is not needed, so it does not matter */
    b->output(b, "out", unary(b, DEMIST_OP_SIN, x, "wave"));
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);
    assert_int_equal(
        dm_graph_lower(graph, &(struct dm_lower_options){.supports = refuse_sin}, &l, &err),
        DEMIST_UNSUPPORTED);
    assert_string_equal(err.text, "graph 'denoise': the backend cannot compute node 'wave' (sin, "
                                  "[N,3] f32): there is no sine here");
    dm_error_clear(&err);
    dm_graph_destroy(graph);
}

/* ---- Properties on random graphs ---- */

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static const demist_node *pick(const demist_node **values, int n, uint64_t *seed)
{
    return values[next_random(seed) % (uint64_t)n];
}

/* A graph of values [N,4,6], [N,6,4] and unbatched [4,6], with many a reuse and dead end. */
static struct dm_graph *random_graph(uint64_t *seed)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *values[64];
    int n = 0;
    values[n++] = f32_input(b, "x", SHAPE(N, 4, 6));
    values[n++] = ramp(b, SHAPE(4, 6));
    values[n++] = ramp(b, SHAPE(1, 4, 6));
    while (n < 40) {
        const demist_node *u = pick(values, n, seed), *v = pick(values, n, seed), *y = NULL;
        bool batched = demist_is_batched(u);
        switch (next_random(seed) % 7) {
        case 0:
            y = demist_add(b, u, v);
            break;
        case 1:
            y = demist_unary(b, DEMIST_OP_SILU, u);
            break;
        case 2:
            y = demist_affine(b, u, 0.5f, 1);
            break;
        case 3:
            y = batched ? demist_reshape(b, demist_reshape(b, u, SHAPE(N, 24)), SHAPE(N, 4, 6))
                        : demist_reshape(b, demist_reshape(b, u, SHAPE(24)), SHAPE(4, 6));
            break;
        case 4:
            y = demist_linear(b, u, ramp(b, SHAPE(6, 6)), NULL);
            break;
        case 5:
            y = batched ? demist_group_norm(b, u, NULL, NULL, 2, 1e-5f) : demist_mul(b, u, v);
            break;
        default:
            y = demist_binary(b, DEMIST_OP_LESS, u, v);
        }
        assert_non_null(y);
        values[n++] = y;
    }
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "out%d", i);
        b->output(b, name, pick(values, n, seed));
    }
    return graph;
}

static bool refuse_some(void *user, const demist_node *node, const char **why)
{
    return node->op != DEMIST_OP_FUSED || next_random(user) % 3 != 0;
}

/* Topological order, ids, outputs and their shapes, origins: what a backend relies on. */
static void check_lowered(const struct dm_graph *graph, const struct dm_lowered *l)
{
    const demist_graph *in = dm_graph_view(graph), *out = dm_graph_view(l->graph);
    assert_int_equal(out->n_inputs, in->n_inputs);
    assert_int_equal(out->n_outputs, in->n_outputs);
    for (int32_t i = 0; i < in->n_outputs; i++) {
        assert_string_equal(out->output_names[i], in->output_names[i]);
        assert_string_equal(out->outputs[i]->name, in->outputs[i]->name);
        assert_shape(out->outputs[i], in->outputs[i]->rank, in->outputs[i]->shape);
    }
    for (int32_t i = 0; i < out->n_nodes; i++) {
        const demist_node *node = out->nodes[i];
        assert_int_equal(node->id, i);
        for (int32_t k = 0; k < node->n_inputs; k++) {
            assert_true(node->inputs[k]->id < i);
            assert_ptr_equal(out->nodes[node->inputs[k]->id], node->inputs[k]);
        }
        for (int32_t k = 1; k < node->n_body; k++) {
            bool chained = false;
            for (int32_t j = 0; j < node->body[k]->n_inputs; j++)
                chained |= node->body[k]->inputs[j] == node->body[k - 1];
            assert_true(chained);
        }
    }
    for (int32_t i = 0; i < in->n_nodes; i++) {
        const struct dm_origin *origin = &l->origins[i];
        const demist_node *found = dm_graph_find(l->graph, in->nodes[i]->name);
        assert_int_equal(found != NULL, origin->fate == DM_FATE_KEPT);
        if (found)
            assert_int_equal(found->id, origin->node);
        if (origin->fate == DM_FATE_INSIDE)
            assert_int_equal(out->nodes[origin->node]->op, DEMIST_OP_FUSED);
    }
}

static void test_random_graphs_keep_outputs_names_and_order(void **state)
{
    uint64_t seed = 20240607;
    for (int round = 0; round < 300; round++) {
        struct dm_graph *graph = random_graph(&seed);
        struct dm_lower_options options = {.frozen = round & 1,
                                           .observe_all = round % 5 == 0,
                                           .supports = refuse_some,
                                           .user = &seed};
        struct dm_lowered l = lower(graph, &options);
        check_lowered(graph, &l);
        destroy(graph, &l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_no_output_needs_is_removed_but_inputs_stay),
        cmocka_unit_test(test_elementwise_ops_on_constants_are_folded),
        cmocka_unit_test(test_folding_broadcasts),
        cmocka_unit_test(test_shape_ops_on_constants_are_folded),
        cmocka_unit_test(test_casts_round_half_to_even_and_saturate),
        cmocka_unit_test(test_an_expansion_too_large_to_store_is_not_folded),
        cmocka_unit_test(test_parameters_are_folded_only_when_frozen),
        cmocka_unit_test(test_a_reshaped_parameter_is_read_like_the_parameter),
        cmocka_unit_test(test_refuses_a_parameter_without_data),
        cmocka_unit_test(test_reshapes_merge),
        cmocka_unit_test(test_an_output_that_is_a_view_keeps_its_name),
        cmocka_unit_test(test_a_product_takes_norm_activation_and_residual),
        cmocka_unit_test(test_a_norm_takes_scale_and_shift_per_channel),
        cmocka_unit_test(test_elementwise_chains_end_where_the_shape_changes),
        cmocka_unit_test(test_a_value_used_elsewhere_ends_a_chain),
        cmocka_unit_test(test_shorter_chains_are_tried_when_one_is_refused),
        cmocka_unit_test(test_an_unsupported_node_is_named_with_op_and_reason),
        cmocka_unit_test(test_random_graphs_keep_outputs_names_and_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

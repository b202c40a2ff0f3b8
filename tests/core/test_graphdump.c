/* The text dump of graphs, and what nodes are said to cost. */
#include "testing.h"

#include "graphdump.h"
#include "graphs.h"
#include "passes.h"

static void assert_dump(struct dm_graph *graph, const char *expected)
{
    struct dm_text text = DM_TEXT_INIT;
    dm_graph_dump(&text, dm_graph_view(graph));
    assert_string_equal(text.data, expected);
    dm_text_finish(&text);
}

static bool accept(void *user, const demist_node *node, const char **why)
{
    return true;
}

static struct dm_graph *small_graph(void)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, SHAPE(N, 3, 8, 8));
    const demist_node *w = b->name(b, ramp(b, SHAPE(4, 3, 3, 3)), "w");
    const demist_node *y = b->name(b, demist_conv2d(b, x, w, NULL, 2, 1), "c");
    y = b->name(b, demist_affine(b, demist_unary(b, DEMIST_OP_RELU, y), 0.1f, 0), "y");
    b->output(b, "out", y);
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);
    return graph;
}

static void test_a_dump_has_a_line_for_each_node(void **state)
{
    struct dm_graph *graph = small_graph();
    assert_dump(graph, "graph denoise: 5 nodes, 0 parameters, 3.648 kFLOP per image\n"
                       "     0  x  input role=x -> [N,3,8,8] f32\n"
                       "     2  c  conv2d stride=2 pad=1 (x, [w 4,3,3,3]) -> [N,4,4,4] f32\n"
                       "     3  relu_3  relu (c) -> [N,4,4,4] f32\n"
                       "     4  y  affine a=0.1 b=0 (relu_3) -> [N,4,4,4] f32\n"
                       "output out = y\n");
    dm_graph_destroy(graph);
}

static void test_a_fused_node_shows_its_body(void **state)
{
    struct dm_graph *graph = small_graph();
    struct dm_lowered l;
    assert_int_equal(
        dm_graph_lower(graph, &(struct dm_lower_options){.supports = accept}, &l, NULL), DEMIST_OK);
    assert_dump(l.graph, "graph denoise: 3 nodes, 0 parameters, 3.648 kFLOP per image\n"
                         "     0  x  input role=x -> [N,3,8,8] f32\n"
                         "     2  y  fused pattern=product {conv2d stride=2 pad=1 + relu + affine "
                         "a=0.1 b=0} (x, [w 4,3,3,3]) -> [N,4,4,4] f32\n"
                         "output out = y\n");
    dm_graph_destroy(l.graph);
    dm_graph_destroy(graph);
}

static void test_products_count_two_per_multiply_add(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3, 8, 8)),
                      *q = f32_input(b, "q", SHAPE(N, 2, 4, 5));
    const demist_node *k = f32_input(b, "k", SHAPE(N, 2, 4, 7)),
                      *v = f32_input(b, "v", SHAPE(N, 2, 3, 7));
    const demist_node *w = ramp(b, SHAPE(3, 6, 2, 2)), *m = ramp(b, SHAPE(8, 10));
    demist_attrs attrs = demist_no_attrs();
    attrs.matmul.transpose_b = 0;
    assert_float_equal(dm_op_flops(demist_conv_transpose2d(b, x, w, NULL, 2, 0)), 2 * 192 * 6 * 4,
                       0);
    assert_float_equal(dm_op_flops(demist_linear(b, x, ramp(b, SHAPE(5, 8)), NULL)),
                       2 * 3 * 8 * 8 * 5, 0);
    assert_float_equal(
        dm_op_flops(b->op(b, DEMIST_OP_MATMUL, 2, (const demist_node *[]){x, m}, &attrs, 0, NULL)),
        2 * 3 * 8 * 8 * 10, 0);
    assert_float_equal(dm_op_flops(demist_attention(b, q, k, v, 1)), 2 * 5 * 7 * (2 * (4 + 3) + 5),
                       0);
    assert_float_equal(dm_op_flops(demist_reshape(b, x, SHAPE(N, 0))), 0, 0);
    assert_float_equal(dm_op_flops(demist_add(b, x, x)), 192, 0);
    dm_graph_destroy(graph);
}

static const char *attrs_text(demist_op op, const demist_attrs *attrs)
{
    static char copy[256];
    struct dm_text text = DM_TEXT_INIT;
    demist_node node = DEMIST_INIT(demist_node);
    node.op = op;
    node.attrs = *attrs;
    node.rank = 2;
    dm_op_attrs_print(&text, &node);
    snprintf(copy, sizeof copy, "%s", text.data ? text.data : "");
    dm_text_finish(&text);
    return copy;
}

static void test_attributes_are_printed_where_they_are_not_plain(void **state)
{
    demist_attrs a = demist_no_attrs();
    assert_string_equal(attrs_text(DEMIST_OP_EXP, &a), "");
    assert_string_equal(attrs_text(DEMIST_OP_MATMUL, &a), "");
    a.conv.stride[0] = a.conv.stride[1] = a.conv.dilation[0] = a.conv.dilation[1] = 1;
    a.conv.groups = 1;
    assert_string_equal(attrs_text(DEMIST_OP_CONV2D, &a), "");
    a.conv.pad[2] = 1;
    a.conv.groups = 4;
    assert_string_equal(attrs_text(DEMIST_OP_CONV2D, &a), " pad=0,0,1,0 groups=4");
    a = demist_no_attrs();
    a.reduce.axes = 6;
    assert_string_equal(attrs_text(DEMIST_OP_MEAN, &a), " axes=1,2");
    a = demist_no_attrs();
    a.transpose.perm[0] = 1;
    assert_string_equal(attrs_text(DEMIST_OP_TRANSPOSE, &a), " perm=1,0");
}

static void test_floats_are_printed_short_and_exact(void **state)
{
    static const struct {
        float value;
        const char *text;
    } cases[] = {
        {1e-5f, " lo=1e-05 hi=0"},    {0.1f, " lo=0.1 hi=0"},    {1.0f / 3, " lo=0.33333334 hi=0"},
        {-1.414f, " lo=-1.414 hi=0"}, {1e30f, " lo=1e+30 hi=0"}, {16777216, " lo=16777216 hi=0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        demist_attrs a = demist_no_attrs();
        a.clamp.lo = cases[i].value;
        assert_string_equal(attrs_text(DEMIST_OP_CLAMP, &a), cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_dump_has_a_line_for_each_node),
        cmocka_unit_test(test_a_fused_node_shows_its_body),
        cmocka_unit_test(test_products_count_two_per_multiply_add),
        cmocka_unit_test(test_attributes_are_printed_where_they_are_not_plain),
        cmocka_unit_test(test_floats_are_printed_short_and_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

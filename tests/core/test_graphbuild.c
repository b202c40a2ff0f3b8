/* The graph builder: naming, ownership, slots, and that the first error is the one reported. */
#include "testing.h"

#include "graphs.h"
#include "sources.h"

static void test_a_small_graph_comes_out_as_it_was_built(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, SHAPE(N, 3));
    const demist_node *w = ramp(b, SHAPE(2, 3)), *y = demist_linear(b, x, w, NULL);
    b->output(b, "out", b->name(b, demist_unary(b, DEMIST_OP_RELU, y), "last %d", 7));
    assert_false(b->failed(b));
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);

    const demist_graph *view = dm_graph_view(graph);
    assert_string_equal(view->name, "denoise");
    assert_int_equal(view->n_nodes, 4);
    assert_int_equal(view->n_inputs, 1);
    assert_ptr_equal(view->inputs[0], x);
    assert_int_equal(x->attrs.input.role, DEMIST_ROLE_X);
    assert_int_equal(view->n_outputs, 1);
    assert_string_equal(view->output_names[0], "out");
    assert_shape(view->outputs[0], SHAPE(N, 2));
    assert_ptr_equal(dm_graph_find(graph, "last 7"), view->outputs[0]);
    for (int32_t i = 0; i < view->n_nodes; i++)
        assert_int_equal(view->nodes[i]->id, i);
    dm_graph_destroy(graph);
}

static void test_constants_are_copied_and_aligned(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    int32_t data[3] = {4, 5, 6};
    for (int i = 0; i < 20; i++) {
        const demist_node *c = b->constant(b, DEMIST_I32, SHAPE(3), data);
        assert_non_null(c);
        assert_int_equal((uintptr_t)c->data % 64, 0);
        data[0] = -1;
        assert_int_equal(((const int32_t *)c->data)[0], 4);
        data[0] = 4;
    }
    dm_graph_destroy(graph);
}

static demist_status count_up(void *user, const char *key, int32_t rank, const int64_t *shape,
                              int64_t n, float *values, struct dm_error *err)
{
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)i;
    return DEMIST_OK;
}

static struct dm_graph *new_blank_graph(struct dm_sources **sources)
{
    struct dm_graph *graph;
    int32_t source;
    assert_int_equal(dm_sources_create(sources, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_add_blank(*sources, count_up, NULL, &source, NULL), DEMIST_OK);
    assert_int_equal(dm_graph_create("denoise", *sources, &graph, NULL), DEMIST_OK);
    return graph;
}

static void test_nodes_are_named_after_their_weights(void **state)
{
    struct dm_sources *sources;
    struct dm_graph *graph = new_blank_graph(&sources);
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3));
    const demist_node *w = b->param(b, 0, "down1.0.weight", SHAPE(3, 3));
    const demist_node *y = demist_linear(b, x, w, NULL), *z = demist_linear(b, y, w, NULL);
    const demist_node *other = demist_linear(b, z, b->param(b, 0, "weight", SHAPE(3, 3)), NULL);
    assert_false(b->failed(b));
    assert_string_equal(w->name, "down1.0.weight");
    assert_string_equal(y->name, "down1.0");
    assert_string_equal(z->name, "down1.0_2");
    assert_string_equal(other->name, "linear_5");
    assert_string_equal(demist_add(b, x, z)->name, "add_6");
    assert_int_equal(w->param_index, 0);
    assert_int_equal(y->param_index, -1);
    dm_graph_destroy(graph);
    dm_sources_destroy(sources);
}

static void test_a_parameter_asked_for_twice_is_one_node(void **state)
{
    struct dm_sources *sources;
    struct dm_graph *graph = new_blank_graph(&sources);
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *w = b->param(b, 0, "w", SHAPE(2, 3));
    assert_non_null(w);
    assert_float_equal(((const float *)w->data)[5], 5, 0);
    assert_ptr_equal(b->param(b, 0, "w", SHAPE(2, 3)), w);
    assert_null(b->param(b, 0, "w", SHAPE(3, 2)));
    assert_build_fails(graph, "parameter 'w' is asked for as [2,3] and as [3,2]");
    dm_sources_destroy(sources);
}

static void test_a_parameter_without_a_checkpoint_says_what_to_set(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    assert_null(b->param(b, 0, "conv.weight", SHAPE(1)));
    assert_build_fails(graph, "the network asks for conv.weight, and there is no checkpoint: set "
                              "[network] checkpoint");
}

static void test_the_first_error_is_reported_and_later_calls_do_nothing(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3));
    const demist_node *y = demist_add(b, x, ramp(b, SHAPE(4)));
    assert_null(y);
    assert_true(b->failed(b));
    assert_null(demist_unary(b, DEMIST_OP_SILU, y));
    assert_null(b->name(b, y, "nobody"));
    assert_null(b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, SHAPE(N)));
    assert_int_equal(b->scalar_slot(b, "a"), -1);
    (b->fail)(b, DEMIST_CONFIG, "too late");
    b->output(b, "out", y);
    assert_build_fails(graph,
                       "graph 'denoise': node 'add_2' (add): dimension 1 is 3 and 4: they do "
                       "not broadcast; inputs: [N,3] f32, [4] f32");
}

static void test_a_failure_of_the_networks_own_is_kept(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    struct dm_error err = DM_ERROR_INIT;
    assert_null((b->fail)(b, DEMIST_CONFIG, "height is %d", 17)); /* `fail` is a macro of CMocka */
    assert_int_equal(dm_graph_finish(graph, &err), DEMIST_CONFIG);
    assert_string_equal(err.text, "graph 'denoise': height is 17");
    dm_error_clear(&err);
    dm_graph_destroy(graph);
}

static void test_refuses_a_name_that_is_taken(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3));
    const demist_node *y = b->name(b, demist_unary(b, DEMIST_OP_EXP, x), "y");
    assert_ptr_equal(b->name(b, y, "y"), y);
    assert_null(b->name(b, demist_unary(b, DEMIST_OP_EXP, y), "y"));
    assert_build_fails(graph, "the name 'y' for node 'exp_2' (exp) is taken");
}

static void test_a_name_that_was_given_up_is_free_again(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3));
    const demist_node *y = b->name(b, demist_unary(b, DEMIST_OP_EXP, x), "first");
    b->name(b, y, "second");
    assert_null(dm_graph_find(graph, "first"));
    const demist_node *z = b->name(b, demist_unary(b, DEMIST_OP_EXP, y), "first");
    for (int i = 0; i < 300; i++)
        b->name(b, demist_unary(b, DEMIST_OP_EXP, x), "many %d", i);
    assert_false(b->failed(b));
    assert_ptr_equal(dm_graph_find(graph, "first"), z);
    assert_ptr_equal(dm_graph_find(graph, "second"), y);
    assert_non_null(dm_graph_find(graph, "many 299"));
    assert_null(dm_graph_find(graph, "exp_7"));
    dm_graph_destroy(graph);
}

static void test_an_automatic_name_steps_aside(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "exp_1", SHAPE(N, 3));
    assert_string_equal(demist_unary(b, DEMIST_OP_EXP, x)->name, "exp_1_2");
    dm_graph_destroy(graph);
}

static void test_refuses_values_of_another_graph(void **state)
{
    struct dm_graph *graph = new_graph(), *other = new_graph();
    demist_builder *b = dm_graph_builder(graph), *c = dm_graph_builder(other);
    const demist_node *x = f32_input(c, "x", SHAPE(N, 3));
    f32_input(b, "x", SHAPE(N, 3));
    assert_null(demist_unary(b, DEMIST_OP_EXP, x));
    assert_build_fails(graph, "input 0 is a value of another graph");
    dm_graph_destroy(other);
}

static void test_refuses_a_null_value_with_the_ops_name(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    assert_null(demist_add(b, f32_input(b, "x", SHAPE(N)), NULL));
    assert_build_fails(graph, "node 'add_1' (add): input 1 is NULL");
}

static void test_refuses_ops_that_the_builder_does_not_make(void **state)
{
    static demist_op const ops[] = {DEMIST_OP_INPUT, DEMIST_OP_PARAM, DEMIST_OP_CONSTANT,
                                    DEMIST_OP_FUSED, (demist_op)9999};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        struct dm_graph *graph = new_graph();
        demist_builder *b = dm_graph_builder(graph);
        assert_null(b->op(b, ops[i], 0, NULL, NULL, 0, NULL));
        assert_build_fails(graph, "is not made by `op`");
    }
}

static void test_refuses_a_wrong_number_of_inputs(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N));
    assert_null(b->op(b, DEMIST_OP_ADD, 1, &x, NULL, 0, NULL));
    assert_build_fails(graph, "(add): 1 inputs; it takes 2 to 2");
}

static void test_a_graph_needs_an_output(void **state)
{
    struct dm_graph *graph = new_graph();
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_graph_finish(graph, &err), DEMIST_INVALID);
    assert_string_equal(err.text, "graph 'denoise': it has no output");
    dm_error_clear(&err);
    dm_graph_destroy(graph);
}

static void test_refuses_two_outputs_of_one_name(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N));
    b->output(b, "out", x);
    b->output(b, "out", x);
    assert_build_fails(graph, "two outputs have the name 'out'");
}

static void test_refuses_calls_after_finish(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    b->output(b, "out", f32_input(b, "x", SHAPE(N)));
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);
    assert_null(f32_input(b, "y", SHAPE(N)));
    assert_build_fails(graph, "its building has ended");
}

static void test_the_same_slot_name_is_the_same_slot(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    int32_t a = b->scalar_slot(b, "scale"), c = b->scalar_slot(b, "seed");
    assert_int_not_equal(a, c);
    assert_int_equal(b->scalar_slot(b, "scale"), a);
    assert_int_equal(dm_graph_slot(graph, "seed"), c);
    assert_int_equal(dm_graph_find_slot(graph, "draw"), -1);
    demist_attrs attrs = demist_no_attrs();
    attrs.scalar.slot = a;
    b->output(b, "out", b->op(b, DEMIST_OP_SCALAR, 0, NULL, &attrs, 0, NULL));
    assert_int_equal(dm_graph_finish(graph, NULL), DEMIST_OK);
    assert_int_equal(dm_graph_view(graph)->n_scalars, 2);
    assert_string_equal(dm_graph_slot_name(graph, a), "scale");
    assert_int_equal(dm_graph_slot_kind(graph, a), DM_SLOT_NUMBER);
    assert_int_equal(dm_graph_slot_kind(graph, c), DM_SLOT_UNUSED);
    dm_graph_destroy(graph);
}

static void test_a_slot_cannot_hold_a_number_and_an_integer(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    demist_attrs attrs = demist_no_attrs();
    attrs.scalar.slot = b->scalar_slot(b, "seed");
    b->op(b, DEMIST_OP_SCALAR, 0, NULL, &attrs, 0, NULL);
    attrs = demist_no_attrs();
    attrs.philox.per_image = 1;
    attrs.philox.draw_slot = b->scalar_slot(b, "draw");
    attrs.philox.image_slot = b->scalar_slot(b, "image");
    assert_null(b->op(b, DEMIST_OP_PHILOX_NORMAL, 0, NULL, &attrs, SHAPE(N, 3)));
    assert_build_fails(graph, "slot 'seed' holds a number elsewhere");
}

static void test_attributes_that_an_op_does_not_use_are_zero(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x = f32_input(b, "x", SHAPE(N, 3));
    demist_attrs attrs, zero = demist_no_attrs();
    memset(&attrs, 0x5a, sizeof attrs);
    const demist_node *y = b->op(b, DEMIST_OP_EXP, 1, &x, &attrs, 0, NULL);
    assert_memory_equal(&y->attrs, &zero, sizeof zero);
    attrs.transpose.perm[0] = 0;
    attrs.transpose.perm[1] = 1;
    y = b->op(b, DEMIST_OP_TRANSPOSE, 1, &x, &attrs, 0, NULL);
    zero.transpose.perm[1] = 1;
    assert_memory_equal(&y->attrs, &zero, sizeof zero);
    dm_graph_destroy(graph);
}

static void test_destroying_nothing_is_legal(void **state)
{
    dm_graph_destroy(NULL);
    dm_sources_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_small_graph_comes_out_as_it_was_built),
        cmocka_unit_test(test_constants_are_copied_and_aligned),
        cmocka_unit_test(test_nodes_are_named_after_their_weights),
        cmocka_unit_test(test_a_parameter_asked_for_twice_is_one_node),
        cmocka_unit_test(test_a_parameter_without_a_checkpoint_says_what_to_set),
        cmocka_unit_test(test_the_first_error_is_reported_and_later_calls_do_nothing),
        cmocka_unit_test(test_a_failure_of_the_networks_own_is_kept),
        cmocka_unit_test(test_refuses_a_name_that_is_taken),
        cmocka_unit_test(test_a_name_that_was_given_up_is_free_again),
        cmocka_unit_test(test_an_automatic_name_steps_aside),
        cmocka_unit_test(test_refuses_values_of_another_graph),
        cmocka_unit_test(test_refuses_a_null_value_with_the_ops_name),
        cmocka_unit_test(test_refuses_ops_that_the_builder_does_not_make),
        cmocka_unit_test(test_refuses_a_wrong_number_of_inputs),
        cmocka_unit_test(test_a_graph_needs_an_output),
        cmocka_unit_test(test_refuses_two_outputs_of_one_name),
        cmocka_unit_test(test_refuses_calls_after_finish),
        cmocka_unit_test(test_the_same_slot_name_is_the_same_slot),
        cmocka_unit_test(test_a_slot_cannot_hold_a_number_and_an_integer),
        cmocka_unit_test(test_attributes_that_an_op_does_not_use_are_zero),
        cmocka_unit_test(test_destroying_nothing_is_legal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

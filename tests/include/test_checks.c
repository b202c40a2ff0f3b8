/* demist/checks.h: what is legal passes up to its bounds, what is not is refused by name. */
#include <demist/checks.h> /* in front of CMocka, which has a macro `fail` */

#include "testing.h"

static char text[256];

DEMIST_PRINTF(3, 4)
static demist_status remember(const demist_host *host, demist_status status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return status;
}

static const demist_host host = {.size = sizeof host, .fail = remember};

static void assert_refused(demist_status got, demist_status wanted, const char *fragment)
{
    assert_int_equal(got, wanted);
    assert_contains(text, fragment);
}

static void test_element_types_and_unknown_ops_are_refused_with_a_reason(void **state)
{
    demist_node x = DEMIST_INIT(demist_node), ids = DEMIST_INIT(demist_node);
    demist_node w = DEMIST_INIT(demist_node), node = DEMIST_INIT(demist_node);
    const demist_node *const inputs[] = {&x, &ids};
    ids.dtype = DEMIST_I32;
    x.dtype = w.dtype = node.dtype = DEMIST_F32;
    node.inputs = inputs;
    node.n_inputs = 2;
    const struct {
        demist_op op;
        bool floats_fit, ints_fit; /* as input 1 */
    } cases[] = {{DEMIST_OP_ADD, true, false},
                 {DEMIST_OP_CONCAT, true, true},
                 {DEMIST_OP_EMBEDDING, false, true},
                 {DEMIST_OP_MATMUL, true, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        node.op = cases[i].op;
        assert_int_equal(demist_why_not(&node) == NULL, cases[i].ints_fit);
        ids.dtype = DEMIST_F32;
        assert_int_equal(demist_why_not(&node) == NULL, cases[i].floats_fit);
        ids.dtype = DEMIST_I32;
    }
    node.op = DEMIST_OP_ADD;
    assert_contains(demist_why_not(&node), "element type that the op does not take");

    const demist_node *const product[] = {&x, &w};
    node.inputs = product;
    node.op = DEMIST_OP_LINEAR;
    w.rank = 2;
    w.shape[0] = w.shape[1] = 4;
    assert_null(demist_why_not(&node));
    w.shape[0] = DEMIST_BATCH;
    assert_contains(demist_why_not(&node), "weights that differ from image to image");
    node.op = (demist_op)9999;
    assert_contains(demist_why_not(&node), "does not know this op");
    node.dtype = (demist_dtype)99;
    assert_contains(demist_why_not(&node), "f32 and i32 values only");
}

static bool all_but_gelu(demist_device *device, const demist_node *node, const char **why)
{
    *why = node->op == DEMIST_OP_GELU ? "too smooth" : NULL;
    return !*why;
}

static void test_compile_wants_a_batch_and_nodes_that_are_supported(void **state)
{
    demist_node relu = DEMIST_INIT(demist_node), gelu = DEMIST_INIT(demist_node);
    const demist_node *const nodes[] = {&relu, &gelu};
    demist_graph graph = DEMIST_INIT(demist_graph);
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    relu.op = DEMIST_OP_RELU;
    gelu.op = DEMIST_OP_GELU;
    gelu.name = "mid.act";
    graph.nodes = nodes;
    graph.n_nodes = 1;
    info.max_batch = 1;
    assert_int_equal(demist_check_compile(&host, NULL, &graph, &info, all_but_gelu), DEMIST_OK);
    graph.n_nodes = 2;
    assert_refused(demist_check_compile(&host, NULL, &graph, &info, all_but_gelu),
                   DEMIST_UNSUPPORTED, "node 'mid.act' (gelu): too smooth");
    info.max_batch = 0;
    assert_refused(demist_check_compile(&host, NULL, &graph, &info, all_but_gelu), DEMIST_INVALID,
                   "the largest batch is 0");
}

static void test_buffers_hold_the_largest_batch(void **state)
{
    const int64_t batched[] = {DEMIST_BATCH, 3, 5}, whole[] = {3, 5};
    assert_int_equal(demist_value_bytes(3, batched, 7), 420);
    assert_int_equal(demist_value_bytes(2, whole, 7), 60);
    assert_int_equal(demist_value_bytes(0, whole, 7), 4);
    assert_int_equal(demist_check_buffer(&host, "x", 7, 420, 420), DEMIST_OK);
    assert_refused(demist_check_buffer(&host, "x", 7, 420, 419), DEMIST_INVALID,
                   "node 'x': its buffer has 419 bytes; 7 images take 420");
    assert_refused(demist_check_buffer(&host, "x", 7, 0, -1), DEMIST_INVALID,
                   "node 'x': the buffer is missing or of another device");
}

static void test_every_input_and_output_has_a_buffer_and_outputs_their_own(void **state)
{
    char places[3];
    demist_buffer *buffers[3];
    for (int i = 0; i < 3; i++)
        buffers[i] = (demist_buffer *)(void *)&places[i];
    assert_int_equal(demist_check_buffer_count(&host, 3, 2, 1), DEMIST_OK);
    assert_refused(demist_check_buffer_count(&host, 2, 2, 1), DEMIST_INVALID,
                   "2 buffers bound; the graph has 2 inputs and 1 outputs");
    assert_int_equal(demist_check_own_buffer(&host, "out", buffers, 2), DEMIST_OK);
    buffers[2] = buffers[0];
    assert_refused(demist_check_own_buffer(&host, "out", buffers, 2), DEMIST_INVALID,
                   "node 'out': an output needs a buffer of its own");
}

static void test_execute_wants_images_scalars_and_parameters(void **state)
{
    const demist_scalar scalars[2] = {{0}};
    assert_int_equal(demist_check_execute(&host, 1, 4, NULL, 0), DEMIST_OK);
    assert_int_equal(demist_check_execute(&host, 4, 4, scalars, 2), DEMIST_OK);
    assert_refused(demist_check_execute(&host, 0, 4, scalars, 2), DEMIST_INVALID,
                   "0 images; the program was compiled for 1 to 4");
    assert_refused(demist_check_execute(&host, 5, 4, scalars, 2), DEMIST_INVALID, "5 images");
    assert_refused(demist_check_execute(&host, 4, 4, NULL, 2), DEMIST_INVALID, "2 scalar slots");
    assert_int_equal(demist_check_filled(&host, "w", true), DEMIST_OK);
    assert_refused(demist_check_filled(&host, "w", false), DEMIST_INVALID,
                   "parameter 'w' has no data");
}

static void test_draws_stay_within_the_generators_counters(void **state)
{
    demist_scalar scalars[2] = {{.u = UINT32_MAX}, {.u = UINT32_MAX - 3}};
    demist_attrs attrs;
    memset(&attrs, 0, sizeof attrs);
    attrs.philox.draw_slot = 0;
    attrs.philox.image_slot = 1;
    attrs.philox.per_image = 1;
    const demist_op op = DEMIST_OP_PHILOX_NORMAL;
    assert_int_equal(demist_check_draws(&host, "z", op, &attrs, scalars, 3), DEMIST_OK);
    assert_refused(demist_check_draws(&host, "z", op, &attrs, scalars, 4), DEMIST_INVALID,
                   "node 'z' (philox_normal): draw 4294967295, images 4294967292 and on");
    attrs.philox.per_image = 0; /* then there is no image's number */
    assert_int_equal(demist_check_draws(&host, "z", op, &attrs, scalars, 4), DEMIST_OK);
    scalars[0].u = UINT64_C(1) << 32;
    assert_refused(demist_check_draws(&host, "z", op, &attrs, scalars, 1), DEMIST_INVALID,
                   "draw 4294967296");
}

static void test_what_a_program_was_not_compiled_for_is_refused(void **state)
{
    const int32_t params[] = {0, 2, -1};
    assert_int_equal(demist_check_update(&host, 0, 2, params, 3), DEMIST_OK);
    assert_refused(demist_check_update(&host, 0, 2, params, 2), DEMIST_INVALID,
                   "there is no parameter 2 of 2");
    assert_refused(demist_check_update(&host, 0, 3, params, 3), DEMIST_INVALID, "parameter -1");
    assert_refused(demist_check_update(&host, DEMIST_COMPILE_FROZEN, 0, params, 3), DEMIST_INVALID,
                   "FROZEN parameters");

    const uint32_t observe = DEMIST_COMPILE_OBSERVE;
    const demist_observability is_there = DEMIST_OBSERVE_MATERIALISED;
    assert_int_equal(demist_check_observe(&host, observe, 4, 5, is_there), DEMIST_OK);
    assert_refused(demist_check_observe(&host, 0, 4, 5, is_there), DEMIST_INVALID,
                   "without OBSERVE");
    assert_refused(demist_check_observe(&host, observe, 5, 5, is_there), DEMIST_INVALID,
                   "there is no node 5 of 5");
    assert_refused(demist_check_observe(&host, observe, -1, 5, is_there), DEMIST_INVALID,
                   "there is no node -1");
    assert_refused(demist_check_observe(&host, observe, 4, 5, DEMIST_OBSERVE_INSIDE),
                   DEMIST_INVALID, "node 4 is not materialised");

    assert_int_equal(demist_check_profile(&host, DEMIST_COMPILE_PROFILE), DEMIST_OK);
    assert_refused(demist_check_profile(&host, observe), DEMIST_INVALID, "without PROFILE");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_element_types_and_unknown_ops_are_refused_with_a_reason),
        cmocka_unit_test(test_compile_wants_a_batch_and_nodes_that_are_supported),
        cmocka_unit_test(test_buffers_hold_the_largest_batch),
        cmocka_unit_test(test_every_input_and_output_has_a_buffer_and_outputs_their_own),
        cmocka_unit_test(test_execute_wants_images_scalars_and_parameters),
        cmocka_unit_test(test_draws_stay_within_the_generators_counters),
        cmocka_unit_test(test_what_a_program_was_not_compiled_for_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

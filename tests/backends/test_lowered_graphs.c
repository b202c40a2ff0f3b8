/* Lowering does not change results: every op case as it was built and as it was lowered, on the
 * reference backend, bit for bit; and every op that the core folds against the same op there. */
#include "testing.h"

#include "evaluate.h"
#include "harness.h"
#include "op_cases.h"
#include "passes.h"

extern const demist_plugin demist_plugin_v1_backend_reference;

enum { IMAGES = 3 };

static int setup(void **state)
{
    static struct harness h;
    harness_open(&h, &demist_plugin_v1_backend_reference, 2, NULL);
    *state = &h;
    return 0;
}

static int teardown(void **state)
{
    harness_close(*state);
    return 0;
}

static bool supports(void *user, const demist_node *node, const char **why)
{
    struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

/* Lowers and runs; free() the result. */
static void *run_lowered(struct harness *h, const struct dm_graph *graph, const void *const *inputs)
{
    struct dm_lower_options options = {.frozen = true, .supports = supports, .user = h};
    struct dm_lowered lowered;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_graph_lower(graph, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    void *out = harness_run(h, dm_graph_view(lowered.graph), OP_CASE_BATCH, DEMIST_PRECISION_STRICT,
                            DEMIST_COMPILE_FROZEN, inputs, op_case_scalars, IMAGES);
    dm_graph_destroy(lowered.graph);
    return out;
}

static void assert_equal_runs(struct harness *h, const struct dm_graph *graph, const char *name,
                              const void *const *inputs)
{
    const demist_graph *view = dm_graph_view(graph);
    void *plain = harness_run(h, view, OP_CASE_BATCH, DEMIST_PRECISION_STRICT,
                              DEMIST_COMPILE_FROZEN, inputs, op_case_scalars, IMAGES);
    void *lowered = run_lowered(h, graph, inputs);
    if (memcmp(plain, lowered, harness_bytes(view->outputs[0], IMAGES)) != 0)
        fail_msg("%s gives other results when it is lowered", name);
    free(plain);
    free(lowered);
}

static void test_lowering_keeps_every_bit_of_every_case(void **state)
{
    for (int i = 0; i < op_case_count; i++) {
        const struct op_case *c = &op_cases[i];
        void *operands[OP_CASE_OPERANDS] = {NULL};
        const void *inputs[OP_CASE_OPERANDS];
        int32_t n_inputs = 0;
        for (int32_t k = 0; k < c->n; k++) {
            operands[k] = op_case_data(c, k);
            if (c->in[k].rank > 0 && c->in[k].shape[0] == DEMIST_BATCH)
                inputs[n_inputs++] = operands[k];
        }
        struct dm_graph *graph = op_case_build(c, OP_CASE_PARAMS, operands);
        assert_equal_runs(*state, graph, c->name, inputs);
        dm_graph_destroy(graph);
        for (int32_t k = 0; k < c->n; k++)
            free(operands[k]);
    }
}

/* The case with IMAGES rows in place of the batch, all operands constant. */
static struct dm_graph *constant_case(const struct op_case *c)
{
    struct dm_graph *graph;
    const demist_node *in[OP_CASE_OPERANDS];
    int64_t shape[DEMIST_MAX_RANK];
    assert_int_equal(dm_graph_create("constant", NULL, &graph, NULL), DEMIST_OK);
    demist_builder *b = dm_graph_builder(graph);
    for (int32_t k = 0; k < c->n; k++) {
        void *data = op_case_data(c, k);
        for (int32_t d = 0; d < c->in[k].rank; d++)
            shape[d] = c->in[k].shape[d] == DEMIST_BATCH ? IMAGES : c->in[k].shape[d];
        in[k] = b->constant(b, c->in[k].dtype, c->in[k].rank, shape, data);
        free(data);
    }
    for (int32_t d = 0; d < c->rank; d++)
        shape[d] = c->shape[d] == DEMIST_BATCH ? IMAGES : c->shape[d];
    b->output(b, "out", b->op(b, c->op, c->n, in, &c->attrs, c->rank, shape));
    if (b->failed(b) || dm_graph_finish(graph, NULL) != DEMIST_OK) {
        dm_graph_destroy(graph); /* a coefficient for each image has no unbatched form */
        return NULL;
    }
    return graph;
}

static void test_folded_ops_have_the_bits_of_the_reference(void **state)
{
    int folded = 0;
    for (int i = 0; i < op_case_count; i++) {
        const struct op_case *c = &op_cases[i];
        struct dm_graph *graph = c->chain || !dm_can_evaluate(c->op) ? NULL : constant_case(c);
        if (!graph)
            continue;
        assert_equal_runs(*state, graph, c->name, NULL);
        dm_graph_destroy(graph);
        folded++;
    }
    assert_true(folded >= 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lowering_keeps_every_bit_of_every_case),
        cmocka_unit_test(test_folded_ops_have_the_bits_of_the_reference),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

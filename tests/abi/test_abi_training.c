/* The graph and backend interfaces carry training: gradients are a graph in the same ops, and the
 * parameters of a MUTABLE program change between executions. */
#include "abiclient.h"

#include <math.h>

enum { BATCH = 16, IN = 2, HIDDEN = 6, N_PARAMS = 4, MAX_PARAM = HIDDEN * IN };

/* pred = W·tanh(V·x + a) + b, loss Σ (pred − y)² */
static const char *const keys[N_PARAMS] = {"V", "a", "W", "b"};
static const size_t sizes[N_PARAMS] = {HIDDEN * IN, HIDDEN, HIDDEN, 1};

static const demist_node *as(demist_builder *b, const demist_node *x, int64_t rows, int64_t columns)
{
    return demist_reshape(b, x, 3, (const int64_t[]){DEMIST_BATCH, rows, columns});
}

/* Σ over the images of aᵀb, for a [N,m], b [N,n]: [1,m,n] */
static const demist_node *outer(demist_builder *b, const demist_node *x, int64_t m,
                                const demist_node *y, int64_t n)
{
    const demist_node *products =
        demist_binary(b, DEMIST_OP_MATMUL, as(b, x, m, 1), as(b, y, 1, n));
    return demist_unary(b, DEMIST_OP_BATCH_SUM, products);
}

/* Outputs: loss, then the gradients of V, a, W, b. */
static const demist_graph *build(struct dm_graph *graph)
{
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x =
        b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2, (const int64_t[]){DEMIST_BATCH, IN});
    const demist_node *y =
        b->input(b, "y", DEMIST_ROLE_OTHER, DEMIST_F32, 2, (const int64_t[]){DEMIST_BATCH, 1});
    const demist_node *v = b->param(b, 0, "V", 2, (const int64_t[]){HIDDEN, IN});
    const demist_node *a = b->param(b, 0, "a", 1, (const int64_t[]){HIDDEN});
    const demist_node *w = b->param(b, 0, "W", 2, (const int64_t[]){1, HIDDEN});
    const demist_node *bias = b->param(b, 0, "b", 1, (const int64_t[]){1});
    const demist_node *h = demist_unary(b, DEMIST_OP_TANH, demist_linear(b, x, v, a));
    const demist_node *error = demist_binary(b, DEMIST_OP_SUB, demist_linear(b, h, w, bias), y);

    const demist_node *d = demist_affine(b, error, 2, 0); /* dloss/dpred, [N,1] */
    const demist_node *dh = demist_mul(b, d, w);          /* [N,HIDDEN] */
    const demist_node *slope = demist_affine(b, demist_mul(b, h, h), -1, 1);
    const demist_node *dpre = demist_mul(b, dh, slope);
    b->output(b, "loss", demist_unary(b, DEMIST_OP_BATCH_SUM, demist_mul(b, error, error)));
    b->output(b, "dV", outer(b, dpre, HIDDEN, x, IN));
    b->output(b, "da", demist_unary(b, DEMIST_OP_BATCH_SUM, dpre));
    b->output(b, "dW", outer(b, d, 1, h, HIDDEN));
    b->output(b, "db", demist_unary(b, DEMIST_OP_BATCH_SUM, d));
    return finish_graph(graph);
}

struct training {
    demist_device *device;
    demist_queue *queue;
    demist_program *program;
    demist_buffer *buffers[2 + 1 + N_PARAMS];
    demist_binding *binding;
    int32_t index[N_PARAMS]; /* in graph->params */
    float params[N_PARAMS][MAX_PARAM], grads[N_PARAMS][MAX_PARAM];
};

static void find_params(struct training *t, const demist_graph *graph)
{
    assert_int_equal(graph->n_params, N_PARAMS);
    for (int p = 0; p < N_PARAMS; p++) {
        t->index[p] = -1;
        for (int32_t i = 0; i < graph->n_params; i++)
            if (strcmp(graph->params[i]->name, keys[p]) == 0)
                t->index[p] = i;
        assert_true(t->index[p] >= 0);
        for (size_t i = 0; i < sizes[p]; i++)
            t->params[p][i] = param_value(keys[p], (int64_t)i);
    }
}

static void begin(struct training *t, struct client *client, uint32_t flags)
{
    struct dm_graph *graph = new_graph(client, "train");
    const demist_graph *view = build(graph);
    float x[BATCH * IN], y[BATCH];
    for (int i = 0; i < BATCH; i++) {
        x[IN * i] = (float)(i % 4) / 2 - 0.75f;
        x[IN * i + 1] = (float)(i / 4) / 2 - 0.75f;
        y[i] = x[IN * i] * x[IN * i + 1];
    }
    *t = (struct training){.device = open_device(client, 0)};
    t->queue = new_queue(t->device);
    find_params(t, view);
    t->program = compile_graph(t->device, view, BATCH, flags);
    dm_graph_destroy(graph);
    t->buffers[0] = new_buffer(t->device, t->queue, BATCH * IN, x);
    t->buffers[1] = new_buffer(t->device, t->queue, BATCH, y);
    t->buffers[2] = new_buffer(t->device, t->queue, 1, NULL);
    for (int p = 0; p < N_PARAMS; p++)
        t->buffers[3 + p] = new_buffer(t->device, t->queue, sizes[p], NULL);
    OK(mock_backend.bind(t->program, t->buffers, 3 + N_PARAMS, &t->binding));
}

static void end(struct training *t)
{
    OK(mock_backend.synchronize(t->queue)); /* nothing queued may use what is destroyed */
    mock_backend.binding_destroy(t->binding);
    mock_backend.program_destroy(t->program);
    for (int i = 0; i < 3 + N_PARAMS; i++)
        mock_backend.buffer_destroy(t->buffers[i]);
    mock_backend.queue_destroy(t->queue);
    mock_backend.close(t->device);
}

/* The loss of n images, and the gradients. */
static float evaluate(struct training *t, int64_t n)
{
    float loss;
    OK(mock_backend.execute(t->queue, t->binding, NULL, n));
    read_buffer(t->queue, t->buffers[2], 1, &loss);
    for (int p = 0; p < N_PARAMS; p++)
        read_buffer(t->queue, t->buffers[3 + p], sizes[p], t->grads[p]);
    return loss;
}

static void update(struct training *t)
{
    const void *data[N_PARAMS];
    for (int p = 0; p < N_PARAMS; p++)
        data[p] = t->params[p];
    OK(mock_backend.update_params(t->queue, t->program, N_PARAMS, t->index, data));
}

static void test_gradients_are_the_slopes_of_the_loss(void **state)
{
    struct training t;
    float grads[N_PARAMS][MAX_PARAM];
    const float h = 1e-2f;
    begin(&t, *state, 0);
    evaluate(&t, BATCH);
    memcpy(grads, t.grads, sizeof grads);
    for (int p = 0; p < N_PARAMS; p++) {
        for (size_t i = 0; i < sizes[p]; i++) {
            float before = t.params[p][i];
            t.params[p][i] = before + h;
            update(&t);
            t.params[p][i] = before; /* update_params has copied */
            float up = evaluate(&t, BATCH);
            t.params[p][i] = before - h;
            update(&t);
            float slope = (up - evaluate(&t, BATCH)) / (2 * h);
            t.params[p][i] = before;
            if (fabsf(slope - grads[p][i]) > 2e-3f * (1 + fabsf(slope)))
                fail_msg("d%s[%d]: %g, but the loss has slope %g", keys[p], (int)i,
                         (double)grads[p][i], (double)slope);
        }
    }
    end(&t);
}

static void test_descent_learns(void **state)
{
    struct training t;
    begin(&t, *state, 0);
    float first = evaluate(&t, BATCH), loss = first;
    for (int step = 0; step < 3000; step++) {
        for (int p = 0; p < N_PARAMS; p++)
            for (size_t i = 0; i < sizes[p]; i++)
                t.params[p][i] -= 0.3f / BATCH * t.grads[p][i];
        update(&t);
        loss = evaluate(&t, BATCH);
    }
    print_message("loss %g -> %g in 3000 steps\n", (double)first, (double)loss);
    assert_true(loss < first / 50);
    assert_int_equal(mock_captures(t.binding), 1);
    end(&t);
}

static void test_sums_run_over_the_images_that_are_executed(void **state)
{
    struct training t;
    begin(&t, *state, 0);
    float half = evaluate(&t, BATCH / 2), all = evaluate(&t, BATCH);
    assert_true(half > 0 && half < all);
    end(&t);
}

static void test_frozen_parameters_do_not_change(void **state)
{
    struct client *client = *state;
    struct training t;
    struct dm_error err = DM_ERROR_INIT;
    begin(&t, client, DEMIST_COMPILE_FROZEN);
    const void *data[] = {t.params[0]};
    demist_status status = mock_backend.update_params(t.queue, t.program, 1, t.index, data);
    assert_int_equal(dm_host_take_error(&client->host, "update_params", status, &err),
                     DEMIST_INVALID);
    assert_contains(err.text, "the parameters of this program are frozen");
    dm_error_clear(&err);
    end(&t);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_gradients_are_the_slopes_of_the_loss),
        TEST(test_descent_learns),
        TEST(test_sums_run_over_the_images_that_are_executed),
        TEST(test_frozen_parameters_do_not_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The network interface carries a latent diffusion model: three graphs over one checkpoint, whose
 * inputs and outputs meet by name, and a condition that is computed once. */
#include "abiclient.h"

#include "latent_network.h"

#include <math.h>

enum { N = 3, STEPS = 4 };

struct stage {
    demist_program *program;
    demist_binding *binding;
};

/* The buffer of a name, made on first sight: so outputs feed inputs that are called the same. */
struct wires {
    demist_device *device;
    demist_queue *queue;
    const char *names[8];
    demist_buffer *buffers[8];
    int n;
};

static demist_buffer *wire(struct wires *wires, const char *name, const demist_node *node)
{
    for (int i = 0; i < wires->n; i++)
        if (strcmp(wires->names[i], name) == 0)
            return wires->buffers[i];
    assert_true(wires->n < 8);
    wires->names[wires->n] = strdup(name);
    wires->buffers[wires->n] =
        new_buffer(wires->device, wires->queue, (size_t)(N * demist_elements(node)), NULL);
    return wires->buffers[wires->n++];
}

static demist_buffer *wired(const struct wires *wires, const char *name)
{
    for (int i = 0; i < wires->n; i++)
        if (strcmp(wires->names[i], name) == 0)
            return wires->buffers[i];
    fail_msg("no value is called %s", name);
    return NULL;
}

static struct stage build_stage(struct client *client, struct wires *wires, void *network,
                                const char *name)
{
    struct dm_graph *graph = new_graph(client, name);
    OK(latent_vtable.build(network, dm_graph_builder(graph), name));
    const demist_graph *view = finish_graph(graph);
    demist_buffer *buffers[8];
    int32_t n = 0;
    for (int32_t i = 0; i < view->n_inputs; i++)
        buffers[n++] = wire(wires, view->inputs[i]->name, view->inputs[i]);
    for (int32_t i = 0; i < view->n_outputs; i++)
        buffers[n++] = wire(wires, view->output_names[i], view->outputs[i]);
    struct stage stage = {compile_graph(wires->device, view, N, DEMIST_COMPILE_FROZEN), NULL};
    OK(mock_backend.bind(stage.program, buffers, n, &stage.binding));
    dm_graph_destroy(graph);
    return stage;
}

static void finish_stage(struct stage stage)
{
    mock_backend.binding_destroy(stage.binding);
    mock_backend.program_destroy(stage.program);
}

/* The same in plain C, for one image: x − 0.1·out, STEPS times, from t = STEPS to 1. */
static void expect(const int32_t *tokens, const float *start, float *image)
{
    enum { ALL = LATENT_SIZE + LATENT_CONTEXT + 1 };
    float all[ALL], out[LATENT_SIZE];
    memcpy(all, start, LATENT_SIZE * sizeof *all);
    for (int c = 0; c < LATENT_CONTEXT; c++) {
        float sum = 0;
        for (int k = 0; k < LATENT_TOKENS; k++)
            sum += param_value("text.weight", tokens[k] * LATENT_CONTEXT + c);
        all[LATENT_SIZE + c] = sum / LATENT_TOKENS;
    }
    for (int t = STEPS; t > 0; t--) {
        all[ALL - 1] = (float)t;
        for (int o = 0; o < LATENT_SIZE; o++) {
            out[o] = param_value("unet.bias", o);
            for (int i = 0; i < ALL; i++)
                out[o] += all[i] * param_value("unet.weight", o * ALL + i);
        }
        for (int o = 0; o < LATENT_SIZE; o++)
            all[o] -= 0.1f * out[o];
    }
    for (int p = 0; p < LATENT_PIXELS; p++) {
        float sum = 0;
        for (int i = 0; i < LATENT_SIZE; i++)
            sum += all[i] * param_value("vae.weight", p * LATENT_SIZE + i);
        image[p] = tanhf(sum);
    }
}

static void denoise(struct wires *wires, const struct stage *stage, float *x)
{
    float out[N * LATENT_SIZE], times[N];
    for (int t = STEPS; t > 0; t--) {
        for (int i = 0; i < N; i++)
            times[i] = (float)t;
        OK(mock_backend.buffer_write(wires->queue, wired(wires, "t"), 0, times, sizeof times));
        OK(mock_backend.buffer_write(wires->queue, wired(wires, "x"), 0, x, sizeof out));
        OK(mock_backend.execute(wires->queue, stage->binding, NULL, N));
        read_buffer(wires->queue, wired(wires, "out"), N * LATENT_SIZE, out);
        for (int i = 0; i < N * LATENT_SIZE; i++)
            x[i] -= 0.1f * out[i];
    }
}

static void test_three_graphs_make_an_image(void **state)
{
    struct client *client = *state;
    struct wires wires = {.device = open_device(client, 0)};
    void *network;
    wires.queue = new_queue(wires.device);
    OK(latent_vtable.create(&client->host.table, NULL, &network));
    struct stage condition = build_stage(client, &wires, network, "condition");
    struct stage denoiser = build_stage(client, &wires, network, "denoise");
    struct stage decoder = build_stage(client, &wires, network, "decode");
    assert_int_equal(wires.n, 6); /* tokens, context, x, t, out, image */

    const int32_t tokens[N][LATENT_TOKENS] = {{0, 1, 2}, {7, 7, 7}, {5, 3, 0}};
    float x[N * LATENT_SIZE], start[N * LATENT_SIZE], images[N * LATENT_PIXELS];
    for (int i = 0; i < N * LATENT_SIZE; i++)
        start[i] = x[i] = param_value("start", i);
    OK(mock_backend.buffer_write(wires.queue, wired(&wires, "tokens"), 0, tokens, sizeof tokens));
    OK(mock_backend.execute(wires.queue, condition.binding, NULL, N));
    denoise(&wires, &denoiser, x);
    OK(mock_backend.buffer_write(wires.queue, wired(&wires, "x"), 0, x, sizeof x));
    OK(mock_backend.execute(wires.queue, decoder.binding, NULL, N));
    read_buffer(wires.queue, wired(&wires, "image"), N * LATENT_PIXELS, images);
    for (int i = 0; i < N; i++) {
        float expected[LATENT_PIXELS];
        expect(tokens[i], start + (size_t)i * LATENT_SIZE, expected);
        assert_near(images + (size_t)i * LATENT_PIXELS, expected, LATENT_PIXELS, 1e-5f);
    }
    assert_int_equal(mock_captures(condition.binding), 1);
    finish_stage(condition);
    finish_stage(denoiser);
    finish_stage(decoder);
    for (int i = 0; i < wires.n; i++) {
        free((void *)(uintptr_t)wires.names[i]);
        mock_backend.buffer_destroy(wires.buffers[i]);
    }
    mock_backend.queue_destroy(wires.queue);
    mock_backend.close(wires.device);
    latent_vtable.destroy(network);
}

static void test_a_graph_that_the_network_lacks_is_not_found_in_silence(void **state)
{
    struct client *client = *state;
    struct dm_error err = DM_ERROR_INIT;
    void *network;
    OK(latent_vtable.create(&client->host.table, NULL, &network));
    struct dm_graph *graph = new_graph(client, "encode");
    assert_int_equal(latent_vtable.build(network, dm_graph_builder(graph), "encode"),
                     DEMIST_NOT_FOUND);
    OK(dm_host_take_error(&client->host, "build", DEMIST_OK, &err));
    demist_network_info info = DEMIST_INIT(demist_network_info);
    OK(latent_vtable.describe(network, dm_graph_builder(graph), &info));
    assert_int_equal(info.context_size, LATENT_CONTEXT);
    dm_graph_destroy(graph);
    latent_vtable.destroy(network);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_three_graphs_make_an_image),
        TEST(test_a_graph_that_the_network_lacks_is_not_found_in_silence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

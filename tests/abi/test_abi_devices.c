/* Several devices of one backend are open at once, each with memory, programs and queues of its
 * own, driven by threads of their own; within a device, events order its queues. */
#include "abiclient.h"

#include <pthread.h>

enum { IMAGES = 8, WIDTH = 5, ROUNDS = 3 };

/* out = relu(x·Wᵀ + b) */
static const demist_graph *build(struct dm_graph *graph)
{
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *x =
        b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2, (const int64_t[]){DEMIST_BATCH, WIDTH});
    const demist_node *w = b->param(b, 0, "layer.weight", 2, (const int64_t[]){WIDTH, WIDTH});
    const demist_node *bias = b->param(b, 0, "layer.bias", 1, (const int64_t[]){WIDTH});
    b->output(b, "out", demist_unary(b, DEMIST_OP_RELU, demist_linear(b, x, w, bias)));
    return finish_graph(graph);
}

static void layer(const float *x, float *out)
{
    for (int o = 0; o < WIDTH; o++) {
        float sum = param_value("layer.bias", o);
        for (int i = 0; i < WIDTH; i++)
            sum += x[i] * param_value("layer.weight", o * WIDTH + i);
        out[o] = sum > 0 ? sum : 0;
    }
}

struct worker {
    demist_device *device;
    demist_program *program;
    float x[IMAGES / 2 * WIDTH], out[IMAGES / 2 * WIDTH];
};

/* Half of the images on one device: ROUNDS layers in a row, the result of one being the next one's
 * input. */
static void *work(void *arg)
{
    struct worker *w = arg;
    size_t n = IMAGES / 2 * WIDTH;
    demist_queue *queue = new_queue(w->device);
    demist_buffer *buffers[] = {new_buffer(w->device, queue, n, w->x),
                                new_buffer(w->device, queue, n, NULL)};
    demist_binding *binding;
    OK(mock_backend.bind(w->program, buffers, 2, &binding));
    for (int i = 0; i < ROUNDS; i++) {
        OK(mock_backend.execute(queue, binding, NULL, IMAGES / 2));
        OK(mock_backend.buffer_copy(queue, buffers[0], 0, buffers[1], 0, n * 4));
    }
    read_buffer(queue, buffers[1], n, w->out);
    mock_backend.binding_destroy(binding);
    mock_backend.buffer_destroy(buffers[0]);
    mock_backend.buffer_destroy(buffers[1]);
    mock_backend.queue_destroy(queue);
    return NULL;
}

static void test_two_devices_share_the_images(void **state)
{
    struct client *client = *state;
    struct dm_graph *graph = new_graph(client, "denoise");
    const demist_graph *view = build(graph);
    const demist_device_info *const *infos;
    int32_t n_devices;
    OK(mock_backend.devices(client->backend, &infos, &n_devices));
    assert_int_equal(n_devices, 2);
    struct worker workers[2] = {0};
    float expected[IMAGES * WIDTH];
    pthread_t threads[2];
    for (int d = 0; d < 2; d++) {
        workers[d].device = open_device(client, d);
        assert_ptr_equal(mock_backend.device_info(workers[d].device), infos[d]);
        workers[d].program =
            compile_graph(workers[d].device, view, IMAGES / 2, DEMIST_COMPILE_FROZEN);
        for (int i = 0; i < IMAGES / 2 * WIDTH; i++)
            workers[d].x[i] = (float)(d * 100 + i) / 40 - 1;
    }
    for (int d = 0; d < 2; d++)
        assert_int_equal(pthread_create(&threads[d], NULL, work, &workers[d]), 0);
    for (int d = 0; d < 2; d++)
        assert_int_equal(pthread_join(threads[d], NULL), 0);
    for (int image = 0; image < IMAGES; image++) {
        float x[WIDTH], out[WIDTH];
        memcpy(x, workers[image / (IMAGES / 2)].x + image % (IMAGES / 2) * WIDTH, sizeof x);
        for (int i = 0; i < ROUNDS; i++) {
            layer(x, out);
            memcpy(x, out, sizeof x);
        }
        memcpy(expected + image * WIDTH, out, sizeof out);
    }
    assert_memory_not_equal(expected, expected + IMAGES / 2 * WIDTH, sizeof expected / 2);
    for (int d = 0; d < 2; d++) {
        assert_near(workers[d].out, expected + d * IMAGES / 2 * WIDTH, IMAGES / 2 * WIDTH, 1e-5f);
        mock_backend.program_destroy(workers[d].program);
        mock_backend.close(workers[d].device);
    }
    dm_graph_destroy(graph);
}

/* The consumer's queue copies what the producer's queue computes. */
static void produce_and_consume(struct client *client, bool with_event, float out[WIDTH])
{
    struct dm_graph *graph = new_graph(client, "denoise");
    demist_device *device = open_device(client, 1);
    demist_queue *producer = new_queue(device), *consumer = new_queue(device);
    demist_program *program = compile_graph(device, build(graph), 1, 0);
    const float x[WIDTH] = {1, 2, 3, 4, 5}, old[WIDTH] = {-7, -7, -7, -7, -7};
    demist_buffer *buffers[] = {new_buffer(device, producer, WIDTH, x),
                                new_buffer(device, producer, WIDTH, old)};
    demist_buffer *copy = new_buffer(device, consumer, WIDTH, NULL);
    demist_binding *binding;
    OK(mock_backend.bind(program, buffers, 2, &binding));
    OK(mock_backend.synchronize(producer));
    OK(mock_backend.execute(producer, binding, NULL, 1));
    if (with_event) {
        demist_event *event;
        OK(mock_backend.event_record(producer, &event));
        OK(mock_backend.event_wait(consumer, event));
        mock_backend.event_destroy(event); /* the queued wait stays in force */
    }
    OK(mock_backend.buffer_copy(consumer, copy, 0, buffers[1], 0, sizeof x));
    read_buffer(consumer, copy, WIDTH, out);
    OK(mock_backend.synchronize(producer));
    mock_backend.binding_destroy(binding);
    mock_backend.program_destroy(program);
    mock_backend.buffer_destroy(copy);
    mock_backend.buffer_destroy(buffers[0]);
    mock_backend.buffer_destroy(buffers[1]);
    mock_backend.queue_destroy(consumer);
    mock_backend.queue_destroy(producer);
    mock_backend.close(device);
    dm_graph_destroy(graph);
}

static void test_events_order_two_queues(void **state)
{
    float out[WIDTH], expected[WIDTH];
    layer((const float[]){1, 2, 3, 4, 5}, expected);
    produce_and_consume(*state, true, out);
    assert_near(out, expected, WIDTH, 1e-5f);
    produce_and_consume(*state, false, out); /* the mock is really asynchronous */
    assert_true(out[0] == -7);
}

static void test_failures_name_the_device_that_is_not_there(void **state)
{
    struct client *client = *state;
    demist_device *device;
    struct dm_error err = DM_ERROR_INIT;
    demist_status status = mock_backend.open(client->backend, 2, &device);
    assert_int_equal(dm_host_take_error(&client->host, "open", status, &err), DEMIST_NOT_FOUND);
    assert_string_equal(err.text, "backend mock: there are 2 devices, and no number 2");
    dm_error_clear(&err);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_two_devices_share_the_images),
        TEST(test_events_order_two_queues),
        TEST(test_failures_name_the_device_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The backend interface lets work be captured once and replayed with other times, coefficients and
 * draw numbers: all that changes between two steps are scalars. */
#include "abiclient.h"

#include <demist/random.h>

enum { MAX = 4, WIDTH = 6, A = 0, B, SEED, DRAW, IMAGE, N_SCALARS };

/* out = a·x + b·z, z standard normals */
static const demist_graph *build(struct dm_graph *graph)
{
    demist_builder *b = dm_graph_builder(graph);
    const char *const slots[N_SCALARS] = {"a", "b", "seed", "draw", "image"};
    const int64_t shape[] = {DEMIST_BATCH, WIDTH};
    for (int32_t i = 0; i < N_SCALARS; i++)
        assert_int_equal(b->scalar_slot(b, slots[i]), i);
    demist_attrs a = demist_no_attrs(), coef = demist_no_attrs(), noise = demist_no_attrs();
    a.scalar.slot = A;
    coef.scalar.slot = B;
    noise.philox.purpose = DEMIST_NOISE_STEP;
    noise.philox.per_image = 1;
    noise.philox.seed_slot = SEED;
    noise.philox.draw_slot = DRAW;
    noise.philox.image_slot = IMAGE;
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2, shape);
    const demist_node *scaled = demist_mul(b, x, b->op(b, DEMIST_OP_SCALAR, 0, NULL, &a, 0, NULL));
    const demist_node *z = b->op(b, DEMIST_OP_PHILOX_NORMAL, 0, NULL, &noise, 2, shape);
    const demist_node *noisy =
        demist_mul(b, z, b->op(b, DEMIST_OP_SCALAR, 0, NULL, &coef, 0, NULL));
    b->output(b, "out", demist_add(b, scaled, noisy));
    return finish_graph(graph);
}

static void expect(struct client *client, const demist_scalar *scalars, int64_t n, const float *x,
                   float *out)
{
    const demist_philox *philox =
        client->host.table.extension(&client->host.table, DEMIST_EXT_PHILOX);
    for (int64_t image = 0; image < n; image++) {
        float z[WIDTH];
        philox->normal(scalars[SEED].u, (uint32_t)(scalars[IMAGE].u + (uint64_t)image),
                       DEMIST_NOISE_STEP, (uint32_t)scalars[DRAW].u, 0, WIDTH, z);
        for (int i = 0; i < WIDTH; i++)
            out[image * WIDTH + i] =
                (float)scalars[A].f * x[image * WIDTH + i] + (float)scalars[B].f * z[i];
    }
}

static void test_one_capture_serves_every_step(void **state)
{
    struct client *client = *state;
    struct dm_graph *graph = new_graph(client, "step");
    demist_device *device = open_device(client, -1);
    demist_queue *queue = new_queue(device);
    demist_program *program = compile_graph(device, build(graph), MAX, DEMIST_COMPILE_FROZEN);
    dm_graph_destroy(graph); /* lives only until compile returns */
    float x[MAX * WIDTH], out[MAX * WIDTH], expected[MAX * WIDTH];
    for (int i = 0; i < MAX * WIDTH; i++)
        x[i] = (float)i / 7;
    demist_buffer *buffers[] = {new_buffer(device, queue, MAX * WIDTH, x),
                                new_buffer(device, queue, MAX * WIDTH, NULL)};
    demist_binding *binding;
    OK(mock_backend.bind(program, buffers, 2, &binding));
    for (uint64_t step = 0; step < 10; step++) {
        demist_scalar scalars[N_SCALARS] = {[A] = {.f = 1 - 0.05 * (double)step},
                                            [B] = {.f = 0.1 * (double)step},
                                            [SEED] = {.u = 1234567890123},
                                            [DRAW] = {.u = step},
                                            [IMAGE] = {.u = 40}};
        expect(client, scalars, MAX, x, expected);
        OK(mock_backend.execute(queue, binding, scalars, MAX));
        memset(scalars, 0xee, sizeof scalars); /* they were copied */
        read_buffer(queue, buffers[1], MAX * WIDTH, out);
        assert_near(out, expected, MAX * WIDTH, 1e-6f);
        assert_int_equal(mock_captures(binding), 1);
    }
    mock_backend.binding_destroy(binding);
    mock_backend.program_destroy(program);
    mock_backend.buffer_destroy(buffers[0]);
    mock_backend.buffer_destroy(buffers[1]);
    mock_backend.queue_destroy(queue);
    mock_backend.close(device);
}

static void test_a_smaller_batch_gives_the_same_images(void **state)
{
    struct client *client = *state;
    struct dm_graph *graph = new_graph(client, "step");
    demist_device *device = open_device(client, 0);
    demist_queue *queue = new_queue(device);
    demist_program *program = compile_graph(device, build(graph), MAX, DEMIST_COMPILE_FROZEN);
    dm_graph_destroy(graph);
    float x[MAX * WIDTH] = {0.5f, -1, 2}, all[MAX * WIDTH], last[WIDTH];
    demist_scalar scalars[N_SCALARS] = {
        [A] = {.f = 0.5}, [B] = {.f = 2}, [SEED] = {.u = 7}, [DRAW] = {.u = 3}, [IMAGE] = {.u = 8}};
    demist_buffer *buffers[] = {new_buffer(device, queue, MAX * WIDTH, x),
                                new_buffer(device, queue, MAX * WIDTH, NULL)};
    demist_binding *binding;
    OK(mock_backend.bind(program, buffers, 2, &binding));
    OK(mock_backend.execute(queue, binding, scalars, MAX));
    read_buffer(queue, buffers[1], MAX * WIDTH, all);

    scalars[IMAGE].u += MAX - 1; /* the last image alone */
    OK(mock_backend.buffer_copy(queue, buffers[0], 0, buffers[0], (MAX - 1) * WIDTH * 4,
                                WIDTH * 4));
    OK(mock_backend.execute(queue, binding, scalars, 1));
    read_buffer(queue, buffers[1], WIDTH, last);
    assert_memory_equal(last, all + (MAX - 1) * WIDTH, sizeof last);
    assert_int_equal(mock_captures(binding), 2);

    assert_int_equal(mock_backend.execute(queue, binding, scalars, MAX + 1), DEMIST_INVALID);
    mock_backend.binding_destroy(binding);
    mock_backend.program_destroy(program);
    mock_backend.buffer_destroy(buffers[0]);
    mock_backend.buffer_destroy(buffers[1]);
    mock_backend.queue_destroy(queue);
    mock_backend.close(device);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_one_capture_serves_every_step),
        TEST(test_a_smaller_batch_gives_the_same_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

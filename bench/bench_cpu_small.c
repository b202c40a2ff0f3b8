/* Milliseconds of one evaluation of the small networks on the CPU backend: a ContextUnet-like one
 * (32 features, 16 x 16) and an MLP 3 -> 128 -> 256 -> 256 -> 2, random weights.
 *
 *     bench_cpu_small [threads [isa]] */
#include "testing.h"

#include "harness.h"
#include "passes.h"

#include <math.h>
#include <time.h>

extern const demist_plugin demist_plugin_v1_backend_cpu;

typedef const demist_node *value;

static value weight(demist_builder *b, int rank, const int64_t *shape, double scale, double offset)
{
    static uint32_t r = 1;
    int64_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= shape[i];
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        r = r * 1664525 + 1013904223;
        x[i] = (float)(offset + scale * (int32_t)r * 0x1p-31);
    }
    value w = b->constant(b, DEMIST_F32, rank, shape, x);
    free(x);
    return w;
}

static value vector(demist_builder *b, int64_t n, double scale, double offset)
{
    return weight(b, 1, &n, scale, offset);
}

static value act(demist_builder *b, demist_op op, value x)
{
    return demist_unary(b, op, x);
}

static value conv(demist_builder *b, value x, int64_t out)
{
    const int64_t shape[4] = {out, x->shape[1], 3, 3};
    value w = weight(b, 4, shape, sqrt(3.0 / (9 * (double)x->shape[1])), 0);
    return demist_conv2d(b, x, w, vector(b, out, 0.1, 0), 1, 1);
}

static value up(demist_builder *b, value x, int64_t out, int k)
{
    const int64_t shape[4] = {x->shape[1], out, k, k};
    value w = weight(b, 4, shape, sqrt(3.0 / (double)x->shape[1]), 0);
    return demist_conv_transpose2d(b, x, w, vector(b, out, 0.1, 0), k, 0);
}

static value block(demist_builder *b, value x, int64_t out)
{
    for (int i = 0; i < 2; i++) {
        value one = vector(b, out, 0.1, 1), zero = vector(b, out, 0.1, 0);
        x = act(b, DEMIST_OP_GELU,
                demist_batch_norm(b, conv(b, x, out), one, zero, zero, one, 1e-5f));
    }
    return x;
}

static value dense(demist_builder *b, value x, int64_t out)
{
    const int64_t shape[2] = {out, x->shape[1]};
    return demist_linear(b, x, weight(b, 2, shape, sqrt(3.0 / (double)x->shape[1]), 0),
                         vector(b, out, 0.1, 0));
}

static value embed(demist_builder *b, value x, int64_t out)
{
    const int64_t shape[4] = {DEMIST_BATCH, out, 1, 1};
    return demist_reshape(b, dense(b, act(b, DEMIST_OP_GELU, dense(b, x, out)), out), 4, shape);
}

static value group(demist_builder *b, value x)
{
    const int64_t c = x->shape[1];
    return act(b, DEMIST_OP_RELU,
               demist_group_norm(b, x, vector(b, c, 0.1, 1), vector(b, c, 0.1, 0), 8, 1e-5f));
}

static value join(demist_builder *b, value x, value y)
{
    return demist_concat(b, 1, 2, (value[]){x, y});
}

static value context_unet(demist_builder *b)
{
    const int64_t image[4] = {DEMIST_BATCH, 3, 16, 16}, time[2] = {DEMIST_BATCH, 1};
    const int64_t context[2] = {DEMIST_BATCH, 5};
    value in = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 4, image);
    value t = b->input(b, "t", DEMIST_ROLE_TIME, DEMIST_F32, 2, time);
    value c = b->input(b, "c", DEMIST_ROLE_CONTEXT, DEMIST_F32, 2, context);
    value x = block(b, in, 32);
    value down1 = demist_pool2d(b, DEMIST_OP_MAX_POOL2D, block(b, block(b, x, 32), 32), 2);
    value down2 = demist_pool2d(b, DEMIST_OP_MAX_POOL2D, block(b, block(b, down1, 64), 64), 2);
    value h = act(b, DEMIST_OP_GELU, demist_pool2d(b, DEMIST_OP_AVG_POOL2D, down2, 4));
    h = group(b, up(b, h, 64, 4));
    h = demist_add(b, demist_mul(b, embed(b, c, 64), h), embed(b, t, 64));
    h = block(b, block(b, up(b, join(b, h, down2), 32, 2), 32), 32);
    h = demist_add(b, demist_mul(b, embed(b, c, 32), h), embed(b, t, 32));
    h = block(b, block(b, up(b, join(b, h, down1), 32, 2), 32), 32);
    return conv(b, group(b, conv(b, join(b, h, x), 32)), 3);
}

static value mlp(demist_builder *b)
{
    const int64_t points[2] = {DEMIST_BATCH, 3};
    value x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2, points);
    x = act(b, DEMIST_OP_RELU, dense(b, x, 128));
    x = act(b, DEMIST_OP_RELU, dense(b, x, 256));
    return dense(b, act(b, DEMIST_OP_RELU, dense(b, x, 256)), 2);
}

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run(struct harness *h, const char *name, value (*build)(demist_builder *), int n)
{
    enum { ROUNDS = 300 };
    struct dm_error err = DM_ERROR_INIT;
    struct dm_graph *graph;
    struct dm_lowered lowered = {0};
    struct harness_program p;
    static double times[ROUNDS];
    if (dm_graph_create(name, NULL, &graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    demist_builder *b = dm_graph_builder(graph);
    b->output(b, "out", build(b));
    const struct dm_lower_options options = {.frozen = true, .supports = supports, .user = h};
    if (dm_graph_finish(graph, &err) != DEMIST_OK ||
        dm_graph_lower(graph, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    const demist_graph *g = dm_graph_view(lowered.graph);
    harness_compile(h, g, n, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    for (int32_t i = 0; i < g->n_inputs; i++) {
        void *zeros = calloc(1, harness_bytes(g->inputs[i], n));
        harness_set(&p, i, zeros, n);
        free(zeros);
    }
    for (int i = -10; i < ROUNDS; i++) {
        const double start = now();
        harness_execute(&p, NULL, n);
        if (i >= 0)
            times[i] = now() - start;
    }
    qsort(times, ROUNDS, sizeof *times, by_size);
    printf("%-12s n %4d: median %.4f ms, best %.4f ms\n", name, n, 1e3 * times[ROUNDS / 2],
           1e3 * times[0]);
    harness_program_finish(&p);
    dm_graph_destroy(lowered.graph);
    dm_graph_destroy(graph);
}

int main(int argc, char **argv)
{
    struct harness h;
    char isa[64];
    snprintf(isa, sizeof isa, "isa = %s", argc > 2 ? argv[2] : "auto");
    harness_open(&h, &demist_plugin_v1_backend_cpu, argc > 1 ? (int)strtol(argv[1], NULL, 10) : 2,
                 (const char *[]){isa, NULL});
    const demist_device_info *info = h.vtable->device_info(h.device);
    printf("%s, %s\n", info->name, info->detail);
    for (int n = 1; n <= 16; n *= 4)
        run(&h, "context-unet", context_unet, n);
    static const int points[] = {20, 100, 1000};
    for (int i = 0; i < 3; i++)
        run(&h, "mlp", mlp, points[i]);
    harness_close(&h);
    return 0;
}

/* GF/s of the CPU backend's convolutions, linear layers and attention, by shape, beside the peak of
 * multiply-adds on this machine.
 *
 *     bench_cpu_ops [threads [isa [batch [case|all [PRECISION]]]]]
 *
 * PRECISION is f32 (default) or bf16; the peak is that of float32 in either.
 *
 * Weights are cold: each case runs several layers of its shape with weights of their own, more than
 * the caches hold. GF/s count the operations of the plain algorithm, so that Winograd may exceed
 * the peak. With one thread processor time is taken, which busy neighbours disturb less. */
#include "testing.h"

#include "harness.h"
#include "passes.h"

#include "../backends/cpu/cpu_program.h"

#include <math.h>
#include <time.h>

extern const demist_plugin demist_plugin_v1_backend_cpu;

struct shape {
    int in, out, side, kernel, stride,
        heads; /* kernel 0: attention of `in` channels; side 0: linear */
};

static const struct shape shapes[] = {
    {128, 128, 32, 3, 1, 0}, {256, 128, 32, 3, 1, 0}, {384, 128, 32, 3, 1, 0},
    {256, 256, 32, 3, 1, 0}, {128, 256, 16, 3, 1, 0}, {256, 256, 16, 3, 1, 0},
    {512, 256, 16, 3, 1, 0}, {256, 256, 8, 3, 1, 0},  {512, 256, 8, 3, 1, 0},
    {256, 256, 4, 3, 1, 0},  {512, 256, 4, 3, 1, 0},  {128, 128, 32, 3, 2, 0},
    {3, 128, 32, 3, 1, 0},   {128, 6, 32, 3, 1, 0},   {256, 128, 32, 1, 1, 0},
    {512, 256, 16, 1, 1, 0}, {256, 768, 16, 1, 1, 0}, {256, 256, 16, 1, 1, 0},
    {512, 256, 4, 1, 1, 0},  {32, 32, 32, 3, 1, 0},   {96, 32, 32, 3, 1, 0},
    {32, 32, 16, 3, 1, 0},   {64, 64, 8, 3, 1, 0},    {128, 64, 8, 3, 1, 0},
    {512, 512, 0, 1, 1, 0},  {128, 128, 0, 1, 1, 0},  {256, 256, 16, 0, 1, 4},
    {256, 256, 8, 0, 1, 4},
};

static double now(const struct harness *h)
{
    struct timespec t;
    clock_gettime(h->host.table.n_workers == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- the peak: a product's tile that stays in the first-level cache --- */

struct peak {
    const struct cpu_kernels *k;
    float *data;
};

enum {
    DEPTH = 128,
    PEAK_FLOATS = DEPTH * (CPU_MAX_MR + CPU_MAX_NR) + CPU_MAX_MR * CPU_MAX_NR + 1024
};

static void peak_task(void *arg, int64_t i, int worker)
{
    const struct peak *p = arg;
    float *a = p->data + (size_t)worker * PEAK_FLOATS, *b = a + DEPTH * CPU_MAX_MR;
    float *c = b + DEPTH * CPU_MAX_NR + 512;
    const float *rows[CPU_MAX_MR];
    for (int r = 0; r < p->k->mr; r++)
        rows[r] = a + r * DEPTH;
    for (int n = 0; n < 4000; n++)
        p->k->gemm(p->k->mr, 2, rows, 1, DEPTH, b, NULL, c, p->k->nr,
                   &(struct cpu_ahead){b, b, 0, 0});
}

static double peak(struct harness *h, const struct cpu_kernels *k)
{
    const int64_t workers = h->host.table.n_workers;
    struct peak p = {k, aligned_alloc(64, (size_t)workers * PEAK_FLOATS * 4)};
    double best = 1e9;
    assert_non_null(p.data);
    memset(p.data, 0, (size_t)workers * PEAK_FLOATS * 4);
    for (int i = 0; i < 9; i++) {
        const double start = now(h);
        h->host.table.parallel(&h->host.table, workers, peak_task, &p);
        best = fmin(best, now(h) - start);
    }
    free(p.data);
    return 2.0 * k->mr * k->nr * DEPTH * 4000 * (double)workers / best / 1e9;
}

/* --- a case --- */

static float *noise(int64_t n, double scale)
{
    static uint32_t r = 1;
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        r = r * 1664525 + 1013904223;
        x[i] = (float)(scale * (int32_t)r * 0x1p-31);
    }
    return x;
}

static const demist_node *layer(demist_builder *b, const struct shape *s, const demist_node *x)
{
    const int64_t ws[4] = {s->out, s->in, s->kernel, s->kernel}, side = s->side;
    if (s->kernel == 0) {
        const int64_t split[4] = {DEMIST_BATCH, s->heads, 3 * s->in / s->heads, side * side};
        const demist_node *h = demist_reshape(b, x, 4, split), *part[3];
        for (int i = 0; i < 3; i++)
            part[i] = demist_slice(b, h, 2, i * s->in / s->heads, s->in / s->heads);
        return demist_attention(b, part[0], part[1], part[2], 0.125f);
    }
    float *data = noise((int64_t)s->out * s->in * s->kernel * s->kernel, 0.05);
    const demist_node *w = b->constant(b, DEMIST_F32, side ? 4 : 2, ws, data);
    free(data);
    return side ? demist_conv2d(b, x, w, NULL, s->stride, s->kernel / 2)
                : demist_linear(b, x, w, NULL);
}

/* Layers enough to fill 80 MB with weights; their sum, so that each has one output to add to. */
static struct dm_graph *build(const struct shape *s, int *layers)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_graph *graph;
    const int64_t channels = s->kernel == 0 ? 3 * s->in : s->in;
    const int64_t xs[4] = {DEMIST_BATCH, channels, s->side, s->side};
    const double bytes = 4.0 * s->in * s->out * (s->kernel == 3 ? 16 : 1);
    *layers = s->kernel == 0 ? 4 : (int)fmin(64, fmax(4, 80e6 / bytes));
    if (dm_graph_create("bench", NULL, &graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    demist_builder *b = dm_graph_builder(graph);
    const demist_node *in = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, s->side ? 4 : 2, xs);
    const demist_node *x = demist_unary(b, DEMIST_OP_NEG, in), *sum = NULL;
    if (s->side) { /* pixel-major, as in a network */
        const int64_t one = channels;
        float *ones = noise(channels, 1);
        const demist_node *gamma = b->constant(b, DEMIST_F32, 1, &one, ones);
        x = demist_group_norm(b, x, gamma, gamma, 1, 1e-5f);
        free(ones);
    }
    for (int i = 0; i < *layers; i++) {
        const demist_node *y = layer(b, s, x);
        sum = sum ? demist_add(b, y, sum) : y;
    }
    b->output(b, "out", sum);
    if (dm_graph_finish(graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return graph;
}

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

/* Seconds of one layer: the least of several profiled executions, without the first node's part. */
static double measure(struct harness *h, const struct shape *s, int batch,
                      demist_precision precision)
{
    struct harness_program p;
    struct dm_lowered lowered = {0};
    struct dm_error err = DM_ERROR_INIT;
    const struct dm_lower_options options = {.frozen = true, .supports = supports, .user = h};
    int layers;
    struct dm_graph *graph = build(s, &layers);
    if (dm_graph_lower(graph, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    const demist_graph *g = dm_graph_view(lowered.graph);
    harness_compile(h, g, batch, precision, DEMIST_COMPILE_FROZEN, &p);
    float *x = noise(demist_elements(g->inputs[0]) * batch, 1);
    harness_set(&p, 0, x, batch);
    double best = 1e9;
    harness_execute(&p, NULL, batch);
    for (int i = 0; i < 7; i++) {
        const double start = now(h);
        harness_execute(&p, NULL, batch);
        best = fmin(best, now(h) - start);
    }
    free(x);
    harness_program_finish(&p);
    dm_graph_destroy(lowered.graph);
    dm_graph_destroy(graph);
    return best / layers;
}

int main(int argc, char **argv)
{
    struct harness h;
    const char *level = argc > 2 ? argv[2] : "auto", *why;
    const int batch = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 1;
    char isa[64];
    snprintf(isa, sizeof isa, "isa = %s", level);
    harness_open(&h, &demist_plugin_v1_backend_cpu, argc > 1 ? (int)strtol(argv[1], NULL, 10) : 1,
                 (const char *[]){isa, NULL});
    const demist_device_info *info = h.vtable->device_info(h.device);
    const double most = peak(&h, cpu_find_kernels(level, &why));
    printf("%s, %s, batch %d; peak %.0f GF/s\n", info->name, info->detail, batch, most);
    const size_t n_shapes = sizeof shapes / sizeof *shapes;
    const bool all = argc < 5 || strcmp(argv[4], "all") == 0;
    const size_t only = all ? n_shapes : (size_t)strtol(argv[4], NULL, 10);
    const bool bf16 = argc > 5 && strcmp(argv[5], "bf16") == 0;
    for (size_t i = only < n_shapes ? only : 0; i < (only < n_shapes ? only + 1 : n_shapes); i++) {
        const struct shape *s = &shapes[i];
        const double seconds =
            measure(&h, s, batch, bf16 ? DEMIST_PRECISION_BF16 : DEMIST_PRECISION_F32);
        const double pixels = s->side ? (double)s->side * s->side / s->stride / s->stride : 1;
        const double flops = s->kernel ? 2 * pixels * s->in * s->out * s->kernel * s->kernel
                                       : 4 * pixels * pixels * s->in;
        const char *kind = s->kernel == 0 ? "attention" : s->side == 0 ? "linear" : "conv2d";
        printf("%-9s %3d -> %3d  %2d x %2d  %dx%d/%d  %9.1f us  %7.1f GF/s  %4.0f %% of the peak\n",
               kind, s->in, s->out, s->side, s->side, s->kernel, s->kernel, s->stride,
               1e6 * seconds, flops * batch / seconds / 1e9,
               100 * flops * batch / seconds / 1e9 / most);
    }
    harness_close(&h);
    return 0;
}

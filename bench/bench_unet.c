/* Milliseconds of one evaluation of improved-diffusion's CIFAR U-Net on a backend, with random
 * weights, and where the time goes. Compiled once for each backend with BACKEND, its name.
 *
 *     bench_BACKEND_unet [threads [OPTION [profile|plain [PRECISION]]]]
 *
 * OPTION is one of the backend ("isa=avx2", "device=gpu"), PRECISION f32 (default), bf16 or f16.
 * cpu_peers.py compares with others. */
#include "testing.h"

#include "harness.h"
#include "passes.h"
#include "unet_graph.h"

#include <math.h>
#include <time.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define PLUGIN JOIN(demist_plugin_v1_backend_, BACKEND)
extern const demist_plugin PLUGIN;

/* With one thread its processor time, which busy neighbours disturb less. */
static double now(const struct harness *h)
{
    struct timespec t;
    clock_gettime(h->host.table.n_workers == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill(float *x, int64_t n)
{
    uint32_t r = 7;
    for (int64_t i = 0; i < n; i++) {
        r = r * 1664525 + 1013904223;
        x[i] = (float)(int32_t)r * 0x1p-30f;
    }
}

static int by_seconds(const void *a, const void *b)
{
    const demist_node_profile *x = *(const demist_node_profile *const *)a;
    const demist_node_profile *y = *(const demist_node_profile *const *)b;
    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static void print_profile(struct harness_program *p)
{
    const demist_node_profile *const *list, *sorted[4096];
    int32_t n;
    double all = 0;
    HARNESS_OK(p->h, profile, (p->program, &list, &n));
    for (int32_t i = 0; i < n; i++)
        all += (sorted[i] = list[i])->seconds;
    qsort(sorted, (size_t)n, sizeof *sorted, by_seconds);
    double ops[256] = {0};
    for (int32_t i = 0; i < n; i++) {
        const demist_node *node = p->graph->nodes[sorted[i]->node];
        const demist_op op = node->op == DEMIST_OP_FUSED ? node->body[0]->op : node->op;
        ops[op] += sorted[i]->seconds;
        if (i < 24 && sorted[i]->calls > 0)
            printf("  %5.1f %%  %8.1f us  %-18s %lld x %lld x %lld  %s\n",
                   100 * sorted[i]->seconds / all,
                   1e6 * sorted[i]->seconds / (double)sorted[i]->calls, demist_op_name(op),
                   (long long)node->shape[1], (long long)node->shape[2], (long long)node->shape[3],
                   node->name);
    }
    for (int op = 0; op < 256; op++)
        if (ops[op] > 0)
            printf("  all %-18s %5.1f %%\n", demist_op_name((demist_op)op), 100 * ops[op] / all);
}

static void run(struct harness *h, const demist_graph *graph, int n, demist_precision precision,
                bool profile)
{
    struct harness_program p;
    static float x[16 * 3 * 32 * 32], t[16];
    double times[64];
    const double start = now(h);
    harness_compile(h, graph, n, precision,
                    DEMIST_COMPILE_FROZEN | (profile ? DEMIST_COMPILE_PROFILE : 0), &p);
    const double compiled = now(h) - start;
    fill(x, n * 3 * 32 * 32);
    for (int i = 0; i < n; i++)
        t[i] = 37.25f * (float)(i + 1);
    harness_set(&p, 0, x, n);
    harness_set(&p, 1, t, n);
    const int rounds = n > 4 ? 7 : 15;
    harness_execute(&p, NULL, n);
    for (int i = 0; i < rounds; i++) {
        const double from = now(h);
        harness_execute(&p, NULL, n);
        times[i] = now(h) - from;
    }
    qsort(times, (size_t)rounds, sizeof *times, by_size);
    demist_program_info info = DEMIST_INIT(demist_program_info);
    HARNESS_OK(h, program_info, (p.program, &info));
    printf(
        "batch %2d: median %7.2f ms, best %7.2f ms; %5.0f GF/s of the graph's; compiled in %.2f s;"
        " parameters %.0f MB, working memory %.0f MB\n",
        n, 1e3 * times[rounds / 2], 1e3 * times[0], info.flops * n / times[rounds / 2] / 1e9,
        compiled, (double)info.param_bytes / 1e6, (double)info.arena_bytes / 1e6);
    if (profile)
        print_profile(&p);
    harness_program_finish(&p);
}

int main(int argc, char **argv)
{
    struct harness h;
    harness_open(&h, &PLUGIN, argc > 1 ? (int)strtol(argv[1], NULL, 10) : 2,
                 (const char *[]){argc > 2 ? argv[2] : NULL, NULL});
    const demist_device_info *info = h.vtable->device_info(h.device);
    printf("%s, %s\n", info->name, info->detail);
    void *weights;
    struct dm_graph *graph = unet_graph(&unet_cifar, &weights);
    struct dm_lowered lowered = {0};
    struct dm_error err = DM_ERROR_INIT;
    const struct dm_lower_options options = {.frozen = true, .supports = supports, .user = &h};
    if (dm_graph_lower(graph, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    const bool profile = argc > 3 && strcmp(argv[3], "profile") == 0;
    demist_precision precision = DEMIST_PRECISION_F32;
    if (argc > 4 && strcmp(argv[4], "bf16") == 0)
        precision = DEMIST_PRECISION_BF16;
    else if (argc > 4 && strcmp(argv[4], "f16") == 0)
        precision = DEMIST_PRECISION_F16;
    for (int n = 1; n <= 16; n *= 4)
        run(&h, dm_graph_view(lowered.graph), n, precision, profile);
    dm_graph_destroy(lowered.graph);
    dm_graph_destroy(graph);
    unet_release(weights);
    harness_close(&h);
    return 0;
}

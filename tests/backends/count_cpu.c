/* One evaluation of a small U-Net on the CPU backend for each case below, between marks that
 * callgrind heeds: test_cpu_instructions.py runs it there and reads the dumps. One thread, so that
 * the counts repeat. Prints "CASE FLOPS" for each, FLOPS being the graph's own operations. */
#include "testing.h"

#include "harness.h"
#include "passes.h"
#include "unet_graph.h"

#include <valgrind/callgrind.h>

extern const demist_plugin demist_plugin_v1_backend_cpu;

/* F(4x4), F(2x2) and direct convolutions, norms, attention at two sizes; a count takes seconds. */
static const struct unet_shape shape = {16, 32, 1, {1, 2, 2}, 3, 8 | 4, 4, 6};

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

static void count(const char *name, const char *isa, demist_precision precision)
{
    struct harness h;
    struct harness_program p;
    struct dm_lowered lowered = {0};
    struct dm_error err = DM_ERROR_INIT;
    const struct dm_lower_options options = {.frozen = true, .supports = supports, .user = &h};
    demist_program_info info = DEMIST_INIT(demist_program_info);
    static float x[3 * 16 * 16];
    const float t = 37.25f;
    void *weights;
    for (int i = 0; i < 3 * 16 * 16; i++)
        x[i] = (float)(i % 17 - 8) / 8;
    harness_open(&h, &demist_plugin_v1_backend_cpu, 1, (const char *[]){isa, NULL});
    struct dm_graph *graph = unet_graph(&shape, &weights);
    if (dm_graph_lower(graph, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    harness_compile(&h, dm_graph_view(lowered.graph), 1, precision, DEMIST_COMPILE_FROZEN, &p);
    harness_set(&p, 0, x, 1);
    harness_set(&p, 1, &t, 1);
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
    harness_execute(&p, NULL, 1);
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
    HARNESS_OK(&h, program_info, (p.program, &info));
    printf("%s %.0f\n", name, info.flops);
    fflush(stdout);
    harness_program_finish(&p);
    dm_graph_destroy(lowered.graph);
    dm_graph_destroy(graph);
    unet_release(weights);
    harness_close(&h);
}

int main(void)
{
    count("avx2", "isa = avx2", DEMIST_PRECISION_F32);
    count("avx2-strict", "isa = avx2", DEMIST_PRECISION_STRICT);
    return 0;
}

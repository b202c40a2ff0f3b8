/* Runs every op case once on the OpenCL backend, as the core lowers it, and compares nothing: for
 * oclgrind.sh, under which every work-item takes its time.
 *
 *     oclgrind_cases [OPTION…] [-- PREFIX…]
 *
 * OPTION is one of the backend ("kernels=tiled"), PREFIX the start of cases' names. */
#include "testing.h"

#include "harness.h"
#include "op_cases.h"
#include "passes.h"

enum { IMAGES = 2 };

extern const demist_plugin demist_plugin_v1_backend_opencl;

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

static void run(struct harness *h, const struct op_case *c)
{
    struct dm_lowered lowered = {0};
    struct dm_error err = DM_ERROR_INIT;
    const struct dm_lower_options options = {.frozen = true, .supports = supports, .user = h};
    const void *inputs[OP_CASE_OPERANDS] = {NULL};
    void *operands[OP_CASE_OPERANDS] = {NULL};
    int32_t n = 0;
    for (int32_t i = 0; i < c->n; i++) {
        operands[i] = op_case_data(c, i);
        if (c->in[i].rank > 0 && c->in[i].shape[0] == DEMIST_BATCH)
            inputs[n++] = operands[i];
    }
    struct dm_graph *owner = op_case_build(c, OP_CASE_CONSTANTS, operands);
    if (dm_graph_lower(owner, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s: %s", c->name, err.text);
    free(harness_run(h, dm_graph_view(lowered.graph), IMAGES, DEMIST_PRECISION_F32,
                     DEMIST_COMPILE_FROZEN, inputs, op_case_scalars, IMAGES));
    dm_graph_destroy(lowered.graph);
    dm_graph_destroy(owner);
    for (int32_t i = 0; i < c->n; i++)
        free(operands[i]);
}

static bool is_asked_for(const char *name, const char *const *prefixes)
{
    for (int i = 0; prefixes[i]; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return !prefixes[0];
}

int main(int argc, char **argv)
{
    struct harness h;
    int n = 1;
    while (n < argc && strcmp(argv[n], "--") != 0)
        n++;
    const char *const *prefixes = (const char *const *)argv + (n < argc ? n + 1 : n);
    argv[n] = NULL;
    harness_open(&h, &demist_plugin_v1_backend_opencl, 1, (const char *const *)argv + 1);
    printf("device %s\n", h.vtable->device_info(h.device)->name);
    for (int i = 0; i < op_case_count; i++)
        if (is_asked_for(op_cases[i].name, prefixes)) {
            printf("case %s\n", op_cases[i].name);
            fflush(stdout);
            run(&h, &op_cases[i]);
        }
    harness_close(&h);
    printf("done\n");
    return 0;
}

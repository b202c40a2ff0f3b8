/* A backend with a wrong kernel: the reference backend, but one node's weights are multiplied by a
 * factor, or made NaN. For tests of what finds such a node. */
#include <demist/backend.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern const demist_plugin demist_plugin_v1_backend_reference;

/* Which node, and by how much; there is one instance at a time. */
static struct {
    char node[128];
    float factor;
} wrong;

static const demist_backend_vtable *reference(void)
{
    return demist_plugin_v1_backend_reference.classes[0]->vtable;
}

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    size_t n = strlen(values[0]->text);
    memcpy(wrong.node, values[0]->text, n < sizeof wrong.node ? n + 1 : 0);
    wrong.factor = (float)values[1]->number;
    return reference()->create(host, NULL, self);
}

/* The parameter or constant that is the node's weight; −1: the graph has no such node. */
static int32_t weight_of(const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_nodes; i++)
        if (strcmp(graph->nodes[i]->name, wrong.node) == 0 && graph->nodes[i]->n_inputs > 1 &&
            graph->nodes[i]->inputs[1]->data)
            return graph->nodes[i]->inputs[1]->id;
    return -1;
}

static float *wrong_weights(const demist_node *weight)
{
    size_t n = (size_t)demist_elements(weight);
    float *data = malloc(n * sizeof *data);
    for (size_t i = 0; data && i < n; i++)
        data[i] = wrong.factor == 0 ? NAN : ((const float *)weight->data)[i] * wrong.factor;
    return data;
}

static demist_status compile(demist_device *device, const demist_graph *graph,
                             const demist_compile_info *info, demist_program **program)
{
    int32_t at = weight_of(graph);
    if (at < 0)
        return reference()->compile(device, graph, info, program);
    demist_node weight = *graph->nodes[at];
    size_t bytes = (size_t)graph->n_nodes * sizeof(const demist_node *);
    const demist_node **nodes = malloc(bytes);
    float *data = wrong_weights(&weight);
    demist_status status = DEMIST_NO_MEMORY;
    if (nodes && data) {
        demist_graph copy = *graph;
        memcpy(nodes, graph->nodes, bytes);
        weight.data = data;
        nodes[at] = &weight;
        copy.nodes = nodes;
        status = reference()->compile(device, &copy, info, program);
    }
    free(nodes);
    free(data);
    return status;
}

static demist_backend_vtable vtable;

/* The vtable is the reference's with two members of our own; filled when the plugin is first
 * loaded, before anybody can read it. */
__attribute__((constructor)) static void fill(void)
{
    vtable = *reference();
    vtable.create = create;
    vtable.compile = compile;
}

static const demist_option node = {.size = sizeof node,
                                   .key = "node",
                                   .doc = "whose weights",
                                   .type = DEMIST_OPTION_STRING,
                                   .default_value = ""};
static const demist_option factor = {.size = sizeof factor,
                                     .key = "factor",
                                     .doc = "by what they are multiplied; 0: NaN",
                                     .type = DEMIST_OPTION_FLOAT,
                                     .default_value = "1",
                                     .has_range = true,
                                     .min = 0,
                                     .max = 10};
static const demist_option *const options[] = {&node, &factor, NULL};

static const demist_class wrong_class = {.size = sizeof wrong_class,
                                         .kind = DEMIST_BACKEND,
                                         .name = "wrong",
                                         .doc = "the reference with one wrong kernel, for tests",
                                         .options = options,
                                         .vtable = &vtable};
static const demist_class *const classes[] = {&wrong_class, NULL};

DEMIST_PLUGIN(backend_wrong) = {.size = sizeof(demist_plugin),
                                .abi_epoch = DEMIST_ABI_EPOCH,
                                .abi_minor = DEMIST_ABI_MINOR,
                                .id = "demist.test.backend-wrong",
                                .version = "0.1.0",
                                .license = "MIT",
                                .url = "",
                                .classes = classes};

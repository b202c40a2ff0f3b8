/* A backend with a wrong kernel: another backend (BASE), but one node's weights are multiplied by a
 * factor, or made NaN. For tests of what finds such a node. */
#include <demist/backend.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef BASE
#define BASE backend_reference
#define WRONG backend_wrong
#define NAME "wrong"
#endif
#define JOIN_AS_THEY_ARE(a, b) a##b
#define JOIN(a, b) JOIN_AS_THEY_ARE(a, b)
#define BASE_PLUGIN JOIN(demist_plugin_v1_, BASE)

extern const demist_plugin BASE_PLUGIN;

/* Which node, and by how much; there is one instance at a time. */
static struct {
    char node[128];
    float factor;
} wrong;

static const demist_class *base(void)
{
    return BASE_PLUGIN.classes[0];
}

static const demist_backend_vtable *right(void)
{
    return base()->vtable;
}

/* The base's options, then our own two. */
enum { MOST_OPTIONS = 32 };
static const demist_option *options[MOST_OPTIONS];
static size_t n_base_options;

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    const char *node = values[n_base_options]->text;
    size_t n = strlen(node);
    memcpy(wrong.node, node, n < sizeof wrong.node ? n + 1 : 0);
    wrong.factor = (float)values[n_base_options + 1]->number;
    return right()->create(host, values, self);
}

/* The parameter or constant that is the node's weight; NULL: the graph has no such node. */
static const demist_node *weight_of(const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_nodes; i++)
        if (strcmp(graph->nodes[i]->name, wrong.node) == 0 && graph->nodes[i]->n_inputs > 1 &&
            graph->nodes[i]->inputs[1]->data)
            return graph->nodes[i]->inputs[1];
    return NULL;
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
    const demist_node *found = weight_of(graph);
    float *data = found ? wrong_weights(found) : NULL;
    if (!found || !data)
        return found ? DEMIST_NO_MEMORY : right()->compile(device, graph, info, program);
    /* The node is the host's; it gets its data back before anybody else looks. */
    demist_node *weight = (demist_node *)(uintptr_t)found;
    const void *kept = weight->data;
    weight->data = data;
    demist_status status = right()->compile(device, graph, info, program);
    weight->data = kept;
    free(data);
    return status;
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
static demist_backend_vtable vtable;

/* The vtable is the base's with members of our own; filled when the plugin is loaded, before
 * anybody can read it. */
__attribute__((constructor)) static void fill(void)
{
    vtable = *right();
    vtable.create = create;
    vtable.compile = compile;
    vtable.compile_reading = NULL; /* the weights are looked for in the nodes */
    for (; base()->options && base()->options[n_base_options]; n_base_options++)
        options[n_base_options] = base()->options[n_base_options];
    options[n_base_options] = &node;
    options[n_base_options + 1] = &factor;
}

static const demist_class wrong_class = {.size = sizeof wrong_class,
                                         .kind = DEMIST_BACKEND,
                                         .name = NAME,
                                         .doc = "another backend with one wrong kernel, for tests",
                                         .options = options,
                                         .vtable = &vtable};
static const demist_class *const classes[] = {&wrong_class, NULL};

DEMIST_PLUGIN(WRONG) = {.size = sizeof(demist_plugin),
                        .abi_epoch = DEMIST_ABI_EPOCH,
                        .abi_minor = DEMIST_ABI_MINOR,
                        .id = "demist.test.backend-" NAME,
                        .version = "0.1.0",
                        .license = "MIT",
                        .url = "",
                        .classes = classes};

/* Compiled graphs of the reference backend: nodes in the graph's order, one after the other.
 *
 * Nothing is fused, folded or aliased: each node's value has a place of its own in the arena while
 * somebody needs it, so every node can be observed, and observing changes nothing. All memory is
 * taken by compile and bind; execute allocates nothing. */
#include "ref_program.h"

#include <demist/checks.h>

#include <inttypes.h>
#include <string.h>
#include <time.h>

enum { ALIGN = 64 };

/* Where a node's value is. */
enum place {
    IN_BUFFER, /* INPUT: bound buffer `where` */
    IN_FIXED,  /* PARAM, CONSTANT: at offset `where` */
    IN_ARENA,  /* at offset `where` */
};

struct node {
    demist_op op;
    char *name;
    demist_attrs attrs;
    demist_dtype dtype;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    bool batched;
    size_t bytes; /* of one image if batched, else of the whole value */
    int32_t n_inputs;
    int32_t *inputs; /* ids */
    size_t scratch;  /* bytes a worker */
    enum place place;
    int64_t where;
    bool has_data; /* IN_FIXED */
    demist_node_profile profile;
};

struct demist_program {
    demist_device *device;
    uint32_t flags;
    int64_t max_batch;
    int32_t n_nodes, n_inputs, n_params, n_outputs, n_scalars;
    struct node *nodes;
    int32_t *inputs, *params, *outputs; /* node ids */
    char *names;
    int32_t *edges; /* all nodes' input lists */
    char *fixed, *arena, *scratch;
    size_t fixed_bytes, arena_bytes, scratch_bytes; /* scratch: a worker */
    struct ref_tensor *operands;                    /* [most inputs of a node] */
    const demist_node_profile **profiles;           /* [n_nodes] */
    double flops;
};

struct demist_binding {
    demist_program *program;
    int32_t n;
    demist_buffer **buffers;  /* inputs, then outputs */
    demist_buffer **observed; /* [n_nodes], NULL: not observed */
};

static const demist_host *host_of(const demist_program *program)
{
    return program->device->host;
}

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* --- compile --- */

/* Zeroed memory for n elements, one at least; NULL with `fail` called. */
static void *alloc_array(const demist_host *host, size_t n, size_t size)
{
    size_t bytes = (n > 0 ? n : 1) * size;
    void *memory = host->alloc(host, bytes, 0);
    if (memory)
        memset(memory, 0, bytes);
    return memory;
}

/* Bytes of a value for `images`, or false if that is more than memory can be. */
static bool value_bytes(const struct node *node, int64_t images, size_t *bytes)
{
    size_t n = node->batched ? (size_t)images : 1;
    return !__builtin_mul_overflow(node->bytes, n, bytes) && *bytes <= INT64_MAX / 4;
}

static bool supports(demist_device *device, const demist_node *node, const char **why)
{
    (void)device;
    return ref_op_supports(node, why);
}

static demist_status check_info(demist_device *device, const demist_graph *graph,
                                const demist_compile_info *info)
{
    const demist_host *host = device->host;
    if (info->precision != DEMIST_PRECISION_F32 && info->precision != DEMIST_PRECISION_STRICT)
        return host->fail(host, DEMIST_UNSUPPORTED,
                          "the reference backend computes in f32 or strict precision only");
    return demist_check_compile(host, device, graph, info, supports);
}

/* The arrays whose sizes the graph tells. */
static demist_status alloc_tables(demist_program *p, const demist_graph *graph)
{
    const demist_host *host = host_of(p);
    size_t edges = 0, names = 0, most = 0;
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const size_t n = (size_t)graph->nodes[i]->n_inputs;
        edges += n;
        most = n > most ? n : most;
        names += strlen(graph->nodes[i]->name) + 1;
    }
    p->n_nodes = graph->n_nodes;
    p->n_inputs = graph->n_inputs;
    p->n_params = graph->n_params;
    p->n_outputs = graph->n_outputs;
    p->n_scalars = graph->n_scalars;
    if (!(p->nodes = alloc_array(host, (size_t)p->n_nodes, sizeof *p->nodes)) ||
        !(p->edges = alloc_array(host, edges, sizeof *p->edges)) ||
        !(p->names = alloc_array(host, names, 1)) ||
        !(p->inputs = alloc_array(host, (size_t)p->n_inputs, sizeof *p->inputs)) ||
        !(p->params = alloc_array(host, (size_t)p->n_params, sizeof *p->params)) ||
        !(p->outputs = alloc_array(host, (size_t)p->n_outputs, sizeof *p->outputs)) ||
        !(p->operands = alloc_array(host, most, sizeof *p->operands)) ||
        !(p->profiles = alloc_array(host, (size_t)p->n_nodes, sizeof(void *))))
        return DEMIST_NO_MEMORY;
    return DEMIST_OK;
}

static demist_status too_large(const demist_program *p, const char *name)
{
    return host_of(p)->fail(host_of(p), DEMIST_NO_MEMORY,
                            "node '%s': %" PRId64 " images are more than memory can hold: "
                            "lower the batch",
                            name, p->max_batch);
}

static demist_status copy_node(demist_program *p, const demist_node *from, struct node *to)
{
    to->op = from->op;
    to->attrs = from->attrs;
    to->dtype = from->dtype;
    to->rank = from->rank;
    memcpy(to->shape, from->shape, sizeof to->shape);
    to->batched = demist_is_batched(from);
    to->bytes = (size_t)demist_elements(from) * demist_dtype_bytes(from->dtype);
    to->n_inputs = from->n_inputs;
    for (int32_t i = 0; i < from->n_inputs; i++)
        to->inputs[i] = from->inputs[i]->id;
    to->profile = DEMIST_INIT(demist_node_profile);
    to->profile.node = from->id;
    const double scratch = ref_op_scratch(from);
    size_t bytes;
    if (!value_bytes(to, p->max_batch, &bytes) || scratch > 0x1p46)
        return too_large(p, from->name);
    to->scratch = (size_t)scratch;
    p->flops += demist_product_flops(from);
    return DEMIST_OK;
}

static demist_status copy_nodes(demist_program *p, const demist_graph *graph)
{
    char *name = p->names;
    int32_t *edge = p->edges;
    for (int32_t i = 0; i < p->n_nodes; i++) {
        const demist_node *from = graph->nodes[i];
        const size_t length = strlen(from->name) + 1;
        p->nodes[i].name = memcpy(name, from->name, length);
        p->nodes[i].inputs = edge;
        name += length;
        edge += from->n_inputs;
        demist_status status = copy_node(p, from, &p->nodes[i]);
        if (status != DEMIST_OK)
            return status;
        p->profiles[i] = &p->nodes[i].profile;
    }
    for (int32_t i = 0; i < p->n_inputs; i++)
        p->inputs[i] = graph->inputs[i]->id;
    for (int32_t i = 0; i < p->n_params; i++)
        p->params[i] = graph->params[i]->id;
    for (int32_t i = 0; i < p->n_outputs; i++)
        p->outputs[i] = graph->outputs[i]->id;
    return DEMIST_OK;
}

/* The arena holds every computed value from its node to the last one that reads it; an output
 * lives to the end. Plans it, and gives parameters and constants their offsets. */
static demist_status place_values(demist_program *p)
{
    const demist_host *host = host_of(p);
    demist_block *blocks = alloc_array(host, (size_t)p->n_nodes, sizeof *blocks);
    if (!blocks)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < p->n_nodes; i++) {
        struct node *node = &p->nodes[i];
        size_t bytes = 0;
        value_bytes(node, p->max_batch, &bytes);
        node->place = node->op == DEMIST_OP_INPUT                                     ? IN_BUFFER
                      : node->op == DEMIST_OP_PARAM || node->op == DEMIST_OP_CONSTANT ? IN_FIXED
                                                                                      : IN_ARENA;
        blocks[i].bytes = node->place == IN_ARENA ? (int64_t)bytes : 0;
        blocks[i].first = blocks[i].last = i;
        for (int32_t k = 0; k < node->n_inputs; k++)
            blocks[node->inputs[k]].last = i;
        if (node->place == IN_FIXED) {
            node->where = (int64_t)p->fixed_bytes;
            p->fixed_bytes += round_up(bytes);
        }
        p->scratch_bytes = node->scratch > p->scratch_bytes ? node->scratch : p->scratch_bytes;
    }
    for (int32_t i = 0; i < p->n_inputs; i++)
        p->nodes[p->inputs[i]].where = i;
    for (int32_t i = 0; i < p->n_outputs; i++)
        blocks[p->outputs[i]].last = p->n_nodes;
    const int64_t arena = host->plan_memory(host, blocks, (size_t)p->n_nodes, ALIGN);
    for (int32_t i = 0; i < p->n_nodes; i++)
        if (p->nodes[i].place == IN_ARENA)
            p->nodes[i].where = blocks[i].offset;
    host->free(host, blocks);
    p->arena_bytes = (size_t)arena;
    p->scratch_bytes = round_up(p->scratch_bytes);
    return arena < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

static demist_status alloc_values(demist_program *p, const demist_compile_info *info)
{
    const demist_host *host = host_of(p);
    const size_t scratch = p->scratch_bytes * (size_t)host->n_workers;
    const double all = (double)p->fixed_bytes + (double)p->arena_bytes + (double)scratch;
    if (info->memory_limit > 0 && all > (double)info->memory_limit)
        return host->fail(
            host, DEMIST_NO_MEMORY,
            "a batch of %" PRId64 " needs %zu bytes for parameters and %zu of working "
            "memory; the limit is %" PRId64 ": lower the batch or raise the limit",
            p->max_batch, p->fixed_bytes, p->arena_bytes + scratch, info->memory_limit);
    if (!(p->fixed = host->alloc(host, p->fixed_bytes + 1, ALIGN)) ||
        !(p->arena = host->alloc(host, p->arena_bytes + 1, ALIGN)) ||
        !(p->scratch = host->alloc(host, scratch + 1, ALIGN)))
        return DEMIST_NO_MEMORY;
    return DEMIST_OK;
}

/* A MUTABLE program's parameter may come with the first update; anything else has its data now. */
static demist_status copy_data(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < p->n_nodes; i++) {
        struct node *node = &p->nodes[i];
        const void *data = graph->nodes[i]->data;
        if (node->place != IN_FIXED)
            continue;
        if (!data && (node->op == DEMIST_OP_CONSTANT || p->flags & DEMIST_COMPILE_FROZEN))
            return host_of(p)->fail(host_of(p), DEMIST_INVALID, "node '%s' (%s) has no data",
                                    node->name, demist_op_name(node->op));
        if (data)
            memcpy(p->fixed + node->where, data, node->bytes);
        node->has_data = data != NULL;
    }
    return DEMIST_OK;
}

demist_status ref_compile(demist_device *device, const demist_graph *graph,
                          const demist_compile_info *info, demist_program **program)
{
    demist_status status = check_info(device, graph, info);
    if (status != DEMIST_OK)
        return status;
    demist_program *p = alloc_array(device->host, 1, sizeof *p);
    if (!p)
        return DEMIST_NO_MEMORY;
    p->device = device;
    p->flags = info->flags;
    p->max_batch = info->max_batch;
    if ((status = alloc_tables(p, graph)) != DEMIST_OK ||
        (status = copy_nodes(p, graph)) != DEMIST_OK || (status = place_values(p)) != DEMIST_OK ||
        (status = alloc_values(p, info)) != DEMIST_OK ||
        (status = copy_data(p, graph)) != DEMIST_OK) {
        ref_program_destroy(p);
        return status;
    }
    *program = p;
    return DEMIST_OK;
}

void ref_program_destroy(demist_program *program)
{
    if (!program)
        return;
    const demist_host *host = host_of(program);
    host->free(host, program->scratch);
    host->free(host, program->arena);
    host->free(host, program->fixed);
    host->free(host, program->profiles);
    host->free(host, program->operands);
    host->free(host, program->outputs);
    host->free(host, program->params);
    host->free(host, program->inputs);
    host->free(host, program->names);
    host->free(host, program->edges);
    host->free(host, program->nodes);
    host->free(host, program);
}

demist_status ref_program_info(demist_program *program, demist_program_info *info)
{
    const size_t scratch = program->scratch_bytes * (size_t)host_of(program)->n_workers;
    info->param_bytes = (int64_t)program->fixed_bytes;
    info->arena_bytes = (int64_t)(program->arena_bytes + scratch);
    info->flops = program->flops;
    info->choices = NULL;
    return DEMIST_OK;
}

demist_status ref_update_params(demist_queue *queue, demist_program *program, int32_t n,
                                const int32_t *params, const void *const *data)
{
    (void)queue;
    const demist_status status =
        demist_check_update(host_of(program), program->flags, n, params, program->n_params);
    if (status != DEMIST_OK)
        return status;
    for (int32_t i = 0; i < n; i++) {
        struct node *node = &program->nodes[program->params[params[i]]];
        memcpy(program->fixed + node->where, data[i], node->bytes);
        node->has_data = true;
    }
    return DEMIST_OK;
}

/* --- bind --- */

/* buffer is of this device and holds max_batch images of the node's value. */
static demist_status check_buffer(const demist_program *p, const struct node *node,
                                  const demist_buffer *buffer)
{
    const bool usable = buffer && buffer->device == p->device;
    size_t bytes = 0;
    value_bytes(node, p->max_batch, &bytes);
    return demist_check_buffer(host_of(p), node->name, p->max_batch, (int64_t)bytes,
                               usable ? (int64_t)buffer->bytes : -1);
}

static const struct node *edge_node(const demist_program *p, int32_t i)
{
    return &p->nodes[i < p->n_inputs ? p->inputs[i] : p->outputs[i - p->n_inputs]];
}

static demist_status check_buffers(const demist_program *p, demist_buffer *const *buffers,
                                   int32_t n)
{
    demist_status status = demist_check_buffer_count(host_of(p), n, p->n_inputs, p->n_outputs);
    for (int32_t i = 0; i < n && status == DEMIST_OK; i++) {
        status = check_buffer(p, edge_node(p, i), buffers[i]);
        if (status == DEMIST_OK && i >= p->n_inputs)
            status = demist_check_own_buffer(host_of(p), edge_node(p, i)->name, buffers, i);
    }
    return status;
}

demist_status ref_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                       demist_binding **binding)
{
    const demist_host *host = host_of(program);
    demist_status status = check_buffers(program, buffers, n);
    if (status != DEMIST_OK)
        return status;
    demist_binding *b = alloc_array(host, 1, sizeof *b);
    if (!b)
        return DEMIST_NO_MEMORY;
    b->program = program;
    b->n = n;
    b->buffers = alloc_array(host, (size_t)n, sizeof(void *));
    b->observed = alloc_array(host, (size_t)program->n_nodes, sizeof(void *));
    if (!b->buffers || !b->observed) {
        ref_binding_destroy(b);
        return DEMIST_NO_MEMORY;
    }
    for (int32_t i = 0; i < n; i++)
        b->buffers[i] = buffers[i];
    *binding = b;
    return DEMIST_OK;
}

void ref_binding_destroy(demist_binding *binding)
{
    if (!binding)
        return;
    const demist_host *host = host_of(binding->program);
    host->free(host, binding->observed);
    host->free(host, binding->buffers);
    host->free(host, binding);
}

/* --- execute --- */

static char *value_of(const demist_binding *b, const struct node *node)
{
    switch (node->place) {
    case IN_BUFFER:
        return b->buffers[node->where]->data;
    case IN_FIXED:
        return b->program->fixed + node->where;
    case IN_ARENA:
        break;
    }
    return b->program->arena + node->where;
}

static struct ref_tensor tensor_of(const demist_binding *b, const struct node *node,
                                   int64_t n_images)
{
    struct ref_tensor t = {value_of(b, node), node->dtype, node->rank, {0}};
    memcpy(t.shape, node->shape, sizeof t.shape);
    if (node->batched)
        t.shape[0] = n_images;
    return t;
}

static demist_status run_node(const demist_binding *b, const struct node *node,
                              const demist_scalar *scalars, int64_t n_images)
{
    demist_program *p = b->program;
    ref_op fn = ref_op_function(node->op);
    if (!fn)
        return DEMIST_OK; /* a leaf: its value is there */
    for (int32_t i = 0; i < node->n_inputs; i++)
        p->operands[i] = tensor_of(b, &p->nodes[node->inputs[i]], n_images);
    struct ref_call call = {
        .host = host_of(p),
        .philox = p->device->philox,
        .name = node->name,
        .op = node->op,
        .attrs = &node->attrs,
        .n_inputs = node->n_inputs,
        .in = p->operands,
        .out = tensor_of(b, node, n_images),
        .scalars = scalars,
        .scratch = p->scratch,
        .scratch_bytes = p->scratch_bytes,
    };
    return fn(&call);
}

/* Copies a value out; nothing in the program depends on it. */
static void copy_value(const demist_binding *b, const struct node *node, int64_t n_images,
                       demist_buffer *to)
{
    size_t bytes = 0;
    value_bytes(node, n_images, &bytes);
    if (bytes > 0)
        memcpy(to->data, value_of(b, node), bytes);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static demist_status check_call(const demist_binding *b, const demist_scalar *scalars,
                                int64_t n_images)
{
    const demist_program *p = b->program;
    demist_status status =
        demist_check_execute(host_of(p), n_images, p->max_batch, scalars, p->n_scalars);
    for (int32_t i = 0; i < p->n_params && status == DEMIST_OK; i++) {
        const struct node *node = &p->nodes[p->params[i]];
        status = demist_check_filled(host_of(p), node->name, node->has_data);
    }
    return status;
}

demist_status ref_execute(demist_queue *queue, demist_binding *binding,
                          const demist_scalar *scalars, int64_t n_images)
{
    (void)queue;
    demist_program *p = binding->program;
    const bool profile = p->flags & DEMIST_COMPILE_PROFILE;
    demist_status status = check_call(binding, scalars, n_images);
    for (int32_t i = 0; i < p->n_nodes && status == DEMIST_OK; i++) {
        struct node *node = &p->nodes[i];
        const double start = profile ? now() : 0;
        status = run_node(binding, node, scalars, n_images);
        if (profile) {
            node->profile.calls++;
            node->profile.seconds += now() - start;
        }
        if (status == DEMIST_OK && binding->observed[i])
            copy_value(binding, node, n_images, binding->observed[i]);
    }
    for (int32_t i = 0; i < p->n_outputs && status == DEMIST_OK; i++)
        copy_value(binding, &p->nodes[p->outputs[i]], n_images, binding->buffers[p->n_inputs + i]);
    return status;
}

/* --- observe, profile --- */

demist_observability ref_observability(demist_program *program, int32_t id, int32_t *inside)
{
    *inside = id;
    return id >= 0 && id < program->n_nodes ? DEMIST_OBSERVE_MATERIALISED : DEMIST_OBSERVE_REMOVED;
}

demist_status ref_observe(demist_binding *binding, int32_t id, demist_buffer *buffer)
{
    demist_program *p = binding->program;
    int32_t inside;
    demist_status status = demist_check_observe(host_of(p), p->flags, id, p->n_nodes,
                                                ref_observability(p, id, &inside));
    if (status == DEMIST_OK && buffer)
        status = check_buffer(p, &p->nodes[id], buffer);
    if (status == DEMIST_OK)
        binding->observed[id] = buffer;
    return status;
}

demist_status ref_profile(demist_program *program, const demist_node_profile *const **profiles,
                          int32_t *n)
{
    const demist_status status = demist_check_profile(host_of(program), program->flags);
    if (status != DEMIST_OK)
        return status;
    *profiles = program->profiles;
    *n = program->n_nodes;
    return DEMIST_OK;
}

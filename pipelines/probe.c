#include "probe.h"

#include <stdlib.h>
#include <string.h>

size_t dm_value_bytes(const demist_node *node, int64_t n)
{
    int64_t images = demist_is_batched(node) ? n : 1;
    return (size_t)(demist_elements(node) * images) * demist_dtype_bytes(node->dtype);
}

/* ---------------------------------------------------------------- opening */

static demist_status keep_conditions(struct dm_probe *p, int64_t n,
                                     const struct dm_conditions *conditions, struct dm_error *err)
{
    const demist_network_info *info = &p->model.network->info;
    size_t context = (size_t)n * (size_t)info->context_size;
    for (int null = 0; null < 2; null++) {
        p->labels[null] = calloc((size_t)n + 1, sizeof *p->labels[null]);
        p->context[null] = calloc(context + 1, sizeof *p->context[null]);
        if (!p->labels[null] || !p->context[null])
            return dm_fail_memory(err, "conditions");
        for (int64_t i = 0; i < n; i++)
            p->labels[null][i] = (int32_t)(null                 ? info->null_class
                                           : conditions->labels ? conditions->labels[i]
                                                                : 0);
    }
    if (conditions->context && context > 0)
        memcpy(p->context[0], conditions->context, context * sizeof(float));
    const demist_node *image = dm_network_input(p->model.network, DEMIST_ROLE_IMAGE);
    if (!image || !conditions->low_res)
        return DEMIST_OK;
    p->image = malloc(dm_value_bytes(image, n));
    if (!p->image)
        return dm_fail_memory(err, "conditions");
    memcpy(p->image, conditions->low_res, dm_value_bytes(image, n));
    return DEMIST_OK;
}

static demist_status open_probe(struct dm_probe *p, const struct dm_network *network,
                                struct dm_device *device, int64_t n,
                                const struct dm_conditions *conditions, bool guided, uint32_t flags,
                                struct dm_error *err)
{
    size_t images = (size_t)n * sizeof(float);
    DM_TRY(dm_model_compile(&p->model, network, device, n, flags, err));
    DM_TRY(dm_model_condition(&p->model, n, conditions, guided, err));
    DM_TRY(keep_conditions(p, n, conditions, err));
    DM_TRY(dm_device_buffer(device, images * (size_t)network->n_elements, "the state", &p->x, err));
    DM_TRY(dm_device_buffer(device, images * (size_t)p->model.raw_elements, "the network's output",
                            &p->out, err));
    for (int null = 0; null <= (int)guided; null++)
        DM_TRY(dm_model_bind(&p->model, p->x, p->out, null, &p->binding[null], err));
    return DEMIST_OK;
}

demist_status dm_probe_open(struct dm_probe *p, const struct dm_network *network,
                            struct dm_device *device, int64_t n,
                            const struct dm_conditions *conditions, bool guided, uint32_t flags,
                            struct dm_error *err)
{
    *p = (struct dm_probe){0};
    demist_status status = open_probe(p, network, device, n, conditions, guided, flags, err);
    if (status != DEMIST_OK)
        dm_probe_close(p);
    return status;
}

void dm_probe_close(struct dm_probe *p)
{
    struct dm_device *d = p->model.device;
    for (int null = 0; null < 2; null++) {
        if (p->binding[null])
            d->vtable->binding_destroy(p->binding[null]);
        free(p->labels[null]);
        free(p->context[null]);
    }
    free(p->image);
    if (p->x)
        d->vtable->buffer_destroy(p->x);
    if (p->out)
        d->vtable->buffer_destroy(p->out);
    dm_model_finish(&p->model);
    *p = (struct dm_probe){0};
}

/* ---------------------------------------------------------------- evaluating */

demist_status dm_probe_evaluate(struct dm_probe *p, const struct dm_evaluation *at, int64_t n,
                                uint64_t seed, uint64_t image, float *out, struct dm_error *err)
{
    struct dm_device *d = p->model.device;
    size_t images = (size_t)n * sizeof(float);
    demist_status status = d->vtable->buffer_write(d->queue, p->x, 0, at->x,
                                                   images * (size_t)p->model.network->n_elements);
    DM_TRY(dm_device_check(d, "buffer_write", status, err));
    DM_TRY(dm_model_execute(&p->model, p->binding[at->unconditional], at->time, n, seed, at->draw,
                            image, err));
    status =
        d->vtable->buffer_read(d->queue, p->out, 0, out, images * (size_t)p->model.raw_elements);
    return dm_device_check(d, "buffer_read", status, err);
}

/* ---------------------------------------------------------------- observing */

/* What feeds an input; NULL: nothing that is known here. */
static const void *input_data(const struct dm_probe *p, const demist_node *node,
                              const struct dm_evaluation *at)
{
    switch ((demist_role)node->attrs.input.role) {
    case DEMIST_ROLE_X:
        return at->x;
    case DEMIST_ROLE_TIME:
        return at->time;
    case DEMIST_ROLE_LABEL:
        return p->labels[at->unconditional];
    case DEMIST_ROLE_CONTEXT:
        return p->context[at->unconditional];
    case DEMIST_ROLE_IMAGE:
        return p->image;
    default:
        return NULL;
    }
}

static bool is_computed(const demist_node *node)
{
    return node->op != DEMIST_OP_INPUT && node->op != DEMIST_OP_PARAM &&
           node->op != DEMIST_OP_CONSTANT && node->op != DEMIST_OP_SCALAR;
}

/* Host memory for every value that will be there, and a buffer on the device for each observed. */
static demist_status prepare(struct dm_probe *p, const struct dm_evaluation *at, int64_t n,
                             struct dm_values *values, demist_buffer **buffers,
                             struct dm_error *err)
{
    struct dm_device *d = p->model.device;
    const demist_graph *graph = dm_graph_view(p->model.lowered.graph);
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const demist_node *node = graph->nodes[i];
        const void *given = node->op == DEMIST_OP_INPUT ? input_data(p, node, at) : NULL;
        int32_t inside;
        bool seen = is_computed(node) && d->vtable->observability(p->model.program, i, &inside) ==
                                             DEMIST_OBSERVE_MATERIALISED;
        if (!given && !seen)
            continue;
        values->of[i] = malloc(dm_value_bytes(node, n) + 1);
        if (!values->of[i])
            return dm_fail_memory(err, "the values of a network's nodes: lower [sample] images");
        if (given)
            memcpy(values->of[i], given, dm_value_bytes(node, n));
        else
            DM_TRY(dm_device_buffer(d, dm_value_bytes(node, p->model.max_batch), node->name,
                                    &buffers[i], err));
    }
    return DEMIST_OK;
}

static demist_status observe(struct dm_probe *p, demist_buffer *const *buffers, bool on,
                             demist_binding *binding, struct dm_error *err)
{
    struct dm_device *d = p->model.device;
    int32_t n = dm_graph_view(p->model.lowered.graph)->n_nodes;
    demist_status status = DEMIST_OK;
    for (int32_t i = 0; status == DEMIST_OK && i < n; i++)
        if (buffers[i])
            status = dm_device_check(d, "observe",
                                     d->vtable->observe(binding, i, on ? buffers[i] : NULL), err);
    return status;
}

static demist_status read_values(struct dm_probe *p, demist_buffer *const *buffers, int64_t n,
                                 struct dm_values *values, struct dm_error *err)
{
    struct dm_device *d = p->model.device;
    const demist_graph *graph = dm_graph_view(p->model.lowered.graph);
    for (int32_t i = 0; i < graph->n_nodes; i++)
        if (buffers[i])
            DM_TRY(dm_device_check(d, "buffer_read",
                                   d->vtable->buffer_read(d->queue, buffers[i], 0, values->of[i],
                                                          dm_value_bytes(graph->nodes[i], n)),
                                   err));
    return DEMIST_OK;
}

demist_status dm_probe_observe(struct dm_probe *p, const struct dm_evaluation *at, int64_t n,
                               uint64_t seed, uint64_t image, struct dm_values *values,
                               struct dm_error *err)
{
    struct dm_device *d = p->model.device;
    demist_binding *binding = p->binding[at->unconditional];
    int32_t n_nodes = dm_graph_view(p->model.lowered.graph)->n_nodes;
    *values = (struct dm_values){calloc((size_t)n_nodes + 1, sizeof *values->of), n_nodes};
    demist_buffer **buffers = calloc((size_t)n_nodes + 1, sizeof *buffers);
    float *out = malloc((size_t)(n * p->model.raw_elements) * sizeof *out + 1);
    demist_status status = values->of && buffers && out
                               ? prepare(p, at, n, values, buffers, err)
                               : dm_fail_memory(err, "the values of a network's nodes");
    if (status == DEMIST_OK)
        status = observe(p, buffers, true, binding, err);
    if (status == DEMIST_OK)
        status = dm_probe_evaluate(p, at, n, seed, image, out, err);
    if (status == DEMIST_OK)
        status = read_values(p, buffers, n, values, err);
    if (status == DEMIST_OK)
        status = observe(p, buffers, false, binding, err);
    d->vtable->synchronize(d->queue);
    for (int32_t i = 0; buffers && i < n_nodes; i++)
        d->vtable->buffer_destroy(buffers[i]);
    free(buffers);
    free(out);
    if (status != DEMIST_OK)
        dm_values_finish(values);
    return status;
}

void dm_values_finish(struct dm_values *values)
{
    for (int32_t i = 0; values->of && i < values->n_nodes; i++)
        free(values->of[i]);
    free(values->of);
    *values = (struct dm_values){0};
}

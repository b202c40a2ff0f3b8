#include "model.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- the network */

static const demist_network_vtable *vtable_of(const struct dm_network *network)
{
    return network->instance.cls->vtable;
}

/* The error of a call that used the builder: the builder's own, if it failed, else the plugin's. */
static demist_status builder_check(struct dm_network *network, struct dm_graph *graph,
                                   const char *function, demist_status status, struct dm_error *err)
{
    demist_builder *b = dm_graph_builder(graph);
    if (!b->failed(b))
        return dm_instance_check(&network->instance, function, status, err);
    dm_instance_check(&network->instance, function, DEMIST_OK, NULL);
    return dm_graph_finish(graph, err);
}

/* A network's own mistakes, which would otherwise surface far from here. */
static demist_status check_info(struct dm_network *network, struct dm_error *err)
{
    const demist_network_info *info = &network->info;
    const char *name = network->instance.cls->name;
    if (info->rank < 1 || info->rank > DEMIST_MAX_RANK - 1)
        return dm_fail(err, DEMIST_INTERNAL, "network %s: describe gives a datum of rank %d", name,
                       (int)info->rank);
    network->n_elements = 1;
    for (int32_t i = 0; i < info->rank; i++) {
        if (info->shape[i] < 1 || info->shape[i] > 1 << 24 ||
            network->n_elements > ((int64_t)1 << 32) / info->shape[i])
            return dm_fail(err, DEMIST_INTERNAL, "network %s: describe gives a dimension of %lld",
                           name, (long long)info->shape[i]);
        network->n_elements *= info->shape[i];
    }
    if (info->prediction < DEMIST_PREDICT_EPS || info->prediction > DEMIST_PREDICT_MEAN ||
        info->time < DEMIST_TIME_INDEX || info->time > DEMIST_TIME_PATH)
        return dm_fail(err, DEMIST_INTERNAL,
                       "network %s: describe leaves prediction or time form unset", name);
    return DEMIST_OK;
}

static demist_status describe(struct dm_network *network, struct dm_error *err)
{
    struct dm_graph *graph = NULL;
    DM_TRY(dm_graph_create("", network->sources, &graph, err)); /* to look, not to build */
    network->info = DEMIST_INIT(demist_network_info);
    network->info.null_class = -1;
    demist_status status = vtable_of(network)->describe(network->instance.self,
                                                        dm_graph_builder(graph), &network->info);
    status = builder_check(network, graph, "describe", status, err);
    dm_graph_destroy(graph);
    return status == DEMIST_OK ? check_info(network, err) : status;
}

/* `out` is x's shape, with twice the channels where the variance is learned. */
static demist_status check_output(const struct dm_network *network, struct dm_error *err)
{
    const demist_graph *graph = dm_graph_view(network->graph);
    const demist_network_info *info = &network->info;
    const char *name = network->instance.cls->name;
    if (graph->n_outputs != 1 || strcmp(graph->output_names[0], "out") != 0)
        return dm_fail(err, DEMIST_INTERNAL,
                       "network %s: graph denoise must have one output, called out", name);
    const demist_node *out = graph->outputs[0];
    bool right = out->dtype == DEMIST_F32 && out->rank == info->rank + 1 && demist_is_batched(out);
    for (int32_t i = 0; right && i < info->rank; i++) {
        bool learned = i == 0 && info->learned_variance != DEMIST_VARIANCE_NONE;
        right = out->shape[i + 1] == info->shape[i] * (learned ? 2 : 1);
    }
    return right ? DEMIST_OK
                 : dm_fail(err, DEMIST_INTERNAL,
                           "network %s: the output of graph denoise does not have the shape that "
                           "describe gives",
                           name);
}

static demist_status build(struct dm_network *network, struct dm_error *err)
{
    DM_TRY(dm_graph_create("denoise", network->sources, &network->graph, err));
    demist_status status = vtable_of(network)->build(network->instance.self,
                                                     dm_graph_builder(network->graph), "denoise");
    DM_TRY(builder_check(network, network->graph, "build", status, err));
    DM_TRY(dm_graph_finish(network->graph, err));
    DM_TRY(dm_sources_check(network->sources, err));
    return check_output(network, err);
}

demist_status dm_network_open(struct dm_network *network, struct dm_instance *instance,
                              const char *checkpoint, const char *prefix, bool late,
                              struct dm_error *err)
{
    *network = (struct dm_network){.instance = *instance};
    *instance = (struct dm_instance){0};
    demist_status status = dm_sources_create(&network->sources, err);
    if (status == DEMIST_OK && late)
        dm_sources_read_late(network->sources);
    if (status == DEMIST_OK && checkpoint && checkpoint[0])
        status = dm_sources_open(network->sources, checkpoint, prefix, &(int32_t){0}, err);
    if (status == DEMIST_OK) {
        status = describe(network, err);
        bool misfit = status == DEMIST_INCOMPATIBLE || status == DEMIST_CONFIG;
        if (misfit && checkpoint && checkpoint[0])
            dm_fail_where(err, "%s", checkpoint);
    }
    if (status == DEMIST_OK)
        status = build(network, err);
    if (status != DEMIST_OK)
        dm_network_close(network);
    return status;
}

void dm_network_close(struct dm_network *network)
{
    dm_graph_destroy(network->graph);
    dm_sources_destroy(network->sources);
    dm_instance_destroy(&network->instance);
    *network = (struct dm_network){0};
}

/* NULL when it has none. */
static const demist_node *input_of(const struct dm_graph *graph, demist_role role)
{
    const demist_graph *view = dm_graph_view(graph);
    for (int32_t i = 0; i < view->n_inputs; i++)
        if (view->inputs[i]->attrs.input.role == (int32_t)role)
            return view->inputs[i];
    return NULL;
}

const demist_node *dm_network_input(const struct dm_network *network, demist_role role)
{
    return input_of(network->graph, role);
}

bool dm_network_guidable(const struct dm_network *network)
{
    const demist_network_info *info = &network->info;
    return (info->n_classes > 0 && info->null_class >= 0) ||
           (info->context_size > 0 && info->null_context);
}

/* ---------------------------------------------------------------- on a device */

/* Buffers for the input of that role, if the graph has one. */
static demist_status condition_buffers(struct dm_model *model, demist_role role, const char *what,
                                       int n, demist_buffer **buffers, struct dm_error *err)
{
    const demist_node *input = input_of(model->lowered.graph, role);
    for (int i = 0; input && i < n; i++)
        DM_TRY(dm_device_buffer(model->device,
                                (size_t)model->max_batch * (size_t)demist_elements(input) *
                                    demist_dtype_bytes(input->dtype),
                                what, &buffers[i], err));
    return DEMIST_OK;
}

demist_status dm_model_compile(struct dm_model *model, const struct dm_network *network,
                               struct dm_device *device, int64_t max_batch, uint32_t flags,
                               struct dm_error *err)
{
    const demist_graph *graph = dm_graph_view(network->graph);
    *model = (struct dm_model){.network = network, .device = device, .max_batch = max_batch};
    model->raw_elements = demist_elements(graph->outputs[0]);
    model->seed_slot = dm_graph_find_slot(network->graph, "seed");
    model->draw_slot = dm_graph_find_slot(network->graph, "draw");
    model->image_slot = dm_graph_find_slot(network->graph, "image");
    demist_status status = dm_device_compile(device, network->graph, max_batch, flags,
                                             &model->program, &model->lowered, err);
    if (status == DEMIST_OK)
        status =
            dm_device_buffer(device, (size_t)max_batch * sizeof(float), "times", &model->time, err);
    if (status == DEMIST_OK)
        status = condition_buffers(model, DEMIST_ROLE_LABEL, "labels", 2, model->label, err);
    if (status == DEMIST_OK)
        status = condition_buffers(model, DEMIST_ROLE_CONTEXT, "context", 2, model->context, err);
    if (status == DEMIST_OK)
        status = condition_buffers(model, DEMIST_ROLE_IMAGE, "low-resolution images", 1,
                                   &model->image, err);
    if (status != DEMIST_OK)
        dm_model_finish(model);
    return status;
}

void dm_model_finish(struct dm_model *model)
{
    if (!model->device)
        return;
    demist_buffer *buffers[] = {model->time,       model->label[0],   model->label[1],
                                model->context[0], model->context[1], model->image};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if (buffers[i])
            model->device->vtable->buffer_destroy(buffers[i]);
    if (model->program)
        model->device->vtable->program_destroy(model->program);
    dm_graph_destroy(model->lowered.graph);
    *model = (struct dm_model){0};
}

static demist_status write(struct dm_model *model, demist_buffer *buffer, const void *data,
                           size_t bytes, struct dm_error *err)
{
    struct dm_device *d = model->device;
    return dm_device_check(d, "buffer_write",
                           d->vtable->buffer_write(d->queue, buffer, 0, data, bytes), err);
}

static demist_status write_labels(struct dm_model *model, int64_t n, const int64_t *labels,
                                  bool guided, struct dm_error *err)
{
    const demist_network_info *info = &model->network->info;
    int32_t *narrow = calloc((size_t)n, sizeof *narrow);
    if (!narrow)
        return dm_fail_memory(err, "labels");
    for (int64_t i = 0; i < n; i++)
        narrow[i] = (int32_t)labels[i];
    demist_status status = write(model, model->label[0], narrow, (size_t)n * sizeof *narrow, err);
    for (int64_t i = 0; i < n; i++)
        narrow[i] = (int32_t)info->null_class;
    if (status == DEMIST_OK && guided)
        status = write(model, model->label[1], narrow, (size_t)n * sizeof *narrow, err);
    free(narrow);
    return status;
}

static demist_status write_context(struct dm_model *model, int64_t n, const float *context,
                                   bool guided, struct dm_error *err)
{
    size_t bytes = (size_t)n * (size_t)model->network->info.context_size * sizeof(float);
    float *zeros = calloc(1, bytes);
    if (!zeros)
        return dm_fail_memory(err, "context");
    demist_status status = write(model, model->context[0], context ? context : zeros, bytes, err);
    if (status == DEMIST_OK && guided)
        status = write(model, model->context[1], zeros, bytes, err);
    free(zeros);
    return status;
}

static demist_status write_low_res(struct dm_model *model, int64_t n, const float *low_res,
                                   struct dm_error *err)
{
    const demist_node *input = dm_network_input(model->network, DEMIST_ROLE_IMAGE);
    if (!low_res)
        return dm_fail(err, DEMIST_CONFIG,
                       "network %s is for super-resolution: set [sample] low_res to a picture, a "
                       "folder of pictures or an .npz file",
                       model->network->instance.cls->name);
    size_t bytes = (size_t)n * (size_t)demist_elements(input) * sizeof(float);
    return write(model, model->image, low_res, bytes, err);
}

demist_status dm_model_condition(struct dm_model *model, int64_t n,
                                 const struct dm_conditions *conditions, bool guided,
                                 struct dm_error *err)
{
    const demist_network_info *info = &model->network->info;
    const char *name = model->network->instance.cls->name;
    if (guided && !dm_network_guidable(model->network))
        return dm_fail(err, DEMIST_UNSUPPORTED, "network %s cannot be guided", name);
    if (model->label[0] && !conditions->labels)
        return dm_fail(err, DEMIST_CONFIG,
                       "network %s is class-conditional (%lld classes): set [sample] labels", name,
                       (long long)info->n_classes);
    if (model->label[0])
        DM_TRY(write_labels(model, n, conditions->labels, guided, err));
    if (model->context[0])
        DM_TRY(write_context(model, n, conditions->context, guided, err));
    if (model->image)
        DM_TRY(write_low_res(model, n, conditions->low_res, err));
    model->guided = guided;
    return DEMIST_OK;
}

demist_status dm_model_bind(struct dm_model *model, demist_buffer *x, demist_buffer *out,
                            bool unconditional, demist_binding **binding, struct dm_error *err)
{
    const demist_graph *graph = dm_graph_view(model->lowered.graph);
    struct dm_device *d = model->device;
    demist_buffer *buffers[8];
    int32_t n = 0;
    if (graph->n_inputs >= 8)
        return dm_fail(err, DEMIST_INTERNAL, "graph %s has %d inputs", graph->name,
                       (int)graph->n_inputs);
    for (int32_t i = 0; i < graph->n_inputs; i++) {
        switch ((demist_role)graph->inputs[i]->attrs.input.role) {
        case DEMIST_ROLE_X:
            buffers[n++] = x;
            break;
        case DEMIST_ROLE_TIME:
            buffers[n++] = model->time;
            break;
        case DEMIST_ROLE_LABEL:
            buffers[n++] = model->label[unconditional];
            break;
        case DEMIST_ROLE_CONTEXT:
            buffers[n++] = model->context[unconditional];
            break;
        case DEMIST_ROLE_IMAGE:
            buffers[n++] = model->image;
            break;
        default:
            return dm_fail(err, DEMIST_UNSUPPORTED,
                           "network %s: nothing feeds input %s of graph denoise",
                           model->network->instance.cls->name, graph->inputs[i]->name);
        }
    }
    buffers[n++] = out;
    return dm_device_check(d, "bind", d->vtable->bind(model->program, buffers, n, binding), err);
}

demist_status dm_model_execute(struct dm_model *model, demist_binding *binding, const float *t,
                               int64_t n, uint64_t seed, uint64_t draw, uint64_t image,
                               struct dm_error *err)
{
    struct dm_device *d = model->device;
    demist_scalar scalars[3];
    if (dm_graph_view(model->lowered.graph)->n_scalars > 3)
        return dm_fail(err, DEMIST_INTERNAL,
                       "network %s has scalar slots that nobody fills; a network may have seed, "
                       "draw and image",
                       model->network->instance.cls->name);
    if (model->seed_slot >= 0)
        scalars[model->seed_slot].u = seed;
    if (model->draw_slot >= 0)
        scalars[model->draw_slot].u = draw;
    if (model->image_slot >= 0)
        scalars[model->image_slot].u = image;
    DM_TRY(write(model, model->time, t, (size_t)n * sizeof *t, err));
    return dm_device_check(d, "execute", d->vtable->execute(d->queue, binding, scalars, n), err);
}

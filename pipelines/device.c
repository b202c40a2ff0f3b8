#include "device.h"

#include <stdio.h>
#include <stdlib.h>

const char *const dm_precision_names[] = {"f32", "strict", "tf32", "bf16", "f16", NULL};

demist_status dm_device_check(struct dm_device *device, const char *function, demist_status status,
                              struct dm_error *err)
{
    return dm_instance_check(&device->instance, function, status, err);
}

/* Copies what the user may want to know about the device that was opened. */
static void describe(struct dm_device *d)
{
    const demist_device_info *info = d->vtable->device_info(d->device);
    d->type = info->type;
    snprintf(d->name, sizeof d->name, "%s", info->name);
    snprintf(d->driver, sizeof d->driver, "%s", info->driver ? info->driver : "");
    snprintf(d->detail, sizeof d->detail, "%s", info->detail ? info->detail : "");
}

/* "f32, strict": what this device offers. */
static void list_precisions(struct dm_device *d, char *out, size_t size)
{
    size_t n = 0;
    out[0] = 0;
    for (int p = 0; dm_precision_names[p]; p++)
        if (d->vtable->has_precision(d->device, (demist_precision)p) && n < size)
            n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", dm_precision_names[p]);
}

demist_status dm_device_open(struct dm_device *d, struct dm_instance *instance,
                             demist_precision precision, struct dm_error *err)
{
    *d = (struct dm_device){
        .instance = *instance, .vtable = instance->cls->vtable, .precision = precision};
    *instance = (struct dm_instance){0};
    demist_status status =
        dm_device_check(d, "open", d->vtable->open(d->instance.self, -1, &d->device), err);
    if (status != DEMIST_OK)
        goto fail;
    describe(d);
    if (!d->vtable->has_precision(d->device, precision)) {
        char offered[128];
        list_precisions(d, offered, sizeof offered);
        status = dm_fail(err, DEMIST_CONFIG,
                         "backend %s does not offer precision = %s on %s; it offers %s",
                         d->instance.cls->name, dm_precision_names[precision],
                         d->name[0] ? d->name : "this device", offered);
        goto fail;
    }
    status = dm_device_check(d, "queue_create", d->vtable->queue_create(d->device, &d->queue), err);
    if (status == DEMIST_OK)
        return DEMIST_OK;
fail:
    dm_device_close(d);
    return status;
}

void dm_device_close(struct dm_device *d)
{
    if (d->queue)
        d->vtable->queue_destroy(d->queue);
    if (d->device)
        d->vtable->close(d->device);
    dm_instance_destroy(&d->instance);
    *d = (struct dm_device){0};
}

demist_status dm_device_buffer(struct dm_device *d, size_t bytes, const char *what,
                               demist_buffer **buffer, struct dm_error *err)
{
    demist_status status = dm_device_check(
        d, "buffer_create", d->vtable->buffer_create(d->device, bytes ? bytes : 1, buffer), err);
    if (status != DEMIST_OK)
        dm_fail_where(err, "%s (%zu bytes)", what, bytes);
    return status;
}

static bool supports(void *user, const demist_node *node, const char **why)
{
    struct dm_device *d = user;
    return d->vtable->supports(d->device, node, why);
}

/* What a reader's internal member points to. */
struct reading {
    struct dm_device *device;
    const struct dm_graph *graph; /* as the network built it */
};

static demist_status read_param(const demist_param_reader *reader, const demist_node *param,
                                float *to)
{
    const struct reading *r = reader->internal;
    const demist_host *host = &r->device->instance.host->table;
    struct dm_error err = DM_ERROR_INIT;
    demist_status status = dm_graph_read_param(r->graph, param, to, &err);
    if (status != DEMIST_OK)
        host->fail(host, status, "%s", err.text ? err.text : "");
    dm_error_clear(&err);
    return status;
}

/* Parameters that are left in files, read for a backend that takes them from their nodes only. */
struct loan {
    void **data; /* [n_params], NULL: the node has its own */
    const demist_graph *graph;
};

/* The nodes of a lowered graph belong to it, and so to its owner. */
static void set_data(const demist_node *node, const void *data)
{
    ((demist_node *)(uintptr_t)node)->data = data;
}

static void end_loan(struct loan *loan)
{
    for (int32_t i = 0; loan->data && i < loan->graph->n_params; i++)
        if (loan->data[i]) {
            set_data(loan->graph->params[i], NULL);
            dm_free_aligned(loan->data[i]);
        }
    free(loan->data);
}

static demist_status lend(struct loan *loan, const struct dm_graph *graph,
                          const struct dm_graph *lowered, struct dm_error *err)
{
    *loan = (struct loan){.graph = dm_graph_view(lowered)};
    loan->data = calloc((size_t)loan->graph->n_params + 1, sizeof *loan->data);
    if (!loan->data)
        return dm_fail_memory(err, "parameters");
    for (int32_t i = 0; i < loan->graph->n_params; i++) {
        const demist_node *param = loan->graph->params[i];
        if (param->data)
            continue;
        loan->data[i] = dm_alloc_aligned((size_t)demist_elements(param) * sizeof(float), 0);
        if (!loan->data[i])
            return dm_fail_memory(err, "parameters");
        DM_TRY(dm_graph_read_param(graph, param, loan->data[i], err));
        set_data(param, loan->data[i]);
    }
    return DEMIST_OK;
}

static demist_status compile(struct dm_device *d, const struct dm_graph *graph,
                             const struct dm_graph *lowered, const demist_compile_info *info,
                             demist_program **program, struct dm_error *err)
{
    const demist_graph *view = dm_graph_view(lowered);
    if (DEMIST_HAS(d->vtable, compile_reading)) {
        struct reading reading = {d, graph};
        demist_param_reader reader = DEMIST_INIT(demist_param_reader);
        reader.internal = &reading;
        reader.read = read_param;
        return dm_device_check(d, "compile_reading",
                               d->vtable->compile_reading(d->device, view, info, &reader, program),
                               err);
    }
    struct loan loan;
    demist_status status = lend(&loan, graph, lowered, err);
    if (status == DEMIST_OK)
        status =
            dm_device_check(d, "compile", d->vtable->compile(d->device, view, info, program), err);
    end_loan(&loan);
    return status;
}

demist_status dm_device_compile(struct dm_device *d, const struct dm_graph *graph,
                                int64_t max_batch, uint32_t flags, demist_program **program,
                                struct dm_lowered *lowered, struct dm_error *err)
{
    struct dm_lowered low = {0};
    struct dm_lower_options options = {
        .frozen = true, .observe_all = flags & DM_COMPILE_UNFUSED, .supports = supports, .user = d};
    demist_status status = dm_graph_lower(graph, &options, &low, err);
    if (status == DEMIST_OK) {
        demist_compile_info info = DEMIST_INIT(demist_compile_info);
        info.max_batch = max_batch;
        info.precision = d->precision;
        info.flags = (flags & ~DM_COMPILE_UNFUSED) | DEMIST_COMPILE_FROZEN;
        status = compile(d, graph, low.graph, &info, program, err);
    }
    if (status != DEMIST_OK)
        dm_fail_where(err, "graph %s on backend %s", dm_graph_view(graph)->name,
                      d->instance.cls->name);
    if (lowered && status == DEMIST_OK)
        *lowered = low;
    else
        dm_graph_destroy(low.graph);
    return status;
}

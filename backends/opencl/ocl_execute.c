/* Bindings and executions: sets each launch's arguments for the number of images and queues it.
 * Nothing is allocated and nothing waited for, but between steps where times are kept. */
#include "ocl_program.h"

#include <demist/checks.h>

#include <string.h>
#include <time.h>

static const demist_host *host_of(const demist_program *p)
{
    return p->device->host;
}

static demist_status checked(const demist_program *p, const char *call, cl_int error)
{
    return error == CL_SUCCESS ? DEMIST_OK : ocl_fail(p->device, call, error);
}

/* --- one launch --- */

struct run {
    const demist_program *program;
    cl_command_queue queue;
    const struct ocl_place_of *places;
    const demist_scalar *scalars;
    int64_t images;
};

static cl_int set_value(cl_kernel kernel, cl_uint *at, const struct ocl_arg *arg,
                        const struct ocl_place_of *place)
{
    const cl_long first = place->offset / place->size + arg->offset;
    const cl_int error = clSetKernelArg(kernel, (*at)++, sizeof place->memory, &place->memory);
    return error != CL_SUCCESS ? error : clSetKernelArg(kernel, (*at)++, sizeof first, &first);
}

static cl_int set_arg(const struct run *run, cl_kernel kernel, cl_uint *at,
                      const struct ocl_arg *arg)
{
    if (arg->kind == OCL_ARG_VALUE)
        return set_value(kernel, at, arg, &run->places[arg->storage]);
    if (arg->kind == OCL_ARG_INT) {
        const cl_int value = (cl_int)ocl_value(arg->count, run->images);
        return clSetKernelArg(kernel, (*at)++, sizeof value, &value);
    }
    if (arg->kind == OCL_ARG_FLOAT)
        return clSetKernelArg(kernel, (*at)++, sizeof arg->number, &arg->number);
    if (!run->scalars) /* a one-time step cannot depend on a slot */
        return CL_INVALID_ARG_VALUE;
    const demist_scalar *slot = &run->scalars[arg->storage];
    if (arg->kind == OCL_ARG_SCALAR) {
        const cl_float value = (cl_float)slot->f;
        return clSetKernelArg(kernel, (*at)++, sizeof value, &value);
    }
    const cl_uint half = (cl_uint)(arg->kind == OCL_ARG_SLOT_LOW ? slot->u : slot->u >> 32);
    return clSetKernelArg(kernel, (*at)++, sizeof half, &half);
}

/* Arguments as add_gemm of ocl_product.c puts them. */
static demist_status run_gemm(const struct run *run, const struct ocl_launch *l)
{
    enum { VALUES = 3, NUMBERS = 10 };
    size_t at[VALUES], n[NUMBERS];
    cl_mem memory[VALUES];
    for (int i = 0; i < VALUES; i++) {
        const struct ocl_place_of *place = &run->places[l->args[i].storage];
        memory[i] = place->memory;
        at[i] = (size_t)(place->offset / 4 + l->args[i].offset);
    }
    for (int i = 0; i < NUMBERS; i++)
        n[i] = (size_t)ocl_value(l->args[VALUES + i].count, run->images);
    const struct ocl_gemm gemm = {
        .rows = n[0],
        .columns = n[1],
        .depth = n[2],
        .n = n[3],
        .a = memory[0],
        .b = memory[1],
        .c = memory[2],
        .a_at = at[0],
        .b_at = at[1],
        .c_at = at[2],
        .a_ld = n[4],
        .b_ld = n[5],
        .c_ld = n[6],
        .a_step = n[7],
        .b_step = n[8],
        .c_step = n[9],
    };
    return ocl_clblast_run(run->program->device, run->queue, &gemm);
}

static demist_status run_launch(const struct run *run, const struct ocl_launch *l)
{
    if (!l->kernel)
        return run_gemm(run, l);
    size_t global[3];
    cl_uint at = 0;
    for (int32_t i = 0; i < l->n_args; i++)
        OCL_TRY(checked(run->program, "clSetKernelArg", set_arg(run, l->kernel, &at, &l->args[i])));
    for (int i = 0; i < 3; i++) {
        const size_t items =
            (size_t)((ocl_value(l->global[i], run->images) + l->each[i] - 1) / l->each[i]);
        global[i] = (items + l->local[i] - 1) / l->local[i] * l->local[i];
    }
    return checked(
        run->program, "clEnqueueNDRangeKernel",
        clEnqueueNDRangeKernel(run->queue, l->kernel, 3, NULL, global, l->local, 0, NULL, NULL));
}

static demist_status run_step(const struct run *run, const struct ocl_step *step,
                              const demist_view *draws_view)
{
    if (step->draws)
        return ocl_run_draws(run->queue, run->program, step->draws,
                             &run->places[draws_view->storage], run->scalars, run->images);
    return run_launch(run, &step->launch);
}

/* --- bind --- */

static demist_status check_buffer(const demist_program *p, int32_t node,
                                  const demist_buffer *buffer)
{
    const struct ocl_value *value = &p->values[node];
    const bool usable = buffer && buffer->device == p->device;
    return demist_check_buffer(host_of(p), value->name, p->max_batch,
                               demist_value_bytes(value->rank, value->shape, p->max_batch),
                               usable ? (int64_t)buffer->bytes : -1);
}

static demist_status check_buffers(const demist_program *p, demist_buffer *const *buffers,
                                   int32_t n)
{
    OCL_TRY(demist_check_buffer_count(host_of(p), n, p->n_inputs, p->n_outputs));
    for (int32_t i = 0; i < n; i++) {
        const bool output = i >= p->n_inputs;
        const int32_t node = output ? p->output_nodes[i - p->n_inputs] : p->input_nodes[i];
        OCL_TRY(check_buffer(p, node, buffers[i]));
        if (output)
            OCL_TRY(demist_check_own_buffer(host_of(p), p->values[node].name, buffers, i));
    }
    return DEMIST_OK;
}

static struct ocl_place_of place_of(const demist_program *p, const struct ocl_storage *s,
                                    demist_buffer *const *buffers)
{
    const int64_t size = ocl_size_of(s->type);
    switch (s->place) {
    case OCL_INPUT:
        return (struct ocl_place_of){buffers ? buffers[s->where]->memory : NULL, 0, size};
    case OCL_OUTPUT:
        return (struct ocl_place_of){buffers ? buffers[p->n_inputs + s->where]->memory : NULL, 0,
                                     size};
    case OCL_FIXED:
        return (struct ocl_place_of){p->fixed, s->where, size};
    case OCL_RAW:
        return (struct ocl_place_of){p->raw, s->where, size};
    case OCL_ARENA:
        break;
    }
    return (struct ocl_place_of){p->arena, s->where, size};
}

demist_status ocl_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                       demist_binding **binding)
{
    const demist_host *host = host_of(program);
    OCL_TRY(check_buffers(program, buffers, n));
    demist_binding *b = host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (demist_binding){.program = program};
    const size_t observers = sizeof *b->observers * ((size_t)program->n_values + 1);
    b->places = host->alloc(host, sizeof *b->places * ((size_t)program->n_storages + 1), 0);
    b->observers = b->places ? host->alloc(host, observers, 0) : NULL;
    if (!b->observers) {
        ocl_binding_destroy(b);
        return DEMIST_NO_MEMORY;
    }
    memset(b->observers, 0, observers);
    for (int32_t i = 0; i < program->n_storages; i++)
        b->places[i] = place_of(program, &program->storages[i], buffers);
    *binding = b;
    return DEMIST_OK;
}

void ocl_binding_destroy(demist_binding *binding)
{
    if (!binding)
        return;
    const demist_host *host = host_of(binding->program);
    for (int32_t i = 0; i < binding->n_observers; i++)
        host->free(host, binding->observers[i].copy.args);
    host->free(host, binding->observers);
    host->free(host, binding->places);
    host->free(host, binding);
}

/* --- execute --- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static demist_status check_call(const demist_binding *b, const demist_scalar *scalars, int64_t n)
{
    const demist_program *p = b->program;
    OCL_TRY(demist_check_execute(host_of(p), n, p->max_batch, scalars, p->n_scalars));
    for (int32_t i = 0; i < p->n_params; i++)
        OCL_TRY(
            demist_check_filled(host_of(p), p->values[p->param_nodes[i]].name, p->param_filled[i]));
    for (int32_t i = 0; i < p->n_philox; i++) {
        const struct ocl_value *value = &p->values[p->philox_nodes[i]];
        OCL_TRY(demist_check_draws(host_of(p), value->name, value->op, &p->philox_attrs[i], scalars,
                                   n));
    }
    return DEMIST_OK;
}

/* Copies the values that are there after step `step`. */
static demist_status observe_after(const struct run *run, const demist_binding *b, int32_t step)
{
    const demist_program *p = b->program;
    for (int32_t i = 0; i < b->n_observers; i++) {
        const struct ocl_observer *o = &b->observers[i];
        if (!o->buffer || p->values[o->node].ready != step)
            continue;
        b->places[p->n_storages] = (struct ocl_place_of){o->buffer->memory, 0, 4};
        OCL_TRY(run_launch(run, &o->copy));
    }
    return DEMIST_OK;
}

demist_status ocl_execute(demist_queue *queue, demist_binding *binding,
                          const demist_scalar *scalars, int64_t n_images)
{
    demist_program *p = binding->program;
    const bool profile = p->flags & DEMIST_COMPILE_PROFILE;
    OCL_TRY(check_call(binding, scalars, n_images));
    const struct run run = {p, queue->queue, binding->places, scalars, n_images};
    if (profile)
        clFinish(queue->queue);
    OCL_TRY(observe_after(&run, binding, -1));
    for (int32_t i = 0; i < p->steps.n; i++) {
        const struct ocl_step *step = &p->steps.list[i];
        const double start = profile ? now() : 0;
        OCL_TRY(run_step(&run, step, &p->values[step->launch.node].view));
        if (profile) {
            clFinish(queue->queue);
            p->profile[step->launch.node].seconds += now() - start;
        }
        if (binding->n_observers > 0)
            OCL_TRY(observe_after(&run, binding, i));
    }
    for (int32_t i = 0; profile && i < p->n_values; i++)
        p->profile[i].calls++;
    return checked(p, "clFlush", clFlush(queue->queue));
}

/* --- parameters --- */

demist_status ocl_run_once(cl_command_queue queue, demist_program *p)
{
    if (p->once.n == 0)
        return DEMIST_OK;
    const size_t bytes = sizeof(struct ocl_place_of) * (size_t)p->n_storages;
    struct ocl_place_of *places = host_of(p)->alloc(host_of(p), bytes, 0);
    if (!places)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < p->n_storages; i++)
        places[i] = place_of(p, &p->storages[i], NULL);
    const struct run run = {p, queue, places, NULL, p->max_batch};
    demist_status status = DEMIST_OK;
    for (int32_t i = 0; i < p->once.n && status == DEMIST_OK; i++)
        status = run_launch(&run, &p->once.list[i].launch);
    host_of(p)->free(host_of(p), places);
    return status;
}

demist_status ocl_update_params(demist_queue *queue, demist_program *program, int32_t n,
                                const int32_t *params, const void *const *data)
{
    bool filled = true;
    OCL_TRY(demist_check_update(host_of(program), program->flags, n, params, program->n_params));
    for (int32_t i = 0; i < n; i++) {
        const demist_view *view = &program->values[program->param_nodes[params[i]]].view;
        const struct ocl_storage *s = &program->storages[view->storage];
        const struct ocl_place_of place = place_of(program, s, NULL);
        OCL_TRY(
            checked(program, "clEnqueueWriteBuffer",
                    clEnqueueWriteBuffer(queue->queue, place.memory, CL_TRUE, (size_t)place.offset,
                                         (size_t)s->elements * 4, data[i], 0, NULL, NULL)));
        program->param_filled[params[i]] = true;
    }
    for (int32_t i = 0; i < program->n_params; i++)
        filled = filled && program->param_filled[i];
    return filled ? ocl_run_once(queue->queue, program) : DEMIST_OK;
}

/* --- observe, profile --- */

demist_observability ocl_observability(demist_program *program, int32_t id, int32_t *inside)
{
    *inside = id;
    if (id < 0 || id >= program->n_values)
        return DEMIST_OBSERVE_REMOVED;
    if (program->values[id].inside >= 0) {
        *inside = program->values[id].inside;
        return DEMIST_OBSERVE_INSIDE;
    }
    return program->values[id].defined ? DEMIST_OBSERVE_MATERIALISED : DEMIST_OBSERVE_REMOVED;
}

static struct ocl_observer *observer_of(demist_binding *b, int32_t id)
{
    for (int32_t i = 0; i < b->n_observers; i++)
        if (b->observers[i].node == id)
            return &b->observers[i];
    return NULL;
}

static demist_status add_observer(demist_binding *b, int32_t id, struct ocl_observer **observer)
{
    const demist_program *p = b->program;
    const demist_view *from = &p->values[id].view;
    const demist_view to = demist_view_dense(p->n_storages, from->batched, from->rank, from->shape);
    struct ocl_draft draft;
    OCL_TRY(ocl_copy_launch(p, id, &to, from, &draft));
    const size_t bytes = sizeof *draft.args * (size_t)draft.launch.n_args;
    draft.launch.args = host_of(p)->alloc(host_of(p), bytes, 0);
    if (!draft.launch.args)
        return DEMIST_NO_MEMORY;
    memcpy(draft.launch.args, draft.args, bytes);
    *observer = &b->observers[b->n_observers++];
    **observer = (struct ocl_observer){.node = id, .copy = draft.launch};
    return DEMIST_OK;
}

demist_status ocl_observe(demist_binding *binding, int32_t id, demist_buffer *buffer)
{
    demist_program *p = binding->program;
    int32_t inside;
    OCL_TRY(demist_check_observe(host_of(p), p->flags, id, p->n_values,
                                 ocl_observability(p, id, &inside)));
    struct ocl_observer *observer = observer_of(binding, id);
    if (buffer)
        OCL_TRY(check_buffer(p, id, buffer));
    if (buffer && !observer)
        OCL_TRY(add_observer(binding, id, &observer));
    if (observer)
        observer->buffer = buffer;
    return DEMIST_OK;
}

demist_status ocl_profile(demist_program *program, const demist_node_profile *const **profiles,
                          int32_t *n)
{
    OCL_TRY(demist_check_profile(host_of(program), program->flags));
    *profiles = program->profiles;
    *n = program->n_values;
    return DEMIST_OK;
}

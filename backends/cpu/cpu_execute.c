/* Bindings and executions: runs a program's steps in order. Everything has happened when a call
 * returns, so queues hold nothing. */
#include "cpu_program.h"

#include <demist/checks.h>

#include <string.h>
#include <time.h>

/* Waking the pool costs a few microseconds: about this many elementary operations. */
#define SERIAL_WORK 12000.0

void cpu_parallel(const struct cpu_run *run, int64_t n, demist_task fn, void *arg, double work)
{
    if (n > 1 && work > SERIAL_WORK && run->host->n_workers > 1) {
        run->host->parallel(run->host, n, fn, arg);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        fn(arg, i, 0);
}

static const demist_host *host_of(const demist_program *p)
{
    return p->device->host;
}

/* --- bind --- */

static demist_status check_buffer(const demist_program *p, int32_t node,
                                  const demist_buffer *buffer)
{
    const struct cpu_value *value = &p->values[node];
    const bool usable = buffer && buffer->device == p->device;
    return demist_check_buffer(host_of(p), value->name, p->max_batch,
                               demist_value_bytes(value->rank, value->shape, p->max_batch),
                               usable ? (int64_t)buffer->bytes : -1);
}

static demist_status check_buffers(const demist_program *p, demist_buffer *const *buffers,
                                   int32_t n)
{
    CPU_TRY(demist_check_buffer_count(host_of(p), n, p->n_inputs, p->n_outputs));
    for (int32_t i = 0; i < n; i++) {
        const bool output = i >= p->n_inputs;
        const int32_t node = output ? p->output_nodes[i - p->n_inputs] : p->input_nodes[i];
        CPU_TRY(check_buffer(p, node, buffers[i]));
        if (output)
            CPU_TRY(demist_check_own_buffer(host_of(p), p->values[node].name, buffers, i));
    }
    return DEMIST_OK;
}

static char *base_of(const demist_program *p, const struct cpu_storage *s,
                     demist_buffer *const *buffers)
{
    switch (s->place) {
    case CPU_INPUT:
        return buffers[s->where]->data;
    case CPU_OUTPUT:
        return buffers[p->n_inputs + s->where]->data;
    case CPU_FIXED:
        return s->data;
    case CPU_ARENA:
        break;
    }
    return p->arena + s->where;
}

demist_status cpu_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                       demist_binding **binding)
{
    const demist_host *host = host_of(program);
    CPU_TRY(check_buffers(program, buffers, n));
    demist_binding *b = host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (demist_binding){.program = program};
    const size_t observers = sizeof *b->observers * ((size_t)program->n_values + 1);
    b->bases = host->alloc(host, sizeof *b->bases * (2 * (size_t)program->n_storages + 1), 0);
    b->observers = b->bases ? host->alloc(host, observers, 0) : NULL;
    if (!b->observers) {
        cpu_binding_destroy(b);
        return DEMIST_NO_MEMORY;
    }
    memset(b->observers, 0, observers);
    for (int32_t i = 0; i < program->n_storages; i++)
        b->bases[i] = base_of(program, &program->storages[i], buffers);
    *binding = b;
    return DEMIST_OK;
}

void cpu_binding_destroy(demist_binding *binding)
{
    if (!binding)
        return;
    const demist_host *host = host_of(binding->program);
    for (int32_t i = 0; i < binding->n_observers; i++)
        host->free(host, binding->observers[i].copy);
    host->free(host, binding->observers);
    host->free(host, binding->bases);
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
    CPU_TRY(demist_check_execute(host_of(p), n, p->max_batch, scalars, p->n_scalars));
    for (int32_t i = 0; i < p->n_params; i++)
        CPU_TRY(
            demist_check_filled(host_of(p), p->values[p->param_nodes[i]].name, p->param_filled[i]));
    return DEMIST_OK;
}

/* Copies the values that are there after step `step`. */
static void observe_after(const struct cpu_run *run, const demist_binding *b, int32_t step)
{
    for (int32_t i = 0; i < b->n_observers; i++) {
        const struct cpu_observer *o = &b->observers[i];
        const demist_view *view = &b->program->values[o->node].view;
        if (o->buffer && b->program->values[o->node].ready == step)
            cpu_copy_run(run, o->copy,
                         o->buffer->data +
                             (view->batched ? run->first * demist_view_elements(view) * 4 : 0));
    }
}

/* Where the storages are for the images from `first` on: the arena is the same for all. */
static char **move_bases(const demist_binding *b, int64_t first)
{
    const demist_program *p = b->program;
    if (first == 0)
        return b->bases;
    char **bases = b->bases + p->n_storages;
    for (int32_t i = 0; i < p->n_storages; i++) {
        const struct cpu_storage *s = &p->storages[i];
        const bool moves = s->batched && (s->place == CPU_INPUT || s->place == CPU_OUTPUT);
        bases[i] = b->bases[i] + (moves ? first * s->elements * 4 : 0);
    }
    return bases;
}

static demist_status run_steps(struct cpu_run *run, const demist_binding *b)
{
    demist_program *p = b->program;
    const bool profile = p->flags & DEMIST_COMPILE_PROFILE;
    observe_after(run, b, -1);
    for (int32_t i = 0; i < p->n_steps; i++) {
        const struct cpu_step *step = &p->steps[i];
        const double start = profile ? now() : 0;
        CPU_TRY(step->run(run, step->op));
        if (profile)
            p->profile[step->node].seconds += now() - start;
        if (b->n_observers > 0)
            observe_after(run, b, i);
    }
    return DEMIST_OK;
}

demist_status cpu_execute(demist_queue *queue, demist_binding *binding,
                          const demist_scalar *scalars, int64_t n_images)
{
    (void)queue;
    demist_program *p = binding->program;
    CPU_TRY(check_call(binding, scalars, n_images));
    const int64_t passes = cpu_ceil(n_images, p->at_once);
    for (int64_t left = passes, first = 0; left > 0; left--) {
        struct cpu_run run = {.program = p,
                              .host = host_of(p),
                              .kernels = p->device->kernels,
                              .bases = move_bases(binding, first),
                              .scalars = scalars,
                              .first = first,
                              .images = cpu_ceil(n_images - first, left)};
        CPU_TRY(run_steps(&run, binding));
        first += run.images;
    }
    for (int32_t i = 0; p->flags & DEMIST_COMPILE_PROFILE && i < p->n_values; i++)
        p->profile[i].calls++;
    return DEMIST_OK;
}

/* --- parameters --- */

demist_status cpu_update_params(demist_queue *queue, demist_program *program, int32_t n,
                                const int32_t *params, const void *const *data)
{
    (void)queue;
    CPU_TRY(demist_check_update(host_of(program), program->flags, n, params, program->n_params));
    for (int32_t i = 0; i < n; i++) {
        const demist_view *view = &program->values[program->param_nodes[params[i]]].view;
        struct cpu_storage *storage = &program->storages[view->storage];
        memcpy(storage->data, data[i], (size_t)storage->elements * 4);
        program->param_filled[params[i]] = true;
    }
    for (int32_t i = 0; i < program->n_steps; i++) {
        const struct cpu_step *step = &program->steps[i];
        bool changed = false, filled = true;
        for (int32_t k = 0; k < step->n_params; k++) {
            filled = filled && program->param_filled[step->params[k]];
            for (int32_t j = 0; j < n; j++)
                changed = changed || params[j] == step->params[k];
        }
        if (step->prepare && changed && filled)
            step->prepare(program->device->kernels, host_of(program), step->op);
    }
    return DEMIST_OK;
}

/* --- observe, profile --- */

demist_observability cpu_observability(demist_program *program, int32_t id, int32_t *inside)
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

static struct cpu_observer *observer_of(demist_binding *b, int32_t id)
{
    for (int32_t i = 0; i < b->n_observers; i++)
        if (b->observers[i].node == id)
            return &b->observers[i];
    return NULL;
}

static demist_status add_observer(demist_binding *b, int32_t id, struct cpu_observer **observer)
{
    const demist_host *host = host_of(b->program);
    const demist_view *from = &b->program->values[id].view;
    const demist_view to = demist_view_dense(from->storage, from->batched, from->rank, from->shape);
    struct cpu_copy *copy = host->alloc(host, cpu_copy_size(), 0);
    if (!copy)
        return DEMIST_NO_MEMORY;
    *observer = &b->observers[b->n_observers++];
    **observer = (struct cpu_observer){.node = id, .copy = cpu_copy_init(copy, &to, from)};
    return DEMIST_OK;
}

demist_status cpu_observe(demist_binding *binding, int32_t id, demist_buffer *buffer)
{
    demist_program *p = binding->program;
    int32_t inside;
    CPU_TRY(demist_check_observe(host_of(p), p->flags, id, p->n_values,
                                 cpu_observability(p, id, &inside)));
    struct cpu_observer *observer = observer_of(binding, id);
    if (buffer)
        CPU_TRY(check_buffer(p, id, buffer));
    if (buffer && !observer)
        CPU_TRY(add_observer(binding, id, &observer));
    if (observer)
        observer->buffer = buffer;
    return DEMIST_OK;
}

demist_status cpu_profile(demist_program *program, const demist_node_profile *const **profiles,
                          int32_t *n)
{
    CPU_TRY(demist_check_profile(host_of(program), program->flags));
    *profiles = program->profiles;
    *n = program->n_values;
    return DEMIST_OK;
}

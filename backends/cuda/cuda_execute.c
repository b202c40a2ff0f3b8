/* Bindings and executions. The first execution of a program is queued kernel by kernel, which loads
 * them: that is no thing to do within a capture. From then on, the first one of so many images with
 * a binding is captured as one CUDA graph, and later ones replay it: its launches have addresses
 * and counts in them, and read times, coefficients and draw numbers from the scalar slots, which
 * are set in front of it. Nothing is allocated and nothing waited for, but between steps where
 * times are kept. */
#include "cuda_library.h"

#include <demist/checks.h>

#include <string.h>

static const demist_host *host_of(const demist_program *p)
{
    return p->device->host;
}

/* --- one launch --- */

struct run {
    const demist_program *program;
    cudaStream_t stream;
    char *const *bases; /* by storage */
    int64_t images;
};

demist_status cu_queue_launch(const demist_program *p, cudaStream_t stream,
                              const struct cu_launch *l, char *const *bases, int64_t images)
{
    union {
        max_align_t align;
        unsigned char bytes[CU_ARGUMENTS];
    } arguments;
    memcpy(arguments.bytes, l->arguments, l->bytes);
    for (int32_t i = 0; i < l->n_fixes; i++) {
        const struct cu_fix *f = &l->fixes[i];
        unsigned char *field = arguments.bytes + f->at;
        const void *pointer = p->slots;
        if (f->kind == CU_FIX_COUNT) {
            const int32_t count = (int32_t)cu_value(f->count, images);
            memcpy(field, &count, sizeof count);
            continue;
        }
        if (f->kind != CU_FIX_SLOTS) {
            const enum cu_type type =
                f->storage < p->n_storages ? p->storages[f->storage].type : CU_F32;
            pointer = bases[f->storage] + f->offset * (int64_t)cu_size_of(type);
        }
        memcpy(field, &pointer, sizeof pointer);
    }
    const struct cu_call *call = l->library && images == p->max_batch ? l->library->call : NULL;
    if (call)
        return cu_run_call(p, stream, l, call, (const struct cu_product *)arguments.bytes, bases);
    char what[160];
    const cudaError_t error = l->run(stream, arguments.bytes);
    if (error == cudaSuccess)
        return DEMIST_OK;
    snprintf(what, sizeof what, "node '%.100s', kernel %s", p->values[l->node].name, l->kernel);
    return cu_checked(p->device, error, "cudaLaunchKernelEx", __FILE__, __LINE__, what);
}

static demist_status run_launch(const struct run *run, const struct cu_launch *l)
{
    return cu_queue_launch(run->program, run->stream, l, run->bases, run->images);
}

/* --- bind --- */

static demist_status check_buffer(const demist_program *p, int32_t node,
                                  const demist_buffer *buffer)
{
    const struct cu_value *value = &p->values[node];
    const bool usable = buffer && buffer->device == p->device;
    return demist_check_buffer(host_of(p), value->name, p->max_batch,
                               demist_value_bytes(value->rank, value->shape, p->max_batch),
                               usable ? (int64_t)buffer->bytes : -1);
}

static demist_status check_buffers(const demist_program *p, demist_buffer *const *buffers,
                                   int32_t n)
{
    CU_TRY(demist_check_buffer_count(host_of(p), n, p->n_inputs, p->n_outputs));
    for (int32_t i = 0; i < n; i++) {
        const bool output = i >= p->n_inputs;
        const int32_t node = output ? p->output_nodes[i - p->n_inputs] : p->input_nodes[i];
        CU_TRY(check_buffer(p, node, buffers[i]));
        if (output)
            CU_TRY(demist_check_own_buffer(host_of(p), p->values[node].name, buffers, i));
    }
    return DEMIST_OK;
}

static char *base_of(const demist_program *p, const struct cu_storage *s,
                     demist_buffer *const *buffers)
{
    switch (s->place) {
    case CU_INPUT:
        return buffers ? buffers[s->where]->memory : NULL;
    case CU_OUTPUT:
        return buffers ? buffers[p->n_inputs + s->where]->memory : NULL;
    case CU_FIXED:
        return (char *)p->fixed + s->where;
    case CU_RAW:
        return (char *)p->raw + s->where;
    case CU_COPY:
        return (char *)p->copies + s->where;
    case CU_ARENA:
        break;
    }
    return (char *)p->arena + s->where;
}

demist_status cu_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                      demist_binding **binding)
{
    const demist_host *host = host_of(program);
    CU_TRY(check_buffers(program, buffers, n));
    demist_binding *b = host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    memset(b, 0, sizeof *b);
    b->program = program;
    const size_t observers = sizeof *b->observers * ((size_t)program->n_values + 1);
    b->bases = host->alloc(host, sizeof *b->bases * ((size_t)program->n_storages + 1), 0);
    b->observers = b->bases ? host->alloc(host, observers, 0) : NULL;
    if (!b->observers) {
        cu_binding_destroy(b);
        return DEMIST_NO_MEMORY;
    }
    memset(b->observers, 0, observers);
    for (int32_t i = 0; i < program->n_storages; i++)
        b->bases[i] = base_of(program, &program->storages[i], buffers);
    *binding = b;
    return DEMIST_OK;
}

void cu_binding_destroy(demist_binding *binding)
{
    if (!binding)
        return;
    const demist_host *host = host_of(binding->program);
    cudaSetDevice(binding->program->device->ordinal);
    for (int i = 0; i < CU_GRAPHS; i++)
        if (binding->graphs[i].exec)
            cudaGraphExecDestroy(binding->graphs[i].exec);
    for (int32_t i = 0; i < binding->n_observers; i++) {
        host->free(host, binding->observers[i].copy.arguments);
        host->free(host, binding->observers[i].copy.fixes);
    }
    host->free(host, binding->observers);
    host->free(host, binding->bases);
    host->free(host, binding);
}

/* --- execute --- */

static demist_status check_call(const demist_binding *b, const demist_scalar *scalars, int64_t n)
{
    const demist_program *p = b->program;
    CU_TRY(demist_check_execute(host_of(p), n, p->max_batch, scalars, p->n_scalars));
    for (int32_t i = 0; i < p->n_params; i++)
        CU_TRY(
            demist_check_filled(host_of(p), p->values[p->param_nodes[i]].name, p->param_filled[i]));
    for (int32_t i = 0; i < p->n_philox; i++) {
        const struct cu_value *value = &p->values[p->philox_nodes[i]];
        CU_TRY(demist_check_draws(host_of(p), value->name, value->op, &p->philox_attrs[i], scalars,
                                  n));
    }
    return DEMIST_OK;
}

static demist_status set_slots(const struct run *run, const demist_scalar *scalars)
{
    const demist_program *p = run->program;
    return cu_put_words(p->device, run->stream, p->slots, scalars,
                        sizeof *scalars * (size_t)p->n_scalars);
}

/* Copies the values that are there after step `step`. */
static demist_status observe_after(const struct run *run, const demist_binding *b, int32_t step)
{
    const demist_program *p = b->program;
    for (int32_t i = 0; i < b->n_observers; i++) {
        const struct cu_observer *o = &b->observers[i];
        if (!o->buffer || p->values[o->node].ready != step)
            continue;
        b->bases[p->n_storages] = o->buffer->memory;
        CU_TRY(run_launch(run, &o->copy));
    }
    return DEMIST_OK;
}

static demist_status run_steps(const struct run *run, const demist_binding *b)
{
    const demist_program *p = run->program;
    CU_TRY(observe_after(run, b, -1));
    for (int32_t i = 0; i < p->steps.n; i++) {
        CU_TRY(run_launch(run, &p->steps.list[i]));
        CU_TRY(observe_after(run, b, i));
    }
    return DEMIST_OK;
}

/* The same, with a pair of events around each step. */
static demist_status run_timed(const struct run *run, const demist_binding *b)
{
    demist_program *p = b->program;
    cudaEvent_t begin, end;
    CU_CALL(p->device, cudaEventCreateWithFlags(&begin, cudaEventDefault));
    const cudaError_t created = cudaEventCreateWithFlags(&end, cudaEventDefault);
    if (created != cudaSuccess) {
        cudaEventDestroy(begin);
        return cu_checked(p->device, created, "cudaEventCreateWithFlags", __FILE__, __LINE__, NULL);
    }
    demist_status status = observe_after(run, b, -1);
    for (int32_t i = 0; i < p->steps.n && status == DEMIST_OK; i++) {
        float ms = 0;
        cudaError_t error = cudaEventRecord(begin, run->stream);
        status = run_launch(run, &p->steps.list[i]);
        if (error == cudaSuccess)
            error = cudaEventRecord(end, run->stream);
        if (error == cudaSuccess)
            error = cudaEventSynchronize(end);
        if (error == cudaSuccess)
            error = cudaEventElapsedTime(&ms, begin, end);
        if (status == DEMIST_OK)
            status = cu_checked(p->device, error, "cudaEventElapsedTime", __FILE__, __LINE__, NULL);
        if (status == DEMIST_OK)
            status = observe_after(run, b, i);
        p->profile[p->steps.list[i].node].seconds += 1e-3 * (double)ms;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    for (int32_t i = 0; i < p->n_values; i++)
        p->profile[i].calls++;
    return status;
}

/* --- graphs --- */

static demist_status capture(const struct run *run, const demist_binding *b, cudaGraphExec_t *exec)
{
    demist_device *d = b->program->device;
    cudaGraph_t graph = NULL;
    CU_CALL(d, cudaStreamBeginCapture(run->stream, cudaStreamCaptureModeThreadLocal));
    const demist_status status = run_steps(run, b);
    const cudaError_t ended = cudaStreamEndCapture(run->stream, &graph);
    if (status == DEMIST_OK && ended == cudaSuccess) {
        const cudaError_t error = cudaGraphInstantiate(exec, graph, 0);
        cudaGraphDestroy(graph);
        return cu_checked(d, error, "cudaGraphInstantiate", __FILE__, __LINE__, NULL);
    }
    if (graph)
        cudaGraphDestroy(graph);
    if (status != DEMIST_OK) {
        cudaGetLastError();
        return status;
    }
    return cu_checked(d, ended, "cudaStreamEndCapture", __FILE__, __LINE__, NULL);
}

/* The graph of so many images, captured if there is none; the oldest one gives way. A graph that is
 * still running lives on until it is done. */
static demist_status graph_of(const struct run *run, demist_binding *b, cudaGraphExec_t *exec)
{
    for (int i = 0; i < CU_GRAPHS; i++)
        if (b->graphs[i].exec && b->graphs[i].images == run->images) {
            *exec = b->graphs[i].exec;
            return DEMIST_OK;
        }
    CU_TRY(capture(run, b, exec));
    struct cu_graph *slot = &b->graphs[b->next_graph];
    b->next_graph = (b->next_graph + 1) % CU_GRAPHS;
    if (slot->exec)
        cudaGraphExecDestroy(slot->exec);
    *slot = (struct cu_graph){run->images, *exec};
    return DEMIST_OK;
}

static bool is_observed(const demist_binding *b)
{
    for (int32_t i = 0; i < b->n_observers; i++)
        if (b->observers[i].buffer)
            return true;
    return false;
}

demist_status cu_execute(demist_queue *queue, demist_binding *binding, const demist_scalar *scalars,
                         int64_t n_images)
{
    demist_program *p = binding->program;
    demist_device *d = p->device;
    CU_TRY(check_call(binding, scalars, n_images));
    CU_TRY(cu_use(d));
    const struct run run = {p, queue->stream, binding->bases, n_images};
    CU_TRY(set_slots(&run, scalars));
    if (p->flags & DEMIST_COMPILE_PROFILE)
        return run_timed(&run, binding);
    if (!p->ran || !d->settings.graphs || is_observed(binding) || p->steps.n == 0) {
        p->ran = true;
        return run_steps(&run, binding);
    }
    cudaGraphExec_t exec;
    CU_TRY(graph_of(&run, binding, &exec));
    CU_CALL(d, cudaGraphLaunch(exec, run.stream));
    return DEMIST_OK;
}

/* --- parameters --- */

demist_status cu_run_once(demist_queue *queue, demist_program *p)
{
    if (p->once.n == 0)
        return DEMIST_OK;
    const size_t bytes = sizeof(char *) * (size_t)p->n_storages;
    char **bases = host_of(p)->alloc(host_of(p), bytes, 0);
    if (!bases)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < p->n_storages; i++)
        bases[i] = base_of(p, &p->storages[i], NULL);
    const struct run run = {p, queue->stream, bases, p->max_batch};
    demist_status status = cu_use(p->device);
    for (int32_t i = 0; i < p->once.n && status == DEMIST_OK; i++)
        status = run_launch(&run, &p->once.list[i]);
    host_of(p)->free(host_of(p), bases);
    return status;
}

demist_status cu_update_params(demist_queue *queue, demist_program *program, int32_t n,
                               const int32_t *params, const void *const *data)
{
    bool filled = true;
    CU_TRY(demist_check_update(host_of(program), program->flags, n, params, program->n_params));
    for (int32_t i = 0; i < n; i++) {
        const demist_view *view = &program->values[program->param_nodes[params[i]]].view;
        const struct cu_storage *s = &program->storages[view->storage];
        CU_TRY(cu_to_device(queue, base_of(program, s, NULL), data[i], (size_t)s->elements * 4));
        program->param_filled[params[i]] = true;
    }
    for (int32_t i = 0; i < program->n_params; i++)
        filled = filled && program->param_filled[i];
    return filled ? cu_run_once(queue, program) : DEMIST_OK;
}

/* --- observe, profile --- */

demist_observability cu_observability(demist_program *program, int32_t id, int32_t *inside)
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

static struct cu_observer *observer_of(demist_binding *b, int32_t id)
{
    for (int32_t i = 0; i < b->n_observers; i++)
        if (b->observers[i].node == id)
            return &b->observers[i];
    return NULL;
}

static demist_status add_observer(demist_binding *b, int32_t id, struct cu_observer **observer)
{
    const demist_program *p = b->program;
    const demist_view *from = &p->values[id].view;
    const demist_view to = demist_view_dense(p->n_storages, from->batched, from->rank, from->shape);
    struct cu_draft draft;
    CU_TRY(cu_copy_out(p, id, &to, from, &draft));
    struct cu_launch copy = draft.launch;
    const size_t bytes = sizeof *copy.fixes * (size_t)copy.n_fixes;
    copy.arguments = host_of(p)->alloc(host_of(p), copy.bytes, 0);
    copy.fixes = copy.arguments ? host_of(p)->alloc(host_of(p), bytes, 0) : NULL;
    if (!copy.fixes) {
        host_of(p)->free(host_of(p), copy.arguments);
        return DEMIST_NO_MEMORY;
    }
    memcpy(copy.arguments, draft.launch.arguments, copy.bytes);
    memcpy(copy.fixes, draft.launch.fixes, bytes);
    *observer = &b->observers[b->n_observers++];
    **observer = (struct cu_observer){.node = id, .copy = copy};
    return DEMIST_OK;
}

demist_status cu_observe(demist_binding *binding, int32_t id, demist_buffer *buffer)
{
    demist_program *p = binding->program;
    int32_t inside;
    CU_TRY(demist_check_observe(host_of(p), p->flags, id, p->n_values,
                                cu_observability(p, id, &inside)));
    struct cu_observer *observer = observer_of(binding, id);
    if (buffer)
        CU_TRY(check_buffer(p, id, buffer));
    if (buffer && !observer)
        CU_TRY(add_observer(binding, id, &observer));
    if (observer)
        observer->buffer = buffer;
    return DEMIST_OK;
}

demist_status cu_profile(demist_program *program, const demist_node_profile *const **profiles,
                         int32_t *n)
{
    CU_TRY(demist_check_profile(host_of(program), program->flags));
    *profiles = program->profiles;
    *n = program->n_values;
    return DEMIST_OK;
}

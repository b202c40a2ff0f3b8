#include "mock_backend.h"

#include <demist/random.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_DEVICES = 2, MAX_INPUTS = 8 };

struct backend {
    const demist_host *host;
    int32_t chosen; /* option `device` */
};

struct demist_device {
    const demist_host *host;
    const demist_device_info *info;
};

struct demist_buffer {
    const demist_host *host;
    size_t bytes;
    unsigned char *data;
};

struct demist_event {
    demist_queue *source;
    bool done;
    int users; /* the caller and queued commands */
};

enum command_type { WRITE, COPY, RECORD, WAIT, PARAMS, EXECUTE };

struct command {
    struct command *next;
    enum command_type type;
    demist_buffer *dst, *src;
    size_t dst_offset, src_offset, bytes;
    unsigned char *data; /* copied from the caller; owned */
    demist_event *event;
    float *param; /* PARAMS: where it goes */
    demist_binding *binding;
    int64_t n_images;
};

struct demist_queue {
    demist_device *device;
    struct command *first, **last;
};

/* A node, copied: the graph lives only until compile returns. */
struct value {
    demist_op op;
    demist_dtype dtype;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    int32_t n_inputs;
    int32_t inputs[MAX_INPUTS];
    demist_attrs attrs;
    int64_t offset; /* in the arena, −1: not there */
    void *data;     /* PARAM, CONSTANT: owned */
    int32_t edge;   /* INPUT: its place among the buffers, −1 */
};

struct demist_program {
    const demist_host *host;
    struct value *values;
    int32_t n_values, n_inputs, n_outputs, n_params, n_scalars;
    int32_t *outputs; /* value ids */
    int32_t *params;  /* value ids */
    int64_t max_batch, arena_bytes, param_bytes;
    bool is_mutable;
    unsigned char *arena;
};

/* A value with memory, for one number of images. */
struct view {
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK], n;
    union {
        float *f;
        int32_t *i;
        unsigned char *bytes;
    };
};

struct step {
    demist_op op;
    demist_attrs attrs;
    int32_t n_in;
    struct view in[MAX_INPUTS], out;
};

struct demist_binding {
    demist_program *program;
    demist_buffer **buffers;
    struct step *steps; /* captured for n_images; NULL: not yet */
    int32_t n_steps;
    int64_t n_images;
    int captures;
};

int mock_captures(const demist_binding *binding)
{
    return binding->captures;
}

/* --- the backend and its devices --- */

static const demist_device_info info0 = {
    sizeof info0, "mock 0", DEMIST_DEVICE_ACCELERATOR, "mock 1", "", 1 << 20, NULL};
static const demist_device_info info1 = {
    sizeof info1, "mock 1", DEMIST_DEVICE_ACCELERATOR, "mock 1", "", 1 << 20, NULL};
static const demist_device_info *const all_infos[N_DEVICES] = {&info0, &info1};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct backend *backend = host->alloc(host, sizeof *backend, 0);
    if (!backend)
        return DEMIST_NO_MEMORY;
    *backend = (struct backend){host, 0};
    *self = backend;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct backend *backend = self;
    if (backend)
        backend->host->free(backend->host, backend);
}

static demist_status devices(void *self, const demist_device_info *const **infos, int32_t *n)
{
    *infos = all_infos;
    *n = N_DEVICES;
    return DEMIST_OK;
}

static demist_status open_device(void *self, int32_t index, demist_device **device)
{
    struct backend *backend = self;
    const demist_host *host = backend->host;
    if (index < -1 || index >= N_DEVICES)
        return host->fail(host, DEMIST_NOT_FOUND, "there are %d devices, and no number %d",
                          N_DEVICES, (int)index);
    *device = host->alloc(host, sizeof **device, 0);
    if (!*device)
        return DEMIST_NO_MEMORY;
    **device = (demist_device){host, all_infos[index < 0 ? backend->chosen : index]};
    return DEMIST_OK;
}

static void close_device(demist_device *device)
{
    if (device)
        device->host->free(device->host, device);
}

static bool has_precision(demist_device *device, demist_precision precision)
{
    return precision == DEMIST_PRECISION_F32 || precision == DEMIST_PRECISION_STRICT;
}

static const demist_device_info *device_info(demist_device *device)
{
    return device->info;
}

/* --- buffers --- */

static demist_status buffer_create(demist_device *device, size_t bytes, demist_buffer **buffer)
{
    const demist_host *host = device->host;
    demist_buffer *b = host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (demist_buffer){host, bytes, host->alloc(host, bytes ? bytes : 1, 0)};
    if (!b->data) {
        host->free(host, b);
        return DEMIST_NO_MEMORY;
    }
    memset(b->data, 0xff, bytes); /* NaN: what was never written shows */
    *buffer = b;
    return DEMIST_OK;
}

static void buffer_destroy(demist_buffer *buffer)
{
    if (!buffer)
        return;
    const demist_host *host = buffer->host;
    host->free(host, buffer->data);
    host->free(host, buffer);
}

/* --- queues: commands wait until somebody does --- */

static demist_status queue_create(demist_device *device, demist_queue **queue)
{
    demist_queue *q = device->host->alloc(device->host, sizeof *q, 0);
    if (!q)
        return DEMIST_NO_MEMORY;
    *q = (demist_queue){device, NULL, NULL};
    q->last = &q->first;
    *queue = q;
    return DEMIST_OK;
}

static demist_status enqueue(demist_queue *queue, struct command command, const void *data,
                             size_t data_bytes)
{
    const demist_host *host = queue->device->host;
    struct command *copy = host->alloc(host, sizeof *copy, 0);
    if (!copy)
        return DEMIST_NO_MEMORY;
    *copy = command;
    copy->next = NULL;
    copy->data = host->alloc(host, data_bytes ? data_bytes : 1, 0);
    if (!copy->data) {
        host->free(host, copy);
        return DEMIST_NO_MEMORY;
    }
    if (data_bytes)
        memcpy(copy->data, data, data_bytes);
    *queue->last = copy;
    queue->last = &copy->next;
    return DEMIST_OK;
}

static void release_event(const demist_host *host, demist_event *event)
{
    if (event && --event->users == 0)
        host->free(host, event);
}

static demist_status replay(demist_binding *binding, const demist_scalar *scalars, int64_t n);

static demist_status run_one(demist_queue *queue)
{
    const demist_host *host = queue->device->host;
    struct command *c = queue->first;
    demist_status status = DEMIST_OK;
    queue->first = c->next;
    if (!queue->first)
        queue->last = &queue->first;
    switch (c->type) {
    case WRITE:
        memcpy(c->dst->data + c->dst_offset, c->data, c->bytes);
        break;
    case COPY:
        memmove(c->dst->data + c->dst_offset, c->src->data + c->src_offset, c->bytes);
        break;
    case RECORD:
        c->event->done = true;
        break;
    case WAIT:
        while (!c->event->done && c->event->source->first && status == DEMIST_OK)
            status = run_one(c->event->source);
        break;
    case PARAMS:
        memcpy(c->param, c->data, c->bytes);
        break;
    case EXECUTE:
        status = replay(c->binding, (const demist_scalar *)(void *)c->data, c->n_images);
        break;
    }
    release_event(host, c->event);
    host->free(host, c->data);
    host->free(host, c);
    return status;
}

static demist_status synchronize(demist_queue *queue)
{
    demist_status first = DEMIST_OK;
    while (queue->first) {
        demist_status status = run_one(queue);
        if (first == DEMIST_OK)
            first = status;
    }
    return first;
}

static void queue_destroy(demist_queue *queue)
{
    if (!queue)
        return;
    synchronize(queue);
    queue->device->host->free(queue->device->host, queue);
}

static demist_status check_range(demist_queue *queue, const demist_buffer *buffer, size_t offset,
                                 size_t bytes)
{
    const demist_host *host = queue->device->host;
    if (offset > buffer->bytes || bytes > buffer->bytes - offset)
        return host->fail(host, DEMIST_INVALID, "%zu bytes at %zu of a buffer of %zu", bytes,
                          offset, buffer->bytes);
    return DEMIST_OK;
}

static demist_status buffer_write(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                  const void *src, size_t bytes)
{
    demist_status status = check_range(queue, buffer, offset, bytes);
    if (status != DEMIST_OK)
        return status;
    struct command write = {.type = WRITE, .dst = buffer, .dst_offset = offset, .bytes = bytes};
    return enqueue(queue, write, src, bytes);
}

static demist_status buffer_read(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                 void *dst, size_t bytes)
{
    demist_status status = check_range(queue, buffer, offset, bytes);
    if (status == DEMIST_OK)
        status = synchronize(queue);
    if (status == DEMIST_OK)
        memcpy(dst, buffer->data + offset, bytes);
    return status;
}

static demist_status buffer_copy(demist_queue *queue, demist_buffer *dst, size_t dst_offset,
                                 demist_buffer *src, size_t src_offset, size_t bytes)
{
    demist_status status = check_range(queue, dst, dst_offset, bytes);
    if (status == DEMIST_OK)
        status = check_range(queue, src, src_offset, bytes);
    if (status != DEMIST_OK)
        return status;
    struct command copy = {.type = COPY,
                           .dst = dst,
                           .src = src,
                           .dst_offset = dst_offset,
                           .src_offset = src_offset,
                           .bytes = bytes};
    return enqueue(queue, copy, NULL, 0);
}

static demist_status event_record(demist_queue *queue, demist_event **event)
{
    const demist_host *host = queue->device->host;
    demist_event *e = host->alloc(host, sizeof *e, 0);
    if (!e)
        return DEMIST_NO_MEMORY;
    *e = (demist_event){queue, false, 2};
    struct command record = {.type = RECORD, .event = e};
    demist_status status = enqueue(queue, record, NULL, 0);
    if (status != DEMIST_OK)
        host->free(host, e);
    else
        *event = e;
    return status;
}

static demist_status event_wait(demist_queue *queue, demist_event *event)
{
    struct command wait = {.type = WAIT, .event = event};
    event->users++;
    return enqueue(queue, wait, NULL, 0);
}

static void event_destroy(demist_event *event)
{
    if (event)
        release_event(event->source->device->host, event);
}

/* --- compiling --- */

static const demist_op known_ops[] = {
    DEMIST_OP_INPUT,        DEMIST_OP_PARAM,   DEMIST_OP_CONSTANT,  DEMIST_OP_SCALAR,
    DEMIST_OP_NEG,          DEMIST_OP_TANH,    DEMIST_OP_RELU,      DEMIST_OP_AFFINE,
    DEMIST_OP_ADD,          DEMIST_OP_SUB,     DEMIST_OP_MUL,       DEMIST_OP_LESS,
    DEMIST_OP_SUM,          DEMIST_OP_MEAN,    DEMIST_OP_BATCH_SUM, DEMIST_OP_LINEAR,
    DEMIST_OP_MATMUL,       DEMIST_OP_RESHAPE, DEMIST_OP_CONCAT,    DEMIST_OP_EMBEDDING,
    DEMIST_OP_PHILOX_NORMAL};

static bool supports(demist_device *device, const demist_node *node, const char **why)
{
    for (size_t i = 0; i < sizeof known_ops / sizeof *known_ops; i++)
        if (known_ops[i] == node->op && node->n_inputs <= MAX_INPUTS)
            return true;
    *why = "the mock does not know this op";
    return false;
}

static int64_t count_elements(const struct value *value, int64_t batch)
{
    int64_t n = 1;
    for (int32_t i = 0; i < value->rank; i++)
        n *= value->shape[i] == DEMIST_BATCH ? batch : value->shape[i];
    return n;
}

static void program_destroy(demist_program *program)
{
    if (!program)
        return;
    const demist_host *host = program->host;
    for (int32_t i = 0; program->values && i < program->n_values; i++)
        host->free(host, program->values[i].data);
    host->free(host, program->values);
    host->free(host, program->outputs);
    host->free(host, program->params);
    host->free(host, program->arena);
    host->free(host, program);
}

static void *alloc_zeroed(const demist_host *host, size_t n, size_t size)
{
    void *memory = host->alloc(host, n * size + 1, 0);
    if (memory)
        memset(memory, 0, n * size + 1);
    return memory;
}

static demist_status copy_value(demist_program *program, const demist_node *node, int32_t id)
{
    const demist_host *host = program->host;
    struct value *value = &program->values[id];
    *value = (struct value){.op = node->op,
                            .dtype = node->dtype,
                            .rank = node->rank,
                            .n_inputs = node->n_inputs,
                            .attrs = node->attrs,
                            .offset = -1,
                            .edge = -1};
    memcpy(value->shape, node->shape, sizeof value->shape);
    for (int32_t i = 0; i < node->n_inputs; i++)
        value->inputs[i] = node->inputs[i]->id;
    if (node->op != DEMIST_OP_PARAM && node->op != DEMIST_OP_CONSTANT)
        return DEMIST_OK;
    size_t bytes = (size_t)count_elements(value, 1) * 4;
    value->data = host->alloc(host, bytes, 0);
    if (!value->data)
        return DEMIST_NO_MEMORY;
    memcpy(value->data, node->data, bytes);
    if (node->op == DEMIST_OP_PARAM) {
        program->params[node->param_index] = id;
        program->param_bytes += (int64_t)bytes;
    }
    return DEMIST_OK;
}

/* Intermediate values share memory where their lives do not overlap. */
static demist_status plan_arena(demist_program *program)
{
    const demist_host *host = program->host;
    demist_block *blocks = alloc_zeroed(host, (size_t)program->n_values, sizeof *blocks);
    if (!blocks)
        return DEMIST_NO_MEMORY;
    for (int32_t id = 0; id < program->n_values; id++) {
        const struct value *value = &program->values[id];
        blocks[id].first = blocks[id].last = id;
        blocks[id].bytes = count_elements(value, program->max_batch) * 4;
        for (int32_t i = 0; i < value->n_inputs; i++)
            blocks[value->inputs[i]].last = id;
    }
    for (int32_t i = 0; i < program->n_outputs; i++)
        blocks[program->outputs[i]].last = program->n_values;
    program->arena_bytes = host->plan_memory(host, blocks, (size_t)program->n_values, 64);
    for (int32_t id = 0; id < program->n_values; id++)
        program->values[id].offset = blocks[id].offset;
    host->free(host, blocks);
    if (program->arena_bytes < 0)
        return DEMIST_NO_MEMORY;
    program->arena = host->alloc(host, (size_t)program->arena_bytes + 1, 64);
    return program->arena ? DEMIST_OK : DEMIST_NO_MEMORY;
}

static demist_status fill_program(demist_program *program, const demist_graph *graph)
{
    const demist_host *host = program->host;
    program->values = alloc_zeroed(host, (size_t)graph->n_nodes, sizeof *program->values);
    program->outputs = alloc_zeroed(host, (size_t)graph->n_outputs, sizeof *program->outputs);
    program->params = alloc_zeroed(host, (size_t)graph->n_params, sizeof *program->params);
    if (!program->values || !program->outputs || !program->params)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        demist_status status = copy_value(program, graph->nodes[i], i);
        if (status != DEMIST_OK)
            return status;
    }
    for (int32_t i = 0; i < graph->n_inputs; i++)
        program->values[graph->inputs[i]->id].edge = i;
    for (int32_t i = 0; i < graph->n_outputs; i++)
        program->outputs[i] = graph->outputs[i]->id;
    return plan_arena(program);
}

static demist_status compile(demist_device *device, const demist_graph *graph,
                             const demist_compile_info *info, demist_program **program)
{
    const demist_host *host = device->host;
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const char *why;
        if (!supports(device, graph->nodes[i], &why))
            return host->fail(host, DEMIST_UNSUPPORTED, "node '%s' (%s): %s", graph->nodes[i]->name,
                              demist_op_name(graph->nodes[i]->op), why);
    }
    demist_program *p = alloc_zeroed(host, 1, sizeof *p);
    if (!p)
        return DEMIST_NO_MEMORY;
    p->host = host;
    p->n_values = graph->n_nodes;
    p->n_inputs = graph->n_inputs;
    p->n_outputs = graph->n_outputs;
    p->n_params = graph->n_params;
    p->n_scalars = graph->n_scalars;
    p->max_batch = info->max_batch;
    p->is_mutable = !(info->flags & DEMIST_COMPILE_FROZEN);
    demist_status status = fill_program(p, graph);
    if (status != DEMIST_OK)
        program_destroy(p);
    else
        *program = p;
    return status;
}

static demist_status program_info(demist_program *program, demist_program_info *info)
{
    info->param_bytes = program->param_bytes;
    info->arena_bytes = program->arena_bytes;
    return DEMIST_OK;
}

static demist_status update_params(demist_queue *queue, demist_program *program, int32_t n,
                                   const int32_t *params, const void *const *data)
{
    const demist_host *host = program->host;
    if (!program->is_mutable)
        return host->fail(host, DEMIST_INVALID, "the parameters of this program are frozen");
    for (int32_t i = 0; i < n; i++) {
        if (params[i] < 0 || params[i] >= program->n_params)
            return host->fail(host, DEMIST_INVALID, "there is no parameter %d", (int)params[i]);
        struct value *value = &program->values[program->params[params[i]]];
        size_t bytes = (size_t)count_elements(value, 1) * 4;
        struct command update = {.type = PARAMS, .param = value->data, .bytes = bytes};
        demist_status status = enqueue(queue, update, data[i], bytes);
        if (status != DEMIST_OK)
            return status;
    }
    return DEMIST_OK;
}

/* --- executing --- */

static demist_status bind_program(demist_program *program, demist_buffer *const *buffers, int32_t n,
                                  demist_binding **binding)
{
    const demist_host *host = program->host;
    if (n != program->n_inputs + program->n_outputs)
        return host->fail(host, DEMIST_INVALID, "%d buffers for %d inputs and %d outputs", (int)n,
                          (int)program->n_inputs, (int)program->n_outputs);
    demist_binding *b = alloc_zeroed(host, 1, sizeof *b);
    if (!b)
        return DEMIST_NO_MEMORY;
    b->program = program;
    b->buffers = alloc_zeroed(host, (size_t)n, sizeof(demist_buffer *));
    b->steps = alloc_zeroed(host, (size_t)program->n_values, sizeof *b->steps);
    if (!b->buffers || !b->steps) {
        host->free(host, b->buffers);
        host->free(host, b->steps);
        host->free(host, b);
        return DEMIST_NO_MEMORY;
    }
    for (int32_t i = 0; i < n; i++)
        b->buffers[i] = buffers[i];
    *binding = b;
    return DEMIST_OK;
}

static void binding_destroy(demist_binding *binding)
{
    if (!binding)
        return;
    const demist_host *host = binding->program->host;
    host->free(host, binding->buffers);
    host->free(host, binding->steps);
    host->free(host, binding);
}

static demist_status execute(demist_queue *queue, demist_binding *binding,
                             const demist_scalar *scalars, int64_t n_images)
{
    const demist_program *program = binding->program;
    if (n_images < 1 || n_images > program->max_batch)
        return program->host->fail(program->host, DEMIST_INVALID,
                                   "%lld images for a program of at most %lld", (long long)n_images,
                                   (long long)program->max_batch);
    struct command run = {.type = EXECUTE, .binding = binding, .n_images = n_images};
    return enqueue(queue, run, scalars, (size_t)program->n_scalars * sizeof *scalars);
}

static struct view view_value(const demist_binding *binding, int32_t id, int64_t n_images)
{
    const struct value *value = &binding->program->values[id];
    struct view view = {.rank = value->rank, .n = count_elements(value, n_images)};
    for (int32_t i = 0; i < value->rank; i++)
        view.shape[i] = value->shape[i] == DEMIST_BATCH ? n_images : value->shape[i];
    view.bytes = value->data        ? value->data
                 : value->edge >= 0 ? binding->buffers[value->edge]->data
                                    : binding->program->arena + value->offset;
    return view;
}

/* Addresses and sizes are fixed once for a number of images: what remains per execution is the
 * arithmetic and the scalars. */
static void capture(demist_binding *binding, int64_t n_images)
{
    const demist_program *program = binding->program;
    binding->n_steps = 0;
    for (int32_t id = 0; id < program->n_values; id++) {
        const struct value *value = &program->values[id];
        if (value->data || value->edge >= 0)
            continue;
        struct step *step = &binding->steps[binding->n_steps++];
        *step = (struct step){.op = value->op,
                              .attrs = value->attrs,
                              .n_in = value->n_inputs,
                              .out = view_value(binding, id, n_images)};
        for (int32_t i = 0; i < value->n_inputs; i++)
            step->in[i] = view_value(binding, value->inputs[i], n_images);
    }
    binding->n_images = n_images;
    binding->captures++;
}

/* The element of `in` that broadcasts to element i of `out`. */
static int64_t broadcast_index(const struct view *in, const struct view *out, int64_t i)
{
    int64_t index = 0, stride = 1;
    for (int32_t d = 1; d <= out->rank; d++) {
        int64_t at = i % out->shape[out->rank - d];
        i /= out->shape[out->rank - d];
        if (d > in->rank)
            continue;
        if (in->shape[in->rank - d] > 1)
            index += at * stride;
        stride *= in->shape[in->rank - d];
    }
    return index;
}

static float elementwise(const struct step *s, int64_t i)
{
    float a = s->in[0].f[broadcast_index(&s->in[0], &s->out, i)];
    float b = s->n_in > 1 ? s->in[1].f[broadcast_index(&s->in[1], &s->out, i)] : 0;
    switch ((int)s->op) {
    case DEMIST_OP_NEG:
        return -a;
    case DEMIST_OP_TANH:
        return tanhf(a);
    case DEMIST_OP_RELU:
        return a > 0 ? a : 0;
    case DEMIST_OP_AFFINE:
        return s->attrs.affine.a * a + s->attrs.affine.b;
    case DEMIST_OP_ADD:
        return a + b;
    case DEMIST_OP_SUB:
        return a - b;
    case DEMIST_OP_MUL:
        return a * b;
    case DEMIST_OP_LESS:
        return a < b;
    }
    return NAN;
}

/* SUM, MEAN, BATCH_SUM: adds every element to the one that it falls on. */
static void reduce(const struct step *s)
{
    memset(s->out.f, 0, (size_t)s->out.n * sizeof *s->out.f);
    for (int64_t i = 0; i < s->in[0].n; i++)
        s->out.f[broadcast_index(&s->out, &s->in[0], i)] += s->in[0].f[i];
    int64_t terms = s->in[0].n / s->out.n;
    for (int64_t i = 0; s->op == DEMIST_OP_MEAN && i < s->out.n; i++)
        s->out.f[i] /= (float)terms;
}

/* x [..,K], w [O,K], b [O] */
static void linear(const struct step *s)
{
    int64_t n_out = s->in[1].shape[0], k = s->in[1].shape[1];
    for (int64_t i = 0; i < s->out.n; i++) {
        const float *x = s->in[0].f + i / n_out * k, *w = s->in[1].f + i % n_out * k;
        double sum = s->n_in == 3 ? s->in[2].f[i % n_out] : 0;
        for (int64_t j = 0; j < k; j++)
            sum += (double)x[j] * w[j];
        s->out.f[i] = (float)sum;
    }
}

/* a [..,M,K] (or [..,K,M]), b [..,K,N] (or [..,N,K]), of which one may have fewer matrices. */
static void matmul(const struct step *s)
{
    const struct view *a = &s->in[0], *b = &s->in[1], *y = &s->out;
    int64_t m = y->shape[y->rank - 2], n = y->shape[y->rank - 1];
    int64_t k = s->attrs.matmul.transpose_a ? a->shape[a->rank - 2] : a->shape[a->rank - 1];
    for (int64_t i = 0; i < y->n; i++) {
        int64_t row = i / n % m, column = i % n, matrix = i / (m * n);
        const float *pa = a->f + (a->n > m * k ? matrix * m * k : 0);
        const float *pb = b->f + (b->n > k * n ? matrix * k * n : 0);
        double sum = 0;
        for (int64_t j = 0; j < k; j++)
            sum += (double)pa[s->attrs.matmul.transpose_a ? j * m + row : row * k + j] *
                   pb[s->attrs.matmul.transpose_b ? column * k + j : j * n + column];
        y->f[i] = (float)sum;
    }
}

static void concat(const struct step *s)
{
    int64_t outer = 1, inner = 1, at = 0;
    int32_t axis = s->attrs.axis.axis;
    for (int32_t d = 0; d < s->out.rank; d++)
        *(d < axis ? &outer : &inner) *= d == axis ? 1 : s->out.shape[d];
    for (int32_t i = 0; i < s->n_in; i++) {
        int64_t length = s->in[i].shape[axis] * inner;
        for (int64_t o = 0; o < outer; o++)
            memcpy(s->out.f + o * s->out.shape[axis] * inner + at, s->in[i].f + o * length,
                   (size_t)length * sizeof(float));
        at += length;
    }
}

static void embedding(const struct step *s)
{
    int64_t width = s->in[0].shape[1];
    for (int64_t i = 0; i < s->in[1].n; i++)
        memcpy(s->out.f + i * width, s->in[0].f + s->in[1].i[i] * width,
               (size_t)width * sizeof(float));
}

static void philox(const struct step *s, const demist_host *host, const demist_scalar *scalars)
{
    const demist_philox *generator = host->extension(host, DEMIST_EXT_PHILOX);
    int64_t per_image = s->out.n / s->out.shape[0];
    for (int64_t i = 0; i < s->out.shape[0]; i++)
        generator->normal(scalars[s->attrs.philox.seed_slot].u,
                          (uint32_t)(scalars[s->attrs.philox.image_slot].u + (uint64_t)i),
                          s->attrs.philox.purpose, (uint32_t)scalars[s->attrs.philox.draw_slot].u,
                          0, (size_t)per_image, s->out.f + i * per_image);
}

static void run_step(const struct step *s, const demist_host *host, const demist_scalar *scalars)
{
    switch ((int)s->op) {
    case DEMIST_OP_SCALAR:
        s->out.f[0] = (float)scalars[s->attrs.scalar.slot].f;
        break;
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_BATCH_SUM:
        reduce(s);
        break;
    case DEMIST_OP_LINEAR:
        linear(s);
        break;
    case DEMIST_OP_MATMUL:
        matmul(s);
        break;
    case DEMIST_OP_RESHAPE:
        memcpy(s->out.f, s->in[0].f, (size_t)s->out.n * sizeof(float));
        break;
    case DEMIST_OP_CONCAT:
        concat(s);
        break;
    case DEMIST_OP_EMBEDDING:
        embedding(s);
        break;
    case DEMIST_OP_PHILOX_NORMAL:
        philox(s, host, scalars);
        break;
    default:
        for (int64_t i = 0; i < s->out.n; i++)
            s->out.f[i] = elementwise(s, i);
    }
}

static demist_status replay(demist_binding *binding, const demist_scalar *scalars, int64_t n)
{
    const demist_program *program = binding->program;
    if (binding->n_images != n)
        capture(binding, n);
    for (int32_t i = 0; i < binding->n_steps; i++)
        run_step(&binding->steps[i], program->host, scalars);
    for (int32_t i = 0; i < program->n_outputs; i++) {
        struct view output = view_value(binding, program->outputs[i], n);
        memcpy(binding->buffers[program->n_inputs + i]->data, output.bytes, (size_t)output.n * 4);
    }
    return DEMIST_OK;
}

/* --- observing: not offered --- */

static demist_observability observability(demist_program *program, int32_t id, int32_t *inside)
{
    return DEMIST_OBSERVE_REMOVED;
}

static demist_status observe(demist_binding *binding, int32_t id, demist_buffer *buffer)
{
    const demist_host *host = binding->program->host;
    return host->fail(host, DEMIST_UNSUPPORTED, "the mock shows no intermediate values");
}

static demist_status profile(demist_program *program, const demist_node_profile *const **profiles,
                             int32_t *n)
{
    const demist_host *host = program->host;
    return host->fail(host, DEMIST_UNSUPPORTED, "the mock measures nothing");
}

const demist_backend_vtable mock_backend = {
    .size = sizeof mock_backend,
    .create = create,
    .destroy = destroy,
    .devices = devices,
    .open = open_device,
    .close = close_device,
    .has_precision = has_precision,
    .buffer_create = buffer_create,
    .buffer_destroy = buffer_destroy,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_copy = buffer_copy,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .synchronize = synchronize,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_destroy = event_destroy,
    .supports = supports,
    .compile = compile,
    .program_destroy = program_destroy,
    .program_info = program_info,
    .update_params = update_params,
    .bind = bind_program,
    .binding_destroy = binding_destroy,
    .execute = execute,
    .observability = observability,
    .observe = observe,
    .profile = profile,
    .device_info = device_info,
};

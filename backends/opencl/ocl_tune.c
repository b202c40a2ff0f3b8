/* Which of two algorithms is the faster one for a convolution: measured on the device with a
 * program that has nothing else in it, once for each shape and batch, and remembered on disk. */
#include "ocl_program.h"

#include <string.h>
#include <time.h>

enum { ROUNDS = 4 };

/* Without measuring: small images waste most of their tiles. */
static bool by_rule(const demist_node *conv)
{
    return conv->shape[2] >= 6 && conv->shape[3] >= 6;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- a graph of one convolution --- */

struct trial {
    demist_node x, w, conv;
    const demist_node *nodes[3], *conv_inputs[2], *inputs[1], *params[1], *outputs[1];
    demist_graph graph;
    demist_program *program;
    demist_binding *binding;
    demist_buffer *buffers[2];
    demist_queue *queue;
};

static demist_node leaf(const demist_node *like, demist_op op, int32_t id, const char *name)
{
    demist_node node = DEMIST_INIT(demist_node);
    node.id = id;
    node.op = op;
    node.name = name;
    node.rank = like->rank;
    memcpy(node.shape, like->shape, sizeof node.shape);
    node.param_index = op == DEMIST_OP_PARAM ? 0 : -1;
    return node;
}

static void trial_graph(struct trial *t, const demist_node *conv)
{
    t->x = leaf(conv->inputs[0], DEMIST_OP_INPUT, 0, "x");
    t->w = leaf(conv->inputs[1], DEMIST_OP_PARAM, 1, "w");
    t->conv = leaf(conv, conv->op, 2, "conv");
    t->conv.attrs = conv->attrs;
    t->conv.n_inputs = 2;
    t->conv.inputs = t->conv_inputs;
    t->nodes[0] = t->conv_inputs[0] = t->inputs[0] = &t->x;
    t->nodes[1] = t->conv_inputs[1] = t->params[0] = &t->w;
    t->nodes[2] = t->outputs[0] = &t->conv;
    t->graph = DEMIST_INIT(demist_graph);
    t->graph.name = "trial";
    t->graph.n_nodes = 3;
    t->graph.nodes = t->nodes;
    t->graph.n_inputs = t->graph.n_params = t->graph.n_outputs = 1;
    t->graph.inputs = t->inputs;
    t->graph.params = t->params;
    t->graph.outputs = t->outputs;
}

static demist_status zero_weights(struct trial *t, demist_device *device)
{
    const size_t bytes = (size_t)demist_elements(&t->w) * 4;
    const int32_t first = 0;
    void *zeros = device->host->alloc(device->host, bytes, 0);
    if (!zeros)
        return DEMIST_NO_MEMORY;
    memset(zeros, 0, bytes);
    const void *data[] = {zeros};
    const demist_status status = ocl_update_params(t->queue, t->program, 1, &first, data);
    clFinish(t->queue->queue);
    device->host->free(device->host, zeros);
    return status;
}

static demist_status trial_open(struct trial *t, demist_device *device, int64_t batch)
{
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    const float zero = 0;
    info.max_batch = batch;
    OCL_TRY(ocl_compile(device, &t->graph, &info, &t->program));
    OCL_TRY(ocl_queue_create(device, &t->queue));
    for (int i = 0; i < 2; i++) {
        const demist_node *node = i ? &t->conv : &t->x;
        const int64_t images = demist_is_batched(node) ? batch : 1;
        OCL_TRY(ocl_buffer_create(device, (size_t)(images * demist_elements(node)) * 4,
                                  &t->buffers[i]));
        clEnqueueFillBuffer(t->queue->queue, t->buffers[i]->memory, &zero, sizeof zero, 0,
                            t->buffers[i]->bytes, 0, NULL, NULL);
    }
    OCL_TRY(zero_weights(t, device));
    return ocl_bind(t->program, t->buffers, 2, &t->binding);
}

static void trial_close(struct trial *t)
{
    ocl_binding_destroy(t->binding);
    ocl_queue_destroy(t->queue);
    for (int i = 0; i < 2; i++)
        ocl_buffer_destroy(t->buffers[i]);
    ocl_program_destroy(t->program);
}

/* The best of some executions, seconds; the first one, which may compile, does not count. */
static demist_status measure(demist_device *device, const demist_node *conv, int64_t batch,
                             enum ocl_forced algorithm, double *seconds)
{
    struct trial t = {.program = NULL};
    const enum ocl_forced before = device->forced;
    trial_graph(&t, conv);
    device->forced = algorithm;
    demist_status status = trial_open(&t, device, batch);
    device->forced = before;
    *seconds = 1e9;
    for (int i = 0; i < ROUNDS && status == DEMIST_OK; i++) {
        const double start = now();
        status = ocl_execute(t.queue, t.binding, NULL, batch);
        clFinish(t.queue->queue);
        const double taken = now() - start;
        *seconds = i > 0 && taken < *seconds ? taken : *seconds;
    }
    trial_close(&t);
    return status;
}

/* --- choices --- */

static uint64_t key_of(const demist_program *p, const demist_node *conv)
{
    const struct {
        int64_t batch, style, vector, x[4], w[4];
        int32_t pad[4];
    } shape = {.batch = p->max_batch,
               .style = p->device->style,
               .vector = p->device->vector,
               .x = {conv->inputs[0]->shape[0], conv->inputs[0]->shape[1],
                     conv->inputs[0]->shape[2], conv->inputs[0]->shape[3]},
               .w = {conv->inputs[1]->shape[0], conv->inputs[1]->shape[1]},
               .pad = {conv->attrs.conv.pad[0], conv->attrs.conv.pad[1], conv->attrs.conv.pad[2],
                       conv->attrs.conv.pad[3]}};
    return ocl_hash(5, &shape, sizeof shape);
}

static struct ocl_tuned *recall(demist_device *device, uint64_t key)
{
    for (struct ocl_tuned *t = device->tuned; t; t = t->next)
        if (t->key == key)
            return t;
    const uint64_t hash[2] = {key, 0};
    size_t bytes = 0;
    unsigned char *data = ocl_cache_load(device->cache, "choice", device->key, hash, &bytes);
    struct ocl_tuned *t =
        data && bytes == 1 ? device->host->alloc(device->host, sizeof *t, 0) : NULL;
    if (t) {
        *t = (struct ocl_tuned){device->tuned, key, data[0] == 1};
        device->tuned = t;
    }
    device->host->free(device->host, data);
    return t;
}

static demist_status choose(demist_program *p, const demist_node *conv, uint64_t key, bool *choice)
{
    demist_device *device = p->device;
    double winograd, direct;
    OCL_TRY(measure(device, conv, p->max_batch, OCL_FORCE_WINOGRAD, &winograd));
    OCL_TRY(measure(device, conv, p->max_batch, OCL_FORCE_DIRECT, &direct));
    struct ocl_tuned *t = device->host->alloc(device->host, sizeof *t, 0);
    if (!t)
        return DEMIST_NO_MEMORY;
    *choice = winograd < direct;
    *t = (struct ocl_tuned){device->tuned, key, *choice};
    device->tuned = t;
    const uint64_t hash[2] = {key, 0};
    const unsigned char data = *choice;
    ocl_cache_store(device->cache, "choice", device->key, hash, &data, sizeof data);
    device->host->log(device->host, DEMIST_LOG_DEBUG,
                      "convolution %d x %d, %d x %d: %.3f ms by Winograd, %.3f ms directly",
                      (int)conv->inputs[1]->shape[1], (int)conv->inputs[1]->shape[0],
                      (int)conv->shape[2], (int)conv->shape[3], 1e3 * winograd, 1e3 * direct);
    return DEMIST_OK;
}

demist_status ocl_prefers_winograd(demist_program *p, const demist_node *conv, bool *choice)
{
    demist_device *device = p->device;
    *choice = device->forced ? device->forced == OCL_FORCE_WINOGRAD : by_rule(conv);
    if (device->forced || !device->settings.tuning)
        return DEMIST_OK;
    const uint64_t key = key_of(p, conv);
    const struct ocl_tuned *known = recall(device, key);
    if (known)
        *choice = known->choice;
    else
        OCL_TRY(choose(p, conv, key, choice));
    const uint64_t made[2] = {key, *choice};
    p->choices = ocl_hash(p->choices, made, sizeof made);
    p->chose = true;
    return DEMIST_OK;
}

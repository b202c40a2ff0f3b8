/* Which variant of a kernel is the fastest for a node: measured on the device with a program that
 * has nothing else in it, once for each shape and batch, and remembered on disk. */
#include "ocl_program.h"

#include <string.h>
#include <time.h>

enum { ROUNDS = 4, OPERANDS = 3 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- a graph of one node --- */

struct trial {
    demist_node leaf[OPERANDS], node;
    const demist_node *nodes[OPERANDS + 1], *inputs[OPERANDS], *params[OPERANDS], *outputs[1];
    demist_graph graph;
    demist_program *program;
    demist_binding *binding;
    demist_buffer *buffers[OPERANDS + 1];
    demist_queue *queue;
};

static demist_node node_like(const demist_node *like, demist_op op, int32_t id)
{
    demist_node node = DEMIST_INIT(demist_node);
    node.id = id;
    node.op = op;
    node.name = "trial";
    node.rank = like->rank;
    memcpy(node.shape, like->shape, sizeof node.shape);
    node.param_index = -1;
    return node;
}

static bool is_fixed(const demist_node *node)
{
    return node->op == DEMIST_OP_PARAM || node->op == DEMIST_OP_CONSTANT;
}

/* A bias takes no time and is left out. */
static int32_t operands_of(const demist_node *node)
{
    return node->op == DEMIST_OP_ATTENTION ? 3 : 2;
}

static void trial_graph(struct trial *t, const demist_node *node)
{
    const int32_t n = operands_of(node);
    t->graph = DEMIST_INIT(demist_graph);
    for (int32_t i = 0; i < n; i++) {
        const bool param = is_fixed(node->inputs[i]);
        t->leaf[i] = node_like(node->inputs[i], param ? DEMIST_OP_PARAM : DEMIST_OP_INPUT, i);
        t->nodes[i] = &t->leaf[i];
        if (param) {
            t->leaf[i].param_index = t->graph.n_params;
            t->params[t->graph.n_params++] = &t->leaf[i];
        } else {
            t->inputs[t->graph.n_inputs++] = &t->leaf[i];
        }
    }
    t->node = node_like(node, node->op, n);
    t->node.attrs = node->attrs;
    t->node.n_inputs = n;
    t->node.inputs = t->nodes;
    t->nodes[n] = t->outputs[0] = &t->node;
    t->graph.name = "trial";
    t->graph.n_nodes = n + 1;
    t->graph.nodes = t->nodes;
    t->graph.n_outputs = 1;
    t->graph.inputs = t->inputs;
    t->graph.params = t->params;
    t->graph.outputs = t->outputs;
}

static demist_status zero_params(struct trial *t, demist_device *device)
{
    demist_status status = DEMIST_OK;
    for (int32_t i = 0; i < t->graph.n_params && status == DEMIST_OK; i++) {
        const size_t bytes = (size_t)demist_elements(t->params[i]) * 4;
        void *zeros = device->host->alloc(device->host, bytes, 0);
        if (!zeros)
            return DEMIST_NO_MEMORY;
        memset(zeros, 0, bytes);
        const void *data[] = {zeros};
        status = ocl_update_params(t->queue, t->program, 1, &i, data);
        clFinish(t->queue->queue);
        device->host->free(device->host, zeros);
    }
    return status;
}

static demist_status trial_open(struct trial *t, const demist_program *p)
{
    demist_device *device = p->device;
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    const float zero = 0;
    info.max_batch = p->max_batch;
    info.precision = p->precision;
    OCL_TRY(ocl_compile(device, &t->graph, &info, &t->program));
    OCL_TRY(ocl_queue_create(device, &t->queue));
    for (int32_t i = 0; i <= t->graph.n_inputs; i++) {
        const demist_node *node = i < t->graph.n_inputs ? t->inputs[i] : &t->node;
        const int64_t images = demist_is_batched(node) ? p->max_batch : 1;
        OCL_TRY(ocl_buffer_create(device, (size_t)(images * demist_elements(node)) * 4,
                                  &t->buffers[i]));
        clEnqueueFillBuffer(t->queue->queue, t->buffers[i]->memory, &zero, sizeof zero, 0,
                            t->buffers[i]->bytes, 0, NULL, NULL);
    }
    OCL_TRY(zero_params(t, device));
    return ocl_bind(t->program, t->buffers, t->graph.n_inputs + 1, &t->binding);
}

static void trial_close(struct trial *t)
{
    ocl_binding_destroy(t->binding);
    ocl_queue_destroy(t->queue);
    for (int i = 0; i <= OPERANDS; i++)
        ocl_buffer_destroy(t->buffers[i]);
    ocl_program_destroy(t->program);
}

static enum ocl_type type_of_input(const demist_program *p, const demist_node *node)
{
    return ocl_type_of(p, &p->values[node->inputs[0]->id].view);
}

/* The best of some executions, seconds; the first one, which may compile, does not count. */
static demist_status measure(const demist_program *p, const demist_node *node,
                             const struct ocl_variant *variant, double *seconds)
{
    struct trial t = {.program = NULL};
    demist_device *device = p->device;
    trial_graph(&t, node);
    device->forced = variant;
    device->narrow_inputs = type_of_input(p, node) == OCL_F16;
    demist_status status = trial_open(&t, p);
    device->forced = NULL;
    device->narrow_inputs = false;
    *seconds = 1e9;
    for (int i = 0; i < ROUNDS && status == DEMIST_OK; i++) {
        const double start = now();
        status = ocl_execute(t.queue, t.binding, NULL, p->max_batch);
        clFinish(t.queue->queue);
        const double taken = now() - start;
        *seconds = i > 0 && taken < *seconds ? taken : *seconds;
    }
    trial_close(&t);
    return status;
}

/* --- choices --- */

static uint64_t key_of(const demist_program *p, const demist_node *node, int32_t n,
                       const struct ocl_variant *variants)
{
    const int32_t about[] = {
        (int32_t)node->op, (int32_t)p->precision,           (int32_t)p->device->style,
        p->device->vector, (int32_t)type_of_input(p, node), n};
    uint64_t key = demist_hash(5, about, sizeof about);
    key = demist_hash(key, &p->max_batch, sizeof p->max_batch);
    key = demist_hash(key, variants, sizeof *variants * (size_t)n);
    key = demist_hash(key, &node->attrs, sizeof node->attrs);
    for (int32_t i = 0; i < operands_of(node); i++) {
        const demist_node *in = node->inputs[i];
        const bool fixed = is_fixed(in);
        key = demist_hash(key, in->shape, sizeof *in->shape * (size_t)in->rank);
        key = demist_hash(key, &fixed, sizeof fixed);
    }
    return key;
}

static struct ocl_tuned *remember(demist_device *device, uint64_t key, int32_t choice)
{
    struct ocl_tuned *t = device->host->alloc(device->host, sizeof *t, 0);
    if (t) {
        *t = (struct ocl_tuned){device->tuned, key, choice};
        device->tuned = t;
    }
    return t;
}

static struct ocl_tuned *recall(demist_device *device, uint64_t key, int32_t n)
{
    for (struct ocl_tuned *t = device->tuned; t; t = t->next)
        if (t->key == key)
            return t;
    const uint64_t hash[2] = {key, 0};
    size_t bytes = 0;
    unsigned char *data = demist_cache_load(device->cache, "choice", device->key, hash, &bytes);
    struct ocl_tuned *t = data && bytes == 1 && data[0] < n ? remember(device, key, data[0]) : NULL;
    device->host->free(device->host, data);
    return t;
}

static demist_status measure_all(demist_program *p, const demist_node *node, uint64_t key,
                                 int32_t n, const struct ocl_variant *variants, int32_t *choice)
{
    demist_device *device = p->device;
    double best = 0;
    for (int32_t i = 0; i < n; i++) {
        double seconds;
        OCL_TRY(measure(p, node, &variants[i], &seconds));
        device->host->log(device->host, DEMIST_LOG_DEBUG,
                          "node '%s' (%s): %.3f ms by algorithm %d, tile %d", node->name,
                          demist_op_name(node->op), 1e3 * seconds, (int)variants[i].algorithm,
                          variants[i].tile);
        if (i == 0 || seconds < best) {
            best = seconds;
            *choice = i;
        }
    }
    if (!remember(device, key, *choice))
        return DEMIST_NO_MEMORY;
    const uint64_t hash[2] = {key, 0};
    const unsigned char data = (unsigned char)*choice;
    demist_cache_store(device->cache, "choice", device->key, hash, &data, sizeof data);
    return DEMIST_OK;
}

demist_status ocl_choose(demist_program *p, const demist_node *node, int32_t n,
                         const struct ocl_variant *variants, struct ocl_variant *chosen)
{
    demist_device *device = p->device;
    const struct ocl_variant *forced = device->forced;
    int32_t choice = 0;
    for (int32_t i = n - 1; forced && i >= 0; i--) /* algorithms come before tiles */
        if (variants[i].algorithm == forced->algorithm &&
            (variants[i].tile == forced->tile || variants[choice].algorithm != forced->algorithm))
            choice = i;
    *chosen = variants[choice];
    if (forced || !device->settings.tuning || n < 2)
        return DEMIST_OK;
    const uint64_t key = key_of(p, node, n, variants);
    const struct ocl_tuned *known = recall(device, key, n);
    if (known)
        choice = known->choice;
    else
        OCL_TRY(measure_all(p, node, key, n, variants, &choice));
    *chosen = variants[choice];
    const uint64_t made[2] = {key, (uint64_t)choice};
    p->choices = demist_hash(p->choices, made, sizeof made);
    p->chose = true;
    return DEMIST_OK;
}

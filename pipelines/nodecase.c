#include "nodecase.h"

#include "probe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void dm_case_finish(struct dm_case *c)
{
    dm_graph_destroy(c->graph);
    dm_checkpoint_close(c->file);
    free(c->scalars);
    dm_arena_finish(&c->arena);
    *c = (struct dm_case){0};
}

/* ---------------------------------------------------------------- from a network */

/* The graph that a case is cut from, and the nodes made of its nodes so far. */
struct cut {
    struct dm_case *c;
    const struct dm_case_source *source;
    const demist_node **made; /* by id in the source's graph */
    int32_t n_inputs;
    struct dm_error *err;
};

static demist_status failed_graph(struct cut *cut)
{
    demist_status status = dm_graph_finish(cut->c->graph, cut->err);
    return status != DEMIST_OK ? status : dm_fail_memory(cut->err, "a node's case");
}

/* A value from outside: a parameter or constant as it is, anything else as an input. */
static demist_status cut_leaf(struct cut *cut, const demist_node *from)
{
    demist_node leaf = *from;
    const void *data = cut->source->data(cut->source->user, from);
    bool given = from->op == DEMIST_OP_PARAM || from->op == DEMIST_OP_CONSTANT;
    leaf.data = given ? from->data : NULL;
    leaf.n_inputs = leaf.n_body = 0;
    leaf.inputs = leaf.body = NULL;
    if (!given && from->op != DEMIST_OP_SCALAR) {
        if (!data)
            return dm_fail(cut->err, DEMIST_INTERNAL, "node '%s': its value was not kept",
                           from->name);
        leaf.op = cut->source->is_constant(cut->source->user, from) ? DEMIST_OP_CONSTANT
                                                                    : DEMIST_OP_INPUT;
        leaf.attrs = demist_no_attrs();
        leaf.data = leaf.op == DEMIST_OP_CONSTANT ? data : NULL;
    }
    if (leaf.op == DEMIST_OP_INPUT)
        cut->c->data[cut->n_inputs++] = data;
    cut->made[from->id] = dm_graph_append(cut->c->graph, &leaf);
    return cut->made[from->id] ? DEMIST_OK : failed_graph(cut);
}

static demist_status cut_node(struct cut *cut, const demist_node *from)
{
    demist_node node = *from;
    const demist_node **inputs =
        dm_arena_array(&cut->c->arena, (size_t)from->n_inputs, sizeof(const demist_node *));
    if (!inputs)
        return dm_fail_memory(cut->err, "a node's case");
    for (int32_t i = 0; i < from->n_inputs; i++) {
        if (!cut->made[from->inputs[i]->id])
            DM_TRY(cut_leaf(cut, from->inputs[i]));
        inputs[i] = cut->made[from->inputs[i]->id];
    }
    node.inputs = inputs;
    cut->made[from->id] = dm_graph_append(cut->c->graph, &node);
    return cut->made[from->id] ? DEMIST_OK : failed_graph(cut);
}

static demist_status copy_scalars(struct dm_case *c, const struct dm_case_source *source,
                                  struct dm_error *err)
{
    size_t n = (size_t)dm_graph_view(source->graph)->n_scalars;
    dm_graph_copy_slots(c->graph, source->graph);
    if (n == 0)
        return DEMIST_OK;
    c->scalars = malloc(n * sizeof *c->scalars);
    if (!c->scalars)
        return dm_fail_memory(err, "a node's case");
    memcpy(c->scalars, source->scalars, n * sizeof *c->scalars);
    return DEMIST_OK;
}

static demist_status cut_all(struct cut *cut, const int32_t *ids, int32_t n_ids)
{
    const demist_graph *graph = dm_graph_view(cut->source->graph);
    struct dm_case *c = cut->c;
    size_t most = 1;
    for (int32_t i = 0; i < n_ids; i++)
        most += (size_t)graph->nodes[ids[i]]->n_inputs;
    c->data = dm_arena_array(&c->arena, most, sizeof *c->data);
    cut->made = calloc((size_t)graph->n_nodes, sizeof *cut->made);
    if (!c->data || !cut->made)
        return dm_fail_memory(cut->err, "a node's case");
    DM_TRY(copy_scalars(c, cut->source, cut->err));
    for (int32_t i = 0; i < n_ids; i++) {
        const demist_node *node = graph->nodes[ids[i]];
        DM_TRY(cut_node(cut, node));
        double within =
            dm_node_largest(node, cut->source->data(cut->source->user, node), cut->source->n);
        c->largest = within > c->largest ? within : c->largest;
    }
    const demist_node *last = graph->nodes[ids[n_ids - 1]];
    c->expected = cut->source->data(cut->source->user, last);
    demist_builder *b = dm_graph_builder(c->graph);
    b->output(b, "out", cut->made[last->id]);
    return dm_graph_finish(c->graph, cut->err);
}

demist_status dm_case_make(struct dm_case *c, const struct dm_case_source *source,
                           const int32_t *ids, int32_t n_ids, struct dm_error *err)
{
    *c = (struct dm_case){.n = source->n};
    DM_TRY(dm_graph_create("case", NULL, &c->graph, err));
    struct cut cut = {.c = c, .source = source, .err = err};
    demist_status status = cut_all(&cut, ids, n_ids);
    free(cut.made);
    if (status != DEMIST_OK)
        dm_case_finish(c);
    return status;
}

/* ---------------------------------------------------------------- alone on a device */

/* A compiled and bound case. */
struct trial {
    struct dm_device *device;
    demist_program *program;
    struct dm_lowered lowered;
    demist_binding *binding;
    demist_buffer **buffers;
    int32_t n_buffers;
};

static void close_trial(struct trial *t)
{
    const demist_backend_vtable *vt = t->device->vtable;
    if (t->binding)
        vt->binding_destroy(t->binding);
    for (int32_t i = 0; i < t->n_buffers; i++)
        vt->buffer_destroy(t->buffers[i]);
    if (t->program)
        vt->program_destroy(t->program);
    dm_graph_destroy(t->lowered.graph);
    free(t->buffers);
}

static demist_status open_trial(struct trial *t, const struct dm_case *c, struct dm_error *err)
{
    struct dm_device *d = t->device;
    const demist_graph *graph = dm_graph_view(c->graph);
    DM_TRY(dm_device_compile(d, c->graph, c->n, 0, &t->program, &t->lowered, err));
    t->buffers = calloc((size_t)graph->n_inputs + 1, sizeof(demist_buffer *));
    if (!t->buffers)
        return dm_fail_memory(err, "a node's case");
    for (int32_t i = 0; i <= graph->n_inputs; i++) {
        const demist_node *edge = i < graph->n_inputs ? graph->inputs[i] : graph->outputs[0];
        DM_TRY(dm_device_buffer(d, dm_value_bytes(edge, c->n), edge->name, &t->buffers[i], err));
        t->n_buffers++;
        if (i < graph->n_inputs)
            DM_TRY(dm_device_check(d, "buffer_write",
                                   d->vtable->buffer_write(d->queue, t->buffers[i], 0, c->data[i],
                                                           dm_value_bytes(edge, c->n)),
                                   err));
    }
    return dm_device_check(d, "bind",
                           d->vtable->bind(t->program, t->buffers, t->n_buffers, &t->binding), err);
}

static demist_status execute(struct trial *t, const struct dm_case *c, float *out,
                             struct dm_error *err)
{
    struct dm_device *d = t->device;
    const demist_node *node = dm_graph_view(c->graph)->outputs[0];
    DM_TRY(dm_device_check(d, "execute", d->vtable->execute(d->queue, t->binding, c->scalars, c->n),
                           err));
    return dm_device_check(d, "buffer_read",
                           d->vtable->buffer_read(d->queue, t->buffers[t->n_buffers - 1], 0, out,
                                                  dm_value_bytes(node, c->n)),
                           err);
}

/* The lowered graph keeps the order of the inputs. */
struct lowered_data {
    const struct dm_case *c;
    const demist_graph *graph;
};

static const void *data_of_lowered(void *user, const demist_node *node)
{
    const struct lowered_data *of = user;
    for (int32_t i = 0; i < of->graph->n_inputs; i++)
        if (of->graph->inputs[i] == node)
            return of->c->data[i];
    return node->data;
}

static bool is_leaf(const demist_node *node)
{
    return node->op == DEMIST_OP_INPUT || node->op == DEMIST_OP_PARAM ||
           node->op == DEMIST_OP_CONSTANT || node->op == DEMIST_OP_SCALAR;
}

/* The tolerance of the one node that the case became. A chain that was left unfused makes several
 * results, which have no common bound. */
static struct dm_tolerance tolerance_of(const struct trial *t, const struct dm_case *c,
                                        demist_precision precision, int *n_nodes)
{
    const demist_graph *graph = dm_graph_view(t->lowered.graph);
    struct lowered_data of = {c, graph};
    struct dm_tolerance tolerance = {0, 0};
    *n_nodes = 0;
    for (int32_t i = 0; i < graph->n_nodes; i++)
        if (!is_leaf(graph->nodes[i]) && ++*n_nodes == 1)
            tolerance = dm_node_tolerance(graph->nodes[i], precision, c->n, c->largest,
                                          data_of_lowered, &of);
    if (*n_nodes > 1)
        tolerance = (struct dm_tolerance){INFINITY, 0};
    return tolerance;
}

demist_status dm_case_run(const struct dm_case *c, struct dm_device *device,
                          const demist_precision *other, struct dm_case_result *result,
                          struct dm_error *err)
{
    const demist_node *node = dm_graph_view(c->graph)->outputs[0];
    struct trial t = {.device = device};
    *result = (struct dm_case_result){.out = malloc(dm_value_bytes(node, c->n) + 1)};
    demist_status status =
        result->out ? open_trial(&t, c, err) : dm_fail_memory(err, "a node's case");
    if (status == DEMIST_OK)
        status = execute(&t, c, result->out, err);
    if (status == DEMIST_OK) {
        int other_nodes;
        result->tolerance = tolerance_of(&t, c, device->precision, &result->nodes);
        if (other)
            result->tolerance =
                dm_tolerance_sum(result->tolerance, tolerance_of(&t, c, *other, &other_nodes));
        result->error = dm_node_compare(node, c->n, result->tolerance, result->out, c->expected);
    }
    close_trial(&t);
    if (status != DEMIST_OK)
        dm_case_result_finish(result);
    return status;
}

void dm_case_result_finish(struct dm_case_result *result)
{
    free(result->out);
    result->out = NULL;
}

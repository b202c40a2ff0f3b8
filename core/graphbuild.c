/* The graph builder: see graphbuild.h. Nodes are found by name through a hash table of indices;
 * everything else is an array that grows. The first failure is kept in `error`, and from then on
 * every call returns NULL at once. */
#include "graphbuild.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "shape.h"
#include "sources.h"

struct slot {
    const char *name;
    enum dm_slot_kind kind;
};

/* Growing arrays of pointers, in memory of their own: the arena never frees. */
struct list {
    void **items;
    int32_t count, capacity;
};

struct dm_graph {
    demist_builder builder;
    demist_graph view;
    const char *name;
    struct dm_sources *sources;
    struct dm_arena arena;
    struct dm_error error; /* the first one */
    bool finished;
    struct list nodes, inputs, params, outputs, output_names, slots;
    struct list origins; /* of params: struct origin */
    int32_t *table; /* node index + 1 by name's hash, 0: free; an entry whose node has got another
                       name since matches nothing and only keeps its place */
    uint32_t table_size, table_used;
};

/* Where a parameter's data are. */
struct origin {
    int32_t source;
    const char *key;
};

/* ---- Failing ---- */

static void fail_memory(struct dm_graph *graph)
{
    if (graph->error.status == DEMIST_OK)
        dm_fail_memory(&graph->error, "building a graph");
}

/* Ends a failing call: adds the graph's name to the text, if it has one. */
static const demist_node *failed_here(struct dm_graph *graph)
{
    if (graph->name[0])
        dm_fail_where(&graph->error, "graph '%s'", graph->name);
    return NULL;
}

#define FAIL(graph, status, ...)                                                                   \
    (dm_fail(&(graph)->error, (status), __VA_ARGS__), failed_here(graph))

static struct dm_graph *graph_of(const demist_builder *b)
{
    return b->internal;
}

/* The graph, if it still takes calls; NULL otherwise. */
static struct dm_graph *usable(demist_builder *b)
{
    struct dm_graph *graph = graph_of(b);
    if (graph->error.status != DEMIST_OK)
        return NULL;
    if (graph->finished) {
        FAIL(graph, DEMIST_INVALID, "its building has ended");
        return NULL;
    }
    return graph;
}

static bool fb_failed(const demist_builder *b)
{
    return graph_of(b)->error.status != DEMIST_OK;
}

DEMIST_PRINTF(2, 0)
static char *format(struct dm_graph *graph, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = n < 0 ? NULL : dm_graph_alloc(graph, (size_t)n + 1, 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    return text;
}

DEMIST_PRINTF(3, 4)
static const demist_node *fb_fail(demist_builder *b, demist_status status, const char *fmt, ...)
{
    struct dm_graph *graph = usable(b);
    if (!graph)
        return NULL;
    va_list args;
    va_start(args, fmt);
    char *text = format(graph, fmt, args);
    va_end(args);
    if (!text)
        return NULL;
    return FAIL(graph, status == DEMIST_OK ? DEMIST_INTERNAL : status, "%s", text);
}

/* ---- Memory ---- */

void *dm_graph_alloc(struct dm_graph *graph, size_t n, size_t size)
{
    void *memory = dm_arena_array(&graph->arena, n, size);
    if (!memory)
        fail_memory(graph);
    return memory;
}

void *dm_graph_data(struct dm_graph *graph, size_t bytes)
{
    size_t padded;
    char *memory = dm_add_size(bytes, 63, &padded) ? dm_graph_alloc(graph, padded, 1) : NULL;
    if (!memory) {
        fail_memory(graph);
        return NULL;
    }
    return memory + (-(uintptr_t)memory & 63);
}

struct dm_arena *dm_graph_arena(struct dm_graph *graph)
{
    return &graph->arena;
}

static char *copy_text(struct dm_graph *graph, const char *text)
{
    char *copy = dm_arena_strdup(&graph->arena, text);
    if (!copy)
        fail_memory(graph);
    return copy;
}

static bool push(struct dm_graph *graph, struct list *list, void *item)
{
    if (list->count == list->capacity) {
        int32_t capacity = list->capacity ? 2 * list->capacity : 16;
        void **items = capacity <= INT32_MAX / 4
                           ? realloc(list->items, (size_t)capacity * sizeof *items)
                           : NULL;
        if (!items) {
            fail_memory(graph);
            return false;
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
    return true;
}

/* ---- Names ---- */

static uint32_t hash_of(const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash;
}

static const demist_node *node_at(const struct dm_graph *graph, int32_t i)
{
    return graph->nodes.items[i];
}

const demist_node *dm_graph_find(const struct dm_graph *graph, const char *name)
{
    uint32_t mask = graph->table_size - 1;
    if (graph->table_size == 0)
        return NULL;
    for (uint32_t at = hash_of(name) & mask; graph->table[at] != 0; at = (at + 1) & mask) {
        const demist_node *node = node_at(graph, graph->table[at] - 1);
        if (strcmp(node->name, name) == 0)
            return node;
    }
    return NULL;
}

static void enter(struct dm_graph *graph, int32_t index)
{
    uint32_t mask = graph->table_size - 1, at = hash_of(node_at(graph, index)->name) & mask;
    while (graph->table[at] != 0)
        at = (at + 1) & mask;
    graph->table[at] = index + 1;
    graph->table_used++;
}

/* Enters the name of a node that is in the list already; at most half of the table is in use. */
static bool enter_name(struct dm_graph *graph, int32_t index)
{
    if (2 * (graph->table_used + 1) > graph->table_size) {
        uint32_t size = graph->table_size ? 2 * graph->table_size : 64;
        int32_t *table = calloc(size, sizeof *table);
        if (!table) {
            fail_memory(graph);
            return false;
        }
        free(graph->table);
        graph->table = table;
        graph->table_size = size;
        graph->table_used = 0;
        for (int32_t i = 0; i < graph->nodes.count; i++)
            if (i != index)
                enter(graph, i);
    }
    enter(graph, index);
    return true;
}

/* The name without its last part, if it has several: "mid.norm" of "mid.norm.weight". */
static char *stem_of(struct dm_graph *graph, const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot && dot != key ? dm_arena_strndup(&graph->arena, key, (size_t)(dot - key)) : NULL;
}

/* Which input an op's node is named after, −1: none. */
static int32_t naming_input(demist_op op)
{
    switch ((int)op) {
    case DEMIST_OP_LINEAR:
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return 1;
    case DEMIST_OP_EMBEDDING:
        return 0;
    default:
        return -1;
    }
}

/* A free name for the node that comes next. NULL after failing. */
static const char *automatic_name(struct dm_graph *graph, demist_op op, int32_t n,
                                  const demist_node *const *inputs)
{
    int32_t i = naming_input(op);
    char *base = NULL;
    if (i >= 0 && i < n && inputs[i] && inputs[i]->op == DEMIST_OP_PARAM)
        base = stem_of(graph, inputs[i]->name);
    if (!base)
        base = dm_arena_printf(&graph->arena, "%s_%d", demist_op_name(op), (int)graph->nodes.count);
    const char *name = base;
    for (int k = 2; name && dm_graph_find(graph, name); k++)
        name = dm_arena_printf(&graph->arena, "%s_%d", base, k);
    if (!name)
        fail_memory(graph);
    return name;
}

DEMIST_PRINTF(3, 4)
static const demist_node *fb_name(demist_builder *b, const demist_node *value, const char *fmt, ...)
{
    struct dm_graph *graph = usable(b);
    if (!graph)
        return NULL;
    va_list args;
    va_start(args, fmt);
    char *name = format(graph, fmt, args);
    va_end(args);
    if (!name)
        return NULL;
    if (!value || value->id < 0 || value->id >= graph->nodes.count ||
        node_at(graph, value->id) != value)
        return FAIL(graph, DEMIST_INVALID, "the value to be named '%s' is none of this graph",
                    name);
    if (strcmp(value->name, name) == 0)
        return value;
    if (value->op == DEMIST_OP_INPUT || value->op == DEMIST_OP_PARAM)
        return FAIL(graph, DEMIST_INVALID, "%s '%s' keeps its name, and cannot be called '%s'",
                    demist_op_name(value->op), value->name, name);
    if (!*name || dm_graph_find(graph, name))
        return FAIL(graph, DEMIST_INVALID, "the name '%s' for node '%s' (%s) is %s", name,
                    value->name, demist_op_name(value->op), *name ? "taken" : "empty");
    demist_node *own = graph->nodes.items[value->id];
    own->name = name;
    return enter_name(graph, value->id) ? value : NULL;
}

/* ---- Nodes ---- */

const demist_node *dm_graph_append(struct dm_graph *graph, const demist_node *node)
{
    if (graph->error.status != DEMIST_OK)
        return NULL;
    if (dm_graph_find(graph, node->name))
        return FAIL(graph, DEMIST_INVALID, "two nodes have the name '%s'", node->name);
    demist_node *copy = dm_graph_alloc(graph, 1, sizeof *copy);
    const demist_node **inputs =
        dm_graph_alloc(graph, (size_t)node->n_inputs, sizeof(const demist_node *));
    char *name = copy_text(graph, node->name);
    if (!copy || !inputs || !name)
        return NULL;
    *copy = *node;
    copy->name = name;
    copy->inputs = inputs;
    for (int32_t i = 0; i < node->n_inputs; i++)
        inputs[i] = node->inputs[i];
    copy->id = graph->nodes.count;
    copy->param_index = node->op == DEMIST_OP_PARAM ? graph->params.count : -1;
    if ((node->op == DEMIST_OP_INPUT && !push(graph, &graph->inputs, copy)) ||
        (node->op == DEMIST_OP_PARAM && !push(graph, &graph->params, copy)) ||
        !push(graph, &graph->nodes, copy) || !enter_name(graph, copy->id))
        return NULL;
    return copy;
}

/* Infers the shape of a node that is otherwise complete, and appends it. */
static const demist_node *add(struct dm_graph *graph, demist_node *node)
{
    if (dm_shape_infer(node, graph->slots.count, &graph->error) != DEMIST_OK)
        return failed_here(graph);
    return dm_graph_append(graph, node);
}

/* A node of the given shape with nothing else set. False after failing. */
static bool init_node(struct dm_graph *graph, demist_node *node, demist_op op, const char *name,
                      demist_dtype dtype, int32_t rank, const int64_t *shape)
{
    *node = DEMIST_INIT(demist_node);
    node->op = op;
    node->name = name;
    node->dtype = dtype;
    node->rank = rank;
    if (rank < 0 || rank > DEMIST_MAX_RANK || (rank > 0 && !shape)) {
        FAIL(graph, DEMIST_INVALID, "node '%s' (%s): %d dimensions; a value has 0 to %d", name,
             demist_op_name(op), (int)rank, DEMIST_MAX_RANK);
        return false;
    }
    if (rank > 0)
        memcpy(node->shape, shape, (size_t)rank * sizeof *shape);
    return true;
}

static const demist_node *fb_input(demist_builder *b, const char *name, demist_role role,
                                   demist_dtype dtype, int32_t rank, const int64_t *shape)
{
    struct dm_graph *graph = usable(b);
    demist_node node;
    if (!graph)
        return NULL;
    if (!name || !*name)
        return FAIL(graph, DEMIST_INVALID, "an input has no name");
    if (!init_node(graph, &node, DEMIST_OP_INPUT, name, dtype, rank, shape))
        return NULL;
    node.attrs.input.role = (int32_t)role;
    return add(graph, &node);
}

static const demist_node *fb_constant(demist_builder *b, demist_dtype dtype, int32_t rank,
                                      const int64_t *shape, const void *data)
{
    struct dm_graph *graph = usable(b);
    demist_node node;
    const char *name = graph ? automatic_name(graph, DEMIST_OP_CONSTANT, 0, NULL) : NULL;
    if (!name || !init_node(graph, &node, DEMIST_OP_CONSTANT, name, dtype, rank, shape))
        return NULL;
    if (dm_shape_infer(&node, graph->slots.count, &graph->error) != DEMIST_OK)
        return failed_here(graph);
    if (!data)
        return FAIL(graph, DEMIST_INVALID, "node '%s' (constant): it has no data", name);
    size_t bytes = (size_t)demist_elements(&node) * demist_dtype_bytes(dtype);
    void *copy = dm_graph_data(graph, bytes);
    if (!copy)
        return NULL;
    memcpy(copy, data, bytes);
    node.data = copy;
    return dm_graph_append(graph, &node);
}

/* Checks that the inputs are there and belong to this graph. */
static bool check_inputs(struct dm_graph *graph, demist_op op, const char *name, int32_t n,
                         const demist_node *const *inputs)
{
    int32_t fewest, most;
    if (!dm_op_arity(op, &fewest, &most) || op == DEMIST_OP_INPUT || op == DEMIST_OP_PARAM ||
        op == DEMIST_OP_CONSTANT || op == DEMIST_OP_FUSED) {
        FAIL(graph, DEMIST_INVALID, "node '%s': op %d (%s) is not made by `op`", name, (int)op,
             demist_op_name(op));
        return false;
    }
    if (n < fewest || (most >= 0 && n > most) || n > 4096) {
        FAIL(graph, DEMIST_INVALID, "node '%s' (%s): %d inputs; it takes %d to %d", name,
             demist_op_name(op), (int)n, (int)fewest, most < 0 ? 4096 : (int)most);
        return false;
    }
    for (int32_t i = 0; i < n; i++) {
        const demist_node *x = inputs[i];
        if (x && x->id >= 0 && x->id < graph->nodes.count && node_at(graph, x->id) == x)
            continue;
        FAIL(graph, DEMIST_INVALID, "node '%s' (%s): input %d is %s", name, demist_op_name(op),
             (int)i, x ? "a value of another graph" : "NULL");
        return false;
    }
    return true;
}

static const char *slot_name(const struct dm_graph *graph, int32_t i)
{
    return ((const struct slot *)graph->slots.items[i])->name;
}

/* Notes what a slot, checked to exist, is used as. */
static bool use_slot(struct dm_graph *graph, const demist_node *node, int32_t i,
                     enum dm_slot_kind kind)
{
    struct slot *slot = graph->slots.items[i];
    if (slot->kind != DM_SLOT_UNUSED && slot->kind != kind) {
        FAIL(graph, DEMIST_INVALID, "node '%s' (%s): slot '%s' holds %s elsewhere", node->name,
             demist_op_name(node->op), slot->name,
             slot->kind == DM_SLOT_NUMBER ? "a number" : "an integer");
        return false;
    }
    slot->kind = kind;
    return true;
}

static bool use_slots(struct dm_graph *graph, const demist_node *node)
{
    if (node->op == DEMIST_OP_SCALAR)
        return use_slot(graph, node, node->attrs.scalar.slot, DM_SLOT_NUMBER);
    if (node->op == DEMIST_OP_PHILOX_NORMAL || node->op == DEMIST_OP_PHILOX_UNIFORM)
        return use_slot(graph, node, node->attrs.philox.seed_slot, DM_SLOT_INTEGER) &&
               use_slot(graph, node, node->attrs.philox.draw_slot, DM_SLOT_INTEGER) &&
               use_slot(graph, node, node->attrs.philox.image_slot, DM_SLOT_INTEGER);
    return true;
}

static const demist_node *fb_op(demist_builder *b, demist_op op, int32_t n,
                                const demist_node *const *inputs, const demist_attrs *attrs,
                                int32_t rank, const int64_t *shape)
{
    struct dm_graph *graph = usable(b);
    demist_node node;
    const char *name = graph ? automatic_name(graph, op, n, inputs) : NULL;
    if (!name || !check_inputs(graph, op, name, n, inputs) ||
        !init_node(graph, &node, op, name, DEMIST_F32, rank, shape))
        return NULL;
    node.n_inputs = n;
    node.inputs = inputs;
    if (attrs)
        memcpy(&node.attrs, attrs, dm_op_attrs_bytes(op));
    const demist_node *added = add(graph, &node);
    return added && use_slots(graph, added) ? added : NULL;
}

static void fb_output(demist_builder *b, const char *name, const demist_node *value)
{
    struct dm_graph *graph = usable(b);
    if (!graph)
        return;
    if (!name || !*name) {
        FAIL(graph, DEMIST_INVALID, "an output has no name");
        return;
    }
    for (int32_t i = 0; i < graph->output_names.count; i++)
        if (strcmp(graph->output_names.items[i], name) == 0) {
            FAIL(graph, DEMIST_INVALID, "two outputs have the name '%s'", name);
            return;
        }
    if (!value || value->id < 0 || value->id >= graph->nodes.count ||
        node_at(graph, value->id) != value) {
        FAIL(graph, DEMIST_INVALID, "output '%s' is no value of this graph", name);
        return;
    }
    char *copy = copy_text(graph, name);
    if (copy && push(graph, &graph->outputs, graph->nodes.items[value->id]))
        push(graph, &graph->output_names, copy);
}

/* ---- Scalar slots ---- */

int32_t dm_graph_find_slot(const struct dm_graph *graph, const char *name)
{
    for (int32_t i = 0; i < graph->slots.count; i++)
        if (strcmp(slot_name(graph, i), name) == 0)
            return i;
    return -1;
}

static int32_t add_slot(struct dm_graph *graph, const char *name, enum dm_slot_kind kind)
{
    struct slot *slot = dm_graph_alloc(graph, 1, sizeof *slot);
    char *copy = copy_text(graph, name);
    if (!slot || !copy || !push(graph, &graph->slots, slot))
        return -1;
    *slot = (struct slot){copy, kind};
    return graph->slots.count - 1;
}

static int32_t fb_scalar_slot(demist_builder *b, const char *name)
{
    struct dm_graph *graph = usable(b);
    if (!graph)
        return -1;
    if (!name || !*name) {
        FAIL(graph, DEMIST_INVALID, "a scalar slot has no name");
        return -1;
    }
    int32_t slot = dm_graph_find_slot(graph, name);
    return slot >= 0 ? slot : add_slot(graph, name, DM_SLOT_UNUSED);
}

int32_t dm_graph_slot(struct dm_graph *graph, const char *name)
{
    return fb_scalar_slot(&graph->builder, name);
}

const char *dm_graph_slot_name(const struct dm_graph *graph, int32_t slot)
{
    return slot_name(graph, slot);
}

enum dm_slot_kind dm_graph_slot_kind(const struct dm_graph *graph, int32_t slot)
{
    return ((const struct slot *)graph->slots.items[slot])->kind;
}

void dm_graph_copy_slots(struct dm_graph *graph, const struct dm_graph *from)
{
    for (int32_t i = 0; i < from->slots.count; i++)
        add_slot(graph, slot_name(from, i), dm_graph_slot_kind(from, i));
}

/* ---- Sources ---- */

/* Whether the graph has that source; fails if not, but for the −1 of an earlier failure. */
static bool has_source(struct dm_graph *graph, int32_t source, const char *wanted)
{
    if (graph->sources && source >= 0 && source < dm_sources_count(graph->sources))
        return true;
    if (source == 0)
        FAIL(graph, DEMIST_CONFIG,
             "the network asks for %s, and there is no checkpoint: set [network] checkpoint",
             wanted);
    else
        FAIL(graph, DEMIST_INVALID, "the network asks for %s of source %d, which is not open",
             wanted, (int)source);
    return false;
}

static int32_t fb_source(demist_builder *b, const char *path, const char *prefix)
{
    struct dm_graph *graph = usable(b);
    int32_t source;
    if (!graph)
        return -1;
    if (!graph->sources || !path || !*path) {
        FAIL(graph, DEMIST_CONFIG, "the network opens checkpoint '%s', and %s", path ? path : "",
             graph->sources ? "that is no path" : "this graph takes none");
        return -1;
    }
    if (dm_sources_open(graph->sources, path, prefix, &source, &graph->error) != DEMIST_OK) {
        failed_here(graph);
        return -1;
    }
    return source;
}

static const char *fb_key(demist_builder *b, int32_t source, int64_t i)
{
    struct dm_graph *graph = usable(b);
    if (!graph || !has_source(graph, source, "its keys"))
        return NULL;
    return dm_sources_key(graph->sources, source, i);
}

static bool fb_find(demist_builder *b, int32_t source, const char *key, int32_t *rank,
                    int64_t *shape)
{
    struct dm_graph *graph = usable(b);
    if (!graph || !has_source(graph, source, key))
        return false;
    return dm_sources_find(graph->sources, source, key, rank, shape);
}

static const demist_node *fb_param(demist_builder *b, int32_t source, const char *key, int32_t rank,
                                   const int64_t *shape)
{
    struct dm_graph *graph = usable(b);
    demist_node node;
    if (!graph || !has_source(graph, source, key))
        return NULL;
    const char *name =
        source == 0 ? key : dm_arena_printf(&graph->arena, "%d:%s", (int)source, key);
    if (!name)
        fail_memory(graph);
    if (!name || !init_node(graph, &node, DEMIST_OP_PARAM, name, DEMIST_F32, rank, shape))
        return NULL;
    if (dm_shape_infer(&node, graph->slots.count, &graph->error) != DEMIST_OK)
        return failed_here(graph);
    const demist_node *twin = dm_graph_find(graph, name);
    if (twin && twin->op == DEMIST_OP_PARAM) {
        if (twin->rank != rank || memcmp(twin->shape, node.shape, sizeof node.shape) != 0)
            return FAIL(graph, DEMIST_INVALID, "parameter '%s' is asked for as %s and as %s", name,
                        dm_shape_text(twin->rank, twin->shape).text,
                        dm_shape_text(rank, node.shape).text);
        return twin;
    }
    const float *data;
    if (dm_sources_param(graph->sources, source, key, rank, node.shape, &data, &graph->error) !=
        DEMIST_OK)
        return failed_here(graph);
    node.data = data;
    struct origin *origin = dm_graph_alloc(graph, 1, sizeof *origin);
    if (!origin || !(origin->key = copy_text(graph, key)) || !push(graph, &graph->origins, origin))
        return NULL;
    origin->source = source;
    return dm_graph_append(graph, &node);
}

/* NULL when the graph has no such parameter or was not made with sources. Lowering makes parameters
 * of reshaped ones. */
static const struct origin *origin_of(const struct dm_graph *graph, const demist_node *param)
{
    const demist_node *own = dm_graph_find(graph, param->name);
    while (own && own->op == DEMIST_OP_RESHAPE)
        own = own->inputs[0];
    return own && own->op == DEMIST_OP_PARAM && own->param_index < graph->origins.count
               ? graph->origins.items[own->param_index]
               : NULL;
}

bool dm_graph_has_param(const struct dm_graph *graph, const demist_node *param)
{
    const struct origin *origin = origin_of(graph, param);
    return param->data || (origin && dm_sources_has(graph->sources, origin->source, origin->key));
}

demist_status dm_graph_read_param(const struct dm_graph *graph, const demist_node *param, float *to,
                                  struct dm_error *err)
{
    if (param->data) {
        memcpy(to, param->data, (size_t)demist_elements(param) * sizeof *to);
        return DEMIST_OK;
    }
    const struct origin *origin = origin_of(graph, param);
    if (!origin || !dm_sources_has(graph->sources, origin->source, origin->key))
        return dm_fail(err, DEMIST_INVALID, "graph '%s': parameter '%s' has no data", graph->name,
                       param->name);
    return dm_sources_read(graph->sources, origin->source, origin->key, to, err);
}

static void fb_ignore(demist_builder *b, int32_t source, const char *pattern)
{
    struct dm_graph *graph = usable(b);
    if (!graph || !has_source(graph, source, "keys to ignore"))
        return;
    if (dm_sources_ignore(graph->sources, source, pattern, &graph->error) != DEMIST_OK)
        failed_here(graph);
}

/* ---- Life ---- */

demist_status dm_graph_create(const char *name, struct dm_sources *sources, struct dm_graph **out,
                              struct dm_error *err)
{
    struct dm_graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return dm_fail_memory(err, "a graph");
    dm_arena_init(&graph->arena);
    graph->name = dm_arena_strdup(&graph->arena, name);
    if (!graph->name) {
        free(graph);
        return dm_fail_memory(err, "a graph");
    }
    graph->sources = sources;
    graph->builder = (demist_builder){
        .size = sizeof graph->builder,
        .internal = graph,
        .source = fb_source,
        .key = fb_key,
        .find = fb_find,
        .param = fb_param,
        .ignore = fb_ignore,
        .input = fb_input,
        .constant = fb_constant,
        .op = fb_op,
        .output = fb_output,
        .scalar_slot = fb_scalar_slot,
        .name = fb_name,
        .failed = fb_failed,
        .fail = fb_fail,
    };
    *out = graph;
    return DEMIST_OK;
}

void dm_graph_destroy(struct dm_graph *graph)
{
    if (!graph)
        return;
    struct list *lists[] = {&graph->nodes,        &graph->inputs, &graph->params, &graph->outputs,
                            &graph->output_names, &graph->slots,  &graph->origins};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]->items);
    free(graph->table);
    dm_error_clear(&graph->error);
    dm_arena_finish(&graph->arena);
    free(graph);
}

demist_builder *dm_graph_builder(struct dm_graph *graph)
{
    return &graph->builder;
}

demist_status dm_graph_finish(struct dm_graph *graph, struct dm_error *err)
{
    if (graph->error.status == DEMIST_OK && graph->outputs.count == 0)
        FAIL(graph, DEMIST_INVALID, "it has no output");
    if (graph->error.status != DEMIST_OK)
        return dm_fail(err, graph->error.status, "%s",
                       graph->error.text ? graph->error.text : dm_status_text(graph->error.status));
    graph->finished = true;
    graph->view = (demist_graph){
        .size = sizeof graph->view,
        .name = graph->name,
        .n_nodes = graph->nodes.count,
        .nodes = (const demist_node *const *)graph->nodes.items,
        .n_inputs = graph->inputs.count,
        .inputs = (const demist_node *const *)graph->inputs.items,
        .n_params = graph->params.count,
        .params = (const demist_node *const *)graph->params.items,
        .n_outputs = graph->outputs.count,
        .outputs = (const demist_node *const *)graph->outputs.items,
        .output_names = (const char *const *)graph->output_names.items,
        .n_scalars = graph->slots.count,
    };
    return DEMIST_OK;
}

const demist_graph *dm_graph_view(const struct dm_graph *graph)
{
    return &graph->view;
}

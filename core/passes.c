/* The passes: see passes.h. They work on one table with an item for each node of the input graph,
 * in topological order, and rewrite which items an item reads; the new graph is written out once,
 * at the end. What an item stands for is its `proto`, whose inputs are other protos, so that a
 * proposal can be shown to the backend before any node of the new graph exists. */
#include "passes.h"

#include <string.h>

#include "evaluate.h"
#include "shape.h"

/* A folded value may be larger than its inputs up to this many elements: a table that is expanded
 * costs less to expand again than to store. */
enum { FOLD_ANYWAY = 1 << 16, LONGEST_CHAIN = 64 };

struct item {
    demist_node proto;        /* inputs: protos */
    int32_t *inputs;          /* indices of items */
    bool live, output, known; /* known: a constant, or folded into one */
    int32_t alias; /* the item that takes its place: itself but for a reshape to the same shape */
    int32_t users, user;     /* items that read it; the last of them */
    int32_t last;            /* of the chain that it was fused into, −1: none */
    int32_t first, pattern;  /* of a last item */
    const demist_node *made; /* in the new graph */
    float *read;             /* data for folding, if the node has none */
};

struct lowering {
    const struct dm_graph *source;
    const demist_graph *in; /* the view of it */
    const struct dm_lower_options *options;
    struct dm_graph *out;
    struct dm_arena scratch;
    struct item *items;
    int32_t n;
    struct dm_error *err;
};

static demist_status no_memory(struct lowering *l)
{
    return dm_fail_memory(l->err, "lowering a graph");
}

static demist_status init_items(struct lowering *l)
{
    l->n = l->in->n_nodes;
    l->items = dm_arena_array(&l->scratch, (size_t)l->n, sizeof *l->items);
    if (!l->items)
        return no_memory(l);
    for (int32_t i = 0; i < l->n; i++) {
        struct item *item = &l->items[i];
        size_t n = (size_t)l->in->nodes[i]->n_inputs;
        item->proto = *l->in->nodes[i];
        item->inputs = dm_arena_array(&l->scratch, n, sizeof *item->inputs);
        const demist_node **inputs = dm_arena_array(&l->scratch, n, sizeof(const demist_node *));
        if (!item->inputs || !inputs)
            return no_memory(l);
        for (size_t k = 0; k < n; k++) {
            item->inputs[k] = item->proto.inputs[k]->id;
            inputs[k] = &l->items[item->inputs[k]].proto;
        }
        item->proto.inputs = inputs;
        item->alias = i;
        item->last = -1;
    }
    for (int32_t i = 0; i < l->in->n_outputs; i++)
        l->items[l->in->outputs[i]->id].output = true;
    return DEMIST_OK;
}

/* Marks what the outputs need; a known item needs nothing. */
static void mark_live(struct lowering *l)
{
    for (int32_t i = l->n - 1; i >= 0; i--)
        l->items[i].live = l->items[i].output || l->items[i].proto.op == DEMIST_OP_INPUT;
    for (int32_t i = l->n - 1; i >= 0; i--) {
        const struct item *item = &l->items[i];
        for (int32_t k = 0; item->live && !item->known && k < item->proto.n_inputs; k++)
            l->items[item->inputs[k]].live = true;
    }
}

static demist_status check_params(const struct lowering *l)
{
    for (int32_t i = 0; i < l->n; i++)
        if (l->items[i].live && l->items[i].proto.op == DEMIST_OP_PARAM &&
            !dm_graph_has_param(l->source, &l->items[i].proto))
            return dm_fail(l->err, DEMIST_INVALID, "graph '%s': parameter '%s' has no data",
                           l->in->name, l->items[i].proto.name);
    return DEMIST_OK;
}

/* ---- Folding ---- */

static bool foldable(const struct lowering *l, const struct item *item)
{
    int64_t elements = 0;
    if (!item->live || demist_is_batched(&item->proto) || !dm_can_evaluate(item->proto.op))
        return false;
    for (int32_t k = 0; k < item->proto.n_inputs; k++) {
        if (!l->items[item->inputs[k]].known)
            return false;
        elements += demist_elements(item->proto.inputs[k]);
    }
    int64_t own = demist_elements(&item->proto);
    return own <= elements || own <= FOLD_ANYWAY;
}

/* What a known item holds; a parameter that was left in its file is read. */
static demist_status data_of(struct lowering *l, struct item *item, const void **data)
{
    if (item->proto.data || item->read) {
        *data = item->proto.data ? item->proto.data : item->read;
        return DEMIST_OK;
    }
    item->read = dm_arena_array(&l->scratch, (size_t)demist_elements(&item->proto), sizeof(float));
    *data = item->read;
    return item->read ? dm_graph_read_param(l->source, &item->proto, item->read, l->err)
                      : no_memory(l);
}

static demist_status fold(struct lowering *l, struct item *item)
{
    int32_t n = item->proto.n_inputs;
    const void **values = dm_arena_array(&l->scratch, (size_t)n, sizeof(const void *));
    void *data = dm_graph_data(l->out, (size_t)demist_elements(&item->proto) * 4);
    if (!values || !data)
        return no_memory(l);
    for (int32_t k = 0; k < n; k++)
        DM_TRY(data_of(l, &l->items[item->inputs[k]], &values[k]));
    dm_evaluate(&item->proto, values, data);
    item->proto.op = DEMIST_OP_CONSTANT;
    item->proto.attrs = demist_no_attrs();
    item->proto.n_inputs = 0;
    item->proto.data = data;
    item->known = true;
    return DEMIST_OK;
}

/* A reshaped parameter is a parameter of that shape: it has the same data, which need no copy. */
static void fold_reshape(struct item *item, const struct item *param)
{
    item->proto.op = DEMIST_OP_PARAM;
    item->proto.attrs = demist_no_attrs();
    item->proto.n_inputs = 0;
    item->proto.data = param->proto.data;
    item->read = param->read;
    item->known = true;
}

static bool reshapes_param(const struct lowering *l, const struct item *item)
{
    const struct item *from =
        item->proto.op == DEMIST_OP_RESHAPE ? &l->items[item->inputs[0]] : NULL;
    return from && item->live && from->known && from->proto.op == DEMIST_OP_PARAM;
}

static demist_status fold_constants(struct lowering *l)
{
    for (int32_t i = 0; i < l->n; i++) {
        struct item *item = &l->items[i];
        if (item->proto.op == DEMIST_OP_CONSTANT)
            item->known = true;
        else if (item->proto.op == DEMIST_OP_PARAM)
            item->known = l->options->frozen;
        else if (reshapes_param(l, item))
            fold_reshape(item, &l->items[item->inputs[0]]);
        else if (foldable(l, item))
            DM_TRY(fold(l, item));
    }
    return DEMIST_OK;
}

/* ---- Reshapes ---- */

static bool same_shape(const demist_node *a, const demist_node *b)
{
    return a->rank == b->rank && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

static void read_from(struct lowering *l, struct item *item, int32_t k, int32_t from)
{
    const demist_node **inputs = (const demist_node **)(uintptr_t)item->proto.inputs;
    item->inputs[k] = from;
    inputs[k] = &l->items[from].proto;
}

/* A reshape reads what the reshape before it read; one that changes nothing gives way to what it
 * reads, unless an output names it. */
static void merge_reshapes(struct lowering *l)
{
    for (int32_t i = 0; i < l->n; i++) {
        struct item *item = &l->items[i];
        for (int32_t k = 0; k < item->proto.n_inputs; k++)
            read_from(l, item, k, l->items[item->inputs[k]].alias);
        if (item->proto.op != DEMIST_OP_RESHAPE)
            continue;
        const struct item *before = &l->items[item->inputs[0]];
        if (before->proto.op == DEMIST_OP_RESHAPE)
            read_from(l, item, 0, before->inputs[0]);
        if (!item->output && same_shape(&item->proto, item->proto.inputs[0]))
            item->alias = item->inputs[0];
    }
}

/* ---- Fusion ---- */

static void count_users(struct lowering *l)
{
    for (int32_t i = 0; i < l->n; i++)
        l->items[i].user = -1;
    for (int32_t i = 0; i < l->n; i++)
        for (int32_t k = 0; l->items[i].live && k < l->items[i].proto.n_inputs; k++) {
            struct item *read = &l->items[l->items[i].inputs[k]];
            read->users += read->user != i;
            read->user = i;
        }
}

static bool is_activation(demist_op op)
{
    return op == DEMIST_OP_RELU || op == DEMIST_OP_SILU || op == DEMIST_OP_GELU ||
           op == DEMIST_OP_SIGMOID || op == DEMIST_OP_TANH;
}

static bool is_elementwise(demist_op op)
{
    return op != DEMIST_OP_CAST && ((op >= DEMIST_OP_NEG && op <= DEMIST_OP_CLAMP) ||
                                    (op >= DEMIST_OP_ADD && op <= DEMIST_OP_LINCOMB));
}

static bool starts(demist_pattern pattern, demist_op op)
{
    switch (pattern) {
    case DEMIST_PATTERN_PRODUCT:
        return op == DEMIST_OP_CONV2D || op == DEMIST_OP_CONV_TRANSPOSE2D || op == DEMIST_OP_LINEAR;
    case DEMIST_PATTERN_NORM:
        return op == DEMIST_OP_GROUP_NORM || op == DEMIST_OP_LAYER_NORM ||
               op == DEMIST_OP_BATCH_NORM;
    case DEMIST_PATTERN_ELEMENTWISE:
        return is_elementwise(op);
    }
    return false;
}

/* The other operand of a binary node of which one is `value`; NULL when both are. */
static const demist_node *other_operand(const demist_node *node, const demist_node *value)
{
    const demist_node *other = node->inputs[node->inputs[0] == value];
    return other == value ? NULL : other;
}

/* Whether x broadcast to y has size 1 everywhere but in the batch and on `axis`. */
static bool per_channel(const demist_node *x, const demist_node *y, int32_t axis)
{
    for (int32_t i = 0; i < x->rank; i++) {
        int32_t at = y->rank - x->rank + i;
        if (x->shape[i] != 1 && x->shape[i] != DEMIST_BATCH && at != axis)
            return false;
    }
    return true;
}

/* Whether `node`, the only reader of `value`, may follow it in a chain that began with `first`. */
static bool extends(demist_pattern pattern, const demist_node *first, const demist_node *value,
                    const demist_node *node)
{
    demist_op op = node->op;
    if (!same_shape(node, value))
        return false;
    if (pattern == DEMIST_PATTERN_ELEMENTWISE)
        return is_elementwise(op);
    if (is_activation(op) || op == DEMIST_OP_AFFINE)
        return true;
    if (pattern == DEMIST_PATTERN_PRODUCT)
        return (op == DEMIST_OP_BATCH_NORM && node->inputs[0] == value) ||
               (op == DEMIST_OP_ADD && other_operand(node, value));
    if (op != DEMIST_OP_ADD && op != DEMIST_OP_MUL)
        return false;
    const demist_node *other = other_operand(node, value);
    return other &&
           per_channel(other, node, first->op == DEMIST_OP_LAYER_NORM ? node->rank - 1 : 1);
}

/* An item that computes something and is in no chain yet. */
static bool is_free(const struct item *item)
{
    return item->live && !item->known && item->last < 0;
}

/* The longest chain of the pattern from item i; its length. */
static int32_t find_chain(const struct lowering *l, demist_pattern pattern, int32_t i,
                          int32_t chain[LONGEST_CHAIN])
{
    int32_t length = 0;
    chain[length++] = i;
    while (length < LONGEST_CHAIN) {
        const struct item *item = &l->items[i];
        if (item->output || item->users != 1 || !is_free(&l->items[item->user]))
            break;
        if (!extends(pattern, &l->items[chain[0]].proto, &item->proto, &l->items[item->user].proto))
            break;
        chain[length++] = i = item->user;
    }
    return length;
}

/* Node `item` as the core knows it: as the new graph's, or as a proto before that exists. */
static const demist_node *value_of(const struct item *item, bool final)
{
    return final ? item->made : &item->proto;
}

static int32_t place_in(const demist_node *value, int32_t n, const demist_node *const *list)
{
    for (int32_t i = 0; i < n; i++)
        if (list[i] == value)
            return i;
    return -1;
}

/* Builds the body of a FUSED node in `arena`, and its inputs: what the body reads from outside,
 * each once. */
static demist_status make_fused(const struct lowering *l, struct dm_arena *arena,
                                demist_pattern pattern, int32_t length, const int32_t *chain,
                                bool final, demist_node *fused)
{
    size_t n_inputs = 0;
    for (int32_t i = 0; i < length; i++)
        n_inputs += (size_t)l->items[chain[i]].proto.n_inputs;
    demist_node *nodes = dm_arena_array(arena, (size_t)length, sizeof *nodes);
    const demist_node **body = dm_arena_array(arena, (size_t)length, sizeof(const demist_node *));
    const demist_node **outer = dm_arena_array(arena, n_inputs, sizeof(const demist_node *));
    const demist_node **inner = dm_arena_array(arena, n_inputs, sizeof(const demist_node *));
    if (!nodes || !body || !outer || !inner)
        return dm_fail_memory(l->err, "lowering a graph");

    int32_t n_outer = 0;
    for (int32_t i = 0; i < length; i++) {
        const struct item *item = &l->items[chain[i]];
        nodes[i] = item->proto;
        nodes[i].id = i;
        nodes[i].name = dm_arena_strdup(arena, item->proto.name);
        nodes[i].inputs = inner;
        if (!nodes[i].name)
            return dm_fail_memory(l->err, "lowering a graph");
        for (int32_t k = 0; k < item->proto.n_inputs; k++) {
            bool from_chain = i > 0 && item->inputs[k] == chain[i - 1];
            const demist_node *value =
                from_chain ? &nodes[i - 1] : value_of(&l->items[item->inputs[k]], final);
            *inner++ = value;
            if (!from_chain && place_in(value, n_outer, outer) < 0)
                outer[n_outer++] = value;
        }
        body[i] = &nodes[i];
    }
    *fused = nodes[length - 1]; /* its name, type and shape */
    fused->op = DEMIST_OP_FUSED;
    fused->attrs = demist_no_attrs();
    fused->attrs.fused.pattern = (int32_t)pattern;
    fused->n_inputs = n_outer;
    fused->inputs = outer;
    fused->n_body = length;
    fused->body = body;
    return DEMIST_OK;
}

/* Proposes the chain, then shorter and shorter ones, and notes what the backend accepts. */
static demist_status propose(struct lowering *l, demist_pattern pattern, int32_t length,
                             const int32_t *chain)
{
    for (; length >= 2; length--) {
        demist_node fused;
        const char *why = NULL;
        DM_TRY(make_fused(l, &l->scratch, pattern, length, chain, false, &fused));
        if (!l->options->supports(l->options->user, &fused, &why))
            continue;
        int32_t last = chain[length - 1];
        for (int32_t i = 0; i < length; i++)
            l->items[chain[i]].last = last;
        l->items[last].first = chain[0];
        l->items[last].pattern = (int32_t)pattern;
        return DEMIST_OK;
    }
    return DEMIST_OK;
}

/* Products take first: a residual belongs to the product that it is added to, not to the
 * elementwise op before it. */
static demist_status fuse(struct lowering *l)
{
    static const demist_pattern patterns[] = {DEMIST_PATTERN_PRODUCT, DEMIST_PATTERN_NORM,
                                              DEMIST_PATTERN_ELEMENTWISE};
    count_users(l);
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++)
        for (int32_t i = 0; i < l->n; i++) {
            int32_t chain[LONGEST_CHAIN];
            if (!is_free(&l->items[i]) || !starts(patterns[p], l->items[i].proto.op))
                continue;
            int32_t length = find_chain(l, patterns[p], i, chain);
            DM_TRY(propose(l, patterns[p], length, chain));
        }
    return DEMIST_OK;
}

/* ---- The new graph ---- */

static bool is_leaf(demist_op op)
{
    return op == DEMIST_OP_INPUT || op == DEMIST_OP_PARAM || op == DEMIST_OP_CONSTANT ||
           op == DEMIST_OP_SCALAR;
}

static demist_status check_supported(const struct lowering *l, const demist_node *node)
{
    const char *why = NULL;
    if (!l->options->supports || is_leaf(node->op) ||
        l->options->supports(l->options->user, node, &why))
        return DEMIST_OK;
    return dm_fail(l->err, DEMIST_UNSUPPORTED,
                   "graph '%s': the backend cannot compute node '%s' (%s, %s): %s", l->in->name,
                   node->name, demist_op_name(node->op), dm_node_shape_text(node).text,
                   why ? why : "it gives no reason");
}

static demist_status emit_fused(struct lowering *l, struct item *item, demist_node *node)
{
    int32_t chain[LONGEST_CHAIN], length = 0, last = item->last;
    for (int32_t i = item->first;; i = l->items[i].user) {
        chain[length++] = i;
        if (i == last)
            break;
    }
    /* The body lives as long as the graph, so it is built in its memory. */
    return make_fused(l, dm_graph_arena(l->out), (demist_pattern)item->pattern, length, chain, true,
                      node);
}

static demist_status emit(struct lowering *l, struct item *item)
{
    demist_node node = item->proto;
    if (item->last >= 0) {
        DM_TRY(emit_fused(l, item, &node));
    } else {
        const demist_node **inputs =
            dm_arena_array(&l->scratch, (size_t)node.n_inputs, sizeof(const demist_node *));
        if (!inputs)
            return no_memory(l);
        for (int32_t k = 0; k < node.n_inputs; k++)
            inputs[k] = l->items[item->inputs[k]].made;
        node.inputs = inputs;
        DM_TRY(check_supported(l, &node));
    }
    item->made = dm_graph_append(l->out, &node);
    return item->made ? DEMIST_OK : no_memory(l);
}

static demist_status emit_all(struct lowering *l)
{
    demist_builder *b = dm_graph_builder(l->out);
    for (int32_t i = 0; i < l->n; i++)
        if (l->items[i].live && (l->items[i].last < 0 || l->items[i].last == i))
            DM_TRY(emit(l, &l->items[i]));
    for (int32_t i = 0; i < l->in->n_outputs; i++)
        b->output(b, l->in->output_names[i], l->items[l->in->outputs[i]->id].made);
    return dm_graph_finish(l->out, l->err);
}

static demist_status list_origins(const struct lowering *l, const struct dm_origin **out)
{
    struct dm_origin *origins = dm_graph_alloc(l->out, (size_t)l->n, sizeof *origins);
    if (!origins)
        return dm_fail_memory(l->err, "lowering a graph");
    for (int32_t i = 0; i < l->n; i++) {
        const struct item *item = &l->items[i];
        if (item->made)
            origins[i] = (struct dm_origin){DM_FATE_KEPT, item->made->id};
        else if (item->last >= 0)
            origins[i] = (struct dm_origin){DM_FATE_INSIDE, l->items[item->last].made->id};
        else
            origins[i] = (struct dm_origin){DM_FATE_REMOVED, -1};
    }
    *out = origins;
    return DEMIST_OK;
}

static demist_status lower(struct lowering *l, const struct dm_origin **origins)
{
    DM_TRY(init_items(l));
    mark_live(l);
    DM_TRY(check_params(l));
    DM_TRY(fold_constants(l));
    if (!l->options->observe_all)
        merge_reshapes(l);
    mark_live(l);
    if (!l->options->observe_all && l->options->supports)
        DM_TRY(fuse(l));
    DM_TRY(emit_all(l));
    return list_origins(l, origins);
}

demist_status dm_graph_lower(const struct dm_graph *in, const struct dm_lower_options *options,
                             struct dm_lowered *out, struct dm_error *err)
{
    struct lowering l = {.source = in, .in = dm_graph_view(in), .options = options, .err = err};
    *out = (struct dm_lowered){NULL, NULL};
    DM_TRY(dm_graph_create(l.in->name, NULL, &l.out, err));
    dm_graph_copy_slots(l.out, in);
    demist_status status = lower(&l, &out->origins);
    dm_arena_finish(&l.scratch);
    if (status != DEMIST_OK) {
        dm_graph_destroy(l.out);
        out->origins = NULL;
        return status;
    }
    out->graph = l.out;
    return DEMIST_OK;
}

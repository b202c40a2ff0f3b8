/* From a graph to a list of steps: walks the nodes once, gives every value a place, and lets each
 * op add its steps. Memory is taken here and at bind; execute takes none. */
#include "cpu_program.h"

#include <demist/checks.h>

#include <inttypes.h>
#include <string.h>

enum { ALIGN = 64, HUGE_PAGE = 2 << 20 };
enum { PASS = 48 << 20 }; /* bytes of working memory of one pass through the steps */

/* Blocks that live as long as the program. */
struct cpu_memory {
    struct cpu_memory *next;
    char padding[ALIGN - sizeof(struct cpu_memory *)];
};

/* Where a node's value goes if a concatenation takes it: channels from `offset` on. */
struct placement {
    const demist_node *concat; /* NULL: nowhere */
    int64_t offset;
};

/* Memory for parameters while a step is made of them, used again for the next step. */
struct room {
    float *data;
    int64_t n;
};

struct cpu_building {
    const demist_graph *graph;
    const demist_param_reader *reader; /* NULL: nodes have their data */
    struct room rooms[CPU_MAX_SOURCES];
    int32_t rooms_taken;
    struct placement *placements; /* by node id */
    float *floats;                /* what is left of a block for parameters */
    int64_t floats_left;
};

static const demist_host *host_of(const demist_program *p)
{
    return p->device->host;
}

/* --- memory --- */

static void *new_block(demist_program *p, size_t bytes)
{
    struct cpu_memory *m = NULL;
    if (bytes <= SIZE_MAX / 2) {
        const size_t all = sizeof *m + bytes;
        m = host_of(p)->alloc(host_of(p), all, all >= (size_t)HUGE_PAGE ? HUGE_PAGE : ALIGN);
    } else {
        host_of(p)->fail(host_of(p), DEMIST_NO_MEMORY, "a block of %zu bytes is more than memory",
                         bytes);
    }
    if (!m)
        return NULL;
    m->next = p->memory;
    p->memory = m;
    return m + 1;
}

void *cpu_new(demist_program *p, size_t bytes)
{
    void *block = new_block(p, bytes);
    if (block)
        memset(block, 0, bytes);
    return block;
}

/* Parameters lie side by side in large blocks: on huge pages, and each layer's where the last one
 * ended, so that streaming through them misses no translation. */
float *cpu_new_floats(demist_program *p, int64_t n)
{
    enum { LEAST = 4096, MOST = 32 << 20 }; /* floats of a block */
    struct cpu_building *b = p->building;
    const int64_t so_far = p->param_bytes / 4;
    p->param_bytes += n * 4;
    n = cpu_round_up(n, 16);
    if (n > b->floats_left) {
        int64_t chunk = so_far < LEAST ? LEAST : cpu_least(so_far, MOST);
        chunk = n > chunk ? n : chunk;
        b->floats = new_block(p, (size_t)chunk * 4);
        b->floats_left = b->floats ? chunk : 0;
        if (!b->floats)
            return NULL;
    }
    float *block = b->floats;
    b->floats += n;
    b->floats_left -= n;
    return block;
}

/* Doubles the room of a growing array, whose old copy stays behind with the program. */
static void *grow(demist_program *p, void *old, int32_t n, int32_t *room, size_t size)
{
    if (n < *room)
        return old;
    const int32_t more = *room ? 2 * *room : 64;
    void *bigger = cpu_new(p, (size_t)more * size);
    if (!bigger)
        return NULL;
    if (old)
        memcpy(bigger, old, (size_t)n * size);
    *room = more;
    return bigger;
}

static int32_t new_storage(demist_program *p, struct cpu_storage storage)
{
    struct cpu_storage *list =
        grow(p, p->storages, p->n_storages, &p->room_storages, sizeof *p->storages);
    if (!list)
        return -1;
    p->storages = list;
    storage.first = storage.last = p->n_steps;
    list[p->n_storages] = storage;
    return p->n_storages++;
}

int32_t cpu_new_storage_as(demist_program *p, bool bf16, bool batched, int64_t elements)
{
    return new_storage(p, (struct cpu_storage){.place = CPU_ARENA,
                                               .batched = batched,
                                               .type = bf16 ? CPU_BF16 : CPU_F32,
                                               .elements = elements});
}

int32_t cpu_new_storage(demist_program *p, bool batched, int64_t elements)
{
    return cpu_new_storage_as(p, false, batched, elements);
}

void cpu_touch(demist_program *p, const demist_view *view)
{
    p->storages[view->storage].last = p->n_steps;
}

struct cpu_step *cpu_add_step(demist_program *p, int32_t node,
                              demist_status (*run)(struct cpu_run *, const void *), void *op)
{
    struct cpu_step *list = grow(p, p->steps, p->n_steps, &p->room_steps, sizeof *p->steps);
    if (!list)
        return NULL;
    p->steps = list;
    list[p->n_steps] = (struct cpu_step){.node = node, .run = run, .op = op};
    return &list[p->n_steps++];
}

void cpu_need_scratch(demist_program *p, int64_t floats)
{
    const int64_t bytes = cpu_round_up(floats * 4, 4096);
    if (bytes > p->scratch_bytes)
        p->scratch_bytes = bytes;
}

/* --- values --- */

bool cpu_is_fixed(const demist_node *node)
{
    return node->op == DEMIST_OP_PARAM || node->op == DEMIST_OP_CONSTANT;
}

static demist_status missing_data(const demist_program *p, const demist_node *node)
{
    return host_of(p)->fail(host_of(p), DEMIST_INVALID, "node '%s' (%s) has no data", node->name,
                            demist_op_name(node->op));
}

/* Whether there are data at compile time: in the node or to be read. */
static bool has_data(const demist_program *p, const demist_node *node)
{
    return node->data || (node->op == DEMIST_OP_PARAM && p->building->reader);
}

static demist_status read_data(const demist_program *p, const demist_node *node, float *to)
{
    const demist_param_reader *reader = p->building->reader;
    if (!node->data)
        return reader->read(reader, node, to);
    memcpy(to, node->data, (size_t)demist_elements(node) * sizeof *to);
    return DEMIST_OK;
}

/* A parameter or constant as a tensor of the program's own. */
static demist_status define_fixed(demist_program *p, const demist_node *node)
{
    struct cpu_value *value = &p->values[node->id];
    const int64_t n = demist_elements(node);
    float *data = cpu_new_floats(p, n);
    if (!data)
        return DEMIST_NO_MEMORY;
    if (has_data(p, node))
        CPU_TRY(read_data(p, node, data));
    else if (node->op == DEMIST_OP_CONSTANT || p->flags & DEMIST_COMPILE_FROZEN)
        return missing_data(p, node);
    const int32_t storage =
        new_storage(p, (struct cpu_storage){.place = CPU_FIXED, .elements = n, .data = data});
    if (storage < 0)
        return DEMIST_NO_MEMORY;
    value->view = demist_view_dense(storage, false, node->rank, node->shape);
    value->defined = true;
    value->ready = -1;
    return DEMIST_OK;
}

demist_status cpu_value_of(demist_program *p, const demist_node *node, demist_view *view)
{
    CPU_TRY(cpu_value_as_stored(p, node, view));
    return cpu_need_format(p, node->id, false, false, view);
}

bool cpu_keeps_bf16(const demist_program *p, const demist_node *node)
{
    const demist_graph *graph = p->building->graph;
    for (int32_t i = 0; i < graph->n_outputs; i++)
        if (graph->outputs[i] == node)
            return false;
    return p->precision == DEMIST_PRECISION_BF16 && node->dtype == DEMIST_F32 && node->rank > 2 &&
           demist_is_batched(node);
}

demist_status cpu_value_as_stored(demist_program *p, const demist_node *node, demist_view *view)
{
    struct cpu_value *value = &p->values[node->id];
    if (!value->defined && cpu_is_fixed(node))
        CPU_TRY(define_fixed(p, node));
    if (!value->defined)
        return host_of(p)->fail(host_of(p), DEMIST_INVALID,
                                "node '%s' (%s) is used before it is computed: the graph is not in "
                                "topological order",
                                node->name, demist_op_name(node->op));
    *view = value->view;
    return DEMIST_OK;
}

/* Reads the parameter into memory that lasts until cpu_end_data. */
static demist_status stage(demist_program *p, const demist_node *node, const float **data)
{
    const demist_host *host = host_of(p);
    struct room *room = &p->building->rooms[p->building->rooms_taken];
    const int64_t n = demist_elements(node);
    if (room->n < n) {
        host->free(host, room->data);
        *room = (struct room){host->alloc(host, (size_t)n * sizeof *room->data, 0), n};
        if (!room->data) {
            room->n = 0;
            return DEMIST_NO_MEMORY;
        }
    }
    p->building->rooms_taken++;
    *data = room->data;
    return read_data(p, node, room->data);
}

void cpu_end_data(demist_program *p)
{
    p->building->rooms_taken = 0;
}

static void free_rooms(demist_program *p)
{
    for (int32_t i = 0; i < CPU_MAX_SOURCES; i++)
        host_of(p)->free(host_of(p), p->building->rooms[i].data);
}

demist_status cpu_data_of(demist_program *p, const demist_node *node, const float **data,
                          bool *pending)
{
    demist_view view = {.rank = 0};
    *data = node->data;
    if (p->flags & DEMIST_COMPILE_FROZEN)
        return node->data          ? DEMIST_OK
               : has_data(p, node) ? stage(p, node, data)
                                   : missing_data(p, node);
    *pending = *pending || !has_data(p, node);
    CPU_TRY(cpu_value_of(p, node, &view));
    *data = p->storages[view.storage].data;
    return DEMIST_OK;
}

/* --- where results go --- */

/* Strides with axes in memory as order[] says, the last one innermost; returns the elements of an
 * image. An innermost axis that is not the value's last one is padded to whole vectors. */
static int64_t lay_out(demist_view *view, const int32_t *order)
{
    int64_t step = 1;
    for (int32_t i = view->rank - 1; i >= 0; i--) {
        /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): there is one for each axis */
        const int32_t axis = order[i];
        if (view->batched && axis == 0) {
            view->stride[0] = step;
            break;
        }
        view->stride[axis] = step;
        step *= view->shape[axis];
        if (i == view->rank - 1 && axis != view->rank - 1 && step > 1)
            step = cpu_round_up(step, CPU_CHANNELS);
    }
    return step;
}

static demist_status new_value(demist_program *p, const demist_node *node, bool bf16,
                               const int32_t *order, demist_view *view)
{
    *view = (demist_view){
        .batched = demist_is_batched(node), .type = bf16 ? CPU_BF16 : CPU_F32, .rank = node->rank};
    memcpy(view->shape, node->shape, sizeof view->shape);
    const int64_t elements = lay_out(view, order);
    view->storage = cpu_new_storage_as(p, bf16, view->batched, elements);
    return view->storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

static void order_pixels(int32_t rank, int32_t *order)
{
    demist_order_last(rank, rank > 1 ? 1 : 0, order);
}

/* The part of its concatenation's storage that the node's value goes to; makes the storage when
 * the first part comes. */
static demist_status placed(demist_program *p, const demist_node *node, bool bf16,
                            demist_view *view)
{
    const struct placement *to = &p->building->placements[node->id];
    struct cpu_value *whole = &p->values[to->concat->id];
    if (!whole->defined) {
        int32_t order[DEMIST_MAX_RANK];
        order_pixels(to->concat->rank, order);
        bf16 = bf16 && cpu_keeps_bf16(p, to->concat);
        CPU_TRY(new_value(p, to->concat, bf16, order, &whole->view));
        whole->defined = true;
    }
    *view = whole->view;
    view->shape[1] = node->shape[1];
    view->offset += to->offset;
    return DEMIST_OK;
}

demist_status cpu_result_pixels(demist_program *p, const demist_node *node, bool bf16,
                                demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK];
    if (p->building->placements[node->id].concat)
        return placed(p, node, bf16, view);
    order_pixels(node->rank, order);
    return new_value(p, node, bf16, order, view);
}

demist_status cpu_result_dense(demist_program *p, const demist_node *node, bool bf16,
                               demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK];
    demist_order_rows(node->rank, order);
    return new_value(p, node, bf16, order, view);
}

demist_status cpu_result_like(demist_program *p, const demist_node *node, bool bf16,
                              const demist_view *like, demist_view *view)
{
    if (p->building->placements[node->id].concat)
        return placed(p, node, bf16, view);
    int32_t order[DEMIST_MAX_RANK];
    for (int32_t i = 0; i < node->rank; i++) {
        int32_t at = i;
        const bool images = demist_is_batched(node) && i == 0;
        while (!images && at > (demist_is_batched(node) ? 1 : 0) && like->shape[i] != 1 &&
               (like->shape[order[at - 1]] == 1 || like->stride[order[at - 1]] < like->stride[i])) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    for (int32_t i = 0; i < node->rank; i++)
        if (like->stride[i] == 0 && like->shape[i] != 1)
            return cpu_result_dense(p, node, bf16, view); /* a repeated axis tells no order */
    return new_value(p, node, bf16, order, view);
}

demist_status cpu_materialise(demist_program *p, int32_t node, const int32_t *order, bool bf16,
                              demist_view *view)
{
    const demist_view from = *view;
    const int64_t elements = lay_out(view, order);
    view->offset = 0;
    view->type = bf16 ? CPU_BF16 : CPU_F32;
    view->storage = cpu_new_storage_as(p, bf16, view->batched, elements);
    if (view->storage < 0)
        return DEMIST_NO_MEMORY;
    return cpu_add_copy(p, node, view, &from);
}

demist_status cpu_need_pixels(demist_program *p, int32_t node, demist_view *view)
{
    bool fits = view->rank < 2 || view->stride[1] == 1 || view->shape[1] == 1;
    int64_t inner = -1; /* stride that the next axis to the left must have */
    for (int32_t i = view->rank - 1; i >= 2; i--) {
        if (view->shape[i] == 1)
            continue;
        fits = fits && (inner < 0 || view->stride[i] == inner);
        inner = view->stride[i] * view->shape[i];
    }
    if (fits)
        return DEMIST_OK;
    int32_t order[DEMIST_MAX_RANK];
    order_pixels(view->rank, order);
    return cpu_materialise(p, node, order, view->type == CPU_BF16, view);
}

demist_status cpu_need_format(demist_program *p, int32_t node, bool pixels, bool bf16,
                              demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK];
    if ((view->type == CPU_BF16) == bf16)
        return DEMIST_OK;
    if (pixels)
        order_pixels(view->rank, order);
    for (int32_t i = 0; !pixels && i < view->rank; i++)
        order[i] = i;
    return cpu_materialise(p, node, order, bf16, view);
}

demist_status cpu_need_rows(demist_program *p, int32_t node, demist_view *view)
{
    const int32_t last = view->rank - 1;
    if (view->rank == 0 || view->stride[last] == 1 || view->shape[last] == 1)
        return DEMIST_OK;
    int32_t order[DEMIST_MAX_RANK];
    demist_order_rows(view->rank, order);
    return cpu_materialise(p, node, order, view->type == CPU_BF16, view);
}

/* --- concatenations of channels: their parts are written where they belong --- */

/* Whether the op writes a new value of its own, pixel-major where it is asked to. */
static bool writes_pixels(const demist_node *node)
{
    const demist_op op = node->op == DEMIST_OP_FUSED ? node->body[0]->op : node->op;
    switch (op) {
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
    case DEMIST_OP_UPSAMPLE_NEAREST:
        return true;
    default:
        return op >= DEMIST_OP_NEG && op < DEMIST_OP_SUM && op != DEMIST_OP_CAST &&
               node->dtype == DEMIST_F32;
    }
}

static void place_parts(demist_program *p, const demist_node *concat)
{
    int64_t offset = 0;
    if (concat->op != DEMIST_OP_CONCAT || concat->rank != 4 || concat->attrs.axis.axis != 1 ||
        !demist_is_batched(concat) || concat->dtype != DEMIST_F32)
        return;
    for (int32_t i = 0; i < concat->n_inputs; i++) {
        const demist_node *part = concat->inputs[i];
        struct placement *placement = &p->building->placements[part->id];
        const bool last = i == concat->n_inputs - 1;
        if (!placement->concat && demist_is_batched(part) && writes_pixels(part) &&
            offset % CPU_CHANNELS == 0 && (last || part->shape[1] % CPU_CHANNELS == 0))
            *placement = (struct placement){concat, offset};
        offset += part->shape[1];
    }
}

demist_status cpu_add_concat(demist_program *p, const demist_node *node)
{
    struct cpu_value *value = &p->values[node->id];
    const int32_t axis = node->attrs.axis.axis;
    demist_view whole = value->view;
    if (!value->defined) {
        const bool pixels = node->rank == 4 && axis == 1 && node->dtype == DEMIST_F32;
        bool bf16 = false;
        for (int32_t i = 0; i < node->n_inputs; i++)
            bf16 = bf16 || p->values[node->inputs[i]->id].view.type == CPU_BF16;
        bf16 = bf16 && cpu_keeps_bf16(p, node);
        CPU_TRY(pixels ? cpu_result_pixels(p, node, bf16, &whole)
                       : cpu_result_dense(p, node, bf16, &whole));
    }
    int64_t offset = 0;
    for (int32_t i = 0; i < node->n_inputs; i++) {
        demist_view from = {0}, to = whole;
        CPU_TRY(cpu_value_as_stored(p, node->inputs[i], &from));
        to.shape[axis] = from.shape[axis];
        to.offset += offset * whole.stride[axis];
        offset += from.shape[axis];
        if (from.storage != to.storage || from.offset != to.offset)
            CPU_TRY(cpu_add_copy(p, node->id, &to, &from));
    }
    value->view = whole;
    value->defined = true;
    return DEMIST_OK;
}

/* --- views --- */

static demist_status add_view(demist_program *p, const demist_node *node)
{
    demist_view from = {0}, to = {0};
    CPU_TRY(cpu_value_as_stored(p, node->inputs[0], &from));
    if (!demist_view_of_node(node, &from, &to)) {
        int32_t order[DEMIST_MAX_RANK];
        demist_order_rows(DEMIST_MAX_RANK, order);
        CPU_TRY(cpu_materialise(p, node->id, order, from.type == CPU_BF16, &from));
        demist_view_of_node(node, &from, &to);
    }
    p->values[node->id].view = to;
    return DEMIST_OK;
}

/* --- compile --- */

static demist_status add_fused(demist_program *p, const struct cpu_fused *f)
{
    switch (f->chain[0]->op) {
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
    case DEMIST_OP_LINEAR:
        return cpu_add_product(p, f);
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return cpu_add_norm(p, f);
    default:
        return cpu_add_elementwise(p, f);
    }
}

static demist_status add_node(demist_program *p, const demist_node *node)
{
    const struct cpu_fused one = {node, 1, &node};
    const struct cpu_fused several = {node, node->n_body, node->body};
    switch (node->op) {
    case DEMIST_OP_INPUT:
    case DEMIST_OP_PARAM:
    case DEMIST_OP_CONSTANT:
        return DEMIST_OK; /* defined before, or on first use */
    case DEMIST_OP_FUSED:
        return add_fused(p, &several);
    case DEMIST_OP_SCALAR:
        return cpu_add_scalar(p, node);
    case DEMIST_OP_CAST:
        return cpu_add_cast(p, node);
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
        return cpu_add_reduce(p, node);
    case DEMIST_OP_BATCH_SUM:
        return cpu_add_batch_sum(p, node);
    case DEMIST_OP_SOFTMAX:
        return cpu_add_softmax(p, node);
    case DEMIST_OP_MATMUL:
        return cpu_add_matmul(p, node);
    case DEMIST_OP_ATTENTION:
        return cpu_add_attention(p, node);
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        return cpu_add_pool(p, node);
    case DEMIST_OP_UPSAMPLE_NEAREST:
        return cpu_add_upsample(p, node);
    case DEMIST_OP_RESIZE_BILINEAR:
        return cpu_add_resize(p, node);
    case DEMIST_OP_RESHAPE:
    case DEMIST_OP_TRANSPOSE:
    case DEMIST_OP_SLICE:
    case DEMIST_OP_EXPAND:
        return add_view(p, node);
    case DEMIST_OP_CONCAT:
        return cpu_add_concat(p, node);
    case DEMIST_OP_PAD:
        return cpu_add_pad(p, node);
    case DEMIST_OP_EMBEDDING:
        return cpu_add_embedding(p, node);
    case DEMIST_OP_PHILOX_NORMAL:
    case DEMIST_OP_PHILOX_UNIFORM:
        return cpu_add_philox(p, node);
    default:
        return add_fused(p, &one);
    }
}

/* The value of a view is there when its input is. */
static int32_t ready_after(const demist_program *p, const demist_node *node, int32_t steps_before)
{
    if (p->n_steps > steps_before)
        return p->n_steps - 1;
    int32_t ready = -1;
    for (int32_t i = 0; i < node->n_inputs; i++) {
        const int32_t r = p->values[node->inputs[i]->id].ready;
        ready = r > ready ? r : ready;
    }
    return ready;
}

static demist_status add_nodes(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const demist_node *node = graph->nodes[i];
        const int32_t before = p->n_steps;
        CPU_TRY(add_node(p, node));
        if (cpu_is_fixed(node) || node->op == DEMIST_OP_INPUT)
            continue;
        struct cpu_value *value = &p->values[i];
        value->defined = true;
        value->ready = ready_after(p, node, before);
        struct cpu_storage *s = &p->storages[value->view.storage];
        s->last = s->last < value->ready ? value->ready : s->last;
    }
    return DEMIST_OK;
}

static demist_status define_leaves(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_inputs; i++) {
        const demist_node *node = graph->inputs[i];
        const int32_t storage =
            new_storage(p, (struct cpu_storage){.place = CPU_INPUT,
                                                .batched = demist_is_batched(node),
                                                .elements = demist_elements(node),
                                                .where = i});
        if (storage < 0)
            return DEMIST_NO_MEMORY;
        struct cpu_value *value = &p->values[node->id];
        value->view = demist_view_dense(storage, demist_is_batched(node), node->rank, node->shape);
        value->defined = true;
        value->ready = -1;
        p->input_nodes[i] = node->id;
    }
    for (int32_t i = 0; i < graph->n_params; i++) {
        const demist_node *node = graph->params[i];
        p->values[node->id].param = i;
        p->param_nodes[i] = node->id;
        p->param_filled[i] = has_data(p, node);
        if (!(p->flags & DEMIST_COMPILE_FROZEN))
            CPU_TRY(define_fixed(p, node));
        else if (!has_data(p, node))
            return missing_data(p, node);
    }
    return DEMIST_OK;
}

/* Outputs are dense in the caller's buffers: a value that has a dense storage to itself gets the
 * buffer as its storage, any other is copied. */
static demist_status define_outputs(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_outputs; i++) {
        const demist_node *node = graph->outputs[i];
        demist_view view = {0};
        CPU_TRY(cpu_value_as_stored(p, node, &view));
        struct cpu_storage *storage = &p->storages[view.storage];
        p->output_nodes[i] = node->id;
        if (storage->place == CPU_ARENA && view.type != CPU_BF16 && view.offset == 0 &&
            demist_view_is_dense(&view) && storage->batched == view.batched &&
            storage->elements == demist_view_elements(&view)) {
            storage->place = CPU_OUTPUT;
            storage->where = i;
            continue;
        }
        const int32_t out =
            new_storage(p, (struct cpu_storage){.place = CPU_OUTPUT,
                                                .batched = view.batched,
                                                .elements = demist_view_elements(&view),
                                                .where = i});
        if (out < 0)
            return DEMIST_NO_MEMORY;
        const demist_view to = demist_view_dense(out, view.batched, view.rank, view.shape);
        CPU_TRY(cpu_add_copy(p, node->id, &to, &view));
    }
    return DEMIST_OK;
}

/* Images of an execution share nothing but in BATCH_SUM. */
static bool mixes_images(const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_nodes; i++)
        if (graph->nodes[i]->op == DEMIST_OP_BATCH_SUM)
            return true;
    return false;
}

/* Bytes of the arena for so many images at once; < 0: no memory. */
static int64_t plan_arena(demist_program *p, int64_t images, demist_block *blocks)
{
    for (int32_t i = 0; i < p->n_storages; i++) {
        const struct cpu_storage *s = &p->storages[i];
        const int64_t bytes = s->elements * cpu_size(s->type) * (s->batched ? images : 1);
        blocks[i] = (demist_block){
            .bytes = s->place == CPU_ARENA ? bytes : 0, .first = s->first, .last = s->last};
    }
    return host_of(p)->plan_memory(host_of(p), blocks, (size_t)p->n_storages, ALIGN);
}

/* A large batch goes through the steps in parts whose working memory a third-level cache may hold;
 * in smaller parts, weights would be streamed too often. An image's result is the same in any. */
static demist_status place_storages(demist_program *p, const demist_graph *graph)
{
    const int64_t addresses = INT64_C(1) << 47; /* no value is larger, buffers included */
    const demist_host *host = host_of(p);
    demist_block *blocks = cpu_new(p, sizeof *blocks * (size_t)(p->n_storages + 1));
    if (!blocks)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < p->n_storages; i++) {
        const struct cpu_storage *s = &p->storages[i];
        int64_t bytes = 0;
        if (__builtin_mul_overflow(s->elements * cpu_size(s->type), s->batched ? p->max_batch : 1,
                                   &bytes) ||
            s->elements > INT64_MAX / 16 || bytes > addresses)
            return host->fail(host, DEMIST_NO_MEMORY,
                              "%" PRId64 " images are more than memory can hold: lower the batch",
                              p->max_batch);
    }
    p->at_once = p->max_batch;
    if (!mixes_images(graph)) {
        const int64_t one = plan_arena(p, 1, blocks);
        if (one < 0)
            return DEMIST_NO_MEMORY;
        p->at_once = one >= PASS ? 1 : cpu_least(p->max_batch, PASS / (one + 1));
    }
    p->arena_bytes = plan_arena(p, p->at_once, blocks);
    for (int32_t i = 0; i < p->n_storages; i++)
        if (p->storages[i].place == CPU_ARENA)
            p->storages[i].where = blocks[i].offset;
    return p->arena_bytes < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

static demist_status alloc_working_memory(demist_program *p, const demist_compile_info *info)
{
    const demist_host *host = host_of(p);
    const int64_t scratch = p->scratch_bytes * host->n_workers;
    const double all = (double)p->param_bytes + (double)p->arena_bytes + (double)scratch;
    if (info->memory_limit > 0 && all > (double)info->memory_limit)
        return host->fail(
            host, DEMIST_NO_MEMORY,
            "a batch of %" PRId64 " needs %" PRId64 " bytes for parameters and %" PRId64
            " of working memory; the limit is %" PRId64 ": lower the batch or raise the limit",
            p->max_batch, p->param_bytes, p->arena_bytes + scratch, info->memory_limit);
    p->arena = new_block(p, (size_t)p->arena_bytes + 4096);
    p->scratch = new_block(p, (size_t)scratch + 4096);
    return p->arena && p->scratch ? DEMIST_OK : DEMIST_NO_MEMORY;
}

static demist_status check_info(demist_device *device, const demist_graph *graph,
                                const demist_compile_info *info)
{
    const demist_host *host = device->host;
    if (!cpu_has_precision(device, info->precision))
        return host->fail(host, DEMIST_UNSUPPORTED,
                          "the cpu backend computes in f32, strict or bf16 precision only");
    return demist_check_compile(host, device, graph, info, cpu_supports);
}

static demist_status alloc_tables(demist_program *p, const demist_graph *graph)
{
    const size_t n = (size_t)graph->n_nodes + 1;
    size_t name_bytes = 0;
    for (int32_t i = 0; i < graph->n_nodes; i++)
        name_bytes += strlen(graph->nodes[i]->name) + 1;
    char *names = cpu_new(p, name_bytes + 1);
    p->n_values = graph->n_nodes;
    p->n_inputs = graph->n_inputs;
    p->n_outputs = graph->n_outputs;
    p->n_params = graph->n_params;
    p->n_scalars = graph->n_scalars;
    if (!names || !(p->values = cpu_new(p, n * sizeof *p->values)) ||
        !(p->input_nodes = cpu_new(p, n * sizeof *p->input_nodes)) ||
        !(p->output_nodes = cpu_new(p, ((size_t)graph->n_outputs + 1) * sizeof *p->output_nodes)) ||
        !(p->param_nodes = cpu_new(p, n * sizeof *p->param_nodes)) ||
        !(p->param_filled = cpu_new(p, n * sizeof *p->param_filled)) ||
        !(p->profile = cpu_new(p, n * sizeof *p->profile)) ||
        !(p->profiles = cpu_new(p, n * sizeof *p->profiles)))
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const demist_node *node = graph->nodes[i];
        const size_t length = strlen(node->name) + 1;
        p->values[i] = (struct cpu_value){.op = node->op,
                                          .name = memcpy(names, node->name, length),
                                          .rank = node->rank,
                                          .inside = -1,
                                          .param = -1,
                                          .ready = -1};
        memcpy(p->values[i].shape, node->shape, sizeof node->shape);
        names += length;
        p->profile[i] = DEMIST_INIT(demist_node_profile);
        p->profile[i].node = i;
        p->profiles[i] = &p->profile[i];
    }
    return DEMIST_OK;
}

static demist_status add_all(demist_program *p, const demist_graph *graph)
{
    struct cpu_building *b = p->building;
    CPU_TRY(alloc_tables(p, graph));
    b->placements = cpu_new(p, ((size_t)graph->n_nodes + 1) * sizeof *b->placements);
    if (!b->placements)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < graph->n_nodes; i++)
        place_parts(p, graph->nodes[i]);
    CPU_TRY(define_leaves(p, graph));
    CPU_TRY(add_nodes(p, graph));
    CPU_TRY(define_outputs(p, graph));
    return place_storages(p, graph);
}

static demist_status build(demist_program *p, const demist_graph *graph,
                           const demist_compile_info *info, const demist_param_reader *reader)
{
    struct cpu_building building = {.graph = graph, .reader = reader};
    p->building = &building;
    const demist_status status = add_all(p, graph);
    free_rooms(p);
    p->building = NULL;
    return status == DEMIST_OK ? alloc_working_memory(p, info) : status;
}

demist_status cpu_compile(demist_device *device, const demist_graph *graph,
                          const demist_compile_info *info, demist_program **program)
{
    return cpu_compile_reading(device, graph, info, NULL, program);
}

demist_status cpu_compile_reading(demist_device *device, const demist_graph *graph,
                                  const demist_compile_info *info,
                                  const demist_param_reader *reader, demist_program **program)
{
    const demist_host *host = device->host;
    CPU_TRY(check_info(device, graph, info));
    demist_program *p = host->alloc(host, sizeof *p, 0);
    if (!p)
        return DEMIST_NO_MEMORY;
    memset(p, 0, sizeof *p);
    p->device = device;
    p->flags = info->flags;
    p->precision = info->precision;
    p->max_batch = info->max_batch;
    const demist_status status = build(p, graph, info, reader);
    if (status != DEMIST_OK) {
        cpu_program_destroy(p);
        return status;
    }
    *program = p;
    return DEMIST_OK;
}

void cpu_program_destroy(demist_program *program)
{
    if (!program)
        return;
    const demist_host *host = host_of(program);
    for (struct cpu_memory *m = program->memory, *next; m; m = next) {
        next = m->next;
        host->free(host, m);
    }
    host->free(host, program);
}

demist_status cpu_program_info(demist_program *program, demist_program_info *info)
{
    info->param_bytes = program->param_bytes;
    info->arena_bytes = program->arena_bytes + program->scratch_bytes * host_of(program)->n_workers;
    info->flops = program->flops;
    info->choices = NULL;
    return DEMIST_OK;
}

/* From a graph to kernel launches: walks the nodes once, gives every value a place, and lets each
 * op add its steps. Device memory is taken here and at bind; execute takes none. */
#include "cuda_library.h"

#include <demist/checks.h>

#include <inttypes.h>
#include <string.h>

/* Host blocks that live as long as the program. */
struct cu_memory {
    struct cu_memory *next;
    char padding[64 - sizeof(struct cu_memory *)];
};

static const demist_host *host_of(const demist_program *p)
{
    return p->device->host;
}

/* --- host memory --- */

void *cu_new(demist_program *p, size_t bytes)
{
    struct cu_memory *m = host_of(p)->alloc(host_of(p), sizeof *m + bytes, 0);
    if (!m)
        return NULL;
    m->next = p->memory;
    p->memory = m;
    memset(m + 1, 0, bytes);
    return m + 1;
}

/* Doubles the room of a growing array, whose old copy stays behind with the program. */
static void *grow(demist_program *p, void *old, int32_t n, int32_t *room, size_t size)
{
    if (n < *room)
        return old;
    const int32_t more = *room ? 2 * *room : 64;
    void *bigger = cu_new(p, (size_t)more * size);
    if (!bigger)
        return NULL;
    if (old)
        memcpy(bigger, old, (size_t)n * size);
    *room = more;
    return bigger;
}

static int32_t new_storage(demist_program *p, struct cu_storage storage)
{
    struct cu_storage *list =
        grow(p, p->storages, p->n_storages, &p->room_storages, sizeof *p->storages);
    if (!list)
        return -1;
    p->storages = list;
    storage.first = storage.last = p->steps.n;
    list[p->n_storages] = storage;
    return p->n_storages++;
}

int32_t cu_new_storage(demist_program *p, bool batched, int64_t elements, enum cu_type type)
{
    return new_storage(
        p, (struct cu_storage){
               .place = CU_ARENA, .type = type, .batched = batched, .elements = elements});
}

int32_t cu_new_ints(demist_program *p, int32_t n, const int32_t *ints)
{
    int32_t *copy = cu_new(p, sizeof *copy * (size_t)n);
    if (!copy)
        return -1;
    memcpy(copy, ints, sizeof *copy * (size_t)n);
    return new_storage(
        p, (struct cu_storage){.place = CU_RAW, .type = CU_I32, .elements = n, .data = copy});
}

/* --- drafts of launches --- */

void *cu_draft_init(struct cu_draft *d, int32_t node, const char *kernel, cu_run run, size_t bytes)
{
    d->launch = (struct cu_launch){.node = node, .kernel = kernel, .run = run, .bytes = bytes};
    d->launch.arguments = d->arguments;
    d->launch.fixes = d->fixes;
    memset(d->arguments, 0, bytes);
    return d->arguments;
}

static void put_fix(struct cu_draft *d, const void *field, struct cu_fix fix)
{
    fix.at = (int32_t)((const unsigned char *)field - d->arguments);
    if (d->launch.n_fixes < CU_MAX_FIXES)
        d->fixes[d->launch.n_fixes] = fix;
    d->launch.n_fixes++;
}

void cu_put_in(struct cu_draft *d, const void *field, const demist_view *view)
{
    put_fix(d, field,
            (struct cu_fix){.kind = CU_FIX_IN, .storage = view->storage, .offset = view->offset});
}

void cu_put_out(struct cu_draft *d, const void *field, const demist_view *view)
{
    put_fix(d, field,
            (struct cu_fix){.kind = CU_FIX_OUT, .storage = view->storage, .offset = view->offset});
}

void cu_put_count(struct cu_draft *d, const int32_t *field, struct cu_count count)
{
    put_fix(d, field, (struct cu_fix){.kind = CU_FIX_COUNT, .count = count});
}

void cu_put_slots(struct cu_draft *d, const void *field)
{
    put_fix(d, field, (struct cu_fix){.kind = CU_FIX_SLOTS});
}

/* --- steps --- */

/* Whether it can run once for all executions: it reads what never changes and writes what nothing
 * else does. */
static bool runs_once(const demist_program *p, const struct cu_launch *l)
{
    for (int32_t i = 0; i < l->n_fixes; i++) {
        const struct cu_fix *f = &l->fixes[i];
        if (f->kind == CU_FIX_SLOTS)
            return false;
        if (f->kind == CU_FIX_COUNT)
            continue;
        const struct cu_storage *s = &p->storages[f->storage];
        const bool fixed = (s->place == CU_FIXED || s->place == CU_RAW) && !s->varies;
        if (f->kind == CU_FIX_OUT ? s->written && !fixed : !fixed)
            return false;
    }
    return true;
}

static void note_use(demist_program *p, const struct cu_launch *l, bool once)
{
    for (int32_t i = 0; i < l->n_fixes; i++) {
        const struct cu_fix *f = &l->fixes[i];
        if (f->kind != CU_FIX_IN && f->kind != CU_FIX_OUT)
            continue;
        const bool written = f->kind == CU_FIX_OUT;
        struct cu_storage *s = &p->storages[f->storage];
        if (once && written)
            s->place = CU_FIXED;
        if (!once && s->place == CU_RAW)
            s->place = CU_FIXED;
        s->written = s->written || written;
        s->varies = s->varies || (written && !once);
        s->last = p->steps.n;
    }
}

demist_status cu_add_launch(demist_program *p, const struct cu_draft *d)
{
    const struct cu_launch *l = &d->launch;
    if (l->n_fixes > CU_MAX_FIXES)
        return host_of(p)->fail(host_of(p), DEMIST_INTERNAL, "kernel %s with %d operands",
                                l->kernel, (int)l->n_fixes);
    const bool once = runs_once(p, l);
    struct cu_steps *steps = once ? &p->once : &p->steps;
    note_use(p, l, once);
    struct cu_launch *list = grow(p, steps->list, steps->n, &steps->room, sizeof *list);
    if (!list)
        return DEMIST_NO_MEMORY;
    steps->list = list;
    struct cu_launch *step = &list[steps->n];
    *step = *l;
    step->arguments = cu_new(p, l->bytes);
    step->fixes = cu_new(p, sizeof *l->fixes * (size_t)l->n_fixes);
    if (!step->arguments || !step->fixes)
        return DEMIST_NO_MEMORY;
    memcpy(step->arguments, l->arguments, l->bytes);
    memcpy(step->fixes, l->fixes, sizeof *l->fixes * (size_t)l->n_fixes);
    steps->n++;
    return DEMIST_OK;
}

/* --- values --- */

static bool is_fixed(const demist_node *node)
{
    return node->op == DEMIST_OP_PARAM || node->op == DEMIST_OP_CONSTANT;
}

static enum cu_type wide_type(const demist_node *node)
{
    return node->dtype == DEMIST_I32 ? CU_I32 : CU_F32;
}

static demist_status define_fixed(demist_program *p, const demist_node *node)
{
    struct cu_value *value = &p->values[node->id];
    if (!node->data && (node->op == DEMIST_OP_CONSTANT || p->flags & DEMIST_COMPILE_FROZEN))
        return host_of(p)->fail(host_of(p), DEMIST_INVALID, "node '%s' (%s) has no data",
                                node->name, demist_op_name(node->op));
    /* Whoever may want to see or replace it finds it in the program's own memory. */
    const bool kept = !(p->flags & DEMIST_COMPILE_FROZEN) || p->flags & DEMIST_COMPILE_OBSERVE;
    const int32_t storage = new_storage(p, (struct cu_storage){.place = kept ? CU_FIXED : CU_RAW,
                                                               .type = wide_type(node),
                                                               .elements = demist_elements(node),
                                                               .data = node->data});
    if (storage < 0)
        return DEMIST_NO_MEMORY;
    p->storages[storage].written = true;
    value->view = demist_view_dense(storage, false, node->rank, node->shape);
    value->defined = true;
    value->ready = -1;
    return DEMIST_OK;
}

demist_status cu_value_of(demist_program *p, const demist_node *node, demist_view *view)
{
    struct cu_value *value = &p->values[node->id];
    if (!value->defined && is_fixed(node))
        CU_TRY(define_fixed(p, node));
    if (!value->defined)
        return host_of(p)->fail(host_of(p), DEMIST_INVALID,
                                "node '%s' (%s) is used before it is computed: the graph is not in "
                                "topological order",
                                node->name, demist_op_name(node->op));
    *view = value->view;
    return DEMIST_OK;
}

void cu_set_result(demist_program *p, const demist_node *node, const demist_view *view)
{
    p->values[node->id].view = *view;
}

/* --- element types --- */

enum cu_type cu_type_of_result(const demist_program *p, const demist_node *node)
{
    return demist_is_batched(node) && node->rank > 2 && !p->values[node->id].is_output ? p->narrow
                                                                                       : CU_F32;
}

enum cu_type cu_type_like(const demist_program *p, const demist_node *node, int32_t n,
                          const demist_view *inputs)
{
    enum cu_type type = wide_type(node);
    for (int32_t i = 0; i < n && !p->values[node->id].is_output; i++) {
        const enum cu_type own = cu_type_of(p, &inputs[i]);
        if (own != CU_F16 && own != CU_BF16)
            return wide_type(node);
        type = own;
    }
    return type;
}

/* --- where results go --- */

static bool is_pixel_major(const int32_t *order)
{
    return order[0] == 0 && order[1] == 2 && order[2] == 3 && order[3] == 1;
}

/* A result that a concatenation waits for is written where the concatenation has it, which then
 * copies nothing. Whoever comes first makes the room. */
static bool result_in_whole(demist_program *p, const demist_node *node, enum cu_type type,
                            demist_view *view)
{
    static const int32_t order[] = {0, 2, 3, 1};
    const struct cu_value *part = &p->values[node->id];
    struct cu_value *whole = &p->values[part->part_of->id];
    if (!whole->has_room) {
        demist_view room = {.batched = true, .rank = 4};
        memcpy(room.shape, part->part_of->shape, sizeof room.shape);
        room.storage = cu_new_storage(p, true, demist_view_lay_out(&room, order), type);
        if (room.storage < 0)
            return false;
        whole->view = room;
        whole->has_room = true;
    }
    if (p->storages[whole->view.storage].type != type)
        return false;
    *view = whole->view;
    view->shape[1] = node->shape[1];
    view->offset = part->part_at;
    return true;
}

demist_status cu_result(demist_program *p, const demist_node *node, const int32_t *order,
                        enum cu_type type, demist_view *view)
{
    if (p->values[node->id].part_of && is_pixel_major(order) &&
        result_in_whole(p, node, type, view))
        return DEMIST_OK;
    *view = (demist_view){.batched = demist_is_batched(node), .rank = node->rank};
    memcpy(view->shape, node->shape, sizeof view->shape);
    const int64_t elements = demist_view_lay_out(view, order);
    view->storage = cu_new_storage(p, view->batched, elements, type);
    return view->storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

demist_status cu_result_pixels(demist_program *p, const demist_node *node, enum cu_type type,
                               demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK];
    demist_order_last(node->rank, node->rank > 1 ? 1 : 0, order);
    return cu_result(p, node, order, type, view);
}

demist_status cu_result_dense(demist_program *p, const demist_node *node, enum cu_type type,
                              demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK];
    demist_order_rows(node->rank, order);
    return cu_result(p, node, order, type, view);
}

demist_status cu_result_like(demist_program *p, const demist_node *node, const demist_view *like,
                             enum cu_type type, demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK] = {0};
    const bool batched = demist_is_batched(node);
    bool fits = like->rank == node->rank;
    for (int32_t i = batched ? 1 : 0; i < node->rank && fits; i++)
        fits = like->shape[i] == node->shape[i];
    if (!fits || !demist_order_like(like, batched, order))
        return cu_result_dense(p, node, type, view);
    return cu_result(p, node, order, type, view);
}

demist_status cu_materialise(demist_program *p, int32_t node, const int32_t *order,
                             demist_view *view)
{
    const demist_view from = *view;
    const int64_t elements = demist_view_lay_out(view, order);
    view->offset = 0;
    view->storage = cu_new_storage(p, view->batched, elements, cu_type_of(p, &from));
    if (view->storage < 0)
        return DEMIST_NO_MEMORY;
    return cu_add_copy(p, node, view, &from);
}

demist_status cu_need_pixels(demist_program *p, int32_t node, demist_view *view)
{
    if (demist_view_is_pixels(view))
        return DEMIST_OK;
    int32_t order[DEMIST_MAX_RANK];
    demist_order_last(view->rank, 1, order);
    return cu_materialise(p, node, order, view);
}

demist_status cu_need_contiguous(demist_program *p, int32_t node, int32_t axis, demist_view *view)
{
    if (view->stride[axis] == 1 || view->shape[axis] == 1)
        return DEMIST_OK;
    int32_t order[DEMIST_MAX_RANK];
    demist_order_last(view->rank, axis, order);
    return cu_materialise(p, node, order, view);
}

demist_status cu_need_dense(demist_program *p, int32_t node, demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK];
    if (demist_view_is_dense(view))
        return DEMIST_OK;
    demist_order_rows(view->rank, order);
    return cu_materialise(p, node, order, view);
}

/* --- ops that move nothing, and concatenation --- */

static demist_status add_view(demist_program *p, const demist_node *node)
{
    demist_view from, to;
    CU_TRY(cu_value_of(p, node->inputs[0], &from));
    if (!demist_view_of_node(node, &from, &to)) {
        CU_TRY(cu_need_dense(p, node->id, &from));
        demist_view_of_node(node, &from, &to);
    }
    cu_set_result(p, node, &to);
    return DEMIST_OK;
}

/* Which values can be written into the concatenation that they are for: images that nothing else
 * has a claim on. */
static void find_parts(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const demist_node *whole = graph->nodes[i];
        if (whole->op != DEMIST_OP_CONCAT || whole->rank != 4 || whole->attrs.axis.axis != 1 ||
            whole->dtype != DEMIST_F32 || !demist_is_batched(whole) || p->values[i].is_output)
            continue;
        int64_t at = 0;
        for (int32_t k = 0; k < whole->n_inputs; k++) {
            struct cu_value *part = &p->values[whole->inputs[k]->id];
            if (!part->part_of && !part->is_output && demist_is_batched(whole->inputs[k])) {
                part->part_of = whole;
                part->part_at = at;
            }
            at += whole->inputs[k]->shape[1];
        }
    }
}

/* Whether it is where it belongs. */
static bool is_there(const demist_view *from, const demist_view *to)
{
    return from->storage == to->storage && from->offset == to->offset &&
           memcmp(from->stride, to->stride, 4 * sizeof from->stride[0]) == 0;
}

static demist_status add_concat(demist_program *p, const demist_node *node)
{
    const struct cu_value *value = &p->values[node->id];
    const int32_t axis = node->attrs.axis.axis;
    demist_view whole, from;
    int64_t offset = 0;
    enum cu_type type = wide_type(node);
    for (int32_t i = 0; i < node->n_inputs; i++) {
        CU_TRY(cu_value_of(p, node->inputs[i], &from));
        type = cu_type_like(p, node, 1, &from);
        if (type == wide_type(node))
            break;
    }
    if (value->has_room && p->storages[value->view.storage].type == type)
        whole = value->view;
    else if (node->rank == 4 && axis == 1 && node->dtype == DEMIST_F32)
        CU_TRY(cu_result_pixels(p, node, type, &whole));
    else
        CU_TRY(cu_result_dense(p, node, type, &whole));
    for (int32_t i = 0; i < node->n_inputs; i++) {
        demist_view to = whole;
        CU_TRY(cu_value_of(p, node->inputs[i], &from));
        to.shape[axis] = from.shape[axis];
        to.offset += offset * whole.stride[axis];
        offset += from.shape[axis];
        if (!value->has_room || !is_there(&from, &to))
            CU_TRY(cu_add_copy(p, node->id, &to, &from));
    }
    cu_set_result(p, node, &whole);
    return DEMIST_OK;
}

/* --- compile --- */

static demist_status add_fused(demist_program *p, const struct cu_fused *f)
{
    switch (f->chain[0]->op) {
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
    case DEMIST_OP_LINEAR:
        return cu_add_product(p, f);
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return cu_add_norm(p, f);
    default:
        return cu_add_elementwise(p, f);
    }
}

static demist_status add_node(demist_program *p, const demist_node *node)
{
    const struct cu_fused one = {node, 1, &node};
    const struct cu_fused several = {node, node->n_body, node->body};
    switch (node->op) {
    case DEMIST_OP_INPUT:
    case DEMIST_OP_PARAM:
    case DEMIST_OP_CONSTANT:
        return DEMIST_OK; /* defined before, or on first use */
    case DEMIST_OP_FUSED:
        return add_fused(p, &several);
    case DEMIST_OP_SCALAR:
        return cu_add_scalar(p, node);
    case DEMIST_OP_CAST:
        return cu_add_cast(p, node);
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
    case DEMIST_OP_BATCH_SUM:
        return cu_add_reduce(p, node);
    case DEMIST_OP_SOFTMAX:
        return cu_add_softmax(p, node);
    case DEMIST_OP_MATMUL:
        return cu_add_matmul(p, node);
    case DEMIST_OP_ATTENTION:
        return cu_add_attention(p, node);
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        return cu_add_pool(p, node);
    case DEMIST_OP_UPSAMPLE_NEAREST:
        return cu_add_upsample(p, node);
    case DEMIST_OP_RESIZE_BILINEAR:
        return cu_add_resize(p, node);
    case DEMIST_OP_RESHAPE:
    case DEMIST_OP_TRANSPOSE:
    case DEMIST_OP_SLICE:
    case DEMIST_OP_EXPAND:
        return add_view(p, node);
    case DEMIST_OP_CONCAT:
        return add_concat(p, node);
    case DEMIST_OP_PAD:
        return cu_add_pad(p, node);
    case DEMIST_OP_EMBEDDING:
        return cu_add_embedding(p, node);
    case DEMIST_OP_PHILOX_NORMAL:
    case DEMIST_OP_PHILOX_UNIFORM:
        return cu_add_philox(p, node);
    default:
        return add_fused(p, &one);
    }
}

/* The value of a view is there when its input is. */
static int32_t ready_after(const demist_program *p, const demist_node *node, int32_t steps_before)
{
    if (p->steps.n > steps_before)
        return p->steps.n - 1;
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
        const int32_t before = p->steps.n;
        CU_TRY(add_node(p, node));
        p->flops += demist_product_flops(node);
        if (is_fixed(node) || node->op == DEMIST_OP_INPUT)
            continue;
        struct cu_value *value = &p->values[i];
        value->defined = true;
        value->ready = ready_after(p, node, before);
        struct cu_storage *s = &p->storages[value->view.storage];
        s->last = s->last < value->ready ? value->ready : s->last;
    }
    return DEMIST_OK;
}

static demist_status define_leaves(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_inputs; i++) {
        const demist_node *node = graph->inputs[i];
        const int32_t storage =
            new_storage(p, (struct cu_storage){.place = CU_INPUT,
                                               .type = wide_type(node),
                                               .written = true,
                                               .varies = true,
                                               .batched = demist_is_batched(node),
                                               .elements = demist_elements(node),
                                               .where = i});
        if (storage < 0)
            return DEMIST_NO_MEMORY;
        struct cu_value *value = &p->values[node->id];
        value->view = demist_view_dense(storage, demist_is_batched(node), node->rank, node->shape);
        value->defined = true;
        value->ready = -1;
        p->input_nodes[i] = node->id;
    }
    for (int32_t i = 0; i < graph->n_params; i++) {
        p->param_nodes[i] = graph->params[i]->id;
        p->param_filled[i] = graph->params[i]->data != NULL;
        CU_TRY(define_fixed(p, graph->params[i]));
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
        CU_TRY(cu_value_of(p, node, &view));
        struct cu_storage *storage = &p->storages[view.storage];
        p->output_nodes[i] = node->id;
        if (storage->place == CU_ARENA && storage->type == wide_type(node) && view.offset == 0 &&
            demist_view_is_dense(&view) && storage->batched == view.batched &&
            storage->elements == demist_view_elements(&view)) {
            storage->place = CU_OUTPUT;
            storage->where = i;
            continue;
        }
        const int32_t out =
            new_storage(p, (struct cu_storage){.place = CU_OUTPUT,
                                               .type = wide_type(node),
                                               .written = true,
                                               .varies = true,
                                               .batched = view.batched,
                                               .elements = demist_view_elements(&view),
                                               .where = i});
        if (out < 0)
            return DEMIST_NO_MEMORY;
        const demist_view to = demist_view_dense(out, view.batched, view.rank, view.shape);
        CU_TRY(cu_add_copy(p, node->id, &to, &view));
    }
    return DEMIST_OK;
}

/* --- memory --- */

static demist_status storage_bytes(const demist_program *p, const struct cu_storage *s,
                                   int64_t *bytes)
{
    const int64_t images = s->batched ? p->max_batch : 1;
    int64_t elements;
    if (!__builtin_mul_overflow(s->elements, images, &elements) && elements < INT32_MAX) {
        *bytes = (elements * (int64_t)cu_size_of(s->type) + CU_ALIGN - 1) / CU_ALIGN * CU_ALIGN;
        return DEMIST_OK;
    }
    return host_of(p)->fail(host_of(p), DEMIST_NO_MEMORY,
                            "a value of %" PRId64 " images has more than 2^31 elements, too many "
                            "for this backend: lower the batch",
                            images);
}

static demist_status place_storages(demist_program *p)
{
    const demist_host *host = host_of(p);
    demist_block *blocks = cu_new(p, sizeof *blocks * (size_t)(p->n_storages + 1));
    if (!blocks)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < p->n_storages; i++) {
        struct cu_storage *s = &p->storages[i];
        int64_t bytes = 0;
        CU_TRY(storage_bytes(p, s, &bytes));
        blocks[i] = (demist_block){
            .bytes = s->place == CU_ARENA ? bytes : 0, .first = s->first, .last = s->last};
        int64_t *end = s->place == CU_FIXED  ? &p->fixed_bytes
                       : s->place == CU_COPY ? &p->copy_bytes
                                             : &p->raw_bytes;
        if (s->place == CU_FIXED || s->place == CU_RAW || s->place == CU_COPY) {
            s->where = *end;
            *end += bytes;
        }
    }
    p->arena_bytes = host->plan_memory(host, blocks, (size_t)p->n_storages, CU_ALIGN);
    for (int32_t i = 0; i < p->n_storages; i++)
        if (p->storages[i].place == CU_ARENA)
            p->storages[i].where = blocks[i].offset;
    return p->arena_bytes < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

/* What of the arena grows with the batch: all but what unbatched values take. */
static int64_t arena_per_image(const demist_program *p)
{
    return p->arena_bytes / p->max_batch;
}

static demist_status alloc_device_memory(demist_program *p, const demist_compile_info *info)
{
    const demist_host *host = host_of(p);
    const int64_t fixed_bytes = p->fixed_bytes + p->raw_bytes + p->copy_bytes;
    const int64_t per_image = arena_per_image(p);
    if (info->memory_limit > 0 &&
        (double)fixed_bytes + (double)p->arena_bytes > (double)info->memory_limit)
        return host->fail(
            host, DEMIST_NO_MEMORY,
            "a batch of %" PRId64 " needs %" PRId64 " bytes for parameters and %" PRId64
            " of working memory; the limit is %" PRId64 ": lower the batch or raise the limit",
            p->max_batch, fixed_bytes, p->arena_bytes, info->memory_limit);
    CU_TRY(cu_new_memory(p->device, p->fixed_bytes, "parameters", 0, 0, &p->fixed));
    CU_TRY(cu_new_memory(p->device, p->raw_bytes, "parameters to be packed", 0, 0, &p->raw));
    CU_TRY(cu_new_memory(p->device, p->copy_bytes, "parameters for libraries", 0, 0, &p->copies));
    CU_TRY(cu_new_memory(p->device, (int64_t)sizeof(demist_scalar) * (p->n_scalars + 1),
                         "scalar slots", 0, 0, &p->slots));
    return cu_new_memory(p->device, p->arena_bytes, "working memory", per_image, p->max_batch,
                         &p->arena);
}

/* Packed weights have columns behind their last one, which kernels may read: zeros. */
static demist_status upload(demist_program *p)
{
    demist_queue *queue = p->device->queue;
    CU_TRY(cu_use(p->device));
    CU_CALL(p->device,
            cudaMemsetAsync(p->fixed, 0, (size_t)(p->fixed_bytes > 0 ? p->fixed_bytes : 1),
                            queue->stream));
    for (int32_t i = 0; i < p->n_storages; i++) {
        const struct cu_storage *s = &p->storages[i];
        if (s->data)
            CU_TRY(cu_to_device(queue,
                                (char *)(s->place == CU_FIXED ? p->fixed : p->raw) + s->where,
                                s->data, (size_t)s->elements * 4));
    }
    return DEMIST_OK;
}

static bool all_filled(const demist_program *p)
{
    for (int32_t i = 0; i < p->n_params; i++)
        if (!p->param_filled[i])
            return false;
    return true;
}

static bool is_used(const demist_program *p, int32_t copy)
{
    for (int32_t i = 0; i < p->steps.n; i++) {
        const struct cu_library_product *l = p->steps.list[i].library;
        if (l && l->call &&
            ((l->call->uses_weights && l->weights == copy) ||
             (l->call->uses_bias && l->bias == copy)))
            return true;
    }
    return false;
}

/* Whether the launch makes a copy for a call that was not chosen. */
static bool is_idle(const demist_program *p, const struct cu_launch *l)
{
    for (int32_t i = 0; i < l->n_fixes; i++)
        if (l->fixes[i].kind == CU_FIX_OUT && p->storages[l->fixes[i].storage].place == CU_COPY)
            return !is_used(p, l->fixes[i].storage);
    return false;
}

/* Copies for libraries' calls that were measured and not chosen go. */
static demist_status drop_copies(demist_program *p)
{
    int32_t n = 0;
    int64_t bytes = 0;
    for (int32_t i = 0; i < p->once.n; i++)
        if (!is_idle(p, &p->once.list[i]))
            p->once.list[n++] = p->once.list[i];
    p->once.n = n;
    for (int32_t i = 0; i < p->n_storages; i++) {
        struct cu_storage *s = &p->storages[i];
        int64_t size = 0;
        if (s->place != CU_COPY || !is_used(p, i))
            continue;
        CU_TRY(storage_bytes(p, s, &size));
        s->where = bytes;
        bytes += size;
    }
    if (bytes == p->copy_bytes)
        return DEMIST_OK;
    CU_CALL(p->device, cudaFree(p->copies));
    p->copies = NULL;
    p->copy_bytes = bytes;
    return cu_new_memory(p->device, bytes, "parameters for libraries", 0, 0, &p->copies);
}

static demist_status prepare(demist_program *p)
{
    CU_TRY(upload(p));
    CU_TRY(cu_choose_kernels(p));
    CU_TRY(drop_copies(p));
    if (all_filled(p))
        CU_TRY(cu_run_once(p->device->queue, p));
    CU_CALL(p->device, cudaStreamSynchronize(p->device->queue->stream));
    if (p->flags & DEMIST_COMPILE_FROZEN) {
        CU_CALL(p->device, cudaFree(p->raw));
        p->raw = NULL;
    }
    for (int32_t i = 0; i < p->n_storages; i++)
        p->storages[i].data = NULL;
    return DEMIST_OK;
}

/* --- the call --- */

static demist_status check_info(demist_device *device, const demist_graph *graph,
                                const demist_compile_info *info)
{
    const demist_host *host = device->host;
    if (info->max_batch > INT32_MAX)
        return host->fail(host, DEMIST_NO_MEMORY,
                          "%" PRId64 " images are more than memory can hold: lower the batch",
                          info->max_batch);
    if (!cu_has_precision(device, info->precision))
        return host->fail(host, DEMIST_UNSUPPORTED, "the cuda backend has no precision %d",
                          (int)info->precision);
    return demist_check_compile(host, device, graph, info, cu_supports);
}

static demist_status alloc_tables(demist_program *p, const demist_graph *graph)
{
    const size_t n = (size_t)graph->n_nodes + 1;
    size_t name_bytes = 0;
    for (int32_t i = 0; i < graph->n_nodes; i++)
        name_bytes += strlen(graph->nodes[i]->name) + 1;
    char *names = cu_new(p, name_bytes + 1);
    p->n_values = graph->n_nodes;
    p->n_inputs = graph->n_inputs;
    p->n_outputs = graph->n_outputs;
    p->n_params = graph->n_params;
    p->n_scalars = graph->n_scalars;
    if (!names || !(p->values = cu_new(p, n * sizeof *p->values)) ||
        !(p->input_nodes = cu_new(p, n * sizeof *p->input_nodes)) ||
        !(p->output_nodes = cu_new(p, ((size_t)graph->n_outputs + 1) * sizeof *p->output_nodes)) ||
        !(p->param_nodes = cu_new(p, n * sizeof *p->param_nodes)) ||
        !(p->param_filled = cu_new(p, n * sizeof *p->param_filled)) ||
        !(p->philox_nodes = cu_new(p, n * sizeof *p->philox_nodes)) ||
        !(p->philox_attrs = cu_new(p, n * sizeof *p->philox_attrs)) ||
        !(p->profile = cu_new(p, n * sizeof *p->profile)) ||
        !(p->profiles = cu_new(p, n * sizeof *p->profiles)))
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const demist_node *node = graph->nodes[i];
        const size_t length = strlen(node->name) + 1;
        p->values[i] = (struct cu_value){.op = node->op,
                                         .name = memcpy(names, node->name, length),
                                         .rank = node->rank,
                                         .inside = -1,
                                         .ready = -1};
        memcpy(p->values[i].shape, node->shape, sizeof node->shape);
        names += length;
        for (int32_t k = 0; k < graph->n_outputs; k++)
            p->values[i].is_output = p->values[i].is_output || graph->outputs[k] == node;
        p->profile[i] = DEMIST_INIT(demist_node_profile);
        p->profile[i].node = i;
        p->profiles[i] = &p->profile[i];
    }
    return DEMIST_OK;
}

static demist_status build(demist_program *p, const demist_graph *graph,
                           const demist_compile_info *info)
{
    CU_TRY(alloc_tables(p, graph));
    CU_TRY(define_leaves(p, graph));
    find_parts(p, graph);
    CU_TRY(add_nodes(p, graph));
    CU_TRY(define_outputs(p, graph));
    CU_TRY(cu_plan_calls(p));
    CU_TRY(place_storages(p));
    CU_TRY(alloc_device_memory(p, info));
    return prepare(p);
}

demist_status cu_compile(demist_device *device, const demist_graph *graph,
                         const demist_compile_info *info, demist_program **program)
{
    const demist_host *host = device->host;
    CU_TRY(check_info(device, graph, info));
    demist_program *p = host->alloc(host, sizeof *p, 0);
    if (!p)
        return DEMIST_NO_MEMORY;
    memset(p, 0, sizeof *p);
    p->device = device;
    p->flags = info->flags;
    p->precision = info->precision;
    p->max_batch = info->max_batch;
    p->narrow = info->precision == DEMIST_PRECISION_F16    ? CU_F16
                : info->precision == DEMIST_PRECISION_BF16 ? CU_BF16
                                                           : CU_F32;
    const demist_status status = build(p, graph, info);
    if (status != DEMIST_OK) {
        cu_program_destroy(p);
        return status;
    }
    *program = p;
    return DEMIST_OK;
}

void cu_program_destroy(demist_program *program)
{
    if (!program)
        return;
    const demist_host *host = host_of(program);
    cudaSetDevice(program->device->ordinal);
    cudaStreamSynchronize(program->device->queue->stream);
    for (int32_t i = 0; i < program->steps.n; i++)
        if (program->steps.list[i].library)
            cu_keep_call(program, &program->steps.list[i], -1);
    void *const memory[] = {program->arena, program->fixed, program->raw, program->copies,
                            program->slots};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        cudaFree(memory[i]);
    for (struct cu_memory *m = program->memory, *next; m; m = next) {
        next = m->next;
        host->free(host, m);
    }
    host->free(host, program);
}

demist_status cu_program_info(demist_program *program, demist_program_info *info)
{
    info->param_bytes =
        program->fixed_bytes + (program->raw ? program->raw_bytes : 0) + program->copy_bytes;
    info->arena_bytes = program->arena_bytes;
    info->flops = program->flops;
    info->choices = NULL;
    if (program->chose) {
        snprintf(program->choices_text, sizeof program->choices_text, "%016" PRIx64,
                 program->choices);
        info->choices = program->choices_text;
    }
    return DEMIST_OK;
}

/* From a graph to kernel launches: walks the nodes once, gives every value a place, and lets each
 * op add its steps. Device memory is taken here and at bind; execute takes none. */
#include "ocl_program.h"

#include <demist/checks.h>

#include <inttypes.h>
#include <string.h>

enum { ALIGN = 256 };

/* Host blocks that live as long as the program. */
struct ocl_memory {
    struct ocl_memory *next;
    char padding[64 - sizeof(struct ocl_memory *)];
};

static const demist_host *host_of(const demist_program *p)
{
    return p->device->host;
}

/* --- host memory --- */

void *ocl_new(demist_program *p, size_t bytes)
{
    struct ocl_memory *m = host_of(p)->alloc(host_of(p), sizeof *m + bytes, 0);
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
    void *bigger = ocl_new(p, (size_t)more * size);
    if (!bigger)
        return NULL;
    if (old)
        memcpy(bigger, old, (size_t)n * size);
    *room = more;
    return bigger;
}

static int32_t new_storage(demist_program *p, struct ocl_storage storage)
{
    struct ocl_storage *list =
        grow(p, p->storages, p->n_storages, &p->room_storages, sizeof *p->storages);
    if (!list)
        return -1;
    p->storages = list;
    storage.first = storage.last = p->steps.n;
    list[p->n_storages] = storage;
    return p->n_storages++;
}

int32_t ocl_new_storage(demist_program *p, bool batched, int64_t elements, enum ocl_type type)
{
    return new_storage(
        p, (struct ocl_storage){
               .place = OCL_ARENA, .type = type, .batched = batched, .elements = elements});
}

int32_t ocl_new_ints(demist_program *p, int32_t n, const int32_t *ints)
{
    int32_t *copy = ocl_new(p, sizeof *copy * (size_t)n);
    if (!copy)
        return -1;
    memcpy(copy, ints, sizeof *copy * (size_t)n);
    return new_storage(p, (struct ocl_storage){.place = OCL_RAW, .elements = n, .data = copy});
}

int32_t ocl_zeros(demist_program *p, int64_t elements)
{
    if (p->zeros < 0) {
        p->zeros = new_storage(p, (struct ocl_storage){.place = OCL_FIXED, .elements = elements});
    } else if (p->storages[p->zeros].elements < elements) {
        p->storages[p->zeros].elements = elements;
    }
    return p->zeros;
}

/* --- drafts of launches --- */

void ocl_draft_init(struct ocl_draft *d, int32_t node, cl_kernel kernel)
{
    d->launch = (struct ocl_launch){.node = node, .kernel = kernel, .args = d->args};
    for (int i = 0; i < 3; i++) {
        d->launch.global[i] = (struct ocl_count){1, 0};
        d->launch.each[i] = 1;
        d->launch.local[i] = 1;
    }
}

static void put(struct ocl_draft *d, struct ocl_arg arg)
{
    if (d->launch.n_args < OCL_MAX_ARGS)
        d->args[d->launch.n_args] = arg;
    d->launch.n_args++;
}

void ocl_put_in(struct ocl_draft *d, const demist_view *view)
{
    put(d,
        (struct ocl_arg){.kind = OCL_ARG_VALUE, .storage = view->storage, .offset = view->offset});
}

void ocl_put_out(struct ocl_draft *d, const demist_view *view)
{
    put(d, (struct ocl_arg){.kind = OCL_ARG_VALUE,
                            .written = true,
                            .storage = view->storage,
                            .offset = view->offset});
}

void ocl_put_int(struct ocl_draft *d, int64_t value)
{
    ocl_put_count(d, (struct ocl_count){value, 0});
}

void ocl_put_count(struct ocl_draft *d, struct ocl_count count)
{
    put(d, (struct ocl_arg){.kind = OCL_ARG_INT, .count = count});
}

void ocl_put_float(struct ocl_draft *d, float value)
{
    put(d, (struct ocl_arg){.kind = OCL_ARG_FLOAT, .number = value});
}

void ocl_put_slot(struct ocl_draft *d, enum ocl_arg_kind kind, int32_t slot)
{
    put(d, (struct ocl_arg){.kind = kind, .storage = slot});
}

void ocl_put_range(struct ocl_draft *d, int32_t axis, struct ocl_count global, int64_t each,
                   size_t local)
{
    d->launch.global[axis] = global;
    d->launch.each[axis] = each;
    d->launch.local[axis] = local;
}

/* --- steps --- */

/* Whether it can run once for all executions: it reads what never changes and writes what nothing
 * else does. */
static bool runs_once(const demist_program *p, const struct ocl_launch *l)
{
    for (int32_t i = 0; i < l->n_args; i++) {
        const struct ocl_arg *a = &l->args[i];
        if (a->kind >= OCL_ARG_SCALAR)
            return false;
        if (a->kind != OCL_ARG_VALUE)
            continue;
        const struct ocl_storage *s = &p->storages[a->storage];
        const bool fixed = (s->place == OCL_FIXED || s->place == OCL_RAW) && !s->varies;
        if (a->written ? s->written && !fixed : !fixed)
            return false;
    }
    return true;
}

static void note_use(demist_program *p, const struct ocl_launch *l, bool once)
{
    for (int32_t i = 0; i < l->n_args; i++) {
        const struct ocl_arg *a = &l->args[i];
        if (a->kind != OCL_ARG_VALUE)
            continue;
        struct ocl_storage *s = &p->storages[a->storage];
        if (once && a->written)
            s->place = OCL_FIXED;
        if (!once && s->place == OCL_RAW)
            s->place = OCL_FIXED;
        s->written = s->written || a->written;
        s->varies = s->varies || (a->written && !once);
        s->last = p->steps.n;
    }
}

static struct ocl_step *add_step(demist_program *p, struct ocl_steps *steps)
{
    struct ocl_step *list = grow(p, steps->list, steps->n, &steps->room, sizeof *list);
    if (!list)
        return NULL;
    steps->list = list;
    memset(&list[steps->n], 0, sizeof *list);
    return &list[steps->n++];
}

demist_status ocl_add_launch(demist_program *p, const struct ocl_launch *launch)
{
    if (launch->n_args > OCL_MAX_ARGS)
        return host_of(p)->fail(host_of(p), DEMIST_INTERNAL, "a kernel with %d arguments",
                                (int)launch->n_args);
    const size_t bytes = sizeof *launch->args * (size_t)launch->n_args;
    struct ocl_arg *args = ocl_new(p, bytes);
    if (!args)
        return DEMIST_NO_MEMORY;
    memcpy(args, launch->args, bytes);
    const bool once = runs_once(p, launch);
    note_use(p, launch, once);
    struct ocl_step *step = add_step(p, once ? &p->once : &p->steps);
    if (!step)
        return DEMIST_NO_MEMORY;
    step->launch = *launch;
    step->launch.args = args;
    return DEMIST_OK;
}

demist_status ocl_add_draws(demist_program *p, int32_t node, struct ocl_draws *draws,
                            const demist_view *to)
{
    struct ocl_storage *s = &p->storages[to->storage];
    s->written = s->varies = true;
    s->last = p->steps.n;
    struct ocl_step *step = add_step(p, &p->steps);
    if (!step)
        return DEMIST_NO_MEMORY;
    step->draws = draws;
    step->launch.node = node;
    return DEMIST_OK;
}

/* --- values --- */

static bool is_fixed(const demist_node *node)
{
    return node->op == DEMIST_OP_PARAM || node->op == DEMIST_OP_CONSTANT;
}

/* Whether the reader has the node's data. */
static bool is_read(const demist_program *p, const demist_node *node)
{
    return p->reader && node->op == DEMIST_OP_PARAM && !node->data;
}

static bool has_data(const demist_program *p, const demist_node *node)
{
    return node->data || is_read(p, node);
}

static demist_status define_fixed(demist_program *p, const demist_node *node)
{
    struct ocl_value *value = &p->values[node->id];
    if (!has_data(p, node) && (node->op == DEMIST_OP_CONSTANT || p->flags & DEMIST_COMPILE_FROZEN))
        return host_of(p)->fail(host_of(p), DEMIST_INVALID, "node '%s' (%s) has no data",
                                node->name, demist_op_name(node->op));
    /* Whoever may want to see or replace it finds it in the program's own memory. */
    const bool kept = !(p->flags & DEMIST_COMPILE_FROZEN) || p->flags & DEMIST_COMPILE_OBSERVE;
    const int32_t storage =
        new_storage(p, (struct ocl_storage){.place = kept ? OCL_FIXED : OCL_RAW,
                                            .elements = demist_elements(node),
                                            .data = node->data,
                                            .param = is_read(p, node) ? node : NULL});
    if (storage < 0)
        return DEMIST_NO_MEMORY;
    p->storages[storage].written = true;
    value->view = demist_view_dense(storage, false, node->rank, node->shape);
    value->defined = true;
    value->ready = -1;
    return DEMIST_OK;
}

demist_status ocl_value_of(demist_program *p, const demist_node *node, demist_view *view)
{
    struct ocl_value *value = &p->values[node->id];
    *view = value->view;
    if (!value->defined && is_fixed(node))
        OCL_TRY(define_fixed(p, node));
    if (!value->defined)
        return host_of(p)->fail(host_of(p), DEMIST_INVALID,
                                "node '%s' (%s) is used before it is computed: the graph is not in "
                                "topological order",
                                node->name, demist_op_name(node->op));
    *view = value->view;
    return DEMIST_OK;
}

void ocl_set_result(demist_program *p, const demist_node *node, const demist_view *view)
{
    p->values[node->id].view = *view;
}

/* --- element types --- */

enum ocl_type ocl_type_of(const demist_program *p, const demist_view *view)
{
    return view->storage < p->n_storages ? p->storages[view->storage].type : OCL_F32;
}

const char *ocl_type_name(enum ocl_type type)
{
    return type == OCL_F16 ? "f16" : "f32";
}

enum ocl_type ocl_type_of_result(const demist_program *p, const demist_node *node)
{
    return demist_is_batched(node) && node->rank > 2 && !p->values[node->id].is_output ? p->narrow
                                                                                       : OCL_F32;
}

enum ocl_type ocl_type_like(const demist_program *p, const demist_node *node, int32_t n,
                            const demist_view *inputs)
{
    bool narrow = n > 0 && !p->values[node->id].is_output;
    for (int32_t i = 0; i < n; i++)
        narrow = narrow && ocl_type_of(p, &inputs[i]) == OCL_F16;
    return narrow ? OCL_F16 : OCL_F32;
}

demist_status ocl_typed_kernel(demist_device *device, const char *source, enum ocl_type x,
                               enum ocl_type y, const char *name, cl_kernel *kernel)
{
    char before[64] = "";
    struct ocl_text text = ocl_text_behind(before, sizeof before);
    ocl_print(&text, "#define TYPE_X %s\n#define TYPE_Y %s\n", ocl_type_name(x), ocl_type_name(y));
    return ocl_kernel(device, source, before, name, kernel);
}

/* --- where results go --- */

demist_status ocl_result(demist_program *p, const demist_node *node, const int32_t *order,
                         enum ocl_type type, demist_view *view)
{
    *view = (demist_view){.batched = demist_is_batched(node), .rank = node->rank};
    memcpy(view->shape, node->shape, sizeof view->shape);
    const int64_t elements = demist_view_lay_out(view, order);
    view->storage = ocl_new_storage(p, view->batched, elements, type);
    return view->storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

demist_status ocl_result_pixels(demist_program *p, const demist_node *node, enum ocl_type type,
                                demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK] = {0};
    demist_order_last(node->rank, node->rank > 1 ? 1 : 0, order);
    return ocl_result(p, node, order, type, view);
}

demist_status ocl_result_dense(demist_program *p, const demist_node *node, enum ocl_type type,
                               demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK] = {0};
    demist_order_rows(node->rank, order);
    return ocl_result(p, node, order, type, view);
}

demist_status ocl_result_like(demist_program *p, const demist_node *node, const demist_view *like,
                              enum ocl_type type, demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK] = {0};
    const bool batched = demist_is_batched(node);
    bool fits = like->rank == node->rank;
    for (int32_t i = batched ? 1 : 0; i < node->rank && fits; i++)
        fits = like->shape[i] == node->shape[i];
    if (!fits || !demist_order_like(like, batched, order))
        return ocl_result_dense(p, node, type, view);
    return ocl_result(p, node, order, type, view);
}

demist_status ocl_materialise(demist_program *p, int32_t node, const int32_t *order,
                              demist_view *view)
{
    const demist_view from = *view;
    const int64_t elements = demist_view_lay_out(view, order);
    view->offset = 0;
    view->storage = ocl_new_storage(p, view->batched, elements, ocl_type_of(p, &from));
    if (view->storage < 0)
        return DEMIST_NO_MEMORY;
    return ocl_add_copy(p, node, view, &from);
}

demist_status ocl_need_pixels(demist_program *p, int32_t node, demist_view *view)
{
    if (demist_view_is_pixels(view))
        return DEMIST_OK;
    int32_t order[DEMIST_MAX_RANK] = {0};
    demist_order_last(view->rank, 1, order);
    return ocl_materialise(p, node, order, view);
}

demist_status ocl_need_contiguous(demist_program *p, int32_t node, int32_t axis, demist_view *view)
{
    if (view->stride[axis] == 1 || view->shape[axis] == 1)
        return DEMIST_OK;
    int32_t order[DEMIST_MAX_RANK] = {0};
    demist_order_last(view->rank, axis, order);
    return ocl_materialise(p, node, order, view);
}

demist_status ocl_need_dense(demist_program *p, int32_t node, demist_view *view)
{
    int32_t order[DEMIST_MAX_RANK] = {0};
    if (demist_view_is_dense(view))
        return DEMIST_OK;
    demist_order_rows(view->rank, order);
    return ocl_materialise(p, node, order, view);
}

/* --- ops that move nothing, and concatenation --- */

static demist_status add_view(demist_program *p, const demist_node *node)
{
    demist_view from, to;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &from));
    if (!demist_view_of_node(node, &from, &to)) {
        OCL_TRY(ocl_need_dense(p, node->id, &from));
        demist_view_of_node(node, &from, &to);
    }
    ocl_set_result(p, node, &to);
    return DEMIST_OK;
}

static demist_status add_concat(demist_program *p, const demist_node *node)
{
    const int32_t axis = node->attrs.axis.axis;
    demist_view whole, from;
    int64_t offset = 0;
    enum ocl_type type = OCL_F16;
    for (int32_t i = 0; i < node->n_inputs && type == OCL_F16; i++) {
        OCL_TRY(ocl_value_of(p, node->inputs[i], &from));
        type = ocl_type_like(p, node, 1, &from);
    }
    if (node->rank == 4 && axis == 1 && node->dtype == DEMIST_F32)
        OCL_TRY(ocl_result_pixels(p, node, type, &whole));
    else
        OCL_TRY(ocl_result_dense(p, node, type, &whole));
    for (int32_t i = 0; i < node->n_inputs; i++) {
        demist_view to = whole;
        OCL_TRY(ocl_value_of(p, node->inputs[i], &from));
        to.shape[axis] = from.shape[axis];
        to.offset += offset * whole.stride[axis];
        offset += from.shape[axis];
        OCL_TRY(ocl_add_copy(p, node->id, &to, &from));
    }
    ocl_set_result(p, node, &whole);
    return DEMIST_OK;
}

/* --- compile --- */

static demist_status add_fused(demist_program *p, const struct ocl_fused *f)
{
    switch (f->chain[0]->op) {
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
    case DEMIST_OP_LINEAR:
        return ocl_add_product(p, f);
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return ocl_add_norm(p, f);
    default:
        return ocl_add_elementwise(p, f);
    }
}

static demist_status add_node(demist_program *p, const demist_node *node)
{
    const struct ocl_fused one = {node, 1, &node};
    const struct ocl_fused several = {node, node->n_body, node->body};
    switch (node->op) {
    case DEMIST_OP_INPUT:
    case DEMIST_OP_PARAM:
    case DEMIST_OP_CONSTANT:
        return DEMIST_OK; /* defined before, or on first use */
    case DEMIST_OP_FUSED:
        return add_fused(p, &several);
    case DEMIST_OP_SCALAR:
        return ocl_add_scalar(p, node);
    case DEMIST_OP_CAST:
        return ocl_add_cast(p, node);
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
    case DEMIST_OP_BATCH_SUM:
        return ocl_add_reduce(p, node);
    case DEMIST_OP_SOFTMAX:
        return ocl_add_softmax(p, node);
    case DEMIST_OP_MATMUL:
        return ocl_add_matmul(p, node);
    case DEMIST_OP_ATTENTION:
        return ocl_add_attention(p, node);
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        return ocl_add_pool(p, node);
    case DEMIST_OP_UPSAMPLE_NEAREST:
        return ocl_add_upsample(p, node);
    case DEMIST_OP_RESIZE_BILINEAR:
        return ocl_add_resize(p, node);
    case DEMIST_OP_RESHAPE:
    case DEMIST_OP_TRANSPOSE:
    case DEMIST_OP_SLICE:
    case DEMIST_OP_EXPAND:
        return add_view(p, node);
    case DEMIST_OP_CONCAT:
        return add_concat(p, node);
    case DEMIST_OP_PAD:
        return ocl_add_pad(p, node);
    case DEMIST_OP_EMBEDDING:
        return ocl_add_embedding(p, node);
    case DEMIST_OP_PHILOX_NORMAL:
    case DEMIST_OP_PHILOX_UNIFORM:
        return ocl_add_philox(p, node);
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
        OCL_TRY(add_node(p, node));
        p->flops += demist_product_flops(node);
        if (is_fixed(node) || node->op == DEMIST_OP_INPUT)
            continue;
        struct ocl_value *value = &p->values[i];
        value->defined = true;
        value->ready = ready_after(p, node, before);
        struct ocl_storage *s = &p->storages[value->view.storage];
        s->last = s->last < value->ready ? value->ready : s->last;
    }
    return DEMIST_OK;
}

/* While a product is measured, its input is what stands for a value inside another program. */
static enum ocl_type type_of_input(const demist_program *p, const demist_node *node)
{
    return p->device->narrow_inputs && demist_is_batched(node) ? p->narrow : OCL_F32;
}

static demist_status define_leaves(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_inputs; i++) {
        const demist_node *node = graph->inputs[i];
        const int32_t storage =
            new_storage(p, (struct ocl_storage){.place = OCL_INPUT,
                                                .type = type_of_input(p, node),
                                                .written = true,
                                                .varies = true,
                                                .batched = demist_is_batched(node),
                                                .elements = demist_elements(node),
                                                .where = i});
        if (storage < 0)
            return DEMIST_NO_MEMORY;
        struct ocl_value *value = &p->values[node->id];
        value->view = demist_view_dense(storage, demist_is_batched(node), node->rank, node->shape);
        value->defined = true;
        value->ready = -1;
        p->input_nodes[i] = node->id;
    }
    for (int32_t i = 0; i < graph->n_params; i++) {
        p->param_nodes[i] = graph->params[i]->id;
        p->param_filled[i] = has_data(p, graph->params[i]);
        OCL_TRY(define_fixed(p, graph->params[i]));
    }
    return DEMIST_OK;
}

/* Outputs are dense in the caller's buffers: a value that has a dense storage to itself gets the
 * buffer as its storage, any other is copied. */
static demist_status define_outputs(demist_program *p, const demist_graph *graph)
{
    for (int32_t i = 0; i < graph->n_outputs; i++) {
        const demist_node *node = graph->outputs[i];
        demist_view view;
        OCL_TRY(ocl_value_of(p, node, &view));
        struct ocl_storage *storage = &p->storages[view.storage];
        p->output_nodes[i] = node->id;
        if (storage->place == OCL_ARENA && storage->type == OCL_F32 && view.offset == 0 &&
            demist_view_is_dense(&view) && storage->batched == view.batched &&
            storage->elements == demist_view_elements(&view)) {
            storage->place = OCL_OUTPUT;
            storage->where = i;
            continue;
        }
        const int32_t out =
            new_storage(p, (struct ocl_storage){.place = OCL_OUTPUT,
                                                .written = true,
                                                .varies = true,
                                                .batched = view.batched,
                                                .elements = demist_view_elements(&view),
                                                .where = i});
        if (out < 0)
            return DEMIST_NO_MEMORY;
        const demist_view to = demist_view_dense(out, view.batched, view.rank, view.shape);
        OCL_TRY(ocl_add_copy(p, node->id, &to, &view));
    }
    return DEMIST_OK;
}

/* --- memory --- */

static demist_status storage_bytes(const demist_program *p, const struct ocl_storage *s,
                                   int64_t *bytes)
{
    const int64_t images = s->batched ? p->max_batch : 1;
    int64_t elements;
    if (!__builtin_mul_overflow(s->elements, images, &elements) && elements < INT32_MAX) {
        *bytes = (elements * ocl_size_of(s->type) + ALIGN - 1) / ALIGN * ALIGN;
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
    demist_block *blocks = ocl_new(p, sizeof *blocks * (size_t)(p->n_storages + 1));
    if (!blocks)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < p->n_storages; i++) {
        struct ocl_storage *s = &p->storages[i];
        int64_t bytes = 0;
        OCL_TRY(storage_bytes(p, s, &bytes));
        blocks[i] = (demist_block){
            .bytes = s->place == OCL_ARENA ? bytes : 0, .first = s->first, .last = s->last};
        int64_t *end = s->place == OCL_FIXED ? &p->fixed_bytes : &p->raw_bytes;
        if (s->place == OCL_FIXED || s->place == OCL_RAW) {
            s->where = *end;
            *end += bytes;
        }
    }
    p->arena_bytes = host->plan_memory(host, blocks, (size_t)p->n_storages, ALIGN);
    for (int32_t i = 0; i < p->n_storages; i++)
        if (p->storages[i].place == OCL_ARENA)
            p->storages[i].where = blocks[i].offset;
    return p->arena_bytes < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

static demist_status alloc_device_memory(demist_program *p, const demist_compile_info *info)
{
    const demist_host *host = host_of(p);
    const double all = (double)p->fixed_bytes + (double)p->raw_bytes + (double)p->arena_bytes;
    if (info->memory_limit > 0 && all > (double)info->memory_limit)
        return host->fail(
            host, DEMIST_NO_MEMORY,
            "a batch of %" PRId64 " needs %" PRId64 " bytes for parameters and %" PRId64
            " of working memory; the limit is %" PRId64 ": lower the batch or raise the limit",
            p->max_batch, p->fixed_bytes + p->raw_bytes, p->arena_bytes, info->memory_limit);
    OCL_TRY(ocl_new_memory(p->device, p->arena_bytes, "working memory", &p->arena));
    OCL_TRY(ocl_new_memory(p->device, p->fixed_bytes, "parameters", &p->fixed));
    return ocl_new_memory(p->device, p->raw_bytes, "parameters to be packed", &p->raw);
}

/* Room for the largest parameter that is read; NULL, with *room NULL, where none is. */
static demist_status new_room(demist_program *p, float **room)
{
    const demist_host *host = host_of(p);
    int64_t most = 0;
    for (int32_t i = 0; i < p->n_storages; i++)
        if (p->storages[i].param && p->storages[i].elements > most)
            most = p->storages[i].elements;
    *room = most > 0 ? host->alloc(host, (size_t)most * sizeof **room, 0) : NULL;
    return most == 0 || *room ? DEMIST_OK : DEMIST_NO_MEMORY;
}

static demist_status upload_one(demist_program *p, int32_t i, float *room)
{
    const struct ocl_storage *s = &p->storages[i];
    const cl_command_queue queue = p->device->queue;
    const size_t at = (size_t)s->where, bytes = (size_t)s->elements * 4;
    const void *data = s->param ? room : s->data;
    const float zero = 0;
    cl_int error = CL_SUCCESS;
    if (s->param)
        OCL_TRY(p->reader->read(p->reader, s->param, room));
    if (data)
        error = clEnqueueWriteBuffer(queue, s->place == OCL_FIXED ? p->fixed : p->raw, CL_TRUE, at,
                                     bytes, data, 0, NULL, NULL);
    else if (i == p->zeros)
        error = clEnqueueFillBuffer(queue, p->fixed, &zero, sizeof zero, at, bytes, 0, NULL, NULL);
    return error == CL_SUCCESS ? DEMIST_OK : ocl_fail(p->device, "clEnqueueWriteBuffer", error);
}

static demist_status upload(demist_program *p)
{
    float *room;
    demist_status status = new_room(p, &room);
    for (int32_t i = 0; status == DEMIST_OK && i < p->n_storages; i++)
        status = upload_one(p, i, room);
    host_of(p)->free(host_of(p), room);
    return status;
}

static bool all_filled(const demist_program *p)
{
    for (int32_t i = 0; i < p->n_params; i++)
        if (!p->param_filled[i])
            return false;
    return true;
}

static demist_status prepare(demist_program *p)
{
    OCL_TRY(upload(p));
    if (all_filled(p))
        OCL_TRY(ocl_run_once(p->device->queue, p));
    const cl_int error = clFinish(p->device->queue);
    if (error != CL_SUCCESS)
        return ocl_fail(p->device, "clFinish", error);
    if (p->flags & DEMIST_COMPILE_FROZEN) {
        clReleaseMemObject(p->raw);
        p->raw = NULL;
    }
    for (int32_t i = 0; i < p->n_storages; i++) {
        p->storages[i].data = NULL;
        p->storages[i].param = NULL;
    }
    p->reader = NULL;
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
    if (!ocl_has_precision(device, info->precision))
        return host->fail(host, DEMIST_UNSUPPORTED,
                          "the opencl backend computes in f32, strict or f16 precision only");
    return demist_check_compile(host, device, graph, info, ocl_supports);
}

static demist_status alloc_tables(demist_program *p, const demist_graph *graph)
{
    const size_t n = (size_t)graph->n_nodes + 1;
    size_t name_bytes = 0;
    for (int32_t i = 0; i < graph->n_nodes; i++)
        name_bytes += strlen(graph->nodes[i]->name) + 1;
    char *names = ocl_new(p, name_bytes + 1);
    p->n_values = graph->n_nodes;
    p->n_inputs = graph->n_inputs;
    p->n_outputs = graph->n_outputs;
    p->n_params = graph->n_params;
    p->n_scalars = graph->n_scalars;
    if (!names || !(p->values = ocl_new(p, n * sizeof *p->values)) ||
        !(p->input_nodes = ocl_new(p, n * sizeof *p->input_nodes)) ||
        !(p->output_nodes = ocl_new(p, ((size_t)graph->n_outputs + 1) * sizeof *p->output_nodes)) ||
        !(p->param_nodes = ocl_new(p, n * sizeof *p->param_nodes)) ||
        !(p->param_filled = ocl_new(p, n * sizeof *p->param_filled)) ||
        !(p->philox_nodes = ocl_new(p, n * sizeof *p->philox_nodes)) ||
        !(p->philox_attrs = ocl_new(p, n * sizeof *p->philox_attrs)) ||
        !(p->profile = ocl_new(p, n * sizeof *p->profile)) ||
        !(p->profiles = ocl_new(p, n * sizeof *p->profiles)))
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const demist_node *node = graph->nodes[i];
        const size_t length = strlen(node->name) + 1;
        p->values[i] = (struct ocl_value){.op = node->op,
                                          .name = memcpy(names, node->name, length),
                                          .rank = node->rank,
                                          .inside = -1,
                                          .ready = -1};
        memcpy(p->values[i].shape, node->shape, sizeof node->shape);
        names += length;
        p->profile[i] = DEMIST_INIT(demist_node_profile);
        p->profile[i].node = i;
        p->profiles[i] = &p->profile[i];
    }
    for (int32_t i = 0; i < graph->n_outputs; i++)
        p->values[graph->outputs[i]->id].is_output = true;
    return DEMIST_OK;
}

static demist_status build(demist_program *p, const demist_graph *graph,
                           const demist_compile_info *info)
{
    OCL_TRY(alloc_tables(p, graph));
    OCL_TRY(define_leaves(p, graph));
    OCL_TRY(add_nodes(p, graph));
    OCL_TRY(define_outputs(p, graph));
    OCL_TRY(place_storages(p));
    OCL_TRY(alloc_device_memory(p, info));
    return prepare(p);
}

demist_status ocl_compile(demist_device *device, const demist_graph *graph,
                          const demist_compile_info *info, demist_program **program)
{
    return ocl_compile_reading(device, graph, info, NULL, program);
}

demist_status ocl_compile_reading(demist_device *device, const demist_graph *graph,
                                  const demist_compile_info *info,
                                  const demist_param_reader *reader, demist_program **program)
{
    const demist_host *host = device->host;
    OCL_TRY(check_info(device, graph, info));
    demist_program *p = host->alloc(host, sizeof *p, 0);
    if (!p)
        return DEMIST_NO_MEMORY;
    memset(p, 0, sizeof *p);
    p->device = device;
    p->flags = info->flags;
    p->precision = info->precision;
    p->narrow = info->precision == DEMIST_PRECISION_F16 ? OCL_F16 : OCL_F32;
    p->max_batch = info->max_batch;
    p->zeros = -1;
    p->reader = reader;
    const demist_status status = build(p, graph, info);
    if (status != DEMIST_OK) {
        ocl_program_destroy(p);
        return status;
    }
    *program = p;
    return DEMIST_OK;
}

void ocl_program_destroy(demist_program *program)
{
    if (!program)
        return;
    const demist_host *host = host_of(program);
    clFinish(program->device->queue);
    for (int32_t i = 0; i < program->steps.n; i++)
        ocl_draws_finish(program->steps.list[i].draws);
    cl_mem memory[] = {program->arena, program->fixed, program->raw};
    for (int i = 0; i < 3; i++)
        if (memory[i])
            clReleaseMemObject(memory[i]);
    for (struct ocl_memory *m = program->memory, *next; m; m = next) {
        next = m->next;
        host->free(host, m);
    }
    host->free(host, program);
}

demist_status ocl_program_info(demist_program *program, demist_program_info *info)
{
    info->param_bytes = program->fixed_bytes + (program->raw ? program->raw_bytes : 0);
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

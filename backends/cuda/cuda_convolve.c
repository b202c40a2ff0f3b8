/* Convolutions and linear layers, each with what follows it, as calls of the product kernels.
 * Weights are packed as [group][tap][depth][columns], once if they are parameters, in the
 * precision's type. A transposed convolution is one convolution for each phase of its stride. */
#include "cuda_library.h"

#include <demist/convolution.h>

#include <string.h>

enum { MAX_TAPS = 1024, COLUMN_ALIGN = 8 };

/* A convolution with what follows it. */
struct conv {
    int32_t node;
    demist_view x, y, w;                /* w: [columns][depth][kh][kw] by strides */
    int64_t groups, depth, columns;     /* of one group */
    int64_t w_column, w_depth, w_group; /* strides of w */
    demist_attrs attrs;
    struct cu_chain after;
    demist_view operands[CU_MAX_OPERANDS];
};

/* --- the call --- */

static void put_operands(const demist_program *p, struct cu_draft *d, struct cu_product *product,
                         const struct cu_product_draft *c)
{
    for (int32_t k = 0; c->after && k < c->after->code.n_operands; k++) {
        const demist_view *v = &c->operands[k];
        product->operand[k].type = (int32_t)cu_type_of(p, v);
        memcpy(product->operand[k].stride, v->stride, sizeof product->operand[k].stride);
        cu_put_in(d, &product->operand[k].at, v);
    }
}

demist_status cu_add_product_call(demist_program *p, int32_t node, struct cu_product_draft *c)
{
    struct cu_draft d;
    struct cu_product *product =
        cu_draft_init(&d, node, "product", cu_run_product_simt, sizeof *product);
    const demist_view taps = {.storage = c->taps};
    *product = c->product;
    product->a_type = (int32_t)cu_type_of(p, &c->a);
    product->b_type = (int32_t)cu_type_of(p, &c->b);
    product->y_type = (int32_t)cu_type_of(p, &c->y);
    product->tf32 = p->precision == DEMIST_PRECISION_TF32;
    cu_put_in(&d, &product->a, &c->a);
    cu_put_in(&d, &product->b, &c->b);
    cu_put_in(&d, &product->taps, &taps);
    cu_put_out(&d, &product->y, &c->y);
    cu_put_count(&d, &product->rows, c->rows);
    cu_put_count(&d, &product->z, c->z);
    put_operands(p, &d, product, c);
    if (c->after)
        CU_TRY(cu_put_code(p, &d, &product->after, c->after));
    d.launch.is_product = true;
    CU_TRY(cu_library_product(p, node, product, c, &d.launch.library));
    return cu_add_launch(p, &d);
}

/* --- one convolution, or one phase of a transposed one --- */

struct phase {
    int64_t height, width;
    int32_t stride[2];
    demist_taps taps[2]; /* along y, x */
    bool whole;          /* a convolution, and no part of a transposed one */
};

static int64_t packed_row(const struct conv *c)
{
    return (c->columns + COLUMN_ALIGN - 1) / COLUMN_ALIGN * COLUMN_ALIGN;
}

/* [group][tap y][tap x][depth][columns], a copy of w seen in that order. */
static demist_status pack(demist_program *p, const struct conv *c, const struct phase *phase,
                          demist_view *packed)
{
    const demist_taps *ty = &phase->taps[0], *tx = &phase->taps[1];
    const int64_t row = packed_row(c), n_taps = (int64_t)ty->n * tx->n;
    const enum cu_type type = cu_type_of(p, &c->x) == CU_F32 ? CU_F32 : p->narrow;
    demist_view from = c->w;
    from.rank = 5;
    from.offset += ty->first * c->w.stride[2] + tx->first * c->w.stride[3];
    const int64_t shape[] = {c->groups, ty->n, tx->n, c->depth, c->columns};
    const int64_t stride[] = {c->w_group, ty->step * c->w.stride[2], tx->step * c->w.stride[3],
                              c->w_depth, c->w_column};
    memcpy(from.shape, shape, sizeof shape);
    memcpy(from.stride, stride, sizeof stride);
    *packed = from;
    packed->offset = 0;
    packed->stride[4] = 1;
    packed->stride[3] = row;
    packed->stride[2] = row * c->depth;
    packed->stride[1] = row * c->depth * tx->n;
    packed->stride[0] = row * c->depth * n_taps;
    packed->storage = cu_new_storage(p, false, c->groups * n_taps * c->depth * row, type);
    if (packed->storage < 0)
        return DEMIST_NO_MEMORY;
    return cu_add_copy(p, c->node, packed, &from);
}

/* For libraries: all of w as [group and column][y][x][depth]. */
static void describe(const struct conv *c, const struct phase *phase,
                     struct cu_product_draft *draft)
{
    const int64_t n[] = {phase->taps[0].n, phase->taps[1].n};
    const int64_t shape[] = {c->groups, c->columns, n[0], n[1], c->depth};
    const int64_t stride[] = {c->w_group, c->w_column, c->w.stride[2], c->w.stride[3], c->w_depth};
    draft->weights = (demist_view){
        .storage = c->w.storage, .offset = c->w.offset, .rank = 5, .batched = c->w.batched};
    memcpy(draft->weights.shape, shape, sizeof shape);
    memcpy(draft->weights.stride, stride, sizeof stride);
    for (int i = 0; i < 2; i++) {
        draft->geometry.kernel[i] = phase->taps[i].n;
        draft->geometry.before[i] = c->attrs.conv.pad[i];
        draft->geometry.after[i] = c->attrs.conv.pad[2 + i];
        draft->geometry.dilation[i] = c->attrs.conv.dilation[i];
    }
}

static demist_status put_taps(demist_program *p, const struct phase *phase, int32_t *storage)
{
    const demist_taps *ty = &phase->taps[0], *tx = &phase->taps[1];
    int32_t places[2 * MAX_TAPS] = {0, 0}, n = 0;
    for (int32_t i = 0; i < ty->n; i++)
        for (int32_t j = 0; j < tx->n; j++) {
            places[n++] = ty->place + i * ty->move;
            places[n++] = tx->place + j * tx->move;
        }
    *storage = cu_new_ints(p, n > 0 ? n : 2, places);
    return *storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

static demist_status add_phase(demist_program *p, const struct conv *c, const struct phase *phase,
                               const demist_view *y, const demist_view *operands)
{
    const int32_t n_taps = phase->taps[0].n * phase->taps[1].n;
    struct cu_product_draft draft = {
        .product = {.n_taps = n_taps,
                    .height = (int32_t)phase->height,
                    .width = (int32_t)phase->width,
                    .columns = (int32_t)c->columns,
                    .depth = (int32_t)c->depth,
                    .a_stride = {c->x.stride[0], c->x.stride[2], c->x.stride[3]},
                    .y_stride = {y->stride[0], y->stride[2], y->stride[3]},
                    .stride = {phase->stride[0], phase->stride[1]},
                    .in_height = (int32_t)c->x.shape[2],
                    .in_width = (int32_t)c->x.shape[3],
                    .b_row = packed_row(c),
                    .z_inner = (int32_t)c->groups,
                    .a_z = {0, c->depth},
                    .b_z = {0, n_taps * c->depth * packed_row(c)},
                    .y_z = {0, c->columns},
                    .column_z = (int32_t)c->columns},
        .a = c->x,
        .y = *y,
        .rows = cu_times(cu_images(&c->x), phase->height * phase->width),
        .z = {c->groups, 0},
        .after = &c->after,
        .operands = operands,
    };
    CU_TRY(put_taps(p, phase, &draft.taps));
    draft.b = (demist_view){.storage = draft.taps}; /* not read without taps */
    if (n_taps > 0)
        CU_TRY(pack(p, c, phase, &draft.b));
    draft.b.offset = 0;
    if (phase->whole)
        describe(c, phase, &draft);
    return cu_add_product_call(p, c->node, &draft);
}

static demist_status add_direct(demist_program *p, const struct conv *c)
{
    const demist_attrs *a = &c->attrs;
    struct phase phase = {.height = c->y.shape[2], .width = c->y.shape[3], .whole = true};
    for (int i = 0; i < 2; i++) {
        phase.stride[i] = a->conv.stride[i];
        phase.taps[i] = demist_conv_taps(c->w.shape[2 + i], a->conv.pad[i], a->conv.dilation[i]);
    }
    return add_phase(p, c, &phase, &c->y, c->operands);
}

/* Every stride[axis]-th pixel of a grid, from `first` on. */
static demist_view every(const demist_view *grid, const int32_t *stride, const int64_t *first,
                         int32_t y_axis)
{
    demist_view view = *grid;
    for (int axis = 0; axis < 2; axis++) {
        view.offset += first[axis] * grid->stride[y_axis + axis];
        view.stride[y_axis + axis] *= stride[axis];
    }
    return view;
}

static demist_status add_transposed_phase(demist_program *p, const struct conv *c,
                                          const int64_t first[2])
{
    const demist_attrs *a = &c->attrs;
    struct phase phase = {.stride = {1, 1}};
    int64_t size[2];
    for (int i = 0; i < 2; i++) {
        phase.taps[i] = demist_transposed_taps(c->w.shape[2 + i], a->conv.stride[i], a->conv.pad[i],
                                               a->conv.dilation[i], first[i]);
        size[i] = demist_phase_outputs(c->y.shape[2 + i], a->conv.stride[i], first[i]);
    }
    phase.height = size[0];
    phase.width = size[1];
    const demist_view y = every(&c->y, a->conv.stride, first, 2);
    demist_view operands[CU_MAX_OPERANDS];
    for (int32_t k = 0; k < c->after.code.n_operands; k++)
        operands[k] = every(&c->operands[k], a->conv.stride, first, 1);
    return add_phase(p, c, &phase, &y, operands);
}

static demist_status add_transposed(demist_program *p, const struct conv *c)
{
    int64_t first[2];
    for (first[0] = 0; first[0] < c->attrs.conv.stride[0] && first[0] < c->y.shape[2]; first[0]++)
        for (first[1] = 0; first[1] < c->attrs.conv.stride[1] && first[1] < c->y.shape[3];
             first[1]++)
            CU_TRY(add_transposed_phase(p, c, first));
    return DEMIST_OK;
}

/* --- the chain behind it --- */

/* The value in the grid of the result: strides of image, row, column and channel, which is
 * contiguous or repeated. `axis` has the channels in a value of the result's rank. */
static demist_status operand_grid(demist_program *p, int32_t node, const demist_view *value,
                                  const demist_view *result, int32_t axis, demist_view *grid)
{
    demist_view v = *value;
    const int32_t own = axis - (result->rank - v.rank);
    if (own >= 0 && v.shape[own] != 1 && v.stride[own] != 0)
        CU_TRY(cu_need_contiguous(p, node, own, &v));
    v = demist_view_broadcast(&v, result);
    *grid = (demist_view){.storage = v.storage, .offset = v.offset, .rank = 4};
    grid->stride[0] = result->rank > 1 ? v.stride[0] : 0;
    int32_t at = 2; /* the last axis that is neither image nor channel is the column */
    for (int32_t i = result->rank - 1; i > 0; i--)
        if (i != axis)
            grid->stride[at--] = v.stride[i];
    grid->stride[3] = v.stride[axis] != 0 && result->shape[axis] != 1;
    return DEMIST_OK;
}

/* A vector of channels in the shape of the result. */
static demist_view along(const demist_view *channels, const demist_view *result, int32_t axis)
{
    demist_view view = *result;
    view.storage = channels->storage;
    view.offset = channels->offset;
    for (int32_t i = 0; i < view.rank; i++)
        view.stride[i] = i == axis ? channels->stride[0] : 0;
    return view;
}

static demist_status build_chain(demist_program *p, const struct cu_fused *f, struct conv *c,
                                 const demist_view *result, int32_t axis)
{
    struct cu_chain *e = &c->after;
    const demist_node *product = f->chain[0];
    cu_chain_init(e, f->n, f->chain);
    if (product->n_inputs > 2) {
        demist_view bias;
        CU_TRY(cu_value_of(p, product->inputs[2], &bias));
        bias = along(&bias, result, axis);
        cu_chain_add(e, CU_ADD, CU_OPERAND, cu_chain_operand(e, NULL, &bias), CU_NOTHING, 0);
    }
    cu_chain_is(e, product);
    for (int32_t i = 1; i < f->n; i++) {
        const demist_node *node = f->chain[i];
        if (node->op != DEMIST_OP_BATCH_NORM) {
            CU_TRY(cu_chain_node(p, e, node));
            continue;
        }
        demist_view scale, shift;
        CU_TRY(cu_fold_norm(p, c->node, node, &scale, &shift));
        scale = along(&scale, result, axis);
        shift = along(&shift, result, axis);
        const int32_t s = cu_chain_operand(e, NULL, &scale), t = cu_chain_operand(e, NULL, &shift);
        cu_chain_add(e, CU_FMA, CU_OPERAND, s, CU_OPERAND, t);
        cu_chain_is(e, node);
    }
    for (int32_t k = 0; k < e->code.n_operands; k++)
        CU_TRY(operand_grid(p, c->node, &e->operand[k].view, result, axis, &c->operands[k]));
    return DEMIST_OK;
}

/* --- ops --- */

static demist_status add_conv(demist_program *p, const struct cu_fused *f)
{
    const demist_node *node = f->chain[0];
    const bool transposed = node->op == DEMIST_OP_CONV_TRANSPOSE2D;
    const int64_t groups = node->attrs.conv.groups;
    struct conv c = {.node = f->result->id, .groups = groups, .attrs = node->attrs};
    CU_TRY(cu_value_of(p, node->inputs[0], &c.x));
    CU_TRY(cu_value_of(p, node->inputs[1], &c.w));
    if (c.w.shape[2] * c.w.shape[3] > MAX_TAPS)
        return p->device->host->fail(p->device->host, DEMIST_UNSUPPORTED,
                                     "node '%s': a kernel of more than %d taps", node->name,
                                     (int)MAX_TAPS);
    CU_TRY(cu_need_contiguous(p, c.node, 1, &c.x));
    CU_TRY(cu_result_pixels(p, f->result, cu_type_of_result(p, f->result), &c.y));
    c.depth = c.x.shape[1] / groups;
    c.columns = c.y.shape[1] / groups;
    c.w_column = c.w.stride[transposed ? 1 : 0];
    c.w_depth = c.w.stride[transposed ? 0 : 1];
    c.w_group = c.w.stride[0] * (transposed ? c.depth : c.columns);
    CU_TRY(build_chain(p, f, &c, &c.y, 1));
    if (transposed)
        CU_TRY(add_transposed(p, &c));
    else
        CU_TRY(add_direct(p, &c));
    cu_set_result(p, f->result, &c.y);
    return DEMIST_OK;
}

/* A value [.., K] as images of rows of columns of K channels: [n, K, rows, columns] by strides. */
static demist_view as_images(const demist_view *v)
{
    demist_view image = {.storage = v->storage, .offset = v->offset, .rank = 4};
    const int32_t last = v->rank - 1;
    image.batched = v->batched;
    image.shape[0] = v->rank > 1 ? v->shape[0] : 1;
    image.stride[0] = v->rank > 1 ? v->stride[0] : 0;
    image.shape[1] = v->shape[last];
    image.stride[1] = v->stride[last];
    image.shape[2] = v->rank > 3 ? v->shape[1] : 1;
    image.stride[2] = v->rank > 3 ? v->stride[1] : 0;
    image.shape[3] = v->rank > 2 ? v->shape[last - 1] : 1;
    image.stride[3] = v->rank > 2 ? v->stride[last - 1] : 0;
    return image;
}

/* More than two axes between the first and the last become one. */
static demist_status flatten(demist_program *p, int32_t node, demist_view *v)
{
    int64_t shape[DEMIST_MAX_RANK] = {v->shape[0], 1, v->shape[v->rank - 1]};
    if (v->rank <= 4)
        return DEMIST_OK;
    CU_TRY(cu_need_dense(p, node, v));
    for (int32_t i = 1; i < v->rank - 1; i++)
        shape[1] *= v->shape[i];
    const int64_t offset = v->offset;
    *v = demist_view_dense(v->storage, v->batched, 3, shape);
    v->offset = offset;
    return DEMIST_OK;
}

static demist_status add_linear(demist_program *p, const struct cu_fused *f)
{
    const demist_node *node = f->chain[0];
    struct conv c = {.node = f->result->id, .groups = 1};
    demist_view x, y, w, result;
    CU_TRY(cu_value_of(p, node->inputs[0], &x));
    CU_TRY(cu_value_of(p, node->inputs[1], &w));
    CU_TRY(cu_need_contiguous(p, c.node, x.rank - 1, &x));
    CU_TRY(cu_result_dense(p, f->result, cu_type_of_result(p, f->result), &result));
    y = result;
    CU_TRY(flatten(p, c.node, &x));
    CU_TRY(flatten(p, c.node, &y));
    CU_TRY(build_chain(p, f, &c, &y, y.rank - 1));
    c.x = as_images(&x);
    c.y = as_images(&y);
    c.w = w;
    c.w.rank = 4;
    c.w.shape[2] = c.w.shape[3] = 1;
    c.w.stride[2] = c.w.stride[3] = 0;
    c.depth = w.shape[1];
    c.columns = w.shape[0];
    c.w_column = w.stride[0];
    c.w_depth = w.stride[1];
    c.attrs.conv.stride[0] = c.attrs.conv.stride[1] = 1;
    c.attrs.conv.dilation[0] = c.attrs.conv.dilation[1] = 1;
    CU_TRY(add_direct(p, &c));
    cu_set_result(p, f->result, &result);
    return DEMIST_OK;
}

demist_status cu_add_product(demist_program *p, const struct cu_fused *f)
{
    return f->chain[0]->op == DEMIST_OP_LINEAR ? add_linear(p, f) : add_conv(p, f);
}

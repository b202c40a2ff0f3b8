/* Normalisations: group_norm and layer_norm are one launch that finds the statistics and does the
 * rest of the chain (γ, β, scale and shift, activation); batch_norm is a map. */
#include "cuda_program.h"

/* Element [.., channel, ..] of a value that is [C], seen in the shape of `like`: channels are axis
 * 1, or the last one. */
static demist_view per_channel(const demist_view *channels, const demist_view *like, int32_t axis)
{
    demist_view view = *like;
    view.storage = channels->storage;
    view.offset = channels->offset;
    for (int32_t i = 0; i < view.rank; i++)
        view.stride[i] = i == axis ? channels->stride[0] : 0;
    return view;
}

/* a·γ + β, where they are there. */
static demist_status scale_and_shift(demist_program *p, struct cu_chain *c, const demist_node *norm,
                                     const demist_view *x, int32_t axis)
{
    int32_t at[2] = {-1, -1};
    for (int32_t i = 1; i < norm->n_inputs && i < 3; i++) {
        demist_view view;
        CU_TRY(cu_value_of(p, norm->inputs[i], &view));
        view = per_channel(&view, x, axis);
        at[i - 1] = cu_chain_operand(c, NULL, &view);
    }
    if (at[1] >= 0)
        cu_chain_add(c, CU_FMA, CU_OPERAND, at[0], CU_OPERAND, at[1]);
    else if (at[0] >= 0)
        cu_chain_add(c, CU_MUL, CU_OPERAND, at[0], CU_NOTHING, 0);
    cu_chain_is(c, norm);
    return DEMIST_OK;
}

/* Whether the kernel can read it: it differs along channels and, where rows of axis 0 are told
 * apart, along these alone. */
static bool is_per_channel(const demist_view *v, int32_t axis, bool images)
{
    for (int32_t i = images ? 1 : 0; i < v->rank; i++)
        if (i != axis && v->stride[i] != 0 && v->shape[i] != 1)
            return false;
    return true;
}

static demist_status norm_launch(demist_program *p, const struct cu_fused *f, struct cu_norm shape,
                                 struct cu_count rows, const struct cu_chain *c,
                                 const demist_view *x, const demist_view *out, int32_t axis)
{
    const demist_host *host = p->device->host;
    const bool images = axis > 0 && (x->batched || f->chain[0]->op == DEMIST_OP_GROUP_NORM);
    struct cu_draft d;
    struct cu_norm *n = cu_draft_init(&d, f->result->id, "norm", cu_run_norm, sizeof *n);
    *n = shape;
    n->x_type = (int32_t)cu_type_of(p, x);
    n->y_type = (int32_t)cu_type_of(p, out);
    n->eps = f->chain[0]->attrs.norm.eps;
    cu_put_in(&d, &n->x, x);
    cu_put_out(&d, &n->y, out);
    cu_put_count(&d, &n->rows, rows);
    for (int32_t k = 0; k < c->code.n_operands; k++) {
        const demist_view v = demist_view_broadcast(&c->operand[k].view, x);
        if (!is_per_channel(&v, axis, images))
            return host->fail(host, DEMIST_INTERNAL,
                              "node '%s': what follows a normalisation differs along more than "
                              "images and channels",
                              f->result->name);
        n->operand[k].type = (int32_t)cu_type_of(p, &v);
        n->operand[k].stride[0] = images ? v.stride[0] : 0;
        n->operand[k].stride[1] = v.stride[axis];
        cu_put_in(&d, &n->operand[k].at, &v);
    }
    CU_TRY(cu_put_code(p, &d, &n->code, c));
    return cu_add_launch(p, &d);
}

static demist_status chain_of(demist_program *p, const struct cu_fused *f, const demist_view *x,
                              int32_t axis, struct cu_chain *c)
{
    cu_chain_init(c, f->n, f->chain);
    CU_TRY(scale_and_shift(p, c, f->chain[0], x, axis));
    for (int32_t i = 1; i < f->n; i++)
        CU_TRY(cu_chain_node(p, c, f->chain[i]));
    return DEMIST_OK;
}

static int64_t pixel_stride(const demist_view *v)
{
    for (int32_t i = v->rank - 1; i >= 2; i--)
        if (v->shape[i] != 1)
            return v->stride[i];
    return v->shape[1];
}

static demist_status add_group_norm(demist_program *p, const struct cu_fused *f)
{
    const demist_node *norm = f->chain[0];
    demist_view x, out;
    struct cu_chain c;
    CU_TRY(cu_value_of(p, norm->inputs[0], &x));
    CU_TRY(cu_need_pixels(p, f->result->id, &x));
    CU_TRY(cu_result_pixels(p, f->result, cu_type_of_result(p, f->result), &out));
    CU_TRY(chain_of(p, f, &x, 1, &c));
    struct cu_norm shape = {.pixels = 1,
                            .channels = (int32_t)x.shape[1],
                            .members = (int32_t)(x.shape[1] / norm->attrs.norm.groups),
                            .rows_per_image = 1,
                            .x_stride = {x.stride[0], pixel_stride(&x)},
                            .y_stride = {out.stride[0], pixel_stride(&out)}};
    for (int32_t i = 2; i < x.rank; i++)
        shape.pixels *= (int32_t)x.shape[i];
    CU_TRY(norm_launch(p, f, shape, cu_images(&x), &c, &x, &out, 1));
    cu_set_result(p, f->result, &out);
    return DEMIST_OK;
}

/* Rows of the last axis; operands differ along it and, for batched x, from image to image. */
static demist_status add_layer_norm(demist_program *p, const struct cu_fused *f)
{
    const demist_node *norm = f->chain[0];
    demist_view x, out;
    struct cu_chain c;
    CU_TRY(cu_value_of(p, norm->inputs[0], &x));
    CU_TRY(cu_need_dense(p, f->result->id, &x));
    CU_TRY(cu_result_dense(p, f->result, cu_type_of_result(p, f->result), &out));
    const int32_t last = x.rank - 1;
    CU_TRY(chain_of(p, f, &x, last, &c));
    const int32_t length = (int32_t)x.shape[last];
    struct cu_norm shape = {.pixels = 1,
                            .channels = length,
                            .members = length,
                            .rows_per_image = 1,
                            .x_stride = {length, length},
                            .y_stride = {length, length}};
    struct cu_count rows = {1, 0};
    if (last > 0 && x.batched)
        rows = (struct cu_count){0, 1};
    for (int32_t i = x.batched ? 1 : 0; i < last; i++) {
        rows = cu_times(rows, x.shape[i]);
        shape.rows_per_image *= (int32_t)x.shape[i];
    }
    CU_TRY(norm_launch(p, f, shape, rows, &c, &x, &out, last));
    cu_set_result(p, f->result, &out);
    return DEMIST_OK;
}

/* --- batch_norm --- */

demist_status cu_fold_norm(demist_program *p, int32_t node, const demist_node *norm,
                           demist_view *scale, demist_view *shift)
{
    demist_view in[4]; /* gamma, beta, mean, variance */
    struct cu_chain c;
    for (int32_t i = 0; i < 4; i++)
        CU_TRY(cu_value_of(p, norm->inputs[i + 1], &in[i]));
    for (int k = 0; k < 2; k++) {
        demist_view *out = k ? shift : scale;
        *out = demist_view_dense(cu_new_storage(p, false, in[0].shape[0], CU_F32), false, 1,
                                 in[0].shape);
        if (out->storage < 0)
            return DEMIST_NO_MEMORY;
        cu_chain_init(&c, 0, NULL);
        cu_chain_add(&c, CU_SET, CU_OPERAND, cu_chain_operand(&c, NULL, &in[3]), CU_NOTHING, 0);
        cu_chain_add(&c, CU_RSQRT, CU_NUMBER, cu_chain_number(&c, norm->attrs.norm.eps), CU_NOTHING,
                     0);
        cu_chain_add(&c, CU_MUL, CU_OPERAND, cu_chain_operand(&c, NULL, &in[0]), CU_NOTHING, 0);
        if (k) {
            cu_chain_add(&c, CU_MUL, CU_OPERAND, cu_chain_operand(&c, NULL, &in[2]), CU_NOTHING, 0);
            cu_chain_add(&c, CU_SUB_FROM, CU_OPERAND, cu_chain_operand(&c, NULL, &in[1]),
                         CU_NOTHING, 0);
        }
        CU_TRY(cu_add_map(p, node, &c, out));
    }
    return DEMIST_OK;
}

static demist_status add_batch_norm(demist_program *p, const struct cu_fused *f)
{
    const demist_node *norm = f->chain[0];
    demist_view x, scale, shift, out;
    struct cu_chain c;
    CU_TRY(cu_value_of(p, norm->inputs[0], &x));
    CU_TRY(cu_fold_norm(p, f->result->id, norm, &scale, &shift));
    scale = per_channel(&scale, &x, 1);
    shift = per_channel(&shift, &x, 1);
    cu_chain_init(&c, f->n, f->chain);
    cu_chain_add(&c, CU_SET, CU_OPERAND, cu_chain_operand(&c, norm->inputs[0], &x), CU_NOTHING, 0);
    const int32_t s = cu_chain_operand(&c, NULL, &scale), t = cu_chain_operand(&c, NULL, &shift);
    cu_chain_add(&c, CU_FMA, CU_OPERAND, s, CU_OPERAND, t);
    cu_chain_is(&c, norm);
    for (int32_t i = 1; i < f->n; i++)
        CU_TRY(cu_chain_node(p, &c, f->chain[i]));
    CU_TRY(cu_result_like(p, f->result, &x, cu_type_of_result(p, f->result), &out));
    CU_TRY(cu_add_map(p, f->result->id, &c, &out));
    cu_set_result(p, f->result, &out);
    return DEMIST_OK;
}

demist_status cu_add_norm(demist_program *p, const struct cu_fused *f)
{
    switch (f->chain[0]->op) {
    case DEMIST_OP_GROUP_NORM:
        return add_group_norm(p, f);
    case DEMIST_OP_LAYER_NORM:
        return add_layer_norm(p, f);
    default:
        return add_batch_norm(p, f);
    }
}

/* Normalisations: one kernel finds mean and 1/√(variance + eps), a map does the rest of the chain
 * (γ, β, scale and shift, activation) in one pass. batch_norm is a map alone. */
#include "ocl_program.h"

enum { PIXELS = 64 }; /* of one partial sum */

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

/* t = t·γ + β, where they are there; operands 1 and 2 of the node. */
static demist_status scale_and_shift(demist_program *p, struct ocl_expression *e,
                                     const demist_node *norm, const demist_view *x, int32_t axis)
{
    int32_t at[2] = {-1, -1};
    for (int32_t i = 1; i < norm->n_inputs && i < 3; i++) {
        demist_view view;
        OCL_TRY(ocl_value_of(p, norm->inputs[i], &view));
        view = per_channel(&view, x, axis);
        at[i - 1] = ocl_expression_operand(e, NULL, &view);
    }
    const int t = e->n_known - 1;
    if (at[1] >= 0)
        ocl_expression_let(e, norm, "FMA(t%d, v%d, v%d)", t, (int)at[0], (int)at[1]);
    else if (at[0] >= 0)
        ocl_expression_let(e, norm, "t%d * v%d", t, (int)at[0]);
    else
        e->known[t] = norm;
    return DEMIST_OK;
}

/* x̂ from statistics of the shape of x. */
static demist_status normalised(demist_program *p, struct ocl_expression *e,
                                const demist_node *norm, const demist_view *x,
                                const demist_view *mean, const demist_view *scale, int32_t axis)
{
    const int v = ocl_expression_operand(e, NULL, x);
    const int m = ocl_expression_operand(e, NULL, mean);
    const int s = ocl_expression_operand(e, NULL, scale);
    ocl_expression_let(e, NULL, "(v%d - v%d) * v%d", v, m, s);
    return scale_and_shift(p, e, norm, x, axis);
}

/* --- group_norm --- */

/* mean and 1/√(variance + eps), [images][channels] each, of x with channels innermost. */
static demist_status group_statistics(demist_program *p, const demist_node *norm, int32_t node,
                                      const demist_view *x, demist_view *mean, demist_view *scale)
{
    demist_device *device = p->device;
    const enum ocl_type type = ocl_type_of(p, x);
    const int64_t channels = x->shape[1], groups = norm->attrs.norm.groups;
    int64_t pixels = 1, stride = channels;
    for (int32_t i = x->rank - 1; i >= 2; i--) {
        if (x->shape[i] != 1 && pixels == 1)
            stride = x->stride[i];
        pixels *= x->shape[i];
    }
    const int64_t parts = (pixels + PIXELS - 1) / PIXELS;
    const int64_t images = x->batched ? 1 : x->shape[0];
    const demist_view partial = {
        .storage = ocl_new_storage(p, x->batched, images * parts * 2 * channels, OCL_F32)};
    for (int k = 0; k < 2; k++) {
        demist_view *view = k ? scale : mean;
        *view = *x;
        view->offset = 0;
        view->storage = ocl_new_storage(p, x->batched, images * channels, OCL_F32);
        for (int32_t i = 0; i < x->rank; i++)
            view->stride[i] = i == 0 ? channels : i == 1;
        if (view->storage < 0)
            return DEMIST_NO_MEMORY;
    }
    if (partial.storage < 0)
        return DEMIST_NO_MEMORY;
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(ocl_typed_kernel(device, "norm.cl", type, OCL_F32, "group_partial", &kernel));
    ocl_draft_init(&d, node, kernel);
    ocl_put_in(&d, x);
    ocl_put_out(&d, &partial);
    ocl_put_int(&d, x->stride[0]);
    ocl_put_int(&d, stride);
    ocl_put_int(&d, channels);
    ocl_put_int(&d, pixels);
    ocl_put_int(&d, parts);
    ocl_put_range(&d, 0, (struct ocl_count){channels, 0}, device->vector,
                  device->style == OCL_WIDE ? 1 : 64);
    ocl_put_range(&d, 1, (struct ocl_count){parts, 0}, 1, 1);
    ocl_put_range(&d, 2, ocl_images(x), 1, 1);
    OCL_TRY(ocl_add_launch(p, &d.launch));

    OCL_TRY(ocl_typed_kernel(device, "norm.cl", type, OCL_F32, "group_statistics", &kernel));
    ocl_draft_init(&d, node, kernel);
    ocl_put_in(&d, &partial);
    ocl_put_out(&d, mean);
    ocl_put_out(&d, scale);
    ocl_put_int(&d, channels);
    ocl_put_int(&d, channels / groups);
    ocl_put_int(&d, pixels);
    ocl_put_int(&d, parts);
    ocl_put_int(&d, groups);
    ocl_put_float(&d, norm->attrs.norm.eps);
    ocl_put_range(&d, 0, (struct ocl_count){groups, 0}, 1, device->style == OCL_WIDE ? 1 : 64);
    ocl_put_range(&d, 1, ocl_images(x), 1, 1);
    return ocl_add_launch(p, &d.launch);
}

static demist_status begin_group_norm(demist_program *p, const struct ocl_fused *f,
                                      struct ocl_expression *e, demist_view *out)
{
    const demist_node *norm = f->chain[0];
    demist_view x, mean, scale;
    OCL_TRY(ocl_value_of(p, norm->inputs[0], &x));
    OCL_TRY(ocl_need_pixels(p, f->result->id, &x));
    OCL_TRY(group_statistics(p, norm, f->result->id, &x, &mean, &scale));
    OCL_TRY(ocl_result_pixels(p, f->result, ocl_type_of_result(p, f->result), out));
    return normalised(p, e, norm, &x, &mean, &scale, 1);
}

/* --- layer_norm --- */

static demist_status begin_layer_norm(demist_program *p, const struct ocl_fused *f,
                                      struct ocl_expression *e, demist_view *out)
{
    const demist_node *norm = f->chain[0];
    demist_view x, mean, scale;
    OCL_TRY(ocl_value_of(p, norm->inputs[0], &x));
    OCL_TRY(ocl_need_dense(p, f->result->id, &x));
    const int32_t last = x.rank - 1;
    const int64_t length = x.shape[last];
    const bool batched = x.batched && last > 0;
    struct ocl_count rows = {1, 0};
    if (batched)
        rows = (struct ocl_count){0, 1};
    for (int32_t i = batched ? 1 : 0; i < last; i++)
        rows = ocl_times(rows, x.shape[i]);
    for (int k = 0; k < 2; k++) {
        demist_view *view = k ? &scale : &mean;
        *view = x;
        view->offset = 0;
        view->storage = ocl_new_storage(p, batched, rows.a + rows.b, OCL_F32);
        if (view->storage < 0)
            return DEMIST_NO_MEMORY;
        for (int32_t i = 0; i < last; i++)
            view->stride[i] = x.stride[i] / length;
        view->stride[last] = 0;
    }
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(ocl_typed_kernel(p->device, "norm.cl", ocl_type_of(p, &x), OCL_F32, "row_statistics",
                             &kernel));
    ocl_draft_init(&d, f->result->id, kernel);
    ocl_put_in(&d, &x);
    ocl_put_out(&d, &mean);
    ocl_put_out(&d, &scale);
    ocl_put_int(&d, length);
    ocl_put_float(&d, norm->attrs.norm.eps);
    ocl_put_range(&d, 0, (struct ocl_count){64, 0}, 1, 64);
    ocl_put_range(&d, 1, rows, 1, 1);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    OCL_TRY(ocl_result_dense(p, f->result, ocl_type_of_result(p, f->result), out));
    return normalised(p, e, norm, &x, &mean, &scale, last);
}

/* --- batch_norm --- */

demist_status ocl_fold_norm(demist_program *p, int32_t node, const demist_node *norm,
                            demist_view *scale, demist_view *shift)
{
    struct ocl_expression e;
    demist_view in[4]; /* gamma, beta, mean, variance */
    for (int32_t i = 0; i < 4; i++)
        OCL_TRY(ocl_value_of(p, norm->inputs[i + 1], &in[i]));
    for (int k = 0; k < 2; k++) {
        demist_view *out = k ? shift : scale;
        *out = demist_view_dense(ocl_new_storage(p, false, in[0].shape[0], OCL_F32), false, 1,
                                 in[0].shape);
        if (out->storage < 0)
            return DEMIST_NO_MEMORY;
        ocl_expression_init(&e);
        const int32_t n = ocl_expression_number(&e, norm->attrs.norm.eps);
        for (int32_t i = 0; i < 4; i++)
            ocl_expression_operand(&e, NULL, &in[i]);
        ocl_expression_let(&e, NULL, "v0 / sqrt(v3 + (T)(num%d))", (int)n);
        if (k)
            ocl_expression_let(&e, NULL, "FMA(-v2, t0, v1)");
        OCL_TRY(ocl_add_map(p, node, &e, out));
    }
    return DEMIST_OK;
}

static demist_status begin_batch_norm(demist_program *p, const struct ocl_fused *f,
                                      struct ocl_expression *e, demist_view *out)
{
    const demist_node *norm = f->chain[0];
    demist_view x, scale, shift;
    OCL_TRY(ocl_value_of(p, norm->inputs[0], &x));
    OCL_TRY(ocl_fold_norm(p, f->result->id, norm, &scale, &shift));
    scale = per_channel(&scale, &x, 1);
    shift = per_channel(&shift, &x, 1);
    ocl_expression_operand(e, NULL, &x);
    ocl_expression_operand(e, NULL, &scale);
    ocl_expression_operand(e, NULL, &shift);
    ocl_expression_let(e, norm, "FMA(v0, v1, v2)");
    return ocl_result_like(p, f->result, &x, ocl_type_of_result(p, f->result), out);
}

demist_status ocl_add_norm(demist_program *p, const struct ocl_fused *f)
{
    struct ocl_expression e;
    demist_view out;
    ocl_expression_init(&e);
    if (f->chain[0]->op == DEMIST_OP_GROUP_NORM)
        OCL_TRY(begin_group_norm(p, f, &e, &out));
    else if (f->chain[0]->op == DEMIST_OP_LAYER_NORM)
        OCL_TRY(begin_layer_norm(p, f, &e, &out));
    else
        OCL_TRY(begin_batch_norm(p, f, &e, &out));
    for (int32_t i = 1; i < f->n; i++)
        OCL_TRY(ocl_expression_add(p, &e, f->chain[i]));
    OCL_TRY(ocl_add_map(p, f->result->id, &e, &out));
    ocl_set_result(p, f->result, &out);
    return DEMIST_OK;
}

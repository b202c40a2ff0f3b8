/* Matrix products of two values, as calls of the product kernel over pairs of leading axes. */
#include "ocl_product.h"

/* a [z0, z1, rows, depth] with depth contiguous, b [z0, z1, depth, columns] with columns
 * contiguous, y likewise. */
static demist_status add_product(demist_program *p, int32_t node, const demist_view *a,
                                 const demist_view *b, const demist_view *y,
                                 const struct ocl_expression *after)
{
    const int32_t one_tap[2] = {0, 0};
    const struct ocl_tile tile = p->device->tiles[0];
    struct ocl_product c = {
        .tile = tile,
        .a = *a,
        .b = *b,
        .y = *y,
        .taps = ocl_new_ints(p, 2, one_tap),
        .n_taps = 1,
        .images = {1, 0},
        .height = 1,
        .width = y->shape[2],
        .columns = y->shape[3],
        .depth = a->shape[3],
        .a_strides = {0, 0, a->stride[2]},
        .y_strides = {0, 0, y->stride[2]},
        .stride = {1, 1},
        .in_height = 1,
        .in_width = y->shape[2],
        .b_panel = tile.columns,
        .b_row = b->stride[2],
        .z = ocl_times(ocl_images(y), y->shape[1]),
        .z_inner = y->shape[1],
        .a_z = {a->stride[0], a->stride[1]},
        .b_z = {b->stride[0], b->stride[1]},
        .y_z = {y->stride[0], y->stride[1]},
        .after = after,
    };
    return c.taps < 0 ? DEMIST_NO_MEMORY : ocl_product_add(p, node, &c);
}

/* --- matmul --- */

/* The leading axes of a view of rank 3 or more become two: the first, and all others. Materialised
 * where they do not merge. */
static demist_status two_leading_axes(demist_program *p, int32_t node, demist_view *v)
{
    demist_view merged = {.storage = v->storage, .offset = v->offset, .rank = 4};
    const int32_t rank = v->rank;
    bool merges = true;
    merged.batched = v->batched;
    for (int i = 0; i < 2; i++) {
        merged.shape[2 + i] = v->shape[rank - 2 + i];
        merged.stride[2 + i] = v->stride[rank - 2 + i];
    }
    merged.shape[0] = rank > 2 ? v->shape[0] : 1;
    merged.stride[0] = rank > 2 ? v->stride[0] : 0;
    merged.shape[1] = 1;
    for (int32_t i = rank - 3; i >= 1; i--) {
        if (v->shape[i] == 1)
            continue;
        if (merged.shape[1] == 1)
            merged.stride[1] = v->stride[i];
        else
            merges = merges && v->stride[i] == merged.stride[1] * merged.shape[1];
        merged.shape[1] *= v->shape[i];
    }
    if (merges) {
        *v = merged;
        return DEMIST_OK;
    }
    int32_t order[DEMIST_MAX_RANK];
    for (int32_t i = 0; i < rank; i++)
        order[i] = i;
    if (v->stride[rank - 1] != 1 && v->stride[rank - 2] == 1) {
        order[rank - 2] = rank - 1;
        order[rank - 1] = rank - 2;
    }
    OCL_TRY(ocl_materialise(p, node, order, v));
    return two_leading_axes(p, node, v);
}

/* An operand of the product, broadcast to the leading axes of the result. */
static demist_status matrix(demist_program *p, const demist_node *node, int32_t input,
                            bool transpose, const demist_view *result, demist_view *out)
{
    demist_view v, to = *result;
    OCL_TRY(ocl_value_of(p, node->inputs[input], &v));
    if (transpose) {
        const int32_t r = v.rank - 2, c = v.rank - 1;
        const int64_t shape = v.shape[r], stride = v.stride[r];
        v.shape[r] = v.shape[c];
        v.stride[r] = v.stride[c];
        v.shape[c] = shape;
        v.stride[c] = stride;
    }
    OCL_TRY(ocl_need_contiguous(p, node->id, v.rank - 1, &v));
    for (int i = 1; i <= 2; i++)
        to.shape[to.rank - i] = v.shape[v.rank - i];
    const demist_view own = v;
    v = demist_view_broadcast(&v, &to);
    for (int i = 1; i <= 2; i++)
        v.stride[v.rank - i] = own.stride[own.rank - i];
    *out = v;
    return two_leading_axes(p, node->id, out);
}

demist_status ocl_add_matmul(demist_program *p, const demist_node *node)
{
    demist_view a, b, result, y;
    OCL_TRY(ocl_result_dense(p, node, ocl_type_of_result(p, node), &result));
    OCL_TRY(matrix(p, node, 0, node->attrs.matmul.transpose_a, &result, &a));
    OCL_TRY(matrix(p, node, 1, node->attrs.matmul.transpose_b, &result, &b));
    y = result;
    OCL_TRY(two_leading_axes(p, node->id, &y));
    OCL_TRY(add_product(p, node->id, &a, &b, &y, NULL));
    ocl_set_result(p, node, &result);
    return DEMIST_OK;
}

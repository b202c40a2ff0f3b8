/* Matrix products of two values, as calls of the product kernels over pairs of leading axes, and
 * attention, whose weights are never in memory. */
#include "cuda_program.h"

#include <string.h>

/* a [z0, z1, rows, depth] with depth contiguous, b [z0, z1, depth, columns] with columns
 * contiguous, y likewise. */
static demist_status add_product(demist_program *p, int32_t node, const demist_view *a,
                                 const demist_view *b, const demist_view *y)
{
    const int32_t one_tap[2] = {0, 0};
    struct cu_product_draft c = {
        .product = {.n_taps = 1,
                    .height = 1,
                    .width = (int32_t)y->shape[2],
                    .columns = (int32_t)y->shape[3],
                    .depth = (int32_t)a->shape[3],
                    .a_stride = {0, 0, a->stride[2]},
                    .y_stride = {0, 0, y->stride[2]},
                    .stride = {1, 1},
                    .in_height = 1,
                    .in_width = (int32_t)y->shape[2],
                    .b_row = b->stride[2],
                    .z_inner = (int32_t)y->shape[1],
                    .a_z = {a->stride[0], a->stride[1]},
                    .b_z = {b->stride[0], b->stride[1]},
                    .y_z = {y->stride[0], y->stride[1]}},
        .a = *a,
        .b = *b,
        .y = *y,
        .taps = cu_new_ints(p, 2, one_tap),
        .rows = {y->shape[2], 0},
        .z = cu_times(cu_images(y), y->shape[1]),
        .geometry = {.kernel = {1, 1}, .dilation = {1, 1}},
    };
    return c.taps < 0 ? DEMIST_NO_MEMORY : cu_add_product_call(p, node, &c);
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
    CU_TRY(cu_materialise(p, node, order, v));
    return two_leading_axes(p, node, v);
}

/* An operand of the product, broadcast to the leading axes of the result. */
static demist_status matrix(demist_program *p, const demist_node *node, int32_t input,
                            bool transpose, const demist_view *result, demist_view *out)
{
    demist_view v, to = *result;
    CU_TRY(cu_value_of(p, node->inputs[input], &v));
    if (transpose) {
        const int32_t r = v.rank - 2, c = v.rank - 1;
        const int64_t shape = v.shape[r], stride = v.stride[r];
        v.shape[r] = v.shape[c];
        v.stride[r] = v.stride[c];
        v.shape[c] = shape;
        v.stride[c] = stride;
    }
    CU_TRY(cu_need_contiguous(p, node->id, v.rank - 1, &v));
    for (int i = 1; i <= 2; i++)
        to.shape[to.rank - i] = v.shape[v.rank - i];
    const demist_view own = v;
    v = demist_view_broadcast(&v, &to);
    for (int i = 1; i <= 2; i++)
        v.stride[v.rank - i] = own.stride[own.rank - i];
    *out = v;
    return two_leading_axes(p, node->id, out);
}

demist_status cu_add_matmul(demist_program *p, const demist_node *node)
{
    demist_view a, b, result, y;
    CU_TRY(cu_result_dense(p, node, cu_type_of_result(p, node), &result));
    CU_TRY(matrix(p, node, 0, node->attrs.matmul.transpose_a, &result, &a));
    CU_TRY(matrix(p, node, 1, node->attrs.matmul.transpose_b, &result, &b));
    y = result;
    CU_TRY(two_leading_axes(p, node->id, &y));
    CU_TRY(add_product(p, node->id, &a, &b, &y));
    cu_set_result(p, node, &result);
    return DEMIST_OK;
}

/* --- attention --- */

static void put_strides(int64_t to[3], const demist_view *v)
{
    to[0] = v->stride[0];
    to[1] = v->stride[1];
    to[2] = v->stride[3];
}

/* Before addresses are known: offsets stand for them. */
static bool fits_tensor_cores(const demist_program *p, const struct cu_attention *attention,
                              const demist_view in[3], const demist_view *y)
{
    const demist_view *views[] = {&in[0], &in[1], &in[2], y};
    uintptr_t at[4];
    for (int i = 0; i < 4; i++)
        at[i] = (uintptr_t)views[i]->offset * cu_size_of(cu_type_of(p, views[i]));
    struct cu_attention a = *attention;
    memcpy(&a.q, &at[0], sizeof a.q);
    memcpy(&a.k, &at[1], sizeof a.k);
    memcpy(&a.v, &at[2], sizeof a.v);
    memcpy(&a.y, &at[3], sizeof a.y);
    return cu_fits_attention_mma(&a, p->device->capability);
}

/* q [N,h,D,L], k [N,h,D,M], v [N,h,E,M] -> y [N,h,E,L], in memory [N,L,h,E]: pixels of channels. */
demist_status cu_add_attention(demist_program *p, const demist_node *node)
{
    static const int32_t order[] = {0, 3, 1, 2};
    demist_view in[3], y;
    struct cu_draft d;
    for (int32_t i = 0; i < 3; i++) {
        CU_TRY(cu_value_of(p, node->inputs[i], &in[i]));
        CU_TRY(cu_need_contiguous(p, node->id, 2, &in[i]));
    }
    CU_TRY(cu_result(p, node, order, cu_type_of_result(p, node), &y));
    const demist_view *q = &in[0], *k = &in[1], *v = &in[2];
    struct cu_attention *a = cu_draft_init(&d, node->id, "attention", cu_run_attention, sizeof *a);
    a->q_type = (int32_t)cu_type_of(p, q);
    a->k_type = (int32_t)cu_type_of(p, k);
    a->v_type = (int32_t)cu_type_of(p, v);
    a->y_type = (int32_t)cu_type_of(p, &y);
    a->z_inner = (int32_t)y.shape[1];
    a->queries = (int32_t)q->shape[3];
    a->keys = (int32_t)k->shape[3];
    a->depth = (int32_t)q->shape[2];
    a->columns = (int32_t)v->shape[2];
    a->causal = node->attrs.attention.causal;
    a->scale = node->attrs.attention.scale;
    put_strides(a->q_stride, q);
    put_strides(a->k_stride, k);
    put_strides(a->v_stride, v);
    put_strides(a->y_stride, &y);
    a->tf32 = p->precision == DEMIST_PRECISION_TF32;
    if (fits_tensor_cores(p, a, in, &y)) {
        d.launch.kernel = "attention_mma";
        d.launch.run = cu_run_attention_mma;
    }
    cu_put_in(&d, &a->q, q);
    cu_put_in(&d, &a->k, k);
    cu_put_in(&d, &a->v, v);
    cu_put_out(&d, &a->y, &y);
    cu_put_count(&d, &a->z, cu_times(cu_images(&y), y.shape[1]));
    CU_TRY(cu_add_launch(p, &d));
    cu_set_result(p, node, &y);
    return DEMIST_OK;
}

/* Reductions and softmax: the reduced axes are made one contiguous row, which one block reduces; a
 * sum over images is one thread an element. */
#include "cuda_program.h"

#include <string.h>

/* Copies x unless its kept axes, in order, come before its reduced ones in dense memory. */
static demist_status rows_first(demist_program *p, int32_t node, uint32_t axes, demist_view *x)
{
    int32_t order[DEMIST_MAX_RANK], n = 0;
    int64_t step = 1;
    bool fits = true;
    for (int32_t i = 0; i < x->rank; i++)
        if (!(axes >> i & 1))
            order[n++] = i;
    for (int32_t i = 0; i < x->rank; i++)
        if (axes >> i & 1)
            order[n++] = i;
    for (int32_t i = x->rank - 1; i >= 0; i--) {
        const bool images = x->batched && order[i] == 0;
        fits = fits && (x->stride[order[i]] == step || (x->shape[order[i]] == 1 && !images));
        step *= x->shape[order[i]];
    }
    return fits ? DEMIST_OK : cu_materialise(p, node, order, x);
}

static int64_t length_of(const demist_view *x, uint32_t axes)
{
    int64_t length = 1;
    for (int32_t i = 0; i < x->rank; i++)
        if (axes >> i & 1)
            length *= x->shape[i];
    return length;
}

static struct cu_count rows_of(const demist_view *x, int64_t length)
{
    const int64_t rows = demist_view_elements(x) / length;
    return x->batched ? (struct cu_count){0, rows} : (struct cu_count){rows, 0};
}

static demist_status rows_launch(demist_program *p, int32_t node, const char *kernel, cu_run run,
                                 const demist_view *x, const demist_view *out,
                                 const struct cu_rows *shape, struct cu_count rows)
{
    struct cu_draft d;
    struct cu_rows *r = cu_draft_init(&d, node, kernel, run, sizeof *r);
    *r = *shape;
    r->x_type = (int32_t)cu_type_of(p, x);
    r->y_type = (int32_t)cu_type_of(p, out);
    cu_put_in(&d, &r->x, x);
    cu_put_out(&d, &r->y, out);
    cu_put_count(&d, run == cu_run_image_sum ? &r->images : &r->rows, rows);
    return cu_add_launch(p, &d);
}

static demist_status add_batch_sum(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    CU_TRY(cu_value_of(p, node->inputs[0], &x));
    CU_TRY(cu_need_dense(p, node->id, &x));
    CU_TRY(cu_result_dense(p, node, CU_F32, &out));
    const int64_t images = x.batched || x.rank == 0 ? 1 : x.shape[0];
    const struct cu_rows shape = {.length = (int32_t)(demist_view_elements(&x) / images)};
    CU_TRY(
        rows_launch(p, node->id, "image_sum", cu_run_image_sum, &x, &out, &shape, cu_images(&x)));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status cu_add_reduce(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    if (node->op == DEMIST_OP_BATCH_SUM)
        return add_batch_sum(p, node);
    const uint32_t axes = node->attrs.reduce.axes;
    CU_TRY(cu_value_of(p, node->inputs[0], &x));
    CU_TRY(rows_first(p, node->id, axes, &x));
    CU_TRY(cu_result_dense(p, node, CU_F32, &out));
    const int64_t length = length_of(&x, axes);
    const bool sum = node->op != DEMIST_OP_AMAX;
    const struct cu_rows shape = {.length = (int32_t)length,
                                  .divisor = node->op == DEMIST_OP_MEAN ? (float)length : 1.0f};
    CU_TRY(rows_launch(p, node->id, sum ? "row_sum" : "row_max",
                       sum ? cu_run_row_sum : cu_run_row_max, &x, &out, &shape,
                       rows_of(&x, length)));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status cu_add_softmax(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    const uint32_t axes = 1u << node->attrs.axis.axis;
    CU_TRY(cu_value_of(p, node->inputs[0], &x));
    CU_TRY(rows_first(p, node->id, axes, &x));
    out = x;
    out.offset = 0;
    out.storage = cu_new_storage(p, x.batched, demist_view_elements(&x), cu_type_of(p, &x));
    if (out.storage < 0)
        return DEMIST_NO_MEMORY;
    const int64_t length = length_of(&x, axes);
    const struct cu_rows shape = {.length = (int32_t)length};
    CU_TRY(rows_launch(p, node->id, "row_softmax", cu_run_row_softmax, &x, &out, &shape,
                       rows_of(&x, length)));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

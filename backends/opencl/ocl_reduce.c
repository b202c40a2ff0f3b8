/* Reductions and softmax: the reduced axes are made one contiguous row, one work-group reduces it;
 * a sum over images is one work-item an element. */
#include "ocl_program.h"

#include <string.h>

enum { GROUP = 64 };

/* Copies x unless its kept axes, in order, come before its reduced ones in dense memory. */
static demist_status rows_first(demist_program *p, int32_t node, uint32_t axes, demist_view *x)
{
    int32_t order[DEMIST_MAX_RANK] = {0}, n = 0;
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
    return fits ? DEMIST_OK : ocl_materialise(p, node, order, x);
}

static int64_t length_of(const demist_view *x, uint32_t axes)
{
    int64_t length = 1;
    for (int32_t i = 0; i < x->rank; i++)
        if (axes >> i & 1)
            length *= x->shape[i];
    return length;
}

static struct ocl_count rows_of(const demist_view *x, int64_t length)
{
    const int64_t rows = demist_view_elements(x) / length;
    return x->batched ? (struct ocl_count){0, rows} : (struct ocl_count){rows, 0};
}

static demist_status add_batch_sum(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &x));
    OCL_TRY(ocl_need_dense(p, node->id, &x));
    OCL_TRY(ocl_result_dense(p, node, OCL_F32, &out));
    OCL_TRY(ocl_typed_kernel(p->device, "reduce.cl", ocl_type_of(p, &x), OCL_F32, "image_sum",
                             &kernel));
    const int64_t elements = demist_view_elements(&x);
    ocl_draft_init(&d, node->id, kernel);
    ocl_put_in(&d, &x);
    ocl_put_out(&d, &out);
    ocl_put_int(&d, elements);
    ocl_put_count(&d, ocl_images(&x));
    ocl_put_range(&d, 0, (struct ocl_count){elements, 0}, 1, GROUP);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status ocl_add_reduce(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    struct ocl_draft d;
    cl_kernel kernel;
    if (node->op == DEMIST_OP_BATCH_SUM)
        return add_batch_sum(p, node);
    const uint32_t axes = node->attrs.reduce.axes;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &x));
    OCL_TRY(rows_first(p, node->id, axes, &x));
    OCL_TRY(ocl_result_dense(p, node, OCL_F32, &out));
    const int64_t length = length_of(&x, axes);
    OCL_TRY(ocl_typed_kernel(p->device, "reduce.cl", ocl_type_of(p, &x), OCL_F32,
                             node->op == DEMIST_OP_AMAX ? "row_max" : "row_sum", &kernel));
    ocl_draft_init(&d, node->id, kernel);
    ocl_put_in(&d, &x);
    ocl_put_out(&d, &out);
    ocl_put_int(&d, length);
    if (node->op != DEMIST_OP_AMAX)
        ocl_put_float(&d, node->op == DEMIST_OP_MEAN ? (float)length : 1.0f);
    ocl_put_range(&d, 0, (struct ocl_count){GROUP, 0}, 1, GROUP);
    ocl_put_range(&d, 1, rows_of(&x, length), 1, 1);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status ocl_add_softmax(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    struct ocl_draft d;
    cl_kernel kernel;
    const uint32_t axes = 1u << node->attrs.axis.axis;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &x));
    OCL_TRY(rows_first(p, node->id, axes, &x));
    out = x;
    out.offset = 0;
    const enum ocl_type type = ocl_type_of(p, &x);
    out.storage = ocl_new_storage(p, x.batched, demist_view_elements(&x), type);
    if (out.storage < 0)
        return DEMIST_NO_MEMORY;
    const int64_t length = length_of(&x, axes);
    OCL_TRY(ocl_typed_kernel(p->device, "reduce.cl", type, type, "row_softmax", &kernel));
    ocl_draft_init(&d, node->id, kernel);
    ocl_put_in(&d, &x);
    ocl_put_out(&d, &out);
    ocl_put_int(&d, length);
    ocl_put_range(&d, 0, (struct ocl_count){GROUP, 0}, 1, GROUP);
    ocl_put_range(&d, 1, rows_of(&x, length), 1, 1);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

/* Pooling, bilinear resizing, and the gather of an embedding. */
#include "ocl_program.h"

enum { GROUP = 64 };

/* x and out, with their strides of image, channel, row and column, and the result's sizes. */
static void put_images(struct ocl_draft *d, const demist_view *x, const demist_view *out)
{
    ocl_put_in(d, x);
    ocl_put_out(d, out);
    for (int32_t i = 0; i < 4; i++)
        ocl_put_int(d, x->stride[i]);
    for (int32_t i = 0; i < 4; i++)
        ocl_put_int(d, out->stride[i]);
    ocl_put_int(d, out->shape[1]);
    ocl_put_int(d, out->shape[2]);
    ocl_put_int(d, out->shape[3]);
    ocl_put_range(d, 0, (struct ocl_count){out->shape[1], 0}, 1, GROUP);
    ocl_put_range(d, 1, (struct ocl_count){out->shape[2] * out->shape[3], 0}, 1, 1);
    ocl_put_range(d, 2, ocl_images(out), 1, 1);
}

demist_status ocl_add_pool(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &x));
    const enum ocl_type type = ocl_type_of(p, &x);
    OCL_TRY(ocl_result_pixels(p, node, type, &out));
    OCL_TRY(ocl_typed_kernel(p->device, "space.cl", type, type,
                             node->op == DEMIST_OP_MAX_POOL2D ? "pool_max" : "pool_mean", &kernel));
    ocl_draft_init(&d, node->id, kernel);
    put_images(&d, &x, &out);
    for (int i = 0; i < 2; i++)
        ocl_put_int(&d, node->attrs.pool.kernel[i]);
    for (int i = 0; i < 2; i++)
        ocl_put_int(&d, node->attrs.pool.stride[i]);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status ocl_add_resize(demist_program *p, const demist_node *node)
{
    demist_view x, out;
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &x));
    const enum ocl_type type = ocl_type_of(p, &x);
    OCL_TRY(ocl_result_pixels(p, node, type, &out));
    OCL_TRY(ocl_typed_kernel(p->device, "space.cl", type, type, "resize", &kernel));
    ocl_draft_init(&d, node->id, kernel);
    put_images(&d, &x, &out);
    ocl_put_int(&d, x.shape[2]);
    ocl_put_int(&d, x.shape[3]);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status ocl_add_embedding(demist_program *p, const demist_node *node)
{
    demist_view table, ids, out;
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &table));
    OCL_TRY(ocl_value_of(p, node->inputs[1], &ids));
    OCL_TRY(ocl_need_dense(p, node->id, &ids));
    OCL_TRY(ocl_result_dense(p, node, OCL_F32, &out));
    OCL_TRY(ocl_typed_kernel(p->device, "space.cl", OCL_F32, OCL_F32, "embedding", &kernel));
    const int64_t n = demist_view_elements(&ids);
    ocl_draft_init(&d, node->id, kernel);
    ocl_put_in(&d, &table);
    ocl_put_in(&d, &ids);
    ocl_put_out(&d, &out);
    ocl_put_int(&d, table.shape[0]);
    ocl_put_int(&d, table.shape[1]);
    ocl_put_int(&d, table.stride[0]);
    ocl_put_int(&d, table.stride[1]);
    ocl_put_range(&d, 0, (struct ocl_count){table.shape[1], 0}, 1, GROUP);
    ocl_put_range(&d, 1, ids.batched ? (struct ocl_count){0, n} : (struct ocl_count){n, 0}, 1, 1);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    ocl_set_result(p, node, &out);
    return DEMIST_OK;
}

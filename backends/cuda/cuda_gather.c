/* Pooling, bilinear resizing, the gather of an embedding, and noise: launches with one thread an
 * element, or four. */
#include "cuda_program.h"

/* x and out, with their strides, and the result's sizes. */
static demist_status image_launch(demist_program *p, const demist_node *node, const char *kernel,
                                  cu_run run, const struct cu_image *attributes)
{
    demist_view x, out;
    struct cu_draft d;
    CU_TRY(cu_value_of(p, node->inputs[0], &x));
    CU_TRY(cu_result_pixels(p, node, cu_type_of(p, &x), &out));
    struct cu_image *i = cu_draft_init(&d, node->id, kernel, run, sizeof *i);
    *i = *attributes;
    i->x_type = (int32_t)cu_type_of(p, &x);
    i->y_type = (int32_t)cu_type_of(p, &out);
    i->channels = (int32_t)out.shape[1];
    i->height = (int32_t)out.shape[2];
    i->width = (int32_t)out.shape[3];
    i->in_height = (int32_t)x.shape[2];
    i->in_width = (int32_t)x.shape[3];
    for (int k = 0; k < 4; k++) {
        i->x_stride[k] = x.stride[k];
        i->y_stride[k] = out.stride[k];
    }
    cu_put_in(&d, &i->x, &x);
    cu_put_out(&d, &i->y, &out);
    cu_put_count(&d, &i->images, cu_images(&out));
    CU_TRY(cu_add_launch(p, &d));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

demist_status cu_add_pool(demist_program *p, const demist_node *node)
{
    const bool max = node->op == DEMIST_OP_MAX_POOL2D;
    const struct cu_image attributes = {
        .kernel = {node->attrs.pool.kernel[0], node->attrs.pool.kernel[1]},
        .stride = {node->attrs.pool.stride[0], node->attrs.pool.stride[1]}};
    return image_launch(p, node, max ? "pool_max" : "pool_mean",
                        max ? cu_run_pool_max : cu_run_pool_mean, &attributes);
}

demist_status cu_add_resize(demist_program *p, const demist_node *node)
{
    const struct cu_image attributes = {.images = 0};
    return image_launch(p, node, "resize", cu_run_resize, &attributes);
}

demist_status cu_add_embedding(demist_program *p, const demist_node *node)
{
    demist_view table, ids, out;
    struct cu_draft d;
    CU_TRY(cu_value_of(p, node->inputs[0], &table));
    CU_TRY(cu_value_of(p, node->inputs[1], &ids));
    CU_TRY(cu_need_dense(p, node->id, &ids));
    CU_TRY(cu_result_dense(p, node, CU_F32, &out));
    struct cu_embedding *e = cu_draft_init(&d, node->id, "embedding", cu_run_embedding, sizeof *e);
    e->table_type = (int32_t)cu_type_of(p, &table);
    e->y_type = (int32_t)cu_type_of(p, &out);
    e->rows = (int32_t)table.shape[0];
    e->width = (int32_t)table.shape[1];
    e->table_stride[0] = table.stride[0];
    e->table_stride[1] = table.stride[1];
    cu_put_in(&d, &e->table, &table);
    cu_put_in(&d, &e->ids, &ids);
    cu_put_out(&d, &e->y, &out);
    const int64_t n = demist_view_elements(&ids);
    cu_put_count(&d, &e->n_ids, ids.batched ? (struct cu_count){0, n} : (struct cu_count){n, 0});
    CU_TRY(cu_add_launch(p, &d));
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

/* Seed, draw and image are read from the slots on the device. */
demist_status cu_add_philox(demist_program *p, const demist_node *node)
{
    const demist_attrs *a = &node->attrs;
    const bool normal = node->op == DEMIST_OP_PHILOX_NORMAL;
    demist_view out;
    struct cu_draft d;
    CU_TRY(cu_result_dense(p, node, CU_F32, &out));
    struct cu_philox *x = cu_draft_init(&d, node->id, normal ? "normal" : "uniform",
                                        normal ? cu_run_normal : cu_run_uniform, sizeof *x);
    x->seed_slot = a->philox.seed_slot;
    x->draw_slot = a->philox.draw_slot;
    x->image_slot = a->philox.image_slot;
    x->per_image = a->philox.per_image;
    x->purpose = a->philox.purpose;
    x->elements = demist_elements(node);
    x->lo = a->philox.lo;
    x->hi = a->philox.hi;
    cu_put_out(&d, &x->y, &out);
    cu_put_slots(&d, &x->slots);
    cu_put_count(&d, &x->images,
                 a->philox.per_image ? (struct cu_count){0, 1} : (struct cu_count){1, 0});
    CU_TRY(cu_add_launch(p, &d));
    p->philox_nodes[p->n_philox] = node->id;
    p->philox_attrs[p->n_philox++] = node->attrs;
    cu_set_result(p, node, &out);
    return DEMIST_OK;
}

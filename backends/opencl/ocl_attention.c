/* Attention in one kernel, which keeps the weights of a block of keys and no more. */
#include "ocl_program.h"

/* Queries, and columns of the values' channels, to a work-item (WIDE) or work-group (TILED). */
static struct ocl_tile attention_tile(const demist_device *device, int64_t queries, int64_t width)
{
    enum { WIDEST = 512, PIECES = 4 };
    struct ocl_tile tile = {.rows = queries > 32 ? 64 : 32};
    if (device->style == OCL_TILED) {
        const int64_t pieces = (width + tile.rows - 1) / tile.rows;
        tile.columns = tile.rows * (int)(pieces < PIECES ? pieces : PIECES);
        return tile;
    }
    int64_t least = INT64_MAX; /* the fewest rows that are computed for nothing */
    for (int i = 0; i < OCL_MAX_TILES; i++) {
        const int rows = device->tiles[i].rows;
        const int64_t computed = (queries + rows - 1) / rows * rows;
        if (computed < least)
            tile.rows = rows;
        least = computed < least ? computed : least;
    }
    tile.columns = 2 * device->vector;
    while (tile.columns < width && tile.columns < WIDEST) /* few kernels for many widths */
        tile.columns *= 2;
    return tile;
}

/* Makes `axis` contiguous, in rows of whole vectors: kernels read behind a row's end what nothing
 * else may be writing. */
static demist_status need_vectors(demist_program *p, int32_t node, int32_t axis, demist_view *view)
{
    const demist_view from = *view;
    const int64_t vector = p->device->vector;
    if (from.stride[axis] == 1 && from.shape[axis] % vector == 0)
        return DEMIST_OK;
    int64_t step = (from.shape[axis] + vector - 1) / vector * vector;
    for (int32_t i = view->rank - 1; i >= 0; i--)
        if (i != axis) {
            view->stride[i] = step;
            step *= view->batched && i == 0 ? 1 : view->shape[i];
        }
    view->stride[axis] = 1;
    view->offset = 0;
    view->storage = ocl_new_storage(p, view->batched, step, ocl_type_of(p, &from));
    if (view->storage < 0)
        return DEMIST_NO_MEMORY;
    return ocl_add_copy(p, node, view, &from);
}

/* q [N,h,D,L], k [N,h,D,M], v [N,h,E,M] -> y [N,h,E,L], in memory [N,L,h,E]: pixels of channels.
 * What more value channels than a tile has take, the logits are computed for each tile again. */
demist_status ocl_add_attention(demist_program *p, const demist_node *node)
{
    static const int32_t order[] = {0, 3, 1, 2};
    const bool wide = p->device->style == OCL_WIDE;
    demist_view q, k, v, y;
    struct ocl_draft d;
    cl_kernel kernel;
    char defines[160] = "";
    struct ocl_text text = ocl_text_behind(defines, sizeof defines);
    OCL_TRY(ocl_value_of(p, node->inputs[0], &q));
    OCL_TRY(ocl_value_of(p, node->inputs[1], &k));
    OCL_TRY(ocl_value_of(p, node->inputs[2], &v));
    OCL_TRY(ocl_need_contiguous(p, node->id, 2, &q));
    if (wide) {
        OCL_TRY(need_vectors(p, node->id, 3, &k));
        OCL_TRY(need_vectors(p, node->id, 2, &v));
    } else {
        OCL_TRY(ocl_need_contiguous(p, node->id, 2, &k));
        OCL_TRY(ocl_need_contiguous(p, node->id, 2, &v));
    }
    OCL_TRY(ocl_result(p, node, order, ocl_type_of_result(p, node), &y));
    const int64_t queries = q.shape[3], width = v.shape[2];
    const struct ocl_tile tile = attention_tile(p->device, queries, width);
    const demist_view *all[] = {&q, &k, &v, &y};
    ocl_print(&text, "#define ROWS %d\n#define COLUMNS %d\n", tile.rows, tile.columns);
    for (int i = 0; i < 4; i++)
        ocl_print(&text, "#define TYPE_%c %s\n", "QKVY"[i], ocl_type_name(ocl_type_of(p, all[i])));
    OCL_TRY(ocl_kernel(p->device, "attention.cl", defines, "attention", &kernel));
    ocl_draft_init(&d, node->id, kernel);
    ocl_put_in(&d, &q);
    ocl_put_in(&d, &k);
    ocl_put_in(&d, &v);
    ocl_put_out(&d, &y);
    ocl_put_int(&d, queries);
    ocl_put_int(&d, k.shape[3]);
    ocl_put_int(&d, q.shape[2]);
    ocl_put_int(&d, width);
    ocl_put_int(&d, y.shape[1]);
    for (int i = 0; i < 4; i++) {
        ocl_put_int(&d, all[i]->stride[0]);
        ocl_put_int(&d, all[i]->stride[1]);
        ocl_put_int(&d, all[i]->stride[i == 1 && wide ? 2 : 3]);
    }
    ocl_put_float(&d, node->attrs.attention.scale);
    ocl_put_int(&d, node->attrs.attention.causal);
    const size_t local = wide ? 1 : 16;
    ocl_put_range(&d, 0, (struct ocl_count){queries, 0}, tile.rows / (int64_t)local, local);
    ocl_put_range(&d, 1, (struct ocl_count){width, 0}, tile.columns / (int64_t)local, local);
    ocl_put_range(&d, 2, ocl_times(ocl_images(&y), y.shape[1]), 1, 1);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    ocl_set_result(p, node, &y);
    return DEMIST_OK;
}

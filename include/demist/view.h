/* Views: arrays that lie in memory in strides, so that reshapes, transposes, slices and broadcasts
 * move nothing. For backends that plan their own memory; none of it crosses the ABI, all of it is
 * compiled into the plugin. Nothing here allocates, fails or touches the elements. */
#ifndef DEMIST_VIEW_H
#define DEMIST_VIEW_H

#include <demist/graph.h>

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element (i0, i1, …) is element offset + Σ i·stride of the storage. Strides and offset count
 * elements; a stride of 0 repeats. shape[0] of a batched view is DEMIST_BATCH: the number of images
 * is that of an execution, stride[0] leads from one image to the next. */
typedef struct demist_view {
    int32_t storage; /* the backend's own number for the memory */
    int32_t type;    /* the backend's own number for how elements are stored there */
    bool batched;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK], stride[DEMIST_MAX_RANK], offset;
} demist_view;

/* Elements of one image if batched, of all otherwise. */
static inline int64_t demist_view_elements(const demist_view *view)
{
    int64_t n = 1;
    for (int32_t i = view->batched ? 1 : 0; i < view->rank; i++)
        n *= view->shape[i];
    return n;
}

/* --- layouts --- */

/* Puts the axes in memory as order[0 … rank−1] says, the last innermost, without gaps; returns the
 * elements that this takes, of one image if batched: then order[0] is 0. */
static inline int64_t demist_view_lay_out(demist_view *view, const int32_t *order)
{
    int64_t step = 1;
    for (int32_t i = view->rank - 1; i >= 0; i--) {
        view->stride[order[i]] = step;
        if (!view->batched || order[i] != 0)
            step *= view->shape[order[i]];
    }
    return step;
}

/* Orders for it: the axes as they are; */
static inline void demist_order_rows(int32_t rank, int32_t *order)
{
    for (int32_t i = 0; i < rank; i++)
        order[i] = i;
}

/* … `axis` innermost, the others as they are (axis 1 of N, C, H, W: N, H, W, C); */
static inline void demist_order_last(int32_t rank, int32_t axis, int32_t *order)
{
    int32_t n = 0;
    for (int32_t i = 0; i < rank; i++)
        if (i != axis)
            order[n++] = i;
    if (rank > 0)
        order[rank - 1] = axis;
}

/* … and that of a view, by descending strides, axes of one entry where they are. batched: axis 0
 * stays the first. False where the view repeats another axis, which tells no order. */
static inline bool demist_order_like(const demist_view *view, bool batched, int32_t *order)
{
    const int32_t first = batched ? 1 : 0;
    for (int32_t i = 0; i < view->rank; i++) {
        int32_t at = i;
        if (i >= first && view->stride[i] == 0 && view->shape[i] != 1)
            return false;
        while (at > first && view->shape[i] != 1 &&
               (view->shape[order[at - 1]] == 1 || view->stride[order[at - 1]] < view->stride[i])) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    return true;
}

/* The whole of a storage, row-major. */
static inline demist_view demist_view_dense(int32_t storage, bool batched, int32_t rank,
                                            const int64_t *shape)
{
    demist_view view;
    int32_t order[DEMIST_MAX_RANK] = {0};
    memset(&view, 0, sizeof view);
    view.storage = storage;
    view.batched = batched;
    view.rank = rank;
    memcpy(view.shape, shape, sizeof *shape * (size_t)rank);
    demist_order_rows(rank, order);
    demist_view_lay_out(&view, order);
    return view;
}

/* Row-major and without gaps, whatever the strides of axes of one entry. */
static inline bool demist_view_is_dense(const demist_view *view)
{
    int64_t step = 1;
    for (int32_t i = view->rank - 1; i >= 0; i--) {
        const bool images = view->batched && i == 0;
        if (view->stride[i] != step && (images || view->shape[i] != 1))
            return false;
        step *= view->shape[i];
    }
    return true;
}

/* Whether channels (axis 1) are contiguous and the axes behind them one run of pixels, evenly
 * apart.
 */
static inline bool demist_view_is_pixels(const demist_view *view)
{
    bool fits = view->rank < 2 || view->stride[1] == 1 || view->shape[1] == 1;
    int64_t inner = -1; /* stride that the next axis to the left must have */
    for (int32_t i = view->rank - 1; i >= 2; i--) {
        if (view->shape[i] == 1)
            continue;
        fits = fits && view->stride[i] != 0 && (inner < 0 || view->stride[i] == inner);
        inner = view->stride[i] * view->shape[i];
    }
    return fits;
}

/* --- the same elements otherwise --- */

/* Broadcast to the shape of `to`: aligned at the last axes, entries of one repeated. */
static inline demist_view demist_view_broadcast(const demist_view *view, const demist_view *to)
{
    demist_view out = *to;
    out.storage = view->storage;
    out.type = view->type;
    out.offset = view->offset;
    for (int32_t i = 0; i < to->rank; i++) {
        const int32_t k = i - (to->rank - view->rank);
        const bool own = k >= 0 && (view->shape[k] != 1 || (view->batched && k == 0));
        out.stride[i] = own ? view->stride[k] : 0;
    }
    return out;
}

/* The elements in row-major order in another shape with as many; false where strides cannot tell,
 * so that they have to be moved. The images of a batched view stay the first axis. out is another
 * view.
 *
 * Walks both shapes from the left: a group of old axes with the same product as a group of new
 * ones must be mergeable; the new axes then get strides within it. */
static inline bool demist_view_reshape(const demist_view *view, int32_t rank, const int64_t *shape,
                                       demist_view *out)
{
    int64_t old_shape[DEMIST_MAX_RANK], old_stride[DEMIST_MAX_RANK];
    int32_t n = 0, j = 0;
    *out = *view;
    out->rank = rank;
    memset(out->shape, 0, sizeof out->shape);
    memcpy(out->shape, shape, sizeof *shape * (size_t)rank);
    for (int32_t i = view->batched ? 1 : 0; i < view->rank; i++)
        if (view->shape[i] != 1) {
            old_shape[n] = view->shape[i];
            old_stride[n++] = view->stride[i];
        }
    for (int32_t i = view->batched ? 1 : 0; i < rank;) {
        if (shape[i] == 1) {
            out->stride[i++] = 0;
            continue;
        }
        if (j == n)
            return false;
        /* the smallest groups with equal products: new axes i…i1−1, old axes j…j1−1 */
        int32_t i1 = i + 1, j1 = j + 1;
        int64_t new_size = shape[i], old_size = old_shape[j];
        while (new_size != old_size) {
            if (new_size < old_size) {
                if (i1 == rank)
                    return false;
                new_size *= shape[i1++];
            } else {
                if (j1 == n)
                    return false;
                old_size *= old_shape[j1++];
            }
        }
        for (int32_t k = j; k + 1 < j1; k++)
            if (old_stride[k] != old_stride[k + 1] * old_shape[k + 1])
                return false;
        int64_t step = old_stride[j1 - 1];
        for (int32_t k = i1 - 1; k >= i; k--) {
            out->stride[k] = step;
            step *= shape[k];
        }
        i = i1;
        j = j1;
    }
    return true;
}

/* The value of a RESHAPE, TRANSPOSE, SLICE or EXPAND as a view of its input's. False for a RESHAPE
 * that has to move elements; of a dense input none has to. */
static inline bool demist_view_of_node(const demist_node *node, const demist_view *input,
                                       demist_view *out)
{
    demist_view shape;
    if (node->op == DEMIST_OP_RESHAPE)
        return demist_view_reshape(input, node->rank, node->shape, out);
    *out = *input;
    if (node->op == DEMIST_OP_SLICE) {
        const int32_t axis = node->attrs.slice.axis;
        out->offset += node->attrs.slice.start * input->stride[axis];
        out->stride[axis] *= node->attrs.slice.step;
    } else if (node->op == DEMIST_OP_EXPAND) {
        memset(&shape, 0, sizeof shape);
        shape.batched = demist_is_batched(node);
        shape.rank = node->rank;
        memcpy(shape.shape, node->shape, sizeof shape.shape);
        *out = demist_view_broadcast(input, &shape);
    } else {
        for (int32_t i = 0; i < node->rank; i++)
            out->stride[i] = input->stride[node->attrs.transpose.perm[i]];
    }
    memcpy(out->shape, node->shape, sizeof out->shape);
    return true;
}

/* --- loops over several views --- */

enum { DEMIST_MAX_NEST = 16 };

/* Axes that lead through n views of one shape at once, as few as will do, the innermost last. */
typedef struct demist_nest {
    int32_t rank; /* ≥ 1 */
    bool batched; /* axis 0 has size[0] entries for every image of the execution */
    int64_t size[DEMIST_MAX_RANK];
    int64_t stride[DEMIST_MAX_NEST][DEMIST_MAX_RANK]; /* of each view, in elements */
} demist_nest;

/* Whether every view steps over `axis` as over the entries of the nest's last axis. */
static inline bool demist_nest_merges(const demist_nest *nest, int32_t n, const demist_view *views,
                                      int32_t axis)
{
    for (int32_t k = 0; k < n && nest->rank > 0; k++)
        if (nest->stride[k][nest->rank - 1] != views[k].stride[axis] * views[k].shape[axis])
            return false;
    return nest->rank > 0;
}

/* views[0 … n−1], n from 1 to DEMIST_MAX_NEST, have the same shape; axes come in the order of the
 * first one's strides. */
static inline void demist_nest_init(demist_nest *nest, int32_t n, const demist_view *views)
{
    const demist_view *first = &views[0];
    int32_t order[DEMIST_MAX_RANK] = {0}, n_axes = 0;
    memset(nest, 0, sizeof *nest);
    nest->batched = first->batched;
    if (first->batched) {
        nest->size[0] = 1;
        nest->rank = 1;
        for (int32_t k = 0; k < n; k++)
            nest->stride[k][0] = views[k].stride[0];
    }
    for (int32_t i = first->batched ? 1 : 0; i < first->rank; i++) {
        if (first->shape[i] == 1)
            continue;
        int32_t at = n_axes++;
        while (at > 0 && first->stride[order[at - 1]] < first->stride[i]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    for (int32_t i = 0; i < n_axes; i++) {
        const int32_t axis = order[i];
        if (demist_nest_merges(nest, n, views, axis))
            nest->size[nest->rank - 1] *= first->shape[axis];
        else
            nest->size[nest->rank++] = first->shape[axis];
        for (int32_t k = 0; k < n; k++)
            nest->stride[k][nest->rank - 1] = views[k].stride[axis];
    }
    if (nest->rank == 0) { /* a single number */
        nest->size[0] = 1;
        nest->rank = 1;
    }
}

#ifdef __cplusplus
}
#endif
#endif

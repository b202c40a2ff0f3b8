/* Strided views: reshaping without moving anything, broadcasting, and loops over several views. */
#include "cuda_program.h"

#include <string.h>

int64_t cu_elements(const struct cu_view *view)
{
    int64_t n = 1;
    for (int32_t i = view->batched ? 1 : 0; i < view->rank; i++)
        n *= view->shape[i];
    return n;
}

struct cu_count cu_images(const struct cu_view *view)
{
    if (view->batched)
        return (struct cu_count){0, 1};
    return (struct cu_count){view->rank > 0 ? view->shape[0] : 1, 0};
}

struct cu_view cu_dense(int32_t storage, bool batched, int32_t rank, const int64_t *shape)
{
    struct cu_view view = {.storage = storage, .batched = batched, .rank = rank};
    int64_t step = 1;
    for (int32_t i = rank - 1; i >= 0; i--) {
        view.shape[i] = shape[i];
        view.stride[i] = step;
        step *= shape[i];
    }
    return view;
}

bool cu_is_dense(const struct cu_view *view)
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

/* Walks both shapes from the left: a group of old axes with the same product as a group of new
 * ones must be mergeable; the new axes then get strides within it. */
bool cu_reshape(const struct cu_view *view, int32_t rank, const int64_t *shape, struct cu_view *out)
{
    int64_t old_shape[DEMIST_MAX_RANK], old_stride[DEMIST_MAX_RANK];
    int32_t n = 0, j = 0;
    *out = *view;
    out->rank = rank;
    memcpy(out->shape, shape, sizeof out->shape);
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

struct cu_view cu_broadcast(const struct cu_view *view, const struct cu_view *to)
{
    struct cu_view out = *to;
    out.storage = view->storage;
    out.offset = view->offset;
    for (int32_t i = 0; i < to->rank; i++) {
        const int32_t k = i - (to->rank - view->rank);
        const bool own = k >= 0 && (view->shape[k] != 1 || (view->batched && k == 0));
        out.stride[i] = own ? view->stride[k] : 0;
    }
    return out;
}

/* Axes from `first` on in descending order of the view's strides. */
static int32_t order_axes(const struct cu_view *view, int32_t first, int32_t *order)
{
    int32_t n = 0;
    for (int32_t i = first; i < view->rank; i++) {
        if (view->shape[i] == 1)
            continue;
        int32_t at = n++;
        while (at > 0 && view->stride[order[at - 1]] < view->stride[i]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    return n;
}

/* Whether every view steps over `axis` as over the entries of the last axis of the nest. */
static bool merges(const struct cu_nest *nest, int32_t n, const struct cu_view *views, int32_t axis)
{
    if (nest->rank == 0)
        return false;
    for (int32_t k = 0; k < n; k++)
        if (nest->stride[k][nest->rank - 1] != views[k].stride[axis] * views[k].shape[axis])
            return false;
    return true;
}

void cu_nest_init(struct cu_nest *nest, int32_t n, const struct cu_view *views)
{
    const struct cu_view *first = &views[0];
    int32_t order[DEMIST_MAX_RANK];
    memset(nest, 0, sizeof *nest);
    if (first->batched) {
        nest->size[0] = (struct cu_count){0, 1};
        nest->rank = 1;
        for (int32_t k = 0; k < n; k++)
            nest->stride[k][0] = views[k].stride[0];
    }
    const int32_t n_axes = order_axes(first, first->batched ? 1 : 0, order);
    for (int32_t i = 0; i < n_axes; i++) {
        const int32_t axis = order[i];
        if (merges(nest, n, views, axis))
            nest->size[nest->rank - 1] = cu_times(nest->size[nest->rank - 1], first->shape[axis]);
        else
            nest->size[nest->rank++] = (struct cu_count){first->shape[axis], 0};
        for (int32_t k = 0; k < n; k++)
            nest->stride[k][nest->rank - 1] = views[k].stride[axis];
    }
    if (nest->rank == 0) { /* a single number */
        nest->size[0] = (struct cu_count){1, 0};
        nest->rank = 1;
    }
}

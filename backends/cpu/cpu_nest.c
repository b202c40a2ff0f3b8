/* Loops over several views, row by row. Unlike in a demist_nest the images' axis stays alone, so
 * that what a row is depends on no number of images, and what they share is a row as well. */
#include "cpu_program.h"

#include <string.h>

/* Axes 1… of a nest in descending order of the first view's strides; those that it repeats last
 * keep their place behind. */
static void order_axes(const demist_view *view, int32_t first, int32_t *order, int32_t *n)
{
    *n = 0;
    for (int32_t i = first; i < view->rank; i++) {
        if (view->shape[i] == 1)
            continue;
        int32_t at = (*n)++;
        while (at > 0 && view->stride[order[at - 1]] < view->stride[i]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
}

static bool merges(const struct cpu_nest *nest, int32_t axis, const demist_view *views,
                   int32_t next)
{
    for (int32_t k = 0; k < nest->n; k++)
        if (nest->stride[k][axis] != views[k].stride[next] * views[k].shape[next])
            return false;
    return true;
}

void cpu_nest_init(struct cpu_nest *nest, int32_t n, const demist_view *views)
{
    const demist_view *first = &views[0];
    int32_t order[DEMIST_MAX_RANK], n_axes;
    memset(nest, 0, sizeof *nest);
    nest->n = n;
    nest->batched = first->batched;
    nest->size[0] = 1;
    nest->rank = 1;
    if (first->batched)
        for (int32_t k = 0; k < n; k++)
            nest->stride[k][0] = views[k].stride[0];
    order_axes(first, first->batched ? 1 : 0, order, &n_axes);
    for (int32_t i = 0; i < n_axes; i++) {
        const int32_t axis = order[i];
        if (nest->rank > 1 && merges(nest, nest->rank - 1, views, axis)) {
            nest->size[nest->rank - 1] *= first->shape[axis];
        } else {
            nest->size[nest->rank] = first->shape[axis];
            nest->rank++;
        }
        for (int32_t k = 0; k < n; k++)
            nest->stride[k][nest->rank - 1] = views[k].stride[axis];
    }
    if (nest->rank == 1) { /* one element an image: rows of length 1 */
        nest->size[1] = 1;
        nest->rank = 2;
    }
}

int64_t cpu_nest_rows(const struct cpu_nest *nest, int64_t images)
{
    int64_t rows = nest->batched ? images : 1;
    for (int32_t i = 1; i < nest->rank - 1; i++)
        rows *= nest->size[i];
    return rows;
}

void cpu_nest_row(const struct cpu_nest *nest, int64_t row, int64_t *starts)
{
    memset(starts, 0, sizeof *starts * (size_t)nest->n);
    for (int32_t i = nest->rank - 2; i >= 0; i--) {
        const int64_t index = i > 0 ? row % nest->size[i] : row;
        if (i > 0)
            row /= nest->size[i];
        for (int32_t k = 0; k < nest->n; k++)
            starts[k] += index * nest->stride[k][i];
    }
}

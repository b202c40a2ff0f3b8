/* Random numbers: the host's generator, element by element of each image's stream. */
#include "ref_ops.h"

#include <demist/checks.h>

static void philox_range(const struct ref_call *call, int64_t image, int64_t first, int64_t last,
                         float *out)
{
    const demist_attrs *a = call->attrs;
    const uint64_t seed = call->scalars[a->philox.seed_slot].u;
    const uint32_t draw = (uint32_t)call->scalars[a->philox.draw_slot].u;
    const uint64_t first_image = call->scalars[a->philox.image_slot].u;
    const uint32_t key =
        a->philox.per_image ? (uint32_t)(first_image + (uint64_t)image) : DEMIST_IMAGE_SHARED;
    const size_t n = (size_t)(last - first);
    if (call->op == DEMIST_OP_PHILOX_NORMAL) {
        call->philox->normal(seed, key, a->philox.purpose, draw, (uint64_t)first, n, out);
        return;
    }
    const double lo = a->philox.lo, range = (double)a->philox.hi - lo;
    call->philox->uniform(seed, key, a->philox.purpose, draw, (uint64_t)first, n, out);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(lo + range * out[i]);
}

/* Elements first … last−1 of the whole value, which may span images. */
static void philox_elements(const struct ref_call *call, const void *state, int64_t first,
                            int64_t last)
{
    const int64_t per_image = *(const int64_t *)state;
    while (first < last) {
        const int64_t image = first / per_image, start = image * per_image;
        const int64_t end = last < start + per_image ? last : start + per_image;
        philox_range(call, image, first - start, end - start, ref_out(call) + first);
        first = end;
    }
}

demist_status ref_philox(const struct ref_call *call)
{
    const int64_t n = ref_elements(&call->out);
    const int64_t per_image = call->attrs->philox.per_image ? n / call->out.shape[0] : n;
    if (!call->philox)
        return call->host->fail(call->host, DEMIST_INCOMPATIBLE,
                                "node '%s' (%s): the host offers no %s: use a newer host",
                                call->name, demist_op_name(call->op), DEMIST_EXT_PHILOX);
    demist_status status = demist_check_draws(call->host, call->name, call->op, call->attrs,
                                              call->scalars, call->out.shape[0]);
    if (status != DEMIST_OK)
        return status;
    ref_ranges(call, &per_image, n, 4096, philox_elements);
    return DEMIST_OK;
}

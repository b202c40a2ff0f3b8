/* Pooling and resizing of images [N,C,H,W]; a task is one plane. */
#include "ref_ops.h"

#include <math.h>

static const float *in_plane(const struct ref_call *call, int64_t i)
{
    return ref_in(call, 0) + i * ref_span(&call->in[0], 2, 4);
}

static float *out_plane(const struct ref_call *call, int64_t i)
{
    return ref_out(call) + i * ref_span(&call->out, 2, 4);
}

static void for_planes(const struct ref_call *call, ref_range_fn fn)
{
    ref_ranges(call, NULL, ref_span(&call->out, 0, 2), 1, fn);
}

/* The largest (NaN if there is one) or the mean of a window whose first element is x. */
static double window(const struct ref_call *call, const float *x, int64_t width)
{
    const int32_t *kernel = call->attrs->pool.kernel;
    const bool largest = call->op == DEMIST_OP_MAX_POOL2D;
    double value = largest ? -(double)INFINITY : 0;
    for (int64_t ky = 0; ky < kernel[0]; ky++)
        for (int64_t kx = 0; kx < kernel[1]; kx++) {
            const double e = x[ky * width + kx];
            if (!largest)
                value += e;
            else if (e > value || e != e)
                value = e;
        }
    return largest ? value : value / ((double)kernel[0] * kernel[1]);
}

static void pool_planes(const struct ref_call *call, const void *state, int64_t first, int64_t last)
{
    (void)state;
    const int64_t width = call->in[0].shape[3];
    const int32_t *stride = call->attrs->pool.stride;
    const int64_t out_height = call->out.shape[2], out_width = call->out.shape[3];
    for (int64_t i = first; i < last; i++)
        for (int64_t y = 0; y < out_height; y++)
            for (int64_t x = 0; x < out_width; x++)
                out_plane(call, i)[y * out_width + x] = (float)window(
                    call, in_plane(call, i) + y * stride[0] * width + x * stride[1], width);
}

demist_status ref_pool2d(const struct ref_call *call)
{
    for_planes(call, pool_planes);
    return DEMIST_OK;
}

static void upsample_planes(const struct ref_call *call, const void *state, int64_t first,
                            int64_t last)
{
    (void)state;
    const int64_t factor = call->attrs->upsample.factor, width = call->in[0].shape[3];
    const int64_t out_height = call->out.shape[2], out_width = call->out.shape[3];
    for (int64_t i = first; i < last; i++)
        for (int64_t y = 0; y < out_height; y++)
            for (int64_t x = 0; x < out_width; x++)
                out_plane(call, i)[y * out_width + x] =
                    in_plane(call, i)[y / factor * width + x / factor];
}

demist_status ref_upsample_nearest(const struct ref_call *call)
{
    for_planes(call, upsample_planes);
    return DEMIST_OK;
}

/* Between which two inputs output `i` lies, pixel centres at halves: (i + ½)·in/out − ½, and
 * the second one's weight. */
static double between(int64_t i, int64_t in, int64_t out, int64_t *low, int64_t *high)
{
    const double at = fmax(0, ((double)i + 0.5) * (double)in / (double)out - 0.5);
    *low = (int64_t)at < in - 1 ? (int64_t)at : in - 1;
    *high = *low + 1 < in ? *low + 1 : *low;
    return at - (double)*low;
}

static void bilinear_planes(const struct ref_call *call, const void *state, int64_t first,
                            int64_t last)
{
    (void)state;
    const int64_t height = call->in[0].shape[2], width = call->in[0].shape[3];
    const int64_t out_height = call->out.shape[2], out_width = call->out.shape[3];
    for (int64_t i = first; i < last; i++)
        for (int64_t y = 0; y < out_height; y++)
            for (int64_t x = 0; x < out_width; x++) {
                const float *p = in_plane(call, i);
                int64_t y0, y1, x0, x1;
                const double wy = between(y, height, out_height, &y0, &y1);
                const double wx = between(x, width, out_width, &x0, &x1);
                const double top = (1 - wx) * p[y0 * width + x0] + wx * p[y0 * width + x1];
                const double bottom = (1 - wx) * p[y1 * width + x0] + wx * p[y1 * width + x1];
                out_plane(call, i)[y * out_width + x] = (float)((1 - wy) * top + wy * bottom);
            }
}

demist_status ref_resize_bilinear(const struct ref_call *call)
{
    for_planes(call, bilinear_planes);
    return DEMIST_OK;
}

/* Pooling and resizing of pixel-major images [N,C,H,W]; a task is some rows of pixels. */
#include "cpu_program.h"

#include <math.h>
#include <string.h>

struct space {
    demist_op op;
    struct cpu_grid x, y;
    int64_t channels, height, width, out_height, out_width;
    int32_t kernel[2], stride[2], factor;
};

struct call {
    const struct cpu_run *run;
    const struct space *s;
};

/* Channels of input pixel (y, x) of an image as they are stored, and as floats: in `room` unless
 * they are floats. */
static const void *stored_pixel(const struct call *call, int64_t image, int64_t y, int64_t x)
{
    const struct cpu_grid *g = &call->s->x;
    return cpu_element(call->run, &g->view, image * g->image + y * g->row + x * g->column);
}

static const float *pixel(const struct call *call, int64_t image, int64_t y, int64_t x, float *room)
{
    const void *stored = stored_pixel(call, image, y, x);
    if (call->s->x.view.type != CPU_BF16)
        return stored;
    call->run->kernels->widen(call->s->channels, stored, room);
    return room;
}

static void pool(const struct call *call, int64_t image, int64_t y, int64_t x, float *out,
                 float *scratch)
{
    const struct space *s = call->s;
    const struct cpu_kernels *k = call->run->kernels;
    const demist_op op = s->op == DEMIST_OP_MAX_POOL2D ? DEMIST_OP_MAX : DEMIST_OP_ADD;
    const int64_t y0 = y * s->stride[0], x0 = x * s->stride[1];
    memcpy(out, pixel(call, image, y0, x0, scratch), (size_t)s->channels * sizeof *out);
    for (int64_t i = 0; i < s->kernel[0] * s->kernel[1]; i++)
        if (i > 0)
            k->binary(op, s->channels, out, out,
                      pixel(call, image, y0 + i / s->kernel[1], x0 + i % s->kernel[1], scratch));
    if (op == DEMIST_OP_ADD)
        k->scalar_right(DEMIST_OP_DIV, s->channels, out, out, (float)(s->kernel[0] * s->kernel[1]));
}

static void repeat(const struct call *call, int64_t image, int64_t y, int64_t x, float *out,
                   float *scratch)
{
    memcpy(out, pixel(call, image, y / call->s->factor, x / call->s->factor, scratch),
           (size_t)call->s->channels * sizeof *out);
}

/* The two inputs between which output `i` lies, pixel centres at halves, and the second's weight.
 */
static float between(int64_t i, int64_t in, int64_t out, int64_t *low, int64_t *high)
{
    const double at = fmax(0, ((double)i + 0.5) * (double)in / (double)out - 0.5);
    *low = cpu_least((int64_t)at, in - 1);
    *high = cpu_least(*low + 1, in - 1);
    return (float)(at - (double)*low);
}

/* out = (1 - w)·a + w·b */
static void mix(const struct cpu_kernels *k, int64_t n, const float *a, const float *b, float w,
                float *out, float *scratch)
{
    k->scalar_right(DEMIST_OP_MUL, n, scratch, b, w);
    k->scalar_right(DEMIST_OP_MUL, n, out, a, 1 - w);
    k->binary(DEMIST_OP_ADD, n, out, out, scratch);
}

static void resize(const struct call *call, int64_t image, int64_t y, int64_t x, float *out,
                   float *scratch)
{
    const struct space *s = call->s;
    const struct cpu_kernels *k = call->run->kernels;
    const int64_t n = s->channels;
    int64_t y0, y1, x0, x1;
    const float wy = between(y, s->height, s->out_height, &y0, &y1);
    const float wx = between(x, s->width, s->out_width, &x0, &x1);
    float *top = scratch, *bottom = top + n, *room = bottom + n; /* x is of floats */
    mix(k, n, pixel(call, image, y0, x0, NULL), pixel(call, image, y0, x1, NULL), wx, top, room);
    mix(k, n, pixel(call, image, y1, x0, NULL), pixel(call, image, y1, x1, NULL), wx, bottom, room);
    mix(k, n, top, bottom, wy, out, room);
}

static void space_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const struct space *s = call->s;
    const int64_t image = task / s->out_height, y = task % s->out_height;
    const bool as_stored = s->op == DEMIST_OP_UPSAMPLE_NEAREST && s->x.view.type == s->y.view.type;
    const size_t bytes = (size_t)(s->channels * cpu_size(s->y.view.type));
    float *result = cpu_scratch(call->run, worker), *scratch = result + s->channels;
    for (int64_t x = 0; x < s->out_width; x++) {
        void *place =
            cpu_element(call->run, &s->y.view, image * s->y.image + y * s->y.row + x * s->y.column);
        if (as_stored) {
            memcpy(place, stored_pixel(call, image, y / s->factor, x / s->factor), bytes);
            continue;
        }
        float *out = s->y.view.type == CPU_BF16 ? result : place;
        if (s->op == DEMIST_OP_UPSAMPLE_NEAREST)
            repeat(call, image, y, x, out, scratch);
        else if (s->op == DEMIST_OP_RESIZE_BILINEAR)
            resize(call, image, y, x, out, scratch);
        else
            pool(call, image, y, x, out, scratch);
        if (s->y.view.type == CPU_BF16)
            call->run->kernels->narrow(s->channels, result, place);
    }
}

static demist_status run_space(struct cpu_run *run, const void *op)
{
    const struct space *s = op;
    struct call call = {run, s};
    const int64_t images = cpu_images(run, &s->y.view);
    const int64_t taps = s->kernel[0] ? s->kernel[0] * s->kernel[1] : 2;
    cpu_parallel(run, images * s->out_height, space_task, &call,
                 (double)images * (double)(s->out_height * s->out_width * s->channels * taps));
    return DEMIST_OK;
}

static demist_status add_space(demist_program *p, const demist_node *node, struct space *s)
{
    demist_view x, y;
    if (!s)
        return DEMIST_NO_MEMORY;
    s->op = node->op;
    CPU_TRY(s->op == DEMIST_OP_RESIZE_BILINEAR ? cpu_value_of(p, node->inputs[0], &x)
                                               : cpu_value_as_stored(p, node->inputs[0], &x));
    if (x.stride[1] != 1 && x.shape[1] != 1)
        CPU_TRY(cpu_need_pixels(p, node->id, &x));
    CPU_TRY(cpu_result_pixels(p, node, x.type == CPU_BF16 && cpu_keeps_bf16(p, node), &y));
    p->values[node->id].view = y;
    CPU_TRY(cpu_grid_of(p, node->id, &x, &x, 1, &s->x));
    CPU_TRY(cpu_grid_of(p, node->id, &y, &y, 1, &s->y));
    s->channels = x.shape[1];
    s->height = x.shape[2];
    s->width = x.shape[3];
    s->out_height = y.shape[2];
    s->out_width = y.shape[3];
    cpu_need_scratch(p, 4 * s->channels);
    cpu_touch(p, &s->x.view);
    cpu_touch(p, &s->y.view);
    return cpu_add_step(p, node->id, run_space, s) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

demist_status cpu_add_pool(demist_program *p, const demist_node *node)
{
    struct space *s = cpu_new(p, sizeof *s);
    for (int i = 0; s && i < 2; i++) {
        s->kernel[i] = node->attrs.pool.kernel[i];
        s->stride[i] = node->attrs.pool.stride[i];
    }
    return add_space(p, node, s);
}

demist_status cpu_add_upsample(demist_program *p, const demist_node *node)
{
    struct space *s = cpu_new(p, sizeof *s);
    if (s)
        s->factor = node->attrs.upsample.factor;
    return add_space(p, node, s);
}

demist_status cpu_add_resize(demist_program *p, const demist_node *node)
{
    return add_space(p, node, cpu_new(p, sizeof(struct space)));
}

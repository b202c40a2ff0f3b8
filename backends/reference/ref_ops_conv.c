/* Convolutions: a task gathers the inputs of sixteen output pixels into a float64 tile (im2col)
 * and multiplies up to sixty-four filters with it. */
#include "ref_ops.h"

/* Sizes of one convolution; x [N,C,H,W] -> y [N,O,Ho,Wo]. */
struct conv {
    const struct ref_call *call;
    int64_t channels, height, width;             /* of an input group; of x */
    int64_t filters, out_height, out_width;      /* of an output group; of y */
    int64_t groups, kernel[2];                   /* rows, columns */
    int64_t stride[2], dilation[2], pad[2];      /* y, x; pad: top, left */
    int64_t pixel_blocks, filter_blocks, phases; /* tasks: images·groups·phases·blocks */
};

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct conv conv_sizes(const struct ref_call *call, bool transposed)
{
    const struct ref_tensor *x = &call->in[0], *w = &call->in[1], *y = &call->out;
    struct conv c = {.call = call, .groups = call->attrs->conv.groups};
    c.channels = x->shape[1] / c.groups;
    c.filters = y->shape[1] / c.groups;
    c.height = x->shape[2];
    c.width = x->shape[3];
    c.out_height = y->shape[2];
    c.out_width = y->shape[3];
    for (int i = 0; i < 2; i++) {
        c.kernel[i] = w->shape[2 + i];
        c.stride[i] = call->attrs->conv.stride[i];
        c.dilation[i] = call->attrs->conv.dilation[i];
        c.pad[i] = call->attrs->conv.pad[i];
    }
    /* A transposed convolution takes the output pixels that share a phase together: the same taps
     * of the kernel reach them. */
    c.phases = transposed ? c.stride[0] * c.stride[1] : 1;
    const int64_t rows = transposed ? ceil_div(c.out_height, c.stride[0]) : c.out_height;
    const int64_t columns = transposed ? ceil_div(c.out_width, c.stride[1]) : c.out_width;
    c.pixel_blocks = ceil_div(rows * columns, REF_TILE);
    c.filter_blocks = ceil_div(c.filters, REF_ROWS);
    return c;
}

/* What one task computes: filters first_filter … of a group for up to REF_TILE pixels. */
struct tile {
    int64_t image, group, phase, first_filter, filters;
    int pixels;
    int64_t y[REF_TILE], x[REF_TILE]; /* of the output */
};

/* The tile of task number `task`; pixels are counted in steps of `stride` from the phase. */
static struct tile tile_of(const struct conv *c, int64_t task, bool transposed)
{
    struct tile t = {0};
    const int64_t filter_block = task % c->filter_blocks;
    const int64_t pixel_block = task / c->filter_blocks % c->pixel_blocks;
    const int64_t rest = task / c->filter_blocks / c->pixel_blocks;
    t.phase = rest % c->phases;
    t.group = rest / c->phases % c->groups;
    t.image = rest / c->phases / c->groups;
    t.first_filter = filter_block * REF_ROWS;
    t.filters = lesser(REF_ROWS, c->filters - t.first_filter);

    const int64_t step_y = transposed ? c->stride[0] : 1, step_x = transposed ? c->stride[1] : 1;
    const int64_t phase_y = t.phase / step_x, phase_x = t.phase % step_x;
    const int64_t rows = ceil_div(c->out_height - phase_y, step_y);
    const int64_t columns = ceil_div(c->out_width - phase_x, step_x);
    const int64_t first = pixel_block * REF_TILE;
    for (int j = 0; j < REF_TILE && first + j < rows * columns; j++, t.pixels++) {
        t.y[j] = phase_y + (first + j) / columns * step_y;
        t.x[j] = phase_x + (first + j) % columns * step_x;
    }
    return t;
}

static const float *channel_of(const struct conv *c, const struct tile *t, int64_t channel)
{
    const int64_t plane = (t->image * c->groups + t->group) * c->channels + channel;
    return ref_in(c->call, 0) + plane * c->height * c->width;
}

static void start_sums(const struct conv *c, const struct tile *t, double *sums)
{
    for (int64_t i = 0; i < t->filters; i++) {
        const int64_t filter = t->group * c->filters + t->first_filter + i;
        const double bias = c->call->n_inputs == 3 ? ref_in(c->call, 2)[filter] : 0;
        for (int j = 0; j < REF_TILE; j++)
            sums[i * REF_TILE + j] = bias;
    }
}

static void store_sums(const struct conv *c, const struct tile *t, const double *sums)
{
    for (int64_t i = 0; i < t->filters; i++) {
        const int64_t plane = (t->image * c->groups + t->group) * c->filters + t->first_filter + i;
        float *y = ref_out(c->call) + plane * c->out_height * c->out_width;
        for (int j = 0; j < t->pixels; j++)
            y[t->y[j] * c->out_width + t->x[j]] = (float)sums[i * REF_TILE + j];
    }
}

static double *worker_scratch(const struct ref_call *call, int worker)
{
    return (double *)(void *)(call->scratch + (size_t)worker * call->scratch_bytes);
}

/* --- CONV2D --- */

/* packed [REF_TILE] = x[channel, y·stride − pad + ky·dilation, …] for each pixel, 0 outside. */
static void gather(const struct conv *c, const struct tile *t, const float *plane, int64_t ky,
                   int64_t kx, double *packed)
{
    for (int j = 0; j < REF_TILE; j++) {
        const int64_t y = t->y[j] * c->stride[0] - c->pad[0] + ky * c->dilation[0];
        const int64_t x = t->x[j] * c->stride[1] - c->pad[1] + kx * c->dilation[1];
        const bool inside = j < t->pixels && y >= 0 && y < c->height && x >= 0 && x < c->width;
        packed[j] = inside ? plane[y * c->width + x] : 0;
    }
}

static void conv2d_task(void *arg, int64_t task, int worker)
{
    const struct conv *c = (const struct conv *)arg;
    const struct tile t = tile_of(c, task, false);
    double *packed = worker_scratch(c->call, worker), *to = packed;
    for (int64_t channel = 0; channel < c->channels; channel++)
        for (int64_t ky = 0; ky < c->kernel[0]; ky++)
            for (int64_t kx = 0; kx < c->kernel[1]; kx++, to += REF_TILE)
                gather(c, &t, channel_of(c, &t, channel), ky, kx, to);

    const int64_t depth = c->channels * c->kernel[0] * c->kernel[1];
    const float *w = ref_in(c->call, 1) + (t.group * c->filters + t.first_filter) * depth;
    double sums[REF_ROWS * REF_TILE];
    start_sums(c, &t, sums);
    ref_product(t.filters, depth, w, depth, 1, packed, t.pixels, sums);
    store_sums(c, &t, sums);
}

/* x [N,C,H,W], w [O,C/g,kh,kw], b [O]: a cross-correlation, as every framework has it. */
demist_status ref_conv2d(const struct ref_call *call)
{
    struct conv c = conv_sizes(call, false);
    const int64_t tasks = call->out.shape[0] * c.groups * c.pixel_blocks * c.filter_blocks;
    call->host->parallel(call->host, tasks, conv2d_task, &c);
    return DEMIST_OK;
}

/* --- CONV_TRANSPOSE2D --- */

/* The input row or column that tap k carries to output position y; false: none, as
 * y + pad − k·dilation must be a multiple of the stride. */
static bool source_of(const struct conv *c, int axis, int64_t y, int64_t k, int64_t *from)
{
    const int64_t scaled = y + c->pad[axis] - k * c->dilation[axis];
    *from = scaled / c->stride[axis];
    return scaled % c->stride[axis] == 0;
}

/* packed [C][REF_TILE] for one tap. */
static void gather_tap(const struct conv *c, const struct tile *t, int64_t ky, int64_t kx,
                       double *packed)
{
    for (int64_t channel = 0; channel < c->channels; channel++) {
        const float *plane = channel_of(c, t, channel);
        for (int j = 0; j < REF_TILE; j++) {
            int64_t y, x;
            const bool inside = j < t->pixels && source_of(c, 0, t->y[j], ky, &y) &&
                                source_of(c, 1, t->x[j], kx, &x) && y >= 0 && y < c->height &&
                                x >= 0 && x < c->width;
            packed[channel * REF_TILE + j] = inside ? plane[y * c->width + x] : 0;
        }
    }
}

static void conv_transpose2d_task(void *arg, int64_t task, int worker)
{
    const struct conv *c = (const struct conv *)arg;
    const struct tile t = tile_of(c, task, true);
    const int64_t taps = c->kernel[0] * c->kernel[1];
    double *packed = worker_scratch(c->call, worker);
    double sums[REF_ROWS * REF_TILE];
    if (t.pixels == 0)
        return; /* a phase may have fewer pixels than the first one */
    start_sums(c, &t, sums);
    for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t ky = tap / c->kernel[1], kx = tap % c->kernel[1];
        int64_t y, x;
        if (!source_of(c, 0, t.y[0], ky, &y) || !source_of(c, 1, t.x[0], kx, &x))
            continue; /* reaches no pixel of this phase */
        gather_tap(c, &t, ky, kx, packed);
        const float *w =
            ref_in(c->call, 1) + (t.group * c->channels * c->filters + t.first_filter) * taps + tap;
        ref_product(t.filters, c->channels, w, taps, c->filters * taps, packed, t.pixels, sums);
    }
    store_sums(c, &t, sums);
}

/* x [N,C,H,W], w [C,O/g,kh,kw], b [O]: y[o, y·s − p + ky·d, …] += x[c,y,x]·w[c,o,ky,kx]. */
demist_status ref_conv_transpose2d(const struct ref_call *call)
{
    struct conv c = conv_sizes(call, true);
    const int64_t tasks =
        call->out.shape[0] * c.groups * c.phases * c.pixel_blocks * c.filter_blocks;
    call->host->parallel(call->host, tasks, conv_transpose2d_task, &c);
    return DEMIST_OK;
}

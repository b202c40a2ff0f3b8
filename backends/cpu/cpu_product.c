/* conv2d, conv_transpose2d and linear as products of pixels with packed weights.
 *
 * A tile is `mr` output pixels by one panel of output channels. Its rows of A are pointers to the
 * input pixels under each kernel tap (zeros outside), so no matrix of patches is ever made and
 * stride, padding, dilation and transposition are only a matter of pointers. What follows the
 * product is applied to the tile while it is in the first-level cache. */
#include "cpu_product.h"
#include "cpu_tiles.h"

#include <demist/convolution.h>

#include <math.h>
#include <string.h>

/* Blocks of rows of a task, and rows whose pointers it makes at once. */
enum { MAX_BLOCKS = 8, MAX_PIXELS = MAX_BLOCKS * CPU_MAX_MR };

/* --- packing --- */

int64_t cpu_packed_floats(const struct cpu_kernels *k, int64_t depth, int64_t columns)
{
    const int64_t whole = columns / k->nr, rest = columns % k->nr;
    return depth * (whole * k->nr + (rest == 0 ? 0 : rest > k->vw ? k->nr : k->vw));
}

/* Element (output, input channel, tap) of the weights of one group. */
static float weight_at(const struct cpu_product *c, const float *w, int64_t group, int64_t o,
                       int64_t channel, int64_t tap)
{
    const int64_t taps = c->kernel_h * c->kernel_w;
    if (c->op == DEMIST_OP_CONV_TRANSPOSE2D)
        return w[((group * c->channels + channel) * c->filters + o) * taps + tap];
    return w[((group * c->filters + o) * c->channels + channel) * taps + tap];
}

struct packing {
    const struct cpu_kernels *kernels;
    const struct cpu_product *product;
    const float *weight;
    const double *scale; /* [groups·filters] */
    float *packed;
};

float cpu_scaled_weight(const struct cpu_product *c, const float *weight, const double *scale,
                        int64_t group, int64_t o, int64_t channel, int64_t tap)
{
    if (o >= c->filters || channel >= c->channels)
        return 0;
    return (float)(scale[group * c->filters + o] * weight_at(c, weight, group, o, channel, tap));
}

static float scaled_weight(const struct packing *pk, int64_t group, int64_t o, int64_t channel,
                           int64_t tap)
{
    return cpu_scaled_weight(pk->product, pk->weight, pk->scale, group, o, channel, tap);
}

static void pack_panel(const struct packing *pk, const struct cpu_phase *phase, int64_t group,
                       int64_t panel)
{
    const struct cpu_product *c = pk->product;
    const struct cpu_kernels *k = pk->kernels;
    const int64_t depth = phase->n_taps * c->steps, first = panel * k->nr;
    const int64_t width = cpu_panel_vecs(k, first, c->filters) * k->vw;
    float *to = pk->packed + phase->packed + group * cpu_packed_floats(k, depth, c->filters) +
                cpu_panel_at(k, depth, panel);
    for (int32_t t = 0; t < phase->n_taps; t++)
        for (int64_t step = 0; step < c->steps; step++, to += width)
            for (int64_t j = 0; j < width; j++) {
                const int64_t o = first + j;
                to[j] = c->half ? cpu_pair(scaled_weight(pk, group, o, 2 * step, phase->tap[t]),
                                           scaled_weight(pk, group, o, 2 * step + 1, phase->tap[t]))
                                : scaled_weight(pk, group, o, step, phase->tap[t]);
            }
}

static int64_t pack_panels(const struct cpu_product *c)
{
    return c->tiled ? cpu_ceil(c->filters, CPU_TILE_SIDE) : c->panels;
}

static void pack_task(void *arg, int64_t i, int worker)
{
    (void)worker;
    const struct packing *pk = arg;
    const struct cpu_product *c = pk->product;
    const int64_t panels = pack_panels(c);
    const int64_t panel = i % panels, group = i / panels % c->groups;
    const struct cpu_phase *phase = &c->phases[i / panels / c->groups];
    if (c->tiled)
        cpu_tiled_pack(c, phase, group, panel, pk->weight, pk->scale,
                       pk->packed + phase->packed + group * cpu_tiled_floats(c, phase));
    else
        pack_panel(pk, phase, group, panel);
}

/* gamma/sqrt(variance + eps) of a folded normalisation, 1 without one */
static double norm_scale(const struct cpu_product *c, int64_t o)
{
    if (!c->norm[0])
        return 1;
    return c->norm[0][o] / sqrt((double)c->norm[3][o] + (double)c->eps);
}

static void pack_bias(const struct cpu_kernels *k, const struct cpu_product *c, const float *bias,
                      const double *scale, float *packed)
{
    for (int64_t g = 0; g < c->groups; g++)
        for (int64_t j = 0; j < c->panels * k->nr; j++) {
            const int64_t o = g * c->filters + j;
            double b = 0;
            if (j < c->filters) {
                b = bias ? bias[o] : 0;
                if (c->norm[0])
                    b = (b - c->norm[2][o]) * scale[o] + c->norm[1][o];
            }
            packed[g * c->panels * k->nr + j] = (float)b;
        }
}

static void pack(const struct cpu_kernels *k, const demist_host *host, const struct cpu_product *c,
                 const float *weight, const float *bias, double *scale, float *packed,
                 float *packed_bias)
{
    for (int64_t o = 0; o < c->groups * c->filters; o++)
        scale[o] = norm_scale(c, o);
    pack_bias(k, c, bias, scale, packed_bias);
    if (c->winograd) {
        cpu_winograd_pack(k, host, c, weight, scale, packed);
        return;
    }
    struct packing pk = {k, c, weight, scale, packed};
    const int64_t tasks = c->n_phases * c->groups * pack_panels(c);
    if (c->packed_floats > 4096)
        host->parallel(host, tasks, pack_task, &pk);
    else
        for (int64_t i = 0; i < tasks; i++)
            pack_task(&pk, i, 0);
}

/* Behind the packed bias there is room for `scale`. */
static double *scale_room(const struct cpu_kernels *k, const struct cpu_product *c,
                          float *packed_bias)
{
    return (double *)(void *)(packed_bias + c->groups * c->panels * k->nr);
}

static int64_t bias_floats(const struct cpu_kernels *k, const struct cpu_product *c)
{
    return c->groups * c->panels * k->nr + 2 * c->groups * c->filters;
}

static void prepare(const struct cpu_kernels *k, const demist_host *host, void *op)
{
    const struct cpu_product *c = op;
    pack(k, host, c, c->weight, c->bias, scale_room(k, c, c->packed_bias), c->packed,
         c->packed_bias);
}

/* --- what follows a product --- */

/* Elements first … first + n of an operand that are not there as floats side by side: bf16 numbers
 * (channel 1), or one for all (channel 0). */
static void spread_operand(const struct cpu_kernels *k, const struct cpu_grid *g, const void *from,
                           int64_t first, int64_t n, float *to)
{
    if (g->channel != 0 && g->view.type == CPU_BF16) {
        k->widen(n, (const uint16_t *)from + first, to);
        return;
    }
    const float x =
        g->view.type == CPU_BF16 ? cpu_from_bf16(*(const uint16_t *)from) : *(const float *)from;
    for (int64_t i = 0; i < n; i++)
        to[i] = x;
}

/* Row r of the tile, with the post's operand. */
static void run_operand(const struct cpu_run *run, const struct cpu_post *post,
                        const struct cpu_tile *t, int r)
{
    const struct cpu_kernels *k = run->kernels;
    const struct cpu_grid *g = &post->operand;
    float *row = t->data + r * t->ld, room[CPU_MAX_NR];
    const void *operand = cpu_element(run, &g->view,
                                      t->channel * g->channel + t->image[r] * g->image +
                                          t->y[r] * g->row + t->x[r] * g->column);
    const bool spread = g->channel == 0 || g->view.type == CPU_BF16;
    const int64_t piece = spread ? CPU_MAX_NR : t->n;
    if (g->channel == 0 && g->view.type != CPU_BF16 && !post->reversed) {
        k->scalar_right(post->op, t->n, row, row, *(const float *)operand);
        return;
    }
    for (int64_t j = 0; j < t->n; j += piece) {
        const int64_t n = cpu_least(piece, t->n - j);
        const float *y = spread ? room : operand;
        if (spread)
            spread_operand(k, g, operand, j, n, room);
        if (post->reversed)
            k->binary(post->op, n, row + j, y, row + j);
        else
            k->binary(post->op, n, row + j, row + j, y);
    }
}

void cpu_run_posts(const struct cpu_run *run, const struct cpu_post *posts, int32_t n,
                   const struct cpu_tile *t)
{
    const struct cpu_kernels *k = run->kernels;
    for (int32_t i = 0; i < n; i++) {
        const struct cpu_post *post = &posts[i];
        if (!post->has_operand) {
            if (t->ld == t->n)
                k->unary(post->op, t->rows * t->ld, t->data, t->data, post->p0, post->p1);
            else
                for (int r = 0; r < t->rows; r++)
                    k->unary(post->op, t->n, t->data + r * t->ld, t->data + r * t->ld, post->p0,
                             post->p1);
            continue;
        }
        for (int r = 0; r < t->rows; r++)
            run_operand(run, post, t, r);
    }
}

/* Where the tile's rows lie in a grid whose channels are side by side. */
static void find_places(const struct cpu_run *run, const struct cpu_grid *g,
                        const struct cpu_tile *t, void **rows)
{
    char *base = cpu_element(run, &g->view, t->channel);
    const int64_t size = cpu_size(g->view.type);
    for (int r = 0; r < t->rows; r++)
        rows[r] = base + (t->image[r] * g->image + t->y[r] * g->row + t->x[r] * g->column) * size;
}

void cpu_finish_tile(const struct cpu_run *run, const struct cpu_post *posts, int32_t n,
                     const struct cpu_grid *to, const struct cpu_tile *t)
{
    /* the last post, if it adds a value to each element, is added while storing */
    const struct cpu_post *last = n > 0 ? &posts[n - 1] : NULL;
    const bool adds = last && last->op == DEMIST_OP_ADD && last->operand.channel == 1;
    void *add[CPU_MAX_TILE];
    void *out[CPU_MAX_TILE];
    cpu_run_posts(run, posts, adds ? n - 1 : n, t);
    find_places(run, to, t, out);
    if (adds)
        find_places(run, &last->operand, t, add);
    run->kernels->store(t->rows, t->n, t->data, t->ld, adds ? add : NULL,
                        adds && last->operand.view.type == CPU_BF16, out,
                        to->view.type == CPU_BF16);
}

demist_status cpu_grid_of(demist_program *p, int32_t node, const demist_view *view,
                          const demist_view *to, int32_t channel, struct cpu_grid *grid)
{
    demist_view v = demist_view_broadcast(view, to);
    if (v.stride[channel] != 0 && v.stride[channel] != 1 && v.shape[channel] != 1) {
        demist_view copy = *view;
        int32_t order[DEMIST_MAX_RANK];
        demist_order_last(view->rank, channel - (to->rank - view->rank), order);
        CPU_TRY(cpu_materialise(p, node, order, copy.type == CPU_BF16, &copy));
        v = demist_view_broadcast(&copy, to);
    }
    *grid = (struct cpu_grid){.view = v, .channel = v.shape[channel] == 1 ? 0 : v.stride[channel]};
    int64_t *strides[2] = {&grid->column, &grid->row};
    int32_t n = 0;
    for (int32_t i = v.rank - 1; i >= 0; i--) {
        if (i == channel)
            continue;
        if (i == 0)
            grid->image = v.stride[0];
        else if (n < 2)
            *strides[n++] = v.stride[i];
    }
    return DEMIST_OK;
}

demist_status cpu_posts_of(demist_program *p, const struct cpu_fused *f, const demist_view *result,
                           int32_t channel, int32_t first, bool as_stored, struct cpu_post *posts,
                           int32_t *n)
{
    *n = 0;
    for (int32_t i = first; i < f->n; i++) {
        const demist_node *node = f->chain[i];
        struct cpu_post *post = &posts[(*n)++];
        *post = (struct cpu_post){.op = node->op};
        if (node->op == DEMIST_OP_AFFINE || node->op == DEMIST_OP_CLAMP) {
            post->p0 = node->attrs.affine.a; /* the same place as clamp.lo, clamp.hi */
            post->p1 = node->attrs.affine.b;
        }
        if (node->n_inputs < 2)
            continue;
        demist_view view;
        post->has_operand = true;
        post->reversed = node->inputs[1] == f->chain[i - 1];
        const demist_node *operand = node->inputs[post->reversed ? 0 : 1];
        CPU_TRY(as_stored ? cpu_value_as_stored(p, operand, &view)
                          : cpu_value_of(p, operand, &view));
        CPU_TRY(cpu_grid_of(p, f->result->id, &view, result, channel, &post->operand));
    }
    return DEMIST_OK;
}

/* --- the direct product --- */

struct direct {
    const struct cpu_run *run;
    const struct cpu_product *c;
    const struct cpu_phase *phase;
    int64_t group, pixels, chunk, panel_chunk, row_chunks;
    const float *packed, *bias;
};

/* Rows of one block: where they are in input and output. */
struct block {
    int rows;
    int64_t image[CPU_MAX_MR], i[CPU_MAX_MR], j[CPU_MAX_MR]; /* pixel of the phase */
};

static void find_block(const struct direct *d, int64_t first, int rows, struct block *b)
{
    int64_t image = first / (d->phase->rows * d->phase->columns);
    int64_t rest = first % (d->phase->rows * d->phase->columns);
    int64_t i = rest / d->phase->columns, j = rest % d->phase->columns;
    b->rows = rows;
    for (int r = 0; r < rows; r++) {
        b->image[r] = image;
        b->i[r] = i;
        b->j[r] = j;
        if (++j == d->phase->columns) {
            j = 0;
            if (++i == d->phase->rows) {
                i = 0;
                image++;
            }
        }
    }
}

/* Pointers [tap][rows] to the channels of the pixels under each tap. */
static void find_rows(const struct direct *d, const struct block *b, const void *zeros,
                      const void **rows)
{
    const struct cpu_product *c = d->c;
    const char *x = cpu_element(d->run, &c->x.view, d->group * c->channels * c->x.channel);
    const int64_t size = cpu_size(c->x.view.type);
    for (int32_t t = 0; t < d->phase->n_taps; t++)
        for (int r = 0; r < b->rows; r++) {
            const int64_t y = b->i[r] * c->in_step_y + d->phase->dy[t];
            const int64_t z = b->j[r] * c->in_step_x + d->phase->dx[t];
            const bool inside = y >= 0 && y < c->height && z >= 0 && z < c->width;
            *rows++ = inside ? x + (b->image[r] * c->x.image + (y >> c->up) * c->x.row +
                                    (z >> c->up) * c->x.column) *
                                       size
                             : zeros;
        }
}

static void finish_block(const struct direct *d, const struct block *b, int64_t column, int64_t n,
                         float *data, int64_t ld)
{
    const struct cpu_product *c = d->c;
    struct cpu_tile tile = {
        .data = data, .ld = ld, .channel = d->group * c->filters + column, .n = n, .rows = b->rows};
    for (int r = 0; r < b->rows; r++) {
        tile.image[r] = b->image[r];
        tile.y[r] = d->phase->first_y + b->i[r] * c->step_y;
        tile.x[r] = d->phase->first_x + b->j[r] * c->step_x;
    }
    cpu_finish_tile(d->run, c->posts, c->n_posts, &c->y, &tile);
}

/* Where a block's results go if nothing follows and its pixels lie evenly spaced: straight to their
 * place, *ld apart; else NULL. */
static float *direct_place(const struct direct *d, const struct block *b, int64_t column, int64_t n,
                           int64_t width, int64_t *ld)
{
    const struct cpu_product *c = d->c;
    const struct cpu_grid *y = &c->y;
    if (c->n_posts > 0 || n < width || c->n_phases > 1 || y->view.type == CPU_BF16)
        return NULL;
    int64_t first = 0;
    for (int r = 0; r < b->rows; r++) {
        const int64_t at = b->image[r] * y->image + b->i[r] * y->row + b->j[r] * y->column;
        if (r == 0)
            first = at;
        else if (r == 1)
            *ld = at - first;
        else if (at != first + r * *ld)
            return NULL;
    }
    return cpu_at(d->run, &y->view) + first + d->group * c->filters + column;
}

/* All blocks times one panel. */
static void multiply_panel(const struct direct *d, const struct block *blocks, int n,
                           const void *const *pointers, int64_t panel)
{
    const struct cpu_product *c = d->c;
    const struct cpu_kernels *k = d->run->kernels;
    const int64_t column = panel * k->nr, columns = cpu_least(k->nr, c->filters - column);
    const int vecs = cpu_panel_vecs(k, column, c->filters);
    const int64_t width = vecs * k->vw;
    const float *b = d->packed + cpu_panel_at(k, d->phase->n_taps * c->steps, panel);
    float tiles[MAX_BLOCKS * CPU_MAX_MR * CPU_MAX_NR] __attribute__((aligned(64)));
    struct cpu_rows rows[MAX_BLOCKS];
    bool placed[MAX_BLOCKS];
    for (int i = 0; i < n; i++) {
        int64_t ld = width;
        float *place = direct_place(d, &blocks[i], column, columns, width, &ld);
        placed[i] = place != NULL;
        rows[i] = (struct cpu_rows){blocks[i].rows, pointers,
                                    place ? place : tiles + i * k->mr * width, place ? ld : width};
        pointers += blocks[i].rows * d->phase->n_taps;
    }
    (c->half ? k->gemm16_panel : k->gemm_panel)(n, rows, vecs, d->phase->n_taps, c->channels, b,
                                                d->bias + column);
    for (int i = 0; i < n; i++)
        if (!placed[i])
            finish_block(d, &blocks[i], column, columns, rows[i].c, width);
}

/* One task: a chunk of pixels times a chunk of panels. */
static void direct_task(void *arg, int64_t task, int worker)
{
    const struct direct *d = arg;
    const struct cpu_product *c = d->c;
    const struct cpu_kernels *k = d->run->kernels;
    const int64_t first = task % d->row_chunks * d->chunk;
    const int64_t last = cpu_least(first + d->chunk, d->pixels);
    const int64_t panel0 = task / d->row_chunks * d->panel_chunk;
    const int64_t panel1 = cpu_least(panel0 + d->panel_chunk, c->panels);
    /* scratch: a row of zeros, then the pointers */
    float *zeros = cpu_scratch(d->run, worker);
    const void **pointers = (const void **)(void *)(zeros + cpu_round_up(c->channels, 16));
    memset(zeros, 0, (size_t)c->channels * sizeof *zeros);

    struct block blocks[MAX_BLOCKS];
    int n_blocks = 0;
    const int64_t count = cpu_ceil(last - first, k->mr);
    for (int64_t at = first; at < last; n_blocks++) {
        const int rows = (int)cpu_ceil(last - at, count - n_blocks);
        find_block(d, at, rows, &blocks[n_blocks]);
        find_rows(d, &blocks[n_blocks], zeros, pointers + (at - first) * d->phase->n_taps);
        at += rows;
    }
    for (int64_t panel = panel0; panel < panel1; panel++)
        multiply_panel(d, blocks, n_blocks, pointers, panel);
}

/* How the work is cut changes no bit: a row's sum is the same in any block. */
static void run_phase(const struct cpu_run *run, const struct cpu_product *c,
                      const struct cpu_phase *phase, int64_t group, const float *packed,
                      const float *bias)
{
    const struct cpu_kernels *k = run->kernels;
    const int64_t depth = phase->n_taps * c->steps;
    struct direct d = {.run = run, .c = c, .phase = phase, .group = group};
    d.pixels = cpu_images(run, &c->y.view) * phase->rows * phase->columns;
    if (d.pixels == 0)
        return;
    d.packed = packed + phase->packed + group * cpu_packed_floats(k, depth, c->filters);
    d.bias = bias + group * c->panels * k->nr;
    /* few chunks of rows, as each reads the weights again */
    const int64_t wanted = 4 * (int64_t)run->host->n_workers;
    const int64_t least = cpu_least(cpu_ceil(wanted, c->panels), cpu_ceil(d.pixels, k->mr));
    d.row_chunks = cpu_ceil(d.pixels, MAX_BLOCKS * k->mr);
    d.row_chunks = d.row_chunks > least ? d.row_chunks : least;
    d.chunk = cpu_ceil(d.pixels, d.row_chunks);
    d.row_chunks = cpu_ceil(d.pixels, d.chunk);
    const int64_t panel_chunks = cpu_least(c->panels, cpu_ceil(wanted, d.row_chunks));
    d.panel_chunk = cpu_ceil(c->panels, panel_chunks);
    cpu_parallel(run, d.row_chunks * cpu_ceil(c->panels, d.panel_chunk), direct_task, &d,
                 (double)d.pixels * (double)depth * (double)c->panels * k->nr / 16);
}

static demist_status run_product(struct cpu_run *run, const void *op)
{
    const struct cpu_product *c = op;
    const struct cpu_kernels *k = run->kernels;
    const float *packed = c->packed, *bias = c->packed_bias;
    if (c->dynamic) {
        float *to = cpu_at(run, &c->packed_view);
        float *to_bias = to + c->packed_floats;
        pack(k, run->host, c, cpu_at(run, &c->weight_view),
             c->bias_view.rank ? cpu_at(run, &c->bias_view) : NULL, scale_room(k, c, to_bias), to,
             to_bias);
        packed = to;
        bias = to_bias;
    }
    if (c->winograd) {
        cpu_winograd_run(run, c, packed, bias);
        return DEMIST_OK;
    }
    for (int32_t i = 0; i < c->n_phases; i++)
        for (int64_t g = 0; g < c->groups; g++)
            if (c->tiled)
                cpu_tiled_run(run, c, &c->phases[i], g, packed, bias);
            else
                run_phase(run, c, &c->phases[i], g, packed, bias);
    return DEMIST_OK;
}

/* --- building --- */

/* The taps along one axis that reach outputs of phase r. */
static demist_taps taps_of(const struct cpu_product *c, int64_t kernel, int32_t stride,
                           int32_t dilation, int64_t pad, int64_t r)
{
    if (c->op == DEMIST_OP_CONV_TRANSPOSE2D)
        return demist_transposed_taps(kernel, stride, (int32_t)pad, dilation, r);
    return demist_conv_taps(kernel, (int32_t)pad, dilation);
}

static demist_status plan_phase(demist_program *p, struct cpu_product *c, const demist_attrs *attrs,
                                int64_t ry, int64_t rx, struct cpu_phase *phase)
{
    const int32_t one[] = {1, 1};
    const bool linear = c->op == DEMIST_OP_LINEAR;
    const int32_t *stride = linear ? one : attrs->conv.stride;
    const int32_t *dilation = linear ? one : attrs->conv.dilation;
    const demist_taps ty = taps_of(c, c->kernel_h, stride[0], dilation[0], c->pad_y, ry);
    const demist_taps tx = taps_of(c, c->kernel_w, stride[1], dilation[1], c->pad_x, rx);
    const int64_t taps = (int64_t)ty.n * tx.n;
    int32_t *room = cpu_new(p, (size_t)(3 * taps) * sizeof *room);
    if (!room)
        return DEMIST_NO_MEMORY;
    phase->tap = room;
    phase->dy = room + taps;
    phase->dx = room + 2 * taps;
    for (int32_t i = 0; i < ty.n; i++)
        for (int32_t j = 0; j < tx.n; j++) {
            phase->tap[phase->n_taps] =
                (int32_t)((ty.first + i * ty.step) * c->kernel_w + tx.first + j * tx.step);
            phase->dy[phase->n_taps] = ty.place + i * ty.move;
            phase->dx[phase->n_taps++] = tx.place + j * tx.move;
        }
    phase->first_y = ry;
    phase->first_x = rx;
    phase->rows = demist_phase_outputs(c->out_height, (int32_t)c->step_y, ry);
    phase->columns = demist_phase_outputs(c->out_width, (int32_t)c->step_x, rx);
    return DEMIST_OK;
}

static demist_status plan_phases(demist_program *p, struct cpu_product *c,
                                 const demist_attrs *attrs)
{
    c->n_phases = (int32_t)(c->step_y * c->step_x);
    c->phases = cpu_new(p, (size_t)c->n_phases * sizeof *c->phases);
    if (!c->phases)
        return DEMIST_NO_MEMORY;
    int32_t most = 0;
    for (int32_t i = 0; i < c->n_phases; i++) {
        struct cpu_phase *phase = &c->phases[i];
        CPU_TRY(plan_phase(p, c, attrs, i / c->step_x, i % c->step_x, phase));
        phase->packed = c->packed_floats;
        c->packed_floats +=
            c->groups * (c->tiled ? cpu_tiled_floats(c, phase)
                                  : cpu_packed_floats(p->device->kernels, phase->n_taps * c->steps,
                                                      c->filters));
        most = phase->n_taps > most ? phase->n_taps : most;
    }
    if (c->tiled)
        cpu_tiled_plan(p, c);
    else
        cpu_need_scratch(p, cpu_round_up(c->channels, 16) + 2 * (int64_t)most * MAX_PIXELS);
    return DEMIST_OK;
}

static void choose_algorithm(const demist_program *p, struct cpu_product *c,
                             const demist_attrs *attrs)
{
    const struct cpu_kernels *k = p->device->kernels;
    const bool unit = c->op == DEMIST_OP_CONV2D && c->kernel_h == 3 && c->kernel_w == 3 &&
                      c->groups == 1 && c->in_step_y == 1 && c->in_step_x == 1 &&
                      attrs->conv.dilation[0] == 1 && attrs->conv.dilation[1] == 1;
    c->half = p->precision == DEMIST_PRECISION_BF16;
    c->tiled = cpu_tiled_choice(p, c);
    if (!unit || c->tiled || p->precision == DEMIST_PRECISION_STRICT)
        return;
    c->winograd =
        c->half ? cpu_winograd_choice_bf16(k, c->channels, c->filters, c->out_height, c->out_width,
                                           &c->half)
                : cpu_winograd_choice(k, c->channels, c->filters, c->out_height, c->out_width);
}

/* Makes x what the product multiplies: bf16 numbers or floats. Winograd's transform of the input
 * takes both. */
static demist_status need_factors(demist_program *p, int32_t node, bool pixels,
                                  const struct cpu_product *c, demist_view *x)
{
    const bool bf16 = c->half && (c->tiled || p->device->kernels->bf16);
    return c->winograd && !bf16 ? DEMIST_OK : cpu_need_format(p, node, pixels, bf16, x);
}

/* The sizes of a convolution's node; x and the result as grids. */
static demist_status plan_conv(demist_program *p, const struct cpu_fused *f, struct cpu_product *c)
{
    const demist_node *node = f->chain[0];
    const bool transposed = node->op == DEMIST_OP_CONV_TRANSPOSE2D;
    const int64_t *w = node->inputs[1]->shape;
    demist_view x, y;
    CPU_TRY(cpu_value_as_stored(p, node->inputs[0], &x));
    c->groups = node->attrs.conv.groups;
    c->channels = x.shape[1] / c->groups;
    c->filters = f->result->shape[1] / c->groups;
    c->height = x.shape[2];
    c->width = x.shape[3];
    c->out_height = f->result->shape[2];
    c->out_width = f->result->shape[3];
    c->kernel_h = w[2];
    c->kernel_w = w[3];
    c->pad_y = node->attrs.conv.pad[0];
    c->pad_x = node->attrs.conv.pad[1];
    c->step_y = transposed ? node->attrs.conv.stride[0] : 1;
    c->step_x = transposed ? node->attrs.conv.stride[1] : 1;
    c->in_step_y = transposed ? 1 : node->attrs.conv.stride[0];
    c->in_step_x = transposed ? 1 : node->attrs.conv.stride[1];
    choose_algorithm(p, c, &node->attrs);
    CPU_TRY(need_factors(p, f->result->id, true, c, &x));
    if (x.stride[1] != 1 && x.shape[1] != 1)
        CPU_TRY(cpu_need_pixels(p, f->result->id, &x));
    CPU_TRY(cpu_result_pixels(p, f->result, cpu_keeps_bf16(p, f->result), &y));
    CPU_TRY(cpu_grid_of(p, f->result->id, &x, &x, 1, &c->x));
    CPU_TRY(cpu_grid_of(p, f->result->id, &y, &y, 1, &c->y));
    p->flops += demist_product_flops(node);
    return DEMIST_OK;
}

demist_status cpu_merge_rows(demist_program *p, int32_t node, demist_view *x, demist_view *y)
{
    const int32_t order[DEMIST_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int32_t last = x->rank - 1;
    int64_t rows = 1;
    if (!demist_view_is_dense(x))
        CPU_TRY(cpu_materialise(p, node, order, x->type == CPU_BF16, x));
    for (int32_t i = 1; i < last; i++)
        rows *= x->shape[i];
    const int64_t x_shape[DEMIST_MAX_RANK] = {x->shape[0], rows, x->shape[last]};
    const int64_t y_shape[DEMIST_MAX_RANK] = {y->shape[0], rows, y->shape[last]};
    const demist_view x_old = *x, y_old = *y;
    demist_view_reshape(&x_old, 3, x_shape, x);
    demist_view_reshape(&y_old, 3, y_shape, y);
    return DEMIST_OK;
}

/* x [..,K]: axis 0 as images, the others but the last as rows and columns. */
static demist_status plan_linear(demist_program *p, const struct cpu_fused *f,
                                 struct cpu_product *c)
{
    const demist_node *node = f->chain[0];
    demist_view x, y;
    CPU_TRY(cpu_value_as_stored(p, node->inputs[0], &x));
    const int32_t rank = x.rank;
    int64_t rows = 1;
    for (int32_t i = 1; i < rank - 1; i++)
        rows *= x.shape[i];
    c->groups = 1;
    c->channels = x.shape[rank - 1];
    c->filters = f->result->shape[rank - 1];
    c->kernel_h = c->kernel_w = c->step_y = c->step_x = c->in_step_y = c->in_step_x = 1;
    c->half = p->precision == DEMIST_PRECISION_BF16;
    c->height = c->out_height = rank == 4 ? x.shape[1] : 1;
    c->width = c->out_width = rows / c->height;
    c->tiled = cpu_tiled_choice(p, c);
    CPU_TRY(need_factors(p, f->result->id, false, c, &x));
    CPU_TRY(cpu_need_rows(p, f->result->id, &x));
    CPU_TRY(cpu_result_dense(p, f->result, cpu_keeps_bf16(p, f->result), &y));
    p->values[f->result->id].view = y;
    if (x.rank > 4)
        CPU_TRY(cpu_merge_rows(p, f->result->id, &x, &y));
    CPU_TRY(cpu_grid_of(p, f->result->id, &x, &x, x.rank - 1, &c->x));
    CPU_TRY(cpu_grid_of(p, f->result->id, &y, &y, y.rank - 1, &c->y));
    p->flops += demist_product_flops(f->chain[0]);
    return DEMIST_OK;
}

/* Parameters are packed now, and when they change; other values at every execution. */
static demist_status plan_weights(demist_program *p, const struct cpu_fused *f,
                                  struct cpu_product *c, bool *pending)
{
    const struct cpu_kernels *k = p->device->kernels;
    const demist_node *node = f->chain[0];
    const demist_node *norm =
        f->n > 1 && f->chain[1]->op == DEMIST_OP_BATCH_NORM ? f->chain[1] : NULL;
    const bool has_bias = node->n_inputs > 2;
    c->dynamic = !cpu_is_fixed(node->inputs[1]) || (has_bias && !cpu_is_fixed(node->inputs[2]));
    if (c->dynamic) {
        CPU_TRY(cpu_value_of(p, node->inputs[1], &c->weight_view));
        const int32_t order[DEMIST_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
        if (!demist_view_is_dense(&c->weight_view))
            CPU_TRY(cpu_materialise(p, f->result->id, order, false, &c->weight_view));
        if (has_bias)
            CPU_TRY(cpu_value_of(p, node->inputs[2], &c->bias_view));
        if (has_bias && !demist_view_is_dense(&c->bias_view))
            CPU_TRY(cpu_materialise(p, f->result->id, order, false, &c->bias_view));
        const int64_t floats = c->packed_floats + bias_floats(k, c) + 1024;
        c->packed_view = (demist_view){.storage = cpu_new_storage(p, false, floats)};
        return c->packed_view.storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
    }
    CPU_TRY(cpu_data_of(p, node->inputs[1], &c->weight, pending));
    if (has_bias)
        CPU_TRY(cpu_data_of(p, node->inputs[2], &c->bias, pending));
    for (int32_t i = 0; norm && i < 4; i++)
        CPU_TRY(cpu_data_of(p, norm->inputs[i + 1], &c->norm[i], pending));
    if (norm)
        c->eps = norm->attrs.norm.eps;
    c->packed = cpu_new_floats(p, c->packed_floats);
    c->packed_bias = cpu_new_floats(p, bias_floats(k, c));
    return c->packed && c->packed_bias ? DEMIST_OK : DEMIST_NO_MEMORY;
}

static void touch_all(demist_program *p, const struct cpu_product *c)
{
    cpu_touch(p, &c->x.view);
    cpu_touch(p, &c->y.view);
    for (int32_t i = 0; i < c->n_posts; i++)
        if (c->posts[i].has_operand)
            cpu_touch(p, &c->posts[i].operand.view);
    if (c->dynamic) {
        cpu_touch(p, &c->weight_view);
        cpu_touch(p, &c->packed_view);
        if (c->bias_view.rank)
            cpu_touch(p, &c->bias_view);
    }
    if (c->winograd)
        cpu_touch(p, &c->tiles_view);
}

static void list_params(const struct cpu_fused *f, int32_t norm, struct cpu_step *step)
{
    for (int32_t i = 0; i <= norm; i++)
        for (int32_t k = 1; k < f->chain[i]->n_inputs; k++)
            if (f->chain[i]->inputs[k]->op == DEMIST_OP_PARAM)
                step->params[step->n_params++] = f->chain[i]->inputs[k]->param_index;
}

demist_status cpu_add_product(demist_program *p, const struct cpu_fused *f)
{
    const struct cpu_kernels *k = p->device->kernels;
    struct cpu_product *c = cpu_new(p, sizeof *c);
    if (!c)
        return DEMIST_NO_MEMORY;
    c->op = f->chain[0]->op;
    c->node = f->result->id;
    CPU_TRY(c->op == DEMIST_OP_LINEAR ? plan_linear(p, f, c) : plan_conv(p, f, c));
    if (c->op != DEMIST_OP_LINEAR)
        p->values[f->result->id].view = c->y.view;
    c->panels = cpu_ceil(c->filters, k->nr);
    c->steps = c->half ? cpu_ceil(c->channels, 2) : c->channels;
    if (c->winograd)
        c->packed_floats = cpu_winograd_floats(k, c);
    else
        CPU_TRY(plan_phases(p, c, &f->chain[0]->attrs));
    bool pending = false;
    CPU_TRY(plan_weights(p, f, c, &pending));
    const int32_t norm = c->norm[0] ? 1 : 0;
    const int32_t channel = c->op == DEMIST_OP_LINEAR ? c->y.view.rank - 1 : 1;
    CPU_TRY(cpu_posts_of(p, f, &c->y.view, channel, norm + 1, true, c->posts, &c->n_posts));
    if (c->winograd)
        CPU_TRY(cpu_winograd_plan(p, c));
    touch_all(p, c);
    struct cpu_step *step = cpu_add_step(p, f->result->id, run_product, c);
    if (!step)
        return DEMIST_NO_MEMORY;
    if (c->dynamic)
        return DEMIST_OK;
    step->prepare = prepare;
    list_params(f, norm, step);
    if (!pending)
        prepare(k, p->device->host, c);
    cpu_end_data(p);
    return DEMIST_OK;
}

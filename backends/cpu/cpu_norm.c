/* group_norm, batch_norm and layer_norm, with per-channel scale and shift and an activation.
 *
 * group_norm: a task takes whole groups of one image, in channels that fill whole vectors: the
 * statistics of each channel (two passes), combined within the groups, then one pass that writes
 * the result while the data are in the cache. */
#include "cpu_program.h"

#include <math.h>
#include <string.h>

enum { WIDE = 64 }; /* channels of a task at most, if groups are not larger */

struct norm {
    demist_op op;
    demist_view x, y;
    struct cpu_grid xg, yg; /* layer_norm */
    int64_t channels, pixels, groups, chunk, ldx, ldy;
    float eps;
    bool has[4]; /* gamma, beta, mean, variance */
    demist_view param[4];
    int32_t n_posts;
    struct cpu_post posts[CPU_MAX_POSTS];
    demist_op act; /* the last post, where it is applied with the normalisation; else 0 */
};

struct call {
    const struct cpu_run *run;
    const struct norm *norm;
    int64_t chunk, chunks, pixel_chunk, pixel_chunks;
};

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Stride between pixels: all axes behind the channels as one. */
static int64_t pixel_stride(const demist_view *v)
{
    for (int32_t i = v->rank - 1; i >= 2; i--)
        if (v->shape[i] != 1)
            return v->stride[i];
    return 0;
}

/* gamma·scale and beta of n channels from `first` on, into scale and shift. */
static void apply_params(const struct call *call, int64_t first, int64_t n, float *scale,
                         float *shift)
{
    const struct norm *m = call->norm;
    const struct cpu_kernels *k = call->run->kernels;
    if (m->has[0])
        k->binary(DEMIST_OP_MUL, n, scale, scale, cpu_at(call->run, &m->param[0]) + first);
    if (m->has[1])
        memcpy(shift, cpu_at(call->run, &m->param[1]) + first, (size_t)n * sizeof *shift);
    else
        memset(shift, 0, (size_t)n * sizeof *shift);
}

static void apply_operand(const struct call *call, const struct cpu_post *post, demist_op op,
                          int64_t image, int64_t first, int64_t n, float *to)
{
    const struct cpu_kernels *k = call->run->kernels;
    const struct cpu_grid *g = &post->operand;
    const float *operand = cpu_at(call->run, &g->view) + image * g->image + first * g->channel;
    if (g->channel)
        k->binary(op, n, to, to, operand);
    else
        k->scalar_right(op, n, to, to, *operand);
}

/* The posts as changes of scale and shift: (x - mean)·scale + shift is all there is. */
static void apply_posts(const struct call *call, int64_t image, int64_t first, int64_t n,
                        float *scale, float *shift)
{
    const struct cpu_kernels *k = call->run->kernels;
    const struct norm *m = call->norm;
    for (int32_t i = 0; i < m->n_posts; i++) {
        const struct cpu_post *post = &m->posts[i];
        switch ((int)post->op) {
        case DEMIST_OP_MUL:
            apply_operand(call, post, post->op, image, first, n, scale);
            apply_operand(call, post, post->op, image, first, n, shift);
            break;
        case DEMIST_OP_ADD:
            apply_operand(call, post, post->op, image, first, n, shift);
            break;
        case DEMIST_OP_SUB:
            if (post->reversed) {
                k->unary(DEMIST_OP_NEG, n, scale, scale, 0, 0);
                k->unary(DEMIST_OP_NEG, n, shift, shift, 0, 0);
                apply_operand(call, post, DEMIST_OP_ADD, image, first, n, shift);
            } else {
                apply_operand(call, post, post->op, image, first, n, shift);
            }
            break;
        case DEMIST_OP_AFFINE:
            k->scalar_right(DEMIST_OP_MUL, n, scale, scale, post->p0);
            k->unary(post->op, n, shift, shift, post->p0, post->p1);
            break;
        case DEMIST_OP_NEG:
            k->unary(post->op, n, scale, scale, 0, 0);
            k->unary(post->op, n, shift, shift, 0, 0);
            break;
        }
    }
}

/* Per-channel mean and scale of the chunk's groups from per-channel statistics. */
static void combine(const struct norm *m, int64_t n, float *mean, const float *m2, float *scale)
{
    const int64_t size = m->channels / m->groups;
    for (int64_t g = 0; g < n; g += size) {
        double sum = 0, squares = 0;
        for (int64_t c = g; c < g + size; c++)
            sum += mean[c];
        const double average = sum / (double)size;
        for (int64_t c = g; c < g + size; c++)
            squares += m2[c] + (mean[c] - average) * (mean[c] - average) * (double)m->pixels;
        const double variance = squares / ((double)size * (double)m->pixels);
        for (int64_t c = g; c < g + size; c++) {
            mean[c] = (float)average;
            scale[c] = (float)(1 / sqrt(variance + (double)m->eps));
        }
    }
}

static void group_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const struct norm *m = call->norm;
    const struct cpu_run *run = call->run;
    const int64_t image = task / call->chunks, first = task % call->chunks * call->chunk;
    const int64_t n = cpu_least(call->chunk, m->channels - first);
    float *mean = cpu_scratch(run, worker), *m2 = mean + call->chunk, *scale = m2 + call->chunk;
    float *shift = scale + call->chunk;
    const void *x = cpu_element(run, &m->x, image * m->x.stride[0] + first);
    void *y = cpu_element(run, &m->y, image * m->y.stride[0] + first);
    run->kernels->channel_stats(x, m->x.type == CPU_BF16, m->pixels, m->ldx, n, mean, m2);
    combine(m, n, mean, m2, scale);
    apply_params(call, first, n, scale, shift);
    apply_posts(call, image, first, n, scale, shift);
    run->kernels->normalise(m->act, x, m->x.type == CPU_BF16, m->ldx, y, m->y.type == CPU_BF16,
                            m->ldy, m->pixels, n, mean, scale, shift);
}

static demist_status run_group(struct cpu_run *run, const void *op)
{
    const struct norm *m = op;
    const int64_t images = cpu_images(run, &m->y), wanted = 2 * (int64_t)run->host->n_workers;
    struct call call = {.run = run, .norm = m, .chunk = m->chunk};
    /* some chunks as one where enough tasks remain: their cache lines lie side by side */
    while (2 * call.chunk <= WIDE && images * cpu_ceil(m->channels, 2 * call.chunk) >= wanted)
        call.chunk *= 2;
    call.chunks = cpu_ceil(m->channels, call.chunk);
    cpu_parallel(run, images * call.chunks, group_task, &call,
                 (double)images * (double)m->channels * (double)m->pixels * 2);
    return DEMIST_OK;
}

static void batch_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const struct norm *m = call->norm;
    const struct cpu_run *run = call->run;
    const int64_t image = task / call->pixel_chunks;
    const int64_t first = task % call->pixel_chunks * call->pixel_chunk;
    const int64_t pixels = cpu_least(call->pixel_chunk, m->pixels - first);
    float *scale = cpu_scratch(run, worker), *shift = scale + m->channels;
    const float *variance = cpu_at(run, &m->param[3]);
    for (int64_t c = 0; c < m->channels; c++)
        scale[c] = (float)(1 / sqrt((double)variance[c] + (double)m->eps));
    apply_params(call, 0, m->channels, scale, shift);
    apply_posts(call, image, 0, m->channels, scale, shift);
    run->kernels->normalise(
        m->act, cpu_element(run, &m->x, image * m->x.stride[0] + first * m->ldx),
        m->x.type == CPU_BF16, m->ldx,
        cpu_element(run, &m->y, image * m->y.stride[0] + first * m->ldy), m->y.type == CPU_BF16,
        m->ldy, pixels, m->channels, cpu_at(run, &m->param[2]), scale, shift);
}

static demist_status run_batch(struct cpu_run *run, const void *op)
{
    const struct norm *m = op;
    struct call call = {.run = run, .norm = m};
    const int64_t images = cpu_images(run, &m->y);
    call.pixel_chunk = cpu_ceil(m->pixels, cpu_ceil(4 * run->host->n_workers, images));
    call.pixel_chunks = cpu_ceil(m->pixels, call.pixel_chunk);
    cpu_parallel(run, images * call.pixel_chunks, batch_task, &call,
                 (double)images * (double)m->channels * (double)m->pixels);
    return DEMIST_OK;
}

/* One row: an image's (y, x) position. */
static void layer_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const struct norm *m = call->norm;
    const struct cpu_run *run = call->run;
    float *room = cpu_scratch(run, worker), *result = room + m->channels;
    const int64_t per_image = m->groups * m->pixels; /* rows·columns */
    const int64_t last =
        cpu_least((task + 1) * call->pixel_chunk, cpu_images(run, &m->yg.view) * per_image);
    for (int64_t row = task * call->pixel_chunk; row < last; row++) {
        const int64_t image = row / per_image, i = row / m->pixels % m->groups, j = row % m->pixels;
        const void *x =
            cpu_element(run, &m->xg.view, image * m->xg.image + i * m->xg.row + j * m->xg.column);
        void *y =
            cpu_element(run, &m->yg.view, image * m->yg.image + i * m->yg.row + j * m->yg.column);
        if (m->x.type == CPU_BF16)
            run->kernels->widen(m->channels, x, room);
        struct cpu_tile tile = {
            .data = m->y.type == CPU_BF16 ? result : y,
            .n = m->channels,
            .ld = m->channels,
            .rows = 1,
            .image = {image},
            .y = {i},
            .x = {j},
        };
        run->kernels->layer_norm(m->channels, m->x.type == CPU_BF16 ? room : x, tile.data,
                                 m->has[0] ? cpu_at(run, &m->param[0]) : NULL,
                                 m->has[1] ? cpu_at(run, &m->param[1]) : NULL, m->eps);
        cpu_run_posts(run, m->posts, m->n_posts, &tile);
        if (m->y.type == CPU_BF16)
            run->kernels->narrow(m->channels, result, y);
    }
}

static demist_status run_layer(struct cpu_run *run, const void *op)
{
    const struct norm *m = op;
    struct call call = {.run = run, .norm = m};
    const int64_t rows = cpu_images(run, &m->yg.view) * m->groups * m->pixels;
    call.pixel_chunk = cpu_ceil(rows, 8 * (int64_t)run->host->n_workers);
    cpu_parallel(run, cpu_ceil(rows, call.pixel_chunk), layer_task, &call,
                 (double)rows * (double)m->channels);
    return DEMIST_OK;
}

/* --- building --- */

/* A run-time tensor with its elements side by side. */
static demist_status param_of(demist_program *p, const struct cpu_fused *f, int32_t i,
                              struct norm *m)
{
    const demist_node *node = f->chain[0];
    m->has[i - 1] = i < node->n_inputs;
    if (!m->has[i - 1])
        return DEMIST_OK;
    CPU_TRY(cpu_value_of(p, node->inputs[i], &m->param[i - 1]));
    return cpu_need_rows(p, f->result->id, &m->param[i - 1]);
}

static demist_status plan_channels(demist_program *p, const struct cpu_fused *f, struct norm *m)
{
    const demist_node *node = f->chain[0];
    CPU_TRY(cpu_value_as_stored(p, node->inputs[0], &m->x));
    CPU_TRY(cpu_need_pixels(p, f->result->id, &m->x));
    CPU_TRY(cpu_result_pixels(p, f->result, cpu_keeps_bf16(p, f->result), &m->y));
    p->values[f->result->id].view = m->y;
    m->channels = node->shape[1];
    m->pixels = 1;
    for (int32_t i = 2; i < node->rank; i++)
        m->pixels *= node->shape[i];
    m->ldx = pixel_stride(&m->x);
    m->ldy = pixel_stride(&m->y);
    const bool group = m->op == DEMIST_OP_GROUP_NORM;
    m->groups = group ? node->attrs.norm.groups : m->channels;
    const int64_t size = m->channels / m->groups;
    m->chunk = group ? size / gcd(size, CPU_CHANNELS) * CPU_CHANNELS : m->channels;
    cpu_need_scratch(p, 4 * (m->chunk > WIDE ? m->chunk : WIDE) + 64);
    return DEMIST_OK;
}

static demist_status plan_rows(demist_program *p, const struct cpu_fused *f, struct norm *m)
{
    CPU_TRY(cpu_value_as_stored(p, f->chain[0]->inputs[0], &m->x));
    CPU_TRY(cpu_need_rows(p, f->result->id, &m->x));
    CPU_TRY(cpu_result_dense(p, f->result, cpu_keeps_bf16(p, f->result), &m->y));
    p->values[f->result->id].view = m->y;
    if (m->x.rank > 4)
        CPU_TRY(cpu_merge_rows(p, f->result->id, &m->x, &m->y));
    const int32_t last = m->x.rank - 1;
    CPU_TRY(cpu_grid_of(p, f->result->id, &m->x, &m->x, last, &m->xg));
    CPU_TRY(cpu_grid_of(p, f->result->id, &m->y, &m->y, last, &m->yg));
    m->channels = m->x.shape[last];
    m->groups = last > 2 ? m->x.shape[last - 2] : 1;
    m->pixels = last > 1 ? m->x.shape[last - 1] : 1;
    cpu_need_scratch(p, 2 * m->channels);
    return DEMIST_OK;
}

demist_status cpu_add_norm(demist_program *p, const struct cpu_fused *f)
{
    struct norm *m = cpu_new(p, sizeof *m);
    if (!m)
        return DEMIST_NO_MEMORY;
    m->op = f->chain[0]->op;
    m->eps = f->chain[0]->attrs.norm.eps;
    const bool rows = m->op == DEMIST_OP_LAYER_NORM;
    for (int32_t i = 1; i <= 4; i++)
        CPU_TRY(param_of(p, f, i, m));
    CPU_TRY(rows ? plan_rows(p, f, m) : plan_channels(p, f, m));
    CPU_TRY(cpu_posts_of(p, f, &m->y, rows ? m->y.rank - 1 : 1, 1, rows, m->posts, &m->n_posts));
    if (!rows && m->n_posts > 0 && cpu_is_activation(m->posts[m->n_posts - 1].op))
        m->act = m->posts[--m->n_posts].op;
    cpu_touch(p, &m->x);
    cpu_touch(p, &m->y);
    for (int32_t i = 0; i < 4; i++)
        if (m->has[i])
            cpu_touch(p, &m->param[i]);
    for (int32_t i = 0; i < m->n_posts; i++)
        if (m->posts[i].has_operand)
            cpu_touch(p, &m->posts[i].operand.view);
    return cpu_add_step(p, f->result->id,
                        rows                            ? run_layer
                        : m->op == DEMIST_OP_GROUP_NORM ? run_group
                                                        : run_batch,
                        m)
               ? DEMIST_OK
               : DEMIST_NO_MEMORY;
}

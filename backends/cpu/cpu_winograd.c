/* 3x3 convolutions by Winograd's F(4x4, 3x3) and F(2x2, 3x3).
 *
 * Two parallel loops: the first transforms input tiles into V [position][tile][channel]; each task
 * of the second multiplies some tiles by one panel of output channels at all (m+2)² positions, and
 * transforms back while the products are in the second-level cache. Positions are `plane` floats
 * apart, not a power of two, so that they do not fall into the same cache sets. */
#include "cpu_product.h"

#include <string.h>

enum { TILES = 56, TARGET = 1048576 }; /* tiles of a task; floats of V at once */

/* By (level, shape); all levels have the same preferences so far.
 *
 * - From 12 pixels a side on F(4x4): a quarter of the multiplications.
 * - Large pictures of few channels F(2x2): F(4x4) is faster still, but its rounding would be most
 * of the network's, as few channels average little of it out.
 * - Small pictures F(2x2): weights come from memory, and F(4x4)'s are more than twice as many.
 * - Below 6 pixels the weights' size is all that counts: direct. */
int cpu_winograd_choice(const struct cpu_kernels *k, int64_t channels, int64_t filters,
                        int64_t height, int64_t width)
{
    (void)k;
    if (channels < 16 || filters < 16 || height < 6 || width < 6)
        return 0;
    if (height < 12 || width < 12)
        return 2;
    return filters < 48 && height * width >= 24 * 24 ? 2 : 4;
}

/* In precision bf16, by (level, shape).
 *
 * With instructions for bf16, F(2x2) in bf16 products from 6 pixels a side on; F(4x4)'s transforms
 * would multiply the rounding of its operands by seven. Below, direct.
 *
 * Without them weights of bf16 pay by their size alone, as each product has to widen them: with
 * AVX-512 in F(2x2) on pictures of 6 to 11 pixels and direct below, with narrower vectors in F(2x2)
 * on 4 and 5 pixels. Larger pictures have float weights in F(4x4) or F(2x2). */
int cpu_winograd_choice_bf16(const struct cpu_kernels *k, int64_t channels, int64_t filters,
                             int64_t height, int64_t width, bool *half)
{
    const int m = cpu_winograd_choice(k, channels, filters, height, width);
    const int64_t side = cpu_least(height, width);
    const bool wide = channels >= 16 && filters >= 16, small = side < 12;
    *half = true;
    if (channels % 2 != 0 || !wide)
        return 0;
    if (k->bf16)
        return side < 6 ? 0 : 2;
    if (k->vw < 16 && (side == 4 || side == 5))
        return 2;
    *half = m == 0 || (k->vw == 16 && small);
    return m;
}

static int positions(const struct cpu_product *c)
{
    return (c->winograd + 2) * (c->winograd + 2);
}

int64_t cpu_winograd_floats(const struct cpu_kernels *k, const struct cpu_product *c)
{
    return positions(c) * cpu_packed_floats(k, c->steps, c->filters);
}

/* --- weights: U = G·g·Gᵀ in float64, rounded once --- */

static const double g4[6][3] = {
    /* row of point p: (1, p, p²)/Π(p - q) over the other points; last the point at infinity.
     * Points 0, ±5/8, ±3/2. */
    {1.0 / 0.87890625, 0, 0},
    {-1.0 / 1.45263671875, -0.625 / 1.45263671875, -0.390625 / 1.45263671875},
    {-1.0 / 1.45263671875, 0.625 / 1.45263671875, -0.390625 / 1.45263671875},
    {1.0 / 8.3671875, 1.5 / 8.3671875, 2.25 / 8.3671875},
    {1.0 / 8.3671875, -1.5 / 8.3671875, 2.25 / 8.3671875},
    {0, 0, 1},
};
static const double g2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

struct packing {
    const struct cpu_kernels *kernels;
    const struct cpu_product *product;
    const float *weight;
    const double *scale;
    float *packed;
};

static void transform_weights(int m, const float *w, double scale, double *u)
{
    const double(*g)[3] = m == 4 ? g4 : g2;
    const int size = m + 2;
    double half[6][3];
    for (int r = 0; r < size; r++)
        for (int c = 0; c < 3; c++)
            half[r][c] = g[r][0] * w[c] + g[r][1] * w[3 + c] + g[r][2] * w[6 + c];
    for (int r = 0; r < size; r++)
        for (int c = 0; c < size; c++)
            u[r * size + c] =
                scale * (half[r][0] * g[c][0] + half[r][1] * g[c][1] + half[r][2] * g[c][2]);
}

/* One panel: [panel][position][channel][panel width], so that a task streams through one piece of
 * memory. */
static void pack_task(void *arg, int64_t panel, int worker)
{
    (void)worker;
    const struct packing *pk = arg;
    const struct cpu_product *c = pk->product;
    const struct cpu_kernels *k = pk->kernels;
    const int64_t first = panel * k->nr;
    const int64_t width = cpu_panel_vecs(k, first, c->filters) * k->vw, all = c->steps * width;
    float *to = pk->packed + positions(c) * cpu_panel_at(k, c->steps, panel);
    for (int64_t step = 0; step < c->steps; step++, to += width)
        for (int64_t j = 0; j < width; j++) {
            double u[2][36] = {{0}};
            const int64_t o = first + j;
            const float *w = pk->weight + (o * c->channels + (c->half ? 2 * step : step)) * 9;
            for (int i = 0; i <= (c->half ? 1 : 0) && o < c->filters; i++)
                transform_weights(c->winograd, w + i * 9, pk->scale[o], u[i]);
            for (int i = 0; i < positions(c); i++)
                to[i * all + j] =
                    c->half ? cpu_pair((float)u[0][i], (float)u[1][i]) : (float)u[0][i];
        }
}

void cpu_winograd_pack(const struct cpu_kernels *k, const demist_host *host,
                       const struct cpu_product *c, const float *weight, const double *scale,
                       float *packed)
{
    struct packing pk = {k, c, weight, scale, packed};
    host->parallel(host, c->panels, pack_task, &pk);
}

/* --- plan --- */

demist_status cpu_winograd_plan(demist_program *p, struct cpu_product *c)
{
    const struct cpu_kernels *k = p->device->kernels;
    c->pairs = c->half && k->bf16;
    c->row = c->pairs ? c->channels / 2 : c->channels;
    c->tiles_y = cpu_ceil(c->out_height, c->winograd);
    c->tiles_x = cpu_ceil(c->out_width, c->winograd);
    const int64_t tiles = c->tiles_y * c->tiles_x;
    const int64_t images = c->y.view.batched ? p->max_batch : c->y.view.shape[0];
    c->images_at_once = TARGET / (positions(c) * tiles * c->row);
    c->images_at_once = c->images_at_once < 1 ? 1 : cpu_least(c->images_at_once, images);
    c->plane = cpu_round_up(c->images_at_once * tiles * c->row, 16) + 16;
    c->tiles_view = (demist_view){.storage = cpu_new_storage(p, false, positions(c) * c->plane)};
    cpu_need_scratch(p, (int64_t)positions(c) * (TILES * k->nr + 16) + 16 * k->nr);
    return c->tiles_view.storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

/* --- run --- */

struct winograd {
    const struct cpu_run *run;
    const struct cpu_product *c;
    int64_t image, tiles; /* first image and tiles of this round */
    int64_t in_chunk, chunk, chunks;
    const float *packed, *bias;
    float *v;
};

/* Where tile t starts in the picture that is read, in elements, but for the padding. */
static int64_t start_of(const struct winograd *w, int64_t t)
{
    const struct cpu_product *c = w->c;
    const int64_t tx = t % c->tiles_x, ty = t / c->tiles_x % c->tiles_y;
    return t / c->tiles_x / c->tiles_y * c->x.image + (ty * c->winograd >> c->up) * c->x.row +
           (tx * c->winograd >> c->up) * c->x.column;
}

static void input_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct winograd *w = arg;
    const struct cpu_product *c = w->c;
    const int64_t last = cpu_least((task + 1) * w->in_chunk, w->tiles);
    for (int64_t t = task * w->in_chunk; t < last; t++) {
        const int64_t tx = t % c->tiles_x, ty = t / c->tiles_x % c->tiles_y;
        const int64_t image = w->image + t / c->tiles_x / c->tiles_y;
        w->run->kernels->winograd_input(
            c->winograd, cpu_element(w->run, &c->x.view, image * c->x.image),
            c->x.view.type == CPU_BF16, c->x.row, c->x.column, (int)c->height, (int)c->width,
            (int)(ty * c->winograd - c->pad_y), (int)(tx * c->winograd - c->pad_x), c->up,
            c->channels, start_of(w, t + 1) - start_of(w, t), w->v + t * c->row, c->pairs,
            c->pairs ? 2 * c->plane : c->plane);
    }
}

/* The m·m pixels of tile t, cut at the picture's edge, from [m·m][ld]. */
static void finish_tile(const struct winograd *w, int64_t t, int64_t column, int64_t n, float *data,
                        int64_t ld)
{
    const struct cpu_product *c = w->c;
    const int m = c->winograd;
    const int64_t x0 = t % c->tiles_x * m, y0 = t / c->tiles_x % c->tiles_y * m;
    struct cpu_tile tile = {.data = data, .ld = ld, .channel = column, .n = n};
    const int64_t rows = cpu_least(m, c->out_height - y0),
                  columns = cpu_least(m, c->out_width - x0);
    if (columns < m)
        for (int64_t i = 0; i < rows; i++) /* close the gaps */
            memmove(data + i * columns * ld, data + i * m * ld,
                    (size_t)(columns * ld) * sizeof *data);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++, tile.rows++) {
            tile.image[tile.rows] = w->image + t / c->tiles_x / c->tiles_y;
            tile.y[tile.rows] = y0 + i;
            tile.x[tile.rows] = x0 + j;
        }
    cpu_finish_tile(w->run, c->posts, c->n_posts, &c->y, &tile);
}

/* Tile t's place in the picture, from channel `column` on. */
static float *place_of(const struct winograd *w, const struct cpu_grid *g, int64_t t,
                       int64_t column)
{
    const struct cpu_product *c = w->c;
    const int64_t image = w->image + t / c->tiles_x / c->tiles_y;
    const int64_t y = t / c->tiles_x % c->tiles_y * c->winograd, x = t % c->tiles_x * c->winograd;
    return cpu_at(w->run, &g->view) + image * g->image + y * g->row + x * g->column + column;
}

/* What is added to the result, if results can go straight to their place: whole tiles of floats,
 * nothing follows, or a value of floats is added. */
static bool goes_straight(const struct cpu_product *c, const struct cpu_grid **add)
{
    const struct cpu_post *post = c->n_posts > 0 ? &c->posts[0] : NULL;
    *add = post ? &post->operand : NULL;
    return c->out_height % c->winograd == 0 && c->out_width % c->winograd == 0 &&
           c->y.view.type != CPU_BF16 && c->n_posts <= 1 &&
           (!post || (post->op == DEMIST_OP_ADD && post->operand.channel == 1 &&
                      post->operand.view.type != CPU_BF16));
}

/* From the products at all positions, `position` apart, to the result. */
static void output_tiles(const struct winograd *w, int64_t first, int64_t count, int64_t column,
                         const float *products, int64_t position, float *room)
{
    const struct cpu_product *c = w->c;
    const struct cpu_kernels *k = w->run->kernels;
    const int64_t n = cpu_least(k->nr, c->filters - column);
    const int vecs = cpu_panel_vecs(k, column, c->filters);
    const int64_t width = vecs * k->vw;
    const struct cpu_patch tile = {room, room, c->winograd * width, width};
    const struct cpu_grid *add;
    const bool straight = goes_straight(c, &add) && n == width;
    struct cpu_patch to = {.row = c->y.row, .column = c->y.column}, from = {.at = NULL};
    if (straight && add)
        from = (struct cpu_patch){
            .next = place_of(w, add, first, column), .row = add->row, .column = add->column};
    for (int64_t t = 0; t < count; t++) {
        const float *p = products + t * width;
        if (!straight) {
            k->winograd_output(c->winograd, p, position, vecs, w->bias + column, NULL, &tile);
            finish_tile(w, first + t, column, n, room, width);
            continue;
        }
        to.at = place_of(w, &c->y, first + t, column);
        if (add) {
            from.at = from.next;
            from.next = place_of(w, add, first + cpu_least(t + 1, count - 1), column);
        }
        k->winograd_output(c->winograd, p, position, vecs, w->bias + column, add ? &from : NULL,
                           &to);
    }
}

static void output_task(void *arg, int64_t task, int worker)
{
    const struct winograd *w = arg;
    const struct cpu_product *c = w->c;
    const struct cpu_kernels *k = w->run->kernels;
    const int64_t first = task % w->chunks * w->chunk;
    const int64_t count = cpu_least(w->chunk, w->tiles - first);
    const int64_t panel = task / w->chunks, column = panel * k->nr;
    const int vecs = cpu_panel_vecs(k, column, c->filters);
    const int64_t width = vecs * k->vw, position = TILES * k->nr + 16;
    const float *b = w->packed + positions(c) * cpu_panel_at(k, c->steps, panel);
    float *products = cpu_scratch(w->run, worker);

    for (int i = 0; i < positions(c); i++, b += c->steps * width) {
        const float *v = w->v + i * c->plane + first * c->row;
        const int64_t blocks = cpu_ceil(count, k->mr);
        for (int64_t j = 0, at = 0; j < blocks; j++) {
            const int rows = (int)cpu_ceil(count - at, blocks - j);
            const float *a[CPU_MAX_MR];
            for (int r = 0; r < rows; r++)
                a[r] = v + (at + r) * c->row;
            /* Meanwhile a part of the next position's panel, and the next rows; not those where
             * weights come from memory, which leaves no room for other fetches. */
            const int64_t step = cpu_ceil(width, blocks);
            const struct cpu_ahead ahead = {j + 1 < blocks ? a[rows - 1] + c->row : v + c->plane,
                                            b + (width + j * step) * c->steps, blocks > 2 ? 16 : 0,
                                            step};
            float *to = products + i * position + at * width;
            if (c->half)
                k->gemm16(rows, vecs, (const void *const *)a, 1, c->channels, b, NULL, to, width,
                          &ahead);
            else
                k->gemm(rows, vecs, a, 1, c->channels, b, NULL, to, width, &ahead);
            at += rows;
        }
    }
    output_tiles(w, first, count, column, products, position, products + positions(c) * position);
}

void cpu_winograd_run(const struct cpu_run *run, const struct cpu_product *c, const float *packed,
                      const float *bias)
{
    struct winograd w = {.run = run, .c = c, .packed = packed, .bias = bias};
    const int64_t images = cpu_images(run, &c->y.view), workers = run->host->n_workers;
    w.v = cpu_at(run, &c->tiles_view);
    for (w.image = 0; w.image < images; w.image += c->images_at_once) {
        w.tiles = cpu_least(c->images_at_once, images - w.image) * c->tiles_y * c->tiles_x;
        const double work = (double)w.tiles * positions(c) * (double)c->channels;
        w.in_chunk = cpu_ceil(w.tiles, 8 * workers);
        cpu_parallel(run, cpu_ceil(w.tiles, w.in_chunk), input_task, &w, work / 2);
        const int64_t per_panel = cpu_ceil(3 * workers, c->panels);
        w.chunk = cpu_least(TILES, cpu_round_up(cpu_ceil(w.tiles, per_panel), run->kernels->mr));
        w.chunks = cpu_ceil(w.tiles, w.chunk);
        w.chunk = cpu_ceil(w.tiles, w.chunks);
        cpu_parallel(run, w.chunks * c->panels, output_task, &w, work * (double)c->filters / 16);
    }
}

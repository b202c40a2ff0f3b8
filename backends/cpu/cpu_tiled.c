/* Convolutions and linear layers as products of tiles (cpu_tiles.h).
 *
 * A task gathers the pixels under all taps of some output pixels, in blocks of 32, and multiplies
 * them by a chunk of panels: a tile's rows must lie evenly spaced, which the pixels under a tap do
 * not at a picture's edge or with a stride. Gathering costs a copy of each row per task, against
 * 2 x 32 multiply-adds for each panel. */
#include "cpu_product.h"
#include "cpu_tiles.h"

enum { BLOCKS = 4, BLOCK_FLOATS = 1 << 18 }; /* blocks of a task; their size at most */

/* By shape, for want of a machine to measure on: everything that fills tiles. One row of few
 * columns is bound by its weights' way from memory, which are smaller elsewhere. */
bool cpu_tiled_choice(const demist_program *p, const struct cpu_product *c)
{
    const int64_t depth = c->kernel_h * c->kernel_w * c->channels;
    return p->device->kernels->tiles && p->precision != DEMIST_PRECISION_STRICT &&
           c->out_height * c->out_width >= 16 && c->filters >= CPU_TILE_SIDE && depth >= 64;
}

static int64_t steps_of(const struct cpu_product *c, const struct cpu_phase *phase)
{
    return cpu_ceil(phase->n_taps * c->channels, CPU_TILE_DEPTH);
}

/* Floats of a panel's hi or lo numbers, and of a group's panels. */
static int64_t part_floats(const struct cpu_product *c, const struct cpu_phase *phase)
{
    return steps_of(c, phase) * (CPU_TILE_STEP / 2);
}

int64_t cpu_tiled_floats(const struct cpu_product *c, const struct cpu_phase *phase)
{
    return cpu_ceil(c->filters, CPU_TILE_SIDE) * part_floats(c, phase) * (c->half ? 1 : 2);
}

/* Blocks that a task gathers. */
static int64_t blocks_of(const struct cpu_product *c, const struct cpu_phase *phase)
{
    const int64_t block = steps_of(c, phase) * CPU_TILE_DEPTH * CPU_TILE_SIDE / (c->half ? 2 : 1);
    const int64_t n = BLOCK_FLOATS / (block > 0 ? block : 1);
    return n < 1 ? 1 : cpu_least(n, BLOCKS);
}

/* Scratch: the blocks (hi, and lo behind all of hi), a row of zeros, a row being split, and the
 * product. */
void cpu_tiled_plan(demist_program *p, const struct cpu_product *c)
{
    int64_t most = 0;
    for (int32_t i = 0; i < c->n_phases; i++) {
        const struct cpu_phase *phase = &c->phases[i];
        const int64_t block =
            steps_of(c, phase) * CPU_TILE_DEPTH * CPU_TILE_SIDE / (c->half ? 2 : 1);
        const int64_t floats = block * blocks_of(c, phase);
        most = floats > most ? floats : most;
    }
    cpu_need_scratch(p, most + 2 * cpu_round_up(c->channels, 16) + CPU_TILE_SIDE * CPU_TILE_SIDE +
                            CPU_TILE_SIDE);
}

void cpu_tiled_pack(const struct cpu_product *c, const struct cpu_phase *phase, int64_t group,
                    int64_t panel, const float *weight, const double *scale, float *packed)
{
    const int64_t part = 2 * part_floats(c, phase); /* in bf16 numbers */
    uint16_t *to = (uint16_t *)(void *)packed + panel * part * (c->half ? 1 : 2);
    for (int64_t k = 0; k < steps_of(c, phase) * CPU_TILE_DEPTH; k++)
        for (int64_t j = 0; j < CPU_TILE_SIDE; j++) {
            const int64_t tap = k / c->channels;
            const float w =
                tap < phase->n_taps
                    ? cpu_scaled_weight(c, weight, scale, group, panel * CPU_TILE_SIDE + j,
                                        k % c->channels, phase->tap[tap])
                    : 0;
            const int64_t at = k / CPU_TILE_DEPTH * CPU_TILE_STEP + j / 16 * (CPU_TILE_STEP / 2) +
                               k % CPU_TILE_DEPTH / 2 * 32 + j % 16 * 2 + k % 2;
            to[at] = (uint16_t)cpu_to_bf16(w);
            if (!c->half)
                to[part + at] = (uint16_t)cpu_to_bf16(w - cpu_from_bf16(to[at]));
        }
}

/* --- run --- */

struct call {
    const struct cpu_run *run;
    const struct cpu_product *c;
    const struct cpu_phase *phase;
    int64_t group, pixels, chunk, row_chunks, panels, panel_chunk;
    const float *packed, *bias;
};

/* Where a row of a block is: pixel of the phase. */
struct place {
    int64_t image, i, j;
};

static struct place place_of(const struct call *call, int64_t pixel)
{
    const struct cpu_phase *phase = call->phase;
    const int64_t per_image = phase->rows * phase->columns;
    return (struct place){pixel / per_image, pixel % per_image / phase->columns,
                          pixel % phase->columns};
}

/* The channels of the pixel under a tap, zeros outside. */
static const void *source_of(const struct call *call, struct place at, int32_t tap,
                             const float *zeros)
{
    const struct cpu_product *c = call->c;
    const int64_t y = at.i * c->in_step_y + call->phase->dy[tap];
    const int64_t x = at.j * c->in_step_x + call->phase->dx[tap];
    if (y < 0 || y >= c->height || x < 0 || x >= c->width)
        return zeros;
    return cpu_element(call->run, &c->x.view,
                       call->group * c->channels * c->x.channel + at.image * c->x.image +
                           (y >> c->up) * c->x.row + (x >> c->up) * c->x.column);
}

/* A row of a block: a pixel under all taps as bf16 numbers, then zeros up to lda. zeros, room:
 * [channels]; room and lo are for a split x, of floats. */
static void gather_row(const struct call *call, int64_t pixel, int64_t lda, const float *zeros,
                       float *room, uint16_t *hi, uint16_t *lo)
{
    const struct cpu_product *c = call->c;
    const struct cpu_kernels *k = call->run->kernels;
    const struct place at = place_of(call, pixel);
    const size_t rest = (size_t)(lda - call->phase->n_taps * c->channels) * sizeof *hi;
    for (int32_t t = 0; t < call->phase->n_taps; t++, hi += c->channels) {
        const void *from = source_of(call, at, t, zeros);
        if (c->half) {
            memcpy(hi, from, (size_t)c->channels * sizeof *hi);
            continue;
        }
        k->narrow(c->channels, from, hi);
        k->widen(c->channels, hi, room);
        k->binary(DEMIST_OP_SUB, c->channels, room, from, room);
        k->narrow(c->channels, room, lo);
        lo += c->channels;
    }
    memset(hi, 0, rest);
    if (!c->half)
        memset(lo, 0, rest);
}

static void finish(const struct call *call, int64_t first, int64_t rows, int64_t column, int64_t n,
                   float *data)
{
    const struct cpu_product *c = call->c;
    for (int64_t r0 = 0; r0 < rows; r0 += CPU_MAX_TILE) {
        struct cpu_tile tile = {.data = data + r0 * CPU_TILE_SIDE,
                                .ld = CPU_TILE_SIDE,
                                .channel = call->group * c->filters + column,
                                .n = n,
                                .rows = (int)cpu_least(CPU_MAX_TILE, rows - r0)};
        for (int r = 0; r < tile.rows; r++) {
            const struct place at = place_of(call, first + r0 + r);
            tile.image[r] = at.image;
            tile.y[r] = call->phase->first_y + at.i * c->step_y;
            tile.x[r] = call->phase->first_x + at.j * c->step_x;
        }
        cpu_finish_tile(call->run, c->posts, c->n_posts, &c->y, &tile);
    }
}

static void task(void *arg, int64_t number, int worker)
{
    const struct call *call = arg;
    const struct cpu_product *c = call->c;
    const struct cpu_tiles *tiles = call->run->kernels->tiles;
    const int64_t steps = steps_of(c, call->phase), lda = steps * CPU_TILE_DEPTH;
    const int64_t block = CPU_TILE_SIDE * lda; /* in bf16 numbers */
    const int64_t first = number % call->row_chunks * call->chunk;
    const int64_t last = cpu_least(first + call->chunk, call->pixels);
    const int64_t panel0 = number / call->row_chunks * call->panel_chunk;
    const int64_t panel1 = cpu_least(panel0 + call->panel_chunk, call->panels);
    const int64_t blocks = cpu_ceil(last - first, CPU_TILE_SIDE);
    const int64_t part = part_floats(c, call->phase);
    float *product = cpu_scratch(call->run, worker);
    float *init = product + CPU_TILE_SIDE * CPU_TILE_SIDE;
    float *zeros = init + CPU_TILE_SIDE, *room = zeros + cpu_round_up(c->channels, 16);
    uint16_t *hi = (uint16_t *)(void *)(room + cpu_round_up(c->channels, 16));
    uint16_t *lo = hi + blocks * block; /* of a split x */

    memset(zeros, 0, (size_t)c->channels * sizeof *zeros);
    for (int64_t row = 0; row < blocks * CPU_TILE_SIDE; row++) /* behind the last one any will do */
        gather_row(call, cpu_least(first + row, last - 1), lda, zeros, room, hi + row * lda,
                   lo + row * lda);
    tiles->begin();
    for (int64_t panel = panel0; panel < panel1; panel++) {
        const int64_t column = panel * CPU_TILE_SIDE;
        const int64_t n = cpu_least(CPU_TILE_SIDE, c->filters - column);
        const float *weights = call->packed + panel * part * (c->half ? 1 : 2);
        const uint16_t *const b[2] = {(const uint16_t *)(const void *)weights,
                                      (const uint16_t *)(const void *)(weights + part)};
        memset(init, 0, CPU_TILE_SIDE * sizeof *init);
        memcpy(init, call->bias + column, (size_t)n * sizeof *init);
        for (int64_t i = 0; i < blocks; i++) {
            const uint16_t *const a[2] = {hi + i * block, lo + i * block};
            const int64_t at = first + i * CPU_TILE_SIDE;
            tiles->product(!c->half, a, lda, steps, b, init, product);
            finish(call, at, cpu_least(CPU_TILE_SIDE, last - at), column, n, product);
        }
    }
    tiles->end();
}

/* How the work is cut changes no bit: a row's sums are the same in any block. */
void cpu_tiled_run(const struct cpu_run *run, const struct cpu_product *c,
                   const struct cpu_phase *phase, int64_t group, const float *packed,
                   const float *bias)
{
    struct call call = {.run = run, .c = c, .phase = phase, .group = group};
    call.packed = packed + phase->packed + group * cpu_tiled_floats(c, phase);
    call.bias = bias + group * c->panels * run->kernels->nr;
    call.pixels = cpu_images(run, &c->y.view) * phase->rows * phase->columns;
    if (call.pixels == 0)
        return;
    const int64_t wanted = 4 * (int64_t)run->host->n_workers;
    const int64_t rows = cpu_round_up(cpu_ceil(call.pixels, wanted), CPU_TILE_SIDE);
    call.chunk = cpu_least(rows, blocks_of(c, phase) * CPU_TILE_SIDE);
    call.row_chunks = cpu_ceil(call.pixels, call.chunk);
    call.panels = cpu_ceil(c->filters, CPU_TILE_SIDE);
    call.panel_chunk =
        cpu_ceil(call.panels, cpu_least(call.panels, cpu_ceil(wanted, call.row_chunks)));
    cpu_parallel(run, call.row_chunks * cpu_ceil(call.panels, call.panel_chunk), task, &call,
                 (double)call.pixels * (double)(phase->n_taps * c->channels) * (double)c->filters /
                     64);
}

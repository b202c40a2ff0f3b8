/* Convolutions and linear layers, each with what follows it, as calls of the product kernel.
 * Weights are packed in panels of columns, once if they are parameters. A transposed convolution is
 * one convolution for each phase of its stride. */
#include "ocl_product.h"

#include <demist/convolution.h>

#include <string.h>

enum { SOURCE = 24576, MAX_TAPS = 1024 };

/* --- what follows a product --- */

static void print_finish(struct ocl_text *s, const demist_program *p,
                         const struct ocl_expression *after, const demist_view *operands, char kind)
{
    ocl_print(s, "#define FINISH_%c(x, n, i, j, o) value_%c(x", kind, kind);
    for (int k = 0; k < after->n_operands; k++) {
        const bool columns = operands[k].stride[3] != 0;
        const char *load = kind == 's' ? "(GET" : columns ? "(GETV" : "(VT)(GET";
        ocl_print(s, ", %s(%s, v%d + v%d_at + (long)(n) * v%d_n + (i) * v%d_y + (j) * v%d_x%s))",
                  load, ocl_type_name(ocl_type_of(p, &operands[k])), k, k, k, k, k,
                  columns ? " + (o)" : "");
    }
    ocl_print(s, " PASS_NUMBERS)\n");
}

demist_status ocl_finish_source(const demist_program *p, const struct ocl_expression *after,
                                const demist_view *operands, char *text, size_t size)
{
    const demist_host *host = p->device->host;
    OCL_TRY(ocl_expression_source(host, after, text, size));
    struct ocl_text s = ocl_text_behind(text, size);
    ocl_print(&s, "#define OPERANDS ");
    for (int k = 0; k < after->n_operands; k++)
        ocl_print(&s, ", IN_OF(%s, v%d), int v%d_n, int v%d_y, int v%d_x",
                  ocl_type_name(ocl_type_of(p, &operands[k])), k, k, k, k);
    ocl_print(&s, " NUMBERS\n");
    print_finish(&s, p, after, operands, 'v');
    print_finish(&s, p, after, operands, 's');
    return s.overflow ? host->fail(host, DEMIST_INTERNAL, "a fused kernel is too long") : DEMIST_OK;
}

void ocl_put_finish(struct ocl_draft *d, const struct ocl_expression *after,
                    const demist_view *operands)
{
    for (int32_t k = 0; k < after->n_operands; k++) {
        ocl_put_in(d, &operands[k]);
        for (int i = 0; i < 3; i++)
            ocl_put_int(d, operands[k].stride[i]);
    }
    for (int32_t k = 0; k < after->n_numbers; k++)
        ocl_put_float(d, after->number[k].number);
}

/* --- the call --- */

static demist_status product_kernel(const demist_program *p, const struct ocl_product *c,
                                    const struct ocl_expression *after, cl_kernel *kernel)
{
    demist_device *device = p->device;
    const demist_host *host = device->host;
    char *text = host->alloc(host, SOURCE, 0);
    if (!text)
        return DEMIST_NO_MEMORY;
    demist_status status = ocl_finish_source(p, after, c->operands, text, SOURCE - 128);
    struct ocl_text t = ocl_text_behind(text, SOURCE);
    ocl_print(&t, "#define ROWS %d\n#define COLUMNS %d\n", c->tile.rows, c->tile.columns);
    ocl_print(&t, "#define TYPE_A %s\n#define TYPE_B %s\n#define TYPE_Y %s\n",
              ocl_type_name(ocl_type_of(p, &c->a)), ocl_type_name(ocl_type_of(p, &c->b)),
              ocl_type_name(ocl_type_of(p, &c->y)));
    if (status == DEMIST_OK)
        status = ocl_kernel(device, "product.cl", text, "product", kernel);
    host->free(host, text);
    return status;
}

/* --- the same by CLBlast --- */

/* Bias, activation and so on: a pass over the result. */
static demist_status add_after(demist_program *p, int32_t node, const struct ocl_product *c)
{
    struct ocl_expression e = *c->after;
    const demist_view y = {.storage = c->y.storage,
                           .offset = c->y.offset,
                           .rank = 4,
                           .batched = c->images.b != 0,
                           .shape = {c->images.a, c->height, c->width, c->columns},
                           .stride = {c->y_strides[0], c->y_strides[1], c->y_strides[2], 1}};
    e.in_place = true;
    for (int32_t k = 0; k < e.n_operands; k++) {
        demist_view *v = &e.operand[k].view;
        *v = c->operands[k];
        v->batched = y.batched;
        for (int32_t i = 0; i < 4; i++)
            v->shape[i] = v->stride[i] == 0 && (i > 0 || !y.batched) ? 1 : y.shape[i];
    }
    return ocl_add_map(p, node, &e, &y);
}

/* Its arguments are read by run_gemm of ocl_execute.c. */
static demist_status add_gemm(demist_program *p, int32_t node, const struct ocl_product *c)
{
    struct ocl_draft d;
    const int step = c->height * c->width == 1 ? 0 : 2; /* from row to row */
    const struct ocl_expression *after = c->after;
    ocl_draft_init(&d, node, NULL);
    ocl_put_in(&d, &c->a);
    ocl_put_in(&d, &c->b);
    ocl_put_out(&d, &c->y);
    ocl_put_count(&d, ocl_times(c->images, c->height * c->width));
    ocl_put_int(&d, c->columns);
    ocl_put_int(&d, c->depth);
    ocl_put_count(&d, c->z);
    ocl_put_int(&d, c->a_strides[step]);
    ocl_put_int(&d, c->b_row);
    ocl_put_int(&d, c->y_strides[step]);
    ocl_put_int(&d, c->a_z[0]);
    ocl_put_int(&d, c->b_z[0]);
    ocl_put_int(&d, c->y_z[0]);
    OCL_TRY(ocl_add_launch(p, &d.launch));
    const bool passes_on = !after || (after->n_known <= 1 && after->n_operands == 0);
    return passes_on ? DEMIST_OK : add_after(p, node, c);
}

struct ocl_tile ocl_tile_of(const demist_device *device, const struct ocl_variant *variant,
                            int64_t columns)
{
    if (variant->tile == OCL_CLBLAST)
        return (struct ocl_tile){1, (int)columns};
    return device->tiles[variant->tile];
}

demist_status ocl_choose_tile(demist_program *p, const demist_node *node, bool plain,
                              struct ocl_variant *variant)
{
    const double least = 2e6; /* less is not worth measuring */
    const enum ocl_clblast blast = p->device->settings.clblast;
    struct ocl_variant variants[OCL_MAX_TILES + 1];
    int32_t n = 0;
    const bool gemm = plain && p->precision == DEMIST_PRECISION_F32 && blast != OCL_CLBLAST_OFF &&
                      ocl_has_clblast(p->device);
    if (gemm && blast == OCL_CLBLAST_ALWAYS) {
        variant->tile = OCL_CLBLAST;
        return DEMIST_OK;
    }
    for (int i = 0; i < OCL_MAX_TILES; i++)
        variants[n++] = (struct ocl_variant){variant->algorithm, i};
    if (gemm)
        variants[n++] = (struct ocl_variant){variant->algorithm, OCL_CLBLAST};
    if (demist_product_flops(node) * (double)p->max_batch < least && !p->device->forced)
        n = 1;
    return ocl_choose(p, node, n, variants, variant);
}

demist_status ocl_product_add(demist_program *p, int32_t node, const struct ocl_product *c)
{
    if (c->clblast)
        return add_gemm(p, node, c);
    struct ocl_expression nothing;
    struct ocl_draft d;
    cl_kernel kernel;
    ocl_expression_init(&nothing);
    const struct ocl_expression *after = c->after ? c->after : &nothing;
    OCL_TRY(product_kernel(p, c, after, &kernel));
    const demist_view taps = {.storage = c->taps};
    const demist_view zeros = {.storage = ocl_zeros(p, c->depth)};
    if (zeros.storage < 0)
        return DEMIST_NO_MEMORY;
    const struct ocl_count rows = ocl_times(c->images, c->height * c->width);
    ocl_draft_init(&d, node, kernel);
    ocl_put_in(&d, &c->a);
    ocl_put_in(&d, &zeros);
    ocl_put_in(&d, &taps);
    ocl_put_in(&d, &c->b);
    ocl_put_out(&d, &c->y);
    ocl_put_count(&d, rows);
    ocl_put_int(&d, c->columns);
    ocl_put_int(&d, c->depth);
    ocl_put_int(&d, c->n_taps);
    ocl_put_int(&d, c->height);
    ocl_put_int(&d, c->width);
    for (int i = 0; i < 3; i++)
        ocl_put_int(&d, c->a_strides[i]);
    for (int i = 0; i < 3; i++)
        ocl_put_int(&d, c->y_strides[i]);
    ocl_put_int(&d, c->stride[0]);
    ocl_put_int(&d, c->stride[1]);
    ocl_put_int(&d, c->in_height);
    ocl_put_int(&d, c->in_width);
    ocl_put_int(&d, c->b_panel);
    ocl_put_int(&d, c->b_row);
    ocl_put_int(&d, c->z_inner);
    for (int i = 0; i < 2; i++)
        ocl_put_int(&d, c->a_z[i]);
    for (int i = 0; i < 2; i++)
        ocl_put_int(&d, c->b_z[i]);
    for (int i = 0; i < 2; i++)
        ocl_put_int(&d, c->y_z[i]);
    ocl_put_int(&d, c->column_z);
    ocl_put_finish(&d, after, c->operands);
    const size_t local = p->device->style == OCL_WIDE ? 1 : 16;
    ocl_put_range(&d, 0, rows, c->tile.rows / (int64_t)local, local);
    ocl_put_range(&d, 1, (struct ocl_count){c->columns, 0}, c->tile.columns / (int64_t)local,
                  local);
    ocl_put_range(&d, 2, c->z, 1, 1);
    return ocl_add_launch(p, &d.launch);
}

/* --- packing: [group][panel][tap][depth][tile.columns], zeros behind the last column --- */

static demist_status pack(demist_program *p, const struct ocl_conv *c, int32_t n_taps,
                          const int32_t *offsets, demist_view *packed)
{
    const int64_t panels = ocl_panels(c->tile, c->columns);
    const int64_t elements = c->groups * panels * n_taps * c->depth * c->tile.columns;
    struct ocl_draft d;
    cl_kernel kernel;
    const demist_view at = {.storage = ocl_new_ints(p, n_taps, offsets)};
    const enum ocl_type type = ocl_type_of(p, &c->x);
    *packed = (demist_view){.storage = ocl_new_storage(p, false, elements, type)};
    if (at.storage < 0 || packed->storage < 0)
        return DEMIST_NO_MEMORY;
    OCL_TRY(ocl_typed_kernel(p->device, "pack.cl", OCL_F32, type, "pack", &kernel));
    ocl_draft_init(&d, c->node, kernel);
    ocl_put_in(&d, &c->w);
    ocl_put_in(&d, &at);
    ocl_put_out(&d, packed);
    ocl_put_int(&d, c->columns);
    ocl_put_int(&d, c->depth);
    ocl_put_int(&d, n_taps);
    ocl_put_int(&d, c->w_column);
    ocl_put_int(&d, c->w_depth);
    ocl_put_int(&d, c->w_group);
    ocl_put_int(&d, panels);
    ocl_put_int(&d, c->tile.columns);
    const bool wide = p->device->style == OCL_WIDE;
    ocl_put_range(&d, 0, (struct ocl_count){c->tile.columns, 0}, wide ? c->tile.columns : 1,
                  wide ? 1 : 64);
    ocl_put_range(&d, 1, (struct ocl_count){n_taps * c->depth, 0}, 1, 1);
    ocl_put_range(&d, 2, (struct ocl_count){panels * c->groups, 0}, 1, 1);
    return ocl_add_launch(p, &d.launch);
}

/* --- one convolution, or one phase of a transposed one --- */

struct phase {
    int64_t height, width, stride[2];
    int32_t n_taps;
    int32_t places[2 * MAX_TAPS], offsets[MAX_TAPS]; /* (dy, dx), and where in w */
};

static demist_status add_phase(demist_program *p, const struct ocl_conv *c,
                               const struct phase *phase, const demist_view *y,
                               const demist_view *operands)
{
    struct ocl_product product = {
        .tile = c->tile,
        .clblast = c->clblast,
        .a = c->x,
        .y = *y,
        .n_taps = phase->n_taps,
        .images = ocl_images(&c->x),
        .height = phase->height,
        .width = phase->width,
        .columns = c->columns,
        .depth = c->depth,
        .a_strides = {c->x.stride[0], c->x.stride[2], c->x.stride[3]},
        .y_strides = {y->stride[0], y->stride[2], y->stride[3]},
        .stride = {phase->stride[0], phase->stride[1]},
        .in_height = c->x.shape[2],
        .in_width = c->x.shape[3],
        .b_panel = phase->n_taps * c->depth * c->tile.columns,
        .b_row = c->tile.columns,
        .z = {c->groups, 0},
        .z_inner = c->groups,
        .a_z = {0, c->depth},
        .b_z = {0, ocl_panels(c->tile, c->columns) * phase->n_taps * c->depth * c->tile.columns},
        .y_z = {0, c->columns},
        .column_z = c->columns,
        .after = &c->after,
        .operands = operands,
    };
    const int32_t none[2] = {0, 0};
    product.taps = ocl_new_ints(p, phase->n_taps > 0 ? 2 * phase->n_taps : 2,
                                phase->n_taps > 0 ? phase->places : none);
    if (product.taps < 0)
        return DEMIST_NO_MEMORY;
    product.b = (demist_view){.storage = product.taps}; /* not read without taps */
    if (phase->n_taps > 0)
        OCL_TRY(pack(p, c, phase->n_taps, phase->offsets, &product.b));
    return ocl_product_add(p, c->node, &product);
}

/* Every pair of taps: where it is in x, and where in w. */
static void set_taps(struct phase *phase, const struct ocl_conv *c, const demist_taps taps[2])
{
    const demist_taps *ty = &taps[0], *tx = &taps[1];
    for (int32_t i = 0; i < ty->n; i++)
        for (int32_t j = 0; j < tx->n; j++) {
            const int32_t t = phase->n_taps++;
            phase->places[2 * t] = ty->place + i * ty->move;
            phase->places[2 * t + 1] = tx->place + j * tx->move;
            phase->offsets[t] = (int32_t)((ty->first + i * ty->step) * c->w.stride[2] +
                                          (tx->first + j * tx->step) * c->w.stride[3]);
        }
}

static demist_status add_direct(demist_program *p, const struct ocl_conv *c)
{
    const demist_attrs *a = &c->attrs;
    struct phase phase = {.height = c->y.shape[2],
                          .width = c->y.shape[3],
                          .stride = {a->conv.stride[0], a->conv.stride[1]}};
    demist_taps taps[2];
    for (int i = 0; i < 2; i++)
        taps[i] = demist_conv_taps(c->w.shape[2 + i], a->conv.pad[i], a->conv.dilation[i]);
    set_taps(&phase, c, taps);
    return add_phase(p, c, &phase, &c->y, c->operands);
}

/* Every stride[axis]-th pixel of a grid, from `first` on. */
static demist_view every(const demist_view *grid, const int32_t *stride, const int64_t *first,
                         int32_t y_axis)
{
    demist_view view = *grid;
    for (int axis = 0; axis < 2; axis++) {
        view.offset += first[axis] * grid->stride[y_axis + axis];
        view.stride[y_axis + axis] *= stride[axis];
    }
    return view;
}

static demist_status add_transposed_phase(demist_program *p, const struct ocl_conv *c,
                                          const int64_t first[2])
{
    const demist_attrs *a = &c->attrs;
    struct phase phase = {.stride = {1, 1}};
    demist_taps taps[2];
    int64_t size[2];
    for (int i = 0; i < 2; i++) {
        taps[i] = demist_transposed_taps(c->w.shape[2 + i], a->conv.stride[i], a->conv.pad[i],
                                         a->conv.dilation[i], first[i]);
        size[i] = demist_phase_outputs(c->y.shape[2 + i], a->conv.stride[i], first[i]);
    }
    phase.height = size[0];
    phase.width = size[1];
    set_taps(&phase, c, taps);
    const demist_view y = every(&c->y, a->conv.stride, first, 2);
    demist_view operands[OCL_MAX_OPERANDS];
    for (int32_t k = 0; k < c->after.n_operands; k++)
        operands[k] = every(&c->operands[k], a->conv.stride, first, 1);
    return add_phase(p, c, &phase, &y, operands);
}

static demist_status add_transposed(demist_program *p, const struct ocl_conv *c)
{
    int64_t first[2];
    for (first[0] = 0; first[0] < c->attrs.conv.stride[0] && first[0] < c->y.shape[2]; first[0]++)
        for (first[1] = 0; first[1] < c->attrs.conv.stride[1] && first[1] < c->y.shape[3];
             first[1]++)
            OCL_TRY(add_transposed_phase(p, c, first));
    return DEMIST_OK;
}

/* --- the chain behind it --- */

/* The value in the grid of the result: strides of image, row, column and channel, which is
 * contiguous or repeated. `axis` has the channels in a value of the result's rank. */
static demist_status operand_grid(demist_program *p, int32_t node, const demist_view *value,
                                  const demist_view *result, int32_t axis, demist_view *grid)
{
    demist_view v = *value;
    const int32_t own = axis - (result->rank - v.rank);
    if (own >= 0 && v.shape[own] != 1)
        OCL_TRY(ocl_need_contiguous(p, node, own, &v));
    v = demist_view_broadcast(&v, result);
    *grid = (demist_view){.storage = v.storage, .offset = v.offset, .rank = 4};
    grid->stride[0] = result->rank > 1 ? v.stride[0] : 0;
    int32_t at = 2; /* the last axis that is neither image nor channel is the column */
    for (int32_t i = result->rank - 1; i > 0; i--)
        if (i != axis)
            grid->stride[at--] = v.stride[i];
    grid->stride[3] = v.stride[axis] != 0 && result->shape[axis] != 1;
    return DEMIST_OK;
}

static demist_status add_operands(demist_program *p, struct ocl_conv *c, const demist_view *result,
                                  int32_t axis)
{
    for (int32_t k = 0; k < c->after.n_operands; k++)
        OCL_TRY(operand_grid(p, c->node, &c->after.operand[k].view, result, axis, &c->operands[k]));
    return DEMIST_OK;
}

/* A vector of channels in the shape of the result. */
static demist_view along(const demist_view *channels, const demist_view *result, int32_t axis)
{
    demist_view view = *result;
    view.storage = channels->storage;
    view.offset = channels->offset;
    for (int32_t i = 0; i < view.rank; i++)
        view.stride[i] = i == axis ? channels->stride[0] : 0;
    return view;
}

static demist_status build_chain(demist_program *p, const struct ocl_fused *f, struct ocl_conv *c,
                                 const demist_view *result, int32_t axis)
{
    struct ocl_expression *e = &c->after;
    const demist_node *product = f->chain[0];
    ocl_expression_init(e);
    if (product->n_inputs > 2) {
        demist_view bias;
        OCL_TRY(ocl_value_of(p, product->inputs[2], &bias));
        bias = along(&bias, result, axis);
        const int v = ocl_expression_operand(e, NULL, &bias);
        ocl_expression_let(e, product, "x_ + v%d", v);
    } else {
        ocl_expression_let(e, product, "x_");
    }
    for (int32_t i = 1; i < f->n; i++) {
        const demist_node *node = f->chain[i];
        if (node->op != DEMIST_OP_BATCH_NORM) {
            OCL_TRY(ocl_expression_add(p, e, node));
            continue;
        }
        demist_view scale, shift;
        OCL_TRY(ocl_fold_norm(p, c->node, node, &scale, &shift));
        scale = along(&scale, result, axis);
        shift = along(&shift, result, axis);
        const int s = ocl_expression_operand(e, NULL, &scale);
        const int t = ocl_expression_operand(e, NULL, &shift);
        ocl_expression_let(e, node, "FMA(t%d, v%d, v%d)", (int)e->n_known - 1, s, t);
    }
    return add_operands(p, c, result, axis);
}

/* --- ops --- */

/* A product of plain matrices: the rows of all images are equally far apart. */
static bool is_plain(const struct ocl_conv *c)
{
    const demist_attrs *a = &c->attrs;
    const int64_t *x = c->x.stride, *y = c->y.stride;
    const int64_t height = c->y.shape[2], width = c->y.shape[3];
    const bool one_image = !c->x.batched && c->x.shape[0] == 1;
    bool fits = c->groups == 1 && c->w.shape[2] == 1 && c->w.shape[3] == 1 &&
                a->conv.stride[0] == 1 && a->conv.stride[1] == 1;
    for (int i = 0; i < 4; i++)
        fits = fits && a->conv.pad[i] == 0;
    if (height == 1 && width == 1)
        return fits && x[0] >= c->depth && y[0] >= c->columns;
    fits = fits && x[3] >= c->depth && y[3] >= c->columns;
    fits = fits && (height == 1 || (x[2] == width * x[3] && y[2] == width * y[3]));
    return fits && (one_image || (x[0] == height * width * x[3] && y[0] == height * width * y[3]));
}

static demist_status choose_tile(demist_program *p, const demist_node *node, struct ocl_conv *c,
                                 struct ocl_variant *variant)
{
    const bool transposed = node->op == DEMIST_OP_CONV_TRANSPOSE2D;
    OCL_TRY(ocl_choose_tile(p, node, c->winograd > 0 || (!transposed && is_plain(c)), variant));
    c->tile = ocl_tile_of(p->device, variant, c->columns);
    c->clblast = variant->tile == OCL_CLBLAST;
    return DEMIST_OK;
}

static demist_status add_conv(demist_program *p, const struct ocl_fused *f)
{
    const demist_node *node = f->chain[0];
    const bool transposed = node->op == DEMIST_OP_CONV_TRANSPOSE2D;
    const int64_t groups = node->attrs.conv.groups;
    struct ocl_conv c = {.node = f->result->id, .groups = groups, .attrs = node->attrs};
    OCL_TRY(ocl_value_of(p, node->inputs[0], &c.x));
    OCL_TRY(ocl_value_of(p, node->inputs[1], &c.w));
    if (c.w.shape[2] * c.w.shape[3] > MAX_TAPS)
        return p->device->host->fail(p->device->host, DEMIST_UNSUPPORTED,
                                     "node '%s': a kernel of more than %d taps", node->name,
                                     (int)MAX_TAPS);
    OCL_TRY(ocl_need_contiguous(p, c.node, 1, &c.x));
    OCL_TRY(ocl_result_pixels(p, f->result, ocl_type_of_result(p, f->result), &c.y));
    c.depth = c.x.shape[1] / groups;
    c.columns = c.y.shape[1] / groups;
    c.w_column = c.w.stride[transposed ? 1 : 0];
    c.w_depth = c.w.stride[transposed ? 0 : 1];
    c.w_group = c.w.stride[0] * (transposed ? c.depth : c.columns);
    OCL_TRY(build_chain(p, f, &c, &c.y, 1));
    struct ocl_variant variants[OCL_MAX_VARIANTS], variant;
    OCL_TRY(ocl_choose(p, node, ocl_conv_variants(p, node, variants), variants, &variant));
    c.winograd = variant.algorithm == OCL_WINOGRAD_2   ? 2
                 : variant.algorithm == OCL_WINOGRAD_4 ? 4
                                                       : 0;
    OCL_TRY(choose_tile(p, node, &c, &variant));
    if (transposed)
        OCL_TRY(add_transposed(p, &c));
    else if (c.winograd)
        OCL_TRY(ocl_winograd_add(p, &c));
    else
        OCL_TRY(add_direct(p, &c));
    ocl_set_result(p, f->result, &c.y);
    return DEMIST_OK;
}

/* A value [.., K] as images of rows of columns of K channels: [n, K, rows, columns] by strides. */
static demist_view as_images(const demist_view *v)
{
    demist_view image = {.storage = v->storage, .offset = v->offset, .rank = 4};
    const int32_t last = v->rank - 1;
    image.batched = v->batched;
    image.shape[0] = v->rank > 1 ? v->shape[0] : 1;
    image.stride[0] = v->rank > 1 ? v->stride[0] : 0;
    image.shape[1] = v->shape[last];
    image.stride[1] = v->stride[last];
    image.shape[2] = v->rank > 3 ? v->shape[1] : 1;
    image.stride[2] = v->rank > 3 ? v->stride[1] : 0;
    image.shape[3] = v->rank > 2 ? v->shape[last - 1] : 1;
    image.stride[3] = v->rank > 2 ? v->stride[last - 1] : 0;
    return image;
}

/* More than two axes between the first and the last become one. */
static demist_status flatten(demist_program *p, int32_t node, demist_view *v)
{
    int64_t shape[DEMIST_MAX_RANK] = {v->shape[0], 1, v->shape[v->rank - 1]};
    if (v->rank <= 4)
        return DEMIST_OK;
    OCL_TRY(ocl_need_dense(p, node, v));
    for (int32_t i = 1; i < v->rank - 1; i++)
        shape[1] *= v->shape[i];
    const int64_t offset = v->offset;
    *v = demist_view_dense(v->storage, v->batched, 3, shape);
    v->offset = offset;
    return DEMIST_OK;
}

static demist_status add_linear(demist_program *p, const struct ocl_fused *f)
{
    const demist_node *node = f->chain[0];
    struct ocl_conv c = {.node = f->result->id, .groups = 1};
    demist_view x, y, w, result;
    OCL_TRY(ocl_value_of(p, node->inputs[0], &x));
    OCL_TRY(ocl_value_of(p, node->inputs[1], &w));
    OCL_TRY(ocl_need_contiguous(p, c.node, x.rank - 1, &x));
    OCL_TRY(ocl_result_dense(p, f->result, ocl_type_of_result(p, f->result), &result));
    y = result;
    OCL_TRY(flatten(p, c.node, &x));
    OCL_TRY(flatten(p, c.node, &y));
    OCL_TRY(build_chain(p, f, &c, &y, y.rank - 1));
    c.x = as_images(&x);
    c.y = as_images(&y);
    c.w = w;
    c.w.rank = 4;
    c.w.shape[2] = c.w.shape[3] = 1;
    c.depth = w.shape[1];
    c.columns = w.shape[0];
    c.w_column = w.stride[0];
    c.w_depth = w.stride[1];
    c.attrs.conv.stride[0] = c.attrs.conv.stride[1] = 1;
    c.attrs.conv.dilation[0] = c.attrs.conv.dilation[1] = 1;
    struct ocl_variant variant = {OCL_DIRECT, 0};
    OCL_TRY(choose_tile(p, node, &c, &variant));
    OCL_TRY(add_direct(p, &c));
    ocl_set_result(p, f->result, &result);
    return DEMIST_OK;
}

demist_status ocl_add_product(demist_program *p, const struct ocl_fused *f)
{
    return f->chain[0]->op == DEMIST_OP_LINEAR ? add_linear(p, f) : add_conv(p, f);
}

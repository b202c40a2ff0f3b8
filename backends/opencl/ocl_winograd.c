/* 3x3 convolutions by Winograd's F(4x4, 3x3) and F(2x2, 3x3): input tiles to (M + 2)² positions, as
 * many products of tiles by channels, and back, with what follows the convolution. Positions are a
 * little more than their size apart, so that they do not fall into the same cache sets. */
#include "ocl_product.h"

#include <string.h>

enum { PADDING = 16, SOURCE = 24576 };

static bool fits(const demist_program *p, const demist_node *conv)
{
    const demist_attrs *a = &conv->attrs;
    const int64_t *w = conv->inputs[1]->shape;
    return p->precision != DEMIST_PRECISION_STRICT && conv->op == DEMIST_OP_CONV2D && w[2] == 3 &&
           w[3] == 3 && a->conv.stride[0] == 1 && a->conv.stride[1] == 1 &&
           a->conv.dilation[0] == 1 && a->conv.dilation[1] == 1 && a->conv.groups == 1 &&
           w[0] % 16 == 0 && w[1] % 16 == 0;
}

/* F(4x4)'s rounding would be most of a network's where few channels average little of it out: there
 * it is no candidate, though it might be faster than F(2x2). */
static bool rounds_too_much(int64_t filters, int64_t height, int64_t width)
{
    return filters < 48 ? height * width >= 24 * 24 : filters < 128 && (height < 12 || width < 12);
}

/* The rule: small pictures waste most of their tiles, and the smallest all that Winograd saves. */
int32_t ocl_conv_variants(const demist_program *p, const demist_node *conv,
                          struct ocl_variant *variants)
{
    const int64_t height = conv->shape[2], width = conv->shape[3];
    const bool rounds = rounds_too_much(conv->inputs[1]->shape[0], height, width);
    enum ocl_algorithm rule = OCL_DIRECT;
    int32_t n = 1;
    if (fits(p, conv) && height >= 6 && width >= 6)
        rule = height < 12 || width < 12 || rounds ? OCL_WINOGRAD_2 : OCL_WINOGRAD_4;
    variants[0] = (struct ocl_variant){rule, 0};
    for (int k = OCL_DIRECT; k <= OCL_WINOGRAD_4 && fits(p, conv); k++)
        if (k != (int)rule && !(k == OCL_WINOGRAD_4 && rounds))
            variants[n++] = (struct ocl_variant){(enum ocl_algorithm)k, 0};
    return n;
}

static int64_t positions(const struct ocl_conv *c)
{
    return (int64_t)(c->winograd + 2) * (c->winograd + 2);
}

/* A kernel of one of the transforms, which reads or writes values of a type; `text`, which may be
 * NULL, is what comes before it. */
static demist_status transform(demist_device *device, const struct ocl_conv *c, const char *source,
                               const char *name, enum ocl_type type, char *text, cl_kernel *kernel)
{
    char only[80] = "";
    struct ocl_text t = text ? ocl_text_behind(text, SOURCE) : ocl_text_behind(only, sizeof only);
    ocl_print(&t, "#define M %d\n#define TYPE_X %s\n#define TYPE_Y %s\n", c->winograd,
              ocl_type_name(type), ocl_type_name(type));
    return ocl_kernel(device, source, text ? text : only, name, kernel);
}

static demist_status pack(demist_program *p, const struct ocl_conv *c, demist_view *packed)
{
    const int64_t panels = ocl_panels(c->tile, c->columns);
    struct ocl_draft d;
    cl_kernel kernel;
    const enum ocl_type type = ocl_type_of(p, &c->x);
    const int64_t elements = positions(c) * panels * c->depth * c->tile.columns;
    *packed = (demist_view){.storage = ocl_new_storage(p, false, elements, type)};
    if (packed->storage < 0)
        return DEMIST_NO_MEMORY;
    OCL_TRY(
        transform(p->device, c, "winograd_weights.cl", "winograd_weights", type, NULL, &kernel));
    ocl_draft_init(&d, c->node, kernel);
    ocl_put_in(&d, &c->w);
    ocl_put_out(&d, packed);
    ocl_put_int(&d, c->columns);
    ocl_put_int(&d, c->depth);
    for (int i = 0; i < 4; i++)
        ocl_put_int(&d, c->w.stride[i]);
    ocl_put_int(&d, panels);
    ocl_put_int(&d, c->tile.columns);
    const bool wide = p->device->style == OCL_WIDE;
    ocl_put_range(&d, 0, (struct ocl_count){c->tile.columns, 0}, wide ? c->tile.columns : 1,
                  wide ? 1 : 64);
    ocl_put_range(&d, 1, (struct ocl_count){c->depth, 0}, 1, 1);
    ocl_put_range(&d, 2, (struct ocl_count){panels, 0}, 1, 1);
    return ocl_add_launch(p, &d.launch);
}

struct tiles {
    int64_t y, x; /* of an image */
    struct ocl_count all;
    int64_t v_plane, m_plane; /* floats of a position */
    demist_view v, m;         /* [position][tile][channels], [position][tile][columns] */
};

static demist_status plan_tiles(demist_program *p, const struct ocl_conv *c, struct tiles *t)
{
    t->y = (c->y.shape[2] + c->winograd - 1) / c->winograd;
    t->x = (c->y.shape[3] + c->winograd - 1) / c->winograd;
    t->all = ocl_times(ocl_images(&c->x), t->y * t->x);
    const int64_t most = ocl_value(t->all, p->max_batch);
    t->v_plane = most * c->depth + PADDING;
    t->m_plane = most * c->columns + PADDING;
    t->v.storage = ocl_new_storage(p, false, positions(c) * t->v_plane, OCL_F32);
    t->m.storage = ocl_new_storage(p, false, positions(c) * t->m_plane, OCL_F32);
    return t->v.storage < 0 || t->m.storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

static demist_status add_input(demist_program *p, const struct ocl_conv *c, const struct tiles *t)
{
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(transform(p->device, c, "winograd_input.cl", "winograd_input", ocl_type_of(p, &c->x),
                      NULL, &kernel));
    ocl_draft_init(&d, c->node, kernel);
    ocl_put_in(&d, &c->x);
    ocl_put_out(&d, &t->v);
    ocl_put_int(&d, c->depth);
    ocl_put_int(&d, c->x.shape[2]);
    ocl_put_int(&d, c->x.shape[3]);
    ocl_put_int(&d, c->x.stride[0]);
    ocl_put_int(&d, c->x.stride[2]);
    ocl_put_int(&d, c->x.stride[3]);
    ocl_put_int(&d, t->y);
    ocl_put_int(&d, t->x);
    ocl_put_int(&d, c->attrs.conv.pad[0]);
    ocl_put_int(&d, c->attrs.conv.pad[1]);
    ocl_put_int(&d, t->v_plane);
    const bool wide = p->device->style == OCL_WIDE;
    ocl_put_range(&d, 0, (struct ocl_count){c->depth, 0}, wide ? c->depth : 1, wide ? 1 : 64);
    ocl_put_range(&d, 1, t->all, 1, 1);
    return ocl_add_launch(p, &d.launch);
}

static demist_status add_products(demist_program *p, const struct ocl_conv *c,
                                  const struct tiles *t, const demist_view *weights)
{
    const int32_t one_tap[2] = {0, 0};
    struct ocl_product product = {
        .tile = c->tile,
        .clblast = c->clblast,
        .a = t->v,
        .b = *weights,
        .y = t->m,
        .taps = ocl_new_ints(p, 2, one_tap),
        .n_taps = 1,
        .images = t->all, /* rows of one pixel each */
        .height = 1,
        .width = 1,
        .columns = c->columns,
        .depth = c->depth,
        .a_strides = {c->depth, 0, 0},
        .y_strides = {c->columns, 0, 0},
        .stride = {1, 1},
        .in_height = 1,
        .in_width = 1,
        .b_panel = c->depth * c->tile.columns,
        .b_row = c->tile.columns,
        .z = {positions(c), 0},
        .z_inner = 1,
        .a_z = {t->v_plane, 0},
        .b_z = {ocl_panels(c->tile, c->columns) * c->depth * c->tile.columns, 0},
        .y_z = {t->m_plane, 0},
    };
    return product.taps < 0 ? DEMIST_NO_MEMORY : ocl_product_add(p, c->node, &product);
}

static demist_status output_kernel(const demist_program *p, const struct ocl_conv *c,
                                   cl_kernel *kernel)
{
    demist_device *device = p->device;
    const demist_host *host = device->host;
    char *text = host->alloc(host, SOURCE, 0);
    if (!text)
        return DEMIST_NO_MEMORY;
    demist_status status = ocl_finish_source(p, &c->after, c->operands, text, SOURCE - 96);
    if (status == DEMIST_OK)
        status = transform(device, c, "winograd_output.cl", "winograd_output",
                           ocl_type_of(p, &c->y), text, kernel);
    host->free(host, text);
    return status;
}

static demist_status add_output(demist_program *p, const struct ocl_conv *c, const struct tiles *t)
{
    struct ocl_draft d;
    cl_kernel kernel;
    OCL_TRY(output_kernel(p, c, &kernel));
    ocl_draft_init(&d, c->node, kernel);
    ocl_put_in(&d, &t->m);
    ocl_put_out(&d, &c->y);
    ocl_put_int(&d, c->columns);
    ocl_put_int(&d, c->y.shape[2]);
    ocl_put_int(&d, c->y.shape[3]);
    ocl_put_int(&d, c->y.stride[0]);
    ocl_put_int(&d, c->y.stride[2]);
    ocl_put_int(&d, c->y.stride[3]);
    ocl_put_int(&d, t->y);
    ocl_put_int(&d, t->x);
    ocl_put_int(&d, t->m_plane);
    ocl_put_finish(&d, &c->after, c->operands);
    const bool wide = p->device->style == OCL_WIDE;
    ocl_put_range(&d, 0, (struct ocl_count){c->columns, 0}, wide ? c->columns : 1, wide ? 1 : 64);
    ocl_put_range(&d, 1, t->all, 1, 1);
    return ocl_add_launch(p, &d.launch);
}

demist_status ocl_winograd_add(demist_program *p, const struct ocl_conv *c)
{
    demist_view weights;
    struct tiles t = {0};
    OCL_TRY(pack(p, c, &weights));
    OCL_TRY(plan_tiles(p, c, &t));
    OCL_TRY(add_input(p, c, &t));
    OCL_TRY(add_products(p, c, &t, &weights));
    return add_output(p, c, &t);
}

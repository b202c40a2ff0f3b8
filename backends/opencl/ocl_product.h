/* The one product kernel: convolutions, linear layers, matrix products, and the products inside
 * Winograd's transforms and attention are calls of it. */
#ifndef OCL_PRODUCT_H
#define OCL_PRODUCT_H

#include "ocl_program.h"

/* y(z, n, i, j)[o] = value(Σ_t Σ_k a(z, n, i·sy + dy_t, j·sx + dx_t)[k] · b(z, t·depth + k)[o]);
 * n, i, j: the rows; a's k and y's o are contiguous; a is 0 outside. All strides in elements. */
struct ocl_product {
    struct ocl_tile tile; /* of the kernel, or for CLBlast all columns */
    bool clblast;         /* one tap, rows and matrices equally far apart, z_inner 1 */
    demist_view a, b, y;  /* storages and offsets */
    int32_t taps;         /* storage with (dy, dx) of each tap */
    int32_t n_taps;
    struct ocl_count images;
    int64_t height, width, columns, depth; /* of the result; of one tap */
    int64_t a_strides[3], y_strides[3];    /* image, row, column */
    int64_t stride[2], in_height, in_width;
    int64_t b_panel, b_row; /* between panels of tile.columns, between values of k */
    struct ocl_count z;     /* z = z0·z_inner + z1 */
    int64_t z_inner, a_z[2], b_z[2], y_z[2];
    int64_t column_z;                   /* columns of operands that z1 skips */
    const struct ocl_expression *after; /* operands: seen in y's grid; NULL: nothing follows */
    const demist_view *operands;        /* [after->n_operands] strides: image, row, column, o */
};

demist_status ocl_product_add(demist_program *p, int32_t node, const struct ocl_product *product);

/* The definitions FINISH_v, FINISH_s and OPERANDS for what follows a product. */
demist_status ocl_finish_source(const demist_program *p, const struct ocl_expression *after,
                                const demist_view *operands, char *text, size_t size);
void ocl_put_finish(struct ocl_draft *d, const struct ocl_expression *after,
                    const demist_view *operands);

/* The tile of a variant for a product of so many columns. */
struct ocl_tile ocl_tile_of(const demist_device *device, const struct ocl_variant *variant,
                            int64_t columns);
/* The fastest tile for a node whose algorithm is chosen, or CLBlast if the product is one of plain
 * matrices. */
demist_status ocl_choose_tile(demist_program *p, const demist_node *node, bool plain,
                              struct ocl_variant *variant);

static inline int64_t ocl_panels(struct ocl_tile tile, int64_t columns)
{
    return (columns + tile.columns - 1) / tile.columns;
}

/* A convolution with what follows it. */
struct ocl_conv {
    int32_t node;
    demist_view x, y, w;                /* w: [columns][depth][kh][kw] by strides */
    int64_t groups, depth, columns;     /* of one group */
    int64_t w_column, w_depth, w_group; /* strides of w */
    demist_attrs attrs;
    int winograd; /* M of F(M x M, 3x3); 0: direct */
    struct ocl_tile tile;
    bool clblast;
    struct ocl_expression after;
    demist_view operands[OCL_MAX_OPERANDS];
};

/* The ways to compute the convolution, the one that a rule takes first; returns how many. */
enum { OCL_MAX_VARIANTS = 8 };
int32_t ocl_conv_variants(const demist_program *p, const demist_node *conv,
                          struct ocl_variant *variants);
demist_status ocl_winograd_add(demist_program *p, const struct ocl_conv *c);

#endif

/* Convolutions and linear layers as compiled: shared by cpu_product.c, which packs and multiplies,
 * and cpu_winograd.c, which takes the 3x3 ones that gain from it. */
#ifndef CPU_PRODUCT_H
#define CPU_PRODUCT_H

#include "cpu_program.h"

/* The outputs whose row and column leave the same remainder by the step: the same taps reach them.
 * A convolution has one phase; a transposed one has stride². */
struct cpu_phase {
    int64_t first_y, first_x, rows, columns; /* output pixel (first_y + step_y·i, …), i < rows */
    int32_t n_taps;
    int32_t *tap, *dy, *dx; /* kernel element; input pixel (i·in_step + dy, …) */
    int64_t packed;         /* where the phase's panels start */
};

struct cpu_product {
    demist_op op;
    int32_t node;
    struct cpu_grid x, y;
    int64_t channels, filters, groups; /* of one group */
    int64_t height, width, out_height, out_width;
    int64_t kernel_h, kernel_w, step_y, step_x, in_step_y, in_step_x, pad_y, pad_x;
    int32_t n_phases;
    struct cpu_phase *phases;
    int winograd;  /* m of F(m x m, 3x3); 0: direct */
    bool tiled;    /* in products of tiles (cpu_tiled.c): of bf16 numbers if half, else split */
    bool half;     /* weights are bf16, packed in pairs; rows as gemm16 takes them */
    int64_t steps; /* elements of packed weights for a tap: channels, or pairs of them */
    /* weights: row-major parameters, or (dynamic) values of this execution */
    bool dynamic, frozen;
    const float *weight, *bias, *norm[4]; /* gamma, beta, mean, variance; NULL: none */
    float eps;
    demist_view weight_view, bias_view, packed_view;
    float *packed, *packed_bias; /* bias: [groups][whole panels] */
    int64_t panel_width, panels; /* of one group */
    int64_t packed_floats;
    int32_t n_posts;
    struct cpu_post posts[CPU_MAX_POSTS];
    /* Winograd: transformed tiles of some images at a time */
    demist_view tiles_view;
    bool pairs;                                           /* tiles of bf16 numbers */
    int64_t tiles_y, tiles_x, images_at_once, plane, row; /* floats between positions, tiles */
    int up;                                               /* log2 of the upsampling of x */
};

/* Floats of a packed matrix [panel][k][panel width], the last panel narrower where that is enough,
 * and where panel i of it starts. */
int64_t cpu_packed_floats(const struct cpu_kernels *k, int64_t depth, int64_t columns);
static inline int64_t cpu_panel_at(const struct cpu_kernels *k, int64_t depth, int64_t panel)
{
    return panel * depth * k->nr;
}
/* Vectors of the panel that starts at column `column`. */
static inline int cpu_panel_vecs(const struct cpu_kernels *k, int64_t column, int64_t columns)
{
    return columns - column > k->vw ? 2 : 1;
}

/* Element (output, input channel, tap) of a group's weights times scale[output], which counts all
 * groups' outputs; 0 beyond the filters and channels. */
float cpu_scaled_weight(const struct cpu_product *c, const float *weight, const double *scale,
                        int64_t group, int64_t o, int64_t channel, int64_t tap);

/* Two bf16 numbers as an element of packed weights. */
static inline float cpu_pair(float first, float second)
{
    const uint32_t bits = cpu_to_bf16(first) | cpu_to_bf16(second) << 16;
    float pair;
    memcpy(&pair, &bits, sizeof pair);
    return pair;
}

/* m that suits the shape at this level, 0: none. The choice depends on an image's shape alone. */
int cpu_winograd_choice(const struct cpu_kernels *k, int64_t channels, int64_t filters,
                        int64_t height, int64_t width);
/* The same in precision bf16; *half: in products of bf16 numbers, else of float32. */
int cpu_winograd_choice_bf16(const struct cpu_kernels *k, int64_t channels, int64_t filters,
                             int64_t height, int64_t width, bool *half);
int64_t cpu_winograd_floats(const struct cpu_kernels *k, const struct cpu_product *c);
demist_status cpu_winograd_plan(demist_program *p, struct cpu_product *c);
/* scale: [filters], the normalisation's factor */
void cpu_winograd_pack(const struct cpu_kernels *k, const demist_host *host,
                       const struct cpu_product *c, const float *weight, const double *scale,
                       float *packed);
void cpu_winograd_run(const struct cpu_run *run, const struct cpu_product *c, const float *packed,
                      const float *bias);

/* cpu_tiled.c. Floats of a group's packed weights; each group's start after the others'. */
bool cpu_tiled_choice(const demist_program *p, const struct cpu_product *c);
int64_t cpu_tiled_floats(const struct cpu_product *c, const struct cpu_phase *phase);
void cpu_tiled_plan(demist_program *p, const struct cpu_product *c);
/* Packs a panel of 32 columns of a group's weights, `packed`. */
void cpu_tiled_pack(const struct cpu_product *c, const struct cpu_phase *phase, int64_t group,
                    int64_t panel, const float *weight, const double *scale, float *packed);
void cpu_tiled_run(const struct cpu_run *run, const struct cpu_product *c,
                   const struct cpu_phase *phase, int64_t group, const float *packed,
                   const float *bias);

#endif

/* Graphs: what networks build and backends compile.
 *
 * A graph is a list of nodes in topological order; each node computes one value from its inputs.
 * Ops are pure. docs/ops.md defines each one: mathematics, shapes, broadcasting, gradient and the
 * tolerance that a backend has to keep.
 *
 * Dimension 0 of a batched value is the batch: its size is DEMIST_BATCH in the graph, and a
 * program executes with any number of images up to the largest that it was compiled for. Only
 * BATCH_SUM, which gradients of parameters need, mixes images. Values that do not depend on an
 * input (parameters, constants, what is computed from them alone) are not batched. Data are
 * row-major (images N, C, H, W) at a graph's edges; inside, layout is the backend's. */
#ifndef DEMIST_GRAPH_H
#define DEMIST_GRAPH_H

#include <demist/abi.h>
#include <demist/dtype.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The size of dimension 0 of a batched value. */
#define DEMIST_BATCH ((int64_t)-1)

/* The image's place in the key of random values that all images share. */
#define DEMIST_IMAGE_SHARED UINT32_MAX

/* X(NAME, id, "name", fewest inputs, most inputs (-1: any)). Ids are append-only. */
#define DEMIST_OPS(X)                                                                              \
    /* leaves */                                                                                   \
    X(INPUT, 1, "input", 0, 0)       /* bound at execution */                                      \
    X(PARAM, 2, "param", 0, 0)       /* a checkpoint's tensor */                                   \
    X(CONSTANT, 3, "constant", 0, 0) /* data of the network's own */                               \
    X(SCALAR, 4, "scalar", 0, 0)     /* [] f32 from an execution's scalar slot */                  \
    /* elementwise, one input */                                                                   \
    X(NEG, 10, "neg", 1, 1)                                                                        \
    X(ABS, 11, "abs", 1, 1)                                                                        \
    X(EXP, 12, "exp", 1, 1)                                                                        \
    X(LOG, 13, "log", 1, 1)                                                                        \
    X(SQRT, 14, "sqrt", 1, 1)                                                                      \
    X(SIN, 15, "sin", 1, 1)                                                                        \
    X(COS, 16, "cos", 1, 1)                                                                        \
    X(TANH, 17, "tanh", 1, 1)                                                                      \
    X(ERF, 18, "erf", 1, 1)                                                                        \
    X(SIGMOID, 19, "sigmoid", 1, 1)                                                                \
    X(RELU, 20, "relu", 1, 1)                                                                      \
    X(SILU, 21, "silu", 1, 1)     /* x·sigmoid(x) */                                              \
    X(GELU, 22, "gelu", 1, 1)     /* exact: x·Φ(x) */                                            \
    X(AFFINE, 23, "affine", 1, 1) /* a·x + b, constants */                                        \
    X(CLAMP, 24, "clamp", 1, 1)   /* to [lo, hi] */                                                \
    X(CAST, 25, "cast", 1, 1)     /* to another element type; to integers half to even */          \
    /* elementwise, broadcasting as NumPy does */                                                  \
    X(ADD, 40, "add", 2, 2)                                                                        \
    X(SUB, 41, "sub", 2, 2)                                                                        \
    X(MUL, 42, "mul", 2, 2)                                                                        \
    X(DIV, 43, "div", 2, 2)                                                                        \
    X(MIN, 44, "min", 2, 2)                                                                        \
    X(MAX, 45, "max", 2, 2)                                                                        \
    X(LESS, 46, "less", 2, 2)        /* 1 where a < b, else 0 */                                   \
    X(SELECT, 47, "select", 3, 3)    /* (c, a, b): a where c ≠ 0, else b */                      \
    X(LINCOMB, 48, "lincomb", 2, -1) /* x_0 … x_{k−1}, c_0 … c_{k−1}: Σ c_i·x_i */       \
    /* reductions: the reduced axes stay with size 1; never axis 0 of a batched value */           \
    X(SUM, 60, "sum", 1, 1)                                                                        \
    X(MEAN, 61, "mean", 1, 1)                                                                      \
    X(AMAX, 62, "amax", 1, 1)                                                                      \
    X(SOFTMAX, 63, "softmax", 1, 1)                                                                \
    X(BATCH_SUM, 64, "batch_sum", 1, 1) /* over the images: [1, ..] */                             \
    /* products */                                                                                 \
    X(LINEAR, 80, "linear", 2, 3)                     /* x [..,K], w [O,K], b [O] */               \
    X(MATMUL, 81, "matmul", 2, 2)                     /* a [..,M,K], b [..,K,N] */                 \
    X(CONV2D, 82, "conv2d", 2, 3)                     /* x [N,C,H,W], w [O,C/g,kh,kw], b [O] */    \
    X(CONV_TRANSPOSE2D, 83, "conv_transpose2d", 2, 3) /* w [C,O,kh,kw] */                          \
    X(ATTENTION, 84, "attention", 3, 3)               /* q [N,h,D,L], k [N,h,D,M], v [N,h,E,M] */  \
    /* normalisation */                                                                            \
    X(GROUP_NORM, 100, "group_norm", 1, 3) /* x [, gamma [C] [, beta [C]]] */                      \
    X(BATCH_NORM, 101, "batch_norm", 5,                                                            \
      5) /* x, gamma, beta, mean, variance: running statistics */                                  \
    X(LAYER_NORM, 102, "layer_norm", 1, 3) /* the same over the last axis */                       \
    /* space */                                                                                    \
    X(MAX_POOL2D, 120, "max_pool2d", 1, 1)                                                         \
    X(AVG_POOL2D, 121, "avg_pool2d", 1, 1)                                                         \
    X(UPSAMPLE_NEAREST, 122, "upsample_nearest", 1, 1)                                             \
    X(RESIZE_BILINEAR, 123, "resize_bilinear", 1, 1)                                               \
    /* shape */                                                                                    \
    X(RESHAPE, 140, "reshape", 1, 1)                                                               \
    X(TRANSPOSE, 141, "transpose", 1, 1)                                                           \
    X(SLICE, 142, "slice", 1, 1)                                                                   \
    X(CONCAT, 143, "concat", 1, -1)                                                                \
    X(PAD, 144, "pad", 1, 1)             /* with zeros */                                          \
    X(EXPAND, 145, "expand", 1, 1)       /* broadcast to a shape */                                \
    X(EMBEDDING, 146, "embedding", 2, 2) /* table [K,D], ids [N..] i32 -> [N..,D] */               \
    /* random: the keyed generator of docs/noise.md */                                             \
    X(PHILOX_NORMAL, 160, "philox_normal", 0, 0)                                                   \
    X(PHILOX_UNIFORM, 161, "philox_uniform", 0, 0)                                                 \
    /* several nodes that a backend asked for as one */                                            \
    X(FUSED, 200, "fused", 1, -1)

typedef enum demist_op {
#define DEMIST_OP_ENUM(name, id, text, fewest, most) DEMIST_OP_##name = id,
    DEMIST_OPS(DEMIST_OP_ENUM)
#undef DEMIST_OP_ENUM
} demist_op;

/* What an input means; append-only. */
typedef enum demist_role {
    DEMIST_ROLE_OTHER = 0,
    DEMIST_ROLE_X = 1,       /* [N, …] f32: the state x_t */
    DEMIST_ROLE_TIME = 2,    /* [N] f32, in the form that the network declares */
    DEMIST_ROLE_LABEL = 3,   /* [N] i32: class index */
    DEMIST_ROLE_CONTEXT = 4, /* [N, …] f32: context vectors */
    DEMIST_ROLE_TOKENS = 5,  /* [N, L] i32 */
    DEMIST_ROLE_IMAGE = 6,   /* [N, C, H, W] f32: a picture that conditions */
} demist_role;

/* What the core may propose to a backend as one FUSED node; the body is always a chain from its
 * first node to its last, in which only the last value is used outside. Append-only. */
typedef enum demist_pattern {
    /* conv2d, conv_transpose2d or linear, then any of: batch_norm, an activation (relu, silu,
     * gelu, sigmoid, tanh), affine, add of a value that broadcasts to the result's shape */
    DEMIST_PATTERN_PRODUCT = 1,
    /* group_norm, layer_norm or batch_norm, then any of: affine, mul and add with per-channel
     * values (scale and shift; size 1 everywhere but in the batch and the channels, which are the
     * last axis for layer_norm), an activation */
    DEMIST_PATTERN_NORM = 2,
    /* elementwise ops (not cast) only, all of the result's shape after broadcasting */
    DEMIST_PATTERN_ELEMENTWISE = 3,
} demist_pattern;

/* Attributes by op. A union of fixed size: unused bytes are zero, so that two can be compared
 * and hashed as memory. */
typedef union demist_attrs {
    struct {
        int32_t role;
    } input; /* demist_role */
    struct {
        int32_t slot;
    } scalar; /* index of the scalar slot */
    struct {
        float a, b;
    } affine;
    struct {
        float lo, hi;
    } clamp;
    struct {
        int32_t dtype;
    } cast; /* demist_dtype */
    struct {
        uint32_t axes;
    } reduce; /* SUM, MEAN, AMAX: bit mask */
    struct {
        int32_t axis;
    } axis; /* SOFTMAX, CONCAT */
    struct {
        int32_t transpose_a, transpose_b;
    } matmul; /* of the last two axes */
    struct {
        int32_t stride[2]; /* y, x */
        int32_t pad[4];    /* top, left, bottom, right */
        int32_t dilation[2];
        int32_t groups;
        int32_t output_pad[2]; /* CONV_TRANSPOSE2D: rows, columns added at the end */
    } conv;                    /* CONV2D, CONV_TRANSPOSE2D */
    struct {
        float scale;
        int32_t causal;
    } attention; /* softmax(scale·qᵀk)·v */
    struct {
        int32_t groups;
        float eps;
    } norm; /* groups: GROUP_NORM */
    struct {
        int32_t kernel[2], stride[2];
    } pool;
    struct {
        int32_t factor;
    } upsample;
    struct {
        int32_t height, width;
    } resize; /* align_corners false */
    struct {
        int32_t perm[DEMIST_MAX_RANK];
    } transpose; /* perm[0] = 0 if batched */
    struct {
        int32_t axis;
        int32_t step;
        int64_t start, length;
    } slice;
    struct {
        int32_t before[DEMIST_MAX_RANK], after[DEMIST_MAX_RANK];
    } pad;
    struct {
        uint32_t purpose; /* demist_noise_purpose, demist/random.h */
        /* 1: batched, the image's index is in the key; 0: shared by all, DEMIST_IMAGE_SHARED is */
        int32_t per_image;
        int32_t seed_slot, draw_slot, image_slot; /* u64 scalar slots: seed, draw, first image */
        float lo, hi;                             /* PHILOX_UNIFORM */
    } philox;
    struct {
        int32_t pattern;
    } fused; /* demist_pattern */
    unsigned char bytes[128];
} demist_attrs;

typedef struct demist_node demist_node;
struct demist_node {
    size_t size;
    int32_t id; /* place in graph->nodes; of a FUSED body: place in its body */
    demist_op op;
    const char *name; /* unique in the graph: "down1.model.0.conv1.0", "silu_17" */
    demist_dtype dtype;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK]; /* shape[0] = DEMIST_BATCH if batched */
    int32_t n_inputs;
    const demist_node *const *inputs;
    demist_attrs attrs;
    /* PARAM, CONSTANT: row-major, 64-byte aligned, valid until compile returns. PARAM: index in
     * graph->params, −1 for other ops. */
    const void *data;
    int32_t param_index;
    /* FUSED: what it stands for, in topological order; the last one is its value. Body nodes'
     * inputs are body nodes, or nodes of `inputs`. */
    int32_t n_body;
    const demist_node *const *body;
};

typedef struct demist_graph {
    size_t size;
    const char *name; /* "denoise" */
    int32_t n_nodes;
    const demist_node *const *nodes;
    int32_t n_inputs;
    const demist_node *const *inputs;
    int32_t n_params;
    const demist_node *const *params;
    int32_t n_outputs;
    const demist_node *const *outputs;
    const char *const *output_names;
    int32_t n_scalars; /* slots that an execution fills */
} demist_graph;

static inline bool demist_is_batched(const demist_node *node)
{
    return node->rank > 0 && node->shape[0] == DEMIST_BATCH;
}

/* Elements of one image of a batched value, of the whole value otherwise. */
static inline int64_t demist_elements(const demist_node *node)
{
    int64_t n = 1;
    for (int32_t i = demist_is_batched(node) ? 1 : 0; i < node->rank; i++)
        n *= node->shape[i];
    return n;
}

/* What a product computes for one image, or in all if not batched, as its op is defined: 2 for each
 * multiplication with its addition. Of FUSED its first node; 0 for ops that are no products. */
static inline double demist_product_flops(const demist_node *node)
{
    const demist_node *product = node->op == DEMIST_OP_FUSED ? node->body[0] : node;
    if (product->n_inputs < 2)
        return 0;
    const demist_node *x = product->inputs[0];
    const int64_t *w = product->inputs[1]->shape;
    const double outputs = (double)demist_elements(product);
    switch (product->op) {
    case DEMIST_OP_LINEAR:
        return 2 * outputs * (double)w[1];
    case DEMIST_OP_MATMUL:
        return 2 * outputs *
               (double)x->shape[x->rank - (product->attrs.matmul.transpose_a ? 2 : 1)];
    case DEMIST_OP_CONV2D:
        return 2 * outputs * (double)w[1] * (double)w[2] * (double)w[3];
    case DEMIST_OP_CONV_TRANSPOSE2D: /* each input meets each of its weights once */
        return 2 * (double)demist_elements(x) * (double)w[1] * (double)w[2] * (double)w[3];
    case DEMIST_OP_ATTENTION: /* heads·L·M·(D + E) */
        return 2 * (double)x->shape[1] * (double)x->shape[3] * (double)w[3] *
               ((double)x->shape[2] + (double)product->inputs[2]->shape[2]);
    default:
        return 0;
    }
}

static inline const char *demist_op_name(demist_op op)
{
    switch (op) {
#define DEMIST_OP_CASE(name, id, text, fewest, most)                                               \
    case DEMIST_OP_##name:                                                                         \
        return text;
        DEMIST_OPS(DEMIST_OP_CASE)
#undef DEMIST_OP_CASE
    }
    return "unknown";
}

#ifdef __cplusplus
}
#endif
#endif

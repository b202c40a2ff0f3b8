/* The graph builder that the host passes to a network (and uses itself).
 *
 * Values are nodes. After the first failure every call returns NULL, and every call accepts
 * NULL values, so that a network is written without checks; `demist_builder.failed` and the
 * host's own check at the end report the first error with the node's name. Shapes are inferred
 * and checked by the core at each call.
 *
 * Names are unique in a graph. A parameter is named by its key (of source k > 0: "k:key"), a node
 * whose weight, gamma or table is a parameter after that one's key without its last part
 * ("down1.model.0.conv1.0" from "….weight"), others "op_id"; where such a name is taken, "_2", …
 * is appended. `name` overrides. */
#ifndef DEMIST_BUILDER_H
#define DEMIST_BUILDER_H

#include <demist/graph.h>
#include <demist/status.h>

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct demist_builder demist_builder;
struct demist_builder {
    size_t size;
    void *internal;

    /* --- checkpoints --- [in build and describe, its thread] */

    /* Opens another checkpoint than [network] checkpoint, which is source 0; keys are looked up
     * below `prefix` ("model" means "model.…"; "" for none). Asked for twice, it is the same
     * source. Returns its number, −1 after failing. */
    int32_t (*source)(demist_builder *b, const char *path, const char *prefix);
    /* The i-th key of a source in sorted order, NULL behind the last. */
    const char *(*key)(demist_builder *b, int32_t source, int64_t i);
    /* Whether the key exists; rank and shape [DEMIST_MAX_RANK] are set if so. May be NULL. */
    bool (*find)(demist_builder *b, int32_t source, const char *key, int32_t *rank, int64_t *shape);
    /* A tensor as a graph's parameter, f32 whatever the file holds. A missing or misshapen one is
     * remembered, and all of them are listed at once when building ends. Asked for twice, it is
     * the same node. */
    const demist_node *(*param)(demist_builder *b, int32_t source, const char *key, int32_t rank,
                                const int64_t *shape);
    /* Keys that match (`*` any text, `?` one character) carry nothing and are not unexpected. */
    void (*ignore)(demist_builder *b, int32_t source, const char *pattern);

    /* --- graph --- Element types are F32 and I32. */

    /* shape[0] = DEMIST_BATCH unless all images share the value. */
    const demist_node *(*input)(demist_builder *b, const char *name, demist_role role,
                                demist_dtype dtype, int32_t rank, const int64_t *shape);
    /* Data are copied. */
    const demist_node *(*constant)(demist_builder *b, demist_dtype dtype, int32_t rank,
                                   const int64_t *shape, const void *data);
    /* Any op that is neither INPUT, PARAM, CONSTANT nor FUSED. For RESHAPE, EXPAND and PHILOX_…
     * the shape is given by rank and shape; elsewhere pass 0, NULL. attrs may be NULL (all zero);
     * only the op's own member is read. */
    const demist_node *(*op)(demist_builder *b, demist_op op, int32_t n_inputs,
                             const demist_node *const *inputs, const demist_attrs *attrs,
                             int32_t rank, const int64_t *shape);
    void (*output)(demist_builder *b, const char *name, const demist_node *value);
    /* A scalar slot of the graph, −1 after failing; the same name is the same slot. The host fills
     * "seed", "draw" and "image" by itself. A slot holds either a number (SCALAR) or an integer
     * (PHILOX_…), never both. */
    int32_t (*scalar_slot)(demist_builder *b, const char *name);
    /* Names a value for errors, dumps and comparisons; printf. Parameters and inputs keep theirs.
     * Returns value. */
    const demist_node *(*name)(demist_builder *b, const demist_node *value, const char *fmt,
                               ...)DEMIST_PRINTF(3, 4);

    bool (*failed)(const demist_builder *b);
    /* States a failure of the network's own; the first one counts. Returns NULL. */
    const demist_node *(*fail)(demist_builder *b, demist_status status, const char *fmt,
                               ...)DEMIST_PRINTF(3, 4);
};

/* --- Shorthands; shapes as in docs/ops.md. --- */

static inline demist_attrs demist_no_attrs(void)
{
    demist_attrs attrs;
    memset(&attrs, 0, sizeof attrs);
    return attrs;
}

static inline const demist_node *demist_unary(demist_builder *b, demist_op op, const demist_node *x)
{
    return b->op(b, op, 1, &x, NULL, 0, NULL);
}

static inline const demist_node *demist_binary(demist_builder *b, demist_op op,
                                               const demist_node *x, const demist_node *y)
{
    const demist_node *inputs[2] = {x, y};
    return b->op(b, op, 2, inputs, NULL, 0, NULL);
}

static inline const demist_node *demist_add(demist_builder *b, const demist_node *x,
                                            const demist_node *y)
{
    return demist_binary(b, DEMIST_OP_ADD, x, y);
}

static inline const demist_node *demist_mul(demist_builder *b, const demist_node *x,
                                            const demist_node *y)
{
    return demist_binary(b, DEMIST_OP_MUL, x, y);
}

/* scale·x + shift */
static inline const demist_node *demist_affine(demist_builder *b, const demist_node *x, float scale,
                                               float shift)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.affine.a = scale;
    attrs.affine.b = shift;
    return b->op(b, DEMIST_OP_AFFINE, 1, &x, &attrs, 0, NULL);
}

/* x [..,K], weight [O,K], bias [O] or NULL -> [..,O] */
static inline const demist_node *demist_linear(demist_builder *b, const demist_node *x,
                                               const demist_node *weight, const demist_node *bias)
{
    const demist_node *inputs[3] = {x, weight, bias};
    return b->op(b, DEMIST_OP_LINEAR, bias ? 3 : 2, inputs, NULL, 0, NULL);
}

/* x [N,C,H,W], weight [O,C,k,k], bias [O] or NULL, the same padding on every side */
static inline const demist_node *demist_conv2d(demist_builder *b, const demist_node *x,
                                               const demist_node *weight, const demist_node *bias,
                                               int32_t stride, int32_t pad)
{
    const demist_node *inputs[3] = {x, weight, bias};
    demist_attrs attrs = demist_no_attrs();
    for (int i = 0; i < 2; i++) {
        attrs.conv.stride[i] = stride;
        attrs.conv.dilation[i] = 1;
        attrs.conv.pad[i] = attrs.conv.pad[i + 2] = pad;
    }
    attrs.conv.groups = 1;
    return b->op(b, DEMIST_OP_CONV2D, bias ? 3 : 2, inputs, &attrs, 0, NULL);
}

/* x [N,C,H,W], weight [C,O,k,k] -> [N, O, (H−1)·stride − 2·pad + k, …] */
static inline const demist_node *demist_conv_transpose2d(demist_builder *b, const demist_node *x,
                                                         const demist_node *weight,
                                                         const demist_node *bias, int32_t stride,
                                                         int32_t pad)
{
    const demist_node *inputs[3] = {x, weight, bias};
    demist_attrs attrs = demist_no_attrs();
    for (int i = 0; i < 2; i++) {
        attrs.conv.stride[i] = stride;
        attrs.conv.dilation[i] = 1;
        attrs.conv.pad[i] = attrs.conv.pad[i + 2] = pad;
    }
    attrs.conv.groups = 1;
    return b->op(b, DEMIST_OP_CONV_TRANSPOSE2D, bias ? 3 : 2, inputs, &attrs, 0, NULL);
}

/* gamma, beta [C]; both, or beta alone, may be NULL */
static inline const demist_node *demist_group_norm(demist_builder *b, const demist_node *x,
                                                   const demist_node *gamma,
                                                   const demist_node *beta, int32_t groups,
                                                   float eps)
{
    const demist_node *inputs[3] = {x, gamma, beta};
    demist_attrs attrs = demist_no_attrs();
    attrs.norm.groups = groups;
    attrs.norm.eps = eps;
    return b->op(b, DEMIST_OP_GROUP_NORM, !gamma ? 1 : beta ? 3 : 2, inputs, &attrs, 0, NULL);
}

static inline const demist_node *demist_batch_norm(demist_builder *b, const demist_node *x,
                                                   const demist_node *gamma,
                                                   const demist_node *beta, const demist_node *mean,
                                                   const demist_node *variance, float eps)
{
    const demist_node *inputs[5] = {x, gamma, beta, mean, variance};
    demist_attrs attrs = demist_no_attrs();
    attrs.norm.eps = eps;
    return b->op(b, DEMIST_OP_BATCH_NORM, 5, inputs, &attrs, 0, NULL);
}

/* q [N,h,D,L], k [N,h,D,M], v [N,h,E,M] -> [N,h,E,L]: v·softmax(scale·qᵀk)ᵀ */
static inline const demist_node *demist_attention(demist_builder *b, const demist_node *q,
                                                  const demist_node *k, const demist_node *v,
                                                  float scale)
{
    const demist_node *inputs[3] = {q, k, v};
    demist_attrs attrs = demist_no_attrs();
    attrs.attention.scale = scale;
    return b->op(b, DEMIST_OP_ATTENTION, 3, inputs, &attrs, 0, NULL);
}

/* MAX_POOL2D or AVG_POOL2D, stride = kernel */
static inline const demist_node *demist_pool2d(demist_builder *b, demist_op op,
                                               const demist_node *x, int32_t kernel)
{
    demist_attrs attrs = demist_no_attrs();
    for (int i = 0; i < 2; i++)
        attrs.pool.kernel[i] = attrs.pool.stride[i] = kernel;
    return b->op(b, op, 1, &x, &attrs, 0, NULL);
}

static inline const demist_node *demist_upsample_nearest(demist_builder *b, const demist_node *x,
                                                         int32_t factor)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.upsample.factor = factor;
    return b->op(b, DEMIST_OP_UPSAMPLE_NEAREST, 1, &x, &attrs, 0, NULL);
}

/* shape[0] = DEMIST_BATCH for a batched value; one other dimension may be 0: it is inferred */
static inline const demist_node *demist_reshape(demist_builder *b, const demist_node *x,
                                                int32_t rank, const int64_t *shape)
{
    return b->op(b, DEMIST_OP_RESHAPE, 1, &x, NULL, rank, shape);
}

static inline const demist_node *demist_slice(demist_builder *b, const demist_node *x, int32_t axis,
                                              int64_t start, int64_t length)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.slice.axis = axis;
    attrs.slice.step = 1;
    attrs.slice.start = start;
    attrs.slice.length = length;
    return b->op(b, DEMIST_OP_SLICE, 1, &x, &attrs, 0, NULL);
}

static inline const demist_node *demist_concat(demist_builder *b, int32_t axis, int32_t n,
                                               const demist_node *const *values)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.axis.axis = axis;
    return b->op(b, DEMIST_OP_CONCAT, n, values, &attrs, 0, NULL);
}

#ifdef __cplusplus
}
#endif
#endif

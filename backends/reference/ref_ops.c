/* Which function computes which op, what it needs and what it costs. */
#include "ref_ops.h"

#include <demist/checks.h>

ref_op ref_op_function(demist_op op)
{
    switch (op) {
    case DEMIST_OP_SCALAR:
        return ref_scalar;
    case DEMIST_OP_NEG:
    case DEMIST_OP_ABS:
    case DEMIST_OP_EXP:
    case DEMIST_OP_LOG:
    case DEMIST_OP_SQRT:
    case DEMIST_OP_SIN:
    case DEMIST_OP_COS:
    case DEMIST_OP_TANH:
    case DEMIST_OP_ERF:
    case DEMIST_OP_SIGMOID:
    case DEMIST_OP_RELU:
    case DEMIST_OP_SILU:
    case DEMIST_OP_GELU:
        return ref_unary;
    case DEMIST_OP_AFFINE:
        return ref_affine;
    case DEMIST_OP_CLAMP:
        return ref_clamp;
    case DEMIST_OP_CAST:
        return ref_cast;
    case DEMIST_OP_ADD:
    case DEMIST_OP_SUB:
    case DEMIST_OP_MUL:
    case DEMIST_OP_DIV:
    case DEMIST_OP_MIN:
    case DEMIST_OP_MAX:
    case DEMIST_OP_LESS:
        return ref_binary;
    case DEMIST_OP_SELECT:
        return ref_select;
    case DEMIST_OP_LINCOMB:
        return ref_lincomb;
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
    case DEMIST_OP_BATCH_SUM:
        return ref_reduce;
    case DEMIST_OP_SOFTMAX:
        return ref_softmax;
    case DEMIST_OP_LINEAR:
        return ref_linear;
    case DEMIST_OP_MATMUL:
        return ref_matmul;
    case DEMIST_OP_CONV2D:
        return ref_conv2d;
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return ref_conv_transpose2d;
    case DEMIST_OP_ATTENTION:
        return ref_attention;
    case DEMIST_OP_GROUP_NORM:
        return ref_group_norm;
    case DEMIST_OP_BATCH_NORM:
        return ref_batch_norm;
    case DEMIST_OP_LAYER_NORM:
        return ref_layer_norm;
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        return ref_pool2d;
    case DEMIST_OP_UPSAMPLE_NEAREST:
        return ref_upsample_nearest;
    case DEMIST_OP_RESIZE_BILINEAR:
        return ref_resize_bilinear;
    case DEMIST_OP_RESHAPE:
        return ref_reshape;
    case DEMIST_OP_TRANSPOSE:
        return ref_transpose;
    case DEMIST_OP_SLICE:
        return ref_slice;
    case DEMIST_OP_CONCAT:
        return ref_concat;
    case DEMIST_OP_PAD:
        return ref_pad;
    case DEMIST_OP_EXPAND:
        return ref_expand;
    case DEMIST_OP_EMBEDDING:
        return ref_embedding;
    case DEMIST_OP_PHILOX_NORMAL:
    case DEMIST_OP_PHILOX_UNIFORM:
        return ref_philox;
    case DEMIST_OP_INPUT:
    case DEMIST_OP_PARAM:
    case DEMIST_OP_CONSTANT:
    case DEMIST_OP_FUSED:
        break;
    }
    return NULL;
}

static bool is_known_type(demist_dtype dtype)
{
    return dtype == DEMIST_F32 || dtype == DEMIST_I32;
}

bool ref_op_supports(const demist_node *node, const char **why)
{
    *why = NULL;
    const bool leaf = node->op == DEMIST_OP_INPUT || node->op == DEMIST_OP_PARAM ||
                      node->op == DEMIST_OP_CONSTANT;
    if (node->op == DEMIST_OP_FUSED)
        *why = "the reference computes every node on its own";
    else if (!leaf && !ref_op_function(node->op))
        *why = "the reference does not know this op: it is older than the graph";
    else if (!is_known_type(node->dtype))
        *why = "the reference computes f32 and i32 values only";
    for (int32_t i = 0; i < node->n_inputs && !*why; i++)
        if (!demist_type_fits(node, i))
            *why = "an input has an element type that the op does not take";
    return *why == NULL;
}

/* Depth of the products: terms of each output element's sum. */
static double product_depth(const demist_node *node)
{
    if (node->n_inputs < 2)
        return 0;
    const demist_node *a = node->inputs[0], *w = node->inputs[1];
    switch (node->op) {
    case DEMIST_OP_LINEAR:
        return (double)w->shape[1];
    case DEMIST_OP_MATMUL:
        return (double)a->shape[a->rank - (node->attrs.matmul.transpose_a ? 2 : 1)];
    case DEMIST_OP_CONV2D:
        return (double)w->shape[1] * (double)w->shape[2] * (double)w->shape[3];
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return (double)w->shape[0] / node->attrs.conv.groups;
    case DEMIST_OP_ATTENTION: /* q's channels, and a logit for each key */
        return (double)w->shape[2] + (double)w->shape[3];
    default:
        return 0;
    }
}

double ref_op_scratch(const demist_node *node)
{
    return product_depth(node) * REF_TILE * (double)sizeof(double);
}

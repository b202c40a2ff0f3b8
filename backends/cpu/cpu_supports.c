/* Which nodes the backend computes, and which chains as one step. */
#include "cpu_program.h"

#include <demist/checks.h>

#include <string.h>

static const char *why_not(const demist_node *node)
{
    if (node->op == DEMIST_OP_LINCOMB && node->n_inputs + 1 > CPU_MAX_OPERANDS)
        return "lincomb takes 7 terms at most here";
    const char *why = demist_why_not(node);
    if (!why && node->op == DEMIST_OP_FUSED)
        cpu_fuses(node, &why);
    return why;
}

bool cpu_supports(demist_device *device, const demist_node *node, const char **why)
{
    (void)device;
    *why = why_not(node);
    return *why == NULL;
}

static bool same_shape(const demist_node *a, const demist_node *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, sizeof *a->shape * (size_t)a->rank) == 0;
}

static bool in_body(const demist_node *fused, const demist_node *node)
{
    for (int32_t i = 0; i < fused->n_body; i++)
        if (fused->body[i] == node)
            return true;
    return false;
}

/* The operand of body[i] that is not the chain's: NULL unless body[i] is binary and its other
 * operand is body[i-1]. */
static const demist_node *outer_operand(const demist_node *fused, int32_t i)
{
    const demist_node *node = fused->body[i];
    if (node->op < DEMIST_OP_ADD || node->op > DEMIST_OP_LESS)
        return NULL;
    const demist_node *other = node->inputs[node->inputs[0] == fused->body[i - 1] ? 1 : 0];
    return in_body(fused, other) ? NULL : other;
}

/* One value for a channel (axis 1), maybe another for each image. */
static bool is_per_channel(const demist_node *operand, const demist_node *result)
{
    for (int32_t i = 0; i < operand->rank; i++) {
        const int32_t axis = result->rank - operand->rank + i;
        if (operand->shape[i] != 1 && axis != 1 && !(axis == 0 && demist_is_batched(operand)))
            return false;
    }
    return true;
}

static bool is_unary(const demist_node *node)
{
    return node->op >= DEMIST_OP_NEG && node->op <= DEMIST_OP_CLAMP;
}

/* Whether body[i] can follow a product or a normalisation on its tile. */
static bool follows(const demist_node *fused, int32_t i)
{
    const demist_node *node = fused->body[i], *first = fused->body[0];
    const demist_node *operand = outer_operand(fused, i);
    if (!same_shape(node, first) || (first->op == DEMIST_OP_LINEAR && first->rank > 4) ||
        (first->op == DEMIST_OP_LAYER_NORM && first->rank > 4))
        return false;
    if (fused->attrs.fused.pattern == DEMIST_PATTERN_NORM && first->op != DEMIST_OP_LAYER_NORM) {
        /* scale and shift take these; the activation comes last */
        if (operand)
            return is_per_channel(operand, node) &&
                   (node->op == DEMIST_OP_MUL || node->op == DEMIST_OP_ADD ||
                    node->op == DEMIST_OP_SUB);
        return node->op == DEMIST_OP_AFFINE || node->op == DEMIST_OP_NEG ||
               (cpu_is_activation(node->op) && i == fused->n_body - 1);
    }
    return is_unary(node) || operand;
}

/* A batch_norm behind a convolution goes into its weights if all of them are parameters. */
static bool folds_norm(const demist_node *fused, int32_t i)
{
    const demist_node *norm = fused->body[i], *first = fused->body[0];
    bool fixed = i == 1 && norm->op == DEMIST_OP_BATCH_NORM && norm->inputs[0] == first &&
                 first->op != DEMIST_OP_LINEAR;
    for (int32_t k = 1; k < norm->n_inputs; k++)
        fixed = fixed && cpu_is_fixed(norm->inputs[k]);
    for (int32_t k = 1; k < first->n_inputs; k++)
        fixed = fixed && cpu_is_fixed(first->inputs[k]);
    return fixed;
}

static bool first_fits(const demist_node *fused)
{
    const demist_node *first = fused->body[0];
    switch (first->op) {
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
    case DEMIST_OP_LINEAR:
        return fused->attrs.fused.pattern == DEMIST_PATTERN_PRODUCT;
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return fused->attrs.fused.pattern == DEMIST_PATTERN_NORM;
    default:
        return fused->attrs.fused.pattern == DEMIST_PATTERN_ELEMENTWISE;
    }
}

bool cpu_fuses(const demist_node *fused, const char **why)
{
    const bool elementwise = fused->attrs.fused.pattern == DEMIST_PATTERN_ELEMENTWISE;
    *why = fused->n_body > 0 ? NULL : "a fusion of nothing";
    for (int32_t i = 0; i < fused->n_body && !*why; i++)
        *why = why_not(fused->body[i]);
    if (!*why && (fused->n_inputs + 1 > CPU_MAX_OPERANDS || fused->n_body > CPU_MAX_POSTS))
        *why = "too many inputs or ops for one loop";
    if (!*why && !first_fits(fused))
        *why = "not a pattern that is computed as one";
    for (int32_t i = elementwise ? 0 : 1; i < fused->n_body && !*why; i++) {
        const demist_node *node = fused->body[i];
        const bool simple = is_unary(node) || node->op == DEMIST_OP_SELECT ||
                            (node->op >= DEMIST_OP_ADD && node->op <= DEMIST_OP_LESS);
        if (elementwise ? !(simple && same_shape(node, fused))
                        : !(follows(fused, i) || folds_norm(fused, i)))
            *why = "an op of the chain is not computed with the ones before it";
    }
    return *why == NULL;
}

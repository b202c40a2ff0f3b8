/* Which nodes the backend computes, and which chains as one. */
#include "ocl_program.h"

#include <demist/checks.h>

#include <string.h>

static const char *why_not(const demist_node *node)
{
    if (node->op == DEMIST_OP_LINCOMB && node->n_inputs > OCL_MAX_OPERANDS)
        return "lincomb takes 7 terms at most here";
    return demist_why_not(node);
}

static bool same_shape(const demist_node *a, const demist_node *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, sizeof *a->shape * (size_t)a->rank) == 0;
}

/* Whether body[i] can follow a product: a batch_norm over its columns, or elementwise. */
static bool follows_product(const demist_node *fused, int32_t i)
{
    const demist_node *node = fused->body[i], *first = fused->body[0];
    if (node->op == DEMIST_OP_BATCH_NORM)
        return node->inputs[0] == fused->body[i - 1] &&
               (first->op != DEMIST_OP_LINEAR || first->rank == 2);
    return ocl_is_elementwise(node->op) && node->op != DEMIST_OP_LINCOMB && first->rank <= 4;
}

static const char *why_not_fused(const demist_node *fused)
{
    const demist_node *first = fused->n_body > 0 ? fused->body[0] : NULL;
    const demist_pattern pattern = (demist_pattern)fused->attrs.fused.pattern;
    /* A bias, a folded norm and statistics are operands beside the node's inputs. */
    if (!first || fused->n_inputs + 4 > OCL_MAX_OPERANDS || fused->n_body + 4 > OCL_MAX_CHAIN)
        return "too many inputs or ops for one kernel";
    for (int32_t i = 0; i < fused->n_body; i++) {
        const demist_node *node = fused->body[i];
        const char *why = why_not(node);
        if (why)
            return why;
        bool fits = same_shape(node, fused);
        if (i == 0 && pattern == DEMIST_PATTERN_PRODUCT)
            fits = fits && (node->op == DEMIST_OP_CONV2D || node->op == DEMIST_OP_LINEAR ||
                            node->op == DEMIST_OP_CONV_TRANSPOSE2D);
        else if (i == 0 && pattern == DEMIST_PATTERN_NORM)
            fits = fits && (node->op == DEMIST_OP_GROUP_NORM || node->op == DEMIST_OP_BATCH_NORM ||
                            node->op == DEMIST_OP_LAYER_NORM);
        else if (pattern == DEMIST_PATTERN_PRODUCT)
            fits = fits && follows_product(fused, i);
        else
            fits = fits && ocl_is_elementwise(node->op) && node->op != DEMIST_OP_LINCOMB;
        if (!fits)
            return "an op of the chain is not computed with the ones before it";
    }
    return NULL;
}

/* f16 is how values are stored; the functions that load and store halves are every device's. */
bool ocl_has_precision(demist_device *device, demist_precision precision)
{
    (void)device;
    return precision == DEMIST_PRECISION_F32 || precision == DEMIST_PRECISION_STRICT ||
           precision == DEMIST_PRECISION_F16;
}

bool ocl_supports(demist_device *device, const demist_node *node, const char **why)
{
    (void)device;
    *why = why_not(node);
    if (!*why && node->op == DEMIST_OP_FUSED)
        *why = why_not_fused(node);
    return *why == NULL;
}

/* See op_bounds.h. u = 2^-24, half a unit in the last place relative to 1.
 *
 * - Moves, comparisons, noise: 0.
 * - One rounding (add, div, …): 2 u |y|; functions: 8 u max(|y|, 1), exp and sqrt 8 u |y|.
 * - Sums of products: 32 u S, S = Σ |a||b|, which the reference computes from the operands'
 *   absolute values. A float32 chain of n fused steps stays below n u S and is mostly near √n u S;
 *   Winograd F(4×4) loses one digit more.
 * - Softmax, attention, norms, chains: 64 u max|y|, times 1 + max|x| for the norms, whose mean
 *   cancels. */
#include "testing.h"

#include "op_bounds.h"

#include <math.h>

static const double u = 0x1p-24;

enum rule { EXACT, ROUNDED, RELATIVE, FUNCTION, SUMS, NORM, LARGEST };

static enum rule rule_of(const struct op_case *c)
{
    switch ((int)c->op) {
    case 0: /* a chain */
    case DEMIST_OP_SOFTMAX:
    case DEMIST_OP_ATTENTION:
    case DEMIST_OP_RESIZE_BILINEAR:
        return LARGEST;
    case DEMIST_OP_SIN:
    case DEMIST_OP_COS:
    case DEMIST_OP_TANH:
    case DEMIST_OP_ERF:
    case DEMIST_OP_SIGMOID:
    case DEMIST_OP_SILU:
    case DEMIST_OP_GELU:
    case DEMIST_OP_LOG:
        return FUNCTION;
    case DEMIST_OP_EXP:
    case DEMIST_OP_SQRT:
        return RELATIVE;
    case DEMIST_OP_ADD:
    case DEMIST_OP_SUB:
    case DEMIST_OP_MUL:
    case DEMIST_OP_DIV:
    case DEMIST_OP_PHILOX_UNIFORM:
        return ROUNDED;
    case DEMIST_OP_AFFINE:
    case DEMIST_OP_LINCOMB:
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AVG_POOL2D:
    case DEMIST_OP_LINEAR:
    case DEMIST_OP_MATMUL:
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return SUMS;
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return NORM;
    default:
        return EXACT;
    }
}

static double largest(const float *x, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++)
        m = isfinite(x[i]) ? fmax(m, fabs((double)x[i])) : m;
    return m;
}

/* The case computed from absolute values: of what is summed, Σ |…|. free() it. */
static float *magnitudes(struct harness *reference, const struct op_case *c, int64_t n)
{
    struct op_case positive = *c;
    void *operands[OP_CASE_OPERANDS] = {NULL};
    const void *inputs[OP_CASE_OPERANDS];
    int32_t n_inputs = 0;
    for (int32_t i = 0; i < c->n; i++) {
        float *x = operands[i] = op_case_data(c, i);
        const int64_t elements = op_case_elements(c, i, OP_CASE_BATCH);
        for (int64_t k = 0; k < elements; k++)
            x[k] = fabsf(x[k]);
        if (c->in[i].rank > 0 && c->in[i].shape[0] == DEMIST_BATCH)
            inputs[n_inputs++] = operands[i];
    }
    if (c->op == DEMIST_OP_AFFINE) {
        positive.attrs.affine.a = fabsf(c->attrs.affine.a);
        positive.attrs.affine.b = fabsf(c->attrs.affine.b);
    }
    struct dm_graph *graph = op_case_build(&positive, OP_CASE_CONSTANTS, operands);
    float *out = harness_run(reference, dm_graph_view(graph), OP_CASE_BATCH,
                             DEMIST_PRECISION_STRICT, 0, inputs, op_case_scalars, n);
    dm_graph_destroy(graph);
    for (int32_t i = 0; i < c->n; i++)
        free(operands[i]);
    return out;
}

static int64_t result_elements(const struct op_case *c, int64_t n)
{
    void *operands[OP_CASE_OPERANDS] = {NULL};
    for (int32_t i = 0; i < c->n; i++)
        operands[i] = op_case_data(c, i);
    struct dm_graph *graph = op_case_build(c, OP_CASE_CONSTANTS, operands);
    const size_t bytes = harness_bytes(dm_graph_view(graph)->outputs[0], n);
    dm_graph_destroy(graph);
    for (int32_t i = 0; i < c->n; i++)
        free(operands[i]);
    return (int64_t)(bytes / sizeof(float));
}

void op_bounds_init(struct op_bounds *bounds, struct harness *reference, const struct op_case *c,
                    int64_t n, const float *wanted)
{
    const enum rule rule = rule_of(c);
    const int64_t elements = result_elements(c, n);
    float *sums = rule == SUMS ? magnitudes(reference, c, n) : NULL;
    double all = rule == NORM || rule == LARGEST ? largest(wanted, elements) : 0;
    if (rule == NORM) {
        float *x = op_case_data(c, 0);
        all *= 1 + largest(x, op_case_elements(c, 0, OP_CASE_BATCH));
        free(x);
    }
    assert_non_null(bounds->bound = calloc((size_t)elements, sizeof(double)));
    for (int64_t i = 0; i < elements; i++) {
        const double y = fabs((double)wanted[i]);
        bounds->bound[i] = rule == ROUNDED    ? 2 * u * y
                           : rule == RELATIVE ? 8 * u * y
                           : rule == FUNCTION ? 8 * u * fmax(y, 1)
                           : rule == SUMS     ? 32 * u * sums[i]
                           : rule == EXACT    ? 0
                                              : 64 * u * all;
    }
    free(sums);
}

void op_bounds_finish(struct op_bounds *bounds)
{
    free(bounds->bound);
}

bool op_bounds_hold(const struct op_bounds *bounds, const demist_node *out, int64_t n,
                    const void *wanted, const void *got, struct op_difference *d)
{
    const int64_t elements = (int64_t)(harness_bytes(out, n) / 4);
    for (int64_t i = 0; i < elements; i++) {
        *d = (struct op_difference){.element = i, .bound = bounds->bound[i]};
        const bool ids = out->dtype == DEMIST_I32;
        d->got = ids ? ((const int32_t *)got)[i] : (double)((const float *)got)[i];
        d->wanted = ids ? ((const int32_t *)wanted)[i] : (double)((const float *)wanted)[i];
        d->error = fabs(d->got - d->wanted);
        const bool equal = d->got == d->wanted || (isnan(d->got) && isnan(d->wanted));
        if (!equal && !(d->error <= d->bound))
            return false;
    }
    return true;
}

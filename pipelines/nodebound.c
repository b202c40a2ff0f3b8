#include "nodebound.h"

#include <math.h>

static int64_t elements_of(const demist_node *node, int64_t n)
{
    return demist_elements(node) * (demist_is_batched(node) ? n : 1);
}

static double largest_of(const float *x, int64_t n)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = isfinite(x[i]) ? fmax(largest, fabs((double)x[i])) : largest;
    return largest;
}

double dm_node_largest(const demist_node *node, const void *data, int64_t n)
{
    return data && node->dtype == DEMIST_F32 ? largest_of(data, elements_of(node, n)) : 0;
}

/* ---------------------------------------------------------------- conditions */

/* The largest max|x|/√(variance + eps) of the blocks over which a norm goes. */
static double norm_condition(const float *x, int64_t elements, int64_t block, double eps)
{
    double condition = 0;
    for (int64_t start = 0; start + block <= elements; start += block) {
        double mean = 0, variance = 0;
        for (int64_t i = start; i < start + block; i++)
            mean += x[i] / (double)block;
        for (int64_t i = start; i < start + block; i++)
            variance += (x[i] - mean) * (x[i] - mean) / (double)block;
        condition = fmax(condition, largest_of(x + start, block) / sqrt(variance + eps));
    }
    return condition;
}

/* The largest |scale·qᵀk|. q: [N,h,D,L], k: [N,h,D,M]. */
static double logit_condition(const demist_node *node, const float *q, const float *k, int64_t n)
{
    const int64_t *shape = node->inputs[0]->shape, keys = node->inputs[1]->shape[3];
    int64_t heads = n * shape[1], depth = shape[2], queries = shape[3];
    double condition = 0;
    for (int64_t head = 0; head < heads; head++)
        for (int64_t l = 0; l < queries; l++)
            for (int64_t m = 0; m < keys; m++) {
                double sum = 0;
                for (int64_t d = 0; d < depth; d++)
                    sum += (double)q[(head * depth + d) * queries + l] *
                           k[(head * depth + d) * keys + m];
                condition = fmax(condition, fabs(sum));
            }
    return condition * fabs((double)node->attrs.attention.scale);
}

/* The largest |gamma|·(|x| + |mean|)/√(variance + eps) + |beta|. */
static double batch_norm_condition(const demist_node *node, const double *in, const float *gamma,
                                   const float *variance)
{
    double slope = 0;
    for (int64_t c = 0; c < node->inputs[1]->shape[0]; c++)
        slope = fmax(slope, fabs((double)gamma[c]) /
                                sqrt((double)variance[c] + (double)node->attrs.norm.eps));
    return slope * (in[0] + in[3]) + in[2];
}

static double condition_of(const demist_node *node, int64_t n, const double *in, dm_node_data *data,
                           void *user)
{
    const demist_node *x = node->n_inputs > 0 ? node->inputs[0] : NULL;
    const float *values = x ? data(user, x) : NULL;
    if (!values)
        return 0;
    int64_t elements = elements_of(x, n);
    switch ((int)node->op) {
    case DEMIST_OP_GROUP_NORM:
        return norm_condition(values, elements, demist_elements(x) / node->attrs.norm.groups,
                              (double)node->attrs.norm.eps);
    case DEMIST_OP_LAYER_NORM:
        return norm_condition(values, elements, x->shape[x->rank - 1],
                              (double)node->attrs.norm.eps);
    case DEMIST_OP_BATCH_NORM: {
        const float *gamma = data(user, node->inputs[1]), *variance = data(user, node->inputs[4]);
        return gamma && variance ? batch_norm_condition(node, in, gamma, variance) : 0;
    }
    case DEMIST_OP_ATTENTION: {
        const float *k = data(user, node->inputs[1]);
        return k ? logit_condition(node, values, k, n) : 0;
    }
    case DEMIST_OP_BATCH_SUM:
        return (double)n;
    case DEMIST_OP_FUSED: /* only its first node can be a norm, and reads from outside */
        return condition_of(node->body[0], n, in, data, user);
    default:
        return 0;
    }
}

/* ---------------------------------------------------------------- tolerances */

struct dm_tolerance dm_node_tolerance(const demist_node *node, demist_precision precision,
                                      int64_t n, double largest, dm_node_data *data, void *user)
{
    enum { MOST = 256 };
    double in[MOST] = {0};
    if (node->n_inputs > MOST)
        return (struct dm_tolerance){INFINITY, 0};
    for (int32_t i = 0; i < node->n_inputs; i++)
        in[i] = dm_node_largest(node->inputs[i], data(user, node->inputs[i]), n);
    struct dm_magnitudes magnitudes = {largest, in, -1, condition_of(node, n, in, data, user)};
    return dm_op_tolerance(node, precision, &magnitudes);
}

struct dm_tolerance dm_tolerance_sum(struct dm_tolerance a, struct dm_tolerance b)
{
    return (struct dm_tolerance){a.abs + b.abs, a.rel + b.rel};
}

double dm_network_tolerance(demist_precision precision)
{
    switch (precision) {
    case DEMIST_PRECISION_F32:
    case DEMIST_PRECISION_STRICT:
        break;
    case DEMIST_PRECISION_TF32:
        return 3e-3;
    case DEMIST_PRECISION_F16:
        return 0x1p-6;
    case DEMIST_PRECISION_BF16:
        return 0x1p-3;
    }
    return 2e-5;
}

/* ---------------------------------------------------------------- comparing */

static double value_at(const demist_node *node, const void *data, int64_t i)
{
    return node->dtype == DEMIST_I32 ? ((const int32_t *)data)[i]
                                     : (double)((const float *)data)[i];
}

static double difference(double got, double exact)
{
    if (got == exact || (isnan(got) && isnan(exact)))
        return 0;
    double d = fabs(got - exact);
    return isfinite(d) ? d : INFINITY;
}

struct dm_node_error dm_node_compare(const demist_node *node, int64_t n,
                                     struct dm_tolerance tolerance, const void *got,
                                     const void *exact)
{
    struct dm_node_error e = {.element = -1};
    double scale = 0;
    for (int64_t i = 0; i < elements_of(node, n); i++) {
        double g = value_at(node, got, i), x = value_at(node, exact, i), d = difference(g, x);
        scale = isfinite(x) ? fmax(scale, fabs(x)) : scale;
        if (d == 0)
            continue;
        double allowed = isfinite(x) ? tolerance.abs + tolerance.rel * fabs(x) : 0;
        double ratio = isinf(allowed)                              ? 0
                       : dm_within(tolerance, g, x) && allowed > 0 ? d / allowed
                       : allowed > 0                               ? fmax(d / allowed, 1 + 1e-9)
                                                                   : INFINITY;
        e.largest = fmax(e.largest, d);
        if (e.element < 0 || ratio > e.ratio) {
            e.ratio = ratio;
            e.bound = allowed;
            e.element = i;
            e.got = g;
            e.exact = x;
        }
    }
    e.relative = scale > 0 ? e.largest / scale : e.largest > 0 ? INFINITY : 0;
    return e;
}

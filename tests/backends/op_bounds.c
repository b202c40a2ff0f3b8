/* See op_bounds.h. The tolerances of core/optolerance.h want magnitudes, and for products under
 * STRICT the error of one float32 FMA chain, which is measured here by computing it. */
#include "testing.h"

#include "op_bounds.h"

#include "harness.h"

#include <math.h>

static double largest(const void *data, int64_t n)
{
    const float *x = data;
    double m = 0;
    for (int64_t i = 0; i < n; i++)
        m = isfinite(x[i]) ? fmax(m, fabs((double)x[i])) : m;
    return m;
}

/* --- one float32 FMA chain beside the exact sum --- */

struct chain {
    float sum;
    double exact;
};

static void term(struct chain *chain, float a, float b)
{
    chain->sum = fmaf(a, b, chain->sum);
    chain->exact += (double)a * b;
}

static double chain_difference(const struct chain *chain)
{
    return fabs((double)chain->sum - chain->exact);
}

/* w [O,K] times each row of x */
static double linear_error(const struct op_case *c, const float *x, const float *w, int64_t rows)
{
    const int64_t outputs = c->in[1].shape[0], depth = c->in[1].shape[1];
    double error = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < outputs; o++) {
            struct chain chain = {0};
            for (int64_t k = 0; k < depth; k++)
                term(&chain, x[r * depth + k], w[o * depth + k]);
            error = fmax(error, chain_difference(&chain));
        }
    return error;
}

/* Where the which-th matrix of an operand starts, counted over the result's axes in front. */
static const float *matrix_of(const struct op_operand *in, const demist_node *out,
                              const float *data, int64_t which)
{
    int64_t offset = 0, step = in->shape[in->rank - 2] * in->shape[in->rank - 1];
    for (int32_t i = in->rank - 3, o = out->rank - 3; o >= 0 && i >= 0; i--, o--) {
        const bool batch = out->shape[o] == DEMIST_BATCH; /* the first axis: all that is left */
        const int64_t at = batch ? which : which % out->shape[o];
        offset += in->shape[i] == 1 ? 0 : at * step;
        step *= batch ? 1 : in->shape[i];
        which /= batch ? 1 : out->shape[o];
    }
    return data + offset;
}

static double matmul_error(const struct op_case *c, const demist_node *out, const float *a,
                           const float *b, int64_t matrices)
{
    const struct op_operand *l = &c->in[0], *r = &c->in[1];
    const bool ta = c->attrs.matmul.transpose_a, tb = c->attrs.matmul.transpose_b;
    const int64_t a_row = ta ? 1 : l->shape[l->rank - 1], a_step = ta ? l->shape[l->rank - 1] : 1;
    const int64_t b_column = tb ? r->shape[r->rank - 1] : 1;
    const int64_t b_step = tb ? 1 : r->shape[r->rank - 1];
    const int64_t depth = l->shape[l->rank - (ta ? 2 : 1)], columns = out->shape[out->rank - 1];
    const int64_t size = out->shape[out->rank - 2] * columns;
    double error = 0;
    for (int64_t i = 0; i < matrices * size; i++) {
        const float *left = matrix_of(l, out, a, i / size) + i % size / columns * a_row;
        const float *right = matrix_of(r, out, b, i / size) + i % columns * b_column;
        struct chain chain = {0};
        for (int64_t k = 0; k < depth; k++)
            term(&chain, left[k * a_step], right[k * b_step]);
        error = fmax(error, chain_difference(&chain));
    }
    return error;
}

/* Where output position `out` meets the input through tap k of axis `axis`; false: nowhere. */
static bool meets(const struct op_case *c, int axis, int64_t out, int64_t k, int64_t *in)
{
    const int64_t stride = c->attrs.conv.stride[axis], pad = c->attrs.conv.pad[axis];
    const int64_t reach = k * c->attrs.conv.dilation[axis];
    const bool transposed = c->op == DEMIST_OP_CONV_TRANSPOSE2D;
    if (transposed && (out + pad - reach) % stride != 0)
        return false;
    *in = transposed ? (out + pad - reach) / stride : out * stride - pad + reach;
    return *in >= 0 && *in < c->in[0].shape[2 + axis];
}

/* The chain of one output element, o counted within group g. */
static double pixel_error(const struct op_case *c, const float *image, const float *w, int64_t g,
                          int64_t o, int64_t y, int64_t x)
{
    const bool transposed = c->op == DEMIST_OP_CONV_TRANSPOSE2D;
    const int64_t *xs = c->in[0].shape, *ws = c->in[1].shape, groups = c->attrs.conv.groups;
    const int64_t channels = xs[1] / groups, filters = transposed ? ws[1] : ws[0] / groups;
    struct chain chain = {0};
    for (int64_t ch = 0; ch < channels; ch++)
        for (int64_t ky = 0; ky < ws[2]; ky++)
            for (int64_t kx = 0; kx < ws[3]; kx++) {
                const int64_t plane = g * channels + ch;
                const int64_t filter =
                    transposed ? plane * filters + o : (g * filters + o) * channels + ch;
                int64_t iy, ix;
                if (meets(c, 0, y, ky, &iy) && meets(c, 1, x, kx, &ix))
                    term(&chain, image[(plane * xs[2] + iy) * xs[3] + ix],
                         w[(filter * ws[2] + ky) * ws[3] + kx]);
            }
    return chain_difference(&chain);
}

static double conv_error(const struct op_case *c, const demist_node *node, const float *x,
                         const float *w, int64_t images)
{
    const int64_t *xs = c->in[0].shape, *out = node->shape, groups = c->attrs.conv.groups;
    const int64_t filters = out[1] / groups;
    double error = 0;
    for (int64_t i = 0; i < images * out[1] * out[2] * out[3]; i++) {
        const int64_t column = i % out[3], row = i / out[3] % out[2];
        const int64_t filter = i / out[3] / out[2] % out[1], image = i / out[3] / out[2] / out[1];
        error = fmax(error, pixel_error(c, x + image * xs[1] * xs[2] * xs[3], w, filter / filters,
                                        filter % filters, row, column));
    }
    return error;
}

/* Negative for what is no product, or is none of one chain. */
static double chain_error(const struct op_case *c, const demist_node *node, void *const *operands,
                          int64_t n)
{
    switch ((int)c->op) {
    case DEMIST_OP_LINEAR:
        return linear_error(c, operands[0], operands[1],
                            op_case_elements(c, 0, n) / c->in[1].shape[1]);
    case DEMIST_OP_MATMUL:
        return matmul_error(c, node, operands[0], operands[1],
                            (int64_t)(harness_bytes(node, n) / sizeof(float)) /
                                (node->shape[node->rank - 2] * node->shape[node->rank - 1]));
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return conv_error(c, node, operands[0], operands[1],
                          demist_is_batched(node) ? n : node->shape[0]);
    default:
        return -1;
    }
}

/* --- dm_magnitudes.condition --- */

/* Norms over blocks of `block` elements: the largest max|x|/sqrt(variance + eps). */
static double norm_condition(const float *x, int64_t n, int64_t block, double eps)
{
    double condition = 0;
    for (; n > 0; n -= block, x += block) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < block; i++)
            mean += x[i] / (double)block;
        for (int64_t i = 0; i < block; i++)
            variance += (x[i] - mean) * (x[i] - mean) / (double)block;
        condition = fmax(condition, largest(x, block) / sqrt(variance + eps));
    }
    return condition;
}

/* The largest |gamma|/sqrt(variance + eps)·(|x| + |mean|) + |beta|. */
static double batch_norm_condition(const struct op_case *c, void *const *operands, double largest_x)
{
    const float *gamma = operands[1], *variance = operands[4];
    const int64_t channels = c->in[1].shape[0];
    double slope = 0;
    for (int64_t i = 0; i < channels; i++)
        slope = fmax(slope, fabs((double)gamma[i]) /
                                sqrt((double)variance[i] + (double)c->attrs.norm.eps));
    return slope * (largest_x + largest(operands[3], channels)) + largest(operands[2], channels);
}

/* The largest |scale·qᵀk|. */
static double logit_condition(const struct op_case *c, const float *q, const float *k, int64_t n)
{
    const int64_t *qs = c->in[0].shape, keys = c->in[1].shape[3];
    double condition = 0;
    for (int64_t head = 0; head < n * qs[1]; head++)
        for (int64_t i = 0; i < qs[3] * keys; i++) {
            double sum = 0;
            for (int64_t d = 0; d < qs[2]; d++)
                sum += (double)q[(head * qs[2] + d) * qs[3] + i / keys] *
                       k[(head * qs[2] + d) * keys + i % keys];
            condition = fmax(condition, fabs(sum * (double)c->attrs.attention.scale));
        }
    return condition;
}

static double condition_of(const struct op_case *c, void *const *operands, int64_t n)
{
    const int64_t elements = c->n > 0 ? op_case_elements(c, 0, n) : 0;
    const int64_t *shape = c->in[0].shape;
    switch ((int)c->op) {
    case DEMIST_OP_GROUP_NORM:
        return norm_condition(operands[0], elements, elements / n / c->attrs.norm.groups,
                              c->attrs.norm.eps);
    case DEMIST_OP_LAYER_NORM:
        return norm_condition(operands[0], elements, shape[c->in[0].rank - 1], c->attrs.norm.eps);
    case DEMIST_OP_BATCH_NORM:
        return batch_norm_condition(c, operands, largest(operands[0], elements));
    case DEMIST_OP_ATTENTION:
        return logit_condition(c, operands[0], operands[1], n);
    case DEMIST_OP_BATCH_SUM:
        return (double)n;
    default:
        return 0;
    }
}

/* --- bounds --- */

static struct dm_tolerance chain_bounds(const demist_node *out, int64_t n,
                                        demist_precision precision, const void *wanted)
{
    static const double relative[] = {2e-5, 5e-6, 0x1p-6, 0x1p-3, 0x1p-6};
    const int64_t elements = (int64_t)(harness_bytes(out, n) / sizeof(float));
    return (struct dm_tolerance){relative[precision] * largest(wanted, elements), 0};
}

struct dm_tolerance op_bounds(const struct op_case *c, const demist_graph *graph,
                              void *const *operands, int64_t n, demist_precision precision,
                              const void *wanted)
{
    const demist_node *node = graph->outputs[0];
    double in[OP_CASE_OPERANDS] = {0};
    if (c->chain)
        return chain_bounds(node, n, precision, wanted);
    for (int32_t i = 0; i < c->n; i++)
        in[i] = c->in[i].dtype == DEMIST_F32 ? largest(operands[i], op_case_elements(c, i, n)) : 0;
    struct dm_magnitudes magnitudes = {.in = in};
    if (node->dtype == DEMIST_F32)
        magnitudes.out = largest(wanted, (int64_t)(harness_bytes(node, n) / sizeof(float)));
    magnitudes.condition = condition_of(c, operands, n);
    magnitudes.chain_error = chain_error(c, node, operands, n);
    return dm_op_tolerance(node, precision, &magnitudes);
}

bool op_within(struct dm_tolerance tolerance, const demist_node *out, int64_t n, const void *wanted,
               const void *got, struct op_difference *d)
{
    const int64_t elements = (int64_t)(harness_bytes(out, n) / 4);
    const bool ids = out->dtype == DEMIST_I32;
    for (int64_t i = 0; i < elements; i++) {
        d->element = i;
        d->got = ids ? ((const int32_t *)got)[i] : (double)((const float *)got)[i];
        d->wanted = ids ? ((const int32_t *)wanted)[i] : (double)((const float *)wanted)[i];
        d->allowed = tolerance.abs + tolerance.rel * fabs(d->wanted);
        if (!dm_within(tolerance, d->got, d->wanted))
            return false;
    }
    return true;
}

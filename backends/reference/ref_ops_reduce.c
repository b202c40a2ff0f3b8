/* Reductions and normalisations: two passes in float64, so that a large mean costs no digits. */
#include "ref_ops.h"

#include <math.h>

enum { GRAIN = 4096 };

/* Σ x in a fixed order that compilers can vectorise: eight partial sums, then these in turn. */
static double sum_of(const float *x, int64_t n)
{
    double part[8] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            part[k] += x[i + k];
    for (int k = 0; k < 8; k++)
        sum += part[k];
    for (; i < n; i++)
        sum += x[i];
    return sum;
}

/* Σ (x − mean)² */
static double squares_around(const float *x, int64_t n, double mean)
{
    double part[8] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            part[k] += (x[i + k] - mean) * (x[i + k] - mean);
    for (int k = 0; k < 8; k++)
        sum += part[k];
    for (; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

/* --- SUM, MEAN, AMAX, BATCH_SUM --- */

/* The axes that are reduced, as a block that each output element walks through. */
struct reduction {
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK], step[DEMIST_MAX_RANK], count;
    int64_t kept_step[DEMIST_MAX_RANK];
};

/* To the next element of the block in row-major order; returns the new offset. */
static int64_t advance(const struct reduction *r, int64_t *index, int64_t offset)
{
    for (int32_t i = r->rank - 1; i >= 0; i--) {
        offset += r->step[i];
        if (++index[i] < r->shape[i])
            return offset;
        offset -= index[i] * r->step[i];
        index[i] = 0;
    }
    return offset;
}

static double reduce_block(const struct ref_call *call, const struct reduction *r, const float *x)
{
    int64_t index[DEMIST_MAX_RANK] = {0}, offset = 0;
    double value = call->op == DEMIST_OP_AMAX ? -(double)INFINITY : 0;
    for (int64_t i = 0; i < r->count; i++) {
        const double e = x[offset];
        if (call->op != DEMIST_OP_AMAX)
            value += e;
        else if (e > value || e != e) /* the first NaN stays: nothing compares with it */
            value = e;
        offset = advance(r, index, offset);
    }
    return call->op == DEMIST_OP_MEAN ? value / (double)r->count : value;
}

static void reduce_range(const struct ref_call *call, const void *state, int64_t first,
                         int64_t last)
{
    const struct reduction *r = (const struct reduction *)state;
    const struct ref_tensor *out = &call->out;
    for (int64_t i = first; i < last; i++) {
        const int64_t start = ref_offset(out->rank, out->shape, r->kept_step, i);
        ref_out(call)[i] = (float)reduce_block(call, r, ref_in(call, 0) + start);
    }
}

demist_status ref_reduce(const struct ref_call *call)
{
    const struct ref_tensor *x = &call->in[0];
    const uint32_t axes = call->op == DEMIST_OP_BATCH_SUM ? 1 : call->attrs->reduce.axes;
    struct reduction r = {.count = 1};
    int64_t step[DEMIST_MAX_RANK];
    ref_steps(x, step);
    for (int32_t i = 0; i < x->rank; i++) {
        r.kept_step[i] = step[i];
        if (!(axes >> i & 1))
            continue;
        r.kept_step[i] = 0;
        r.shape[r.rank] = x->shape[i];
        r.step[r.rank++] = step[i];
        r.count *= x->shape[i];
    }
    ref_ranges(call, &r, ref_elements(&call->out), 1 + GRAIN / r.count, reduce_range);
    return DEMIST_OK;
}

/* --- SOFTMAX --- */

/* exp(x − max) / Σ exp(x − max) along one axis; the elements of a line are `inner` apart. */
static void softmax_lines(const struct ref_call *call, const void *state, int64_t first,
                          int64_t last)
{
    (void)state;
    const struct ref_tensor *t = &call->in[0];
    const int32_t axis = call->attrs->axis.axis;
    const int64_t n = t->shape[axis], inner = ref_span(t, axis + 1, t->rank);
    for (int64_t line = first; line < last; line++) {
        const int64_t start = line / inner * n * inner + line % inner;
        const float *x = ref_in(call, 0) + start;
        float *y = ref_out(call) + start;
        double max = -(double)INFINITY, sum = 0;
        for (int64_t i = 0; i < n; i++)
            max = x[i * inner] > max ? x[i * inner] : max;
        for (int64_t i = 0; i < n; i++)
            sum += exp(x[i * inner] - max);
        for (int64_t i = 0; i < n; i++)
            y[i * inner] = (float)(exp(x[i * inner] - max) / sum);
    }
}

demist_status ref_softmax(const struct ref_call *call)
{
    const int64_t n = call->out.shape[call->attrs->axis.axis];
    ref_ranges(call, NULL, ref_elements(&call->out) / n, 1 + GRAIN / n, softmax_lines);
    return DEMIST_OK;
}

/* --- normalisations --- */

/* The i-th value of an optional per-channel input. */
static double channel_value(const struct ref_call *call, int32_t input, int64_t i, double absent)
{
    return input < call->n_inputs ? ref_in(call, input)[i] : absent;
}

/* x [N,C,…] -> (x − mean)/sqrt(variance + eps)·gamma + beta over each image's groups of channels;
 * the variance is the biased one. */
static void group_norm_range(const struct ref_call *call, const void *state, int64_t first,
                             int64_t last)
{
    (void)state;
    const struct ref_tensor *t = &call->in[0];
    const int64_t groups = call->attrs->norm.groups, channels = t->shape[1] / groups;
    const int64_t plane = ref_span(t, 2, t->rank), n = channels * plane;
    for (int64_t i = first; i < last; i++) { /* i = image·groups + group */
        const float *x = ref_in(call, 0) + i * n;
        float *y = ref_out(call) + i * n;
        const double mean = sum_of(x, n) / (double)n;
        const double variance = squares_around(x, n, mean) / (double)n;
        const double scale = 1 / sqrt(variance + (double)call->attrs->norm.eps);
        for (int64_t k = 0; k < channels; k++) {
            const int64_t channel = i % groups * channels + k;
            const double gamma = channel_value(call, 1, channel, 1);
            const double beta = channel_value(call, 2, channel, 0);
            for (int64_t p = k * plane; p < (k + 1) * plane; p++)
                y[p] = (float)((x[p] - mean) * scale * gamma + beta);
        }
    }
}

demist_status ref_group_norm(const struct ref_call *call)
{
    ref_ranges(call, NULL, call->out.shape[0] * call->attrs->norm.groups, 1, group_norm_range);
    return DEMIST_OK;
}

/* x [N,C,…] with the statistics given for each channel. */
static void batch_norm_range(const struct ref_call *call, const void *state, int64_t first,
                             int64_t last)
{
    (void)state;
    const struct ref_tensor *t = &call->in[0];
    const int64_t plane = ref_span(t, 2, t->rank);
    for (int64_t i = first; i < last; i++) { /* i = image·C + channel */
        const int64_t channel = i % t->shape[1];
        const double gamma = ref_in(call, 1)[channel], beta = ref_in(call, 2)[channel];
        const double mean = ref_in(call, 3)[channel], variance = ref_in(call, 4)[channel];
        const double scale = 1 / sqrt(variance + (double)call->attrs->norm.eps);
        for (int64_t p = i * plane; p < (i + 1) * plane; p++)
            ref_out(call)[p] = (float)((ref_in(call, 0)[p] - mean) * scale * gamma + beta);
    }
}

demist_status ref_batch_norm(const struct ref_call *call)
{
    const int64_t plane = ref_span(&call->out, 2, call->out.rank);
    ref_ranges(call, NULL, ref_span(&call->out, 0, 2), 1 + GRAIN / plane, batch_norm_range);
    return DEMIST_OK;
}

/* Over the last axis; gamma and beta have its length. */
static void layer_norm_range(const struct ref_call *call, const void *state, int64_t first,
                             int64_t last)
{
    (void)state;
    const int64_t n = call->out.shape[call->out.rank - 1];
    for (int64_t row = first; row < last; row++) {
        const float *x = ref_in(call, 0) + row * n;
        float *y = ref_out(call) + row * n;
        const double mean = sum_of(x, n) / (double)n;
        const double variance = squares_around(x, n, mean) / (double)n;
        const double scale = 1 / sqrt(variance + (double)call->attrs->norm.eps);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)((x[i] - mean) * scale * channel_value(call, 1, i, 1) +
                           channel_value(call, 2, i, 0));
    }
}

demist_status ref_layer_norm(const struct ref_call *call)
{
    const int64_t n = call->out.shape[call->out.rank - 1];
    ref_ranges(call, NULL, ref_elements(&call->out) / n, 1 + GRAIN / n, layer_norm_range);
    return DEMIST_OK;
}

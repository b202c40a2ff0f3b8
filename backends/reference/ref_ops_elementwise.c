/* Elementwise ops: each element is computed in float64 and rounded to float32 once. */
#include "ref_ops.h"

#include <math.h>
#include <string.h>

enum { GRAIN = 4096 };

/* --- one input --- */

static double op_neg(double x)
{
    return -x;
}

static double op_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* NaN stays NaN. */
static double op_relu(double x)
{
    return x <= 0 ? 0 : x;
}

static double op_silu(double x)
{
    return x / (1 + exp(-x));
}

/* x·Φ(x); erfc keeps the left tail's digits. */
static double op_gelu(double x)
{
    return 0.5 * x * erfc(-x * 0x1.6a09e667f3bcdp-1);
}

typedef double (*unary_fn)(double x);

static unary_fn unary_function(demist_op op)
{
    switch (op) {
    case DEMIST_OP_NEG:
        return op_neg;
    case DEMIST_OP_ABS:
        return fabs;
    case DEMIST_OP_EXP:
        return exp;
    case DEMIST_OP_LOG:
        return log;
    case DEMIST_OP_SQRT:
        return sqrt;
    case DEMIST_OP_SIN:
        return sin;
    case DEMIST_OP_COS:
        return cos;
    case DEMIST_OP_TANH:
        return tanh;
    case DEMIST_OP_ERF:
        return erf;
    case DEMIST_OP_SIGMOID:
        return op_sigmoid;
    case DEMIST_OP_RELU:
        return op_relu;
    case DEMIST_OP_SILU:
        return op_silu;
    default:
        return op_gelu;
    }
}

static void unary_range(const struct ref_call *call, const void *state, int64_t first, int64_t last)
{
    const unary_fn fn = *(const unary_fn *)state;
    const float *x = ref_in(call, 0);
    float *y = ref_out(call);
    for (int64_t i = first; i < last; i++)
        y[i] = (float)fn(x[i]);
}

demist_status ref_unary(const struct ref_call *call)
{
    const unary_fn fn = unary_function(call->op);
    ref_ranges(call, &fn, ref_elements(&call->out), GRAIN, unary_range);
    return DEMIST_OK;
}

static void affine_range(const struct ref_call *call, const void *state, int64_t first,
                         int64_t last)
{
    (void)state;
    const double a = call->attrs->affine.a, b = call->attrs->affine.b;
    const float *x = ref_in(call, 0);
    float *y = ref_out(call);
    for (int64_t i = first; i < last; i++)
        y[i] = (float)(a * x[i] + b);
}

demist_status ref_affine(const struct ref_call *call)
{
    ref_ranges(call, NULL, ref_elements(&call->out), GRAIN, affine_range);
    return DEMIST_OK;
}

/* NaN stays NaN. */
static void clamp_range(const struct ref_call *call, const void *state, int64_t first, int64_t last)
{
    (void)state;
    const float lo = call->attrs->clamp.lo, hi = call->attrs->clamp.hi;
    const float *x = ref_in(call, 0);
    float *y = ref_out(call);
    for (int64_t i = first; i < last; i++)
        y[i] = x[i] < lo ? lo : x[i] > hi ? hi : x[i];
}

demist_status ref_clamp(const struct ref_call *call)
{
    ref_ranges(call, NULL, ref_elements(&call->out), GRAIN, clamp_range);
    return DEMIST_OK;
}

/* --- two inputs, broadcast --- */

static double op_add(double a, double b)
{
    return a + b;
}

static double op_sub(double a, double b)
{
    return a - b;
}

static double op_mul(double a, double b)
{
    return a * b;
}

static double op_div(double a, double b)
{
    return a / b;
}

/* NaN in either is NaN. */
static double op_min(double a, double b)
{
    return a < b || a != a ? a : b;
}

static double op_max(double a, double b)
{
    return a > b || a != a ? a : b;
}

static double op_less(double a, double b)
{
    return a < b;
}

typedef double (*binary_fn)(double a, double b);

static binary_fn binary_function(demist_op op)
{
    switch (op) {
    case DEMIST_OP_ADD:
        return op_add;
    case DEMIST_OP_SUB:
        return op_sub;
    case DEMIST_OP_MUL:
        return op_mul;
    case DEMIST_OP_DIV:
        return op_div;
    case DEMIST_OP_MIN:
        return op_min;
    case DEMIST_OP_MAX:
        return op_max;
    default:
        return op_less;
    }
}

/* The output as rows along its last axis; a broadcast input has step 0 along an axis. */
static int64_t row_length(const struct ref_tensor *out)
{
    return out->rank > 0 ? out->shape[out->rank - 1] : 1;
}

/* Where input i's part of row `row` starts; *step: from element to element of the row. */
static const float *input_row(const struct ref_call *call, int32_t i, int64_t row, int64_t *step)
{
    const struct ref_tensor *out = &call->out;
    int64_t steps[DEMIST_MAX_RANK] = {0};
    ref_broadcast_steps(&call->in[i], out, steps);
    const int32_t outer = out->rank > 0 ? out->rank - 1 : 0;
    *step = out->rank > 0 ? steps[outer] : 0;
    return ref_in(call, i) + ref_offset(outer, out->shape, steps, row);
}

static void for_rows(const struct ref_call *call, const void *state, ref_range_fn fn)
{
    const int64_t row = row_length(&call->out);
    ref_ranges(call, state, ref_elements(&call->out) / row, 1 + GRAIN / row, fn);
}

static void binary_rows(const struct ref_call *call, const void *state, int64_t first, int64_t last)
{
    const binary_fn fn = *(const binary_fn *)state;
    const int64_t n = row_length(&call->out);
    for (int64_t row = first; row < last; row++) {
        int64_t a_step, b_step;
        const float *a = input_row(call, 0, row, &a_step);
        const float *b = input_row(call, 1, row, &b_step);
        float *y = ref_out(call) + row * n;
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)fn(a[i * a_step], b[i * b_step]);
    }
}

demist_status ref_binary(const struct ref_call *call)
{
    const binary_fn fn = binary_function(call->op);
    for_rows(call, &fn, binary_rows);
    return DEMIST_OK;
}

static void select_rows(const struct ref_call *call, const void *state, int64_t first, int64_t last)
{
    (void)state;
    const int64_t n = row_length(&call->out);
    for (int64_t row = first; row < last; row++) {
        int64_t c_step, a_step, b_step;
        const float *c = input_row(call, 0, row, &c_step);
        const float *a = input_row(call, 1, row, &a_step);
        const float *b = input_row(call, 2, row, &b_step);
        float *y = ref_out(call) + row * n;
        for (int64_t i = 0; i < n; i++)
            y[i] = c[i * c_step] != 0 ? a[i * a_step] : b[i * b_step];
    }
}

demist_status ref_select(const struct ref_call *call)
{
    for_rows(call, NULL, select_rows);
    return DEMIST_OK;
}

/* Σ c_i·x_i, added in the order of i; a coefficient is one number, or one for each image. */
static void lincomb_range(const struct ref_call *call, const void *state, int64_t first,
                          int64_t last)
{
    const int64_t per_image = *(const int64_t *)state;
    const int32_t terms = call->n_inputs / 2;
    for (int64_t i = first; i < last; i++) {
        double sum = 0;
        for (int32_t k = 0; k < terms; k++) {
            const bool own = call->in[terms + k].rank > 0;
            const double c = ref_in(call, terms + k)[own ? i / per_image : 0];
            sum += c * ref_in(call, k)[i];
        }
        ref_out(call)[i] = (float)sum;
    }
}

demist_status ref_lincomb(const struct ref_call *call)
{
    const int64_t n = ref_elements(&call->out);
    const int64_t per_image = call->out.rank > 0 ? n / call->out.shape[0] : 1;
    ref_ranges(call, &per_image, n, GRAIN, lincomb_range);
    return DEMIST_OK;
}

/* --- element types --- */

/* To the nearest integer, halves to even; what int32 cannot hold becomes its nearest end, NaN 0. */
static int32_t to_i32(float x)
{
    if (x != x)
        return 0;
    const double nearest = rint((double)x);
    return nearest >= INT32_MAX ? INT32_MAX : nearest <= INT32_MIN ? INT32_MIN : (int32_t)nearest;
}

static void cast_range(const struct ref_call *call, const void *state, int64_t first, int64_t last)
{
    (void)state;
    const bool from_int = call->in[0].dtype == DEMIST_I32;
    if (from_int == (call->out.dtype == DEMIST_I32)) {
        memcpy(ref_out(call) + first, ref_in(call, 0) + first, (size_t)(last - first) * 4);
        return;
    }
    for (int64_t i = first; i < last; i++)
        if (from_int)
            ref_out(call)[i] = (float)((const int32_t *)call->in[0].data)[i];
        else
            ((int32_t *)call->out.data)[i] = to_i32(ref_in(call, 0)[i]);
}

demist_status ref_cast(const struct ref_call *call)
{
    ref_ranges(call, NULL, ref_elements(&call->out), GRAIN, cast_range);
    return DEMIST_OK;
}

/* --- scalar slots --- */

demist_status ref_scalar(const struct ref_call *call)
{
    *ref_out(call) = (float)call->scalars[call->attrs->scalar.slot].f;
    return DEMIST_OK;
}

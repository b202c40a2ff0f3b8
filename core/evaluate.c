/* Constant folding's arithmetic: see evaluate.h. All element types of graphs have four bytes, so
 * the ops that only move elements are one strided copy. */
#include "evaluate.h"

#include <math.h>
#include <string.h>

_Static_assert(sizeof(float) == 4 && sizeof(int32_t) == 4, "elements have four bytes");

struct strides {
    int64_t of[DEMIST_MAX_RANK];
};

static struct strides row_major(int32_t rank, const int64_t *shape)
{
    struct strides s = {{0}};
    int64_t step = 1;
    for (int32_t i = rank - 1; i >= 0; i--) {
        s.of[i] = step;
        step *= shape[i];
    }
    return s;
}

/* Steps in x for a walk over y's elements, 0 where x is broadcast. */
static struct strides broadcast_to(const demist_node *x, const demist_node *y)
{
    struct strides own = row_major(x->rank, x->shape), s = {{0}};
    for (int32_t i = 0; i < x->rank; i++)
        if (x->shape[i] != 1)
            s.of[y->rank - x->rank + i] = own.of[i];
    return s;
}

/* Where the element that follows index[] in row-major order is; index[] moves on. */
static int64_t advance(int64_t at, int32_t rank, const int64_t *shape, int64_t *index,
                       const struct strides *s)
{
    for (int32_t i = rank - 1; i >= 0; i--) {
        at += s->of[i];
        if (++index[i] < shape[i])
            return at;
        at -= s->of[i] * shape[i];
        index[i] = 0;
    }
    return at;
}

/* to[Σ i·ts] = from[Σ i·fs] for all indices i below shape. */
static void copy(int32_t rank, const int64_t *shape, int32_t *to, struct strides ts,
                 const int32_t *from, struct strides fs)
{
    int64_t n = 1, i_to[DEMIST_MAX_RANK] = {0}, i_from[DEMIST_MAX_RANK] = {0}, a = 0, b = 0;
    for (int32_t i = 0; i < rank; i++)
        n *= shape[i];
    for (int64_t k = 0; k < n; k++) {
        to[a] = from[b];
        a = advance(a, rank, shape, i_to, &ts);
        b = advance(b, rank, shape, i_from, &fs);
    }
}

static void slice(const demist_node *y, const int32_t *x, int32_t *out)
{
    const demist_node *in = y->inputs[0];
    struct strides s = row_major(in->rank, in->shape);
    int32_t axis = y->attrs.slice.axis;
    x += y->attrs.slice.start * s.of[axis];
    s.of[axis] *= y->attrs.slice.step;
    copy(y->rank, y->shape, out, row_major(y->rank, y->shape), x, s);
}

static void transpose(const demist_node *y, const int32_t *x, int32_t *out)
{
    const demist_node *in = y->inputs[0];
    struct strides own = row_major(in->rank, in->shape), s = {{0}};
    for (int32_t i = 0; i < y->rank; i++)
        s.of[i] = own.of[y->attrs.transpose.perm[i]];
    copy(y->rank, y->shape, out, row_major(y->rank, y->shape), x, s);
}

static void concat(const demist_node *y, const void *const *inputs, int32_t *out)
{
    struct strides s = row_major(y->rank, y->shape);
    int32_t axis = y->attrs.axis.axis;
    for (int32_t i = 0; i < y->n_inputs; i++) {
        const demist_node *in = y->inputs[i];
        copy(in->rank, in->shape, out, s, inputs[i], row_major(in->rank, in->shape));
        out += in->shape[axis] * s.of[axis];
    }
}

static void pad(const demist_node *y, const int32_t *x, int32_t *out)
{
    const demist_node *in = y->inputs[0];
    struct strides s = row_major(y->rank, y->shape);
    memset(out, 0, (size_t)demist_elements(y) * sizeof *out);
    for (int32_t i = 0; i < y->rank; i++)
        out += y->attrs.pad.before[i] * s.of[i];
    copy(in->rank, in->shape, out, s, x, row_major(in->rank, in->shape));
}

/* To the nearest integer, half to even; beyond the type to its ends, NaN to 0. */
static int32_t to_i32(float x)
{
    if (isnan(x))
        return 0;
    double r = rint((double)x);
    return r >= (double)INT32_MAX ? INT32_MAX : r <= (double)INT32_MIN ? INT32_MIN : (int32_t)r;
}

static void cast(const demist_node *y, const void *x, void *out)
{
    int64_t n = demist_elements(y);
    demist_dtype from = y->inputs[0]->dtype;
    if (from == y->dtype)
        memcpy(out, x, (size_t)n * 4);
    else if (y->dtype == DEMIST_I32)
        for (int64_t i = 0; i < n; i++)
            ((int32_t *)out)[i] = to_i32(((const float *)x)[i]);
    else
        for (int64_t i = 0; i < n; i++)
            ((float *)out)[i] = (float)((const int32_t *)x)[i];
}

static double unary(demist_op op, const demist_attrs *attrs, double x)
{
    switch ((int)op) {
    case DEMIST_OP_NEG:
        return -x;
    case DEMIST_OP_ABS:
        return fabs(x);
    case DEMIST_OP_EXP:
        return exp(x);
    case DEMIST_OP_LOG:
        return log(x);
    case DEMIST_OP_SQRT:
        return sqrt(x);
    case DEMIST_OP_SIN:
        return sin(x);
    case DEMIST_OP_COS:
        return cos(x);
    case DEMIST_OP_TANH:
        return tanh(x);
    case DEMIST_OP_ERF:
        return erf(x);
    case DEMIST_OP_SIGMOID:
        return 1 / (1 + exp(-x));
    case DEMIST_OP_RELU:
        return x <= 0 ? 0 : x; /* NaN stays */
    case DEMIST_OP_SILU:
        return x / (1 + exp(-x));
    case DEMIST_OP_GELU:
        return x * 0.5 * erfc(-x * 0.70710678118654752440);
    case DEMIST_OP_AFFINE:
        return (double)attrs->affine.a * x + (double)attrs->affine.b;
    case DEMIST_OP_CLAMP:
        return x < (double)attrs->clamp.lo   ? (double)attrs->clamp.lo
               : x > (double)attrs->clamp.hi ? (double)attrs->clamp.hi
                                             : x;
    default:
        return NAN;
    }
}

static double binary(demist_op op, double a, double b)
{
    switch ((int)op) {
    case DEMIST_OP_ADD:
        return a + b;
    case DEMIST_OP_SUB:
        return a - b;
    case DEMIST_OP_MUL:
        return a * b;
    case DEMIST_OP_DIV:
        return a / b;
    case DEMIST_OP_MIN:
        return isnan(a) || a < b ? a : b;
    case DEMIST_OP_MAX:
        return isnan(a) || a > b ? a : b;
    case DEMIST_OP_LESS:
        return a < b;
    default:
        return NAN;
    }
}

static void elementwise(const demist_node *y, const void *const *inputs, float *out)
{
    struct strides s[3];
    int64_t index[3][DEMIST_MAX_RANK] = {{0}}, at[3] = {0}, n = demist_elements(y);
    for (int32_t i = 0; i < y->n_inputs; i++)
        s[i] = broadcast_to(y->inputs[i], y);
    for (int64_t k = 0; k < n; k++) {
        double x[3] = {0};
        for (int32_t i = 0; i < y->n_inputs; i++) {
            x[i] = (double)((const float *)inputs[i])[at[i]];
            at[i] = advance(at[i], y->rank, y->shape, index[i], &s[i]);
        }
        out[k] = (float)(y->op == DEMIST_OP_SELECT ? (x[0] != 0 ? x[1] : x[2])
                         : y->n_inputs == 2        ? binary(y->op, x[0], x[1])
                                                   : unary(y->op, &y->attrs, x[0]));
    }
}

/* An unbatched coefficient has one element. */
static void lincomb(const demist_node *y, const void *const *inputs, float *out)
{
    int64_t n = demist_elements(y);
    int32_t terms = y->n_inputs / 2;
    for (int64_t k = 0; k < n; k++) {
        double sum = 0;
        for (int32_t i = 0; i < terms; i++)
            sum +=
                (double)*(const float *)inputs[terms + i] * (double)((const float *)inputs[i])[k];
        out[k] = (float)sum;
    }
}

bool dm_can_evaluate(demist_op op)
{
    return (op >= DEMIST_OP_NEG && op <= DEMIST_OP_CAST) ||
           (op >= DEMIST_OP_ADD && op <= DEMIST_OP_LINCOMB) ||
           (op >= DEMIST_OP_RESHAPE && op <= DEMIST_OP_EXPAND);
}

void dm_evaluate(const demist_node *node, const void *const *inputs, void *out)
{
    switch ((int)node->op) {
    case DEMIST_OP_CAST:
        cast(node, inputs[0], out);
        break;
    case DEMIST_OP_LINCOMB:
        lincomb(node, inputs, out);
        break;
    case DEMIST_OP_RESHAPE:
        memcpy(out, inputs[0], (size_t)demist_elements(node) * 4);
        break;
    case DEMIST_OP_TRANSPOSE:
        transpose(node, inputs[0], out);
        break;
    case DEMIST_OP_SLICE:
        slice(node, inputs[0], out);
        break;
    case DEMIST_OP_CONCAT:
        concat(node, inputs, out);
        break;
    case DEMIST_OP_PAD:
        pad(node, inputs[0], out);
        break;
    case DEMIST_OP_EXPAND:
        copy(node->rank, node->shape, out, row_major(node->rank, node->shape), inputs[0],
             broadcast_to(node->inputs[0], node));
        break;
    default:
        elementwise(node, inputs, out);
    }
}

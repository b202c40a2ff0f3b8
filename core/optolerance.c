/* The bounds of docs/ops.md; the reasons are there. */
#include "optolerance.h"

#include <math.h>

#define ULP 0x1p-23       /* of float32, relative, at worst */
#define HALF 0x1p-24      /* a correct rounding */
#define SMALLEST 0x1p-126 /* subnormals may be flushed to 0 */
#define F32_PRODUCT 8e-6  /* of max|out|: room for Winograd F(4x4,3x3) and split products */

/* The relative error of rounding to what the precision multiplies and stores. */
static double rounding(demist_precision precision)
{
    switch (precision) {
    case DEMIST_PRECISION_TF32:
    case DEMIST_PRECISION_F16:
        return 0x1p-11;
    case DEMIST_PRECISION_BF16:
        return 0x1p-8;
    case DEMIST_PRECISION_F32:
    case DEMIST_PRECISION_STRICT:
        break;
    }
    return 0;
}

/* The same for what is only stored: TF32 stores float32. */
static double storage(demist_precision precision)
{
    return precision == DEMIST_PRECISION_TF32 ? 0 : rounding(precision);
}

static int64_t kernel_terms(const demist_node *w, int from)
{
    int64_t n = 1;
    for (int32_t i = from; i < w->rank; i++)
        n *= w->shape[i];
    return n;
}

int64_t dm_op_terms(const demist_node *node)
{
    switch ((int)node->op) {
    case DEMIST_OP_LINEAR:
    case DEMIST_OP_CONV2D:
        return kernel_terms(node->inputs[1], 1);
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return node->inputs[1]->shape[0] / node->attrs.conv.groups *
               kernel_terms(node->inputs[1], 2);
    case DEMIST_OP_MATMUL: {
        const demist_node *a = node->inputs[0];
        return a->shape[a->rank - (node->attrs.matmul.transpose_a ? 2 : 1)];
    }
    case DEMIST_OP_ATTENTION:
        return node->inputs[0]->shape[2] + node->inputs[1]->shape[3];
    default:
        return 0;
    }
}

/* The error of a sum of products, relative to the largest result. */
static double product_error(const demist_node *node, demist_precision precision)
{
    double u = rounding(precision);
    if (precision == DEMIST_PRECISION_STRICT)
        return 3 * HALF * sqrt((double)dm_op_terms(node));
    return u > 0 ? 4 * u + F32_PRODUCT : F32_PRODUCT;
}

static struct dm_tolerance product(const demist_node *node, demist_precision precision,
                                   const struct dm_magnitudes *m)
{
    double error = product_error(node, precision), stored = storage(precision);
    if (node->op == DEMIST_OP_ATTENTION)
        return (struct dm_tolerance){error * m->in[2] * (2 + m->condition), HALF + stored};
    if (precision == DEMIST_PRECISION_STRICT && m->chain_error >= 0)
        return (struct dm_tolerance){3 * m->chain_error + SMALLEST, HALF};
    return (struct dm_tolerance){error * m->out + SMALLEST, HALF + stored};
}

/* The largest |∂out/∂in_k| that inputs of these magnitudes allow; INFINITY: there is no bound. */
static double gain(const demist_node *node, int32_t k, const struct dm_magnitudes *m)
{
    switch ((int)node->op) {
    case DEMIST_OP_ERF:
    case DEMIST_OP_SILU:
    case DEMIST_OP_GELU:
        return 1.13;
    case DEMIST_OP_SIGMOID:
        return 0.25;
    case DEMIST_OP_AFFINE:
        return fabs((double)node->attrs.affine.a);
    case DEMIST_OP_EXP:
        return m->out;
    case DEMIST_OP_MUL:
        return m->in[1 - k];
    case DEMIST_OP_LINCOMB:
        return m->in[(k + node->n_inputs / 2) % node->n_inputs];
    case DEMIST_OP_LOG:
    case DEMIST_OP_SQRT:
    case DEMIST_OP_DIV:
    case DEMIST_OP_LESS:
        return INFINITY;
    default:
        return 1;
    }
}

/* Float32 arithmetic alone. */
static struct dm_tolerance elementwise_f32(const demist_node *node, const struct dm_magnitudes *m)
{
    struct dm_tolerance t = {SMALLEST, HALF};
    int32_t terms = node->n_inputs / 2;
    switch ((int)node->op) {
    case DEMIST_OP_NEG:
    case DEMIST_OP_ABS:
    case DEMIST_OP_RELU:
    case DEMIST_OP_CLAMP:
    case DEMIST_OP_MIN:
    case DEMIST_OP_MAX:
    case DEMIST_OP_SELECT:
        return (struct dm_tolerance){SMALLEST, 0};
    case DEMIST_OP_LESS:
        return (struct dm_tolerance){0, 0};
    case DEMIST_OP_EXP:
    case DEMIST_OP_LOG:
        t.rel = 4 * ULP;
        break;
    case DEMIST_OP_SQRT:
    case DEMIST_OP_DIV:
        t.rel = 3 * ULP;
        break;
    case DEMIST_OP_SIN:
    case DEMIST_OP_COS:
        t.rel = 4 * ULP;
        t.abs = ULP + (m->in[0] > 0x1p15 ? HALF * m->in[0] : 0);
        break;
    case DEMIST_OP_TANH:
        t.rel = 5 * ULP;
        break;
    case DEMIST_OP_ERF:
        t.rel = 16 * ULP;
        break;
    case DEMIST_OP_SIGMOID:
    case DEMIST_OP_SILU:
        t.rel = 8 * ULP;
        break;
    case DEMIST_OP_GELU:
        t.rel = 8 * ULP;
        t.abs = 2 * ULP;
        break;
    case DEMIST_OP_AFFINE:
        t.abs += HALF * fabs((double)node->attrs.affine.a) * m->in[0];
        break;
    case DEMIST_OP_LINCOMB:
        for (int32_t i = 0; i < terms; i++)
            t.abs += (terms + 1) * HALF * m->in[i] * m->in[terms + i];
        break;
    default:
        break;
    }
    return t;
}

/* Inputs and result may have been rounded for storage; comparisons see what was given. */
static struct dm_tolerance elementwise(const demist_node *node, demist_precision precision,
                                       const struct dm_magnitudes *m)
{
    struct dm_tolerance t = elementwise_f32(node, m);
    double u = storage(precision);
    if (u == 0 || node->op == DEMIST_OP_LESS)
        return t;
    t.rel += u;
    if (node->op == DEMIST_OP_LOG)
        t.abs += 1.01 * u;
    else if (node->op == DEMIST_OP_SQRT)
        t.rel += u;
    else if (node->op == DEMIST_OP_DIV)
        t.rel += 2.02 * u;
    else
        for (int32_t k = node->op == DEMIST_OP_SELECT; k < node->n_inputs; k++)
            t.abs += u * gain(node, k, m) * m->in[k];
    return t;
}

static double reduced_elements(const demist_node *node)
{
    double n = 1;
    for (int32_t i = 0; i < node->inputs[0]->rank; i++)
        if (node->attrs.reduce.axes >> i & 1)
            n *= (double)node->inputs[0]->shape[i];
    return n;
}

static struct dm_tolerance reduction(const demist_node *node, demist_precision precision,
                                     const struct dm_magnitudes *m)
{
    double n = node->op == DEMIST_OP_BATCH_SUM ? fmax(1, m->condition) : reduced_elements(node);
    double u = storage(precision);
    if (node->op == DEMIST_OP_AMAX)
        return (struct dm_tolerance){0, u};
    double sum = (HALF * (2 + log2(n)) + u) * n * m->in[0];
    return (struct dm_tolerance){node->op == DEMIST_OP_MEAN ? sum / n : sum, HALF + u};
}

/* Errors of the mean and of x are divided by the standard deviation; those of the result and of
 * gamma count with max|out|. */
static struct dm_tolerance norm(const demist_node *node, demist_precision precision,
                                const struct dm_magnitudes *m)
{
    double u = storage(precision), gamma = node->n_inputs > 1 ? m->in[1] : 1;
    return (struct dm_tolerance){
        F32_PRODUCT * m->out + (4 * HALF + u) * m->condition * gamma + 2 * u * m->out, HALF + u};
}

/* max|gamma| / √(min variance + eps), from the data of parameters; INFINITY without them. */
static double batch_norm_gain(const demist_node *node)
{
    const float *gamma = node->inputs[1]->data, *variance = node->inputs[4]->data;
    double largest = 0;
    if (!gamma || !variance)
        return INFINITY;
    for (int64_t c = 0; c < node->inputs[1]->shape[0]; c++)
        largest = fmax(largest, fabs((double)gamma[c]) /
                                    sqrt((double)variance[c] + (double)node->attrs.norm.eps));
    return largest;
}

static struct dm_tolerance batch_norm(const demist_node *node, demist_precision precision,
                                      const struct dm_magnitudes *m)
{
    /* As scale·x + shift with both rounded: x, mean and result each cost a rounding or two. */
    double u = storage(precision), slope = batch_norm_gain(node);
    double terms = slope < INFINITY ? slope * (m->in[0] + m->in[3]) + m->in[2] : m->condition;
    return (struct dm_tolerance){(4 * HALF + u) * terms + SMALLEST, 4 * HALF + u};
}

static struct dm_tolerance space(const demist_node *node, demist_precision precision,
                                 const struct dm_magnitudes *m)
{
    double u = storage(precision), size = 0;
    switch ((int)node->op) {
    case DEMIST_OP_AVG_POOL2D:
        size = (double)node->attrs.pool.kernel[0] * node->attrs.pool.kernel[1];
        return (struct dm_tolerance){(HALF * (2 + size) + u) * m->in[0], HALF + u};
    case DEMIST_OP_RESIZE_BILINEAR:
        size = (double)(node->inputs[0]->shape[2] + node->inputs[0]->shape[3]);
        return (struct dm_tolerance){(HALF * (8 + 2 * size) + u) * m->in[0], HALF + u};
    default:
        return (struct dm_tolerance){0, u};
    }
}

static struct dm_tolerance single(const demist_node *node, demist_precision precision,
                                  const struct dm_magnitudes *m)
{
    double u = storage(precision);
    demist_op op = node->op;
    if (op == DEMIST_OP_CAST)
        return (struct dm_tolerance){0, 0};
    if ((op >= DEMIST_OP_NEG && op <= DEMIST_OP_CLAMP) ||
        (op >= DEMIST_OP_ADD && op <= DEMIST_OP_LINCOMB))
        return elementwise(node, precision, m);
    if ((op >= DEMIST_OP_SUM && op <= DEMIST_OP_AMAX) || op == DEMIST_OP_BATCH_SUM)
        return reduction(node, precision, m);
    if (op == DEMIST_OP_SOFTMAX) /* the exponent x − max is off by its rounding */
        return (struct dm_tolerance){SMALLEST, HALF * (32 + 4 * m->in[0]) + u * (1 + 2 * m->in[0])};
    if (op >= DEMIST_OP_LINEAR && op <= DEMIST_OP_ATTENTION)
        return product(node, precision, m);
    if (op == DEMIST_OP_BATCH_NORM)
        return batch_norm(node, precision, m);
    if (op == DEMIST_OP_GROUP_NORM || op == DEMIST_OP_LAYER_NORM)
        return norm(node, precision, m);
    if (op >= DEMIST_OP_MAX_POOL2D && op <= DEMIST_OP_RESIZE_BILINEAR)
        return space(node, precision, m);
    if (op == DEMIST_OP_PHILOX_NORMAL || op == DEMIST_OP_PHILOX_UNIFORM)
        return (struct dm_tolerance){0x1p-149, ULP + u};
    return (struct dm_tolerance){0, u}; /* leaves, and what only moves data */
}

/* A body node's magnitudes: of the FUSED node's inputs where it reads them, `out` within. */
static struct dm_magnitudes of_body(const demist_node *fused, const demist_node *node,
                                    const struct dm_magnitudes *m, double *in, int32_t room)
{
    for (int32_t k = 0; k < node->n_inputs && k < room; k++) {
        in[k] = m->out;
        for (int32_t i = 0; i < fused->n_inputs; i++)
            if (fused->inputs[i] == node->inputs[k])
                in[k] = m->in[i];
    }
    return (struct dm_magnitudes){m->out, in, node->id == 0 ? m->chain_error : -1, m->condition};
}

/* An error inside grows by the gain of every node behind it in the chain. */
static double chain_gain(const demist_node *node, const demist_node *before,
                         const struct dm_magnitudes *m)
{
    double total = 0;
    if (node->op == DEMIST_OP_BATCH_NORM)
        return batch_norm_gain(node);
    for (int32_t k = 0; k < node->n_inputs; k++)
        if (node->inputs[k] == before)
            total += gain(node, k, m);
    return total;
}

static struct dm_tolerance fused(const demist_node *node, demist_precision precision,
                                 const struct dm_magnitudes *m)
{
    enum { MOST = 64 };
    struct dm_tolerance all = {0, 0};
    for (int32_t i = 0; i < node->n_body; i++) {
        const demist_node *part = node->body[i];
        double in[MOST] = {0};
        if (part->n_inputs > MOST)
            return (struct dm_tolerance){INFINITY, 0};
        struct dm_magnitudes own = of_body(node, part, m, in, MOST);
        struct dm_tolerance t = single(part, precision, &own);
        double grown =
            i > 0 && all.abs > 0 ? all.abs * chain_gain(part, node->body[i - 1], &own) : 0;
        all.abs = grown + t.abs + t.rel * m->out;
    }
    return all;
}

struct dm_tolerance dm_op_tolerance(const demist_node *node, demist_precision precision,
                                    const struct dm_magnitudes *magnitudes)
{
    return node->op == DEMIST_OP_FUSED ? fused(node, precision, magnitudes)
                                       : single(node, precision, magnitudes);
}

bool dm_within(struct dm_tolerance tolerance, double got, double exact)
{
    if (isnan(exact) || isnan(got))
        return isnan(exact) && isnan(got);
    if (isinf(exact) || isinf(got))
        return got == exact;
    return fabs(got - exact) <= tolerance.abs + tolerance.rel * fabs(exact);
}

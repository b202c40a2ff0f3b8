/* Shape inference: see shape.h. A rule reads y's inputs and attributes and sets y's shape; its
 * error says only what is wrong, dm_shape_infer adds where. Sums of extents cannot overflow: a
 * dimension is below 2^31, so a product of two is below 2^62. */
#include "shape.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

#define FAIL(...) return dm_fail(err, DEMIST_INVALID, __VA_ARGS__)

struct dm_shape_text dm_shape_text(int32_t rank, const int64_t *shape)
{
    struct dm_shape_text out = {"["};
    size_t at = 1;
    for (int32_t i = 0; i < rank && i < DEMIST_MAX_RANK && at < sizeof out.text - 32; i++) {
        const char *comma = i > 0 ? "," : "";
        char *to = out.text + at;
        size_t room = sizeof out.text - at;
        int n = shape[i] == DEMIST_BATCH ? snprintf(to, room, "%sN", comma)
                                         : snprintf(to, room, "%s%" PRId64, comma, shape[i]);
        at += (size_t)n;
    }
    snprintf(out.text + at, sizeof out.text - at, "%s]",
             rank < 0 || rank > DEMIST_MAX_RANK ? ",…" : "");
    return out;
}

struct dm_shape_text dm_node_shape_text(const demist_node *node)
{
    struct dm_shape_text out = dm_shape_text(node->rank, node->shape);
    size_t at = strlen(out.text);
    snprintf(out.text + at, sizeof out.text - at, " %s", demist_dtype_name(node->dtype));
    return out;
}

bool dm_op_arity(demist_op op, int32_t *fewest, int32_t *most)
{
    switch (op) {
        /* NOLINTBEGIN(bugprone-branch-clone): one case for each op of the list */
#define ARITY(name, id, text, min, max)                                                            \
    case DEMIST_OP_##name:                                                                         \
        *fewest = (min);                                                                           \
        *most = (max);                                                                             \
        return true;
        DEMIST_OPS(ARITY)
#undef ARITY
        /* NOLINTEND(bugprone-branch-clone) */
    }
    return false;
}

size_t dm_op_attrs_bytes(demist_op op)
{
    switch ((int)op) {
#define SIZE_OF(member) sizeof(((demist_attrs *)NULL)->member)
    case DEMIST_OP_INPUT:
        return SIZE_OF(input);
    case DEMIST_OP_SCALAR:
        return SIZE_OF(scalar);
    case DEMIST_OP_AFFINE:
        return SIZE_OF(affine);
    case DEMIST_OP_CLAMP:
        return SIZE_OF(clamp);
    case DEMIST_OP_CAST:
        return SIZE_OF(cast);
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
        return SIZE_OF(reduce);
    case DEMIST_OP_SOFTMAX:
    case DEMIST_OP_CONCAT:
        return SIZE_OF(axis);
    case DEMIST_OP_MATMUL:
        return SIZE_OF(matmul);
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return SIZE_OF(conv);
    case DEMIST_OP_ATTENTION:
        return SIZE_OF(attention);
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return SIZE_OF(norm);
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        return SIZE_OF(pool);
    case DEMIST_OP_UPSAMPLE_NEAREST:
        return SIZE_OF(upsample);
    case DEMIST_OP_RESIZE_BILINEAR:
        return SIZE_OF(resize);
    case DEMIST_OP_TRANSPOSE:
        return SIZE_OF(transpose);
    case DEMIST_OP_SLICE:
        return SIZE_OF(slice);
    case DEMIST_OP_PAD:
        return SIZE_OF(pad);
    case DEMIST_OP_PHILOX_NORMAL:
    case DEMIST_OP_PHILOX_UNIFORM:
        return SIZE_OF(philox);
    case DEMIST_OP_FUSED:
        return SIZE_OF(fused);
#undef SIZE_OF
    default:
        return 0;
    }
}

/* ---- Checks that rules share ---- */

demist_status dm_shape_check(demist_dtype dtype, int32_t rank, const int64_t *shape,
                             struct dm_error *err)
{
    int64_t elements = 1;
    if (dtype != DEMIST_F32 && dtype != DEMIST_I32)
        FAIL("values are f32 or i32, not %s", demist_dtype_name(dtype));
    if (rank < 0 || rank > DEMIST_MAX_RANK)
        FAIL("%d dimensions; a value has 0 to %d", (int)rank, DEMIST_MAX_RANK);
    for (int32_t i = 0; i < rank; i++) {
        if (i == 0 && shape[0] == DEMIST_BATCH)
            continue;
        if (shape[i] < 1 || shape[i] > INT32_MAX)
            FAIL("dimension %d of %s is not in 1 … 2^31-1", (int)i,
                 dm_shape_text(rank, shape).text);
        if (__builtin_mul_overflow(elements, shape[i], &elements) || elements > DM_MAX_ELEMENTS)
            FAIL("%s has more than 2^40 elements", dm_shape_text(rank, shape).text);
    }
    return DEMIST_OK;
}

static demist_status set_shape(demist_node *y, demist_dtype dtype, int32_t rank,
                               const int64_t *shape, struct dm_error *err)
{
    DM_TRY(dm_shape_check(dtype, rank, shape, err));
    y->dtype = dtype;
    y->rank = rank;
    for (int32_t i = 0; i < DEMIST_MAX_RANK; i++)
        y->shape[i] = i < rank ? shape[i] : 0; /* `shape` may be y's own */
    return DEMIST_OK;
}

static demist_status same_shape(demist_node *y, struct dm_error *err)
{
    return set_shape(y, y->inputs[0]->dtype, y->inputs[0]->rank, y->inputs[0]->shape, err);
}

static demist_status need_f32(const demist_node *y, struct dm_error *err)
{
    for (int32_t i = 0; i < y->n_inputs; i++)
        if (y->inputs[i]->dtype != DEMIST_F32)
            FAIL("input %d is %s and has to be f32: cast it", (int)i,
                 demist_dtype_name(y->inputs[i]->dtype));
    return DEMIST_OK;
}

static demist_status need_unbatched(const demist_node *x, const char *what, struct dm_error *err)
{
    if (demist_is_batched(x))
        FAIL("%s must not depend on the batch", what);
    return DEMIST_OK;
}

static demist_status need_rank(const demist_node *x, int32_t rank, const char *what,
                               struct dm_error *err)
{
    if (x->rank != rank)
        FAIL("%s has %d dimensions and has to have %d", what, (int)x->rank, (int)rank);
    return DEMIST_OK;
}

/* An unbatched [size]. */
static demist_status need_vector(const demist_node *x, int64_t size, const char *what,
                                 struct dm_error *err)
{
    DM_TRY(need_unbatched(x, what, err));
    if (x->rank != 1 || x->shape[0] != size)
        FAIL("%s has to be [%" PRId64 "]", what, size);
    return DEMIST_OK;
}

/* An axis of x along which an op may mix elements: any but the batch. */
static demist_status need_axis(const demist_node *x, int32_t axis, struct dm_error *err)
{
    if (axis < 0 || axis >= x->rank)
        FAIL("axis %d is not in 0 … %d", (int)axis, (int)x->rank - 1);
    if (axis == 0 && demist_is_batched(x))
        FAIL("axis 0 is the batch, and no op mixes images");
    return DEMIST_OK;
}

struct dims {
    int32_t rank;
    const int64_t *shape;
};

/* NumPy's broadcasting, aligned at the last dimension. A batched value must have the result's
 * rank, as its dimension 0 could meet something else than the batch otherwise. */
static demist_status broadcast(int32_t n, const struct dims *in, int32_t *rank, int64_t *shape,
                               struct dm_error *err)
{
    *rank = 0;
    for (int32_t i = 0; i < n; i++)
        *rank = in[i].rank > *rank ? in[i].rank : *rank;
    for (int32_t i = 0; i < n; i++)
        if (in[i].rank > 0 && in[i].shape[0] == DEMIST_BATCH && in[i].rank < *rank)
            FAIL("a batched value has to have the result's number of dimensions (%d): reshape it "
                 "to [N,…,1]",
                 (int)*rank);
    for (int32_t d = 0; d < *rank; d++) {
        shape[d] = 1;
        for (int32_t i = 0; i < n; i++) {
            int32_t own = d - (*rank - in[i].rank);
            int64_t size = own < 0 ? 1 : in[i].shape[own];
            if (size == 1 || size == shape[d])
                continue;
            if (shape[d] == DEMIST_BATCH || (size == DEMIST_BATCH && shape[d] != 1))
                FAIL("beside a batched value, dimension 0 of an unbatched one has to be 1");
            if (shape[d] != 1)
                FAIL("dimension %d is %" PRId64 " and %" PRId64 ": they do not broadcast", (int)d,
                     shape[d], size);
            shape[d] = size;
        }
    }
    return DEMIST_OK;
}

/* ---- Rules ---- */

static demist_status leaf(demist_node *y, int32_t n_slots, struct dm_error *err)
{
    if (y->op == DEMIST_OP_SCALAR) {
        if (y->attrs.scalar.slot < 0 || y->attrs.scalar.slot >= n_slots)
            FAIL("there is no scalar slot %d: make it with scalar_slot", (int)y->attrs.scalar.slot);
        return set_shape(y, DEMIST_F32, 0, NULL, err);
    }
    if (y->op != DEMIST_OP_INPUT && y->rank > 0 && y->shape[0] == DEMIST_BATCH)
        FAIL("its shape must not depend on the batch");
    return set_shape(y, y->dtype, y->rank, y->shape, err);
}

static demist_status elementwise(demist_node *y, struct dm_error *err)
{
    struct dims in[3];
    int64_t shape[DEMIST_MAX_RANK] = {0};
    int32_t rank;
    DM_TRY(need_f32(y, err));
    if (y->op == DEMIST_OP_AFFINE && !(isfinite(y->attrs.affine.a) && isfinite(y->attrs.affine.b)))
        FAIL("a and b have to be finite");
    if (y->op == DEMIST_OP_CLAMP && !(y->attrs.clamp.lo <= y->attrs.clamp.hi))
        FAIL("lo has to be at most hi");
    for (int32_t i = 0; i < y->n_inputs; i++)
        in[i] = (struct dims){y->inputs[i]->rank, y->inputs[i]->shape};
    DM_TRY(broadcast(y->n_inputs, in, &rank, shape, err));
    return set_shape(y, DEMIST_F32, rank, shape, err);
}

static demist_status cast(demist_node *y, struct dm_error *err)
{
    return set_shape(y, (demist_dtype)y->attrs.cast.dtype, y->inputs[0]->rank, y->inputs[0]->shape,
                     err);
}

static bool equal_shapes(const demist_node *a, const demist_node *b)
{
    return a->rank == b->rank && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

static demist_status lincomb(demist_node *y, struct dm_error *err)
{
    int32_t k = y->n_inputs / 2;
    DM_TRY(need_f32(y, err));
    if (y->n_inputs != 2 * k)
        FAIL("needs as many coefficients as values, and has %d inputs", (int)y->n_inputs);
    for (int32_t i = 0; i < k; i++) {
        const demist_node *x = y->inputs[i], *coef = y->inputs[k + i];
        if (!equal_shapes(x, y->inputs[0]))
            FAIL("all values have to have one shape, and value %d differs from value 0", (int)i);
        if (coef->rank > 1 || (coef->rank == 1 && !demist_is_batched(coef)))
            FAIL("coefficient %d has to be [] or [N]", (int)i);
        if (coef->rank == 1 && !demist_is_batched(x))
            FAIL("coefficient %d is one per image, but the values are not batched", (int)i);
    }
    return same_shape(y, err);
}

static demist_status reduce(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    int64_t shape[DEMIST_MAX_RANK] = {0};
    uint32_t axes = y->attrs.reduce.axes;
    DM_TRY(need_f32(y, err));
    if (axes == 0 || axes >> x->rank != 0)
        FAIL("the bit mask of axes is 0x%x; it has to name some of the %d dimensions",
             (unsigned)axes, (int)x->rank);
    for (int32_t i = 0; i < x->rank; i++) {
        if (axes >> i & 1)
            DM_TRY(need_axis(x, i, err));
        shape[i] = axes >> i & 1 ? 1 : x->shape[i];
    }
    return set_shape(y, DEMIST_F32, x->rank, shape, err);
}

static demist_status batch_sum(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    int64_t shape[DEMIST_MAX_RANK] = {0};
    DM_TRY(need_f32(y, err));
    if (!demist_is_batched(x))
        FAIL("there are no images to sum over: the value is not batched");
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = 1;
    return set_shape(y, DEMIST_F32, x->rank, shape, err);
}

static demist_status softmax(demist_node *y, struct dm_error *err)
{
    DM_TRY(need_f32(y, err));
    DM_TRY(need_axis(y->inputs[0], y->attrs.axis.axis, err));
    return same_shape(y, err);
}

static demist_status linear(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0], *w = y->inputs[1];
    int64_t shape[DEMIST_MAX_RANK] = {0};
    DM_TRY(need_f32(y, err));
    DM_TRY(need_unbatched(w, "the weight", err));
    DM_TRY(need_rank(w, 2, "the weight", err));
    if (x->rank < 1 || x->shape[x->rank - 1] == DEMIST_BATCH)
        FAIL("the input needs a last dimension of features: reshape [N] to [N,1]");
    if (x->shape[x->rank - 1] != w->shape[1])
        FAIL("the input has %" PRId64 " features, the weight wants %" PRId64, x->shape[x->rank - 1],
             w->shape[1]);
    if (y->n_inputs == 3)
        DM_TRY(need_vector(y->inputs[2], w->shape[0], "the bias", err));
    memcpy(shape, x->shape, sizeof shape);
    shape[x->rank - 1] = w->shape[0];
    return set_shape(y, DEMIST_F32, x->rank, shape, err);
}

static demist_status flag(int32_t value, const char *what, struct dm_error *err)
{
    if (value != 0 && value != 1)
        FAIL("%s is %d; it is 0 or 1", what, (int)value);
    return DEMIST_OK;
}

static demist_status matmul(demist_node *y, struct dm_error *err)
{
    const demist_node *a = y->inputs[0], *b = y->inputs[1];
    int32_t ta = y->attrs.matmul.transpose_a, tb = y->attrs.matmul.transpose_b, rank;
    int64_t shape[DEMIST_MAX_RANK] = {0};
    DM_TRY(need_f32(y, err));
    DM_TRY(flag(ta, "transpose_a", err));
    DM_TRY(flag(tb, "transpose_b", err));
    for (int i = 0; i < 2; i++)
        if (y->inputs[i]->rank < 2 || (y->inputs[i]->rank == 2 && demist_is_batched(y->inputs[i])))
            FAIL("input %d has to be a matrix [..,rows,columns] behind the batch", i);
    int64_t rows = a->shape[a->rank - (ta ? 1 : 2)], inner = a->shape[a->rank - (ta ? 2 : 1)];
    int64_t inner_b = b->shape[b->rank - (tb ? 1 : 2)], columns = b->shape[b->rank - (tb ? 2 : 1)];
    if (inner != inner_b)
        FAIL("a has %" PRId64 " columns, b has %" PRId64 " rows%s", inner, inner_b,
             ta || tb ? " (after transposing)" : "");
    struct dims lead[2] = {{a->rank - 2, a->shape}, {b->rank - 2, b->shape}};
    DM_TRY(broadcast(2, lead, &rank, shape, err));
    shape[rank] = rows;
    shape[rank + 1] = columns;
    return set_shape(y, DEMIST_F32, rank + 2, shape, err);
}

static demist_status conv_attrs(const demist_node *y, struct dm_error *err)
{
    bool transposed = y->op == DEMIST_OP_CONV_TRANSPOSE2D;
    for (int i = 0; i < 2; i++) {
        int32_t stride = y->attrs.conv.stride[i], dilation = y->attrs.conv.dilation[i];
        int32_t extra = y->attrs.conv.output_pad[i];
        if (stride < 1 || dilation < 1)
            FAIL("stride and dilation have to be at least 1");
        if (!transposed && extra != 0)
            FAIL("output_pad is for conv_transpose2d");
        if (extra < 0 || (extra > 0 && extra >= (stride > dilation ? stride : dilation)))
            FAIL("output_pad has to be from 0 to below the larger of stride and dilation");
    }
    for (int i = 0; i < 4; i++)
        if (y->attrs.conv.pad[i] < 0)
            FAIL("padding must not be negative");
    if (y->attrs.conv.groups < 1)
        FAIL("groups has to be at least 1");
    return DEMIST_OK;
}

/* The extent of a (transposed) convolution's result along y (i = 0) or x (i = 1). */
static int64_t conv_extent(const demist_node *y, int i)
{
    int64_t in = y->inputs[0]->shape[2 + i], kernel = y->inputs[1]->shape[2 + i];
    int64_t pads = (int64_t)y->attrs.conv.pad[i] + y->attrs.conv.pad[2 + i];
    int64_t reach = y->attrs.conv.dilation[i] * (kernel - 1) + 1;
    if (y->op == DEMIST_OP_CONV_TRANSPOSE2D)
        return (in - 1) * y->attrs.conv.stride[i] + reach - pads + y->attrs.conv.output_pad[i];
    return in + pads < reach ? 0 : (in + pads - reach) / y->attrs.conv.stride[i] + 1;
}

static demist_status conv(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0], *w = y->inputs[1];
    DM_TRY(need_f32(y, err));
    DM_TRY(need_rank(x, 4, "the input", err));
    DM_TRY(need_unbatched(w, "the weight", err));
    DM_TRY(need_rank(w, 4, "the weight", err));
    DM_TRY(conv_attrs(y, err));
    int64_t groups = y->attrs.conv.groups, in, out;
    if (y->op == DEMIST_OP_CONV_TRANSPOSE2D) {
        in = w->shape[0];
        out = w->shape[1] * groups;
    } else {
        in = w->shape[1] * groups;
        out = w->shape[0];
    }
    if (in != x->shape[1])
        FAIL("the input has %" PRId64 " channels, the weight wants %" PRId64, x->shape[1], in);
    if (in % groups != 0 || out % groups != 0)
        FAIL("%" PRId64 " input and %" PRId64 " output channels do not divide into %" PRId64
             " groups",
             in, out, groups);
    if (y->n_inputs == 3)
        DM_TRY(need_vector(y->inputs[2], out, "the bias", err));
    int64_t shape[4] = {x->shape[0], out, conv_extent(y, 0), conv_extent(y, 1)};
    if (shape[2] < 1 || shape[3] < 1)
        FAIL("nothing would be left: the result is %" PRId64 " x %" PRId64, shape[2], shape[3]);
    return set_shape(y, DEMIST_F32, 4, shape, err);
}

static demist_status attention(demist_node *y, struct dm_error *err)
{
    const demist_node *q = y->inputs[0], *k = y->inputs[1], *v = y->inputs[2];
    DM_TRY(need_f32(y, err));
    DM_TRY(flag(y->attrs.attention.causal, "causal", err));
    if (!isfinite(y->attrs.attention.scale))
        FAIL("scale has to be finite");
    DM_TRY(need_rank(q, 4, "q", err));
    DM_TRY(need_rank(k, 4, "k", err));
    DM_TRY(need_rank(v, 4, "v", err));
    for (int i = 0; i < 2; i++)
        if (k->shape[i] != q->shape[i] || v->shape[i] != q->shape[i])
            FAIL("q, k and v differ in %s", i == 0 ? "the batch" : "the number of heads");
    if (q->shape[2] != k->shape[2])
        FAIL("q has %" PRId64 " channels per head, k has %" PRId64, q->shape[2], k->shape[2]);
    if (k->shape[3] != v->shape[3])
        FAIL("k has %" PRId64 " positions, v has %" PRId64, k->shape[3], v->shape[3]);
    if (y->attrs.attention.causal && q->shape[3] != k->shape[3])
        FAIL("causal attention needs as many positions in q as in k");
    int64_t shape[4] = {q->shape[0], q->shape[1], v->shape[2], q->shape[3]};
    return set_shape(y, DEMIST_F32, 4, shape, err);
}

static demist_status norm(demist_node *y, struct dm_error *err)
{
    static const char *const names[] = {"x", "gamma", "beta", "mean", "variance"};
    const demist_node *x = y->inputs[0];
    int32_t groups = y->attrs.norm.groups, axis = 1;
    DM_TRY(need_f32(y, err));
    if (!(y->attrs.norm.eps >= 0) || !isfinite(y->attrs.norm.eps))
        FAIL("eps has to be finite and not negative");
    if (y->op == DEMIST_OP_LAYER_NORM)
        axis = x->rank - 1;
    if (axis < 0 || axis >= x->rank || x->shape[axis] == DEMIST_BATCH)
        FAIL("the input has to have %s",
             y->op == DEMIST_OP_LAYER_NORM ? "a last dimension of features" : "the shape [N,C,…]");
    if (y->op != DEMIST_OP_GROUP_NORM ? groups != 0 : groups < 1 || x->shape[axis] % groups != 0)
        FAIL("%" PRId64 " channels do not divide into %d groups%s", x->shape[axis], (int)groups,
             y->op == DEMIST_OP_GROUP_NORM ? "" : "; groups is for group_norm");
    assert(y->n_inputs <= 5); /* 3 but for batch_norm */
    for (int32_t i = 1; i < y->n_inputs; i++)
        DM_TRY(need_vector(y->inputs[i], x->shape[axis], names[i], err));
    return same_shape(y, err);
}

static demist_status pool(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    DM_TRY(need_f32(y, err));
    DM_TRY(need_rank(x, 4, "the input", err));
    int64_t shape[4] = {x->shape[0], x->shape[1], 0, 0};
    for (int i = 0; i < 2; i++) {
        int64_t kernel = y->attrs.pool.kernel[i], stride = y->attrs.pool.stride[i];
        if (kernel < 1 || stride < 1)
            FAIL("kernel and stride have to be at least 1");
        if (kernel > x->shape[2 + i])
            FAIL("the window is %" PRId64 " wide, the input %" PRId64, kernel, x->shape[2 + i]);
        shape[2 + i] = (x->shape[2 + i] - kernel) / stride + 1;
    }
    return set_shape(y, DEMIST_F32, 4, shape, err);
}

static demist_status resize(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    DM_TRY(need_f32(y, err));
    DM_TRY(need_rank(x, 4, "the input", err));
    int64_t height = y->attrs.resize.height, width = y->attrs.resize.width;
    if (y->op == DEMIST_OP_UPSAMPLE_NEAREST) {
        if (y->attrs.upsample.factor < 1)
            FAIL("factor has to be at least 1");
        height = x->shape[2] * y->attrs.upsample.factor;
        width = x->shape[3] * y->attrs.upsample.factor;
    } else if (height < 1 || width < 1) {
        FAIL("height and width have to be at least 1");
    }
    int64_t shape[4] = {x->shape[0], x->shape[1], height, width};
    return set_shape(y, DEMIST_F32, 4, shape, err);
}

static demist_status reshape(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    bool batched = demist_is_batched(x);
    int64_t shape[DEMIST_MAX_RANK], rest = demist_elements(x), known = 1;
    int32_t open = -1;
    memcpy(shape, y->shape, sizeof shape);
    if (batched != (y->rank > 0 && shape[0] == DEMIST_BATCH))
        FAIL(batched ? "a batched value keeps the batch as dimension 0"
                     : "a value that is not batched cannot get a batch: use expand");
    for (int32_t i = batched; i < y->rank; i++) {
        if (shape[i] < 0 || (shape[i] == 0 && open >= 0))
            FAIL("%s: sizes are positive, and one may be 0: it is inferred",
                 dm_shape_text(y->rank, shape).text);
        if (shape[i] == 0)
            open = i;
        else if (__builtin_mul_overflow(known, shape[i], &known))
            FAIL("%s is too large", dm_shape_text(y->rank, shape).text);
    }
    if (open >= 0 && rest % known == 0)
        shape[open] = rest / known;
    else if (open >= 0 || known != rest)
        FAIL("%s does not hold the %" PRId64 " elements%s of the input",
             dm_shape_text(y->rank, shape).text, rest, batched ? " per image" : "");
    return set_shape(y, x->dtype, y->rank, shape, err);
}

static demist_status expand(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    struct dims in[2] = {{x->rank, x->shape}, {y->rank, y->shape}};
    int64_t shape[DEMIST_MAX_RANK] = {0};
    int32_t rank;
    DM_TRY(dm_shape_check(x->dtype, y->rank, y->shape, err));
    DM_TRY(broadcast(2, in, &rank, shape, err));
    if (rank != y->rank || memcmp(shape, y->shape, (size_t)rank * sizeof *shape) != 0)
        FAIL("the input does not broadcast to %s", dm_shape_text(y->rank, y->shape).text);
    return set_shape(y, x->dtype, rank, shape, err);
}

static demist_status transpose(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    int32_t *perm = y->attrs.transpose.perm;
    int64_t shape[DEMIST_MAX_RANK] = {0};
    uint32_t seen = 0;
    for (int32_t i = 0; i < x->rank; i++) {
        if (perm[i] < 0 || perm[i] >= x->rank || seen >> perm[i] & 1)
            FAIL("perm is not a permutation of 0 … %d", (int)x->rank - 1);
        seen |= 1u << perm[i];
        shape[i] = x->shape[perm[i]];
    }
    if (demist_is_batched(x) && perm[0] != 0)
        FAIL("the batch stays dimension 0: perm[0] has to be 0");
    memset(perm + x->rank, 0, (size_t)(DEMIST_MAX_RANK - x->rank) * sizeof *perm);
    return set_shape(y, x->dtype, x->rank, shape, err);
}

static demist_status slice(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    int32_t axis = y->attrs.slice.axis;
    int64_t start = y->attrs.slice.start, length = y->attrs.slice.length;
    int64_t step = y->attrs.slice.step, shape[DEMIST_MAX_RANK] = {0};
    DM_TRY(need_axis(x, axis, err));
    int64_t size = x->shape[axis];
    if (step < 1 || length < 1 || start < 0)
        FAIL("step and length have to be at least 1, start at least 0");
    if (start >= size || (length - 1) > (size - 1 - start) / step)
        FAIL("%" PRId64 " elements from %" PRId64 " in steps of %" PRId64 " leave axis %d of size "
             "%" PRId64,
             length, start, step, (int)axis, size);
    memcpy(shape, x->shape, sizeof shape);
    shape[axis] = length;
    return set_shape(y, x->dtype, x->rank, shape, err);
}

static demist_status concat(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    int32_t axis = y->attrs.axis.axis;
    int64_t shape[DEMIST_MAX_RANK] = {0};
    DM_TRY(need_axis(x, axis, err));
    memcpy(shape, x->shape, sizeof shape);
    for (int32_t i = 1; i < y->n_inputs; i++) {
        const demist_node *other = y->inputs[i];
        if (other->dtype != x->dtype || other->rank != x->rank)
            FAIL("input %d differs from input 0 in type or number of dimensions", (int)i);
        for (int32_t d = 0; d < x->rank; d++)
            if (d != axis && other->shape[d] != x->shape[d])
                FAIL("input %d differs from input 0 in dimension %d; only axis %d may differ%s",
                     (int)i, (int)d, (int)axis,
                     d == 0 && (demist_is_batched(x) || demist_is_batched(other))
                         ? " (expand an unbatched value to the batch)"
                         : "");
        shape[axis] += other->shape[axis]; /* below 2^31 · the number of inputs, an int32_t */
    }
    return set_shape(y, x->dtype, x->rank, shape, err);
}

static demist_status pad(demist_node *y, struct dm_error *err)
{
    const demist_node *x = y->inputs[0];
    int64_t shape[DEMIST_MAX_RANK] = {0};
    int32_t *before = y->attrs.pad.before, *after = y->attrs.pad.after;
    for (int32_t i = 0; i < x->rank; i++) {
        if (before[i] < 0 || after[i] < 0)
            FAIL("padding must not be negative; use slice to cut");
        if (before[i] + (int64_t)after[i] > 0)
            DM_TRY(need_axis(x, i, err));
        shape[i] = x->shape[i] + before[i] + after[i];
    }
    memset(before + x->rank, 0, (size_t)(DEMIST_MAX_RANK - x->rank) * sizeof *before);
    memset(after + x->rank, 0, (size_t)(DEMIST_MAX_RANK - x->rank) * sizeof *after);
    return set_shape(y, x->dtype, x->rank, shape, err);
}

static demist_status embedding(demist_node *y, struct dm_error *err)
{
    const demist_node *table = y->inputs[0], *ids = y->inputs[1];
    int64_t shape[DEMIST_MAX_RANK] = {0};
    DM_TRY(need_unbatched(table, "the table", err));
    DM_TRY(need_rank(table, 2, "the table", err));
    if (table->dtype != DEMIST_F32 || ids->dtype != DEMIST_I32)
        FAIL("the table has to be f32 and the ids i32");
    if (ids->rank == DEMIST_MAX_RANK)
        FAIL("the ids have %d dimensions, the most there are: no room for one more",
             DEMIST_MAX_RANK);
    memcpy(shape, ids->shape, sizeof shape);
    shape[ids->rank] = table->shape[1];
    return set_shape(y, DEMIST_F32, ids->rank + 1, shape, err);
}

static demist_status philox(demist_node *y, int32_t n_slots, struct dm_error *err)
{
    int32_t slots[3] = {y->attrs.philox.seed_slot, y->attrs.philox.draw_slot,
                        y->attrs.philox.image_slot};
    bool batched = y->rank > 0 && y->shape[0] == DEMIST_BATCH;
    DM_TRY(flag(y->attrs.philox.per_image, "per_image", err));
    if (batched != (y->attrs.philox.per_image == 1))
        FAIL("per_image = 1 needs a batched shape, 0 one that is not batched");
    for (int i = 0; i < 3; i++)
        if (slots[i] < 0 || slots[i] >= n_slots)
            FAIL("there is no scalar slot %d: make it with scalar_slot", (int)slots[i]);
    float lo = y->attrs.philox.lo, hi = y->attrs.philox.hi;
    if (y->op == DEMIST_OP_PHILOX_NORMAL ? lo != 0 || hi != 0
                                         : !(lo < hi) || !isfinite(lo) || !isfinite(hi))
        FAIL(y->op == DEMIST_OP_PHILOX_NORMAL ? "lo and hi are for philox_uniform"
                                              : "lo has to be below hi, both finite");
    return set_shape(y, DEMIST_F32, y->rank, y->shape, err);
}

/* ---- Which rule an op has ---- */

static demist_status infer(demist_node *y, int32_t n_slots, struct dm_error *err)
{
    switch (y->op) {
    case DEMIST_OP_INPUT:
    case DEMIST_OP_PARAM:
    case DEMIST_OP_CONSTANT:
    case DEMIST_OP_SCALAR:
        return leaf(y, n_slots, err);
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
    case DEMIST_OP_AFFINE:
    case DEMIST_OP_CLAMP:
    case DEMIST_OP_ADD:
    case DEMIST_OP_SUB:
    case DEMIST_OP_MUL:
    case DEMIST_OP_DIV:
    case DEMIST_OP_MIN:
    case DEMIST_OP_MAX:
    case DEMIST_OP_LESS:
    case DEMIST_OP_SELECT:
        return elementwise(y, err);
    case DEMIST_OP_CAST:
        return cast(y, err);
    case DEMIST_OP_LINCOMB:
        return lincomb(y, err);
    case DEMIST_OP_SUM:
    case DEMIST_OP_MEAN:
    case DEMIST_OP_AMAX:
        return reduce(y, err);
    case DEMIST_OP_SOFTMAX:
        return softmax(y, err);
    case DEMIST_OP_BATCH_SUM:
        return batch_sum(y, err);
    case DEMIST_OP_LINEAR:
        return linear(y, err);
    case DEMIST_OP_MATMUL:
        return matmul(y, err);
    case DEMIST_OP_CONV2D:
    case DEMIST_OP_CONV_TRANSPOSE2D:
        return conv(y, err);
    case DEMIST_OP_ATTENTION:
        return attention(y, err);
    case DEMIST_OP_GROUP_NORM:
    case DEMIST_OP_BATCH_NORM:
    case DEMIST_OP_LAYER_NORM:
        return norm(y, err);
    case DEMIST_OP_MAX_POOL2D:
    case DEMIST_OP_AVG_POOL2D:
        return pool(y, err);
    case DEMIST_OP_UPSAMPLE_NEAREST:
    case DEMIST_OP_RESIZE_BILINEAR:
        return resize(y, err);
    case DEMIST_OP_RESHAPE:
        return reshape(y, err);
    case DEMIST_OP_EXPAND:
        return expand(y, err);
    case DEMIST_OP_TRANSPOSE:
        return transpose(y, err);
    case DEMIST_OP_SLICE:
        return slice(y, err);
    case DEMIST_OP_CONCAT:
        return concat(y, err);
    case DEMIST_OP_PAD:
        return pad(y, err);
    case DEMIST_OP_EMBEDDING:
        return embedding(y, err);
    case DEMIST_OP_PHILOX_NORMAL:
    case DEMIST_OP_PHILOX_UNIFORM:
        return philox(y, n_slots, err);
    case DEMIST_OP_FUSED:
        break;
    }
    FAIL("no rule for this op");
}

/* Says where it went wrong: "node 'c1' (conv2d): …; inputs: [N,3,8,8] f32, [4,2,3,3] f32". */
static demist_status fail_at(const demist_node *y, struct dm_error *err)
{
    struct dm_text inputs = DM_TEXT_INIT;
    for (int32_t i = 0; i < y->n_inputs && i < 8; i++)
        dm_text_appendf(&inputs, "%s%s", i == 0 ? "; inputs: " : ", ",
                        dm_node_shape_text(y->inputs[i]).text);
    if (y->n_inputs > 8)
        dm_text_append(&inputs, ", …");
    demist_status status =
        dm_fail(err, DEMIST_INVALID, "node '%s' (%s): %s%s", y->name, demist_op_name(y->op),
                err->text ? err->text : "", inputs.data ? inputs.data : "");
    dm_text_finish(&inputs);
    return status;
}

demist_status dm_shape_infer(demist_node *node, int32_t n_slots, struct dm_error *err)
{
    struct dm_error own = DM_ERROR_INIT, *to = err ? err : &own;
    size_t used = dm_op_attrs_bytes(node->op);
    memset(node->attrs.bytes + used, 0, sizeof node->attrs - used);
    demist_status status = infer(node, n_slots, to);
    if (status != DEMIST_OK)
        status = fail_at(node, to);
    dm_error_clear(&own);
    return status;
}

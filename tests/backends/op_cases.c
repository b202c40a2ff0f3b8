/* See op_cases.h. */
#include "testing.h"

#include "op_cases.h"

#include <math.h>

#define N DEMIST_BATCH
#define RANK(...) ((int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
#define SHAPE(...) .rank = RANK(__VA_ARGS__), .shape = {__VA_ARGS__}
/* Operands: normal; normal with scale and shift; positive; given values; ids; a single number. */
#define F(...)                                                                                     \
    {                                                                                              \
        .scale = 1, SHAPE(__VA_ARGS__)                                                             \
    }
#define G(scale_, shift_, ...)                                                                     \
    {                                                                                              \
        .scale = scale_, .shift = shift_, SHAPE(__VA_ARGS__)                                       \
    }
#define P(scale_, shift_, ...)                                                                     \
    {                                                                                              \
        .scale = scale_, .shift = shift_, .positive = true, SHAPE(__VA_ARGS__)                     \
    }
#define V(values_, ...)                                                                            \
    {                                                                                              \
        .values = values_, .n_values = sizeof values_ / sizeof values_[0], SHAPE(__VA_ARGS__)      \
    }
#define I(below_, ...)                                                                             \
    {                                                                                              \
        .dtype = DEMIST_I32, .below = below_, SHAPE(__VA_ARGS__)                                   \
    }
#define S(value_)                                                                                  \
    {                                                                                              \
        .scale = 0, .shift = value_                                                                \
    }

#define UNARY(id, text, operand)                                                                   \
    {                                                                                              \
        .name = text, .op = DEMIST_OP_##id, .n = 1, .in = { operand }                              \
    }

static const float edges[] = {0.0f, -0.0f, 1.0f,    -1.0f,    0.5f,   -0.5f,  1e-30f, -1e-30f,
                              8.0f, -8.0f, 1e-5f,   -1e-5f,   88.0f,  -88.0f, 17.5f,  -17.5f,
                              3.0f, -3.0f, 1.5e-8f, 1.2e-38f, 100.0f, -100.0f};
static const float positives[] = {1e-38f,     1e-30f, 1e-7f, 0.5f,  0.99999994f, 1.0f,
                                  1.0000001f, 2.0f,   10.0f, 1e10f, 3.4e38f};
static const float halves[] = {0.5f,        1.5f,          2.5f,  -0.5f,  -1.5f,      -2.5f,
                               0.49999997f, 7.0f,          -7.9f, 3.999f, 8388609.5f, 1e9f,
                               -1e9f,       2147483520.0f, 3e9f,  -3e9f,  0.0f};
static const float same[] = {3.25f};
static const float conditions[] = {0.0f, 1.0f, -2.0f, -0.0f, 1e-30f};
static const float ties[] = {1.0f, 2.0f, 1.0f, -3.0f, 0.0f, -0.0f, 5.0f};

/* NaN stays NaN, infinities follow IEEE 754. */
static const float nonfinite[] = {1.5f, NAN, -2.0f, INFINITY, 0.25f, -INFINITY, -0.5f};

/* --- attributes --- */

#define CONV(sy, sx, top, left, bottom, right, dy, dx, groups_)                                    \
    .attrs.conv = {.stride = {sy, sx},                                                             \
                   .pad = {top, left, bottom, right},                                              \
                   .dilation = {dy, dx},                                                           \
                   .groups = groups_}
#define CONV1(stride_, pad_) CONV(stride_, stride_, pad_, pad_, pad_, pad_, 1, 1, 1)
#define CONVT(s, p, d, g, extra)                                                                   \
    .attrs.conv = {.stride = {s, s},                                                               \
                   .pad = {p, p, p, p},                                                            \
                   .dilation = {d, d},                                                             \
                   .groups = g,                                                                    \
                   .output_pad = {extra, extra}}
#define CASE(text, id, count, ...)                                                                 \
    {                                                                                              \
        .name = text, .op = DEMIST_OP_##id, .n = count, __VA_ARGS__                                \
    }
#define IN(...) .in = {__VA_ARGS__}

/* --- chains --- */

static const demist_node *conv3(demist_builder *b, const demist_node *x, const demist_node *w,
                                const demist_node *bias)
{
    return demist_conv2d(b, x, w, bias, 1, 1);
}

/* x, w, b, gamma, beta, mean, variance: conv, BatchNorm, GELU */
static const demist_node *conv_bn_gelu(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h = conv3(b, in[0], in[1], in[2]);
    return demist_unary(b, DEMIST_OP_GELU,
                        demist_batch_norm(b, h, in[3], in[4], in[5], in[6], 1e-5f));
}

/* the same, twice the input added, over 1.414 */
static const demist_node *conv_bn_gelu_residual(demist_builder *b, const demist_node *const *in)
{
    return demist_affine(b, demist_add(b, conv_bn_gelu(b, in), in[0]), 1 / 1.414f, 0);
}

static const demist_node *linear_gelu_linear(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h = demist_unary(b, DEMIST_OP_GELU, demist_linear(b, in[0], in[1], in[2]));
    return demist_linear(b, h, in[3], in[4]);
}

static const demist_node *linear_relu(demist_builder *b, const demist_node *const *in)
{
    return demist_unary(b, DEMIST_OP_RELU, demist_linear(b, in[0], in[1], in[2]));
}

/* x, w, b, gamma, beta: transposed conv 2 stride 2, GroupNorm, ReLU */
static const demist_node *up_norm_relu(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h = demist_conv_transpose2d(b, in[0], in[1], in[2], 2, 0);
    return demist_unary(b, DEMIST_OP_RELU, demist_group_norm(b, h, in[3], in[4], 4, 1e-5f));
}

/* x, gamma, beta, scale, shift: SiLU(GN(x)·(1 + scale) + shift) */
static const demist_node *norm_scale_shift_silu(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h = demist_group_norm(b, in[0], in[1], in[2], 4, 1e-5f);
    h = demist_mul(b, h, demist_affine(b, in[3], 1, 1));
    return demist_unary(b, DEMIST_OP_SILU, demist_add(b, h, in[4]));
}

/* x, gamma, beta, w, b, skip: GN, SiLU, conv, + skip: a residual block's second half */
static const demist_node *norm_silu_conv_skip(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h = demist_group_norm(b, in[0], in[1], in[2], 4, 1e-5f);
    h = conv3(b, demist_unary(b, DEMIST_OP_SILU, h), in[3], in[4]);
    return demist_add(b, in[5], h);
}

/* x, t, w, b: a value used twice must not be fused away */
static const demist_node *conv_used_twice(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h = conv3(b, in[0], in[1], in[2]);
    return demist_mul(b, demist_unary(b, DEMIST_OP_SIGMOID, h), h);
}

/* x, y, w, b: concat along channels, conv */
static const demist_node *concat_conv(demist_builder *b, const demist_node *const *in)
{
    return conv3(b, demist_concat(b, 1, 2, in), in[2], in[3]);
}

/* x, skip, w, b: nearest ×2, concat, conv, max pool */
static const demist_node *upsample_conv_pool(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h[2] = {demist_upsample_nearest(b, in[0], 2), in[1]};
    h[0] = conv3(b, demist_concat(b, 1, 2, h), in[2], in[3]);
    return demist_pool2d(b, DEMIST_OP_MAX_POOL2D, h[0], 2);
}

/* cos and sin of t·frequency, concatenated, linear, SiLU: a time embedding. t, frequencies, w, b */
static const demist_node *time_embedding(demist_builder *b, const demist_node *const *in)
{
    const demist_node *angle = demist_mul(b, in[0], in[1]);
    const demist_node *parts[2] = {demist_unary(b, DEMIST_OP_COS, angle),
                                   demist_unary(b, DEMIST_OP_SIN, angle)};
    const demist_node *h = demist_linear(b, demist_concat(b, 1, 2, parts), in[2], in[3]);
    return demist_unary(b, DEMIST_OP_SILU, h);
}

/* x [N,12,5,5], qkv weight [36,12,1,1] and bias: two heads of six channels, q|k|v per head */
static const demist_node *attention_block(demist_builder *b, const demist_node *const *in)
{
    const int64_t heads[] = {N, 2, 18, 25}, image[] = {N, 12, 5, 5};
    const demist_node *qkv =
        demist_reshape(b, demist_conv2d(b, in[0], in[1], in[2], 1, 0), 4, heads);
    const demist_node *h =
        demist_attention(b, demist_slice(b, qkv, 2, 0, 6), demist_slice(b, qkv, 2, 6, 6),
                         demist_slice(b, qkv, 2, 12, 6), 0.40824829f);
    return demist_add(b, in[0], demist_reshape(b, h, 4, image));
}

/* The same with heads of a size that tensor cores take: x [N,16,6,6], w 48 x 16 x 1 x 1, b 48 */
static const demist_node *attention_of_16(demist_builder *b, const demist_node *const *in)
{
    const int64_t heads[] = {N, 1, 48, 36}, image[] = {N, 16, 6, 6};
    const demist_node *qkv =
        demist_reshape(b, demist_conv2d(b, in[0], in[1], in[2], 1, 0), 4, heads);
    const demist_node *h =
        demist_attention(b, demist_slice(b, qkv, 2, 0, 16), demist_slice(b, qkv, 2, 16, 16),
                         demist_slice(b, qkv, 2, 32, 16), 0.25f);
    return demist_add(b, in[0], demist_reshape(b, h, 4, image));
}

/* broadcast elementwise: c·x + t, squashed. x [N,4,3,3], c [N,4,1,1], t [N,4,1,1] */
static const demist_node *modulate(demist_builder *b, const demist_node *const *in)
{
    const demist_node *h = demist_add(b, demist_mul(b, in[1], in[0]), in[2]);
    return demist_affine(b, demist_unary(b, DEMIST_OP_TANH, h), 0.5f, 0.25f);
}

/* table, ids, x: an embedding added to x */
static const demist_node *embedding_add(demist_builder *b, const demist_node *const *in)
{
    const demist_node *ids[2] = {in[0], in[1]};
    return demist_add(b, b->op(b, DEMIST_OP_EMBEDDING, 2, ids, NULL, 0, NULL), in[2]);
}

/* x, gamma, beta, w, b: LayerNorm, linear, + x */
static const demist_node *layer_norm_linear(demist_builder *b, const demist_node *const *in)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.norm.eps = 1e-5f;
    const demist_node *h = b->op(b, DEMIST_OP_LAYER_NORM, 3, in, &attrs, 0, NULL);
    return demist_add(b, demist_linear(b, h, in[3], in[4]), in[0]);
}

/* x times the number in scalar slot 3 */
static const demist_node *times_scalar(demist_builder *b, const demist_node *const *in)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.scalar.slot = 3;
    return demist_mul(b, in[0], b->op(b, DEMIST_OP_SCALAR, 0, NULL, &attrs, 0, NULL));
}

/* a convolution whose weight is drawn: ContextUnet's random shortcut */
static const demist_node *conv_random_weight(demist_builder *b, const demist_node *const *in)
{
    const int64_t shape[] = {8, 3, 1, 1};
    demist_attrs attrs = demist_no_attrs();
    attrs.philox.purpose = 6;
    attrs.philox.draw_slot = 1;
    attrs.philox.image_slot = 2;
    attrs.philox.lo = -0.5f;
    attrs.philox.hi = 0.5f;
    return demist_conv2d(b, in[0], b->op(b, DEMIST_OP_PHILOX_UNIFORM, 0, NULL, &attrs, 4, shape),
                         NULL, 1, 0);
}

#define CHAIN(text, fn, count, ...)                                                                \
    {                                                                                              \
        .name = text, .chain = fn, .n = count, IN(__VA_ARGS__)                                     \
    }

/* --- the cases --- */

const struct op_case op_cases[] = {
    UNARY(NEG, "neg", F(N, 3, 5)),
    UNARY(NEG, "neg/edges", V(edges, N, 23)),
    UNARY(ABS, "abs", F(N, 3, 5)),
    UNARY(EXP, "exp", G(2, 0, N, 3, 5)),
    UNARY(EXP, "exp/large", G(30, 0, N, 33)),
    UNARY(EXP, "exp/edges", V(edges, N, 22)),
    UNARY(LOG, "log", P(2, 0.01, N, 3, 5)),
    UNARY(LOG, "log/wide", V(positives, N, 11)),
    UNARY(SQRT, "sqrt", P(2, 0, N, 3, 5)),
    UNARY(SQRT, "sqrt/wide", V(positives, N, 11)),
    UNARY(SIN, "sin", G(3, 0, N, 3, 5)),
    UNARY(SIN, "sin/large", G(500, 0, N, 65)),
    UNARY(COS, "cos", G(3, 0, N, 3, 5)),
    UNARY(COS, "cos/large", G(500, 0, N, 65)),
    UNARY(TANH, "tanh", F(N, 3, 5)),
    UNARY(TANH, "tanh/edges", V(edges, N, 22)),
    UNARY(ERF, "erf", F(N, 3, 5)),
    UNARY(ERF, "erf/edges", V(edges, N, 22)),
    UNARY(SIGMOID, "sigmoid", G(3, 0, N, 3, 5)),
    UNARY(SIGMOID, "sigmoid/edges", V(edges, N, 22)),
    UNARY(RELU, "relu", F(N, 3, 5)),
    UNARY(RELU, "relu/edges", V(edges, N, 22)),
    UNARY(SILU, "silu", G(3, 0, N, 3, 5)),
    UNARY(SILU, "silu/edges", V(edges, N, 22)),
    UNARY(GELU, "gelu", G(2, 0, N, 3, 5)),
    UNARY(GELU, "gelu/edges", V(edges, N, 22)),
    UNARY(GELU, "gelu/one-dimension", F(N)),
    UNARY(SILU, "silu/unbatched", F(4, 7)),
    CASE("affine", AFFINE, 1, IN(F(N, 3, 5)), .attrs.affine = {2.5f, -0.75f}),
    CASE("clamp", CLAMP, 1, IN(F(N, 3, 5)), .attrs.clamp = {-0.5f, 0.75f}),
    CASE("clamp/edges", CLAMP, 1, IN(V(edges, N, 22)), .attrs.clamp = {-1, 1}),
    CASE("cast/to-i32", CAST, 1, IN(V(halves, N, 17)), .attrs.cast = {DEMIST_I32}),
    CASE("cast/to-f32", CAST, 1, IN(I(1 << 30, N, 9)), .attrs.cast = {DEMIST_F32}),
    CASE("cast/same", CAST, 1, IN(F(N, 9)), .attrs.cast = {DEMIST_F32}),

    CASE("add", ADD, 2, IN(F(N, 4, 6), F(N, 4, 6))),
    CASE("add/row", ADD, 2, IN(F(N, 4, 6), F(6))),
    CASE("add/column", ADD, 2, IN(F(N, 4, 6), F(4, 1))),
    CASE("add/outer", ADD, 2, IN(F(N, 4, 1), F(N, 1, 6))),
    CASE("add/channel", ADD, 2, IN(F(N, 3, 4, 5), F(N, 3, 1, 1))),
    CASE("add/image", ADD, 2, IN(F(N, 1, 1, 1), F(N, 3, 4, 5))),
    CASE("add/scalar-left", ADD, 2, IN(S(1.5), F(N, 7))),
    CASE("add/new-axes", ADD, 2, IN(F(1, 1, 7), F(N, 3, 1))),
    CASE("add/unbatched", ADD, 2, IN(F(3, 1), F(1, 4))),
    CASE("add/cancelling", ADD, 2, IN(G(1, 1e6, N, 33), G(1, -1e6, N, 33))),
    CASE("sub", SUB, 2, IN(F(N, 4, 6), F(N, 4, 6))),
    CASE("sub/row-left", SUB, 2, IN(F(6), F(N, 4, 6))),
    CASE("mul", MUL, 2, IN(F(N, 4, 6), F(N, 4, 6))),
    CASE("mul/channel", MUL, 2, IN(F(N, 3, 1, 1), F(N, 3, 4, 5))),
    CASE("mul/plane", MUL, 2, IN(F(N, 3, 4, 5), F(1, 1, 4, 5))),
    CASE("div", DIV, 2, IN(F(N, 4, 6), P(1, 0.1, N, 4, 6))),
    CASE("div/image", DIV, 2, IN(F(N, 3, 4), P(1, 0.1, N, 1, 1))),
    CASE("min", MIN, 2, IN(V(ties, N, 4, 6), F(N, 4, 6))),
    CASE("min/row", MIN, 2, IN(F(N, 4, 6), F(6))),
    CASE("max", MAX, 2, IN(V(ties, N, 4, 6), V(edges, N, 4, 6))),
    CASE("max/scalar", MAX, 2, IN(F(N, 4, 6), S(0.25))),
    CASE("less", LESS, 2, IN(V(ties, N, 4, 7), V(edges, N, 4, 7))),
    CASE("less/row", LESS, 2, IN(F(N, 4, 6), F(6))),
    CASE("select", SELECT, 3, IN(V(conditions, N, 4, 6), F(N, 4, 6), F(N, 4, 6))),
    CASE("select/broadcast", SELECT, 3, IN(V(conditions, N, 4, 1), F(N, 1, 6), S(-1))),
    CASE("lincomb/one", LINCOMB, 2, IN(F(N, 3, 5), S(0.5))),
    CASE("lincomb/two", LINCOMB, 4, IN(F(N, 3, 5), F(N, 3, 5), S(0.5), S(-2))),
    CASE("lincomb/per-image", LINCOMB, 4, IN(F(N, 3, 4, 5), F(N, 3, 4, 5), F(N), S(3))),
    CASE("lincomb/five", LINCOMB, 10,
         IN(F(N, 33), F(N, 33), F(N, 33), F(N, 33), F(N, 33), F(N), F(N), S(1), F(N), S(-1))),

    UNARY(NEG, "neg/nonfinite", V(nonfinite, N, 7)),
    UNARY(EXP, "exp/nonfinite", V(nonfinite, N, 7)),
    UNARY(TANH, "tanh/nonfinite", V(nonfinite, N, 7)),
    UNARY(SIGMOID, "sigmoid/nonfinite", V(nonfinite, N, 7)),
    UNARY(RELU, "relu/nonfinite", V(nonfinite, N, 7)),
    CASE("clamp/nonfinite", CLAMP, 1, IN(V(nonfinite, N, 7)), .attrs.clamp = {-1, 1}),
    CASE("cast/nonfinite", CAST, 1, IN(V(nonfinite, N, 7)), .attrs.cast = {DEMIST_I32}),
    CASE("add/nonfinite", ADD, 2, IN(V(nonfinite, N, 7, 1), V(nonfinite, N, 1, 7))),
    CASE("mul/nonfinite", MUL, 2, IN(V(nonfinite, N, 7, 1), V(nonfinite, N, 1, 7))),
    CASE("min/nonfinite", MIN, 2, IN(V(nonfinite, N, 7, 1), V(nonfinite, N, 1, 7))),
    CASE("max/nonfinite", MAX, 2, IN(V(nonfinite, N, 7, 1), V(nonfinite, N, 1, 7))),
    CASE("less/nonfinite", LESS, 2, IN(V(nonfinite, N, 7, 1), V(nonfinite, N, 1, 7))),
    CASE("select/nonfinite", SELECT, 3,
         IN(V(nonfinite, N, 7, 1), V(nonfinite, N, 1, 7), F(N, 7, 7))),
    CASE("amax/nonfinite", AMAX, 1, IN(V(nonfinite, N, 5, 3)), .attrs.reduce = {1u << 2}),
    CASE("max_pool2d/nonfinite", MAX_POOL2D, 1, IN(V(nonfinite, N, 2, 6, 6)),
         .attrs.pool = {{2, 2}, {2, 2}}),

    CASE("sum/last", SUM, 1, IN(F(N, 3, 37)), .attrs.reduce = {1u << 2}),
    CASE("sum/middle", SUM, 1, IN(F(N, 5, 6)), .attrs.reduce = {1u << 1}),
    CASE("sum/two-apart", SUM, 1, IN(F(N, 3, 4, 5)), .attrs.reduce = {1u << 1 | 1u << 3}),
    CASE("sum/image", SUM, 1, IN(F(N, 3, 16, 17)), .attrs.reduce = {7u << 1}),
    CASE("sum/unbatched", SUM, 1, IN(F(4, 6)), .attrs.reduce = {3u}),
    CASE("mean/image", MEAN, 1, IN(G(1, 1000, N, 3, 16, 17)), .attrs.reduce = {7u << 1}),
    CASE("mean/one", MEAN, 1, IN(F(N, 1, 6)), .attrs.reduce = {1u << 1}),
    CASE("amax/last", AMAX, 1, IN(G(1, -5, N, 3, 37)), .attrs.reduce = {1u << 2}),
    CASE("amax/planes", AMAX, 1, IN(F(N, 3, 4, 5)), .attrs.reduce = {3u << 2}),
    CASE("batch_sum", BATCH_SUM, 1, IN(G(1, 3, N, 3, 5))),
    CASE("batch_sum/one-dimension", BATCH_SUM, 1, IN(F(N))),
    CASE("softmax/last", SOFTMAX, 1, IN(F(N, 3, 37)), .attrs.axis = {2}),
    CASE("softmax/middle", SOFTMAX, 1, IN(F(N, 5, 7)), .attrs.axis = {1}),
    CASE("softmax/large", SOFTMAX, 1, IN(G(50, 1000, N, 33)), .attrs.axis = {1}),
    CASE("softmax/one", SOFTMAX, 1, IN(F(N, 4, 1)), .attrs.axis = {2}),

    CASE("linear", LINEAR, 3, IN(F(N, 16), G(0.25, 0, 32, 16), F(32))),
    CASE("linear/odd", LINEAR, 3, IN(F(N, 7), F(5, 7), F(5))),
    CASE("linear/one", LINEAR, 3, IN(F(N, 1), F(1, 1), F(1))),
    CASE("linear/deep", LINEAR, 3, IN(F(N, 301), G(0.1, 0, 67, 301), F(67))),
    CASE("linear/no-bias", LINEAR, 2, IN(F(N, 33), F(17, 33))),
    CASE("linear/rows", LINEAR, 3, IN(F(N, 19, 24), F(10, 24), F(10))),
    CASE("linear/unbatched", LINEAR, 3, IN(F(3, 8), F(9, 8), F(9))),
    CASE("linear/cancelling", LINEAR, 2, IN(G(1, 1000, N, 64), F(8, 64))),
    CASE("matmul", MATMUL, 2, IN(F(N, 4, 6), F(N, 6, 5))),
    CASE("matmul/ta", MATMUL, 2, IN(F(N, 6, 4), F(N, 6, 5)), .attrs.matmul = {1, 0}),
    CASE("matmul/tb", MATMUL, 2, IN(F(N, 4, 6), F(N, 5, 6)), .attrs.matmul = {0, 1}),
    CASE("matmul/ta-tb", MATMUL, 2, IN(F(N, 6, 4), F(N, 5, 6)), .attrs.matmul = {1, 1}),
    CASE("matmul/shared-right", MATMUL, 2, IN(F(N, 2, 4, 6), F(6, 5))),
    CASE("matmul/shared-left", MATMUL, 2, IN(F(1, 4, 6), F(N, 6, 5))),
    CASE("matmul/outer-axes", MATMUL, 2, IN(F(N, 1, 4, 6), F(1, 3, 6, 5))),
    CASE("matmul/unbatched", MATMUL, 2, IN(F(4, 6), F(6, 5))),
    CASE("matmul/large", MATMUL, 2, IN(F(N, 66, 70), F(N, 70, 19))),

    CASE("conv2d", CONV2D, 3, IN(F(N, 3, 8, 8), F(4, 3, 3, 3), F(4)), CONV1(1, 1)),
    CASE("conv2d/no-bias", CONV2D, 2, IN(F(N, 3, 8, 8), F(4, 3, 3, 3)), CONV1(1, 1)),
    CASE("conv2d/no-pad", CONV2D, 3, IN(F(N, 2, 7, 9), F(3, 2, 3, 3), F(3)), CONV1(1, 0)),
    CASE("conv2d/winograd-like", CONV2D, 3, IN(F(N, 16, 16, 16), G(0.1, 0, 16, 16, 3, 3), F(16)),
         CONV1(1, 1)),
    CASE("conv2d/odd-size", CONV2D, 3, IN(F(N, 8, 17, 13), G(0.2, 0, 9, 8, 3, 3), F(9)),
         CONV1(1, 1)),
    CASE("conv2d/wide", CONV2D, 3, IN(F(N, 34, 6, 6), G(0.1, 0, 70, 34, 3, 3), F(70)), CONV1(1, 1)),
    CASE("conv2d/large-image", CONV2D, 3, IN(F(N, 3, 33, 35), F(2, 3, 3, 3), F(2)), CONV1(1, 1)),
    CASE("conv2d/stride2", CONV2D, 3, IN(F(N, 5, 9, 7), F(6, 5, 3, 3), F(6)), CONV1(2, 1)),
    CASE("conv2d/stride2-even", CONV2D, 3, IN(F(N, 8, 8, 8), F(8, 8, 3, 3), F(8)), CONV1(2, 1)),
    CASE("conv2d/strides-differ", CONV2D, 3, IN(F(N, 3, 8, 9), F(4, 3, 3, 3), F(4)),
         CONV(2, 1, 1, 1, 1, 1, 1, 1, 1)),
    CASE("conv2d/1x1", CONV2D, 3, IN(F(N, 20, 5, 7), F(33, 20, 1, 1), F(33)), CONV1(1, 0)),
    CASE("conv2d/1x1-stride2", CONV2D, 3, IN(F(N, 6, 7, 7), F(5, 6, 1, 1), F(5)), CONV1(2, 0)),
    CASE("conv2d/2x2-stride2", CONV2D, 3, IN(F(N, 4, 8, 6), F(4, 4, 2, 2), F(4)), CONV1(2, 0)),
    CASE("conv2d/5x5", CONV2D, 3, IN(F(N, 3, 9, 9), F(4, 3, 5, 5), F(4)), CONV1(1, 2)),
    CASE("conv2d/7x7-stride2", CONV2D, 3, IN(F(N, 3, 15, 15), F(4, 3, 7, 7), F(4)), CONV1(2, 3)),
    CASE("conv2d/1x3", CONV2D, 3, IN(F(N, 3, 6, 7), F(4, 3, 1, 3), F(4)),
         CONV(1, 1, 0, 1, 0, 1, 1, 1, 1)),
    CASE("conv2d/3x1", CONV2D, 3, IN(F(N, 3, 6, 7), F(4, 3, 3, 1), F(4)),
         CONV(1, 1, 1, 0, 1, 0, 1, 1, 1)),
    CASE("conv2d/one-sided-pad", CONV2D, 3, IN(F(N, 3, 8, 8), F(4, 3, 3, 3), F(4)),
         CONV(2, 2, 0, 0, 1, 1, 1, 1, 1)),
    CASE("conv2d/pads-differ", CONV2D, 3, IN(F(N, 3, 6, 5), F(4, 3, 3, 3), F(4)),
         CONV(1, 1, 2, 0, 1, 3, 1, 1, 1)),
    CASE("conv2d/dilation", CONV2D, 3, IN(F(N, 3, 9, 10), F(4, 3, 3, 3), F(4)),
         CONV(1, 1, 2, 2, 2, 2, 2, 2, 1)),
    CASE("conv2d/dilations-differ", CONV2D, 3, IN(F(N, 3, 9, 10), F(4, 3, 3, 3), F(4)),
         CONV(1, 2, 3, 1, 3, 1, 3, 1, 1)),
    CASE("conv2d/groups", CONV2D, 3, IN(F(N, 8, 6, 6), F(6, 4, 3, 3), F(6)),
         CONV(1, 1, 1, 1, 1, 1, 1, 1, 2)),
    CASE("conv2d/depthwise", CONV2D, 3, IN(F(N, 9, 6, 6), F(9, 1, 3, 3), F(9)),
         CONV(1, 1, 1, 1, 1, 1, 1, 1, 9)),
    CASE("conv2d/one-pixel", CONV2D, 3, IN(F(N, 5, 1, 1), F(7, 5, 3, 3), F(7)), CONV1(1, 1)),
    CASE("conv2d/two-pixels", CONV2D, 3, IN(F(N, 16, 2, 2), F(16, 16, 3, 3), F(16)), CONV1(1, 1)),
    CASE("conv2d/large-values", CONV2D, 3, IN(G(1000, 500, N, 8, 9, 9), G(30, 0, 8, 8, 3, 3), F(8)),
         CONV1(1, 1)),
    CASE("conv2d/unbatched", CONV2D, 3, IN(F(2, 3, 5, 5), F(4, 3, 3, 3), F(4)), CONV1(1, 1)),

    CASE("conv_transpose2d/2s2", CONV_TRANSPOSE2D, 3, IN(F(N, 6, 4, 5), F(6, 4, 2, 2), F(4)),
         CONVT(2, 0, 1, 1, 0)),
    CASE("conv_transpose2d/wide", CONV_TRANSPOSE2D, 3,
         IN(F(N, 66, 3, 3), G(0.1, 0, 66, 70, 2, 2), F(70)), CONVT(2, 0, 1, 1, 0)),
    CASE("conv_transpose2d/4s4", CONV_TRANSPOSE2D, 3, IN(F(N, 8, 1, 1), F(8, 5, 4, 4), F(5)),
         CONVT(4, 0, 1, 1, 0)),
    CASE("conv_transpose2d/4s2p1", CONV_TRANSPOSE2D, 3, IN(F(N, 3, 5, 4), F(3, 4, 4, 4), F(4)),
         CONVT(2, 1, 1, 1, 0)),
    CASE("conv_transpose2d/3s2p1-output-pad", CONV_TRANSPOSE2D, 3,
         IN(F(N, 3, 5, 4), F(3, 4, 3, 3), F(4)), CONVT(2, 1, 1, 1, 1)),
    CASE("conv_transpose2d/3s1p1", CONV_TRANSPOSE2D, 3, IN(F(N, 3, 5, 6), F(3, 4, 3, 3), F(4)),
         CONVT(1, 1, 1, 1, 0)),
    CASE("conv_transpose2d/gaps", CONV_TRANSPOSE2D, 3, IN(F(N, 3, 4, 3), F(3, 4, 2, 2), F(4)),
         CONVT(3, 0, 1, 1, 0)),
    CASE("conv_transpose2d/dilation", CONV_TRANSPOSE2D, 3, IN(F(N, 3, 4, 5), F(3, 4, 3, 3), F(4)),
         CONVT(2, 1, 2, 1, 1)),
    CASE("conv_transpose2d/groups", CONV_TRANSPOSE2D, 3, IN(F(N, 6, 4, 4), F(6, 2, 3, 3), F(4)),
         CONVT(2, 1, 1, 2, 1)),
    CASE("conv_transpose2d/no-bias", CONV_TRANSPOSE2D, 2, IN(F(N, 6, 4, 4), F(6, 3, 2, 2)),
         CONVT(2, 0, 1, 1, 0)),
    CASE("conv_transpose2d/strides-differ", CONV_TRANSPOSE2D, 3,
         IN(F(N, 3, 4, 5), F(3, 4, 3, 2), F(4)),
         .attrs.conv = {.stride = {2, 1}, .pad = {1, 0, 1, 0}, .dilation = {1, 1}, .groups = 1}),
    CASE("conv_transpose2d/crop-all-but-one", CONV_TRANSPOSE2D, 3,
         IN(F(N, 3, 2, 2), F(3, 4, 3, 3), F(4)), CONVT(2, 2, 1, 1, 0)),

    CASE("attention", ATTENTION, 3, IN(F(N, 2, 8, 16), F(N, 2, 8, 16), F(N, 2, 8, 16)),
         .attrs.attention = {0.35355338f, 0}),
    CASE("attention/cross", ATTENTION, 3, IN(F(N, 3, 5, 21), F(N, 3, 5, 7), F(N, 3, 9, 7)),
         .attrs.attention = {0.44721359f, 0}),
    CASE("attention/causal", ATTENTION, 3, IN(F(N, 2, 4, 19), F(N, 2, 4, 19), F(N, 2, 4, 19)),
         .attrs.attention = {0.5f, 1}),
    CASE("attention/one", ATTENTION, 3, IN(F(N, 1, 4, 1), F(N, 1, 4, 1), F(N, 1, 4, 1)),
         .attrs.attention = {0.5f, 0}),
    CASE("attention/long", ATTENTION, 3, IN(F(N, 1, 16, 70), F(N, 1, 16, 70), F(N, 1, 70, 70)),
         .attrs.attention = {0.25f, 0}),
    CASE("attention/sharp", ATTENTION, 3,
         IN(G(20, 0, N, 1, 8, 9), G(20, 0, N, 1, 8, 9), F(N, 1, 8, 9)), .attrs.attention = {1, 0}),
    /* Keys in several blocks, whose largest logits differ; more channels than a block of them. */
    CASE("attention/blocks", ATTENTION, 3,
         IN(G(3, 0, N, 2, 7, 5), G(3, 0, N, 2, 7, 333), F(N, 2, 20, 333)),
         .attrs.attention = {0.5f, 0}),
    CASE("attention/causal-blocks", ATTENTION, 3,
         IN(F(N, 1, 5, 150), F(N, 1, 5, 150), F(N, 1, 9, 150)), .attrs.attention = {-1, 1}),
    CASE("attention/deep", ATTENTION, 3, IN(F(N, 1, 261, 7), F(N, 1, 261, 40), F(N, 1, 4, 40)),
         .attrs.attention = {0.0625f, 0}),
    CASE("attention/wide-values", ATTENTION, 3, IN(F(N, 1, 3, 3), F(N, 1, 3, 66), F(N, 1, 525, 66)),
         .attrs.attention = {0.5f, 0}),
    /* Logits of 10^8, far beyond what an exponential bears. */
    CASE("attention/huge", ATTENTION, 3,
         IN(G(3e3, 0, N, 1, 8, 5), G(3e3, 0, N, 1, 8, 100), F(N, 1, 6, 100)),
         .attrs.attention = {1, 0}),

    CASE("group_norm", GROUP_NORM, 3, IN(F(N, 8, 5, 5), F(8), F(8)), .attrs.norm = {4, 1e-5f}),
    CASE("group_norm/one-group", GROUP_NORM, 3, IN(F(N, 6, 4, 4), F(6), F(6)),
         .attrs.norm = {1, 1e-5f}),
    CASE("group_norm/instance", GROUP_NORM, 3, IN(F(N, 6, 7, 3), F(6), F(6)),
         .attrs.norm = {6, 1e-3f}),
    CASE("group_norm/no-beta", GROUP_NORM, 2, IN(F(N, 8, 4, 4), F(8)), .attrs.norm = {2, 1e-5f}),
    CASE("group_norm/plain", GROUP_NORM, 1, IN(F(N, 8, 4, 4)), .attrs.norm = {2, 1e-5f}),
    CASE("group_norm/vectors", GROUP_NORM, 3, IN(F(N, 12), F(12), F(12)), .attrs.norm = {3, 1e-5f}),
    CASE("group_norm/sequence", GROUP_NORM, 3, IN(F(N, 6, 11), F(6), F(6)),
         .attrs.norm = {2, 1e-5f}),
    CASE("group_norm/large-mean", GROUP_NORM, 3, IN(G(1, 1000, N, 8, 6, 6), F(8), F(8)),
         .attrs.norm = {2, 1e-5f}),
    CASE("group_norm/no-variance", GROUP_NORM, 3, IN(V(same, N, 4, 3, 3), F(4), F(4)),
         .attrs.norm = {2, 1e-5f}),
    CASE("batch_norm", BATCH_NORM, 5, IN(F(N, 6, 4, 5), F(6), F(6), F(6), P(1, 0.1, 6)),
         .attrs.norm = {0, 1e-5f}),
    CASE("batch_norm/vectors", BATCH_NORM, 5, IN(F(N, 9), F(9), F(9), F(9), P(1, 0.1, 9)),
         .attrs.norm = {0, 1e-3f}),
    CASE("layer_norm", LAYER_NORM, 3, IN(F(N, 5, 24), F(24), F(24)), .attrs.norm = {0, 1e-5f}),
    CASE("layer_norm/plain", LAYER_NORM, 1, IN(F(N, 7)), .attrs.norm = {0, 1e-5f}),
    CASE("layer_norm/no-beta", LAYER_NORM, 2, IN(G(3, 100, N, 2, 33), F(33)),
         .attrs.norm = {0, 1e-6f}),

    CASE("max_pool2d", MAX_POOL2D, 1, IN(F(N, 3, 8, 6)), .attrs.pool = {{2, 2}, {2, 2}}),
    CASE("max_pool2d/overlapping", MAX_POOL2D, 1, IN(G(1, -9, N, 3, 9, 8)),
         .attrs.pool = {{3, 3}, {2, 2}}),
    CASE("max_pool2d/odd", MAX_POOL2D, 1, IN(F(N, 2, 7, 5)), .attrs.pool = {{2, 2}, {2, 2}}),
    CASE("avg_pool2d", AVG_POOL2D, 1, IN(F(N, 3, 8, 8)), .attrs.pool = {{2, 2}, {2, 2}}),
    CASE("avg_pool2d/4", AVG_POOL2D, 1, IN(F(N, 5, 4, 4)), .attrs.pool = {{4, 4}, {4, 4}}),
    CASE("avg_pool2d/oblong", AVG_POOL2D, 1, IN(F(N, 2, 7, 9)), .attrs.pool = {{3, 2}, {2, 1}}),
    CASE("upsample_nearest", UPSAMPLE_NEAREST, 1, IN(F(N, 3, 4, 5)), .attrs.upsample = {2}),
    CASE("upsample_nearest/3", UPSAMPLE_NEAREST, 1, IN(F(N, 2, 3, 1)), .attrs.upsample = {3}),
    CASE("resize_bilinear/up", RESIZE_BILINEAR, 1, IN(F(N, 3, 5, 7)), .attrs.resize = {11, 13}),
    CASE("resize_bilinear/double", RESIZE_BILINEAR, 1, IN(F(N, 3, 8, 8)), .attrs.resize = {16, 16}),
    CASE("resize_bilinear/down", RESIZE_BILINEAR, 1, IN(F(N, 2, 16, 15)), .attrs.resize = {7, 4}),
    CASE("resize_bilinear/to-one", RESIZE_BILINEAR, 1, IN(F(N, 2, 6, 5)), .attrs.resize = {1, 1}),
    CASE("resize_bilinear/from-one", RESIZE_BILINEAR, 1, IN(F(N, 2, 1, 1)), .attrs.resize = {3, 4}),
    CASE("resize_bilinear/same", RESIZE_BILINEAR, 1, IN(F(N, 2, 4, 5)), .attrs.resize = {4, 5}),

    CASE("reshape", RESHAPE, 1, IN(F(N, 3, 4, 5)), SHAPE(N, 12, 5)),
    CASE("reshape/flat", RESHAPE, 1, IN(F(N, 3, 4, 5)), SHAPE(N, 60)),
    CASE("reshape/inferred", RESHAPE, 1, IN(F(N, 24)), SHAPE(N, 2, 0, 3)),
    CASE("reshape/unbatched", RESHAPE, 1, IN(F(4, 6)), SHAPE(3, 8)),
    CASE("transpose", TRANSPOSE, 1, IN(F(N, 3, 5)), .attrs.transpose = {{0, 2, 1}}),
    CASE("transpose/to-last", TRANSPOSE, 1, IN(F(N, 3, 4, 5)), .attrs.transpose = {{0, 2, 3, 1}}),
    CASE("transpose/none", TRANSPOSE, 1, IN(F(N, 3, 4)), .attrs.transpose = {{0, 1, 2}}),
    CASE("transpose/five", TRANSPOSE, 1, IN(F(N, 2, 3, 4, 5)),
         .attrs.transpose = {{0, 3, 1, 4, 2}}),
    CASE("transpose/unbatched", TRANSPOSE, 1, IN(F(4, 6)), .attrs.transpose = {{1, 0}}),
    CASE("slice", SLICE, 1, IN(F(N, 8, 5)), .attrs.slice = {1, 1, 2, 3}),
    CASE("slice/last", SLICE, 1, IN(F(N, 3, 9)), .attrs.slice = {2, 1, 8, 1}),
    CASE("slice/step", SLICE, 1, IN(F(N, 3, 10)), .attrs.slice = {2, 3, 1, 3}),
    CASE("concat", CONCAT, 2, IN(F(N, 3, 4, 5), F(N, 2, 4, 5)), .attrs.axis = {1}),
    CASE("concat/three-last", CONCAT, 3, IN(F(N, 3, 4), F(N, 3, 1), F(N, 3, 6)), .attrs.axis = {2}),
    CASE("concat/one", CONCAT, 1, IN(F(N, 3, 4)), .attrs.axis = {1}),
    CASE("concat/ids", CONCAT, 2, IN(I(9, N, 3), I(9, N, 2)), .attrs.axis = {1}),
    CASE("pad", PAD, 1, IN(F(N, 3, 4, 5)), .attrs.pad = {{0, 0, 1, 2}, {0, 0, 3, 0}}),
    CASE("pad/channels", PAD, 1, IN(F(N, 7)), .attrs.pad = {{0, 0}, {0, 1}}),
    CASE("expand", EXPAND, 1, IN(F(N, 1, 3)), SHAPE(N, 4, 3)),
    CASE("expand/to-batch", EXPAND, 1, IN(F(1, 4, 1)), SHAPE(N, 4, 5)),
    CASE("expand/new-axes", EXPAND, 1, IN(F(3)), SHAPE(N, 2, 3)),
    CASE("embedding", EMBEDDING, 2, IN(F(10, 6), I(10, N))),
    CASE("embedding/tokens", EMBEDDING, 2, IN(F(33, 8), I(33, N, 7))),

    CASE("philox_normal", PHILOX_NORMAL, 0, .attrs.philox = {1, 1, 0, 1, 2, 0, 0},
         SHAPE(N, 3, 5, 7)),
    CASE("philox_normal/shared", PHILOX_NORMAL, 0, .attrs.philox = {300, 0, 0, 1, 2, 0, 0},
         SHAPE(37)),
    CASE("philox_uniform", PHILOX_UNIFORM, 0, .attrs.philox = {6, 1, 0, 1, 2, -2, 3}, SHAPE(N, 33)),
    CASE("philox_uniform/shared", PHILOX_UNIFORM, 0, .attrs.philox = {6, 0, 0, 1, 2, 0, 1},
         SHAPE(4, 3)),

    CHAIN("chain/conv-bn-gelu", conv_bn_gelu, 7, F(N, 8, 7, 7), G(0.2, 0, 8, 8, 3, 3), F(8), F(8),
          F(8), F(8), P(1, 0.1, 8)),
    CHAIN("chain/conv-bn-gelu-residual", conv_bn_gelu_residual, 7, F(N, 8, 8, 8),
          G(0.2, 0, 8, 8, 3, 3), F(8), F(8), F(8), F(8), P(1, 0.1, 8)),
    CHAIN("chain/linear-gelu-linear", linear_gelu_linear, 5, F(N, 5), F(32, 5), F(32),
          G(0.2, 0, 24, 32), F(24)),
    CHAIN("chain/linear-relu", linear_relu, 3, F(N, 3), F(128, 3), F(128)),
    CHAIN("chain/up-norm-relu", up_norm_relu, 5, F(N, 8, 4, 4), F(8, 8, 2, 2), F(8), F(8), F(8)),
    CHAIN("chain/norm-scale-shift-silu", norm_scale_shift_silu, 5, F(N, 8, 5, 5), F(8), F(8),
          F(N, 8, 1, 1), F(N, 8, 1, 1)),
    CHAIN("chain/norm-silu-conv-skip", norm_silu_conv_skip, 6, F(N, 8, 6, 6), F(8), F(8),
          G(0.2, 0, 12, 8, 3, 3), F(12), F(N, 12, 6, 6)),
    CHAIN("chain/conv-used-twice", conv_used_twice, 3, F(N, 4, 6, 6), F(4, 4, 3, 3), F(4)),
    CHAIN("chain/concat-conv", concat_conv, 4, F(N, 5, 6, 6), F(N, 3, 6, 6), G(0.2, 0, 8, 8, 3, 3),
          F(8)),
    CHAIN("chain/upsample-conv-pool", upsample_conv_pool, 4, F(N, 4, 3, 3), F(N, 4, 6, 6),
          G(0.2, 0, 8, 8, 3, 3), F(8)),
    CHAIN("chain/time-embedding", time_embedding, 4, G(200, 500, N, 1), P(0.3, 0, 1, 8),
          G(0.2, 0, 24, 16), F(24)),
    CHAIN("chain/attention-block", attention_block, 3, F(N, 12, 5, 5), G(0.3, 0, 36, 12, 1, 1),
          F(36)),
    CHAIN("chain/attention-of-16", attention_of_16, 3, F(N, 16, 6, 6), G(0.3, 0, 48, 16, 1, 1),
          F(48)),
    CHAIN("chain/modulate", modulate, 3, F(N, 4, 3, 3), F(N, 4, 1, 1), F(N, 4, 1, 1)),
    CHAIN("chain/embedding-add", embedding_add, 3, F(10, 6), I(10, N), F(N, 6)),
    CHAIN("chain/layer-norm-linear", layer_norm_linear, 5, F(N, 3, 16), F(16), F(16),
          G(0.3, 0, 16, 16), F(16)),
    CHAIN("chain/times-scalar", times_scalar, 1, F(N, 3, 4)),
    CHAIN("chain/conv-random-weight", conv_random_weight, 1, F(N, 3, 6, 6)),
};

const int op_case_count = sizeof op_cases / sizeof op_cases[0];

const demist_scalar op_case_scalars[OP_CASE_SCALARS] = {
    {.u = 0x123456789abcdef}, {.u = 3}, {.u = 7}, {.f = 0.3}};

bool op_case_mixes_images(const struct op_case *c)
{
    return c->op == DEMIST_OP_BATCH_SUM;
}

/* --- data --- */

int64_t op_case_elements(const struct op_case *c, int32_t i, int64_t images)
{
    int64_t n = 1;
    for (int32_t k = 0; k < c->in[i].rank; k++)
        n *= c->in[i].shape[k] == DEMIST_BATCH ? images : c->in[i].shape[k];
    return n;
}

/* splitmix64 */
static uint64_t next_bits(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* About normal: twelve uniforms; sums of multiples of 2^-32 are exact, so every machine agrees. */
static double next_normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (double)(next_bits(state) >> 32) * 0x1p-32;
    return sum;
}

static uint64_t seed_of(const char *name, int32_t operand)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3;
    return hash + (uint64_t)operand;
}

void *op_case_data(const struct op_case *c, int32_t i)
{
    const struct op_operand *in = &c->in[i];
    const int64_t n = op_case_elements(c, i, OP_CASE_BATCH);
    uint64_t state = seed_of(c->name, i);
    float *data = malloc((size_t)n * sizeof *data);
    assert_non_null(data);
    for (int64_t k = 0; k < n; k++) {
        if (in->dtype == DEMIST_I32) {
            const int32_t id = (int32_t)(next_bits(&state) % (uint64_t)in->below);
            memcpy(&data[k], &id, sizeof id);
        } else if (in->values) {
            data[k] = in->values[(k + 3 * i) % in->n_values];
        } else {
            const double g = next_normal(&state);
            data[k] = (float)(in->shift + in->scale * (in->positive ? fabs(g) : g));
        }
    }
    return data;
}

/* --- graphs --- */

static const demist_node *param_node(struct dm_graph *graph, const struct op_operand *in,
                                     const char *name, const void *data)
{
    demist_node node = DEMIST_INIT(demist_node);
    node.op = DEMIST_OP_PARAM;
    node.name = name;
    node.dtype = in->dtype;
    node.rank = in->rank;
    memcpy(node.shape, in->shape, sizeof in->shape);
    node.data = data;
    return dm_graph_append(graph, &node);
}

static const demist_node *operand_node(struct dm_graph *graph, const struct op_case *c, int32_t i,
                                       enum op_case_weights weights, const void *data)
{
    demist_builder *b = dm_graph_builder(graph);
    const struct op_operand *in = &c->in[i];
    char name[16];
    snprintf(name, sizeof name, "in%d", (int)i);
    if (weights == OP_CASE_INPUTS || (in->rank > 0 && in->shape[0] == DEMIST_BATCH))
        return b->input(b, name, DEMIST_ROLE_OTHER, in->dtype, in->rank, in->shape);
    if (weights == OP_CASE_PARAMS && in->dtype == DEMIST_F32)
        return param_node(graph, in, name, data);
    return b->constant(b, in->dtype, in->rank, in->shape, data);
}

/* x, or a batch_norm of it with γ = 1, β = 0, mean 0 and variance 1. */
static const demist_node *inside(demist_builder *b, const demist_node *x)
{
    if (x->dtype != DEMIST_F32 || x->rank < 3 || !demist_is_batched(x))
        return x;
    const demist_node *in[5] = {x};
    for (int i = 1; i < 5; i++) {
        float data[128];
        for (int k = 0; k < 128; k++)
            data[k] = i == 1 || i == 4;
        assert_in_range(x->shape[1], 1, 128);
        in[i] = b->constant(b, DEMIST_F32, 1, &x->shape[1], data);
    }
    const demist_attrs attrs = {.norm = {.eps = 0}};
    return b->op(b, DEMIST_OP_BATCH_NORM, 5, in, &attrs, 0, NULL);
}

struct dm_graph *op_case_build(const struct op_case *c, enum op_case_weights weights,
                               void *const *operands)
{
    static const char *const slots[OP_CASE_SCALARS] = {"seed", "draw", "image", "number"};
    struct dm_error err = DM_ERROR_INIT;
    struct dm_graph *graph = NULL;
    const demist_node *in[OP_CASE_OPERANDS] = {NULL};
    if (dm_graph_create(c->name, NULL, &graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    demist_builder *b = dm_graph_builder(graph);
    for (int i = 0; i < OP_CASE_SCALARS; i++)
        dm_graph_slot(graph, slots[i]);
    for (int32_t i = 0; i < c->n; i++)
        in[i] = operand_node(graph, c, i, weights, operands[i]);
    for (int32_t i = 0; i < c->n && weights == OP_CASE_INSIDE; i++)
        in[i] = inside(b, in[i]);
    const demist_node *out =
        c->chain ? c->chain(b, in) : b->op(b, c->op, c->n, in, &c->attrs, c->rank, c->shape);
    b->output(b, "out", weights == OP_CASE_INSIDE ? inside(b, out) : out);
    if (dm_graph_finish(graph, &err) != DEMIST_OK)
        fail_msg("%s: %s", c->name, err.text);
    return graph;
}

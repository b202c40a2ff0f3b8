/* Shape inference: for every op a legal node and its shape, and each way to get it wrong. */
#include "testing.h"

#include <math.h>

#include "graphs.h"

/* One call of the builder as data. Inputs are shapes; i32 ones are marked. */
struct shape {
    int32_t rank;
    int64_t size[8];
    bool i32;
};

#define S(...)                                                                                     \
    {                                                                                              \
        (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / 8), {__VA_ARGS__}, false                      \
    }
#define IDS(...)                                                                                   \
    {                                                                                              \
        (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / 8), {__VA_ARGS__}, true                       \
    }
#define SCALAR_SHAPE                                                                               \
    {                                                                                              \
        0, {0}, false                                                                              \
    }

struct call {
    const char *expected; /* the shape, or what the error says */
    demist_op op;
    int32_t n_inputs;
    struct shape inputs[6];
    demist_attrs attrs;
    struct shape asked;
};

static const demist_node *make(demist_builder *b, const struct call *call)
{
    const demist_node *inputs[6];
    for (int32_t i = 0; i < call->n_inputs; i++) {
        char name[16];
        snprintf(name, sizeof name, "in%d", (int)i);
        const struct shape *in = &call->inputs[i];
        inputs[i] = b->input(b, name, DEMIST_ROLE_OTHER, in->i32 ? DEMIST_I32 : DEMIST_F32,
                             in->rank, in->size);
    }
    assert_false(b->failed(b));
    return b->op(b, call->op, call->n_inputs, inputs, &call->attrs, call->asked.rank,
                 call->asked.size);
}

#define CONV(s, p, d, g)                                                                           \
    .attrs.conv = {.stride = {s, s}, .pad = {p, p, p, p}, .dilation = {d, d}, .groups = g}

static const struct call legal[] = {
    {"[N,3] f32", DEMIST_OP_SILU, 1, {S(N, 3)}},
    {"[] f32", DEMIST_OP_EXP, 1, {SCALAR_SHAPE}},
    {"[N,3] f32", DEMIST_OP_CLAMP, 1, {S(N, 3)}, .attrs.clamp = {-INFINITY, 1}},
    {"[N] i32", DEMIST_OP_CAST, 1, {S(N)}, .attrs.cast = {DEMIST_I32}},
    {"[N] f32", DEMIST_OP_CAST, 1, {IDS(N)}, .attrs.cast = {DEMIST_F32}},
    /* broadcasting */
    {"[N,3,8,8] f32", DEMIST_OP_ADD, 2, {S(N, 3, 8, 8), S(3, 1, 1)}},
    {"[N,3,8,8] f32", DEMIST_OP_MUL, 2, {S(N, 3, 1, 1), S(N, 1, 8, 8)}},
    {"[N,3,8,8] f32", DEMIST_OP_SUB, 2, {S(1, 3, 1, 1), S(N, 3, 8, 8)}},
    {"[N,3] f32", DEMIST_OP_DIV, 2, {SCALAR_SHAPE, S(N, 3)}},
    {"[4,5] f32", DEMIST_OP_MIN, 2, {S(4, 1), S(5)}},
    {"[N] f32", DEMIST_OP_MAX, 2, {S(N), S(1)}},
    {"[N,4] f32", DEMIST_OP_LESS, 2, {S(N, 1), S(4)}},
    {"[N,4] f32", DEMIST_OP_SELECT, 3, {S(N, 1), S(4), SCALAR_SHAPE}},
    {"[N,2] f32", DEMIST_OP_LINCOMB, 4, {S(N, 2), S(N, 2), S(N), SCALAR_SHAPE}},
    {"[N] f32", DEMIST_OP_LINCOMB, 2, {S(N), S(N)}},
    /* reductions */
    {"[N,1,1] f32", DEMIST_OP_SUM, 1, {S(N, 3, 4)}, .attrs.reduce = {6}},
    {"[1,4] f32", DEMIST_OP_MEAN, 1, {S(3, 4)}, .attrs.reduce = {1}},
    {"[N,3] f32", DEMIST_OP_SOFTMAX, 1, {S(N, 3)}, .attrs.axis = {1}},
    {"[1,3,4] f32", DEMIST_OP_BATCH_SUM, 1, {S(N, 3, 4)}},
    /* products */
    {"[N,7,2] f32", DEMIST_OP_LINEAR, 3, {S(N, 7, 3), S(2, 3), S(2)}},
    {"[2] f32", DEMIST_OP_LINEAR, 2, {S(3), S(2, 3)}},
    {"[N,5,4,2] f32", DEMIST_OP_MATMUL, 2, {S(N, 5, 4, 3), S(3, 2)}},
    {"[N,5,4,2] f32", DEMIST_OP_MATMUL, 2, {S(5, 3, 4), S(N, 1, 2, 3)}, .attrs.matmul = {1, 1}},
    {"[N,8,16,16] f32",
     DEMIST_OP_CONV2D,
     3,
     {S(N, 3, 32, 32), S(8, 3, 3, 3), S(8)},
     CONV(2, 1, 1, 1)},
    {"[N,8,28,28] f32", DEMIST_OP_CONV2D, 2, {S(N, 6, 32, 32), S(8, 3, 3, 3)}, CONV(1, 0, 2, 2)},
    {"[5,8,1,1] f32", DEMIST_OP_CONV2D, 2, {S(5, 3, 3, 3), S(8, 3, 3, 3)}, CONV(9, 0, 1, 1)},
    {"[N,8,14,14] f32",
     DEMIST_OP_CONV_TRANSPOSE2D,
     3,
     {S(N, 3, 7, 7), S(3, 8, 2, 2), S(8)},
     CONV(2, 0, 1, 1)},
    {"[N,8,14,15] f32",
     DEMIST_OP_CONV_TRANSPOSE2D,
     2,
     {S(N, 4, 7, 7), S(4, 4, 3, 3)},
     .attrs.conv = {{2, 2}, {1, 1, 1, 0}, {1, 1}, 2, {1, 1}}},
    {"[N,4,6,9] f32",
     DEMIST_OP_ATTENTION,
     3,
     {S(N, 4, 8, 9), S(N, 4, 8, 5), S(N, 4, 6, 5)},
     .attrs.attention = {0.5f, 0}},
    /* normalisation */
    {"[N,6,2] f32", DEMIST_OP_GROUP_NORM, 3, {S(N, 6, 2), S(6), S(6)}, .attrs.norm = {3, 1e-5f}},
    {"[N,6] f32", DEMIST_OP_GROUP_NORM, 1, {S(N, 6)}, .attrs.norm = {1, 0}},
    {"[N,6,4,4] f32",
     DEMIST_OP_BATCH_NORM,
     5,
     {S(N, 6, 4, 4), S(6), S(6), S(6), S(6)},
     .attrs.norm = {0, 1e-5f}},
    {"[N,6,4] f32", DEMIST_OP_LAYER_NORM, 2, {S(N, 6, 4), S(4)}, .attrs.norm = {0, 1e-5f}},
    /* space */
    {"[N,3,4,3] f32", DEMIST_OP_MAX_POOL2D, 1, {S(N, 3, 8, 7)}, .attrs.pool = {{2, 2}, {2, 2}}},
    {"[N,3,1,1] f32", DEMIST_OP_AVG_POOL2D, 1, {S(N, 3, 7, 7)}, .attrs.pool = {{4, 4}, {4, 4}}},
    {"[N,3,8,6] f32", DEMIST_OP_UPSAMPLE_NEAREST, 1, {S(N, 3, 4, 3)}, .attrs.upsample = {2}},
    {"[N,3,5,9] f32", DEMIST_OP_RESIZE_BILINEAR, 1, {S(N, 3, 4, 3)}, .attrs.resize = {5, 9}},
    /* shape */
    {"[N,12] f32", DEMIST_OP_RESHAPE, 1, {S(N, 3, 4)}, .asked = S(N, 0)},
    {"[N] f32", DEMIST_OP_RESHAPE, 1, {S(N, 1, 1)}, .asked = S(N)},
    {"[2,1,6] i32", DEMIST_OP_RESHAPE, 1, {IDS(3, 4)}, .asked = S(2, 1, 6)},
    {"[] f32", DEMIST_OP_RESHAPE, 1, {S(1, 1)}, .asked = SCALAR_SHAPE},
    {"[N,4,3] f32", DEMIST_OP_TRANSPOSE, 1, {S(N, 3, 4)}, .attrs.transpose = {{0, 2, 1}}},
    {"[N,2] f32", DEMIST_OP_SLICE, 1, {S(N, 5)}, .attrs.slice = {1, 3, 1, 2}},
    {"[N,7,2] i32", DEMIST_OP_CONCAT, 2, {IDS(N, 3, 2), IDS(N, 4, 2)}, .attrs.axis = {1}},
    {"[N,3,9] f32", DEMIST_OP_PAD, 1, {S(N, 3, 4)}, .attrs.pad = {{0, 0, 2}, {0, 0, 3}}},
    {"[N,3,4] f32", DEMIST_OP_EXPAND, 1, {S(3, 1)}, .asked = S(N, 3, 4)},
    {"[N,3,4] f32", DEMIST_OP_EXPAND, 1, {S(N, 1, 4)}, .asked = S(N, 3, 4)},
    {"[N,16] f32", DEMIST_OP_EMBEDDING, 2, {S(10, 16), IDS(N)}},
    {"[N,7,16] f32", DEMIST_OP_EMBEDDING, 2, {S(10, 16), IDS(N, 7)}},
};

static void test_every_op_gives_the_documented_shape(void **state)
{
    for (size_t i = 0; i < sizeof legal / sizeof *legal; i++) {
        struct dm_graph *graph = new_graph();
        demist_builder *b = dm_graph_builder(graph);
        const demist_node *y = make(b, &legal[i]);
        if (!y) {
            struct dm_error err = DM_ERROR_INIT;
            dm_graph_finish(graph, &err);
            fail_msg("case %zu: %s", i, err.text);
        }
        assert_string_equal(dm_node_shape_text(y).text, legal[i].expected);
        dm_graph_destroy(graph);
    }
}

static const struct call illegal[] = {
    {"input 0 is i32 and has to be f32: cast it", DEMIST_OP_SILU, 1, {IDS(N)}},
    {"a and b have to be finite", DEMIST_OP_AFFINE, 1, {S(N)}, .attrs.affine = {NAN, 0}},
    {"lo has to be at most hi", DEMIST_OP_CLAMP, 1, {S(N)}, .attrs.clamp = {1, 0}},
    {"values are f32 or i32, not f16", DEMIST_OP_CAST, 1, {S(N)}, .attrs.cast = {DEMIST_F16}},
    {"values are f32 or i32, not unknown", DEMIST_OP_CAST, 1, {S(N)}, .attrs.cast = {-7}},
    {"dimension 1 is 3 and 4", DEMIST_OP_ADD, 2, {S(N, 3), S(4)}},
    {"dimension 0 of an unbatched one has to be 1", DEMIST_OP_ADD, 2, {S(N, 3), S(5, 3)}},
    {"dimension 0 of an unbatched one has to be 1", DEMIST_OP_ADD, 2, {S(5, 3), S(N, 3)}},
    {"reshape it to [N,…,1]", DEMIST_OP_ADD, 2, {S(N), S(N, 1)}},
    {"reshape it to [N,…,1]", DEMIST_OP_MUL, 2, {S(N, 3), S(2, 1, 1)}},
    {"as many coefficients as values", DEMIST_OP_LINCOMB, 3, {S(N), S(N), S(N)}},
    {"value 1 differs from value 0", DEMIST_OP_LINCOMB, 4, {S(N), S(N, 1), S(N), S(N)}},
    {"coefficient 0 has to be [] or [N]", DEMIST_OP_LINCOMB, 2, {S(N, 2), S(N, 1)}},
    {"coefficient 0 has to be [] or [N]", DEMIST_OP_LINCOMB, 2, {S(N, 2), S(1)}},
    {"the values are not batched", DEMIST_OP_LINCOMB, 2, {S(2), S(N)}},
    {"the bit mask of axes is 0x0", DEMIST_OP_SUM, 1, {S(N, 3)}},
    {"the bit mask of axes is 0x4", DEMIST_OP_MEAN, 1, {S(N, 3)}, .attrs.reduce = {4}},
    {"axis 0 is the batch", DEMIST_OP_AMAX, 1, {S(N, 3)}, .attrs.reduce = {3}},
    {"there are no images to sum over", DEMIST_OP_BATCH_SUM, 1, {S(5, 3)}},
    {"axis 0 is the batch", DEMIST_OP_SOFTMAX, 1, {S(N, 3)}},
    {"axis 2 is not in 0 … 1", DEMIST_OP_SOFTMAX, 1, {S(N, 3)}, .attrs.axis = {2}},
    {"axis -1 is not in 0 … 1", DEMIST_OP_SOFTMAX, 1, {S(N, 3)}, .attrs.axis = {-1}},
    {"the input has 4 features, the weight wants 3", DEMIST_OP_LINEAR, 2, {S(N, 4), S(2, 3)}},
    {"the bias has to be [2]", DEMIST_OP_LINEAR, 3, {S(N, 3), S(2, 3), S(3)}},
    {"reshape [N] to [N,1]", DEMIST_OP_LINEAR, 2, {S(N), S(2, 1)}},
    {"the weight must not depend on the batch", DEMIST_OP_LINEAR, 2, {S(N, 3), S(N, 3)}},
    {"input 1 has to be a matrix", DEMIST_OP_MATMUL, 2, {S(N, 2, 3), S(N, 3)}},
    {"a has 3 columns, b has 2 rows", DEMIST_OP_MATMUL, 2, {S(N, 2, 3), S(2, 3)}},
    {"transpose_a is 2", DEMIST_OP_MATMUL, 2, {S(2, 3), S(3, 2)}, .attrs.matmul = {2, 0}},
    {"the input has 4 channels, the weight wants 3; inputs: [N,4,8,8] f32, [8,3,3,3] f32",
     DEMIST_OP_CONV2D,
     2,
     {S(N, 4, 8, 8), S(8, 3, 3, 3)},
     CONV(1, 1, 1, 1)},
    {"6 input and 3 output channels do not divide into 2 groups",
     DEMIST_OP_CONV2D,
     2,
     {S(N, 6, 8, 8), S(3, 3, 3, 3)},
     CONV(1, 1, 1, 2)},
    {"the result is 0 x 0", DEMIST_OP_CONV2D, 2, {S(N, 3, 2, 2), S(8, 3, 3, 3)}, CONV(1, 0, 1, 1)},
    {"stride and dilation", DEMIST_OP_CONV2D, 2, {S(N, 3, 8, 8), S(8, 3, 3, 3)}, CONV(0, 0, 1, 1)},
    {"groups has to be", DEMIST_OP_CONV2D, 2, {S(N, 3, 8, 8), S(8, 3, 3, 3)}, CONV(1, 0, 1, 0)},
    {"padding must not be", DEMIST_OP_CONV2D, 2, {S(N, 3, 8, 8), S(8, 3, 3, 3)}, CONV(1, -1, 1, 1)},
    {"the bias has to be [8]",
     DEMIST_OP_CONV2D,
     3,
     {S(N, 3, 8, 8), S(8, 3, 3, 3), S(3)},
     CONV(1, 1, 1, 1)},
    {"the input has 3 dimensions and has to have 4",
     DEMIST_OP_CONV2D,
     2,
     {S(N, 3, 8), S(8, 3, 3, 3)},
     CONV(1, 1, 1, 1)},
    {"output_pad is for conv_transpose2d",
     DEMIST_OP_CONV2D,
     2,
     {S(N, 3, 8, 8), S(8, 3, 3, 3)},
     .attrs.conv = {{2, 2}, {0, 0, 0, 0}, {1, 1}, 1, {1, 1}}},
    {"output_pad has to be from 0 to below",
     DEMIST_OP_CONV_TRANSPOSE2D,
     2,
     {S(N, 3, 8, 8), S(3, 8, 3, 3)},
     .attrs.conv = {{2, 2}, {0, 0, 0, 0}, {1, 1}, 1, {2, 0}}},
    {"nothing would be left: the result is -1 x -1",
     DEMIST_OP_CONV_TRANSPOSE2D,
     2,
     {S(N, 3, 1, 1), S(3, 8, 3, 3)},
     CONV(1, 2, 1, 1)},
    {"is not in 1 … 2^31-1",
     DEMIST_OP_CONV_TRANSPOSE2D,
     2,
     {S(N, 1, 2000000, 1), S(1, 1, 1, 1)},
     CONV(2147483647, 0, 1, 1)},
    {"q, k and v differ in the batch",
     DEMIST_OP_ATTENTION,
     3,
     {S(N, 1, 2, 3), S(1, 1, 2, 3), S(N, 1, 2, 3)}},
    {"number of heads", DEMIST_OP_ATTENTION, 3, {S(N, 1, 2, 3), S(N, 2, 2, 3), S(N, 1, 2, 3)}},
    {"channels per head", DEMIST_OP_ATTENTION, 3, {S(N, 1, 2, 3), S(N, 1, 4, 3), S(N, 1, 2, 3)}},
    {"k has 3 positions", DEMIST_OP_ATTENTION, 3, {S(N, 1, 2, 3), S(N, 1, 2, 3), S(N, 1, 2, 4)}},
    {"causal attention needs",
     DEMIST_OP_ATTENTION,
     3,
     {S(N, 1, 2, 3), S(N, 1, 2, 4), S(N, 1, 2, 4)},
     .attrs.attention = {1, 1}},
    {"6 channels do not divide into 4 groups",
     DEMIST_OP_GROUP_NORM,
     1,
     {S(N, 6)},
     .attrs.norm = {4, 0}},
    {"the shape [N,C,…]", DEMIST_OP_GROUP_NORM, 1, {S(N)}, .attrs.norm = {1, 0}},
    {"beta has to be [6]", DEMIST_OP_GROUP_NORM, 3, {S(N, 6), S(6), S(5)}, .attrs.norm = {1, 0}},
    {"variance has to be [6]", DEMIST_OP_BATCH_NORM, 5, {S(N, 6), S(6), S(6), S(6), S(1)}},
    {"eps has to be finite", DEMIST_OP_LAYER_NORM, 1, {S(N, 6)}, .attrs.norm = {0, -1}},
    {"groups is for group_norm", DEMIST_OP_LAYER_NORM, 1, {S(N, 6)}, .attrs.norm = {2, 0}},
    {"a last dimension of features", DEMIST_OP_LAYER_NORM, 1, {S(N)}},
    {"the window is 9 wide, the input 8",
     DEMIST_OP_MAX_POOL2D,
     1,
     {S(N, 3, 8, 8)},
     .attrs.pool = {{9, 9}, {1, 1}}},
    {"kernel and stride have to be", DEMIST_OP_AVG_POOL2D, 1, {S(N, 3, 8, 8)}},
    {"factor has to be at least 1", DEMIST_OP_UPSAMPLE_NEAREST, 1, {S(N, 3, 8, 8)}},
    {"height and width have to be", DEMIST_OP_RESIZE_BILINEAR, 1, {S(N, 3, 8, 8)}},
    {"[N,5,0] does not hold the 12 elements per image",
     DEMIST_OP_RESHAPE,
     1,
     {S(N, 3, 4)},
     .asked = S(N, 5, 0)},
    {"does not hold", DEMIST_OP_RESHAPE, 1, {S(3, 4)}, .asked = S(3, 5)},
    {"one may be 0", DEMIST_OP_RESHAPE, 1, {S(3, 4)}, .asked = S(0, 0)},
    {"a batched value keeps the batch", DEMIST_OP_RESHAPE, 1, {S(N, 4)}, .asked = S(4)},
    {"cannot get a batch: use expand", DEMIST_OP_RESHAPE, 1, {S(4)}, .asked = S(N, 4)},
    {"is too large", DEMIST_OP_RESHAPE, 1, {S(4)}, .asked = S(INT64_MAX, INT64_MAX)},
    {"does not broadcast to [N,1]", DEMIST_OP_EXPAND, 1, {S(N, 4)}, .asked = S(N, 1)},
    {"dimension 1 is 4 and 5", DEMIST_OP_EXPAND, 1, {S(N, 4)}, .asked = S(N, 5)},
    {"more than 2^40 elements",
     DEMIST_OP_EXPAND,
     1,
     {S(1)},
     .asked = S(2147483647, 2147483647, 2147483647)},
    {"perm is not a permutation", DEMIST_OP_TRANSPOSE, 1, {S(3, 4)}, .attrs.transpose = {{0, 0}}},
    {"perm is not a permutation", DEMIST_OP_TRANSPOSE, 1, {S(3, 4)}, .attrs.transpose = {{0, -1}}},
    {"perm[0] has to be 0", DEMIST_OP_TRANSPOSE, 1, {S(N, 4)}, .attrs.transpose = {{1, 0}}},
    {"leave axis 1 of size 5", DEMIST_OP_SLICE, 1, {S(N, 5)}, .attrs.slice = {1, 3, 1, 3}},
    {"leave axis 1 of size 5", DEMIST_OP_SLICE, 1, {S(N, 5)}, .attrs.slice = {1, 1, 5, 1}},
    {"leave axis 1",
     DEMIST_OP_SLICE,
     1,
     {S(N, 5)},
     .attrs.slice = {1, INT32_MAX, INT64_MAX, INT64_MAX}},
    {"step and length have to be", DEMIST_OP_SLICE, 1, {S(N, 5)}, .attrs.slice = {1, 1, -1, 2}},
    {"axis 0 is the batch", DEMIST_OP_SLICE, 1, {S(N, 5)}, .attrs.slice = {0, 1, 0, 1}},
    {"only axis 1 may differ (expand an unbatched value to the batch)",
     DEMIST_OP_CONCAT,
     2,
     {S(N, 3), S(1, 3)},
     .attrs.axis = {1}},
    {"input 1 differs from input 0 in type",
     DEMIST_OP_CONCAT,
     2,
     {S(N, 3), IDS(N, 3)},
     .attrs.axis = {1}},
    {"padding must not be negative", DEMIST_OP_PAD, 1, {S(N, 3)}, .attrs.pad = {{0, -1}, {0, 2}}},
    {"axis 0 is the batch", DEMIST_OP_PAD, 1, {S(N, 3)}, .attrs.pad = {{1, 0}, {0, 0}}},
    {"the ids i32", DEMIST_OP_EMBEDDING, 2, {S(10, 16), S(N)}},
    {"the table has 1 dimensions", DEMIST_OP_EMBEDDING, 2, {S(10), IDS(N)}},
    {"no room for one more", DEMIST_OP_EMBEDDING, 2, {S(4, 4), IDS(1, 1, 1, 1, 1, 1, 1, 1)}},
    {"there is no scalar slot 0", DEMIST_OP_SCALAR, 0, {SCALAR_SHAPE}},
    {"there is no scalar slot 0", DEMIST_OP_PHILOX_NORMAL, 0, {SCALAR_SHAPE}, .asked = S(3)},
    {"per_image = 1 needs a batched shape",
     DEMIST_OP_PHILOX_NORMAL,
     0,
     {SCALAR_SHAPE},
     .asked = S(N, 3)},
};

static void test_every_misuse_is_named_with_node_and_op(void **state)
{
    for (size_t i = 0; i < sizeof illegal / sizeof *illegal; i++) {
        struct dm_graph *graph = new_graph();
        demist_builder *b = dm_graph_builder(graph);
        struct dm_error err = DM_ERROR_INIT;
        char where[64];
        if (make(b, &illegal[i]))
            fail_msg("case %zu was accepted; expected: %s", i, illegal[i].expected);
        assert_int_equal(dm_graph_finish(graph, &err), DEMIST_INVALID);
        snprintf(where, sizeof where, "(%s): ", demist_op_name(illegal[i].op));
        assert_contains(err.text, illegal[i].expected);
        assert_contains(err.text, where);
        assert_contains(err.text, "graph 'denoise': node '");
        dm_error_clear(&err);
        dm_graph_destroy(graph);
    }
}

static void test_inputs_have_sane_shapes(void **state)
{
    static const struct {
        struct shape shape;
        const char *expected;
    } cases[] = {
        {S(N, 0), "dimension 1 of [N,0]"},
        {S(3, N), "dimension 1 of [3,N]"},
        {S(N, 4294967296), "is not in 1"},
        {S(N, 1 << 20, 1 << 21), "more than 2^40 elements"},
        {{9, {1, 1, 1, 1, 1, 1, 1, 1}, false}, "9 dimensions"},
        {{-1, {0}, false}, "-1 dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dm_graph *graph = new_graph();
        f32_input(dm_graph_builder(graph), "x", cases[i].shape.rank, cases[i].shape.size);
        assert_build_fails(graph, cases[i].expected);
    }
}

static void test_philox_takes_its_slots_and_shape(void **state)
{
    struct dm_graph *graph = new_graph();
    demist_builder *b = dm_graph_builder(graph);
    demist_attrs attrs = demist_no_attrs();
    attrs.philox.seed_slot = b->scalar_slot(b, "seed");
    attrs.philox.draw_slot = b->scalar_slot(b, "draw");
    attrs.philox.image_slot = b->scalar_slot(b, "image");
    attrs.philox.lo = -1;
    attrs.philox.hi = 1;
    assert_shape(b->op(b, DEMIST_OP_PHILOX_UNIFORM, 0, NULL, &attrs, SHAPE(4, 3)), SHAPE(4, 3));
    attrs.philox.per_image = 1;
    assert_shape(b->op(b, DEMIST_OP_PHILOX_UNIFORM, 0, NULL, &attrs, SHAPE(N, 3)), SHAPE(N, 3));
    assert_null(b->op(b, DEMIST_OP_PHILOX_NORMAL, 0, NULL, &attrs, SHAPE(N, 3)));
    assert_build_fails(graph, "lo and hi are for philox_uniform");
}

static void test_a_shape_of_any_rank_has_a_text(void **state)
{
    int64_t shape[8];
    for (int i = 0; i < 8; i++)
        shape[i] = INT64_MIN;
    for (int32_t rank = -2; rank < 12; rank++)
        assert_true(strlen(dm_shape_text(rank, shape).text) < sizeof(struct dm_shape_text));
    assert_string_equal(dm_shape_text(0, NULL).text, "[]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_op_gives_the_documented_shape),
        cmocka_unit_test(test_every_misuse_is_named_with_node_and_op),
        cmocka_unit_test(test_inputs_have_sane_shapes),
        cmocka_unit_test(test_philox_takes_its_slots_and_shape),
        cmocka_unit_test(test_a_shape_of_any_rank_has_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

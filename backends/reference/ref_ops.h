/* The reference backend's ops: what one op gets, and the helpers that several share.
 *
 * Every op is one function over dense row-major tensors with their sizes filled in (the batch
 * included). Storage is float32; sums are float64 in an order that depends on shapes alone, so
 * that neither threads nor the batch size change a bit: tasks only ever divide output elements
 * among workers, never a sum. */
#ifndef REF_OPS_H
#define REF_OPS_H

#include <demist/backend.h>
#include <demist/random.h>

/* Columns of a packed tile, and rows of a product that one task computes. */
enum { REF_TILE = 16, REF_ROWS = 64 };

struct ref_tensor {
    void *data;
    demist_dtype dtype;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
};

/* One evaluation of one node. */
struct ref_call {
    const demist_host *host;
    const demist_philox *philox; /* NULL where the host has none */
    const char *name;            /* the node's, for messages */
    demist_op op;
    const demist_attrs *attrs;
    int32_t n_inputs;
    const struct ref_tensor *in;
    struct ref_tensor out;
    const demist_scalar *scalars;
    char *scratch; /* scratch_bytes for each worker */
    size_t scratch_bytes;
};

typedef demist_status (*ref_op)(const struct ref_call *call);

/* The function that computes `op`; NULL: leaves other than SCALAR, FUSED, unknown ops. */
ref_op ref_op_function(demist_op op);

/* Whether the node's op and element types are computed here; otherwise *why says what is not. */
bool ref_op_supports(const demist_node *node, const char **why);

/* Bytes that one worker needs while it computes the node. */
double ref_op_scratch(const demist_node *node);

/* --- shapes (ref_shape.c) --- */

int64_t ref_elements(const struct ref_tensor *t);
/* Elements of axes first … last−1. */
int64_t ref_span(const struct ref_tensor *t, int32_t first, int32_t last);
/* step[i]: elements between neighbours along axis i of a dense row-major tensor. */
void ref_steps(const struct ref_tensor *t, int64_t *step);
/* The same for t read in the shape of `out`: 0 along the axes where t is broadcast. */
void ref_broadcast_steps(const struct ref_tensor *t, const struct ref_tensor *out, int64_t *step);
/* Σ index·step for the position-th element, in row-major order, of a block of `shape`. */
int64_t ref_offset(int32_t rank, const int64_t *shape, const int64_t *step, int64_t position);

/* --- work division (ref_shape.c) --- */

/* Elements first … last−1 of something; state is the caller's. */
typedef void (*ref_range_fn)(const struct ref_call *call, const void *state, int64_t first,
                             int64_t last);
/* Covers 0 … n−1 with ranges of at most `grain`, on the host's pool. */
void ref_ranges(const struct ref_call *call, const void *state, int64_t n, int64_t grain,
                ref_range_fn fn);

/* Copies a block between strided places: dst[Σ i_k·dst_step_k] = src[Σ i_k·src_step_k] for every
 * index below `shape`; `bytes` an element, steps in elements. */
void ref_move(const struct ref_call *call, int32_t rank, const int64_t *shape, void *dst,
              const int64_t *dst_step, const void *src, const int64_t *src_step, size_t bytes);

static inline const float *ref_in(const struct ref_call *call, int32_t i)
{
    return (const float *)call->in[i].data;
}

static inline float *ref_out(const struct ref_call *call)
{
    return (float *)call->out.data;
}

/* --- the ops --- */

/* ref_ops_elementwise.c */
demist_status ref_scalar(const struct ref_call *call);
demist_status ref_unary(const struct ref_call *call);
demist_status ref_affine(const struct ref_call *call);
demist_status ref_clamp(const struct ref_call *call);
demist_status ref_binary(const struct ref_call *call);
demist_status ref_select(const struct ref_call *call);
demist_status ref_lincomb(const struct ref_call *call);
demist_status ref_cast(const struct ref_call *call);

/* ref_ops_reduce.c */
demist_status ref_reduce(const struct ref_call *call);
demist_status ref_softmax(const struct ref_call *call);
demist_status ref_group_norm(const struct ref_call *call);
demist_status ref_batch_norm(const struct ref_call *call);
demist_status ref_layer_norm(const struct ref_call *call);

/* ref_ops_product.c */
demist_status ref_linear(const struct ref_call *call);
demist_status ref_matmul(const struct ref_call *call);
demist_status ref_attention(const struct ref_call *call);

/* ref_ops_conv.c */
demist_status ref_conv2d(const struct ref_call *call);
demist_status ref_conv_transpose2d(const struct ref_call *call);

/* y [rows][REF_TILE] += a·b for b [depth][REF_TILE], of which the first `columns` count; element
 * (i, k) of a is a[i·row_step + k·depth_step]. Terms are added in the order of k. */
void ref_product(int64_t rows, int64_t depth, const float *a, int64_t row_step, int64_t depth_step,
                 const double *b, int columns, double *y);

/* ref_ops_space.c */
demist_status ref_pool2d(const struct ref_call *call);
demist_status ref_upsample_nearest(const struct ref_call *call);
demist_status ref_resize_bilinear(const struct ref_call *call);

/* ref_ops_shape.c */
demist_status ref_reshape(const struct ref_call *call);
demist_status ref_transpose(const struct ref_call *call);
demist_status ref_slice(const struct ref_call *call);
demist_status ref_concat(const struct ref_call *call);
demist_status ref_pad(const struct ref_call *call);
demist_status ref_expand(const struct ref_call *call);
demist_status ref_embedding(const struct ref_call *call);

/* ref_ops_random.c */
demist_status ref_philox(const struct ref_call *call);

#endif

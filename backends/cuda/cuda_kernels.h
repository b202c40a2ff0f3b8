/* What host code and kernels agree upon, in C and in CUDA C++: element types, the code of fused
 * chains, and for each kernel one struct with its arguments and one function that queues it.
 *
 * A struct travels to the device as the kernel's one parameter, at most 4 KiB. Pointers in it are
 * the device's. Numbers that change from execution to execution (times, coefficients, seeds) are
 * read from the scalar slots in device memory, so that a captured graph can be replayed. */
#ifndef CUDA_KERNELS_H
#define CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <demist/backend.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cu_type { CU_F32, CU_I32, CU_F16, CU_BF16 };

enum {
    CU_MAX_OPERANDS = 14, /* values that one kernel reads beside its main one */
    CU_MAX_CHAIN = 24,    /* nodes of one fused kernel */
    CU_MAX_CODE = 80,
    CU_MAX_NUMBERS = 48,
    CU_MAX_AXES = 8,
};

/* --- fused chains ---
 *
 * Code for one accumulator and a few kept values: what one thread does to four neighbouring
 * elements. Every thread of a launch decodes the same instruction at the same time. */

enum cu_from {
    CU_NOTHING,
    CU_OPERAND, /* index: of the kernel's operands */
    CU_KEPT,    /* index: of the kept values */
    CU_NUMBER,  /* index: in the code's numbers */
    CU_SLOT,    /* index: of a scalar slot, as float32 */
};

/* a: the accumulator; x, y: what `from` and `from2` name */
enum cu_opcode {
    CU_SET,  /* a = x */
    CU_KEEP, /* kept[index] = a */
    CU_NEG,
    CU_ABS,
    CU_EXP,
    CU_LOG,
    CU_SQRT,
    CU_SIN,
    CU_COS,
    CU_TANH,
    CU_ERF,
    CU_SIGMOID,
    CU_RELU,
    CU_SILU,
    CU_GELU,
    CU_TO_INT,   /* integers: as the floats with their bits */
    CU_FROM_INT, /* */
    CU_ADD,      /* a + x */
    CU_SUB,      /* a − x */
    CU_SUB_FROM, /* x − a */
    CU_MUL,
    CU_DIV,      /* a / x */
    CU_DIV_INTO, /* x / a */
    CU_MIN,
    CU_MAX,
    CU_LESS,    /* a < x */
    CU_GREATER, /* a > x */
    CU_RSQRT,   /* 1/√(a + x) */
    CU_FMA,     /* a·x + y */
    CU_ADD_FMA, /* x·y + a */
    CU_CLAMP,   /* to [x, y] */
    CU_SELECT,  /* a ≠ 0 ? x : y */
};

struct cu_instruction {
    uint8_t op, from, from2, spare;
    uint16_t index, index2;
};

struct cu_code {
    int32_t n_code, n_operands;
    const demist_scalar *slots; /* device */
    struct cu_instruction code[CU_MAX_CODE];
    float number[CU_MAX_NUMBERS];
};

/* --- products (cuda_product.cuh) --- */

struct cu_operand { /* of what follows a product, seen in the grid of the result */
    const void *at;
    int32_t type, spare;
    int64_t stride[4]; /* elements: image, row, column, channel (0 or 1) */
};

/* y(z, n, i, j)[o] = after(Σ_t Σ_k a(z, n, i·sy + dy_t, j·sx + dx_t)[k] · b(z, t·depth + k)[o])
 *
 * Rows are the places (n, i, j) of the result's grid, row = (n·height + i)·width + j; a's channels
 * k, and the columns o of b and y, are contiguous; a is 0 outside of its in_height x in_width
 * places. z = z0·z_inner + z1 counts independent products (groups, heads, pairs of leading axes).
 * Products of numbers of the types of a and b are exact or, where `tf32`, of factors rounded to 11
 * bits; sums are float32. An element's bits depend neither on the number of rows nor on its place.
 */
struct cu_product {
    const void *a, *b;
    void *y;
    const int32_t *taps; /* [n_taps][2]: dy, dx */
    int32_t a_type, b_type, y_type;
    int32_t tf32; /* factors may be rounded to tf32 */
    int32_t rows, columns, depth, n_taps;
    int32_t height, width, in_height, in_width;
    int32_t stride[2]; /* sy, sx */
    int32_t z, z_inner;
    int64_t a_stride[3], y_stride[3]; /* elements: image, row, column */
    int64_t b_row;                    /* elements between b's values of k */
    int64_t a_z[2], b_z[2], y_z[2];   /* elements from one z0, z1 to the next */
    int32_t column_z;                 /* channels of the operands that z1 skips */
    int32_t z_first;                  /* of a launch: grids have at most 65535 */
    struct cu_code after;
    struct cu_operand operand[CU_MAX_OPERANDS];
};

struct cu_product_kernel {
    const char *name;
    /* Whether the kernel can compute it on a device of capability 10·major + minor, with any number
     * of rows; pointers are not set yet, but will be aligned to 256 bytes plus the offsets given
     * (elements, already in a, b and y as if storages began at 0). */
    bool (*fits)(const struct cu_product *product, int capability);
    cudaError_t (*run)(cudaStream_t stream, const void *product);
};
/* cuda_product_kernels.c: the first one fits always; the last that fits is the likeliest to be
 * fast. */
extern const struct cu_product_kernel cu_product_kernels[];
extern const int cu_n_product_kernels;

cudaError_t cu_run_product_simt(cudaStream_t stream, const void *product);

/* --- elementwise (cuda_map.cu) --- */

struct cu_map_operand {
    const void *at;
    int32_t type, spare;
    int64_t stride[CU_MAX_AXES]; /* elements */
};

/* y = code(operands), over a nest of axes, the innermost last; the accumulator starts as 0. */
struct cu_map {
    void *y;
    int32_t y_type, n_axes;
    int32_t size[CU_MAX_AXES];
    int64_t y_stride[CU_MAX_AXES];
    struct cu_code code;
    struct cu_map_operand operand[CU_MAX_OPERANDS];
};

cudaError_t cu_run_map(cudaStream_t stream, const void *map);

/* --- reductions (cuda_rows.cu) --- */

/* Rows of `length` elements, one behind another. */
struct cu_rows {
    const void *x;
    void *y;
    int32_t x_type, y_type;
    int32_t rows, length;
    float divisor;  /* of a sum */
    int32_t images; /* image_sum: rows are images there, `length` their elements */
};

cudaError_t cu_run_row_sum(cudaStream_t stream, const void *rows);
cudaError_t cu_run_row_max(cudaStream_t stream, const void *rows);
cudaError_t cu_run_row_softmax(cudaStream_t stream, const void *rows);
cudaError_t cu_run_image_sum(cudaStream_t stream, const void *rows);

/* --- normalisation (cuda_norms.cu) --- */

struct cu_norm_operand {
    const void *at;
    int32_t type, spare;
    int64_t stride[2]; /* elements: image, channel */
};

/* y = code((x − mean)/√(variance + eps)) with mean and variance over `members` neighbouring
 * channels of all pixels. x and y: [rows][pixels][channels], channels contiguous; operands are per
 * image, which is row / rows_per_image, and channel. */
struct cu_norm {
    const void *x;
    void *y;
    int32_t x_type, y_type;
    int32_t rows, pixels, channels, members, rows_per_image;
    float eps;
    int64_t x_stride[2], y_stride[2]; /* elements: row, pixel */
    struct cu_code code;
    struct cu_norm_operand operand[CU_MAX_OPERANDS];
};

cudaError_t cu_run_norm(cudaStream_t stream, const void *norm);

/* --- attention (cuda_attention.cu, cuda_attention_mma.cu) --- */

/* y[z, l, e] = Σ_m p[l, m]·v[z, m, e], p = softmax_m(scale·Σ_d q[z, l, d]·k[z, m, d]); d of q and k
 * and e of v and y are contiguous. z = z0·z_inner + z1: images and heads. */
struct cu_attention {
    const void *q, *k, *v;
    void *y;
    int32_t q_type, k_type, v_type, y_type;
    int32_t z, z_inner;
    int32_t queries, keys, depth, columns; /* sizes of l, m, d, e */
    int32_t causal, z_first;
    int32_t tf32; /* factors may be rounded to tf32 */
    float scale;
    int64_t q_stride[3], k_stride[3], v_stride[3], y_stride[3]; /* elements: z0, z1, l or m */
};

/* Computes every one, in float32. */
cudaError_t cu_run_attention(cudaStream_t stream, const void *attention);
/* On tensor cores: q, k and v of one type that they take, sizes of heads up to 256 and all strides
 * multiples of 16 bytes. `fits` is asked with the offsets given, in q, k, v and y, as if storages
 * began at 0. */
bool cu_fits_attention_mma(const struct cu_attention *attention, int capability);
cudaError_t cu_run_attention_mma(cudaStream_t stream, const void *attention);

/* --- images, embeddings, noise (cuda_space.cu, cuda_philox.cu) --- */

/* One thread an element of y, [n, c, height, width] by strides. */
struct cu_image {
    const void *x;
    void *y;
    int32_t x_type, y_type;
    int32_t images, channels, height, width;
    int32_t in_height, in_width;
    int32_t kernel[2], stride[2];
    int64_t x_stride[4], y_stride[4]; /* elements: image, channel, row, column */
};

cudaError_t cu_run_pool_max(cudaStream_t stream, const void *image);
cudaError_t cu_run_pool_mean(cudaStream_t stream, const void *image);
cudaError_t cu_run_resize(cudaStream_t stream, const void *image);

struct cu_embedding {
    const void *table;
    const int32_t *ids;
    void *y;
    int32_t table_type, y_type;
    int32_t n_ids, rows, width;
    int64_t table_stride[2]; /* elements: row, column */
};

cudaError_t cu_run_embedding(cudaStream_t stream, const void *embedding);

struct cu_philox {
    float *y;
    const demist_scalar *slots; /* device */
    int32_t seed_slot, draw_slot, image_slot, per_image;
    int32_t images;
    uint32_t purpose;
    int64_t elements; /* of one image */
    float lo, hi;     /* uniform */
};

cudaError_t cu_run_normal(cudaStream_t stream, const void *philox);
cudaError_t cu_run_uniform(cudaStream_t stream, const void *philox);

/* --- a few words from the host: scalar slots, times (cuda_map.cu) --- */

enum { CU_WORDS_AT_ONCE = 512 };

struct cu_words {
    uint32_t *to; /* device */
    int32_t n, spare;
    uint32_t value[CU_WORDS_AT_ONCE];
};

cudaError_t cu_run_words(cudaStream_t stream, const void *words);

#ifdef __cplusplus
}
#endif
#endif

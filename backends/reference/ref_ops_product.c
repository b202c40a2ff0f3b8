/* linear, matmul, attention: all are one product of a strided float32 matrix with a packed
 * float64 tile of sixteen columns. */
#include "ref_ops.h"

#include <math.h>
#include <string.h>

/* --- the product --- */

/* Four rows by four columns stay in registers; b's rows are REF_TILE apart. */
static void product_block(int rows, int64_t depth, const float *a, int64_t row_step,
                          int64_t depth_step, const double *b, double *y)
{
    double sum[4][4];
    const float *row[4];
    for (int i = 0; i < 4; i++) {
        const int own = i < rows ? i : 0; /* missing rows repeat the first and are dropped */
        row[i] = a + own * row_step;
        for (int j = 0; j < 4; j++)
            sum[i][j] = y[own * REF_TILE + j];
    }
    for (int64_t k = 0; k < depth; k++)
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++)
                sum[i][j] += (double)row[i][k * depth_step] * b[k * REF_TILE + j];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++)
            y[i * REF_TILE + j] = sum[i][j];
}

void ref_product(int64_t rows, int64_t depth, const float *a, int64_t row_step, int64_t depth_step,
                 const double *b, int columns, double *y)
{
    for (int64_t i = 0; i < rows; i += 4)
        for (int j = 0; j < columns; j += 4)
            product_block(rows - i < 4 ? (int)(rows - i) : 4, depth, a + i * row_step, row_step,
                          depth_step, b + j, y + i * REF_TILE + j);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- LINEAR, MATMUL --- */

/* One matrix product of many: out[i,j] = Σ_k a[i,k]·b[k,j] (+ bias[i]); steps in elements. */
struct matrix_product {
    int64_t rows, columns, depth;
    int64_t a_row, a_depth, b_depth, b_column, out_row, out_column;
    const float *bias;
    /* The axes in front, with each input's and the output's steps along them. */
    int32_t outer_rank;
    int64_t outer_shape[DEMIST_MAX_RANK], a_outer[DEMIST_MAX_RANK], b_outer[DEMIST_MAX_RANK];
    const float *a, *b;
    const struct ref_call *call;
};

/* One task: REF_ROWS rows by REF_TILE columns of one product. */
static void matrix_task(void *arg, int64_t task, int worker)
{
    const struct matrix_product *m = (const struct matrix_product *)arg;
    const struct ref_call *call = m->call;
    const int64_t row_blocks = ceil_div(m->rows, REF_ROWS);
    const int64_t column_blocks = ceil_div(m->columns, REF_TILE);
    const int64_t row = task % row_blocks * REF_ROWS;
    const int64_t column = task / row_blocks % column_blocks * REF_TILE;
    const int64_t which = task / row_blocks / column_blocks;
    const float *a = m->a + ref_offset(m->outer_rank, m->outer_shape, m->a_outer, which);
    const float *b = m->b + ref_offset(m->outer_rank, m->outer_shape, m->b_outer, which);
    float *out = ref_out(call) + which * m->rows * m->columns;
    const int64_t rows = lesser(REF_ROWS, m->rows - row);
    const int columns = (int)lesser(REF_TILE, m->columns - column);

    double *packed = (double *)(void *)(call->scratch + (size_t)worker * call->scratch_bytes);
    for (int64_t k = 0; k < m->depth; k++)
        for (int j = 0; j < REF_TILE; j++)
            packed[k * REF_TILE + j] =
                j < columns ? b[k * m->b_depth + (column + j) * m->b_column] : 0;

    double y[REF_ROWS * REF_TILE];
    for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < REF_TILE; j++)
            y[i * REF_TILE + j] = m->bias ? m->bias[row + i] : 0;
    ref_product(rows, m->depth, a + row * m->a_row, m->a_row, m->a_depth, packed, columns, y);
    for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            out[(row + i) * m->out_row + (column + j) * m->out_column] = (float)y[i * REF_TILE + j];
}

static void matrix_run(struct matrix_product *m, int64_t products)
{
    const demist_host *host = m->call->host;
    const int64_t tasks = ceil_div(m->rows, REF_ROWS) * ceil_div(m->columns, REF_TILE) * products;
    host->parallel(host, tasks, matrix_task, m);
}

/* x [..,K], w [O,K], b [O] -> [..,O]: w's rows times x's rows as columns. */
demist_status ref_linear(const struct ref_call *call)
{
    const struct ref_tensor *x = &call->in[0], *w = &call->in[1];
    const int64_t depth = w->shape[1], outputs = w->shape[0];
    struct matrix_product m = {
        .rows = outputs,
        .columns = ref_span(x, 0, x->rank - 1),
        .depth = depth,
        .a_row = depth,
        .a_depth = 1,
        .b_depth = 1,
        .b_column = depth,
        .out_row = 1,
        .out_column = outputs,
        .bias = call->n_inputs == 3 ? ref_in(call, 2) : NULL,
        .a = ref_in(call, 1),
        .b = ref_in(call, 0),
        .call = call,
    };
    matrix_run(&m, 1);
    return DEMIST_OK;
}

/* a [..,M,K], b [..,K,N] -> [..,M,N], each maybe transposed; the axes in front broadcast. */
demist_status ref_matmul(const struct ref_call *call)
{
    const struct ref_tensor *a = &call->in[0], *b = &call->in[1], *out = &call->out;
    const bool ta = call->attrs->matmul.transpose_a, tb = call->attrs->matmul.transpose_b;
    const int64_t a_last = a->shape[a->rank - 1], b_last = b->shape[b->rank - 1];
    const int32_t outer = out->rank - 2;
    struct matrix_product m = {
        .rows = out->shape[outer],
        .columns = out->shape[outer + 1],
        .depth = ta ? a->shape[a->rank - 2] : a_last,
        .a_row = ta ? 1 : a_last,
        .a_depth = ta ? a_last : 1,
        .b_depth = tb ? 1 : b_last,
        .b_column = tb ? b_last : 1,
        .out_row = out->shape[outer + 1],
        .out_column = 1,
        .outer_rank = outer,
        .a = ref_in(call, 0),
        .b = ref_in(call, 1),
        .call = call,
    };
    int64_t a_step[DEMIST_MAX_RANK], b_step[DEMIST_MAX_RANK];
    ref_broadcast_steps(a, out, a_step);
    ref_broadcast_steps(b, out, b_step);
    memcpy(m.outer_shape, out->shape, sizeof m.outer_shape);
    memcpy(m.a_outer, a_step, sizeof(int64_t) * (size_t)outer);
    memcpy(m.b_outer, b_step, sizeof(int64_t) * (size_t)outer);
    matrix_run(&m, ref_span(out, 0, outer));
    return DEMIST_OK;
}

/* --- ATTENTION --- */

/* In place, for each column of s [keys][REF_TILE]: softmax(scale·s) over the keys; causal: column
 * j is position first + j and sees the keys up to itself. */
static void softmax_columns(double *s, int64_t keys, double scale, int columns, bool causal,
                            int64_t first)
{
    for (int j = 0; j < columns; j++) {
        const int64_t seen = causal ? lesser(keys, first + j + 1) : keys;
        double max = -(double)INFINITY, sum = 0;
        for (int64_t m = 0; m < seen; m++)
            max = fmax(max, scale * s[m * REF_TILE + j]);
        for (int64_t m = 0; m < seen; m++) {
            s[m * REF_TILE + j] = exp(scale * s[m * REF_TILE + j] - max);
            sum += s[m * REF_TILE + j];
        }
        for (int64_t m = 0; m < keys; m++)
            s[m * REF_TILE + j] = m < seen ? s[m * REF_TILE + j] / sum : 0;
    }
}

/* One task: REF_TILE positions of one head of one image. */
static void attention_task(void *arg, int64_t task, int worker)
{
    const struct ref_call *call = (const struct ref_call *)arg;
    const struct ref_tensor *q = &call->in[0], *k = &call->in[1], *v = &call->in[2];
    const int64_t depth = q->shape[2], length = q->shape[3], keys = k->shape[3];
    const int64_t values = v->shape[2];
    const int64_t tiles = ceil_div(length, REF_TILE), head = task / tiles; /* image·heads + head */
    const int64_t first = task % tiles * REF_TILE;
    const int columns = (int)lesser(REF_TILE, length - first);

    /* packed [depth][REF_TILE]: q's positions; s [keys][REF_TILE]: logits, then weights. */
    double *packed = (double *)(void *)(call->scratch + (size_t)worker * call->scratch_bytes);
    double *s = packed + depth * REF_TILE;
    const float *q_head = ref_in(call, 0) + head * depth * length + first;
    for (int64_t d = 0; d < depth; d++)
        for (int j = 0; j < REF_TILE; j++)
            packed[d * REF_TILE + j] = j < columns ? q_head[d * length + j] : 0;
    memset(s, 0, (size_t)(keys * REF_TILE) * sizeof *s);
    ref_product(keys, depth, ref_in(call, 1) + head * depth * keys, 1, keys, packed, columns, s);
    softmax_columns(s, keys, call->attrs->attention.scale, columns,
                    call->attrs->attention.causal != 0, first);

    for (int64_t row = 0; row < values; row += REF_ROWS) {
        const int64_t rows = lesser(REF_ROWS, values - row);
        double y[REF_ROWS * REF_TILE] = {0};
        ref_product(rows, keys, ref_in(call, 2) + (head * values + row) * keys, keys, 1, s, columns,
                    y);
        for (int64_t i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++)
                ref_out(call)[(head * values + row + i) * length + first + j] =
                    (float)y[i * REF_TILE + j];
    }
}

/* q [N,h,D,L], k [N,h,D,M], v [N,h,E,M] -> v·softmax(scale·qᵀk)ᵀ [N,h,E,L] */
demist_status ref_attention(const struct ref_call *call)
{
    struct ref_call own = *call;
    const int64_t heads = ref_span(&call->out, 0, 2);
    call->host->parallel(call->host, heads * ceil_div(call->out.shape[3], REF_TILE), attention_task,
                         &own);
    return DEMIST_OK;
}

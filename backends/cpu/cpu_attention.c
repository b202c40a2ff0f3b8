/* attention and matmul: products of two values of the execution. The right-hand side is packed
 * first, in parallel; then each task computes some rows. In attention a task keeps its scores,
 * [rows of a tile][keys], in the second-level cache; softmax is float32. */
#include "cpu_product.h"

#include <math.h>
#include <string.h>

/* The axis `axis` of the view side by side, the others in order. */
static demist_status need_inner(demist_program *p, int32_t node, int32_t axis, demist_view *view)
{
    if (view->stride[axis] == 1 || view->shape[axis] == 1)
        return DEMIST_OK;
    int32_t order[DEMIST_MAX_RANK];
    demist_order_last(view->rank, axis, order);
    return cpu_materialise(p, node, order, view->type == CPU_BF16, view);
}

/* One panel [depth][width] of b, whose element (k, j) is at k·row + j·column. */
static void pack_panel(const struct cpu_kernels *kernels, const float *b, int64_t row,
                       int64_t column, int64_t depth, int64_t columns, int64_t panel, float *to)
{
    const int64_t first = panel * kernels->nr, n = cpu_least(kernels->nr, columns - first);
    const int64_t width = cpu_panel_vecs(kernels, first, columns) * kernels->vw;
    to += cpu_panel_at(kernels, depth, panel);
    b += first * column;
    if (n < width)
        memset(to, 0, (size_t)(depth * width) * sizeof *to);
    if (row == 1) {
        kernels->transpose(b, column, n, depth, to, width);
        return;
    }
    for (int64_t k = 0; k < depth; k++, to += width, b += row)
        if (column == 1)
            memcpy(to, b, (size_t)n * sizeof *to);
        else
            for (int64_t j = 0; j < n; j++)
                to[j] = b[j * column];
}

/* The same of bf16 numbers, in pairs of k. */
static void pack_panel16(const struct cpu_kernels *kernels, const uint16_t *b, int64_t row,
                         int64_t column, int64_t depth, int64_t columns, int64_t panel, float *to)
{
    const int64_t first = panel * kernels->nr, n = cpu_least(kernels->nr, columns - first);
    const int64_t width = cpu_panel_vecs(kernels, first, columns) * kernels->vw;
    const int64_t pairs = cpu_ceil(depth, 2);
    to += cpu_panel_at(kernels, pairs, panel);
    b += first * column;
    if (n < width)
        memset(to, 0, (size_t)(pairs * width) * sizeof *to);
    if (row == 1 && depth % 2 == 0 && column % 2 == 0 && (uintptr_t)b % sizeof *to == 0) {
        kernels->transpose((const float *)(const void *)b, column / 2, n, pairs, to, width);
        return;
    }
    for (int64_t k = 0; k < depth; k += 2, to += width, b += 2 * row) {
        const bool alone = k + 1 == depth;
        if (column == 1 && !alone) {
            kernels->interleave(n, b, b + row, to);
            continue;
        }
        for (int64_t j = 0; j < n; j++) {
            const uint32_t pair = b[j * column] | (alone ? 0 : (uint32_t)b[row + j * column] << 16);
            memcpy(to + j, &pair, sizeof pair);
        }
    }
}

/* --- ATTENTION --- */

struct attention {
    demist_view q, k, v, out, packed; /* packed: [image][head] of K's panels, then V's */
    int64_t heads, depth, values, length, keys, k_floats, v_floats;
    float scale;
    bool causal;
    bool half; /* in products of bf16 numbers, as q, k and v are */
};

struct call {
    const struct cpu_run *run;
    const struct attention *a;
    int64_t blocks, k_panels, v_panels, block;
};

/* Panel number `panel` of K, or of V behind K's, of a head. */
static void pack_head(const struct call *call, int64_t image, int64_t head, int64_t panel,
                      float *packed)
{
    const struct attention *a = call->a;
    const struct cpu_kernels *k = call->run->kernels;
    const bool of_k = panel < call->k_panels;
    const demist_view *view = of_k ? &a->k : &a->v;
    const void *b = cpu_element(call->run, view, image * view->stride[0] + head * view->stride[1]);
    const int64_t row = view->stride[of_k ? 2 : 3], column = view->stride[of_k ? 3 : 2];
    const int64_t depth = of_k ? a->depth : a->keys, columns = of_k ? a->keys : a->values;
    panel -= of_k ? 0 : call->k_panels;
    packed += of_k ? 0 : a->k_floats;
    if (a->half)
        pack_panel16(k, b, row, column, depth, columns, panel, packed);
    else
        pack_panel(k, b, row, column, depth, columns, panel, packed);
}

static float *packed_head(const struct call *call, int64_t i)
{
    return cpu_at(call->run, &call->a->packed) + i * (call->a->k_floats + call->a->v_floats);
}

static void pack_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct call *call = arg;
    const int64_t panels = call->k_panels + call->v_panels, which = task / panels;
    pack_head(call, which / call->a->heads, which % call->a->heads, task % panels,
              packed_head(call, which));
}

/* The logits of one panel of keys. Where multiply-adds round twice, they are summed in parts: the
 * exponential makes a relative error of what is an absolute one here. */
static void multiply_keys(const struct call *call, const void **rows_of_q, int rows,
                          const float *packed, int64_t panel, float *scores, int64_t ld)
{
    const struct attention *a = call->a;
    const struct cpu_kernels *k = call->run->kernels;
    const int vecs = cpu_panel_vecs(k, panel * k->nr, a->keys);
    if (a->half) {
        const int64_t pairs = cpu_ceil(a->depth, 2);
        const float *b = packed + cpu_panel_at(k, pairs, panel);
        k->gemm16(rows, vecs, rows_of_q, 1, a->depth, b, NULL, scores, ld,
                  &(struct cpu_ahead){b, b + pairs * k->nr, 0, vecs * k->vw});
        return;
    }
    const float *const *q = (const float *const *)rows_of_q;
    const float *b = packed + cpu_panel_at(k, a->depth, panel);
    if (k->fused) {
        k->gemm(rows, vecs, q, 1, a->depth, b, NULL, scores, ld,
                &(struct cpu_ahead){b, b + a->depth * k->nr, 0, vecs * k->vw});
        return;
    }
    const int64_t part = cpu_ceil(a->depth, 4), width = vecs * k->vw;
    float tile[CPU_MAX_MR * CPU_MAX_NR];
    const float *at[CPU_MAX_MR];
    for (int64_t d = 0; d < a->depth; d += part) {
        for (int r = 0; r < rows; r++)
            at[r] = q[r] + d;
        k->gemm(rows, vecs, at, 1, cpu_least(part, a->depth - d), b + d * width, NULL, tile, width,
                &(struct cpu_ahead){b, b, 0, 0});
        for (int r = 0; r < rows; r++)
            if (d == 0)
                memcpy(scores + r * ld, tile + r * width, (size_t)width * sizeof *tile);
            else
                k->binary(DEMIST_OP_ADD, width, scores + r * ld, scores + r * ld, tile + r * width);
    }
}

/* scores [rows][ld] of the queries from `first` on, made into weights; 1/sum of each row */
static void weigh(const struct call *call, int64_t q, const float *packed, int64_t first, int rows,
                  float *scores, int64_t ld, float *inverse)
{
    const struct attention *a = call->a;
    const struct cpu_kernels *k = call->run->kernels;
    const void *pointers[CPU_MAX_MR];
    for (int r = 0; r < rows; r++)
        pointers[r] = cpu_element(call->run, &a->q, q + (first + r) * a->q.stride[3]);
    for (int64_t panel = 0; panel < call->k_panels; panel++)
        multiply_keys(call, pointers, rows, packed, panel, scores + panel * k->nr, ld);
    for (int r = 0; r < rows; r++) {
        const int64_t seen = a->causal ? cpu_least(a->keys, first + r + 1) : a->keys;
        inverse[r] = 1 / k->softmax(seen, scores + r * ld, a->scale);
        memset(scores + r * ld + seen, 0, (size_t)(a->keys - seen) * sizeof *scores);
    }
}

/* One block of queries. */
static void attend(const struct call *call, int64_t image, int64_t head, int64_t block,
                   const float *packed, int worker)
{
    const struct attention *a = call->a;
    const struct cpu_run *run = call->run;
    const struct cpu_kernels *k = run->kernels;
    const int64_t first = block * call->block;
    const int rows = (int)cpu_least(call->block, a->length - first);
    const int64_t ld = cpu_round_up(a->keys, k->nr);
    float *scores = cpu_scratch(run, worker), inverse[CPU_MAX_MR];
    uint16_t *weights = (uint16_t *)(void *)(scores + k->mr * ld);
    float tile[CPU_MAX_MR * CPU_MAX_NR] __attribute__((aligned(64)));
    weigh(call, image * a->q.stride[0] + head * a->q.stride[1], packed, first, rows, scores, ld,
          inverse);
    const void *pointers[CPU_MAX_MR];
    for (int r = 0; r < rows; r++) {
        pointers[r] = a->half ? (void *)(weights + r * ld) : scores + r * ld;
        if (a->half)
            k->narrow(a->keys, scores + r * ld, weights + r * ld);
    }
    const int64_t depth = a->half ? cpu_ceil(a->keys, 2) : a->keys;
    const int64_t out =
        image * a->out.stride[0] + head * a->out.stride[1] + first * a->out.stride[3];
    for (int64_t panel = 0; panel < call->v_panels; panel++) {
        const int64_t column = panel * k->nr, n = cpu_least(k->nr, a->values - column);
        const int vecs = cpu_panel_vecs(k, column, a->values);
        const int64_t width = vecs * k->vw;
        const float *b = packed + a->k_floats + cpu_panel_at(k, depth, panel);
        const struct cpu_ahead ahead = {b, b + depth * k->nr, 0, width};
        if (a->half)
            k->gemm16(rows, vecs, pointers, 1, a->keys, b, NULL, tile, width, &ahead);
        else
            k->gemm(rows, vecs, (const float *const *)pointers, 1, a->keys, b, NULL, tile, width,
                    &ahead);
        for (int r = 0; r < rows; r++) {
            void *to = cpu_element(run, &a->out, out + r * a->out.stride[3] + column);
            float *row = a->out.type == CPU_BF16 ? tile + r * width : to;
            k->scalar_right(DEMIST_OP_MUL, n, row, tile + r * width, inverse[r]);
            if (a->out.type == CPU_BF16)
                k->narrow(n, row, to);
        }
    }
}

static void block_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const int64_t which = task / call->blocks;
    attend(call, which / call->a->heads, which % call->a->heads, task % call->blocks,
           packed_head(call, which), worker);
}

/* A whole head, whose keys and values stay in the worker's cache. */
static void head_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const int64_t image = task / call->a->heads, head = task % call->a->heads;
    float *packed = packed_head(call, worker);
    for (int64_t panel = 0; panel < call->k_panels + call->v_panels; panel++)
        pack_head(call, image, head, panel, packed);
    for (int64_t block = 0; block < call->blocks; block++)
        attend(call, image, head, block, packed, worker);
}

static demist_status run_attention(struct cpu_run *run, const void *op)
{
    const struct attention *a = op;
    const struct cpu_kernels *k = run->kernels;
    struct call call = {.run = run, .a = a};
    const int64_t images = cpu_images(run, &a->out);
    call.k_panels = cpu_ceil(a->keys, k->nr);
    call.v_panels = cpu_ceil(a->values, k->nr);
    call.blocks = cpu_ceil(a->length, k->mr);
    call.block = cpu_ceil(a->length, call.blocks);
    const int64_t heads = images * a->heads, workers = run->host->n_workers;
    const double pack = (double)heads * (double)a->keys * (double)(a->depth + a->values);
    const double work = (double)heads * (double)a->keys * (double)a->length *
                        ((double)(a->depth + a->values) / 16 + 2);
    if (heads % workers == 0 || heads >= 4 * workers) {
        cpu_parallel(run, heads, head_task, &call, pack + work);
        return DEMIST_OK;
    }
    cpu_parallel(run, heads * (call.k_panels + call.v_panels), pack_task, &call, pack);
    cpu_parallel(run, heads * call.blocks, block_task, &call, work);
    return DEMIST_OK;
}

/* Tokens with the heads' channels side by side: the reshape to [N,C,…] that follows is a view. */
static demist_status result_tokens(demist_program *p, const demist_node *node, demist_view *view)
{
    *view = (demist_view){.batched = demist_is_batched(node),
                          .type = cpu_keeps_bf16(p, node) ? CPU_BF16 : CPU_F32,
                          .rank = 4};
    memcpy(view->shape, node->shape, sizeof view->shape);
    const int64_t ld = cpu_round_up(node->shape[1] * node->shape[2], CPU_CHANNELS);
    view->stride[0] = node->shape[3] * ld;
    view->stride[1] = node->shape[2];
    view->stride[2] = 1;
    view->stride[3] = ld;
    const int64_t images = view->batched ? 1 : node->shape[0];
    view->storage =
        cpu_new_storage_as(p, view->type == CPU_BF16, view->batched, images * view->stride[0]);
    return view->storage < 0 ? DEMIST_NO_MEMORY : DEMIST_OK;
}

demist_status cpu_add_attention(demist_program *p, const demist_node *node)
{
    const struct cpu_kernels *k = p->device->kernels;
    struct attention *a = cpu_new(p, sizeof *a);
    if (!a)
        return DEMIST_NO_MEMORY;
    demist_view *inputs[3] = {&a->q, &a->k, &a->v};
    a->half = k->bf16 && p->precision == DEMIST_PRECISION_BF16;
    for (int i = 0; i < 3; i++) {
        CPU_TRY(cpu_value_as_stored(p, node->inputs[i], inputs[i]));
        CPU_TRY(cpu_need_format(p, node->id, false, a->half, inputs[i]));
    }
    CPU_TRY(need_inner(p, node->id, 2, &a->q));
    a->heads = node->shape[1];
    a->values = node->shape[2];
    a->length = node->shape[3];
    a->depth = a->q.shape[2];
    a->keys = a->k.shape[3];
    a->scale = node->attrs.attention.scale;
    a->causal = node->attrs.attention.causal != 0;
    a->k_floats = cpu_packed_floats(k, a->half ? cpu_ceil(a->depth, 2) : a->depth, a->keys);
    a->v_floats = cpu_packed_floats(k, a->half ? cpu_ceil(a->keys, 2) : a->keys, a->values);
    CPU_TRY(result_tokens(p, node, &a->out));
    p->values[node->id].view = a->out;
    const int64_t images = a->out.batched ? 1 : node->shape[0];
    a->packed = (demist_view){
        .storage = cpu_new_storage(p, a->out.batched,
                                   images * a->heads * (a->k_floats + a->v_floats) + 1024)};
    if (a->packed.storage < 0)
        return DEMIST_NO_MEMORY;
    cpu_need_scratch(p, 2 * k->mr * cpu_round_up(a->keys, k->nr));
    p->flops += demist_product_flops(node);
    const demist_view *all[5] = {&a->q, &a->k, &a->v, &a->out, &a->packed};
    for (int i = 0; i < 5; i++)
        cpu_touch(p, all[i]);
    return cpu_add_step(p, node->id, run_attention, a) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* --- MATMUL: a [..,M,K], b [..,K,N] -> [..,M,N] --- */

struct matmul {
    demist_view a, b, out, packed; /* a, b broadcast to the result's outer axes */
    int32_t outer;                 /* axes in front of the last two */
    int64_t depth, columns, b_floats;
    bool one_b; /* the same for all outer axes */
};

struct matmul_call {
    const struct cpu_run *run;
    const struct matmul *m;
    int64_t rows, blocks, block, panels;
};

/* Offset of outer matrix number i of the view. */
static int64_t outer_offset(const struct matmul *m, const demist_view *view, int64_t i)
{
    int64_t offset = 0;
    for (int32_t axis = m->outer - 1; axis >= 0; axis--) {
        const bool images = axis == 0;
        offset += (images ? i : i % m->out.shape[axis]) * view->stride[axis];
        i = images ? 0 : i / m->out.shape[axis];
    }
    return offset;
}

static void matmul_pack_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct matmul_call *call = arg;
    const struct matmul *m = call->m;
    const int64_t which = task / call->panels;
    pack_panel(call->run->kernels, cpu_at(call->run, &m->b) + outer_offset(m, &m->b, which),
               m->b.stride[m->outer], m->b.stride[m->outer + 1], m->depth, m->columns,
               task % call->panels, cpu_at(call->run, &m->packed) + which * m->b_floats);
}

static void matmul_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct matmul_call *call = arg;
    const struct matmul *m = call->m;
    const struct cpu_kernels *k = call->run->kernels;
    const int64_t which = task / call->blocks, first = task % call->blocks * call->block;
    const int rows = (int)cpu_least(call->block, call->rows - first);
    const float *a = cpu_at(call->run, &m->a) + outer_offset(m, &m->a, which);
    float *out = cpu_at(call->run, &m->out) + outer_offset(m, &m->out, which);
    const float *b = cpu_at(call->run, &m->packed) + (m->one_b ? 0 : which * m->b_floats);
    const float *pointers[CPU_MAX_MR];
    float tile[CPU_MAX_MR * CPU_MAX_NR] __attribute__((aligned(64)));
    for (int r = 0; r < rows; r++)
        pointers[r] = a + (first + r) * m->a.stride[m->outer];
    for (int64_t panel = 0; panel < call->panels; panel++) {
        const int64_t column = panel * k->nr, n = cpu_least(k->nr, m->columns - column);
        const int vecs = cpu_panel_vecs(k, column, m->columns);
        const float *from = b + cpu_panel_at(k, m->depth, panel);
        k->gemm(rows, vecs, pointers, 1, m->depth, from, NULL, tile, vecs * k->vw,
                &(struct cpu_ahead){from, from + m->depth * k->nr, 0, vecs * k->vw});
        for (int r = 0; r < rows; r++)
            memcpy(out + (first + r) * m->out.stride[m->outer] + column, tile + r * vecs * k->vw,
                   (size_t)n * sizeof *out);
    }
}

static demist_status run_matmul(struct cpu_run *run, const void *op)
{
    const struct matmul *m = op;
    const struct cpu_kernels *k = run->kernels;
    struct matmul_call call = {.run = run, .m = m};
    const int64_t first = m->out.batched ? run->images : m->out.shape[0];
    int64_t matrices = m->outer > 0 ? first : 1;
    for (int32_t i = 1; i < m->outer; i++)
        matrices *= m->out.shape[i];
    call.rows = m->outer > 0 ? m->out.shape[m->outer] : first;
    call.panels = cpu_ceil(m->columns, k->nr);
    call.blocks = cpu_ceil(call.rows, k->mr);
    call.block = call.blocks > 0 ? cpu_ceil(call.rows, call.blocks) : 1;
    const int64_t packs = m->one_b ? 1 : matrices;
    cpu_parallel(run, packs * call.panels, matmul_pack_task, &call,
                 (double)packs * (double)m->b_floats);
    cpu_parallel(run, matrices * call.blocks, matmul_task, &call,
                 (double)matrices * (double)call.rows * (double)m->b_floats / 16);
    return DEMIST_OK;
}

static void swap_last(demist_view *v)
{
    const int32_t i = v->rank - 2, j = v->rank - 1;
    const int64_t shape = v->shape[i], stride = v->stride[i];
    v->shape[i] = v->shape[j];
    v->stride[i] = v->stride[j];
    v->shape[j] = shape;
    v->stride[j] = stride;
}

/* The view with the result's outer axes in front of its own last two. */
static demist_view spread_outer(const struct matmul *m, const demist_view *view)
{
    demist_view to = m->out;
    for (int i = 0; i < 2; i++)
        to.shape[m->outer + i] = view->shape[view->rank - 2 + i];
    return demist_view_broadcast(view, &to);
}

demist_status cpu_add_matmul(demist_program *p, const demist_node *node)
{
    const struct cpu_kernels *k = p->device->kernels;
    struct matmul *m = cpu_new(p, sizeof *m);
    if (!m)
        return DEMIST_NO_MEMORY;
    CPU_TRY(cpu_value_of(p, node->inputs[0], &m->a));
    CPU_TRY(cpu_value_of(p, node->inputs[1], &m->b));
    if (node->attrs.matmul.transpose_a)
        swap_last(&m->a);
    if (node->attrs.matmul.transpose_b)
        swap_last(&m->b);
    CPU_TRY(cpu_need_rows(p, node->id, &m->a));
    CPU_TRY(cpu_result_dense(p, node, false, &m->out));
    p->values[node->id].view = m->out;
    m->outer = node->rank - 2;
    m->depth = m->a.shape[m->a.rank - 1];
    m->columns = node->shape[node->rank - 1];
    m->b_floats = cpu_packed_floats(k, m->depth, m->columns);
    m->a = spread_outer(m, &m->a);
    m->b = spread_outer(m, &m->b);
    m->one_b = true;
    int64_t matrices = 1;
    for (int32_t i = 0; i < m->outer; i++) {
        m->one_b = m->one_b && m->b.stride[i] == 0;
        matrices *= i == 0 && m->out.batched ? 1 : m->out.shape[i];
    }
    const bool batched = !m->one_b && m->out.batched;
    m->packed = (demist_view){
        .storage = cpu_new_storage(p, batched, (m->one_b ? 1 : matrices) * m->b_floats + 1024)};
    if (m->packed.storage < 0)
        return DEMIST_NO_MEMORY;
    p->flops += demist_product_flops(node);
    cpu_touch(p, &m->a);
    cpu_touch(p, &m->b);
    cpu_touch(p, &m->out);
    cpu_touch(p, &m->packed);
    return cpu_add_step(p, node->id, run_matmul, m) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

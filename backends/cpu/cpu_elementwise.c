/* Elementwise ops, alone or as a chain: each row (a run along the innermost axis of the result's
 * memory) is computed in pieces that stay in the first-level cache, op by op. */
#include "cpu_program.h"

#include <math.h>
#include <string.h>

enum { PIECE = 512, MAX_OPS = 2 * CPU_MAX_OPERANDS };

/* An operand: input number, or the result of op number. */
struct operand {
    bool computed;
    int32_t index;
};

struct op {
    demist_op op; /* LINCOMB: a·b + c (c absent: a·b) */
    float p0, p1;
    int32_t n;
    struct operand in[3];
};

struct elementwise {
    int32_t n_ops, n_inputs;
    struct op ops[MAX_OPS];
    demist_view views[CPU_MAX_OPERANDS]; /* the result, then the inputs */
    struct cpu_nest nest;
};

struct call {
    const struct cpu_run *run;
    const struct elementwise *e;
    int64_t rows, row_chunk, pieces, piece;
};

/* A vector of the piece, or one number for all of it. */
struct source {
    const float *data;
    bool constant;
};

/* A source as n floats; `room` is used where it is a single number. */
static const float *spread(struct source s, int64_t n, float *room)
{
    if (!s.constant)
        return s.data;
    for (int64_t i = 0; i < n; i++)
        room[i] = *s.data;
    return room;
}

static bool commutes(demist_op op)
{
    return op == DEMIST_OP_ADD || op == DEMIST_OP_MUL;
}

static void run_op(const struct cpu_kernels *k, const struct op *op, const struct source *in,
                   int64_t n, float *to)
{
    float room[3][PIECE];
    if (op->op == DEMIST_OP_LINCOMB && op->n == 3) {
        k->multiply_add(n, to, spread(in[0], n, room[0]), spread(in[1], n, room[1]),
                        spread(in[2], n, room[2]));
        return;
    }
    const demist_op code = op->op == DEMIST_OP_LINCOMB ? DEMIST_OP_MUL : op->op;
    if (op->n == 1)
        k->unary(code, n, to, spread(in[0], n, room[0]), op->p0, op->p1);
    else if (op->n == 3)
        k->select(n, to, spread(in[0], n, room[0]), spread(in[1], n, room[1]),
                  spread(in[2], n, room[2]));
    else if (in[1].constant)
        k->scalar_right(code, n, to, spread(in[0], n, room[0]), *in[1].data);
    else if (in[0].constant && commutes(code))
        k->scalar_right(code, n, to, in[1].data, *in[0].data);
    else
        k->binary(code, n, to, spread(in[0], n, room[0]), in[1].data);
}

/* n elements of floats or bf16 numbers, `step` apart, as floats side by side. */
static void gather(const struct cpu_kernels *k, bool bf16, const void *from, int64_t step,
                   int64_t n, float *to)
{
    if (bf16 && step == 1)
        k->widen(n, from, to);
    else
        for (int64_t i = 0; i < n; i++)
            to[i] = bf16 ? cpu_from_bf16(((const uint16_t *)from)[i * step])
                         : ((const float *)from)[i * step];
}

static void scatter16(const struct cpu_kernels *k, const float *from, int64_t n, uint16_t *to,
                      int64_t step)
{
    if (step == 1)
        k->narrow(n, from, to);
    else
        for (int64_t i = 0; i < n; i++)
            to[i * step] = (uint16_t)cpu_to_bf16(from[i]);
}

/* n elements from the rows' starts on. */
static void run_piece(const struct call *call, const int64_t *starts, int64_t first, int64_t n,
                      float *scratch)
{
    const struct elementwise *e = call->e;
    const struct cpu_nest *nest = &e->nest;
    const int32_t inner = nest->rank - 1;
    struct source inputs[CPU_MAX_OPERANDS], results[MAX_OPS];
    for (int32_t i = 1; i <= e->n_inputs; i++) {
        const int64_t step = nest->stride[i][inner];
        const demist_view *view = &e->views[i];
        const void *x = cpu_element(call->run, view, starts[i] + first * step);
        inputs[i - 1] = (struct source){x, step == 0};
        if (view->type != CPU_BF16 && (step == 0 || step == 1))
            continue;
        gather(call->run->kernels, view->type == CPU_BF16, x, step, step == 0 ? 1 : n, scratch);
        inputs[i - 1].data = scratch;
        scratch += PIECE;
    }
    const int64_t step = nest->stride[0][inner];
    void *out = cpu_element(call->run, &e->views[0], starts[0] + first * step);
    const float *last_result = scratch;
    results[0] = (struct source){scratch, false};
    for (int32_t i = 0; i < e->n_ops; i++) {
        const struct op *op = &e->ops[i];
        struct source in[3] = {{0}};
        for (int32_t j = 0; j < op->n; j++)
            in[j] = op->in[j].computed ? results[op->in[j].index] : inputs[op->in[j].index];
        const bool last = i == e->n_ops - 1 && step == 1 && e->views[0].type != CPU_BF16;
        float *to = last ? out : scratch;
        run_op(call->run->kernels, op, in, n, to);
        results[i] = (struct source){to, false};
        last_result = to;
        scratch += last ? 0 : PIECE;
    }
    if (e->views[0].type == CPU_BF16)
        scatter16(call->run->kernels, last_result, n, out, step);
    else if (step != 1)
        for (int64_t j = 0; j < n; j++)
            ((float *)out)[j * step] = last_result[j];
}

static void elementwise_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const struct cpu_nest *nest = &call->e->nest;
    const int64_t length = nest->size[nest->rank - 1];
    const int64_t row0 = task / call->pieces * call->row_chunk;
    const int64_t row1 = cpu_least(row0 + call->row_chunk, call->rows);
    const int64_t first = task % call->pieces * call->piece;
    const int64_t last = cpu_least(first + call->piece, length);
    float *scratch = cpu_scratch(call->run, worker);
    for (int64_t row = row0; row < row1; row++) {
        int64_t starts[CPU_MAX_OPERANDS];
        cpu_nest_row(nest, row, starts);
        for (int64_t at = first; at < last; at += PIECE)
            run_piece(call, starts, at, cpu_least(PIECE, last - at), scratch);
    }
}

static demist_status run_elementwise(struct cpu_run *run, const void *arg)
{
    enum { TASK = 4096 };
    const struct elementwise *e = arg;
    struct call call = {.run = run, .e = e};
    const int64_t length = e->nest.size[e->nest.rank - 1];
    call.rows = cpu_nest_rows(&e->nest, run->images);
    call.row_chunk = length >= TASK ? 1 : TASK / (length > 0 ? length : 1);
    call.piece = length >= TASK ? TASK : length;
    call.pieces = length > 0 ? cpu_ceil(length, call.piece) : 0;
    cpu_parallel(run, cpu_ceil(call.rows, call.row_chunk) * call.pieces, elementwise_task, &call,
                 (double)call.rows * (double)length * e->n_ops);
    return DEMIST_OK;
}

/* --- building --- */

static bool same_view(const demist_view *a, const demist_view *b)
{
    const size_t bytes = (size_t)a->rank * sizeof a->shape[0];
    return a->storage == b->storage && a->batched == b->batched && a->rank == b->rank &&
           a->offset == b->offset && memcmp(a->shape, b->shape, bytes) == 0 &&
           memcmp(a->stride, b->stride, bytes) == 0;
}

/* The number of an input among the step's, added if it is new. */
static demist_status add_input(demist_program *p, struct elementwise *e, const demist_view *view,
                               int32_t *index)
{
    for (int32_t i = 1; i <= e->n_inputs; i++)
        if (same_view(&e->views[i], view)) {
            *index = i - 1;
            return DEMIST_OK;
        }
    if (e->n_inputs + 1 >= CPU_MAX_OPERANDS)
        return p->device->host->fail(p->device->host, DEMIST_UNSUPPORTED,
                                     "more than %d operands in one elementwise loop",
                                     CPU_MAX_OPERANDS - 1);
    e->views[++e->n_inputs] = *view;
    *index = e->n_inputs - 1;
    return DEMIST_OK;
}

static demist_status operand_of(demist_program *p, const struct cpu_fused *f, struct elementwise *e,
                                const demist_node *node, struct operand *operand)
{
    for (int32_t i = 0; i < f->n; i++)
        if (f->chain[i] == node) {
            *operand = (struct operand){true, i};
            return DEMIST_OK;
        }
    demist_view view;
    CPU_TRY(cpu_value_as_stored(p, node, &view));
    operand->computed = false;
    const demist_view like = {.batched = demist_is_batched(f->result), .rank = f->result->rank};
    demist_view to = like;
    memcpy(to.shape, f->result->shape, sizeof to.shape);
    view = demist_view_broadcast(&view, &to);
    return add_input(p, e, &view, &operand->index);
}

/* x_0 … x_{k−1}, c_0 … c_{k−1}: products and sums; a coefficient is one number, or one an image. */
static demist_status plan_lincomb(demist_program *p, const demist_node *node,
                                  const struct cpu_fused *f, struct elementwise *e)
{
    const int32_t terms = node->n_inputs / 2;
    for (int32_t i = 0; i < terms; i++) {
        struct op *op = &e->ops[e->n_ops++];
        *op = (struct op){.op = DEMIST_OP_LINCOMB, .n = i == 0 ? 2 : 3};
        demist_view view;
        CPU_TRY(operand_of(p, f, e, node->inputs[i], &op->in[0]));
        CPU_TRY(cpu_value_of(p, node->inputs[terms + i], &view));
        demist_view c = {.storage = view.storage,
                         .offset = view.offset,
                         .batched = demist_is_batched(node),
                         .rank = node->rank};
        memcpy(c.shape, node->shape, sizeof c.shape);
        if (view.rank > 0 && (view.batched || view.shape[0] != 1))
            c.stride[0] = view.stride[0];
        CPU_TRY(add_input(p, e, &c, &op->in[1].index));
        op->in[2] = (struct operand){true, e->n_ops - 2};
    }
    return DEMIST_OK;
}

static demist_status plan_op(demist_program *p, const struct cpu_fused *f, int32_t i,
                             struct elementwise *e)
{
    const demist_node *node = f->chain[i];
    struct op *op = &e->ops[e->n_ops++];
    *op = (struct op){.op = node->op, .n = node->n_inputs};
    if (node->op == DEMIST_OP_AFFINE || node->op == DEMIST_OP_CLAMP) {
        op->p0 = node->attrs.affine.a; /* the same place as clamp.lo, clamp.hi */
        op->p1 = node->attrs.affine.b;
    }
    for (int32_t k = 0; k < node->n_inputs; k++)
        CPU_TRY(operand_of(p, f, e, node->inputs[k], &op->in[k]));
    return DEMIST_OK;
}

/* The input whose order of axes the result takes: the first of full size. */
static const demist_view *model(const struct elementwise *e)
{
    for (int32_t i = 1; i <= e->n_inputs; i++) {
        bool full = true;
        for (int32_t a = 0; a < e->views[i].rank; a++)
            full = full && (e->views[i].stride[a] != 0 || e->views[i].shape[a] == 1);
        if (full)
            return &e->views[i];
    }
    return NULL;
}

demist_status cpu_add_elementwise(demist_program *p, const struct cpu_fused *f)
{
    struct elementwise *e = cpu_new(p, sizeof *e);
    if (!e)
        return DEMIST_NO_MEMORY;
    if (f->n == 1 && f->chain[0]->op == DEMIST_OP_LINCOMB)
        CPU_TRY(plan_lincomb(p, f->chain[0], f, e));
    else
        for (int32_t i = 0; i < f->n; i++)
            CPU_TRY(plan_op(p, f, i, e));
    const demist_view *like = model(e);
    bool bf16 = false; /* what is computed from f32 alone, such as a sampler's step, stays so */
    for (int32_t i = 1; i <= e->n_inputs; i++)
        bf16 = bf16 || e->views[i].type == CPU_BF16;
    bf16 = bf16 && cpu_keeps_bf16(p, f->result);
    CPU_TRY(like ? cpu_result_like(p, f->result, bf16, like, &e->views[0])
                 : cpu_result_dense(p, f->result, bf16, &e->views[0]));
    p->values[f->result->id].view = e->views[0];
    for (int32_t i = 0; i <= e->n_inputs; i++)
        cpu_touch(p, &e->views[i]);
    cpu_nest_init(&e->nest, e->n_inputs + 1, e->views);
    cpu_need_scratch(p, (int64_t)PIECE * (e->n_inputs + e->n_ops + 1));
    return cpu_add_step(p, f->result->id, run_elementwise, e) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* --- CAST, between f32 and i32 --- */

struct cast {
    demist_view to, from;
    struct cpu_nest nest;
    bool to_int;
};

/* To the nearest integer, halves to even; what int32 cannot hold becomes its nearest end, NaN 0. */
static int32_t nearest_int(float x)
{
    if (x != x)
        return 0;
    const double r = rint((double)x);
    return r >= INT32_MAX ? INT32_MAX : r <= INT32_MIN ? INT32_MIN : (int32_t)r;
}

static demist_status run_cast(struct cpu_run *run, const void *arg)
{
    const struct cast *c = arg;
    const int64_t rows = cpu_nest_rows(&c->nest, run->images);
    const int32_t inner = c->nest.rank - 1;
    for (int64_t row = 0; row < rows; row++) {
        int64_t starts[2];
        cpu_nest_row(&c->nest, row, starts);
        float *to = cpu_at(run, &c->to) + starts[0];
        const float *from = cpu_at(run, &c->from) + starts[1];
        for (int64_t i = 0; i < c->nest.size[inner]; i++) {
            float *y = to + i * c->nest.stride[0][inner];
            const float *x = from + i * c->nest.stride[1][inner];
            if (c->to_int) {
                const int32_t v = nearest_int(*x);
                memcpy(y, &v, sizeof v);
            } else {
                int32_t v;
                memcpy(&v, x, sizeof v);
                *y = (float)v;
            }
        }
    }
    return DEMIST_OK;
}

demist_status cpu_add_cast(demist_program *p, const demist_node *node)
{
    demist_view from;
    CPU_TRY(cpu_value_of(p, node->inputs[0], &from));
    if (node->inputs[0]->dtype == node->dtype) {
        p->values[node->id].view = from;
        return DEMIST_OK;
    }
    struct cast *c = cpu_new(p, sizeof *c);
    if (!c)
        return DEMIST_NO_MEMORY;
    c->from = from;
    c->to_int = node->dtype == DEMIST_I32;
    CPU_TRY(cpu_result_dense(p, node, false, &c->to));
    p->values[node->id].view = c->to;
    cpu_touch(p, &c->to);
    cpu_touch(p, &c->from);
    const demist_view views[2] = {c->to, c->from};
    cpu_nest_init(&c->nest, 2, views);
    return cpu_add_step(p, node->id, run_cast, c) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* sum, mean and amax over axes; softmax along one. Sums are float64, in an order that depends on
 * the shape alone. */
#include "cpu_program.h"

#include <math.h>
#include <string.h>

struct reduce {
    demist_op op;
    demist_view from, to; /* from: what is kept of x, with the result's shape */
    struct cpu_nest kept, gone;
    int64_t count;
};

struct call {
    const struct cpu_run *run;
    const void *op;
    int64_t rows, chunk;
};

/* NaN where one is. */
static double larger(double a, double b)
{
    return b > a || b != b ? b : a;
}

static double reduce_row(const struct reduce *r, const float *x, int64_t n, int64_t step,
                         double value)
{
    if (r->op == DEMIST_OP_AMAX) {
        for (int64_t i = 0; i < n; i++)
            value = larger(value, x[i * step]);
        return value;
    }
    double part[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++)
            part[j] += x[(i + j) * step];
    for (; i < n; i++)
        part[0] += x[i * step];
    return value + ((part[0] + part[1]) + (part[2] + part[3]));
}

static float reduce_one(const struct reduce *r, const float *x)
{
    const int64_t rows = cpu_nest_rows(&r->gone, 1);
    const int32_t inner = r->gone.rank - 1;
    double value = r->op == DEMIST_OP_AMAX ? -(double)INFINITY : 0;
    for (int64_t row = 0; row < rows; row++) {
        int64_t start;
        cpu_nest_row(&r->gone, row, &start);
        value = reduce_row(r, x + start, r->gone.size[inner], r->gone.stride[0][inner], value);
    }
    return (float)(r->op == DEMIST_OP_MEAN ? value / (double)r->count : value);
}

static void reduce_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct call *call = arg;
    const struct reduce *r = call->op;
    const int32_t inner = r->kept.rank - 1;
    const int64_t length = r->kept.size[inner];
    const int64_t last = cpu_least((task + 1) * call->chunk, call->rows * length);
    for (int64_t i = task * call->chunk; i < last; i++) {
        int64_t starts[2];
        cpu_nest_row(&r->kept, i / length, starts);
        const int64_t j = i % length;
        cpu_at(call->run, &r->to)[starts[0] + j * r->kept.stride[0][inner]] =
            reduce_one(r, cpu_at(call->run, &r->from) + starts[1] + j * r->kept.stride[1][inner]);
    }
}

static demist_status run_reduce(struct cpu_run *run, const void *op)
{
    const struct reduce *r = op;
    struct call call = {.run = run, .op = r};
    call.rows = cpu_nest_rows(&r->kept, run->images);
    const int64_t n = call.rows * r->kept.size[r->kept.rank - 1];
    call.chunk = 1 + 4096 / (r->count > 0 ? r->count : 1);
    cpu_parallel(run, cpu_ceil(n, call.chunk), reduce_task, &call, (double)n * (double)r->count);
    return DEMIST_OK;
}

demist_status cpu_add_reduce(demist_program *p, const demist_node *node)
{
    struct reduce *r = cpu_new(p, sizeof *r);
    if (!r)
        return DEMIST_NO_MEMORY;
    r->op = node->op;
    CPU_TRY(cpu_value_of(p, node->inputs[0], &r->from));
    CPU_TRY(cpu_result_dense(p, node, false, &r->to));
    p->values[node->id].view = r->to;
    demist_view gone = {.rank = 0};
    r->count = 1;
    for (int32_t i = 0; i < node->rank; i++)
        if (node->attrs.reduce.axes >> i & 1) {
            gone.shape[gone.rank] = r->from.shape[i];
            gone.stride[gone.rank++] = r->from.stride[i];
            r->count *= r->from.shape[i];
            r->from.shape[i] = 1;
            r->from.stride[i] = 0;
        }
    const demist_view kept[2] = {r->to, r->from};
    cpu_nest_init(&r->kept, 2, kept);
    cpu_nest_init(&r->gone, 1, &gone);
    cpu_touch(p, &r->from);
    cpu_touch(p, &r->to);
    return cpu_add_step(p, node->id, run_reduce, r) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* --- SOFTMAX --- */

struct softmax {
    demist_view from, to;
    struct cpu_nest lines; /* all axes but the one */
    int64_t n, from_step, to_step;
};

static void softmax_task(void *arg, int64_t task, int worker)
{
    const struct call *call = arg;
    const struct softmax *s = call->op;
    const struct cpu_kernels *k = call->run->kernels;
    const int32_t inner = s->lines.rank - 1;
    const int64_t length = s->lines.size[inner];
    float *line = cpu_scratch(call->run, worker);
    const int64_t last = cpu_least((task + 1) * call->chunk, call->rows * length);
    for (int64_t i = task * call->chunk; i < last; i++) {
        int64_t starts[2];
        cpu_nest_row(&s->lines, i / length, starts);
        const float *x =
            cpu_at(call->run, &s->from) + starts[1] + i % length * s->lines.stride[1][inner];
        float *y = cpu_at(call->run, &s->to) + starts[0] + i % length * s->lines.stride[0][inner];
        for (int64_t j = 0; j < s->n; j++)
            line[j] = x[j * s->from_step];
        const float sum = k->softmax(s->n, line, 1);
        k->scalar_right(DEMIST_OP_DIV, s->n, line, line, sum);
        for (int64_t j = 0; j < s->n; j++)
            y[j * s->to_step] = line[j];
    }
}

static demist_status run_softmax(struct cpu_run *run, const void *op)
{
    const struct softmax *s = op;
    struct call call = {.run = run, .op = s};
    call.rows = cpu_nest_rows(&s->lines, run->images);
    const int64_t n = call.rows * s->lines.size[s->lines.rank - 1];
    call.chunk = 1 + 4096 / (s->n > 0 ? s->n : 1);
    cpu_parallel(run, cpu_ceil(n, call.chunk), softmax_task, &call, (double)n * (double)s->n * 4);
    return DEMIST_OK;
}

demist_status cpu_add_softmax(demist_program *p, const demist_node *node)
{
    struct softmax *s = cpu_new(p, sizeof *s);
    if (!s)
        return DEMIST_NO_MEMORY;
    const int32_t axis = node->attrs.axis.axis;
    CPU_TRY(cpu_value_of(p, node->inputs[0], &s->from));
    CPU_TRY(cpu_result_like(p, node, false, &s->from, &s->to));
    p->values[node->id].view = s->to;
    s->n = node->shape[axis];
    s->from_step = s->from.stride[axis];
    s->to_step = s->to.stride[axis];
    demist_view lines[2] = {s->to, s->from};
    for (int i = 0; i < 2; i++)
        lines[i].shape[axis] = 1;
    cpu_nest_init(&s->lines, 2, lines);
    cpu_need_scratch(p, s->n);
    cpu_touch(p, &s->from);
    cpu_touch(p, &s->to);
    return cpu_add_step(p, node->id, run_softmax, s) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* --- BATCH_SUM: over the images, in their order --- */

struct batch_sum {
    demist_view from, to;
    struct cpu_nest nest; /* the result and one image */
};

static void batch_sum_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct call *call = arg;
    const struct batch_sum *s = call->op;
    const int32_t inner = s->nest.rank - 1;
    const int64_t length = s->nest.size[inner];
    const int64_t last = cpu_least((task + 1) * call->chunk, call->rows * length);
    for (int64_t i = task * call->chunk; i < last; i++) {
        int64_t starts[2];
        cpu_nest_row(&s->nest, i / length, starts);
        const float *x =
            cpu_at(call->run, &s->from) + starts[1] + i % length * s->nest.stride[1][inner];
        double sum = 0;
        for (int64_t image = 0; image < call->run->images; image++)
            sum += x[image * s->from.stride[0]];
        cpu_at(call->run, &s->to)[starts[0] + i % length * s->nest.stride[0][inner]] = (float)sum;
    }
}

static demist_status run_batch_sum(struct cpu_run *run, const void *op)
{
    const struct batch_sum *s = op;
    struct call call = {.run = run, .op = s, .chunk = 1024};
    call.rows = cpu_nest_rows(&s->nest, 1);
    const int64_t n = call.rows * s->nest.size[s->nest.rank - 1];
    cpu_parallel(run, cpu_ceil(n, call.chunk), batch_sum_task, &call,
                 (double)n * (double)run->images * 4);
    return DEMIST_OK;
}

demist_status cpu_add_batch_sum(demist_program *p, const demist_node *node)
{
    struct batch_sum *s = cpu_new(p, sizeof *s);
    if (!s)
        return DEMIST_NO_MEMORY;
    CPU_TRY(cpu_value_of(p, node->inputs[0], &s->from));
    CPU_TRY(cpu_result_dense(p, node, false, &s->to));
    p->values[node->id].view = s->to;
    demist_view views[2] = {s->to, s->from};
    views[1].batched = false;
    views[1].shape[0] = 1;
    views[1].stride[0] = 0;
    cpu_nest_init(&s->nest, 2, views);
    cpu_touch(p, &s->from);
    cpu_touch(p, &s->to);
    return cpu_add_step(p, node->id, run_batch_sum, s) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* Copies between strided places, and what is made of them: padding, embeddings. */
#include "cpu_program.h"

#include <inttypes.h>
#include <string.h>

/* --- copies --- */

struct cpu_copy {
    demist_view to, from;
    struct cpu_nest nest;
};

struct call {
    const struct cpu_run *run;
    const struct cpu_copy *copy;
    char *to;
    const char *from;
    int64_t rows, row_chunk;
    int32_t across; /* the axis along which the source is contiguous, 0: none */
};

size_t cpu_copy_size(void)
{
    return sizeof(struct cpu_copy);
}

struct cpu_copy *cpu_copy_init(struct cpu_copy *copy, const demist_view *to,
                               const demist_view *from)
{
    const demist_view views[2] = {*to, *from};
    copy->to = *to;
    copy->from = *from;
    cpu_nest_init(&copy->nest, 2, views);
    return copy;
}

static void copy_row(const struct cpu_kernels *k, const struct cpu_copy *copy, char *to,
                     const char *from)
{
    const int32_t inner = copy->nest.rank - 1;
    const int64_t n = copy->nest.size[inner];
    const int64_t t = copy->nest.stride[0][inner], s = copy->nest.stride[1][inner];
    const bool same = copy->to.type == copy->from.type, dense = t == 1 && s == 1;
    const size_t size = (size_t)cpu_size(copy->to.type);
    if (dense && same)
        memcpy(to, from, (size_t)n * size);
    else if (dense && copy->to.type == CPU_BF16)
        k->narrow(n, (const float *)(const void *)from, (uint16_t *)(void *)to);
    else if (dense)
        k->widen(n, (const uint16_t *)(const void *)from, (float *)(void *)to);
    else if (same)
        for (int64_t i = 0; i < n; i++) /* i32 values too: bits, not floats */
            memcpy(to + i * t * (int64_t)size, from + i * s * (int64_t)size, size);
    else if (copy->to.type == CPU_BF16)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)(void *)to)[i * t] =
                (uint16_t)cpu_to_bf16(((const float *)(const void *)from)[i * s]);
    else
        for (int64_t i = 0; i < n; i++)
            ((float *)(void *)to)[i * t] =
                cpu_from_bf16(((const uint16_t *)(const void *)from)[i * s]);
}

static void copy_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct call *call = arg;
    const int64_t last = cpu_least((task + 1) * call->row_chunk, call->rows);
    for (int64_t row = task * call->row_chunk; row < last; row++) {
        int64_t starts[2];
        cpu_nest_row(&call->copy->nest, row, starts);
        copy_row(call->run->kernels, call->copy,
                 call->to + starts[0] * cpu_size(call->copy->to.type),
                 call->from + starts[1] * cpu_size(call->copy->from.type));
    }
}

/* The nest without its axis `axis`. */
static struct cpu_nest without(const struct cpu_nest *nest, int32_t axis)
{
    struct cpu_nest out = *nest;
    out.rank = nest->rank - 1;
    for (int32_t i = axis; i < out.rank; i++) {
        out.size[i] = nest->size[i + 1];
        for (int32_t k = 0; k < nest->n; k++)
            out.stride[k][i] = nest->stride[k][i + 1];
    }
    return out;
}

/* Rows of two axes: the result's innermost and the one along which the source is contiguous. */
static void transpose_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct call *call = arg;
    const struct cpu_nest *nest = &call->copy->nest;
    const int32_t inner = nest->rank - 1, across = call->across;
    const struct cpu_nest outer = without(nest, across);
    int64_t starts[2];
    cpu_nest_row(&outer, task, starts);
    call->run->kernels->transpose((const float *)(const void *)call->from + starts[1],
                                  nest->stride[1][inner], nest->size[inner], nest->size[across],
                                  (float *)(void *)call->to + starts[0], nest->stride[0][across]);
}

void cpu_copy_run(const struct cpu_run *run, const struct cpu_copy *copy, void *to)
{
    const struct cpu_nest *nest = &copy->nest;
    struct call call = {
        .run = run, .copy = copy, .to = to, .from = cpu_element(run, &copy->from, 0)};
    const int32_t inner = nest->rank - 1;
    const int64_t length = nest->size[inner];
    call.rows = cpu_nest_rows(nest, run->images);
    const double work = (double)call.rows * (double)length;
    const bool words = copy->to.type != CPU_BF16 && copy->from.type != CPU_BF16;
    for (int32_t i = 1; i < inner && words; i++)
        if (nest->stride[1][i] == 1 && nest->stride[0][inner] == 1 && nest->stride[1][inner] != 1)
            call.across = i;
    if (call.across) {
        const struct cpu_nest outer = without(nest, call.across);
        cpu_parallel(run, cpu_nest_rows(&outer, run->images), transpose_task, &call, work);
        return;
    }
    call.row_chunk = length > 4096 ? 1 : 4096 / (length > 0 ? length : 1);
    cpu_parallel(run, cpu_ceil(call.rows, call.row_chunk), copy_task, &call, work / 4);
}

static demist_status run_copy(struct cpu_run *run, const void *op)
{
    const struct cpu_copy *copy = op;
    cpu_copy_run(run, copy, cpu_element(run, &copy->to, 0));
    return DEMIST_OK;
}

demist_status cpu_add_copy(demist_program *p, int32_t node, const demist_view *to,
                           const demist_view *from)
{
    struct cpu_copy *copy = cpu_new(p, sizeof *copy);
    if (!copy)
        return DEMIST_NO_MEMORY;
    cpu_copy_init(copy, to, from);
    cpu_touch(p, to);
    cpu_touch(p, from);
    return cpu_add_step(p, node, run_copy, copy) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* --- PAD --- */

struct fill {
    demist_view to;
    int64_t elements;
};

static demist_status run_fill(struct cpu_run *run, const void *op)
{
    const struct fill *fill = op;
    const int64_t n = fill->elements * (fill->to.batched ? run->images : 1);
    memset(cpu_at(run, &fill->to), 0, (size_t)n * sizeof(float));
    return DEMIST_OK;
}

demist_status cpu_add_pad(demist_program *p, const demist_node *node)
{
    demist_view from, inner;
    CPU_TRY(cpu_value_of(p, node->inputs[0], &from));
    struct fill *fill = cpu_new(p, sizeof *fill);
    if (!fill)
        return DEMIST_NO_MEMORY;
    CPU_TRY(cpu_result_like(p, node, false, &from, &fill->to));
    p->values[node->id].view = fill->to;
    fill->elements = p->storages[fill->to.storage].elements;
    cpu_touch(p, &fill->to);
    if (!cpu_add_step(p, node->id, run_fill, fill))
        return DEMIST_NO_MEMORY;
    inner = fill->to;
    for (int32_t i = 0; i < node->rank; i++) {
        inner.shape[i] = from.shape[i];
        inner.offset += node->attrs.pad.before[i] * inner.stride[i];
    }
    return cpu_add_copy(p, node->id, &inner, &from);
}

/* --- EMBEDDING: table [K,D], ids [..] i32 -> [..,D] --- */

struct embedding {
    const char *name;
    demist_view table, ids, to;
    struct cpu_nest nest; /* over ids, and the result's rows */
};

static demist_status run_embedding(struct cpu_run *run, const void *op)
{
    const struct embedding *e = op;
    const int64_t rows = cpu_nest_rows(&e->nest, run->images), width = e->table.shape[1];
    const int32_t inner = e->nest.rank - 1;
    for (int64_t row = 0; row < rows; row++) {
        int64_t starts[2];
        cpu_nest_row(&e->nest, row, starts);
        for (int64_t i = 0; i < e->nest.size[inner]; i++) {
            int32_t id;
            memcpy(&id, cpu_at(run, &e->ids) + starts[0] + i * e->nest.stride[0][inner], sizeof id);
            if (id < 0 || id >= e->table.shape[0])
                return run->host->fail(run->host, DEMIST_INVALID,
                                       "node '%s' (embedding): id %" PRId32 " at position %" PRId64
                                       " is outside its table of %" PRId64
                                       " rows: give ids from 0 to %" PRId64,
                                       e->name, id, row * e->nest.size[inner] + i,
                                       e->table.shape[0], e->table.shape[0] - 1);
            const float *from = cpu_at(run, &e->table) + id * e->table.stride[0];
            float *to = cpu_at(run, &e->to) + starts[1] + i * e->nest.stride[1][inner];
            memcpy(to, from, (size_t)width * sizeof *to);
        }
    }
    return DEMIST_OK;
}

demist_status cpu_add_embedding(demist_program *p, const demist_node *node)
{
    struct embedding *e = cpu_new(p, sizeof *e);
    if (!e)
        return DEMIST_NO_MEMORY;
    e->name = p->values[node->id].name;
    CPU_TRY(cpu_value_of(p, node->inputs[0], &e->table));
    CPU_TRY(cpu_need_rows(p, node->id, &e->table));
    CPU_TRY(cpu_value_of(p, node->inputs[1], &e->ids));
    CPU_TRY(cpu_result_dense(p, node, false, &e->to));
    p->values[node->id].view = e->to;
    demist_view views[2] = {e->ids, e->to};
    views[1].rank = views[0].rank;
    cpu_nest_init(&e->nest, 2, views);
    cpu_touch(p, &e->table);
    cpu_touch(p, &e->ids);
    cpu_touch(p, &e->to);
    return cpu_add_step(p, node->id, run_embedding, e) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

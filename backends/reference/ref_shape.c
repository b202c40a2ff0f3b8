/* Shapes, strides and the division of work: what the ops of the reference backend share. */
#include "ref_ops.h"

#include <string.h>

int64_t ref_span(const struct ref_tensor *t, int32_t first, int32_t last)
{
    int64_t n = 1;
    for (int32_t i = first; i < last; i++)
        n *= t->shape[i];
    return n;
}

int64_t ref_elements(const struct ref_tensor *t)
{
    return ref_span(t, 0, t->rank);
}

void ref_steps(const struct ref_tensor *t, int64_t *step)
{
    int64_t n = 1;
    for (int32_t i = t->rank - 1; i >= 0; i--) {
        step[i] = n;
        n *= t->shape[i];
    }
}

void ref_broadcast_steps(const struct ref_tensor *t, const struct ref_tensor *out, int64_t *step)
{
    int64_t own[DEMIST_MAX_RANK] = {0};
    ref_steps(t, own);
    const int32_t missing = out->rank - t->rank;
    for (int32_t i = 0; i < out->rank; i++)
        step[i] = i < missing || t->shape[i - missing] == 1 ? 0 : own[i - missing];
}

int64_t ref_offset(int32_t rank, const int64_t *shape, const int64_t *step, int64_t position)
{
    int64_t offset = 0;
    for (int32_t i = rank - 1; i >= 0; i--) {
        offset += position % shape[i] * step[i];
        position /= shape[i];
    }
    return offset;
}

struct ranges {
    const struct ref_call *call;
    const void *state;
    int64_t n, grain;
    ref_range_fn fn;
};

static void range_task(void *arg, int64_t i, int worker)
{
    (void)worker;
    const struct ranges *r = (const struct ranges *)arg;
    const int64_t first = i * r->grain;
    const int64_t last = first + r->grain < r->n ? first + r->grain : r->n;
    r->fn(r->call, r->state, first, last);
}

void ref_ranges(const struct ref_call *call, const void *state, int64_t n, int64_t grain,
                ref_range_fn fn)
{
    struct ranges r = {call, state, n, grain > 0 ? grain : 1, fn};
    call->host->parallel(call->host, (n + r.grain - 1) / r.grain, range_task, &r);
}

struct move {
    int32_t rank; /* of the axes outside a row */
    const int64_t *shape, *dst_step, *src_step;
    int64_t row, dst_row_step, src_row_step;
    char *dst;
    const char *src;
    size_t bytes;
};

static void move_rows(const struct ref_call *call, const void *state, int64_t first, int64_t last)
{
    (void)call;
    const struct move *m = (const struct move *)state;
    for (int64_t i = first; i < last; i++) {
        char *dst = m->dst + ref_offset(m->rank, m->shape, m->dst_step, i) * (int64_t)m->bytes;
        const char *src =
            m->src + ref_offset(m->rank, m->shape, m->src_step, i) * (int64_t)m->bytes;
        if (m->dst_row_step == 1 && m->src_row_step == 1) {
            memcpy(dst, src, (size_t)m->row * m->bytes);
            continue;
        }
        const int64_t dst_bytes = m->dst_row_step * (int64_t)m->bytes;
        const int64_t src_bytes = m->src_row_step * (int64_t)m->bytes;
        for (int64_t k = 0; k < m->row; k++)
            memcpy(dst + k * dst_bytes, src + k * src_bytes, m->bytes);
    }
}

void ref_move(const struct ref_call *call, int32_t rank, const int64_t *shape, void *dst,
              const int64_t *dst_step, const void *src, const int64_t *src_step, size_t bytes)
{
    const int32_t outer = rank > 0 ? rank - 1 : 0;
    struct move m = {outer, shape, dst_step,    src_step,          1,
                     1,     1,     (char *)dst, (const char *)src, bytes};
    if (rank > 0) {
        m.row = shape[outer];
        m.dst_row_step = dst_step[outer];
        m.src_row_step = src_step[outer];
    }
    int64_t rows = 1;
    for (int32_t i = 0; i < outer; i++)
        rows *= shape[i];
    ref_ranges(call, &m, rows, 1 + 4096 / (m.row + 1), move_rows);
}

/* The generator's numbers, which the host computes, and scalars of an execution. */
#include "cpu_program.h"

#include <demist/checks.h>

struct philox {
    demist_op op;
    const char *name;
    demist_attrs attrs;
    demist_view to;
    int64_t elements;
};

struct call {
    const struct cpu_run *run;
    const struct philox *op;
    uint64_t seed, image;
    uint32_t draw;
};

enum { CHUNK = 4096 };

static void philox_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const struct call *call = arg;
    const struct philox *f = call->op;
    const demist_philox *generator = call->run->program->device->philox;
    const int64_t chunks = cpu_ceil(f->elements, CHUNK);
    const int64_t image = task / chunks, first = task % chunks * CHUNK;
    const size_t n = (size_t)cpu_least(CHUNK, f->elements - first);
    float *out = cpu_at(call->run, &f->to) + image * f->elements + first;
    const uint32_t key = f->attrs.philox.per_image
                             ? (uint32_t)(call->image + (uint64_t)(call->run->first + image))
                             : DEMIST_IMAGE_SHARED;
    if (f->op == DEMIST_OP_PHILOX_NORMAL) {
        generator->normal(call->seed, key, f->attrs.philox.purpose, call->draw, (uint64_t)first, n,
                          out);
        return;
    }
    const double lo = f->attrs.philox.lo, range = (double)f->attrs.philox.hi - lo;
    generator->uniform(call->seed, key, f->attrs.philox.purpose, call->draw, (uint64_t)first, n,
                       out);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(lo + range * out[i]);
}

static demist_status run_philox(struct cpu_run *run, const void *op)
{
    const struct philox *f = op;
    const demist_attrs *a = &f->attrs;
    CPU_TRY(
        demist_check_draws(run->host, f->name, f->op, a, run->scalars, run->first + run->images));
    struct call call = {.run = run,
                        .op = f,
                        .seed = run->scalars[a->philox.seed_slot].u,
                        .draw = (uint32_t)run->scalars[a->philox.draw_slot].u};
    const int64_t images = f->to.batched ? run->images : 1;
    if (a->philox.per_image)
        call.image = run->scalars[a->philox.image_slot].u;
    cpu_parallel(run, images * cpu_ceil(f->elements, CHUNK), philox_task, &call,
                 (double)images * (double)f->elements * 16);
    return DEMIST_OK;
}

demist_status cpu_add_philox(demist_program *p, const demist_node *node)
{
    const demist_host *host = p->device->host;
    if (!p->device->philox)
        return host->fail(host, DEMIST_INCOMPATIBLE,
                          "node '%s' (%s): the host offers no %s: use a newer host", node->name,
                          demist_op_name(node->op), DEMIST_EXT_PHILOX);
    struct philox *f = cpu_new(p, sizeof *f);
    if (!f)
        return DEMIST_NO_MEMORY;
    f->op = node->op;
    f->name = p->values[node->id].name;
    f->attrs = node->attrs;
    f->elements = demist_elements(node);
    CPU_TRY(cpu_result_dense(p, node, false, &f->to));
    p->values[node->id].view = f->to;
    cpu_touch(p, &f->to);
    return cpu_add_step(p, node->id, run_philox, f) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

/* --- SCALAR --- */

struct scalar {
    int32_t slot;
    demist_view to;
};

static demist_status run_scalar(struct cpu_run *run, const void *op)
{
    const struct scalar *s = op;
    *cpu_at(run, &s->to) = (float)run->scalars[s->slot].f;
    return DEMIST_OK;
}

demist_status cpu_add_scalar(demist_program *p, const demist_node *node)
{
    struct scalar *s = cpu_new(p, sizeof *s);
    if (!s)
        return DEMIST_NO_MEMORY;
    s->slot = node->attrs.scalar.slot;
    CPU_TRY(cpu_result_dense(p, node, false, &s->to));
    p->values[node->id].view = s->to;
    cpu_touch(p, &s->to);
    return cpu_add_step(p, node->id, run_scalar, s) ? DEMIST_OK : DEMIST_NO_MEMORY;
}

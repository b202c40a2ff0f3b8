#include "bench.h"

#include "conditions.h"
#include "graphdump.h"
#include "namedside.h"
#include "philox.h"
#include "pool.h"
#include "probe.h"
#include "sample.h"
#include "stopwatch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WARM_UP = 3,   /* steps of the first chain, which is not measured */
    GPU_BLOCK = 8, /* steps between two waits for a device that runs ahead */
    FEWEST_BLOCKS = 5,
    MOST_CHAINS = 50,
    MOST_BLOCKS = 2000,
    PROFILED = 3 /* evaluations */
};
#define SECONDS 3.0 /* of measuring, when there are enough blocks */

void dm_bench_finish(struct dm_bench *b)
{
    dm_arena_finish(&b->arena);
    *b = (struct dm_bench){0};
}

/* ---------------------------------------------------------------- one side */

struct measuring {
    struct dm_setup *setup; /* with the side's device while it samples */
    const struct dm_bench_options *options;
    struct dm_bench *bench;
    struct dm_bench_side *side;
    bool warm;                  /* the first chain is done */
    bool enough;                /* measured */
    bool stopped;               /* by the user */
    double mark;                /* when the block began; of the first chain: when the chain did */
    double total;               /* seconds measured */
    double *blocks;             /* [MOST_BLOCKS], seconds per step */
    int64_t evaluations, steps; /* of the first chain */
};

static bool may_go_on(struct measuring *m, const char *what)
{
    char text[128];
    snprintf(text, sizeof text, "%s: %s", m->side->label, what);
    m->stopped = m->options->progress && !m->options->progress(m->options->user, text);
    return !m->stopped;
}

/* Waits for what was queued: a device may run ahead of its host. */
static void wait(struct measuring *m)
{
    struct dm_device *d = &m->setup->device;
    d->vtable->synchronize(d->queue); /* a failure stays with the queue, and the run finds it */
}

static void count_evaluation(void *user, const struct dm_evaluation *at)
{
    struct measuring *m = user;
    (void)at;
    m->evaluations++;
}

static bool on_warm_up(struct measuring *m, int32_t step)
{
    wait(m);
    if (step == 1)
        m->side->first_step_ms = 1e3 * (dm_seconds() - m->mark);
    m->steps = step;
    return step < WARM_UP;
}

/* The end of a block; the first one of a chain holds its compilation. */
static bool on_block(struct measuring *m, int32_t step)
{
    struct dm_bench_side *s = m->side;
    wait(m);
    double now = dm_seconds();
    if (step > s->block) {
        m->blocks[s->blocks++] = (now - m->mark) / s->block;
        m->total += now - m->mark;
    }
    m->enough = (s->blocks >= FEWEST_BLOCKS && m->total >= SECONDS) || s->blocks == MOST_BLOCKS;
    m->mark = dm_seconds();
    return !m->enough;
}

static bool on_step(void *user, const struct dm_sample_progress *p)
{
    struct measuring *m = user;
    if (!may_go_on(m, m->warm ? "measuring" : "warming up"))
        return false;
    if (p->step == 0)
        return true;
    if (!m->warm)
        return on_warm_up(m, p->step);
    return p->step % m->side->block != 0 || on_block(m, p->step);
}

/* One chain, which may stop early. */
static demist_status run_chain(struct measuring *m, struct dm_error *err)
{
    struct dm_sample_hooks hooks = {
        .progress = on_step, .evaluated = m->warm ? NULL : count_evaluation, .user = m};
    m->mark = dm_seconds();
    demist_status status = dm_sample(m->setup, &hooks, err);
    if (status == DEMIST_CANCELLED && !m->stopped) {
        dm_error_clear(err);
        status = DEMIST_OK;
    }
    return status;
}

static demist_status measure_steps(struct measuring *m, struct dm_error *err)
{
    struct dm_bench_side *s = m->side;
    bool ahead = m->setup->device.type != DEMIST_DEVICE_CPU;
    int32_t half = m->bench->n_steps / 2; /* a chain has at least two blocks */
    s->block = !ahead || half < 1 ? 1 : half < GPU_BLOCK ? half : GPU_BLOCK;
    dm_peak_memory_reset();
    DM_TRY(run_chain(m, err));
    m->warm = true;
    for (int i = 0; !m->enough && i < MOST_CHAINS && m->bench->n_steps > 1; i++)
        DM_TRY(run_chain(m, err));
    s->peak_memory_bytes = dm_peak_memory();
    s->evaluations = (double)m->evaluations / (double)m->steps;
    if (s->blocks == 0) { /* a chain of one step */
        m->blocks[s->blocks++] = s->first_step_ms / 1e3;
    }
    s->ms_per_step = 1e3 * dm_median(m->blocks, (size_t)s->blocks);
    s->fastest_ms = 1e3 * m->blocks[0];
    s->slowest_ms = 1e3 * m->blocks[s->blocks - 1];
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- the device's peak */

/* A square product of the device's own precision: x [N,n]·w [n,n]. */
static demist_status make_product(int64_t n, struct dm_graph **graph, struct dm_error *err)
{
    float *w = malloc((size_t)(n * n) * sizeof *w);
    if (!w)
        return dm_fail_memory(err, "a product");
    dm_philox_normal(0, 0, DEMIST_NOISE_INITIAL, 0, 0, (size_t)(n * n), w);
    demist_status status = dm_graph_create("peak", NULL, graph, err);
    if (status == DEMIST_OK) {
        demist_builder *b = dm_graph_builder(*graph);
        const demist_node *x =
            b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2, (int64_t[]){DEMIST_BATCH, n});
        const demist_node *in[] = {x, b->constant(b, DEMIST_F32, 2, (int64_t[]){n, n}, w)};
        b->output(b, "out", b->op(b, DEMIST_OP_LINEAR, 2, in, NULL, 0, NULL));
        status = dm_graph_finish(*graph, err);
    }
    free(w);
    return status;
}

/* The shortest of a few executions, in seconds. */
static demist_status time_product(struct dm_device *d, demist_binding *binding, int64_t n,
                                  double *seconds, struct dm_error *err)
{
    *seconds = INFINITY;
    double begun = dm_seconds();
    for (int i = 0; i < 20 && (i < 3 || dm_seconds() - begun < 0.3); i++) {
        double start = dm_seconds();
        DM_TRY(dm_device_check(d, "execute", d->vtable->execute(d->queue, binding, NULL, n), err));
        DM_TRY(dm_device_check(d, "synchronize", d->vtable->synchronize(d->queue), err));
        *seconds = fmin(*seconds, dm_seconds() - start);
    }
    return DEMIST_OK;
}

static demist_status run_product(struct dm_device *d, struct dm_graph *graph, int64_t n,
                                 double *seconds, struct dm_error *err)
{
    demist_program *program = NULL;
    demist_binding *binding = NULL;
    demist_buffer *buffers[2] = {NULL, NULL};
    size_t bytes = (size_t)(n * n) * sizeof(float);
    float *x = calloc(1, bytes);
    demist_status status = x ? dm_device_compile(d, graph, n, 0, &program, NULL, err)
                             : dm_fail_memory(err, "a product");
    for (int i = 0; status == DEMIST_OK && i < 2; i++)
        status = dm_device_buffer(d, bytes, "a product", &buffers[i], err);
    if (status == DEMIST_OK)
        status = dm_device_check(d, "buffer_write",
                                 d->vtable->buffer_write(d->queue, buffers[0], 0, x, bytes), err);
    if (status == DEMIST_OK)
        status = dm_device_check(d, "bind", d->vtable->bind(program, buffers, 2, &binding), err);
    if (status == DEMIST_OK)
        status = time_product(d, binding, n, seconds, err);
    d->vtable->binding_destroy(binding);
    d->vtable->buffer_destroy(buffers[0]);
    d->vtable->buffer_destroy(buffers[1]);
    d->vtable->program_destroy(program);
    free(x);
    return status;
}

/* Larger and larger products, until one takes long enough to be measured. */
static demist_status measure_peak(struct measuring *m, struct dm_device *device,
                                  struct dm_error *err)
{
    double seconds = 0;
    for (int64_t n = 256; n <= 8192 && seconds < 0.03; n *= 2) {
        struct dm_graph *graph = NULL;
        if (!may_go_on(m, "measuring the device's peak"))
            return dm_fail(err, DEMIST_CANCELLED, "interrupted");
        demist_status status = make_product(n, &graph, err);
        if (status == DEMIST_OK)
            status = run_product(device, graph, n, &seconds, err);
        dm_graph_destroy(graph);
        DM_TRY(status);
        m->side->peak_gflops =
            fmax(m->side->peak_gflops, 2e-9 * (double)n * (double)n * (double)n / seconds);
    }
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- the profile */

/* "conv2d+silu" for a FUSED node. */
static const char *kind_of(struct dm_arena *arena, const demist_node *node)
{
    struct dm_text text = DM_TEXT_INIT;
    for (int32_t i = 0; i < node->n_body; i++)
        dm_text_appendf(&text, "%s%s", i ? "+" : "", demist_op_name(node->body[i]->op));
    if (node->n_body == 0)
        dm_text_append(&text, demist_op_name(node->op));
    const char *kind = text.data ? dm_arena_strdup(arena, text.data) : NULL;
    dm_text_finish(&text);
    return kind;
}

static int by_time(const void *a, const void *b)
{
    const struct dm_bench_op *x = a, *y = b;
    return x->ms != y->ms ? (x->ms < y->ms ? 1 : -1) : strcmp(x->name, y->name);
}

static demist_status add_node(struct measuring *m, const demist_node *node, double ms,
                              struct dm_error *err)
{
    struct dm_bench_side *s = m->side;
    const char *kind = kind_of(&m->bench->arena, node);
    size_t i = 0;
    if (!kind)
        return dm_fail_memory(err, "a profile");
    while (i < s->n_ops && strcmp(s->ops[i].name, kind) != 0)
        i++;
    if (i == s->n_ops)
        s->ops[s->n_ops++] = (struct dm_bench_op){.name = kind};
    s->ops[i].nodes++;
    s->ops[i].ms += ms;
    s->ops[i].flops += dm_op_flops(node) * (double)m->bench->batch;
    s->profile_ms += ms;
    return DEMIST_OK;
}

/* What computes; a node of no time is one that the backend made part of another. */
static bool is_op(const demist_node *node)
{
    return node->op != DEMIST_OP_INPUT && node->op != DEMIST_OP_PARAM &&
           node->op != DEMIST_OP_CONSTANT && node->op != DEMIST_OP_SCALAR;
}

static demist_status gather_profile(struct measuring *m, struct dm_probe *probe,
                                    struct dm_error *err)
{
    struct dm_device *d = probe->model.device;
    const demist_graph *graph = dm_graph_view(probe->model.lowered.graph);
    const demist_node_profile *const *profiles = NULL;
    int32_t n = 0;
    DM_TRY(dm_device_check(d, "profile", d->vtable->profile(probe->model.program, &profiles, &n),
                           err));
    m->side->ops = dm_arena_array(&m->bench->arena, (size_t)n + 1, sizeof *m->side->ops);
    if (!m->side->ops)
        return dm_fail_memory(err, "a profile");
    for (int32_t i = 0; i < n; i++)
        if (profiles[i]->calls > 0 && profiles[i]->node >= 0 &&
            profiles[i]->node < graph->n_nodes && is_op(graph->nodes[profiles[i]->node]))
            DM_TRY(add_node(m, graph->nodes[profiles[i]->node],
                            1e3 * profiles[i]->seconds / (double)profiles[i]->calls, err));
    qsort(m->side->ops, m->side->n_ops, sizeof *m->side->ops, by_time);
    return DEMIST_OK;
}

/* Evaluates at x_T and the first time, which cost what any others do. */
static demist_status evaluate(struct measuring *m, struct dm_probe *probe, float *x, float *time,
                              float *out, struct dm_error *err)
{
    const struct dm_setup *s = m->setup;
    int64_t n = m->bench->batch;
    float at =
        dm_process_network_time(s->process, s->network.info.time, dm_process_time(s->process)[0]);
    dm_philox_normal(s->config.sample.seed, 0, DEMIST_NOISE_INITIAL, 0, 0,
                     (size_t)(n * s->network.n_elements), x);
    for (int64_t i = 0; i < n; i++)
        time[i] = at;
    struct dm_evaluation where = {.n = n, .x = x, .time = time};
    for (int i = 0; i < PROFILED; i++) {
        if (!may_go_on(m, "profiling"))
            return dm_fail(err, DEMIST_CANCELLED, "interrupted");
        DM_TRY(dm_probe_evaluate(probe, &where, n, s->config.sample.seed, 0, out, err));
    }
    return DEMIST_OK;
}

static demist_status note_program(struct measuring *m, struct dm_probe *probe, struct dm_error *err)
{
    struct dm_device *d = probe->model.device;
    demist_program_info info = DEMIST_INIT(demist_program_info);
    DM_TRY(dm_device_check(d, "program_info", d->vtable->program_info(probe->model.program, &info),
                           err));
    m->side->param_bytes = info.param_bytes;
    m->side->arena_bytes = info.arena_bytes;
    m->side->choices = info.choices ? dm_arena_strdup(&m->bench->arena, info.choices) : NULL;
    if (d->type != DEMIST_DEVICE_CPU)
        m->side->peak_memory_bytes = info.param_bytes + info.arena_bytes;
    return DEMIST_OK;
}

/* The network's program: its memory, and where its time goes if that is asked for. */
static demist_status look_at_program(struct measuring *m, struct dm_device *device,
                                     struct dm_error *err)
{
    const struct dm_setup *s = m->setup;
    const struct dm_run_config *c = &s->config;
    int64_t n = m->bench->batch;
    struct dm_batch_conditions conditions = {0};
    struct dm_probe probe = {0};
    size_t images = (size_t)n * sizeof(float);
    float *x = malloc(images * (size_t)s->network.n_elements);
    float *time = malloc(images);
    float *out = malloc(images * 2 * (size_t)s->network.n_elements);
    demist_status status = x && time && out ? DEMIST_OK : dm_fail_memory(err, "a batch");
    if (status == DEMIST_OK)
        status =
            dm_batch_conditions_make(&conditions, c, s->ini, &s->network, c->sample.first, n, err);
    if (status == DEMIST_OK)
        status = dm_probe_open(&probe, &s->network, device, n, &conditions.given,
                               c->sample.guidance_scale != 1,
                               m->options->profile ? DEMIST_COMPILE_PROFILE : 0, err);
    if (status == DEMIST_OK)
        status = note_program(m, &probe, err);
    if (status == DEMIST_OK && m->options->profile)
        status = evaluate(m, &probe, x, time, out, err);
    if (status == DEMIST_OK && m->options->profile)
        status = gather_profile(m, &probe, err);
    dm_probe_close(&probe);
    dm_batch_conditions_finish(&conditions);
    free(x);
    free(time);
    free(out);
    return status;
}

/* ---------------------------------------------------------------- the sides */

static demist_status measure(struct measuring *m, struct dm_device *device, struct dm_error *err)
{
    m->blocks = malloc(MOST_BLOCKS * sizeof *m->blocks);
    if (!m->blocks)
        return dm_fail_memory(err, "times");
    m->setup->device = *device;
    demist_status status = measure_steps(m, err);
    *device = m->setup->device;
    m->setup->device = (struct dm_device){0};
    if (status == DEMIST_OK)
        status = look_at_program(m, device, err);
    if (status == DEMIST_OK)
        status = measure_peak(m, device, err);
    free(m->blocks);
    return status;
}

static demist_status describe_side(struct measuring *m, const char *label,
                                   const struct dm_device *d, struct dm_error *err)
{
    struct dm_bench_side *s = m->side;
    struct dm_arena *arena = &m->bench->arena;
    s->label = dm_arena_strdup(arena, label);
    s->precision = dm_precision_names[d->precision];
    s->device = dm_arena_strdup(arena, d->name);
    s->driver = dm_arena_strdup(arena, d->driver);
    s->detail = dm_arena_strdup(arena, d->detail);
    return s->label && s->device && s->driver && s->detail ? DEMIST_OK
                                                           : dm_fail_memory(err, "a backend");
}

static void derive_rates(struct dm_bench *b, struct dm_bench_side *s)
{
    double seconds = s->ms_per_step / 1e3;
    s->images_per_s = (double)b->batch / (seconds * b->n_steps);
    s->gflops = 1e-9 * b->flops * s->evaluations * (double)b->batch / seconds;
}

static demist_status bench_side(struct dm_setup *setup, const struct dm_bench_options *options,
                                struct dm_bench *b, const char *label, struct dm_error *err)
{
    struct measuring m = {
        .setup = setup, .options = options, .bench = b, .side = &b->sides[b->n_sides]};
    struct dm_device device;
    DM_TRY(dm_open_side(setup, label, setup->config.backend.precision, &device, err));
    demist_status status = describe_side(&m, label, &device, err);
    if (status == DEMIST_OK)
        status = measure(&m, &device, err);
    dm_device_close(&device);
    if (status != DEMIST_OK)
        return status;
    derive_rates(b, m.side);
    b->n_sides++;
    return DEMIST_OK;
}

static demist_status bench_all(struct dm_setup *setup, const struct dm_bench_options *o,
                               struct dm_bench *b, struct dm_error *err)
{
    struct dm_run_config *c = &setup->config;
    if (c->sample.batch > 0) /* a whole batch, also where the run has fewer images */
        c->sample.images = c->sample.batch;
    b->batch = dm_setup_batch(setup);
    c->sample.images = c->sample.batch = b->batch;
    b->n_steps = dm_process_n_steps(setup->process);
    b->threads = dm_pool_workers(setup->env->services.pool);
    b->flops = dm_graph_flops(dm_graph_view(setup->network.graph));
    b->config = dm_arena_strdup(&b->arena, setup->ini->file);
    b->network = dm_arena_strdup(&b->arena, c->network.use);
    b->sampler = dm_arena_strdup(&b->arena, c->sampler.use);
    b->sides = dm_arena_array(&b->arena, o->n_backends, sizeof *b->sides);
    if (!b->config || !b->network || !b->sampler || !b->sides)
        return dm_fail_memory(err, "a benchmark");
    for (size_t i = 0; i < o->n_backends; i++)
        DM_TRY(bench_side(setup, o, b, o->backends[i], err));
    return DEMIST_OK;
}

demist_status dm_bench_run(const struct dm_environment *env, const struct dm_ini *ini,
                           const struct dm_bench_options *options, struct dm_bench *bench,
                           struct dm_error *err)
{
    struct dm_setup setup;
    *bench = (struct dm_bench){0};
    if (options->n_backends == 0)
        return dm_fail(err, DEMIST_CONFIG, "--backends: name at least one");
    DM_TRY(dm_setup_open(&setup, env, ini, DM_NEED_SAMPLER, err));
    demist_status status = bench_all(&setup, options, bench, err);
    dm_setup_close(&setup);
    if (status != DEMIST_OK)
        dm_bench_finish(bench);
    return status;
}

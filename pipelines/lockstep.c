#include "lockstep.h"

#include "nodebound.h"
#include "probe.h"
#include "sample.h"
#include "stopwatch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

demist_status dm_compare_tell(const struct dm_compare_options *options, const char *label,
                              const char *what, int64_t done, int64_t total, struct dm_error *err)
{
    char text[128];
    snprintf(text, sizeof text, "%s: %s", label, what);
    if (!options->progress || options->progress(options->user, text, done, total))
        return DEMIST_OK;
    return dm_fail(err, DEMIST_CANCELLED, "interrupted");
}

/* ---------------------------------------------------------------- opening */

demist_status dm_lockstep_open(struct dm_lockstep *l, struct dm_setup *setup,
                               const struct dm_compare_options *options, int64_t n,
                               struct dm_error *err)
{
    const struct dm_run_config *c = &setup->config;
    *l = (struct dm_lockstep){.setup = setup,
                              .options = options,
                              .n_steps = dm_process_n_steps(setup->process),
                              .n = n,
                              .elements = setup->network.n_elements,
                              .guided = c->sample.guidance_scale != 1};
    l->raw_elements = demist_elements(dm_graph_view(setup->network.graph)->outputs[0]);
    DM_TRY(dm_batch_conditions_make(&l->conditions, c, setup->ini, &setup->network, c->sample.first,
                                    n, err));
    l->states = calloc((size_t)l->n_steps + 1, (size_t)(n * l->elements) * sizeof *l->states);
    if (l->states)
        return DEMIST_OK;
    dm_lockstep_close(l);
    return dm_fail_memory(err, "the states of a chain: lower [sample] images or steps");
}

static float *state_of(const struct dm_lockstep *l, int32_t step)
{
    return l->states + (size_t)step * (size_t)(l->n * l->elements);
}

static void free_evaluation(const struct dm_lockstep *l, struct dm_recorded *e)
{
    if (e->at.x != state_of(l, e->step)) /* else it is the state itself */
        free((float *)(uintptr_t)e->at.x);
    free((float *)(uintptr_t)e->at.time);
    free((float *)(uintptr_t)e->at.out);
}

void dm_lockstep_close(struct dm_lockstep *l)
{
    for (size_t i = 0; i < l->n_evaluations; i++)
        free_evaluation(l, &l->evaluations[i]);
    free(l->evaluations);
    free(l->states);
    dm_batch_conditions_finish(&l->conditions);
    *l = (struct dm_lockstep){0};
}

/* ---------------------------------------------------------------- one chain */

enum chain_kind { REFERENCE, FREE, FORCED };

/* A chain that runs, and what is noted of it. */
struct chain {
    struct dm_lockstep *l;
    enum chain_kind kind;
    struct dm_compare_side *side;
    int32_t step;         /* steps done */
    double resumed;       /* when the listener let the run go on */
    double *seconds;      /* [n_steps] */
    float *x0;            /* of the free run; NULL: not kept */
    demist_status status; /* of a listener */
    struct dm_error *err;
};

static struct dm_difference differ(const float *got, const float *exact, int64_t n, double range)
{
    struct dm_difference d = {0};
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double delta = fabs((double)got[i] - exact[i]);
        if (!isfinite(delta))
            delta = INFINITY;
        d.max = fmax(d.max, delta);
        sum += delta * delta;
    }
    d.rms = sqrt(sum / (double)n);
    d.psnr = d.rms == 0 ? (double)INFINITY : 20 * log10(range / d.rms);
    return d;
}

static float *copy_floats(const float *from, int64_t n)
{
    float *to = malloc((size_t)n * sizeof *to + 1);
    if (to)
        memcpy(to, from, (size_t)n * sizeof *to);
    return to;
}

/* Keeps an evaluation of the reference side. Most are at a state of the chain, which is there. */
static void keep_evaluation(void *user, const struct dm_evaluation *at)
{
    struct chain *chain = user;
    struct dm_lockstep *l = chain->l;
    if (l->n_evaluations == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 64;
        struct dm_recorded *evaluations = realloc(l->evaluations, capacity * sizeof *evaluations);
        if (!evaluations) {
            chain->status = DEMIST_NO_MEMORY;
            return;
        }
        l->evaluations = evaluations;
        l->capacity = capacity;
    }
    struct dm_recorded *e = &l->evaluations[l->n_evaluations];
    *e = (struct dm_recorded){.at = *at, .step = chain->step};
    const float *state = state_of(l, chain->step);
    bool is_state = memcmp(at->x, state, (size_t)(l->n * l->elements) * sizeof *state) == 0;
    e->at.x = is_state ? state : copy_floats(at->x, l->n * l->elements);
    e->at.time = copy_floats(at->time, l->n);
    e->at.out = copy_floats(at->out, l->n * l->raw_elements);
    if (e->at.x && e->at.time && e->at.out)
        l->n_evaluations++;
    else {
        free_evaluation(l, e);
        chain->status = DEMIST_NO_MEMORY;
    }
}

static void note_step(struct chain *chain, const struct dm_sample_progress *p)
{
    struct dm_lockstep *l = chain->l;
    int64_t n = l->n * l->elements;
    if (chain->kind == REFERENCE) {
        memcpy(state_of(l, p->step), p->x, (size_t)n * sizeof *p->x);
        return;
    }
    if (p->step == 0)
        return;
    struct dm_compare_step *step = &chain->side->steps[p->step - 1];
    step->time = p->time;
    struct dm_difference d = differ(p->x, state_of(l, p->step), n, l->range);
    *(chain->kind == FREE ? &step->free : &step->forced) = d;
}

static bool on_step(void *user, const struct dm_sample_progress *p)
{
    static const char *const kinds[] = {"sampling", "sampling freely", "sampling teacher-forced"};
    struct chain *chain = user;
    if (p->step > 0)
        chain->seconds[p->step - 1] = dm_seconds() - chain->resumed;
    chain->step = p->step;
    note_step(chain, p);
    if (chain->status == DEMIST_OK)
        chain->status = dm_compare_tell(chain->l->options, chain->side->label, kinds[chain->kind],
                                        p->step, p->n_steps, chain->err);
    if (p->step > 0) /* the first step's time includes all that came before it */
        chain->resumed = dm_seconds();
    return chain->status == DEMIST_OK;
}

static const float *taught_state(void *user, int32_t step)
{
    const struct chain *chain = user;
    return state_of(chain->l, step + 1);
}

static demist_status on_finished(void *user, int64_t first, int64_t n, const float *x,
                                 const int64_t *labels, struct dm_error *err)
{
    const struct chain *chain = user;
    (void)first, (void)labels, (void)err;
    if (chain->x0)
        memcpy(chain->x0, x, (size_t)(n * chain->l->elements) * sizeof *x);
    return DEMIST_OK;
}

static void note_times(struct chain *chain)
{
    size_t n = (size_t)chain->l->n_steps;
    chain->side->first_step_ms = 1e3 * chain->seconds[0];
    chain->side->ms_per_step =
        1e3 * (n > 1 ? dm_median(chain->seconds + 1, n - 1) : chain->seconds[0]);
}

static demist_status run_chain(struct chain *chain, struct dm_device *device, struct dm_error *err)
{
    struct dm_setup *setup = chain->l->setup;
    struct dm_sample_hooks hooks = {
        .progress = on_step,
        .finished = on_finished,
        .wants_data = true,
        .evaluated = chain->kind == REFERENCE ? keep_evaluation : NULL,
        .teacher = chain->kind == FORCED ? taught_state : NULL,
        .keep_nonfinite = chain->kind != REFERENCE,
        .user = chain,
    };
    chain->err = err;
    chain->seconds = calloc((size_t)chain->l->n_steps + 1, sizeof *chain->seconds);
    if (!chain->seconds)
        return dm_fail_memory(err, "the times of steps");
    setup->device = *device;
    chain->resumed = dm_seconds();
    demist_status status = dm_sample(setup, &hooks, err);
    *device = setup->device;
    setup->device = (struct dm_device){0};
    if (chain->status == DEMIST_NO_MEMORY)
        status = dm_fail_memory(err, "the reference side's evaluations: lower [sample] images");
    if (status == DEMIST_OK && chain->kind != FORCED)
        note_times(chain);
    free(chain->seconds);
    return status;
}

/* ---------------------------------------------------------------- the sides */

/* The range of the data: that of images, or for points what they span. */
static double range_of(const struct dm_lockstep *l)
{
    const demist_network_info *info = &l->setup->network.info;
    if (info->rank == 3)
        return info->clip_high - info->clip_low;
    const float *x = state_of(l, l->n_steps);
    double lo = x[0], hi = x[0];
    for (int64_t i = 0; i < l->n * l->elements; i++) {
        lo = fmin(lo, x[i]);
        hi = fmax(hi, x[i]);
    }
    return hi > lo ? hi - lo : 1;
}

static demist_status free_run(struct chain *chain, struct dm_device *device, struct dm_arena *arena,
                              struct dm_error *err)
{
    struct dm_lockstep *l = chain->l;
    chain->x0 = dm_arena_array(arena, (size_t)(l->n * l->elements), sizeof *chain->x0);
    if (!chain->x0)
        return dm_fail_memory(err, "finished images");
    dm_peak_memory_reset();
    DM_TRY(run_chain(chain, device, err));
    chain->side->x0 = chain->x0;
    chain->side->peak_memory_bytes = dm_peak_memory();
    return DEMIST_OK;
}

/* What the program of the network takes. */
static demist_status note_program(struct dm_probe *probe, struct dm_compare_side *side,
                                  struct dm_arena *arena, struct dm_error *err)
{
    struct dm_device *d = probe->model.device;
    demist_program_info info = DEMIST_INIT(demist_program_info);
    DM_TRY(dm_device_check(d, "program_info", d->vtable->program_info(probe->model.program, &info),
                           err));
    side->param_bytes = info.param_bytes;
    side->arena_bytes = info.arena_bytes;
    side->choices = info.choices ? dm_arena_strdup(arena, info.choices) : NULL;
    return DEMIST_OK;
}

/* Holds one output against the reference side's. */
static void judge_output(const struct dm_lockstep *l, const struct dm_recorded *e, double tolerance,
                         const float *out, struct dm_compare_side *side)
{
    double largest = 0;
    for (int64_t i = 0; i < l->n * l->raw_elements; i++)
        largest = fmax(largest, fabs((double)e->at.out[i]));
    struct dm_difference d = differ(out, e->at.out, l->n * l->raw_elements, 1);
    struct dm_compare_step *step = &side->steps[e->step];
    double bound = tolerance * largest;
    double ratio = d.max == 0 ? 0 : bound > 0 ? d.max / bound : INFINITY;
    if (isnan(step->output) || d.max * step->output_bound > step->output * bound || isinf(d.max)) {
        step->output = d.max;
        step->output_bound = bound;
    }
    if (ratio > side->output_worst) {
        side->output_worst = ratio;
        side->output_step = e->step;
    }
    side->output_exceeds |= ratio > 1;
}

static demist_status judge_outputs(struct dm_lockstep *l, struct dm_probe *probe,
                                   const demist_precision *other, struct dm_compare_side *side,
                                   struct dm_error *err)
{
    const struct dm_run_config *c = &l->setup->config;
    double tolerance = dm_network_tolerance(side->number_format);
    if (other)
        tolerance += dm_network_tolerance(*other);
    float *out = malloc((size_t)(l->n * l->raw_elements) * sizeof *out + 1);
    demist_status status = out ? DEMIST_OK : dm_fail_memory(err, "the network's output");
    for (size_t i = 0; status == DEMIST_OK && i < l->n_evaluations; i++) {
        status = dm_compare_tell(l->options, side->label, "evaluating at the reference's states",
                                 (int64_t)i, (int64_t)l->n_evaluations, err);
        if (status == DEMIST_OK)
            status = dm_probe_evaluate(probe, &l->evaluations[i].at, l->n, c->sample.seed,
                                       (uint64_t)c->sample.first, out, err);
        if (status == DEMIST_OK)
            judge_output(l, &l->evaluations[i], tolerance, out, side);
    }
    free(out);
    return status;
}

static demist_status open_outputs(struct dm_lockstep *l, struct dm_device *device,
                                  struct dm_probe *probe, struct dm_error *err)
{
    return dm_probe_open(probe, &l->setup->network, device, l->n, &l->conditions.given, l->guided,
                         0, err);
}

demist_status dm_lockstep_reference(struct dm_lockstep *l, struct dm_device *device,
                                    struct dm_compare_side *side, struct dm_arena *arena,
                                    struct dm_error *err)
{
    struct dm_probe probe;
    struct chain chain = {.l = l, .kind = REFERENCE, .side = side};
    DM_TRY(free_run(&chain, device, arena, err));
    l->range = range_of(l);
    DM_TRY(open_outputs(l, device, &probe, err));
    demist_status status = note_program(&probe, side, arena, err);
    dm_probe_close(&probe);
    return status;
}

demist_status dm_lockstep_side(struct dm_lockstep *l, struct dm_device *device,
                               const demist_precision *other, struct dm_compare_side *side,
                               struct dm_arena *arena, struct dm_error *err)
{
    struct dm_probe probe;
    side->steps = dm_arena_array(arena, (size_t)l->n_steps, sizeof *side->steps);
    if (!side->steps)
        return dm_fail_memory(err, "a comparison's steps");
    for (int32_t i = 0; i < l->n_steps; i++)
        side->steps[i].output = side->steps[i].output_bound = NAN;
    struct chain freely = {.l = l, .kind = FREE, .side = side};
    DM_TRY(free_run(&freely, device, arena, err));
    struct chain forced = {.l = l, .kind = FORCED, .side = side};
    DM_TRY(run_chain(&forced, device, err));
    DM_TRY(open_outputs(l, device, &probe, err));
    demist_status status = note_program(&probe, side, arena, err);
    if (status == DEMIST_OK)
        status = judge_outputs(l, &probe, other, side, err);
    dm_probe_close(&probe);
    return status;
}

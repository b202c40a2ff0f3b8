#include "process.h"

#include "diffusion.h"
#include "spacing.h"

#include <math.h>
#include <stdlib.h>

struct dm_process {
    struct dm_diffusion whole; /* every index of the schedule: for times between those kept */
    struct dm_diffusion kept;  /* the grid */
    demist_step *down;         /* [kept.n], towards the data, noise falling */
    demist_step *up;           /* [n_steps], to encode; else NULL */
    bool ends_in_noise;        /* the last step of `up` */
    int32_t n_steps;           /* of the walk, which is one of the two: */
    const demist_step **step;  /* [n_steps] */
    double *time;              /* [n_steps+1] */
    double signal_guard;
    int64_t T;
};

/* Arrays for T steps, filled by the schedule. */
struct raw {
    demist_tables tables;
    double *storage;
};

static demist_status fill(struct dm_instance *schedule, int64_t T, struct raw *raw,
                          struct dm_error *err)
{
    const demist_schedule_vtable *vtable = schedule->cls->vtable;
    raw->storage = calloc((size_t)T * 5 + 1, sizeof *raw->storage);
    if (!raw->storage)
        return dm_fail_memory(err, "the schedule's tables");
    double *at = raw->storage;
    raw->tables = DEMIST_INIT(demist_tables);
    raw->tables.n = T;
    raw->tables.beta = at;
    raw->tables.time = at + T;
    raw->tables.signal = at + 2 * T;
    raw->tables.noise = at + 3 * T;
    raw->tables.alpha_bar = at + 4 * T;
    demist_status status = vtable->fill(schedule->self, &raw->tables);
    return dm_instance_check(schedule, "fill", status, err);
}

/* A kept step turned round: from its time to where the noisier one, `to`, starts. */
static demist_step turn(const demist_step *step, const demist_step *to)
{
    demist_step up = *step;
    up.time_next = to->time;
    up.signal_next = to->signal;
    up.noise_next = to->noise;
    up.lambda_next = to->lambda;
    up.alpha_bar_next = to->alpha_bar;
    up.beta = up.posterior_x0 = up.posterior_x = up.posterior_variance = NAN;
    up.posterior_logvar = up.large_variance = NAN;
    return up;
}

static demist_status turn_steps(struct dm_process *p, struct dm_error *err)
{
    int64_t n = p->kept.n;
    p->ends_in_noise = p->whole.variance_preserving;
    p->n_steps = (int32_t)(p->ends_in_noise ? n : n - 1);
    if (p->kept.wrapped)
        return dm_fail(err, DEMIST_CONFIG,
                       "direction = encode starts from data, and course_end = wrap has another "
                       "end: take clamp");
    if (p->n_steps < 1)
        return dm_fail(err, DEMIST_CONFIG,
                       "direction = encode goes from one kept time to the next, and a single one "
                       "is kept: keep more steps");
    p->up = calloc((size_t)p->n_steps, sizeof *p->up);
    if (!p->up)
        return dm_fail_memory(err, "the grid of times");
    const demist_step noise = {
        .time = (double)(p->whole.first_index + p->whole.n), .noise = 1, .lambda = -INFINITY};
    for (int64_t i = 0; i < p->n_steps; i++) {
        const demist_step *from = dm_process_kept_step(p, i);
        p->up[i] = turn(from, i + 1 < n ? dm_process_kept_step(p, i + 1) : &noise);
    }
    return DEMIST_OK;
}

/* The steps as samplers see them: an array of pointers, since demist_step may grow. */
static demist_status lay_steps(struct dm_process *p, bool encode, struct dm_error *err)
{
    int64_t n = p->kept.n;
    p->down = calloc((size_t)n, sizeof *p->down);
    p->step = calloc((size_t)n, sizeof *p->step);
    p->time = calloc((size_t)n + 1, sizeof *p->time);
    if (!p->down || !p->step || !p->time)
        return dm_fail_memory(err, "the grid of times");
    p->n_steps = (int32_t)n;
    for (int64_t i = 0; i < n; i++)
        p->down[i] = dm_diffusion_step(&p->kept, i);
    if (encode)
        DM_TRY(turn_steps(p, err));
    for (int32_t i = 0; i < p->n_steps; i++) {
        p->step[i] = encode ? &p->up[i] : &p->down[i];
        p->time[i] = p->step[i]->time;
    }
    p->time[p->n_steps] = p->step[p->n_steps - 1]->time_next;
    return DEMIST_OK;
}

demist_status dm_process_create(struct dm_instance *schedule, int64_t T,
                                const struct dm_process_spacing *spacing,
                                struct dm_process **process, struct dm_error *err)
{
    const demist_schedule_vtable *vtable = schedule->cls->vtable;
    struct dm_process *p = calloc(1, sizeof *p);
    struct raw raw = {0};
    struct dm_spacing grid = {0};
    if (!p)
        return dm_fail_memory(err, "the process");
    p->T = T;
    demist_status status = fill(schedule, T, &raw, err);
    if (status == DEMIST_CONFIG && spacing->schedule_where)
        dm_fail_where(err, "%s", spacing->schedule_where);
    if (status != DEMIST_OK)
        goto end;
    p->signal_guard = raw.tables.signal_guard;
    status = dm_diffusion_create(&raw.tables, &p->whole, err);
    if (status != DEMIST_OK) {
        dm_fail_where(err, "schedule %s", schedule->cls->name);
        goto end;
    }
    p->whole.eval = vtable->eval;
    p->whole.eval_self = schedule->self;
    struct dm_spacing_options options = {.first_index = p->whole.first_index,
                                         .leading_offset = spacing->leading_offset,
                                         .course_wrap = spacing->course_wrap};
    status = dm_spacing_parse(spacing->steps, T, &options, &grid, err);
    if (status != DEMIST_OK) {
        if (spacing->where)
            dm_fail_where(err, "%s: [sample]", spacing->where);
        goto end;
    }
    status = dm_diffusion_respace(&p->whole, grid.index, grid.n, grid.end, &p->kept, err);
    if (status == DEMIST_OK)
        status = lay_steps(p, spacing->encode, err);
    if (status == DEMIST_CONFIG && spacing->where)
        dm_fail_where(err, "%s: [sample]", spacing->where);
end:
    dm_spacing_finish(&grid);
    free(raw.storage);
    if (status != DEMIST_OK) {
        dm_process_destroy(p);
        return status;
    }
    *process = p;
    return DEMIST_OK;
}

void dm_process_destroy(struct dm_process *p)
{
    if (!p)
        return;
    dm_diffusion_finish(&p->whole);
    dm_diffusion_finish(&p->kept);
    free(p->down);
    free(p->up);
    free(p->step);
    free(p->time);
    free(p);
}

bool dm_process_is_vp(const struct dm_process *p)
{
    return p->whole.variance_preserving;
}

int64_t dm_process_T(const struct dm_process *p)
{
    return p->T;
}

double dm_process_signal_guard(const struct dm_process *p)
{
    return p->signal_guard;
}

int32_t dm_process_n_steps(const struct dm_process *p)
{
    return p->n_steps;
}

const double *dm_process_time(const struct dm_process *p)
{
    return p->time;
}

const demist_step *const *dm_process_step(const struct dm_process *p)
{
    return p->step;
}

bool dm_process_encodes(const struct dm_process *p)
{
    return p->up != NULL;
}

bool dm_process_ends_in_noise(const struct dm_process *p)
{
    return p->ends_in_noise;
}

const struct dm_diffusion *dm_process_kept(const struct dm_process *p)
{
    return &p->kept;
}

const struct dm_diffusion *dm_process_whole(const struct dm_process *p)
{
    return &p->whole;
}

const demist_step *dm_process_kept_step(const struct dm_process *p, int64_t k)
{
    return &p->down[p->kept.n - 1 - k];
}

const demist_step *dm_process_step_at(const struct dm_process *p, double t)
{
    int64_t low = 0, high = p->kept.n; /* times fall */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (p->down[middle].time > t)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->kept.n && p->down[low].time == t ? &p->down[low] : NULL;
}

demist_status dm_process_coeffs(const struct dm_process *p, double t, demist_coeffs *out,
                                struct dm_error *err)
{
    return dm_diffusion_coeffs(&p->whole, t, out, err);
}

demist_status dm_process_time_of(const struct dm_process *p, double lambda, double *t,
                                 struct dm_error *err)
{
    return dm_diffusion_time_of(&p->whole, lambda, t, err);
}

float dm_process_network_time(const struct dm_process *p, demist_time_form form, double t)
{
    switch (form) {
    case DEMIST_TIME_INDEX_1000:
        return (float)t * (float)(1000.0 / (double)p->T);
    case DEMIST_TIME_INDEX_OVER_T:
        return (float)(t / (double)p->T);
    case DEMIST_TIME_INDEX:
    case DEMIST_TIME_PATH:
        break;
    }
    return (float)t;
}

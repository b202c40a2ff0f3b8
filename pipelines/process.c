#include "process.h"

#include "diffusion.h"
#include "spacing.h"

#include <stdlib.h>

struct dm_process {
    struct dm_diffusion whole; /* every index of the schedule: for times between those kept */
    struct dm_diffusion kept;  /* the grid */
    demist_step *steps;
    const demist_step **step; /* [n_steps] */
    double *time;             /* [n_steps+1] */
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

/* The steps as samplers see them: an array of pointers, since demist_step may grow. */
static demist_status lay_steps(struct dm_process *p, struct dm_error *err)
{
    int64_t n = p->kept.n;
    p->steps = calloc((size_t)n, sizeof *p->steps);
    p->step = calloc((size_t)n, sizeof *p->step);
    p->time = calloc((size_t)n + 1, sizeof *p->time);
    if (!p->steps || !p->step || !p->time)
        return dm_fail_memory(err, "the grid of times");
    for (int64_t i = 0; i < n; i++) {
        p->steps[i] = dm_diffusion_step(&p->kept, i);
        p->step[i] = &p->steps[i];
        p->time[i] = p->steps[i].time;
    }
    p->time[n] = p->steps[n - 1].time_next;
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
        status = lay_steps(p, err);
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
    free(p->steps);
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
    return (int32_t)p->kept.n;
}

const double *dm_process_time(const struct dm_process *p)
{
    return p->time;
}

const demist_step *const *dm_process_step(const struct dm_process *p)
{
    return p->step;
}

const struct dm_diffusion *dm_process_kept(const struct dm_process *p)
{
    return &p->kept;
}

const struct dm_diffusion *dm_process_whole(const struct dm_process *p)
{
    return &p->whole;
}

const demist_step *dm_process_step_at(const struct dm_process *p, double t)
{
    int64_t low = 0, high = p->kept.n; /* times fall */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (p->time[middle] > t)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->kept.n && p->time[low] == t ? p->step[low] : NULL;
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

/* The diffusion process of a run: the schedule's tables, and the grid of times that is visited.
 *
 * Times are schedule time: an index for a variance-preserving process (−1 or 0 is the clean end),
 * t for a path.
 *
 * A run walks the kept times t_0 < … < t_{n−1} down, from noise to data, or, to encode, up:
 *
 *     down   t_{n−1} → … → t_0 → the clean end
 *     up     data, taken as x at t_0 → … → t_{n−1} [→ pure noise, ᾱ := 0]
 *
 * The step into pure noise is that of a variance-preserving process (improved-diffusion's
 * ddim_reverse_sample); there λ is −∞, so that x' = ε whatever the sampler. On a path sampling
 * starts at its last time, and so encoding ends there. */
#ifndef DM_PROCESS_H
#define DM_PROCESS_H

#include <demist/network.h>
#include <demist/sampler.h>

#include "instance.h"

struct dm_process;
struct dm_diffusion;

/* Which times are visited; see spacing.h. */
struct dm_process_spacing {
    const char *steps; /* "50", "ddim50", "trailing25", "" for all */
    int leading_offset;
    bool course_wrap;
    bool encode;                /* walk up */
    const char *where;          /* the place of `steps`, for errors; may be NULL */
    const char *schedule_where; /* that of the schedule's choice; may be NULL */
};

/* Fills the tables of a schedule instance for T steps and lays the grid. The instance must outlive
 * the process. */
demist_status dm_process_create(struct dm_instance *schedule, int64_t T,
                                const struct dm_process_spacing *spacing,
                                struct dm_process **process, struct dm_error *err);
void dm_process_destroy(struct dm_process *process); /* NULL is legal */

bool dm_process_is_vp(const struct dm_process *process); /* variance preserving */
int64_t dm_process_T(const struct dm_process *process);
double dm_process_signal_guard(const struct dm_process *process);

/* The walk. Upwards, steps have no posterior, no β and no variances (NaN), and the time of pure
 * noise is one above the last index. */
int32_t dm_process_n_steps(const struct dm_process *process);
const double *dm_process_time(const struct dm_process *process);             /* [n_steps+1] */
const demist_step *const *dm_process_step(const struct dm_process *process); /* [n_steps] */

bool dm_process_encodes(const struct dm_process *process);
/* Whether the last step of the walk leads to pure noise, and so is not the sampler's. */
bool dm_process_ends_in_noise(const struct dm_process *process);

/* The tables of all indices, and of those kept. */
const struct dm_diffusion *dm_process_whole(const struct dm_process *process);
const struct dm_diffusion *dm_process_kept(const struct dm_process *process);

/* The step towards the data from the k-th kept time, k = 0 … n−1 with rising noise, whichever way
 * the run walks; and the one that starts at exactly t, NULL when there is none. */
const demist_step *dm_process_kept_step(const struct dm_process *process, int64_t k);
const demist_step *dm_process_step_at(const struct dm_process *process, double t);

/* Signal and noise at any time of the schedule's range; DEMIST_INVALID outside it. */
demist_status dm_process_coeffs(const struct dm_process *process, double t, demist_coeffs *out,
                                struct dm_error *err);
demist_status dm_process_time_of(const struct dm_process *process, double lambda, double *t,
                                 struct dm_error *err);

/* What the network is handed for schedule time t: rounded to float32 as the reference
 * implementations do (float32(index)·(1000/T); index/T in double). */
float dm_process_network_time(const struct dm_process *process, demist_time_form form, double t);

#endif

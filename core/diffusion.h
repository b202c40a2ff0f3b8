/* The tables of a diffusion process, in float64: what a schedule gives, and all that follows.
 *
 * Positions are the same for every convention: k = 0 is the clean end, k = 1 … n are the steps
 * with rising noise. The index that users and networks see at position k >= 1 of a whole schedule
 * is k - 1 + first_index; a respaced process keeps the indices of the schedule it comes from.
 *
 *     q(x_t|x_0):  x_t = signal x_0 + noise eps
 *     variance-preserving: signal = sqrt(alpha_bar), noise = sqrt(1 - alpha_bar)
 *     q(x_{t-1}|x_t, x_0) = N(posterior_x0 x_0 + posterior_x x_t, posterior_variance)
 *
 * (Ho et al. 2020, eq. 4, 6, 7; Nichol and Dhariwal 2021 for the clipped variance and respacing.)
 */
#ifndef DM_DIFFUSION_H
#define DM_DIFFUSION_H

#include <demist/sampler.h>
#include <demist/schedule.h>

#include "error.h"

/* Zeroed is a valid empty one for dm_diffusion_finish. Read-only once made: any thread. */
struct dm_diffusion {
    int64_t n; /* steps, >= 1 */
    int first_index;
    bool variance_preserving;
    /* The end is not clean but another step's noise level (spacing.h, course_wrap): x' there is
     * signal[0] x_0 + noise[0] eps, and position 1 has no posterior. */
    bool wrapped;

    /* [n+1] each, by position. */
    int64_t *index; /* of the whole schedule; position 0: first_index - 1 */
    double *time;   /* the index, or a path's t; position 0: the end's */
    double *signal; /* position 0: 1 */
    double *noise;  /* position 0: 0 */
    double *lambda; /* ln(signal/noise), strictly falling; position 0: +inf */

    /* [n+1] each, NaN for a path and, but for alpha_bar, at position 0. */
    double *alpha_bar;          /* position 0: 1 */
    double *schedule_beta;      /* the schedule's at this index, whatever is kept */
    double *beta;               /* of one step of this process: 1 - alpha_bar[k]/alpha_bar[k-1] */
    double *posterior_x0;       /* "coef1": beta sqrt(alpha_bar') / (1 - alpha_bar) */
    double *posterior_x;        /* "coef2": (1 - alpha_bar') sqrt(1 - beta) / (1 - alpha_bar) */
    double *posterior_variance; /* beta (1 - alpha_bar') / (1 - alpha_bar); 0 at position 1 */
    double *posterior_logvar;   /* its log, at position 1 that of position 2 (NaN if n = 1) */
    double *large_variance;     /* beta, at position 1 posterior_variance[2] (NaN if n = 1) */

    /* Optional, between indices; see demist_schedule_vtable. */
    demist_status (*eval)(void *self, int64_t n, double t, double *signal, double *noise);
    void *eval_self;
    int64_t schedule_n; /* T of the whole schedule, what eval gets */

    double *storage; /* the columns; owned */
};

/* Derives everything from what a schedule filled in. Where tables->has_alpha_bar, alpha_bar is
 * taken as it is and beta follows from it, so that the posterior is that of the process x really
 * undergoes; schedule_beta keeps the given one. CONFIG for tables that are no diffusion: beta not
 * in (0, 1), alpha_bar or lambda that does not fall, NaN, n < 1; the text names the index. */
demist_status dm_diffusion_create(const demist_tables *tables, struct dm_diffusion *out,
                                  struct dm_error *err);

/* The process that visits index[0] >= index[1] >= … >= index[n-1] only, and then `end`: first_index
 * - 1 for the clean end, or an index (spacing.h). beta is made again from the kept alpha_bar.
 * INVALID for indices that `whole` does not have or that rise. */
demist_status dm_diffusion_respace(const struct dm_diffusion *whole, const int64_t *index,
                                   int64_t n, int64_t end, struct dm_diffusion *out,
                                   struct dm_error *err);

void dm_diffusion_finish(struct dm_diffusion *d); /* NULL is legal */

/* The i-th step in visiting order, i = 0 … n-1 (position n - i), as samplers see it. */
demist_step dm_diffusion_step(const struct dm_diffusion *d, int64_t i);

/* INCOMPATIBLE, naming `who` ("sampler ddpm"), where no posterior with a variance at every
 * position exists: on a path, with a single step, an index visited twice, or a wrapped end. */
demist_status dm_diffusion_check_posterior(const struct dm_diffusion *d, const char *who,
                                           struct dm_error *err);

/* Signal, noise and lambda at any time between the clean end and the last index: the tables' at an
 * index; else the schedule's eval; else by lambda linear in t, with signal + noise linear in t on a
 * path. Next to a position where lambda is infinite, noise/signal (or its inverse) is linear
 * instead. Ask the whole schedule, as a respaced process interpolates over wider gaps. INVALID
 * outside. */
demist_status dm_diffusion_coeffs(const struct dm_diffusion *d, double t, demist_coeffs *out,
                                  struct dm_error *err);

/* The inverse: the time at which ln(signal/noise) is lambda, clamped to the range. INVALID for NaN.
 */
demist_status dm_diffusion_time_of(const struct dm_diffusion *d, double lambda, double *t,
                                   struct dm_error *err);

#endif

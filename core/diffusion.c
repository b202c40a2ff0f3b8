/* Every formula is written in the order of operations of the implementations that define the
 * reference results: 1 - a/b and beta (1-a)/(1-b) cancel, and another order costs digits. */
#include "diffusion.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

/* The double columns of struct dm_diffusion, in the order of storage. */
#define COLUMNS(X)                                                                                 \
    X(time)                                                                                        \
    X(signal)                                                                                      \
    X(noise)                                                                                       \
    X(lambda)                                                                                      \
    X(alpha_bar)                                                                                   \
    X(schedule_beta)                                                                               \
    X(beta)                                                                                        \
    X(posterior_x0)                                                                                \
    X(posterior_x)                                                                                 \
    X(posterior_variance)                                                                          \
    X(posterior_logvar)                                                                            \
    X(large_variance)

/* Columns of n + 1, every double NaN until it is set. */
static demist_status allocate(struct dm_diffusion *d, int64_t n, struct dm_error *err)
{
    size_t n_columns = 0, total, bytes;
#define COUNT(name) n_columns++;
    COLUMNS(COUNT)
#undef COUNT
    *d = (struct dm_diffusion){.n = n};
    const size_t length = (size_t)n + 1;
    if (dm_mul_size(length, n_columns, &total) && dm_mul_size(total, sizeof(double), &bytes))
        d->storage = malloc(bytes);
    d->index = d->storage ? calloc(length, sizeof *d->index) : NULL;
    if (!d->index) {
        dm_diffusion_finish(d);
        dm_fail_memory(err, "the tables of a schedule");
        return DEMIST_NO_MEMORY;
    }
    for (size_t i = 0; i < total; i++)
        d->storage[i] = NAN;
    double *next = d->storage;
#define PLACE(name)                                                                                \
    d->name = next;                                                                                \
    next += length;
    COLUMNS(PLACE)
#undef PLACE
    return DEMIST_OK;
}

void dm_diffusion_finish(struct dm_diffusion *d)
{
    if (!d)
        return;
    free(d->storage);
    free(d->index);
    *d = (struct dm_diffusion){0};
}

/* --- Variance preserving --- */

static void derive_levels(struct dm_diffusion *d)
{
    for (int64_t k = 0; k <= d->n; k++) {
        const double alpha_bar = d->alpha_bar[k];
        d->signal[k] = sqrt(alpha_bar);
        d->noise[k] = sqrt(1 - alpha_bar);
        d->lambda[k] = 0.5 * log(alpha_bar / (1 - alpha_bar));
    }
}

static void derive_posterior(struct dm_diffusion *d)
{
    for (int64_t k = d->wrapped ? 2 : 1; k <= d->n; k++) {
        const double beta = d->beta[k], alpha_bar = d->alpha_bar[k], next = d->alpha_bar[k - 1];
        d->posterior_x0[k] = beta * sqrt(next) / (1 - alpha_bar);
        d->posterior_x[k] = (1 - next) * sqrt(1 - beta) / (1 - alpha_bar);
        d->posterior_variance[k] = beta * (1 - next) / (1 - alpha_bar);
        d->posterior_logvar[k] = log(d->posterior_variance[k]);
        d->large_variance[k] = beta;
    }
    if (d->wrapped)
        return;
    /* The variance of the step into the clean end is 0, which has no logarithm. */
    d->posterior_logvar[1] = d->n > 1 ? d->posterior_logvar[2] : NAN;
    d->large_variance[1] = d->n > 1 ? d->posterior_variance[2] : NAN;
}

static demist_status check_beta(const demist_tables *tables, struct dm_error *err)
{
    for (int64_t i = 0; i < tables->n; i++)
        if (!(tables->beta[i] > 0 && tables->beta[i] < 1))
            return dm_fail(err, DEMIST_CONFIG,
                           "schedule: beta at index %" PRId64 " is %g, not between 0 and 1: use "
                           "more steps or a narrower range of beta",
                           i + tables->first_index, tables->beta[i]);
    return DEMIST_OK;
}

static demist_status check_alpha_bar(const struct dm_diffusion *d, struct dm_error *err)
{
    if (d->alpha_bar[0] != 1)
        return dm_fail(err, DEMIST_CONFIG, "schedule: alpha_bar at the clean end is %g, not 1",
                       d->alpha_bar[0]);
    for (int64_t k = 1; k <= d->n; k++)
        if (!(d->alpha_bar[k] < d->alpha_bar[k - 1] && d->alpha_bar[k] > 0x1p-1000))
            return dm_fail(
                err, DEMIST_CONFIG,
                "schedule: alpha_bar at index %" PRId64 " is %g after %g: it must fall "
                "at every step and stay above 0; use fewer steps or other values of beta",
                d->index[k], d->alpha_bar[k], d->alpha_bar[k - 1]);
    return DEMIST_OK;
}

static demist_status from_betas(const demist_tables *tables, struct dm_diffusion *d,
                                struct dm_error *err)
{
    if (tables->first_index != 0 && tables->first_index != 1)
        return dm_fail(err, DEMIST_CONFIG, "schedule: first_index is %d, neither 0 nor 1",
                       (int)tables->first_index);
    DM_TRY(check_beta(tables, err));
    d->variance_preserving = true;
    d->alpha_bar[0] = tables->has_alpha_bar ? tables->alpha_bar[0] : 1;
    for (int64_t k = 1; k <= d->n; k++) {
        const double beta = tables->beta[k - 1];
        d->schedule_beta[k] = beta;
        d->alpha_bar[k] =
            tables->has_alpha_bar ? tables->alpha_bar[k] : d->alpha_bar[k - 1] * (1 - beta);
        d->beta[k] = tables->has_alpha_bar ? 1 - d->alpha_bar[k] / d->alpha_bar[k - 1] : beta;
        d->time[k] = (double)d->index[k];
    }
    d->time[0] = (double)d->index[0];
    DM_TRY(check_alpha_bar(d, err));
    derive_levels(d);
    derive_posterior(d);
    return DEMIST_OK;
}

/* --- A general Gaussian path --- */

static demist_status check_path(const struct dm_diffusion *d, double guard, struct dm_error *err)
{
    for (int64_t k = 1; k <= d->n; k++) {
        const double t = d->time[k], signal = d->signal[k], noise = d->noise[k];
        if (!isfinite(t) || !isfinite(signal) || !isfinite(noise) || signal < 0 || noise < 0)
            return dm_fail(err, DEMIST_CONFIG,
                           "schedule: at index %" PRId64 " t = %g, signal = %g, noise = %g: all "
                           "must be finite, signal and noise not negative",
                           d->index[k], t, signal, noise);
        if (!(signal + guard > 0))
            return dm_fail(err, DEMIST_CONFIG,
                           "schedule: the signal at t = %g is 0, so that x_0 cannot be had from x; "
                           "end the path earlier or give it a guard",
                           t);
        /* The first entry may be the clean end itself, as t = 0 of the straight path is. */
        const bool at_end = k == 1 && noise == 0 && t == d->time[0];
        if (!at_end && !(t > d->time[k - 1] && noise * d->signal[k - 1] > d->noise[k - 1] * signal))
            return dm_fail(err, DEMIST_CONFIG,
                           "schedule: time and noise/signal must rise at every step, but do not "
                           "from t = %g to t = %g",
                           d->time[k - 1], t);
    }
    return DEMIST_OK;
}

static demist_status from_path(const demist_tables *tables, struct dm_diffusion *d,
                               struct dm_error *err)
{
    const double guard = tables->signal_guard;
    if (!isfinite(tables->time_end) || !(guard >= 0 && guard < 1))
        return dm_fail(err, DEMIST_CONFIG,
                       "schedule: the path ends at t = %g with a guard of %g: a finite time and a "
                       "guard from 0 to 1 are needed",
                       tables->time_end, guard);
    d->time[0] = tables->time_end;
    d->signal[0] = 1;
    d->noise[0] = 0;
    const size_t bytes = (size_t)d->n * sizeof(double);
    memcpy(d->time + 1, tables->time, bytes);
    memcpy(d->signal + 1, tables->signal, bytes);
    memcpy(d->noise + 1, tables->noise, bytes);
    DM_TRY(check_path(d, guard, err));
    for (int64_t k = 0; k <= d->n; k++)
        d->lambda[k] = log(d->signal[k] / d->noise[k]); /* +inf where noise is 0 */
    return DEMIST_OK;
}

demist_status dm_diffusion_create(const demist_tables *tables, struct dm_diffusion *out,
                                  struct dm_error *err)
{
    if (tables->n < 1)
        return dm_fail(err, DEMIST_CONFIG, "schedule: %" PRId64 " steps; at least one is needed",
                       tables->n);
    const bool path = tables->form == DEMIST_GAUSSIAN_PATH;
    if (!path && tables->form != DEMIST_VARIANCE_PRESERVING)
        return dm_fail(err, DEMIST_CONFIG, "schedule: unknown form %d", (int)tables->form);
    struct dm_diffusion d;
    DM_TRY(allocate(&d, tables->n, err));
    d.schedule_n = tables->n;
    d.first_index = path ? 0 : tables->first_index;
    for (int64_t k = 0; k <= d.n; k++)
        d.index[k] = k - 1 + d.first_index;
    demist_status status = path ? from_path(tables, &d, err) : from_betas(tables, &d, err);
    if (status != DEMIST_OK) {
        dm_diffusion_finish(&d);
        return status;
    }
    *out = d;
    return DEMIST_OK;
}

/* --- Respacing --- */

static demist_status check_kept(const struct dm_diffusion *whole, const int64_t *index, int64_t n,
                                int64_t end, struct dm_error *err)
{
    const int64_t first = whole->first_index, last = first + whole->n - 1;
    if (whole->n != whole->schedule_n || whole->wrapped)
        return dm_fail(err, DEMIST_INVALID, "a respaced process cannot be respaced again");
    if (n < 1)
        return dm_fail(err, DEMIST_INVALID, "no step is kept; at least one is needed");
    for (int64_t i = 0; i < n; i++)
        if (index[i] < first || index[i] > last || (i > 0 && index[i] > index[i - 1]))
            return dm_fail(err, DEMIST_INVALID,
                           "kept step %" PRId64 " is index %" PRId64
                           ": indices must not rise and be "
                           "from %" PRId64 " to %" PRId64,
                           i, index[i], last, first);
    if (end != first - 1 && (!whole->variance_preserving || end < first || end > last))
        return dm_fail(err, DEMIST_INVALID,
                       "the end index %" PRId64 " is neither the clean end nor an index", end);
    return DEMIST_OK;
}

/* Copies what belongs to one noise level. */
static void copy_level(const struct dm_diffusion *from, int64_t j, struct dm_diffusion *to,
                       int64_t k)
{
    to->index[k] = from->index[j];
    to->time[k] = from->time[j];
    to->signal[k] = from->signal[j];
    to->noise[k] = from->noise[j];
    to->lambda[k] = from->lambda[j];
    to->alpha_bar[k] = from->alpha_bar[j];
    to->schedule_beta[k] = from->schedule_beta[j];
}

demist_status dm_diffusion_respace(const struct dm_diffusion *whole, const int64_t *index,
                                   int64_t n, int64_t end, struct dm_diffusion *out,
                                   struct dm_error *err)
{
    DM_TRY(check_kept(whole, index, n, end, err));
    struct dm_diffusion d;
    DM_TRY(allocate(&d, n, err));
    d.first_index = whole->first_index;
    d.variance_preserving = whole->variance_preserving;
    d.wrapped = end >= whole->first_index;
    d.eval = whole->eval;
    d.eval_self = whole->eval_self;
    d.schedule_n = whole->schedule_n;

    const int64_t to_position = 1 - whole->first_index;
    copy_level(whole, end + to_position, &d, 0);
    d.schedule_beta[0] = NAN;
    for (int64_t k = 1; k <= n; k++)
        copy_level(whole, index[n - k] + to_position, &d, k);
    if (d.variance_preserving) {
        /* With every step kept, beta is what it was, without the rounding of 1 - a/b. */
        const bool all = n == whole->n && !d.wrapped;
        for (int64_t k = 1; k <= n; k++)
            d.beta[k] = all ? whole->beta[k] : 1 - d.alpha_bar[k] / d.alpha_bar[k - 1];
        derive_posterior(&d);
    }
    *out = d;
    return DEMIST_OK;
}

demist_step dm_diffusion_step(const struct dm_diffusion *d, int64_t i)
{
    const int64_t k = d->n - i;
    return (demist_step){
        .size = sizeof(demist_step),
        .time = d->time[k],
        .time_next = d->time[k - 1],
        .signal = d->signal[k],
        .noise = d->noise[k],
        .signal_next = d->signal[k - 1],
        .noise_next = d->noise[k - 1],
        .lambda = d->lambda[k],
        .lambda_next = d->lambda[k - 1],
        .alpha_bar = d->alpha_bar[k],
        .alpha_bar_next = d->alpha_bar[k - 1],
        .beta = d->beta[k],
        .schedule_beta = d->schedule_beta[k],
        .posterior_x0 = d->posterior_x0[k],
        .posterior_x = d->posterior_x[k],
        .posterior_variance = d->posterior_variance[k],
        .posterior_logvar = d->posterior_logvar[k],
        .large_variance = d->large_variance[k],
        .index = d->index[k],
    };
}

demist_status dm_diffusion_check_posterior(const struct dm_diffusion *d, const char *who,
                                           struct dm_error *err)
{
    if (!d->variance_preserving)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s needs a variance-preserving schedule (linear, cosine), but this one is "
                       "a general path",
                       who);
    if (d->wrapped)
        return dm_fail(
            err, DEMIST_INCOMPATIBLE,
            "%s needs a clean end, but the course's spacing wraps round to index %" PRId64
            "; use a number of steps that divides the schedule's",
            who, d->index[0]);
    if (d->n == 1)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s needs the posterior variance of a second step, but a single step is "
                       "kept; keep two or more, or use the sampler ddim",
                       who);
    for (int64_t k = 2; k <= d->n; k++)
        if (d->index[k] == d->index[k - 1])
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "%s needs a posterior variance at every step, but the spacing visits "
                           "index %" PRId64 " twice; keep fewer steps, or use the sampler ddim",
                           who, d->index[k]);
    return DEMIST_OK;
}

/* --- Between indices --- */

/* The position at the upper end of the gap that holds t, so that time[k-1] <= t <= time[k]. Where
 * several do, the highest. t must be in range. */
static int64_t gap_of_time(const struct dm_diffusion *d, double t)
{
    int64_t low = d->wrapped ? 1 : 0, high = d->n;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (d->time[middle] <= t)
            low = middle;
        else
            high = middle;
    }
    return high;
}

static void set_from_lambda(const struct dm_diffusion *d, int64_t k, double w, double lambda,
                            demist_coeffs *out)
{
    out->lambda = lambda;
    if (d->variance_preserving) {
        out->signal = 1 / sqrt(1 + exp(-2 * lambda));
        out->noise = 1 / sqrt(1 + exp(2 * lambda));
    } else {
        const double sum =
            (1 - w) * (d->signal[k - 1] + d->noise[k - 1]) + w * (d->signal[k] + d->noise[k]);
        out->signal = sum / (1 + exp(-lambda));
        out->noise = sum / (1 + exp(lambda));
    }
}

/* lambda at the share w, 0 < w < 1, of the gap below position k. */
static double lambda_in_gap(const struct dm_diffusion *d, int64_t k, double w)
{
    const double below = d->lambda[k - 1], above = d->lambda[k];
    if (isinf(below) && isinf(above)) /* from clean to pure noise at once */
        return log((1 - w) / w);
    if (isinf(below))
        return above - log(w);
    if (isinf(above))
        return below + log(1 - w);
    return below + w * (above - below);
}

/* Its inverse. */
static double share_of_gap(const struct dm_diffusion *d, int64_t k, double lambda)
{
    const double below = d->lambda[k - 1], above = d->lambda[k];
    if (isinf(below) && isinf(above))
        return 1 / (1 + exp(lambda));
    if (isinf(below))
        return exp(above - lambda);
    if (isinf(above))
        return 1 - exp(lambda - below);
    return (lambda - below) / (above - below);
}

static demist_status evaluate(const struct dm_diffusion *d, double t, demist_coeffs *out,
                              struct dm_error *err)
{
    double signal = NAN, noise = NAN;
    demist_status status = d->eval(d->eval_self, d->schedule_n, t, &signal, &noise);
    if (status != DEMIST_OK)
        return dm_fail(err, status, "schedule: eval failed at t = %g", t);
    if (!(signal >= 0 && noise >= 0 && signal + noise > 0 && isfinite(signal + noise)))
        return dm_fail(err, DEMIST_NUMERIC, "schedule: eval gives signal %g and noise %g at t = %g",
                       signal, noise, t);
    out->signal = signal;
    out->noise = noise;
    out->lambda = log(signal / noise);
    return DEMIST_OK;
}

demist_status dm_diffusion_coeffs(const struct dm_diffusion *d, double t, demist_coeffs *out,
                                  struct dm_error *err)
{
    const double first = d->time[d->wrapped ? 1 : 0], last = d->time[d->n];
    if (!(t >= first && t <= last))
        return dm_fail(err, DEMIST_INVALID, "time %g is outside the schedule's, %g to %g", t, first,
                       last);
    const int64_t high = gap_of_time(d, t);
    for (int64_t k = high; k >= high - 1; k--)
        if (t == d->time[k]) {
            out->signal = d->signal[k];
            out->noise = d->noise[k];
            out->lambda = d->lambda[k];
            return DEMIST_OK;
        }
    if (d->eval)
        return evaluate(d, t, out, err);
    const double w = (t - d->time[high - 1]) / (d->time[high] - d->time[high - 1]);
    set_from_lambda(d, high, w, lambda_in_gap(d, high, w), out);
    return DEMIST_OK;
}

/* Bisection between positions k - 1 and k until float64 has no number between. */
static demist_status solve(const struct dm_diffusion *d, int64_t k, double lambda, double *t,
                           struct dm_error *err)
{
    double low = d->time[k - 1], high = d->time[k];
    for (;;) {
        const double middle = low + (high - low) / 2;
        if (!(middle > low && middle < high))
            break;
        demist_coeffs at = {.size = sizeof at};
        DM_TRY(evaluate(d, middle, &at, err));
        if (at.lambda > lambda)
            low = middle;
        else
            high = middle;
    }
    *t = high;
    return DEMIST_OK;
}

demist_status dm_diffusion_time_of(const struct dm_diffusion *d, double lambda, double *t,
                                   struct dm_error *err)
{
    if (isnan(lambda))
        return dm_fail(err, DEMIST_INVALID, "the time of lambda = NaN was asked for");
    int64_t low = d->wrapped ? 1 : 0, high = d->n;
    if (lambda >= d->lambda[low] || lambda <= d->lambda[high]) {
        *t = d->time[lambda >= d->lambda[low] ? low : high];
        return DEMIST_OK;
    }
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (d->lambda[middle] >= lambda)
            low = middle;
        else
            high = middle;
    }
    if (d->lambda[low] == lambda) {
        *t = d->time[low];
        return DEMIST_OK;
    }
    if (d->eval)
        return solve(d, high, lambda, t, err);
    const double w = share_of_gap(d, high, lambda);
    *t = d->time[low] + w * (d->time[high] - d->time[low]);
    return DEMIST_OK;
}

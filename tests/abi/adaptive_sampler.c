/* The probability-flow ODE by DPM-Solver-1 with a second-order error estimate: with the step h in
 * λ = ln(signal/noise) and y the state after the first-order step
 *
 *     y = noise'/noise·x + signal'·(1 − e^{−h})·x0(x, t)             (Lu et al. 2022, eq. 3.7)
 *     z = noise'/noise·x + signal'·(1 − e^{−h})·(x0(x, t) + x0(y, t'))/2
 *
 * |z − y| tells whether an image's step is accepted, and how long its next one is. Every image has
 * its own time: those that are done, or whose step is refused, stay where they are by coefficients
 * of 0 and 1, without a word about them crossing to the host but one number. */
#include "adaptive_sampler.h"

#include <math.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        demist_status try_status = (call);                                                         \
        if (try_status != DEMIST_OK)                                                               \
            return try_status;                                                                     \
    } while (0)

struct sampler {
    const demist_host *host;
    double tolerance;
    int *steps;
    double *memory;
};

/* One number per image each. */
struct pace {
    double *time, *next; /* now, and where the tried step leads */
    double *h;           /* length in λ that the next step shall have */
    double *error;
    double *coefs; /* [3] */
};

static const demist_option tolerance = {
    .size = sizeof tolerance,
    .key = "tolerance",
    .doc = "Largest error of an element in a step",
    .type = DEMIST_OPTION_FLOAT,
    .default_value = "1e-3",
    .has_range = true,
    .min = 1e-6,
    .max = 1,
};
const demist_option *const adaptive_options[] = {&tolerance, NULL};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct sampler *sampler = host->alloc(host, sizeof *sampler, 0);
    if (!sampler)
        return DEMIST_NO_MEMORY;
    *sampler = (struct sampler){host, values[0]->number, NULL, NULL};
    *self = sampler;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct sampler *sampler = self;
    if (!sampler)
        return;
    sampler->host->free(sampler->host, sampler->steps);
    sampler->host->free(sampler->host, sampler->memory);
    sampler->host->free(sampler->host, sampler);
}

const int *adaptive_steps(const void *self)
{
    return ((const struct sampler *)self)->steps;
}

static uint32_t needs(void *self)
{
    return DEMIST_NEEDS_FRACTIONAL_TIMES;
}

/* λ at which signal is 1 within float32: what is left of the way then no longer matters. */
static const double last_lambda = 8;

/* Chooses each image's next time, and the coefficients of x and x0 that lead there. */
static demist_status choose_steps(demist_run *run, struct pace *pace, double *scale, double *gain)
{
    for (int64_t i = 0; i < run->n_images; i++) {
        demist_coeffs from = DEMIST_INIT(demist_coeffs), to = DEMIST_INIT(demist_coeffs);
        scale[i] = 1;
        gain[i] = 0;
        pace->next[i] = pace->time[i];
        TRY(run->coeffs(run, pace->time[i], &from));
        if (from.lambda >= last_lambda)
            continue;
        double lambda = fmin(from.lambda + pace->h[i], last_lambda);
        TRY(run->time_of(run, lambda, &pace->next[i]));
        TRY(run->coeffs(run, pace->next[i], &to));
        scale[i] = to.noise / from.noise;
        gain[i] = -to.signal * expm1(from.lambda - to.lambda);
    }
    return DEMIST_OK;
}

/* Accepts or refuses each image's step; keep[i] 1 where x stays. Returns whether any is left. */
static bool judge(const struct sampler *sampler, demist_run *run, struct pace *pace, double *keep)
{
    bool any = false;
    for (int64_t i = 0; i < run->n_images; i++) {
        bool moves = pace->next[i] != pace->time[i];
        bool accepted = moves && pace->error[i] <= sampler->tolerance;
        keep[i] = !accepted;
        any |= moves;
        if (!moves)
            continue;
        double factor = 0.9 * sqrt(sampler->tolerance / fmax(pace->error[i], 1e-12));
        pace->h[i] *= fmin(fmax(factor, 0.2), 3);
        if (accepted) {
            pace->time[i] = pace->next[i];
            sampler->steps[i]++;
        }
    }
    return any;
}

static demist_status try_step(const struct sampler *sampler, demist_run *run, struct pace *pace,
                              demist_tensor *x, demist_tensor *t[4], bool *any)
{
    int64_t n = run->n_images;
    double *c = pace->coefs;
    demist_tensor *y = t[0], *z = t[1], *first = t[2], *difference = t[3];
    demist_prediction out = DEMIST_INIT(demist_prediction);
    const double one = 1, one_minus_one[2] = {1, -1};

    TRY(choose_steps(run, pace, c, c + n));
    TRY(run->predict(run, n, pace->time, x, &out));
    TRY(demist_lincomb(run, first, 1, &one, &out.x0));
    TRY(run->lincomb(run, y, 2, 2 * n, c, (demist_tensor *const[]){x, first}));
    TRY(run->predict(run, n, pace->next, y, &out));
    for (int64_t i = 0; i < n; i++)
        c[2 * n + i] = c[n + i] /= 2;
    TRY(run->lincomb(run, z, 3, 3 * n, c, (demist_tensor *const[]){x, first, out.x0}));
    TRY(demist_lincomb(run, difference, 2, one_minus_one, (demist_tensor *const[]){z, y}));
    TRY(run->reduce(run, DEMIST_REDUCE_MAX_ABS, 0, difference, pace->error));

    *any = judge(sampler, run, pace, c);
    for (int64_t i = 0; i < n; i++)
        c[n + i] = 1 - c[i];
    return run->lincomb(run, x, 2, 2 * n, c, (demist_tensor *const[]){x, z});
}

static demist_status make_room(struct sampler *sampler, int64_t n_images, struct pace *pace)
{
    const demist_host *host = sampler->host;
    size_t n = (size_t)n_images;
    host->free(host, sampler->steps);
    host->free(host, sampler->memory);
    sampler->steps = host->alloc(host, n * sizeof *sampler->steps, 0);
    sampler->memory = host->alloc(host, 7 * n * sizeof *sampler->memory, 0);
    if (!sampler->steps || !sampler->memory)
        return DEMIST_NO_MEMORY;
    memset(sampler->steps, 0, n * sizeof *sampler->steps);
    double *m = sampler->memory;
    *pace = (struct pace){m, m + n, m + 2 * n, m + 3 * n, m + 4 * n};
    return DEMIST_OK;
}

static demist_status sample(void *self, demist_run *run, demist_tensor *x)
{
    struct sampler *sampler = self;
    struct pace pace;
    demist_tensor *t[4];
    TRY(make_room(sampler, run->n_images, &pace));
    for (int i = 0; i < 4; i++)
        TRY(run->temp(run, &t[i]));
    for (int64_t i = 0; i < run->n_images; i++) {
        pace.time[i] = run->time[0];
        pace.h[i] = 0.1;
    }
    bool any = true;
    for (int32_t round = 0; any; round++) {
        if (round == 10000)
            return sampler->host->fail(sampler->host, DEMIST_NUMERIC,
                                       "no step is short enough for tolerance = %g",
                                       sampler->tolerance);
        TRY(try_step(sampler, run, &pace, x, t, &any));
    }
    return demist_emit(run, run->n_steps - 1, x, NULL);
}

const demist_sampler_vtable adaptive_vtable = {
    .size = sizeof adaptive_vtable,
    .create = create,
    .destroy = destroy,
    .needs = needs,
    .sample = sample,
};

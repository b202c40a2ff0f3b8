/* The sampler interface. A sampler owns its loop, so that multi-evaluation, multistep and
 * adaptive methods need no other interface:
 *
 *     for (int32_t i = 0; i < run->n_steps; i++) {
 *         TRY(demist_predict(run, run->time[i], x, &out));
 *         TRY(demist_lincomb(run, x, 2, coef, (demist_tensor *[]){out.x0, out.eps}));
 *         TRY(demist_emit(run, i, x, out.x0));
 *     }
 *
 * predict, lincomb, map and noise are deferred: arguments are copied, execution follows program
 * order, and an error may surface at a later call. Only read, reduce, an emit whose consumer needs
 * data, a predict that thresholds, and the return wait. Tensors hold float32 for n_images images,
 * whatever the backend's precision; coefficients are float64.
 *
 * All functions of demist_run: [the thread that called sample, during sample]. */
#ifndef DEMIST_SAMPLER_H
#define DEMIST_SAMPLER_H

#include <demist/plugin.h>
#include <demist/random.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor of the run, shaped like x. Opaque. */
typedef struct demist_tensor demist_tensor;

/* The chosen grid's step i: from time[i] to time[i+1]. Variance-preserving members are of the
 * respaced process (β recomputed from the kept ᾱ) and NaN for a general path. ᾱ' is ᾱ at
 * time[i+1], the next, less noisy time; 1 at the end.
 *
 * A run that encodes walks the other way, and a sampler that is deterministic needs nothing for it:
 * x is data on entry, times rise, time[i+1] is noisier, and every signal, noise and lambda is
 * finite. β, the posterior and the variances are NaN, and `noise` fails. The last step of a
 * variance-preserving process, to ᾱ = 0, is the host's. */
typedef struct demist_step {
    size_t size;
    double time, time_next;
    double signal, noise;           /* x = signal·x_0 + noise·ε at time */
    double signal_next, noise_next; /* at time_next; 1 and 0 at the end */
    double lambda, lambda_next;     /* ln(signal/noise); +∞ at the end */
    double alpha_bar, alpha_bar_next;
    double beta;                      /* 1 − ᾱ/ᾱ' */
    double schedule_beta;             /* β of the schedule at this index, not respaced */
    double posterior_x0, posterior_x; /* μ̃ = posterior_x0·x_0 + posterior_x·x_t */
    double posterior_variance;        /* β̃ */
    double posterior_logvar; /* log β̃, that of the last step replaced by its neighbour's */
    double large_variance;   /* β, that of the last step replaced by its neighbour's β̃ */
    int64_t index;           /* of the schedule (original, before respacing); −1: none */
} demist_step;

/* Signal and noise at any time. */
typedef struct demist_coeffs {
    size_t size;
    double signal, noise;
    double lambda; /* ln(signal/noise) */
} demist_coeffs;

/* What the network says about x. The tensors belong to the host and hold until the next predict;
 * what a multistep method needs longer it copies with lincomb. */
typedef struct demist_prediction {
    size_t size;
    demist_tensor *x0;     /* after clipping and thresholding */
    demist_tensor *eps;    /* re-derived from x0 if that changed it; on a path its far end */
    demist_tensor *v;      /* signal·eps − noise·x0 */
    demist_tensor *logvar; /* log σ² of p(x_{t−1}|x_t), learned variance only; else NULL. Only
                              for times of the grid */
    demist_tensor *mean;   /* of p(x_{t−1}|x_t) where the network predicts it; else NULL */
} demist_prediction;

typedef enum demist_map_op {
    DEMIST_MAP_MUL = 1,    /* in[0]·in[1] */
    DEMIST_MAP_DIV = 2,    /* in[0]/in[1] */
    DEMIST_MAP_MAX = 3,    /* max(in[0], in[1]) */
    DEMIST_MAP_MIN = 4,    /* min(in[0], in[1]) */
    DEMIST_MAP_ABS = 5,    /* |in[0]| */
    DEMIST_MAP_EXP = 6,    /* exp(params[0]·in[0] + params[1]) */
    DEMIST_MAP_SQRT = 7,   /* √in[0] */
    DEMIST_MAP_CLAMP = 8,  /* in[0] clamped to [params[0], params[1]] */
    DEMIST_MAP_SELECT = 9, /* in[0] ≠ 0 ? in[1] : in[2] */
} demist_map_op;

typedef enum demist_reduce_op {
    DEMIST_REDUCE_SUM = 1,
    DEMIST_REDUCE_SUM_OF_SQUARES = 2,
    DEMIST_REDUCE_MAX_ABS = 3,
    DEMIST_REDUCE_QUANTILE = 4, /* of |x|, param in [0, 1], linear between neighbours */
} demist_reduce_op;

typedef struct demist_run demist_run;
struct demist_run {
    size_t size;
    void *internal;

    int64_t n_images;
    int32_t rank; /* of one datum */
    int64_t shape[DEMIST_MAX_RANK];
    int64_t n_elements; /* of one datum */

    int32_t n_steps;
    const double *time;             /* [n_steps+1], schedule time, from noise to data; see step */
    const demist_step *const *step; /* [n_steps] */

    /* The network's view of x at time t (fractions allowed where the sampler declared them and
     * the network knows them). times: one per image, [n_images], or one for all when n_times is
     * 1. Guidance, clipping and thresholding act inside. out: by DEMIST_INIT; members are set. */
    demist_status (*predict)(demist_run *run, int64_t n_times, const double *times,
                             demist_tensor *x, demist_prediction *out);
    /* At once, on the host. out: by DEMIST_INIT. */
    demist_status (*coeffs)(demist_run *run, double t, demist_coeffs *out);
    /* The time at which ln(signal/noise) is lambda; clamped to the schedule's range. */
    demist_status (*time_of)(demist_run *run, double lambda, double *t);
    /* Standard normals from the host's keyed generator, a function of (seed, image, purpose, k)
     * alone. k: a draw number of the sampler's choice, DEMIST_NOISE_STEP counts from x_T. */
    demist_status (*noise)(demist_run *run, demist_noise_purpose purpose, int64_t k,
                           demist_tensor *out);
    /* out = Σ coef·x; out may be among x. n_coefs: n (one each), or n·n_images (image fastest). */
    demist_status (*lincomb)(demist_run *run, demist_tensor *out, int32_t n, int64_t n_coefs,
                             const double *coefs, demist_tensor *const *x);
    /* Elementwise; out may be among the inputs. n: as many inputs as the op has (INVALID
     * otherwise); params may be NULL where it has none. */
    demist_status (*map)(demist_run *run, demist_map_op op, demist_tensor *out, int32_t n,
                         demist_tensor *const *in, const double *params);
    /* One double per image, never across images: host [n_images]. Waits. */
    demist_status (*reduce)(demist_run *run, demist_reduce_op op, double param, demist_tensor *x,
                            double *host);
    /* A temporary that the host frees after sample; contents undefined. */
    demist_status (*temp)(demist_run *run, demist_tensor **out);
    /* host: float [n_images][n_elements], row-major. Waits. */
    demist_status (*read)(demist_run *run, demist_tensor *x, float *host);
    /* The same layout; host has been copied when it returns. */
    demist_status (*write)(demist_run *run, demist_tensor *x, const float *host);
    /* After step i: progress, previews, intermediates. x0 may be NULL. Returns DEMIST_CANCELLED
     * when the run is to stop: pass it on. */
    demist_status (*emit)(demist_run *run, int32_t i, demist_tensor *x, demist_tensor *x0);
};

/* What a sampler cannot do without; a run that does not offer it is refused before it starts. */
enum {
    DEMIST_NEEDS_VARIANCE_PRESERVING = 1u << 0, /* a schedule given by β */
    DEMIST_NEEDS_LEARNED_VARIANCE = 1u << 1,    /* a network with logvar */
    DEMIST_NEEDS_FRACTIONAL_TIMES = 1u << 2,    /* predict between indices */
    DEMIST_NEEDS_POSTERIOR = 1u << 3,           /* posterior_variance: two kept steps at least */
    DEMIST_NEEDS_NOISE = 1u << 4,               /* draws: not for a run that encodes */
};

typedef struct demist_sampler_vtable {
    size_t size;

    /* [main thread] values: in schema order. */
    demist_status (*create)(const demist_host *host, const demist_value *const *values,
                            void **self);
    void (*destroy)(void *self); /* [main thread] NULL is legal */
    /* [main thread, after create] DEMIST_NEEDS_… under the options given; NULL: nothing. */
    uint32_t (*needs)(void *self);
    /* [any one thread, after create; not reentrant for one self] x: on entry x_T, on return x_0.
     * Called once per batch. */
    demist_status (*sample)(void *self, demist_run *run, demist_tensor *x);
} demist_sampler_vtable;

/* --- Shorthands --- */

/* One time for all images. */
static inline demist_status demist_predict(demist_run *run, double t, demist_tensor *x,
                                           demist_prediction *out)
{
    return run->predict(run, 1, &t, x, out);
}

static inline demist_status demist_noise(demist_run *run, demist_noise_purpose purpose, int64_t k,
                                         demist_tensor *out)
{
    return run->noise(run, purpose, k, out);
}

/* One coefficient per tensor. */
static inline demist_status demist_lincomb(demist_run *run, demist_tensor *out, int32_t n,
                                           const double *coefs, demist_tensor *const *x)
{
    return run->lincomb(run, out, n, n, coefs, x);
}

static inline demist_status demist_emit(demist_run *run, int32_t i, demist_tensor *x,
                                        demist_tensor *x0)
{
    return run->emit(run, i, x, x0);
}

#ifdef __cplusplus
}
#endif
#endif

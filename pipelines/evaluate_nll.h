/* The likelihood of data under a model: the variational bound in bits per dimension, term by term
 * (Ho et al. 2020, eq. 5, as improved-diffusion's image_nll computes it).
 *
 *     total = prior + Σ_t vb[t]
 *     vb[t] = KL(q(x_{t−1}|x_t,x_0) ‖ p(x_{t−1}|x_t)), at t = 0 the discretised decoder −ln
 * p(x_0|x_1)
 *
 * each in bits and a mean over the dimensions, for one draw of noise. t counts the kept steps. */
#ifndef DM_EVALUATE_NLL_H
#define DM_EVALUATE_NLL_H

#include "dataset.h"
#include "setup.h"

/* A mean with its standard error, updated one value at a time. */
struct dm_mean {
    int64_t n;
    double mean, squares; /* squares: Σ (value − mean)² */
};

void dm_mean_add(struct dm_mean *mean, double value);
/* √(Σ(value − mean)²/(n·(n−1))); NaN for n < 2, where nothing is known. */
double dm_mean_error(const struct dm_mean *mean);

/* One image's numbers. Only while the hook runs. */
struct dm_nll_image {
    double total_bpd, prior_bpd;
    int32_t n_steps;
    /* [n_steps], t ascending; mean squared errors over the dimensions of x̂_0, and of ε re-derived
     * from the clipped x̂_0. NULL when t is sampled. */
    const double *vb, *xstart_mse, *mse;
    double sampling_error; /* standard error of total_bpd from sampling t; 0 when all are taken */
};

struct dm_nll_result {
    int64_t n_images;
    int32_t n_steps;
    struct dm_mean total_bpd, prior_bpd;
    struct dm_mean *vb, *xstart_mse, *mse; /* [n_steps]; NULL when t is sampled */
    double sampling_error;                 /* of the mean of total_bpd */
};

struct dm_nll_progress {
    int64_t done, n_images;   /* images done, of all */
    int64_t batch;            /* images that are evaluated together */
    int64_t evaluations, all; /* of the network for them; equal when they are done */
    const struct dm_nll_result *so_far;
};

struct dm_nll_options {
    /* 0: every t, a fresh draw of noise each, in the order t = T−1 … 0. Else even and at least 2:
     * so many draws of t an image, with a probability ∝ √(mean vb²) as a pilot on the first images
     * found it (10 % uniform), weighted by 1/p: unbiased. Half as many strata of equal probability
     * have two draws each, whose difference tells the error. */
    int64_t importance;
    demist_status (*image)(void *user, const struct dm_nll_image *image, struct dm_error *err);
    bool (*progress)(void *user, const struct dm_nll_progress *progress); /* false: stop */
    void *user;
};

/* Evaluates all data. Noise is [noise]'s: recorded draws count from t = T−1, torch-cpu's stream has
 * no x_T before them; philox draws are keyed by the place of the image among the data. Labels are
 * the data's, context and low_res [sample]'s. setup: opened with DM_NEED_SAMPLER |
 * DM_NEED_BACKEND. CANCELLED when `progress` stopped it. Members of *result are freed by
 * dm_nll_result_finish, also after a failure. */
demist_status dm_evaluate_nll(struct dm_setup *setup, const char *data,
                              const struct dm_nll_options *options, struct dm_nll_result *result,
                              struct dm_error *err);
void dm_nll_result_finish(struct dm_nll_result *result);

#endif

/* p(x_{t−1} | x_t), one step of the reverse process, on the host in float64: what likelihoods and
 * losses need of the network's output beside sampling, which computes the same on the device. */
#ifndef DM_REVERSE_H
#define DM_REVERSE_H

#include "setup.h"

/* log σ² of p; see samplers/ddpm.c for the fixed ones. */
enum dm_variance { DM_VARIANCE_LARGE, DM_VARIANCE_SMALL, DM_VARIANCE_COURSE, DM_VARIANCE_NETWORK };

struct dm_reverse {
    const demist_network_info *info;
    int64_t n_elements; /* of one datum */
    enum dm_variance variance;
    bool clip;        /* x_0 to the network's range, before the mean is made of it */
    double threshold; /* with clip: dynamic thresholding at this quantile; 0: a clamp */
};

/* As the setup's sampler walks back: a sampler with an option `variance` has that one; one that
 * needs a learned variance the network's; any other the network's where it learned one, else the
 * large. INCOMPATIBLE where no posterior exists (a path, a single step), UNSUPPORTED for a variance
 * of a name unknown here. setup: opened with DM_NEED_SAMPLER; it must outlive *out. */
demist_status dm_reverse_open(const struct dm_setup *setup, struct dm_reverse *out,
                              struct dm_error *err);

/* One datum at one step. x: [n_elements] x_t; raw: the network's output for it, both halves where
 * the variance is learned. x0, mean, logvar: [n_elements], x̂_0 after clipping and the moments of p.
 * [any thread] */
void dm_reverse_step(const struct dm_reverse *reverse, const demist_step *step, const float *x,
                     const float *raw, double *x0, double *mean, double *logvar);

#endif

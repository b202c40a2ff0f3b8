/* Dynamic thresholding of x̂_0 (Saharia et al. 2022, section 2.3): where an image saturates, it is
 * scaled back as a whole instead of being clamped at every pixel.
 *
 *     s = max(c, quantile_p |x̂_0|),   x̂_0 ← clamp(x̂_0, −s, s)·c/s
 *
 * for data in [−c, c], c = 1 in the paper; s is each image's own. Quantiles are taken on the host,
 * so that all backends have the same ones. */
#ifndef DM_THRESHOLD_H
#define DM_THRESHOLD_H

#include <stdint.h>

/* The p-quantile, 0 ≤ p ≤ 1, of values[n], n ≥ 1, linear between neighbours (NumPy's default). The
 * values are left in another order. NaN if one is NaN. */
double dm_quantile(double *values, int64_t n, double p);

/* c/s of one image, in (0, 1]: x̂_0 times this is then clamped to [−c, c], which is the equation
 * above. magnitudes: |x̂_0| [n], reordered; NaN if one is NaN. */
double dm_threshold_scale(double *magnitudes, int64_t n, double p, double c);

#endif

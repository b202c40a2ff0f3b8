/* Which timesteps a run visits: the spacings of `[sample] steps`.
 *
 *     ""            all T
 *     "250"         improved-diffusion: T in one section        "10,20,30"   in three
 *     "ddim50"      improved-diffusion: the first integer stride that gives 50
 *     "leading50"   i floor(T/N)                                 i = N-1 … 0, plus an offset
 *     "trailing50"  round(T - i T/N) - 1                         i = 0 … N-1
 *     "linspace50"  round(i (T-1)/(N-1)), 0 if N = 1             i = N-1 … 0
 *     "quadratic20" floor((i sqrt(0.8 T)/(N-1))^2), 0 if N = 1   i = N-1 … 0
 *     "course25"    T, T-s, … > 0 with s = floor(T/N)            one-based schedules only
 *
 * Rounding is half to even. All but the sections are computed in integers, so that no value
 * depends on the rounding of an intermediate; the sections add their stride up in float64 as the
 * original does, since multiplying gives other sets. With first_index = 1 every spacing but
 * `course` is computed for 0 … T-1 and 1 is added.
 *
 * `quadratic` with many steps visits its lowest indices more than once, as its formula says; such a
 * step changes nothing, and samplers that need a variance at every step refuse it (diffusion.h). */
#ifndef DM_SPACING_H
#define DM_SPACING_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

struct dm_spacing_options {
    int first_index;    /* of the schedule: 0 or 1 */
    int leading_offset; /* 0 or 1, added by `leading` */
    /* `course`: where s does not divide T, the course's code steps from the last index t to the
     * negative t - s, which Python reads from the end of the tables. false: it is 0, the clean
     * end; true: that index, T + 1 + t - s. */
    bool course_wrap;
};

struct dm_spacing {
    int64_t *index; /* [n] indices of the schedule in visiting order, none below the next; owned */
    int64_t n;      /* >= 1 */
    int64_t end;    /* where the last step leads: first_index - 1, the clean end, but see above */
};

/* Computes the indices that `spec` visits of a schedule with T steps. CONFIG when it is no spacing,
 * or none that T has: the text names the spec, what is wrong, and what would do. *out is written
 * on DEMIST_OK only. [any thread] */
demist_status dm_spacing_parse(const char *spec, int64_t T,
                               const struct dm_spacing_options *options, struct dm_spacing *out,
                               struct dm_error *err);

/* Frees the indices; NULL and a zeroed struct are legal. */
void dm_spacing_finish(struct dm_spacing *spacing);

#endif

/* Sampling: from a run's description to finished images, or from images to their noise. */
#ifndef DM_SAMPLE_H
#define DM_SAMPLE_H

#include "conditions.h"
#include "runner.h"
#include "setup.h"

struct dm_sample_progress {
    int64_t batch, n_batches;
    int32_t step, n_steps; /* steps done in this batch; 0: the start stands */
    int64_t first, n;      /* images of this batch; first counts from [sample] first */
    double time;           /* schedule time that was reached */
    const float *x, *x0;   /* [n, …]; NULL unless data are wanted; x0 also NULL at step 0 */
};

/* Who listens to a run. Members may be NULL. */
struct dm_sample_hooks {
    /* After every step, and before the first (step 0). false stops the run. */
    bool (*progress)(void *user, const struct dm_sample_progress *progress);
    /* A finished batch, in order: x [n, …]; labels [n] or NULL. */
    demist_status (*finished)(void *user, int64_t first, int64_t n, const float *x,
                              const int64_t *labels, struct dm_error *err);
    /* A failure of a listener's own, found in `progress`; consulted after the run stopped. */
    demist_status (*failure)(void *user, struct dm_error *err);
    bool wants_data; /* progress needs x and x0: every step then waits for the device */
    /* As in dm_runner_options: for those who compare runs. */
    void (*evaluated)(void *user, const struct dm_evaluation *evaluation);
    const float *(*teacher)(void *user, int32_t step);
    bool keep_nonfinite;
    void *user;
};

/* Runs all batches. DEMIST_CANCELLED when a hook stopped it: batches finished by then were handed
 * over. setup: opened with DM_NEED_SAMPLER | DM_NEED_BACKEND. */
demist_status dm_sample(struct dm_setup *setup, const struct dm_sample_hooks *hooks,
                        struct dm_error *err);

#endif

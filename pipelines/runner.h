/* The run that a sampler sees: demist_run on a backend.
 *
 * A sampler's calls are recorded, not executed. When data are needed — by the network, by read,
 * at the end — what was recorded since becomes one elementwise graph, compiled once for its
 * structure and executed with that time's coefficients and draw numbers as scalar inputs. A loop
 * therefore compiles two or three small programs however many steps it takes, and a device sees
 * two executions a step: the network and one segment.
 *
 * Each tensor has two buffers: a segment reads the one and writes the other, so that no program
 * has an input that is also its output. */
#ifndef DM_RUNNER_H
#define DM_RUNNER_H

#include <demist/sampler.h>

#include "device.h"
#include "model.h"
#include "noisesource.h"
#include "process.h"

struct dm_runner;

/* One evaluation of the network, as it happened. */
struct dm_evaluation {
    int64_t n;          /* images */
    const float *x;     /* [n][elements] */
    const float *time;  /* [n], what the network was handed */
    const float *out;   /* [n][raw elements] */
    bool unconditional; /* of the two that guidance takes, the one without a condition */
    uint64_t draw;      /* of the network's own random numbers */
};

/* What a run needs; all of it must outlive the runner. */
struct dm_runner_options {
    struct dm_device *device;
    struct dm_model *model;
    const struct dm_process *process;
    struct dm_noise_source *noise;
    int64_t max_batch;
    bool clip;             /* x_0 to the network's range */
    double threshold;      /* with clip: dynamic thresholding at this quantile; 0: a clamp */
    double guidance_scale; /* 1: none */
    bool check_every_step; /* for non-finite values; always done at the end */
    /* After each step: x and x0 are NULL unless wants_data; false stops the run. */
    bool (*emit)(void *user, int32_t step, const float *x, const float *x0);
    bool wants_data;
    /* Told of every evaluation, which then waits for the device; NULL: nobody looks. */
    void (*evaluated)(void *user, const struct dm_evaluation *evaluation);
    /* After `emit`, with wants_data: the state, [n][elements], that the run goes on from instead of
     * its own; NULL, or returning NULL: its own. */
    const float *(*teacher)(void *user, int32_t step);
    bool keep_nonfinite; /* values that are not finite are the caller's to judge */
    void *user;
};

demist_status dm_runner_create(const struct dm_runner_options *options, struct dm_runner **runner,
                               struct dm_error *err);
void dm_runner_destroy(struct dm_runner *runner); /* NULL is legal */

/* Runs the sampler for one batch. x: [n][elements], on entry x_T, on return x_0; the other way
 * round where the process encodes. first_image: for the keyed generator. DEMIST_NUMERIC names step
 * and image. */
demist_status dm_runner_sample(struct dm_runner *runner, struct dm_instance *sampler,
                               int64_t first_image, int64_t n, float *x, struct dm_error *err);

#endif

#include "sample.h"

#include "philox.h"
#include "startfile.h"

#include <math.h>
#include <stdlib.h>

/* One run of all batches. */
struct job {
    struct dm_setup *setup;
    const struct dm_sample_hooks *hooks;
    struct dm_condition_list conditions;
    struct dm_noise_source *noise;
    struct dm_model model;
    struct dm_runner *runner;
    int64_t max_batch;
    float *x, *context, *low_res;       /* [max_batch, …] */
    int64_t *labels;                    /* [max_batch] */
    struct dm_start_file *start;        /* start = file; else NULL */
    struct dm_sample_progress progress; /* of the batch that runs */
};

/* ---------------------------------------------------------------- the start */

/* x_1 = (u, √(16 − u²)), u uniform on [−4, 4]; y is then scaled by the path's first time. */
static void half_circle(const struct job *job, int64_t first, int64_t n, float *x)
{
    double scale = dm_process_time(job->setup->process)[0];
    for (int64_t i = 0; i < n; i++) {
        float uniform;
        dm_philox_uniform(job->setup->config.sample.seed, (uint32_t)(first + i),
                          DEMIST_NOISE_INITIAL, 0, 0, 1, &uniform);
        double u = 8 * (double)uniform - 4;
        x[2 * i] = (float)u;
        x[2 * i + 1] = (float)(scale * sqrt(16 - u * u));
    }
}

static demist_status start_batch(struct job *job, int64_t first, int64_t n, struct dm_error *err)
{
    const struct dm_run_config *c = &job->setup->config;
    DM_TRY(dm_noise_start(job->noise, first, n, err));
    switch (c->sample.start) {
    case DM_START_NORMAL:
        return dm_noise_initial(job->noise, job->x, err);
    case DM_START_HALF_CIRCLE:
        half_circle(job, first, n, job->x);
        return DEMIST_OK;
    case DM_START_FILE:
        break;
    }
    return dm_start_file_read(job->start, first, n, job->x, err);
}

/* ---------------------------------------------------------------- the run */

static bool report(struct job *job, int32_t step, const float *x, const float *x0)
{
    job->progress.step = step;
    job->progress.time = dm_process_time(job->setup->process)[step];
    job->progress.x = x;
    job->progress.x0 = x0;
    return !job->hooks->progress || job->hooks->progress(job->hooks->user, &job->progress);
}

static bool emit(void *user, int32_t step, const float *x, const float *x0)
{
    return report(user, step + 1, x, x0);
}

static void evaluated(void *user, const struct dm_evaluation *evaluation)
{
    struct job *job = user;
    job->hooks->evaluated(job->hooks->user, evaluation);
}

static const float *teacher(void *user, int32_t step)
{
    struct job *job = user;
    return job->hooks->teacher(job->hooks->user, step);
}

static demist_status open_job(struct job *job, struct dm_error *err)
{
    struct dm_setup *s = job->setup;
    const struct dm_run_config *c = &s->config;
    const demist_network_info *info = &s->network.info;
    bool guided = c->sample.guidance_scale != 1;
    DM_TRY(dm_conditions_parse(c, s->ini, &s->network, &job->conditions, err));
    dm_conditions_tell(&job->conditions, c, s->env->services.log);
    if (c->sample.start == DM_START_HALF_CIRCLE &&
        (dm_process_is_vp(s->process) || info->rank != 1 || info->shape[0] != 2))
        return dm_fail(err, DEMIST_CONFIG,
                       "[sample] start = half-circle is for points in the plane on a path "
                       "(schedule straight): take start = normal");
    if (c->sample.start == DM_START_FILE)
        DM_TRY(dm_start_file_open(c, &s->network, &job->start, err));
    struct dm_noise_options noise = {.kind = c->noise.source,
                                     .seed = c->sample.seed,
                                     .file = c->noise.file,
                                     .draws = c->noise.draws,
                                     .n_steps = dm_process_n_steps(s->process),
                                     .rank = info->rank,
                                     .shape = info->shape};
    DM_TRY(dm_noise_source_open(&noise, &job->noise, err));

    job->max_batch = dm_setup_batch(s);
    size_t n = (size_t)job->max_batch;
    job->x = malloc(n * (size_t)s->network.n_elements * sizeof *job->x);
    job->context = malloc(n * (size_t)(info->context_size + 1) * sizeof *job->context);
    job->labels = malloc(n * sizeof *job->labels);
    const int64_t *small = job->conditions.low_res.shape;
    job->low_res =
        malloc((n * (size_t)(small[0] * small[1] * small[2]) + 1) * sizeof *job->low_res);
    if (!job->x || !job->context || !job->labels || !job->low_res)
        return dm_fail_memory(err, "a batch of images");

    DM_TRY(dm_model_compile(&job->model, &s->network, &s->device, job->max_batch, 0, err));
    struct dm_runner_options options = {
        .device = &s->device,
        .model = &job->model,
        .process = s->process,
        .noise = job->noise,
        .max_batch = job->max_batch,
        .clip = s->clip,
        .threshold = s->threshold,
        .guidance_scale = guided ? c->sample.guidance_scale : 1,
        .check_every_step = s->device.type == DEMIST_DEVICE_CPU && !job->hooks->keep_nonfinite,
        .emit = emit,
        .wants_data = job->hooks->wants_data,
        .evaluated = job->hooks->evaluated ? evaluated : NULL,
        .teacher = job->hooks->teacher ? teacher : NULL,
        .keep_nonfinite = job->hooks->keep_nonfinite,
        .user = job,
    };
    return dm_runner_create(&options, &job->runner, err);
}

static demist_status run_batch(struct job *job, int64_t first, int64_t n, struct dm_error *err)
{
    struct dm_setup *s = job->setup;
    const struct dm_sample_hooks *hooks = job->hooks;
    dm_conditions_of(&job->conditions, first, n, job->labels, job->context, job->low_res);
    struct dm_conditions conditions = {
        .labels = job->conditions.n_labels ? job->labels : NULL,
        .context = job->conditions.n_contexts ? job->context : NULL,
        .low_res = job->conditions.low_res.n ? job->low_res : NULL,
    };
    bool guided = s->config.sample.guidance_scale != 1;
    DM_TRY(dm_model_condition(&job->model, n, &conditions, guided, err));
    DM_TRY(start_batch(job, first, n, err));
    job->progress.first = first;
    job->progress.n = n;
    if (!report(job, 0, hooks->wants_data ? job->x : NULL, NULL))
        return dm_fail(err, DEMIST_CANCELLED, "interrupted");
    DM_TRY(dm_runner_sample(job->runner, &s->sampler, first, n, job->x, err));
    return hooks->finished ? hooks->finished(hooks->user, first, n, job->x, conditions.labels, err)
                           : DEMIST_OK;
}

static void close_job(struct job *job)
{
    dm_runner_destroy(job->runner);
    dm_model_finish(&job->model);
    dm_noise_source_close(job->noise);
    dm_conditions_finish(&job->conditions);
    free(job->x);
    free(job->context);
    free(job->low_res);
    free(job->labels);
    dm_start_file_close(job->start);
}

demist_status dm_sample(struct dm_setup *setup, const struct dm_sample_hooks *hooks,
                        struct dm_error *err)
{
    struct job job = {.setup = setup, .hooks = hooks};
    int64_t images = setup->config.sample.images, first = setup->config.sample.first;
    demist_status status = open_job(&job, err);
    if (status == DEMIST_OK)
        job.progress =
            (struct dm_sample_progress){.n_batches = (images + job.max_batch - 1) / job.max_batch,
                                        .n_steps = dm_process_n_steps(setup->process)};
    for (int64_t done = 0; status == DEMIST_OK && done < images; done += job.max_batch) {
        int64_t n = images - done < job.max_batch ? images - done : job.max_batch;
        status = run_batch(&job, first + done, n, err);
        job.progress.batch++;
    }
    close_job(&job);
    if (status == DEMIST_CANCELLED &&
        hooks->failure) { /* a listener's failure, or the user's wish */
        demist_status failure = hooks->failure(hooks->user, err);
        status = failure != DEMIST_OK ? failure : status;
    }
    return status;
}

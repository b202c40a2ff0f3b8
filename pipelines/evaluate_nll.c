#include "evaluate_nll.h"

#include "conditions.h"
#include "diffusion.h"
#include "philox.h"
#include "reverse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The pilot: the first images, at 0, 1, 2, 4 … 2^30 and T−1. */
enum { PILOT_IMAGES = 8, MAX_PILOT = 34 };

#define LN2 0.69314718055994530942

/* One term of one image. */
struct term {
    double vb, xstart_mse, mse;
};

struct job {
    struct dm_setup *setup;
    const struct dm_nll_options *options;
    struct dm_nll_result *result;
    const char *path;
    struct dm_dataset *data;
    struct dm_reverse reverse;
    struct dm_condition_list conditions;
    struct dm_noise_source *noise;
    struct dm_model model;
    demist_buffer *x_buffer, *out_buffer;
    demist_binding *binding;
    int32_t n_steps;
    int64_t max_batch, elements;

    float *x0, *eps, *x, *out, *times; /* [max_batch][…] */
    float *context, *low_res;
    int64_t *labels;
    double *scratch;    /* [workers][3][elements] */
    struct term *terms; /* [max_batch][n_steps], by t; [max_batch][importance] when t is sampled */
    struct term *now;   /* [max_batch], of the evaluation under way */
    int32_t *t;         /* [max_batch], its t */
    double *columns;    /* [3][n_steps]: one image's terms as arrays */
    double *p, *cdf;    /* [n_steps]: how t is sampled */
    double variance;    /* Σ over the images of what sampling t adds */

    int64_t done, n; /* images done, images of the batch */
    int64_t evaluations, all;
};

/* ---------------------------------------------------------------- statistics */

void dm_mean_add(struct dm_mean *m, double value)
{
    double delta = value - m->mean;
    m->n++;
    m->mean += delta / (double)m->n;
    m->squares += delta * (value - m->mean);
}

double dm_mean_error(const struct dm_mean *m)
{
    double n = (double)m->n;
    return m->n < 2 ? NAN : sqrt(m->squares / (n * (n - 1)));
}

/* ---------------------------------------------------------------- the bound's terms, in nats */

/* KL(N(mean1, e^logvar1) ‖ N(mean2, e^logvar2)) */
static double normal_kl(double mean1, double logvar1, double mean2, double logvar2)
{
    double d = mean1 - mean2;
    return 0.5 * (-1 + logvar2 - logvar1 + exp(logvar1 - logvar2) + d * d * exp(-logvar2));
}

/* Φ by the tanh approximation that the original evaluates. */
static double normal_cdf(double x)
{
    return 0.5 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double floored_log(double p)
{
    return log(p < 1e-12 ? 1e-12 : p);
}

/* ln of the probability that N(mean, e^logvar) gives to the 1/255-wide bin around x; the outermost
 * bins have no outer end. */
static double decoder(double x, double mean, double logvar)
{
    double s = exp(-0.5 * logvar), c = x - mean;
    double above = normal_cdf(s * (c + 1.0 / 255)), below = normal_cdf(s * (c - 1.0 / 255));
    if (x < -0.999)
        return floored_log(above);
    if (x > 0.999)
        return floored_log(1 - below);
    return floored_log(above - below);
}

/* The step at which t, counted among the kept, is evaluated. */
static const demist_step *step_of(const struct job *job, int32_t t)
{
    return dm_process_kept_step(job->setup->process, t);
}

/* Term t of image i of the batch, whose x_t and network output are there. */
static void make_term(void *user, int64_t i, int worker)
{
    struct job *job = user;
    int64_t n = job->elements;
    int32_t t = job->t[i];
    const demist_step *step = step_of(job, t);
    const float *x0 = job->x0 + i * n, *eps = job->eps + i * n, *x = job->x + i * n;
    double *got = job->scratch + (int64_t)worker * 3 * n, *mean = got + n, *logvar = mean + n;
    dm_reverse_step(&job->reverse, step, x, job->out + i * job->model.raw_elements, got, mean,
                    logvar);
    double vb = 0, xstart_mse = 0, mse = 0;
    for (int64_t k = 0; k < n; k++) {
        double truth = x0[k], d = got[k] - truth;
        double e = (x[k] - step->signal * got[k]) / step->noise - eps[k];
        vb += t == 0 ? -decoder(truth, mean[k], logvar[k])
                     : normal_kl(step->posterior_x0 * truth + step->posterior_x * x[k],
                                 step->posterior_logvar, mean[k], logvar[k]);
        xstart_mse += d * d;
        mse += e * e;
    }
    job->now[i] = (struct term){vb / (double)n / LN2, xstart_mse / (double)n, mse / (double)n};
}

/* KL(q(x_T|x_0) ‖ N(0, I)) in bits per dimension. */
static double prior_bpd(const struct job *job, int64_t i)
{
    const demist_step *last = step_of(job, job->n_steps - 1);
    const float *x0 = job->x0 + i * job->elements;
    double sum = 0, logvar = log(1 - last->alpha_bar);
    for (int64_t k = 0; k < job->elements; k++)
        sum += normal_kl(last->signal * x0[k], logvar, 0, 0);
    return sum / (double)job->elements / LN2;
}

/* ---------------------------------------------------------------- one evaluation */

/* Draw k of the batch. The keyed generator has a purpose of its own for q(x_t|x_0); of PyTorch's
 * stream the first draw is x_T's, which does not exist here. */
static demist_status draw_noise(struct job *job, int64_t k, struct dm_error *err)
{
    if (dm_noise_is_keyed(job->noise))
        return dm_noise_draw(job->noise, DEMIST_NOISE_DATA, k, job->eps, err);
    if (job->setup->config.noise.source == DM_NOISE_FILE)
        return dm_noise_draw(job->noise, DEMIST_NOISE_STEP, k, job->eps, err);
    return k == 0 ? dm_noise_initial(job->noise, job->eps, err)
                  : dm_noise_draw(job->noise, DEMIST_NOISE_STEP, k - 1, job->eps, err);
}

/* The network on the batch; k numbers a network's own draws. */
static demist_status execute(struct job *job, int64_t k, struct dm_error *err)
{
    struct dm_device *d = &job->setup->device;
    int64_t n = job->n, raw = job->model.raw_elements;
    DM_TRY(dm_device_check(d, "buffer_write",
                           d->vtable->buffer_write(d->queue, job->x_buffer, 0, job->x,
                                                   (size_t)(n * job->elements) * sizeof(float)),
                           err));
    DM_TRY(dm_model_execute(&job->model, job->binding, job->times, n,
                            job->setup->config.sample.seed, (uint64_t)k, (uint64_t)job->done, err));
    return dm_device_check(d, "buffer_read",
                           d->vtable->buffer_read(d->queue, job->out_buffer, 0, job->out,
                                                  (size_t)(n * raw) * sizeof(float)),
                           err);
}

static demist_status check_finite(const struct job *job, struct dm_error *err)
{
    for (int64_t i = 0; i < job->n; i++)
        if (!isfinite(job->now[i].vb))
            return dm_fail(err, DEMIST_NUMERIC,
                           "the bound is not finite at t = %d (time %g), image %lld: the network's "
                           "output overflowed or holds NaN; check that checkpoint, schedule and "
                           "network options belong together",
                           job->t[i], step_of(job, job->t[i])->time, (long long)(job->done + i));
    return DEMIST_OK;
}

static demist_status tell(const struct job *job, struct dm_error *err)
{
    struct dm_nll_progress told = {.done = job->done,
                                   .n_images = job->result->n_images,
                                   .evaluations = job->evaluations,
                                   .all = job->all,
                                   .batch = job->n,
                                   .so_far = job->result};
    if (job->options->progress && !job->options->progress(job->options->user, &told))
        return dm_fail(err, DEMIST_CANCELLED, "interrupted");
    return DEMIST_OK;
}

/* Evaluates every image of the batch at its job->t with draw k; the terms go to job->now. */
static demist_status evaluate(struct job *job, int64_t k, struct dm_error *err)
{
    struct dm_setup *s = job->setup;
    DM_TRY(draw_noise(job, k, err));
    for (int64_t i = 0; i < job->n; i++) {
        const demist_step *step = step_of(job, job->t[i]);
        float signal = (float)step->signal, noise = (float)step->noise;
        job->times[i] = dm_process_network_time(s->process, s->network.info.time, step->time);
        for (int64_t e = i * job->elements; e < (i + 1) * job->elements; e++)
            job->x[e] = signal * job->x0[e] + noise * job->eps[e];
    }
    DM_TRY(execute(job, k, err));
    dm_pool_parallel(s->env->services.pool, job->n, make_term, job);
    job->evaluations++;
    DM_TRY(check_finite(job, err));
    return job->evaluations < job->all ? tell(job, err) : DEMIST_OK;
}

static demist_status evaluate_all_at(struct job *job, int32_t t, int64_t k, struct dm_error *err)
{
    for (int64_t i = 0; i < job->n; i++)
        job->t[i] = t;
    return evaluate(job, k, err);
}

/* ---------------------------------------------------------------- every t */

static demist_status report_image(struct job *job, const struct dm_nll_image *image,
                                  struct dm_error *err)
{
    dm_mean_add(&job->result->total_bpd, image->total_bpd);
    dm_mean_add(&job->result->prior_bpd, image->prior_bpd);
    const struct dm_nll_options *o = job->options;
    return o->image ? o->image(o->user, image, err) : DEMIST_OK;
}

static demist_status finish_image(struct job *job, int64_t i, struct dm_error *err)
{
    int32_t T = job->n_steps;
    const struct term *terms = job->terms + i * T;
    double *vb = job->columns, *xstart_mse = vb + T, *mse = xstart_mse + T;
    struct dm_nll_image image = {.prior_bpd = prior_bpd(job, i), .n_steps = T};
    double sum = 0;
    for (int32_t t = 0; t < T; t++) {
        sum += terms[t].vb;
        dm_mean_add(&job->result->vb[t], vb[t] = terms[t].vb);
        dm_mean_add(&job->result->xstart_mse[t], xstart_mse[t] = terms[t].xstart_mse);
        dm_mean_add(&job->result->mse[t], mse[t] = terms[t].mse);
    }
    image.total_bpd = image.prior_bpd + sum;
    image.vb = vb;
    image.xstart_mse = xstart_mse;
    image.mse = mse;
    return report_image(job, &image, err);
}

static demist_status evaluate_every_t(struct job *job, struct dm_error *err)
{
    int32_t T = job->n_steps;
    for (int32_t t = T - 1; t >= 0; t--) {
        DM_TRY(evaluate_all_at(job, t, T - 1 - t, err));
        for (int64_t i = 0; i < job->n; i++)
            job->terms[i * T + t] = job->now[i];
    }
    for (int64_t i = 0; i < job->n; i++)
        DM_TRY(finish_image(job, i, err));
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- sampled t */

/* The pilot's j-th t: 0, 1, 2, 4, 8 … and T−1, as the terms fall by orders of magnitude near 0;
 * −1 behind the last. */
static int32_t pilot_t(int32_t T, int j)
{
    int64_t t = j == 0 ? 0 : (int64_t)1 << (j - 1);
    if (t < T)
        return (int32_t)t;
    int64_t before = j < 2 ? 0 : (int64_t)1 << (j - 2);
    return before < T - 1 ? T - 1 : -1;
}

static int pilot_count(int32_t T)
{
    int n = 0;
    while (pilot_t(T, n) >= 0 && (n == 0 || pilot_t(T, n) > pilot_t(T, n - 1)))
        n++;
    return n;
}

/* From √(mean vb²) at the pilot's t to probabilities of all: log-linear between in ln(1 + t). */
static void make_distribution(struct job *job, const double *rms)
{
    const double uniform = 0.1; /* no weight is above 10 times that of uniform sampling */
    int32_t T = job->n_steps;
    double sum = 0, largest = 0;
    int n = pilot_count(T);
    for (int j = 0; j < n; j++)
        largest = rms[j] > largest ? rms[j] : largest;
    for (int32_t t = 0, j = 0; t < T; t++) {
        while (j < n - 1 && pilot_t(T, j + 1) <= t)
            j++;
        double low = log(fmax(rms[j], 1e-12 * largest) + 1e-300), share = 0, high = low;
        if (j < n - 1) {
            double from = log1p(pilot_t(T, j)), to = log1p(pilot_t(T, j + 1));
            share = (log1p(t) - from) / (to - from);
            high = log(fmax(rms[j + 1], 1e-12 * largest) + 1e-300);
        }
        sum += job->p[t] = exp(low + share * (high - low));
    }
    double below = 0;
    for (int32_t t = 0; t < T; t++) {
        job->p[t] = (1 - uniform) * job->p[t] / sum + uniform / T;
        job->cdf[t] = below += job->p[t];
    }
}

/* The first t whose cumulative probability reaches u in (0, 1]. */
static int32_t invert(const struct job *job, double u)
{
    int32_t low = 0, high = job->n_steps - 1;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (job->cdf[middle] >= u)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static demist_status finish_sampled(struct job *job, int64_t i, struct dm_error *err)
{
    int64_t n = job->options->importance, strata = n / 2;
    const struct term *weighted = job->terms + i * n; /* vb holds vb/p */
    double sum = 0, squares = 0;
    for (int64_t h = 0; h < strata; h++) {
        double a = weighted[2 * h].vb, b = weighted[2 * h + 1].vb;
        sum += (a + b) / 2;
        squares += (a - b) * (a - b) / 4;
    }
    double variance = squares / (double)(strata * strata);
    struct dm_nll_image image = {.prior_bpd = prior_bpd(job, i), .n_steps = job->n_steps};
    image.total_bpd = image.prior_bpd + sum / (double)strata;
    image.sampling_error = sqrt(variance);
    job->variance += variance;
    DM_TRY(report_image(job, &image, err));
    job->result->sampling_error = sqrt(job->variance) / (double)job->result->total_bpd.n;
    return DEMIST_OK;
}

static demist_status evaluate_sampled_t(struct job *job, struct dm_error *err)
{
    int64_t n = job->options->importance, strata = n / 2;
    for (int64_t k = 0; k < n; k++) {
        const int64_t stratum = k / 2; /* two draws each */
        for (int64_t i = 0; i < job->n; i++) {
            float u;
            dm_philox_uniform(job->setup->config.sample.seed, (uint32_t)(job->done + i),
                              DEMIST_NOISE_TIME, 0, (uint64_t)k, 1, &u);
            job->t[i] = invert(job, ((double)stratum + (double)u) / (double)strata);
        }
        DM_TRY(evaluate(job, k, err));
        for (int64_t i = 0; i < job->n; i++)
            job->terms[i * n + k].vb = job->now[i].vb / job->p[job->t[i]];
    }
    for (int64_t i = 0; i < job->n; i++)
        DM_TRY(finish_sampled(job, i, err));
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- the run */

/* Pictures are in range; floats are taken as they are, and 0 … 255 is a common mistake. */
static demist_status check_range(const struct job *job, struct dm_error *err)
{
    for (int64_t e = 0; e < job->n * job->elements; e++)
        if (!(job->x0[e] >= -1.0001F && job->x0[e] <= 1.0001F))
            return dm_fail(err, DEMIST_INVALID,
                           "%s: image %lld holds the value %g; images are in [-1, 1], or bytes",
                           job->path, (long long)(job->done + e / job->elements),
                           (double)job->x0[e]);
    return DEMIST_OK;
}

/* Reads the next images, and sets what they are conditioned on. */
static demist_status load_batch(struct job *job, int64_t n, struct dm_error *err)
{
    bool labelled = job->setup->network.info.n_classes > 0;
    job->n = n;
    DM_TRY(dm_dataset_read(job->data, job->done, n, job->x0, labelled ? job->labels : NULL, err));
    DM_TRY(check_range(job, err));
    dm_conditions_of(&job->conditions, job->done, n, NULL, job->context, job->low_res);
    struct dm_conditions conditions = {
        .labels = labelled ? job->labels : NULL,
        .context = job->conditions.n_contexts ? job->context : NULL,
        .low_res = job->conditions.low_res.n ? job->low_res : NULL,
    };
    DM_TRY(dm_model_condition(&job->model, n, &conditions, false, err));
    return dm_noise_start(job->noise, job->done, n, err);
}

static int64_t next_batch(const struct job *job, int64_t images)
{
    int64_t left = images - job->done;
    return left < job->max_batch ? left : job->max_batch;
}

/* How t is sampled, from the first images whatever the batch. Draws of their own keep the estimates
 * independent of the noise that chose p. */
static demist_status run_pilot(struct job *job, struct dm_error *err)
{
    double rms[MAX_PILOT] = {0};
    int n = pilot_count(job->n_steps);
    int64_t images = job->result->n_images < PILOT_IMAGES ? job->result->n_images : PILOT_IMAGES;
    for (; job->done < images; job->done += job->n) {
        DM_TRY(load_batch(job, next_batch(job, images), err));
        job->evaluations = 0;
        job->all = n + 1; /* never at its end: no image is done by it */
        for (int j = 0; j < n; j++) {
            int64_t k = job->options->importance + j;
            DM_TRY(evaluate_all_at(job, pilot_t(job->n_steps, j), k, err));
            for (int64_t i = 0; i < job->n; i++)
                rms[j] += job->now[i].vb * job->now[i].vb / (double)images;
        }
    }
    job->done = 0;
    for (int j = 0; j < n; j++)
        rms[j] = sqrt(rms[j]);
    make_distribution(job, rms);
    return DEMIST_OK;
}

static demist_status run_batch(struct job *job, struct dm_error *err)
{
    int64_t n = job->options->importance;
    DM_TRY(load_batch(job, next_batch(job, job->result->n_images), err));
    job->evaluations = 0;
    job->all = n ? n : job->n_steps;
    DM_TRY(n ? evaluate_sampled_t(job, err) : evaluate_every_t(job, err));
    job->done += job->n;
    return tell(job, err);
}

static demist_status check_options(const struct job *job, struct dm_error *err)
{
    const struct dm_setup *s = job->setup;
    int64_t n = job->options->importance;
    if (s->network.info.rank != 3)
        return dm_fail(err, DEMIST_UNSUPPORTED,
                       "bits per dimension are of 8-bit images, and network %s makes points",
                       s->config.network.use);
    if (n != 0 && (n < 2 || n % 2 != 0 || n > INT32_MAX))
        return dm_fail(err, DEMIST_INVALID,
                       "%lld draws of t an image: an even number from 2 on is needed, as pairs "
                       "tell the error",
                       (long long)n);
    if (n != 0 && s->config.noise.source != DM_NOISE_PHILOX)
        return dm_fail(err, DEMIST_CONFIG,
                       "sampled t have no order in which noise could be replayed: take [noise] "
                       "source = philox");
    return DEMIST_OK;
}

/* Labels are the data's, so that those of [sample] do not count. */
static demist_status open_conditions(struct job *job, struct dm_error *err)
{
    struct dm_setup *s = job->setup;
    struct dm_run_config config = s->config;
    config.sample.labels = s->network.info.n_classes > 0 ? "0" : "";
    DM_TRY(dm_conditions_parse(&config, s->ini, &s->network, &job->conditions, err));
    job->conditions.n_labels = 0;
    int64_t low_res = job->conditions.low_res.n, images = dm_dataset_count(job->data);
    if (low_res && low_res != images)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "[sample] low_res: %lld images, and the data are %lld: each needs its own",
                       (long long)low_res, (long long)images);
    return DEMIST_OK;
}

static demist_status open_data(struct job *job, struct dm_error *err)
{
    const struct dm_setup *s = job->setup;
    const demist_network_info *info = &s->network.info;
    const struct dm_log *log = s->env->services.log;
    DM_TRY(dm_dataset_open(job->path, info->rank, info->shape, &job->data, err));
    job->result->n_images = dm_dataset_count(job->data);
    int64_t names = dm_dataset_name_classes(job->data);
    if (info->n_classes > 0)
        DM_TRY(dm_dataset_check_labels(job->data, info->n_classes, err));
    if (info->n_classes > 0 && names > 0 && names < info->n_classes)
        dm_log(log, DM_LOG_WARNING,
               "%s: the file names make %lld classes, and the network has %lld; they are numbered "
               "from 0 in the order of the names",
               job->path, (long long)names, (long long)info->n_classes);
    if (s->config.sample.guidance_scale != 1)
        dm_log(log, DM_LOG_WARNING, "[sample] guidance_scale has no part in a likelihood");
    return DEMIST_OK;
}

static demist_status open_noise(struct job *job, struct dm_error *err)
{
    const struct dm_setup *s = job->setup;
    struct dm_noise_options noise = {.kind = s->config.noise.source,
                                     .seed = s->config.sample.seed,
                                     .file = s->config.noise.file,
                                     .draws = DM_DRAWS_DIFFUSERS, /* a batch draws what it uses */
                                     .n_steps = job->n_steps,
                                     .rank = s->network.info.rank,
                                     .shape = s->network.info.shape};
    return dm_noise_source_open(&noise, &job->noise, err);
}

static bool allocate_result(struct job *job)
{
    size_t T = (size_t)job->n_steps;
    struct dm_nll_result *r = job->result;
    r->n_steps = job->n_steps;
    if (job->options->importance)
        return true;
    r->vb = calloc(T, sizeof *r->vb);
    r->xstart_mse = calloc(T, sizeof *r->xstart_mse);
    r->mse = calloc(T, sizeof *r->mse);
    return r->vb && r->xstart_mse && r->mse;
}

static demist_status allocate(struct job *job, struct dm_error *err)
{
    const struct dm_setup *s = job->setup;
    const int64_t *small = job->conditions.low_res.shape;
    size_t n = (size_t)job->max_batch, image = n * (size_t)job->elements * sizeof(float);
    size_t T = (size_t)job->n_steps;
    size_t drawn = job->options->importance ? (size_t)job->options->importance : T;
    size_t workers = (size_t)dm_pool_workers(s->env->services.pool), terms;
    job->x0 = malloc(image);
    job->eps = malloc(image);
    job->x = malloc(image);
    job->out = malloc(n * (size_t)job->model.raw_elements * sizeof *job->out);
    job->times = malloc(n * sizeof *job->times);
    job->context = malloc(n * (size_t)(s->network.info.context_size + 1) * sizeof *job->context);
    job->low_res =
        malloc((n * (size_t)(small[0] * small[1] * small[2]) + 1) * sizeof *job->low_res);
    job->labels = malloc(n * sizeof *job->labels);
    job->scratch = malloc(workers * 3 * (size_t)job->elements * sizeof *job->scratch);
    if (dm_mul_size(n * sizeof *job->terms, drawn, &terms))
        job->terms = malloc(terms);
    job->now = malloc(n * sizeof *job->now);
    job->t = malloc(n * sizeof *job->t);
    job->columns = malloc(3 * T * sizeof *job->columns);
    job->p = malloc(T * sizeof *job->p);
    job->cdf = malloc(T * sizeof *job->cdf);
    bool ok = job->x0 && job->eps && job->x && job->out && job->times && job->context &&
              job->low_res && job->labels && job->scratch && job->terms && job->now && job->t &&
              job->columns && job->p && job->cdf && allocate_result(job);
    return ok ? DEMIST_OK : dm_fail_memory(err, "a batch of images");
}

static demist_status open_job(struct job *job, struct dm_error *err)
{
    struct dm_setup *s = job->setup;
    struct dm_device *d = &s->device;
    job->n_steps = (int32_t)dm_process_kept(s->process)->n; /* whichever way sampling walks */
    job->elements = s->network.n_elements;
    DM_TRY(check_options(job, err));
    DM_TRY(dm_reverse_open(s, &job->reverse, err));
    DM_TRY(open_data(job, err));
    DM_TRY(open_conditions(job, err));
    DM_TRY(open_noise(job, err));
    job->max_batch = dm_setup_batch_of(s, job->result->n_images);
    DM_TRY(dm_model_compile(&job->model, &s->network, d, job->max_batch, 0, err));
    size_t n = (size_t)job->max_batch * sizeof(float);
    DM_TRY(dm_device_buffer(d, n * (size_t)job->elements, "x", &job->x_buffer, err));
    DM_TRY(dm_device_buffer(d, n * (size_t)job->model.raw_elements, "out", &job->out_buffer, err));
    DM_TRY(dm_model_bind(&job->model, job->x_buffer, job->out_buffer, false, &job->binding, err));
    return allocate(job, err);
}

static void close_job(struct job *job)
{
    const demist_backend_vtable *vtable = job->setup->device.vtable;
    if (job->binding)
        vtable->binding_destroy(job->binding);
    if (job->x_buffer)
        vtable->buffer_destroy(job->x_buffer);
    if (job->out_buffer)
        vtable->buffer_destroy(job->out_buffer);
    dm_model_finish(&job->model);
    dm_noise_source_close(job->noise);
    dm_conditions_finish(&job->conditions);
    dm_dataset_close(job->data);
    free(job->x0);
    free(job->eps);
    free(job->x);
    free(job->out);
    free(job->times);
    free(job->context);
    free(job->low_res);
    free(job->labels);
    free(job->scratch);
    free(job->terms);
    free(job->now);
    free(job->t);
    free(job->columns);
    free(job->p);
    free(job->cdf);
}

demist_status dm_evaluate_nll(struct dm_setup *setup, const char *data,
                              const struct dm_nll_options *options, struct dm_nll_result *result,
                              struct dm_error *err)
{
    struct job job = {.setup = setup, .options = options, .result = result, .path = data};
    *result = (struct dm_nll_result){0};
    demist_status status = open_job(&job, err);
    if (status == DEMIST_OK && options->importance)
        status = run_pilot(&job, err);
    while (status == DEMIST_OK && job.done < result->n_images)
        status = run_batch(&job, err);
    close_job(&job);
    return status;
}

void dm_nll_result_finish(struct dm_nll_result *result)
{
    free(result->vb);
    free(result->xstart_mse);
    free(result->mse);
    *result = (struct dm_nll_result){0};
}

#include "ranking.h"

#include "dataset.h"
#include "diffusion.h"
#include "philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_LEVELS = 5,
    MAX_IMAGES = 8,
    MAX_POINTS = 1024,
    MAX_SETS = 8,
    MAX_TIMES = 64,
    MAX_NETWORKS = 64,
};

/* ln of the squared errors' ratio beyond which a candidate is given up after the first round, and
 * below which two are called equal whatever their standard error. */
static const double hopeless = 0.8, equal = 0.002;

/* Noise levels lie between these ᾱ: nearer to the ends all candidates err alike. */
static const double clean = 0.98, noisy = 0.02;

enum prediction { PREDICT_EPS, PREDICT_X0, PREDICT_V, N_PREDICTIONS };
static const char *const prediction_names[] = {"eps", "x0", "v"};

/* A choice that changes the noise levels' timesteps, or how the network is told of them. */
struct time_choice {
    const char *set[MAX_SETS];
    float network_time[N_LEVELS];
    double signal[N_LEVELS], noise[N_LEVELS];
    bool course_noise; /* noised in training with (1 − ᾱ)·ε, as the course's code does */
    struct dm_setup setup;
};

/* A choice that changes the network. */
struct network_choice {
    const char *set[MAX_SETS];
    int64_t small_size;
};

struct job {
    const struct dm_environment *env;
    struct dm_environment quiet; /* notices about candidates are noise */
    struct dm_log log;
    const char *checkpoint;
    struct dm_finding *f;
    const char *data;       /* a path */
    struct dm_arena *arena; /* of the result */
    char *text;             /* the base description */
    struct time_choice *times;
    struct network_choice *networks;
    int n_times, n_networks, n_predictions;
    int n_images;
    int64_t elements;
    double level[N_LEVELS]; /* ln of signal over noise */

    float *x0;       /* [n_images][elements], spread over the data */
    float *eps;      /* [n_images][N_LEVELS][elements] */
    int64_t *labels; /* [n_images] */
    double *error;   /* [candidates][n_images]: mean over levels of ln of ε's mean squared error */
    double *extra;   /* [networks][times]: mean of the outputs' second half */
    bool *alive;     /* [candidates] */
};

static int n_candidates(const struct job *job)
{
    return job->n_networks * job->n_times * job->n_predictions;
}

static int candidate(const struct job *job, int network, int time, int prediction)
{
    return (network * job->n_times + time) * job->n_predictions + prediction;
}

/* ---------------------------------------------------------------- candidates */

/* "schedule.steps=1000"; NULL without memory, which open_ini notices. */
static const char *assign(struct job *job, const char *key, const char *value)
{
    const char *text = dm_arena_printf(job->arena, "%s=%s", key, value);
    return text ? text : "";
}

static const char *assign_number(struct job *job, const char *key, int64_t value)
{
    const char *text = dm_arena_printf(job->arena, "%s=%lld", key, (long long)value);
    return text ? text : "";
}

static struct time_choice *add_time(struct job *job)
{
    return job->n_times < MAX_TIMES ? &job->times[job->n_times++] : NULL;
}

static const char *assumed(const struct job *job, const char *section, const char *key)
{
    const char *value = dm_finding_get(job->f, section, key);
    return value ? value : "";
}

/* The U-Net's: schedule, T, and whether t is rescaled, which is the same for T = 1000. The usual
 * ones first, as of equal ones the first is taken. */
static void list_unet_times(struct job *job)
{
    static const int64_t steps[] = {1000, 4000, 2000, 500, 100};
    bool cosine_first = strcmp(assumed(job, "schedule", "use"), "cosine") == 0;
    bool rescale_first = strcmp(assumed(job, "network.unet", "rescale_timesteps"), "true") == 0;
    for (size_t k = 0; k < sizeof steps / sizeof *steps; k++)
        for (int s = 0; s < 2; s++)
            for (int r = 0; r < (steps[k] == 1000 ? 1 : 2); r++) {
                struct time_choice *c = add_time(job);
                c->set[0] =
                    (s == 0) == cosine_first ? "schedule.use=cosine" : "schedule.use=linear";
                c->set[1] = assign_number(job, "schedule.steps", steps[k]);
                c->set[2] = assign(job, "network.unet.rescale_timesteps",
                                   (r == 0) == rescale_first ? "true" : "false");
            }
}

/* Of networks that see index/T: ends of linear literal or scaled, indices from 0 or 1. */
static void list_times(struct job *job)
{
    bool course = job->f->network == DM_FOUND_CONTEXT_UNET;
    const int64_t steps[] = {course ? 500 : 1000, course ? 1000 : 100, course ? 100 : 500, 4000};
    for (size_t k = 0; k < sizeof steps / sizeof *steps; k++)
        for (int scaled = 0; scaled < (steps[k] == 1000 ? 1 : 2); scaled++)
            for (int i = 0; i < 2; i++) {
                struct time_choice *c = add_time(job);
                c->set[0] = "schedule.use=linear";
                c->set[1] = assign_number(job, "schedule.steps", steps[k]);
                c->set[2] = assign(job, "schedule.linear.beta_start", scaled ? "auto" : "0.0001");
                c->set[3] = assign(job, "schedule.linear.beta_end", scaled ? "auto" : "0.02");
                c->set[4] =
                    assign(job, "schedule.linear.indexing", (i == 0) == course ? "one" : "zero");
            }
    for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
        struct time_choice *c = add_time(job);
        c->set[0] = "schedule.use=cosine";
        c->set[1] = assign_number(job, "schedule.steps", steps[k]);
    }
    for (int i = 0, n = job->n_times; course && i < n; i++) {
        struct time_choice *c = add_time(job);
        *c = job->times[i];
        c->course_noise = true;
    }
}

/* Whether every attention of the network can have so many heads, or heads of so many channels. */
static bool divides(const struct dm_finding *f, int64_t heads, int64_t per_head)
{
    bool all = true;
    for (int level = 0; level < f->n_levels; level++) {
        /* The last level counts always: the middle block has attention. */
        int64_t c = level == f->n_levels - 1 ? f->width[level] : f->attention[level];
        if (c && (heads > 0 ? c % heads : c % per_head) != 0)
            all = false;
    }
    return all;
}

/* How many heads the first attention has, to leave out what is the same where all have one width.
 */
static bool one_width(const struct dm_finding *f, int64_t *width)
{
    *width = f->width[f->n_levels - 1];
    for (int level = 0; level < f->n_levels; level++)
        if (f->attention[level] && f->attention[level] != *width)
            return false;
    return true;
}

static void add_network(struct job *job, int64_t heads, int64_t per_head, bool new_order,
                        int64_t small)
{
    if (job->n_networks == MAX_NETWORKS)
        return;
    struct network_choice *c = &job->networks[job->n_networks++];
    int n = 0;
    c->set[n++] = assign_number(job, "network.unet.num_heads", heads > 0 ? heads : 4);
    c->set[n++] = assign_number(job, "network.unet.num_head_channels", per_head);
    c->set[n++] = assign(job, "network.unet.attention_order", new_order ? "new" : "legacy");
    c->small_size = small;
    if (small > 0)
        c->set[n++] = assign_number(job, "network.unet.small_size", small);
}

static void list_heads(struct job *job, int64_t small)
{
    static const int64_t counts[] = {4, 1, 2, 8, 16};
    static const int64_t widths[] = {64, 32, 16, 128};
    int64_t width;
    bool same = one_width(job->f, &width);
    for (int order = 0; order < 2; order++) {
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            if (divides(job->f, counts[i], -1) && (order == 0 || counts[i] > 1))
                add_network(job, counts[i], -1, order == 1, small);
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            bool known = same && width / widths[i] <= 16 &&
                         (width / widths[i] & (width / widths[i] - 1)) == 0;
            if (divides(job->f, 0, widths[i]) && !known)
                add_network(job, 0, widths[i], order == 1, small);
        }
    }
}

static void list_networks(struct job *job)
{
    const struct dm_finding *f = job->f;
    if (f->network != DM_FOUND_UNET) {
        job->n_networks = 1;
        return;
    }
    for (int64_t factor = 4; f->super_resolution && factor > 1; factor /= 2)
        if (f->shape[1] % factor == 0)
            list_heads(job, f->shape[1] / factor);
    if (!f->super_resolution)
        list_heads(job, 0);
}

/* ---------------------------------------------------------------- descriptions */

/* The base description with a candidate's options. */
static demist_status open_ini(struct job *job, const char *const *set, struct dm_ini **ini,
                              struct dm_error *err)
{
    char *checkpoint = NULL;
    DM_TRY(dm_ini_read_memory("probe.ini", job->text, strlen(job->text), ini, err));
    demist_status status = DEMIST_OK;
    struct dm_text text = DM_TEXT_INIT;
    dm_text_appendf(&text, "network.checkpoint=%s", job->checkpoint);
    checkpoint = dm_text_take(&text);
    status = checkpoint ? dm_ini_set(*ini, checkpoint, err) : dm_fail_memory(err, "a path");
    for (int i = 0; status == DEMIST_OK && i < MAX_SETS && set[i]; i++)
        status = dm_ini_set(*ini, set[i], err);
    free(checkpoint);
    if (status != DEMIST_OK)
        dm_ini_destroy(*ini);
    return status;
}

/* ln of signal over noise as the network saw it in training: the course's code noises with 1 − ᾱ
 * where √(1 − ᾱ) is meant. */
static double seen(const struct time_choice *c, double signal, double noise)
{
    return log(signal / (c->course_noise ? noise * noise : noise));
}

/* The λ of the schedule at which `seen` is `level`. With z = √ᾱ, z/(1 − z²) = exp(level). */
static double lambda_at(const struct time_choice *c, double level)
{
    double e = exp(level), z = (sqrt(1 + 4 * e * e) - 1) / (2 * e);
    return c->course_noise ? log(z / sqrt(1 - z * z)) : level;
}

/* Narrows [low, high], the range of noise levels, to what the choice's schedule reaches. */
static demist_status narrow(struct job *job, struct time_choice *c, double *low, double *high,
                            struct dm_error *err)
{
    struct dm_ini *ini;
    DM_TRY(open_ini(job, c->set, &ini, err));
    demist_status status = dm_setup_open(&c->setup, &job->quiet, ini, DM_NEED_SCHEDULE, err);
    if (status == DEMIST_OK) {
        const struct dm_diffusion *d = dm_process_whole(c->setup.process);
        int64_t first = d->noise[1] > 0 ? 1 : 2; /* the course's index 0 is clean */
        *low = fmax(*low, seen(c, d->signal[d->n], d->noise[d->n]));
        *high = fmin(*high, seen(c, d->signal[first], d->noise[first]));
    }
    c->setup.ini = NULL;
    dm_ini_destroy(ini);
    return status;
}

static demist_time_form form_of(const struct job *job, const struct time_choice *c)
{
    if (job->f->network != DM_FOUND_UNET)
        return DEMIST_TIME_INDEX_OVER_T;
    return strstr(c->set[2], "=true") ? DEMIST_TIME_INDEX_1000 : DEMIST_TIME_INDEX;
}

/* The times, fractions too, at which the choice's schedule has exactly the noise levels: rounding
 * them to indices would give short schedules other levels, and with them other errors. */
static demist_status lay_times(struct job *job, struct time_choice *c, struct dm_error *err)
{
    for (int l = 0; l < N_LEVELS; l++) {
        double t;
        demist_coeffs at = DEMIST_INIT(demist_coeffs);
        DM_TRY(dm_process_time_of(c->setup.process, lambda_at(c, job->level[l]), &t, err));
        DM_TRY(dm_process_coeffs(c->setup.process, t, &at, err));
        c->signal[l] = at.signal;
        c->noise[l] = c->course_noise ? at.noise * at.noise : at.noise;
        c->network_time[l] = dm_process_network_time(c->setup.process, form_of(job, c), t);
    }
    return DEMIST_OK;
}

static demist_status lay_levels(struct job *job, struct dm_error *err)
{
    double low = 0.5 * log(noisy / (1 - noisy)), high = 0.5 * log(clean / (1 - clean));
    for (int i = 0; i < job->n_times; i++)
        DM_TRY(narrow(job, &job->times[i], &low, &high, err));
    for (int l = 0; l < N_LEVELS; l++)
        job->level[l] = high + (low - high) * (l + 0.5) / N_LEVELS;
    for (int i = 0; i < job->n_times; i++)
        DM_TRY(lay_times(job, &job->times[i], err));
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- measuring */

/* One network while it is measured. */
struct bench {
    struct dm_ini *ini;
    struct dm_setup setup;
    struct dm_model model;
    demist_buffer *x_buffer, *out_buffer;
    demist_binding *binding;
    float *x, *out, *low_res, *t; /* [max_batch, …] */
    int64_t *labels;
    int64_t small; /* elements of a low-resolution image */
};

static void close_bench(struct bench *b)
{
    const demist_backend_vtable *vtable = b->setup.device.vtable;
    if (b->binding)
        vtable->binding_destroy(b->binding);
    if (b->x_buffer)
        vtable->buffer_destroy(b->x_buffer);
    if (b->out_buffer)
        vtable->buffer_destroy(b->out_buffer);
    dm_model_finish(&b->model);
    dm_setup_close(&b->setup);
    dm_ini_destroy(b->ini);
    free(b->x);
    free(b->out);
    free(b->low_res);
    free(b->t);
    free(b->labels);
}

static demist_status open_bench(struct job *job, const struct network_choice *c, struct bench *b,
                                struct dm_error *err)
{
    DM_TRY(open_ini(job, c->set, &b->ini, err));
    DM_TRY(dm_setup_open(&b->setup, &job->quiet, b->ini, DM_NEED_NETWORK | DM_NEED_BACKEND, err));
    if (b->setup.network.n_elements != job->elements)
        return dm_fail(err, DEMIST_INTERNAL, "probe: the network's data have another shape");
    struct dm_device *d = &b->setup.device;
    int64_t max = job->f->rank == 1 ? N_LEVELS * MAX_POINTS : 16;
    DM_TRY(dm_model_compile(&b->model, &b->setup.network, d, max, 0, err));
    const demist_node *image = dm_network_input(&b->setup.network, DEMIST_ROLE_IMAGE);
    b->small = image ? demist_elements(image) : 0;
    size_t x = (size_t)(max * job->elements), out = (size_t)(max * b->model.raw_elements);
    b->x = malloc(x * sizeof *b->x);
    b->out = malloc(out * sizeof *b->out);
    b->low_res = malloc((size_t)(max * b->small + 1) * sizeof *b->low_res);
    b->t = malloc((size_t)max * sizeof *b->t);
    b->labels = malloc((size_t)max * sizeof *b->labels);
    if (!b->x || !b->out || !b->low_res || !b->t || !b->labels)
        return dm_fail_memory(err, "a batch of images");
    DM_TRY(dm_device_buffer(d, x * sizeof *b->x, "x", &b->x_buffer, err));
    DM_TRY(dm_device_buffer(d, out * sizeof *b->out, "out", &b->out_buffer, err));
    return dm_model_bind(&b->model, b->x_buffer, b->out_buffer, false, &b->binding, err);
}

static const float *image_of(const struct job *job, int i)
{
    return job->x0 + i * job->elements;
}

/* The means of k×k squares: how training makes low-resolution images. */
static void shrink(const struct job *job, int image, int64_t small, float *out)
{
    int64_t size = job->f->shape[1], k = size / small;
    const float *x = image_of(job, image);
    for (int64_t c = 0; c < job->f->shape[0]; c++)
        for (int64_t i = 0; i < small; i++)
            for (int64_t j = 0; j < small; j++) {
                double sum = 0;
                for (int64_t p = 0; p < k * k; p++)
                    sum += (double)x[(c * size + i * k + p / k) * size + j * k + p % k];
                *out++ = (float)(sum / (double)(k * k));
            }
}

static const float *eps_of(const struct job *job, int pair)
{
    return job->eps + (int64_t)pair * job->elements;
}

/* Pair p is image p/N_LEVELS at level p%N_LEVELS. Fills the batch of pairs first … first+n−1. */
static void fill_batch(struct job *job, const struct time_choice *time, int64_t small_size,
                       struct bench *b, int first, int n)
{
    for (int p = 0; p < n; p++) {
        int image = (first + p) / N_LEVELS, level = (first + p) % N_LEVELS;
        const float *x0 = image_of(job, image), *eps = eps_of(job, first + p);
        float signal = (float)time->signal[level], noise = (float)time->noise[level];
        for (int64_t i = 0; i < job->elements; i++)
            b->x[p * job->elements + i] = signal * x0[i] + noise * eps[i];
        b->t[p] = time->network_time[level];
        b->labels[p] = job->labels[image];
        if (b->small)
            shrink(job, image, small_size, b->low_res + p * b->small);
    }
}

static demist_status evaluate(struct job *job, struct bench *b, int n, struct dm_error *err)
{
    struct dm_device *d = &b->setup.device;
    struct dm_conditions conditions = {.labels = b->labels, .low_res = b->low_res};
    DM_TRY(dm_model_condition(&b->model, n, &conditions, false, err));
    DM_TRY(dm_device_check(d, "buffer_write",
                           d->vtable->buffer_write(d->queue, b->x_buffer, 0, b->x,
                                                   (size_t)(n * job->elements) * sizeof(float)),
                           err));
    DM_TRY(dm_model_execute(&b->model, b->binding, b->t, n, 0, 0, 0, err));
    return dm_device_check(
        d, "buffer_read",
        d->vtable->buffer_read(d->queue, b->out_buffer, 0, b->out,
                               (size_t)(n * b->model.raw_elements) * sizeof(float)),
        err);
}

/* Mean squared error of ε as the output has it, read as each kind of prediction. */
static void measure(const struct job *job, const struct bench *b, const struct time_choice *time,
                    int pair, int p, double mse[N_PREDICTIONS], double *extra)
{
    double s = time->signal[pair % N_LEVELS], n = time->noise[pair % N_LEVELS];
    const float *x = b->x + p * job->elements, *out = b->out + p * b->model.raw_elements;
    const float *eps = eps_of(job, pair);
    double sum[N_PREDICTIONS] = {0}, second = 0;
    for (int64_t i = 0; i < job->elements; i++) {
        double o = out[i], e = eps[i];
        double as[N_PREDICTIONS] = {o, (x[i] - s * o) / n, s * o + n * x[i]};
        for (int k = 0; k < N_PREDICTIONS; k++)
            sum[k] += (as[k] - e) * (as[k] - e);
    }
    for (int64_t i = job->elements; i < b->model.raw_elements; i++)
        second += out[i];
    for (int k = 0; k < N_PREDICTIONS; k++)
        mse[k] = sum[k] / (double)job->elements;
    *extra += second / (double)job->elements;
}

static bool worth(const struct job *job, int network, int time)
{
    for (int k = 0; k < job->n_predictions; k++)
        if (job->alive[candidate(job, network, time, k)])
            return true;
    return false;
}

/* Images first … last−1 of one network under one schedule. */
static demist_status measure_time(struct job *job, struct bench *b, int network, int time,
                                  int first, int last, struct dm_error *err)
{
    const struct time_choice *c = &job->times[time];
    int max = (int)b->model.max_batch, end = last * N_LEVELS;
    double extra = 0;
    for (int pair = first * N_LEVELS; pair < end; pair += max) {
        int n = end - pair < max ? end - pair : max;
        fill_batch(job, c, job->networks[network].small_size, b, pair, n);
        DM_TRY(evaluate(job, b, n, err));
        for (int p = 0; p < n; p++) {
            double mse[N_PREDICTIONS] = {0};
            measure(job, b, c, pair + p, p, mse, &extra);
            for (int k = 0; k < job->n_predictions; k++) {
                double term = isfinite(mse[k]) ? log(fmax(mse[k], 1e-30)) : 1e3;
                job->error[candidate(job, network, time, k) * job->n_images +
                           (pair + p) / N_LEVELS] += term / N_LEVELS;
            }
        }
    }
    job->extra[network * job->n_times + time] = extra / ((last - first) * N_LEVELS);
    return DEMIST_OK;
}

static demist_status measure_all(struct job *job, int first, int last, struct dm_error *err)
{
    for (int network = 0; network < job->n_networks; network++) {
        bool any = false;
        for (int time = 0; time < job->n_times; time++)
            any = any || worth(job, network, time);
        if (!any)
            continue;
        struct bench b = {0};
        demist_status status = open_bench(job, &job->networks[network], &b, err);
        for (int time = 0; status == DEMIST_OK && time < job->n_times; time++)
            if (worth(job, network, time))
                status = measure_time(job, &b, network, time, first, last, err);
        close_bench(&b);
        DM_TRY(status);
    }
    return DEMIST_OK;
}

static double mean_error(const struct job *job, int c, int images)
{
    double sum = 0;
    for (int i = 0; i < images; i++)
        sum += job->error[c * job->n_images + i];
    return sum / images;
}

static int best_candidate(const struct job *job, int images)
{
    int best = -1;
    for (int c = 0; c < n_candidates(job); c++)
        if (job->alive[c] &&
            (best < 0 || mean_error(job, c, images) < mean_error(job, best, images)))
            best = c;
    return best;
}

/* A first round on a quarter of the images spares most candidates' full cost. */
static demist_status race(struct job *job, struct dm_error *err)
{
    int first = job->n_images >= 8 ? job->n_images / 4 : job->n_images;
    DM_TRY(measure_all(job, 0, first, err));
    int best = best_candidate(job, first);
    for (int c = 0; c < n_candidates(job); c++)
        if (mean_error(job, c, first) > mean_error(job, best, first) + hopeless)
            job->alive[c] = false;
    return first < job->n_images ? measure_all(job, first, job->n_images, err) : DEMIST_OK;
}

/* ---------------------------------------------------------------- preparing */

/* Reads what is probed with from the data. */
static demist_status read_images(struct job *job, struct dm_dataset *data, struct dm_error *err)
{
    const struct dm_finding *f = job->f;
    int64_t n = dm_dataset_count(data), most = f->rank == 1 ? MAX_POINTS : MAX_IMAGES;
    bool told = f->n_classes > 0 && dm_dataset_tells_classes(data, f->n_classes);
    job->n_images = (int)(n < most ? n : most);
    job->x0 = malloc((size_t)(job->n_images * job->elements) * sizeof *job->x0);
    job->labels = calloc((size_t)job->n_images, sizeof *job->labels);
    if (!job->x0 || !job->labels)
        return dm_fail_memory(err, "the images to probe with");
    if (told)
        DM_TRY(dm_dataset_check_labels(data, f->n_classes, err));
    else if (f->n_classes > 0)
        dm_log(job->env->services.log, DM_LOG_WARNING,
               "the data have no labels (tensor y or arr_1, or names like CLASS_NAME.png): classes "
               "are dealt out in turn, so errors are larger than they need be, for all candidates "
               "alike");
    for (int i = 0; i < job->n_images; i++) {
        job->labels[i] = f->n_classes > 0 ? i % f->n_classes : 0;
        DM_TRY(dm_dataset_read(data, i * n / job->n_images, 1, job->x0 + i * job->elements,
                               told ? &job->labels[i] : NULL, err));
    }
    return DEMIST_OK;
}

static demist_status prepare_images(struct job *job, struct dm_error *err)
{
    const struct dm_finding *f = job->f;
    struct dm_dataset *data;
    DM_TRY(dm_dataset_open_exact(job->data, NULL, f->rank, f->shape, &data, err));
    job->elements = f->rank == 1 ? f->shape[0] : f->shape[0] * f->shape[1] * f->shape[2];
    demist_status status = read_images(job, data, err);
    dm_dataset_close(data);
    return status;
}

static demist_status prepare(struct job *job, struct dm_error *err)
{
    const struct dm_finding *f = job->f;
    DM_TRY(prepare_images(job, err));
    job->n_predictions = f->network == DM_FOUND_UNET ? N_PREDICTIONS : 1;
    struct dm_text text = DM_TEXT_INIT;
    dm_finding_print(f, "", &text);
    job->text = dm_text_take(&text);
    job->times = calloc(MAX_TIMES, sizeof *job->times);
    job->networks = calloc(MAX_NETWORKS, sizeof *job->networks);
    if (!job->text || !job->times || !job->networks)
        return dm_fail_memory(err, "candidates");
    if (f->network == DM_FOUND_UNET)
        list_unet_times(job);
    else
        list_times(job);
    list_networks(job);
    if (job->n_networks == 0)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "no number of heads divides the channels of all attention blocks");
    DM_TRY(lay_levels(job, err));

    size_t all = (size_t)n_candidates(job);
    job->eps = malloc((size_t)(job->n_images * N_LEVELS) * (size_t)job->elements * sizeof(float));
    job->error = calloc(all * (size_t)job->n_images, sizeof *job->error);
    job->extra = calloc(all, sizeof *job->extra);
    job->alive = calloc(all, sizeof *job->alive);
    if (!job->eps || !job->error || !job->extra || !job->alive)
        return dm_fail_memory(err, "candidates");
    for (size_t c = 0; c < all; c++)
        job->alive[c] = true;
    for (int p = 0; p < job->n_images * N_LEVELS; p++)
        dm_philox_normal(0, (uint32_t)(p / N_LEVELS), DEMIST_NOISE_STEP, (uint32_t)(p % N_LEVELS),
                         0, (size_t)job->elements, job->eps + (int64_t)p * job->elements);
    return DEMIST_OK;
}

static void close_job(struct job *job)
{
    for (int i = 0; i < job->n_times; i++)
        dm_setup_close(&job->times[i].setup);
    free(job->text);
    free(job->times);
    free(job->networks);
    free(job->labels);
    free(job->x0);
    free(job->eps);
    free(job->error);
    free(job->extra);
    free(job->alive);
}

/* ---------------------------------------------------------------- the ranking */

/* A candidate that went through, while it is sorted. */
struct entry {
    int id;
    struct dm_candidate c;
};

static int by_rank(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->c.tied != y->c.tied)
        return x->c.tied ? -1 : 1;
    if (x->c.tied || x->c.error == y->c.error)
        return x->id < y->id ? -1 : x->id > y->id;
    return x->c.error < y->c.error ? -1 : 1;
}

/* Candidates are listed with the usual ones first, but networks vary slower than times; equal ones
 * are ordered by how unusual both are. */
static int rank_of(const struct job *job, int c)
{
    int prediction = c % job->n_predictions, time = c / job->n_predictions % job->n_times;
    int network = c / job->n_predictions / job->n_times;
    return (prediction * MAX_TIMES + time) * MAX_NETWORKS + network;
}

static void compare(const struct job *job, int c, int best, struct dm_candidate *out)
{
    double sum = 0, squares = 0, n = job->n_images;
    for (int i = 0; i < job->n_images; i++) {
        double d = job->error[c * job->n_images + i] - job->error[best * job->n_images + i];
        sum += d;
        squares += d * d;
    }
    double mean = sum / n, variance = n > 1 ? fmax(squares - n * mean * mean, 0) / (n - 1) : 0;
    out->error = exp(0.5 * mean_error(job, c, job->n_images));
    out->excess = mean;
    out->excess_error = sqrt(variance / n);
    out->tied = mean <= 2 * out->excess_error + equal;
}

/* All that the candidate sets, NULL-ended. */
static bool describe(struct job *job, int c, struct dm_candidate *out)
{
    int prediction = c % job->n_predictions, time = c / job->n_predictions % job->n_times;
    const struct network_choice *network = &job->networks[c / job->n_predictions / job->n_times];
    const char **set = dm_arena_array(job->arena, 2 * MAX_SETS + 2, sizeof *set);
    struct dm_text text = DM_TEXT_INIT;
    int n = 0;
    if (!set)
        return false;
    for (int i = 0; i < MAX_SETS && job->times[time].set[i]; i++)
        set[n++] = job->times[time].set[i];
    for (int i = 0; i < MAX_SETS && network->set[i]; i++)
        set[n++] = network->set[i];
    if (job->times[time].course_noise)
        dm_text_append(&text, "(noised in training with 1-alpha_bar, not its root) ");
    if (job->n_predictions > 1)
        set[n++] = assign(job, "network.unet.predict", prediction_names[prediction]);
    for (int i = 0; i < n; i++) { /* in the table without their sections */
        const char *equals = strchr(set[i], '=');
        const char *key = equals;
        while (key && key > set[i] && key[-1] != '.')
            key--;
        bool use = key && strncmp(key, "use=", 4) == 0;
        dm_text_appendf(&text, "%s%s", i ? " " : "", use ? equals + 1 : key ? key : "");
    }
    out->set = set;
    out->options = text.failed ? NULL : dm_arena_strdup(job->arena, text.data);
    dm_text_finish(&text);
    return out->options != NULL;
}

static demist_status rank(struct job *job, struct dm_ranking *probe, int *winner,
                          struct dm_error *err)
{
    int all = n_candidates(job), n = 0, best = best_candidate(job, job->n_images);
    struct entry *entries = calloc((size_t)all, sizeof *entries);
    if (!entries)
        return dm_fail_memory(err, "the ranking");
    bool ok = true;
    for (int c = 0; ok && c < all; c++)
        if (job->alive[c]) {
            entries[n].id = rank_of(job, c);
            compare(job, c, best, &entries[n].c);
            ok = describe(job, c, &entries[n++].c);
        }
    qsort(entries, (size_t)n, sizeof *entries, by_rank);
    probe->candidates = dm_arena_array(&probe->arena, (size_t)n, sizeof *probe->candidates);
    for (int i = 0; ok && probe->candidates && i < n; i++)
        probe->candidates[i] = entries[i].c;
    for (int c = 0; c < all; c++)
        if (n > 0 && rank_of(job, c) == entries[0].id)
            *winner = c;
    free(entries);
    probe->n = n;
    probe->n_tried = all;
    probe->n_images = job->n_images;
    probe->n_levels = N_LEVELS;
    for (int l = 0; l < N_LEVELS; l++)
        probe->alpha_bar[l] = 1 / (1 + exp(-2 * job->level[l]));
    return ok && probe->candidates ? DEMIST_OK : dm_fail_memory(err, "the ranking");
}

/* The winner's values, and that they were measured. */
static demist_status apply(struct job *job, const struct dm_ranking *probe, int winner,
                           struct dm_error *err)
{
    struct dm_finding *f = job->f;
    bool ok = true;
    dm_finding_drop(f, "schedule.linear");
    for (const char *const *set = probe->candidates[0].set; ok && *set; set++) {
        const char *equals = strchr(*set, '='), *dot = equals;
        while (dot && dot > *set && *dot != '.')
            dot--;
        if (!equals || strcmp(equals, "=auto") == 0)
            continue;
        const char *section = dm_arena_strndup(&f->arena, *set, (size_t)(dot - *set));
        const char *key = dm_arena_strndup(&f->arena, dot + 1, (size_t)(equals - dot - 1));
        ok = section && key && dm_finding_set(f, section, key, equals + 1, DM_PROBED, NULL);
    }
    /* Log variances are far below −1, where interpolations between bounds lie between −1 and 1. */
    double extra = job->extra[winner / job->n_predictions];
    if (ok && f->learn_sigma)
        ok = dm_finding_set(f, "network.unet", "sigma", extra < -2 ? "logvar" : "range", DM_PROBED,
                            extra < -2 ? "The outputs' second half is far below -1 on average."
                                       : "The outputs' second half is near [-1, 1] on average.");
    return ok ? DEMIST_OK : dm_fail_memory(err, "the description");
}

demist_status dm_rank_candidates(const struct dm_environment *env, const char *checkpoint,
                                 struct dm_finding *finding, const char *data,
                                 struct dm_ranking *probe, struct dm_error *err)
{
    *probe = (struct dm_ranking){0};
    struct job job = {
        .env = env, .checkpoint = checkpoint, .f = finding, .data = data, .arena = &probe->arena};
    int winner = 0;
    job.log = *env->services.log;
    job.log.level = DM_LOG_ERROR;
    job.quiet = *env;
    job.quiet.services.log = &job.log;
    demist_status status = prepare(&job, err);
    if (status == DEMIST_OK)
        status = race(&job, err);
    if (status == DEMIST_OK)
        status = rank(&job, probe, &winner, err);
    if (status == DEMIST_OK)
        status = apply(&job, probe, winner, err);
    close_job(&job);
    if (status != DEMIST_OK) {
        dm_fail_where(err, "probe");
        dm_ranking_finish(probe);
    }
    return status;
}

void dm_ranking_finish(struct dm_ranking *probe)
{
    dm_arena_finish(&probe->arena);
    *probe = (struct dm_ranking){0};
}

void dm_ranking_print(const struct dm_ranking *probe, int rows, struct dm_text *out)
{
    int tied = 0;
    while (tied < probe->n && probe->candidates[tied].tied)
        tied++;
    dm_text_appendf(out,
                    "%d candidates, %d images at %d noise levels. RMS error of the noise; how much "
                    "larger than the best's, with its standard error; = not told apart from it.\n",
                    probe->n_tried, probe->n_images, probe->n_levels);
    for (int i = 0; i < probe->n && i < rows; i++) {
        const struct dm_candidate *c = &probe->candidates[i];
        dm_text_appendf(out, "%s%.4f  %+6.1f%% +- %.1f%%  %s\n", c->tied ? "= " : "  ", c->error,
                        100 * expm1(0.5 * c->excess), 50 * c->excess_error, c->options);
    }
    if (tied > 1)
        dm_text_appendf(out, "%d are not told apart; of those the most usual is taken.\n", tied);
}

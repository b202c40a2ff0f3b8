/* Samplers on Gaussian data, whose reverse process is known in closed form: mean and variance of
 * the chain at every kept t, and the solution that DDIM approaches.
 *
 * With the exact ε a chain is affine in x_T and in every draw. Each coefficient is one image of a
 * single run, whose noise is a column of the identity; moments follow without sampling errors. */
#include "testing.h"

#include "fixture.h"
#include "mixture.h"
#include "reverse.h"

#include "safetensors.h"

#include <math.h>
#include <unistd.h>

static const char text[] = "[backend]\nuse = reference\n"
                           "[schedule]\nuse = linear\n"
                           "[network]\nuse = mixture\n"
                           "[noise]\nsource = file\n";
static const float data_mean[2] = {-1, 0.5F};
static const demist_plugin *const extra[] = {&mixture_plugin, NULL};

/* Every stride-th of the linear schedule's steps: step k = n … 1 leads from alpha_bar[k] to
 * alpha_bar[k−1], and alpha_bar[0] is 1. */
struct process {
    int n, stride;
    double alpha_bar[MIXTURE_T + 1];
};

static void process_init(struct process *p, int stride)
{
    double alpha_bar = 1;
    *p = (struct process){.n = MIXTURE_T / stride, .stride = stride, .alpha_bar = {1}};
    for (int t = 0; t < MIXTURE_T; t++) {
        alpha_bar *= 1 - (1e-4 + t * (0.02 - 1e-4) / (MIXTURE_T - 1));
        if (t % stride == 0)
            p->alpha_bar[1 + t / stride] = alpha_bar;
    }
}

/* q(x_{k−1} | x_k, x_0) = N(x0·x_0 + x·x_k, small) for step k, and β of the kept steps. */
struct posterior {
    double x0, x, small, beta;
};

static struct posterior posterior_of(const struct process *p, int k)
{
    double a = p->alpha_bar[k], b = p->alpha_bar[k - 1], beta = 1 - a / b;
    return (struct posterior){beta * sqrt(b) / (1 - a), (1 - b) * sqrt(1 - beta) / (1 - a),
                              beta * (1 - b) / (1 - a), beta};
}

/* Of data N(m, stddev²): Var x_k; E[x_0|x_k] = m + gain·(x_k − √ᾱ·m); Var(x_0|x_k). */
struct belief {
    double marginal, gain, variance;
};

static struct belief belief_of(const struct process *p, double stddev, int k)
{
    double a = p->alpha_bar[k], s2 = stddev * stddev, marginal = a * s2 + 1 - a;
    return (struct belief){marginal, sqrt(a) * s2 / marginal, s2 * (1 - a) / marginal};
}

/* The variance of q(x_{k−1} | x_k), which is Gaussian as the data are. */
static double true_variance(const struct process *p, double stddev, int k)
{
    struct posterior q = posterior_of(p, k);
    return q.small + q.x0 * q.x0 * belief_of(p, stddev, k).variance;
}

/* A chain's state: N(mean, variance) in each of the two coordinates. */
struct moments {
    double mean[2], variance[2];
};

/* ---------------------------------------------------------------- what a sampler does */

/* Image 0 has no noise at all, image 1 has x_T = 1, image 2 + k the k-th draw 1. */
static char *identity_noise(int n)
{
    const int64_t images = n + 2;
    const size_t x_size = (size_t)(2 * images), size = (size_t)n * x_size;
    float *x = calloc(x_size, sizeof *x), *noise = calloc(size, sizeof *noise);
    char *path = strdup("/tmp/demist-identity-XXXXXX");
    assert_true(x && noise && path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    x[2] = x[3] = 1;
    for (int64_t k = 0; k < n; k++)
        noise[(k * images + 2 + k) * 2] = noise[(k * images + 2 + k) * 2 + 1] = 1;
    const struct dm_tensor_view tensors[] = {
        {"x_T", DEMIST_F32, 2, {images, 2}, x, x_size * sizeof *x, "f32"},
        {"noise", DEMIST_F32, 3, {n, images, 2}, noise, size * sizeof *noise, "f32"},
    };
    struct dm_error err = DM_ERROR_INIT;
    fixture_expect_ok(dm_safetensors_save(path, tensors, 2, NULL, 0, &err), &err);
    free(x);
    free(noise);
    return path;
}

/* Moments of the state that the coefficients describe, if x_T is distributed as q(x_T). */
static struct moments moments_of(const struct process *p, double stddev, const float *state)
{
    struct moments m;
    const double signal = sqrt(p->alpha_bar[p->n]);
    for (int j = 0; j < 2; j++) {
        double offset = state[j], of_start = state[2 + j] - offset;
        m.mean[j] = offset + of_start * signal * data_mean[j];
        m.variance[j] = of_start * of_start * belief_of(p, stddev, p->n).marginal;
        for (int k = 0; k < p->n; k++)
            m.variance[j] += pow(state[4 + 2 * k + j] - offset, 2);
    }
    return m;
}

/* Runs a sampler on data of that standard deviation; out[i] is the state after i steps. */
static void measure(const struct process *p, double stddev, const float *second,
                    const char *const *overrides, struct moments *out)
{
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    char *weights = mixture_gaussian(data_mean, (float)stddev, second);
    char *noise = identity_noise(p->n);
    char checkpoint[128], file[128], steps[64], images[64];
    snprintf(checkpoint, sizeof checkpoint, "network.checkpoint=%s", weights);
    snprintf(file, sizeof file, "noise.file=%s", noise);
    snprintf(steps, sizeof steps, "sample.steps=ddim%d", p->n);
    snprintf(images, sizeof images, "sample.images=%d", p->n + 2);
    struct dm_ini *ini =
        fixture_ini(text, (const char *[]){checkpoint, file, images,
                                           p->stride > 1 ? steps : "sample.steps=", NULL});
    for (size_t i = 0; overrides[i]; i++)
        fixture_expect_ok(dm_ini_set(ini, overrides[i], &err), &err);
    fixture_open(&f, 2, extra);
    fixture_expect_ok(fixture_sample(&f, ini, true, &r, &err), &err);
    assert_int_equal(r.n_steps, p->n);
    for (int i = 0; i <= p->n; i++) {
        if (i < p->n)
            assert_true(r.times[i] == (p->n - 1 - i) * p->stride);
        out[i] = moments_of(p, stddev, r.states + i * r.n * r.elements);
    }
    recording_free(&r);
    fixture_close(&f);
    dm_ini_destroy(ini);
    unlink(weights);
    unlink(noise);
    free(weights);
    free(noise);
}

/* ---------------------------------------------------------------- what it should do */

static void compare(const char *what, const struct process *p, const struct moments *got,
                    const struct moments *want)
{
    double worst = 0;
    for (int i = 0; i <= p->n; i++)
        for (int j = 0; j < 2; j++) {
            double mean = fabs(got[i].mean[j] - want[i].mean[j]);
            double variance = fabs(got[i].variance[j] - want[i].variance[j]);
            if (!(mean < 2e-5 && variance < 2e-5))
                fail_msg("%s, %d steps: after %d of them N(%.7f, %.7f) instead of N(%.7f, %.7f)",
                         what, p->n, i, got[i].mean[j], got[i].variance[j], want[i].mean[j],
                         want[i].variance[j]);
            worst = fmax(worst, fmax(mean, variance));
        }
    print_message("%s, %d steps: within %.1e\n", what, p->n, worst);
}

/* q(x_k) at every k; at the end, where no noise is drawn, that of E[x_0|x_1]. */
static void expect_marginals(const char *what, const struct process *p, double stddev,
                             const struct moments *got)
{
    static struct moments want[MIXTURE_T + 1];
    for (int i = 0; i <= p->n; i++)
        for (int j = 0; j < 2; j++) {
            int k = p->n - i;
            want[i].mean[j] = sqrt(p->alpha_bar[k]) * data_mean[j];
            want[i].variance[j] = k > 0 ? belief_of(p, stddev, k).marginal
                                        : stddev * stddev - belief_of(p, stddev, 1).variance;
        }
    compare(what, p, got, want);
}

/* The chain with the posterior's mean and these variances [n+1], by k. */
static void expect_recursion(const char *what, const struct process *p, double stddev,
                             const double *variance, const struct moments *got)
{
    static struct moments want[MIXTURE_T + 1];
    for (int j = 0; j < 2; j++) {
        want[0].mean[j] = sqrt(p->alpha_bar[p->n]) * data_mean[j];
        want[0].variance[j] = belief_of(p, stddev, p->n).marginal;
        for (int i = 0; i < p->n; i++) {
            int k = p->n - i;
            struct posterior q = posterior_of(p, k);
            double gain = belief_of(p, stddev, k).gain, factor = q.x0 * gain + q.x;
            double x0 =
                data_mean[j] + gain * (want[i].mean[j] - sqrt(p->alpha_bar[k]) * data_mean[j]);
            want[i + 1].mean[j] = q.x0 * x0 + q.x * want[i].mean[j];
            want[i + 1].variance[j] =
                factor * factor * want[i].variance[j] + (k > 1 ? variance[k] : 0);
        }
    }
    compare(what, p, got, want);
}

/* The second half of a network's output that tells the true variance; as range or as logarithm. */
static void true_second(const struct process *p, double stddev, bool range, float *second)
{
    memset(second, 0, MIXTURE_T * sizeof *second);
    for (int k = 2; k <= p->n; k++) {
        struct posterior q = posterior_of(p, k);
        double logvar = log(true_variance(p, stddev, k));
        double f = (logvar - log(q.small)) / (log(q.beta) - log(q.small));
        second[(k - 1) * p->stride] = (float)(range ? 2 * f - 1 : logvar);
    }
}

/* ---------------------------------------------------------------- claims */

static const int strides[] = {40, 8, 1};
enum { N_STRIDES = sizeof strides / sizeof *strides };
static struct process process;
static struct moments got[MIXTURE_T + 1];

static void test_learned_sigma_has_the_moments_of_the_data_at_every_t(void **state)
{
    static const char *const predictions[] = {
        "network.mixture.predict=eps", "network.mixture.predict=x0", "network.mixture.predict=v"};
    static float second[MIXTURE_T];
    for (int i = 0; i < N_STRIDES; i++)
        for (int range = 0; range < 2; range++) {
            const char *learned =
                range ? "network.mixture.learned=range" : "network.mixture.learned=logvar";
            process_init(&process, strides[i]);
            true_second(&process, 0.3, range, second);
            measure(&process, 0.3, second,
                    (const char *[]){"sampler.use=learned-sigma", predictions[i], learned, NULL},
                    got);
            expect_marginals(learned, &process, 0.3, got);
        }
}

/* The upper bound of the variance is that of unit normal data, the lower that of a point. */
static void test_ddpm_has_the_moments_of_the_data_at_every_t(void **state)
{
    for (int i = 0; i < N_STRIDES; i++) {
        process_init(&process, strides[i]);
        static const char *const upper[] = {"sampler.ddpm.variance=large",
                                            "sampler.ddpm.variance=course"};
        for (int v = 0; v < 2; v++) {
            measure(&process, 1, NULL, (const char *[]){"sampler.use=ddpm", upper[v], NULL}, got);
            expect_marginals(upper[v], &process, 1, got);
        }
        measure(&process, 0, NULL,
                (const char *[]){"sampler.use=ddpm", "sampler.ddpm.variance=small", NULL}, got);
        expect_marginals("sampler.ddpm.variance=small", &process, 0, got);
    }
}

static void test_other_data_get_the_variance_that_was_chosen(void **state)
{
    static const char *const ddpm[] = {"sampler.ddpm.variance=small", "sampler.ddpm.variance=large",
                                       "sampler.ddpm.variance=course"};
    static double variance[4][MIXTURE_T + 1];
    for (int i = 0; i < N_STRIDES; i++) {
        process_init(&process, strides[i]);
        for (int k = 2; k <= process.n; k++) {
            struct posterior q = posterior_of(&process, k);
            variance[0][k] = q.small;
            variance[1][k] = variance[2][k] = q.beta;
            variance[3][k] = sqrt(q.small * q.beta); /* v = 0 */
        }
        for (int v = 0; v < 3; v++) {
            measure(&process, 0.3, NULL, (const char *[]){"sampler.use=ddpm", ddpm[v], NULL}, got);
            expect_recursion(ddpm[v], &process, 0.3, variance[v], got);
        }
        measure(
            &process, 0.3, NULL,
            (const char *[]){"sampler.use=learned-sigma", "network.mixture.learned=range", NULL},
            got);
        expect_recursion("v = 0", &process, 0.3, variance[3], got);
    }
}

/* For a point, DDIM keeps q(x_t) whatever η: that is how it was derived. */
static void test_ddim_has_the_moments_of_a_point_at_every_t(void **state)
{
    static const char *const etas[] = {"sampler.ddim.eta=0", "sampler.ddim.eta=0.5",
                                       "sampler.ddim.eta=1"};
    for (int i = 0; i < N_STRIDES; i++)
        for (int e = 0; e < 3; e++) {
            process_init(&process, strides[i]);
            measure(&process, 0, NULL, (const char *[]){"sampler.use=ddim", etas[e], NULL}, got);
            expect_marginals(etas[e], &process, 0, got);
        }
}

/* What a network predicts is another way to the same chain. The mean is that of the kept steps. */
static void test_every_prediction_has_the_moments_of_the_data_at_every_t(void **state)
{
    static const char *const predictions[] = {
        "network.mixture.predict=eps", "network.mixture.predict=x0", "network.mixture.predict=v",
        "network.mixture.predict=mean"};
    static float second[MIXTURE_T];
    for (int i = 0; i < N_STRIDES - 1; i++)
        for (int p = 0; p < 4; p++) {
            char stride[64];
            snprintf(stride, sizeof stride, "network.mixture.stride=%d", strides[i]);
            process_init(&process, strides[i]);
            true_second(&process, 0.3, true, second);
            measure(&process, 0.3, second,
                    (const char *[]){"sampler.use=learned-sigma", "network.mixture.learned=range",
                                     predictions[p], stride, NULL},
                    got);
            expect_marginals(predictions[p], &process, 0.3, got);
            measure(&process, 1, NULL,
                    (const char *[]){"sampler.use=ddpm", predictions[p], stride, NULL}, got);
            expect_marginals(predictions[p], &process, 1, got);
            measure(&process, 1, NULL,
                    (const char *[]){"sampler.use=ddpm", "sampler.ddpm.variance=course",
                                     predictions[p], stride, NULL},
                    got);
            expect_marginals(predictions[p], &process, 1, got);
            measure(&process, 0, NULL,
                    (const char *[]){"sampler.use=ddim", "sampler.ddim.eta=0.5", predictions[p],
                                     stride, NULL},
                    got);
            expect_marginals(predictions[p], &process, 0, got);
        }
}

/* Along the probability flow (x_t − √ᾱ·m)/√Var x_t stays what it is. The largest error over all
 * states, here of their standard deviation, halves with the step. */
static void test_ddim_approaches_the_probability_flow_with_order_one(void **state)
{
    enum { N_COUNTS = 4 };
    static const int halving[N_COUNTS] = {40, 20, 10, 5};
    double error[N_COUNTS] = {0};
    for (int i = 0; i < N_COUNTS; i++) {
        process_init(&process, halving[i]);
        measure(&process, 0.3, NULL, (const char *[]){"sampler.use=ddim", NULL}, got);
        for (int s = 0; s <= process.n; s++) {
            int k = process.n - s;
            double marginal = k > 0 ? belief_of(&process, 0.3, k).marginal : 0.3 * 0.3;
            error[i] = fmax(error[i], fabs(sqrt(got[s].variance[0]) - sqrt(marginal)));
            assert_true(fabs(got[s].mean[0] - sqrt(process.alpha_bar[k]) * data_mean[0]) < 2e-5);
        }
        print_message("%d steps: %.3e\n", process.n, error[i]);
    }
    for (int i = 1; i < N_COUNTS; i++)
        assert_true(error[i - 1] > 1.8 * error[i] && error[i - 1] < 2.2 * error[i]);
}

/* ---------------------------------------------------------------- the option of each network */

/* The first evaluation of a run, and the state after its step. */
struct first_step {
    int64_t n, elements, raw;
    float *x, *out, *next;
};

static float *copy(const float *from, int64_t n)
{
    float *to = malloc((size_t)n * sizeof *to);
    assert_non_null(to);
    memcpy(to, from, (size_t)n * sizeof *to);
    return to;
}

static void note_evaluation(void *user, const struct dm_evaluation *at)
{
    struct first_step *s = user;
    if (!s->x) {
        s->x = copy(at->x, s->n * s->elements);
        s->out = copy(at->out, s->n * s->raw);
    }
}

static bool note_state(void *user, const struct dm_sample_progress *p)
{
    struct first_step *s = user;
    if (p->step == 1)
        s->next = copy(p->x, s->n * s->elements);
    return p->step == 0;
}

/* One step of ddim, unclipped, from what the network said: 0 eps, 1 x0, 2 v, 3 mean. */
static double ddim_step(const demist_step *step, int prediction, double x, double out)
{
    double s = step->signal, n = step->noise, x0 = out, eps;
    if (prediction == 0)
        x0 = (x - n * out) / s;
    if (prediction == 2)
        x0 = s * x - n * out;
    if (prediction == 3)
        x0 = (out - step->posterior_x * x) / step->posterior_x0;
    eps = (x - s * x0) / n;
    return step->signal_next * x0 + step->noise_next * eps;
}

static void check_option(const char *description, const char *checkpoint, const char *network)
{
    static const char *const names[] = {"eps", "x0", "v", "mean"};
    for (int p = 0; p < 4; p++) {
        struct fixture f;
        struct dm_setup setup;
        struct first_step s = {0};
        struct dm_error err = DM_ERROR_INIT;
        char path[4200], predict[64];
        snprintf(path, sizeof path, "network.checkpoint=%s", checkpoint);
        snprintf(predict, sizeof predict, "network.%s.predict=%s", network, names[p]);
        struct dm_ini *ini = fixture_ini(description, (const char *[]){path, predict, NULL});
        fixture_open(&f, 2, NULL);
        fixture_expect_ok(
            dm_setup_open(&setup, &f.env, ini, DM_NEED_SAMPLER | DM_NEED_BACKEND, &err), &err);
        bool learned = setup.network.info.learned_variance != DEMIST_VARIANCE_NONE;
        s.n = setup.config.sample.images;
        s.elements = setup.network.n_elements;
        s.raw = learned ? 2 * s.elements : s.elements;
        struct dm_sample_hooks hooks = {
            .progress = note_state, .wants_data = true, .evaluated = note_evaluation, .user = &s};
        assert_int_equal(dm_sample(&setup, &hooks, &err), DEMIST_CANCELLED);
        dm_error_clear(&err);
        double worst = 0, largest = 0;
        for (int64_t i = 0; i < s.n * s.elements; i++) {
            double out = s.out[i / s.elements * s.raw + i % s.elements];
            double want = ddim_step(dm_process_step(setup.process)[0], p, s.x[i], out);
            worst = fmax(worst, fabs(s.next[i] - want));
            largest = fmax(largest, fabs(want));
        }
        print_message("%s %s: %.1e of %.1e\n", network, names[p], worst, largest);
        assert_true(worst < 1e-5 * largest && largest > 0.1);
        free(s.x);
        free(s.out);
        free(s.next);
        dm_setup_close(&setup);
        dm_ini_destroy(ini);
        fixture_close(&f);
    }
}

static void test_networks_say_what_they_predict(void **state)
{
    check_option("[backend]\nuse = reference\n[schedule]\nuse = linear\nsteps = 100\n"
                 "[network]\nuse = mlp\n[network.mlp]\nhidden = 128,256,256\n"
                 "[sampler]\nuse = ddim\n[sample]\nsteps = 10\nclip_denoised = false\n",
                 test_data("two-moons-mlp/checkpoint.safetensors"), "mlp");
    check_option("[backend]\nuse = reference\n[schedule]\nuse = linear\n"
                 "[network]\nuse = unet\n[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                 "num_res_blocks = 1\nlearn_sigma = true\nnum_classes = 8\n"
                 "[sampler]\nuse = ddim\n"
                 "[sample]\nsteps = 10\nclip_denoised = false\nimages = 1\nlabels = 4\n",
                 test_data("crawl-unet/checkpoint.safetensors"), "unet");
}

/* The likelihood's step has the same x̂_0 whatever the network predicts of it. */
static void test_the_likelihoods_step_knows_every_prediction(void **state)
{
    static const demist_prediction_type types[] = {DEMIST_PREDICT_EPS, DEMIST_PREDICT_X0,
                                                   DEMIST_PREDICT_V, DEMIST_PREDICT_MEAN};
    demist_step step = {.signal = 0.6,
                        .noise = 0.8,
                        .posterior_x0 = 0.25,
                        .posterior_x = 0.5,
                        .large_variance = 0.1};
    const double truth = 0.75, eps = -0.5, x = 0.6 * truth + 0.8 * eps;
    const double out[] = {eps, truth, 0.6 * eps - 0.8 * truth, 0.25 * truth + 0.5 * x};
    for (int i = 0; i < 4; i++) {
        demist_network_info info = DEMIST_INIT(demist_network_info);
        info.prediction = types[i];
        struct dm_reverse reverse = {.info = &info, .n_elements = 1};
        const float x_t = (float)x, said = (float)out[i];
        double x0, mean, logvar;
        dm_reverse_step(&reverse, &step, &x_t, &said, &x0, &mean, &logvar);
        assert_true(fabs(x0 - truth) < 1e-6);
        assert_true(fabs(mean - out[3]) < 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learned_sigma_has_the_moments_of_the_data_at_every_t),
        cmocka_unit_test(test_ddpm_has_the_moments_of_the_data_at_every_t),
        cmocka_unit_test(test_other_data_get_the_variance_that_was_chosen),
        cmocka_unit_test(test_ddim_has_the_moments_of_a_point_at_every_t),
        cmocka_unit_test(test_every_prediction_has_the_moments_of_the_data_at_every_t),
        cmocka_unit_test(test_networks_say_what_they_predict),
        cmocka_unit_test(test_the_likelihoods_step_knows_every_prediction),
        cmocka_unit_test(test_ddim_approaches_the_probability_flow_with_order_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

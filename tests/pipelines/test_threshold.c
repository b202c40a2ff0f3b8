/* Dynamic thresholding: the quantile as NumPy has it, x̂_0 in closed form on every backend, and the
 * likelihood's step. */
#include "testing.h"

#include "fixture.h"
#include "mixture.h"
#include "reverse.h"
#include "threshold.h"

#include <math.h>
#include <unistd.h>

static const demist_plugin *const extra[] = {&mixture_plugin, NULL};
static char *checkpoint; /* of the mixture */

static int make_checkpoint(void **state)
{
    checkpoint = mixture_checkpoint(3);
    return 0;
}

static int drop_checkpoint(void **state)
{
    unlink(checkpoint);
    free(checkpoint);
    return 0;
}

/* ---------------------------------------------------------------- the quantile */

/* v = np.array([((i*7919) % 1009)/64 for i in range(101)]); np.quantile(v[:n], p) */
static void test_quantiles_are_numpys(void **state)
{
    static const double p[] = {0, 0.1, 0.5, 0.9, 0.995, 1};
    static const struct {
        int n;
        double want[6];
    } cases[] = {
        {1, {0, 0, 0, 0, 0, 0}},
        {2, {0, 1.3375, 6.6875, 12.0375, 13.308125, 13.375}},
        {7, {0, 0.853125, 6.203125, 11.940625, 13.30328125, 13.375}},
        {100, {0, 1.7171875, 7.984375, 14.225, 15.6721875, 15.703125}},
        {101, {0, 1.75, 8.015625, 14.21875, 15.671875, 15.703125}},
    };
    double values[101];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int k = 0; k < 6; k++) {
            for (int i = 0; i < cases[c].n; i++)
                values[i] = i * 7919 % 1009 / 64.0;
            assert_true(fabs(dm_quantile(values, cases[c].n, p[k]) - cases[c].want[k]) < 1e-12);
        }
}

static void test_what_is_not_a_number_stays_visible(void **state)
{
    double with_nan[] = {1, NAN, 3}, with_infinity[] = {1, INFINITY, 2};
    assert_true(isnan(dm_quantile(with_nan, 3, 0.5)));
    assert_true(isnan(dm_threshold_scale(with_nan, 3, 0.5, 1)));
    assert_true(dm_quantile(with_infinity, 3, 0.5) == 2);
    assert_true(dm_threshold_scale(with_infinity, 3, 1, 1) == 0);
}

/* ---------------------------------------------------------------- x̂_0 of a run */

/* The p-quantile of |x| by its definition: as many values are not above it as its place says. */
static double quantile(const float *x, int64_t n, double p)
{
    double at = p * (double)(n - 1), below = 0, above = 0;
    int64_t k = (int64_t)at;
    for (int64_t i = 0; i < n; i++) {
        int64_t smaller = 0, equal = 0;
        for (int64_t j = 0; j < n; j++) {
            smaller += fabs((double)x[j]) < fabs((double)x[i]);
            equal += fabs((double)x[j]) == fabs((double)x[i]);
        }
        if (smaller <= k && k < smaller + equal)
            below = fabs((double)x[i]);
        if (smaller <= k + 1 && k + 1 < smaller + equal)
            above = fabs((double)x[i]);
    }
    return k + 1 < n ? below + (at - (double)k) * (above - below) : below;
}

/* clamp(x, −s, s)/s with s = max(1, quantile); how many images have s > 1. */
static int threshold(float *x, int64_t n_images, int64_t n, double p)
{
    int scaled = 0;
    for (int64_t i = 0; i < n_images; i++) {
        double q = quantile(x + i * n, n, p), s = q > 1 ? q : 1;
        scaled += q > 1;
        for (int64_t k = i * n; k < (i + 1) * n; k++)
            x[k] = (float)(fmin(fmax(x[k], -s), s) / s);
    }
    return scaled;
}

static struct recording run(const char *text, const char *path, const char *const *overrides)
{
    char line[4200];
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = fixture_ini(text, overrides);
    snprintf(line, sizeof line, "network.checkpoint=%s", path);
    fixture_expect_ok(dm_ini_set(ini, line, &err), &err);
    fixture_open(&f, 2, extra);
    fixture_expect_ok(fixture_sample(&f, ini, false, &r, &err), &err);
    fixture_close(&f);
    dm_ini_destroy(ini);
    return r;
}

/* The b-th backend as an override, NULL behind the last: DEMIST_TEST_BACKEND alone, or all that
 * are quick. */
static const char *backend(int b)
{
    static const char *const quick[] = {
        "backend.use=reference",
#ifdef HAVE_BACKEND_CPU
        "backend.use=cpu",
#endif
        NULL,
    };
    static char line[64];
    const char *name = getenv("DEMIST_TEST_BACKEND");
    snprintf(line, sizeof line, "backend.use=%s", name ? name : "");
    return !name ? quick[b] : b == 0 ? line : NULL;
}

/* One step of ddim ends at x̂_0, so that the unclipped run tells what the thresholded one must be.
 */
static void check_one_step(const char *text, const char *path, const char *option, double p,
                           bool all_scaled)
{
    char line[64];
    snprintf(line, sizeof line, "sample.dynamic_threshold=%.17g", p);
    for (int b = 0; backend(b); b++) {
        struct recording want = run(
            text, path, (const char *[]){backend(b), "sample.clip_denoised=false", option, NULL});
        struct recording got = run(text, path, (const char *[]){backend(b), line, option, NULL});
        int scaled = threshold(want.x0, want.n, want.elements, p);
        assert_true(all_scaled ? scaled == want.n : scaled > 0 && scaled < want.n);
        assert_true(max_difference(got.x0, want.x0, want.n * want.elements) < 2e-6);
        recording_free(&want);
        recording_free(&got);
    }
}

static const char mixture[] = "[schedule]\nuse = linear\n"
                              "[network]\nuse = mixture\n"
                              "[sampler]\nuse = ddim\n"
                              "[sample]\nimages = 64\nsteps = 1\nseed = 5\n";

static void test_points_are_scaled_each_by_its_own_quantile(void **state)
{
    static const char *const predictions[] = {
        "network.mixture.predict=eps", "network.mixture.predict=x0", "network.mixture.predict=v"};
    for (int i = 0; i < 3; i++) {
        check_one_step(mixture, checkpoint, predictions[i], 0.9, false);
        check_one_step(mixture, checkpoint, predictions[i], 1, false);
    }
    check_one_step(mixture, checkpoint, "network.mixture.learned=range", 0.75, false);
}

static void test_pictures_are_scaled_each_by_its_own_quantile(void **state)
{
    static const char text[] = "[schedule]\nuse = cosine\n"
                               "[network]\nuse = unet\n"
                               "[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                               "num_res_blocks = 1\nlearn_sigma = true\nnum_classes = 8\n"
                               "[sampler]\nuse = ddim\n"
                               "[sample]\nimages = 3\nsteps = 1\nlabels = 3,4,7\n";
    check_one_step(text, test_data("crawl-unet/checkpoint.safetensors"), NULL, 0.995, true);
}

static void test_guided_pictures_are_scaled_too(void **state)
{
    static const char text[] = "[schedule]\nuse = linear\nsteps = 500\n"
                               "[schedule.linear]\nbeta_start = 1e-4\nbeta_end = 0.02\n"
                               "indexing = one\n"
                               "[network]\nuse = context-unet\n"
                               "[network.context-unet]\nn_feat = 32\nn_cfeat = 5\nheight = 16\n"
                               "[sampler]\nuse = ddim\n"
                               "[sample]\nsteps = trailing1\nimages = 2\nguidance_scale = 2.5\n"
                               "context = 1,0,0,0,0 | 0,0,1,0,0\n";
    check_one_step(text, test_data("context-unet-sprites/checkpoint.safetensors"), NULL, 0.95,
                   true);
}

/* ddim in float64 on the first component of the mixture, a Gaussian: m = (−1, 0), σ = 0.3. */
static void gaussian_ddim(const struct dm_process *process, double p, const float *x_T, double *x)
{
    x[0] = x_T[0];
    x[1] = x_T[1];
    for (int32_t i = 0; i < dm_process_n_steps(process); i++) {
        const demist_step *step = dm_process_step(process)[i];
        double s = step->signal, n = step->noise, v = s * s * 0.09 + n * n, x0[2], size[2];
        for (int k = 0; k < 2; k++) {
            double mean = k == 0 ? -1 : 0;
            x0[k] = mean + s * 0.09 / v * (x[k] - s * mean);
            size[k] = fabs(x0[k]);
        }
        double low = fmin(size[0], size[1]), q = low + p * (fmax(size[0], size[1]) - low);
        double scale = q > 1 ? q : 1;
        for (int k = 0; k < 2; k++) {
            double bounded = fmin(fmax(x0[k], -scale), scale) / scale;
            double eps = (x[k] - s * bounded) / n;
            x[k] = step->signal_next * bounded + step->noise_next * eps;
        }
    }
}

/* The whole chain, in which ε is re-derived from the thresholded x̂_0 at every step. */
static void test_a_chain_on_gaussian_data_is_the_closed_form(void **state)
{
    char *path = mixture_checkpoint(1), line[128];
    snprintf(line, sizeof line, "network.checkpoint=%s", path);
    struct dm_ini *ini = fixture_ini(
        mixture, (const char *[]){line, "sample.steps=20", "sample.dynamic_threshold=0.8", NULL});
    struct fixture f;
    struct recording r;
    struct dm_setup setup;
    struct dm_error err = DM_ERROR_INIT;
    fixture_open(&f, 2, extra);
    for (int b = 0; backend(b); b++) {
        fixture_expect_ok(dm_ini_set(ini, backend(b), &err), &err);
        fixture_expect_ok(fixture_sample(&f, ini, true, &r, &err), &err);
        fixture_expect_ok(dm_setup_open(&setup, &f.env, ini, DM_NEED_SAMPLER, &err), &err);
        double worst = 0, moved = 0;
        for (int64_t i = 0; i < r.n; i++) {
            double want[2], unbounded[2];
            gaussian_ddim(setup.process, 0.8, r.states + 2 * i, want);
            gaussian_ddim(setup.process, 0, r.states + 2 * i, unbounded);
            for (int k = 0; k < 2; k++) {
                worst = fmax(worst, fabs(r.x0[2 * i + k] - want[k]));
                moved = fmax(moved, fabs(unbounded[k] - want[k]));
            }
        }
        print_message("%s: %.2e of %.2e\n", backend(b), worst, moved);
        assert_true(worst < 1e-4 && moved > 0.02);
        dm_setup_close(&setup);
        recording_free(&r);
    }
    fixture_close(&f);
    dm_ini_destroy(ini);
    unlink(path);
    free(path);
}

/* ---------------------------------------------------------------- likelihoods */

static void test_the_likelihoods_step_is_thresholded_too(void **state)
{
    demist_network_info info = DEMIST_INIT(demist_network_info);
    info.prediction = DEMIST_PREDICT_X0;
    info.clip_low = -1;
    info.clip_high = 1;
    struct dm_reverse reverse = {.info = &info, .n_elements = 5, .clip = true, .threshold = 0.75};
    demist_step step = DEMIST_INIT(demist_step);
    step.posterior_x0 = 0.25;
    step.posterior_x = 0.5;
    step.large_variance = 1;
    static const float x[] = {0, 1, 0, -1, 0}, out[] = {-4, 0.5F, 2, -1, 0};
    double x0[5], mean[5], logvar[5];
    dm_reverse_step(&reverse, &step, x, out, x0, mean, logvar);
    static const double want[] = {-1, 0.25, 1, -0.5, 0}; /* |x̂_0| in order: 0 0.5 1 2 4; s = 2 */
    for (int i = 0; i < 5; i++) {
        assert_true(x0[i] == want[i]);
        assert_true(mean[i] == 0.25 * want[i] + 0.5 * x[i]);
    }
    reverse.threshold = 0.25; /* 0.5: in range, so that what is out of it is clamped */
    dm_reverse_step(&reverse, &step, x, out, x0, mean, logvar);
    static const double clamped[] = {-1, 0.5, 1, -1, 0};
    for (int i = 0; i < 5; i++)
        assert_true(x0[i] == clamped[i]);
}

static void test_a_setup_hands_its_quantile_to_the_likelihood(void **state)
{
    char line[128];
    snprintf(line, sizeof line, "network.checkpoint=%s", checkpoint);
    struct dm_ini *ini = fixture_ini(mixture, (const char *[]){line, "sample.steps=10", NULL});
    struct dm_error err = DM_ERROR_INIT;
    struct fixture f;
    fixture_open(&f, 1, extra);
    for (int on = 0; on < 2; on++) {
        struct dm_setup setup;
        struct dm_reverse reverse;
        if (on)
            fixture_expect_ok(dm_ini_set(ini, "sample.dynamic_threshold=0.97", &err), &err);
        fixture_expect_ok(dm_setup_open(&setup, &f.env, ini, DM_NEED_SAMPLER, &err), &err);
        fixture_expect_ok(dm_reverse_open(&setup, &reverse, &err), &err);
        assert_int_equal(reverse.clip, on); /* auto: the mixture does not clip of itself */
        assert_true(reverse.threshold == (on ? 0.97 : 0));
        dm_setup_close(&setup);
    }
    fixture_close(&f);
    dm_ini_destroy(ini);
}

/* ---------------------------------------------------------------- mistakes */

static void refuse(demist_status status, const char *fragment, const char *const *overrides)
{
    char line[128];
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = fixture_ini(mixture, overrides);
    snprintf(line, sizeof line, "network.checkpoint=%s", checkpoint);
    fixture_expect_ok(dm_ini_set(ini, line, &err), &err);
    fixture_open(&f, 1, extra);
    assert_int_equal(fixture_sample(&f, ini, false, &r, &err), status);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    fixture_close(&f);
    dm_ini_destroy(ini);
}

static void test_what_cannot_be_meant_is_refused(void **state)
{
    refuse(DEMIST_CONFIG, "clip_denoised = false (--set) forbids it",
           (const char *[]){"sample.dynamic_threshold=0.9", "sample.clip_denoised=false", NULL});
    refuse(DEMIST_CONFIG, "from 0 to 1", (const char *[]){"sample.dynamic_threshold=99.5", NULL});
    refuse(DEMIST_INCOMPATIBLE, "scales x_0 about 0, and the data of network mixture are in [0, 1]",
           (const char *[]){"sample.dynamic_threshold=0.9", "network.mixture.low=0", NULL});
}

/* The argument is a pattern: of a backend that compiles slowly a test or two will do. */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantiles_are_numpys),
        cmocka_unit_test(test_what_is_not_a_number_stays_visible),
        cmocka_unit_test(test_points_are_scaled_each_by_its_own_quantile),
        cmocka_unit_test(test_pictures_are_scaled_each_by_its_own_quantile),
        cmocka_unit_test(test_guided_pictures_are_scaled_too),
        cmocka_unit_test(test_a_chain_on_gaussian_data_is_the_closed_form),
        cmocka_unit_test(test_the_likelihoods_step_is_thresholded_too),
        cmocka_unit_test(test_a_setup_hands_its_quantile_to_the_likelihood),
        cmocka_unit_test(test_what_cannot_be_meant_is_refused),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, drop_checkpoint);
}

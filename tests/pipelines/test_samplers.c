/* Samplers on a Gaussian mixture, whose ε is exact: against chains made with diffusers and against
 * each other. What has a closed form is in test_closed_forms.c. */
#include "testing.h"

#include "fixture.h"
#include "mixture.h"

#include <math.h>
#include <unistd.h>

extern const demist_plugin demist_plugin_v1_sampler_dpmpp_2m; /* the example of a plugin */
static const demist_plugin *const extra[] = {&mixture_plugin, &demist_plugin_v1_sampler_dpmpp_2m,
                                             NULL};

static const char text[] = "[backend]\nuse = reference\n"
                           "[schedule]\nuse = linear\n"
                           "[network]\nuse = mixture\n"
                           "[sampler]\nuse = ddim\n"
                           "[sample]\nimages = 64\n";

/* Replays a chain; checks every state to 1e-4. */
static void replay(const char *name, const char *sampler, const char *option, const char *steps)
{
    const char *file = test_data(name);
    char checkpoint[4200], noise[4200];
    snprintf(checkpoint, sizeof checkpoint, "network.checkpoint=%s", file);
    snprintf(noise, sizeof noise, "noise.file=%s", file);
    struct dm_ini *ini = fixture_ini(text, (const char *[]){checkpoint, noise, "noise.source=file",
                                                            sampler, steps, option, NULL});
    struct fixture f;
    struct dm_error err = DM_ERROR_INIT;
    struct recording r;
    fixture_open(&f, 2, extra);
    fixture_expect_ok(fixture_sample(&f, ini, true, &r, &err), &err);
    int64_t n, n_times;
    float *want = fixture_tensor(file, "trajectory", &n);
    float *times = fixture_tensor(file, "timesteps", &n_times);
    assert_int_equal(n, (r.n_steps + 1) * r.n * r.elements);
    assert_int_equal(n_times, r.n_steps);
    for (int64_t i = 0; i < n_times; i++)
        assert_true((float)r.times[i] == times[i]);
    double error = max_difference(r.states, want, n);
    print_message("%s: %.2e\n", name, error);
    assert_true(error < 1e-4);
    free(want);
    free(times);
    recording_free(&r);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static void test_ddpm_small_matches_diffusers(void **state)
{
    replay("samplers/ddpm40.safetensors", "sampler.use=ddpm", "sampler.ddpm.variance=small",
           "sample.steps=leading40");
}

static void test_ddim_matches_diffusers(void **state)
{
    replay("samplers/ddim20.safetensors", "sampler.use=ddim", NULL, "sample.steps=leading20");
}

static void test_ddim_eta1_matches_diffusers(void **state)
{
    replay("samplers/ddim20_eta1.safetensors", "sampler.use=ddim", "sampler.ddim.eta=1",
           "sample.steps=leading20");
}

/* Runs a mixture of so many components with overrides; only the result. */
static struct recording sample_mixture(struct fixture *f, int components,
                                       const char *const *overrides)
{
    char *path = mixture_checkpoint(components);
    char checkpoint[128];
    snprintf(checkpoint, sizeof checkpoint, "network.checkpoint=%s", path);
    struct dm_ini *ini = fixture_ini(text, (const char *[]){checkpoint, NULL});
    struct dm_error err = DM_ERROR_INIT;
    for (size_t i = 0; overrides[i]; i++)
        fixture_expect_ok(dm_ini_set(ini, overrides[i], &err), &err);
    struct recording r;
    fixture_expect_ok(fixture_sample(f, ini, false, &r, &err), &err);
    dm_ini_destroy(ini);
    unlink(path);
    free(path);
    return r;
}

static void test_prediction_types_walk_the_same_chain(void **state)
{
    struct fixture f;
    fixture_open(&f, 1, extra);
    struct recording eps = sample_mixture(&f, 3, (const char *[]){"sample.steps=50", NULL});
    static const char *const others[] = {"network.mixture.predict=x0", "network.mixture.predict=v"};
    for (int i = 0; i < 2; i++) {
        struct recording r =
            sample_mixture(&f, 3, (const char *[]){"sample.steps=50", others[i], NULL});
        assert_true(max_difference(r.x0, eps.x0, r.n * r.elements) < 2e-4);
        recording_free(&r);
    }
    recording_free(&eps);
    fixture_close(&f);
}

/* RMS distance of a deterministic sampler to ddim with all steps, at 50, 100 and 200 steps,
 * for Gaussian data: between components of a mixture points jump, and no order shows. */
static void distances(const char *sampler, double error[3])
{
    static const char *const counts[] = {"sample.steps=50", "sample.steps=100", "sample.steps=200"};
    struct fixture f;
    fixture_open(&f, 1, extra);
    struct recording limit = sample_mixture(&f, 1, (const char *[]){"sampler.use=dpmpp-2m", NULL});
    for (int i = 0; i < 3; i++) {
        struct recording r = sample_mixture(&f, 1, (const char *[]){sampler, counts[i], NULL});
        double sum = 0;
        for (int64_t j = 0; j < r.n * r.elements; j++)
            sum += pow((double)r.x0[j] - limit.x0[j], 2);
        error[i] = sqrt(sum / (double)(r.n * r.elements));
        recording_free(&r);
    }
    print_message("%s: %.3e %.3e %.3e\n", sampler, error[0], error[1], error[2]);
    recording_free(&limit);
    fixture_close(&f);
}

static void test_the_example_plugin_converges_faster_than_ddim(void **state)
{
    double error[3], ddim[3];
    distances("sampler.use=dpmpp-2m", error);
    distances("sampler.use=ddim", ddim);
    assert_true(error[0] > 3 * error[1] && error[1] > 3 * error[2]);
    assert_true(2 * error[2] < ddim[2]);
}

/* Mean and variance of the mixture, from 4096 samples of the ancestral chain. */
static void test_ddpm_has_the_moments_of_the_data(void **state)
{
    struct fixture f;
    fixture_open(&f, 2, extra);
    static const char *const variants[] = {"sampler.ddpm.variance=large",
                                           "sampler.ddpm.variance=small",
                                           "sampler.ddpm.variance=course"};
    for (int v = 0; v < 3; v++) {
        struct recording r =
            sample_mixture(&f, 3,
                           (const char *[]){"sampler.use=ddpm", variants[v], "sample.images=4096",
                                            "sample.batch=4096", "sample.steps=100", NULL});
        double mean[2] = {0}, square[2] = {0};
        for (int64_t i = 0; i < r.n; i++)
            for (int j = 0; j < 2; j++) {
                mean[j] += r.x0[2 * i + j] / (double)r.n;
                square[j] += (double)r.x0[2 * i + j] * r.x0[2 * i + j] / (double)r.n;
            }
        /* Σw·m = (−0.1, 0); Σw·(σ² + m²) = (0.948, 0.848) */
        static const double want_mean[2] = {-0.1, 0}, want_square[2] = {0.948, 0.848};
        for (int j = 0; j < 2; j++) {
            print_message("%s: mean %.3f, square %.3f\n", variants[v], mean[j], square[j]);
            assert_true(fabs(mean[j] - want_mean[j]) < 0.06);
            assert_true(fabs(square[j] - want_square[j]) < 0.08);
        }
        recording_free(&r);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ddpm_small_matches_diffusers),
        cmocka_unit_test(test_ddim_matches_diffusers),
        cmocka_unit_test(test_ddim_eta1_matches_diffusers),
        cmocka_unit_test(test_prediction_types_walk_the_same_chain),
        cmocka_unit_test(test_the_example_plugin_converges_faster_than_ddim),
        cmocka_unit_test(test_ddpm_has_the_moments_of_the_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

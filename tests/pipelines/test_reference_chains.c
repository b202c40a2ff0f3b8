/* The reference results of real checkpoints: every evaluation and every state of every chain, on
 * the backend that DEMIST_TEST_BACKEND names (reference without it). */
#include "testing.h"

#include "fixture.h"
#include "predict.h"
#include "tensorfile.h"

#include <math.h>
#include <unistd.h>

static const char *backend(void)
{
    const char *name = getenv("DEMIST_TEST_BACKEND");
    return name ? name : "reference";
}

/* INI text with the backend under test and the paths of the reference data filled in. */
static struct dm_ini *describe(const char *text, const char *checkpoint, const char *noise)
{
    static char backend_line[128], checkpoint_line[4200], noise_line[4200];
    snprintf(backend_line, sizeof backend_line, "backend.use=%s", backend());
    snprintf(checkpoint_line, sizeof checkpoint_line, "network.checkpoint=%s", checkpoint);
    snprintf(noise_line, sizeof noise_line, "noise.file=%s", noise ? noise : "");
    return fixture_ini(text,
                       (const char *[]){backend_line, checkpoint_line,
                                        noise ? "noise.source=file" : NULL, noise_line, NULL});
}

/* Largest difference of one evaluation to the file's own `out`, relative to max |out|. */
static double evaluate(struct fixture *f, const struct dm_ini *ini, const char *in)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_setup setup;
    char out[] = "/tmp/demist-predict-XXXXXX";
    int fd = mkstemp(out);
    assert_true(fd >= 0);
    close(fd);
    unsigned needs = DM_NEED_NETWORK | DM_NEED_BACKEND | DM_NEED_SCHEDULE;
    fixture_expect_ok(dm_setup_open(&setup, &f->env, ini, needs, &err), &err);
    fixture_expect_ok(dm_predict(&setup, in, out, &err), &err);
    dm_setup_close(&setup);
    int64_t n, expected_n;
    float *got = fixture_tensor(out, "out", &n), *want = fixture_tensor(in, "out", &expected_n);
    assert_int_equal(n, expected_n);
    double error = max_difference(got, want, n) / max_magnitude(want, n);
    print_message("%s: %.2e of max|out|\n", in, error);
    free(got);
    free(want);
    unlink(out);
    return error;
}

/* Runs a chain and returns the largest difference of any state from `skip` on to the file's
 * trajectory, or to x_0 where it has none. */
static double replay(struct fixture *f, const struct dm_ini *ini, const char *file, int skip)
{
    struct dm_error err = DM_ERROR_INIT;
    struct recording r;
    fixture_expect_ok(fixture_sample(f, ini, true, &r, &err), &err);
    int64_t n, state = r.n * r.elements;
    float *want = fixture_tensor(file, skip >= 0 ? "trajectory" : "x_0", &n);
    int first = skip >= 0 ? skip : r.n_steps;
    assert_int_equal(n, (r.n_steps + 1 - first) * state);
    double error = max_difference(r.states + first * state, want, n);
    print_message("%s: %d steps, %.2e\n", file, r.n_steps, error);
    assert_memory_equal(r.x0, r.states + r.n_steps * state, (size_t)state * sizeof(float));
    free(want);
    recording_free(&r);
    return error;
}

static const char sprites[] = "[schedule]\nuse = linear\nsteps = 500\n"
                              "[schedule.linear]\nbeta_start = 1e-4\nbeta_end = 0.02\n"
                              "indexing = one\n"
                              "[network]\nuse = context-unet\n"
                              "[network.context-unet]\nn_feat = 32\nn_cfeat = 5\nheight = 16\n"
                              "[sampler]\nuse = ddim\n"
                              "[sample]\nsteps = trailing25\nimages = 4\n";

static void check_sprites(const char *checkpoint)
{
    struct fixture f;
    fixture_open(&f, 2, NULL);
    const char *zero = test_data("context-unet-sprites/eps_zero_shortcut.safetensors");
    const char *fixed = test_data("context-unet-sprites/eps_fixed_shortcut.safetensors");
    const char *ddim = test_data("context-unet-sprites/ddim25_zero_shortcut.safetensors");
    struct dm_error err = DM_ERROR_INIT;
    char file[4200];
    struct dm_ini *ini = describe(sprites, checkpoint, ddim);
    assert_true(evaluate(&f, ini, zero) < 2e-5);
    assert_true(replay(&f, ini, ddim, 1) < 1e-3);
    fixture_expect_ok(dm_ini_set(ini, "network.context-unet.shortcut=fixed", &err), &err);
    snprintf(file, sizeof file, "network.context-unet.shortcut_file=%s", fixed);
    fixture_expect_ok(dm_ini_set(ini, file, &err), &err);
    assert_true(evaluate(&f, ini, fixed) < 2e-5);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static void test_context_unet_from_pytorch(void **state)
{
    check_sprites(test_data("context-unet-sprites/checkpoint.pth"));
}

static void test_context_unet_from_safetensors(void **state)
{
    check_sprites(test_data("context-unet-sprites/checkpoint.safetensors"));
}

static void test_straight_path(void **state)
{
    static const char text[] = "[schedule]\nuse = straight\nsteps = 100\n"
                               "[network]\nuse = mlp\n"
                               "[network.mlp]\npredict = x1\ntime = t\n"
                               "[sampler]\nuse = ddim\n"
                               "[sample]\nimages = 20\n";
    const char *sample = test_data("straight-path/sample100.safetensors");
    const char *checkpoints[] = {test_data("straight-path/checkpoint.safetensors"),
                                 test_data("straight-path/checkpoint.pt")};
    struct fixture f;
    fixture_open(&f, 2, NULL);
    for (int i = 0; i < 2; i++) {
        struct dm_ini *ini = describe(text, checkpoints[i], sample);
        assert_true(evaluate(&f, ini, test_data("straight-path/predict.safetensors")) < 1e-6);
        assert_true(replay(&f, ini, sample, 0) < 1e-4);
        dm_ini_destroy(ini);
    }
    fixture_close(&f);
}

static void test_two_moons(void **state)
{
    static const char text[] = "[schedule]\nuse = linear\nsteps = 100\n"
                               "[schedule.linear]\nbeta_start = 1e-4\nbeta_end = 0.02\n"
                               "[network]\nuse = mlp\n"
                               "[network.mlp]\nhidden = 128,256,256\n"
                               "[sampler]\nuse = ddpm\n"
                               "[sampler.ddpm]\nvariance = course\n"
                               "[sample]\nimages = 64\n";
    const char *ddpm = test_data("two-moons-mlp/ddpm100.safetensors");
    const char *checkpoints[] = {test_data("two-moons-mlp/checkpoint.safetensors"),
                                 test_data("two-moons-mlp/checkpoint.pt")};
    struct fixture f;
    fixture_open(&f, 2, NULL);
    for (int i = 0; i < 2; i++) {
        struct dm_ini *ini = describe(text, checkpoints[i], ddpm);
        struct dm_error err = DM_ERROR_INIT;
        assert_true(evaluate(&f, ini, test_data("two-moons-mlp/eps.safetensors")) < 2e-5);
        assert_true(replay(&f, ini, ddpm, -1) < 1e-4);
        fixture_expect_ok(dm_ini_set(ini, "sampler.ddpm.variance=large", &err), &err);
        assert_true(replay(&f, ini, ddpm, -1) < 1e-4);
        dm_ini_destroy(ini);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_straight_path),
        cmocka_unit_test(test_two_moons),
        cmocka_unit_test(test_context_unet_from_safetensors),
        cmocka_unit_test(test_context_unet_from_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

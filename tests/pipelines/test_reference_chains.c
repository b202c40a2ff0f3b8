/* The reference results of real checkpoints: every evaluation and every state of every chain, on
 * the backend that DEMIST_TEST_BACKEND names (reference without it), with the option of its that
 * DEMIST_TEST_OPTION sets ("fp64=off"). */
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
    static char backend_line[128], option_line[128], checkpoint_line[4200], noise_line[4200];
    const char *option = getenv("DEMIST_TEST_OPTION");
    snprintf(backend_line, sizeof backend_line, "backend.use=%s", backend());
    snprintf(checkpoint_line, sizeof checkpoint_line, "network.checkpoint=%s", checkpoint);
    snprintf(noise_line, sizeof noise_line, "noise.file=%s", noise ? noise : "");
    snprintf(option_line, sizeof option_line, "backend.%s.%s", backend(), option ? option : "");
    const char *overrides[6] = {backend_line, checkpoint_line};
    int n = 2;
    if (option)
        overrides[n++] = option_line;
    if (noise) {
        overrides[n++] = "noise.source=file";
        overrides[n++] = noise_line;
    }
    return fixture_ini(text, overrides);
}

/* Of one evaluation to the file's own `out`: the largest difference relative to max |out|, and the
 * PSNR of a range of twice that in decibels. */
struct agreement {
    double error, psnr;
};

static struct agreement agreement_of(struct fixture *f, const struct dm_ini *ini, const char *in)
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
    double range = max_magnitude(want, n), squares = 0;
    for (int64_t i = 0; i < n; i++)
        squares += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    struct agreement a = {max_difference(got, want, n) / range,
                          10 * log10(4 * range * range * (double)n / squares)};
    print_message("%s: %.2e of max|out|, %.0f dB\n", in, a.error, a.psnr);
    free(got);
    free(want);
    unlink(out);
    return a;
}

static double evaluate(struct fixture *f, const struct dm_ini *ini, const char *in)
{
    return agreement_of(f, ini, in).error;
}

/* bf16 where the backend has it; the description is f32 again afterwards. */
static void check_bf16(struct fixture *f, struct dm_ini *ini, const char *in)
{
    struct dm_error err = DM_ERROR_INIT;
    if (strcmp(backend(), "cpu") != 0)
        return;
    fixture_expect_ok(dm_ini_set(ini, "backend.precision=bf16", &err), &err);
    assert_true(agreement_of(f, ini, in).psnr >= 54);
    fixture_expect_ok(dm_ini_set(ini, "backend.precision=f32", &err), &err);
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

/* How far a chain is from the file's at the steps that the file kept: the worst of them all. */
struct deviation {
    double max, rms;
    int64_t beyond; /* elements with a difference over 1e-3 */
};

static void widen(struct deviation *d, const float *got, const float *want, int64_t n)
{
    double squares = 0;
    int64_t beyond = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs((double)got[i] - want[i]);
        d->max = e <= d->max ? d->max : e; /* NaN stays */
        squares += e * e;
        beyond += !(e <= 1e-3);
    }
    const double rms = sqrt(squares / (double)n);
    d->rms = rms <= d->rms ? d->rms : rms;
    d->beyond = beyond > d->beyond ? beyond : d->beyond;
}

/* Runs a chain; x_kept[i] is x after evaluation steps_kept[i]. */
static struct deviation replay_kept(struct fixture *f, const struct dm_ini *ini, const char *file)
{
    struct dm_error err = DM_ERROR_INIT;
    struct recording r;
    fixture_expect_ok(fixture_sample(f, ini, true, &r, &err), &err);
    int64_t n, n_kept, n_map, state = r.n * r.elements;
    float *kept = fixture_tensor(file, "x_kept", &n);
    float *steps = fixture_tensor(file, "steps_kept", &n_kept);
    float *map = fixture_tensor(file, "timestep_map", &n_map);
    assert_int_equal(n, n_kept * state);
    assert_int_equal(n_map, r.n_steps);
    for (int64_t i = 0; i < n_map; i++) /* ascending there */
        assert_true(r.times[r.n_steps - 1 - i] == map[i]);
    struct deviation d = {0};
    for (int64_t i = 0; i < n_kept; i++)
        widen(&d, r.states + ((int64_t)steps[i] + 1) * state, kept + i * state, state);
    print_message("%s: %d steps, %.2e, rms %.1e, %lld beyond 1e-3\n", file, r.n_steps, d.max, d.rms,
                  (long long)d.beyond);
    free(kept);
    free(steps);
    free(map);
    recording_free(&r);
    return d;
}

/* A trained network multiplies rounding errors where it is steep: in the crawl's chains one or two
 * elements of 12288 by some hundreds in the last steps, so that PyTorch's own float32 result is
 * 6.4e-4 from that of an evaluation with float64 sums, and any other order of sums lands up
 * to 1.3e-3 from either. There all but a thousandth of the elements must be within the bound, none
 * far outside, and the whole much nearer than the bound. */
static void expect_close(const struct deviation *d, bool steep)
{
    assert_true(d->max < (steep ? 1e-2 : 1e-3));
    assert_true(d->rms < 5e-5);
    assert_true(d->beyond <= (steep ? 12 : 0));
}

static void set(struct dm_ini *ini, const char *fmt, const char *value)
{
    char text[4300];
    struct dm_error err = DM_ERROR_INIT;
    snprintf(text, sizeof text, "%s%s", fmt, value);
    fixture_expect_ok(dm_ini_set(ini, text, &err), &err);
}

/* A folder's forward evaluation and its three chains; PyTorch's file is another way to the same
 * numbers, so one evaluation of it will do. */
static void check_chains(const char *text, const char *folder, const char *ddpm_file,
                         const char *ddpm_sampler, const char *ddpm_steps)
{
    char name[128];
    struct fixture f;
    fixture_open(&f, 2, NULL);
    snprintf(name, sizeof name, "%s/checkpoint.safetensors", folder);
    const char *path = test_data(name);
    snprintf(name, sizeof name, "%s/forward.safetensors", folder);
    struct dm_ini *ini = describe(text, path, test_data(name));
    assert_true(evaluate(&f, ini, test_data(name)) < 2e-5);
    check_bf16(&f, ini, test_data(name));

    snprintf(name, sizeof name, "%s/%s.safetensors", folder, ddpm_file);
    const char *file = test_data(name);
    set(ini, "noise.file=", file);
    set(ini, "sampler.use=", ddpm_sampler);
    set(ini, "sample.steps=", ddpm_steps);
    const bool crawl = strstr(folder, "crawl") != NULL;
    struct deviation deviation = replay_kept(&f, ini, file);
    expect_close(&deviation, crawl);

    static const char *const chains[][2] = {{"ddim", "0"}, {"ddim_eta", "0.7"}};
    for (int i = 0; i < 2; i++) {
        const char *kind = crawl ? (i ? "ddim20_eta" : "ddim20") : chains[i][0];
        snprintf(name, sizeof name, "%s/%s.safetensors", folder, kind);
        file = test_data(name);
        set(ini, "noise.file=", file);
        set(ini, "sampler.use=", "ddim");
        set(ini, "sampler.ddim.eta=", chains[i][1]);
        set(ini, "sample.steps=", "ddim20");
        deviation = replay_kept(&f, ini, file);
        expect_close(&deviation, crawl);
    }
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static void check_pytorch_file(const char *text, const char *folder)
{
    char name[128];
    struct fixture f;
    fixture_open(&f, 2, NULL);
    snprintf(name, sizeof name, "%s/checkpoint.pt", folder);
    const char *path = test_data(name);
    snprintf(name, sizeof name, "%s/forward.safetensors", folder);
    struct dm_ini *ini = describe(text, path, NULL);
    assert_true(evaluate(&f, ini, test_data(name)) < 2e-5);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static const char hybrid[] = "[schedule]\nuse = cosine\nsteps = 4000\n"
                             "[network]\nuse = unet\n"
                             "[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                             "num_res_blocks = 1\nlearn_sigma = true\n"
                             "[sample]\nimages = 2\n";

static void test_hybrid_32(void **state)
{
    check_chains(hybrid, "improved-diffusion/hybrid-32", "ddpm", "learned-sigma", "25");
    check_pytorch_file(hybrid, "improved-diffusion/hybrid-32");
}

static void test_classcond_64(void **state)
{
    static const char text[] = "[schedule]\nuse = linear\nsteps = 1000\n"
                               "[network]\nuse = unet\n"
                               "[network.unet]\nimage_size = 64\nnum_channels = 32\n"
                               "num_res_blocks = 1\nnum_heads = 1\n"
                               "attention_resolutions = 16\nnum_classes = 10\n"
                               "rescale_timesteps = false\nuse_scale_shift_norm = false\n"
                               "[sample]\nimages = 2\nlabels = CLASSES\n";
    char with_labels[sizeof text + 16];
    int64_t n;
    float *y =
        fixture_tensor(test_data("improved-diffusion/classcond-64/ddpm.safetensors"), "y", &n);
    assert_int_equal(n, 2);
    snprintf(with_labels, sizeof with_labels, "%.*s%d,%d\n", (int)(strstr(text, "CLASSES") - text),
             text, (int)y[0], (int)y[1]);
    free(y);
    check_chains(with_labels, "improved-diffusion/classcond-64", "ddpm", "ddpm", "25");
}

static void test_crawl_unet(void **state)
{
    static const char text[] = "[schedule]\nuse = cosine\nsteps = 1000\n"
                               "[network]\nuse = unet\n"
                               "[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                               "num_res_blocks = 1\nlearn_sigma = true\nnum_classes = 8\n"
                               "[sample]\nimages = 4\nlabels = 1-4\n";
    check_chains(text, "crawl-unet", "ddpm50", "learned-sigma", "50");
    check_pytorch_file(text, "crawl-unet");
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
    check_bf16(&f, ini, zero);
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
        cmocka_unit_test(test_hybrid_32),
        cmocka_unit_test(test_classcond_64),
        cmocka_unit_test(test_crawl_unet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

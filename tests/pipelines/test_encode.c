/* Encoding: chains from data to the noise that a deterministic sampler makes them of. Against the
 * original's equations in float64, the probability flow in closed form, and by the way back. */
#include "testing.h"

#include "fixture.h"
#include "mixture.h"

#include "npy.h"
#include "safetensors.h"

#include <demist/sampler.h>

#include <math.h>
#include <unistd.h>

extern const demist_plugin demist_plugin_v1_sampler_dpmpp_2m; /* the example of a plugin */

/* ---------------------------------------------------------------- a sampler that a test writes */

static demist_status (*probe)(demist_run *run, demist_tensor *x);
static uint32_t probe_flags; /* DEMIST_NEEDS_… */

static demist_status probe_create(const demist_host *host, const demist_value *const *values,
                                  void **self)
{
    (void)host, (void)values;
    *self = NULL;
    return DEMIST_OK;
}

static void probe_destroy(void *self)
{
    (void)self;
}

static uint32_t probe_needs(void *self)
{
    (void)self;
    return probe_flags;
}

static demist_status probe_sample(void *self, demist_run *run, demist_tensor *x)
{
    (void)self;
    return probe(run, x);
}

static const demist_sampler_vtable probe_vtable = {.size = sizeof probe_vtable,
                                                   .create = probe_create,
                                                   .destroy = probe_destroy,
                                                   .needs = probe_needs,
                                                   .sample = probe_sample};
static const demist_class probe_class = {.size = sizeof probe_class,
                                         .kind = DEMIST_SAMPLER,
                                         .name = "probe",
                                         .doc = "what a test wants",
                                         .vtable = &probe_vtable};
static const demist_class *const probe_classes[] = {&probe_class, NULL};
static const demist_plugin probe_plugin = {.size = sizeof probe_plugin,
                                           .abi_epoch = DEMIST_ABI_EPOCH,
                                           .abi_minor = DEMIST_ABI_MINOR,
                                           .id = "demist.test-probe",
                                           .version = "1",
                                           .license = "MIT",
                                           .url = "",
                                           .classes = probe_classes};
static const demist_plugin *const extra[] = {&mixture_plugin, &demist_plugin_v1_sampler_dpmpp_2m,
                                             &probe_plugin, NULL};

#define TRY(call)                                                                                  \
    do {                                                                                           \
        demist_status status_ = (call);                                                            \
        if (status_ != DEMIST_OK)                                                                  \
            return status_;                                                                        \
    } while (0)

/* ---------------------------------------------------------------- points and runs */

enum { N = 16 };
static const float centre[2] = {-1, 0.5F};
static const double spread = 0.3;
static char *checkpoint, *points; /* Gaussian data, and N points of it */
static float data[2 * N];

static char *temporary(void)
{
    char *path = strdup("/tmp/demist-encode-XXXXXX");
    assert_non_null(path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return path;
}

static void save(const char *path, const char *name, const float *x, int64_t n)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_tensor_view view = {name, DEMIST_F32, 2, {n, 2}, x, (size_t)n * 2 * sizeof *x, "f32"};
    fixture_expect_ok(dm_safetensors_save(path, &view, 1, NULL, 0, &err), &err);
}

static int make_files(void **state)
{
    checkpoint = mixture_gaussian(centre, (float)spread, NULL);
    points = temporary();
    for (int i = 0; i < N; i++) { /* up to two standard deviations */
        data[2 * i] = (float)(centre[0] + spread * (4.0 * i / (N - 1) - 2));
        data[2 * i + 1] = (float)(centre[1] + spread * (4.0 * (i * 7 % N) / (N - 1) - 2));
    }
    save(points, "x_0", data, N);
    return 0;
}

static int drop_files(void **state)
{
    unlink(checkpoint);
    unlink(points);
    free(checkpoint);
    free(points);
    return 0;
}

static const char text[] = "[backend]\nuse = reference\n"
                           "[schedule]\nuse = linear\n"
                           "[network]\nuse = mixture\n"
                           "[sampler]\nuse = ddim\n"
                           "[sample]\nimages = 16\nstart = file\n";

static struct dm_ini *describe(const char *direction, const char *file,
                               const char *const *overrides)
{
    char lines[3][4200];
    struct dm_error err = DM_ERROR_INIT;
    snprintf(lines[0], sizeof lines[0], "network.checkpoint=%s", checkpoint);
    snprintf(lines[1], sizeof lines[1], "sample.direction=%s", direction);
    snprintf(lines[2], sizeof lines[2], "sample.start_file=%s", file);
    struct dm_ini *ini = fixture_ini(text, (const char *[]){lines[0], lines[1], lines[2], NULL});
    for (size_t i = 0; overrides && overrides[i]; i++)
        fixture_expect_ok(dm_ini_set(ini, overrides[i], &err), &err);
    return ini;
}

static struct recording run(const struct dm_ini *ini)
{
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    fixture_open(&f, 2, extra);
    fixture_expect_ok(fixture_sample(&f, ini, true, &r, &err), &err);
    fixture_close(&f);
    return r;
}

static struct recording encode(const char *const *overrides)
{
    struct dm_ini *ini = describe("encode", points, overrides);
    struct recording r = run(ini);
    dm_ini_destroy(ini);
    return r;
}

/* Encodes the points and decodes what came of them. */
static struct recording there_and_back(const char *const *overrides)
{
    char *noise = temporary();
    struct recording up = encode(overrides);
    save(noise, "x_T", up.x0, up.n);
    struct dm_ini *ini = describe("decode", noise, overrides);
    struct recording down = run(ini);
    dm_ini_destroy(ini);
    recording_free(&up);
    unlink(noise);
    free(noise);
    return down;
}

static double rms(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += pow((double)a[i] - b[i], 2);
    return sqrt(sum / (double)n);
}

/* ---------------------------------------------------------------- the original's equations */

static double alpha_bar_at(int t)
{
    double alpha_bar = 1;
    for (int i = 0; i <= t; i++)
        alpha_bar *= 1 - (1e-4 + i * (0.02 - 1e-4) / (MIXTURE_T - 1));
    return alpha_bar;
}

/* ddim_reverse_sample with the exact x̂_0: times [n] rise; states [n+1][2·N]. */
static void original(const double *times, int n, bool clip, double *states)
{
    for (int i = 0; i < 2 * N; i++)
        states[i] = data[i];
    for (int k = 0; k < n; k++) {
        double a = alpha_bar_at((int)times[k]);
        double next = k + 1 < n ? alpha_bar_at((int)times[k + 1]) : 0; /* alphas_cumprod_next */
        for (int i = 0; i < 2 * N; i++) {
            double x = states[2 * N * k + i], m = centre[i % 2], v = a * spread * spread + 1 - a;
            double x0 = m + sqrt(a) * spread * spread / v * (x - sqrt(a) * m);
            if (clip)
                x0 = fmin(fmax(x0, -1), 1);
            double eps = (sqrt(1 / a) * x - x0) / sqrt(1 / a - 1);
            states[2 * N * (k + 1) + i] = sqrt(next) * x0 + sqrt(1 - next) * eps;
        }
    }
}

static void check_chain(const char *const *overrides, bool clip)
{
    static double want[(MIXTURE_T + 1) * 2 * N];
    struct recording r = encode(overrides);
    double worst = 0;
    assert_true(r.times[r.n_steps] == MIXTURE_T); /* one above the last index: ᾱ = 0 */
    for (int i = 1; i <= r.n_steps; i++)
        assert_true(r.times[i] > r.times[i - 1]);
    original(r.times, r.n_steps, clip, want);
    for (int i = 0; i < (r.n_steps + 1) * 2 * N; i++)
        worst = fmax(worst, fabs(r.states[i] - want[i]));
    print_message("%s, %d steps: %.1e\n", overrides[0], r.n_steps, worst);
    /* where x̂_0 was clipped, ε is a difference over the noise, 0.01 in the first steps */
    assert_true(worst < (clip ? 3e-4 : 2e-5));
    assert_memory_equal(r.x0, r.states + (int64_t)r.n_steps * 2 * N, sizeof data);
    recording_free(&r);
}

static void test_every_state_is_the_originals(void **state)
{
    static const char *const backends[] = {"backend.use=reference",
#ifdef HAVE_BACKEND_CPU
                                           "backend.use=cpu"
#endif
    };
    static const char *const steps[] = {"sample.steps=",           "sample.steps=50",
                                        "sample.steps=10,20,30",   "sample.steps=ddim25",
                                        "sample.steps=trailing20", "sample.steps=1"};
    for (size_t b = 0; b < sizeof backends / sizeof *backends; b++)
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
            for (int clip = 0; clip < 2; clip++)
                check_chain((const char *[]){steps[i], backends[b],
                                             clip ? "sample.clip_denoised=true"
                                                  : "sample.clip_denoised=false",
                                             NULL},
                            clip);
}

static void test_every_prediction_is_encoded_alike(void **state)
{
    static const char *const predictions[] = {
        "network.mixture.predict=x0", "network.mixture.predict=v", "network.mixture.predict=mean",
        "network.mixture.learned=range"};
    for (int i = 0; i < 4; i++)
        for (int clip = 0; clip < 2; clip++)
            check_chain(
                (const char *[]){
                    predictions[i], "sample.steps=ddim100", "network.mixture.stride=10",
                    clip ? "sample.clip_denoised=true" : "sample.clip_denoised=false", NULL},
                clip);
}

static void test_batches_and_threads_change_no_bit(void **state)
{
    struct recording want = encode((const char *[]){"sample.steps=20", NULL});
    struct recording batches = encode((const char *[]){"sample.steps=20", "sample.batch=3", NULL});
    struct recording tail =
        encode((const char *[]){"sample.steps=20", "sample.first=12", "sample.images=4", NULL});
    assert_memory_equal(batches.x0, want.x0, sizeof data);
    assert_memory_equal(tail.x0, want.x0 + 2 * 12, 2 * 4 * sizeof(float));
    recording_free(&want);
    recording_free(&batches);
    recording_free(&tail);
}

/* ---------------------------------------------------------------- the probability flow */

/* Along the flow (x − √ᾱ·m)/√Var x stays what it is; at ᾱ = 0 it is x_T itself. */
static double distance_to_flow(const char *sampler, const char *steps)
{
    float want[2 * N];
    double a = alpha_bar_at(0), v = a * spread * spread + 1 - a;
    for (int i = 0; i < 2 * N; i++)
        want[i] = (float)((data[i] - sqrt(a) * centre[i % 2]) / sqrt(v));
    struct recording r = encode((const char *[]){sampler, steps, NULL});
    double error = rms(r.x0, want, 2 * N);
    print_message("%s %s: %.2e\n", sampler, steps, error);
    recording_free(&r);
    return error;
}

static void test_encoded_points_approach_the_flow_with_the_samplers_order(void **state)
{
    static const char *const steps[] = {"sample.steps=50", "sample.steps=100", "sample.steps=200"};
    double ddim[3], multistep[3];
    for (int i = 0; i < 3; i++) {
        ddim[i] = distance_to_flow("sampler.use=ddim", steps[i]);
        multistep[i] = distance_to_flow("sampler.use=dpmpp-2m", steps[i]);
    }
    for (int i = 0; i < 2; i++) {
        assert_true(ddim[i] > 1.7 * ddim[i + 1] && ddim[i] < 2.3 * ddim[i + 1]);
        assert_true(multistep[i] > 2.6 * multistep[i + 1]); /* its first step is of order one */
    }
    assert_true(multistep[2] < 0.3 * ddim[2]);
}

static void test_the_way_back_leads_to_the_data(void **state)
{
    static const char *const steps[] = {"sample.steps=25", "sample.steps=50", "sample.steps=100"};
    double error[3];
    for (int i = 0; i < 3; i++) {
        struct recording r = there_and_back((const char *[]){steps[i], NULL});
        error[i] = rms(r.x0, data, 2 * N);
        print_message("%s: %.2e\n", steps[i], error[i]);
        recording_free(&r);
    }
    for (int i = 0; i < 2; i++)
        assert_true(error[i] > 1.6 * error[i + 1] && error[i] < 2.4 * error[i + 1]);
}

/* ---------------------------------------------------------------- what a sampler sees */

static demist_status looks_around(demist_run *run, demist_tensor *x)
{
    demist_prediction out = DEMIST_INIT(demist_prediction);
    assert_int_equal(run->n_steps, 9); /* the tenth is the host's */
    for (int32_t i = 0; i < run->n_steps; i++) {
        const demist_step *step = run->step[i];
        assert_true(step->time == run->time[i] && step->time_next == run->time[i + 1]);
        assert_true(step->time < step->time_next && step->lambda > step->lambda_next);
        assert_true(step->signal > step->signal_next && step->signal_next > 0);
        assert_true(step->noise < step->noise_next && step->noise_next < 1);
        assert_true(step->alpha_bar_next == step->signal_next * step->signal_next ||
                    fabs(step->alpha_bar_next - pow(step->signal_next, 2)) < 1e-15);
        assert_true(isnan(step->beta) && isnan(step->posterior_x0) && isnan(step->large_variance));
        assert_int_equal(step->index, (int64_t)step->time);
        TRY(demist_predict(run, step->time, x, &out));
        TRY(demist_predict(run, step->time_next, x, &out)); /* as Heun's method would */
        TRY(run->emit(run, i, x, NULL));
    }
    return DEMIST_OK;
}

static void test_a_sampler_sees_rising_times_and_finite_levels(void **state)
{
    probe = looks_around;
    struct recording r = encode((const char *[]){"sampler.use=probe", "sample.steps=10", NULL});
    assert_int_equal(r.n_steps, 10);
    recording_free(&r);
}

/* ---------------------------------------------------------------- a path */

/* On the straight path the chain ends where sampling starts, at t_start. */
static void test_points_of_the_straight_path_go_there_and_back(void **state)
{
    static const char straight[] = "[backend]\nuse = reference\n"
                                   "[schedule]\nuse = straight\n"
                                   "[network]\nuse = mlp\n"
                                   "[network.mlp]\npredict = x1\ntime = t\n"
                                   "[sampler]\nuse = ddim\n"
                                   "[sample]\nimages = 7\nstart = file\n";
    static const char *const counts[] = {"schedule.steps=50", "schedule.steps=100",
                                         "schedule.steps=200"};
    float line[14] = {0};
    for (int i = 0; i < 7; i++)
        line[2 * i] = (float)(i - 3);
    char *file = temporary(), weights[4200], start[4200];
    double error[3];
    snprintf(weights, sizeof weights, "network.checkpoint=%s",
             test_data("straight-path/checkpoint.safetensors"));
    snprintf(start, sizeof start, "sample.start_file=%s", file);
    for (int i = 0; i < 3; i++) {
        struct dm_error err = DM_ERROR_INIT;
        struct dm_ini *ini = fixture_ini(
            straight, (const char *[]){weights, start, counts[i], "sample.direction=encode", NULL});
        save(file, "x_0", line, 7);
        struct recording up = run(ini);
        assert_int_equal(up.n_steps + 1, i == 0 ? 50 : i == 1 ? 100 : 200);
        assert_true(up.times[0] == 0 && fabs(up.times[up.n_steps] - 0.95) < 1e-12);
        double off = 0; /* the half circle of radius 4, its y scaled by 0.95 */
        for (int k = 0; k < 7; k++)
            off = fmax(off, fabs(hypot(up.x0[2 * k], up.x0[2 * k + 1] / 0.95) - 4));
        print_message("%s: %.2e off the circle\n", counts[i], off);
        assert_true(off < 0.3);
        save(file, "x_T", up.x0, 7);
        fixture_expect_ok(dm_ini_set(ini, "sample.direction=decode", &err), &err);
        struct recording down = run(ini);
        error[i] = rms(down.x0, line, 14);
        print_message("%s: %.2e\n", counts[i], error[i]);
        recording_free(&up);
        recording_free(&down);
        dm_ini_destroy(ini);
    }
    for (int i = 0; i < 2; i++)
        assert_true(error[i] > 1.6 * error[i + 1] && error[i] < 2.4 * error[i + 1]);
    unlink(file);
    free(file);
}

/* ---------------------------------------------------------------- pictures */

static const char crawl[] = "[schedule]\nuse = cosine\n"
                            "[network]\nuse = unet\n"
                            "[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                            "num_res_blocks = 1\nlearn_sigma = true\nnum_classes = 8\n"
                            "[sampler]\nuse = ddim\n"
                            "[sample]\nimages = 2\nstart = file\n";

/* Encodes two tiles with their labels, decodes them, and returns the error of a pixel. */
static double tiles_there_and_back(const char *backend, const char *steps, const char *labels)
{
    char weights[4200], start[4200];
    struct dm_error err = DM_ERROR_INIT;
    const char *tiles = test_data("crawl-unet/bpd.safetensors");
    char *file = temporary();
    snprintf(weights, sizeof weights, "network.checkpoint=%s",
             test_data("crawl-unet/checkpoint.safetensors"));
    snprintf(start, sizeof start, "sample.start_file=%s", tiles);
    struct dm_ini *ini = fixture_ini(
        crawl, (const char *[]){weights, start, backend, steps, "sample.direction=encode", NULL});
    struct recording up = run(ini); /* the labels are the file's */
    struct dm_tensor_view view = {
        "x_T", DEMIST_F32, 4, {2, 3, 32, 32}, up.x0, 2 * 3072 * sizeof(float), "f32"};
    fixture_expect_ok(dm_npz_save(file, &view, 1, &err), &err);
    snprintf(start, sizeof start, "sample.start_file=%s", file);
    fixture_expect_ok(dm_ini_set(ini, start, &err), &err);
    fixture_expect_ok(dm_ini_set(ini, labels, &err), &err);
    fixture_expect_ok(dm_ini_set(ini, "sample.direction=decode", &err), &err);
    struct recording down = run(ini);
    float *x_0 = fixture_tensor(tiles, "x_0", NULL);
    double error = rms(down.x0, x_0, 2 * 3072);
    print_message("%s, %s, %s: %.4f\n", backend, steps, labels, error);
    recording_free(&up);
    recording_free(&down);
    dm_ini_destroy(ini);
    unlink(file);
    free(file);
    free(x_0);
    return error;
}

static void test_tiles_go_there_and_back(void **state)
{
    double reference =
        tiles_there_and_back("backend.use=reference", "sample.steps=5", "sample.labels=4");
#ifdef HAVE_BACKEND_CPU
    double cpu = tiles_there_and_back("backend.use=cpu", "sample.steps=5", "sample.labels=4");
    double more = tiles_there_and_back("backend.use=cpu", "sample.steps=40", "sample.labels=4");
    double others = tiles_there_and_back("backend.use=cpu", "sample.steps=40", "sample.labels=7");
    assert_true(fabs(cpu - reference) < 1e-3 * reference);
    assert_true(more < 0.5 * cpu && more < 0.12);
    assert_true(others > 2 * more); /* the noise of a potion is no undead */
#else
    assert_true(reference < 0.3);
#endif
}

/* ---------------------------------------------------------------- mistakes */

static void refuse_ini(struct dm_ini *ini, demist_status status, const char *fragment)
{
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    fixture_open(&f, 1, extra);
    assert_int_equal(fixture_sample(&f, ini, false, &r, &err), status);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    fixture_close(&f);
    dm_ini_destroy(ini);
}

static void refuse(demist_status status, const char *fragment, const char *const *overrides)
{
    refuse_ini(describe("encode", points, overrides), status, fragment);
}

static demist_status draws_noise(demist_run *run, demist_tensor *x)
{
    demist_tensor *z;
    TRY(run->temp(run, &z));
    TRY(demist_noise(run, DEMIST_NOISE_STEP, 0, z));
    return run->lincomb(run, x, 1, 1, (double[]){1}, &z);
}

static demist_status goes_too_far(demist_run *run, demist_tensor *x)
{
    demist_prediction out = DEMIST_INIT(demist_prediction);
    return demist_predict(run, run->time[run->n_steps] + 1, x, &out);
}

static void test_samplers_that_cannot_be_reversed_are_refused(void **state)
{
    refuse(DEMIST_INCOMPATIBLE,
           "--set: sampler ddim as configured draws noise, and [sample] direction = encode needs a "
           "deterministic one: take sampler ddim with eta = 0",
           (const char *[]){"sampler.use=ddim", "sampler.ddim.eta=0.1", NULL});
    refuse(DEMIST_INCOMPATIBLE, "sampler ddpm as configured draws noise",
           (const char *[]){"sampler.use=ddpm", NULL});
    refuse(DEMIST_INCOMPATIBLE, "sampler learned-sigma as configured draws noise",
           (const char *[]){"sampler.use=learned-sigma", "network.mixture.learned=range", NULL});
    probe_flags = DEMIST_NEEDS_POSTERIOR;
    refuse(DEMIST_INCOMPATIBLE, "sampler probe needs the posterior of steps towards the data",
           (const char *[]){"sampler.use=probe", NULL});
    probe_flags = 0; /* one that does not say that it draws */
    probe = draws_noise;
    refuse(DEMIST_INCOMPATIBLE, "noise: the sampler draws noise, and [sample] direction = encode",
           (const char *[]){"sampler.use=probe", NULL});
    probe = goes_too_far;
    refuse(DEMIST_INVALID, "time 1000 is outside the schedule's",
           (const char *[]){"sampler.use=probe", NULL});
}

static void test_what_cannot_be_encoded_is_refused(void **state)
{
    refuse(DEMIST_CONFIG, "direction = encode needs data to encode: set start = file",
           (const char *[]){"sample.start=normal", "sample.start_file=", NULL});
    refuse(DEMIST_INCOMPATIBLE, "it holds 16 images, and this run goes up to image 16",
           (const char *[]){"sample.first=1", NULL});
    refuse(DEMIST_CONFIG, "--set: [sample]: direction = encode starts from data, and course_end",
           (const char *[]){"schedule.linear.indexing=one", "sample.steps=course7",
                            "sample.course_end=wrap", NULL});
    refuse(DEMIST_CONFIG, "a single one is kept",
           (const char *[]){"schedule.use=straight", "schedule.steps=1", NULL});
    refuse_ini(describe("decode", points, (const char *[]){"sample.first=1", NULL}),
               DEMIST_INCOMPATIBLE, "this run goes up to image 16");
}

/* Pictures of another kind than the network's, and classes that it does not have. */
static void test_pictures_that_do_not_fit_are_refused(void **state)
{
    enum { PIXELS = 3 * 32 * 32 };
    static float bright[2 * PIXELS];
    static uint8_t bytes[2 * PIXELS];
    static const int64_t labels[] = {3, 8};
    char weights[4200], start[4200], *file = temporary();
    struct dm_error err = DM_ERROR_INIT;
    struct dm_tensor_view floats = {"x_0",  DEMIST_F32,    4,    {2, 3, 32, 32},
                                    bright, sizeof bright, "f32"};
    struct dm_tensor_view images[] = {
        {"arr_0", DEMIST_U8, 4, {2, 32, 32, 3}, bytes, sizeof bytes, "u8"},
        {"arr_1", DEMIST_I64, 1, {2}, labels, sizeof labels, "i64"}};
    snprintf(weights, sizeof weights, "network.checkpoint=%s",
             test_data("crawl-unet/checkpoint.safetensors"));
    snprintf(start, sizeof start, "sample.start_file=%s", file);
    const char *overrides[] = {
        weights,          start, "sample.images=2", "sample.direction=encode", "sample.labels=3",
        "sample.steps=2", NULL};

    bright[PIXELS + 5] = 255;
    fixture_expect_ok(dm_safetensors_save(file, &floats, 1, NULL, 0, &err), &err);
    refuse_ini(fixture_ini(crawl, overrides), DEMIST_INCOMPATIBLE,
               "image 1 holds the value 255; images are in [-1, 1], or bytes");
    overrides[4] = "sample.labels=";
    refuse_ini(fixture_ini(crawl, overrides), DEMIST_CONFIG, "set [sample] labels");
    fixture_expect_ok(dm_npz_save(file, images, 2, &err), &err);
    refuse_ini(fixture_ini(crawl, overrides), DEMIST_INCOMPATIBLE,
               "label 8 of image 1 is no class, there are 0 … 7");
    overrides[3] = "sample.direction=decode";
    refuse_ini(fixture_ini(crawl, overrides), DEMIST_NOT_FOUND, "none is called x_T");
    fixture_expect_ok(dm_npz_save(file, images, 1, &err), &err);
    overrides[4] = "sample.labels=3";
    refuse_ini(fixture_ini(crawl, overrides), DEMIST_INCOMPATIBLE,
               "holds bytes, which are pictures and no noise");
    unlink(file);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_state_is_the_originals),
        cmocka_unit_test(test_every_prediction_is_encoded_alike),
        cmocka_unit_test(test_batches_and_threads_change_no_bit),
        cmocka_unit_test(test_encoded_points_approach_the_flow_with_the_samplers_order),
        cmocka_unit_test(test_the_way_back_leads_to_the_data),
        cmocka_unit_test(test_a_sampler_sees_rising_times_and_finite_levels),
        cmocka_unit_test(test_points_of_the_straight_path_go_there_and_back),
        cmocka_unit_test(test_tiles_go_there_and_back),
        cmocka_unit_test(test_samplers_that_cannot_be_reversed_are_refused),
        cmocka_unit_test(test_what_cannot_be_encoded_is_refused),
        cmocka_unit_test(test_pictures_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}

/* The run that samplers see: what may not change a bit of the result, and what happens to
 * samplers that do strange things. */
#include "testing.h"

#include "fixture.h"
#include "mixture.h"

#include <demist/sampler.h>

#include <math.h>
#include <unistd.h>

/* ---------------------------------------------------------------- a sampler that a test writes */

/* What the class `probe` does in sample; set by each test before its run. */
static demist_status (*probe)(demist_run *run, demist_tensor *x);

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

static demist_status probe_sample(void *self, demist_run *run, demist_tensor *x)
{
    (void)self;
    return probe(run, x);
}

static const demist_sampler_vtable probe_vtable = {.size = sizeof probe_vtable,
                                                   .create = probe_create,
                                                   .destroy = probe_destroy,
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
static const demist_plugin *const extra[] = {&mixture_plugin, &probe_plugin, NULL};

#define TRY(call)                                                                                  \
    do {                                                                                           \
        demist_status status_ = (call);                                                            \
        if (status_ != DEMIST_OK)                                                                  \
            return status_;                                                                        \
    } while (0)

static const char text[] = "[backend]\nuse = reference\n"
                           "[schedule]\nuse = linear\n"
                           "[network]\nuse = mixture\n"
                           "[sampler]\nuse = ddim\n"
                           "[sample]\nimages = 5\nsteps = 10\nseed = 7\n";

static char *checkpoint;

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

static struct dm_ini *describe(const char *const *overrides)
{
    char line[128];
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = fixture_ini(text, overrides);
    snprintf(line, sizeof line, "network.checkpoint=%s", checkpoint);
    fixture_expect_ok(dm_ini_set(ini, line, &err), &err);
    return ini;
}

static struct recording run(int threads, bool states, const char *const *overrides)
{
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = describe(overrides);
    fixture_open(&f, threads, extra);
    fixture_expect_ok(fixture_sample(&f, ini, states, &r, &err), &err);
    fixture_close(&f);
    dm_ini_destroy(ini);
    return r;
}

/* The run fails with this status and text. */
static void refuse(demist_status status, const char *fragment, const char *const *overrides)
{
    struct fixture f;
    struct recording r;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = describe(overrides);
    fixture_open(&f, 1, extra);
    assert_int_equal(fixture_sample(&f, ini, false, &r, &err), status);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    fixture_close(&f);
    dm_ini_destroy(ini);
}

static void refuse_probe(demist_status (*function)(demist_run *, demist_tensor *),
                         demist_status status, const char *fragment)
{
    probe = function;
    refuse(status, fragment, (const char *[]){"sampler.use=probe", NULL});
}

/* ---------------------------------------------------------------- what never changes a bit */

static void test_threads_batches_and_recording_change_no_bit(void **state)
{
    static const char *const samplers[] = {"sampler.use=ddim", "sampler.use=ddpm"};
    static const char *const backends[] = {"backend.use=reference", "backend.use=cpu"};
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 2; i++) {
            const char *const base[] = {samplers[i], backends[b], "sampler.ddim.eta=0.5", NULL};
            struct recording want = run(1, false, base);
            size_t bytes = (size_t)(want.n * want.elements) * sizeof(float);
            struct recording threads = run(3, false, base), states = run(2, true, base);
            assert_memory_equal(threads.x0, want.x0, bytes);
            assert_memory_equal(states.x0, want.x0, bytes);
            static const char *const sizes[] = {"sample.batch=1", "sample.batch=2",
                                                "sample.batch=3"};
            for (int k = 0; k < 3; k++) {
                struct recording r =
                    run(2, false, (const char *[]){base[0], base[1], base[2], sizes[k], NULL});
                assert_memory_equal(r.x0, want.x0, bytes);
                recording_free(&r);
            }
            struct recording alone =
                run(1, false,
                    (const char *[]){base[0], base[1], base[2], "sample.first=3", "sample.images=1",
                                     NULL});
            assert_memory_equal(alone.x0, want.x0 + 3 * want.elements,
                                (size_t)want.elements * sizeof(float));
            recording_free(&alone);
            recording_free(&threads);
            recording_free(&states);
            recording_free(&want);
        }
}

static void test_seeds_and_images_differ(void **state)
{
    struct recording a = run(1, false, NULL);
    struct recording b = run(1, false, (const char *[]){"sample.seed=8", NULL});
    for (int64_t i = 0; i < a.n * a.elements; i++) {
        assert_true(a.x0[i] != b.x0[i]);
        if (i >= a.elements)
            assert_true(a.x0[i] != a.x0[i - a.elements]);
    }
    recording_free(&a);
    recording_free(&b);
}

/* ---------------------------------------------------------------- the sampler's calls */

/* ddim in other words: every member of the run is used once. */
static demist_status roundabout(demist_run *run, demist_tensor *x)
{
    demist_tensor *y, *z;
    double sums[8], each[16], t;
    TRY(run->temp(run, &y));
    TRY(run->temp(run, &z));
    for (int32_t i = 0; i < run->n_steps; i++) {
        const demist_step *step = run->step[i];
        demist_prediction out = DEMIST_INIT(demist_prediction);
        double times[8];
        for (int64_t n = 0; n < run->n_images; n++)
            times[n] = step->time;
        TRY(run->predict(run, run->n_images, times, x, &out));
        demist_coeffs c = DEMIST_INIT(demist_coeffs);
        TRY(run->coeffs(run, step->time, &c));
        TRY(run->time_of(run, c.lambda, &t));
        if (c.signal != step->signal || c.noise != step->noise || fabs(t - step->time) > 1e-6)
            return DEMIST_INTERNAL;
        /* x' = s'·x_0 + n'·ε with x_0 = s·x − n·v and ε = n·x + s·v */
        for (int64_t n = 0; n < run->n_images; n++) {
            each[n] = step->signal_next * step->signal + step->noise_next * step->noise;
            each[run->n_images + n] =
                step->noise_next * step->signal - step->signal_next * step->noise;
        }
        TRY(run->lincomb(run, y, 2, 2 * run->n_images, each, (demist_tensor *[]){x, out.v}));
        TRY(run->reduce(run, DEMIST_REDUCE_SUM_OF_SQUARES, 0, y, sums)); /* waits in the middle */
        TRY(run->map(run, DEMIST_MAP_MUL, z, 2, (demist_tensor *[]){y, y}, NULL));
        TRY(run->map(run, DEMIST_MAP_SQRT, z, 1, &z, NULL));                       /* |y| */
        TRY(run->map(run, DEMIST_MAP_DIV, x, 2, (demist_tensor *[]){y, z}, NULL)); /* its sign */
        TRY(run->map(run, DEMIST_MAP_MUL, x, 2, (demist_tensor *[]){x, z}, NULL));
        TRY(demist_emit(run, i, x, out.x0));
    }
    return DEMIST_OK;
}

static void test_a_roundabout_ddim_is_ddim(void **state)
{
    struct recording want = run(1, false, NULL);
    static const char *const backends[] = {"backend.use=reference", "backend.use=cpu"};
    for (int b = 0; b < 2; b++) {
        probe = roundabout;
        struct recording got =
            run(1, false, (const char *[]){"sampler.use=probe", backends[b], NULL});
        assert_true(max_difference(got.x0, want.x0, want.n * want.elements) < 2e-5);
        recording_free(&got);
    }
    recording_free(&want);
}

/* Thresholding looks at x_0 in the middle of predict, and has a coefficient per image of its own.
 */
static void test_a_roundabout_ddim_is_thresholded_alike(void **state)
{
    static const char *const backends[] = {"backend.use=reference", "backend.use=cpu"};
    for (int b = 0; b < 2; b++) {
        const char *overrides[] = {backends[b], "sample.dynamic_threshold=0.7",
                                   "network.mixture.predict=v", "sampler.use=ddim", NULL};
        struct recording want = run(1, false, overrides), unlike = run(1, false, NULL);
        probe = roundabout;
        overrides[3] = "sampler.use=probe";
        struct recording got = run(1, false, overrides);
        assert_true(max_difference(got.x0, want.x0, want.n * want.elements) < 2e-5);
        assert_true(max_difference(unlike.x0, want.x0, want.n * want.elements) > 1e-2);
        recording_free(&got);
        recording_free(&want);
        recording_free(&unlike);
    }
}

/* The state that is asked about may be the last prediction itself. */
static demist_status asks_about_its_answer(demist_run *run, demist_tensor *x)
{
    demist_prediction out = DEMIST_INIT(demist_prediction);
    TRY(demist_predict(run, run->time[0], x, &out));
    TRY(demist_predict(run, run->time[5], out.x0, &out));
    return run->lincomb(run, x, 1, 1, (double[]){1}, &out.eps);
}

static demist_status asks_about_a_copy(demist_run *run, demist_tensor *x)
{
    demist_prediction out = DEMIST_INIT(demist_prediction);
    TRY(demist_predict(run, run->time[0], x, &out));
    TRY(run->lincomb(run, x, 1, 1, (double[]){1}, &out.x0));
    TRY(demist_predict(run, run->time[5], x, &out));
    return run->lincomb(run, x, 1, 1, (double[]){1}, &out.eps);
}

static void test_a_prediction_may_be_predicted_from(void **state)
{
    static const char *const thresholds[] = {"sample.dynamic_threshold=0",
                                             "sample.dynamic_threshold=0.7"};
    for (int i = 0; i < 2; i++) {
        const char *const overrides[] = {"sampler.use=probe", thresholds[i], NULL};
        probe = asks_about_a_copy;
        struct recording want = run(1, false, overrides);
        probe = asks_about_its_answer;
        struct recording got = run(1, false, overrides);
        assert_true(max_difference(got.x0, want.x0, want.n * want.elements) < 1e-5);
        recording_free(&got);
        recording_free(&want);
    }
}

/* One map or reduce against its definition on values that the test wrote. */
static demist_status arithmetic(demist_run *run, demist_tensor *x)
{
    enum { N = 5, E = 2 };
    float a[N * E], b[N * E], got[N * E];
    demist_tensor *ta, *tb, *tc, *r;
    double host[N];
    for (int i = 0; i < N * E; i++) {
        a[i] = (float)(i - 4) * 0.75F;
        b[i] = (float)(i % 3) - 1;
    }
    TRY(run->temp(run, &ta));
    TRY(run->temp(run, &tb));
    TRY(run->temp(run, &tc));
    TRY(run->temp(run, &r));
    TRY(run->write(run, ta, a));
    TRY(run->write(run, tb, b));
#define CHECK(op, count, params, formula)                                                          \
    TRY(run->map(run, op, r, count, (demist_tensor *[]){ta, tb, ta}, params));                     \
    TRY(run->read(run, r, got));                                                                   \
    for (int i = 0; i < N * E; i++) {                                                              \
        double want = formula;                                                                     \
        assert_true(fabs(got[i] - want) <= 1e-6 * (1 + fabs(want)) ||                              \
                    (isinf(want) && got[i] == (float)want) || (isnan(want) && isnan(got[i])));     \
    }
    const double params[2] = {0.5, -1};
    CHECK(DEMIST_MAP_MUL, 2, NULL, (double)a[i] * b[i])
    CHECK(DEMIST_MAP_DIV, 2, NULL, (double)a[i] / b[i])
    CHECK(DEMIST_MAP_MAX, 2, NULL, a[i] > b[i] ? a[i] : b[i])
    CHECK(DEMIST_MAP_MIN, 2, NULL, a[i] < b[i] ? a[i] : b[i])
    CHECK(DEMIST_MAP_ABS, 1, NULL, fabs(a[i]))
    CHECK(DEMIST_MAP_EXP, 1, params, exp(0.5 * a[i] - 1))
    CHECK(DEMIST_MAP_CLAMP, 1, ((double[]){-1, 2}), a[i] < -1 ? -1 : a[i] > 2 ? 2 : a[i])
    CHECK(DEMIST_MAP_SELECT, 3, NULL, a[i] != 0 ? b[i] : a[i])
    TRY(run->map(run, DEMIST_MAP_ABS, tc, 1, &ta, NULL));
    TRY(run->map(run, DEMIST_MAP_SQRT, r, 1, &tc, NULL));
    TRY(run->read(run, r, got));
    for (int i = 0; i < N * E; i++)
        assert_true(fabs(got[i] - sqrt(fabs(a[i]))) < 1e-6);
    static const struct {
        demist_reduce_op op;
        double param;
    } reductions[] = {{DEMIST_REDUCE_SUM, 0},
                      {DEMIST_REDUCE_SUM_OF_SQUARES, 0},
                      {DEMIST_REDUCE_MAX_ABS, 0},
                      {DEMIST_REDUCE_QUANTILE, 0.25}};
    for (int k = 0; k < 4; k++) {
        TRY(run->reduce(run, reductions[k].op, reductions[k].param, ta, host));
        for (int n = 0; n < N; n++) {
            double u = a[2 * n], v = a[2 * n + 1], lo = fmin(fabs(u), fabs(v)),
                   hi = fmax(fabs(u), fabs(v));
            double want[4] = {u + v, u * u + v * v, hi, lo + 0.25 * (hi - lo)};
            assert_true(fabs(host[n] - want[k]) < 1e-6);
        }
    }
    return run->lincomb(run, x, 1, 1, (double[]){1}, &ta);
}

static void test_maps_and_reductions_are_what_they_say(void **state)
{
    static const char *const backends[] = {"backend.use=reference", "backend.use=cpu"};
    for (int b = 0; b < 2; b++) {
        probe = arithmetic;
        struct recording r =
            run(2, false, (const char *[]){"sampler.use=probe", backends[b], NULL});
        assert_true(r.x0[0] == -3.0F);
        recording_free(&r);
    }
}

/* What predict returned still holds after a wait, and no longer after the next predict. */
static demist_status keeps_prediction(demist_run *run, demist_tensor *x)
{
    demist_prediction out = DEMIST_INIT(demist_prediction);
    float before[16], after[16];
    demist_tensor *copy;
    TRY(run->temp(run, &copy));
    TRY(demist_predict(run, run->time[0], x, &out));
    TRY(run->lincomb(run, copy, 1, 1, (double[]){1}, &out.eps));
    TRY(run->read(run, out.x0, before));
    TRY(run->lincomb(run, x, 1, 1, (double[]){0.5}, &x));
    TRY(run->read(run, out.x0, after));
    assert_memory_equal(before, after, sizeof(float) * 10);
    TRY(run->read(run, out.eps, before));
    TRY(demist_predict(run, run->time[1], x, &out));
    TRY(run->read(run, copy, after)); /* the copy outlives the prediction */
    assert_memory_equal(before, after, sizeof(float) * 10);
    return DEMIST_OK;
}

static void test_a_prediction_holds_until_the_next(void **state)
{
    probe = keeps_prediction;
    struct recording r = run(1, false, (const char *[]){"sampler.use=probe", NULL});
    recording_free(&r);
}

/* ---------------------------------------------------------------- samplers that go wrong */

static demist_status reads_nothing(demist_run *run, demist_tensor *x)
{
    demist_tensor *t;
    TRY(run->temp(run, &t));
    return run->lincomb(run, x, 1, 1, (double[]){1}, &t);
}

static demist_status passes_null(demist_run *run, demist_tensor *x)
{
    return run->lincomb(run, x, 1, 1, (double[]){1}, (demist_tensor *[]){NULL});
}

static demist_status miscounts(demist_run *run, demist_tensor *x)
{
    return run->lincomb(run, x, 1, 3, (double[]){1, 2, 3}, &x);
}

static demist_status predicts_outside(demist_run *run, demist_tensor *x)
{
    demist_prediction out = DEMIST_INIT(demist_prediction);
    return demist_predict(run, 1e6, x, &out);
}

static demist_status ignores_errors(demist_run *run, demist_tensor *x)
{
    (void)passes_null(run, x);
    return DEMIST_OK;
}

static demist_status fails_silently(demist_run *run, demist_tensor *x)
{
    (void)run, (void)x;
    return DEMIST_NUMERIC;
}

static demist_status emits_too_far(demist_run *run, demist_tensor *x)
{
    return run->emit(run, run->n_steps, x, NULL);
}

static demist_status explodes(demist_run *run, demist_tensor *x)
{
    for (int32_t i = 0; i < run->n_steps; i++) {
        TRY(run->lincomb(run, x, 1, 1, (double[]){1e30}, &x));
        TRY(run->emit(run, i, x, NULL));
    }
    return DEMIST_OK;
}

static void test_mistakes_of_a_sampler_are_named(void **state)
{
    refuse_probe(reads_nothing, DEMIST_INVALID, "lincomb: a tensor is read before anything");
    refuse_probe(passes_null, DEMIST_INVALID, "lincomb: a tensor is NULL");
    refuse_probe(miscounts, DEMIST_INVALID, "3 coefficients for 1 tensors and 5 images");
    refuse_probe(predicts_outside, DEMIST_INVALID, "1e+06");
    refuse_probe(ignores_errors, DEMIST_INVALID, "a tensor is NULL");
    refuse_probe(fails_silently, DEMIST_NUMERIC, "sampler probe");
    refuse_probe(emits_too_far, DEMIST_INVALID, "emit: step 10 of 10");
    /* without a predict between them, the calls of two steps are executed as one */
    refuse_probe(explodes, DEMIST_NUMERIC, "is not finite after step 1 of 10");
}

static void test_a_network_that_yields_nan_stops_the_run(void **state)
{
    refuse(DEMIST_NUMERIC, "x is not finite after step 6 of 10 (time 444), image 0",
           (const char *[]){"network.mixture.poison=true", "sample.first=0", NULL});
    refuse(
        DEMIST_NUMERIC, "image 3",
        (const char *[]){"network.mixture.poison=true", "sample.first=3", "sample.images=1", NULL});
}

/* ---------------------------------------------------------------- parts that do not fit */

static void test_parts_that_do_not_fit_are_refused_before_anything_runs(void **state)
{
    refuse(DEMIST_INCOMPATIBLE, "schedule straight is a path",
           (const char *[]){"schedule.use=straight", NULL});
    refuse(DEMIST_INCOMPATIBLE, "sampler learned-sigma needs a network that learned its variance",
           (const char *[]){"sampler.use=learned-sigma", NULL});
    refuse(DEMIST_INCOMPATIBLE, "sampler ddpm needs the posterior variance",
           (const char *[]){"sampler.use=ddpm", "sample.steps=1", NULL});
    refuse(DEMIST_CONFIG, "network mixture as configured takes no labels",
           (const char *[]){"sample.labels=1", NULL});
    refuse(DEMIST_CONFIG, "no way to say \"no condition\"",
           (const char *[]){"sample.guidance_scale=2", NULL});
    refuse(DEMIST_CONFIG, "half-circle is for points",
           (const char *[]){"sample.start=half-circle", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_batches_and_recording_change_no_bit),
        cmocka_unit_test(test_seeds_and_images_differ),
        cmocka_unit_test(test_a_roundabout_ddim_is_ddim),
        cmocka_unit_test(test_a_roundabout_ddim_is_thresholded_alike),
        cmocka_unit_test(test_a_prediction_may_be_predicted_from),
        cmocka_unit_test(test_maps_and_reductions_are_what_they_say),
        cmocka_unit_test(test_a_prediction_holds_until_the_next),
        cmocka_unit_test(test_mistakes_of_a_sampler_are_named),
        cmocka_unit_test(test_a_network_that_yields_nan_stops_the_run),
        cmocka_unit_test(test_parts_that_do_not_fit_are_refused_before_anything_runs),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, drop_checkpoint);
}

#include "testing.h"

#include "diffusion.h"
#include "spacing.h"
#include "tensorfile.h"

#include <math.h>

/* --- Schedules of the tests' own, in the original's order of operations --- */

static double *linspace(double first, double last, int64_t n)
{
    double *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    const double step = n > 1 ? (last - first) / (double)(n - 1) : 0;
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)i * step + first;
    if (n > 1)
        x[n - 1] = last;
    return x;
}

static double *linear_betas(int64_t T)
{
    const double scale = 1000 / (double)T;
    return linspace(scale * 0.0001, scale * 0.02, T);
}

static double cosine_level(double u)
{
    return pow(cos((u + 0.008) / 1.008 * 3.141592653589793 / 2), 2);
}

static double *cosine_betas(int64_t T)
{
    double *beta = malloc((size_t)T * sizeof *beta);
    assert_non_null(beta);
    for (int64_t i = 0; i < T; i++)
        beta[i] = fmin(1 - cosine_level((double)(i + 1) / (double)T) /
                               cosine_level((double)i / (double)T),
                       0.999);
    return beta;
}

static struct dm_diffusion create(const demist_tables *tables)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_diffusion d;
    if (dm_diffusion_create(tables, &d, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return d;
}

static struct dm_diffusion from_betas(double *beta, int64_t T, int first_index)
{
    struct dm_diffusion d = create(&(demist_tables){.size = sizeof(demist_tables),
                                                    .n = T,
                                                    .form = DEMIST_VARIANCE_PRESERVING,
                                                    .first_index = first_index,
                                                    .beta = beta});
    free(beta);
    return d;
}

/* T + 1 coefficients, of which the first counts in alpha_bar although it has no step. */
static struct dm_diffusion course(int64_t T)
{
    double *beta = linspace(1e-4, 0.02, T + 1);
    double *alpha_bar = malloc((size_t)(T + 1) * sizeof *alpha_bar), sum = 0;
    assert_non_null(alpha_bar);
    for (int64_t k = 0; k <= T; k++)
        alpha_bar[k] = exp(sum += log(1 - beta[k]));
    alpha_bar[0] = 1;
    struct dm_diffusion d = create(&(demist_tables){.size = sizeof(demist_tables),
                                                    .n = T,
                                                    .form = DEMIST_VARIANCE_PRESERVING,
                                                    .first_index = 1,
                                                    .beta = beta + 1,
                                                    .alpha_bar = alpha_bar,
                                                    .has_alpha_bar = true});
    free(beta);
    free(alpha_bar);
    return d;
}

/* t from 0 to t_start; signal 1 - t, noise t. */
static struct dm_diffusion straight(int64_t T, double t_start)
{
    double *t = linspace(0, t_start, T), *signal = malloc((size_t)T * sizeof *signal);
    assert_non_null(signal);
    for (int64_t i = 0; i < T; i++)
        signal[i] = 1 - t[i];
    struct dm_diffusion d = create(&(demist_tables){.size = sizeof(demist_tables),
                                                    .n = T,
                                                    .form = DEMIST_GAUSSIAN_PATH,
                                                    .time = t,
                                                    .signal = signal,
                                                    .noise = t,
                                                    .signal_guard = 1e-7});
    free(t);
    free(signal);
    return d;
}

static demist_status straight_eval(void *self, int64_t n, double t, double *signal, double *noise)
{
    ++*(int *)self;
    *signal = 1 - t;
    *noise = t;
    return DEMIST_OK;
}

static void assert_near(double got, double expected, double relative, const char *what, int64_t k)
{
    if (!(fabs(got - expected) <= relative * fabs(expected)))
        fail_msg("%s at %lld is %.17g, not %.17g", what, (long long)k, got, expected);
}

/* --- Against the reference tables --- */

static struct dm_checkpoint *open_data(const char *relative)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *file = NULL;
    if (dm_checkpoint_open(test_data(relative), &file, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return file;
}

/* The tensor called `name` equals column[0 … n-1]. */
static void assert_column(const struct dm_checkpoint *file, const char *name, const double *column,
                          int64_t n, double relative)
{
    const struct dm_tensor_view *view = dm_checkpoint_find(file, name);
    if (!view)
        fail_msg("no tensor %s", name);
    assert_int_equal(dm_tensor_elements(view), n);
    double *expected = malloc((size_t)n * sizeof *expected);
    assert_non_null(expected);
    assert_int_equal(dm_tensor_to_f64(view, expected, NULL), DEMIST_OK);
    for (int64_t i = 0; i < n; i++)
        assert_near(column[i], expected[i], relative, name, i);
    free(expected);
}

static void assert_reference_tables(const char *kind, int64_t T, double relative)
{
    struct dm_checkpoint *file = open_data("improved-diffusion/tables.safetensors");
    struct dm_diffusion d =
        from_betas(strcmp(kind, "linear") == 0 ? linear_betas(T) : cosine_betas(T), T, 0);
    const struct {
        const char *name;
        const double *column;
    } tables[] = {
        {"betas", d.beta + 1},
        {"alphas_cumprod", d.alpha_bar + 1},
        {"alphas_cumprod_prev", d.alpha_bar},
        {"posterior_variance", d.posterior_variance + 1},
        {"posterior_log_variance_clipped", d.posterior_logvar + 1},
        {"posterior_mean_coef1", d.posterior_x0 + 1},
        {"posterior_mean_coef2", d.posterior_x + 1},
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s.%s.%lld", tables[i].name, kind, (long long)T);
        assert_column(file, name, tables[i].column, T, relative);
    }
    dm_diffusion_finish(&d);
    dm_checkpoint_close(file);
}

static void test_linear_tables_are_improved_diffusions(void **state)
{
    assert_reference_tables("linear", 1000, 1e-12);
}

static void test_cosine_tables_are_improved_diffusions(void **state)
{
    assert_reference_tables("cosine", 4000, 1e-10);
}

static void test_betas_of_every_length_are_improved_diffusions(void **state)
{
    struct dm_checkpoint *file = open_data("improved-diffusion/tables.safetensors");
    const int64_t lengths[] = {50, 1000, 4000};
    for (int i = 0; i < 3; i++) {
        char name[64];
        struct dm_diffusion linear = from_betas(linear_betas(lengths[i]), lengths[i], 0);
        snprintf(name, sizeof name, "betas.linear.%d", (int)lengths[i]);
        assert_column(file, name, linear.schedule_beta + 1, lengths[i], 1e-12);
        struct dm_diffusion cosine = from_betas(cosine_betas(lengths[i]), lengths[i], 0);
        snprintf(name, sizeof name, "betas.cosine.%d", (int)lengths[i]);
        assert_column(file, name, cosine.schedule_beta + 1, lengths[i], 1e-10);
        dm_diffusion_finish(&linear);
        dm_diffusion_finish(&cosine);
    }
    dm_checkpoint_close(file);
}

static struct dm_diffusion respaced(const struct dm_diffusion *whole, const char *spec, bool wrap)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_spacing s = {0};
    struct dm_diffusion d = {0};
    const struct dm_spacing_options options = {.first_index = whole->first_index,
                                               .course_wrap = wrap};
    if (dm_spacing_parse(spec, whole->schedule_n, &options, &s, &err) != DEMIST_OK ||
        dm_diffusion_respace(whole, s.index, s.n, s.end, &d, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    dm_spacing_finish(&s);
    return d;
}

static void assert_respaced_like(const char *relative, double *betas, int64_t T)
{
    struct dm_checkpoint *file = open_data(relative);
    struct dm_diffusion whole = from_betas(betas, T, 0);
    struct dm_diffusion d = respaced(&whole, dm_checkpoint_metadata(file, "respacing"), false);
    assert_column(file, "betas", d.beta + 1, d.n, 1e-10);
    assert_column(file, "timestep_map", d.time + 1, d.n, 0);
    for (int64_t k = 1; k <= d.n; k++)
        assert_true(d.time[k] == (double)d.index[k]);
    dm_diffusion_finish(&d);
    dm_diffusion_finish(&whole);
    dm_checkpoint_close(file);
}

static void test_respaced_betas_are_improved_diffusions(void **state)
{
    assert_respaced_like("improved-diffusion/hybrid-32/ddpm.safetensors", cosine_betas(4000), 4000);
    assert_respaced_like("improved-diffusion/hybrid-32/ddim.safetensors", cosine_betas(4000), 4000);
    assert_respaced_like("improved-diffusion/classcond-64/ddim.safetensors", linear_betas(1000),
                         1000);
}

/* --- Identities --- */

/* Bayes: q(x_t|x_{t-1}) q(x_{t-1}|x_0) seen as a Gaussian in x_{t-1}; and marginalising the
 * posterior over q(x_t|x_0) gives q(x_{t-1}|x_0) back. */
static void assert_posterior_is_consistent(const struct dm_diffusion *d)
{
    for (int64_t k = 1; k <= d->n; k++) {
        const double beta = d->beta[k], next = 1 - d->alpha_bar[k - 1];
        if (k > 1) {
            const double precision = (1 - beta) / beta + 1 / next;
            assert_near(d->posterior_variance[k], 1 / precision, 1e-9, "variance", k);
            assert_near(d->posterior_x[k], sqrt(1 - beta) / beta / precision, 1e-9, "coef x", k);
            assert_near(d->posterior_x0[k], d->signal[k - 1] / next / precision, 1e-9, "coef x0",
                        k);
        }
        const double mean = d->posterior_x0[k] + d->posterior_x[k] * d->signal[k];
        const double variance = d->posterior_variance[k] + pow(d->posterior_x[k] * d->noise[k], 2);
        assert_near(mean, d->signal[k - 1], 1e-12, "mean of x_{t-1}", k);
        assert_true(fabs(variance - next) <= 1e-12);
    }
}

static void test_posterior_is_bayes_rule(void **state)
{
    struct dm_diffusion linear = from_betas(linear_betas(1000), 1000, 0);
    assert_posterior_is_consistent(&linear);
    static const char *specs[] = {"", "ddim25", "37", "2", "trailing250", "linspace17"};
    for (int i = 0; i < 6; i++) {
        struct dm_diffusion d = respaced(&linear, specs[i], false);
        assert_posterior_is_consistent(&d);
        dm_diffusion_finish(&d);
    }
    dm_diffusion_finish(&linear);
    struct dm_diffusion cosine = from_betas(cosine_betas(500), 500, 1);
    assert_posterior_is_consistent(&cosine);
    dm_diffusion_finish(&cosine);
    struct dm_diffusion one_based = course(500);
    assert_posterior_is_consistent(&one_based);
    dm_diffusion_finish(&one_based);
}

static void test_lambda_falls_strictly(void **state)
{
    struct dm_diffusion all[] = {from_betas(linear_betas(1000), 1000, 0),
                                 from_betas(cosine_betas(4000), 4000, 0), course(500),
                                 straight(100, 0.95)};
    for (int i = 0; i < 4; i++) {
        const struct dm_diffusion *d = &all[i];
        assert_true(d->lambda[0] == INFINITY);
        for (int64_t k = d->variance_preserving ? 1 : 2; k <= d->n; k++) {
            assert_true(d->lambda[k] < d->lambda[k - 1]);
            assert_near(exp(d->lambda[k]), d->signal[k] / d->noise[k], 1e-11, "lambda", k);
        }
        dm_diffusion_finish(&all[i]);
    }
}

/* --- Conventions --- */

static void test_indices_follow_the_first_index(void **state)
{
    struct dm_diffusion zero = from_betas(linear_betas(100), 100, 0);
    struct dm_diffusion one = from_betas(linear_betas(100), 100, 1);
    assert_true(zero.time[0] == -1 && zero.index[1] == 0 && zero.time[100] == 99);
    assert_true(one.time[0] == 0 && one.index[1] == 1 && one.time[100] == 100);
    demist_step step = dm_diffusion_step(&one, 0);
    assert_true(step.index == 100 && step.time == 100 && step.time_next == 99);
    assert_true(step.alpha_bar == one.alpha_bar[100] && step.alpha_bar_next == one.alpha_bar[99]);
    step = dm_diffusion_step(&one, 99);
    assert_true(step.time_next == 0 && step.signal_next == 1 && step.noise_next == 0);
    assert_true(step.alpha_bar_next == 1 && step.lambda_next == INFINITY);
    assert_near(step.posterior_x0, 1, 1e-12, "coef1", 1);
    assert_true(step.posterior_x == 0 && step.posterior_variance == 0);
    dm_diffusion_finish(&zero);
    dm_diffusion_finish(&one);
}

static void test_course_tables_keep_the_given_beta_beside_the_effective_one(void **state)
{
    struct dm_diffusion d = course(500);
    const double step = (0.02 - 1e-4) / 500;
    assert_near(d.schedule_beta[1], 1e-4 + step, 1e-12, "beta", 1);
    assert_near(d.alpha_bar[1], (1 - 1e-4) * (1 - 1e-4 - step), 1e-12, "alpha_bar", 1);
    assert_near(d.beta[1], 1 - d.alpha_bar[1], 1e-12, "effective beta", 1);
    assert_near(d.posterior_x0[1], 1, 1e-12, "coef1", 1);
    for (int64_t k = 2; k <= 500; k++)
        assert_near(d.beta[k], d.schedule_beta[k], 1e-9, "beta", k);
    dm_diffusion_finish(&d);
}

static void test_first_variance_is_replaced_by_its_neighbours(void **state)
{
    struct dm_diffusion d = from_betas(linear_betas(1000), 1000, 0);
    assert_true(d.posterior_variance[1] == 0);
    assert_true(d.posterior_logvar[1] == log(d.posterior_variance[2]));
    assert_true(d.large_variance[1] == d.posterior_variance[2]);
    for (int64_t k = 2; k <= d.n; k++)
        assert_true(d.large_variance[k] == d.beta[k]);
    dm_diffusion_finish(&d);
}

static void test_keeping_every_step_changes_no_bit(void **state)
{
    struct dm_diffusion whole = from_betas(cosine_betas(300), 300, 0);
    struct dm_diffusion all = respaced(&whole, "", false);
    const size_t bytes = 301 * sizeof(double);
    assert_memory_equal(all.beta, whole.beta, bytes);
    assert_memory_equal(all.alpha_bar, whole.alpha_bar, bytes);
    assert_memory_equal(all.posterior_x0, whole.posterior_x0, bytes);
    assert_memory_equal(all.posterior_logvar, whole.posterior_logvar, bytes);
    dm_diffusion_finish(&all);
    dm_diffusion_finish(&whole);
}

static void test_respacing_keeps_the_schedules_own_values(void **state)
{
    struct dm_diffusion whole = course(500);
    struct dm_diffusion d = respaced(&whole, "trailing25", false);
    assert_int_equal(d.n, 25);
    for (int64_t k = 1; k <= 25; k++) {
        assert_int_equal(d.index[k], 20 * k);
        assert_true(d.alpha_bar[k] == whole.alpha_bar[20 * k]);
        assert_true(d.schedule_beta[k] == whole.schedule_beta[20 * k]);
    }
    assert_true(d.alpha_bar[0] == 1 && d.time[0] == 0 && !d.wrapped);
    dm_diffusion_finish(&d);

    struct dm_diffusion path = straight(101, 1.0 - 1e-3);
    struct dm_diffusion half = respaced(&path, "linspace51", false);
    for (int64_t k = 1; k <= 51; k++)
        assert_true(half.time[k] == path.time[2 * k - 1] && half.noise[k] == half.time[k]);
    assert_true(isnan(half.alpha_bar[1]) && isnan(half.beta[3]));
    dm_diffusion_finish(&half);
    dm_diffusion_finish(&path);
    dm_diffusion_finish(&whole);
}

static void test_wrapped_course_end_is_the_level_python_reads(void **state)
{
    struct dm_diffusion whole = course(500);
    struct dm_diffusion d =
        respaced(&whole, "course30", true); /* s = 16: …, 4, then 4 - 16 = -12 */
    assert_int_equal(d.n, 32);
    assert_true(d.wrapped && d.index[1] == 4 && d.index[0] == 501 - 12);
    assert_true(d.signal[0] == whole.signal[489] && d.noise[0] == whole.noise[489]);
    assert_true(isnan(d.posterior_variance[1]) && isnan(d.posterior_logvar[1]));
    assert_false(isnan(d.posterior_variance[2]));
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_diffusion_check_posterior(&d, "sampler ddpm", &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "wraps round to index 489");
    dm_error_clear(&err);
    demist_coeffs c;
    double t;
    assert_int_equal(dm_diffusion_coeffs(&d, 5, &c, NULL), DEMIST_OK);
    assert_int_equal(dm_diffusion_coeffs(&d, 1, &c, NULL), DEMIST_INVALID);
    assert_int_equal(dm_diffusion_time_of(&d, 100, &t, NULL), DEMIST_OK);
    assert_true(t == 4);
    dm_diffusion_finish(&d);
    dm_diffusion_finish(&whole);
}

static void test_single_step_is_a_process_without_a_posterior_variance(void **state)
{
    struct dm_diffusion whole = from_betas(linear_betas(1000), 1000, 0);
    struct dm_diffusion d = respaced(&whole, "trailing1", false);
    assert_int_equal(d.n, 1);
    assert_int_equal(d.index[1], 999);
    assert_true(isnan(d.posterior_logvar[1]) && isnan(d.large_variance[1]));
    assert_near(d.beta[1], 1 - whole.alpha_bar[1000], 1e-15, "beta", 1);
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_diffusion_check_posterior(&d, "sampler ddpm", &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "sampler ddpm needs the posterior variance of a second step");
    assert_int_equal(dm_diffusion_check_posterior(&whole, "sampler ddpm", &err), DEMIST_OK);
    struct dm_diffusion path = straight(10, 0.9);
    assert_int_equal(dm_diffusion_check_posterior(&path, "sampler ddpm", &err),
                     DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "variance-preserving");
    dm_error_clear(&err);
    dm_diffusion_finish(&path);
    dm_diffusion_finish(&d);
    dm_diffusion_finish(&whole);
}

/* --- Between indices --- */

static void assert_times_come_back(const struct dm_diffusion *d, double relative)
{
    double last = INFINITY;
    for (int i = 0; i <= 5000; i++) {
        const double t = d->time[0] + (d->time[d->n] - d->time[0]) * i / 5000;
        struct dm_error err = DM_ERROR_INIT;
        demist_coeffs c = {.size = sizeof c};
        double back = NAN;
        if (dm_diffusion_coeffs(d, t, &c, &err) != DEMIST_OK ||
            dm_diffusion_time_of(d, c.lambda, &back, &err) != DEMIST_OK)
            fail_msg("%s", err.text);
        if (fabs(back - t) > relative * fmax(1, fabs(t)))
            fail_msg("time %.17g became %.17g", t, back);
        assert_true(i == 0 || c.lambda < last);
        last = c.lambda;
        if (isfinite(c.lambda))
            assert_true(fabs(log(c.signal / c.noise) - c.lambda) < 1e-9);
        if (d->variance_preserving)
            assert_near(c.signal * c.signal + c.noise * c.noise, 1, 1e-14, "variance", i);
    }
}

static void test_time_of_inverts_coeffs(void **state)
{
    struct dm_diffusion all[] = {from_betas(linear_betas(1000), 1000, 0),
                                 from_betas(cosine_betas(400), 400, 1), course(500),
                                 straight(100, 0.95), straight(20, 1)};
    for (int i = 0; i < 5; i++) {
        assert_times_come_back(&all[i], 1e-9);
        dm_diffusion_finish(&all[i]);
    }
    int calls = 0;
    struct dm_diffusion path = straight(30, 0.95);
    path.eval = straight_eval;
    path.eval_self = &calls;
    assert_times_come_back(&path, 1e-12);
    assert_true(calls > 0);
    dm_diffusion_finish(&path);
}

static void test_indices_have_exactly_the_tables_coefficients(void **state)
{
    struct dm_diffusion d = from_betas(linear_betas(1000), 1000, 0);
    for (int64_t k = 0; k <= d.n; k++) {
        demist_coeffs c;
        double t;
        assert_int_equal(dm_diffusion_coeffs(&d, d.time[k], &c, NULL), DEMIST_OK);
        assert_true(c.signal == d.signal[k] && c.noise == d.noise[k] && c.lambda == d.lambda[k]);
        assert_int_equal(dm_diffusion_time_of(&d, d.lambda[k], &t, NULL), DEMIST_OK);
        assert_true(t == d.time[k]);
    }
    dm_diffusion_finish(&d);
}

static void test_lambda_is_linear_between_indices(void **state)
{
    struct dm_diffusion d = from_betas(linear_betas(1000), 1000, 0);
    demist_coeffs c;
    assert_int_equal(dm_diffusion_coeffs(&d, 499.25, &c, NULL), DEMIST_OK);
    assert_near(c.lambda, 0.75 * d.lambda[500] + 0.25 * d.lambda[501], 1e-13, "lambda", 499);
    dm_diffusion_finish(&d);
}

/* signal 1, noise t: sum and ratio both move */
static void test_paths_interpolate_signal_plus_noise(void **state)
{
    struct dm_diffusion d = create(&(demist_tables){.n = 2,
                                                    .form = DEMIST_GAUSSIAN_PATH,
                                                    .time = (double[]){1, 2},
                                                    .signal = (double[]){1, 1},
                                                    .noise = (double[]){1, 3}});
    demist_coeffs c;
    assert_int_equal(dm_diffusion_coeffs(&d, 1.5, &c, NULL), DEMIST_OK);
    assert_near(c.signal + c.noise, 3, 1e-14, "sum", 1);
    assert_near(c.noise / c.signal, sqrt(3), 1e-14, "ratio", 1);
    assert_int_equal(dm_diffusion_coeffs(&d, 0.25, &c, NULL), DEMIST_OK); /* from the clean end */
    assert_near(c.noise / c.signal, 0.25, 1e-14, "ratio", 0);
    assert_near(c.signal + c.noise, 1.25, 1e-14, "sum", 0);
    dm_diffusion_finish(&d);
}

static void test_respaced_paths_keep_the_schedules_eval(void **state)
{
    int calls = 0;
    struct dm_diffusion whole = straight(101, 1.0 - 1e-3);
    whole.eval = straight_eval;
    whole.eval_self = &calls;
    struct dm_diffusion d = respaced(&whole, "linspace3", false);
    demist_coeffs c;
    assert_int_equal(dm_diffusion_coeffs(&d, 0.123, &c, NULL), DEMIST_OK);
    assert_true(c.noise == 0.123 && calls == 1);
    dm_diffusion_finish(&d);
    dm_diffusion_finish(&whole);
}

static void test_times_outside_are_refused_and_lambdas_clamped(void **state)
{
    struct dm_diffusion d = from_betas(linear_betas(1000), 1000, 0);
    struct dm_error err = DM_ERROR_INIT;
    demist_coeffs c;
    double t;
    assert_int_equal(dm_diffusion_coeffs(&d, 999.5, &c, &err), DEMIST_INVALID);
    assert_contains(err.text, "time 999.5 is outside the schedule's, -1 to 999");
    assert_int_equal(dm_diffusion_coeffs(&d, -1.01, &c, &err), DEMIST_INVALID);
    assert_int_equal(dm_diffusion_coeffs(&d, NAN, &c, &err), DEMIST_INVALID);
    assert_int_equal(dm_diffusion_time_of(&d, NAN, &t, &err), DEMIST_INVALID);
    assert_int_equal(dm_diffusion_time_of(&d, -INFINITY, &t, &err), DEMIST_OK);
    assert_true(t == 999);
    assert_int_equal(dm_diffusion_time_of(&d, INFINITY, &t, &err), DEMIST_OK);
    assert_true(t == -1);
    dm_error_clear(&err);
    dm_diffusion_finish(&d);
}

static demist_status broken_eval(void *self, int64_t n, double t, double *signal, double *noise)
{
    *signal = NAN;
    *noise = 1;
    return DEMIST_OK;
}

static void test_eval_that_gives_no_number_is_an_error(void **state)
{
    struct dm_diffusion d = straight(10, 0.9);
    struct dm_error err = DM_ERROR_INIT;
    demist_coeffs c;
    double t;
    d.eval = broken_eval;
    assert_int_equal(dm_diffusion_coeffs(&d, 0.123, &c, &err), DEMIST_NUMERIC);
    assert_contains(err.text, "eval gives signal nan");
    assert_int_equal(dm_diffusion_time_of(&d, 0.1, &t, &err), DEMIST_NUMERIC);
    dm_error_clear(&err);
    dm_diffusion_finish(&d);
}

/* --- Refusals --- */

static void assert_not_a_schedule(demist_tables tables, const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_diffusion d = {0};
    assert_int_equal(dm_diffusion_create(&tables, &d, &err), DEMIST_CONFIG);
    assert_contains(err.text, fragment);
    assert_null(d.storage);
    dm_error_clear(&err);
}

static void test_refuses_betas_that_are_no_schedule(void **state)
{
    demist_tables t = {.n = 3, .form = DEMIST_VARIANCE_PRESERVING};
    t.beta = (double[]){0.1, 1, 0.2};
    assert_not_a_schedule(t, "beta at index 1 is 1, not between 0 and 1");
    t.beta = (double[]){0, 0.1, 0.2};
    assert_not_a_schedule(t, "beta at index 0 is 0");
    t.beta = (double[]){0.1, 0.1, NAN};
    t.first_index = 1;
    assert_not_a_schedule(t, "beta at index 3 is nan");
    t.beta = (double[]){0.1, 1e-20, 0.1}; /* 1 - beta is 1 */
    assert_not_a_schedule(t, "alpha_bar at index 2 is 0.9 after 0.9");
    t.beta = (double[]){0.1, 0.1, 0.1};
    t.has_alpha_bar = true;
    t.alpha_bar = (double[]){0.99, 0.9, 0.8, 0.7};
    assert_not_a_schedule(t, "clean end is 0.99, not 1");
    t.alpha_bar = (double[]){1, 0.9, 0.95, 0.7};
    assert_not_a_schedule(t, "alpha_bar at index 2 is 0.95 after 0.9");
    t.alpha_bar = (double[]){1, 0.9, NAN, 0.7};
    assert_not_a_schedule(t, "alpha_bar at index 2 is nan");
    t.alpha_bar = (double[]){1, 0.9, 0.5, 0};
    assert_not_a_schedule(t, "stay above 0");
    t.n = 0;
    assert_not_a_schedule(t, "at least one is needed");
    t.n = 3;
    t.first_index = 2;
    assert_not_a_schedule(t, "first_index is 2");
    t.form = 9;
    assert_not_a_schedule(t, "unknown form 9");
}

static void test_refuses_paths_that_are_no_schedule(void **state)
{
    demist_tables t = {.n = 2, .form = DEMIST_GAUSSIAN_PATH};
    t.time = (double[]){0.1, 0.2};
    t.signal = (double[]){0.9, 0.8};
    t.noise = (double[]){0.1, 0.1 * 0.8 / 0.9};
    assert_not_a_schedule(t, "noise/signal must rise");
    t.noise = (double[]){0.1, INFINITY};
    assert_not_a_schedule(t, "noise = inf");
    t.noise = (double[]){0.1, -0.2};
    assert_not_a_schedule(t, "not negative");
    t.noise = (double[]){0.1, 0.2};
    t.time = (double[]){0.2, 0.2};
    assert_not_a_schedule(t, "from t = 0.2 to t = 0.2");
    t.time = (double[]){0, 0.2}; /* the end itself, but with noise */
    assert_not_a_schedule(t, "from t = 0 to t = 0");
    t.time = (double[]){0.1, 0.2};
    t.signal = (double[]){0.9, 0};
    assert_not_a_schedule(t, "give it a guard");
    t.signal = (double[]){0.9, 0.8};
    t.signal_guard = -1;
    assert_not_a_schedule(t, "a guard from 0 to 1");
    t.signal_guard = 0;
    t.time_end = NAN;
    assert_not_a_schedule(t, "ends at t = nan");
}

static void test_an_index_kept_twice_is_a_step_without_variance(void **state)
{
    struct dm_diffusion whole = from_betas(linear_betas(100), 100, 0), d = {0};
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_diffusion_respace(&whole, (int64_t[]){9, 9, 4}, 3, -1, &d, &err),
                     DEMIST_OK);
    demist_step step = dm_diffusion_step(&d, 0);
    assert_true(step.beta == 0 && step.signal == step.signal_next);
    assert_int_equal(dm_diffusion_check_posterior(&d, "sampler ddpm", &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "visits index 9 twice");
    dm_error_clear(&err);
    dm_diffusion_finish(&d);
    dm_diffusion_finish(&whole);
}

static void test_refuses_kept_steps_that_are_not_there(void **state)
{
    struct dm_diffusion whole = from_betas(linear_betas(100), 100, 0), d = {0};
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_diffusion_respace(&whole, (int64_t[]){100, 3}, 2, -1, &d, &err),
                     DEMIST_INVALID);
    assert_contains(err.text,
                    "kept step 0 is index 100: indices must not rise and be from 99 to 0");
    assert_int_equal(dm_diffusion_respace(&whole, (int64_t[]){8, 9}, 2, -1, &d, &err),
                     DEMIST_INVALID);
    assert_int_equal(dm_diffusion_respace(&whole, (int64_t[]){9, -1}, 2, -1, &d, &err),
                     DEMIST_INVALID);
    assert_int_equal(dm_diffusion_respace(&whole, NULL, 0, -1, &d, &err), DEMIST_INVALID);
    assert_int_equal(dm_diffusion_respace(&whole, (int64_t[]){9}, 1, 100, &d, &err),
                     DEMIST_INVALID);
    assert_contains(err.text, "end index 100");
    struct dm_diffusion once = respaced(&whole, "10", false);
    assert_int_equal(dm_diffusion_respace(&once, once.index + 1, 1, -1, &d, &err), DEMIST_INVALID);
    assert_contains(err.text, "respaced again");
    assert_null(d.storage);
    dm_error_clear(&err);
    dm_diffusion_finish(&once);
    dm_diffusion_finish(&whole);
    dm_diffusion_finish(&whole);
    dm_diffusion_finish(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_tables_are_improved_diffusions),
        cmocka_unit_test(test_cosine_tables_are_improved_diffusions),
        cmocka_unit_test(test_betas_of_every_length_are_improved_diffusions),
        cmocka_unit_test(test_respaced_betas_are_improved_diffusions),
        cmocka_unit_test(test_posterior_is_bayes_rule),
        cmocka_unit_test(test_lambda_falls_strictly),
        cmocka_unit_test(test_indices_follow_the_first_index),
        cmocka_unit_test(test_course_tables_keep_the_given_beta_beside_the_effective_one),
        cmocka_unit_test(test_first_variance_is_replaced_by_its_neighbours),
        cmocka_unit_test(test_keeping_every_step_changes_no_bit),
        cmocka_unit_test(test_respacing_keeps_the_schedules_own_values),
        cmocka_unit_test(test_wrapped_course_end_is_the_level_python_reads),
        cmocka_unit_test(test_single_step_is_a_process_without_a_posterior_variance),
        cmocka_unit_test(test_time_of_inverts_coeffs),
        cmocka_unit_test(test_indices_have_exactly_the_tables_coefficients),
        cmocka_unit_test(test_lambda_is_linear_between_indices),
        cmocka_unit_test(test_paths_interpolate_signal_plus_noise),
        cmocka_unit_test(test_respaced_paths_keep_the_schedules_eval),
        cmocka_unit_test(test_times_outside_are_refused_and_lambdas_clamped),
        cmocka_unit_test(test_eval_that_gives_no_number_is_an_error),
        cmocka_unit_test(test_refuses_betas_that_are_no_schedule),
        cmocka_unit_test(test_refuses_paths_that_are_no_schedule),
        cmocka_unit_test(test_an_index_kept_twice_is_a_step_without_variance),
        cmocka_unit_test(test_refuses_kept_steps_that_are_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Likelihoods against the reference's, term by term, on the backend that DEMIST_TEST_BACKEND names
 * (cpu without it), with the option of its that DEMIST_TEST_OPTION sets ("tuning=off"), and what
 * must hold of them whatever the network. */
#include "testing.h"

#include "dataset.h"
#include "evaluate_nll.h"
#include "fixture.h"
#include "reverse.h"
#include "safetensors.h"
#include "tensorfile.h"
#include "unetgolden.h"

#include <math.h>
#include <unistd.h>

static const char hybrid[] = "[schedule]\nuse = cosine\nsteps = 4000\n"
                             "[network]\nuse = unet\n"
                             "[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                             "num_res_blocks = 1\nlearn_sigma = true\n"
                             "[sampler]\nuse = learned-sigma\n"
                             "[sample]\nsteps = 20\n";
static const char classcond[] = "[schedule]\nuse = linear\nsteps = 1000\n"
                                "[network]\nuse = unet\n"
                                "[network.unet]\nimage_size = 64\nnum_channels = 32\n"
                                "num_res_blocks = 1\nnum_heads = 1\n"
                                "attention_resolutions = 16\nnum_classes = 10\n"
                                "rescale_timesteps = false\nuse_scale_shift_norm = false\n"
                                "[sampler]\nuse = ddpm\n"
                                "[sample]\nsteps = 20\n";
static const char crawl[] = "[schedule]\nuse = cosine\nsteps = 1000\n"
                            "[network]\nuse = unet\n"
                            "[network.unet]\nimage_size = 32\nnum_channels = 32\n"
                            "num_res_blocks = 1\nlearn_sigma = true\nnum_classes = 8\n"
                            "[sampler]\nuse = learned-sigma\n"
                            "[sample]\nsteps = 25\nlabels = 0-7\n";

/* What the hook saw. */
struct kept {
    int64_t n;
    int32_t n_steps;
    double total[64], prior[64], error[64];
    double vb[64][100], xstart_mse[64][100], mse[64][100];
    int64_t stop_after; /* evaluations; 0: never */
    int64_t evaluations;
};

static demist_status keep(void *user, const struct dm_nll_image *image, struct dm_error *err)
{
    struct kept *k = user;
    (void)err;
    assert_true(k->n < 64 && k->n_steps <= 100);
    k->total[k->n] = image->total_bpd;
    k->prior[k->n] = image->prior_bpd;
    k->error[k->n] = image->sampling_error;
    for (int32_t t = 0; image->vb && t < k->n_steps; t++) {
        k->vb[k->n][t] = image->vb[t];
        k->xstart_mse[k->n][t] = image->xstart_mse[t];
        k->mse[k->n][t] = image->mse[t];
    }
    k->n++;
    return DEMIST_OK;
}

static bool count(void *user, const struct dm_nll_progress *p)
{
    struct kept *k = user;
    assert_true(p->done <= p->n_images && p->evaluations <= p->all);
    k->evaluations++;
    return k->stop_after == 0 || k->evaluations < k->stop_after;
}

static const char *backend(void)
{
    const char *name = getenv("DEMIST_TEST_BACKEND");
    return name ? name : "cpu";
}

static struct dm_ini *describe(const char *text, const char *checkpoint,
                               const char *const *overrides)
{
    static char use[64], path[4200], own[128];
    const char *all[16] = {use, path}, *option = getenv("DEMIST_TEST_OPTION");
    int n = 2;
    snprintf(use, sizeof use, "backend.use=%s", backend());
    snprintf(path, sizeof path, "network.checkpoint=%s", checkpoint);
    snprintf(own, sizeof own, "backend.%s.%s", backend(), option ? option : "");
    if (option)
        all[n++] = own;
    for (int i = 0; overrides && overrides[i] && n < 15; i++)
        all[n++] = overrides[i];
    return fixture_ini(text, all);
}

static demist_status run(const struct dm_ini *ini, const char *data, int64_t importance,
                         struct kept *kept, struct dm_nll_result *result, struct dm_error *err)
{
    struct fixture f;
    struct dm_setup setup;
    struct dm_nll_options options = {importance, keep, count, kept};
    fixture_open(&f, 2, NULL);
    demist_status status =
        dm_setup_open(&setup, &f.env, ini, DM_NEED_SAMPLER | DM_NEED_BACKEND, err);
    *result = (struct dm_nll_result){0};
    if (status == DEMIST_OK) {
        kept->n_steps = dm_process_n_steps(setup.process);
        status = dm_evaluate_nll(&setup, data, &options, result, err);
        dm_setup_close(&setup);
    }
    fixture_close(&f);
    return status;
}

static void expect_run(const struct dm_ini *ini, const char *data, int64_t importance,
                       struct kept *kept, struct dm_nll_result *result)
{
    struct dm_error err = DM_ERROR_INIT;
    *kept = (struct kept){0};
    fixture_expect_ok(run(ini, data, importance, kept, result, &err), &err);
}

static void assert_near(const char *what, int64_t i, int t, double got, double want)
{
    if (!(fabs(got - want) <= 1e-4 * fabs(want) + 1e-9))
        fail_msg("%s of image %d at t = %d: %.9g, the reference has %.9g", what, (int)i, t, got,
                 want);
}

/* The file's columns fall in t. */
static void compare(const char *path, const struct kept *k)
{
    int64_t n, T = k->n_steps;
    float *total = fixture_tensor(path, "total_bpd", &n);
    float *prior = fixture_tensor(path, "prior_bpd", NULL), *vb = fixture_tensor(path, "vb", NULL);
    float *xstart_mse = fixture_tensor(path, "xstart_mse", NULL);
    float *mse = fixture_tensor(path, "mse", NULL);
    assert_int_equal(k->n, n);
    for (int64_t i = 0; i < n; i++) {
        assert_near("total_bpd", i, -1, k->total[i], total[i]);
        assert_near("prior_bpd", i, -1, k->prior[i], prior[i]);
        for (int t = 0; t < T; t++) {
            int64_t at = i * T + (T - 1 - t);
            assert_near("vb", i, t, k->vb[i][t], vb[at]);
            assert_near("xstart_mse", i, t, k->xstart_mse[i][t], xstart_mse[at]);
            assert_near("mse", i, t, k->mse[i][t], mse[at]);
        }
    }
    free(total);
    free(prior);
    free(vb);
    free(xstart_mse);
    free(mse);
}

static void check_folder(const char *text, const char *folder)
{
    char name[128], noise[4200];
    snprintf(name, sizeof name, "%s/checkpoint.safetensors", folder);
    const char *checkpoint = test_data(name);
    snprintf(name, sizeof name, "%s/bpd.safetensors", folder);
    const char *bpd = test_data(name);
    snprintf(noise, sizeof noise, "noise.file=%s", bpd);
    struct dm_ini *ini =
        describe(text, checkpoint, (const char *[]){"noise.source=file", noise, NULL});
    static struct kept kept;
    struct dm_nll_result result;
    expect_run(ini, bpd, 0, &kept, &result);
    compare(bpd, &kept);
    dm_nll_result_finish(&result);
    dm_ini_destroy(ini);
}

static void test_hybrid_32_has_the_references_terms(void **state)
{
    check_folder(hybrid, "improved-diffusion/hybrid-32");
}

static void test_classcond_64_has_the_references_terms(void **state)
{
    check_folder(classcond, "improved-diffusion/classcond-64");
}

static void test_crawl_unet_has_the_references_terms(void **state)
{
    check_folder(crawl, "crawl-unet");
}

/* Two batches in one process; its draws depend on the sizes of those before. */
static void test_torch_cpu_draws_what_pytorch_draws(void **state)
{
    struct unet_golden golden;
    struct dm_nll_result result;
    static struct kept kept, at_once;
    unet_golden_open(&golden, "likelihood");
    struct dm_ini *ini = unet_golden_ini(&golden, backend(), NULL);
    expect_run(ini, golden.path, 0, &kept, &result);
    compare(golden.path, &kept);
    dm_nll_result_finish(&result);
    dm_ini_destroy(ini);
    ini = unet_golden_ini(&golden, backend(), (const char *[]){"sample.batch=3", NULL});
    expect_run(ini, golden.path, 0, &at_once, &result);
    assert_true(fabs(at_once.total[0] / kept.total[0] - 1) > 1e-3);
    dm_nll_result_finish(&result);
    dm_ini_destroy(ini);
    unet_golden_close(&golden);
}

/* p of `forward`: x, times of the whole schedule, the network's recorded output. */
static void check_p(const char *text, const char *folder)
{
    char name[128];
    struct fixture f;
    struct dm_setup setup;
    struct dm_reverse reverse;
    struct dm_error err = DM_ERROR_INIT;
    snprintf(name, sizeof name, "%s/checkpoint.safetensors", folder);
    const char *checkpoint = test_data(name);
    snprintf(name, sizeof name, "%s/forward.safetensors", folder);
    const char *path = test_data(name);
    struct dm_ini *ini = describe(text, checkpoint, (const char *[]){"sample.steps=", NULL});
    fixture_open(&f, 1, NULL);
    fixture_expect_ok(dm_setup_open(&setup, &f.env, ini, DM_NEED_SAMPLER | DM_NEED_BACKEND, &err),
                      &err);
    fixture_expect_ok(dm_reverse_open(&setup, &reverse, &err), &err);
    int64_t n, size = setup.network.n_elements;
    float *x = fixture_tensor(path, "x", &n), *t = fixture_tensor(path, "t_index", NULL);
    float *out = fixture_tensor(path, "out", NULL),
          *x0 = fixture_tensor(path, "p.pred_xstart", NULL);
    float *mean = fixture_tensor(path, "p.mean", NULL);
    float *variance = fixture_tensor(path, "p.variance", NULL);
    float *logvar = fixture_tensor(path, "p.log_variance", NULL);
    double *got = malloc((size_t)(3 * size) * sizeof *got);
    assert_non_null(got);
    bool twice = setup.network.info.learned_variance != DEMIST_VARIANCE_NONE;
    for (int64_t i = 0; i < n / size; i++) {
        const demist_step *step = dm_process_step_at(setup.process, t[i]);
        assert_non_null(step);
        dm_reverse_step(&reverse, step, x + i * size, out + i * size * (twice ? 2 : 1), got,
                        got + size, got + 2 * size);
        for (int64_t k = 0; k < size; k++) {
            int64_t at = i * size + k;
            assert_true(fabs(got[k] - x0[at]) < 2e-5);
            assert_true(fabs(got[size + k] - mean[at]) < 2e-5);
            assert_true(fabs(got[2 * size + k] - logvar[at]) < 2e-5);
            assert_true(fabs(exp(got[2 * size + k]) - variance[at]) < 1e-5 * variance[at]);
        }
    }
    free(got);
    free(x);
    free(t);
    free(out);
    free(x0);
    free(mean);
    free(variance);
    free(logvar);
    dm_setup_close(&setup);
    dm_ini_destroy(ini);
    fixture_close(&f);
}

static void test_p_mean_variance_is_the_references(void **state)
{
    check_p(hybrid, "improved-diffusion/hybrid-32");
    check_p(classcond, "improved-diffusion/classcond-64");
}

/* --------------------------------------------------------- crawl-unet, a few images and steps */

static const char *const few[] = {"sample.steps=6", "sample.images=1", NULL};

static struct dm_ini *crawl_ini(const char *const *overrides)
{
    return describe(crawl, test_data("crawl-unet/checkpoint.safetensors"), overrides);
}

static void test_all_images_count_and_neither_batch_nor_threads_matter(void **state)
{
    static struct kept one, all;
    struct dm_nll_result a, b;
    const char *data = test_data("crawl-unet/bpd.safetensors");
    struct dm_ini *ini = crawl_ini(few);
    expect_run(ini, data, 0, &all, &a);
    dm_ini_destroy(ini);
    ini = crawl_ini((const char *[]){"sample.steps=6", "sample.batch=3", NULL});
    expect_run(ini, data, 0, &one, &b);
    dm_ini_destroy(ini);
    assert_int_equal(all.n, 4);
    assert_int_equal(one.n, 4);
    assert_memory_equal(all.total, one.total, 4 * sizeof(double));
    assert_memory_equal(all.vb, one.vb, sizeof all.vb);
    ini = crawl_ini((const char *[]){"sample.steps=6", "sampler.use=ddim", "sample.start=file",
                                     "sample.start_file=none", "sample.direction=encode", NULL});
    dm_nll_result_finish(&b);
    expect_run(ini, data, 0, &one, &b); /* of which way sampling goes the bound knows nothing */
    dm_ini_destroy(ini);
    assert_memory_equal(all.vb, one.vb, sizeof all.vb);
    double mean = 0, squares = 0;
    for (int i = 0; i < 4; i++)
        mean += all.total[i] / 4;
    for (int i = 0; i < 4; i++)
        squares += (all.total[i] - mean) * (all.total[i] - mean);
    assert_true(fabs(a.total_bpd.mean - mean) < 1e-12);
    assert_true(fabs(dm_mean_error(&a.total_bpd) - sqrt(squares / 12)) < 1e-12);
    for (int i = 0; i < 4; i++) {
        double sum = all.prior[i];
        for (int t = 0; t < 6; t++)
            sum += all.vb[i][t];
        assert_true(fabs(all.total[i] - sum) < 1e-9);
    }
    dm_nll_result_finish(&a);
    dm_nll_result_finish(&b);
}

/* The same parameters, each tensor's values in reverse order: weights that know nothing. */
static char *scrambled_checkpoint(const char *path)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *file;
    char *copy = strdup("/tmp/demist-scrambled-XXXXXX");
    assert_non_null(copy);
    int fd = mkstemp(copy);
    assert_true(fd >= 0);
    close(fd);
    fixture_expect_ok(dm_checkpoint_open(path, &file, &err), &err);
    size_t n = dm_checkpoint_count(file);
    struct dm_tensor_view *views = calloc(n, sizeof *views);
    float **values = calloc(n, sizeof *values);
    assert_true(views && values);
    for (size_t i = 0; i < n; i++) {
        views[i] = *dm_checkpoint_at(file, i);
        size_t size = dm_tensor_elements(&views[i]);
        values[i] = malloc(size * sizeof **values);
        assert_non_null(values[i]);
        for (size_t k = 0; k < size; k++)
            values[i][k] = ((const float *)views[i].data)[size - 1 - k];
        views[i].data = values[i];
    }
    fixture_expect_ok(dm_safetensors_save(copy, views, n, NULL, 0, &err), &err);
    for (size_t i = 0; i < n; i++)
        free(values[i]);
    free(values);
    free(views);
    dm_checkpoint_close(file);
    return copy;
}

static void test_training_shows_in_the_likelihood(void **state)
{
    static struct kept kept;
    struct dm_nll_result trained, scrambled;
    const char *data = test_data("crawl-unet/bpd.safetensors");
    const char *checkpoint = test_data("crawl-unet/checkpoint.safetensors");
    char *worse = scrambled_checkpoint(checkpoint);
    struct dm_ini *ini = describe(crawl, checkpoint, few);
    expect_run(ini, data, 0, &kept, &trained);
    dm_ini_destroy(ini);
    ini = describe(crawl, worse, few);
    expect_run(ini, data, 0, &kept, &scrambled);
    dm_ini_destroy(ini);
    print_message("%g bits per dimension, with shuffled weights %g\n", trained.total_bpd.mean,
                  scrambled.total_bpd.mean);
    assert_true(trained.total_bpd.mean < 0.5 * scrambled.total_bpd.mean);
    dm_nll_result_finish(&trained);
    dm_nll_result_finish(&scrambled);
    unlink(worse);
    free(worse);
}

/* Many draws approach the sum over all t, within the error that they state. */
static void test_sampling_t_is_unbiased_and_states_its_error(void **state)
{
    static struct kept exact, sampled, again;
    struct dm_nll_result a, b, c;
    const char *data = test_data("crawl-unet/bpd.safetensors");
    struct dm_ini *ini = crawl_ini((const char *[]){"sample.steps=100", NULL});
    expect_run(ini, data, 32, &sampled, &b);
    dm_ini_destroy(ini);
    ini = crawl_ini((const char *[]){"sample.steps=100", "sample.batch=3", NULL});
    expect_run(ini, data, 32, &again, &c);
    dm_ini_destroy(ini);
    assert_memory_equal(sampled.total, again.total, sizeof sampled.total);
    assert_null(b.vb);
    ini = crawl_ini((const char *[]){"sample.steps=100", NULL});
    expect_run(ini, data, 0, &exact, &a);
    dm_ini_destroy(ini);
    double difference = b.total_bpd.mean - a.total_bpd.mean;
    print_message("all t: %.5f; 32 draws: %.5f ± %.5f\n", a.total_bpd.mean, b.total_bpd.mean,
                  b.sampling_error);
    assert_true(b.sampling_error > 0 && b.sampling_error < 0.1 * a.total_bpd.mean);
    assert_true(fabs(difference) < 4 * b.sampling_error);
    dm_nll_result_finish(&a);
    dm_nll_result_finish(&b);
    dm_nll_result_finish(&c);
}

static void test_stops_when_told(void **state)
{
    static struct kept kept;
    struct dm_nll_result result;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = crawl_ini(few);
    kept = (struct kept){.stop_after = 3};
    assert_int_equal(run(ini, test_data("crawl-unet/bpd.safetensors"), 0, &kept, &result, &err),
                     DEMIST_CANCELLED);
    assert_int_equal(kept.evaluations, 3);
    assert_int_equal(kept.n, 0);
    dm_nll_result_finish(&result);
    dm_error_clear(&err);
    dm_ini_destroy(ini);
}

static void expect_refusal(const char *text, const char *checkpoint, const char *const *overrides,
                           const char *data, int64_t importance, const char *says)
{
    static struct kept kept;
    struct dm_nll_result result;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = describe(text, checkpoint, overrides);
    assert_int_not_equal(run(ini, data, importance, &kept, &result, &err), DEMIST_OK);
    assert_contains(err.text, says);
    dm_nll_result_finish(&result);
    dm_error_clear(&err);
    dm_ini_destroy(ini);
}

static void test_refuses_what_has_no_likelihood(void **state)
{
    static const char moons[] = "[schedule]\nuse = linear\nsteps = 100\n"
                                "[schedule.linear]\nbeta_start = 1e-4\nbeta_end = 0.02\n"
                                "[network]\nuse = mlp\n[network.mlp]\nhidden = 128,256,256\n"
                                "[sampler]\nuse = ddpm\n";
    const char *checkpoint = test_data("crawl-unet/checkpoint.safetensors");
    const char *data = test_data("crawl-unet/bpd.safetensors");
    const char *hybrid_data = test_data("improved-diffusion/hybrid-32/bpd.safetensors");
    expect_refusal(moons, test_data("two-moons-mlp/checkpoint.safetensors"), NULL, data, 0,
                   "bits per dimension are of 8-bit images");
    expect_refusal(crawl, checkpoint, (const char *[]){"sample.steps=1", NULL}, data, 0, "step");
    expect_refusal(crawl, checkpoint, NULL, data, 3, "an even number");
    expect_refusal(crawl, checkpoint, NULL, hybrid_data, 0, "have no labels");
    expect_refusal(crawl, checkpoint, NULL, "/tmp", -2, "an even number");
    expect_refusal(crawl, checkpoint, NULL, "/nowhere", 0, "/nowhere");
    expect_refusal(crawl, checkpoint, NULL,
                   test_data("improved-diffusion/classcond-64/bpd.safetensors"), 0,
                   "each datum is 3×64×64, and the network takes 3×32×32");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest full[] = {
        cmocka_unit_test(test_hybrid_32_has_the_references_terms),
        cmocka_unit_test(test_classcond_64_has_the_references_terms),
        cmocka_unit_test(test_crawl_unet_has_the_references_terms),
        cmocka_unit_test(test_sampling_t_is_unbiased_and_states_its_error),
    };
    const struct CMUnitTest quick[] = {
        cmocka_unit_test(test_p_mean_variance_is_the_references),
        cmocka_unit_test(test_torch_cpu_draws_what_pytorch_draws),
        cmocka_unit_test(test_all_images_count_and_neither_batch_nor_threads_matter),
        cmocka_unit_test(test_training_shows_in_the_likelihood),
        cmocka_unit_test(test_stops_when_told),
        cmocka_unit_test(test_refuses_what_has_no_likelihood),
    };
    (void)argv;
    return argc > 1 ? cmocka_run_group_tests(full, NULL, NULL)
                    : cmocka_run_group_tests(quick, NULL, NULL);
}

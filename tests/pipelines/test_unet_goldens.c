/* The U-Net's variants that no reference checkpoint has, against an independent model in PyTorch:
 * one evaluation and a chain of five steps each, on the backend that DEMIST_TEST_BACKEND names. */
#include "testing.h"

#include "imagedata.h"
#include "predict.h"
#include "safetensors.h"
#include "unetgolden.h"

#include <unistd.h>

static const char *backend(void)
{
    const char *name = getenv("DEMIST_TEST_BACKEND");
    return name ? name : "reference";
}

static void check_evaluation(struct fixture *f, const struct unet_golden *golden)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_setup setup;
    char out[] = "/tmp/demist-golden-XXXXXX";
    int fd = mkstemp(out);
    assert_true(fd >= 0);
    close(fd);
    struct dm_ini *ini = unet_golden_ini(golden, backend(), NULL);
    fixture_expect_ok(dm_setup_open(&setup, &f->env, ini, DM_NEED_NETWORK | DM_NEED_BACKEND, &err),
                      &err);
    fixture_expect_ok(dm_predict(&setup, golden->path, out, &err), &err);
    dm_setup_close(&setup);
    dm_ini_destroy(ini);
    int64_t n, expected;
    float *got = fixture_tensor(out, "out", &n);
    float *want = fixture_tensor(golden->path, "out", &expected);
    assert_int_equal(n, expected);
    double error = max_difference(got, want, n) / max_magnitude(want, n);
    print_message("%s: %.2e of max|out|\n", golden->path, error);
    assert_true(error < 2e-5);
    free(got);
    free(want);
    unlink(out);
}

static void check_chain(struct fixture *f, const struct unet_golden *golden,
                        const char *const *overrides)
{
    struct dm_error err = DM_ERROR_INIT;
    struct recording r;
    char noise[4200];
    snprintf(noise, sizeof noise, "noise.file=%s", golden->path);
    struct dm_ini *ini = unet_golden_ini(golden, backend(), overrides);
    fixture_expect_ok(dm_ini_set(ini, noise, &err), &err);
    fixture_expect_ok(dm_ini_set(ini, "noise.source=file", &err), &err);
    fixture_expect_ok(fixture_sample(f, ini, false, &r, &err), &err);
    int64_t n;
    float *want = fixture_tensor(golden->path, "x_0", &n);
    assert_int_equal(n, r.n * r.elements);
    double error = max_difference(r.x0, want, n) / (1 + max_magnitude(want, n));
    print_message("%s: chain %.2e\n", golden->path, error);
    assert_true(error < 2e-4);
    free(want);
    recording_free(&r);
    dm_ini_destroy(ini);
}

static void check(const char *name)
{
    struct fixture f;
    struct unet_golden golden;
    fixture_open(&f, 2, NULL);
    unet_golden_open(&golden, name);
    check_evaluation(&f, &golden);
    check_chain(&f, &golden, NULL);
    unet_golden_close(&golden);
    fixture_close(&f);
}

static void test_residual_blocks_resample_and_the_variance_is_its_logarithm(void **state)
{
    check("guided-updown");
}

static void test_pooling_resamples_and_x0_is_predicted(void **state)
{
    check("pooling");
}

static void test_embedding_of_odd_width_and_v_is_predicted(void **state)
{
    check("odd-embedding");
}

static void test_residual_blocks_resample_and_the_mean_is_predicted(void **state)
{
    check("updown-legacy");
}

/* The golden's low_res as a file of the given tensors. */
static void save_low_res(const struct unet_golden *golden, const char *name, const char *labels,
                         char path[32])
{
    struct dm_error err = DM_ERROR_INIT;
    snprintf(path, 32, "/tmp/demist-low-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct dm_tensor_view views[2] = {*dm_checkpoint_find(golden->file, "low_res"),
                                      *dm_checkpoint_find(golden->file, "y")};
    views[0].name = name;
    views[1].name = labels;
    fixture_expect_ok(dm_safetensors_save(path, views, labels ? 2 : 1, NULL, 0, &err), &err);
}

static void test_super_resolution_reads_images_and_their_labels(void **state)
{
    struct fixture f;
    struct unet_golden golden;
    char path[32], set[64];
    fixture_open(&f, 2, NULL);
    unet_golden_open(&golden, "upsampler");
    check_evaluation(&f, &golden);
    save_low_res(&golden, "arr_0", "arr_1", path);
    snprintf(set, sizeof set, "sample.low_res=%s", path);
    check_chain(&f, &golden, (const char *[]){set, "sample.labels=", NULL});
    check_chain(&f, &golden, (const char *[]){set, NULL});
    check_chain(&f, &golden, (const char *[]){set, "sample.batch=1", NULL});
    unlink(path);
    unet_golden_close(&golden);
    fixture_close(&f);
}

static void expect_refusal(struct fixture *f, const struct unet_golden *golden,
                           const char *const *overrides, const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    struct recording r;
    struct dm_ini *ini = unet_golden_ini(golden, "reference", overrides);
    assert_int_not_equal(fixture_sample(f, ini, false, &r, &err), DEMIST_OK);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    dm_ini_destroy(ini);
}

static void test_super_resolution_refuses_what_does_not_fit(void **state)
{
    struct fixture f;
    struct unet_golden golden, plain;
    char path[32], set[64], other[96];
    fixture_open(&f, 1, NULL);
    unet_golden_open(&golden, "upsampler");
    unet_golden_open(&plain, "pooling");
    save_low_res(&golden, "low_res", NULL, path);
    snprintf(set, sizeof set, "sample.low_res=%s", path);
    expect_refusal(&f, &golden, NULL, "set [sample] low_res");
    expect_refusal(&f, &golden, (const char *[]){set, "sample.labels=", NULL},
                   "set [sample] labels");
    expect_refusal(&f, &golden, (const char *[]){set, "network.unet.small_size=4", NULL},
                   "each has the shape [3,3,3], and the network takes [3,4,4]");
    expect_refusal(&f, &golden, (const char *[]){"sample.low_res=/tmp/none-such.png", NULL},
                   "none-such.png");
    snprintf(other, sizeof other, "sample.low_res=%s", golden.checkpoint);
    expect_refusal(&f, &golden, (const char *[]){other, NULL}, "none is called low_res");
    expect_refusal(&f, &plain, (const char *[]){set, NULL}, "not for super-resolution");
    unlink(path);
    unet_golden_close(&golden);
    unet_golden_close(&plain);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_residual_blocks_resample_and_the_variance_is_its_logarithm),
        cmocka_unit_test(test_residual_blocks_resample_and_the_mean_is_predicted),
        cmocka_unit_test(test_pooling_resamples_and_x0_is_predicted),
        cmocka_unit_test(test_embedding_of_odd_width_and_v_is_predicted),
        cmocka_unit_test(test_super_resolution_reads_images_and_their_labels),
        cmocka_unit_test(test_super_resolution_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

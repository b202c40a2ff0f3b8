/* The U-Net's variants that no reference checkpoint has, against an independent model in PyTorch:
 * one evaluation and a chain of five steps each, on the backend that DEMIST_TEST_BACKEND names. */
#include "testing.h"

#include "fileio.h"
#include "pngfile.h"
#include "predict.h"
#include "safetensors.h"
#include "unetgolden.h"

#include <sys/stat.h>
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

/* A picture of noise; the same bytes go to bytes (H,W,C). */
static void put_picture(const char *folder, const char *name, int size, uint8_t *bytes)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_image image;
    struct dm_text file = DM_TEXT_INIT;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    fixture_expect_ok(dm_image_create(&image, size, size, 3, &err), &err);
    for (int i = 0; i < 3 * size * size; i++)
        bytes[i] = image.pixels[i] = (uint8_t)(31 * i + 97 * strlen(name) + (size_t)name[0]);
    fixture_expect_ok(dm_png_encode(&file, &image, NULL, 0, &err), &err);
    fixture_expect_ok(dm_write_file(path, file.data, file.size, NULL, &err), &err);
    dm_text_finish(&file);
    dm_image_finish(&image);
}

/* Pictures in folders below, with classes in their names, are the tensors of their bytes. */
static void test_super_resolution_reads_a_folder_of_pictures(void **state)
{
    struct fixture f;
    struct unet_golden golden;
    struct recording pictures, tensors;
    struct dm_error err = DM_ERROR_INIT;
    char folder[] = "/tmp/demist-low-XXXXXX", sub[64], low[64], npz[64], command[64];
    uint8_t bytes[3 * 27];
    assert_non_null(mkdtemp(folder));
    snprintf(sub, sizeof sub, "%s/b", folder);
    assert_int_equal(mkdir(sub, 0777), 0);
    put_picture(folder, "a_2.png", 3, bytes);
    put_picture(sub, "c_long.png", 3, bytes + 27);
    put_picture(folder, "e.png", 3, bytes + 54);
    const int64_t labels[] = {0, 1, 2};
    const struct dm_tensor_view views[] = {
        {"arr_0", DEMIST_U8, 4, {3, 3, 3, 3}, bytes, sizeof bytes, "u8"},
        {"arr_1", DEMIST_I64, 1, {3}, labels, sizeof labels, "i64"},
    };
    snprintf(npz, sizeof npz, "sample.low_res=%s/b/z.safetensors", folder);
    fixture_expect_ok(dm_safetensors_save(strchr(npz, '/'), views, 2, NULL, 0, &err), &err);
    snprintf(low, sizeof low, "sample.low_res=%s", folder);
    fixture_open(&f, 2, NULL);
    unet_golden_open(&golden, "upsampler");
    const char *own = "sample.labels=", *three = "sample.images=3";
    struct dm_ini *ini =
        unet_golden_ini(&golden, backend(), (const char *[]){low, own, three, NULL});
    fixture_expect_ok(fixture_sample(&f, ini, false, &pictures, &err), &err);
    dm_ini_destroy(ini);
    ini = unet_golden_ini(&golden, backend(), (const char *[]){npz, own, three, NULL});
    fixture_expect_ok(fixture_sample(&f, ini, false, &tensors, &err), &err);
    dm_ini_destroy(ini);
    assert_memory_equal(pictures.x0, tensors.x0,
                        (size_t)(pictures.n * pictures.elements) * sizeof *pictures.x0);
    recording_free(&pictures);
    recording_free(&tensors);

    put_picture(sub, "c_4.png", 4, (uint8_t[48]){0}); /* neither resized nor taken */
    expect_refusal(&f, &golden, (const char *[]){low, NULL}, "c_4.png: 4×4 pixels, where 3×3");
    put_picture(sub, "c_4.png", 3, bytes);
    put_picture(sub, "d_4.png", 3, bytes); /* a fourth class, and the network has three */
    expect_refusal(&f, &golden, (const char *[]){low, own, NULL}, "set [sample] labels");
    unet_golden_close(&golden);
    fixture_close(&f);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0); /* NOLINT: a path of mkdtemp's */
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
                   "each datum is 3×3×3, and the network takes 3×4×4");
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

/* What does not come out even, or is not used. */
static void test_a_file_of_labels_of_another_length_is_told(void **state)
{
    static const struct {
        const char *labels, *notice;
    } cases[] = {{"3\n4\n", NULL},
                 {"3\n", NULL},
                 {"3\n4\n0\n", "holds 3 labels, and the run ends with image 1: the last ones"},
                 {"0-4", "holds 5 labels"}};
    char path[] = "/tmp/demist-labels-XXXXXX", set[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(set, sizeof set, "sample.labels=@%s", path);
    struct unet_golden golden;
    unet_golden_open(&golden, "guided-updown");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        struct recording r;
        struct dm_error err = DM_ERROR_INIT;
        fixture_open(&f, 1, NULL);
        fixture_expect_ok(dm_write_file(path, cases[i].labels, strlen(cases[i].labels), NULL, &err),
                          &err);
        struct dm_ini *ini = unet_golden_ini(&golden, backend(), (const char *[]){set, NULL});
        fixture_expect_ok(fixture_sample(&f, ini, false, &r, &err), &err);
        if (cases[i].notice)
            assert_contains(f.notices, cases[i].notice);
        else
            assert_string_equal(f.notices, "");
        recording_free(&r);
        dm_ini_destroy(ini);
        ini = unet_golden_ini(&golden, backend(),
                              (const char *[]){set, "sample.first=2", "sample.images=3", NULL});
        f.notices[0] = 0;
        fixture_expect_ok(fixture_sample(&f, ini, false, &r, &err), &err);
        if (i == 0)
            assert_contains(f.notices, "holds 2 labels, and the run ends with image 4: they are "
                                       "repeated, and do not come out even");
        recording_free(&r);
        dm_ini_destroy(ini);
        fixture_close(&f);
    }
    unet_golden_close(&golden);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_residual_blocks_resample_and_the_variance_is_its_logarithm),
        cmocka_unit_test(test_residual_blocks_resample_and_the_mean_is_predicted),
        cmocka_unit_test(test_pooling_resamples_and_x0_is_predicted),
        cmocka_unit_test(test_embedding_of_odd_width_and_v_is_predicted),
        cmocka_unit_test(test_super_resolution_reads_images_and_their_labels),
        cmocka_unit_test(test_super_resolution_reads_a_folder_of_pictures),
        cmocka_unit_test(test_super_resolution_refuses_what_does_not_fit),
        cmocka_unit_test(test_a_file_of_labels_of_another_length_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

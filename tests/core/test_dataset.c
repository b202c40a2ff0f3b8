/* Data sets of every kind: the right pixels and classes, and errors that name the file. */
#include "testing.h"

#include "dataset.h"
#include "fileio.h"
#include "npy.h"
#include "pngfile.h"
#include "safetensors.h"
#include "tensorbuild.h"

#include <math.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* A scratch folder, with everything in it. */
struct scratch {
    char dir[64];
    char path[256]; /* the last one asked for */
};

static const char *in(struct scratch *s, const char *name)
{
    snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name);
    return s->path;
}

static int set_up(void **state)
{
    struct scratch *s = calloc(1, sizeof *s);
    assert_non_null(s);
    snprintf(s->dir, sizeof s->dir, "/tmp/demist-dataset-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    struct scratch *s = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", s->dir);
    int status = system(command); /* NOLINT: a path of mkdtemp's */
    free(s);
    return status;
}

static void put_file(const char *path, const void *bytes, size_t size)
{
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_write_file(path, bytes, size, NULL, &err), DEMIST_OK);
}

/* A picture of one colour. */
static void put_png(const char *path, int width, int height, uint8_t r, uint8_t g, uint8_t b)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_image image;
    struct dm_text file = DM_TEXT_INIT;
    assert_int_equal(dm_image_create(&image, width, height, 3, &err), DEMIST_OK);
    for (int i = 0; i < width * height; i++) {
        image.pixels[3 * i] = r;
        image.pixels[3 * i + 1] = g;
        image.pixels[3 * i + 2] = b;
    }
    assert_int_equal(dm_png_encode(&file, &image, NULL, 0, &err), DEMIST_OK);
    put_file(path, file.data, file.size);
    dm_text_finish(&file);
    dm_image_finish(&image);
}

static struct dm_dataset *open_images(const char *path, int64_t channels, int64_t side)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_dataset *data = NULL;
    if (dm_dataset_open(path, 3, (int64_t[]){channels, side, side}, &data, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return data;
}

static void expect_refusal(const char *path, int64_t channels, int64_t side, demist_status status,
                           const char *says)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_dataset *data = NULL;
    assert_int_equal(dm_dataset_open(path, 3, (int64_t[]){channels, side, side}, &data, &err),
                     status);
    assert_contains(err.text, path);
    assert_contains(err.text, says);
    dm_error_clear(&err);
}

static void expect_labels(struct dm_dataset *data, int64_t n_classes, const int64_t *want)
{
    struct dm_error err = DM_ERROR_INIT;
    int64_t n = dm_dataset_count(data), *labels = malloc((size_t)n * sizeof *labels);
    float *x = malloc((size_t)n * 3 * 64 * 64 * sizeof *x);
    assert_true(labels && x);
    if (dm_dataset_check_labels(data, n_classes, &err) != DEMIST_OK ||
        dm_dataset_read(data, 0, n, x, labels, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    assert_memory_equal(labels, want, (size_t)n * sizeof *labels);
    free(labels);
    free(x);
}

/* ---------------------------------------------------------------- folders */

static void test_a_folder_is_read_recursively_in_the_order_of_names(void **state)
{
    struct scratch *s = *state;
    mkdir(in(s, "b"), 0777);
    mkdir(in(s, "empty"), 0777);
    put_png(in(s, "dog_2.png"), 8, 8, 20, 0, 0);
    put_png(in(s, "cat.png"), 8, 8, 10, 0, 0);
    put_png(in(s, "b/ant_1.PNG"), 8, 8, 5, 0, 0);
    put_png(in(s, "dog_1.png"), 16, 20, 15, 0, 0);
    put_png(in(s, "not-a-picture.txt"), 8, 8, 99, 0, 0);
    put_file(in(s, "notes"), "x", 1);
    struct dm_dataset *data = open_images(s->dir, 3, 8);
    struct dm_error err = DM_ERROR_INIT;
    static const float red[] = {5, 10, 15, 20};
    float x[3 * 64];
    assert_int_equal(dm_dataset_count(data), 4);
    assert_int_equal(dm_dataset_name_classes(data), 3);
    for (int64_t i = 0; i < 4; i++) {
        assert_int_equal(dm_dataset_read(data, i, 1, x, NULL, &err), DEMIST_OK);
        assert_true(x[0] == red[i] / 127.5F - 1);
        assert_true(x[63] == x[0]);
        assert_true(x[64] == -1); /* green */
    }
    /* "ant", "cat.png", "dog": the whole name where there is no "_" */
    expect_labels(data, 3, (int64_t[]){0, 1, 2, 2});
    assert_int_equal(dm_dataset_check_labels(data, 2, &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "make 3 classes, and the network has 2");
    dm_error_clear(&err);
    dm_dataset_close(data);
}

static void test_pictures_fit_one_channel_where_they_are_gray(void **state)
{
    struct scratch *s = *state;
    struct dm_error err = DM_ERROR_INIT;
    float x[64];
    put_png(in(s, "a.png"), 8, 8, 51, 51, 51);
    put_png(in(s, "b.png"), 8, 8, 51, 51, 52);
    struct dm_dataset *data = open_images(s->dir, 1, 8);
    assert_int_equal(dm_dataset_read(data, 0, 1, x, NULL, &err), DEMIST_OK);
    assert_true(x[7] == 51 / 127.5F - 1);
    assert_int_equal(dm_dataset_read(data, 1, 1, x, NULL, &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "b.png");
    dm_error_clear(&err);
    dm_dataset_close(data);
    expect_refusal(s->dir, 4, 8, DEMIST_INCOMPATIBLE, "1 or 3 channels");
}

static void test_folders_that_cannot_be_used_are_named(void **state)
{
    struct scratch *s = *state;
    char missing[512];
    snprintf(missing, sizeof missing, "%s/missing", s->dir);
    expect_refusal(s->dir, 3, 8, DEMIST_NOT_FOUND, "have pictures");
    expect_refusal(missing, 3, 8, DEMIST_NOT_FOUND, "No such file");
    assert_int_equal(symlink(s->dir, in(s, "loop")), 0);
    struct dm_error err = DM_ERROR_INIT;
    struct dm_dataset *data = NULL;
    assert_int_equal(dm_dataset_open(s->dir, 3, (int64_t[]){3, 8, 8}, &data, &err), DEMIST_IO);
    assert_contains(err.text, "folders deep");
    dm_error_clear(&err);
    unlink(in(s, "loop"));
    mkdir(in(s, "closed"), 0);
    if (geteuid() != 0) { /* root may read everything */
        assert_int_equal(dm_dataset_open(s->dir, 3, (int64_t[]){3, 8, 8}, &data, &err), DEMIST_IO);
        assert_contains(err.text, "closed");
        dm_error_clear(&err);
    }
    put_file(in(s, "broken.png"), "not a picture", 13);
    data = open_images(s->dir, 3, 8); /* read when asked for */
    float x[3 * 64];
    assert_int_equal(dm_dataset_read(data, 0, 1, x, NULL, &err), DEMIST_FORMAT);
    assert_contains(err.text, "broken.png");
    dm_error_clear(&err);
    dm_dataset_close(data);
}

static void test_data_taken_as_they_are_have_the_size_of_the_first(void **state)
{
    struct scratch *s = *state;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_dataset *data = NULL;
    int64_t shape[3];
    float x[3 * 48];
    mkdir(in(s, "b"), 0777);
    put_png(in(s, "b/a.png"), 8, 6, 5, 0, 0);
    put_png(in(s, "c.png"), 8, 6, 10, 0, 0);
    put_png(in(s, "d.png"), 6, 8, 15, 0, 0);
    assert_int_equal(dm_dataset_open_exact(s->dir, NULL, 0, NULL, &data, &err), DEMIST_OK);
    assert_int_equal(dm_dataset_shape(data, shape), 3);
    assert_memory_equal(shape, ((int64_t[]){3, 6, 8}), sizeof shape);
    assert_int_equal(dm_dataset_read(data, 1, 1, x, NULL, &err), DEMIST_OK);
    assert_true(x[47] == 10 / 127.5F - 1);
    assert_int_equal(dm_dataset_read(data, 2, 1, x, NULL, &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "d.png: 6×8 pixels, where 8×6 are wanted");
    dm_error_clear(&err);
    assert_true(dm_dataset_tells_classes(data, 3));
    assert_false(dm_dataset_tells_classes(data, 4));
    dm_dataset_close(data);
    expect_refusal("", 3, 8, DEMIST_NOT_FOUND, "path of the data is empty");
}

static void test_a_named_tensor_comes_before_the_usual_ones(void **state)
{
    struct scratch *s = *state;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_dataset *data = NULL;
    const float points[] = {1, 2, 3, 4}, others[] = {5, 6};
    const struct dm_tensor_view views[] = {
        {"x_0", DEMIST_F32, 2, {1, 2}, others, sizeof others, "f32"},
        {"low_res", DEMIST_F32, 2, {2, 2}, points, sizeof points, "f32"},
    };
    const char *path = in(s, "points.safetensors");
    float x[4];
    assert_int_equal(dm_safetensors_save(path, views, 2, NULL, 0, &err), DEMIST_OK);
    assert_int_equal(dm_dataset_open_exact(path, "low_res", 1, (int64_t[]){2}, &data, &err),
                     DEMIST_OK);
    assert_int_equal(dm_dataset_count(data), 2);
    assert_int_equal(dm_dataset_read(data, 0, 2, x, NULL, &err), DEMIST_OK);
    assert_memory_equal(x, points, sizeof points);
    assert_false(dm_dataset_tells_classes(data, 2));
    dm_dataset_close(data);
    assert_int_equal(dm_dataset_open_exact(path, "other", 1, (int64_t[]){2}, &data, &err),
                     DEMIST_OK);
    assert_int_equal(dm_dataset_count(data), 1);
    dm_dataset_close(data);
    assert_int_equal(dm_dataset_open_exact(path, "low_res", 1, (int64_t[]){3}, &data, &err),
                     DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "each datum is 2, and the network takes 3: check");
    dm_error_clear(&err);
}

/* ---------------------------------------------------------------- tensors */

static void test_bytes_and_floats_of_tensor_files(void **state)
{
    struct scratch *s = *state;
    struct dm_error err = DM_ERROR_INIT;
    uint8_t bytes[2 * 2 * 2 * 3];
    float floats[2 * 3 * 2 * 2], x[12];
    const int64_t y[] = {4, 1};
    for (int i = 0; i < 24; i++) {
        bytes[i] = (uint8_t)(i * 10);
        floats[i] = (float)i / 24;
    }
    struct dm_tensor_view npz[] = {
        {"arr_0", DEMIST_U8, 4, {2, 2, 2, 3}, bytes, sizeof bytes, "u8"},
        {"arr_1", DEMIST_I64, 1, {2}, y, sizeof y, "i64"},
    };
    struct dm_tensor_view safetensors[] = {
        {"noise", DEMIST_F32, 1, {2}, floats, 8, "f32"},
        {"x_0", DEMIST_F32, 4, {2, 3, 2, 2}, floats, sizeof floats, "f32"},
        {"y", DEMIST_I64, 1, {2}, y, sizeof y, "i64"},
    };
    assert_int_equal(dm_npz_save(in(s, "a.npz"), npz, 2, &err), DEMIST_OK);
    struct dm_dataset *data = open_images(s->path, 3, 2);
    assert_int_equal(dm_dataset_count(data), 2);
    assert_int_equal(dm_dataset_read(data, 1, 1, x, NULL, &err), DEMIST_OK);
    for (int c = 0; c < 3; c++)
        for (int p = 0; p < 4; p++)
            assert_true(x[c * 4 + p] == (float)bytes[12 + p * 3 + c] / 127.5F - 1);
    expect_labels(data, 5, y);
    assert_int_equal(dm_dataset_check_labels(data, 4, &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "label 4 of image 0");
    dm_error_clear(&err);
    dm_dataset_close(data);
    expect_refusal(in(s, "a.npz"), 3, 4, DEMIST_INCOMPATIBLE,
                   "each datum is 3×2×2, and the network takes 3×4×4");

    assert_int_equal(dm_safetensors_save(in(s, "b.safetensors"), safetensors, 3, NULL, 0, &err),
                     DEMIST_OK);
    data = open_images(s->path, 3, 2);
    assert_int_equal(dm_dataset_read(data, 1, 1, x, NULL, &err), DEMIST_OK);
    assert_memory_equal(x, floats + 12, sizeof x);
    dm_dataset_close(data);

    npz[0].rank = 3; /* N×H×W is gray */
    memcpy(npz[0].shape, (int64_t[]){6, 2, 2}, 3 * sizeof(int64_t));
    assert_int_equal(dm_npy_save(in(s, "gray.npy"), &npz[0], &err), DEMIST_OK);
    data = open_images(s->path, 1, 2);
    assert_int_equal(dm_dataset_count(data), 6);
    assert_int_equal(dm_dataset_read(data, 5, 1, x, NULL, &err), DEMIST_OK);
    assert_true(x[3] == 230 / 127.5F - 1);
    assert_int_equal(dm_dataset_check_labels(data, 4, &err), DEMIST_NOT_FOUND);
    assert_contains(err.text, "have no labels");
    dm_error_clear(&err);
    dm_dataset_close(data);

    npz[1].shape[0] = 1;
    npz[1].bytes = 8;
    npz[0] = (struct dm_tensor_view){"arr_0", DEMIST_U8, 4, {2, 2, 2, 3}, bytes, 24, "u8"};
    assert_int_equal(dm_npz_save(in(s, "c.npz"), npz, 2, &err), DEMIST_OK);
    expect_refusal(s->path, 3, 2, DEMIST_INCOMPATIBLE, "must hold 2 labels");
}

/* ---------------------------------------------------------------- idx and CIFAR */

static void test_mnist_with_its_labels_and_gzipped(void **state)
{
    struct scratch *s = *state;
    struct dm_error err = DM_ERROR_INIT;
    uint8_t images[16 + 3 * 4] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2};
    const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1};
    for (uint8_t i = 0; i < 12; i++)
        images[16 + i] = (uint8_t)(20 * i);
    put_file(in(s, "t-images-idx3-ubyte"), images, sizeof images);
    put_file(in(s, "t-labels-idx1-ubyte"), labels, sizeof labels);
    struct dm_dataset *data = open_images(in(s, "t-images-idx3-ubyte"), 1, 2);
    float x[12];
    assert_int_equal(dm_dataset_read(data, 1, 2, x, NULL, &err), DEMIST_OK);
    assert_true(x[7] == 220 / 127.5F - 1);
    expect_labels(data, 10, (int64_t[]){7, 2, 1});
    dm_dataset_close(data);

    gzFile packed = gzopen(in(s, "u-images-idx3-ubyte.gz"), "wb");
    assert_non_null(packed);
    assert_int_equal(gzwrite(packed, images, sizeof images), sizeof images);
    assert_int_equal(gzclose(packed), Z_OK);
    data = open_images(s->path, 1, 2);
    assert_int_equal(dm_dataset_count(data), 3);
    dm_dataset_close(data);

    put_file(in(s, "t-labels-idx1-ubyte"), labels, sizeof labels - 1);
    struct dm_dataset *none = NULL;
    assert_int_equal(
        dm_dataset_open(in(s, "t-images-idx3-ubyte"), 3, (int64_t[]){1, 2, 2}, &none, &err),
        DEMIST_FORMAT);
    assert_contains(err.text, "t-labels-idx1-ubyte: its header claims 3 bytes of data, it has 2");
    dm_error_clear(&err);
    put_file(in(s, "short-images-idx3"), images, sizeof images - 1);
    expect_refusal(s->path, 1, 2, DEMIST_FORMAT, "claims 12 bytes");
}

static void test_cifar_10_and_100(void **state)
{
    struct scratch *s = *state;
    struct dm_error err = DM_ERROR_INIT;
    static uint8_t bytes[2 * 3074];
    static float x[3072];
    bytes[0] = 3;
    bytes[3073] = 9;
    bytes[3073 + 1 + 1024] = 255; /* green */
    put_file(in(s, "ten.bin"), bytes, 2 * 3073);
    struct dm_dataset *data = open_images(s->path, 3, 32);
    assert_int_equal(dm_dataset_read(data, 1, 1, x, NULL, &err), DEMIST_OK);
    assert_true(x[1024] == 1 && x[0] == -1 && x[1025] == -1);
    expect_labels(data, 10, (int64_t[]){3, 9});
    dm_dataset_close(data);

    memset(bytes, 0, sizeof bytes);
    bytes[0] = 19;
    bytes[1] = 99; /* coarse, fine */
    bytes[3074 + 1] = 42;
    bytes[3074 + 2] = 255;
    put_file(in(s, "hundred.bin"), bytes, 2 * 3074);
    data = open_images(s->path, 3, 32);
    assert_int_equal(dm_dataset_read(data, 1, 1, x, NULL, &err), DEMIST_OK);
    assert_true(x[0] == 1 && x[1] == -1);
    expect_labels(data, 100, (int64_t[]){99, 42});
    dm_dataset_close(data);
    put_file(in(s, "other.bin"), bytes, 3075);
    expect_refusal(s->path, 3, 32, DEMIST_FORMAT, "CIFAR");
}

static void test_the_real_mnist(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_dataset *data = open_images(test_data("mnist/t10k-images-idx3-ubyte.gz"), 1, 28);
    float x[784];
    int64_t label;
    assert_int_equal(dm_dataset_count(data), 10000);
    assert_int_equal(dm_dataset_check_labels(data, 10, &err), DEMIST_OK);
    assert_int_equal(dm_dataset_read(data, 0, 1, x, &label, &err), DEMIST_OK);
    assert_int_equal(label, 7);
    assert_int_equal(dm_dataset_read(data, 9999, 1, x, &label, &err), DEMIST_OK);
    assert_int_equal(label, 6);
    double sum = 0;
    for (int i = 0; i < 784; i++)
        sum += x[i];
    assert_true(sum > -784 && sum < 0);
    dm_dataset_close(data);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_folder_is_read_recursively_in_the_order_of_names),
        TEST(test_pictures_fit_one_channel_where_they_are_gray),
        TEST(test_data_taken_as_they_are_have_the_size_of_the_first),
        TEST(test_a_named_tensor_comes_before_the_usual_ones),
        TEST(test_folders_that_cannot_be_used_are_named),
        TEST(test_bytes_and_floats_of_tensor_files),
        TEST(test_mnist_with_its_labels_and_gzipped),
        TEST(test_cifar_10_and_100),
        cmocka_unit_test(test_the_real_mnist),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

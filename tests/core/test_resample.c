/* Resizing and every mode of picture, against what Pillow made of the same (make_pictures.py). */
#include "testing.h"

#include "picture.h"
#include "resample.h"
#include "tensorfile.h"

#include <stdbool.h>

static struct dm_checkpoint *open_goldens(const char *name)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *file = NULL;
    if (dm_checkpoint_open(source_data(name), &file, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return file;
}

/* A picture that borrows the array's pixels. */
static struct dm_image picture_of(const struct dm_tensor_view *view)
{
    assert_int_equal(view->dtype, DEMIST_U8);
    assert_int_equal(view->rank, 3);
    struct dm_image image = {(int)view->shape[1], (int)view->shape[0], (int)view->shape[2], NULL};
    image.pixels = malloc(view->bytes);
    assert_non_null(image.pixels);
    memcpy(image.pixels, view->data, view->bytes);
    return image;
}

static const struct dm_tensor_view *golden(const struct dm_checkpoint *file, const char *what,
                                           int i, const char *part)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%d_%s", what, i, part);
    return dm_checkpoint_find(file, name);
}

static void assert_pixels(const struct dm_image *got, const struct dm_tensor_view *want)
{
    if (got->height != want->shape[0] || got->width != want->shape[1])
        fail_msg("%s: %d×%d, not %lld×%lld", want->name, got->width, got->height,
                 (long long)want->shape[1], (long long)want->shape[0]);
    const uint8_t *bytes = want->data;
    for (size_t i = 0; i < want->bytes; i++)
        if (got->pixels[i] != bytes[i])
            fail_msg("%s: byte %zu is %d, not %d", want->name, i, got->pixels[i], bytes[i]);
}

static void test_resizes_as_pillow_does(void **state)
{
    static const char *const names[] = {"box", "bicubic"};
    struct dm_checkpoint *file = open_goldens("pictures/resizes.npz");
    int n = 0;
    for (const struct dm_tensor_view *from; (from = golden(file, "resize", n, "in")); n++)
        for (int filter = 0; filter < 2; filter++) {
            struct dm_error err = DM_ERROR_INIT;
            const struct dm_tensor_view *want = golden(file, "resize", n, names[filter]);
            struct dm_image in = picture_of(from), out;
            assert_int_equal(dm_image_resize(&out, &in, (int)want->shape[1], (int)want->shape[0],
                                             (enum dm_filter)filter, &err),
                             DEMIST_OK);
            assert_pixels(&out, want);
            dm_image_finish(&in);
            dm_image_finish(&out);
        }
    assert_true(n >= 8);
    dm_checkpoint_close(file);
}

static void test_fits_as_improved_diffusion_does(void **state)
{
    struct dm_checkpoint *file = open_goldens("pictures/resizes.npz");
    int n = 0;
    for (const struct dm_tensor_view *from; (from = golden(file, "fit", n, "in")); n++) {
        struct dm_error err = DM_ERROR_INIT;
        const struct dm_tensor_view *want = golden(file, "fit", n, "out");
        struct dm_image in = picture_of(from), out;
        assert_int_equal(dm_image_fit(&out, &in, (int)want->shape[1], (int)want->shape[0], &err),
                         DEMIST_OK);
        assert_pixels(&out, want);
        dm_image_finish(&in);
        dm_image_finish(&out);
    }
    assert_true(n >= 7);
    dm_checkpoint_close(file);
}

static void test_refuses_sizes_that_no_picture_has(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_image in, out;
    assert_int_equal(dm_image_create(&in, 20000, 1, 3, &err), DEMIST_OK);
    assert_int_equal(dm_image_resize(&out, &in, 0, 4, DM_FILTER_BOX, &err), DEMIST_INVALID);
    assert_int_equal(dm_image_fit(&out, &in, 64, 64, &err), DEMIST_INVALID);
    assert_contains(err.text, "too long and narrow");
    dm_error_clear(&err);
    dm_image_finish(&in);
}

static bool has_no_decoder(const char *name)
{
#ifndef DM_HAVE_JPEG
    if (strstr(name, ".jp"))
        return true;
#endif
#ifndef DM_HAVE_GIF
    if (strstr(name, ".gif"))
        return true;
#endif
    (void)name;
    return false;
}

static void test_reads_every_mode_as_pillow_does(void **state)
{
    struct dm_checkpoint *file = open_goldens("pictures/modes.npz");
    assert_true(dm_checkpoint_count(file) >= 16);
    for (size_t i = 0; i < dm_checkpoint_count(file); i++) {
        const struct dm_tensor_view *want = dm_checkpoint_at(file, i);
        struct dm_error err = DM_ERROR_INIT;
        struct dm_image image;
        char path[64];
        snprintf(path, sizeof path, "pictures/%s", want->name);
        if (has_no_decoder(want->name)) {
            assert_int_equal(dm_picture_read(&image, source_data(path), &err), DEMIST_UNSUPPORTED);
            dm_error_clear(&err);
            continue;
        }
        if (dm_picture_read(&image, source_data(path), &err) != DEMIST_OK)
            fail_msg("%s", err.text);
        assert_pixels(&image, want);
        dm_image_finish(&image);
    }
    dm_checkpoint_close(file);
}

/* Every beginning of a file, and every file with one byte changed: an error or a picture. */
static void test_survives_damage(void **state)
{
    static const char *const names[] = {"rgb.jpg", "progressive.jpg", "cmyk.jpg", "interlaced.gif",
                                        "smalltransparent.gif"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        char path[64], copy[] = "/tmp/demist-damage-XXXXXX";
        static char bytes[4096];
        snprintf(path, sizeof path, "pictures/%s", names[f]);
        FILE *file = fopen(source_data(path), "rb");
        assert_non_null(file);
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        int fd = mkstemp(copy);
        assert_true(fd >= 0);
        FILE *out = fdopen(fd, "wb");
        assert_non_null(out);
        fclose(out);
        for (size_t at = 0; at < size; at++)
            for (int cut = 0; cut < 2; cut++) {
                struct dm_error err = DM_ERROR_INIT;
                struct dm_image image;
                bytes[at] ^= 0x5a;
                out = fopen(copy, "wb");
                assert_non_null(out);
                fwrite(bytes, 1, cut ? at : size, out);
                fclose(out);
                bytes[at] ^= 0x5a;
                demist_status status = dm_picture_read(&image, copy, &err);
                assert_true((status == DEMIST_OK) == (image.pixels != NULL));
                if (status != DEMIST_OK)
                    assert_contains(err.text, copy);
                dm_error_clear(&err);
                dm_image_finish(&image);
            }
        remove(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resizes_as_pillow_does),
        cmocka_unit_test(test_fits_as_improved_diffusion_does),
        cmocka_unit_test(test_refuses_sizes_that_no_picture_has),
        cmocka_unit_test(test_reads_every_mode_as_pillow_does),
        cmocka_unit_test(test_survives_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

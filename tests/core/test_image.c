#include "testing.h"

#include <math.h>

#include "image.h"

static uint8_t one(float x, enum dm_image_rounding rounding, float lo, float hi)
{
    uint8_t out = 77;
    struct dm_image_levels levels = {rounding, lo, hi};
    assert_int_equal(dm_image_quantize(&out, &x, 1, 1, 1, &levels, NULL), DEMIST_OK);
    return out;
}

static void test_truncation_follows_improved_diffusion_at_the_boundaries(void **state)
{
    struct {
        float x;
        int byte;
    } cases[] = {
        {-1.0F, 0},       {1.0F, 255},  {-7.0F, 0},
        {7.0F, 255},      {0.0F, 127},  {nextafterf(1, 0), 255},
        {0.999999F, 254}, {0.5F, 191},  {3e38F, 255},
        {-3e38F, 0},      {-0.0F, 127},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(one(cases[i].x, DM_IMAGE_TRUNCATE, -1, 1), cases[i].byte);
    /* Every level k is entered exactly where float32 (x + 1)·127.5 reaches k, not one ulp before */
    for (int k = 1; k <= 255; k++) {
        float x = (float)(k / 127.5 - 1.0);
        while ((x + 1.0F) * 127.5F >= (float)k)
            x = nextafterf(x, -2.0F);
        assert_int_equal(one(x, DM_IMAGE_TRUNCATE, -1, 1), k - 1);
        assert_int_equal(one(nextafterf(x, 2.0F), DM_IMAGE_TRUNCATE, -1, 1), k);
    }
}

static void test_rounding_follows_diffusers_with_halves_to_even(void **state)
{
    assert_int_equal(one(0.0F, DM_IMAGE_ROUND, -1, 1), 128); /* 127.5 to the even 128 */
    assert_int_equal(one(nextafterf(0, -1), DM_IMAGE_ROUND, -1, 1), 128); /* 0.5 absorbs it */
    assert_int_equal(one(-1e-6F, DM_IMAGE_ROUND, -1, 1), 127);
    assert_int_equal(one(-1.0F, DM_IMAGE_ROUND, -1, 1), 0);
    assert_int_equal(one(-2.0F, DM_IMAGE_ROUND, -1, 1), 0);
    assert_int_equal(one(nextafterf(1, 0), DM_IMAGE_ROUND, -1, 1), 255);
    assert_int_equal(one(9.0F, DM_IMAGE_ROUND, -1, 1), 255);
}

/* Bytes of a data set are mapped to [-1, 1] by b/127.5 - 1. */
static void test_rounding_brings_every_byte_back(void **state)
{
    for (int b = 0; b < 256; b++) {
        float x = (float)b / 127.5F - 1.0F;
        assert_int_equal(one(x, DM_IMAGE_ROUND, -1, 1), b);
    }
}

static void test_other_ranges_are_mapped_and_clipped(void **state)
{
    assert_int_equal(one(0.0F, DM_IMAGE_TRUNCATE, 0, 1), 0);
    assert_int_equal(one(1.0F, DM_IMAGE_TRUNCATE, 0, 1), 255);
    assert_int_equal(one(0.5F, DM_IMAGE_ROUND, 0, 1), 128);
    assert_int_equal(one(-4.0F, DM_IMAGE_TRUNCATE, -3, 3), 0);
    float x = 0;
    uint8_t out;
    struct dm_error err = DM_ERROR_INIT;
    float bad[][2] = {{1, 1}, {1, -1}, {NAN, 1}, {0, INFINITY}, {-3e38F, 3e38F}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct dm_image_levels levels = {DM_IMAGE_ROUND, bad[i][0], bad[i][1]};
        assert_int_equal(dm_image_quantize(&out, &x, 1, 1, 1, &levels, &err), DEMIST_INVALID);
        assert_contains(err.text, "range");
    }
    dm_error_clear(&err);
}

static void test_planes_become_interleaved(void **state)
{
    float x[3 * 2 * 2]; /* C,H,W */
    for (int i = 0; i < 12; i++)
        x[i] = (float)i / 127.5F - 1.0F;
    struct dm_image image;
    struct dm_image_levels levels = {DM_IMAGE_ROUND, -1, 1};
    assert_int_equal(dm_image_from_floats(&image, x, 3, 2, 2, &levels, NULL), DEMIST_OK);
    const uint8_t expected[] = {0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11};
    assert_memory_equal(image.pixels, expected, 12);
    assert_int_equal(dm_image_size(&image), 12);
    dm_image_finish(&image);
    dm_image_finish(&image);
}

static void test_a_value_that_is_not_finite_is_named(void **state)
{
    float x[2 * 3] = {0, 0, 0, 0, 0, 0};
    float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        x[5] = bad[i];
        struct dm_image image;
        struct dm_error err = DM_ERROR_INIT;
        assert_int_equal(dm_image_from_floats(&image, x, 1, 2, 3, &DM_IMAGE_LEVELS_INIT, &err),
                         DEMIST_NUMERIC);
        assert_contains(err.text, "channel 0, row 1, column 2");
        assert_null(image.pixels);
        dm_error_clear(&err);
    }
}

static void test_refuses_channels_that_make_no_picture(void **state)
{
    int counts[] = {-1, 0, 2, 5, 1000000};
    for (int i = 0; i < 5; i++) {
        struct dm_image image;
        struct dm_error err = DM_ERROR_INIT;
        assert_int_equal(dm_image_create(&image, 4, 4, counts[i], &err), DEMIST_UNSUPPORTED);
        assert_contains(err.text, "1 (gray), 3 (RGB) or 4 (RGBA)");
        dm_error_clear(&err);
    }
    struct dm_image image;
    assert_int_equal(dm_image_create(&image, 0, 4, 1, NULL), DEMIST_INVALID);
    assert_int_equal(dm_image_create(&image, 4, -4, 1, NULL), DEMIST_INVALID);
    assert_int_equal(dm_image_create(&image, 4, 1000001, 1, NULL), DEMIST_INVALID);
}

static void test_auto_columns_are_near_square_and_exact_where_close(void **state)
{
    int n[] = {1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 16, 18, 20, 32, 64, 100, 1000};
    int columns[] = {1, 2, 2, 2, 3, 3, 4, 3, 4, 4, 4, 6, 5, 8, 8, 10, 40};
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++)
        assert_int_equal(dm_grid_columns(n[i]), columns[i]);
    assert_int_equal(dm_grid_columns(INT32_MAX), 46341); /* a prime: no exact fit */
}

static void test_grid_places_enlarged_cells_in_rows(void **state)
{
    uint8_t bytes[3][2] = {{10, 11}, {20, 21}, {30, 31}};
    struct dm_image images[3];
    for (int i = 0; i < 3; i++)
        images[i] = (struct dm_image){2, 1, 1, bytes[i]};
    struct dm_grid options = {.columns = 2, .padding = 1, .scale = 2, .background = 99};
    struct dm_image grid;
    assert_int_equal(dm_image_grid(&grid, images, 3, &options, NULL), DEMIST_OK);
    assert_int_equal(grid.width, 1 + 2 * (4 + 1));
    assert_int_equal(grid.height, 1 + 2 * (2 + 1));
    const uint8_t expected[7][11] = {
        {99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99}, {99, 10, 10, 11, 11, 99, 20, 20, 21, 21, 99},
        {99, 10, 10, 11, 11, 99, 20, 20, 21, 21, 99}, {99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99},
        {99, 30, 30, 31, 31, 99, 99, 99, 99, 99, 99}, {99, 30, 30, 31, 31, 99, 99, 99, 99, 99, 99},
        {99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99},
    };
    assert_memory_equal(grid.pixels, expected, sizeof expected);
    dm_image_finish(&grid);

    options.columns = 50; /* no columns that stay empty */
    assert_int_equal(dm_image_grid(&grid, images, 3, &options, NULL), DEMIST_OK);
    assert_int_equal(grid.width, 16);
    assert_int_equal(grid.height, 4);
    dm_image_finish(&grid);
}

static void test_grid_of_rgba_has_an_opaque_background(void **state)
{
    uint8_t clear[4] = {1, 2, 3, 0};
    struct dm_image image = {1, 1, 4, clear}, grid;
    struct dm_grid options = {.padding = 1, .scale = 1, .background = 7};
    assert_int_equal(dm_image_grid(&grid, &image, 1, &options, NULL), DEMIST_OK);
    const uint8_t edge[4] = {7, 7, 7, 255};
    assert_memory_equal(grid.pixels, edge, 4);
    assert_memory_equal(grid.pixels + 4 * 4, clear, 4);
    dm_image_finish(&grid);
}

static void test_grid_refuses_what_does_not_fit(void **state)
{
    uint8_t bytes[6] = {0};
    struct dm_image images[2] = {{2, 1, 3, bytes}, {1, 2, 3, bytes}}, grid;
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_image_grid(&grid, images, 2, &DM_GRID_INIT, &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "image 1 of the grid is 1 x 2");
    assert_int_equal(dm_image_grid(&grid, images, 0, &DM_GRID_INIT, &err), DEMIST_INVALID);
    struct dm_grid bad[] = {{-1, 0, 1, 0},        {0, -1, 1, 0},     {0, 0, 0, 0},
                            {0, 0, INT32_MAX, 0}, {0, 0, 600000, 0}, {0, 1000000, 1, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dm_image_grid(&grid, images, 1, &bad[i], &err), DEMIST_INVALID);
        assert_null(grid.pixels);
    }
    dm_error_clear(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncation_follows_improved_diffusion_at_the_boundaries),
        cmocka_unit_test(test_rounding_follows_diffusers_with_halves_to_even),
        cmocka_unit_test(test_rounding_brings_every_byte_back),
        cmocka_unit_test(test_other_ranges_are_mapped_and_clipped),
        cmocka_unit_test(test_planes_become_interleaved),
        cmocka_unit_test(test_a_value_that_is_not_finite_is_named),
        cmocka_unit_test(test_refuses_channels_that_make_no_picture),
        cmocka_unit_test(test_auto_columns_are_near_square_and_exact_where_close),
        cmocka_unit_test(test_grid_places_enlarged_cells_in_rows),
        cmocka_unit_test(test_grid_of_rgba_has_an_opaque_background),
        cmocka_unit_test(test_grid_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

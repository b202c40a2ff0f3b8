#include "testing.h"

#include "spacing.h"
#include "tensorfile.h"

#include <math.h>

static const struct dm_spacing_options zero_based = {0}, one_based = {.first_index = 1};

static void assert_spacing(const char *spec, int64_t T, struct dm_spacing_options options,
                           int64_t n, const int64_t *expected, int64_t end)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_spacing s;
    if (dm_spacing_parse(spec, T, &options, &s, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(s.n, n);
    for (int64_t i = 0; i < n; i++)
        if (s.index[i] != expected[i])
            fail_msg("%s of %lld: index %lld is %lld, not %lld", spec, (long long)T, (long long)i,
                     (long long)s.index[i], (long long)expected[i]);
    assert_int_equal(s.end, end);
    dm_spacing_finish(&s);
}

#define ASSERT_SPACING(spec, T, options, end, ...)                                                 \
    assert_spacing(spec, T, options, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t),           \
                   (int64_t[]){__VA_ARGS__}, end)

static void assert_refused(const char *spec, int64_t T, struct dm_spacing_options options,
                           const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_spacing s = {0};
    if (dm_spacing_parse(spec, T, &options, &s, &err) != DEMIST_CONFIG)
        fail_msg("\"%s\" of %lld steps was not refused", spec, (long long)T);
    assert_contains(err.text, fragment);
    assert_null(s.index);
    dm_error_clear(&err);
}

/* The tensors called "PREFIX.T.SPEC" hold what the reference implementation visits. */
static int64_t *golden(const struct dm_tensor_view *view)
{
    int64_t *values = malloc(dm_tensor_elements(view) * sizeof *values);
    assert_non_null(values);
    assert_int_equal(dm_tensor_to_i64(view, values, NULL), DEMIST_OK);
    return values;
}

static struct dm_checkpoint *open_data(const char *relative)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *file = NULL;
    const char *path = test_data(relative);
    if (dm_checkpoint_open(path, &file, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return file;
}

static void test_sections_and_ddim_strides_are_improved_diffusions(void **state)
{
    struct dm_checkpoint *file = open_data("improved-diffusion/tables.safetensors");
    int found = 0;
    for (size_t i = 0; i < dm_checkpoint_count(file); i++) {
        const struct dm_tensor_view *view = dm_checkpoint_at(file, i);
        char spec[64];
        long long T;
        if (sscanf(view->name, "respace.%lld.%63s", &T, spec) != 2)
            continue;
        const int64_t n = view->shape[0];
        int64_t *ascending = golden(view), *visited = malloc((size_t)n * sizeof *visited);
        assert_non_null(visited);
        for (int64_t k = 0; k < n; k++)
            visited[k] = ascending[n - 1 - k];
        assert_spacing(spec, T, zero_based, n, visited, -1);
        for (int64_t k = 0; k < n; k++)
            visited[k]++;
        assert_spacing(spec, T, one_based, n, visited, 0);
        free(ascending);
        free(visited);
        found++;
    }
    assert_int_equal(found, 14);
    dm_checkpoint_close(file);
}

static void test_leading_trailing_and_linspace_are_diffusers(void **state)
{
    struct dm_checkpoint *file = open_data("samplers/spacings.safetensors");
    assert_int_equal(dm_checkpoint_count(file), 48);
    for (size_t i = 0; i < dm_checkpoint_count(file); i++) {
        const struct dm_tensor_view *view = dm_checkpoint_at(file, i);
        char kind[32], spec[64];
        long long T, N;
        assert_int_equal(sscanf(view->name, "%31[a-z+1].%lld.%lld", kind, &T, &N), 3);
        struct dm_spacing_options options = {.leading_offset = strcmp(kind, "leading+1") == 0};
        snprintf(spec, sizeof spec, "%s%lld", options.leading_offset ? "leading" : kind, N);
        int64_t *visited = golden(view);
        assert_spacing(spec, T, options, N, visited, -1);
        free(visited);
    }
    dm_checkpoint_close(file);
}

static void test_empty_visits_every_step(void **state)
{
    ASSERT_SPACING("", 4, zero_based, -1, 3, 2, 1, 0);
    ASSERT_SPACING("", 4, one_based, 0, 4, 3, 2, 1);
    ASSERT_SPACING("", 1, zero_based, -1, 0);
    ASSERT_SPACING(" ", 2, zero_based, -1, 1, 0);
}

static void test_lists_may_have_blanks_and_empty_sections(void **state)
{
    ASSERT_SPACING("2, 0 ,1", 9, zero_based, -1, 6, 2, 0);
    ASSERT_SPACING("1", 10, zero_based, -1, 0);
}

static void test_trailing_of_a_one_based_schedule_starts_at_its_last_index(void **state)
{
    int64_t expected[25];
    for (int i = 0; i < 25; i++)
        expected[i] = 500 - 20 * i;
    assert_spacing("trailing25", 500, one_based, 25, expected, 0);
    assert_spacing("course25", 500, one_based, 25, expected, 0);
}

static void test_single_steps_are_where_the_formulas_put_them(void **state)
{
    ASSERT_SPACING("trailing1", 1000, zero_based, -1, 999);
    ASSERT_SPACING("leading1", 1000, zero_based, -1, 0);
    ASSERT_SPACING("linspace1", 1000, zero_based, -1, 0);
    ASSERT_SPACING("quadratic1", 1000, zero_based, -1, 0);
    ASSERT_SPACING("course1", 500, one_based, 0, 500);
}

static void test_halves_are_rounded_to_even(void **state)
{
    ASSERT_SPACING("trailing4", 10, zero_based, -1, 9, 7, 4, 1); /* 10, 7.5, 5, 2.5 */
    ASSERT_SPACING("linspace3", 8, zero_based, -1, 7, 4, 0);     /* 3.5 */
    ASSERT_SPACING("linspace3", 6, zero_based, -1, 5, 2, 0);     /* 2.5 */
}

static void test_quadratic_ends_at_four_fifths(void **state)
{
    ASSERT_SPACING("quadratic5", 1000, zero_based, -1, 800, 450, 200, 50, 0);
    ASSERT_SPACING("quadratic5", 1000, one_based, 0, 801, 451, 201, 51, 1);
    int64_t expected[20];
    for (int i = 0; i < 20; i++)
        expected[19 - i] = (int64_t)pow(i * sqrt(800) / 19, 2);
    assert_spacing("quadratic20", 1000, zero_based, 20, expected, -1);
    /* (√800/49)² = 0.33: the second index from below is 0 too */
    struct dm_spacing s;
    assert_int_equal(dm_spacing_parse("quadratic50", 1000, &zero_based, &s, NULL), DEMIST_OK);
    assert_int_equal(s.n, 50);
    assert_int_equal(s.index[0], 800);
    assert_int_equal(s.index[47], 1);
    assert_int_equal(s.index[48], 0);
    assert_int_equal(s.index[49], 0);
    dm_spacing_finish(&s);
}

static void test_course_overshoot_ends_clean_or_wraps_as_python_does(void **state)
{
    /* T = 10, s = 3: 10, 7, 4, 1, and 1 - 3 = -2 is index 9 of the eleven */
    ASSERT_SPACING("course3", 10, one_based, 0, 10, 7, 4, 1);
    struct dm_spacing_options wrap = {.first_index = 1, .course_wrap = true};
    ASSERT_SPACING("course3", 10, wrap, 9, 10, 7, 4, 1);
    ASSERT_SPACING("course5", 10, wrap, 0, 10, 8, 6, 4, 2); /* divides: nothing to wrap */
}

static void test_every_spacing_falls_within_the_schedule(void **state)
{
    static const char *kinds[] = {"", "leading", "trailing", "linspace", "quadratic", "course"};
    for (int64_t T = 1; T <= 60; T++)
        for (int64_t N = 1; N <= T; N++)
            for (int k = 0; k < 6; k++) {
                char spec[32];
                struct dm_spacing s;
                snprintf(spec, sizeof spec, "%s%lld", kinds[k], (long long)N);
                assert_int_equal(dm_spacing_parse(spec, T, &one_based, &s, NULL), DEMIST_OK);
                if (k != 5)
                    assert_int_equal(s.n, N);
                else
                    assert_int_equal(s.n, (T + T / N - 1) / (T / N));
                for (int64_t i = 0; i < s.n; i++)
                    assert_true(s.index[i] >= 1 && s.index[i] <= T &&
                                (i == 0 || s.index[i] < s.index[i - 1] ||
                                 (k == 4 && s.index[i] == s.index[i - 1])));
                dm_spacing_finish(&s);
            }
}

/* Against the definition: try strides one by one. */
static void test_ddim_takes_the_smallest_stride_that_fits_or_refuses(void **state)
{
    int refused = 0;
    for (int64_t N = 1; N <= 1000; N++) {
        char spec[32];
        struct dm_spacing s;
        int64_t stride = 1;
        while (stride < 1000 && (1000 + stride - 1) / stride != N)
            stride++;
        snprintf(spec, sizeof spec, "ddim%lld", (long long)N);
        demist_status status = dm_spacing_parse(spec, 1000, &zero_based, &s, NULL);
        assert_int_equal(status == DEMIST_OK, stride < 1000);
        if (status != DEMIST_OK) {
            refused++;
            continue;
        }
        assert_int_equal(s.n, N);
        for (int64_t i = 0; i < N; i++)
            assert_int_equal(s.index[i], (N - 1 - i) * stride);
        dm_spacing_finish(&s);
    }
    assert_int_equal(refused, 938);
}

static void test_refusals_name_what_is_wrong_and_what_would_do(void **state)
{
    assert_refused("ddim60", 1000, zero_based, "visits 60 of 1000 steps; the nearest is ddim59");
    assert_refused("ddim1", 1000, zero_based, "nearest is ddim2");
    assert_refused("ddim1", 1, zero_based, "leave steps empty");
    assert_refused("10,500", 900, zero_based,
                   "500 steps of a section that has 450 (indices 450 to 899)");
    assert_refused("1,1,1", 2, zero_based, "3 sections are more than the 2 steps");
    assert_refused("1001", 1000, zero_based, "1001 is more than the 1000 steps");
    assert_refused("trailing11", 10, zero_based, "11 is more than the 10 steps");
    assert_refused("course5", 10, zero_based, "indexing = one");
    assert_refused("leading0", 10, zero_based, "no step is left");
    assert_refused("0", 10, zero_based, "no step is left");
    assert_refused("0,0", 10, zero_based, "no step is left");
    assert_refused("10,,20", 1000, zero_based, "10,,20");
    assert_refused("10,", 1000, zero_based, "10,");
    assert_refused("10x", 1000, zero_based, "\"10x\" is not a number");
    assert_refused("-5", 1000, zero_based, "not a spacing");
    assert_refused("trailing", 1000, zero_based, "\"\" is not a number");
    assert_refused("trailing-3", 1000, zero_based, "not a spacing");
    assert_refused("trailing3.5", 1000, zero_based, "\"3.5\" is not a number");
    assert_refused("traling25", 1000, zero_based, "did you mean trailingN?");
    assert_refused("99999999999999999999", 1000, zero_based, "not a number");
    assert_refused("", 0, zero_based, "0 steps");
    assert_refused("", INT64_MAX, zero_based, "1 to 1000000");
    assert_refused("leading10", 10, (struct dm_spacing_options){.leading_offset = 1},
                   "index 10 would be visited");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sections_and_ddim_strides_are_improved_diffusions),
        cmocka_unit_test(test_leading_trailing_and_linspace_are_diffusers),
        cmocka_unit_test(test_empty_visits_every_step),
        cmocka_unit_test(test_lists_may_have_blanks_and_empty_sections),
        cmocka_unit_test(test_trailing_of_a_one_based_schedule_starts_at_its_last_index),
        cmocka_unit_test(test_single_steps_are_where_the_formulas_put_them),
        cmocka_unit_test(test_halves_are_rounded_to_even),
        cmocka_unit_test(test_quadratic_ends_at_four_fifths),
        cmocka_unit_test(test_course_overshoot_ends_clean_or_wraps_as_python_does),
        cmocka_unit_test(test_every_spacing_falls_within_the_schedule),
        cmocka_unit_test(test_ddim_takes_the_smallest_stride_that_fits_or_refuses),
        cmocka_unit_test(test_refusals_name_what_is_wrong_and_what_would_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

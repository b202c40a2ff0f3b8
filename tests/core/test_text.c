#include "testing.h"

#include "text.h"

static void test_text_grows(void **state)
{
    struct dm_text text = DM_TEXT_INIT;
    size_t expected = 0;
    for (int i = 0; i < 1000; i++) {
        dm_text_append(&text, "ab");
        dm_text_appendf(&text, "%0*d;", i % 100 + 1, 0);
        expected += 2 + (size_t)(i % 100 + 1) + 1;
    }
    dm_text_append_bytes(&text, "\0z", 2);
    assert_int_equal(text.size, expected + 2);
    assert_int_equal(text.data[expected + 1], 'z');
    char *taken = dm_text_take(&text);
    assert_int_equal(strlen(taken), expected);
    assert_int_equal(strncmp(taken, "ab0;ab00;ab000;", 15), 0);
    free(taken);
    assert_null(text.data);
    dm_text_finish(&text);
}

static void test_an_empty_text_is_a_string(void **state)
{
    struct dm_text text = DM_TEXT_INIT;
    char *taken = dm_text_take(&text);
    assert_string_equal(taken, "");
    free(taken);
}

static void test_a_failed_text_gives_nothing(void **state)
{
    struct dm_text text = DM_TEXT_INIT;
    dm_text_append(&text, "abc");
    dm_text_append_bytes(&text, "x", SIZE_MAX - 1);
    dm_text_append(&text, "def");
    assert_true(text.failed);
    assert_null(dm_text_take(&text));
}

static void test_trims_both_ends(void **state)
{
    char a[] = " \t a b\r\n", b[] = "   ", c[] = "";
    assert_string_equal(dm_trim(a), "a b");
    assert_string_equal(dm_trim(b), "");
    assert_string_equal(dm_trim(c), "");
}

static void test_splits_lists(void **state)
{
    struct dm_arena arena = {0};
    struct dm_error err = DM_ERROR_INIT;
    const char *const *items;
    size_t n;
    assert_int_equal(dm_split_list(&arena, " cpu, opencl ,cuda", &items, &n, &err), DEMIST_OK);
    assert_int_equal(n, 3);
    assert_string_equal(items[0], "cpu");
    assert_string_equal(items[1], "opencl");
    assert_string_equal(items[2], "cuda");
    assert_int_equal(dm_split_list(&arena, "  ", &items, &n, &err), DEMIST_OK);
    assert_int_equal(n, 0);
    assert_int_equal(dm_split_list(&arena, "a, ,b", &items, &n, &err), DEMIST_CONFIG);
    assert_contains(err.text, "item 2");
    assert_int_equal(dm_split_list(&arena, "a,", &items, &n, &err), DEMIST_CONFIG);
    assert_int_equal(dm_split_list(&arena, ",", &items, &n, &err), DEMIST_CONFIG);
    dm_error_clear(&err);
    dm_arena_finish(&arena);
}

static void test_reads_ranges(void **state)
{
    int64_t *values, expected[] = {0, 1, 2, 3, 9, 4};
    size_t n;
    assert_int_equal(dm_parse_ranges("0-3, 9 ,4", 9, 6, &values, &n, NULL), DEMIST_OK);
    assert_int_equal(n, 6);
    assert_memory_equal(values, expected, sizeof expected);
    free(values);
    assert_int_equal(dm_parse_ranges("5 - 5", INT64_MAX, 1, &values, &n, NULL), DEMIST_OK);
    assert_int_equal(n, 1);
    assert_int_equal(values[0], 5);
    free(values);
    assert_int_equal(dm_parse_ranges("9223372036854775807", INT64_MAX, 1, &values, &n, NULL), 0);
    assert_true(n == 1 && values[0] == INT64_MAX);
    free(values);
}

static void test_refuses_bad_ranges_by_name(void **state)
{
    const struct {
        const char *text, *says;
    } bad[] = {{"", "empty"},
               {" ", "empty"},
               {"1,,2", "empty"},
               {"1,", "empty"},
               {"a", "\"a\""},
               {"-3", "\"-3\""},
               {"3-", "\"3-\""},
               {"1-2-3", "1-2-3"},
               {"7-0", "downwards"},
               {"0-100", "beyond"},
               {"+1", "\"+1\""},
               {"0-99999999999999999999", "beyond"},
               {"0-7,0-7", "more than 10"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dm_error err = DM_ERROR_INIT;
        int64_t *values;
        size_t n;
        assert_int_equal(dm_parse_ranges(bad[i].text, 50, 10, &values, &n, &err), DEMIST_CONFIG);
        assert_contains(err.text, bad[i].says);
        dm_error_clear(&err);
    }
}

static void test_a_huge_range_is_refused_before_it_is_made(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    int64_t *values;
    size_t n;
    assert_int_equal(dm_parse_ranges("0-9223372036854775807", INT64_MAX, 1000, &values, &n, &err),
                     DEMIST_CONFIG);
    assert_contains(err.text, "more than 1000");
    dm_error_clear(&err);
}

static void test_names_the_nearest_word(void **state)
{
    const char *const keys[] = {"steps", "seed", "images", "guidance_scale", "eta"};
    assert_string_equal(dm_nearest("step", keys, 5), "steps");
    assert_string_equal(dm_nearest("stpes", keys, 5), "steps");
    assert_string_equal(dm_nearest("STEPS", keys, 5), "steps");
    assert_string_equal(dm_nearest("guidence-scale", keys, 5), "guidance_scale");
    assert_string_equal(dm_nearest("beta", keys, 5), "eta");
    assert_string_equal(dm_nearest("seed", keys, 5), "seed");
}

static void test_no_word_is_named_when_none_is_near(void **state)
{
    const char *const keys[] = {"steps", "seed", "eta"};
    char longer[500];
    memset(longer, 's', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    const char *const huge[] = {longer};
    assert_null(dm_nearest("temperature", keys, 3));
    assert_null(dm_nearest("", keys, 3));
    assert_null(dm_nearest("xyz", keys, 3));
    assert_null(dm_nearest(longer, keys, 3));
    assert_null(dm_nearest("steps", huge, 1));
    assert_null(dm_nearest("steps", keys, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_grows),
        cmocka_unit_test(test_an_empty_text_is_a_string),
        cmocka_unit_test(test_a_failed_text_gives_nothing),
        cmocka_unit_test(test_trims_both_ends),
        cmocka_unit_test(test_splits_lists),
        cmocka_unit_test(test_reads_ranges),
        cmocka_unit_test(test_refuses_bad_ranges_by_name),
        cmocka_unit_test(test_a_huge_range_is_refused_before_it_is_made),
        cmocka_unit_test(test_names_the_nearest_word),
        cmocka_unit_test(test_no_word_is_named_when_none_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

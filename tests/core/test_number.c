#include "testing.h"

#include "number.h"

#include <inttypes.h>
#include <locale.h>
#include <math.h>

static void test_reads_integers_to_the_edges_of_the_type(void **state)
{
    const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0},
                {"-0", 0},
                {"+5", 5},
                {"007", 7},
                {"-42", -42},
                {"9223372036854775807", INT64_MAX},
                {"-9223372036854775808", INT64_MIN}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t value = 99;
        assert_int_equal(dm_parse_int64(good[i].text, &value), DM_PARSE_OK);
        assert_true(value == good[i].value);
    }
}

static void test_refuses_what_is_no_integer_and_tells_range_apart(void **state)
{
    const char *bad[] = {"",    "-",    "+",   "1 ",    " 1",  "1.0",
                         "1e3", "0x10", "--1", "1_000", "nan", "99999999999999999999x"};
    const char *range[] = {"9223372036854775808", "-9223372036854775809",
                           "99999999999999999999999999"};
    int64_t value = 99;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(dm_parse_int64(bad[i], &value), DM_PARSE_MALFORMED);
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        assert_int_equal(dm_parse_int64(range[i], &value), DM_PARSE_RANGE);
    assert_int_equal(value, 99);
}

static void test_reads_doubles_correctly_rounded(void **state)
{
    const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0},           {"1e-4", 0x1.a36e2eb1c432dp-14},
                {".5", 0.5},        {"5.", 5},
                {"-2.5E+3", -2500}, {"0.1", 0x1.999999999999ap-4},
                {"+1e308", 1e308},  {"4.9e-324", 0x1p-1074},
                {"0e999", 0}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double value = 99;
        assert_int_equal(dm_parse_double(good[i].text, 0, &value), DM_PARSE_OK);
        assert_true(value == good[i].value);
    }
    double zero = 1;
    assert_int_equal(dm_parse_double("-0.0", 0, &zero), DM_PARSE_OK);
    assert_true(zero == 0 && signbit(zero));
}

static void test_refuses_what_is_no_double_and_tells_range_apart(void **state)
{
    const char *bad[] = {"",      ".",   "-",   "e5",    "1e",  "1e+",      "1,5", "1.5 ",  " 1.5",
                         "0x1p3", "nan", "inf", "1.2.3", "1d0", "infinity", "--1", "1e5.0", "1f"};
    const char *range[] = {"1e309", "-1e400", "1e-400", "0.0001e-999"};
    double value = 99;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(dm_parse_double(bad[i], 0, &value), DM_PARSE_MALFORMED);
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        assert_int_equal(dm_parse_double(range[i], 0, &value), DM_PARSE_RANGE);
    assert_true(value == 99);
}

static void test_hex_and_nonfinite_only_when_asked(void **state)
{
    double value = 0;
    assert_int_equal(dm_parse_double("0x1.8p3", DM_NUMBER_HEX, &value), DM_PARSE_OK);
    assert_true(value == 12);
    assert_int_equal(dm_parse_double("-0X.8P-1", DM_NUMBER_HEX, &value), DM_PARSE_OK);
    assert_true(value == -0.25);
    assert_int_equal(dm_parse_double("0x", DM_NUMBER_HEX, &value), DM_PARSE_MALFORMED);
    assert_int_equal(dm_parse_double("0x1g", DM_NUMBER_HEX, &value), DM_PARSE_MALFORMED);
    assert_int_equal(dm_parse_double("-Inf", DM_NUMBER_NONFINITE, &value), DM_PARSE_OK);
    assert_true(isinf(value) && value < 0);
    assert_int_equal(dm_parse_double("NaN", DM_NUMBER_NONFINITE, &value), DM_PARSE_OK);
    assert_true(isnan(value));
    assert_int_equal(dm_parse_double("nan(1)", DM_NUMBER_NONFINITE, &value), DM_PARSE_MALFORMED);
}

static void test_reads_bool_words(void **state)
{
    bool value;
    assert_true(dm_parse_bool("True", &value) && value);
    assert_true(dm_parse_bool("off", &value) && !value);
    assert_true(dm_parse_bool("yes", &value) && value);
    assert_true(dm_parse_bool("0", &value) && !value);
    assert_false(dm_parse_bool("", &value));
    assert_false(dm_parse_bool("2", &value));
    assert_false(dm_parse_bool("tru", &value));
}

static void test_prints_the_shortest_text_that_reads_back(void **state)
{
    char text[DM_DOUBLE_TEXT];
    assert_string_equal(dm_format_double(0.1, text), "0.1");
    assert_string_equal(dm_format_double(1e-5, text), "1e-05");
    assert_string_equal(dm_format_double(0.02, text), "0.02");
    assert_string_equal(dm_format_double(-0.0, text), "-0");
    assert_string_equal(dm_format_double(1.0 / 3, text), "0.3333333333333333");
    assert_string_equal(dm_format_double(0.1 + 0.2, text), "0.30000000000000004");
    assert_string_equal(dm_format_double(INFINITY, text), "inf");
    assert_string_equal(dm_format_double(-INFINITY, text), "-inf");
    assert_string_equal(dm_format_double(-NAN, text), "nan");
    uint64_t bits = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        bits ^= bits << 13, bits ^= bits >> 7, bits ^= bits << 17;
        double value, back;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        assert_int_equal(dm_parse_double(dm_format_double(value, text), 0, &back), DM_PARSE_OK);
        assert_true(back == value);
    }
}

/* A locale with a decimal comma. A bare Debian brings none, so one is compiled, under `dir`. */
static bool enter_comma_locale(const char *dir)
{
    char command[256];
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/comma >/dev/null 2>&1", dir);
    if (system(command) != 0)
        return false;
    setenv("LOCPATH", dir, 1);
    bool entered = setlocale(LC_ALL, "comma") && *localeconv()->decimal_point == ',';
    unsetenv("LOCPATH");
    return entered;
}

static void test_the_locale_does_not_matter(void **state)
{
    char dir[] = "/tmp/demist-test-XXXXXX", command[64];
    assert_non_null(mkdtemp(dir));
    bool entered = enter_comma_locale(dir);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    if (!entered) {
        print_message("skipped: no locale with a decimal comma\n");
        skip();
    }
    double value = 0;
    char text[DM_DOUBLE_TEXT], printed[16];
    enum dm_parse point = dm_parse_double("1.5", 0, &value);
    enum dm_parse comma = dm_parse_double("1,5", 0, &value);
    dm_format_double(2.5, text);
    snprintf(printed, sizeof printed, "%.1f", 2.5); /* the program's own locale is left alone */
    setlocale(LC_ALL, "C");
    assert_int_equal(point, DM_PARSE_OK);
    assert_true(value == 1.5);
    assert_int_equal(comma, DM_PARSE_MALFORMED);
    assert_string_equal(text, "2.5");
    assert_string_equal(printed, "2,5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_integers_to_the_edges_of_the_type),
        cmocka_unit_test(test_refuses_what_is_no_integer_and_tells_range_apart),
        cmocka_unit_test(test_reads_doubles_correctly_rounded),
        cmocka_unit_test(test_refuses_what_is_no_double_and_tells_range_apart),
        cmocka_unit_test(test_hex_and_nonfinite_only_when_asked),
        cmocka_unit_test(test_reads_bool_words),
        cmocka_unit_test(test_prints_the_shortest_text_that_reads_back),
        cmocka_unit_test(test_the_locale_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

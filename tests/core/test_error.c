#include "testing.h"

#include "error.h"

static void test_texts_name_every_status(void **state)
{
#define CHECK(name, value, text)                                                                   \
    assert_string_equal(dm_status_name(DEMIST_##name), #name);                                     \
    assert_string_equal(dm_status_text(DEMIST_##name), text);
    DEMIST_STATUSES(CHECK)
#undef CHECK
    assert_string_equal(dm_status_name((demist_status)999), "UNKNOWN");
}

static void test_where_is_prepended(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_fail(&err, DEMIST_FORMAT, "bad %s", "header"), DEMIST_FORMAT);
    assert_int_equal(dm_fail_where(&err, "a.pt:%d", 3), DEMIST_FORMAT);
    assert_string_equal(err.text, "a.pt:3: bad header");
    dm_fail(&err, DEMIST_IO, "again: %s", err.text); /* an argument may point into err */
    assert_string_equal(err.text, "again: a.pt:3: bad header");
    dm_error_clear(&err);
    assert_int_equal(err.status, DEMIST_OK);
    dm_error_clear(&err);
    dm_error_clear(NULL);
    assert_int_equal(dm_fail(NULL, DEMIST_IO, "x"), DEMIST_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_name_every_status),
        cmocka_unit_test(test_where_is_prepended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

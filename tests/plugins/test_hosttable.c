#include "testing.h"

#include "hosttable.h"

#include <demist/random.h>

#include <locale.h>

struct seen {
    enum dm_log_level level;
    char text[256];
};

static void remember(void *user, enum dm_log_level level, const char *text)
{
    struct seen *seen = user;
    seen->level = level;
    snprintf(seen->text, sizeof seen->text, "%s", text);
}

/* (table->fail)(…) below: CMocka has a macro of that name. */

static int set_up(void **state)
{
    struct dm_host *host = malloc(sizeof *host);
    *state = host;
    return !host || dm_host_init(host, "sampler ddim", NULL, NULL, NULL) != DEMIST_OK;
}

static int tear_down(void **state)
{
    dm_host_finish(*state);
    dm_host_finish(*state); /* twice is harmless */
    free(*state);
    return 0;
}

static void test_error_text_names_the_instance(void **state)
{
    struct dm_host *host = *state;
    const demist_host *table = &host->table;
    struct dm_error err = DM_ERROR_INIT;
    demist_status status = (table->fail)(table, DEMIST_CONFIG, "T = %d is too few", 3);
    assert_int_equal(status, DEMIST_CONFIG);
    assert_int_equal(dm_host_take_error(host, "fill", status, &err), DEMIST_CONFIG);
    assert_string_equal(err.text, "sampler ddim: T = 3 is too few");
    dm_error_clear(&err);
}

static void test_first_failure_of_a_call_wins_and_the_next_call_starts_afresh(void **state)
{
    struct dm_host *host = *state;
    const demist_host *table = &host->table;
    struct dm_error err = DM_ERROR_INIT;
    (table->fail)(table, DEMIST_DEVICE, "the cause");
    (table->fail)(table, DEMIST_DEVICE, "the consequence");
    dm_host_take_error(host, "execute", DEMIST_DEVICE, &err);
    assert_string_equal(err.text, "sampler ddim: the cause");

    (table->fail)(table, DEMIST_NO_MEMORY, "no room, but there is another way");
    assert_int_equal(dm_host_take_error(host, "execute", DEMIST_OK, &err), DEMIST_OK);
    dm_host_take_error(host, "execute", DEMIST_IO, &err);
    assert_string_equal(err.text, "sampler ddim: `execute` failed without saying why (input or "
                                  "output failed)");
    dm_error_clear(&err);
}

static void test_status_that_does_not_exist_is_internal(void **state)
{
    struct dm_host *host = *state;
    struct dm_error err = DM_ERROR_INIT;
    demist_status bad = (demist_status)77;
    (host->table.fail)(&host->table, bad, "because");
    assert_int_equal(dm_host_take_error(host, "sample", bad, &err), DEMIST_INTERNAL);
    assert_string_equal(err.text,
                        "sampler ddim: `sample` returned 77, which is no status: because");
    dm_error_clear(&err);
}

static void fail_in_task(void *arg, int64_t i, int worker)
{
    const demist_host *table = arg;
    (table->fail)(table, DEMIST_NUMERIC, "task %d", (int)i);
}

static void test_tasks_of_several_threads_may_fail_at_once(void **state)
{
    struct dm_pool *pool;
    struct dm_host host;
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_pool_create(4, &pool, NULL), DEMIST_OK);
    assert_int_equal(dm_host_init(&host, "backend cpu", NULL, pool, NULL), DEMIST_OK);
    assert_int_equal(host.table.n_workers, 4);
    host.table.parallel(&host.table, 1000, fail_in_task, &host.table);
    assert_int_equal(dm_host_take_error(&host, "execute", DEMIST_NUMERIC, &err), DEMIST_NUMERIC);
    assert_contains(err.text, "backend cpu: task ");
    dm_error_clear(&err);
    dm_host_finish(&host);
    dm_pool_destroy(pool);
}

static void count(void *arg, int64_t i, int worker)
{
    assert_int_equal(worker, 0);
    ((int *)arg)[i]++;
}

static void test_parallel_without_a_pool_runs_every_task_inline(void **state)
{
    const demist_host *table = &((struct dm_host *)*state)->table;
    int counts[7] = {0};
    assert_int_equal(table->n_workers, 1);
    table->parallel(table, 7, count, counts);
    for (int i = 0; i < 7; i++)
        assert_int_equal(counts[i], 1);
    table->parallel(table, 0, count, NULL);
}

static void test_log_lines_carry_the_name(void **state)
{
    struct seen seen = {0};
    struct dm_log log = {DM_LOG_WARNING, remember, &seen};
    struct dm_host host;
    assert_int_equal(dm_host_init(&host, "schedule linear", &log, NULL, NULL), DEMIST_OK);
    host.table.log(&host.table, DEMIST_LOG_NOTICE, "T = %d", 500);
    assert_string_equal(seen.text, "schedule linear: T = 500");
    assert_int_equal(seen.level, DM_LOG_WARNING);
    host.table.log(&host.table, DEMIST_LOG_DEBUG, "unseen");
    assert_string_equal(seen.text, "schedule linear: T = 500");
    host.table.log(&host.table, DEMIST_LOG_ERROR, "broken");
    assert_int_equal(seen.level, DM_LOG_ERROR);
    dm_host_finish(&host);
}

static void test_numbers_in_texts_ignore_the_locale(void **state)
{
    struct dm_host *host = *state;
    struct dm_error err = DM_ERROR_INIT;
    const char *comma_locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "nl_NL.UTF-8"};
    locale_t comma = (locale_t)0;
    for (int i = 0; i < 3 && !comma; i++)
        comma = newlocale(LC_ALL_MASK, comma_locales[i], (locale_t)0);
    if (!comma) {
        print_message("skipped: no locale with a decimal comma is installed\n");
        skip();
    }
    locale_t callers = uselocale(comma);
    (host->table.fail)(&host->table, DEMIST_CONFIG, "eta = %.1f", 0.5);
    assert_ptr_equal(uselocale((locale_t)0), comma);
    uselocale(callers);
    freelocale(comma);
    dm_host_take_error(host, "create", DEMIST_CONFIG, &err);
    assert_string_equal(err.text, "sampler ddim: eta = 0.5");
    dm_error_clear(&err);
}

static void test_memory_is_aligned_and_refusals_have_a_text(void **state)
{
    struct dm_host *host = *state;
    const demist_host *table = &host->table;
    struct dm_error err = DM_ERROR_INIT;
    void *a = table->alloc(table, 100, 0), *b = table->alloc(table, 1, 4096);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_int_equal((uintptr_t)b % 4096, 0);
    table->free(table, a);
    table->free(table, b);
    table->free(table, NULL);
    assert_null(table->alloc(table, 100, 48));
    dm_host_take_error(host, "compile", DEMIST_INVALID, &err);
    assert_contains(err.text, "an alignment of 48 is no power of two");
    assert_null(table->alloc(table, SIZE_MAX / 2, 0));
    assert_int_equal(dm_host_take_error(host, "compile", DEMIST_NO_MEMORY, &err), DEMIST_NO_MEMORY);
    assert_contains(err.text, "out of memory");
    dm_error_clear(&err);
}

static void test_plan_packs_lives_that_do_not_overlap(void **state)
{
    struct dm_host *host = *state;
    const demist_host *table = &host->table;
    demist_block blocks[] = {{128, 0, 1, -1}, {128, 1, 2, -1}, {128, 2, 3, -1}};
    assert_int_equal(table->plan_memory(table, blocks, 3, 64), 256);
    assert_int_equal(blocks[0].offset, blocks[2].offset);
    assert_int_not_equal(blocks[0].offset, blocks[1].offset);

    struct dm_error err = DM_ERROR_INIT;
    blocks[1].bytes = -5;
    assert_int_equal(table->plan_memory(table, blocks, 3, 64), -1);
    dm_host_take_error(host, "compile", DEMIST_INVALID, &err);
    assert_contains(err.text, "plan_memory: ");
    dm_error_clear(&err);
}

static void test_philox_extension_is_the_core_generator(void **state)
{
    const demist_host *table = &((struct dm_host *)*state)->table;
    const demist_philox *philox = table->extension(table, DEMIST_EXT_PHILOX);
    assert_non_null(philox);
    float all[64], part[10];
    philox->normal(7, 3, DEMIST_NOISE_STEP, 2, 0, 64, all);
    philox->normal(7, 3, DEMIST_NOISE_STEP, 2, 21, 10, part);
    assert_memory_equal(all + 21, part, sizeof part);
    assert_null(table->extension(table, "org.example.unknown/1"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_error_text_names_the_instance),
        TEST(test_first_failure_of_a_call_wins_and_the_next_call_starts_afresh),
        TEST(test_status_that_does_not_exist_is_internal),
        TEST(test_tasks_of_several_threads_may_fail_at_once),
        TEST(test_parallel_without_a_pool_runs_every_task_inline),
        TEST(test_log_lines_carry_the_name),
        TEST(test_numbers_in_texts_ignore_the_locale),
        TEST(test_memory_is_aligned_and_refusals_have_a_text),
        TEST(test_plan_packs_lives_that_do_not_overlap),
        TEST(test_philox_extension_is_the_core_generator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "testing.h"

#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

struct heard {
    int n;
    enum dm_log_level level;
    char text[2048];
};

static void hear(void *user, enum dm_log_level level, const char *text)
{
    struct heard *heard = user;
    heard->n++;
    heard->level = level;
    snprintf(heard->text, sizeof heard->text, "%s", text);
    errno = EIO;
}

static void test_levels_beyond_the_chosen_one_are_dropped(void **state)
{
    struct heard heard = {0};
    struct dm_log log = {DM_LOG_WARNING, hear, &heard};
    dm_log(&log, DM_LOG_INFO, "unheard");
    assert_int_equal(heard.n, 0);
    assert_false(dm_log_wants(&log, DM_LOG_INFO));
    dm_log(&log, DM_LOG_WARNING, "%s %d", "step", 3);
    assert_int_equal(heard.n, 1);
    assert_int_equal(heard.level, DM_LOG_WARNING);
    assert_string_equal(heard.text, "step 3");
    log.level = DM_LOG_DEBUG;
    dm_log(&log, DM_LOG_DEBUG, "x");
    assert_int_equal(heard.n, 2);
}

static void test_no_log_is_silent(void **state)
{
    struct dm_log empty = {0};
    dm_log(NULL, DM_LOG_ERROR, "x");
    dm_log(&empty, DM_LOG_ERROR, "x");
    assert_false(dm_log_wants(NULL, DM_LOG_ERROR));
}

static void test_long_messages_arrive_whole_and_errno_is_kept(void **state)
{
    struct heard heard = {0};
    struct dm_log log = {DM_LOG_INFO, hear, &heard};
    char text[1500];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    errno = ENOENT;
    dm_log(&log, DM_LOG_INFO, "<%s>", text);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(strlen(heard.text), sizeof text - 1 + 2);
    assert_int_equal(heard.text[1500], '>');
}

enum { THREADS = 4, LINES = 200 };

static void *chatter(void *arg)
{
    struct dm_log log = {DM_LOG_INFO, dm_log_to_stderr, NULL};
    for (int i = 0; i < LINES; i++)
        dm_log(&log, DM_LOG_INFO, "thread %c says %0*d", *(const char *)arg, i % 60 + 1, 0);
    return NULL;
}

/* Runs `talk` with standard error going to a file and returns what was written. */
static char *stderr_of(void (*talk)(void))
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int saved = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    talk();
    dup2(saved, STDERR_FILENO);
    close(saved);
    long size = (fseek(file, 0, SEEK_END), ftell(file));
    rewind(file);
    char *text = calloc(1, (size_t)size + 1);
    assert_int_equal(fread(text, 1, (size_t)size, file), size);
    fclose(file);
    return text;
}

static void talk_at_once(void)
{
    pthread_t threads[THREADS];
    char names[] = "abcd";
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, chatter, &names[i]);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void test_lines_of_threads_do_not_mix(void **state)
{
    char *text = stderr_of(talk_at_once), *rest = text;
    int next[THREADS] = {0}, lines = 0;
    for (char *line; (line = strsep(&rest, "\n")) && *line; lines++) {
        char who, expected[128];
        assert_int_equal(sscanf(line, "demist: thread %c says", &who), 1);
        assert_in_range(who, 'a', 'd');
        int i = next[who - 'a']++;
        snprintf(expected, sizeof expected, "demist: thread %c says %0*d", who, i % 60 + 1, 0);
        assert_string_equal(line, expected);
    }
    assert_int_equal(lines, THREADS * LINES);
    free(text);
}

static void talk_on_every_level(void)
{
    struct dm_log log = DM_LOG_DEFAULT;
    dm_log(&log, DM_LOG_INFO, "dropped");
    log.level = DM_LOG_DEBUG;
    dm_log(&log, DM_LOG_ERROR, "a");
    dm_log(&log, DM_LOG_WARNING, "b");
    dm_log(&log, DM_LOG_INFO, "c");
    dm_log(&log, DM_LOG_DEBUG, "%0*d", 700, 7);
}

static void test_stderr_lines_name_the_program_and_the_level(void **state)
{
    char *text = stderr_of(talk_on_every_level);
    const char *start = "demist: error: a\ndemist: notice: b\ndemist: c\ndemist: debug: 000";
    assert_int_equal(strncmp(text, start, strlen(start)), 0);
    assert_int_equal(strlen(text), strlen(start) - 3 + 700 + 1);
    assert_string_equal(text + strlen(text) - 3, "07\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_beyond_the_chosen_one_are_dropped),
        cmocka_unit_test(test_no_log_is_silent),
        cmocka_unit_test(test_long_messages_arrive_whole_and_errno_is_kept),
        cmocka_unit_test(test_lines_of_threads_do_not_mix),
        cmocka_unit_test(test_stderr_lines_name_the_program_and_the_level),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

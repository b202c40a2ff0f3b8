/* The cache that the host keeps for plugins: what is stored comes back, and whatever is not that is
 * missing. */
#include "testing.h"

#include "hosttable.h"

#include <demist/cache.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct dm_host host;
static char log_text[512];
static struct dm_log log_to_text;
static char home[64]; /* each test has a directory of its own */
static const uint64_t hash[2] = {1, 2};

static void remember(void *user, enum dm_log_level level, const char *text)
{
    snprintf(log_text, sizeof log_text, "%s", text);
}

static int enter(void **state)
{
    log_to_text = (struct dm_log){DM_LOG_DEBUG, remember, NULL};
    log_text[0] = '\0';
    snprintf(home, sizeof home, "/tmp/demist-cache-XXXXXX");
    if (!mkdtemp(home) || setenv("XDG_CACHE_HOME", home, 1))
        return -1;
    return dm_host_init(&host, "backend test", &log_to_text, NULL, NULL) == DEMIST_OK ? 0 : -1;
}

static int leave(void **state)
{
    char command[128];
    dm_host_finish(&host);
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    return system(command) == 0 ? 0 : -1;
}

static demist_cache *opened(const char *option)
{
    demist_cache *cache = NULL;
    assert_int_equal(demist_cache_open(&host.table, option, "test", &cache), DEMIST_OK);
    return cache;
}

static void assert_holds(const demist_cache *cache, const char *text)
{
    size_t bytes = 0;
    char *data = demist_cache_load(cache, "word", "a driver", hash, &bytes);
    assert_non_null(data);
    assert_int_equal(bytes, strlen(text));
    assert_memory_equal(data, text, bytes);
    host.table.free(&host.table, data);
}

static void assert_lacks(const demist_cache *cache, const char *kind, const char *key,
                         uint64_t first, uint64_t second)
{
    size_t bytes = 0;
    const uint64_t other[2] = {first, second};
    assert_null(demist_cache_load(cache, kind, key, other, &bytes));
}

static void put(const demist_cache *cache, const char *text)
{
    demist_cache_store(cache, "word", "a driver", hash, text, strlen(text));
}

/* The only file of a folder; fails the test where there are more or fewer. */
static const char *file_in(const char *folder)
{
    static char path[512];
    int n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            n++;
        }
    closedir(dir);
    assert_int_equal(n, 1);
    return path;
}

/* --- keeping --- */

static void test_what_is_stored_comes_back_later(void **state)
{
    char folder[96];
    struct stat st;
    demist_cache *cache = opened("auto");
    assert_lacks(cache, "word", "a driver", 1, 2);
    put(cache, "first");
    put(cache, "the second");
    assert_holds(cache, "the second");
    demist_cache_close(cache);
    cache = opened("auto");
    assert_holds(cache, "the second");
    demist_cache_close(cache);
    snprintf(folder, sizeof folder, "%s/demist/test", home);
    assert_contains(file_in(folder), "/word-");
    assert_int_equal(stat(folder, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
}

static void test_kind_key_and_hash_all_count(void **state)
{
    demist_cache *cache = opened(home);
    put(cache, "mine");
    assert_lacks(cache, "other", "a driver", 1, 2);
    assert_lacks(cache, "word", "another driver", 1, 2);
    assert_lacks(cache, "word", "a driver", 1, 3);
    assert_lacks(cache, "word", "a driver", 2, 1); /* has the same file name */
    assert_holds(cache, "mine");
    demist_cache_close(cache);
}

static void test_large_and_empty_data_are_kept_as_they_are(void **state)
{
    enum { N = 300000 };
    size_t bytes = 0;
    unsigned char *data = malloc(N);
    demist_cache *cache = opened(home);
    assert_non_null(data);
    for (int i = 0; i < N; i++)
        data[i] = (unsigned char)(i * 7 >> 3);
    demist_cache_store(cache, "large", "k", hash, data, N);
    demist_cache_store(cache, "none", "k", hash, data, 0);
    unsigned char *got = demist_cache_load(cache, "large", "k", hash, &bytes);
    assert_non_null(got);
    assert_int_equal(bytes, N);
    assert_memory_equal(got, data, N);
    host.table.free(&host.table, got);
    got = demist_cache_load(cache, "none", "k", hash, &bytes);
    assert_non_null(got);
    assert_int_equal(bytes, 0);
    host.table.free(&host.table, got);
    demist_cache_close(cache);
    free(data);
}

/* --- files that are not what they should be --- */

static void flip(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, at, SEEK_SET);
    const int c = fgetc(file);
    fseek(file, at, SEEK_SET);
    fputc(c ^ 1, file);
    fclose(file);
}

static void test_a_file_with_any_byte_changed_is_missing(void **state)
{
    demist_cache *cache = opened(home);
    put(cache, "word");
    const char *path = file_in(home);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (long i = 0; i < st.st_size; i++) {
        flip(path, i);
        assert_lacks(cache, "word", "a driver", 1, 2);
        assert_contains(log_text, "is not used: it is damaged, or of another device or driver");
        flip(path, i);
    }
    assert_holds(cache, "word");
    flip(path, st.st_size - 1);
    put(cache, "again");
    assert_holds(cache, "again");
    demist_cache_close(cache);
}

static void test_a_file_cut_short_or_too_long_is_missing(void **state)
{
    demist_cache *cache = opened(home);
    put(cache, "word");
    const char *path = file_in(home);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size + 1), 0);
    assert_lacks(cache, "word", "a driver", 1, 2);
    for (off_t size = st.st_size - 1; size >= 0; size--) {
        assert_int_equal(truncate(path, size), 0);
        assert_lacks(cache, "word", "a driver", 1, 2);
    }
    put(cache, "again");
    assert_holds(cache, "again");
    demist_cache_close(cache);
}

/* --- folders --- */

static void test_off_keeps_nothing(void **state)
{
    size_t bytes;
    assert_null(opened("off"));
    put(NULL, "word");
    assert_null(demist_cache_load(NULL, "word", "a driver", hash, &bytes));
    demist_cache_close(NULL);
}

static void test_auto_follows_the_environment(void **state)
{
    char folder[96], callers[4096];
    const char *callers_home = getenv("HOME");
    snprintf(callers, sizeof callers, "%s", callers_home ? callers_home : "");
    setenv("HOME", home, 1);
    setenv("XDG_CACHE_HOME", "relative", 1); /* is as none */
    demist_cache *cache = opened("auto");
    put(cache, "word");
    demist_cache_close(cache);
    snprintf(folder, sizeof folder, "%s/.cache/demist/test", home);
    assert_contains(file_in(folder), "/word-");

    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    assert_null(opened("auto"));
    assert_contains(log_text, "nothing is cached: neither XDG_CACHE_HOME nor HOME");
    setenv("HOME", callers, 1);
}

static void assert_refused(const char *option, const char *name, demist_status status,
                           const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    demist_cache *cache = NULL;
    assert_int_equal(demist_cache_open(&host.table, option, name, &cache), status);
    assert_null(cache);
    dm_host_take_error(&host, "create", status, &err);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
}

static void test_refuses_relative_folders_and_names_that_are_paths(void **state)
{
    assert_refused("here", "test", DEMIST_CONFIG,
                   "cache = here: give auto, off, or a folder whose");
    assert_refused("", "test", DEMIST_CONFIG, "give auto, off, or a folder");
    assert_refused("auto", "../test", DEMIST_INVALID, "\"../test\" is no word");
    assert_refused("auto", "", DEMIST_INVALID, "is no word");
}

static void test_a_kind_that_is_a_path_keeps_nothing_and_says_so(void **state)
{
    demist_cache *cache = opened(home);
    put(cache, "word");
    demist_cache_store(cache, "../word", "a driver", hash, "x", 1);
    assert_contains(log_text, "a kind is a word of a-z, 0-9 and -");
    log_text[0] = '\0';
    assert_lacks(cache, "../word", "a driver", 1, 2);
    assert_contains(log_text, "the kind \"../word\"");
    file_in(home);
    demist_cache_close(cache);
}

static void test_a_folder_that_cannot_be_written_keeps_nothing(void **state)
{
    char below[96];
    demist_cache *cache = opened("/proc/no/folder");
    put(cache, "word");
    assert_contains(log_text, "the cache keeps nothing: cannot make the directory");
    assert_lacks(cache, "word", "a driver", 1, 2);
    demist_cache_close(cache);

    snprintf(below, sizeof below, "%s/file", home);
    fclose(fopen(below, "w"));
    cache = opened(below); /* a file of that name */
    put(cache, "word");
    assert_contains(log_text, "Not a directory");
    assert_lacks(cache, "word", "a driver", 1, 2);
    demist_cache_close(cache);

    struct dm_error err = DM_ERROR_INIT; /* none of it was a failure */
    assert_int_equal(dm_host_take_error(&host, "compile", DEMIST_DEVICE, &err), DEMIST_DEVICE);
    assert_contains(err.text, "without saying why");
    dm_error_clear(&err);
}

static void test_a_full_disk_keeps_what_was_there(void **state)
{
    struct rlimit before, small;
    char *big = calloc(1, 300000);
    demist_cache *cache = opened(home);
    put(cache, "word");
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 100000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    demist_cache_store(cache, "word", "a driver", hash, big, 300000);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    assert_contains(log_text, "the cache keeps nothing: cannot write");
    file_in(home);
    assert_holds(cache, "word");
    demist_cache_close(cache);
    free(big);
}

/* --- several at once --- */

enum { MANY = 20000, TURNS = 60 };

/* Stores pages of one letter; whatever comes back must be one of them, whole. */
static void *write_and_read(void *arg)
{
    const char *letter = arg;
    demist_cache *cache = NULL;
    char *page = malloc(MANY);
    if (!page || demist_cache_open(&host.table, home, "test", &cache) != DEMIST_OK || !cache) {
        free(page);
        return arg;
    }
    bool whole = true;
    memset(page, *letter, MANY);
    for (int i = 0; i < TURNS; i++) {
        size_t bytes = 0;
        demist_cache_store(cache, "page", "k", hash, page, MANY);
        char *got = demist_cache_load(cache, "page", "k", hash, &bytes);
        whole = whole && got && bytes == MANY;
        for (int k = 1; whole && k < MANY; k++)
            whole = got[k] == got[0];
        host.table.free(&host.table, got);
    }
    demist_cache_close(cache);
    free(page);
    return whole ? NULL : arg;
}

static void test_threads_and_processes_may_store_at_once(void **state)
{
    pthread_t threads[2];
    char letters[] = "abc";
    int status = -1;
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(write_and_read(&letters[2]) ? 1 : 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_and_read, &letters[i]), 0);
    for (int i = 0; i < 2; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    file_in(home); /* nothing temporary is left */
}

/* --- the hash --- */

static void test_the_hash_never_changes(void **state)
{
    const uint64_t whole = demist_hash(0, "demist", 6);
    assert_true(whole != demist_hash(1, "demist", 6));
    assert_true(whole != demist_hash(0, "demisT", 6));
    assert_true(demist_hash(0, "", 0) == UINT64_C(0x4f43b61ebe0f3fa7));
    assert_true(whole == UINT64_C(0xb972d09b8ff30c15));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, enter, leave)
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_stored_comes_back_later),
        TEST(test_kind_key_and_hash_all_count),
        TEST(test_large_and_empty_data_are_kept_as_they_are),
        TEST(test_a_file_with_any_byte_changed_is_missing),
        TEST(test_a_file_cut_short_or_too_long_is_missing),
        TEST(test_off_keeps_nothing),
        TEST(test_auto_follows_the_environment),
        TEST(test_refuses_relative_folders_and_names_that_are_paths),
        TEST(test_a_kind_that_is_a_path_keeps_nothing_and_says_so),
        TEST(test_a_folder_that_cannot_be_written_keeps_nothing),
        TEST(test_a_full_disk_keeps_what_was_there),
        TEST(test_threads_and_processes_may_store_at_once),
        TEST(test_the_hash_never_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

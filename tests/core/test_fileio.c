#include "testing.h"

#include "fileio.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char home[64]; /* each test works in a directory of its own */

static int enter(void **state)
{
    snprintf(home, sizeof home, "/tmp/demist-test-XXXXXX");
    return mkdtemp(home) && chdir(home) == 0 ? 0 : -1;
}

static int leave(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static void assert_file(const char *path, const char *text)
{
    char *data;
    size_t size;
    assert_int_equal(dm_read_file(path, 1000, &data, &size, NULL), DEMIST_OK);
    assert_string_equal(data, text);
    free(data);
}

static int files_here(void)
{
    int n = 0;
    DIR *dir = opendir(".");
    for (struct dirent *entry; (entry = readdir(dir));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

/* Writes `text` under `path`; with `fresh` under the next free name, which is returned. */
static const char *put(const char *path, const char *text, bool fresh)
{
    static char taken[256];
    struct dm_outfile out;
    assert_int_equal(dm_outfile_open(&out, path, NULL), DEMIST_OK);
    assert_int_equal(dm_outfile_write(&out, text, strlen(text), NULL), DEMIST_OK);
    assert_int_equal(fresh ? dm_outfile_commit_new(&out, NULL) : dm_outfile_commit(&out, NULL),
                     DEMIST_OK);
    snprintf(taken, sizeof taken, "%s", out.path);
    dm_outfile_finish(&out);
    return taken;
}

static void test_reads_up_to_the_limit_and_not_beyond(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    char *data;
    size_t size;
    put("f", "12345", false);
    assert_int_equal(dm_read_file("f", 5, &data, &size, &err), DEMIST_OK);
    assert_int_equal(size, 5);
    assert_string_equal(data, "12345");
    free(data);
    assert_int_equal(dm_read_file("f", 4, &data, &size, &err), DEMIST_FORMAT);
    assert_contains(err.text, "\"f\" is larger than the 4 bytes");
    assert_int_equal(dm_read_file("/dev/zero", 100000, &data, &size, &err), DEMIST_FORMAT);
    assert_int_equal(dm_read_file("/dev/null", 0, &data, &size, &err), DEMIST_OK);
    assert_int_equal(size, 0);
    assert_string_equal(data, "");
    free(data);
    assert_int_equal(dm_read_file("none", 9, &data, &size, &err), DEMIST_NOT_FOUND);
    assert_contains(err.text, "\"none\": No such file");
    assert_int_equal(dm_read_file(".", 9, &data, &size, &err), DEMIST_IO);
    assert_contains(err.text, "directory");
    dm_error_clear(&err);
}

static void test_a_file_appears_only_when_committed(void **state)
{
    put("x.npz", "old", false);
    struct dm_outfile out;
    assert_int_equal(dm_outfile_open(&out, "x.npz", NULL), DEMIST_OK);
    for (int i = 0; i < 100000; i++) /* beyond the buffer */
        assert_int_equal(dm_outfile_write(&out, "new ", 4, NULL), DEMIST_OK);
    assert_file("x.npz", "old");
    assert_int_equal(dm_outfile_commit(&out, NULL), DEMIST_OK);
    dm_outfile_finish(&out);
    struct stat st;
    assert_int_equal(stat("x.npz", &st), 0);
    assert_int_equal(st.st_size, 400000);
    assert_int_equal(files_here(), 1);
}

static void test_an_abandoned_file_leaves_nothing(void **state)
{
    struct dm_outfile out;
    assert_int_equal(dm_outfile_open(&out, "x", NULL), DEMIST_OK);
    assert_int_equal(dm_outfile_write(&out, "abc", 3, NULL), DEMIST_OK);
    assert_int_equal(files_here(), 1);
    dm_outfile_finish(&out);
    assert_int_equal(files_here(), 0);
    dm_outfile_finish(&out);
}

static void test_permissions_follow_the_umask(void **state)
{
    mode_t before = umask(027);
    put("x", "abc", false);
    umask(before);
    struct stat st;
    assert_int_equal(stat("x", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
}

static void test_a_link_stands_for_what_it_points_to(void **state)
{
    assert_int_equal(mkdir("d", 0700), 0);
    put("d/real", "old", false);
    assert_int_equal(symlink("d/real", "link"), 0);
    put("link", "new", false);
    struct stat st;
    assert_int_equal(lstat("link", &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_file("d/real", "new");
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    put("dangling", "x", false);
    assert_file("dangling", "x");
}

static void test_a_device_is_written_in_place(void **state)
{
    put("/dev/null", "gone", false);
    put("/dev/null", "gone", true);
    struct stat st;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
}

/* Agrees to losing the file whose name it was given, having seen the new one. */
static bool only(void *user, const char *path, const char *temp)
{
    assert_file(temp, "new");
    return strcmp(path, user) == 0;
}

static void test_takes_the_first_name_that_is_free_or_given_up(void **state)
{
    put("a.txt", "mine", false);
    put("a-2.txt", "old", false);
    put("a-3.txt", "mine too", false);
    for (int i = 0; i < 2; i++) {
        struct dm_outfile out;
        char given_up[] = "a-2.txt";
        given_up[0] = i ? 'x' : 'a';
        assert_int_equal(dm_outfile_open(&out, "a.txt", NULL), DEMIST_OK);
        assert_int_equal(dm_outfile_write(&out, "new", 3, NULL), DEMIST_OK);
        assert_int_equal(dm_outfile_commit_among(&out, only, given_up, NULL), DEMIST_OK);
        assert_string_equal(out.path, i ? "a-4.txt" : "a-2.txt");
        assert_file(out.path, "new");
        dm_outfile_finish(&out);
    }
    assert_file("a.txt", "mine");
    assert_file("a-3.txt", "mine too");
    assert_int_equal(files_here(), 4);
}

static void test_a_full_disk_is_told_with_path_and_reason(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_outfile out;
    assert_int_equal(dm_outfile_open(&out, "/dev/full", &err), DEMIST_OK);
    assert_int_equal(dm_outfile_write(&out, "abc", 3, &err), DEMIST_OK); /* buffered */
    assert_int_equal(dm_outfile_commit(&out, &err), DEMIST_IO);
    assert_contains(err.text, "\"/dev/full\": No space left on device");
    dm_outfile_finish(&out);
    dm_error_clear(&err);
}

static void test_a_file_that_outgrows_its_limit_leaves_nothing(void **state)
{
    struct rlimit before, small;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_outfile out;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 100000;
    signal(SIGXFSZ, SIG_IGN);
    char *big = calloc(1, 300000);
    put("x", "old", false);
    setrlimit(RLIMIT_FSIZE, &small);
    demist_status opened = dm_outfile_open(&out, "x", &err);
    demist_status written = dm_outfile_write(&out, big, 300000, &err);
    demist_status again = dm_outfile_write(&out, "y", 1, NULL);
    demist_status committed = dm_outfile_commit(&out, NULL);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    free(big);
    assert_int_equal(opened, DEMIST_OK);
    assert_int_equal(written, DEMIST_IO);
    assert_contains(err.text, "\"x\": File too large");
    assert_int_equal(again, DEMIST_IO);
    assert_int_equal(committed, DEMIST_IO);
    dm_outfile_finish(&out);
    assert_int_equal(files_here(), 1);
    assert_file("x", "old");
    dm_error_clear(&err);
}

static void test_refuses_places_where_no_file_can_be(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_outfile out;
    const struct {
        const char *path, *says;
    } bad[] = {{"", "No such file"},
               {".", "Is a directory"},
               {"new/", "Is a directory"},
               {"none/x", "\"none/x\": No such file"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(dm_outfile_open(&out, bad[i].path, &err), DEMIST_IO);
        assert_contains(err.text, bad[i].says);
        dm_outfile_finish(&out);
    }
    assert_int_equal(files_here(), 0);
    dm_error_clear(&err);
}

static void test_a_taken_name_gives_the_next_free_one(void **state)
{
    assert_string_equal(put("grid.png", "1", true), "grid.png");
    assert_string_equal(put("grid.png", "2", true), "grid-2.png");
    assert_string_equal(put("grid.png", "3", true), "grid-3.png");
    assert_file("grid.png", "1");
    assert_file("grid-2.png", "2");
    assert_file("grid-3.png", "3");
    assert_int_equal(files_here(), 3);
}

static void *put_fresh(void *arg)
{
    for (int i = 0; i < 25; i++) {
        struct dm_outfile out;
        if (dm_outfile_open(&out, "g.png", NULL) || dm_outfile_write(&out, arg, 1, NULL) ||
            dm_outfile_commit_new(&out, NULL))
            return arg;
        dm_outfile_finish(&out);
    }
    return NULL;
}

static void test_two_at_once_never_take_the_same_name(void **state)
{
    pthread_t threads[4];
    char names[] = "abcd";
    int count[4] = {0};
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, put_fresh, &names[i]);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(files_here(), 100);
    for (int i = 1; i <= 100; i++) {
        char *path = dm_numbered_path("g.png", i), *data;
        size_t size;
        assert_int_equal(dm_read_file(path, 1, &data, &size, NULL), DEMIST_OK);
        count[data[0] - 'a']++;
        free(data);
        free(path);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(count[i], 25);
}

static void assert_text(char *text, const char *expected)
{
    assert_string_equal(text, expected);
    free(text);
}

static void test_paths_are_taken_apart_and_joined(void **state)
{
    assert_text(dm_numbered_path("a.b/grid", 2), "a.b/grid-2");
    assert_text(dm_numbered_path("a/x.tar.gz", 12), "a/x.tar-12.gz");
    assert_text(dm_numbered_path(".x", 2), ".x-2");
    assert_text(dm_numbered_path("a.png", 1), "a.png");
    assert_text(dm_path_dir("run.ini"), "");
    assert_text(dm_path_dir("a/b/run.ini"), "a/b/");
    assert_text(dm_path_dir("/run.ini"), "/");
    assert_text(dm_path_resolve("a/", "x.pt"), "a/x.pt");
    assert_text(dm_path_resolve("", "x.pt"), "x.pt");
    assert_text(dm_path_resolve("a/", "/x.pt"), "/x.pt");
}

static void test_makes_directories_all_the_way(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    struct stat st;
    assert_int_equal(dm_make_dirs("a/b//c/", 0777, &err), DEMIST_OK);
    assert_int_equal(dm_make_dirs("a/b/c", 0777, &err), DEMIST_OK);
    assert_true(stat("a/b/c", &st) == 0 && S_ISDIR(st.st_mode));
    assert_int_equal(dm_make_dirs("/", 0777, &err), DEMIST_OK);
    assert_int_equal(dm_make_dirs("", 0777, &err), DEMIST_IO);
    put("file", "x", false);
    assert_int_equal(dm_make_dirs("file/d", 0777, &err), DEMIST_IO);
    assert_contains(err.text, "\"file\": Not a directory");
    dm_error_clear(&err);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reads_up_to_the_limit_and_not_beyond),
        TEST(test_a_file_appears_only_when_committed),
        TEST(test_an_abandoned_file_leaves_nothing),
        TEST(test_permissions_follow_the_umask),
        TEST(test_a_link_stands_for_what_it_points_to),
        TEST(test_a_device_is_written_in_place),
        TEST(test_takes_the_first_name_that_is_free_or_given_up),
        TEST(test_a_full_disk_is_told_with_path_and_reason),
        TEST(test_a_file_that_outgrows_its_limit_leaves_nothing),
        TEST(test_refuses_places_where_no_file_can_be),
        TEST(test_a_taken_name_gives_the_next_free_one),
        TEST(test_two_at_once_never_take_the_same_name),
        TEST(test_paths_are_taken_apart_and_joined),
        TEST(test_makes_directories_all_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

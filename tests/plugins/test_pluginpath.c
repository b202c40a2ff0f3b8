#include "pluginfixture.h"

#include "pluginpath.h"

static void test_relative_directories_are_refused(void **state)
{
    struct dm_plugin_path path = {0};
    struct dm_error err = DM_ERROR_INIT;
    const char *relative[] = {"plugins", "./plugins", "../x", ".", ""};
    for (size_t i = 0; i < sizeof relative / sizeof *relative; i++) {
        assert_int_equal(dm_plugin_path_add(&path, relative[i], "--plugin-path", &err),
                         DEMIST_CONFIG);
        assert_contains(err.text, "--plugin-path: \"");
        assert_contains(err.text, "relative plugin directory");
    }
    assert_int_equal(dm_plugin_path_add_list(&path, "/a:b", "DEMIST_PLUGIN_PATH", &err),
                     DEMIST_CONFIG);
    assert_contains(err.text, "DEMIST_PLUGIN_PATH: \"b\" is a relative");
    dm_error_clear(&err);
    dm_plugin_path_finish(&path);
}

static void test_empty_entries_never_mean_the_working_directory(void **state)
{
    struct dm_plugin_path path = {0};
    assert_int_equal(dm_plugin_path_add_list(&path, "::/a::/b:/a:", "x", NULL), DEMIST_OK);
    assert_int_equal(path.n_dirs, 2); /* /a keeps its first place */
    assert_string_equal(path.dirs[0].path, "/a");
    assert_string_equal(path.dirs[1].path, "/b");
    dm_plugin_path_finish(&path);
    assert_int_equal(path.n_dirs, 0);
}

static void test_order_is_user_then_environment_then_installation(void **state)
{
    make_dir(state, "demist");
    write_text(state, "demist/demist.ini", "; mine\n[plugins]\npath = /u1:/u2\n");
    setenv("XDG_CONFIG_HOME", ((struct fixture *)*state)->dir, 1);
    setenv("DEMIST_PLUGIN_PATH", "/e1:/u2", 1);
    struct dm_plugin_path path = {0};
    assert_int_equal(dm_plugin_path_add(&path, "/c", "--plugin-path", NULL), DEMIST_OK);
    assert_int_equal(dm_plugin_path_add_defaults(&path, NULL), DEMIST_OK);
    const char *dirs[] = {"/c", "/u1", "/u2", "/e1", DM_PLUGIN_DIR};
    assert_int_equal(path.n_dirs, 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(path.dirs[i].path, dirs[i]);
    assert_contains(path.dirs[1].origin, "demist/demist.ini:3");
    assert_string_equal(path.dirs[3].origin, "DEMIST_PLUGIN_PATH");
    dm_plugin_path_finish(&path);
}

static void test_home_is_used_where_xdg_says_nothing(void **state)
{
    make_dir(state, ".config");
    make_dir(state, ".config/demist");
    write_text(state, ".config/demist/demist.ini", "[plugins]\npath = /h\n");
    setenv("XDG_CONFIG_HOME", "relative/is/ignored", 1);
    setenv("HOME", ((struct fixture *)*state)->dir, 1);
    unsetenv("DEMIST_PLUGIN_PATH");
    struct dm_plugin_path path = {0};
    assert_int_equal(dm_plugin_path_add_defaults(&path, NULL), DEMIST_OK);
    assert_int_equal(path.n_dirs, 2);
    assert_string_equal(path.dirs[0].path, "/h");
    dm_plugin_path_finish(&path);
}

static void test_mistakes_in_the_users_file_point_to_their_line(void **state)
{
    const struct {
        const char *text, *error;
    } cases[] = {
        {"[plugins]\npaths = /x\n", "demist.ini:2: [plugins]: unknown key \"paths\"; did you mean "
                                    "\"path\"?"},
        {"[plugin]\npath = /x\n", "demist.ini:1: unknown section [plugin]; did you mean "
                                  "[plugins]?"},
        {"[plugins]\npath = x\n", "demist.ini:2: \"x\" is a relative plugin directory"},
    };
    make_dir(state, "demist");
    setenv("XDG_CONFIG_HOME", ((struct fixture *)*state)->dir, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dm_plugin_path path = {0};
        struct dm_error err = DM_ERROR_INIT;
        write_text(state, "demist/demist.ini", cases[i].text);
        assert_int_equal(dm_plugin_path_add_defaults(&path, &err), DEMIST_CONFIG);
        assert_contains(err.text, cases[i].error);
        dm_error_clear(&err);
        dm_plugin_path_finish(&path);
    }
    struct dm_plugin_path path = {0};
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(chmod(path_in(state, "demist/demist.ini"), 0666), 0);
    assert_int_equal(dm_plugin_path_add_defaults(&path, &err), DEMIST_CONFIG);
    assert_contains(err.text, "can be written by others (mode 0666)");
    dm_error_clear(&err);
    dm_plugin_path_finish(&path);
}

static void test_directories_that_others_may_write_are_not_trusted(void **state)
{
    const mode_t modes[] = {0777, 0775, 0757, 01777};
    const char *dir = make_dir(state, "open");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        struct dm_error err = DM_ERROR_INIT;
        int fd;
        assert_int_equal(chmod(dir, modes[i]), 0);
        assert_int_equal(dm_open_plugin_dir(dir, &fd, &err), DEMIST_CONFIG);
        assert_true(fd >= 0);
        close(fd);
        assert_contains(err.text, "open: this plugin directory can be written by others");
        assert_contains(err.text, "chmod go-w ");
        dm_error_clear(&err);
    }
    int fd;
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(dm_open_plugin_dir(dir, &fd, NULL), DEMIST_OK);
    close(fd);
    assert_int_equal(dm_open_plugin_dir(path_in(state, "absent"), &fd, NULL), DEMIST_NOT_FOUND);
    assert_int_equal(fd, -1);
}

static void test_directories_of_other_users_are_not_trusted(void **state)
{
    const char *dir = make_dir(state, "theirs");
    if (chown(dir, 12345, 12345) != 0) {
        print_message("skipped: only root can give a directory away\n");
        skip();
    }
    struct dm_error err = DM_ERROR_INIT;
    int fd;
    assert_int_equal(dm_open_plugin_dir(dir, &fd, &err), DEMIST_CONFIG);
    close(fd);
    assert_contains(err.text, "belongs to user 12345");
    dm_error_clear(&err);
}

static void test_files_are_checked_behind_links(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    const char *dir = make_dir(state, "d");
    write_text(state, "d/real.so", "x");
    assert_int_equal(symlink("real.so", path_in(state, "d/link.so")), 0);
    assert_int_equal(symlink("nothing.so", path_in(state, "d/dangling.so")), 0);
    int dir_fd, fd;
    assert_int_equal(dm_open_plugin_dir(dir, &dir_fd, NULL), DEMIST_OK);
    assert_int_equal(dm_open_plugin_file(dir_fd, dir, "link.so", &fd, &err), DEMIST_OK);
    close(fd);

    assert_int_equal(chmod(path_in(state, "d/real.so"), 0664), 0);
    assert_int_equal(dm_open_plugin_file(dir_fd, dir, "link.so", &fd, &err), DEMIST_CONFIG);
    assert_int_equal(fd, -1);
    assert_contains(err.text, "d/link.so: this plugin can be written by others (mode 0664)");
    assert_int_equal(dm_open_plugin_file(dir_fd, dir, "dangling.so", &fd, &err), DEMIST_IO);
    assert_contains(err.text, "d/dangling.so is a link to nothing");
    assert_int_equal(dm_open_plugin_file(dir_fd, dir, "absent.so", &fd, &err), DEMIST_NOT_FOUND);

    make_dir(state, "d/folder.so");
    assert_int_equal(dm_open_plugin_file(dir_fd, dir, "folder.so", &fd, &err), DEMIST_FORMAT);
    assert_contains(err.text, "d/folder.so is not a regular file");
    assert_int_equal(mkfifo(path_in(state, "d/fifo.so"), 0600), 0);
    assert_int_equal(dm_open_plugin_file(dir_fd, dir, "fifo.so", &fd, &err), DEMIST_FORMAT);
    dm_error_clear(&err);
    close(dir_fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_relative_directories_are_refused),
        TEST(test_empty_entries_never_mean_the_working_directory),
        TEST(test_order_is_user_then_environment_then_installation),
        TEST(test_home_is_used_where_xdg_says_nothing),
        TEST(test_mistakes_in_the_users_file_point_to_their_line),
        TEST(test_directories_that_others_may_write_are_not_trusted),
        TEST(test_directories_of_other_users_are_not_trusted),
        TEST(test_files_are_checked_behind_links),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

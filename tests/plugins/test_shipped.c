/* Every plugin that ships passes the checks that any other plugin has to pass. */
#include "pluginfixture.h"

#include "registry.h"

#include <dirent.h>

static void copy_file(const char *from, const char *to)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_non_null(in);
    assert_non_null(out);
    char bytes[65536];
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        assert_int_equal(fwrite(bytes, 1, n, out), n);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* Copied, as the build's own directory may be open to its group. */
static int copy_shipped(void **state)
{
    DIR *dir = opendir(SHIPPED_DIR);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        char from[1024];
        if (!dot || strcmp(dot, ".so") != 0)
            continue;
        snprintf(from, sizeof from, "%s/%s", SHIPPED_DIR, entry->d_name);
        copy_file(from, path_in(state, entry->d_name));
        n++;
    }
    closedir(dir);
    return n;
}

static void test_shipped_plugins_are_found_and_whole(void **state)
{
    struct dm_plugin_path path = {0};
    struct dm_registry *registry;
    const struct dm_listing *listing;
    int n = copy_shipped(state);
    dm_plugin_path_add(&path, ((struct fixture *)*state)->dir, "test", NULL);
    assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_list(registry, &listing, NULL), DEMIST_OK);
    for (size_t i = 0; i < listing->n_classes; i++)
        if (!listing->classes[i].class)
            fail_msg("%s", listing->classes[i].broken);
    assert_int_equal(listing->n_classes, n);
    assert_true(n >= 8);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_shipped_plugins_are_found_and_whole, fixture_set_up,
                                        fixture_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "pluginfixture.h"

#include "listing.h"

#include <cJSON.h>

/* Two directories with a good plugin, a shadowed one, a broken one and a nameless one. */
static const struct dm_listing *list_all(void **state, struct dm_plugin_path *path,
                                         struct dm_registry **registry)
{
    const struct dm_listing *listing;
    *path = (struct dm_plugin_path){0};
    dm_plugin_path_add(path, make_dir(state, "a"), "--plugin-path", NULL);
    dm_plugin_path_add(path, make_dir(state, "b"), "DEMIST_PLUGIN_PATH", NULL);
    dm_plugin_path_add(path, "/nonexistent", "the installation", NULL);
    copy_specimen(state, "good", "a/sampler-specimen.so");
    copy_specimen(state, "twins", "a/extras.so");
    assert_int_equal(symlink("extras.so", path_in(state, "a/sampler-twin.so")), 0);
    copy_specimen(state, "short", "b/schedule-short.so");
    copy_specimen(state, "good", "b/sampler-specimen.so");
    copy_specimen(state, "newer-minor", "b/sampler-new.so");
    write_text(state, "b/libother.so", "x");
    write_text(state, "b/README", "not looked at");
    assert_int_equal(dm_registry_create(path, NULL, registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_list(*registry, &listing, NULL), DEMIST_OK);
    return listing;
}

static void test_lists_good_shadowed_and_broken_plugins(void **state)
{
    struct dm_plugin_path path;
    struct dm_registry *registry;
    const struct dm_listing *listing = list_all(state, &path, &registry);
    assert_int_equal(listing->n_classes, 6);
    const struct dm_listed_class *c = listing->classes;
    assert_string_equal(c[0].name, "short");
    assert_non_null(c[0].class);
    assert_string_equal(c[1].name, "new");
    assert_contains(c[1].broken, "b/sampler-new.so");
    assert_string_equal(c[2].name, "specimen");
    assert_non_null(c[2].class);
    assert_string_equal(c[3].name, "specimen");
    assert_string_equal(c[3].shadowed_by, path_in(state, "a/sampler-specimen.so"));
    assert_string_equal(c[4].name, "twin");
    assert_non_null(c[4].class);
    assert_null(c[5].name);
    assert_contains(c[5].broken, "b/libother.so: its name says nothing");
    assert_contains(listing->dirs[2].problem, "no such directory");
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_text_tells_all_of_it(void **state)
{
    struct dm_plugin_path path;
    struct dm_registry *registry;
    struct dm_text text = DM_TEXT_INIT;
    dm_listing_print_text(&text, list_all(state, &path, &registry));
    assert_contains(text.data, "schedules\n  short            Every beta is 1/4\n\nsamplers\n");
    assert_contains(text.data, "  specimen         Multiplies\n");
    assert_contains(text.data, "\nshadowed\n");
    assert_contains(text.data, "a/sampler-specimen.so comes first\n");
    assert_contains(text.data, "\nbroken\n");
    assert_contains(text.data, "needs plugin ABI 1.7");
    assert_contains(text.data,
                    "  /nonexistent (the installation): /nonexistent: no such directory");
    dm_text_finish(&text);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static const cJSON *member(const cJSON *object, const char *key)
{
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!found)
        fail_msg("no member \"%s\"", key);
    return found;
}

static const char *text_member(const cJSON *object, const char *key)
{
    return member(object, key)->valuestring;
}

static void test_json_has_all_metadata(void **state)
{
    struct dm_plugin_path path;
    struct dm_registry *registry;
    struct dm_text text = DM_TEXT_INIT;
    assert_int_equal(dm_listing_print_json(&text, list_all(state, &path, &registry), NULL),
                     DEMIST_OK);
    cJSON *root = cJSON_Parse(text.data);
    assert_non_null(root);
    assert_string_equal(text_member(root, "abi"), "1.1");
    assert_int_equal(cJSON_GetArraySize(member(root, "path")), 3);
    assert_int_equal(cJSON_GetArraySize(member(root, "plugins")), 3);
    assert_int_equal(cJSON_GetArraySize(member(root, "shadowed")), 1);
    assert_int_equal(cJSON_GetArraySize(member(root, "broken")), 2);
    const cJSON *plugin = cJSON_GetArrayItem(member(root, "plugins"), 1);
    assert_string_equal(text_member(plugin, "kind"), "sampler");
    assert_string_equal(text_member(plugin, "name"), "specimen");
    assert_string_equal(text_member(plugin, "doc"), "Multiplies");
    assert_string_equal(text_member(plugin, "file"), path_in(state, "a/sampler-specimen.so"));
    assert_string_equal(text_member(plugin, "id"), "org.example.specimen");
    assert_string_equal(text_member(plugin, "version"), "2.5");
    assert_string_equal(text_member(plugin, "license"), "MIT");
    assert_string_equal(text_member(plugin, "url"), "https://example.org/specimen");
    assert_string_equal(text_member(plugin, "abi"), "1.1");
    assert_string_equal(text_member(plugin, "abi_needed"), "1.0");
    assert_int_equal(cJSON_GetArraySize(member(plugin, "shadows")), 1);
    const cJSON *eta = cJSON_GetArrayItem(member(plugin, "options"), 0);
    assert_string_equal(text_member(eta, "key"), "eta");
    assert_string_equal(text_member(eta, "type"), "float");
    assert_string_equal(text_member(eta, "default"), "0.5");
    assert_true(member(eta, "min")->valuedouble == 0 && member(eta, "max")->valuedouble == 1);
    assert_true(cJSON_IsFalse(member(eta, "required")));
    const cJSON *mode = cJSON_GetArrayItem(member(plugin, "options"), 1);
    assert_string_equal(text_member(mode, "type"), "enum");
    assert_true(cJSON_IsTrue(member(mode, "auto")));
    assert_int_equal(cJSON_GetArraySize(member(mode, "choices")), 2);
    const cJSON *broken = cJSON_GetArrayItem(member(root, "broken"), 0);
    assert_contains(text_member(broken, "reason"), "needs plugin ABI 1.7");
    cJSON_Delete(root);
    dm_text_finish(&text);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_one_class_is_described_in_three_ways(void **state)
{
    struct dm_plugin_path path;
    struct dm_registry *registry;
    const struct dm_class *class;
    struct dm_text text = DM_TEXT_INIT;
    list_all(state, &path, &registry);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimen", &class, NULL),
                     DEMIST_OK);
    dm_class_print_text(&text, class);
    assert_contains(text.data, "sampler.specimen\n  Multiplies\n");
    assert_contains(text.data, "  plugin   org.example.specimen 2.5 (MIT), https://example.org");
    assert_contains(text.data, "  shadows  ");
    assert_contains(text.data, "    eta = 0.5\n        a number from 0 to 1\n");
    dm_text_finish(&text);
    dm_class_print_ini(&text, class);
    assert_contains(text.data, "[sampler.specimen]\n; Multiplies\n");
    assert_contains(text.data, "\n; fast or slow, or auto\nmode = auto\n");
    dm_text_finish(&text);
    assert_int_equal(dm_class_print_json(&text, class, NULL), DEMIST_OK);
    cJSON *root = cJSON_Parse(text.data);
    assert_string_equal(text_member(root, "name"), "specimen");
    cJSON_Delete(root);
    dm_text_finish(&text);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_plugins_in_an_untrusted_directory_are_listed_as_broken(void **state)
{
    struct fixture *fixture = *state;
    struct dm_plugin_path path = {0};
    struct dm_registry *registry;
    const struct dm_listing *listing;
    copy_specimen(state, "good", "sampler-specimen.so");
    assert_int_equal(chmod(fixture->dir, 0777), 0);
    dm_plugin_path_add(&path, fixture->dir, "test", NULL);
    assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_list(registry, &listing, NULL), DEMIST_OK);
    assert_int_equal(listing->n_classes, 1);
    assert_contains(listing->classes[0].broken, "can be written by others");
    assert_contains(listing->dirs[0].problem, "can be written by others");
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_lists_good_shadowed_and_broken_plugins),
        TEST(test_text_tells_all_of_it),
        TEST(test_json_has_all_metadata),
        TEST(test_one_class_is_described_in_three_ways),
        TEST(test_plugins_in_an_untrusted_directory_are_listed_as_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

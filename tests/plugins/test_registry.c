#include "pluginfixture.h"

#include "hosttable.h"
#include "registry.h"

#include <demist/sampler.h>
#include <demist/schedule.h>

/* Looks for KIND "specimen" (or the given name) in one directory of the fixture. */
static demist_status find_in(const char *dir, demist_kind kind, const char *name,
                             struct dm_registry **registry, struct dm_plugin_path *path,
                             const struct dm_class **class, struct dm_error *err)
{
    *path = (struct dm_plugin_path){0};
    assert_int_equal(dm_plugin_path_add(path, dir, "--plugin-path", NULL), DEMIST_OK);
    assert_int_equal(dm_registry_create(path, NULL, registry, NULL), DEMIST_OK);
    return dm_registry_find(*registry, kind, name, class, err);
}

/* The specimen, installed as sampler-specimen.so, is refused with that status and all those
 * fragments in the text. */
static void check_refused(void **state, const char *specimen, demist_status status,
                          const char *const fragments[])
{
    struct fixture *fixture = *state;
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class = NULL;
    struct dm_error err = DM_ERROR_INIT;
    if (specimen)
        copy_specimen(state, specimen, "sampler-specimen.so");
    assert_int_equal(
        find_in(fixture->dir, DEMIST_SAMPLER, "specimen", &registry, &path, &class, &err), status);
    assert_null(class);
    assert_contains(err.text, fixture->dir); /* every refusal names the file */
    for (size_t i = 0; fragments[i]; i++)
        assert_contains(err.text, fragments[i]);
    if (strstr(err.text, "/proc/self"))
        fail_msg("the file's own name is missing: %s", err.text);
    dm_error_clear(&err);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

#define REFUSED(specimen, status, ...)                                                             \
    check_refused(state, specimen, status, (const char *const[]){__VA_ARGS__, NULL})

static void test_finds_a_class_with_its_schema_and_vtable(void **state)
{
    struct fixture *fixture = *state;
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class, *again;
    copy_specimen(state, "good", "sampler-specimen.so");
    assert_int_equal(
        find_in(fixture->dir, DEMIST_SAMPLER, "specimen", &registry, &path, &class, NULL),
        DEMIST_OK);
    assert_string_equal(class->name, "specimen");
    assert_string_equal(class->doc, "Multiplies");
    assert_string_equal(class->plugin->file, path_in(state, "sampler-specimen.so"));
    assert_string_equal(class->plugin->desc.version, "2.5");
    assert_string_equal(class->options[0]->key, "eta");
    assert_string_equal(class->options[1]->key, "mode");
    assert_null(class->options[2]);
    const demist_sampler_vtable *vtable = class->vtable;
    assert_non_null(vtable->sample);
    assert_null(vtable->needs); /* optional */
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimen", &again, NULL),
                     DEMIST_OK);
    assert_ptr_equal(class, again);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

/* x is a double here, and lincomb multiplies it. */
static demist_status scale(demist_run *run, demist_tensor *out, int32_t n, int64_t n_coefs,
                           const double *coefs, demist_tensor *const *x)
{
    *(double *)(void *)out = coefs[0] * *(const double *)(const void *)x[0];
    return DEMIST_OK;
}

static double sample_once(const struct dm_class *class, double option, int32_t n_steps)
{
    const demist_sampler_vtable *vtable = class->vtable;
    demist_value number = DEMIST_INIT(demist_value), mode = DEMIST_INIT(demist_value);
    number.number = option;
    mode.is_auto = true;
    const demist_value *const values[] = {&number, &mode, NULL};
    struct dm_host host;
    void *self;
    assert_int_equal(dm_host_init(&host, class->name, NULL, NULL, NULL), DEMIST_OK);
    assert_int_equal(vtable->create(&host.table, values, &self), DEMIST_OK);
    demist_run run = DEMIST_INIT(demist_run);
    run.n_steps = n_steps;
    run.lincomb = scale;
    double x = 3;
    assert_int_equal(vtable->sample(self, &run, (demist_tensor *)(void *)&x), DEMIST_OK);
    vtable->destroy(self);
    vtable->destroy(NULL);
    dm_host_finish(&host);
    return x;
}

static void test_instances_run(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class;
    copy_specimen(state, "good", "sampler-specimen.so");
    assert_int_equal(find_in(((struct fixture *)*state)->dir, DEMIST_SAMPLER, "specimen", &registry,
                             &path, &class, NULL),
                     DEMIST_OK);
    assert_true(sample_once(class, 0.25, 1) == 0.75);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_a_plugin_in_cxx17_runs(void **state)
{
    if (!HAS_CXX_SPECIMEN) {
        print_message("skipped: no C++ compiler\n");
        skip();
    }
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class;
    copy_specimen(state, "cxx", "sampler-cxx.so");
    assert_int_equal(find_in(((struct fixture *)*state)->dir, DEMIST_SAMPLER, "cxx", &registry,
                             &path, &class, NULL),
                     DEMIST_OK);
    assert_string_equal(class->options[0]->default_value, "0.5");
    assert_true(sample_once(class, 0.5, 3) == 0.375);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_members_behind_size_are_not_read(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class;
    copy_specimen(state, "short", "schedule-short.so");
    assert_int_equal(find_in(((struct fixture *)*state)->dir, DEMIST_SCHEDULE, "short", &registry,
                             &path, &class, NULL),
                     DEMIST_OK);
    const demist_schedule_vtable *vtable = class->vtable;
    assert_non_null(vtable->fill);
    assert_null(vtable->eval);
    assert_int_equal(vtable->size, sizeof *vtable);
    assert_null(class->options[0]);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

/* --- versions --- */

static void test_refuses_plugin_needing_newer_abi(void **state)
{
    REFUSED("newer-minor", DEMIST_INCOMPATIBLE,
            "sampler-specimen.so needs plugin ABI 1.7 (it was built against 1.9), and this demist "
            "has ABI 1.1: install a newer demist");
}

static void test_accepts_plugin_built_against_newer_abi_that_needs_none_of_it(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class;
    copy_specimen(state, "newer-built", "sampler-specimen.so");
    assert_int_equal(find_in(((struct fixture *)*state)->dir, DEMIST_SAMPLER, "specimen", &registry,
                             &path, &class, NULL),
                     DEMIST_OK);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_refuses_other_epochs(void **state)
{
    REFUSED("other-epoch", DEMIST_INCOMPATIBLE,
            "was built against plugin ABI 2.3, and this demist has ABI 1.1",
            "install the demist that it was made for");
    REFUSED("old-epoch", DEMIST_INCOMPATIBLE,
            "was built against plugin ABI 0.4, and this demist has ABI 1.1",
            "rebuild the plugin with this demist's headers");
}

static void test_refuses_a_descriptor_too_small_for_its_version(void **state)
{
    REFUSED("small", DEMIST_INCOMPATIBLE, "its descriptor has 16 bytes",
            ".size = sizeof(demist_plugin)");
}

/* --- files --- */

static void test_refuses_a_library_without_the_symbol(void **state)
{
    REFUSED("no-symbol", DEMIST_INCOMPATIBLE,
            "sampler-specimen.so is no demist plugin: it has no symbol demist_plugin_v1",
            "DEMIST_PLUGIN");
    REFUSED(NULL, DEMIST_INCOMPATIBLE, "it has no symbol demist_plugin_v1"); /* known by now */
}

static void test_undefined_symbols_are_found_when_loading(void **state)
{
    REFUSED("undefined", DEMIST_INCOMPATIBLE,
            "sampler-specimen.so cannot be loaded: ", "undefined symbol: nowhere_to_be_found",
            "-Wl,-z,defs");
}

static void test_refuses_files_that_are_cut_short(void **state)
{
    const long sizes[] = {0, 3, 40, 100, 900, 5000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        copy_part(state, "good", "sampler-specimen.so", sizes[i]);
        REFUSED(NULL, DEMIST_FORMAT,
                sizes[i] < 4 ? "is not a shared object (ELF) at all" : "is cut short");
    }
}

static void test_refuses_a_text_file(void **state)
{
    write_text(state, "sampler-specimen.so", "/* GNU ld script */ GROUP ( libfoo.so )\n");
    REFUSED(NULL, DEMIST_FORMAT, "sampler-specimen.so is not a shared object (ELF) at all");
}

static void test_refuses_other_machines(void **state)
{
    static const long offsets[] = {4, 5, 18}; /* EI_CLASS, EI_DATA, e_machine */
    for (int i = 0; i < 3; i++) {
        copy_specimen(state, "good", "sampler-specimen.so");
        FILE *file = fopen(path_in(state, "sampler-specimen.so"), "r+b");
        assert_non_null(file);
        assert_int_equal(fseek(file, offsets[i], SEEK_SET), 0);
        int byte = getc(file);
        assert_int_equal(fseek(file, offsets[i], SEEK_SET), 0);
        putc(byte ^ 3, file);
        fclose(file);
        REFUSED(NULL, DEMIST_FORMAT, "is a shared object for another machine");
    }
}

/* --- contents --- */

static void test_refuses_a_file_that_has_another_class_than_its_name(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class;
    struct dm_error err = DM_ERROR_INIT;
    struct fixture *fixture = *state;
    copy_specimen(state, "good", "sampler-heun.so");
    copy_specimen(state, "good", "network-specimen.so");
    assert_int_equal(find_in(fixture->dir, DEMIST_SAMPLER, "heun", &registry, &path, &class, &err),
                     DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "sampler-heun.so has no sampler \"heun\"; what it has is sampler "
                              "\"specimen\"");
    assert_int_equal(dm_registry_find(registry, DEMIST_NETWORK, "specimen", &class, &err),
                     DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "network-specimen.so has no network \"specimen\"");
    dm_error_clear(&err);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_refuses_schemas_that_contradict_themselves(void **state)
{
    REFUSED("bad-default", DEMIST_INCOMPATIBLE,
            "sampler \"specimen\": option \"eta\": the default: eta = \"1.5\" is out of range: "
            "expected a number from 0 to 1");
    REFUSED("bad-key", DEMIST_INCOMPATIBLE, "option \"mode\" stands there twice");
}

static void test_refuses_a_vtable_without_mandatory_members(void **state)
{
    REFUSED("no-sample", DEMIST_INCOMPATIBLE,
            "its vtable lacks `sample`, which every sampler must have (demist/sampler.h)");
    REFUSED("small-vtable", DEMIST_INCOMPATIBLE, "its vtable lacks `create`");
}

static void test_one_file_serves_several_classes_through_links(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class, *twin;
    copy_specimen(state, "twins", "twins.so");
    assert_int_equal(symlink("twins.so", path_in(state, "sampler-specimen.so")), 0);
    assert_int_equal(link(path_in(state, "twins.so"), path_in(state, "sampler-twin.so")), 0);
    assert_int_equal(find_in(((struct fixture *)*state)->dir, DEMIST_SAMPLER, "specimen", &registry,
                             &path, &class, NULL),
                     DEMIST_OK);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "twin", &twin, NULL), DEMIST_OK);
    assert_string_equal(class->doc, "Multiplies");
    assert_string_equal(twin->doc, "The other class of the file");
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

/* --- the search --- */

static void test_absent_plugins_tell_where_they_were_sought_and_what_is_near(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path;
    const struct dm_class *class;
    struct dm_error err = DM_ERROR_INIT;
    struct fixture *fixture = *state;
    copy_specimen(state, "good", "sampler-specimen.so");
    copy_specimen(state, "good", "schedule-specimens.so"); /* another kind is not near */
    path = (struct dm_plugin_path){0};
    dm_plugin_path_add(&path, fixture->dir, "--plugin-path", NULL);
    dm_plugin_path_add(&path, "/nonexistent/demist", "DEMIST_PLUGIN_PATH", NULL);
    assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimem", &class, &err),
                     DEMIST_NOT_FOUND);
    assert_contains(err.text, "no sampler \"specimem\" is installed: did you mean \"specimen\"? "
                              "sampler-specimem.so was sought in ");
    assert_contains(err.text, fixture->dir);
    assert_contains(err.text, " (--plugin-path), /nonexistent/demist (DEMIST_PLUGIN_PATH; no such "
                              "directory)");
    assert_int_equal(dm_registry_find(registry, DEMIST_SCHEDULE, "quadratic", &class, &err),
                     DEMIST_NOT_FOUND);
    if (strstr(err.text, "did you mean"))
        fail_msg("a wild guess: %s", err.text);
    dm_error_clear(&err);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_names_are_never_paths(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path = {0};
    const struct dm_class *class;
    const char *names[] = {"../x", "/tmp/x", "DDIM", "a b", "", "x.so", "\xc3\xa9"};
    assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct dm_error err = DM_ERROR_INIT;
        assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, names[i], &class, &err),
                         DEMIST_CONFIG);
        assert_contains(err.text, "is no name of a sampler: names are of lower-case letters");
        dm_error_clear(&err);
    }
    dm_registry_destroy(registry);
}

static void test_the_first_directory_wins_and_shadowed_files_are_remembered(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path = {0};
    const struct dm_class *class;
    const char *names[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++)
        dm_plugin_path_add(&path, make_dir(state, names[i]), "test", NULL);
    copy_specimen(state, "good", "b/sampler-specimen.so");
    write_text(state, "c/sampler-specimen.so", "broken, and never looked at");
    assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimen", &class, NULL),
                     DEMIST_OK);
    assert_string_equal(class->plugin->file, path_in(state, "b/sampler-specimen.so"));
    assert_string_equal(class->shadows[0], path_in(state, "c/sampler-specimen.so"));
    assert_null(class->shadows[1]);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_a_broken_plugin_in_the_first_directory_is_not_passed_over(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path = {0};
    const struct dm_class *class;
    struct dm_error err = DM_ERROR_INIT;
    dm_plugin_path_add(&path, make_dir(state, "a"), "test", NULL);
    dm_plugin_path_add(&path, make_dir(state, "b"), "test", NULL);
    copy_specimen(state, "newer-minor", "a/sampler-specimen.so");
    copy_specimen(state, "good", "b/sampler-specimen.so");
    assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimen", &class, &err),
                     DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "/a/sampler-specimen.so needs plugin ABI 1.7");
    dm_error_clear(&err);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_refuses_world_writable_directories_and_group_writable_files(void **state)
{
    struct fixture *fixture = *state;
    const char *file = copy_specimen(state, "good", "sampler-specimen.so");
    assert_int_equal(chmod(file, 0775), 0);
    REFUSED(NULL, DEMIST_CONFIG,
            "sampler-specimen.so: this plugin can be written by others "
            "(mode 0775)");
    assert_int_equal(chmod(file, 0755), 0);
    assert_int_equal(chmod(fixture->dir, 0777), 0);
    REFUSED(NULL, DEMIST_CONFIG, "this plugin directory can be written by others (mode 0777)",
            "chmod go-w ");
}

static void test_an_untrusted_directory_that_lacks_the_plugin_does_no_harm(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path = {0};
    const struct dm_class *class;
    struct dm_error err = DM_ERROR_INIT;
    const char *open_dir = make_dir(state, "open");
    assert_int_equal(chmod(open_dir, 0777), 0);
    dm_plugin_path_add(&path, open_dir, "test", NULL);
    dm_plugin_path_add(&path, make_dir(state, "safe"), "test", NULL);
    copy_specimen(state, "good", "safe/sampler-specimen.so");
    assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimen", &class, &err),
                     DEMIST_OK);
    assert_null(err.text);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "absent", &class, &err),
                     DEMIST_NOT_FOUND);
    assert_contains(err.text, "/open (test; not trusted: others may write there)");
    dm_error_clear(&err);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

static void test_many_plugins_are_not_mistaken_for_each_other(void **state)
{
    /* Descriptors are closed and opened again between these loads. */
    struct dm_registry *registry;
    struct dm_plugin_path path = {0};
    const struct dm_class *class;
    dm_plugin_path_add(&path, ((struct fixture *)*state)->dir, "test", NULL);
    copy_specimen(state, "good", "sampler-specimen.so");
    copy_specimen(state, "twins", "sampler-twin.so");
    copy_specimen(state, "short", "schedule-short.so");
    copy_specimen(state, "no-symbol", "sampler-none.so");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(dm_registry_create(&path, NULL, &registry, NULL), DEMIST_OK);
        assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "none", &class, NULL),
                         DEMIST_INCOMPATIBLE);
        assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimen", &class, NULL),
                         DEMIST_OK);
        assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "twin", &class, NULL),
                         DEMIST_OK);
        assert_string_equal(class->doc, "The other class of the file");
        assert_int_equal(dm_registry_find(registry, DEMIST_SCHEDULE, "short", &class, NULL),
                         DEMIST_OK);
        assert_string_equal(class->doc, "Every beta is 1/4");
        dm_registry_destroy(registry);
    }
    dm_plugin_path_finish(&path);
}

/* --- linked plugins --- */

static demist_status create_nothing(const demist_host *host, const demist_value *const *values,
                                    void **self)
{
    return DEMIST_OK;
}
static void destroy_nothing(void *self)
{
}
static demist_status sample_nothing(void *self, demist_run *run, demist_tensor *x)
{
    return DEMIST_OK;
}
static const demist_sampler_vtable linked_vtable = {.size = sizeof linked_vtable,
                                                    .create = create_nothing,
                                                    .destroy = destroy_nothing,
                                                    .sample = sample_nothing};
static const demist_class linked_class = {.size = sizeof linked_class,
                                          .kind = DEMIST_SAMPLER,
                                          .name = "specimen",
                                          .doc = "Linked",
                                          .vtable = &linked_vtable};
static const demist_class *const linked_classes[] = {&linked_class, NULL};
static const demist_plugin linked_plugin = {sizeof linked_plugin,
                                            DEMIST_ABI_EPOCH,
                                            DEMIST_ABI_MINOR,
                                            0,
                                            "org.example.linked",
                                            "1",
                                            "MIT",
                                            "",
                                            linked_classes};

static void test_linked_plugins_come_before_files(void **state)
{
    struct dm_registry *registry;
    struct dm_plugin_path path = {0};
    const struct dm_class *class;
    const demist_plugin *const linked[] = {&linked_plugin, NULL};
    dm_plugin_path_add(&path, ((struct fixture *)*state)->dir, "test", NULL);
    copy_specimen(state, "good", "sampler-specimen.so");
    copy_specimen(state, "short", "schedule-short.so");
    assert_int_equal(dm_registry_create(&path, linked, &registry, NULL), DEMIST_OK);
    assert_int_equal(dm_registry_find(registry, DEMIST_SAMPLER, "specimen", &class, NULL),
                     DEMIST_OK);
    assert_null(class->plugin->file);
    assert_string_equal(class->doc, "Linked");
    assert_string_equal(class->shadows[0], path_in(state, "sampler-specimen.so"));
    assert_int_equal(dm_registry_find(registry, DEMIST_SCHEDULE, "short", &class, NULL), DEMIST_OK);
    dm_registry_destroy(registry);
    dm_plugin_path_finish(&path);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_finds_a_class_with_its_schema_and_vtable),
        TEST(test_instances_run),
        TEST(test_a_plugin_in_cxx17_runs),
        TEST(test_members_behind_size_are_not_read),
        TEST(test_refuses_plugin_needing_newer_abi),
        TEST(test_accepts_plugin_built_against_newer_abi_that_needs_none_of_it),
        TEST(test_refuses_other_epochs),
        TEST(test_refuses_a_descriptor_too_small_for_its_version),
        TEST(test_refuses_a_library_without_the_symbol),
        TEST(test_undefined_symbols_are_found_when_loading),
        TEST(test_refuses_files_that_are_cut_short),
        TEST(test_refuses_a_text_file),
        TEST(test_refuses_other_machines),
        TEST(test_refuses_a_file_that_has_another_class_than_its_name),
        TEST(test_refuses_schemas_that_contradict_themselves),
        TEST(test_refuses_a_vtable_without_mandatory_members),
        TEST(test_one_file_serves_several_classes_through_links),
        TEST(test_absent_plugins_tell_where_they_were_sought_and_what_is_near),
        TEST(test_names_are_never_paths),
        TEST(test_the_first_directory_wins_and_shadowed_files_are_remembered),
        TEST(test_a_broken_plugin_in_the_first_directory_is_not_passed_over),
        TEST(test_refuses_world_writable_directories_and_group_writable_files),
        TEST(test_an_untrusted_directory_that_lacks_the_plugin_does_no_harm),
        TEST(test_many_plugins_are_not_mistaken_for_each_other),
        TEST(test_linked_plugins_come_before_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

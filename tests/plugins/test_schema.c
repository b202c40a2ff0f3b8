#include "testing.h"

#include "schema.h"

#include <math.h>

#define OPTION(...)                                                                                \
    (&(const demist_option){.size = sizeof(demist_option), .doc = "A doc", __VA_ARGS__})

static const char *const variances[] = {"large", "small", "course", NULL};

/* One option of each type. */
#define SCHEMA                                                                                     \
    {                                                                                              \
        OPTION(.key = "clip", .type = DEMIST_OPTION_BOOL, .flags = DEMIST_OPTION_AUTO,             \
               .default_value = "auto"),                                                           \
            OPTION(.key = "steps", .type = DEMIST_OPTION_INT, .default_value = "50",               \
                   .has_range = true, .min = 1, .max = 1000),                                      \
            OPTION(.key = "eta", .type = DEMIST_OPTION_FLOAT, .default_value = "0.0",              \
                   .has_range = true, .min = 0, .max = 1),                                         \
            OPTION(.key = "variance", .type = DEMIST_OPTION_ENUM, .default_value = "large",        \
                   .choices = variances),                                                          \
            OPTION(.key = "prefix", .type = DEMIST_OPTION_STRING),                                 \
            OPTION(.key = "file", .type = DEMIST_OPTION_PATH),                                     \
            OPTION(.key = "hidden", .type = DEMIST_OPTION_INT, .flags = DEMIST_OPTION_LIST,        \
                   .default_value = "128,256", .has_range = true, .min = 1, .max = INFINITY),      \
            OPTION(.key = "betas", .type = DEMIST_OPTION_FLOAT,                                    \
                   .flags = DEMIST_OPTION_LIST | DEMIST_OPTION_AUTO),                              \
            NULL                                                                                   \
    }
enum { CLIP, STEPS, ETA, VARIANCE, PREFIX, PATH, HIDDEN, BETAS };

static const struct dm_ini *read_ini(struct dm_ini **ini, const char *name, const char *text)
{
    struct dm_error err = DM_ERROR_INIT;
    if (dm_ini_read_memory(name, text, strlen(text), ini, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return *ini;
}

static void test_absent_sections_have_the_defaults(void **state)
{
    const demist_option *const options[] = SCHEMA;
    struct dm_arena arena = {0};
    struct dm_ini *ini;
    const demist_value *const *values;
    read_ini(&ini, "run.ini", "[other]\nx = 1\n");
    assert_int_equal(dm_schema_check(options, NULL), DEMIST_OK);
    assert_int_equal(dm_schema_parse(ini, "s", options, &arena, &values, NULL), DEMIST_OK);
    assert_true(values[CLIP]->is_auto && values[CLIP]->is_default);
    assert_int_equal(values[STEPS]->integer, 50);
    assert_true(values[STEPS]->number == 50 && values[STEPS]->count == 1);
    assert_true(values[ETA]->number == 0 && values[ETA]->is_default);
    assert_string_equal(values[VARIANCE]->text, "large");
    assert_string_equal(values[PREFIX]->text, "");
    assert_string_equal(values[PATH]->text, "");
    assert_int_equal(values[HIDDEN]->count, 2);
    assert_int_equal(values[HIDDEN]->integers[1], 256);
    assert_true(values[BETAS]->is_auto);
    assert_null(values[BETAS + 1]);
    dm_ini_destroy(ini);
    dm_arena_finish(&arena);
}

static void test_values_are_typed_and_outlive_the_document(void **state)
{
    const demist_option *const options[] = SCHEMA;
    struct dm_arena arena = {0};
    struct dm_ini *ini;
    const demist_value *const *values;
    read_ini(&ini, "conf/run.ini",
             "[s]\nbetas = 1e-4, 0.02\nclip = Yes\nsteps = 1000\neta = .25 ; half of a half\n"
             "variance = course\nprefix = ema.\nfile = weights/a.pt\nhidden = 7\n");
    assert_int_equal(dm_schema_parse(ini, "s", options, &arena, &values, NULL), DEMIST_OK);
    dm_ini_destroy(ini);
    assert_true(values[CLIP]->boolean && !values[CLIP]->is_auto && !values[CLIP]->is_default);
    assert_int_equal(values[STEPS]->integer, 1000);
    assert_true(values[ETA]->number == 0.25);
    assert_string_equal(values[ETA]->text, ".25");
    assert_int_equal(values[VARIANCE]->integer, 2);
    assert_string_equal(values[VARIANCE]->text, "course");
    assert_string_equal(values[PREFIX]->text, "ema.");
    assert_string_equal(values[PATH]->text, "conf/weights/a.pt");
    assert_int_equal(values[HIDDEN]->count, 1);
    assert_int_equal(values[HIDDEN]->integers[0], 7);
    assert_int_equal(values[BETAS]->count, 2);
    assert_true(values[BETAS]->numbers[0] == 1e-4 && values[BETAS]->numbers[1] == 0.02);
    assert_true(values[BETAS]->number == 1e-4);
    dm_arena_finish(&arena);
}

static void test_paths_start_where_they_were_written(void **state)
{
    const demist_option *const options[] = SCHEMA;
    struct dm_arena arena = {0};
    struct dm_ini *ini;
    const demist_value *const *values;
    read_ini(&ini, "/etc/demist/run.ini", "[s]\nfile = a.pt\n[t]\nfile = /abs/a.pt\n[u]\nfile =\n");
    assert_int_equal(dm_schema_parse(ini, "s", options, &arena, &values, NULL), DEMIST_OK);
    assert_string_equal(values[PATH]->text, "/etc/demist/a.pt");
    assert_int_equal(dm_schema_parse(ini, "t", options, &arena, &values, NULL), DEMIST_OK);
    assert_string_equal(values[PATH]->text, "/abs/a.pt");
    assert_int_equal(dm_schema_parse(ini, "u", options, &arena, &values, NULL), DEMIST_OK);
    assert_string_equal(values[PATH]->text, "");
    assert_int_equal(dm_ini_set(ini, "s.file=b.pt", NULL), DEMIST_OK);
    assert_int_equal(dm_schema_parse(ini, "s", options, &arena, &values, NULL), DEMIST_OK);
    assert_string_equal(values[PATH]->text, "b.pt");
    dm_ini_destroy(ini);
    dm_arena_finish(&arena);
}

static void test_errors_begin_with_file_and_line_and_tell_the_way_out(void **state)
{
    const demist_option *const options[] = SCHEMA;
    const struct {
        const char *text, *error;
    } cases[] = {
        {"etaa = 1", "run.ini:2: [s]: unknown key \"etaa\"; did you mean \"eta\"?"},
        {"Eta = 1", "unknown key \"Eta\"; did you mean \"eta\"?"},
        {"bogus = 1", "run.ini:2: [s]: unknown key \"bogus\"; known ones are clip, steps, eta, "
                      "variance, prefix, file, hidden, betas"},
        {"eta = high", "run.ini:2: [s]: eta = \"high\" is not valid: expected a number from 0 to "
                       "1"},
        {"eta = 2", "run.ini:2: [s]: eta = \"2\" is out of range: expected a number from 0 to 1"},
        {"eta = -0.1", "is out of range"},
        {"eta = nan", "eta = \"nan\" is not valid"},
        {"eta = inf", "eta = \"inf\" is not valid"},
        {"eta = 1e999", "eta = \"1e999\" is out of range"},
        {"eta =", "eta = \"\" is not valid"},
        {"eta = auto", "eta = \"auto\" is not valid: expected a number from 0 to 1"},
        {"eta = 0,5", "eta = \"0,5\" is not valid"},
        {"steps = 2.5", "steps = \"2.5\" is not valid: expected a whole number from 1 to 1000"},
        {"steps = 0", "steps = \"0\" is out of range: expected a whole number from 1 to 1000"},
        {"steps = 99999999999999999999", "is out of range"},
        {"clip = maybe", "clip = \"maybe\" is not valid: expected true or false, or auto"},
        {"variance = smal", "variance = \"smal\" is not valid: expected large, small or course; "
                            "did you mean \"small\"?"},
        {"variance = Large", "did you mean \"large\"?"},
        {"hidden = 1,,2", "hidden = \"1,,2\" is not valid: expected whole numbers of at least 1, "
                          "separated by commas"},
        {"hidden = 3,0", "hidden = \"3,0\" is out of range"},
        {"hidden =", "hidden = \"\" is not valid"},
        {"betas = a", "expected numbers, separated by commas, or auto"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dm_arena arena = {0};
        struct dm_error err = DM_ERROR_INIT;
        struct dm_ini *ini;
        const demist_value *const *values;
        char text[256];
        snprintf(text, sizeof text, "[s]\n%s\n", cases[i].text);
        read_ini(&ini, "run.ini", text);
        assert_int_equal(dm_schema_parse(ini, "s", options, &arena, &values, &err), DEMIST_CONFIG);
        assert_contains(err.text, cases[i].error);
        assert_int_equal(strncmp(err.text, "run.ini:2: [s]: ", 16), 0);
        dm_error_clear(&err);
        dm_ini_destroy(ini);
        dm_arena_finish(&arena);
    }
}

static void test_overrides_are_named_as_such(void **state)
{
    const demist_option *const options[] = SCHEMA;
    struct dm_arena arena = {0};
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini;
    const demist_value *const *values;
    read_ini(&ini, "run.ini", "[s]\neta = 0.5\n");
    assert_int_equal(dm_ini_set(ini, "s.eta=3", NULL), DEMIST_OK);
    assert_int_equal(dm_schema_parse(ini, "s", options, &arena, &values, &err), DEMIST_CONFIG);
    assert_contains(err.text, "--set: [s]: eta = \"3\" is out of range");
    dm_error_clear(&err);
    dm_ini_destroy(ini);
    dm_arena_finish(&arena);
}

static void test_required_keys_name_section_and_place(void **state)
{
    const demist_option *const options[] = {
        OPTION(.key = "checkpoint", .type = DEMIST_OPTION_PATH, .flags = DEMIST_OPTION_REQUIRED),
        NULL};
    struct dm_arena arena = {0};
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini;
    const demist_value *const *values;
    read_ini(&ini, "run.ini", "\n[network]\n");
    assert_int_equal(dm_schema_check(options, NULL), DEMIST_OK);
    assert_int_equal(dm_schema_parse(ini, "network", options, &arena, &values, &err),
                     DEMIST_CONFIG);
    assert_string_equal(err.text, "run.ini:2: [network]: checkpoint is required and missing: A doc "
                                  "(a path)");
    assert_int_equal(dm_schema_parse(ini, "decoder", options, &arena, &values, &err),
                     DEMIST_CONFIG);
    assert_contains(err.text, "run.ini: [decoder]: checkpoint is required and missing");
    dm_error_clear(&err);
    dm_ini_destroy(ini);
    dm_arena_finish(&arena);
}

static void test_unknown_sections_name_the_nearest(void **state)
{
    static const char *const known[] = {"sampler",   "sampler.*", "network",
                                        "network.*", "sample",    NULL};
    const struct {
        const char *text, *error;
    } cases[] = {
        {"[sampler.ddim]\n[samplr.ddim]\n",
         "run.ini:2: unknown section [samplr.ddim]; did you mean [sampler.ddim]?"},
        {"[smaple]\n", "run.ini:1: unknown section [smaple]; did you mean [sample]?"},
        {"[sampler.DDIM]\n", "unknown section [sampler.DDIM]"},
        {"[training]\n", "run.ini:1: unknown section [training]; known ones are [sampler], "
                         "[sampler.*], [network], [network.*], [sample]"},
        {"[sampler.a.b]\n", "unknown section [sampler.a.b]"},
    };
    struct dm_ini *ini;
    read_ini(&ini, "run.ini", "[sampler]\n[sampler.any-name_1]\n[network.unet]\n[sample]\n");
    assert_int_equal(dm_schema_check_sections(ini, known, NULL), DEMIST_OK);
    dm_ini_destroy(ini);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dm_error err = DM_ERROR_INIT;
        read_ini(&ini, "run.ini", cases[i].text);
        assert_int_equal(dm_schema_check_sections(ini, known, &err), DEMIST_CONFIG);
        assert_contains(err.text, cases[i].error);
        dm_error_clear(&err);
        dm_ini_destroy(ini);
    }
}

static void test_schemas_that_make_no_sense_are_refused(void **state)
{
    static const char *const none[] = {NULL};
    static const char *const twice[] = {"a", "b", "a", NULL};
    static const char *const words[] = {"two words", NULL};
    static const char *const automatic[] = {"auto", NULL};
    const struct {
        const demist_option *option;
        const char *error;
    } cases[] = {
        {OPTION(.key = "Eta", .type = DEMIST_OPTION_INT, .default_value = "1"),
         "the key \"Eta\" must be of lower-case letters"},
        {OPTION(.type = DEMIST_OPTION_INT), "the key \"\" must be"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_INT), "it has no default and is not required"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_INT, .default_value = "1",
                .flags = DEMIST_OPTION_REQUIRED),
         "a required option has no default"},
        {OPTION(.key = "e", .type = (demist_option_type)9, .default_value = "1"),
         "the type 9 is unknown"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_INT, .default_value = "1", .flags = 64),
         "the flags 0x40 are unknown"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_PATH, .flags = DEMIST_OPTION_LIST),
         "only an int or a float may be a list"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_STRING, .has_range = true),
         "only an int or a float has a range"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_INT, .default_value = "1", .has_range = true,
                .min = 2, .max = 1),
         "its range is empty"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_INT, .default_value = "1", .has_range = true,
                .min = 0, .max = NAN),
         "its range is empty"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_INT, .default_value = "x"),
         "the default: e = \"x\" is not valid"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_ENUM, .default_value = "a"),
         "an enum needs `choices`"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_ENUM, .default_value = "a", .choices = none),
         "an enum needs `choices`"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_ENUM, .default_value = "a", .choices = twice),
         "the choice \"a\" stands there twice"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_ENUM, .default_value = "c", .choices = words),
         "the choice \"two words\" is not one word"},
        {OPTION(.key = "e", .type = DEMIST_OPTION_ENUM, .choices = automatic,
                .flags = DEMIST_OPTION_AUTO),
         "\"auto\" is a choice and a flag"},
        {&(const demist_option){
             .size = sizeof(demist_option), .key = "e", .type = DEMIST_OPTION_STRING},
         "its `doc` must be one line"},
        {&(const demist_option){.size = sizeof(demist_option),
                                .key = "e",
                                .doc = "a\nb",
                                .type = DEMIST_OPTION_STRING},
         "its `doc` must be one line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dm_error err = DM_ERROR_INIT;
        const demist_option *const options[] = {cases[i].option, NULL};
        assert_int_equal(dm_schema_check(options, &err), DEMIST_INCOMPATIBLE);
        assert_contains(err.text, cases[i].error);
        dm_error_clear(&err);
    }
}

/* The stanza is the documentation: it must read back as the defaults. */
static void test_printed_stanza_reads_back_as_the_defaults(void **state)
{
    const demist_option *const options[] = SCHEMA;
    struct dm_arena arena = {0};
    struct dm_text text = DM_TEXT_INIT;
    struct dm_ini *ini, *empty;
    const demist_value *const *values, *const *defaults;
    dm_schema_print_ini(&text, "sampler.all", "Everything", options);
    assert_contains(text.data, "[sampler.all]\n; Everything\n");
    assert_contains(text.data, "\n; A doc\n; a number from 0 to 1\neta = 0.0\n");
    assert_contains(text.data, "; large, small or course\nvariance = large\n");
    assert_contains(text.data, "\nprefix =\n");
    read_ini(&ini, "printed.ini", text.data);
    read_ini(&empty, "empty.ini", "");
    assert_int_equal(dm_schema_parse(ini, "sampler.all", options, &arena, &values, NULL),
                     DEMIST_OK);
    assert_int_equal(dm_schema_parse(empty, "sampler.all", options, &arena, &defaults, NULL),
                     DEMIST_OK);
    for (size_t i = 0; options[i]; i++) {
        assert_string_equal(values[i]->text, defaults[i]->text);
        assert_int_equal(values[i]->count, defaults[i]->count);
    }
    dm_text_finish(&text);
    dm_ini_destroy(ini);
    dm_ini_destroy(empty);
    dm_arena_finish(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent_sections_have_the_defaults),
        cmocka_unit_test(test_values_are_typed_and_outlive_the_document),
        cmocka_unit_test(test_paths_start_where_they_were_written),
        cmocka_unit_test(test_errors_begin_with_file_and_line_and_tell_the_way_out),
        cmocka_unit_test(test_overrides_are_named_as_such),
        cmocka_unit_test(test_required_keys_name_section_and_place),
        cmocka_unit_test(test_unknown_sections_name_the_nearest),
        cmocka_unit_test(test_schemas_that_make_no_sense_are_refused),
        cmocka_unit_test(test_printed_stanza_reads_back_as_the_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

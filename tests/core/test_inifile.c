#include "testing.h"

#include "inifile.h"

#include <unistd.h>

static struct dm_ini *read_text(const char *text)
{
    struct dm_ini *ini = NULL;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_ini_read_memory("d/run.ini", text, strlen(text), &ini, &err))
        fail_msg("%s", err.text);
    return ini;
}

static void assert_value(const struct dm_ini *ini, const char *section, const char *key,
                         const char *value)
{
    const struct dm_ini_entry *entry = dm_ini_find(ini, section, key);
    assert_non_null(entry);
    assert_string_equal(entry->value, value);
}

/* Reading fails with "d/run.ini:LINE: " in front and `says` behind. */
static void assert_refused_bytes(const char *bytes, size_t size, int line, const char *says)
{
    struct dm_ini *ini = NULL;
    struct dm_error err = DM_ERROR_INIT;
    char where[64];
    snprintf(where, sizeof where, "d/run.ini:%d: ", line);
    assert_int_equal(dm_ini_read_memory("d/run.ini", bytes, size, &ini, &err), DEMIST_CONFIG);
    assert_int_equal(strncmp(err.text, where, strlen(where)), 0);
    assert_contains(err.text, says);
    assert_null(ini);
    dm_error_clear(&err);
}

static void assert_refused(const char *text, int line, const char *says)
{
    assert_refused_bytes(text, strlen(text), line, says);
}

static void test_keeps_order_lines_and_empty_sections(void **state)
{
    struct dm_ini *ini = read_text("; run\n[sample]\nsteps = 50\n\nseed=0\n[backend.cuda]\n"
                                   "[sampler.ddim]\neta = 0.0\n");
    assert_string_equal(ini->file, "d/run.ini");
    const struct dm_ini_section *s = ini->sections;
    assert_string_equal(s->name, "sample");
    assert_string_equal(s->where, "d/run.ini:2");
    assert_string_equal(s->entries->key, "steps");
    assert_string_equal(s->entries->section, "sample");
    assert_int_equal(s->entries->line, 3);
    assert_string_equal(s->entries->next->key, "seed");
    assert_string_equal(s->entries->next->where, "d/run.ini:5");
    assert_string_equal(s->entries->next->dir, "d/");
    assert_null(s->entries->next->next);
    assert_string_equal(s->next->name, "backend.cuda");
    assert_null(s->next->entries);
    assert_value(ini, "sampler.ddim", "eta", "0.0");
    assert_null(s->next->next->next);
    assert_null(dm_ini_find(ini, "sampler", "eta"));
    assert_null(dm_ini_find(ini, "sample", "eta"));
    assert_null(dm_ini_find_section(ini, "sampl"));
    dm_ini_destroy(ini);
    dm_ini_destroy(NULL);
}

static void test_indented_keys_are_keys(void **state)
{
    struct dm_ini *ini = read_text("  [a]\n    b = 1\n\tc = 2\n    ; note\n      d=3  \n");
    assert_value(ini, "a", "b", "1");
    assert_value(ini, "a", "c", "2");
    assert_value(ini, "a", "d", "3");
    dm_ini_destroy(ini);
}

static void test_values_keep_all_but_comments_and_blanks_around(void **state)
{
    struct dm_ini *ini = read_text("[a] ; x\nb = c=d:e # f;g ; h ; i\nc =\nd = ; none\n"
                                   "e = \"quoted\"  \t; x\nf = für 東京/ü.pt\n[b]# y\n");
    assert_value(ini, "a", "b", "c=d:e # f;g");
    assert_value(ini, "a", "c", "");
    assert_value(ini, "a", "d", "");
    assert_value(ini, "a", "e", "\"quoted\"");
    assert_value(ini, "a", "f", "für 東京/ü.pt");
    assert_non_null(dm_ini_find_section(ini, "b"));
    dm_ini_destroy(ini);
}

static void test_bom_crlf_and_a_missing_last_newline_are_harmless(void **state)
{
    struct dm_ini *ini = read_text("\xEF\xBB\xBF[a]\r\nb = 1\r\n\r\nc = 2");
    assert_value(ini, "a", "b", "1");
    assert_value(ini, "a", "c", "2");
    assert_int_equal(dm_ini_find(ini, "a", "c")->line, 4);
    dm_ini_destroy(ini);
}

static void test_a_section_may_come_twice_but_a_key_may_not(void **state)
{
    struct dm_ini *ini = read_text("[a]\nb = 1\n[c]\nb = 2\n[a]\nd = 3\n");
    assert_string_equal(ini->sections->next->name, "c");
    assert_null(ini->sections->next->next);
    assert_value(ini, "a", "d", "3");
    dm_ini_destroy(ini);
    assert_refused("[a]\nb = 1\n[c]\n[a]\n\nb = 1\n", 6, "\"b\" of [a] is already given in line 2");
    assert_refused("[a]\nb = 1\nb = 1\n", 3, "line 2");
}

static void test_long_section_names_are_not_cut(void **state)
{
    char text[256], name[64], twin[80];
    memset(name, 'x', 60);
    name[60] = '\0';
    snprintf(twin, sizeof twin, "%sy", name);
    snprintf(text, sizeof text, "[%s]\nk = 1\n[%s]\nk = 2\n", name, twin);
    struct dm_ini *ini = read_text(text);
    assert_value(ini, name, "k", "1");
    assert_value(ini, twin, "k", "2");
    dm_ini_destroy(ini);
}

static void test_a_line_is_whole_or_refused_by_its_number(void **state)
{
    char text[512], value[300];
    memset(value, 'v', sizeof value);
    snprintf(text, sizeof text, "[a]\nk=%.*s\nl = 2\n", DM_INI_MAX_LINE - 2, value);
    struct dm_ini *ini = read_text(text);
    assert_int_equal(strlen(dm_ini_find(ini, "a", "k")->value), DM_INI_MAX_LINE - 2);
    assert_value(ini, "a", "l", "2");
    dm_ini_destroy(ini);
    snprintf(text, sizeof text, "[a]\nk=%.*s\nl = 2\n", DM_INI_MAX_LINE - 1, value);
    assert_refused(text, 2, "the line is 200 bytes long; a line may have 199");
}

static void test_refuses_malformed_lines_by_number(void **state)
{
    assert_refused("[a]\nb = 1\nhello\n", 3, "neither [section] nor key = value");
    assert_refused("[a]\nb : 1\n", 2, "neither");
    assert_refused("[a]\nb: c = 1\n", 2, "a key is letters");
    assert_refused("[a]\nmy key = 1\n", 2, "a key is letters");
    assert_refused("[a]\n= 1\n", 2, "no key");
    assert_refused("b = 1\n", 1, "before the first [section]");
    assert_refused("\n[]\n", 2, "no name");
    assert_refused("[ ]\n", 1, "no name");
    assert_refused("[a\nb = 1\n", 1, "no \"]\"");
    assert_refused("[a b]\n", 1, "a section's name");
    assert_refused("[a..b]\n", 1, "a section's name");
    assert_refused("[.a]\n", 1, "a section's name");
    assert_refused("[a.]\n", 1, "a section's name");
    assert_refused("[a] b = 1\n", 1, "follows the \"]\"");
}

static void test_refuses_what_is_not_text(void **state)
{
    assert_refused_bytes("[a]\nb = \0\n", 10, 2, "NUL");
    assert_refused_bytes("\xff\xfe[\0a\0]\0", 8, 1, "NUL");
    assert_refused("[a]\nb = \x01\n", 2, "control");
    assert_refused("[a]\nb = 1\rc = 2\n", 2, "control");
    assert_refused("[a]\nb = f\xfcr\n", 2, "UTF-8");
    assert_refused("[a]\n; f\xfcr\n", 2, "UTF-8");
}

static void test_set_overrides_and_adds(void **state)
{
    struct dm_ini *ini = read_text("[sampler]\nuse = ddpm\n");
    assert_int_equal(dm_ini_set(ini, "sampler.use=ddim", NULL), DEMIST_OK);
    assert_int_equal(dm_ini_set(ini, "sampler.ddim.eta = 0.5", NULL), DEMIST_OK);
    assert_int_equal(dm_ini_set(ini, "network.checkpoint=../a.b=c.pt", NULL), DEMIST_OK);
    assert_int_equal(dm_ini_set(ini, "sampler.use=ddim2", NULL), DEMIST_OK);
    assert_int_equal(dm_ini_set(ini, "network.prefix=", NULL), DEMIST_OK);
    assert_value(ini, "sampler", "use", "ddim2");
    assert_value(ini, "sampler.ddim", "eta", "0.5");
    assert_value(ini, "network", "checkpoint", "../a.b=c.pt");
    assert_value(ini, "network", "prefix", "");
    const struct dm_ini_entry *entry = dm_ini_find(ini, "sampler", "use");
    assert_string_equal(entry->where, "--set");
    assert_string_equal(entry->dir, "");
    assert_int_equal(entry->line, 0);
    assert_null(entry->next);
    dm_ini_destroy(ini);
}

static void test_refuses_bad_overrides(void **state)
{
    const char *bad[] = {"steps=5", "sample.steps", ".steps=5", "sample.=5", "=5",
                         "",        "a b.c=5",      "a..b=5",   "a.b=x ; y", "a.b=x\ny",
                         "a.b c=5", "a.b=f\xfcr"};
    struct dm_ini *ini = read_text("[sample]\nsteps = 1\n");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dm_error err = DM_ERROR_INIT;
        assert_int_equal(dm_ini_set(ini, bad[i], &err), DEMIST_CONFIG);
        assert_contains(err.text, "--set ");
        dm_error_clear(&err);
    }
    assert_value(ini, "sample", "steps", "1");
    assert_null(ini->sections->next);
    dm_ini_destroy(ini);
}

static void test_prints_what_reads_back(void **state)
{
    char text[512], value[300];
    memset(value, 'v', sizeof value);
    snprintf(text, sizeof text, "#x\n[a]\n b=1 ;c\nlong=%.*s\nsemi=;x\nnone=\n[e]\n[a]\nc = 2\n",
             DM_INI_MAX_LINE - 5, value);
    struct dm_ini *ini = read_text(text);
    dm_ini_set(ini, "f.g=h", NULL);
    struct dm_text out = DM_TEXT_INIT;
    dm_ini_print(ini, &out);
    char *printed = dm_text_take(&out);
    assert_int_equal(strncmp(printed, "[a]\nb = 1\nlong=vvv", 18), 0);
    assert_contains(printed, "v\nsemi=;x\nnone=\nc = 2\n\n[e]\n\n[f]\ng = h\n");
    struct dm_ini *again = read_text(printed);
    dm_ini_print(again, &out);
    char *twice = dm_text_take(&out);
    assert_string_equal(printed, twice);
    assert_value(again, "a", "semi", ";x");
    free(printed);
    free(twice);
    dm_ini_destroy(again);
    dm_ini_destroy(ini);
}

static void test_reads_files_and_names_those_it_cannot(void **state)
{
    char path[] = "/tmp/demist-test-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "[a]\nb = 1\n", 10), 10);
    struct dm_ini *ini;
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_ini_read_file(path, &ini, &err), DEMIST_OK);
    assert_string_equal(ini->file, path);
    assert_string_equal(dm_ini_find(ini, "a", "b")->dir, "/tmp/");
    dm_ini_destroy(ini);
    assert_int_equal(ftruncate(fd, DM_INI_MAX_SIZE + 1), 0);
    assert_int_equal(dm_ini_read_file(path, &ini, &err), DEMIST_FORMAT);
    close(fd);
    unlink(path);
    assert_int_equal(dm_ini_read_file(path, &ini, &err), DEMIST_NOT_FOUND);
    assert_contains(err.text, path);
    dm_error_clear(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keeps_order_lines_and_empty_sections),
        cmocka_unit_test(test_indented_keys_are_keys),
        cmocka_unit_test(test_values_keep_all_but_comments_and_blanks_around),
        cmocka_unit_test(test_bom_crlf_and_a_missing_last_newline_are_harmless),
        cmocka_unit_test(test_a_section_may_come_twice_but_a_key_may_not),
        cmocka_unit_test(test_long_section_names_are_not_cut),
        cmocka_unit_test(test_a_line_is_whole_or_refused_by_its_number),
        cmocka_unit_test(test_refuses_malformed_lines_by_number),
        cmocka_unit_test(test_refuses_what_is_not_text),
        cmocka_unit_test(test_set_overrides_and_adds),
        cmocka_unit_test(test_refuses_bad_overrides),
        cmocka_unit_test(test_prints_what_reads_back),
        cmocka_unit_test(test_reads_files_and_names_those_it_cannot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

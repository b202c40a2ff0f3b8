/* Checkpoints as sources of parameters: what is found, and what is said about what is not. */
#include "testing.h"

#include "sources.h"
#include "tensorfile.h"
#include "text.h"

/* A safetensors file in memory with f32 tensors of one dimension: name and size of each. Element
 * k is k. */
struct tensor {
    const char *name;
    int size;
};

static struct dm_checkpoint *checkpoint(size_t n, const struct tensor *tensors)
{
    struct dm_text header = DM_TEXT_INIT, file = DM_TEXT_INIT;
    struct dm_checkpoint *out = NULL;
    struct dm_error err = DM_ERROR_INIT;
    int at = 0;
    for (size_t i = 0; i < n; i++) {
        dm_text_appendf(
            &header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%d,%d]}",
            i ? "," : "{", tensors[i].name, tensors[i].size, at, at + 4 * tensors[i].size);
        at += 4 * tensors[i].size;
    }
    dm_text_append(&header, "}");
    uint8_t length[8] = {(uint8_t)header.size, (uint8_t)(header.size >> 8)};
    dm_text_append_bytes(&file, length, 8);
    dm_text_append_bytes(&file, header.data, header.size);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < tensors[i].size; k++) {
            float value = (float)k;
            dm_text_append_bytes(&file, &value, sizeof value);
        }
    if (dm_checkpoint_open_memory("test", file.data, file.size, &out, &err))
        fail_msg("%s", err.text);
    dm_text_finish(&header);
    dm_text_finish(&file);
    return out;
}

struct fixture {
    struct dm_checkpoint *file;
    struct dm_sources *sources;
    struct dm_error err;
};

static struct fixture open_sources(const char *prefix, size_t n, const struct tensor *tensors)
{
    struct fixture f = {checkpoint(n, tensors), NULL, DM_ERROR_INIT};
    int32_t source = -1;
    assert_int_equal(dm_sources_create(&f.sources, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_add(f.sources, f.file, "m.pt", prefix, &source, NULL), DEMIST_OK);
    assert_int_equal(source, 0);
    return f;
}

static void close_sources(struct fixture *f)
{
    dm_error_clear(&f->err);
    dm_sources_destroy(f->sources);
    dm_checkpoint_close(f->file);
}

static const float *ask(struct fixture *f, const char *key, int64_t size)
{
    const float *data;
    assert_int_equal(dm_sources_param(f->sources, 0, key, 1, &size, &data, NULL), DEMIST_OK);
    return data;
}

#define TENSORS(...)                                                                               \
    sizeof((struct tensor[]){__VA_ARGS__}) / sizeof(struct tensor), (struct tensor[])              \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void test_parameters_are_found_below_the_prefix(void **state)
{
    for (int dot = 0; dot < 2; dot++) {
        struct fixture f =
            open_sources(dot ? "ema." : "ema", TENSORS({"model.w", 2}, {"ema.w", 5}, {"emax", 1}));
        const float *data = ask(&f, "w", 5);
        assert_non_null(data);
        assert_int_equal((uintptr_t)data % 64, 0);
        assert_float_equal(data[4], 4, 0);
        assert_ptr_equal(ask(&f, "w", 5), data);
        assert_int_equal(dm_sources_check(f.sources, &f.err), DEMIST_OK);
        close_sources(&f);
    }
}

static void test_keys_come_sorted_without_the_prefix(void **state)
{
    struct fixture f = open_sources("m", TENSORS({"m.b", 1}, {"m.a.x", 3}, {"c", 2}));
    int64_t shape[8];
    int32_t rank;
    assert_string_equal(dm_sources_key(f.sources, 0, 0), "a.x");
    assert_string_equal(dm_sources_key(f.sources, 0, 1), "b");
    assert_null(dm_sources_key(f.sources, 0, 2));
    assert_null(dm_sources_key(f.sources, 0, -1));
    assert_true(dm_sources_find(f.sources, 0, "a.x", &rank, shape));
    assert_int_equal(rank, 1);
    assert_int_equal(shape[0], 3);
    assert_true(dm_sources_find(f.sources, 0, "b", NULL, NULL));
    assert_false(dm_sources_find(f.sources, 0, "c", &rank, shape));
    close_sources(&f);
}

static void test_everything_that_does_not_fit_is_listed_at_once(void **state)
{
    struct fixture f = open_sources(
        "", TENSORS({"conv1.weight", 4}, {"conv1.bias", 4}, {"norm.weigth", 4}, {"spare", 1}));
    assert_non_null(ask(&f, "conv1.weight", 4));
    assert_null(ask(&f, "conv1.bias", 8));
    assert_null(ask(&f, "norm.weight", 4));
    assert_null(ask(&f, "time.0.weight", 16));
    assert_int_equal(dm_sources_check(f.sources, &f.err), DEMIST_INCOMPATIBLE);
    assert_string_equal(
        f.err.text,
        "m.pt: the tensors are not what the network has (2 missing, 1 of another shape, 2 "
        "unexpected)\n"
        "  missing:\n"
        "    norm.weight [4] (there is 'norm.weigth')\n"
        "    time.0.weight [16]\n"
        "  of another shape:\n"
        "    conv1.bias: the network has [8], the file [4]\n"
        "  unexpected:\n"
        "    norm.weigth [4]\n"
        "    spare [1]");
    close_sources(&f);
}

static void test_a_prefix_that_mends_it_is_named(void **state)
{
    struct fixture f = open_sources("", TENSORS({"model.a", 1}, {"model.b", 1}, {"ema.a", 1}));
    ask(&f, "a", 1);
    ask(&f, "b", 1);
    assert_int_equal(dm_sources_check(f.sources, &f.err), DEMIST_INCOMPATIBLE);
    assert_contains(f.err.text, "All of them exist below model: set [network] prefix = model\n");
    close_sources(&f);
}

static void test_a_prefix_too_many_is_named(void **state)
{
    struct fixture f = open_sources("model", TENSORS({"a", 1}, {"b", 1}));
    ask(&f, "a", 1);
    ask(&f, "b", 1);
    assert_int_equal(dm_sources_check(f.sources, &f.err), DEMIST_INCOMPATIBLE);
    assert_contains(f.err.text, "m.pt, below model.: the tensors are not");
    assert_contains(f.err.text, "All of them exist without a prefix: set [network] prefix to");
    close_sources(&f);
}

static void test_no_prefix_is_named_that_lacks_a_key(void **state)
{
    struct fixture f = open_sources("", TENSORS({"ema.a", 1}, {"model.b", 1}));
    ask(&f, "a", 1);
    ask(&f, "b", 1);
    assert_int_equal(dm_sources_check(f.sources, &f.err), DEMIST_INCOMPATIBLE);
    assert_null(strstr(f.err.text, "All of them"));
    close_sources(&f);
}

static void test_long_lists_are_cut(void **state)
{
    struct fixture f = open_sources("", TENSORS({"a", 1}));
    char name[32];
    for (int i = 0; i < 45; i++) {
        snprintf(name, sizeof name, "missing.%02d", i);
        assert_null(ask(&f, name, 1));
        assert_null(ask(&f, name, 1));
    }
    ask(&f, "a", 1);
    assert_int_equal(dm_sources_check(f.sources, &f.err), DEMIST_INCOMPATIBLE);
    assert_contains(f.err.text, "(45 missing, 0 of another shape, 0 unexpected)");
    assert_contains(f.err.text, "missing.19 [1]\n    … and 25 more");
    assert_null(strstr(f.err.text, "missing.20"));
    close_sources(&f);
}

static void test_ignored_keys_are_not_unexpected(void **state)
{
    struct fixture f = open_sources(
        "", TENSORS({"n1.num_batches_tracked", 1}, {"n2.num_batches_tracked", 1}, {"n.1", 1}));
    dm_sources_ignore(f.sources, 0, "*.num_*_tracked", NULL);
    assert_int_equal(dm_sources_check(f.sources, &f.err), DEMIST_INCOMPATIBLE);
    assert_contains(f.err.text, "0 of another shape, 1 unexpected");
    dm_sources_ignore(f.sources, 0, "n.?", NULL);
    assert_int_equal(dm_sources_check(f.sources, NULL), DEMIST_OK);
    close_sources(&f);
}

static void test_patterns_match_the_whole_key(void **state)
{
    static const struct {
        const char *pattern;
        bool matches;
    } cases[] = {
        {"aab.abc", true},  {"*", true},         {"*abc", true}, {"a*b*c", true},
        {"aab?abc", true},  {"*ab*", true},      {"aab", false}, {"*b", false},
        {"", false},        {"aab.abc?", false}, {"**c", true},  {"a?b.*", true},
        {"?ab.a*x", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f = open_sources("", TENSORS({"aab.abc", 1}));
        dm_sources_ignore(f.sources, 0, cases[i].pattern, NULL);
        demist_status status = dm_sources_check(f.sources, NULL);
        if ((status == DEMIST_OK) != cases[i].matches)
            fail_msg("pattern \"%s\"", cases[i].pattern);
        close_sources(&f);
    }
}

static void test_a_blank_source_makes_up_zeros(void **state)
{
    struct dm_sources *sources;
    int64_t shape[2] = {3, 5};
    const float *data, *again;
    int32_t source;
    assert_int_equal(dm_sources_create(&sources, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_add_blank(sources, NULL, NULL, &source, NULL), DEMIST_OK);
    assert_false(dm_sources_find(sources, source, "w", NULL, NULL));
    assert_int_equal(dm_sources_param(sources, source, "w", 2, shape, &data, NULL), DEMIST_OK);
    for (int i = 0; i < 15; i++)
        assert_float_equal(data[i], 0, 0);
    assert_int_equal(dm_sources_param(sources, source, "w", 2, shape, &again, NULL), DEMIST_OK);
    assert_ptr_equal(data, again);
    shape[0] = 5;
    assert_int_equal(dm_sources_param(sources, source, "w", 2, shape, &again, NULL),
                     DEMIST_INVALID);
    assert_int_equal(dm_sources_check(sources, NULL), DEMIST_OK);
    dm_sources_destroy(sources);
}

static void test_a_file_that_is_absent_is_named(void **state)
{
    struct dm_sources *sources;
    struct dm_error err = DM_ERROR_INIT;
    int32_t source;
    assert_int_equal(dm_sources_create(&sources, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_open(sources, "/nowhere/w.pt", "", &source, &err),
                     DEMIST_NOT_FOUND);
    assert_contains(err.text, "/nowhere/w.pt");
    assert_int_equal(dm_sources_count(sources), 0);
    dm_error_clear(&err);
    dm_sources_destroy(sources);
}

static void test_the_same_file_and_prefix_are_one_source(void **state)
{
    const char *path = test_data("straight-path/checkpoint.safetensors");
    struct dm_sources *sources;
    int32_t a, b, c;
    assert_int_equal(dm_sources_create(&sources, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_open(sources, path, "", &a, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_open(sources, path, "m", &b, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_open(sources, path, "m.", &c, NULL), DEMIST_OK);
    assert_int_not_equal(a, b);
    assert_int_equal(b, c);
    assert_non_null(dm_sources_key(sources, a, 0));
    assert_string_equal(dm_sources_path(sources, b), path);
    dm_sources_destroy(sources);
}

static void test_data_may_stay_in_the_file_until_they_are_read(void **state)
{
    static const int64_t shape[] = {128, 3}, wrong[] = {3, 128};
    const char *path = test_data("straight-path/checkpoint.safetensors");
    struct dm_error err = DM_ERROR_INIT;
    struct dm_sources *at_once, *late;
    const float *data, *none;
    float *read = malloc(128 * 3 * sizeof *read);
    int32_t source;
    assert_int_equal(dm_sources_create(&at_once, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_create(&late, NULL), DEMIST_OK);
    dm_sources_read_late(late);
    assert_int_equal(dm_sources_open(at_once, path, "", &source, NULL), DEMIST_OK);
    assert_int_equal(dm_sources_open(late, path, "", &source, NULL), DEMIST_OK);
    const char *key = NULL;
    for (int64_t i = 0; !key && dm_sources_key(late, 0, i); i++) { /* the first layer's weights */
        int32_t rank = 0;
        int64_t found[8];
        if (dm_sources_find(late, 0, dm_sources_key(late, 0, i), &rank, found) && rank == 2 &&
            found[0] == shape[0] && found[1] == shape[1])
            key = dm_sources_key(late, 0, i);
    }
    assert_non_null(key);
    assert_false(dm_sources_has(late, 0, key));
    assert_int_equal(dm_sources_param(at_once, 0, key, 2, shape, &data, &err), DEMIST_OK);
    assert_int_equal(dm_sources_param(late, 0, key, 2, shape, &none, &err), DEMIST_OK);
    assert_non_null(data);
    assert_null(none);
    assert_true(dm_sources_has(late, 0, key) && dm_sources_has(at_once, 0, key));
    assert_int_equal(dm_sources_read(late, 0, key, read, &err), DEMIST_OK);
    assert_memory_equal(read, data, 128 * 3 * sizeof *read);
    assert_int_equal(dm_sources_read(at_once, 0, key, read, &err), DEMIST_OK);
    assert_memory_equal(read, data, 128 * 3 * sizeof *read);
    assert_int_equal(dm_sources_param(late, 0, key, 2, wrong, &none, &err), DEMIST_OK);
    assert_false(dm_sources_has(late, 0, key));
    assert_int_equal(dm_sources_check(late, &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "of another shape");
    dm_error_clear(&err);
    free(read);
    dm_sources_destroy(at_once);
    dm_sources_destroy(late);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters_are_found_below_the_prefix),
        cmocka_unit_test(test_keys_come_sorted_without_the_prefix),
        cmocka_unit_test(test_everything_that_does_not_fit_is_listed_at_once),
        cmocka_unit_test(test_a_prefix_that_mends_it_is_named),
        cmocka_unit_test(test_a_prefix_too_many_is_named),
        cmocka_unit_test(test_no_prefix_is_named_that_lacks_a_key),
        cmocka_unit_test(test_long_lists_are_cut),
        cmocka_unit_test(test_ignored_keys_are_not_unexpected),
        cmocka_unit_test(test_patterns_match_the_whole_key),
        cmocka_unit_test(test_a_blank_source_makes_up_zeros),
        cmocka_unit_test(test_a_file_that_is_absent_is_named),
        cmocka_unit_test(test_the_same_file_and_prefix_are_one_source),
        cmocka_unit_test(test_data_may_stay_in_the_file_until_they_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

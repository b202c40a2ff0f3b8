#include "tensorfiles.h"

#include "safetensors.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file of that header and `size` bytes of data 0, 1, 2, … */
static struct dm_text make(const char *header, size_t size)
{
    struct dm_text file = DM_TEXT_INIT;
    put_uint(&file, strlen(header), 8);
    dm_text_append(&file, header);
    for (size_t i = 0; i < size; i++)
        put_uint(&file, i & 255, 1);
    return file;
}

static void test_reads_tensors_and_metadata(void **state)
{
    struct dm_text file =
        make("{\"__metadata__\":{\"format\":\"pt\"},"
             "\"b\":{\"dtype\":\"I16\",\"shape\":[2,1],\"data_offsets\":[4,8]},"
             "\"a\\u0062\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"
             "   ",
             8);
    struct dm_checkpoint *ckpt = open_bytes(&file);
    assert_string_equal(dm_checkpoint_format(ckpt), "safetensors");
    assert_int_equal(dm_checkpoint_count(ckpt), 2);
    assert_string_equal(dm_checkpoint_metadata(ckpt, "format"), "pt");
    assert_null(dm_checkpoint_metadata(ckpt, "none"));
    assert_null(dm_checkpoint_find(ckpt, "c"));
    const struct dm_tensor_view *b = tensor(ckpt, "b");
    assert_int_equal(b->dtype, DEMIST_I16);
    assert_shape(b, 2, (int64_t[]){2, 1});
    assert_int_equal(((const int16_t *)b->data)[1], 0x0706);
    assert_memory_equal(tensor(ckpt, "ab")->data, "\0\1\2\3", 4);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
}

static void test_aligns_what_the_file_does_not(void **state)
{
    struct dm_text file = make("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                               "\"b\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[1,9]}}",
                               9);
    struct dm_checkpoint *ckpt = open_bytes(&file);
    assert_int_equal((uintptr_t)tensor(ckpt, "b")->data % 8, 0);
    assert_memory_equal(tensor(ckpt, "b")->data, "\1\2\3\4\5\6\7\10", 8);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
}

static void test_accepts_scalars_and_empty_tensors(void **state)
{
    struct dm_text file =
        make("{\"e\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[4,4]},"
             "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"note\":1},"
             "\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
             4);
    struct dm_checkpoint *ckpt = open_bytes(&file);
    assert_int_equal(tensor(ckpt, "s")->rank, 0);
    assert_int_equal(dm_tensor_elements(tensor(ckpt, "s")), 1);
    assert_int_equal(dm_tensor_elements(tensor(ckpt, "e")), 0);
    assert_non_null(tensor(ckpt, "e")->data);
    assert_non_null(tensor(ckpt, "z")->data);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
    file = make("{}", 0);
    ckpt = open_bytes(&file);
    assert_int_equal(dm_checkpoint_count(ckpt), 0);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
}

static void test_lists_types_that_it_cannot_use(void **state)
{
    struct dm_text file =
        make("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    struct dm_checkpoint *ckpt = open_bytes(&file);
    const struct dm_tensor_view *a = tensor(ckpt, "a");
    assert_int_equal(a->dtype, DM_DTYPE_OTHER);
    assert_string_equal(a->dtype_name, "F8_E4M3");
    struct dm_error err = DM_ERROR_INIT;
    float out[2];
    assert_int_equal(dm_tensor_to_f32(a, out, &err), DEMIST_UNSUPPORTED);
    assert_contains(err.text, "F8_E4M3");
    dm_error_clear(&err);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
}

/* One F32 tensor "t" of that shape and those offsets. */
#define ONE(shape, offsets)                                                                        \
    "{\"t\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, a, second, b)                                                                   \
    "{\"" first "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" a "},\"" second             \
    "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" b "}}"

static void test_refuses_what_is_malformed(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        const char *text;
        demist_status status;
    } cases[] = {
        {TWO("a", "[0,2]", "b", "[1,3]"), 3, "overlap", DEMIST_FORMAT},
        {TWO("a", "[0,2]", "b", "[0,2]"), 2, "overlap", DEMIST_FORMAT},
        {TWO("a", "[0,2]", "b", "[3,5]"), 5, "a hole of 1 bytes before tensor \"b\"",
         DEMIST_FORMAT},
        {ONE("[1]", "[4,8]"), 8, "a hole of 4 bytes", DEMIST_FORMAT},
        {TWO("a", "[0,2]", "b", "[2,4]"), 5, "1 bytes after the last tensor", DEMIST_FORMAT},
        {"{}", 1, "1 bytes after", DEMIST_FORMAT},
        {TWO("a", "[0,2]", "a", "[2,4]"), 4, "two tensors have the name \"a\"", DEMIST_FORMAT},
        {TWO("a", "[0,2]", "\\u0061", "[2,4]"), 4, "two tensors have the name", DEMIST_FORMAT},
        {ONE("[2]", "[0,8]"), 4, "tensor \"t\": bytes 0 to 8 lie outside", DEMIST_FORMAT},
        {ONE("[1]", "[4,0]"), 4, "outside", DEMIST_FORMAT},
        {ONE("[1]", "[0,9007199254740992]"), 4, "pair of whole numbers", DEMIST_FORMAT},
        {ONE("[2]", "[0,4]"), 4, "make 8 bytes, the offsets 4", DEMIST_FORMAT},
        {ONE("[4294967296,4294967296,4]", "[0,4]"), 4, "too large", DEMIST_FORMAT},
        {ONE("[4000000000000000,4000000000000000,0]", "[0,0]"), 0, "too large", DEMIST_FORMAT},
        {ONE("[4611686018427387904]", "[0,0]"), 0, "dimension", DEMIST_FORMAT},
        {ONE("[4503599627370496,1024]", "[0,0]"), 0, "too large", DEMIST_FORMAT},
        {ONE("[-1]", "[0,4]"), 4, "dimension", DEMIST_FORMAT},
        {ONE("[0.5]", "[0,4]"), 4, "dimension", DEMIST_FORMAT},
        {ONE("[1e300]", "[0,4]"), 4, "dimension", DEMIST_FORMAT},
        {ONE("[\"1\"]", "[0,4]"), 4, "dimension", DEMIST_FORMAT},
        {ONE("1", "[0,4]"), 4, "shape", DEMIST_FORMAT},
        {ONE("[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "more than 8 dimensions", DEMIST_UNSUPPORTED},
        {ONE("[1]", "[0]"), 4, "pair", DEMIST_FORMAT},
        {ONE("[1]", "[0,4,4]"), 4, "pair", DEMIST_FORMAT},
        {ONE("[1]", "[-4,0]"), 4, "pair", DEMIST_FORMAT},
        {ONE("[1]", "[0,4],\"shape\":[1]"), 4, "duplicate key \"shape\"", DEMIST_FORMAT},
        {"{\"t\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "F99",
         DEMIST_UNSUPPORTED},
        {"{\"t\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype", DEMIST_FORMAT},
        {"{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype", DEMIST_FORMAT},
        {"{\"t\":[]}", 0, "not an object", DEMIST_FORMAT},
        {"{\"__metadata__\":{\"a\":1}}", 0, "metadata \"a\" is not text", DEMIST_FORMAT},
        {"{\"__metadata__\":[]}", 0, "__metadata__", DEMIST_FORMAT},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__", DEMIST_FORMAT},
        {"{\"__metadata__\":{\"a\":\"1\",\"b\":\"\",\"a\":\"1\"}}", 0, "metadata key \"a\"",
         DEMIST_FORMAT},
        {"{\"a\\u0000\":{}}", 0, "NUL", DEMIST_FORMAT},
        {"{\"a\\u001b[31m\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "\"a?[31m\" has control characters", DEMIST_FORMAT},
        {"{\"a\xff\":{}}", 0, "UTF-8", DEMIST_FORMAT},
        {"{} x", 0, "not a JSON object", DEMIST_FORMAT},
        {"{\"a\":", 0, "not a JSON object", DEMIST_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct dm_text file = make(cases[i].header, cases[i].data);
        assert_refused(&file, cases[i].status, cases[i].text);
    }
}

static void test_refuses_impossible_header_lengths(void **state)
{
    struct dm_text file = DM_TEXT_INIT;
    put_uint(&file, 100000001, 8);
    dm_text_append(&file, "{}");
    assert_refused(&file, DEMIST_FORMAT, "100000000 are allowed");
    put_uint(&file, 3, 8);
    dm_text_append(&file, "{}");
    assert_refused(&file, DEMIST_FORMAT, "has 3 bytes, but the file only 10");
    put_uint(&file, UINT64_MAX, 8);
    dm_text_append(&file, "{}");
    assert_refused(&file, DEMIST_FORMAT, "are allowed");
}

/* A header whose JSON would take a hundred times its size, or a deep recursion, to read. */
static void test_bounds_the_cost_of_a_header(void **state)
{
    enum { N = 5000000 };
    struct dm_text file = DM_TEXT_INIT;
    put_uint(&file, 6 + 2 * N, 8);
    dm_text_append(&file, "{\"a\":[");
    for (int i = 0; i < N; i++)
        dm_text_append_bytes(&file, "0,", 2);
    assert_refused(&file, DEMIST_FORMAT, "more than 4000000 values");
    put_uint(&file, 5 + N / 2, 8);
    dm_text_append(&file, "{\"a\":");
    for (int i = 0; i < N / 2; i++)
        dm_text_append_bytes(&file, "[", 1);
    assert_refused(&file, DEMIST_FORMAT, "not a JSON object");
}

static void test_refuses_every_truncation(void **state)
{
    struct dm_text file = read_all(source_data("checkpoints/kinds.safetensors"));
    assert_true(file.size > 1000);
    for (size_t size = 0; size < file.size; size++)
        refuse_part(&file, size, "");
    dm_text_finish(&file);
}

static void test_a_file_that_shrinks_is_an_error(void **state)
{
    char path[] = "/tmp/demist-shrink-XXXXXX";
    int fd = mkstemp(path);
    struct dm_text file = make(ONE("[1024]", "[0,4096]"), 4096);
    assert_int_equal(write(fd, file.data, file.size), (ssize_t)file.size);
    struct dm_checkpoint *ckpt = open_file(path);
    assert_int_equal(ftruncate(fd, 16), 0);
    assert_int_equal(((const uint8_t *)tensor(ckpt, "t")->data)[4095], 255); /* read, not mapped */
    dm_checkpoint_close(ckpt);
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_checkpoint_open(path, &ckpt, &err), DEMIST_FORMAT);
    assert_contains(err.text, path);
    dm_error_clear(&err);
    /* The size as it was when the file was opened. */
    struct dm_input input = {NULL, fd, file.size};
    char byte[32];
    assert_int_equal(dm_input_read(&input, 0, byte, sizeof byte, &err), DEMIST_IO);
    assert_contains(err.text, "shorter");
    dm_error_clear(&err);
    close(fd);
    unlink(path);
    dm_text_finish(&file);
}

/* A file of that content, under a name of its own. */
static int new_file(char *path, const struct dm_text *content)
{
    int fd = mkstemp(path);
    assert_int_equal(write(fd, content->data, content->size), (ssize_t)content->size);
    return fd;
}

static void test_data_left_in_the_file_are_read_when_asked_for(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    const char *path = source_data("checkpoints/kinds.safetensors");
    struct dm_checkpoint *whole = open_file(path), *late = NULL;
    assert_int_equal(dm_checkpoint_open_late(path, &late, &err), DEMIST_OK);
    assert_int_equal(dm_checkpoint_count(late), dm_checkpoint_count(whole));
    for (size_t i = 0; i < dm_checkpoint_count(whole); i++) {
        const struct dm_tensor_view *a = dm_checkpoint_at(whole, i), *b = dm_checkpoint_at(late, i);
        uint8_t *bytes[2] = {calloc(1, a->bytes + 1), calloc(1, a->bytes + 1)};
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        assert_null(b->data);
        assert_int_equal(dm_checkpoint_read(whole, a, bytes[0], &err), DEMIST_OK);
        assert_int_equal(dm_checkpoint_read(late, b, bytes[1], &err), DEMIST_OK);
        assert_memory_equal(bytes[0], a->data, a->bytes);
        assert_memory_equal(bytes[1], a->data, a->bytes);
        free(bytes[0]);
        free(bytes[1]);
    }
    dm_checkpoint_close(whole);
    dm_checkpoint_close(late);
}

static void test_a_file_that_changes_before_it_is_read_is_an_error(void **state)
{
    static const struct timespec then[2] = {{1000000000, 0}, {1000000000, 0}};
    struct dm_error err = DM_ERROR_INIT;
    struct dm_text file = make(ONE("[1024]", "[0,4096]"), 4096);
    struct dm_checkpoint *ckpt;
    char byte[4096];
    for (int way = 0; way < 4; way++) {
        char path[] = "/tmp/demist-change-XXXXXX", renamed[64];
        int fd = new_file(path, &file);
        snprintf(renamed, sizeof renamed, "%s-old", path);
        assert_int_equal(dm_checkpoint_open_late(path, &ckpt, &err), DEMIST_OK);
        if (way == 0)
            assert_int_equal(ftruncate(fd, (off_t)file.size - 1), 0);
        else if (way == 1)
            assert_int_equal(ftruncate(fd, (off_t)file.size + 1), 0);
        else if (way == 2)
            assert_int_equal(futimens(fd, then), 0); /* as after writing in place */
        else
            assert_int_equal(rename(path, renamed), 0); /* as when a new one takes its name */
        demist_status status = dm_checkpoint_read(ckpt, tensor(ckpt, "t"), byte, &err);
        assert_int_equal(status, way < 3 ? DEMIST_IO : DEMIST_OK);
        if (way < 3)
            assert_contains(err.text, way == 0 ? "shorter" : "was changed");
        dm_error_clear(&err);
        dm_checkpoint_close(ckpt);
        close(fd);
        unlink(way < 3 ? path : renamed);
    }
    dm_text_finish(&file);
}

static void test_writes_the_same_bytes_in_any_order(void **state)
{
    static const double wide[] = {0.5, -2};
    static const uint8_t bytes[] = {1, 2, 3};
    static const float one = 1.5F;
    struct dm_tensor_view views[] = {
        {.name = "bytes", .dtype = DEMIST_U8, .rank = 1, .shape = {3}, .data = bytes},
        {.name = "quote\"\\\xc3\xa9", .dtype = DEMIST_F32, .data = &one},
        {.name = "wide", .dtype = DEMIST_F64, .rank = 2, .shape = {1, 2}, .data = wide},
        {.name = "empty", .dtype = DEMIST_I64, .rank = 2, .shape = {0, 7}, .data = wide},
    };
    static const struct dm_metadata metadata[] = {{"z", "tab\there"}, {"a", ""}};
    char paths[2][64];
    struct dm_text files[2];
    struct dm_error err = DM_ERROR_INIT;
    for (int turn = 0; turn < 2; turn++) {
        snprintf(paths[turn], sizeof paths[0], "/tmp/demist-write-%d-%d", (int)getpid(), turn);
        assert_int_equal(dm_safetensors_save(paths[turn], views, 4, metadata, 2, &err), DEMIST_OK);
        files[turn] = read_all(paths[turn]);
        unlink(paths[turn]);
        struct dm_tensor_view first = views[0]; /* another order for the second turn */
        views[0] = views[2];
        views[2] = views[3];
        views[3] = first;
    }
    assert_int_equal(files[0].size, files[1].size);
    assert_memory_equal(files[0].data, files[1].data, files[0].size);
    uint64_t header;
    memcpy(&header, files[0].data, 8);
    assert_int_equal(header % 8, 0);
    struct dm_checkpoint *ckpt = open_bytes(&files[0]);
    dm_text_finish(&files[0]);
    dm_text_finish(&files[1]);
    assert_memory_equal(tensor(ckpt, "wide")->data, wide, sizeof wide);
    assert_memory_equal(tensor(ckpt, "bytes")->data, bytes, sizeof bytes);
    assert_memory_equal(tensor(ckpt, "quote\"\\\xc3\xa9")->data, &one, sizeof one);
    assert_shape(tensor(ckpt, "empty"), 2, (int64_t[]){0, 7});
    assert_string_equal(dm_checkpoint_metadata(ckpt, "z"), "tab\there");
    assert_string_equal(dm_checkpoint_metadata(ckpt, "a"), "");
    dm_checkpoint_close(ckpt);
}

static void test_writer_refuses_what_no_reader_takes(void **state)
{
    static const float one = 1;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_tensor_view twice[] = {{.name = "a", .data = &one}, {.name = "a", .data = &one}};
    const char *path = "/tmp/demist-never-written";
    assert_int_equal(dm_safetensors_save(path, twice, 2, NULL, 0, &err), DEMIST_INVALID);
    assert_contains(err.text, "two tensors have the name \"a\"");
    twice[0].name = "__metadata__";
    assert_int_equal(dm_safetensors_save(path, twice, 1, NULL, 0, &err), DEMIST_INVALID);
    twice[0].name = "new\nline";
    assert_int_equal(dm_safetensors_save(path, twice, 1, NULL, 0, &err), DEMIST_INVALID);
    twice[0].name = "\xff";
    assert_int_equal(dm_safetensors_save(path, twice, 1, NULL, 0, &err), DEMIST_INVALID);
    twice[0] = (struct dm_tensor_view){.name = "a", .dtype = DM_DTYPE_OTHER, .data = &one};
    assert_int_equal(dm_safetensors_save(path, twice, 1, NULL, 0, &err), DEMIST_UNSUPPORTED);
    static const struct dm_metadata pairs[] = {{"k", "1"}, {"k", "2"}};
    assert_int_equal(dm_safetensors_save(path, twice, 0, pairs, 2, &err), DEMIST_INVALID);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(dm_safetensors_save("/nonexistent/x", twice, 0, NULL, 0, &err), DEMIST_IO);
    dm_error_clear(&err);
}

static void test_a_written_checkpoint_reads_back(void **state)
{
    struct dm_checkpoint *ckpt = open_file(test_data("straight-path/checkpoint.safetensors"));
    struct dm_tensor_view views[8];
    assert_int_equal(dm_checkpoint_count(ckpt), 8);
    for (size_t i = 0; i < 8; i++)
        views[i] = *dm_checkpoint_at(ckpt, i);
    char path[64];
    snprintf(path, sizeof path, "/tmp/demist-again-%d", (int)getpid());
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_safetensors_save(path, views, 8, NULL, 0, &err), DEMIST_OK);
    struct dm_checkpoint *again = open_file(path);
    unlink(path);
    assert_same_tensors(ckpt, again);
    dm_checkpoint_close(again);
    dm_checkpoint_close(ckpt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_tensors_and_metadata),
        cmocka_unit_test(test_aligns_what_the_file_does_not),
        cmocka_unit_test(test_accepts_scalars_and_empty_tensors),
        cmocka_unit_test(test_lists_types_that_it_cannot_use),
        cmocka_unit_test(test_refuses_what_is_malformed),
        cmocka_unit_test(test_refuses_impossible_header_lengths),
        cmocka_unit_test(test_bounds_the_cost_of_a_header),
        cmocka_unit_test(test_refuses_every_truncation),
        cmocka_unit_test(test_a_file_that_shrinks_is_an_error),
        cmocka_unit_test(test_data_left_in_the_file_are_read_when_asked_for),
        cmocka_unit_test(test_a_file_that_changes_before_it_is_read_is_an_error),
        cmocka_unit_test(test_writes_the_same_bytes_in_any_order),
        cmocka_unit_test(test_writer_refuses_what_no_reader_takes),
        cmocka_unit_test(test_a_written_checkpoint_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

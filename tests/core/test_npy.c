#include "tensorfiles.h"

#include "npy.h"

#include <unistd.h>

/* An .npy file of version `major` with that dictionary and `size` bytes of data 0, 1, 2, … */
static struct dm_text make(int major, const char *dictionary, size_t size)
{
    struct dm_text file = DM_TEXT_INIT;
    dm_text_append(&file, "\x93NUMPY");
    put_uint(&file, (uint64_t)major, 2);
    put_uint(&file, strlen(dictionary), major == 1 ? 2 : 4);
    dm_text_append(&file, dictionary);
    for (size_t i = 0; i < size; i++)
        put_uint(&file, i & 255, 1);
    return file;
}

static void test_reads_each_version(void **state)
{
    for (int major = 1; major <= 3; major++) {
        struct dm_text file =
            make(major, "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }\n", 4);
        struct dm_checkpoint *ckpt = open_bytes(&file);
        assert_string_equal(dm_checkpoint_format(ckpt), "npy");
        assert_shape(tensor(ckpt, "tensor"), 1, (int64_t[]){2});
        assert_int_equal(((const int16_t *)tensor(ckpt, "tensor")->data)[1], 0x0302);
        dm_checkpoint_close(ckpt);
        dm_text_finish(&file);
    }
}

static void test_reads_any_spelling_of_the_header(void **state)
{
    struct dm_text file =
        make(1, "{\"shape\":( 1 ,2, ) ,\"fortran_order\":True,\"descr\":\"|u1\"}", 2);
    struct dm_checkpoint *ckpt = open_bytes(&file);
    assert_shape(tensor(ckpt, "tensor"), 2, (int64_t[]){1, 2});
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
    file = make(1, "{'descr': '|b1', 'fortran_order': False, 'shape': ()}", 1);
    ckpt = open_bytes(&file);
    assert_int_equal(tensor(ckpt, "tensor")->rank, 0);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
}

static void test_turns_fortran_order_to_rows(void **state)
{
    struct dm_checkpoint *ckpt = open_file(source_data("checkpoints/fortran.npy"));
    assert_shape(tensor(ckpt, "tensor"), 2, (int64_t[]){2, 3});
    assert_memory_equal(tensor(ckpt, "tensor")->data, ((float[]){0, 1, 2, 3, 4, 5}), 24);
    dm_checkpoint_close(ckpt);
}

static void check_arrays(const char *name)
{
    struct dm_checkpoint *ckpt = open_file(source_data(name));
    uint8_t bytes[24];
    for (uint8_t i = 0; i < 24; i++)
        bytes[i] = i;
    assert_string_equal(dm_checkpoint_format(ckpt), "npz");
    assert_int_equal(dm_checkpoint_count(ckpt), 6);
    assert_shape(tensor(ckpt, "arr_0"), 4, (int64_t[]){2, 2, 3, 2});
    assert_memory_equal(tensor(ckpt, "arr_0")->data, bytes, 24);
    assert_memory_equal(tensor(ckpt, "arr_1")->data, ((int64_t[]){-1, INT64_C(1) << 40}), 16);
    assert_memory_equal(tensor(ckpt, "fortran")->data, ((float[]){0, 1, 2, 3, 4, 5}), 24);
    float half[6];
    assert_int_equal(dm_tensor_to_f32(tensor(ckpt, "half"), half, NULL), DEMIST_OK);
    assert_true(half[5] == 5);
    double scalar;
    assert_int_equal(dm_tensor_to_f64(tensor(ckpt, "scalar"), &scalar, NULL), DEMIST_OK);
    assert_true(scalar == 2.5);
    assert_int_equal(tensor(ckpt, "flags")->dtype, DEMIST_BOOL);
    dm_checkpoint_close(ckpt);
}

static void test_reads_what_savez_writes(void **state)
{
    check_arrays("checkpoints/arrays.npz");
}

static void test_reads_what_savez_compressed_writes(void **state)
{
    check_arrays("checkpoints/arrays-compressed.npz");
}

static void test_reads_a_real_data_set(void **state)
{
    struct dm_checkpoint *ckpt = open_file(test_data("crawl-tiles/tiles_16x16_rgb.npy"));
    assert_shape(tensor(ckpt, "tensor"), 4, (int64_t[]){1368, 16, 16, 3});
    dm_checkpoint_close(ckpt);
}

#define D(descr, order, shape)                                                                     \
    "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"

static void test_refuses_what_is_malformed(void **state)
{
    static const struct {
        const char *dictionary;
        const char *text;
        demist_status status;
    } cases[] = {
        {D("'>f4'", "False", "(1,)"), "'>f4' are big-endian", DEMIST_UNSUPPORTED},
        {D("'|O'", "False", "(1,)"), "pickled Python objects", DEMIST_UNSUPPORTED},
        {D("'<c8'", "False", "(1,)"), "'<c8'", DEMIST_UNSUPPORTED},
        {D("'<U4'", "False", "(1,)"), "'<U4'", DEMIST_UNSUPPORTED},
        {D("[('a', '<f4')]", "False", "(1,)"), "structures", DEMIST_UNSUPPORTED},
        {D("'<f4'", "False", "(1,1,1,1,1,1,1,1,1)"), "more than 8", DEMIST_UNSUPPORTED},
        {D("4", "False", "(1,)"), "'descr' is no text", DEMIST_FORMAT},
        {D("'<f4", "False", "(1,)"), "", DEMIST_UNSUPPORTED},
        {D("'<f4'", "0", "(1,)"), "neither True nor False", DEMIST_FORMAT},
        {D("'<f4'", "False", "1"), "no tuple", DEMIST_FORMAT},
        {D("'<f4'", "False", "(1)"), "no tuple", DEMIST_FORMAT},
        {D("'<f4'", "False", "(1 1)"), "no tuple", DEMIST_FORMAT},
        {D("'<f4'", "False", "(-1,)"), "dimension", DEMIST_FORMAT},
        {D("'<f4'", "False", "(1.0,)"), "no tuple", DEMIST_FORMAT},
        {D("'<f4'", "False", "(,)"), "dimension", DEMIST_FORMAT},
        {D("'<f4'", "False", "(9223372036854775808,)"), "dimension", DEMIST_FORMAT},
        {D("'<f4'", "False", "(9223372036854775807,2)"), "too large", DEMIST_FORMAT},
        {D("'<f4'", "False", "(9223372036854775807,)"), "too large", DEMIST_FORMAT},
        {D("'<f4'", "False", "(9223372036854775807,9223372036854775807,0)"), "too large",
         DEMIST_FORMAT},
        {D("'<f4'", "False", "(1000000000,)"), "needs 4000000000 bytes of data; there are 4",
         DEMIST_FORMAT},
        {D("'<f4'", "False", "(2,)"), "needs 8 bytes", DEMIST_FORMAT},
        {D("'<f2'", "False", "(1,)"), "needs 2 bytes", DEMIST_FORMAT},
        {D("__import__('os').system('x')", "False", "(1,)"), "'descr' is no text", DEMIST_FORMAT},
        {D("'<f4'", "False", "(1,)") " x", "text after", DEMIST_FORMAT},
        {"{'descr': '<f4', 'descr': '<f4'}", "duplicate", DEMIST_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False}", "missing", DEMIST_FORMAT},
        {"{'descr' '<f4'}", "without value", DEMIST_FORMAT},
        {"{'descr': '<f4' 'shape': (1,)}", "no comma", DEMIST_FORMAT},
        {"{'other': 1}", "unknown key", DEMIST_FORMAT},
        {"[]", "no dictionary", DEMIST_FORMAT},
        {"", "no dictionary", DEMIST_FORMAT},
        {"{", "unknown key", DEMIST_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct dm_text file = make(1, cases[i].dictionary, 4);
        assert_refused(&file, cases[i].status, cases[i].text);
    }
    struct dm_text file = make(4, D("'<f4'", "False", "(1,)"), 4);
    assert_refused(&file, DEMIST_UNSUPPORTED, "version 4.0");
    dm_text_append(&file, "\x93NUMPY\2");
    put_uint(&file, 0, 1);
    put_uint(&file, 0xffffffff, 4);
    assert_refused(&file, DEMIST_FORMAT, "header of 4294967295 bytes");
}

static void test_refuses_files_of_numpy_that_hold_objects(void **state)
{
    struct dm_text file = read_all(source_data("checkpoints/objects.npy"));
    assert_refused(&file, DEMIST_UNSUPPORTED, "pickled Python objects, which demist never loads");
    file = read_all(source_data("checkpoints/big-endian.npy"));
    assert_refused(&file, DEMIST_UNSUPPORTED, "big-endian");
}

static void test_refuses_zip_bombs(void **state)
{
    uint32_t crc;
    struct dm_text packed = deflate_bytes(1 << 20, 0, &crc);
    struct member bomb = {"x.npy", packed.data, packed.size, 0x40000000, crc};
    struct dm_text file = make_zip(&bomb, 1);
    assert_refused(&file, DEMIST_FORMAT, "x.npy: the zip members unpack to far more");
    /* Each below the limit, all together above. */
    struct member many[3] = {bomb, bomb, bomb};
    for (int i = 0; i < 3; i++) {
        many[i].name = i == 0 ? "a.npy" : i == 1 ? "b.npy" : "c.npy";
        many[i].unpacked = 100 << 20;
    }
    file = make_zip(many, 3);
    refuse_part(&file, file.size, "");
    dm_text_finish(&file);
    /* Unpacks to more, and to less, than it says. */
    bomb.unpacked = 1000;
    file = make_zip(&bomb, 1);
    assert_refused(&file, DEMIST_FORMAT, "x.npy: the zip member is damaged");
    bomb.unpacked = 2 << 20;
    file = make_zip(&bomb, 1);
    assert_refused(&file, DEMIST_FORMAT, "x.npy: the zip member is damaged");
    /* Honest, but no array. */
    bomb.unpacked = 1 << 20;
    file = make_zip(&bomb, 1);
    assert_refused(&file, DEMIST_FORMAT, "x.npy: not an .npy array");
    bomb.crc ^= 1;
    file = make_zip(&bomb, 1);
    assert_refused(&file, DEMIST_FORMAT, "x.npy: the zip member is damaged");
    dm_text_finish(&packed);
}

static void test_refuses_every_truncation(void **state)
{
    static const char *const names[] = {"checkpoints/fortran.npy", "checkpoints/arrays.npz",
                                        "checkpoints/arrays-compressed.npz"};
    for (int i = 0; i < 3; i++) {
        struct dm_text file = read_all(source_data(names[i]));
        for (size_t size = 0; size < file.size; size++)
            refuse_part(&file, size, "");
        dm_text_finish(&file);
    }
}

static void test_writes_what_numpy_writes(void **state)
{
    static const float data[] = {0, 1, 2, 3, 4, 5};
    struct dm_tensor_view view = {.name = "a", .rank = 2, .shape = {2, 3}, .data = data};
    char path[64];
    struct dm_error err = DM_ERROR_INIT;
    snprintf(path, sizeof path, "/tmp/demist-npy-%d", (int)getpid());
    for (int rank = 0; rank <= 3; rank++) {
        view.rank = rank;
        view.shape[0] = rank == 1 ? 6 : 2;
        view.shape[2] = 1;
        assert_int_equal(dm_npy_save(path, &view, &err), DEMIST_OK);
        struct dm_checkpoint *ckpt = open_file(path);
        assert_shape(tensor(ckpt, "tensor"), rank, view.shape);
        assert_memory_equal(tensor(ckpt, "tensor")->data, data, rank ? 24 : 4);
        dm_checkpoint_close(ckpt);
        struct dm_text file = read_all(path);
        assert_int_equal(file.size, 128 + (rank ? 24 : 4));
        assert_int_equal(file.data[127], '\n');
        static const char *const shapes[] = {"()", "(6,)", "(2, 3)", "(2, 3, 1)"};
        char expected[128];
        snprintf(expected, sizeof expected,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", shapes[rank]);
        assert_memory_equal(file.data + 10, expected, strlen(expected));
        dm_text_finish(&file);
    }
    unlink(path);
    view.dtype = DEMIST_BF16;
    assert_int_equal(dm_npy_save(path, &view, &err), DEMIST_UNSUPPORTED);
    assert_int_equal(access(path, F_OK), -1);
    dm_error_clear(&err);
}

static void test_writes_npz_that_reads_back_and_is_reproducible(void **state)
{
    static const uint8_t images[24] = {7, 8, 9};
    static const int64_t labels[2] = {3, -4};
    const struct dm_tensor_view views[] = {
        {.name = "arr_0", .dtype = DEMIST_U8, .rank = 4, .shape = {2, 2, 2, 3}, .data = images},
        {.name = "arr_1", .dtype = DEMIST_I64, .rank = 1, .shape = {2}, .data = labels},
    };
    struct dm_error err = DM_ERROR_INIT;
    struct dm_text files[2];
    char path[64];
    snprintf(path, sizeof path, "/tmp/demist-npz-%d", (int)getpid());
    for (int i = 0; i < 2; i++) {
        setenv("TZ", i ? "Asia/Tokyo" : "America/New_York", 1); /* zips know local time only */
        assert_int_equal(dm_npz_save(path, views, 2, &err), DEMIST_OK);
        files[i] = read_all(path);
    }
    assert_int_equal(files[0].size, files[1].size);
    assert_memory_equal(files[0].data, files[1].data, files[0].size);
    struct dm_checkpoint *ckpt = open_file(path);
    unlink(path);
    assert_string_equal(dm_checkpoint_at(ckpt, 0)->name, "arr_0");
    assert_shape(tensor(ckpt, "arr_0"), 4, (int64_t[]){2, 2, 2, 3});
    assert_memory_equal(tensor(ckpt, "arr_0")->data, images, 24);
    assert_memory_equal(tensor(ckpt, "arr_1")->data, labels, 16);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&files[0]);
    dm_text_finish(&files[1]);
    const struct dm_tensor_view twice[] = {views[0], views[0]};
    assert_int_equal(dm_npz_save(path, twice, 2, &err), DEMIST_INVALID);
    assert_contains(err.text, "arr_0");
    assert_int_equal(access(path, F_OK), -1);
    dm_error_clear(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_each_version),
        cmocka_unit_test(test_reads_any_spelling_of_the_header),
        cmocka_unit_test(test_turns_fortran_order_to_rows),
        cmocka_unit_test(test_reads_what_savez_writes),
        cmocka_unit_test(test_reads_what_savez_compressed_writes),
        cmocka_unit_test(test_reads_a_real_data_set),
        cmocka_unit_test(test_refuses_what_is_malformed),
        cmocka_unit_test(test_refuses_files_of_numpy_that_hold_objects),
        cmocka_unit_test(test_refuses_zip_bombs),
        cmocka_unit_test(test_refuses_every_truncation),
        cmocka_unit_test(test_writes_what_numpy_writes),
        cmocka_unit_test(test_writes_npz_that_reads_back_and_is_reproducible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

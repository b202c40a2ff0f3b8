#include "tensorfiles.h"

#include "halffloat.h"
#include "tensorbuild.h"

#include <math.h>

static struct dm_tensor_view view_of(int dtype, const void *data, int64_t n)
{
    return (struct dm_tensor_view){
        .name = "t", .dtype = dtype, .rank = 1, .shape = {n}, .data = data, .dtype_name = "x"};
}

/* Against the definition: (-1)^s · 2^(e-15) · (1 + m/1024), or · 2^-14 · m/1024 for e = 0. */
static void test_every_f16_is_exact(void **state)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
        float x = dm_f16_to_f32((uint16_t)bits);
        assert_int_equal(signbit(x) != 0, bits >> 15);
        if (exponent == 31 && mantissa) {
            assert_true(isnan(x));
            continue;
        }
        double expected = exponent == 31 ? (double)INFINITY
                          : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                         : ldexp(mantissa, -24);
        assert_true(fabs((double)x) == expected);
    }
}

static void test_bf16_is_the_upper_half_of_f32(void **state)
{
    assert_true(dm_bf16_to_f32(0x3f80) == 1.0F);
    assert_true(dm_bf16_to_f32(0xc020) == -2.5F);
    assert_true(dm_bf16_to_f32(0x0001) == 0x1p-133F);
    assert_true(isinf(dm_bf16_to_f32(0x7f80)));
    assert_true(isnan(dm_bf16_to_f32(0x7fc0)));
}

static void test_converts_every_type(void **state)
{
    static const float f32[] = {-2, 3};
    static const double f64[] = {-2, 3};
    static const uint16_t f16[] = {0xc000, 0x4200}, bf16[] = {0xc000, 0x4040};
    static const int8_t i8[] = {-2, 3};
    static const int16_t i16[] = {-2, 3};
    static const int32_t i32[] = {-2, 3};
    static const int64_t i64[] = {-2, 3};
    static const uint8_t u8[] = {2, 3}, truth[] = {0, 7};
    static const uint16_t u16[] = {2, 3};
    static const uint32_t u32[] = {2, 3};
    static const uint64_t u64[] = {2, 3};
    static const struct {
        int dtype;
        const void *data;
        double expected[2];
    } cases[] = {
        {DEMIST_F32, f32, {-2, 3}},   {DEMIST_F64, f64, {-2, 3}},   {DEMIST_F16, f16, {-2, 3}},
        {DEMIST_I8, i8, {-2, 3}},     {DEMIST_BF16, bf16, {-2, 3}}, {DEMIST_I16, i16, {-2, 3}},
        {DEMIST_I32, i32, {-2, 3}},   {DEMIST_I64, i64, {-2, 3}},   {DEMIST_U8, u8, {2, 3}},
        {DEMIST_U16, u16, {2, 3}},    {DEMIST_U32, u32, {2, 3}},    {DEMIST_U64, u64, {2, 3}},
        {DEMIST_BOOL, truth, {0, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct dm_tensor_view view = view_of(cases[i].dtype, cases[i].data, 2);
        float single[2];
        double wide[2];
        int64_t whole[2];
        assert_int_equal(dm_tensor_to_f32(&view, single, NULL), DEMIST_OK);
        assert_int_equal(dm_tensor_to_f64(&view, wide, NULL), DEMIST_OK);
        assert_int_equal(dm_tensor_to_i64(&view, whole, NULL), DEMIST_OK);
        for (int k = 0; k < 2; k++) {
            assert_true(wide[k] == cases[i].expected[k]);
            assert_true((double)single[k] == cases[i].expected[k]);
            assert_true((double)whole[k] == cases[i].expected[k]);
        }
    }
}

static void test_refuses_integers_that_do_not_fit(void **state)
{
    static const float broken[] = {1, 1.5F}, huge[] = {1, 0x1p63F}, nan[] = {1, NAN};
    static const float lowest[] = {-0x1p63F, 0};
    static const uint64_t large[] = {1, UINT64_MAX};
    struct dm_error err = DM_ERROR_INIT;
    int64_t out[2];
    struct dm_tensor_view view = view_of(DEMIST_F32, broken, 2);
    assert_int_equal(dm_tensor_to_i64(&view, out, &err), DEMIST_INVALID);
    assert_contains(err.text, "element 1 of tensor \"t\"");
    view = view_of(DEMIST_F32, huge, 2);
    assert_int_equal(dm_tensor_to_i64(&view, out, &err), DEMIST_INVALID);
    view = view_of(DEMIST_F32, nan, 2);
    assert_int_equal(dm_tensor_to_i64(&view, out, &err), DEMIST_INVALID);
    view = view_of(DEMIST_U64, large, 2);
    assert_int_equal(dm_tensor_to_i64(&view, out, &err), DEMIST_INVALID);
    view = view_of(DEMIST_F32, lowest, 2);
    assert_int_equal(dm_tensor_to_i64(&view, out, NULL), DEMIST_OK);
    assert_true(out[0] == INT64_MIN);
    dm_error_clear(&err);
}

static void test_elements_are_counted_without_overflow(void **state)
{
    int64_t n;
    assert_true(dm_shape_elements(0, NULL, &n));
    assert_int_equal(n, 1);
    assert_true(dm_shape_elements(3, (int64_t[]){3, 0, 5}, &n));
    assert_int_equal(n, 0);
    assert_true(dm_shape_elements(1, (int64_t[]){INT64_MAX}, &n));
    assert_false(dm_shape_elements(2, (int64_t[]){INT64_MAX, 2}, &n));
    assert_false(dm_shape_elements(3, (int64_t[]){INT64_MAX, 0, 2}, &n));
    assert_false(dm_shape_elements(1, (int64_t[]){-1}, &n));
}

static void test_gathers_strided_arrays(void **state)
{
    static const int16_t from[] = {0, 1, 2, 3, 4, 5};
    int16_t to[12];
    dm_copy_strided(to, from, 2, 2, (int64_t[]){3, 2}, (int64_t[]){1, 3});
    assert_memory_equal(to, ((int16_t[]){0, 3, 1, 4, 2, 5}), 12);
    dm_copy_strided(to, from, 2, 3, (int64_t[]){2, 3, 2}, (int64_t[]){0, 2, 1});
    assert_memory_equal(to, ((int16_t[]){0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}), 24);
    dm_copy_strided(to, from + 4, 2, 0, NULL, NULL);
    assert_int_equal(to[0], 4);
    to[0] = 9;
    dm_copy_strided(to, from, 2, 2, (int64_t[]){0, 2}, (int64_t[]){2, 1});
    assert_int_equal(to[0], 9);
}

static void test_files_of_no_format_are_refused(void **state)
{
    struct dm_text file = DM_TEXT_INIT;
    assert_int_equal(refuse_part(&file, 0, "the file is empty"), DEMIST_FORMAT);
    dm_text_append(&file, "[network]\nuse = mlp\n");
    assert_refused(&file, DEMIST_FORMAT, "not a tensor file");
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt;
    assert_int_equal(dm_checkpoint_open("/nonexistent/a.pt", &ckpt, &err), DEMIST_NOT_FOUND);
    assert_contains(err.text, "/nonexistent/a.pt: cannot open");
    assert_int_equal(dm_checkpoint_open("/tmp", &ckpt, &err), DEMIST_IO);
    assert_contains(err.text, "/tmp: not a regular file");
    dm_error_clear(&err);
    dm_checkpoint_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_f16_is_exact),
        cmocka_unit_test(test_bf16_is_the_upper_half_of_f32),
        cmocka_unit_test(test_converts_every_type),
        cmocka_unit_test(test_refuses_integers_that_do_not_fit),
        cmocka_unit_test(test_elements_are_counted_without_overflow),
        cmocka_unit_test(test_gathers_strided_arrays),
        cmocka_unit_test(test_files_of_no_format_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

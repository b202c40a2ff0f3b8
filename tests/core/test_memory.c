#include "testing.h"

#include "memory.h"

static void test_size_overflow_is_caught(void **state)
{
    size_t out = 7;
    assert_true(dm_mul_size(6, 7, &out));
    assert_int_equal(out, 42);
    assert_true(dm_mul_size(SIZE_MAX, 1, &out));
    assert_true(dm_mul_size(0, SIZE_MAX, &out));
    assert_int_equal(out, 0);
    out = 7;
    assert_false(dm_mul_size(SIZE_MAX / 2 + 1, 2, &out));
    assert_false(dm_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(dm_add_size(SIZE_MAX - 1, 1, &out));
}

static void test_blocks_are_aligned_and_writable(void **state)
{
    size_t const sizes[] = {0, 1, 63, 4096, (2 << 20) - 1, 2 << 20, (5 << 20) + 3};
    size_t const aligns[] = {0, 1, 64, 256, 4096, 4 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t a = 0; a < sizeof aligns / sizeof *aligns; a++) {
            unsigned char *block = dm_alloc_aligned(sizes[s], aligns[a]);
            assert_non_null(block);
            size_t least = aligns[a] > 64 ? aligns[a] : 64;
            assert_int_equal((uintptr_t)block % least, 0);
            if (sizes[s] >= 2 << 20)
                assert_int_equal((uintptr_t)block % (2 << 20), 0);
            memset(block, 0xA5, sizes[s]);
            dm_free_aligned(block);
        }
    dm_free_aligned(NULL);
}

static void test_refuses_odd_alignment_and_absurd_sizes(void **state)
{
    assert_null(dm_alloc_aligned(16, 48));
    assert_null(dm_alloc_aligned(PTRDIFF_MAX, 64));
}

static void test_arena_memory_is_zeroed_aligned_and_separate(void **state)
{
    struct dm_arena arena;
    dm_arena_init(&arena);
    enum { N = 5000 };
    unsigned char **blocks = calloc(N, sizeof *blocks);
    size_t *size_of = calloc(N, sizeof *size_of);
    unsigned seed = 1;
    for (int i = 0; i < N; i++) {
        seed = seed * 1664525u + 1013904223u;
        size_t size = i % 500 == 499 ? 100000 : seed >> 24; /* now and then beyond a chunk */
        blocks[i] = dm_arena_alloc(&arena, size);
        size_of[i] = size;
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % _Alignof(max_align_t), 0);
        for (size_t k = 0; k < size; k++)
            assert_int_equal(blocks[i][k], 0);
        memset(blocks[i], i & 0xff, size);
    }
    for (int i = 0; i < N; i++)
        for (size_t k = 0; k < size_of[i]; k++)
            assert_int_equal(blocks[i][k], i & 0xff);
    free(blocks);
    free(size_of);
    dm_arena_finish(&arena);
    assert_null(arena.chunks);
    dm_arena_finish(&arena);
}

static void test_arena_copies_text(void **state)
{
    struct dm_arena arena = {0};
    assert_string_equal(dm_arena_strdup(&arena, ""), "");
    assert_string_equal(dm_arena_strndup(&arena, "time_embed", 4), "time");
    assert_string_equal(dm_arena_printf(&arena, "%s.%d", "input_blocks", 3), "input_blocks.3");
    char *big = dm_arena_printf(&arena, "%0*d", 200000, 5);
    assert_int_equal(strlen(big), 200000);
    dm_arena_finish(&arena);
}

static void test_arena_refuses_sizes_that_overflow(void **state)
{
    struct dm_arena arena = {0};
    assert_null(dm_arena_alloc(&arena, SIZE_MAX));
    assert_null(dm_arena_alloc(&arena, SIZE_MAX - 64));
    assert_null(dm_arena_array(&arena, SIZE_MAX / 4, 8));
    assert_non_null(dm_arena_array(&arena, 4, 8));
    dm_arena_finish(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_overflow_is_caught),
        cmocka_unit_test(test_blocks_are_aligned_and_writable),
        cmocka_unit_test(test_refuses_odd_alignment_and_absurd_sizes),
        cmocka_unit_test(test_arena_memory_is_zeroed_aligned_and_separate),
        cmocka_unit_test(test_arena_copies_text),
        cmocka_unit_test(test_arena_refuses_sizes_that_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

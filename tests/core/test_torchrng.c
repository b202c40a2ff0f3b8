#include "testing.h"

#include "torchrng.h"

#include <math.h>

enum call { RANDN, RAND, RANDINT10, RANDINT_WIDE, RANDINT_SIGNED };
enum { MOST = 3072 };

static const struct golden {
    bool seeded;
    uint64_t seed;
    enum call call;
    size_t n;
    uint64_t first[4], hash;
} golden[] = {
#include "../data/torchrng.h"
};

/* The bits of n values of one call, widened to 64. */
static void draw(struct dm_torch_rng *rng, enum call call, size_t n, uint64_t *words)
{
    float *reals = calloc(n, sizeof *reals);
    int64_t *integers = calloc(n, sizeof *integers);
    assert_non_null(reals);
    assert_non_null(integers);
    switch (call) {
    case RANDN:
        dm_torch_randn(rng, n, reals);
        break;
    case RAND:
        dm_torch_rand(rng, n, reals);
        break;
    case RANDINT10:
        dm_torch_randint(rng, 0, 10, n, integers);
        break;
    case RANDINT_WIDE:
        dm_torch_randint(rng, 0, INT64_C(1) << 28, n, integers);
        break;
    case RANDINT_SIGNED:
        dm_torch_randint(rng, -3, INT64_C(1) << 40, n, integers);
        break;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &reals[i], sizeof bits);
        words[i] = call == RANDN || call == RAND ? bits : (uint64_t)integers[i];
    }
    free(reals);
    free(integers);
}

static void test_every_call_gives_pytorchs_bits(void **state)
{
    struct dm_torch_rng rng;
    for (size_t k = 0; k < sizeof golden / sizeof *golden; k++) {
        const struct golden *g = &golden[k];
        uint64_t words[MOST], hash = 0xcbf29ce484222325;
        if (g->seeded)
            dm_torch_seed(&rng, g->seed);
        draw(&rng, g->call, g->n, words);
        for (size_t i = 0; i < g->n; i++) {
            if (i < 4 && words[i] != g->first[i])
                fail_msg("row %zu, element %zu: %llx", k, i, (unsigned long long)words[i]);
            hash = (hash ^ words[i]) * 0x100000001b3;
        }
        if (hash != g->hash)
            fail_msg("row %zu (%zu values): bits differ after the first four", k, g->n);
    }
}

static void test_seeds_count_modulo_2_to_the_32(void **state)
{
    struct dm_torch_rng a, b;
    dm_torch_seed(&a, 77);
    dm_torch_seed(&b, 77 + (UINT64_C(9) << 32));
    assert_memory_equal(a.mt, b.mt, sizeof a.mt);
}

static void test_a_copied_state_repeats_the_stream(void **state)
{
    struct dm_torch_rng a, b;
    float x[50], y[50];
    dm_torch_seed(&a, 5);
    dm_torch_randn(&a, 7, x); /* leaves half a pair behind */
    b = a;
    for (size_t n = 1; n < 50; n++) {
        dm_torch_randn(&a, n, x);
        dm_torch_randn(&b, n, y);
        assert_memory_equal(x, y, n * sizeof *x);
    }
}

static void test_large_draws_leave_the_kept_half_of_a_small_pair(void **state)
{
    struct dm_torch_rng plain, mixed;
    float pair[2], one, large[16], other;
    dm_torch_seed(&plain, 3);
    dm_torch_randn(&plain, 2, pair);
    dm_torch_seed(&mixed, 3);
    dm_torch_randn(&mixed, 1, &one);
    dm_torch_randn(&mixed, 16, large);
    dm_torch_randn(&mixed, 1, &other);
    assert_true(one == pair[0] && other == pair[1]);
}

static void test_no_elements_draw_nothing(void **state)
{
    struct dm_torch_rng a, b;
    dm_torch_seed(&a, 1);
    b = a;
    dm_torch_randn(&a, 0, NULL);
    dm_torch_rand(&a, 0, NULL);
    assert_int_equal(a.used, b.used);
}

static void test_randint_stays_in_its_range(void **state)
{
    struct dm_torch_rng rng;
    int64_t x[1000];
    dm_torch_seed(&rng, 8);
    dm_torch_randint(&rng, -5, 2, 1000, x);
    for (int i = 0; i < 1000; i++)
        assert_true(x[i] >= -5 && x[i] < 2);
    dm_torch_randint(&rng, INT64_MIN, INT64_MAX, 1000, x);
    bool negative = false, positive = false;
    for (int i = 0; i < 1000; i++) {
        negative |= x[i] < 0;
        positive |= x[i] > 0;
    }
    assert_true(negative && positive);
}

static void test_normals_of_both_paths_have_unit_variance(void **state)
{
    static const size_t sizes[] = {15, 16, 1000};
    for (int k = 0; k < 3; k++) {
        struct dm_torch_rng rng;
        double sum = 0, squares = 0;
        int count = 0;
        float x[1000];
        dm_torch_seed(&rng, 123);
        while (count < 200000) {
            dm_torch_randn(&rng, sizes[k], x);
            for (size_t i = 0; i < sizes[k]; i++, count++)
                sum += x[i], squares += (double)x[i] * x[i];
        }
        assert_true(fabs(sum / count) < 5 / sqrt(count));
        assert_true(fabs(squares / count - 1) < 5 * sqrt(2.0 / count));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_gives_pytorchs_bits),
        cmocka_unit_test(test_seeds_count_modulo_2_to_the_32),
        cmocka_unit_test(test_a_copied_state_repeats_the_stream),
        cmocka_unit_test(test_large_draws_leave_the_kept_half_of_a_small_pair),
        cmocka_unit_test(test_no_elements_draw_nothing),
        cmocka_unit_test(test_randint_stays_in_its_range),
        cmocka_unit_test(test_normals_of_both_paths_have_unit_variance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

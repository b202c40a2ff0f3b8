#include "testing.h"

#include "philox.h"

#include <math.h>

static void assert_block(const uint32_t counter[4], const uint32_t key[2],
                         const uint32_t expected[4])
{
    uint32_t out[4];
    dm_philox4x32(counter, key, out);
    assert_memory_equal(out, expected, sizeof out);
}

/* The known answers that the authors of the generator publish with it (Random123, kat_vectors). */
static void test_words_are_the_published_known_answers(void **state)
{
    assert_block((uint32_t[]){0, 0, 0, 0}, (uint32_t[]){0, 0},
                 (uint32_t[]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    assert_block((uint32_t[]){~0u, ~0u, ~0u, ~0u}, (uint32_t[]){~0u, ~0u},
                 (uint32_t[]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    assert_block((uint32_t[]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                 (uint32_t[]){0xa4093822, 0x299f31d0},
                 (uint32_t[]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

static const uint64_t seed = 0x0123456789abcdef;
enum { IMAGE = 7, PURPOSE = DEMIST_NOISE_STEP, DRAW = 41, N = 100000 };

static void word_block(uint64_t block, uint32_t out[4])
{
    const uint32_t counter[4] = {(uint32_t)block, DRAW, PURPOSE, IMAGE};
    const uint32_t key[2] = {0x89abcdef, 0x01234567};
    dm_philox4x32(counter, key, out);
}

static void test_uniforms_are_the_words_of_their_counter(void **state)
{
    float *u = malloc(N * sizeof *u);
    assert_non_null(u);
    dm_philox_uniform(seed, IMAGE, PURPOSE, DRAW, 0, N, u);
    for (int i = 0; i < N; i++) {
        uint32_t r[4];
        word_block((uint64_t)i / 4, r);
        assert_true(u[i] == (float)(((double)r[i % 4] + 0.5) / 4294967296.0));
    }
    free(u);
}

/* In 64-bit long doubles every normal is known to far more digits than a float32 has, so that
 * even its rounding must agree. */
static void test_normals_are_box_muller_of_the_words_rounded_once(void **state)
{
    const long double two_pi = 6.283185307179586476925286766559L;
    float *z = malloc(N * sizeof *z);
    assert_non_null(z);
    dm_philox_normal(seed, IMAGE, PURPOSE, DRAW, 0, N, z);
    for (int i = 0; i < N; i++) {
        uint32_t r[4];
        word_block((uint64_t)i / 4, r);
        const uint32_t *pair = r + (i % 4 & 2);
        long double u0 = (pair[0] + 0.5L) / 4294967296.0L, u1 = (pair[1] + 0.5L) / 4294967296.0L;
        long double angle = two_pi * u1, radius = sqrtl(-2 * logl(u0));
        assert_true(z[i] == (float)(radius * (i % 2 ? sinl(angle) : cosl(angle))));
    }
    free(z);
}

typedef void generator(uint64_t, uint32_t, uint32_t, uint32_t, uint64_t, size_t, float *);

static void assert_ranges_do_not_matter(generator *make)
{
    enum { LENGTH = 3000 };
    float whole[LENGTH], part[LENGTH];
    make(seed, IMAGE, PURPOSE, DRAW, 0, LENGTH, whole);
    for (size_t first = 0; first < 300; first++) {
        size_t n = (first * 37) % (LENGTH - first);
        memset(part, 0xaa, sizeof part);
        make(seed, IMAGE, PURPOSE, DRAW, first, n, part);
        assert_memory_equal(part, whole + first, n * sizeof *part);
        for (size_t i = n; i < LENGTH; i++) /* and nothing beyond was written */
            assert_true(((unsigned char *)&part[i])[0] == 0xaa);
    }
}

static void test_any_range_of_elements_is_a_slice_of_the_whole(void **state)
{
    assert_ranges_do_not_matter(dm_philox_normal);
    assert_ranges_do_not_matter(dm_philox_uniform);
}

static void test_each_key_part_gives_another_stream(void **state)
{
    float base[64], other[6][64];
    dm_philox_normal(1, 2, 3, 4, 0, 64, base);
    dm_philox_normal(2, 2, 3, 4, 0, 64, other[0]);
    dm_philox_normal(1 + (UINT64_C(1) << 32), 2, 3, 4, 0, 64, other[1]);
    dm_philox_normal(1, 3, 3, 4, 0, 64, other[2]);
    dm_philox_normal(1, 2, 4, 4, 0, 64, other[3]);
    dm_philox_normal(1, 2, 3, 5, 0, 64, other[4]);
    dm_philox_normal(1, 2, 3, 4, 64, 64, other[5]);
    for (int k = 0; k < 6; k++)
        for (int i = 0; i < 64; i++)
            assert_true(base[i] != other[k][i]);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Bounds are five standard errors: with a fixed seed the test cannot flicker, and a generator with
 * a flaw of that size would not pass. */
static void test_normals_have_normal_moments_and_distribution(void **state)
{
    enum { COUNT = 1 << 20 };
    float *z = malloc(COUNT * sizeof *z);
    assert_non_null(z);
    dm_philox_normal(20240601, 0, DEMIST_NOISE_INITIAL, 0, 0, COUNT, z);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, lag1 = 0, lag2 = 0;
    for (int i = 0; i < COUNT; i++) {
        double x = z[i];
        m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
        lag1 += x * z[(i + 1) % COUNT];
        lag2 += x * z[(i + 2) % COUNT];
    }
    const double bound = 5 / sqrt(COUNT);
    assert_true(fabs(m1 / COUNT) < bound);
    assert_true(fabs(m2 / COUNT - 1) < bound * sqrt(2));
    assert_true(fabs(m3 / COUNT) < bound * sqrt(15));
    assert_true(fabs(m4 / COUNT - 3) < bound * sqrt(96));
    assert_true(fabs(lag1 / COUNT) < bound);
    assert_true(fabs(lag2 / COUNT) < bound);

    /* Kolmogorov-Smirnov: 1.95/sqrt(n) is exceeded once in a thousand seeds */
    qsort(z, COUNT, sizeof *z, by_value);
    double distance = 0;
    for (int i = 0; i < COUNT; i++) {
        double p = 0.5 * erfc(-z[i] / sqrt(2));
        distance = fmax(distance, fmax(fabs(p - (double)i / COUNT), fabs(p - (i + 1.0) / COUNT)));
    }
    assert_true(distance < 1.95 / sqrt(COUNT));
    free(z);
}

static void test_uniforms_are_even_and_never_zero(void **state)
{
    enum { COUNT = 1 << 20, BINS = 256 };
    float *u = malloc(COUNT * sizeof *u);
    assert_non_null(u);
    dm_philox_uniform(3, 1, DEMIST_NOISE_TIME, 9, 5, COUNT, u);
    int bins[BINS] = {0};
    for (int i = 0; i < COUNT; i++) {
        assert_true(u[i] > 0 && u[i] <= 1);
        bins[u[i] < 1 ? (int)(u[i] * BINS) : BINS - 1]++;
    }
    double chi2 = 0;
    for (int b = 0; b < BINS; b++)
        chi2 += pow(bins[b] - COUNT / BINS, 2) / (COUNT / BINS);
    assert_true(fabs(chi2 - (BINS - 1)) < 5 * sqrt(2 * (BINS - 1)));
    free(u);
}

static void test_elements_beyond_the_counter_are_nan_not_repeats(void **state)
{
    float z[8], last[4];
    dm_philox_normal(1, 0, 0, 0, DM_PHILOX_MAX_ELEMENTS - 4, 8, z);
    dm_philox_normal(1, 0, 0, 0, DM_PHILOX_MAX_ELEMENTS - 4, 4, last);
    assert_memory_equal(z, last, sizeof last);
    for (int i = 0; i < 8; i++)
        assert_int_equal(isnan(z[i]) != 0, i >= 4);
    dm_philox_uniform(1, 0, 0, 0, UINT64_MAX, 8, z);
    for (int i = 0; i < 8; i++)
        assert_true(isnan(z[i]));
}

static void test_wide_numbers_are_refused(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_philox_check(UINT32_MAX, UINT32_MAX, DM_PHILOX_MAX_ELEMENTS, &err),
                     DEMIST_OK);
    assert_int_equal(dm_philox_check(UINT64_C(1) << 32, 0, 1, &err), DEMIST_INVALID);
    assert_contains(err.text, "image index 4294967296");
    assert_int_equal(dm_philox_check(0, UINT64_C(1) << 32, 1, &err), DEMIST_INVALID);
    assert_contains(err.text, "draw number 4294967296");
    assert_int_equal(dm_philox_check(0, 0, DM_PHILOX_MAX_ELEMENTS + 1, &err), DEMIST_INVALID);
    assert_contains(err.text, "2^34");
    dm_error_clear(&err);
}

static void test_extension_offers_the_same_streams(void **state)
{
    float a[9], b[9];
    assert_int_equal(dm_philox_extension.size, sizeof(demist_philox));
    dm_philox_extension.normal(5, 4, 3, 2, 1, 9, a);
    dm_philox_normal(5, 4, 3, 2, 1, 9, b);
    assert_memory_equal(a, b, sizeof a);
    dm_philox_extension.uniform(5, 4, 3, 2, 1, 9, a);
    dm_philox_uniform(5, 4, 3, 2, 1, 9, b);
    assert_memory_equal(a, b, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_are_the_published_known_answers),
        cmocka_unit_test(test_uniforms_are_the_words_of_their_counter),
        cmocka_unit_test(test_normals_are_box_muller_of_the_words_rounded_once),
        cmocka_unit_test(test_any_range_of_elements_is_a_slice_of_the_whole),
        cmocka_unit_test(test_each_key_part_gives_another_stream),
        cmocka_unit_test(test_normals_have_normal_moments_and_distribution),
        cmocka_unit_test(test_uniforms_are_even_and_never_zero),
        cmocka_unit_test(test_elements_beyond_the_counter_are_nan_not_repeats),
        cmocka_unit_test(test_wide_numbers_are_refused),
        cmocka_unit_test(test_extension_offers_the_same_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "testing.h"

#include "detmath.h"

#include <math.h>

/* Distance in units of the last place of the float64 nearest to the exact value. */
static double ulps(double got, long double exact)
{
    double magnitude = fabs((double)exact);
    double unit = nextafter(magnitude, INFINITY) - magnitude;
    return (double)(fabsl((long double)got - exact) / unit);
}

/* Splitmix64: test inputs only. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static double unit_uniform(uint64_t *state)
{
    return ((double)(uint32_t)next(state) + 0.5) * 0x1p-32;
}

static void test_ln_is_within_one_ulp(void **state)
{
    uint64_t seed = 1;
    double worst = 0;
    for (int i = 0; i < 300000; i++) {
        double u = unit_uniform(&seed);
        double near_one = 1 + (u - 0.5) * ldexp(1, -(int)(next(&seed) % 40));
        double any = ldexp(1 + u, (int)(next(&seed) % 2040) - 1020);
        worst = fmax(worst, ulps(dm_ln(u), logl(u)));
        if (near_one != 1)
            worst = fmax(worst, ulps(dm_ln(near_one), logl(near_one)));
        worst = fmax(worst, ulps(dm_ln(any), logl(any)));
    }
    assert_true(dm_ln(1) == 0);
    if (worst >= 1)
        fail_msg("ln is off by %g ulp", worst);
}

static void test_sine_and_cosine_are_within_one_ulp(void **state)
{
    /* With 64-bit long doubles the exact value is known to about 2^-11 ulp; the argument is
     * reduced first, as 2 pi u itself would lose that. */
    const long double two_pi = 6.283185307179586476925286766559L;
    uint64_t seed = 2;
    double worst = 0;
    for (int i = 0; i < 300000; i++) {
        double r = (unit_uniform(&seed) - 0.5) * 0.25, sine, cosine;
        if (i % 2)
            r *= ldexp(1, -(int)(next(&seed) % 30));
        dm_sincos_turns(r, &sine, &cosine);
        worst = fmax(worst, ulps(sine, sinl(two_pi * r)));
        worst = fmax(worst, ulps(cosine, cosl(two_pi * r)));
    }
    if (worst >= 1)
        fail_msg("sin or cos is off by %g ulp", worst);
}

static void test_quadrants_are_exact_rotations(void **state)
{
    uint64_t seed = 3;
    for (int i = 0; i < 10000; i++) {
        double u = ((double)(next(&seed) >> 34) + 0.5) * 0x1p-33, s, c; /* u + n is exact */
        dm_sincos_turns(u, &s, &c);
        for (int turn = -3; turn <= 3; turn++) {
            double sq, cq;
            dm_sincos_turns(u + turn * 0.25, &sq, &cq);
            int quadrant = turn & 3;
            double sines[] = {s, c, -s, -c}, cosines[] = {c, -s, -c, s};
            assert_true(sq == sines[quadrant]);
            assert_true(cq == cosines[quadrant]);
        }
    }
    double s, c;
    dm_sincos_turns(0.25, &s, &c);
    assert_true(s == 1 && c == 0);
    dm_sincos_turns(0.5, &s, &c);
    assert_true(s == 0 && c == -1);
}

/* The bits are the contract: a compiler that contracts or reorders is found here. The sums were
 * made by the Python port in tests/tools/make_detmath.py, whose floats never contract. */
static void test_bits_are_those_of_exact_ieee_arithmetic(void **state)
{
    uint64_t ln = 0, sine = 0, cosine = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        double u = ((double)(i * UINT32_C(2654435761)) + 0.5) * 0x1p-32, s, c;
        dm_sincos_turns(u, &s, &c);
        ln = ln * 31 + dm_to_bits(dm_ln(u));
        sine = sine * 31 + dm_to_bits(s);
        cosine = cosine * 31 + dm_to_bits(c);
    }
    assert_int_equal(ln, UINT64_C(0xfb3c075106ea6c4e));
    assert_int_equal(sine, UINT64_C(0x7e0412d61ec12af2));
    assert_int_equal(cosine, UINT64_C(0x103b40eedf243545));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ln_is_within_one_ulp),
        cmocka_unit_test(test_sine_and_cosine_are_within_one_ulp),
        cmocka_unit_test(test_quadrants_are_exact_rotations),
        cmocka_unit_test(test_bits_are_those_of_exact_ieee_arithmetic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

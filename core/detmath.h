/* ln, sin and cos in float64 with the same bits on every CPU, compiler and device.
 *
 * libm's functions differ between versions and CPUs in the last bit, so noise made with them would
 * too. These use only IEEE-exact operations (+ - * / and bit manipulation) in the order written:
 * no fma, no table, no branch, so that loops over them vectorise and a port to OpenCL or CUDA
 * follows them line by line with contraction turned off. Each is within 1 ulp (tested).
 *
 * Coefficients: tests/tools/make_detmath.py (Chebyshev interpolation in 60 digits). Rounding must
 * be to nearest, as the C library starts programs. */
#ifndef DM_DETMATH_H
#define DM_DETMATH_H

#include <float.h>
#include <stdint.h>
#include <string.h>

_Static_assert(FLT_EVAL_METHOD == 0, "double arithmetic must round to double, not to more");
#ifdef __FAST_MATH__
#error "detmath.h needs exact IEEE arithmetic: build without -ffast-math"
#endif

static inline double dm_from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint64_t dm_to_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* ln x for positive, normal, finite x; anything else gives a meaningless number, never a trap.
 *
 * x = 2^k m with m in [sqrt(1/2), sqrt(2)); f = m - 1 (exact), s = f / (2 + f), so that
 * ln m = ln((1+s)/(1-s)) = 2s + s z P(z) with z = s^2, and 2s = f - s f keeps f exact. */
static inline double dm_ln(double x)
{
    const uint64_t one = 0x3ff0000000000000, sqrt_half = 0x3fe6a09e667f3bcd;
    const uint64_t shifted = dm_to_bits(x) + (one - sqrt_half);
    const double m = dm_from_bits((shifted & 0x000fffffffffffff) + sqrt_half);
    /* k + 1023 as an integer below 2^52, put into the mantissa of 2^52: a conversion that
     * vectorises without AVX-512. */
    const double k = dm_from_bits(0x4330000000000000 | shifted >> 52) - (0x1p52 + 1023);
    const double f = m - 1;
    const double s = f / (2 + f);
    const double z = s * s;
    double p = 0x1.2b584aae78a57p-3;
    p = p * z + 0x1.39fe606542ddep-3;
    p = p * z + 0x1.7462b4ab2ef6bp-3;
    p = p * z + 0x1.c71c62e5800a1p-3;
    p = p * z + 0x1.2492492df148dp-2;
    p = p * z + 0x1.99999999952e2p-2;
    p = p * z + 0x1.5555555555558p-1;
    const double ln2_high = 0x1.62e42fefa2p-1; /* 40 bits: k * ln2_high is exact */
    const double ln2_low = 0x1.9ef35793c7673p-41;
    return k * ln2_high + (f - (s * (f - z * p) - k * ln2_low));
}

/* *sine = sin(2 pi u), *cosine = cos(2 pi u) for |u| < 2^50: u in turns, so that the reduction is
 * exact. u = q/4 + r with |r| <= 1/8; the quadrant q exchanges and negates. */
static inline void dm_sincos_turns(double u, double *sine, double *cosine)
{
    const double round_to_integer = 0x1.8p52;
    const double shifted = u * 4 + round_to_integer;
    const double r = u - (shifted - round_to_integer) * 0.25;
    const uint64_t q = dm_to_bits(shifted); /* its low bits are the integer's */
    const double z = r * r;

    /* x = 2 pi r = high + low, where high has 26 bits: its square is exact, and the rounding of the
     * product, up to an ulp of the sine, stays in the small part. */
    const double two_pi = 0x1.921fb54442d18p+2;
    const double two_pi_high = 0x1.921p+2, two_pi_low = 0x1.f6a8885a308d3p-11;
    const double r_high = dm_from_bits(dm_to_bits(r) & 0xffffff0000000000);
    const double high = r_high * two_pi_high;
    const double low = r_high * two_pi_low + (r - r_high) * two_pi;

    /* sin x = x + r z S(z) */
    double p = 0x1.e4a9d9166f052p+1;
    p = p * z + -0x1.e3027dea82bd7p+3;
    p = p * z + 0x1.50783208843ebp+5;
    p = p * z + -0x1.32d2cce500387p+6;
    p = p * z + 0x1.466bc6775a476p+6;
    p = p * z + -0x1.4abbce625be52p+5;
    const double s = high + (low + r * (p * z));

    /* cos x = 1 - x^2/2 + z^2 C(z) */
    p = -0x1.b38340f56931fp+0;
    p = p * z + 0x1.f9cfc07738157p+2;
    p = p * z + -0x1.a6d1f0ab7905cp+4;
    p = p * z + 0x1.e1f50688302c5p+5;
    p = p * z + -0x1.55d3c7e3cbd74p+6;
    p = p * z + 0x1.03c1f081b5ac4p+6;
    const double half_square = high * high * 0.5;
    const double w = 1 - half_square;
    const double c = w + (((1 - w) - half_square) + (z * z * p - low * (high + low * 0.5)));

    const uint64_t exchange = (dm_to_bits(s) ^ dm_to_bits(c)) & (0 - (q & 1));
    *sine = dm_from_bits((dm_to_bits(s) ^ exchange) ^ (q & 2) << 62);
    *cosine = dm_from_bits((dm_to_bits(c) ^ exchange) ^ ((q + 1) & 2) << 62);
}

#endif

/* exp, log, tanh, erf, sigmoid, … on vectors, sin and cos on scalars: the library's own, because
 * libm's differ between versions and CPUs in the last bit.
 *
 * Errors stand at each function (tests/backends/test_cpu_math.c measures them against long double);
 * NaN gives NaN, infinities give the limits. Polynomials: least maximum of the relative error, made
 * by tests/tools/make_cpu_math.py, rounded to float32. */
#ifndef CPU_VEC_MATH_H
#define CPU_VEC_MATH_H

#include "cpu_vec.h"

/* p·2^n for integral n, -252 <= n <= 254, rounding once at the end where the result is subnormal */
CPU_INLINE vf v_scale2(vf p, vf n)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    const vi k = v_to_int(n), half = k >> 1;
    p *= (vf)((half + 127) << 23);
    return p * (vf)((k - half + 127) << 23);
#endif
}

/* e^x, 1.5 ulp. x = n·ln2 + r, |r| <= ln2/2; e^r = 1 + r + r²·P(r). */
CPU_INLINE vf v_exp(vf x)
{
    x = v_min(v_set(90.0f), v_max(v_set(-105.0f), x));
    const vf n = v_round_small(x * v_set(0x1.715476p+0f));
    vf r = v_fnma(n, v_set(0x1.62e4p-1f), x); /* 15 bits: the product is exact */
    r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
    vf p = v_set(0x1.6db8dcp-10f);
    p = v_fma(p, r, v_set(0x1.123ebcp-7f));
    p = v_fma(p, r, v_set(0x1.555458p-5f));
    p = v_fma(p, r, v_set(0x1.55548ap-3f));
    p = v_fma(p, r, v_set(0.5f));
    return v_scale2(v_fma(p, r * r, r) + v_set(1.0f), n);
}

/* ln x, 1.5 ulp; -inf for 0, NaN below. x = 2^k·(1 + f), 1 + f in [sqrt(1/2), sqrt(2)). */
CPU_INLINE vf v_log(vf x)
{
    const vf tiny = v_set(0x1p-126f), zero = v_zero();
    const vf normal = v_if_less(x, tiny, x * v_set(0x1p23f), x);
    const vi sqrt_half = v_seti(0x3f3504f3);
    const vi shifted = (vi)normal - sqrt_half;
    const vi exponent = shifted >> 23;
    /* the integer exponent as a float: |exponent| < 2^22 */
    vf k = (vf)(exponent + v_seti(0x4b400000)) - v_set(12582912.0f);
    k = v_if_less(x, tiny, k - v_set(23.0f), k);
    const vf f = (vf)((vi)normal - (exponent << 23)) - v_set(1.0f);
    vf p = v_set(0x1.1b40e4p-4f);
    p = v_fma(p, f, v_set(-0x1.e2e918p-4f));
    p = v_fma(p, f, v_set(0x1.e6512ep-4f));
    p = v_fma(p, f, v_set(-0x1.fb434ep-4f));
    p = v_fma(p, f, v_set(0x1.2332b8p-3f));
    p = v_fma(p, f, v_set(-0x1.5562e2p-3f));
    p = v_fma(p, f, v_set(0x1.99a546p-3f));
    p = v_fma(p, f, v_set(-0x1.ffffeep-3f));
    p = v_fma(p, f, v_set(0x1.555546p-2f));
    const vf ff = f * f;
    vf y = v_fma(k, v_set(0x1.7f7d1cp-20f), p * (f * ff));
    y = v_fnma(ff, v_set(0.5f), y);
    y = v_fma(k, v_set(0x1.62e4p-1f), f + y);
    const vf inf = v_set(__builtin_inff());
    y = v_if_less(x, inf, y, x); /* +inf and NaN pass through */
    y = v_if_less(zero, x, y, v_if_less(x, zero, v_set(__builtin_nanf("")), x - inf));
    return y;
}

/* 1/(1 + e^-x), 2.5 ulp (flushes to 0 below about -104) */
CPU_INLINE vf v_sigmoid(vf x)
{
    return v_set(1.0f) / (v_set(1.0f) + v_exp(-x));
}

/* x·sigmoid(x), 3 ulp */
CPU_INLINE vf v_silu(vf x)
{
    return x / (v_set(1.0f) + v_exp(-x));
}

/* 2.5 ulp. x + x³·P(x²) near 0, else 1 - 2/(e^2|x| + 1). */
CPU_INLINE vf v_tanh(vf x)
{
    const vf t = v_abs(x), z = x * x;
    vf p = v_set(-0x1.72fc24p-8f);
    p = v_fma(p, z, v_set(0x1.518b0cp-6f));
    p = v_fma(p, z, v_set(-0x1.b8265cp-5f));
    p = v_fma(p, z, v_set(0x1.11068ep-3f));
    p = v_fma(p, z, v_set(-0x1.555530p-2f));
    const vf near_zero = v_fma(p * z, x, x);
    const vf far = v_set(1.0f) - v_set(2.0f) / (v_exp(t + t) + v_set(1.0f));
    return v_if_less(t, v_set(0.625f), near_zero, v_sign_of(x, far));
}

/* erfc(t) for t >= 0, 5 ulp for t < 3, growing to 20 where it is subnormal:
 * e^(-t²)·Q(w), w = (t-3)/(t+3). t² is split so that its rounding does not enter the exponent. */
CPU_INLINE vf v_erfc_positive(vf t)
{
    t = v_min(v_set(11.0f), t);
    const vf w = (t - v_set(3.0f)) / (t + v_set(3.0f));
    vf q = v_set(0x1.c8c9c0p-15f);
    q = v_fma(q, w, v_set(0x1.d3fc5ep-16f));
    q = v_fma(q, w, v_set(-0x1.365b88p-11f));
    q = v_fma(q, w, v_set(0x1.78221cp-11f));
    q = v_fma(q, w, v_set(0x1.17ad78p-8f));
    q = v_fma(q, w, v_set(-0x1.8fafd8p-6f));
    q = v_fma(q, w, v_set(0x1.258b66p-4f));
    q = v_fma(q, w, v_set(-0x1.336fdap-3f));
    q = v_fma(q, w, v_set(0x1.f6ff1cp-3f));
    q = v_fma(q, w, v_set(-0x1.4e102cp-2f));
    q = v_fma(q, w, v_set(0x1.6e9828p-3f));
    const vf high = (vf)((vi)t & v_seti((int32_t)0xfffff000u)); /* 12 bits: its square is exact */
    return q * v_exp(-(high * high)) * v_exp((high - t) * (high + t));
}

/* 2 ulp. x·P(x²) near 0, else 1 - erfc|x|. */
CPU_INLINE vf v_erf(vf x)
{
    const vf t = v_abs(x), z = x * x;
    vf p = v_set(0x1.4ae4c6p-14f);
    p = v_fma(p, z, v_set(-0x1.a485e8p-11f));
    p = v_fma(p, z, v_set(0x1.5419f4p-8f));
    p = v_fma(p, z, v_set(-0x1.b7fbb4p-6f));
    p = v_fma(p, z, v_set(0x1.ce2d20p-4f));
    p = v_fma(p, z, v_set(-0x1.81273ep-2f));
    p = v_fma(p, z, v_set(0x1.06eba8p-3f)); /* 2/sqrt(pi) - 1 */
    const vf far = v_sign_of(x, v_set(1.0f) - v_erfc_positive(t));
    return v_if_less(t, v_set(0.9375f), v_fma(p, x, x), far);
}

/* x·Φ(x), Φ(x) = erfc(-x/√2)/2: no cancellation for x < 0. One exponential: the error of t² enters
 * a factor that has become small. */
CPU_INLINE vf v_gelu(vf x)
{
    const vf t = v_min(v_set(11.0f), v_abs(x) * v_set(0x1.6a09e6p-1f));
    const vf w = (t - v_set(3.0f)) / (t + v_set(3.0f));
    vf q = v_set(0x1.c8c9c0p-15f);
    q = v_fma(q, w, v_set(0x1.d3fc5ep-16f));
    q = v_fma(q, w, v_set(-0x1.365b88p-11f));
    q = v_fma(q, w, v_set(0x1.78221cp-11f));
    q = v_fma(q, w, v_set(0x1.17ad78p-8f));
    q = v_fma(q, w, v_set(-0x1.8fafd8p-6f));
    q = v_fma(q, w, v_set(0x1.258b66p-4f));
    q = v_fma(q, w, v_set(-0x1.336fdap-3f));
    q = v_fma(q, w, v_set(0x1.f6ff1cp-3f));
    q = v_fma(q, w, v_set(-0x1.4e102cp-2f));
    q = v_fma(q, w, v_set(0x1.6e9828p-3f));
    const vf tail = v_set(0.5f) * q * v_exp(v_set(-0.5f) * x * x); /* Φ(-|x|) */
    return x * v_if_less(x, v_zero(), tail, v_set(1.0f) - tail);
}

/* x - k·π/2 in float64, |result| <= π/4 (and a hair), and k mod 4. Exact to 1e-11 for every finite
 * float: Cody-Waite in three parts up to 2^20, then the bits of 2/π that matter (Payne, Hanek). */
static inline double cpu_reduce_half_pi(float x, int *quadrant)
{
    if (__builtin_fabsf(x) < 1048576.0f) {
        const double magic = 6755399441055744.0; /* 1.5·2^52 */
        const double k = ((double)x * 0x1.45f306dc9c883p-1 + magic) - magic;
        *quadrant = (int)((int64_t)k & 3);
        return (((double)x - k * 0x1.921fb544p+0) - k * 0x1.0b4611a0p-34) -
               k * 0x1.898cc51701b84p-64;
    }
    static const uint32_t two_over_pi[9] = {0,          0xa2f9836e, 0x4e441529,
                                            0xfc2757d1, 0xf534ddc0, 0xdb629599,
                                            0x3c439041, 0xfe5163ab, 0xdebbc561};
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* |x| = m·2^e with 24 bits in m. Of 2/π, the bits before number e - 2 contribute multiples of
     * 4; the 96 that follow are enough. The table starts with 32 zeros for e < 2. */
    const int from = (int)(bits >> 23 & 0xff) - 150 - 2 + 32;
    const uint64_t m = (bits & 0x7fffff) | 0x800000;
    uint32_t w[3];
    for (int i = 0; i < 3; i++) {
        const uint32_t *at = two_over_pi + from / 32 + i;
        w[i] = (uint32_t)(((uint64_t)at[0] << 32 | at[1]) >> (32 - from % 32));
    }
    /* The upper 64 of the product's 96 bits (what is above them is a multiple of 4): quarter turns
     * in units of 2^-62. */
    const uint64_t middle = m * w[1] + (m * w[2] >> 32);
    const uint64_t turns = (m * w[0] + (middle >> 32)) << 32 | (middle & 0xffffffff);
    const int64_t fraction = (int64_t)(turns << 2); /* units of 2^-64: in [-1/2, 1/2) */
    int k = (int)(turns >> 62) + (fraction < 0);
    double r = (double)fraction * 0x1p-64 * 0x1.921fb54442d18p+0;
    if (bits >> 31) {
        r = -r;
        k = -k;
    }
    *quadrant = k & 3;
    return r;
}

/* sin(x + shift·π/2), 0.51 ulp: polynomials in float64 */
static inline float cpu_sin_shifted(float x, int shift)
{
    if (!(__builtin_fabsf(x) < __builtin_inff()))
        return x - x;
    int quadrant;
    const double r = cpu_reduce_half_pi(x, &quadrant), z = r * r;
    quadrant += shift;
    double y;
    if (quadrant & 1) {
        y = ((-2.7206787289792394e-07 * z + 2.4799478613664185e-05) * z - 0.0013888883598216729) *
                z +
            0.04166666662105141;
        y = 1 - 0.5 * z + z * z * y;
    } else {
        y = ((2.7179398278250808e-06 * z - 0.00019839296122025702) * z + 0.0083333292666950606) *
                z -
            0.16666666640612565;
        y = r + r * z * y;
    }
    return (float)(quadrant & 2 ? -y : y);
}

#endif

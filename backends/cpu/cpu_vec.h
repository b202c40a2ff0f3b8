/* A vector of VW floats, the one type in which the kernels of every instruction-set level are
 * written: cpu_kernel_body.h is compiled once per level, with CPU_LEVEL_AVX2, CPU_LEVEL_AVX512 or
 * neither (generic: 4 floats, GCC's vector extensions, any architecture).
 *
 * Everything is static: an inline function with linkage, compiled above the baseline in one file,
 * could be the copy that the linker keeps for all.
 *
 * v_fma(a, b, c) is one rounding with AVX2 and AVX-512, two in the generic level: results are
 * repeatable within a level, not across. */
#ifndef CPU_VEC_H
#define CPU_VEC_H

#include <stdint.h>
#include <string.h>

#if defined(CPU_LEVEL_AVX512) || defined(CPU_LEVEL_AVX2)
#include <immintrin.h>
#endif

#if defined(CPU_LEVEL_AVX512)
#define VW 16
#elif defined(CPU_LEVEL_AVX2)
#define VW 8
#else
#define VW 4
#endif

#define CPU_INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * VW), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VW), may_alias));
typedef float vf_unaligned __attribute__((vector_size(4 * VW), may_alias, aligned(4)));

CPU_INLINE vf v_load(const float *p)
{
    return *(const vf_unaligned *)p;
}

CPU_INLINE void v_store(float *p, vf x)
{
    *(vf_unaligned *)p = x;
}

CPU_INLINE vf v_set(float x)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_set1_ps(x);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_set1_ps(x);
#else
    return (vf){x, x, x, x};
#endif
}

CPU_INLINE vi v_seti(int32_t x)
{
    return x - (vi){0};
}

CPU_INLINE vf v_zero(void)
{
    return (vf){0};
}

/* The first n lanes, 0 <= n <= VW; the others are 0 and their memory is not touched. */
CPU_INLINE vf v_load_n(const float *p, int64_t n)
{
    if (n == VW)
        return v_load(p);
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf x = v_zero();
    memcpy(&x, p, (size_t)n * sizeof *p);
    return x;
#endif
}

CPU_INLINE void v_store_n(float *p, vf x, int64_t n)
{
    if (n == VW) {
        v_store(p, x);
        return;
    }
#if defined(CPU_LEVEL_AVX512)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#else
    memcpy(p, &x, (size_t)n * sizeof *p);
#endif
}

/* a·b + c */
CPU_INLINE vf v_fma(vf a, vf b, vf c)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* c − a·b */
CPU_INLINE vf v_fnma(vf a, vf b, vf c)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return c - a * b;
#endif
}

/* a < b ? x : y, lane by lane; y where a or b is NaN */
CPU_INLINE vf v_if_less(vf a, vf b, vf x, vf y)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ), (__m512)y,
                                    (__m512)x);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_blendv_ps((__m256)y, (__m256)x,
                                _mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ));
#else
    const vi mask = a < b;
    return (vf)((mask & (vi)x) | (~mask & (vi)y));
#endif
}

/* a > b ? a : b; b where one is NaN */
CPU_INLINE vf v_max(vf a, vf b)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return v_if_less(b, a, a, b);
#endif
}

/* a < b ? a : b; b where one is NaN */
CPU_INLINE vf v_min(vf a, vf b)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return v_if_less(a, b, a, b);
#endif
}

/* Correctly rounded. */
CPU_INLINE vf v_sqrt(vf x)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    vf y;
    for (int i = 0; i < VW; i++)
        y[i] = __builtin_sqrtf(x[i]);
    return y;
#endif
}

/* To the nearest integer, half to even, for |x| < 2^22. */
CPU_INLINE vf v_round_small(vf x)
{
    const vf magic = v_set(12582912.0f); /* 1.5·2^23 */
    return (x + magic) - magic;
}

/* Integral lanes of |x| < 2^22 as integers. */
CPU_INLINE vi v_to_int(vf x)
{
    return (vi)(x + v_set(12582912.0f)) - v_seti(0x4b400000);
}

/* |x|, and x's sign with y's magnitude (y >= 0) */
CPU_INLINE vf v_abs(vf x)
{
    return (vf)((vi)x & v_seti(0x7fffffff));
}

CPU_INLINE vf v_sign_of(vf x, vf y)
{
    return (vf)((vi)y | ((vi)x & v_seti((int32_t)0x80000000u)));
}

/* The lanes' sum, in a fixed order. */
CPU_INLINE float v_sum(vf x)
{
    float lane[VW];
    memcpy(lane, &x, sizeof x);
    for (int w = VW / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++)
            lane[i] += lane[i + w];
    return lane[0];
}

/* The largest lane; NaN where there is one. */
CPU_INLINE float v_max_lane(vf x)
{
    float m = x[0];
    for (int i = 1; i < VW; i++)
        m = x[i] > m || x[i] != x[i] ? x[i] : m;
    return m;
}

#endif

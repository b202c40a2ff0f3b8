/* A vector of VW floats, the one type in which the kernels of every instruction-set level are
 * written: cpu_kernel_body.h is compiled once per level, with CPU_LEVEL_AVX2, CPU_LEVEL_AVX512 or
 * neither (generic: 4 floats, GCC's vector extensions, any architecture).
 *
 * Everything is static: an inline function with linkage, compiled above the baseline in one file,
 * could be the copy that the linker keeps for all.
 *
 * v_fma(a, b, c) is one rounding with AVX2 and AVX-512, two in the generic level: results are
 * repeatable within a level, not across.
 *
 * bf16 numbers are the upper halves of floats. CPU_LEVEL_BF16 (with CPU_LEVEL_AVX512) has
 * instructions for them; the other levels compute the same with shifts, bit by bit but for
 * subnormals, which those instructions take for zero. */
#ifndef CPU_VEC_H
#define CPU_VEC_H

#include <stdbool.h>
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
typedef uint32_t vu __attribute__((vector_size(4 * VW), may_alias));
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
#if defined(CPU_LEVEL_AVX512)
    return _mm512_reduce_add_ps((__m512)x); /* in the same order */
#else
    float lane[VW];
    memcpy(lane, &x, sizeof x);
    for (int w = VW / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++)
            lane[i] += lane[i + w];
    return lane[0];
#endif
}

/* The largest lane; NaN where there is one. */
CPU_INLINE float v_max_lane(vf x)
{
#if defined(CPU_LEVEL_AVX512)
    const bool nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q) != 0;
    return nan ? __builtin_nanf("") : _mm512_reduce_max_ps((__m512)x);
#else
    float m = x[0];
    for (int i = 1; i < VW; i++)
        m = x[i] > m || x[i] != x[i] ? x[i] : m;
    return m;
#endif
}

/* --- bf16 --- */

/* VW numbers, and the first n (the others are 0). */
CPU_INLINE vf v_load16(const uint16_t *p)
{
#if defined(CPU_LEVEL_AVX512)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
#elif defined(CPU_LEVEL_AVX2)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
#else
    const vu x = {p[0], p[1], p[2], p[3]};
    return (vf)(x << 16);
#endif
}

CPU_INLINE vf v_load16_n(const uint16_t *p, int64_t n)
{
    if (n == VW)
        return v_load16(p);
    uint16_t x[VW] = {0};
    memcpy(x, p, (size_t)n * sizeof *p);
    return v_load16(x);
}

/* To the nearest, halves to even; NaN stays NaN. */
CPU_INLINE void v_store16(uint16_t *p, vf x)
{
#if defined(CPU_LEVEL_BF16)
    _mm256_storeu_si256((void *)p, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    const vu bits = (vu)x, nan = (vu)(x != x); /* NOLINT(misc-redundant-expression) */
    const vu nearest = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
    const vu y = ((nan & quiet) | (~nan & nearest)) >> 16;
#if defined(CPU_LEVEL_AVX512)
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16((__m512i)y));
#elif defined(CPU_LEVEL_AVX2)
    const __m256i packed = _mm256_packus_epi32((__m256i)y, (__m256i)y);
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 8)));
#else
    for (int i = 0; i < VW; i++)
        p[i] = (uint16_t)y[i];
#endif
#endif
}

CPU_INLINE void v_store16_n(uint16_t *p, vf x, int64_t n)
{
    if (n == VW) {
        v_store16(p, x);
        return;
    }
    uint16_t y[VW];
    v_store16(y, x);
    memcpy(p, y, (size_t)n * sizeof *p);
}

/* The first n elements from `at` on of an array of floats or of bf16 numbers. */
CPU_INLINE vf v_load_as(const void *p, bool bf16, int64_t at, int64_t n)
{
    return bf16 ? v_load16_n((const uint16_t *)p + at, n) : v_load_n((const float *)p + at, n);
}

CPU_INLINE void v_store_as(void *p, bool bf16, int64_t at, vf x, int64_t n)
{
    if (bf16)
        v_store16_n((uint16_t *)p + at, x, n);
    else
        v_store_n((float *)p + at, x, n);
}

#if defined(CPU_LEVEL_BF16)
/* Two neighbours in every lane, the first one in the lower half. */
CPU_INLINE vi v_pair(const uint16_t *p)
{
    float x;
    memcpy(&x, p, sizeof x);
    return (vi)v_set(x);
}

/* s + a₁·b₁ + a₀·b₀ for the pairs in each lane, rounded after each step */
CPU_INLINE vf v_dot(vf s, vi a, vi b)
{
    return (vf)_mm512_dpbf16_ps((__m512)s, (__m512bh)a, (__m512bh)b);
}
#endif

/* The upper and the lower half of each lane as floats. */
CPU_INLINE vf v_upper(vi pair)
{
    return (vf)((vu)pair & 0xffff0000u);
}

CPU_INLINE vf v_lower(vi pair)
{
    return (vf)((vu)pair << 16);
}

#endif

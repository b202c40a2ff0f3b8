/* A stand-in for CUDA's half precision: bits and conversions, rounded to nearest, ties to even. */
#ifndef CUDA_EMULATOR_FP16_H
#define CUDA_EMULATOR_FP16_H

#include "cuda_runtime.h"

#ifdef __cplusplus

struct __half {
    unsigned short bits;
};
typedef __half half;
struct alignas(4) __half2 {
    __half x, y;
};
typedef __half2 half2;

inline float __half2float(__half h)
{
    const unsigned sign = (unsigned)(h.bits & 0x8000) << 16, e = h.bits >> 10 & 31;
    const unsigned m = h.bits & 1023;
    if (e == 0) { /* subnormal: m·2^-24 is exact */
        const float x = (float)m * 0x1p-24f;
        return sign ? -x : x;
    }
    return __uint_as_float(sign | (e == 31 ? 0xffu : e + 112) << 23 | m << 13);
}

inline __half __float2half_rn(float x)
{
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) /* NaN: CUDA's canonical one */
        return {0x7fff};
    if (rest >= 0x477ff000) /* 65520, half way beyond the largest, and infinity */
        return {(unsigned short)(sign | 0x7c00)};
    if (rest <
        0x38800000) { /* below 2^-14: to a multiple of 2^-24, by the rounding of an addition */
        const float shifted = fabsf(x) + 0.5f;
        return {(unsigned short)(sign | (__float_as_uint(shifted) - 0x3f000000))};
    }
    const unsigned rounded = rest + 0xfff + (rest >> 13 & 1) - 0x38000000;
    return {(unsigned short)(sign | rounded >> 13)};
}
inline __half __float2half(float x)
{
    return __float2half_rn(x);
}

inline __half __ushort_as_half(unsigned short bits)
{
    return {bits};
}
inline unsigned short __half_as_ushort(__half h)
{
    return h.bits;
}
inline __half2 __floats2half2_rn(float x, float y)
{
    return {__float2half_rn(x), __float2half_rn(y)};
}
inline float2 __half22float2(__half2 h)
{
    return {__half2float(h.x), __half2float(h.y)};
}

#endif
#endif

/* The two 16-bit floats as float32, exactly: every value of either is a float32. */
#ifndef DM_HALFFLOAT_H
#define DM_HALFFLOAT_H

#include <stdint.h>
#include <string.h>

static inline float dm_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float dm_bf16_to_f32(uint16_t bits)
{
    return dm_float_of_bits((uint32_t)bits << 16);
}

/* IEEE binary16: sign, 5 bits of exponent (bias 15), 10 of mantissa. */
static inline float dm_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    if (exponent == 0) { /* zero or subnormal: mantissa · 2^-24 */
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    if (exponent == 31) /* infinity or NaN */
        return dm_float_of_bits(sign | 0x7f800000u | mantissa << 13);
    return dm_float_of_bits(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

#endif

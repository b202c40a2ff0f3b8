/* Philox4x32-10 and Box-Muller's transform: docs/noise.md. The float64 functions repeat those of the
 * host operation by operation, so that bits agree; contraction is off. Only devices with float64
 * build this. */

INLINE double bits_double(ulong bits)
{
    return as_double(bits);
}

/* ln x = 2s + s·z·P(z) + k·ln2 with x = 2^k·(1 + f), s = f/(2 + f), z = s² */
INLINE double ln_exactly(double x)
{
    const ulong one = 0x3ff0000000000000UL, sqrt_half = 0x3fe6a09e667f3bcdUL;
    const ulong shifted = as_ulong(x) + (one - sqrt_half);
    const double m = bits_double((shifted & 0x000fffffffffffffUL) + sqrt_half);
    const double k = bits_double(0x4330000000000000UL | shifted >> 52) - (0x1p52 + 1023);
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
    const double high = 0x1.62e42fefa2p-1, low = 0x1.9ef35793c7673p-41;
    return k * high + (f - (s * (f - z * p) - k * low));
}

/* sin and cos of u turns */
INLINE void turn(double u, double *sine, double *cosine)
{
    const double shifted = u * 4 + 0x1.8p52;
    const double r = u - (shifted - 0x1.8p52) * 0.25;
    const ulong q = as_ulong(shifted);
    const double z = r * r;
    const double r_high = bits_double(as_ulong(r) & 0xffffffff00000000UL);
    const double high = r_high * 0x1.921p+2;
    const double low = r_high * 0x1.f6a8885a308d3p-11 + (r - r_high) * 0x1.921fb54442d18p+2;
    double p = 0x1.e4a9d9166f052p+1;
    p = p * z + -0x1.e3027dea82bd7p+3;
    p = p * z + 0x1.50783208843ebp+5;
    p = p * z + -0x1.32d2cce500387p+6;
    p = p * z + 0x1.466bc6775a476p+6;
    p = p * z + -0x1.4abbce625be52p+5;
    const double s = high + (low + r * (p * z));
    p = -0x1.b38340f56931fp+0;
    p = p * z + 0x1.f9cfc07738157p+2;
    p = p * z + -0x1.a6d1f0ab7905cp+4;
    p = p * z + 0x1.e1f50688302c5p+5;
    p = p * z + -0x1.55d3c7e3cbd74p+6;
    p = p * z + 0x1.03c1f081b5ac4p+6;
    const double half_square = high * high * 0.5;
    const double w = 1 - half_square;
    const double c = w + (((1 - w) - half_square) + (z * z * p - low * (high + low * 0.5)));
    const ulong exchange = (as_ulong(s) ^ as_ulong(c)) & (0 - (q & 1));
    *sine = bits_double((as_ulong(s) ^ exchange) ^ (q & 2) << 62);
    *cosine = bits_double((as_ulong(c) ^ exchange) ^ ((q + 1) & 2) << 62);
}

INLINE uint4 philox(uint4 x, uint2 key)
{
    for (int round = 0; round < 10; round++) {
        const uint high0 = mul_hi(0xd2511f53u, x.s0), low0 = 0xd2511f53u * x.s0;
        const uint high1 = mul_hi(0xcd9e8d57u, x.s2), low1 = 0xcd9e8d57u * x.s2;
        x = (uint4)(high1 ^ x.s1 ^ key.s0, low1, high0 ^ x.s3 ^ key.s1, low0);
        key += (uint2)(0x9e3779b9u, 0xbb67ae85u);
    }
    return x;
}

INLINE double unit(uint word)
{
    return (convert_double(word) + 0.5) * 0x1p-32;
}

#define DRAW                                                                                       \
    OUT(y), uint seed_low, uint seed_high, uint draw, uint image, int purpose, int per_image,      \
        int elements
#define BLOCK                                                                                      \
    const int block = get_global_id(0), n = get_global_id(1);                                      \
    if (block * 4 >= elements)                                                                     \
        return;                                                                                    \
    y += y_at + (long)n * elements + block * 4;                                                    \
    const uint key = per_image ? image + (uint)n : 0xffffffffu;                                    \
    const uint4 words =                                                                            \
        philox((uint4)((uint)block, draw, (uint)purpose, key), (uint2)(seed_low, seed_high));      \
    const int left = min(4, elements - block * 4);                                                 \
    float out[4]

__kernel void normal(DRAW)
{
    BLOCK;
    double sine, cosine;
    double radius = sqrt(-2 * ln_exactly(unit(words.s0)));
    turn(unit(words.s1), &sine, &cosine);
    out[0] = convert_float(radius * cosine);
    out[1] = convert_float(radius * sine);
    radius = sqrt(-2 * ln_exactly(unit(words.s2)));
    turn(unit(words.s3), &sine, &cosine);
    out[2] = convert_float(radius * cosine);
    out[3] = convert_float(radius * sine);
    for (int i = 0; i < left; i++)
        y[i] = out[i];
}

__kernel void uniform(DRAW, float lo, float hi)
{
    BLOCK;
    out[0] = convert_float(unit(words.s0));
    out[1] = convert_float(unit(words.s1));
    out[2] = convert_float(unit(words.s2));
    out[3] = convert_float(unit(words.s3));
    const double from = lo, range = (double)hi - from;
    for (int i = 0; i < left; i++)
        y[i] = convert_float(from + range * out[i]);
}

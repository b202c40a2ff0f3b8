/* The elementwise functions, compiled once for T = float and once for T = vectors. Polynomials of
 * the project's own where a driver's functions would keep loops from being vectorised; NaN stays
 * NaN, as comparisons with it are false. */

INLINE T F(d_neg)(T x)
{
    return -x;
}

INLINE T F(d_abs)(T x)
{
    return fabs(x);
}

/* e^x, 1.5 ulp. x = n·ln2 + r, |r| <= ln2/2; e^r = 1 + r + r²·P(r); 2^n in two factors, so that
 * results may be infinite or subnormal. */
INLINE T F(d_exp)(T x)
{
    x = x > (T)(90.0f) ? (T)(90.0f) : x;
    x = x < (T)(-105.0f) ? (T)(-105.0f) : x;
    const T shifted = FMA(x, (T)(0x1.715476p+0f), (T)(12582912.0f));
    const T n = shifted - (T)(12582912.0f);
    const I k = F(BITS)(shifted) - (I)(0x4b400000);
    T r = FMA(n, (T)(-0x1.62e4p-1f), x);
    r = FMA(n, (T)(-0x1.7f7d1cp-20f), r);
    T p = (T)(0x1.6db8dcp-10f);
    p = FMA(p, r, (T)(0x1.123ebcp-7f));
    p = FMA(p, r, (T)(0x1.555458p-5f));
    p = FMA(p, r, (T)(0x1.55548ap-3f));
    p = FMA(p, r, (T)(0.5f));
    p = FMA(p, r * r, r) + (T)(1.0f);
    const I half_k = k >> 1;
    return p * F(FLOAT)((half_k + 127) << 23) * F(FLOAT)((k - half_k + 127) << 23);
}

INLINE T F(d_log)(T x)
{
    return log(x);
}

INLINE T F(d_sqrt)(T x)
{
    return sqrt(x);
}

INLINE T F(d_sin)(T x)
{
    return sin(x);
}

INLINE T F(d_cos)(T x)
{
    return cos(x);
}

INLINE T F(d_sigmoid)(T x)
{
    return (T)(1.0f) / ((T)(1.0f) + F(d_exp)(-x));
}

INLINE T F(d_relu)(T x)
{
    return x < (T)(0.0f) ? (T)(0.0f) : x;
}

INLINE T F(d_silu)(T x)
{
    return x / ((T)(1.0f) + F(d_exp)(-x));
}

/* 2.5 ulp. x + x³·P(x²) near 0, else 1 - 2/(e^2|x| + 1). */
INLINE T F(d_tanh)(T x)
{
    const T t = fabs(x), z = x * x;
    T p = (T)(-0x1.72fc24p-8f);
    p = FMA(p, z, (T)(0x1.518b0cp-6f));
    p = FMA(p, z, (T)(-0x1.b8265cp-5f));
    p = FMA(p, z, (T)(0x1.11068ep-3f));
    p = FMA(p, z, (T)(-0x1.555530p-2f));
    const T near_zero = FMA(p * z, x, x);
    const T far = (T)(1.0f) - (T)(2.0f) / (F(d_exp)(t + t) + (T)(1.0f));
    return t < (T)(0.625f) ? near_zero : copysign(far, x);
}

/* w = (t-3)/(t+3): erfc(t)·e^(t²) for 0 <= t <= 11 */
INLINE T F(erfc_factor)(T t)
{
    const T w = (t - (T)(3.0f)) / (t + (T)(3.0f));
    T q = (T)(0x1.c8c9c0p-15f);
    q = FMA(q, w, (T)(0x1.d3fc60p-16f));
    q = FMA(q, w, (T)(-0x1.365b88p-11f));
    q = FMA(q, w, (T)(0x1.78221cp-11f));
    q = FMA(q, w, (T)(0x1.17ad78p-8f));
    q = FMA(q, w, (T)(-0x1.8fafd8p-6f));
    q = FMA(q, w, (T)(0x1.258b66p-4f));
    q = FMA(q, w, (T)(-0x1.336fdap-3f));
    q = FMA(q, w, (T)(0x1.f6ff1cp-3f));
    q = FMA(q, w, (T)(-0x1.4e102cp-2f));
    return FMA(q, w, (T)(0x1.6e9828p-3f));
}

/* 2 ulp. x·P(x²) near 0, else 1 - erfc|x|, whose exponent t² is split so that its rounding does not
 * enter. */
INLINE T F(d_erf)(T x)
{
    const T z = x * x;
    T p = (T)(0x1.4ae4c6p-14f);
    p = FMA(p, z, (T)(-0x1.a485e8p-11f));
    p = FMA(p, z, (T)(0x1.5419f4p-8f));
    p = FMA(p, z, (T)(-0x1.b7fbb4p-6f));
    p = FMA(p, z, (T)(0x1.ce2d20p-4f));
    p = FMA(p, z, (T)(-0x1.81273ep-2f));
    p = FMA(p, z, (T)(0x1.06eba8p-3f));
    T t = fabs(x);
    t = t > (T)(11.0f) ? (T)(11.0f) : t;
    const T high = F(FLOAT)(F(BITS)(t) & (I)((int)0xfffff000u));
    const T tail = F(erfc_factor)(t) * F(d_exp)(-(high * high)) * F(d_exp)((high - t) * (high + t));
    return fabs(x) < (T)(0.9375f) ? FMA(p, x, x) : copysign((T)(1.0f) - tail, x) + (x - x);
}

/* x·Φ(x), Φ(x) = erfc(-x/√2)/2: no cancellation for x < 0 */
INLINE T F(d_gelu)(T x)
{
    T t = fabs(x) * (T)(0x1.6a09e6p-1f);
    t = t > (T)(11.0f) ? (T)(11.0f) : t;
    const T tail = (T)(0.5f) * F(erfc_factor)(t) * F(d_exp)((T)(-0.5f) * x * x);
    return x * (x < (T)(0.0f) ? tail : (T)(1.0f) - tail);
}

INLINE T F(d_affine)(T x, float a, float b)
{
    return FMA((T)(a), x, (T)(b));
}

INLINE T F(d_clamp)(T x, float lo, float hi)
{
    return x < (T)(lo) ? (T)(lo) : (x > (T)(hi) ? (T)(hi) : x);
}

INLINE T F(d_add)(T a, T b)
{
    return a + b;
}

INLINE T F(d_sub)(T a, T b)
{
    return a - b;
}

INLINE T F(d_mul)(T a, T b)
{
    return a * b;
}

INLINE T F(d_div)(T a, T b)
{
    return a / b;
}

INLINE T F(d_min)(T a, T b)
{
    return ((a < b) | (a != a)) ? a : b;
}

INLINE T F(d_max)(T a, T b)
{
    return ((a > b) | (a != a)) ? a : b;
}

INLINE T F(d_less)(T a, T b)
{
    return a < b ? (T)(1.0f) : (T)(0.0f);
}

INLINE T F(d_select)(T c, T a, T b)
{
    return c != (T)(0.0f) ? a : b;
}

/* Integers travel as the floats with their bits. */
INLINE T F(d_to_int)(T x)
{
    return F(FLOAT)(x != x ? (I)(0) : F(TO_INT)(x));
}

INLINE T F(d_from_int)(T x)
{
    return F(FROM_INT)(F(BITS)(x));
}

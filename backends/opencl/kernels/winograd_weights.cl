/* U = G·g·Gᵀ for every pair of column and channel, packed: [position][panel][channel][width]
 * of TYPE_Y.
 *
 * F(2x2, 3x3) with points 0, ±1, ∞; F(4x4, 3x3) with points 0, ±5/8, ±3/2, ∞, which have half the
 * error of 0, ±1, ±2, ∞. Row of point p of G: (1, p, p²)/Π(p − q) over the other points. */
#ifdef WIDE
#define EACH width
#else
#define EACH 1
#endif
#define SIZE (M + 2)

/* A number as the sum of two floats, some 48 bits, so that weights are rounded once, at the end, on
 * devices without float64 too. */
typedef struct {
    float high, low;
} real;

INLINE real normal(float high, float low)
{
    const float sum = high + low;
    return (real){sum, low - (sum - high)};
}

/* Knuth's two-sum */
INLINE real add(real a, real b)
{
    const float sum = a.high + b.high, part = sum - a.high;
    const float error = (a.high - (sum - part)) + (b.high - part);
    return normal(sum, error + (a.low + b.low));
}

INLINE real times(real a, float high, float low)
{
    const float product = a.high * high;
    const float error = fma(a.high, high, -product);
    return normal(product, error + fma(a.high, low, a.low * high));
}

/* t = G·(a, b, c), SIZE numbers `apart` from each other */
INLINE void along(real a, real b, real c, real *t, int apart)
{
#if M == 2
    const real ac = times(add(a, c), 0.5f, 0);
    t[0] = a;
    t[apart] = add(ac, times(b, 0.5f, 0));
    t[2 * apart] = add(ac, times(b, -0.5f, 0));
    t[3 * apart] = c;
#else
    const real near_ = add(a, times(c, 0.390625f, 0)), far = add(a, times(c, 2.25f, 0));
    t[0] = times(a, 0x1.234568p+0f, -0x1.d950c8p-26f); /* 1/(25/64·9/4) */
    t[apart] = times(add(near_, times(b, 0.625f, 0)), -0x1.607668p-1f, 0x1.c9198ep-28f);
    t[2 * apart] = times(add(near_, times(b, -0.625f, 0)), -0x1.607668p-1f, 0x1.c9198ep-28f);
    t[3 * apart] = times(add(far, times(b, 1.5f, 0)), 0x1.e98802p-4f, -0x1.677fe2p-32f);
    t[4 * apart] = times(add(far, times(b, -1.5f, 0)), 0x1.e98802p-4f, -0x1.677fe2p-32f);
    t[5 * apart] = c;
#endif
}

__kernel void winograd_weights(IN(w), OUT_OF(TYPE_Y, u), int columns, int channels, int w_o, int w_c, int w_y,
                               int w_x, int panels, int width)
{
    const int c = get_global_id(1), panel = get_global_id(2);
    const int from = get_global_id(0) * EACH;
    const long plane = (long)panels * channels * width;
    u += u_at + ((long)panel * channels + c) * width;
    w += w_at + (long)c * w_c;
    for (int j = from; j < min(from + EACH, width); j++) {
        const int o = panel * width + j;
        real half_[3 * SIZE], all[SIZE * SIZE];
        __global const float *g = w + (long)min(o, columns - 1) * w_o;
        for (int x = 0; x < 3; x++)
            along((real){g[x * w_x], 0}, (real){g[w_y + x * w_x], 0},
                  (real){g[2 * w_y + x * w_x], 0}, half_ + x, 3);
        for (int y = 0; y < SIZE; y++)
            along(half_[y * 3], half_[y * 3 + 1], half_[y * 3 + 2], all + y * SIZE, 1);
        for (int i = 0; i < SIZE * SIZE; i++)
            PUT(TYPE_Y, o < columns ? all[i].high : 0.0f, u + i * plane + j);
    }
}

/* U = G·g·Gᵀ for every pair of column and channel, packed: [position][panel][channel][COLUMNS].
 *
 * F(4x4, 3x3) with points 0, ±5/8, ±3/2, ∞: half the error of 0, ±1, ±2, ∞. Row of point p of G:
 * (1, p, p²)/Π(p − q) over the other points. */
#ifdef WIDE
#define EACH COLUMNS
#else
#define EACH 1
#endif
#ifdef FP64
typedef double real;
#else
typedef float real;
#endif

/* t = G·(a, b, c), six numbers `apart` from each other */
INLINE void along(real a, real b, real c, real *t, int apart)
{
    const real near_ = -(real)1 / (real)1.45263671875f, far = (real)1 / (real)8.3671875f;
    const real ac = a + (real)0.390625f * c, pb = (real)0.625f * b;
    const real dc = a + (real)2.25f * c, qb = (real)1.5f * b;
    t[0] = a / (real)0.87890625f;
    t[apart] = near_ * (ac + pb);
    t[2 * apart] = near_ * (ac - pb);
    t[3 * apart] = far * (dc + qb);
    t[4 * apart] = far * (dc - qb);
    t[5 * apart] = c;
}

__kernel void winograd_weights(IN(w), OUT(u), int columns, int channels, int w_o, int w_c, int w_y,
                               int w_x, int panels)
{
    const int c = get_global_id(1), panel = get_global_id(2);
    const int from = get_global_id(0) * EACH;
    const long plane = (long)panels * channels * COLUMNS;
    u += u_at + ((long)panel * channels + c) * COLUMNS;
    w += w_at + (long)c * w_c;
    for (int j = from; j < from + EACH; j++) {
        const int o = panel * COLUMNS + j;
        real half_[18], all[36];
        __global const float *g = w + (long)min(o, columns - 1) * w_o;
        for (int x = 0; x < 3; x++)
            along(g[x * w_x], g[w_y + x * w_x], g[2 * w_y + x * w_x], half_ + x, 3);
        for (int y = 0; y < 6; y++)
            along(half_[y * 3], half_[y * 3 + 1], half_[y * 3 + 2], all + y * 6, 1);
        for (int i = 0; i < 36; i++)
            u[i * plane + j] = o < columns ? (float)all[i] : 0.0f;
    }
}

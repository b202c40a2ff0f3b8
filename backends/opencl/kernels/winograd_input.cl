/* V = Bᵀ·d·B for tiles of SIZE x SIZE pixels that overlap by two: [position][tile][channel], for
 * F(M x M, 3x3) and SIZE = M + 2. The image is of TYPE_X. */

#define SIZE (M + 2)

/* SIZE vectors `from` apart to as many `to` apart. */
#if M == 2
INLINE void along(const VT *d, int from, VT *o, int to)
{
    o[0] = d[0] - d[2 * from];
    o[to] = d[from] + d[2 * from];
    o[2 * to] = d[2 * from] - d[from];
    o[3 * to] = d[from] - d[3 * from];
}
#else
#define A2 0.390625f
#define B2 2.25f

INLINE void along(const VT *d, int from, VT *o, int to)
{
    const VT d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
    VT even = FMA((VT)(-B2), d2, d4), odd = FMA((VT)(-B2), d1, d3);
    o[0] = FMA((VT)(A2 * B2), d[0], FMA((VT)(-(A2 + B2)), d2, d4));
    o[to] = FMA((VT)(0.625f), odd, even);
    o[2 * to] = FMA((VT)(-0.625f), odd, even);
    even = FMA((VT)(-A2), d2, d4), odd = FMA((VT)(-A2), d1, d3);
    o[3 * to] = FMA((VT)(1.5f), odd, even);
    o[4 * to] = FMA((VT)(-1.5f), odd, even);
    o[5 * to] = FMA((VT)(A2 * B2), d1, FMA((VT)(-(A2 + B2)), d3, d[5 * from]));
}
#endif

INLINE void transform(__global const ELEMENT(TYPE_X) *x, __global float *v, int y0, int x0,
                      int height, int width, int x_y, int x_x, int plane)
{
    VT d[SIZE * SIZE], e[SIZE];
    __attribute__((opencl_unroll_hint)) for (int r = 0; r < SIZE; r++)
    {
        __attribute__((opencl_unroll_hint)) for (int c = 0; c < SIZE; c++)
        {
            const int i = y0 + r, j = x0 + c;
            const bool inside = (i >= 0) & (i < height) & (j >= 0) & (j < width);
            e[c] = inside ? GETV(TYPE_X, x + (long)i * x_y + (long)j * x_x) : (VT)(0.0f);
        }
        along(e, 1, d + r * SIZE, 1);
    }
    __attribute__((opencl_unroll_hint)) for (int c = 0; c < SIZE; c++)
    {
        along(d + c, SIZE, e, 1);
        __attribute__((opencl_unroll_hint)) for (int r = 0; r < SIZE; r++)
            STOREV(e[r], v + (long)(r * SIZE + c) * plane);
    }
}

__kernel void winograd_input(IN_OF(TYPE_X, x), OUT(v), int channels, int height, int width, int x_n,
                             int x_y, int x_x, int tiles_y, int tiles_x, int top, int left,
                             int plane)
{
    const int tile = get_global_id(1), n = tile / (tiles_y * tiles_x);
    const int y0 = tile / tiles_x % tiles_y * M - top, x0 = tile % tiles_x * M - left;
    x += x_at + (long)n * x_n;
    v += v_at + (long)tile * channels;
#ifdef WIDE
    for (int k = 0; k < channels; k += VECTOR)
        transform(x + k, v + k, y0, x0, height, width, x_y, x_x, plane);
#else
    const int k = get_global_id(0);
    if (k < channels)
        transform(x + k, v + k, y0, x0, height, width, x_y, x_x, plane);
#endif
}

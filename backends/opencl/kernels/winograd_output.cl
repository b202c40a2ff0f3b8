/* y = Aᵀ·m·A for tiles of M x M pixels, and what follows the convolution; the image is of TYPE_Y. */

#define SIZE (M + 2)

/* SIZE vectors `from` apart to M `to` apart. */
#if M == 2
INLINE void along(const VT *d, int from, VT *o, int to)
{
    o[0] = d[0] + (d[from] + d[2 * from]);
    o[to] = (d[from] - d[2 * from]) - d[3 * from];
}
#else
INLINE void along(const VT *d, int from, VT *o, int to)
{
    const VT near_sum = d[from] + d[2 * from], near_difference = d[from] - d[2 * from];
    const VT far_sum = d[3 * from] + d[4 * from], far_difference = d[3 * from] - d[4 * from];
    o[0] = d[0] + (near_sum + far_sum);
    o[to] = FMA((VT)(0.625f), near_difference, (VT)(1.5f) * far_difference);
    o[2 * to] = FMA((VT)(0.390625f), near_sum, (VT)(2.25f) * far_sum);
    o[3 * to] = FMA((VT)(0.244140625f), near_difference,
                    FMA((VT)(3.375f), far_difference, d[5 * from]));
}
#endif

__kernel void winograd_output(IN(m), OUT_OF(TYPE_Y, y), int columns, int height, int width, int y_n,
                              int y_y, int y_x, int tiles_y, int tiles_x, int plane OPERANDS)
{
    const int tile = get_global_id(1), n = tile / (tiles_y * tiles_x);
    const int y0 = tile / tiles_x % tiles_y * M, x0 = tile % tiles_x * M;
    y += y_at + (long)n * y_n;
    m += m_at + (long)tile * columns;
#ifdef WIDE
    for (int o = 0; o < columns; o += VECTOR) {
#else
    for (int o = get_global_id(0); o < columns; o += columns) {
#endif
        VT d[M * SIZE], e[SIZE], out[M];
        __attribute__((opencl_unroll_hint)) for (int c = 0; c < SIZE; c++)
        {
            __attribute__((opencl_unroll_hint)) for (int r = 0; r < SIZE; r++)
                e[r] = LOADV(m + (long)(r * SIZE + c) * plane + o);
            along(e, 1, d + c, SIZE);
        }
        __attribute__((opencl_unroll_hint)) for (int r = 0; r < M; r++)
        {
            along(d + r * SIZE, 1, out, 1);
            __attribute__((opencl_unroll_hint)) for (int c = 0; c < M; c++)
            {
                const int i = y0 + r, j = x0 + c;
                if (i < height && j < width)
                    PUTV(TYPE_Y, FINISH_v(out[c], n, i, j, o),
                         y + (long)i * y_y + (long)j * y_x + o);
            }
        }
    }
}

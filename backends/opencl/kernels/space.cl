/* One work-item an element of the result: channel, pixel, image. Images are of TYPE_X, results of
 * TYPE_Y. */

#define IMAGES                                                                                     \
    IN_OF(TYPE_X, x), OUT_OF(TYPE_Y, y), int x_n, int x_c, int x_y, int x_x, int y_n, int y_c,     \
        int y_y, int y_x, int channels, int height, int width
#define HERE                                                                                       \
    const int c = get_global_id(0), i = get_global_id(1) / width, j = get_global_id(1) % width,    \
              n = get_global_id(2);                                                                \
    if (c >= channels)                                                                             \
        return;                                                                                    \
    x += x_at + (long)n * x_n + (long)c * x_c;                                                     \
    y += y_at + (long)n * y_n + (long)c * y_c + (long)i * y_y + (long)j * y_x

__kernel void pool_max(IMAGES, int kh, int kw, int sy, int sx)
{
    HERE;
    float m = -INFINITY;
    for (int a = 0; a < kh; a++)
        for (int b = 0; b < kw; b++)
            m = d_max_s(m, GET(TYPE_X, x + (long)(i * sy + a) * x_y + (long)(j * sx + b) * x_x));
    PUT(TYPE_Y, m, y);
}

__kernel void pool_mean(IMAGES, int kh, int kw, int sy, int sx)
{
    HERE;
    float sum = 0;
    for (int a = 0; a < kh; a++) {
        float row = 0;
        for (int b = 0; b < kw; b++)
            row += GET(TYPE_X, x + (long)(i * sy + a) * x_y + (long)(j * sx + b) * x_x);
        sum += row;
    }
    PUT(TYPE_Y, sum / (kh * kw), y);
}

/* Pixel centres at halves: p = max(0, (i + ½)·from/to − ½), in integers as far as they go. */
INLINE float place(int i, int from, int to, int *below)
{
    const long twice = (long)(2 * i + 1) * from - to; /* 2·to·p */
    if (twice <= 0) {
        *below = 0;
        return 0;
    }
    *below = (int)(twice / (2 * (long)to));
    return (float)(twice % (2 * (long)to)) / (float)(2 * (long)to);
}

__kernel void resize(IMAGES, int from_height, int from_width)
{
    HERE;
    int a, b;
    const float u = place(i, from_height, height, &a), v = place(j, from_width, width, &b);
    const long a0 = (long)a * x_y, a1 = (long)min(a + 1, from_height - 1) * x_y;
    const long b0 = (long)b * x_x, b1 = (long)min(b + 1, from_width - 1) * x_x;
    const float top = FMA(v, GET(TYPE_X, x + a0 + b1), (1 - v) * GET(TYPE_X, x + a0 + b0));
    const float bottom = FMA(v, GET(TYPE_X, x + a1 + b1), (1 - v) * GET(TYPE_X, x + a1 + b0));
    PUT(TYPE_Y, FMA(u, bottom, (1 - u) * top), y);
}

/* A row of NaN for an id outside the table: the device cannot tell otherwise. */
__kernel void embedding(IN(table), IN(ids), OUT(y), int rows, int width, int table_row,
                        int table_column)
{
    const int k = get_global_id(0);
    const long i = get_global_id(1);
    if (k >= width)
        return;
    const int id = as_int(ids[ids_at + i]);
    y[y_at + i * width + k] = id >= 0 && id < rows
                                  ? table[table_at + (long)id * table_row + (long)k * table_column]
                                  : NAN;
}

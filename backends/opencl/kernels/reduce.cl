/* One work-group of 64 reduces one contiguous row, of TYPE_X; a softmax is of TYPE_Y. */

#define ROW_KERNEL __kernel __attribute__((reqd_work_group_size(64, 1, 1))) void
#define BLOCK 16 /* terms of one chain of additions, so that errors grow slowly */

INLINE float larger(float a, float b)
{
    return ((a > b) | (a != a)) ? a : b;
}

#define TREE(values, i, combine)                                                                   \
    do {                                                                                           \
        barrier(CLK_LOCAL_MEM_FENCE);                                                              \
        for (int apart = 32; apart > 0; apart /= 2) {                                              \
            if ((i) < apart)                                                                       \
                (values)[i] = combine((values)[i], (values)[(i) + apart]);                         \
            barrier(CLK_LOCAL_MEM_FENCE);                                                          \
        }                                                                                          \
    } while (0)
#define PLUS(a, b) ((a) + (b))

ROW_KERNEL row_sum(IN_OF(TYPE_X, x), OUT(y), int length, float divisor)
{
    __local float sums[64];
    const int i = get_local_id(0);
    const long row = get_global_id(1);
    x += x_at + row * length;
    float sum = 0;
    for (int k = i; k < length;) {
        float block = 0;
        for (int j = 0; j < BLOCK && k < length; j++, k += 64)
            block += GET(TYPE_X, x + k);
        sum += block;
    }
    sums[i] = sum;
    TREE(sums, i, PLUS);
    if (i == 0)
        y[y_at + row] = sums[0] / divisor;
}

ROW_KERNEL row_max(IN_OF(TYPE_X, x), OUT(y), int length)
{
    __local float most[64];
    const int i = get_local_id(0);
    const long row = get_global_id(1);
    x += x_at + row * length;
    float m = -INFINITY;
    for (int k = i; k < length; k += 64)
        m = larger(m, GET(TYPE_X, x + k));
    most[i] = m;
    TREE(most, i, larger);
    if (i == 0)
        y[y_at + row] = most[0];
}

ROW_KERNEL row_softmax(IN_OF(TYPE_X, x), OUT_OF(TYPE_Y, y), int length)
{
    __local float values[64];
    const int i = get_local_id(0);
    const long row = get_global_id(1);
    x += x_at + row * length;
    y += y_at + row * length;
    float m = -INFINITY, sum = 0;
    for (int k = i; k < length; k += 64)
        m = larger(m, GET(TYPE_X, x + k));
    values[i] = m;
    TREE(values, i, larger);
    m = values[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int k = i; k < length;) {
        float block = 0;
        for (int j = 0; j < BLOCK && k < length; j++, k += 64)
            block += d_exp_s(GET(TYPE_X, x + k) - m);
        sum += block;
    }
    values[i] = sum;
    TREE(values, i, PLUS);
    const float total = values[0];
    for (int k = i; k < length; k += 64)
        PUT(TYPE_Y, d_exp_s(GET(TYPE_X, x + k) - m) / total, y + k);
}

/* y[i] = Σ over images of x[image][i]; Kahan's compensation, dropped where a sum is not finite */
__kernel void image_sum(IN_OF(TYPE_X, x), OUT(y), int elements, int images)
{
    const int i = get_global_id(0);
    if (i >= elements)
        return;
    x += x_at + i;
    float sum = GET(TYPE_X, x), lost = 0;
    for (int n = 1; n < images; n++) {
        const float v = GET(TYPE_X, x + (long)n * elements), add = v - lost, next = sum + add;
        const float error = (next - sum) - add;
        lost = isfinite(error) ? error : 0.0f;
        sum = next;
    }
    y[y_at + i] = sum;
}

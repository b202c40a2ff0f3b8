/* Mean and variance of values of TYPE_X. Values are taken relative to the first one, so that a large mean costs no
 * digits, and the variance is that of the differences to the mean: never E[x²] − E[x]². */

enum { PIXELS = 64 };

/* For PIXELS pixels, each channel's mean, and its sum of squared differences from that:
 * part [image][part][2][channels]. */
INLINE void partial_s(__global const ELEMENT(TYPE_X) *x, __global float *part, int pixel, int n,
                      int channels)
{
    const float first = GET(TYPE_X, x);
    float sum = 0, squares = 0;
    for (int i = 1; i < n; i++)
        sum += GET(TYPE_X, x + (long)i * pixel) - first;
    const float mean = first + sum / n;
    for (int i = 0; i < n; i++) {
        const float d = GET(TYPE_X, x + (long)i * pixel) - mean;
        squares = FMA(d, d, squares);
    }
    part[0] = mean;
    part[channels] = squares;
}

INLINE void partial_v(__global const ELEMENT(TYPE_X) *x, __global float *part, int pixel, int n,
                      int channels)
{
    const VT first = GETV(TYPE_X, x);
    VT sum = (VT)(0.0f), squares = (VT)(0.0f);
    for (int i = 1; i < n; i++)
        sum += GETV(TYPE_X, x + (long)i * pixel) - first;
    const VT mean = first + sum / (VT)(n);
    for (int i = 0; i < n; i++) {
        const VT d = GETV(TYPE_X, x + (long)i * pixel) - mean;
        squares = FMA(d, d, squares);
    }
    STOREV(mean, part);
    STOREV(squares, part + channels);
}

__kernel void group_partial(IN_OF(TYPE_X, x), OUT(part), int image, int pixel, int channels,
                            int pixels, int parts)
{
    const int c = get_global_id(0) * VECTOR, p = get_global_id(1), n = get_global_id(2);
    if (c >= channels)
        return;
    x += x_at + (long)n * image + (long)p * PIXELS * pixel + c;
    part += part_at + ((long)n * parts + p) * 2 * channels + c;
    const int count = min(PIXELS, pixels - p * PIXELS);
    if (c + VECTOR <= channels) {
        partial_v(x, part, pixel, count, channels);
    } else {
        for (int i = 0; c + i < channels; i++)
            partial_s(x + i, part + i, pixel, count, channels);
    }
}

/* The parts of a group together (Chan et al.), told to each of its channels. */
__kernel void group_statistics(IN(part), OUT(mean), OUT(scale), int channels, int members,
                               int pixels, int parts, int groups, float eps)
{
    const int g = get_global_id(0), n = get_global_id(1);
    if (g >= groups)
        return;
    part += part_at + (long)n * parts * 2 * channels + g * members;
    mean += mean_at + (long)n * channels + g * members;
    scale += scale_at + (long)n * channels + g * members;
    const float first = *part, total = (float)members * (float)pixels;
    float sum = 0, squares = 0;
    for (int p = 0; p < parts; p++) {
        const float count = min(PIXELS, pixels - p * PIXELS);
        for (int c = 0; c < members; c++)
            sum = FMA(count, part[p * 2 * channels + c] - first, sum);
    }
    const float m = first + sum / total;
    for (int p = 0; p < parts; p++) {
        const float count = min(PIXELS, pixels - p * PIXELS);
        for (int c = 0; c < members; c++) {
            const float d = part[p * 2 * channels + c] - m;
            squares += FMA(count * d, d, part[(p * 2 + 1) * channels + c]);
        }
    }
    const float s = 1.0f / sqrt(squares / total + eps);
    for (int c = 0; c < members; c++) {
        mean[c] = m;
        scale[c] = s;
    }
}

/* One work-group of 64 a row. */
__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void
row_statistics(IN_OF(TYPE_X, x), OUT(mean), OUT(scale), int length, float eps)
{
    __local float sums[64];
    const int i = get_local_id(0);
    const long row = get_global_id(1);
    x += x_at + row * length;
    const float first = GET(TYPE_X, x);
    float sum = 0;
    for (int k = i; k < length; k += 64)
        sum += GET(TYPE_X, x + k) - first;
    sums[i] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int half_ = 32; half_ > 0; half_ /= 2) {
        if (i < half_)
            sums[i] += sums[i + half_];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float m = first + sums[0] / length;
    barrier(CLK_LOCAL_MEM_FENCE);
    sum = 0;
    for (int k = i; k < length; k += 64) {
        const float d = GET(TYPE_X, x + k) - m;
        sum = FMA(d, d, sum);
    }
    sums[i] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int half_ = 32; half_ > 0; half_ /= 2) {
        if (i < half_)
            sums[i] += sums[i + half_];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (i == 0) {
        mean[mean_at + row] = m;
        scale[scale_at + row] = 1.0f / sqrt(sums[0] / length + eps);
    }
}

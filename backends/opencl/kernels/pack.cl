/* Weights in panels of `width` columns, zeros behind the last one: [group][panel][tap][depth][width],
 * elements of TYPE_Y. */
#ifdef WIDE
#define EACH width
#else
#define EACH 1
#endif

__kernel void pack(IN(w), __global const int *offsets, long offsets_at, OUT_OF(TYPE_Y, b), int columns,
                   int depth, int taps, int w_column, int w_depth, int w_group, int panels, int width)
{
    const int first = get_global_id(0) * EACH, row = get_global_id(1);
    const int panel = get_global_id(2) % panels, group = get_global_id(2) / panels;
    const int tap = row / depth, k = row % depth;
    w += w_at + (long)group * w_group + (long)k * w_depth + offsets[offsets_at + tap];
    b += b_at + ((long)get_global_id(2) * taps * depth + row) * width;
    for (int j = first; j < min(first + EACH, width); j++) {
        const int o = panel * width + j;
        PUT(TYPE_Y, o < columns ? w[(long)o * w_column] : 0.0f, b + j);
    }
}

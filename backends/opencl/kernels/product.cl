/* y(z, n, i, j)[o] = value(Σ_t Σ_k a(z, n, i·sy + dy_t, j·sx + dx_t)[k] · b(z, t·depth + k)[o])
 *
 * The rows are the places (n, i, j) of the result's grid; a's channels k and y's columns o are
 * contiguous, and b comes in panels of COLUMNS. FINISH_v and FINISH_s compute what follows. Every
 * element is summed in the order of t and k, whatever the tile, so that neither the batch nor the
 * place in it changes a bit; a sum of parts of about PART products has a rounding error that grows
 * with the square root of PART and of their number, not with the whole length. TYPE_A, TYPE_B and
 * TYPE_Y are the types of their elements. */

enum { PART = 128 };

#define PRODUCT                                                                                    \
    IN_OF(TYPE_A, a), IN(zeros), __global const int *restrict taps, long taps_at,                  \
        IN_OF(TYPE_B, b), OUT_OF(TYPE_Y, y), int rows, int columns, int depth, int n_taps,         \
        int height, int width, int a_n, int a_y, int a_x,                                          \
        int y_n, int y_y, int y_x, int sy, int sx, int in_height, int in_width, int b_panel,       \
        int b_row, int z_inner, int a_z0, int a_z1, int b_z0, int b_z1, int y_z0, int y_z1,        \
        int column_z OPERANDS

#define A ELEMENT(TYPE_A)
#define Y ELEMENT(TYPE_Y)

#ifdef WIDE
/* One work-item a tile of ROWS x 2 vectors, which stay in registers. */

#if ROWS == 4
#define EACH_ROW(X) X(0) X(1) X(2) X(3)
#elif ROWS == 6
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)
#elif ROWS == 8
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#elif ROWS == 12
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#endif

#define DECLARE(r)                                                                                 \
    VT left##r = (VT)(0.0f), right##r = (VT)(0.0f), sum_left##r = (VT)(0.0f),                      \
       sum_right##r = (VT)(0.0f);                                                                  \
    const int place##r = min(row + r, rows - 1), n##r = place##r / (height * width);               \
    const int i##r = place##r / width % height, j##r = place##r % width;                           \
    __global const A *restrict a##r = a + (long)n##r * a_n;

#define POINT(r)                                                                                   \
    const int h##r = i##r * sy + dy, w##r = j##r * sx + dx;                                        \
    __global const A *restrict p##r =                                                              \
        ((h##r >= 0) & (h##r < in_height) & (w##r >= 0) & (w##r < in_width))                       \
            ? a##r + (long)h##r * a_y + (long)w##r * a_x                                           \
            : nothing;

/* Halves are converted a vector at a time: one by one that would cost more than the products. */
#if IS_HALF(TYPE_A)
#define AT_ONCE VECTOR
#define FETCH(r)                                                                                   \
    if (n == VECTOR) {                                                                             \
        STOREV(GETV(TYPE_A, p##r + k), factors[r]);                                                \
    } else {                                                                                       \
        for (int l = 0; l < n; l++)                                                                \
            factors[r][l] = GET(TYPE_A, p##r + k + l);                                             \
    }
#define FACTOR(r) factors[r][l]
#else
#define AT_ONCE PART
#define FETCH(r)
#define FACTOR(r) p##r[k + l]
#endif

#define MULTIPLY(r)                                                                                \
    const VT v##r##_ = (VT)(FACTOR(r));                                                            \
    left##r = FMA(v##r##_, b0, left##r);                                                           \
    right##r = FMA(v##r##_, b1, right##r);

#define END_PART(r)                                                                                \
    sum_left##r += left##r;                                                                        \
    sum_right##r += right##r;                                                                      \
    left##r = right##r = (VT)(0.0f);

#define FINISH_ROW(r)                                                                              \
    if (row + r < rows) {                                                                          \
        __global Y *to = y + (long)n##r * y_n + (long)i##r * y_y + (long)j##r * y_x + column;      \
        FINISH_VECTOR(sum_left##r, n##r, i##r, j##r, 0);                                           \
        if (column + VECTOR < columns) {                                                           \
            FINISH_VECTOR(sum_right##r, n##r, i##r, j##r, VECTOR);                                 \
        }                                                                                          \
    }

#define FINISH_VECTOR(v, n, i, j, from)                                                            \
    if (column + from + VECTOR <= columns) {                                                       \
        PUTV(TYPE_Y, FINISH_v(v, n, i, j, column + from + first), to + from);                      \
    } else {                                                                                       \
        float rest[VECTOR];                                                                        \
        STOREV(v, rest);                                                                           \
        for (int o = 0; column + from + o < columns; o++)                                          \
            PUT(TYPE_Y, FINISH_s(rest[o], n, i, j, column + from + o + first), to + from + o);     \
    }

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void product(PRODUCT)
{
    const int row = get_global_id(0) * ROWS, column = get_global_id(1) * COLUMNS;
    const int z0 = get_global_id(2) / z_inner, z1 = get_global_id(2) % z_inner;
    const int first = z1 * column_z;
    a += a_at + (long)z0 * a_z0 + (long)z1 * a_z1;
    b += b_at + (long)z0 * b_z0 + (long)z1 * b_z1 + (long)get_global_id(1) * b_panel;
    y += y_at + (long)z0 * y_z0 + (long)z1 * y_z1;
    __global const A *nothing = (__global const A *)(zeros + zeros_at);
    int summed = 0; /* in this part */
#if IS_HALF(TYPE_A)
    float factors[ROWS][VECTOR];
#endif
    EACH_ROW(DECLARE)
    for (int t = 0; t < n_taps; t++) {
        const int dy = taps[taps_at + 2 * t], dx = taps[taps_at + 2 * t + 1];
        EACH_ROW(POINT)
        for (int k = 0; k < depth; k += AT_ONCE) {
            const int n = min((int)AT_ONCE, depth - k);
            summed += n;
            EACH_ROW(FETCH)
            for (int l = 0; l < n; l++) {
                const VT b0 = GETV(TYPE_B, b), b1 = GETV(TYPE_B, b + VECTOR);
                b += b_row;
                EACH_ROW(MULTIPLY)
            }
            if (summed >= PART) {
                EACH_ROW(END_PART)
                summed = 0;
            }
        }
    }
    EACH_ROW(END_PART)
    EACH_ROW(FINISH_ROW)
}

#else
/* A work-group of 16 x 16 computes SIDE x SIDE = ROWS x COLUMNS, each item EACH x EACH, from tiles in
 * local memory. */

enum { SIDE = ROWS, EACH = SIDE / 16, STEP = 16, DEEP = 256 / SIDE };

__kernel __attribute__((reqd_work_group_size(16, 16, 1))) void product(PRODUCT)
{
    __local float tile_a[STEP][SIDE + 1], tile_b[STEP][SIDE];
    const int x = get_local_id(0), q = get_local_id(1), item = q * 16 + x;
    const int row0 = get_group_id(0) * SIDE, column0 = get_group_id(1) * SIDE;
    const int z0 = get_global_id(2) / z_inner, z1 = get_global_id(2) % z_inner;
    const int first = z1 * column_z;
    a += a_at + (long)z0 * a_z0 + (long)z1 * a_z1;
    b += b_at + (long)z0 * b_z0 + (long)z1 * b_z1 + (long)get_group_id(1) * b_panel;
    y += y_at + (long)z0 * y_z0 + (long)z1 * y_z1;
    /* This item loads channel item % 16 of rows item / 16, 16 more, …. */
    int at_n[EACH], at_i[EACH], at_j[EACH];
    float part[EACH][EACH], sum[EACH][EACH];
    for (int r = 0; r < EACH; r++) {
        const int place = min(row0 + item / 16 + 16 * r, rows - 1);
        at_n[r] = place / (height * width);
        at_i[r] = place / width % height * sy;
        at_j[r] = place % width * sx;
        for (int c = 0; c < EACH; c++)
            part[r][c] = sum[r][c] = 0;
    }
    int summed = 0; /* in this part */
    for (int t = 0; t < n_taps; t++) {
        const int dy = taps[taps_at + 2 * t], dx = taps[taps_at + 2 * t + 1];
        for (int k0 = 0; k0 < depth; k0 += STEP) {
            const int k = k0 + item % 16;
            for (int r = 0; r < EACH; r++) {
                const int h = at_i[r] + dy, w = at_j[r] + dx;
                const bool inside = (h >= 0) & (h < in_height) & (w >= 0) & (w < in_width) &
                                    (k < depth);
                tile_a[item % 16][item / 16 + 16 * r] =
                    inside ? GET(TYPE_A, a + (long)at_n[r] * a_n + (long)h * a_y + (long)w * a_x + k)
                           : 0.0f;
            }
            for (int r = 0; r < EACH; r++) {
                const int kb = k0 + item / SIDE + DEEP * r;
                tile_b[item / SIDE + DEEP * r][item % SIDE] =
                    kb < depth ? GET(TYPE_B, b + ((long)t * depth + kb) * b_row + item % SIDE)
                               : 0.0f;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            for (int s = 0; s < min(STEP, depth - k0); s++)
                for (int r = 0; r < EACH; r++)
                    for (int c = 0; c < EACH; c++)
                        part[r][c] =
                            FMA(tile_a[s][x + 16 * r], tile_b[s][q * EACH + c], part[r][c]);
            barrier(CLK_LOCAL_MEM_FENCE);
            summed += min((int)STEP, depth - k0);
            if (summed < PART && (t < n_taps - 1 || k0 + STEP < depth))
                continue;
            for (int r = 0; r < EACH; r++)
                for (int c = 0; c < EACH; c++) {
                    sum[r][c] += part[r][c];
                    part[r][c] = 0;
                }
            summed = 0;
        }
    }
    for (int r = 0; r < EACH; r++) {
        const int place = row0 + x + 16 * r;
        if (place >= rows)
            break;
        const int n = place / (height * width), i = place / width % height, j = place % width;
        __global Y *to = y + (long)n * y_n + (long)i * y_y + (long)j * y_x;
        for (int c = 0; c < EACH; c++) {
            const int o = column0 + q * EACH + c;
            if (o < columns)
                PUT(TYPE_Y, FINISH_s(sum[r][c], n, i, j, o + first), to + o);
        }
    }
}
#endif

#include "plot.h"

#include "number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_WIDTH 720
#define FONT 13.0F
#define TITLE_FONT 17.0F
#define MARGIN_RIGHT 24
#define MARGIN_TOP 64 /* title and legend */
#define LEGEND_Y 48
#define LEGEND_ROW 20

static const struct dm_rgba ink = {40, 40, 40, 255}, grid_color = {228, 228, 228, 255},
                            frame_color = {150, 150, 150, 255};

/* Okabe and Ito's colours, which colour-blind readers can tell apart. */
static const struct dm_rgba colors[] = {{0, 114, 178, 255}, {213, 94, 0, 255},
                                        {0, 158, 115, 255}, {204, 121, 167, 255},
                                        {230, 159, 0, 255}, {86, 180, 233, 255}};
#define N_COLORS ((int)(sizeof colors / sizeof colors[0]))

struct axis {
    double lo, hi;     /* data; log10 of it where `log` is set */
    double from, step; /* pixels: value v lies at from + (v - lo)·step */
    bool log;
};

static float place(const struct axis *axis, double value)
{
    return (float)(axis->from + ((axis->log ? log10(value) : value) - axis->lo) * axis->step);
}

/* Ticks */

struct ticks {
    double values[64];
    int n;
};

static double power_of_ten(int exponent)
{
    return exponent >= 0 ? pow(10, exponent) : 1 / pow(10, -exponent);
}

/* Multiples of 1, 2 or 5 times a power of ten, about `wanted` of them. They are made from integers
 * by one multiplication or division, so that they print as 0.3 and not as 0.30000000000000004. */
static void linear_ticks(struct ticks *ticks, double lo, double hi, int wanted)
{
    double rough = (hi - lo) / wanted;
    int exponent = (int)floor(log10(rough));
    double lead = rough / pow(10, exponent);
    int digit = lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10;
    double unit = exponent >= 0 ? pow(10, exponent) : pow(10, -exponent);
    double step = exponent >= 0 ? digit * unit : digit / unit;
    ticks->n = 0;
    for (double k = ceil(lo / step - 1e-9); k <= hi / step + 1e-9 && ticks->n < 64; k++)
        ticks->values[ticks->n++] = k == 0          ? 0
                                    : exponent >= 0 ? k * digit * unit
                                                    : k * digit / unit;
}

/* Powers of ten; over less than two decades 1, 2 and 5 times them. lo, hi: log10. */
static void log_ticks(struct ticks *ticks, double lo, double hi)
{
    static const int digits[] = {1, 2, 5};
    int every = (int)ceil((hi - lo) / 8), n_digits = hi - lo < 2 ? 3 : 1;
    every = every < 1 ? 1 : every;
    ticks->n = 0;
    for (int e = (int)floor(lo / every) * every; e <= hi; e += every)
        for (int i = 0; i < n_digits; i++) {
            double value = e >= 0 ? digits[i] * power_of_ten(e) : digits[i] / pow(10, -e);
            double at = log10(value);
            if (at >= lo - 1e-9 && at <= hi + 1e-9 && ticks->n < 64)
                ticks->values[ticks->n++] = value;
        }
}

static void make_ticks(struct ticks *ticks, const struct axis *axis, int pixels_each)
{
    double pixels = fabs((axis->hi - axis->lo) * axis->step);
    int wanted = (int)(pixels / pixels_each);
    if (axis->log)
        log_ticks(ticks, axis->lo, axis->hi);
    if (!axis->log || ticks->n < 2) /* a log axis over a sliver of a decade */
        linear_ticks(ticks, axis->log ? pow(10, axis->lo) : axis->lo,
                     axis->log ? pow(10, axis->hi) : axis->hi, wanted < 2 ? 2 : wanted);
}

/* The shortest decimal, with a true minus sign and no exponent where people write none. */
static void format_tick(char text[DM_DOUBLE_TEXT + 4], double value)
{
    char digits[DM_DOUBLE_TEXT];
    double size = fabs(value);
    if (size == floor(size) && size < 1e7)
        snprintf(digits, sizeof digits, "%d", (int)size);
    else
        dm_format_double(size, digits);
    snprintf(text, DM_DOUBLE_TEXT + 4, "%s%s", value < 0 ? "\xE2\x88\x92" : "", digits);
}

/* Frame, grid and labels */

struct frame {
    struct axis x, y;
    float left, right, top, bottom;
};

static void line(struct dm_drawing *drawing, float x0, float y0, float x1, float y1, float width,
                 struct dm_rgba color)
{
    dm_draw_lines(drawing, (struct dm_xy[]){{x0, y0}, {x1, y1}}, 2, width, color);
}

static void draw_x_axis(struct dm_drawing *drawing, const struct frame *frame)
{
    struct ticks ticks;
    make_ticks(&ticks, &frame->x, 80);
    for (int i = 0; i < ticks.n; i++) {
        float x = place(&frame->x, ticks.values[i]);
        char text[DM_DOUBLE_TEXT + 4];
        format_tick(text, ticks.values[i]);
        line(drawing, x, frame->top, x, frame->bottom, 1, grid_color);
        dm_draw_text(drawing, (struct dm_xy){x, frame->bottom + 18}, FONT, DM_ANCHOR_MIDDLE, false,
                     ink, text);
    }
}

static void draw_y_axis(struct dm_drawing *drawing, const struct frame *frame)
{
    struct ticks ticks;
    make_ticks(&ticks, &frame->y, 50);
    for (int i = 0; i < ticks.n; i++) {
        float y = place(&frame->y, ticks.values[i]);
        char text[DM_DOUBLE_TEXT + 4];
        format_tick(text, ticks.values[i]);
        line(drawing, frame->left, y, frame->right, y, 1, grid_color);
        dm_draw_text(drawing, (struct dm_xy){frame->left - 8, y + FONT * 0.36F}, FONT,
                     DM_ANCHOR_END, false, ink, text);
    }
}

static void draw_frame(struct dm_drawing *drawing, const struct frame *frame, const char *title)
{
    draw_x_axis(drawing, frame);
    draw_y_axis(drawing, frame);
    const struct dm_xy corners[] = {{frame->left, frame->top},
                                    {frame->right, frame->top},
                                    {frame->right, frame->bottom},
                                    {frame->left, frame->bottom},
                                    {frame->left, frame->top}};
    dm_draw_lines(drawing, corners, 5, 1, frame_color);
    if (title)
        dm_draw_text(drawing, (struct dm_xy){frame->left, 28}, TITLE_FONT, DM_ANCHOR_START, false,
                     ink, title);
}

/* Room for the widest tick label. A digit is about 0.64 of the font's size wide. */
static float left_margin(const struct axis *y)
{
    struct ticks ticks;
    make_ticks(&ticks, y, 50);
    size_t widest = 2;
    for (int i = 0; i < ticks.n; i++) {
        char text[DM_DOUBLE_TEXT + 4];
        format_tick(text, ticks.values[i]);
        size_t n = strlen(text) - (ticks.values[i] < 0 ? 2 : 0); /* the minus has three bytes */
        widest = n > widest ? n : widest;
    }
    return 20 + 0.64F * FONT * (float)widest;
}

/* Widens [lo, hi] by `share` of its length on both sides; a single value gets room around it. */
static void pad(double *lo, double *hi, double share)
{
    double length = *hi - *lo, size = fmax(fabs(*lo), fabs(*hi));
    if (!(length > 1e-9 * size))
        length = size > 0 ? size : 1;
    *lo -= share * length;
    *hi += share * length;
    if (!(*hi - *lo > 1e-9 * size)) { /* huge values close together */
        *lo -= 0.5 * length;
        *hi += 0.5 * length;
    }
}

/* Legend: entries from left to right below the title. */

/* Where the next entry begins. A letter is about 0.62 of the font's size wide. */
static float after_entry(float x, bool dot, const char *text)
{
    return x + (dot ? 15 : 28) + 0.62F * FONT * (float)strlen(text) + 16;
}

static float draw_entry(struct dm_drawing *drawing, float x, float y, bool dot,
                        struct dm_rgba color, const char *text)
{
    float next = after_entry(x, dot, text);
    if (dot)
        dm_draw_disc(drawing, (struct dm_xy){x + 5, y - 4.5F}, 4.5F, color);
    else
        line(drawing, x, y - 4.5F, x + 22, y - 4.5F, 2, color);
    x += dot ? 15 : 28;
    dm_draw_text(drawing, (struct dm_xy){x, y}, FONT, DM_ANCHOR_START, false, ink, text);
    return next;
}

/* Point sets */

static const struct dm_rgba start_color = {222, 110, 20, 255}, end_color = {0, 90, 181, 255};

static struct dm_rgba blend(double share, uint8_t alpha)
{
    return (struct dm_rgba){(uint8_t)lround(start_color.r + share * (end_color.r - start_color.r)),
                            (uint8_t)lround(start_color.g + share * (end_color.g - start_color.g)),
                            (uint8_t)lround(start_color.b + share * (end_color.b - start_color.b)),
                            alpha};
}

static const float *point_at(const struct dm_point_plot *plot, int state, int point)
{
    return plot->states + 2 * ((size_t)state * (size_t)plot->n_points + (size_t)point);
}

static demist_status find_range(const struct dm_point_plot *plot, double lo[2], double hi[2],
                                struct dm_error *err)
{
    for (int k = 0; k < 2; k++)
        lo[k] = INFINITY, hi[k] = -INFINITY;
    for (int s = 0; s < plot->n_states; s++)
        for (int i = 0; i < plot->n_points; i++)
            for (int k = 0; k < 2; k++) {
                double v = point_at(plot, s, i)[k];
                if (!isfinite(v))
                    return dm_fail(err, DEMIST_NUMERIC,
                                   "a point cannot be drawn: %s of point %d in state %d is not "
                                   "finite",
                                   k ? "y" : "x", i, s);
                lo[k] = v < lo[k] ? v : lo[k];
                hi[k] = v > hi[k] ? v : hi[k];
            }
    return DEMIST_OK;
}

/* One scale for both axes; the page grows or shrinks in height with the data, within limits. */
static void fit_equal(struct dm_drawing *drawing, struct frame *frame, const double lo[2],
                      const double hi[2])
{
    double dx = hi[0] - lo[0], dy = hi[1] - lo[1];
    double x = (lo[0] + hi[0]) / 2, y = (lo[1] + hi[1]) / 2;
    frame->left = 0;
    frame->right = PAGE_WIDTH - MARGIN_RIGHT;
    frame->top = MARGIN_TOP;
    for (int pass = 0; pass < 3; pass++) { /* the labels' width follows from the scale */
        double width = frame->right - frame->left;
        double height = round(fmin(fmax(width * dy / dx, 0.35 * width), 1.1 * width));
        double scale = fmin(width / dx, height / dy);
        double half_x = width / scale / 2, half_y = height / scale / 2;
        frame->bottom = (float)(MARGIN_TOP + height);
        frame->x = (struct axis){x - half_x, x + half_x, frame->left, scale, false};
        frame->y = (struct axis){y - half_y, y + half_y, frame->bottom, -scale, false};
        if (pass < 2)
            frame->left = fmaxf(frame->left, left_margin(&frame->y));
    }
    drawing->width = PAGE_WIDTH;
    drawing->height = (int)frame->bottom + 34;
}

/* A path in pieces whose colours run from the start's to the end's. States less than a third of a
 * pixel apart are joined: a long chain need not make a large file. */
static void draw_path(struct dm_drawing *drawing, const struct frame *frame,
                      const struct dm_point_plot *plot, int point, struct dm_xy *scratch,
                      uint8_t alpha)
{
    enum { PIECES = 24 };
    int steps = plot->n_states - 1, pieces = steps < PIECES ? steps : PIECES;
    struct dm_xy last = {0, 0};
    for (int piece = 0; piece < pieces; piece++) {
        int from = (int)((long long)steps * piece / pieces);
        int to = (int)((long long)steps * (piece + 1) / pieces);
        size_t n = 0;
        if (piece > 0)
            scratch[n++] = last;
        for (int s = piece > 0 ? from + 1 : from; s <= to; s++) {
            const float *p = point_at(plot, s, point);
            struct dm_xy at = {place(&frame->x, p[0]), place(&frame->y, p[1])};
            if (n == 0 || s == steps || hypotf(at.x - last.x, at.y - last.y) > 0.33F)
                scratch[n++] = last = at;
        }
        double share = pieces > 1 ? (double)piece / (pieces - 1) : 0.5;
        dm_draw_lines(drawing, scratch, n, 1.2F, blend(share, alpha));
    }
}

static void draw_state(struct dm_drawing *drawing, const struct frame *frame,
                       const struct dm_point_plot *plot, int state, struct dm_rgba color)
{
    float radius = plot->n_points <= 100 ? 4.0F : plot->n_points <= 2000 ? 2.5F : 1.5F;
    color.a = plot->n_points <= 500 ? 255 : 150;
    for (int i = 0; i < plot->n_points; i++) {
        const float *p = point_at(plot, state, i);
        dm_draw_disc(drawing, (struct dm_xy){place(&frame->x, p[0]), place(&frame->y, p[1])},
                     radius, color);
    }
}

static float draw_time_entry(struct dm_drawing *drawing, float x, struct dm_rgba color,
                             const char *what, const struct dm_point_plot *plot, int state)
{
    char text[64 + DM_DOUBLE_TEXT], time[DM_DOUBLE_TEXT];
    snprintf(text, sizeof text, "%s", what);
    if (plot->times)
        snprintf(text, sizeof text, "%s (t = %s)", what,
                 dm_format_double(round(plot->times[state] * 1e4) / 1e4, time));
    return draw_entry(drawing, x, LEGEND_Y, true, color, text);
}

static void draw_point_legend(struct dm_drawing *drawing, const struct frame *frame,
                              const struct dm_point_plot *plot, int n_paths)
{
    float x = frame->left;
    if (plot->start)
        x = draw_time_entry(drawing, x, start_color, "start", plot, 0);
    x = draw_time_entry(drawing, x, end_color, "end", plot, plot->n_states - 1);
    char text[96];
    if (n_paths < plot->n_points)
        snprintf(text, sizeof text, "paths of the first %d of %d points", n_paths, plot->n_points);
    else
        snprintf(text, sizeof text, "paths of %d points in %d steps", n_paths, plot->n_states - 1);
    if (n_paths > 0)
        draw_entry(drawing, x, LEGEND_Y, false, blend(0.5, 255), text);
}

demist_status dm_plot_points(struct dm_drawing *drawing, const struct dm_point_plot *plot,
                             struct dm_error *err)
{
    if (plot->n_states < 1 || plot->n_points < 1)
        return dm_fail(err, DEMIST_INVALID, "a plot of %d points in %d states has nothing to show",
                       plot->n_points, plot->n_states);
    double lo[2], hi[2];
    DM_TRY(find_range(plot, lo, hi, err));
    pad(&lo[0], &hi[0], 0.06);
    pad(&lo[1], &hi[1], 0.06);
    struct frame frame;
    fit_equal(drawing, &frame, lo, hi);
    draw_frame(drawing, &frame, plot->title);

    int n_paths = !plot->paths || plot->n_states < 2                        ? 0
                  : plot->max_paths > 0 && plot->max_paths < plot->n_points ? plot->max_paths
                                                                            : plot->n_points;
    if (n_paths > 0) {
        struct dm_xy *scratch = calloc((size_t)plot->n_states + 1, sizeof *scratch);
        if (!scratch)
            return dm_fail_memory(err, "the paths of a plot");
        uint8_t alpha = n_paths <= 50 ? 190 : n_paths <= 500 ? 100 : 40;
        for (int i = 0; i < n_paths; i++)
            draw_path(drawing, &frame, plot, i, scratch, alpha);
        free(scratch);
    }
    if (plot->start)
        draw_state(drawing, &frame, plot, 0, start_color);
    draw_state(drawing, &frame, plot, plot->n_states - 1, end_color);
    draw_point_legend(drawing, &frame, plot, n_paths);
    return drawing->failed ? dm_fail_memory(err, "a plot") : DEMIST_OK;
}

/* Line charts */

static bool drawable(const struct dm_line_plot *plot, const struct dm_series *series, int i)
{
    return isfinite(series->x[i]) && isfinite(series->y[i]) && !(plot->log_y && series->y[i] <= 0);
}

static bool find_axes(const struct dm_line_plot *plot, struct axis *x, struct axis *y)
{
    *x = (struct axis){INFINITY, -INFINITY, 0, 0, false};
    *y = (struct axis){INFINITY, -INFINITY, 0, 0, plot->log_y};
    for (int k = 0; k < plot->n_series; k++)
        for (int i = 0; i < plot->series[k].n; i++) {
            if (!drawable(plot, &plot->series[k], i))
                continue;
            double u = plot->series[k].x[i], v = plot->series[k].y[i];
            v = plot->log_y ? log10(v) : v;
            x->lo = fmin(x->lo, u), x->hi = fmax(x->hi, u);
            y->lo = fmin(y->lo, v), y->hi = fmax(y->hi, v);
        }
    return x->lo <= x->hi;
}

static void draw_series(struct dm_drawing *drawing, const struct frame *frame,
                        const struct dm_line_plot *plot, const struct dm_series *series,
                        struct dm_xy *scratch, struct dm_rgba color)
{
    size_t n = 0;
    for (int i = 0; i <= series->n; i++) {
        if (i < series->n && drawable(plot, series, i)) {
            scratch[n++] =
                (struct dm_xy){place(&frame->x, series->x[i]), place(&frame->y, series->y[i])};
            continue;
        }
        if (n == 1) /* a value alone between gaps */
            dm_draw_disc(drawing, scratch[0], 2, color);
        dm_draw_lines(drawing, scratch, n, 1.6F, color);
        n = 0;
    }
}

static void draw_labels(struct dm_drawing *drawing, const struct frame *frame,
                        const struct dm_line_plot *plot)
{
    if (plot->x_label)
        dm_draw_text(drawing, (struct dm_xy){(frame->left + frame->right) / 2, frame->bottom + 40},
                     FONT, DM_ANCHOR_MIDDLE, false, ink, plot->x_label);
    if (plot->y_label)
        dm_draw_text(drawing, (struct dm_xy){18, (frame->top + frame->bottom) / 2}, FONT,
                     DM_ANCHOR_MIDDLE, true, ink, plot->y_label);
}

/* Draws the names in as many rows as they need and returns that number; only counts the rows where
 * `drawing` is NULL. */
static int draw_names(struct dm_drawing *drawing, float left, const struct dm_line_plot *plot)
{
    int row = 0;
    float x = left;
    for (int k = 0; k < plot->n_series; k++) {
        const char *name = plot->series[k].name;
        if (!name)
            continue;
        if (x > left && after_entry(x, false, name) > PAGE_WIDTH) {
            row++;
            x = left;
        }
        if (drawing)
            draw_entry(drawing, x, (float)(LEGEND_Y + row * LEGEND_ROW), false,
                       colors[k % N_COLORS], name);
        x = after_entry(x, false, name);
    }
    return row + 1;
}

static demist_status draw_all_series(struct dm_drawing *drawing, const struct frame *frame,
                                     const struct dm_line_plot *plot, struct dm_error *err)
{
    int longest = 0;
    for (int k = 0; k < plot->n_series; k++)
        longest = plot->series[k].n > longest ? plot->series[k].n : longest;
    struct dm_xy *scratch = calloc((size_t)longest + 1, sizeof *scratch);
    if (!scratch)
        return dm_fail_memory(err, "the lines of a plot");
    for (int k = 0; k < plot->n_series; k++)
        draw_series(drawing, frame, plot, &plot->series[k], scratch, colors[k % N_COLORS]);
    free(scratch);
    return DEMIST_OK;
}

demist_status dm_plot_lines(struct dm_drawing *drawing, const struct dm_line_plot *plot,
                            struct dm_error *err)
{
    struct frame frame;
    if (!find_axes(plot, &frame.x, &frame.y))
        return dm_fail(err, DEMIST_INVALID, "a line plot needs at least one %s value",
                       plot->log_y ? "finite, positive" : "finite");
    pad(&frame.x.lo, &frame.x.hi, 0.02);
    pad(&frame.y.lo, &frame.y.hi, 0.05);
    frame.y.step = -340 / (frame.y.hi - frame.y.lo);
    frame.left = left_margin(&frame.y) + (plot->y_label ? 20 : 0);
    frame.top = (float)(MARGIN_TOP + LEGEND_ROW * (draw_names(NULL, frame.left, plot) - 1));
    frame.bottom = frame.top + 340;
    frame.y.from = frame.bottom;
    frame.right = PAGE_WIDTH - MARGIN_RIGHT;
    frame.x.from = frame.left;
    frame.x.step = (frame.right - frame.left) / (frame.x.hi - frame.x.lo);
    drawing->width = PAGE_WIDTH;
    drawing->height = (int)frame.bottom + (plot->x_label ? 56 : 34);
    draw_frame(drawing, &frame, plot->title);
    DM_TRY(draw_all_series(drawing, &frame, plot, err));
    draw_labels(drawing, &frame, plot);
    draw_names(drawing, frame.left, plot);
    return drawing->failed ? dm_fail_memory(err, "a plot") : DEMIST_OK;
}

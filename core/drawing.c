#include "drawing.h"

#include "utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The list */

static bool reserve(struct dm_drawing *drawing, void **array, size_t *capacity, size_t need,
                    size_t element)
{
    if (drawing->failed || need <= *capacity)
        return !drawing->failed;
    size_t larger = need > SIZE_MAX / 2 / element ? need : 2 * need;
    void *moved = larger > SIZE_MAX / element ? NULL : realloc(*array, larger * element);
    if (!moved) {
        drawing->failed = true;
        return false;
    }
    *array = moved;
    *capacity = larger;
    return true;
}

static struct dm_shape *add(struct dm_drawing *drawing, enum dm_shape_kind kind,
                            const struct dm_xy *points, size_t n, float size, struct dm_rgba color)
{
    void *at = drawing->points, *shapes = drawing->shapes;
    bool ok =
        reserve(drawing, &at, &drawing->points_capacity, drawing->n_points + n, sizeof *points);
    drawing->points = at;
    ok = ok && reserve(drawing, &shapes, &drawing->shapes_capacity, drawing->n_shapes + 1,
                       sizeof *drawing->shapes);
    drawing->shapes = shapes;
    if (!ok)
        return NULL;
    memcpy(drawing->points + drawing->n_points, points, n * sizeof *points);
    struct dm_shape *shape = &drawing->shapes[drawing->n_shapes++];
    *shape = (struct dm_shape){kind, color, size, drawing->n_points, n, 0, DM_ANCHOR_START, false};
    drawing->n_points += n;
    return shape;
}

void dm_draw_lines(struct dm_drawing *drawing, const struct dm_xy *points, size_t n, float width,
                   struct dm_rgba color)
{
    if (n >= 2)
        add(drawing, DM_SHAPE_LINES, points, n, width, color);
}

void dm_draw_disc(struct dm_drawing *drawing, struct dm_xy center, float radius,
                  struct dm_rgba color)
{
    add(drawing, DM_SHAPE_DISC, &center, 1, radius, color);
}

void dm_draw_text(struct dm_drawing *drawing, struct dm_xy at, float size, enum dm_anchor anchor,
                  bool upright, struct dm_rgba color, const char *text)
{
    struct dm_shape *shape = add(drawing, DM_SHAPE_TEXT, &at, 1, size, color);
    if (!shape)
        return;
    shape->anchor = anchor;
    shape->upright = upright;
    shape->text = drawing->texts.size;
    for (size_t left = strlen(text); left > 0;) {
        size_t n = dm_utf8_character(text, left);
        bool control = (unsigned char)*text < ' ' || *text == 0x7F;
        if (n == 0 || control)
            dm_text_append(&drawing->texts, "\xEF\xBF\xBD");
        else
            dm_text_append_bytes(&drawing->texts, text, n);
        n = n ? n : 1;
        text += n;
        left -= n;
    }
    dm_text_append_bytes(&drawing->texts, "", 1);
    drawing->failed |= drawing->texts.failed;
}

void dm_drawing_finish(struct dm_drawing *drawing)
{
    free(drawing->shapes);
    free(drawing->points);
    dm_text_finish(&drawing->texts);
    *drawing = DM_DRAWING_INIT;
}

static demist_status check(const struct dm_drawing *drawing, struct dm_error *err)
{
    if (drawing->failed)
        return dm_fail_memory(err, "a drawing");
    if (drawing->width < 1 || drawing->height < 1 || drawing->width > DM_DRAWING_SIDE_MAX ||
        drawing->height > DM_DRAWING_SIDE_MAX)
        return dm_fail(err, DEMIST_INVALID, "a drawing of %d x %d: sides must be 1 to %d",
                       drawing->width, drawing->height, DM_DRAWING_SIDE_MAX);
    return DEMIST_OK;
}

/* SVG */

/* Hundredths are written as integers: no locale, and no digits that nobody sees. */
static void put_number(struct dm_text *out, float value)
{
    long hundredths = lroundf(value * 100);
    unsigned long size =
        hundredths < 0 ? 0UL - (unsigned long)hundredths : (unsigned long)hundredths;
    dm_text_appendf(out, "%s%lu", hundredths < 0 ? "-" : "", size / 100);
    if (size % 100)
        dm_text_appendf(out, size % 10 ? ".%02lu" : ".%lu",
                        size % 10 ? size % 100 : size % 100 / 10);
}

static void put_xy(struct dm_text *out, struct dm_xy at, const char *between)
{
    put_number(out, at.x);
    dm_text_append(out, between);
    put_number(out, at.y);
}

static void put_paint(struct dm_text *out, const char *what, struct dm_rgba color)
{
    dm_text_appendf(out, " %s=\"#%02x%02x%02x\"", what, color.r, color.g, color.b);
    if (color.a == 255)
        return;
    dm_text_appendf(out, " %s-opacity=\"", what);
    put_number(out, (float)color.a / 255);
    dm_text_append(out, "\"");
}

/* XML has no way to write most control characters; they become blanks. */
static void put_escaped(struct dm_text *out, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '&')
            dm_text_append(out, "&amp;");
        else if (c == '<')
            dm_text_append(out, "&lt;");
        else if (c == '>')
            dm_text_append(out, "&gt;");
        else if (c == '\r')
            dm_text_append(out, "&#13;");
        else
            dm_text_append_bytes(out, c < ' ' && c != '\n' && c != '\t' ? " " : text, 1);
    }
}

static void put_text(struct dm_text *out, const struct dm_drawing *drawing,
                     const struct dm_shape *shape)
{
    static const char *const anchors[] = {"start", "middle", "end"};
    struct dm_xy at = drawing->points[shape->first];
    dm_text_append(out, "<text");
    if (shape->upright) {
        dm_text_append(out, " transform=\"translate(");
        put_xy(out, at, ",");
        dm_text_append(out, ") rotate(-90)\"");
    } else {
        dm_text_append(out, " x=\"");
        put_xy(out, at, "\" y=\"");
        dm_text_append(out, "\"");
    }
    dm_text_append(out, " font-size=\"");
    put_number(out, shape->size);
    dm_text_appendf(out, "\" text-anchor=\"%s\"", anchors[shape->anchor]);
    put_paint(out, "fill", shape->color);
    dm_text_append(out, ">");
    put_escaped(out, drawing->texts.data + shape->text);
    dm_text_append(out, "</text>\n");
}

static void put_lines(struct dm_text *out, const struct dm_drawing *drawing,
                      const struct dm_shape *shape)
{
    dm_text_append(out, "<polyline stroke-width=\"");
    put_number(out, shape->size);
    dm_text_append(out, "\"");
    put_paint(out, "stroke", shape->color);
    dm_text_append(out, " points=\"");
    for (size_t i = 0; i < shape->count; i++) {
        dm_text_append(out, i ? " " : "");
        put_xy(out, drawing->points[shape->first + i], ",");
    }
    dm_text_append(out, "\"/>\n");
}

static void put_disc(struct dm_text *out, const struct dm_drawing *drawing,
                     const struct dm_shape *shape)
{
    dm_text_append(out, "<circle cx=\"");
    put_xy(out, drawing->points[shape->first], "\" cy=\"");
    dm_text_append(out, "\" r=\"");
    put_number(out, shape->size);
    dm_text_append(out, "\"");
    put_paint(out, "fill", shape->color);
    dm_text_append(out, "/>\n");
}

demist_status dm_drawing_svg(struct dm_text *out, const struct dm_drawing *drawing,
                             const struct dm_png_text *texts, int n_texts, struct dm_error *err)
{
    DM_TRY(check(drawing, err));
    for (int i = 0; i < n_texts; i++) {
        size_t size = strlen(texts[i].value), good = dm_utf8_check(texts[i].value, size);
        if (good < size)
            return dm_fail(err, DEMIST_INVALID, "the SVG text \"%s\" is not UTF-8 at byte %zu",
                           texts[i].keyword, good);
    }
    int w = drawing->width, h = drawing->height;
    dm_text_appendf(out,
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                    "viewBox=\"0 0 %d %d\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n",
                    w, h, w, h);
    if (n_texts > 0)
        dm_text_append(out, "<desc>");
    for (int i = 0; i < n_texts; i++) {
        put_escaped(out, texts[i].keyword);
        dm_text_append(out, ": ");
        put_escaped(out, texts[i].value);
        dm_text_append(out, "\n");
    }
    if (n_texts > 0)
        dm_text_append(out, "</desc>\n");
    dm_text_appendf(out, "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", w, h);
    dm_text_append(out, "<g fill=\"none\" stroke-linejoin=\"round\">\n");
    for (size_t i = 0; i < drawing->n_shapes; i++) {
        const struct dm_shape *shape = &drawing->shapes[i];
        if (shape->kind == DM_SHAPE_LINES)
            put_lines(out, drawing, shape);
        else if (shape->kind == DM_SHAPE_DISC)
            put_disc(out, drawing, shape);
        else
            put_text(out, drawing, shape);
    }
    dm_text_append(out, "</g>\n</svg>\n");
    return out->failed ? dm_fail_memory(err, "an SVG file") : DEMIST_OK;
}

/* Pixels */

#ifdef DM_HAVE_CAIRO

#include <cairo.h>

static void set_color(cairo_t *cr, struct dm_rgba color)
{
    cairo_set_source_rgba(cr, color.r / 255.0, color.g / 255.0, color.b / 255.0, color.a / 255.0);
}

static void paint_text(cairo_t *cr, const struct dm_drawing *drawing, const struct dm_shape *shape)
{
    struct dm_xy at = drawing->points[shape->first];
    const char *text = drawing->texts.data + shape->text;
    cairo_text_extents_t extents;
    cairo_save(cr);
    cairo_translate(cr, at.x, at.y);
    if (shape->upright)
        cairo_rotate(cr, -acos(0.0));
    cairo_set_font_size(cr, shape->size);
    cairo_text_extents(cr, text, &extents);
    double shift = shape->anchor == DM_ANCHOR_START    ? 0
                   : shape->anchor == DM_ANCHOR_MIDDLE ? -extents.x_advance / 2
                                                       : -extents.x_advance;
    cairo_move_to(cr, shift, 0);
    cairo_show_text(cr, text);
    cairo_restore(cr);
}

static void paint(cairo_t *cr, const struct dm_drawing *drawing, const struct dm_shape *shape)
{
    const struct dm_xy *points = drawing->points + shape->first;
    set_color(cr, shape->color);
    if (shape->kind == DM_SHAPE_TEXT) {
        paint_text(cr, drawing, shape);
        return;
    }
    cairo_new_path(cr);
    if (shape->kind == DM_SHAPE_DISC) {
        cairo_arc(cr, points->x, points->y, shape->size, 0, 4 * acos(0.0));
        cairo_fill(cr);
        return;
    }
    for (size_t i = 0; i < shape->count; i++)
        cairo_line_to(cr, points[i].x, points[i].y);
    cairo_set_line_width(cr, shape->size);
    cairo_stroke(cr);
}

static void paint_all(cairo_t *cr, const struct dm_drawing *drawing, int scale)
{
    cairo_font_options_t *options = cairo_font_options_create();
    cairo_font_options_set_antialias(options, CAIRO_ANTIALIAS_GRAY);
    cairo_font_options_set_hint_style(options, CAIRO_HINT_STYLE_NONE);
    cairo_font_options_set_hint_metrics(options, CAIRO_HINT_METRICS_OFF);
    cairo_set_font_options(cr, options);
    cairo_font_options_destroy(options);
    cairo_select_font_face(cr, "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
    cairo_scale(cr, scale, scale);
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_paint(cr);
    for (size_t i = 0; i < drawing->n_shapes; i++)
        paint(cr, drawing, &drawing->shapes[i]);
}

/* cairo's pixels are native 32-bit words 0x??RRGGBB. */
static void copy_pixels(struct dm_image *image, cairo_surface_t *surface)
{
    cairo_surface_flush(surface);
    const unsigned char *data = cairo_image_surface_get_data(surface);
    size_t stride = (size_t)cairo_image_surface_get_stride(surface);
    uint8_t *to = image->pixels;
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++, to += 3) {
            uint32_t word;
            memcpy(&word, data + (size_t)y * stride + 4 * (size_t)x, 4);
            to[0] = (uint8_t)(word >> 16);
            to[1] = (uint8_t)(word >> 8);
            to[2] = (uint8_t)word;
        }
}

demist_status dm_drawing_image(struct dm_image *image, const struct dm_drawing *drawing, int scale,
                               struct dm_error *err)
{
    *image = DM_IMAGE_INIT;
    DM_TRY(check(drawing, err));
    if (scale < 1 || scale > 4)
        return dm_fail(err, DEMIST_INVALID, "a plot at scale %d: 1 to 4 are possible", scale);
    int width = drawing->width * scale, height = drawing->height * scale;
    DM_TRY(dm_image_create(image, width, height, 3, err));
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
    cairo_t *cr = cairo_create(surface);
    paint_all(cr, drawing, scale);
    cairo_status_t status = cairo_status(cr);
    if (status == CAIRO_STATUS_SUCCESS)
        copy_pixels(image, surface);
    cairo_destroy(cr);
    cairo_surface_destroy(surface);
    if (status == CAIRO_STATUS_SUCCESS)
        return DEMIST_OK;
    dm_image_finish(image);
    if (status == CAIRO_STATUS_NO_MEMORY)
        return dm_fail_memory(err, "the pixels of a plot");
    return dm_fail(err, DEMIST_INTERNAL, "cairo cannot draw: %s", cairo_status_to_string(status));
}

#else

demist_status dm_drawing_image(struct dm_image *image, const struct dm_drawing *drawing, int scale,
                               struct dm_error *err)
{
    *image = DM_IMAGE_INIT;
    return dm_fail(
        err, DEMIST_UNSUPPORTED,
        "this build of demist draws no plots as PNG: it was built without cairo; install "
        "it (Debian: libcairo2-dev) and build again, or choose SVG");
}

#endif

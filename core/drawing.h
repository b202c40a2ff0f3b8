/* Line drawings as a list of shapes, which becomes an SVG file or, through cairo, pixels.
 *
 * The SVG writer is our own: cairo's numbers its elements from a global counter, so that its bytes
 * depend on what was drawn before, and knows no metadata. It needs no library at all. */
#ifndef DM_DRAWING_H
#define DM_DRAWING_H

#include "image.h"
#include "pngfile.h"
#include "text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dm_rgba {
    uint8_t r, g, b, a; /* a: 255 is opaque */
};

/* Pixels at scale 1, y downwards from the upper left corner. */
struct dm_xy {
    float x, y;
};

enum dm_anchor { DM_ANCHOR_START, DM_ANCHOR_MIDDLE, DM_ANCHOR_END };

enum dm_shape_kind { DM_SHAPE_LINES, DM_SHAPE_DISC, DM_SHAPE_TEXT };

struct dm_shape {
    enum dm_shape_kind kind;
    struct dm_rgba color;
    float size;          /* line width, radius, font size */
    size_t first, count; /* points; texts: the bytes in `texts`, the position is points[first] */
    size_t text;
    enum dm_anchor anchor;
    bool upright; /* the text runs upwards */
};

struct dm_drawing {
    int width, height; /* of the page, which is white */
    struct dm_shape *shapes;
    size_t n_shapes, shapes_capacity;
    struct dm_xy *points;
    size_t n_points, points_capacity;
    struct dm_text texts; /* NUL after each; UTF-8, made valid when added */
    bool failed;          /* memory ran out; every later call is ignored, the outputs report it */
};

#define DM_DRAWING_INIT ((struct dm_drawing){0})
#define DM_DRAWING_SIDE_MAX 8000 /* times 4 is within what cairo can do */

/* A connected line through n points (copied) with round joins; fewer than two points draw nothing.
 */
void dm_draw_lines(struct dm_drawing *drawing, const struct dm_xy *points, size_t n, float width,
                   struct dm_rgba color);
void dm_draw_disc(struct dm_drawing *drawing, struct dm_xy center, float radius,
                  struct dm_rgba color);

/* `at` is on the base line. What is not UTF-8 or a control character shows as U+FFFD. */
void dm_draw_text(struct dm_drawing *drawing, struct dm_xy at, float size, enum dm_anchor anchor,
                  bool upright, struct dm_rgba color, const char *text);

/* Appends an SVG file: the texts go into <desc>, as lines "keyword: value". */
demist_status dm_drawing_svg(struct dm_text *out, const struct dm_drawing *drawing,
                             const struct dm_png_text *texts, int n_texts, struct dm_error *err);

/* Draws `scale` pixels for one, as RGB. UNSUPPORTED in a build without cairo (feature `plot`). */
demist_status dm_drawing_image(struct dm_image *image, const struct dm_drawing *drawing, int scale,
                               struct dm_error *err);

/* Frees everything; accepts an empty drawing. */
void dm_drawing_finish(struct dm_drawing *drawing);

#endif

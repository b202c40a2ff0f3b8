/* Pictures in memory: 8-bit, interleaved, and the ways that lead from a network's floats to them:
 * rounding, grids, integer enlargement. Files are pngfile.h and giffile.h. */
#ifndef DM_IMAGE_H
#define DM_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

/* Longest side of a picture: libpng's own limit, and enough for any grid. */
#define DM_IMAGE_SIDE_MAX 1000000

struct dm_image {
    int width, height;
    int channels;    /* 1 gray, 3 RGB, 4 RGBA (alpha not premultiplied) */
    uint8_t *pixels; /* [height][width][channels], owned */
};

#define DM_IMAGE_INIT ((struct dm_image){0, 0, 0, NULL})

/* Black (and transparent) pixels. INVALID for a side outside 1..DM_IMAGE_SIDE_MAX, UNSUPPORTED for
 * another number of channels, NO_MEMORY. On failure the image is empty. */
demist_status dm_image_create(struct dm_image *image, int width, int height, int channels,
                              struct dm_error *err);

/* Frees the pixels and empties; accepts an empty image. */
void dm_image_finish(struct dm_image *image);

/* Bytes of all pixels. */
size_t dm_image_size(const struct dm_image *image);

/* How a float x in [-1, 1] becomes a byte; the order of float32 operations is part of the rule. */
enum dm_image_rounding {
    DM_IMAGE_TRUNCATE, /* trunc(clamp((x + 1)·127.5, 0, 255)): improved-diffusion's scripts */
    DM_IMAGE_ROUND,    /* round(clamp(x/2 + 0.5, 0, 1)·255), halves to even: diffusers */
};

struct dm_image_levels {
    enum dm_image_rounding rounding;
    float lo, hi; /* values that become 0 and 255; what lies outside is clamped */
};

#define DM_IMAGE_LEVELS_INIT ((struct dm_image_levels){DM_IMAGE_TRUNCATE, -1.0F, 1.0F})

/* x: (C,H,W) -> out: (H,W,C). A range other than [-1, 1] is first mapped to it linearly. Takes any
 * number of channels. INVALID for an empty range; NUMERIC, with the place, for a value that is not
 * finite (out is then partly written). */
demist_status dm_image_quantize(uint8_t *out, const float *x, int channels, int height, int width,
                                const struct dm_image_levels *levels, struct dm_error *err);

/* dm_image_create and dm_image_quantize in one. */
demist_status dm_image_from_floats(struct dm_image *image, const float *x, int channels, int height,
                                   int width, const struct dm_image_levels *levels,
                                   struct dm_error *err);

struct dm_grid {
    int columns;        /* 0: near-square, with an exact fit where one is close to it */
    int padding;        /* pixels between cells and around them, after enlargement */
    int scale;          /* each pixel becomes scale × scale pixels */
    uint8_t background; /* gray level of padding and empty cells (opaque in RGBA) */
};

#define DM_GRID_INIT ((struct dm_grid){0, 2, 1, 255})

/* The number of columns that `columns = 0` stands for: the least c ≥ √n that divides n, as long as
 * c/rows ≤ 2, else ⌈√n⌉. */
int dm_grid_columns(int n);

/* The size of a grid of n ≥ 1 images of width × height pixels, before one is made. INVALID as
 * below. */
demist_status dm_image_grid_size(int width, int height, int n, const struct dm_grid *options,
                                 int *grid_width, int *grid_height, struct dm_error *err);

/* The n images (n ≥ 1, all of one shape) row by row in one new picture. Fewer images than columns
 * make one row of n. INCOMPATIBLE when shapes differ, INVALID for options outside their range or
 * a picture beyond DM_IMAGE_SIDE_MAX. */
demist_status dm_image_grid(struct dm_image *grid, const struct dm_image *images, int n,
                            const struct dm_grid *options, struct dm_error *err);

#endif

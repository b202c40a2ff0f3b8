/* GIF through giflib: animations of how pictures come out of the noise, and still ones to read.
 *
 * Needs the meson feature `gif`; without it both are UNSUPPORTED errors that say so. */
#ifndef DM_GIFFILE_H
#define DM_GIFFILE_H

#include "image.h"
#include "text.h"

#include <stdbool.h>

enum {
    DM_GIF_DELAY_MIN = 20, /* ms; viewers slow down what is faster */
    DM_GIF_DELAY_MAX = 655350,
    DM_GIF_SIDE_MAX = 65535,
};

struct dm_gif {
    int delay_ms;           /* per frame, DM_GIF_DELAY_MIN to _MAX; kept to 10 ms */
    int hold_ms;            /* for the last frame; 0: like the others */
    int plays;              /* how often; 0: for ever */
    bool palette_per_frame; /* more faithful colours in a larger file; else one for all */
};

#define DM_GIF_INIT ((struct dm_gif){100, 2000, 0, false})

/* Appends a complete GIF89a file to `out`. frames: n ≥ 1 pictures of one size; alpha is dropped.
 * INVALID for options out of range, INCOMPATIBLE for frames that differ in size. Equal input gives
 * equal bytes. */
demist_status dm_gif_encode(struct dm_text *out, const struct dm_image *frames, int n,
                            const struct dm_gif *options, struct dm_error *err);

/* Reads the first frame of a whole GIF file in memory as 8-bit RGB; transparent pixels have the
 * colour that the palette gives them, as in Pillow's convert("RGB"). FORMAT for a file that is
 * damaged or truncated. On failure the image is empty. [any thread] */
demist_status dm_gif_decode(struct dm_image *image, const uint8_t *data, size_t size,
                            struct dm_error *err);

#endif

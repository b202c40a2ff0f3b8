/* Animated GIF through giflib: how pictures come out of the noise.
 *
 * Needs the meson feature `gif`; without it encoding is an UNSUPPORTED error that says so. */
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

#endif

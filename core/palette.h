/* At most 256 colours for pictures that have more: what GIF needs. */
#ifndef DM_PALETTE_H
#define DM_PALETTE_H

#include <stdint.h>

#include "image.h"

struct dm_palette {
    int n;               /* 1 to 256 */
    uint8_t rgb[256][3]; /* ascending where the palette is exact */
    uint8_t *nearest;    /* entry for each colour cut to 6 bits a channel; NULL when exact; owned */
};

/* One palette for n ≥ 1 images: exactly their colours when there are at most 256, otherwise colour
 * space cut where it lowers the squared error most. The result depends on nothing but the pixels.
 * Alpha is ignored. NO_MEMORY; then the palette is empty. */
demist_status dm_palette_build(struct dm_palette *palette, const struct dm_image *images, int n,
                               struct dm_error *err);

/* out[height][width]: the entry of each pixel of one of the images the palette was built from. */
void dm_palette_map(const struct dm_palette *palette, const struct dm_image *image, uint8_t *out);

/* Frees the table; accepts an empty palette. */
void dm_palette_finish(struct dm_palette *palette);

#endif

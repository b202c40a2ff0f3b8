/* JPEG through libjpeg, decoding only: pictures that networks are evaluated and trained on.
 *
 * Needs the meson feature `jpeg`; without it decoding is an UNSUPPORTED error that says so. */
#ifndef DM_JPEGFILE_H
#define DM_JPEGFILE_H

#include "image.h"

/* Reads a whole JPEG file in memory as 8-bit RGB: gray is expanded, CMYK converted as Pillow does
 * (stored inverted, as Adobe's are); an orientation tag is not applied, as in Pillow's open. FORMAT
 * for a file that is damaged or truncated, also where libjpeg would make up the missing part. On
 * failure the image is empty. [any thread] */
demist_status dm_jpeg_decode(struct dm_image *image, const uint8_t *data, size_t size,
                             struct dm_error *err);

#endif

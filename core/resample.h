/* Resizing pictures bit for bit as Pillow does, so that networks see the pixels they were trained
 * on: separable filters stretched by the scale when shrinking ("antialiased"), coefficients in
 * fixed point, and a rounding to 8 bits between the horizontal and the vertical pass. */
#ifndef DM_RESAMPLE_H
#define DM_RESAMPLE_H

#include "image.h"

enum dm_filter {
    DM_FILTER_BOX,
    DM_FILTER_BICUBIC, /* a = −0.5 */
};

/* in -> out of width × height pixels. INVALID for a size that an image cannot have. On failure
 * `out` is empty. [any thread] */
demist_status dm_image_resize(struct dm_image *out, const struct dm_image *in, int width,
                              int height, enum dm_filter filter, struct dm_error *err);

/* improved-diffusion's way to a picture of width × height: halved with a box filter (to
 * ⌊w/2⌋×⌊h/2⌋) while the shorter side, as the target counts it, is at least twice the target; then
 * bicubic to the scale at which the target is just covered, sizes rounded half to even; then the
 * centre, offsets rounded down. For a square target that is the original to the bit. */
demist_status dm_image_fit(struct dm_image *out, const struct dm_image *in, int width, int height,
                           struct dm_error *err);

#endif

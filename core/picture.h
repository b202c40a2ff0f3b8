/* A picture file of any format that is read: PNG, JPEG, GIF, told by the content. */
#ifndef DM_PICTURE_H
#define DM_PICTURE_H

#include "image.h"

#include <stdbool.h>

/* Whether a file that starts with these bytes is one of them; 8 bytes decide. */
bool dm_is_picture(const uint8_t *start, size_t size);

/* Whether the name ends as those of pictures do: .png, .jpg, .jpeg, .gif in any case. */
bool dm_is_picture_name(const char *name);

/* Reads a picture as 8-bit RGB, whatever its mode: palettes and gray are expanded, of 16 bits the
 * upper 8 are kept, alpha is dropped, not blended (as Pillow's convert("RGB") does). Errors start
 * with the path; on failure the image is empty. [any thread] */
demist_status dm_picture_read(struct dm_image *image, const char *path, struct dm_error *err);

#endif

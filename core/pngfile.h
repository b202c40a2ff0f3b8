/* PNG through libpng: pictures with the description of the run that made them in text chunks.
 *
 * Equal input gives equal bytes: no time stamp, a fixed compression level and filter choice. Files
 * are made in memory; dm_write_file puts them under their name. */
#ifndef DM_PNGFILE_H
#define DM_PNGFILE_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"
#include "text.h"

/* The keyword under which a run's description lies. */
#define DM_PNG_KEYWORD "demist"

/* Bounds of what is written, and of what a reader accepts from strangers. */
#define DM_PNG_TEXTS_MAX 64
#define DM_PNG_TEXT_SIZE_MAX ((size_t)4 << 20)
#define DM_PNG_PIXELS_MAX ((size_t)1 << 27)
#define DM_PNG_FILE_SIZE_MAX ((size_t)1 << 30)

struct dm_png_text {
    const char *keyword; /* 1 to 79 printable ASCII characters, no space at either end */
    const char *value;   /* UTF-8, at most DM_PNG_TEXT_SIZE_MAX bytes, any line breaks */
};

/* Appends a complete PNG file to `out`: gray, RGB or RGBA as the image is, the texts before the
 * pixels as tEXt where they are ASCII, else iTXt. INVALID for a bad keyword, a value that is not
 * UTF-8 or too many of them. */
demist_status dm_png_encode(struct dm_text *out, const struct dm_image *image,
                            const struct dm_png_text *texts, int n_texts, struct dm_error *err);

/* Texts that were read; keyword and value are UTF-8. Freed by dm_png_texts_finish. */
struct dm_png_texts {
    struct dm_png_text *items; /* in file order; the strings are owned too */
    int n;
};

#define DM_PNG_TEXTS_INIT ((struct dm_png_texts){NULL, 0})

void dm_png_texts_finish(struct dm_png_texts *texts);

/* The value of the first text with that keyword, or NULL. */
const char *dm_png_texts_find(const struct dm_png_texts *texts, const char *keyword);

/* Reads a whole PNG file in memory. `image` and `texts` may each be NULL; what is not asked for
 * takes no memory. Every kind of PNG becomes 8-bit RGB, as Pillow's convert("RGB") does: palettes
 * and gray are expanded, of 16 bits the upper 8 are kept, alpha is dropped, not blended. (16-bit
 * gray is the exception: Pillow clamps it to 255, which whitens everything; here it too keeps its
 * upper 8.)
 *
 * FORMAT for a file that is not PNG, damaged, truncated anywhere, or that claims more pixels than
 * its bytes can hold or than DM_PNG_PIXELS_MAX: that is known before anything of that size is
 * allocated. On failure both outputs are empty. */
demist_status dm_png_decode(struct dm_image *image, struct dm_png_texts *texts, const uint8_t *data,
                            size_t size, struct dm_error *err);

/* dm_png_decode of a file; errors start with its path. */
demist_status dm_png_read(struct dm_image *image, struct dm_png_texts *texts, const char *path,
                          struct dm_error *err);

#endif

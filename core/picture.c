#include "picture.h"

#include "fileio.h"
#include "giffile.h"
#include "jpegfile.h"
#include "pngfile.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum kind { NONE, PNG, JPEG, GIF };

static enum kind kind_of(const uint8_t *start, size_t size)
{
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (size >= sizeof png && memcmp(start, png, sizeof png) == 0)
        return PNG;
    if (size >= 3 && start[0] == 0xff && start[1] == 0xd8 && start[2] == 0xff)
        return JPEG;
    if (size >= 6 && (memcmp(start, "GIF87a", 6) == 0 || memcmp(start, "GIF89a", 6) == 0))
        return GIF;
    return NONE;
}

bool dm_is_picture(const uint8_t *start, size_t size)
{
    return kind_of(start, size) != NONE;
}

bool dm_is_picture_name(const char *name)
{
    static const char *const ends[] = {"png", "jpg", "jpeg", "gif"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++)
        if (strcasecmp(dot + 1, ends[i]) == 0)
            return true;
    return false;
}

demist_status dm_picture_read(struct dm_image *image, const char *path, struct dm_error *err)
{
    char *text;
    size_t size;
    *image = DM_IMAGE_INIT;
    DM_TRY(dm_read_file(path, DM_PNG_FILE_SIZE_MAX, &text, &size, err));
    const uint8_t *data = (const uint8_t *)text;
    demist_status status = DEMIST_OK;
    switch (kind_of(data, size)) {
    case PNG:
        status = dm_png_decode(image, NULL, data, size, err);
        break;
    case JPEG:
        status = dm_jpeg_decode(image, data, size, err);
        break;
    case GIF:
        status = dm_gif_decode(image, data, size, err);
        break;
    case NONE:
        status = dm_fail(err, DEMIST_FORMAT, "neither PNG nor JPEG nor GIF%s",
                         size == 0 ? ": the file is empty" : "");
        break;
    }
    if (status != DEMIST_OK)
        dm_fail_where(err, "%s", path);
    free(text);
    return status;
}

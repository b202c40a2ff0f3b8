#include "image.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

demist_status dm_image_create(struct dm_image *image, int width, int height, int channels,
                              struct dm_error *err)
{
    *image = DM_IMAGE_INIT;
    if (width < 1 || height < 1 || width > DM_IMAGE_SIDE_MAX || height > DM_IMAGE_SIDE_MAX)
        return dm_fail(err, DEMIST_INVALID, "a picture of %d x %d pixels: sides must be 1 to %d",
                       width, height, DM_IMAGE_SIDE_MAX);
    if (channels != 1 && channels != 3 && channels != 4)
        return dm_fail(err, DEMIST_UNSUPPORTED,
                       "%d channels do not make a picture: 1 (gray), 3 (RGB) or 4 (RGBA) do; save "
                       "the values as npy, npz or safetensors instead",
                       channels);
    uint8_t *pixels = calloc((size_t)width * (size_t)height, (size_t)channels);
    if (!pixels)
        return dm_fail(err, DEMIST_NO_MEMORY, "out of memory: a picture of %d x %d pixels", width,
                       height);
    *image = (struct dm_image){width, height, channels, pixels};
    return DEMIST_OK;
}

void dm_image_finish(struct dm_image *image)
{
    free(image->pixels);
    *image = DM_IMAGE_INIT;
}

size_t dm_image_size(const struct dm_image *image)
{
    return (size_t)image->width * (size_t)image->height * (size_t)image->channels;
}

static uint8_t truncated(float x)
{
    float v = (x + 1.0F) * 127.5F;
    v = v < 0.0F ? 0.0F : v > 255.0F ? 255.0F : v;
    return (uint8_t)v;
}

static uint8_t rounded(float x)
{
    float v = x / 2.0F + 0.5F;
    v = v < 0.0F ? 0.0F : v > 1.0F ? 1.0F : v;
    return (uint8_t)rintf(v * 255.0F);
}

demist_status dm_image_quantize(uint8_t *out, const float *x, int channels, int height, int width,
                                const struct dm_image_levels *levels, struct dm_error *err)
{
    float lo = levels->lo, hi = levels->hi;
    if (!(isfinite(lo) && isfinite(hi) && isfinite(hi - lo) && lo < hi))
        return dm_fail(err, DEMIST_INVALID,
                       "the range of pixel values is empty or not finite: its low end must lie "
                       "below its high end");
    bool unit = lo == -1.0F && hi == 1.0F;
    float slope = 2.0F / (hi - lo);
    size_t plane = (size_t)height * (size_t)width;
    for (int c = 0; c < channels; c++)
        for (size_t i = 0; i < plane; i++) {
            float v = x[(size_t)c * plane + i];
            if (!isfinite(v))
                return dm_fail(err, DEMIST_NUMERIC,
                               "a pixel value is not finite: channel %d, row %d, column %d", c,
                               (int)(i / (size_t)width), (int)(i % (size_t)width));
            if (!unit)
                v = (v - lo) * slope - 1.0F;
            out[i * (size_t)channels + (size_t)c] =
                levels->rounding == DM_IMAGE_TRUNCATE ? truncated(v) : rounded(v);
        }
    return DEMIST_OK;
}

demist_status dm_image_from_floats(struct dm_image *image, const float *x, int channels, int height,
                                   int width, const struct dm_image_levels *levels,
                                   struct dm_error *err)
{
    DM_TRY(dm_image_create(image, width, height, channels, err));
    demist_status status =
        dm_image_quantize(image->pixels, x, channels, height, width, levels, err);
    if (status != DEMIST_OK)
        dm_image_finish(image);
    return status;
}

int dm_grid_columns(int n)
{
    int root = 1;
    while ((long long)root * root < n)
        root++;
    for (int c = root; (long long)c * c <= 2LL * n; c++)
        if (n % c == 0)
            return c;
    return root;
}

/* Copies `image`, enlarged, with its upper left corner at (left, top). */
static void paste(struct dm_image *grid, const struct dm_image *image, int left, int top, int scale)
{
    size_t channels = (size_t)image->channels, stride = (size_t)grid->width * channels;
    size_t row = (size_t)image->width * (size_t)scale * channels;
    for (int y = 0; y < image->height; y++) {
        const uint8_t *from = image->pixels + (size_t)y * (size_t)image->width * channels;
        uint8_t *first =
            grid->pixels + (size_t)(top + y * scale) * stride + (size_t)left * channels;
        uint8_t *to = first;
        for (int x = 0; x < image->width; x++, from += channels)
            for (int k = 0; k < scale; k++, to += channels)
                memcpy(to, from, channels);
        for (int k = 1; k < scale; k++)
            memcpy(first + (size_t)k * stride, first, row);
    }
}

static void fill(struct dm_image *image, uint8_t level)
{
    size_t size = dm_image_size(image);
    memset(image->pixels, level, size);
    if (image->channels == 4)
        for (size_t i = 3; i < size; i += 4)
            image->pixels[i] = 255;
}

static int columns_of(int n, const struct dm_grid *options)
{
    int columns = options->columns ? options->columns : dm_grid_columns(n);
    return columns < n ? columns : n;
}

demist_status dm_image_grid_size(int width, int height, int n, const struct dm_grid *options,
                                 int *grid_width, int *grid_height, struct dm_error *err)
{
    if (n < 1)
        return dm_fail(err, DEMIST_INVALID, "a grid needs at least one image");
    if (options->columns < 0 || options->padding < 0 || options->scale < 1 ||
        options->columns > DM_IMAGE_SIDE_MAX || options->padding > DM_IMAGE_SIDE_MAX ||
        options->scale > DM_IMAGE_SIDE_MAX)
        return dm_fail(err, DEMIST_INVALID,
                       "a grid with columns = %d, padding = %d, scale = %d: columns and padding "
                       "must be 0 to %d, scale 1 to %d",
                       options->columns, options->padding, options->scale, DM_IMAGE_SIDE_MAX,
                       DM_IMAGE_SIDE_MAX);
    int padding = options->padding, columns = columns_of(n, options), rows = (n - 1) / columns + 1;
    long long w = columns * ((long long)width * options->scale + padding) + padding;
    long long h = rows * ((long long)height * options->scale + padding) + padding;
    if (w > DM_IMAGE_SIDE_MAX || h > DM_IMAGE_SIDE_MAX)
        return dm_fail(err, DEMIST_INVALID,
                       "a grid of %d x %d images would have %lld x %lld pixels, more than %d on a "
                       "side: choose fewer images, other columns or a smaller scale",
                       columns, rows, w, h, DM_IMAGE_SIDE_MAX);
    *grid_width = (int)w;
    *grid_height = (int)h;
    return DEMIST_OK;
}

static demist_status check_alike(const struct dm_image *images, int n, struct dm_error *err)
{
    for (int i = 1; i < n; i++)
        if (images[i].width != images[0].width || images[i].height != images[0].height ||
            images[i].channels != images[0].channels)
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "image %d of the grid is %d x %d with %d channels, but image 0 is "
                           "%d x %d with %d",
                           i, images[i].width, images[i].height, images[i].channels,
                           images[0].width, images[0].height, images[0].channels);
    return DEMIST_OK;
}

demist_status dm_image_grid(struct dm_image *grid, const struct dm_image *images, int n,
                            const struct dm_grid *options, struct dm_error *err)
{
    *grid = DM_IMAGE_INIT;
    int width, height;
    DM_TRY(dm_image_grid_size(n < 1 ? 0 : images[0].width, n < 1 ? 0 : images[0].height, n, options,
                              &width, &height, err));
    DM_TRY(check_alike(images, n, err));
    DM_TRY(dm_image_create(grid, width, height, images[0].channels, err));
    fill(grid, options->background);
    int columns = columns_of(n, options), padding = options->padding, scale = options->scale;
    for (int i = 0; i < n; i++)
        paste(grid, &images[i], padding + i % columns * (images[0].width * scale + padding),
              padding + i / columns * (images[0].height * scale + padding), scale);
    return DEMIST_OK;
}

#include "resample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Fixed point of the coefficients: 8 bits of pixel, 2 of headroom for filters with negative
 * lobes, and a sign. */
enum { PRECISION = 32 - 8 - 2 };

/* Which inputs make each output of one dimension, and how much of each. */
struct taps {
    int size;         /* taps per output, at most */
    int *first, *n;   /* [out] */
    int32_t *weights; /* [out][size] */
};

static double box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1 : 0;
}

/* Keys' cubic convolution. https://doi.org/10.1109/TASSP.1981.1163711 */
static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static void free_taps(struct taps *taps)
{
    free(taps->first);
    free(taps->n);
    free(taps->weights);
}

/* The taps of output i: `raw` has room for all of them. */
static void make_taps(struct taps *taps, int i, int in, double scale, enum dm_filter filter,
                      double *raw)
{
    double stretch = scale < 1 ? 1 : scale;
    double support = (filter == DM_FILTER_BOX ? 0.5 : 2.0) * stretch;
    double centre = (i + 0.5) * scale, sum = 0;
    int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
    low = low < 0 ? 0 : low;
    high = high > in ? in : high;
    for (int k = 0; k < high - low; k++) {
        double x = (k + low - centre + 0.5) * (1 / stretch);
        raw[k] = filter == DM_FILTER_BOX ? box(x) : bicubic(x);
        sum += raw[k];
    }
    taps->first[i] = low;
    taps->n[i] = high - low;
    for (int k = 0; k < high - low; k++) {
        double weight = (sum != 0 ? raw[k] / sum : raw[k]) * (1 << PRECISION);
        taps->weights[(size_t)i * (size_t)taps->size + (size_t)k] =
            (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
}

static demist_status create_taps(struct taps *taps, int in, int out, enum dm_filter filter,
                                 struct dm_error *err)
{
    double scale = (double)in / out;
    double support = (filter == DM_FILTER_BOX ? 0.5 : 2.0) * (scale < 1 ? 1 : scale);
    taps->size = (int)ceil(support) * 2 + 1;
    taps->first = calloc((size_t)out, sizeof *taps->first);
    taps->n = calloc((size_t)out, sizeof *taps->n);
    taps->weights = calloc((size_t)out * (size_t)taps->size, sizeof *taps->weights);
    double *raw = calloc((size_t)taps->size, sizeof *raw);
    bool ok = taps->first && taps->n && taps->weights && raw;
    for (int i = 0; ok && i < out; i++)
        make_taps(taps, i, in, scale, filter, raw);
    free(raw);
    if (ok)
        return DEMIST_OK;
    free_taps(taps);
    return dm_fail_memory(err, "a resized picture");
}

/* Σ weight·pixel, pixels `stride` bytes apart, rounded to 8 bits. */
static uint8_t filtered(const uint8_t *pixel, size_t stride, const int32_t *weight, int n)
{
    int32_t sum = 1 << (PRECISION - 1);
    for (int k = 0; k < n; k++)
        sum += pixel[(size_t)k * stride] * weight[k];
    int32_t value = sum >> PRECISION;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* One dimension. A side that stays as it is is not filtered, as in Pillow. */
static demist_status resize_one(struct dm_image *out, const struct dm_image *in, int size,
                                bool vertical, enum dm_filter filter, struct dm_error *err)
{
    int from = vertical ? in->height : in->width;
    int width = vertical ? in->width : size, height = vertical ? size : in->height;
    DM_TRY(dm_image_create(out, width, height, in->channels, err));
    if (from == size) {
        memcpy(out->pixels, in->pixels, dm_image_size(in));
        return DEMIST_OK;
    }
    struct taps taps = {0};
    demist_status status = create_taps(&taps, from, size, filter, err);
    if (status != DEMIST_OK) {
        dm_image_finish(out);
        return status;
    }
    size_t channels = (size_t)in->channels, row = (size_t)in->width * channels;
    uint8_t *to = out->pixels;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int i = vertical ? y : x;
            size_t at = vertical ? (size_t)taps.first[i] * row + (size_t)x * channels
                                 : (size_t)y * row + (size_t)taps.first[i] * channels;
            const int32_t *weights = taps.weights + (size_t)i * (size_t)taps.size;
            for (size_t c = 0; c < channels; c++)
                *to++ =
                    filtered(in->pixels + at + c, vertical ? row : channels, weights, taps.n[i]);
        }
    free_taps(&taps);
    return DEMIST_OK;
}

demist_status dm_image_resize(struct dm_image *out, const struct dm_image *in, int width,
                              int height, enum dm_filter filter, struct dm_error *err)
{
    struct dm_image wide = DM_IMAGE_INIT;
    *out = DM_IMAGE_INIT;
    DM_TRY(resize_one(&wide, in, width, false, filter, err));
    demist_status status = resize_one(out, &wide, height, true, filter, err);
    dm_image_finish(&wide);
    return status;
}

/* Replaces *image by a resized one. */
static demist_status resize_in_place(struct dm_image *image, int width, int height,
                                     enum dm_filter filter, struct dm_error *err)
{
    struct dm_image resized;
    DM_TRY(dm_image_resize(&resized, image, width, height, filter, err));
    dm_image_finish(image);
    *image = resized;
    return DEMIST_OK;
}

static demist_status crop_centre(struct dm_image *out, const struct dm_image *in, int width,
                                 int height, struct dm_error *err)
{
    size_t channels = (size_t)in->channels, stride = (size_t)width * channels;
    int left = (in->width - width) / 2, top = (in->height - height) / 2;
    DM_TRY(dm_image_create(out, width, height, in->channels, err));
    for (int y = 0; y < height; y++)
        memcpy(out->pixels + (size_t)y * stride,
               in->pixels + ((size_t)(top + y) * (size_t)in->width + (size_t)left) * channels,
               stride);
    return DEMIST_OK;
}

demist_status dm_image_fit(struct dm_image *out, const struct dm_image *in, int width, int height,
                           struct dm_error *err)
{
    struct dm_image image = DM_IMAGE_INIT;
    *out = DM_IMAGE_INIT;
    DM_TRY(dm_image_resize(&image, in, in->width, in->height, DM_FILTER_BOX, err)); /* a copy */
    demist_status status = DEMIST_OK;
    while (status == DEMIST_OK && image.width >= 2 * width && image.height >= 2 * height)
        status = resize_in_place(&image, image.width / 2, image.height / 2, DM_FILTER_BOX, err);
    if (status == DEMIST_OK) {
        double across = (double)width / image.width, down = (double)height / image.height;
        double scale = across > down ? across : down, w = rint(image.width * scale),
               h = rint(image.height * scale);
        if (w > DM_IMAGE_SIDE_MAX || h > DM_IMAGE_SIDE_MAX)
            status = dm_fail(err, DEMIST_INVALID,
                             "%d×%d pixels are too long and narrow to be resized to %d×%d",
                             image.width, image.height, width, height);
        else
            status = resize_in_place(&image, (int)w, (int)h, DM_FILTER_BICUBIC, err);
    }
    if (status == DEMIST_OK)
        status = crop_centre(out, &image, width, height, err);
    dm_image_finish(&image);
    return status;
}

#include "jpegfile.h"

#ifdef DM_HAVE_JPEG

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#include "pngfile.h"

/* One bit for an 8×8 block, and chroma at a quarter: about 500 pixels a byte are possible. */
enum { PIXELS_PER_BYTE_MAX = 4096 };

struct decoder {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf back;
    char message[JMSG_LENGTH_MAX];
    uint8_t *row; /* of CMYK */
};

static void on_error(j_common_ptr jpeg)
{
    struct decoder *decoder = jpeg->client_data;
    jpeg->err->format_message(jpeg, decoder->message);
    longjmp(decoder->back, 1);
}

/* Warnings tell of damage that libjpeg papers over with gray; a network must not be fed that. */
static void on_message(j_common_ptr jpeg, int level)
{
    if (level < 0)
        on_error(jpeg);
}

/* (255 − c)·(255 − k)/255, rounded, with both inverted in the file. */
static uint8_t ink(uint8_t c, uint8_t k)
{
    unsigned cyan = 255U - c, product = cyan * k + 128;
    int value = k - (int)((product + (product >> 8)) >> 8);
    return (uint8_t)(value < 0 ? 0 : value);
}

static void from_cmyk(uint8_t *rgb, const uint8_t *cmyk, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            rgb[3 * i + c] = ink(cmyk[4 * i + c], cmyk[4 * i + 3]);
}

static bool read_header(struct decoder *d, const uint8_t *data, size_t size)
{
    if (setjmp(d->back))
        return false;
    jpeg_create_decompress(&d->jpeg);
    d->jpeg.mem->max_memory_to_use = 1L << 30;
    jpeg_mem_src(&d->jpeg, data, size);
    jpeg_read_header(&d->jpeg, TRUE);
    bool four = d->jpeg.num_components == 4;
    d->jpeg.out_color_space = four ? JCS_CMYK : JCS_RGB;
    jpeg_calc_output_dimensions(&d->jpeg);
    return true;
}

static bool read_pixels(struct decoder *d, const struct dm_image *image)
{
    if (setjmp(d->back))
        return false;
    jpeg_start_decompress(&d->jpeg);
    size_t stride = (size_t)image->width * 3;
    while (d->jpeg.output_scanline < d->jpeg.output_height) {
        uint8_t *to = image->pixels + d->jpeg.output_scanline * stride;
        JSAMPROW row = d->row ? d->row : to;
        jpeg_read_scanlines(&d->jpeg, &row, 1);
        if (d->row)
            from_cmyk(to, d->row, (size_t)image->width);
    }
    jpeg_finish_decompress(&d->jpeg);
    return true;
}

static demist_status decode(struct decoder *d, struct dm_image *image, const uint8_t *data,
                            size_t size, struct dm_error *err)
{
    if (!read_header(d, data, size))
        return dm_fail(err, DEMIST_FORMAT, "a damaged JPEG: %s", d->message);
    size_t width = d->jpeg.output_width, height = d->jpeg.output_height;
    if (width * height > DM_PNG_PIXELS_MAX)
        return dm_fail(err, DEMIST_FORMAT, "a JPEG of %zu x %zu pixels: at most %zu are accepted",
                       width, height, DM_PNG_PIXELS_MAX);
    if (width * height / PIXELS_PER_BYTE_MAX > size)
        return dm_fail(
            err, DEMIST_FORMAT,
            "a damaged JPEG: it claims %zu x %zu pixels, more than its %zu bytes can hold", width,
            height, size);
    DM_TRY(dm_image_create(image, (int)width, (int)height, 3, err));
    if (d->jpeg.num_components == 4) {
        d->row = malloc(width * 4);
        if (!d->row)
            return dm_fail_memory(err, "a row of a JPEG");
    }
    if (!read_pixels(d, image))
        return dm_fail(err, DEMIST_FORMAT, "a damaged JPEG: %s", d->message);
    return DEMIST_OK;
}

demist_status dm_jpeg_decode(struct dm_image *image, const uint8_t *data, size_t size,
                             struct dm_error *err)
{
    *image = DM_IMAGE_INIT;
    struct decoder *d = calloc(1, sizeof *d); /* not a local: longjmp may leave those undefined */
    if (!d)
        return dm_fail_memory(err, "a JPEG decoder");
    d->jpeg.err = jpeg_std_error(&d->errors);
    d->errors.error_exit = on_error;
    d->errors.emit_message = on_message;
    d->jpeg.client_data = d;
    demist_status status = decode(d, image, data, size, err);
    jpeg_destroy_decompress(&d->jpeg);
    free(d->row);
    free(d);
    if (status != DEMIST_OK)
        dm_image_finish(image);
    return status;
}

#else

demist_status dm_jpeg_decode(struct dm_image *image, const uint8_t *data, size_t size,
                             struct dm_error *err)
{
    (void)data, (void)size;
    *image = DM_IMAGE_INIT;
    return dm_fail(err, DEMIST_UNSUPPORTED,
                   "this build of demist reads no JPEG: it was built without libjpeg; install it "
                   "(Debian: libjpeg-dev) and build again, or convert the pictures to PNG");
}

#endif

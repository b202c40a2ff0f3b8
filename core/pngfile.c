/* libpng reports errors by longjmp. Everything that must be released or read after a jump lives in
 * one `struct codec` outside the function that calls setjmp, so no local variable is at stake. */
#include "pngfile.h"

#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fileio.h"
#include "utf8.h"

/* zlib's level that is used by default almost everywhere; fixed so that bytes do not change. */
#define COMPRESSION_LEVEL 6

/* Deflate cannot shrink data below 1/1032 of its size. */
#define DEFLATE_RATIO_MAX 1032

struct codec {
    png_structp png;
    png_infop info;
    char message[200]; /* of libpng's error */

    struct dm_text *out; /* encoder */

    const uint8_t *data; /* decoder: the file, and how much of it is read */
    size_t size, at;
    bool truncated;
};

static void on_error(png_structp png, png_const_charp message)
{
    struct codec *codec = png_get_error_ptr(png);
    snprintf(codec->message, sizeof codec->message, "%s", message);
    png_longjmp(png, 1);
}

/* Warnings tell of oddities in the files of others that do not change the picture. */
static void on_warning(png_structp png, png_const_charp message)
{
}

/* Encoding */

static void append(png_structp png, png_bytep data, size_t size)
{
    struct codec *codec = png_get_io_ptr(png);
    dm_text_append_bytes(codec->out, data, size);
    if (codec->out->failed)
        png_error(png, "out of memory");
}

static void flush(png_structp png)
{
}

static demist_status check_keyword(const char *keyword, struct dm_error *err)
{
    size_t n = strlen(keyword);
    bool ok = n >= 1 && n <= 79 && keyword[0] != ' ' && keyword[n - 1] != ' ';
    for (size_t i = 0; ok && i < n; i++)
        ok = keyword[i] >= ' ' && keyword[i] <= '~';
    if (ok)
        return DEMIST_OK;
    return dm_fail(err, DEMIST_INVALID,
                   "\"%.80s\" cannot be the keyword of a PNG text: 1 to 79 printable ASCII "
                   "characters without a space at either end can",
                   keyword);
}

static demist_status check_texts(const struct dm_png_text *texts, int n, struct dm_error *err)
{
    if (n < 0 || n > DM_PNG_TEXTS_MAX)
        return dm_fail(err, DEMIST_INVALID, "%d texts for a PNG: at most %d are possible", n,
                       DM_PNG_TEXTS_MAX);
    for (int i = 0; i < n; i++) {
        DM_TRY(check_keyword(texts[i].keyword, err));
        size_t size = strlen(texts[i].value), good = dm_utf8_check(texts[i].value, size);
        if (size > DM_PNG_TEXT_SIZE_MAX)
            return dm_fail(err, DEMIST_INVALID,
                           "the PNG text \"%s\" has %zu bytes: at most %zu are possible",
                           texts[i].keyword, size, DM_PNG_TEXT_SIZE_MAX);
        if (good < size)
            return dm_fail(err, DEMIST_INVALID, "the PNG text \"%s\" is not UTF-8 at byte %zu",
                           texts[i].keyword, good);
    }
    return DEMIST_OK;
}

/* tEXt is Latin-1, of which ASCII is the part that is UTF-8 too. */
static bool ascii(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text >= 0x80)
            return false;
    return true;
}

static void set_text(struct codec *codec, const struct dm_png_text *text)
{
    bool plain = ascii(text->value);
    /* libpng copies all strings; its structure merely lacks the const. */
    png_text entry = {
        .compression = plain ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
        .key = (png_charp)(uintptr_t)text->keyword,
        .text = (png_charp)(uintptr_t)text->value,
        .text_length = plain ? strlen(text->value) : 0,
        .itxt_length = plain ? 0 : strlen(text->value),
    };
    png_set_text(codec->png, codec->info, &entry, 1);
}

static bool encode(struct codec *codec, const struct dm_image *image,
                   const struct dm_png_text *texts, int n_texts)
{
    png_structp png = codec->png;
    if (setjmp(png_jmpbuf(png)))
        return false;
    png_set_write_fn(png, codec, append, flush);
    png_set_user_limits(png, DM_IMAGE_SIDE_MAX, DM_IMAGE_SIDE_MAX);
    png_set_compression_level(png, COMPRESSION_LEVEL);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_ALL_FILTERS);
    int type = image->channels == 1   ? PNG_COLOR_TYPE_GRAY
               : image->channels == 3 ? PNG_COLOR_TYPE_RGB
                                      : PNG_COLOR_TYPE_RGB_ALPHA;
    png_set_IHDR(png, codec->info, (png_uint_32)image->width, (png_uint_32)image->height, 8, type,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    for (int i = 0; i < n_texts; i++)
        set_text(codec, &texts[i]);
    png_write_info(png, codec->info);
    size_t stride = (size_t)image->width * (size_t)image->channels;
    for (int y = 0; y < image->height; y++)
        png_write_row(png, image->pixels + (size_t)y * stride);
    png_write_end(png, codec->info);
    return true;
}

demist_status dm_png_encode(struct dm_text *out, const struct dm_image *image,
                            const struct dm_png_text *texts, int n_texts, struct dm_error *err)
{
    DM_TRY(check_texts(texts, n_texts, err));
    struct codec codec = {.out = out};
    codec.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &codec, on_error, on_warning);
    codec.info = codec.png ? png_create_info_struct(codec.png) : NULL;
    demist_status status = DEMIST_OK;
    if (!codec.info)
        status = dm_fail_memory(err, "a PNG encoder");
    else if (!encode(&codec, image, texts, n_texts))
        status = out->failed
                     ? dm_fail_memory(err, "a PNG file")
                     : dm_fail(err, DEMIST_INTERNAL, "libpng cannot encode: %s", codec.message);
    png_destroy_write_struct(&codec.png, &codec.info);
    return status;
}

/* Decoding */

static void take(png_structp png, png_bytep data, size_t size)
{
    struct codec *codec = png_get_io_ptr(png);
    if (size > codec->size - codec->at) {
        codec->truncated = true;
        png_error(png, "the file ends early");
    }
    memcpy(data, codec->data + codec->at, size);
    codec->at += size;
}

/* Reads what stands before the pixels. Without `with_texts` their chunks are stepped over: they
 * may be compressed, and need not be paid for. */
static bool read_header(struct codec *codec, bool with_texts)
{
    png_structp png = codec->png;
    if (setjmp(png_jmpbuf(png)))
        return false;
    png_set_read_fn(png, codec, take);
    png_set_user_limits(png, DM_IMAGE_SIDE_MAX, DM_IMAGE_SIDE_MAX);
    png_set_chunk_malloc_max(png, DM_PNG_TEXT_SIZE_MAX + 1024);
    png_set_chunk_cache_max(png, DM_PNG_TEXTS_MAX + 2); /* libpng stops counting down at 1 */
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    if (!with_texts)
        png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER,
                                    (png_const_bytep) "tEXt\0zTXt\0iTXt", 3);
    png_read_info(png, codec->info);
    return true;
}

/* Reads the pixels as 8-bit RGB, and what follows them. */
static bool read_image(struct codec *codec, const struct dm_image *image)
{
    png_structp png = codec->png;
    if (setjmp(png_jmpbuf(png)))
        return false;
    png_set_expand(png); /* palettes and 1, 2, 4 bits to 8 bits */
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, codec->info);
    size_t stride = (size_t)image->width * 3;
    if (png_get_rowbytes(png, codec->info) != stride)
        png_error(png, "unexpected size of a row");
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < image->height; y++)
            png_read_row(png, image->pixels + (size_t)y * stride, NULL);
    png_read_end(png, codec->info);
    return true;
}

/* Reads what follows the pixels. libpng has no way around them, but one row at a time passes. */
static bool skip_image(struct codec *codec, uint8_t *row)
{
    png_structp png = codec->png;
    if (setjmp(png_jmpbuf(png)))
        return false;
    png_read_update_info(png, codec->info);
    png_uint_32 width = png_get_image_width(png, codec->info);
    png_uint_32 height = png_get_image_height(png, codec->info);
    bool interlaced = png_get_interlace_type(png, codec->info) != PNG_INTERLACE_NONE;
    for (int pass = 0; pass < (interlaced ? PNG_INTERLACE_ADAM7_PASSES : 1); pass++) {
        png_uint_32 rows = interlaced ? PNG_PASS_ROWS(height, pass) : height;
        if (interlaced && PNG_PASS_COLS(width, pass) == 0)
            rows = 0;
        for (png_uint_32 y = 0; y < rows; y++)
            png_read_row(png, row, NULL);
    }
    png_read_end(png, codec->info);
    return true;
}

/* Latin-1 to UTF-8: no byte becomes more than two. */
static char *from_latin1(const char *text)
{
    char *out = malloc(2 * strlen(text) + 1), *to = out;
    if (!out)
        return NULL;
    for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
        if (*s < 0x80) {
            *to++ = (char)*s;
        } else {
            *to++ = (char)(0xC0 | *s >> 6);
            *to++ = (char)(0x80 | (*s & 0x3F));
        }
    }
    *to = '\0';
    return out;
}

/* Copies what libpng gathered; an iTXt is UTF-8 already, or the file is malformed. */
static demist_status copy_texts(struct dm_png_texts *texts, const struct codec *codec,
                                struct dm_error *err)
{
    png_textp from = NULL;
    int n = png_get_text(codec->png, codec->info, &from, NULL);
    if (n <= 0)
        return DEMIST_OK;
    texts->items = calloc((size_t)n, sizeof *texts->items);
    if (!texts->items)
        return dm_fail_memory(err, "texts of a PNG");
    for (int i = 0; i < n; i++) {
        bool utf8 = from[i].compression >= PNG_ITXT_COMPRESSION_NONE;
        if (utf8 && dm_utf8_check(from[i].text, strlen(from[i].text)) < strlen(from[i].text))
            return dm_fail(err, DEMIST_FORMAT, "a damaged PNG: text number %d is not UTF-8", i);
        char *keyword = from_latin1(from[i].key);
        char *value = utf8 ? strdup(from[i].text) : from_latin1(from[i].text);
        texts->items[texts->n++] = (struct dm_png_text){keyword, value};
        if (!keyword || !value)
            return dm_fail_memory(err, "texts of a PNG");
    }
    return DEMIST_OK;
}

static demist_status check_size(const struct codec *codec, bool with_image, struct dm_error *err)
{
    size_t width = png_get_image_width(codec->png, codec->info);
    size_t height = png_get_image_height(codec->png, codec->info);
    if (with_image && width * height > DM_PNG_PIXELS_MAX)
        return dm_fail(err, DEMIST_FORMAT, "a PNG of %zu x %zu pixels: at most %zu are accepted",
                       width, height, DM_PNG_PIXELS_MAX);
    if (png_get_rowbytes(codec->png, codec->info) * height / DEFLATE_RATIO_MAX > codec->size)
        return dm_fail(err, DEMIST_FORMAT,
                       "a damaged PNG: it claims %zu x %zu pixels, more than its %zu bytes can "
                       "hold",
                       width, height, codec->size);
    return DEMIST_OK;
}

static demist_status damaged(const struct codec *codec, struct dm_error *err)
{
    if (codec->truncated)
        return dm_fail(err, DEMIST_FORMAT, "a truncated PNG: it ends early, after %zu bytes",
                       codec->size);
    return dm_fail(err, DEMIST_FORMAT, "a damaged PNG: %s (within the first %zu bytes)",
                   codec->message, codec->at);
}

static demist_status decode_texts(struct codec *codec, struct dm_error *err)
{
    uint8_t *row = malloc(png_get_rowbytes(codec->png, codec->info));
    if (!row)
        return dm_fail_memory(err, "a row of a PNG");
    bool ok = skip_image(codec, row);
    free(row);
    return ok ? DEMIST_OK : damaged(codec, err);
}

static demist_status decode_image(struct codec *codec, struct dm_image *image, struct dm_error *err)
{
    int width = (int)png_get_image_width(codec->png, codec->info);
    int height = (int)png_get_image_height(codec->png, codec->info);
    DM_TRY(dm_image_create(image, width, height, 3, err));
    return read_image(codec, image) ? DEMIST_OK : damaged(codec, err);
}

static demist_status decode(struct codec *codec, struct dm_image *image, struct dm_png_texts *texts,
                            struct dm_error *err)
{
    if (!read_header(codec, texts != NULL))
        return damaged(codec, err);
    DM_TRY(check_size(codec, image != NULL, err));
    DM_TRY(image ? decode_image(codec, image, err) : decode_texts(codec, err));
    return texts ? copy_texts(texts, codec, err) : DEMIST_OK;
}

demist_status dm_png_decode(struct dm_image *image, struct dm_png_texts *texts, const uint8_t *data,
                            size_t size, struct dm_error *err)
{
    if (image)
        *image = DM_IMAGE_INIT;
    if (texts)
        *texts = DM_PNG_TEXTS_INIT;
    if (size < 8 || png_sig_cmp(data, 0, 8) != 0)
        return dm_fail(err, DEMIST_FORMAT, "not a PNG: it does not start with PNG's signature");
    struct codec codec = {.data = data, .size = size};
    codec.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &codec, on_error, on_warning);
    codec.info = codec.png ? png_create_info_struct(codec.png) : NULL;
    demist_status status =
        codec.info ? decode(&codec, image, texts, err) : dm_fail_memory(err, "a PNG decoder");
    png_destroy_read_struct(&codec.png, &codec.info, NULL);
    if (status != DEMIST_OK && image)
        dm_image_finish(image);
    if (status != DEMIST_OK && texts)
        dm_png_texts_finish(texts);
    return status;
}

demist_status dm_png_read(struct dm_image *image, struct dm_png_texts *texts, const char *path,
                          struct dm_error *err)
{
    if (image)
        *image = DM_IMAGE_INIT;
    if (texts)
        *texts = DM_PNG_TEXTS_INIT;
    char *data;
    size_t size;
    DM_TRY(dm_read_file(path, DM_PNG_FILE_SIZE_MAX, &data, &size, err));
    demist_status status = dm_png_decode(image, texts, (const uint8_t *)data, size, err);
    if (status != DEMIST_OK)
        dm_fail_where(err, "%s", path);
    free(data);
    return status;
}

void dm_png_texts_finish(struct dm_png_texts *texts)
{
    for (int i = 0; i < texts->n; i++) {
        free((void *)(uintptr_t)texts->items[i].keyword);
        free((void *)(uintptr_t)texts->items[i].value);
    }
    free(texts->items);
    *texts = DM_PNG_TEXTS_INIT;
}

const char *dm_png_texts_find(const struct dm_png_texts *texts, const char *keyword)
{
    for (int i = 0; i < texts->n; i++)
        if (strcmp(texts->items[i].keyword, keyword) == 0)
            return texts->items[i].value;
    return NULL;
}

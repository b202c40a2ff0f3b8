#include "giffile.h"

#ifdef DM_HAVE_GIF

#include <gif_lib.h>
#include <stdlib.h>
#include <string.h>

#include "palette.h"

/* LZW codes stand for up to 4096 pixels, and take 9 bits at least before the table is full; a frame
 * smaller than its screen needs even fewer. */
enum { PIXELS_PER_BYTE_MAX = 65536 };

struct encoder {
    GifFileType *gif;
    const struct dm_gif *options;
    uint8_t *indices; /* of one frame */
};

static int append(GifFileType *gif, const GifByteType *data, int size)
{
    struct dm_text *out = gif->UserData;
    dm_text_append_bytes(out, data, (size_t)size);
    return out->failed ? 0 : size;
}

static demist_status check_delay(const char *what, int ms, struct dm_error *err)
{
    if (ms >= DM_GIF_DELAY_MIN && ms <= DM_GIF_DELAY_MAX)
        return DEMIST_OK;
    return dm_fail(err, DEMIST_INVALID, "a GIF with a %s of %d ms: %d to %d are possible", what, ms,
                   DM_GIF_DELAY_MIN, DM_GIF_DELAY_MAX);
}

static demist_status check(const struct dm_image *frames, int n, const struct dm_gif *options,
                           struct dm_error *err)
{
    if (n < 1)
        return dm_fail(err, DEMIST_INVALID, "a GIF needs at least one frame");
    DM_TRY(check_delay("delay", options->delay_ms, err));
    if (options->hold_ms)
        DM_TRY(check_delay("hold", options->hold_ms, err));
    if (options->plays < 0 || options->plays > 65536)
        return dm_fail(err, DEMIST_INVALID,
                       "a GIF that plays %d times: 0 (for ever) to 65536 are "
                       "possible",
                       options->plays);
    if (frames[0].width > DM_GIF_SIDE_MAX || frames[0].height > DM_GIF_SIDE_MAX)
        return dm_fail(err, DEMIST_INVALID, "a GIF of %d x %d pixels: sides can be 1 to %d",
                       frames[0].width, frames[0].height, DM_GIF_SIDE_MAX);
    for (int i = 1; i < n; i++)
        if (frames[i].width != frames[0].width || frames[i].height != frames[0].height)
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "frame %d of a GIF is %d x %d pixels, but frame 0 is %d x %d", i,
                           frames[i].width, frames[i].height, frames[0].width, frames[0].height);
    return DEMIST_OK;
}

/* giflib wants a power of two of entries; the rest stays black. NULL without memory. */
static ColorMapObject *color_map(const struct dm_palette *palette)
{
    int size = 2;
    while (size < palette->n)
        size *= 2;
    ColorMapObject *map = GifMakeMapObject(size, NULL);
    for (int i = 0; map && i < palette->n; i++)
        map->Colors[i] = (GifColorType){palette->rgb[i][0], palette->rgb[i][1], palette->rgb[i][2]};
    return map;
}

/* Netscape's block counts repetitions after the first time; 0 of them there mean endless. */
static bool put_loop(GifFileType *gif, int plays)
{
    if (plays == 1)
        return true;
    int repeats = plays ? plays - 1 : 0;
    const GifByteType block[] = {1, (GifByteType)(repeats & 255), (GifByteType)(repeats >> 8)};
    return EGifPutExtensionLeader(gif, APPLICATION_EXT_FUNC_CODE) != GIF_ERROR &&
           EGifPutExtensionBlock(gif, 11, "NETSCAPE2.0") != GIF_ERROR &&
           EGifPutExtensionBlock(gif, 3, block) != GIF_ERROR &&
           EGifPutExtensionTrailer(gif) != GIF_ERROR;
}

static bool put_delay(GifFileType *gif, int ms)
{
    GraphicsControlBlock block = {.DisposalMode = DISPOSE_DO_NOT,
                                  .DelayTime = (ms + 5) / 10,
                                  .TransparentColor = NO_TRANSPARENT_COLOR};
    GifByteType bytes[4];
    EGifGCBToExtension(&block, bytes);
    return EGifPutExtension(gif, GRAPHICS_EXT_FUNC_CODE, sizeof bytes, bytes) != GIF_ERROR;
}

/* `local` is NULL where the palette is the global one. */
static bool put_frame(const struct encoder *encoder, const struct dm_image *frame,
                      const struct dm_palette *palette, const ColorMapObject *local, int delay_ms)
{
    if (!put_delay(encoder->gif, delay_ms) ||
        EGifPutImageDesc(encoder->gif, 0, 0, frame->width, frame->height, false, local) ==
            GIF_ERROR)
        return false;
    dm_palette_map(palette, frame, encoder->indices);
    for (int y = 0; y < frame->height; y++)
        if (EGifPutLine(encoder->gif, encoder->indices + (size_t)y * (size_t)frame->width,
                        frame->width) == GIF_ERROR)
            return false;
    return true;
}

static demist_status failed(const struct encoder *encoder, struct dm_error *err)
{
    const struct dm_text *out = encoder->gif->UserData;
    if (out->failed || encoder->gif->Error == E_GIF_ERR_NOT_ENOUGH_MEM)
        return dm_fail_memory(err, "a GIF file");
    const char *message = GifErrorString(encoder->gif->Error);
    return dm_fail(err, DEMIST_INTERNAL, "giflib cannot encode: %s", message ? message : "?");
}

static int delay_of(const struct dm_gif *options, int i, int n)
{
    return i == n - 1 && options->hold_ms ? options->hold_ms : options->delay_ms;
}

static demist_status encode_shared(const struct encoder *encoder, const struct dm_image *frames,
                                   int n, struct dm_error *err)
{
    struct dm_palette palette;
    DM_TRY(dm_palette_build(&palette, frames, n, err));
    ColorMapObject *map = color_map(&palette);
    bool ok = map && EGifPutScreenDesc(encoder->gif, frames[0].width, frames[0].height, 8, 0,
                                       map) != GIF_ERROR;
    GifFreeMapObject(map);
    ok = ok && put_loop(encoder->gif, encoder->options->plays);
    for (int i = 0; ok && i < n; i++)
        ok = put_frame(encoder, &frames[i], &palette, NULL, delay_of(encoder->options, i, n));
    dm_palette_finish(&palette);
    return ok ? DEMIST_OK : map ? failed(encoder, err) : dm_fail_memory(err, "a GIF file");
}

static demist_status encode_own(const struct encoder *encoder, const struct dm_image *frames, int n,
                                struct dm_error *err)
{
    if (EGifPutScreenDesc(encoder->gif, frames[0].width, frames[0].height, 8, 0, NULL) ==
            GIF_ERROR ||
        !put_loop(encoder->gif, encoder->options->plays))
        return failed(encoder, err);
    for (int i = 0; i < n; i++) {
        struct dm_palette palette;
        DM_TRY(dm_palette_build(&palette, &frames[i], 1, err));
        ColorMapObject *map = color_map(&palette);
        bool ok =
            map && put_frame(encoder, &frames[i], &palette, map, delay_of(encoder->options, i, n));
        GifFreeMapObject(map);
        dm_palette_finish(&palette);
        if (!ok)
            return map ? failed(encoder, err) : dm_fail_memory(err, "a GIF file");
    }
    return DEMIST_OK;
}

demist_status dm_gif_encode(struct dm_text *out, const struct dm_image *frames, int n,
                            const struct dm_gif *options, struct dm_error *err)
{
    DM_TRY(check(frames, n, options, err));
    struct encoder encoder = {.options = options};
    encoder.indices = malloc((size_t)frames[0].width * (size_t)frames[0].height);
    encoder.gif = encoder.indices ? EGifOpen(out, append, NULL) : NULL;
    if (!encoder.gif) {
        free(encoder.indices);
        return dm_fail_memory(err, "a GIF encoder");
    }
    EGifSetGifVersion(encoder.gif, true); /* GIF89a, which knows delays */
    demist_status status = options->palette_per_frame ? encode_own(&encoder, frames, n, err)
                                                      : encode_shared(&encoder, frames, n, err);
    int reason = 0;
    if (EGifCloseFile(encoder.gif, &reason) == GIF_ERROR && status == DEMIST_OK)
        status = dm_fail(err, out->failed ? DEMIST_NO_MEMORY : DEMIST_INTERNAL,
                         "cannot finish a GIF: %s",
                         out->failed ? "out of memory" : GifErrorString(reason));
    free(encoder.indices);
    return status;
}

/* ---------------------------------------------------------------- decoding */

struct bytes {
    const uint8_t *data;
    size_t size, at;
};

static int take(GifFileType *gif, GifByteType *to, int size)
{
    struct bytes *bytes = gif->UserData;
    size_t left = bytes->size - bytes->at, n = (size_t)size < left ? (size_t)size : left;
    memcpy(to, bytes->data + bytes->at, n);
    bytes->at += n;
    return (int)n;
}

/* Goes to the first picture; *transparent: the index that shows what is behind, or −1. */
static bool find_frame(GifFileType *gif, int *transparent)
{
    GifRecordType type;
    *transparent = NO_TRANSPARENT_COLOR;
    for (;;) {
        if (DGifGetRecordType(gif, &type) == GIF_ERROR || type == TERMINATE_RECORD_TYPE)
            return false;
        if (type == IMAGE_DESC_RECORD_TYPE)
            return DGifGetImageDesc(gif) != GIF_ERROR;
        int code;
        GifByteType *block = NULL;
        if (type != EXTENSION_RECORD_TYPE || DGifGetExtension(gif, &code, &block) == GIF_ERROR)
            return false;
        GraphicsControlBlock control;
        if (code == GRAPHICS_EXT_FUNC_CODE && block &&
            DGifExtensionToGCB(block[0], block + 1, &control) != GIF_ERROR)
            *transparent = control.TransparentColor;
        while (block)
            if (DGifGetExtensionNext(gif, &block) == GIF_ERROR)
                return false;
    }
}

/* Rows of an interlaced picture come in four passes. */
static bool read_rows(GifFileType *gif, uint8_t *indices, size_t stride)
{
    static const int first[] = {0, 4, 2, 1}, step[] = {8, 8, 4, 2};
    const GifImageDesc *frame = &gif->Image;
    bool passes = frame->Interlace;
    for (int pass = 0; pass < (passes ? 4 : 1); pass++)
        for (int y = passes ? first[pass] : 0; y < frame->Height; y += passes ? step[pass] : 1) {
            uint8_t *row = indices + (size_t)(frame->Top + y) * stride + (size_t)frame->Left;
            if (DGifGetLine(gif, row, frame->Width) == GIF_ERROR)
                return false;
        }
    return true;
}

static demist_status unreadable(const GifFileType *gif, struct dm_error *err)
{
    const char *message = GifErrorString(gif->Error);
    return dm_fail(err, DEMIST_FORMAT, "a damaged or truncated GIF: %s",
                   message ? message : "it holds no picture");
}

static demist_status decode(GifFileType *gif, struct dm_image *image, uint8_t **indices,
                            size_t size, struct dm_error *err)
{
    int transparent;
    if (!find_frame(gif, &transparent))
        return unreadable(gif, err);
    const GifImageDesc *frame = &gif->Image;
    const ColorMapObject *map = frame->ColorMap ? frame->ColorMap : gif->SColorMap;
    int right = frame->Left + frame->Width, bottom = frame->Top + frame->Height;
    int width = right > gif->SWidth ? right : gif->SWidth;
    int height = bottom > gif->SHeight ? bottom : gif->SHeight;
    size_t pixels = (size_t)width * (size_t)height;
    if (!map)
        return dm_fail(err, DEMIST_FORMAT, "a damaged GIF: it has no colours");
    if (pixels / PIXELS_PER_BYTE_MAX > size)
        return dm_fail(err, DEMIST_FORMAT,
                       "a damaged GIF: it claims %d x %d pixels, more than its %zu bytes can hold",
                       width, height, size);
    DM_TRY(dm_image_create(image, width, height, 3, err));
    *indices = malloc(pixels);
    if (!*indices)
        return dm_fail_memory(err, "a GIF's picture");
    memset(*indices, transparent >= 0 ? transparent : 0, pixels); /* around a smaller frame */
    if (!read_rows(gif, *indices, (size_t)width))
        return unreadable(gif, err);
    for (size_t i = 0; i < pixels; i++) {
        static const GifColorType black = {0, 0, 0};
        const GifColorType *colour =
            (*indices)[i] < map->ColorCount ? &map->Colors[(*indices)[i]] : &black;
        image->pixels[3 * i] = colour->Red;
        image->pixels[3 * i + 1] = colour->Green;
        image->pixels[3 * i + 2] = colour->Blue;
    }
    return DEMIST_OK;
}

demist_status dm_gif_decode(struct dm_image *image, const uint8_t *data, size_t size,
                            struct dm_error *err)
{
    struct bytes bytes = {data, size, 0};
    int reason = 0;
    *image = DM_IMAGE_INIT;
    GifFileType *gif = DGifOpen(&bytes, take, &reason);
    if (!gif) {
        const char *message = GifErrorString(reason);
        return dm_fail(err, DEMIST_FORMAT, "not a GIF, or a damaged one: %s",
                       message ? message : "?");
    }
    uint8_t *indices = NULL;
    demist_status status = decode(gif, image, &indices, size, err);
    free(indices);
    DGifCloseFile(gif, &reason);
    if (status != DEMIST_OK)
        dm_image_finish(image);
    return status;
}

#else

demist_status dm_gif_encode(struct dm_text *out, const struct dm_image *frames, int n,
                            const struct dm_gif *options, struct dm_error *err)
{
    return dm_fail(err, DEMIST_UNSUPPORTED,
                   "this build of demist writes no GIF: it was built without giflib; install it "
                   "(Debian: libgif-dev) and build again, or choose another format");
}

demist_status dm_gif_decode(struct dm_image *image, const uint8_t *data, size_t size,
                            struct dm_error *err)
{
    (void)data, (void)size;
    *image = DM_IMAGE_INIT;
    return dm_fail(err, DEMIST_UNSUPPORTED,
                   "this build of demist reads no GIF: it was built without giflib; install it "
                   "(Debian: libgif-dev) and build again, or convert the pictures to PNG");
}

#endif

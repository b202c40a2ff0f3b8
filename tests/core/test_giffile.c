#include "testing.h"

#include <math.h>

#include "giffile.h"
#include "palette.h"

static void noise(uint8_t *bytes, size_t n, unsigned x)
{
    for (size_t i = 0; i < n; i++, x = x * 1664525U + 1013904223U)
        bytes[i] = (uint8_t)(x >> 24);
}

static void test_few_colours_are_kept_exactly(void **state)
{
    uint8_t bytes[16 * 16 * 3];
    for (int i = 0; i < 256; i++) {
        bytes[3 * i] = (uint8_t)(i * 7);
        bytes[3 * i + 1] = (uint8_t)(255 - i);
        bytes[3 * i + 2] = (uint8_t)i;
    }
    struct dm_image image = {16, 16, 3, bytes};
    struct dm_palette palette;
    assert_int_equal(dm_palette_build(&palette, &image, 1, NULL), DEMIST_OK);
    assert_int_equal(palette.n, 256);
    uint8_t indices[256];
    dm_palette_map(&palette, &image, indices);
    for (int i = 0; i < 256; i++)
        assert_memory_equal(palette.rgb[indices[i]], bytes + 3 * i, 3);
    for (int i = 1; i < 256; i++)
        assert_true(memcmp(palette.rgb[i - 1], palette.rgb[i], 3) < 0);
    dm_palette_finish(&palette);
}

/* 256 boxes over uniform noise are about 1/6.35 wide: a root mean square error near 12. */
static void test_many_colours_are_matched_closely(void **state)
{
    enum { SIDE = 128, N = SIDE * SIDE };
    uint8_t *bytes = malloc((size_t)N * 3), *indices = malloc(N);
    noise(bytes, (size_t)N * 3, 7);
    struct dm_image image = {SIDE, SIDE, 3, bytes};
    struct dm_palette palette;
    assert_int_equal(dm_palette_build(&palette, &image, 1, NULL), DEMIST_OK);
    assert_int_equal(palette.n, 256);
    dm_palette_map(&palette, &image, indices);
    double square = 0;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 3; k++) {
            double d = palette.rgb[indices[i]][k] - bytes[3 * i + k];
            square += d * d;
        }
    double rms = sqrt(square / (3.0 * N));
    if (!(rms < 14))
        fail_msg("root mean square error %d/1000", (int)(rms * 1000));
    dm_palette_finish(&palette);
    free(bytes);
    free(indices);
}

static void test_white_stays_white_among_noise(void **state)
{
    enum { N = 64 * 64 };
    uint8_t *bytes = malloc((size_t)N * 3), indices[N];
    noise(bytes, (size_t)N * 3, 3);
    memset(bytes, 255, (size_t)N * 3 / 2); /* the background of a drawing */
    struct dm_image image = {64, 64, 3, bytes};
    struct dm_palette palette;
    assert_int_equal(dm_palette_build(&palette, &image, 1, NULL), DEMIST_OK);
    dm_palette_map(&palette, &image, indices);
    const uint8_t white[3] = {255, 255, 255};
    assert_memory_equal(palette.rgb[indices[0]], white, 3);
    dm_palette_finish(&palette);
    free(bytes);
}

#ifdef DM_HAVE_GIF

#include <gif_lib.h>

struct source {
    const struct dm_text *file;
    size_t at;
};

static int take(GifFileType *gif, GifByteType *to, int size)
{
    struct source *source = gif->UserData;
    size_t left = source->file->size - source->at, n = (size_t)size < left ? (size_t)size : left;
    memcpy(to, source->file->data + source->at, n);
    source->at += n;
    return (int)n;
}

static GifFileType *slurp(struct source *source)
{
    int error = 0;
    GifFileType *gif = DGifOpen(source, take, &error);
    assert_non_null(gif);
    if (DGifSlurp(gif) != GIF_OK)
        fail_msg("giflib: %s", GifErrorString(gif->Error));
    return gif;
}

static int delay_ms(GifFileType *gif, int frame)
{
    GraphicsControlBlock block;
    assert_int_equal(DGifSavedExtensionToGCB(gif, frame, &block), GIF_OK);
    return block.DelayTime * 10;
}

static const uint8_t *colour(const GifFileType *gif, int frame, int pixel)
{
    const SavedImage *saved = &gif->SavedImages[frame];
    const ColorMapObject *map =
        saved->ImageDesc.ColorMap ? saved->ImageDesc.ColorMap : gif->SColorMap;
    return &map->Colors[saved->RasterBits[pixel]].Red;
}

static struct dm_text encoded(const struct dm_image *frames, int n, const struct dm_gif *options)
{
    struct dm_text out = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_gif_encode(&out, frames, n, options, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return out;
}

static void test_frames_decode_back_with_their_colours(void **state)
{
    uint8_t bytes[5][4 * 3 * 3];
    struct dm_image frames[5];
    for (int i = 0; i < 5; i++) {
        noise(bytes[i], sizeof bytes[i], (unsigned)i + 1); /* 60 colours: exact */
        frames[i] = (struct dm_image){4, 3, 3, bytes[i]};
    }
    for (int own = 0; own < 2; own++) {
        struct dm_gif options = {70, 1500, 3, own};
        struct dm_text file = encoded(frames, 5, &options);
        assert_memory_equal(file.data, "GIF89a", 6);
        GifFileType *gif = slurp(&(struct source){&file, 0});
        assert_int_equal(gif->ImageCount, 5);
        assert_int_equal(gif->SWidth, 4);
        assert_int_equal(gif->SHeight, 3);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(delay_ms(gif, i), i == 4 ? 1500 : 70);
            for (int p = 0; p < 12; p++)
                assert_memory_equal(colour(gif, i, p), bytes[i] + 3 * p, 3);
        }
        const ExtensionBlock *loop = gif->SavedImages[0].ExtensionBlocks;
        assert_memory_equal(loop[0].Bytes, "NETSCAPE2.0", 11);
        const uint8_t repeats[] = {1, 2, 0};
        assert_memory_equal(loop[1].Bytes, repeats, 3);
        DGifCloseFile(gif, NULL);
        dm_text_finish(&file);
    }
}

static void test_noisy_frames_decode_back_closely(void **state)
{
    enum { SIDE = 200, SIZE = SIDE * SIDE * 3 }; /* LZW's table overflows several times */
    uint8_t *bytes = malloc((size_t)SIZE * 2);
    noise(bytes, (size_t)SIZE * 2, 5);
    struct dm_image frames[2] = {{SIDE, SIDE, 3, bytes}, {SIDE, SIDE, 3, bytes + SIZE}};
    struct dm_gif options = DM_GIF_INIT;
    struct dm_text file = encoded(frames, 2, &options), again = encoded(frames, 2, &options);
    assert_int_equal(file.size, again.size);
    assert_memory_equal(file.data, again.data, file.size);
    GifFileType *gif = slurp(&(struct source){&file, 0});
    assert_int_equal(gif->ImageCount, 2);
    double square = 0;
    for (int i = 0; i < 2; i++)
        for (int p = 0; p < SIDE * SIDE; p++)
            for (int k = 0; k < 3; k++) {
                double d = colour(gif, i, p)[k] - frames[i].pixels[3 * p + k];
                square += d * d;
            }
    assert_true(sqrt(square / (2.0 * SIZE)) < 14);
    DGifCloseFile(gif, NULL);
    dm_text_finish(&file);
    dm_text_finish(&again);
    free(bytes);
}

static void test_gray_and_rgba_frames_are_accepted(void **state)
{
    uint8_t gray[1] = {77}, rgba[4] = {1, 2, 3, 0};
    struct dm_image frames[2] = {{1, 1, 1, gray}, {1, 1, 4, rgba}};
    struct dm_gif options = {.delay_ms = 20, .plays = 1};
    struct dm_text file = encoded(frames, 2, &options);
    GifFileType *gif = slurp(&(struct source){&file, 0});
    const uint8_t g[] = {77, 77, 77};
    assert_memory_equal(colour(gif, 0, 0), g, 3);
    assert_memory_equal(colour(gif, 1, 0), rgba, 3);
    assert_int_equal(gif->SavedImages[0].ExtensionBlockCount, 1); /* the delay, no loop */
    DGifCloseFile(gif, NULL);
    dm_text_finish(&file);
}

static void test_refuses_what_gif_cannot_hold(void **state)
{
    uint8_t *bytes = calloc(70000, 1);
    struct dm_image small[2] = {{2, 1, 1, bytes}, {1, 2, 1, bytes}}, wide = {70000, 1, 1, bytes};
    struct dm_text out = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_gif bad[] = {
        {19, 0, 0, 0}, {700000, 0, 0, 0}, {100, 5, 0, 0}, {100, 0, -1, 0}, {100, 0, 65537, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(dm_gif_encode(&out, small, 1, &bad[i], &err), DEMIST_INVALID);
    assert_int_equal(dm_gif_encode(&out, small, 2, &DM_GIF_INIT, &err), DEMIST_INCOMPATIBLE);
    assert_contains(err.text, "frame 1 of a GIF is 1 x 2");
    assert_int_equal(dm_gif_encode(&out, &wide, 1, &DM_GIF_INIT, &err), DEMIST_INVALID);
    assert_int_equal(dm_gif_encode(&out, small, 0, &DM_GIF_INIT, &err), DEMIST_INVALID);
    assert_int_equal(out.size, 0);
    dm_error_clear(&err);
    free(bytes);
}

#else

static void test_a_build_without_giflib_says_so(void **state)
{
    uint8_t gray[1] = {77};
    struct dm_image frame = {1, 1, 1, gray};
    struct dm_text out = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_gif_encode(&out, &frame, 1, &DM_GIF_INIT, &err), DEMIST_UNSUPPORTED);
    assert_contains(err.text, "giflib");
    dm_error_clear(&err);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_colours_are_kept_exactly),
        cmocka_unit_test(test_many_colours_are_matched_closely),
        cmocka_unit_test(test_white_stays_white_among_noise),
#ifdef DM_HAVE_GIF
        cmocka_unit_test(test_frames_decode_back_with_their_colours),
        cmocka_unit_test(test_noisy_frames_decode_back_closely),
        cmocka_unit_test(test_gray_and_rgba_frames_are_accepted),
        cmocka_unit_test(test_refuses_what_gif_cannot_hold),
#else
        cmocka_unit_test(test_a_build_without_giflib_says_so),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

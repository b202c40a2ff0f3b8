#include "testing.h"

#include <png.h>
#include <stdbool.h>

#include "fileio.h"
#include "pngfile.h"
#include "utf8.h"

/* A PNG of any kind, made with libpng itself. Jumps are not expected: the input is valid. */
struct odd {
    int type, depth, interlace;
    int width, height;
    const uint8_t *rows; /* packed as the type says */
    size_t stride;
    png_color *palette;
    int n_palette;
    png_byte *alpha; /* of the palette */
    bool text_behind;
};

static void put(png_structp png, png_bytep data, size_t size)
{
    dm_text_append_bytes(png_get_io_ptr(png), data, size);
}

static void done(png_structp png)
{
}

static struct dm_text make(const struct odd *odd)
{
    struct dm_text out = DM_TEXT_INIT;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_infop end = png_create_info_struct(png);
    png_set_write_fn(png, &out, put, done);
    png_set_IHDR(png, info, (png_uint_32)odd->width, (png_uint_32)odd->height, odd->depth,
                 odd->type, odd->interlace, 0, 0);
    if (odd->palette)
        png_set_PLTE(png, info, odd->palette, odd->n_palette);
    if (odd->alpha)
        png_set_tRNS(png, info, odd->alpha, odd->n_palette, NULL);
    png_write_info(png, info);
    int passes = png_set_interlace_handling(png);
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < odd->height; y++)
            png_write_row(png, odd->rows + (size_t)y * odd->stride);
    png_text text = {.compression = PNG_TEXT_COMPRESSION_zTXt,
                     .key = (char[]){"behind"},
                     .text = (char[]){"caf\xE9"}}; /* Latin-1 */
    if (odd->text_behind)
        png_set_text(png, end, &text, 1);
    png_write_end(png, end);
    png_destroy_info_struct(png, &end);
    png_destroy_write_struct(&png, &info);
    assert_false(out.failed);
    return out;
}

static void assert_decodes(const struct odd *odd, const uint8_t *rgb)
{
    struct dm_text file = make(odd);
    struct dm_image image;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_png_decode(&image, NULL, (uint8_t *)file.data, file.size, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(image.width, odd->width);
    assert_int_equal(image.height, odd->height);
    assert_int_equal(image.channels, 3);
    assert_memory_equal(image.pixels, rgb, dm_image_size(&image));
    dm_image_finish(&image);
    dm_text_finish(&file);
}

static void test_odd_kinds_become_rgb(void **state)
{
    png_color palette[3] = {{9, 8, 7}, {255, 0, 1}, {1, 2, 3}};
    png_byte alpha[3] = {0, 128, 255};
    const uint8_t indices[] = {2, 1, 0}, packed[] = {0x90}; /* 2 bits: 2, 1, 0 */
    const uint8_t palette_rgb[] = {1, 2, 3, 255, 0, 1, 9, 8, 7};
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_PALETTE, 8, 0, 3, 1, indices, 3, palette, 3},
                   palette_rgb);
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_PALETTE, 2, 0, 3, 1, packed, 1, palette, 3, alpha},
                   palette_rgb);

    const uint8_t bits[] = {0xA0}, two[] = {0x1B}, four[] = {0x0F, 0x80};
    const uint8_t bits_rgb[] = {255, 255, 255, 0, 0, 0, 255, 255, 255};
    const uint8_t two_rgb[] = {0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255};
    const uint8_t four_rgb[] = {0, 0, 0, 255, 255, 255, 136, 136, 136};
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_GRAY, 1, 0, 3, 1, bits, 1}, bits_rgb);
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_GRAY, 2, 0, 4, 1, two, 1}, two_rgb);
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_GRAY, 4, 0, 3, 1, four, 2}, four_rgb);

    const uint8_t gray_alpha[] = {200, 0, 10, 255};
    const uint8_t gray_alpha_rgb[] = {200, 200, 200, 10, 10, 10};
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_GRAY_ALPHA, 8, 0, 2, 1, gray_alpha, 4},
                   gray_alpha_rgb);
    const uint8_t rgba[] = {1, 2, 3, 0, 4, 5, 6, 255}, rgba_rgb[] = {1, 2, 3, 4, 5, 6};
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_RGB_ALPHA, 8, 0, 2, 1, rgba, 8}, rgba_rgb);

    const uint8_t wide[] = {1, 255, 2, 0, 255, 127}, wide_rgb[] = {1, 2, 255}; /* upper 8 bits */
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_RGB, 16, 0, 1, 1, wide, 6}, wide_rgb);
    const uint8_t gray16[] = {0x80, 0xFF}, gray16_rgb[] = {0x80, 0x80, 0x80};
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_GRAY, 16, 0, 1, 1, gray16, 2}, gray16_rgb);
}

static void fill(uint8_t *bytes, size_t n)
{
    unsigned x = 12345;
    for (size_t i = 0; i < n; i++, x = x * 1664525U + 1013904223U)
        bytes[i] = (uint8_t)(x >> 24);
}

static void test_interlaced_pixels_find_their_place(void **state)
{
    uint8_t rgb[13 * 11 * 3];
    fill(rgb, sizeof rgb);
    assert_decodes(&(struct odd){PNG_COLOR_TYPE_RGB, 8, PNG_INTERLACE_ADAM7, 13, 11, rgb, 13 * 3},
                   rgb);
}

static struct dm_text encoded(const struct dm_image *image, const struct dm_png_text *texts, int n)
{
    struct dm_text out = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_png_encode(&out, image, texts, n, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return out;
}

static void test_every_channel_count_survives_the_round_trip(void **state)
{
    uint8_t bytes[7 * 5 * 4];
    fill(bytes, sizeof bytes);
    int counts[] = {1, 3, 4};
    for (int k = 0; k < 3; k++) {
        struct dm_image image = {7, 5, counts[k], bytes}, back;
        struct dm_text file = encoded(&image, NULL, 0);
        assert_int_equal(dm_png_decode(&back, NULL, (uint8_t *)file.data, file.size, NULL),
                         DEMIST_OK);
        for (int i = 0; i < 7 * 5; i++)
            for (int c = 0; c < 3; c++)
                assert_int_equal(back.pixels[3 * i + c],
                                 bytes[i * counts[k] + (counts[k] == 1 ? 0 : c)]);
        dm_image_finish(&back);
        dm_text_finish(&file);
    }
}

static void test_equal_input_gives_equal_bytes(void **state)
{
    uint8_t bytes[32 * 32 * 3];
    fill(bytes, sizeof bytes);
    struct dm_image image = {32, 32, 3, bytes};
    struct dm_png_text text = {DM_PNG_KEYWORD, "steps = 50"};
    struct dm_text a = encoded(&image, &text, 1), b = encoded(&image, &text, 1);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    for (size_t i = 0; i + 4 <= a.size; i++)
        assert_memory_not_equal(a.data + i, "tIME", 4);
    dm_text_finish(&a);
    dm_text_finish(&b);
}

static void test_texts_survive_the_round_trip(void **state)
{
    size_t size = 300000; /* a long run description, with everything awkward in it */
    char *value = malloc(size + 1);
    const char *unit = "[sampler.ddim]\n  eta = 0,5 \xE2\x82\xAC \xF0\x9F\x98\x80\tx\r\n";
    for (size_t i = 0; i < size; i++)
        value[i] = unit[i % strlen(unit)];
    size = size / strlen(unit) * strlen(unit);
    value[size] = '\0';
    struct dm_png_text texts[] = {{DM_PNG_KEYWORD, value},
                                  {"Software", "demist 0.1"},
                                  {"Empty", ""},
                                  {"Name", "Kl\xC3\xA4ngen"}};
    uint8_t pixel[3] = {1, 2, 3};
    struct dm_image image = {1, 1, 3, pixel}, back;
    struct dm_text file = encoded(&image, texts, 4);
    struct dm_png_texts read;
    assert_int_equal(dm_png_decode(&back, &read, (uint8_t *)file.data, file.size, NULL), DEMIST_OK);
    assert_int_equal(read.n, 4);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(read.items[i].keyword, texts[i].keyword);
        assert_string_equal(read.items[i].value, texts[i].value);
    }
    assert_string_equal(dm_png_texts_find(&read, DM_PNG_KEYWORD), value);
    assert_null(dm_png_texts_find(&read, "demis"));
    dm_png_texts_finish(&read);
    dm_image_finish(&back);
    /* without pixels, and pixels without texts */
    assert_int_equal(dm_png_decode(NULL, &read, (uint8_t *)file.data, file.size, NULL), DEMIST_OK);
    assert_int_equal(read.n, 4);
    dm_png_texts_finish(&read);
    assert_int_equal(dm_png_decode(&back, NULL, (uint8_t *)file.data, file.size, NULL), DEMIST_OK);
    assert_memory_equal(back.pixels, pixel, 3);
    dm_image_finish(&back);
    dm_text_finish(&file);
    free(value);
}

static void test_as_many_texts_as_may_be_written_are_read(void **state)
{
    struct dm_png_text texts[DM_PNG_TEXTS_MAX];
    for (int i = 0; i < DM_PNG_TEXTS_MAX; i++)
        texts[i] = (struct dm_png_text){"k", "v"};
    uint8_t pixel[1] = {0};
    struct dm_image image = {1, 1, 1, pixel};
    struct dm_text file = encoded(&image, texts, DM_PNG_TEXTS_MAX);
    struct dm_png_texts read;
    assert_int_equal(dm_png_decode(NULL, &read, (uint8_t *)file.data, file.size, NULL), DEMIST_OK);
    assert_int_equal(read.n, DM_PNG_TEXTS_MAX);
    dm_png_texts_finish(&read);
    dm_text_finish(&file);
}

static void test_the_largest_text_survives(void **state)
{
    char *value = malloc(DM_PNG_TEXT_SIZE_MAX + 2);
    memset(value, 'x', DM_PNG_TEXT_SIZE_MAX + 1);
    value[DM_PNG_TEXT_SIZE_MAX] = '\0';
    memcpy(value, "\xC3\xA4", 2);
    struct dm_png_text text = {"demist", value};
    uint8_t pixel[1] = {0};
    struct dm_image image = {1, 1, 1, pixel};
    struct dm_text file = encoded(&image, &text, 1);
    struct dm_png_texts read;
    assert_int_equal(dm_png_decode(NULL, &read, (uint8_t *)file.data, file.size, NULL), DEMIST_OK);
    assert_string_equal(dm_png_texts_find(&read, "demist"), value);
    dm_png_texts_finish(&read);
    dm_text_finish(&file);
    value[DM_PNG_TEXT_SIZE_MAX] = 'x';
    value[DM_PNG_TEXT_SIZE_MAX + 1] = '\0';
    assert_int_equal(dm_png_encode(&file, &image, &text, 1, NULL), DEMIST_INVALID);
    assert_int_equal(file.size, 0);
    free(value);
}

static void test_texts_behind_the_pixels_and_in_latin1_are_read(void **state)
{
    for (int i = 0; i < 40; i++) {
        uint8_t gray[64] = {0};
        int with_image = i % 2, interlace = i / 2 % 2, width = 1 + i / 4; /* 1: some passes empty */
        struct odd odd = {PNG_COLOR_TYPE_GRAY, 8, interlace, width, 3, gray, 10,
                          .text_behind = true};
        struct dm_text file = make(&odd);
        struct dm_image image = DM_IMAGE_INIT;
        struct dm_png_texts read;
        assert_int_equal(
            dm_png_decode(with_image ? &image : NULL, &read, (uint8_t *)file.data, file.size, NULL),
            DEMIST_OK);
        assert_int_equal(read.n, 1);
        assert_string_equal(dm_png_texts_find(&read, "behind"), "caf\xC3\xA9");
        dm_png_texts_finish(&read);
        dm_image_finish(&image);
        dm_text_finish(&file);
    }
}

static void test_refuses_texts_that_png_cannot_hold(void **state)
{
    uint8_t pixel[1] = {0};
    struct dm_image image = {1, 1, 1, pixel};
    struct dm_text out = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    const char *long_key =
        "eighty characters eighty characters eighty characters eighty characters eighty c";
    struct dm_png_text bad[] = {{"", "v"},     {" a", "v"},       {"a ", "v"},
                                {"a\nb", "v"}, {"\xC3\xA4", "v"}, {long_key, "v"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dm_png_encode(&out, &image, &bad[i], 1, &err), DEMIST_INVALID);
        assert_contains(err.text, "keyword");
    }
    struct dm_png_text not_utf8 = {"demist", "abc\xFF"};
    assert_int_equal(dm_png_encode(&out, &image, &not_utf8, 1, &err), DEMIST_INVALID);
    assert_contains(err.text, "not UTF-8 at byte 3");
    assert_int_equal(dm_png_encode(&out, &image, bad, 65, &err), DEMIST_INVALID);
    assert_int_equal(out.size, 0);
    dm_error_clear(&err);
}

static struct dm_text sample(void)
{
    static uint8_t bytes[20 * 20 * 3];
    fill(bytes, sizeof bytes);
    struct dm_image image = {20, 20, 3, bytes};
    struct dm_png_text texts[] = {{"demist", "a \xE2\x82\xAC"}, {"Software", "demist"}};
    return encoded(&image, texts, 2);
}

static void test_every_truncation_is_an_error(void **state)
{
    struct dm_text file = sample();
    for (size_t size = 0; size < file.size; size++) {
        uint8_t *cut = malloc(size + 1); /* of its own, so that ASan sees a read behind it */
        memcpy(cut, file.data, size);
        struct dm_image image;
        struct dm_png_texts texts;
        struct dm_error err = DM_ERROR_INIT;
        assert_int_equal(dm_png_decode(&image, &texts, cut, size, &err), DEMIST_FORMAT);
        assert_contains(err.text, size < 8 ? "not a PNG" : "truncated PNG");
        assert_null(image.pixels);
        assert_null(texts.items);
        assert_int_equal(dm_png_decode(NULL, &texts, cut, size, NULL), DEMIST_FORMAT);
        dm_error_clear(&err);
        free(cut);
    }
    dm_text_finish(&file);
}

/* The checksums see every flipped bit: never a crash, never a picture. */
static void test_every_flipped_bit_is_an_error(void **state)
{
    struct dm_text file = sample();
    for (size_t bit = 0; bit < 8 * file.size; bit++) {
        file.data[bit / 8] ^= (char)(1U << bit % 8);
        struct dm_image image;
        struct dm_png_texts texts;
        demist_status status = dm_png_decode(&image, &texts, (uint8_t *)file.data, file.size, NULL);
        if (status != DEMIST_FORMAT)
            fail_msg("bit %zu flipped: status %d", bit, (int)status);
        file.data[bit / 8] ^= (char)(1U << bit % 8);
    }
    dm_text_finish(&file);
}

static void be32(uint8_t *to, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* CRC-32 as PNG has it, bit by bit. */
static uint32_t crc(const uint8_t *data, size_t size)
{
    uint32_t c = 0xFFFFFFFFU;
    for (size_t i = 0; i < size; i++) {
        c ^= data[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xEDB88320U : c >> 1;
    }
    return ~c;
}

static void test_refuses_dimensions_that_the_file_cannot_hold(void **state)
{
    struct dm_text file = sample();
    uint32_t sizes[][2] = {{11000, 11000}, {1000000, 1000000}, {0x7FFFFFFF, 0x7FFFFFFF},
                           {1000000, 1},   {1, 1000000},       {0, 20},
                           {0xFFFFFFFF, 2}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        be32((uint8_t *)file.data + 16, sizes[i][0]);
        be32((uint8_t *)file.data + 20, sizes[i][1]);
        be32((uint8_t *)file.data + 29, crc((uint8_t *)file.data + 12, 17));
        struct dm_image image;
        struct dm_error err = DM_ERROR_INIT;
        assert_int_equal(dm_png_decode(&image, NULL, (uint8_t *)file.data, file.size, &err),
                         DEMIST_FORMAT);
        if (i < 2)
            assert_contains(err.text, i == 0 ? "more than its" : "at most");
        assert_null(image.pixels);
        dm_error_clear(&err);
    }
    dm_text_finish(&file);
}

/* Wrong bytes behind right checksums: whatever libpng makes of them, nothing breaks. */
static void test_no_rewritten_header_crashes(void **state)
{
    struct dm_text file = sample();
    uint8_t header[25];
    memcpy(header, file.data + 8, 25);
    for (int at = 8; at < 21; at++)
        for (int v = 0; v < 256; v++) {
            memcpy(file.data + 8, header, 25);
            file.data[8 + at] = (char)v;
            be32((uint8_t *)file.data + 29, crc((uint8_t *)file.data + 12, 17));
            struct dm_image image;
            struct dm_png_texts texts;
            if (dm_png_decode(&image, &texts, (uint8_t *)file.data, file.size, NULL) == DEMIST_OK) {
                assert_int_equal(image.channels, 3);
                dm_image_finish(&image);
                dm_png_texts_finish(&texts);
            }
        }
    dm_text_finish(&file);
}

static void test_compressed_texts_cannot_grow_without_bound(void **state)
{
    char *big = malloc(((size_t)16 << 20) + 1);
    memset(big, 'a', (size_t)16 << 20);
    big[(size_t)16 << 20] = '\0';
    struct dm_text out = DM_TEXT_INIT;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, &out, put, done);
    png_set_IHDR(png, info, 1, 1, 8, PNG_COLOR_TYPE_GRAY, 0, 0, 0);
    png_text text = {
        .compression = PNG_TEXT_COMPRESSION_zTXt, .key = (char[]){"bomb"}, .text = big};
    png_set_text(png, info, &text, 1);
    png_write_info(png, info);
    png_write_row(png, (uint8_t[]){200});
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    free(big);
    struct dm_image image;
    struct dm_png_texts texts;
    if (dm_png_decode(&image, &texts, (uint8_t *)out.data, out.size, NULL) == DEMIST_OK) {
        const char *value = dm_png_texts_find(&texts, "bomb");
        assert_true(!value || strlen(value) <= DM_PNG_TEXT_SIZE_MAX + 1024);
        dm_image_finish(&image);
        dm_png_texts_finish(&texts);
    }
    assert_int_equal(dm_png_decode(&image, NULL, (uint8_t *)out.data, out.size, NULL), DEMIST_OK);
    assert_int_equal(image.pixels[0], 200);
    dm_image_finish(&image);
    dm_text_finish(&out);
}

static void test_files_are_written_whole_and_read_back(void **state)
{
    char dir[] = "/tmp/demist-test-XXXXXX", path[64], second[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/grid.png", dir);
    snprintf(second, sizeof second, "%s/grid-2.png", dir);
    struct dm_text file = sample();
    assert_int_equal(dm_write_file(path, file.data, file.size, NULL, NULL), DEMIST_OK);
    assert_int_equal(dm_write_file(path, file.data, file.size, NULL, NULL), DEMIST_OK);
    char *taken;
    assert_int_equal(dm_write_file(path, file.data, file.size, &taken, NULL), DEMIST_OK);
    assert_string_equal(taken, second);
    struct dm_image image;
    struct dm_png_texts texts;
    assert_int_equal(dm_png_read(&image, &texts, taken, NULL), DEMIST_OK);
    assert_string_equal(dm_png_texts_find(&texts, "demist"), "a \xE2\x82\xAC");
    assert_int_equal(image.width, 20);
    dm_image_finish(&image);
    dm_png_texts_finish(&texts);
    free(taken);

    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_write_file(path, "hello", 5, NULL, NULL), DEMIST_OK);
    assert_int_equal(dm_png_read(&image, NULL, path, &err), DEMIST_FORMAT);
    assert_contains(err.text, path);
    assert_contains(err.text, "not a PNG");
    remove(path);
    assert_int_equal(dm_png_read(&image, NULL, path, &err), DEMIST_NOT_FOUND);
    assert_int_equal(dm_write_file("/dev/full", file.data, file.size, NULL, &err), DEMIST_IO);
    assert_contains(err.text, "/dev/full");
    assert_contains(err.text, "No space left");
    dm_error_clear(&err);
    dm_text_finish(&file);
    remove(second);
    assert_int_equal(remove(dir), 0); /* no temporary name is left */
}

/* A picture that another program wrote. */
static void test_pictures_of_others_are_read(void **state)
{
    const char *path = test_data("crawl-unet/samples_ddim50.png");
    struct dm_image image;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_png_read(&image, NULL, path, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    assert_true(image.width > 100 && image.height > 100 && image.channels == 3);
    dm_image_finish(&image);
}

static void test_utf8_is_told_from_what_only_looks_like_it(void **state)
{
    const char *good[] = {"",
                          "a",
                          "\xC2\x80",
                          "\xE0\xA0\x80",
                          "\xED\x9F\xBF",
                          "\xF0\x90\x80\x80",
                          "\xF4\x8F\xBF\xBF",
                          "x\xE2\x82\xAC"};
    const char *bad[] = {"\x80",
                         "\xC0\x80",
                         "\xC1\xBF",
                         "\xE0\x9F\xBF",
                         "\xED\xA0\x80",
                         "\xF0\x8F\xBF\xBF",
                         "\xF4\x90\x80\x80",
                         "\xF5\x80\x80\x80",
                         "\xE2\x82",
                         "\xFF",
                         "\xC3("};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(dm_utf8_check(good[i], strlen(good[i])), strlen(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(dm_utf8_check(bad[i], strlen(bad[i])), 0);
    assert_int_equal(dm_utf8_check("ab\xE2\x82", 4), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_odd_kinds_become_rgb),
        cmocka_unit_test(test_interlaced_pixels_find_their_place),
        cmocka_unit_test(test_every_channel_count_survives_the_round_trip),
        cmocka_unit_test(test_equal_input_gives_equal_bytes),
        cmocka_unit_test(test_texts_survive_the_round_trip),
        cmocka_unit_test(test_as_many_texts_as_may_be_written_are_read),
        cmocka_unit_test(test_the_largest_text_survives),
        cmocka_unit_test(test_texts_behind_the_pixels_and_in_latin1_are_read),
        cmocka_unit_test(test_refuses_texts_that_png_cannot_hold),
        cmocka_unit_test(test_every_truncation_is_an_error),
        cmocka_unit_test(test_every_flipped_bit_is_an_error),
        cmocka_unit_test(test_refuses_dimensions_that_the_file_cannot_hold),
        cmocka_unit_test(test_no_rewritten_header_crashes),
        cmocka_unit_test(test_compressed_texts_cannot_grow_without_bound),
        cmocka_unit_test(test_files_are_written_whole_and_read_back),
        cmocka_unit_test(test_pictures_of_others_are_read),
        cmocka_unit_test(test_utf8_is_told_from_what_only_looks_like_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

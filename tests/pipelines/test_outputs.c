#include "testing.h"

#include "fileio.h"
#include "number.h"
#include "outputs.h"
#include "pngfile.h"
#include "tensorfile.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef DM_HAVE_GIF
#include <gif_lib.h>
#endif

/* ---------------------------------------------------------------- a run of its own */

static char home[64]; /* each test works in a directory of its own */

static int enter(void **state)
{
    snprintf(home, sizeof home, "/tmp/demist-test-XXXXXX");
    return mkdtemp(home) && chdir(home) == 0 ? 0 : -1;
}

static int leave(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static const int64_t rgb[] = {3, 4, 5}, gray[] = {1, 4, 5}, latent[] = {8, 4, 5}, point[] = {2};

/* Notices end up here. */
static char notices[4096];

static void hear(void *user, enum dm_log_level level, const char *text)
{
    size_t n = strlen(notices);
    snprintf(notices + n, sizeof notices - n, "%s\n", text);
}

static const struct dm_log listener = {DM_LOG_WARNING, hear, NULL};

static struct dm_output_options options_of(unsigned formats)
{
    notices[0] = '\0';
    return (struct dm_output_options){.dir = "out", .formats = formats, .log = &listener};
}

static struct dm_output_data data_of(int rank, const int64_t *shape, int64_t n)
{
    return (struct dm_output_data){.rank = rank,
                                   .shape = shape,
                                   .lo = -1,
                                   .hi = 1,
                                   .n_images = n,
                                   .n_steps = 10,
                                   .description = "[sample]\nsteps = 10 ; \"so & <so>\" é\n"};
}

static size_t elements_of(const struct dm_output_data *data)
{
    size_t n = 1;
    for (int i = 0; i < data->rank; i++)
        n *= (size_t)data->shape[i];
    return n;
}

/* What image `index` holds after `step`; different for all of them, within [-1, 1]. */
static float value(int64_t index, int step, size_t element)
{
    return (float)((index * 7919 + (step + 1) * 104729 + (int64_t)element * 31) % 201) / 100 - 1;
}

static float *batch_of(const struct dm_output_data *data, int64_t first, int64_t n, int step)
{
    size_t elements = elements_of(data);
    float *x = malloc((size_t)n * elements * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        for (size_t k = 0; k < elements; k++)
            x[(size_t)i * elements + k] = value(first + i, step, k);
    return x;
}

static demist_status hand_batch(struct dm_outputs *out, const struct dm_output_data *data,
                                int64_t first, int64_t n, struct dm_error *err)
{
    int64_t labels[64];
    for (int64_t i = 0; i < n; i++)
        labels[i] = (first + i) * 10;
    demist_status status = DEMIST_OK;
    for (int step = -1; step < data->n_steps && status == DEMIST_OK; step++) {
        float *x = batch_of(data, first, n, step);
        status = dm_outputs_state(out, first, n, step, 1 - (step + 1) * 0.1, x, err);
        if (status == DEMIST_OK && step == data->n_steps - 1)
            status = dm_outputs_batch(out, first, n, x, data->has_labels ? labels : NULL, err);
        free(x);
    }
    return status;
}

/* A whole run in batches of 3, of which only the first `done` images are finished. */
static demist_status run(const struct dm_output_options *options, const struct dm_output_data *data,
                         int64_t done, struct dm_error *err)
{
    struct dm_outputs *out;
    demist_status status = dm_outputs_open(options, data, &out, err);
    if (status != DEMIST_OK)
        return status;
    for (int64_t i = 0; i < done && status == DEMIST_OK; i += 3)
        status = hand_batch(out, data, data->first + i, done - i < 3 ? done - i : 3, err);
    if (status == DEMIST_OK)
        status = dm_outputs_finish(out, err);
    dm_outputs_close(out);
    return status;
}

static void assert_runs(const struct dm_output_options *options, const struct dm_output_data *data,
                        int64_t done)
{
    struct dm_error err = DM_ERROR_INIT;
    if (run(options, data, done, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
}

static void assert_refused(const struct dm_output_options *options,
                           const struct dm_output_data *data, demist_status status,
                           const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_outputs *out;
    assert_int_equal(dm_outputs_open(options, data, &out, &err), status);
    assert_null(out);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
}

static int count_files(const char *path)
{
    int n = 0;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir)
        closedir(dir);
    return n;
}

static bool exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

/* The description in a PNG, a string for free(). */
static char *description_of(const char *path)
{
    struct dm_png_texts texts;
    assert_int_equal(dm_png_read(NULL, &texts, path, NULL), DEMIST_OK);
    char *text = strdup(dm_png_texts_find(&texts, "demist"));
    dm_png_texts_finish(&texts);
    return text;
}

static void assert_describes(const char *path, const char *description)
{
    char *text = description_of(path);
    assert_string_equal(text, description);
    free(text);
}

/* Pixel (x, y) of an RGB picture is the byte of channel c of image `index`, after `step`. */
static void assert_pixel(const struct dm_image *image, int x, int y, int64_t index, int step,
                         size_t row, size_t column)
{
    for (size_t c = 0; c < 3; c++) {
        float v = value(index, step, (c * 4 + row) * 5 + column);
        int byte = (int)((v + 1.0F) * 127.5F);
        assert_int_equal(image->pixels[(y * image->width + x) * 3 + (int)c], byte);
    }
}

/* ---------------------------------------------------------------- contents */

static void test_a_grid_shows_each_image_enlarged_where_it_belongs(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(3, rgb, 4);
    options.columns = 2;
    data.first = 7;
    assert_runs(&options, &data, 4);
    struct dm_image grid;
    assert_int_equal(dm_png_read(&grid, NULL, "out/grid.png", NULL), DEMIST_OK);
    int scale = 64 / 5; /* 12 */
    assert_int_equal(grid.width, 2 * (5 * scale + 2) + 2);
    assert_int_equal(grid.height, 2 * (4 * scale + 2) + 2);
    assert_pixel(&grid, 2, 2, 7, 9, 0, 0);
    assert_pixel(&grid, 2 + scale - 1, 2 + scale - 1, 7, 9, 0, 0);
    assert_pixel(&grid, 2 + scale, 2 + 3 * scale, 7, 9, 3, 1);
    assert_pixel(&grid, 4 + 5 * scale, 4 + 4 * scale, 10, 9, 0, 0);
    dm_image_finish(&grid);
    assert_describes("out/grid.png", data.description);
    assert_int_equal(count_files("out"), 1);
    assert_string_equal(notices, "");
}

static void test_many_small_images_are_enlarged_less(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(3, rgb, 40000);
    struct dm_outputs *out;
    assert_int_equal(dm_outputs_open(&options, &data, &out, NULL), DEMIST_OK);
    dm_outputs_close(out);
    const int64_t side[] = {3, 16, 16};
    data.shape = side;
    data.n_images = 200000; /* 450 x 445 of them: at scale 1 only is it a legal picture */
    assert_int_equal(dm_outputs_open(&options, &data, &out, NULL), DEMIST_OK);
    dm_outputs_close(out);
    options.scale = 4;
    assert_refused(&options, &data, DEMIST_CONFIG, "a smaller scale, or png or npz");
}

static void test_single_pngs_keep_their_size_and_are_written_at_once(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_PNG);
    struct dm_output_data data = data_of(3, rgb, 4);
    data.first = 12;
    struct dm_outputs *out;
    assert_int_equal(dm_outputs_open(&options, &data, &out, NULL), DEMIST_OK);
    assert_false(dm_outputs_wants_states(out));
    assert_int_equal(hand_batch(out, &data, 12, 2, NULL), DEMIST_OK);
    size_t n;
    const char *const *files = dm_outputs_files(out, &n);
    assert_int_equal(n, 2);
    assert_string_equal(files[1], "out/image-00013.png");
    struct dm_image image;
    struct dm_png_texts texts;
    assert_int_equal(dm_png_read(&image, &texts, "out/image-00013.png", NULL), DEMIST_OK);
    assert_int_equal(image.width, 5);
    assert_int_equal(image.height, 4);
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 5; x++)
            assert_pixel(&image, x, y, 13, 9, (size_t)y, (size_t)x);
    assert_string_equal(dm_png_texts_find(&texts, "demist"), data.description);
    assert_string_equal(dm_png_texts_find(&texts, "demist-image"), "13");
    dm_image_finish(&image);
    dm_png_texts_finish(&texts);
    dm_outputs_close(out);

    options.scale = 3;
    options.dir = "large";
    assert_runs(&options, &data, 4);
    assert_int_equal(dm_png_read(&image, NULL, "large/image-00015.png", NULL), DEMIST_OK);
    assert_int_equal(image.width, 15);
    assert_pixel(&image, 14, 11, 15, 9, 3, 4);
    dm_image_finish(&image);
}

static struct dm_checkpoint *open_file(const char *path)
{
    struct dm_checkpoint *file;
    struct dm_error err = DM_ERROR_INIT;
    if (dm_checkpoint_open(path, &file, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return file;
}

static void assert_labels(const struct dm_tensor_view *view, int64_t n)
{
    assert_non_null(view);
    assert_int_equal(view->dtype, DEMIST_I64);
    assert_int_equal(view->rank, 1);
    assert_int_equal(view->shape[0], n);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(((const int64_t *)view->data)[i], i * 10);
}

static void assert_shape(const struct dm_tensor_view *view, int rank, const int64_t *shape)
{
    assert_non_null(view);
    assert_int_equal(view->rank, rank);
    assert_memory_equal(view->shape, shape, (size_t)rank * sizeof *shape);
}

static void test_npz_has_the_layout_of_improved_diffusion(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_NPZ);
    struct dm_output_data data = data_of(3, rgb, 4);
    data.has_labels = true;
    assert_runs(&options, &data, 4);
    struct dm_checkpoint *file = open_file("out/samples.npz");
    assert_int_equal(dm_checkpoint_count(file), 2);
    const struct dm_tensor_view *view = dm_checkpoint_find(file, "arr_0");
    assert_shape(view, 4, (const int64_t[]){4, 4, 5, 3});
    assert_int_equal(view->dtype, DEMIST_U8);
    const uint8_t *bytes = view->data;
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 60; k++) {
            float v = value((int64_t)i, 9, k % 3 * 20 + k / 3);
            assert_int_equal(bytes[i * 60 + k], (int)((v + 1.0F) * 127.5F));
        }
    assert_labels(dm_checkpoint_find(file, "arr_1"), 4);
    dm_checkpoint_close(file);

    options.rounding = DM_IMAGE_ROUND; /* and without labels */
    options.dir = "rounded";
    data.has_labels = false;
    assert_runs(&options, &data, 4);
    file = open_file("rounded/samples.npz");
    assert_int_equal(dm_checkpoint_count(file), 1);
    bytes = dm_checkpoint_find(file, "arr_0")->data;
    int differing = 0;
    for (size_t k = 0; k < 60; k++) {
        float v = value(0, 9, k % 3 * 20 + k / 3);
        assert_int_equal(bytes[k], (int)rintf((v / 2.0F + 0.5F) * 255.0F));
        differing += bytes[k] != (int)((v + 1.0F) * 127.5F);
    }
    assert_true(differing > 10);
    dm_checkpoint_close(file);
}

static void test_npy_and_safetensors_hold_the_floats(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_NPY | DM_FORMAT_SAFETENSORS);
    struct dm_output_data data = data_of(3, latent, 4); /* no picture, and none is needed */
    data.has_labels = true;
    assert_runs(&options, &data, 4);
    struct dm_checkpoint *npy = open_file("out/samples.npy");
    struct dm_checkpoint *file = open_file("out/samples.safetensors");
    const struct dm_tensor_view *views[] = {dm_checkpoint_at(npy, 0),
                                            dm_checkpoint_find(file, "x_0")};
    for (int v = 0; v < 2; v++) {
        assert_shape(views[v], 4, (const int64_t[]){4, 8, 4, 5});
        assert_int_equal(views[v]->dtype, DEMIST_F32);
        for (size_t i = 0; i < 640; i++)
            assert_true(((const float *)views[v]->data)[i] ==
                        value((int64_t)(i / 160), 9, i % 160));
    }
    assert_labels(dm_checkpoint_find(file, "y"), 4);
    assert_string_equal(dm_checkpoint_metadata(file, "demist"), data.description);
    dm_checkpoint_close(file);
    dm_checkpoint_close(npy);
}

static void test_what_was_encoded_is_x_T_in_floats(void **state)
{
    static const char *const files[] = {"out/x_T.npz", "out/x_T.npy", "out/x_T.safetensors"};
    struct dm_output_options options =
        options_of(DM_FORMAT_NPZ | DM_FORMAT_NPY | DM_FORMAT_SAFETENSORS);
    struct dm_output_data data = data_of(3, rgb, 4);
    data.has_labels = data.encoded = true;
    assert_runs(&options, &data, 4);
    for (int i = 0; i < 3; i++) {
        struct dm_checkpoint *file = open_file(files[i]);
        bool npy = i == 1;
        const struct dm_tensor_view *view =
            npy ? dm_checkpoint_at(file, 0) : dm_checkpoint_find(file, "x_T");
        assert_int_equal(dm_checkpoint_count(file), npy ? 1 : 2);
        assert_shape(view, 4, (const int64_t[]){4, 3, 4, 5});
        assert_int_equal(view->dtype, DEMIST_F32);
        assert_true(((const float *)view->data)[60 * 3 + 7] == value(3, 9, 7));
        if (!npy)
            assert_labels(dm_checkpoint_find(file, "y"), 4);
        dm_checkpoint_close(file);
    }
    for (int points = 0; points < 2; points++) { /* pixels would not make it again */
        options = options_of(DM_FORMAT_GRID);
        options.formats_by_default = true;
        options.dir = points ? "encoded-points" : "encoded-images";
        data = points ? data_of(1, point, 4) : data_of(3, rgb, 4);
        data.encoded = true;
        assert_runs(&options, &data, 4);
        dm_checkpoint_close(open_file(points ? "encoded-points/x_T.safetensors"
                                             : "encoded-images/x_T.safetensors"));
    }
}

static void test_points_in_an_npz_stay_floats(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_NPZ);
    struct dm_output_data data = data_of(1, point, 5);
    assert_runs(&options, &data, 5);
    struct dm_checkpoint *file = open_file("out/samples.npz");
    const struct dm_tensor_view *view = dm_checkpoint_find(file, "arr_0");
    assert_shape(view, 2, (const int64_t[]){5, 2});
    assert_int_equal(view->dtype, DEMIST_F32);
    assert_true(((const float *)view->data)[9] == value(4, 9, 1));
    dm_checkpoint_close(file);
}

#ifdef DM_HAVE_GIF

/* Frames of out/samples.gif; *hold_ms that of the last. */
static int gif_frames(const char *path, int *width, int *height, int *hold_ms)
{
    GifFileType *gif = DGifOpenFileName(path, NULL);
    assert_non_null(gif);
    assert_int_equal(DGifSlurp(gif), GIF_OK);
    GraphicsControlBlock block;
    assert_int_equal(DGifSavedExtensionToGCB(gif, gif->ImageCount - 1, &block), GIF_OK);
    int n = gif->ImageCount;
    *width = gif->SWidth;
    *height = gif->SHeight;
    *hold_ms = block.DelayTime * 10;
    DGifCloseFile(gif, NULL);
    return n;
}

/* The upper left corner of frame k's image `i` in a grid of one column at scale 1. */
static void assert_frame(const char *path, int k, int i, int64_t index, int step)
{
    GifFileType *gif = DGifOpenFileName(path, NULL);
    assert_int_equal(DGifSlurp(gif), GIF_OK);
    const SavedImage *frame = &gif->SavedImages[k];
    int at = (2 + i * 6) * gif->SWidth + 2;
    GifColorType c = frame->ImageDesc.ColorMap->Colors[frame->RasterBits[at]];
    assert_int_equal(c.Red, (int)((value(index, step, 0) + 1.0F) * 127.5F));
    assert_int_equal(c.Blue, (int)((value(index, step, 40) + 1.0F) * 127.5F));
    DGifCloseFile(gif, NULL);
}

static void test_a_gif_runs_from_noise_to_images(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GIF);
    struct dm_output_data data = data_of(3, rgb, 4);
    options.columns = options.scale = 1;
    int width, height, hold;
    assert_runs(&options, &data, 4);
    assert_int_equal(gif_frames("out/samples.gif", &width, &height, &hold), 11);
    assert_int_equal(width, 9);
    assert_int_equal(height, 26);
    assert_true(hold >= 1000);
    for (int step = -1; step < 10; step++) /* from both batches */
        for (int i = 0; i < 4; i++)
            assert_frame("out/samples.gif", step + 1, i, i, step);
}

static void test_a_long_run_makes_about_forty_frames(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GIF);
    struct dm_output_data data = data_of(3, rgb, 4);
    options.columns = options.scale = 1;
    int width, height, hold;
    data.n_steps = 1000;
    assert_runs(&options, &data, 4);
    assert_int_equal(gif_frames("out/samples.gif", &width, &height, &hold), 40);
    assert_frame("out/samples.gif", 0, 0, 0, -1);
    assert_frame("out/samples.gif", 39, 3, 3, 999);

    options.every = 100; /* x_T, 1000 900 … 100, 7 … 1 */
    options.dir = "every";
    assert_runs(&options, &data, 4);
    assert_int_equal(gif_frames("every/samples.gif", &width, &height, &hold), 1 + 10 + 7);
    assert_frame("every/samples.gif", 1, 0, 0, 0);
    assert_frame("every/samples.gif", 2, 0, 0, 100);
    assert_frame("every/samples.gif", 11, 0, 0, 993);
}

static void test_a_gif_too_large_is_refused_at_the_start(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GIF);
    struct dm_output_data data = data_of(3, (const int64_t[]){3, 64, 64}, 10000);
    data.n_steps = 1000;
    assert_refused(&options, &data, DEMIST_CONFIG, "a gif of 40 frames with 6602 x 6602 pixels");
    assert_false(exists("out"));
}

#endif

static void test_every_keeps_what_the_course_keeps(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(3, rgb, 4);
    options.every = 20;
    options.scale = 1;
    options.columns = 4;
    data.n_steps = 50;
    assert_runs(&options, &data, 4);
    static const int kept[] = {50, 40, 20, 7, 6, 5, 4, 3, 2, 1};
    assert_int_equal(count_files("out"), 10 + 1);
    for (int i = 0; i < 10; i++) {
        char path[64];
        struct dm_image grid;
        snprintf(path, sizeof path, "out/step-%05d.png", kept[i]);
        assert_int_equal(dm_png_read(&grid, NULL, path, NULL), DEMIST_OK);
        assert_pixel(&grid, 2, 2, 0, 50 - kept[i], 0, 0);
        assert_pixel(&grid, 2 + 3 * 7, 2, 3, 50 - kept[i], 0, 0);
        dm_image_finish(&grid);
    }
}

static void test_every_without_a_place_for_it_is_told(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_NPZ);
    struct dm_output_data data = data_of(3, rgb, 4);
    options.every = 5;
    assert_runs(&options, &data, 4);
    assert_contains(notices, "every has no effect");
    assert_int_equal(count_files("out"), 1);
}

static void test_states_left_out_cost_their_picture_only(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(3, rgb, 2);
    options.every = 5;
    struct dm_outputs *out;
    assert_int_equal(dm_outputs_open(&options, &data, &out, NULL), DEMIST_OK);
    assert_true(dm_outputs_wants_states(out));
    float *x = batch_of(&data, 0, 2, 5);
    assert_int_equal(dm_outputs_state(out, 0, 1, 0, 1, x, NULL), DEMIST_OK); /* one of two */
    assert_int_equal(dm_outputs_state(out, 0, 2, 5, 0.5, x, NULL), DEMIST_OK);
    assert_int_equal(dm_outputs_batch(out, 0, 2, x, NULL, NULL), DEMIST_OK);
    assert_int_equal(dm_outputs_finish(out, NULL), DEMIST_OK);
    dm_outputs_close(out);
    free(x);
    assert_int_equal(count_files("out"), 3);
    assert_true(exists("out/step-00005.png") && exists("out/step-00001.png"));
}

static void test_points_are_plotted_with_their_paths_by_default(void **state)
{
#ifdef DM_HAVE_CAIRO
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(1, point, 5);
    options.formats_by_default = true;
    assert_runs(&options, &data, 5);
    assert_int_equal(count_files("out"), 1);
    assert_describes("out/points.png", data.description);
#endif
}

static void test_an_svg_has_every_path_and_the_description(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_SVG);
    struct dm_output_data data = data_of(1, point, 5);
    assert_runs(&options, &data, 5);
    char *svg;
    size_t size;
    assert_int_equal(dm_read_file("out/points.svg", 1 << 20, &svg, &size, NULL), DEMIST_OK);
    assert_contains(svg, "paths of 5 points in 10 steps");
    assert_contains(svg, "start (t = 1)");
    assert_contains(svg, "end (t = 0)");
    assert_contains(svg, "<desc>demist: [sample]\nsteps = 10 ; \"so &amp; &lt;so&gt;\" é\n");
    int discs = 0;
    for (const char *at = svg; (at = strstr(at, "<circle")); at++)
        discs++;
    assert_int_equal(discs, 5 + 5 + 2); /* starts, ends, legend */
    free(svg);
}

/* ---------------------------------------------------------------- refusals */

static void test_formats_must_fit_the_data(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(1, point, 5);
    assert_refused(&options, &data, DEMIST_CONFIG,
                   "[output] formats: grid is for images of 1, 3 or 4 channels, and this network "
                   "makes data of shape [2]: take plot, svg, npz, npy or safetensors");
    data = data_of(3, latent, 5);
    options.formats = DM_FORMAT_NPY | DM_FORMAT_PNG;
    assert_refused(&options, &data, DEMIST_CONFIG,
                   "png is for images of 1, 3 or 4 channels, and "
                   "this network makes data of shape [8, 4, 5]");
    options.formats = DM_FORMAT_GRID;
    options.formats_by_default = true;
    assert_refused(&options, &data, DEMIST_CONFIG, "take npz, npy or safetensors");
    data = data_of(3, gray, 5);
    options.formats_by_default = false;
    options.formats = DM_FORMAT_SVG;
    assert_refused(&options, &data, DEMIST_CONFIG, "svg is for points in the plane");
    options.formats = 0;
    assert_refused(&options, &data, DEMIST_INVALID, "none");
    options.formats = DM_FORMAT_NPY;
    data.description = "caf\xE9";
    assert_refused(&options, &data, DEMIST_CONFIG, "not UTF-8 at byte 3");
    assert_false(exists("out"));
}

static void test_a_directory_that_cannot_be_written_is_found_first(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(3, rgb, 1);
    assert_int_equal(close(creat("file", 0600)), 0);
    options.dir = "file/out";
    assert_refused(&options, &data, DEMIST_IO, "\"file\": Not a directory");
    options.dir = "";
    assert_refused(&options, &data, DEMIST_CONFIG, "dir is empty");
    options.dir = "/proc/self";
    assert_refused(&options, &data, DEMIST_IO, "cannot write \"/proc/self/grid.png\"");
    options.dir = "out/deep//down/";
    assert_runs(&options, &data, 1);
    assert_true(exists("out/deep/down/grid.png"));
}

static void test_batches_come_in_order_with_their_labels(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_NPY);
    struct dm_output_data data = data_of(3, rgb, 4);
    data.has_labels = true;
    struct dm_outputs *out;
    assert_int_equal(dm_outputs_open(&options, &data, &out, NULL), DEMIST_OK);
    float *x = batch_of(&data, 0, 5, 0);
    const int64_t y[5] = {0};
    assert_int_equal(dm_outputs_batch(out, 1, 1, x, y, NULL), DEMIST_INVALID);
    assert_int_equal(dm_outputs_batch(out, 0, 5, x, y, NULL), DEMIST_INVALID);
    assert_int_equal(dm_outputs_batch(out, 0, 2, x, NULL, NULL), DEMIST_INVALID);
    assert_int_equal(dm_outputs_batch(out, 0, 2, x, y, NULL), DEMIST_OK);
    assert_int_equal(dm_outputs_batch(out, 0, 2, x, y, NULL), DEMIST_INVALID);
    free(x);
    dm_outputs_close(out);
    assert_int_equal(count_files("out"), 0);
}

static void test_a_pixel_that_is_not_finite_names_its_image(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(3, rgb, 4);
    struct dm_error err = DM_ERROR_INIT;
    struct dm_outputs *out;
    assert_int_equal(dm_outputs_open(&options, &data, &out, NULL), DEMIST_OK);
    float *x = batch_of(&data, 0, 4, 0);
    x[2 * 60 + 7] = NAN;
    assert_int_equal(dm_outputs_batch(out, 0, 4, x, NULL, &err), DEMIST_NUMERIC);
    assert_contains(err.text, "image 2: a pixel value is not finite: channel 0, row 1, column 2");
    dm_error_clear(&err);
    free(x);
    dm_outputs_close(out);
}

/* ---------------------------------------------------------------- files of others */

static const unsigned all_of_images = DM_FORMAT_GRID | DM_FORMAT_NPZ | DM_FORMAT_SAFETENSORS;

static void test_another_runs_files_are_not_touched(void **state)
{
    struct dm_output_options options = options_of(all_of_images);
    struct dm_output_data a = data_of(3, rgb, 4), b = a;
    b.description = "[sample]\nsteps = 11\n";
    b.first = 4;
    assert_runs(&options, &a, 4);
    assert_runs(&options, &b, 4);
    assert_contains(notices, "\"out/grid.png\" is of another run: this one is \"out/grid-2.png\"");
    assert_describes("out/grid.png", a.description);
    assert_describes("out/grid-2.png", b.description);
    assert_true(exists("out/samples-2.npz") && exists("out/samples-2.safetensors"));
    assert_int_equal(count_files("out"), 6);

    notices[0] = '\0';
    assert_runs(&options, &b, 4); /* again: its own numbered files are replaced */
    assert_int_equal(count_files("out"), 6);
    assert_runs(&options, &a, 4);
    assert_int_equal(count_files("out"), 6);

    options.overwrite = true;
    notices[0] = '\0';
    assert_runs(&options, &b, 4);
    assert_string_equal(notices, "");
    assert_int_equal(count_files("out"), 6);
    assert_describes("out/grid.png", b.description);
}

static void test_svgs_tell_their_run_too(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_SVG);
    struct dm_output_data a = data_of(1, point, 4), b = a, c = a;
    b.description = "other";
    c.n_steps = 9; /* another picture of the same description */
    assert_runs(&options, &a, 4);
    assert_runs(&options, &c, 4);
    assert_int_equal(count_files("out"), 1);
    assert_runs(&options, &b, 4);
    assert_int_equal(count_files("out"), 2);
}

static void test_what_bears_no_description_is_anothers_unless_equal(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_NPY);
    struct dm_output_data a = data_of(3, rgb, 4), b = a;
    b.n_steps = 11;
    assert_runs(&options, &a, 4);
    assert_runs(&options, &a, 4);
    assert_int_equal(count_files("out"), 1);
    assert_runs(&options, &b, 4);
    assert_int_equal(count_files("out"), 2);
}

static void test_foreign_content_is_left_alone_whatever_it_is(void **state)
{
    struct dm_output_options options = options_of(all_of_images);
    struct dm_output_data data = data_of(3, rgb, 4);
    assert_int_equal(mkdir("out", 0700), 0);
    assert_int_equal(mkfifo("out/grid-2.png", 0600), 0); /* reading it would wait for ever */
    static const char *const names[] = {"out/grid.png", "out/samples.npz",
                                        "out/samples.safetensors"};
    for (int i = 0; i < 3; i++)
        assert_int_equal(dm_write_file(names[i], "mine", 4, NULL, NULL), DEMIST_OK);
    assert_runs(&options, &data, 4);
    for (int i = 0; i < 3; i++) {
        char *text;
        size_t size;
        assert_int_equal(dm_read_file(names[i], 100, &text, &size, NULL), DEMIST_OK);
        assert_string_equal(text, "mine");
        free(text);
    }
    assert_true(exists("out/grid-3.png") && exists("out/samples-2.npz"));
}

static void test_thousands_of_numbered_names_are_told_briefly(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_PNG);
    struct dm_output_data a = data_of(3, rgb, 20), b = a;
    b.description = "other";
    assert_runs(&options, &a, 20);
    assert_runs(&options, &b, 20);
    assert_int_equal(count_files("out"), 40);
    int lines = 0;
    for (const char *at = notices; (at = strchr(at, '\n')); at++)
        lines++;
    assert_int_equal(lines, 4);
}

/* ---------------------------------------------------------------- interruptions */

static void test_an_interrupted_run_leaves_what_is_finished(void **state)
{
    struct dm_output_options options = options_of(all_of_images | DM_FORMAT_PNG);
    struct dm_output_data data = data_of(3, rgb, 9);
    data.has_labels = true;
    options.columns = 3;
    options.scale = 1;
    struct dm_outputs *out;
    assert_int_equal(dm_outputs_open(&options, &data, &out, NULL), DEMIST_OK);
    assert_int_equal(hand_batch(out, &data, 0, 3, NULL), DEMIST_OK);
    float *x = batch_of(&data, 3, 3, 2); /* interrupted here */
    assert_int_equal(dm_outputs_state(out, 3, 3, 2, 0.5, x, NULL), DEMIST_OK);
    free(x);
    assert_int_equal(dm_outputs_finish(out, NULL), DEMIST_OK);
    dm_outputs_close(out);
    struct dm_image grid;
    assert_int_equal(dm_png_read(&grid, NULL, "out/grid.png", NULL), DEMIST_OK);
    assert_int_equal(grid.height, 4 + 4); /* one row */
    dm_image_finish(&grid);
    struct dm_checkpoint *file = open_file("out/samples.npz");
    assert_int_equal(dm_checkpoint_find(file, "arr_0")->shape[0], 3);
    assert_labels(dm_checkpoint_find(file, "arr_1"), 3);
    dm_checkpoint_close(file);
    assert_int_equal(count_files("out"), 6);

    options.dir = "none";
    assert_runs(&options, &data, 0);
    assert_int_equal(count_files("none"), 0);
}

static void test_an_interrupted_run_does_not_replace_a_finished_one(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID);
    struct dm_output_data data = data_of(3, rgb, 9);
    options.scale = 1;
    options.columns = 3;
    assert_runs(&options, &data, 9);
    assert_runs(&options, &data, 3);
    assert_contains(notices, "not of this incomplete result: this one is \"out/grid-2.png\"");
    struct dm_image grid;
    assert_int_equal(dm_png_read(&grid, NULL, "out/grid.png", NULL), DEMIST_OK);
    assert_int_equal(grid.height, 3 * 6 + 2);
    dm_image_finish(&grid);
    assert_int_equal(unlink("out/grid.png"), 0);
    assert_int_equal(rename("out/grid-2.png", "out/grid.png"), 0);
    assert_runs(&options, &data, 9); /* a finished one replaces what was interrupted */
    assert_int_equal(count_files("out"), 1);
    assert_int_equal(dm_png_read(&grid, NULL, "out/grid.png", NULL), DEMIST_OK);
    assert_int_equal(grid.height, 3 * 6 + 2);
    dm_image_finish(&grid);
}

/* ---------------------------------------------------------------- several at once, full disks */

static void test_runs_at_once_do_not_lose_a_file(void **state)
{
    enum { RUNS = 6, ROUNDS = 5 };
    pid_t children[RUNS];
    for (int i = 0; i < RUNS; i++) {
        children[i] = fork();
        if (children[i] != 0)
            continue;
        int failures = 0;
        for (int round = 0; round < ROUNDS; round++) {
            char text[32];
            snprintf(text, sizeof text, "run %d", i % 3 ? i * 10 + round : 0); /* two alike */
            struct dm_output_options options = options_of(DM_FORMAT_GRID);
            struct dm_output_data data = data_of(3, rgb, 4);
            data.description = text;
            failures += run(&options, &data, 4, NULL) != DEMIST_OK;
        }
        _exit(failures);
    }
    for (int i = 0; i < RUNS; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    int n = 4 * ROUNDS + 1, seen[100] = {0};
    assert_int_equal(count_files("out"), n);
    for (int number = 1; number <= n; number++) {
        char *path = dm_numbered_path("out/grid.png", number), *text = description_of(path);
        int64_t who;
        assert_int_equal(dm_parse_int64(text + 4, &who), DM_PARSE_OK);
        assert_int_equal(seen[who]++, 0);
        free(text);
        free(path);
    }
}

static void test_a_full_disk_names_the_file_and_costs_no_other(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_GRID | DM_FORMAT_NPZ | DM_FORMAT_PNG);
    struct dm_output_data data = data_of(3, rgb, 4);
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(mkdir("out", 0700), 0);
    assert_int_equal(symlink("/dev/full", "out/grid.png"), 0);
    assert_int_equal(run(&options, &data, 4, &err), DEMIST_IO);
    assert_contains(err.text, "No space left on device");
    dm_error_clear(&err);
    struct dm_checkpoint *file = open_file("out/samples.npz"); /* which comes after the grid */
    dm_checkpoint_close(file);
    assert_int_equal(count_files("out"), 1 + 1 + 4);
}

static void test_a_write_cut_short_leaves_no_part_behind(void **state)
{
    struct dm_output_options options = options_of(DM_FORMAT_NPY | DM_FORMAT_PNG);
    struct dm_output_data data = data_of(3, (const int64_t[]){3, 16, 16}, 6);
    struct dm_error err = DM_ERROR_INIT;
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 8192; /* a PNG fits, 6·16·16·3 floats do not */
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    demist_status status = run(&options, &data, 6, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(status, DEMIST_IO);
    assert_contains(err.text, "cannot write \"out/samples.npy\": File too large");
    dm_error_clear(&err);
    assert_int_equal(count_files("out"), 6);
    assert_describes("out/image-00005.png", data.description);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_grid_shows_each_image_enlarged_where_it_belongs),
        TEST(test_many_small_images_are_enlarged_less),
        TEST(test_single_pngs_keep_their_size_and_are_written_at_once),
        TEST(test_npz_has_the_layout_of_improved_diffusion),
        TEST(test_npy_and_safetensors_hold_the_floats),
        TEST(test_what_was_encoded_is_x_T_in_floats),
        TEST(test_points_in_an_npz_stay_floats),
#ifdef DM_HAVE_GIF
        TEST(test_a_gif_runs_from_noise_to_images),
        TEST(test_a_long_run_makes_about_forty_frames),
        TEST(test_a_gif_too_large_is_refused_at_the_start),
#endif
        TEST(test_every_keeps_what_the_course_keeps),
        TEST(test_every_without_a_place_for_it_is_told),
        TEST(test_states_left_out_cost_their_picture_only),
        TEST(test_points_are_plotted_with_their_paths_by_default),
        TEST(test_an_svg_has_every_path_and_the_description),
        TEST(test_formats_must_fit_the_data),
        TEST(test_a_directory_that_cannot_be_written_is_found_first),
        TEST(test_batches_come_in_order_with_their_labels),
        TEST(test_a_pixel_that_is_not_finite_names_its_image),
        TEST(test_another_runs_files_are_not_touched),
        TEST(test_svgs_tell_their_run_too),
        TEST(test_what_bears_no_description_is_anothers_unless_equal),
        TEST(test_foreign_content_is_left_alone_whatever_it_is),
        TEST(test_thousands_of_numbered_names_are_told_briefly),
        TEST(test_an_interrupted_run_leaves_what_is_finished),
        TEST(test_an_interrupted_run_does_not_replace_a_finished_one),
        TEST(test_runs_at_once_do_not_lose_a_file),
        TEST(test_a_full_disk_names_the_file_and_costs_no_other),
        TEST(test_a_write_cut_short_leaves_no_part_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

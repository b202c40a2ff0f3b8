#include "outputs.h"

#include "giffile.h"
#include "npy.h"
#include "outputdir.h"
#include "plot.h"
#include "pngfile.h"
#include "safetensors.h"
#include "utf8.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    GIF_FRAMES = 40,
    SEEN_SIDE = 64,        /* small images are enlarged to about this … */
    LARGE_SIDE = 4096,     /* … unless the grid grows beyond that */
    LAST_STEPS = 8,        /* with `every`, the steps below it are kept too */
    GIF_PIXELS = 1 << 28,  /* of all frames together */
    PLOT_POINTS = 1 << 25, /* of all states together */
    PATH_POINTS = 1000000, /* that are drawn as lines */
    PLOT_SCALE = 2,        /* pixels of a plot for one of the drawing */
};

#define FOR_IMAGES (unsigned)(DM_FORMAT_GRID | DM_FORMAT_PNG | DM_FORMAT_GIF)
#define FOR_POINTS (unsigned)(DM_FORMAT_PLOT | DM_FORMAT_SVG)
#define FOR_ALL (unsigned)(DM_FORMAT_NPZ | DM_FORMAT_NPY | DM_FORMAT_SAFETENSORS)

static const struct {
    enum dm_format format;
    const char *name, *file;
    const char *encoded; /* the file of a run that encodes */
} formats[] = {
    {DM_FORMAT_GRID, "grid", "grid.png", "grid.png"},
    {DM_FORMAT_PNG, "png", "image-00000.png", "image-00000.png"},
    {DM_FORMAT_NPZ, "npz", "samples.npz", "x_T.npz"},
    {DM_FORMAT_NPY, "npy", "samples.npy", "x_T.npy"},
    {DM_FORMAT_SAFETENSORS, "safetensors", "samples.safetensors", "x_T.safetensors"},
    {DM_FORMAT_GIF, "gif", "samples.gif", "samples.gif"},
    {DM_FORMAT_PLOT, "plot", "points.png", "points.png"},
    {DM_FORMAT_SVG, "svg", "points.svg", "points.svg"},
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* A state on the way that is of use. */
struct kept {
    int32_t step; /* −1: x_T */
    bool frame, grid;
    double time;  /* NaN until told */
    int64_t have; /* images, from the first on */
    void *data;   /* pixels or points of all images; NULL for the last step: the results */
};

struct dm_outputs {
    struct dm_output_options o; /* without `dir`, with the formats and the scale that are meant */
    struct dm_outputdir dir;
    char *description;
    int rank;
    int64_t shape[DM_MAX_RANK];
    size_t elements; /* of one image */
    bool images, points, has_labels, encoded, finished;
    struct dm_image_levels levels;
    struct dm_grid grid;
    int64_t n_images, first, n_done;
    int32_t n_steps;
    float *x;        /* [n_images, …], where floats are written */
    uint8_t *pixels; /* [n_images, H, W, C], where bytes are */
    int64_t *labels;
    struct kept *kept; /* in the order of the steps */
    size_t n_kept;
};

static const char *file_name(const struct dm_outputs *out, int format)
{
    return out->encoded ? formats[format].encoded : formats[format].file;
}

static bool wants(const struct dm_outputs *out, unsigned any_of)
{
    return (out->o.formats & any_of) != 0;
}

/* ---------------------------------------------------------------- do formats and data fit? */

static demist_status refuse(const struct dm_outputs *out, const char *format, const char *data,
                            const char *instead, struct dm_error *err)
{
    struct dm_text shape = DM_TEXT_INIT;
    for (int i = 0; i < out->rank; i++)
        dm_text_appendf(&shape, i ? ", %lld" : "%lld", (long long)out->shape[i]);
    dm_fail(err, DEMIST_CONFIG,
            "[output] formats: %s is for %s, and this network makes data of shape [%s]: take %s",
            format, data, shape.data ? shape.data : "", instead);
    dm_text_finish(&shape);
    return DEMIST_CONFIG;
}

static demist_status check_format(const struct dm_outputs *out, unsigned format, const char *name,
                                  struct dm_error *err)
{
    const char *any = "npz, npy or safetensors";
    if ((format & FOR_IMAGES) && !out->images)
        return refuse(out, name, "images of 1, 3 or 4 channels",
                      out->points ? "plot, svg, npz, npy or safetensors" : any, err);
    if ((format & FOR_POINTS) && !out->points)
        return refuse(out, name, "points in the plane",
                      out->images ? "grid, png, gif, npz, npy or safetensors" : any, err);
#ifndef DM_HAVE_GIF
    if (format == DM_FORMAT_GIF)
        return dm_fail(
            err, DEMIST_UNSUPPORTED,
            "[output] formats: this build has no gif: take grid, or build it with giflib");
#endif
#ifndef DM_HAVE_CAIRO
    if (format == DM_FORMAT_PLOT)
        return dm_fail(
            err, DEMIST_UNSUPPORTED,
            "[output] formats: this build has no plot: take svg, or build it with cairo");
#endif
    return DEMIST_OK;
}

static unsigned meant_formats(const struct dm_outputs *out)
{
    if (out->o.formats_by_default && out->encoded) /* pixels would not make it again */
        return DM_FORMAT_SAFETENSORS;
    if (!out->o.formats_by_default || !out->points)
        return out->o.formats;
#ifdef DM_HAVE_CAIRO
    return DM_FORMAT_PLOT;
#else
    return DM_FORMAT_SVG;
#endif
}

static demist_status check_formats(struct dm_outputs *out, struct dm_error *err)
{
    out->o.formats = meant_formats(out);
    if (out->o.formats == 0 || out->o.formats & ~(FOR_IMAGES | FOR_POINTS | FOR_ALL))
        return dm_fail(err, DEMIST_INVALID, "[output] formats: none, or unknown ones (0x%x)",
                       out->o.formats);
    for (int i = 0; i < N_FORMATS; i++)
        if (wants(out, formats[i].format))
            DM_TRY(check_format(out, formats[i].format, formats[i].name, err));
    if (out->o.every > 0 && !wants(out, DM_FORMAT_GRID | DM_FORMAT_GIF))
        dm_log(out->o.log, DM_LOG_WARNING,
               "[output] every has no effect: intermediates are kept as grid or gif");
    return DEMIST_OK;
}

static demist_status grid_size(const struct dm_outputs *out, int *width, int *height,
                               struct dm_error *err)
{
    struct dm_error why = DM_ERROR_INIT;
    demist_status status = dm_image_grid_size((int)out->shape[2], (int)out->shape[1],
                                              (int)out->n_images, &out->grid, width, height, &why);
    if (status != DEMIST_OK)
        status = dm_fail(err, DEMIST_CONFIG, "[output] formats: %s", why.text ? why.text : "grid");
    else if ((size_t)*width * (size_t)*height > DM_PNG_PIXELS_MAX)
        status = dm_fail(err, DEMIST_CONFIG,
                         "[output] formats: a grid of %lld images would have %d x %d pixels: take "
                         "fewer images, a smaller scale, or png or npz",
                         (long long)out->n_images, *width, *height);
    dm_error_clear(&why);
    return status;
}

/* Enlarges small images, as long as the grid stays one that people look at. */
static demist_status choose_scale(struct dm_outputs *out, int *width, int *height,
                                  struct dm_error *err)
{
    int64_t side = out->shape[1] > out->shape[2] ? out->shape[1] : out->shape[2];
    out->grid = DM_GRID_INIT;
    out->grid.columns = out->o.columns;
    out->grid.scale = out->o.scale > 0   ? out->o.scale
                      : side < SEEN_SIDE ? (int)(SEEN_SIDE / side)
                                         : 1;
    for (;; out->grid.scale--) {
        bool last = out->o.scale > 0 || out->grid.scale == 1;
        demist_status status = grid_size(out, width, height, last ? err : NULL);
        if (last || (status == DEMIST_OK && *width <= LARGE_SIDE && *height <= LARGE_SIDE))
            return status;
    }
}

static demist_status check_gif(const struct dm_outputs *out, int width, int height,
                               struct dm_error *err)
{
    size_t frames = 0;
    for (size_t i = 0; i < out->n_kept; i++)
        frames += out->kept[i].frame;
    size_t pixels = (size_t)width * (size_t)height;
    if (width <= DM_GIF_SIDE_MAX && height <= DM_GIF_SIDE_MAX &&
        (frames == 0 || pixels <= GIF_PIXELS / frames))
        return DEMIST_OK;
    return dm_fail(err, DEMIST_CONFIG,
                   "[output] formats: a gif of %zu frames with %d x %d pixels is too large: take "
                   "fewer images, a smaller scale or a larger every",
                   frames, width, height);
}

/* ---------------------------------------------------------------- which states? */

/* `most` of the n_steps + 1 states, evenly, with the first and the last. */
static bool evenly(const struct dm_outputs *out, int32_t step, int64_t most)
{
    int64_t state = (int64_t)step + 1, gaps = most - 1 < out->n_steps ? most - 1 : out->n_steps;
    return state == 0 || state * gaps / out->n_steps > (state - 1) * gaps / out->n_steps;
}

static int32_t countdown(const struct dm_outputs *out, int32_t step)
{
    return out->n_steps - step;
}

static bool every_so_many(const struct dm_outputs *out, int32_t step)
{
    int32_t i = countdown(out, step);
    return step >= 0 && (i % out->o.every == 0 || step == 0 || i < LAST_STEPS);
}

static struct kept plan_step(const struct dm_outputs *out, int32_t step)
{
    struct kept kept = {.step = step, .time = NAN};
    bool ends = step == -1 || step == out->n_steps - 1;
    if (out->o.every > 0 && wants(out, DM_FORMAT_GRID))
        kept.grid = every_so_many(out, step);
    if (wants(out, DM_FORMAT_GIF))
        kept.frame =
            out->o.every > 0 ? ends || every_so_many(out, step) : evenly(out, step, GIF_FRAMES);
    if (wants(out, FOR_POINTS)) {
        int64_t most = PLOT_POINTS / out->n_images;
        kept.frame = evenly(out, step, most < 2 ? 2 : most);
    }
    return kept;
}

static demist_status plan_steps(struct dm_outputs *out, struct dm_error *err)
{
    out->kept = calloc((size_t)out->n_steps + 1, sizeof *out->kept);
    if (!out->kept)
        return dm_fail_memory(err, "a list of steps");
    for (int32_t step = -1; step < out->n_steps; step++) {
        struct kept kept = plan_step(out, step);
        if (kept.frame || kept.grid)
            out->kept[out->n_kept++] = kept;
    }
    if (wants(out, FOR_POINTS) && out->n_kept <= (size_t)out->n_steps)
        dm_log(out->o.log, DM_LOG_WARNING, "the plot shows %zu of %d states: there are many points",
               out->n_kept, (int)out->n_steps + 1);
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- open, close */

/* [n_images] things of `count` elements; they are touched as they are filled. */
static demist_status reserve(const struct dm_outputs *out, size_t count, size_t element,
                             void *block, struct dm_error *err)
{
    size_t bytes;
    void *memory = NULL;
    if (dm_mul_size(count, element, &bytes))
        memory = calloc((size_t)out->n_images, bytes);
    if (!memory)
        return dm_fail(err, DEMIST_NO_MEMORY,
                       "out of memory: %lld images are too many to keep until the end; formats = "
                       "png writes each at once",
                       (long long)out->n_images);
    memcpy(block, &memory, sizeof memory);
    return DEMIST_OK;
}

static demist_status reserve_all(struct dm_outputs *out, struct dm_error *err)
{
    bool is_bytes = out->rank == 3 && !out->encoded;
    if (wants(out, DM_FORMAT_GRID | DM_FORMAT_GIF | (is_bytes ? DM_FORMAT_NPZ : 0)))
        DM_TRY(reserve(out, out->elements, 1, &out->pixels, err));
    if (wants(out,
              DM_FORMAT_NPY | DM_FORMAT_SAFETENSORS | FOR_POINTS | (is_bytes ? 0 : DM_FORMAT_NPZ)))
        DM_TRY(reserve(out, out->elements, sizeof *out->x, &out->x, err));
    if (out->has_labels)
        DM_TRY(reserve(out, 1, sizeof *out->labels, &out->labels, err));
    for (size_t i = 0; i < out->n_kept; i++)
        if (out->kept[i].step != out->n_steps - 1)
            DM_TRY(reserve(out, out->elements, out->images ? 1 : sizeof *out->x, &out->kept[i].data,
                           err));
    return DEMIST_OK;
}

static demist_status copy_data(struct dm_outputs *out, const struct dm_output_data *data,
                               struct dm_error *err)
{
    bool valid = data->rank >= 1 && data->rank < DM_MAX_RANK && data->n_images >= 1 &&
                 data->n_steps >= 1 && data->n_steps < INT32_MAX && out->o.every >= 0 &&
                 out->o.scale >= 0 && out->o.columns >= 0;
    if (valid && data->rank == 3) /* pixels */
        valid = isfinite((float)(data->hi - data->lo)) && (float)data->lo < (float)data->hi;
    out->rank = data->rank;
    out->elements = 1;
    for (int i = 0; valid && i < data->rank; i++) {
        out->shape[i] = data->shape[i];
        valid = data->shape[i] >= 1 && data->shape[i] <= INT_MAX &&
                dm_mul_size(out->elements, (size_t)data->shape[i], &out->elements);
    }
    if (!valid)
        return dm_fail(err, DEMIST_INVALID, "outputs of impossible data");
    out->images = out->rank == 3 && out->shape[1] <= DM_IMAGE_SIDE_MAX &&
                  out->shape[2] <= DM_IMAGE_SIDE_MAX &&
                  (out->shape[0] == 1 || out->shape[0] == 3 || out->shape[0] == 4);
    out->points = out->rank == 1 && out->shape[0] == 2;
    out->levels = (struct dm_image_levels){out->o.rounding, (float)data->lo, (float)data->hi};
    out->n_images = data->n_images;
    out->first = data->first;
    out->n_steps = data->n_steps;
    out->has_labels = data->has_labels;
    out->encoded = data->encoded;
    out->description = strdup(data->description);
    return out->description ? DEMIST_OK : dm_fail_memory(err, "the run's description");
}

static demist_status check_description(const char *text, struct dm_error *err)
{
    size_t size = strlen(text), good = dm_utf8_check(text, size);
    if (good < size)
        return dm_fail(err, DEMIST_CONFIG,
                       "the run's description is not UTF-8 at byte %zu, and PNG, SVG and "
                       "safetensors carry it: save the INI file as UTF-8",
                       good);
    if (size > DM_PNG_TEXT_SIZE_MAX)
        return dm_fail(err, DEMIST_CONFIG,
                       "the run's description has %zu bytes, and a PNG that carries it at most %zu",
                       size, DM_PNG_TEXT_SIZE_MAX);
    return DEMIST_OK;
}

static demist_status probe_files(const struct dm_outputs *out, struct dm_error *err)
{
    for (int i = 0; i < N_FORMATS; i++)
        if (wants(out, formats[i].format))
            DM_TRY(dm_outputdir_probe(&out->dir, file_name(out, i), err));
    return DEMIST_OK;
}

static demist_status open_outputs(struct dm_outputs *out, const char *dir,
                                  const struct dm_output_data *data, struct dm_error *err)
{
    int width = 0, height = 0;
    DM_TRY(copy_data(out, data, err));
    DM_TRY(check_formats(out, err));
    DM_TRY(check_description(out->description, err));
    if (wants(out, FOR_IMAGES | FOR_POINTS) && out->n_images > INT_MAX)
        return dm_fail(err, DEMIST_CONFIG, "%lld images: a picture can have %d",
                       (long long)out->n_images, INT_MAX);
    if (wants(out, DM_FORMAT_GRID | DM_FORMAT_GIF))
        DM_TRY(choose_scale(out, &width, &height, err));
    DM_TRY(plan_steps(out, err));
    if (wants(out, DM_FORMAT_GIF))
        DM_TRY(check_gif(out, width, height, err));
    DM_TRY(reserve_all(out, err));
    DM_TRY(dm_outputdir_open(&out->dir, dir, out->description, out->o.overwrite, out->o.log, err));
    return probe_files(out, err);
}

demist_status dm_outputs_open(const struct dm_output_options *options,
                              const struct dm_output_data *data, struct dm_outputs **out,
                              struct dm_error *err)
{
    *out = NULL;
    struct dm_outputs *made = calloc(1, sizeof *made);
    if (!made)
        return dm_fail_memory(err, "outputs");
    made->o = *options;
    made->o.dir = NULL;
    demist_status status = open_outputs(made, options->dir, data, err);
    if (status != DEMIST_OK) {
        dm_outputs_close(made);
        return status;
    }
    *out = made;
    return DEMIST_OK;
}

void dm_outputs_close(struct dm_outputs *out)
{
    if (!out)
        return;
    for (size_t i = 0; i < out->n_kept; i++)
        free(out->kept[i].data);
    free(out->kept);
    free(out->x);
    free(out->pixels);
    free(out->labels);
    dm_outputdir_finish(&out->dir);
    free(out->description);
    free(out);
}

const char *const *dm_outputs_files(const struct dm_outputs *out, size_t *n)
{
    *n = out->dir.n_files;
    return (const char *const *)out->dir.files;
}

/* ---------------------------------------------------------------- while the run goes on */

static bool is_name(const struct dm_outputs *out, const char *name)
{
    for (int i = 0; i < N_FORMATS; i++)
        if (wants(out, formats[i].format) && strcmp(name, file_name(out, i)) == 0)
            return true;
    return (wants(out, DM_FORMAT_PNG) && strncmp(name, "image-", 6) == 0) ||
           (out->o.every > 0 && strncmp(name, "step-", 5) == 0);
}

bool dm_outputs_makes(const struct dm_outputs *out, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (!is_name(out, name))
        return false;
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    struct stat its, ours;
    const bool same = dir && stat(dir, &its) == 0 && stat(out->dir.path, &ours) == 0 &&
                      its.st_dev == ours.st_dev && its.st_ino == ours.st_ino;
    free(dir);
    return same;
}

bool dm_outputs_wants_states(const struct dm_outputs *out)
{
    for (size_t i = 0; i < out->n_kept; i++)
        if (out->kept[i].data)
            return true;
    return false;
}

/* The place of image `first` among the run's, of which the next `n` are meant. */
static demist_status locate(const struct dm_outputs *out, int64_t first, int64_t n, int64_t limit,
                            int64_t *at, struct dm_error *err)
{
    *at = first - out->first;
    if (n < 1 || *at < 0 || *at > limit || n > out->n_images - *at)
        return dm_fail(err, DEMIST_INVALID, "images %lld to %lld are not what comes next",
                       (long long)first, (long long)(first + n - 1));
    return DEMIST_OK;
}

/* x: n images (C,H,W) -> to: (H,W,C). `first` is for the text of an error. */
static demist_status quantize(const struct dm_outputs *out, int64_t first, int64_t n,
                              const float *x, uint8_t *to, struct dm_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        size_t at = (size_t)i * out->elements;
        demist_status status =
            dm_image_quantize(to + at, x + at, (int)out->shape[0], (int)out->shape[1],
                              (int)out->shape[2], &out->levels, err);
        if (status != DEMIST_OK) {
            dm_fail_where(err, "image %lld", (long long)first + i);
            return status;
        }
    }
    return DEMIST_OK;
}

demist_status dm_outputs_state(struct dm_outputs *out, int64_t first, int64_t n, int32_t step,
                               double time, const float *x, struct dm_error *err)
{
    size_t k = 0;
    int64_t at;
    while (k < out->n_kept && out->kept[k].step != step)
        k++;
    if (k == out->n_kept)
        return DEMIST_OK;
    struct kept *kept = &out->kept[k];
    kept->time = time;
    if (!kept->data)
        return DEMIST_OK;
    DM_TRY(locate(out, first, n, kept->have, &at, err));
    size_t from = (size_t)at * out->elements;
    if (out->images) {
        demist_status status = quantize(out, first, n, x, (uint8_t *)kept->data + from, err);
        if (status != DEMIST_OK) {
            dm_fail_where(err, "after step %d", (int)step);
            return status;
        }
    } else {
        memcpy((float *)kept->data + from, x, (size_t)n * out->elements * sizeof *x);
    }
    kept->have = at + n > kept->have ? at + n : kept->have;
    return DEMIST_OK;
}

static struct dm_image image_of(const struct dm_outputs *out, uint8_t *pixels)
{
    return (struct dm_image){(int)out->shape[2], (int)out->shape[1], (int)out->shape[0], pixels};
}

/* Encodes the picture with the description, and the image's index where it shows one alone. */
static demist_status put_png(struct dm_outputs *out, const char *name, const struct dm_image *image,
                             const char *index, bool complete, struct dm_error *err)
{
    const struct dm_png_text texts[] = {{DM_PNG_KEYWORD, out->description},
                                        {DM_PNG_KEYWORD "-image", index}};
    struct dm_text file = DM_TEXT_INIT;
    demist_status status = dm_png_encode(&file, image, texts, index ? 2 : 1, err);
    if (status == DEMIST_OK)
        status = dm_outputdir_put(&out->dir, name, file.data, file.size, complete, err);
    dm_text_finish(&file);
    return status;
}

static demist_status put_single(struct dm_outputs *out, int64_t index, uint8_t *pixels,
                                struct dm_error *err)
{
    char name[48], number[24];
    snprintf(name, sizeof name, "image-%05lld.png", (long long)index);
    snprintf(number, sizeof number, "%lld", (long long)index);
    struct dm_image image = image_of(out, pixels), enlarged = DM_IMAGE_INIT;
    if (out->o.scale <= 1)
        return put_png(out, name, &image, number, true, err);
    struct dm_grid alone = {.columns = 1, .padding = 0, .scale = out->o.scale};
    DM_TRY(dm_image_grid(&enlarged, &image, 1, &alone, err));
    demist_status status = put_png(out, name, &enlarged, number, true, err);
    dm_image_finish(&enlarged);
    return status;
}

static demist_status put_singles(struct dm_outputs *out, int64_t first, int64_t n, const float *x,
                                 struct dm_error *err)
{
    uint8_t *pixels = malloc(out->elements);
    demist_status status = pixels ? DEMIST_OK : dm_fail_memory(err, "a picture");
    for (int64_t i = 0; i < n && status == DEMIST_OK; i++) {
        status = quantize(out, first + i, 1, x + (size_t)i * out->elements, pixels, err);
        if (status == DEMIST_OK)
            status = put_single(out, first + i, pixels, err);
    }
    free(pixels);
    return status;
}

demist_status dm_outputs_batch(struct dm_outputs *out, int64_t first, int64_t n, const float *x,
                               const int64_t *labels, struct dm_error *err)
{
    int64_t at;
    DM_TRY(locate(out, first, n, out->n_done, &at, err));
    if (at != out->n_done || out->has_labels != (labels != NULL) || out->finished)
        return dm_fail(err, DEMIST_INVALID, "a batch out of order, or without its labels");
    size_t from = (size_t)at * out->elements;
    if (out->pixels)
        DM_TRY(quantize(out, first, n, x, out->pixels + from, err));
    if (out->x)
        memcpy(out->x + from, x, (size_t)n * out->elements * sizeof *x);
    if (labels)
        memcpy(out->labels + at, labels, (size_t)n * sizeof *labels);
    out->n_done += n; /* also where a file then fails: these images are finished */
    return wants(out, DM_FORMAT_PNG) ? put_singles(out, first, n, x, err) : DEMIST_OK;
}

/* ---------------------------------------------------------------- pictures */

static bool complete(const struct dm_outputs *out)
{
    return out->n_done == out->n_images;
}

/* The pixels or points of a state; NULL where some image's did not come. */
static void *content(const struct dm_outputs *out, const struct kept *kept)
{
    void *results = out->images ? (void *)out->pixels : (void *)out->x;
    if (kept->step == out->n_steps - 1)
        return results;
    return kept->have >= out->n_done ? kept->data : NULL;
}

static demist_status make_grid(const struct dm_outputs *out, uint8_t *pixels, struct dm_image *grid,
                               struct dm_error *err)
{
    int n = (int)out->n_done;
    struct dm_image *images = calloc((size_t)n, sizeof *images);
    if (!images)
        return dm_fail_memory(err, "a grid");
    for (int i = 0; i < n; i++)
        images[i] = image_of(out, pixels + (size_t)i * out->elements);
    demist_status status = dm_image_grid(grid, images, n, &out->grid, err);
    free(images);
    return status;
}

static demist_status write_grid_of(struct dm_outputs *out, const char *name, uint8_t *pixels,
                                   struct dm_error *err)
{
    struct dm_image grid;
    DM_TRY(make_grid(out, pixels, &grid, err));
    demist_status status = put_png(out, name, &grid, NULL, complete(out), err);
    dm_image_finish(&grid);
    return status;
}

static demist_status write_grid(struct dm_outputs *out, const char *name, struct dm_error *err)
{
    for (size_t i = 0; i < out->n_kept; i++) {
        uint8_t *pixels = out->kept[i].grid ? content(out, &out->kept[i]) : NULL;
        char step[32];
        snprintf(step, sizeof step, "step-%05d.png", (int)countdown(out, out->kept[i].step));
        if (pixels)
            DM_TRY(write_grid_of(out, step, pixels, err));
    }
    return write_grid_of(out, name, out->pixels, err);
}

static demist_status put_gif(struct dm_outputs *out, const char *name,
                             const struct dm_image *frames, int n, struct dm_error *err)
{
    struct dm_gif options = DM_GIF_INIT;
    options.palette_per_frame = true; /* the noise must not take the images' colours away */
    struct dm_text file = DM_TEXT_INIT;
    demist_status status = dm_gif_encode(&file, frames, n, &options, err);
    if (status == DEMIST_OK)
        status = dm_outputdir_put(&out->dir, name, file.data, file.size, complete(out), err);
    dm_text_finish(&file);
    return status;
}

static demist_status write_gif(struct dm_outputs *out, const char *name, struct dm_error *err)
{
    struct dm_image *frames = calloc(out->n_kept, sizeof *frames);
    demist_status status = frames ? DEMIST_OK : dm_fail_memory(err, "the frames of a GIF");
    int n = 0;
    for (size_t i = 0; i < out->n_kept && status == DEMIST_OK; i++) {
        uint8_t *pixels = out->kept[i].frame ? content(out, &out->kept[i]) : NULL;
        if (pixels)
            status = make_grid(out, pixels, &frames[n++], err);
    }
    if (status == DEMIST_OK)
        status = put_gif(out, name, frames, n, err);
    for (int i = 0; i < n; i++)
        dm_image_finish(&frames[i]);
    free(frames);
    return status;
}

/* ---------------------------------------------------------------- plots */

static demist_status put_drawing(struct dm_outputs *out, const char *name, bool svg,
                                 const struct dm_drawing *drawing, struct dm_error *err)
{
    if (!svg) {
        struct dm_image image;
        DM_TRY(dm_drawing_image(&image, drawing, PLOT_SCALE, err));
        demist_status status = put_png(out, name, &image, NULL, complete(out), err);
        dm_image_finish(&image);
        return status;
    }
    const struct dm_png_text text = {DM_PNG_KEYWORD, out->description};
    struct dm_text file = DM_TEXT_INIT;
    demist_status status = dm_drawing_svg(&file, drawing, &text, 1, err);
    if (status == DEMIST_OK)
        status = dm_outputdir_put(&out->dir, name, file.data, file.size, complete(out), err);
    dm_text_finish(&file);
    return status;
}

/* Gathers the states that came: states [n_kept][n_done][2]; the number of them. */
static int gather_states(const struct dm_outputs *out, float *states, double *times, bool *timed)
{
    size_t count = (size_t)out->n_done * 2;
    int n = 0;
    *timed = true;
    for (size_t i = 0; i < out->n_kept; i++) {
        const float *points = content(out, &out->kept[i]);
        if (!points)
            continue;
        memcpy(states + (size_t)n * count, points, count * sizeof *states);
        times[n++] = out->kept[i].time;
        *timed &= !isnan(out->kept[i].time);
    }
    return n;
}

static demist_status write_plot(struct dm_outputs *out, const char *name, bool svg,
                                struct dm_error *err)
{
    float *states = calloc(out->n_kept, (size_t)out->n_done * 2 * sizeof *states);
    double *times = calloc(out->n_kept, sizeof *times);
    struct dm_drawing drawing = DM_DRAWING_INIT;
    demist_status status = states && times ? DEMIST_OK : dm_fail_memory(err, "a plot");
    if (status == DEMIST_OK) {
        bool timed;
        int n = gather_states(out, states, times, &timed);
        struct dm_point_plot plot = {
            .states = states,
            .times = timed ? times : NULL,
            .n_states = n,
            .n_points = (int)out->n_done,
            .paths = n > 1,
            .start = n > 1,
            .max_paths = n > 0 && n < PATH_POINTS ? PATH_POINTS / n : 1,
        };
        status = dm_plot_points(&drawing, &plot, err);
    }
    if (status == DEMIST_OK)
        status = put_drawing(out, name, svg, &drawing, err);
    dm_drawing_finish(&drawing);
    free(states);
    free(times);
    return status;
}

/* ---------------------------------------------------------------- arrays */

static struct dm_tensor_view labels_view(const struct dm_outputs *out, const char *name)
{
    return (struct dm_tensor_view){.name = name,
                                   .dtype = DEMIST_I64,
                                   .rank = 1,
                                   .shape = {out->n_done},
                                   .data = out->labels,
                                   .bytes = (size_t)out->n_done * sizeof *out->labels};
}

/* float32 [n_done, …] */
static struct dm_tensor_view floats_view(const struct dm_outputs *out, const char *name)
{
    struct dm_tensor_view view = {.name = name,
                                  .dtype = DEMIST_F32,
                                  .rank = out->rank + 1,
                                  .shape = {out->n_done},
                                  .data = out->x,
                                  .bytes = (size_t)out->n_done * out->elements * sizeof *out->x};
    memcpy(view.shape + 1, out->shape, (size_t)out->rank * sizeof *out->shape);
    return view;
}

/* uint8 [n_done, H, W, C] */
static struct dm_tensor_view pixels_view(const struct dm_outputs *out, const char *name)
{
    return (struct dm_tensor_view){
        .name = name,
        .dtype = DEMIST_U8,
        .rank = 4,
        .shape = {out->n_done, out->shape[1], out->shape[2], out->shape[0]},
        .data = out->pixels,
        .bytes = (size_t)out->n_done * out->elements};
}

static demist_status append_array(const struct dm_outputs *out, enum dm_format format,
                                  struct dm_outfile *file, struct dm_error *err)
{
    size_t n = out->has_labels ? 2 : 1;
    struct dm_tensor_view tensors[] = {floats_view(out, out->encoded ? "x_T" : "x_0"),
                                       labels_view(out, "y")};
    if (format == DM_FORMAT_NPZ && out->encoded)
        return dm_npz_write(file, tensors, n, err);
    if (format == DM_FORMAT_NPZ) {
        struct dm_tensor_view arrays[] = {out->rank == 3 ? pixels_view(out, "arr_0")
                                                         : floats_view(out, "arr_0"),
                                          labels_view(out, "arr_1")};
        return dm_npz_write(file, arrays, n, err);
    }
    if (format == DM_FORMAT_NPY)
        return dm_npy_write(file, tensors, err);
    const struct dm_metadata description = {DM_PNG_KEYWORD, out->description};
    return dm_safetensors_write(file, tensors, n, &description, 1, err);
}

static demist_status write_array(struct dm_outputs *out, const char *name, enum dm_format format,
                                 struct dm_error *err)
{
    struct dm_outfile file;
    demist_status status = dm_outputdir_begin(&out->dir, name, &file, err);
    if (status == DEMIST_OK)
        status = append_array(out, format, &file, err);
    if (status == DEMIST_OK)
        status = dm_outputdir_commit(&out->dir, &file, complete(out), err);
    dm_outfile_finish(&file);
    return status;
}

/* ---------------------------------------------------------------- finish */

static demist_status write_format(struct dm_outputs *out, enum dm_format format, const char *name,
                                  struct dm_error *err)
{
    switch (format) {
    case DM_FORMAT_GRID:
        return write_grid(out, name, err);
    case DM_FORMAT_PNG: /* written with their batch */
        return DEMIST_OK;
    case DM_FORMAT_GIF:
        return write_gif(out, name, err);
    case DM_FORMAT_PLOT:
    case DM_FORMAT_SVG:
        return write_plot(out, name, format == DM_FORMAT_SVG, err);
    case DM_FORMAT_NPZ:
    case DM_FORMAT_NPY:
    case DM_FORMAT_SAFETENSORS:
        break;
    }
    return write_array(out, name, format, err);
}

demist_status dm_outputs_finish(struct dm_outputs *out, struct dm_error *err)
{
    demist_status first = DEMIST_OK;
    if (out->finished)
        return dm_fail(err, DEMIST_INVALID, "the outputs were finished before");
    out->finished = true;
    for (int i = 0; i < N_FORMATS && out->n_done > 0; i++) {
        const char *file = file_name(out, i);
        struct dm_error why = DM_ERROR_INIT;
        if (!wants(out, formats[i].format))
            continue;
        demist_status status = write_format(out, formats[i].format, file, &why);
        if (status != DEMIST_OK && first == DEMIST_OK)
            first = dm_fail(err, status, "%s", why.text ? why.text : file);
        else if (status != DEMIST_OK)
            dm_log(out->o.log, DM_LOG_ERROR, "%s", why.text ? why.text : file);
        dm_error_clear(&why);
    }
    return first;
}

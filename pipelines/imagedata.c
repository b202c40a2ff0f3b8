#include "imagedata.h"

#include "pngfile.h"
#include "tensorfile.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static demist_status fail_path(const char *path, struct dm_error *err)
{
    return dm_fail(err, errno == ENOENT || errno == ENOTDIR ? DEMIST_NOT_FOUND : DEMIST_IO,
                   "cannot read \"%s\": %s", path, strerror(errno));
}

static float level(uint8_t byte)
{
    return (float)byte / 127.5F - 1;
}

/* bytes: (H,W,C) -> x: (C,H,W) */
static void to_planes(float *x, const uint8_t *bytes, int64_t channels, int64_t pixels)
{
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = 0; c < channels; c++)
            x[c * pixels + i] = level(bytes[i * channels + c]);
}

/* ---------------------------------------------------------------- pictures */

/* Appends a picture; all must be of one size. */
static demist_status add_picture(struct dm_image_data *data, const char *path, struct dm_error *err)
{
    struct dm_image image = DM_IMAGE_INIT;
    DM_TRY(dm_png_read(&image, NULL, path, err));
    int64_t pixels = (int64_t)image.width * image.height, size = pixels * image.channels;
    demist_status status = DEMIST_OK;
    if (data->n == 0) {
        data->rank = 3;
        data->shape[0] = image.channels;
        data->shape[1] = image.height;
        data->shape[2] = image.width;
    }
    if (data->shape[1] != image.height || data->shape[2] != image.width)
        status = dm_fail(err, DEMIST_INCOMPATIBLE,
                         "%s: %d×%d pixels, and those before it have %lld×%lld", path, image.width,
                         image.height, (long long)data->shape[2], (long long)data->shape[1]);
    float *grown = status == DEMIST_OK
                       ? realloc(data->x, (size_t)((data->n + 1) * size) * sizeof *grown)
                       : NULL;
    if (status == DEMIST_OK && !grown)
        status = dm_fail_memory(err, "pictures");
    if (grown) {
        data->x = grown;
        to_planes(grown + data->n++ * size, image.pixels, image.channels, pixels);
    }
    dm_image_finish(&image);
    return status;
}

static int is_png_name(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 4 && entry->d_name[0] != '.' &&
           (strcmp(entry->d_name + n - 4, ".png") == 0 ||
            strcmp(entry->d_name + n - 4, ".PNG") == 0);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static demist_status read_folder(const char *path, struct dm_image_data *data, struct dm_error *err)
{
    struct dirent **entries;
    int n = scandir(path, &entries, is_png_name, by_name);
    if (n < 0)
        return fail_path(path, err);
    demist_status status = DEMIST_OK;
    if (n == 0)
        status = dm_fail(err, DEMIST_NOT_FOUND, "%s: the folder has no PNG files", path);
    for (int i = 0; i < n; i++) {
        struct dm_text file = DM_TEXT_INIT;
        dm_text_appendf(&file, "%s/%s", path, entries[i]->d_name);
        if (status == DEMIST_OK)
            status =
                file.failed ? dm_fail_memory(err, "a path") : add_picture(data, file.data, err);
        dm_text_finish(&file);
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* ---------------------------------------------------------------- tensors */

static const struct dm_tensor_view *find_images(const struct dm_checkpoint *file, const char *name)
{
    const char *const names[] = {name, "x_0", "arr_0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct dm_tensor_view *view = dm_checkpoint_find(file, names[i]);
        if (view)
            return view;
    }
    return dm_checkpoint_count(file) == 1 ? dm_checkpoint_at(file, 0) : NULL;
}

static demist_status read_images(const char *path, const struct dm_tensor_view *view,
                                 struct dm_image_data *data, struct dm_error *err)
{
    bool bytes = view->dtype == DEMIST_U8;
    if ((view->rank != 4 && (bytes || view->rank != 2)) || dm_tensor_elements(view) == 0)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s must be N×C×H×W floats, N×H×W×C bytes, or N×D points", path,
                       view->name);
    data->n = view->shape[0];
    data->rank = view->rank - 1;
    for (int i = 0; i < data->rank; i++)
        data->shape[i] = view->shape[bytes ? 1 + (i + 2) % 3 : 1 + i];
    data->x = malloc(dm_tensor_elements(view) * sizeof *data->x);
    if (!data->x)
        return dm_fail_memory(err, "images");
    if (!bytes)
        return dm_tensor_to_f32(view, data->x, err);
    int64_t pixels = data->shape[1] * data->shape[2], size = pixels * data->shape[0];
    for (int64_t i = 0; i < data->n; i++)
        to_planes(data->x + i * size, (const uint8_t *)view->data + i * size, data->shape[0],
                  pixels);
    return DEMIST_OK;
}

static demist_status read_labels(const char *path, const struct dm_checkpoint *file,
                                 struct dm_image_data *data, struct dm_error *err)
{
    const struct dm_tensor_view *y = dm_checkpoint_find(file, "y");
    if (!y)
        y = dm_checkpoint_find(file, "arr_1");
    if (!y)
        return DEMIST_OK;
    if (y->rank != 1 || y->shape[0] != data->n)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s must hold %lld labels, one for each image", path, y->name,
                       (long long)data->n);
    data->labels = malloc((size_t)data->n * sizeof *data->labels);
    if (!data->labels)
        return dm_fail_memory(err, "labels");
    return dm_tensor_to_i64(y, data->labels, err);
}

static demist_status read_tensors(const char *path, const char *name, struct dm_image_data *data,
                                  struct dm_error *err)
{
    struct dm_checkpoint *file;
    DM_TRY(dm_checkpoint_open(path, &file, err));
    const struct dm_tensor_view *view = find_images(file, name);
    demist_status status = DEMIST_OK;
    if (!view)
        status =
            dm_fail(err, DEMIST_NOT_FOUND,
                    "%s: it has several tensors, and none is called %s, x_0 or arr_0", path, name);
    if (status == DEMIST_OK)
        status = read_images(path, view, data, err);
    if (status == DEMIST_OK)
        status = read_labels(path, file, data, err);
    dm_checkpoint_close(file);
    return status;
}

/* ---------------------------------------------------------------- both */

static bool is_picture(const char *path)
{
    static const uint8_t signature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    uint8_t start[sizeof signature];
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(start, 1, sizeof start, file) : 0;
    if (file)
        fclose(file);
    return n == sizeof start && memcmp(start, signature, n) == 0;
}

demist_status dm_image_data_read(const char *path, const char *name, struct dm_image_data *data,
                                 struct dm_error *err)
{
    struct stat info;
    *data = (struct dm_image_data){0};
    if (stat(path, &info) != 0)
        return fail_path(path, err);
    demist_status status;
    if (S_ISDIR(info.st_mode))
        status = read_folder(path, data, err);
    else if (S_ISREG(info.st_mode) && is_picture(path))
        status = add_picture(data, path, err);
    else
        status = read_tensors(path, name, data, err);
    if (status != DEMIST_OK)
        dm_image_data_finish(data);
    return status;
}

void dm_image_data_finish(struct dm_image_data *data)
{
    free(data->x);
    free(data->labels);
    *data = (struct dm_image_data){0};
}

/* Keeps the first of three equal channels; false when they differ. */
static bool drop_colour(struct dm_image_data *data)
{
    int64_t pixels = data->shape[1] * data->shape[2];
    for (int64_t i = 0; i < data->n; i++)
        for (int64_t p = 0; p < pixels; p++) {
            const float *x = data->x + 3 * i * pixels + p;
            if (x[0] != x[pixels] || x[0] != x[2 * pixels])
                return false;
        }
    for (int64_t i = 1; i < data->n; i++)
        memmove(data->x + i * pixels, data->x + 3 * i * pixels, (size_t)pixels * sizeof *data->x);
    data->shape[0] = 1;
    return true;
}

static void append_shape(struct dm_text *text, int rank, const int64_t *shape)
{
    for (int i = 0; i < rank; i++)
        dm_text_appendf(text, "%s%lld", i ? "," : "[", (long long)shape[i]);
    dm_text_append(text, "]");
}

demist_status dm_image_data_fit(struct dm_image_data *data, int rank, const int64_t *shape,
                                const char *path, struct dm_error *err)
{
    if (rank == 3 && data->rank == 3 && shape[0] == 1 && data->shape[0] == 3 &&
        shape[1] == data->shape[1] && shape[2] == data->shape[2] && drop_colour(data))
        return DEMIST_OK;
    bool same = rank == data->rank;
    for (int i = 0; same && i < rank; i++)
        same = shape[i] == data->shape[i];
    if (same)
        return DEMIST_OK;
    struct dm_text text = DM_TEXT_INIT;
    append_shape(&text, data->rank, data->shape);
    dm_text_append(&text, ", and the network takes ");
    append_shape(&text, rank, shape);
    dm_fail(err, DEMIST_INCOMPATIBLE, "%s: each has the shape %s", path,
            text.failed ? "?" : text.data);
    dm_text_finish(&text);
    return DEMIST_INCOMPATIBLE;
}

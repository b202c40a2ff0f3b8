#include "dataset.h"

#include "fileio.h"
#include "picture.h"
#include "resample.h"
#include "tensorbuild.h"
#include "text.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

/* Folders in folders; a link that leads upwards must end somewhere. */
enum { MAX_DEPTH = 32 };
#define MAX_INFLATED ((size_t)8 << 30)
#define MAX_CIFAR ((size_t)4 << 30)

struct dm_dataset {
    char *path;
    const char *name; /* of the tensor looked for first; NULL: none */
    bool exact;       /* pictures are not resized */
    int rank;
    int64_t shape[DM_MAX_RANK]; /* of one datum */
    int64_t n, elements;
    int64_t *labels; /* [n]; NULL: there are none */
    int64_t name_classes;

    char **files; /* [n]: pictures */
    size_t capacity;
    struct dm_checkpoint *file; /* tensors: */
    const struct dm_tensor_view *view;
    uint8_t *bytes; /* idx and CIFAR: datum i, channel by channel, is at first + i·record */
    size_t first, record;
};

static demist_status fail_path(const char *path, struct dm_error *err)
{
    bool absent = errno == ENOENT || errno == ENOTDIR;
    return dm_fail(err, absent ? DEMIST_NOT_FOUND : DEMIST_IO, "cannot read \"%s\": %s", path,
                   strerror(errno));
}

static float level(uint8_t byte)
{
    return (float)byte / 127.5F - 1;
}

/* "3×32×32" */
static void append_shape(struct dm_text *text, int rank, const int64_t *shape)
{
    for (int i = 0; i < rank; i++)
        dm_text_appendf(text, "%s%lld", i ? "×" : "", (long long)shape[i]);
}

/* INCOMPATIBLE unless one datum of the file has the shape that is wanted. */
static demist_status check_shape(const struct dm_dataset *d, int rank, const int64_t *shape,
                                 struct dm_error *err)
{
    if (rank == 0)
        return DEMIST_OK;
    bool same = rank == d->rank;
    for (int i = 0; same && i < rank; i++)
        same = shape[i] == d->shape[i];
    if (same)
        return DEMIST_OK;
    struct dm_text text = DM_TEXT_INIT;
    append_shape(&text, d->rank, d->shape);
    dm_text_append(&text, ", and the network takes ");
    append_shape(&text, rank, shape);
    dm_fail(err, DEMIST_INCOMPATIBLE,
            "%s: each datum is %s%s: check that data and network belong together", d->path,
            text.failed ? "?" : text.data, d->exact ? "" : "; only pictures are resized");
    dm_text_finish(&text);
    return DEMIST_INCOMPATIBLE;
}

/* ---------------------------------------------------------------- pictures */

static demist_status add_file(struct dm_dataset *d, const char *path, struct dm_error *err)
{
    if (!dm_grow(&d->files, (size_t)d->n, &d->capacity, sizeof *d->files))
        return dm_fail_memory(err, "the names of pictures");
    d->files[d->n] = strdup(path);
    if (!d->files[d->n])
        return dm_fail_memory(err, "the names of pictures");
    d->n++;
    return DEMIST_OK;
}

static int visible(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static demist_status add_folder(struct dm_dataset *d, const char *path, int depth,
                                struct dm_error *err);

static demist_status add_entry(struct dm_dataset *d, const char *path, const char *name, int depth,
                               struct dm_error *err)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return dm_is_picture_name(name) ? fail_path(path, err) : DEMIST_OK;
    if (S_ISDIR(info.st_mode))
        return add_folder(d, path, depth + 1, err);
    return dm_is_picture_name(name) ? add_file(d, path, err) : DEMIST_OK;
}

static demist_status add_folder(struct dm_dataset *d, const char *path, int depth,
                                struct dm_error *err)
{
    if (depth > MAX_DEPTH)
        return dm_fail(err, DEMIST_IO,
                       "%s: more than %d folders deep; does a link lead back to a folder above?",
                       path, MAX_DEPTH);
    struct dirent **entries;
    int n = scandir(path, &entries, visible, by_name);
    if (n < 0)
        return fail_path(path, err);
    demist_status status = DEMIST_OK;
    for (int i = 0; i < n; i++) {
        struct dm_text file = DM_TEXT_INIT;
        bool slash = path[strlen(path) - 1] == '/';
        dm_text_appendf(&file, "%s%s%s", path, slash ? "" : "/", entries[i]->d_name);
        if (status == DEMIST_OK)
            status = file.failed ? dm_fail_memory(err, "a path")
                                 : add_entry(d, file.data, entries[i]->d_name, depth, err);
        dm_text_finish(&file);
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* The part of a file's name that tells its class. */
struct name {
    const char *text;
    size_t length;
    int64_t index;
};

static struct name class_name(const char *path, int64_t index)
{
    const char *slash = strrchr(path, '/'), *text = slash ? slash + 1 : path;
    return (struct name){text, strcspn(text, "_"), index};
}

static int by_class(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    size_t n = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->text, y->text, n);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

static demist_status class_by_names(struct dm_dataset *d, struct dm_error *err)
{
    struct name *names = malloc((size_t)d->n * sizeof *names);
    d->labels = malloc((size_t)d->n * sizeof *d->labels);
    if (!names || !d->labels) {
        free(names);
        return dm_fail_memory(err, "classes");
    }
    for (int64_t i = 0; i < d->n; i++)
        names[i] = class_name(d->files[i], i);
    qsort(names, (size_t)d->n, sizeof *names, by_class);
    for (int64_t i = 0; i < d->n; i++) {
        d->name_classes += i == 0 || by_class(&names[i - 1], &names[i]) != 0;
        d->labels[names[i].index] = d->name_classes - 1;
    }
    free(names);
    return DEMIST_OK;
}

/* Of data that are taken as they are. */
static demist_status shape_of_first(struct dm_dataset *d, struct dm_error *err)
{
    struct dm_image image;
    DM_TRY(dm_picture_read(&image, d->files[0], err));
    d->shape[0] = 3;
    d->shape[1] = image.height;
    d->shape[2] = image.width;
    dm_image_finish(&image);
    return DEMIST_OK;
}

static demist_status open_pictures(struct dm_dataset *d, bool folder, int rank,
                                   const int64_t *shape, struct dm_error *err)
{
    if (rank != 0 && (rank != 3 || (shape[0] != 1 && shape[0] != 3)))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: pictures have 1 or 3 channels, and the network does not take such: "
                       "give its data as tensors (.npy, .npz, .safetensors)",
                       d->path);
    d->rank = 3;
    DM_TRY(folder ? add_folder(d, d->path, 0, err) : add_file(d, d->path, err));
    if (d->n == 0)
        return dm_fail(err, DEMIST_NOT_FOUND,
                       "%s: neither the folder nor those below it have pictures (.png, .jpg, "
                       ".jpeg, .gif)",
                       d->path);
    if (rank == 0)
        DM_TRY(shape_of_first(d, err));
    else
        memcpy(d->shape, shape, 3 * sizeof *shape);
    return class_by_names(d, err);
}

/* A picture of the size that the data are to have. */
static demist_status load_picture(const struct dm_dataset *d, const char *path,
                                  struct dm_image *out, struct dm_error *err)
{
    struct dm_image image;
    int64_t height = d->shape[1], width = d->shape[2];
    DM_TRY(dm_picture_read(&image, path, err));
    if (d->exact && image.width == width && image.height == height) {
        *out = image;
        return DEMIST_OK;
    }
    demist_status status =
        d->exact
            ? dm_fail(err, DEMIST_INCOMPATIBLE,
                      "%d×%d pixels, where %lld×%lld are wanted; pictures are not resized here",
                      image.width, image.height, (long long)width, (long long)height)
            : dm_image_fit(out, &image, (int)width, (int)height, err);
    dm_image_finish(&image);
    if (status != DEMIST_OK)
        dm_fail_where(err, "%s", path);
    return status;
}

static demist_status read_picture(const struct dm_dataset *d, const char *path, float *x,
                                  struct dm_error *err)
{
    struct dm_image fitted = DM_IMAGE_INIT;
    DM_TRY(load_picture(d, path, &fitted, err));
    demist_status status = DEMIST_OK;
    int64_t pixels = d->shape[1] * d->shape[2];
    for (int64_t p = 0; status == DEMIST_OK && p < pixels; p++) {
        const uint8_t *rgb = fitted.pixels + 3 * p;
        for (int64_t c = 0; c < d->shape[0]; c++)
            x[c * pixels + p] = level(rgb[c]);
        if (d->shape[0] == 1 && (rgb[0] != rgb[1] || rgb[0] != rgb[2]))
            status = dm_fail(err, DEMIST_INCOMPATIBLE,
                             "%s: a picture in colour, and the network takes gray ones", path);
    }
    dm_image_finish(&fitted);
    return status;
}

/* ---------------------------------------------------------------- tensors */

static const struct dm_tensor_view *find_one_of(const struct dm_checkpoint *file,
                                                const char *const *names)
{
    const struct dm_tensor_view *view = NULL;
    for (; *names && !view; names++)
        view = dm_checkpoint_find(file, *names);
    return view;
}

static demist_status open_tensors(struct dm_dataset *d, struct dm_error *err)
{
    static const char *const images[] = {"x_0", "arr_0", "x", NULL}, *const labels[] = {
                                                                         "y", "arr_1", NULL};
    DM_TRY(dm_checkpoint_open(d->path, &d->file, err));
    const struct dm_tensor_view *x = d->name ? dm_checkpoint_find(d->file, d->name) : NULL;
    if (!x)
        x = find_one_of(d->file, images);
    if (!x && dm_checkpoint_count(d->file) == 1)
        x = dm_checkpoint_at(d->file, 0);
    if (!x)
        return dm_fail(err, DEMIST_NOT_FOUND,
                       "%s: it has several tensors, and none is called %s%sx_0, arr_0 or x",
                       d->path, d->name ? d->name : "", d->name ? ", " : "");
    bool bytes = x->dtype == DEMIST_U8, plane = bytes && x->rank == 3;
    if (dm_tensor_elements(x) == 0 || (bytes ? x->rank < 3 || x->rank > 4 : x->rank < 2))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s must be N×H×W×C bytes, or floats with one datum a row, and "
                       "not empty",
                       d->path, x->name);
    d->view = x;
    d->n = x->shape[0];
    d->rank = plane ? 3 : x->rank - 1;
    for (int i = 0; i < d->rank; i++)
        d->shape[i] = plane ? (i ? x->shape[i] : 1) : x->shape[bytes ? 1 + (i + 2) % 3 : 1 + i];
    const struct dm_tensor_view *y = find_one_of(d->file, labels);
    if (!y)
        return DEMIST_OK;
    if (y->rank != 1 || y->shape[0] != d->n)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s must hold %lld labels, one for each datum", d->path, y->name,
                       (long long)d->n);
    d->labels = malloc((size_t)d->n * sizeof *d->labels);
    if (!d->labels)
        return dm_fail_memory(err, "labels");
    return dm_tensor_to_i64(y, d->labels, err) == DEMIST_OK ? DEMIST_OK
                                                            : dm_fail_where(err, "%s", d->path);
}

static demist_status read_tensor(const struct dm_dataset *d, int64_t first, int64_t n, float *x,
                                 struct dm_error *err)
{
    struct dm_tensor_view rows = *d->view;
    size_t row = rows.bytes / (size_t)d->n;
    rows.data = (const uint8_t *)rows.data + (size_t)first * row;
    rows.bytes = (size_t)n * row;
    rows.shape[0] = n;
    if (rows.dtype != DEMIST_U8)
        return dm_tensor_to_f32(&rows, x, err);
    const uint8_t *bytes = rows.data;
    int64_t channels = d->shape[0], pixels = d->elements / channels;
    for (int64_t i = 0; i < n; i++)
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < channels; c++)
                x[i * d->elements + c * pixels + p] =
                    level(bytes[i * d->elements + p * channels + c]);
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- idx and CIFAR */

/* All of a file, gzipped or not. */
static demist_status inflate_file(const char *path, uint8_t **data, size_t *size,
                                  struct dm_error *err)
{
    static const size_t piece = 1 << 16;
    struct dm_text text = DM_TEXT_INIT;
    gzFile file = gzopen(path, "rb");
    if (!file)
        return fail_path(path, err);
    uint8_t *buffer = malloc(piece);
    int n = 1, error = 0;
    while (buffer && n > 0 && !text.failed && text.size <= MAX_INFLATED) {
        n = gzread(file, buffer, (unsigned)piece);
        if (n > 0)
            dm_text_append_bytes(&text, buffer, (size_t)n);
    }
    const char *message = gzerror(file, &error);
    demist_status status = DEMIST_OK;
    if (!buffer || text.failed)
        status = dm_fail_memory(err, path);
    else if (text.size > MAX_INFLATED)
        status = dm_fail(err, DEMIST_FORMAT, "%s: more than %zu bytes", path, MAX_INFLATED);
    else if (n < 0 || (error != Z_OK && error != Z_STREAM_END))
        status = dm_fail(err, DEMIST_FORMAT, "%s: damaged or truncated: %s", path,
                         error == Z_ERRNO ? strerror(errno) : message);
    gzclose(file);
    free(buffer);
    if (status != DEMIST_OK)
        dm_text_finish(&text);
    *size = text.size;
    *data = (uint8_t *)text.data;
    return status;
}

static uint32_t big_endian(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Checks an idx file of bytes with `rank` dimensions, which follow its magic number. */
static demist_status check_idx(const char *path, const uint8_t *data, size_t size, unsigned rank,
                               size_t dims[3], struct dm_error *err)
{
    size_t want = 1;
    bool ok = size >= 4 + 4 * (size_t)rank && big_endian(data) == (0x800 | rank);
    for (unsigned i = 0; ok && i < rank; i++) {
        dims[i] = big_endian(data + 4 + 4 * i);
        ok = dims[i] > 0 && dm_mul_size(want, dims[i], &want);
    }
    if (!ok)
        return dm_fail(err, DEMIST_FORMAT,
                       "%s: not an idx file of bytes with %u dimensions (MNIST's %s)", path, rank,
                       rank == 3 ? "images-idx3-ubyte" : "labels-idx1-ubyte");
    if (size != 4 + 4 * (size_t)rank + want)
        return dm_fail(err, DEMIST_FORMAT, "%s: its header claims %zu bytes of data, it has %zu",
                       path, want, size - 4 - 4 * (size_t)rank);
    return DEMIST_OK;
}

/* "…/t10k-images-idx3-ubyte.gz" -> "…/t10k-labels-idx1-ubyte.gz", for free(); NULL: no such name.
 */
static char *labels_path(const char *path)
{
    const char *slash = strrchr(path, '/'), *at = strstr(slash ? slash : path, "images-idx3");
    char *out = at ? strdup(path) : NULL;
    static const char labels[] = {'l', 'a', 'b', 'e', 'l', 's', '-', 'i', 'd', 'x', '1'};
    if (out) /* as long as "images-idx3" */
        memcpy(out + (at - path), labels, sizeof labels);
    return out;
}

static demist_status open_idx_labels(struct dm_dataset *d, struct dm_error *err)
{
    char *path = labels_path(d->path);
    struct stat info;
    uint8_t *data = NULL;
    size_t size = 0, dims[3] = {0};
    demist_status status = DEMIST_OK;
    if (!path || stat(path, &info) != 0) {
        free(path);
        return DEMIST_OK;
    }
    status = inflate_file(path, &data, &size, err);
    if (status == DEMIST_OK)
        status = check_idx(path, data, size, 1, dims, err);
    if (status == DEMIST_OK && dims[0] != (size_t)d->n)
        status = dm_fail(err, DEMIST_INCOMPATIBLE, "%s: %zu labels for the %lld images of %s", path,
                         dims[0], (long long)d->n, d->path);
    if (status == DEMIST_OK) {
        d->labels = malloc(dims[0] * sizeof *d->labels);
        if (!d->labels)
            status = dm_fail_memory(err, "labels");
        for (size_t i = 0; d->labels && i < dims[0]; i++)
            d->labels[i] = data[8 + i];
    }
    free(data);
    free(path);
    return status;
}

static demist_status open_idx(struct dm_dataset *d, struct dm_error *err)
{
    size_t size = 0, dims[3] = {0};
    DM_TRY(inflate_file(d->path, &d->bytes, &size, err));
    DM_TRY(check_idx(d->path, d->bytes, size, 3, dims, err));
    d->n = (int64_t)dims[0];
    d->rank = 3;
    d->shape[0] = 1;
    d->shape[1] = (int64_t)dims[1];
    d->shape[2] = (int64_t)dims[2];
    d->first = 16;
    d->record = dims[1] * dims[2];
    return open_idx_labels(d, err);
}

enum { CIFAR_PIXELS = 3 * 32 * 32 };

/* Whether the bytes are records of that many labels, each below its number of classes. */
static bool are_cifar(const uint8_t *data, size_t size, size_t labels, const uint8_t *classes)
{
    size_t record = labels + CIFAR_PIXELS;
    if (size == 0 || size % record != 0)
        return false;
    for (size_t at = 0; at < size; at += record)
        for (size_t i = 0; i < labels; i++)
            if (data[at + i] >= classes[i])
                return false;
    return true;
}

static demist_status open_cifar(struct dm_dataset *d, struct dm_error *err)
{
    static const uint8_t ten[] = {10}, hundred[] = {20, 100};
    char *text;
    size_t size, labels = 1;
    DM_TRY(dm_read_file(d->path, MAX_CIFAR, &text, &size, err));
    d->bytes = (uint8_t *)text;
    if (!are_cifar(d->bytes, size, 1, ten)) {
        labels = 2;
        if (!are_cifar(d->bytes, size, 2, hundred))
            return dm_fail(err, DEMIST_FORMAT,
                           "%s: not a file of CIFAR-10 or CIFAR-100: those are records of one or "
                           "two labels and 3072 bytes",
                           d->path);
    }
    d->first = labels;
    d->record = labels + CIFAR_PIXELS;
    d->n = (int64_t)(size / d->record);
    d->rank = 3;
    d->shape[0] = 3;
    d->shape[1] = d->shape[2] = 32;
    d->labels = malloc((size_t)d->n * sizeof *d->labels);
    if (!d->labels)
        return dm_fail_memory(err, "labels");
    for (int64_t i = 0; i < d->n; i++)
        d->labels[i] = d->bytes[(size_t)i * d->record + labels - 1];
    return DEMIST_OK;
}

static void read_bytes(const struct dm_dataset *d, int64_t first, int64_t n, float *x)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < d->elements; k++)
            x[i * d->elements + k] =
                level(d->bytes[d->first + (size_t)(first + i) * d->record + (size_t)k]);
}

/* ---------------------------------------------------------------- all of them */

static demist_status open_file(struct dm_dataset *d, int rank, const int64_t *shape,
                               struct dm_error *err)
{
    uint8_t start[8] = {0};
    FILE *file = fopen(d->path, "rb");
    if (!file)
        return fail_path(d->path, err);
    size_t n = fread(start, 1, sizeof start, file);
    fclose(file);
    const char *dot = strrchr(d->path, '.');
    if (dm_is_picture(start, n) || dm_is_picture_name(d->path))
        return open_pictures(d, false, rank, shape, err);
    if ((start[0] == 0x1f && start[1] == 0x8b) || (n >= 4 && big_endian(start) == 0x803))
        return open_idx(d, err);
    if (dot && strcmp(dot, ".bin") == 0)
        return open_cifar(d, err);
    return open_tensors(d, err);
}

static demist_status open_data(struct dm_dataset *d, int rank, const int64_t *shape,
                               struct dm_error *err)
{
    struct stat info;
    if (stat(d->path, &info) != 0)
        return fail_path(d->path, err);
    DM_TRY(S_ISDIR(info.st_mode) ? open_pictures(d, true, rank, shape, err)
                                 : open_file(d, rank, shape, err));
    d->elements = 1;
    for (int i = 0; i < d->rank; i++)
        d->elements *= d->shape[i];
    return check_shape(d, rank, shape, err);
}

static demist_status open_as(const struct dm_dataset *how, const char *path, int rank,
                             const int64_t *shape, struct dm_dataset **out, struct dm_error *err)
{
    if (!path[0])
        return dm_fail(err, DEMIST_NOT_FOUND, "the path of the data is empty");
    struct dm_dataset *d = malloc(sizeof *d);
    if (!d)
        return dm_fail_memory(err, "a data set");
    *d = *how;
    d->path = strdup(path);
    demist_status status =
        d->path ? open_data(d, rank, shape, err) : dm_fail_memory(err, "a data set");
    if (status != DEMIST_OK)
        dm_dataset_close(d);
    else
        *out = d;
    return status;
}

demist_status dm_dataset_open(const char *path, int rank, const int64_t *shape,
                              struct dm_dataset **out, struct dm_error *err)
{
    return open_as(&(struct dm_dataset){0}, path, rank, shape, out, err);
}

demist_status dm_dataset_open_exact(const char *path, const char *name, int rank,
                                    const int64_t *shape, struct dm_dataset **out,
                                    struct dm_error *err)
{
    return open_as(&(struct dm_dataset){.exact = true, .name = name}, path, rank, shape, out, err);
}

void dm_dataset_close(struct dm_dataset *d)
{
    if (!d)
        return;
    for (int64_t i = 0; d->files && i < d->n; i++)
        free(d->files[i]);
    dm_checkpoint_close(d->file);
    free(d->files);
    free(d->bytes);
    free(d->labels);
    free(d->path);
    free(d);
}

int64_t dm_dataset_count(const struct dm_dataset *d)
{
    return d->n;
}

int dm_dataset_shape(const struct dm_dataset *d, int64_t shape[3])
{
    for (int i = 0; i < 3; i++)
        shape[i] = i < d->rank ? d->shape[i] : 0;
    return d->rank;
}

int64_t dm_dataset_name_classes(const struct dm_dataset *d)
{
    return d->name_classes;
}

const int64_t *dm_dataset_labels(const struct dm_dataset *d)
{
    return d->labels;
}

bool dm_dataset_tells_classes(const struct dm_dataset *d, int64_t n_classes)
{
    return d->labels && (d->name_classes == 0 || d->name_classes == n_classes);
}

demist_status dm_dataset_check_labels(const struct dm_dataset *d, int64_t n_classes,
                                      struct dm_error *err)
{
    if (!d->labels)
        return dm_fail(err, DEMIST_NOT_FOUND,
                       "%s: the data have no labels, and the network is class-conditional (%lld "
                       "classes): give them as tensor y (.safetensors), as arr_1 (.npz), in "
                       "labels-idx1 beside images-idx3, or as file names CLASS_NAME.png",
                       d->path, (long long)n_classes);
    if (d->name_classes > n_classes)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: the file names up to their first \"_\" make %lld classes, and the "
                       "network has %lld: name the files CLASS_NAME.png",
                       d->path, (long long)d->name_classes, (long long)n_classes);
    for (int64_t i = 0; i < d->n; i++)
        if (d->labels[i] < 0 || d->labels[i] >= n_classes)
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "%s: label %lld of image %lld is no class: there are 0 … %lld", d->path,
                           (long long)d->labels[i], (long long)i, (long long)n_classes - 1);
    return DEMIST_OK;
}

demist_status dm_dataset_read(struct dm_dataset *d, int64_t first, int64_t n, float *x,
                              int64_t *labels, struct dm_error *err)
{
    if (labels)
        memcpy(labels, d->labels + first, (size_t)n * sizeof *labels);
    if (d->view && read_tensor(d, first, n, x, err) != DEMIST_OK)
        return dm_fail_where(err, "%s", d->path);
    if (d->bytes)
        read_bytes(d, first, n, x);
    for (int64_t i = 0; d->files && i < n; i++)
        DM_TRY(read_picture(d, d->files[first + i], x + i * d->elements, err));
    return DEMIST_OK;
}

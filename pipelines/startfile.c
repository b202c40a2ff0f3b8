#include "startfile.h"

#include "dataset.h"
#include "tensorfile.h"

#include <stdlib.h>
#include <string.h>

struct dm_start_file {
    const char *path;
    const demist_network_info *info;
    int64_t elements;
    struct dm_dataset *data; /* to encode; else: */
    struct dm_checkpoint *file;
    const struct dm_tensor_view *x_T;
};

/* ---------------------------------------------------------------- x_T */

static demist_status open_noise(struct dm_start_file *s, struct dm_error *err)
{
    DM_TRY(dm_checkpoint_open(s->path, &s->file, err));
    s->x_T = dm_checkpoint_find(s->file, "x_T");
    if (!s->x_T && dm_checkpoint_count(s->file) == 1)
        s->x_T = dm_checkpoint_at(s->file, 0);
    if (!s->x_T)
        return dm_fail(err, DEMIST_NOT_FOUND,
                       "%s: it has several tensors, and none is called x_T (data are encoded with "
                       "direction = encode)",
                       s->path);
    if (s->x_T->dtype == DEMIST_U8)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s holds bytes, which are pictures and no noise: to turn them "
                       "into noise set direction = encode",
                       s->path, s->x_T->name);
    bool fits = s->x_T->rank == s->info->rank + 1;
    for (int32_t i = 0; fits && i < s->info->rank; i++)
        fits = s->x_T->shape[i + 1] == s->info->shape[i];
    if (!fits)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s does not have the shape [images, …] of this network's data",
                       s->path, s->x_T->name);
    return DEMIST_OK;
}

static demist_status read_noise(const struct dm_start_file *s, int64_t first, int64_t n, float *x,
                                struct dm_error *err)
{
    struct dm_tensor_view rows = *s->x_T;
    size_t row = rows.bytes / (size_t)rows.shape[0];
    rows.data = (const uint8_t *)rows.data + (size_t)first * row;
    rows.bytes = (size_t)n * row;
    rows.shape[0] = n;
    return dm_tensor_to_f32(&rows, x, err);
}

static demist_status noise_labels(const struct dm_start_file *s, int64_t **labels, size_t *n,
                                  struct dm_error *err)
{
    const struct dm_tensor_view *y = dm_checkpoint_find(s->file, "y");
    if (!y)
        y = dm_checkpoint_find(s->file, "arr_1");
    if (!y)
        return DEMIST_OK;
    if (y->rank != 1 || y->shape[0] != s->x_T->shape[0])
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensor %s must hold %lld labels, one for each image", s->path, y->name,
                       (long long)s->x_T->shape[0]);
    *n = (size_t)y->shape[0];
    *labels = malloc(*n * sizeof **labels + 1);
    return *labels ? dm_tensor_to_i64(y, *labels, err) : dm_fail_memory(err, "labels");
}

/* ---------------------------------------------------------------- data */

/* Pictures are in range; floats are taken as they are, and 0 … 255 is a common mistake. */
static demist_status check_range(const struct dm_start_file *s, int64_t first, int64_t n,
                                 const float *x, struct dm_error *err)
{
    double low = s->info->clip_low, high = s->info->clip_high, slack = 1e-4 * (high - low);
    bool known = s->info->rank == 3 && low < high;
    for (int64_t i = 0; known && i < n * s->elements; i++)
        if (!((double)x[i] >= low - slack && (double)x[i] <= high + slack))
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "%s: image %lld holds the value %g; images are in [%g, %g], or bytes",
                           s->path, (long long)(first + i / s->elements), (double)x[i], low, high);
    return DEMIST_OK;
}

/* Names that make other classes than the network has tell nothing: a few pictures are numbered from
 * 0 whatever they show. */
static demist_status data_labels(const struct dm_start_file *s, int64_t n_classes, int64_t **labels,
                                 size_t *n, struct dm_error *err)
{
    const int64_t *given = dm_dataset_labels(s->data);
    if (!given || !dm_dataset_tells_classes(s->data, n_classes))
        return DEMIST_OK;
    *n = (size_t)dm_dataset_count(s->data);
    *labels = malloc(*n * sizeof **labels);
    if (!*labels)
        return dm_fail_memory(err, "labels");
    memcpy(*labels, given, *n * sizeof **labels);
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- both */

static demist_status open_start(struct dm_start_file *s, const struct dm_run_config *c,
                                struct dm_error *err)
{
    if (c->sample.encode)
        DM_TRY(dm_dataset_open(s->path, s->info->rank, s->info->shape, &s->data, err));
    else
        DM_TRY(open_noise(s, err));
    int64_t n = s->data ? dm_dataset_count(s->data) : s->x_T->shape[0];
    if (n - c->sample.images < c->sample.first)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: it holds %lld images, and this run goes up to image %lld: lower "
                       "[sample] images",
                       s->path, (long long)n, (long long)(c->sample.first + c->sample.images - 1));
    return DEMIST_OK;
}

demist_status dm_start_file_open(const struct dm_run_config *config,
                                 const struct dm_network *network, struct dm_start_file **start,
                                 struct dm_error *err)
{
    struct dm_start_file *s = calloc(1, sizeof *s);
    if (!s)
        return dm_fail_memory(err, "start_file");
    *s = (struct dm_start_file){
        .path = config->sample.start_file, .info = &network->info, .elements = network->n_elements};
    demist_status status = open_start(s, config, err);
    if (status == DEMIST_OK)
        *start = s;
    else
        dm_start_file_close(s);
    return status;
}

void dm_start_file_close(struct dm_start_file *s)
{
    if (!s)
        return;
    dm_dataset_close(s->data);
    dm_checkpoint_close(s->file);
    free(s);
}

demist_status dm_start_file_read(struct dm_start_file *s, int64_t first, int64_t n, float *x,
                                 struct dm_error *err)
{
    if (!s->data)
        return read_noise(s, first, n, x, err);
    DM_TRY(dm_dataset_read(s->data, first, n, x, NULL, err));
    return check_range(s, first, n, x, err);
}

demist_status dm_start_file_labels(const struct dm_start_file *s, int64_t n_classes,
                                   int64_t **labels, size_t *n, struct dm_error *err)
{
    *labels = NULL;
    *n = 0;
    demist_status status =
        s->data ? data_labels(s, n_classes, labels, n, err) : noise_labels(s, labels, n, err);
    for (size_t i = 0; status == DEMIST_OK && i < *n; i++)
        if ((*labels)[i] < 0 || (*labels)[i] >= n_classes)
            status = dm_fail(err, DEMIST_INCOMPATIBLE,
                             "%s: label %lld of image %zu is no class, there are 0 … %lld: name "
                             "classes in [sample] labels",
                             s->path, (long long)(*labels)[i], i, (long long)n_classes - 1);
    if (status != DEMIST_OK) {
        free(*labels);
        *labels = NULL;
        *n = 0;
    }
    return status;
}

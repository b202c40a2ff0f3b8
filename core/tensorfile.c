#include "tensorfile.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "halffloat.h"
#include "npy.h"
#include "safetensors.h"
#include "tensorbuild.h"
#include "torchfile.h"
#include "ziparchive.h"

/* Which reader a file belongs to is told by its first nine bytes. A safetensors header always
 * begins with '{' after its length, which no pickle and no zip has there. */
static demist_status load(struct dm_checkpoint *ckpt, const struct dm_input *input,
                          struct dm_error *err)
{
    uint8_t magic[9] = {0};
    size_t n = input->size < sizeof magic ? (size_t)input->size : sizeof magic;
    DM_TRY(dm_input_read(input, 0, magic, n, err));
    if (magic[8] == '{')
        return dm_safetensors_load(ckpt, input, err);
    if (memcmp(magic, "PK\3\4", 4) == 0)
        return dm_zip_load(ckpt, input, err);
    if (memcmp(magic, "\x93NUMPY", 6) == 0)
        return dm_npy_load(ckpt, input, err);
    if (magic[0] == 0x80 && magic[1] >= 2 && magic[1] <= 5)
        return dm_torch_load_legacy(ckpt, input, err);
    return dm_fail(err, DEMIST_FORMAT,
                   n ? "not a tensor file: neither safetensors nor PyTorch, .npy or .npz"
                     : "the file is empty");
}

static demist_status open_input(const char *name, const struct dm_input *input, bool late,
                                struct dm_checkpoint **out, struct dm_error *err)
{
    *out = NULL;
    struct dm_checkpoint *ckpt = calloc(1, sizeof *ckpt);
    if (!ckpt)
        return dm_fail_memory(err, "a checkpoint");
    ckpt->late = late;
    ckpt->file.fd = -1;
    demist_status status = load(ckpt, input, err);
    if (status == DEMIST_OK)
        status = dm_checkpoint_sort(ckpt, err);
    if (status != DEMIST_OK) {
        dm_checkpoint_close(ckpt);
        dm_fail_where(err, "%s", name);
        return status;
    }
    *out = ckpt;
    return DEMIST_OK;
}

static demist_status open_path(const char *path, bool late, struct dm_checkpoint **out,
                               struct dm_error *err)
{
    *out = NULL;
    /* O_NONBLOCK: a pipe without a writer must not hang the open that finds it is a pipe. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return dm_fail(err, errno == ENOENT || errno == ENOTDIR ? DEMIST_NOT_FOUND : DEMIST_IO,
                       "%s: cannot open: %s", path, strerror(errno));
    struct stat info;
    demist_status status;
    if (fstat(fd, &info) != 0)
        status = dm_fail(err, DEMIST_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = dm_fail(err, DEMIST_IO, "%s: not a regular file", path);
    else
        status =
            open_input(path, &(struct dm_input){NULL, fd, (uint64_t)info.st_size}, late, out, err);
    if (status == DEMIST_OK && (*out)->places) {
        (*out)->file = (struct dm_input){NULL, fd, (uint64_t)info.st_size};
        (*out)->change = info.st_mtim;
    } else {
        close(fd);
    }
    return status;
}

demist_status dm_checkpoint_open(const char *path, struct dm_checkpoint **out, struct dm_error *err)
{
    return open_path(path, false, out, err);
}

demist_status dm_checkpoint_open_late(const char *path, struct dm_checkpoint **out,
                                      struct dm_error *err)
{
    return open_path(path, true, out, err);
}

demist_status dm_checkpoint_open_memory(const char *name, const void *bytes, size_t size,
                                        struct dm_checkpoint **out, struct dm_error *err)
{
    return open_input(name, &(struct dm_input){bytes, -1, size}, false, out, err);
}

/* Asked after reading, so that the bytes are those of the file that was opened. Not the time of
 * the inode, which renaming changes. */
static demist_status check_unchanged(const struct dm_checkpoint *ckpt, struct dm_error *err)
{
    struct stat info;
    if (fstat(ckpt->file.fd, &info) != 0)
        return dm_fail(err, DEMIST_IO, "cannot read: %s", strerror(errno));
    if ((uint64_t)info.st_size != ckpt->file.size || info.st_mtim.tv_sec != ckpt->change.tv_sec ||
        info.st_mtim.tv_nsec != ckpt->change.tv_nsec)
        return dm_fail(err, DEMIST_IO,
                       "the file was changed after it was opened: start again, and write a new one "
                       "beside it and rename it");
    return DEMIST_OK;
}

demist_status dm_checkpoint_read(const struct dm_checkpoint *ckpt,
                                 const struct dm_tensor_view *view, void *to, struct dm_error *err)
{
    if (view->data) {
        if (view->bytes)
            memcpy(to, view->data, view->bytes);
        return DEMIST_OK;
    }
    assert(view >= ckpt->tensors && view < ckpt->tensors + ckpt->count);
    DM_TRY(dm_input_read(&ckpt->file, ckpt->places[view - ckpt->tensors], to, view->bytes, err));
    return check_unchanged(ckpt, err);
}

void dm_checkpoint_close(struct dm_checkpoint *ckpt)
{
    if (!ckpt)
        return;
    for (size_t i = 0; i < ckpt->n_blocks; i++)
        dm_free_aligned(ckpt->blocks[i]);
    if (ckpt->file.fd >= 0)
        close(ckpt->file.fd);
    free(ckpt->blocks);
    free(ckpt->tensors);
    free(ckpt->places);
    free(ckpt->metadata);
    dm_arena_finish(&ckpt->arena);
    free(ckpt);
}

size_t dm_checkpoint_count(const struct dm_checkpoint *ckpt)
{
    return ckpt->count;
}

const struct dm_tensor_view *dm_checkpoint_at(const struct dm_checkpoint *ckpt, size_t i)
{
    assert(i < ckpt->count);
    return &ckpt->tensors[i];
}

const struct dm_tensor_view *dm_checkpoint_find(const struct dm_checkpoint *ckpt, const char *name)
{
    size_t low = 0, high = ckpt->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, ckpt->by_name[middle]->name);
        if (order == 0)
            return ckpt->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *dm_checkpoint_metadata(const struct dm_checkpoint *ckpt, const char *key)
{
    for (size_t i = 0; i < ckpt->n_metadata; i++)
        if (strcmp(ckpt->metadata[i].key, key) == 0)
            return ckpt->metadata[i].value;
    return NULL;
}

size_t dm_checkpoint_metadata_count(const struct dm_checkpoint *ckpt)
{
    return ckpt->n_metadata;
}

const struct dm_metadata *dm_checkpoint_metadata_at(const struct dm_checkpoint *ckpt, size_t i)
{
    assert(i < ckpt->n_metadata);
    return &ckpt->metadata[i];
}

const char *dm_checkpoint_format(const struct dm_checkpoint *ckpt)
{
    return ckpt->format;
}

/* Dimensions of 0 are left out of the check of the range, so that strides computed from an empty
 * tensor's shape cannot overflow either. */
int dm_shape_elements(int rank, const int64_t *shape, int64_t *elements)
{
    int64_t product = 1;
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 0 || (shape[i] && __builtin_mul_overflow(product, shape[i], &product)))
            return 0;
        empty |= shape[i] == 0;
    }
    *elements = empty ? 0 : product;
    return 1;
}

size_t dm_tensor_elements(const struct dm_tensor_view *view)
{
    int64_t elements = 0;
    dm_shape_elements(view->rank, view->shape, &elements);
    return (size_t)elements;
}

static demist_status refuse_other(const struct dm_tensor_view *view, struct dm_error *err)
{
    return dm_fail(err, DEMIST_UNSUPPORTED,
                   "tensor \"%s\" has elements of type %s, which demist cannot use", view->name,
                   view->dtype_name);
}

/* Any byte but 0 is true, as in PyTorch and NumPy. */
static int truth(uint8_t byte)
{
    return byte != 0;
}

/* for (i < n) out[i] = convert(((const type *)data)[i]) */
#define EACH(dtype, type, convert)                                                                 \
    case DEMIST_##dtype: {                                                                         \
        const type *in = view->data;                                                               \
        for (size_t i = 0; i < n; i++)                                                             \
            out[i] = convert(in[i]);                                                               \
        return DEMIST_OK;                                                                          \
    }

#define EACH_FLOATING(to)                                                                          \
    EACH(F32, float, (to))                                                                         \
    EACH(F64, double, (to))                                                                        \
    EACH(F16, uint16_t, (to)dm_f16_to_f32)                                                         \
    EACH(BF16, uint16_t, (to)dm_bf16_to_f32)

#define EACH_INTEGER(to)                                                                           \
    EACH(I8, int8_t, (to))                                                                         \
    EACH(I16, int16_t, (to))                                                                       \
    EACH(I32, int32_t, (to))                                                                       \
    EACH(I64, int64_t, (to))                                                                       \
    EACH(U8, uint8_t, (to))                                                                        \
    EACH(U16, uint16_t, (to))                                                                      \
    EACH(U32, uint32_t, (to))                                                                      \
    EACH(BOOL, uint8_t, truth)

demist_status dm_tensor_to_f32(const struct dm_tensor_view *view, float *out, struct dm_error *err)
{
    size_t n = dm_tensor_elements(view);
    switch (view->dtype) {
        EACH_FLOATING(float)
        EACH_INTEGER(float)
        EACH(U64, uint64_t, (float))
    default:
        return refuse_other(view, err);
    }
}

demist_status dm_tensor_to_f64(const struct dm_tensor_view *view, double *out, struct dm_error *err)
{
    size_t n = dm_tensor_elements(view);
    switch (view->dtype) {
        EACH_FLOATING(double)
        EACH_INTEGER(double)
        EACH(U64, uint64_t, (double))
    default:
        return refuse_other(view, err);
    }
}

static demist_status not_whole(const struct dm_tensor_view *view, size_t i, struct dm_error *err)
{
    return dm_fail(err, DEMIST_INVALID,
                   "element %zu of tensor \"%s\" (%s) is not a whole number within 64 bits", i,
                   view->name, view->dtype_name);
}

static demist_status floats_to_i64(const struct dm_tensor_view *view, int64_t *out,
                                   struct dm_error *err)
{
    const void *data = view->data;
    size_t n = dm_tensor_elements(view);
    for (size_t i = 0; i < n; i++) {
        double x = view->dtype == DEMIST_F64   ? ((const double *)data)[i]
                   : view->dtype == DEMIST_F32 ? ((const float *)data)[i]
                   : view->dtype == DEMIST_F16 ? dm_f16_to_f32(((const uint16_t *)data)[i])
                                               : dm_bf16_to_f32(((const uint16_t *)data)[i]);
        if (!(x >= -0x1p63 && x < 0x1p63) || x != (double)(int64_t)x)
            return not_whole(view, i, err);
        out[i] = (int64_t)x;
    }
    return DEMIST_OK;
}

demist_status dm_tensor_to_i64(const struct dm_tensor_view *view, int64_t *out,
                               struct dm_error *err)
{
    size_t n = dm_tensor_elements(view);
    switch (view->dtype) {
        EACH_INTEGER(int64_t)
    case DEMIST_U64:
        for (size_t i = 0; i < n; i++) {
            uint64_t x = ((const uint64_t *)view->data)[i];
            if (x > INT64_MAX)
                return not_whole(view, i, err);
            out[i] = (int64_t)x;
        }
        return DEMIST_OK;
    case DEMIST_F32:
    case DEMIST_F64:
    case DEMIST_F16:
    case DEMIST_BF16:
        return floats_to_i64(view, out, err);
    default:
        return refuse_other(view, err);
    }
}

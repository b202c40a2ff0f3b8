#include "tensorbuild.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "utf8.h"

/* Views hand out file bytes as they are. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "checkpoints are little-endian; this code has no byte swapping"
#endif

/* All names and metadata of a file: far more than any real one has. */
#define MAX_TEXT ((size_t)64 << 20)

demist_status dm_input_read(const struct dm_input *input, uint64_t offset, void *to, size_t n,
                            struct dm_error *err)
{
    if (offset > input->size || n > input->size - offset)
        return dm_fail(err, DEMIST_FORMAT, "the file ends at byte %llu, before byte %llu + %zu",
                       (unsigned long long)input->size, (unsigned long long)offset, n);
    if (input->fd < 0) {
        if (n)
            memcpy(to, input->bytes + offset, n);
        return DEMIST_OK;
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(input->fd, (char *)to + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return dm_fail(err, DEMIST_IO, "cannot read: %s", strerror(errno));
        if (got == 0)
            return dm_fail(err, DEMIST_IO, "the file became shorter while it was read");
        done += (size_t)got;
    }
    return DEMIST_OK;
}

struct dm_element dm_element_of(demist_dtype dtype)
{
    return (struct dm_element){(int)dtype, (unsigned)demist_dtype_bytes(dtype),
                               demist_dtype_name(dtype)};
}

void *dm_checkpoint_alloc(struct dm_checkpoint *ckpt, size_t bytes, struct dm_error *err)
{
    void *data = NULL;
    if (dm_grow(&ckpt->blocks, ckpt->n_blocks, &ckpt->blocks_capacity, sizeof *ckpt->blocks))
        data = dm_alloc_aligned(bytes, 64);
    if (data)
        ckpt->blocks[ckpt->n_blocks++] = data;
    else
        dm_fail(err, DEMIST_NO_MEMORY, "out of memory: %zu bytes of tensors", bytes);
    return data;
}

bool dm_grow(void *array, size_t count, size_t *capacity, size_t element)
{
    if (count < *capacity)
        return true;
    void *old, *grown;
    size_t more = *capacity ? 2 * *capacity : 16, bytes;
    memcpy(&old, array, sizeof old);
    if (more < *capacity || !dm_mul_size(more, element, &bytes) || !(grown = realloc(old, bytes)))
        return false;
    memcpy(array, &grown, sizeof grown);
    *capacity = more;
    return true;
}

struct dm_printable dm_printable(const char *text, size_t length)
{
    struct dm_printable out;
    size_t room = sizeof out.text - 1, n = length < room ? length : room;
    for (size_t i = 0; i < n; i++)
        out.text[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    out.text[n] = '\0';
    if (n < length)
        memcpy(out.text + room - 3, "...", 3);
    return out;
}

bool dm_tensor_name_valid(const char *name, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return dm_utf8_check(name, length) == length;
}

static demist_status check_name(struct dm_checkpoint *ckpt, const char *name, size_t length,
                                struct dm_error *err)
{
    if (!dm_tensor_name_valid(name, length))
        return dm_fail(err, DEMIST_FORMAT, "the name \"%s\" has control characters or is not UTF-8",
                       dm_printable(name, length).text);
    if (length > MAX_TEXT - ckpt->text_bytes)
        return dm_fail(err, DEMIST_FORMAT, "names and metadata take more than %zu bytes", MAX_TEXT);
    ckpt->text_bytes += length;
    return DEMIST_OK;
}

static demist_status add(struct dm_checkpoint *ckpt, const char *name, size_t length,
                         struct dm_element element, int rank, const int64_t *shape,
                         const void *data, struct dm_error *err)
{
    assert(rank >= 0 && rank <= DM_MAX_RANK);
    DM_TRY(check_name(ckpt, name, length, err));
    if (!dm_grow(&ckpt->tensors, ckpt->count, &ckpt->capacity, sizeof *ckpt->tensors))
        return dm_fail_memory(err, "the list of tensors");
    struct dm_tensor_view view = {.dtype = element.dtype, .rank = rank, .data = data};
    view.name = dm_arena_strndup(&ckpt->arena, name, length);
    view.dtype_name = dm_arena_strndup(&ckpt->arena, element.name, strlen(element.name));
    if (!view.name || !view.dtype_name)
        return dm_fail_memory(err, "the names of tensors");
    int64_t elements = 0;
    dm_shape_elements(rank, shape, &elements);
    view.bytes = (size_t)elements * element.bytes;
    for (int i = 0; i < rank; i++)
        view.shape[i] = shape[i];
    ckpt->tensors[ckpt->count++] = view;
    return DEMIST_OK;
}

demist_status dm_checkpoint_add(struct dm_checkpoint *ckpt, const char *name, size_t length,
                                struct dm_element element, int rank, const int64_t *shape,
                                const void *data, struct dm_error *err)
{
    assert(data);
    return add(ckpt, name, length, element, rank, shape, data, err);
}

demist_status dm_checkpoint_add_late(struct dm_checkpoint *ckpt, const char *name, size_t length,
                                     struct dm_element element, int rank, const int64_t *shape,
                                     uint64_t at, struct dm_error *err)
{
    assert(ckpt->late);
    if (!dm_grow(&ckpt->places, ckpt->count, &ckpt->places_capacity, sizeof *ckpt->places))
        return dm_fail_memory(err, "the list of tensors");
    ckpt->places[ckpt->count] = at;
    return add(ckpt, name, length, element, rank, shape, NULL, err);
}

demist_status dm_checkpoint_add_metadata(struct dm_checkpoint *ckpt, const char *key,
                                         size_t key_length, const char *value, size_t value_length,
                                         struct dm_error *err)
{
    DM_TRY(check_name(ckpt, key, key_length, err));
    if (dm_utf8_check(value, value_length) < value_length || memchr(value, '\0', value_length))
        return dm_fail(err, DEMIST_FORMAT, "the metadata \"%s\" is not text",
                       dm_printable(key, key_length).text);
    if (value_length > MAX_TEXT - ckpt->text_bytes)
        return dm_fail(err, DEMIST_FORMAT, "names and metadata take more than %zu bytes", MAX_TEXT);
    ckpt->text_bytes += value_length;
    if (!dm_grow(&ckpt->metadata, ckpt->n_metadata, &ckpt->metadata_capacity,
                 sizeof *ckpt->metadata))
        return dm_fail_memory(err, "metadata");
    struct dm_metadata pair = {dm_arena_strndup(&ckpt->arena, key, key_length),
                               dm_arena_strndup(&ckpt->arena, value, value_length)};
    if (!pair.key || !pair.value)
        return dm_fail_memory(err, "metadata");
    ckpt->metadata[ckpt->n_metadata++] = pair;
    return DEMIST_OK;
}

static int compare_names(const void *a, const void *b)
{
    const struct dm_tensor_view *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

/* A sorted list, not a hash: nothing that a file contains can make it slow. */
demist_status dm_checkpoint_sort(struct dm_checkpoint *ckpt, struct dm_error *err)
{
    ckpt->by_name = dm_arena_array(&ckpt->arena, ckpt->count, sizeof *ckpt->by_name);
    if (!ckpt->by_name)
        return dm_fail_memory(err, "the index of tensors");
    for (size_t i = 0; i < ckpt->count; i++)
        ckpt->by_name[i] = &ckpt->tensors[i];
    qsort(ckpt->by_name, ckpt->count, sizeof(void *), compare_names);
    for (size_t i = 1; i < ckpt->count; i++)
        if (strcmp(ckpt->by_name[i - 1]->name, ckpt->by_name[i]->name) == 0)
            return dm_fail(err, DEMIST_FORMAT, "two tensors have the name \"%s\"",
                           ckpt->by_name[i]->name);
    return DEMIST_OK;
}

void dm_copy_strided(void *to, const void *from, size_t element, int rank, const int64_t *shape,
                     const int64_t *stride)
{
    int64_t index[DM_MAX_RANK] = {0};
    for (int i = 0; i < rank; i++)
        if (shape[i] == 0)
            return;
    int64_t run = rank ? shape[rank - 1] : 1, step = rank ? stride[rank - 1] : 0;
    char *out = to;
    for (int64_t offset = 0;;) {
        const char *in = (const char *)from + (size_t)offset * element;
        if (step == 1) {
            memcpy(out, in, (size_t)run * element);
            out += (size_t)run * element;
        } else {
            for (int64_t i = 0; i < run; i++, out += element)
                memcpy(out, in + (size_t)(i * step) * element, element);
        }
        int axis = rank - 2; /* the next row, as an odometer counts */
        for (; axis >= 0 && ++index[axis] == shape[axis]; axis--) {
            offset -= (shape[axis] - 1) * stride[axis];
            index[axis] = 0;
        }
        if (axis < 0)
            return;
        offset += stride[axis];
    }
}

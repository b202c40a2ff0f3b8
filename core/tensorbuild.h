/* What the readers of the formats share: random access to the bytes of a file, and the checkpoint
 * that they fill. Users of tensors include tensorfile.h alone. */
#ifndef DM_TENSORBUILD_H
#define DM_TENSORBUILD_H

#include <stdbool.h>
#include <time.h>

#include "memory.h"
#include "tensorfile.h"

/* A file by descriptor, or bytes in memory (then fd is -1). */
struct dm_input {
    const uint8_t *bytes;
    int fd;
    uint64_t size;
};

/* Reads exactly n bytes at offset; a range outside the file, also of one that shrank, is an
 * error. */
demist_status dm_input_read(const struct dm_input *input, uint64_t offset, void *to, size_t n,
                            struct dm_error *err);

/* An element type as a file declares it. */
struct dm_element {
    int dtype; /* demist_dtype or DM_DTYPE_OTHER */
    unsigned bytes;
    const char *name;
};

struct dm_element dm_element_of(demist_dtype dtype);

struct dm_checkpoint {
    const char *format;
    bool late;              /* tensors may be left in the file: dm_checkpoint_add_late */
    struct dm_input file;   /* where those are that were left; fd −1: none were */
    struct timespec change; /* the file's last one when it was opened */
    struct dm_tensor_view *tensors;
    size_t count, capacity;
    uint64_t *places; /* of tensors left in the file; NULL: none were */
    size_t places_capacity;
    const struct dm_tensor_view **by_name; /* sorted; made by dm_checkpoint_sort */
    struct dm_metadata *metadata;
    size_t n_metadata, metadata_capacity;
    void **blocks; /* of dm_alloc_aligned: the data */
    size_t n_blocks, blocks_capacity;
    struct dm_arena arena; /* names and metadata */
    size_t text_bytes;     /* of both, bounded */
};

/* Memory for data, aligned to 64 bytes, freed with the checkpoint. NULL with err set. */
void *dm_checkpoint_alloc(struct dm_checkpoint *ckpt, size_t bytes, struct dm_error *err);

/* Names of tensors and keys are UTF-8 without control characters: they are printed. */
bool dm_tensor_name_valid(const char *name, size_t length);

/* Adds a tensor of `shape` at `data`, which must belong to the checkpoint. The name is
 * copied; one that is not valid is a FORMAT error. */
demist_status dm_checkpoint_add(struct dm_checkpoint *ckpt, const char *name, size_t length,
                                struct dm_element element, int rank, const int64_t *shape,
                                const void *data, struct dm_error *err);

/* Adds one whose data stay in the file, from byte `at` on; all tensors of a file or none. Only
 * where ckpt->late. */
demist_status dm_checkpoint_add_late(struct dm_checkpoint *ckpt, const char *name, size_t length,
                                     struct dm_element element, int rank, const int64_t *shape,
                                     uint64_t at, struct dm_error *err);

/* Adds a copy of a pair, under the same rule for the key; a value that is not UTF-8 is FORMAT. */
demist_status dm_checkpoint_add_metadata(struct dm_checkpoint *ckpt, const char *key,
                                         size_t key_length, const char *value, size_t value_length,
                                         struct dm_error *err);

/* Sorts the names; two equal ones are a FORMAT error. */
demist_status dm_checkpoint_sort(struct dm_checkpoint *ckpt, struct dm_error *err);

/* Room for one more element in an array from malloc that doubles. False when there is no memory. */
bool dm_grow(void *array, size_t count, size_t *capacity, size_t element);

/* Gathers a strided array (strides in elements, none negative) into row-major `to`. */
void dm_copy_strided(void *to, const void *from, size_t element, int rank, const int64_t *shape,
                     const int64_t *stride);

/* For error texts: at most 79 bytes of `text`, with '?' for what should not reach a terminal. */
struct dm_printable {
    char text[80];
};
struct dm_printable dm_printable(const char *text, size_t length);

#endif

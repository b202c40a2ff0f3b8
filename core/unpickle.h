/* A reader of Python's pickles that executes nothing.
 *
 * A pickle is a program for a stack machine whose instructions can import and call anything; that
 * is why torch.load of a stranger's file can take over a computer. This machine builds plain values
 * only. The few names that PyTorch needs to describe tensors (OrderedDict, _rebuild_tensor_v2,
 * storage types, …) are answered by building a value; every other name is refused.
 *
 * Protocols 2 to 5. Values may be shared and cyclic, as in Python: whoever walks them bounds depth
 * and steps. They live in an arena and are freed at once. */
#ifndef DM_UNPICKLE_H
#define DM_UNPICKLE_H

#include "tensorbuild.h"

enum dm_pickle_kind {
    DM_PICKLE_NONE,
    DM_PICKLE_BOOL,
    DM_PICKLE_INT,
    DM_PICKLE_BIG_INT, /* wider than 64 bits: its bytes, little-endian, in `text` */
    DM_PICKLE_FLOAT,
    DM_PICKLE_TEXT,
    DM_PICKLE_BYTES,
    DM_PICKLE_TUPLE,
    DM_PICKLE_LIST, /* sets too */
    DM_PICKLE_DICT, /* keys and values alternate */
    DM_PICKLE_STORAGE,
    DM_PICKLE_TENSOR,
    DM_PICKLE_GLOBAL, /* one of the known names */
};

/* ('storage', type, key, location, numel[, view]). `data` and `bytes` are for the file's reader. */
struct dm_pickle_storage {
    struct dm_element element;
    const char *key; /* key[0..key_length), not terminated */
    size_t key_length;
    int64_t numel;
    int64_t view_offset, view_numel; /* older files: a part of the storage `key`; else -1 */
    const uint8_t *data;
    uint64_t bytes;
    bool used;
    struct dm_pickle_storage *next;
};

/* Offset and strides in elements; not yet checked against the storage. */
struct dm_pickle_tensor {
    struct dm_pickle_storage *storage;
    struct dm_element element;
    int64_t offset;
    int rank;
    int64_t shape[DM_MAX_RANK], stride[DM_MAX_RANK];
};

struct dm_pickle_value {
    enum dm_pickle_kind kind;
    union {
        bool truth;
        int64_t integer;
        double real;
        struct {
            const char *bytes; /* in the pickle; not terminated */
            size_t length;
        } text;
        struct {
            struct dm_pickle_value **items;
            size_t count, capacity;
        } list;
        struct dm_pickle_storage *storage;
        struct dm_pickle_tensor *tensor;
        const struct dm_pickle_global *global;
    };
};

/* What several pickles of one file share. Zeroed is valid; free with dm_unpickler_finish. */
struct dm_unpickler {
    struct dm_arena arena;
    size_t allocated;                   /* from the arena; bounded */
    uint64_t ops;                       /* instructions executed so far */
    struct dm_pickle_storage *storages; /* all that were mentioned, the last first */
};

/* Runs the pickle at the start of bytes[0..size), which must outlive the values. *used gets its
 * length (NULL: not wanted). FORMAT, with the byte's offset, for what no pickler writes;
 * UNSUPPORTED for Python objects other than the known, with the way out. */
demist_status dm_unpickle(struct dm_unpickler *unpickler, const void *bytes, size_t size,
                          size_t *used, struct dm_pickle_value **root, struct dm_error *err);

void dm_unpickler_finish(struct dm_unpickler *unpickler);

#endif

/* Named tensors from a file, whatever its format: the one view that networks, the sampler's inputs
 * and `inspect` have of safetensors, PyTorch's zip and its older stream, .npy and .npz.
 *
 * A file is read into private memory, whole or tensor by tensor, and not mapped: a file that
 * shrinks, or a disk that fails, while a mapping is in use kills the process with SIGBUS, and here
 * it must be an error with a text.
 * Nothing in a file is ever executed, and what a file can make the reader allocate is bounded by
 * its own size times a small factor. */
#ifndef DM_TENSORFILE_H
#define DM_TENSORFILE_H

#include <stddef.h>
#include <stdint.h>

#include <demist/dtype.h>

#include "error.h"

enum { DM_MAX_RANK = 8 };

/* The dtype of elements that demist can list but not use, such as F8_E4M3 or complex ones. */
#define DM_DTYPE_OTHER (-1)

/* A tensor in row-major order. Everything it points to belongs to the checkpoint. */
struct dm_tensor_view {
    const char *name;
    int dtype; /* demist_dtype, or DM_DTYPE_OTHER */
    int rank;  /* 0 for a scalar */
    int64_t shape[DM_MAX_RANK];
    /* Aligned to the element; not NULL, also for an empty tensor, but where it was left in the file
     * (dm_checkpoint_open_late). */
    const void *data;
    size_t bytes;
    const char *dtype_name; /* "f32"; for DM_DTYPE_OTHER the name that the file uses */
};

struct dm_metadata {
    const char *key, *value;
};

struct dm_checkpoint;

/* Opens a file of any known format; the format is told by the content, not by the name. On success
 * *out is to be closed by dm_checkpoint_close. Errors start with the path: NOT_FOUND, IO, FORMAT
 * for what is malformed, UNSUPPORTED for what is refused, NO_MEMORY.
 *
 * PyTorch: nested containers become dotted names ("model.0.weight", list items by number), a bare
 * tensor is called "tensor", numbers and texts beside the tensors become metadata; views that are
 * not row-major are copied. .npz: names without ".npy"; .npy: "tensor". */
demist_status dm_checkpoint_open(const char *path, struct dm_checkpoint **out,
                                 struct dm_error *err);

/* The same, but leaves the data in the file, which stays open, where the format allows it: for
 * tensors of safetensors `data` is NULL, and dm_checkpoint_read has them. What the header says is
 * checked as ever. A file that is replaced by renaming goes on being read as it was; one that is
 * written to is an error when it is read. */
demist_status dm_checkpoint_open_late(const char *path, struct dm_checkpoint **out,
                                      struct dm_error *err);

/* Copies the bytes of a view, which is the checkpoint's own, to `to`, from its data or from the
 * file. IO, without the path, when the file cannot be read, became shorter or was changed. */
demist_status dm_checkpoint_read(const struct dm_checkpoint *ckpt,
                                 const struct dm_tensor_view *view, void *to, struct dm_error *err);

/* The same as dm_checkpoint_open from memory, which may be freed after the call. `name` stands for
 * the path in errors. */
demist_status dm_checkpoint_open_memory(const char *name, const void *bytes, size_t size,
                                        struct dm_checkpoint **out, struct dm_error *err);

/* Frees everything; NULL is allowed. */
void dm_checkpoint_close(struct dm_checkpoint *ckpt);

/* An open checkpoint is constant: what follows may be called by any thread.
 * Tensors come in the order of the file; at(i) needs i < count. */
size_t dm_checkpoint_count(const struct dm_checkpoint *ckpt);
const struct dm_tensor_view *dm_checkpoint_at(const struct dm_checkpoint *ckpt, size_t i);

/* NULL when there is none of that name. O(log n). */
const struct dm_tensor_view *dm_checkpoint_find(const struct dm_checkpoint *ckpt, const char *name);

/* The value of a metadata key, or NULL; and all of them in the order of the file. */
const char *dm_checkpoint_metadata(const struct dm_checkpoint *ckpt, const char *key);
size_t dm_checkpoint_metadata_count(const struct dm_checkpoint *ckpt);
const struct dm_metadata *dm_checkpoint_metadata_at(const struct dm_checkpoint *ckpt, size_t i);

/* "safetensors", "PyTorch", "PyTorch (before 1.6)", "npy", "npz". */
const char *dm_checkpoint_format(const struct dm_checkpoint *ckpt);

/* The product of a shape. False when it, or that of its dimensions other than 0, is beyond int64.
 */
int dm_shape_elements(int rank, const int64_t *shape, int64_t *elements);

/* How many elements a view has. */
size_t dm_tensor_elements(const struct dm_tensor_view *view);

/* Converts all elements into out[dm_tensor_elements(view)]. To floating point: rounded to nearest,
 * bool as 0 and 1. UNSUPPORTED for DM_DTYPE_OTHER. */
demist_status dm_tensor_to_f32(const struct dm_tensor_view *view, float *out, struct dm_error *err);
demist_status dm_tensor_to_f64(const struct dm_tensor_view *view, double *out,
                               struct dm_error *err);

/* INVALID when an element is not a whole number or is beyond int64; it is named by its index. */
demist_status dm_tensor_to_i64(const struct dm_tensor_view *view, int64_t *out,
                               struct dm_error *err);

#endif

/* safetensors: a length, a JSON header, and the bytes of the tensors.
 *
 *     u64 little-endian n | n bytes of JSON {"name": {"dtype", "shape", "data_offsets"}, …} | data
 *
 * https://github.com/huggingface/safetensors#format */
#ifndef DM_SAFETENSORS_H
#define DM_SAFETENSORS_H

#include "fileio.h"
#include "tensorbuild.h"

/* Fills an empty checkpoint. Strict: tensors must cover the data exactly, without overlaps, holes
 * or trailing bytes, so that a file holds what its header says and nothing else. */
demist_status dm_safetensors_load(struct dm_checkpoint *ckpt, const struct dm_input *input,
                                  struct dm_error *err);

/* Appends a whole file of tensors and text metadata to `out`. Views need name, dtype, rank, shape
 * and data. The same tensors give the same bytes in whatever order they come: data are laid out by
 * falling element size, then by name, metadata by key, and the header is padded to 8 bytes, so that
 * every tensor is aligned. INVALID for a name that occurs twice, is "__metadata__" or not valid,
 * UNSUPPORTED for DM_DTYPE_OTHER. */
demist_status dm_safetensors_write(struct dm_outfile *out, const struct dm_tensor_view *tensors,
                                   size_t count, const struct dm_metadata *metadata,
                                   size_t n_metadata, struct dm_error *err);

/* The same into the file `path`, which is replaced once it is complete. */
demist_status dm_safetensors_save(const char *path, const struct dm_tensor_view *tensors,
                                  size_t count, const struct dm_metadata *metadata,
                                  size_t n_metadata, struct dm_error *err);

#endif

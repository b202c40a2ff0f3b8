/* NumPy's files: .npy holds one array after a small header, .npz is a zip of them.
 *
 *     "\x93NUMPY" | version 1.0, 2.0 or 3.0 | u16 or u32 n | n bytes of header | data
 *
 * The header is a Python dictionary literal; it is parsed as one of exactly the three known keys,
 * not evaluated. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef DM_NPY_H
#define DM_NPY_H

#include "fileio.h"
#include "tensorbuild.h"
#include "ziparchive.h"

/* Fill an empty checkpoint: the tensor "tensor", or those of the members without their ".npy".
 * Arrays in Fortran order are turned to row-major; big-endian and structured ones and those of
 * Python objects are UNSUPPORTED. */
demist_status dm_npy_load(struct dm_checkpoint *ckpt, const struct dm_input *input,
                          struct dm_error *err);
demist_status dm_npz_load(struct dm_checkpoint *ckpt, struct dm_zip *zip, struct dm_error *err);

/* Append a whole .npy or .npz to `out`. bf16, which NumPy lacks, is UNSUPPORTED. The members of an
 * .npz are the views' names with ".npy" added, uncompressed, in the order given and with a fixed
 * date, so that equal arrays give equal files. The .npz is made in memory first. */
demist_status dm_npy_write(struct dm_outfile *out, const struct dm_tensor_view *tensor,
                           struct dm_error *err);
demist_status dm_npz_write(struct dm_outfile *out, const struct dm_tensor_view *tensors,
                           size_t count, struct dm_error *err);

/* The same into the file `path`, which is replaced once it is complete. */
demist_status dm_npy_save(const char *path, const struct dm_tensor_view *tensor,
                          struct dm_error *err);
demist_status dm_npz_save(const char *path, const struct dm_tensor_view *tensors, size_t count,
                          struct dm_error *err);

#endif

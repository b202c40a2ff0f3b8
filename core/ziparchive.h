/* Zip files as PyTorch and NumPy write them, through libzip; sizes come from the central directory,
 * so data descriptors and zip64 need no care here. */
#ifndef DM_ZIPARCHIVE_H
#define DM_ZIPARCHIVE_H

#include <zip.h>

#include "tensorbuild.h"

/* Fills the checkpoint from a PyTorch file (there is a DIR/data.pkl) or an .npz. */
demist_status dm_zip_load(struct dm_checkpoint *ckpt, const struct dm_input *input,
                          struct dm_error *err);

/* The members of an open archive, with what may still be read from it. */
struct dm_zip {
    struct zip *archive;
    uint64_t budget; /* bytes that members may still unpack to */
};

/* The size of a member, checked against the budget, which pays for it. A compressed member is
 * UNSUPPORTED unless `inflate`, an encrypted one always. */
demist_status dm_zip_member(struct dm_zip *zip, uint64_t index, bool inflate, uint64_t *size,
                            struct dm_error *err);

/* Reads the whole member, exactly `size` bytes. The checksum of a stored member is not looked at:
 * PyTorch itself can be told to write none that fits. */
demist_status dm_zip_read(struct dm_zip *zip, uint64_t index, void *to, uint64_t size,
                          struct dm_error *err);

#endif

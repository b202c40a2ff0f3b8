/* What torch.save writes: since 1.6 a zip with DIR/data.pkl and DIR/data/KEY for every storage,
 * before that pickles followed by the storages. */
#ifndef DM_TORCHFILE_H
#define DM_TORCHFILE_H

#include "tensorbuild.h"
#include "ziparchive.h"

/* `pickle_name` and its index: the member DIR/data.pkl. */
demist_status dm_torch_load_zip(struct dm_checkpoint *ckpt, struct dm_zip *zip,
                                const char *pickle_name, uint64_t pickle_index,
                                struct dm_error *err);

/* The stream of PyTorch before 1.6, and of _use_new_zipfile_serialization=False. */
demist_status dm_torch_load_legacy(struct dm_checkpoint *ckpt, const struct dm_input *input,
                                   struct dm_error *err);

#endif

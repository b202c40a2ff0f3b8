/* Backends as --backends names them: "cpu", or "cpu:bf16" for another precision than the
 * description's. */
#ifndef DM_NAMEDSIDE_H
#define DM_NAMEDSIDE_H

#include "setup.h"

/* The parts of such a label; *precision is −1 where it has none. *name is in the arena. */
demist_status dm_split_side(struct dm_arena *arena, const char *label, const char **name,
                            int *precision, struct dm_error *err);

/* Opens the backend with the options that the setup's description has for it. precision: where the
 * label has none. */
demist_status dm_open_side(struct dm_setup *setup, const char *label, int precision,
                           struct dm_device *device, struct dm_error *err);

#endif

/* Every state of a run in one safetensors file:
 *
 *     x          f32 [steps+1, N, …]   from x_T to x_0, all images of all batches in their order
 *     timesteps  i64 [steps]           original indices in visiting order; f32 for a path in t
 *
 * with the run's description as metadata. The states are gathered in memory, since the file's order
 * (step before image) is not the order in which batches finish. */
#ifndef DM_TRAJECTORY_H
#define DM_TRAJECTORY_H

#include "sample.h"

struct dm_trajectory;

/* For all images of the setup, which must outlive it, into the file `path`. Whether that can be
 * written and memory suffices (NO_MEMORY names the size) is found here, not after hours. */
demist_status dm_trajectory_create(const struct dm_setup *setup, const char *path,
                                   struct dm_trajectory **trajectory, struct dm_error *err);
void dm_trajectory_destroy(struct dm_trajectory *trajectory); /* NULL is legal */

/* Copies a state: to be called for every step of every batch, with data. */
void dm_trajectory_add(struct dm_trajectory *trajectory, const struct dm_sample_progress *progress);

/* Writes the first n_images and gives the file its name, replacing what bore it. Called once; the
 * states are rearranged. */
demist_status dm_trajectory_write(struct dm_trajectory *trajectory, int64_t n_images,
                                  const char *description, struct dm_error *err);

#endif

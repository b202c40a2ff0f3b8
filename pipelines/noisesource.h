/* Where a run's random numbers come from: the keyed generator, PyTorch's stream, or a file. */
#ifndef DM_NOISESOURCE_H
#define DM_NOISESOURCE_H

#include <demist/random.h>

#include "error.h"

#include <stdint.h>

struct dm_noise_source;

enum dm_noise_kind { DM_NOISE_PHILOX, DM_NOISE_TORCH_CPU, DM_NOISE_FILE };
/* torch-cpu: one draw per step whether used or not, or only where there is noise. */
enum dm_noise_draws { DM_DRAWS_IMPROVED, DM_DRAWS_DIFFUSERS };

struct dm_noise_options {
    enum dm_noise_kind kind;
    uint64_t seed;
    const char *file; /* DM_NOISE_FILE */
    enum dm_noise_draws draws;
    int32_t n_steps; /* of the grid */
    int rank;        /* of one datum */
    const int64_t *shape;
};

demist_status dm_noise_source_open(const struct dm_noise_options *options,
                                   struct dm_noise_source **source, struct dm_error *err);
void dm_noise_source_close(struct dm_noise_source *source); /* NULL is legal */

/* The seed of the keyed generator. */
uint64_t dm_noise_seed(const struct dm_noise_source *source);
/* Whether step noise is the keyed generator's, so that a device may draw it by itself. */
bool dm_noise_is_keyed(const struct dm_noise_source *source);

/* Starts a batch of n images, the first of which is image number `first` of all. */
demist_status dm_noise_start(struct dm_noise_source *source, int64_t first, int64_t n,
                             struct dm_error *err);
/* Standard normals for the batch, [n][elements]: x_T, and the sampler's draw k. */
demist_status dm_noise_initial(struct dm_noise_source *source, float *out, struct dm_error *err);
demist_status dm_noise_draw(struct dm_noise_source *source, uint32_t purpose, int64_t k, float *out,
                            struct dm_error *err);

#endif

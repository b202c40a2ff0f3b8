/* From a run's description to its parts: plugins found, options checked, tables made, the network
 * built and compiled.
 *
 * Parts are made in the order in which mistakes are cheapest to find: everything that the INI file
 * says is validated before the checkpoint is opened, and the checkpoint is checked before the
 * device compiles anything. */
#ifndef DM_SETUP_H
#define DM_SETUP_H

#include "model.h"
#include "process.h"
#include "registry.h"
#include "runconfig.h"

/* What runs share: plugins, threads and the log. */
struct dm_environment {
    struct dm_registry *registry;
    struct dm_services services;
};

enum {
    DM_NEED_SCHEDULE = 1 << 0,
    DM_NEED_NETWORK = 1 << 1,
    DM_NEED_SAMPLER = 1 << 2, /* with a schedule and a network */
    DM_NEED_BACKEND = 1 << 3,
    DM_NEED_DATA = 1 << 4, /* the parameters' in memory, not only when something is compiled */
};

/* Parts that were not asked for are zero. */
struct dm_setup {
    struct dm_arena arena; /* options and texts */
    const struct dm_environment *env;
    const struct dm_ini *ini;
    struct dm_run_config config;
    struct dm_instance schedule, sampler;
    struct dm_process *process;
    struct dm_network network;
    struct dm_device device;
    bool clip;        /* x_0 to the network's range, by a clamp or by thresholding */
    double threshold; /* dynamic thresholding: the quantile; 0: none */
};

/* The document must outlive the setup. needs: DM_NEED_… */
demist_status dm_setup_open(struct dm_setup *setup, const struct dm_environment *env,
                            const struct dm_ini *ini, unsigned needs, struct dm_error *err);
void dm_setup_close(struct dm_setup *setup); /* a zeroed one is legal */

/* Finds the class, parses its section against its schema, and creates an instance. */
demist_status dm_setup_instance(struct dm_setup *setup, demist_kind kind, const char *name,
                                struct dm_instance *instance, struct dm_error *err);

/* Whether schedule, network and sampler belong together; the text names both sides. Done by
 * dm_setup_open when a sampler is asked for. */
demist_status dm_setup_check(const struct dm_setup *setup, struct dm_error *err);

/* The largest batch: [sample] batch, or what suits the data; of the run's images, or of so many. */
int64_t dm_setup_batch(const struct dm_setup *setup);
int64_t dm_setup_batch_of(const struct dm_setup *setup, int64_t images);

#endif

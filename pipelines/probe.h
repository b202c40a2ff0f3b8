/* A network on a device, evaluated at states that somebody else visited, with a look inside. */
#ifndef DM_PROBE_H
#define DM_PROBE_H

#include "model.h"
#include "runner.h"

/* A zeroed struct is closed. */
struct dm_probe {
    struct dm_model model;
    demist_buffer *x, *out;
    demist_binding *binding[2]; /* [1]: without conditions, where the model is guided */
    /* Host copies of what the inputs of these roles hold. */
    int32_t *labels[2];
    float *context[2], *image;
};

/* n images. flags: as of dm_device_compile. guided: evaluations without conditions come too. */
demist_status dm_probe_open(struct dm_probe *probe, const struct dm_network *network,
                            struct dm_device *device, int64_t n,
                            const struct dm_conditions *conditions, bool guided, uint32_t flags,
                            struct dm_error *err);
void dm_probe_close(struct dm_probe *probe);

/* Evaluates at the state of `at`, n ≤ the probe's images: out [n][raw elements], which at->out may
 * not alias. seed and image: of the run. */
demist_status dm_probe_evaluate(struct dm_probe *probe, const struct dm_evaluation *at, int64_t n,
                                uint64_t seed, uint64_t image, float *out, struct dm_error *err);

/* The values of the nodes of the compiled graph (probe->model.lowered), by id; NULL for those that
 * are not materialised, and for parameters and constants, which have their data in the graph. */
struct dm_values {
    void **of; /* [n_nodes] */
    int32_t n_nodes;
};

/* The same with every value that OBSERVE gives. */
demist_status dm_probe_observe(struct dm_probe *probe, const struct dm_evaluation *at, int64_t n,
                               uint64_t seed, uint64_t image, struct dm_values *values,
                               struct dm_error *err);
void dm_values_finish(struct dm_values *values); /* a zeroed one is legal */

/* Bytes of a node's value for n images. */
size_t dm_value_bytes(const demist_node *node, int64_t n);

#endif

/* A network with its checkpoint, and the same compiled on a device. */
#ifndef DM_MODEL_H
#define DM_MODEL_H

#include <demist/network.h>

#include "device.h"
#include "sources.h"

/* A network's description and its `denoise` graph; no device is involved. */
struct dm_network {
    struct dm_instance instance;
    struct dm_sources *sources;
    demist_network_info info;
    struct dm_graph *graph;
    int64_t n_elements; /* of one datum */
};

/* Takes the instance over, also when it fails. checkpoint: NULL for networks without one. late:
 * data may stay in the file, for each compilation to read (dm_sources_read_late). */
demist_status dm_network_open(struct dm_network *network, struct dm_instance *instance,
                              const char *checkpoint, const char *prefix, bool late,
                              struct dm_error *err);
void dm_network_close(struct dm_network *network); /* a zeroed one is legal */

/* The input of that role of the graph `denoise`, NULL when it has none. */
const demist_node *dm_network_input(const struct dm_network *network, demist_role role);

/* Whether it can be evaluated without its condition: it has a null class or a null context. */
bool dm_network_guidable(const struct dm_network *network);

/* Conditions of a batch; NULL members where the network has no such input. */
struct dm_conditions {
    const int64_t *labels; /* [n] */
    const float *context;  /* [n][context_size] */
    const float *low_res;  /* [n][C][h][w], the input of role image */
};

struct dm_model {
    const struct dm_network *network;
    struct dm_device *device;
    int64_t max_batch;
    demist_program *program;
    struct dm_lowered lowered;                /* what was compiled: for observation and dumps */
    demist_buffer *time;                      /* f32 [max_batch] */
    demist_buffer *label[2], *context[2];     /* [0] given, [1] null; NULL where there is none */
    demist_buffer *image;                     /* role image; NULL where there is none */
    int32_t seed_slot, draw_slot, image_slot; /* −1: the graph has none */
    int64_t raw_elements;                     /* of one datum of `out` */
    bool guided;                              /* null conditions are set */
};

/* max_batch images at most. flags: as of dm_device_compile. */
demist_status dm_model_compile(struct dm_model *model, const struct dm_network *network,
                               struct dm_device *device, int64_t max_batch, uint32_t flags,
                               struct dm_error *err);
void dm_model_finish(struct dm_model *model); /* a zeroed one is legal */

/* Sets the conditions of the batch of n images. guided: also sets the null conditions, so that
 * the model can be evaluated without them; refused where the network has none. */
demist_status dm_model_condition(struct dm_model *model, int64_t n,
                                 const struct dm_conditions *conditions, bool guided,
                                 struct dm_error *err);

/* Binds the program to a state and an output buffer; unconditional: to the null conditions. */
demist_status dm_model_bind(struct dm_model *model, demist_buffer *x, demist_buffer *out,
                            bool unconditional, demist_binding **binding, struct dm_error *err);

/* One evaluation for n images at network times t [n]; seed, draw and image feed a network's own
 * random draws. */
demist_status dm_model_execute(struct dm_model *model, demist_binding *binding, const float *t,
                               int64_t n, uint64_t seed, uint64_t draw, uint64_t image,
                               struct dm_error *err);

#endif

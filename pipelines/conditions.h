/* What images are conditioned on: labels, context vectors and low-resolution images from a run's
 * description, one per image, cycled over the images. */
#ifndef DM_CONDITIONS_H
#define DM_CONDITIONS_H

#include "model.h"
#include "runconfig.h"

/* Images for a network of super-resolution. */
struct dm_low_res {
    int64_t n; /* 0: the network takes none */
    int64_t shape[3];
    float *x; /* [n][shape] */
};

struct dm_condition_list {
    int64_t *labels; /* [n_labels]; NULL: the network takes none */
    size_t n_labels;
    float *contexts; /* [n_contexts][context_size]; NULL: zeros, or the network takes none */
    size_t n_contexts;
    int64_t context_size;
    struct dm_low_res low_res;
};

/* Parses [sample] labels, context and low_res for this network; where `labels` is not set, those of
 * low_res count, or else those of start_file. CONFIG for labels outside the classes, labels for a
 * network without classes, none for one with classes, vectors of another length, low_res missing or
 * not wanted. */
demist_status dm_conditions_parse(const struct dm_run_config *config, const struct dm_ini *ini,
                                  const struct dm_network *network, struct dm_condition_list *list,
                                  struct dm_error *err);
void dm_conditions_finish(struct dm_condition_list *list);

/* A notice where a file of labels is of another length than the run's images ask for. */
void dm_conditions_tell(const struct dm_condition_list *list, const struct dm_run_config *config,
                        const struct dm_log *log);

/* Those of images first … first+n−1 (of the whole run): labels [n], context [n][context_size],
 * low_res [n][C][h][w], each only where the list has it. */
void dm_conditions_of(const struct dm_condition_list *list, int64_t first, int64_t n,
                      int64_t *labels, float *context, float *low_res);

/* The conditions of one batch, ready for dm_model_condition. */
struct dm_batch_conditions {
    struct dm_conditions given;
    struct dm_condition_list list;
    int64_t *labels;
    float *context, *low_res;
};

/* Those of images first … first+n−1. */
demist_status dm_batch_conditions_make(struct dm_batch_conditions *batch,
                                       const struct dm_run_config *config, const struct dm_ini *ini,
                                       const struct dm_network *network, int64_t first, int64_t n,
                                       struct dm_error *err);
void dm_batch_conditions_finish(struct dm_batch_conditions *batch); /* a zeroed one is legal */

#endif

/* What images are conditioned on: labels and context vectors from a run's description, one per
 * image, cycled over the images. */
#ifndef DM_CONDITIONS_H
#define DM_CONDITIONS_H

#include <demist/network.h>

#include "runconfig.h"

struct dm_condition_list {
    int64_t *labels; /* [n_labels]; NULL: the network takes none */
    size_t n_labels;
    float *contexts; /* [n_contexts][context_size]; NULL: zeros, or the network takes none */
    size_t n_contexts;
    int64_t context_size;
};

/* Parses [sample] labels and context for this network. CONFIG for labels outside the classes,
 * labels for a network without classes, none for one with classes, vectors of another length. */
demist_status dm_conditions_parse(const struct dm_run_config *config, const struct dm_ini *ini,
                                  const demist_network_info *info, const char *network,
                                  struct dm_condition_list *list, struct dm_error *err);
void dm_conditions_finish(struct dm_condition_list *list);

/* Those of images first … first+n−1 (of the whole run): labels [n], context [n][context_size],
 * each only where the list has it. */
void dm_conditions_of(const struct dm_condition_list *list, int64_t first, int64_t n,
                      int64_t *labels, float *context);

#endif

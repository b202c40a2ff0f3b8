/* What `[sample] start = file` names: the x_T that a run starts from, or the data that it encodes.
 */
#ifndef DM_STARTFILE_H
#define DM_STARTFILE_H

#include "model.h"
#include "runconfig.h"

struct dm_start_file;

/* Opens start_file for this network. To decode: tensor x_T, or the only one, [images, …] of any
 * float type, with labels in y or arr_1. To encode: what dm_dataset_open reads, pictures resized
 * and their classes from names where those make as many as the network has; images must be within
 * the network's range.
 *
 * NOT_FOUND, IO, FORMAT, INCOMPATIBLE (another shape, fewer images than the run makes) with the
 * file's name in front. */
demist_status dm_start_file_open(const struct dm_run_config *config,
                                 const struct dm_network *network, struct dm_start_file **start,
                                 struct dm_error *err);
void dm_start_file_close(struct dm_start_file *start); /* NULL is legal */

/* Images first … first + n − 1 of the whole run: x [n][elements]. */
demist_status dm_start_file_read(struct dm_start_file *start, int64_t first, int64_t n, float *x,
                                 struct dm_error *err);

/* Sets *labels to a class for each image of the file, for free(), and *n to their number; to NULL
 * and 0 where it has none. INCOMPATIBLE for one that the network does not have. */
demist_status dm_start_file_labels(const struct dm_start_file *start, int64_t n_classes,
                                   int64_t **labels, size_t *n, struct dm_error *err);

#endif

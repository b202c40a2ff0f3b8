/* Images or points that a run is given as they are: a picture, a folder of pictures, or tensors.
 * Nothing is resized; data of another shape than the network's are an error. */
#ifndef DM_IMAGEDATA_H
#define DM_IMAGEDATA_H

#include "error.h"

#include <demist/dtype.h>

#include <stdint.h>

/* x [n][shape] in [−1, 1] for images. Freed by dm_image_data_finish. */
struct dm_image_data {
    int64_t n;
    int rank; /* of one datum: 3 (C,H,W) or 1 */
    int64_t shape[3];
    float *x;
    int64_t *labels; /* [n]; NULL: the file has none */
};

/* Reads a PNG file; a folder, whose PNG files count in the order of their names; or a tensor file.
 *
 * Of a tensor file: `name` where there is one, else x_0, else arr_0, else the only tensor. Bytes
 * are N×H×W×C and become b/127.5 − 1; floats are N×C×H×W, or N×D for points, and taken as they are.
 * Labels are y, else arr_1. NOT_FOUND, FORMAT, INCOMPATIBLE with the path in front. */
demist_status dm_image_data_read(const char *path, const char *name, struct dm_image_data *data,
                                 struct dm_error *err);
void dm_image_data_finish(struct dm_image_data *data); /* a zeroed one is legal */

/* INCOMPATIBLE, with both shapes, unless one datum has the shape; RGB pictures without colour are
 * turned to gray where one channel is wanted. */
demist_status dm_image_data_fit(struct dm_image_data *data, int rank, const int64_t *shape,
                                const char *path, struct dm_error *err);

#endif

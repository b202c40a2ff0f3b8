/* Data to evaluate, train and probe on, and images that a run is given: images or points with their
 * classes, read as improved-diffusion reads them.
 *
 *   a folder     every .png, .jpg, .jpeg and .gif below it, folders and files in the order of their
 *                names; a picture's class is the place of its name, up to the first "_", among the
 *                sorted distinct ones. Resized and cropped to the shape asked for (resample.h), and
 *                read when asked for, so that memory does not grow with the folder
 *   a picture    one such image
 *   .npz, .npy   bytes N×H×W×C as b/127.5 − 1, floats N×C×H×W or N×D as they are: arr_0, x_0, x or
 *                the only tensor, with the classes in arr_1 or y. The same in safetensors and .pt
 *   idx          MNIST's images, also gzipped; the labels lie beside, where their name has
 *                "labels-idx1" for "images-idx3"
 *   CIFAR .bin   records of one or two labels (the last, the fine one, counts) and 3×32×32 bytes
 *
 * Pictures become RGB before they are resized. (The original resizes palettes by index and alpha
 * premultiplied, which differs only for such pictures of another size.) */
#ifndef DM_DATASET_H
#define DM_DATASET_H

#include "error.h"

#include <stdbool.h>
#include <stdint.h>

struct dm_dataset;

/* Opens data whose images are to have `shape` (rank 3: C,H,W; else as the tensors have them, and
 * files only). Pictures of three channels serve one channel where they are gray.
 *
 * NOT_FOUND for what is not there and for a folder without pictures, IO, FORMAT, INCOMPATIBLE for
 * data of another shape: all name the file. */
demist_status dm_dataset_open(const char *path, int rank, const int64_t *shape,
                              struct dm_dataset **out, struct dm_error *err);

/* The same for data that count as they are: a picture of another size is an error when it is read.
 * rank 0: of any shape; pictures then have three channels and the size of the first. name: the
 * tensor that is looked for before the usual ones, or NULL. */
demist_status dm_dataset_open_exact(const char *path, const char *name, int rank,
                                    const int64_t *shape, struct dm_dataset **out,
                                    struct dm_error *err);
void dm_dataset_close(struct dm_dataset *data); /* NULL is legal */

/* The shape of one datum; returns its rank. */
int dm_dataset_shape(const struct dm_dataset *data, int64_t shape[3]);

int64_t dm_dataset_count(const struct dm_dataset *data); /* >= 1 */

/* How many classes the names of a folder's files make; 0 where classes come as numbers. */
int64_t dm_dataset_name_classes(const struct dm_dataset *data);

/* The class of every datum [count]; NULL where there are none. */
const int64_t *dm_dataset_labels(const struct dm_dataset *data);

/* Whether the data tell classes for so many: numbers, or names that make exactly that many. */
bool dm_dataset_tells_classes(const struct dm_dataset *data, int64_t n_classes);

/* Whether every datum has a class among n_classes. INCOMPATIBLE with the place of the first that
 * has not, or with how to give classes. */
demist_status dm_dataset_check_labels(const struct dm_dataset *data, int64_t n_classes,
                                      struct dm_error *err);

/* Reads x [n][shape], in [−1, 1] for images, of data first … first+n−1; labels [n] where it is not
 * NULL, which needs dm_dataset_check_labels. Errors name the file. [one thread at a time] */
demist_status dm_dataset_read(struct dm_dataset *data, int64_t first, int64_t n, float *x,
                              int64_t *labels, struct dm_error *err);

#endif

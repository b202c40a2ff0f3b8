/* What `[output]` writes of a run: pictures, arrays, animations and plots.
 *
 *     open → for each batch: state …, batch → finish → close
 *
 * Whether formats, data and directory fit is found by `open`, before anything is computed. What
 * grows with the run is kept small: pixels as bytes, floats only for the formats that hold floats.
 */
#ifndef DM_OUTPUTS_H
#define DM_OUTPUTS_H

#include "image.h"
#include "log.h"

#include <stdbool.h>

/* The file names below get a number where they are taken (outputdir.h). */
enum dm_format {
    DM_FORMAT_GRID = 1 << 0,        /* grid.png */
    DM_FORMAT_PNG = 1 << 1,         /* image-00012.png for each, numbered as [sample] first does */
    DM_FORMAT_NPZ = 1 << 2,         /* samples.npz, as improved-diffusion's: arr_0, uint8 N×H×W×C
                                       (float32 N×… where data are no images), arr_1: labels */
    DM_FORMAT_NPY = 1 << 3,         /* samples.npy: float32 N×C×H×W */
    DM_FORMAT_SAFETENSORS = 1 << 4, /* samples.safetensors: x_0 float32, y int64, the description */
    /* The last three for what was encoded: x_T.npz, x_T.npy, x_T.safetensors: x_T float32, y. */
    DM_FORMAT_GIF = 1 << 5,  /* samples.gif: grids from noise to images */
    DM_FORMAT_PLOT = 1 << 6, /* points.png: points in the plane and their paths */
    DM_FORMAT_SVG = 1 << 7,  /* points.svg: the same */
};

struct dm_output_options {
    const char *dir;
    unsigned formats;        /* dm_format */
    bool formats_by_default; /* nobody chose: points get a plot where images get a grid */
    int columns;             /* of a grid; 0: near-square */
    int scale;               /* each pixel becomes a square of so many; 0: in grids small images are
                                enlarged until they can be seen, single PNGs are not */
    enum dm_image_rounding rounding;
    /* Grids step-00480.png, and the frames of a GIF, every so many steps, 0: none. Step i counts
     * down from the number of steps to 1; kept are the multiples, the first step and those below 8,
     * as the ContextUnet course does. A GIF without it has about 40 frames. */
    int64_t every;
    bool overwrite;           /* replace files of other runs too */
    const struct dm_log *log; /* notices; may be NULL */
};

struct dm_output_data {
    int rank; /* of one image */
    const int64_t *shape;
    double lo, hi;           /* the values that become black and white */
    int64_t n_images, first; /* of the run; the index of its first */
    int32_t n_steps;
    bool has_labels;
    bool encoded;            /* the results are x_T: files of arrays are called so, hold floats, and
                                a safetensors file is what is written by default */
    const char *description; /* the run's INI text, which the files carry */
};

struct dm_outputs;

/* CONFIG when a format does not suit the data or would be too large, with what to take instead;
 * UNSUPPORTED for one that this build lacks; IO when the directory cannot be made or written.
 * NO_MEMORY too comes here, not after hours. Only `log` is kept of what the arguments point to. */
demist_status dm_outputs_open(const struct dm_output_options *options,
                              const struct dm_output_data *data, struct dm_outputs **out,
                              struct dm_error *err);

/* Whether the run may write a file of that path by itself. */
bool dm_outputs_makes(const struct dm_outputs *out, const char *path);

/* Whether any intermediate state is of use. */
bool dm_outputs_wants_states(const struct dm_outputs *out);

/* Images first … first + n − 1 after step `step` (0 to n_steps − 1; −1: x_T), x [n, …], time: what
 * the schedule's time then is. Any step may be handed over, and may be left out. NUMERIC for a
 * pixel that is not finite. */
demist_status dm_outputs_state(struct dm_outputs *out, int64_t first, int64_t n, int32_t step,
                               double time, const float *x, struct dm_error *err);

/* A finished batch, in order: x [n, …], labels [n], NULL without has_labels. Single PNGs are
 * written at once. */
demist_status dm_outputs_batch(struct dm_outputs *out, int64_t first, int64_t n, const float *x,
                               const int64_t *labels, struct dm_error *err);

/* Writes all else, once; after an interruption of the images that are finished. A file that fails
 * does not keep the others from being written: the first failure is returned, further ones are
 * logged. */
demist_status dm_outputs_finish(struct dm_outputs *out, struct dm_error *err);

/* The paths written so far; they belong to `out`. */
const char *const *dm_outputs_files(const struct dm_outputs *out, size_t *n);

/* Frees everything; writes nothing. NULL is allowed. */
void dm_outputs_close(struct dm_outputs *out);

#endif

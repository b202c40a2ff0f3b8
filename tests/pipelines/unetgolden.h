/* The small U-Nets of tests/data/unet: a file holds inputs, results and, as metadata, the run's
 * description and the parameters' names and shapes; a formula makes the parameters' values. */
#ifndef UNETGOLDEN_H
#define UNETGOLDEN_H

#include "fixture.h"
#include "tensorfile.h"

struct unet_golden {
    const char *path;
    struct dm_checkpoint *file;
    char checkpoint[64]; /* a temporary file with the parameters */
};

/* name: of the file without its ending. Fails the test when it cannot. */
void unet_golden_open(struct unet_golden *golden, const char *name);
/* The same with every key below `prefix`. */
void unet_golden_open_below(struct unet_golden *golden, const char *name, const char *prefix);
void unet_golden_close(struct unet_golden *golden);

/* The run's description with the checkpoint and `backend`; more overrides are NULL-ended. */
struct dm_ini *unet_golden_ini(const struct unet_golden *golden, const char *backend,
                               const char *const *overrides);

#endif

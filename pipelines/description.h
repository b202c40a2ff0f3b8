/* A run's description as one text: what pictures and tensor files carry, and what tells one run
 * from another in an output directory. */
#ifndef DM_DESCRIPTION_H
#define DM_DESCRIPTION_H

#include "setup.h"

/* An INI text that describes the run again: all that was given, --set included, below comments with
 * the versions of demist and of the plugins. Paths of files become absolute, so that the text does
 * not depend on where it lies. A string for free(); NULL when out of memory. */
char *dm_describe_run(const struct dm_setup *setup);

#endif

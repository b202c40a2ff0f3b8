/* What a run would do, as text: `demist sample --explain`. */
#ifndef DM_EXPLAIN_H
#define DM_EXPLAIN_H

#include "setup.h"

/* Prepares the run as dm_sample does, compilation included, and appends: every key with its value
 * and where it comes from; the plugins with their files and versions; the grid of times and the
 * schedule's tables at its ends; the network's graph as built and as compiled, with its costs;
 * where random numbers come from. Sections of plugins that are not in use are loaded and validated
 * too; one whose plugin is not installed is told, and is no error. Fails as the run itself would.
 */
demist_status dm_explain(const struct dm_environment *env, const struct dm_ini *ini,
                         struct dm_text *out, struct dm_error *err);

#endif

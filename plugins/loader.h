/* Loading a plugin file: from a checked descriptor to the symbol it exports. */
#ifndef DM_LOADER_H
#define DM_LOADER_H

#include <demist/plugin.h>

#include "error.h"

/* Loads the file behind fd, which is called `file` in messages, and finds its descriptor. Takes
 * fd over. What was loaded stays loaded until the process ends: a plugin may have started threads
 * or opened a GPU. The same file is loaded once. [any thread] */
demist_status dm_load_plugin(int fd, const char *file, const demist_plugin **plugin,
                             struct dm_error *err);

#endif

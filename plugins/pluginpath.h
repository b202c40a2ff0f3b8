/* Where plugins are looked for, and which files are trusted enough to be loaded.
 *
 * In order: the directories of --plugin-path; `[plugins] path` of the user's own
 * $XDG_CONFIG_HOME/demist/demist.ini; DEMIST_PLUGIN_PATH; the directory that demist was installed
 * with. All of them are absolute, so that the working directory never matters, and none comes
 * from a run's description: a picture from a stranger names no code. */
#ifndef DM_PLUGINPATH_H
#define DM_PLUGINPATH_H

#include "error.h"
#include "memory.h"

struct dm_plugin_dir {
    const char *path;   /* absolute */
    const char *origin; /* who named it: "--plugin-path", "DEMIST_PLUGIN_PATH", "FILE:LINE", … */
};

/* A zeroed struct is a valid empty path. One thread at a time. */
struct dm_plugin_path {
    struct dm_arena arena;
    struct dm_plugin_dir *dirs;
    size_t n_dirs;
};

void dm_plugin_path_finish(struct dm_plugin_path *path);

/* Appends a directory, which need not exist. A relative one is DEMIST_CONFIG; one that is there
 * already keeps its first place. */
demist_status dm_plugin_path_add(struct dm_plugin_path *path, const char *dir, const char *origin,
                                 struct dm_error *err);

/* Appends the directories of "a:b". Empty entries are skipped; they do not mean the working
 * directory. */
demist_status dm_plugin_path_add_list(struct dm_plugin_path *path, const char *dirs,
                                      const char *origin, struct dm_error *err);

/* Appends what the user's demist.ini, the environment and the installation name. The environment
 * counts for nothing in a process with raised privileges. */
demist_status dm_plugin_path_add_defaults(struct dm_plugin_path *path, struct dm_error *err);

/* Opens a plugin directory. DEMIST_NOT_FOUND: there is none. DEMIST_CONFIG: it does not belong to
 * root or the effective user, or others may write to it; *fd is open all the same, to see what is
 * in it. Otherwise *fd is −1 after a failure. */
demist_status dm_open_plugin_dir(const char *path, int *fd, struct dm_error *err);

/* Opens the file `name` in the directory `dir_fd`, called `dir` in messages. The checks are made
 * on the descriptor that is returned, so nobody can exchange the file between check and use; links
 * are followed. DEMIST_NOT_FOUND: there is none of that name. */
demist_status dm_open_plugin_file(int dir_fd, const char *dir, const char *name, int *fd,
                                  struct dm_error *err);

#endif

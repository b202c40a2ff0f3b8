/* The registry: from a kind and a name to a checked class.
 *
 * Plugins that are linked into the program come first, then the file KIND-NAME.so of the first
 * directory that has one. Nothing else is opened: a broken plugin harms only those who ask for it,
 * and one that was found but cannot be used is an error, never a reason to look further. */
#ifndef DM_REGISTRY_H
#define DM_REGISTRY_H

#include "descriptor.h"
#include "error.h"
#include "pluginpath.h"

struct dm_registry;

/* Both must outlive the registry. `linked`: NULL-ended, NULL for none. */
demist_status dm_registry_create(const struct dm_plugin_path *path,
                                 const demist_plugin *const *linked, struct dm_registry **registry,
                                 struct dm_error *err);

/* Frees all classes that it found; the code stays loaded. NULL is accepted. */
void dm_registry_destroy(struct dm_registry *registry);

/* Finds a class, which lives as long as the registry. DEMIST_NOT_FOUND, with where it was sought
 * and the nearest name that is installed; DEMIST_CONFIG for a name that is none and for files that
 * are not trusted; DEMIST_INCOMPATIBLE or DEMIST_FORMAT for what cannot be used. [one thread at a
 * time] */
demist_status dm_registry_find(struct dm_registry *registry, demist_kind kind, const char *name,
                               const struct dm_class **result, struct dm_error *err);

/* A directory of the path, as it is now. */
struct dm_listed_dir {
    const char *path, *origin;
    const char *problem; /* why nothing comes from it; NULL: all is well */
};

/* A file (or linked class) that claims a name. Exactly one of class, broken and shadowed_by is set.
 * kind is 0 and name NULL where the file's name is no KIND-NAME.so. */
struct dm_listed_class {
    demist_kind kind;
    const char *name;
    const char *file;             /* NULL: linked statically */
    const struct dm_class *class; /* usable */
    const char *broken;           /* why it is not */
    const char *shadowed_by;      /* the place that has the name already */
};

struct dm_listing {
    const struct dm_listed_dir *dirs;
    size_t n_dirs;
    const struct dm_listed_class *classes; /* by kind, then name, then order of the search */
    size_t n_classes;
};

/* All that is installed; opens every plugin but shadowed ones. What is broken is listed, not an
 * error. It lives as long as the registry. [one thread at a time] */
demist_status dm_registry_list(struct dm_registry *registry, const struct dm_listing **listing,
                               struct dm_error *err);

#endif

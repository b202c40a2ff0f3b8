/* What plugins export, checked and copied.
 *
 * A plugin may have been built with headers older or newer than the host's, so its structs may be
 * shorter or longer. Everything is copied, as far as its `size` reaches, into zeroed structs of
 * the host's own size; past this file the host reads nothing but these copies, and an optional
 * member that the plugin does not know is NULL. */
#ifndef DM_DESCRIPTOR_H
#define DM_DESCRIPTOR_H

#include <demist/plugin.h>

#include "error.h"
#include "memory.h"

/* A plugin: one file, or one descriptor linked into the program. */
struct dm_plugin {
    const char *file;   /* NULL: linked statically */
    demist_plugin desc; /* no text is NULL; `classes` is still the plugin's own list */
};

struct dm_class {
    const struct dm_plugin *plugin;
    demist_kind kind;
    const char *name, *doc;
    const demist_option *const *options; /* NULL-ended copies, never NULL */
    const void *vtable;                  /* a copy: demist_sampler_vtable, … by kind */
    const char *const *shadows;          /* NULL-ended: files of this name that lost; never NULL */
};

/* "sampler"; "unknown" for a kind that this host does not know. */
const char *dm_kind_name(demist_kind kind);

/* The kind of that name; false when there is none. */
bool dm_kind_parse(const char *name, demist_kind *kind);

/* Whether a class may be called that: [a-z0-9_-]+. */
bool dm_is_class_name(const char *name);

/* The file of the plugin, or "NAME (linked into the program)" by its id. */
const char *dm_plugin_place(const struct dm_plugin *plugin, struct dm_arena *arena);

/* Checks a descriptor's size and versions and copies it into the arena. DEMIST_INCOMPATIBLE when
 * this host cannot work with it, with both versions in the text. `file` NULL: static. */
demist_status dm_plugin_read(const demist_plugin *foreign, const char *file, struct dm_arena *arena,
                             struct dm_plugin **plugin, struct dm_error *err);

/* Looks a class up in the plugin's list and checks it whole: name, option schema, vtable with its
 * mandatory members. DEMIST_NOT_FOUND, with the classes that there are, when it is not listed. */
demist_status dm_class_read(const struct dm_plugin *plugin, demist_kind kind, const char *name,
                            struct dm_arena *arena, struct dm_class **result, struct dm_error *err);

#endif

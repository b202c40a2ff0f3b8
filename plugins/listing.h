/* What is installed, for people and for programs: `demist plugins` in text, as a stanza of an INI
 * file, and with --json. */
#ifndef DM_LISTING_H
#define DM_LISTING_H

#include "registry.h"
#include "text.h"

/* One line a class; then what is shadowed, what is broken and why, and the directories. */
void dm_listing_print_text(struct dm_text *out, const struct dm_listing *listing);

/* {"abi", "path": […], "plugins": […], "shadowed": […], "broken": […]}, with all options. */
demist_status dm_listing_print_json(struct dm_text *out, const struct dm_listing *listing,
                                    struct dm_error *err);

/* One class: where it comes from, its versions and its options. */
void dm_class_print_text(struct dm_text *out, const struct dm_class *class);
demist_status dm_class_print_json(struct dm_text *out, const struct dm_class *class,
                                  struct dm_error *err);

/* The class's section of an INI file, commented. */
void dm_class_print_ini(struct dm_text *out, const struct dm_class *class);

#endif

/* Option schemas: from what a user wrote to typed values, and from a schema to its description.
 *
 * A schema is a NULL-ended list of demist_option. Plugins have one each; the sections of the
 * program itself ([sample], [noise], …) are described in the same way and go through the same
 * checks and the same messages. All options here are of the host's own size (descriptor.h copies
 * those of plugins). */
#ifndef DM_SCHEMA_H
#define DM_SCHEMA_H

#include <demist/options.h>

#include "error.h"
#include "inifile.h"
#include "memory.h"
#include "text.h"

/* Whether a schema can be used at all: keys of [a-z0-9_]+ that differ, one line of doc each, known
 * types and flags, ranges the right way round, choices, and defaults that obey all of it. */
demist_status dm_schema_check(const demist_option *const *options, struct dm_error *err);

/* The values of `section`, one for each option in the schema's order, NULL-ended; they and all
 * they point to are in the arena. A section that is absent has the defaults. Relative paths become
 * relative to the directory of the INI file that names them; those of --set stay as they are.
 *
 * DEMIST_CONFIG with a text that begins with "FILE:LINE: ": a key that is not in the schema (with
 * the nearest one), a value that is not of its type, range or choices, or a required key that is
 * missing. */
demist_status dm_schema_parse(const struct dm_ini *ini, const char *section,
                              const demist_option *const *options, struct dm_arena *arena,
                              const demist_value *const **values, struct dm_error *err);

/* Whether each section of the document is known. `known` is NULL-ended; "sampler.*" stands for
 * [sampler.NAME] with any name that a class may have. DEMIST_CONFIG with the nearest known one. */
demist_status dm_schema_check_sections(const struct dm_ini *ini, const char *const *known,
                                       struct dm_error *err);

/* The place of a key in a schema, −1 when it is not there: values[dm_schema_index(…)]. */
int dm_schema_index(const demist_option *const *options, const char *key);

/* What the option is when nobody sets it, as a user would write it; NULL: it must be set. */
const char *dm_schema_default(const demist_option *option);

/* "a number from 0 to 1, or auto": what an option takes. */
void dm_schema_print_type(struct dm_text *out, const demist_option *option);

/* A stanza to start from: "[section]", and each option with its doc, what it takes and its default,
 * as comments and a line that can be edited. `doc` may be NULL. */
void dm_schema_print_ini(struct dm_text *out, const char *section, const char *doc,
                         const demist_option *const *options);

/* The options for reading, each with its default, what it takes, and its doc, behind `indent`
 * blanks. */
void dm_schema_print_text(struct dm_text *out, int indent, const demist_option *const *options);

#endif

/* Configuration files: sections of keys and values that remember where each was written.
 *
 *     [sampler.ddim]
 *     eta = 0.0        ; a comment, after a blank; lines may start with ; or # too
 *
 * inih takes the lines apart, and this module gives it lines it cannot misread (inifile.c tells
 * how; its header is not ini.h, as that is the name of inih's). Names are letters, digits, "_" and
 * "-"; a section's name may have dots between such names. A value is the rest of the line without
 * blanks around it: "=", ":" and "#" in it are kept, and it may be empty. A section may come twice,
 * a key may not. */
#ifndef DM_INIFILE_H
#define DM_INIFILE_H

#include "memory.h"
#include "text.h"

/* The longest line, in bytes without its end: what inih's buffer takes in Debian's build. The same
 * everywhere, so that a file that one machine reads is read by all. */
#define DM_INI_MAX_LINE 199

/* The largest file, in bytes. */
#define DM_INI_MAX_SIZE (64 << 10)

struct dm_ini_entry {
    const char *section, *key, *value;
    const char *where; /* "run.ini:12", or "--set" */
    const char *dir;   /* where relative paths start: the file's directory, with its slash, or "" */
    int line;          /* from 1; 0 for --set */
    struct dm_ini_entry *next;
};

struct dm_ini_section {
    const char *name;
    const char *where; /* of its first header */
    struct dm_ini_entry *entries, *last;
    struct dm_ini_section *next;
};

/* A document: lists in the order written. Reading it needs no function:
 *     for (s = ini->sections; s; s = s->next) for (e = s->entries; e; e = e->next) …
 * All strings and nodes belong to it. One thread at a time. */
struct dm_ini {
    const char *file;
    struct dm_ini_section *sections, *last;
    struct dm_arena arena;
};

/* Reads a file, or bytes under a `name` for messages, whose directory part counts for relative
 * paths. UTF-8, with or without a byte order mark; lines end in LF or CR LF.
 *
 * DEMIST_CONFIG, "FILE:LINE: …", for: a line that is no header, key = value or comment; a key
 * outside a section; a bad or missing name; a duplicate key (both lines are named); a line that is
 * too long, has a NUL or another control character, or is not UTF-8. DEMIST_NOT_FOUND, DEMIST_IO,
 * DEMIST_FORMAT (too large) for the file as such. *ini needs dm_ini_destroy on DEMIST_OK only. */
demist_status dm_ini_read_file(const char *path, struct dm_ini **ini, struct dm_error *err);
demist_status dm_ini_read_memory(const char *name, const char *bytes, size_t size,
                                 struct dm_ini **ini, struct dm_error *err);

/* A document of its own with the same sections, keys, values and places, for overrides that are
 * not to touch the first. */
demist_status dm_ini_copy(const struct dm_ini *from, struct dm_ini **ini, struct dm_error *err);

/* NULL is accepted. */
void dm_ini_destroy(struct dm_ini *ini);

/* One override as written behind --set, "section.key=value": the last dot before "=" ends the
 * section's name. Adds the key or replaces its value; either way it is then "--set"'s.
 * DEMIST_CONFIG,
 * "--set …: …", for bad names and for values that a file could not hold (control characters, a
 * blank before ";", not UTF-8); the length of the line is not limited. */
demist_status dm_ini_set(struct dm_ini *ini, const char *assignment, struct dm_error *err);

/* The same for another option than --set; `where`, such as "--steps", outlives the document. */
demist_status dm_ini_set_from(struct dm_ini *ini, const char *where, const char *assignment,
                              struct dm_error *err);

/* NULL when there is none. */
const struct dm_ini_section *dm_ini_find_section(const struct dm_ini *ini, const char *section);
const struct dm_ini_entry *dm_ini_find(const struct dm_ini *ini, const char *section,
                                       const char *key);

/* Appends the document as an INI file that reads back as the same sections, keys and values. */
void dm_ini_print(const struct dm_ini *ini, struct dm_text *text);

#endif

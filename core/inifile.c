/* The INI reader, around inih.
 *
 * inih as distributions build it cuts lines at its buffer's size, takes an indented key for more of
 * the value before, cuts section names at 49 bytes, passes empty sections over and counts no lines
 * for its handler. So the reader that ini_parse_stream calls for each line does all that depends on
 * more than one "key = value": it counts, refuses what would be cut or misread, keeps the section,
 * and strips the indentation. What is left to inih is what it does well: splitting the line and
 * cutting the comment off. */
#include "inifile.h"

#include "fileio.h"
#include "utf8.h"

#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct dm_ini *ini;
    struct dm_ini_section *section; /* the current one */
    const char *p, *end;            /* what is still to be read */
    const char *dir;
    int line;
    demist_status status; /* the first failure ends the reading */
    struct dm_error *err;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

static bool is_key(const char *name, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!is_name_char(name[i]))
            return false;
    return size > 0;
}

/* Names with single dots between them. */
static bool is_section(const char *name, size_t size)
{
    for (const char *dot; (dot = memchr(name, '.', size));) {
        if (!is_key(name, (size_t)(dot - name)))
            return false;
        size -= (size_t)(dot + 1 - name);
        name = dot + 1;
    }
    return is_key(name, size);
}

static void trim(const char **text, size_t *size)
{
    for (; *size > 0 && is_blank(**text); ++*text)
        --*size;
    while (*size > 0 && is_blank((*text)[*size - 1]))
        --*size;
}

/* What is wrong with the characters, or NULL. Tabs are blanks. */
static const char *bad_characters(const char *text, size_t size)
{
    if (memchr(text, '\0', size))
        return "a NUL byte: is this a text file, in UTF-8?";
    for (size_t i = 0; i < size; i++)
        if (((unsigned char)text[i] < ' ' && text[i] != '\t') || text[i] == 0x7f)
            return "a control character";
    return dm_utf8_check(text, size) == size ? NULL : "text that is not UTF-8";
}

static struct dm_ini_section *find_section(const struct dm_ini *ini, const char *name, size_t size)
{
    for (struct dm_ini_section *s = ini->sections; s; s = s->next)
        if (strlen(s->name) == size && memcmp(s->name, name, size) == 0)
            return s;
    return NULL;
}

static struct dm_ini_entry *find_entry(const struct dm_ini_section *section, const char *key)
{
    for (struct dm_ini_entry *e = section ? section->entries : NULL; e; e = e->next)
        if (strcmp(e->key, key) == 0)
            return e;
    return NULL;
}

/* The section of that name, made when it is not there yet; NULL when out of memory. */
static struct dm_ini_section *get_section(struct dm_ini *ini, const char *name, size_t size,
                                          const char *where)
{
    struct dm_ini_section *section = find_section(ini, name, size);
    if (section)
        return section;
    section = dm_arena_alloc(&ini->arena, sizeof *section);
    if (!section || !(section->name = dm_arena_strndup(&ini->arena, name, size)))
        return NULL;
    section->where = where;
    *(ini->last ? &ini->last->next : &ini->sections) = section;
    return ini->last = section;
}

/* NULL when out of memory. */
static struct dm_ini_entry *add_entry(struct dm_ini *ini, struct dm_ini_section *section,
                                      const char *key)
{
    struct dm_ini_entry *entry = dm_arena_alloc(&ini->arena, sizeof *entry);
    if (!entry || !(entry->key = dm_arena_strdup(&ini->arena, key)))
        return NULL;
    entry->section = section->name;
    *(section->last ? &section->last->next : &section->entries) = entry;
    return section->last = entry;
}

static const char *where(const struct reader *r)
{
    return dm_arena_printf(&r->ini->arena, "%s:%d", r->ini->file, r->line);
}

/* Ends the reading; what comes after FILE:LINE. */
static void fail(struct reader *r, const char *what)
{
    r->status = dm_fail(r->err, DEMIST_CONFIG, "%s:%d: %s", r->ini->file, r->line, what);
}

static void fail_memory(struct reader *r)
{
    r->status = dm_fail_memory(r->err, r->ini->file);
}

/* "[name]", perhaps with a comment behind. */
static void read_header(struct reader *r, const char *line, size_t size)
{
    const char *close = memchr(line, ']', size);
    if (!close) {
        fail(r, "a section's header has no \"]\"");
        return;
    }
    const char *name = line + 1, *rest = close + 1;
    size_t n = (size_t)(close - name), left = size - (size_t)(rest - line);
    trim(&name, &n);
    trim(&rest, &left);
    if (n == 0)
        fail(r, "a section has no name");
    else if (!is_section(name, n))
        fail(r, "a section's name is letters, digits, \"_\" and \"-\", with single dots between");
    else if (left > 0 && *rest != ';' && *rest != '#')
        fail(r, "something follows the \"]\"; comments start with \";\"");
    else if (!(r->section = get_section(r->ini, name, n, where(r))) || !r->section->where)
        fail_memory(r);
}

/* Is this "key = …", in a section? */
static void check_key(struct reader *r, const char *line, size_t size)
{
    const char *equals = memchr(line, '=', size);
    size_t n = equals ? (size_t)(equals - line) : 0;
    trim(&line, &n);
    if (!equals)
        fail(r, "neither [section] nor key = value nor a comment");
    else if (n == 0)
        fail(r, "no key before the \"=\"");
    else if (!is_key(line, n))
        fail(r, "a key is letters, digits, \"_\" and \"-\"; write key = value");
    else if (!r->section)
        fail(r, "a key before the first [section]");
}

/* Cuts the next line off; false at the end. The first may begin with a byte order mark. */
static bool next_line(struct reader *r, const char **line, size_t *size)
{
    if (r->p == r->end)
        return false;
    const char *newline = memchr(r->p, '\n', (size_t)(r->end - r->p));
    const char *stop = newline ? newline : r->end;
    *line = r->p;
    *size = (size_t)(stop - r->p);
    r->p = newline ? newline + 1 : r->end;
    r->line++;
    if (r->line == 1 && *size >= 3 && memcmp(*line, "\xEF\xBB\xBF", 3) == 0) {
        *line += 3;
        *size -= 3;
    }
    if (*size > 0 && (*line)[*size - 1] == '\r')
        --*size;
    return true;
}

/* inih's ini_reader: the next line into str[0..num), or NULL at the end. Comments and blank lines
 * become empty ones. */
static char *read_line(char *str, int num, void *stream)
{
    struct reader *r = stream;
    const char *line;
    size_t size, limit = DM_INI_MAX_LINE;
    if (r->status || num <= 0 || !next_line(r, &line, &size))
        return NULL;
    if ((size_t)num <= limit)
        limit = (size_t)num - 1;
    if (size > limit) {
        r->status =
            dm_fail(r->err, DEMIST_CONFIG, "%s:%d: the line is %zu bytes long; a line may have %zu",
                    r->ini->file, r->line, size, limit);
        return NULL;
    }
    const char *wrong = bad_characters(line, size);
    trim(&line, &size);
    if (wrong)
        r->status = dm_fail(r->err, DEMIST_CONFIG, "%s:%d: the line holds %s", r->ini->file,
                            r->line, wrong);
    else if (size == 0 || *line == ';' || *line == '#')
        size = 0;
    else if (*line == '[')
        read_header(r, line, size);
    else
        check_key(r, line, size);
    if (r->status)
        return NULL;
    memcpy(str, line, size);
    str[size] = '\0';
    return str;
}

/* inih's ini_handler; its section may be cut short, so the reader's own is used. */
static int take_pair(void *user, const char *cut_section, const char *key, const char *value)
{
    struct reader *r = user;
    struct dm_ini *ini = r->ini;
    const struct dm_ini_entry *twin = find_entry(r->section, key);
    if (twin) {
        r->status = dm_fail(r->err, DEMIST_CONFIG,
                            "%s:%d: the key \"%s\" of [%s] is already given in line %d", ini->file,
                            r->line, key, twin->section, twin->line);
        return 0;
    }
    struct dm_ini_entry *entry = add_entry(ini, r->section, key);
    if (!entry || !(entry->value = dm_arena_strdup(&ini->arena, value)) ||
        !(entry->where = where(r))) {
        fail_memory(r);
        return 0;
    }
    entry->dir = r->dir;
    entry->line = r->line;
    return 1;
}

static struct dm_ini *create(const char *name, const char **dir)
{
    struct dm_ini *ini = calloc(1, sizeof *ini);
    char *path = dm_path_dir(name);
    if (ini && path) {
        *dir = dm_arena_strdup(&ini->arena, path);
        ini->file = dm_arena_strdup(&ini->arena, name);
    }
    free(path);
    if (ini && ini->file && *dir)
        return ini;
    dm_ini_destroy(ini);
    return NULL;
}

demist_status dm_ini_read_memory(const char *name, const char *bytes, size_t size,
                                 struct dm_ini **ini, struct dm_error *err)
{
    if (size > DM_INI_MAX_SIZE)
        return dm_fail(err, DEMIST_FORMAT, "\"%s\" is larger than the %d bytes allowed here", name,
                       DM_INI_MAX_SIZE);
    struct reader r = {.p = bytes, .end = bytes + size, .err = err};
    r.ini = create(name, &r.dir);
    if (!r.ini)
        return dm_fail_memory(err, name);
    int line = ini_parse_stream(read_line, &r, take_pair, &r);
    if (!r.status &&
        line) /* the reader lets nothing pass that inih refuses, but who knows it all */
        r.status = line > 0 ? dm_fail(err, DEMIST_CONFIG, "%s:%d: malformed line", name, line)
                            : dm_fail_memory(err, name);
    if (r.status) {
        dm_ini_destroy(r.ini);
        return r.status;
    }
    *ini = r.ini;
    return DEMIST_OK;
}

demist_status dm_ini_read_file(const char *path, struct dm_ini **ini, struct dm_error *err)
{
    char *bytes;
    size_t size;
    DM_TRY(dm_read_file(path, DM_INI_MAX_SIZE, &bytes, &size, err));
    demist_status status = dm_ini_read_memory(path, bytes, size, ini, err);
    free(bytes);
    return status;
}

static bool copy_entries(struct dm_ini *to, const struct dm_ini_section *from)
{
    struct dm_ini_section *section = get_section(to, from->name, strlen(from->name), from->where);
    for (const struct dm_ini_entry *e = from->entries; section && e; e = e->next) {
        struct dm_ini_entry *copy = add_entry(to, section, e->key);
        if (!copy || !(copy->value = dm_arena_strdup(&to->arena, e->value)) ||
            !(copy->where = dm_arena_strdup(&to->arena, e->where)) ||
            !(copy->dir = dm_arena_strdup(&to->arena, e->dir)))
            return false;
        copy->line = e->line;
    }
    return section && (section->where = dm_arena_strdup(&to->arena, from->where));
}

demist_status dm_ini_copy(const struct dm_ini *from, struct dm_ini **ini, struct dm_error *err)
{
    const char *dir = NULL;
    struct dm_ini *copy = create(from->file, &dir);
    bool ok = copy;
    for (const struct dm_ini_section *s = from->sections; ok && s; s = s->next)
        ok = copy_entries(copy, s);
    if (ok) {
        *ini = copy;
        return DEMIST_OK;
    }
    dm_ini_destroy(copy);
    return dm_fail_memory(err, from->file);
}

void dm_ini_destroy(struct dm_ini *ini)
{
    if (!ini)
        return;
    dm_arena_finish(&ini->arena);
    free(ini);
}

/* Would inih take some of the value for a comment? */
static bool holds_comment(const char *value)
{
    for (const char *p = value; (p = strchr(p, ';')); p++)
        if (p > value && is_blank(p[-1]))
            return true;
    return false;
}

/* Finds the parts of "section.key=value" in `text`, cutting it up; what is wrong, or NULL. */
static const char *split_assignment(char *text, char **section, char **key, char **value)
{
    char *equals = strchr(text, '=');
    if (!equals)
        return "write section.key=value";
    *equals = '\0';
    *value = dm_trim(equals + 1);
    char *dot = strrchr(text, '.');
    if (!dot)
        return "names no section; write section.key=value";
    *dot = '\0';
    *section = dm_trim(text);
    *key = dm_trim(dot + 1);
    if (!is_section(*section, strlen(*section)) || !is_key(*key, strlen(*key)))
        return "names are letters, digits, \"_\" and \"-\"; write section.key=value";
    if (bad_characters(*value, strlen(*value)))
        return "the value holds control characters or is not UTF-8";
    return holds_comment(*value) ? "a blank before \";\" would start a comment in a file" : NULL;
}

demist_status dm_ini_set(struct dm_ini *ini, const char *assignment, struct dm_error *err)
{
    return dm_ini_set_from(ini, "--set", assignment, err);
}

demist_status dm_ini_set_from(struct dm_ini *ini, const char *where, const char *assignment,
                              struct dm_error *err)
{
    char *section_name, *key, *value, *copy = dm_arena_strdup(&ini->arena, assignment);
    if (!copy)
        return dm_fail_memory(err, where);
    const char *wrong = split_assignment(copy, &section_name, &key, &value);
    if (wrong)
        return dm_fail(err, DEMIST_CONFIG, "%s %s: %s", where, assignment, wrong);

    struct dm_ini_section *section = get_section(ini, section_name, strlen(section_name), where);
    struct dm_ini_entry *entry = find_entry(section, key);
    if (section && !entry)
        entry = add_entry(ini, section, key);
    if (!entry)
        return dm_fail_memory(err, where);
    entry->value = value;
    entry->where = where;
    entry->dir = "";
    entry->line = 0;
    return DEMIST_OK;
}

const struct dm_ini_section *dm_ini_find_section(const struct dm_ini *ini, const char *section)
{
    return find_section(ini, section, strlen(section));
}

const struct dm_ini_entry *dm_ini_find(const struct dm_ini *ini, const char *section,
                                       const char *key)
{
    return find_entry(dm_ini_find_section(ini, section), key);
}

void dm_ini_print(const struct dm_ini *ini, struct dm_text *text)
{
    for (const struct dm_ini_section *s = ini->sections; s; s = s->next) {
        dm_text_appendf(text, "%s[%s]\n", s == ini->sections ? "" : "\n", s->name);
        for (const struct dm_ini_entry *e = s->entries; e; e = e->next) {
            /* Without blanks where they would make a comment of the value, or the line too long. */
            bool tight = !*e->value || *e->value == ';' ||
                         strlen(e->key) + 3 + strlen(e->value) > DM_INI_MAX_LINE;
            dm_text_appendf(text, "%s%s%s\n", e->key, tight ? "=" : " = ", e->value);
        }
    }
}

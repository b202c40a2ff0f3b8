#include "description.h"

#include "fileio.h"

#include <stdlib.h>
#include <string.h>

/* The classes that the run uses; those of parts that were not opened are NULL. */
enum { N_KINDS = 4 };
static void used_classes(const struct dm_setup *s, const struct dm_class *classes[N_KINDS])
{
    classes[0] = s->device.instance.cls;
    classes[1] = s->schedule.cls;
    classes[2] = s->network.instance.cls;
    classes[3] = s->sampler.cls;
}

static void print_versions(const struct dm_setup *s, struct dm_text *out)
{
    const struct dm_class *classes[N_KINDS];
    used_classes(s, classes);
    dm_text_appendf(out, "; demist %s\n", DM_VERSION);
    for (int i = 0; i < N_KINDS; i++)
        if (classes[i])
            dm_text_appendf(out, "; %s %s: %s %s\n", dm_kind_name(classes[i]->kind),
                            classes[i]->name, classes[i]->plugin->desc.id,
                            classes[i]->plugin->desc.version);
}

/* The schema of a section: the program's own, or that of a class in use. */
static const demist_option *const *schema_of(const struct dm_setup *s, const char *section)
{
    for (const struct dm_core_section *core = dm_core_sections; core->name; core++)
        if (strcmp(core->name, section) == 0)
            return core->options;
    const struct dm_class *classes[N_KINDS];
    used_classes(s, classes);
    for (int i = 0; i < N_KINDS; i++) {
        const char *kind = classes[i] ? dm_kind_name(classes[i]->kind) : "";
        size_t n = strlen(kind);
        if (n && strncmp(section, kind, n) == 0 && section[n] == '.' &&
            strcmp(section + n + 1, classes[i]->name) == 0)
            return classes[i]->options;
    }
    return NULL;
}

/* The file that an entry names, from the root; NULL where it names none that exists, or one whose
 * line would be too long to be read again. For free(). */
static char *absolute_path(const demist_option *const *schema, const struct dm_ini_entry *entry)
{
    int i = schema ? dm_schema_index(schema, entry->key) : -1;
    if (i < 0 || schema[i]->type != DEMIST_OPTION_PATH || !entry->value[0])
        return NULL;
    char *relative = dm_path_resolve(entry->dir, entry->value);
    char *path = relative ? realpath(relative, NULL) : NULL;
    free(relative);
    if (path && strlen(entry->key) + 3 + strlen(path) > DM_INI_MAX_LINE) {
        free(path);
        path = NULL;
    }
    return path;
}

/* A copy of a section, whose paths are absolute; NULL without memory. */
static struct dm_ini_section *copy_section(const struct dm_setup *setup,
                                           const struct dm_ini_section *from,
                                           struct dm_arena *arena)
{
    const demist_option *const *schema = schema_of(setup, from->name);
    struct dm_ini_section *section = dm_arena_alloc(arena, sizeof *section);
    if (!section)
        return NULL;
    section->name = from->name;
    struct dm_ini_entry **to = &section->entries;
    for (const struct dm_ini_entry *e = from->entries; e; e = e->next) {
        char *path = absolute_path(schema, e);
        struct dm_ini_entry *entry = dm_arena_alloc(arena, sizeof *entry);
        if (entry) {
            entry->key = e->key;
            entry->value = path ? dm_arena_strdup(arena, path) : e->value;
        }
        free(path);
        if (!entry || !entry->value)
            return NULL;
        *to = entry;
        to = &entry->next;
    }
    return section;
}

char *dm_describe_run(const struct dm_setup *setup)
{
    /* A copy of the document, so that its own printing decides what it looks like. */
    struct dm_arena arena = {0};
    struct dm_ini copy = {0};
    struct dm_ini_section **to = &copy.sections;
    struct dm_text out = DM_TEXT_INIT;
    for (const struct dm_ini_section *s = setup->ini->sections; s; s = s->next) {
        *to = copy_section(setup, s, &arena);
        if (!*to)
            goto fail;
        to = &(*to)->next;
    }
    print_versions(setup, &out);
    dm_text_append(&out, "\n");
    dm_ini_print(&copy, &out);
fail:
    dm_arena_finish(&arena);
    return out.data ? dm_text_take(&out) : NULL;
}

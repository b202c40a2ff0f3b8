#include "listing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jsonout.h"
#include "schema.h"

/* --- text --- */

static const char *place_of(const char *file)
{
    return file ? file : "linked into the program";
}

static void print_classes(struct dm_text *out, const struct dm_listing *listing)
{
    demist_kind kind = (demist_kind)0;
    for (size_t i = 0; i < listing->n_classes; i++) {
        const struct dm_listed_class *listed = &listing->classes[i];
        if (!listed->class)
            continue;
        if (listed->kind != kind)
            dm_text_appendf(out, "%s%ss\n", kind ? "\n" : "", dm_kind_name(listed->kind));
        kind = listed->kind;
        dm_text_appendf(out, "  %-16s %s\n", listed->name, listed->class->doc);
    }
    if (!kind)
        dm_text_append(out, "no plugin is installed\n");
}

static void print_shadowed(struct dm_text *out, const struct dm_listing *listing)
{
    bool any = false;
    for (size_t i = 0; i < listing->n_classes; i++) {
        const struct dm_listed_class *listed = &listing->classes[i];
        if (!listed->shadowed_by)
            continue;
        dm_text_appendf(out, "%s  %s: %s comes first\n", any ? "" : "\nshadowed\n",
                        place_of(listed->file), listed->shadowed_by);
        any = true;
    }
}

static void print_broken(struct dm_text *out, const struct dm_listing *listing)
{
    bool any = false;
    for (size_t i = 0; i < listing->n_classes; i++) {
        if (!listing->classes[i].broken)
            continue;
        dm_text_appendf(out, "%s  %s\n", any ? "" : "\nbroken\n", listing->classes[i].broken);
        any = true;
    }
}

void dm_listing_print_text(struct dm_text *out, const struct dm_listing *listing)
{
    print_classes(out, listing);
    print_shadowed(out, listing);
    print_broken(out, listing);
    dm_text_append(out, "\nsearched\n");
    for (size_t i = 0; i < listing->n_dirs; i++)
        dm_text_appendf(out, "  %s (%s)%s%s\n", listing->dirs[i].path, listing->dirs[i].origin,
                        listing->dirs[i].problem ? ": " : "",
                        listing->dirs[i].problem ? listing->dirs[i].problem : "");
}

void dm_class_print_text(struct dm_text *out, const struct dm_class *class)
{
    const demist_plugin *desc = &class->plugin->desc;
    dm_text_appendf(out, "%s.%s\n  %s\n\n", dm_kind_name(class->kind), class->name, class->doc);
    dm_text_appendf(out, "  file     %s\n", place_of(class->plugin->file));
    for (size_t i = 0; class->shadows[i]; i++)
        dm_text_appendf(out, "  shadows  %s\n", class->shadows[i]);
    dm_text_appendf(out, "  plugin   %s %s (%s)%s%s\n", desc->id, desc->version, desc->license,
                    desc->url[0] ? ", " : "", desc->url);
    dm_text_appendf(out, "  ABI      built against %u.%u, needs %u.%u\n", (unsigned)desc->abi_epoch,
                    (unsigned)desc->abi_minor, (unsigned)desc->abi_epoch,
                    (unsigned)desc->abi_minor_needed);
    dm_text_appendf(out, "\n  options%s\n", class->options[0] ? "" : ": none");
    dm_schema_print_text(out, 4, class->options);
}

void dm_class_print_ini(struct dm_text *out, const struct dm_class *class)
{
    struct dm_text section = DM_TEXT_INIT;
    dm_text_appendf(&section, "%s.%s", dm_kind_name(class->kind), class->name);
    dm_schema_print_ini(out, section.data ? section.data : "", class->doc, class->options);
    dm_text_finish(&section);
}

/* --- JSON --- */

static void put_version(cJSON *object, const char *key, uint32_t epoch, uint32_t minor, bool *ok)
{
    char text[32];
    snprintf(text, sizeof text, "%u.%u", (unsigned)epoch, (unsigned)minor);
    dm_json_put_text(object, key, text, ok);
}

static const char *type_name(demist_option_type type)
{
    static const char *const names[] = {NULL, "bool", "int", "float", "enum", "string", "path"};
    return names[type];
}

static void put_option(cJSON *options, const demist_option *option, bool *ok)
{
    cJSON *object = dm_json_append_object(options, ok);
    if (!object)
        return;
    dm_json_put_text(object, "key", option->key, ok);
    dm_json_put_text(object, "doc", option->doc, ok);
    dm_json_put_text(object, "type", type_name(option->type), ok);
    dm_json_put_text(object, "default", dm_schema_default(option), ok);
    dm_json_put(object, "required", cJSON_CreateBool(option->flags & DEMIST_OPTION_REQUIRED), ok);
    dm_json_put(object, "auto", cJSON_CreateBool(option->flags & DEMIST_OPTION_AUTO), ok);
    dm_json_put(object, "list", cJSON_CreateBool(option->flags & DEMIST_OPTION_LIST), ok);
    if (option->has_range && option->min > -HUGE_VAL)
        dm_json_put_number(object, "min", option->min, ok);
    if (option->has_range && option->max < HUGE_VAL)
        dm_json_put_number(object, "max", option->max, ok);
    if (option->type == DEMIST_OPTION_ENUM) {
        cJSON *choices = dm_json_put_array(object, "choices", ok);
        for (size_t i = 0; option->choices[i]; i++)
            dm_json_append_text(choices, option->choices[i], ok);
    }
}

static void fill_class(cJSON *object, const struct dm_class *class, bool *ok)
{
    const demist_plugin *desc = &class->plugin->desc;
    dm_json_put_text(object, "kind", dm_kind_name(class->kind), ok);
    dm_json_put_text(object, "name", class->name, ok);
    dm_json_put_text(object, "doc", class->doc, ok);
    dm_json_put_text(object, "file", class->plugin->file, ok);
    dm_json_put_text(object, "id", desc->id, ok);
    dm_json_put_text(object, "version", desc->version, ok);
    dm_json_put_text(object, "license", desc->license, ok);
    dm_json_put_text(object, "url", desc->url, ok);
    put_version(object, "abi", desc->abi_epoch, desc->abi_minor, ok);
    put_version(object, "abi_needed", desc->abi_epoch, desc->abi_minor_needed, ok);
    cJSON *shadows = dm_json_put_array(object, "shadows", ok);
    for (size_t i = 0; class->shadows[i]; i++)
        dm_json_append_text(shadows, class->shadows[i], ok);
    cJSON *options = dm_json_put_array(object, "options", ok);
    for (size_t i = 0; class->options[i]; i++)
        put_option(options, class->options[i], ok);
}

static void put_name(cJSON *object, const struct dm_listed_class *listed, bool *ok)
{
    dm_json_put_text(object, "kind", listed->name ? dm_kind_name(listed->kind) : NULL, ok);
    dm_json_put_text(object, "name", listed->name, ok);
    dm_json_put_text(object, "file", listed->file, ok);
}

static void fill_listing(cJSON *root, const struct dm_listing *listing, bool *ok)
{
    put_version(root, "abi", DEMIST_ABI_EPOCH, DEMIST_ABI_MINOR, ok);
    cJSON *path = dm_json_put_array(root, "path", ok);
    for (size_t i = 0; i < listing->n_dirs; i++) {
        cJSON *dir = dm_json_append_object(path, ok);
        dm_json_put_text(dir, "dir", listing->dirs[i].path, ok);
        dm_json_put_text(dir, "origin", listing->dirs[i].origin, ok);
        dm_json_put_text(dir, "problem", listing->dirs[i].problem, ok);
    }
    cJSON *plugins = dm_json_put_array(root, "plugins", ok),
          *shadowed = dm_json_put_array(root, "shadowed", ok);
    cJSON *broken = dm_json_put_array(root, "broken", ok);
    for (size_t i = 0; i < listing->n_classes; i++) {
        const struct dm_listed_class *listed = &listing->classes[i];
        cJSON *object = dm_json_append_object(listed->class         ? plugins
                                              : listed->shadowed_by ? shadowed
                                                                    : broken,
                                              ok);
        if (!object)
            return;
        if (listed->class) {
            fill_class(object, listed->class, ok);
            continue;
        }
        put_name(object, listed, ok);
        if (listed->shadowed_by)
            dm_json_put_text(object, "by", listed->shadowed_by, ok);
        else
            dm_json_put_text(object, "reason", listed->broken, ok);
    }
}

demist_status dm_listing_print_json(struct dm_text *out, const struct dm_listing *listing,
                                    struct dm_error *err)
{
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    if (ok)
        fill_listing(root, listing, &ok);
    return dm_json_print(out, root, ok, err);
}

demist_status dm_class_print_json(struct dm_text *out, const struct dm_class *class,
                                  struct dm_error *err)
{
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    if (ok)
        fill_class(root, class, &ok);
    return dm_json_print(out, root, ok, err);
}

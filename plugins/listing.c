#include "listing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cJSON.h>

#include "number.h"
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

/* cJSON returns NULL without memory, from everything that is handed NULL too: one look at the
 * printed text is enough, but an item that could not be added would be lost. `ok` remembers. */
static void put(cJSON *object, const char *key, cJSON *item, bool *ok)
{
    if (!item || !cJSON_AddItemToObject(object, key, item)) {
        cJSON_Delete(item);
        *ok = false;
    }
}

static void put_text(cJSON *object, const char *key, const char *text, bool *ok)
{
    put(object, key, text ? cJSON_CreateString(text) : cJSON_CreateNull(), ok);
}

static void put_number(cJSON *object, const char *key, double number, bool *ok)
{
    char text[DM_DOUBLE_TEXT];
    put(object, key, cJSON_CreateRaw(dm_format_double(number, text)), ok);
}

static cJSON *put_array(cJSON *object, const char *key, bool *ok)
{
    cJSON *array = cJSON_CreateArray();
    put(object, key, array, ok);
    return *ok ? array : NULL;
}

/* A new object at the array's end; NULL without memory. */
static cJSON *append_object(cJSON *array, bool *ok)
{
    cJSON *object = array ? cJSON_CreateObject() : NULL;
    if (!object || !cJSON_AddItemToArray(array, object)) {
        cJSON_Delete(object);
        *ok = false;
        return NULL;
    }
    return object;
}

static void append_text(cJSON *array, const char *text, bool *ok)
{
    cJSON *item = array ? cJSON_CreateString(text) : NULL;
    if (!item || !cJSON_AddItemToArray(array, item)) {
        cJSON_Delete(item);
        *ok = false;
    }
}

static void put_version(cJSON *object, const char *key, uint32_t epoch, uint32_t minor, bool *ok)
{
    char text[32];
    snprintf(text, sizeof text, "%u.%u", (unsigned)epoch, (unsigned)minor);
    put_text(object, key, text, ok);
}

static const char *type_name(demist_option_type type)
{
    static const char *const names[] = {NULL, "bool", "int", "float", "enum", "string", "path"};
    return names[type];
}

static void put_option(cJSON *options, const demist_option *option, bool *ok)
{
    cJSON *object = append_object(options, ok);
    if (!object)
        return;
    put_text(object, "key", option->key, ok);
    put_text(object, "doc", option->doc, ok);
    put_text(object, "type", type_name(option->type), ok);
    put_text(object, "default", dm_schema_default(option), ok);
    put(object, "required", cJSON_CreateBool(option->flags & DEMIST_OPTION_REQUIRED), ok);
    put(object, "auto", cJSON_CreateBool(option->flags & DEMIST_OPTION_AUTO), ok);
    put(object, "list", cJSON_CreateBool(option->flags & DEMIST_OPTION_LIST), ok);
    if (option->has_range && option->min > -HUGE_VAL)
        put_number(object, "min", option->min, ok);
    if (option->has_range && option->max < HUGE_VAL)
        put_number(object, "max", option->max, ok);
    if (option->type == DEMIST_OPTION_ENUM) {
        cJSON *choices = put_array(object, "choices", ok);
        for (size_t i = 0; option->choices[i]; i++)
            append_text(choices, option->choices[i], ok);
    }
}

static void fill_class(cJSON *object, const struct dm_class *class, bool *ok)
{
    const demist_plugin *desc = &class->plugin->desc;
    put_text(object, "kind", dm_kind_name(class->kind), ok);
    put_text(object, "name", class->name, ok);
    put_text(object, "doc", class->doc, ok);
    put_text(object, "file", class->plugin->file, ok);
    put_text(object, "id", desc->id, ok);
    put_text(object, "version", desc->version, ok);
    put_text(object, "license", desc->license, ok);
    put_text(object, "url", desc->url, ok);
    put_version(object, "abi", desc->abi_epoch, desc->abi_minor, ok);
    put_version(object, "abi_needed", desc->abi_epoch, desc->abi_minor_needed, ok);
    cJSON *shadows = put_array(object, "shadows", ok);
    for (size_t i = 0; class->shadows[i]; i++)
        append_text(shadows, class->shadows[i], ok);
    cJSON *options = put_array(object, "options", ok);
    for (size_t i = 0; class->options[i]; i++)
        put_option(options, class->options[i], ok);
}

static void put_name(cJSON *object, const struct dm_listed_class *listed, bool *ok)
{
    put_text(object, "kind", listed->name ? dm_kind_name(listed->kind) : NULL, ok);
    put_text(object, "name", listed->name, ok);
    put_text(object, "file", listed->file, ok);
}

static void fill_listing(cJSON *root, const struct dm_listing *listing, bool *ok)
{
    put_version(root, "abi", DEMIST_ABI_EPOCH, DEMIST_ABI_MINOR, ok);
    cJSON *path = put_array(root, "path", ok);
    for (size_t i = 0; i < listing->n_dirs; i++) {
        cJSON *dir = append_object(path, ok);
        put_text(dir, "dir", listing->dirs[i].path, ok);
        put_text(dir, "origin", listing->dirs[i].origin, ok);
        put_text(dir, "problem", listing->dirs[i].problem, ok);
    }
    cJSON *plugins = put_array(root, "plugins", ok), *shadowed = put_array(root, "shadowed", ok);
    cJSON *broken = put_array(root, "broken", ok);
    for (size_t i = 0; i < listing->n_classes; i++) {
        const struct dm_listed_class *listed = &listing->classes[i];
        cJSON *object = append_object(listed->class         ? plugins
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
            put_text(object, "by", listed->shadowed_by, ok);
        else
            put_text(object, "reason", listed->broken, ok);
    }
}

/* Appends the document and deletes it. */
static demist_status print_json(struct dm_text *out, cJSON *root, bool ok, struct dm_error *err)
{
    char *text = ok ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    if (!text)
        return dm_fail_memory(err, "JSON");
    dm_text_append(out, text);
    dm_text_append(out, "\n");
    cJSON_free(text);
    return DEMIST_OK;
}

demist_status dm_listing_print_json(struct dm_text *out, const struct dm_listing *listing,
                                    struct dm_error *err)
{
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    if (ok)
        fill_listing(root, listing, &ok);
    return print_json(out, root, ok, err);
}

demist_status dm_class_print_json(struct dm_text *out, const struct dm_class *class,
                                  struct dm_error *err)
{
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    if (ok)
        fill_class(root, class, &ok);
    return print_json(out, root, ok, err);
}

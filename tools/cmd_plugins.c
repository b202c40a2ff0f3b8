/* demist plugins: what is installed, and what can be written into an INI file. */
#include "command.h"

#include "listing.h"
#include "schema.h"
#include "session.h"

#include <string.h>

struct plugins {
    struct common common;
    const char *name; /* KIND.NAME or a section of the program's own; NULL: all */
    bool ini, json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct plugins *plugins = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &plugins->common;
        return 0;
    case 'i':
        plugins->ini = true;
        return 0;
    case 'j':
        plugins->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (plugins->name)
            argp_error(state, "one name at a time, not \"%s\" and \"%s\"", plugins->name, arg);
        plugins->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (plugins->ini && plugins->json)
            argp_error(state, "--ini and --json exclude each other");
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"ini", 'i', NULL, 0, "print sections of an INI file, every key with its default", 0},
    {"json", 'j', NULL, 0, "print for programs", 0},
    {0},
};
static const struct argp_child children[] = {{&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "[KIND.NAME]",
    .doc = "List the plugins that are installed: schedules, samplers, networks and backends; or "
           "tell one's file, versions and options.\v"
           "In place of KIND.NAME a section of the program's own may stand: backend, schedule, "
           "network, sampler, sample, noise, output.\n\n"
           "Examples:\n"
           "  demist plugins\n"
           "  demist plugins sampler.ddim --ini\n"
           "  demist plugins sample --ini\n"
           "  demist plugins --ini                        all keys there are",
};

static const struct dm_core_section *core_section(const char *name)
{
    for (const struct dm_core_section *s = dm_core_sections; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

static void print_section(const struct dm_core_section *section, bool ini, struct dm_text *out)
{
    if (ini) {
        dm_schema_print_ini(out, section->name, section->doc, section->options);
        return;
    }
    dm_text_appendf(out, "[%s]\n  %s\n\n  options\n", section->name, section->doc);
    dm_schema_print_text(out, 4, section->options);
}

/* Splits "sampler.ddim". */
static demist_status parse_name(const char *text, demist_kind *kind, const char **name,
                                struct dm_error *err)
{
    const char *dot = strchr(text, '.');
    char kind_name[16] = "";
    if (dot && (size_t)(dot - text) < sizeof kind_name)
        memcpy(kind_name, text, (size_t)(dot - text));
    if (!dot || !dm_kind_parse(kind_name, kind))
        return dm_fail(err, DEMIST_CONFIG,
                       "\"%s\" is neither KIND.NAME, with schedule, sampler, network or backend as "
                       "KIND, nor one of the sections backend, schedule, network, sampler, sample, "
                       "noise, output",
                       text);
    *name = dot + 1;
    return DEMIST_OK;
}

static demist_status print_class(struct plugins *plugins, struct dm_registry *registry,
                                 struct dm_text *out, struct dm_error *err)
{
    const struct dm_class *cls;
    demist_kind kind;
    const char *name;
    DM_TRY(parse_name(plugins->name, &kind, &name, err));
    DM_TRY(dm_registry_find(registry, kind, name, &cls, err));
    if (plugins->json)
        return dm_class_print_json(out, cls, err);
    if (plugins->ini)
        dm_class_print_ini(out, cls);
    else
        dm_class_print_text(out, cls);
    return DEMIST_OK;
}

static demist_status print_all(struct plugins *plugins, struct dm_registry *registry,
                               struct dm_text *out, struct dm_error *err)
{
    const struct dm_listing *listing;
    DM_TRY(dm_registry_list(registry, &listing, err));
    if (plugins->json)
        return dm_listing_print_json(out, listing, err);
    if (!plugins->ini) {
        dm_listing_print_text(out, listing);
        return DEMIST_OK;
    }
    const char *between = "";
    for (const struct dm_core_section *s = dm_core_sections; s->name; s++, between = "\n") {
        dm_text_append(out, between);
        print_section(s, true, out);
    }
    for (size_t i = 0; i < listing->n_classes; i++)
        if (listing->classes[i].class) {
            dm_text_append(out, between);
            dm_class_print_ini(out, listing->classes[i].class);
        }
    return DEMIST_OK;
}

static demist_status print(void *state, struct dm_error *err)
{
    struct plugins *plugins = state;
    struct dm_text *out = &plugins->common.out;
    struct dm_registry *registry;
    const struct dm_core_section *core = plugins->name ? core_section(plugins->name) : NULL;
    if (core && plugins->json)
        return dm_fail(err, DEMIST_CONFIG, "--json tells about plugins, and [%s] is no plugin's",
                       core->name);
    if (core) {
        print_section(core, plugins->ini, out);
        return DEMIST_OK;
    }
    DM_TRY(dm_session_registry(plugins->common.session, &registry, err));
    return plugins->name ? print_class(plugins, registry, out, err)
                         : print_all(plugins, registry, out, err);
}

int cmd_plugins(int argc, char **argv)
{
    struct plugins plugins = {0};
    return run_command(&argp, argc, argv, &plugins, print);
}

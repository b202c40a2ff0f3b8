#include "descriptor.h"

#include <demist/backend.h>
#include <demist/network.h>
#include <demist/sampler.h>
#include <demist/schedule.h>

#include <string.h>

#include "schema.h"
#include "text.h"

/* A list that is not ended would be read for ever. */
enum { MAX_LIST = 1000 };

static const struct {
    demist_kind kind;
    const char *name;
} kinds[] = {
    {DEMIST_SCHEDULE, "schedule"},
    {DEMIST_SAMPLER, "sampler"},
    {DEMIST_NETWORK, "network"},
    {DEMIST_BACKEND, "backend"},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

const char *dm_kind_name(demist_kind kind)
{
    for (size_t i = 0; i < N_KINDS; i++)
        if (kinds[i].kind == kind)
            return kinds[i].name;
    return "unknown";
}

bool dm_kind_parse(const char *name, demist_kind *kind)
{
    for (size_t i = 0; i < N_KINDS; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            *kind = kinds[i].kind;
            return true;
        }
    }
    return false;
}

bool dm_is_class_name(const char *name)
{
    return name[0] && name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-")] == '\0';
}

const char *dm_plugin_place(const struct dm_plugin *plugin, struct dm_arena *arena)
{
    if (plugin->file)
        return plugin->file;
    const char *place = dm_arena_printf(arena, "%s (linked into the program)", plugin->desc.id);
    return place ? place : plugin->desc.id;
}

/* What the other side filled in of a growable struct, in zeroed memory of this side's size. A
 * member that `size` cuts in two does not exist: sizes are rounded down to whole pointers. */
static void *copy_growable(struct dm_arena *arena, const void *foreign, size_t own_size)
{
    unsigned char *copy = dm_arena_alloc(arena, own_size);
    if (!copy)
        return NULL;
    size_t size;
    memcpy(&size, foreign, sizeof size);
    size -= size % sizeof(void *);
    memcpy(copy, foreign, size < own_size ? size : own_size);
    memcpy(copy, &own_size, sizeof own_size);
    return copy;
}

/* --- the descriptor --- */

static demist_status check_version(const demist_plugin *foreign, const char *place,
                                   struct dm_error *err)
{
    if (!DEMIST_REACHES(foreign, abi_minor_needed))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: its descriptor has %zu bytes, too few to hold a version: build it with "
                       "demist's headers, and set .size = sizeof(demist_plugin)",
                       place, foreign->size);
    if (foreign->abi_epoch != DEMIST_ABI_EPOCH)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s was built against plugin ABI %u.%u, and this demist has ABI %u.%u: "
                       "%s",
                       place, (unsigned)foreign->abi_epoch, (unsigned)foreign->abi_minor,
                       DEMIST_ABI_EPOCH, DEMIST_ABI_MINOR,
                       foreign->abi_epoch < DEMIST_ABI_EPOCH
                           ? "rebuild the plugin with this demist's headers"
                           : "install the demist that it was made for, or rebuild the plugin with "
                             "this demist's headers");
    if (foreign->abi_minor_needed > DEMIST_ABI_MINOR)
        return dm_fail(
            err, DEMIST_INCOMPATIBLE,
            "%s needs plugin ABI %u.%u (it was built against %u.%u), and this demist has "
            "ABI %u.%u: install a newer demist, or an older version of the plugin",
            place, (unsigned)foreign->abi_epoch, (unsigned)foreign->abi_minor_needed,
            (unsigned)foreign->abi_epoch, (unsigned)foreign->abi_minor, DEMIST_ABI_EPOCH,
            DEMIST_ABI_MINOR);
    if (!DEMIST_REACHES(foreign, classes))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: its descriptor has %zu bytes, and ABI %u.%u begins with %zu: set "
                       ".size = sizeof(demist_plugin)",
                       place, foreign->size, (unsigned)foreign->abi_epoch,
                       (unsigned)foreign->abi_minor, sizeof(demist_plugin));
    return DEMIST_OK;
}

demist_status dm_plugin_read(const demist_plugin *foreign, const char *file, struct dm_arena *arena,
                             struct dm_plugin **plugin, struct dm_error *err)
{
    const char *place = file ? file : "a plugin that is linked into the program";
    DM_TRY(check_version(foreign, place, err));
    const struct {
        const char *member, *text;
    } texts[] = {{"id", foreign->id},
                 {"version", foreign->version},
                 {"license", foreign->license},
                 {"url", foreign->url}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!texts[i].text || (i == 0 && !texts[i].text[0]))
            return dm_fail(err, DEMIST_INCOMPATIBLE, "%s: its descriptor has no `%s`", place,
                           texts[i].member);
    if (!foreign->classes || !foreign->classes[0])
        return dm_fail(err, DEMIST_INCOMPATIBLE, "%s: its descriptor lists no class", place);

    struct dm_plugin *result = dm_arena_alloc(arena, sizeof *result);
    demist_plugin *desc = copy_growable(arena, foreign, sizeof *desc);
    const char *file_copy = file ? dm_arena_strdup(arena, file) : NULL;
    if (!result || !desc || (file && !file_copy))
        return dm_fail_memory(err, place);
    *result = (struct dm_plugin){.file = file_copy, .desc = *desc};
    *plugin = result;
    return DEMIST_OK;
}

/* --- vtables --- */

/* A member that every vtable of a kind has had since ABI 1.0. */
struct slot {
    size_t offset;
    const char *name;
};

#define SCHEDULE_SLOT(name)                                                                        \
    {                                                                                              \
        offsetof(demist_schedule_vtable, name), #name                                              \
    }
#define SAMPLER_SLOT(name)                                                                         \
    {                                                                                              \
        offsetof(demist_sampler_vtable, name), #name                                               \
    }
#define NETWORK_SLOT(name)                                                                         \
    {                                                                                              \
        offsetof(demist_network_vtable, name), #name                                               \
    }
#define BACKEND_SLOT(name)                                                                         \
    {                                                                                              \
        offsetof(demist_backend_vtable, name), #name                                               \
    }

static const struct slot schedule_slots[] = {
    SCHEDULE_SLOT(create), SCHEDULE_SLOT(destroy), SCHEDULE_SLOT(fill), {0, NULL}};
static const struct slot sampler_slots[] = {
    SAMPLER_SLOT(create), SAMPLER_SLOT(destroy), SAMPLER_SLOT(sample), {0, NULL}};
static const struct slot network_slots[] = {NETWORK_SLOT(create),
                                            NETWORK_SLOT(destroy),
                                            NETWORK_SLOT(describe),
                                            NETWORK_SLOT(build),
                                            {0, NULL}};
static const struct slot backend_slots[] = {BACKEND_SLOT(create),
                                            BACKEND_SLOT(destroy),
                                            BACKEND_SLOT(devices),
                                            BACKEND_SLOT(open),
                                            BACKEND_SLOT(close),
                                            BACKEND_SLOT(has_precision),
                                            BACKEND_SLOT(buffer_create),
                                            BACKEND_SLOT(buffer_destroy),
                                            BACKEND_SLOT(buffer_write),
                                            BACKEND_SLOT(buffer_read),
                                            BACKEND_SLOT(buffer_copy),
                                            BACKEND_SLOT(queue_create),
                                            BACKEND_SLOT(queue_destroy),
                                            BACKEND_SLOT(synchronize),
                                            BACKEND_SLOT(event_record),
                                            BACKEND_SLOT(event_wait),
                                            BACKEND_SLOT(event_destroy),
                                            BACKEND_SLOT(supports),
                                            BACKEND_SLOT(compile),
                                            BACKEND_SLOT(program_destroy),
                                            BACKEND_SLOT(program_info),
                                            BACKEND_SLOT(update_params),
                                            BACKEND_SLOT(bind),
                                            BACKEND_SLOT(binding_destroy),
                                            BACKEND_SLOT(execute),
                                            BACKEND_SLOT(observability),
                                            BACKEND_SLOT(observe),
                                            BACKEND_SLOT(profile),
                                            {0, NULL}};

static const struct slot *vtable_slots(demist_kind kind, size_t *own_size)
{
    switch (kind) {
    case DEMIST_SCHEDULE:
        *own_size = sizeof(demist_schedule_vtable);
        return schedule_slots;
    case DEMIST_SAMPLER:
        *own_size = sizeof(demist_sampler_vtable);
        return sampler_slots;
    case DEMIST_NETWORK:
        *own_size = sizeof(demist_network_vtable);
        return network_slots;
    case DEMIST_BACKEND:
        *own_size = sizeof(demist_backend_vtable);
        return backend_slots;
    }
    return NULL;
}

static demist_status read_vtable(const demist_class *foreign, const char *where,
                                 struct dm_arena *arena, const void **vtable, struct dm_error *err)
{
    if (!foreign->vtable)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "%s has no vtable", where);
    size_t own_size = 0;
    const struct slot *slots = vtable_slots(foreign->kind, &own_size);
    if (!slots)
        return dm_fail(err, DEMIST_INVALID, "%s: the kind %d is unknown to this demist", where,
                       (int)foreign->kind);
    size_t size;
    memcpy(&size, foreign->vtable, sizeof size);
    if (size < sizeof size)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: its vtable does not begin with its size: set .size = "
                       "sizeof(demist_%s_vtable)",
                       where, dm_kind_name(foreign->kind));
    const unsigned char *copy = copy_growable(arena, foreign->vtable, own_size);
    if (!copy)
        return dm_fail_memory(err, where);
    for (; slots->name; slots++) {
        void (*member)(void);
        memcpy(&member, copy + slots->offset, sizeof member);
        if (!member)
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "%s: its vtable lacks `%s`, which every %s must have (demist/%s.h)",
                           where, slots->name, dm_kind_name(foreign->kind),
                           dm_kind_name(foreign->kind));
    }
    *vtable = copy;
    return DEMIST_OK;
}

/* --- options --- */

static demist_status read_options(const demist_option *const *foreign, const char *where,
                                  struct dm_arena *arena, const demist_option *const **options,
                                  struct dm_error *err)
{
    size_t n = 0;
    while (foreign && foreign[n] && n < MAX_LIST)
        n++;
    if (n == MAX_LIST)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "%s: its list of options is not NULL-ended",
                       where);
    const demist_option **copies = dm_arena_array(arena, n + 1, sizeof *copies);
    if (!copies)
        return dm_fail_memory(err, where);
    for (size_t i = 0; i < n; i++) {
        if (!DEMIST_REACHES(foreign[i], flags))
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "%s: its option %zu has a size of %zu bytes: set .size = "
                           "sizeof(demist_option)",
                           where, i, foreign[i]->size);
        copies[i] = copy_growable(arena, foreign[i], sizeof(demist_option));
        if (!copies[i])
            return dm_fail_memory(err, where);
    }
    if (dm_schema_check(copies, err) != DEMIST_OK)
        return dm_fail_where(err, "%s", where);
    *options = copies;
    return DEMIST_OK;
}

/* --- classes --- */

static demist_status find_class(const struct dm_plugin *plugin, demist_kind kind, const char *name,
                                const char *place, const demist_class **found, struct dm_error *err)
{
    struct dm_text has = DM_TEXT_INIT;
    demist_status status = DEMIST_OK;
    *found = NULL;
    for (size_t i = 0; plugin->desc.classes[i] && status == DEMIST_OK; i++) {
        const demist_class *class = plugin->desc.classes[i];
        if (i == MAX_LIST) {
            status = dm_fail(err, DEMIST_INCOMPATIBLE, "%s: its list of classes is not NULL-ended",
                             place);
        } else if (!DEMIST_REACHES(class, vtable) || !class->name) {
            status =
                dm_fail(err, DEMIST_INCOMPATIBLE,
                        "%s: its class %zu has %s: set .size = sizeof(demist_class), and a "
                        ".name",
                        place, i, class->size < sizeof *class ? "too small a size" : "no name");
        } else if (class->kind == kind && strcmp(class->name, name) == 0) {
            if (*found)
                status = dm_fail(err, DEMIST_INCOMPATIBLE, "%s lists %s %s twice", place,
                                 dm_kind_name(kind), name);
            *found = class;
        } else {
            dm_text_appendf(&has, "%s%s \"%s\"", i ? ", " : "", dm_kind_name(class->kind),
                            class->name);
        }
    }
    if (status == DEMIST_OK && !*found)
        status = dm_fail(err, DEMIST_NOT_FOUND,
                         "%s has no %s \"%s\"; what it has is %s: a file is named after what it "
                         "has, as sampler-ddim.so",
                         place, dm_kind_name(kind), name, has.data ? has.data : "?");
    dm_text_finish(&has);
    return status;
}

demist_status dm_class_read(const struct dm_plugin *plugin, demist_kind kind, const char *name,
                            struct dm_arena *arena, struct dm_class **result, struct dm_error *err)
{
    const char *place = dm_plugin_place(plugin, arena);
    const demist_class *foreign;
    DM_TRY(find_class(plugin, kind, name, place, &foreign, err));
    const char *where =
        dm_arena_printf(arena, "%s: %s \"%s\"", place, dm_kind_name(kind), foreign->name);
    struct dm_class *class = dm_arena_alloc(arena, sizeof *class);
    const char *const *no_shadows = dm_arena_alloc(arena, sizeof *no_shadows);
    if (!where || !class || !no_shadows)
        return dm_fail_memory(err, place);
    if (!dm_is_class_name(foreign->name))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: the name must be of lower-case letters, digits, _ and -", where);
    if (!foreign->doc || !foreign->doc[0] || strpbrk(foreign->doc, "\r\n"))
        return dm_fail(err, DEMIST_INCOMPATIBLE, "%s: its `doc` must be one line", where);
    *class = (struct dm_class){.plugin = plugin,
                               .kind = kind,
                               .name = foreign->name,
                               .doc = foreign->doc,
                               .shadows = no_shadows};
    DM_TRY(read_options(foreign->options, where, arena, &class->options, err));
    DM_TRY(read_vtable(foreign, where, arena, &class->vtable, err));
    *result = class;
    return DEMIST_OK;
}

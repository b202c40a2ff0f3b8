/* demist devices: what each installed backend could compute on. */
#include "command.h"

#include "jsonout.h"
#include "schema.h"
#include "session.h"

#include <demist/backend.h>

#include <string.h>

struct devices {
    struct common common;
    bool json;
    cJSON *root, *backends; /* with --json */
    bool ok;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct devices *devices = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &devices->common;
        return 0;
    case 'j':
        devices->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "devices takes no argument, such as \"%s\"", arg);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"json", 'j', NULL, 0, "print for programs", 0},
    {0},
};
static const struct argp_child children[] = {{&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .doc = "List the devices of all installed backends; those that cannot be used with the reason.",
};

static const char *type_name(demist_device_type type)
{
    switch (type) {
    case DEMIST_DEVICE_CPU:
        return "CPU";
    case DEMIST_DEVICE_GPU:
        return "GPU";
    case DEMIST_DEVICE_ACCELERATOR:
        return "accelerator";
    }
    return "device";
}

/* "  1  NVIDIA H200, GPU, 139.8 GiB, driver 550.54, sm_90". */
static void print_device(struct dm_text *out, int32_t i, const demist_device_info *info)
{
    dm_text_appendf(out, "  %d  %s, %s", (int)i, info->name, type_name(info->type));
    if (info->memory_bytes > 0)
        dm_text_appendf(out, ", %.1f GiB", (double)info->memory_bytes / (1 << 30));
    if (info->driver && info->driver[0])
        dm_text_appendf(out, ", %s", info->driver);
    if (info->detail && info->detail[0])
        dm_text_appendf(out, ", %s", info->detail);
    dm_text_append(out, "\n");
    if (info->unusable)
        dm_text_appendf(out, "     cannot be used: %s\n", info->unusable);
}

static void put_device(cJSON *list, int32_t i, const demist_device_info *info, bool *ok)
{
    cJSON *object = dm_json_append_object(list, ok);
    dm_json_put_integer(object, "index", i, ok);
    dm_json_put_text(object, "name", info->name, ok);
    dm_json_put_text(object, "type", type_name(info->type), ok);
    dm_json_put_text(object, "driver", info->driver, ok);
    dm_json_put_text(object, "detail", info->detail, ok);
    dm_json_put_integer(object, "memory_bytes", info->memory_bytes, ok);
    dm_json_put_text(object, "unusable", info->unusable, ok);
}

/* A backend that has no list of devices, and why. */
static void print_broken(struct devices *d, const char *name, const char *why)
{
    if (!d->json) {
        dm_text_appendf(&d->common.out, "backend %s\n  cannot be used: %s\n", name, why);
        return;
    }
    cJSON *object = dm_json_append_object(d->backends, &d->ok);
    dm_json_put_text(object, "backend", name, &d->ok);
    dm_json_put_text(object, "unusable", why, &d->ok);
    dm_json_put_array(object, "devices", &d->ok);
}

static void print_infos(struct devices *d, const char *name, const demist_device_info *const *infos,
                        int32_t n)
{
    if (!d->json) {
        dm_text_appendf(&d->common.out, "backend %s\n%s", name, n ? "" : "  no device\n");
        for (int32_t i = 0; i < n; i++)
            print_device(&d->common.out, i, infos[i]);
        return;
    }
    cJSON *object = dm_json_append_object(d->backends, &d->ok);
    dm_json_put_text(object, "backend", name, &d->ok);
    dm_json_put_text(object, "unusable", NULL, &d->ok);
    cJSON *list = dm_json_put_array(object, "devices", &d->ok);
    for (int32_t i = 0; i < n; i++)
        put_device(list, i, infos[i], &d->ok);
}

/* Asks one backend, with all options at their defaults. */
static demist_status list_devices(struct devices *d, const struct dm_environment *env,
                                  const struct dm_class *cls, struct dm_error *err)
{
    struct dm_arena arena = {0};
    struct dm_ini empty = {.file = "the defaults"};
    struct dm_instance instance = {0};
    const demist_value *const *values;
    const demist_backend_vtable *vtable = cls->vtable;
    const demist_device_info *const *infos = NULL;
    int32_t n = 0;
    demist_status status = dm_schema_parse(&empty, "backend", cls->options, &arena, &values, err);
    if (status == DEMIST_OK)
        status = dm_instance_create(&instance, cls, values, &env->services, err);
    if (status == DEMIST_OK)
        status = dm_instance_check(&instance, "devices", vtable->devices(instance.self, &infos, &n),
                                   err);
    if (status == DEMIST_OK)
        print_infos(d, cls->name, infos, n);
    dm_instance_destroy(&instance);
    dm_arena_finish(&arena);
    return status;
}

static demist_status print_backends(struct devices *d, struct dm_error *err)
{
    const struct dm_environment *env;
    const struct dm_listing *listing;
    DM_TRY(dm_session_environment(d->common.session, &env, err));
    DM_TRY(dm_registry_list(env->registry, &listing, err));
    for (size_t i = 0; i < listing->n_classes; i++) {
        const struct dm_listed_class *listed = &listing->classes[i];
        if (listed->kind != DEMIST_BACKEND || listed->shadowed_by)
            continue;
        if (listed->broken) {
            print_broken(d, listed->name, listed->broken);
            continue;
        }
        demist_status status = list_devices(d, env, listed->class, err);
        if (status == DEMIST_NO_MEMORY)
            return status;
        if (status != DEMIST_OK)
            print_broken(d, listed->name, err->text ? err->text : demist_status_text(status));
        dm_error_clear(err);
    }
    return DEMIST_OK;
}

static demist_status print(void *state, struct dm_error *err)
{
    struct devices *d = state;
    if (d->json) {
        d->root = cJSON_CreateObject();
        d->backends = dm_json_put_array(d->root, "backends", &d->ok);
    }
    demist_status status = print_backends(d, err);
    if (!d->json || status != DEMIST_OK) {
        cJSON_Delete(d->root);
        return status;
    }
    return dm_json_print(&d->common.out, d->root, d->ok, err);
}

int cmd_devices(int argc, char **argv)
{
    struct devices devices = {.ok = true};
    return run_command(&argp, argc, argv, &devices, print);
}

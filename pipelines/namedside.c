#include "namedside.h"

#include <string.h>

demist_status dm_split_side(struct dm_arena *arena, const char *label, const char **name,
                            int *precision, struct dm_error *err)
{
    const char *colon = strchr(label, ':');
    *precision = -1;
    *name = dm_arena_strndup(arena, label, colon ? (size_t)(colon - label) : strlen(label));
    if (!*name)
        return dm_fail_memory(err, "a backend's name");
    for (int p = 0; colon && dm_precision_names[p]; p++)
        if (strcmp(colon + 1, dm_precision_names[p]) == 0)
            *precision = p;
    if (!**name || (colon && *precision < 0))
        return dm_fail(err, DEMIST_CONFIG,
                       "--backends %s: write NAME or NAME:PRECISION, as in cpu or cpu:bf16 (f32, "
                       "strict, tf32, bf16, f16)",
                       label);
    return DEMIST_OK;
}

/* The name stands on the command line, not in the description: a mistake of usage. */
static demist_status named_wrongly(const char *label, struct dm_error *err)
{
    dm_fail_where(err, "--backends %s", label);
    if (err && err->status == DEMIST_NOT_FOUND)
        err->status = DEMIST_CONFIG;
    return err ? err->status : DEMIST_CONFIG;
}

demist_status dm_open_side(struct dm_setup *setup, const char *label, int precision,
                           struct dm_device *device, struct dm_error *err)
{
    struct dm_instance instance;
    const char *name;
    int own;
    DM_TRY(dm_split_side(&setup->arena, label, &name, &own, err));
    const struct dm_class *cls;
    if (dm_registry_find(setup->env->registry, DEMIST_BACKEND, name, &cls, err) != DEMIST_OK)
        return named_wrongly(label, err);
    DM_TRY(dm_setup_instance(setup, DEMIST_BACKEND, name, &instance, err));
    return dm_device_open(device, &instance, (demist_precision)(own >= 0 ? own : precision), err);
}

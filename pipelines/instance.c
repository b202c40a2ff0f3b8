#include "instance.h"

#include "schema.h"

#include <demist/backend.h>
#include <demist/network.h>
#include <demist/sampler.h>
#include <demist/schedule.h>

#include <stdio.h>
#include <stdlib.h>

typedef demist_status (*create_fn)(const demist_host *, const demist_value *const *, void **);
typedef void (*destroy_fn)(void *);

/* Every kind's vtable has the same two members, at places of its own. */
static void lifecycle(const struct dm_class *cls, create_fn *create, destroy_fn *destroy)
{
#define OF(type)                                                                                   \
    do {                                                                                           \
        const type *vtable = cls->vtable;                                                          \
        *create = vtable->create;                                                                  \
        *destroy = vtable->destroy;                                                                \
        return;                                                                                    \
    } while (0)
    switch (cls->kind) {
    case DEMIST_SCHEDULE:
        OF(demist_schedule_vtable);
    case DEMIST_SAMPLER:
        OF(demist_sampler_vtable);
    case DEMIST_NETWORK:
        OF(demist_network_vtable);
    case DEMIST_BACKEND:
        OF(demist_backend_vtable);
    }
#undef OF
    *create = NULL;
    *destroy = NULL;
}

demist_status dm_instance_create(struct dm_instance *instance, const struct dm_class *cls,
                                 const demist_value *const *values,
                                 const struct dm_services *services, struct dm_error *err)
{
    create_fn create;
    destroy_fn destroy;
    lifecycle(cls, &create, &destroy);
    *instance = (struct dm_instance){.cls = cls, .values = values};
    struct dm_host *host = malloc(sizeof *host);
    if (!host)
        return dm_fail_memory(err, "a plugin's host table");
    char who[128];
    snprintf(who, sizeof who, "%s %s", dm_kind_name(cls->kind), cls->name);
    demist_status status = dm_host_init(host, who, services->log, services->pool, err);
    if (status != DEMIST_OK) {
        free(host);
        return status;
    }
    instance->host = host;
    status =
        dm_instance_check(instance, "create", create(&host->table, values, &instance->self), err);
    if (status != DEMIST_OK) {
        dm_host_finish(host);
        free(host);
        *instance = (struct dm_instance){0};
    }
    return status;
}

const demist_value *dm_instance_value(const struct dm_instance *instance, const char *key)
{
    int i = dm_schema_index(instance->cls->options, key);
    return i < 0 ? NULL : instance->values[i];
}

void dm_instance_destroy(struct dm_instance *instance)
{
    if (!instance->host)
        return;
    create_fn create;
    destroy_fn destroy;
    lifecycle(instance->cls, &create, &destroy);
    destroy(instance->self);
    dm_host_finish(instance->host);
    free(instance->host);
    *instance = (struct dm_instance){0};
}

demist_status dm_instance_check(struct dm_instance *instance, const char *function,
                                demist_status status, struct dm_error *err)
{
    return dm_host_take_error(instance->host, function, status, err);
}

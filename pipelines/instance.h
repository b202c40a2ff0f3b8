/* An instance of a plugin's class: created with validated options, destroyed before its host
 * table. */
#ifndef DM_INSTANCE_H
#define DM_INSTANCE_H

#include "descriptor.h"
#include "hosttable.h"

/* What every instance may use. Must outlive the instances. */
struct dm_services {
    const struct dm_log *log;
    struct dm_pool *pool;
};

struct dm_instance {
    const struct dm_class *cls;
    const demist_value *const *values; /* in schema order; borrowed */
    struct dm_host *host;              /* owned; NULL: no instance */
    void *self;
};

/* Creates an instance. `values`, in schema order, must outlive it. */
demist_status dm_instance_create(struct dm_instance *instance, const struct dm_class *cls,
                                 const demist_value *const *values,
                                 const struct dm_services *services, struct dm_error *err);
/* The value of an option of the instance's class; NULL when the class has none of that key. */
const demist_value *dm_instance_value(const struct dm_instance *instance, const char *key);

void dm_instance_destroy(struct dm_instance *instance); /* a zeroed one is legal */

/* The error of a call of the member `function` that returned `status`. */
demist_status dm_instance_check(struct dm_instance *instance, const char *function,
                                demist_status status, struct dm_error *err);

#endif

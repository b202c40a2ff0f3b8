/* An opened compute device: the backend's instance, its device and one queue.
 *
 * Every call into the backend goes through here or through dm_device_check, so that each failure
 * names the backend and says it in the backend's own words. */
#ifndef DM_DEVICE_H
#define DM_DEVICE_H

#include <demist/backend.h>

#include "instance.h"
#include "passes.h"

/* A zeroed struct is closed. */
struct dm_device {
    struct dm_instance instance;
    const demist_backend_vtable *vtable;
    demist_device *device;
    demist_queue *queue;
    demist_precision precision;
    demist_device_type type;
    char name[160]; /* of the device */
    char driver[160];
    char detail[160];
};

/* The NULL-ended list "f32", "strict", …, in the order of demist_precision. */
extern const char *const dm_precision_names[];

/* Opens the device that the instance's options choose. Takes the instance over, also when it
 * fails. */
demist_status dm_device_open(struct dm_device *device, struct dm_instance *instance,
                             demist_precision precision, struct dm_error *err);
void dm_device_close(struct dm_device *device);

/* The error of a backend's member `function` that returned `status`. */
demist_status dm_device_check(struct dm_device *device, const char *function, demist_status status,
                              struct dm_error *err);

/* A buffer; `what` is for the error. */
demist_status dm_device_buffer(struct dm_device *device, size_t bytes, const char *what,
                               demist_buffer **buffer, struct dm_error *err);

/* Beside DEMIST_COMPILE_…: nothing is fused, so that every value can be observed. */
#define DM_COMPILE_UNFUSED (1u << 31)

/* Lowers the graph for this device and compiles it with frozen parameters and `flags`
 * (DEMIST_COMPILE_…, DM_COMPILE_UNFUSED). lowered, where not NULL, gets what was compiled; the
 * caller destroys its graph. */
demist_status dm_device_compile(struct dm_device *device, const struct dm_graph *graph,
                                int64_t max_batch, uint32_t flags, demist_program **program,
                                struct dm_lowered *lowered, struct dm_error *err);

#endif

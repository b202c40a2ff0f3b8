/* The reference backend: the oracle that every other backend is compared with.
 *
 * Plain C loops, float32 storage, float64 sums, one function per op, written to be read. It splits
 * work over the host's threads, so that tests can afford it, and fuses nothing. Operations run
 * when they are called: a queue is empty when the call returns, and a failure is that call's.
 *
 * This file: the device, its memory, queues, and the vtable. ref_program.c compiles and executes,
 * ref_ops_*.c compute. */
#include "ref_program.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct reference {
    const demist_host *host;
    char name[128], detail[64];
    demist_device_info info;
    const demist_device_info *list[1];
};

/* --- the instance and its one device --- */

static void destroy(void *self)
{
    struct reference *r = (struct reference *)self;
    if (r)
        r->host->free(r->host, r);
}

/* The "model name" of /proc/cpuinfo, where there is one. */
static void read_cpu_name(char *name, size_t size)
{
    char line[256];
    snprintf(name, size, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(name, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    fclose(file);
}

/* Fills in what the one device is. */
static void describe(struct reference *r)
{
    read_cpu_name(r->name, sizeof r->name);
    snprintf(r->detail, sizeof r->detail, "%d thread%s", r->host->n_workers,
             r->host->n_workers == 1 ? "" : "s");
    r->info = DEMIST_INIT(demist_device_info);
    r->info.name = r->name;
    r->info.type = DEMIST_DEVICE_CPU;
    r->info.driver = "";
    r->info.detail = r->detail;
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    r->info.memory_bytes = pages > 0 && page > 0 ? (int64_t)pages * page : 0;
    r->list[0] = &r->info;
}

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    (void)values;
    struct reference *r = (struct reference *)host->alloc(host, sizeof *r, 0);
    if (!r)
        return DEMIST_NO_MEMORY;
    memset(r, 0, sizeof *r);
    r->host = host;
    describe(r);
    *self = r;
    return DEMIST_OK;
}

static demist_status devices(void *self, const demist_device_info *const **infos, int32_t *n)
{
    struct reference *r = (struct reference *)self;
    *infos = r->list;
    *n = 1;
    return DEMIST_OK;
}

static demist_status open_device(void *self, int32_t index, demist_device **device)
{
    struct reference *r = (struct reference *)self;
    if (index != -1 && index != 0)
        return r->host->fail(r->host, DEMIST_NOT_FOUND,
                             "there is no device %d: the reference backend has device 0 alone",
                             (int)index);
    demist_device *d = (demist_device *)r->host->alloc(r->host, sizeof *d, 0);
    if (!d)
        return DEMIST_NO_MEMORY;
    d->host = r->host;
    d->info = &r->info;
    d->philox = (const demist_philox *)r->host->extension(r->host, DEMIST_EXT_PHILOX);
    *device = d;
    return DEMIST_OK;
}

static void close_device(demist_device *device)
{
    if (device)
        device->host->free(device->host, device);
}

static const demist_device_info *device_info(demist_device *device)
{
    return device->info;
}

static bool has_precision(demist_device *device, demist_precision precision)
{
    (void)device;
    return precision == DEMIST_PRECISION_F32 || precision == DEMIST_PRECISION_STRICT;
}

static bool supports(demist_device *device, const demist_node *node, const char **why)
{
    (void)device;
    return ref_op_supports(node, why);
}

/* --- memory --- */

static demist_status buffer_create(demist_device *device, size_t bytes, demist_buffer **buffer)
{
    const demist_host *host = device->host;
    demist_buffer *b = (demist_buffer *)host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (demist_buffer){device, (char *)host->alloc(host, bytes > 0 ? bytes : 1, 0), bytes};
    if (!b->data) {
        host->free(host, b);
        return DEMIST_NO_MEMORY;
    }
    *buffer = b;
    return DEMIST_OK;
}

static void buffer_destroy(demist_buffer *buffer)
{
    if (!buffer)
        return;
    const demist_host *host = buffer->device->host;
    host->free(host, buffer->data);
    host->free(host, buffer);
}

demist_status ref_check_span(const demist_buffer *buffer, size_t from, size_t bytes,
                             const char *operation)
{
    const demist_host *host = buffer->device->host;
    if (from <= buffer->bytes && bytes <= buffer->bytes - from)
        return DEMIST_OK;
    return host->fail(host, DEMIST_INVALID,
                      "%s of %zu bytes at offset %zu does not lie in a buffer of %zu bytes",
                      operation, bytes, from, buffer->bytes);
}

static demist_status buffer_write(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                  const void *src, size_t bytes)
{
    (void)queue;
    demist_status status = ref_check_span(buffer, offset, bytes, "buffer_write");
    if (status == DEMIST_OK && bytes > 0)
        memcpy(buffer->data + offset, src, bytes);
    return status;
}

static demist_status buffer_read(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                 void *dst, size_t bytes)
{
    (void)queue;
    demist_status status = ref_check_span(buffer, offset, bytes, "buffer_read");
    if (status == DEMIST_OK && bytes > 0)
        memcpy(dst, buffer->data + offset, bytes);
    return status;
}

static demist_status buffer_copy(demist_queue *queue, demist_buffer *dst, size_t dst_offset,
                                 demist_buffer *src, size_t src_offset, size_t bytes)
{
    (void)queue;
    demist_status status = ref_check_span(dst, dst_offset, bytes, "buffer_copy (to)");
    if (status == DEMIST_OK)
        status = ref_check_span(src, src_offset, bytes, "buffer_copy (from)");
    if (status == DEMIST_OK && bytes > 0)
        memmove(dst->data + dst_offset, src->data + src_offset, bytes);
    return status;
}

/* --- queues and events --- */

static demist_status queue_create(demist_device *device, demist_queue **queue)
{
    demist_queue *q = (demist_queue *)device->host->alloc(device->host, sizeof *q, 0);
    if (!q)
        return DEMIST_NO_MEMORY;
    q->device = device;
    *queue = q;
    return DEMIST_OK;
}

static void queue_destroy(demist_queue *queue)
{
    if (queue)
        queue->device->host->free(queue->device->host, queue);
}

static demist_status synchronize(demist_queue *queue)
{
    (void)queue;
    return DEMIST_OK;
}

static demist_status event_record(demist_queue *queue, demist_event **event)
{
    const demist_host *host = queue->device->host;
    demist_event *e = (demist_event *)host->alloc(host, sizeof *e, 0);
    if (!e)
        return DEMIST_NO_MEMORY;
    e->device = queue->device;
    *event = e;
    return DEMIST_OK;
}

static demist_status event_wait(demist_queue *queue, demist_event *event)
{
    const demist_host *host = queue->device->host;
    if (event->device != queue->device)
        return host->fail(host, DEMIST_INVALID, "the event belongs to another device");
    return DEMIST_OK;
}

static void event_destroy(demist_event *event)
{
    if (event)
        event->device->host->free(event->device->host, event);
}

/* --- the plugin --- */

static const demist_backend_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .devices = devices,
    .open = open_device,
    .close = close_device,
    .has_precision = has_precision,
    .buffer_create = buffer_create,
    .buffer_destroy = buffer_destroy,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_copy = buffer_copy,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .synchronize = synchronize,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_destroy = event_destroy,
    .supports = supports,
    .compile = ref_compile,
    .program_destroy = ref_program_destroy,
    .program_info = ref_program_info,
    .update_params = ref_update_params,
    .bind = ref_bind,
    .binding_destroy = ref_binding_destroy,
    .execute = ref_execute,
    .observability = ref_observability,
    .observe = ref_observe,
    .profile = ref_profile,
    .device_info = device_info,
};

static const demist_class reference = {
    .size = sizeof reference,
    .kind = DEMIST_BACKEND,
    .name = "reference",
    .doc = "the oracle: plain C loops with float64 sums, to compare other backends with",
    .vtable = &vtable,
};

static const demist_class *const classes[] = {&reference, NULL};

DEMIST_PLUGIN(backend_reference) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .abi_minor_needed = 0,
    .id = "demist.backend-reference",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

/* The CPU backend: the default, and the fastest that this processor allows.
 *
 * One device, the processor; the level of its instruction set is chosen when the plugin is created
 * and may be forced by an option. Within a level results are the same bits on every machine, for
 * any number of threads and any batch. docs/cpu.md tells how it works.
 *
 * This file: the device, its memory, queues, and the vtable. cpu_compile.c turns graphs into steps,
 * cpu_execute.c runs them, cpu_kernel_body.h has the arithmetic. */
#include "cpu_program.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct cpu {
    const demist_host *host;
    const struct cpu_kernels *kernels;
    char name[128], detail[96];
    demist_device_info info;
    const demist_device_info *list[1];
};

/* --- the instance and its one device --- */

static void destroy(void *self)
{
    struct cpu *c = self;
    if (c)
        c->host->free(c->host, c);
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

static void describe(struct cpu *c)
{
    read_cpu_name(c->name, sizeof c->name);
    snprintf(c->detail, sizeof c->detail, "%s, %d thread%s", c->kernels->name, c->host->n_workers,
             c->host->n_workers == 1 ? "" : "s");
    c->info = DEMIST_INIT(demist_device_info);
    c->info.name = c->name;
    c->info.type = DEMIST_DEVICE_CPU;
    c->info.driver = "";
    c->info.detail = c->detail;
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    c->info.memory_bytes = pages > 0 && page > 0 ? (int64_t)pages * page : 0;
    c->list[0] = &c->info;
}

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    const char *why = NULL;
    const struct cpu_kernels *kernels = cpu_find_kernels(values[0]->text, &why);
    if (!kernels)
        return host->fail(host, DEMIST_DEVICE,
                          "isa = %s cannot be used here: %s; give isa = auto for the best there is",
                          values[0]->text, why);
    struct cpu *c = host->alloc(host, sizeof *c, 0);
    if (!c)
        return DEMIST_NO_MEMORY;
    memset(c, 0, sizeof *c);
    c->host = host;
    c->kernels = kernels;
    describe(c);
    *self = c;
    return DEMIST_OK;
}

static demist_status devices(void *self, const demist_device_info *const **infos, int32_t *n)
{
    struct cpu *c = self;
    *infos = c->list;
    *n = 1;
    return DEMIST_OK;
}

static demist_status open_device(void *self, int32_t index, demist_device **device)
{
    struct cpu *c = self;
    if (index != -1 && index != 0)
        return c->host->fail(c->host, DEMIST_NOT_FOUND,
                             "there is no device %d: the cpu backend has device 0 alone",
                             (int)index);
    demist_device *d = c->host->alloc(c->host, sizeof *d, 0);
    if (!d)
        return DEMIST_NO_MEMORY;
    d->host = c->host;
    d->kernels = c->kernels;
    d->info = &c->info;
    d->philox = c->host->extension(c->host, DEMIST_EXT_PHILOX);
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

bool cpu_has_precision(demist_device *device, demist_precision precision)
{
    (void)device;
    return precision == DEMIST_PRECISION_F32 || precision == DEMIST_PRECISION_STRICT ||
           precision == DEMIST_PRECISION_BF16;
}

/* --- memory --- */

static demist_status buffer_create(demist_device *device, size_t bytes, demist_buffer **buffer)
{
    const demist_host *host = device->host;
    demist_buffer *b = host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (demist_buffer){device, host->alloc(host, bytes > 0 ? bytes : 1, 0), bytes};
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

static demist_status check_span(const demist_buffer *buffer, size_t from, size_t bytes,
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
    CPU_TRY(check_span(buffer, offset, bytes, "buffer_write"));
    if (bytes > 0)
        memcpy(buffer->data + offset, src, bytes);
    return DEMIST_OK;
}

static demist_status buffer_read(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                 void *dst, size_t bytes)
{
    (void)queue;
    CPU_TRY(check_span(buffer, offset, bytes, "buffer_read"));
    if (bytes > 0)
        memcpy(dst, buffer->data + offset, bytes);
    return DEMIST_OK;
}

static demist_status buffer_copy(demist_queue *queue, demist_buffer *dst, size_t dst_offset,
                                 demist_buffer *src, size_t src_offset, size_t bytes)
{
    (void)queue;
    CPU_TRY(check_span(dst, dst_offset, bytes, "buffer_copy (to)"));
    CPU_TRY(check_span(src, src_offset, bytes, "buffer_copy (from)"));
    if (bytes > 0)
        memmove(dst->data + dst_offset, src->data + src_offset, bytes);
    return DEMIST_OK;
}

/* --- queues and events: everything is done when its call returns --- */

struct demist_queue {
    demist_device *device;
};

struct demist_event {
    demist_device *device;
};

static demist_status queue_create(demist_device *device, demist_queue **queue)
{
    demist_queue *q = device->host->alloc(device->host, sizeof *q, 0);
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
    demist_event *e = host->alloc(host, sizeof *e, 0);
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

static const char *const levels[] = {"auto",        "generic", "avx2",         "avx512",
                                     "avx512-bf16", "amx",     "amx-emulated", NULL};

static const demist_option isa = {
    .size = sizeof isa,
    .key = "isa",
    .doc = "instruction set: auto takes the best but amx; another level gives slightly other "
           "roundings; amx-emulated is for tests",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "auto",
    .choices = levels,
};

static const demist_option *const options[] = {&isa, NULL};

static const demist_backend_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .devices = devices,
    .open = open_device,
    .close = close_device,
    .has_precision = cpu_has_precision,
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
    .supports = cpu_supports,
    .compile = cpu_compile,
    .program_destroy = cpu_program_destroy,
    .program_info = cpu_program_info,
    .update_params = cpu_update_params,
    .bind = cpu_bind,
    .binding_destroy = cpu_binding_destroy,
    .execute = cpu_execute,
    .observability = cpu_observability,
    .observe = cpu_observe,
    .profile = cpu_profile,
    .device_info = device_info,
    .compile_reading = cpu_compile_reading,
};

static const demist_class cpu = {
    .size = sizeof cpu,
    .kind = DEMIST_BACKEND,
    .name = "cpu",
    .doc = "this processor: Winograd, packed weights, vector kernels chosen at run time",
    .options = options,
    .vtable = &vtable,
};

static const demist_class *const classes[] = {&cpu, NULL};

DEMIST_PLUGIN(backend_cpu) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .abi_minor_needed = 0,
    .id = "demist.backend-cpu",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

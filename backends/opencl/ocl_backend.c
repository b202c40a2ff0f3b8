/* The OpenCL backend: any device of OpenCL 1.2 or newer, of any vendor.
 *
 * docs/opencl.md tells how it works. This file: the devices, their memory, queues, and the vtable.
 * ocl_compile.c turns graphs into kernel launches, ocl_execute.c runs them, kernels/ has the
 * arithmetic. */
#include "ocl_program.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEVICES = 64 };

/* A device that there is. */
struct found {
    cl_platform_id platform;
    cl_device_id id;
    cl_device_type type;
    char name[128], driver[256], detail[192];
    demist_device_info info;
};

struct ocl {
    const demist_host *host;
    struct ocl_settings settings;
    demist_cache *cache; /* NULL: off */
    int32_t n;
    struct found *found; /* [MAX_DEVICES] */
    const demist_device_info *list[MAX_DEVICES];
};

/* --- what there is --- */

static void get_text(cl_device_id id, cl_device_info what, char *text, size_t size)
{
    text[0] = '\0';
    if (clGetDeviceInfo(id, what, size - 1, text, NULL) != CL_SUCCESS)
        snprintf(text, size, "?");
    text[size - 1] = '\0';
}

static cl_ulong get_ulong(cl_device_id id, cl_device_info what)
{
    cl_ulong value = 0;
    return clGetDeviceInfo(id, what, sizeof value, &value, NULL) == CL_SUCCESS ? value : 0;
}

static cl_uint get_uint(cl_device_id id, cl_device_info what)
{
    cl_uint value = 0;
    return clGetDeviceInfo(id, what, sizeof value, &value, NULL) == CL_SUCCESS ? value : 0;
}

static size_t get_size(cl_device_id id, cl_device_info what)
{
    size_t value = 0;
    return clGetDeviceInfo(id, what, sizeof value, &value, NULL) == CL_SUCCESS ? value : 0;
}

/* "OpenCL 1.2 …": at least 1.2 */
static bool is_new_enough(cl_device_id id)
{
    char version[128];
    get_text(id, CL_DEVICE_VERSION, version, sizeof version);
    return strncmp(version, "OpenCL ", 7) == 0 &&
           (version[7] > '1' || (version[7] == '1' && version[8] == '.' && version[9] >= '2'));
}

/* fma() in hardware. Drivers of CPUs leave FP_FAST_FMAF undefined, and turn mad() into two
 * instructions where contraction is off. */
static bool has_fma(cl_device_id id)
{
    cl_device_fp_config config = 0;
    return clGetDeviceInfo(id, CL_DEVICE_SINGLE_FP_CONFIG, sizeof config, &config, NULL) ==
               CL_SUCCESS &&
           (config & CL_FP_FMA) && !(config & CL_FP_SOFT_FLOAT);
}

static bool has_fp64(cl_device_id id)
{
    cl_device_fp_config config = 0;
    return clGetDeviceInfo(id, CL_DEVICE_DOUBLE_FP_CONFIG, sizeof config, &config, NULL) ==
               CL_SUCCESS &&
           config != 0;
}

static const char *why_unusable(cl_device_id id)
{
    if (!get_uint(id, CL_DEVICE_AVAILABLE))
        return "its driver says that it is not available";
    if (!is_new_enough(id))
        return "it offers less than OpenCL 1.2";
    if (!get_uint(id, CL_DEVICE_COMPILER_AVAILABLE))
        return "its driver has no compiler";
    if (!get_uint(id, CL_DEVICE_ENDIAN_LITTLE))
        return "it is not little-endian";
    if (get_size(id, CL_DEVICE_MAX_WORK_GROUP_SIZE) < 64)
        return "it has no work-groups of 64 items";
    return NULL;
}

static void describe(struct found *f, cl_platform_id platform, cl_device_id id)
{
    char version[128] = "", driver[96];
    memset(f, 0, sizeof *f);
    f->platform = platform;
    f->id = id;
    clGetDeviceInfo(id, CL_DEVICE_TYPE, sizeof f->type, &f->type, NULL);
    get_text(id, CL_DEVICE_NAME, f->name, sizeof f->name);
    get_text(id, CL_DRIVER_VERSION, driver, sizeof driver);
    clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof version - 1, version, NULL);
    snprintf(f->driver, sizeof f->driver, "%s %s", version, driver);
    get_text(id, CL_DEVICE_VERSION, version, sizeof version);
    snprintf(f->detail, sizeof f->detail, "%.80s, %u compute units%s", version,
             (unsigned)get_uint(id, CL_DEVICE_MAX_COMPUTE_UNITS), has_fp64(id) ? ", fp64" : "");
    f->info = DEMIST_INIT(demist_device_info);
    f->info.name = f->name;
    f->info.type = f->type & CL_DEVICE_TYPE_GPU           ? DEMIST_DEVICE_GPU
                   : f->type & CL_DEVICE_TYPE_ACCELERATOR ? DEMIST_DEVICE_ACCELERATOR
                                                          : DEMIST_DEVICE_CPU;
    f->info.driver = f->driver;
    f->info.detail = f->detail;
    f->info.memory_bytes = (int64_t)get_ulong(id, CL_DEVICE_GLOBAL_MEM_SIZE);
    f->info.unusable = why_unusable(id);
}

/* A machine without an ICD loader's drivers has no platforms: an empty list. */
static void find_devices(struct ocl *o)
{
    cl_platform_id platforms[16];
    cl_uint n_platforms = 0;
    o->n = 0;
    if (clGetPlatformIDs(16, platforms, &n_platforms) != CL_SUCCESS)
        return;
    for (cl_uint p = 0; p < n_platforms && p < 16; p++) {
        cl_device_id ids[MAX_DEVICES];
        cl_uint n = 0;
        if (clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, MAX_DEVICES, ids, &n) != CL_SUCCESS)
            continue;
        for (cl_uint i = 0; i < n && i < MAX_DEVICES && o->n < MAX_DEVICES; i++) {
            describe(&o->found[o->n], platforms[p], ids[i]);
            o->list[o->n] = &o->found[o->n].info;
            o->n++;
        }
    }
}

static demist_status devices(void *self, const demist_device_info *const **infos, int32_t *n)
{
    struct ocl *o = self;
    find_devices(o);
    *infos = o->list;
    *n = o->n;
    return DEMIST_OK;
}

/* --- which one --- */

static bool contains(const char *text, const char *part)
{
    for (; *text; text++) {
        size_t i = 0;
        while (part[i] && (text[i] | 32) == (part[i] | 32))
            i++;
        if (!part[i])
            return true;
    }
    return false;
}

static bool fits(const struct found *f, const char *wanted)
{
    static const char *const types[] = {"", "cpu", "gpu", "accelerator"};
    for (int i = 1; i < 4; i++)
        if (strcmp(wanted, types[i]) == 0)
            return (int)f->info.type == i;
    return strcmp(wanted, "auto") == 0 || contains(f->name, wanted);
}

/* GPUs before accelerators before CPUs. */
static int rank_of(const struct found *f)
{
    return f->info.type == DEMIST_DEVICE_GPU ? 2 : f->info.type == DEMIST_DEVICE_ACCELERATOR;
}

/* The device that index, or the option, asks for; NULL with *status. */
static const struct found *choose(struct ocl *o, int32_t index, demist_status *status)
{
    const demist_host *host = o->host;
    const char *wanted = o->settings.device;
    char *end = NULL;
    const long number = strtol(wanted, &end, 10);
    const struct found *best = NULL, *unusable = NULL;
    if (o->n == 0) {
        *status = host->fail(host, DEMIST_NOT_FOUND,
                             "there is no OpenCL device here: install the driver of your GPU, or "
                             "PoCL (pocl-opencl-icd) for the CPU");
        return NULL;
    }
    if (index < 0 && *wanted && !*end)
        index = number >= 0 && number < INT32_MAX ? (int32_t)number : INT32_MAX;
    if (index >= o->n) {
        *status =
            host->fail(host, DEMIST_NOT_FOUND,
                       "there is no device %d: OpenCL offers 0 to %d (demist devices lists them)",
                       (int)index, (int)o->n - 1);
        return NULL;
    }
    if (index >= 0)
        best = &o->found[index];
    for (int32_t i = 0; i < o->n && index < 0; i++) {
        const struct found *f = &o->found[i];
        if (!fits(f, wanted))
            continue;
        if (f->info.unusable)
            unusable = f;
        else if (!best || rank_of(f) > rank_of(best))
            best = f;
    }
    if (!best)
        best = unusable;
    if (!best)
        *status = host->fail(host, DEMIST_NOT_FOUND,
                             "no OpenCL device fits device = %s: give auto, an index, a part of a "
                             "name, cpu, gpu or accelerator (demist devices lists them)",
                             wanted);
    else if (best->info.unusable)
        *status = host->fail(host, DEMIST_DEVICE, "%s cannot be used: %s", best->name,
                             best->info.unusable);
    return best && !best->info.unusable ? best : NULL;
}

/* --- opening --- */

static void close_device(demist_device *device)
{
    if (!device)
        return;
    const demist_host *host = device->host;
    if (device->queue)
        clFinish(device->queue);
    ocl_clblast_finish(device);
    ocl_release_kernels(device);
    for (struct ocl_tuned *t = device->tuned, *next; t; t = next) {
        next = t->next;
        host->free(host, t);
    }
    if (device->queue)
        clReleaseCommandQueue(device->queue);
    if (device->context)
        clReleaseContext(device->context);
    host->free(host, device);
}

/* Vectors of the width that the device computes with; tiles that fill its registers. */
static void choose_style(demist_device *d, const struct found *f)
{
    const bool wide = d->settings.style >= 0
                          ? d->settings.style == OCL_WIDE
                          : f->info.type == DEMIST_DEVICE_CPU || d->max_group < 256;
    const cl_uint native = get_uint(f->id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT);
    const int own = native >= 16 ? 16 : native >= 8 ? 8 : 4;
    d->style = wide ? OCL_WIDE : OCL_TILED;
    d->vector = !wide ? 1 : d->settings.vector ? d->settings.vector : own;
    const int rows[2][OCL_MAX_TILES] = {{6, 4, 8}, {12, 8, 6}},
              sides[OCL_MAX_TILES] = {64, 32, 128};
    for (int i = 0; i < OCL_MAX_TILES; i++)
        d->tiles[i] = wide ? (struct ocl_tile){rows[d->vector == 16][i], 2 * d->vector}
                           : (struct ocl_tile){sides[i], sides[i]};
}

static demist_status open_context(demist_device *d, const struct found *f)
{
    cl_int error = CL_SUCCESS;
    const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                                (cl_context_properties)f->platform, 0};
    d->context = clCreateContext(properties, 1, &f->id, NULL, NULL, &error);
    if (error != CL_SUCCESS)
        return ocl_fail(d, "clCreateContext", error);
    d->queue = clCreateCommandQueue(d->context, f->id, 0, &error);
    return error == CL_SUCCESS ? DEMIST_OK : ocl_fail(d, "clCreateCommandQueue", error);
}

static demist_status open_device(void *self, int32_t index, demist_device **device)
{
    struct ocl *o = self;
    demist_status status = DEMIST_INTERNAL;
    if (o->n == 0)
        find_devices(o);
    const struct found *f = choose(o, index, &status);
    if (!f)
        return status;
    demist_device *d = o->host->alloc(o->host, sizeof *d, 0);
    if (!d)
        return DEMIST_NO_MEMORY;
    memset(d, 0, sizeof *d);
    d->host = o->host;
    d->info = &f->info;
    d->philox = o->host->extension(o->host, DEMIST_EXT_PHILOX);
    d->cache = o->cache;
    d->settings = o->settings;
    d->id = f->id;
    d->fp64 = has_fp64(f->id) && !o->settings.hide_fp64;
    d->fma = f->info.type == DEMIST_DEVICE_CPU && has_fma(f->id);
    d->says_compiling = true;
    d->max_group = get_size(f->id, CL_DEVICE_MAX_WORK_GROUP_SIZE);
    d->max_allocation = (int64_t)get_ulong(f->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
    snprintf(d->key, sizeof d->key, "%s\n%s\n%s", f->name, f->detail, f->driver);
    choose_style(d, f);
    status = open_context(d, f);
    if (status == DEMIST_OK && o->settings.clblast == OCL_CLBLAST_ALWAYS && !ocl_has_clblast(d))
        status = o->host->fail(o->host, DEMIST_CONFIG,
                               "clblast = always: this build has no CLBlast; install it "
                               "(libclblast-dev) and build again, or say auto");
    if (status != DEMIST_OK) {
        close_device(d);
        return status;
    }
    *device = d;
    return DEMIST_OK;
}

static const demist_device_info *device_info(demist_device *device)
{
    return device->info;
}

static void destroy(void *self)
{
    struct ocl *o = self;
    if (!o)
        return;
    demist_cache_close(o->cache);
    o->host->free(o->host, o->found);
    o->host->free(o->host, o);
}

enum {
    OPTION_DEVICE,
    OPTION_TUNING,
    OPTION_FP64,
    OPTION_CACHE,
    OPTION_KERNELS,
    OPTION_VECTOR,
    OPTION_CLBLAST,
    OPTION_BUILD
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct ocl *o = host->alloc(host, sizeof *o, 0);
    if (!o)
        return DEMIST_NO_MEMORY;
    memset(o, 0, sizeof *o);
    o->host = host;
    o->settings = (struct ocl_settings){
        .device = values[OPTION_DEVICE]->text,
        .build_options = values[OPTION_BUILD]->text,
        .tuning = values[OPTION_TUNING]->integer == 0,
        .hide_fp64 = values[OPTION_FP64]->integer == 1,
        .style = (int)values[OPTION_KERNELS]->integer - 1,
        .clblast = (enum ocl_clblast)values[OPTION_CLBLAST]->integer,
        .vector = values[OPTION_VECTOR]->integer ? 2 << values[OPTION_VECTOR]->integer : 0,
    };
    o->found = host->alloc(host, sizeof *o->found * MAX_DEVICES, 0);
    demist_status status = o->found ? DEMIST_OK : DEMIST_NO_MEMORY;
    if (status == DEMIST_OK)
        status = demist_cache_open(host, values[OPTION_CACHE]->text, "opencl", &o->cache);
    if (status != DEMIST_OK) {
        destroy(o);
        return status;
    }
    *self = o;
    return DEMIST_OK;
}

/* --- memory --- */

demist_status ocl_buffer_create(demist_device *device, size_t bytes, demist_buffer **buffer)
{
    const demist_host *host = device->host;
    demist_buffer *b = host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (demist_buffer){.device = device, .bytes = bytes};
    const demist_status status =
        bytes > INT64_MAX / 2
            ? host->fail(host, DEMIST_NO_MEMORY, "a buffer of %zu bytes is more than memory", bytes)
            : ocl_new_memory(device, (int64_t)bytes, "a buffer", &b->memory);
    if (status != DEMIST_OK) {
        host->free(host, b);
        return status;
    }
    *buffer = b;
    return DEMIST_OK;
}

void ocl_buffer_destroy(demist_buffer *buffer)
{
    if (!buffer)
        return;
    const demist_host *host = buffer->device->host;
    clReleaseMemObject(buffer->memory);
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

static demist_status checked(demist_device *device, const char *call, cl_int error)
{
    return error == CL_SUCCESS ? DEMIST_OK : ocl_fail(device, call, error);
}

static demist_status buffer_write(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                  const void *src, size_t bytes)
{
    OCL_TRY(check_span(buffer, offset, bytes, "buffer_write"));
    if (bytes == 0)
        return DEMIST_OK;
    return checked(queue->device, "clEnqueueWriteBuffer",
                   clEnqueueWriteBuffer(queue->queue, buffer->memory, CL_TRUE, offset, bytes, src,
                                        0, NULL, NULL));
}

static demist_status buffer_read(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                 void *dst, size_t bytes)
{
    OCL_TRY(check_span(buffer, offset, bytes, "buffer_read"));
    if (bytes == 0)
        return DEMIST_OK;
    return checked(queue->device, "clEnqueueReadBuffer",
                   clEnqueueReadBuffer(queue->queue, buffer->memory, CL_TRUE, offset, bytes, dst, 0,
                                       NULL, NULL));
}

static demist_status enqueue_copy(demist_queue *queue, cl_mem dst, size_t dst_offset, cl_mem src,
                                  size_t src_offset, size_t bytes)
{
    return checked(
        queue->device, "clEnqueueCopyBuffer",
        clEnqueueCopyBuffer(queue->queue, src, dst, src_offset, dst_offset, bytes, 0, NULL, NULL));
}

/* Within one buffer spans may overlap, which OpenCL refuses: by way of another one. */
static demist_status copy_within(demist_queue *queue, cl_mem memory, size_t dst_offset,
                                 size_t src_offset, size_t bytes)
{
    cl_mem between;
    OCL_TRY(ocl_new_memory(queue->device, (int64_t)bytes, "a copy", &between));
    demist_status status = enqueue_copy(queue, between, 0, memory, src_offset, bytes);
    if (status == DEMIST_OK)
        status = enqueue_copy(queue, memory, dst_offset, between, 0, bytes);
    clReleaseMemObject(between); /* lives until the queue is done with it */
    return status;
}

static demist_status buffer_copy(demist_queue *queue, demist_buffer *dst, size_t dst_offset,
                                 demist_buffer *src, size_t src_offset, size_t bytes)
{
    OCL_TRY(check_span(dst, dst_offset, bytes, "buffer_copy (to)"));
    OCL_TRY(check_span(src, src_offset, bytes, "buffer_copy (from)"));
    if (bytes == 0)
        return DEMIST_OK;
    if (dst == src)
        return copy_within(queue, dst->memory, dst_offset, src_offset, bytes);
    return enqueue_copy(queue, dst->memory, dst_offset, src->memory, src_offset, bytes);
}

/* --- queues and events --- */

demist_status ocl_queue_create(demist_device *device, demist_queue **queue)
{
    cl_int error = CL_SUCCESS;
    demist_queue *q = device->host->alloc(device->host, sizeof *q, 0);
    if (!q)
        return DEMIST_NO_MEMORY;
    *q = (demist_queue){device, clCreateCommandQueue(device->context, device->id, 0, &error)};
    if (error != CL_SUCCESS) {
        device->host->free(device->host, q);
        return ocl_fail(device, "clCreateCommandQueue", error);
    }
    *queue = q;
    return DEMIST_OK;
}

void ocl_queue_destroy(demist_queue *queue)
{
    if (!queue)
        return;
    clFinish(queue->queue);
    clReleaseCommandQueue(queue->queue);
    queue->device->host->free(queue->device->host, queue);
}

/* clFinish waits; the marker's status tells whether what was before it went through. */
static demist_status synchronize(demist_queue *queue)
{
    demist_device *d = queue->device;
    cl_event marker = NULL;
    cl_int status = CL_COMPLETE;
    OCL_TRY(checked(d, "clEnqueueMarkerWithWaitList",
                    clEnqueueMarkerWithWaitList(queue->queue, 0, NULL, &marker)));
    const cl_int error = clFinish(queue->queue);
    clGetEventInfo(marker, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
    clReleaseEvent(marker);
    OCL_TRY(checked(d, "clFinish", error));
    return status >= 0 ? DEMIST_OK : ocl_fail(d, "a kernel", status);
}

static demist_status event_record(demist_queue *queue, demist_event **event)
{
    demist_device *d = queue->device;
    demist_event *e = d->host->alloc(d->host, sizeof *e, 0);
    if (!e)
        return DEMIST_NO_MEMORY;
    e->device = d;
    cl_int error = clEnqueueMarkerWithWaitList(queue->queue, 0, NULL, &e->event);
    if (error == CL_SUCCESS)
        error = clFlush(queue->queue); /* another queue may wait for it */
    if (error != CL_SUCCESS) {
        d->host->free(d->host, e);
        return ocl_fail(d, "clEnqueueMarkerWithWaitList", error);
    }
    *event = e;
    return DEMIST_OK;
}

static demist_status event_wait(demist_queue *queue, demist_event *event)
{
    const demist_host *host = queue->device->host;
    if (event->device != queue->device)
        return host->fail(host, DEMIST_INVALID, "the event belongs to another device");
    return checked(queue->device, "clEnqueueBarrierWithWaitList",
                   clEnqueueBarrierWithWaitList(queue->queue, 1, &event->event, NULL));
}

static void event_destroy(demist_event *event)
{
    if (!event)
        return;
    clReleaseEvent(event->event);
    event->device->host->free(event->device->host, event);
}

/* --- the plugin --- */

static const char *const tuning_choices[] = {"cached", "off", NULL};
static const char *const fp64_choices[] = {"auto", "off", NULL};
static const char *const kernel_choices[] = {"auto", "wide", "tiled", NULL};
static const char *const clblast_choices[] = {"auto", "off", "always", NULL};
static const char *const vector_choices[] = {"auto", "4", "8", "16", NULL};

static const demist_option option_device = {
    .size = sizeof option_device,
    .key = "device",
    .doc = "auto (a GPU before a CPU), an index, a part of a name, cpu, gpu or accelerator",
    .type = DEMIST_OPTION_STRING,
    .default_value = "auto",
};

static const demist_option option_tuning = {
    .size = sizeof option_tuning,
    .key = "tuning",
    .doc = "cached measures kernels on first use and remembers the best; off follows a rule",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "cached",
    .choices = tuning_choices,
};

static const demist_option option_fp64 = {
    .size = sizeof option_fp64,
    .key = "fp64",
    .doc = "off does without float64 on the device; noise then comes from the host",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "auto",
    .choices = fp64_choices,
};

static const demist_option option_cache = {
    .size = sizeof option_cache,
    .key = "cache",
    .doc = "compiled kernels are kept in: auto (the user's cache folder), off, or an absolute path",
    .type = DEMIST_OPTION_STRING,
    .default_value = "auto",
};

static const demist_option option_kernels = {
    .size = sizeof option_kernels,
    .key = "kernels",
    .doc = "wide (vectors, for CPUs) or tiled (local memory, for GPUs); auto goes by the device",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "auto",
    .choices = kernel_choices,
};

static const demist_option option_vector = {
    .size = sizeof option_vector,
    .key = "vector",
    .doc = "floats of a vector in wide kernels; auto takes what the device says",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "auto",
    .choices = vector_choices,
};

static const demist_option option_clblast = {
    .size = sizeof option_clblast,
    .key = "clblast",
    .doc = "auto takes it where tuning measures it to be faster; always, wherever it fits",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "auto",
    .choices = clblast_choices,
};

static const demist_option option_build = {
    .size = sizeof option_build,
    .key = "build_options",
    .doc = "options for the driver's compiler, such as -cl-opt-disable, to find faults in drivers",
    .type = DEMIST_OPTION_STRING,
    .default_value = "",
};

static const demist_option *const options[] = {[OPTION_DEVICE] = &option_device,
                                               [OPTION_TUNING] = &option_tuning,
                                               [OPTION_FP64] = &option_fp64,
                                               [OPTION_CACHE] = &option_cache,
                                               [OPTION_KERNELS] = &option_kernels,
                                               [OPTION_VECTOR] = &option_vector,
                                               [OPTION_CLBLAST] = &option_clblast,
                                               [OPTION_BUILD] = &option_build,
                                               NULL};

static const demist_backend_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .devices = devices,
    .open = open_device,
    .close = close_device,
    .has_precision = ocl_has_precision,
    .buffer_create = ocl_buffer_create,
    .buffer_destroy = ocl_buffer_destroy,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_copy = buffer_copy,
    .queue_create = ocl_queue_create,
    .queue_destroy = ocl_queue_destroy,
    .synchronize = synchronize,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_destroy = event_destroy,
    .supports = ocl_supports,
    .compile = ocl_compile,
    .program_destroy = ocl_program_destroy,
    .program_info = ocl_program_info,
    .update_params = ocl_update_params,
    .bind = ocl_bind,
    .binding_destroy = ocl_binding_destroy,
    .execute = ocl_execute,
    .observability = ocl_observability,
    .observe = ocl_observe,
    .profile = ocl_profile,
    .device_info = device_info,
    .compile_reading = ocl_compile_reading,
};

static const demist_class opencl = {
    .size = sizeof opencl,
    .kind = DEMIST_BACKEND,
    .name = "opencl",
    .doc = "any OpenCL 1.2+ device of any vendor; kernels are compiled once and cached",
    .options = options,
    .vtable = &vtable,
};

static const demist_class *const classes[] = {&opencl, NULL};

DEMIST_PLUGIN(backend_opencl) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .abi_minor_needed = 0,
    .id = "demist.backend-opencl",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

/* The CUDA backend: NVIDIA GPUs of compute capability 7.5 and newer.
 *
 * docs/cuda.md tells how it works. This file: the devices, their memory, queues, and the vtable.
 * cuda_compile.c turns graphs into kernel launches, cuda_execute.c runs them, the .cu files have
 * the arithmetic. */
#include "cuda_library.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEVICES = 64 };

/* A device that there is. */
struct found {
    int ordinal, capability;
    int64_t max_shared;
    char name[256], driver[64], detail[96], unusable[96];
    demist_device_info info;
};

struct cuda {
    const demist_host *host;
    struct cu_settings settings;
    demist_cache *cache; /* NULL: off */
    char why_none[160];  /* why the list is empty */
    int32_t n;
    struct found *found; /* [MAX_DEVICES] */
    const demist_device_info *list[MAX_DEVICES];
};

/* --- what there is --- */

static void describe(struct found *f, int ordinal, int driver)
{
    struct cudaDeviceProp p;
    memset(f, 0, sizeof *f);
    f->ordinal = ordinal;
    f->info = DEMIST_INIT(demist_device_info);
    f->info.name = f->name;
    f->info.type = DEMIST_DEVICE_GPU;
    f->info.driver = f->driver;
    f->info.detail = f->detail;
    snprintf(f->driver, sizeof f->driver, "CUDA %d.%d", driver / 1000, driver % 1000 / 10);
    const cudaError_t error = cudaGetDeviceProperties(&p, ordinal);
    if (error != cudaSuccess) {
        cudaGetLastError();
        snprintf(f->name, sizeof f->name, "device %d", ordinal);
        snprintf(f->unusable, sizeof f->unusable, "cudaGetDeviceProperties failed: %s (%d)",
                 cudaGetErrorName(error), (int)error);
        f->info.unusable = f->unusable;
        return;
    }
    snprintf(f->name, sizeof f->name, "%.255s", p.name);
    snprintf(f->detail, sizeof f->detail, "compute capability %d.%d, %d multiprocessors", p.major,
             p.minor, p.multiProcessorCount);
    f->capability = 10 * p.major + p.minor;
    f->max_shared = (int64_t)p.sharedMemPerBlockOptin;
    f->info.memory_bytes = (int64_t)p.totalGlobalMem;
    if (f->capability < CU_OLDEST_ARCH) {
        snprintf(f->unusable, sizeof f->unusable,
                 "it has compute capability %d.%d; this backend needs 7.5 or newer", p.major,
                 p.minor);
        f->info.unusable = f->unusable;
    }
}

/* How many devices; where there are none, why. Without a driver cudaGetDeviceCount fails and leaves
 * the count as it was. */
static int count_devices(struct cuda *c, int driver)
{
    int n = 0;
    const cudaError_t error = cudaGetDeviceCount(&n);
    c->why_none[0] = '\0';
    if (error == cudaSuccess && n > 0)
        return n < MAX_DEVICES ? n : MAX_DEVICES;
    cudaGetLastError();
    if (error == cudaSuccess || error == cudaErrorNoDevice)
        snprintf(c->why_none, sizeof c->why_none, "the driver finds no NVIDIA GPU");
    else if (error == cudaErrorInsufficientDriver && driver == 0)
        snprintf(c->why_none, sizeof c->why_none, "there is no NVIDIA driver on this machine");
    else if (error == cudaErrorInsufficientDriver)
        snprintf(c->why_none, sizeof c->why_none,
                 "the NVIDIA driver is for CUDA %d.%d, and this build needs one for CUDA %d.%d",
                 driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                 CUDART_VERSION % 1000 / 10);
    else
        snprintf(c->why_none, sizeof c->why_none, "cudaGetDeviceCount failed: %s (%d)",
                 cudaGetErrorName(error), (int)error);
    return 0;
}

static void find_devices(struct cuda *c)
{
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess) {
        cudaGetLastError();
        driver = 0;
    }
    c->n = count_devices(c, driver);
    for (int32_t i = 0; i < c->n; i++) {
        describe(&c->found[i], i, driver);
        c->list[i] = &c->found[i].info;
    }
    if (c->n == 0)
        c->host->log(c->host, DEMIST_LOG_DEBUG, "cuda: %s", c->why_none);
}

static demist_status devices(void *self, const demist_device_info *const **infos, int32_t *n)
{
    struct cuda *c = self;
    find_devices(c);
    *infos = c->list;
    *n = c->n;
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

/* The first that fits and can be used, or else the first that fits. */
static const struct found *named(const struct cuda *c, const char *wanted)
{
    const struct found *found = NULL;
    for (int32_t i = 0; i < c->n; i++) {
        const struct found *f = &c->found[i];
        if (strcmp(wanted, "auto") != 0 && !contains(f->name, wanted))
            continue;
        if (!found || (found->info.unusable && !f->info.unusable))
            found = f;
    }
    return found;
}

static demist_status choose(const struct cuda *c, int32_t index, const struct found **found)
{
    const demist_host *host = c->host;
    const char *wanted = c->settings.device;
    char *end = NULL;
    const long number = strtol(wanted, &end, 10);
    if (c->n == 0)
        return host->fail(host, DEMIST_NOT_FOUND,
                          "there is no CUDA device here: %s; backend cpu needs none", c->why_none);
    if (index < 0 && *wanted && !*end)
        index = number >= 0 && number < INT32_MAX ? (int32_t)number : INT32_MAX;
    if (index >= c->n)
        return host->fail(host, DEMIST_NOT_FOUND,
                          "there is no device %d: CUDA offers 0 to %d (demist devices lists them)",
                          (int)index, (int)c->n - 1);
    *found = index >= 0 ? &c->found[index] : named(c, wanted);
    if (!*found)
        return host->fail(host, DEMIST_NOT_FOUND,
                          "no CUDA device fits device = %s: give auto, an index or a part of a "
                          "name (demist devices lists them)",
                          wanted);
    if ((*found)->info.unusable)
        return host->fail(host, DEMIST_DEVICE, "%s cannot be used: %s", (*found)->name,
                          (*found)->info.unusable);
    return DEMIST_OK;
}

/* --- opening --- */

demist_status cu_use(const demist_device *device)
{
    CU_CALL(device, cudaSetDevice(device->ordinal));
    return DEMIST_OK;
}

static void close_device(demist_device *device)
{
    if (!device)
        return;
    cu_close_libraries(device);
    cu_queue_destroy(device->queue);
    cu_forget_tuned(device);
    device->host->free(device->host, device);
}

static demist_status open_device(void *self, int32_t index, demist_device **device)
{
    struct cuda *c = self;
    const struct found *f = NULL;
    if (c->n == 0)
        find_devices(c);
    const demist_status chosen = choose(c, index, &f);
    if (!f || chosen != DEMIST_OK)
        return chosen;
    demist_device *d = c->host->alloc(c->host, sizeof *d, 0);
    if (!d)
        return DEMIST_NO_MEMORY;
    memset(d, 0, sizeof *d);
    d->host = c->host;
    d->info = &f->info;
    d->cache = c->cache;
    d->settings = c->settings;
    d->ordinal = f->ordinal;
    d->capability = f->capability;
    d->max_shared = f->max_shared;
    snprintf(d->key, sizeof d->key, "%s\n%s\n%s\nruntime %d", f->name, f->detail, f->driver,
             CUDART_VERSION);
    const demist_status status = cu_queue_create(d, &d->queue);
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

bool cu_has_precision(demist_device *device, demist_precision precision)
{
    (void)device;
    return precision >= DEMIST_PRECISION_F32 && precision <= DEMIST_PRECISION_F16;
}

static void destroy(void *self)
{
    struct cuda *c = self;
    if (!c)
        return;
    demist_cache_close(c->cache);
    c->host->free(c->host, c->found);
    c->host->free(c->host, c);
}

enum {
    OPTION_DEVICE,
    OPTION_TUNING,
    OPTION_CACHE,
    OPTION_GRAPHS,
    OPTION_LIBRARIES,
    OPTION_LIBRARY_FOLDER,
};

static demist_status check_settings(const demist_host *host, struct cu_settings *settings,
                                    const char *folder)
{
    if (settings->libraries == CU_LIBRARIES_PREFER && !settings->tuning)
        return host->fail(host, DEMIST_CONFIG,
                          "libraries = prefer with tuning = off: without tuning own kernels "
                          "compute everything; say tuning = cached or libraries = auto");
    if (strcmp(folder, "auto") == 0)
        return DEMIST_OK;
    settings->library_folder = folder;
    if (folder[0] == '/')
        return DEMIST_OK;
    return host->fail(host, DEMIST_CONFIG,
                      "library_folder = %s: give auto, or a folder whose path starts with /",
                      folder);
}

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct cuda *c = host->alloc(host, sizeof *c, 0);
    if (!c)
        return DEMIST_NO_MEMORY;
    memset(c, 0, sizeof *c);
    c->host = host;
    c->settings =
        (struct cu_settings){.device = values[OPTION_DEVICE]->text,
                             .tuning = values[OPTION_TUNING]->integer == 0,
                             .graphs = values[OPTION_GRAPHS]->integer == 0,
                             .libraries = (enum cu_libraries)values[OPTION_LIBRARIES]->integer};
    c->found = host->alloc(host, sizeof *c->found * MAX_DEVICES, 0);
    demist_status status = c->found ? DEMIST_OK : DEMIST_NO_MEMORY;
    if (status == DEMIST_OK)
        status = check_settings(host, &c->settings, values[OPTION_LIBRARY_FOLDER]->text);
    if (status == DEMIST_OK)
        status = demist_cache_open(host, values[OPTION_CACHE]->text, "cuda", &c->cache);
    if (status != DEMIST_OK) {
        destroy(c);
        return status;
    }
    *self = c;
    return DEMIST_OK;
}

/* --- memory --- */

static demist_status buffer_create(demist_device *device, size_t bytes, demist_buffer **buffer)
{
    const demist_host *host = device->host;
    demist_buffer *b = host->alloc(host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (demist_buffer){.device = device, .bytes = bytes};
    const demist_status status =
        bytes > INT64_MAX / 2
            ? host->fail(host, DEMIST_NO_MEMORY, "a buffer of %zu bytes is more than memory", bytes)
            : cu_new_memory(device, (int64_t)bytes, "a buffer", 0, 0, &b->memory);
    if (status != DEMIST_OK) {
        host->free(host, b);
        return status;
    }
    *buffer = b;
    return DEMIST_OK;
}

static void buffer_destroy(demist_buffer *buffer)
{
    if (!buffer)
        return;
    const demist_host *host = buffer->device->host;
    cudaFree(buffer->memory);
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

/* The next pinned piece, once its last transfer is done. */
static demist_status next_stage(demist_queue *queue, struct cu_stage **stage)
{
    *stage = &queue->stage[queue->turn];
    queue->turn = (queue->turn + 1) % CU_STAGES;
    CU_CALL(queue->device, cudaEventSynchronize((*stage)->done));
    return DEMIST_OK;
}

demist_status cu_put_words(const demist_device *device, cudaStream_t stream, void *to,
                           const void *src, size_t bytes)
{
    struct cu_words words;
    for (size_t done = 0; done < bytes; done += sizeof words.value) {
        const size_t left = bytes - done;
        const size_t n = left < sizeof words.value ? left : sizeof words.value;
        words.to = (uint32_t *)((char *)to + done);
        words.n = (int32_t)(n / sizeof words.value[0]);
        memcpy(words.value, (const char *)src + done, n);
        CU_CALL(device, cu_run_words(stream, &words));
    }
    return DEMIST_OK;
}

demist_status cu_to_device(demist_queue *queue, void *to, const void *src, size_t bytes)
{
    CU_TRY(cu_use(queue->device));
    /* The times of a step, above all. */
    if (bytes <= sizeof(uint32_t) * CU_WORDS_AT_ONCE && ((uintptr_t)to | bytes) % 4 == 0)
        return cu_put_words(queue->device, queue->stream, to, src, bytes);
    for (size_t done = 0; done < bytes;) {
        const size_t n = bytes - done < CU_STAGE ? bytes - done : CU_STAGE;
        struct cu_stage *stage;
        CU_TRY(next_stage(queue, &stage));
        memcpy(stage->pinned, (const char *)src + done, n);
        CU_CALL(queue->device, cudaMemcpyAsync((char *)to + done, stage->pinned, n,
                                               cudaMemcpyHostToDevice, queue->stream));
        CU_CALL(queue->device, cudaEventRecord(stage->done, queue->stream));
        done += n;
    }
    return DEMIST_OK;
}

/* One piece travels while the one before it is copied out. */
demist_status cu_from_device(demist_queue *queue, void *dst, const void *from, size_t bytes)
{
    struct cu_stage *before = NULL;
    size_t copied = 0, n_before = 0;
    CU_TRY(cu_use(queue->device));
    for (size_t done = 0; done < bytes || before;) {
        struct cu_stage *stage = NULL;
        size_t n = 0;
        if (done < bytes) {
            n = bytes - done < CU_STAGE ? bytes - done : CU_STAGE;
            CU_TRY(next_stage(queue, &stage));
            CU_CALL(queue->device, cudaMemcpyAsync(stage->pinned, (const char *)from + done, n,
                                                   cudaMemcpyDeviceToHost, queue->stream));
            CU_CALL(queue->device, cudaEventRecord(stage->done, queue->stream));
            done += n;
        }
        if (before) {
            CU_CALL(queue->device, cudaEventSynchronize(before->done));
            memcpy((char *)dst + copied, before->pinned, n_before);
            copied += n_before;
        }
        before = stage;
        n_before = n;
    }
    return DEMIST_OK;
}

static demist_status buffer_write(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                  const void *src, size_t bytes)
{
    CU_TRY(check_span(buffer, offset, bytes, "buffer_write"));
    return cu_to_device(queue, (char *)buffer->memory + offset, src, bytes);
}

static demist_status buffer_read(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                 void *dst, size_t bytes)
{
    CU_TRY(check_span(buffer, offset, bytes, "buffer_read"));
    return cu_from_device(queue, dst, (const char *)buffer->memory + offset, bytes);
}

/* Spans of one buffer that overlap go by way of memory of their own, which cudaFree, as it waits,
 * gives back only when the queue is done with it. */
static demist_status copy_within(demist_queue *queue, char *to, const char *from, size_t bytes)
{
    demist_device *d = queue->device;
    void *between;
    CU_TRY(cu_new_memory(d, (int64_t)bytes, "a copy", 0, 0, &between));
    cudaError_t error =
        cudaMemcpyAsync(between, from, bytes, cudaMemcpyDeviceToDevice, queue->stream);
    if (error == cudaSuccess)
        error = cudaMemcpyAsync(to, between, bytes, cudaMemcpyDeviceToDevice, queue->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(queue->stream);
    cudaFree(between);
    return cu_checked(d, error, "cudaMemcpyAsync", __FILE__, __LINE__, NULL);
}

static demist_status buffer_copy(demist_queue *queue, demist_buffer *dst, size_t dst_offset,
                                 demist_buffer *src, size_t src_offset, size_t bytes)
{
    CU_TRY(check_span(dst, dst_offset, bytes, "buffer_copy (to)"));
    CU_TRY(check_span(src, src_offset, bytes, "buffer_copy (from)"));
    if (bytes == 0)
        return DEMIST_OK;
    CU_TRY(cu_use(queue->device));
    char *to = (char *)dst->memory + dst_offset, *from = (char *)src->memory + src_offset;
    if (dst == src && to < from + bytes && from < to + bytes)
        return copy_within(queue, to, from, bytes);
    CU_CALL(queue->device,
            cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, queue->stream));
    return DEMIST_OK;
}

/* --- queues and events --- */

static demist_status open_queue(demist_queue *q)
{
    CU_TRY(cu_use(q->device));
    CU_CALL(q->device, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking));
    for (int i = 0; i < CU_STAGES; i++) {
        struct cu_stage *stage = &q->stage[i];
        CU_CALL(q->device, cudaHostAlloc(&stage->pinned, CU_STAGE, cudaHostAllocDefault));
        CU_CALL(q->device, cudaEventCreateWithFlags(&stage->done, cudaEventDisableTiming));
    }
    return DEMIST_OK;
}

demist_status cu_queue_create(demist_device *device, demist_queue **queue)
{
    demist_queue *q = device->host->alloc(device->host, sizeof *q, 0);
    if (!q)
        return DEMIST_NO_MEMORY;
    memset(q, 0, sizeof *q);
    q->device = device;
    const demist_status status = open_queue(q);
    if (status != DEMIST_OK) {
        cu_queue_destroy(q);
        return status;
    }
    *queue = q;
    return DEMIST_OK;
}

void cu_queue_destroy(demist_queue *queue)
{
    if (!queue)
        return;
    cudaSetDevice(queue->device->ordinal);
    if (queue->stream)
        cudaStreamSynchronize(queue->stream);
    for (int i = 0; i < CU_STAGES; i++) {
        if (queue->stage[i].done)
            cudaEventDestroy(queue->stage[i].done);
        if (queue->stage[i].pinned)
            cudaFreeHost(queue->stage[i].pinned);
    }
    if (queue->stream)
        cudaStreamDestroy(queue->stream);
    queue->device->host->free(queue->device->host, queue);
}

static demist_status synchronize(demist_queue *queue)
{
    CU_TRY(cu_use(queue->device));
    CU_CALL(queue->device, cudaStreamSynchronize(queue->stream));
    return DEMIST_OK;
}

static demist_status event_record(demist_queue *queue, demist_event **event)
{
    demist_device *d = queue->device;
    CU_TRY(cu_use(d));
    demist_event *e = d->host->alloc(d->host, sizeof *e, 0);
    if (!e)
        return DEMIST_NO_MEMORY;
    *e = (demist_event){.device = d};
    cudaError_t error = cudaEventCreateWithFlags(&e->event, cudaEventDisableTiming);
    if (error == cudaSuccess) {
        error = cudaEventRecord(e->event, queue->stream);
        if (error != cudaSuccess)
            cudaEventDestroy(e->event);
    }
    if (error != cudaSuccess) {
        d->host->free(d->host, e);
        return cu_checked(d, error, "cudaEventRecord", __FILE__, __LINE__, NULL);
    }
    *event = e;
    return DEMIST_OK;
}

static demist_status event_wait(demist_queue *queue, demist_event *event)
{
    const demist_host *host = queue->device->host;
    if (event->device != queue->device)
        return host->fail(host, DEMIST_INVALID, "the event belongs to another device");
    CU_TRY(cu_use(queue->device));
    CU_CALL(queue->device, cudaStreamWaitEvent(queue->stream, event->event, 0));
    return DEMIST_OK;
}

static void event_destroy(demist_event *event)
{
    if (!event)
        return;
    cudaEventDestroy(event->event);
    event->device->host->free(event->device->host, event);
}

/* --- the plugin --- */

static const char *const tuning_choices[] = {"cached", "off", NULL};
static const char *const library_choices[] = {"auto", "off", "prefer", NULL};
static const char *const graph_choices[] = {"auto", "off", NULL};

static const demist_option option_device = {
    .size = sizeof option_device,
    .key = "device",
    .doc = "auto (the first one), an index, or a part of a name",
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

static const demist_option option_cache = {
    .size = sizeof option_cache,
    .key = "cache",
    .doc = "choices are kept in: auto (the user's cache folder), off, or an absolute path",
    .type = DEMIST_OPTION_STRING,
    .default_value = "auto",
};

static const demist_option option_graphs = {
    .size = sizeof option_graphs,
    .key = "graphs",
    .doc = "auto captures an execution once and replays it; off queues its kernels one by one",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "auto",
    .choices = graph_choices,
};

static const demist_option option_libraries = {
    .size = sizeof option_libraries,
    .key = "libraries",
    .doc = "cuBLASLt and cuDNN: auto (where tuning measures them to be faster than own kernels), "
           "off, or prefer (wherever they can)",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "auto",
    .choices = library_choices,
};

static const demist_option option_library_folder = {
    .size = sizeof option_library_folder,
    .key = "library_folder",
    .doc = "where they are: auto (the loader's folders, a CUDA toolkit's), or an absolute path",
    .type = DEMIST_OPTION_STRING,
    .default_value = "auto",
};

static const demist_option *const options[] = {[OPTION_DEVICE] = &option_device,
                                               [OPTION_TUNING] = &option_tuning,
                                               [OPTION_CACHE] = &option_cache,
                                               [OPTION_GRAPHS] = &option_graphs,
                                               [OPTION_LIBRARIES] = &option_libraries,
                                               [OPTION_LIBRARY_FOLDER] = &option_library_folder,
                                               NULL};

static const demist_backend_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .devices = devices,
    .open = open_device,
    .close = close_device,
    .has_precision = cu_has_precision,
    .buffer_create = buffer_create,
    .buffer_destroy = buffer_destroy,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_copy = buffer_copy,
    .queue_create = cu_queue_create,
    .queue_destroy = cu_queue_destroy,
    .synchronize = synchronize,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_destroy = event_destroy,
    .supports = cu_supports,
    .compile = cu_compile,
    .program_destroy = cu_program_destroy,
    .program_info = cu_program_info,
    .update_params = cu_update_params,
    .bind = cu_bind,
    .binding_destroy = cu_binding_destroy,
    .execute = cu_execute,
    .observability = cu_observability,
    .observe = cu_observe,
    .profile = cu_profile,
    .device_info = device_info,
};

static const demist_class cuda = {
    .size = sizeof cuda,
    .kind = DEMIST_BACKEND,
    .name = "cuda",
    .doc = "NVIDIA GPUs of compute capability 7.5 and newer",
    .options = options,
    .vtable = &vtable,
};

static const demist_class *const classes[] = {&cuda, NULL};

DEMIST_PLUGIN(backend_cuda) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .abi_minor_needed = 0,
    .id = "demist.backend-cuda",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

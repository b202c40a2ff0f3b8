/* Which kernel computes a product: measured on the device with the program's own memory, once for
 * each shape and batch, and remembered on disk under device, driver and library versions. Without
 * tuning it is the last kernel that fits. */
#include "cuda_program.h"

#include <string.h>

enum { ROUNDS = 4, MAX_CANDIDATES = 16 };

struct cu_tuned {
    struct cu_tuned *next;
    uint64_t key;
    int kernel; /* place in cu_product_kernels */
};

/* --- what there is to choose from --- */

/* The arguments as of the largest batch, with the offsets in storages for pointers. */
static struct cu_product shape_of(const demist_program *p, const struct cu_launch *l)
{
    struct cu_product product;
    memcpy(&product, l->arguments, sizeof product);
    for (int32_t i = 0; i < l->n_fixes; i++) {
        const struct cu_fix *f = &l->fixes[i];
        unsigned char *field = (unsigned char *)&product + f->at;
        if (f->kind == CU_FIX_COUNT) {
            const int32_t count = (int32_t)cu_value(f->count, p->max_batch);
            memcpy(field, &count, sizeof count);
        } else if (f->kind != CU_FIX_SLOTS) {
            const size_t size = cu_size_of(p->storages[f->storage].type);
            const uintptr_t at = (uintptr_t)f->offset * size;
            memcpy(field, &at, sizeof at);
        }
    }
    return product;
}

static int candidates(const demist_program *p, const struct cu_product *product,
                      int list[MAX_CANDIDATES])
{
    int n = 0;
    for (int i = 0; i < cu_n_product_kernels && n < MAX_CANDIDATES; i++)
        if (cu_product_kernels[i].fits(product, p->device->capability))
            list[n++] = i;
    return n;
}

/* --- measuring --- */

struct trial {
    demist_program *program;
    char **bases;
    void *outside; /* stands in for inputs and outputs */
    cudaEvent_t begin, end;
};

static demist_status trial_memory(struct trial *t)
{
    const demist_program *p = t->program;
    const demist_host *host = p->device->host;
    int64_t largest = 1;
    for (int32_t i = 0; i < p->n_storages; i++) {
        const struct cu_storage *s = &p->storages[i];
        const int64_t bytes =
            s->elements * (s->batched ? p->max_batch : 1) * (int64_t)cu_size_of(s->type);
        if ((s->place == CU_INPUT || s->place == CU_OUTPUT) && bytes > largest)
            largest = bytes;
    }
    CU_TRY(cu_new_memory(p->device, largest, "measuring kernels", 0, 0, &t->outside));
    t->bases = host->alloc(host, sizeof *t->bases * (size_t)p->n_storages, 0);
    if (!t->bases)
        return DEMIST_NO_MEMORY;
    for (int32_t i = 0; i < p->n_storages; i++) {
        const struct cu_storage *s = &p->storages[i];
        const bool own = s->place != CU_INPUT && s->place != CU_OUTPUT;
        char *const memory = s->place == CU_FIXED ? p->fixed
                             : s->place == CU_RAW ? p->raw
                                                  : p->arena;
        t->bases[i] = own ? memory + s->where : t->outside;
    }
    return DEMIST_OK;
}

static demist_status trial_open(struct trial *t, demist_program *p)
{
    *t = (struct trial){.program = p};
    CU_TRY(cu_use(p->device));
    CU_CALL(p->device, cudaEventCreateWithFlags(&t->begin, cudaEventDefault));
    CU_CALL(p->device, cudaEventCreateWithFlags(&t->end, cudaEventDefault));
    return DEMIST_OK;
}

static void trial_close(struct trial *t)
{
    const demist_host *host = t->program->device->host;
    if (t->begin)
        cudaEventDestroy(t->begin);
    if (t->end)
        cudaEventDestroy(t->end);
    cudaFree(t->outside);
    host->free(host, t->bases);
}

/* The best of some launches, milliseconds; the first one, which may load code, does not count. */
static demist_status measure(struct trial *t, const struct cu_launch *launch, int kernel,
                             float *best)
{
    const demist_program *p = t->program;
    const cudaStream_t stream = p->device->queue->stream;
    struct cu_launch l = *launch;
    l.run = cu_product_kernels[kernel].run;
    *best = 1e9f;
    for (int i = 0; i < ROUNDS; i++) {
        float ms = 0;
        CU_CALL(p->device, cudaEventRecord(t->begin, stream));
        CU_TRY(cu_queue_launch(p, stream, &l, t->bases, p->max_batch));
        CU_CALL(p->device, cudaEventRecord(t->end, stream));
        CU_CALL(p->device, cudaEventSynchronize(t->end));
        CU_CALL(p->device, cudaEventElapsedTime(&ms, t->begin, t->end));
        *best = i > 0 && ms < *best ? ms : *best;
    }
    return DEMIST_OK;
}

/* --- remembering --- */

static struct cu_tuned *remember(demist_device *device, uint64_t key, int kernel)
{
    struct cu_tuned *t = device->host->alloc(device->host, sizeof *t, 0);
    if (!t)
        return NULL;
    *t = (struct cu_tuned){device->tuned, key, kernel};
    return device->tuned = t;
}

static const struct cu_tuned *recall(demist_device *device, uint64_t key)
{
    for (const struct cu_tuned *t = device->tuned; t; t = t->next)
        if (t->key == key)
            return t;
    const uint64_t hash[2] = {key, 0};
    size_t bytes = 0;
    const struct cu_tuned *t = NULL;
    unsigned char *data = demist_cache_load(device->cache, "choice", device->key, hash, &bytes);
    /* By name: places in the table change from version to version. */
    for (int i = 0; data && i < cu_n_product_kernels && !t; i++)
        if (bytes == strlen(cu_product_kernels[i].name) &&
            memcmp(data, cu_product_kernels[i].name, bytes) == 0)
            t = remember(device, key, i);
    device->host->free(device->host, data);
    return t;
}

void cu_forget_tuned(demist_device *device)
{
    for (struct cu_tuned *t = device->tuned, *next; t; t = next) {
        next = t->next;
        device->host->free(device->host, t);
    }
    device->tuned = NULL;
}

/* --- choosing --- */

static bool among(const int *list, int n, int kernel)
{
    for (int i = 0; i < n; i++)
        if (list[i] == kernel)
            return true;
    return false;
}

static demist_status choose(struct trial *t, struct cu_launch *l, const struct cu_product *shape,
                            const int *list, int n, int *chosen)
{
    demist_program *p = t->program;
    demist_device *device = p->device;
    const uint64_t key = demist_hash(7, shape, sizeof *shape);
    const struct cu_tuned *known = recall(device, key);
    float best = 1e9f;
    if (known && among(list, n, known->kernel)) {
        *chosen = known->kernel;
    } else {
        for (int i = 0; i < n; i++) {
            float ms;
            CU_TRY(measure(t, l, list[i], &ms));
            device->host->log(device->host, DEMIST_LOG_DEBUG,
                              "product of %d rows, %d columns, %d taps of %d: %s takes %.4f ms",
                              (int)shape->rows, (int)shape->columns, (int)shape->n_taps,
                              (int)shape->depth, cu_product_kernels[list[i]].name, (double)ms);
            if (ms < best)
                *chosen = list[i];
            best = ms < best ? ms : best;
        }
        if (!remember(device, key, *chosen))
            return DEMIST_NO_MEMORY;
        const char *name = cu_product_kernels[*chosen].name;
        const uint64_t hash[2] = {key, 0};
        demist_cache_store(device->cache, "choice", device->key, hash, name, strlen(name));
    }
    const uint64_t made[2] = {key, (uint64_t)*chosen};
    p->choices = demist_hash(p->choices, made, sizeof made);
    p->chose = true;
    return DEMIST_OK;
}

static demist_status choose_for(struct trial *t, struct cu_launch *l)
{
    demist_program *p = t->program;
    int list[MAX_CANDIDATES];
    const struct cu_product shape = shape_of(p, l);
    const int n = candidates(p, &shape, list);
    int chosen = list[n - 1];
    if (p->precision == DEMIST_PRECISION_STRICT)
        chosen = list[0]; /* one chain of multiply-adds */
    else if (n > 1 && p->device->settings.tuning) {
        if (!t->bases)
            CU_TRY(trial_memory(t));
        CU_TRY(choose(t, l, &shape, list, n, &chosen));
    }
    l->kernel = cu_product_kernels[chosen].name;
    l->run = cu_product_kernels[chosen].run;
    return DEMIST_OK;
}

demist_status cu_choose_kernels(demist_program *p)
{
    struct trial t;
    demist_status status = trial_open(&t, p);
    struct cu_steps *const lists[] = {&p->once, &p->steps};
    for (int k = 0; k < 2; k++)
        for (int32_t i = 0; i < lists[k]->n && status == DEMIST_OK; i++)
            if (lists[k]->list[i].is_product)
                status = choose_for(&t, &lists[k]->list[i]);
    if (status == DEMIST_OK)
        status = cu_checked(p->device, cudaStreamSynchronize(p->device->queue->stream),
                            "cudaStreamSynchronize", __FILE__, __LINE__, NULL);
    trial_close(&t);
    return status;
}

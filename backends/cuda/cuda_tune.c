/* Which kernel computes a product: measured on the device with the program's own memory, once for
 * each shape and batch, and remembered on disk under device, driver and library versions. Without
 * tuning it is the last kernel that fits. Calls of vendor libraries are measured beside the kernels
 * and compute the largest batch where one is the fastest; the kernel is for fewer images. */
#include "cuda_library.h"

#include <string.h>

enum { ROUNDS = 4, MAX_CANDIDATES = 16, TUNED_TEXT = CU_CALL_TEXT + 32 };

struct cu_tuned {
    struct cu_tuned *next;
    uint64_t key;
    char text[TUNED_TEXT]; /* the kernel's name; where a call was faster, a newline and its text */
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
        char *const memory = s->place == CU_FIXED  ? p->fixed
                             : s->place == CU_RAW  ? p->raw
                             : s->place == CU_COPY ? p->copies
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
static demist_status measure(struct trial *t, const struct cu_launch *l, float *best)
{
    const demist_program *p = t->program;
    const cudaStream_t stream = p->device->queue->stream;
    *best = 1e9f;
    for (int i = 0; i < ROUNDS; i++) {
        float ms = 0;
        CU_CALL(p->device, cudaEventRecord(t->begin, stream));
        CU_TRY(cu_queue_launch(p, stream, l, t->bases, p->max_batch));
        CU_CALL(p->device, cudaEventRecord(t->end, stream));
        CU_CALL(p->device, cudaEventSynchronize(t->end));
        CU_CALL(p->device, cudaEventElapsedTime(&ms, t->begin, t->end));
        *best = i > 0 && ms < *best ? ms : *best;
    }
    return DEMIST_OK;
}

static void log_time(const demist_device *d, const struct cu_product *shape, const char *what,
                     float ms)
{
    d->host->log(d->host, DEMIST_LOG_DEBUG,
                 "product of %d rows, %d columns, %d taps of %d: %.60s takes %.4f ms",
                 (int)shape->rows, (int)shape->columns, (int)shape->n_taps, (int)shape->depth, what,
                 (double)ms);
}

/* The fastest of the kernels. */
static demist_status measure_kernels(struct trial *t, const struct cu_launch *launch,
                                     const struct cu_product *shape, const int *list, int n,
                                     int *chosen, float *best)
{
    struct cu_launch l = *launch;
    l.library = NULL;
    *best = 1e9f;
    for (int i = 0; i < n; i++) {
        float ms;
        l.run = cu_product_kernels[list[i]].run;
        CU_TRY(measure(t, &l, &ms));
        log_time(t->program->device, shape, cu_product_kernels[list[i]].name, ms);
        if (ms < *best)
            *chosen = list[i];
        *best = ms < *best ? ms : *best;
    }
    return DEMIST_OK;
}

/* The fastest call, where one takes less than `best`; −1: none. One that fails is not a
 * candidate any more, unless the device is lost. */
static demist_status measure_calls(struct trial *t, const struct cu_launch *l,
                                   const struct cu_product *shape, float best, int *chosen)
{
    const demist_program *p = t->program;
    struct cu_library_product *lib = l->library;
    *chosen = -1;
    for (int i = 0; lib && i < lib->n_calls; i++) {
        float ms;
        lib->call = &lib->calls[i];
        const demist_status status = measure(t, l, &ms);
        lib->call = NULL;
        if (status != DEMIST_OK) {
            CU_CALL(p->device, cudaStreamSynchronize(p->device->queue->stream));
            p->device->host->log(p->device->host, DEMIST_LOG_DEBUG, "%.60s fails and is not used",
                                 lib->calls[i].text);
            continue;
        }
        log_time(p->device, shape, lib->calls[i].text, ms);
        if (ms < best)
            *chosen = i;
        best = ms < best ? ms : best;
    }
    return DEMIST_OK;
}

/* --- remembering --- */

static uint64_t key_of(const demist_program *p, const struct cu_launch *l,
                       const struct cu_product *shape)
{
    const uint64_t key = demist_hash(7, shape, sizeof *shape);
    if (!l->library)
        return key;
    return demist_hash(key + (p->device->settings.libraries == CU_LIBRARIES_PREFER),
                       &l->library->geometry, sizeof l->library->geometry);
}

static struct cu_tuned *remember(demist_device *device, uint64_t key, const char *text,
                                 size_t length)
{
    struct cu_tuned *t = device->host->alloc(device->host, sizeof *t, 0);
    if (!t)
        return NULL;
    memset(t, 0, sizeof *t);
    t->next = device->tuned;
    t->key = key;
    memcpy(t->text, text, length < sizeof t->text ? length : sizeof t->text - 1);
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
    if (data && bytes < TUNED_TEXT)
        t = remember(device, key, (const char *)data, bytes);
    device->host->free(device->host, data);
    return t;
}

/* Behind the newline; NULL: a kernel was chosen. */
static const char *call_in(const struct cu_tuned *t)
{
    const char *newline = strchr(t->text, '\n');
    return newline ? newline + 1 : NULL;
}

/* By name: places in the table change from version to version. −1: not among them. */
static int kernel_in(const struct cu_tuned *t, const int *list, int n)
{
    const size_t length = strcspn(t->text, "\n");
    for (int i = 0; i < n; i++) {
        const char *name = cu_product_kernels[list[i]].name;
        if (strlen(name) == length && memcmp(name, t->text, length) == 0)
            return list[i];
    }
    return -1;
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

struct choice {
    int kernel, call; /* −1: none */
};

/* What was chosen before, if it can be had again. */
static bool known_choice(demist_program *p, struct cu_launch *l, const struct cu_product *shape,
                         uint64_t key, const int *list, int n, struct choice *choice)
{
    const struct cu_tuned *known = recall(p->device, key);
    if (!known)
        return false;
    const char *text = call_in(known);
    if (text && l->library && !l->library->calls && cu_find_calls(p, l, shape, text) != DEMIST_OK)
        return false;
    choice->kernel = kernel_in(known, list, n);
    choice->call = -1;
    for (int i = 0; text && l->library && i < l->library->n_calls; i++)
        if (strcmp(l->library->calls[i].text, text) == 0)
            choice->call = i;
    return choice->kernel >= 0 && (!text || choice->call >= 0);
}

/* Where libraries are preferred, the kernel for fewer images is that of the rule. */
static demist_status measure_all(struct trial *t, const struct cu_launch *l,
                                 const struct cu_product *shape, const int *list, int n,
                                 struct choice *choice)
{
    float best = 1e9f;
    *choice = (struct choice){list[n - 1], -1};
    if (!t->bases)
        CU_TRY(trial_memory(t));
    if (t->program->device->settings.libraries == CU_LIBRARIES_PREFER) {
        CU_TRY(measure_calls(t, l, shape, best, &choice->call));
        if (choice->call >= 0)
            return DEMIST_OK;
    }
    CU_TRY(measure_kernels(t, l, shape, list, n, &choice->kernel, &best));
    if (t->program->device->settings.libraries == CU_LIBRARIES_AUTO)
        CU_TRY(measure_calls(t, l, shape, best, &choice->call));
    return DEMIST_OK;
}

static demist_status choose(struct trial *t, struct cu_launch *l, const struct cu_product *shape,
                            const int *list, int n, struct choice *choice)
{
    demist_program *p = t->program;
    demist_device *device = p->device;
    const uint64_t key = key_of(p, l, shape);
    char text[TUNED_TEXT];
    if (!known_choice(p, l, shape, key, list, n, choice))
        CU_TRY(measure_all(t, l, shape, list, n, choice));
    const int length =
        snprintf(text, sizeof text, "%s%s%s", cu_product_kernels[choice->kernel].name,
                 choice->call >= 0 ? "\n" : "",
                 choice->call >= 0 ? l->library->calls[choice->call].text : "");
    const struct cu_tuned *known = recall(device, key);
    if (!known || strcmp(known->text, text) != 0) {
        const uint64_t hash[2] = {key, 0};
        if (!remember(device, key, text, (size_t)length))
            return DEMIST_NO_MEMORY;
        demist_cache_store(device->cache, "choice", device->key, hash, text, (size_t)length);
    }
    const uint64_t made[2] = {key, demist_hash(8, text, (size_t)length)};
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
    struct choice choice = {list[n - 1], -1};
    if (p->precision == DEMIST_PRECISION_STRICT)
        choice.kernel = list[0]; /* one chain of multiply-adds */
    else if (p->device->settings.tuning && (n > 1 || l->library))
        CU_TRY(choose(t, l, &shape, list, n, &choice));
    l->kernel = cu_product_kernels[choice.kernel].name;
    l->run = cu_product_kernels[choice.kernel].run;
    if (l->library)
        cu_keep_call(p, l, choice.call);
    return DEMIST_OK;
}

/* Those of a product that the program has for the second time are found when the first one's
 * choice is known; what they may need to work in is the same. */
static demist_status plan_calls(demist_program *p, int32_t step, uint64_t *keys, int64_t *bytes)
{
    struct cu_launch *l = &p->steps.list[step];
    const struct cu_product shape = shape_of(p, l);
    keys[step] = key_of(p, l, &shape);
    for (int32_t i = 0; i < step && bytes[step] < 0; i++)
        if (keys[i] == keys[step])
            bytes[step] = bytes[i];
    if (bytes[step] < 0) {
        const struct cu_tuned *known = recall(p->device, keys[step]);
        const char *text = known ? call_in(known) : NULL;
        bytes[step] = 0;
        if (!known || text)
            CU_TRY(cu_find_calls(p, l, &shape, text));
        for (int i = 0; i < l->library->n_calls; i++)
            if (bytes[step] < l->library->calls[i].workspace)
                bytes[step] = l->library->calls[i].workspace;
    }
    if (bytes[step] == 0)
        return DEMIST_OK;
    l->library->workspace = cu_new_storage(p, false, (bytes[step] + 3) / 4, CU_F32);
    if (l->library->workspace < 0)
        return DEMIST_NO_MEMORY;
    struct cu_storage *workspace = &p->storages[l->library->workspace];
    workspace->first = workspace->last = step;
    return DEMIST_OK;
}

/* Products that parameters alone decide are computed once, and not worth it. */
demist_status cu_plan_calls(demist_program *p)
{
    const size_t n = (size_t)p->steps.n + 1;
    uint64_t *keys = cu_new(p, sizeof *keys * n);
    int64_t *bytes = cu_new(p, sizeof *bytes * n);
    if (!keys || !bytes)
        return DEMIST_NO_MEMORY;
    CU_TRY(cu_use(p->device));
    for (int32_t i = 0; i < p->once.n; i++)
        p->once.list[i].library = NULL;
    for (int32_t i = 0; i < p->steps.n; i++) {
        bytes[i] = -1;
        if (p->steps.list[i].library)
            CU_TRY(plan_calls(p, i, keys, bytes));
    }
    return DEMIST_OK;
}

/* How many products each of them computes. */
static void log_choices(const demist_program *p)
{
    const demist_host *host = p->device->host;
    int all = 0, by[2] = {0, 0};
    for (int32_t i = 0; i < p->steps.n; i++) {
        const struct cu_launch *l = &p->steps.list[i];
        const struct cu_call *call = l->library ? l->library->call : NULL;
        all += l->is_product;
        by[0] += call && call->library == &cu_cublaslt;
        by[1] += call && call->library == &cu_cudnn;
    }
    host->log(host, DEMIST_LOG_DEBUG, "of %d products %d are computed by cuBLASLt, %d by cuDNN",
              all, by[0], by[1]);
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
    if (status == DEMIST_OK)
        log_choices(p);
    trial_close(&t);
    return status;
}

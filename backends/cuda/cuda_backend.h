/* An opened CUDA device: its streams, memory, pinned staging, and the cache of what was measured on
 * it. Host code is C and uses CUDA's runtime, which the plugin carries in itself: where there is no
 * driver it says so, and everything else works. */
#ifndef CUDA_BACKEND_H
#define CUDA_BACKEND_H

#include "cuda_kernels.h"

#include <demist/backend.h>
#include <demist/cache.h>

#include <stdio.h>

enum { CU_N_LIBRARIES = 2 }; /* cuBLASLt, cuDNN */

enum {
    CU_ALIGN = 256,      /* of storages in memory, bytes */
    CU_STAGES = 2,       /* pinned pieces that a queue fills in turns */
    CU_STAGE = 4 << 20,  /* bytes of one */
    CU_OLDEST_ARCH = 75, /* the least capability that there is code for */
};

struct cu_settings { /* the options */
    const char *device;
    bool tuning, graphs;
    enum cu_libraries { CU_LIBRARIES_AUTO, CU_LIBRARIES_OFF, CU_LIBRARIES_PREFER } libraries;
    const char *library_folder; /* NULL: the usual places */
};

struct demist_device {
    const demist_host *host;
    const demist_device_info *info;
    const demist_cache *cache; /* NULL: off */
    struct cu_settings settings;
    int ordinal, capability; /* 10·major + minor */
    int64_t max_shared;      /* bytes a block may have */
    demist_queue *queue;     /* for what compile does */
    char key[512]; /* what measured choices are good for: device, driver, library versions */
    struct cu_tuned *tuned;          /* choices in memory */
    bool libraries_opened;           /* or tried to */
    void *libraries[CU_N_LIBRARIES]; /* NULL: not there */
};

struct demist_buffer {
    demist_device *device;
    void *memory;
    size_t bytes;
};

/* Pageable memory goes to and from the device by way of pinned pieces, so that a write returns
 * as soon as its data are copied there, and never waits for what was queued before. */
struct cu_stage {
    void *pinned;
    cudaEvent_t done; /* the last transfer */
};

struct demist_queue {
    demist_device *device;
    cudaStream_t stream;
    struct cu_stage stage[CU_STAGES];
    int turn;
};

struct demist_event {
    demist_device *device;
    cudaEvent_t event;
};

/* --- cuda_error.c --- */

/* DEMIST_OK, or a failure that names the call, its error and the place in the source; what: node
 * and kernel where there is one, or NULL. */
demist_status cu_checked(const demist_device *device, cudaError_t error, const char *call,
                         const char *file, int line, const char *what);
#define CU_CALL(device, call)                                                                      \
    do {                                                                                           \
        const demist_status cu_call_status =                                                       \
            cu_checked(device, call, #call, __FILE__, __LINE__, NULL);                             \
        if (cu_call_status != DEMIST_OK)                                                           \
            return cu_call_status;                                                                 \
    } while (0)
#define CU_TRY(call)                                                                               \
    do {                                                                                           \
        const demist_status cu_try_status = (call);                                                \
        if (cu_try_status != DEMIST_OK)                                                            \
            return cu_try_status;                                                                  \
    } while (0)

/* Memory on the device; `what` it is for, in messages. per_image: bytes that grow with the batch,
 * max_batch of them, so that a failure can tell which batch fits; 0: none do. */
demist_status cu_new_memory(const demist_device *device, int64_t bytes, const char *what,
                            int64_t per_image, int64_t max_batch, void **memory);

/* --- cuda_backend.c --- */

demist_status cu_use(const demist_device *device); /* makes it the calling thread's */
bool cu_has_precision(demist_device *device, demist_precision precision);
demist_status cu_queue_create(demist_device *device, demist_queue **queue);
void cu_queue_destroy(demist_queue *queue);
/* To or from device memory, by way of the pinned pieces; `to_device` has copied src when it
 * returns, `from_device` has the data. */
demist_status cu_to_device(demist_queue *queue, void *to, const void *src, size_t bytes);
/* The same for a few words (4 bytes), as arguments of kernels: nothing is waited for. */
demist_status cu_put_words(const demist_device *device, cudaStream_t stream, void *to,
                           const void *src, size_t bytes);
demist_status cu_from_device(demist_queue *queue, void *dst, const void *from, size_t bytes);

void cu_forget_tuned(demist_device *device); /* cuda_tune.c */

#endif

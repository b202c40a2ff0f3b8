/* The backend interface: devices, memory, and programs compiled from graphs.
 *
 * Everything belongs to one opened device, and several may be open. A program is compiled once
 * for a largest batch, bound to buffers once, and executed many times, maybe asynchronously:
 * operations on one queue run in order; `synchronize` waits and reports what failed.
 *
 * Threads: calls on one device and on what it made come from one thread at a time; different
 * devices may be used from different threads. Within a call a CPU backend uses host->parallel.
 *
 * States: what queued work uses (buffers, bindings, programs) is destroyed only after synchronize,
 * and destroying NULL is legal everywhere. */
#ifndef DEMIST_BACKEND_H
#define DEMIST_BACKEND_H

#include <demist/graph.h>
#include <demist/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Opaque; each backend has its own. */
typedef struct demist_device demist_device;
typedef struct demist_buffer demist_buffer;
typedef struct demist_queue demist_queue;
typedef struct demist_event demist_event;
typedef struct demist_program demist_program;
typedef struct demist_binding demist_binding;

typedef enum demist_device_type {
    DEMIST_DEVICE_CPU = 1,
    DEMIST_DEVICE_GPU = 2,
    DEMIST_DEVICE_ACCELERATOR = 3,
} demist_device_type;

typedef struct demist_device_info {
    size_t size;
    const char *name; /* "AMD EPYC", "NVIDIA H200" */
    demist_device_type type;
    const char *driver;   /* name and version, "" where there is none */
    const char *detail;   /* ISA, compute capability, extensions; "" */
    int64_t memory_bytes; /* in all; 0 unknown */
    const char *unusable; /* why it cannot be used; NULL: it can */
} demist_device_info;

/* How numbers are computed; storage at a graph's edges stays float32. Append-only. */
typedef enum demist_precision {
    DEMIST_PRECISION_F32 = 0,    /* float32 class; fast algorithms (Winograd, split products) */
    DEMIST_PRECISION_STRICT = 1, /* float32 without them: under 3x the error of one FMA chain */
    DEMIST_PRECISION_TF32 = 2,
    DEMIST_PRECISION_BF16 = 3,
    DEMIST_PRECISION_F16 = 4,
} demist_precision;

enum {
    /* Parameters never change: they may be folded and packed, and node->data is free after
     * compile. Otherwise they are MUTABLE: update_params may replace them. */
    DEMIST_COMPILE_FROZEN = 1u << 0,
    DEMIST_COMPILE_OBSERVE = 1u << 1, /* values may be observed (see observe) */
    DEMIST_COMPILE_PROFILE = 1u << 2, /* time per node is kept */
};

typedef struct demist_compile_info {
    size_t size;
    int64_t max_batch; /* ≥ 1 */
    demist_precision precision;
    int64_t memory_limit; /* bytes for parameters and arena; 0: no limit */
    uint32_t flags;
} demist_compile_info;

typedef struct demist_program_info {
    size_t size;
    int64_t param_bytes; /* packed parameters */
    int64_t arena_bytes; /* working memory at max_batch, bindings not counted */
    double flops;        /* per image, 2 per multiply-add */
    const char *choices; /* a text (or hash) of tuned choices; NULL where nothing is tuned */
} demist_program_info;

/* What became of a graph's node. */
typedef enum demist_observability {
    DEMIST_OBSERVE_MATERIALISED = 1, /* observe copies it out */
    DEMIST_OBSERVE_INSIDE = 2,       /* fused into another node */
    DEMIST_OBSERVE_REMOVED = 3,      /* folded or a mere view */
} demist_observability;

typedef struct demist_node_profile {
    size_t size;
    int32_t node; /* id */
    int64_t calls;
    double seconds; /* in all calls */
} demist_node_profile;

/* A scalar slot's value: f for SCALAR nodes (cast to float32 when used), u for seeds, draw
 * numbers and image indices. */
typedef union demist_scalar {
    double f;
    uint64_t u;
} demist_scalar;

/* Where a compilation gets parameters one by one, so that they need not all be in memory beside
 * what the backend makes of them.
 * \since minor 1 */
typedef struct demist_param_reader demist_param_reader;
struct demist_param_reader {
    size_t size;
    void *internal;
    /* [the thread of compile_reading, until that returns] The data of a PARAM node of the graph,
     * row-major f32, into `to`; from a file as a rule, so read each once. A failure has its text:
     * return the status. */
    demist_status (*read)(const demist_param_reader *reader, const demist_node *param, float *to);
};

typedef struct demist_backend_vtable {
    size_t size;

    /* [main thread] values: in schema order. Opens no device. */
    demist_status (*create)(const demist_host *host, const demist_value *const *values,
                            void **self);
    void (*destroy)(void *self); /* [main thread, all devices closed] NULL is legal */

    /* [main thread] Lists what could be opened, unusable ones with the reason; a machine without
     * the driver is an empty list, not a failure. The list lives until the next call or destroy. */
    demist_status (*devices)(void *self, const demist_device_info *const **infos, int32_t *n);

    /* [main thread] index into `devices`, −1: the best, or the one that the options name. */
    demist_status (*open)(void *self, int32_t index, demist_device **device);
    void (*close)(demist_device *device); /* [all it made destroyed] NULL is legal */
    /* Precisions that compile accepts on this device. */
    bool (*has_precision)(demist_device *device, demist_precision precision);

    /* Memory, uninitialised. Offsets and sizes in bytes. `write` has copied src when it returns;
     * `read` waits until its data are there. */
    demist_status (*buffer_create)(demist_device *device, size_t bytes, demist_buffer **buffer);
    void (*buffer_destroy)(demist_buffer *buffer);
    demist_status (*buffer_write)(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                  const void *src, size_t bytes);
    demist_status (*buffer_read)(demist_queue *queue, demist_buffer *buffer, size_t offset,
                                 void *dst, size_t bytes);
    demist_status (*buffer_copy)(demist_queue *queue, demist_buffer *dst, size_t dst_offset,
                                 demist_buffer *src, size_t src_offset, size_t bytes);

    demist_status (*queue_create)(demist_device *device, demist_queue **queue);
    void (*queue_destroy)(demist_queue *queue);
    /* Waits for all that was queued; returns the first failure of it. */
    demist_status (*synchronize)(demist_queue *queue);
    /* Order between queues of one device: what `queue` gets after event_wait starts when all that
     * the recording queue got before event_record is done. An event may be destroyed at any time;
     * waits that are queued stay in force. */
    demist_status (*event_record)(demist_queue *queue, demist_event **event);
    demist_status (*event_wait)(demist_queue *queue, demist_event *event);
    void (*event_destroy)(demist_event *event);

    /* Whether the device can compute the node (FUSED ones are proposals: accept what is computed
     * as one). Otherwise *why is a static text. Must not depend on other nodes than its inputs'
     * shapes and ops. Not asked for INPUT, PARAM, CONSTANT and SCALAR, which all can. */
    bool (*supports)(demist_device *device, const demist_node *node, const char **why);

    /* The graph and its data need to live only until compile returns. */
    demist_status (*compile)(demist_device *device, const demist_graph *graph,
                             const demist_compile_info *info, demist_program **program);
    void (*program_destroy)(demist_program *program); /* [its bindings destroyed] */
    demist_status (*program_info)(demist_program *program, demist_program_info *info);
    /* MUTABLE programs: new data, row-major f32 host memory, for the parameters params[0..n); they
     * are copied before it returns and hold for what `queue` executes from now on. */
    demist_status (*update_params)(demist_queue *queue, demist_program *program, int32_t n,
                                   const int32_t *params, const void *const *data);

    /* buffers: the graph's inputs in order, then its outputs; each holds max_batch images
     * (batched values) row-major. Two may be the same buffer only if both are inputs. */
    demist_status (*bind)(demist_program *program, demist_buffer *const *buffers, int32_t n,
                          demist_binding **binding);
    void (*binding_destroy)(demist_binding *binding);
    /* n_images: 1 … max_batch. scalars: [graph->n_scalars], copied before it returns. Bindings of
     * one program share its working memory: executions from several queues need events between
     * them. */
    demist_status (*execute)(demist_queue *queue, demist_binding *binding,
                             const demist_scalar *scalars, int64_t n_images);

    /* OBSERVE programs. What became of node `id`; *inside is the id of the node that holds it. */
    demist_observability (*observability)(demist_program *program, int32_t id, int32_t *inside);
    /* From now on every execution copies the node's value, row-major, into buffer; NULL ends it.
     * The program itself is unchanged: results are bit-equal to not observing. */
    demist_status (*observe)(demist_binding *binding, int32_t id, demist_buffer *buffer);

    /* PROFILE programs: the list lives until the next call. */
    demist_status (*profile)(demist_program *program, const demist_node_profile *const **profiles,
                             int32_t *n);

    /* What was opened; the struct lives as long as the device. */
    const demist_device_info *(*device_info)(demist_device *device);

    /* Optional. What compile does, for a graph whose parameters may have no data: where a PARAM
     * node's data is NULL, `reader` has them. Without this member they are all read before compile
     * is called, and freed when it has returned.
     * \since minor 1 */
    demist_status (*compile_reading)(demist_device *device, const demist_graph *graph,
                                     const demist_compile_info *info,
                                     const demist_param_reader *reader, demist_program **program);
} demist_backend_vtable;

#ifdef __cplusplus
}
#endif
#endif

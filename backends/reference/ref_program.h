/* What the reference backend's opaque types hold. */
#ifndef REF_PROGRAM_H
#define REF_PROGRAM_H

#include "ref_ops.h"

struct demist_device {
    const demist_host *host;
    const demist_philox *philox;    /* NULL: the host has none */
    const demist_device_info *info; /* the instance's */
};

struct demist_buffer {
    demist_device *device;
    char *data;
    size_t bytes;
};

/* Operations run when they are called, so a queue has nothing to keep. */
struct demist_queue {
    demist_device *device;
};

struct demist_event {
    demist_device *device;
};

/* `from` of `bytes` lies in the buffer; otherwise fails with the operation's name. */
demist_status ref_check_span(const demist_buffer *buffer, size_t from, size_t bytes,
                             const char *operation);

demist_status ref_compile(demist_device *device, const demist_graph *graph,
                          const demist_compile_info *info, demist_program **program);
void ref_program_destroy(demist_program *program);
demist_status ref_program_info(demist_program *program, demist_program_info *info);
demist_status ref_update_params(demist_queue *queue, demist_program *program, int32_t n,
                                const int32_t *params, const void *const *data);
demist_status ref_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                       demist_binding **binding);
void ref_binding_destroy(demist_binding *binding);
demist_status ref_execute(demist_queue *queue, demist_binding *binding,
                          const demist_scalar *scalars, int64_t n_images);
demist_observability ref_observability(demist_program *program, int32_t id, int32_t *inside);
demist_status ref_observe(demist_binding *binding, int32_t id, demist_buffer *buffer);
demist_status ref_profile(demist_program *program, const demist_node_profile *const **profiles,
                          int32_t *n);

#endif

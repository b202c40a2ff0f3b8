/* A backend opened through the ABI, as the library opens one, and graphs run on it with data from
 * host memory. Backends are linked statically. What fails unexpectedly fails the running test. */
#ifndef BACKEND_HARNESS_H
#define BACKEND_HARNESS_H

#include <demist/backend.h>

#include "error.h"
#include "hosttable.h"
#include "inifile.h"
#include "pool.h"

enum { HARNESS_BUFFERS = 24 };

struct harness {
    struct dm_pool *pool;
    struct dm_host host;
    const char *backend;
    const demist_backend_vtable *vtable;
    struct dm_ini *ini; /* holds the options' values */
    void *self;
    demist_device *device;
    demist_queue *queue;
    struct dm_error error; /* of the last harness_status that was not DEMIST_OK */
};

/* Opens the plugin's first class on its best device, `threads` workers. options: "key = value",
 * NULL-ended, or NULL; the others have their defaults. */
void harness_open(struct harness *h, const demist_plugin *plugin, int threads,
                  const char *const *options);
/* The same; false, with h->error set and harness_close due, where create or open refuses: this
 * machine lacks what the options ask for (DEMIST_DEVICE, DEMIST_NOT_FOUND), or they are wrong
 * (DEMIST_CONFIG). */
bool harness_try_open(struct harness *h, const demist_plugin *plugin, int threads,
                      const char *const *options);
void harness_close(struct harness *h);

/* The status of a call into the backend, with h->error set to what the plugin said. */
demist_status harness_status(struct harness *h, const char *function, demist_status status);
/* Fails the test unless the call succeeded: HARNESS_OK(h, execute, (queue, …)); */
#define HARNESS_OK(h, function, arguments)                                                         \
    harness_expect_ok(h, #function, harness_status(h, #function, (h)->vtable->function arguments))
void harness_expect_ok(struct harness *h, const char *function, demist_status status);
/* Fails the test unless the call failed with `status` and said `fragment`. */
#define HARNESS_FAILS(h, function, arguments, status, fragment)                                    \
    harness_expect_failure(h, #function, (h)->vtable->function arguments, status, fragment)
void harness_expect_failure(struct harness *h, const char *function, demist_status got,
                            demist_status wanted, const char *fragment);

/* A compiled and bound graph with a buffer for each input and output. */
struct harness_program {
    struct harness *h;
    const demist_graph *graph; /* must outlive it */
    int64_t max_batch;
    demist_program *program;
    demist_binding *binding;
    int32_t n_buffers;
    demist_buffer *buffers[HARNESS_BUFFERS]; /* inputs, then outputs */
};

void harness_compile(struct harness *h, const demist_graph *graph, int64_t max_batch,
                     demist_precision precision, uint32_t flags, struct harness_program *p);
/* The same by compile_reading, which the backend must have. */
void harness_compile_reading(struct harness *h, const demist_graph *graph, int64_t max_batch,
                             uint32_t flags, const demist_param_reader *reader,
                             struct harness_program *p);
void harness_program_finish(struct harness_program *p);

/* Bytes of a node's value for n images. */
size_t harness_bytes(const demist_node *node, int64_t n);
/* Input `input` := the first n images of data (the whole value if not batched). */
void harness_set(struct harness_program *p, int32_t input, const void *data, int64_t n);
/* Executes n images and waits. */
void harness_execute(struct harness_program *p, const demist_scalar *scalars, int64_t n);
/* Output `output`, n images; free() it. */
void *harness_get(struct harness_program *p, int32_t output, int64_t n);
/* A buffer's first `bytes`; free() it. */
void *harness_read(struct harness *h, demist_buffer *buffer, size_t bytes);

/* Compile, set every input, execute, and return output 0. */
void *harness_run(struct harness *h, const demist_graph *graph, int64_t max_batch,
                  demist_precision precision, uint32_t flags, const void *const *inputs,
                  const demist_scalar *scalars, int64_t n);

#endif

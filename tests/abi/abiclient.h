/* What the ABI's clients share: an instance of the mock backend, and graphs built through the
 * host's builder. */
#ifndef ABICLIENT_H
#define ABICLIENT_H

#include "testing.h"

#include "graphbuild.h"
#include "hosttable.h"
#include "mock_backend.h"
#include "sources.h"

struct client {
    struct dm_host host;
    void *backend;
    struct dm_sources *sources;
};

/* Parameters get small values that depend on their key and place alone. */
static inline float param_value(const char *key, int64_t i)
{
    uint32_t hash = 2166136261u;
    for (; *key; key++)
        hash = (hash ^ (unsigned char)*key) * 16777619u;
    hash = (hash ^ (uint32_t)i) * 16777619u;
    hash ^= hash >> 15;
    hash *= 2246822519u;
    hash ^= hash >> 13;
    return (float)(hash >> 8) / 16777216.0f - 0.5f;
}

static inline demist_status fill_param(void *user, const char *key, int32_t rank,
                                       const int64_t *shape, int64_t n, float *values,
                                       struct dm_error *err)
{
    for (int64_t i = 0; i < n; i++)
        values[i] = param_value(key, i);
    return DEMIST_OK;
}

static inline int client_set_up(void **state)
{
    struct client *client = calloc(1, sizeof *client);
    int32_t source;
    *state = client;
    return !client || dm_host_init(&client->host, "backend mock", NULL, NULL, NULL) != DEMIST_OK ||
           mock_backend.create(&client->host.table, NULL, &client->backend) != DEMIST_OK ||
           dm_sources_create(&client->sources, NULL) != DEMIST_OK ||
           dm_sources_add_blank(client->sources, fill_param, NULL, &source, NULL) != DEMIST_OK;
}

static inline int client_tear_down(void **state)
{
    struct client *client = *state;
    mock_backend.destroy(client->backend);
    dm_sources_destroy(client->sources);
    dm_host_finish(&client->host);
    free(client);
    return 0;
}

#define OK(call) assert_int_equal(call, DEMIST_OK)

static inline struct dm_graph *new_graph(struct client *client, const char *name)
{
    struct dm_graph *graph;
    OK(dm_graph_create(name, client->sources, &graph, NULL));
    return graph;
}

static inline const demist_graph *finish_graph(struct dm_graph *graph)
{
    struct dm_error err = DM_ERROR_INIT;
    if (dm_graph_finish(graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    return dm_graph_view(graph);
}

static inline demist_program *compile_graph(demist_device *device, const demist_graph *graph,
                                            int64_t max_batch, uint32_t flags)
{
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    demist_program *program;
    info.max_batch = max_batch;
    info.flags = flags;
    OK(mock_backend.compile(device, graph, &info, &program));
    return program;
}

static inline demist_device *open_device(struct client *client, int32_t index)
{
    demist_device *device;
    OK(mock_backend.open(client->backend, index, &device));
    return device;
}

static inline demist_queue *new_queue(demist_device *device)
{
    demist_queue *queue;
    OK(mock_backend.queue_create(device, &queue));
    return queue;
}

/* A buffer of n 4-byte elements; data may be NULL. */
static inline demist_buffer *new_buffer(demist_device *device, demist_queue *queue, size_t n,
                                        const void *data)
{
    demist_buffer *buffer;
    OK(mock_backend.buffer_create(device, n * 4, &buffer));
    if (data)
        OK(mock_backend.buffer_write(queue, buffer, 0, data, n * 4));
    return buffer;
}

static inline void read_buffer(demist_queue *queue, demist_buffer *buffer, size_t n, void *data)
{
    OK(mock_backend.buffer_read(queue, buffer, 0, data, n * 4));
}

static inline void assert_near(const float *a, const float *b, size_t n, float bound)
{
    for (size_t i = 0; i < n; i++)
        if (!(a[i] - b[i] <= bound && b[i] - a[i] <= bound))
            fail_msg("element %d: %.9g, not %.9g", (int)i, (double)a[i], (double)b[i]);
}

#endif

/* See harness.h. */
#include "testing.h"

#include "harness.h"

#include "schema.h"

/* --- opening --- */

/* The options' values as the library makes them: an INI's section, checked against the schema. */
static const demist_value *const *parse_options(struct harness *h, const demist_class *class,
                                                const char *const *options)
{
    static const demist_option *const none[] = {NULL};
    const demist_value *const *values = NULL;
    struct dm_text section = DM_TEXT_INIT;
    struct dm_error err = DM_ERROR_INIT;
    dm_text_append(&section, "[backend]\n");
    for (; options && *options; options++)
        dm_text_appendf(&section, "%s\n", *options);
    if (dm_ini_read_memory("harness.ini", section.data, section.size, &h->ini, &err) != DEMIST_OK ||
        dm_schema_parse(h->ini, "backend", class->options ? class->options : none, &h->ini->arena,
                        &values, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    dm_text_finish(&section);
    return values;
}

bool harness_try_open(struct harness *h, const demist_plugin *plugin, int threads,
                      const char *const *options)
{
    *h = (struct harness){.backend = plugin->classes[0]->name,
                          .vtable = (const demist_backend_vtable *)plugin->classes[0]->vtable};
    struct dm_error err = DM_ERROR_INIT;
    if (dm_pool_create(threads, &h->pool, &err) != DEMIST_OK ||
        dm_host_init(&h->host, h->backend, NULL, h->pool, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    const demist_value *const *values = parse_options(h, plugin->classes[0], options);
    const demist_status status =
        harness_status(h, "create", h->vtable->create(&h->host.table, values, &h->self));
    if (status == DEMIST_DEVICE || status == DEMIST_CONFIG)
        return false;
    harness_expect_ok(h, "create", status);
    const demist_status opened =
        harness_status(h, "open", h->vtable->open(h->self, -1, &h->device));
    if (opened == DEMIST_NOT_FOUND || opened == DEMIST_DEVICE)
        return false;
    harness_expect_ok(h, "open", opened);
    HARNESS_OK(h, queue_create, (h->device, &h->queue));
    return true;
}

void harness_open(struct harness *h, const demist_plugin *plugin, int threads,
                  const char *const *options)
{
    if (!harness_try_open(h, plugin, threads, options))
        fail_msg("%s", h->error.text);
}

void harness_close(struct harness *h)
{
    h->vtable->queue_destroy(h->queue);
    h->vtable->close(h->device);
    h->vtable->destroy(h->self);
    dm_host_finish(&h->host);
    dm_pool_destroy(h->pool);
    dm_ini_destroy(h->ini);
    dm_error_clear(&h->error);
}

demist_status harness_status(struct harness *h, const char *function, demist_status status)
{
    struct dm_error err = DM_ERROR_INIT;
    status = dm_host_take_error(&h->host, function, status, &err);
    if (status != DEMIST_OK) {
        dm_error_clear(&h->error);
        h->error = err;
    }
    return status;
}

void harness_expect_ok(struct harness *h, const char *function, demist_status status)
{
    if (status != DEMIST_OK)
        fail_msg("%s, %s: %s", h->backend, function, h->error.text);
}

void harness_expect_failure(struct harness *h, const char *function, demist_status got,
                            demist_status wanted, const char *fragment)
{
    got = harness_status(h, function, got);
    if (got != wanted)
        fail_msg("%s, %s: %s (%s) instead of %s", h->backend, function, dm_status_name(got),
                 got == DEMIST_OK ? "" : h->error.text, dm_status_name(wanted));
    assert_contains(h->error.text, fragment);
}

/* --- programs --- */

size_t harness_bytes(const demist_node *node, int64_t n)
{
    const int64_t images = demist_is_batched(node) ? n : 1;
    return (size_t)(demist_elements(node) * images) * demist_dtype_bytes(node->dtype);
}

static const demist_node *edge_node(const struct harness_program *p, int32_t i)
{
    const demist_graph *g = p->graph;
    return i < g->n_inputs ? g->inputs[i] : g->outputs[i - g->n_inputs];
}

static demist_compile_info compile_info(int64_t max_batch, demist_precision precision,
                                        uint32_t flags)
{
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    info.max_batch = max_batch;
    info.precision = precision;
    info.flags = flags;
    return info;
}

/* What is behind p->program. */
static void make_buffers(struct harness_program *p)
{
    struct harness *h = p->h;
    const demist_graph *graph = p->graph;
    p->n_buffers = graph->n_inputs + graph->n_outputs;
    assert_true(p->n_buffers <= HARNESS_BUFFERS);
    for (int32_t i = 0; i < p->n_buffers; i++)
        HARNESS_OK(h, buffer_create,
                   (h->device, harness_bytes(edge_node(p, i), p->max_batch), &p->buffers[i]));
    HARNESS_OK(h, bind, (p->program, p->buffers, p->n_buffers, &p->binding));
}

void harness_compile(struct harness *h, const demist_graph *graph, int64_t max_batch,
                     demist_precision precision, uint32_t flags, struct harness_program *p)
{
    const demist_compile_info info = compile_info(max_batch, precision, flags);
    *p = (struct harness_program){.h = h, .graph = graph, .max_batch = max_batch};
    HARNESS_OK(h, compile, (h->device, graph, &info, &p->program));
    make_buffers(p);
}

void harness_compile_reading(struct harness *h, const demist_graph *graph, int64_t max_batch,
                             uint32_t flags, const demist_param_reader *reader,
                             struct harness_program *p)
{
    const demist_compile_info info = compile_info(max_batch, DEMIST_PRECISION_F32, flags);
    *p = (struct harness_program){.h = h, .graph = graph, .max_batch = max_batch};
    HARNESS_OK(h, compile_reading, (h->device, graph, &info, reader, &p->program));
    make_buffers(p);
}

void harness_program_finish(struct harness_program *p)
{
    const demist_backend_vtable *v = p->h->vtable;
    v->binding_destroy(p->binding);
    for (int32_t i = 0; i < p->n_buffers; i++)
        v->buffer_destroy(p->buffers[i]);
    v->program_destroy(p->program);
}

void harness_set(struct harness_program *p, int32_t input, const void *data, int64_t n)
{
    struct harness *h = p->h;
    HARNESS_OK(h, buffer_write,
               (h->queue, p->buffers[input], 0, data, harness_bytes(edge_node(p, input), n)));
}

void harness_execute(struct harness_program *p, const demist_scalar *scalars, int64_t n)
{
    struct harness *h = p->h;
    HARNESS_OK(h, execute, (h->queue, p->binding, scalars, n));
    HARNESS_OK(h, synchronize, (h->queue));
}

void *harness_read(struct harness *h, demist_buffer *buffer, size_t bytes)
{
    void *data = malloc(bytes);
    assert_non_null(data);
    HARNESS_OK(h, buffer_read, (h->queue, buffer, 0, data, bytes));
    return data;
}

void *harness_get(struct harness_program *p, int32_t output, int64_t n)
{
    const int32_t i = p->graph->n_inputs + output;
    return harness_read(p->h, p->buffers[i], harness_bytes(edge_node(p, i), n));
}

void *harness_run(struct harness *h, const demist_graph *graph, int64_t max_batch,
                  demist_precision precision, uint32_t flags, const void *const *inputs,
                  const demist_scalar *scalars, int64_t n)
{
    struct harness_program p;
    harness_compile(h, graph, max_batch, precision, flags, &p);
    for (int32_t i = 0; i < graph->n_inputs; i++)
        harness_set(&p, i, inputs[i], n);
    harness_execute(&p, scalars, n);
    void *out = harness_get(&p, 0, n);
    harness_program_finish(&p);
    return out;
}

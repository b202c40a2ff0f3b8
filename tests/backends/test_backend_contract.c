/* A backend on a CPU keeps the contract of demist/backend.h: results that depend on neither
 * threads nor batch, parameters that change, observing, profiling, several devices at once, limits,
 * and an error with a text for each misuse. Compiled once for each backend with BACKEND, its name,
 * maybe OPTION, a "key = value" of it, DEVICE, what its device is if no CPU, HAS_F16, if a CPU's
 * has it, and CANNOT_TELL, where a bad id gives NaN and no error. */
#include "testing.h"

#include "harness.h"
#include "op_cases.h"
#include "philox.h"

#include <demist/cache.h>

#include <math.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define PLUGIN JOIN(demist_plugin_v1_backend_, BACKEND)
extern const demist_plugin PLUGIN;

static const demist_plugin *const tested = &PLUGIN;

#ifndef DEVICE
#define DEVICE DEMIST_DEVICE_CPU
#endif
#ifndef HAS_F16
#define HAS_F16 (DEVICE == DEMIST_DEVICE_GPU)
#endif
#ifndef OPTION
#define OPTION NULL
#endif
static const char *const options[] = {OPTION, NULL};

static const struct op_case *find_case(const char *name)
{
    for (int i = 0; i < op_case_count; i++)
        if (strcmp(op_cases[i].name, name) == 0)
            return &op_cases[i];
    fail_msg("no case %s", name);
    return NULL;
}

/* A case with its data, built. */
struct instance {
    const struct op_case *c;
    void *operands[OP_CASE_OPERANDS];
    const void *inputs[OP_CASE_OPERANDS]; /* of the graph */
    struct dm_graph *owner;
    const demist_graph *graph;
};

static void instance_init(struct instance *in, const struct op_case *c,
                          enum op_case_weights weights)
{
    int32_t n_inputs = 0;
    *in = (struct instance){.c = c};
    for (int32_t i = 0; i < c->n; i++) {
        in->operands[i] = op_case_data(c, i);
        if (weights == OP_CASE_INPUTS || (c->in[i].rank > 0 && c->in[i].shape[0] == DEMIST_BATCH))
            in->inputs[n_inputs++] = in->operands[i];
    }
    in->owner = op_case_build(c, weights, in->operands);
    in->graph = dm_graph_view(in->owner);
}

static void instance_finish(struct instance *in)
{
    dm_graph_destroy(in->owner);
    for (int32_t i = 0; i < in->c->n; i++)
        free(in->operands[i]);
}

static void *run(struct harness *h, const struct instance *in, int64_t max_batch, int64_t n)
{
    return harness_run(h, in->graph, max_batch, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN,
                       in->inputs, op_case_scalars, n);
}

/* --- results --- */

static void test_results_do_not_depend_on_threads_or_batch(void **state)
{
    struct harness one, three;
    harness_open(&one, tested, 1, options);
    harness_open(&three, tested, 3, options);
    for (int i = 0; i < op_case_count; i++) {
        struct instance in;
        if (op_case_mixes_images(&op_cases[i]))
            continue;
        instance_init(&in, &op_cases[i], OP_CASE_CONSTANTS);
        void *all = run(&one, &in, OP_CASE_BATCH, OP_CASE_BATCH);
        for (int64_t n = 1; n < OP_CASE_BATCH; n += 2) { /* 1 of 5, 3 of 3 */
            void *some = run(&three, &in, n == 1 ? OP_CASE_BATCH : n, n);
            if (memcmp(all, some, harness_bytes(in.graph->outputs[0], n)) != 0)
                fail_msg("%s: %d images on three threads differ from 5 on one", in.c->name, (int)n);
            free(some);
        }
        free(all);
        instance_finish(&in);
    }
    harness_close(&one);
    harness_close(&three);
}

/* Image 3 of a batch, alone: its index is in the noise's key. */
static void test_an_image_alone_is_the_image_in_its_batch(void **state)
{
    struct harness h;
    struct instance in;
    demist_scalar scalars[OP_CASE_SCALARS];
    harness_open(&h, tested, 2, options);
    instance_init(&in, find_case("philox_normal"), OP_CASE_CONSTANTS);
    float *all = run(&h, &in, OP_CASE_BATCH, OP_CASE_BATCH);
    memcpy(scalars, op_case_scalars, sizeof scalars);
    scalars[2].u += 3;
    float *alone = harness_run(&h, in.graph, 1, DEMIST_PRECISION_F32, 0, in.inputs, scalars, 1);
    const size_t bytes = harness_bytes(in.graph->outputs[0], 1);
    assert_memory_equal(alone, all + 3 * bytes / 4, bytes);
    free(all);
    free(alone);
    instance_finish(&in);
    harness_close(&h);
}

static void test_philox_ops_are_the_host_generator(void **state)
{
    static const char *const names[] = {"philox_normal", "philox_normal/shared", "philox_uniform",
                                        "philox_uniform/shared"};
    struct harness h;
    harness_open(&h, tested, 2, options);
    for (int k = 0; k < 4; k++) {
        struct instance in;
        instance_init(&in, find_case(names[k]), OP_CASE_CONSTANTS);
        const demist_attrs *a = &in.c->attrs;
        const int64_t images = a->philox.per_image ? 3 : 1;
        const size_t n = harness_bytes(in.graph->outputs[0], 1) / 4;
        float *out = run(&h, &in, OP_CASE_BATCH, 3), *wanted = malloc(n * sizeof *wanted);
        for (int64_t i = 0; i < images; i++) {
            const uint32_t image = a->philox.per_image
                                       ? (uint32_t)(op_case_scalars[2].u + (uint64_t)i)
                                       : DEMIST_IMAGE_SHARED;
            (in.c->op == DEMIST_OP_PHILOX_NORMAL ? dm_philox_normal : dm_philox_uniform)(
                op_case_scalars[0].u, image, a->philox.purpose, (uint32_t)op_case_scalars[1].u, 0,
                n, wanted);
            const double lo = a->philox.lo, range = (double)a->philox.hi - lo;
            for (size_t e = 0; e < n && in.c->op == DEMIST_OP_PHILOX_UNIFORM; e++)
                wanted[e] = (float)(lo + range * wanted[e]);
            assert_memory_equal(out + (size_t)i * n, wanted, n * sizeof *wanted);
        }
        free(out);
        free(wanted);
        instance_finish(&in);
    }
    harness_close(&h);
}

static void test_scalar_slots_are_read_at_every_execution(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    demist_scalar scalars[OP_CASE_SCALARS] = {{0}};
    harness_open(&h, tested, 1, options);
    instance_init(&in, find_case("chain/times-scalar"), OP_CASE_CONSTANTS);
    harness_compile(&h, in.graph, 1, DEMIST_PRECISION_F32, 0, &p);
    harness_set(&p, 0, in.inputs[0], 1);
    for (int k = 0; k < 3; k++) {
        scalars[3].f = 0.1 * k; /* becomes float32 when used */
        harness_execute(&p, scalars, 1);
        float *out = harness_get(&p, 0, 1);
        for (int i = 0; i < 12; i++)
            assert_true(out[i] == (float)((double)((const float *)in.inputs[0])[i] *
                                          (double)(float)scalars[3].f));
        free(out);
    }
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

static void test_weights_may_be_constants_parameters_or_inputs(void **state)
{
    struct harness h;
    harness_open(&h, tested, 2, options);
    for (int i = 0; i < op_case_count; i++) {
        void *out[3];
        size_t bytes = 0;
        for (int k = 0; k < 3; k++) {
            struct instance in;
            instance_init(&in, &op_cases[i], (enum op_case_weights)k);
            out[k] = run(&h, &in, OP_CASE_BATCH, 3);
            bytes = harness_bytes(in.graph->outputs[0], 3);
            instance_finish(&in);
        }
        if (memcmp(out[0], out[1], bytes) != 0 || memcmp(out[0], out[2], bytes) != 0)
            fail_msg("%s depends on what its weights are", op_cases[i].name);
        for (int k = 0; k < 3; k++)
            free(out[k]);
    }
    harness_close(&h);
}

/* Outputs may be leaves, and one value may be two outputs. */
static void test_outputs_may_be_inputs_and_repeated(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    harness_open(&h, tested, 2, options);
    instance_init(&in, find_case("linear/odd"), OP_CASE_CONSTANTS);
    const demist_node *y = in.graph->outputs[0], *x = y->inputs[0], *w = y->inputs[1];
    const demist_node *outputs[] = {y, x, y, w};
    demist_graph graph = *in.graph;
    graph.n_outputs = 4;
    graph.outputs = outputs;
    harness_compile(&h, &graph, 2, DEMIST_PRECISION_F32, 0, &p);
    harness_set(&p, 0, in.inputs[0], 2);
    harness_execute(&p, op_case_scalars, 2);
    void *wanted = run(&h, &in, 2, 2), *out[4];
    for (int i = 0; i < 4; i++)
        out[i] = harness_get(&p, i, 2);
    assert_memory_equal(out[0], wanted, harness_bytes(y, 2));
    assert_memory_equal(out[1], in.operands[0], harness_bytes(x, 2));
    assert_memory_equal(out[2], wanted, harness_bytes(y, 2));
    assert_memory_equal(out[3], in.operands[1], harness_bytes(w, 2));
    for (int i = 0; i < 4; i++)
        free(out[i]);
    free(wanted);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

/* --- parameters --- */

static void test_updated_parameters_are_used(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    const int32_t both[] = {0, 1};
    static float zeros[4 * 3 * 3 * 3];
    harness_open(&h, tested, 2, options);
    instance_init(&in, find_case("conv2d"), OP_CASE_PARAMS);
    void *wanted = run(&h, &in, 3, 3);
    const size_t bytes = harness_bytes(in.graph->outputs[0], 3);

    harness_compile(&h, in.graph, 3, DEMIST_PRECISION_F32, 0, &p);
    harness_set(&p, 0, in.inputs[0], 3);
    const void *nothing[] = {zeros, zeros}, *data[] = {in.operands[1], in.operands[2]};
    HARNESS_OK(&h, update_params, (h.queue, p.program, 2, both, nothing));
    harness_execute(&p, op_case_scalars, 3);
    float *out = harness_get(&p, 0, 3);
    for (size_t i = 0; i < bytes / 4; i++)
        assert_true(out[i] == 0);
    free(out);
    HARNESS_OK(&h, update_params, (h.queue, p.program, 2, both, data));
    harness_execute(&p, op_case_scalars, 3);
    out = harness_get(&p, 0, 3);
    assert_memory_equal(out, wanted, bytes);
    free(out);
    free(wanted);

    const int32_t beyond[] = {2};
    HARNESS_FAILS(&h, update_params, (h.queue, p.program, 1, beyond, data), DEMIST_INVALID,
                  "no parameter 2");
    harness_program_finish(&p);
    harness_compile(&h, in.graph, 3, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    HARNESS_FAILS(&h, update_params, (h.queue, p.program, 2, both, data), DEMIST_INVALID, "FROZEN");
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

/* A mutable parameter's data may come with the first update; until then executing is an error. */
static void test_refuses_to_execute_without_parameters(void **state)
{
    struct harness h;
    struct instance in, given;
    struct harness_program p;
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    harness_open(&h, tested, 1, options);
    const struct op_case *c = find_case("linear");
    instance_init(&given, c, OP_CASE_PARAMS);
    in = (struct instance){.c = c, .operands = {op_case_data(c, 0), NULL, NULL}};
    in.owner = op_case_build(c, OP_CASE_PARAMS, in.operands);
    in.graph = dm_graph_view(in.owner);
    info.max_batch = 2;
    info.flags = DEMIST_COMPILE_FROZEN;
    HARNESS_FAILS(&h, compile, (h.device, in.graph, &info, &p.program), DEMIST_INVALID,
                  "'in1' (param) has no data");

    harness_compile(&h, in.graph, 2, DEMIST_PRECISION_F32, 0, &p);
    harness_set(&p, 0, in.operands[0], 2);
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, op_case_scalars, 2), DEMIST_INVALID,
                  "'in1' has no data: call update_params");
    const int32_t both[] = {0, 1};
    const void *data[] = {given.operands[1], given.operands[2]};
    HARNESS_OK(&h, update_params, (h.queue, p.program, 2, both, data));
    harness_execute(&p, op_case_scalars, 2);
    void *out = harness_get(&p, 0, 2), *wanted = run(&h, &given, 2, 2);
    assert_memory_equal(out, wanted, harness_bytes(in.graph->outputs[0], 2));
    free(out);
    free(wanted);
    harness_program_finish(&p);
    instance_finish(&in);
    instance_finish(&given);
    harness_close(&h);
}

/* A reader of an instance's parameters, which a graph that was built like it lacks. */
struct reading {
    struct harness *h;
    const struct instance *from;
    int left; /* reads before one fails; −1: none does */
};

static demist_status read_param(const demist_param_reader *reader, const demist_node *param,
                                float *to)
{
    struct reading *r = reader->internal;
    const demist_node *from = r->from->graph->params[param->param_index];
    const demist_host *host = &r->h->host.table;
    if (r->left == 0)
        return (host->fail)(host, DEMIST_IO, "the disk is gone"); /* not cmocka's macro */
    r->left--;
    assert_string_equal(param->name, from->name);
    memcpy(to, from->data, (size_t)demist_elements(from) * sizeof *to);
    return DEMIST_OK;
}

/* The case with parameters that have no data, and a reader of those that `given` has. */
static void without_data(struct instance *in, const struct instance *given, struct reading *reading,
                         demist_param_reader *reader)
{
    void *none[OP_CASE_OPERANDS] = {NULL};
    *in = (struct instance){.c = given->c};
    memcpy(in->inputs, given->inputs, sizeof in->inputs);
    in->owner = op_case_build(given->c, OP_CASE_PARAMS, none);
    in->graph = dm_graph_view(in->owner);
    *reader = DEMIST_INIT(demist_param_reader);
    reader->internal = reading;
    reader->read = read_param;
}

static bool reads(struct harness *h)
{
    if (DEMIST_HAS(h->vtable, compile_reading))
        return true;
    print_message("skipped: %s has no compile_reading\n", h->backend);
    return false;
}

static void test_parameters_may_be_read_one_by_one(void **state)
{
    static const uint32_t flags[] = {0, DEMIST_COMPILE_FROZEN, DEMIST_COMPILE_OBSERVE,
                                     DEMIST_COMPILE_FROZEN | DEMIST_COMPILE_OBSERVE};
    struct harness h;
    harness_open(&h, tested, 2, options);
    for (int i = 0; reads(&h) && i < op_case_count; i++) {
        struct instance given, in;
        demist_param_reader reader;
        instance_init(&given, &op_cases[i], OP_CASE_PARAMS);
        struct reading reading = {&h, &given, -1};
        const uint32_t compiled = flags[i % 4];
        if (given.graph->n_params > 0) {
            struct harness_program p;
            void *wanted = harness_run(&h, given.graph, 3, DEMIST_PRECISION_F32, compiled,
                                       given.inputs, op_case_scalars, 3);
            without_data(&in, &given, &reading, &reader);
            harness_compile_reading(&h, in.graph, 3, compiled, &reader, &p);
            for (int32_t k = 0; k < in.graph->n_inputs; k++)
                harness_set(&p, k, in.inputs[k], 3);
            harness_execute(&p, op_case_scalars, 3);
            void *out = harness_get(&p, 0, 3);
            if (memcmp(out, wanted, harness_bytes(in.graph->outputs[0], 3)) != 0)
                fail_msg("%s: parameters that were read make another result", in.c->name);
            free(out);
            free(wanted);
            harness_program_finish(&p);
            instance_finish(&in);
        }
        instance_finish(&given);
    }
    harness_close(&h);
}

static void test_a_parameter_that_cannot_be_read_ends_compiling(void **state)
{
    struct harness h;
    harness_open(&h, tested, 2, options);
    struct instance given, in;
    demist_param_reader reader;
    instance_init(&given, find_case("conv2d"), OP_CASE_PARAMS);
    for (int left = 0; reads(&h) && left < 4; left++) {
        struct reading reading = {&h, &given, left % 2};
        demist_compile_info info = DEMIST_INIT(demist_compile_info);
        demist_program *program = NULL;
        info.max_batch = 3;
        info.flags = left < 2 ? DEMIST_COMPILE_FROZEN : 0;
        without_data(&in, &given, &reading, &reader);
        HARNESS_FAILS(&h, compile_reading, (h.device, in.graph, &info, &reader, &program),
                      DEMIST_IO, "the disk is gone");
        instance_finish(&in);
    }
    instance_finish(&given);
    harness_close(&h);
}

/* --- observe, profile --- */

static void test_observing_shows_every_node_and_changes_nothing(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    demist_buffer *watched[32];
    harness_open(&h, tested, 2, options);
    instance_init(&in, find_case("chain/attention-block"), OP_CASE_CONSTANTS);
    const demist_graph *g = in.graph;
    void *wanted = run(&h, &in, 4, 3);
    harness_compile(&h, g, 4, DEMIST_PRECISION_F32, DEMIST_COMPILE_OBSERVE, &p);
    harness_set(&p, 0, in.inputs[0], 3);
    assert_true(g->n_nodes <= 32);
    for (int32_t i = 0; i < g->n_nodes; i++) {
        int32_t inside = -1;
        assert_int_equal(h.vtable->observability(p.program, i, &inside),
                         DEMIST_OBSERVE_MATERIALISED);
        HARNESS_OK(&h, buffer_create, (h.device, harness_bytes(g->nodes[i], 4), &watched[i]));
        HARNESS_OK(&h, observe, (p.binding, i, watched[i]));
    }
    harness_execute(&p, op_case_scalars, 3);
    void *out = harness_get(&p, 0, 3);
    assert_memory_equal(out, wanted, harness_bytes(g->outputs[0], 3));
    free(out);
    for (int32_t i = 0; i < g->n_nodes; i++) { /* each value, against the graph that ends there */
        void *seen = harness_read(&h, watched[i], harness_bytes(g->nodes[i], 3));
        demist_graph part = *g;
        const demist_node *end[] = {g->nodes[i]};
        part.n_outputs = 1;
        part.outputs = end;
        void *alone =
            harness_run(&h, &part, 3, DEMIST_PRECISION_F32, 0, in.inputs, op_case_scalars, 3);
        assert_memory_equal(seen, alone, harness_bytes(g->nodes[i], 3));
        free(seen);
        free(alone);
    }

    /* Ended: the buffer stays as it is. */
    const int32_t last = g->outputs[0]->id;
    const float mark = 42;
    HARNESS_OK(&h, buffer_write, (h.queue, watched[last], 0, &mark, sizeof mark));
    HARNESS_OK(&h, observe, (p.binding, last, NULL));
    harness_execute(&p, op_case_scalars, 3);
    float *kept = harness_read(&h, watched[last], sizeof mark);
    assert_true(*kept == mark);
    free(kept);
    free(wanted);
    for (int32_t i = 0; i < g->n_nodes; i++)
        h.vtable->buffer_destroy(watched[i]);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

static void test_profile_counts_calls_of_every_node(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    const demist_node_profile *const *profiles;
    int32_t n;
    harness_open(&h, tested, 2, options);
    instance_init(&in, find_case("chain/conv-bn-gelu"), OP_CASE_CONSTANTS);
    harness_compile(&h, in.graph, 2, DEMIST_PRECISION_F32, DEMIST_COMPILE_PROFILE, &p);
    harness_set(&p, 0, in.inputs[0], 2);
    for (int k = 0; k < 3; k++)
        harness_execute(&p, op_case_scalars, 2);
    HARNESS_OK(&h, profile, (p.program, &profiles, &n));
    assert_int_equal(n, in.graph->n_nodes);
    double seconds = 0;
    for (int32_t i = 0; i < n; i++) {
        assert_int_equal(profiles[i]->node, i);
        assert_int_equal(profiles[i]->calls, 3);
        assert_true(profiles[i]->seconds >= 0);
        seconds += profiles[i]->seconds;
    }
    assert_true(seconds > 0);
    harness_program_finish(&p);
    harness_compile(&h, in.graph, 2, DEMIST_PRECISION_F32, 0, &p);
    HARNESS_FAILS(&h, profile, (p.program, &profiles, &n), DEMIST_INVALID, "PROFILE");
    HARNESS_FAILS(&h, observe, (p.binding, 0, NULL), DEMIST_INVALID, "OBSERVE");
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

static void test_program_info_tells_work_and_memory(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    demist_program_info info = DEMIST_INIT(demist_program_info);
    harness_open(&h, tested, 1, options);
    instance_init(&in, find_case("conv2d"), OP_CASE_CONSTANTS);
    harness_compile(&h, in.graph, 2, DEMIST_PRECISION_F32, 0, &p);
    HARNESS_OK(&h, program_info, (p.program, &info));
    assert_true(info.flops == 2.0 * (4 * 8 * 8) * (3 * 3 * 3));
    assert_true(info.param_bytes >= (4 * 3 * 9 + 4) * 4);
    assert_true(info.arena_bytes >= 2 * 4 * 8 * 8 * 4);
    assert_null(info.choices);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

/* --- devices, buffers, queues --- */

static void test_lists_one_device(void **state)
{
    struct harness h;
    const demist_device_info *const *infos;
    int32_t n;
    demist_device *other = NULL;
    harness_open(&h, tested, 1, options);
    HARNESS_OK(&h, devices, (h.self, &infos, &n));
    assert_int_equal(n, 1);
    assert_int_equal(infos[0]->type, DEVICE);
    assert_true(strlen(infos[0]->name) > 0);
    assert_true(infos[0]->memory_bytes > 0);
    assert_null(infos[0]->unusable);
    assert_string_equal(h.vtable->device_info(h.device)->name, infos[0]->name);
    HARNESS_FAILS(&h, open, (h.self, 1, &other), DEMIST_NOT_FOUND, "no device 1");
    assert_true(h.vtable->has_precision(h.device, DEMIST_PRECISION_F32));
    assert_true(h.vtable->has_precision(h.device, DEMIST_PRECISION_STRICT));
    assert_int_equal(h.vtable->has_precision(h.device, DEMIST_PRECISION_F16), HAS_F16);
    harness_close(&h);
}

static void test_two_devices_are_independent(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    demist_device *other;
    demist_queue *queue;
    demist_buffer *buffers[2];
    demist_program *program;
    demist_binding *binding;
    demist_event *event;
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    harness_open(&h, tested, 2, options);
    instance_init(&in, find_case("gelu"), OP_CASE_CONSTANTS);
    harness_compile(&h, in.graph, 3, DEMIST_PRECISION_F32, 0, &p);
    HARNESS_OK(&h, open, (h.self, 0, &other));
    HARNESS_OK(&h, queue_create, (other, &queue));
    info.max_batch = 3;
    HARNESS_OK(&h, compile, (other, in.graph, &info, &program));
    const size_t bytes = harness_bytes(in.graph->inputs[0], 3);
    for (int i = 0; i < 2; i++)
        HARNESS_OK(&h, buffer_create, (other, bytes, &buffers[i]));
    HARNESS_FAILS(&h, bind, (program, p.buffers, 2, &binding), DEMIST_INVALID, "another device");
    HARNESS_OK(&h, bind, (program, buffers, 2, &binding));
    HARNESS_OK(&h, buffer_write, (queue, buffers[0], 0, in.inputs[0], bytes));
    HARNESS_OK(&h, event_record, (queue, &event));
    HARNESS_OK(&h, event_wait, (queue, event));
    HARNESS_FAILS(&h, event_wait, (h.queue, event), DEMIST_INVALID, "another device");
    h.vtable->event_destroy(event);
    harness_set(&p, 0, in.inputs[0], 3);
    harness_execute(&p, op_case_scalars, 3);
    HARNESS_OK(&h, execute, (queue, binding, op_case_scalars, 3));
    void *one = harness_get(&p, 0, 3), *two = malloc(bytes);
    HARNESS_OK(&h, buffer_read, (queue, buffers[1], 0, two, bytes));
    assert_memory_equal(one, two, bytes);
    free(one);
    free(two);
    h.vtable->binding_destroy(binding);
    h.vtable->program_destroy(program);
    for (int i = 0; i < 2; i++)
        h.vtable->buffer_destroy(buffers[i]);
    h.vtable->queue_destroy(queue);
    h.vtable->close(other);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

static void test_buffers_copy_within_their_bounds(void **state)
{
    struct harness h;
    demist_buffer *a, *b;
    char text[8] = "abcdefg";
    harness_open(&h, tested, 1, options);
    HARNESS_OK(&h, buffer_create, (h.device, 8, &a));
    HARNESS_OK(&h, buffer_create, (h.device, 0, &b));
    HARNESS_OK(&h, buffer_write, (h.queue, a, 0, text, 8));
    HARNESS_OK(&h, buffer_copy, (h.queue, a, 0, a, 2, 4));
    HARNESS_OK(&h, buffer_read, (h.queue, a, 0, text, 8));
    assert_memory_equal(text, "cdefefg", 8);
    HARNESS_OK(&h, buffer_read, (h.queue, b, 0, NULL, 0));
    HARNESS_FAILS(&h, buffer_write, (h.queue, a, 4, text, 5), DEMIST_INVALID, "buffer of 8 bytes");
    HARNESS_FAILS(&h, buffer_read, (h.queue, a, SIZE_MAX, text, 2), DEMIST_INVALID, "8 bytes");
    HARNESS_FAILS(&h, buffer_copy, (h.queue, b, 0, a, 0, 1), DEMIST_INVALID, "(to) of 1 bytes");
    HARNESS_FAILS(&h, buffer_create, (h.device, SIZE_MAX / 2, &b), DEMIST_NO_MEMORY, "");
    h.vtable->buffer_destroy(a);
    h.vtable->buffer_destroy(b);
    harness_close(&h);
}

static void test_destructors_accept_null(void **state)
{
    const demist_backend_vtable *v = tested->classes[0]->vtable;
    v->binding_destroy(NULL);
    v->program_destroy(NULL);
    v->buffer_destroy(NULL);
    v->event_destroy(NULL);
    v->queue_destroy(NULL);
    v->close(NULL);
    v->destroy(NULL);
}

/* --- misuse --- */

static void test_refuses_what_it_cannot_compile(void **state)
{
    struct harness h;
    struct instance in;
    demist_program *program = NULL;
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    harness_open(&h, tested, 1, options);
    instance_init(&in, find_case("conv2d"), OP_CASE_CONSTANTS);
    HARNESS_FAILS(&h, compile, (h.device, in.graph, &info, &program), DEMIST_INVALID,
                  "largest batch is 0");
    info.max_batch = INT64_MAX;
    HARNESS_FAILS(&h, compile, (h.device, in.graph, &info, &program), DEMIST_NO_MEMORY,
                  "lower the batch");
    info.max_batch = INT64_C(1) << 40;
    HARNESS_FAILS(&h, compile, (h.device, in.graph, &info, &program), DEMIST_NO_MEMORY, "");
    info.max_batch = 2;
    info.precision = DEMIST_PRECISION_TF32;
    if (!h.vtable->has_precision(h.device, info.precision))
        HARNESS_FAILS(&h, compile, (h.device, in.graph, &info, &program), DEMIST_UNSUPPORTED,
                      "f32");
    info.precision = DEMIST_PRECISION_F32;
    info.memory_limit = 1000;
    HARNESS_FAILS(&h, compile, (h.device, in.graph, &info, &program), DEMIST_NO_MEMORY,
                  "the limit is 1000: lower the batch or raise the limit");
    info.memory_limit = 1 << 20;
    HARNESS_OK(&h, compile, (h.device, in.graph, &info, &program));
    h.vtable->program_destroy(program);
    instance_finish(&in);
    harness_close(&h);
}

static void test_refuses_empty_and_unknown_nodes_by_name(void **state)
{
    struct harness h;
    const char *why = NULL;
    demist_program *program = NULL;
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    harness_open(&h, tested, 1, options);
    demist_node node = DEMIST_INIT(demist_node);
    node.name = "block1";
    node.op = DEMIST_OP_FUSED;
    assert_false(h.vtable->supports(h.device, &node, &why)); /* of nothing */
    assert_non_null(why);
    node.op = (demist_op)999;
    assert_false(h.vtable->supports(h.device, &node, &why));
    assert_contains(why, "does not know this op");
    const demist_node *nodes[] = {&node};
    demist_graph graph = DEMIST_INIT(demist_graph);
    graph.n_nodes = graph.n_outputs = 1;
    graph.nodes = graph.outputs = nodes;
    info.max_batch = 1;
    HARNESS_FAILS(&h, compile, (h.device, &graph, &info, &program), DEMIST_UNSUPPORTED,
                  "node 'block1'");
    harness_close(&h);
}

static void test_refuses_wrong_buffers_and_calls(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    demist_binding *binding = NULL;
    demist_buffer *small;
    harness_open(&h, tested, 1, options);
    instance_init(&in, find_case("linear"), OP_CASE_INPUTS);
    harness_compile(&h, in.graph, 2, DEMIST_PRECISION_F32, DEMIST_COMPILE_OBSERVE, &p);
    HARNESS_OK(&h, buffer_create, (h.device, 16, &small));
    demist_buffer *aliased[] = {p.buffers[0], p.buffers[1], p.buffers[2], p.buffers[1]};
    demist_buffer *short_one[] = {p.buffers[0], p.buffers[1], p.buffers[2], small};
    demist_buffer *missing[] = {NULL, p.buffers[1], p.buffers[2], p.buffers[3]};
    HARNESS_FAILS(&h, bind, (p.program, p.buffers, 3, &binding), DEMIST_INVALID,
                  "3 inputs and 1 outputs");
    HARNESS_FAILS(&h, bind, (p.program, aliased, 4, &binding), DEMIST_INVALID, "of its own");
    HARNESS_FAILS(&h, bind, (p.program, short_one, 4, &binding), DEMIST_INVALID, "has 16 bytes");
    HARNESS_FAILS(&h, bind, (p.program, missing, 4, &binding), DEMIST_INVALID, "missing");
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, op_case_scalars, 0), DEMIST_INVALID,
                  "0 images");
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, op_case_scalars, 3), DEMIST_INVALID,
                  "compiled for 1 to 2");
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, NULL, 1), DEMIST_INVALID, "scalar slots");
    HARNESS_FAILS(&h, observe, (p.binding, 99, small), DEMIST_INVALID, "no node 99");
    HARNESS_FAILS(&h, observe, (p.binding, 0, small), DEMIST_INVALID, "has 16 bytes");
    h.vtable->buffer_destroy(small);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

static void test_refuses_an_id_outside_its_table(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    int32_t ids[] = {3, 10, -1};
    harness_open(&h, tested, 1, options);
    instance_init(&in, find_case("embedding"), OP_CASE_CONSTANTS);
    harness_compile(&h, in.graph, 3, DEMIST_PRECISION_F32, 0, &p);
    harness_set(&p, 0, ids, 3);
#ifdef CANNOT_TELL
    harness_execute(&p, op_case_scalars, 3);
    float *rows = harness_get(&p, 0, 3);
    for (int i = 0; i < 18; i++)
        assert_int_equal(isnan(rows[i]) != 0, i >= 6);
    free(rows);
#else
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, op_case_scalars, 3), DEMIST_INVALID,
                  "id 10 at position 1 is outside its table of 10 rows");
    ids[1] = 9;
    harness_set(&p, 0, ids, 3);
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, op_case_scalars, 3), DEMIST_INVALID, "id -1");
#endif
    harness_execute(&p, op_case_scalars, 2);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

static void test_refuses_noise_beyond_the_generators_range(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    demist_scalar scalars[OP_CASE_SCALARS] = {{0}};
    harness_open(&h, tested, 1, options);
    instance_init(&in, find_case("philox_normal"), OP_CASE_CONSTANTS);
    harness_compile(&h, in.graph, 2, DEMIST_PRECISION_F32, 0, &p);
    scalars[1].u = UINT64_C(1) << 32;
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, scalars, 1), DEMIST_INVALID, "below 2^32");
    scalars[1].u = 0;
    scalars[2].u = UINT32_MAX - 1;
    HARNESS_OK(&h, execute, (h.queue, p.binding, scalars, 1));
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, scalars, 2), DEMIST_INVALID, "2^32-1");
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

/* --- running out of memory: every allocation fails once --- */

struct scarce {
    demist_host table;
    const demist_host *real;
    int left; /* allocations until one fails */
};

static void *scarce_alloc(const demist_host *host, size_t bytes, size_t align)
{
    struct scarce *s = host->internal;
    if (s->left-- == 0)
        return NULL;
    return s->real->alloc(s->real, bytes, align);
}

static void scarce_free(const demist_host *host, void *memory)
{
    struct scarce *s = host->internal;
    s->real->free(s->real, memory);
}

static void scarce_log(const demist_host *host, demist_log_level level, const char *fmt, ...)
{
}

static void scarce_parallel(const demist_host *host, int64_t n, demist_task fn, void *arg)
{
    for (int64_t i = 0; i < n; i++)
        fn(arg, i, 0);
}

static int64_t scarce_plan(const demist_host *host, demist_block *blocks, size_t n, size_t align)
{
    struct scarce *s = host->internal;
    return s->real->plan_memory(s->real, blocks, n, align);
}

/* Without the generator; with the cache, so that kernels are compiled once. */
static const void *scarce_extension(const demist_host *host, const char *id)
{
    struct scarce *s = host->internal;
    return strcmp(id, DEMIST_EXT_CACHE) == 0 ? s->real->extension(s->real, id) : NULL;
}

/* Defaults of the class's options; of an enumeration its first choice. */
static void default_values(const demist_value **values)
{
    static demist_value all[8];
    const demist_option *const *o = tested->classes[0]->options;
    for (int i = 0; o && o[i]; i++) {
        all[i] = DEMIST_INIT(demist_value);
        all[i].text = o[i]->default_value;
        values[i] = &all[i];
    }
}

/* DEMIST_OK when the whole life of a program went through. */
static demist_status one_life(const demist_backend_vtable *v, struct scarce *s,
                              const demist_graph *graph)
{
    void *self = NULL;
    demist_device *device = NULL;
    demist_queue *queue = NULL;
    demist_program *program = NULL;
    demist_binding *binding = NULL;
    demist_event *event = NULL;
    demist_buffer *buffers[2] = {NULL, NULL};
    const demist_value *values[8];
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    info.max_batch = 1;
    const size_t in = harness_bytes(graph->inputs[0], 1), out = harness_bytes(graph->outputs[0], 1);
    demist_status status;
    default_values(values);
    (void)((status = v->create(&s->table, values, &self)) ||
           (status = v->open(self, -1, &device)) || (status = v->queue_create(device, &queue)) ||
           (status = v->event_record(queue, &event)) ||
           (status = v->buffer_create(device, in, &buffers[0])) ||
           (status = v->buffer_create(device, out, &buffers[1])) ||
           (status = v->compile(device, graph, &info, &program)) ||
           (status = v->bind(program, buffers, 2, &binding)));
    v->binding_destroy(binding);
    v->program_destroy(program);
    v->buffer_destroy(buffers[0]);
    v->buffer_destroy(buffers[1]);
    v->event_destroy(event);
    v->queue_destroy(queue);
    v->close(device);
    v->destroy(self);
    return status;
}

static void test_survives_every_failing_allocation(void **state)
{
    struct dm_host host;
    struct instance in;
    assert_int_equal(dm_host_init(&host, "backend", NULL, NULL, NULL), DEMIST_OK);
    instance_init(&in, find_case("chain/conv-bn-gelu"), OP_CASE_CONSTANTS);
    int failures = 0;
    demist_status status = DEMIST_NO_MEMORY;
    while (status != DEMIST_OK) {
        struct scarce s = {host.table, &host.table, failures};
        s.table.internal = &s;
        s.table.alloc = scarce_alloc;
        s.table.free = scarce_free;
        s.table.log = scarce_log;
        s.table.parallel = scarce_parallel;
        s.table.plan_memory = scarce_plan;
        s.table.extension = scarce_extension;
        status = one_life(tested->classes[0]->vtable, &s, in.graph);
        assert_true(status == DEMIST_OK || status == DEMIST_NO_MEMORY);
        failures += status != DEMIST_OK;
    }
    assert_true(failures > 15);
    instance_finish(&in);
    dm_host_finish(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results_do_not_depend_on_threads_or_batch),
        cmocka_unit_test(test_an_image_alone_is_the_image_in_its_batch),
        cmocka_unit_test(test_philox_ops_are_the_host_generator),
        cmocka_unit_test(test_scalar_slots_are_read_at_every_execution),
        cmocka_unit_test(test_weights_may_be_constants_parameters_or_inputs),
        cmocka_unit_test(test_outputs_may_be_inputs_and_repeated),
        cmocka_unit_test(test_updated_parameters_are_used),
        cmocka_unit_test(test_refuses_to_execute_without_parameters),
        cmocka_unit_test(test_parameters_may_be_read_one_by_one),
        cmocka_unit_test(test_a_parameter_that_cannot_be_read_ends_compiling),
        cmocka_unit_test(test_observing_shows_every_node_and_changes_nothing),
        cmocka_unit_test(test_profile_counts_calls_of_every_node),
        cmocka_unit_test(test_program_info_tells_work_and_memory),
        cmocka_unit_test(test_lists_one_device),
        cmocka_unit_test(test_two_devices_are_independent),
        cmocka_unit_test(test_buffers_copy_within_their_bounds),
        cmocka_unit_test(test_destructors_accept_null),
        cmocka_unit_test(test_refuses_what_it_cannot_compile),
        cmocka_unit_test(test_refuses_empty_and_unknown_nodes_by_name),
        cmocka_unit_test(test_refuses_wrong_buffers_and_calls),
        cmocka_unit_test(test_refuses_an_id_outside_its_table),
        cmocka_unit_test(test_refuses_noise_beyond_the_generators_range),
        cmocka_unit_test(test_survives_every_failing_allocation),
    };
    enum { SKIPPED = 77 }; /* as meson counts it */
    struct harness h;
    const bool there = harness_try_open(&h, tested, 1, options);
    if (!there)
        printf("skipped: %s\n", h.error.text);
    harness_close(&h);
    return there ? cmocka_run_group_tests(tests, NULL, NULL) : SKIPPED;
}

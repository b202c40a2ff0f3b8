/* A backend against the reference: every op case, its weights as constants, parameters and inputs,
 * one image and several, as the network would build it and as the core lowers it for this backend
 * (fused where the backend asks for it).
 *
 * Compiled once for each backend with BACKEND (its name: cpu, …). Command line: the precision (f32,
 * strict, tf32, bf16, f16) and options of the backend ("isa = avx2"); behind them may stand which
 * tests to run ("*16_bits*"). */
#include "testing.h"

#include "harness.h"
#include "op_bounds.h"
#include "op_cases.h"
#include "passes.h"

#include <math.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define PLUGIN JOIN(demist_plugin_v1_backend_, BACKEND)
extern const demist_plugin PLUGIN;
extern const demist_plugin demist_plugin_v1_backend_reference;

enum { IMAGES = 3 };

struct state {
    struct harness reference, tested;
    demist_precision precision;
    const char *const *options; /* NULL-ended */
};

/* A case with its data. */
struct instance {
    const struct op_case *c;
    enum op_case_weights weights;
    void *operands[OP_CASE_OPERANDS];
    const void *inputs[OP_CASE_OPERANDS]; /* of the graph */
    struct dm_graph *owner;
};

static void instance_init(struct instance *in, const struct op_case *c,
                          enum op_case_weights weights)
{
    int32_t n_inputs = 0;
    *in = (struct instance){.c = c, .weights = weights};
    for (int32_t i = 0; i < c->n; i++) {
        in->operands[i] = op_case_data(c, i);
        if (weights == OP_CASE_INPUTS || (c->in[i].rank > 0 && c->in[i].shape[0] == DEMIST_BATCH))
            in->inputs[n_inputs++] = in->operands[i];
    }
    in->owner = op_case_build(c, weights, in->operands);
}

static void instance_finish(struct instance *in)
{
    dm_graph_destroy(in->owner);
    for (int32_t i = 0; i < in->c->n; i++)
        free(in->operands[i]);
}

static uint32_t flags_of(const struct instance *in)
{
    return in->weights == OP_CASE_PARAMS ? 0 : DEMIST_COMPILE_FROZEN;
}

static void *run(struct harness *h, const struct instance *in, const demist_graph *graph,
                 demist_precision precision, int64_t n)
{
    return harness_run(h, graph, OP_CASE_BATCH, precision, flags_of(in), in->inputs,
                       op_case_scalars, n);
}

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

/* The case on the backend, lowered for it or as it is, against the reference's result. */
static void check(struct state *s, const struct instance *in, bool lower,
                  struct dm_tolerance tolerance, const void *wanted)
{
    struct dm_lowered lowered = {0};
    struct dm_error err = DM_ERROR_INIT;
    const struct dm_lower_options options = {
        .frozen = in->weights != OP_CASE_PARAMS, .supports = supports, .user = &s->tested};
    if (lower && dm_graph_lower(in->owner, &options, &lowered, &err) != DEMIST_OK)
        fail_msg("%s: %s", in->c->name, err.text);
    const demist_graph *graph = dm_graph_view(lower ? lowered.graph : in->owner);
    for (int64_t n = op_case_mixes_images(in->c) ? IMAGES : 1; n <= IMAGES; n += IMAGES - 1) {
        void *out = run(&s->tested, in, graph, s->precision, n);
        struct op_difference d;
        if (!op_within(tolerance, graph->outputs[0], n, wanted, out, &d))
            fail_msg("%s (%s, %s, %d images), element %d: %.9g, reference %.9g; off by %.3g, "
                     "%.3g allowed",
                     in->c->name,
                     (const char *[]){"constants", "parameters", "inputs", "inside"}[in->weights],
                     lower ? "lowered" : "as built", (int)n, (int)d.element, d.got, d.wanted,
                     d.got - d.wanted, d.allowed);
        free(out);
    }
    dm_graph_destroy(lowered.graph);
}

static void check_case(struct state *s, const struct op_case *c, enum op_case_weights weights)
{
    struct instance in;
    instance_init(&in, c, weights);
    const demist_graph *graph = dm_graph_view(in.owner);
    void *wanted = run(&s->reference, &in, graph, DEMIST_PRECISION_STRICT, IMAGES);
    const struct dm_tolerance tolerance =
        op_bounds(c, graph, in.operands, IMAGES, s->precision, wanted);
    check(s, &in, false, tolerance, wanted);
    check(s, &in, true, tolerance, wanted);
    free(wanted);
    instance_finish(&in);
}

static void test_every_op_is_within_its_bound(void **arg)
{
    for (int i = 0; i < op_case_count; i++)
        for (int k = 0; k < 3; k++)
            check_case(*arg, &op_cases[i], (enum op_case_weights)k);
}

/* f16 ends at 65504. */
static bool fits_f16(const demist_node *node, const float *values)
{
    const size_t n = harness_bytes(node, IMAGES) / sizeof *values;
    for (size_t i = 0; i < n && node->dtype == DEMIST_F32; i++)
        if (fabsf(values[i]) > 65000)
            return false;
    return true;
}

/* The reference computes the op alone: what is stored before and behind it changes no value but by
 * rounding, for which the bound has room. */
static void test_values_stored_in_16_bits_keep_the_bounds(void **arg)
{
    struct state *s = *arg;
    if (s->precision != DEMIST_PRECISION_BF16 && s->precision != DEMIST_PRECISION_F16)
        skip();
    for (int i = 0; i < op_case_count; i++) {
        struct instance plain, in;
        const demist_op op = op_cases[i].op;
        if (op == DEMIST_OP_LESS || op == DEMIST_OP_SELECT) /* rounding may cross their step */
            continue;
        instance_init(&plain, &op_cases[i], OP_CASE_CONSTANTS);
        instance_init(&in, &op_cases[i], OP_CASE_INSIDE);
        const demist_graph *graph = dm_graph_view(plain.owner);
        void *wanted = run(&s->reference, &plain, graph, DEMIST_PRECISION_STRICT, IMAGES);
        const struct dm_tolerance tolerance =
            op_bounds(plain.c, graph, plain.operands, IMAGES, s->precision, wanted);
        if (s->precision == DEMIST_PRECISION_BF16 || fits_f16(graph->outputs[0], wanted))
            check(s, &in, false, tolerance, wanted);
        free(wanted);
        instance_finish(&plain);
        instance_finish(&in);
    }
}

/* An image's bits depend on neither the batch nor the threads (CPU backends promise that). */
static void test_results_do_not_depend_on_threads_or_batch(void **arg)
{
    struct state *s = *arg;
    struct harness one;
    if (s->tested.vtable->device_info(s->tested.device)->type != DEMIST_DEVICE_CPU) {
        print_message("skipped: only CPU devices promise the same bits for any batch\n");
        skip();
    }
    harness_open(&one, &PLUGIN, 1, s->options);
    for (int i = 0; i < op_case_count; i++) {
        struct instance in;
        if (op_case_mixes_images(&op_cases[i]))
            continue;
        instance_init(&in, &op_cases[i], OP_CASE_CONSTANTS);
        const demist_graph *graph = dm_graph_view(in.owner);
        void *all = run(&one, &in, graph, s->precision, OP_CASE_BATCH);
        for (int64_t n = 1; n < OP_CASE_BATCH; n += 2) {
            void *some = harness_run(&s->tested, graph, n == 1 ? OP_CASE_BATCH : n, s->precision,
                                     flags_of(&in), in.inputs, op_case_scalars, n);
            if (memcmp(all, some, harness_bytes(graph->outputs[0], n)) != 0)
                fail_msg("%s: %d images on three threads differ from 5 on one", in.c->name, (int)n);
            free(some);
        }
        free(all);
        instance_finish(&in);
    }
    harness_close(&one);
}

/* All parameters := 1, or what they were in the graph. */
static void update_all(struct harness_program *p, bool ones)
{
    struct harness *h = p->h;
    for (int32_t k = 0; k < p->graph->n_params; k++) {
        const size_t bytes = harness_bytes(p->graph->params[k], 1);
        float *copy = malloc(bytes);
        memcpy(copy, p->graph->params[k]->data, bytes);
        for (size_t e = 0; ones && e < bytes / sizeof *copy; e++)
            copy[e] = 1;
        const void *data[] = {copy};
        HARNESS_OK(h, update_params, (h->queue, p->program, 1, &k, data));
        free(copy);
    }
}

/* Parameters given at compilation and replaced afterwards, as training does. */
static void test_updated_parameters_are_used(void **arg)
{
    struct state *s = *arg;
    for (int i = 0; i < op_case_count; i++) {
        struct instance in;
        struct harness_program p;
        instance_init(&in, &op_cases[i], OP_CASE_PARAMS);
        const demist_graph *graph = dm_graph_view(in.owner);
        float *wanted = run(&s->tested, &in, graph, s->precision, IMAGES);
        harness_compile(&s->tested, graph, OP_CASE_BATCH, s->precision, 0, &p);
        for (int32_t k = 0; k < graph->n_inputs; k++)
            harness_set(&p, k, in.inputs[k], IMAGES);
        update_all(&p, true);
        harness_execute(&p, op_case_scalars, IMAGES);
        update_all(&p, false);
        harness_execute(&p, op_case_scalars, IMAGES);
        void *out = harness_get(&p, 0, IMAGES);
        if (memcmp(out, wanted, harness_bytes(graph->outputs[0], IMAGES)) != 0)
            fail_msg("%s: updated parameters give another result than compiled ones", in.c->name);
        free(out);
        free(wanted);
        harness_program_finish(&p);
        instance_finish(&in);
    }
}

static demist_precision precision_of(const char *text)
{
    static const char *const names[] = {"f32", "strict", "tf32", "bf16", "f16"};
    for (int i = 0; i < 5; i++)
        if (strcmp(names[i], text) == 0)
            return (demist_precision)i;
    fprintf(stderr, "no precision \"%s\"\n", text);
    exit(2);
}

int main(int argc, char **argv)
{
    static const char *const no_options[] = {NULL};
    static struct state s;
    s.precision = argc > 1 ? precision_of(argv[1]) : DEMIST_PRECISION_F32;
    if (argc > 2 && strchr(argv[argc - 1], '*')) {
        cmocka_set_test_filter(argv[argc - 1]);
        argv[--argc] = NULL;
    }
    s.options = argc > 2 ? (const char *const *)argv + 2 : no_options;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_every_op_is_within_its_bound, &s),
        cmocka_unit_test_prestate(test_values_stored_in_16_bits_keep_the_bounds, &s),
        cmocka_unit_test_prestate(test_results_do_not_depend_on_threads_or_batch, &s),
        cmocka_unit_test_prestate(test_updated_parameters_are_used, &s),
    };
    enum { SKIPPED = 77 }; /* as meson counts it */
    if (!harness_try_open(&s.tested, &PLUGIN, 3, s.options)) {
        printf("skipped: %s\n", s.tested.error.text);
        harness_close(&s.tested);
        return SKIPPED;
    }
    harness_open(&s.reference, &demist_plugin_v1_backend_reference, 2, NULL);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    harness_close(&s.tested);
    harness_close(&s.reference);
    return failed;
}

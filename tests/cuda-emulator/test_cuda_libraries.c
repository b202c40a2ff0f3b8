/* The CUDA backend with vendor libraries, emulated ones that check what they are told: products of
 * every kind in every precision by cuBLASLt and cuDNN, calls that fail one after the other,
 * libraries that are missing, too old, or lack a function; choices that are remembered. */
#include "testing.h"

#include "cuda_emulator.h"
#include "harness.h"
#include "op_bounds.h"
#include "op_cases.h"
#include "passes.h"

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

extern const demist_plugin demist_plugin_v1_backend_cuda;
extern const demist_plugin demist_plugin_v1_backend_reference;
static const demist_plugin *const cuda = &demist_plugin_v1_backend_cuda;

enum { IMAGES = 3 };

static const char *const prefer[] = {"libraries = prefer", "library_folder = " LIBRARIES,
                                     "cache = off", NULL};

/* --- the emulated libraries, as the backend has them open --- */

struct library {
    int64_t (*calls)(const char *function);
    void (*let_fail)(const char *function, int64_t nth, int status);
    int (*pending)(const char *function);
    void (*set_version)(size_t version);
    const char *(*complaint)(void);
};
static struct library lt, dnn;

static struct library load(const char *path)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    struct library l;
    if (!object)
        fail_msg("%s", dlerror());
    *(void **)&l.calls = dlsym(object, "emulated_calls");
    *(void **)&l.let_fail = dlsym(object, "emulated_fail");
    *(void **)&l.pending = dlsym(object, "emulated_pending");
    *(void **)&l.set_version = dlsym(object, "emulated_set_version");
    *(void **)&l.complaint = dlsym(object, "emulated_complaint");
    return l;
}

static int reset(void **state)
{
    cuda_emulator_reset();
    return 0;
}

static void expect_no_complaint(void)
{
    assert_string_equal(lt.complaint(), "");
    assert_string_equal(dnn.complaint(), "");
    assert_string_equal(cuda_emulator_fault(), "");
}

static int64_t products(void)
{
    return lt.calls("cublasLtMatmul") + dnn.calls("cudnnBackendExecute");
}

/* --- one case --- */

struct instance {
    const struct op_case *c;
    void *operands[OP_CASE_OPERANDS];
    const void *inputs[OP_CASE_OPERANDS];
    struct dm_graph *owner;
    struct dm_lowered lowered;
    const demist_graph *graph;
};

static bool supports(void *user, const demist_node *node, const char **why)
{
    const struct harness *h = user;
    return h->vtable->supports(h->device, node, why);
}

static void instance_init(struct instance *in, const struct op_case *c,
                          enum op_case_weights weights, struct harness *h)
{
    struct dm_error err = DM_ERROR_INIT;
    int32_t n = 0;
    *in = (struct instance){.c = c};
    for (int32_t i = 0; i < c->n; i++) {
        in->operands[i] = op_case_data(c, i);
        if (weights == OP_CASE_INPUTS || (c->in[i].rank > 0 && c->in[i].shape[0] == DEMIST_BATCH))
            in->inputs[n++] = in->operands[i];
    }
    in->owner = op_case_build(c, weights, in->operands);
    const struct dm_lower_options options = {
        .frozen = weights != OP_CASE_PARAMS, .supports = supports, .user = h};
    if (dm_graph_lower(in->owner, &options, &in->lowered, &err) != DEMIST_OK)
        fail_msg("%s: %s", c->name, err.text);
    in->graph = dm_graph_view(in->lowered.graph);
}

static void instance_finish(struct instance *in)
{
    dm_graph_destroy(in->lowered.graph);
    dm_graph_destroy(in->owner);
    for (int32_t i = 0; i < in->c->n; i++)
        free(in->operands[i]);
}

static const struct op_case *case_of(const char *name)
{
    for (int i = 0; i < op_case_count; i++)
        if (strcmp(op_cases[i].name, name) == 0)
            return &op_cases[i];
    fail_msg("no case %s", name);
    return NULL;
}

static void *run(struct harness *h, const struct instance *in, const demist_graph *graph,
                 demist_precision precision)
{
    return harness_run(h, graph, IMAGES, precision, 0, in->inputs, op_case_scalars, IMAGES);
}

/* --- every product --- */

static void check_case(struct harness *reference, struct harness *h, const struct op_case *c,
                       enum op_case_weights weights, demist_precision precision)
{
    struct instance in;
    struct op_difference d;
    instance_init(&in, c, weights, h);
    const demist_graph *built = dm_graph_view(in.owner);
    void *wanted = run(reference, &in, built, DEMIST_PRECISION_STRICT);
    void *got = run(h, &in, in.graph, precision);
    const struct dm_tolerance tolerance =
        op_bounds(c, built, in.operands, IMAGES, precision, wanted);
    if (!op_within(tolerance, built->outputs[0], IMAGES, wanted, got, &d))
        fail_msg("%s, precision %d, element %d: %.9g, reference %.9g; off by %.3g, %.3g allowed",
                 c->name, (int)precision, (int)d.element, d.got, d.wanted, d.got - d.wanted,
                 d.allowed);
    free(wanted);
    free(got);
    instance_finish(&in);
}

static bool has_products(const struct op_case *c)
{
    return strncmp(c->name, "conv2d", 6) == 0 || strncmp(c->name, "linear", 6) == 0 ||
           strncmp(c->name, "matmul", 6) == 0 ||
           strncmp(c->name, "conv_transpose2d/2s2", 20) == 0 || strncmp(c->name, "chain", 5) == 0;
}

static void check_precision(demist_precision precision)
{
    struct harness reference, h;
    const int64_t by_lt = lt.calls("cublasLtMatmul"), by_dnn = dnn.calls("cudnnBackendExecute");
    harness_open(&reference, &demist_plugin_v1_backend_reference, 2, NULL);
    harness_open(&h, cuda, 1, prefer);
    for (int i = 0; i < op_case_count; i++)
        if (has_products(&op_cases[i]))
            check_case(&reference, &h, &op_cases[i], i % 2 ? OP_CASE_CONSTANTS : OP_CASE_PARAMS,
                       precision);
    check_case(&reference, &h, case_of("matmul/large"), OP_CASE_INPUTS, precision);
    check_case(&reference, &h, case_of("conv2d/groups"), OP_CASE_INPUTS, precision);
    harness_close(&h);
    harness_close(&reference);
    expect_no_complaint();
    /* Four launches to measure and one to compute, for most of the cases. */
    assert_true(lt.calls("cublasLtMatmul") - by_lt > 100);
    assert_true(dnn.calls("cudnnBackendExecute") - by_dnn > 100);
}

static void test_f32_products_of_libraries_are_within_their_bounds(void **state)
{
    check_precision(DEMIST_PRECISION_F32);
}

#ifndef __SANITIZE_ADDRESS__
static void test_tf32_products_of_libraries_are_within_their_bounds(void **state)
{
    check_precision(DEMIST_PRECISION_TF32);
}

static void test_f16_products_of_libraries_are_within_their_bounds(void **state)
{
    check_precision(DEMIST_PRECISION_F16);
}
#endif

static void test_bf16_products_of_libraries_are_within_their_bounds(void **state)
{
    check_precision(DEMIST_PRECISION_BF16);
}

/* --- where they have no say --- */

static void expect_own_kernels(const char *const *options, demist_precision precision)
{
    struct harness h;
    struct instance in;
    const int64_t before = products();
    harness_open(&h, cuda, 1, options);
    instance_init(&in, case_of("chain/conv-bn-gelu-residual"), OP_CASE_CONSTANTS, &h);
    free(run(&h, &in, in.graph, precision));
    instance_finish(&in);
    harness_close(&h);
    assert_int_equal(products(), before);
}

static void test_strict_and_untuned_programs_have_own_kernels(void **state)
{
    static const char *const untuned[] = {"tuning = off", "library_folder = " LIBRARIES, NULL};
    static const char *const off[] = {"libraries = off", "library_folder = " LIBRARIES,
                                      "cache = off", NULL};
    expect_own_kernels(prefer, DEMIST_PRECISION_STRICT);
    expect_own_kernels(untuned, DEMIST_PRECISION_BF16);
    expect_own_kernels(off, DEMIST_PRECISION_BF16);
}

static void test_missing_libraries_are_done_without(void **state)
{
    static const char *const nowhere[] = {"libraries = prefer", "library_folder = " LIBRARIES "/no",
                                          "cache = off", NULL};
    static const char *const lacking[] = {
        "libraries = prefer", "library_folder = " LIBRARIES "/lacking", "cache = off", NULL};
    expect_own_kernels(nowhere, DEMIST_PRECISION_F32);
    expect_own_kernels(lacking, DEMIST_PRECISION_F32);
    lt.set_version(120900);
    dnn.set_version(81000);
    expect_own_kernels(prefer, DEMIST_PRECISION_F32);
    lt.set_version(0);
    dnn.set_version(0);
    lt.let_fail("cublasLtCreate", 1, 1);
    dnn.let_fail("cudnnCreate", 1, 1001);
    expect_own_kernels(prefer, DEMIST_PRECISION_F32);
}

static void test_options_that_do_not_go_together_are_refused(void **state)
{
    struct harness h;
    static const char *const untuned[] = {"libraries = prefer", "tuning = off", NULL};
    static const char *const relative[] = {"library_folder = here", NULL};
    assert_false(harness_try_open(&h, cuda, 1, untuned));
    assert_int_equal(h.error.status, DEMIST_CONFIG);
    assert_contains(h.error.text, "libraries = prefer with tuning = off");
    harness_close(&h);
    assert_false(harness_try_open(&h, cuda, 1, relative));
    assert_int_equal(h.error.status, DEMIST_CONFIG);
    assert_contains(h.error.text, "library_folder = here");
    harness_close(&h);
}

/* --- executions --- */

static void set_inputs(struct harness_program *p, const struct instance *in)
{
    for (int32_t i = 0; i < in->graph->n_inputs; i++)
        harness_set(p, i, in->inputs[i], IMAGES);
}

/* Calls are captured and replayed like kernels, and fewer images are left to kernels. */
static void test_calls_are_captured_and_for_the_largest_batch_alone(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    harness_open(&h, cuda, 1, prefer);
    instance_init(&in, case_of("chain/norm-silu-conv-skip"), OP_CASE_CONSTANTS, &h);
    harness_compile(&h, in.graph, IMAGES, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    set_inputs(&p, &in);
    const int64_t before = products();
    harness_execute(&p, op_case_scalars, IMAGES);
    const int64_t one = products() - before;
    assert_true(one > 0);
    void *queued = harness_get(&p, 0, IMAGES);
    harness_execute(&p, op_case_scalars, IMAGES); /* captured */
    assert_int_equal(products(), before + 2 * one);
    const int64_t allocated = cuda_emulator_calls("cudaMalloc");
    harness_execute(&p, op_case_scalars, IMAGES);
    harness_execute(&p, op_case_scalars, 1);
    harness_execute(&p, op_case_scalars, IMAGES);
    assert_int_equal(products(), before + 2 * one);
    assert_int_equal(cuda_emulator_calls("cudaMalloc"), allocated);
    void *replayed = harness_get(&p, 0, IMAGES);
    assert_memory_equal(queued, replayed, harness_bytes(in.graph->outputs[0], IMAGES));
    free(queued);
    free(replayed);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
    expect_no_complaint();
}

/* Weights in cuDNN's order and biases of 16 bits follow parameters that change. */
static void test_updated_parameters_reach_the_copies_for_libraries(void **state)
{
    static const char *const names[] = {"conv2d/winograd-like", "linear/rows"};
    struct harness h;
    harness_open(&h, cuda, 1, prefer);
    for (int k = 0; k < 2; k++) {
        struct instance in;
        struct harness_program p;
        instance_init(&in, case_of(names[k]), OP_CASE_PARAMS, &h);
        harness_compile(&h, in.graph, IMAGES, DEMIST_PRECISION_BF16, 0, &p);
        set_inputs(&p, &in);
        harness_execute(&p, op_case_scalars, IMAGES);
        float *first = harness_get(&p, 0, IMAGES);
        const size_t bytes = harness_bytes(in.graph->outputs[0], IMAGES);
        for (int32_t i = 0; i < in.graph->n_params; i++) {
            const size_t n = harness_bytes(in.graph->params[i], 1) / sizeof(float);
            float *zeros = calloc(n, sizeof *zeros);
            const void *data[] = {zeros};
            HARNESS_OK(&h, update_params, (h.queue, p.program, 1, &i, data));
            free(zeros);
        }
        harness_execute(&p, op_case_scalars, IMAGES);
        float *zero = harness_get(&p, 0, IMAGES);
        for (size_t i = 0; i < bytes / sizeof *zero; i++)
            assert_true(zero[i] == 0);
        for (int32_t i = 0; i < in.graph->n_params; i++) {
            const void *data[] = {in.graph->params[i]->data};
            HARNESS_OK(&h, update_params, (h.queue, p.program, 1, &i, data));
        }
        harness_execute(&p, op_case_scalars, IMAGES);
        float *again = harness_get(&p, 0, IMAGES);
        assert_memory_equal(first, again, bytes);
        free(first);
        free(zero);
        free(again);
        harness_program_finish(&p);
        instance_finish(&in);
    }
    harness_close(&h);
    expect_no_complaint();
}

/* --- failures --- */

/* The status of compiling and executing, with the text in h->error. */
static demist_status try_case(struct harness *h, const struct instance *in,
                              demist_precision precision)
{
    struct harness_program p = {.h = h, .graph = in->graph, .max_batch = IMAGES};
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    info.max_batch = IMAGES;
    info.precision = precision;
    info.flags = DEMIST_COMPILE_FROZEN;
    demist_status status =
        harness_status(h, "compile", h->vtable->compile(h->device, in->graph, &info, &p.program));
    if (status != DEMIST_OK)
        return status;
    h->vtable->program_destroy(p.program);
    harness_compile(h, in->graph, IMAGES, precision, DEMIST_COMPILE_FROZEN, &p);
    set_inputs(&p, in);
    status = harness_status(h, "execute",
                            h->vtable->execute(h->queue, p.binding, op_case_scalars, IMAGES));
    HARNESS_OK(h, synchronize, (h->queue));
    harness_program_finish(&p);
    return status;
}

/* Each call of the function fails once, until there are no more of them: candidates that cannot be
 * made or measured are left out, and a step that fails says so. */
static void check_failures(struct library *l, const char *function, int status, const char *name,
                           demist_precision precision)
{
    bool due = true;
    for (int64_t nth = 1; due; nth++) {
        struct harness h;
        struct instance in;
        harness_open(&h, cuda, 1, prefer);
        instance_init(&in, case_of(name), OP_CASE_CONSTANTS, &h);
        l->let_fail(function, nth, status);
        if (try_case(&h, &in, precision) != DEMIST_OK) {
            assert_int_equal(h.error.status, DEMIST_DEVICE);
            assert_contains(h.error.text, " failed: CU");
            assert_contains(h.error.text, " at cuda_cu");
            assert_contains(h.error.text, "libraries = off");
        }
        due = !l->pending(function);
        instance_finish(&in);
        harness_close(&h);
        expect_no_complaint();
        nth += nth / 4; /* all of the first ones, fewer of those behind */
    }
}

static void test_every_failing_call_of_cublaslt_is_survived(void **state)
{
    static const char *const functions[] = {"cublasLtMatmulDescCreate",
                                            "cublasLtMatmulDescSetAttribute",
                                            "cublasLtMatrixLayoutCreate",
                                            "cublasLtMatrixLayoutSetAttribute",
                                            "cublasLtMatmulPreferenceCreate",
                                            "cublasLtMatmulPreferenceSetAttribute",
                                            "cublasLtMatmulAlgoGetHeuristic",
                                            "cublasLtMatmulAlgoCheck",
                                            "cublasLtMatmul"};
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        check_failures(&lt, functions[i], 13, "linear/rows", DEMIST_PRECISION_BF16);
        check_failures(&lt, functions[i], 13, "matmul/tb", DEMIST_PRECISION_F32);
    }
}

static void test_every_failing_call_of_cudnn_is_survived(void **state)
{
    static const char *const functions[] = {
        "cudnnBackendCreateDescriptor", "cudnnBackendSetAttribute", "cudnnBackendFinalize",
        "cudnnBackendGetAttribute",     "cudnnSetStream",           "cudnnBackendExecute"};
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        check_failures(&dnn, functions[i], 5000, "chain/norm-silu-conv-skip",
                       DEMIST_PRECISION_BF16);
}

static void test_a_failing_step_names_call_status_and_place(void **state)
{
    struct harness h;
    struct instance in;
    struct harness_program p;
    harness_open(&h, cuda, 1, prefer);
    instance_init(&in, case_of("linear/rows"), OP_CASE_CONSTANTS, &h);
    harness_compile(&h, in.graph, IMAGES, DEMIST_PRECISION_F32, DEMIST_COMPILE_FROZEN, &p);
    set_inputs(&p, &in);
    lt.let_fail("cublasLtMatmul", 1, 13);
    HARNESS_FAILS(&h, execute, (h.queue, p.binding, op_case_scalars, IMAGES), DEMIST_DEVICE,
                  "cublasLtMatmul failed: CUBLAS_STATUS_EXECUTION_FAILED (13, the function failed "
                  "to launch) at cuda_cublaslt.c:");
    harness_execute(&p, op_case_scalars, IMAGES);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
}

/* --- remembering --- */

static char folder[] = "/tmp/demist-libraries-XXXXXX";
static char cache_option[64];

static int make_folder(void **state)
{
    cuda_emulator_reset();
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    assert_non_null(mkdtemp(folder));
    snprintf(cache_option, sizeof cache_option, "cache = %s", folder);
    return 0;
}

static int remove_folder(void **state)
{
    char path[512];
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(folder);
    return 0;
}

struct outcome {
    char choices[32];
    float *out;
    int64_t asked; /* heuristics */
};

static struct outcome choose_in_folder(const char *name)
{
    const char *const options[] = {"libraries = prefer", "library_folder = " LIBRARIES,
                                   cache_option, NULL};
    struct harness h;
    struct instance in;
    struct harness_program p;
    struct outcome o = {.asked = lt.calls("cublasLtMatmulAlgoGetHeuristic") +
                                 dnn.calls("cudnnBackendGetAttribute")};
    demist_program_info info = DEMIST_INIT(demist_program_info);
    const int64_t plans = dnn.calls("cudnnBackendExecute");
    harness_open(&h, cuda, 1, options);
    instance_init(&in, case_of(name), OP_CASE_CONSTANTS, &h);
    harness_compile(&h, in.graph, IMAGES, DEMIST_PRECISION_BF16, DEMIST_COMPILE_FROZEN, &p);
    HARNESS_OK(&h, program_info, (p.program, &info));
    snprintf(o.choices, sizeof o.choices, "%s", info.choices);
    set_inputs(&p, &in);
    harness_execute(&p, op_case_scalars, IMAGES);
    o.out = harness_get(&p, 0, IMAGES);
    o.asked = lt.calls("cublasLtMatmulAlgoGetHeuristic") + dnn.calls("cudnnBackendGetAttribute") -
              o.asked;
    assert_true(dnn.calls("cudnnBackendExecute") > plans || strncmp(name, "linear", 6) == 0);
    harness_program_finish(&p);
    instance_finish(&in);
    harness_close(&h);
    return o;
}

static void test_calls_are_measured_once_and_made_again_from_their_text(void **state)
{
    static const char *const names[] = {"linear/rows", "conv2d/winograd-like"};
    for (int k = 0; k < 2; k++) {
        struct instance in;
        struct harness h;
        struct outcome first = choose_in_folder(names[k]), second = choose_in_folder(names[k]);
        harness_open(&h, cuda, 1, prefer);
        instance_init(&in, case_of(names[k]), OP_CASE_CONSTANTS, &h);
        const size_t bytes = harness_bytes(in.graph->outputs[0], IMAGES);
        instance_finish(&in);
        harness_close(&h);
        assert_true(first.asked > 0);
        assert_true(second.asked <= k); /* a plan tells its workspace */
        assert_string_equal(first.choices, second.choices);
        assert_memory_equal(first.out, second.out, bytes);
        /* another version of the library: another key */
        lt.set_version(130200);
        dnn.set_version(92000);
        struct outcome third = choose_in_folder(names[k]);
        lt.set_version(0);
        dnn.set_version(0);
        assert_true(third.asked > second.asked);
        assert_string_not_equal(first.choices, third.choices);
        free(first.out);
        free(second.out);
        free(third.out);
    }
    expect_no_complaint();
}

int main(void)
{
    lt = load(LIBRARIES "/libcublasLt.so.13");
    dnn = load(LIBRARIES "/libcudnn.so.9");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_f32_products_of_libraries_are_within_their_bounds, reset),
#ifndef __SANITIZE_ADDRESS__ /* takes its time, and there is no other code in them */
        cmocka_unit_test_setup(test_tf32_products_of_libraries_are_within_their_bounds, reset),
        cmocka_unit_test_setup(test_f16_products_of_libraries_are_within_their_bounds, reset),
#endif
        cmocka_unit_test_setup(test_bf16_products_of_libraries_are_within_their_bounds, reset),
        cmocka_unit_test_setup(test_strict_and_untuned_programs_have_own_kernels, reset),
        cmocka_unit_test_setup(test_missing_libraries_are_done_without, reset),
        cmocka_unit_test_setup(test_options_that_do_not_go_together_are_refused, reset),
        cmocka_unit_test_setup(test_calls_are_captured_and_for_the_largest_batch_alone, reset),
        cmocka_unit_test_setup(test_updated_parameters_reach_the_copies_for_libraries, reset),
        cmocka_unit_test_setup(test_every_failing_call_of_cublaslt_is_survived, reset),
        cmocka_unit_test_setup(test_every_failing_call_of_cudnn_is_survived, reset),
        cmocka_unit_test_setup(test_a_failing_step_names_call_status_and_place, reset),
        cmocka_unit_test_setup_teardown(test_calls_are_measured_once_and_made_again_from_their_text,
                                        make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What the OpenCL backend does when calls into the driver fail: a lost device, no memory, a kernel
 * that does not build. The linker puts the functions below between the backend and the driver
 * (--wrap); the one that is told to fails, without a call. */
#include "testing.h"

#include "harness.h"
#include "op_cases.h"

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <dirent.h>
#include <unistd.h>

extern const demist_plugin demist_plugin_v1_backend_opencl;
static const demist_plugin *const opencl = &demist_plugin_v1_backend_opencl;

enum { IMAGES = 3 };

/* --- between the backend and the driver --- */

static struct {
    const char *only; /* count calls of this name; NULL: of any */
    int left;         /* calls that go through; negative: all */
    cl_int error;
    bool lasting;      /* the device does not come back */
    const char *fired; /* the first call that failed, NULL: none yet */
} fault = {.left = -1};

static void arm(const char *only, int after, cl_int error)
{
    fault.only = only;
    fault.left = after;
    fault.error = error;
    fault.lasting = false;
    fault.fired = NULL;
}

static bool fails(const char *name)
{
    if (fault.left < 0 || (fault.only && strcmp(fault.only, name) != 0))
        return false;
    if (fault.left > 0) {
        fault.left--;
        return false;
    }
    if (!fault.lasting)
        fault.left = -1;
    if (!fault.fired)
        fault.fired = name;
    return true;
}

/* Of functions that return the error, and of those that return an object. */
#define WRAP(name, parameters, arguments)                                                          \
    cl_int __real_##name parameters;                                                               \
    cl_int __wrap_##name parameters;                                                               \
    cl_int __wrap_##name parameters                                                                \
    {                                                                                              \
        return fails(#name) ? fault.error : __real_##name arguments;                               \
    }
#define WRAP_CREATE(type, name, parameters, arguments)                                             \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (!fails(#name))                                                                         \
            return __real_##name arguments;                                                        \
        *error = fault.error;                                                                      \
        return NULL;                                                                               \
    }

WRAP_CREATE(cl_context, clCreateContext,
            (const cl_context_properties *properties, cl_uint n, const cl_device_id *ids,
             void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *), void *user,
             cl_int *error),
            (properties, n, ids, notify, user, error))
WRAP_CREATE(cl_command_queue, clCreateCommandQueue,
            (cl_context context, cl_device_id id, cl_command_queue_properties properties,
             cl_int *error),
            (context, id, properties, error))
WRAP_CREATE(cl_mem, clCreateBuffer,
            (cl_context context, cl_mem_flags flags, size_t size, void *host, cl_int *error),
            (context, flags, size, host, error))
WRAP_CREATE(cl_program, clCreateProgramWithSource,
            (cl_context context, cl_uint n, const char **text, const size_t *length, cl_int *error),
            (context, n, text, length, error))
WRAP_CREATE(cl_program, clCreateProgramWithBinary,
            (cl_context context, cl_uint n, const cl_device_id *ids, const size_t *length,
             const unsigned char **data, cl_int *status, cl_int *error),
            (context, n, ids, length, data, status, error))
WRAP_CREATE(cl_kernel, clCreateKernel, (cl_program program, const char *name, cl_int *error),
            (program, name, error))
WRAP(clBuildProgram,
     (cl_program program, cl_uint n, const cl_device_id *ids, const char *options,
      void(CL_CALLBACK *notify)(cl_program, void *), void *user),
     (program, n, ids, options, notify, user))
WRAP(clEnqueueNDRangeKernel,
     (cl_command_queue queue, cl_kernel kernel, cl_uint rank, const size_t *offset,
      const size_t *global, const size_t *local, cl_uint n, const cl_event *wait, cl_event *event),
     (queue, kernel, rank, offset, global, local, n, wait, event))
WRAP(clEnqueueWriteBuffer,
     (cl_command_queue queue, cl_mem memory, cl_bool blocking, size_t offset, size_t size,
      const void *data, cl_uint n, const cl_event *wait, cl_event *event),
     (queue, memory, blocking, offset, size, data, n, wait, event))
WRAP(clEnqueueReadBuffer,
     (cl_command_queue queue, cl_mem memory, cl_bool blocking, size_t offset, size_t size,
      void *data, cl_uint n, const cl_event *wait, cl_event *event),
     (queue, memory, blocking, offset, size, data, n, wait, event))
WRAP(clEnqueueFillBuffer,
     (cl_command_queue queue, cl_mem memory, const void *pattern, size_t pattern_size,
      size_t offset, size_t size, cl_uint n, const cl_event *wait, cl_event *event),
     (queue, memory, pattern, pattern_size, offset, size, n, wait, event))
WRAP(clEnqueueMarkerWithWaitList,
     (cl_command_queue queue, cl_uint n, const cl_event *wait, cl_event *event),
     (queue, n, wait, event))
WRAP(clFlush, (cl_command_queue queue), (queue))
WRAP(clFinish, (cl_command_queue queue), (queue))

/* --- one case, from compilation to its result --- */

static char folder[] = "/tmp/demist-faults-XXXXXX", cache_option[64];
static const char *const options[] = {cache_option, "tuning = off", "kernels = wide", NULL};

struct instance {
    const struct op_case *c;
    void *operands[OP_CASE_OPERANDS];
    const void *inputs[OP_CASE_OPERANDS];
    struct dm_graph *owner;
};

static void instance_init(struct instance *in, const char *name)
{
    *in = (struct instance){.c = NULL};
    for (int i = 0; i < op_case_count; i++)
        if (strcmp(op_cases[i].name, name) == 0)
            in->c = &op_cases[i];
    assert_non_null(in->c);
    int32_t n = 0;
    for (int32_t i = 0; i < in->c->n; i++) {
        in->operands[i] = op_case_data(in->c, i);
        if (in->c->in[i].rank > 0 && in->c->in[i].shape[0] == DEMIST_BATCH)
            in->inputs[n++] = in->operands[i];
    }
    in->owner = op_case_build(in->c, OP_CASE_CONSTANTS, in->operands);
}

static void instance_finish(struct instance *in)
{
    dm_graph_destroy(in->owner);
    for (int32_t i = 0; i < in->c->n; i++)
        free(in->operands[i]);
}

#define STEP(function, arguments)                                                                  \
    do {                                                                                           \
        status = harness_status(h, #function, h->vtable->function arguments);                      \
        if (status != DEMIST_OK)                                                                   \
            goto end;                                                                              \
    } while (0)

/* The status of the first step that fails; everything is released again either way. */
static demist_status run(struct harness *h, const struct instance *in, float *out)
{
    const demist_graph *graph = dm_graph_view(in->owner);
    demist_compile_info info = DEMIST_INIT(demist_compile_info);
    demist_program *program = NULL;
    demist_binding *binding = NULL;
    demist_buffer *buffers[HARNESS_BUFFERS] = {NULL};
    demist_status status;
    const int32_t n = graph->n_inputs;
    info.max_batch = IMAGES;
    info.flags = DEMIST_COMPILE_FROZEN;
    STEP(compile, (h->device, graph, &info, &program));
    for (int32_t i = 0; i <= n; i++) {
        const demist_node *node = i < n ? graph->inputs[i] : graph->outputs[0];
        STEP(buffer_create, (h->device, harness_bytes(node, IMAGES), &buffers[i]));
        if (i < n)
            STEP(buffer_write,
                 (h->queue, buffers[i], 0, in->inputs[i], harness_bytes(node, IMAGES)));
    }
    STEP(bind, (program, buffers, n + 1, &binding));
    STEP(execute, (h->queue, binding, op_case_scalars, IMAGES));
    STEP(synchronize, (h->queue));
    STEP(buffer_read, (h->queue, buffers[n], 0, out, harness_bytes(graph->outputs[0], IMAGES)));
end:
    h->vtable->binding_destroy(binding);
    for (int32_t i = 0; i <= n; i++)
        h->vtable->buffer_destroy(buffers[i]);
    h->vtable->program_destroy(program);
    return status;
}

/* --- tests --- */

static int make_folder(void **state)
{
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
    closedir(dir);
    rmdir(folder);
    return 0;
}

/* Whichever call fails, there is an error that names it, or the right result all the same (a
 * binary that does not load is compiled anew); and the device is as good as before. */
static void check_every_call(cl_int error, bool lasting)
{
    struct instance in;
    struct harness h;
    float wanted[4096], out[4096];
    int failed = 0;
    instance_init(&in, "chain/attention-block");
    const size_t bytes = harness_bytes(dm_graph_view(in.owner)->outputs[0], IMAGES);
    assert_true(bytes <= sizeof wanted);
    harness_open(&h, opencl, 1, options);
    harness_expect_ok(&h, "run", run(&h, &in, wanted));
    harness_close(&h);
    for (int call = 0;; call++) {
        harness_open(&h, opencl, 1, options);
        arm(NULL, call, error);
        fault.lasting = lasting;
        const demist_status status = run(&h, &in, out);
        const char *fired = fault.fired;
        arm(NULL, -1, 0);
        if (status == DEMIST_OK) {
            assert_memory_equal(out, wanted, bytes);
            assert_false(lasting && fired && strcmp(fired, "clFinish") != 0);
        } else {
            failed++;
            assert_non_null(fired);
            assert_true(status == DEMIST_DEVICE || status == DEMIST_NO_MEMORY);
            assert_true(strlen(h.error.text) > 40);
        }
        memset(out, 0, bytes);
        harness_expect_ok(&h, "run", run(&h, &in, out));
        assert_memory_equal(out, wanted, bytes);
        harness_close(&h);
        if (!fired)
            break;
    }
    print_message("%d calls failed\n", failed);
    assert_true(failed > 20);
    instance_finish(&in);
}

static void test_any_call_may_lose_the_device(void **state)
{
    check_every_call(CL_OUT_OF_RESOURCES, false);
    check_every_call(CL_OUT_OF_RESOURCES, true);
}

static void test_any_call_may_run_out_of_memory(void **state)
{
    check_every_call(CL_MEM_OBJECT_ALLOCATION_FAILURE, false);
}

/* One call of that name fails, the first one after `after`: with that status and text. */
static void assert_failure(const char *call, int after, cl_int error, demist_status wanted,
                           const char *fragment)
{
    struct instance in;
    struct harness h;
    float out[4096];
    instance_init(&in, "chain/attention-block");
    harness_open(&h, opencl, 1, options);
    arm(call, after, error);
    const demist_status status = run(&h, &in, out);
    arm(NULL, -1, 0);
    assert_int_equal(status, wanted);
    assert_contains(h.error.text, fragment);
    harness_close(&h);
    instance_finish(&in);
}

static void test_a_lost_device_is_told(void **state)
{
    assert_failure("clEnqueueNDRangeKernel", 2, CL_OUT_OF_RESOURCES, DEMIST_DEVICE,
                   "clEnqueueNDRangeKernel failed: CL_OUT_OF_RESOURCES: the device was lost");
    assert_failure("clEnqueueReadBuffer", 0, CL_DEVICE_NOT_AVAILABLE, DEMIST_DEVICE,
                   "the device was lost");
}

static void test_no_memory_tells_for_what_and_how_much(void **state)
{
    assert_failure("clCreateBuffer", 0, CL_MEM_OBJECT_ALLOCATION_FAILURE, DEMIST_NO_MEMORY,
                   "no memory for working memory: ");
    assert_failure("clCreateBuffer", 1, CL_OUT_OF_RESOURCES, DEMIST_NO_MEMORY,
                   "bytes wanted: CL_OUT_OF_RESOURCES; lower the batch");
    assert_failure("clEnqueueNDRangeKernel", 2, CL_MEM_OBJECT_ALLOCATION_FAILURE, DEMIST_NO_MEMORY,
                   "the device is out of memory; lower the batch");
}

static void test_a_kernel_that_cannot_be_built_is_named(void **state)
{
    remove_folder(state); /* no binaries */
    assert_failure("clBuildProgram", 0, CL_BUILD_PROGRAM_FAILURE, DEMIST_DEVICE,
                   "CL_BUILD_PROGRAM_FAILURE");
    assert_failure("clCreateKernel", 0, CL_INVALID_KERNEL_NAME, DEMIST_DEVICE,
                   "clCreateKernel failed: CL_INVALID_KERNEL_NAME");
}

static void test_a_device_that_does_not_open_is_an_error(void **state)
{
    static const char *const calls[] = {"clCreateContext", "clCreateCommandQueue"};
    for (int i = 0; i < 2; i++) {
        struct harness h;
        arm(calls[i], 0, CL_DEVICE_NOT_AVAILABLE);
        assert_false(harness_try_open(&h, opencl, 1, options));
        arm(NULL, -1, 0);
        assert_contains(h.error.text, calls[i]);
        assert_contains(h.error.text, "CL_DEVICE_NOT_AVAILABLE");
        harness_close(&h);
    }
}

int main(void)
{
    enum { SKIPPED = 77 };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_call_may_lose_the_device),
        cmocka_unit_test(test_any_call_may_run_out_of_memory),
        cmocka_unit_test(test_a_lost_device_is_told),
        cmocka_unit_test(test_no_memory_tells_for_what_and_how_much),
        cmocka_unit_test(test_a_device_that_does_not_open_is_an_error),
        cmocka_unit_test(test_a_kernel_that_cannot_be_built_is_named),
    };
    struct harness h;
    if (!harness_try_open(&h, opencl, 1, NULL)) {
        printf("skipped: %s\n", h.error.text);
        harness_close(&h);
        return SKIPPED;
    }
    harness_close(&h);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

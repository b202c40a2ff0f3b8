/* The backend's operation graphs, engines and plans as cuDNN itself takes them. It checks them for
 * a device that is only described, so that no GPU is needed; nothing is executed. Skipped where the
 * library is not found, or is older than 9.8, which was the first to take a description. */
#include "testing.h"

#include "cuda_cudnn.h"
#include "harness.h"

extern const demist_plugin demist_plugin_v1_backend_cuda;

enum { DEVICE_DESCRIPTOR = 38, DEVICE_TEXT = 2702, TYPE_CHAR = 24, MOST = 4, SKIPPED = 77 };

static struct harness h;
static struct cu_cudnn dnn;

static void describe_device(int capability, int multiprocessors, int shared)
{
    char text[1024];
    struct cu_cudnn_graph error = {.dnn = &dnn};
    snprintf(
        text, sizeof text,
        "{\"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, 1024, 64], "
        "\"regsPerBlock\": 65536, \"multiProcessorCount\": %d, \"warpSize\": 32, "
        "\"maxSharedMemoryPerBlock\": 49152, \"maxSharedMemoryPerBlockOptin\": %d, "
        "\"reservedSharedMemoryPerBlock\": 1024, \"maxRegistersPerSM\": 65536, "
        "\"maxCtasPerSM\": 32, \"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048, "
        "\"pciDeviceId\": 1, \"isTccDriver\": 0, \"supportCoopLaunch\": 1, "
        "\"smClockRateKHz\": 1700000, \"memClockRateKHz\": 2600000, \"l2CacheSize\": 52428800, "
        "\"deviceName\": \"described\", \"totalGlobalMem\": 85000000000, \"deviceVer\": %d, "
        "\"driverVer\": 13000, \"cudaDeviceId\": 0, \"deviceId\": 0, "
        "\"oversizedSharedMemoryPerBlock\": 0}",
        multiprocessors, shared, capability * 10);
    assert_int_equal(dnn.cudnnBackendCreateDescriptor(DEVICE_DESCRIPTOR, &dnn.device), 0);
    error.status = dnn.cudnnBackendSetAttribute(dnn.device, DEVICE_TEXT, TYPE_CHAR,
                                                (int64_t)strlen(text) + 1, text);
    if (error.status == CUDNN_STATUS_SUCCESS)
        error.status = dnn.cudnnBackendFinalize(dnn.device);
    if (error.status != CUDNN_STATUS_SUCCESS) {
        dnn.cudnnGetLastErrorString(text, sizeof text);
        fail_msg("the description of a device: %s", text);
    }
}

static void forget_device(void)
{
    dnn.cudnnBackendDestroyDescriptor(dnn.device);
}

/* A convolution as cuda_convolve.c makes it. */
struct convolution {
    enum cu_type type;
    bool tf32;
    int images, side, channels, columns, kernel, stride, groups;
    bool added, bias;
    enum cu_opcode activation;
};

static void add_instruction(struct cu_product *p, enum cu_opcode op, int operand)
{
    p->after.code[p->after.n_code++] =
        (struct cu_instruction){.op = (uint8_t)op, .from = CU_OPERAND, .index = (uint16_t)operand};
}

static struct cu_call_shape shape_of(const struct convolution *c)
{
    struct cu_call_shape s = {.packed = true,
                              .epilogue = {.bias = -1, .added = -1, .activation = CU_SET}};
    struct cu_product *p = &s.product;
    const int in = c->side * c->stride, k = c->columns, all = k * c->groups;
    p->a_type = p->b_type = p->y_type = (int32_t)c->type;
    p->tf32 = c->tf32;
    p->rows = c->images * c->side * c->side;
    p->columns = p->column_z = k;
    p->depth = c->channels;
    p->n_taps = c->kernel * c->kernel;
    p->height = p->width = c->side;
    p->in_height = p->in_width = in;
    p->stride[0] = p->stride[1] = c->stride;
    p->z = p->z_inner = c->groups;
    p->a_z[1] = c->channels;
    p->y_z[1] = k;
    for (int i = 0; i < 3; i++) {
        const int64_t places[] = {i == 0   ? in * in
                                  : i == 1 ? in
                                           : 1,
                                  i == 0   ? c->side * c->side
                                  : i == 1 ? c->side
                                           : 1};
        p->a_stride[i] = places[0] * c->channels * c->groups;
        p->y_stride[i] = p->operand[1].stride[i] = places[1] * all;
    }
    p->operand[0].type = CU_F32;
    p->operand[0].stride[3] = p->operand[1].stride[3] = 1;
    p->operand[1].type = p->y_type;
    p->after.n_operands = 2;
    if (c->bias)
        add_instruction(p, CU_ADD, s.epilogue.bias = 0);
    if (c->added)
        add_instruction(p, CU_ADD, s.epilogue.added = 1);
    s.epilogue.n_adds = p->after.n_code;
    if (c->activation != CU_SET)
        add_instruction(p, s.epilogue.activation = c->activation, 0);
    for (int i = 0; i < 2; i++) {
        s.geometry.kernel[i] = c->kernel;
        s.geometry.dilation[i] = 1;
        s.geometry.before[i] = c->kernel / 2;
        s.geometry.after[i] = c->kernel - 1 - c->kernel / 2;
    }
    return s;
}

static const char *fused_name(enum cu_cudnn_fused fused)
{
    return (const char *[]){"alone", "with adds", "with an activation"}[fused];
}

/* Engines of this much of the chain, each of which must make a plan again from its text. */
static int check_engines(const struct convolution *c, enum cu_cudnn_fused fused)
{
    const struct cu_call_shape shape = shape_of(c);
    struct cu_cudnn_graph g;
    char texts[MOST][CU_CALL_TEXT], message[256];
    cu_cudnn_build(&g, &dnn, &shape, fused);
    if (g.status != CUDNN_STATUS_SUCCESS) {
        dnn.cudnnGetLastErrorString(message, sizeof message);
        fail_msg("a convolution %s: %s: %s", fused_name(fused), g.call, message);
    }
    cu_cudnn_finish(&g);
    const int n = cu_cudnn_suggest(h.device, &dnn, &shape, fused, MOST, texts);
    for (int i = 0; i < n; i++) {
        struct cu_cudnn_graph plan = {.dnn = &dnn};
        if (!cu_cudnn_plan(&plan, &dnn, &shape, texts[i])) {
            dnn.cudnnGetLastErrorString(message, sizeof message);
            if (plan.status != CUDNN_STATUS_SUCCESS)
                fail_msg("%s: %s: %s", texts[i], plan.call, message);
        }
        cu_cudnn_finish(&plan);
    }
    return n;
}

/* Where the library has engines today; more would be no fault, fewer a change in our graphs. */
static void check_convolution(const struct convolution *c, const bool expected[3])
{
    for (int fused = CU_CUDNN_ALONE; fused <= CU_CUDNN_ACTIVATION; fused++) {
        if ((fused == CU_CUDNN_ADDS && !c->bias && !c->added) ||
            (fused == CU_CUDNN_ACTIVATION && c->activation == CU_SET))
            continue;
        const int n = check_engines(c, (enum cu_cudnn_fused)fused);
        if (expected[fused])
            assert_true(n > 0);
    }
}

static void check_device(int capability, int multiprocessors, int shared)
{
    describe_device(capability, multiprocessors, shared);
    const enum cu_type types[] = {CU_F32, CU_F32, CU_F16, CU_BF16};
    for (int i = 0; i < 4; i++) {
        struct convolution c = {.type = types[i],
                                .tf32 = i == 1,
                                .images = 4,
                                .side = 16,
                                .channels = 64,
                                .columns = 128,
                                .kernel = 3,
                                .stride = 1,
                                .groups = 1,
                                .bias = true,
                                .activation = CU_RELU};
        check_convolution(&c, (const bool[]){true, true, true});
        c.activation = CU_SILU;
        check_convolution(&c, (const bool[]){true, true, false});
        c.activation = CU_SET;
        c.added = true;
        check_convolution(&c, (const bool[]){true, true, true});
        c.stride = 2;
        check_convolution(&c, (const bool[]){true, true, true});
        c.groups = 2;
        check_convolution(&c, (const bool[]){true, false, false});
    }
    forget_device();
}

static void test_graphs_for_capability_9_0_have_engines_and_plans(void **state)
{
    check_device(90, 132, 232448);
}

static void test_graphs_for_capability_8_0_have_engines_and_plans(void **state)
{
    check_device(80, 108, 166912);
}

int main(void)
{
    static const char *const options[] = {"library_folder = " LIBRARIES, "libraries = off", NULL};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graphs_for_capability_9_0_have_engines_and_plans),
        cmocka_unit_test(test_graphs_for_capability_8_0_have_engines_and_plans),
    };
    harness_open(&h, &demist_plugin_v1_backend_cuda, 1, options);
    int status = SKIPPED;
    if (!cu_cudnn_load(h.device, &dnn) || dnn.version < 90800)
        printf("skipped: no libcudnn of version 9.8 in %s\n", LIBRARIES);
    else
        status = cmocka_run_group_tests(tests, NULL, NULL);
    harness_close(&h);
    return status;
}

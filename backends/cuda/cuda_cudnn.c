/* Convolutions by cuDNN's graph API (the backend C API of cuDNN 9).
 *
 * The operation graph is a convolution of pixel-major images and weights [K][R][S][C] in float32
 * sums, then, as far as the chain behind begins with them and an engine takes the graph: a value
 * added, a bias, an activation. An engine is named by its index and the values of its knobs, from
 * which its plan can be made again.
 *
 * Engines that give other bits from run to run, add in less than float32, or transform (Winograd,
 * FFT, whose errors are larger) are left out; with float32 factors those that convert them to less,
 * and in precision f32 those on tensor cores, too. */
#include "cuda_cudnn.h"

#ifdef CU_HAVE_CUDNN
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ENGINES = 4, MOST_SUGGESTED = 16, MOST_KNOBS = 32, MOST_NOTES = 32, ALIGNMENT = 16 };

/* Of tensors in a variant pack; virtual ones follow. */
enum { ID_X = 1, ID_W, ID_Y, ID_BIAS, ID_ADDED, ID_VIRTUAL };

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define SONAME "libcudnn.so." TEXT(CUDNN_MAJOR)

#define NAME(name) #name,
static const char *const function_names[] = {CU_CUDNN_FUNCTIONS(NAME)};
enum { N_FUNCTIONS = sizeof function_names / sizeof function_names[0] };

/* --- descriptors --- */

static void note(struct cu_cudnn_graph *g, cudnnStatus_t status, const char *call, int line)
{
    if (status == CUDNN_STATUS_SUCCESS)
        return;
    g->status = status;
    g->call = call;
    g->line = line;
}
#define ATTEMPT(g, function, ...)                                                                  \
    do {                                                                                           \
        if ((g)->status == CUDNN_STATUS_SUCCESS)                                                   \
            note(g, (g)->dnn->function(__VA_ARGS__), #function, __LINE__);                         \
    } while (0)

static void describe_failure(const struct cu_cudnn_graph *g, char *text, size_t size)
{
    char last[128] = "";
    g->dnn->cudnnGetLastErrorString(last, sizeof last);
    last[sizeof last - 1] = '\0';
    snprintf(text, size, "%s failed: %s (%d%s%s) at cuda_cudnn.c:%d", g->call,
             g->dnn->cudnnGetErrorString(g->status), (int)g->status, last[0] ? ", " : "", last,
             g->line);
}

/* Belongs to the graph; NULL after a failure. */
static cudnnBackendDescriptor_t make(struct cu_cudnn_graph *g, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t made = NULL;
    if (g->n == CU_CUDNN_DESCRIPTORS)
        note(g, CUDNN_STATUS_INTERNAL_ERROR, "cudnnBackendCreateDescriptor", __LINE__);
    ATTEMPT(g, cudnnBackendCreateDescriptor, type, &made);
    if (g->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    return g->all[g->n++] = made;
}

static void set(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t to,
                cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
                const void *values)
{
    ATTEMPT(g, cudnnBackendSetAttribute, to, name, type, n, values);
}

static void set_descriptor(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t to,
                           cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value)
{
    set(g, to, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void set_int64(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t to,
                      cudnnBackendAttributeName_t name, int64_t value)
{
    set(g, to, name, CUDNN_TYPE_INT64, 1, &value);
}

static void set_type(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t to,
                     cudnnBackendAttributeName_t name, cudnnDataType_t value)
{
    set(g, to, name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}

static void set_pair(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t to,
                     cudnnBackendAttributeName_t name, const int32_t pair[2])
{
    const int64_t values[2] = {pair[0], pair[1]};
    set(g, to, name, CUDNN_TYPE_INT64, 2, values);
}

static void finalize(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t descriptor)
{
    ATTEMPT(g, cudnnBackendFinalize, descriptor);
}

static void get(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t from,
                cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most,
                int64_t *n, void *values)
{
    *n = 0;
    ATTEMPT(g, cudnnBackendGetAttribute, from, name, type, most, n, values);
    *n = *n < most ? *n : most;
}

/* Plans are for the handle's device, or for one that is only described. */
static void set_handle(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t to,
                       cudnnBackendAttributeName_t name)
{
    if (g->dnn->handle)
        set(g, to, name, CUDNN_TYPE_HANDLE, 1, &g->dnn->handle);
}

static void set_device(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t to, int name)
{
    if (!g->dnn->handle)
        set_descriptor(g, to, (cudnnBackendAttributeName_t)name, g->dnn->device);
}

void cu_cudnn_finish(struct cu_cudnn_graph *g)
{
    while (g->n > 0)
        g->dnn->cudnnBackendDestroyDescriptor(g->all[--g->n]);
}

/* --- the operation graph --- */

static cudnnDataType_t type_of(int32_t type)
{
    return type == CU_F16    ? CUDNN_DATA_HALF
           : type == CU_BF16 ? CUDNN_DATA_BFLOAT16
                             : CUDNN_DATA_FLOAT;
}

struct tensor {
    int64_t id;
    cudnnDataType_t type;
    int64_t size[4], stride[4]; /* image, channel, row, column */
};

static cudnnBackendDescriptor_t add_tensor(struct cu_cudnn_graph *g, const struct tensor *t)
{
    const bool is_virtual = t->id >= ID_VIRTUAL;
    cudnnBackendDescriptor_t made = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set_type(g, made, CUDNN_ATTR_TENSOR_DATA_TYPE, t->type);
    set(g, made, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t->size);
    set(g, made, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t->stride);
    set_int64(g, made, CUDNN_ATTR_TENSOR_UNIQUE_ID, t->id);
    set_int64(g, made, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, ALIGNMENT);
    if (is_virtual)
        set(g, made, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    finalize(g, made);
    return made;
}

static struct tensor tensor_of_y(const struct cu_product *p, int64_t id)
{
    const int64_t channels = (int64_t)p->columns * p->z_inner;
    return (struct tensor){id,
                           type_of(p->y_type),
                           {p->rows / (p->height * p->width), channels, p->height, p->width},
                           {p->y_stride[0], 1, p->y_stride[1], p->y_stride[2]}};
}

/* What one operation hands to the next: float32, never in memory. */
static struct tensor between(const struct cu_product *p, int64_t id)
{
    struct tensor t = tensor_of_y(p, id);
    t.type = CUDNN_DATA_FLOAT;
    t.stride[3] = t.size[1];
    t.stride[2] = t.stride[3] * t.size[3];
    t.stride[0] = t.stride[2] * t.size[2];
    return t;
}

static cudnnBackendDescriptor_t add_convolution(struct cu_cudnn_graph *g,
                                                const struct cu_call_shape *shape,
                                                cudnnBackendDescriptor_t to)
{
    const struct cu_product *p = &shape->product;
    const struct cu_geometry *geometry = &shape->geometry;
    const int64_t kh = geometry->kernel[0], kw = geometry->kernel[1], depth = p->depth;
    const struct tensor x = {
        ID_X,
        type_of(p->a_type),
        {p->rows / (p->height * p->width), depth * p->z_inner, p->in_height, p->in_width},
        {p->a_stride[0], 1, p->a_stride[1], p->a_stride[2]}};
    const struct tensor w = {ID_W,
                             type_of(p->b_type),
                             {(int64_t)p->columns * p->z_inner, depth, kh, kw},
                             {kh * kw * depth, 1, kw * depth, depth}};
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const float one = 1, zero = 0;
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set_int64(g, how, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2);
    set_type(g, how, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    set(g, how, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set_pair(g, how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, geometry->before);
    set_pair(g, how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, geometry->after);
    set_pair(g, how, CUDNN_ATTR_CONVOLUTION_DILATIONS, geometry->dilation);
    set_pair(g, how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, p->stride);
    finalize(g, how);
    cudnnBackendDescriptor_t from = add_tensor(g, &x), weights = add_tensor(g, &w);
    cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, from);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, weights);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, to);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, how);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &one);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &zero);
    finalize(g, op);
    return op;
}

/* to = mode(from, other); other: NULL for one operand. */
static cudnnBackendDescriptor_t add_pointwise(struct cu_cudnn_graph *g, cudnnPointwiseMode_t mode,
                                              cudnnBackendDescriptor_t from,
                                              cudnnBackendDescriptor_t other,
                                              cudnnBackendDescriptor_t to)
{
    const double one = 1;
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
    if (mode == CUDNN_POINTWISE_SWISH_FWD)
        set(g, how, CUDNN_ATTR_POINTWISE_SWISH_BETA, CUDNN_TYPE_DOUBLE, 1, &one);
    finalize(g, how);
    cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, from);
    if (other)
        set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, other);
    set_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to);
    finalize(g, op);
    return op;
}

static bool activation_of(enum cu_opcode op, cudnnPointwiseMode_t *mode)
{
    static const struct {
        enum cu_opcode op;
        cudnnPointwiseMode_t mode;
    } table[] = {
        {CU_RELU, CUDNN_POINTWISE_RELU_FWD},       {CU_SILU, CUDNN_POINTWISE_SWISH_FWD},
        {CU_GELU, CUDNN_POINTWISE_GELU_FWD},       {CU_TANH, CUDNN_POINTWISE_TANH_FWD},
        {CU_SIGMOID, CUDNN_POINTWISE_SIGMOID_FWD},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].op == op) {
            *mode = table[i].mode;
            return true;
        }
    return false;
}

static bool is_aligned(const struct cu_product *p, int32_t operand)
{
    return operand < 0 || (uintptr_t)p->operand[operand].at % ALIGNMENT == 0;
}

static bool fits(const struct cu_call_shape *shape, enum cu_cudnn_fused fused)
{
    const struct cu_epilogue *e = &shape->epilogue;
    cudnnPointwiseMode_t mode;
    if (fused == CU_CUDNN_ALONE)
        return true;
    if (!is_aligned(&shape->product, e->bias) || !is_aligned(&shape->product, e->added))
        return false;
    return fused == CU_CUDNN_ADDS ? e->n_adds > 0 : activation_of(e->activation, &mode);
}

/* Value, bias, activation: engines know them in this order. */
void cu_cudnn_build(struct cu_cudnn_graph *g, const struct cu_cudnn *dnn,
                    const struct cu_call_shape *shape, enum cu_cudnn_fused fused)
{
    const struct cu_product *p = &shape->product;
    const struct cu_epilogue *e = &shape->epilogue;
    cudnnPointwiseMode_t mode[3];
    cudnnBackendDescriptor_t other[3] = {NULL, NULL, NULL}, ops[4], from = NULL;
    int n = 0;
    *g = (struct cu_cudnn_graph){.dnn = dnn};
    if (fused != CU_CUDNN_ALONE && e->added >= 0) {
        struct tensor added = tensor_of_y(p, ID_ADDED);
        const int64_t *stride = p->operand[e->added].stride;
        const int64_t strides[4] = {stride[0], 1, stride[1], stride[2]};
        memcpy(added.stride, strides, sizeof strides);
        mode[n] = CUDNN_POINTWISE_ADD;
        other[n++] = add_tensor(g, &added);
    }
    if (fused != CU_CUDNN_ALONE && e->bias >= 0) {
        const int64_t channels = (int64_t)p->columns * p->z_inner;
        const struct tensor bias = {
            ID_BIAS, type_of(p->y_type), {1, channels, 1, 1}, {channels, 1, channels, channels}};
        mode[n] = CUDNN_POINTWISE_ADD;
        other[n++] = add_tensor(g, &bias);
    }
    if (fused == CU_CUDNN_ACTIVATION)
        activation_of(e->activation, &mode[n++]);
    const struct tensor y = tensor_of_y(p, ID_Y);
    for (int i = 0; i <= n; i++) {
        const struct tensor t = i < n ? between(p, ID_VIRTUAL + i) : y;
        cudnnBackendDescriptor_t to = add_tensor(g, &t);
        ops[i] = i == 0 ? add_convolution(g, shape, to)
                        : add_pointwise(g, mode[i - 1], from, other[i - 1], to);
        from = to;
    }
    g->graph = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, g->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n + 1, ops);
    set_handle(g, g->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE);
    finalize(g, g->graph);
}

/* --- engines --- */

/* Whether the engine's arithmetic is what the precision promises. */
static bool is_sound(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t engine,
                     const struct cu_product *p)
{
    cudnnBackendNumericalNote_t notes[MOST_NOTES];
    int64_t n;
    bool sound = true;
    get(g, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, MOST_NOTES, &n,
        notes);
    for (int64_t i = 0; i < n; i++) {
        const bool wide = p->a_type == CU_F32;
        if (notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE)
            sound = sound && (!wide || p->tf32);
        else if (notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
            sound = sound && !wide;
        else if (notes[i] != CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP)
            sound = false; /* reduced sums, other bits each time, FFT, Winograd */
    }
    return sound && g->status == CUDNN_STATUS_SUCCESS;
}

/* "cuDNN 91900 fused 2 engine 45 knobs 1=2,3=4," */
static bool write_text(struct cu_cudnn_graph *g, enum cu_cudnn_fused fused,
                       cudnnBackendDescriptor_t engine, cudnnBackendDescriptor_t config, char *text)
{
    cudnnBackendDescriptor_t knobs[MOST_KNOBS];
    int64_t index = -1, n_knobs, one;
    for (int i = 0; i < MOST_KNOBS; i++)
        knobs[i] = make(g, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    get(g, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &one, &index);
    get(g, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_KNOBS,
        &n_knobs, knobs);
    int at = snprintf(text, CU_CALL_TEXT, "%s %zu fused %d engine %" PRId64 " knobs ",
                      cu_cudnn.name, g->dnn->version, (int)fused, index);
    for (int64_t i = 0; i < n_knobs && at < CU_CALL_TEXT; i++) {
        cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_SPLIT_K;
        int64_t value = 0;
        get(g, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &one, &type);
        get(g, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &one, &value);
        at += snprintf(text + at, (size_t)(CU_CALL_TEXT - at), "%d=%" PRId64 ",", (int)type, value);
    }
    return g->status == CUDNN_STATUS_SUCCESS && at < CU_CALL_TEXT;
}

/* The texts of the suggested engines that are sound, of one mode of the heuristics. */
static int suggest(const struct cu_cudnn *dnn, const struct cu_call_shape *shape,
                   enum cu_cudnn_fused fused, cudnnBackendHeurMode_t mode, int most,
                   char (*texts)[CU_CALL_TEXT], struct cu_cudnn_graph *g)
{
    cudnnBackendDescriptor_t configs[MOST_SUGGESTED];
    int64_t n, one;
    int found = 0;
    cu_cudnn_build(g, dnn, shape, fused);
    cudnnBackendDescriptor_t heuristics = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(g, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, g->graph);
    set(g, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    set_device(g, heuristics, CU_CUDNN_HEURISTICS_DEVICE);
    finalize(g, heuristics);
    for (int i = 0; i < MOST_SUGGESTED; i++)
        configs[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    get(g, heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_SUGGESTED,
        &n, configs);
    for (int64_t i = 0; i < n && found < most; i++) {
        const int before = g->n;
        cudnnBackendDescriptor_t engine = make(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
        get(g, configs[i], CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &one,
            &engine);
        if (is_sound(g, engine, &shape->product) &&
            write_text(g, fused, engine, configs[i], texts[found]))
            found++;
        while (g->n > before)
            dnn->cudnnBackendDestroyDescriptor(g->all[--g->n]);
    }
    return found;
}

/* --- plans --- */

/* The number behind the word in a text; *at moves behind it. */
static bool number_behind(const char **at, const char *word, int64_t *number)
{
    const char *found = strstr(*at, word);
    char *end;
    if (!found)
        return false;
    *number = strtoll(found + strlen(word), &end, 10);
    const bool there = end != found + strlen(word);
    *at = end;
    return there;
}

static void set_knobs(struct cu_cudnn_graph *g, cudnnBackendDescriptor_t config, const char *at)
{
    cudnnBackendDescriptor_t knobs[MOST_KNOBS];
    int64_t n = 0;
    for (char *end; n < MOST_KNOBS && *at; at = *end == ',' ? end + 1 : end) {
        const cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)strtoll(at, &end, 10);
        if (end == at || *end != '=')
            break;
        at = end + 1;
        const int64_t value = strtoll(at, &end, 10);
        knobs[n] = make(g, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        set(g, knobs[n], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        set_int64(g, knobs[n], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, value);
        finalize(g, knobs[n++]);
    }
    if (n > 0)
        set(g, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, n, knobs);
}

bool cu_cudnn_plan(struct cu_cudnn_graph *g, const struct cu_cudnn *dnn,
                   const struct cu_call_shape *shape, const char *text)
{
    int64_t fused = -1, index = -1, one;
    const char *at = text;
    if (!number_behind(&at, "fused ", &fused) || !number_behind(&at, "engine ", &index) ||
        strncmp(at, " knobs ", 7) != 0 || fused < 0 || fused > CU_CUDNN_ACTIVATION ||
        !fits(shape, (enum cu_cudnn_fused)fused))
        return false;
    cu_cudnn_build(g, dnn, shape, (enum cu_cudnn_fused)fused);
    g->fused = (enum cu_cudnn_fused)fused;
    cudnnBackendDescriptor_t engine = make(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    set_descriptor(g, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, g->graph);
    set_int64(g, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, index);
    set_device(g, engine, CU_CUDNN_ENGINE_DEVICE);
    finalize(g, engine);
    cudnnBackendDescriptor_t config = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    set_descriptor(g, config, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    set_knobs(g, config, at + 7);
    finalize(g, config);
    g->plan = make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set_handle(g, g->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
    set_device(g, g->plan, CU_CUDNN_PLAN_DEVICE);
    set_descriptor(g, g->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    finalize(g, g->plan);
    get(g, g->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one,
        &g->workspace);
    return g->status == CUDNN_STATUS_SUCCESS && g->workspace <= CU_WORKSPACE;
}

/* --- opening --- */

static void close_dnn(demist_device *device, void *opened)
{
    struct cu_cudnn *dnn = opened;
    if (dnn->handle)
        dnn->cudnnDestroy(dnn->handle);
    device->host->free(device->host, dnn);
}

bool cu_cudnn_load(const demist_device *device, struct cu_cudnn *dnn)
{
    const demist_host *host = device->host;
    void *functions[N_FUNCTIONS];
    memset(dnn, 0, sizeof *dnn);
    if (!cu_load_library(device, SONAME, N_FUNCTIONS, function_names, functions))
        return false;
    memcpy(dnn, functions, sizeof functions);
    dnn->version = dnn->cudnnGetVersion();
    if (dnn->version / 10000 == CUDNN_MAJOR)
        return true;
    host->log(host, DEMIST_LOG_WARNING,
              "%s is not used: it says version %zu; this build needs %d.x", SONAME, dnn->version,
              CUDNN_MAJOR);
    return false;
}

static void *open_dnn(demist_device *device)
{
    const demist_host *host = device->host;
    struct cu_cudnn *dnn = host->alloc(host, sizeof *dnn, 0);
    if (!dnn)
        return NULL;
    if (!cu_cudnn_load(device, dnn)) {
        host->free(host, dnn);
        return NULL;
    }
    const cudnnStatus_t status = dnn->cudnnCreate(&dnn->handle);
    if (status == CUDNN_STATUS_SUCCESS)
        return dnn;
    host->log(host, DEMIST_LOG_WARNING, "%s is not used: cudnnCreate failed: %s (%d)", SONAME,
              dnn->cudnnGetErrorString(status), (int)status);
    dnn->handle = NULL;
    close_dnn(device, dnn);
    return NULL;
}

static int version(const void *opened)
{
    return (int)((const struct cu_cudnn *)opened)->version;
}

/* --- calls --- */

static void log_failure(const demist_device *device, const struct cu_cudnn_graph *g)
{
    char text[400];
    if (g->status == CUDNN_STATUS_SUCCESS)
        return;
    describe_failure(g, text, sizeof text);
    device->host->log(device->host, DEMIST_LOG_DEBUG, "cuDNN: %s", text);
}

static bool make_call(demist_device *device, const struct cu_cudnn *dnn,
                      const struct cu_call_shape *shape, const char *text, struct cu_call *call)
{
    const demist_host *host = device->host;
    const struct cu_epilogue *e = &shape->epilogue;
    struct cu_cudnn_graph *g = host->alloc(host, sizeof *g, 0);
    const size_t length = strlen(text);
    if (!g)
        return false;
    *g = (struct cu_cudnn_graph){.dnn = dnn};
    if (length >= sizeof call->text || !cu_cudnn_plan(g, dnn, shape, text)) {
        log_failure(device, g);
        cu_cudnn_finish(g);
        host->free(host, g);
        return false;
    }
    const bool adds = g->fused != CU_CUDNN_ALONE;
    *call = (struct cu_call){.library = &cu_cudnn,
                             .plan = g,
                             .workspace = g->workspace,
                             .taken = (adds ? e->n_adds : 0) + (g->fused == CU_CUDNN_ACTIVATION),
                             .uses_weights = true,
                             .uses_bias = adds && e->bias >= 0,
                             .uses_added = adds && e->added >= 0};
    memcpy(call->text, text, length + 1);
    return true;
}

int cu_cudnn_suggest(const demist_device *device, const struct cu_cudnn *dnn,
                     const struct cu_call_shape *shape, enum cu_cudnn_fused fused, int most,
                     char (*texts)[CU_CALL_TEXT])
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B,
                                                   CUDNN_HEUR_MODE_FALLBACK};
    int n = 0;
    if (!fits(shape, fused))
        return 0;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0] && n == 0; i++) {
        struct cu_cudnn_graph g;
        n = suggest(dnn, shape, fused, modes[i], most, texts, &g);
        log_failure(device, &g);
        cu_cudnn_finish(&g);
    }
    return n;
}

static bool is_convolution(const struct cu_call_shape *shape)
{
    const struct cu_product *p = &shape->product;
    return shape->packed && p->a_type == p->b_type && p->a_type != CU_I32 && p->z == p->z_inner &&
           p->depth > 0 && p->column_z == p->columns &&
           (p->z == 1 || (p->a_z[1] == p->depth && p->y_z[1] == p->columns)) &&
           ((uintptr_t)p->a | (uintptr_t)p->y) % ALIGNMENT == 0;
}

static int find(demist_device *device, void *opened, const struct cu_call_shape *shape,
                const char *text, struct cu_call *calls, int most)
{
    const struct cu_cudnn *dnn = opened;
    char texts[MOST_ENGINES][CU_CALL_TEXT];
    int found = 0;
    if (!is_convolution(shape))
        return 0;
    if (text)
        return make_call(device, dnn, shape, text, calls);
    /* With as much of the chain as there are engines for. */
    for (int fused = CU_CUDNN_ACTIVATION; fused >= CU_CUDNN_ALONE && found == 0; fused--) {
        const int n = cu_cudnn_suggest(device, dnn, shape, (enum cu_cudnn_fused)fused,
                                       most < MOST_ENGINES ? most : MOST_ENGINES, texts);
        for (int i = 0; i < n; i++)
            found += make_call(device, dnn, shape, texts[i], &calls[found]);
    }
    return found;
}

static demist_status run(demist_device *device, void *opened, const struct cu_call *call,
                         const struct cu_call_memory *memory, cudaStream_t stream)
{
    const struct cu_cudnn *dnn = opened;
    const struct cu_cudnn_graph *graph = call->plan;
    struct cu_cudnn_graph g = {.dnn = dnn}; /* of the variant pack */
    int64_t ids[5] = {ID_X, ID_W, ID_Y}, n = 3;
    const void *pointers[5] = {memory->a, memory->weights, memory->y};
    if (call->uses_bias) {
        ids[n] = ID_BIAS;
        pointers[n++] = memory->bias;
    }
    if (call->uses_added) {
        ids[n] = ID_ADDED;
        pointers[n++] = memory->added;
    }
    cudnnBackendDescriptor_t pack = make(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &memory->workspace);
    finalize(&g, pack);
    ATTEMPT(&g, cudnnSetStream, dnn->handle, stream);
    ATTEMPT(&g, cudnnBackendExecute, dnn->handle, graph->plan, pack);
    char text[400];
    if (g.status != CUDNN_STATUS_SUCCESS)
        describe_failure(&g, text, sizeof text);
    cu_cudnn_finish(&g);
    if (g.status == CUDNN_STATUS_SUCCESS)
        return DEMIST_OK;
    return device->host->fail(device->host, DEMIST_DEVICE,
                              "%s: %s: libraries = off computes without it", device->info->name,
                              text);
}

static void destroy(demist_device *device, void *opened, struct cu_call *call)
{
    (void)opened;
    cu_cudnn_finish(call->plan);
    device->host->free(device->host, call->plan);
}

const struct cu_library cu_cudnn = {
    .name = "cuDNN",
    .open = open_dnn,
    .close = close_dnn,
    .version = version,
    .find = find,
    .run = run,
    .destroy = destroy,
};

#else

static void *open_none(demist_device *device)
{
    device->host->log(device->host, DEMIST_LOG_DEBUG,
                      "cuDNN is not used: this build found no cudnn.h of version 9");
    return NULL;
}

const struct cu_library cu_cudnn = {.name = "cuDNN", .open = open_none};
#endif

/* A cuDNN for the emulated device, as far as its backend API is used: descriptors are checked as
 * they are set and finalized, and a plan is computed in plain loops.
 *
 * It has engines for a convolution followed by a value added, a bias, and ReLU or Swish, in this
 * order and each optional, where bias and value are of the result's type. Engines: 3 gives other
 * bits each time, 5 is Winograd, 7 uses tensor cores, with a tile size and a workspace, 9 has no
 * notes, 11 converts its factors to less. What 3 and 5 compute is wrong, to show that they ran. */
#include <cudnn.h>
#include <math.h>

#include <vector>

#include "emulated_library.h"

using emulated::number;

namespace
{

enum : int64_t { WORKSPACE = 1024 };

struct value {
    int type;
    int64_t n;
    std::vector<unsigned char> bytes;
};

struct descriptor {
    int type;
    bool final = false;
    std::map<int, value> values;

    template <class T> T at(int name, int64_t i = 0) const
    {
        T out;
        memcpy(&out, values.at(name).bytes.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
        return out;
    }
    bool has(int name) const
    {
        return values.count(name) > 0;
    }
    const descriptor *child(int name, int64_t i = 0) const
    {
        return at<const descriptor *>(name, i);
    }
    void put(int name, int type_, const void *from, size_t bytes, int64_t n)
    {
        const auto *first = static_cast<const unsigned char *>(from);
        values[name] = {type_, n, {first, first + bytes}};
    }
};

int64_t alive;
std::string last;

size_t size_of(int type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return 1;
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return 8;
    default:
        return 4;
    }
}

/* Every attribute that may be set: of which descriptor, its type, how many, whether it has to be.
 */
struct attribute {
    int descriptor, name, type;
    int64_t least, most;
    bool needed;
};
const attribute attributes[] = {
#define TENSOR CUDNN_BACKEND_TENSOR_DESCRIPTOR
    {TENSOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, true},
    {TENSOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, 4, true},
    {TENSOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, 4, true},
    {TENSOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1, true},
    {TENSOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1, true},
    {TENSOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1, false},
#define CONV CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR
    {CONV, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, 1, true},
    {CONV, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, true},
    {CONV, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, 1, true},
    {CONV, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, 2, true},
    {CONV, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, 2, true},
    {CONV, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, 2, true},
    {CONV, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, 2, true},
#define FORWARD CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR
#define CHILD CUDNN_TYPE_BACKEND_DESCRIPTOR
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CHILD, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CHILD, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CHILD, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CHILD, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, 1, true},
#define POINTWISE CUDNN_BACKEND_POINTWISE_DESCRIPTOR
    {POINTWISE, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1, true},
    {POINTWISE, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, 1, true},
    {POINTWISE, CUDNN_ATTR_POINTWISE_SWISH_BETA, CUDNN_TYPE_DOUBLE, 1, 1, false},
#define APPLY CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR
    {APPLY, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CHILD, 1, 1, true},
    {APPLY, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CHILD, 1, 1, true},
    {APPLY, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CHILD, 1, 1, false},
    {APPLY, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CHILD, 1, 1, true},
#define GRAPH CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR
    {GRAPH, CUDNN_ATTR_OPERATIONGRAPH_OPS, CHILD, 1, 8, true},
    {GRAPH, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true},
#define HEURISTICS CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR
    {HEURISTICS, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CHILD, 1, 1, true},
    {HEURISTICS, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1, true},
#define ENGINE CUDNN_BACKEND_ENGINE_DESCRIPTOR
    {ENGINE, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CHILD, 1, 1, true},
    {ENGINE, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, 1, true},
#define CONFIG CUDNN_BACKEND_ENGINECFG_DESCRIPTOR
    {CONFIG, CUDNN_ATTR_ENGINECFG_ENGINE, CHILD, 1, 1, true},
    {CONFIG, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CHILD, 1, 8, false},
#define KNOB CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR
    {KNOB, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, 1, true},
    {KNOB, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, 1, true},
#define PLAN CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR
    {PLAN, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true},
    {PLAN, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CHILD, 1, 1, true},
#define PACK CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR
    {PACK, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, 5, true},
    {PACK, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, 5, true},
    {PACK, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1, true},
};

const attribute *find(int descriptor, int name)
{
    for (const attribute &a : attributes)
        if (a.descriptor == descriptor && a.name == name)
            return &a;
    return nullptr;
}

cudnnStatus_t refuse(cudnnStatus_t status, const char *what)
{
    last = what;
    if (status != CUDNN_STATUS_NOT_SUPPORTED)
        emulated::complain(what);
    return status;
}

/* --- graphs --- */

struct tensor {
    number type;
    int64_t id, size[4], stride[4];
    bool is_virtual;
};

tensor tensor_of(const descriptor *d)
{
    tensor t = {};
    const int type = d->at<int>(CUDNN_ATTR_TENSOR_DATA_TYPE);
    t.type = type == CUDNN_DATA_HALF       ? emulated::F16
             : type == CUDNN_DATA_BFLOAT16 ? emulated::BF16
                                           : emulated::F32;
    t.id = d->at<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID);
    for (int i = 0; i < 4; i++) {
        t.size[i] = d->at<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS, i);
        t.stride[i] = d->at<int64_t>(CUDNN_ATTR_TENSOR_STRIDES, i);
    }
    t.is_virtual = d->has(CUDNN_ATTR_TENSOR_IS_VIRTUAL);
    return t;
}

struct program {
    tensor x, w, y, bias, added;
    int64_t pad[2], dilation[2], stride[2];
    bool has_bias, has_added, relu, swish, tf32, wrong;
};

const descriptor *ops_of(const descriptor *graph, int64_t i)
{
    return graph->child(CUDNN_ATTR_OPERATIONGRAPH_OPS, i);
}

bool same_size(const tensor &a, const tensor &b)
{
    return memcmp(a.size, b.size, sizeof a.size) == 0;
}

bool read_convolution(const descriptor *op, program &p)
{
    if (op->type != FORWARD)
        return false;
    p.x = tensor_of(op->child(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X));
    p.w = tensor_of(op->child(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W));
    p.y = tensor_of(op->child(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y));
    const descriptor *how = op->child(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    bool right = p.x.type == p.w.type && p.x.size[1] % p.w.size[1] == 0 &&
                 p.y.size[1] == p.w.size[0] && p.x.size[0] == p.y.size[0] && p.x.stride[1] == 1 &&
                 p.w.stride[1] == 1 &&
                 how->at<int>(CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT &&
                 op->at<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA) == 1 &&
                 op->at<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA) == 0;
    for (int i = 0; i < 2; i++) {
        p.pad[i] = how->at<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i);
        p.dilation[i] = how->at<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS, i);
        p.stride[i] = how->at<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i);
        const int64_t post = how->at<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i);
        const int64_t reach = p.dilation[i] * (p.w.size[2 + i] - 1) + 1;
        right = right && p.stride[i] > 0 && p.dilation[i] > 0 &&
                p.y.size[2 + i] == (p.x.size[2 + i] + p.pad[i] + post - reach) / p.stride[i] + 1;
    }
    return right;
}

enum shape { NEITHER, BIAS, ADDED };

shape shape_of(const tensor &other, const tensor &y)
{
    const bool bias = other.size[0] == 1 && other.size[1] == y.size[1] && other.size[2] == 1 &&
                      other.size[3] == 1;
    return same_size(other, y) && !bias ? ADDED : bias ? BIAS : NEITHER;
}

/* One operation behind the convolution; false: not known, or not in this order. */
bool read_pointwise(const descriptor *op, program &p)
{
    if (op->type != APPLY)
        return false;
    const descriptor *how = op->child(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const tensor from = tensor_of(op->child(CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    const int mode = how->at<int>(CUDNN_ATTR_POINTWISE_MODE);
    const bool binary = op->has(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    if (!p.y.is_virtual || p.y.type != emulated::F32 || from.id != p.y.id || p.relu || p.swish)
        return false;
    p.y = tensor_of(op->child(CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
    if (mode == CUDNN_POINTWISE_RELU_FWD || mode == CUDNN_POINTWISE_SWISH_FWD) {
        (mode == CUDNN_POINTWISE_RELU_FWD ? p.relu : p.swish) = true;
        return !binary;
    }
    if (mode != CUDNN_POINTWISE_ADD || !binary)
        return false;
    const tensor other = tensor_of(op->child(CUDNN_ATTR_OPERATION_POINTWISE_BDESC));
    const shape s = shape_of(other, p.y);
    if (s == NEITHER || (s == BIAS ? p.has_bias : p.has_added || p.has_bias))
        return false;
    (s == BIAS ? p.bias : p.added) = other;
    (s == BIAS ? p.has_bias : p.has_added) = true;
    return true;
}

bool read_graph(const descriptor *graph, program &p)
{
    p = {};
    if (!read_convolution(ops_of(graph, 0), p))
        return false;
    for (int64_t i = 1; i < graph->values.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).n; i++)
        if (!read_pointwise(ops_of(graph, i), p))
            return false;
    return !p.y.is_virtual && (!p.has_bias || p.bias.type == p.y.type) &&
           (!p.has_added || p.added.type == p.y.type);
}

/* --- engines --- */

struct engine {
    int64_t index;
    std::vector<int> notes;
    bool has_knob;
};
const std::vector<engine> engines = {
    {3, {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}, false},
    {5, {CUDNN_NUMERICAL_NOTE_WINOGRAD}, false},
    {11, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS}, false},
    {7, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE}, true},
    {9, {}, false},
};

const engine *engine_at(int64_t index)
{
    for (const engine &e : engines)
        if (e.index == index)
            return &e;
    return nullptr;
}

/* --- computing --- */

float finish(const program &p, float sum, const int64_t at[4], const void *bias, const void *added)
{
    if (p.has_added)
        sum += emulated::load(added,
                              at[0] * p.added.stride[0] + at[1] * p.added.stride[1] +
                                  at[2] * p.added.stride[2] + at[3] * p.added.stride[3],
                              p.added.type);
    if (p.has_bias)
        sum += emulated::load(bias, at[1] * p.bias.stride[1], p.bias.type);
    if (p.relu)
        sum = fmaxf(sum, 0);
    if (p.swish)
        sum = sum / (1 + expf(-sum));
    return p.wrong ? sum + 1 : sum;
}

float convolve(const program &p, const int64_t at[4], const void *x, const void *w)
{
    const int64_t group = at[1] / (p.w.size[0] / (p.x.size[1] / p.w.size[1]));
    float sum = 0;
    for (int64_t r = 0; r < p.w.size[2]; r++)
        for (int64_t s = 0; s < p.w.size[3]; s++) {
            const int64_t i = at[2] * p.stride[0] - p.pad[0] + r * p.dilation[0];
            const int64_t j = at[3] * p.stride[1] - p.pad[1] + s * p.dilation[1];
            if (i < 0 || i >= p.x.size[2] || j < 0 || j >= p.x.size[3])
                continue;
            for (int64_t c = 0; c < p.w.size[1]; c++) {
                float a = emulated::load(x,
                                         at[0] * p.x.stride[0] + group * p.w.size[1] + c +
                                             i * p.x.stride[2] + j * p.x.stride[3],
                                         p.x.type);
                float b = emulated::load(
                    w, at[1] * p.w.stride[0] + c + r * p.w.stride[2] + s * p.w.stride[3], p.w.type);
                sum = p.tf32 ? fmaf(emulated::to_tf32(a), emulated::to_tf32(b), sum)
                             : fmaf(a, b, sum);
            }
        }
    return sum;
}

void compute(const program &p, const std::map<int64_t, void *> &memory, void *workspace)
{
    const auto pointer = [&](int64_t id) { return memory.count(id) ? memory.at(id) : nullptr; };
    int64_t at[4];
    for (at[0] = 0; at[0] < p.y.size[0]; at[0]++)
        for (at[1] = 0; at[1] < p.y.size[1]; at[1]++)
            for (at[2] = 0; at[2] < p.y.size[2]; at[2]++)
                for (at[3] = 0; at[3] < p.y.size[3]; at[3]++) {
                    const float sum = convolve(p, at, pointer(p.x.id), pointer(p.w.id));
                    const int64_t to = at[0] * p.y.stride[0] + at[1] * p.y.stride[1] +
                                       at[2] * p.y.stride[2] + at[3] * p.y.stride[3];
                    emulated::store(pointer(p.y.id), to, p.y.type,
                                    finish(p, sum, at, pointer(p.bias.id), pointer(p.added.id)));
                }
    if (workspace)
        memset(workspace, 0x5a, WORKSPACE);
}

bool has_tile(const descriptor *config)
{
    return config->has(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES) &&
           config->child(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES)
                   ->at<int>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE) == CUDNN_KNOB_TYPE_TILE_SIZE;
}

int64_t index_of(const descriptor *config)
{
    return config->child(CUDNN_ATTR_ENGINECFG_ENGINE)->at<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
}

int64_t workspace_of(const descriptor *config)
{
    return index_of(config) == 7 ? int64_t(WORKSPACE) : 0;
}

cudnnStatus_t check_final(const descriptor *d)
{
    program p;
    if (d->type == GRAPH && !read_convolution(ops_of(d, 0), p))
        return refuse(CUDNN_STATUS_BAD_PARAM, "sizes of a convolution that do not go together");
    if (d->type == ENGINE) {
        const engine *e = engine_at(d->at<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
        if (!e || !read_graph(d->child(CUDNN_ATTR_ENGINE_OPERATION_GRAPH), p))
            return refuse(CUDNN_STATUS_NOT_SUPPORTED, "no such engine for the graph");
    }
    if (d->type == CONFIG && engine_at(index_of(d))->has_knob != has_tile(d))
        return refuse(CUDNN_STATUS_BAD_PARAM, "an engine without its knob, or with another's");
    if (d->type == PACK && d->values.at(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).n !=
                               d->values.at(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).n)
        return refuse(CUDNN_STATUS_BAD_PARAM, "not a pointer for each id");
    return CUDNN_STATUS_SUCCESS;
}

/* --- what a descriptor tells --- */

descriptor *given(void *values, int64_t i)
{
    descriptor *d;
    memcpy(&d, static_cast<unsigned char *>(values) + static_cast<size_t>(i) * sizeof d, sizeof d);
    return d;
}

/* Engines by mode: those of A where it has some. */
void suggest(const descriptor *heuristics, int64_t most, int64_t *n, void *values)
{
    program p;
    const descriptor *graph = heuristics->child(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    *n = 0;
    if (!read_graph(graph, p))
        return;
    for (const engine &e : engines) {
        if (*n == most)
            return;
        descriptor *config = given(values, (*n)++);
        config->put(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, &e.index, 8, 1);
        config->final = true;
    }
}

cudnnStatus_t tell(const descriptor *d, int name, int64_t most, int64_t *n, void *values)
{
    *n = 1;
    if (d->type == HEURISTICS && name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {
        suggest(d, most, n, values);
    } else if (d->type == CONFIG && name == CUDNN_ATTR_ENGINECFG_ENGINE) {
        *given(values, 0) = *d;
        given(values, 0)->type = ENGINE;
    } else if (d->type == CONFIG && name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES) {
        const int tile = CUDNN_KNOB_TYPE_TILE_SIZE;
        const int64_t size = 128;
        *n = engine_at(d->at<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX))->has_knob;
        if (*n) {
            given(values, 0)->put(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, &tile, 4,
                                  1);
            given(values, 0)->put(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, &size, 8, 1);
        }
    } else if (d->type == ENGINE && name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE) {
        const auto &notes = engine_at(d->at<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX))->notes;
        *n = static_cast<int64_t>(notes.size());
        if (!notes.empty())
            memcpy(values, notes.data(), notes.size() * sizeof(int));
    } else if (d->type == PLAN && name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        const int64_t bytes = workspace_of(d->child(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
        memcpy(values, &bytes, sizeof bytes);
    } else if (d->has(name)) {
        memcpy(values, d->values.at(name).bytes.data(), d->values.at(name).bytes.size());
    } else {
        return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute that the descriptor has not");
    }
    return CUDNN_STATUS_SUCCESS;
}

} // namespace

struct cudnnContext {
    cudaStream_t stream = nullptr;
};

#define ENTER()                                                                                    \
    do {                                                                                           \
        const int due = emulated::enter(__func__);                                                 \
        last = "";                                                                                 \
        if (due) {                                                                                 \
            last = "as told";                                                                      \
            return due;                                                                            \
        }                                                                                          \
    } while (0)

extern "C" {
#pragma GCC visibility push(default)

size_t cudnnGetVersion(void)
{
    emulated::enter(__func__);
    return emulated::version ? emulated::version : 91900;
}

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    return status == CUDNN_STATUS_NOT_SUPPORTED      ? "CUDNN_STATUS_NOT_SUPPORTED"
           : status == CUDNN_STATUS_EXECUTION_FAILED ? "CUDNN_STATUS_EXECUTION_FAILED"
                                                     : "CUDNN_STATUS_BAD_PARAM";
}

void cudnnGetLastErrorString(char *message, size_t size)
{
    snprintf(message, size, "%s", last.c_str());
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    ENTER();
    *handle = new cudnnContext;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    ENTER();
    if (alive != 0)
        emulated::complain("cuDNN: descriptors outlive the handle");
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    ENTER();
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out)
{
    ENTER();
    auto *d = new descriptor;
    d->type = type;
    *out = d;
    alive++;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    delete static_cast<descriptor *>(d);
    alive--;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t handle,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n,
                                       const void *values)
{
    ENTER();
    auto *d = static_cast<descriptor *>(handle);
    const attribute *a = find(d->type, name);
    if (!a || a->type != type || n < a->least || n > a->most)
        return refuse(CUDNN_STATUS_BAD_PARAM, "cuDNN: an attribute of another type or number");
    if (d->final)
        return refuse(CUDNN_STATUS_BAD_PARAM, "cuDNN: an attribute set behind finalize");
    d->put(name, type, values, static_cast<size_t>(n) * size_of(type), n);
    for (int64_t i = 0; type == CHILD && i < n; i++)
        if (!d->child(name, i) || !d->child(name, i)->final)
            return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
                          "cuDNN: a descriptor used before it is finalized");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, int64_t most, int64_t *n,
                                       void *values)
{
    ENTER();
    return tell(static_cast<descriptor *>(d), name, most, n, values);
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t handle)
{
    ENTER();
    auto *d = static_cast<descriptor *>(handle);
    for (const attribute &a : attributes)
        if (a.descriptor == d->type && a.needed && !d->has(a.name))
            return refuse(CUDNN_STATUS_BAD_PARAM, "cuDNN: finalized without all that it needs");
    const cudnnStatus_t status = check_final(d);
    d->final = status == CUDNN_STATUS_SUCCESS;
    return status;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_handle,
                                  cudnnBackendDescriptor_t pack_handle)
{
    ENTER();
    const auto *plan = static_cast<descriptor *>(plan_handle);
    const auto *pack = static_cast<descriptor *>(pack_handle);
    if (!plan->final || !pack->final)
        return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "cuDNN: executed before finalized");
    const descriptor *config = plan->child(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    const int64_t index = index_of(config);
    program p;
    read_graph(config->child(CUDNN_ATTR_ENGINECFG_ENGINE)->child(CUDNN_ATTR_ENGINE_OPERATION_GRAPH),
               p);
    p.tf32 = p.x.type == emulated::F32 && index != 9;
    p.wrong = index == 3 || index == 5;
    std::map<int64_t, void *> memory;
    for (int64_t i = 0; i < pack->values.at(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).n; i++) {
        void *at = pack->at<void *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, i);
        memory[pack->at<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, i)] = at;
        if (!at || reinterpret_cast<uintptr_t>(at) % 16 != 0)
            return refuse(CUDNN_STATUS_BAD_PARAM,
                          "cuDNN: memory missing, or less aligned than said");
    }
    if (!memory.count(p.x.id) || !memory.count(p.w.id) || !memory.count(p.y.id) ||
        (p.has_bias && !memory.count(p.bias.id)) || (p.has_added && !memory.count(p.added.id)))
        return refuse(CUDNN_STATUS_BAD_PARAM, "cuDNN: a tensor without memory");
    void *workspace = pack->at<void *>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    if (workspace_of(config) > 0 && !workspace)
        return refuse(CUDNN_STATUS_BAD_PARAM, "cuDNN: no workspace");
    workspace = workspace_of(config) > 0 ? workspace : nullptr;
    if (emulated::queue(handle->stream, [=] { compute(p, memory, workspace); }) != cudaSuccess)
        return CUDNN_STATUS_EXECUTION_FAILED;
    return CUDNN_STATUS_SUCCESS;
}

#pragma GCC visibility pop
}

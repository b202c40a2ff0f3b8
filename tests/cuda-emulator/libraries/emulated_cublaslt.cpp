/* A cuBLASLt for the emulated device: checks what it is told and computes it in plain loops.
 * Algorithms: 0 takes any alignment; 1 wants 16 bytes everywhere, and works in a workspace of 4
 * KiB; 2 adds in the result's type, and is offered to those who allow it. */
#include <cublasLt.h>
#include <math.h>

#include "emulated_library.h"

using emulated::number;

struct emulated_matmul {
    int compute, epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = nullptr;
};
struct emulated_layout {
    int type;
    int64_t rows, columns, ld, count = 1, step = 0;
};
struct emulated_preference {
    uint64_t workspace = 0;
    uint32_t sums = 7, alignment[4] = {256, 256, 256, 256};
};
struct cublasLtContext {
    int spare;
};

namespace
{

enum : uint64_t { MAGIC = 0x6c742d616c676f, WORKSPACE = 4096, ALGORITHMS = 3 };

int64_t alive; /* descriptors */

size_t size_of(int type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

number number_of(int type)
{
    return type == CUDA_R_16F    ? emulated::F16
           : type == CUDA_R_16BF ? emulated::BF16
                                 : emulated::F32;
}

struct call {
    emulated_matmul product;
    emulated_layout a, b, c, d;
    const void *a_at, *b_at, *c_at;
    void *d_at, *workspace;
    float beta;
};

bool has_bias(int epilogue)
{
    return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
}

/* Columns of our matrices are the rows here: a is m x k, b k x n, c and d m x n. */
bool is_consistent(const emulated_matmul &p, const emulated_layout &a, const emulated_layout &b,
                   const emulated_layout &c, const emulated_layout &d)
{
    const bool types =
        a.type == b.type && c.type == d.type &&
        (a.type == CUDA_R_32F ? d.type == CUDA_R_32F : d.type == a.type || d.type == CUDA_R_32F);
    const bool compute = p.compute == CUBLAS_COMPUTE_32F ||
                         (p.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a.type == CUDA_R_32F);
    const bool sizes = a.columns == b.rows && a.rows == d.rows && b.columns == d.columns &&
                       c.rows == d.rows && c.columns == d.columns;
    const bool counts = a.count == b.count && b.count == d.count && c.count == d.count;
    const bool epilogue =
        p.epilogue == CUBLASLT_EPILOGUE_DEFAULT || p.epilogue == CUBLASLT_EPILOGUE_RELU ||
        p.epilogue == CUBLASLT_EPILOGUE_BIAS || p.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS;
    return types && compute && sizes && counts && epilogue && (d.count == 1 || d.step > 0);
}

bool is_aligned(const void *at, uint32_t to)
{
    return reinterpret_cast<uintptr_t>(at) % to == 0;
}

/* Whether the algorithm could with these layouts. */
bool takes(uint64_t algorithm, const emulated_layout &l)
{
    return algorithm != 1 || (l.ld * static_cast<int64_t>(size_of(l.type)) % 16 == 0 &&
                              l.step * static_cast<int64_t>(size_of(l.type)) % 16 == 0);
}

cublasLtMatmulAlgo_t name(uint64_t algorithm, const emulated_layout &a, const emulated_layout &d)
{
    return {{MAGIC, algorithm, static_cast<uint64_t>(d.rows), static_cast<uint64_t>(d.columns),
             static_cast<uint64_t>(a.columns), 0, 0, ~uint64_t(0)}};
}

void compute(const call &c)
{
    const number from = number_of(c.a.type), to = number_of(c.d.type);
    const bool tf32 = c.product.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    for (int64_t z = 0; z < c.d.count; z++)
        for (int64_t j = 0; j < c.d.columns; j++)
            for (int64_t i = 0; i < c.d.rows; i++) {
                float sum = 0;
                for (int64_t k = 0; k < c.a.columns; k++) {
                    float x = emulated::load(c.a_at, z * c.a.step + k * c.a.ld + i, from);
                    float y = emulated::load(c.b_at, z * c.b.step + j * c.b.ld + k, from);
                    x = tf32 ? emulated::to_tf32(x) : x;
                    y = tf32 ? emulated::to_tf32(y) : y;
                    sum = fmaf(x, y, sum);
                }
                if (c.beta != 0)
                    sum += c.beta * emulated::load(c.c_at, z * c.c.step + j * c.c.ld + i, to);
                if (has_bias(c.product.epilogue))
                    sum += emulated::load(c.product.bias, i, to);
                if (c.product.epilogue & CUBLASLT_EPILOGUE_RELU)
                    sum = fmaxf(sum, 0);
                emulated::store(c.d_at, z * c.d.step + j * c.d.ld + i, to, sum);
            }
    if (c.workspace)
        memset(c.workspace, 0x5a, WORKSPACE);
}

} // namespace

#define ENTER()                                                                                    \
    do {                                                                                           \
        const int due = emulated::enter(__func__);                                                 \
        if (due)                                                                                   \
            return due;                                                                            \
    } while (0)
#define REFUSE(what)                                                                               \
    do {                                                                                           \
        emulated::complain("cuBLASLt: " what);                                                     \
        return CUBLAS_STATUS_INVALID_VALUE;                                                        \
    } while (0)

extern "C" {
#pragma GCC visibility push(default)

size_t cublasLtGetVersion(void)
{
    emulated::enter(__func__);
    return emulated::version ? emulated::version : size_t(CUBLAS_VER_MAJOR * 10000 + 100);
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_EXECUTION_FAILED ? "CUBLAS_STATUS_EXECUTION_FAILED"
                                                    : "CUBLAS_STATUS_INVALID_VALUE";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_EXECUTION_FAILED ? "the function failed to launch"
                                                    : "an unsupported value was passed";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    ENTER();
    *handle = new cublasLtContext{};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    ENTER();
    if (alive != 0)
        emulated::complain("cuBLASLt: descriptors outlive the handle");
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    ENTER();
    if (scale != CUDA_R_32F)
        REFUSE("alpha is not float32");
    *desc = new emulated_matmul{compute};
    alive++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    delete desc;
    alive--;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes)
{
    ENTER();
    if (name == CUBLASLT_MATMUL_DESC_EPILOGUE && bytes == sizeof(uint32_t))
        memcpy(&desc->epilogue, value, bytes);
    else if (name == CUBLASLT_MATMUL_DESC_BIAS_POINTER && bytes == sizeof(void *))
        memcpy(&desc->bias, value, bytes);
    else
        REFUSE("an attribute of a product that is not known, or of another size");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t ld)
{
    ENTER();
    if ((type != CUDA_R_32F && type != CUDA_R_16F && type != CUDA_R_16BF) || rows == 0 ||
        columns == 0 || ld < static_cast<int64_t>(rows))
        REFUSE("a layout of another type, empty, or whose columns overlap");
    *layout =
        new emulated_layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), ld};
    alive++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    alive--;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t name,
                                                const void *value, size_t bytes)
{
    ENTER();
    int32_t count;
    if (name == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && bytes == sizeof count) {
        memcpy(&count, value, bytes);
        layout->count = count;
    } else if (name == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET && bytes == sizeof(int64_t)) {
        memcpy(&layout->step, value, bytes);
    } else {
        REFUSE("an attribute of a layout that is not known, or of another size");
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    ENTER();
    *preference = new emulated_preference;
    alive++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    alive--;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t bytes)
{
    ENTER();
    static const int alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++)
        if (name == alignments[i] && bytes == sizeof(uint32_t)) {
            memcpy(&preference->alignment[i], value, bytes);
            return CUBLAS_STATUS_SUCCESS;
        }
    if (name == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && bytes == sizeof(uint64_t))
        memcpy(&preference->workspace, value, bytes);
    else if (name == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK && bytes == sizeof(uint32_t))
        memcpy(&preference->sums, value, bytes);
    else
        REFUSE("a preference that is not known, or of another size");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    ENTER();
    if (!is_consistent(*desc, *a, *b, *c, *d))
        REFUSE("layouts, types and epilogue that do not go together");
    const cublasLtMatmulAlgo_t own = name(algo->data[1], *a, *d);
    if (memcmp(&own, algo, sizeof own) != 0 || algo->data[1] >= ALGORITHMS)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    for (const emulated_layout *l : {a, b, c, d})
        if (!takes(algo->data[1], *l))
            return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = {};
    result->algo = *algo;
    result->workspaceSize = algo->data[1] == 1 ? size_t(WORKSPACE) : 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int *n)
{
    ENTER();
    *n = 0;
    if (!is_consistent(*desc, *a, *b, *c, *d))
        REFUSE("layouts, types and epilogue that do not go together");
    if (has_bias(desc->epilogue) && !desc->bias)
        REFUSE("a bias of unknown alignment");
    bool aligned = is_aligned(desc->bias, 16);
    for (int i = 0; i < 4; i++)
        aligned = aligned && preference->alignment[i] >= 16;
    for (uint64_t k = 0; k < ALGORITHMS && *n < most; k++) {
        const uint64_t algorithm = k == 0 ? 1 : k == 1 ? 0 : 2;
        bool can = algorithm != 1 || (aligned && preference->workspace >= WORKSPACE);
        for (const emulated_layout *l : {a, b, c, d})
            can = can && takes(algorithm, *l);
        if (!can || (algorithm == 2 && !(preference->sums & CUBLASLT_REDUCTION_SCHEME_INPLACE)))
            continue;
        results[*n] = {};
        results[*n].algo = name(algorithm, *a, *d);
        results[*n].workspaceSize = algorithm == 1 ? size_t(WORKSPACE) : 0;
        ++*n;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a_at, cublasLtMatrixLayout_t a, const void *b_at,
                              cublasLtMatrixLayout_t b, const void *beta, const void *c_at,
                              cublasLtMatrixLayout_t c, void *d_at, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
                              cudaStream_t stream)
{
    ENTER();
    const uint64_t algorithm = algo->data[1];
    if (!is_consistent(*desc, *a, *b, *c, *d) || *static_cast<const float *>(alpha) != 1)
        REFUSE("layouts, types and epilogue that do not go together");
    if (has_bias(desc->epilogue) && !desc->bias)
        REFUSE("an epilogue without its bias");
    if (algorithm == 1 && (bytes < WORKSPACE || !workspace))
        REFUSE("too small a workspace");
    for (const void *at : {a_at, b_at, c_at, static_cast<const void *>(d_at), desc->bias})
        if (algorithm == 1 && !is_aligned(at, 16))
            REFUSE("memory that is less aligned than was said");
    const call made = {*desc,
                       *a,
                       *b,
                       *c,
                       *d,
                       a_at,
                       b_at,
                       c_at,
                       d_at,
                       algorithm == 1 ? workspace : nullptr,
                       *static_cast<const float *>(beta)};
    if (emulated::queue(stream, [made] { compute(made); }) != cudaSuccess)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}

#pragma GCC visibility pop
}

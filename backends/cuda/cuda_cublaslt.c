/* Matrix products by cuBLASLt: linear layers, 1 x 1 convolutions, and products of two values.
 *
 * Its matrices lie column by column, so that it computes yᵀ = bᵀ·aᵀ: its A is b, its B is a, and a
 * bias, one number for each row of its result, is one for each of our columns. Fused are a bias, a
 * value added to the result (its C, with β = 1) and ReLU; its GELU is the approximation by tanh and
 * so not ours. Sums are float32: split sums are added in float32, too, and in a fixed order. */
#include "cuda_library.h"

#ifdef CU_HAVE_CUBLASLT
#include <cublasLt.h>

#include <inttypes.h>
#include <string.h>

enum { MOST_ALGORITHMS = 4 };

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define SONAME "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

#define FUNCTIONS(X)                                                                               \
    X(cublasLtGetVersion)                                                                          \
    X(cublasLtGetStatusName)                                                                       \
    X(cublasLtGetStatusString)                                                                     \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatrixLayoutSetAttribute)                                                            \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                              \
    X(cublasLtMatmulAlgoCheck)                                                                     \
    X(cublasLtMatmul)

struct lt {
#define DECLARE(name) __typeof__(name) *name;
    FUNCTIONS(DECLARE)
#undef DECLARE
    cublasLtHandle_t handle;
    size_t version;
};

enum { N_FUNCTIONS = offsetof(struct lt, handle) / sizeof(void *) };

#define NAME(name) #name,
static const char *const function_names[] = {FUNCTIONS(NAME)};

/* --- errors --- */

static void describe_failure(const struct lt *lt, cublasStatus_t status, const char *call, int line,
                             char *text, size_t size)
{
    snprintf(text, size, "%s failed: %s (%d, %s) at cuda_cublaslt.c:%d", call,
             lt->cublasLtGetStatusName(status), (int)status, lt->cublasLtGetStatusString(status),
             line);
}

/* The first of some calls that fails; later ones are not made. */
struct attempt {
    const struct lt *lt;
    cublasStatus_t status;
    const char *call;
    int line;
};
#define ATTEMPT(t, function, ...)                                                                  \
    do {                                                                                           \
        if ((t)->status == CUBLAS_STATUS_SUCCESS) {                                                \
            (t)->status = (t)->lt->function(__VA_ARGS__);                                          \
            (t)->call = #function;                                                                 \
            (t)->line = __LINE__;                                                                  \
        }                                                                                          \
    } while (0)

static void log_failure(const demist_device *device, const struct attempt *t)
{
    char text[256];
    describe_failure(t->lt, t->status, t->call, t->line, text, sizeof text);
    device->host->log(device->host, DEMIST_LOG_DEBUG, "cuBLASLt: %s", text);
}

/* --- opening --- */

static void close_lt(demist_device *device, void *opened)
{
    struct lt *lt = opened;
    if (lt->handle)
        lt->cublasLtDestroy(lt->handle);
    device->host->free(device->host, lt);
}

static void *open_lt(demist_device *device)
{
    const demist_host *host = device->host;
    void *functions[N_FUNCTIONS];
    if (!cu_load_library(device, SONAME, N_FUNCTIONS, function_names, functions))
        return NULL;
    struct lt *lt = host->alloc(host, sizeof *lt, 0);
    if (!lt)
        return NULL;
    memset(lt, 0, sizeof *lt);
    memcpy(lt, functions, sizeof functions);
    lt->version = lt->cublasLtGetVersion();
    if (lt->version / 10000 != CUBLAS_VER_MAJOR) {
        host->log(host, DEMIST_LOG_WARNING,
                  "%s is not used: it says version %zu; this build needs %d.x", SONAME, lt->version,
                  CUBLAS_VER_MAJOR);
        close_lt(device, lt);
        return NULL;
    }
    struct attempt t = {.lt = lt};
    ATTEMPT(&t, cublasLtCreate, &lt->handle);
    if (t.status != CUBLAS_STATUS_SUCCESS) {
        lt->handle = NULL;
        log_failure(device, &t);
        close_lt(device, lt);
        return NULL;
    }
    return lt;
}

static int version(const void *opened)
{
    return (int)((const struct lt *)opened)->version;
}

/* --- which products --- */

/* In our terms: y [rows, columns] = a [rows, depth] · b [depth, columns], `count` times. */
struct matrices {
    int64_t rows, columns, depth, count;
    int64_t lda, ldb, ldy, ldadded;
    int64_t step_a, step_b, step_y; /* from one product to the next, elements */
    cudaDataType_t type, y_type;
    cublasComputeType_t compute;
    bool bias, added, relu;
};

/* Whether rows (image, line, place) lie at even distances. */
static bool is_even(const int64_t stride[3], const int64_t size[3], int64_t width, int64_t *step)
{
    int64_t count = 1;
    *step = 0;
    for (int i = 2; i >= 0; i--) {
        if (size[i] == 1)
            continue;
        if (*step == 0)
            *step = stride[i];
        if (stride[i] != *step * count)
            return false;
        count *= size[i];
    }
    if (count == 1)
        *step = width;
    return *step >= width;
}

/* Likewise the products, z = z0·z_inner + z1. */
static bool is_even_z(const struct cu_product *p, const int64_t z[2], int64_t *step)
{
    *step = p->z_inner > 1 ? z[1] : z[0];
    return p->z_inner == 1 || p->z == p->z_inner || z[0] == z[1] * p->z_inner;
}

static cudaDataType_t type_of(int32_t type)
{
    return type == CU_F16 ? CUDA_R_16F : type == CU_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool as_matrices(const struct cu_call_shape *shape, struct matrices *m)
{
    const struct cu_product *p = &shape->product;
    const struct cu_epilogue *e = &shape->epilogue;
    const int64_t size[3] = {p->rows / (p->height * p->width), p->height, p->width};
    if (!cu_is_matrix_product(&shape->geometry, p))
        return false;
    if (p->a_type != p->b_type || (p->a_type == CU_F32 && p->y_type != CU_F32) ||
        (p->a_type != CU_F32 && p->y_type != CU_F32 && p->y_type != p->a_type) || p->depth < 1 ||
        p->a_type == CU_I32)
        return false;
    *m = (struct matrices){
        .rows = p->rows,
        .columns = p->columns,
        .depth = p->depth,
        .count = p->z,
        .ldb = p->b_row,
        .type = type_of(p->a_type),
        .y_type = type_of(p->y_type),
        .compute =
            p->a_type == CU_F32 && p->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
    };
    if (!is_even(p->a_stride, size, p->depth, &m->lda) ||
        !is_even(p->y_stride, size, p->columns, &m->ldy) || !is_even_z(p, p->a_z, &m->step_a) ||
        !is_even_z(p, p->b_z, &m->step_b) || !is_even_z(p, p->y_z, &m->step_y))
        return false;
    m->bias = p->z == 1 && e->bias >= 0;
    m->added = p->z == 1 && e->added >= 0;
    if (m->added && !is_even(p->operand[e->added].stride, size, p->columns, &m->ldadded))
        m->bias = m->added = false;
    m->relu = e->activation == CU_RELU && m->bias + m->added == e->n_adds;
    return true;
}

static int32_t taken(const struct matrices *m)
{
    return m->bias + m->added + m->relu;
}

/* --- descriptors --- */

struct plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, added, y;
    cublasLtMatmulAlgo_t algorithm;
};

static void destroy_plan(const struct lt *lt, struct plan *plan)
{
    const cublasLtMatrixLayout_t layouts[] = {plan->a, plan->b, plan->added, plan->y};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (layouts[i])
            lt->cublasLtMatrixLayoutDestroy(layouts[i]);
    if (plan->product)
        lt->cublasLtMatmulDescDestroy(plan->product);
    *plan = (struct plan){.product = NULL};
}

/* What lies as `rows` rows of `columns` numbers is columns x rows here. */
static void set_layout(struct attempt *t, cublasLtMatrixLayout_t *layout, cudaDataType_t type,
                       int64_t rows, int64_t columns, int64_t row, int64_t count, int64_t step)
{
    const int32_t n = (int32_t)count;
    ATTEMPT(t, cublasLtMatrixLayoutCreate, layout, type, (uint64_t)columns, (uint64_t)rows, row);
    if (count == 1)
        return;
    ATTEMPT(t, cublasLtMatrixLayoutSetAttribute, *layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n,
            sizeof n);
    ATTEMPT(t, cublasLtMatrixLayoutSetAttribute, *layout,
            CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step);
}

/* Routines that choose read the alignment of a bias from its address. */
static void set_bias(struct attempt *t, const struct plan *plan, const void *bias)
{
    ATTEMPT(t, cublasLtMatmulDescSetAttribute, plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
            &bias, sizeof bias);
}

static void make_plan(struct attempt *t, const struct cu_call_shape *shape,
                      const struct matrices *m, struct plan *plan)
{
    static char aligned[CU_ALIGN] __attribute__((aligned(CU_ALIGN)));
    const uint32_t epilogue = m->bias && m->relu ? CUBLASLT_EPILOGUE_RELU_BIAS
                              : m->bias          ? CUBLASLT_EPILOGUE_BIAS
                              : m->relu          ? CUBLASLT_EPILOGUE_RELU
                                                 : CUBLASLT_EPILOGUE_DEFAULT;
    *plan = (struct plan){.product = NULL};
    ATTEMPT(t, cublasLtMatmulDescCreate, &plan->product, m->compute, CUDA_R_32F);
    ATTEMPT(t, cublasLtMatmulDescSetAttribute, plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE,
            &epilogue, sizeof epilogue);
    if (m->bias) {
        const uintptr_t offset =
            m->y_type == CUDA_R_32F
                ? (uintptr_t)shape->product.operand[shape->epilogue.bias].at % CU_ALIGN
                : 0;
        set_bias(t, plan, aligned + offset);
    }
    set_layout(t, &plan->a, m->type, m->rows, m->depth, m->lda, m->count, m->step_a);
    set_layout(t, &plan->b, m->type, m->depth, m->columns, m->ldb, m->count, m->step_b);
    set_layout(t, &plan->y, m->y_type, m->rows, m->columns, m->ldy, m->count, m->step_y);
    if (m->added)
        set_layout(t, &plan->added, m->y_type, m->rows, m->columns, m->ldadded, 1, 0);
}

static uint32_t alignment(const void *offset)
{
    const uintptr_t at = (uintptr_t)offset | CU_ALIGN;
    return (uint32_t)(at & (~at + 1));
}

static void set_preference(struct attempt *t, const struct cu_call_shape *shape,
                           const struct matrices *m, cublasLtMatmulPreference_t preference)
{
    const struct cu_product *p = &shape->product;
    const uint64_t workspace = CU_WORKSPACE;
    /* In place means in the result's type for 16 bits: sums stay float32. */
    const uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const void *added = m->added ? p->operand[shape->epilogue.added].at : p->y;
    const uint32_t a = alignment(p->b), b = alignment(p->a), c = alignment(added),
                   d = alignment(p->y);
    ATTEMPT(t, cublasLtMatmulPreferenceSetAttribute, preference,
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    ATTEMPT(t, cublasLtMatmulPreferenceSetAttribute, preference,
            CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof sums);
    ATTEMPT(t, cublasLtMatmulPreferenceSetAttribute, preference,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a);
    ATTEMPT(t, cublasLtMatmulPreferenceSetAttribute, preference,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b);
    ATTEMPT(t, cublasLtMatmulPreferenceSetAttribute, preference,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c);
    ATTEMPT(t, cublasLtMatmulPreferenceSetAttribute, preference,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &d, sizeof d);
}

static cublasLtMatrixLayout_t layout_of_c(const struct plan *plan)
{
    return plan->added ? plan->added : plan->y;
}

/* --- algorithms --- */

static int suggest(struct attempt *t, const struct cu_call_shape *shape, const struct matrices *m,
                   cublasLtMatmulHeuristicResult_t *results, int most)
{
    struct plan plan;
    cublasLtMatmulPreference_t preference = NULL;
    int n = 0;
    make_plan(t, shape, m, &plan);
    ATTEMPT(t, cublasLtMatmulPreferenceCreate, &preference);
    set_preference(t, shape, m, preference);
    ATTEMPT(t, cublasLtMatmulAlgoGetHeuristic, t->lt->handle, plan.product, plan.b, plan.a,
            layout_of_c(&plan), plan.y, preference, most, results, &n);
    if (preference)
        t->lt->cublasLtMatmulPreferenceDestroy(preference);
    destroy_plan(t->lt, &plan);
    return t->status == CUBLAS_STATUS_SUCCESS ? n : 0;
}

static void write_text(const struct lt *lt, const cublasLtMatmulAlgo_t *algorithm, char *text)
{
    int n = snprintf(text, CU_CALL_TEXT, "%s %zu ", cu_cublaslt.name, lt->version);
    for (int i = 0; i < 8; i++)
        n += snprintf(text + n, (size_t)(CU_CALL_TEXT - n), "%016" PRIx64, algorithm->data[i]);
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_text(const char *text, cublasLtMatmulAlgo_t *algorithm)
{
    const char *at = strrchr(text, ' ');
    if (!at || strlen(at + 1) != 128)
        return false;
    at++;
    for (int i = 0; i < 8; i++) {
        algorithm->data[i] = 0;
        for (int k = 0; k < 16; k++, at++) {
            if (hex(*at) < 0)
                return false;
            algorithm->data[i] = algorithm->data[i] << 4 | (uint64_t)hex(*at);
        }
    }
    return true;
}

/* A call of this algorithm, if it can compute the product. */
static bool make_call(demist_device *device, const struct lt *lt, const struct cu_call_shape *shape,
                      const struct matrices *m, const cublasLtMatmulAlgo_t *algorithm,
                      struct cu_call *call)
{
    const demist_host *host = device->host;
    struct attempt t = {.lt = lt};
    struct plan made, *plan = host->alloc(host, sizeof *plan, 0);
    cublasLtMatmulHeuristicResult_t result;
    if (!plan)
        return false;
    memset(&result, 0, sizeof result);
    make_plan(&t, shape, m, &made);
    made.algorithm = *algorithm;
    ATTEMPT(&t, cublasLtMatmulAlgoCheck, lt->handle, made.product, made.b, made.a,
            layout_of_c(&made), made.y, algorithm, &result);
    if (t.status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > CU_WORKSPACE) {
        if (t.status != CUBLAS_STATUS_SUCCESS)
            log_failure(device, &t);
        destroy_plan(lt, &made);
        host->free(host, plan);
        return false;
    }
    *plan = made;
    *call = (struct cu_call){.library = &cu_cublaslt,
                             .plan = plan,
                             .workspace = (int64_t)result.workspaceSize,
                             .taken = taken(m),
                             .uses_bias = m->bias,
                             .uses_added = m->added};
    write_text(lt, algorithm, call->text);
    return true;
}

static int find(demist_device *device, void *opened, const struct cu_call_shape *shape,
                const char *text, struct cu_call *calls, int most)
{
    const struct lt *lt = opened;
    struct matrices m;
    cublasLtMatmulHeuristicResult_t results[MOST_ALGORITHMS];
    struct attempt t = {.lt = lt};
    int n = 1, found = 0;
    memset(results, 0, sizeof results);
    if (!as_matrices(shape, &m))
        return 0;
    if (text) {
        if (!read_text(text, &results[0].algo))
            return 0;
    } else {
        n = suggest(&t, shape, &m, results, most < MOST_ALGORITHMS ? most : MOST_ALGORITHMS);
        if (t.status != CUBLAS_STATUS_SUCCESS)
            log_failure(device, &t);
    }
    for (int i = 0; i < n; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            found += make_call(device, lt, shape, &m, &results[i].algo, &calls[found]);
    return found;
}

static demist_status run(demist_device *device, void *opened, const struct cu_call *call,
                         const struct cu_call_memory *memory, cudaStream_t stream)
{
    const struct lt *lt = opened;
    const struct plan *plan = call->plan;
    const float one = 1, beta = call->uses_added ? 1 : 0;
    struct attempt t = {.lt = lt};
    if (call->uses_bias)
        set_bias(&t, plan, memory->bias);
    ATTEMPT(&t, cublasLtMatmul, lt->handle, plan->product, &one, memory->b, plan->b, memory->a,
            plan->a, &beta, call->uses_added ? memory->added : memory->y, layout_of_c(plan),
            memory->y, plan->y, &plan->algorithm, memory->workspace, (size_t)call->workspace,
            stream);
    if (t.status == CUBLAS_STATUS_SUCCESS)
        return DEMIST_OK;
    char text[256];
    describe_failure(lt, t.status, t.call, t.line, text, sizeof text);
    return device->host->fail(device->host, DEMIST_DEVICE,
                              "%s: %s: libraries = off computes without it", device->info->name,
                              text);
}

static void destroy(demist_device *device, void *opened, struct cu_call *call)
{
    destroy_plan(opened, call->plan);
    device->host->free(device->host, call->plan);
}

const struct cu_library cu_cublaslt = {
    .name = "cuBLASLt",
    .open = open_lt,
    .close = close_lt,
    .version = version,
    .find = find,
    .run = run,
    .destroy = destroy,
};

#else

static void *open_none(demist_device *device)
{
    device->host->log(device->host, DEMIST_LOG_DEBUG,
                      "cuBLASLt is not used: this build found no cublasLt.h");
    return NULL;
}

const struct cu_library cu_cublaslt = {.name = "cuBLASLt", .open = open_none};
#endif

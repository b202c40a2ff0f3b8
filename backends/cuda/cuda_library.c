/* See cuda_library.h. What cuBLASLt and cuDNN have in common: being found and opened, what a chain
 * has for them to fuse, the copies that they want, and the pass behind a call. */
#include "cuda_library.h"

#include <dlfcn.h>
#include <string.h>

static const struct cu_library *const libraries[CU_N_LIBRARIES] = {&cu_cublaslt, &cu_cudnn};

/* --- opening --- */

#ifndef CU_TOOLKIT_LIBRARIES
#define CU_TOOLKIT_LIBRARIES "" /* the folder of the toolkit that this was built with */
#endif

static void *load_from(const char *folder, const char *soname)
{
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, soname);
    return folder[0] && n > 0 && (size_t)n < sizeof path ? dlopen(path, RTLD_NOW | RTLD_LOCAL)
                                                         : NULL;
}

static void *load(const demist_device *device, const char *soname)
{
    if (device->settings.library_folder)
        return load_from(device->settings.library_folder, soname);
    void *object = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (!object)
        object = load_from(CU_TOOLKIT_LIBRARIES, soname);
    return object ? object : load_from("/usr/local/cuda/lib64", soname);
}

void *cu_load_library(const demist_device *device, const char *soname, int n,
                      const char *const *names, void **functions)
{
    const demist_host *host = device->host;
    const char *folder = device->settings.library_folder;
    void *object = load(device, soname);
    if (!object) {
        host->log(host, DEMIST_LOG_DEBUG, "%s is not used: it is not in %s", soname,
                  folder ? folder : "the loader's folders, nor in those of a CUDA toolkit");
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        functions[i] = dlsym(object, names[i]);
        if (functions[i])
            continue;
        host->log(host, DEMIST_LOG_WARNING, "%s is not used: it has no function %s", soname,
                  names[i]);
        dlclose(object);
        return NULL;
    }
    return object;
}

bool cu_has_library(const demist_device *device, const struct cu_library *library)
{
    for (int i = 0; i < CU_N_LIBRARIES; i++)
        if (libraries[i] == library)
            return device->libraries[i] != NULL;
    return false;
}

static void *opened_of(const demist_device *device, const struct cu_library *library)
{
    for (int i = 0; i < CU_N_LIBRARIES; i++)
        if (libraries[i] == library)
            return device->libraries[i];
    return NULL;
}

void cu_open_libraries(demist_device *device)
{
    if (device->libraries_opened || cu_use(device) != DEMIST_OK)
        return;
    device->libraries_opened = true;
    for (int i = 0; i < CU_N_LIBRARIES; i++) {
        device->libraries[i] = libraries[i]->open(device);
        if (!device->libraries[i])
            continue;
        const int version = libraries[i]->version(device->libraries[i]);
        const size_t length = strlen(device->key);
        snprintf(device->key + length, sizeof device->key - length, "\n%s %d", libraries[i]->name,
                 version);
        device->host->log(device->host, DEMIST_LOG_DEBUG, "%s %d.%d.%d is used where it is faster",
                          libraries[i]->name, version / 10000, version / 100 % 100, version % 100);
    }
}

void cu_close_libraries(demist_device *device)
{
    for (int i = 0; i < CU_N_LIBRARIES; i++)
        if (device->libraries[i])
            libraries[i]->close(device, device->libraries[i]);
}

/* --- what a chain begins with --- */

static bool is_bias(const struct cu_operand *o)
{
    return o->type == CU_F32 && o->stride[0] == 0 && o->stride[1] == 0 && o->stride[2] == 0 &&
           o->stride[3] == 1;
}

/* A value for each result, in its type. */
static bool is_added(const struct cu_product *p, const struct cu_operand *o)
{
    const bool several = p->rows > p->height * p->width;
    return o->type == p->y_type && o->stride[3] == 1 && (o->stride[0] != 0 || !several) &&
           (o->stride[1] != 0 || p->height == 1) && (o->stride[2] != 0 || p->width == 1) &&
           (several || p->height > 1 || p->width > 1);
}

static struct cu_epilogue read_epilogue(const struct cu_product *p)
{
    struct cu_epilogue e = {.bias = -1, .added = -1, .activation = CU_SET};
    int32_t k = 0;
    for (; k < p->after.n_code; k++) {
        const struct cu_instruction *in = &p->after.code[k];
        if (in->op != CU_ADD || in->from != CU_OPERAND)
            break;
        if (e.bias < 0 && is_bias(&p->operand[in->index]))
            e.bias = in->index;
        else if (e.added < 0 && is_added(p, &p->operand[in->index]))
            e.added = in->index;
        else
            break;
    }
    e.n_adds = k;
    if (k < p->after.n_code && p->after.code[k].op >= CU_NEG && p->after.code[k].op <= CU_GELU)
        e.activation = (enum cu_opcode)p->after.code[k].op;
    return e;
}

/* --- products --- */

static bool is_fixed(const demist_program *p, int32_t storage)
{
    const struct cu_storage *s = &p->storages[storage];
    return (s->place == CU_FIXED || s->place == CU_RAW) && !s->varies;
}

/* The value's elements in that type, one behind another, among the copies for libraries. */
static demist_status add_library_copy(demist_program *p, int32_t node, const demist_view *from,
                                      enum cu_type type, int32_t *storage)
{
    *storage = cu_new_storage(p, false, demist_view_elements(from), type);
    if (*storage < 0)
        return DEMIST_NO_MEMORY;
    const demist_view to = demist_view_dense(*storage, false, from->rank, from->shape);
    CU_TRY(cu_add_copy(p, node, &to, from));
    p->storages[*storage].place = CU_COPY;
    return DEMIST_OK;
}

bool cu_is_matrix_product(const struct cu_geometry *g, const struct cu_product *product)
{
    bool is = true;
    for (int i = 0; i < 2; i++)
        is = is && g->kernel[i] == 1 && g->before[i] == 0 && g->after[i] == 0 &&
             product->stride[i] == 1;
    return is;
}

demist_status cu_library_product(demist_program *p, int32_t node, const struct cu_product *product,
                                 const struct cu_product_draft *draft,
                                 struct cu_library_product **out)
{
    demist_device *device = p->device;
    const struct cu_epilogue e = read_epilogue(product);
    *out = NULL;
    if (!device->settings.tuning || device->settings.libraries == CU_LIBRARIES_OFF ||
        p->precision == DEMIST_PRECISION_STRICT || draft->geometry.kernel[0] < 1)
        return DEMIST_OK;
    cu_open_libraries(device);
    if (!cu_has_library(device, &cu_cublaslt) && !cu_has_library(device, &cu_cudnn))
        return DEMIST_OK;
    struct cu_library_product *l = cu_new(p, sizeof *l);
    if (!l)
        return DEMIST_NO_MEMORY;
    *l = (struct cu_library_product){
        .geometry = draft->geometry, .weights = -1, .bias = -1, .workspace = -1};
    if (!cu_is_matrix_product(&l->geometry, product)) {
        if (!cu_has_library(device, &cu_cudnn) || !is_fixed(p, draft->weights.storage))
            return DEMIST_OK;
        CU_TRY(add_library_copy(p, node, &draft->weights, cu_type_of(p, &draft->b), &l->weights));
    }
    if (e.bias >= 0 && product->y_type != CU_F32 && is_fixed(p, draft->operands[e.bias].storage)) {
        const int64_t columns = (int64_t)product->column_z * product->z_inner;
        demist_view bias = {.storage = draft->operands[e.bias].storage,
                            .offset = draft->operands[e.bias].offset,
                            .rank = 1,
                            .shape = {columns},
                            .stride = {1}};
        CU_TRY(add_library_copy(p, node, &bias, (enum cu_type)product->y_type, &l->bias));
    }
    *out = l;
    return DEMIST_OK;
}

/* Biases in another type than the result's, and none copied, are left to the pass behind. */
static struct cu_call_shape call_shape(const struct cu_library_product *l,
                                       const struct cu_product *product)
{
    struct cu_call_shape shape = {.product = *product,
                                  .geometry = l->geometry,
                                  .epilogue = read_epilogue(product),
                                  .packed = l->weights >= 0};
    if (shape.epilogue.bias >= 0 && product->y_type != CU_F32 && l->bias < 0)
        shape.epilogue = (struct cu_epilogue){.bias = -1, .added = -1, .activation = CU_SET};
    return shape;
}

/* What a call leaves of the chain is code with one more instruction and operand. */
static bool has_room_behind(const struct cu_product *p, int32_t taken)
{
    return taken == p->after.n_code ||
           (p->after.n_operands < CU_MAX_OPERANDS && p->after.n_code - taken < CU_MAX_CODE);
}

demist_status cu_find_calls(demist_program *p, struct cu_launch *l,
                            const struct cu_product *product, const char *text)
{
    struct cu_library_product *lib = l->library;
    demist_device *device = p->device;
    const struct cu_call_shape shape = call_shape(lib, product);
    lib->calls = cu_new(p, sizeof *lib->calls * CU_CALLS);
    if (!lib->calls)
        return DEMIST_NO_MEMORY;
    for (int i = 0; i < CU_N_LIBRARIES; i++)
        if (device->libraries[i] &&
            (!text || strncmp(text, libraries[i]->name, strlen(libraries[i]->name)) == 0))
            lib->n_calls += libraries[i]->find(device, device->libraries[i], &shape, text,
                                               lib->calls + lib->n_calls, CU_CALLS - lib->n_calls);
    for (int i = 0; i < lib->n_calls; i++) {
        struct cu_call *call = &lib->calls[i];
        if (has_room_behind(product, call->taken))
            continue;
        call->library->destroy(device, opened_of(device, call->library), call);
        lib->calls[i--] = lib->calls[--lib->n_calls];
    }
    return DEMIST_OK;
}

void cu_keep_call(demist_program *p, struct cu_launch *l, int chosen)
{
    struct cu_library_product *lib = l->library;
    for (int i = 0; i < lib->n_calls; i++) {
        struct cu_call *call = &lib->calls[i];
        if (i != chosen && call->plan)
            call->library->destroy(p->device, opened_of(p->device, call->library), call);
        if (i != chosen)
            call->plan = NULL;
    }
    lib->call = chosen >= 0 ? &lib->calls[chosen] : NULL;
}

/* --- running --- */

/* y = the chain's instructions from `first` on, of y. */
static void pass_behind(const struct cu_product *p, int32_t first, struct cu_map *m)
{
    const int32_t images = p->rows / (p->height * p->width), y = p->after.n_operands;
    const int32_t size[] = {p->z / p->z_inner, p->z_inner, images, p->height, p->width, p->columns};
    const int64_t y_stride[] = {p->y_z[0],      p->y_z[1],      p->y_stride[0],
                                p->y_stride[1], p->y_stride[2], 1};
    memset(m, 0, sizeof *m);
    m->y = p->y;
    m->y_type = p->y_type;
    m->n_axes = 6;
    memcpy(m->size, size, sizeof size);
    memcpy(m->y_stride, y_stride, sizeof y_stride);
    for (int32_t k = 0; k < p->after.n_operands; k++) {
        const struct cu_operand *o = &p->operand[k];
        const int64_t stride[] = {
            0, p->column_z * o->stride[3], o->stride[0], o->stride[1], o->stride[2], o->stride[3]};
        m->operand[k].at = o->at;
        m->operand[k].type = o->type;
        memcpy(m->operand[k].stride, stride, sizeof stride);
    }
    m->operand[y].at = p->y;
    m->operand[y].type = p->y_type;
    memcpy(m->operand[y].stride, y_stride, sizeof y_stride);
    m->code = p->after;
    m->code.n_operands = y + 1;
    m->code.n_code = p->after.n_code - first + 1;
    m->code.code[0] =
        (struct cu_instruction){.op = CU_SET, .from = CU_OPERAND, .index = (uint16_t)y};
    memcpy(m->code.code + 1, p->after.code + first,
           sizeof *m->code.code * (size_t)(p->after.n_code - first));
}

static const void *copy_at(int32_t storage, char *const *bases)
{
    return storage >= 0 ? bases[storage] : NULL;
}

demist_status cu_run_call(const demist_program *p, cudaStream_t stream, const struct cu_launch *l,
                          const struct cu_call *call, const struct cu_product *product,
                          char *const *bases)
{
    const struct cu_library_product *lib = l->library;
    const struct cu_epilogue e = read_epilogue(product);
    const struct cu_call_memory memory = {
        .a = product->a,
        .b = product->b,
        .weights = copy_at(lib->weights, bases),
        .bias = lib->bias >= 0 ? copy_at(lib->bias, bases)
                : e.bias >= 0  ? product->operand[e.bias].at
                               : NULL,
        .added = e.added >= 0 ? product->operand[e.added].at : NULL,
        .y = product->y,
        .workspace = lib->workspace >= 0 ? bases[lib->workspace] : NULL,
    };
    demist_device *device = p->device;
    CU_TRY(call->library->run(device, opened_of(device, call->library), call, &memory, stream));
    if (call->taken == product->after.n_code)
        return DEMIST_OK;
    struct cu_map map;
    pass_behind(product, call->taken, &map);
    CU_CALL(device, cu_run_map(stream, &map));
    return DEMIST_OK;
}

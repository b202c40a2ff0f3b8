/* Programs: a file of kernels/ behind generated definitions, built for the device on first use or
 * loaded from the cache, and kept until the device is closed. */
#include "ocl_device.h"

#include <string.h>

static const char *find_source(const char *name)
{
    for (const struct ocl_source *s = ocl_sources; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s->text;
    return NULL;
}

/* What every program starts with: the device's properties, then the helpers and the mathematics
 * once for scalars (suffix s) and once for vectors (suffix v). */
enum { N_PARTS = 9 };

static void collect_parts(const demist_device *d, const char *source, const char *before,
                          char *defines, size_t size, const char **parts)
{
    snprintf(defines, size, "#pragma OPENCL FP_CONTRACT OFF\n#define VECTOR %d\n#define %s 1\n%s%s",
             d->vector, d->style == OCL_WIDE ? "WIDE" : "TILED",
             d->fma ? "#define FAST_FMA 1\n" : "",
             d->fp64 ? "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n#define FP64 1\n" : "");
    const char *all[N_PARTS] = {
        defines,
        find_source("common.cl"),
        "#define T float\n#define I int\n#define F(name) name##_s\n",
        find_source("math.cl"),
        "#undef T\n#undef I\n#undef F\n#define T VT\n#define I VI\n#define F(name) name##_v\n",
        find_source("math.cl"),
        "#undef T\n#undef I\n#undef F\n#line 1 \"generated\"\n",
        before ? before : "",
        find_source(source),
    };
    memcpy(parts, all, sizeof all);
}

static cl_program load_binary(demist_device *d, const uint64_t hash[2])
{
    size_t bytes = 0;
    cl_int error = CL_SUCCESS, loaded = CL_SUCCESS;
    unsigned char *data = demist_cache_load(d->cache, "program", d->key, hash, &bytes);
    if (!data)
        return NULL;
    const unsigned char *const_data = data;
    cl_program program =
        clCreateProgramWithBinary(d->context, 1, &d->id, &bytes, &const_data, &loaded, &error);
    d->host->free(d->host, data);
    if (error == CL_SUCCESS && loaded == CL_SUCCESS &&
        (error = clBuildProgram(program, 1, &d->id, d->settings.build_options, NULL, NULL)) ==
            CL_SUCCESS)
        return program;
    d->host->log(d->host, DEMIST_LOG_DEBUG, "a cached program is not used: %s",
                 ocl_error_name(error));
    if (program)
        clReleaseProgram(program);
    return NULL;
}

static void store_binary(demist_device *d, cl_program program, const uint64_t hash[2])
{
    size_t bytes = 0;
    if (!d->cache ||
        clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof bytes, &bytes, NULL) !=
            CL_SUCCESS ||
        bytes == 0)
        return;
    unsigned char *data = d->host->alloc(d->host, bytes, 0);
    if (data && clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof(unsigned char *), &data,
                                 NULL) == CL_SUCCESS)
        demist_cache_store(d->cache, "program", d->key, hash, data, bytes);
    d->host->free(d->host, data);
}

/* The first lines of what the compiler said. */
static demist_status build_failed(demist_device *d, cl_program program, const char *source,
                                  cl_int error)
{
    char log[16384] = "";
    size_t n = 0;
    clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, &n);
    int lines = 0;
    char *at = log;
    while (*at && lines < 6 && at - log < 900)
        lines += *at++ == '\n';
    *at = '\0';
    while (at > log && (at[-1] == '\n' || at[-1] == ' '))
        *--at = '\0';
    return d->host->fail(d->host, DEMIST_DEVICE,
                         "%s (%s): building %s failed: %s\n%s\nA newer driver may help; please "
                         "report it otherwise",
                         d->info->name, d->info->driver, source, ocl_error_name(error),
                         log[0] ? log : "(the compiler said nothing)");
}

static demist_status build_source(demist_device *d, const char *source, const char *const *parts,
                                  cl_program *program)
{
    cl_int error = CL_SUCCESS;
    const char *const_parts[N_PARTS];
    memcpy(const_parts, parts, sizeof const_parts);
    if (d->says_compiling) {
        d->host->log(d->host, DEMIST_LOG_NOTICE, "compiling kernels for %s; %s", d->info->name,
                     d->cache ? "this happens once" : "the cache is off");
        d->says_compiling = false;
    }
    *program = clCreateProgramWithSource(d->context, N_PARTS, const_parts, NULL, &error);
    if (error != CL_SUCCESS)
        return ocl_fail(d, "clCreateProgramWithSource", error);
    error = clBuildProgram(*program, 1, &d->id, d->settings.build_options, NULL, NULL);
    if (error == CL_SUCCESS)
        return DEMIST_OK;
    const demist_status status = build_failed(d, *program, source, error);
    clReleaseProgram(*program);
    return status;
}

static struct ocl_built *find_built(const demist_device *d, const uint64_t hash[2])
{
    for (struct ocl_built *b = d->built; b; b = b->next)
        if (b->hash[0] == hash[0] && b->hash[1] == hash[1])
            return b;
    return NULL;
}

static demist_status build(demist_device *d, const char *source, const char *before,
                           struct ocl_built **built)
{
    const char *parts[N_PARTS];
    char defines[512];
    const char *options = d->settings.build_options;
    uint64_t hash[2] = {demist_hash(3, options, strlen(options)), 4};
    collect_parts(d, source, before, defines, sizeof defines, parts);
    for (int i = 0; i < N_PARTS; i++)
        for (int k = 0; k < 2; k++)
            hash[k] = demist_hash(hash[k], parts[i], strlen(parts[i]));
    if ((*built = find_built(d, hash)))
        return DEMIST_OK;
    struct ocl_built *b = d->host->alloc(d->host, sizeof *b, 0);
    if (!b)
        return DEMIST_NO_MEMORY;
    *b = (struct ocl_built){.hash = {hash[0], hash[1]}};
    b->program = load_binary(d, hash);
    if (!b->program) {
        const demist_status status = build_source(d, source, parts, &b->program);
        if (status != DEMIST_OK) {
            d->host->free(d->host, b);
            return status;
        }
        store_binary(d, b->program, hash);
    }
    b->next = d->built;
    d->built = *built = b;
    return DEMIST_OK;
}

demist_status ocl_kernel(demist_device *d, const char *source, const char *before, const char *name,
                         cl_kernel *kernel)
{
    struct ocl_built *b;
    cl_int error = CL_SUCCESS;
    OCL_TRY(build(d, source, before, &b));
    for (struct ocl_kernel *k = b->kernels; k; k = k->next)
        if (strcmp(k->name, name) == 0) {
            *kernel = k->kernel;
            return DEMIST_OK;
        }
    struct ocl_kernel *k = d->host->alloc(d->host, sizeof *k, 0);
    if (!k)
        return DEMIST_NO_MEMORY;
    *k = (struct ocl_kernel){.next = b->kernels};
    snprintf(k->name, sizeof k->name, "%s", name);
    k->kernel = clCreateKernel(b->program, name, &error);
    if (error != CL_SUCCESS) {
        d->host->free(d->host, k);
        return ocl_fail(d, "clCreateKernel", error);
    }
    b->kernels = k;
    *kernel = k->kernel;
    return DEMIST_OK;
}

void ocl_release_kernels(demist_device *d)
{
    for (struct ocl_built *b = d->built, *next; b; b = next) {
        next = b->next;
        for (struct ocl_kernel *k = b->kernels, *following; k; k = following) {
            following = k->next;
            clReleaseKernel(k->kernel);
            d->host->free(d->host, k);
        }
        clReleaseProgram(b->program);
        d->host->free(d->host, b);
    }
    d->built = NULL;
}

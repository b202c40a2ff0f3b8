/* Failures of CUDA calls as messages: which call, which error, where, and what can be done. */
#include "cuda_backend.h"

#include <inttypes.h>
#include <string.h>

/* "cudaMalloc" of "cudaMalloc(&memory, bytes)" */
static int name_length(const char *call)
{
    return (int)strcspn(call, "(");
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* After these the context is of no use any more: nothing but a new process helps. */
static bool is_sticky(cudaError_t error)
{
    return error == cudaErrorIllegalAddress || error == cudaErrorLaunchTimeout ||
           error == cudaErrorHardwareStackError || error == cudaErrorIllegalInstruction ||
           error == cudaErrorMisalignedAddress || error == cudaErrorInvalidAddressSpace ||
           error == cudaErrorInvalidPc || error == cudaErrorLaunchFailure ||
           error == cudaErrorECCUncorrectable || error == cudaErrorAssert;
}

static const char *advice(cudaError_t error)
{
    if (error == cudaErrorMemoryAllocation)
        return ": the device is out of memory; lower the batch or close what else uses it";
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
        error == cudaErrorUnsupportedPtxVersion)
        return ": this build has no code for the device; build with its capability in "
               "-Dnvidia_arch";
    if (error == cudaErrorInsufficientDriver)
        return ": the driver is missing, or older than the CUDA version of this build";
    if (is_sticky(error))
        return ": the device cannot go on in this process; compute-sanitizer tells more";
    return "";
}

demist_status cu_checked(const demist_device *device, cudaError_t error, const char *call,
                         const char *file, int line, const char *what)
{
    if (error == cudaSuccess)
        return DEMIST_OK;
    cudaGetLastError(); /* what can be forgotten is not to fail the next call, too */
    return device->host->fail(
        device->host, error == cudaErrorMemoryAllocation ? DEMIST_NO_MEMORY : DEMIST_DEVICE,
        "%s: %s%s%.*s failed: %s (%d, %s) at %s:%d%s", device->info->name, what ? what : "",
        what ? ": " : "", name_length(call), call, cudaGetErrorName(error), (int)error,
        cudaGetErrorString(error), base_name(file), line, advice(error));
}

static demist_status no_memory(const demist_device *device, int64_t bytes, const char *what,
                               int64_t per_image, int64_t max_batch)
{
    const demist_host *host = device->host;
    size_t left = 0, all = 0;
    if (cudaMemGetInfo(&left, &all) != cudaSuccess)
        cudaGetLastError();
    const int64_t fixed = bytes - per_image * max_batch;
    const int64_t fits = per_image > 0 ? ((int64_t)left - fixed) / per_image : 0;
    if (per_image <= 0)
        return host->fail(host, DEMIST_NO_MEMORY,
                          "%s: no memory for %s: %" PRId64 " bytes asked for, %zu of %zu are free; "
                          "lower the batch or close what else uses the device",
                          device->info->name, what, bytes, left, all);
    if (fits < 1)
        return host->fail(host, DEMIST_NO_MEMORY,
                          "%s: no memory for %s: %" PRId64 " bytes asked for, %zu of %zu are free, "
                          "too few for a batch of 1, which takes %" PRId64
                          ": close what else uses the device",
                          device->info->name, what, bytes, left, all, fixed + per_image);
    return host->fail(host, DEMIST_NO_MEMORY,
                      "%s: no memory for %s: %" PRId64 " bytes asked for, %zu of %zu are free; a "
                      "batch of about %" PRId64 " fits",
                      device->info->name, what, bytes, left, all,
                      fits < max_batch ? fits : max_batch - 1);
}

demist_status cu_new_memory(const demist_device *device, int64_t bytes, const char *what,
                            int64_t per_image, int64_t max_batch, void **memory)
{
    *memory = NULL;
    CU_TRY(cu_use(device));
    const cudaError_t error = cudaMalloc(memory, bytes > 0 ? (size_t)bytes : 1);
    if (error == cudaSuccess)
        return DEMIST_OK;
    *memory = NULL;
    if (error != cudaErrorMemoryAllocation)
        return cu_checked(device, error, "cudaMalloc", __FILE__, __LINE__, what);
    cudaGetLastError();
    return no_memory(device, bytes, what, per_image, max_batch);
}

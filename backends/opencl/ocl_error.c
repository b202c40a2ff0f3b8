/* Names of OpenCL's errors, and messages that say what to do about them. */
#include "ocl_device.h"

#include <inttypes.h>

const char *ocl_error_name(cl_int error)
{
    static const struct {
        cl_int error;
        const char *name;
    } names[] = {
#define NAME(error) {error, #error}
        NAME(CL_DEVICE_NOT_FOUND),
        NAME(CL_DEVICE_NOT_AVAILABLE),
        NAME(CL_COMPILER_NOT_AVAILABLE),
        NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE),
        NAME(CL_OUT_OF_RESOURCES),
        NAME(CL_OUT_OF_HOST_MEMORY),
        NAME(CL_MEM_COPY_OVERLAP),
        NAME(CL_BUILD_PROGRAM_FAILURE),
        NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST),
        NAME(CL_INVALID_VALUE),
        NAME(CL_INVALID_DEVICE),
        NAME(CL_INVALID_CONTEXT),
        NAME(CL_INVALID_COMMAND_QUEUE),
        NAME(CL_INVALID_MEM_OBJECT),
        NAME(CL_INVALID_BINARY),
        NAME(CL_INVALID_BUILD_OPTIONS),
        NAME(CL_INVALID_PROGRAM),
        NAME(CL_INVALID_PROGRAM_EXECUTABLE),
        NAME(CL_INVALID_KERNEL_NAME),
        NAME(CL_INVALID_KERNEL),
        NAME(CL_INVALID_ARG_INDEX),
        NAME(CL_INVALID_ARG_VALUE),
        NAME(CL_INVALID_ARG_SIZE),
        NAME(CL_INVALID_KERNEL_ARGS),
        NAME(CL_INVALID_WORK_DIMENSION),
        NAME(CL_INVALID_WORK_GROUP_SIZE),
        NAME(CL_INVALID_WORK_ITEM_SIZE),
        NAME(CL_INVALID_GLOBAL_OFFSET),
        NAME(CL_INVALID_EVENT),
        NAME(CL_INVALID_OPERATION),
        NAME(CL_INVALID_BUFFER_SIZE),
        NAME(CL_INVALID_GLOBAL_WORK_SIZE),
#undef NAME
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].error == error)
            return names[i].name;
    return "an error of its vendor's own";
}

demist_status ocl_fail(demist_device *device, const char *call, cl_int error)
{
    const demist_host *host = device->host;
    const char *device_name = device->info->name, *name = ocl_error_name(error);
    switch (error) {
    case CL_OUT_OF_HOST_MEMORY:
        return host->fail(host, DEMIST_NO_MEMORY, "%s: %s failed: %s", device_name, call, name);
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
        return host->fail(host, DEMIST_NO_MEMORY,
                          "%s: %s failed: %s: the device is out of memory; lower the batch or "
                          "close what else uses it",
                          device_name, call, name);
    case CL_OUT_OF_RESOURCES:
    case CL_DEVICE_NOT_AVAILABLE:
        return host->fail(host, DEMIST_DEVICE,
                          "%s: %s failed: %s: the device was lost, reset, or ran out of "
                          "resources; lower the batch, look at the system's log, and try again",
                          device_name, call, name);
    default:
        return host->fail(host, DEMIST_DEVICE, "%s: %s failed: %s (%d)", device_name, call, name,
                          (int)error);
    }
}

demist_status ocl_new_memory(demist_device *device, int64_t bytes, const char *what, cl_mem *memory)
{
    const demist_host *host = device->host;
    cl_int error = CL_SUCCESS;
    *memory = NULL;
    if (bytes > device->max_allocation - OCL_SLACK)
        return host->fail(host, DEMIST_NO_MEMORY,
                          "%s: %" PRId64 " bytes for %s are more than one buffer can have there "
                          "(%" PRId64 "): lower the batch",
                          device->info->name, bytes, what, device->max_allocation);
    *memory =
        clCreateBuffer(device->context, CL_MEM_READ_WRITE, (size_t)bytes + OCL_SLACK, NULL, &error);
    if (error == CL_SUCCESS)
        return DEMIST_OK;
    *memory = NULL;
    return host->fail(host,
                      error == CL_MEM_OBJECT_ALLOCATION_FAILURE || error == CL_OUT_OF_HOST_MEMORY ||
                              error == CL_OUT_OF_RESOURCES
                          ? DEMIST_NO_MEMORY
                          : DEMIST_DEVICE,
                      "%s: no memory for %s: %" PRId64 " bytes wanted: %s; lower the batch or "
                      "close what else uses the device",
                      device->info->name, what, bytes, ocl_error_name(error));
}

/* A stand-in for cuDNN's header, of this project's own writing: the part of the backend API that
 * backends/cuda uses. Enumerations are plain ints, which they are in the library's ABI. */
#ifndef CUDA_EMULATOR_CUDNN_H
#define CUDA_EMULATOR_CUDNN_H

#include "cuda_runtime_api.h"
#include "emulated_cudnn_numbers.h"

#define CUDNN_MAJOR 9

#ifdef __cplusplus
extern "C" {
#endif

enum {
#define EMULATED_NUMBER(name, number) name = number,
    EMULATED_CUDNN_NUMBERS(EMULATED_NUMBER)
#undef EMULATED_NUMBER
};
typedef int cudnnStatus_t, cudnnDataType_t, cudnnConvolutionMode_t, cudnnPointwiseMode_t,
    cudnnBackendDescriptorType_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t,
    cudnnBackendNumericalNote_t, cudnnBackendHeurMode_t, cudnnBackendKnobType_t;

typedef struct cudnnContext *cudnnHandle_t;
typedef void *cudnnBackendDescriptor_t;

size_t cudnnGetVersion(void);
const char *cudnnGetErrorString(cudnnStatus_t status);
void cudnnGetLastErrorString(char *message, size_t size);
cudnnStatus_t cudnnCreate(cudnnHandle_t *handle);
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle);
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream);
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *descriptor);
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor);
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n,
                                       const void *values);
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t most, int64_t *n,
                                       void *values);
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor);
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack);

#ifdef __cplusplus
}
#endif
#endif

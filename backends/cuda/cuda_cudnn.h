/* Operation graphs and plans of cuDNN, for cuda_cudnn.c and for the test that shows them to the
 * library itself, which checks them without a GPU too. */
#ifndef CUDA_CUDNN_H
#define CUDA_CUDNN_H

#include "cuda_library.h"

#ifdef CU_HAVE_CUDNN
#include <cudnn.h>

enum { CU_CUDNN_DESCRIPTORS = 112 }; /* of a graph and all that is made from it */

/* Attributes for a device that is only described: of cuDNN 9.8, for whose headers nothing else
 * asks. */
enum {
    CU_CUDNN_HEURISTICS_DEVICE = 204,
    CU_CUDNN_PLAN_DEVICE = 407,
    CU_CUDNN_ENGINE_DEVICE = 1307,
};

#define CU_CUDNN_FUNCTIONS(X)                                                                      \
    X(cudnnGetVersion)                                                                             \
    X(cudnnGetErrorString)                                                                         \
    X(cudnnGetLastErrorString)                                                                     \
    X(cudnnCreate)                                                                                 \
    X(cudnnDestroy)                                                                                \
    X(cudnnSetStream)                                                                              \
    X(cudnnBackendCreateDescriptor)                                                                \
    X(cudnnBackendDestroyDescriptor)                                                               \
    X(cudnnBackendSetAttribute)                                                                    \
    X(cudnnBackendGetAttribute)                                                                    \
    X(cudnnBackendFinalize)                                                                        \
    X(cudnnBackendExecute)

struct cu_cudnn {
#define CU_DECLARE(name) __typeof__(name) *name;
    CU_CUDNN_FUNCTIONS(CU_DECLARE)
#undef CU_DECLARE
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t device; /* instead of a handle: a device that is only described */
    size_t version;
};

/* How much of the chain behind is in the graph. */
enum cu_cudnn_fused { CU_CUDNN_ALONE, CU_CUDNN_ADDS, CU_CUDNN_ACTIVATION };

/* A graph with its descriptors. After a failure no further call is made. */
struct cu_cudnn_graph {
    const struct cu_cudnn *dnn;
    cudnnStatus_t status;
    const char *call; /* that failed */
    int line;
    int n;
    cudnnBackendDescriptor_t all[CU_CUDNN_DESCRIPTORS], graph, plan;
    enum cu_cudnn_fused fused;
    int64_t workspace; /* bytes, of the plan */
};

/* Finds the functions, and the version that this was built for; logs what is wrong. */
bool cu_cudnn_load(const demist_device *device, struct cu_cudnn *dnn);
/* The operation graph. Finish it whether or not status says success. */
void cu_cudnn_build(struct cu_cudnn_graph *g, const struct cu_cudnn *dnn,
                    const struct cu_call_shape *shape, enum cu_cudnn_fused fused);
/* Texts of up to `most` engines that may be used, the likeliest to be fast first. */
int cu_cudnn_suggest(const demist_device *device, const struct cu_cudnn *dnn,
                     const struct cu_call_shape *shape, enum cu_cudnn_fused fused, int most,
                     char (*texts)[CU_CALL_TEXT]);
/* The graph with the plan of a text; false: refused, status says why. */
bool cu_cudnn_plan(struct cu_cudnn_graph *g, const struct cu_cudnn *dnn,
                   const struct cu_call_shape *shape, const char *text);
void cu_cudnn_finish(struct cu_cudnn_graph *g);

#endif
#endif

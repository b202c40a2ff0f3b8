/* Vendor libraries, cuBLASLt and cuDNN, as further ways to compute a product.
 *
 * They are opened at run time, and nothing of them is linked: where one is absent, or too old, or
 * lacks a function, own kernels compute everything. A call is one algorithm of a library for one
 * product of the program's largest batch; executions of fewer images take the own kernel. A call
 * computes the product and as much of the chain behind as the library can fuse; what is left is a
 * pass over the result. */
#ifndef CUDA_LIBRARY_H
#define CUDA_LIBRARY_H

#include "cuda_program.h"

enum {
    CU_CALLS = 8,            /* that are measured for one product, of all libraries */
    CU_WORKSPACE = 32 << 20, /* bytes that a call may ask for */
    CU_CALL_TEXT = 256,
};

/* The adds and the activation that a chain begins with. */
struct cu_epilogue {
    int32_t bias;   /* operand: one float for each column, −1: none */
    int32_t added;  /* operand: a value of the result's type for each result, −1: none */
    int32_t n_adds; /* instructions of these */
    enum cu_opcode activation; /* the instruction behind; CU_SET: another one, or none */
};

/* A product as of the largest batch. */
struct cu_call_shape {
    struct cu_product product; /* pointers: offsets in their storages, bytes */
    struct cu_geometry geometry;
    struct cu_epilogue epilogue;
    bool packed; /* there are weights as [columns][tap][depth] */
};

/* What a call works on. */
struct cu_call_memory {
    const void *a, *b, *weights, *bias, *added;
    void *y, *workspace;
};

struct cu_call {
    const struct cu_library *library;
    void *plan;              /* the library's descriptors, and what else its run wants */
    char text[CU_CALL_TEXT]; /* library, version, algorithm: the plan can be made again from it */
    int64_t workspace;       /* bytes */
    int32_t taken;           /* instructions of the chain that the call computes */
    bool uses_weights, uses_bias, uses_added;
};

/* A vendor library, of which a device has one opened. */
struct cu_library {
    const char *name; /* "cuBLASLt" */
    /* Opens it; NULL: it is not there or cannot be used, which has been logged. */
    void *(*open)(demist_device *device);
    void (*close)(demist_device *device, void *opened);
    int (*version)(const void *opened); /* major·10000 + minor·100 + patch */
    /* Up to `most` calls for the product, the likeliest to be fast first; text: only the one of
     * that text. What the library refuses is logged for debugging. */
    int (*find)(demist_device *device, void *opened, const struct cu_call_shape *shape,
                const char *text, struct cu_call *calls, int most);
    demist_status (*run)(demist_device *device, void *opened, const struct cu_call *call,
                         const struct cu_call_memory *memory, cudaStream_t stream);
    void (*destroy)(demist_device *device, void *opened, struct cu_call *call);
};

extern const struct cu_library cu_cublaslt; /* cuda_cublaslt.c */
extern const struct cu_library cu_cudnn;    /* cuda_cudnn.c */

/* --- opening (cuda_library.c) --- */

/* Opens both and completes device->key with their versions, once. */
void cu_open_libraries(demist_device *device);
void cu_close_libraries(demist_device *device);
bool cu_has_library(const demist_device *device, const struct cu_library *library);

/* Loads the shared object of that soname and looks up n functions: names[i] -> functions[i]. The
 * folder of the option `library_folder`, or else where the system's loader looks, then the toolkit
 * that the backend was built with, then /usr/local/cuda. NULL: logged. A library that was used
 * stays loaded, as its threads and what it registered may outlive a device. */
void *cu_load_library(const demist_device *device, const char *soname, int n,
                      const char *const *names, void **functions);

/* --- products (cuda_library.c) --- */

/* Whether each row of y comes from the row of a in its place. */
bool cu_is_matrix_product(const struct cu_geometry *g, const struct cu_product *product);
/* What libraries could need for this call: weights in cuDNN's order, a bias in the result's type.
 * NULL with DEMIST_OK: nothing, or no library. `product` has its types. */
demist_status cu_library_product(demist_program *p, int32_t node, const struct cu_product *product,
                                 const struct cu_product_draft *draft,
                                 struct cu_library_product **out);
/* Finds the calls of the product's launch, once; text: only the one of that text. */
demist_status cu_find_calls(demist_program *p, struct cu_launch *l, const struct cu_product *shape,
                            const char *text);
/* Only the chosen one of its calls, or none, stays. */
void cu_keep_call(demist_program *p, struct cu_launch *l, int chosen);
/* Queues the call and the pass behind it; `product` has its addresses. */
demist_status cu_run_call(const demist_program *p, cudaStream_t stream, const struct cu_launch *l,
                          const struct cu_call *call, const struct cu_product *product,
                          char *const *bases);

#endif

/* The emulator's numbers of cuBLASLt and cuDNN are those of the libraries' own headers: nothing to
 * run, it compiles or it does not. */
#include "include/emulated_cublaslt_numbers.h"
#include "include/emulated_cudnn_numbers.h"

#define SAME(name, number) _Static_assert((long long)(name) == (number), #name);
#ifdef CU_HAVE_CUBLASLT
#include <cublasLt.h>
EMULATED_CUBLASLT_NUMBERS(SAME)
_Static_assert(sizeof(cublasLtMatmulAlgo_t) == 64, "an algorithm is 64 bytes");
#endif
#ifdef CU_HAVE_CUDNN
#include <cudnn.h>
EMULATED_CUDNN_NUMBERS(SAME)
#endif

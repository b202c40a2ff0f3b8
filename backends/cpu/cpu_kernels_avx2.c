/* The kernels for AVX2 and FMA. */
#define CPU_LEVEL_AVX2 1
#define CPU_LEVEL_NAME "avx2"
#define CPU_KERNELS cpu_kernels_avx2
#define CPU_ROWS 6
#include "cpu_kernel_body.h"

/* The kernels for AVX-512 F, BW, DQ, VL. */
#define CPU_LEVEL_AVX512 1
#define CPU_LEVEL_NAME "avx512"
#define CPU_KERNELS cpu_kernels_avx512
#define CPU_ROWS 14
#include "cpu_kernel_body.h"

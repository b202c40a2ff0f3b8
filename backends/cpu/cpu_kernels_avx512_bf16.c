/* The kernels for AVX-512 F, BW, DQ, VL and BF16. */
#define CPU_LEVEL_AVX512 1
#define CPU_LEVEL_BF16 1
#define CPU_LEVEL_NAME "avx512-bf16"
#define CPU_KERNELS cpu_kernels_avx512_bf16
#define CPU_ROWS 14
#include "cpu_kernel_body.h"

/* The kernels for AVX-512 F, BW, DQ, VL and BF16; beside them the AMX level, which adds tiles. */
#define CPU_LEVEL_AVX512 1
#define CPU_LEVEL_BF16 1
#define CPU_LEVEL_NAME "avx512-bf16"
#define CPU_KERNELS cpu_kernels_avx512_bf16
#define CPU_ROWS 14
#include "cpu_kernel_body.h"

#if defined(__x86_64__)
const struct cpu_kernels cpu_kernels_amx = {
    .name = "amx", .tiles = &cpu_tiles_amx, CPU_KERNEL_TABLE};
#endif

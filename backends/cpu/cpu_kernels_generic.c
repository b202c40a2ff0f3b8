/* The kernels for the compiler's vectors, for every architecture. */
#define CPU_LEVEL_NAME "generic"
#define CPU_KERNELS cpu_kernels_generic
#define CPU_ROWS 6
#include "cpu_kernel_body.h"

/* The AMX level's code on any machine. */
const struct cpu_kernels cpu_kernels_amx_emulated = {
    .name = "amx-emulated", .tiles = &cpu_tiles_plain, CPU_KERNEL_TABLE};

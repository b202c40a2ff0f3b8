/* Tile products with AMX-TILE and AMX-BF16. */
#define CPU_TILE_INSTRUCTIONS 1
#define CPU_TILES cpu_tiles_amx
#include "cpu_tile_kernel.h"

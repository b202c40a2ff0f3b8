/* Tile products in plain C: slow, to test on any machine what is built on tiles. */
#define CPU_TILES cpu_tiles_plain
#include "cpu_tile_kernel.h"

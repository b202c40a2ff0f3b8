/* The keyed generator: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
 * 1, 2, 3") with Box-Muller in this project's own float64 functions.
 *
 * Element e of a stream is word e mod 4 of
 *     philox(counter = (e/4, draw, purpose, image), key = (seed low, seed high)),
 * so that any range of any stream can be made alone, with the same bits everywhere.
 *
 * Image, draw and e/4 are 32-bit counter words. Wider numbers would repeat other streams: callers
 * that hold 64-bit ones refuse them through dm_philox_check; elements from 2^34 on, which only a
 * caller that did not ask can reach, are NaN. */
#ifndef DM_PHILOX_H
#define DM_PHILOX_H

#include <demist/random.h>

#include "error.h"

#define DM_PHILOX_MAX_ELEMENTS (UINT64_C(1) << 34)

/* One block of four random words. [any thread] */
void dm_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* out[i] = element first + i, i = 0 … n-1. u = (r + 1/2) 2^-32; the normals are
 * (z0, z1) = sqrt(-2 ln u0) (cos 2 pi u1, sin 2 pi u1) from words 0 and 1, (z2, z3) alike from 2
 * and 3, in float64, rounded to float32. |z| < 6.8. [any thread] */
void dm_philox_normal(uint64_t seed, uint32_t image, uint32_t purpose, uint32_t draw,
                      uint64_t first, size_t n, float *out);

/* u itself, rounded to float32: in (0, 1], 1 once in 2^25 draws. [any thread] */
void dm_philox_uniform(uint64_t seed, uint32_t image, uint32_t purpose, uint32_t draw,
                       uint64_t first, size_t n, float *out);

/* INVALID with what is too large and its limit unless image < 2^32, draw < 2^32 and
 * elements <= 2^34. */
demist_status dm_philox_check(uint64_t image, uint64_t draw, uint64_t elements,
                              struct dm_error *err);

/* What host->extension(host, DEMIST_EXT_PHILOX) returns. */
extern const demist_philox dm_philox_extension;

#endif

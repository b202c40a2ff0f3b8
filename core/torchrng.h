/* PyTorch's CPU generator, bit for bit: what torch.manual_seed(s) followed by randn, rand and
 * randint gives in one process on x86 with AVX2 or AVX-512 (checked with PyTorch 2.x; its scalar
 * path gives other last bits).
 *
 * The stream depends on the sizes of all calls before: unlike philox.h it cannot be split over
 * batches, threads or ranks. The state is a plain struct; copying it forks the stream. */
#ifndef DM_TORCHRNG_H
#define DM_TORCHRNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dm_torch_rng {
    uint32_t mt[624]; /* mt19937 */
    int used;         /* words of mt handed out, 624: make new ones */
    bool has_spare;   /* the second normal of the pair that a small randn began */
    double spare;
};

/* torch.manual_seed(seed): the state is mt19937's for seed mod 2^32. */
void dm_torch_seed(struct dm_torch_rng *rng, uint64_t seed);

/* torch.randn, float32, of n elements in all. n >= 16 and n < 16 are different algorithms. */
void dm_torch_randn(struct dm_torch_rng *rng, size_t n, float *out);

/* torch.rand, float32: multiples of 2^-24 in [0, 1). */
void dm_torch_rand(struct dm_torch_rng *rng, size_t n, float *out);

/* torch.randint(low, high), int64, low < high (asserted): in [low, high). */
void dm_torch_randint(struct dm_torch_rng *rng, int64_t low, int64_t high, size_t n, int64_t *out);

#endif

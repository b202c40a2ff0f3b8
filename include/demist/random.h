/* The keyed generator: every random number is a function of (seed, image, purpose, draw number,
 * element), whatever the batch, the device, the threads or the ranks. docs/noise.md has the
 * numbers. */
#ifndef DEMIST_RANDOM_H
#define DEMIST_RANDOM_H

#include <demist/abi.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The second-to-last counter word. Numbers are part of what makes images repeatable: they never
 * change and are only appended. Plugins of one's own use 256 and above. */
typedef enum demist_noise_purpose {
    DEMIST_NOISE_INITIAL = 0, /* x_T */
    DEMIST_NOISE_STEP = 1,    /* a sampler's draws */
    DEMIST_NOISE_DROPOUT = 2,
    DEMIST_NOISE_TIME = 3, /* the choice of t in training and likelihood */
    DEMIST_NOISE_DATA = 4, /* shuffling, flips, q(x_t|x_0) */
    DEMIST_NOISE_LABEL = 5,
    DEMIST_NOISE_NETWORK = 6, /* draws that belong to a network, per call */
    DEMIST_NOISE_PLUGIN = 256,
} demist_noise_purpose;

/* host->extension(host, DEMIST_EXT_PHILOX): the generator itself, for backends that compute on
 * the CPU. Element e of the stream goes to out[e − first]. [any thread] */
#define DEMIST_EXT_PHILOX "demist.philox/1"

typedef struct demist_philox {
    size_t size;
    /* Standard normals. */
    void (*normal)(uint64_t seed, uint32_t image, uint32_t purpose, uint32_t draw, uint64_t first,
                   size_t n, float *out);
    /* (r + ½)·2⁻³², rounded to float32: in (0, 1]. */
    void (*uniform)(uint64_t seed, uint32_t image, uint32_t purpose, uint32_t draw, uint64_t first,
                    size_t n, float *out);
} demist_philox;

#ifdef __cplusplus
}
#endif
#endif

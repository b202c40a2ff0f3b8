/* An adaptive sampler, in which each image walks at its own pace. */
#ifndef ADAPTIVE_SAMPLER_H
#define ADAPTIVE_SAMPLER_H

#include <demist/sampler.h>

extern const demist_option *const adaptive_options[];
extern const demist_sampler_vtable adaptive_vtable;

/* Steps that each image took in the last call of sample, [n_images]. For the test. */
const int *adaptive_steps(const void *self);

#endif

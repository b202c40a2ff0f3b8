/* A network whose answer is known in closed form: the ε of a Gaussian mixture under the linear
 * schedule of 1000 steps, built from ordinary ops, so that a sampler can be checked exactly. */
#ifndef MIXTURE_H
#define MIXTURE_H

#include <demist/network.h>

enum { MIXTURE_T = 1000 };

/* Class network mixture. Its checkpoint holds weights [K], means [K,2] and stddevs [K]; other
 * tensors are ignored. [network.mixture] predict = eps | x0 | v | mean, learned = none | range |
 * logvar (the second half of the output is then row t of the tensor second [T,1], or zero without
 * it), poison = true (the output is NaN at t < 500), low (of the range [low, 1] that it claims),
 * stride (mean: that of the process which visits every stride-th t). */
extern const demist_plugin mixture_plugin;

/* Writes such a checkpoint: three components, well apart, or the first of them alone (a Gaussian).
 * Returns a path to unlink and free. */
char *mixture_checkpoint(int components);

/* The same for a Gaussian; second [T], or NULL. */
char *mixture_gaussian(const float mean[2], float stddev, const float *second);

#endif

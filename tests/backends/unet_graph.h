/* A U-Net in the manner of improved-diffusion with pseudo-random weights, for tests and benchmarks
 * of whole networks that need no checkpoint. */
#ifndef UNET_GRAPH_H
#define UNET_GRAPH_H

#include "graphbuild.h"

struct unet_shape {
    int image, channels, blocks; /* picture's side; base channels; residual blocks of a level */
    int mult[6], levels;         /* channels of each level, in base channels */
    unsigned attention;          /* bit mask of the sides at which there is attention */
    int heads, out_channels;
};

/* The CIFAR-10 network of improved-diffusion: 52.5 M parameters, 16.8 GFLOP an image. */
extern const struct unet_shape unet_cifar;

/* Inputs x [N,3,S,S], t [N] (already times what the network wants), output "out"; parameters named
 * as the original's. `release` frees the weights; destroy the graph first. */
struct dm_graph *unet_graph(const struct unet_shape *shape, void **weights);
void unet_release(void *weights);

#endif

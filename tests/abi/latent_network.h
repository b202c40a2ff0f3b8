/* A tiny latent diffusion model: text condition, denoiser in the latent space, decoder. */
#ifndef LATENT_NETWORK_H
#define LATENT_NETWORK_H

#include <demist/network.h>

enum { LATENT_VOCABULARY = 8, LATENT_TOKENS = 3, LATENT_CONTEXT = 4, LATENT_SIZE = 5 };
enum { LATENT_CHANNELS = 3, LATENT_SIDE = 2, LATENT_PIXELS = 12 };

extern const demist_network_vtable latent_vtable;

#endif

/* The kernels that compute products, from the one that computes all to the one that is the
 * likeliest to be fast where it fits. */
#include "cuda_product_kernels.h"

static bool always(const struct cu_product *product, int capability)
{
    (void)product;
    (void)capability;
    return true;
}

#define ENTRY(name) {#name, cu_fits_product_##name, cu_run_product_##name},
const struct cu_product_kernel cu_product_kernels[] = {{"simt", always, cu_run_product_simt},
                                                       CU_PRODUCT_KERNELS(ENTRY)};
const int cu_n_product_kernels = (int)(sizeof cu_product_kernels / sizeof cu_product_kernels[0]);

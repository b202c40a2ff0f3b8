/* The .npy and .npz readers take any bytes. */
#include "opened.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_open(data, size);
    return 0;
}

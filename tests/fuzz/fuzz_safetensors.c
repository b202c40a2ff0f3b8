/* The safetensors reader takes any bytes. The first eight, the header's length, are made to fit in
 * half of the runs, so that changes of size reach the JSON. */
#include "opened.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_open(data, size);
    const uint8_t *brace = size > 9 ? memchr(data + 9, '}', size - 9) : NULL;
    const uint8_t *end = brace;
    for (; brace; brace = memchr(brace + 1, '}', (size_t)(data + size - brace - 1)))
        end = brace;
    uint8_t *fitted = end ? malloc(size) : NULL;
    if (!fitted)
        return 0;
    uint64_t length = (uint64_t)(end - data) + 1 - 8;
    memcpy(fitted, data, size);
    memcpy(fitted, &length, sizeof length);
    check_open(fitted, size);
    free(fitted);
    return 0;
}

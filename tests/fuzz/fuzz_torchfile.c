/* The readers of torch.save's files take any bytes: the zip, the old stream, and the pickle alone
 * as the object of an old stream, where changes of it are not stopped by anything around it. */
#include "opened.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char head[] = "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
                           "\x80\2M\xe9\3."
                           "\x80\2}.";
/* The storage "0" of four floats. */
static const char tail[] = "\x80\2]X\1\0\0\0"
                           "0a."
                           "\4\0\0\0\0\0\0\0abcdefghijklmnop";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_open(data, size);
    size_t whole = sizeof head - 1 + size + sizeof tail - 1;
    uint8_t *stream = malloc(whole);
    if (!stream)
        return 0;
    memcpy(stream, head, sizeof head - 1);
    if (size)
        memcpy(stream + sizeof head - 1, data, size);
    memcpy(stream + sizeof head - 1 + size, tail, sizeof tail - 1);
    check_open(stream, whole);
    free(stream);
    return 0;
}

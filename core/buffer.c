#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for `more` bytes behind the end. Doubling keeps many small appends linear. */
static bool reserve(struct dm_buffer *buffer, size_t more)
{
    if (buffer->failed)
        return false;
    if (more <= buffer->capacity - buffer->size)
        return true;
    size_t capacity = buffer->capacity ? buffer->capacity : 4096;
    while (capacity - buffer->size < more && capacity <= SIZE_MAX / 2)
        capacity *= 2;
    uint8_t *data = capacity - buffer->size < more ? NULL : realloc(buffer->data, capacity);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

bool dm_buffer_append(struct dm_buffer *buffer, const void *data, size_t size)
{
    if (!reserve(buffer, size))
        return false;
    if (size)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return true;
}

bool dm_buffer_puts(struct dm_buffer *buffer, const char *text)
{
    return dm_buffer_append(buffer, text, strlen(text));
}

bool dm_buffer_printf(struct dm_buffer *buffer, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    bool ok = n >= 0 && reserve(buffer, (size_t)n + 1);
    if (ok) {
        vsnprintf((char *)buffer->data + buffer->size, (size_t)n + 1, fmt, again);
        buffer->size += (size_t)n;
    }
    va_end(again);
    va_end(args);
    buffer->failed |= !ok;
    return ok;
}

demist_status dm_buffer_check(const struct dm_buffer *buffer, const char *what,
                              struct dm_error *err)
{
    return buffer->failed ? dm_fail_memory(err, what) : DEMIST_OK;
}

void dm_buffer_finish(struct dm_buffer *buffer)
{
    free(buffer->data);
    *buffer = DM_BUFFER_INIT;
}

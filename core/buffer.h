/* Bytes that grow at the end: what the encoders of pictures write into, so that a file appears
 * only when all of it is known to be right. */
#ifndef DM_BUFFER_H
#define DM_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct dm_buffer {
    uint8_t *data; /* owned; NULL while empty */
    size_t size, capacity;
    bool failed; /* an append found no memory; every later one is ignored */
};

#define DM_BUFFER_INIT ((struct dm_buffer){NULL, 0, 0, false})

/* Appends; false when memory ran out. `failed` stays set, so that a writer may append many times
 * and ask once, with dm_buffer_check. `size` 0 is allowed with any `data`. */
bool dm_buffer_append(struct dm_buffer *buffer, const void *data, size_t size);
bool dm_buffer_puts(struct dm_buffer *buffer, const char *text);

/* printf without the final NUL. Floating-point conversions would follow the locale: format numbers
 * as integers or with core/number.h. */
bool dm_buffer_printf(struct dm_buffer *buffer, const char *fmt, ...) DM_PRINTF(2, 3);

/* DEMIST_NO_MEMORY when an append failed. */
demist_status dm_buffer_check(const struct dm_buffer *buffer, const char *what,
                              struct dm_error *err);

/* Frees and empties; accepts an empty buffer. */
void dm_buffer_finish(struct dm_buffer *buffer);

#endif

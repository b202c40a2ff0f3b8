/* Is a text UTF-8? Asked where text enters a file whose format promises it. */
#ifndef DM_UTF8_H
#define DM_UTF8_H

#include <stddef.h>

/* Bytes of the well-formed character at the start of text[0..size), or 0: overlong forms,
 * surrogates and values beyond U+10FFFF are malformed (RFC 3629). */
size_t dm_utf8_character(const char *text, size_t size);

/* Offset of the first byte that belongs to no well-formed character; `size` when all is well. */
size_t dm_utf8_check(const char *text, size_t size);

#endif

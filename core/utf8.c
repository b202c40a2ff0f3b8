#include "utf8.h"

size_t dm_utf8_character(const char *text, size_t size)
{
    if (size == 0)
        return 0;
    const unsigned char *s = (const unsigned char *)text;
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (s[0] > 0xF4 || n > size)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

size_t dm_utf8_check(const char *text, size_t size)
{
    size_t i = 0, n;
    while (i < size && (n = dm_utf8_character(text + i, size - i)) > 0)
        i += n;
    return i;
}

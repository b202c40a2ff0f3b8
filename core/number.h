/* Numbers as text, the same in every locale. The only place that calls strtod. */
#ifndef DM_NUMBER_H
#define DM_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dm_parse {
    DM_PARSE_OK,
    DM_PARSE_MALFORMED, /* not a number, or something follows it */
    DM_PARSE_RANGE,     /* a number that the type cannot hold */
};

/* What dm_parse_double takes beside plain decimal numbers. */
enum {
    DM_NUMBER_HEX = 1,       /* 0x1.8p3 */
    DM_NUMBER_NONFINITE = 2, /* nan, inf, infinity, in any case */
};

/* The whole of `text` must be the number: no blanks, no units. *out is written on DM_PARSE_OK only.
 * Integers are decimal with an optional sign ("007" is 7). Doubles are [sign] digits [. digits]
 * [e [sign] digits] with a digit before or after the point, correctly rounded; a value too large
 * for a double, or too small to differ from 0, is DM_PARSE_RANGE. [any thread] */
enum dm_parse dm_parse_int64(const char *text, int64_t *out);
enum dm_parse dm_parse_double(const char *text, int flags, double *out);

/* true yes on 1 / false no off 0, in any case. False when it is none of them. */
bool dm_parse_bool(const char *text, bool *out);

/* Enough for any double and its terminator. */
#define DM_DOUBLE_TEXT 32

/* Writes the shortest decimal that reads back as the same double ("0.1", "1e-05", "-0", "nan",
 * "-inf") and returns `text`. [any thread] */
const char *dm_format_double(double value, char text[DM_DOUBLE_TEXT]);

#endif

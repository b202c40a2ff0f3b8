/* Numbers and text. The grammar is checked here, so that what counts as a number does not depend
 * on the C library; strtod_l, in the "C" locale, only rounds. */
#define _GNU_SOURCE /* strtod_l */
#include "number.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex_digit(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

enum dm_parse dm_parse_int64(const char *text, int64_t *out)
{
    bool negative = *text == '-', range = false;
    if (*text == '-' || *text == '+')
        text++;
    if (!*text)
        return DM_PARSE_MALFORMED;
    int64_t value = 0; /* counted downwards: the most negative number has no positive twin */
    for (; *text; text++) {
        if (!is_digit(*text))
            return DM_PARSE_MALFORMED;
        range |= __builtin_mul_overflow(value, 10, &value);
        range |= __builtin_sub_overflow(value, *text - '0', &value);
    }
    if (range || (!negative && value == INT64_MIN))
        return DM_PARSE_RANGE;
    *out = negative ? value : -value;
    return DM_PARSE_OK;
}

/* The C locale of glibc and musl is a static object: making it costs nothing and frees nothing. */
static locale_t c_locale(void)
{
    return newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static const char *skip(const char *p, bool (*is)(char), bool *any)
{
    for (; is(*p); p++)
        *any = true;
    return p;
}

/* Is `p`, after its sign, a decimal or hexadecimal floating-point number? *zero: its digits are. */
static bool matches_grammar(const char *p, bool hex, bool *zero)
{
    bool (*is)(char) = hex ? is_hex_digit : is_digit;
    const char *first = p;
    bool any = false;
    p = skip(p, is, &any);
    if (*p == '.')
        p = skip(p + 1, is, &any);
    if (!any)
        return false;
    *zero = strspn(first, "0.") == (size_t)(p - first);
    if (hex ? (*p == 'p' || *p == 'P') : (*p == 'e' || *p == 'E')) {
        p += p[1] == '+' || p[1] == '-' ? 2 : 1;
        bool exponent = false;
        p = skip(p, is_digit, &exponent);
        if (!exponent)
            return false;
    }
    return !*p;
}

enum dm_parse dm_parse_double(const char *text, int flags, double *out)
{
    const char *p = text + (*text == '-' || *text == '+');
    if (flags & DM_NUMBER_NONFINITE) {
        bool inf = !strcasecmp(p, "inf") || !strcasecmp(p, "infinity");
        if (inf || !strcasecmp(p, "nan")) {
            *out = copysign(inf ? INFINITY : NAN, *text == '-' ? -1 : 1);
            return DM_PARSE_OK;
        }
    }
    bool hex = (flags & DM_NUMBER_HEX) && p[0] == '0' && (p[1] == 'x' || p[1] == 'X'), zero;
    if (!matches_grammar(hex ? p + 2 : p, hex, &zero))
        return DM_PARSE_MALFORMED;

    int saved = errno;
    double value = strtod_l(text, NULL, c_locale());
    errno = saved;
    if (isinf(value) || (value == 0 && !zero))
        return DM_PARSE_RANGE;
    *out = value;
    return DM_PARSE_OK;
}

bool dm_parse_bool(const char *text, bool *out)
{
    static const char *const words[][2] = {
        {"false", "true"}, {"no", "yes"}, {"off", "on"}, {"0", "1"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        for (int value = 0; value < 2; value++)
            if (!strcasecmp(text, words[i][value])) {
                *out = value;
                return true;
            }
    return false;
}

const char *dm_format_double(double value, char text[DM_DOUBLE_TEXT])
{
    if (isnan(value))
        return memcpy(text, "nan", 4);       /* the sign of a NaN says nothing */
    locale_t before = uselocale(c_locale()); /* this thread's only */
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, DM_DOUBLE_TEXT, "%.*g", digits, value);
        double back;
        if (dm_parse_double(text, DM_NUMBER_NONFINITE, &back) == DM_PARSE_OK && back == value)
            break;
    }
    uselocale(before);
    return text;
}

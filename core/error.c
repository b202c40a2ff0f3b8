#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* The text of an error that could not be stored for want of memory. */
DM_PRINTF(1, 0) static char *format(const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    return text;
}

demist_status dm_error_set(struct dm_error *err, demist_status status, const char *fmt, ...)
{
    if (!err)
        return status;
    va_list args;
    va_start(args, fmt);
    char *text = format(fmt, args); /* before the free: fmt's arguments may point into err */
    va_end(args);
    free(err->text);
    err->text = text;
    err->status = status;
    return status;
}

demist_status dm_fail_where(struct dm_error *err, const char *fmt, ...)
{
    if (!err)
        return DEMIST_INTERNAL;
    va_list args;
    va_start(args, fmt);
    char *where = format(fmt, args);
    va_end(args);
    if (where)
        dm_fail(err, err->status, "%s: %s", where,
                err->text ? err->text : dm_status_text(err->status));
    free(where);
    return err->status;
}

void dm_error_clear(struct dm_error *err)
{
    if (!err)
        return;
    free(err->text);
    *err = DM_ERROR_INIT;
}

const char *dm_status_name(demist_status status)
{
    switch (status) {
#define NAME(name, value, text)                                                                    \
    case DEMIST_##name:                                                                            \
        return #name;
        DEMIST_STATUSES(NAME)
#undef NAME
    }
    return "UNKNOWN";
}

const char *dm_status_text(demist_status status)
{
    switch (status) {
#define TEXT(name, value, text)                                                                    \
    case DEMIST_##name:                                                                            \
        return text;
        DEMIST_STATUSES(TEXT)
#undef TEXT
    }
    return "unknown status";
}

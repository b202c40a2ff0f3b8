/* The log: formatting in the caller's thread, then one call of the sink. */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void dm_log(const struct dm_log *log, enum dm_log_level level, const char *fmt, ...)
{
    if (!dm_log_wants(log, level))
        return;
    int saved = errno;
    char fixed[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(fixed, sizeof fixed, fmt, args);
    va_end(args);

    char *text = fixed, *big = NULL;
    if (n >= (int)sizeof fixed && (big = malloc((size_t)n + 1))) {
        va_start(args, fmt);
        vsnprintf(big, (size_t)n + 1, fmt, args);
        va_end(args);
        text = big;
    }
    if (n >= 0) /* without memory for a long text its beginning is still worth saying */
        log->sink(log->user, level, text);
    free(big);
    errno = saved;
}

static const char *prefix_of(enum dm_log_level level)
{
    switch (level) {
    case DM_LOG_ERROR:
        return "demist: error: ";
    case DM_LOG_WARNING:
        return "demist: notice: ";
    case DM_LOG_INFO:
        return "demist: ";
    case DM_LOG_DEBUG:
        return "demist: debug: ";
    }
    return "demist: ";
}

static void write_all(const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody is left to be told */
        bytes += n;
        size -= (size_t)n;
    }
}

void dm_log_to_stderr(void *user, enum dm_log_level level, const char *text)
{
    const char *prefix = prefix_of(level);
    size_t size = strlen(prefix) + strlen(text) + 1;
    char fixed[640], *line = fixed, *big = NULL;
    if (size + 1 > sizeof fixed) {
        if ((big = malloc(size + 1)))
            line = big;
        else
            size = sizeof fixed - 1;
    }
    snprintf(line, size + 1, "%s%s", prefix, text);
    line[size - 1] = '\n';
    write_all(line, size);
    free(big);
}

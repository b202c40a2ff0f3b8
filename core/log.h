/* Messages for people: a level, a sink and one text a call.
 *
 * The log is a plain value that its owner passes down; there is no global one, so that an
 * embedding program may run two with different sinks. */
#ifndef DM_LOG_H
#define DM_LOG_H

#include "error.h"

enum dm_log_level {
    DM_LOG_ERROR,
    DM_LOG_WARNING, /* a notice: something the user should know, and the run goes on */
    DM_LOG_INFO,
    DM_LOG_DEBUG,
};

struct dm_log {
    enum dm_log_level level; /* what lies beyond it is dropped before it is formatted */
    /* Takes one complete text without a newline at its end. [any thread, several at once] */
    void (*sink)(void *user, enum dm_log_level level, const char *text);
    void *user; /* handed to sink */
};

/* Notices and errors to standard error. */
#define DM_LOG_DEFAULT ((struct dm_log){DM_LOG_WARNING, dm_log_to_stderr, NULL})

/* Formats and hands over one message. A NULL log, or one without a sink, is silent. errno is kept.
 * [any thread] */
void dm_log(const struct dm_log *log, enum dm_log_level level, const char *fmt, ...)
    DM_PRINTF(3, 4);

/* True when a message of this level would be seen: for messages that cost something to make. */
static inline int dm_log_wants(const struct dm_log *log, enum dm_log_level level)
{
    return log && log->sink && level <= log->level;
}

/* The default sink: "demist: error: …", "demist: notice: …", "demist: …" or "demist: debug: …",
 * each with one write, so that lines of several threads do not mix. `user` is unused. */
void dm_log_to_stderr(void *user, enum dm_log_level level, const char *text);

#endif

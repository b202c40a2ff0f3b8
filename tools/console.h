/* What people see while the command works: messages and one progress line, on standard error.
 *
 * Results go to standard output and never through here. Messages may come from any thread; they
 * erase the progress line, which is drawn again with the next step. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <demist/host.h>

#include <pthread.h>
#include <stdbool.h>

enum verbosity { QUIET = -1, NORMAL = 0, VERBOSE = 1 };

struct console {
    enum verbosity verbosity;
    bool terminal; /* standard error is one that can rewrite a line */
    pthread_mutex_t lock;
    bool line_drawn; /* under lock */
};

void console_init(struct console *console);
void console_finish(struct console *console);

/* "demist: notice: …": a demist_log_fn, whose user is the console. */
void console_log(void *console, demist_log_level level, const char *text);

/* A line of its own: "demist: TEXT", or TEXT alone where it starts with a place. */
void console_error(struct console *console, bool placed, const char *text);

/* A line about what goes on; not shown when quiet. */
void console_say(struct console *console, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Draws the progress line in place, cut to the terminal's width; "" erases it. */
void console_draw(struct console *console, const char *line);

/* Columns of the terminal, 80 where that is not known. */
int console_width(void);

#endif

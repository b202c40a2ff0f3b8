#include "console.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void console_init(struct console *c)
{
    const char *term = getenv("TERM");
    *c = (struct console){.terminal = isatty(STDERR_FILENO) && term && term[0] &&
                                      strcmp(term, "dumb") != 0};
    pthread_mutex_init(&c->lock, NULL);
}

void console_finish(struct console *c)
{
    console_draw(c, "");
    pthread_mutex_destroy(&c->lock);
}

int console_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* Erases the progress line. Under lock. */
static void erase(struct console *c)
{
    if (c->line_drawn)
        fputs("\r\033[K", stderr);
    c->line_drawn = false;
}

static void line(struct console *c, const char *prefix, const char *text)
{
    pthread_mutex_lock(&c->lock);
    erase(c);
    fprintf(stderr, "%s%s\n", prefix, text);
    fflush(stderr);
    pthread_mutex_unlock(&c->lock);
}

void console_log(void *console, demist_log_level level, const char *text)
{
    static const char *const prefixes[] = {
        "demist: error: ", "demist: notice: ", "demist: ", "demist: debug: "};
    line(console, prefixes[level >= DEMIST_LOG_ERROR && level <= DEMIST_LOG_DEBUG ? level : 0],
         text);
}

void console_error(struct console *c, bool placed, const char *text)
{
    line(c, placed ? "" : "demist: ", text);
}

void console_say(struct console *c, const char *fmt, ...)
{
    if (c->verbosity == QUIET)
        return;
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    line(c, "demist: ", text);
}

void console_draw(struct console *c, const char *text)
{
    pthread_mutex_lock(&c->lock);
    erase(c);
    if (text[0]) {
        fprintf(stderr, "\r%.*s", console_width() - 1, text);
        c->line_drawn = true;
    }
    fflush(stderr);
    pthread_mutex_unlock(&c->lock);
}

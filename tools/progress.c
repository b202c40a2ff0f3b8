#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const double redraw_every = 0.1, speak_every = 10; /* seconds */

double progress_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_init(struct progress *p, struct console *console)
{
    *p = (struct progress){.console = console, .begun = progress_clock()};
}

/* "0:07", "12:34", "1:02:03". */
static const char *duration(double seconds, char text[32])
{
    long s = seconds < 0 ? 0 : seconds > 3.6e8 ? 360000000L : (long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, 32, "%ld:%02ld", s / 60, s % 60);
    return text;
}

/* "0.123", "45.6", "7890". */
static const char *rate_text(double rate, char text[32])
{
    snprintf(text, 32, rate < 100 ? "%.3g" : "%.0f", rate);
    return text;
}

/* "43%  [#####......]  215/500  batch 2/4  12.3 it/s  ETA 0:23"; without the bar for plain lines,
 * where width is 0. */
static void describe(const struct progress *p, const demist_progress *told, double now, int width,
                     char *out, size_t size)
{
    double total = (double)told->n_batches * (double)told->n_steps;
    double done = (double)p->steps / total, elapsed = now - p->started;
    char rate[96] = "", bar[128] = "", batch[64] = "", eta[32], speed[32];
    if (p->steps > 0 && elapsed > 0)
        snprintf(rate, sizeof rate, "  %s it/s  ETA %s",
                 rate_text((double)p->steps / elapsed, speed),
                 duration(elapsed / done - elapsed, eta));
    if (told->n_batches > 1)
        snprintf(batch, sizeof batch, "  batch %lld/%lld", (long long)told->batch + 1,
                 (long long)told->n_batches);
    int cells = width > 130 ? 60 : width - 70;
    if (cells >= 10) {
        int full = (int)(done * cells);
        bar[0] = '[';
        memset(bar + 1, '#', (size_t)full);
        memset(bar + 1 + full, '.', (size_t)(cells - full));
        snprintf(bar + 1 + cells, sizeof bar - (size_t)cells - 1, "]  ");
    }
    snprintf(out, size, "%3d%%  %sstep %lld/%lld%s%s", (int)(100 * done), bar,
             (long long)told->step, (long long)told->n_steps, batch, rate);
}

static void begin(struct progress *p, const demist_progress *told, double now)
{
    p->started = now;
    if (!p->console->terminal)
        console_say(p->console, "%lld step%s in %lld batch%s of %lld", (long long)told->n_steps,
                    told->n_steps == 1 ? "" : "s", (long long)told->n_batches,
                    told->n_batches == 1 ? "" : "es", (long long)told->n_images);
    p->shown = now;
}

void progress_step(struct progress *p, const demist_progress *told)
{
    double now = progress_clock();
    if (told->batch == 0 && told->step == 0)
        begin(p, told, now);
    if (p->console->verbosity == QUIET)
        return;
    p->steps = told->batch * told->n_steps + told->step;
    bool terminal = p->console->terminal, finished = told->step == told->n_steps;
    bool due = now - p->shown >= (terminal ? redraw_every : speak_every);
    bool plain_batch = !terminal && finished && told->n_batches > 1;
    if (!due && !plain_batch && !(terminal && told->batch == 0 && told->step == 0))
        return;
    char text[512];
    describe(p, told, now, terminal ? console_width() : 0, text, sizeof text);
    p->shown = now;
    if (terminal)
        console_draw(p->console, text);
    else
        console_say(p->console, "%s", text);
}

void progress_end(struct progress *p, int64_t images)
{
    double now = progress_clock(), sampling = now - p->started;
    char speed[32];
    console_draw(p->console, "");
    console_say(p->console, "%lld image%s in %.3g s: set-up %.3g s, %s it/s", (long long)images,
                images == 1 ? "" : "s", now - p->begun, p->started - p->begun,
                rate_text(sampling > 0 ? (double)p->steps / sampling : 0, speed));
}

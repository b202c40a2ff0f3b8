/* How far a run is: one line with a bar on a terminal, plain lines otherwise. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <demist/demist.h>

#include "console.h"

struct progress {
    struct console *console;
    double begun;    /* when the program did */
    double started;  /* when the first step did; seconds of the monotonic clock */
    double shown;    /* when something was last shown */
    int64_t steps;   /* done in all batches */
    int64_t batches; /* done */
    int64_t images;  /* done */
};

/* Seconds of the monotonic clock. */
double progress_clock(void);

void progress_init(struct progress *progress, struct console *console);
/* After every step; step 0 starts a batch. */
void progress_step(struct progress *progress, const demist_progress *told);
/* At the end: how many images in what time. */
void progress_end(struct progress *progress, int64_t images);

#endif

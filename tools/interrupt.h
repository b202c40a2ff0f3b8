/* Signals: the first SIGINT or SIGTERM asks the run to stop after its current step, the second ends
 * the program at once, both with status 130. A full disk (SIGXFSZ) and a reader that went away
 * (SIGPIPE) become errors of the write in question. */
#ifndef INTERRUPT_H
#define INTERRUPT_H

#include <stdbool.h>

void interrupt_install(void);
bool interrupted(void);

#endif

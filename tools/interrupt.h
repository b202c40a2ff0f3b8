/* Signals: SIGINT and SIGTERM end the program at once with status 130, but while a run is under way
 * the first asks it to stop after its current step. A full disk (SIGXFSZ) and a reader that went
 * away (SIGPIPE) become errors of the write in question. */
#ifndef INTERRUPT_H
#define INTERRUPT_H

#include <stdbool.h>

void interrupt_install(void);
void interrupt_gracefully(void); /* from now on the first signal only asks */
bool interrupted(void);

#endif

/* A backend for the ABI's sake: it computes on the CPU as plainly as possible, but behaves towards
 * its caller as a GPU would. Queued work runs when somebody waits, so that what a caller forgot to
 * wait for is really not there; the first execution of a binding is captured, and later ones replay
 * it with other scalars. */
#ifndef MOCK_BACKEND_H
#define MOCK_BACKEND_H

#include <demist/backend.h>

/* Two devices. Only ops that the ABI's clients need. */
extern const demist_backend_vtable mock_backend;

/* How many times a binding's work was captured. */
int mock_captures(const demist_binding *binding);

#endif

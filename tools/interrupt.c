#include "interrupt.h"

#include "command.h"

#include <signal.h>
#include <unistd.h>

/* A signal handler has nothing but globals to talk to. */
static volatile sig_atomic_t graceful, asked;

static void on_signal(int signal)
{
    if (!graceful || asked)
        _exit(EXIT_INTERRUPTED);
    asked = 1;
}

void interrupt_install(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, NULL);
    sigaction(SIGPIPE, &action, NULL);
}

void interrupt_gracefully(void)
{
    graceful = 1;
}

bool interrupted(void)
{
    return asked;
}

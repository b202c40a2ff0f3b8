/* What the subcommands share: options, messages and exit statuses. */
#ifndef COMMAND_H
#define COMMAND_H

#include <demist/demist.h>

#include <argp.h>

#include "console.h"
#include "error.h"
#include "text.h"

/* The command's exit statuses; there is no other. */
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2, /* usage or configuration */
    EXIT_DISAGREES = 3,
    EXIT_INTERRUPTED = 130,
};

/* A subcommand. `run` gets argv with argv[0] = "demist NAME" and returns an exit status. */
struct command {
    const char *name, *doc;
    int (*run)(int argc, char **argv);
};
int cmd_sample(int argc, char **argv);
int cmd_predict(int argc, char **argv);
int cmd_evaluate(int argc, char **argv);
int cmd_plugins(int argc, char **argv);
int cmd_devices(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_bench(int argc, char **argv);

/* What every subcommand has: the first member of its state. */
struct common {
    struct console console;
    demist_session *session;
    const char *config; /* CONFIG, where described_argp is a child; NULL: not given */
    const char **sets;  /* --set; [n_sets], owned */
    size_t n_sets;
    struct dm_text out; /* what goes to standard output at the end */
};

/* Children of a subcommand's argp, whose input is the struct common: --plugin-path, -q, -v; and of
 * subcommands that run a description: --set, --threads. */
extern const struct argp common_argp, described_argp;
/* Handles the one argument CONFIG: for the parent's ARGP_KEY_ARG and ARGP_KEY_END. */
error_t described_argument(struct common *common, int key, char *arg, struct argp_state *state);

/* A subcommand from its arguments to its exit status: opens a session, parses into `state`, which
 * starts with a struct common, loads CONFIG and applies every --set, calls `work`, and prints
 * common.out, or tells the error. Mistakes in the arguments end the program. */
typedef demist_status command_work(void *state, struct dm_error *err);
int run_command(const struct argp *argp, int argc, char **argv, void *state, command_work *work);
#endif

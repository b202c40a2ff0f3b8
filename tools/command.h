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

/* What every subcommand has. */
struct common {
    struct console console;
    demist_session *session;
};

/* The input of common_argp, as a child: --plugin-path, -q, -v. */
extern const struct argp common_argp;

/* False, with the error told, without memory. */
bool common_open(struct common *common);
void common_close(struct common *common);

/* The options of subcommands that run a description: CONFIG, --set, --threads. */
struct described {
    struct common *common;
    const char *config;
    const char **sets; /* [n_sets], owned */
    size_t n_sets;
};
extern const struct argp described_argp; /* a child; its input is a struct described */
/* Handles the one argument CONFIG: for the parent's ARGP_KEY_ARG and ARGP_KEY_END. */
error_t described_argument(struct described *described, int key, char *arg,
                           struct argp_state *state);
/* Loads CONFIG and applies every --set. An exit status, with the error told. */
int described_load(struct described *described);
void described_finish(struct described *described);

/* Parses; an exit status that is not EXIT_DONE ends the command. */
int parse_arguments(const struct argp *argp, int argc, char **argv, void *input);

/* Tells the error and returns the exit status for it. An error that starts with a place in a
 * configuration ("FILE:LINE: ", "--set ") is one of configuration, and is told as it is. `config`
 * is the file of the run, or NULL. */
int report(struct common *common, const char *config, demist_status status, const char *text);
/* The same for an error of the library's inner interfaces, which is cleared. */
int report_error(struct common *common, const char *config, struct dm_error *err);

/* Writes the text to standard output and frees it. EXIT_FAILED, told, when that fails. */
int print_result(struct common *common, struct dm_text *text);

#endif

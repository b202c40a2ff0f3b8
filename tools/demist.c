/* The command: options of its own, then a subcommand with its own. One file a subcommand. */
#include "command.h"
#include "interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command commands[] = {
    {"sample", "make pictures or points from a trained network", cmd_sample},
    {"predict", "evaluate the network once, tensors in, tensors out", cmd_predict},
    {"compare", "the same run on several backends: where they differ, how fast they are",
     cmd_compare},
    {"bench", "how fast each backend makes a run's steps, and where the time goes", cmd_bench},
    {"evaluate", "how many bits per dimension a model needs for data", cmd_evaluate},
    {"plugins", "what is installed, and the options of each plugin", cmd_plugins},
    {"devices", "what can compute", cmd_devices},
    {"inspect", "what a checkpoint, a tensor file or a picture of demist's holds", cmd_inspect},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

struct top {
    const struct command *command;
    int first; /* of its arguments in argv */
};

static const struct command *find_command(const char *name, struct argp_state *state)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++) {
        names[i] = commands[i].name;
        if (strcmp(name, commands[i].name) == 0)
            return &commands[i];
    }
    const char *near = dm_nearest(name, names, N_COMMANDS);
    if (near)
        argp_error(state, "\"%s\" is no command; did you mean \"%s\"?", name, near);
    else
        argp_error(state, "\"%s\" is no command", name);
    return NULL;
}

static error_t parse_top(int key, char *arg, struct argp_state *state)
{
    struct top *top = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        top->command = find_command(arg, state);
        top->first = state->next;
        state->next = state->argc; /* the rest is the command's */
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "COMMAND is missing");
        return EINVAL;
    }
    return ARGP_ERR_UNKNOWN;
}

/* The list of commands, before the options. */
static char *filter_help(int key, const char *text, void *input)
{
    if (key != ARGP_KEY_HELP_PRE_DOC)
        return (char *)(uintptr_t)text; /* argp's way to say "as it is" */
    struct dm_text out = DM_TEXT_INIT;
    dm_text_appendf(&out, "%s\n\nCommands:\n", text);
    for (size_t i = 0; i < N_COMMANDS; i++)
        dm_text_appendf(&out, "  %-10s %s\n", commands[i].name, commands[i].doc);
    return dm_text_take(&out);
}

static const char doc[] =
    "demist runs diffusion models: one INI file describes a run, plugins do the work.\v"
    "Examples:\n"
    "  demist sample run.ini                        pictures into [output] dir\n"
    "  demist sample run.ini --set sampler.use=ddpm the same with another sampler\n"
    "  demist sample run.ini --explain              what would run, and no more\n"
    "  demist plugins sampler.ddim --ini            a section for an INI file\n"
    "  demist inspect model.pth                     the tensors of a checkpoint\n\n"
    "`demist COMMAND --help` tells a command's options; demist(1) has all sections and keys of an "
    "INI file. Exit status: 0 done, 1 failed, 2 usage or configuration, 3 a comparison disagrees, "
    "130 interrupted.";

static void print_version(FILE *stream, struct argp_state *state)
{
    fprintf(stream, "demist %s\n", demist_version());
}

/* A run that starts with one of the three standard descriptors closed would give its number to the
 * first file that it opens, and messages would go into that file. What is put there instead fails
 * as a closed one does: /dev/null, open for the other direction. */
static void occupy_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            _exit(EXIT_FAILED); /* there is nowhere to say it */
}

/* What went to standard output must have arrived, also where argp ends the program. */
static void check_stdout(void)
{
    bool failed = ferror(stdout);
    if (fflush(stdout) == 0 && !failed)
        return;
    if (errno != EPIPE) /* a reader that has seen enough needs no message */
        fprintf(stderr, "demist: standard output: %s\n", strerror(errno));
    _exit(EXIT_FAILED);
}

int main(int argc, char **argv)
{
    struct top top = {0};
    const struct argp argp = {.parser = parse_top,
                              .args_doc = "COMMAND [ARGUMENT...]",
                              .doc = doc,
                              .help_filter = filter_help};
    argp_program_version_hook = print_version;
    argp_err_exit_status = EXIT_USAGE;
    occupy_standard_descriptors();
    interrupt_install();
    atexit(check_stdout);
    static char program[] = "demist";
    argv[0] = program;
    int status = EXIT_USAGE;
    if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &top) != 0 || !top.command)
        return status;
    char name[32];
    snprintf(name, sizeof name, "demist %s", top.command->name);
    argv[top.first - 1] = name;
    return top.command->run(argc - top.first + 1, argv + top.first - 1);
}

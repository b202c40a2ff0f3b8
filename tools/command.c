#include "command.h"

#include "number.h"
#include "pool.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- options */

static void set_verbosity(struct common *common, enum verbosity verbosity)
{
    static const demist_log_level most[] = {DEMIST_LOG_ERROR, DEMIST_LOG_WARNING, DEMIST_LOG_DEBUG};
    common->console.verbosity = verbosity;
    demist_session_on_log(common->session, most[verbosity + 1], console_log, &common->console);
}

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
    struct common *common = state->input;
    switch (key) {
    case 'P':
        if (demist_session_plugin_path(common->session, arg) != DEMIST_OK)
            argp_failure(state, EXIT_USAGE, 0, "%s", demist_session_error(common->session));
        return 0;
    case 'q':
        set_verbosity(common, QUIET);
        return 0;
    case 'v':
        set_verbosity(common, VERBOSE);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option common_options[] = {
    {"plugin-path", 'P', "DIR", 0, "search DIR for plugins first; may be given several times", 8},
    {"quiet", 'q', NULL, 0, "say nothing but errors", 8},
    {"verbose", 'v', NULL, 0, "say more", 8},
    {0},
};
const struct argp common_argp = {.options = common_options, .parser = parse_common};

static error_t add_set(struct common *common, const char *assignment)
{
    const char **sets =
        realloc(common->sets, (common->n_sets + 1) * sizeof *sets); /* NOLINT: pointers */
    if (!sets)
        return ENOMEM;
    common->sets = sets;
    sets[common->n_sets++] = assignment;
    return 0;
}

static error_t parse_described(int key, char *arg, struct argp_state *state)
{
    struct common *common = state->input;
    int64_t n;
    switch (key) {
    case 's':
        return add_set(common, arg);
    case 't':
        if (dm_parse_int64(arg, &n) != DM_PARSE_OK || n < 1 || n > DM_POOL_MAX_THREADS)
            argp_error(state, "--threads %s: expected a number from 1 to %d", arg,
                       DM_POOL_MAX_THREADS);
        else if (demist_session_threads(common->session, (int)n) != DEMIST_OK)
            return EINVAL;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option described_options[] = {
    {"set", 's', "SECTION.KEY=VALUE", 0,
     "override a key of CONFIG, with the same validation; may be given several times", 1},
    {"threads", 't', "N", 0, "threads in all (default: as many as the machine gives)", 1},
    {0},
};
const struct argp described_argp = {.options = described_options, .parser = parse_described};

error_t described_argument(struct common *common, int key, char *arg, struct argp_state *state)
{
    if (key == ARGP_KEY_END && !common->config)
        argp_error(state, "CONFIG is missing: name the INI file that describes the run");
    if (key == ARGP_KEY_ARG && common->config)
        argp_error(state, "one CONFIG at a time, not \"%s\" and \"%s\"", common->config, arg);
    if (key == ARGP_KEY_ARG)
        common->config = arg;
    return 0;
}

/* ---------------------------------------------------------------- messages */

/* Whether the text starts with "FILE:LINE: ", "CONFIG: " or an option of the command's. */
static bool starts_with_place(const char *text, const char *config)
{
    if (strncmp(text, "--", 2) == 0)
        return true;
    size_t length = config ? strlen(config) : 0;
    if (length && strncmp(text, config, length) == 0 && text[length] == ':')
        return true;
    const char *line = strchr(text, ':');
    if (!line || !isdigit((unsigned char)line[1]))
        return false;
    for (line++; isdigit((unsigned char)*line); line++)
        ;
    return line[0] == ':' && line[1] == ' ';
}

/* Tells the error and returns the exit status for it. One that starts with a place in a
 * configuration ("FILE:LINE: ", "--set ") is an error of configuration, and is told as it is. */
static int report(struct common *common, demist_status status, const char *text)
{
    bool placed = starts_with_place(text, common->config);
    console_error(&common->console, placed, text);
    if (status == DEMIST_CANCELLED)
        return EXIT_INTERRUPTED;
    if (status == DEMIST_DISAGREE)
        return EXIT_DISAGREES;
    return status == DEMIST_CONFIG || placed ? EXIT_USAGE : EXIT_FAILED;
}

static int print_result(struct common *common)
{
    char *result = dm_text_take(&common->out);
    if (!result) {
        console_error(&common->console, false, "out of memory");
        return EXIT_FAILED;
    }
    fputs(result, stdout); /* a failure stays in the stream until main looks */
    free(result);
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- the command */

/* Parses; an exit status that is not EXIT_DONE ends the command. */
static int parse_arguments(const struct argp *argp, int argc, char **argv, void *state)
{
    error_t error = argp_parse(argp, argc, argv, 0, NULL, state); /* exits on mistakes */
    if (error == 0)
        return EXIT_DONE;
    fprintf(stderr, "demist: %s\n", strerror(error));
    return error == ENOMEM ? EXIT_FAILED : EXIT_USAGE;
}

static int load_config(struct common *common)
{
    demist_status status = demist_session_load(common->session, common->config);
    if (status != DEMIST_OK) { /* a configuration that cannot be read is one as well */
        report(common, status, demist_session_error(common->session));
        return status == DEMIST_NO_MEMORY ? EXIT_FAILED : EXIT_USAGE;
    }
    for (size_t i = 0; i < common->n_sets; i++) {
        status = demist_session_set(common->session, common->sets[i]);
        if (status != DEMIST_OK)
            return report(common, status, demist_session_error(common->session));
    }
    return EXIT_DONE;
}

static int run_in_session(const struct argp *argp, int argc, char **argv, void *state,
                          command_work *work)
{
    struct common *common = state;
    struct dm_error err = DM_ERROR_INIT;
    demist_session_on_log(common->session, DEMIST_LOG_WARNING, console_log, &common->console);
    int exit_status = parse_arguments(argp, argc, argv, state);
    if (exit_status == EXIT_DONE && common->config)
        exit_status = load_config(common);
    if (exit_status != EXIT_DONE)
        return exit_status;
    demist_status status = work(state, &err);
    if (status == DEMIST_OK)
        return print_result(common);
    exit_status = report(common, status, err.text ? err.text : demist_status_text(status));
    dm_error_clear(&err);
    return exit_status;
}

int run_command(const struct argp *argp, int argc, char **argv, void *state, command_work *work)
{
    struct common *common = state;
    int exit_status = EXIT_FAILED;
    console_init(&common->console);
    common->session = demist_session_create();
    if (common->session)
        exit_status = run_in_session(argp, argc, argv, state, work);
    else
        console_error(&common->console, false, "out of memory");
    dm_text_finish(&common->out);
    free(common->sets);
    demist_session_destroy(common->session);
    console_finish(&common->console);
    return exit_status;
}

/* demist sample: a run from its description, with its progress. */
#include "command.h"

#include "explain.h"
#include "interrupt.h"
#include "progress.h"
#include "session.h"

#include <stdio.h>

enum { KEY_OVERWRITE = 256 }; /* without a short form */

struct sample {
    struct common common;
    struct described described;
    struct progress progress;
    const char *trajectory;
    bool explain, overwrite;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct sample *sample = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &sample->described;
        state->child_inputs[1] = &sample->common;
        return 0;
    case 'T':
        sample->trajectory = arg;
        return 0;
    case 'e':
        sample->explain = true;
        return 0;
    case KEY_OVERWRITE:
        sample->overwrite = true;
        return 0;
    case ARGP_KEY_ARG:
    case ARGP_KEY_END:
        return described_argument(&sample->described, key, arg, state);
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"trajectory", 'T', "FILE", 0,
     "write every state to a safetensors FILE: x [steps+1,N,...] from x_T to x_0, timesteps "
     "[steps]; an existing FILE is replaced",
     0},
    {"explain", 'e', NULL, 0, "print what would run, with the origin of every value, and exit", 0},
    {"overwrite", KEY_OVERWRITE, NULL, 0,
     "replace files of other runs in [output] dir; without it new files take a free name", 0},
    {0},
};
static const struct argp_child children[] = {{&described_argp}, {&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "CONFIG",
    .doc = "Make images or points as the INI file CONFIG describes. The paths of the files written "
           "go to standard output.\v"
           "Ctrl-C stops after the current step and keeps the batches that are finished; a second "
           "one ends the program at once.\n\n"
           "Examples:\n"
           "  demist sample crawl.ini\n"
           "  demist sample crawl.ini --set sample.first=5 --set sample.images=1\n"
           "  demist sample crawl.ini --set sampler.use=ddpm --trajectory t.safetensors\n\n"
           "demist(1) has all sections and keys; `demist plugins sample --ini` prints one section, "
           "`demist plugins --ini` all of them.",
};

static bool on_progress(void *user, const demist_progress *told)
{
    progress_step(user, told);
    return !interrupted();
}

static int explain(struct sample *sample)
{
    const struct dm_environment *env;
    struct dm_error err = DM_ERROR_INIT;
    struct dm_text out = DM_TEXT_INIT;
    demist_status status = dm_session_environment(sample->common.session, &env, &err);
    if (status == DEMIST_OK)
        status = dm_explain(env, dm_session_ini(sample->common.session), &out, &err);
    if (status == DEMIST_OK)
        return print_result(&sample->common, &out);
    dm_text_finish(&out);
    return report_error(&sample->common, sample->described.config, &err);
}

static int run(struct sample *sample)
{
    demist_sample_options with = DEMIST_INIT(demist_sample_options);
    with.progress = on_progress;
    with.user = &sample->progress;
    with.write_outputs = true;
    with.overwrite = sample->overwrite;
    with.trajectory = sample->trajectory;
    demist_result *result = NULL;
    interrupt_gracefully();
    progress_init(&sample->progress, &sample->common.console);
    demist_status status = demist_session_sample(sample->common.session, &with, &result);
    if (status == DEMIST_OK && result)
        progress_end(&sample->progress, result->n_images);
    else
        console_draw(&sample->common.console, "");
    for (int64_t i = 0; result && i < result->n_files; i++)
        puts(result->files[i]);
    int exit_status = status == DEMIST_OK
                          ? EXIT_DONE
                          : report(&sample->common, sample->described.config, status,
                                   demist_session_error(sample->common.session));
    if (status == DEMIST_CANCELLED && result)
        console_say(&sample->common.console, "%lld finished image%s kept",
                    (long long)result->n_images, result->n_images == 1 ? " is" : "s are");
    demist_result_free(result);
    return exit_status;
}

int cmd_sample(int argc, char **argv)
{
    struct sample sample = {.described.common = &sample.common};
    if (!common_open(&sample.common))
        return EXIT_FAILED;
    int status = parse_arguments(&argp, argc, argv, &sample);
    if (status == EXIT_DONE)
        status = described_load(&sample.described);
    if (status == EXIT_DONE)
        status = sample.explain ? explain(&sample) : run(&sample);
    described_finish(&sample.described);
    common_close(&sample.common);
    return status;
}

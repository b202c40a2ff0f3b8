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
    struct progress progress;
    const char *trajectory;
    bool explain, overwrite;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct sample *sample = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = &sample->common;
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
        return described_argument(&sample->common, key, arg, state);
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

static demist_status explain(struct sample *sample, struct dm_error *err)
{
    const struct dm_environment *env;
    DM_TRY(dm_session_environment(sample->common.session, &env, err));
    return dm_explain(env, dm_session_ini(sample->common.session), &sample->common.out, err);
}

static demist_status run(struct sample *sample, struct dm_error *err)
{
    struct common *common = &sample->common;
    demist_sample_options with = DEMIST_INIT(demist_sample_options);
    with.progress = on_progress;
    with.user = &sample->progress;
    with.write_outputs = true;
    with.overwrite = sample->overwrite;
    with.trajectory = sample->trajectory;
    demist_result *result = NULL;
    interrupt_gracefully();
    progress_init(&sample->progress, &common->console);
    demist_status status = demist_session_sample(common->session, &with, &result);
    if (status == DEMIST_OK && result)
        progress_end(&sample->progress, result->n_images);
    else
        console_draw(&common->console, "");
    for (int64_t i = 0; result && i < result->n_files; i++)
        puts(result->files[i]);
    if (status == DEMIST_CANCELLED && result)
        console_say(&common->console, "%lld finished image%s kept", (long long)result->n_images,
                    result->n_images == 1 ? " is" : "s are");
    demist_result_free(result);
    return status ? dm_fail(err, status, "%s", demist_session_error(common->session)) : DEMIST_OK;
}

static demist_status explain_or_run(void *state, struct dm_error *err)
{
    struct sample *sample = state;
    return (sample->explain ? explain : run)(sample, err);
}

int cmd_sample(int argc, char **argv)
{
    struct sample sample = {0};
    return run_command(&argp, argc, argv, &sample, explain_or_run);
}

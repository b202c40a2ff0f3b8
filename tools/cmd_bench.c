/* demist bench: how fast the backends make the steps of a run. */
#include "command.h"

#include "bench.h"
#include "interrupt.h"
#include "progress.h"
#include "session.h"

struct bench {
    struct common common;
    const char *backends;
    struct dm_bench_options options;
    struct dm_arena arena; /* of the list */
    double shown;          /* when progress last was */
    bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench *bench = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = &bench->common;
        return 0;
    case 'b':
        bench->backends = arg;
        return 0;
    case 'p':
        bench->options.profile = true;
        return 0;
    case 'j':
        bench->json = true;
        return 0;
    case ARGP_KEY_END:
        if (!bench->backends && bench->common.config)
            argp_error(state, "--backends is missing: name at least one");
        return described_argument(&bench->common, key, arg, state);
    case ARGP_KEY_ARG:
        return described_argument(&bench->common, key, arg, state);
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"backends", 'b', "A,B,...", 0,
     "what to measure. NAME:PRECISION for another precision than [backend] precision, as in "
     "cpu:bf16",
     0},
    {"profile", 'p', NULL, 0, "also tell the time of each kind of op", 0},
    {"json", 'j', NULL, 0, "print one JSON object", 0},
    {0},
};
static const struct argp_child children[] = {{&described_argp}, {&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "CONFIG --backends A[,B...]",
    .doc = "Measure one sampler step for the whole batch of the run that CONFIG describes: the "
           "median after a warm-up, the arithmetic done per second beside what a large product "
           "reaches on the same device, the time to the first step, and memory.\v"
           "The arithmetic is counted as the network is written; an algorithm that needs less, "
           "such as Winograd's, can pass the peak.\n\n"
           "Examples:\n"
           "  demist bench crawl.ini --backends cpu,opencl\n"
           "  demist bench crawl.ini --backends cpu --threads 1 --profile --set sample.batch=4",
};

static bool on_progress(void *user, const char *what)
{
    struct bench *bench = user;
    struct console *console = &bench->common.console;
    double now = progress_clock();
    if (console->terminal && console->verbosity != QUIET && now - bench->shown >= 0.1) {
        bench->shown = now;
        console_draw(console, what);
    }
    return !interrupted();
}

static demist_status measure(void *state, struct dm_error *err)
{
    struct bench *b = state;
    const struct dm_environment *env;
    struct dm_bench result;
    DM_TRY(
        dm_split_list(&b->arena, b->backends, &b->options.backends, &b->options.n_backends, err));
    DM_TRY(dm_session_environment(b->common.session, &env, err));
    b->options.progress = on_progress;
    b->options.user = b;
    demist_status status =
        dm_bench_run(env, dm_session_ini(b->common.session), &b->options, &result, err);
    console_draw(&b->common.console, "");
    if (status != DEMIST_OK)
        return status;
    if (b->json)
        status = dm_bench_json(&result, &b->common.out, err);
    else
        dm_bench_text(&result, &b->common.out);
    dm_bench_finish(&result);
    return status;
}

int cmd_bench(int argc, char **argv)
{
    struct bench bench = {0};
    int status = run_command(&argp, argc, argv, &bench, measure);
    dm_arena_finish(&bench.arena);
    return status;
}

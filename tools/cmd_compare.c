/* demist compare: the same run on several backends, and where they differ. */
#include "command.h"

#include "compare.h"
#include "fileio.h"
#include "interrupt.h"
#include "progress.h"
#include "session.h"

#include <stdio.h>
#include <string.h>

enum { KEY_SAMPLERS = 256, KEY_STEPS, KEY_OBSERVE, KEY_SAVE_CASE, KEY_HTML, KEY_REPLAY };

struct compare {
    struct common common;
    const char *backends, *samplers, *html, *replay;
    struct dm_compare_options options;
    struct dm_arena arena;         /* of the lists */
    double shown;                  /* when progress last was */
    bool json, observe, disagrees; /* observe: --observe was given */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct compare *compare = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = &compare->common;
        return 0;
    case 'b':
        compare->backends = arg;
        return 0;
    case KEY_SAMPLERS:
        compare->samplers = arg;
        return 0;
    case KEY_STEPS:
        compare->options.steps = arg;
        return 0;
    case KEY_OBSERVE:
        if (strcmp(arg, "all") != 0 && strcmp(arg, "fused") != 0)
            argp_error(state, "--observe %s: expected fused or all", arg);
        compare->observe = true;
        compare->options.observe_all = strcmp(arg, "all") == 0;
        return 0;
    case KEY_SAVE_CASE:
        compare->options.save_case = arg;
        return 0;
    case KEY_HTML:
        compare->html = arg;
        return 0;
    case KEY_REPLAY:
        compare->replay = arg;
        return 0;
    case 'j':
        compare->json = true;
        return 0;
    case ARGP_KEY_END:
        if (!compare->replay && !compare->backends && compare->common.config)
            argp_error(state, "--backends is missing: name two or more, the reference side first");
        if (compare->replay && (compare->html || compare->samplers || compare->options.steps ||
                                compare->options.save_case || compare->observe))
            argp_error(state, "--replay runs one node: of the other options it takes --backends "
                              "and --json alone");
        if (compare->replay)
            return 0;
        return described_argument(&compare->common, key, arg, state);
    case ARGP_KEY_ARG:
        return described_argument(&compare->common, key, arg, state);
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"backends", 'b', "A,B,...", 0,
     "what to compare; the first is the reference side. NAME:PRECISION for another precision than "
     "[backend] precision, as in cpu:bf16",
     0},
    {"samplers", KEY_SAMPLERS, "A,B,...", 0, "with each of these (default: [sampler] use)", 0},
    {"steps", KEY_STEPS, "STEPS", 0, "instead of [sample] steps", 0},
    {"observe", KEY_OBSERVE, "fused|all", 0,
     "look into the programs as they run (fused, the default), or turn fusion off to see every "
     "value",
     0},
    {"save-case", KEY_SAVE_CASE, "DIR", 0,
     "keep the first node that leaves its tolerance, with its inputs, in DIR", 0},
    {"replay", KEY_REPLAY, "FILE", 0, "run a saved case again, on --backends or on its own", 0},
    {"html", KEY_HTML, "FILE", 0, "write one self-contained page; an existing FILE is replaced", 0},
    {"json", 'j', NULL, 0, "print one JSON object", 0},
    {0},
};
static const struct argp_child children[] = {{&described_argp}, {&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "CONFIG --backends A,B[,...]\n--replay FILE [CONFIG] [--backends A,...]",
    .doc =
        "Run one batch of the run that CONFIG describes on several backends, with the same "
        "checkpoint, noise and labels, and tell where they differ and how fast they are.\v"
        "A backend disagrees when a node of the network, run alone on the reference side's "
        "inputs, leaves its tolerance, or when the network's output at the reference side's "
        "states does. The exit status is then 3. That chains drift apart is told, not judged.\n\n"
        "Examples:\n"
        "  demist compare crawl.ini --backends reference,cpu --html report.html\n"
        "  demist compare crawl.ini --backends cpu,cpu:bf16 --samplers ddim,ddpm\n"
        "  demist compare crawl.ini --backends reference,opencl --save-case cases\n"
        "  demist compare --replay cases/ddim-opencl.safetensors --backends opencl,cpu",
};

static bool on_progress(void *user, const char *what, int64_t done, int64_t total)
{
    struct compare *compare = user;
    struct console *console = &compare->common.console;
    char line[192];
    double now = progress_clock();
    if (!console->terminal || console->verbosity == QUIET || now - compare->shown < 0.1)
        return !interrupted();
    compare->shown = now;
    snprintf(line, sizeof line, "%s %lld/%lld", what, (long long)done, (long long)total);
    console_draw(console, line);
    return !interrupted();
}

static demist_status split_lists(struct compare *c, struct dm_error *err)
{
    if (c->backends)
        DM_TRY(dm_split_list(&c->arena, c->backends, &c->options.backends, &c->options.n_backends,
                             err));
    if (c->samplers)
        DM_TRY(dm_split_list(&c->arena, c->samplers, &c->options.samplers, &c->options.n_samplers,
                             err));
    return DEMIST_OK;
}

/* page: opened before the comparison, so that a name which cannot be written is known early. */
static demist_status write_page(struct dm_outfile *page, const struct dm_comparison *comparison,
                                struct dm_error *err)
{
    struct dm_text html = DM_TEXT_INIT;
    demist_status status = dm_compare_html(comparison, &html, err);
    if (status == DEMIST_OK && html.failed)
        status = dm_fail_memory(err, page->path);
    if (status == DEMIST_OK)
        status = dm_outfile_write(page, html.data, html.size, err);
    if (status == DEMIST_OK)
        status = dm_outfile_commit(page, err);
    dm_text_finish(&html);
    return status;
}

static demist_status compare_backends(struct compare *c, const struct dm_environment *env,
                                      struct dm_error *err)
{
    struct dm_comparison comparison;
    struct dm_outfile page = DM_OUTFILE_INIT;
    c->options.progress = on_progress;
    c->options.user = c;
    if (c->html)
        DM_TRY(dm_outfile_open(&page, c->html, err));
    demist_status status =
        dm_compare(env, dm_session_ini(c->common.session), &c->options, &comparison, err);
    console_draw(&c->common.console, "");
    if (status == DEMIST_OK) {
        c->disagrees = comparison.disagrees;
        if (c->html)
            status = write_page(&page, &comparison, err);
        if (status == DEMIST_OK && c->json)
            status = dm_compare_json(&comparison, &c->common.out, err);
        else if (status == DEMIST_OK)
            dm_compare_text(&comparison, &c->common.out);
        dm_comparison_finish(&comparison);
    }
    dm_outfile_finish(&page);
    return status;
}

static demist_status replay(struct compare *c, const struct dm_environment *env,
                            struct dm_error *err)
{
    struct dm_ini defaults = {.file = "the defaults"};
    const struct dm_ini *ini = dm_session_ini(c->common.session);
    struct dm_replay result;
    DM_TRY(dm_compare_replay(env, ini ? ini : &defaults, c->replay, c->options.backends,
                             c->options.n_backends, &result, err));
    demist_status status = DEMIST_OK;
    c->disagrees = result.disagrees;
    if (c->json)
        status = dm_replay_json(&result, &c->common.out, err);
    else
        dm_replay_text(&result, &c->common.out);
    dm_replay_finish(&result);
    return status;
}

static demist_status run(void *state, struct dm_error *err)
{
    struct compare *c = state;
    const struct dm_environment *env;
    DM_TRY(split_lists(c, err));
    DM_TRY(dm_session_environment(c->common.session, &env, err));
    return (c->replay ? replay : compare_backends)(c, env, err);
}

int cmd_compare(int argc, char **argv)
{
    struct compare compare = {0};
    int status = run_command(&argp, argc, argv, &compare, run);
    dm_arena_finish(&compare.arena);
    return status == EXIT_DONE && compare.disagrees ? EXIT_DISAGREES : status;
}

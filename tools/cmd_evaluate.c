/* demist evaluate: how well a model fits data. `nll` is the one measure so far. */
#include "command.h"

#include "evaluate_nll.h"
#include "interrupt.h"
#include "number.h"
#include "progress.h"
#include "session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct evaluate {
    struct common common;
    const char *measure, *data;
    int64_t importance;
    bool json;
    double shown;    /* when progress last was */
    int64_t printed; /* images in the JSON */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct evaluate *evaluate = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = &evaluate->common;
        return 0;
    case 'd':
        evaluate->data = arg;
        return 0;
    case 'i':
        if (dm_parse_int64(arg, &evaluate->importance) != DM_PARSE_OK || evaluate->importance < 2 ||
            evaluate->importance % 2 != 0 || evaluate->importance > INT32_MAX)
            argp_error(state, "--importance %s: expected an even number from 2 on", arg);
        return 0;
    case 'j':
        evaluate->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (evaluate->measure)
            return described_argument(&evaluate->common, key, arg, state);
        if (strcmp(arg, "nll") != 0)
            argp_error(state, "\"%s\" is nothing to evaluate; there is: nll", arg);
        evaluate->measure = arg;
        return 0;
    case ARGP_KEY_END:
        if (!evaluate->measure)
            argp_error(state, "say what to evaluate: nll");
        if (evaluate->common.config && !evaluate->data)
            argp_error(state, "--data is missing: name a folder of pictures or a file");
        return described_argument(&evaluate->common, key, arg, state);
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"data", 'd', "DIR|FILE", 0,
     "all pictures below a folder (resized and cropped; the class is the name up to its first _), "
     ".npz, .npy, .safetensors, MNIST's idx or CIFAR's .bin",
     0},
    {"importance", 'i', "N", 0,
     "take N random t an image, those with large terms more often, instead of every t: unbiased, "
     "and the error that it costs is told",
     0},
    {"json", 'j', NULL, 0, "print one JSON object, with the terms of every image", 0},
    {0},
};
static const struct argp_child children[] = {{&described_argp}, {&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "nll CONFIG --data DIR|FILE",
    .doc = "Tell how many bits per dimension the model that CONFIG describes needs for data: the "
           "variational bound, with its terms at every kept timestep. All data are used, whatever "
           "[sample] images says; the variance is that of the sampler in use.\v"
           "Ctrl-C stops, and tells the mean of the images that are finished.\n\n"
           "Examples:\n"
           "  demist evaluate nll crawl.ini --data tiles/\n"
           "  demist evaluate nll crawl.ini --data test.npz --json --set sample.steps=100\n"
           "  demist evaluate nll crawl.ini --data tiles/ --set sample.steps= --importance 64",
};

/* ---------------------------------------------------------------- progress */

static void show_line(struct evaluate *e, const struct dm_nll_progress *p)
{
    struct dm_text line = DM_TEXT_INIT;
    dm_text_appendf(&line, "%lld of %lld images, evaluation %lld of %lld", (long long)p->done,
                    (long long)p->n_images, (long long)p->evaluations, (long long)p->all);
    if (p->done > 0)
        dm_text_appendf(&line, "; %.4f bits per dimension", p->so_far->total_bpd.mean);
    if (p->done > 1)
        dm_text_appendf(&line, " ± %.4f", dm_mean_error(&p->so_far->total_bpd));
    if (e->common.console.terminal)
        console_draw(&e->common.console, line.failed ? "" : line.data);
    else if (!line.failed)
        console_say(&e->common.console, "%s", line.data);
    dm_text_finish(&line);
}

static bool on_progress(void *user, const struct dm_nll_progress *p)
{
    struct evaluate *e = user;
    double now = progress_clock();
    bool batch_done = p->evaluations == p->all;
    double pause = e->common.console.terminal ? 0.1 : 10;
    if (now - e->shown >= pause || (batch_done && p->done == p->n_images)) {
        e->shown = now;
        if (e->common.console.verbosity != QUIET)
            show_line(e, p);
    }
    return !interrupted();
}

/* ---------------------------------------------------------------- JSON, image by image */

/* Numbers by the thousand, for images by the thousand: written as they come, not kept. */
static void put_number(struct dm_text *out, double number)
{
    char text[DM_DOUBLE_TEXT];
    dm_text_append(out, isfinite(number) ? dm_format_double(number, text) : "null");
}

static void put_member(struct dm_text *out, const char *key, double number)
{
    dm_text_appendf(out, ", \"%s\": ", key);
    put_number(out, number);
}

static void put_array(struct dm_text *out, const char *key, const double *numbers, int32_t n)
{
    dm_text_appendf(out, ", \"%s\": [", key);
    for (int32_t i = 0; i < n; i++) {
        if (i > 0)
            dm_text_append(out, ", ");
        put_number(out, numbers[i]);
    }
    dm_text_append(out, "]");
}

/* Prints the text and frees it; a failure of standard output stays in the stream. */
static demist_status flush_text(struct dm_text *out, struct dm_error *err)
{
    char *text = dm_text_take(out);
    if (!text)
        return dm_fail_memory(err, "JSON");
    fputs(text, stdout);
    fflush(stdout); /* each image when it is there */
    free(text);
    return DEMIST_OK;
}

static demist_status on_image(void *user, const struct dm_nll_image *image, struct dm_error *err)
{
    struct evaluate *e = user;
    struct dm_text out = DM_TEXT_INIT;
    dm_text_append(&out, e->printed++ == 0 ? "{\"images\": [\n {" : ",\n {");
    dm_text_append(&out, "\"total_bpd\": ");
    put_number(&out, image->total_bpd);
    put_member(&out, "prior_bpd", image->prior_bpd);
    if (image->vb) {
        put_array(&out, "vb", image->vb, image->n_steps);
        put_array(&out, "xstart_mse", image->xstart_mse, image->n_steps);
        put_array(&out, "mse", image->mse, image->n_steps);
    } else {
        put_member(&out, "sampling_error", image->sampling_error);
    }
    dm_text_append(&out, "}");
    return flush_text(&out, err);
}

static void put_means(struct dm_text *out, const char *key, const struct dm_mean *means, int32_t n,
                      bool errors)
{
    dm_text_appendf(out, ", \"%s\": [", key);
    for (int32_t i = 0; i < n; i++) {
        if (i > 0)
            dm_text_append(out, ", ");
        put_number(out, errors ? dm_mean_error(&means[i]) : means[i].mean);
    }
    dm_text_append(out, "]");
}

static void put_summary(struct dm_text *out, const struct dm_nll_result *r, bool errors)
{
    dm_text_appendf(out, ",\n \"%s\": {\"total_bpd\": ", errors ? "stderr" : "mean");
    put_number(out, errors ? dm_mean_error(&r->total_bpd) : r->total_bpd.mean);
    put_member(out, "prior_bpd", errors ? dm_mean_error(&r->prior_bpd) : r->prior_bpd.mean);
    if (r->vb) {
        put_means(out, "vb", r->vb, r->n_steps, errors);
        put_means(out, "xstart_mse", r->xstart_mse, r->n_steps, errors);
        put_means(out, "mse", r->mse, r->n_steps, errors);
    } else if (errors) {
        put_member(out, "sampling", r->sampling_error);
    }
    dm_text_append(out, "}");
}

static demist_status end_json(const struct evaluate *e, const struct dm_nll_result *r,
                              bool complete, struct dm_error *err)
{
    struct dm_text out = DM_TEXT_INIT;
    if (e->printed == 0) /* it failed before there was anything to tell */
        return DEMIST_OK;
    dm_text_append(&out, "\n ]");
    put_summary(&out, r, false);
    put_summary(&out, r, true);
    dm_text_appendf(&out, ",\n \"steps\": %d, \"importance\": %lld, \"complete\": %s}\n",
                    r->n_steps, (long long)e->importance, complete ? "true" : "false");
    return flush_text(&out, err);
}

/* ---------------------------------------------------------------- text */

static void print_mean(const char *name, const struct dm_mean *mean)
{
    printf("%-6s %10.5f", name, mean->mean);
    if (mean->n > 1)
        printf(" ± %.5f", dm_mean_error(mean));
    printf(" bits per dimension\n");
}

static void print_text(const struct evaluate *e, const struct dm_nll_result *r)
{
    if (r->total_bpd.n == 0)
        return;
    if (r->vb)
        printf("%6s %12s %12s %12s\n", "t", "vb", "x0 mse", "eps mse");
    for (int32_t t = 0; r->vb && t < r->n_steps; t++)
        printf("%6d %12.6g %12.6g %12.6g\n", t, r->vb[t].mean, r->xstart_mse[t].mean,
               r->mse[t].mean);
    printf("%lld image%s, %d steps", (long long)r->total_bpd.n, r->total_bpd.n == 1 ? "" : "s",
           r->n_steps);
    if (e->importance)
        printf(", %lld of them sampled for each image, which adds an error of %.5f",
               (long long)e->importance, r->sampling_error);
    printf("\n");
    print_mean("prior", &r->prior_bpd);
    print_mean("total", &r->total_bpd);
}

/* ---------------------------------------------------------------- the command */

static demist_status evaluate_nll(void *state, struct dm_error *err)
{
    struct evaluate *e = state;
    const struct dm_environment *env;
    struct dm_setup setup;
    struct dm_nll_result result;
    struct dm_nll_options with = {.importance = e->importance,
                                  .image = e->json ? on_image : NULL,
                                  .progress = on_progress,
                                  .user = e};
    DM_TRY(dm_session_environment(e->common.session, &env, err));
    DM_TRY(dm_setup_open(&setup, env, dm_session_ini(e->common.session),
                         DM_NEED_SAMPLER | DM_NEED_BACKEND, err));
    interrupt_gracefully(); /* what is done by then is told */
    e->shown = progress_clock();
    demist_status status = dm_evaluate_nll(&setup, e->data, &with, &result, err);
    console_draw(&e->common.console, "");
    if (status == DEMIST_OK && e->json)
        status = end_json(e, &result, true, err);
    else if (e->json) /* the failure that is told is the first one */
        end_json(e, &result, false, NULL);
    else
        print_text(e, &result);
    dm_nll_result_finish(&result);
    dm_setup_close(&setup);
    return status;
}

int cmd_evaluate(int argc, char **argv)
{
    struct evaluate evaluate = {0};
    return run_command(&argp, argc, argv, &evaluate, evaluate_nll);
}

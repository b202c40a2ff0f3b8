/* A comparison as a table for the terminal. */
#include "compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STEPS = 12, MOST_NODES = 8 };

/* ---------------------------------------------------------------- ranking */

/* How close to its bound: alone where it was run alone. */
static double closeness(const struct dm_compare_node *n)
{
    return n->alone ? n->ratio : n->screen;
}

static int by_rank(const void *a, const void *b)
{
    const struct dm_compare_node *x = *(const struct dm_compare_node *const *)a;
    const struct dm_compare_node *y = *(const struct dm_compare_node *const *)b;
    double p = closeness(x), q = closeness(y);
    return p != q ? (p < q ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

void dm_compare_rank(const struct dm_compare_side *side, const struct dm_compare_node **ranked)
{
    for (int32_t i = 0; i < side->n_nodes; i++)
        ranked[i] = &side->nodes[i];
    qsort(ranked, (size_t)side->n_nodes, sizeof(const struct dm_compare_node *), by_rank);
}

/* ---------------------------------------------------------------- numbers */

struct cell {
    char text[24];
};

/* "0", "3.1e-06", "not finite". */
static struct cell number(double x)
{
    struct cell c;
    if (x == 0)
        snprintf(c.text, sizeof c.text, "0");
    else if (isinf(x))
        snprintf(c.text, sizeof c.text, "not finite");
    else if (isnan(x))
        snprintf(c.text, sizeof c.text, "-");
    else
        snprintf(c.text, sizeof c.text, fabs(x) >= 0.1 && fabs(x) < 1000 ? "%.3g" : "%.1e", x);
    return c;
}

static struct cell decibels(const struct dm_difference *d)
{
    struct cell c;
    if (d->max == 0)
        snprintf(c.text, sizeof c.text, "equal");
    else if (!isfinite(d->psnr))
        snprintf(c.text, sizeof c.text, "-");
    else
        snprintf(c.text, sizeof c.text, "%.1f dB", d->psnr);
    return c;
}

static struct cell milliseconds(double ms)
{
    struct cell c;
    snprintf(c.text, sizeof c.text, ms < 10 ? "%.2f" : "%.1f", ms);
    return c;
}

static struct cell mebibytes(int64_t bytes)
{
    struct cell c;
    snprintf(c.text, sizeof c.text, bytes > 0 ? "%.1f MiB" : "-", (double)bytes / (1 << 20));
    return c;
}

/* ---------------------------------------------------------------- the parts */

static void head(const struct dm_comparison *c, struct dm_text *out)
{
    dm_text_appendf(out, "%s: network %s%s%s, schedule %s, seed %llu, %lld %s from number %lld\n",
                    c->config, c->network, c->checkpoint[0] ? " from " : "", c->checkpoint,
                    c->schedule, (unsigned long long)c->seed, (long long)c->n_images,
                    c->rank == 3 ? "images" : "samples", (long long)c->first);
}

static void sides(const struct dm_comparison *c, const struct dm_compare_run *run,
                  struct dm_text *out)
{
    dm_text_appendf(out, "\nsampler %s, %d steps, %d evaluations; differences are to %s on %s\n\n",
                    run->sampler, (int)run->n_steps, (int)run->n_evaluations, run->sides[0].label,
                    run->sides[0].device);
    dm_text_appendf(out, "%-16s %-6s %12s %10s %11s  %-22s %s\n", "backend", "", "first step",
                    "ms/step", "memory", "output vs. allowed", "x_0, free run");
    for (size_t i = 0; i < c->n_sides; i++) {
        const struct dm_compare_side *s = &run->sides[i];
        dm_text_appendf(out, "%-16s %-6s %9s ms %10s %11s  ", s->label, s->precision,
                        milliseconds(s->first_step_ms).text, milliseconds(s->ms_per_step).text,
                        mebibytes(s->peak_memory_bytes).text);
        if (i == 0) {
            dm_text_append(out, "reference side\n");
            continue;
        }
        const struct dm_compare_step *worst = &s->steps[s->output_step];
        char judged[64];
        snprintf(judged, sizeof judged, "%s of %s%s", number(worst->output).text,
                 number(worst->output_bound).text, s->output_exceeds ? " (!)" : "");
        const struct dm_difference *x0 = &s->steps[run->n_steps - 1].free;
        dm_text_appendf(out, "%-22s max %s, %s\n", judged, number(x0->max).text, decibels(x0).text);
    }
}

static void steps(const struct dm_compare_run *run, const struct dm_compare_side *s,
                  struct dm_text *out)
{
    int32_t n = run->n_steps, rows = n < MOST_STEPS ? n : MOST_STEPS;
    dm_text_appendf(out, "\n%s, step by step%s\n", s->label,
                    rows < n ? " (some of them; --json and --html have all)" : "");
    dm_text_appendf(out, "%6s  %-21s  %-32s  %s\n", "", "network output", "teacher-forced x",
                    "free-running x");
    dm_text_appendf(out, "%6s  %9s %11s  %9s %9s %11s   %9s %9s %11s\n", "step", "max", "allowed",
                    "max", "RMS", "PSNR", "max", "RMS", "PSNR");
    for (int32_t row = 0; row < rows; row++) {
        int32_t i = rows > 1 ? (int32_t)((int64_t)row * (n - 1) / (rows - 1)) : 0;
        const struct dm_compare_step *at = &s->steps[i];
        dm_text_appendf(out, "%6d  %9s %11s  %9s %9s %11s   %9s %9s %11s\n", (int)i + 1,
                        number(at->output).text, number(at->output_bound).text,
                        number(at->forced.max).text, number(at->forced.rms).text,
                        decibels(&at->forced).text, number(at->free.max).text,
                        number(at->free.rms).text, decibels(&at->free).text);
    }
}

static void nodes(const struct dm_comparison *c, const struct dm_compare_side *s,
                  struct dm_text *out)
{
    const struct dm_compare_node **ranked =
        malloc(((size_t)s->n_nodes + 1) * sizeof(const struct dm_compare_node *));
    int32_t inside = 0;
    for (int32_t i = 0; i < s->n_nodes; i++)
        inside += s->nodes[i].fate == DM_COMPARE_INSIDE;
    dm_text_appendf(out,
                    "\n%s, node by node: %d values seen, %d inside others, %d folded or mere "
                    "views; steps",
                    s->label, (int)s->n_seen, (int)inside, (int)(s->n_nodes - s->n_seen - inside));
    for (int32_t i = 0; i < s->n_observed; i++)
        dm_text_appendf(out, "%s %d", i ? "," : "", (int)s->observed_step[i] + 1);
    dm_text_appendf(out, "; %d suspects run alone\n", (int)s->n_alone);
    if (c->observe_all)
        dm_text_append(out, "(--observe all: fusion is turned off for this look inside)\n");
    dm_text_appendf(out, "%-40s %-18s %9s  %9s %9s %9s\n", "node", "op", "in place", "alone",
                    "allowed", "ratio");
    if (ranked)
        dm_compare_rank(s, ranked);
    for (int32_t i = 0, rows = 0; ranked && i < s->n_nodes && rows < MOST_NODES; i++) {
        const struct dm_compare_node *n = ranked[i];
        if (n->fate != DM_COMPARE_SEEN || n->difference == 0)
            continue;
        rows++;
        dm_text_appendf(out, "%-40s %-18.*s %9s  ", n->name, (int)strcspn(n->op, " "), n->op,
                        number(n->difference).text);
        if (n->alone)
            dm_text_appendf(out, "%9s %9s %9s%s\n", number(n->error).text, number(n->bound).text,
                            number(n->ratio).text, n->exceeds ? " (!)" : "");
        else
            dm_text_append(out, "within its tolerance in place\n");
    }
    free(ranked);
}

static void verdict(const struct dm_compare_run *run, const struct dm_compare_side *s,
                    struct dm_text *out)
{
    const struct dm_compare_node *bad = s->first_bad;
    if (bad) {
        dm_text_appendf(out,
                        "%s DISAGREES: the first node that leaves its tolerance is %s (%.*s%s%s): "
                        "alone on the inputs of %s it is off by %s, %s times what is "
                        "allowed\n",
                        s->label, bad->name, (int)strcspn(bad->op, " "), bad->op,
                        bad->part ? "; in its part " : "", bad->part ? bad->part : "",
                        run->sides[0].label, number(bad->error).text, number(bad->ratio).text);
        if (s->case_file)
            dm_text_appendf(out, "  its case: %s (demist compare --replay %s)\n", s->case_file,
                            s->case_file);
        return;
    }
    if (s->output_exceeds) {
        dm_text_appendf(out,
                        "%s DISAGREES: the network's output at step %d is %s times further off "
                        "than %s may be, and every node that was seen is right when run alone",
                        s->label, (int)s->output_step + 1, number(s->output_worst).text,
                        s->precision);
        if (s->first_apart)
            dm_text_appendf(out, "; the first value that is as far off is %s (%s)",
                            s->first_apart->name, s->first_apart->op);
        dm_text_append(out, "; --observe all sees more\n");
        return;
    }
    dm_text_appendf(out,
                    "%s agrees with %s: every node is within its tolerance, and so is the "
                    "network's output at every step\n",
                    s->label, run->sides[0].label);
}

void dm_compare_text(const struct dm_comparison *c, struct dm_text *out)
{
    head(c, out);
    for (size_t r = 0; r < c->n_runs; r++) {
        const struct dm_compare_run *run = &c->runs[r];
        sides(c, run, out);
        for (size_t i = 1; i < c->n_sides; i++) {
            steps(run, &run->sides[i], out);
            nodes(c, &run->sides[i], out);
        }
        dm_text_append(out, "\n");
        for (size_t i = 1; i < c->n_sides; i++)
            verdict(run, &run->sides[i], out);
    }
}

void dm_replay_text(const struct dm_replay *replay, struct dm_text *out)
{
    dm_text_appendf(out, "node %s, %lld images; differences are to %s's result in the file\n%s\n",
                    replay->node, (long long)replay->n_images, replay->reference, replay->graph);
    dm_text_appendf(out, "%-20s %9s %9s %9s\n", "backend", "alone", "allowed", "ratio");
    for (size_t i = 0; i < replay->n_sides; i++) {
        const struct dm_replay_side *s = &replay->sides[i];
        dm_text_appendf(out, "%-20s %9s %9s %9s%s\n", s->label, number(s->error).text,
                        number(s->bound).text, number(s->ratio).text,
                        s->exceeds ? "  leaves its tolerance" : "");
    }
}

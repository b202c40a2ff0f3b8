/* Each spacing is one function that appends indices of 0 … T-1 (`course`: 1 … T) in the order its
 * formula runs; dm_spacing_parse puts them into visiting order and checks what all must fulfil. */
#include "spacing.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "text.h"

/* The work in progress. */
struct grid {
    const char *spec; /* as given, for errors */
    int64_t T;
    const struct dm_spacing_options *options;
    int64_t *index; /* [T] */
    int64_t n;
    int64_t end;
    struct dm_error *err;
};

/* Keeps every product below within 64 bits. */
#define MAX_STEPS 1000000

static void append(struct grid *g, int64_t index)
{
    g->index[g->n++] = index;
}

/* round(a/b), halves to even; a >= 0, b > 0. */
static int64_t round_ratio(int64_t a, int64_t b)
{
    const int64_t q = a / b, twice = 2 * (a % b);
    return q + (twice > b || (twice == b && q % 2));
}

static demist_status all(struct grid *g)
{
    for (int64_t i = 0; i < g->T; i++)
        append(g, i);
    return DEMIST_OK;
}

static demist_status leading(struct grid *g, int64_t N)
{
    const int64_t stride = g->T / N, last = (N - 1) * stride + g->options->leading_offset;
    if (last >= g->T)
        return dm_fail(g->err, DEMIST_CONFIG,
                       "steps = \"%s\": with an offset of 1 the index %" PRId64
                       " would be visited, but the last one is %" PRId64
                       "; use fewer steps or offset 0",
                       g->spec, last + g->options->first_index, g->T - 1 + g->options->first_index);
    for (int64_t i = 0; i < N; i++)
        append(g, i * stride + g->options->leading_offset);
    return DEMIST_OK;
}

static demist_status trailing(struct grid *g, int64_t N)
{
    for (int64_t i = 0; i < N; i++)
        append(g, round_ratio((N - i) * g->T, N) - 1);
    return DEMIST_OK;
}

static demist_status linspace(struct grid *g, int64_t N)
{
    for (int64_t i = 0; i < N; i++)
        append(g, N == 1 ? 0 : round_ratio(i * (g->T - 1), N - 1));
    return DEMIST_OK;
}

/* floor(4 T i^2 / 5 (N-1)^2). It is steepest at its end: two indices at the beginning coincide once
 * the first stride is below 1. */
static demist_status quadratic(struct grid *g, int64_t N)
{
    for (int64_t i = 0; i < N; i++)
        append(g, N == 1 ? 0 : 4 * g->T * i * i / (5 * (N - 1) * (N - 1)));
    return DEMIST_OK;
}

static demist_status course(struct grid *g, int64_t N)
{
    if (g->options->first_index != 1)
        return dm_fail(g->err, DEMIST_CONFIG,
                       "steps = \"%s\": this spacing is of one-based schedules; set indexing = one "
                       "in the schedule's section, or use trailing%" PRId64,
                       g->spec, N);
    const int64_t stride = g->T / N;
    int64_t t = g->T;
    for (; t > 0; t -= stride)
        append(g, t - 1);
    g->end = t < 0 && g->options->course_wrap ? g->T + 1 + t : 0;
    return DEMIST_OK;
}

static int64_t ceil_ratio(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static demist_status ddim(struct grid *g, int64_t N)
{
    /* ceil(T/s) falls as s rises, so the first s with ceil(T/s) <= N decides */
    const int64_t stride = ceil_ratio(g->T, N);
    if (stride >= g->T || ceil_ratio(g->T, stride) != N) {
        const int64_t fewer = stride < g->T ? ceil_ratio(g->T, stride) : 0;
        const int64_t more = stride > 1 && g->T > 1 ? ceil_ratio(g->T, stride - 1) : 0;
        const int64_t near = fewer && (!more || N - fewer <= more - N) ? fewer : more;
        if (!near)
            return dm_fail(g->err, DEMIST_CONFIG,
                           "steps = \"%s\": no integer stride makes %" PRId64
                           " of one step; leave steps empty",
                           g->spec, N);
        return dm_fail(g->err, DEMIST_CONFIG,
                       "steps = \"%s\": no integer stride visits %" PRId64 " of %" PRId64
                       " steps; the nearest is ddim%" PRId64 ", and \"%" PRId64
                       "\" takes that many with a fractional stride",
                       g->spec, N, g->T, near, N);
    }
    for (int64_t i = 0; i < N; i++)
        append(g, i * stride);
    return DEMIST_OK;
}

static demist_status section(struct grid *g, int64_t start, int64_t size, int64_t count)
{
    if (count > size)
        return dm_fail(g->err, DEMIST_CONFIG,
                       "steps = \"%s\": %" PRId64 " steps of a section that has %" PRId64
                       " (indices %" PRId64 " to %" PRId64 ")",
                       g->spec, count, size, start + g->options->first_index,
                       start + size - 1 + g->options->first_index);
    const double stride = count > 1 ? (double)(size - 1) / (double)(count - 1) : 1;
    double position = 0; /* added up, not multiplied: see spacing.h */
    for (int64_t i = 0; i < count; i++) {
        append(g, start + (int64_t)nearbyint(position));
        position += stride;
    }
    return DEMIST_OK;
}

/* A decimal number without sign, from 0 to MAX_STEPS; CONFIG names the spec. */
static demist_status parse_count(const struct grid *g, const char *text, int64_t *count)
{
    int64_t value;
    if (!isdigit((unsigned char)text[0]) || dm_parse_int64(text, &value) != DM_PARSE_OK)
        return dm_fail(g->err, DEMIST_CONFIG, "steps = \"%s\": \"%s\" is not a number of steps",
                       g->spec, text);
    if (value > g->T)
        return dm_fail(g->err, DEMIST_CONFIG,
                       "steps = \"%s\": %" PRId64 " is more than the %" PRId64
                       " steps of the schedule",
                       g->spec, value, g->T);
    *count = value;
    return DEMIST_OK;
}

static demist_status sections(struct grid *g, struct dm_arena *arena)
{
    const char *const *items;
    size_t n;
    if (dm_split_list(arena, g->spec, &items, &n, g->err) != DEMIST_OK)
        return dm_fail_where(g->err, "steps = \"%s\"", g->spec);
    if ((int64_t)n > g->T)
        return dm_fail(g->err, DEMIST_CONFIG,
                       "steps = \"%s\": %zu sections are more than the %" PRId64
                       " steps of the schedule",
                       g->spec, n, g->T);
    const int64_t size = g->T / (int64_t)n, longer = g->T % (int64_t)n;
    int64_t start = 0;
    for (size_t i = 0; i < n; i++) {
        const int64_t length = size + ((int64_t)i < longer);
        int64_t count = 0;
        DM_TRY(parse_count(g, items[i], &count));
        DM_TRY(section(g, start, length, count));
        start += length;
    }
    if (g->n == 0)
        return dm_fail(g->err, DEMIST_CONFIG, "steps = \"%s\": no step is left", g->spec);
    return DEMIST_OK;
}

static const struct {
    const char *name;
    demist_status (*fill)(struct grid *g, int64_t N);
} kinds[] = {
    {"ddim", ddim},         {"leading", leading},     {"trailing", trailing},
    {"linspace", linspace}, {"quadratic", quadratic}, {"course", course},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static demist_status unknown(const struct grid *g, const char *word)
{
    const char *names[N_KINDS];
    for (int k = 0; k < N_KINDS; k++)
        names[k] = kinds[k].name;
    const char *near = dm_nearest(word, names, N_KINDS);
    return dm_fail(g->err, DEMIST_CONFIG,
                   "steps = \"%s\": not a spacing%s%s%s; write a number (50), sections (10,20,30), "
                   "or ddimN, leadingN, trailingN, linspaceN, quadraticN, courseN",
                   g->spec, near ? "; did you mean " : "", near ? near : "", near ? "N?" : "");
}

/* "trailing25": a word and its number. */
static demist_status named(struct grid *g, struct dm_arena *arena)
{
    const size_t letters = strcspn(g->spec, "0123456789");
    const char *word = dm_arena_strndup(arena, g->spec, letters);
    if (!word)
        return dm_fail_memory(g->err, "reading steps");
    for (int k = 0; k < N_KINDS; k++) {
        if (strcmp(word, kinds[k].name) != 0)
            continue;
        int64_t N = 0;
        DM_TRY(parse_count(g, g->spec + letters, &N));
        if (N == 0)
            return dm_fail(g->err, DEMIST_CONFIG, "steps = \"%s\": no step is left", g->spec);
        return kinds[k].fill(g, N);
    }
    return unknown(g, word);
}

static demist_status compute(struct grid *g)
{
    if (strspn(g->spec, " \t") == strlen(g->spec))
        return all(g);
    struct dm_arena arena;
    dm_arena_init(&arena);
    demist_status status = isalpha((unsigned char)g->spec[0])      ? named(g, &arena)
                           : strspn(g->spec, "0123456789, \t") > 0 ? sections(g, &arena)
                                                                   : unknown(g, g->spec);
    dm_arena_finish(&arena);
    return status;
}

static int descending(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (y > x) - (y < x);
}

demist_status dm_spacing_parse(const char *spec, int64_t T,
                               const struct dm_spacing_options *options, struct dm_spacing *out,
                               struct dm_error *err)
{
    if (T < 1 || T > MAX_STEPS)
        return dm_fail(err, DEMIST_CONFIG, "a schedule of %" PRId64 " steps: 1 to %d are supported",
                       T, MAX_STEPS);
    struct grid g = {
        .spec = spec, .T = T, .options = options, .end = options->first_index - 1, .err = err};
    g.index = malloc((size_t)T * sizeof *g.index);
    if (!g.index)
        return dm_fail_memory(err, "the timesteps of a run");
    demist_status status = compute(&g);
    if (status != DEMIST_OK) {
        free(g.index);
        return status;
    }
    qsort(g.index, (size_t)g.n, sizeof *g.index, descending);
    for (int64_t i = 0; i < g.n; i++)
        g.index[i] += options->first_index;
    *out = (struct dm_spacing){.index = g.index, .n = g.n, .end = g.end};
    return DEMIST_OK;
}

void dm_spacing_finish(struct dm_spacing *spacing)
{
    if (!spacing)
        return;
    free(spacing->index);
    *spacing = (struct dm_spacing){0};
}

/* The same checkpoint, noise and labels on several backends in lockstep: where do they differ?
 *
 * The first backend is the reference side. It runs the chain and keeps every state and every
 * evaluation of the network; each other side then
 *   - runs freely: its own chain from the same x_T, told but never judged, since chains diverge;
 *   - runs teacher-forced: every step starts from the reference side's x;
 *   - evaluates the network at the reference side's (x, t): that output is judged by what its
 *     precision allows a whole network;
 *   - is looked into at some of these evaluations: the difference of every value that OBSERVE shows
 *     is the screen, and each node that it makes a suspect is run alone on the reference side's
 *     inputs; only that error is held against the node's own bound.
 * So an error that came from upstream accuses nobody, and the first node in the graph's order that
 * leaves its tolerance is the one to look at. */
#ifndef DM_COMPARE_H
#define DM_COMPARE_H

#include "setup.h"

struct dm_compare_options {
    /* "cpu", or "cpu:bf16" for another precision than [backend] precision; at least two. */
    const char *const *backends;
    size_t n_backends;
    const char *const *samplers; /* none: the one of the description */
    size_t n_samplers;
    const char *steps;     /* instead of [sample] steps; may be NULL */
    bool observe_all;      /* look into an unfused program, where no value hides in another */
    const char *save_case; /* a directory for the case of the first bad node; may be NULL */
    /* Called now and then; false stops. May be NULL. */
    bool (*progress)(void *user, const char *what, int64_t done, int64_t total);
    void *user;
};

/* Of one set of values to the reference side's. */
struct dm_difference {
    double max, rms; /* INFINITY where only one of the two is finite */
    double psnr;     /* dB, of the data's range; INFINITY for equal values */
};

struct dm_compare_step {
    double time; /* the schedule time that it reaches */
    struct dm_difference free, forced;
    /* The network's output at the reference side's state; of several evaluations the worst. NAN
     * where the step evaluates nothing. */
    double output, output_bound;
};

/* What became of a node of the network's graph in a side's program. */
enum dm_compare_fate {
    DM_COMPARE_SEEN,
    DM_COMPARE_INSIDE, /* computed within node `inside` */
    DM_COMPARE_GONE,   /* folded, a mere view, or used by nothing */
};

struct dm_compare_node {
    const char *name, *op, *shape;
    int32_t id; /* in the network's graph */
    enum dm_compare_fate fate;
    const char *inside;
    /* Of what was seen, the worst over all evaluations that were looked into. */
    double difference,
        relative;  /* max |Δ|, and as a part of max|value|: errors from upstream too */
    double screen; /* the difference as a part of the bound; over 1 is suspect */
    bool alone;    /* a suspect, run alone */
    double error, bound, ratio; /* alone: max |Δ|, what is allowed there, error/bound at worst */
    const char *part;           /* of a chain judged in parts: the worst; else NULL */
    int32_t evaluation;         /* index of the evaluation with the worst ratio */
    bool exceeds;
};

struct dm_compare_side {
    const char *label, *backend, *precision;
    const char *device, *driver, *detail;
    demist_precision number_format;
    double first_step_ms;             /* compilation included */
    double ms_per_step;               /* the median of the others */
    int64_t param_bytes, arena_bytes; /* of the network's program */
    int64_t peak_memory_bytes;        /* of the process, while this side sampled */
    const char *choices;              /* what it tuned, or NULL */
    const float *x0;                  /* [n_images][elements], of the free run */
    /* The rest is zero for the reference side. */
    struct dm_compare_step *steps; /* [n_steps] */
    double output_worst;           /* the largest output/output_bound */
    int32_t output_step;           /* its step */
    bool output_exceeds;
    struct dm_compare_node *nodes; /* [n_nodes], in the graph's order, leaves left out */
    int32_t n_nodes, n_seen, n_alone;
    int32_t observed[4], observed_step[4]; /* evaluations that were looked into, and their steps */
    int32_t n_observed;
    int64_t observed_images;                 /* of the batch's, as many as fit in memory */
    const struct dm_compare_node *first_bad; /* NULL: none exceeds its bound */
    /* Where no node alone is bad but the output is: the first value that differs by more than a
     * whole network may. */
    const struct dm_compare_node *first_apart;
    const char *case_file; /* the saved case, or NULL */
};

/* One sampler on all sides. */
struct dm_compare_run {
    const char *sampler;
    int32_t n_steps, n_evaluations;
    double range;                  /* of the data, for PSNR */
    struct dm_compare_side *sides; /* [n_sides] */
};

struct dm_comparison {
    struct dm_arena arena;
    const char *config, *network, *checkpoint, *schedule, *spacing;
    uint64_t seed;
    int64_t n_images, first;
    int32_t rank; /* of one datum */
    int64_t shape[DEMIST_MAX_RANK], n_elements;
    double lo, hi; /* the range of images */
    bool observe_all;
    struct dm_compare_run *runs; /* [n_runs] */
    size_t n_runs, n_sides;
    bool disagrees; /* a node alone, or a teacher-forced output, exceeds its bound */
};

/* ini: is not changed. Whether the sides agree is no error: see disagrees. The comparison needs
 * dm_comparison_finish on DEMIST_OK only. */
demist_status dm_compare(const struct dm_environment *env, const struct dm_ini *ini,
                         const struct dm_compare_options *options, struct dm_comparison *comparison,
                         struct dm_error *err);
void dm_comparison_finish(struct dm_comparison *comparison);

/* One device of a case that is replayed. */
struct dm_replay_side {
    const char *label;
    double error, bound, ratio;
    bool exceeds;
};

struct dm_replay {
    struct dm_arena arena;
    const char *node, *reference, *graph; /* the graph as text */
    int64_t n_images;
    struct dm_replay_side *sides;
    size_t n_sides;
    bool disagrees;
};

/* Runs a saved case on the backends (none: the one that it was saved for), with their options as
 * in ini. */
demist_status dm_compare_replay(const struct dm_environment *env, const struct dm_ini *ini,
                                const char *path, const char *const *backends, size_t n_backends,
                                struct dm_replay *replay, struct dm_error *err);
void dm_replay_finish(struct dm_replay *replay);

/* The n_nodes nodes of a side, those closest to their bounds, or beyond, in front: by the ratio of
 * what was run alone, of others by the screen.  ranked: [n_nodes]. */
void dm_compare_rank(const struct dm_compare_side *side, const struct dm_compare_node **ranked);

/* Reports. JSON: docs/compare.md has the layout; numbers that are not finite are null. */
void dm_compare_text(const struct dm_comparison *comparison, struct dm_text *out);
demist_status dm_compare_json(const struct dm_comparison *comparison, struct dm_text *out,
                              struct dm_error *err);
demist_status dm_compare_html(const struct dm_comparison *comparison, struct dm_text *out,
                              struct dm_error *err);
void dm_replay_text(const struct dm_replay *replay, struct dm_text *out);
demist_status dm_replay_json(const struct dm_replay *replay, struct dm_text *out,
                             struct dm_error *err);

#endif

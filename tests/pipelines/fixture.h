/* Runs from INI text with the shipped plugins linked in: what a test of a pipeline needs. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "sample.h"

/* Plugins, threads and a log for one test. */
struct fixture {
    struct dm_log log;
    struct dm_pool *pool;
    struct dm_plugin_path path;
    struct dm_environment env;
    char notices[4096]; /* what was logged, a line each */
};

/* The shipped plugins, NULL-ended. */
const demist_plugin *const *fixture_plugins(void);

/* threads ≥ 1. extra: further plugins, NULL-ended, or NULL. Fails the test when it cannot. */
void fixture_open(struct fixture *f, int threads, const demist_plugin *const *extra);
void fixture_close(struct fixture *f);

/* A document from text, whose relative paths are those of the working directory, with overrides
 * ("section.key=value", NULL-ended, or NULL). Fails the test when it does not parse. */
struct dm_ini *fixture_ini(const char *text, const char *const *overrides);

/* All states of a run. */
struct recording {
    int32_t n_steps;
    int64_t n, elements;
    double *times; /* [n_steps+1] */
    float *states; /* [n_steps+1][n][elements] */
    float *x0;     /* [n][elements], what `finished` got */
};

/* Runs the description; wants_states: also records every state. Returns the status, with the
 * text in err. recording_free on DEMIST_OK. */
demist_status fixture_sample(struct fixture *f, const struct dm_ini *ini, bool wants_states,
                             struct recording *out, struct dm_error *err);
void recording_free(struct recording *r);

/* Fails the test, with err's text, unless status is DEMIST_OK. */
void fixture_expect_ok(demist_status status, struct dm_error *err);

/* A tensor of a reference file as floats, for free(); *n elements. Fails the test without it. */
float *fixture_tensor(const char *path, const char *name, int64_t *n);

/* max |a − b| and max |b|. */
double max_difference(const float *a, const float *b, int64_t n);
double max_magnitude(const float *b, int64_t n);

#endif

/* How fast a run's backends are: time per sampler step, what of the device's peak that is, and
 * where the time goes. */
#ifndef DM_BENCH_H
#define DM_BENCH_H

#include "setup.h"

struct dm_bench_options {
    const char *const *backends; /* as of dm_compare_options; at least one */
    size_t n_backends;
    bool profile;
    bool (*progress)(void *user, const char *what); /* false stops; may be NULL */
    void *user;
};

/* What the nodes of one kind take, in one evaluation of the network. */
struct dm_bench_op {
    const char *name; /* "conv2d", "conv2d+silu" for what is fused */
    int32_t nodes;
    double ms, flops;
};

struct dm_bench_side {
    const char *label, *precision, *device, *driver, *detail, *choices;
    double first_step_ms; /* compilation included */
    double ms_per_step;   /* the median, for the whole batch */
    double fastest_ms, slowest_ms;
    int32_t blocks, block;     /* measured: so many, each of so many steps */
    double images_per_s;       /* finished ones, with all of the run's steps */
    double evaluations;        /* of the network, per step */
    double gflops;             /* of the network's arithmetic, counted as written */
    double peak_gflops;        /* of a large product on this device, measured */
    int64_t peak_memory_bytes; /* of the process while it ran; of a GPU its program's memory */
    int64_t param_bytes, arena_bytes;
    struct dm_bench_op *ops; /* [n_ops], the slowest first */
    size_t n_ops;
    double profile_ms; /* of one evaluation under the profiler */
};

struct dm_bench {
    struct dm_arena arena;
    const char *config, *network, *sampler;
    int64_t batch;
    int32_t n_steps;
    int threads;
    double flops; /* of one evaluation for one image */
    struct dm_bench_side *sides;
    size_t n_sides;
};

/* needs dm_bench_finish on DEMIST_OK only. */
demist_status dm_bench_run(const struct dm_environment *env, const struct dm_ini *ini,
                           const struct dm_bench_options *options, struct dm_bench *bench,
                           struct dm_error *err);
void dm_bench_finish(struct dm_bench *bench);

void dm_bench_text(const struct dm_bench *bench, struct dm_text *out);
demist_status dm_bench_json(const struct dm_bench *bench, struct dm_text *out,
                            struct dm_error *err);

#endif

/* The network interface: a function of (x_t, t, conditions) as graphs whose parameters are bound
 * by name to a checkpoint's tensors.
 *
 * `denoise` is required. Its inputs: `x` (role X), `t` (role TIME), and what it conditions on; its
 * output is `out`: the network's raw output, all 2C channels where the variance is learned. The
 * host owns guidance, clipping and the derivation of x_0 and ε. Optional graphs: `condition` (run
 * once per run, its outputs feed denoise's inputs of the same names), `encode`, `decode`. */
#ifndef DEMIST_NETWORK_H
#define DEMIST_NETWORK_H

#include <demist/builder.h>
#include <demist/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What `out` predicts. */
typedef enum demist_prediction_type {
    DEMIST_PREDICT_EPS = 1,
    DEMIST_PREDICT_X0 = 2,
    DEMIST_PREDICT_V = 3,    /* signal·ε − noise·x_0 */
    DEMIST_PREDICT_X1 = 4,   /* the far end of a path, in ε's place */
    DEMIST_PREDICT_MEAN = 5, /* of the posterior q(x_{t−1} | x_t, x_0) */
} demist_prediction_type;

/* What the second half of `out`'s channels is (Nichol & Dhariwal 2021, eq. 15). */
typedef enum demist_learned_variance {
    DEMIST_VARIANCE_NONE = 0,
    DEMIST_VARIANCE_RANGE = 1,  /* v: log σ² = f·log β + (1−f)·log β̃, f = (v+1)/2 */
    DEMIST_VARIANCE_LOGVAR = 2, /* log σ² itself */
} demist_learned_variance;

/* How the network wants the time of a schedule with T steps. */
typedef enum demist_time_form {
    DEMIST_TIME_INDEX = 1,        /* the index */
    DEMIST_TIME_INDEX_1000 = 2,   /* float32(index)·(1000/T) */
    DEMIST_TIME_INDEX_OVER_T = 3, /* index/T */
    DEMIST_TIME_PATH = 4,         /* the schedule's own time, as a path has it */
} demist_time_form;

/* Handed over zeroed, but for size, and null_class, which is −1. rank, shape, prediction and time
 * must be set. */
typedef struct demist_network_info {
    size_t size;
    demist_prediction_type prediction;
    demist_learned_variance learned_variance;
    demist_time_form time;
    bool fractional_times;          /* whether times between indices are meaningful */
    int32_t rank;                   /* of one datum: 3 for images, 1 for points */
    int64_t shape[DEMIST_MAX_RANK]; /* [C,H,W], [2] */
    bool clip_denoised;             /* what `[sample] clip_denoised = auto` means */
    double clip_low, clip_high;
    int64_t n_classes;    /* 0: not class-conditional */
    int64_t null_class;   /* the class that means "none", for guidance; −1: there is none */
    int64_t context_size; /* 0: no context vector */
    bool null_context;    /* a context of zeros means "none", for guidance */
} demist_network_info;

typedef struct demist_network_vtable {
    size_t size;

    /* [main thread] values: in schema order. */
    demist_status (*create)(const demist_host *host, const demist_value *const *values,
                            void **self);
    void (*destroy)(void *self); /* [main thread] NULL is legal */

    /* [main thread, after create] May look at the checkpoints through b, but builds nothing. */
    demist_status (*describe)(void *self, demist_builder *b, demist_network_info *info);

    /* [main thread, after create] Builds the named graph; DEMIST_NOT_FOUND without a message when
     * the network has none of that name. Errors of the builder need no handling. */
    demist_status (*build)(void *self, demist_builder *b, const char *graph);
} demist_network_vtable;

#ifdef __cplusplus
}
#endif
#endif

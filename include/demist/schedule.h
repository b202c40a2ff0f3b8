/* The schedule interface: which noise level belongs to which time.
 *
 * A schedule is pure: it fills float64 tables once, and the host derives everything else. Two
 * forms:
 *
 * - Variance preserving (Ho et al. 2020): x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε, given by β. Index of the
 *   i-th step (i = 0 … n−1, from the clean end): i + first_index; ᾱ before the first step is 1.
 * - A general Gaussian path: x_t = signal_t·x_0 + noise_t·ε, given by time, signal and noise.
 *   The straight path (1−t)·x_0 + t·x_1 is one; there x_1, the end at t = 1, takes ε's place. */
#ifndef DEMIST_SCHEDULE_H
#define DEMIST_SCHEDULE_H

#include <demist/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum demist_schedule_form {
    DEMIST_VARIANCE_PRESERVING = 1,
    DEMIST_GAUSSIAN_PATH = 2,
} demist_schedule_form;

/* Made by the host with arrays allocated and zeroed; filled by the schedule. */
typedef struct demist_tables {
    size_t size;
    int64_t n; /* T, [schedule] steps; ≥ 1 */
    demist_schedule_form form;
    int32_t first_index; /* VP: 0 (t = 0 … T−1) or 1 (t = 1 … T, the end point is 0) */

    double *beta; /* VP: [n], each in (0, 1) */
    /* VP: [n+1], alpha_bar[0] = 1 at the clean end, alpha_bar[i+1] after step i. Filled only
     * where it does not follow from beta, with has_alpha_bar set; otherwise the host takes the
     * cumulative product. */
    double *alpha_bar;
    bool has_alpha_bar;

    /* GAUSSIAN_PATH: [n] each, in ascending time, noise rising; after the first entry the path
     * ends at time_end with signal 1 and noise 0. */
    double *time, *signal, *noise;
    double time_end;
    /* GAUSSIAN_PATH: added to signal where x_0 = (x − noise·ε)/(signal + guard). */
    double signal_guard;
} demist_tables;

typedef struct demist_schedule_vtable {
    size_t size;

    /* [main thread] values: in schema order. */
    demist_status (*create)(const demist_host *host, const demist_value *const *values,
                            void **self);
    void (*destroy)(void *self); /* [main thread] NULL is legal */

    /* [main thread, after create] Fails with host->fail, for example when T is too small. */
    demist_status (*fill)(void *self, demist_tables *tables);

    /* [any thread, after create] Optional: signal and noise at a time t between indices, in the
     * units of the indices (of `time` for a path); n is T, as in the tables. Without it the host
     * interpolates λ = ln(signal/noise) linearly in t. */
    demist_status (*eval)(void *self, int64_t n, double t, double *signal, double *noise);
} demist_schedule_vtable;

#ifdef __cplusplus
}
#endif
#endif

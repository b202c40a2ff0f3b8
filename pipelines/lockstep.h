/* What the parts of a comparison share: the reference side's chain, and the chains of the others
 * beside it. */
#ifndef DM_LOCKSTEP_H
#define DM_LOCKSTEP_H

#include "compare.h"
#include "conditions.h"
#include "runner.h"

/* An evaluation of the reference side; all it points to is owned by the lockstep. */
struct dm_recorded {
    struct dm_evaluation at;
    int32_t step;
};

struct dm_lockstep {
    struct dm_setup *setup; /* without a device: each side lends its own */
    const struct dm_compare_options *options;
    int32_t n_steps;
    int64_t n, elements, raw_elements;
    double range;  /* of the data */
    float *states; /* [n_steps+1][n][elements], of the reference side */
    struct dm_recorded *evaluations;
    size_t n_evaluations, capacity;
    struct dm_batch_conditions conditions; /* of these n images */
    bool guided;
};

/* setup: opened with DM_NEED_SAMPLER. */
demist_status dm_lockstep_open(struct dm_lockstep *lockstep, struct dm_setup *setup,
                               const struct dm_compare_options *options, int64_t n,
                               struct dm_error *err);
void dm_lockstep_close(struct dm_lockstep *lockstep);

/* The reference side's chain, and its times. */
demist_status dm_lockstep_reference(struct dm_lockstep *lockstep, struct dm_device *device,
                                    struct dm_compare_side *side, struct dm_arena *arena,
                                    struct dm_error *err);
/* Another side's two chains and its outputs. other: the precision of a reference side that is not
 * exact, NULL for one that is. */
demist_status dm_lockstep_side(struct dm_lockstep *lockstep, struct dm_device *device,
                               const demist_precision *other, struct dm_compare_side *side,
                               struct dm_arena *arena, struct dm_error *err);

/* The look inside, by nodes: fills the side's nodes and its list of evaluations. */
demist_status dm_compare_nodes(struct dm_lockstep *lockstep, struct dm_device *reference,
                               struct dm_device *device, const demist_precision *other,
                               const struct dm_compare_run *run, struct dm_compare_side *side,
                               struct dm_arena *arena, struct dm_error *err);

/* Tells the listener; CANCELLED when it wants to stop. */
demist_status dm_compare_tell(const struct dm_compare_options *options, const char *label,
                              const char *what, int64_t done, int64_t total, struct dm_error *err);

#endif

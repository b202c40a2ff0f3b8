/* How far a backend's result may be from the reference's, element by element. */
#ifndef OP_BOUNDS_H
#define OP_BOUNDS_H

#include "harness.h"
#include "op_cases.h"

struct op_bounds {
    double *bound; /* [elements of the result]; 0: equal */
};

/* wanted: the reference's result for n images. `reference` computes the magnitudes of sums. */
void op_bounds_init(struct op_bounds *bounds, struct harness *reference, const struct op_case *c,
                    int64_t n, const float *wanted);
void op_bounds_finish(struct op_bounds *bounds);

struct op_difference {
    int64_t element;
    double got, wanted, error, bound;
};

/* Whether the first n images of got lie within the bounds; NaN and infinities have to be equal.
 * Otherwise *d is the first element that does not. */
bool op_bounds_hold(const struct op_bounds *bounds, const demist_node *out, int64_t n,
                    const void *wanted, const void *got, struct op_difference *d);

#endif

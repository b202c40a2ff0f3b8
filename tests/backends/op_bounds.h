/* How far a backend's result of an op case may be from the reference's: docs/ops.md applied to the
 * case's data. */
#ifndef OP_BOUNDS_H
#define OP_BOUNDS_H

#include "op_cases.h"
#include "optolerance.h"

/* The tolerance of a case's result. graph: as built, not lowered; operands: the case's data;
 * wanted: the reference's result for n images.
 *
 * A chain of ops has no bound of its own; the error of its steps together is held against 2e-5 of
 * the largest result (strict: a quarter of it), what a whole network is allowed. */
struct dm_tolerance op_bounds(const struct op_case *c, const demist_graph *graph,
                              void *const *operands, int64_t n, demist_precision precision,
                              const void *wanted);

struct op_difference {
    int64_t element;
    double got, wanted, allowed;
};

/* Whether the first n images of got lie within the tolerance; otherwise *d is the first element
 * that does not. */
bool op_within(struct dm_tolerance tolerance, const demist_node *out, int64_t n, const void *wanted,
               const void *got, struct op_difference *d);

#endif

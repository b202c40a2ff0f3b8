/* How far a backend's result of one op may be from the exact one: docs/ops.md as code. Tests of
 * backends and `compare` hold single nodes against it, each computed from the same float32 inputs
 * as the exact value (float64). */
#ifndef DM_OPTOLERANCE_H
#define DM_OPTOLERANCE_H

#include <demist/backend.h>

/* What the bounds depend on. Magnitudes are the largest absolute values of whole tensors. */
struct dm_magnitudes {
    double out;
    const double *in; /* [n_inputs], as node->inputs */
    /* Products under STRICT: the largest error of one float32 FMA chain per element,
     * s ← fma(a_k, b_k, s) for k = 0, 1, …, measured; negative: estimated as 2^−24·√K·out. */
    double chain_error;
    /* Group and layer norms: the largest max|x|/√(variance + eps) of a group. Batch norm whose
     * gamma and variance have no data: the largest |gamma|·(|x| + |mean|)/√(variance + eps) +
     * |beta|. Attention: the largest |scale·qᵀk|. Elsewhere 0. */
    double condition;
};

/* A result is right if |got − exact| ≤ abs + rel·|exact|; NaN and infinities have to be equal. abs
 * is INFINITY where nothing can be said about a FUSED node: judge its parts. Both are 0 where bits
 * have to be equal. */
struct dm_tolerance {
    double abs, rel;
};

/* Magnitudes of a FUSED node: of its own inputs, and `out` the largest of all values in it. */
struct dm_tolerance dm_op_tolerance(const demist_node *node, demist_precision precision,
                                    const struct dm_magnitudes *magnitudes);

/* Whether got is within the tolerance of exact. */
bool dm_within(struct dm_tolerance tolerance, double got, double exact);

/* How many products a product op sums up for one element: K of [..,K] x [O,K], C/g·kh·kw of a
 * convolution, D + M of attention; 0 for other ops. */
int64_t dm_op_terms(const demist_node *node);

#endif

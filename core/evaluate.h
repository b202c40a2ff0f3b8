/* Values that are known before anything runs: the evaluator of constant folding. It computes the
 * elementwise and the shape ops on unbatched values, in float64, each result rounded to float32
 * once; products and everything that depends on an image are the backends'. */
#ifndef DM_EVALUATE_H
#define DM_EVALUATE_H

#include <demist/graph.h>

/* Whether dm_evaluate knows the op. */
bool dm_can_evaluate(demist_op op);

/* Computes a node of such an op whose value and inputs are unbatched. inputs: the values of
 * node->inputs; out: demist_elements(node) elements of 4 bytes that overlap no input. */
void dm_evaluate(const demist_node *node, const void *const *inputs, void *out);

#endif

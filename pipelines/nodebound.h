/* How far a backend's result of a node may be from the exact one, given the data that the node was
 * computed from: optolerance.h with its magnitudes measured. */
#ifndef DM_NODEBOUND_H
#define DM_NODEBOUND_H

#include "optolerance.h"

/* The data of a node of the graph for n images; NULL: not known. */
typedef const void *dm_node_data(void *user, const demist_node *node);

/* largest: the largest magnitude of the exact result; for a FUSED node, of all values within.
 * abs is INFINITY where nothing can be said about a FUSED node: judge its parts. */
struct dm_tolerance dm_node_tolerance(const demist_node *node, demist_precision precision,
                                      int64_t n, double largest, dm_node_data *data, void *user);

/* The sum: what two results may be apart that each keep their own. */
struct dm_tolerance dm_tolerance_sum(struct dm_tolerance a, struct dm_tolerance b);

/* The largest finite |x| of n images of a node's value; 0 for integers and for data NULL. */
double dm_node_largest(const demist_node *node, const void *data, int64_t n);

/* How a result differs from the exact one. */
struct dm_node_error {
    double largest;  /* |got − exact|; INFINITY where one is not finite and the other another */
    double ratio;    /* the largest error divided by what is allowed there; over 1 it exceeds */
    double bound;    /* what is allowed where the ratio is largest */
    double relative; /* largest, divided by the largest |exact| */
    int64_t element; /* where the ratio is largest, −1: the two are equal */
    double got, exact;
};

struct dm_node_error dm_node_compare(const demist_node *node, int64_t n,
                                     struct dm_tolerance tolerance, const void *got,
                                     const void *exact);

/* What a whole network's output may be off, as a part of max|out|: docs/ops.md. */
double dm_network_tolerance(demist_precision precision);

#endif

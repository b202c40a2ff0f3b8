/* Graphs in the making and their owner: the host's side of <demist/builder.h>.
 *
 * A dm_graph is filled through its builder (by a network, or by the host itself), finished, and
 * read as a demist_graph from then on. Nodes, names, attributes and constants live in its arena;
 * the data of parameters belong to the sources, which must outlive it, or stay in their files. One
 * thread at a time. */
#ifndef DM_GRAPHBUILD_H
#define DM_GRAPHBUILD_H

#include <demist/builder.h>

#include "error.h"
#include "memory.h"

struct dm_graph;
struct dm_sources;

/* An empty graph. `sources` holds the checkpoints that parameters come from; NULL: there are none,
 * and asking for a parameter is an error that says so. */
demist_status dm_graph_create(const char *name, struct dm_sources *sources, struct dm_graph **out,
                              struct dm_error *err);

/* NULL is legal. Ends the life of its nodes and of its builder. */
void dm_graph_destroy(struct dm_graph *graph);

/* Belongs to the graph. Calls after dm_graph_finish fail. */
demist_builder *dm_graph_builder(struct dm_graph *graph);

/* Ends building: returns the first error of the builder's calls (its text names graph, node and
 * op), or INVALID when there is no output. Missing and misshapen parameters are not errors here:
 * dm_sources_check lists them all at once, and their nodes have data NULL until then. So have those
 * whose data were left in a file (dm_sources_read_late). */
demist_status dm_graph_finish(struct dm_graph *graph, struct dm_error *err);

/* The finished graph; belongs to `graph`. */
const demist_graph *dm_graph_view(const struct dm_graph *graph);

/* The data of `param`, a parameter of `graph` or of a graph lowered from it, into `to`, row-major
 * f32: those of the node, or what its source reads. INVALID where there are none. */
demist_status dm_graph_read_param(const struct dm_graph *graph, const demist_node *param, float *to,
                                  struct dm_error *err);

/* Whether it has any. */
bool dm_graph_has_param(const struct dm_graph *graph, const demist_node *param);

/* The node of that name, NULL when there is none. */
const demist_node *dm_graph_find(const struct dm_graph *graph, const char *name);

/* Scalar slots. dm_graph_slot makes the slot unless it is there (−1: the builder failed),
 * dm_graph_find_slot returns −1 when it is not. `slot` is from 0 to n_scalars − 1. */
enum dm_slot_kind {
    DM_SLOT_UNUSED, /* no node reads it */
    DM_SLOT_NUMBER, /* demist_scalar.f */
    DM_SLOT_INTEGER /* demist_scalar.u */
};
int32_t dm_graph_slot(struct dm_graph *graph, const char *name);
int32_t dm_graph_find_slot(const struct dm_graph *graph, const char *name);
const char *dm_graph_slot_name(const struct dm_graph *graph, int32_t slot);
enum dm_slot_kind dm_graph_slot_kind(const struct dm_graph *graph, int32_t slot);

/* ---- For the passes ---- */

/* Memory that lives as long as the graph; zeroed. NULL, with the builder failed, when there is
 * none. dm_graph_data: 64-byte aligned, for a node's data. */
void *dm_graph_alloc(struct dm_graph *graph, size_t n, size_t size);
void *dm_graph_data(struct dm_graph *graph, size_t bytes);
struct dm_arena *dm_graph_arena(struct dm_graph *graph);

/* Appends a copy of `node`, whose inputs are nodes of `graph` already; name and inputs are copied,
 * data and a FUSED node's body are not. Shapes are taken as they are, id and param_index are set
 * anew; INPUTs and PARAMs enter the graph's lists. NULL after failing, which includes a name that
 * is taken. */
const demist_node *dm_graph_append(struct dm_graph *graph, const demist_node *node);

/* Makes the scalar slots of `from`, in their order, in a graph that has none. */
void dm_graph_copy_slots(struct dm_graph *graph, const struct dm_graph *from);

#endif

/* A node of a network with the data that it is computed from: run alone, kept in a file, and run
 * again from there without the checkpoint.
 *
 * A case is a graph of one node, or of the chain that a backend fuses into one, whose other values
 * are inputs and constants. It is compiled like any graph, so that the backend makes of it what it
 * makes of the same nodes in the network.
 *
 * The file is a safetensors file: tensors "node.K" (data of the graph's K-th node, an input or a
 * constant), "expected", "got"; metadata "demist.case" (JSON: the graph) and texts for people. */
#ifndef DM_NODECASE_H
#define DM_NODECASE_H

#include "device.h"
#include "nodebound.h"
#include "tensorfile.h"

struct dm_case {
    struct dm_graph *graph;     /* one output; owned */
    const void **data;          /* [inputs of the graph]: n images each */
    const void *expected;       /* the output's */
    double largest;             /* the largest magnitude within, of all values of a chain */
    int64_t n;                  /* images */
    demist_scalar *scalars;     /* [slots of the graph], owned; NULL: there are none */
    struct dm_arena arena;      /* of `data` */
    struct dm_checkpoint *file; /* that it was loaded from, or NULL; owned */
};

/* Where a case's data come from: values of the nodes of `graph` for n images. */
struct dm_case_source {
    const struct dm_graph *graph;
    dm_node_data *data; /* NULL for what is not known, which only PARAM and CONSTANT may be */
    /* Whether the value is known before anything runs: it is then a constant of the case. */
    bool (*is_constant)(void *user, const demist_node *node);
    void *user;
    const demist_scalar *scalars; /* of the graph's slots */
    int64_t n;
};

/* The nodes ids[0..n_ids), in the graph's order, the last of which is the result. Shares the
 * source's data, which must outlive it. */
demist_status dm_case_make(struct dm_case *c, const struct dm_case_source *source,
                           const int32_t *ids, int32_t n_ids, struct dm_error *err);
void dm_case_finish(struct dm_case *c); /* a zeroed one is legal */

/* A result of a case. */
struct dm_case_result {
    float *out; /* n images of the output; owned */
    struct dm_node_error error;
    struct dm_tolerance tolerance; /* abs is INFINITY: judge the parts one by one */
    int nodes;                     /* that the device made of it: 1 when it fused all of a chain */
};

/* Runs the case on a device and holds the result against `expected`. other: the tolerance of the
 * side that `expected` comes from (its precision), where it is not exact; NULL: it is. */
demist_status dm_case_run(const struct dm_case *c, struct dm_device *device,
                          const demist_precision *other, struct dm_case_result *result,
                          struct dm_error *err);
void dm_case_result_finish(struct dm_case_result *result);

/* Texts that go with a case in its file. */
struct dm_case_texts {
    const char *network, *node, *backend, *precision, *reference, *description;
};

/* Replaces the file. */
demist_status dm_case_save(const struct dm_case *c, const struct dm_case_texts *texts,
                           const float *got, const char *path, struct dm_error *err);

/* The backend and precision that the file was made with; they belong to the case. */
struct dm_case_origin {
    const char *node, *backend, *precision, *reference;
};
demist_status dm_case_load(struct dm_case *c, struct dm_case_origin *origin, const char *path,
                           struct dm_error *err);

#endif

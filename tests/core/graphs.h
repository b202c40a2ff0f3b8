/* What tests of graphs share: short ways to make values, and claims about shapes and errors. */
#ifndef GRAPHS_H
#define GRAPHS_H

#include "graphbuild.h"
#include "shape.h"

enum { N = -1 }; /* DEMIST_BATCH, short */

#define SHAPE(...)                                                                                 \
    (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[])               \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static inline struct dm_graph *new_graph(void)
{
    struct dm_graph *graph;
    assert_int_equal(dm_graph_create("denoise", NULL, &graph, NULL), DEMIST_OK);
    return graph;
}

static inline const demist_node *f32_input(demist_builder *b, const char *name, int32_t rank,
                                           const int64_t *shape)
{
    return b->input(b, name, DEMIST_ROLE_OTHER, DEMIST_F32, rank, shape);
}

/* A constant of the given shape: 0.5, 1.5, … */
static inline const demist_node *ramp(demist_builder *b, int32_t rank, const int64_t *shape)
{
    int64_t n = 1;
    for (int32_t i = 0; i < rank; i++)
        n *= shape[i];
    float *data = malloc((size_t)n * sizeof *data);
    assert_non_null(data);
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)i + 0.5f;
    const demist_node *node = b->constant(b, DEMIST_F32, rank, shape, data);
    free(data);
    return node;
}

static inline void assert_shape(const demist_node *node, int32_t rank, const int64_t *shape)
{
    assert_non_null(node);
    assert_string_equal(dm_shape_text(node->rank, node->shape).text,
                        dm_shape_text(rank, shape).text);
}

/* Building has failed, and the text contains the fragment. Destroys the graph. */
static inline void assert_build_fails(struct dm_graph *graph, const char *fragment)
{
    struct dm_error err = DM_ERROR_INIT;
    demist_builder *b = dm_graph_builder(graph);
    if (!b->failed(b))
        fail_msg("building was expected to fail with \"%s\"", fragment);
    assert_int_not_equal(dm_graph_finish(graph, &err), DEMIST_OK);
    assert_contains(err.text, fragment);
    dm_error_clear(&err);
    dm_graph_destroy(graph);
}

#endif

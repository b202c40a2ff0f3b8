/* What the CPU backend compiles a graph into.
 *
 * A value is a strided view of a storage. Convolutions and normalisations write images
 * pixel-major (N, H, W, C with C padded to CPU_CHANNELS floats), so that reshapes to heads or
 * tokens, slices, transposes and most concatenations are views: only strides change. Elementwise
 * ops keep the layout they meet; everything else is dense and row-major.
 *
 * Elements have four bytes (f32, i32), or two: in precision bf16 the values that networks pass on
 * from products and normalisations are stored as bf16. Ops that do not know bf16 get their inputs
 * through cpu_value_of, which widens them first. */
#ifndef CPU_PROGRAM_H
#define CPU_PROGRAM_H

#include "cpu_kernels.h"

#include <demist/backend.h>
#include <demist/random.h>
#include <demist/view.h>

#include <string.h>

enum { CPU_MAX_OPERANDS = 16, CPU_MAX_SOURCES = 8, CPU_MAX_POSTS = 12, CPU_MAX_TILE = 16 };

struct demist_device {
    const demist_host *host;
    const demist_philox *philox; /* NULL: the host has none */
    const struct cpu_kernels *kernels;
    const demist_device_info *info; /* the instance's */
};

struct demist_buffer {
    demist_device *device;
    char *data;
    size_t bytes;
};

/* --- values --- */

enum cpu_place {
    CPU_ARENA,  /* where: offset in bytes */
    CPU_FIXED,  /* data: parameters and constants */
    CPU_INPUT,  /* where: index of the graph's input */
    CPU_OUTPUT, /* where: index of the graph's output */
};

enum cpu_type {          /* of elements: a view's and its storage's are the same */
                CPU_F32, /* or i32, by its bits */
                CPU_BF16,
};

struct cpu_storage {
    enum cpu_place place;
    enum cpu_type type;
    bool batched;
    int64_t elements; /* of one image if batched */
    int64_t where;
    void *data;
    int32_t first, last; /* steps between which it must live */
};

/* One value read as pixels of channels: element (n, y, x, c) at n·image + y·row + x·column +
 * c·channel. */
struct cpu_grid {
    demist_view view;
    int64_t image, row, column, channel;
};

/* --- programs --- */

struct cpu_run;

struct cpu_step {
    int32_t node;
    void *op;
    demist_status (*run)(struct cpu_run *run, const void *op);
    /* Packs parameters; again when one of them is updated. NULL: has none. */
    void (*prepare)(const struct cpu_kernels *kernels, const demist_host *host, void *op);
    int32_t n_params, params[CPU_MAX_SOURCES]; /* indices in graph->params */
};

struct cpu_value {
    demist_op op;
    const char *name; /* the node's, for messages */
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    bool defined;
    demist_view view;
    int32_t ready;  /* the step after which it is there; −1: before the first */
    int32_t inside; /* OBSERVE: the node that this one was fused into, −1: none */
    int32_t param;  /* index in graph->params, −1: none */
};

struct demist_program {
    demist_device *device;
    uint32_t flags;
    demist_precision precision;
    int64_t max_batch, at_once; /* images: of an execution, and of one pass through the steps */
    int32_t n_values, n_inputs, n_outputs, n_params, n_scalars, n_storages, n_steps;
    int32_t room_storages, room_steps;
    struct cpu_value *values; /* by node id */
    struct cpu_storage *storages;
    struct cpu_step *steps;
    int32_t *input_nodes, *output_nodes, *param_nodes;
    bool *param_filled;
    struct cpu_memory *memory; /* everything that lives as long as the program */
    char *arena, *scratch;
    int64_t param_bytes, arena_bytes, scratch_bytes; /* scratch: of one worker */
    double flops;
    struct cpu_building *building; /* while compile runs */
    demist_node_profile *profile;  /* by node id */
    const demist_node_profile **profiles;
};

struct cpu_observer {
    int32_t node;
    demist_buffer *buffer;
    struct cpu_copy *copy;
};

struct demist_binding {
    demist_program *program;
    char **bases; /* by storage; behind them room for those of one pass */
    demist_buffer **buffers;
    struct cpu_observer *observers; /* [n_values], buffer NULL: none */
    int32_t n_observers;
};

/* One pass through the steps, for some of an execution's images. */
struct cpu_run {
    const demist_program *program;
    const demist_host *host;
    const struct cpu_kernels *kernels;
    char *const *bases;
    const demist_scalar *scalars;
    int64_t first, images;
};

/* Bytes of an element. */
static inline int64_t cpu_size(int32_t type)
{
    return type == CPU_BF16 ? 2 : 4;
}

/* The view's element number `at`. */
static inline void *cpu_element(const struct cpu_run *run, const demist_view *view, int64_t at)
{
    return run->bases[view->storage] + (view->offset + at) * cpu_size(view->type);
}

/* The start of a view of floats. */
static inline float *cpu_at(const struct cpu_run *run, const demist_view *view)
{
    return cpu_element(run, view, 0);
}

/* As v_store16 rounds. */
static inline uint32_t cpu_to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (x != x ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline float cpu_from_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* Entries along the first axis, where it is not the only one. */
static inline int64_t cpu_images(const struct cpu_run *run, const demist_view *view)
{
    return view->batched ? run->images : view->rank > 1 ? view->shape[0] : 1;
}

static inline float *cpu_scratch(const struct cpu_run *run, int worker)
{
    return (float *)(void *)(run->program->scratch + run->program->scratch_bytes * worker);
}

static inline int64_t cpu_round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

static inline int64_t cpu_ceil(int64_t n, int64_t by)
{
    return (n + by - 1) / by;
}

static inline int64_t cpu_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* host->parallel, or a plain loop where `work` (about one for each multiply-add or four bytes)
 * is too little to be worth waking anybody. */
void cpu_parallel(const struct cpu_run *run, int64_t n, demist_task fn, void *arg, double work);

/* --- loops (cpu_nest.c) --- */

/* Loops over the elements of several views of one shape: the first axis is the images', then the
 * others in the order of the first view's strides, neighbours merged. */
struct cpu_nest {
    int32_t n, rank;
    bool batched;
    int64_t size[DEMIST_MAX_RANK + 1], stride[CPU_MAX_OPERANDS][DEMIST_MAX_RANK + 1];
};

void cpu_nest_init(struct cpu_nest *nest, int32_t n, const demist_view *views);
/* Starts of every view's row (a run along the innermost axis) number `row`, in elements. */
void cpu_nest_row(const struct cpu_nest *nest, int64_t row, int64_t *starts);
int64_t cpu_nest_rows(const struct cpu_nest *nest, int64_t images);

/* --- building (cpu_compile.c) --- */

/* Zeroed, freed with the program; NULL with `fail` called. */
void *cpu_new(demist_program *p, size_t bytes);
/* Uninitialised memory for parameters, counted as such. */
float *cpu_new_floats(demist_program *p, int64_t n);
/* A storage in the arena that lives from the next step on; −1: out of memory. */
int32_t cpu_new_storage(demist_program *p, bool batched, int64_t elements);
int32_t cpu_new_storage_as(demist_program *p, bool bf16, bool batched, int64_t elements);
/* The next step reads or writes the view. */
void cpu_touch(demist_program *p, const demist_view *view);
/* Appends the step; its storages must have been touched. NULL: out of memory. */
struct cpu_step *cpu_add_step(demist_program *p, int32_t node,
                              demist_status (*run)(struct cpu_run *, const void *), void *op);
/* Every worker needs that many floats. */
void cpu_need_scratch(demist_program *p, int64_t floats);

/* The value of a node as a view (copies parameters' data on first use): of f32 or i32, or as it is
 * stored. */
demist_status cpu_value_of(demist_program *p, const demist_node *node, demist_view *view);
demist_status cpu_value_as_stored(demist_program *p, const demist_node *node, demist_view *view);
/* Whether the node's result is to be stored as bf16: in that precision, what has pixels or tokens
 * and is no output. */
bool cpu_keeps_bf16(const demist_program *p, const demist_node *node);
/* The data of a parameter or constant, valid until cpu_end_data if FROZEN, else as long as the
 * program; at most CPU_MAX_SOURCES at a time; *pending becomes true if they come with a later
 * update. */
demist_status cpu_data_of(demist_program *p, const demist_node *node, const float **data,
                          bool *pending);
/* The step is made: their memory may be used again. */
void cpu_end_data(demist_program *p);
bool cpu_is_fixed(const demist_node *node);
/* The node's result: a new storage of bf16 or not, pixel-major (channels innermost, padded) or
 * dense; or a place in the concatenation that it goes to, whose storage decides about bf16. */
demist_status cpu_result_pixels(demist_program *p, const demist_node *node, bool bf16,
                                demist_view *view);
demist_status cpu_result_dense(demist_program *p, const demist_node *node, bool bf16,
                               demist_view *view);
/* With the order of axes that `like` has in memory. */
demist_status cpu_result_like(demist_program *p, const demist_node *node, bool bf16,
                              const demist_view *like, demist_view *view);
/* A copy of the view, in memory by descending order[] of its axes (first axis first). */
demist_status cpu_materialise(demist_program *p, int32_t node, const int32_t *order, bool bf16,
                              demist_view *view);
/* Makes a value of f32 one of bf16 or the other way round, unless it is; channels (axis 1), or the
 * last axis, become innermost then. */
demist_status cpu_need_format(demist_program *p, int32_t node, bool pixels, bool bf16,
                              demist_view *view);
/* Makes the channels (axis 1) innermost unless they are; then the other axes collapse to one. */
demist_status cpu_need_pixels(demist_program *p, int32_t node, demist_view *view);
/* Makes the last axis contiguous unless it is. */
demist_status cpu_need_rows(demist_program *p, int32_t node, demist_view *view);

/* --- ops: each adds the steps of one node; `node` holds the result, `body` is what to compute ---
 */

/* What follows a product, element by element of its result. */
struct cpu_post {
    demist_op op;
    float p0, p1;               /* AFFINE, CLAMP */
    bool has_operand, reversed; /* operand op x instead of x op operand */
    struct cpu_grid operand;
};

struct cpu_fused {
    const demist_node *result;       /* the node that the value belongs to */
    int32_t n;                       /* nodes of the chain, ≥ 1 */
    const demist_node *const *chain; /* chain[0]: the product, the norm */
};

/* Elements of `view` broadcast to the shape of `to`, as a grid: axis 0 the images, axis `channel`
 * the channels, at most two others; its channels made contiguous unless they are, or repeat. */
demist_status cpu_grid_of(demist_program *p, int32_t node, const demist_view *view,
                          const demist_view *to, int32_t channel, struct cpu_grid *grid);
/* Two values [.., K] and [.., O] of one leading shape, y dense, as [images, rows, channels]. */
demist_status cpu_merge_rows(demist_program *p, int32_t node, demist_view *x, demist_view *y);
/* An op of one input without parameters. */
static inline bool cpu_is_activation(demist_op op)
{
    return op >= DEMIST_OP_ABS && op <= DEMIST_OP_GELU;
}
/* chain[1…] as posts on a value laid out as `result`, from `first` on; operands as they are stored,
 * or as floats. */
demist_status cpu_posts_of(demist_program *p, const struct cpu_fused *f, const demist_view *result,
                           int32_t channel, int32_t first, bool as_stored, struct cpu_post *posts,
                           int32_t *n);
/* A tile [rows][ld]: pixel (image, y, x) of each row, channels from `channel` on, n of them. */
struct cpu_tile {
    float *data;
    int64_t ld, channel, n;
    int rows;
    int64_t image[CPU_MAX_TILE], y[CPU_MAX_TILE], x[CPU_MAX_TILE];
};
void cpu_run_posts(const struct cpu_run *run, const struct cpu_post *posts, int32_t n,
                   const struct cpu_tile *tile);
/* Runs the posts and stores the tile. */
void cpu_finish_tile(const struct cpu_run *run, const struct cpu_post *posts, int32_t n,
                     const struct cpu_grid *to, const struct cpu_tile *tile);

demist_status cpu_add_product(demist_program *p, const struct cpu_fused *f); /* cpu_product.c */
demist_status cpu_add_norm(demist_program *p, const struct cpu_fused *f);    /* cpu_norm.c */
/* cpu_elementwise.c */
demist_status cpu_add_elementwise(demist_program *p, const struct cpu_fused *f);
demist_status cpu_add_cast(demist_program *p, const demist_node *node);
/* cpu_attention.c */
demist_status cpu_add_attention(demist_program *p, const demist_node *node);
demist_status cpu_add_matmul(demist_program *p, const demist_node *node);
/* cpu_shape.c */
struct cpu_copy;
demist_status cpu_add_copy(demist_program *p, int32_t node, const demist_view *to,
                           const demist_view *from);
struct cpu_copy *cpu_copy_init(struct cpu_copy *copy, const demist_view *to,
                               const demist_view *from);
size_t cpu_copy_size(void);
void cpu_copy_run(const struct cpu_run *run, const struct cpu_copy *copy, void *to);
demist_status cpu_add_concat(demist_program *p, const demist_node *node);
demist_status cpu_add_pad(demist_program *p, const demist_node *node);
demist_status cpu_add_embedding(demist_program *p, const demist_node *node);
/* cpu_reduce.c */
demist_status cpu_add_reduce(demist_program *p, const demist_node *node);
demist_status cpu_add_batch_sum(demist_program *p, const demist_node *node);
demist_status cpu_add_softmax(demist_program *p, const demist_node *node);
/* cpu_space.c */
demist_status cpu_add_pool(demist_program *p, const demist_node *node);
demist_status cpu_add_upsample(demist_program *p, const demist_node *node);
demist_status cpu_add_resize(demist_program *p, const demist_node *node);
/* cpu_random.c */
demist_status cpu_add_philox(demist_program *p, const demist_node *node);
demist_status cpu_add_scalar(demist_program *p, const demist_node *node);

/* Whether one step can compute the chain. */
bool cpu_fuses(const demist_node *fused, const char **why);

/* --- the vtable's part --- */

bool cpu_has_precision(demist_device *device, demist_precision precision);
demist_status cpu_compile(demist_device *device, const demist_graph *graph,
                          const demist_compile_info *info, demist_program **program);
demist_status cpu_compile_reading(demist_device *device, const demist_graph *graph,
                                  const demist_compile_info *info,
                                  const demist_param_reader *reader, demist_program **program);
void cpu_program_destroy(demist_program *program);
bool cpu_supports(demist_device *device, const demist_node *node, const char **why);
demist_status cpu_program_info(demist_program *program, demist_program_info *info);
demist_status cpu_update_params(demist_queue *queue, demist_program *program, int32_t n,
                                const int32_t *params, const void *const *data);
demist_status cpu_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                       demist_binding **binding);
void cpu_binding_destroy(demist_binding *binding);
demist_status cpu_execute(demist_queue *queue, demist_binding *binding,
                          const demist_scalar *scalars, int64_t n_images);
demist_observability cpu_observability(demist_program *program, int32_t id, int32_t *inside);
demist_status cpu_observe(demist_binding *binding, int32_t id, demist_buffer *buffer);
demist_status cpu_profile(demist_program *program, const demist_node_profile *const **profiles,
                          int32_t *n);

/* cpu_isa.c: the table of a level ("auto": the best), or NULL with why it cannot be used. */
const struct cpu_kernels *cpu_find_kernels(const char *level, const char **why);

#define CPU_TRY(call)                                                                              \
    do {                                                                                           \
        const demist_status cpu_try_status = (call);                                               \
        if (cpu_try_status != DEMIST_OK)                                                           \
            return cpu_try_status;                                                                 \
    } while (0)

#endif

/* What the OpenCL backend compiles a graph into.
 *
 * A value is a strided view of a storage, and all storages of the arena and of the parameters lie
 * in two buffers, at planned offsets. Convolutions and normalisations write images pixel-major
 * (N, H, W, C), so that channels are contiguous for vectors and for coalesced loads alike, and
 * reshapes to heads, slices and transposes only change strides. A step is one kernel launch whose
 * arguments are known up to the number of images; steps that read nothing but parameters run once,
 * when the program is compiled or its parameters change.
 *
 * Elements have four bytes (f32, i32) or, where the precision says so, are f16. Narrow are results
 * of products and normalisations on images and sequences, and what is computed from narrow values
 * alone; inputs, outputs, vectors of features and whatever meets a float32 value are f32. Between
 * load and store everything is float32. */
#ifndef OCL_PROGRAM_H
#define OCL_PROGRAM_H

#include "ocl_device.h"

#include <demist/view.h>

enum {
    OCL_MAX_OPERANDS = 14, /* values that one kernel reads */
    OCL_MAX_CHAIN = 24,    /* nodes of one fused kernel */
    OCL_MAX_ARGS = 160,
};

/* --- values --- */

enum ocl_place {
    OCL_ARENA,  /* where: offset in bytes */
    OCL_FIXED,  /* what parameters and constants give; where: offset in bytes */
    OCL_RAW,    /* FIXED, but read by one-time steps alone: gone after compile if FROZEN */
    OCL_INPUT,  /* where: index of the graph's input */
    OCL_OUTPUT, /* where: index of the graph's output */
};

enum ocl_type {
    OCL_F32, /* or i32, by its bits */
    OCL_F16,
};

struct ocl_storage {
    enum ocl_place place;
    enum ocl_type type;
    bool batched;
    bool written;     /* by some step */
    bool varies;      /* written by a step that runs in every execution */
    int64_t elements; /* of one image if batched */
    int64_t where;
    const void *data;         /* uploaded once; NULL: nothing */
    const demist_node *param; /* the same, from the compilation's reader */
    int32_t first, last;
};

/* a + b·(images of the execution) */
struct ocl_count {
    int64_t a, b;
};

/* --- launches --- */

enum ocl_arg_kind {
    OCL_ARG_VALUE, /* two kernel arguments: the buffer, and the first element as a long */
    OCL_ARG_INT,   /* count */
    OCL_ARG_FLOAT,
    OCL_ARG_SCALAR,   /* float from a scalar slot */
    OCL_ARG_SLOT_LOW, /* uint: low and high half of a slot's integer */
    OCL_ARG_SLOT_HIGH,
};

struct ocl_arg {
    enum ocl_arg_kind kind;
    bool written;
    int32_t storage; /* or scalar slot */
    union {
        int64_t offset; /* VALUE, in elements */
        struct ocl_count count;
        float number;
    };
};

struct ocl_launch {
    int32_t node;
    cl_kernel kernel;           /* the device's; NULL: CLBlast, args as ocl_product.c puts them */
    struct ocl_count global[3]; /* what there is to do along each axis */
    int64_t each[3];            /* of which a work-item does so many */
    size_t local[3];
    int32_t n_args;
    struct ocl_arg *args; /* [n_args]; while it is being made, OCL_MAX_ARGS */
};

struct ocl_draws; /* host-made random numbers */

struct ocl_step {
    struct ocl_launch launch;
    struct ocl_draws *draws; /* instead of a launch */
};

struct ocl_value {
    demist_op op;
    const char *name;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    bool defined;
    bool is_output; /* of the graph: never narrow */
    demist_view view;
    int32_t ready;  /* the step after which it is there; −1: before the first */
    int32_t inside; /* the node that this one was fused into, −1: none */
};

struct ocl_steps {
    int32_t n, room;
    struct ocl_step *list;
};

struct demist_program {
    demist_device *device;
    uint32_t flags;
    demist_precision precision;
    enum ocl_type narrow; /* of values that may be stored so; OCL_F32: none are */
    int64_t max_batch;
    int32_t n_values, n_inputs, n_outputs, n_params, n_scalars, n_storages, room_storages;
    struct ocl_value *values; /* by node id */
    struct ocl_storage *storages;
    struct ocl_steps once, steps; /* when parameters change; in every execution */
    int32_t *input_nodes, *output_nodes, *param_nodes, *philox_nodes;
    int32_t n_philox;
    demist_attrs *philox_attrs;
    bool *param_filled;
    const demist_param_reader *reader; /* while compile runs; NULL: nodes have their data */
    struct ocl_memory *memory;         /* host memory that lives as long as the program */
    cl_mem arena, fixed, raw;
    int64_t fixed_bytes, raw_bytes, arena_bytes;
    int32_t zeros; /* storage of zeros that padding reads; −1: none */
    double flops;
    uint64_t choices; /* hash of what was measured to be best */
    bool chose;
    char choices_text[24];
    demist_node_profile *profile; /* by node id */
    const demist_node_profile **profiles;
};

struct ocl_place_of { /* of a storage, in one binding */
    cl_mem memory;
    int64_t offset; /* bytes */
    int64_t size;   /* bytes of an element */
};

struct ocl_observer {
    int32_t node;
    demist_buffer *buffer;
    struct ocl_launch copy;
};

struct demist_binding {
    demist_program *program;
    struct ocl_place_of *places;    /* by storage; one more for what is observed */
    struct ocl_observer *observers; /* [n_values], buffer NULL: none */
    int32_t n_observers;
};

/* --- views --- */

/* Images, or entries of the first axis, of a view. */
static inline struct ocl_count ocl_images(const demist_view *view)
{
    if (view->batched)
        return (struct ocl_count){0, 1};
    return (struct ocl_count){view->rank > 0 ? view->shape[0] : 1, 0};
}

/* Entries of an axis of a nest. */
static inline struct ocl_count ocl_axis(const demist_nest *nest, int32_t axis)
{
    return nest->batched && axis == 0 ? (struct ocl_count){0, nest->size[axis]}
                                      : (struct ocl_count){nest->size[axis], 0};
}

/* --- building (ocl_compile.c) --- */

/* Zeroed memory that lives as long as the program; NULL with `fail` called. */
void *ocl_new(demist_program *p, size_t bytes);
/* A storage in the arena; −1: out of memory. */
int32_t ocl_new_storage(demist_program *p, bool batched, int64_t elements, enum ocl_type type);
/* A storage with n integers, uploaded once; −1: out of memory. */
int32_t ocl_new_ints(demist_program *p, int32_t n, const int32_t *ints);
/* Zeros, as many as were ever asked for; −1: out of memory. */
int32_t ocl_zeros(demist_program *p, int64_t elements);
/* Copies the launch into the list that it belongs to. */
demist_status ocl_add_launch(demist_program *p, const struct ocl_launch *launch);
demist_status ocl_add_draws(demist_program *p, int32_t node, struct ocl_draws *draws,
                            const demist_view *to);

demist_status ocl_value_of(demist_program *p, const demist_node *node, demist_view *view);

static inline int64_t ocl_size_of(enum ocl_type type)
{
    return type == OCL_F16 ? 2 : 4;
}
enum ocl_type ocl_type_of(const demist_program *p, const demist_view *view);
/* "f32", "f16": as kernels call it */
const char *ocl_type_name(enum ocl_type type);
/* The type of what a product or a normalisation gives. */
enum ocl_type ocl_type_of_result(const demist_program *p, const demist_node *node);
/* The type of a result that is computed from `inputs`: narrow if all of them are. */
enum ocl_type ocl_type_like(const demist_program *p, const demist_node *node, int32_t n,
                            const demist_view *inputs);

/* The node's result in new storage: axes in memory as order[] says, the last innermost. */
demist_status ocl_result(demist_program *p, const demist_node *node, const int32_t *order,
                         enum ocl_type type, demist_view *view);
demist_status ocl_result_pixels(demist_program *p, const demist_node *node, enum ocl_type type,
                                demist_view *view);
demist_status ocl_result_dense(demist_program *p, const demist_node *node, enum ocl_type type,
                               demist_view *view);
demist_status ocl_result_like(demist_program *p, const demist_node *node, const demist_view *like,
                              enum ocl_type type, demist_view *view);
/* Replaces the view by a copy with axes in that order. */
demist_status ocl_materialise(demist_program *p, int32_t node, const int32_t *order,
                              demist_view *view);
/* Makes channels (axis 1) innermost and the axes behind them one run of pixels, unless they are. */
demist_status ocl_need_pixels(demist_program *p, int32_t node, demist_view *view);
/* Makes `axis` contiguous unless it is. */
demist_status ocl_need_contiguous(demist_program *p, int32_t node, int32_t axis, demist_view *view);
demist_status ocl_need_dense(demist_program *p, int32_t node, demist_view *view);
void ocl_set_result(demist_program *p, const demist_node *node, const demist_view *view);

/* --- arguments; a launch under construction has room for OCL_MAX_ARGS --- */

struct ocl_draft {
    struct ocl_launch launch;
    struct ocl_arg args[OCL_MAX_ARGS];
};
void ocl_draft_init(struct ocl_draft *d, int32_t node, cl_kernel kernel);
void ocl_put_in(struct ocl_draft *d, const demist_view *view);
void ocl_put_out(struct ocl_draft *d, const demist_view *view);
void ocl_put_int(struct ocl_draft *d, int64_t value);
void ocl_put_count(struct ocl_draft *d, struct ocl_count count);
void ocl_put_float(struct ocl_draft *d, float value);
void ocl_put_slot(struct ocl_draft *d, enum ocl_arg_kind kind, int32_t slot);
/* `global` along the axis, `each` to a work-item, `local` items to a group; what does not divide is
 * rounded up. */
void ocl_put_range(struct ocl_draft *d, int32_t axis, struct ocl_count global, int64_t each,
                   size_t local);

static inline struct ocl_count ocl_times(struct ocl_count count, int64_t by)
{
    return (struct ocl_count){count.a * by, count.b * by};
}

static inline int64_t ocl_value(struct ocl_count count, int64_t images)
{
    return count.a + count.b * images;
}

/* A kernel whose source says TYPE_X and TYPE_Y. */
demist_status ocl_typed_kernel(demist_device *device, const char *source, enum ocl_type x,
                               enum ocl_type y, const char *name, cl_kernel *kernel);

/* --- text of kernels (ocl_expression.c) --- */

struct ocl_text {
    char *at;
    size_t left;
    bool overflow; /* the text is cut short */
};
/* Behind the text that `buffer`, of `size` bytes, has. */
struct ocl_text ocl_text_behind(char *buffer, size_t size);
void ocl_print(struct ocl_text *text, const char *fmt, ...) DEMIST_PRINTF(2, 3);

/* --- expressions of fused kernels (ocl_expression.c) --- */

/* The body of a function of operands v0, v1, … and numbers num0, num1, …, written once for vectors
 * and once for scalars: types are T, functions F(name). */
struct ocl_expression {
    char text[6144]; /* the body */
    bool overflow;   /* something did not fit */
    bool in_place;   /* in a map: x_ is what the result has there; otherwise 0 */
    int32_t n_operands;
    struct {
        const demist_node *node; /* NULL: a value that belongs to no node */
        demist_view view;
        demist_dtype dtype;
    } operand[OCL_MAX_OPERANDS];
    int32_t n_numbers;
    struct {
        bool is_slot;
        int32_t slot;
        float number;
    } number[OCL_MAX_CHAIN * 2];
    int32_t n_known;
    const demist_node *known[OCL_MAX_CHAIN]; /* t0, t1, … */
};
void ocl_expression_init(struct ocl_expression *e);
/* The number of an operand. */
int32_t ocl_expression_operand(struct ocl_expression *e, const demist_node *node,
                               const demist_view *view);
int32_t ocl_expression_number(struct ocl_expression *e, float number);
/* Text of t_k, the value of `node`: printf. */
void ocl_expression_let(struct ocl_expression *e, const demist_node *node, const char *fmt, ...)
    DEMIST_PRINTF(3, 4);
/* Adds an elementwise node; its operands are known nodes or become operands. */
demist_status ocl_expression_add(demist_program *p, struct ocl_expression *e,
                                 const demist_node *node);
bool ocl_is_elementwise(demist_op op);
/* γ/√(variance + eps) and β − mean·that, [C] each, of a batch_norm. */
demist_status ocl_fold_norm(demist_program *p, int32_t node, const demist_node *norm,
                            demist_view *scale, demist_view *shift);
/* The definitions of VALUE_s and VALUE_v, and the macros that declare and pass its parameters. */
demist_status ocl_expression_source(const demist_host *host, const struct ocl_expression *e,
                                    char *out, size_t size);

/* out = expression, element by element; operands broadcast. */
demist_status ocl_add_map(demist_program *p, int32_t node, struct ocl_expression *e,
                          const demist_view *out);
demist_status ocl_add_copy(demist_program *p, int32_t node, const demist_view *to,
                           const demist_view *from);
/* `to` may have the storage behind all others: what is observed, in f32. */
demist_status ocl_copy_launch(const demist_program *p, int32_t node, const demist_view *to,
                              const demist_view *from, struct ocl_draft *d);

/* --- ops: each adds the steps of one node --- */

struct ocl_fused {
    const demist_node *result;
    int32_t n; /* ≥ 1 */
    const demist_node *const *chain;
};

demist_status ocl_add_elementwise(demist_program *p, const struct ocl_fused *f); /* ocl_map.c */
demist_status ocl_add_scalar(demist_program *p, const demist_node *node);
demist_status ocl_add_cast(demist_program *p, const demist_node *node);
demist_status ocl_add_pad(demist_program *p, const demist_node *node);
demist_status ocl_add_upsample(demist_program *p, const demist_node *node);
demist_status ocl_add_norm(demist_program *p, const struct ocl_fused *f);    /* ocl_norm.c */
demist_status ocl_add_product(demist_program *p, const struct ocl_fused *f); /* ocl_product.c */
demist_status ocl_add_matmul(demist_program *p, const demist_node *node);    /* ocl_matmul.c */
demist_status ocl_add_attention(demist_program *p, const demist_node *node); /* ocl_attention.c */
demist_status ocl_add_reduce(demist_program *p, const demist_node *node);    /* ocl_reduce.c */
demist_status ocl_add_softmax(demist_program *p, const demist_node *node);
demist_status ocl_add_pool(demist_program *p, const demist_node *node); /* ocl_space.c */
demist_status ocl_add_resize(demist_program *p, const demist_node *node);
demist_status ocl_add_embedding(demist_program *p, const demist_node *node);
demist_status ocl_add_philox(demist_program *p, const demist_node *node); /* ocl_random.c */
demist_status ocl_run_draws(cl_command_queue queue, const demist_program *p,
                            struct ocl_draws *draws, const struct ocl_place_of *to,
                            const demist_scalar *scalars, int64_t images);
void ocl_draws_finish(struct ocl_draws *draws);

/* ocl_tune.c: the fastest of n variants for the node, measured once and remembered where tuning is
 * on; otherwise the first one. */
demist_status ocl_choose(demist_program *p, const demist_node *node, int32_t n,
                         const struct ocl_variant *variants, struct ocl_variant *chosen);

/* --- the vtable's part --- */

bool ocl_has_precision(demist_device *device, demist_precision precision);
bool ocl_supports(demist_device *device, const demist_node *node, const char **why);
demist_status ocl_compile(demist_device *device, const demist_graph *graph,
                          const demist_compile_info *info, demist_program **program);
demist_status ocl_compile_reading(demist_device *device, const demist_graph *graph,
                                  const demist_compile_info *info,
                                  const demist_param_reader *reader, demist_program **program);
void ocl_program_destroy(demist_program *program);
demist_status ocl_program_info(demist_program *program, demist_program_info *info);
demist_status ocl_update_params(demist_queue *queue, demist_program *program, int32_t n,
                                const int32_t *params, const void *const *data);
demist_status ocl_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                       demist_binding **binding);
void ocl_binding_destroy(demist_binding *binding);
demist_status ocl_execute(demist_queue *queue, demist_binding *binding,
                          const demist_scalar *scalars, int64_t n_images);
demist_observability ocl_observability(demist_program *program, int32_t id, int32_t *inside);
demist_status ocl_observe(demist_binding *binding, int32_t id, demist_buffer *buffer);
demist_status ocl_profile(demist_program *program, const demist_node_profile *const **profiles,
                          int32_t *n);

/* Runs the steps that depend on parameters alone. */
demist_status ocl_run_once(cl_command_queue queue, demist_program *p);

#endif

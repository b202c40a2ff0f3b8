/* What the CUDA backend compiles a graph into.
 *
 * A value is a strided view of a storage, and all storages of the arena and of the parameters lie
 * in two allocations, at planned offsets. Convolutions and normalisations write images pixel-major
 * (N, H, W, C), so that channels are contiguous, and reshapes to heads, slices and transposes only
 * change strides. A step is one kernel launch, a struct of arguments that is known up to the
 * addresses, which a binding decides, and the number of images; steps that read nothing but
 * parameters run once, when the program is compiled or its parameters change.
 *
 * Elements are f32, i32 and, where the precision says so, f16 or bf16. Narrow are results of
 * products and normalisations on images and sequences, and what is computed from narrow values
 * alone; vectors of features, parameters outside of products, and all that meets float32 operands
 * stay float32. */
#ifndef CUDA_PROGRAM_H
#define CUDA_PROGRAM_H

#include "cuda_backend.h"

#include <demist/view.h>

enum {
    CU_ARGUMENTS = 4096, /* bytes of a kernel's arguments */
    CU_MAX_FIXES = 24,   /* of them that are filled in later */
    CU_GRAPHS = 4,       /* captured ones of a binding, for as many numbers of images */
};

/* --- values --- */

enum cu_place_kind {
    CU_ARENA,  /* where: offset in bytes */
    CU_FIXED,  /* what parameters and constants give; where: offset in bytes */
    CU_RAW,    /* FIXED, but read by one-time steps alone: gone after compile if FROZEN */
    CU_INPUT,  /* where: index of the graph's input */
    CU_OUTPUT, /* where: index of the graph's output */
    CU_COPY,   /* FIXED, but for a library's call alone: only those of chosen calls stay */
};

struct cu_storage {
    enum cu_place_kind place;
    enum cu_type type;
    bool batched;
    bool written;     /* by some step */
    bool varies;      /* written by a step that runs in every execution */
    int64_t elements; /* of one image if batched */
    int64_t where;
    const void *data; /* uploaded once; NULL: nothing */
    int32_t first, last;
};

/* a + b·(images of the execution) */
struct cu_count {
    int64_t a, b;
};

/* --- launches --- */

enum cu_fix_kind {
    CU_FIX_IN, /* a pointer: the storage's element `offset` */
    CU_FIX_OUT,
    CU_FIX_COUNT, /* an int32_t */
    CU_FIX_SLOTS, /* a pointer: the scalar slots */
};

struct cu_fix {
    enum cu_fix_kind kind;
    int32_t at; /* offset in the arguments, bytes */
    int32_t storage;
    union {
        int64_t offset; /* IN, OUT: elements */
        struct cu_count count;
    };
};

typedef cudaError_t (*cu_run)(cudaStream_t stream, const void *arguments);

struct cu_launch {
    int32_t node;
    const char *kernel; /* its name, for messages */
    cu_run run;
    bool is_product; /* arguments: struct cu_product; `run` is chosen among several */
    size_t bytes;
    void *arguments;
    int32_t n_fixes;
    struct cu_fix *fixes;
    struct cu_library_product *library; /* calls that may compute it instead; NULL: none */
};

/* A product as vendor libraries see it (cuda_library.h). */
struct cu_geometry {
    int32_t kernel[2], dilation[2]; /* kernel[0] = 0: no convolution as a whole */
    int32_t before[2], after[2];    /* padding */
};

struct cu_library_product {
    struct cu_geometry geometry;
    int32_t weights;   /* storage: [columns][tap][depth], −1: none */
    int32_t bias;      /* storage: the bias in the result's type; −1: none */
    int32_t workspace; /* storage, −1: none */
    int n_calls;
    struct cu_call *calls;      /* [CU_CALLS] */
    const struct cu_call *call; /* the chosen one, for the largest batch; NULL: own kernel */
};

struct cu_value {
    demist_op op;
    const char *name;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    bool defined;
    bool is_output; /* of the graph: never narrow */
    demist_view view;
    bool has_room;              /* a concatenation: its view is where parts are written */
    const demist_node *part_of; /* the concatenation of channels that it can be written into */
    int64_t part_at;            /* its first channel there */
    int32_t ready;              /* the step after which it is there; −1: before the first */
    int32_t inside;             /* the node that this one was fused into, −1: none */
};

struct cu_steps {
    int32_t n, room;
    struct cu_launch *list;
};

struct demist_program {
    demist_device *device;
    uint32_t flags;
    demist_precision precision;
    enum cu_type narrow; /* of values that may be stored so; CU_F32: none are */
    int64_t max_batch;
    int32_t n_values, n_inputs, n_outputs, n_params, n_scalars, n_storages, room_storages;
    struct cu_value *values; /* by node id */
    struct cu_storage *storages;
    struct cu_steps once, steps; /* when parameters change; in every execution */
    int32_t *input_nodes, *output_nodes, *param_nodes, *philox_nodes;
    int32_t n_philox;
    demist_attrs *philox_attrs;
    bool *param_filled;
    struct cu_memory *memory; /* host memory that lives as long as the program */
    void *arena, *fixed, *raw, *copies, *slots;
    int64_t fixed_bytes, raw_bytes, copy_bytes, arena_bytes;
    double flops;
    uint64_t choices; /* hash of what was measured to be best */
    bool chose;
    bool ran; /* its kernels are loaded */
    char choices_text[24];
    demist_node_profile *profile; /* by node id */
    const demist_node_profile **profiles;
};

struct cu_observer {
    int32_t node;
    demist_buffer *buffer; /* NULL: none now */
    struct cu_launch copy;
};

struct cu_graph { /* an execution of so many images, captured */
    int64_t images;
    cudaGraphExec_t exec; /* NULL: none */
};

struct demist_binding {
    demist_program *program;
    char **bases;                  /* by storage; one more for what is observed */
    struct cu_observer *observers; /* [n_values] */
    int32_t n_observers;
    struct cu_graph graphs[CU_GRAPHS];
    int next_graph;
};

static inline size_t cu_size_of(enum cu_type type)
{
    return type == CU_F16 || type == CU_BF16 ? 2 : 4;
}

/* --- views --- */

/* Images, or entries of the first axis, of a view. */
static inline struct cu_count cu_images(const demist_view *view)
{
    if (view->batched)
        return (struct cu_count){0, 1};
    return (struct cu_count){view->rank > 0 ? view->shape[0] : 1, 0};
}

/* Entries of an axis of a nest. */
static inline struct cu_count cu_axis(const demist_nest *nest, int32_t axis)
{
    return nest->batched && axis == 0 ? (struct cu_count){0, nest->size[axis]}
                                      : (struct cu_count){nest->size[axis], 0};
}

/* --- building (cuda_compile.c) --- */

/* Zeroed memory that lives as long as the program; NULL with `fail` called. */
void *cu_new(demist_program *p, size_t bytes);
/* A storage in the arena; −1: out of memory. */
int32_t cu_new_storage(demist_program *p, bool batched, int64_t elements, enum cu_type type);
/* A storage with n integers, uploaded once; −1: out of memory. */
int32_t cu_new_ints(demist_program *p, int32_t n, const int32_t *ints);

demist_status cu_value_of(demist_program *p, const demist_node *node, demist_view *view);
/* The element type of a result that is computed from `inputs`, values of its own shape: narrow if
 * all of them are. */
enum cu_type cu_type_like(const demist_program *p, const demist_node *node, int32_t n,
                          const demist_view *inputs);
/* That of a product's or a normalisation's result. */
enum cu_type cu_type_of_result(const demist_program *p, const demist_node *node);
/* The node's result in new storage: axes in memory as order[] says, the last innermost. */
demist_status cu_result(demist_program *p, const demist_node *node, const int32_t *order,
                        enum cu_type type, demist_view *view);
demist_status cu_result_pixels(demist_program *p, const demist_node *node, enum cu_type type,
                               demist_view *view);
demist_status cu_result_dense(demist_program *p, const demist_node *node, enum cu_type type,
                              demist_view *view);
demist_status cu_result_like(demist_program *p, const demist_node *node, const demist_view *like,
                             enum cu_type type, demist_view *view);
/* Replaces the view by a copy with axes in that order. */
demist_status cu_materialise(demist_program *p, int32_t node, const int32_t *order,
                             demist_view *view);
/* Makes channels (axis 1) innermost and the axes behind them one run of pixels, unless they are. */
demist_status cu_need_pixels(demist_program *p, int32_t node, demist_view *view);
/* Makes `axis` contiguous unless it is. */
demist_status cu_need_contiguous(demist_program *p, int32_t node, int32_t axis, demist_view *view);
demist_status cu_need_dense(demist_program *p, int32_t node, demist_view *view);
void cu_set_result(demist_program *p, const demist_node *node, const demist_view *view);

static inline enum cu_type cu_type_of(const demist_program *p, const demist_view *view)
{
    return p->storages[view->storage].type;
}

/* --- launches under construction --- */

struct cu_draft {
    struct cu_launch launch;
    union {
        max_align_t align;
        unsigned char arguments[CU_ARGUMENTS];
    };
    struct cu_fix fixes[CU_MAX_FIXES];
};
/* The zeroed arguments, `bytes` of them. */
void *cu_draft_init(struct cu_draft *d, int32_t node, const char *kernel, cu_run run, size_t bytes);
/* `field` lies in the draft's arguments. */
void cu_put_in(struct cu_draft *d, const void *field, const demist_view *view);
void cu_put_out(struct cu_draft *d, const void *field, const demist_view *view);
void cu_put_count(struct cu_draft *d, const int32_t *field, struct cu_count count);
void cu_put_slots(struct cu_draft *d, const void *field);
/* Copies the launch into the list that it belongs to. */
demist_status cu_add_launch(demist_program *p, const struct cu_draft *d);

static inline struct cu_count cu_times(struct cu_count count, int64_t by)
{
    return (struct cu_count){count.a * by, count.b * by};
}

static inline int64_t cu_value(struct cu_count count, int64_t images)
{
    return count.a + count.b * images;
}

/* --- chains (cuda_chain.c) --- */

/* Code (cuda_kernels.h) under construction, with the values that it reads. */
struct cu_chain {
    struct cu_code code;
    bool overflow, reads_slots;
    int32_t n_numbers, n_kept;
    struct {
        const demist_node *node; /* NULL: a value that belongs to no node */
        demist_view view;
    } operand[CU_MAX_OPERANDS];
    const demist_node *current; /* whose value the accumulator has */
    int32_t n_nodes;            /* of the chain; kept[i]: where the value of nodes[i] is, or −1 */
    const demist_node *nodes[CU_MAX_CHAIN];
    int32_t kept[CU_MAX_CHAIN];
};

/* The chain's nodes are known beforehand, so that values used later are kept. */
void cu_chain_init(struct cu_chain *c, int32_t n, const demist_node *const *nodes);
/* An operand's number, the same for the same node. */
int32_t cu_chain_operand(struct cu_chain *c, const demist_node *node, const demist_view *view);
int32_t cu_chain_number(struct cu_chain *c, float number);
void cu_chain_add(struct cu_chain *c, enum cu_opcode op, enum cu_from from, int32_t index,
                  enum cu_from from2, int32_t index2);
/* The accumulator is the value of `node`. */
void cu_chain_is(struct cu_chain *c, const demist_node *node);
/* Adds an elementwise node; its operands are nodes of the chain or become operands. */
demist_status cu_chain_node(demist_program *p, struct cu_chain *c, const demist_node *node);
bool cu_is_elementwise(demist_op op);
/* Copies the code to where it belongs in a draft's arguments. */
demist_status cu_put_code(const demist_program *p, struct cu_draft *d, struct cu_code *field,
                          const struct cu_chain *c);

/* --- maps (cuda_elementwise.c) --- */

/* out = chain, element by element; operands broadcast. */
demist_status cu_add_map(demist_program *p, int32_t node, const struct cu_chain *c,
                         const demist_view *out);
demist_status cu_add_copy(demist_program *p, int32_t node, const demist_view *to,
                          const demist_view *from);
/* A launch that copies to the storage behind the last one, which holds f32 or i32. */
demist_status cu_copy_out(const demist_program *p, int32_t node, const demist_view *to,
                          const demist_view *from, struct cu_draft *d);
/* γ/√(variance + eps) and β − mean·that, [C] each, of a batch_norm. */
demist_status cu_fold_norm(demist_program *p, int32_t node, const demist_node *norm,
                           demist_view *scale, demist_view *shift);

/* --- ops: each adds the steps of one node --- */

struct cu_fused {
    const demist_node *result;
    int32_t n; /* ≥ 1 */
    const demist_node *const *chain;
};

demist_status cu_add_elementwise(demist_program *p, const struct cu_fused *f);
demist_status cu_add_scalar(demist_program *p, const demist_node *node);
demist_status cu_add_cast(demist_program *p, const demist_node *node);
demist_status cu_add_pad(demist_program *p, const demist_node *node);
demist_status cu_add_upsample(demist_program *p, const demist_node *node);
demist_status cu_add_norm(demist_program *p, const struct cu_fused *f);    /* cuda_normalise.c */
demist_status cu_add_product(demist_program *p, const struct cu_fused *f); /* cuda_convolve.c */
demist_status cu_add_matmul(demist_program *p, const demist_node *node);   /* cuda_matmul.c */
demist_status cu_add_attention(demist_program *p, const demist_node *node);
demist_status cu_add_reduce(demist_program *p, const demist_node *node); /* cuda_reduce.c */
demist_status cu_add_softmax(demist_program *p, const demist_node *node);
demist_status cu_add_pool(demist_program *p, const demist_node *node); /* cuda_gather.c */
demist_status cu_add_resize(demist_program *p, const demist_node *node);
demist_status cu_add_embedding(demist_program *p, const demist_node *node);
demist_status cu_add_philox(demist_program *p, const demist_node *node);

/* A product under construction; `rows` and `z` may grow with the images. */
struct cu_product_draft {
    struct cu_product product;
    demist_view a, b, y;
    int32_t taps; /* storage with (dy, dx) of each tap */
    struct cu_count rows, z;
    struct cu_geometry geometry;  /* of a convolution, 1 x 1 of a matrix product */
    demist_view weights;          /* of a convolution: [columns of all groups][ty][tx][depth] */
    const struct cu_chain *after; /* NULL: nothing follows */
    const demist_view *operands;  /* seen in y's grid: strides of image, row, column, channel */
};
demist_status cu_add_product_call(demist_program *p, int32_t node, struct cu_product_draft *c);

/* --- choices (cuda_tune.c) --- */

/* The calls of libraries that are to be measured, or were chosen before, with room for what they
 * work in. Before memory is planned. */
demist_status cu_plan_calls(demist_program *p);
/* The kernel of every product: measured once and remembered where tuning is on, a rule otherwise.
 */
demist_status cu_choose_kernels(demist_program *p);

/* --- the vtable's part --- */

bool cu_supports(demist_device *device, const demist_node *node, const char **why);
demist_status cu_compile(demist_device *device, const demist_graph *graph,
                         const demist_compile_info *info, demist_program **program);
void cu_program_destroy(demist_program *program);
demist_status cu_program_info(demist_program *program, demist_program_info *info);
demist_status cu_update_params(demist_queue *queue, demist_program *program, int32_t n,
                               const int32_t *params, const void *const *data);
demist_status cu_bind(demist_program *program, demist_buffer *const *buffers, int32_t n,
                      demist_binding **binding);
void cu_binding_destroy(demist_binding *binding);
demist_status cu_execute(demist_queue *queue, demist_binding *binding, const demist_scalar *scalars,
                         int64_t n_images);
demist_observability cu_observability(demist_program *program, int32_t id, int32_t *inside);
demist_status cu_observe(demist_binding *binding, int32_t id, demist_buffer *buffer);
demist_status cu_profile(demist_program *program, const demist_node_profile *const **profiles,
                         int32_t *n);

/* Runs the steps that depend on parameters alone. */
demist_status cu_run_once(demist_queue *queue, demist_program *p);
/* Queues one launch with addresses and counts filled in. bases: by storage. */
demist_status cu_queue_launch(const demist_program *p, cudaStream_t stream,
                              const struct cu_launch *l, char *const *bases, int64_t images);

#endif

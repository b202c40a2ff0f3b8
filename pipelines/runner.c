#include "runner.h"

#include "threshold.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tensors that exist in every run, by id; temporaries follow. */
enum { X, X0, EPS, V, LOGVAR, MEAN, ESTIMATE, RAW, RAW_NULL, N_FIXED };

/* What a recorded call is; its first word. Operands follow. */
enum call { CALL_LINCOMB = 1, CALL_MAP, CALL_NOISE, CALL_ESTIMATE, CALL_DERIVE };

/* Flags of CALL_ESTIMATE and CALL_DERIVE: what happens between the network's output and x_0, ε. */
enum {
    DERIVE_CLIP = 1 << 0,
    DERIVE_GUIDED = 1 << 1,
    DERIVE_LOGVAR = 1 << 2,    /* scalars for the learned variance are there */
    DERIVE_EPS = 1 << 3,       /* noise > 0: ε can be derived from x_0 */
    DERIVE_PER_IMAGE = 1 << 4, /* coefficients are one per image */
    DERIVE_SCALED = 1 << 5,    /* x_0 gets a factor per image before it is clipped */
};

struct demist_tensor {
    struct dm_runner *runner;
    int id;
    demist_buffer *buffer[2]; /* made on first use */
    int current;              /* the one that holds the value, segments executed so far */
    bool has_value;           /* something was ever written */
    bool read, written;       /* by the segment that is being recorded; read: before written */
};

/* A growing array of words: the key under which a segment is cached. */
struct words {
    int32_t *data;
    size_t n, capacity;
};

/* One way of laying a segment's tensors on their buffers. */
struct layout {
    struct words sides; /* `current` of every tensor it touches */
    demist_binding *binding;
};

struct segment {
    struct words key;
    demist_program *program;
    int n_vectors, n_scalars;
    struct layout *layouts;
    size_t n_layouts;
};

/* A binding of the network to one of x's buffers. */
struct bound {
    demist_buffer *x;
    bool unconditional;
    demist_binding *binding;
};

struct dm_runner {
    demist_run run; /* what the sampler holds; internal points back */
    struct dm_runner_options o;
    const demist_backend_vtable *vt;
    struct dm_error error; /* the first failure inside a call of the sampler's */

    demist_tensor **tensors;
    size_t n_tensors;
    size_t n_temps; /* handed out in this batch */

    struct words code; /* the segment being recorded */
    demist_scalar *scalars;
    size_t n_scalars, scalar_capacity;
    float *vectors; /* coefficients per image: [n_vectors][n_images] */
    size_t n_vectors, vector_capacity;

    struct segment *segments;
    size_t n_segments;
    struct bound *bound;
    size_t n_bound;
    demist_buffer **vector_buffers;
    size_t n_vector_buffers;

    int32_t n_steps; /* the host's last one included, where there is one (process.h) */
    int64_t n, first_image;
    uint64_t n_predicts;   /* of this batch: the network's own draw number */
    float *host, *host_x0; /* [max_batch][elements] */
    float *host_raw;       /* [max_batch][raw elements], for `evaluated` */
    float *times;          /* [max_batch] */
    double *magnitudes;    /* [elements], of one image */
    int32_t emitted;       /* step after which x is to be checked, −1: none */
};

/* ---------------------------------------------------------------- small things */

static struct dm_runner *of(demist_run *run)
{
    return run->internal;
}

static demist_status out_of_memory(struct dm_runner *r)
{
    return dm_fail_memory(&r->error, "the sampler's calls");
}

static bool push_word(struct words *w, int32_t word)
{
    if (w->n == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 64;
        int32_t *data = realloc(w->data, capacity * sizeof *data);
        if (!data)
            return false;
        w->data = data;
        w->capacity = capacity;
    }
    w->data[w->n++] = word;
    return true;
}

static bool same_words(const struct words *a, const struct words *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->data, b->data, a->n * sizeof *a->data) == 0);
}

static bool push_scalar(struct dm_runner *r, demist_scalar scalar)
{
    if (r->n_scalars == r->scalar_capacity) {
        size_t capacity = r->scalar_capacity ? 2 * r->scalar_capacity : 64;
        demist_scalar *scalars = realloc(r->scalars, capacity * sizeof *scalars);
        if (!scalars)
            return false;
        r->scalars = scalars;
        r->scalar_capacity = capacity;
    }
    r->scalars[r->n_scalars++] = scalar;
    return true;
}

/* Coefficients: one for all images, or one each. */
static bool push_coefs(struct dm_runner *r, bool per_image, const double *coefs)
{
    if (!per_image)
        return push_scalar(r, (demist_scalar){.f = coefs[0]});
    if (r->n_vectors == r->vector_capacity) {
        size_t capacity = r->vector_capacity ? 2 * r->vector_capacity : 8;
        float *vectors = realloc(r->vectors, capacity * (size_t)r->o.max_batch * sizeof *vectors);
        if (!vectors)
            return false;
        r->vectors = vectors;
        r->vector_capacity = capacity;
    }
    float *to = r->vectors + r->n_vectors++ * (size_t)r->o.max_batch;
    for (int64_t i = 0; i < r->n; i++)
        to[i] = (float)coefs[i];
    return true;
}

/* Elements of one datum of the tensor. */
static int64_t elements_of(const struct dm_runner *r, int id)
{
    return id == RAW || id == RAW_NULL ? r->o.model->raw_elements : r->run.n_elements;
}

static size_t bytes_of(const struct dm_runner *r, int id, int64_t n)
{
    return (size_t)n * (size_t)elements_of(r, id) * sizeof(float);
}

static demist_status buffer_of(struct dm_runner *r, demist_tensor *t, int side,
                               demist_buffer **buffer)
{
    if (!t->buffer[side])
        DM_TRY(dm_device_buffer(r->o.device, bytes_of(r, t->id, r->o.max_batch),
                                "a tensor of the sampler's", &t->buffer[side], &r->error));
    *buffer = t->buffer[side];
    return DEMIST_OK;
}

static demist_status add_tensor(struct dm_runner *r, demist_tensor **out)
{
    demist_tensor **tensors = realloc(r->tensors, (r->n_tensors + 1) * sizeof *tensors);
    demist_tensor *t = calloc(1, sizeof *t);
    if (tensors)
        r->tensors = tensors;
    if (!tensors || !t) {
        free(t);
        return out_of_memory(r);
    }
    *t = (demist_tensor){.runner = r, .id = (int)r->n_tensors};
    r->tensors[r->n_tensors++] = t;
    *out = t;
    return DEMIST_OK;
}

/* Refuses a tensor of another run, or one without a value. */
static demist_status holds(struct dm_runner *r, const demist_tensor *t, const char *function)
{
    if (!t || t->runner != r)
        return dm_fail(&r->error, DEMIST_INVALID, "%s: a tensor is NULL or of another run",
                       function);
    if (!t->has_value)
        return dm_fail(&r->error, DEMIST_INVALID,
                       "%s: a tensor is read before anything was written to it, or after the "
                       "prediction that it belonged to was replaced",
                       function);
    return DEMIST_OK;
}

/* The same, noting that the segment reads the value which the tensor had before it. */
static demist_status use(struct dm_runner *r, demist_tensor *t, const char *function)
{
    DM_TRY(holds(r, t, function));
    t->read = t->read || !t->written;
    return DEMIST_OK;
}

static demist_status define(struct dm_runner *r, demist_tensor *t, const char *function)
{
    if (!t || t->runner != r)
        return dm_fail(&r->error, DEMIST_INVALID, "%s: the result is NULL or of another run",
                       function);
    t->written = true;
    t->has_value = true;
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- building a segment */

/* The interpreter of a segment's words: makes the graph that they stand for. */
struct maker {
    struct dm_runner *r;
    demist_builder *b;
    const demist_node **value; /* by tensor id */
    int n_scalars, n_vectors;
};

static const demist_node *scalar_node(struct maker *m)
{
    char name[32];
    snprintf(name, sizeof name, "scalar_%d", m->n_scalars++);
    demist_attrs attrs = demist_no_attrs();
    attrs.scalar.slot = m->b->scalar_slot(m->b, name);
    return m->b->op(m->b, DEMIST_OP_SCALAR, 0, NULL, &attrs, 0, NULL);
}

static int32_t integer_slot(struct maker *m)
{
    char name[32];
    snprintf(name, sizeof name, "scalar_%d", m->n_scalars++);
    return m->b->scalar_slot(m->b, name);
}

/* The next coefficient: a scalar slot, or an input with one number per image. */
static const demist_node *coef_node(struct maker *m, bool per_image)
{
    if (!per_image)
        return scalar_node(m);
    char name[32];
    snprintf(name, sizeof name, "coef_%d", m->n_vectors++);
    return m->b->input(m->b, name, DEMIST_ROLE_OTHER, DEMIST_F32, 1, (int64_t[]){DEMIST_BATCH});
}

static const demist_node *lincomb_node(struct maker *m, int n, const demist_node *const *x,
                                       bool per_image)
{
    const demist_node **inputs = calloc((size_t)n * 2, sizeof *inputs);
    if (!inputs)
        return m->b->fail(m->b, DEMIST_NO_MEMORY, "out of memory: a linear combination");
    for (int i = 0; i < n; i++) {
        inputs[i] = x[i];
        inputs[n + i] = coef_node(m, per_image);
    }
    const demist_node *sum = m->b->op(m->b, DEMIST_OP_LINCOMB, 2 * n, inputs, NULL, 0, NULL);
    free(inputs);
    return sum;
}

static const demist_node *lincomb2(struct maker *m, const demist_node *x, const demist_node *y,
                                   bool per_image)
{
    return lincomb_node(m, 2, (const demist_node *[]){x, y}, per_image);
}

static const demist_node *clamp_node(struct maker *m, const demist_node *x, double lo, double hi)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.clamp.lo = (float)lo;
    attrs.clamp.hi = (float)hi;
    return m->b->op(m->b, DEMIST_OP_CLAMP, 1, &x, &attrs, 0, NULL);
}

/* What the network says, before anything is clipped. */
struct estimate {
    const demist_node *pred; /* the raw output without the learned variance, guided */
    const demist_node *x0;
    const demist_node *eps; /* NULL where it is to be derived from x_0 */
};

/* The first channels of the raw output: all but the learned variance. */
static const demist_node *predicted_part(struct maker *m, const demist_node *raw)
{
    const demist_network_info *info = &m->r->o.model->network->info;
    return info->learned_variance == DEMIST_VARIANCE_NONE
               ? raw
               : demist_slice(m->b, raw, 1, 0, info->shape[0]);
}

static struct estimate make_estimate(struct maker *m, int flags, const demist_node *x)
{
    bool each = flags & DERIVE_PER_IMAGE;
    struct estimate e = {.pred = predicted_part(m, m->value[RAW])};
    if (flags & DERIVE_GUIDED) /* null + scale·(given − null) */
        e.pred = lincomb2(m, e.pred, predicted_part(m, m->value[RAW_NULL]), false);
    switch (m->r->o.model->network->info.prediction) {
    case DEMIST_PREDICT_EPS:
    case DEMIST_PREDICT_X1:
        e.x0 = lincomb2(m, x, e.pred, each);
        e.eps = e.pred;
        break;
    case DEMIST_PREDICT_X0:
        e.x0 = e.pred;
        break;
    case DEMIST_PREDICT_V:
        e.x0 = lincomb2(m, x, e.pred, each);
        e.eps = lincomb2(m, x, e.pred, each);
        break;
    case DEMIST_PREDICT_MEAN:
        e.x0 = lincomb2(m, x, e.pred, each);
        break;
    }
    return e;
}

/* From the network's raw output to x_0, ε, v, log σ² and the mean. The order of coefficients is
 * that of record_derive. */
static void make_derive(struct maker *m, int flags, const demist_node *x)
{
    struct dm_runner *r = m->r;
    demist_builder *b = m->b;
    const demist_network_info *info = &r->o.model->network->info;
    bool each = flags & DERIVE_PER_IMAGE;
    struct estimate estimate = make_estimate(m, flags, x);
    const demist_node *x0 = estimate.x0, *eps = estimate.eps;
    if (info->prediction == DEMIST_PREDICT_MEAN)
        m->value[MEAN] = estimate.pred;
    if (flags & DERIVE_SCALED)
        x0 = lincomb_node(m, 1, &x0, true);
    if (flags & DERIVE_CLIP) {
        x0 = clamp_node(m, x0, info->clip_low, info->clip_high);
        eps = flags & DERIVE_EPS ? NULL : eps;
    }
    if (!eps && (flags & DERIVE_EPS))
        eps = lincomb2(m, x, x0, each); /* (x − signal·x_0)/noise */
    m->value[X0] = x0;
    m->value[EPS] = eps ? eps : x; /* without noise ε is undefined, and its coefficient is 0 */
    m->value[V] = lincomb2(m, m->value[EPS], x0, each);
    if (flags & DERIVE_LOGVAR) {
        const demist_node *learned =
            demist_slice(b, m->value[RAW], 1, info->shape[0], info->shape[0]);
        if (info->learned_variance == DEMIST_VARIANCE_RANGE) { /* eq. 15: v·½Δ + (½Δ + log β̃) */
            const demist_node *scale = scalar_node(m), *shift = scalar_node(m);
            learned = demist_add(b, demist_mul(b, learned, scale), shift);
        }
        m->value[LOGVAR] = learned;
    }
}

static const demist_node *make_map(struct maker *m, int op, const demist_node *const *in)
{
    demist_builder *b = m->b;
    switch ((demist_map_op)op) {
    case DEMIST_MAP_MUL:
        return demist_mul(b, in[0], in[1]);
    case DEMIST_MAP_DIV:
        return demist_binary(b, DEMIST_OP_DIV, in[0], in[1]);
    case DEMIST_MAP_MAX:
        return demist_binary(b, DEMIST_OP_MAX, in[0], in[1]);
    case DEMIST_MAP_MIN:
        return demist_binary(b, DEMIST_OP_MIN, in[0], in[1]);
    case DEMIST_MAP_ABS:
        return demist_unary(b, DEMIST_OP_ABS, in[0]);
    case DEMIST_MAP_EXP: {
        const demist_node *scale = scalar_node(m), *shift = scalar_node(m);
        const demist_node *y = demist_add(b, demist_mul(b, in[0], scale), shift);
        return demist_unary(b, DEMIST_OP_EXP, y);
    }
    case DEMIST_MAP_SQRT:
        return demist_unary(b, DEMIST_OP_SQRT, in[0]);
    case DEMIST_MAP_CLAMP: {
        const demist_node *lo = scalar_node(m), *hi = scalar_node(m);
        const demist_node *y = demist_binary(b, DEMIST_OP_MAX, in[0], lo);
        return demist_binary(b, DEMIST_OP_MIN, y, hi);
    }
    case DEMIST_MAP_SELECT:
        return b->op(b, DEMIST_OP_SELECT, 3, in, NULL, 0, NULL);
    }
    return b->fail(b, DEMIST_INTERNAL, "unknown map op %d", op);
}

static const demist_node *make_noise(struct maker *m, int purpose)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.philox.purpose = (uint32_t)purpose;
    attrs.philox.per_image = 1;
    attrs.philox.seed_slot = integer_slot(m);
    attrs.philox.draw_slot = integer_slot(m);
    attrs.philox.image_slot = integer_slot(m);
    int64_t shape[DEMIST_MAX_RANK] = {DEMIST_BATCH};
    for (int32_t i = 0; i < m->r->run.rank; i++)
        shape[i + 1] = m->r->run.shape[i];
    return m->b->op(m->b, DEMIST_OP_PHILOX_NORMAL, 0, NULL, &attrs, m->r->run.rank + 1, shape);
}

/* Follows the words from `at`, updating the tensors' values. */
static void make_calls(struct maker *m, const struct words *code)
{
    const demist_node *in[3] = {NULL}, **terms;
    for (size_t at = 0; at < code->n && !m->b->failed(m->b);) {
        const int32_t *w = code->data + at;
        switch ((enum call)w[0]) {
        case CALL_LINCOMB: /* out, per image, n, in… */
            terms = calloc((size_t)w[3], sizeof *terms);
            if (!terms) {
                m->b->fail(m->b, DEMIST_NO_MEMORY, "out of memory: a linear combination");
                return;
            }
            for (int i = 0; i < w[3]; i++)
                terms[i] = m->value[w[4 + i]];
            m->value[w[1]] = lincomb_node(m, w[3], terms, w[2]);
            free(terms);
            at += 4 + (size_t)w[3];
            break;
        case CALL_MAP: /* out, op, n, in… */
            for (int i = 0; i < w[3]; i++)
                in[i] = m->value[w[4 + i]];
            m->value[w[1]] = make_map(m, w[2], in);
            at += 4 + (size_t)w[3];
            break;
        case CALL_NOISE: /* out, purpose */
            m->value[w[1]] = make_noise(m, w[2]);
            at += 3;
            break;
        case CALL_ESTIMATE: /* flags, x */
            m->value[ESTIMATE] = make_estimate(m, w[1], m->value[w[2]]).x0;
            at += 3;
            break;
        case CALL_DERIVE: /* flags, x */
            make_derive(m, w[1], m->value[w[2]]);
            at += 3;
            break;
        }
    }
}

static const demist_node *tensor_input(struct maker *m, int id)
{
    struct dm_runner *r = m->r;
    char name[32];
    snprintf(name, sizeof name, "in_%d", id);
    int64_t shape[DEMIST_MAX_RANK] = {DEMIST_BATCH};
    for (int32_t i = 0; i < r->run.rank; i++)
        shape[i + 1] = r->run.shape[i];
    if (id == RAW || id == RAW_NULL)
        shape[1] *= elements_of(r, id) / r->run.n_elements;
    return m->b->input(m->b, name, DEMIST_ROLE_X, DEMIST_F32, r->run.rank + 1, shape);
}

/* Virtual tensors are the prediction's: they hold until the next predict, so a segment that ends
 * there need not write them. */
static bool is_output(const demist_tensor *t, bool keep_prediction)
{
    bool prediction = t->id >= X0 && t->id <= MEAN;
    return t->written && (keep_prediction || !prediction);
}

static demist_status make_graph(struct dm_runner *r, bool keep_prediction, struct segment *s,
                                struct dm_graph **graph)
{
    DM_TRY(dm_graph_create("step", NULL, graph, &r->error));
    struct maker m = {.r = r, .b = dm_graph_builder(*graph)};
    m.value = calloc(r->n_tensors, sizeof *m.value);
    if (!m.value)
        return out_of_memory(r);
    for (size_t i = 0; i < r->n_tensors; i++)
        if (r->tensors[i]->read)
            m.value[i] = tensor_input(&m, (int)i);
    make_calls(&m, &r->code);
    for (size_t i = 0; i < r->n_tensors; i++)
        if (is_output(r->tensors[i], keep_prediction)) {
            char name[32];
            snprintf(name, sizeof name, "out_%zu", i);
            m.b->output(m.b, name, m.value[i]);
        }
    free(m.value);
    s->n_vectors = m.n_vectors;
    s->n_scalars = m.n_scalars;
    return dm_graph_finish(*graph, &r->error);
}

/* ---------------------------------------------------------------- executing a segment */

static void free_segment(struct dm_runner *r, struct segment *s)
{
    for (size_t i = 0; i < s->n_layouts; i++) {
        if (s->layouts[i].binding)
            r->vt->binding_destroy(s->layouts[i].binding);
        free(s->layouts[i].sides.data);
    }
    if (s->program)
        r->vt->program_destroy(s->program);
    free(s->layouts);
    free(s->key.data);
}

/* The structure of what was recorded: the calls, and how each tensor enters and leaves. */
static bool make_key(struct dm_runner *r, bool keep_prediction, struct words *key)
{
    for (size_t i = 0; i < r->code.n; i++)
        if (!push_word(key, r->code.data[i]))
            return false;
    for (size_t i = 0; i < r->n_tensors; i++) {
        const demist_tensor *t = r->tensors[i];
        if ((t->read || t->written) &&
            !(push_word(key, (int32_t)i) &&
              push_word(key, t->read | is_output(t, keep_prediction) << 1)))
            return false;
    }
    return true;
}

/* The compiled segment of this structure, made if there is none yet. */
static demist_status find_segment(struct dm_runner *r, bool keep_prediction, struct segment **out)
{
    struct segment made = {0};
    if (!make_key(r, keep_prediction, &made.key)) {
        free(made.key.data);
        return out_of_memory(r);
    }
    for (size_t i = 0; i < r->n_segments; i++)
        if (same_words(&r->segments[i].key, &made.key)) {
            free(made.key.data);
            *out = &r->segments[i];
            return DEMIST_OK;
        }

    struct dm_graph *graph = NULL;
    demist_status status = make_graph(r, keep_prediction, &made, &graph);
    if (status == DEMIST_OK)
        status = dm_device_compile(r->o.device, graph, r->o.max_batch, 0, &made.program, NULL,
                                   &r->error);
    dm_graph_destroy(graph);
    struct segment *segments = NULL;
    if (status == DEMIST_OK) {
        segments = realloc(r->segments, (r->n_segments + 1) * sizeof *segments);
        if (!segments)
            status = out_of_memory(r);
    }
    if (status != DEMIST_OK) {
        free_segment(r, &made);
        return status;
    }
    r->segments = segments;
    r->segments[r->n_segments] = made;
    *out = &r->segments[r->n_segments++];
    return DEMIST_OK;
}

static demist_status vector_buffer(struct dm_runner *r, size_t i, demist_buffer **buffer)
{
    while (r->n_vector_buffers <= i) {
        demist_buffer **buffers =
            realloc(r->vector_buffers, (r->n_vector_buffers + 1) * sizeof *buffers);
        if (!buffers)
            return out_of_memory(r);
        r->vector_buffers = buffers;
        DM_TRY(dm_device_buffer(r->o.device, (size_t)r->o.max_batch * sizeof(float),
                                "coefficients per image", &buffers[r->n_vector_buffers],
                                &r->error));
        r->n_vector_buffers++;
    }
    *buffer = r->vector_buffers[i];
    return DEMIST_OK;
}

/* Inputs: tensors read, then coefficients per image; outputs: tensors written; both by id. */
static demist_status bind_layout(struct dm_runner *r, bool keep_prediction, struct segment *s,
                                 struct layout *layout)
{
    size_t n = 0;
    demist_buffer **buffers = calloc(2 * r->n_tensors + (size_t)s->n_vectors, sizeof *buffers);
    demist_status status = buffers ? DEMIST_OK : out_of_memory(r);
    for (size_t i = 0; status == DEMIST_OK && i < r->n_tensors; i++) {
        demist_tensor *t = r->tensors[i];
        if (t->read)
            status = buffer_of(r, t, t->current, &buffers[n++]);
    }
    for (int i = 0; status == DEMIST_OK && i < s->n_vectors; i++)
        status = vector_buffer(r, (size_t)i, &buffers[n++]);
    for (size_t i = 0; status == DEMIST_OK && i < r->n_tensors; i++) {
        demist_tensor *t = r->tensors[i];
        if (is_output(t, keep_prediction))
            status = buffer_of(r, t, !t->current, &buffers[n++]);
    }
    if (status == DEMIST_OK)
        status = dm_device_check(r->o.device, "bind",
                                 r->vt->bind(s->program, buffers, (int32_t)n, &layout->binding),
                                 &r->error);
    free(buffers);
    return status;
}

static demist_status find_layout(struct dm_runner *r, bool keep_prediction, struct segment *s,
                                 demist_binding **binding)
{
    struct layout made = {0};
    demist_status status = DEMIST_OK;
    for (size_t i = 0; i < r->n_tensors; i++)
        if ((r->tensors[i]->read || r->tensors[i]->written) &&
            !push_word(&made.sides, r->tensors[i]->current))
            status = out_of_memory(r);
    for (size_t i = 0; status == DEMIST_OK && i < s->n_layouts; i++)
        if (same_words(&s->layouts[i].sides, &made.sides)) {
            *binding = s->layouts[i].binding;
            free(made.sides.data);
            return DEMIST_OK;
        }
    if (status == DEMIST_OK)
        status = bind_layout(r, keep_prediction, s, &made);
    struct layout *layouts = NULL;
    if (status == DEMIST_OK) {
        layouts = realloc(s->layouts, (s->n_layouts + 1) * sizeof *layouts);
        if (!layouts) {
            r->vt->binding_destroy(made.binding);
            status = out_of_memory(r);
        }
    }
    if (status != DEMIST_OK) {
        free(made.sides.data);
        return status;
    }
    s->layouts = layouts;
    s->layouts[s->n_layouts++] = made;
    *binding = made.binding;
    return DEMIST_OK;
}

static demist_status read_tensor(struct dm_runner *r, demist_tensor *t, float *host)
{
    demist_buffer *buffer;
    DM_TRY(buffer_of(r, t, t->current, &buffer));
    return dm_device_check(
        r->o.device, "buffer_read",
        r->vt->buffer_read(r->o.device->queue, buffer, 0, host, bytes_of(r, t->id, r->n)),
        &r->error);
}

/* Index of the first image with a value that is not finite, −1 if all are. */
static int64_t first_bad_image(const struct dm_runner *r, const float *x)
{
    int64_t per = r->run.n_elements;
    for (int64_t n = 0; n < r->n; n++)
        for (int64_t i = 0; i < per; i++)
            if (!isfinite(x[n * per + i]))
                return n;
    return -1;
}

static demist_status check_finite(struct dm_runner *r, int32_t step, const float *x)
{
    int64_t bad = first_bad_image(r, x);
    if (bad < 0)
        return DEMIST_OK;
    return dm_fail(&r->error, DEMIST_NUMERIC,
                   "x is not finite after step %d of %d (time %g), image %lld: the network's "
                   "output overflowed or holds NaN; check that checkpoint, schedule and network "
                   "options belong together",
                   step + 1, r->n_steps, r->run.time[step], (long long)(r->first_image + bad));
}

/* Whether anything that was recorded is still of use. */
static bool has_outputs(const struct dm_runner *r, bool keep_prediction)
{
    for (size_t i = 0; i < r->n_tensors; i++)
        if (is_output(r->tensors[i], keep_prediction))
            return true;
    return false;
}

/* Compiles what was recorded, where it is new, and executes it. */
static demist_status execute_segment(struct dm_runner *r, bool keep_prediction)
{
    struct segment *s = NULL;
    demist_binding *binding = NULL;
    DM_TRY(find_segment(r, keep_prediction, &s));
    DM_TRY(find_layout(r, keep_prediction, s, &binding));
    if (r->n_scalars != (size_t)s->n_scalars || r->n_vectors != (size_t)s->n_vectors)
        return dm_fail(&r->error, DEMIST_INTERNAL,
                       "a recorded segment has %zu scalars and %zu vectors, its graph %d and %d",
                       r->n_scalars, r->n_vectors, s->n_scalars, s->n_vectors);
    for (size_t i = 0; i < r->n_vectors; i++)
        DM_TRY(dm_device_check(r->o.device, "buffer_write",
                               r->vt->buffer_write(r->o.device->queue, r->vector_buffers[i], 0,
                                                   r->vectors + i * (size_t)r->o.max_batch,
                                                   (size_t)r->n * sizeof(float)),
                               &r->error));
    return dm_device_check(r->o.device, "execute",
                           r->vt->execute(r->o.device->queue, binding, r->scalars, r->n),
                           &r->error);
}

/* Executes what was recorded. keep_prediction: what predict returned may be used afterwards. */
static demist_status flush(struct dm_runner *r, bool keep_prediction)
{
    if (r->code.n == 0)
        return DEMIST_OK;
    if (has_outputs(r, keep_prediction))
        DM_TRY(execute_segment(r, keep_prediction));
    for (size_t i = 0; i < r->n_tensors; i++) {
        demist_tensor *t = r->tensors[i];
        if (is_output(t, keep_prediction))
            t->current = !t->current;
        else if (t->written) /* a prediction that nothing needs any more */
            t->has_value = false;
        t->read = t->written = false;
    }
    r->code.n = r->n_scalars = r->n_vectors = 0;
    if (r->emitted >= 0 && r->o.check_every_step) {
        int32_t step = r->emitted;
        r->emitted = -1;
        DM_TRY(read_tensor(r, r->tensors[X], r->host));
        DM_TRY(check_finite(r, step, r->host));
    }
    return DEMIST_OK;
}

/* Writes from the host into a tensor, after all that was recorded with it. */
static demist_status write_tensor(struct dm_runner *r, demist_tensor *t, const float *host)
{
    if (t->read || t->written)
        DM_TRY(flush(r, true));
    demist_buffer *buffer;
    DM_TRY(buffer_of(r, t, t->current, &buffer));
    DM_TRY(dm_device_check(
        r->o.device, "buffer_write",
        r->vt->buffer_write(r->o.device->queue, buffer, 0, host, bytes_of(r, t->id, r->n)),
        &r->error));
    t->has_value = true;
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- the sampler's calls */

static bool record(struct dm_runner *r, int n, const int32_t *words)
{
    for (int i = 0; i < n; i++)
        if (!push_word(&r->code, words[i]))
            return false;
    return true;
}

/* The coefficients of one derive at one time, in the order in which make_derive takes them. */
enum { MAX_DERIVE = 16 };
struct derive {
    int flags, count;
    int estimate; /* so many of them are make_estimate's */
    double coefs[MAX_DERIVE];
};

static void put(struct derive *d, double a, double b)
{
    d->coefs[d->count++] = a;
    d->coefs[d->count++] = b;
}

static demist_status derive_at(struct dm_runner *r, double t, struct derive *d)
{
    const demist_network_info *info = &r->o.model->network->info;
    demist_coeffs c = DEMIST_INIT(demist_coeffs);
    DM_TRY(dm_process_coeffs(r->o.process, t, &c, &r->error));
    const demist_step *step = dm_process_step_at(r->o.process, t);
    double s = c.signal, n = c.noise, guard = dm_process_signal_guard(r->o.process);
    d->flags = (r->o.clip ? DERIVE_CLIP : 0) | (n > 0 ? DERIVE_EPS : 0);
    d->count = 0;
    if (s + guard <= 0)
        return dm_fail(&r->error, DEMIST_INVALID,
                       "predict: x_0 cannot be derived at time %g, where the signal is 0", t);
    bool has_eps = false;
    switch (info->prediction) {
    case DEMIST_PREDICT_EPS:
    case DEMIST_PREDICT_X1:
        put(d, 1 / (s + guard), -n / (s + guard));
        has_eps = true;
        break;
    case DEMIST_PREDICT_X0:
        break;
    case DEMIST_PREDICT_V:
        put(d, s, -n);
        put(d, n, s);
        has_eps = true;
        break;
    case DEMIST_PREDICT_MEAN:
        if (!step || !(step->posterior_x0 > 0))
            return dm_fail(&r->error, DEMIST_INVALID,
                           "predict: the network predicts the posterior mean, so x_0 is known only "
                           "at times of the grid, and %g is none",
                           t);
        put(d, -step->posterior_x / step->posterior_x0, 1 / step->posterior_x0);
        break;
    }
    d->estimate = d->count;
    if ((!has_eps || (d->flags & DERIVE_CLIP)) && (d->flags & DERIVE_EPS))
        put(d, 1 / n, -s / n);
    put(d, s, -n); /* v */
    if (info->learned_variance != DEMIST_VARIANCE_NONE && step) {
        d->flags |= DERIVE_LOGVAR;
        if (info->learned_variance == DEMIST_VARIANCE_RANGE) {
            double half = 0.5 * (log(step->beta) - step->posterior_logvar);
            put(d, half, half + step->posterior_logvar);
        }
    }
    return DEMIST_OK;
}

/* The coefficients at each time, agreeing on what is derived, as one graph serves all images. */
static demist_status derive_all(struct dm_runner *r, int64_t n_times, const double *times,
                                struct derive *each)
{
    for (int64_t i = 0; i < n_times; i++) {
        DM_TRY(derive_at(r, times[i], &each[i]));
        each[i].flags |= r->o.model->guided ? DERIVE_GUIDED : 0;
        if (n_times == 1)
            continue;
        if (each[i].flags & DERIVE_LOGVAR) {
            each[i].flags &= ~DERIVE_LOGVAR;
            if (r->o.model->network->info.learned_variance == DEMIST_VARIANCE_RANGE)
                each[i].count -= 2;
        }
        each[i].flags |= DERIVE_PER_IMAGE;
        if (each[i].flags != each[0].flags || each[i].count != each[0].count)
            return dm_fail(&r->error, DEMIST_UNSUPPORTED,
                           "predict: images at times %g and %g, of which one is the clean end, "
                           "cannot share an evaluation",
                           times[0], times[i]);
    }
    return DEMIST_OK;
}

/* Coefficients from … to − 1 of all times; column: scratch [n_times]. */
static bool push_range(struct dm_runner *r, int64_t n_times, const struct derive *each, int from,
                       int to, double *column)
{
    bool ok = true;
    for (int k = from; ok && k < to; k++) {
        for (int64_t i = 0; i < n_times; i++)
            column[i] = each[i].coefs[k];
        ok = push_coefs(r, n_times > 1, column);
    }
    return ok;
}

/* Records one of the two calls up to the estimate's coefficients. */
static bool record_estimate(struct dm_runner *r, enum call call, int64_t n_times,
                            const struct derive *each, const demist_tensor *x, double *column)
{
    double guidance[2] = {r->o.guidance_scale, 1 - r->o.guidance_scale};
    bool ok = record(r, 3, (int32_t[]){call, each[0].flags, x->id});
    if (r->o.model->guided)
        ok = ok && push_coefs(r, false, &guidance[0]) && push_coefs(r, false, &guidance[1]);
    return ok && push_range(r, n_times, each, 0, each[0].estimate, column);
}

/* What predict reads. */
static demist_status use_evaluation(struct dm_runner *r, demist_tensor *x)
{
    DM_TRY(use(r, x, "predict"));
    DM_TRY(use(r, r->tensors[RAW], "predict"));
    return r->o.model->guided ? use(r, r->tensors[RAW_NULL], "predict") : DEMIST_OK;
}

/* Dynamic thresholding: looks at x̂_0 on the host, and finds every image's factor [n]. */
static demist_status find_scales(struct dm_runner *r, int64_t n_times, const struct derive *each,
                                 demist_tensor *x, double *scales)
{
    int64_t n = r->run.n_elements;
    DM_TRY(use_evaluation(r, x));
    if (!record_estimate(r, CALL_ESTIMATE, n_times, each, x, scales))
        return out_of_memory(r);
    DM_TRY(define(r, r->tensors[ESTIMATE], "predict"));
    DM_TRY(flush(r, true));
    DM_TRY(read_tensor(r, r->tensors[ESTIMATE], r->host));
    for (int64_t i = 0; i < r->n; i++) {
        for (int64_t k = 0; k < n; k++)
            r->magnitudes[k] = fabs((double)r->host[i * n + k]);
        scales[i] = dm_threshold_scale(r->magnitudes, n, r->o.threshold,
                                       r->o.model->network->info.clip_high);
    }
    return DEMIST_OK;
}

static demist_status record_derive(struct dm_runner *r, int64_t n_times, const double *times,
                                   demist_tensor *x, int *flags)
{
    struct derive *each = malloc((size_t)n_times * sizeof *each);
    double *column = malloc((size_t)r->n * sizeof *column);
    double *scales = malloc((size_t)r->n * sizeof *scales);
    bool scaled = r->o.clip && r->o.threshold > 0;
    demist_status status = each && column && scales ? DEMIST_OK : out_of_memory(r);
    if (status == DEMIST_OK)
        status = derive_all(r, n_times, times, each);
    if (status == DEMIST_OK && scaled)
        status = find_scales(r, n_times, each, x, scales);
    if (status == DEMIST_OK)
        status = use_evaluation(r, x);
    if (status == DEMIST_OK) {
        each[0].flags |= scaled ? DERIVE_SCALED : 0;
        *flags = each[0].flags;
        bool ok = record_estimate(r, CALL_DERIVE, n_times, each, x, column) &&
                  (!scaled || push_coefs(r, true, scales)) &&
                  push_range(r, n_times, each, each[0].estimate, each[0].count, column);
        status = ok ? DEMIST_OK : out_of_memory(r);
    }
    free(each);
    free(column);
    free(scales);
    return status;
}

/* The network's binding to one of x's two buffers. */
static demist_status network_binding(struct dm_runner *r, demist_buffer *x, bool unconditional,
                                     demist_binding **binding)
{
    for (size_t i = 0; i < r->n_bound; i++)
        if (r->bound[i].x == x && r->bound[i].unconditional == unconditional) {
            *binding = r->bound[i].binding;
            return DEMIST_OK;
        }
    struct bound *bound = realloc(r->bound, (r->n_bound + 1) * sizeof *bound);
    if (!bound)
        return out_of_memory(r);
    r->bound = bound;
    demist_buffer *out;
    DM_TRY(buffer_of(r, r->tensors[unconditional ? RAW_NULL : RAW], 0, &out));
    bound[r->n_bound] = (struct bound){x, unconditional, NULL};
    DM_TRY(dm_model_bind(r->o.model, x, out, unconditional, &bound[r->n_bound].binding, &r->error));
    *binding = bound[r->n_bound++].binding;
    return DEMIST_OK;
}

static demist_status tell_evaluation(struct dm_runner *r, demist_tensor *x, bool unconditional)
{
    DM_TRY(read_tensor(r, x, r->host));
    DM_TRY(read_tensor(r, r->tensors[unconditional ? RAW_NULL : RAW], r->host_raw));
    struct dm_evaluation evaluation = {.n = r->n,
                                       .x = r->host,
                                       .time = r->times,
                                       .out = r->host_raw,
                                       .unconditional = unconditional,
                                       .draw = r->n_predicts};
    r->o.evaluated(r->o.user, &evaluation);
    return DEMIST_OK;
}

static demist_status evaluate_network(struct dm_runner *r, int64_t n_times, const double *times,
                                      demist_tensor *x)
{
    demist_time_form form = r->o.model->network->info.time;
    for (int64_t i = 0; i < r->n; i++)
        r->times[i] = dm_process_network_time(r->o.process, form, times[n_times > 1 ? i : 0]);
    demist_buffer *buffer;
    DM_TRY(buffer_of(r, x, x->current, &buffer));
    for (int null = 0; null <= (int)r->o.model->guided; null++) {
        demist_binding *binding = NULL;
        DM_TRY(network_binding(r, buffer, null, &binding));
        DM_TRY(dm_model_execute(r->o.model, binding, r->times, r->n, dm_noise_seed(r->o.noise),
                                r->n_predicts, (uint64_t)r->first_image, &r->error));
        r->tensors[null ? RAW_NULL : RAW]->has_value = true;
        if (r->o.evaluated)
            DM_TRY(tell_evaluation(r, x, null));
    }
    r->n_predicts++;
    return DEMIST_OK;
}

static demist_status run_predict(demist_run *run, int64_t n_times, const double *times,
                                 demist_tensor *x, demist_prediction *out)
{
    struct dm_runner *r = of(run);
    const demist_network_info *info = &r->o.model->network->info;
    DM_TRY(holds(r, x, "predict"));
    if (n_times != 1 && n_times != r->n)
        return dm_fail(&r->error, DEMIST_INVALID,
                       "predict: %lld times for %lld images; give one, or one each",
                       (long long)n_times, (long long)r->n);
    for (int64_t i = 0; i < n_times; i++) { /* a time out of range is not the network's to find */
        demist_coeffs unused = DEMIST_INIT(demist_coeffs);
        DM_TRY(dm_process_coeffs(r->o.process, times[i], &unused, &r->error));
    }
    DM_TRY(flush(r, x->id >= X0 && x->id <= MEAN)); /* the last prediction, if x is a part of it */
    DM_TRY(evaluate_network(r, n_times, times, x));

    int flags = 0;
    DM_TRY(record_derive(r, n_times, times, x, &flags));
    bool mean = info->prediction == DEMIST_PREDICT_MEAN, logvar = flags & DERIVE_LOGVAR;
    for (int id = X0; id <= V; id++)
        DM_TRY(define(r, r->tensors[id], "predict"));
    if (logvar)
        DM_TRY(define(r, r->tensors[LOGVAR], "predict"));
    if (mean)
        DM_TRY(define(r, r->tensors[MEAN], "predict"));
    out->x0 = r->tensors[X0];
    out->eps = r->tensors[EPS];
    out->v = r->tensors[V];
    out->logvar = logvar ? r->tensors[LOGVAR] : NULL;
    if (DEMIST_REACHES(out, mean))
        out->mean = mean ? r->tensors[MEAN] : NULL;
    return DEMIST_OK;
}

static demist_status run_coeffs(demist_run *run, double t, demist_coeffs *out)
{
    return dm_process_coeffs(of(run)->o.process, t, out, &of(run)->error);
}

static demist_status run_time_of(demist_run *run, double lambda, double *t)
{
    return dm_process_time_of(of(run)->o.process, lambda, t, &of(run)->error);
}

static demist_status run_noise(demist_run *run, demist_noise_purpose purpose, int64_t k,
                               demist_tensor *out)
{
    struct dm_runner *r = of(run);
    if (k < 0 || k > UINT32_MAX)
        return dm_fail(&r->error, DEMIST_INVALID, "noise: draw number %lld is not in 0 … 2^32 - 1",
                       (long long)k);
    if (dm_process_encodes(r->o.process))
        return dm_fail(&r->error, DEMIST_INCOMPATIBLE,
                       "noise: the sampler draws noise, and [sample] direction = encode needs a "
                       "deterministic one: take sampler ddim with eta = 0");
    if (dm_noise_is_keyed(r->o.noise)) {
        DM_TRY(define(r, out, "noise"));
        bool ok = record(r, 3, (int32_t[]){CALL_NOISE, out->id, (int32_t)purpose}) &&
                  push_scalar(r, (demist_scalar){.u = dm_noise_seed(r->o.noise)}) &&
                  push_scalar(r, (demist_scalar){.u = (uint64_t)k}) &&
                  push_scalar(r, (demist_scalar){.u = (uint64_t)r->first_image});
        return ok ? DEMIST_OK : out_of_memory(r);
    }
    if (!out || out->runner != r)
        return dm_fail(&r->error, DEMIST_INVALID, "noise: the result is NULL or of another run");
    DM_TRY(dm_noise_draw(r->o.noise, purpose, k, r->host, &r->error));
    return write_tensor(r, out, r->host);
}

static demist_status run_lincomb(demist_run *run, demist_tensor *out, int32_t n, int64_t n_coefs,
                                 const double *coefs, demist_tensor *const *x)
{
    struct dm_runner *r = of(run);
    bool per_image = n_coefs != n;
    if (n < 1 || (per_image && n_coefs != n * r->n))
        return dm_fail(&r->error, DEMIST_INVALID,
                       "lincomb: %lld coefficients for %d tensors and %lld images; give one per "
                       "tensor, or one per tensor and image",
                       (long long)n_coefs, (int)n, (long long)r->n);
    for (int32_t i = 0; i < n; i++)
        DM_TRY(use(r, x[i], "lincomb"));
    DM_TRY(define(r, out, "lincomb"));
    bool ok = record(r, 4, (int32_t[]){CALL_LINCOMB, out->id, per_image, n});
    for (int32_t i = 0; ok && i < n; i++)
        ok = push_word(&r->code, x[i]->id) &&
             push_coefs(r, per_image, coefs + (per_image ? i * r->n : i));
    return ok ? DEMIST_OK : out_of_memory(r);
}

/* Inputs and parameters of each map op. */
static const struct {
    int inputs, params;
} map_arity[] = {
    [DEMIST_MAP_MUL] = {2, 0},  [DEMIST_MAP_DIV] = {2, 0},   [DEMIST_MAP_MAX] = {2, 0},
    [DEMIST_MAP_MIN] = {2, 0},  [DEMIST_MAP_ABS] = {1, 0},   [DEMIST_MAP_EXP] = {1, 2},
    [DEMIST_MAP_SQRT] = {1, 0}, [DEMIST_MAP_CLAMP] = {1, 2}, [DEMIST_MAP_SELECT] = {3, 0},
};

static demist_status run_map(demist_run *run, demist_map_op op, demist_tensor *out, int32_t n,
                             demist_tensor *const *in, const double *params)
{
    struct dm_runner *r = of(run);
    if (op < DEMIST_MAP_MUL || op > DEMIST_MAP_SELECT)
        return dm_fail(&r->error, DEMIST_UNSUPPORTED, "map: this host knows no op %d", (int)op);
    if (n != map_arity[op].inputs || (map_arity[op].params > 0 && !params))
        return dm_fail(&r->error, DEMIST_INVALID,
                       "map: op %d takes %d tensors and %d parameters, not %d tensors%s", (int)op,
                       map_arity[op].inputs, map_arity[op].params, (int)n,
                       params ? "" : " and none");
    for (int32_t i = 0; i < n; i++)
        DM_TRY(use(r, in[i], "map"));
    DM_TRY(define(r, out, "map"));
    bool ok = record(r, 4, (int32_t[]){CALL_MAP, out->id, (int32_t)op, n});
    for (int32_t i = 0; ok && i < n; i++)
        ok = push_word(&r->code, in[i]->id);
    for (int i = 0; ok && i < map_arity[op].params; i++)
        ok = push_scalar(r, (demist_scalar){.f = params[i]});
    return ok ? DEMIST_OK : out_of_memory(r);
}

static demist_status run_read(demist_run *run, demist_tensor *x, float *host)
{
    struct dm_runner *r = of(run);
    DM_TRY(holds(r, x, "read"));
    DM_TRY(flush(r, true));
    return read_tensor(r, x, host);
}

static demist_status run_write(demist_run *run, demist_tensor *x, const float *host)
{
    struct dm_runner *r = of(run);
    if (!x || x->runner != r)
        return dm_fail(&r->error, DEMIST_INVALID, "write: the tensor is NULL or of another run");
    return write_tensor(r, x, host);
}

/* One image; magnitudes: scratch [n]. */
static double reduce_image(demist_reduce_op op, double param, const float *x, int64_t n,
                           double *magnitudes)
{
    double sum = 0;
    switch (op) {
    case DEMIST_REDUCE_SUM:
        for (int64_t i = 0; i < n; i++)
            sum += x[i];
        return sum;
    case DEMIST_REDUCE_SUM_OF_SQUARES:
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[i] * x[i];
        return sum;
    case DEMIST_REDUCE_MAX_ABS:
        for (int64_t i = 0; i < n; i++)
            sum = fabs((double)x[i]) > sum || isnan(x[i]) ? fabs((double)x[i]) : sum;
        return sum;
    case DEMIST_REDUCE_QUANTILE:
        break;
    }
    for (int64_t i = 0; i < n; i++)
        magnitudes[i] = fabs((double)x[i]);
    return dm_quantile(magnitudes, n, param);
}

static demist_status run_reduce(demist_run *run, demist_reduce_op op, double param,
                                demist_tensor *x, double *host)
{
    struct dm_runner *r = of(run);
    if (op < DEMIST_REDUCE_SUM || op > DEMIST_REDUCE_QUANTILE)
        return dm_fail(&r->error, DEMIST_UNSUPPORTED, "reduce: this host knows no op %d", (int)op);
    if (op == DEMIST_REDUCE_QUANTILE && !(param >= 0 && param <= 1))
        return dm_fail(&r->error, DEMIST_INVALID, "reduce: quantile %g is not in [0, 1]", param);
    DM_TRY(run_read(run, x, r->host));
    for (int64_t i = 0; i < r->n; i++)
        host[i] =
            reduce_image(op, param, r->host + i * run->n_elements, run->n_elements, r->magnitudes);
    return DEMIST_OK;
}

static demist_status run_temp(demist_run *run, demist_tensor **out)
{
    struct dm_runner *r = of(run);
    size_t i = N_FIXED + r->n_temps;
    if (i == r->n_tensors) /* else one of an earlier batch, with its buffers */
        DM_TRY(add_tensor(r, out));
    *out = r->tensors[i];
    r->n_temps++;
    return DEMIST_OK;
}

/* Tells of step i, 0 … n_steps − 1. */
static demist_status tell_step(struct dm_runner *r, int32_t i, demist_tensor *x, demist_tensor *x0)
{
    demist_run *run = &r->run;
    if (r->emitted >= 0 && r->o.check_every_step) /* no predict came since */
        DM_TRY(flush(r, true));
    if (x->id == X)
        r->emitted = i;
    const float *data = NULL, *data_x0 = NULL;
    if (r->o.wants_data) {
        DM_TRY(run_read(run, x, r->host));
        data = r->host;
        if (x0) {
            DM_TRY(run_read(run, x0, r->host_x0));
            data_x0 = r->host_x0;
        }
        if (!r->o.keep_nonfinite)
            DM_TRY(check_finite(r, i, data));
    }
    if (r->o.emit && !r->o.emit(r->o.user, i, data, data_x0))
        return dm_fail(&r->error, DEMIST_CANCELLED, "interrupted after step %d of %d", (int)i + 1,
                       (int)r->n_steps);
    const float *taught = r->o.teacher ? r->o.teacher(r->o.user, i) : NULL;
    return taught ? write_tensor(r, x, taught) : DEMIST_OK;
}

static demist_status run_emit(demist_run *run, int32_t i, demist_tensor *x, demist_tensor *x0)
{
    struct dm_runner *r = of(run);
    DM_TRY(holds(r, x, "emit"));
    if (i < 0 || i >= run->n_steps)
        return dm_fail(&r->error, DEMIST_INVALID, "emit: step %d of %d", (int)i, (int)run->n_steps);
    return tell_step(r, i, x, x0);
}

/* The step from the last time into pure noise: x' = 0·x_0 + 1·ε. */
static demist_status step_into_noise(struct dm_runner *r)
{
    demist_prediction out = DEMIST_INIT(demist_prediction);
    demist_tensor *x = r->tensors[X];
    int32_t i = r->n_steps - 1;
    DM_TRY(demist_predict(&r->run, dm_process_time(r->o.process)[i], x, &out));
    DM_TRY(demist_lincomb(&r->run, x, 1, (double[]){1}, &out.eps));
    return tell_step(r, i, x, out.x0);
}

/* ---------------------------------------------------------------- the runner */

demist_status dm_runner_create(const struct dm_runner_options *options, struct dm_runner **runner,
                               struct dm_error *err)
{
    struct dm_runner *r = calloc(1, sizeof *r);
    if (!r)
        return dm_fail_memory(err, "the run");
    const struct dm_network *network = options->model->network;
    r->o = *options;
    r->vt = options->device->vtable;
    r->n_steps = dm_process_n_steps(options->process);
    r->run = (demist_run){
        .size = sizeof r->run,
        .internal = r,
        .rank = network->info.rank,
        .n_elements = network->n_elements,
        .n_steps = r->n_steps - dm_process_ends_in_noise(options->process),
        .time = dm_process_time(options->process),
        .step = dm_process_step(options->process),
        .predict = run_predict,
        .coeffs = run_coeffs,
        .time_of = run_time_of,
        .noise = run_noise,
        .lincomb = run_lincomb,
        .map = run_map,
        .reduce = run_reduce,
        .temp = run_temp,
        .read = run_read,
        .write = run_write,
        .emit = run_emit,
    };
    memcpy(r->run.shape, network->info.shape, sizeof r->run.shape);
    size_t elements = (size_t)options->max_batch * (size_t)network->n_elements;
    r->host = malloc(elements * sizeof(float));
    r->host_x0 = malloc(elements * sizeof(float));
    r->times = malloc((size_t)options->max_batch * sizeof(float));
    r->magnitudes = malloc((size_t)network->n_elements * sizeof *r->magnitudes);
    size_t raw = options->evaluated ? (size_t)options->model->raw_elements : 0;
    r->host_raw = malloc((size_t)options->max_batch * raw * sizeof(float) + 1);
    bool ok = r->host && r->host_x0 && r->times && r->magnitudes && r->host_raw;
    demist_status status = ok ? DEMIST_OK : out_of_memory(r);
    for (int i = 0; status == DEMIST_OK && i < N_FIXED; i++) {
        demist_tensor *t;
        status = add_tensor(r, &t);
    }
    if (status != DEMIST_OK) {
        dm_fail(err, status, "%s", r->error.text ? r->error.text : "the run");
        dm_runner_destroy(r);
        return status;
    }
    *runner = r;
    return DEMIST_OK;
}

void dm_runner_destroy(struct dm_runner *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n_segments; i++)
        free_segment(r, &r->segments[i]);
    for (size_t i = 0; i < r->n_bound; i++)
        if (r->bound[i].binding)
            r->vt->binding_destroy(r->bound[i].binding);
    for (size_t i = 0; i < r->n_vector_buffers; i++)
        r->vt->buffer_destroy(r->vector_buffers[i]);
    for (size_t i = 0; i < r->n_tensors; i++) {
        for (int side = 0; side < 2; side++)
            if (r->tensors[i]->buffer[side])
                r->vt->buffer_destroy(r->tensors[i]->buffer[side]);
        free(r->tensors[i]);
    }
    dm_error_clear(&r->error);
    free(r->tensors);
    free(r->code.data);
    free(r->scalars);
    free(r->vectors);
    free(r->segments);
    free(r->bound);
    free(r->vector_buffers);
    free(r->host);
    free(r->host_x0);
    free(r->host_raw);
    free(r->times);
    free(r->magnitudes);
    free(r);
}

/* Forgets what an earlier batch recorded or left. */
static void start_batch(struct dm_runner *r, int64_t first_image, int64_t n)
{
    r->n = r->run.n_images = n;
    r->first_image = first_image;
    r->n_temps = 0;
    r->n_predicts = 0;
    r->emitted = -1;
    r->code.n = r->n_scalars = r->n_vectors = 0;
    dm_error_clear(&r->error);
    for (size_t i = 0; i < r->n_tensors; i++)
        r->tensors[i]->has_value = r->tensors[i]->read = r->tensors[i]->written = false;
}

static demist_status run_batch(struct dm_runner *r, struct dm_instance *sampler, int64_t first,
                               int64_t n, float *x)
{
    const demist_sampler_vtable *vtable = sampler->cls->vtable;
    start_batch(r, first, n);
    DM_TRY(write_tensor(r, r->tensors[X], x));
    if (r->run.n_steps > 0) { /* else all there is to do is the host's */
        demist_status status = vtable->sample(sampler->self, &r->run, r->tensors[X]);
        if (r->error.status != DEMIST_OK) { /* what the run said counts, whatever became of it */
            dm_instance_check(sampler, "sample", DEMIST_OK, NULL);
            return r->error.status;
        }
        DM_TRY(dm_instance_check(sampler, "sample", status, &r->error));
    }
    if (dm_process_ends_in_noise(r->o.process))
        DM_TRY(step_into_noise(r));
    DM_TRY(flush(r, false));
    return read_tensor(r, r->tensors[X], x);
}

demist_status dm_runner_sample(struct dm_runner *r, struct dm_instance *sampler,
                               int64_t first_image, int64_t n, float *x, struct dm_error *err)
{
    size_t bytes = (size_t)n * (size_t)r->run.n_elements * sizeof(float);
    float *start = r->o.check_every_step || r->o.keep_nonfinite ? NULL : malloc(bytes);
    if (start)
        memcpy(start, x, bytes);
    demist_status status = run_batch(r, sampler, first_image, n, x);
    if (status == DEMIST_OK && !r->o.keep_nonfinite && first_bad_image(r, x) >= 0) {
        /* A run is a function of its start, so a second one that looks at every step finds the
         * step that the first one, which never waited for the device, could not see. */
        if (start) {
            bool (*emit)(void *, int32_t, const float *, const float *) = r->o.emit;
            r->o.check_every_step = true;
            r->o.emit = NULL;
            status = run_batch(r, sampler, first_image, n, start);
            r->o.check_every_step = false;
            r->o.emit = emit;
        }
        if (status == DEMIST_OK)
            status = check_finite(r, r->n_steps - 1, x);
    }
    free(start);
    if (status != DEMIST_OK)
        dm_fail(err, status, "%s", r->error.text ? r->error.text : dm_status_text(status));
    return status;
}

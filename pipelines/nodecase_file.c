/* Cases in files. The graph is JSON in the metadata; attributes are the bytes of demist_attrs,
 * whose layout the ABI's epoch fixes. Reading builds the graph anew with the builder, which checks
 * all that a stranger could have written. */
#include "nodecase.h"

#include "graphdump.h"
#include "jsonout.h"
#include "number.h"
#include "probe.h"
#include "safetensors.h"
#include "shape.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METADATA_KEY "demist.case"
enum { MOST_NODES = 4096, MOST_IMAGES = 1 << 20 };

/* ---------------------------------------------------------------- writing */

static bool is_given(const demist_node *node)
{
    return node->op == DEMIST_OP_PARAM || node->op == DEMIST_OP_CONSTANT;
}

static void put_attrs(cJSON *object, const demist_attrs *attrs, bool *ok)
{
    char hex[2 * sizeof *attrs + 1];
    size_t n = sizeof *attrs;
    while (n > 0 && attrs->bytes[n - 1] == 0)
        n--;
    for (size_t i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", attrs->bytes[i]);
    hex[2 * n] = 0;
    dm_json_put_text(object, "attrs", hex, ok);
}

static void put_node(cJSON *array, const demist_node *node, bool *ok)
{
    cJSON *object = dm_json_append_object(array, ok);
    dm_json_put_text(object, "name", node->name, ok);
    dm_json_put_text(object, "op", is_given(node) ? "constant" : demist_op_name(node->op), ok);
    dm_json_put_text(object, "dtype", demist_dtype_name(node->dtype), ok);
    cJSON *shape = dm_json_put_array(object, "shape", ok);
    for (int32_t i = 0; i < node->rank; i++)
        dm_json_append_integer(shape, node->shape[i], ok);
    cJSON *inputs = dm_json_put_array(object, "inputs", ok);
    for (int32_t i = 0; i < node->n_inputs; i++)
        dm_json_append_integer(inputs, node->inputs[i]->id, ok);
    put_attrs(object, &node->attrs, ok);
}

/* The graph as a JSON text, for free(). */
static demist_status print_graph(const struct dm_case *c, char **json, struct dm_error *err)
{
    const demist_graph *graph = dm_graph_view(c->graph);
    struct dm_text text = DM_TEXT_INIT;
    bool ok = true;
    cJSON *root = cJSON_CreateObject();
    dm_json_put_integer(root, "epoch", DEMIST_ABI_EPOCH, &ok);
    dm_json_put_integer(root, "images", c->n, &ok);
    dm_json_put_number(root, "largest", c->largest, &ok);
    cJSON *slots = dm_json_put_array(root, "slots", &ok);
    for (int32_t i = 0; i < graph->n_scalars; i++) {
        char bits[24];
        cJSON *slot = dm_json_append_object(slots, &ok);
        dm_json_put_text(slot, "name", dm_graph_slot_name(c->graph, i), &ok);
        snprintf(bits, sizeof bits, "%" PRId64, (int64_t)c->scalars[i].u);
        dm_json_put_text(slot, "bits", bits, &ok);
    }
    cJSON *nodes = dm_json_put_array(root, "nodes", &ok);
    for (int32_t i = 0; i < graph->n_nodes; i++)
        put_node(nodes, graph->nodes[i], &ok);
    demist_status status = dm_json_print(&text, root, ok, err);
    *json = dm_text_take(&text);
    return status == DEMIST_OK && !*json ? dm_fail_memory(err, "a case") : status;
}

/* A view of n images of a node's value; `name` outlives it. */
static struct dm_tensor_view view_of(const demist_node *node, const char *name, const void *data,
                                     int64_t n)
{
    struct dm_tensor_view view = {.name = name,
                                  .dtype = (int)node->dtype,
                                  .rank = node->rank,
                                  .data = data,
                                  .bytes = dm_value_bytes(node, n)};
    memcpy(view.shape, node->shape, sizeof view.shape);
    if (demist_is_batched(node))
        view.shape[0] = n;
    return view;
}

_Static_assert((int)DM_MAX_RANK == (int)DEMIST_MAX_RANK, "a node's shape fits a view");

static demist_status save(const struct dm_case *c, const struct dm_case_texts *texts,
                          const char *json, const float *got, const char *path,
                          struct dm_arena *arena, struct dm_error *err)
{
    const demist_graph *graph = dm_graph_view(c->graph);
    struct dm_tensor_view *views = dm_arena_array(arena, (size_t)graph->n_nodes + 2, sizeof *views);
    size_t n = 0;
    if (!views)
        return dm_fail_memory(err, "a case");
    for (int32_t i = 0, input = 0; i < graph->n_nodes; i++) {
        const demist_node *node = graph->nodes[i];
        const void *data = node->op == DEMIST_OP_INPUT ? c->data[input++] : node->data;
        char *name = dm_arena_printf(arena, "node.%d", (int)i);
        if (!name)
            return dm_fail_memory(err, "a case");
        if (node->op == DEMIST_OP_INPUT || is_given(node))
            views[n++] = view_of(node, name, data, c->n);
    }
    views[n++] = view_of(graph->outputs[0], "expected", c->expected, c->n);
    views[n++] = view_of(graph->outputs[0], "got", got, c->n);
    const struct dm_metadata metadata[] = {
        {METADATA_KEY, json},
        {"network", texts->network},
        {"node", texts->node},
        {"backend", texts->backend},
        {"precision", texts->precision},
        {"reference", texts->reference},
        {"description", texts->description},
    };
    return dm_safetensors_save(path, views, n, metadata, sizeof metadata / sizeof *metadata, err);
}

demist_status dm_case_save(const struct dm_case *c, const struct dm_case_texts *texts,
                           const float *got, const char *path, struct dm_error *err)
{
    struct dm_arena arena = {0};
    char *json = NULL;
    demist_status status = print_graph(c, &json, err);
    if (status == DEMIST_OK)
        status = save(c, texts, json, got, path, &arena, err);
    free(json);
    dm_arena_finish(&arena);
    return status;
}

/* ---------------------------------------------------------------- reading */

struct reader {
    struct dm_case *c;
    const char *path;
    const demist_node **made;
    int32_t n_made, n_inputs;
    struct dm_error *err;
};

static demist_status malformed(struct reader *r, const char *what)
{
    return dm_fail(r->err, DEMIST_FORMAT, "%s: not a case that can be replayed: %s", r->path, what);
}

/* A whole number from least to most. */
static bool integer_of(const cJSON *item, int64_t least, int64_t most, int64_t *out)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= (double)least) ||
        !(item->valuedouble <= (double)most) || item->valuedouble != floor(item->valuedouble))
        return false;
    *out = (int64_t)item->valuedouble;
    return true;
}

static bool op_of(const char *name, demist_op *op)
{
    static const struct {
        const char *name;
        demist_op op;
    } ops[] = {
#define ROW(upper, id, text, fewest, most) {text, DEMIST_OP_##upper},
        DEMIST_OPS(ROW)
#undef ROW
    };
    for (size_t i = 0; name && i < sizeof ops / sizeof *ops; i++)
        if (strcmp(ops[i].name, name) == 0) {
            *op = ops[i].op;
            return true;
        }
    return false;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool attrs_of(const char *hex, demist_attrs *attrs)
{
    *attrs = demist_no_attrs();
    size_t n = hex ? strlen(hex) : 1;
    if (n % 2 || n / 2 > sizeof *attrs)
        return false;
    for (size_t i = 0; i < n / 2; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        attrs->bytes[i] = (unsigned char)(high * 16 + low);
    }
    return true;
}

/* What a node's object says, checked for form alone. */
struct said {
    const char *name;
    demist_op op;
    demist_dtype dtype;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    demist_attrs attrs;
    int32_t n_inputs;
    const demist_node **inputs; /* in the case's arena */
};

static bool read_shape(const cJSON *array, struct said *said)
{
    const cJSON *item;
    if (!cJSON_IsArray(array))
        return false;
    cJSON_ArrayForEach(item, array)
    {
        if (said->rank == DEMIST_MAX_RANK ||
            !integer_of(item, DEMIST_BATCH, INT32_MAX, &said->shape[said->rank++]))
            return false;
    }
    return true;
}

static bool read_inputs(struct reader *r, const cJSON *array, struct said *said)
{
    int n = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : -1;
    const cJSON *item;
    if (n < 0 || n > MOST_NODES)
        return false;
    said->inputs = dm_arena_array(&r->c->arena, (size_t)n + 1, sizeof(const demist_node *));
    if (!said->inputs)
        return false;
    cJSON_ArrayForEach(item, array)
    {
        int64_t id;
        if (!integer_of(item, 0, r->n_made - 1, &id))
            return false;
        said->inputs[said->n_inputs++] = r->made[id];
    }
    return true;
}

static bool read_node(struct reader *r, const cJSON *object, struct said *said)
{
    const char *dtype = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "dtype"));
    *said = (struct said){
        .name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "name"))};
    bool is_i32 = dtype && strcmp(dtype, demist_dtype_name(DEMIST_I32)) == 0;
    said->dtype = is_i32 ? DEMIST_I32 : DEMIST_F32;
    return said->name && dtype && (is_i32 || strcmp(dtype, demist_dtype_name(DEMIST_F32)) == 0) &&
           op_of(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "op")), &said->op) &&
           attrs_of(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "attrs")),
                    &said->attrs) &&
           read_shape(cJSON_GetObjectItemCaseSensitive(object, "shape"), said) &&
           read_inputs(r, cJSON_GetObjectItemCaseSensitive(object, "inputs"), said);
}

/* The data of the node's value, whose size the file must give exactly. */
static const void *tensor_of(struct reader *r, const char *name, const demist_node *node)
{
    const struct dm_tensor_view *view = dm_checkpoint_find(r->c->file, name);
    bool fits =
        view && view->dtype == (int)node->dtype && view->bytes == dm_value_bytes(node, r->c->n);
    return fits ? view->data : NULL;
}

static demist_status make_leaf(struct reader *r, const struct said *said, demist_builder *b)
{
    char name[32];
    snprintf(name, sizeof name, "node.%d", (int)r->n_made);
    demist_node probe = {.dtype = said->dtype, .rank = said->rank};
    memcpy(probe.shape, said->shape, sizeof probe.shape);
    DM_TRY(dm_shape_check(said->dtype, said->rank, said->shape, r->err));
    const void *data = tensor_of(r, name, &probe);
    if (!data)
        return malformed(r, "an input has no tensor of its size");
    if (said->op == DEMIST_OP_CONSTANT) {
        r->made[r->n_made] = b->constant(b, said->dtype, said->rank, said->shape, data);
        return DEMIST_OK;
    }
    r->c->data[r->n_inputs++] = data;
    r->made[r->n_made] =
        b->input(b, said->name, DEMIST_ROLE_OTHER, said->dtype, said->rank, said->shape);
    return DEMIST_OK;
}

static demist_status make_node(struct reader *r, const cJSON *object, demist_builder *b)
{
    struct said said;
    if (!read_node(r, object, &said))
        return malformed(r, "a node's description is damaged");
    if (said.op == DEMIST_OP_INPUT || said.op == DEMIST_OP_CONSTANT)
        DM_TRY(make_leaf(r, &said, b));
    else {
        bool shaped = said.op == DEMIST_OP_RESHAPE || said.op == DEMIST_OP_EXPAND ||
                      said.op == DEMIST_OP_PHILOX_NORMAL || said.op == DEMIST_OP_PHILOX_UNIFORM;
        const demist_node *node = b->op(b, said.op, said.n_inputs, said.inputs, &said.attrs,
                                        shaped ? said.rank : 0, shaped ? said.shape : NULL);
        r->made[r->n_made] = b->name(b, node, "%s", said.name);
    }
    r->n_made++;
    return b->failed(b) ? dm_graph_finish(r->c->graph, r->err) : DEMIST_OK;
}

static demist_status make_slots(struct reader *r, const cJSON *array, demist_builder *b)
{
    const cJSON *item;
    int n = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : -1;
    if (n < 0 || n > MOST_NODES)
        return malformed(r, "its scalar slots are damaged");
    r->c->scalars = calloc((size_t)n + 1, sizeof *r->c->scalars);
    if (!r->c->scalars)
        return dm_fail_memory(r->err, r->path);
    cJSON_ArrayForEach(item, array)
    {
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "name"));
        const char *bits = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "bits"));
        int64_t value;
        if (!name || !bits || dm_parse_int64(bits, &value) != DM_PARSE_OK)
            return malformed(r, "its scalar slots are damaged");
        int32_t slot = b->scalar_slot(b, name);
        if (slot < 0)
            return dm_graph_finish(r->c->graph, r->err);
        r->c->scalars[slot].u = (uint64_t)value;
    }
    return DEMIST_OK;
}

static demist_status build(struct reader *r, const cJSON *root)
{
    const cJSON *nodes = cJSON_GetObjectItemCaseSensitive(root, "nodes"), *item;
    const cJSON *largest = cJSON_GetObjectItemCaseSensitive(root, "largest");
    int n = cJSON_IsArray(nodes) ? cJSON_GetArraySize(nodes) : 0;
    int64_t epoch;
    if (!integer_of(cJSON_GetObjectItemCaseSensitive(root, "epoch"), DEMIST_ABI_EPOCH,
                    DEMIST_ABI_EPOCH, &epoch))
        return malformed(r, "it was written by a program of another ABI epoch");
    if (!integer_of(cJSON_GetObjectItemCaseSensitive(root, "images"), 1, MOST_IMAGES, &r->c->n) ||
        !cJSON_IsNumber(largest) || n < 1 || n > MOST_NODES)
        return malformed(r, "its graph is damaged");
    r->c->largest = largest->valuedouble;
    r->made = dm_arena_array(&r->c->arena, (size_t)n, sizeof *r->made);
    r->c->data = dm_arena_array(&r->c->arena, (size_t)n, sizeof *r->c->data);
    if (!r->made || !r->c->data)
        return dm_fail_memory(r->err, r->path);
    demist_builder *b = dm_graph_builder(r->c->graph);
    DM_TRY(make_slots(r, cJSON_GetObjectItemCaseSensitive(root, "slots"), b));
    cJSON_ArrayForEach(item, nodes)
    {
        DM_TRY(make_node(r, item, b));
    }
    b->output(b, "out", r->made[n - 1]);
    DM_TRY(dm_graph_finish(r->c->graph, r->err));
    r->c->expected = tensor_of(r, "expected", r->made[n - 1]);
    return r->c->expected ? DEMIST_OK : malformed(r, "there is no tensor `expected` of its size");
}

static demist_status load(struct reader *r, struct dm_case_origin *origin)
{
    DM_TRY(dm_checkpoint_open(r->path, &r->c->file, r->err));
    const char *json = dm_checkpoint_metadata(r->c->file, METADATA_KEY);
    if (!json)
        return malformed(r, "`compare --save-case` did not write it");
    origin->node = dm_checkpoint_metadata(r->c->file, "node");
    origin->backend = dm_checkpoint_metadata(r->c->file, "backend");
    origin->precision = dm_checkpoint_metadata(r->c->file, "precision");
    origin->reference = dm_checkpoint_metadata(r->c->file, "reference");
    if (!origin->node || !origin->backend || !origin->precision || !origin->reference)
        return malformed(r, "it does not say where it comes from");
    DM_TRY(dm_graph_create("case", NULL, &r->c->graph, r->err));
    cJSON *root = cJSON_Parse(json);
    demist_status status = root ? build(r, root) : malformed(r, "its graph is not JSON");
    cJSON_Delete(root);
    return status;
}

demist_status dm_case_load(struct dm_case *c, struct dm_case_origin *origin, const char *path,
                           struct dm_error *err)
{
    *c = (struct dm_case){0};
    *origin = (struct dm_case_origin){0};
    struct reader r = {.c = c, .path = path, .err = err};
    demist_status status = load(&r, origin);
    if (status != DEMIST_OK)
        dm_case_finish(c);
    return status;
}

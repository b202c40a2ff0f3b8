/* The look inside: which node of the network leaves its tolerance first.
 *
 * The reference side's program is unfused, so that every value of the network's graph is known. The
 * other side's is the one it really runs, observed. A value that differs by more than its own bound
 * may only have inherited it: such a suspect is run alone on the reference side's inputs. */
#include "lockstep.h"

#include "fileio.h"
#include "graphdump.h"
#include "nodecase.h"
#include "probe.h"
#include "shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The values of a network's nodes are kept for as many images as this holds. */
#define MOST_BYTES ((size_t)512 << 20)

struct look {
    struct dm_lockstep *l;
    const struct dm_compare_run *run;
    struct dm_compare_side *side;
    struct dm_device *device;
    const demist_precision *other;
    struct dm_arena *arena;
    struct dm_error *err;
    const demist_graph *graph; /* the network's */
    struct dm_probe reference, probe;
    int32_t *original; /* of the side's lowered nodes: whose value they hold, −1: nobody's */
    int32_t *holder;   /* of the network's nodes: the lowered one that computes them, −1: none */
    struct dm_compare_node **by_id; /* of the network's nodes; NULL: a leaf */
    int32_t *ids;                   /* room for all of the network's nodes */
    int64_t n;                      /* images */
    /* Of the evaluation that is looked at: */
    int32_t evaluation;
    struct dm_values exact, seen;
};

static bool is_leaf(const demist_node *node)
{
    return node->op == DEMIST_OP_INPUT || node->op == DEMIST_OP_PARAM ||
           node->op == DEMIST_OP_CONSTANT || node->op == DEMIST_OP_SCALAR;
}

static const demist_graph *lowered_of(const struct dm_probe *probe)
{
    return dm_graph_view(probe->model.lowered.graph);
}

/* ---------------------------------------------------------------- the reference side's values */

/* The node that holds a network's node on the reference side; NULL: none does. */
static const demist_node *reference_node(const struct look *k, const demist_node *node)
{
    struct dm_origin origin = k->reference.model.lowered.origins[node->id];
    return origin.fate == DM_FATE_KEPT ? lowered_of(&k->reference)->nodes[origin.node] : NULL;
}

static const void *exact_data(void *user, const demist_node *node)
{
    const struct look *k = user;
    const demist_node *held = node->data ? NULL : reference_node(k, node);
    return node->data ? node->data : !held ? NULL : held->data ? held->data : k->exact.of[held->id];
}

static bool is_known(void *user, const demist_node *node)
{
    const demist_node *held = reference_node(user, node);
    return held && held->data;
}

/* The same for a node of the side's own lowered graph. */
static const void *exact_lowered(void *user, const demist_node *node)
{
    const struct look *k = user;
    int32_t original = k->original[node->id];
    return node->data      ? node->data
           : original >= 0 ? exact_data(user, k->graph->nodes[original])
                           : NULL;
}

/* ---------------------------------------------------------------- who computes what */

/* The materialised node that computes a lowered node; −1: none. */
static int32_t materialised(const struct look *k, int32_t id)
{
    const demist_backend_vtable *vt = k->device->vtable;
    for (int32_t hops = 0; id >= 0 && hops < lowered_of(&k->probe)->n_nodes; hops++) {
        int32_t inside = -1;
        demist_observability o = vt->observability(k->probe.model.program, id, &inside);
        if (o == DEMIST_OBSERVE_MATERIALISED)
            return id;
        id = o == DEMIST_OBSERVE_INSIDE ? inside : -1;
    }
    return -1;
}

static demist_status map_nodes(struct look *k)
{
    const demist_graph *lowered = lowered_of(&k->probe);
    const struct dm_origin *origins = k->probe.model.lowered.origins;
    k->original = malloc((size_t)lowered->n_nodes * sizeof *k->original);
    k->holder = malloc((size_t)k->graph->n_nodes * sizeof *k->holder);
    k->ids = malloc((size_t)k->graph->n_nodes * sizeof *k->ids);
    if (!k->original || !k->holder || !k->ids)
        return dm_fail_memory(k->err, "a comparison's nodes");
    for (int32_t i = 0; i < lowered->n_nodes; i++)
        k->original[i] = -1;
    for (int32_t i = 0; i < k->graph->n_nodes; i++) {
        const struct dm_origin *o = &origins[i];
        bool computed = o->fate != DM_FATE_REMOVED && !is_leaf(lowered->nodes[o->node]);
        k->holder[i] = computed ? materialised(k, o->node) : -1;
        if (o->fate == DM_FATE_KEPT)
            k->original[o->node] = i;
    }
    return DEMIST_OK;
}

static demist_status describe_node(struct look *k, int32_t id, struct dm_compare_node *out)
{
    const demist_node *node = k->graph->nodes[id];
    int32_t holder = k->holder[id];
    struct dm_text op = DM_TEXT_INIT;
    dm_text_append(&op, demist_op_name(node->op));
    dm_op_attrs_print(&op, node);
    *out = (struct dm_compare_node){.id = id, .evaluation = -1};
    out->name = dm_arena_strdup(k->arena, node->name);
    out->op = op.data ? dm_arena_strdup(k->arena, op.data) : NULL;
    out->shape = dm_arena_strdup(k->arena, dm_node_shape_text(node).text);
    dm_text_finish(&op);
    bool own = holder >= 0 && k->original[holder] == id;
    out->fate = own ? DM_COMPARE_SEEN : holder >= 0 ? DM_COMPARE_INSIDE : DM_COMPARE_GONE;
    if (out->fate == DM_COMPARE_INSIDE)
        out->inside = dm_arena_strdup(k->arena, lowered_of(&k->probe)->nodes[holder]->name);
    k->by_id[id] = out;
    return out->name && out->op && out->shape ? DEMIST_OK
                                              : dm_fail_memory(k->err, "a comparison's nodes");
}

static demist_status list_nodes(struct look *k)
{
    struct dm_compare_side *side = k->side;
    int32_t n = 0;
    for (int32_t i = 0; i < k->graph->n_nodes; i++)
        n += !is_leaf(k->graph->nodes[i]);
    side->nodes = dm_arena_array(k->arena, (size_t)n, sizeof *side->nodes);
    k->by_id = calloc((size_t)k->graph->n_nodes, sizeof *k->by_id);
    if (!side->nodes || !k->by_id)
        return dm_fail_memory(k->err, "a comparison's nodes");
    for (int32_t i = 0; i < k->graph->n_nodes; i++)
        if (!is_leaf(k->graph->nodes[i]))
            DM_TRY(describe_node(k, i, &side->nodes[side->n_nodes++]));
    for (int32_t i = 0; i < n; i++)
        side->n_seen += side->nodes[i].fate == DM_COMPARE_SEEN;
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- suspects */

/* A seen node and the network's nodes that it computes, in their order. */
struct suspect {
    struct dm_compare_node *told;
    int32_t *ids;
    int32_t n_ids;
};

static struct dm_case_source source_of(struct look *k)
{
    const struct dm_model *m = &k->probe.model;
    const struct dm_run_config *c = &k->l->setup->config;
    static const demist_scalar none[3];
    demist_scalar *scalars = dm_arena_array(k->arena, 3, sizeof *scalars);
    struct dm_case_source source = {.graph = k->l->setup->network.graph,
                                    .data = exact_data,
                                    .is_constant = is_known,
                                    .user = k,
                                    .scalars = scalars ? scalars : none,
                                    .n = k->n};
    if (scalars && m->seed_slot >= 0)
        scalars[m->seed_slot].u = c->sample.seed;
    if (scalars && m->draw_slot >= 0)
        scalars[m->draw_slot].u = k->l->evaluations[k->evaluation].at.draw;
    if (scalars && m->image_slot >= 0)
        scalars[m->image_slot].u = (uint64_t)c->sample.first;
    return source;
}

/* The case file of the first bad node so far. */
static demist_status save_case(struct look *k, const struct dm_case *c,
                               const struct dm_case_result *result, const char *node)
{
    const char *dir = k->l->options->save_case;
    struct dm_compare_side *side = k->side;
    struct dm_text text = DM_TEXT_INIT;
    DM_TRY(dm_make_dirs(dir, 0777, k->err));
    char *base = dm_arena_printf(k->arena, "%s/%s-%s", dir, k->run->sampler, side->label);
    char *path = base ? dm_arena_printf(k->arena, "%s.safetensors", base) : NULL;
    char *notes = base ? dm_arena_printf(k->arena, "%s.txt", base) : NULL;
    if (!path || !notes)
        return dm_fail_memory(k->err, "a case");
    dm_text_appendf(&text,
                    "Node %s of network %s on backend %s (%s, %s):\nalone on the inputs of backend "
                    "%s it differs by %.3g, and %.3g is allowed (ratio %.3g).\nElement %lld: %.9g "
                    "instead of %.9g.\n\n",
                    node, k->l->setup->config.network.use, side->label, side->precision,
                    side->device, k->run->sides[0].label, result->error.largest,
                    result->error.bound, result->error.ratio, (long long)result->error.element,
                    result->error.got, result->error.exact);
    dm_graph_dump(&text, dm_graph_view(c->graph));
    dm_text_appendf(&text, "\nTo run it again:\n  demist compare --replay %s --backends %s\n", path,
                    side->label);
    struct dm_case_texts texts = {.network = k->l->setup->config.network.use,
                                  .node = node,
                                  .backend = side->backend,
                                  .precision = side->precision,
                                  .reference = k->run->sides[0].label,
                                  .description = text.data ? text.data : ""};
    demist_status status = dm_case_save(c, &texts, result->out, path, k->err);
    if (status == DEMIST_OK)
        status = dm_write_file(notes, texts.description, strlen(texts.description), NULL, k->err);
    dm_text_finish(&text);
    side->case_file = path;
    return status;
}

/* Whether this node, with this ratio, is the one to save: the first in the graph, at its worst. */
static bool is_first_bad(const struct look *k, const struct dm_compare_node *told)
{
    const struct dm_compare_node *bad = k->side->first_bad;
    return !bad || told->id < bad->id || told == bad;
}

/* Runs nodes alone. *judged: there was a bound to hold the result against. */
static demist_status run_alone(struct look *k, struct suspect *s, const int32_t *ids, int32_t n_ids,
                               bool *judged)
{
    struct dm_case c;
    struct dm_case_result result;
    struct dm_case_source source = source_of(k);
    const char *name = k->graph->nodes[ids[n_ids - 1]]->name;
    DM_TRY(dm_case_make(&c, &source, ids, n_ids, k->err));
    demist_status status = dm_case_run(&c, k->device, k->other, &result, k->err);
    if (status != DEMIST_OK) {
        dm_case_finish(&c);
        dm_fail_where(k->err, "node '%s' alone", name);
        return status;
    }
    struct dm_compare_node *told = s->told;
    *judged = !isinf(result.tolerance.abs);
    if (*judged && (told->evaluation < 0 || result.error.ratio > told->ratio)) {
        told->error = result.error.largest;
        told->bound = result.error.bound;
        told->ratio = result.error.ratio;
        told->evaluation = k->evaluation;
        told->part = n_ids < s->n_ids ? dm_arena_strdup(k->arena, name) : NULL;
        told->exceeds = result.error.ratio > 1;
        if (told->exceeds && is_first_bad(k, told)) {
            k->side->first_bad = told;
            if (k->l->options->save_case)
                status = save_case(k, &c, &result, name);
        }
    }
    dm_case_result_finish(&result);
    dm_case_finish(&c);
    return status;
}

/* As a whole; where nothing can be said about the chain as a whole, by its parts. */
static demist_status judge_suspect(struct look *k, struct suspect *s)
{
    bool judged = false;
    s->told->alone = true;
    DM_TRY(run_alone(k, s, s->ids, s->n_ids, &judged));
    for (int32_t i = 0; !judged && s->n_ids > 1 && i < s->n_ids; i++) {
        bool part;
        DM_TRY(run_alone(k, s, &s->ids[i], 1, &part));
    }
    return DEMIST_OK;
}

/* The suspect of a materialised node; holds until the next one is asked for. */
static struct suspect suspect_of(const struct look *k, int32_t holder)
{
    struct suspect s = {.told = k->by_id[k->original[holder]], .ids = k->ids};
    for (int32_t i = 0; i < k->graph->n_nodes; i++)
        if (k->holder[i] == holder)
            s.ids[s.n_ids++] = i;
    return s;
}

/* ---------------------------------------------------------------- one evaluation */

/* The largest exact magnitude of all that a suspect computes. */
static double largest_within(struct look *k, const struct suspect *s)
{
    double largest = 0;
    for (int32_t i = 0; i < s->n_ids; i++) {
        const demist_node *node = k->graph->nodes[s->ids[i]];
        largest = fmax(largest, dm_node_largest(node, exact_data(k, node), k->n));
    }
    return largest;
}

static void note_screen(struct dm_compare_node *told, const struct dm_node_error *e)
{
    told->difference = fmax(told->difference, e->largest);
    told->relative = fmax(told->relative, e->relative);
    told->screen = fmax(told->screen, e->ratio);
}

/* The screen, and the node alone where it is a suspect. */
static demist_status look_at_node(struct look *k, int32_t holder)
{
    const demist_node *lowered = lowered_of(&k->probe)->nodes[holder];
    const demist_node *node = k->graph->nodes[k->original[holder]];
    const void *exact = exact_data(k, node), *seen = k->seen.of[holder];
    if (!exact || !seen) /* the reference side does not show it */
        return DEMIST_OK;
    struct suspect s = suspect_of(k, holder);
    double largest = largest_within(k, &s);
    struct dm_tolerance t =
        dm_node_tolerance(lowered, k->device->precision, k->n, largest, exact_lowered, k);
    if (k->other)
        t = dm_tolerance_sum(
            t, dm_node_tolerance(lowered, *k->other, k->n, largest, exact_lowered, k));
    struct dm_node_error e = dm_node_compare(node, k->n, t, seen, exact);
    note_screen(s.told, &e);
    bool suspect = isinf(t.abs) ? e.largest > 0 : e.ratio > 1;
    return suspect ? judge_suspect(k, &s) : DEMIST_OK;
}

static demist_status look_at_nodes(struct look *k)
{
    const demist_graph *lowered = lowered_of(&k->probe);
    for (int32_t i = 0; i < lowered->n_nodes; i++) {
        if (is_leaf(lowered->nodes[i]) || k->original[i] < 0)
            continue;
        DM_TRY(dm_compare_tell(k->l->options, k->side->label, "looking into the network", i,
                               lowered->n_nodes, k->err));
        DM_TRY(look_at_node(k, i));
    }
    return DEMIST_OK;
}

static demist_status look_at_evaluation(struct look *k, int32_t index)
{
    const struct dm_run_config *c = &k->l->setup->config;
    const struct dm_evaluation *at = &k->l->evaluations[index].at;
    uint64_t seed = c->sample.seed, image = (uint64_t)c->sample.first;
    k->evaluation = index;
    demist_status status =
        dm_probe_observe(&k->reference, at, k->n, seed, image, &k->exact, k->err);
    if (status == DEMIST_OK)
        status = dm_probe_observe(&k->probe, at, k->n, seed, image, &k->seen, k->err);
    if (status == DEMIST_OK)
        status = look_at_nodes(k);
    dm_values_finish(&k->exact);
    dm_values_finish(&k->seen);
    return status;
}

/* ---------------------------------------------------------------- which evaluations */

static void add_evaluation(struct look *k, int32_t index)
{
    struct dm_compare_side *side = k->side;
    for (int32_t i = 0; i < side->n_observed; i++)
        if (side->observed[i] == index)
            return;
    side->observed[side->n_observed] = index;
    side->observed_step[side->n_observed++] = k->l->evaluations[index].step;
}

/* The first, the middle and the last, which differ most in what the network sees, and the one with
 * the worst output. */
static void choose_evaluations(struct look *k)
{
    int32_t n = (int32_t)k->l->n_evaluations;
    add_evaluation(k, 0);
    add_evaluation(k, n / 2);
    add_evaluation(k, n - 1);
    for (int32_t i = 0; i < n; i++)
        if (k->side->output_exceeds && k->l->evaluations[i].step == k->side->output_step) {
            add_evaluation(k, i);
            break;
        }
}

/* As many images as fit. */
static void choose_images(struct look *k)
{
    size_t bytes = 1;
    for (int32_t i = 0; i < k->graph->n_nodes; i++)
        if (demist_is_batched(k->graph->nodes[i]))
            bytes += dm_value_bytes(k->graph->nodes[i], 1);
    size_t most = MOST_BYTES / bytes;
    k->n = most < 1 ? 1 : (int64_t)most < k->l->n ? (int64_t)most : k->l->n;
    k->side->observed_images = k->n;
}

/* The first value that is further off than a whole network's output may be. */
static const struct dm_compare_node *first_apart(const struct look *k)
{
    double tolerance = dm_network_tolerance(k->side->number_format);
    if (k->other)
        tolerance += dm_network_tolerance(*k->other);
    for (int32_t i = 0; i < k->side->n_nodes; i++)
        if (k->side->nodes[i].relative > tolerance)
            return &k->side->nodes[i];
    return NULL;
}

static demist_status look(struct look *k, struct dm_device *reference)
{
    const struct dm_lockstep *l = k->l;
    const struct dm_network *network = &l->setup->network;
    uint32_t unfused = DEMIST_COMPILE_OBSERVE | DM_COMPILE_UNFUSED;
    uint32_t flags = l->options->observe_all ? unfused : DEMIST_COMPILE_OBSERVE;
    choose_images(k);
    choose_evaluations(k);
    DM_TRY(dm_probe_open(&k->reference, network, reference, k->n, &l->conditions.given, l->guided,
                         unfused, k->err));
    DM_TRY(dm_probe_open(&k->probe, network, k->device, k->n, &l->conditions.given, l->guided,
                         flags, k->err));
    DM_TRY(map_nodes(k));
    DM_TRY(list_nodes(k));
    for (int32_t i = 0; i < k->side->n_observed; i++)
        DM_TRY(look_at_evaluation(k, k->side->observed[i]));
    for (int32_t i = 0; i < k->side->n_nodes; i++)
        k->side->n_alone += k->side->nodes[i].alone;
    k->side->first_apart = k->side->first_bad ? NULL : first_apart(k);
    return DEMIST_OK;
}

demist_status dm_compare_nodes(struct dm_lockstep *l, struct dm_device *reference,
                               struct dm_device *device, const demist_precision *other,
                               const struct dm_compare_run *run, struct dm_compare_side *side,
                               struct dm_arena *arena, struct dm_error *err)
{
    struct look k = {.l = l,
                     .run = run,
                     .side = side,
                     .device = device,
                     .other = other,
                     .arena = arena,
                     .err = err,
                     .graph = dm_graph_view(l->setup->network.graph)};
    demist_status status = look(&k, reference);
    dm_probe_close(&k.reference);
    dm_probe_close(&k.probe);
    free(k.original);
    free(k.holder);
    free(k.ids);
    free(k.by_id);
    return status;
}

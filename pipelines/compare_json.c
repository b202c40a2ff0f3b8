/* A comparison as JSON; docs/compare.md describes it. */
#include "compare.h"

#include "jsonout.h"

static void put_bool(cJSON *object, const char *key, bool value, bool *ok)
{
    dm_json_put(object, key, cJSON_CreateBool(value), ok);
}

static void put_difference(cJSON *object, const char *key, const struct dm_difference *d, bool *ok)
{
    cJSON *to = dm_json_put_object(object, key, ok);
    dm_json_put_number(to, "max", d->max, ok);
    dm_json_put_number(to, "rms", d->rms, ok);
    dm_json_put_number(to, "psnr", d->psnr, ok);
}

static void put_step(cJSON *array, int32_t i, const struct dm_compare_step *step, bool *ok)
{
    cJSON *object = dm_json_append_object(array, ok);
    dm_json_put_integer(object, "step", i + 1, ok);
    dm_json_put_number(object, "time", step->time, ok);
    dm_json_put_number(object, "output", step->output, ok);
    dm_json_put_number(object, "output_bound", step->output_bound, ok);
    put_difference(object, "teacher_forced", &step->forced, ok);
    put_difference(object, "free_running", &step->free, ok);
}

static void put_node(cJSON *array, const struct dm_compare_node *n, bool *ok)
{
    static const char *const fates[] = {"seen", "inside", "gone"};
    cJSON *object = dm_json_append_object(array, ok);
    dm_json_put_integer(object, "id", n->id, ok);
    dm_json_put_text(object, "name", n->name, ok);
    dm_json_put_text(object, "op", n->op, ok);
    dm_json_put_text(object, "shape", n->shape, ok);
    dm_json_put_text(object, "fate", fates[n->fate], ok);
    if (n->fate == DM_COMPARE_INSIDE)
        dm_json_put_text(object, "inside", n->inside, ok);
    if (n->fate != DM_COMPARE_SEEN)
        return;
    dm_json_put_number(object, "difference", n->difference, ok);
    dm_json_put_number(object, "relative", n->relative, ok);
    dm_json_put_number(object, "screen", n->screen, ok);
    put_bool(object, "run_alone", n->alone, ok);
    if (!n->alone)
        return;
    dm_json_put_number(object, "error", n->error, ok);
    dm_json_put_number(object, "bound", n->bound, ok);
    dm_json_put_number(object, "ratio", n->ratio, ok);
    dm_json_put_integer(object, "evaluation", n->evaluation, ok);
    if (n->part)
        dm_json_put_text(object, "part", n->part, ok);
    put_bool(object, "exceeds", n->exceeds, ok);
}

static void put_look(cJSON *object, const struct dm_compare_run *run,
                     const struct dm_compare_side *s, bool *ok)
{
    dm_json_put_number(object, "output_ratio", s->output_worst, ok);
    put_bool(object, "output_exceeds", s->output_exceeds, ok);
    put_bool(object, "disagrees", s->first_bad || s->output_exceeds, ok);
    dm_json_put_text(object, "first_bad_node", s->first_bad ? s->first_bad->name : NULL, ok);
    dm_json_put_text(object, "first_apart_node", s->first_apart ? s->first_apart->name : NULL, ok);
    dm_json_put_text(object, "case", s->case_file, ok);
    cJSON *steps = dm_json_put_array(object, "steps", ok);
    for (int32_t i = 0; i < run->n_steps; i++)
        put_step(steps, i, &s->steps[i], ok);
    cJSON *observed = dm_json_put_array(object, "observed_steps", ok);
    for (int32_t i = 0; i < s->n_observed; i++)
        dm_json_append_integer(observed, s->observed_step[i] + 1, ok);
    dm_json_put_integer(object, "observed_images", s->observed_images, ok);
    cJSON *nodes = dm_json_put_array(object, "nodes", ok);
    for (int32_t i = 0; i < s->n_nodes; i++)
        put_node(nodes, &s->nodes[i], ok);
}

static void put_side(cJSON *array, const struct dm_compare_run *run, size_t index, bool *ok)
{
    const struct dm_compare_side *s = &run->sides[index];
    cJSON *object = dm_json_append_object(array, ok);
    dm_json_put_text(object, "name", s->label, ok);
    dm_json_put_text(object, "backend", s->backend, ok);
    dm_json_put_text(object, "precision", s->precision, ok);
    dm_json_put_text(object, "device", s->device, ok);
    dm_json_put_text(object, "driver", s->driver, ok);
    dm_json_put_text(object, "detail", s->detail, ok);
    dm_json_put_text(object, "choices", s->choices, ok);
    dm_json_put_number(object, "first_step_ms", s->first_step_ms, ok);
    dm_json_put_number(object, "ms_per_step", s->ms_per_step, ok);
    dm_json_put_integer(object, "peak_memory_bytes", s->peak_memory_bytes, ok);
    dm_json_put_integer(object, "param_bytes", s->param_bytes, ok);
    dm_json_put_integer(object, "arena_bytes", s->arena_bytes, ok);
    if (index > 0)
        put_look(object, run, s, ok);
}

demist_status dm_compare_json(const struct dm_comparison *c, struct dm_text *out,
                              struct dm_error *err)
{
    bool ok = true;
    cJSON *root = cJSON_CreateObject();
    put_bool(root, "disagrees", c->disagrees, &ok);
    dm_json_put_text(root, "config", c->config, &ok);
    dm_json_put_text(root, "network", c->network, &ok);
    dm_json_put_text(root, "checkpoint", c->checkpoint, &ok);
    dm_json_put_text(root, "schedule", c->schedule, &ok);
    dm_json_put_integer(root, "images", c->n_images, &ok);
    dm_json_put_integer(root, "first", c->first, &ok);
    dm_json_put_text(root, "observe", c->observe_all ? "all" : "fused", &ok);
    cJSON *runs = dm_json_put_array(root, "runs", &ok);
    for (size_t r = 0; r < c->n_runs; r++) {
        const struct dm_compare_run *run = &c->runs[r];
        cJSON *object = dm_json_append_object(runs, &ok);
        dm_json_put_text(object, "sampler", run->sampler, &ok);
        dm_json_put_integer(object, "steps", run->n_steps, &ok);
        dm_json_put_integer(object, "evaluations", run->n_evaluations, &ok);
        cJSON *sides = dm_json_put_array(object, "backends", &ok);
        for (size_t i = 0; i < c->n_sides; i++)
            put_side(sides, run, i, &ok);
    }
    return dm_json_print(out, root, ok, err);
}

demist_status dm_replay_json(const struct dm_replay *replay, struct dm_text *out,
                             struct dm_error *err)
{
    bool ok = true;
    cJSON *root = cJSON_CreateObject();
    put_bool(root, "disagrees", replay->disagrees, &ok);
    dm_json_put_text(root, "node", replay->node, &ok);
    dm_json_put_text(root, "reference", replay->reference, &ok);
    dm_json_put_integer(root, "images", replay->n_images, &ok);
    cJSON *sides = dm_json_put_array(root, "backends", &ok);
    for (size_t i = 0; i < replay->n_sides; i++) {
        const struct dm_replay_side *s = &replay->sides[i];
        cJSON *object = dm_json_append_object(sides, &ok);
        dm_json_put_text(object, "name", s->label, &ok);
        dm_json_put_number(object, "error", s->error, &ok);
        dm_json_put_number(object, "bound", s->bound, &ok);
        dm_json_put_number(object, "ratio", s->ratio, &ok);
        put_bool(object, "exceeds", s->exceeds, &ok);
    }
    return dm_json_print(out, root, ok, err);
}

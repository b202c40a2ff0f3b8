#include "compare.h"

#include "graphdump.h"
#include "lockstep.h"
#include "namedside.h"
#include "nodecase.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SIDES = 16 };

void dm_comparison_finish(struct dm_comparison *c)
{
    dm_arena_finish(&c->arena);
    *c = (struct dm_comparison){0};
}

/* ---------------------------------------------------------------- the backends */

/* The reference side computes in f32 where it does not know the precision that the description
 * asks of the others; the report names it. */
static demist_status open_first(struct dm_setup *setup, const char *label, int precision,
                                struct dm_device *device, struct dm_error *err)
{
    demist_status status = dm_open_side(setup, label, precision, device, err);
    if (status != DEMIST_CONFIG || precision == DEMIST_PRECISION_F32 || strchr(label, ':'))
        return status;
    dm_error_clear(err);
    return dm_open_side(setup, label, DEMIST_PRECISION_F32, device, err);
}

static demist_status describe_side(struct dm_arena *arena, const char *label,
                                   const struct dm_device *device, struct dm_compare_side *side,
                                   struct dm_error *err)
{
    side->label = dm_arena_strdup(arena, label);
    side->backend = dm_arena_strdup(arena, device->instance.cls->name);
    side->precision = dm_precision_names[device->precision];
    side->number_format = device->precision;
    side->device = dm_arena_strdup(arena, device->name);
    side->driver = dm_arena_strdup(arena, device->driver);
    side->detail = dm_arena_strdup(arena, device->detail);
    bool ok = side->label && side->backend && side->device && side->driver && side->detail;
    return ok ? DEMIST_OK : dm_fail_memory(err, "a comparison's sides");
}

static demist_status check_backends(const struct dm_compare_options *o, struct dm_error *err)
{
    if (o->n_backends < 2 || o->n_backends > MOST_SIDES)
        return dm_fail(err, DEMIST_CONFIG,
                       "--backends: name 2 to %d backends, the reference side first, as in "
                       "reference,cpu",
                       MOST_SIDES);
    for (size_t i = 0; i < o->n_backends; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(o->backends[i], o->backends[k]) == 0)
                return dm_fail(err, DEMIST_CONFIG,
                               "--backends: %s is there twice; two precisions of one backend are "
                               "written cpu:f32,cpu:bf16",
                               o->backends[i]);
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- one sampler */

/* The sides of one run, with their devices. */
struct sides {
    struct dm_setup setup;
    struct dm_lockstep lockstep;
    struct dm_device devices[MOST_SIDES];
    size_t n;
};

static void close_sides(struct sides *s)
{
    dm_lockstep_close(&s->lockstep);
    for (size_t i = 0; i < s->n; i++)
        dm_device_close(&s->devices[i]);
    dm_setup_close(&s->setup);
}

static demist_status open_sides(struct sides *s, const struct dm_compare_options *o,
                                struct dm_comparison *c, struct dm_compare_run *run,
                                struct dm_error *err)
{
    int precision = s->setup.config.backend.precision;
    run->sides = dm_arena_array(&c->arena, o->n_backends, sizeof *run->sides);
    run->sampler = dm_arena_strdup(&c->arena, s->setup.config.sampler.use);
    if (!run->sides || !run->sampler)
        return dm_fail_memory(err, "a comparison's sides");
    for (size_t i = 0; i < o->n_backends; i++) {
        DM_TRY((i ? dm_open_side : open_first)(&s->setup, o->backends[i], precision, &s->devices[i],
                                               err));
        s->n++;
        DM_TRY(describe_side(&c->arena, o->backends[i], &s->devices[i], &run->sides[i], err));
    }
    return DEMIST_OK;
}

/* Takes what the report tells about the run as a whole. */
static demist_status describe_run(const struct dm_setup *setup, struct dm_comparison *c,
                                  struct dm_error *err)
{
    const struct dm_run_config *config = &setup->config;
    const demist_network_info *info = &setup->network.info;
    c->config = dm_arena_strdup(&c->arena, setup->ini->file);
    c->network = dm_arena_strdup(&c->arena, config->network.use);
    c->checkpoint = dm_arena_strdup(&c->arena, config->network.checkpoint);
    c->schedule = dm_arena_strdup(&c->arena, config->schedule.use);
    c->spacing = dm_arena_strdup(&c->arena, config->sample.steps);
    c->seed = config->sample.seed;
    c->first = config->sample.first;
    c->n_images = config->sample.images;
    c->rank = info->rank;
    memcpy(c->shape, info->shape, sizeof c->shape);
    c->n_elements = setup->network.n_elements;
    c->lo = info->clip_low;
    c->hi = info->clip_high;
    bool ok = c->config && c->network && c->checkpoint && c->schedule && c->spacing;
    return ok ? DEMIST_OK : dm_fail_memory(err, "a comparison");
}

static demist_status compare_run(struct sides *s, const struct dm_compare_options *o,
                                 struct dm_comparison *c, struct dm_compare_run *run,
                                 struct dm_error *err)
{
    struct dm_lockstep *l = &s->lockstep;
    struct dm_run_config *config = &s->setup.config;
    config->sample.images = dm_setup_batch(&s->setup); /* one batch */
    config->sample.batch = config->sample.images;
    DM_TRY(describe_run(&s->setup, c, err));
    DM_TRY(open_sides(s, o, c, run, err));
    bool exact = strcmp(run->sides[0].backend, "reference") == 0;
    const demist_precision *other = exact ? NULL : &s->devices[0].precision;
    DM_TRY(dm_lockstep_open(l, &s->setup, o, config->sample.images, err));
    DM_TRY(dm_lockstep_reference(l, &s->devices[0], &run->sides[0], &c->arena, err));
    run->n_steps = l->n_steps;
    run->n_evaluations = (int32_t)l->n_evaluations;
    run->range = l->range;
    for (size_t i = 1; i < s->n; i++) {
        struct dm_compare_side *side = &run->sides[i];
        DM_TRY(dm_lockstep_side(l, &s->devices[i], other, side, &c->arena, err));
        DM_TRY(
            dm_compare_nodes(l, &s->devices[0], &s->devices[i], other, run, side, &c->arena, err));
        c->disagrees |= side->first_bad || side->output_exceeds;
    }
    return DEMIST_OK;
}

static demist_status override(struct dm_ini *ini, const char *option, const char *key,
                              const char *value, struct dm_error *err)
{
    struct dm_text text = DM_TEXT_INIT;
    dm_text_appendf(&text, "%s=%s", key, value);
    char *assignment = dm_text_take(&text);
    demist_status status =
        assignment ? dm_ini_set_from(ini, option, assignment, err) : dm_fail_memory(err, key);
    free(assignment);
    return status;
}

static demist_status compare_sampler(const struct dm_environment *env, const struct dm_ini *ini,
                                     const struct dm_compare_options *o, const char *sampler,
                                     struct dm_comparison *c, struct dm_compare_run *run,
                                     struct dm_error *err)
{
    struct dm_ini *own = NULL;
    struct sides s = {0};
    demist_status status = dm_ini_copy(ini, &own, err);
    if (status == DEMIST_OK && sampler)
        status = override(own, "--samplers", "sampler.use", sampler, err);
    if (status == DEMIST_OK && o->steps)
        status = override(own, "--steps", "sample.steps", o->steps, err);
    if (status == DEMIST_OK)
        status = dm_setup_open(&s.setup, env, own, DM_NEED_SAMPLER | DM_NEED_DATA, err);
    if (status == DEMIST_OK) {
        status = compare_run(&s, o, c, run, err);
        close_sides(&s);
    }
    dm_ini_destroy(own);
    return status;
}

demist_status dm_compare(const struct dm_environment *env, const struct dm_ini *ini,
                         const struct dm_compare_options *o, struct dm_comparison *c,
                         struct dm_error *err)
{
    *c = (struct dm_comparison){.observe_all = o->observe_all, .n_sides = o->n_backends};
    DM_TRY(check_backends(o, err));
    c->n_runs = o->n_samplers ? o->n_samplers : 1;
    c->runs = dm_arena_array(&c->arena, c->n_runs, sizeof *c->runs);
    demist_status status = c->runs ? DEMIST_OK : dm_fail_memory(err, "a comparison");
    for (size_t i = 0; status == DEMIST_OK && i < c->n_runs; i++)
        status = compare_sampler(env, ini, o, o->n_samplers ? o->samplers[i] : NULL, c, &c->runs[i],
                                 err);
    if (status != DEMIST_OK)
        dm_comparison_finish(c);
    return status;
}

/* ---------------------------------------------------------------- a saved case */

static demist_status replay_on(struct dm_setup *setup, const struct dm_case *loaded,
                               const char *label, const demist_precision *other,
                               struct dm_replay *replay, struct dm_error *err)
{
    struct dm_replay_side *side = &replay->sides[replay->n_sides];
    struct dm_device device;
    struct dm_case_result result;
    DM_TRY(dm_open_side(setup, label, DEMIST_PRECISION_F32, &device, err));
    demist_status status = dm_case_run(loaded, &device, other, &result, err);
    if (status == DEMIST_OK) {
        side->label = dm_arena_strdup(&replay->arena, label);
        side->error = result.error.largest;
        side->bound = result.error.bound;
        side->ratio = result.error.ratio;
        side->exceeds = result.error.ratio > 1;
        replay->disagrees |= side->exceeds;
        replay->n_sides++;
        dm_case_result_finish(&result);
        if (!side->label)
            status = dm_fail_memory(err, "a case");
    }
    dm_device_close(&device);
    return status;
}

static demist_status replay_all(struct dm_setup *setup, const struct dm_case *loaded,
                                const struct dm_case_origin *origin, const char *const *backends,
                                size_t n, struct dm_replay *replay, struct dm_error *err)
{
    struct dm_text text = DM_TEXT_INIT;
    const char *reference, *saved;
    int precision;
    dm_graph_dump(&text, dm_graph_view(loaded->graph));
    replay->graph = text.data ? dm_arena_strdup(&replay->arena, text.data) : NULL;
    dm_text_finish(&text);
    replay->node = dm_arena_strdup(&replay->arena, origin->node);
    replay->reference = dm_arena_strdup(&replay->arena, origin->reference);
    saved = dm_arena_printf(&replay->arena, "%s:%s", origin->backend, origin->precision);
    replay->n_images = loaded->n;
    replay->sides = dm_arena_array(&replay->arena, n ? n : 1, sizeof *replay->sides);
    if (!replay->graph || !replay->node || !replay->reference || !saved || !replay->sides)
        return dm_fail_memory(err, "a case");
    DM_TRY(dm_split_side(&replay->arena, origin->reference, &reference, &precision, err));
    demist_precision other = (demist_precision)(precision < 0 ? DEMIST_PRECISION_F32 : precision);
    bool exact = strcmp(reference, "reference") == 0;
    for (size_t i = 0; i < (n ? n : 1); i++)
        DM_TRY(
            replay_on(setup, loaded, n ? backends[i] : saved, exact ? NULL : &other, replay, err));
    return DEMIST_OK;
}

demist_status dm_compare_replay(const struct dm_environment *env, const struct dm_ini *ini,
                                const char *path, const char *const *backends, size_t n_backends,
                                struct dm_replay *replay, struct dm_error *err)
{
    struct dm_setup setup = {.env = env, .ini = ini}; /* options of backends, nothing else */
    struct dm_case loaded;
    struct dm_case_origin origin;
    *replay = (struct dm_replay){0};
    DM_TRY(dm_case_load(&loaded, &origin, path, err));
    demist_status status = replay_all(&setup, &loaded, &origin, backends, n_backends, replay, err);
    dm_case_finish(&loaded);
    dm_setup_close(&setup);
    if (status != DEMIST_OK)
        dm_replay_finish(replay);
    return status;
}

void dm_replay_finish(struct dm_replay *replay)
{
    dm_arena_finish(&replay->arena);
    *replay = (struct dm_replay){0};
}

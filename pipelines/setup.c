#include "setup.h"

#include "diffusion.h"

#include <stdio.h>
#include <string.h>

/* The value of [kind] use, or an error that tells what to write. */
static demist_status need_name(const struct dm_setup *s, demist_kind kind, const char *use,
                               const char *example, struct dm_error *err)
{
    if (use && use[0])
        return DEMIST_OK;
    const char *name = dm_kind_name(kind);
    const struct dm_ini_section *section = dm_ini_find_section(s->ini, name);
    return dm_fail(err, DEMIST_CONFIG,
                   "%s: [%s] use is not set: name one, as in \"use = %s\"; `demist plugins` lists "
                   "what is installed",
                   section ? section->where : s->ini->file, name, example);
}

/* Puts the place where the name was written, or else its section, before the error. */
static demist_status where_used(const struct dm_setup *s, demist_kind kind, demist_status status,
                                struct dm_error *err)
{
    const struct dm_ini_entry *entry = dm_ini_find(s->ini, dm_kind_name(kind), "use");
    const struct dm_ini_section *section = dm_ini_find_section(s->ini, dm_kind_name(kind));
    if (status != DEMIST_OK && (entry || section))
        dm_fail_where(err, "%s", entry ? entry->where : section->where);
    return status;
}

/* The same for what the plugin says about its options; other failures are not the file's. */
static demist_status where_configured(const struct dm_setup *s, demist_kind kind,
                                      demist_status status, struct dm_error *err)
{
    return status == DEMIST_CONFIG ? where_used(s, kind, status, err) : status;
}

demist_status dm_setup_instance(struct dm_setup *s, demist_kind kind, const char *name,
                                struct dm_instance *instance, struct dm_error *err)
{
    const struct dm_class *cls;
    DM_TRY(where_used(s, kind, dm_registry_find(s->env->registry, kind, name, &cls, err), err));
    const char *section = dm_arena_printf(&s->arena, "%s.%s", dm_kind_name(kind), name);
    if (!section)
        return dm_fail_memory(err, "a section's name");
    const demist_value *const *values;
    DM_TRY(dm_schema_parse(s->ini, section, cls->options, &s->arena, &values, err));
    return where_configured(s, kind,
                            dm_instance_create(instance, cls, values, &s->env->services, err), err);
}

static demist_status open_schedule(struct dm_setup *s, struct dm_error *err)
{
    const struct dm_run_config *c = &s->config;
    DM_TRY(need_name(s, DEMIST_SCHEDULE, c->schedule.use, "linear", err));
    DM_TRY(dm_setup_instance(s, DEMIST_SCHEDULE, c->schedule.use, &s->schedule, err));
    const struct dm_ini_entry *steps = dm_ini_find(s->ini, "sample", "steps");
    const struct dm_ini_entry *use = dm_ini_find(s->ini, "schedule", "use");
    struct dm_process_spacing spacing = {
        .steps = c->sample.steps,
        .leading_offset = c->sample.leading_offset,
        .course_wrap = c->sample.course_wrap,
        .encode = c->sample.encode,
        .where = steps ? steps->where : NULL,
        .schedule_where = use ? use->where : NULL,
    };
    return dm_process_create(&s->schedule, c->schedule.steps, &spacing, &s->process, err);
}

static demist_status open_network(struct dm_setup *s, bool late, struct dm_error *err)
{
    const struct dm_run_config *c = &s->config;
    struct dm_instance instance;
    DM_TRY(need_name(s, DEMIST_NETWORK, c->network.use, "context-unet", err));
    DM_TRY(dm_setup_instance(s, DEMIST_NETWORK, c->network.use, &instance, err));
    demist_status status = dm_network_open(&s->network, &instance, c->network.checkpoint,
                                           c->network.prefix, late, err);
    DM_TRY(where_configured(s, DEMIST_NETWORK, status, err));
    const demist_network_info *info = &s->network.info;
    s->threshold = c->sample.dynamic_threshold;
    s->clip = s->threshold > 0 ||
              (c->sample.clip_denoised == DM_AUTO ? info->clip_denoised
                                                  : c->sample.clip_denoised == DM_TRUE);
    if (s->threshold > 0 && !(info->clip_high > 0 && info->clip_low == -info->clip_high))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "[sample] dynamic_threshold scales x_0 about 0, and the data of network %s "
                       "are in [%g, %g]: set it to 0",
                       c->network.use, info->clip_low, info->clip_high);
    return DEMIST_OK;
}

static demist_status open_backend(struct dm_setup *s, struct dm_error *err)
{
    const struct dm_run_config *c = &s->config;
    struct dm_instance instance;
    DM_TRY(need_name(s, DEMIST_BACKEND, c->backend.use, "cpu", err));
    DM_TRY(dm_setup_instance(s, DEMIST_BACKEND, c->backend.use, &instance, err));
    demist_status status =
        dm_device_open(&s->device, &instance, (demist_precision)c->backend.precision, err);
    return where_configured(s, DEMIST_BACKEND, status, err);
}

static const char *prediction_name(demist_prediction_type type)
{
    static const char *const names[] = {"?", "eps", "x0", "v", "x1", "the mean"};
    return names[type >= DEMIST_PREDICT_EPS && type <= DEMIST_PREDICT_MEAN ? type : 0];
}

/* What the schedule's form and the network's words must agree on. */
static demist_status check_network(const struct dm_setup *s, struct dm_error *err)
{
    const demist_network_info *info = &s->network.info;
    const char *schedule = s->config.schedule.use, *network = s->config.network.use;
    bool vp = dm_process_is_vp(s->process);
    bool far_end = info->prediction == DEMIST_PREDICT_X1,
         path_time = info->time == DEMIST_TIME_PATH;
    if (vp && (far_end || path_time))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "schedule %s is variance preserving, with times that are indices, and "
                       "network %s %s: take a path such as schedule straight, or set the network's "
                       "options",
                       schedule, network,
                       far_end ? "predicts x1, the far end of a path" : "wants a path's time t");
    if (!vp && (!far_end || !path_time))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "schedule %s is a path from x_0 to x_1, and network %s %s%s: take schedule "
                       "linear or cosine, or set the network's options (predict = x1, time = t)",
                       schedule, network, far_end ? "wants an index as its time" : "predicts ",
                       far_end ? "" : prediction_name(info->prediction));
    return DEMIST_OK;
}

/* Whether the sampler, as configured, can walk upwards. */
static demist_status check_encoding(const struct dm_setup *s, uint32_t needs, struct dm_error *err)
{
    if (needs & DEMIST_NEEDS_NOISE)
        return dm_fail(
            err, DEMIST_INCOMPATIBLE,
            "sampler %s as configured draws noise, and [sample] direction = encode needs "
            "a deterministic one: take sampler ddim with eta = 0",
            s->config.sampler.use);
    if (needs & DEMIST_NEEDS_POSTERIOR)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "sampler %s needs the posterior of steps towards the data, and [sample] "
                       "direction = encode goes the other way: take sampler ddim with eta = 0",
                       s->config.sampler.use);
    return DEMIST_OK;
}

demist_status dm_setup_check(const struct dm_setup *s, struct dm_error *err)
{
    const demist_sampler_vtable *vtable = s->sampler.cls->vtable;
    const char *sampler = s->config.sampler.use;
    const demist_network_info *info = &s->network.info;
    uint32_t needs = vtable->needs ? vtable->needs(s->sampler.self) : 0;
    DM_TRY(check_network(s, err));
    if ((needs & DEMIST_NEEDS_VARIANCE_PRESERVING) && !dm_process_is_vp(s->process))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "sampler %s needs a variance-preserving schedule (linear, cosine), and "
                       "schedule %s is a path: take another schedule, or sampler ddim, which walks "
                       "any path",
                       sampler, s->config.schedule.use);
    if ((needs & DEMIST_NEEDS_LEARNED_VARIANCE) && info->learned_variance == DEMIST_VARIANCE_NONE)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "sampler %s needs a network that learned its variance, and network %s as "
                       "configured did not: take sampler ddpm or ddim, or set the network's "
                       "learn_sigma if the checkpoint has it",
                       sampler, s->config.network.use);
    if ((needs & DEMIST_NEEDS_FRACTIONAL_TIMES) && !info->fractional_times)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "sampler %s evaluates between timesteps, and network %s knows whole ones "
                       "only",
                       sampler, s->config.network.use);
    if (dm_process_encodes(s->process))
        return check_encoding(s, needs, err);
    if (needs & DEMIST_NEEDS_POSTERIOR) {
        char who[160];
        snprintf(who, sizeof who, "sampler %s", sampler);
        return dm_diffusion_check_posterior(dm_process_kept(s->process), who, err);
    }
    return DEMIST_OK;
}

static demist_status open_parts(struct dm_setup *s, unsigned needs, struct dm_error *err)
{
    const struct dm_run_config *c = &s->config;
    DM_TRY(dm_run_config_parse(s->ini, &s->arena, &s->config, err));
    if (needs & DM_NEED_SAMPLER) {
        DM_TRY(need_name(s, DEMIST_SAMPLER, c->sampler.use, "ddim", err));
        DM_TRY(dm_setup_instance(s, DEMIST_SAMPLER, c->sampler.use, &s->sampler, err));
    }
    if (needs & (DM_NEED_SCHEDULE | DM_NEED_SAMPLER))
        DM_TRY(open_schedule(s, err));
    if (needs & DM_NEED_BACKEND)
        DM_TRY(open_backend(s, err));
    if (needs & (DM_NEED_NETWORK | DM_NEED_SAMPLER))
        DM_TRY(open_network(s, !(needs & DM_NEED_DATA), err));
    if (needs & DM_NEED_SAMPLER)
        return where_used(s, DEMIST_SAMPLER, dm_setup_check(s, err), err);
    return DEMIST_OK;
}

demist_status dm_setup_open(struct dm_setup *setup, const struct dm_environment *env,
                            const struct dm_ini *ini, unsigned needs, struct dm_error *err)
{
    *setup = (struct dm_setup){.env = env, .ini = ini};
    demist_status status = open_parts(setup, needs, err);
    if (status != DEMIST_OK)
        dm_setup_close(setup);
    return status;
}

void dm_setup_close(struct dm_setup *s)
{
    dm_network_close(&s->network);
    dm_device_close(&s->device);
    dm_process_destroy(s->process);
    dm_instance_destroy(&s->sampler);
    dm_instance_destroy(&s->schedule);
    dm_arena_finish(&s->arena);
    *s = (struct dm_setup){0};
}

int64_t dm_setup_batch(const struct dm_setup *s)
{
    return dm_setup_batch_of(s, s->config.sample.images);
}

int64_t dm_setup_batch_of(const struct dm_setup *s, int64_t images)
{
    int64_t batch = s->config.sample.batch;
    if (batch == 0) {
        /* Enough to use a device, little enough for its memory: 16 images of 64×64 RGB, points by
         * the thousand. */
        batch = (int64_t)16 * 3 * 64 * 64 / s->network.n_elements;
        batch = batch < 1 ? 1 : batch > 4096 ? 4096 : batch;
        if (s->network.info.rank == 3 && batch > 16)
            batch = 16;
    }
    return batch < images ? batch : images;
}

#include "explain.h"

#include "diffusion.h"
#include "graphdump.h"
#include "pool.h"

#include <string.h>

/* ---------------------------------------------------------------- the configuration */

/* "  eta = 0.0          run.ini:12", for each key of a section. */
static void print_keys(struct dm_text *out, const struct dm_ini *ini, const char *section,
                       const demist_option *const *options)
{
    dm_text_appendf(out, "[%s]\n", section);
    for (; *options; options++) {
        const struct dm_ini_entry *entry = dm_ini_find(ini, section, (*options)->key);
        const char *value = entry ? entry->value : dm_schema_default(*options);
        struct dm_text line = DM_TEXT_INIT;
        dm_text_appendf(&line, "%s = %s", (*options)->key, value ? value : "");
        dm_text_appendf(out, "  %-40s  ; %s\n", line.data ? line.data : "",
                        entry ? entry->where : "default");
        dm_text_finish(&line);
    }
}

static const struct dm_class *used_class(const struct dm_setup *s, const char *kind)
{
    const struct dm_class *const classes[] = {s->device.instance.cls, s->schedule.cls,
                                              s->network.instance.cls, s->sampler.cls};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strcmp(dm_kind_name(classes[i]->kind), kind) == 0)
            return classes[i];
    return NULL;
}

static void print_configuration(const struct dm_setup *s, struct dm_text *out)
{
    dm_text_appendf(out, "; what runs, every key with its origin: %s\n", s->ini->file);
    for (const struct dm_core_section *core = dm_core_sections; core->name; core++) {
        print_keys(out, s->ini, core->name, core->options);
        const struct dm_class *cls = used_class(s, core->name);
        struct dm_text section = DM_TEXT_INIT;
        if (cls)
            dm_text_appendf(&section, "%s.%s", core->name, cls->name);
        if (cls && cls->options[0] && section.data)
            print_keys(out, s->ini, section.data, cls->options);
        dm_text_finish(&section);
    }
}

static void print_class(struct dm_text *out, const struct dm_class *cls)
{
    const demist_plugin *desc = &cls->plugin->desc;
    dm_text_appendf(out, "  %s %s: %s\n    %s %s, ABI %u.%u, %s\n", dm_kind_name(cls->kind),
                    cls->name, cls->plugin->file ? cls->plugin->file : "linked into the program",
                    desc->id, desc->version, (unsigned)desc->abi_epoch, (unsigned)desc->abi_minor,
                    desc->license);
    for (size_t i = 0; cls->shadows[i]; i++)
        dm_text_appendf(out, "    shadows %s\n", cls->shadows[i]);
}

static void print_plugins(const struct dm_setup *s, struct dm_text *out)
{
    dm_text_append(out, "\nplugins\n");
    for (const struct dm_core_section *core = dm_core_sections; core->name; core++) {
        const struct dm_class *cls = used_class(s, core->name);
        if (cls)
            print_class(out, cls);
    }
}

/* Whether [section] is a plugin's, and which. */
static bool split_section(const char *section, demist_kind *kind, const char **name)
{
    char kind_name[16];
    const char *dot = strchr(section, '.');
    if (!dot || (size_t)(dot - section) >= sizeof kind_name)
        return false;
    memcpy(kind_name, section, (size_t)(dot - section));
    kind_name[dot - section] = 0;
    *name = dot + 1;
    return dm_kind_parse(kind_name, kind);
}

/* Loads and validates the section of a plugin that the run does not use. */
static demist_status check_unused(struct dm_setup *s, const struct dm_ini_section *section,
                                  demist_kind kind, const char *name, struct dm_text *out,
                                  struct dm_error *err)
{
    const struct dm_class *cls;
    const demist_value *const *values;
    demist_status status = dm_registry_find(s->env->registry, kind, name, &cls, err);
    if (status == DEMIST_NOT_FOUND) {
        dm_text_appendf(out, "  [%s] (%s) not checked: %s\n", section->name, section->where,
                        err && err->text ? err->text : "not installed");
        dm_error_clear(err);
        return DEMIST_OK;
    }
    if (status != DEMIST_OK)
        return dm_fail_where(err, "%s", section->where);
    DM_TRY(dm_schema_parse(s->ini, section->name, cls->options, &s->arena, &values, err));
    dm_text_appendf(out, "  [%s] (%s) valid\n", section->name, section->where);
    return DEMIST_OK;
}

static demist_status print_unused(struct dm_setup *s, struct dm_text *out, struct dm_error *err)
{
    bool any = false;
    for (const struct dm_ini_section *section = s->ini->sections; section;
         section = section->next) {
        demist_kind kind;
        const char *name;
        if (!split_section(section->name, &kind, &name) ||
            strcmp(used_class(s, dm_kind_name(kind))->name, name) == 0)
            continue;
        dm_text_append(out, any ? "" : "\nsections not in use\n");
        any = true;
        DM_TRY(check_unused(s, section, kind, name, out, err));
    }
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- the process */

static void print_times(const struct dm_process *process, struct dm_text *out)
{
    int32_t n = dm_process_n_steps(process);
    const double *time = dm_process_time(process);
    size_t column = 0;
    dm_text_appendf(out, "  %d steps%s at", (int)n,
                    dm_process_encodes(process) ? " from data to noise" : "");
    for (int32_t i = 0; i <= n; i++) {
        struct dm_text item = DM_TEXT_INIT;
        if (i == n && dm_process_ends_in_noise(process))
            dm_text_append(&item, "; end at alpha_bar = 0\n");
        else
            dm_text_appendf(&item, i < n ? " %.6g" : "; end at %.6g\n", time[i]);
        column += item.size;
        dm_text_append(out, column > 88 ? "\n   " : "");
        column = column > 88 ? item.size : column;
        dm_text_append(out, item.data ? item.data : "");
        dm_text_finish(&item);
    }
}

static void print_steps(const struct dm_process *process, struct dm_text *out)
{
    int32_t n = dm_process_n_steps(process);
    const demist_step *const *step = dm_process_step(process);
    bool vp = dm_process_is_vp(process) && !dm_process_encodes(process); /* it has β */
    dm_text_appendf(out, "  %10s %12s %12s %12s", "time", "signal", "noise", "lambda");
    dm_text_append(out, vp ? "    alpha_bar         beta   beta_tilde\n" : "\n");
    for (int32_t i = 0; i < n; i++) {
        if (i == 3 && n > 7)
            dm_text_append(out, "         ...\n");
        if (i >= 3 && i < n - 3)
            continue;
        dm_text_appendf(out, "  %10.6g %12.6g %12.6g %12.6g", step[i]->time, step[i]->signal,
                        step[i]->noise, step[i]->lambda);
        if (vp)
            dm_text_appendf(out, " %12.6g %12.6g %12.6g", step[i]->alpha_bar, step[i]->beta,
                            step[i]->posterior_variance);
        dm_text_append(out, "\n");
    }
}

static void print_process(const struct dm_setup *s, struct dm_text *out)
{
    const struct dm_diffusion *whole = dm_process_whole(s->process);
    dm_text_appendf(out, "\nprocess\n  %s, T = %lld, indices %d to %lld\n",
                    whole->variance_preserving ? "variance preserving" : "a path from x_0 to x_1",
                    (long long)whole->n, whole->first_index,
                    (long long)(whole->first_index + whole->n - 1));
    print_times(s->process, out);
    print_steps(s->process, out);
}

/* ---------------------------------------------------------------- network and device */

static void print_network(const struct dm_setup *s, struct dm_text *out)
{
    static const char *const predictions[] = {"?", "eps", "x0", "v", "x1", "the posterior mean"};
    static const char *const variances[] = {"none", "a range", "log variance"};
    static const char *const times[] = {"?", "index", "index*1000/T", "index/T", "a path's t"};
    const demist_network_info *info = &s->network.info;
    dm_text_append(out, "\nnetwork\n  data [");
    for (int32_t i = 0; i < info->rank; i++)
        dm_text_appendf(out, "%s%lld", i ? "," : "", (long long)info->shape[i]);
    dm_text_appendf(out, "], predicts %s, learned variance: %s, time as %s%s\n",
                    predictions[info->prediction], variances[info->learned_variance],
                    times[info->time], info->fractional_times ? ", fractions allowed" : "");
    dm_text_appendf(out, "  classes %lld%s, context %lld%s\n", (long long)info->n_classes,
                    info->null_class >= 0 ? " with one for none" : "",
                    (long long)info->context_size,
                    info->context_size && info->null_context ? ", zeros for none" : "");
    if (s->threshold > 0)
        dm_text_appendf(
            out,
            "  x_0 is thresholded: where the %g-quantile of |x_0| of an image is s > %g, "
            "it is clamped to [-s, s] and scaled by %g/s\n",
            s->threshold, info->clip_high, info->clip_high);
    else if (s->clip)
        dm_text_appendf(out, "  x_0 is clipped to [%g, %g]\n", info->clip_low, info->clip_high);
    else
        dm_text_append(out, "  x_0 is not clipped\n");
    for (int32_t i = 0; i < dm_sources_count(s->network.sources); i++)
        dm_text_appendf(out, "  parameters from %s\n", dm_sources_path(s->network.sources, i));
    dm_text_append(out, "\nas built: ");
    dm_graph_dump(out, dm_graph_view(s->network.graph));
}

static demist_status print_program(struct dm_setup *s, const struct dm_model *model,
                                   struct dm_text *out, struct dm_error *err)
{
    struct dm_device *d = &s->device;
    demist_program_info info = DEMIST_INIT(demist_program_info);
    DM_TRY(dm_device_check(d, "program_info", d->vtable->program_info(model->program, &info), err));
    dm_text_append(out, "\nas compiled: ");
    dm_graph_dump(out, dm_graph_view(model->lowered.graph));
    dm_text_appendf(out, "\ndevice\n  backend %s on %s%s%s%s%s, precision %s, %d thread%s\n",
                    d->instance.cls->name, d->name, d->driver[0] ? ", " : "", d->driver,
                    d->detail[0] ? ", " : "", d->detail, dm_precision_names[d->precision],
                    s->env->services.pool ? dm_pool_workers(s->env->services.pool) : 1,
                    s->env->services.pool && dm_pool_workers(s->env->services.pool) > 1 ? "s" : "");
    dm_text_appendf(out,
                    "  batches of %lld: parameters %.3f MiB, working memory %.3f MiB, %.4g MFLOP "
                    "for one evaluation of one image\n",
                    (long long)model->max_batch, (double)info.param_bytes / (1 << 20),
                    (double)info.arena_bytes / (1 << 20), info.flops / 1e6);
    if (info.choices)
        dm_text_appendf(out, "  tuned choices: %s\n", info.choices);
    return DEMIST_OK;
}

static void print_noise(const struct dm_setup *s, struct dm_text *out)
{
    const struct dm_run_config *c = &s->config;
    static const char *const sources[] = {
        "philox, keyed by (seed, image, purpose, draw, element)",
        "torch-cpu, the stream of one PyTorch process",
        "a file of recorded draws",
    };
    static const char *const starts[] = {"normal noise", "points on a half circle", "a file"};
    dm_text_appendf(out, "\nnoise\n  %s; seed %llu\n  %s: %s\n", sources[c->noise.source],
                    (unsigned long long)c->sample.seed, c->sample.encode ? "encoded to x_T" : "x_T",
                    starts[c->sample.start]);
    if (c->sample.start == DM_START_FILE)
        dm_text_appendf(out, "  from %s\n", c->sample.start_file);
    if (c->noise.source == DM_NOISE_FILE)
        dm_text_appendf(out, "  draws of %s\n", c->noise.file);
}

static demist_status explain(struct dm_setup *s, struct dm_model *model, struct dm_text *out,
                             struct dm_error *err)
{
    print_configuration(s, out);
    print_plugins(s, out);
    DM_TRY(print_unused(s, out, err));
    print_process(s, out);
    DM_TRY(dm_model_compile(model, &s->network, &s->device, dm_setup_batch(s), 0, err));
    print_network(s, out);
    DM_TRY(print_program(s, model, out, err));
    print_noise(s, out);
    return DEMIST_OK;
}

demist_status dm_explain(const struct dm_environment *env, const struct dm_ini *ini,
                         struct dm_text *out, struct dm_error *err)
{
    struct dm_setup setup;
    struct dm_model model = {0};
    DM_TRY(dm_setup_open(&setup, env, ini, DM_NEED_SAMPLER | DM_NEED_BACKEND, err));
    demist_status status = explain(&setup, &model, out, err);
    dm_model_finish(&model);
    dm_setup_close(&setup);
    return status;
}

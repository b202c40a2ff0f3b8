#include "testing.h"

#include "fixture.h"

#include "tensorfile.h"

#include <math.h>

#define PLUGIN(name) extern const demist_plugin demist_plugin_v1_##name
PLUGIN(schedule_linear);
PLUGIN(schedule_cosine);
PLUGIN(schedule_straight);
PLUGIN(sampler_ddpm);
PLUGIN(sampler_ddim);
PLUGIN(sampler_learned_sigma);
PLUGIN(network_mlp);
PLUGIN(network_context_unet);
PLUGIN(network_unet);
PLUGIN(backend_reference);
#ifdef HAVE_BACKEND_CPU
PLUGIN(backend_cpu);
#endif
#ifdef HAVE_BACKEND_CUDA
PLUGIN(backend_cuda);
#endif
#ifdef HAVE_BACKEND_OPENCL
PLUGIN(backend_opencl);
#endif

static const demist_plugin *const shipped[] = {
    &demist_plugin_v1_schedule_linear,
    &demist_plugin_v1_schedule_cosine,
    &demist_plugin_v1_schedule_straight,
    &demist_plugin_v1_sampler_ddpm,
    &demist_plugin_v1_sampler_ddim,
    &demist_plugin_v1_network_mlp,
    &demist_plugin_v1_sampler_learned_sigma,
    &demist_plugin_v1_network_unet,
    &demist_plugin_v1_network_context_unet,
    &demist_plugin_v1_backend_reference,
#ifdef HAVE_BACKEND_CPU
    &demist_plugin_v1_backend_cpu,
#endif
#ifdef HAVE_BACKEND_CUDA
    &demist_plugin_v1_backend_cuda,
#endif
#ifdef HAVE_BACKEND_OPENCL
    &demist_plugin_v1_backend_opencl,
#endif
    NULL,
};
enum { N_SHIPPED = sizeof shipped / sizeof *shipped - 1, MAX_PLUGINS = 32 };

const demist_plugin *const *fixture_plugins(void)
{
    return shipped;
}

static void remember(void *user, enum dm_log_level level, const char *text)
{
    struct fixture *f = user;
    (void)level;
    size_t n = strlen(f->notices);
    snprintf(f->notices + n, sizeof f->notices - n, "%s\n", text);
}

void fixture_open(struct fixture *f, int threads, const demist_plugin *const *extra)
{
    static const demist_plugin *all[MAX_PLUGINS + 1];
    size_t n = 0;
    for (size_t i = 0; i < N_SHIPPED; i++)
        all[n++] = shipped[i];
    for (size_t i = 0; extra && extra[i] && n < MAX_PLUGINS; i++)
        all[n++] = extra[i];
    all[n] = NULL;
    struct dm_error err = DM_ERROR_INIT;
    *f = (struct fixture){.log = {DM_LOG_WARNING, remember, f}};
    fixture_expect_ok(dm_pool_create(threads, &f->pool, &err), &err);
    fixture_expect_ok(dm_registry_create(&f->path, all, &f->env.registry, &err), &err);
    f->env.services = (struct dm_services){&f->log, f->pool};
}

void fixture_close(struct fixture *f)
{
    dm_registry_destroy(f->env.registry);
    dm_plugin_path_finish(&f->path);
    dm_pool_destroy(f->pool);
}

struct dm_ini *fixture_ini(const char *text, const char *const *overrides)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = NULL;
    fixture_expect_ok(dm_ini_read_memory("run.ini", text, strlen(text), &ini, &err), &err);
    for (size_t i = 0; overrides && overrides[i]; i++)
        fixture_expect_ok(dm_ini_set(ini, overrides[i], &err), &err);
    return ini;
}

/* Collects states while a run goes on. */
struct collector {
    struct recording *r;
    int64_t done;
};

static bool collect_state(void *user, const struct dm_sample_progress *p)
{
    struct collector *c = user;
    struct recording *r = c->r;
    r->times[p->step] = p->time;
    if (r->states)
        memcpy(r->states + (p->step * r->n + c->done) * r->elements, p->x,
               (size_t)(p->n * r->elements) * sizeof *p->x);
    return true;
}

static demist_status collect_finished(void *user, int64_t first, int64_t n, const float *x,
                                      const int64_t *labels, struct dm_error *err)
{
    struct collector *c = user;
    (void)first, (void)labels, (void)err;
    memcpy(c->r->x0 + c->done * c->r->elements, x, (size_t)(n * c->r->elements) * sizeof *x);
    c->done += n;
    return DEMIST_OK;
}

demist_status fixture_sample(struct fixture *f, const struct dm_ini *ini, bool wants_states,
                             struct recording *out, struct dm_error *err)
{
    struct dm_setup setup;
    *out = (struct recording){0};
    demist_status status =
        dm_setup_open(&setup, &f->env, ini, DM_NEED_SAMPLER | DM_NEED_BACKEND, err);
    if (status != DEMIST_OK)
        return status;
    out->n_steps = dm_process_n_steps(setup.process);
    out->n = setup.config.sample.images;
    out->elements = setup.network.n_elements;
    size_t state = (size_t)(out->n * out->elements) * sizeof(float);
    out->times = calloc((size_t)out->n_steps + 1, sizeof *out->times);
    out->x0 = calloc(1, state);
    out->states = wants_states ? calloc((size_t)out->n_steps + 1, state) : NULL;
    struct collector collector = {out, 0};
    struct dm_sample_hooks hooks = {.progress = collect_state,
                                    .finished = collect_finished,
                                    .wants_data = wants_states,
                                    .user = &collector};
    status = dm_sample(&setup, &hooks, err);
    dm_setup_close(&setup);
    if (status != DEMIST_OK)
        recording_free(out);
    return status;
}

void recording_free(struct recording *r)
{
    free(r->times);
    free(r->states);
    free(r->x0);
    *r = (struct recording){0};
}

void fixture_expect_ok(demist_status status, struct dm_error *err)
{
    if (status != DEMIST_OK)
        fail_msg("%s: %s", dm_status_name(status), err->text ? err->text : "(no text)");
}

float *fixture_tensor(const char *path, const char *name, int64_t *n)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *file;
    fixture_expect_ok(dm_checkpoint_open(path, &file, &err), &err);
    const struct dm_tensor_view *view = dm_checkpoint_find(file, name);
    if (!view)
        fail_msg("%s: no tensor %s", path, name);
    int64_t count = (int64_t)dm_tensor_elements(view);
    float *out = malloc((size_t)count * sizeof *out + 1);
    assert_non_null(out);
    fixture_expect_ok(dm_tensor_to_f32(view, out, &err), &err);
    dm_checkpoint_close(file);
    if (n)
        *n = count;
    return out;
}

double max_difference(const float *a, const float *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}

double max_magnitude(const float *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++)
        worst = fabs((double)b[i]) > worst ? fabs((double)b[i]) : worst;
    return worst;
}

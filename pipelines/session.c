/* The embedding API. A session owns what runs share; a run owns its setup, its listeners and its
 * result, and leaves nothing behind in the session but an error's text. */
#include "session.h"

#include "description.h"
#include "outputs.h"
#include "sample.h"
#include "trajectory.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct demist_session {
    struct dm_error error; /* of the last call */
    demist_log_fn log_fn;
    void *log_user;
    struct dm_log log;
    struct dm_plugin_path path;
    const demist_plugin *const *linked;
    int threads;
    struct dm_environment env; /* registry and pool are made when they are first needed */
    struct dm_ini *ini;
};

const char *demist_version(void)
{
    return DM_VERSION;
}

const char *demist_status_text(demist_status status)
{
    return dm_status_text(status);
}

/* ---------------------------------------------------------------- the session */

static void forward_log(void *user, enum dm_log_level level, const char *text)
{
    const demist_session *s = user;
    s->log_fn(s->log_user, (demist_log_level)level, text); /* the two enums agree */
}

_Static_assert((int)DM_LOG_ERROR == (int)DEMIST_LOG_ERROR, "log levels");
_Static_assert((int)DM_LOG_WARNING == (int)DEMIST_LOG_WARNING, "log levels");
_Static_assert((int)DM_LOG_INFO == (int)DEMIST_LOG_NOTICE, "log levels");
_Static_assert((int)DM_LOG_DEBUG == (int)DEMIST_LOG_DEBUG, "log levels");

demist_session *demist_session_create(void)
{
    demist_session *s = calloc(1, sizeof *s);
    if (s)
        s->env.services.log = &s->log;
    return s;
}

void demist_session_destroy(demist_session *s)
{
    if (!s)
        return;
    dm_ini_destroy(s->ini);
    dm_registry_destroy(s->env.registry);
    dm_pool_destroy(s->env.services.pool);
    dm_plugin_path_finish(&s->path);
    dm_error_clear(&s->error);
    free(s);
}

const char *demist_session_error(const demist_session *s)
{
    if (s->error.status == DEMIST_OK)
        return "";
    return s->error.text ? s->error.text : dm_status_text(s->error.status);
}

void demist_session_on_log(demist_session *s, demist_log_level most, demist_log_fn fn, void *user)
{
    s->log_fn = fn;
    s->log_user = user;
    s->log = (struct dm_log){(enum dm_log_level)most, fn ? forward_log : NULL, s};
}

/* Every call starts with a clear error. */
static struct dm_error *begin(demist_session *s)
{
    dm_error_clear(&s->error);
    return &s->error;
}

static demist_status before_plugins(demist_session *s, struct dm_error *err)
{
    return s->env.registry ? dm_fail(err, DEMIST_INVALID,
                                     "plugins were already looked for: name directories and "
                                     "linked plugins before the first run")
                           : DEMIST_OK;
}

demist_status demist_session_plugin_path(demist_session *s, const char *dir)
{
    struct dm_error *err = begin(s);
    DM_TRY(before_plugins(s, err));
    if (dir[0] == '/')
        return dm_plugin_path_add(&s->path, dir, "--plugin-path", err);
    char *here = getcwd(NULL, 0);
    if (!here)
        return dm_fail(err, DEMIST_IO, "the working directory: %s", strerror(errno));
    char *absolute = dm_arena_printf(&s->path.arena, "%s/%s", here, dir);
    free(here);
    return absolute ? dm_plugin_path_add(&s->path, absolute, "--plugin-path", err)
                    : dm_fail_memory(err, "the plugin path");
}

demist_status demist_session_static_plugins(demist_session *s, const demist_plugin *const *plugins)
{
    struct dm_error *err = begin(s);
    DM_TRY(before_plugins(s, err));
    s->linked = plugins;
    return DEMIST_OK;
}

demist_status demist_session_threads(demist_session *s, int threads)
{
    struct dm_error *err = begin(s);
    if (threads < 0 || threads > DM_POOL_MAX_THREADS)
        return dm_fail(err, DEMIST_INVALID, "%d threads: it takes 1 to %d, or 0 for all cores",
                       threads, DM_POOL_MAX_THREADS);
    s->threads = threads;
    dm_pool_destroy(s->env.services.pool);
    s->env.services.pool = NULL;
    return DEMIST_OK;
}

static demist_status replace_ini(demist_session *s, demist_status status, struct dm_ini *ini)
{
    if (status != DEMIST_OK)
        return status;
    dm_ini_destroy(s->ini);
    s->ini = ini;
    return DEMIST_OK;
}

demist_status demist_session_load(demist_session *s, const char *path)
{
    struct dm_ini *ini = NULL;
    demist_status status = dm_ini_read_file(path, &ini, begin(s));
    return replace_ini(s, status, ini);
}

demist_status demist_session_load_text(demist_session *s, const char *name, const char *text)
{
    struct dm_ini *ini = NULL;
    demist_status status = dm_ini_read_memory(name, text, strlen(text), &ini, begin(s));
    return replace_ini(s, status, ini);
}

static demist_status need_ini(const demist_session *s, struct dm_error *err)
{
    return s->ini ? DEMIST_OK : dm_fail(err, DEMIST_INVALID, "no description of a run was loaded");
}

demist_status demist_session_set(demist_session *s, const char *assignment)
{
    struct dm_error *err = begin(s);
    DM_TRY(need_ini(s, err));
    return dm_ini_set(s->ini, assignment, err);
}

/* ---------------------------------------------------------------- its parts */

demist_status dm_session_registry(demist_session *s, struct dm_registry **registry,
                                  struct dm_error *err)
{
    if (!s->env.registry) {
        DM_TRY(dm_plugin_path_add_defaults(&s->path, err));
        DM_TRY(dm_registry_create(&s->path, s->linked, &s->env.registry, err));
    }
    if (registry)
        *registry = s->env.registry;
    return DEMIST_OK;
}

demist_status dm_session_environment(demist_session *s, const struct dm_environment **env,
                                     struct dm_error *err)
{
    DM_TRY(dm_session_registry(s, NULL, err));
    if (!s->env.services.pool)
        DM_TRY(dm_pool_create(s->threads, &s->env.services.pool, err));
    *env = &s->env;
    return DEMIST_OK;
}

const struct dm_ini *dm_session_ini(const demist_session *s)
{
    return s->ini;
}

/* ---------------------------------------------------------------- a run */

/* The result as the host owns it. */
struct result {
    demist_result shown;
    float *data;
    int64_t *labels;
    char **files;
};

struct run {
    const demist_sample_options *options;
    struct dm_setup setup;
    char *description;
    struct dm_trajectory *trajectory; /* NULL: not asked for */
    struct dm_outputs *outputs;       /* likewise */
    struct result *result;
    bool stop;               /* after the batch that has just done its last step */
    struct dm_error failure; /* a listener's, found while a batch ran */
};

void demist_result_free(demist_result *shown)
{
    struct result *result = (struct result *)shown;
    if (!result)
        return;
    for (int64_t i = 0; i < shown->n_files; i++)
        free(result->files[i]);
    free(result->files);
    free(result->data);
    free(result->labels);
    free(result);
}

static demist_status create_result(struct run *run, struct dm_error *err)
{
    const demist_network_info *info = &run->setup.network.info;
    struct result *result = calloc(1, sizeof *result);
    run->result = result;
    if (!result)
        return dm_fail_memory(err, "the result");
    result->shown.size = sizeof result->shown;
    result->shown.rank = info->rank;
    memcpy(result->shown.shape, info->shape, sizeof result->shown.shape);
    if (!run->options->keep_data)
        return DEMIST_OK;
    size_t images = (size_t)run->setup.config.sample.images, bytes;
    if (dm_mul_size(images, (size_t)run->setup.network.n_elements * sizeof(float), &bytes))
        result->data = malloc(bytes);
    result->shown.data = result->data;
    return result->data ? DEMIST_OK : dm_fail_memory(err, "the data of all images");
}

static bool on_progress(void *user, const struct dm_sample_progress *p)
{
    struct run *run = user;
    if (run->stop)
        return false;
    if (run->trajectory)
        dm_trajectory_add(run->trajectory, p);
    if (run->outputs && p->x &&
        dm_outputs_state(run->outputs, p->first, p->n, p->step - 1, p->time, p->x, &run->failure) !=
            DEMIST_OK)
        return false;
    if (!run->options->progress)
        return true;
    demist_progress told = {.size = sizeof told,
                            .batch = p->batch,
                            .n_batches = p->n_batches,
                            .step = p->step,
                            .n_steps = p->n_steps,
                            .first_image = p->first,
                            .n_images = p->n,
                            .time = p->time};
    if (run->options->wants_data) {
        told.x = p->x;
        told.x0 = p->x0;
    }
    bool go_on = run->options->progress(run->options->user, &told);
    run->stop = !go_on;
    return go_on || p->step == p->n_steps; /* images that are done are not thrown away */
}

static demist_status keep_labels(struct run *run, int64_t done, int64_t n, const int64_t *labels,
                                 struct dm_error *err)
{
    struct result *result = run->result;
    if (!result->labels)
        result->labels = malloc((size_t)run->setup.config.sample.images * sizeof *result->labels);
    if (!result->labels)
        return dm_fail_memory(err, "labels");
    memcpy(result->labels + done, labels, (size_t)n * sizeof *labels);
    result->shown.labels = result->labels;
    return DEMIST_OK;
}

static demist_status on_finished(void *user, int64_t first, int64_t n, const float *x,
                                 const int64_t *labels, struct dm_error *err)
{
    struct run *run = user;
    struct result *result = run->result;
    int64_t done = result->shown.n_images;
    size_t elements = (size_t)run->setup.network.n_elements;
    if (result->data)
        memcpy(result->data + (size_t)done * elements, x, (size_t)n * elements * sizeof *x);
    if (labels)
        DM_TRY(keep_labels(run, done, n, labels, err));
    if (run->outputs)
        DM_TRY(dm_outputs_batch(run->outputs, first, n, x, labels, err));
    result->shown.n_images += n;
    return DEMIST_OK;
}

static demist_status on_failure(void *user, struct dm_error *err)
{
    struct run *run = user;
    if (run->failure.status == DEMIST_OK)
        return DEMIST_OK;
    dm_error_clear(err);
    *err = run->failure;
    run->failure = DM_ERROR_INIT;
    return err->status;
}

/* ---------------------------------------------------------------- its files */

static demist_status open_outputs(struct run *run, const struct dm_log *log, struct dm_error *err)
{
    const struct dm_setup *s = &run->setup;
    const struct dm_run_config *c = &s->config;
    const demist_network_info *info = &s->network.info;
    struct dm_output_options options = {
        .dir = c->output.dir,
        .formats = c->output.formats,
        .formats_by_default = !dm_ini_find(s->ini, "output", "formats"),
        .columns = c->output.columns,
        .scale = c->output.scale,
        .rounding = (enum dm_image_rounding)c->output.rounding,
        .every = c->output.every,
        .overwrite = run->options->overwrite,
        .log = log,
    };
    struct dm_output_data data = {
        .rank = info->rank,
        .shape = info->shape,
        .lo = info->clip_low,
        .hi = info->clip_high,
        .n_images = c->sample.images,
        .first = c->sample.first,
        .n_steps = dm_process_n_steps(s->process),
        .has_labels = info->n_classes > 0,
        .encoded = c->sample.encode,
        .description = run->description,
    };
    const struct dm_ini_entry *formats = dm_ini_find(s->ini, "output", "formats");
    demist_status status = dm_outputs_open(&options, &data, &run->outputs, err);
    if (status == DEMIST_CONFIG && formats)
        dm_fail_where(err, "%s", formats->where);
    return status;
}

static demist_status open_listeners(struct run *run, const struct dm_log *log, struct dm_error *err)
{
    run->description = dm_describe_run(&run->setup);
    if (!run->description)
        return dm_fail_memory(err, "the run's description");
    DM_TRY(create_result(run, err));
    bool wanted = run->options->write_outputs && run->setup.config.output.formats; /* "": none */
    if (wanted)
        DM_TRY(open_outputs(run, log, err));
    const char *trajectory = run->options->trajectory;
    if (!trajectory)
        return DEMIST_OK;
    if (run->outputs && dm_outputs_makes(run->outputs, trajectory))
        return dm_fail(err, DEMIST_INVALID,
                       "the trajectory's file %s is one that the run's [output] formats write: "
                       "give it another name",
                       trajectory);
    return dm_trajectory_create(&run->setup, trajectory, &run->trajectory, err);
}

static demist_status list_files(struct run *run, struct dm_error *err)
{
    struct result *result = run->result;
    size_t n;
    const char *const *files = dm_outputs_files(run->outputs, &n);
    result->files = calloc(n + 1, sizeof *result->files);
    if (!result->files)
        return dm_fail_memory(err, "the names of files");
    result->shown.files = (const char *const *)result->files;
    for (size_t i = 0; i < n; i++) {
        result->files[i] = strdup(files[i]);
        if (!result->files[i])
            return dm_fail_memory(err, "the names of files");
        result->shown.n_files++;
    }
    return DEMIST_OK;
}

/* Writes what is finished: all images, or those before an interruption or a failure. */
static demist_status write_files(struct run *run, struct dm_error *err)
{
    int64_t n = run->result->shown.n_images;
    demist_status status = DEMIST_OK;
    if (run->outputs && n > 0) {
        status = dm_outputs_finish(run->outputs, err);
        demist_status listed = list_files(run, status == DEMIST_OK ? err : NULL);
        status = status == DEMIST_OK ? listed : status;
    }
    if (run->trajectory && n > 0) {
        demist_status written = dm_trajectory_write(run->trajectory, n, run->description,
                                                    status == DEMIST_OK ? err : NULL);
        status = status == DEMIST_OK ? written : status;
    }
    return status;
}

static demist_status run_batches(struct run *run, const struct dm_log *log, struct dm_error *err)
{
    DM_TRY(open_listeners(run, log, err));
    struct dm_sample_hooks hooks = {
        .progress = on_progress,
        .finished = on_finished,
        .failure = on_failure,
        .wants_data = run->options->wants_data || run->trajectory ||
                      (run->outputs && dm_outputs_wants_states(run->outputs)),
        .user = run,
    };
    demist_status status = dm_sample(&run->setup, &hooks, err);
    if (status == DEMIST_OK)
        return write_files(run, err);
    struct dm_error error = DM_ERROR_INIT; /* beside the one that stopped the run */
    if (write_files(run, &error) == DEMIST_OK)
        return status;
    if (status == DEMIST_CANCELLED) { /* what should have been kept is lost: that is the news */
        dm_error_clear(err);
        *err = error;
        return error.status;
    }
    dm_log(log, DM_LOG_ERROR, "%s", error.text ? error.text : dm_status_text(error.status));
    dm_error_clear(&error);
    return status;
}

static void close_run(struct run *run)
{
    dm_outputs_close(run->outputs);
    dm_trajectory_destroy(run->trajectory);
    dm_setup_close(&run->setup);
    dm_error_clear(&run->failure);
    free(run->description);
}

demist_status demist_session_sample(demist_session *s, const demist_sample_options *given,
                                    demist_result **result)
{
    struct dm_error *err = begin(s);
    demist_sample_options options = {.size = sizeof options, .keep_data = true};
    const struct dm_environment *env;
    if (result)
        *result = NULL;
    if (given && given->size < offsetof(demist_sample_options, progress))
        return dm_fail(err, DEMIST_INVALID,
                       "demist_sample_options.size is not set: make it with DEMIST_INIT");
    if (given) /* as far as the caller's header knows it */
        memcpy(&options, given, given->size < sizeof options ? given->size : sizeof options);
    DM_TRY(need_ini(s, err));
    DM_TRY(dm_session_environment(s, &env, err));

    struct run run = {.options = &options};
    demist_status status =
        dm_setup_open(&run.setup, env, s->ini, DM_NEED_SAMPLER | DM_NEED_BACKEND, err);
    if (status == DEMIST_OK)
        status = run_batches(&run, &s->log, err);
    if (result && (status == DEMIST_OK || status == DEMIST_CANCELLED))
        *result = &run.result->shown;
    else if (run.result)
        demist_result_free(&run.result->shown);
    close_run(&run);
    return status;
}

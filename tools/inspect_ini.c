#include "inspect_ini.h"

#include "dataset.h"
#include "jsonout.h"
#include "ranking.h"
#include "session.h"

#include <stdlib.h>
#include <string.h>

enum { TABLE_ROWS = 12 };

/* What is known about a checkpoint. */
struct answer {
    char *path; /* absolute where it can be made so */
    struct dm_finding finding;
    struct dm_ranking probe; /* n = 0: none */
};

static void finish(struct answer *answer)
{
    free(answer->path);
    dm_finding_finish(&answer->finding);
    dm_ranking_finish(&answer->probe);
}

/* The data's rows and columns, which shapes of parameters do not tell; points have none. */
static demist_status size_of(const char *path, int64_t *size, struct dm_error *err)
{
    struct dm_dataset *data;
    int64_t shape[3];
    DM_TRY(dm_dataset_open_exact(path, NULL, 0, NULL, &data, err));
    *size = dm_dataset_shape(data, shape) == 3 ? shape[1] : 0;
    dm_dataset_close(data);
    return DEMIST_OK;
}

static demist_status examine(const struct inspect_ini *options, struct answer *answer,
                             struct dm_error *err)
{
    struct dm_checkpoint *ckpt;
    struct dm_hints hints = {.prefix = options->prefix};
    if (options->data)
        DM_TRY(size_of(options->data, &hints.image_size, err));
    DM_TRY(dm_checkpoint_open(options->path, &ckpt, err));
    demist_status status = dm_examine(ckpt, options->path, &hints, &answer->finding, err);
    dm_checkpoint_close(ckpt);
    return status;
}

/* Builds the network as described, so that what is printed is known to fit. */
static demist_status try_description(const struct dm_environment *env, const struct answer *answer,
                                     struct dm_error *err)
{
    struct dm_text ini_text = DM_TEXT_INIT, set = DM_TEXT_INIT;
    struct dm_ini *ini = NULL;
    struct dm_setup setup = {0};
    dm_finding_print(&answer->finding, "", &ini_text);
    dm_text_appendf(&set, "network.checkpoint=%s", answer->path);
    demist_status status = DEMIST_OK;
    if (ini_text.failed || set.failed)
        status = dm_fail_memory(err, "the description");
    if (status == DEMIST_OK)
        status = dm_ini_read_memory("inspect.ini", ini_text.data, ini_text.size, &ini, err);
    if (status == DEMIST_OK)
        status = dm_ini_set(ini, set.data, err);
    if (status == DEMIST_OK)
        status = dm_setup_open(&setup, env, ini, DM_NEED_NETWORK, err);
    dm_setup_close(&setup);
    dm_ini_destroy(ini);
    dm_text_finish(&ini_text);
    dm_text_finish(&set);
    if (status != DEMIST_OK)
        dm_fail_where(err, "%s: it looks like %s, but does not fit", answer->path,
                      answer->finding.what);
    return status;
}

static demist_status answer(struct common *common, const struct inspect_ini *options,
                            struct answer *out, struct dm_error *err)
{
    const struct dm_environment *env;
    DM_TRY(dm_session_environment(common->session, &env, err));
    out->path = realpath(options->path, NULL);
    if (!out->path)
        out->path = strdup(options->path);
    if (!out->path)
        return dm_fail_memory(err, "a path");
    demist_status status = examine(options, out, err);
    if (status == DEMIST_OK)
        status = try_description(env, out, err);
    if (status == DEMIST_OK && options->data)
        status = dm_rank_candidates(env, out->path, &out->finding, options->data, &out->probe, err);
    return status;
}

static void print_ini(const struct answer *a, const char *data, struct dm_text *out)
{
    struct dm_text text = DM_TEXT_INIT;
    dm_text_appendf(&text, "%s%s%s: %s.\n", a->path, a->finding.prefix[0] ? ", below " : "",
                    a->finding.prefix, a->finding.what);
    dm_text_append(&text, "Derived from names and shapes, but for lines marked ASSUMED (shapes do "
                          "not reveal them; another value may be right) or PROBED (the best of the "
                          "candidates on data).");
    dm_comment(out, text.data ? text.data : "");
    dm_text_finish(&text);
    if (a->probe.n > 0) {
        struct dm_text table = DM_TEXT_INIT;
        dm_text_appendf(&table, "\nProbed with %s:\n", data);
        dm_ranking_print(&a->probe, TABLE_ROWS, &table);
        for (char *line = table.data, *end; line && *line; line = end + (*end != 0)) {
            end = line + strcspn(line, "\n");
            dm_text_appendf(out, ";%s%.*s\n", end > line ? " " : "", (int)(end - line), line);
        }
        dm_text_finish(&table);
    }
    dm_finding_print(&a->finding, a->path, out);
}

static void put_settings(cJSON *root, const struct dm_finding *f, bool *ok)
{
    static const char *const origins[] = {[DM_FROM_SHAPES] = "shapes",
                                          [DM_ASSUMED] = "assumed",
                                          [DM_PROBED] = "probed",
                                          [DM_CHOSEN] = "chosen"};
    cJSON *list = dm_json_put_array(root, "settings", ok);
    for (int i = 0; i < f->n_settings; i++) {
        const struct dm_setting *setting = &f->settings[i];
        cJSON *object = dm_json_append_object(list, ok);
        dm_json_put_text(object, "section", setting->section, ok);
        dm_json_put_text(object, "key", setting->key, ok);
        dm_json_put_text(object, "value", setting->value, ok);
        dm_json_put_text(object, "origin", origins[setting->origin], ok);
        dm_json_put_text(object, "comment", setting->comment, ok);
    }
}

static void put_probe(cJSON *root, const struct dm_ranking *probe, bool *ok)
{
    cJSON *list = dm_json_put_array(root, "probe", ok);
    for (int i = 0; i < probe->n; i++) {
        const struct dm_candidate *c = &probe->candidates[i];
        cJSON *object = dm_json_append_object(list, ok);
        dm_json_put_number(object, "rms_error", c->error, ok);
        dm_json_put_number(object, "log_ratio", c->excess, ok);
        dm_json_put_number(object, "log_ratio_stderr", c->excess_error, ok);
        dm_json_put(object, "tied", cJSON_CreateBool(c->tied), ok);
        cJSON *set = dm_json_put_array(object, "set", ok);
        for (const char *const *s = c->set; *s; s++)
            dm_json_append_text(set, *s, ok);
    }
}

static demist_status print_json(const struct answer *a, const char *ini, struct dm_text *out,
                                struct dm_error *err)
{
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    dm_json_put_text(root, "file", a->path, &ok);
    dm_json_put_text(root, "network", dm_finding_get(&a->finding, "network", "use"), &ok);
    dm_json_put_text(root, "what", a->finding.what, &ok);
    dm_json_put_text(root, "prefix", a->finding.prefix, &ok);
    cJSON *others = dm_json_put_array(root, "other_prefixes", &ok);
    for (int i = 0; i < a->finding.n_others; i++)
        dm_json_append_text(others, a->finding.others[i], &ok);
    put_settings(root, &a->finding, &ok);
    if (a->probe.n > 0)
        put_probe(root, &a->probe, &ok);
    dm_json_put_text(root, "ini", ini, &ok);
    return dm_json_print(out, root, ok, err);
}

demist_status inspect_ini(struct common *common, const struct inspect_ini *options,
                          struct dm_text *out, struct dm_error *err)
{
    struct answer a = {0};
    struct dm_text ini = DM_TEXT_INIT;
    demist_status status = answer(common, options, &a, err);
    if (status == DEMIST_OK) {
        print_ini(&a, options->data, options->json ? &ini : out);
        if (options->json)
            status = print_json(&a, ini.data, out, err);
    }
    dm_text_finish(&ini);
    finish(&a);
    return status;
}

#include "conditions.h"

#include "dataset.h"
#include "fileio.h"
#include "number.h"
#include "startfile.h"
#include "tensorfile.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LABELS = 1 << 24, MAX_CONTEXTS = 1 << 20 };
#define MAX_LIST_BYTES ((size_t)64 << 20)

static const char *where(const struct dm_ini *ini, const char *key)
{
    const struct dm_ini_entry *entry = dm_ini_find(ini, "sample", key);
    return entry ? entry->where : ini->file;
}

/* One list out of a file: line breaks count as commas, and "#" starts a comment. */
static void join_lines(char *text)
{
    char *to = text;
    bool comment = false, item = false;
    for (const char *from = text; *from; from++) {
        comment = *from == '#' || (comment && *from != '\n');
        if (comment || *from == '\r')
            continue;
        if (*from == '\n' || *from == ',') {
            if (item)
                *to++ = ',';
            item = false;
            continue;
        }
        item = item || (*from != ' ' && *from != '\t');
        *to++ = *from;
    }
    while (to > text && (to[-1] == ',' || to[-1] == ' ' || to[-1] == '\t'))
        to--;
    *to = 0;
}

static demist_status parse_labels(const char *text, int64_t n_classes, struct dm_condition_list *l,
                                  struct dm_error *err)
{
    if (text[0] != '@')
        return dm_parse_ranges(text, n_classes - 1, MAX_LABELS, &l->labels, &l->n_labels, err);
    char *data;
    size_t size;
    DM_TRY(dm_read_file(text + 1, MAX_LIST_BYTES, &data, &size, err));
    demist_status status = DEMIST_OK;
    if (memchr(data, 0, size))
        status = dm_fail(err, DEMIST_FORMAT, "it is no text file");
    if (status == DEMIST_OK) {
        join_lines(data);
        status = dm_parse_ranges(data, n_classes - 1, MAX_LABELS, &l->labels, &l->n_labels, err);
    }
    if (status != DEMIST_OK)
        dm_fail_where(err, "%s", text + 1);
    free(data);
    return status;
}

/* "0.5,1 | 0,0": vectors with |, numbers with commas. */
static demist_status parse_vectors(const char *text, struct dm_condition_list *l,
                                   struct dm_error *err)
{
    struct dm_arena arena = {0};
    demist_status status = DEMIST_OK;
    char *rest = dm_arena_strdup(&arena, text);
    if (!rest)
        return dm_fail_memory(err, "context vectors");
    while (status == DEMIST_OK && rest) {
        char *vector = rest, *bar = strchr(rest, '|');
        rest = bar ? bar + 1 : NULL;
        if (bar)
            *bar = 0;
        const char *const *items;
        size_t n;
        status = dm_split_list(&arena, vector, &items, &n, err);
        if (status == DEMIST_OK && n != (size_t)l->context_size)
            status = dm_fail(err, DEMIST_CONFIG,
                             "vector %zu has %zu numbers, and this network takes %lld",
                             l->n_contexts + 1, n, (long long)l->context_size);
        if (status == DEMIST_OK && l->n_contexts == MAX_CONTEXTS)
            status = dm_fail(err, DEMIST_CONFIG, "more than %d vectors", MAX_CONTEXTS);
        float *grown = status != DEMIST_OK
                           ? NULL
                           : realloc(l->contexts, (l->n_contexts + 1) * n * sizeof *grown);
        if (status == DEMIST_OK && !grown)
            status = dm_fail_memory(err, "context vectors");
        if (!grown)
            break;
        l->contexts = grown;
        for (size_t i = 0; status == DEMIST_OK && i < n; i++) {
            double number;
            if (dm_parse_double(items[i], 0, &number) != DM_PARSE_OK)
                status = dm_fail(err, DEMIST_CONFIG, "\"%s\" is no number", items[i]);
            else
                l->contexts[l->n_contexts * n + i] = (float)number;
        }
        l->n_contexts += status == DEMIST_OK;
    }
    dm_arena_finish(&arena);
    return status;
}

/* Tensor `c`, or the only tensor, of a file: [vectors, context_size]. */
static demist_status read_vectors(const char *path, struct dm_condition_list *l,
                                  struct dm_error *err)
{
    struct dm_checkpoint *file;
    DM_TRY(dm_checkpoint_open(path, &file, err));
    const struct dm_tensor_view *c = dm_checkpoint_find(file, "c");
    if (!c && dm_checkpoint_count(file) == 1)
        c = dm_checkpoint_at(file, 0);
    demist_status status = DEMIST_OK;
    if (!c)
        status = dm_fail(err, DEMIST_NOT_FOUND, "%s: it has several tensors, and none is called c",
                         path);
    else if (c->rank != 2 || c->shape[1] != l->context_size || c->shape[0] < 1)
        status = dm_fail(err, DEMIST_INCOMPATIBLE,
                         "%s: tensor %s is not of shape [vectors, %lld], which this network takes",
                         path, c->name, (long long)l->context_size);
    else {
        l->n_contexts = (size_t)c->shape[0];
        l->contexts = malloc(dm_tensor_elements(c) * sizeof *l->contexts);
        status = l->contexts ? dm_tensor_to_f32(c, l->contexts, err)
                             : dm_fail_memory(err, "context vectors");
    }
    dm_checkpoint_close(file);
    return status;
}

/* All of them, as they are few and small; where the run names no labels, theirs. */
static demist_status load_low_res(struct dm_dataset *data, int64_t n_classes,
                                  struct dm_condition_list *l, struct dm_error *err)
{
    int64_t n = dm_dataset_count(data);
    size_t size, bytes = 0;
    dm_dataset_shape(data, l->low_res.shape);
    size = (size_t)(l->low_res.shape[0] * l->low_res.shape[1] * l->low_res.shape[2]);
    if (dm_mul_size((size_t)n * sizeof *l->low_res.x, size, &bytes))
        l->low_res.x = malloc(bytes);
    if (!l->low_res.x)
        return dm_fail_memory(err, "low-resolution images");
    if (l->n_labels == 0 && n_classes > 0 && dm_dataset_tells_classes(data, n_classes)) {
        DM_TRY(dm_dataset_check_labels(data, n_classes, err));
        l->labels = malloc((size_t)n * sizeof *l->labels);
        if (!l->labels)
            return dm_fail_memory(err, "labels");
        memcpy(l->labels, dm_dataset_labels(data), (size_t)n * sizeof *l->labels);
        l->n_labels = (size_t)n;
    }
    l->low_res.n = n;
    return dm_dataset_read(data, 0, n, l->low_res.x, NULL, err);
}

/* Images for the network's input of role image. */
static demist_status read_low_res(const char *path, const struct dm_network *network,
                                  struct dm_condition_list *l, struct dm_error *err)
{
    const demist_node *input = dm_network_input(network, DEMIST_ROLE_IMAGE);
    struct dm_dataset *data;
    if (input->rank != 4)
        return dm_fail(err, DEMIST_UNSUPPORTED, "input %s of network %s is not N×C×H×W",
                       input->name, network->instance.cls->name);
    DM_TRY(dm_dataset_open_exact(path, "low_res", input->rank - 1, input->shape + 1, &data, err));
    demist_status status = load_low_res(data, network->info.n_classes, l, err);
    dm_dataset_close(data);
    return status;
}

static demist_status parse_low_res(const struct dm_run_config *config, const struct dm_ini *ini,
                                   const struct dm_network *network, struct dm_condition_list *l,
                                   struct dm_error *err)
{
    const char *path = config->sample.low_res, *name = network->instance.cls->name;
    bool wanted = dm_network_input(network, DEMIST_ROLE_IMAGE) != NULL;
    if (path[0] && !wanted)
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: [sample] low_res: network %s as configured is not for "
                       "super-resolution: remove the key, or set the network's small_size",
                       where(ini, "low_res"), name);
    if (!path[0] && wanted)
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: network %s is for super-resolution: set [sample] low_res to a "
                       "picture, a folder of pictures or an .npz file",
                       ini->file, name);
    if (wanted && read_low_res(path, network, l, err) != DEMIST_OK)
        return dm_fail_where(err, "%s: [sample] low_res", where(ini, "low_res"));
    return DEMIST_OK;
}

/* The labels that came with x_T, or with the data to encode. */
static demist_status start_labels(const struct dm_run_config *config,
                                  const struct dm_network *network, struct dm_condition_list *l,
                                  struct dm_error *err)
{
    struct dm_start_file *start;
    DM_TRY(dm_start_file_open(config, network, &start, err));
    demist_status status =
        dm_start_file_labels(start, network->info.n_classes, &l->labels, &l->n_labels, err);
    dm_start_file_close(start);
    return status;
}

static demist_status parse(const struct dm_run_config *config, const struct dm_ini *ini,
                           const struct dm_network *net, struct dm_condition_list *l,
                           struct dm_error *err)
{
    const demist_network_info *info = &net->info;
    const char *network = net->instance.cls->name;
    const char *labels = config->sample.labels, *context = config->sample.context;
    if (labels[0] && info->n_classes == 0)
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: [sample] labels: network %s as configured takes no labels: remove the "
                       "key, or set the network's number of classes",
                       where(ini, "labels"), network);
    if (context[0] && info->context_size == 0)
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: [sample] context: network %s takes no context: remove the key",
                       where(ini, "context"), network);
    if (labels[0] && parse_labels(labels, info->n_classes, l, err) != DEMIST_OK)
        return dm_fail_where(err, "%s: [sample] labels", where(ini, "labels"));
    if (context[0] && (context[0] == '@' ? read_vectors(context + 1, l, err)
                                         : parse_vectors(context, l, err)) != DEMIST_OK)
        return dm_fail_where(err, "%s: [sample] context", where(ini, "context"));
    if (config->sample.guidance_scale != 1 && !dm_network_guidable(net))
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: [sample] guidance_scale: network %s as configured has no way to say "
                       "\"no condition\" (it was not trained with one), so there is nothing to "
                       "guide away from: remove the key",
                       where(ini, "guidance_scale"), network);
    DM_TRY(parse_low_res(config, ini, net, l, err));
    if (l->n_labels == 0 && info->n_classes > 0 && config->sample.start == DM_START_FILE)
        DM_TRY(start_labels(config, net, l, err));
    if (l->n_labels == 0 && info->n_classes > 0)
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: network %s is class-conditional: set [sample] labels, for example "
                       "labels = 0-%lld",
                       ini->file, network, (long long)info->n_classes - 1);
    return DEMIST_OK;
}

demist_status dm_conditions_parse(const struct dm_run_config *config, const struct dm_ini *ini,
                                  const struct dm_network *network, struct dm_condition_list *list,
                                  struct dm_error *err)
{
    *list = (struct dm_condition_list){.context_size = network->info.context_size};
    demist_status status = parse(config, ini, network, list, err);
    if (status != DEMIST_OK)
        dm_conditions_finish(list);
    return status;
}

void dm_conditions_finish(struct dm_condition_list *list)
{
    free(list->labels);
    free(list->contexts);
    free(list->low_res.x);
    *list = (struct dm_condition_list){0};
}

void dm_conditions_tell(const struct dm_condition_list *list, const struct dm_run_config *config,
                        const struct dm_log *log)
{
    int64_t n = (int64_t)list->n_labels, end = config->sample.first + config->sample.images;
    if (config->sample.labels[0] != '@' || n == 0 || (n <= end && end % n == 0))
        return;
    dm_log(log, DM_LOG_WARNING,
           "[sample] labels: %s holds %lld labels, and the run ends with image %lld: %s",
           config->sample.labels + 1, (long long)n, (long long)end - 1,
           n > end ? "the last ones are not used" : "they are repeated, and do not come out even");
}

void dm_conditions_of(const struct dm_condition_list *list, int64_t first, int64_t n,
                      int64_t *labels, float *context, float *low_res)
{
    const struct dm_low_res *small = &list->low_res;
    size_t width = (size_t)list->context_size;
    size_t size = (size_t)(small->shape[0] * small->shape[1] * small->shape[2]);
    for (int64_t i = 0; i < n; i++) {
        if (list->n_labels)
            labels[i] = list->labels[(size_t)(first + i) % list->n_labels];
        if (list->n_contexts)
            memcpy(context + (size_t)i * width,
                   list->contexts + (size_t)(first + i) % list->n_contexts * width,
                   width * sizeof *context);
        if (small->n)
            memcpy(low_res + (size_t)i * size, small->x + (size_t)((first + i) % small->n) * size,
                   size * sizeof *low_res);
    }
}

/* ---------------------------------------------------------------- one batch */

demist_status dm_batch_conditions_make(struct dm_batch_conditions *b,
                                       const struct dm_run_config *config, const struct dm_ini *ini,
                                       const struct dm_network *network, int64_t first, int64_t n,
                                       struct dm_error *err)
{
    *b = (struct dm_batch_conditions){0};
    DM_TRY(dm_conditions_parse(config, ini, network, &b->list, err));
    const int64_t *small = b->list.low_res.shape;
    b->labels = calloc((size_t)n, sizeof *b->labels);
    b->context = calloc((size_t)(n * (network->info.context_size + 1)), sizeof *b->context);
    b->low_res = calloc((size_t)(n * small[0] * small[1] * small[2] + 1), sizeof *b->low_res);
    if (!b->labels || !b->context || !b->low_res) {
        dm_batch_conditions_finish(b);
        return dm_fail_memory(err, "conditions");
    }
    dm_conditions_of(&b->list, first, n, b->labels, b->context, b->low_res);
    b->given = (struct dm_conditions){b->list.n_labels ? b->labels : NULL,
                                      b->list.n_contexts ? b->context : NULL,
                                      b->list.low_res.n ? b->low_res : NULL};
    return DEMIST_OK;
}

void dm_batch_conditions_finish(struct dm_batch_conditions *b)
{
    dm_conditions_finish(&b->list);
    free(b->labels);
    free(b->context);
    free(b->low_res);
    *b = (struct dm_batch_conditions){0};
}

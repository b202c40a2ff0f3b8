/* Network `mlp`: a multilayer perceptron on points, ReLU between its layers.
 *
 *     out = W_k·relu(… relu(W_1·[x, t] + b_1) …) + b_k
 *
 * Weights are those of a torch.nn.Sequential of Linear and ReLU: PREFIX.0, PREFIX.2, … The time
 * enters as one more coordinate, behind x. */
#include <demist/network.h>

#include <stdio.h>
#include <string.h>

enum { HIDDEN, DIM, PREDICT, TIME, PREFIX };

static const char *const predictions[] = {"eps", "x1", "x0", "mean", "v", NULL};
static const demist_prediction_type prediction_types[] = {DEMIST_PREDICT_EPS, DEMIST_PREDICT_X1,
                                                          DEMIST_PREDICT_X0, DEMIST_PREDICT_MEAN,
                                                          DEMIST_PREDICT_V};
static const char *const times[] = {"index/T", "t", NULL};
static const demist_option hidden = {
    .size = sizeof(demist_option),
    .key = "hidden",
    .doc = "widths of the hidden layers",
    .type = DEMIST_OPTION_INT,
    .flags = DEMIST_OPTION_LIST,
    .default_value = "128,128,128",
    .has_range = true,
    .min = 1,
    .max = 1 << 20,
};
static const demist_option dim = {
    .size = sizeof(demist_option),
    .key = "dim",
    .doc = "coordinates of a point; auto: as many as the last layer has rows",
    .type = DEMIST_OPTION_INT,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
    .has_range = true,
    .min = 1,
    .max = 1 << 20,
};
static const demist_option predict = {
    .size = sizeof(demist_option),
    .key = "predict",
    .doc = "eps: the noise; x1: the far end of a path; x0: the data; mean: of the posterior; v: "
           "signal*eps - noise*x0",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "eps",
    .choices = predictions,
};
static const demist_option time_form = {
    .size = sizeof(demist_option),
    .key = "time",
    .doc = "what the network is given: the index over T, or the time of a path",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "index/T",
    .choices = times,
};
static const demist_option prefix = {
    .size = sizeof(demist_option),
    .key = "prefix",
    .doc = "the layers' keys are PREFIX.0.weight, PREFIX.2.weight, ...; auto: the one there is",
    .type = DEMIST_OPTION_STRING,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
};
static const demist_option *const options[] = {&hidden, &dim, &predict, &time_form, &prefix, NULL};

struct mlp {
    const demist_host *host;
    const demist_value *hidden, *dim, *prefix;
    demist_prediction_type prediction;
    bool path_time;
    char found[256]; /* the prefix, with its dot */
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct mlp *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s = (struct mlp){.host = host,
                      .hidden = values[HIDDEN],
                      .dim = values[DIM],
                      .prefix = values[PREFIX],
                      .prediction = prediction_types[values[PREDICT]->integer],
                      .path_time = values[TIME]->integer == 1};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct mlp *s = self;
    if (s)
        s->host->free(s->host, s);
}

/* Whether the key is `stem`0.weight, with stem "" or ending in a dot. */
static bool is_first_layer(const char *key, size_t *stem)
{
    static const char tail[] = "0.weight";
    size_t length = strlen(key), n = sizeof tail - 1;
    if (length < n || strcmp(key + length - n, tail) != 0)
        return false;
    *stem = length - n;
    return *stem == 0 || key[*stem - 1] == '.';
}

static bool find_prefix(struct mlp *s, demist_builder *b)
{
    int count = 0;
    char first[sizeof s->found] = "", second[sizeof s->found] = "";
    if (!s->prefix->is_auto) {
        const char *text = s->prefix->text;
        size_t n = strlen(text);
        bool dot = n == 0 || text[n - 1] == '.';
        if (snprintf(s->found, sizeof s->found, "%s%s", text, dot ? "" : ".") >=
            (int)sizeof s->found) {
            b->fail(b, DEMIST_CONFIG, "mlp: prefix is longer than %zu bytes", sizeof s->found - 2);
            return false;
        }
        return true;
    }
    const char *key;
    for (int64_t i = 0; (key = b->key(b, 0, i)); i++) {
        size_t stem;
        if (!is_first_layer(key, &stem) || stem >= sizeof first)
            continue;
        char *to = count++ == 0 ? first : second;
        memcpy(to, key, stem);
        to[stem] = 0;
    }
    if (count == 1) {
        memcpy(s->found, first, sizeof first);
        return true;
    }
    if (count == 0)
        b->fail(b, DEMIST_INCOMPATIBLE,
                "mlp: the checkpoint has no tensor *.0.weight, so it is no Sequential of Linear "
                "layers; see `demist inspect`");
    else
        b->fail(b, DEMIST_INCOMPATIBLE,
                "mlp: the checkpoint has %d tensors *.0.weight (below \"%s\" and \"%s\"%s): choose "
                "one with [network.mlp] prefix",
                count, first, second, count > 2 ? ", among others" : "");
    return false;
}

/* Key of layer i's weight or bias; a static text would not be thread-safe. */
static const char *layer_key(const struct mlp *s, size_t i, const char *what, char out[512])
{
    snprintf(out, 512, "%s%zu.%s", s->found, 2 * i, what);
    return out;
}

/* The layers' count is given by `hidden`, so the last one is number hidden.count. */
static int64_t point_dim(struct mlp *s, demist_builder *b)
{
    if (!s->dim->is_auto)
        return s->dim->integer;
    char key[512];
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    layer_key(s, s->hidden->count, "weight", key);
    if (b->find(b, 0, key, &rank, shape) && rank == 2 && shape[0] > 0)
        return shape[0];
    b->fail(b, DEMIST_INCOMPATIBLE,
            "mlp: hidden has %zu layers, so the last one is %s, and the checkpoint has no such "
            "matrix: set [network.mlp] hidden to the widths that `demist inspect` shows",
            s->hidden->count, key);
    return -1;
}

static demist_status describe(void *self, demist_builder *b, demist_network_info *info)
{
    struct mlp *s = self;
    int64_t n = find_prefix(s, b) ? point_dim(s, b) : -1;
    if (n < 0)
        return DEMIST_INCOMPATIBLE;
    info->prediction = s->prediction;
    info->time = s->path_time ? DEMIST_TIME_PATH : DEMIST_TIME_INDEX_OVER_T;
    info->fractional_times = true;
    info->rank = 1;
    info->shape[0] = n;
    info->clip_low = -1;
    info->clip_high = 1;
    info->null_class = -1;
    return DEMIST_OK;
}

static demist_status build(void *self, demist_builder *b, const char *graph)
{
    struct mlp *s = self;
    if (strcmp(graph, "denoise") != 0)
        return DEMIST_NOT_FOUND;
    int64_t n = find_prefix(s, b) ? point_dim(s, b) : -1;
    if (n < 0)
        return DEMIST_INCOMPATIBLE;
    const demist_node *x =
        b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2, (int64_t[]){DEMIST_BATCH, n});
    const demist_node *t =
        b->input(b, "t", DEMIST_ROLE_TIME, DEMIST_F32, 1, (int64_t[]){DEMIST_BATCH});
    t = demist_reshape(b, t, 2, (int64_t[]){DEMIST_BATCH, 1});
    const demist_node *h = demist_concat(b, 1, 2, (const demist_node *[]){x, t});

    int64_t width = n + 1;
    for (size_t i = 0; i <= s->hidden->count; i++) {
        int64_t next = i < s->hidden->count ? s->hidden->integers[i] : n;
        char key[512];
        const demist_node *weight =
            b->param(b, 0, layer_key(s, i, "weight", key), 2, (int64_t[]){next, width});
        const demist_node *bias =
            b->param(b, 0, layer_key(s, i, "bias", key), 1, (int64_t[]){next});
        h = demist_linear(b, h, weight, bias);
        if (i < s->hidden->count)
            h = demist_unary(b, DEMIST_OP_RELU, h);
        width = next;
    }
    b->output(b, "out", h);
    return DEMIST_OK;
}

static const demist_network_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .describe = describe,
    .build = build,
};
static const demist_class mlp = {
    .size = sizeof mlp,
    .kind = DEMIST_NETWORK,
    .name = "mlp",
    .doc = "a multilayer perceptron on points: Linear and ReLU on (x, t)",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&mlp, NULL};

DEMIST_PLUGIN(network_mlp) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.network-mlp",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

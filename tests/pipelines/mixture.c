#include "testing.h"

#include "mixture.h"

#include "safetensors.h"

#include <math.h>
#include <unistd.h>

enum { T = MIXTURE_T };
enum { PREDICT, LEARNED, POISON, LOW, STRIDE };

static const char *const predictions[] = {"eps", "x0", "v", "mean", NULL};
static const char *const variances[] = {"none", "range", "logvar", NULL};
static const demist_option predict = {.size = sizeof predict,
                                      .key = "predict",
                                      .doc = "what it predicts",
                                      .type = DEMIST_OPTION_ENUM,
                                      .default_value = "eps",
                                      .choices = predictions};
static const demist_option learned = {.size = sizeof learned,
                                      .key = "learned",
                                      .doc = "what the second half of its output is",
                                      .type = DEMIST_OPTION_ENUM,
                                      .default_value = "none",
                                      .choices = variances};
static const demist_option poison = {.size = sizeof poison,
                                     .key = "poison",
                                     .doc = "whether it yields NaN below t = 500",
                                     .type = DEMIST_OPTION_BOOL,
                                     .default_value = "false"};
static const demist_option low = {.size = sizeof low,
                                  .key = "low",
                                  .doc = "the lower end of the range that it claims",
                                  .type = DEMIST_OPTION_FLOAT,
                                  .default_value = "-1"};
static const demist_option stride = {.size = sizeof stride,
                                     .key = "stride",
                                     .doc = "mean: of a process that visits each so manieth t",
                                     .type = DEMIST_OPTION_INT,
                                     .default_value = "1"};
static const demist_option *const options[] = {&predict, &learned, &poison, &low, &stride, NULL};

struct mixture {
    const demist_host *host;
    int predict, learned;
    bool poison;
    double low;
    int stride;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct mixture *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s = (struct mixture){host,
                          (int)values[PREDICT]->integer,
                          (int)values[LEARNED]->integer,
                          values[POISON]->boolean,
                          values[LOW]->number,
                          (int)values[STRIDE]->integer};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct mixture *s = self;
    if (s)
        s->host->free(s->host, s);
}

static demist_status describe(void *self, demist_builder *b, demist_network_info *info)
{
    struct mixture *s = self;
    (void)b;
    if (info->null_class != -1) /* a network that says nothing of guidance has no such class */
        return DEMIST_INTERNAL;
    info->prediction = s->predict == 0   ? DEMIST_PREDICT_EPS
                       : s->predict == 1 ? DEMIST_PREDICT_X0
                       : s->predict == 2 ? DEMIST_PREDICT_V
                                         : DEMIST_PREDICT_MEAN;
    info->learned_variance = (demist_learned_variance)s->learned;
    info->time = DEMIST_TIME_INDEX;
    info->rank = 1;
    info->shape[0] = 2;
    info->clip_low = s->low;
    info->clip_high = 1;
    return DEMIST_OK;
}

/* Row t: signal, noise, 0 or NaN, and the weights of x_0 and x_t in the mean of
 * q(x_{t−stride} | x_t, x_0). */
static const demist_node *table(const struct mixture *s, demist_builder *b)
{
    static float rows[T][5];
    static double alpha_bars[T];
    double alpha_bar = 1;
    for (int t = 0; t < T; t++) {
        alpha_bar *= 1 - (1e-4 + t * (0.02 - 1e-4) / (T - 1));
        rows[t][0] = (float)sqrt(alpha_bar);
        rows[t][1] = (float)sqrt(1 - alpha_bar);
        rows[t][2] = s->poison && t < 500 ? NAN : 0;
        alpha_bars[t] = alpha_bar;
        double next = t >= s->stride ? alpha_bars[t - s->stride] : 1, beta = 1 - alpha_bar / next;
        rows[t][3] = (float)(beta * sqrt(next) / (1 - alpha_bar));
        rows[t][4] = (float)((1 - next) * sqrt(1 - beta) / (1 - alpha_bar));
    }
    return b->constant(b, DEMIST_F32, 2, (int64_t[]){T, 5}, rows);
}

static const demist_node *column(demist_builder *b, const demist_node *row, int64_t i)
{
    return demist_reshape(b, demist_slice(b, row, 1, i, 1), 3, (int64_t[]){DEMIST_BATCH, 1, 1});
}

static const demist_node *sum(demist_builder *b, const demist_node *x, int axis)
{
    demist_attrs attrs = demist_no_attrs();
    attrs.reduce.axes = 1u << axis;
    return b->op(b, DEMIST_OP_SUM, 1, &x, &attrs, 0, NULL);
}

static const demist_node *sub(demist_builder *b, const demist_node *x, const demist_node *y)
{
    return demist_binary(b, DEMIST_OP_SUB, x, y);
}

static const demist_node *over(demist_builder *b, const demist_node *x, const demist_node *y)
{
    return demist_binary(b, DEMIST_OP_DIV, x, y);
}

/* [N,2]: row t of the checkpoint's tensor second, or zeros. */
static const demist_node *second_half(demist_builder *b, const demist_node *x, const demist_node *t)
{
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    const demist_node *zeros = demist_affine(b, x, 0, 0);
    if (!b->find(b, 0, "second", &rank, shape))
        return zeros;
    const demist_node *rows = b->param(b, 0, "second", 2, (int64_t[]){T, 1});
    const demist_node *row =
        b->op(b, DEMIST_OP_EMBEDDING, 2, (const demist_node *[]){rows, t}, NULL, 0, NULL);
    return demist_add(b, zeros, row);
}

/* ε(x) = n·Σ_k r_k·(x − s·m_k)/v_k with v_k = s²·σ_k² + n² and responsibilities
 * r = softmax(ln w − |x − s·m|²/(2v) − ln v) */
static demist_status build(void *self, demist_builder *b, const char *graph)
{
    struct mixture *net = self;
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    if (strcmp(graph, "denoise") != 0)
        return DEMIST_NOT_FOUND;
    if (!b->find(b, 0, "weights", &rank, shape) || rank != 1) {
        (b->fail)(b, DEMIST_INCOMPATIBLE, "mixture: no tensor weights"); /* CMocka has a macro */
        return DEMIST_INCOMPATIBLE;
    }
    int64_t k = shape[0];
    b->ignore(b, 0, "*");
    const demist_node *x =
        b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2, (int64_t[]){DEMIST_BATCH, 2});
    const demist_node *t =
        b->input(b, "t", DEMIST_ROLE_TIME, DEMIST_F32, 1, (int64_t[]){DEMIST_BATCH});
    demist_attrs attrs = demist_no_attrs();
    attrs.cast.dtype = DEMIST_I32;
    t = b->op(b, DEMIST_OP_CAST, 1, &t, &attrs, 0, NULL);
    const demist_node *row =
        b->op(b, DEMIST_OP_EMBEDDING, 2, (const demist_node *[]){table(net, b), t}, NULL, 0, NULL);
    const demist_node *s = column(b, row, 0), *n = column(b, row, 1), *bad = column(b, row, 2);

    const int64_t each[3] = {1, k, 1};
    const demist_node *w = demist_reshape(b, b->param(b, 0, "weights", 1, &k), 3, each);
    const demist_node *m =
        demist_reshape(b, b->param(b, 0, "means", 2, (int64_t[]){k, 2}), 3, (int64_t[]){1, k, 2});
    const demist_node *sigma = demist_reshape(b, b->param(b, 0, "stddevs", 1, &k), 3, each);
    const demist_node *s_sigma = demist_mul(b, s, sigma);
    const demist_node *v = demist_add(b, demist_mul(b, s_sigma, s_sigma), demist_mul(b, n, n));
    const demist_node *x3 = demist_reshape(b, x, 3, (int64_t[]){DEMIST_BATCH, 1, 2});
    const demist_node *d = sub(b, x3, demist_mul(b, s, m)); /* [N,K,2] */
    const demist_node *distance =
        over(b, sum(b, demist_mul(b, d, d), 2), demist_affine(b, v, 2, 0));
    const demist_node *logit = sub(b, sub(b, demist_unary(b, DEMIST_OP_LOG, w), distance),
                                   demist_unary(b, DEMIST_OP_LOG, v));
    attrs = demist_no_attrs();
    attrs.axis.axis = 1;
    const demist_node *r = b->op(b, DEMIST_OP_SOFTMAX, 1, &logit, &attrs, 0, NULL);
    const demist_node *eps = demist_mul(b, n, sum(b, demist_mul(b, over(b, r, v), d), 1));
    const demist_node *x0 = over(b, sub(b, x3, demist_mul(b, n, eps)), s);
    const demist_node *out = eps;
    if (net->predict == 1)
        out = x0;
    if (net->predict == 2)
        out = sub(b, demist_mul(b, s, eps), demist_mul(b, n, x0));
    if (net->predict == 3)
        out = demist_add(b, demist_mul(b, column(b, row, 3), x0),
                         demist_mul(b, column(b, row, 4), x3));
    out = demist_reshape(b, demist_add(b, out, bad), 2, (int64_t[]){DEMIST_BATCH, 2});
    if (net->learned)
        out = demist_concat(b, 1, 2, (const demist_node *[]){out, second_half(b, x, t)});
    b->output(b, "out", out);
    return DEMIST_OK;
}

static const demist_network_vtable vtable = {.size = sizeof vtable,
                                             .create = create,
                                             .destroy = destroy,
                                             .describe = describe,
                                             .build = build};
static const demist_class mixture = {.size = sizeof mixture,
                                     .kind = DEMIST_NETWORK,
                                     .name = "mixture",
                                     .doc = "the noise in samples of a Gaussian mixture",
                                     .options = options,
                                     .vtable = &vtable};
static const demist_class *const classes[] = {&mixture, NULL};

const demist_plugin mixture_plugin = {.size = sizeof mixture_plugin,
                                      .abi_epoch = DEMIST_ABI_EPOCH,
                                      .abi_minor = DEMIST_ABI_MINOR,
                                      .id = "demist.test-mixture",
                                      .version = "1",
                                      .license = "MIT",
                                      .url = "",
                                      .classes = classes};

static char *save(const struct dm_tensor_view *tensors, size_t n)
{
    char *path = strdup("/tmp/demist-mixture-XXXXXX");
    assert_non_null(path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct dm_error err = DM_ERROR_INIT;
    assert_int_equal(dm_safetensors_save(path, tensors, n, NULL, 0, &err), DEMIST_OK);
    return path;
}

char *mixture_checkpoint(int components)
{
    static const float weights[] = {0.5F, 0.3F, 0.2F}, stddevs[] = {0.3F, 0.1F, 0.5F},
                       means[] = {-1, 0, 1, 1, 0.5F, -1.5F};
    if (components == 1)
        return mixture_gaussian(means, stddevs[0], NULL);
    assert_int_equal(components, 3);
    const struct dm_tensor_view tensors[] = {
        {"weights", DEMIST_F32, 1, {3}, weights, sizeof weights, "f32"},
        {"means", DEMIST_F32, 2, {3, 2}, means, sizeof means, "f32"},
        {"stddevs", DEMIST_F32, 1, {3}, stddevs, sizeof stddevs, "f32"},
    };
    return save(tensors, 3);
}

char *mixture_gaussian(const float mean[2], float stddev, const float *second)
{
    static const float alone[] = {1};
    const struct dm_tensor_view tensors[] = {
        {"weights", DEMIST_F32, 1, {1}, alone, sizeof *alone, "f32"},
        {"means", DEMIST_F32, 2, {1, 2}, mean, 2 * sizeof *mean, "f32"},
        {"stddevs", DEMIST_F32, 1, {1}, &stddev, sizeof stddev, "f32"},
        {"second", DEMIST_F32, 2, {T, 1}, second, T * sizeof *second, "f32"},
    };
    return save(tensors, second ? 4 : 3);
}

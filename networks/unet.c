/* Network `unet`: the U-Net of improved-diffusion (Nichol & Dhariwal 2021) and of guided-diffusion
 * (Dhariwal & Nichol 2021), with their flags and their checkpoints' own key names.
 *
 *     input_blocks.0.0                     convolution of x
 *     input_blocks.I.0 [.1]                per level: residual blocks, attention; then downsampling
 *     middle_block.0, .1, .2               residual, attention, residual
 *     output_blocks.I.0 [.1] [.2]          per level, reversed, on cat(h, skip); then upsampling
 *     out.0, out.2                         norm, SiLU, convolution
 *
 * Before anything is built, the options are held against the shapes in the checkpoint, so that a
 * wrong flag is named as such and not as a list of tensors that do not fit. */
#include <demist/network.h>

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    IMAGE_SIZE,
    NUM_CHANNELS,
    NUM_RES_BLOCKS,
    CHANNEL_MULT,
    ATTENTION_RESOLUTIONS,
    NUM_HEADS,
    NUM_HEADS_UPSAMPLE,
    NUM_HEAD_CHANNELS,
    ATTENTION_ORDER,
    USE_SCALE_SHIFT_NORM,
    RESBLOCK_UPDOWN,
    CONV_RESAMPLE,
    NUM_CLASSES,
    NULL_CLASS,
    LEARN_SIGMA,
    SIGMA,
    PREDICT,
    PREDICT_XSTART,
    RESCALE_TIMESTEPS,
    SMALL_SIZE,
    DROPOUT,
};

#define OPTION(variable, ...)                                                                      \
    static const demist_option variable = {.size = sizeof(demist_option), __VA_ARGS__}
#define WHOLE(low, high) .type = DEMIST_OPTION_INT, .has_range = true, .min = (low), .max = (high)
#define BOOLEAN(value) .type = DEMIST_OPTION_BOOL, .default_value = (value)
#define CHOICE(list, value) .type = DEMIST_OPTION_ENUM, .choices = (list), .default_value = (value)

static const char *const orders[] = {"legacy", "new", NULL};
static const char *const sigmas[] = {"range", "logvar", NULL};
static const char *const predictions[] = {"eps", "x0", "mean", "v", NULL};

OPTION(image_size, .key = "image_size", .doc = "rows and columns of an image", WHOLE(4, 4096),
       .default_value = "64");
OPTION(num_channels, .key = "num_channels", .doc = "channels of the first level",
       WHOLE(32, 1 << 16), .default_value = "128");
OPTION(num_res_blocks, .key = "num_res_blocks", .doc = "residual blocks of a level", WHOLE(1, 64),
       .default_value = "2");
OPTION(channel_mult, .key = "channel_mult",
       .doc = "channels of each level as multiples of num_channels; auto: from image_size",
       .type = DEMIST_OPTION_FLOAT, .flags = DEMIST_OPTION_LIST | DEMIST_OPTION_AUTO,
       .default_value = "auto", .has_range = true, .min = 0.125, .max = 64);
OPTION(attention_resolutions, .key = "attention_resolutions",
       .doc = "resolutions (image_size over the downsampling rate) that get attention",
       WHOLE(1, 4096), .flags = DEMIST_OPTION_LIST, .default_value = "16,8");
OPTION(num_heads, .key = "num_heads", .doc = "attention heads; shapes cannot reveal them",
       WHOLE(1, 1024), .default_value = "4");
OPTION(num_heads_upsample, .key = "num_heads_upsample",
       .doc = "attention heads on the way up; -1: num_heads", WHOLE(-1, 1024),
       .default_value = "-1");
OPTION(num_head_channels, .key = "num_head_channels",
       .doc = "channels of a head, which then replace both counts; -1: counts (guided-diffusion)",
       WHOLE(-1, 1 << 16), .default_value = "-1");
OPTION(attention_order, .key = "attention_order",
       .doc = "qkv split by head first (legacy, improved-diffusion) or by q, k, v first (new)",
       CHOICE(orders, "legacy"));
OPTION(use_scale_shift_norm, .key = "use_scale_shift_norm",
       .doc = "the embedding scales and shifts the norm; else it is added before it",
       BOOLEAN("true"));
OPTION(resblock_updown, .key = "resblock_updown",
       .doc = "residual blocks resample (guided-diffusion)", BOOLEAN("false"));
OPTION(conv_resample, .key = "conv_resample",
       .doc = "convolutions resample; else pooling and nearest neighbours", BOOLEAN("true"));
OPTION(num_classes, .key = "num_classes", .doc = "classes of a conditional network; 0: none",
       WHOLE(0, 1 << 20), .default_value = "0");
OPTION(null_class, .key = "null_class",
       .doc = "the class that was trained to mean none, for guidance; -1: there is none",
       WHOLE(-1, 1 << 20), .default_value = "-1");
OPTION(learn_sigma, .key = "learn_sigma", .doc = "the output's second half is a learned variance",
       BOOLEAN("false"));
OPTION(sigma, .key = "sigma",
       .doc = "learn_sigma: an interpolation of the log variance's bounds, or it itself",
       CHOICE(sigmas, "range"));
OPTION(predict, .key = "predict", .doc = "what the output is; predict_xstart = true means x0",
       CHOICE(predictions, "eps"));
OPTION(predict_xstart, .key = "predict_xstart", .doc = "the output is x_0", BOOLEAN("false"));
OPTION(rescale_timesteps, .key = "rescale_timesteps",
       .doc = "the network sees t*1000/T (improved-diffusion's default; guided's is false)",
       BOOLEAN("true"));
OPTION(small_size, .key = "small_size",
       .doc = "super-resolution: rows and columns of the low-resolution image; 0: none",
       WHOLE(0, 4096), .default_value = "0");
OPTION(dropout, .key = "dropout", .doc = "counts in training only", .type = DEMIST_OPTION_FLOAT,
       .default_value = "0", .has_range = true, .min = 0, .max = 0.999);
static const demist_option *const options[] = {&image_size,
                                               &num_channels,
                                               &num_res_blocks,
                                               &channel_mult,
                                               &attention_resolutions,
                                               &num_heads,
                                               &num_heads_upsample,
                                               &num_head_channels,
                                               &attention_order,
                                               &use_scale_shift_norm,
                                               &resblock_updown,
                                               &conv_resample,
                                               &num_classes,
                                               &null_class,
                                               &learn_sigma,
                                               &sigma,
                                               &predict,
                                               &predict_xstart,
                                               &rescale_timesteps,
                                               &small_size,
                                               &dropout,
                                               NULL};

enum { MAX_LEVELS = 12, MAX_SKIPS = 1024 };

struct unet {
    const demist_host *host;
    const demist_value *const *values;
    int n_levels;
    double mult[MAX_LEVELS];
    int64_t channels; /* of an image, found in the checkpoint */
};

static const demist_value *value(const struct unet *net, int option)
{
    return net->values[option];
}

/* What the original scripts choose for an image size; false where they know none. */
static bool default_mult(struct unet *net)
{
    static const struct {
        int size, n;
        double mult[7];
    } known[] = {{512, 7, {0.5, 1, 1, 2, 2, 4, 4}},
                 {256, 6, {1, 1, 2, 2, 4, 4}},
                 {128, 5, {1, 1, 2, 3, 4}},
                 {64, 4, {1, 2, 3, 4}},
                 {32, 4, {1, 2, 2, 2}}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].size == value(net, IMAGE_SIZE)->integer) {
            net->n_levels = known[i].n;
            memcpy(net->mult, known[i].mult, sizeof known[i].mult);
            return true;
        }
    return false;
}

/* Channels of a level. */
static int64_t level_channels(const struct unet *net, int level)
{
    return (int64_t)(net->mult[level] * (double)value(net, NUM_CHANNELS)->integer);
}

/* Options that contradict each other, whatever the checkpoint. */
static demist_status check_options(struct unet *net)
{
    const demist_host *host = net->host;
    const demist_value *mult = value(net, CHANNEL_MULT);
    int64_t size = value(net, IMAGE_SIZE)->integer;
    if (mult->is_auto && !default_mult(net))
        return host->fail(host, DEMIST_CONFIG,
                          "[network.unet] channel_mult = auto knows image_size 32, 64, 128, 256 "
                          "and 512, not %lld: set channel_mult",
                          (long long)size);
    if (!mult->is_auto) {
        if (mult->count > MAX_LEVELS)
            return host->fail(host, DEMIST_CONFIG,
                              "[network.unet] channel_mult has %zu levels; at most %d are possible",
                              mult->count, MAX_LEVELS);
        net->n_levels = (int)mult->count;
        memcpy(net->mult, mult->numbers, mult->count * sizeof *mult->numbers);
    }
    if (size % ((int64_t)1 << (net->n_levels - 1)) != 0)
        return host->fail(host, DEMIST_CONFIG,
                          "[network.unet] image_size = %lld cannot be halved %d times, as the %d "
                          "levels of channel_mult ask",
                          (long long)size, net->n_levels - 1, net->n_levels);
    for (int i = 0; i < net->n_levels; i++)
        if (level_channels(net, i) % 32 != 0 || level_channels(net, i) < 32)
            return host->fail(host, DEMIST_CONFIG,
                              "[network.unet] level %d of channel_mult has %lld channels; norms "
                              "need a multiple of 32",
                              i, (long long)level_channels(net, i));
    if (value(net, NULL_CLASS)->integer >= value(net, NUM_CLASSES)->integer)
        return host->fail(host, DEMIST_CONFIG,
                          "[network.unet] null_class = %lld is not one of num_classes = %lld",
                          (long long)value(net, NULL_CLASS)->integer,
                          (long long)value(net, NUM_CLASSES)->integer);
    if (value(net, PREDICT_XSTART)->boolean && !value(net, PREDICT)->is_default &&
        value(net, PREDICT)->integer != 1)
        return host->fail(host, DEMIST_CONFIG,
                          "[network.unet] predict_xstart = true contradicts predict = %s",
                          value(net, PREDICT)->text);
    return DEMIST_OK;
}

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct unet *net = host->alloc(host, sizeof *net, 0);
    if (!net)
        return DEMIST_NO_MEMORY;
    *net = (struct unet){.host = host, .values = values};
    demist_status status = check_options(net);
    if (status != DEMIST_OK) {
        host->free(host, net);
        return status;
    }
    *self = net;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct unet *net = self;
    if (net)
        net->host->free(net->host, net);
}

/* ---------------------------------------------------------------- options against shapes */

/* Whether the checkpoint has the tensor, with its shape. */
static bool has(demist_builder *b, int64_t shape[DEMIST_MAX_RANK], const char *fmt, ...)
    DEMIST_PRINTF(3, 4);
static bool has(demist_builder *b, int64_t shape[DEMIST_MAX_RANK], const char *fmt, ...)
{
    char key[160];
    int32_t rank;
    va_list args;
    va_start(args, fmt);
    vsnprintf(key, sizeof key, fmt, args);
    va_end(args);
    return b->find(b, 0, key, &rank, shape) && rank >= 1 && shape[0] > 0;
}

/* Where things are in input_blocks, as the options have it. */
struct plan {
    int n_blocks;                 /* input blocks */
    int64_t rate[MAX_SKIPS];      /* downsampling rate of the block's result */
    bool attention[MAX_SKIPS];    /* whether it has attention */
    bool downsampling[MAX_SKIPS]; /* whether it is one */
};

static bool attends(const struct unet *net, int64_t rate)
{
    const demist_value *at = value(net, ATTENTION_RESOLUTIONS);
    for (size_t i = 0; i < at->count; i++)
        if (value(net, IMAGE_SIZE)->integer / at->integers[i] == rate)
            return true;
    return false;
}

static void lay_plan(const struct unet *net, struct plan *plan)
{
    int64_t rate = 1, blocks = value(net, NUM_RES_BLOCKS)->integer;
    *plan = (struct plan){.n_blocks = 1, .rate = {1}};
    for (int level = 0; level < net->n_levels; level++) {
        for (int64_t i = 0; i < blocks && plan->n_blocks < MAX_SKIPS - 1; i++) {
            plan->rate[plan->n_blocks] = rate;
            plan->attention[plan->n_blocks++] = attends(net, rate);
        }
        if (level != net->n_levels - 1) {
            rate *= 2;
            plan->rate[plan->n_blocks] = rate;
            plan->downsampling[plan->n_blocks++] = true;
        }
    }
}

static bool is_downsampling(demist_builder *b, int block)
{
    int64_t shape[DEMIST_MAX_RANK];
    return has(b, shape, "input_blocks.%d.0.op.weight", block);
}

/* Input blocks in the checkpoint, and how many of them lie before the first downsampling. */
static int count_blocks(demist_builder *b, int *first_level)
{
    int n = 1;
    int64_t shape[DEMIST_MAX_RANK];
    *first_level = 0;
    while (n < MAX_SKIPS &&
           (has(b, shape, "input_blocks.%d.0.in_layers.0.weight", n) || is_downsampling(b, n))) {
        if (*first_level == 0 && is_downsampling(b, n))
            *first_level = n - 1;
        n++;
    }
    return n;
}

/* The numbers that the outermost tensors give away. */
static bool check_ends(struct unet *net, demist_builder *b)
{
    int64_t shape[DEMIST_MAX_RANK], channels = value(net, NUM_CHANNELS)->integer;
    if (!has(b, shape, "time_embed.0.weight") || !has(b, shape, "out.2.weight")) {
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: the checkpoint has no tensors time_embed.0.weight and out.2.weight, so it "
                "is no U-Net of improved-diffusion or guided-diffusion, or its keys lie below a "
                "prefix ([network] prefix); `demist inspect` lists what is in it");
        return false;
    }
    int64_t out = shape[0];
    has(b, shape, "time_embed.0.weight");
    if (shape[1] != channels) {
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: num_channels = %lld, but time_embed.0.weight has %lld columns: set "
                "[network.unet] num_channels = %lld",
                (long long)channels, (long long)shape[1], (long long)shape[1]);
        return false;
    }
    int64_t in = has(b, shape, "input_blocks.0.0.weight") ? shape[1] : 0;
    bool upsampler = value(net, SMALL_SIZE)->integer > 0, learns = value(net, LEARN_SIGMA)->boolean;
    net->channels = upsampler ? in / 2 : in;
    if (net->channels < 1 || net->channels > 1 << 16) {
        b->fail(b, DEMIST_INCOMPATIBLE, "unet: input_blocks.0.0.weight has %lld input channels%s",
                (long long)in, upsampler ? ", and super-resolution needs an even number" : "");
        return false;
    }
    if (out == net->channels * (learns ? 2 : 1))
        return true;
    if (out == net->channels * (learns ? 1 : 2))
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: learn_sigma = %s, but out.2.weight makes %lld channels of %lld: set "
                "[network.unet] learn_sigma = %s",
                learns ? "true" : "false", (long long)out, (long long)net->channels,
                learns ? "false" : "true");
    else
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: the checkpoint takes %lld channels and makes %lld: %s", (long long)in,
                (long long)out,
                upsampler ? "it is no super-resolution network; set [network.unet] small_size = 0"
                          : "if it is a super-resolution network, set [network.unet] small_size");
    return false;
}

static bool check_classes(struct unet *net, demist_builder *b)
{
    int64_t shape[DEMIST_MAX_RANK], classes = value(net, NUM_CLASSES)->integer;
    bool labelled = has(b, shape, "label_emb.weight");
    if (labelled ? shape[0] == classes : classes == 0)
        return true;
    if (labelled)
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: num_classes = %lld, but label_emb.weight has %lld rows: set [network.unet] "
                "num_classes = %lld",
                (long long)classes, (long long)shape[0], (long long)shape[0]);
    else
        b->fail(
            b, DEMIST_INCOMPATIBLE,
            "unet: num_classes = %lld, but the checkpoint has no label_emb.weight, so it is not "
            "class-conditional: set [network.unet] num_classes = 0",
            (long long)classes);
    return false;
}

/* How blocks are counted, joined and resampled. */
static bool check_blocks(struct unet *net, demist_builder *b, const struct plan *plan)
{
    int64_t shape[DEMIST_MAX_RANK], out[DEMIST_MAX_RANK];
    int first, found = count_blocks(b, &first);
    bool scales = value(net, USE_SCALE_SHIFT_NORM)->boolean;
    if (has(b, shape, "input_blocks.1.0.emb_layers.1.weight") &&
        has(b, out, "input_blocks.1.0.out_layers.3.weight") &&
        shape[0] != out[0] * (scales ? 2 : 1)) {
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: use_scale_shift_norm = %s, but input_blocks.1.0.emb_layers.1.weight has "
                "%lld rows for %lld channels: set [network.unet] use_scale_shift_norm = %s",
                scales ? "true" : "false", (long long)shape[0], (long long)out[0],
                scales ? "false" : "true");
        return false;
    }
    int expected_first = (int)value(net, NUM_RES_BLOCKS)->integer;
    bool convolves = value(net, CONV_RESAMPLE)->boolean && !value(net, RESBLOCK_UPDOWN)->boolean;
    if (convolves && net->n_levels > 1 && first == 0 && found > 1) {
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: no input block of the checkpoint is a strided convolution (….0.op.weight): "
                "set [network.unet] resblock_updown = true, or conv_resample = false");
        return false;
    }
    if (convolves && first > 0 && first != expected_first) {
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: num_res_blocks = %d, but the checkpoint has %d residual blocks before its "
                "first downsampling: set [network.unet] num_res_blocks = %d",
                expected_first, first, first);
        return false;
    }
    if (!convolves && first > 0) {
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: input_blocks.%d.0.op.weight of the checkpoint is a strided convolution: set "
                "[network.unet] resblock_updown = false and conv_resample = true",
                first + 1);
        return false;
    }
    if (convolves && found != plan->n_blocks) {
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: channel_mult has %d levels, which make %d input blocks, and the checkpoint "
                "has %d: set [network.unet] channel_mult to %d levels, or num_res_blocks",
                net->n_levels, plan->n_blocks, found, found / (expected_first + 1));
        return false;
    }
    return true;
}

static bool check_widths(struct unet *net, demist_builder *b, const struct plan *plan)
{
    int64_t shape[DEMIST_MAX_RANK], mc = value(net, NUM_CHANNELS)->integer;
    int level = 0;
    for (int i = 1; i < plan->n_blocks; i++) {
        if (plan->downsampling[i]) {
            level++;
            continue;
        }
        if (has(b, shape, "input_blocks.%d.0.out_layers.3.weight", i) &&
            shape[0] != level_channels(net, level)) {
            b->fail(b, DEMIST_INCOMPATIBLE,
                    "unet: channel_mult gives level %d %lld channels, but input_blocks.%d has "
                    "%lld: entry %d of [network.unet] channel_mult must be %g",
                    level, (long long)level_channels(net, level), i, (long long)shape[0], level + 1,
                    (double)shape[0] / (double)mc);
            return false;
        }
    }
    return true;
}

static bool check_attention(struct unet *net, demist_builder *b, const struct plan *plan)
{
    int64_t shape[DEMIST_MAX_RANK], size = value(net, IMAGE_SIZE)->integer;
    for (int i = 1; i < plan->n_blocks; i++) {
        bool found = has(b, shape, "input_blocks.%d.1.qkv.weight", i);
        if (plan->downsampling[i] || found == plan->attention[i])
            continue;
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: attention_resolutions %s %lld, but the checkpoint has %s attention there "
                "(input_blocks.%d): %s %lld %s [network.unet] attention_resolutions",
                found ? "leaves out" : "names", (long long)(size / plan->rate[i]),
                found ? "" : "no", i, found ? "add" : "remove", (long long)(size / plan->rate[i]),
                found ? "to" : "from");
        return false;
    }
    return true;
}

/* The first option that the shapes contradict is named. */
static bool check_checkpoint(struct unet *net, demist_builder *b)
{
    struct plan plan;
    if (!check_ends(net, b) || !check_classes(net, b))
        return false;
    lay_plan(net, &plan);
    return check_blocks(net, b, &plan) && check_widths(net, b, &plan) &&
           check_attention(net, b, &plan);
}

static demist_status describe(void *self, demist_builder *b, demist_network_info *info)
{
    struct unet *net = self;
    static const demist_prediction_type types[] = {DEMIST_PREDICT_EPS, DEMIST_PREDICT_X0,
                                                   DEMIST_PREDICT_MEAN, DEMIST_PREDICT_V};
    if (!check_checkpoint(net, b))
        return DEMIST_INCOMPATIBLE;
    info->prediction = value(net, PREDICT_XSTART)->boolean ? DEMIST_PREDICT_X0
                                                           : types[value(net, PREDICT)->integer];
    if (value(net, LEARN_SIGMA)->boolean)
        info->learned_variance =
            value(net, SIGMA)->integer == 0 ? DEMIST_VARIANCE_RANGE : DEMIST_VARIANCE_LOGVAR;
    info->time =
        value(net, RESCALE_TIMESTEPS)->boolean ? DEMIST_TIME_INDEX_1000 : DEMIST_TIME_INDEX;
    info->fractional_times = true;
    info->rank = 3;
    info->shape[0] = net->channels;
    info->shape[1] = info->shape[2] = value(net, IMAGE_SIZE)->integer;
    info->clip_denoised = true;
    info->clip_low = -1;
    info->clip_high = 1;
    info->n_classes = value(net, NUM_CLASSES)->integer;
    info->null_class = value(net, NULL_CLASS)->integer;
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- the graph */

/* One build. */
struct scope {
    demist_builder *b;
    const struct unet *net;
    const demist_node *emb; /* SiLU(embedding), [N, 4·num_channels] */
};

static const demist_node *param(struct scope *s, int32_t rank, const int64_t *shape,
                                const char *fmt, ...) DEMIST_PRINTF(4, 5);
static const demist_node *param(struct scope *s, int32_t rank, const int64_t *shape,
                                const char *fmt, ...)
{
    char key[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(key, sizeof key, fmt, args);
    va_end(args);
    return s->b->param(s->b, 0, key, rank, shape);
}

static const demist_node *silu(struct scope *s, const demist_node *x)
{
    return demist_unary(s->b, DEMIST_OP_SILU, x);
}

static const demist_node *linear(struct scope *s, const char *path, const demist_node *x,
                                 int64_t in, int64_t out)
{
    return demist_linear(s->b, x, param(s, 2, (int64_t[]){out, in}, "%s.weight", path),
                         param(s, 1, &out, "%s.bias", path));
}

static const demist_node *norm(struct scope *s, const char *path, const demist_node *x,
                               int64_t channels)
{
    return demist_group_norm(s->b, x, param(s, 1, &channels, "%s.weight", path),
                             param(s, 1, &channels, "%s.bias", path), 32, 1e-5f);
}

/* k×k, same size but for the stride */
static const demist_node *conv(struct scope *s, const char *path, const demist_node *x, int64_t in,
                               int64_t out, int64_t k, int32_t stride)
{
    return demist_conv2d(s->b, x, param(s, 4, (int64_t[]){out, in, k, k}, "%s.weight", path),
                         param(s, 1, &out, "%s.bias", path), stride, (int32_t)(k / 2));
}

/* A Conv1d of width 1, stored as [out, in, 1], on x [N,C,H,W] */
static const demist_node *conv1d(struct scope *s, const char *path, const demist_node *x,
                                 int64_t in, int64_t out)
{
    const demist_node *weight = param(s, 3, (int64_t[]){out, in, 1}, "%s.weight", path);
    weight = demist_reshape(s->b, weight, 4, (int64_t[]){out, in, 1, 1});
    return demist_conv2d(s->b, x, weight, param(s, 1, &out, "%s.bias", path), 1, 0);
}

/* How a block changes the resolution. */
enum resample { SAME, DOWN, UP };

static const demist_node *resample(struct scope *s, const demist_node *x, enum resample how)
{
    if (how == DOWN)
        return demist_pool2d(s->b, DEMIST_OP_AVG_POOL2D, x, 2);
    return how == UP ? demist_upsample_nearest(s->b, x, 2) : x;
}

/* Half of the embedding's projection, as [N, channels, 1, 1] */
static const demist_node *half(struct scope *s, const demist_node *emb, int64_t first,
                               int64_t channels)
{
    return demist_reshape(s->b, demist_slice(s->b, emb, 1, first, channels), 4,
                          (int64_t[]){DEMIST_BATCH, channels, 1, 1});
}

/* GN, SiLU, [resampling,] conv; embedding; GN, SiLU, conv; plus the shortcut */
static const demist_node *residual(struct scope *s, const char *path, const demist_node *x,
                                   int64_t in, int64_t out, enum resample how)
{
    char at[120];
    bool scales = value(s->net, USE_SCALE_SHIFT_NORM)->boolean;
    int64_t width = 4 * value(s->net, NUM_CHANNELS)->integer;
    snprintf(at, sizeof at, "%s.in_layers.0", path);
    const demist_node *h = resample(s, silu(s, norm(s, at, x, in)), how);
    x = resample(s, x, how);
    snprintf(at, sizeof at, "%s.in_layers.2", path);
    h = conv(s, at, h, in, out, 3, 1);

    snprintf(at, sizeof at, "%s.emb_layers.1", path);
    const demist_node *emb = linear(s, at, s->emb, width, scales ? 2 * out : out);
    snprintf(at, sizeof at, "%s.out_layers.0", path);
    if (scales) {
        const demist_node *scale = demist_affine(s->b, half(s, emb, 0, out), 1, 1);
        h = demist_mul(s->b, norm(s, at, h, out), scale);
        h = demist_add(s->b, h, half(s, emb, out, out));
    } else {
        emb = demist_reshape(s->b, emb, 4, (int64_t[]){DEMIST_BATCH, out, 1, 1});
        h = norm(s, at, demist_add(s->b, h, emb), out);
    }
    snprintf(at, sizeof at, "%s.out_layers.3", path);
    h = conv(s, at, silu(s, h), out, out, 3, 1);

    snprintf(at, sizeof at, "%s.skip_connection", path);
    if (in != out)
        x = conv(s, at, x, in, out, 1, 1);
    return demist_add(s->b, x, h);
}

/* x + proj_out(attention(qkv(GN(x)))) over all pixels */
static const demist_node *attention(struct scope *s, const char *path, const demist_node *x,
                                    int64_t channels, int64_t size, bool upwards)
{
    demist_builder *b = s->b;
    char at[120];
    int64_t per_head = value(s->net, NUM_HEAD_CHANNELS)->integer;
    int64_t heads = value(s->net, NUM_HEADS)->integer, pixels = size * size;
    if (upwards && value(s->net, NUM_HEADS_UPSAMPLE)->integer > 0)
        heads = value(s->net, NUM_HEADS_UPSAMPLE)->integer;
    if (per_head > 0)
        heads = channels / per_head;
    if (heads < 1 || channels % heads != 0)
        return b->fail(b, DEMIST_CONFIG,
                       "unet: %s: %lld channels cannot be split into %lld heads: change "
                       "[network.unet] num_heads or num_head_channels",
                       path, (long long)channels, (long long)heads);
    int64_t d = channels / heads;

    snprintf(at, sizeof at, "%s.norm", path);
    const demist_node *h = norm(s, at, x, channels);
    snprintf(at, sizeof at, "%s.qkv", path);
    h = conv1d(s, at, h, channels, 3 * channels);
    const demist_node *qkv[3];
    if (value(s->net, ATTENTION_ORDER)->integer == 0) { /* [head][q|k|v][d] */
        h = demist_reshape(b, h, 4, (int64_t[]){DEMIST_BATCH, heads, 3 * d, pixels});
        for (int i = 0; i < 3; i++)
            qkv[i] = demist_slice(b, h, 2, i * d, d);
    } else { /* [q|k|v][head][d] */
        h = demist_reshape(b, h, 4, (int64_t[]){DEMIST_BATCH, 3 * heads, d, pixels});
        for (int i = 0; i < 3; i++)
            qkv[i] = demist_slice(b, h, 1, i * heads, heads);
    }
    h = demist_attention(b, qkv[0], qkv[1], qkv[2], (float)(1 / sqrt((double)d)));
    h = demist_reshape(b, h, 4, (int64_t[]){DEMIST_BATCH, channels, size, size});
    snprintf(at, sizeof at, "%s.proj_out", path);
    return demist_add(b, x, conv1d(s, at, h, channels, channels));
}

/* [cos(t·f), sin(t·f)], f_i = exp(−ln 10000·i/half), in float32 as PyTorch evaluates it: the
 * angles reach 1000, so the roundings of f are seen in the result. */
static const demist_node *timestep_embedding(struct scope *s, const demist_node *t, int64_t dim)
{
    demist_builder *b = s->b;
    int64_t half_dim = dim / 2;
    float frequency[1 << 15];
    for (int64_t i = 0; i < half_dim; i++)
        frequency[i] = (float)exp((double)((float)-9.210340371976184 * (float)i / (float)half_dim));
    const demist_node *f = b->constant(b, DEMIST_F32, 2, (int64_t[]){1, half_dim}, frequency);
    const demist_node *angle =
        demist_mul(b, demist_reshape(b, t, 2, (int64_t[]){DEMIST_BATCH, 1}), f);
    const demist_node *parts[3] = {demist_unary(b, DEMIST_OP_COS, angle),
                                   demist_unary(b, DEMIST_OP_SIN, angle), NULL};
    if (dim % 2)
        parts[2] = demist_affine(b, demist_slice(b, angle, 1, 0, 1), 0, 0);
    return demist_concat(b, 1, dim % 2 ? 3 : 2, parts);
}

static const demist_node *embedding(struct scope *s, const demist_node *t)
{
    demist_builder *b = s->b;
    int64_t channels = value(s->net, NUM_CHANNELS)->integer, width = 4 * channels;
    int64_t classes = value(s->net, NUM_CLASSES)->integer;
    const demist_node *emb = timestep_embedding(s, t, channels);
    emb = silu(s, linear(s, "time_embed.0", emb, channels, width));
    emb = linear(s, "time_embed.2", emb, width, width);
    if (classes > 0) {
        const demist_node *y =
            b->input(b, "y", DEMIST_ROLE_LABEL, DEMIST_I32, 1, (int64_t[]){DEMIST_BATCH});
        const demist_node *table = param(s, 2, (int64_t[]){classes, width}, "label_emb.weight");
        const demist_node *row =
            b->op(b, DEMIST_OP_EMBEDDING, 2, (const demist_node *[]){table, y}, NULL, 0, NULL);
        emb = demist_add(b, emb, row);
    }
    return silu(s, emb);
}

/* x, or cat(x, low_res resized to x) */
static const demist_node *image_input(struct scope *s)
{
    demist_builder *b = s->b;
    int64_t size = value(s->net, IMAGE_SIZE)->integer, small = value(s->net, SMALL_SIZE)->integer;
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 4,
                                    (int64_t[]){DEMIST_BATCH, s->net->channels, size, size});
    if (small == 0)
        return x;
    const demist_node *low = b->input(b, "low_res", DEMIST_ROLE_IMAGE, DEMIST_F32, 4,
                                      (int64_t[]){DEMIST_BATCH, s->net->channels, small, small});
    demist_attrs attrs = demist_no_attrs();
    attrs.resize.height = attrs.resize.width = (int32_t)size;
    low = b->op(b, DEMIST_OP_RESIZE_BILINEAR, 1, &low, &attrs, 0, NULL);
    return demist_concat(b, 1, 2, (const demist_node *[]){x, low});
}

/* The block's i-th layer that changes resolution. */
static const demist_node *downsample(struct scope *s, const char *path, const demist_node *h,
                                     int64_t channels)
{
    char at[80];
    if (value(s->net, RESBLOCK_UPDOWN)->boolean)
        return residual(s, path, h, channels, channels, DOWN);
    snprintf(at, sizeof at, "%s.op", path);
    return value(s->net, CONV_RESAMPLE)->boolean ? conv(s, at, h, channels, channels, 3, 2)
                                                 : resample(s, h, DOWN);
}

static const demist_node *upsample(struct scope *s, const char *path, const demist_node *h,
                                   int64_t channels)
{
    char at[80];
    if (value(s->net, RESBLOCK_UPDOWN)->boolean)
        return residual(s, path, h, channels, channels, UP);
    h = resample(s, h, UP);
    snprintf(at, sizeof at, "%s.conv", path);
    return value(s->net, CONV_RESAMPLE)->boolean ? conv(s, at, h, channels, channels, 3, 1) : h;
}

/* What is remembered on the way down for the way up. */
struct skips {
    const demist_node *value[MAX_SKIPS];
    int64_t channels[MAX_SKIPS];
    int n;
};

static void remember(struct skips *skips, const demist_node *h, int64_t channels)
{
    skips->value[skips->n] = h;
    skips->channels[skips->n++] = channels;
}

static demist_status build(void *self, demist_builder *b, const char *graph)
{
    struct unet *net = self;
    if (strcmp(graph, "denoise") != 0)
        return DEMIST_NOT_FOUND;
    if (!check_checkpoint(net, b))
        return DEMIST_INCOMPATIBLE;
    struct scope scope = {b, net, NULL}, *s = &scope;
    struct skips skips = {.n = 0};
    char at[64];
    int64_t blocks = value(net, NUM_RES_BLOCKS)->integer, rate = 1;
    int64_t size = value(net, IMAGE_SIZE)->integer;
    int64_t in = value(net, SMALL_SIZE)->integer > 0 ? 2 * net->channels : net->channels;

    const demist_node *h = image_input(s);
    const demist_node *t =
        b->input(b, "t", DEMIST_ROLE_TIME, DEMIST_F32, 1, (int64_t[]){DEMIST_BATCH});
    s->emb = embedding(s, t);

    int64_t ch = level_channels(net, 0);
    h = conv(s, "input_blocks.0.0", h, in, ch, 3, 1);
    remember(&skips, h, ch);
    for (int level = 0; level < net->n_levels; level++) {
        int64_t width = level_channels(net, level);
        for (int64_t i = 0; i < blocks; i++, ch = width) {
            snprintf(at, sizeof at, "input_blocks.%d.0", skips.n);
            h = residual(s, at, h, ch, width, SAME);
            snprintf(at, sizeof at, "input_blocks.%d.1", skips.n);
            if (attends(net, rate))
                h = attention(s, at, h, width, size / rate, false);
            remember(&skips, h, width);
        }
        if (level < net->n_levels - 1) {
            snprintf(at, sizeof at, "input_blocks.%d.0", skips.n);
            h = downsample(s, at, h, ch);
            remember(&skips, h, ch);
            rate *= 2;
        }
    }

    h = residual(s, "middle_block.0", h, ch, ch, SAME);
    h = attention(s, "middle_block.1", h, ch, size / rate, false);
    h = residual(s, "middle_block.2", h, ch, ch, SAME);

    int block = 0;
    for (int level = net->n_levels - 1; level >= 0; level--) {
        int64_t width = level_channels(net, level);
        for (int64_t i = 0; i <= blocks; i++, block++, ch = width) {
            int layer = 0;
            skips.n--;
            h = demist_concat(b, 1, 2, (const demist_node *[]){h, skips.value[skips.n]});
            snprintf(at, sizeof at, "output_blocks.%d.%d", block, layer++);
            h = residual(s, at, h, ch + skips.channels[skips.n], width, SAME);
            snprintf(at, sizeof at, "output_blocks.%d.%d", block, layer);
            if (attends(net, rate)) {
                h = attention(s, at, h, width, size / rate, true);
                layer++;
            }
            snprintf(at, sizeof at, "output_blocks.%d.%d", block, layer);
            if (level > 0 && i == blocks) {
                h = upsample(s, at, h, width);
                rate /= 2;
            }
        }
    }
    h = silu(s, norm(s, "out.0", h, ch));
    int64_t out = net->channels * (value(net, LEARN_SIGMA)->boolean ? 2 : 1);
    b->output(b, "out", conv(s, "out.2", h, ch, out, 3, 1));
    return DEMIST_OK;
}

static const demist_network_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .describe = describe,
    .build = build,
};
static const demist_class unet = {
    .size = sizeof unet,
    .kind = DEMIST_NETWORK,
    .name = "unet",
    .doc = "the U-Net of improved-diffusion and guided-diffusion",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&unet, NULL};

DEMIST_PLUGIN(network_unet) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.network-unet",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

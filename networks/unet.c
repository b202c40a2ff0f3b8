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
    int64_t size = value(net, IMAGE_SIZE)->integer;
    if (size == 512 && value(net, SMALL_SIZE)->integer > 0)
        size = 256; /* upsamplers to 512 have the levels of those to 256 */
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].size == size) {
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
    if (value(net, NUM_HEADS_UPSAMPLE)->integer == 0 || value(net, NUM_HEAD_CHANNELS)->integer == 0)
        return host->fail(host, DEMIST_CONFIG,
                          "[network.unet] %s = 0: give a number, or -1 for none",
                          value(net, NUM_HEAD_CHANNELS)->integer == 0 ? "num_head_channels"
                                                                      : "num_heads_upsample");
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

/* Whether the checkpoint has the tensor with that rank; sets its shape. */
static bool has(demist_builder *b, int32_t rank, int64_t shape[DEMIST_MAX_RANK], const char *fmt,
                ...) DEMIST_PRINTF(4, 5);
static bool has(demist_builder *b, int32_t rank, int64_t shape[DEMIST_MAX_RANK], const char *fmt,
                ...)
{
    char key[160];
    int32_t found;
    va_list args;
    va_start(args, fmt);
    vsnprintf(key, sizeof key, fmt, args);
    va_end(args);
    return b->find(b, 0, key, &found, shape) && found == rank && shape[0] > 0;
}

/* How a network changes resolution between levels; ONE_LEVEL: it does not. */
enum resampling { ONE_LEVEL, BY_CONVOLUTION, BY_RESBLOCK, BY_POOLING };

/* What the blocks of the checkpoint say. */
struct layout {
    int n_blocks;   /* input blocks */
    int res_blocks; /* residual blocks before the first downsampling */
    enum resampling resampling;
    int n_levels; /* 0: the blocks do not make whole levels */
    int64_t width[MAX_LEVELS];
    bool attention[MAX_LEVELS];
};

/* The number after `input_blocks.` at the start of a key, −1 for other keys. */
static int input_block(const char *key)
{
    static const char stem[] = "input_blocks.";
    if (strncmp(key, stem, sizeof stem - 1) != 0)
        return -1;
    int n = 0;
    for (key += sizeof stem - 1; *key >= '0' && *key <= '9' && n < MAX_SKIPS; key++)
        n = 10 * n + (*key - '0');
    return *key == '.' && n < MAX_SKIPS ? n : -1;
}

/* How the resolution changes and after how many blocks for the first time. A pooling has no
 * parameters, so its number is missing; a residual block that resamples has the shapes of any
 * other on the way down, but on the way up it is a second one in its block. */
static void find_resampling(demist_builder *b, struct layout *layout)
{
    int64_t shape[DEMIST_MAX_RANK];
    for (int i = 1; i < layout->n_blocks; i++)
        if (has(b, 4, shape, "input_blocks.%d.0.op.weight", i)) {
            layout->resampling = BY_CONVOLUTION;
            layout->res_blocks = i - 1;
            return;
        }
    for (int i = 0; i < layout->n_blocks; i++)
        if (has(b, 1, shape, "output_blocks.%d.1.in_layers.0.weight", i) ||
            has(b, 1, shape, "output_blocks.%d.2.in_layers.0.weight", i)) {
            layout->resampling = BY_RESBLOCK;
            layout->res_blocks = i;
            return;
        }
    for (int i = 1; i < layout->n_blocks; i++)
        if (!has(b, 1, shape, "input_blocks.%d.0.in_layers.0.weight", i)) {
            layout->resampling = BY_POOLING;
            layout->res_blocks = i - 1;
            return;
        }
    layout->resampling = ONE_LEVEL;
    layout->res_blocks = layout->n_blocks - 1;
}

/* Levels have res_blocks blocks and a downsampling each; the first convolution stands for the last
 * level's missing one. */
static void read_layout(demist_builder *b, struct layout *layout)
{
    const char *key;
    int64_t shape[DEMIST_MAX_RANK];
    *layout = (struct layout){.n_blocks = 1};
    for (int64_t i = 0; (key = b->key(b, 0, i)); i++)
        if (input_block(key) >= layout->n_blocks)
            layout->n_blocks = input_block(key) + 1;
    find_resampling(b, layout);
    int per_level = layout->res_blocks + 1;
    if (layout->res_blocks < 1 || layout->n_blocks % per_level != 0 ||
        layout->n_blocks / per_level > MAX_LEVELS)
        return;
    for (int level = 0; level < layout->n_blocks / per_level; level++) {
        int block = 1 + level * per_level;
        if (!has(b, 4, shape, "input_blocks.%d.0.out_layers.3.weight", block))
            return;
        layout->width[level] = shape[0];
        layout->attention[level] = has(b, 3, shape, "input_blocks.%d.1.qkv.weight", block);
    }
    layout->n_levels = layout->n_blocks / per_level;
}

static bool attends(const struct unet *net, int64_t rate)
{
    const demist_value *at = value(net, ATTENTION_RESOLUTIONS);
    for (size_t i = 0; i < at->count; i++)
        if (value(net, IMAGE_SIZE)->integer / at->integers[i] == rate)
            return true;
    return false;
}

/* The keys lie below a prefix, or there is no U-Net at all. */
static bool fail_unknown(demist_builder *b)
{
    static const char tail[] = ".time_embed.0.weight";
    const char *key;
    for (int64_t i = 0; (key = b->key(b, 0, i)); i++) {
        size_t length = strlen(key), n = sizeof tail - 1;
        if (length <= n || strcmp(key + length - n, tail) != 0)
            continue;
        b->fail(b, DEMIST_CONFIG,
                "unet: the checkpoint has no tensor time_embed.0.weight, but %s: add \"%.*s\" to "
                "[network] prefix",
                key, (int)(length - n), key);
        return false;
    }
    b->fail(b, DEMIST_INCOMPATIBLE,
            "unet: the checkpoint has no matrix time_embed.0.weight and convolutions "
            "input_blocks.0.0.weight and out.2.weight, so it is no U-Net of improved-diffusion or "
            "guided-diffusion, or [network] prefix is wrong; `demist inspect` lists what is in it");
    return false;
}

/* The images' channels, and whether half of the output is a variance. */
static bool check_channels(struct unet *net, demist_builder *b, int64_t in, int64_t out)
{
    bool upsampler = value(net, SMALL_SIZE)->integer > 0, learns = value(net, LEARN_SIGMA)->boolean;
    net->channels = upsampler ? in / 2 : in;
    bool super_resolution = in % 2 == 0 && (out == in / 2 || out == in);
    if (upsampler ? !super_resolution : out != in && out != 2 * in)
        b->fail(b, DEMIST_CONFIG,
                "unet: small_size = %lld, but the checkpoint takes %lld channels and makes %lld: "
                "%s",
                (long long)value(net, SMALL_SIZE)->integer, (long long)in, (long long)out,
                upsampler ? "it is no super-resolution network; set [network.unet] small_size = 0"
                          : "if it is a super-resolution network, set [network.unet] small_size");
    else if (net->channels > 1 << 16)
        b->fail(b, DEMIST_INCOMPATIBLE, "unet: input_blocks.0.0.weight has %lld input channels",
                (long long)in);
    else if (out != net->channels * (learns ? 2 : 1))
        b->fail(b, DEMIST_CONFIG,
                "unet: learn_sigma = %s, but out.2.weight makes %lld channels of %lld: set "
                "[network.unet] learn_sigma = %s",
                learns ? "true" : "false", (long long)out, (long long)net->channels,
                learns ? "false" : "true");
    return !b->failed(b);
}

/* The numbers that the outermost tensors give away. */
static bool check_ends(struct unet *net, demist_builder *b)
{
    int64_t time[DEMIST_MAX_RANK], in[DEMIST_MAX_RANK], out[DEMIST_MAX_RANK];
    int64_t channels = value(net, NUM_CHANNELS)->integer;
    if (!has(b, 2, time, "time_embed.0.weight") || !has(b, 4, in, "input_blocks.0.0.weight") ||
        !has(b, 4, out, "out.2.weight"))
        return fail_unknown(b);
    if (time[1] != channels) {
        b->fail(b, DEMIST_CONFIG,
                "unet: num_channels = %lld, but time_embed.0.weight has %lld columns: set "
                "[network.unet] num_channels = %lld",
                (long long)channels, (long long)time[1], (long long)time[1]);
        return false;
    }
    return check_channels(net, b, in[1], out[0]);
}

static bool check_classes(struct unet *net, demist_builder *b)
{
    int64_t shape[DEMIST_MAX_RANK], classes = value(net, NUM_CLASSES)->integer;
    bool labelled = has(b, 2, shape, "label_emb.weight");
    if (labelled ? shape[0] == classes : classes == 0)
        return true;
    if (labelled)
        b->fail(b, DEMIST_CONFIG,
                "unet: num_classes = %lld, but label_emb.weight has %lld rows: set [network.unet] "
                "num_classes = %lld",
                (long long)classes, (long long)shape[0], (long long)shape[0]);
    else
        b->fail(
            b, DEMIST_CONFIG,
            "unet: num_classes = %lld, but the checkpoint has no label_emb.weight, so it is not "
            "class-conditional: set [network.unet] num_classes = 0",
            (long long)classes);
    return false;
}

static bool check_norm(struct unet *net, demist_builder *b)
{
    int64_t emb[DEMIST_MAX_RANK], out[DEMIST_MAX_RANK];
    bool scales = value(net, USE_SCALE_SHIFT_NORM)->boolean;
    if (!has(b, 2, emb, "input_blocks.1.0.emb_layers.1.weight") ||
        !has(b, 4, out, "input_blocks.1.0.out_layers.3.weight") ||
        emb[0] == out[0] * (scales ? 2 : 1))
        return true;
    b->fail(b, DEMIST_CONFIG,
            "unet: use_scale_shift_norm = %s, but input_blocks.1.0.emb_layers.1.weight has %lld "
            "rows for %lld channels: set [network.unet] use_scale_shift_norm = %s",
            scales ? "true" : "false", (long long)emb[0], (long long)out[0],
            scales ? "false" : "true");
    return false;
}

static bool check_resampling(struct unet *net, demist_builder *b, const struct layout *layout)
{
    static const char *const how[][2] = {
        [BY_CONVOLUTION] = {"convolutions", "resblock_updown = false and conv_resample = true"},
        [BY_RESBLOCK] = {"residual blocks", "resblock_updown = true"},
        [BY_POOLING] = {"pooling", "resblock_updown = false and conv_resample = false"},
    };
    enum resampling asked = BY_POOLING;
    if (value(net, RESBLOCK_UPDOWN)->boolean)
        asked = BY_RESBLOCK;
    else if (value(net, CONV_RESAMPLE)->boolean)
        asked = BY_CONVOLUTION;
    if (layout->resampling == ONE_LEVEL || net->n_levels == 1 || asked == layout->resampling)
        return true;
    b->fail(b, DEMIST_CONFIG,
            "unet: the options change the resolution by %s, and the checkpoint does it by %s: set "
            "[network.unet] %s",
            how[asked][0], how[layout->resampling][0], how[layout->resampling][1]);
    return false;
}

static bool check_blocks(struct unet *net, demist_builder *b, const struct layout *layout)
{
    long long blocks = value(net, NUM_RES_BLOCKS)->integer;
    if (layout->n_levels == 0)
        b->fail(b, DEMIST_INCOMPATIBLE,
                "unet: the checkpoint's %d input blocks, %d of them before the first downsampling, "
                "do not make levels of equally many: no num_res_blocks describes them",
                layout->n_blocks, layout->res_blocks);
    else if (layout->resampling != ONE_LEVEL && layout->res_blocks != blocks)
        b->fail(b, DEMIST_CONFIG,
                "unet: num_res_blocks = %lld, but the checkpoint has %d residual blocks before its "
                "first downsampling: set [network.unet] num_res_blocks = %d",
                blocks, layout->res_blocks, layout->res_blocks);
    else if (net->n_levels == 1 && layout->n_levels == 1 && layout->res_blocks != blocks)
        b->fail(b, DEMIST_CONFIG,
                "unet: num_res_blocks = %lld, but the checkpoint's only level has %d residual "
                "blocks: set [network.unet] num_res_blocks = %d",
                blocks, layout->res_blocks, layout->res_blocks);
    return !b->failed(b);
}

/* Appends width/unit without the locale's ideas; rounded up, so that the product gives width. */
static void append_ratio(char *text, size_t size, int64_t width, int64_t unit)
{
    size_t n = strlen(text);
    int64_t millionths = (width % unit * 1000000 + unit - 1) / unit;
    snprintf(text + n, size - n, "%s%lld", n ? "," : "", (long long)(width / unit));
    if (millionths == 0)
        return;
    n = strlen(text);
    snprintf(text + n, size - n, ".%06lld", (long long)millionths);
    for (n = strlen(text); text[n - 1] == '0'; n--)
        text[n - 1] = 0;
}

static bool check_levels(struct unet *net, demist_builder *b, const struct layout *layout)
{
    bool same = net->n_levels == layout->n_levels;
    for (int i = 0; same && i < net->n_levels; i++)
        same = level_channels(net, i) == layout->width[i];
    if (same)
        return true;
    int64_t unit = value(net, NUM_CHANNELS)->integer;
    bool automatic = value(net, CHANNEL_MULT)->is_auto;
    char asked[320] = "", found[320] = "";
    for (int i = 0; i < net->n_levels; i++)
        append_ratio(asked, sizeof asked, level_channels(net, i), unit);
    for (int i = 0; i < layout->n_levels; i++)
        append_ratio(found, sizeof found, layout->width[i], unit);
    b->fail(b, DEMIST_CONFIG,
            "unet: channel_mult = %s%s, but the checkpoint's levels have %s times num_channels: "
            "set [network.unet] channel_mult = %s%s",
            asked, automatic ? " (auto, from image_size)" : "", found, found,
            automatic ? ", or image_size, if it is wrong" : "");
    return false;
}

static bool check_attention(struct unet *net, demist_builder *b, const struct layout *layout)
{
    int64_t size = value(net, IMAGE_SIZE)->integer, wrong = 0;
    bool missing = false;
    char found[160] = "";
    for (int level = 0; level < layout->n_levels; level++) {
        int64_t resolution = size >> level;
        if (attends(net, (int64_t)1 << level) != layout->attention[level] && wrong == 0) {
            wrong = resolution;
            missing = layout->attention[level];
        }
        size_t n = strlen(found);
        if (layout->attention[level])
            snprintf(found + n, sizeof found - n, "%s%lld", n ? "," : "", (long long)resolution);
    }
    if (wrong == 0)
        return true;
    b->fail(b, DEMIST_CONFIG,
            "unet: attention_resolutions %s %lld, and the checkpoint has %sattention there, if "
            "image_size = %lld is right: set [network.unet] attention_resolutions = %s%s",
            missing ? "leaves out" : "names", (long long)wrong, missing ? "" : "no ",
            (long long)size, found[0] ? found : "1", found[0] ? "" : ", which no level has");
    return false;
}

/* The first option that the shapes contradict is named. */
static bool check_checkpoint(struct unet *net, demist_builder *b)
{
    struct layout layout;
    if (!check_ends(net, b) || !check_classes(net, b) || !check_norm(net, b))
        return false;
    read_layout(b, &layout);
    return check_resampling(net, b, &layout) && check_blocks(net, b, &layout) &&
           check_levels(net, b, &layout) && check_attention(net, b, &layout);
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
    if (per_head > 0 && channels % per_head != 0)
        return b->fail(b, DEMIST_CONFIG,
                       "unet: %s: %lld channels cannot be split into heads of %lld: change "
                       "[network.unet] num_head_channels",
                       path, (long long)channels, (long long)per_head);
    if (per_head > 0)
        heads = channels / per_head;
    if (channels % heads != 0)
        return b->fail(b, DEMIST_CONFIG,
                       "unet: %s: %lld channels cannot be split into %lld heads: change "
                       "[network.unet] num_heads%s",
                       path, (long long)channels, (long long)heads,
                       upwards ? " or num_heads_upsample" : "");
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

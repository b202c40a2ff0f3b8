/* Network `context-unet`: the small U-Net of a well-known diffusion course, which mixes context
 * and time into its decoder.
 *
 * Its first residual block has other input than output channels, and the course's code then makes
 * a new random 1×1 convolution on every forward pass, which no checkpoint holds. `shortcut` says
 * what stands in its place: nothing (zero), given weights (fixed), or fresh ones drawn from the
 * keyed generator on every call (random). The sum is divided by 1.414, not by √2. */
#include <demist/network.h>
#include <demist/random.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_FEAT, N_CFEAT, HEIGHT, SHORTCUT, SHORTCUT_FILE };
enum { ZERO, FIXED, RANDOM };

static const char *const shortcuts[] = {"zero", "fixed", "random", NULL};
static const demist_option n_feat = {
    .size = sizeof(demist_option),
    .key = "n_feat",
    .doc = "channels of the first level; auto: from the checkpoint",
    .type = DEMIST_OPTION_INT,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
    .has_range = true,
    .min = 8,
    .max = 1 << 16,
};
static const demist_option n_cfeat = {
    .size = sizeof(demist_option),
    .key = "n_cfeat",
    .doc = "length of a context vector; auto: from the checkpoint",
    .type = DEMIST_OPTION_INT,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
    .has_range = true,
    .min = 1,
    .max = 1 << 16,
};
static const demist_option height = {
    .size = sizeof(demist_option),
    .key = "height",
    .doc = "rows and columns of an image: 16, 20, 24 or 28; auto: from the checkpoint",
    .type = DEMIST_OPTION_INT,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
    .has_range = true,
    .min = 16,
    .max = 28,
};
static const demist_option shortcut = {
    .size = sizeof(demist_option),
    .key = "shortcut",
    .doc = "the first block's 1x1 shortcut, absent from checkpoints: none, given, or random",
    .type = DEMIST_OPTION_ENUM,
    .default_value = "zero",
    .choices = shortcuts,
};
static const demist_option shortcut_file = {
    .size = sizeof(demist_option),
    .key = "shortcut_file",
    .doc = "shortcut = fixed: a checkpoint with shortcut.weight and shortcut.bias",
    .type = DEMIST_OPTION_PATH,
};
static const demist_option *const options[] = {&n_feat,   &n_cfeat,       &height,
                                               &shortcut, &shortcut_file, NULL};

struct context_unet {
    const demist_host *host;
    const demist_value *n_feat, *n_cfeat, *height, *shortcut_file;
    int shortcut;
    int64_t channels, feat, cfeat, size; /* what describe and build found */
};

/* Builder and network: the state of one build. */
struct scope {
    demist_builder *b;
    const struct context_unet *net;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    int kind = (int)values[SHORTCUT]->integer;
    bool has_file = values[SHORTCUT_FILE]->text && values[SHORTCUT_FILE]->text[0];
    if (kind == FIXED && !has_file)
        return host->fail(
            host, DEMIST_CONFIG,
            "[network.context-unet] shortcut = fixed needs shortcut_file, a checkpoint "
            "with shortcut.weight and shortcut.bias");
    struct context_unet *s = host->alloc(host, sizeof *s, 0);
    if (!s)
        return DEMIST_NO_MEMORY;
    *s = (struct context_unet){.host = host,
                               .n_feat = values[N_FEAT],
                               .n_cfeat = values[N_CFEAT],
                               .height = values[HEIGHT],
                               .shortcut_file = values[SHORTCUT_FILE],
                               .shortcut = kind};
    *self = s;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct context_unet *s = self;
    if (s)
        s->host->free(s->host, s);
}

/* The option, or dimension `axis` of a tensor of the checkpoint. */
static int64_t derive(demist_builder *b, const demist_value *option, const char *name,
                      const char *key, int32_t axis)
{
    int32_t rank;
    int64_t shape[DEMIST_MAX_RANK];
    if (option && !option->is_auto)
        return option->integer;
    if (b->find(b, 0, key, &rank, shape) && axis < rank && shape[axis] > 0)
        return shape[axis];
    b->fail(b, DEMIST_INCOMPATIBLE,
            "context-unet: %s cannot be derived, because the checkpoint has no tensor %s with a "
            "dimension %d: is it a ContextUnet's? `demist inspect` lists what is in it",
            name, key, (int)axis);
    return 0;
}

static bool find_sizes(struct context_unet *s, demist_builder *b)
{
    s->channels = derive(b, NULL, "the number of channels", "init_conv.conv1.0.weight", 1);
    s->feat = derive(b, s->n_feat, "n_feat", "init_conv.conv1.0.weight", 0);
    s->cfeat = derive(b, s->n_cfeat, "n_cfeat", "contextembed1.model.0.weight", 1);
    s->size = derive(b, s->height->is_auto ? NULL : s->height, "height", "up0.0.weight", 2);
    if (s->height->is_auto)
        s->size *= 4; /* up0's kernel is height/4 */
    if (b->failed(b))
        return false;
    if (s->size % 4 != 0 || s->size < 16 || s->size > 28) {
        b->fail(b, DEMIST_CONFIG,
                "context-unet: height = %lld; only 16, 20, 24 and 28 leave one pixel after two "
                "poolings by 2 and one by 4",
                (long long)s->size);
        return false;
    }
    if (s->feat % 8 != 0 || s->feat > 1 << 16 || s->cfeat > 1 << 16 || s->channels > 1 << 16) {
        b->fail(b, DEMIST_CONFIG,
                "context-unet: n_feat = %lld, n_cfeat = %lld, %lld channels: n_feat must be a "
                "multiple of 8, for GroupNorm with 8 groups",
                (long long)s->feat, (long long)s->cfeat, (long long)s->channels);
        return false;
    }
    return true;
}

static demist_status describe(void *self, demist_builder *b, demist_network_info *info)
{
    struct context_unet *s = self;
    if (!find_sizes(s, b))
        return DEMIST_INCOMPATIBLE;
    info->prediction = DEMIST_PREDICT_EPS;
    info->time = DEMIST_TIME_INDEX_OVER_T;
    info->fractional_times = true;
    info->rank = 3;
    info->shape[0] = s->channels;
    info->shape[1] = info->shape[2] = s->size;
    info->clip_low = -1;
    info->clip_high = 1;
    info->null_class = -1;
    info->context_size = s->cfeat;
    info->null_context = true;
    return DEMIST_OK;
}

/* The parameter PATH.NAME of the network's checkpoint. */
static const demist_node *param(struct scope *s, const char *path, const char *name, int32_t rank,
                                const int64_t *shape)
{
    char key[256];
    snprintf(key, sizeof key, "%s.%s", path, name);
    return s->b->param(s->b, 0, key, rank, shape);
}

static const demist_node *vector(struct scope *s, const char *path, const char *name, int64_t n)
{
    return param(s, path, name, 1, &n);
}

static const demist_node *conv3x3(struct scope *s, const char *path, const demist_node *x,
                                  int64_t in, int64_t out)
{
    return demist_conv2d(s->b, x, param(s, path, "weight", 4, (int64_t[]){out, in, 3, 3}),
                         vector(s, path, "bias", out), 1, 1);
}

/* Conv 3×3, BatchNorm, GELU: PATH.0 and PATH.1 */
static const demist_node *conv_block(struct scope *s, const char *path, const demist_node *x,
                                     int64_t in, int64_t out)
{
    char conv[160], norm[160];
    snprintf(conv, sizeof conv, "%s.0", path);
    snprintf(norm, sizeof norm, "%s.1", path);
    x = conv3x3(s, conv, x, in, out);
    x = demist_batch_norm(s->b, x, vector(s, norm, "weight", out), vector(s, norm, "bias", out),
                          vector(s, norm, "running_mean", out), vector(s, norm, "running_var", out),
                          1e-5f);
    return demist_unary(s->b, DEMIST_OP_GELU, x);
}

/* Two conv blocks: PATH.conv1 and PATH.conv2 */
static const demist_node *double_conv(struct scope *s, const char *path, const demist_node *x,
                                      int64_t in, int64_t out)
{
    char block[128];
    snprintf(block, sizeof block, "%s.conv1", path);
    x = conv_block(s, block, x, in, out);
    snprintf(block, sizeof block, "%s.conv2", path);
    return conv_block(s, block, x, out, out);
}

/* The 1×1 convolution on the input that the checkpoint lacks; NULL when there is none. */
static const demist_node *input_shortcut(struct scope *s, const demist_node *x)
{
    demist_builder *b = s->b;
    int64_t in = s->net->channels, out = s->net->feat, shape[4] = {out, in, 1, 1};
    if (s->net->shortcut == ZERO)
        return NULL;
    if (s->net->shortcut == FIXED) {
        int32_t source = b->source(b, s->net->shortcut_file->text, "");
        b->ignore(b, source, "*"); /* the file may hold a whole test case */
        return demist_conv2d(b, x, b->param(b, source, "shortcut.weight", 4, shape),
                             b->param(b, source, "shortcut.bias", 1, shape), 1, 0);
    }
    /* As torch.nn.Conv2d starts: U(±1/√C_in) for both. Row o of one draw holds the weights of
     * output channel o and then its bias. */
    demist_attrs attrs = demist_no_attrs();
    attrs.philox.purpose = DEMIST_NOISE_NETWORK;
    attrs.philox.seed_slot = b->scalar_slot(b, "seed");
    attrs.philox.draw_slot = b->scalar_slot(b, "draw");
    attrs.philox.image_slot = b->scalar_slot(b, "image");
    attrs.philox.hi = (float)(1 / sqrt((double)in));
    attrs.philox.lo = -attrs.philox.hi;
    const demist_node *drawn =
        b->op(b, DEMIST_OP_PHILOX_UNIFORM, 0, NULL, &attrs, 2, (int64_t[]){out, in + 1});
    const demist_node *weight = demist_reshape(b, demist_slice(b, drawn, 1, 0, in), 4, shape);
    const demist_node *bias = demist_reshape(b, demist_slice(b, drawn, 1, in, 1), 1, shape);
    return demist_conv2d(b, x, weight, bias, 1, 0);
}

/* ([shortcut +] conv2)/1.414 */
static const demist_node *initial_block(struct scope *s, const demist_node *x)
{
    const demist_node *across = input_shortcut(s, x);
    const demist_node *h = double_conv(s, "init_conv", x, s->net->channels, s->net->feat);
    if (across)
        h = demist_add(s->b, across, h);
    return demist_affine(s->b, h, (float)(1 / 1.414), 0);
}

/* Two double convolutions and a pooling by 2 */
static const demist_node *down(struct scope *s, const char *path, const demist_node *x, int64_t in,
                               int64_t out)
{
    char block[96];
    snprintf(block, sizeof block, "%s.model.0", path);
    x = double_conv(s, block, x, in, out);
    snprintf(block, sizeof block, "%s.model.1", path);
    x = double_conv(s, block, x, out, out);
    return demist_pool2d(s->b, DEMIST_OP_MAX_POOL2D, x, 2);
}

/* cat(x, skip), transposed convolution by 2, two double convolutions */
static const demist_node *up(struct scope *s, const char *path, const demist_node *x,
                             const demist_node *skip, int64_t in, int64_t out)
{
    char block[96];
    x = demist_concat(s->b, 1, 2, (const demist_node *[]){x, skip});
    snprintf(block, sizeof block, "%s.model.0", path);
    x = demist_conv_transpose2d(s->b, x, param(s, block, "weight", 4, (int64_t[]){in, out, 2, 2}),
                                vector(s, block, "bias", out), 2, 0);
    for (int i = 1; i <= 2; i++) {
        snprintf(block, sizeof block, "%s.model.%d", path, i);
        x = double_conv(s, block, x, out, out);
    }
    return x;
}

/* Linear, GELU, Linear -> [N, out, 1, 1] */
static const demist_node *embed(struct scope *s, const char *path, const demist_node *v, int64_t in,
                                int64_t out)
{
    char layer[96];
    snprintf(layer, sizeof layer, "%s.model.0", path);
    v = demist_linear(s->b, v, param(s, layer, "weight", 2, (int64_t[]){out, in}),
                      vector(s, layer, "bias", out));
    v = demist_unary(s->b, DEMIST_OP_GELU, v);
    snprintf(layer, sizeof layer, "%s.model.2", path);
    v = demist_linear(s->b, v, param(s, layer, "weight", 2, (int64_t[]){out, out}),
                      vector(s, layer, "bias", out));
    return demist_reshape(s->b, v, 4, (int64_t[]){DEMIST_BATCH, out, 1, 1});
}

static const demist_node *norm_relu(struct scope *s, const char *path, const demist_node *x,
                                    int64_t channels)
{
    x = demist_group_norm(s->b, x, vector(s, path, "weight", channels),
                          vector(s, path, "bias", channels), 8, 1e-5f);
    return demist_unary(s->b, DEMIST_OP_RELU, x);
}

/* c·u + t: how context and time enter a level of the decoder */
static const demist_node *modulate(struct scope *s, const demist_node *u, const demist_node *c,
                                   const demist_node *t)
{
    return demist_add(s->b, demist_mul(s->b, c, u), t);
}

static demist_status build(void *self, demist_builder *b, const char *graph)
{
    struct context_unet *net = self;
    if (strcmp(graph, "denoise") != 0)
        return DEMIST_NOT_FOUND;
    if (!find_sizes(net, b))
        return DEMIST_INCOMPATIBLE;
    struct scope scope = {b, net}, *s = &scope;
    int64_t n = net->feat, size = net->size, quarter = size / 4;
    b->ignore(b, 0, "*.num_batches_tracked");

    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 4,
                                    (int64_t[]){DEMIST_BATCH, net->channels, size, size});
    const demist_node *t =
        b->input(b, "t", DEMIST_ROLE_TIME, DEMIST_F32, 1, (int64_t[]){DEMIST_BATCH});
    const demist_node *c =
        b->input(b, "c", DEMIST_ROLE_CONTEXT, DEMIST_F32, 2, (int64_t[]){DEMIST_BATCH, net->cfeat});
    t = demist_reshape(b, t, 2, (int64_t[]){DEMIST_BATCH, 1});

    const demist_node *first = initial_block(s, x);               /* [N, n, h, h] */
    const demist_node *down1 = down(s, "down1", first, n, n);     /* [N, n, h/2, h/2] */
    const demist_node *down2 = down(s, "down2", down1, n, 2 * n); /* [N, 2n, h/4, h/4] */
    const demist_node *hidden = demist_pool2d(b, DEMIST_OP_AVG_POOL2D, down2, 4);
    hidden = demist_unary(b, DEMIST_OP_GELU, hidden); /* [N, 2n, 1, 1] */

    const demist_node *c1 = embed(s, "contextembed1", c, net->cfeat, 2 * n);
    const demist_node *t1 = embed(s, "timeembed1", t, 1, 2 * n);
    const demist_node *c2 = embed(s, "contextembed2", c, net->cfeat, n);
    const demist_node *t2 = embed(s, "timeembed2", t, 1, n);

    const demist_node *u0 = demist_conv_transpose2d(
        b, hidden, param(s, "up0.0", "weight", 4, (int64_t[]){2 * n, 2 * n, quarter, quarter}),
        vector(s, "up0.0", "bias", 2 * n), (int32_t)quarter, 0);
    u0 = norm_relu(s, "up0.1", u0, 2 * n);
    const demist_node *u1 = up(s, "up1", modulate(s, u0, c1, t1), down2, 4 * n, n);
    const demist_node *u2 = up(s, "up2", modulate(s, u1, c2, t2), down1, 2 * n, n);

    const demist_node *h = demist_concat(b, 1, 2, (const demist_node *[]){u2, first});
    h = norm_relu(s, "out.1", conv3x3(s, "out.0", h, 2 * n, n), n);
    b->output(b, "out", conv3x3(s, "out.3", h, n, net->channels));
    return DEMIST_OK;
}

static const demist_network_vtable vtable = {
    .size = sizeof vtable,
    .create = create,
    .destroy = destroy,
    .describe = describe,
    .build = build,
};
static const demist_class context_unet = {
    .size = sizeof context_unet,
    .kind = DEMIST_NETWORK,
    .name = "context-unet",
    .doc = "a small U-Net with context and time in its decoder, for 16x16 to 28x28 images",
    .options = options,
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&context_unet, NULL};

DEMIST_PLUGIN(network_context_unet) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "demist.network-context-unet",
    .version = "0.1.0",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

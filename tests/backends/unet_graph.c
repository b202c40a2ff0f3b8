/* See unet_graph.h. */
#include "testing.h"

#include "unet_graph.h"

#include <math.h>

const struct unet_shape unet_cifar = {32, 128, 3, {1, 2, 2, 2}, 4, 16 | 8, 4, 6};

/* Owned weights, in a list. */
struct weight {
    struct weight *next;
    _Alignas(64) float data[];
};

struct unet {
    const struct unet_shape *s;
    struct dm_graph *graph;
    demist_builder *b;
    struct weight *weights;
    uint64_t random;
};

typedef const demist_node *value;

/* Uniform in [-1, 1). */
static float next(struct unet *u)
{
    u->random = u->random * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(u->random >> 32) * 0x1p-31f;
}

/* offset + scale·uniform */
static value param(struct unet *u, const char *name, int rank, const int64_t *shape, double scale,
                   float offset)
{
    int64_t n = 1;
    demist_node node = DEMIST_INIT(demist_node);
    for (int i = 0; i < rank; i++)
        n *= node.shape[i] = shape[i];
    struct weight *w = aligned_alloc(64, (sizeof *w + (size_t)n * 4 + 63) / 64 * 64);
    assert_non_null(w);
    w->next = u->weights;
    u->weights = w;
    for (int64_t i = 0; i < n; i++)
        w->data[i] = offset + (float)scale * next(u);
    node.op = DEMIST_OP_PARAM;
    node.name = name;
    node.dtype = DEMIST_F32;
    node.rank = rank;
    node.data = w->data;
    return dm_graph_append(u->graph, &node);
}

static value named(struct unet *u, const char *at, const char *what, int rank, const int64_t *shape,
                   double scale, float offset)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", at, what);
    return param(u, name, rank, shape, scale, offset);
}

static value conv(struct unet *u, const char *at, value x, int out, int kernel, int stride)
{
    const int64_t in = x->shape[1], shape[4] = {out, in, kernel, kernel}, n = out;
    const double scale = sqrt(3.0 / (double)(in * kernel * kernel));
    value w = named(u, at, "weight", 4, shape, scale, 0), b = named(u, at, "bias", 1, &n, 0.05, 0);
    return demist_conv2d(u->b, x, w, b, stride, kernel / 2);
}

static value linear(struct unet *u, const char *at, value x, int out)
{
    const int64_t in = x->shape[1], shape[2] = {out, in}, n = out;
    value w = named(u, at, "weight", 2, shape, sqrt(3.0 / (double)in), 0);
    return demist_linear(u->b, x, w, named(u, at, "bias", 1, &n, 0.05, 0));
}

static value norm(struct unet *u, const char *at, value x)
{
    const int64_t c = x->shape[1];
    value gamma = named(u, at, "weight", 1, &c, 0.2, 1), beta = named(u, at, "bias", 1, &c, 0.1, 0);
    return demist_group_norm(u->b, x, gamma, beta, 32, 1e-5f);
}

static value silu(struct unet *u, value x)
{
    return demist_unary(u->b, DEMIST_OP_SILU, x);
}

static const char *join(char *to, const char *at, const char *what)
{
    snprintf(to, 96, "%s.%s", at, what);
    return to;
}

static value residual(struct unet *u, const char *at, value x, value emb, int out)
{
    char name[96];
    const int64_t spread[4] = {DEMIST_BATCH, out, 1, 1};
    value h = silu(u, norm(u, join(name, at, "in_layers.0"), x));
    h = conv(u, join(name, at, "in_layers.2"), h, out, 3, 1);
    value e = linear(u, join(name, at, "emb_layers.1"), silu(u, emb), 2 * out);
    value scale = demist_reshape(u->b, demist_slice(u->b, e, 1, 0, out), 4, spread);
    value shift = demist_reshape(u->b, demist_slice(u->b, e, 1, out, out), 4, spread);
    h = norm(u, join(name, at, "out_layers.0"), h);
    h = demist_add(u->b, demist_mul(u->b, h, demist_affine(u->b, scale, 1, 1)), shift);
    h = conv(u, join(name, at, "out_layers.3"), silu(u, h), out, 3, 1);
    if (x->shape[1] != out)
        x = conv(u, join(name, at, "skip_connection"), x, out, 1, 1);
    return demist_add(u->b, x, h);
}

static value attention(struct unet *u, const char *at, value x)
{
    char name[96];
    const int64_t c = x->shape[1], side = x->shape[2], ch = c / u->s->heads;
    const int64_t split[4] = {DEMIST_BATCH, u->s->heads, 3 * ch, side * side};
    const int64_t image[4] = {DEMIST_BATCH, c, side, side};
    value h = norm(u, join(name, at, "norm"), x), part[3];
    h = demist_reshape(u->b, conv(u, join(name, at, "qkv"), h, (int)(3 * c), 1, 1), 4, split);
    for (int i = 0; i < 3; i++)
        part[i] = demist_slice(u->b, h, 2, i * ch, ch);
    h = demist_attention(u->b, part[0], part[1], part[2], 1 / sqrtf((float)ch));
    h = demist_reshape(u->b, h, 4, image);
    return demist_add(u->b, x, conv(u, join(name, at, "proj_out"), h, (int)c, 1, 1));
}

static value block(struct unet *u, const char *at, value h, value emb, int out)
{
    char name[96];
    h = residual(u, join(name, at, "0"), h, emb, out);
    if (u->s->attention & (unsigned)h->shape[2])
        h = attention(u, join(name, at, "1"), h);
    return h;
}

static value time_embedding(struct unet *u, value t)
{
    enum { MOST = 512 };
    const int dim = u->s->channels, half = dim / 2;
    float frequencies[MOST];
    const int64_t column[2] = {DEMIST_BATCH, 1}, row[2] = {1, half};
    for (int i = 0; i < half; i++)
        frequencies[i] = (float)exp(-log(10000) * i / half);
    value f = u->b->constant(u->b, DEMIST_F32, 2, row, frequencies);
    value angle = demist_mul(u->b, demist_reshape(u->b, t, 2, column), f);
    value both[2] = {demist_unary(u->b, DEMIST_OP_COS, angle),
                     demist_unary(u->b, DEMIST_OP_SIN, angle)};
    value h = linear(u, "time_embed.0", demist_concat(u->b, 1, 2, both), 4 * dim);
    return linear(u, "time_embed.2", silu(u, h), 4 * dim);
}

static value up_path(struct unet *u, value h, value emb, value *skips, int n_skips)
{
    const struct unet_shape *s = u->s;
    int index = 0;
    for (int level = s->levels - 1; level >= 0; level--)
        for (int i = 0; i <= s->blocks; i++, index++) {
            char at[64], name[96];
            snprintf(at, sizeof at, "output_blocks.%d", index);
            value both[2] = {h, skips[--n_skips]};
            h = block(u, at, demist_concat(u->b, 1, 2, both), emb, s->channels * s->mult[level]);
            if (level > 0 && i == s->blocks)
                h = conv(u, join(name, at, "2.conv"), demist_upsample_nearest(u->b, h, 2),
                         (int)h->shape[1], 3, 1);
        }
    return h;
}

static value build(struct unet *u, value x, value t)
{
    const struct unet_shape *s = u->s;
    value emb = time_embedding(u, t), skips[64];
    int n = 0;
    char at[64];
    value h = skips[n++] = conv(u, "input_blocks.0.0", x, s->channels, 3, 1);
    for (int level = 0; level < s->levels; level++) {
        for (int i = 0; i < s->blocks; i++) {
            snprintf(at, sizeof at, "input_blocks.%d", n);
            h = skips[n++] = block(u, at, h, emb, s->channels * s->mult[level]);
        }
        if (level + 1 < s->levels) {
            snprintf(at, sizeof at, "input_blocks.%d.0.op", n);
            h = skips[n++] = conv(u, at, h, (int)h->shape[1], 3, 2);
        }
    }
    h = residual(u, "middle_block.0", h, emb, (int)h->shape[1]);
    h = attention(u, "middle_block.1", h);
    h = residual(u, "middle_block.2", h, emb, (int)h->shape[1]);
    h = up_path(u, h, emb, skips, n);
    return conv(u, "out.2", silu(u, norm(u, "out.0", h)), s->out_channels, 3, 1);
}

struct dm_graph *unet_graph(const struct unet_shape *shape, void **weights)
{
    struct dm_error err = DM_ERROR_INIT;
    struct unet u = {.s = shape, .random = 1};
    const int64_t image[4] = {DEMIST_BATCH, 3, shape->image, shape->image};
    const int64_t times[1] = {DEMIST_BATCH};
    if (dm_graph_create("denoise", NULL, &u.graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    u.b = dm_graph_builder(u.graph);
    value x = u.b->input(u.b, "x", DEMIST_ROLE_X, DEMIST_F32, 4, image);
    value t = u.b->input(u.b, "t", DEMIST_ROLE_TIME, DEMIST_F32, 1, times);
    u.b->output(u.b, "out", build(&u, x, t));
    if (dm_graph_finish(u.graph, &err) != DEMIST_OK)
        fail_msg("%s", err.text);
    *weights = u.weights;
    return u.graph;
}

void unet_release(void *weights)
{
    for (struct weight *w = weights, *following; w; w = following) {
        following = w->next;
        free(w);
    }
}

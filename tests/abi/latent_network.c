#include "latent_network.h"

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    static char none;
    *self = &none;
    return DEMIST_OK;
}

static void destroy(void *self)
{
}

static demist_status describe(void *self, demist_builder *b, demist_network_info *info)
{
    info->prediction = DEMIST_PREDICT_EPS;
    info->time = DEMIST_TIME_INDEX;
    info->rank = 1;
    info->shape[0] = LATENT_SIZE;
    info->context_size = LATENT_CONTEXT;
    return DEMIST_OK;
}

/* tokens [N,3] -> context [N,4]: the mean of their embeddings */
static void build_condition(demist_builder *b)
{
    const demist_node *tokens = b->input(b, "tokens", DEMIST_ROLE_TOKENS, DEMIST_I32, 2,
                                         (const int64_t[]){DEMIST_BATCH, LATENT_TOKENS});
    const demist_node *table =
        b->param(b, 0, "text.weight", 2, (const int64_t[]){LATENT_VOCABULARY, LATENT_CONTEXT});
    const demist_node *embedded = demist_binary(b, DEMIST_OP_EMBEDDING, table, tokens);
    demist_attrs attrs = demist_no_attrs();
    attrs.reduce.axes = 1u << 1;
    const demist_node *mean = b->op(b, DEMIST_OP_MEAN, 1, &embedded, &attrs, 0, NULL);
    b->output(b, "context",
              demist_reshape(b, mean, 2, (const int64_t[]){DEMIST_BATCH, LATENT_CONTEXT}));
}

/* x [N,5], t [N], context [N,4] -> out [N,5] */
static void build_denoise(demist_builder *b)
{
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2,
                                    (const int64_t[]){DEMIST_BATCH, LATENT_SIZE});
    const demist_node *t =
        b->input(b, "t", DEMIST_ROLE_TIME, DEMIST_F32, 1, (const int64_t[]){DEMIST_BATCH});
    const demist_node *context = b->input(b, "context", DEMIST_ROLE_CONTEXT, DEMIST_F32, 2,
                                          (const int64_t[]){DEMIST_BATCH, LATENT_CONTEXT});
    const demist_node *column = demist_reshape(b, t, 2, (const int64_t[]){DEMIST_BATCH, 1});
    const demist_node *all =
        demist_concat(b, 1, 3, (const demist_node *const[]){x, context, column});
    const int64_t shape[] = {LATENT_SIZE, LATENT_SIZE + LATENT_CONTEXT + 1};
    const demist_node *w = b->param(b, 0, "unet.weight", 2, shape);
    const demist_node *bias = b->param(b, 0, "unet.bias", 1, shape);
    b->output(b, "out", demist_linear(b, all, w, bias));
}

/* x [N,5] -> image [N,3,2,2] */
static void build_decode(demist_builder *b)
{
    const demist_node *x = b->input(b, "x", DEMIST_ROLE_X, DEMIST_F32, 2,
                                    (const int64_t[]){DEMIST_BATCH, LATENT_SIZE});
    const demist_node *w =
        b->param(b, 0, "vae.weight", 2, (const int64_t[]){LATENT_PIXELS, LATENT_SIZE});
    const demist_node *flat = demist_unary(b, DEMIST_OP_TANH, demist_linear(b, x, w, NULL));
    const int64_t shape[] = {DEMIST_BATCH, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE};
    b->output(b, "image", demist_reshape(b, flat, 4, shape));
}

static demist_status build(void *self, demist_builder *b, const char *graph)
{
    if (strcmp(graph, "condition") == 0)
        build_condition(b);
    else if (strcmp(graph, "denoise") == 0)
        build_denoise(b);
    else if (strcmp(graph, "decode") == 0)
        build_decode(b);
    else
        return DEMIST_NOT_FOUND;
    return DEMIST_OK;
}

const demist_network_vtable latent_vtable = {
    .size = sizeof latent_vtable,
    .create = create,
    .destroy = destroy,
    .describe = describe,
    .build = build,
};

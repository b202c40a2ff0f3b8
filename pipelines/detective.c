#include "detective.h"

#include "inifile.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- the finding */

void dm_finding_finish(struct dm_finding *finding)
{
    dm_arena_finish(&finding->arena);
    *finding = (struct dm_finding){0};
}

/* Its number, or that of the one to come. */
static int find_setting(const struct dm_finding *f, const char *section, const char *key)
{
    int i = 0;
    while (i < f->n_settings &&
           (strcmp(f->settings[i].section, section) != 0 || strcmp(f->settings[i].key, key) != 0))
        i++;
    return i;
}

const char *dm_finding_get(const struct dm_finding *finding, const char *section, const char *key)
{
    int i = find_setting(finding, section, key);
    return i < finding->n_settings ? finding->settings[i].value : NULL;
}

bool dm_finding_set(struct dm_finding *f, const char *section, const char *key, const char *value,
                    enum dm_setting_origin origin, const char *comment)
{
    int i = find_setting(f, section, key);
    if (i == DM_MAX_SETTINGS || !value)
        return false;
    struct dm_setting setting = {
        .section = dm_arena_strdup(&f->arena, section),
        .key = dm_arena_strdup(&f->arena, key),
        .value = dm_arena_strdup(&f->arena, value),
        .origin = origin,
        .comment = comment ? dm_arena_strdup(&f->arena, comment) : NULL,
    };
    if (!setting.section || !setting.key || !setting.value || (comment && !setting.comment))
        return false;
    f->settings[i] = setting;
    f->n_settings += i == f->n_settings;
    return true;
}

void dm_finding_drop(struct dm_finding *f, const char *section)
{
    int n = 0;
    for (int i = 0; i < f->n_settings; i++)
        if (strcmp(f->settings[i].section, section) != 0)
            f->settings[n++] = f->settings[i];
    f->n_settings = n;
}

/* One examination. The first failure to store a setting is remembered. */
struct examination {
    const struct dm_checkpoint *ckpt;
    const char *path;
    struct dm_finding *f;
    char stem[400]; /* the prefix with its dot */
    bool failed;
};

static void set(struct examination *e, const char *section, const char *key,
                enum dm_setting_origin origin, const char *value, const char *comment)
{
    e->failed = !dm_finding_set(e->f, section, key, value, origin, comment) || e->failed;
}

static void set_number(struct examination *e, const char *section, const char *key,
                       enum dm_setting_origin origin, int64_t value, const char *comment)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    set(e, section, key, origin, text, comment);
}

static void set_bool(struct examination *e, const char *key, enum dm_setting_origin origin,
                     bool value, const char *comment)
{
    set(e, "network.unet", key, origin, value ? "true" : "false", comment);
}

/* The tensor below the prefix, of that rank and not empty; NULL else. */
static const struct dm_tensor_view *find(const struct examination *e, int rank, const char *fmt,
                                         ...) DM_PRINTF(3, 4);
static const struct dm_tensor_view *find(const struct examination *e, int rank, const char *fmt,
                                         ...)
{
    char key[640];
    size_t n = (size_t)snprintf(key, sizeof key, "%s", e->stem);
    va_list args;
    va_start(args, fmt);
    vsnprintf(key + n, sizeof key - n, fmt, args);
    va_end(args);
    const struct dm_tensor_view *view = dm_checkpoint_find(e->ckpt, key);
    return view && view->rank == rank && dm_tensor_elements(view) > 0 ? view : NULL;
}

/* Whether any key below the prefix contains the text. */
static bool any_key(const struct examination *e, const char *text)
{
    size_t n = strlen(e->stem);
    for (size_t i = 0; i < dm_checkpoint_count(e->ckpt); i++) {
        const char *name = dm_checkpoint_at(e->ckpt, i)->name;
        if (strncmp(name, e->stem, n) == 0 && strstr(name + n, text))
            return true;
    }
    return false;
}

/* ---------------------------------------------------------------- what is common */

static void set_schedule(struct examination *e, const char *use, int64_t steps, bool literal,
                         const char *indexing, const char *comment)
{
    set(e, "schedule", "use", DM_ASSUMED, use, comment);
    set_number(e, "schedule", "steps", DM_ASSUMED, steps,
               "T, the steps of training; shapes do not reveal it. Common: 1000, 4000 "
               "(improved-diffusion's cosine models), 500 (the course's), 100.");
    if (literal) {
        set(e, "schedule.linear", "beta_start", DM_ASSUMED, "0.0001",
            "As given here, not scaled by 1000/T; without both lines they are scaled.");
        set(e, "schedule.linear", "beta_end", DM_ASSUMED, "0.02", NULL);
    }
    if (indexing)
        set(e, "schedule.linear", "indexing", DM_ASSUMED, indexing,
            "one: timesteps are 1 ... T, as in the course's code; zero: 0 ... T-1.");
}

static void set_run(struct examination *e)
{
    const struct dm_finding *f = e->f;
    bool points = f->rank == 1;
    set(e, "sampler", "use", DM_CHOSEN, "ddim",
        f->learn_sigma ? "Few steps, no noise. ddpm and learned-sigma, which uses the variance "
                         "that this network learned, want more steps."
                       : "Few steps, no noise. ddpm wants more steps.");
    set(e, "sample", "steps", DM_CHOSEN, "50",
        "How many of the T timesteps are visited; empty: all.");
    set(e, "sample", "images", DM_CHOSEN, points ? "1000" : "16", NULL);
    if (f->n_classes > 0) {
        char labels[32];
        snprintf(labels, sizeof labels, "0-%lld", (long long)f->n_classes - 1);
        set(e, "sample", "labels", DM_CHOSEN, labels, "Cycled over the images.");
    }
    set(e, "output", "formats", DM_CHOSEN, points ? "plot" : "grid", NULL);
}

/* ---------------------------------------------------------------- MLP */

/* Layers of a Sequential of Linear below the prefix: an even number each. 0: it is none, or other
 * keys lie beside it. */
static int count_linear(const struct examination *e)
{
    int n = 0;
    const struct dm_tensor_view *weight, *last = NULL;
    while ((weight = find(e, 2, "%d.weight", 2 * n)) && find(e, 1, "%d.bias", 2 * n) &&
           (!last || weight->shape[1] == last->shape[0])) {
        last = weight;
        n++;
    }
    size_t below = 0, length = strlen(e->stem);
    for (size_t i = 0; i < dm_checkpoint_count(e->ckpt); i++)
        below += strncmp(dm_checkpoint_at(e->ckpt, i)->name, e->stem, length) == 0;
    const struct dm_tensor_view *first = find(e, 2, "0.weight");
    bool whole = n >= 2 && below == 2 * (size_t)n && first->shape[1] == last->shape[0] + 1;
    return whole ? n : 0;
}

static void derive_mlp(struct examination *e)
{
    struct dm_text hidden = DM_TEXT_INIT;
    int n = count_linear(e);
    for (int i = 0; i + 1 < n; i++)
        dm_text_appendf(&hidden, "%s%lld", i ? "," : "",
                        (long long)find(e, 2, "%d.weight", 2 * i)->shape[0]);
    int64_t dim = find(e, 2, "%d.weight", 2 * (n - 1))->shape[0];
    e->f->what = "an MLP: a Sequential of Linear layers on (x, t)";
    e->f->rank = 1;
    e->f->shape[0] = dim;
    set_schedule(e, "linear", 1000, true, "zero",
                 "Shapes do not reveal it. linear and cosine noise the data; for a network that "
                 "was trained on straight lines between points take schedule = straight, and "
                 "below predict = x1, time = t.");
    set(e, "network", "use", DM_FROM_SHAPES, "mlp", NULL);
    set(e, "network.mlp", "hidden", DM_FROM_SHAPES, hidden.data, NULL);
    set_number(e, "network.mlp", "dim", DM_FROM_SHAPES, dim, NULL);
    set(e, "network.mlp", "predict", DM_ASSUMED, "eps",
        "eps: the noise; x1: the far end of a straight path; x0, mean or v. Shapes do not reveal "
        "it.");
    set(e, "network.mlp", "time", DM_ASSUMED, "index/T", "index/T, or t, the time of a path.");
    dm_text_finish(&hidden);
}

/* ---------------------------------------------------------------- ContextUnet */

static bool is_context_unet(const struct examination *e)
{
    return find(e, 4, "init_conv.conv1.0.weight") && find(e, 2, "contextembed1.model.0.weight") &&
           find(e, 4, "up0.0.weight");
}

static void derive_context_unet(struct examination *e)
{
    const struct dm_tensor_view *first = find(e, 4, "init_conv.conv1.0.weight");
    int64_t height = 4 * find(e, 4, "up0.0.weight")->shape[2];
    e->f->what = "a ContextUnet, the U-Net of a diffusion course";
    e->f->rank = 3;
    e->f->shape[0] = first->shape[1];
    e->f->shape[1] = e->f->shape[2] = height;
    set_schedule(e, "linear", 500, true, "one", "The course's; shapes do not reveal it.");
    set(e, "network", "use", DM_FROM_SHAPES, "context-unet", NULL);
    set_number(e, "network.context-unet", "n_feat", DM_FROM_SHAPES, first->shape[0], NULL);
    set_number(e, "network.context-unet", "n_cfeat", DM_FROM_SHAPES,
               find(e, 2, "contextembed1.model.0.weight")->shape[1],
               "The length of a context vector, [sample] context; none means zeros.");
    set_number(e, "network.context-unet", "height", DM_FROM_SHAPES, height, NULL);
    set(e, "network.context-unet", "shortcut", DM_ASSUMED, "zero",
        "The first block's 1x1 shortcut is in no checkpoint: the course's code draws it again at "
        "every evaluation. zero: none; random: as the course; fixed: from shortcut_file.");
}

/* ---------------------------------------------------------------- U-Net */

static bool is_unet(const struct examination *e)
{
    return find(e, 2, "time_embed.0.weight") && find(e, 4, "input_blocks.0.0.weight") &&
           find(e, 4, "out.2.weight") && !any_key(e, ".transformer_blocks.");
}

struct unet_layout {
    int n_blocks, res_blocks, n_levels;
    const char *resampling; /* "convolutions", "residual blocks", "pooling" */
};

enum { MAX_BLOCKS = 1024 };

/* Input blocks: one more than the largest number in a key. */
static int count_blocks(const struct examination *e)
{
    int n = 1;
    char stem[440];
    size_t length = (size_t)snprintf(stem, sizeof stem, "%sinput_blocks.", e->stem);
    for (size_t i = 0; i < dm_checkpoint_count(e->ckpt); i++) {
        const char *name = dm_checkpoint_at(e->ckpt, i)->name;
        if (strncmp(name, stem, length) != 0)
            continue;
        int block = 0;
        for (const char *c = name + length; *c >= '0' && *c <= '9' && block < MAX_BLOCKS; c++)
            block = 10 * block + (*c - '0');
        if (block < MAX_BLOCKS && block >= n)
            n = block + 1;
    }
    return n;
}

/* How the resolution changes, and after how many residual blocks for the first time. Poolings have
 * no parameters, so their numbers are missing; residual blocks that resample are seen on the way
 * up, where they are a second one in their block. */
static void find_resampling(const struct examination *e, struct unet_layout *layout)
{
    for (int i = 1; i < layout->n_blocks; i++)
        if (find(e, 4, "input_blocks.%d.0.op.weight", i)) {
            layout->resampling = "convolutions";
            layout->res_blocks = i - 1;
            return;
        }
    for (int i = 0; i < layout->n_blocks; i++)
        if (find(e, 1, "output_blocks.%d.1.in_layers.0.weight", i) ||
            find(e, 1, "output_blocks.%d.2.in_layers.0.weight", i)) {
            layout->resampling = "residual blocks";
            layout->res_blocks = i;
            return;
        }
    for (int i = 1; i < layout->n_blocks; i++)
        if (!find(e, 1, "input_blocks.%d.0.in_layers.0.weight", i)) {
            layout->resampling = "pooling";
            layout->res_blocks = i - 1;
            return;
        }
    layout->resampling = "nothing";
    layout->res_blocks = layout->n_blocks - 1;
}

/* Fills the layout, the levels' widths and their attention; false when blocks make no levels. */
static bool read_layout(const struct examination *e, struct unet_layout *layout)
{
    *layout = (struct unet_layout){.n_blocks = count_blocks(e)};
    find_resampling(e, layout);
    int per_level = layout->res_blocks + 1;
    if (per_level < 2 || layout->n_blocks % per_level != 0 ||
        layout->n_blocks / per_level > DM_MAX_FOUND_LEVELS)
        return false;
    layout->n_levels = layout->n_blocks / per_level;
    for (int level = 0; level < layout->n_levels; level++) {
        int block = 1 + level * per_level;
        const struct dm_tensor_view *conv =
            find(e, 4, "input_blocks.%d.0.out_layers.3.weight", block);
        if (!conv)
            return false;
        e->f->width[level] = conv->shape[0];
        e->f->attention[level] =
            find(e, 3, "input_blocks.%d.1.qkv.weight", block) ? conv->shape[0] : 0;
    }
    e->f->n_levels = layout->n_levels;
    return true;
}

/* Image sizes whose default channel_mult the original scripts give as `mult`. */
static int64_t default_size(const char *mult, bool super_resolution, const char **others)
{
    static const struct {
        const char *mult;
        int64_t size;
        const char *others;
    } known[] = {{"1,2,2,2", 32, "those levels are the original scripts' for 32"},
                 {"1,2,3,4", 64, "those levels are the original scripts' for 64"},
                 {"1,1,2,3,4", 128, "those levels are guided-diffusion's for 128"},
                 {"1,1,2,2,4,4", 256, "those levels are the original scripts' for 256"},
                 {"0.5,1,1,2,2,4,4", 512, "those levels are guided-diffusion's for 512"}};
    *others = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(mult, known[i].mult) == 0) {
            *others = super_resolution && known[i].size == 256
                          ? "those levels are the original scripts' for 256 and, of upsamplers, "
                            "512"
                          : known[i].others;
            return known[i].size;
        }
    return 0;
}

/* width/unit; rounded up to six digits, so that the product gives width. */
static void append_ratio(struct dm_text *out, int64_t width, int64_t unit)
{
    char digits[16];
    int64_t millionths = (width % unit * 1000000 + unit - 1) / unit;
    dm_text_appendf(out, "%s%lld", out->size ? "," : "", (long long)(width / unit));
    if (millionths == 0)
        return;
    int n = snprintf(digits, sizeof digits, ".%06lld", (long long)millionths);
    while (digits[n - 1] == '0')
        digits[--n] = 0;
    dm_text_append(out, digits);
}

static void set_image_size(struct examination *e, const char *mult, int64_t given)
{
    char comment[320];
    const char *why;
    struct dm_finding *f = e->f;
    int64_t size = default_size(mult, f->super_resolution, &why);
    enum dm_setting_origin origin = given ? DM_PROBED : DM_ASSUMED;
    if (size == 0)
        size = (int64_t)4 << (f->n_levels - 1);
    snprintf(comment, sizeof comment, "%s Shapes do not reveal it: any multiple of %d fits. %s%s%s",
             given ? "The data's." : "", 1 << (f->n_levels - 1),
             given ? ""
             : why ? "Assumed, because "
                   : "Assumed, so that the last level has 4 rows.",
             given || !why ? "" : why, given || !why ? "" : ".");
    f->shape[1] = f->shape[2] = given ? given : size;
    set_number(e, "network.unet", "image_size", origin, f->shape[1],
               comment[0] == ' ' ? comment + 1 : comment);
}

static void set_attention(struct examination *e)
{
    struct dm_text list = DM_TEXT_INIT;
    const struct dm_finding *f = e->f;
    for (int level = 0; level < f->n_levels; level++)
        if (f->attention[level])
            dm_text_appendf(&list, "%s%lld", list.size ? "," : "",
                            (long long)(f->shape[1] >> level));
    set(e, "network.unet", "attention_resolutions", DM_FROM_SHAPES, list.size ? list.data : "1",
        list.size ? "Shapes reveal the levels; as resolutions they go with image_size."
                  : "1: no level has this resolution, and none of the checkpoint has attention.");
    dm_text_finish(&list);
}

/* Heads, which only the training script knew. */
static void set_heads(struct examination *e, bool guided)
{
    bool by_64 = guided;
    for (int level = 0; level < e->f->n_levels; level++)
        by_64 = by_64 && e->f->attention[level] % 64 == 0;
    set_number(e, "network.unet", "num_heads", DM_ASSUMED, 4,
               "Shapes do not reveal heads. improved-diffusion: 4 (the scripts' default), 1; "
               "others: 2, 8.");
    set_number(e, "network.unet", "num_heads_upsample", DM_ASSUMED, -1,
               "-1: as num_heads; all published models have that.");
    set_number(e, "network.unet", "num_head_channels", DM_ASSUMED, by_64 ? 64 : -1,
               by_64 ? "Channels of a head, which replace num_heads: guided-diffusion's larger "
                       "models have 64; else 32, or -1 for num_heads."
                     : "-1: num_heads counts. guided-diffusion also has 64 or 32 here.");
    set(e, "network.unet", "attention_order", DM_ASSUMED, "legacy",
        "legacy: qkv is split by head first (improved-diffusion and most of guided-diffusion); "
        "new: by q, k, v first (use_new_attention_order). Shapes are the same.");
}

static void set_unet_schedule(struct examination *e, bool guided)
{
    bool cosine = e->f->learn_sigma && !guided;
    set_schedule(e, cosine ? "cosine" : "linear", 1000, false, NULL,
                 cosine ? "Shapes do not reveal it. improved-diffusion's models with a learned "
                          "variance have cosine, others linear."
                        : "Shapes do not reveal it. linear is the original scripts' default; "
                          "improved-diffusion's best models have cosine.");
}

static void set_unet_outputs(struct examination *e, bool guided)
{
    const struct dm_finding *f = e->f;
    set_bool(e, "learn_sigma", DM_FROM_SHAPES, f->learn_sigma, NULL);
    if (f->learn_sigma)
        set(e, "network.unet", "sigma", DM_ASSUMED, "range",
            "range: the second half interpolates between the log variance's bounds, as in both "
            "originals; logvar: it is the log variance.");
    set(e, "network.unet", "predict", DM_ASSUMED, "eps",
        "The noise, as in the original scripts; else x0 (predict_xstart), v or mean. Shapes do "
        "not reveal it.");
    set_bool(e, "rescale_timesteps", DM_ASSUMED, !guided,
             guided ? "The network sees the index t; true: t*1000/T. The same where T is 1000."
                    : "The network sees t*1000/T; false, as in guided-diffusion: the index t. The "
                      "same where T is 1000.");
}

static demist_status derive_unet(struct examination *e, const struct dm_hints *hints,
                                 struct dm_error *err)
{
    struct dm_finding *f = e->f;
    struct unet_layout layout;
    int64_t in = find(e, 4, "input_blocks.0.0.weight")->shape[1];
    int64_t out = find(e, 4, "out.2.weight")->shape[0];
    int64_t unit = find(e, 2, "time_embed.0.weight")->shape[1];
    const struct dm_tensor_view *labels = find(e, 2, "label_emb.weight");
    if (!read_layout(e, &layout))
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensors are named as in improved-diffusion's U-Net, but its %d input "
                       "blocks, %d of them before the first downsampling, do not make levels of "
                       "equally many residual blocks: it is a variant that network unet does not "
                       "have",
                       e->path, layout.n_blocks, layout.res_blocks);
    if (out != in && out != 2 * in && 2 * out != in)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s: tensors are named as in improved-diffusion's U-Net, but it takes %lld "
                       "channels and makes %lld: neither noise, nor noise and variance, nor "
                       "super-resolution",
                       e->path, (long long)in, (long long)out);
    /* 6 in and 6 out: an upsampler of RGB with a learned variance, not images of six channels. */
    f->super_resolution = 2 * out == in || (out == in && in == 6);
    int64_t channels = f->super_resolution ? in / 2 : in;
    f->learn_sigma = out == 2 * channels;
    f->n_classes = labels ? labels->shape[0] : 0;
    f->rank = 3;
    f->shape[0] = channels;
    bool guided = strcmp(layout.resampling, "residual blocks") == 0;
    f->what =
        dm_arena_printf(&f->arena, "a U-Net of %s%s%s%s",
                        guided ? "guided-diffusion" : "improved-diffusion or guided-diffusion",
                        f->n_classes ? ", class-conditional" : "",
                        f->learn_sigma ? ", with a learned variance" : "",
                        f->super_resolution ? ", for super-resolution" : "");
    struct dm_text mult = DM_TEXT_INIT;
    for (int i = 0; i < layout.n_levels; i++)
        append_ratio(&mult, f->width[i], unit);

    set_unet_schedule(e, guided);
    set(e, "network", "use", DM_FROM_SHAPES, "unet", NULL);
    set_image_size(e, mult.data ? mult.data : "", hints->image_size);
    set_number(e, "network.unet", "num_channels", DM_FROM_SHAPES, unit, NULL);
    set_number(e, "network.unet", "num_res_blocks", DM_FROM_SHAPES, layout.res_blocks, NULL);
    set(e, "network.unet", "channel_mult", DM_FROM_SHAPES, mult.data, NULL);
    set_attention(e);
    set_heads(e, guided);
    const struct dm_tensor_view *emb = find(e, 2, "input_blocks.1.0.emb_layers.1.weight");
    set_bool(e, "use_scale_shift_norm", DM_FROM_SHAPES, emb && emb->shape[0] == 2 * f->width[0],
             NULL);
    set_bool(e, "resblock_updown", DM_FROM_SHAPES, guided, NULL);
    set_bool(e, "conv_resample", DM_FROM_SHAPES, strcmp(layout.resampling, "pooling") != 0, NULL);
    set_number(e, "network.unet", "num_classes", DM_FROM_SHAPES, f->n_classes, NULL);
    set_unet_outputs(e, guided);
    if (f->super_resolution)
        set_number(e, "network.unet", "small_size", DM_ASSUMED, (f->shape[1] + 3) / 4,
                   "Rows and columns of the low-resolution images; shapes reveal only that there "
                   "are such. Published upsamplers enlarge 4 times. To sample, set [sample] "
                   "low_res to a picture, a folder of pictures or an .npz file.");
    dm_text_finish(&mult);
    return DEMIST_OK;
}

/* ---------------------------------------------------------------- recognition */

static bool set_stem(struct examination *e, const char *name, size_t length)
{
    if (length >= sizeof e->stem)
        return false;
    memcpy(e->stem, name, length);
    e->stem[length] = 0;
    return true;
}

/* Whether the key is `stem`tail, and the network that the tail hints at lies below that stem. */
static bool lies_below(struct examination *e, const char *name, const char *tail,
                       bool (*test)(const struct examination *))
{
    size_t length = strlen(name), n = strlen(tail);
    if (length < n || strcmp(name + length - n, tail) != 0)
        return false;
    if (length > n && name[length - n - 1] != '.')
        return false;
    return set_stem(e, name, length - n) && test(e);
}

static bool is_mlp(const struct examination *e)
{
    return count_linear(e) > 0;
}

static const struct {
    const char *tail;
    bool (*test)(const struct examination *);
} kinds[] = {
    [DM_FOUND_MLP] = {"0.weight", is_mlp},
    [DM_FOUND_CONTEXT_UNET] = {"init_conv.conv1.0.weight", is_context_unet},
    [DM_FOUND_UNET] = {"time_embed.0.weight", is_unet},
};

/* Averaged weights make the better pictures; else the shortest prefix. */
static bool is_better(const char *a, const char *b)
{
    bool ema_a = strstr(a, "ema") != NULL, ema_b = strstr(b, "ema") != NULL;
    return ema_a != ema_b ? ema_a : strlen(a) < strlen(b);
}

/* All prefixes below which a network of this kind lies; the best is taken. */
static bool look_for(struct examination *e, enum dm_found_network kind, const char *prefix)
{
    struct dm_finding *f = e->f;
    int best = 0;
    f->n_others = 0;
    for (size_t i = 0; i < dm_checkpoint_count(e->ckpt) && f->n_others < DM_MAX_FOUND; i++) {
        const char *name = dm_checkpoint_at(e->ckpt, i)->name;
        if (!lies_below(e, name, kinds[kind].tail, kinds[kind].test))
            continue;
        size_t n = strlen(e->stem);
        const char *found = dm_arena_strndup(&f->arena, e->stem, n ? n - 1 : 0);
        if (!found || (prefix && strcmp(found, prefix) != 0))
            continue;
        f->others[f->n_others++] = found;
        if (is_better(found, f->others[best]))
            best = f->n_others - 1;
    }
    if (f->n_others == 0)
        return false;
    f->network = kind;
    f->prefix = f->others[best];
    f->others[best] = f->others[--f->n_others];
    snprintf(e->stem, sizeof e->stem, "%s%s", f->prefix, f->prefix[0] ? "." : "");
    return true;
}

/* Layouts of other programs, by a piece of a key. */
static const char *other_layout(struct examination *e)
{
    static const struct {
        const char *key, *besides, *what;
    } known[] = {
        {".transformer_blocks.", "input_blocks.", "latent diffusion's U-Net with cross-attention"},
        {"input_blocks.0.0.weight", "out.2.positional_embedding", "guided-diffusion's classifier"},
        {"encoder.down_blocks.", "decoder.", "an autoencoder (VAE) in diffusers' layout"},
        {"down_blocks.", "conv_in.weight", "a U-Net in diffusers' layout"},
        {"encoder.layers.0.self_attn.", "token_embedding.",
         "CLIP's text encoder in transformers' layout"},
        {"downs.0.", "ups.0.", "a U-Net in the layout of denoising-diffusion-pytorch"},
        {"transformer_blocks.0.attn", "", "a diffusion transformer"},
        {"first_stage_model.", "model.diffusion_model.", "a whole Stable Diffusion checkpoint"},
    };
    e->stem[0] = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (any_key(e, known[i].key) && any_key(e, known[i].besides))
            return known[i].what;
    return NULL;
}

static demist_status fail_unknown(struct examination *e, const char *prefix, struct dm_error *err)
{
    struct dm_text there = DM_TEXT_INIT;
    size_t n = dm_checkpoint_count(e->ckpt);
    const char *other = other_layout(e);
    for (size_t i = 0; i < n && i < 3; i++)
        dm_text_appendf(&there, "%s%s", i ? ", " : "", dm_checkpoint_at(e->ckpt, i)->name);
    dm_fail(err, DEMIST_INCOMPATIBLE,
            "%s: no network that demist has%s%s. Looked for, below any prefix: a Sequential of "
            "Linear layers on (x, t) (P.0.weight, P.2.weight, ...); a ContextUnet "
            "(init_conv.conv1.0.weight, ...); a U-Net of improved-diffusion or guided-diffusion "
            "(time_embed.0.weight, input_blocks.0.0.weight, out.2.weight). There are %zu tensors: "
            "%s%s%s%s%s",
            e->path, prefix ? " below prefix " : "", prefix ? prefix : "", n,
            there.data ? there.data : "none", n > 3 ? ", ..." : "", other ? ". This is " : "",
            other ? other : "", other ? ", which is recognised but not supported" : "");
    dm_text_finish(&there);
    return DEMIST_INCOMPATIBLE;
}

static demist_status derive(struct examination *e, const struct dm_hints *hints,
                            struct dm_error *err)
{
    struct dm_finding *f = e->f;
    set(e, "backend", "use", DM_CHOSEN, "cpu", NULL);
    if (f->network == DM_FOUND_MLP)
        derive_mlp(e);
    else if (f->network == DM_FOUND_CONTEXT_UNET)
        derive_context_unet(e);
    else
        DM_TRY(derive_unet(e, hints, err));
    if (f->prefix[0])
        set(e, "network", "prefix", DM_FROM_SHAPES, f->prefix, NULL);
    set_run(e);
    return e->failed || !f->what ? dm_fail_memory(err, "a description") : DEMIST_OK;
}

demist_status dm_examine(const struct dm_checkpoint *ckpt, const char *path,
                         const struct dm_hints *hints, struct dm_finding *finding,
                         struct dm_error *err)
{
    struct examination e = {.ckpt = ckpt, .path = path, .f = finding};
    *finding = (struct dm_finding){0};
    demist_status status = DEMIST_OK;
    if (!look_for(&e, DM_FOUND_UNET, hints->prefix) &&
        !look_for(&e, DM_FOUND_CONTEXT_UNET, hints->prefix) &&
        !look_for(&e, DM_FOUND_MLP, hints->prefix))
        status = fail_unknown(&e, hints->prefix, err);
    else
        status = derive(&e, hints, err);
    if (status != DEMIST_OK)
        dm_finding_finish(finding);
    return status;
}

/* ---------------------------------------------------------------- as an INI file */

void dm_comment(struct dm_text *out, const char *text)
{
    enum { WIDTH = 88 };
    while (*text) {
        size_t n = strcspn(text, "\n");
        if (n > WIDTH) {
            size_t cut = WIDTH;
            while (cut > 0 && text[cut] != ' ')
                cut--;
            n = cut ? cut : WIDTH;
        }
        dm_text_appendf(out, "; %.*s\n", (int)n, text);
        text += n;
        text += *text == ' ' || *text == '\n';
    }
}

/* Whether a line of an INI file can hold the path as a value. */
static bool fits_ini(const char *path)
{
    size_t n = strlen(path);
    if (n == 0 || n + strlen("checkpoint = ") > DM_INI_MAX_LINE || dm_utf8_check(path, n) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f ||
            ((path[i] == ';' || path[i] == '#') && (i == 0 || path[i - 1] == ' ')))
            return false;
    return path[0] != ' ' && path[n - 1] != ' ';
}

static void print_checkpoint(const char *path, struct dm_text *out)
{
    if (fits_ini(path))
        dm_text_appendf(out, "checkpoint = %s\n", path);
    else
        dm_comment(out, "checkpoint: no line of an INI file can hold this path; give "
                        "--set network.checkpoint=PATH");
}

static void print_others(const struct dm_finding *f, struct dm_text *out)
{
    struct dm_text list = DM_TEXT_INIT;
    for (int i = 0; i < f->n_others; i++)
        dm_text_appendf(&list, "%s%s", i ? ", " : "", f->others[i][0] ? f->others[i] : "(empty)");
    if (list.size) {
        dm_text_appendf(out, "; Other networks of this kind lie below:\n");
        dm_comment(out, list.data);
    }
    dm_text_finish(&list);
}

void dm_finding_print(const struct dm_finding *f, const char *checkpoint, struct dm_text *out)
{
    static const char *const marks[] = {[DM_FROM_SHAPES] = NULL,
                                        [DM_ASSUMED] = "ASSUMED. ",
                                        [DM_PROBED] = "PROBED. ",
                                        [DM_CHOSEN] = NULL};
    static const char *const sections[] = {"backend",      "schedule",    "schedule.linear",
                                           "network",      "network.mlp", "network.context-unet",
                                           "network.unet", "sampler",     "sample",
                                           "output"};
    for (size_t s = 0; s < sizeof sections / sizeof *sections; s++) {
        bool opened = false;
        for (int i = 0; i < f->n_settings; i++) {
            const struct dm_setting *setting = &f->settings[i];
            if (strcmp(setting->section, sections[s]) != 0)
                continue;
            if (!opened)
                dm_text_appendf(out, "\n[%s]\n", sections[s]);
            opened = true;
            const char *mark = marks[setting->origin];
            if (setting->comment || mark) {
                struct dm_text comment = DM_TEXT_INIT;
                dm_text_appendf(&comment, "%s%s", mark ? mark : "",
                                setting->comment ? setting->comment : "");
                dm_comment(out, comment.data ? dm_trim(comment.data) : "");
                out->failed = out->failed || comment.failed;
                dm_text_finish(&comment);
            }
            dm_text_appendf(out, "%s = %s\n", setting->key, setting->value);
        }
        if (strcmp(sections[s], "network") == 0) {
            print_checkpoint(checkpoint, out);
            print_others(f, out);
        }
    }
}

#include "runconfig.h"

#include "device.h"

#include <string.h>

#define OPTION(variable, ...)                                                                      \
    static const demist_option variable = {.size = sizeof(demist_option), __VA_ARGS__}
#define TEXT .type = DEMIST_OPTION_STRING
#define WHOLE(low, high) .type = DEMIST_OPTION_INT, .has_range = true, .min = (low), .max = (high)
#define CHOICE(list) .type = DEMIST_OPTION_ENUM, .choices = (list)
#define AUTO .flags = DEMIST_OPTION_AUTO, .default_value = "auto"

static const double max_count = 2147483647;

OPTION(backend_use, .key = "use", .doc = "the backend plugin that computes", TEXT,
       .default_value = "cpu");
OPTION(backend_precision, .key = "precision",
       .doc = "how the network computes; what a backend does not offer is an error",
       CHOICE(dm_precision_names), .default_value = "f32");
static const demist_option *const backend_options[] = {&backend_use, &backend_precision, NULL};

OPTION(schedule_use, .key = "use", .doc = "the schedule plugin that the network was trained with",
       TEXT);
OPTION(schedule_steps, .key = "steps", .doc = "T, the steps of the training process",
       WHOLE(1, 1000000), .default_value = "1000");
static const demist_option *const schedule_options[] = {&schedule_use, &schedule_steps, NULL};

OPTION(network_use, .key = "use", .doc = "the network plugin", TEXT);
OPTION(network_checkpoint, .key = "checkpoint",
       .doc = "the trained parameters: .safetensors, or PyTorch's .pt and .pth",
       .type = DEMIST_OPTION_PATH);
OPTION(network_prefix, .key = "prefix",
       .doc = "keys of the checkpoint start with this, as in nested dictionaries (ema, model)",
       TEXT);
static const demist_option *const network_options[] = {&network_use, &network_checkpoint,
                                                       &network_prefix, NULL};

OPTION(sampler_use, .key = "use", .doc = "the sampler plugin", TEXT);
static const demist_option *const sampler_options[] = {&sampler_use, NULL};

static const char *const tristates[] = {"auto", "true", "false", NULL};
static const char *const directions[] = {"decode", "encode", NULL};
static const char *const starts[] = {"normal", "half-circle", "file", NULL};
static const char *const course_ends[] = {"clamp", "wrap", NULL};
OPTION(sample_steps, .key = "steps",
       .doc = "timesteps visited: a number or list (sections), ddimN, leadingN, trailingN, "
              "linspaceN, quadraticN, courseN; empty: all",
       TEXT);
OPTION(sample_offset, .key = "leading_offset", .doc = "added to the timesteps of leadingN",
       WHOLE(0, 1), .default_value = "0");
OPTION(sample_course_end, .key = "course_end",
       .doc = "courseN where N does not divide T: the last step ends at 0, or wraps as the "
              "course's code does",
       CHOICE(course_ends), .default_value = "clamp");
OPTION(sample_images, .key = "images", .doc = "how many images or points are made",
       WHOLE(1, max_count), .default_value = "16");
OPTION(sample_first, .key = "first",
       .doc = "index of the first one: any image can be made again alone", WHOLE(0, max_count),
       .default_value = "0");
OPTION(sample_batch, .key = "batch", .doc = "images computed at once; never changes a picture",
       .type = DEMIST_OPTION_INT, .has_range = true, .min = 1, .max = 1 << 20, AUTO);
OPTION(sample_seed, .key = "seed", .doc = "of all random numbers", WHOLE(0, 9223372036854774784.0),
       .default_value = "0");
OPTION(sample_labels, .key = "labels",
       .doc = "classes: numbers and ranges with commas (0-7,9) or @FILE; cycled over the images",
       TEXT);
OPTION(sample_clip, .key = "clip_denoised",
       .doc = "clamp x_0 to the network's range; auto: as the network says", CHOICE(tristates),
       .default_value = "auto");
OPTION(sample_threshold, .key = "dynamic_threshold",
       .doc =
           "in the clamp's place, scale x_0 down where this quantile of |x_0| of an image is out "
           "of range, as Imagen does with 0.995; 0: off",
       .type = DEMIST_OPTION_FLOAT, .has_range = true, .min = 0, .max = 1, .default_value = "0");
OPTION(sample_direction, .key = "direction",
       .doc =
           "decode: noise becomes data; encode: the data of start_file become the noise x_T that "
           "a deterministic sampler makes them of",
       CHOICE(directions), .default_value = "decode");
OPTION(sample_start, .key = "start",
       .doc = "x_T: normal noise, points on a half circle, or x_T of start_file", CHOICE(starts),
       .default_value = "normal");
OPTION(sample_start_file, .key = "start_file",
       .doc = "start = file: a tensor file with x_T, or the data to encode: pictures or a file",
       .type = DEMIST_OPTION_PATH);
OPTION(sample_guidance, .key = "guidance_scale",
       .doc = "classifier-free guidance; 1: none, 0: unconditional", .type = DEMIST_OPTION_FLOAT,
       .has_range = true, .min = -1000, .max = 1000, .default_value = "1");
OPTION(sample_context, .key = "context",
       .doc = "context vectors, numbers with commas and vectors with |, or @FILE (tensor c); "
              "cycled over the images; empty: zeros",
       TEXT);
OPTION(sample_low_res, .key = "low_res",
       .doc = "super-resolution: a picture, a folder of them, or an .npz with arr_0 (labels "
              "arr_1); cycled over the images",
       .type = DEMIST_OPTION_PATH);
static const demist_option *const sample_options[] = {&sample_steps,
                                                      &sample_offset,
                                                      &sample_course_end,
                                                      &sample_images,
                                                      &sample_first,
                                                      &sample_batch,
                                                      &sample_seed,
                                                      &sample_labels,
                                                      &sample_clip,
                                                      &sample_threshold,
                                                      &sample_direction,
                                                      &sample_start,
                                                      &sample_start_file,
                                                      &sample_guidance,
                                                      &sample_context,
                                                      &sample_low_res,
                                                      NULL};

static const char *const noise_sources[] = {"philox", "torch-cpu", "file", NULL};
static const char *const noise_draw_rules[] = {"improved", "diffusers", NULL};
OPTION(noise_source, .key = "source",
       .doc = "philox: keyed by image; torch-cpu: PyTorch's stream; file: recorded draws",
       CHOICE(noise_sources), .default_value = "philox");
OPTION(noise_file, .key = "file", .doc = "source = file: tensors x_T and noise [draws,N,...]",
       .type = DEMIST_OPTION_PATH);
OPTION(noise_draws, .key = "draws",
       .doc = "torch-cpu: a draw at every step (improved), or only where one is used (diffusers)",
       CHOICE(noise_draw_rules), .default_value = "improved");
static const demist_option *const noise_options[] = {&noise_source, &noise_file, &noise_draws,
                                                     NULL};

static const char *const roundings[] = {"truncate", "round", NULL};
OPTION(output_dir, .key = "dir", .doc = "where files go, relative to the working directory", TEXT,
       .default_value = "out");
OPTION(output_formats, .key = "formats",
       .doc =
           "any of grid, png, npz, npy, safetensors, gif, plot, svg, with commas; unset: a grid of "
           "images, a plot of points, safetensors of what was encoded; empty: nothing is written",
       TEXT, .default_value = "grid");
OPTION(output_columns, .key = "columns", .doc = "of a grid; auto: near-square",
       .type = DEMIST_OPTION_INT, .has_range = true, .min = 1, .max = 100000, AUTO);
OPTION(output_scale, .key = "scale",
       .doc = "each pixel of a grid becomes a square of so many; auto: small images grow",
       .type = DEMIST_OPTION_INT, .has_range = true, .min = 1, .max = 64, AUTO);
OPTION(output_rounding, .key = "rounding",
       .doc = "to 8 bits: truncate (improved-diffusion) or round (diffusers)", CHOICE(roundings),
       .default_value = "truncate");
OPTION(output_every, .key = "every",
       .doc = "keep intermediates every so many steps: grids, or frames of a gif; 0: none",
       WHOLE(0, max_count), .default_value = "0");
static const demist_option *const output_options[] = {
    &output_dir, &output_formats, &output_columns, &output_scale, &output_rounding, &output_every,
    NULL};

const struct dm_core_section dm_core_sections[] = {
    {"backend", "what computes", backend_options},
    {"schedule", "the noise levels that the network was trained with", schedule_options},
    {"network", "what predicts", network_options},
    {"sampler", "how noise becomes data", sampler_options},
    {"sample", "what is made", sample_options},
    {"noise", "where random numbers come from", noise_options},
    {"output", "what is written", output_options},
    {NULL, NULL, NULL},
};

/* One section while it is taken apart. */
struct reader {
    const struct dm_ini *ini;
    struct dm_arena *arena;
    const char *section;
    const demist_option *const *options;
    const demist_value *const *values;
};

static demist_status open_section(struct reader *r, const char *section, struct dm_error *err)
{
    r->section = section;
    for (const struct dm_core_section *s = dm_core_sections; s->name; s++)
        if (strcmp(s->name, section) == 0)
            r->options = s->options;
    return dm_schema_parse(r->ini, section, r->options, r->arena, &r->values, err);
}

static const demist_value *value(const struct reader *r, const char *key)
{
    return r->values[dm_schema_index(r->options, key)];
}

static const char *text(const struct reader *r, const char *key)
{
    const char *t = value(r, key)->text;
    return t ? t : "";
}

/* "FILE:LINE" of a key, or the file where it is not set. */
static const char *where(const struct reader *r, const char *key)
{
    const struct dm_ini_entry *entry = dm_ini_find(r->ini, r->section, key);
    return entry ? entry->where : r->ini->file;
}

/* A list, or @FILE with FILE resolved against the place where it was written. */
static demist_status list_or_file(const struct reader *r, const char *key, const char **out,
                                  struct dm_error *err)
{
    *out = text(r, key);
    if ((*out)[0] != '@')
        return DEMIST_OK;
    const struct dm_ini_entry *entry = dm_ini_find(r->ini, r->section, key);
    bool absolute = (*out)[1] == '/';
    *out = dm_arena_printf(r->arena, "@%s%s", absolute || !entry ? "" : entry->dir, *out + 1);
    return *out ? DEMIST_OK : dm_fail_memory(err, "a path");
}

static demist_status parse_formats(const struct reader *r, unsigned *formats, struct dm_error *err)
{
    static const char *const names[] = {"grid",        "png", "npz",  "npy",
                                        "safetensors", "gif", "plot", "svg"};
    enum { COUNT = sizeof names / sizeof *names };
    const char *const *items;
    size_t n;
    if (dm_split_list(r->arena, text(r, "formats"), &items, &n, err) != DEMIST_OK)
        return dm_fail_where(err, "%s: [output] formats", where(r, "formats"));
    *formats = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < COUNT && strcmp(items[i], names[k]) != 0)
            k++;
        if (k == COUNT) {
            const char *near = dm_nearest(items[i], names, COUNT);
            return dm_fail(err, DEMIST_CONFIG,
                           "%s: [output] formats: \"%s\" is none of grid, png, npz, npy, "
                           "safetensors, gif, plot, svg%s%s%s",
                           where(r, "formats"), items[i], near ? "; did you mean \"" : "",
                           near ? near : "", near ? "\"?" : "");
        }
        *formats |= 1u << k;
    }
    return DEMIST_OK;
}

static demist_status needs_key(const struct reader *r, const char *key, const char *because,
                               struct dm_error *err)
{
    if (text(r, key)[0])
        return DEMIST_OK;
    return dm_fail(err, DEMIST_CONFIG, "%s: [%s] %s needs %s", where(r, because), r->section,
                   because, key);
}

/* A file that nothing would read is a mistake: either it was meant to be read, or it is left over.
 */
static demist_status refuse_unread(const struct reader *r, const char *key, const char *choice,
                                   struct dm_error *err)
{
    if (!text(r, key)[0])
        return DEMIST_OK;
    return dm_fail(err, DEMIST_CONFIG,
                   "%s: [%s] %s is read with %s = file only: set %s = file, or remove the key",
                   where(r, key), r->section, key, choice, choice);
}

static demist_status parse_model(struct reader *r, struct dm_run_config *c, struct dm_error *err)
{
    DM_TRY(open_section(r, "backend", err));
    c->backend.use = text(r, "use");
    c->backend.precision = (int)value(r, "precision")->integer;

    DM_TRY(open_section(r, "schedule", err));
    c->schedule.use = text(r, "use");
    c->schedule.steps = value(r, "steps")->integer;

    DM_TRY(open_section(r, "network", err));
    c->network.use = text(r, "use");
    c->network.checkpoint = text(r, "checkpoint");
    c->network.prefix = text(r, "prefix");

    DM_TRY(open_section(r, "sampler", err));
    c->sampler.use = text(r, "use");
    return DEMIST_OK;
}

static demist_status parse_sample(struct reader *r, struct dm_run_config *c, struct dm_error *err)
{
    DM_TRY(open_section(r, "sample", err));
    c->sample.steps = text(r, "steps");
    c->sample.leading_offset = (int)value(r, "leading_offset")->integer;
    c->sample.course_wrap = value(r, "course_end")->integer == 1;
    c->sample.images = value(r, "images")->integer;
    c->sample.first = value(r, "first")->integer;
    c->sample.batch = value(r, "batch")->is_auto ? 0 : value(r, "batch")->integer;
    c->sample.seed = (uint64_t)value(r, "seed")->integer;
    c->sample.clip_denoised = (enum dm_tristate)value(r, "clip_denoised")->integer;
    c->sample.dynamic_threshold = value(r, "dynamic_threshold")->number;
    c->sample.encode = value(r, "direction")->integer == 1;
    c->sample.start = (enum dm_start)value(r, "start")->integer;
    c->sample.start_file = text(r, "start_file");
    c->sample.guidance_scale = value(r, "guidance_scale")->number;
    c->sample.low_res = text(r, "low_res");
    DM_TRY(list_or_file(r, "labels", &c->sample.labels, err));
    DM_TRY(list_or_file(r, "context", &c->sample.context, err));
    if (c->sample.dynamic_threshold > 0 && c->sample.clip_denoised == DM_FALSE)
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: [sample] dynamic_threshold clamps x_0, and clip_denoised = false (%s) "
                       "forbids it: leave clip_denoised at auto, or set dynamic_threshold = 0",
                       where(r, "dynamic_threshold"), where(r, "clip_denoised"));
    if (c->sample.encode && c->sample.start != DM_START_FILE)
        return dm_fail(
            err, DEMIST_CONFIG,
            "%s: [sample] direction = encode needs data to encode: set start = file, and "
            "start_file to a folder of pictures or a file",
            where(r, "direction"));
    DM_TRY(c->sample.start == DM_START_FILE ? needs_key(r, "start_file", "start", err)
                                            : refuse_unread(r, "start_file", "start", err));

    DM_TRY(open_section(r, "noise", err));
    c->noise.source = (enum dm_noise_kind)value(r, "source")->integer;
    c->noise.file = text(r, "file");
    c->noise.draws = (enum dm_noise_draws)value(r, "draws")->integer;
    DM_TRY(c->noise.source == DM_NOISE_FILE ? needs_key(r, "file", "source", err)
                                            : refuse_unread(r, "file", "source", err));
    if (c->noise.source == DM_NOISE_TORCH_CPU && (c->sample.batch == 0 || c->sample.first != 0))
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: [noise] source = torch-cpu reproduces one process with batches of a "
                       "fixed size: set [sample] batch, and leave first = 0",
                       where(r, "source"));
    return DEMIST_OK;
}

demist_status dm_run_config_parse(const struct dm_ini *ini, struct dm_arena *arena,
                                  struct dm_run_config *c, struct dm_error *err)
{
    static const char *const known[] = {"backend",    "schedule",  "network",   "sampler",
                                        "sample",     "noise",     "output",    "backend.*",
                                        "schedule.*", "network.*", "sampler.*", NULL};
    struct reader r = {.ini = ini, .arena = arena};
    *c = (struct dm_run_config){0};
    DM_TRY(dm_schema_check_sections(ini, known, err));
    DM_TRY(parse_model(&r, c, err));
    DM_TRY(parse_sample(&r, c, err));
    DM_TRY(open_section(&r, "output", err));
    c->output.dir = text(&r, "dir");
    c->output.columns = value(&r, "columns")->is_auto ? 0 : (int)value(&r, "columns")->integer;
    c->output.scale = value(&r, "scale")->is_auto ? 0 : (int)value(&r, "scale")->integer;
    c->output.rounding = (int)value(&r, "rounding")->integer;
    c->output.every = (int)value(&r, "every")->integer;
    return parse_formats(&r, &c->output.formats, err);
}

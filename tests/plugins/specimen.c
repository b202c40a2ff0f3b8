/* A sampler plugin of which the build makes many: a good one, and one for each thing that can be
 * wrong with a plugin. */
#include <demist/sampler.h>

#ifndef PLUGIN_SIZE
#define PLUGIN_SIZE sizeof(demist_plugin)
#endif
#ifndef EPOCH
#define EPOCH DEMIST_ABI_EPOCH
#endif
#ifndef MINOR
#define MINOR DEMIST_ABI_MINOR
#endif
#ifndef MINOR_NEEDED
#define MINOR_NEEDED 0
#endif
#ifndef NAME
#define NAME "specimen"
#endif
#ifndef VTABLE_SIZE
#define VTABLE_SIZE sizeof(demist_sampler_vtable)
#endif
#ifndef HAS_SAMPLE
#define HAS_SAMPLE 1
#endif
#ifndef ETA_DEFAULT
#define ETA_DEFAULT "0.5"
#endif
#ifndef ETA_KEY
#define ETA_KEY "eta"
#endif

struct state {
    const demist_host *host;
    double eta;
};

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    struct state *state = host->alloc(host, sizeof *state, 0);
    if (!state)
        return DEMIST_NO_MEMORY;
    *state = (struct state){host, values[0]->number};
    *self = state;
    return DEMIST_OK;
}

static void destroy(void *self)
{
    struct state *state = self;
    if (state)
        state->host->free(state->host, state);
}

#ifdef UNDEFINED_SYMBOL
double nowhere_to_be_found(double);
#endif

static demist_status sample(void *self, demist_run *run, demist_tensor *x)
{
    const struct state *state = self;
    double eta = state->eta;
#ifdef UNDEFINED_SYMBOL
    eta = nowhere_to_be_found(eta);
#endif
    return demist_lincomb(run, x, 1, &eta, (demist_tensor *const[]){x});
}

static const demist_option eta = {
    .size = sizeof eta,
    .key = ETA_KEY,
    .doc = "What x is multiplied by",
    .type = DEMIST_OPTION_FLOAT,
    .default_value = ETA_DEFAULT,
    .has_range = true,
    .min = 0,
    .max = 1,
};
static const char *const modes[] = {"fast", "slow", NULL};
static const demist_option mode = {
    .size = sizeof mode,
    .key = "mode",
    .doc = "How",
    .type = DEMIST_OPTION_ENUM,
    .flags = DEMIST_OPTION_AUTO,
    .default_value = "auto",
    .choices = modes,
};
static const demist_option *const options[] = {&eta, &mode, NULL};

static const demist_sampler_vtable vtable = {
    .size = VTABLE_SIZE,
    .create = create,
    .destroy = destroy,
    .sample = HAS_SAMPLE ? sample : NULL,
};

static const demist_class specimen = {
    .size = sizeof specimen,
    .kind = DEMIST_SAMPLER,
    .name = NAME,
    .doc = "Multiplies",
    .options = options,
    .vtable = &vtable,
};
#ifdef TWO_CLASSES
static const demist_class twin = {
    .size = sizeof twin,
    .kind = DEMIST_SAMPLER,
    .name = "twin",
    .doc = "The other class of the file",
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&specimen, &twin, NULL};
#else
static const demist_class *const classes[] = {&specimen, NULL};
#endif

#ifdef NO_SYMBOL
/* Just a library. */
DEMIST_EXPORT const void *just_a_library(void);
const void *just_a_library(void)
{
    return classes;
}
#else
DEMIST_PLUGIN(specimen) = {
    .size = PLUGIN_SIZE,
    .abi_epoch = EPOCH,
    .abi_minor = MINOR,
    .abi_minor_needed = MINOR_NEEDED,
    .id = "org.example.specimen",
    .version = "2.5",
    .license = "MIT",
    .url = "https://example.org/specimen",
    .classes = classes,
};
#endif

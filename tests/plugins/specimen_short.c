/* A schedule whose vtable ends before the optional `eval`, as if built with headers that did not
 * have it yet. What lies behind it in memory is no function and must not be read. */
#include <demist/schedule.h>

static demist_status create(const demist_host *host, const demist_value *const *values, void **self)
{
    static char nothing;
    *self = &nothing;
    return DEMIST_OK;
}

static void destroy(void *self)
{
}

static demist_status fill(void *self, demist_tables *tables)
{
    tables->form = DEMIST_VARIANCE_PRESERVING;
    for (int64_t i = 0; i < tables->n; i++)
        tables->beta[i] = 0.25;
    return DEMIST_OK;
}

static const struct {
    size_t size;
    demist_status (*create)(const demist_host *, const demist_value *const *, void **);
    void (*destroy)(void *);
    demist_status (*fill)(void *, demist_tables *);
    const char *behind;
} vtable = {offsetof(demist_schedule_vtable, eval), create, destroy, fill, "no function"};

static const demist_class schedule = {
    .size = sizeof schedule,
    .kind = DEMIST_SCHEDULE,
    .name = "short",
    .doc = "Every beta is 1/4",
    .vtable = &vtable,
};
static const demist_class *const classes[] = {&schedule, NULL};

DEMIST_PLUGIN(specimen_short) = {
    .size = sizeof(demist_plugin),
    .abi_epoch = DEMIST_ABI_EPOCH,
    .abi_minor = DEMIST_ABI_MINOR,
    .id = "org.example.short",
    .version = "1",
    .license = "MIT",
    .url = "",
    .classes = classes,
};

/* What a plugin exports: one const descriptor. Reading it runs no code of the plugin's, and a
 * plugin has no constructors that do work.
 *
 *     static const demist_class ddim = {
 *         .size = sizeof ddim, .kind = DEMIST_SAMPLER, .name = "ddim",
 *         .doc = "…", .options = ddim_options, .vtable = &ddim_vtable };
 *     static const demist_class *const classes[] = {&ddim, NULL};
 *     DEMIST_PLUGIN(sampler_ddim) = {
 *         sizeof(demist_plugin), DEMIST_ABI_EPOCH, DEMIST_ABI_MINOR, 0, "demist.sampler-ddim",
 *         "0.1.0", "MIT", "", classes };
 *
 * A class `sampler ddim` is found as sampler-ddim.so; a file with several classes has links. */
#ifndef DEMIST_PLUGIN_H
#define DEMIST_PLUGIN_H

#include <demist/abi.h>
#include <demist/host.h>
#include <demist/options.h>
#include <demist/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Append-only. */
typedef enum demist_kind {
    DEMIST_SCHEDULE = 1, /* demist/schedule.h */
    DEMIST_SAMPLER = 2,  /* demist/sampler.h */
    DEMIST_NETWORK = 3,  /* demist/network.h */
    DEMIST_BACKEND = 4,  /* demist/backend.h */
} demist_kind;

typedef struct demist_class {
    size_t size;
    demist_kind kind;
    const char *name;                    /* [a-z0-9_-]+ */
    const char *doc;                     /* one line */
    const demist_option *const *options; /* NULL-ended; NULL: none */
    const void *vtable;                  /* demist_schedule_vtable, … by kind */
} demist_class;

typedef struct demist_plugin {
    size_t size;
    uint32_t abi_epoch;                 /* DEMIST_ABI_EPOCH it was built against */
    uint32_t abi_minor;                 /* DEMIST_ABI_MINOR it was built against */
    uint32_t abi_minor_needed;          /* the oldest host minor it works with */
    const char *id;                     /* reverse-DNS or dotted, unique: "org.example.heun" */
    const char *version;                /* the plugin's own */
    const char *license;                /* SPDX */
    const char *url;                    /* "" where there is none */
    const demist_class *const *classes; /* NULL-ended */
} demist_plugin;

/* Defines the descriptor. Built with DEMIST_STATIC_PLUGINS, each plugin has a symbol of its own,
 * so that several can be linked into one program (demist_session_static_plugins in
 * demist/demist.h). */
#ifdef __cplusplus
#define DEMIST_PLUGIN_LINKAGE extern "C"
#else
#define DEMIST_PLUGIN_LINKAGE extern
#endif
#ifdef DEMIST_STATIC_PLUGINS
#define DEMIST_PLUGIN_SYMBOL(name) demist_plugin_v1_##name
#else
#define DEMIST_PLUGIN_SYMBOL(name) demist_plugin_v1
#endif
#define DEMIST_PLUGIN(name)                                                                        \
    DEMIST_PLUGIN_LINKAGE DEMIST_EXPORT const demist_plugin DEMIST_PLUGIN_SYMBOL(name);            \
    const demist_plugin DEMIST_PLUGIN_SYMBOL(name)

#ifdef __cplusplus
}
#endif
#endif

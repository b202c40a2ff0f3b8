/* A run's description: the sections of an INI file that are the program's own, as typed values.
 *
 * Plugins' sections, [KIND.NAME], are validated against the schemas that the plugins declare,
 * when they are loaded (setup.h). */
#ifndef DM_RUNCONFIG_H
#define DM_RUNCONFIG_H

#include "inifile.h"
#include "noisesource.h"
#include "outputs.h"
#include "schema.h"

enum dm_start { DM_START_NORMAL, DM_START_HALF_CIRCLE, DM_START_FILE };
enum dm_tristate { DM_AUTO, DM_TRUE, DM_FALSE };

/* Texts belong to the arena that it was parsed into; "" where nothing was given. */
struct dm_run_config {
    struct {
        const char *use;
        int precision; /* demist_precision */
    } backend;
    struct {
        const char *use;
        int64_t steps; /* T */
    } schedule;
    struct {
        const char *use, *checkpoint, *prefix;
    } network;
    struct {
        const char *use;
    } sampler;
    struct {
        const char *steps;
        int leading_offset;
        bool course_wrap;
        int64_t images, first;
        int64_t batch; /* 0: auto */
        uint64_t seed;
        const char *labels, *context; /* lists, or @FILE with FILE resolved */
        enum dm_tristate clip_denoised;
        double dynamic_threshold; /* the quantile; 0: none */
        bool encode;              /* direction: from data to x_T */
        enum dm_start start;
        const char *start_file;
        double guidance_scale;
        const char *low_res;
    } sample;
    struct {
        enum dm_noise_kind source;
        const char *file;
        enum dm_noise_draws draws;
    } noise;
    struct {
        const char *dir;
        unsigned formats; /* dm_format */
        int columns;      /* 0: near-square */
        int scale;        /* 0: small images are enlarged until they can be seen */
        int rounding;     /* dm_image_rounding */
        int every;        /* intermediates every so many steps; 0: none */
    } output;
};

/* Parses and validates the program's own sections; errors start with FILE:LINE. */
demist_status dm_run_config_parse(const struct dm_ini *ini, struct dm_arena *arena,
                                  struct dm_run_config *config, struct dm_error *err);

/* A section of the program's own and its schema. */
struct dm_core_section {
    const char *name, *doc;
    const demist_option *const *options;
};
extern const struct dm_core_section dm_core_sections[]; /* ends with a NULL name */

#endif

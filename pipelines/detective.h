/* What network a checkpoint is of, told by the names and shapes of its tensors, and a run's
 * description for it.
 *
 * Shapes reveal much, but not everything: heads, the schedule, how time is scaled. What they do not
 * reveal is assumed, and said so, with the other candidates; ranking.h ranks those on data. */
#ifndef DM_DETECTIVE_H
#define DM_DETECTIVE_H

#include "tensorfile.h"
#include "text.h"

enum dm_found_network { DM_FOUND_MLP, DM_FOUND_CONTEXT_UNET, DM_FOUND_UNET };

enum dm_setting_origin {
    DM_FROM_SHAPES, /* certain */
    DM_ASSUMED,     /* shapes do not reveal it */
    DM_PROBED,      /* the best of the candidates on data */
    DM_CHOSEN,      /* the user's to choose: sampler, images … */
};

/* One line of the description. */
struct dm_setting {
    const char *section, *key, *value;
    enum dm_setting_origin origin;
    const char *comment; /* why, and what else it may be; NULL: nothing to say */
};

enum { DM_MAX_SETTINGS = 64, DM_MAX_FOUND_LEVELS = 12, DM_MAX_FOUND = 64 };

/* Texts belong to the arena. */
struct dm_finding {
    struct dm_arena arena;
    enum dm_found_network network;
    const char *what;   /* a sentence about it */
    const char *prefix; /* "" or without its last dot */
    const char *others[DM_MAX_FOUND];
    int n_others; /* further prefixes with a network of this kind */
    struct dm_setting settings[DM_MAX_SETTINGS];
    int n_settings;

    /* What a probe needs. */
    int rank;         /* of one datum: 3 or 1 */
    int64_t shape[3]; /* the image's rows and columns as assumed or given */
    int64_t n_classes;
    bool learn_sigma, super_resolution;
    int n_levels;                           /* unet */
    int64_t width[DM_MAX_FOUND_LEVELS];     /* channels of a level */
    int64_t attention[DM_MAX_FOUND_LEVELS]; /* channels where there is attention, else 0 */
};

/* Below which prefix to look (NULL: below all), and the images' size (0: not known). */
struct dm_hints {
    const char *prefix;
    int64_t image_size;
};

/* Recognises and derives. INCOMPATIBLE with a sentence about what was looked for and what is there
 * instead; `path` is for it. dm_finding_finish on DEMIST_OK. */
demist_status dm_examine(const struct dm_checkpoint *ckpt, const char *path,
                         const struct dm_hints *hints, struct dm_finding *finding,
                         struct dm_error *err);
void dm_finding_finish(struct dm_finding *finding);

/* The value, NULL where there is none. */
const char *dm_finding_get(const struct dm_finding *finding, const char *section, const char *key);

/* Sets or adds a line. The strings are copied; false without memory or room. */
bool dm_finding_set(struct dm_finding *finding, const char *section, const char *key,
                    const char *value, enum dm_setting_origin origin, const char *comment);

/* Removes a section's lines. */
void dm_finding_drop(struct dm_finding *finding, const char *section);

/* Appends the commented INI file, with the checkpoint's path as it is to be written there (best an
 * absolute one). A path that no line of an INI file can hold is left to --set, and a comment says
 * so. */
void dm_finding_print(const struct dm_finding *finding, const char *checkpoint,
                      struct dm_text *out);

/* Appends the text as comment lines, broken at blanks; its own line breaks stay. */
void dm_comment(struct dm_text *out, const char *text);

#endif

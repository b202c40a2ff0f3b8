/* demist inspect --ini: a run's description for a checkpoint. */
#ifndef INSPECT_INI_H
#define INSPECT_INI_H

#include "command.h"

struct inspect_ini {
    const char *path;   /* of the checkpoint */
    const char *data;   /* --probe; NULL: none */
    const char *prefix; /* --prefix; NULL: any */
    bool json;
};

/* Appends the INI file, or the JSON object, to `out`. */
demist_status inspect_ini(struct common *common, const struct inspect_ini *options,
                          struct dm_text *out, struct dm_error *err);

#endif

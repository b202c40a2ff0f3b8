/* A run's output directory and its rule: a file of another run is never touched.
 *
 * Of NAME.png, NAME-2.png … a file takes the first name that is free or that belongs to the same
 * run. The same run is known by its description, which PNG, SVG and safetensors files carry; of the
 * other formats a file is the same run's only when its bytes are equal. An incomplete result
 * replaces nothing but its equal, so that an interrupted run does not cost a finished one's files.
 */
#ifndef DM_OUTPUTDIR_H
#define DM_OUTPUTDIR_H

#include "fileio.h"
#include "log.h"

struct dm_outputdir {
    char *path;              /* ends with a slash; owned */
    const char *description; /* borrowed */
    bool overwrite;          /* files of others are replaced too */
    const struct dm_log *log;
    char **files; /* what was written, in that order; owned */
    size_t n_files, capacity;
    size_t n_renamed; /* of these, the ones under a numbered name */
};

#define DM_OUTPUTDIR_INIT ((struct dm_outputdir){0})

/* Makes the directory where it is missing. The texts are borrowed, log may be NULL. The caller
 * finishes it also after a failure. */
demist_status dm_outputdir_open(struct dm_outputdir *dir, const char *path, const char *description,
                                bool overwrite, const struct dm_log *log, struct dm_error *err);
void dm_outputdir_finish(struct dm_outputdir *dir);

/* Whether a file of that name could be written: known before the hours that make its content. */
demist_status dm_outputdir_probe(const struct dm_outputdir *dir, const char *name,
                                 struct dm_error *err);

/* Opens a file for dm_outfile_write; dm_outputdir_commit gives it its name, by the rule above, and
 * a notice tells where that is not the one asked for. The caller finishes `out` in every case.
 * Several threads or processes may commit to one directory, each with a dm_outputdir of its own. */
demist_status dm_outputdir_begin(const struct dm_outputdir *dir, const char *name,
                                 struct dm_outfile *out, struct dm_error *err);
demist_status dm_outputdir_commit(struct dm_outputdir *dir, struct dm_outfile *out, bool complete,
                                  struct dm_error *err);

/* begin, write and commit of bytes in memory. */
demist_status dm_outputdir_put(struct dm_outputdir *dir, const char *name, const void *bytes,
                               size_t size, bool complete, struct dm_error *err);

#endif

/* A file that is ready in memory: the steps of fileio.h in one call. Apart from fileio.c, for it is
 * a user of that interface like any other. */
#include "fileio.h"

demist_status dm_write_file(const char *path, const void *bytes, size_t size, char **taken,
                            struct dm_error *err)
{
    struct dm_outfile out;
    if (taken)
        *taken = NULL;
    DM_TRY(dm_outfile_open(&out, path, err));
    demist_status status = dm_outfile_write(&out, bytes, size, err);
    if (status == DEMIST_OK)
        status = taken ? dm_outfile_commit_new(&out, err) : dm_outfile_commit(&out, err);
    if (status == DEMIST_OK && taken) {
        *taken = out.path;
        out.path = NULL;
    }
    dm_outfile_finish(&out);
    return status;
}

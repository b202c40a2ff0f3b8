/* Files: reading whole ones, and writing such that a name holds a complete file or what it held
 * before. */
#ifndef DM_FILEIO_H
#define DM_FILEIO_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>

/* Reads all of a file (a pipe or device too) into *data, for free(), with a NUL behind its *size
 * bytes. DEMIST_NOT_FOUND, DEMIST_IO, or DEMIST_FORMAT where it has more than `max_bytes`. */
demist_status dm_read_file(const char *path, size_t max_bytes, char **data, size_t *size,
                           struct dm_error *err);

/* A file in the making:
 *
 *     dm_outfile_open → dm_outfile_write … → dm_outfile_commit or _commit_new → dm_outfile_finish
 *
 * The bytes go to a temporary name in the same directory, with the permissions that the umask
 * leaves. Nothing is synced: a rename is for readers and interrupted runs, not for power cuts. A
 * path that is a symbolic link stands for the file it points to; a device or pipe is written as it
 * is, at once. Every failure is DEMIST_IO with the path and the system's reason. One thread at a
 * time. */
struct dm_outfile {
    char *path;   /* where the file is once committed; owned */
    char *temp;   /* where it is until then; NULL for a device or pipe, and once committed; owned */
    int fd;       /* −1 when closed */
    int error;    /* errno of the first write that failed; nothing is written after it */
    char *buffer; /* owned */
    size_t used;  /* bytes in the buffer */
};

#define DM_OUTFILE_INIT ((struct dm_outfile){.fd = -1})

demist_status dm_outfile_open(struct dm_outfile *out, const char *path, struct dm_error *err);

/* Appends. The bytes may stay in a buffer, so that an error may surface at a later call. */
demist_status dm_outfile_write(struct dm_outfile *out, const void *bytes, size_t size,
                               struct dm_error *err);

/* Closes the file and gives it its name, replacing what bore it. */
demist_status dm_outfile_commit(struct dm_outfile *out, struct dm_error *err);

/* The same, but replaces nothing: where grid.png exists the file becomes grid-2.png, grid-3.png …,
 * and out->path says which. Two programs at once never take the same name. */
demist_status dm_outfile_commit_new(struct dm_outfile *out, struct dm_error *err);

/* Between the two: of grid.png, grid-2.png … it takes the first name that is free or for which
 * `may_replace` agrees to losing the file that is there; `temp` holds the new file, complete. */
typedef bool dm_may_replace(void *user, const char *path, const char *temp);
demist_status dm_outfile_commit_among(struct dm_outfile *out, dm_may_replace *may_replace,
                                      void *user, struct dm_error *err);

/* Frees all; a file that was not committed is deleted. Accepts DM_OUTFILE_INIT. */
void dm_outfile_finish(struct dm_outfile *out);

/* The whole of a file that is ready in memory: open, write, commit, finish. With `taken` NULL it
 * replaces what bore the name, otherwise nothing, and *taken is the name it got, for free(). */
demist_status dm_write_file(const char *path, const void *bytes, size_t size, char **taken,
                            struct dm_error *err);

/* "out/grid.png", 2 → "out/grid-2.png", a string for free(); the path itself for 1. NULL when out
 * of memory. */
char *dm_numbered_path(const char *path, int number);

/* Makes a directory and those above it, where they are missing; mode: what the umask is taken
 * from, 0777 or 0700. */
demist_status dm_make_dirs(const char *path, unsigned mode, struct dm_error *err);

/* A file of the user's by the XDG base directory specification, a string for free() in *path:
 * $VARIABLE/file ("XDG_CACHE_HOME"), or ~/below_home/file (".cache") where that is not set. A
 * relative directory is as none, and NULL says that there is none; a setuid process has none. */
demist_status dm_user_path(const char *variable, const char *below_home, const char *file,
                           char **path, struct dm_error *err);

/* The directory part of a path with its slash, "" when it has none. A string for free(). */
char *dm_path_dir(const char *path);

/* `path` as seen from `dir` ("" or ending in a slash, as dm_path_dir gives it): an absolute path is
 * itself. A string for free(); NULL when out of memory. */
char *dm_path_resolve(const char *dir, const char *path);

#endif

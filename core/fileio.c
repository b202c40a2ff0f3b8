/* Files: see fileio.h. */
#define _GNU_SOURCE /* renameat2, secure_getenv */
#include "fileio.h"

#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 64 << 10, MOST_NAMES = 100000 };

static demist_status fail_read(struct dm_error *err, const char *path, int error)
{
    bool absent = error == ENOENT || error == ENOTDIR;
    return dm_fail(err, absent ? DEMIST_NOT_FOUND : DEMIST_IO, "cannot read \"%s\": %s", path,
                   strerror(error));
}

static demist_status fail_write(struct dm_error *err, const char *path, int error)
{
    return dm_fail(err, DEMIST_IO, "cannot write \"%s\": %s", path, strerror(error));
}

/* Appends up to `size` bytes of fd; 0 or an errno. *end: there were fewer. */
static int read_some(int fd, struct dm_text *text, size_t size, bool *end)
{
    char piece[16 << 10];
    size_t want = size < sizeof piece ? size : sizeof piece;
    ssize_t n = read(fd, piece, want);
    if (n < 0)
        return errno == EINTR ? 0 : errno;
    *end = n == 0;
    dm_text_append_bytes(text, piece, (size_t)n);
    return text->failed ? ENOMEM : 0;
}

demist_status dm_read_file(const char *path, size_t max_bytes, char **data, size_t *size,
                           struct dm_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_read(err, path, errno);
    struct dm_text text = DM_TEXT_INIT;
    bool end = false;
    int error = 0;
    while (!error && !end && text.size <= max_bytes)
        error = read_some(fd, &text, max_bytes - text.size + 1, &end);
    close(fd);

    demist_status status = DEMIST_OK;
    if (error == ENOMEM)
        status = dm_fail_memory(err, path);
    else if (error)
        status = fail_read(err, path, error);
    else if (text.size > max_bytes)
        status = dm_fail(err, DEMIST_FORMAT, "\"%s\" is larger than the %zu bytes allowed here",
                         path, max_bytes);
    size_t n = text.size;
    char *bytes = status ? NULL : dm_text_take(&text);
    dm_text_finish(&text);
    if (!status && !bytes)
        status = dm_fail_memory(err, path);
    if (status)
        return status;
    *data = bytes;
    *size = n;
    return DEMIST_OK;
}

char *dm_path_dir(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strndup(path, slash ? (size_t)(slash - path) + 1 : 0);
}

char *dm_path_resolve(const char *dir, const char *path)
{
    struct dm_text text = DM_TEXT_INIT;
    if (*path != '/')
        dm_text_append(&text, dir);
    dm_text_append(&text, path);
    return dm_text_take(&text);
}

char *dm_numbered_path(const char *path, int number)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    if (!dot || dot == name) /* no extension; ".profile" is all name */
        dot = name + strlen(name);
    struct dm_text text = DM_TEXT_INIT;
    dm_text_append_bytes(&text, path, (size_t)(dot - path));
    if (number != 1)
        dm_text_appendf(&text, "-%d", number);
    dm_text_append(&text, dot);
    return dm_text_take(&text);
}

/* Opens a new file beside `path`. The name is short, whatever the path's own, and O_EXCL settles
 * who of several takes it; unlike mkstemp's, the mode follows the umask. */
static int open_temp(const char *path, char **temp)
{
    char *dir = dm_path_dir(path);
    int fd = -1, error = dir ? EEXIST : ENOMEM;
    for (int i = 0; fd < 0 && error == EEXIST && i < MOST_NAMES; i++) {
        struct dm_text text = DM_TEXT_INIT;
        dm_text_appendf(&text, "%s.demist-%ld-%d.tmp", dir, (long)getpid(), i);
        char *name = dm_text_take(&text);
        if (!name) {
            error = ENOMEM;
            break;
        }
        fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        error = errno;
        if (fd >= 0)
            *temp = name;
        else
            free(name);
    }
    free(dir);
    errno = error;
    return fd;
}

/* Is there something at the path that can only be written in place? Or that cannot be at all? */
static bool in_place(const char *path, int *error)
{
    struct stat st;
    if (stat(path, &st)) {
        if (errno == ENAMETOOLONG) /* a temporary file would not notice until it gets its name */
            *error = errno;
        return false;
    }
    if (S_ISDIR(st.st_mode))
        *error = EISDIR;
    return !S_ISREG(st.st_mode);
}

demist_status dm_outfile_open(struct dm_outfile *out, const char *path, struct dm_error *err)
{
    *out = DM_OUTFILE_INIT;
    size_t length = strlen(path);
    int error = length == 0 ? ENOENT : path[length - 1] == '/' ? EISDIR : 0;
    bool device = !error && in_place(path, &error);
    if (error)
        return fail_write(err, path, error);

    struct stat st;
    if (!device && lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        out->path = realpath(path, NULL); /* NULL where it points nowhere: the link is replaced */
    if (!out->path)
        out->path = strdup(path);
    out->buffer = malloc(BUFFER);
    if (!out->path || !out->buffer) {
        dm_outfile_finish(out);
        return dm_fail_memory(err, path);
    }
    char *temp = NULL;
    out->fd = device ? open(out->path, O_WRONLY | O_CLOEXEC) : open_temp(out->path, &temp);
    out->temp = temp;
    if (out->fd < 0) {
        error = errno;
        dm_outfile_finish(out);
        return fail_write(err, path, error);
    }
    return DEMIST_OK;
}

/* 0 or an errno. */
static int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        bytes += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Writes past the buffer; the first error is remembered and ends it all. */
static void write_through(struct dm_outfile *out, const char *bytes, size_t size)
{
    if (!out->error)
        out->error = write_all(out->fd, bytes, size);
}

static void flush(struct dm_outfile *out)
{
    write_through(out, out->buffer, out->used);
    out->used = 0;
}

demist_status dm_outfile_write(struct dm_outfile *out, const void *bytes, size_t size,
                               struct dm_error *err)
{
    if (out->fd < 0)
        return dm_fail(err, DEMIST_INVALID, "a file that is not open cannot be written");
    if (size > BUFFER - out->used)
        flush(out);
    if (size >= BUFFER)
        write_through(out, bytes, size);
    else if (size > 0) {
        memcpy(out->buffer + out->used, bytes, size);
        out->used += size;
    }
    return out->error ? fail_write(err, out->path, out->error) : DEMIST_OK;
}

static demist_status close_written(struct dm_outfile *out, struct dm_error *err)
{
    if (out->fd < 0)
        return dm_fail(err, DEMIST_INVALID, "\"%s\" is not open", out->path ? out->path : "");
    flush(out);
    if (close(out->fd) && !out->error && errno != EINTR)
        out->error = errno; /* some file systems tell only now that the disk is full */
    out->fd = -1;
    return out->error ? fail_write(err, out->path, out->error) : DEMIST_OK;
}

demist_status dm_outfile_commit(struct dm_outfile *out, struct dm_error *err)
{
    DM_TRY(close_written(out, err));
    if (!out->temp)
        return DEMIST_OK;
    if (rename(out->temp, out->path))
        return fail_write(err, out->path, errno);
    free(out->temp);
    out->temp = NULL;
    return DEMIST_OK;
}

/* 0 or an errno, EEXIST when the name is taken. */
static int rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return errno;
    if (link(from, to)) /* file systems without the flag, NFS for one, have links */
        return errno;
    unlink(from);
    return 0;
}

/* Gives the file the name `path` if it is free or may be taken; *taken says whether it did. */
static demist_status try_name(struct dm_outfile *out, const char *path, dm_may_replace *may_replace,
                              void *user, bool *taken, struct dm_error *err)
{
    int error = rename_new(out->temp, path);
    if (error == EEXIST) {
        if (!may_replace || !may_replace(user, path, out->temp))
            return DEMIST_OK;
        error = rename(out->temp, path) ? errno : 0;
    }
    if (error)
        return fail_write(err, path, error);
    *taken = true;
    return DEMIST_OK;
}

demist_status dm_outfile_commit_among(struct dm_outfile *out, dm_may_replace *may_replace,
                                      void *user, struct dm_error *err)
{
    DM_TRY(close_written(out, err));
    if (!out->temp)
        return DEMIST_OK;
    for (int number = 1; number <= MOST_NAMES; number++) {
        bool taken = false;
        char *path = dm_numbered_path(out->path, number);
        if (!path)
            return dm_fail_memory(err, out->path);
        demist_status status = try_name(out, path, may_replace, user, &taken, err);
        if (!taken) {
            free(path);
            DM_TRY(status);
            continue;
        }
        free(out->path);
        out->path = path;
        free(out->temp);
        out->temp = NULL;
        return DEMIST_OK;
    }
    return fail_write(err, out->path, EEXIST);
}

demist_status dm_outfile_commit_new(struct dm_outfile *out, struct dm_error *err)
{
    return dm_outfile_commit_among(out, NULL, NULL, err);
}

void dm_outfile_finish(struct dm_outfile *out)
{
    if (out->fd >= 0)
        close(out->fd);
    if (out->temp)
        unlink(out->temp);
    free(out->temp);
    free(out->path);
    free(out->buffer);
    *out = DM_OUTFILE_INIT;
}

/* One directory; existing ones are fine, files of that name are not. */
static demist_status make_dir(const char *path, unsigned mode, struct dm_error *err)
{
    struct stat st;
    if (mkdir(path, (mode_t)mode) == 0)
        return DEMIST_OK;
    int error = errno;
    if (stat(path, &st) == 0) /* also where mkdir fails with EROFS or EACCES on what exists */
        error = S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
    return error ? dm_fail(err, DEMIST_IO, "cannot make the directory \"%s\": %s", path,
                           strerror(error))
                 : DEMIST_OK;
}

demist_status dm_make_dirs(const char *path, unsigned mode, struct dm_error *err)
{
    char *part = strdup(path);
    if (!part)
        return dm_fail_memory(err, path);
    demist_status status = DEMIST_OK;
    for (char *slash = part; !status && *slash && (slash = strchr(slash + 1, '/'));) {
        *slash = '\0';
        status = make_dir(part, mode, err);
        *slash = '/';
    }
    if (!status)
        status = make_dir(part, mode, err);
    free(part);
    return status;
}

demist_status dm_user_path(const char *variable, const char *below_home, const char *file,
                           char **path, struct dm_error *err)
{
    const char *dir = secure_getenv(variable), *home = secure_getenv("HOME");
    struct dm_text text = DM_TEXT_INIT;
    *path = NULL;
    if (dir && dir[0] == '/')
        dm_text_appendf(&text, "%s/%s", dir, file);
    else if (home && home[0] == '/')
        dm_text_appendf(&text, "%s/%s/%s", home, below_home, file);
    else
        return DEMIST_OK;
    *path = dm_text_take(&text);
    return *path ? DEMIST_OK : dm_fail_memory(err, file);
}

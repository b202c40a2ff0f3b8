#include "outputdir.h"

#include "pngfile.h"
#include "tensorfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_NOTICES = 3 };

/* ---------------------------------------------------------------- whose file is it? */

static bool ends_in(const char *path, const char *extension)
{
    size_t n = strlen(path), k = strlen(extension);
    return n >= k && strcmp(path + n - k, extension) == 0;
}

static bool png_says(const char *path, const char *description)
{
    struct dm_png_texts texts;
    if (dm_png_read(NULL, &texts, path, NULL) != DEMIST_OK)
        return false;
    const char *text = dm_png_texts_find(&texts, DM_PNG_KEYWORD);
    bool same = text && strcmp(text, description) == 0;
    dm_png_texts_finish(&texts);
    return same;
}

static bool safetensors_says(const char *path, const char *description)
{
    struct dm_checkpoint *file;
    if (dm_checkpoint_open(path, &file, NULL) != DEMIST_OK)
        return false;
    const char *text = dm_checkpoint_metadata(file, DM_PNG_KEYWORD);
    bool same = text && strcmp(text, description) == 0;
    dm_checkpoint_close(file);
    return same;
}

/* The <desc> of an SVG, a string for free(), or NULL: the first one, which is the run's. */
static char *read_desc(const char *path)
{
    char *data, *desc = NULL;
    size_t size;
    if (dm_read_file(path, DM_PNG_FILE_SIZE_MAX, &data, &size, NULL) != DEMIST_OK)
        return NULL;
    const char *from = strstr(data, "<desc>"), *to = from ? strstr(from, "</desc>") : NULL;
    if (to)
        desc = strndup(from, (size_t)(to - from));
    free(data);
    return desc;
}

static bool svgs_agree(const char *a, const char *b)
{
    char *desc_a = read_desc(a), *desc_b = read_desc(b);
    bool same = desc_a && desc_b && strcmp(desc_a, desc_b) == 0;
    free(desc_a);
    free(desc_b);
    return same;
}

/* As many bytes as there are, up to `size`; less than that only at the end, −1 on an error. */
static ssize_t read_block(int fd, char *block, size_t size)
{
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(fd, block + got, size - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -1 : (ssize_t)got;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

static bool same_content(int a, int b)
{
    enum { BLOCK = 8192 };
    char block_a[BLOCK], block_b[BLOCK];
    for (;;) {
        ssize_t n = read_block(a, block_a, BLOCK), m = read_block(b, block_b, BLOCK);
        if (n < 0 || n != m || memcmp(block_a, block_b, (size_t)n) != 0)
            return false;
        if (n < BLOCK)
            return true;
    }
}

static bool same_bytes(const char *path_a, const char *path_b)
{
    int a = open(path_a, O_RDONLY | O_CLOEXEC), b = open(path_b, O_RDONLY | O_CLOEXEC);
    struct stat st_a, st_b;
    bool same = a >= 0 && b >= 0 && fstat(a, &st_a) == 0 && fstat(b, &st_b) == 0 &&
                st_a.st_size == st_b.st_size && same_content(a, b);
    if (a >= 0)
        close(a);
    if (b >= 0)
        close(b);
    return same;
}

/* ---------------------------------------------------------------- the rule */

struct decision {
    const struct dm_outputdir *dir;
    bool complete, locked;
};

/* A dm_may_replace. */
static bool may_replace(void *user, const char *path, const char *temp)
{
    const struct decision *decision = user;
    const char *description = decision->dir->description;
    struct stat st;
    if (lstat(path, &st) || !S_ISREG(st.st_mode))
        return false; /* a link or pipe of somebody's; reading it could wait for ever */
    if (decision->dir->overwrite)
        return true;
    if (!decision->locked)
        return false;
    if (same_bytes(path, temp))
        return true;
    if (!decision->complete)
        return false;
    if (ends_in(path, ".png"))
        return png_says(path, description);
    if (ends_in(path, ".svg"))
        return svgs_agree(path, temp);
    return ends_in(path, ".safetensors") && safetensors_says(path, description);
}

/* Another run must not put its file where one of ours was just seen. The lock is on the directory
 * and goes with the descriptor; −1 where the file system has none. */
static int lock_dir_of(const char *path)
{
    char *dir = dm_path_dir(path);
    int fd = dir ? open(*dir ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(dir);
    int failed = -1;
    while (fd >= 0 && (failed = flock(fd, LOCK_EX)) != 0 && errno == EINTR)
        continue;
    if (fd >= 0 && failed) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static demist_status remember(struct dm_outputdir *dir, const char *path, struct dm_error *err)
{
    if (dir->n_files == dir->capacity) {
        size_t capacity = dir->capacity ? 2 * dir->capacity : 16;
        char **files = realloc(dir->files, capacity * sizeof *files);
        if (!files)
            return dm_fail_memory(err, "a list of files");
        dir->files = files;
        dir->capacity = capacity;
    }
    char *copy = strdup(path);
    if (!copy)
        return dm_fail_memory(err, "a list of files");
    dir->files[dir->n_files++] = copy;
    return DEMIST_OK;
}

/* Thousands of single pictures need not say it thousands of times. */
static void notify(struct dm_outputdir *dir, const char *wanted, const char *path, bool complete)
{
    if (dir->n_renamed++ < MOST_NOTICES)
        dm_log(dir->log, DM_LOG_WARNING, "\"%s\" is %s: this one is \"%s\" (--overwrite replaces)",
               wanted, complete ? "of another run" : "not of this incomplete result", path);
    else if (dir->n_renamed == MOST_NOTICES + 1)
        dm_log(dir->log, DM_LOG_WARNING, "further numbered names are not told one by one");
}

demist_status dm_outputdir_commit(struct dm_outputdir *dir, struct dm_outfile *out, bool complete,
                                  struct dm_error *err)
{
    char *wanted = out->path ? strdup(out->path) : NULL;
    if (!wanted)
        return dm_fail_memory(err, "the name of a file");
    int lock = lock_dir_of(wanted);
    struct decision decision = {dir, complete, lock >= 0};
    demist_status status = dm_outfile_commit_among(out, may_replace, &decision, err);
    if (lock >= 0)
        close(lock);
    if (status == DEMIST_OK) {
        if (strcmp(wanted, out->path) != 0)
            notify(dir, wanted, out->path, complete);
        status = remember(dir, out->path, err);
    }
    free(wanted);
    return status;
}

static char *path_in(const struct dm_outputdir *dir, const char *name, struct dm_error *err)
{
    char *path = dm_path_resolve(dir->path, name);
    if (!path)
        dm_fail_memory(err, name);
    return path;
}

demist_status dm_outputdir_begin(const struct dm_outputdir *dir, const char *name,
                                 struct dm_outfile *out, struct dm_error *err)
{
    *out = DM_OUTFILE_INIT;
    char *path = path_in(dir, name, err);
    if (!path)
        return DEMIST_NO_MEMORY;
    demist_status status = dm_outfile_open(out, path, err);
    free(path);
    return status;
}

demist_status dm_outputdir_probe(const struct dm_outputdir *dir, const char *name,
                                 struct dm_error *err)
{
    struct dm_outfile out;
    demist_status status = dm_outputdir_begin(dir, name, &out, err);
    dm_outfile_finish(&out);
    return status;
}

demist_status dm_outputdir_put(struct dm_outputdir *dir, const char *name, const void *bytes,
                               size_t size, bool complete, struct dm_error *err)
{
    struct dm_outfile out;
    demist_status status = dm_outputdir_begin(dir, name, &out, err);
    if (status == DEMIST_OK)
        status = dm_outfile_write(&out, bytes, size, err);
    if (status == DEMIST_OK)
        status = dm_outputdir_commit(dir, &out, complete, err);
    dm_outfile_finish(&out);
    return status;
}

/* ---------------------------------------------------------------- open, finish */

demist_status dm_outputdir_open(struct dm_outputdir *dir, const char *path, const char *description,
                                bool overwrite, const struct dm_log *log, struct dm_error *err)
{
    *dir = (struct dm_outputdir){.description = description, .overwrite = overwrite, .log = log};
    size_t n = strlen(path);
    if (n == 0)
        return dm_fail(err, DEMIST_CONFIG, "[output] dir is empty: \".\" is the working directory");
    dir->path = malloc(n + 2);
    if (!dir->path)
        return dm_fail_memory(err, path);
    memcpy(dir->path, path, n);
    memcpy(dir->path + n, "/", 2);
    if (path[n - 1] == '/')
        dir->path[n] = '\0';
    return dm_make_dirs(path, 0777, err);
}

void dm_outputdir_finish(struct dm_outputdir *dir)
{
    for (size_t i = 0; i < dir->n_files; i++)
        free(dir->files[i]);
    free(dir->files);
    free(dir->path);
    *dir = DM_OUTPUTDIR_INIT;
}

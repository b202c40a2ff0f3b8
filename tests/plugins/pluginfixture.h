/* Directories of plugins, made for one test: empty ones in $TMPDIR that belong to the user alone,
 * into which a test copies specimens. */
#ifndef PLUGINFIXTURE_H
#define PLUGINFIXTURE_H

#define _XOPEN_SOURCE 700 /* nftw */

#include "testing.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    char dir[256];
};

static inline int fixture_set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    const char *tmp = getenv("TMPDIR");
    snprintf(fixture->dir, sizeof fixture->dir, "%s/demist-plugins-XXXXXX", tmp ? tmp : "/tmp");
    umask(022);
    *state = fixture;
    return mkdtemp(fixture->dir) ? 0 : -1;
}

static inline int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    return remove(path);
}

static inline int fixture_tear_down(void **state)
{
    struct fixture *fixture = *state;
    int failed = nftw(fixture->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(fixture);
    return failed;
}

/* The path of something in the fixture's directory; a static buffer a call. */
static inline const char *path_in(void **state, const char *name)
{
    static char paths[8][512];
    static int next;
    struct fixture *fixture = *state;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", fixture->dir, name);
    return path;
}

static inline const char *make_dir(void **state, const char *name)
{
    const char *path = path_in(state, name);
    assert_int_equal(mkdir(path, 0755), 0);
    return path;
}

static inline const char *write_text(void **state, const char *name, const char *text)
{
    const char *path = path_in(state, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
    return path;
}

/* Copies the first `size` bytes of a specimen, or all of it for size < 0. */
static inline const char *copy_part(void **state, const char *specimen, const char *name, long size)
{
    char from[512];
    snprintf(from, sizeof from, "%s/specimen-%s.so", SPECIMEN_DIR, specimen);
    FILE *in = fopen(from, "rb");
    if (!in)
        fail_msg("%s is missing", from);
    const char *path = path_in(state, name);
    remove(path); /* what is loaded must not change */
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    for (int c; size != 0 && (c = getc(in)) != EOF; size--)
        putc(c, out);
    fclose(in);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(chmod(path, 0755), 0);
    return path;
}

static inline const char *copy_specimen(void **state, const char *specimen, const char *name)
{
    return copy_part(state, specimen, name, -1);
}

#endif

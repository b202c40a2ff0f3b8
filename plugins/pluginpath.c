#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* secure_getenv */
#endif
#include "pluginpath.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fileio.h"
#include "inifile.h"
#include "schema.h"

#ifndef DM_PLUGIN_DIR
#error "DM_PLUGIN_DIR is where plugins are installed: the build defines it"
#endif

void dm_plugin_path_finish(struct dm_plugin_path *path)
{
    dm_arena_finish(&path->arena);
    *path = (struct dm_plugin_path){0};
}

demist_status dm_plugin_path_add(struct dm_plugin_path *path, const char *dir, const char *origin,
                                 struct dm_error *err)
{
    if (dir[0] != '/')
        return dm_fail(err, DEMIST_CONFIG,
                       "%s: \"%s\" is a relative plugin directory: name it from the root, as "
                       "/home/me/plugins, so that it does not depend on the working directory",
                       origin, dir);
    for (size_t i = 0; i < path->n_dirs; i++)
        if (strcmp(path->dirs[i].path, dir) == 0)
            return DEMIST_OK;
    /* Grown by copying: a path has a handful of entries. */
    struct dm_plugin_dir *dirs = dm_arena_array(&path->arena, path->n_dirs + 1, sizeof *dirs);
    const char *dir_copy = dm_arena_strdup(&path->arena, dir);
    const char *origin_copy = dm_arena_strdup(&path->arena, origin);
    if (!dirs || !dir_copy || !origin_copy)
        return dm_fail_memory(err, "the plugin path");
    if (path->n_dirs)
        memcpy(dirs, path->dirs, path->n_dirs * sizeof *dirs);
    dirs[path->n_dirs++] = (struct dm_plugin_dir){dir_copy, origin_copy};
    path->dirs = dirs;
    return DEMIST_OK;
}

demist_status dm_plugin_path_add_list(struct dm_plugin_path *path, const char *dirs,
                                      const char *origin, struct dm_error *err)
{
    while (*dirs) {
        size_t length = strcspn(dirs, ":");
        if (length > 0) {
            char *dir = dm_arena_strndup(&path->arena, dirs, length);
            if (!dir)
                return dm_fail_memory(err, "the plugin path");
            DM_TRY(dm_plugin_path_add(path, dir, origin, err));
        }
        dirs += length + (dirs[length] == ':');
    }
    return DEMIST_OK;
}

/* Whether nobody but root and the effective user can change what it is. */
static demist_status check_trust(const struct stat *info, const char *what, const char *dir,
                                 const char *name, struct dm_error *err)
{
    const char *slash = name[0] ? "/" : "";
    if (info->st_uid != 0 && info->st_uid != geteuid())
        return dm_fail(err, DEMIST_CONFIG,
                       "%s%s%s: this %s belongs to user %u, and is not trusted with running code: "
                       "it must belong to root or to you (chown)",
                       dir, slash, name, what, (unsigned)info->st_uid);
    if (info->st_mode & (S_IWGRP | S_IWOTH))
        return dm_fail(err, DEMIST_CONFIG,
                       "%s%s%s: this %s can be written by others (mode %04o), and is not trusted "
                       "with running code: chmod go-w %s%s%s",
                       dir, slash, name, what, (unsigned)(info->st_mode & 07777), dir, slash, name);
    return DEMIST_OK;
}

demist_status dm_open_plugin_dir(const char *path, int *fd, struct dm_error *err)
{
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0) {
        int code = errno;
        return dm_fail(err, code == ENOENT ? DEMIST_NOT_FOUND : DEMIST_IO, "%s: %s", path,
                       code == ENOENT ? "no such directory" : strerror(code));
    }
    struct stat info;
    if (fstat(*fd, &info) != 0) {
        dm_fail(err, DEMIST_IO, "%s: %s", path, strerror(errno));
        close(*fd);
        *fd = -1;
        return DEMIST_IO;
    }
    return check_trust(&info, "plugin directory", path, "", err);
}

static demist_status check_plugin_file(int fd, const char *dir, const char *name,
                                       struct dm_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return dm_fail(err, DEMIST_IO, "%s/%s: %s", dir, name, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return dm_fail(err, DEMIST_FORMAT, "%s/%s is not a regular file", dir, name);
    return check_trust(&info, "plugin", dir, name, err);
}

demist_status dm_open_plugin_file(int dir_fd, const char *dir, const char *name, int *fd,
                                  struct dm_error *err)
{
    *fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    if (*fd < 0) {
        int code = errno;
        struct stat info;
        if (code == ENOENT && fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0)
            return dm_fail(err, DEMIST_IO, "%s/%s is a link to nothing: remove or renew it", dir,
                           name);
        return dm_fail(err, code == ENOENT ? DEMIST_NOT_FOUND : DEMIST_IO, "%s/%s: %s", dir, name,
                       strerror(code));
    }
    demist_status status = check_plugin_file(*fd, dir, name, err);
    if (status != DEMIST_OK) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

/* --- the standing places --- */

static const demist_option path_option = {
    .size = sizeof path_option,
    .key = "path",
    .doc = "Directories to search for plugins, from the root, with colons between them",
    .type = DEMIST_OPTION_STRING,
    .default_value = "",
};
static const demist_option *const user_options[] = {&path_option, NULL};
static const char *const user_sections[] = {"plugins", NULL};

static demist_status add_user_path(struct dm_plugin_path *path, const struct dm_ini *ini,
                                   struct dm_error *err)
{
    const demist_value *const *values;
    DM_TRY(dm_schema_check_sections(ini, user_sections, err));
    DM_TRY(dm_schema_parse(ini, "plugins", user_options, &path->arena, &values, err));
    const struct dm_ini_entry *entry = dm_ini_find(ini, "plugins", "path");
    return entry ? dm_plugin_path_add_list(path, values[0]->text, entry->where, err) : DEMIST_OK;
}

/* The file names directories that code is loaded from: what goes for them goes for it. */
static demist_status check_user_file(const char *file, struct dm_error *err)
{
    struct stat info;
    if (stat(file, &info) != 0)
        return dm_fail(err, DEMIST_IO, "%s: %s", file, strerror(errno));
    return check_trust(&info, "list of plugin directories", file, "", err);
}

static demist_status read_user_file(struct dm_plugin_path *path, const char *file,
                                    struct dm_error *err)
{
    struct dm_ini *ini;
    DM_TRY(check_user_file(file, err));
    DM_TRY(dm_ini_read_file(file, &ini, err));
    demist_status status = add_user_path(path, ini, err);
    dm_ini_destroy(ini);
    return status;
}

static demist_status add_user_file(struct dm_plugin_path *path, struct dm_error *err)
{
    char *file;
    DM_TRY(dm_user_path("XDG_CONFIG_HOME", ".config", "demist/demist.ini", &file, err));
    demist_status status = DEMIST_OK;
    if (file && access(file, F_OK) == 0)
        status = read_user_file(path, file, err);
    free(file);
    return status;
}

demist_status dm_plugin_path_add_defaults(struct dm_plugin_path *path, struct dm_error *err)
{
    DM_TRY(add_user_file(path, err));
    const char *environment = secure_getenv("DEMIST_PLUGIN_PATH");
    if (environment)
        DM_TRY(dm_plugin_path_add_list(path, environment, "DEMIST_PLUGIN_PATH", err));
    return dm_plugin_path_add(path, DM_PLUGIN_DIR, "the installation", err);
}

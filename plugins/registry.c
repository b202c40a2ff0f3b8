#include "registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loader.h"
#include "text.h"

struct found {
    struct found *next;
    const struct dm_class *class;
};

struct dm_registry {
    struct dm_arena arena;
    const struct dm_plugin_path *path;
    const demist_plugin *const *linked;
    struct found *found;
};

demist_status dm_registry_create(const struct dm_plugin_path *path,
                                 const demist_plugin *const *linked, struct dm_registry **registry,
                                 struct dm_error *err)
{
    struct dm_registry *self = calloc(1, sizeof *self);
    if (!self)
        return dm_fail_memory(err, "the plugin registry");
    self->path = path;
    self->linked = linked;
    *registry = self;
    return DEMIST_OK;
}

void dm_registry_destroy(struct dm_registry *registry)
{
    if (!registry)
        return;
    dm_arena_finish(&registry->arena);
    free(registry);
}

/* --- names --- */

/* "sampler-ddim.so" -> DEMIST_SAMPLER, "ddim" in the arena; false when it is no such name. */
static bool parse_file_name(struct dm_arena *arena, const char *file, demist_kind *kind,
                            const char **name)
{
    const char *dash = strchr(file, '-'), *dot = strrchr(file, '.');
    if (!dash || !dot || dot < dash || strcmp(dot, ".so") != 0)
        return false;
    char *kind_name = dm_arena_strndup(arena, file, (size_t)(dash - file));
    char *class_name = dm_arena_strndup(arena, dash + 1, (size_t)(dot - dash - 1));
    *name = class_name;
    return kind_name && class_name && dm_kind_parse(kind_name, kind) &&
           dm_is_class_name(class_name);
}

/* A growing array of texts; the texts lie in an arena. */
struct names {
    const char **items;
    size_t n;
};

static bool add_name(struct names *names, const char *name)
{
    const char **items = realloc(names->items, (names->n + 1) * sizeof *items);
    if (!items)
        return false;
    names->items = items;
    names->items[names->n++] = name;
    return true;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The sorted names in a directory that end in ".so". */
static demist_status list_dir(int fd, const char *dir, struct dm_arena *arena, struct names *names,
                              struct dm_error *err)
{
    int copy = dup(fd);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    if (!stream) {
        dm_fail(err, DEMIST_IO, "%s: %s", dir, strerror(errno));
        if (copy >= 0)
            close(copy);
        return DEMIST_IO;
    }
    rewinddir(stream); /* dup shares the position */
    demist_status status = DEMIST_OK;
    for (struct dirent *entry; status == DEMIST_OK && (entry = readdir(stream));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".so") != 0)
            continue;
        char *name = dm_arena_strdup(arena, entry->d_name);
        if (!name || !add_name(names, name))
            status = dm_fail_memory(err, dir);
    }
    closedir(stream);
    if (status == DEMIST_OK && names->n > 0)
        qsort(names->items, names->n, sizeof *names->items, compare_texts);
    return status;
}

/* --- linked plugins --- */

static demist_status find_linked(struct dm_registry *registry, demist_kind kind, const char *name,
                                 struct dm_class **class, struct dm_error *err)
{
    for (size_t i = 0; registry->linked && registry->linked[i]; i++) {
        struct dm_plugin *plugin;
        DM_TRY(dm_plugin_read(registry->linked[i], NULL, &registry->arena, &plugin, err));
        demist_status status = dm_class_read(plugin, kind, name, &registry->arena, class, err);
        if (status != DEMIST_NOT_FOUND)
            return status;
        dm_error_clear(err);
    }
    return dm_fail(err, DEMIST_NOT_FOUND, "no %s \"%s\" is linked into the program",
                   dm_kind_name(kind), name);
}

/* --- files --- */

/* Opens a directory and a file in it. DEMIST_NOT_FOUND: this directory has no such file, whatever
 * is wrong with the directory. */
static demist_status open_in_dir(const char *dir, const char *file_name, int *fd,
                                 struct dm_error *err)
{
    int dir_fd;
    struct stat info;
    demist_status status = dm_open_plugin_dir(dir, &dir_fd, err);
    if (dir_fd < 0)
        return status == DEMIST_IO ? DEMIST_NOT_FOUND : status;
    if (status == DEMIST_OK)
        status = dm_open_plugin_file(dir_fd, dir, file_name, fd, err);
    else if (fstatat(dir_fd, file_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        status = DEMIST_NOT_FOUND;
    close(dir_fd);
    return status;
}

static demist_status load_class(struct dm_registry *registry, int fd, const char *file,
                                demist_kind kind, const char *name, struct dm_class **class,
                                struct dm_error *err)
{
    const demist_plugin *foreign;
    struct dm_plugin *plugin;
    DM_TRY(dm_load_plugin(fd, file, &foreign, err));
    DM_TRY(dm_plugin_read(foreign, file, &registry->arena, &plugin, err));
    demist_status status = dm_class_read(plugin, kind, name, &registry->arena, class, err);
    /* The file is there, only not what its name says. */
    if (status == DEMIST_NOT_FOUND && err)
        err->status = DEMIST_INCOMPATIBLE;
    return status == DEMIST_NOT_FOUND ? DEMIST_INCOMPATIBLE : status;
}

/* From the first directory that has the file; *found_in is that directory's place in the path. */
static demist_status find_file(struct dm_registry *registry, demist_kind kind, const char *name,
                               const char *file_name, struct dm_class **class, size_t *found_in,
                               struct dm_error *err)
{
    for (size_t i = 0; i < registry->path->n_dirs; i++) {
        const char *dir = registry->path->dirs[i].path;
        int fd = -1;
        demist_status status = open_in_dir(dir, file_name, &fd, err);
        if (status == DEMIST_NOT_FOUND)
            continue;
        if (status != DEMIST_OK)
            return status;
        const char *file = dm_arena_printf(&registry->arena, "%s/%s", dir, file_name);
        if (!file) {
            close(fd);
            return dm_fail_memory(err, file_name);
        }
        *found_in = i;
        return load_class(registry, fd, file, kind, name, class, err);
    }
    return DEMIST_NOT_FOUND;
}

/* --- what is not there --- */

static demist_status installed_names(struct dm_registry *registry, demist_kind kind,
                                     struct names *names, struct dm_error *err)
{
    for (size_t i = 0; registry->linked && registry->linked[i]; i++) {
        const demist_class *const *classes = registry->linked[i]->classes;
        for (size_t j = 0; classes && classes[j]; j++)
            if (classes[j]->kind == kind && classes[j]->name && !add_name(names, classes[j]->name))
                return dm_fail_memory(err, "the installed plugins");
    }
    for (size_t i = 0; i < registry->path->n_dirs; i++) {
        const char *dir = registry->path->dirs[i].path;
        struct names files = {0};
        int fd;
        demist_status status = dm_open_plugin_dir(dir, &fd, NULL);
        if (status == DEMIST_OK)
            status = list_dir(fd, dir, &registry->arena, &files, NULL);
        for (size_t j = 0; j < files.n; j++) {
            demist_kind file_kind;
            const char *name;
            if (status == DEMIST_OK &&
                parse_file_name(&registry->arena, files.items[j], &file_kind, &name) &&
                file_kind == kind && !add_name(names, name))
                status = DEMIST_NO_MEMORY;
        }
        free(files.items);
        if (fd >= 0)
            close(fd);
        if (status == DEMIST_NO_MEMORY)
            return dm_fail_memory(err, "the installed plugins");
    }
    return DEMIST_OK;
}

/* "/a (--plugin-path), /b (DEMIST_PLUGIN_PATH; no such directory)" */
static void print_path(const struct dm_plugin_path *path, struct dm_text *out)
{
    for (size_t i = 0; i < path->n_dirs; i++) {
        struct dm_error why = DM_ERROR_INIT;
        int fd;
        demist_status status = dm_open_plugin_dir(path->dirs[i].path, &fd, &why);
        const char *problem = status == DEMIST_OK          ? ""
                              : status == DEMIST_NOT_FOUND ? "; no such directory"
                              : fd >= 0                    ? "; not trusted: others may write there"
                                                           : "; unreadable";
        dm_text_appendf(out, "%s%s (%s%s)", i ? ", " : "", path->dirs[i].path, path->dirs[i].origin,
                        problem);
        dm_error_clear(&why);
        if (fd >= 0)
            close(fd);
    }
}

static demist_status fail_absent(struct dm_registry *registry, demist_kind kind, const char *name,
                                 const char *file_name, struct dm_error *err)
{
    struct names names = {0};
    struct dm_text text = DM_TEXT_INIT;
    demist_status status = installed_names(registry, kind, &names, err);
    if (status == DEMIST_OK) {
        const char *nearest = dm_nearest(name, names.items, names.n);
        if (nearest)
            dm_text_appendf(&text, "did you mean \"%s\"? ", nearest);
        dm_text_appendf(&text, "%s was sought in ", file_name);
        if (registry->path->n_dirs)
            print_path(registry->path, &text);
        else
            dm_text_append(&text, "no directory at all");
        dm_text_append(&text, "; `demist plugins` lists what is installed, --plugin-path adds a "
                              "directory");
        status = dm_fail(err, DEMIST_NOT_FOUND, "no %s \"%s\" is installed: %s", dm_kind_name(kind),
                         name, text.data ? text.data : "");
    }
    dm_text_finish(&text);
    free(names.items);
    return status;
}

/* --- finding --- */

/* The files of that name from directory `first` on, which a search never reaches. */
static demist_status find_shadowed(struct dm_registry *registry, size_t first,
                                   const char *file_name, struct dm_class *class,
                                   struct dm_error *err)
{
    size_t n_dirs = registry->path->n_dirs, n = 0;
    const char **shadows = dm_arena_array(&registry->arena, n_dirs + 1, sizeof *shadows);
    if (!shadows)
        return dm_fail_memory(err, file_name);
    for (size_t i = first; i < n_dirs; i++) {
        struct stat info;
        const char *file =
            dm_arena_printf(&registry->arena, "%s/%s", registry->path->dirs[i].path, file_name);
        if (!file)
            return dm_fail_memory(err, file_name);
        if (lstat(file, &info) == 0)
            shadows[n++] = file;
    }
    class->shadows = shadows;
    return DEMIST_OK;
}

static demist_status remember(struct dm_registry *registry, const struct dm_class *class,
                              struct dm_error *err)
{
    struct found *entry = dm_arena_alloc(&registry->arena, sizeof *entry);
    if (!entry)
        return dm_fail_memory(err, class->name);
    *entry = (struct found){registry->found, class};
    registry->found = entry;
    return DEMIST_OK;
}

demist_status dm_registry_find(struct dm_registry *registry, demist_kind kind, const char *name,
                               const struct dm_class **result, struct dm_error *err)
{
    if (!dm_is_class_name(name))
        return dm_fail(err, DEMIST_CONFIG,
                       "\"%s\" is no name of a %s: names are of lower-case letters, digits, _ and "
                       "-, and never paths (--plugin-path adds a directory)",
                       name, dm_kind_name(kind));
    for (struct found *entry = registry->found; entry; entry = entry->next) {
        if (entry->class->kind == kind && strcmp(entry->class->name, name) == 0) {
            *result = entry->class;
            return DEMIST_OK;
        }
    }
    const char *file_name = dm_arena_printf(&registry->arena, "%s-%s.so", dm_kind_name(kind), name);
    if (!file_name)
        return dm_fail_memory(err, name);

    struct dm_class *class = NULL;
    size_t next_dir = 0;
    demist_status status = find_linked(registry, kind, name, &class, err);
    if (status == DEMIST_NOT_FOUND) {
        status = find_file(registry, kind, name, file_name, &class, &next_dir, err);
        next_dir++;
    }
    if (status == DEMIST_NOT_FOUND)
        return fail_absent(registry, kind, name, file_name, err);
    if (status != DEMIST_OK)
        return status;
    DM_TRY(find_shadowed(registry, next_dir, file_name, class, err));
    DM_TRY(remember(registry, class, err));
    dm_error_clear(err); /* what the places said that do not have it */
    *result = class;
    return DEMIST_OK;
}

/* --- listing --- */

/* The listing while it grows; its array is for free() until it is copied into the arena. */
struct lister {
    struct dm_registry *registry;
    struct dm_listed_class *classes;
    size_t n;
};

static demist_status add_listed(struct lister *lister, const struct dm_listed_class *listed,
                                struct dm_error *err)
{
    struct dm_listed_class *classes =
        realloc(lister->classes, (lister->n + 1) * sizeof *lister->classes);
    if (!classes)
        return dm_fail_memory(err, "the list of plugins");
    lister->classes = classes;
    lister->classes[lister->n++] = *listed;
    return DEMIST_OK;
}

/* Lists a name that a file (or a linked plugin: NULL) claims: shadowed, usable or broken. */
static demist_status list_class(struct lister *lister, demist_kind kind, const char *name,
                                const char *file, struct dm_error *err)
{
    struct dm_arena *arena = &lister->registry->arena;
    struct dm_listed_class listed = {.kind = kind, .name = name, .file = file};
    for (size_t i = 0; i < lister->n && !listed.shadowed_by; i++) {
        const struct dm_listed_class *other = &lister->classes[i];
        if (other->name && other->kind == kind && strcmp(other->name, name) == 0)
            listed.shadowed_by = other->file ? other->file : "linked into the program";
    }
    if (!listed.shadowed_by) {
        struct dm_error why = DM_ERROR_INIT;
        demist_status status = dm_registry_find(lister->registry, kind, name, &listed.class, &why);
        if (status != DEMIST_OK)
            listed.broken = dm_arena_strdup(arena, why.text ? why.text : dm_status_text(status));
        dm_error_clear(&why);
        if (status == DEMIST_NO_MEMORY || (status != DEMIST_OK && !listed.broken))
            return dm_fail_memory(err, "the list of plugins");
    }
    return add_listed(lister, &listed, err);
}

static demist_status list_linked(struct lister *lister, struct dm_error *err)
{
    const demist_plugin *const *linked = lister->registry->linked;
    for (size_t i = 0; linked && linked[i]; i++)
        for (size_t j = 0; linked[i]->classes && linked[i]->classes[j]; j++)
            if (linked[i]->classes[j]->name)
                DM_TRY(list_class(lister, linked[i]->classes[j]->kind, linked[i]->classes[j]->name,
                                  NULL, err));
    return DEMIST_OK;
}

static bool is_same_file(int dir_fd, const char *a, const char *b)
{
    struct stat info_a, info_b;
    return fstatat(dir_fd, a, &info_a, 0) == 0 && fstatat(dir_fd, b, &info_b, 0) == 0 &&
           info_a.st_dev == info_b.st_dev && info_a.st_ino == info_b.st_ino;
}

/* A file whose name says nothing is in order where links of proper names lead to it. */
static bool has_proper_link(struct dm_arena *arena, int dir_fd, const struct names *files,
                            const char *file)
{
    demist_kind kind;
    const char *name;
    for (size_t i = 0; i < files->n; i++)
        if (parse_file_name(arena, files->items[i], &kind, &name) &&
            is_same_file(dir_fd, files->items[i], file))
            return true;
    return false;
}

static demist_status list_files(struct lister *lister, int dir_fd, const char *dir,
                                const struct names *files, struct dm_error *err)
{
    struct dm_arena *arena = &lister->registry->arena;
    for (size_t i = 0; i < files->n; i++) {
        struct dm_listed_class listed = {0};
        const char *file = dm_arena_printf(arena, "%s/%s", dir, files->items[i]);
        if (!file)
            return dm_fail_memory(err, dir);
        if (parse_file_name(arena, files->items[i], &listed.kind, &listed.name)) {
            DM_TRY(list_class(lister, listed.kind, listed.name, file, err));
        } else if (!has_proper_link(arena, dir_fd, files, files->items[i])) {
            listed = (struct dm_listed_class){
                .file = file,
                .broken = dm_arena_printf(arena,
                                          "%s: its name says nothing, so it is never found: name "
                                          "it, or a link to it, KIND-NAME.so, as sampler-ddim.so",
                                          file)};
            DM_TRY(listed.broken ? add_listed(lister, &listed, err) : dm_fail_memory(err, dir));
        }
    }
    return DEMIST_OK;
}

static demist_status list_directory(struct lister *lister, struct dm_listed_dir *listed,
                                    struct dm_error *err)
{
    struct dm_registry *registry = lister->registry;
    struct dm_error why = DM_ERROR_INIT;
    struct names files = {0};
    int fd;
    demist_status status = dm_open_plugin_dir(listed->path, &fd, &why);
    if (fd >= 0 && list_dir(fd, listed->path, &registry->arena, &files, &why) != DEMIST_OK)
        status = why.status;
    if (status != DEMIST_OK)
        listed->problem =
            dm_arena_strdup(&registry->arena, why.text ? why.text : dm_status_text(status));
    dm_error_clear(&why);
    status = fd >= 0 ? list_files(lister, fd, listed->path, &files, err) : DEMIST_OK;
    free(files.items);
    if (fd >= 0)
        close(fd);
    return status;
}

static int compare_listed(const void *a, const void *b)
{
    const struct dm_listed_class *x = a, *y = b;
    /* Files without a proper name come last. */
    if (x->kind != y->kind)
        return !x->kind ? 1 : !y->kind ? -1 : x->kind < y->kind ? -1 : 1;
    int order = x->name ? strcmp(x->name, y->name) : strcmp(x->file, y->file);
    if (order)
        return order;
    return (x->shadowed_by != NULL) - (y->shadowed_by != NULL);
}

static demist_status list_all(struct lister *lister, struct dm_listed_dir *dirs,
                              struct dm_error *err)
{
    const struct dm_plugin_path *path = lister->registry->path;
    DM_TRY(list_linked(lister, err));
    for (size_t i = 0; i < path->n_dirs; i++) {
        dirs[i] = (struct dm_listed_dir){path->dirs[i].path, path->dirs[i].origin, NULL};
        DM_TRY(list_directory(lister, &dirs[i], err));
    }
    return DEMIST_OK;
}

demist_status dm_registry_list(struct dm_registry *registry, const struct dm_listing **listing,
                               struct dm_error *err)
{
    struct dm_arena *arena = &registry->arena;
    struct lister lister = {.registry = registry};
    struct dm_listing *result = dm_arena_alloc(arena, sizeof *result);
    struct dm_listed_dir *dirs = dm_arena_array(arena, registry->path->n_dirs, sizeof *dirs);
    if (!result || !dirs)
        return dm_fail_memory(err, "the list of plugins");
    demist_status status = list_all(&lister, dirs, err);
    if (status == DEMIST_OK) {
        struct dm_listed_class *classes = dm_arena_array(arena, lister.n, sizeof *classes);
        if (!classes)
            status = dm_fail_memory(err, "the list of plugins");
        else if (lister.n)
            memcpy(classes, lister.classes, lister.n * sizeof *classes);
        if (status == DEMIST_OK && lister.n)
            qsort(classes, lister.n, sizeof *classes, compare_listed);
        *result = (struct dm_listing){dirs, registry->path->n_dirs, classes, lister.n};
        *listing = result;
    }
    free(lister.classes);
    return status;
}

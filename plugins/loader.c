#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr1 */
#endif
#include "loader.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

static const char symbol[] = "demist_plugin_v1";

/* What this process has loaded. Global, because the dynamic linker's own list is: it knows a file
 * by the name that it was opened with, here /proc/self/fd/N, and would hand out the wrong plugin
 * if N were closed and used again. So each descriptor stays open as long as its file is loaded. */
struct loaded {
    struct loaded *next;
    dev_t device;
    ino_t inode;
    const demist_plugin *plugin; /* NULL: it has no such symbol */
};
static struct loaded *loaded_files;
static pthread_mutex_t loaded_lock = PTHREAD_MUTEX_INITIALIZER;

/* --- the file's form --- */

/* The dynamic linker maps segments without looking at the file's length: a file that was cut short
 * would end the process with SIGBUS. */
static demist_status check_segments(int fd, const ElfW(Ehdr) * header, off_t file_size,
                                    const char *file, struct dm_error *err)
{
    for (unsigned i = 0; i < header->e_phnum; i++) {
        ElfW(Phdr) segment;
        off_t at = (off_t)(header->e_phoff + (ElfW(Off))i * sizeof segment);
        if (pread(fd, &segment, sizeof segment, at) != (ssize_t)sizeof segment)
            return dm_fail(err, DEMIST_FORMAT, "%s is cut short: copy or build it again", file);
        if (segment.p_type != PT_LOAD)
            continue;
        if (segment.p_offset > (ElfW(Off))file_size ||
            segment.p_filesz > (ElfW(Off))file_size - segment.p_offset)
            return dm_fail(err, DEMIST_FORMAT,
                           "%s is cut short: it has %lld bytes and should have at least %llu: copy "
                           "or build it again",
                           file, (long long)file_size,
                           (unsigned long long)(segment.p_offset + segment.p_filesz));
    }
    return DEMIST_OK;
}

/* The header of the object that this code is part of, by the linker: the machine that a plugin has
 * to be for. The dynamic linker says of another one that there is no such file. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

static demist_status check_elf(int fd, off_t file_size, const char *file, struct dm_error *err)
{
    ElfW(Ehdr) header;
    ssize_t got = pread(fd, &header, sizeof header, 0);
    if (got < 0)
        return dm_fail(err, DEMIST_IO, "%s: %s", file, strerror(errno));
    if (got < SELFMAG || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
        return dm_fail(err, DEMIST_FORMAT,
                       "%s is not a shared object (ELF) at all: build it with cc -shared", file);
    if (got < (ssize_t)sizeof header)
        return dm_fail(err, DEMIST_FORMAT, "%s is cut short: copy or build it again", file);
    const ElfW(Ehdr) *own = &__ehdr_start;
    if (header.e_ident[EI_CLASS] != own->e_ident[EI_CLASS] ||
        header.e_ident[EI_DATA] != own->e_ident[EI_DATA] || header.e_machine != own->e_machine ||
        header.e_phentsize != sizeof(ElfW(Phdr)))
        return dm_fail(err, DEMIST_FORMAT,
                       "%s is a shared object for another machine: build it for this one (%d bit)",
                       file, (int)(8 * sizeof(void *)));
    return check_segments(fd, &header, file_size, file, err);
}

/* --- loading --- */

/* The linker's reason, with the file's own name for /proc/self/fd/N. */
static demist_status fail_load(const char *link, const char *file, struct dm_error *err)
{
    const char *reason = dlerror();
    if (!reason)
        reason = "the dynamic linker gave no reason";
    size_t length = strlen(link);
    if (strncmp(reason, link, length) == 0 && strncmp(reason + length, ": ", 2) == 0)
        reason += length + 2;
    const char *way_out = "";
    if (strstr(reason, "undefined symbol"))
        way_out = ": link the plugin with the library that has it (-Wl,-z,defs finds such symbols "
                  "when linking); demist itself exports none to plugins";
    else if (strstr(reason, "cannot open shared object file"))
        way_out = ": install that library, or build the plugin without it";
    return dm_fail(err, DEMIST_INCOMPATIBLE, "%s cannot be loaded: %s%s", file, reason, way_out);
}

/* The symbol of the object itself: dlsym would also look into the libraries that it is linked to.
 */
static const demist_plugin *find_symbol(void *handle)
{
    struct link_map *own = NULL, *owner = NULL;
    Dl_info info;
    const void *address = dlsym(handle, symbol);
    if (!address || dlinfo(handle, RTLD_DI_LINKMAP, &own) != 0 ||
        !dladdr1(address, &info, (void **)&owner, RTLD_DL_LINKMAP) || own != owner)
        return NULL;
    return address;
}

static demist_status load(int fd, const struct stat *info, const char *file,
                          const struct loaded **loaded, struct dm_error *err)
{
    DM_TRY(check_elf(fd, info->st_size, file, err));
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (access(link, F_OK) != 0)
        return dm_fail(err, DEMIST_IO, "%s cannot be loaded: there is no %s: mount /proc", file,
                       link);
    struct loaded *entry = malloc(sizeof *entry);
    if (!entry)
        return dm_fail_memory(err, file);
    void *handle = dlopen(link, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        free(entry);
        return fail_load(link, file, err);
    }
    *entry = (struct loaded){loaded_files, info->st_dev, info->st_ino, find_symbol(handle)};
    loaded_files = entry;
    *loaded = entry;
    return DEMIST_OK;
}

static const struct loaded *find_loaded(const struct stat *info)
{
    const struct loaded *known = loaded_files;
    while (known && (known->device != info->st_dev || known->inode != info->st_ino))
        known = known->next;
    return known;
}

demist_status dm_load_plugin(int fd, const char *file, const demist_plugin **plugin,
                             struct dm_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        dm_fail(err, DEMIST_IO, "%s: %s", file, strerror(errno));
        close(fd);
        return DEMIST_IO;
    }
    pthread_mutex_lock(&loaded_lock);
    const struct loaded *loaded = find_loaded(&info);
    bool is_new = !loaded;
    demist_status status = is_new ? load(fd, &info, file, &loaded, err) : DEMIST_OK;
    pthread_mutex_unlock(&loaded_lock);
    if (!is_new || status != DEMIST_OK)
        close(fd);
    if (status != DEMIST_OK)
        return status;
    *plugin = loaded->plugin;
    if (!*plugin)
        return dm_fail(err, DEMIST_INCOMPATIBLE,
                       "%s is no demist plugin: it has no symbol %s; define it with "
                       "DEMIST_PLUGIN(…) of demist/plugin.h, and let the linker export it",
                       file, symbol);
    return DEMIST_OK;
}

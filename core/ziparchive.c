#include "ziparchive.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "npy.h"
#include "torchfile.h"

/* What compressed members may unpack to: 64 times the file, or 256 MiB if that is more. */
enum { MAX_RATIO = 64, MIN_BUDGET = 256 << 20 };

static zip_source_t *open_source(const struct dm_input *input, zip_error_t *error)
{
    if (input->fd < 0)
        return zip_source_buffer_create(input->bytes, input->size, 0, error);
    int fd = fcntl(input->fd, F_DUPFD_CLOEXEC, 0); /* libzip closes what it is given */
    FILE *file = fd < 0 ? NULL : fdopen(fd, "rb");
    zip_source_t *source = file ? zip_source_filep_create(file, 0, -1, error) : NULL;
    if (!file)
        zip_error_set(error, ZIP_ER_OPEN, errno);
    if (file && !source)
        fclose(file);
    else if (!file && fd >= 0)
        close(fd);
    return source;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && memcmp(text + n - m, end, m) == 0;
}

static demist_status load_members(struct dm_checkpoint *ckpt, struct dm_zip *zip,
                                  const struct dm_input *input, struct dm_error *err)
{
    zip_int64_t n = zip_get_num_entries(zip->archive, 0);
    bool arrays = false;
    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(zip->archive, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        const char *slash = name ? strchr(name, '/') : NULL;
        if (slash && strcmp(slash, "/data.pkl") == 0) {
            zip->budget = input->size;
            return dm_torch_load_zip(ckpt, zip, name, (uint64_t)i, err);
        }
        arrays |= name && ends_with(name, ".npy");
    }
    if (!arrays && n != 0)
        return dm_fail(err, DEMIST_FORMAT,
                       "a zip file, but neither PyTorch's (no data.pkl) nor .npz (no .npy)");
    zip->budget = input->size > MIN_BUDGET / MAX_RATIO ? input->size * MAX_RATIO : MIN_BUDGET;
    return dm_npz_load(ckpt, zip, err);
}

demist_status dm_zip_load(struct dm_checkpoint *ckpt, const struct dm_input *input,
                          struct dm_error *err)
{
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = open_source(input, &error);
    struct dm_zip zip = {source ? zip_open_from_source(source, ZIP_RDONLY, &error) : NULL, 0};
    demist_status status;
    if (zip.archive) {
        status = load_members(ckpt, &zip, input, err);
        zip_discard(zip.archive);
    } else {
        status = dm_fail(err, DEMIST_FORMAT, "a broken or truncated zip file (%s)",
                         zip_error_strerror(&error));
        zip_source_free(source);
    }
    zip_error_fini(&error);
    return status;
}

demist_status dm_zip_member(struct dm_zip *zip, uint64_t index, bool inflate, uint64_t *size,
                            struct dm_error *err)
{
    zip_stat_t info;
    const zip_uint64_t needed = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    if (zip_stat_index(zip->archive, index, 0, &info) != 0 || (info.valid & needed) != needed)
        return dm_fail(err, DEMIST_FORMAT, "broken entry in the zip directory");
    if ((info.valid & ZIP_STAT_ENCRYPTION_METHOD) && info.encryption_method != ZIP_EM_NONE)
        return dm_fail(err, DEMIST_UNSUPPORTED, "the zip member is encrypted");
    bool stored = info.comp_method == ZIP_CM_STORE;
    if (!stored && !(inflate && info.comp_method == ZIP_CM_DEFLATE))
        return dm_fail(err, DEMIST_UNSUPPORTED,
                       "the zip member is compressed (method %d); pack it again without",
                       info.comp_method);
    if (stored && info.size != info.comp_size)
        return dm_fail(err, DEMIST_FORMAT, "the zip member's two sizes disagree");
    if (info.size > zip->budget)
        return dm_fail(err, DEMIST_FORMAT,
                       "the zip members unpack to far more than the file holds (a zip bomb?)");
    zip->budget -= info.size;
    *size = info.size;
    return DEMIST_OK;
}

demist_status dm_zip_read(struct dm_zip *zip, uint64_t index, void *to, uint64_t size,
                          struct dm_error *err)
{
    zip_stat_t info;
    bool stored = zip_stat_index(zip->archive, index, 0, &info) == 0 &&
                  (info.valid & ZIP_STAT_COMP_METHOD) && info.comp_method == ZIP_CM_STORE;
    zip_file_t *file = zip_fopen_index(zip->archive, index, stored ? ZIP_FL_COMPRESSED : 0);
    if (!file)
        return dm_fail(err, DEMIST_FORMAT, "cannot read the zip member: %s",
                       zip_strerror(zip->archive));
    uint64_t done = 0;
    zip_int64_t got = 1;
    while (done < size && (got = zip_fread(file, (char *)to + done, size - done)) > 0)
        done += (uint64_t)got;
    demist_status status = DEMIST_OK;
    char extra; /* reading on makes libzip compare the checksum */
    if (done < size || (!stored && zip_fread(file, &extra, 1) != 0))
        status = dm_fail(err, DEMIST_FORMAT, "the zip member is damaged: %s",
                         done < size && got == 0 ? "it ends too early" : zip_file_strerror(file));
    zip_fclose(file);
    return status;
}

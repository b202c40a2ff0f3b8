/* demist inspect: what a file holds. Nothing in it is executed, whatever its format. */
#include "command.h"

#include "fileio.h"
#include "inspect_ini.h"
#include "jsonout.h"
#include "pngfile.h"
#include "tensorfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct inspect {
    struct common common;
    const char *path;
    const char *data, *prefix;
    bool json, ini;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct inspect *inspect = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &inspect->common;
        return 0;
    case 'j':
        inspect->json = true;
        return 0;
    case 'i':
        inspect->ini = true;
        return 0;
    case 'p':
        inspect->data = arg;
        return 0;
    case 'x':
        inspect->prefix = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (inspect->path)
            argp_error(state, "one FILE at a time, not \"%s\" and \"%s\"", inspect->path, arg);
        inspect->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!inspect->path)
            argp_error(state, "FILE is missing");
        if ((inspect->data || inspect->prefix) && !inspect->ini)
            argp_error(state, "--%s is for --ini", inspect->data ? "probe" : "prefix");
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"json", 'j', NULL, 0, "print for programs", 0},
    {"ini", 'i', NULL, 0,
     "print an INI file for the checkpoint: what network it is of, all options that names and "
     "shapes reveal, and the candidates for the others",
     0},
    {"probe", 'p', "DATA", 0,
     "with --ini: rank those candidates by the network's error on DATA: a picture, a folder of "
     "them, or a tensor file with x_0 or arr_0 (and labels y or arr_1)",
     0},
    {"prefix", 'x', "PREFIX", 0, "with --ini: take the network below this prefix", 0},
    {0},
};
static const struct argp_child children[] = {{&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "FILE",
    .doc = "Tell what FILE holds: name, shape and type of every tensor of a checkpoint "
           "(safetensors, PyTorch's .pt and .pth, .npz, .npy), with totals and metadata; of a PNG "
           "that demist made, the description of its run, which is an INI file.\v"
           "Examples:\n"
           "  demist inspect model.pth\n"
           "  demist inspect model.pt --ini >model.ini\n"
           "  demist inspect model.pt --ini --probe images.npz >model.ini\n"
           "  demist inspect out/grid.png >again.ini",
};

/* ---------------------------------------------------------------- tensors */

struct totals {
    size_t tensors;
    uint64_t elements, bytes;
};

static struct totals add_up(const struct dm_checkpoint *ckpt)
{
    struct totals totals = {.tensors = dm_checkpoint_count(ckpt)};
    for (size_t i = 0; i < totals.tensors; i++) {
        const struct dm_tensor_view *view = dm_checkpoint_at(ckpt, i);
        totals.elements += dm_tensor_elements(view);
        totals.bytes += view->bytes;
    }
    return totals;
}

/* "[64,3,3,3]". */
static void print_shape(struct dm_text *out, const struct dm_tensor_view *view)
{
    dm_text_append(out, "[");
    for (int i = 0; i < view->rank; i++)
        dm_text_appendf(out, "%s%lld", i ? "," : "", (long long)view->shape[i]);
    dm_text_append(out, "]");
}

static void print_tensors(struct dm_text *out, const struct dm_checkpoint *ckpt)
{
    struct totals totals = add_up(ckpt);
    size_t width = 4;
    for (size_t i = 0; i < totals.tensors; i++) {
        size_t length = strlen(dm_checkpoint_at(ckpt, i)->name);
        width = length > width ? length : width;
    }
    for (size_t i = 0; i < totals.tensors; i++) {
        const struct dm_tensor_view *view = dm_checkpoint_at(ckpt, i);
        dm_text_appendf(out, "%-*s  %-5s ", (int)width, view->name, view->dtype_name);
        print_shape(out, view);
        dm_text_append(out, "\n");
    }
    for (size_t i = 0; i < dm_checkpoint_metadata_count(ckpt); i++) {
        const struct dm_metadata *pair = dm_checkpoint_metadata_at(ckpt, i);
        dm_text_appendf(out, "%smetadata %s: %s\n", i ? "" : "\n", pair->key, pair->value);
    }
    dm_text_appendf(out, "\n%s, %zu tensor%s, %llu elements, %llu bytes\n",
                    dm_checkpoint_format(ckpt), totals.tensors, totals.tensors == 1 ? "" : "s",
                    (unsigned long long)totals.elements, (unsigned long long)totals.bytes);
}

static void put_tensor(cJSON *list, const struct dm_tensor_view *view, bool *ok)
{
    cJSON *object = dm_json_append_object(list, ok);
    dm_json_put_text(object, "name", view->name, ok);
    dm_json_put_text(object, "dtype", view->dtype_name, ok);
    cJSON *shape = dm_json_put_array(object, "shape", ok);
    for (int i = 0; i < view->rank; i++)
        dm_json_append_integer(shape, view->shape[i], ok);
    dm_json_put_integer(object, "elements", (int64_t)dm_tensor_elements(view), ok);
    dm_json_put_integer(object, "bytes", (int64_t)view->bytes, ok);
}

static demist_status print_tensors_json(struct inspect *inspect, struct dm_text *out,
                                        const struct dm_checkpoint *ckpt, struct dm_error *err)
{
    struct totals totals = add_up(ckpt);
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    dm_json_put_text(root, "file", inspect->path, &ok);
    dm_json_put_text(root, "format", dm_checkpoint_format(ckpt), &ok);
    dm_json_put_integer(root, "n_tensors", (int64_t)totals.tensors, &ok);
    dm_json_put_integer(root, "elements", (int64_t)totals.elements, &ok);
    dm_json_put_integer(root, "bytes", (int64_t)totals.bytes, &ok);
    cJSON *tensors = dm_json_put_array(root, "tensors", &ok);
    for (size_t i = 0; i < totals.tensors; i++)
        put_tensor(tensors, dm_checkpoint_at(ckpt, i), &ok);
    cJSON *metadata = dm_json_put_object(root, "metadata", &ok);
    for (size_t i = 0; i < dm_checkpoint_metadata_count(ckpt); i++) {
        const struct dm_metadata *pair = dm_checkpoint_metadata_at(ckpt, i);
        dm_json_put_text(metadata, pair->key, pair->value, &ok);
    }
    return dm_json_print(out, root, ok, err);
}

static demist_status inspect_checkpoint(struct inspect *inspect, struct dm_text *out,
                                        struct dm_error *err)
{
    struct dm_checkpoint *ckpt;
    demist_status status = dm_checkpoint_open(inspect->path, &ckpt, err);
    if (status != DEMIST_OK)
        return status;
    if (inspect->json)
        status = print_tensors_json(inspect, out, ckpt, err);
    else
        print_tensors(out, ckpt);
    dm_checkpoint_close(ckpt);
    return status;
}

/* ---------------------------------------------------------------- pictures */

static demist_status print_png(struct inspect *inspect, struct dm_text *out,
                               const struct dm_image *image, const char *description,
                               struct dm_error *err)
{
    if (!inspect->json && !description)
        return dm_fail(err, DEMIST_NOT_FOUND,
                       "%s: a PNG of %d×%d pixels without the description of a run: demist did "
                       "not make it, or another program rewrote it",
                       inspect->path, image->width, image->height);
    if (!inspect->json) {
        size_t length = strlen(description);
        dm_text_append(out, description);
        dm_text_append(out, length && description[length - 1] == '\n' ? "" : "\n");
        return DEMIST_OK;
    }
    cJSON *root = cJSON_CreateObject();
    bool ok = root != NULL;
    dm_json_put_text(root, "file", inspect->path, &ok);
    dm_json_put_text(root, "format", "PNG", &ok);
    dm_json_put_integer(root, "width", image->width, &ok);
    dm_json_put_integer(root, "height", image->height, &ok);
    dm_json_put_text(root, "description", description, &ok);
    return dm_json_print(out, root, ok, err);
}

static demist_status inspect_png(struct inspect *inspect, struct dm_text *out, struct dm_error *err)
{
    struct dm_image image = DM_IMAGE_INIT;
    struct dm_png_texts texts = DM_PNG_TEXTS_INIT;
    demist_status status = dm_png_read(&image, &texts, inspect->path, err);
    if (status == DEMIST_OK)
        status = print_png(inspect, out, &image, dm_png_texts_find(&texts, DM_PNG_KEYWORD), err);
    dm_image_finish(&image);
    dm_png_texts_finish(&texts);
    return status;
}

/* A file that cannot be read is no PNG: the reader of checkpoints tells why. */
static bool is_png(const char *path)
{
    static const unsigned char signature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    unsigned char start[sizeof signature];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, start, sizeof start);
    close(fd);
    return n == (ssize_t)sizeof start && memcmp(start, signature, sizeof start) == 0;
}

static demist_status inspect_file(void *state, struct dm_error *err)
{
    struct inspect *inspect = state;
    struct dm_text *out = &inspect->common.out;
    struct inspect_ini ini = {inspect->path, inspect->data, inspect->prefix, inspect->json};
    if (inspect->ini)
        return inspect_ini(&inspect->common, &ini, out, err);
    return is_png(inspect->path) ? inspect_png(inspect, out, err)
                                 : inspect_checkpoint(inspect, out, err);
}

int cmd_inspect(int argc, char **argv)
{
    struct inspect inspect = {0};
    return run_command(&argp, argc, argv, &inspect, inspect_file);
}

/* An opened OpenCL device: its context, the programs built for it, and their cache on disk. */
#ifndef OCL_DEVICE_H
#define OCL_DEVICE_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <demist/backend.h>
#include <demist/cache.h>
#include <demist/random.h>

#include <stdio.h>

enum { OCL_SLACK = 512 }; /* bytes behind every buffer: vectors may read over a row's end */

/* Kinds of kernels: one work-item a tile with wide vectors, for CPUs; or work-groups that share
 * tiles in local memory, for everything else. */
enum ocl_style { OCL_WIDE, OCL_TILED };

/* The files of kernels/, embedded by the build (ocl_embed.py); NULL-ended. */
struct ocl_source {
    const char *name, *text;
};
extern const struct ocl_source ocl_sources[];

struct ocl_built { /* a program */
    struct ocl_built *next;
    uint64_t hash[2];
    cl_program program;
    struct ocl_kernel {
        struct ocl_kernel *next;
        cl_kernel kernel;
        char name[32];
    } * kernels;
};

/* One of the ways to compute a product (ocl_tune.c chooses). */
enum ocl_algorithm { OCL_DIRECT, OCL_WINOGRAD_2, OCL_WINOGRAD_4 };
enum { OCL_MAX_TILES = 3, OCL_CLBLAST = -1 };
struct ocl_variant {
    enum ocl_algorithm algorithm;
    int tile; /* of the device's, or OCL_CLBLAST */
};

/* What a work-item (WIDE) or a work-group (TILED) computes of a product. */
struct ocl_tile {
    int rows, columns;
};

struct ocl_tuned {
    struct ocl_tuned *next;
    uint64_t key;
    int32_t choice; /* index of the variant */
};

struct ocl_settings { /* the options */
    const char *device, *build_options;
    bool tuning, hide_fp64;
    int style;  /* −1: by the device's type */
    int vector; /* 0: by the device */
    enum ocl_clblast { OCL_CLBLAST_AUTO, OCL_CLBLAST_OFF, OCL_CLBLAST_ALWAYS } clblast;
};

struct demist_device {
    const demist_host *host;
    const demist_philox *philox; /* NULL: the host has none */
    const demist_device_info *info;
    const demist_cache *cache; /* NULL: off */
    struct ocl_settings settings;
    cl_device_id id;
    cl_context context;
    cl_command_queue queue; /* for what compile does */
    char key[640];          /* what a binary is good for: device, version, driver */
    bool fp64;
    bool fma; /* fma() is faster than mad(), whatever the driver's macros say */
    bool says_compiling, used_clblast;
    enum ocl_style style;
    int vector;                           /* floats of a vector in WIDE kernels; 1 in TILED ones */
    struct ocl_tile tiles[OCL_MAX_TILES]; /* the one that a rule takes first; columns ≤ 128 */
    size_t max_group;
    int64_t max_allocation;
    struct ocl_built *built;
    struct ocl_tuned *tuned;
    const struct ocl_variant *forced; /* while measuring */
    bool narrow_inputs;               /* while measuring: as they are inside the program */
};

struct demist_buffer {
    demist_device *device;
    cl_mem memory;
    size_t bytes;
};

struct demist_queue {
    demist_device *device;
    cl_command_queue queue;
};

struct demist_event {
    demist_device *device;
    cl_event event;
};

/* --- ocl_error.c --- */

/* "CL_OUT_OF_RESOURCES" */
const char *ocl_error_name(cl_int error);
/* Fails with the OpenCL call that returned `error`, and what can be done. */
demist_status ocl_fail(demist_device *device, const char *call, cl_int error);
/* Memory on the device; `what` it is for, in messages. */
demist_status ocl_new_memory(demist_device *device, int64_t bytes, const char *what,
                             cl_mem *memory);

/* --- ocl_backend.c --- */

demist_status ocl_buffer_create(demist_device *device, size_t bytes, demist_buffer **buffer);
void ocl_buffer_destroy(demist_buffer *buffer);
demist_status ocl_queue_create(demist_device *device, demist_queue **queue);
void ocl_queue_destroy(demist_queue *queue);

/* --- ocl_build.c --- */

/* A kernel of the device's, built (or loaded from the cache) on first use: the file `source`
 * behind `before`, which may be NULL. */
demist_status ocl_kernel(demist_device *device, const char *source, const char *before,
                         const char *name, cl_kernel *kernel);
void ocl_release_kernels(demist_device *device);

/* --- ocl_clblast.c --- */

/* Whether the build has CLBlast, and the device can use it. */
bool ocl_has_clblast(const demist_device *device);
/* c [rows, columns] = a [rows, depth]·b [depth, columns], `n` times; rows are *_ld floats apart,
 * matrices *_step, everything starts at *_at. */
struct ocl_gemm {
    size_t rows, columns, depth, n;
    cl_mem a, b, c;
    size_t a_at, b_at, c_at, a_ld, b_ld, c_ld, a_step, b_step, c_step;
};
demist_status ocl_clblast_run(demist_device *device, cl_command_queue queue,
                              const struct ocl_gemm *gemm);
/* To be called while the context is alive. */
void ocl_clblast_finish(demist_device *device);

#define OCL_TRY(call)                                                                              \
    do {                                                                                           \
        const demist_status ocl_try_status = (call);                                               \
        if (ocl_try_status != DEMIST_OK)                                                           \
            return ocl_try_status;                                                                 \
    } while (0)

#endif

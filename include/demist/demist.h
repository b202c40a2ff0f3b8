/* demist for programs: what `demist sample` does, from C.
 *
 *     demist_session *s = demist_session_create();
 *     if (demist_session_load(s, "crawl.ini") != DEMIST_OK ||
 *         demist_session_set(s, "sample.images=4") != DEMIST_OK ||
 *         demist_session_sample(s, NULL, &result) != DEMIST_OK)
 *         fprintf(stderr, "%s\n", demist_session_error(s));
 *
 * A session is used by one thread at a time; different sessions are independent. Nothing here
 * prints, exits, or installs signal handlers. examples/embed.c is a complete program. */
#ifndef DEMIST_DEMIST_H
#define DEMIST_DEMIST_H

#include <demist/host.h>
#include <demist/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) && !defined(DEMIST_API)
#define DEMIST_API __attribute__((visibility("default")))
#elif !defined(DEMIST_API)
#define DEMIST_API
#endif

/* "0.1.0", of the library that is linked. */
DEMIST_API const char *demist_version(void);
/* "not found: …" for a status; never NULL. */
DEMIST_API const char *demist_status_text(demist_status status);

typedef struct demist_session demist_session;

/* NULL only without memory. */
DEMIST_API demist_session *demist_session_create(void);
DEMIST_API void demist_session_destroy(demist_session *session); /* NULL is legal */
/* What the last failed call says: file and line, plugin or tensor, and the way out. Valid until
 * the next call. "" when nothing failed. */
DEMIST_API const char *demist_session_error(const demist_session *session);

/* Where log lines go, those up to the level `most`; NULL (the default): nowhere. Called from any
 * thread, by several at once. Not while a call on the session is under way. */
typedef void (*demist_log_fn)(void *user, demist_log_level level, const char *text);
DEMIST_API void demist_session_on_log(demist_session *session, demist_log_level most,
                                      demist_log_fn fn, void *user);

/* A directory to search for plugins before all others, absolute or relative to the working
 * directory; may be called several times, the first comes first. Both calls must precede the first
 * run (INVALID). */
DEMIST_API demist_status demist_session_plugin_path(demist_session *session, const char *dir);
/* Plugins linked into the program (built with DEMIST_STATIC_PLUGINS), NULL-ended; they are found
 * before any file. The descriptors must outlive the session. */
DEMIST_API demist_status demist_session_static_plugins(demist_session *session,
                                                       const demist_plugin *const *plugins);
/* Threads in all, the caller's included; 0 (the default): as many as the machine gives. */
DEMIST_API demist_status demist_session_threads(demist_session *session, int threads);

/* The run's description: an INI file, or its text (name: for messages; relative paths in it are
 * relative to the working directory). Replaces what was loaded. */
DEMIST_API demist_status demist_session_load(demist_session *session, const char *path);
DEMIST_API demist_status demist_session_load_text(demist_session *session, const char *name,
                                                  const char *text);
/* "section.key=value", as `--set`: validated when the run starts. */
DEMIST_API demist_status demist_session_set(demist_session *session, const char *assignment);

/* What a progress callback is told. Pointers hold during the call. */
typedef struct demist_progress {
    size_t size;
    int64_t batch, n_batches;      /* from 0 */
    int64_t step, n_steps;         /* steps done in this batch */
    int64_t first_image, n_images; /* of this batch */
    double time;                   /* schedule time that was reached */
    /* float32 [n_images, …] in the network's range: the state and the denoised estimate. NULL
     * unless wants_data is set in the options. */
    const float *x, *x0;
} demist_progress;

/* Returns false to stop: the call then returns DEMIST_CANCELLED and keeps finished batches, the
 * current one too if this was its last step. */
typedef bool (*demist_progress_fn)(void *user, const demist_progress *progress);

typedef struct demist_sample_options {
    size_t size;
    demist_progress_fn progress; /* may be NULL; called after every step */
    void *user;
    bool keep_data;         /* the result holds all images' data */
    bool wants_data;        /* progress needs x and x0: every step then waits for the device */
    bool write_outputs;     /* write [output]'s files, as the command does */
    bool overwrite;         /* replace another run's files; otherwise new ones get a new name */
    const char *trajectory; /* a safetensors file for all states, replaced; or NULL */
} demist_sample_options;

/* Finished images, or the x_T that they were encoded to. Made by the host; freed by
 * demist_result_free. */
typedef struct demist_result {
    size_t size;
    int64_t n_images;               /* finished: fewer than asked after DEMIST_CANCELLED */
    int32_t rank;                   /* of one datum */
    int64_t shape[DEMIST_MAX_RANK]; /* [C,H,W] */
    const float *data;              /* [n_images, …] row-major, as the sampler left them; NULL
                                       where keep_data was not set */
    const int64_t *labels;          /* [n_images], or NULL */
    int64_t n_files;                /* written with write_outputs */
    const char *const *files;
} demist_result;

/* Runs the description. options may be NULL: no callback, no files, data kept. *result, which may
 * be NULL, is set on DEMIST_OK and, with what is finished, on DEMIST_CANCELLED; NULL otherwise. */
DEMIST_API demist_status demist_session_sample(demist_session *session,
                                               const demist_sample_options *options,
                                               demist_result **result);
DEMIST_API void demist_result_free(demist_result *result); /* NULL is legal */

#ifdef __cplusplus
}
#endif
#endif

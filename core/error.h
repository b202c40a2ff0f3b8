/* Errors inside the library: a status code with a text that says what, where and the way out.
 *
 * Every fallible function of core/, plugins/ and pipelines/ takes a `struct dm_error *err` last
 * and returns a demist_status. `err` may be NULL when the caller wants the code alone. The text
 * is complete when set at the place that knows most; callers only prepend where it happened. */
#ifndef DM_ERROR_H
#define DM_ERROR_H

#include <demist/status.h>

#if defined(__GNUC__)
#define DM_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define DM_PRINTF(fmt, args)
#endif

struct dm_error {
    demist_status status;
    char *text; /* owned; NULL while status is DEMIST_OK */
};

#define DM_ERROR_INIT ((struct dm_error){DEMIST_OK, NULL})

/* Replaces what err holds; returns `status` so that callers write `return dm_fail(…)`. A macro, so
 * that compilers and analyzers see which status it returns. */
#define dm_fail(err, status, ...)                                                                  \
    __extension__({                                                                                \
        demist_status dm_fail_status = (status);                                                   \
        dm_failed_with(dm_fail_status, dm_error_set((err), dm_fail_status, __VA_ARGS__));          \
    })
demist_status dm_error_set(struct dm_error *err, demist_status status, const char *fmt, ...)
    DM_PRINTF(3, 4);
static inline demist_status dm_failed_with(demist_status status, demist_status same)
{
    (void)same;
    return status;
}

/* Prepends "fmt…: " to the text that is there. Returns err's status (INTERNAL for NULL). */
demist_status dm_fail_where(struct dm_error *err, const char *fmt, ...) DM_PRINTF(2, 3);

/* Out of memory while doing `what`. */
static inline demist_status dm_fail_memory(struct dm_error *err, const char *what)
{
    return dm_fail(err, DEMIST_NO_MEMORY, "out of memory: %s", what);
}

/* Frees the text and sets DEMIST_OK; err may be NULL or already clear. */
void dm_error_clear(struct dm_error *err);

/* "NOT_FOUND" and "file, plugin, … not found"; never NULL, also for unknown codes. */
const char *dm_status_name(demist_status status);
const char *dm_status_text(demist_status status);

/* Returns from the calling function with the status of `call` unless it is DEMIST_OK. */
#define DM_TRY(call)                                                                               \
    do {                                                                                           \
        demist_status dm_try_status = (call);                                                      \
        if (dm_try_status != DEMIST_OK)                                                            \
            return dm_try_status;                                                                  \
    } while (0)

#endif

/* What the tests of the detective and of its probe share. */
#ifndef DETECTED_H
#define DETECTED_H

#include "detective.h"
#include "fixture.h"

/* Examines a file; fails the test when it cannot. */
static inline void examine(const char *path, const struct dm_hints *hints, struct dm_finding *f)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt;
    fixture_expect_ok(dm_checkpoint_open(path, &ckpt, &err), &err);
    fixture_expect_ok(dm_examine(ckpt, path, hints, f, &err), &err);
    dm_checkpoint_close(ckpt);
}

static inline const char *fast_backend(void)
{
#ifdef HAVE_BACKEND_CPU
    return "cpu";
#else
    return "reference";
#endif
}

static inline void expect_setting(const struct dm_finding *f, const char *section, const char *key,
                                  const char *value)
{
    const char *found = dm_finding_get(f, section, key);
    if (!found || strcmp(found, value) != 0)
        fail_msg("[%s] %s = %s, expected %s", section, key, found ? found : "(none)", value);
}

#endif

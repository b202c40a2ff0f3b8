/* What every CMocka test needs: the library's headers in CMocka's order, the reference data, and
 * a few claims about floats and errors. */
#ifndef TESTING_H
#define TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Path of a file below $DEMIST_TEST_DATA. Without the variable, or without the file, the calling
 * test is skipped with the reason, or failed when DEMIST_REQUIRE_DATA=1. A static buffer a call. */
static inline const char *test_data(const char *relative)
{
    static char paths[8][4096];
    static int next;
    char *path = paths[next++ % 8];
    const char *root = getenv("DEMIST_TEST_DATA"), *require = getenv("DEMIST_REQUIRE_DATA");
    snprintf(path, sizeof paths[0], "%s/%s", root ? root : "", relative);
    FILE *file = root ? fopen(path, "rb") : NULL;
    if (file) {
        fclose(file);
        return path;
    }
    if (require && strcmp(require, "1") == 0)
        fail_msg("DEMIST_REQUIRE_DATA=1, but %s is missing%s", relative,
                 root ? "" : " (DEMIST_TEST_DATA is not set)");
    print_message("skipped: %s: %s\n", relative,
                  root ? "no such file" : "DEMIST_TEST_DATA is not set");
    skip();
    return NULL;
}

/* Path of a file below tests/data, which is part of the sources. A static buffer a call. */
#ifdef TESTING_SOURCE_DATA
static inline const char *source_data(const char *relative)
{
    static char paths[8][4096];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", TESTING_SOURCE_DATA, relative);
    return path;
}
#endif

/* The text contains the fragment; prints both when not. */
static inline void assert_contains(const char *text, const char *fragment)
{
    if (!text || !strstr(text, fragment))
        fail_msg("expected \"%s\" in: %s", fragment, text ? text : "(null)");
}

#endif

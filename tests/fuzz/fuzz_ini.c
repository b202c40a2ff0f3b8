/* The INI reader takes any bytes, and what it takes it prints such that it reads back the same. */
#include "inifile.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *print(const struct dm_ini *ini)
{
    struct dm_text text = DM_TEXT_INIT;
    dm_ini_print(ini, &text);
    return dm_text_take(&text);
}

/* The printed document, once it has proved to read back as itself. */
static void check_round_trip(const struct dm_ini *ini)
{
    char *once = print(ini);
    struct dm_ini *again;
    if (dm_ini_read_memory("again.ini", once, strlen(once), &again, NULL))
        abort();
    char *twice = print(again);
    if (strcmp(once, twice) != 0)
        abort();
    dm_ini_destroy(again);
    free(once);
    free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_ini *ini = NULL;
    if (dm_ini_read_memory("dir/fuzz.ini", (const char *)data, size, &ini, &err) == DEMIST_OK)
        check_round_trip(ini);
    else if (!err.text)
        abort();
    dm_ini_destroy(ini);
    dm_error_clear(&err);

    /* The same bytes behind --set. */
    char assignment[DM_INI_MAX_LINE / 2];
    size_t n = size < sizeof assignment - 1 ? size : sizeof assignment - 1;
    memcpy(assignment, data, n);
    assignment[n] = '\0';
    if (dm_ini_read_memory("", "[a]\nb = c\n", 10, &ini, NULL))
        abort();
    if (dm_ini_set(ini, assignment, &err) == DEMIST_OK)
        check_round_trip(ini);
    else if (!err.text)
        abort();
    dm_ini_destroy(ini);
    dm_error_clear(&err);
    return 0;
}

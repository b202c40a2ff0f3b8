/* JSON for programs that read what the command prints: cJSON with one place to look for failure.
 *
 * cJSON returns NULL without memory, from everything that is handed NULL too; an item that could
 * not be added would be lost in silence. Each function clears `*ok` then, and dm_json_print fails.
 */
#ifndef DM_JSONOUT_H
#define DM_JSONOUT_H

#include <stdbool.h>
#include <stdint.h>

#include <cJSON.h>

#include "error.h"
#include "text.h"

/* Adds `item`, which it takes over also when that fails. */
void dm_json_put(cJSON *object, const char *key, cJSON *item, bool *ok);
void dm_json_put_text(cJSON *object, const char *key, const char *text, bool *ok); /* NULL: null */
/* null for what is not finite, which JSON has no number for. */
void dm_json_put_number(cJSON *object, const char *key, double number, bool *ok);
void dm_json_put_integer(cJSON *object, const char *key, int64_t number, bool *ok); /* all digits */
/* A new array or object under the key; NULL after a failure, which all functions accept. */
cJSON *dm_json_put_array(cJSON *object, const char *key, bool *ok);
cJSON *dm_json_put_object(cJSON *object, const char *key, bool *ok);

/* A new item at the array's end. */
cJSON *dm_json_append_object(cJSON *array, bool *ok);
void dm_json_append_text(cJSON *array, const char *text, bool *ok);
void dm_json_append_integer(cJSON *array, int64_t number, bool *ok);

/* Appends the document and a newline, and deletes it. NO_MEMORY unless `ok`. */
demist_status dm_json_print(struct dm_text *out, cJSON *root, bool ok, struct dm_error *err);

#endif

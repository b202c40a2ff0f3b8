#include "jsonout.h"

#include <math.h>
#include <stdio.h>

#include "number.h"

void dm_json_put(cJSON *object, const char *key, cJSON *item, bool *ok)
{
    if (!item || !cJSON_AddItemToObject(object, key, item)) {
        cJSON_Delete(item);
        *ok = false;
    }
}

void dm_json_put_text(cJSON *object, const char *key, const char *text, bool *ok)
{
    dm_json_put(object, key, text ? cJSON_CreateString(text) : cJSON_CreateNull(), ok);
}

void dm_json_put_number(cJSON *object, const char *key, double number, bool *ok)
{
    char text[DM_DOUBLE_TEXT];
    dm_json_put(object, key,
                isfinite(number) ? cJSON_CreateRaw(dm_format_double(number, text))
                                 : cJSON_CreateNull(),
                ok);
}

static cJSON *create_integer(int64_t number)
{
    char text[32]; /* cJSON's own numbers are doubles */
    snprintf(text, sizeof text, "%lld", (long long)number);
    return cJSON_CreateRaw(text);
}

void dm_json_put_integer(cJSON *object, const char *key, int64_t number, bool *ok)
{
    dm_json_put(object, key, create_integer(number), ok);
}

cJSON *dm_json_put_array(cJSON *object, const char *key, bool *ok)
{
    cJSON *array = cJSON_CreateArray();
    dm_json_put(object, key, array, ok);
    return *ok ? array : NULL;
}

cJSON *dm_json_put_object(cJSON *object, const char *key, bool *ok)
{
    cJSON *inner = cJSON_CreateObject();
    dm_json_put(object, key, inner, ok);
    return *ok ? inner : NULL;
}

static void append(cJSON *array, cJSON *item, bool *ok)
{
    if (!array || !item || !cJSON_AddItemToArray(array, item)) {
        cJSON_Delete(item);
        *ok = false;
    }
}

cJSON *dm_json_append_object(cJSON *array, bool *ok)
{
    cJSON *object = array ? cJSON_CreateObject() : NULL;
    append(array, object, ok);
    return *ok ? object : NULL;
}

void dm_json_append_text(cJSON *array, const char *text, bool *ok)
{
    append(array, cJSON_CreateString(text), ok);
}

void dm_json_append_integer(cJSON *array, int64_t number, bool *ok)
{
    append(array, create_integer(number), ok);
}

demist_status dm_json_print(struct dm_text *out, cJSON *root, bool ok, struct dm_error *err)
{
    char *text = root && ok ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    if (!text)
        return dm_fail_memory(err, "JSON");
    dm_text_append(out, text);
    dm_text_append(out, "\n");
    cJSON_free(text);
    return DEMIST_OK;
}

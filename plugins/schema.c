#include "schema.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "descriptor.h"
#include "number.h"

enum { ALL_FLAGS = DEMIST_OPTION_REQUIRED | DEMIST_OPTION_AUTO | DEMIST_OPTION_LIST };

static size_t count_options(const demist_option *const *options)
{
    size_t n = 0;
    while (options[n])
        n++;
    return n;
}

int dm_schema_index(const demist_option *const *options, const char *key)
{
    for (int i = 0; options[i]; i++)
        if (strcmp(options[i]->key, key) == 0)
            return i;
    return -1;
}

/* --- what an option takes, in words --- */

static void print_bound(struct dm_text *out, const demist_option *option, double bound)
{
    char number[DM_DOUBLE_TEXT];
    if (option->type == DEMIST_OPTION_INT && fabs(bound) < 0x1p63)
        dm_text_appendf(out, "%" PRId64, (int64_t)bound);
    else
        dm_text_append(out, dm_format_double(bound, number));
}

static bool has_bound(const demist_option *option, double bound)
{
    double open = option->type == DEMIST_OPTION_INT ? 0x1p63 : 1e300;
    return option->has_range && fabs(bound) < open;
}

static void print_range(struct dm_text *out, const demist_option *option)
{
    bool has_min = has_bound(option, option->min), has_max = has_bound(option, option->max);
    if (has_min) {
        dm_text_append(out, has_max ? " from " : " of at least ");
        print_bound(out, option, option->min);
    }
    if (has_max) {
        dm_text_append(out, has_min ? " to " : " of at most ");
        print_bound(out, option, option->max);
    }
}

static void print_choices(struct dm_text *out, const demist_option *option)
{
    for (size_t i = 0; option->choices[i]; i++)
        dm_text_appendf(out, "%s%s", i == 0 ? "" : (option->choices[i + 1] ? ", " : " or "),
                        option->choices[i]);
}

void dm_schema_print_type(struct dm_text *out, const demist_option *option)
{
    bool list = option->flags & DEMIST_OPTION_LIST;
    switch (option->type) {
    case DEMIST_OPTION_BOOL:
        dm_text_append(out, "true or false");
        break;
    case DEMIST_OPTION_INT:
        dm_text_append(out, list ? "whole numbers" : "a whole number");
        print_range(out, option);
        break;
    case DEMIST_OPTION_FLOAT:
        dm_text_append(out, list ? "numbers" : "a number");
        print_range(out, option);
        break;
    case DEMIST_OPTION_ENUM:
        print_choices(out, option);
        break;
    case DEMIST_OPTION_STRING:
        dm_text_append(out, "a text");
        break;
    case DEMIST_OPTION_PATH:
        dm_text_append(out, "a path");
        break;
    }
    if (list)
        dm_text_append(out, ", separated by commas");
    if (option->flags & DEMIST_OPTION_AUTO)
        dm_text_append(out, ", or auto");
}

/* --- values --- */

enum verdict { GOOD, WRONG, OUT_OF_RANGE, NO_MEMORY };

static enum verdict check_range(const demist_option *option, double number)
{
    bool outside = option->has_range && !(number >= option->min && number <= option->max);
    return outside ? OUT_OF_RANGE : GOOD;
}

static enum verdict parse_int(const demist_option *option, const char *text, int64_t *integer)
{
    switch (dm_parse_int64(text, integer)) {
    case DM_PARSE_OK:
        return check_range(option, (double)*integer);
    case DM_PARSE_RANGE:
        return OUT_OF_RANGE;
    case DM_PARSE_MALFORMED:
        break;
    }
    return WRONG;
}

static enum verdict parse_float(const demist_option *option, const char *text, double *number)
{
    switch (dm_parse_double(text, 0, number)) {
    case DM_PARSE_OK:
        return check_range(option, *number);
    case DM_PARSE_RANGE:
        return OUT_OF_RANGE;
    case DM_PARSE_MALFORMED:
        break;
    }
    return WRONG;
}

/* INT and FLOAT; a single number is a list of one. */
static enum verdict parse_numbers(const demist_option *option, const char *text,
                                  struct dm_arena *arena, demist_value *value)
{
    const char *const *items = &text;
    size_t n = 1;
    if (option->flags & DEMIST_OPTION_LIST) {
        demist_status status = dm_split_list(arena, text, &items, &n, NULL);
        if (status != DEMIST_OK || n == 0)
            return status == DEMIST_NO_MEMORY ? NO_MEMORY : WRONG;
    }
    int64_t *integers = dm_arena_array(arena, n, sizeof *integers);
    double *numbers = dm_arena_array(arena, n, sizeof *numbers);
    if (!integers || !numbers)
        return NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        enum verdict verdict = option->type == DEMIST_OPTION_INT
                                   ? parse_int(option, items[i], &integers[i])
                                   : parse_float(option, items[i], &numbers[i]);
        if (verdict != GOOD)
            return verdict;
        if (option->type == DEMIST_OPTION_INT)
            numbers[i] = (double)integers[i];
    }
    value->count = n;
    value->number = numbers[0];
    if (option->type == DEMIST_OPTION_INT) {
        value->integer = integers[0];
        value->integers = integers;
    } else {
        value->numbers = numbers;
    }
    return GOOD;
}

static enum verdict parse_enum(const demist_option *option, const char *text, demist_value *value)
{
    for (size_t i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            value->integer = (int64_t)i;
            return GOOD;
        }
    }
    return WRONG;
}

/* `text` stays valid as long as the arena does. */
static enum verdict parse_value(const demist_option *option, const char *text,
                                struct dm_arena *arena, demist_value *value)
{
    value->text = text;
    value->count = 1;
    if ((option->flags & DEMIST_OPTION_AUTO) && strcmp(text, "auto") == 0) {
        value->is_auto = true;
        return GOOD;
    }
    switch (option->type) {
    case DEMIST_OPTION_BOOL:
        return dm_parse_bool(text, &value->boolean) ? GOOD : WRONG;
    case DEMIST_OPTION_INT:
    case DEMIST_OPTION_FLOAT:
        return parse_numbers(option, text, arena, value);
    case DEMIST_OPTION_ENUM:
        return parse_enum(option, text, value);
    case DEMIST_OPTION_STRING:
    case DEMIST_OPTION_PATH:
        break;
    }
    return GOOD;
}

/* "KEY = "TEXT" is out of range: expected …" */
static demist_status fail_value(const demist_option *option, const char *text, enum verdict verdict,
                                struct dm_error *err)
{
    if (verdict == NO_MEMORY)
        return dm_fail_memory(err, option->key);
    struct dm_text expected = DM_TEXT_INIT;
    dm_schema_print_type(&expected, option);
    if (option->type == DEMIST_OPTION_ENUM) {
        size_t n = 0;
        while (option->choices[n])
            n++;
        const char *nearest = dm_nearest(text, option->choices, n);
        if (nearest)
            dm_text_appendf(&expected, "; did you mean \"%s\"?", nearest);
    }
    dm_fail(err, DEMIST_CONFIG, "%s = \"%s\" %s: expected %s", option->key, text,
            verdict == OUT_OF_RANGE ? "is out of range" : "is not valid",
            expected.data ? expected.data : "something else");
    dm_text_finish(&expected);
    return DEMIST_CONFIG;
}

const char *dm_schema_default(const demist_option *option)
{
    if (option->default_value || (option->flags & DEMIST_OPTION_REQUIRED))
        return option->default_value;
    if (option->flags & DEMIST_OPTION_AUTO)
        return "auto";
    return option->type == DEMIST_OPTION_STRING || option->type == DEMIST_OPTION_PATH ? "" : NULL;
}

/* --- the schema itself --- */

static bool is_key(const char *key)
{
    return key[0] && key[strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_")] == '\0';
}

static demist_status check_choices(const demist_option *option, struct dm_error *err)
{
    const char *const *choices = option->choices;
    if (!choices || !choices[0])
        return dm_fail(err, DEMIST_INCOMPATIBLE, "an enum needs `choices`");
    for (size_t i = 0; choices[i]; i++) {
        if (!choices[i][0] || strpbrk(choices[i], " \t\r\n,;#"))
            return dm_fail(err, DEMIST_INCOMPATIBLE, "the choice \"%s\" is not one word",
                           choices[i]);
        if ((option->flags & DEMIST_OPTION_AUTO) && strcmp(choices[i], "auto") == 0)
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "\"auto\" is a choice and a flag: drop it from `choices`");
        for (size_t j = 0; j < i; j++)
            if (strcmp(choices[i], choices[j]) == 0)
                return dm_fail(err, DEMIST_INCOMPATIBLE, "the choice \"%s\" stands there twice",
                               choices[i]);
    }
    return DEMIST_OK;
}

static demist_status check_default(const demist_option *option, struct dm_error *err)
{
    const char *text = dm_schema_default(option);
    if ((option->flags & DEMIST_OPTION_REQUIRED) && option->default_value)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "a required option has no default");
    if (!text)
        return option->flags & DEMIST_OPTION_REQUIRED
                   ? DEMIST_OK
                   : dm_fail(err, DEMIST_INCOMPATIBLE, "it has no default and is not required");
    struct dm_arena arena = {0};
    demist_value value = DEMIST_INIT(demist_value);
    enum verdict verdict = parse_value(option, text, &arena, &value);
    dm_arena_finish(&arena);
    if (verdict == GOOD)
        return DEMIST_OK;
    fail_value(option, text, verdict, err);
    return dm_fail(err, DEMIST_INCOMPATIBLE, "the default: %s", err && err->text ? err->text : "");
}

static demist_status check_option(const demist_option *option, struct dm_error *err)
{
    bool is_number = option->type == DEMIST_OPTION_INT || option->type == DEMIST_OPTION_FLOAT;
    if (!option->doc || !option->doc[0] || strpbrk(option->doc, "\r\n"))
        return dm_fail(err, DEMIST_INCOMPATIBLE, "its `doc` must be one line");
    if (option->type < DEMIST_OPTION_BOOL || option->type > DEMIST_OPTION_PATH)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "the type %d is unknown to this demist",
                       (int)option->type);
    if (option->flags & ~(uint32_t)ALL_FLAGS)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "the flags 0x%x are unknown to this demist",
                       (unsigned)option->flags & ~(unsigned)ALL_FLAGS);
    if ((option->flags & DEMIST_OPTION_LIST) && !is_number)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "only an int or a float may be a list");
    if (option->has_range && !is_number)
        return dm_fail(err, DEMIST_INCOMPATIBLE, "only an int or a float has a range");
    if (option->has_range && !(option->min <= option->max))
        return dm_fail(err, DEMIST_INCOMPATIBLE, "its range is empty: min must not exceed max");
    if (option->type == DEMIST_OPTION_ENUM)
        DM_TRY(check_choices(option, err));
    return check_default(option, err);
}

demist_status dm_schema_check(const demist_option *const *options, struct dm_error *err)
{
    for (size_t i = 0; options[i]; i++) {
        const char *key = options[i]->key;
        if (!key || !is_key(key))
            return dm_fail(err, DEMIST_INCOMPATIBLE,
                           "option %zu: the key \"%s\" must be of lower-case letters, digits and _",
                           i, key ? key : "");
        if (dm_schema_index(options, key) != (int)i)
            return dm_fail(err, DEMIST_INCOMPATIBLE, "option \"%s\" stands there twice", key);
        if (check_option(options[i], err) != DEMIST_OK)
            return dm_fail_where(err, "option \"%s\"", key);
    }
    return DEMIST_OK;
}

/* --- sections --- */

/* "FILE:LINE: [SECTION] " before what is there. */
static demist_status fail_in(const char *where, const char *section, struct dm_error *err)
{
    return dm_fail_where(err, "%s: [%s]", where, section);
}

/* What is said about a section as a whole points to its header, or to the file without one. */
static const char *section_place(const struct dm_ini *ini, const char *section)
{
    const struct dm_ini_section *found = dm_ini_find_section(ini, section);
    return found ? found->where : ini->file;
}

static demist_status fail_unknown_key(const struct dm_ini_entry *entry,
                                      const demist_option *const *options, struct dm_arena *arena,
                                      struct dm_error *err)
{
    size_t n = count_options(options);
    const char **keys = dm_arena_array(arena, n, sizeof *keys);
    if (!keys)
        return dm_fail_memory(err, entry->where);
    struct dm_text known = DM_TEXT_INIT;
    for (size_t i = 0; i < n; i++) {
        keys[i] = options[i]->key;
        dm_text_appendf(&known, "%s%s", i ? ", " : "", keys[i]);
    }
    const char *nearest = dm_nearest(entry->key, keys, n);
    if (nearest)
        dm_fail(err, DEMIST_CONFIG, "unknown key \"%s\"; did you mean \"%s\"?", entry->key,
                nearest);
    else
        dm_fail(err, DEMIST_CONFIG, "unknown key \"%s\"; %s%s", entry->key,
                n ? "known ones are " : "this section has no keys", known.data ? known.data : "");
    dm_text_finish(&known);
    return fail_in(entry->where, entry->section, err);
}

static demist_status check_keys(const struct dm_ini *ini, const char *section,
                                const demist_option *const *options, struct dm_arena *arena,
                                struct dm_error *err)
{
    const struct dm_ini_section *found = dm_ini_find_section(ini, section);
    for (const struct dm_ini_entry *e = found ? found->entries : NULL; e; e = e->next)
        if (dm_schema_index(options, e->key) < 0)
            return fail_unknown_key(e, options, arena, err);
    return DEMIST_OK;
}

/* A value's text, copied, as the document may go before the values do; a path is resolved. */
static const char *copy_text(const demist_option *option, const struct dm_ini_entry *entry,
                             struct dm_arena *arena)
{
    bool is_auto = (option->flags & DEMIST_OPTION_AUTO) && strcmp(entry->value, "auto") == 0;
    bool is_relative = entry->value[0] && entry->value[0] != '/';
    if (option->type == DEMIST_OPTION_PATH && is_relative && !is_auto)
        return dm_arena_printf(arena, "%s%s", entry->dir, entry->value);
    return dm_arena_strdup(arena, entry->value);
}

static demist_status parse_entry(const struct dm_ini *ini, const char *section,
                                 const demist_option *option, struct dm_arena *arena,
                                 demist_value *value, struct dm_error *err)
{
    const struct dm_ini_entry *entry = dm_ini_find(ini, section, option->key);
    const char *text = entry ? copy_text(option, entry, arena) : dm_schema_default(option);
    if (!text) {
        if (entry)
            return dm_fail_memory(err, entry->where);
        struct dm_text type = DM_TEXT_INIT;
        dm_schema_print_type(&type, option);
        dm_fail(err, DEMIST_CONFIG, "%s is required and missing: %s (%s)", option->key, option->doc,
                type.data ? type.data : "");
        dm_text_finish(&type);
        return fail_in(section_place(ini, section), section, err);
    }
    value->is_default = !entry;
    enum verdict verdict = parse_value(option, text, arena, value);
    if (verdict == GOOD)
        return DEMIST_OK;
    fail_value(option, entry ? entry->value : text, verdict, err);
    return fail_in(entry ? entry->where : section_place(ini, section), section, err);
}

demist_status dm_schema_parse(const struct dm_ini *ini, const char *section,
                              const demist_option *const *options, struct dm_arena *arena,
                              const demist_value *const **values, struct dm_error *err)
{
    DM_TRY(check_keys(ini, section, options, arena, err));
    size_t n = count_options(options);
    const demist_value **list = dm_arena_array(arena, n + 1, sizeof *list);
    if (!list)
        return dm_fail_memory(err, section);
    for (size_t i = 0; i < n; i++) {
        demist_value *value = dm_arena_alloc(arena, sizeof *value);
        if (!value)
            return dm_fail_memory(err, section);
        value->size = sizeof *value;
        DM_TRY(parse_entry(ini, section, options[i], arena, value, err));
        list[i] = value;
    }
    *values = list;
    return DEMIST_OK;
}

/* "sampler.*" matches "sampler.ddim"; anything else matches itself. */
static bool matches_section(const char *pattern, const char *section)
{
    size_t length = strlen(pattern);
    if (length < 2 || strcmp(pattern + length - 2, ".*") != 0)
        return strcmp(pattern, section) == 0;
    return strncmp(pattern, section, length - 1) == 0 && dm_is_class_name(section + length - 1);
}

static bool is_known_section(const char *const *known, const char *section)
{
    for (size_t i = 0; known[i]; i++)
        if (matches_section(known[i], section))
            return true;
    return false;
}

/* Appends the known section that is spelt most like this one: of "samplr.ddim", "sampler.ddim". */
static void print_nearest_section(struct dm_text *out, const char *const *known,
                                  const char *section, struct dm_arena *arena)
{
    const char *dot = strchr(section, '.');
    size_t n = 0, n_names = 0;
    while (known[n])
        n++;
    const char **names = dm_arena_array(arena, n, sizeof *names);
    for (size_t i = 0; names && i < n; i++) {
        size_t length = strlen(known[i]);
        bool is_pattern = length >= 2 && strcmp(known[i] + length - 2, ".*") == 0;
        const char *name = !is_pattern ? known[i]
                           : dot
                               ? dm_arena_printf(arena, "%.*s%s", (int)(length - 2), known[i], dot)
                               : NULL;
        if (name && is_known_section(known, name))
            names[n_names++] = name;
    }
    const char *nearest = names ? dm_nearest(section, names, n_names) : NULL;
    if (nearest)
        dm_text_appendf(out, "; did you mean [%s]?", nearest);
}

static demist_status fail_unknown_section(const struct dm_ini_section *section,
                                          const char *const *known, struct dm_error *err)
{
    struct dm_arena arena = {0};
    struct dm_text rest = DM_TEXT_INIT;
    print_nearest_section(&rest, known, section->name, &arena);
    if (!rest.data) {
        dm_text_append(&rest, "; known ones are");
        for (size_t i = 0; known[i]; i++)
            dm_text_appendf(&rest, "%s [%s]", i ? "," : "", known[i]);
    }
    dm_fail(err, DEMIST_CONFIG, "%s: unknown section [%s]%s", section->where, section->name,
            rest.data ? rest.data : "");
    dm_text_finish(&rest);
    dm_arena_finish(&arena);
    return DEMIST_CONFIG;
}

demist_status dm_schema_check_sections(const struct dm_ini *ini, const char *const *known,
                                       struct dm_error *err)
{
    for (const struct dm_ini_section *s = ini->sections; s; s = s->next)
        if (!is_known_section(known, s->name))
            return fail_unknown_section(s, known, err);
    return DEMIST_OK;
}

/* --- descriptions --- */

static void print_indent(struct dm_text *out, int indent)
{
    for (int i = 0; i < indent; i++)
        dm_text_append(out, " ");
}

void dm_schema_print_ini(struct dm_text *out, const char *section, const char *doc,
                         const demist_option *const *options)
{
    dm_text_appendf(out, "[%s]\n", section);
    if (doc)
        dm_text_appendf(out, "; %s\n", doc);
    for (size_t i = 0; options[i]; i++) {
        const char *text = dm_schema_default(options[i]);
        dm_text_appendf(out, "\n; %s\n; ", options[i]->doc);
        dm_schema_print_type(out, options[i]);
        dm_text_appendf(out, "%s\n%s =%s%s\n", text ? "" : "; required", options[i]->key,
                        text && text[0] ? " " : "", text ? text : "");
    }
}

void dm_schema_print_text(struct dm_text *out, int indent, const demist_option *const *options)
{
    for (size_t i = 0; options[i]; i++) {
        const char *text = dm_schema_default(options[i]);
        print_indent(out, indent);
        dm_text_appendf(out, "%s%s%s\n", options[i]->key, text ? " = " : " (required)",
                        text ? text : "");
        print_indent(out, indent + 4);
        dm_schema_print_type(out, options[i]);
        dm_text_append(out, "\n");
        print_indent(out, indent + 4);
        dm_text_appendf(out, "%s\n", options[i]->doc);
    }
}

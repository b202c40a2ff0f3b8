/* Options are typed data: a plugin declares a schema, the host parses and validates what an INI
 * file says, and the plugin receives complete values in schema order.
 *
 * The same schema prints a commented stanza (`demist plugins sampler.ddim --ini`), so that
 * documentation cannot drift. */
#ifndef DEMIST_OPTIONS_H
#define DEMIST_OPTIONS_H

#include <demist/abi.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum demist_option_type {
    DEMIST_OPTION_BOOL = 1,   /* true | false */
    DEMIST_OPTION_INT = 2,    /* int64_t */
    DEMIST_OPTION_FLOAT = 3,  /* double, finite */
    DEMIST_OPTION_ENUM = 4,   /* one of `choices` */
    DEMIST_OPTION_STRING = 5, /* any text, "" included */
    DEMIST_OPTION_PATH = 6,   /* a file; received absolute or relative to the working directory */
} demist_option_type;

enum {
    /* No default: a run that uses the plugin must give it. */
    DEMIST_OPTION_REQUIRED = 1u << 0,
    /* The word `auto` is legal; the plugin decides (demist_value.is_auto). */
    DEMIST_OPTION_AUTO = 1u << 1,
    /* INT or FLOAT: a comma list of at least one number ("128,128,128"). */
    DEMIST_OPTION_LIST = 1u << 2,
};

typedef struct demist_option {
    size_t size;
    const char *key; /* [a-z0-9_]+ */
    const char *doc; /* one line, with the unit; how to use it */
    demist_option_type type;
    uint32_t flags;             /* DEMIST_OPTION_… */
    const char *default_value;  /* as a user would write it; NULL: unset ("" for STRING, PATH) */
    bool has_range;             /* INT, FLOAT: min and max hold, both inclusive */
    double min, max;            /* every element of a LIST must lie within */
    const char *const *choices; /* ENUM: NULL-ended */
} demist_option;

/* A validated value. Pointers stay valid while the instance lives. */
typedef struct demist_value {
    size_t size;
    bool is_auto;            /* `auto` was given or is the default; nothing else is set then */
    bool is_default;         /* the user did not give it */
    bool boolean;            /* BOOL */
    int64_t integer;         /* INT; ENUM: the index of the choice; LIST: its first element */
    double number;           /* FLOAT, and INT as a double; LIST: its first element */
    const char *text;        /* ENUM, STRING, PATH: never NULL; else the value as written */
    size_t count;            /* LIST: number of elements; else 1 */
    const int64_t *integers; /* LIST of INT: [count] */
    const double *numbers;   /* LIST of FLOAT: [count] */
} demist_value;

#ifdef __cplusplus
}
#endif
#endif

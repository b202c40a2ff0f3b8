/* Status codes: what every function of the public interfaces returns.
 *
 * One X-macro is the only list; texts, names and the enum are made from it. Codes are part of
 * the ABI: they are only ever appended. */
#ifndef DEMIST_STATUS_H
#define DEMIST_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, value, "what it means") */
#define DEMIST_STATUSES(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(INVALID, 1, "invalid argument or call out of order")                                         \
    X(CONFIG, 2, "invalid configuration or option")                                                \
    X(NOT_FOUND, 3, "file, plugin, tensor or device not found")                                    \
    X(IO, 4, "input or output failed")                                                             \
    X(FORMAT, 5, "malformed or hostile file")                                                      \
    X(UNSUPPORTED, 6, "valid, but not supported here")                                             \
    X(INCOMPATIBLE, 7, "parts that do not fit together")                                           \
    X(NO_MEMORY, 8, "out of memory")                                                               \
    X(DEVICE, 9, "a compute device or its driver failed")                                          \
    X(NUMERIC, 10, "a value is not finite")                                                        \
    X(CANCELLED, 11, "interrupted on request")                                                     \
    X(DISAGREE, 12, "a comparison found a difference beyond its bound")                            \
    X(INTERNAL, 13, "a defect in the program")

typedef enum demist_status {
#define DEMIST_STATUS_ENUM(name, value, text) DEMIST_##name = value,
    DEMIST_STATUSES(DEMIST_STATUS_ENUM)
#undef DEMIST_STATUS_ENUM
} demist_status;

#ifdef __cplusplus
}
#endif
#endif

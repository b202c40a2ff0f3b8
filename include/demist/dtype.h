/* Element types of tensors: in checkpoints, in graphs, in buffers. Append-only. */
#ifndef DEMIST_DTYPE_H
#define DEMIST_DTYPE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, value, bytes of an element, "name in texts") */
#define DEMIST_DTYPES(X)                                                                           \
    X(F32, 0, 4, "f32")                                                                            \
    X(F64, 1, 8, "f64")                                                                            \
    X(F16, 2, 2, "f16")                                                                            \
    X(BF16, 3, 2, "bf16")                                                                          \
    X(I8, 4, 1, "i8")                                                                              \
    X(I16, 5, 2, "i16")                                                                            \
    X(I32, 6, 4, "i32")                                                                            \
    X(I64, 7, 8, "i64")                                                                            \
    X(U8, 8, 1, "u8")                                                                              \
    X(U16, 9, 2, "u16")                                                                            \
    X(U32, 10, 4, "u32")                                                                           \
    X(U64, 11, 8, "u64")                                                                           \
    X(BOOL, 12, 1, "bool")

typedef enum demist_dtype {
#define DEMIST_DTYPE_ENUM(name, value, bytes, text) DEMIST_##name = value,
    DEMIST_DTYPES(DEMIST_DTYPE_ENUM)
#undef DEMIST_DTYPE_ENUM
} demist_dtype;

/* Bytes of one element; 0 for a type that this header does not know. */
static inline size_t demist_dtype_bytes(demist_dtype dtype)
{
    switch (dtype) {
#define DEMIST_DTYPE_CASE(name, value, bytes, text)                                                \
    case DEMIST_##name:                                                                            \
        return bytes;
        DEMIST_DTYPES(DEMIST_DTYPE_CASE) /* NOLINT(bugprone-branch-clone): types of one size */
#undef DEMIST_DTYPE_CASE
    }
    return 0;
}

/* "f32"; "unknown" for a type that this header does not know. */
static inline const char *demist_dtype_name(demist_dtype dtype)
{
    switch (dtype) {
#define DEMIST_DTYPE_CASE(name, value, bytes, text)                                                \
    case DEMIST_##name:                                                                            \
        return text;
        DEMIST_DTYPES(DEMIST_DTYPE_CASE)
#undef DEMIST_DTYPE_CASE
    }
    return "unknown";
}

#ifdef __cplusplus
}
#endif
#endif

/* How the plugin ABI grows without breaking anybody.
 *
 * - The epoch changes when something breaks; until 1.0 it may, and a host refuses another one.
 *   The minor counts appended members. A plugin states what it was built against and what it
 *   needs at least.
 * - A growable struct starts with `size_t size`, is made by DEMIST_INIT, is never an element of
 *   a public array (arrays hold pointers), and is read only below `size`: members behind it do
 *   not exist on the other side.
 * - Everything here compiles as C11 and as C++17. */
#ifndef DEMIST_ABI_H
#define DEMIST_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEMIST_ABI_EPOCH 1u
#define DEMIST_ABI_MINOR 1u

#if defined(__GNUC__)
#define DEMIST_EXPORT __attribute__((visibility("default")))
#define DEMIST_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define DEMIST_EXPORT
#define DEMIST_PRINTF(fmt, args)
#endif

/* A growable struct, zeroed, with its size set: demist_x y = DEMIST_INIT(demist_x); */
#ifdef __cplusplus
template <class T> constexpr T demist_init_of()
{
    T value{};
    value.size = sizeof(T);
    return value;
}
#define DEMIST_INIT(type) (demist_init_of<type>())
#else
#define DEMIST_INIT(type) ((type){.size = sizeof(type)})
#endif

/* Whether `member` lies within what the other side filled in. */
#define DEMIST_REACHES(object, member)                                                             \
    ((size_t)((const char *)(&(object)->member + 1) - (const char *)(object)) <= (object)->size)

/* Whether the optional pointer `member` of a growable struct is there and set. */
#define DEMIST_HAS(object, member) (DEMIST_REACHES(object, member) && (object)->member != NULL)

#ifdef __cplusplus
extern "C" {
#endif

/* No tensor has more dimensions. */
enum { DEMIST_MAX_RANK = 8 };

#ifdef __cplusplus
}
#endif
#endif

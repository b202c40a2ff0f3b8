/* Which instruction-set levels this processor and system have.
 *
 * The compiler's __builtin_cpu_supports asks CPUID and, through XGETBV, whether the system saves
 * the wider registers. */
#include "cpu_program.h"

#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define IS_X86 1
#else
#define IS_X86 0
#endif

static bool has_avx2(void)
{
#if IS_X86
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

static bool has_avx512(void)
{
#if IS_X86
    __builtin_cpu_init();
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

static bool has_avx512_bf16(void)
{
#if IS_X86
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

static bool has_generic(void)
{
    return true;
}

static const struct level {
    const char *name;
    bool (*there)(void);
    const struct cpu_kernels *kernels;
    const char *why_not;
} levels[] = {
/* the best first */
#if IS_X86
    {"avx512-bf16", has_avx512_bf16, &cpu_kernels_avx512_bf16,
     "this processor lacks AVX-512 F, BW, DQ, VL or BF16"},
    {"avx512", has_avx512, &cpu_kernels_avx512, "this processor lacks AVX-512 F, BW, DQ or VL"},
    {"avx2", has_avx2, &cpu_kernels_avx2, "this processor has no AVX2 with FMA"},
#else
    {"avx512-bf16", has_avx512_bf16, NULL, "it is a level of x86 processors"},
    {"avx512", has_avx512, NULL, "it is a level of x86 processors"},
    {"avx2", has_avx2, NULL, "it is a level of x86 processors"},
#endif
    {"generic", has_generic, &cpu_kernels_generic, NULL},
};

const struct cpu_kernels *cpu_find_kernels(const char *level, const char **why)
{
    const bool automatic = strcmp(level, "auto") == 0;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (!automatic && strcmp(level, levels[i].name) != 0)
            continue;
        if (levels[i].there())
            return levels[i].kernels;
        *why = levels[i].why_not;
    }
    return NULL;
}

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

const struct cpu_kernels *cpu_find_kernels(const char *level, const char **why)
{
    const bool automatic = strcmp(level, "auto") == 0;
#if IS_X86
    if ((automatic || strcmp(level, "avx512") == 0) && has_avx512())
        return &cpu_kernels_avx512;
    if ((automatic || strcmp(level, "avx2") == 0) && has_avx2())
        return &cpu_kernels_avx2;
#endif
    if (automatic || strcmp(level, "generic") == 0)
        return &cpu_kernels_generic;
    *why = !IS_X86                                     ? "it is a level of x86 processors"
           : strcmp(level, "avx2") == 0 && !has_avx2() ? "this processor has no AVX2 with FMA"
                                                       : "this processor lacks AVX-512 F, BW, DQ "
                                                         "or VL";
    return NULL;
}

/* Which instruction-set levels this processor and system have.
 *
 * The compiler's __builtin_cpu_supports asks CPUID and, through XGETBV, whether the system saves
 * the wider registers. AMX is asked for here, as not all compilers know it: two bits of CPUID, two
 * of XCR0, and on Linux the process' permission to use the tiles' large state. */
#include "cpu_program.h"

#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define IS_X86 1
#include <cpuid.h>
#else
#define IS_X86 0
#endif
#if IS_X86 && defined(__x86_64__) && defined(__linux__)
#define IS_LINUX_X86_64 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define IS_LINUX_X86_64 0
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

static bool has_amx(void)
{
#if IS_LINUX_X86_64
    enum {
        AMX_BF16 = 1 << 22, /* CPUID 7.0, EDX */
        AMX_TILE = 1 << 24,
        TILE_STATE = 3 << 17, /* XCR0: XTILECFG, XTILEDATA */
        ARCH_REQ_XCOMP_PERM = 0x1023,
        XTILEDATA = 18,
    };
    unsigned a, b, c, d;
    if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        (d & (AMX_BF16 | AMX_TILE)) != (AMX_BF16 | AMX_TILE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0)); /* AVX-512 is there, so XGETBV is */
    return (a & TILE_STATE) == TILE_STATE &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return false;
#endif
}

static bool has_generic(void)
{
    return true;
}

#if IS_X86
#define ON_X86(kernels, why) &(kernels), why
#else
#define ON_X86(kernels, why) NULL, "it is a level of x86 processors"
#endif

/* The best first. `automatic`: its tests have passed on a machine that has it. */
static const struct level {
    const char *name;
    bool automatic;
    bool (*there)(void);
    const struct cpu_kernels *kernels;
    const char *why_not;
} levels[] = {
#if defined(__x86_64__)
    {"amx", false, has_amx, &cpu_kernels_amx,
     "this processor lacks AMX-TILE, AMX-BF16 or AVX512-BF16, or the system does not permit tiles"},
#else
    {"amx", false, has_amx, NULL, "it is a level of x86-64 processors"},
#endif
    {"avx512-bf16", true, has_avx512_bf16,
     ON_X86(cpu_kernels_avx512_bf16, "this processor lacks AVX-512 F, BW, DQ, VL or BF16")},
    {"avx512", true, has_avx512,
     ON_X86(cpu_kernels_avx512, "this processor lacks AVX-512 F, BW, DQ or VL")},
    {"avx2", true, has_avx2, ON_X86(cpu_kernels_avx2, "this processor has no AVX2 with FMA")},
    {"generic", true, has_generic, &cpu_kernels_generic, NULL},
    {"amx-emulated", false, has_generic, &cpu_kernels_amx_emulated, NULL},
};

const struct cpu_kernels *cpu_find_kernels(const char *level, const char **why)
{
    const bool automatic = strcmp(level, "auto") == 0;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (automatic ? !levels[i].automatic : strcmp(level, levels[i].name) != 0)
            continue;
        if (levels[i].there())
            return levels[i].kernels;
        *why = levels[i].why_not;
    }
    return NULL;
}

/* What tests may ask of the emulated device, and do to it. State is the process's own; no test
 * needs more than one thread for it. The same through the environment, for programs that cannot
 * call these: CUDA_EMULATOR, a list of name=value with commas between:
 *
 *     devices=N            how many there are; none: no driver
 *     capability=MAJOR.MINOR
 *     memory=BYTES
 *     order=forward|reverse|SEED
 *     fail=CALL:NTH:ERROR  */
#ifndef CUDA_EMULATOR_H
#define CUDA_EMULATOR_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Devices, memory and order as at the start, counts at 0, no failure due, a lost device found. What
 * was allocated stays. */
void cuda_emulator_reset(void);

/* 0: none; negative: no driver, cudaGetDeviceCount says 35 and leaves its argument as it is. */
void cuda_emulator_set_devices(int count);
void cuda_emulator_set_capability(int major, int minor);
void cuda_emulator_set_memory(size_t bytes);

/* In which order the threads of a block run between two barriers, and blocks one after another.
 * Results may not depend on it: what needs a barrier that is not there shows. */
enum cuda_emulator_order {
    CUDA_EMULATOR_FORWARD = -1,
    CUDA_EMULATOR_REVERSE = -2,
    /* ≥ 0: shuffled, by that seed */
};
void cuda_emulator_set_order(int64_t order);

/* The nth call (from 1, counted from now) of the function of that name, "cudaMalloc", fails.
 * "launch" are kernels as they run, after which the device is lost: every later call says the same.
 */
void cuda_emulator_fail(const char *function, int64_t nth, cudaError_t error);

/* Calls of a function since the last reset; "launch": of kernels run; NULL: of anything. */
int64_t cuda_emulator_calls(const char *function);

/* Bytes of device memory in use. */
size_t cuda_emulator_used(void);

/* What a kernel did wrong, "" as long as none did: a write around an allocation, threads that meet
 * different barriers. Printed to standard error too. */
const char *cuda_emulator_fault(void);

#ifdef __cplusplus
}
#endif
#endif

/* How a kernel runs on a CPU: the threads of a block are fibers, which run one after another, each
 * up to the next barrier. Everything that threads do together goes through `barrier` and
 * `together`. */
#ifndef CUDA_EMULATOR_KERNEL_H
#define CUDA_EMULATOR_KERNEL_H

#include <functional>

#include "cuda_runtime_api.h"

/* The running thread's. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_emulator
{

extern unsigned char *dynamic_shared;

/* A place in a kernel's source: threads that meet must meet at the same one. */
struct place {
    const char *file;
    int line;
};
constexpr place here(const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    return {file, line};
}

/* Waits until every thread of the block is there, and returns how many said yes. */
int barrier(bool yes, place at);

/* Waits until every lane of `mask` of this warp is there; then `all` runs once, with the lanes'
 * operands at lanes[0..31], NULL where no bit is set. */
void together(unsigned mask, void *operand, void (*all)(void *const *lanes), place at);

template <class T> void warp(unsigned mask, T &operand, void (*all)(T *const *), place at)
{
    struct both {
        T *operand;
        void (*all)(T *const *);
    } mine = {&operand, all};
    together(
        mask, &mine,
        [](void *const *lanes) {
            T *operands[32];
            void (*run)(T *const *) = nullptr;
            for (int i = 0; i < 32; i++) {
                operands[i] = lanes[i] ? static_cast<both *>(lanes[i])->operand : nullptr;
                run = lanes[i] ? static_cast<both *>(lanes[i])->all : run;
            }
            run(operands);
        },
        at);
}

/* Number in the warp of the running thread. */
unsigned lane();

/* What a thread still has to do later: copies that were begun. Run at the end of a block if nobody
 * waited for them; that is a fault. */
void begin_copy(void *to, const void *from, size_t bytes, size_t zeros);
void commit_copies();
void wait_copies(int groups_left);

/* Called by a kernel's code: ends the launch with that text. */
[[noreturn]] void fault(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The launch as the stream will run it; errors as of the configuration. */
cudaError_t launch(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   std::function<void()> body);
cudaError_t set_shared_limit(const void *kernel, int bytes);

/* All blocks, one after another; false after a fault. `order` as in cuda_emulator.h. */
bool run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body,
              int64_t order, char *message, size_t message_size);

} // namespace cuda_emulator

#endif

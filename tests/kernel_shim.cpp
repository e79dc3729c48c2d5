// kernels.cu as C++: thread indices are thread-local variables, a launch is six loops. No __syncthreads, no warps.
#include <cstdint>
#include <math.h>

#define SEGPIPE_ON_CPU
#define __global__
#define __device__

struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, threadIdx, blockDim;

typedef _Float16 __half;
static inline float __half2float(__half value) { return (float)value; }
static inline __half __float2half(float value) { return (__half)value; }

#include KERNELS

template <typename A> static void run(void (*kernel)(A), const unsigned *grid, const unsigned *block, const A *arguments) {
    blockDim = {block[0], block[1], block[2]};
    for (unsigned bz = 0; bz < grid[2]; ++bz)
        for (unsigned by = 0; by < grid[1]; ++by)
            for (unsigned bx = 0; bx < grid[0]; ++bx)
                for (unsigned ty = 0; ty < block[1]; ++ty)
                    for (unsigned tx = 0; tx < block[0]; ++tx) {
                        blockIdx = {bx, by, bz};
                        threadIdx = {tx, ty, 0};
                        kernel(*arguments);
                    }
}

extern "C" void run_pre(void *kernel, const unsigned *grid, const unsigned *block, const void *arguments) {
    run((void (*)(PreArguments))kernel, grid, block, (const PreArguments *)arguments);
}
extern "C" void run_scores(void *kernel, const unsigned *grid, const unsigned *block, const void *arguments) {
    run((void (*)(ScoreArguments))kernel, grid, block, (const ScoreArguments *)arguments);
}
extern "C" void run_pack(void *kernel, const unsigned *grid, const unsigned *block, const void *arguments) {
    run((void (*)(PackArguments))kernel, grid, block, (const PackArguments *)arguments);
}
extern "C" void run_blend(void *kernel, const unsigned *grid, const unsigned *block, const void *arguments) {
    run((void (*)(BlendArguments))kernel, grid, block, (const BlendArguments *)arguments);
}
extern "C" int size_of(int which) {
    const int sizes[] = {sizeof(PreArguments), sizeof(ScoreArguments), sizeof(PackArguments), sizeof(BlendArguments)};
    return sizes[which];
}

// The device operations that the kernels use: here for the GPU, in tests/emulator for the emulator, which runs the same
// source on a CPU. This file contains no logic: each function is one or two machine instructions.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// One vector of 128 bits.
struct alignas(16) Vector {
    u32 word[4];
};

constexpr u32 VECTOR = sizeof(Vector);
constexpr u32 WARP = 32;

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
// Shared memory of a block, of a size known at compile time.
#define SHARED(type, name, count) __shared__ alignas(16) type name[count]

DEVICE u32 thread() { return threadIdx.x; }
DEVICE u32 block() { return blockIdx.x; }
DEVICE u32 blocks() { return gridDim.x; }
DEVICE void barrier() { __syncthreads(); }

// Cache-streaming accesses, for memory that is read or written only once: the caches evict it first.
DEVICE Vector load_once(const Vector *from) {
    const uint4 v = __ldcs(reinterpret_cast<const uint4 *>(from));
    return {{v.x, v.y, v.z, v.w}};
}
DEVICE void store_once(Vector *to, const Vector &v) {
    __stcs(reinterpret_cast<uint4 *>(to), make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]));
}
DEVICE Vector load_shared(const Vector *from) {
    const uint4 v = *reinterpret_cast<const uint4 *>(from);
    return {{v.x, v.y, v.z, v.w}};
}

// Copies a vector from global to shared memory without a register. The copy is complete only when `arrived` returns.
DEVICE void copy_async(Vector *shared, const Vector *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<u32>(__cvta_generic_to_shared(shared))),
                 "l"(__cvta_generic_to_global(global))
                 : "memory");
}
DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `later` of this thread's most recent groups are incomplete.
template <int later> DEVICE void arrived() { asm volatile("cp.async.wait_group %0;" ::"n"(later) : "memory"); }

DEVICE u32 rotate_right(u32 x, u32 by) { return __funnelshift_r(x, x, by); }
// Returns the low word of the pair after shifting it right by `by` bits (below 32).
DEVICE u32 shift_pair(u32 low, u32 high, u32 by) { return __funnelshift_r(low, high, by); }
DEVICE u32 ones(u32 x) { return __popc(x); }
DEVICE bool any_in_warp(bool x) { return __any_sync(0xffffffffu, x); }
DEVICE u32 sum_in_warp(u32 x) { return __reduce_add_sync(0xffffffffu, x); }
DEVICE void add(u64 *to, u64 x) { atomicAdd(to, x); }

#else
#include "emulator.h"
#endif

DEVICE u64 lower(u64 a, u64 b) { return a < b ? a : b; }
DEVICE u64 higher(u64 a, u64 b) { return a > b ? a : b; }

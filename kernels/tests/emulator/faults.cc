// Kernels with mistakes that the emulator must find. Each takes the address of 32 words.
#include "../../cuda/device.h"

// Threads read words that other threads may not have written yet.
KERNEL(64, 1) no_barrier(u32 *words) {
    SHARED(u32, shared, 64);
    shared[thread()] = words[thread() % 32];
    words[thread() % 32] = shared[(thread() + 32) % 64];
}

// Writes one word past the end of the buffer.
KERNEL(32, 1) past_the_end(u32 *words) { words[thread() + 1] = 1; }

// Writes one word past the end of the block's shared memory.
KERNEL(32, 1) past_the_end_of_shared_memory(u32 *words) {
    SHARED(u32, shared, 32);
    shared[thread() + 1] = words[thread()];
    barrier();
    words[thread()] = shared[thread()];
}

// Stores a vector at a misaligned address.
KERNEL(32, 1) misaligned(u32 *words) {
    if (thread() == 0) {
        store_once(reinterpret_cast<Vector *>(words + 1), {});
    }
}

// Half of the block waits at a barrier that the other half never reaches.
KERNEL(64, 1) half_a_barrier(u32 *words) {
    if (thread() < 32) {
        barrier();
    }
    words[thread() % 32] = 0;
}

// Reads the destination of asynchronous copies without waiting for them.
KERNEL(32, 1) no_wait(u32 *words) {
    SHARED(Vector, shared, 8);
    if (thread() < 8) {
        copy_async(shared + thread(), reinterpret_cast<const Vector *>(words) + thread());
    }
    commit();
    barrier();
    words[thread()] = shared[thread() / 4].word[thread() % 4];
}

ENTRY(no_barrier)
ENTRY(past_the_end)
ENTRY(past_the_end_of_shared_memory)
ENTRY(misaligned)
ENTRY(half_a_barrier)
ENTRY(no_wait)

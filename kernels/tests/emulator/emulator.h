// Runs the source of the kernels on a CPU, so that their results can be tested without a GPU.
//
// Each thread of a block is a fiber, which runs until it must wait for other threads. `seed` decides the order of the
// fibers, so a result that depends on the order differs between seeds. ThreadSanitizer sees fibers as threads that are
// ordered only by barriers and warp operations, and reports races. For AddressSanitizer, device memory is heap memory: it
// reports every access outside of a buffer or of a block's shared memory. An address that a GPU would refuse as misaligned
// aborts the process.
//
// Speed, caches and memory ordering other than by barriers are not emulated.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <utility>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// For the emulator's own bookkeeping: unordered fibers share it, and ThreadSanitizer must not report that as a race.
#define UNWATCHED __attribute__((no_sanitize_thread, noinline))

#define DEVICE static inline
#define KERNEL(threads, blocks) static void
#define SHARED(type, name, count) type *const name = static_cast<type *>(emulator::shared(sizeof(type) * (count)))

namespace emulator {

enum class State { ready, at_barrier, in_warp, done };

struct Copy {
    Vector *to;
    const Vector *from;
};

struct Fiber {
    ucontext_t context;
    char *stack;
    State state;
    u32 met, met_in_warp;                   // numbers of barriers and of warp operations so far
    u32 offered;                            // operand of the warp operation, then its result
    std::vector<std::vector<Copy>> groups;  // asynchronous copies; the last group is not committed yet
    void *tsan;
    void *asan;
};

constexpr size_t STACK = 256 * 1024;

// Each thread of the process runs one launch at a time.
inline thread_local std::vector<Fiber> *fibers;
inline thread_local ucontext_t scheduler;
inline thread_local void *scheduler_tsan;
inline thread_local void *scheduler_asan;
inline thread_local const void *scheduler_stack;
inline thread_local size_t scheduler_size;
inline thread_local u32 current, block_number, block_count;
inline thread_local bool copies_are_late;
inline thread_local void *shared_memory;
inline thread_local size_t shared_size;
inline thread_local std::function<void()> body;
// Synchronisation points for ThreadSanitizer: the begin, the end, barriers, and the operations of each warp. Barriers
// alternate between two, so that a fiber already at the next barrier does not count as ordered by this one.
struct Meetings {
    char begin, end, barrier[2], warp[1024 / WARP][2];
};
inline thread_local Meetings meetings;

UNWATCHED inline u32 index() { return current; }

inline Fiber &self() { return (*fibers)[index()]; }

[[noreturn]] inline void fault(const char *what) {
    std::fprintf(stderr, "EMULATOR: block %u thread %u: %s\n", block_number, index(), what);
    std::abort();
}

inline void aligned(const void *address) {
    if (reinterpret_cast<u64>(address) % VECTOR != 0) {
        fault("a vector of 128 bits at an address that is no multiple of 16");
    }
}

// Switches to the scheduler; returns when the scheduler resumes this fiber.
UNWATCHED inline void wait(State state) {
    Fiber &self = (*fibers)[current];
    self.state = state;
#if defined(__SANITIZE_THREAD__)
    char *const place = state == State::done         ? &meetings.end
                        : state == State::at_barrier ? &meetings.barrier[self.met++ % 2]
                                                     : &meetings.warp[current / WARP][self.met_in_warp++ % 2];
    __tsan_release(place);
    __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(state == State::done ? nullptr : &self.asan, scheduler_stack, scheduler_size);
#endif
    swapcontext(&self.context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self.asan, nullptr, nullptr);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(place);
#endif
}

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&meetings.begin);
#endif
    body();
    for (const auto &group : self().groups) {
        if (!group.empty() && copies_are_late) {
            fault("ends with asynchronous copies that nothing waited for");
        }
    }
    wait(State::done);
    std::abort();
}

UNWATCHED inline void resume(u32 index) {
    Fiber &fiber = (*fibers)[index];
    current = index;
    fiber.state = State::ready;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_asan, fiber.stack, STACK);
#endif
    swapcontext(&scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_asan, nullptr, nullptr);
#endif
}

// Resumes every fiber that is ready, in an order that the seed decides. Returns whether any fiber is left.
UNWATCHED inline bool round(u64 &seed) {
    const u32 count = static_cast<u32>(fibers->size());
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const u32 turn = static_cast<u32>(seed >> 33) % count;
    const bool backwards = seed >> 63;
    for (u32 i = 0; i < count; i++) {
        const u32 index = ((backwards ? count - 1 - i : i) + turn) % count;
        if ((*fibers)[index].state == State::ready) {
            resume(index);
        }
    }
    u32 waiting = 0, done = 0;
    bool answered = false;
    for (u32 warp = 0; warp < count; warp += WARP) {
        u32 in_warp = 0, sum = 0;
        for (u32 lane = warp; lane < warp + WARP; lane++) {
            const Fiber &fiber = (*fibers)[lane];
            waiting += fiber.state == State::at_barrier;
            done += fiber.state == State::done;
            in_warp += fiber.state == State::in_warp;
            sum += fiber.offered;
        }
        if (in_warp == WARP) {
            answered = true;
            for (u32 lane = warp; lane < warp + WARP; lane++) {
                (*fibers)[lane].offered = sum;
                (*fibers)[lane].state = State::ready;
            }
        }
    }
    if (waiting == count) {
        for (Fiber &fiber : *fibers) {
            fiber.state = State::ready;
        }
    } else if (done != count && !answered) {
        fault("threads of the block wait for each other in different places");
    }
    return done != count;
}

// Returns the block's shared memory. It starts as garbage, because a GPU does not clear it either. The first caller
// allocates it with the requested size, so that AddressSanitizer knows its end. Under ThreadSanitizer, which would report
// that as a race, `run_block` allocates it.
UNWATCHED inline void *shared(size_t bytes) {
    if (shared_memory == nullptr) {
        shared_memory = std::aligned_alloc(128, (bytes + 127) / 128 * 128);
        std::memset(shared_memory, 0xa5, bytes);
    }
    if (shared_size != 0 && bytes != shared_size) {
        fault("a second array of shared memory, which is not emulated");
    }
    shared_size = bytes;
    return shared_memory;
}

inline void run_block(u32 threads, u64 &seed) {
    std::vector<Fiber> made(threads);
    fibers = &made;
    for (Fiber &fiber : made) {
        getcontext(&fiber.context);
        fiber.stack = static_cast<char *>(std::malloc(STACK));
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        fiber.groups.emplace_back();
        makecontext(&fiber.context, enter, 0);
#if defined(__SANITIZE_THREAD__)
        fiber.tsan = __tsan_create_fiber(0);
#endif
    }
    shared_size = 0;
#if defined(__SANITIZE_THREAD__)
    constexpr size_t MOST_SHARED = 228 * 1024;
    shared_memory = std::aligned_alloc(128, MOST_SHARED);
    std::memset(shared_memory, 0xa5, MOST_SHARED);
    scheduler_tsan = __tsan_get_current_fiber();
    __tsan_release(&meetings.begin);
#endif
    while (round(seed)) {
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&meetings.end);
#endif
    for (Fiber &fiber : made) {
#if defined(__SANITIZE_THREAD__)
        __tsan_destroy_fiber(fiber.tsan);
#endif
        std::free(fiber.stack);
    }
    std::free(shared_memory);
    shared_memory = nullptr;
    fibers = nullptr;
}

// Runs blocks `first` to `first + some - 1` of a grid of `blocks`, one after the other.
inline void run(u32 blocks, u32 first, u32 some, u32 threads, u64 seed, const std::function<void()> &kernel) {
    if (threads % WARP != 0) {
        fault("a block that is not of whole warps, which is not emulated");
    }
    body = kernel;
    block_count = blocks;
    copies_are_late = seed % 2 == 0;
    for (u32 i = 0; i < some; i++) {
        block_number = first + (seed % 4 < 2 ? i : some - 1 - i);
        u64 order = seed + block_number;
        run_block(threads, order);
    }
}

// Calls a kernel with arguments in the form of cuLaunchKernel: the address of each.
template <typename... A, size_t... I>
void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A *>(arguments[I])...);
}

template <typename... A>
void launch(void (*kernel)(A...), u32 blocks, u32 first, u32 some, u32 threads, u64 seed, void **arguments) {
    run(blocks, first, some, threads, seed,
        [=] { call(kernel, arguments, std::make_index_sequence<sizeof...(A)>()); });
}

template <typename... A> u32 sizes(void (*)(A...), u32 *sizes) {
    ((*sizes++ = sizeof(A)), ...);
    return sizeof...(A);
}

} // namespace emulator

// Exports a kernel and the sizes of its arguments under names that contain the kernel's name; a cubin has both, too.
#define ENTRY(kernel)                                                                                                  \
    extern "C" void run_##kernel(u32 blocks, u32 first, u32 some, u32 threads, u64 seed, void **arguments) {           \
        emulator::launch(kernel, blocks, first, some, threads, seed, arguments);                                       \
    }                                                                                                                  \
    extern "C" u32 sizes_##kernel(u32 *sizes) { return emulator::sizes(kernel, sizes); }

DEVICE u32 thread() { return emulator::index(); }
DEVICE u32 block() { return emulator::block_number; }
DEVICE u32 blocks() { return emulator::block_count; }
DEVICE void barrier() { emulator::wait(emulator::State::at_barrier); }

DEVICE Vector load_once(const Vector *from) {
    emulator::aligned(from);
    return *from;
}
DEVICE void store_once(Vector *to, const Vector &v) {
    emulator::aligned(to);
    *to = v;
}
DEVICE Vector load_shared(const Vector *from) {
    emulator::aligned(from);
    return *from;
}

DEVICE void copy_async(Vector *shared, const Vector *global) {
    emulator::aligned(shared);
    emulator::aligned(global);
    if (emulator::copies_are_late) {
        emulator::self().groups.back().push_back({shared, global});
    } else {
        *shared = *global;
    }
}
DEVICE void commit() { emulator::self().groups.emplace_back(); }
template <int later> DEVICE void arrived() {
    auto &groups = emulator::self().groups;
    while (groups.size() > later + 1) {
        for (const emulator::Copy &copy : groups.front()) {
            *copy.to = *copy.from;
        }
        groups.erase(groups.begin());
    }
}

DEVICE u32 rotate_right(u32 x, u32 by) { return x >> by | x << (32 - by); }
DEVICE u32 shift_pair(u32 low, u32 high, u32 by) {
    return static_cast<u32>((static_cast<u64>(high) << 32 | low) >> by);
}
DEVICE u32 ones(u32 x) { return static_cast<u32>(__builtin_popcount(x)); }
UNWATCHED DEVICE u32 sum_in_warp(u32 x) {
    emulator::self().offered = x;
    emulator::wait(emulator::State::in_warp);
    return emulator::self().offered;
}
DEVICE bool any_in_warp(bool x) { return sum_in_warp(x) != 0; }
DEVICE void add(u64 *to, u64 x) { __atomic_fetch_add(to, x, __ATOMIC_RELAXED); }

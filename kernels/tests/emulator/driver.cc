// A stand-in for NVIDIA's driver library, libcuda.so.1, over the emulator. It has the calls that cudarc makes for this
// crate. Tests use it to show that src/gpu.rs loads modules, passes arguments, orders its operations and frees nothing too
// early. It is as strict as the real driver:
// - Work on a stream runs only when somebody waits for it; arguments and host bytes are copied at the call.
// - Memory is garbage until it is written, and again after it is freed.
// - A module must be an ELF file for a GPU.
// - Threads without a context can neither allocate, fill nor free memory.
// EMULATED_BYTES is the size of its memory, and EMULATED_MAJOR its major compute capability (9 if unset). With
// EMULATED_FAULT=deaf, the kernel sm90_scrub_fill does nothing.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;
using Time = std::chrono::steady_clock::time_point;

enum Result : int { ok = 0, invalid_value = 1, out_of_memory = 2, invalid_device = 101, invalid_image = 200, invalid_context = 201, not_found = 500 };

struct Event {
    Time at;
};

struct Function {
    void (*run)(u32, u32, u32, u32, u64, void **);
    std::vector<u32> sizes;
    std::string name;
};

// One queue serves all streams: this crate uses one, and streams that wait for each other's events run in order.
static std::mutex mutex;
static std::deque<std::function<void()>> queue;
static std::map<u64, size_t> allocations;
static size_t in_use;           // bytes; memory freed to the pool counts until the pool is trimmed
static size_t idle;             // bytes of `in_use` that were freed to the pool
static u64 freed_with_contents; // number of allocations that were not all zero when freed
static std::set<u64> of_no_pool; // addresses from cuMemAlloc, which belong to no pool
static bool short_of_memory;    // whether the runtime library's last error was out of memory
static std::map<std::string, int> carveouts; // each kernel's preferred shared memory, in per cent of the maximum
static int anything; // target of handles that are never dereferenced
static u64 launches;
static bool refusing; // whether cuMemsetD8Async fails
static thread_local void *current; // the thread's context

static void start(std::function<void()> work) {
    std::lock_guard<std::mutex> guard(mutex);
    queue.push_back(std::move(work));
}

static Result finish() {
    for (;;) {
        std::function<void()> work;
        {
            std::lock_guard<std::mutex> guard(mutex);
            if (queue.empty()) {
                return ok;
            }
            work = std::move(queue.front());
            queue.pop_front();
        }
        work();
    }
}

static void nothing(u32, u32, u32, u32, u64, void **) {}

// Ends an allocation: counts it if it still had contents, and turns the memory into garbage.
static void release(u64 address, bool pooled) {
    std::lock_guard<std::mutex> guard(mutex);
    const size_t bytes = allocations.at(address);
    allocations.erase(address);
    if (pooled) {
        idle += bytes;
    } else {
        in_use -= bytes;
    }
    u8 *const held = reinterpret_cast<u8 *>(address);
    freed_with_contents += std::any_of(held, held + bytes, [](u8 byte) { return byte != 0; });
    std::memset(held, 0xdb, bytes);
}

extern "C" {

Result cuInit(u32) { return ok; }
Result cuDeviceGetCount(int *count) { return *count = 1, ok; }
Result cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? ok : invalid_device; }
Result cuDeviceGetName(char *name, int length, int) { return std::strncpy(name, "emulated", length), ok; }
Result cuDeviceGetAttribute(int *value, int attribute, int) {
    const char *major = std::getenv("EMULATED_MAJOR");
    switch (attribute) {
    case 16: return *value = 2, ok;                               // multiprocessors
    case 36: return *value = 1000000, ok;                         // memory clock in kHz
    case 37: return *value = 64, ok;                              // memory bus width in bits
    case 75: return *value = major ? std::atoi(major) : 9, ok;    // compute capability, major and minor
    case 76: return *value = 0, ok;
    case 115: return *value = 1, ok;                              // supports memory pools
    default: return invalid_value;
    }
}
Result cuDevicePrimaryCtxRetain(void **context, int) { return *context = &anything, ok; }
Result cuDevicePrimaryCtxRelease_v2(int) { return ok; }
Result cuCtxDestroy_v2(void *) { return ok; }
Result cuCtxSetCurrent(void *context) { return current = context, ok; }
Result cuCtxGetCurrent(void **context) { return *context = current, ok; }
Result cuCtxSynchronize() { return finish(); }

Result cuStreamCreate(void **stream, u32) { return *stream = &anything, ok; }
Result cuStreamDestroy_v2(void *) { return finish(); }
Result cuStreamSynchronize(void *) { return finish(); }
Result cuStreamWaitEvent(void *, void *, u32) { return ok; }

Result cuEventCreate(void **event, u32) { return *event = new Event(), ok; }
Result cuEventRecord(void *event, void *) {
    start([=] { static_cast<Event *>(event)->at = std::chrono::steady_clock::now(); });
    return ok;
}
Result cuEventSynchronize(void *) { return finish(); }
Result cuEventElapsedTime_v2(float *milliseconds, void *begin, void *end) {
    const auto took = static_cast<Event *>(end)->at - static_cast<Event *>(begin)->at;
    return *milliseconds = std::chrono::duration<float, std::milli>(took).count(), ok;
}
Result cuEventElapsedTime(float *m, void *begin, void *end) { return cuEventElapsedTime_v2(m, begin, end); }
// Queued, because recording the event may still be in the queue.
Result cuEventDestroy_v2(void *event) {
    start([=] { delete static_cast<Event *>(event); });
    return ok;
}

Result cuMemAllocAsync(u64 *address, size_t bytes, void *) {
    if (bytes == 0) {
        return invalid_value;
    }
    if (current == nullptr) {
        return invalid_context;
    }
    const char *const most = std::getenv("EMULATED_BYTES");
    std::lock_guard<std::mutex> guard(mutex);
    if (most && in_use + bytes > std::strtoull(most, nullptr, 10)) {
        return out_of_memory;
    }
    void *const memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (memory == nullptr) {
        return out_of_memory;
    }
    std::memset(memory, 0xdb, bytes);
    in_use += bytes;
    allocations[*address = reinterpret_cast<u64>(memory)] = bytes;
    return ok;
}
Result cuMemFreeAsync(u64 address, void *) {
    if (current == nullptr) {
        return invalid_context;
    }
    {
        std::lock_guard<std::mutex> guard(mutex);
        if (!allocations.count(address)) {
            return invalid_value;
        }
    }
    start([=] { release(address, true), std::free(reinterpret_cast<void *>(address)); });
    return ok;
}
Result cuMemAllocFromPoolAsync(u64 *address, size_t bytes, void *, void *stream) {
    return cuMemAllocAsync(address, bytes, stream);
}
Result cuMemAlloc_v2(u64 *address, size_t bytes) {
    const Result allocated = cuMemAllocAsync(address, bytes, nullptr);
    if (allocated == ok) {
        std::lock_guard<std::mutex> guard(mutex);
        of_no_pool.insert(*address);
    }
    return allocated;
}
// Waits for all work first, unless the memory belongs to a pool. Such memory is released at once, but stays allocated on the
// host, because queued work may still write to it.
Result cuMemFree_v2(u64 address) {
    if (current == nullptr) {
        return invalid_context;
    }
    bool waits;
    {
        std::lock_guard<std::mutex> guard(mutex);
        if (!allocations.count(address)) {
            return invalid_value;
        }
        waits = of_no_pool.erase(address);
    }
    if (waits) {
        finish();
    }
    release(address, !waits);
    if (waits) {
        std::free(reinterpret_cast<void *>(address));
    }
    return ok;
}
// This library also stands in for the CUDA runtime library, which remembers its last error.
int cudaMalloc(u64 *address, size_t bytes) {
    const Result allocated = cuMemAlloc_v2(address, bytes);
    return short_of_memory |= allocated == out_of_memory, allocated;
}
int cudaMallocAsync_ptsz(u64 *address, size_t bytes, void *stream) {
    const Result allocated = cuMemAllocAsync(address, bytes, stream);
    return short_of_memory |= allocated == out_of_memory, allocated;
}
int cudaGetLastError() {
    const bool told = short_of_memory;
    return short_of_memory = false, told ? out_of_memory : ok;
}
Result cuMemAllocManaged(u64 *address, size_t bytes, u32) { return cuMemAlloc_v2(address, bytes); }
Result cuMemHostAlloc(void **address, size_t bytes, u32) { return *address = std::malloc(bytes), ok; }
Result cuMemFreeHost(void *address) { return std::free(address), ok; }
// Only for tests: makes cuMemsetD8Async fail or work again, and returns the number of allocations freed with contents.
void emulated_refuses(bool refuses) { refusing = refuses; }
u64 emulated_freed_with_contents() { return finish(), freed_with_contents; }

Result cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = size_t(1) << 30, ok; }
Result cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &anything, ok; }
// Gives back all that was freed by the work done so far, whatever size the caller asks to keep.
Result cuMemPoolTrimTo(void *, size_t) {
    std::lock_guard<std::mutex> guard(mutex);
    in_use -= std::exchange(idle, 0);
    return ok;
}
Result cuMemPoolSetAttribute(void *, int attribute, void *) { return attribute == 4 ? ok : invalid_value; } // release threshold
Result cuMemGetAddressRange_v2(u64 *base, size_t *size, u64 address) {
    std::lock_guard<std::mutex> guard(mutex);
    auto found = allocations.upper_bound(address);
    if (found == allocations.begin() || (--found, address - found->first >= found->second)) {
        return invalid_value;
    }
    return *base = found->first, *size = found->second, ok;
}
Result cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t bytes, void *) {
    std::vector<u8> copy(static_cast<const u8 *>(from), static_cast<const u8 *>(from) + bytes);
    start([=] { std::memcpy(reinterpret_cast<void *>(to), copy.data(), copy.size()); });
    return ok;
}
Result cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t bytes, void *) {
    start([=] { std::memcpy(to, reinterpret_cast<void *>(from), bytes); });
    return ok;
}
Result cuMemcpyHtoD_v2(u64 to, const void *from, size_t bytes) {
    return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr), finish();
}
Result cuMemcpyDtoH_v2(void *to, u64 from, size_t bytes) {
    return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr), finish();
}
Result cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void *) {
    start([=] { std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes); });
    return ok;
}
Result cuMemcpyPeerAsync(u64 to, void *, u64 from, void *, size_t bytes, void *stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
Result cuMemsetD8Async(u64 to, u8 value, size_t bytes, void *) {
    if (current == nullptr || refusing) {
        return invalid_context;
    }
    start([=] { std::memset(reinterpret_cast<void *>(to), value, bytes); });
    return ok;
}
Result cuMemsetD32Async(u64 to, u32 value, size_t words, void *) {
    start([=] { std::fill_n(reinterpret_cast<u32 *>(to), words, value); });
    return ok;
}

// Kernels always come from the emulator, but the module must be machine code for a GPU (e_machine 190, EM_CUDA).
Result cuModuleLoadData(void **module, const void *image) {
    const u8 *const bytes = static_cast<const u8 *>(image);
    const bool cubin = std::memcmp(bytes, "\x7f" "ELF", 4) == 0 && bytes[18] == 190 && bytes[19] == 0;
    return *module = &anything, cubin ? ok : invalid_image;
}
Result cuModuleUnload(void *) { return ok; }
Result cuModuleGetFunction(void **function, void *, const char *name) {
    const std::string kernel = name;
    // The program opens this library with local scope, so the symbols must be looked up in this library.
    Dl_info info;
    dladdr(reinterpret_cast<void *>(&cuInit), &info);
    void *const here = dlopen(info.dli_fname, RTLD_NOW);
    const char *const fault = std::getenv("EMULATED_FAULT");
    const bool deaf = fault && std::string(fault) == "deaf" && kernel == "sm90_scrub_fill";
    void *const entry = deaf ? reinterpret_cast<void *>(&nothing) : dlsym(here, ("run_" + kernel).c_str());
    void *const sizes = dlsym(here, ("sizes_" + kernel).c_str());
    if (entry == nullptr || sizes == nullptr) {
        return not_found;
    }
    u32 found[16];
    const u32 count = reinterpret_cast<u32 (*)(u32 *)>(sizes)(found);
    *function = new Function{reinterpret_cast<decltype(Function::run)>(entry), {found, found + count}, kernel};
    return ok;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute != 9 || value < -1 || value > 100) { // preferred shared-memory carveout
        return invalid_value;
    }
    std::lock_guard<std::mutex> guard(mutex);
    return carveouts[static_cast<Function *>(function)->name] = value, ok;
}
// Only for tests: returns a kernel's preferred carveout; -1 is the driver's own choice.
int emulated_carveout(const char *kernel) { return carveouts.count(kernel) ? carveouts.at(kernel) : -1; }
Result cuLaunchKernel(void *function, u32 blocks, u32 y, u32 z, u32 threads, u32 ty, u32 tz, u32 shared, void *,
                      void **arguments, void **extra) {
    if (blocks == 0 || y != 1 || z != 1 || threads == 0 || threads > 1024 || ty != 1 || tz != 1 || shared != 0 || extra) {
        return invalid_value;
    }
    const Function &kernel = *static_cast<Function *>(function);
    std::vector<std::vector<u8>> copies;
    for (size_t i = 0; i < kernel.sizes.size(); i++) {
        const u8 *const value = static_cast<const u8 *>(arguments[i]);
        copies.emplace_back(value, value + kernel.sizes[i]);
    }
    const u64 seed = launches++;
    start([=]() mutable {
        std::vector<void *> values;
        for (auto &copy : copies) {
            values.push_back(copy.data());
        }
        kernel.run(blocks, 0, blocks, threads, seed, values.data());
    });
    return ok;
}

Result cuGetErrorName(int, const char **text) { return *text = "emulated", ok; }
Result cuGetErrorString(int, const char **text) { return *text = "an error of the emulated driver", ok; }
}

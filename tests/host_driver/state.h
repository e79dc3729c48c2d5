// What the driver of host memory keeps: contexts, memory, streams, captures, counts and planned failures; and the checks.
#pragma once
#include <cuda.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {
constexpr int DEVICES = 2;
constexpr size_t GUARD = 64, PAGE = 4096, FILLED = 1 << 20;  // so much rubbish is enough to be noticed
constexpr unsigned char FILL = 0xA5;

using Work = std::function<CUresult()>;
struct Block { size_t size; };
struct Stream { bool capturing = false, broken = false; std::vector<Work> recorded; };
struct Graph { std::vector<Work> works; };
struct Event { double ms = 0; bool timed = false; };
struct Function { void *kernel; int size; void (*run)(void *, const unsigned *, const unsigned *, const void *); };
struct Context { int device = 0, retained = 0; };

std::recursive_mutex mutex;
Context contexts[DEVICES] = {{0, 0}, {1, 0}};
std::map<uintptr_t, Block> memory, pinned;
std::set<Stream *> streams;
std::set<Graph *> graphs, executables;
std::set<Event *> events;
std::set<std::vector<Function> *> modules;
std::map<std::string, long> calls, copied;
std::map<std::string, int> failures;
std::vector<std::string> problems;
size_t limit_bytes = size_t(2) << 30;
Stream legacy;
thread_local std::vector<Context *> current;
thread_local Stream *captured = nullptr;  // the stream that this thread captures
thread_local bool relaxed = false;  // what CUDA calls potentially unsafe is allowed on this thread, also in a capture

using Lock = std::lock_guard<std::recursive_mutex>;

CUresult enter(std::string name) {
    if (name.size() > 3 && name.compare(name.size() - 3, 3, "_v2") == 0) name.resize(name.size() - 3);
    Lock lock(mutex);
    ++calls[name];
    auto planned = failures.find(name);
    if (planned == failures.end() && name.compare(0, 5, "cuCtx")) planned = failures.find("*");  // a lost device's
    return planned == failures.end() ? CUDA_SUCCESS : CUresult(planned->second);
}

bool has_context() { return !current.empty() && current.back() && current.back()->retained > 0; }

// What CUDA calls potentially unsafe: in a capture of this thread it fails, and breaks the capture.
CUresult refuse_in_capture() {
    if (!captured || relaxed) return CUDA_SUCCESS;
    captured->broken = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

Stream *stream_of(CUstream stream) { return uintptr_t(stream) <= 2 ? &legacy : reinterpret_cast<Stream *>(stream); }

CUresult put(CUstream handle, Work work) {
    Stream *stream = stream_of(handle);
    {
        Lock lock(mutex);
        if (stream != &legacy && !streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    }
    if (!stream->capturing) return work();
    stream->recorded.push_back(std::move(work));
    return CUDA_SUCCESS;
}

bool lies_in(const std::map<uintptr_t, Block> &blocks, uintptr_t address, size_t size) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) return false;
    auto block = std::prev(after);
    return address + size <= block->first + block->second.size;
}

CUresult checked_copy(void *to, const void *from, size_t size, const char *kind, const void *on_device) {
    {
        Lock lock(mutex);
        copied[kind] += long(size);
        if (!lies_in(memory, uintptr_t(on_device), size)) {
            problems.push_back(std::string(kind) + " of " + std::to_string(size) + " bytes outside of live memory");
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
    }
    memcpy(to, from, size);
    return CUDA_SUCCESS;
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void *library() {
    static void *kernels = dlopen(getenv("HOST_DRIVER_KERNELS"), RTLD_NOW);
    return kernels;
}

template <typename T> T symbol(const char *name) { return reinterpret_cast<T>(dlsym(library(), name)); }

Function function_of(const std::string &name) {
    const std::string kind = name.substr(0, name.find('_'));
    const int which = kind == "pre" ? 0 : kind == "pack" ? 2 : kind == "blend" ? 3 : 1;
    const char *runners[] = {"run_pre", "run_scores", "run_pack", "run_blend"};
    using Run = void (*)(void *, const unsigned *, const unsigned *, const void *);
    return {symbol<void *>(name.c_str()), symbol<int (*)(int)>("size_of")(which), symbol<Run>(runners[which])};
}

struct Status { CUresult status; const char *name, *text; };
const Status STATUSES[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
};

std::string object(const std::map<std::string, long> &counts) {
    std::string text = "{";
    for (auto &[name, count] : counts) text += (text.size() > 1 ? ", \"" : "\"") + name + "\": " + std::to_string(count);
    return text + "}";
}

long total(const std::map<uintptr_t, Block> &blocks) {
    long sum = 0;
    for (auto &[address, block] : blocks) sum += long(block.size);
    return sum;
}
}  // namespace

#define ENTER if (CUresult status = enter(__func__)) return status
#define ENTER_CONTEXT ENTER; if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT
#define ENTER_UNSAFE ENTER_CONTEXT; if (CUresult status = refuse_in_capture()) return status; Lock lock(mutex)

// A CUDA driver on host memory: streams run at once, a capture collects work, a graph repeats it. The real cuda-bindings
// and PyCUDA load it as libcuda.so.1. It counts calls and checks what a GPU would not say: every copy must lie within
// live memory, nobody may write past the end of a buffer, and nobody may allocate or free on a thread that captures.
// It knows nothing of asynchrony (see tests/host_device.py) nor of a GPU's speed, and NVRTC, which asks a driver for what
// is not documented, does not run beside it.
#include "state.h"

extern "C" {
// what tests ask and plan

const char *host_driver_report() {
    Lock lock(mutex);
    static std::string text;
    std::map<std::string, long> live = {
        {"device_bytes", total(memory)}, {"pinned_bytes", total(pinned)}, {"streams", long(streams.size())},
        {"events", long(events.size())}, {"graphs", long(graphs.size() + executables.size())},
        {"modules", long(modules.size())},
    };
    std::string found;
    for (auto &problem : problems) found += (found.empty() ? "\"" : ", \"") + problem + "\"";
    text = "{\"calls\": " + object(calls) + ", \"copied\": " + object(copied) + ", \"live\": " + object(live) +
           ", \"retained\": [" + std::to_string(contexts[0].retained) + ", " + std::to_string(contexts[1].retained) +
           "], \"problems\": [" + found + "]}";
    calls.clear();
    copied.clear();
    return text.c_str();
}
void host_driver_fail(const char *name, int status) {
    Lock lock(mutex);
    if (status) failures[name] = status; else failures.erase(name);
}
void host_driver_forget() {
    Lock lock(mutex);
    memory.clear();
    pinned.clear();
    streams.clear();
    events.clear();
    graphs.clear();
    executables.clear();
    modules.clear();
}
void host_driver_limit(size_t bytes) { limit_bytes = bytes; }

// devices and contexts

CUresult cuInit(unsigned) { ENTER; return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = DEVICES; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int index) {
    ENTER;
    *device = index;
    return index >= 0 && index < DEVICES ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    memset(name, 'x', size_t(size));  // as a driver leaves it: nothing is promised behind the end of the name
    strncpy(name, device ? "Host Memory 1" : "Host Memory 0", size_t(size) - 1);
    name[strlen("Host Memory 0")] = 0;
    memset(name + strlen(name) + 1, 'x', size_t(size) - strlen(name) - 1);
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9
             : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 0 : 1;
    return CUDA_SUCCESS;
}
CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice) { *major = 9; *minor = 0; return CUDA_SUCCESS; }
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice) { *bytes = limit_bytes; return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    ENTER;
    Lock lock(mutex);
    ++contexts[device].retained;
    *context = reinterpret_cast<CUcontext>(&contexts[device]);
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER;
    Lock lock(mutex);
    if (contexts[device].retained == 0) problems.push_back("a primary context was released too often");
    --contexts[device].retained;
    return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context) {
    ENTER;
    current.push_back(reinterpret_cast<Context *>(context));
    return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext *context) {
    ENTER;
    if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = reinterpret_cast<CUcontext>(current.back());
    current.pop_back();
    return CUDA_SUCCESS;
}
#undef cuCtxDetach
CUresult cuCtxDetach(CUcontext) { ENTER; return CUDA_ERROR_INVALID_CONTEXT; }  // a primary one is released, never detached
CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = current.empty() ? nullptr : reinterpret_cast<CUcontext>(current.back());
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *device) {
    if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
    *device = current.back()->device;
    return CUDA_SUCCESS;
}

// memory

CUresult cuMemAlloc(CUdeviceptr *pointer, size_t size) {
    ENTER_UNSAFE;
    if (total(memory) + size > limit_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    auto *bytes = static_cast<unsigned char *>(aligned_alloc(256, (size + GUARD + 255) / 256 * 256));
    if (!bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(bytes, FILL, std::min(size, FILLED));
    memset(bytes + size, FILL, GUARD);
    memory[uintptr_t(bytes)] = {size};
    *pointer = CUdeviceptr(bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr pointer) {
    ENTER_UNSAFE;
    auto block = memory.find(pointer);
    if (block == memory.end()) return CUDA_ERROR_INVALID_VALUE;
    auto *bytes = reinterpret_cast<unsigned char *>(pointer);
    for (size_t i = 0; i < GUARD; ++i)
        if (bytes[block->second.size + i] != FILL) { problems.push_back("a write past the end of a buffer"); break; }
    free(bytes);
    memory.erase(block);
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned) {
    ENTER_UNSAFE;
    *pointer = aligned_alloc(PAGE, (size + PAGE - 1) / PAGE * PAGE);
    if (!*pointer) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(*pointer, FILL, std::min(size, FILLED));
    pinned[uintptr_t(*pointer)] = {size};
    return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *pointer) {
    ENTER_UNSAFE;
    if (!pinned.erase(uintptr_t(pointer))) return CUDA_ERROR_INVALID_VALUE;
    free(pointer);
    return CUDA_SUCCESS;
}
CUresult cuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    ENTER_CONTEXT;
    Lock lock(mutex);
    *total_bytes = limit_bytes;
    *free_bytes = limit_bytes - size_t(total(memory));
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
    ENTER_CONTEXT;
    return put(stream, [=] { return checked_copy((void *)to, from, size, "upload", (void *)to); });
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream) {
    ENTER_CONTEXT;
    return put(stream, [=] { return checked_copy(to, (void *)from, size, "download", (void *)from); });
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    ENTER_CONTEXT;
    return put(stream, [=] { return checked_copy((void *)to, (void *)from, size, "copy", (void *)to); });
}

// streams, events, graphs

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    ENTER_CONTEXT;
    Lock lock(mutex);
    if (flags != CU_STREAM_NON_BLOCKING) problems.push_back("a stream waits for the default one");
    *stream = reinterpret_cast<CUstream>(*streams.insert(new Stream).first);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
    ENTER_CONTEXT;
    Lock lock(mutex);
    if (!streams.erase(stream_of(stream))) return CUDA_ERROR_INVALID_HANDLE;
    delete stream_of(stream);
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
    ENTER_CONTEXT;
    Stream *found = stream_of(stream);
    found->broken = found->capturing;
    return found->capturing ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { ENTER_CONTEXT; return CUDA_SUCCESS; }
CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    ENTER_CONTEXT;
    return put(stream, [=] { function(data); return CUDA_SUCCESS; });
}
CUresult cuEventCreate(CUevent *event, unsigned flags) {
    ENTER_CONTEXT;
    Lock lock(mutex);
    auto *made = *events.insert(new Event).first;
    made->timed = !(flags & CU_EVENT_DISABLE_TIMING);
    *event = reinterpret_cast<CUevent>(made);
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
    ENTER_CONTEXT;
    return put(stream, [=] { reinterpret_cast<Event *>(event)->ms = now_ms(); return CUDA_SUCCESS; });
}
CUresult cuEventElapsedTime_v2(float *ms, CUevent first, CUevent second) {
    ENTER_CONTEXT;
    auto *from = reinterpret_cast<Event *>(first), *to = reinterpret_cast<Event *>(second);
    *ms = float(to->ms - from->ms);
    return from->timed && to->timed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
#undef cuEventElapsedTime
CUresult cuEventElapsedTime(float *ms, CUevent first, CUevent second) { return cuEventElapsedTime_v2(ms, first, second); }
CUresult cuEventDestroy(CUevent event) {
    ENTER;
    Lock lock(mutex);
    if (!events.erase(reinterpret_cast<Event *>(event))) return CUDA_ERROR_INVALID_HANDLE;
    delete reinterpret_cast<Event *>(event);
    return CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    ENTER_CONTEXT;
    Lock lock(mutex);
    if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) problems.push_back("a capture hinders other threads");
    if (stream_of(stream) == &legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    captured = stream_of(stream);
    captured->capturing = true;
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    ENTER_CONTEXT;
    Lock lock(mutex);
    Stream *stream = stream_of(handle);
    const bool broken = stream->broken;
    auto *made = new Graph{std::move(stream->recorded)};
    *stream = Stream();
    captured = nullptr;
    *graph = nullptr;
    if (broken) { delete made; return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED; }
    graphs.insert(made);
    *graph = reinterpret_cast<CUgraph>(made);
    return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    *status = stream_of(stream)->capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    ENTER;
    const bool before = relaxed;
    relaxed = *mode == CU_STREAM_CAPTURE_MODE_RELAXED;
    *mode = before ? CU_STREAM_CAPTURE_MODE_RELAXED : CU_STREAM_CAPTURE_MODE_GLOBAL;
    return CUDA_SUCCESS;
}
CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *, size_t *count) {
    ENTER;
    *count = reinterpret_cast<Graph *>(graph)->works.size();
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long) {
    ENTER_CONTEXT;
    Lock lock(mutex);
    auto *made = *executables.insert(new Graph(*reinterpret_cast<Graph *>(graph))).first;
    *executable = reinterpret_cast<CUgraphExec>(made);
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
    ENTER;
    Lock lock(mutex);
    graphs.erase(reinterpret_cast<Graph *>(graph));
    delete reinterpret_cast<Graph *>(graph);
    return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    ENTER_CONTEXT;
    auto *graph = reinterpret_cast<Graph *>(executable);
    {
        Lock lock(mutex);
        if (!executables.count(graph)) return CUDA_ERROR_INVALID_HANDLE;
    }
    for (auto &work : graph->works)
        if (CUresult status = put(stream, work)) return status;
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec executable) {
    ENTER;
    Lock lock(mutex);
    if (!executables.erase(reinterpret_cast<Graph *>(executable))) return CUDA_ERROR_INVALID_HANDLE;
    delete reinterpret_cast<Graph *>(executable);
    return CUDA_SUCCESS;
}

// kernels

CUresult cuModuleLoadData(CUmodule *module, const void *) {
    ENTER_UNSAFE;
    if (!library()) return CUDA_ERROR_NOT_FOUND;
    *module = reinterpret_cast<CUmodule>(*modules.insert(new std::vector<Function>).first);
    reinterpret_cast<std::vector<Function> *>(*module)->reserve(64);  // functions are handed out by address
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, CUjit_option *, void **) {
    return cuModuleLoadData(module, image);
}
CUresult cuModuleUnload(CUmodule module) {
    ENTER_UNSAFE;
    auto *found = reinterpret_cast<std::vector<Function> *>(module);
    if (!modules.erase(found)) return CUDA_ERROR_INVALID_HANDLE;
    delete found;
    return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    ENTER_UNSAFE;
    auto *owned = reinterpret_cast<std::vector<Function> *>(module);
    if (!modules.count(owned)) return CUDA_ERROR_INVALID_HANDLE;
    Function found = function_of(name);
    if (!found.kernel) return CUDA_ERROR_NOT_FOUND;
    owned->push_back(found);
    *function = reinterpret_cast<CUfunction>(&owned->back());
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute, CUfunction) { *value = 0; return CUDA_SUCCESS; }
CUresult cuFuncSetBlockShape(CUfunction, int, int, int) { ENTER; return CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned, CUstream stream, void **parameters, void **extra) {
    ENTER_CONTEXT;
    const Function function = *reinterpret_cast<Function *>(handle);
    std::vector<char> arguments(size_t(function.size));
    const void *given = parameters ? parameters[0] : nullptr;
    size_t size = arguments.size();
    for (void **pair = extra; pair && *pair != CU_LAUNCH_PARAM_END; pair += 2) {
        if (pair[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) given = pair[1];
        if (pair[0] == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *static_cast<size_t *>(pair[1]);
    }
    if (size != arguments.size() || bx * by * bz > 1024 || gy > 65535 || gz > 65535) return CUDA_ERROR_INVALID_VALUE;
    memcpy(arguments.data(), given, size);
    static const bool idle = getenv("HOST_DRIVER_IDLE") != nullptr;  // to measure what is not the kernels'
    if (idle) return put(stream, [] { return CUDA_SUCCESS; });
    return put(stream, [=] {
        const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        function.run(function.kernel, grid, block, arguments.data());
        return CUDA_SUCCESS;
    });
}

// names

CUresult cuGetErrorName(CUresult status, const char **name) {
    for (auto &known : STATUSES) if (known.status == status) { *name = known.name; return CUDA_SUCCESS; }
    return CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult status, const char **text) {
    for (auto &known : STATUSES) if (known.status == status) { *text = known.text; return CUDA_SUCCESS; }
    return CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetProcAddress_v2(const char *name, void **pointer, int, cuuint64_t, CUdriverProcAddressQueryResult *found) {
    static void *self = [] {
        Dl_info info;
        dladdr(reinterpret_cast<void *>(&host_driver_report), &info);
        return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }();
    *pointer = nullptr;
    for (const char *suffix : {"_v2", ""})
        if ((*pointer = dlsym(self, (std::string(name) + suffix).c_str()))) break;
    if (found) *found = *pointer ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *pointer ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
#undef cuGetProcAddress
CUresult cuGetProcAddress(const char *name, void **pointer, int version, cuuint64_t flags) {
    return cuGetProcAddress_v2(name, pointer, version, flags, nullptr);
}
}

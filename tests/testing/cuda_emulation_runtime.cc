// The part of the CUDA runtime that the backend's host side calls.
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "tests/testing/cuda_emulation.h"

namespace sterna::testing {

// What a stream was told while it was being captured.
struct CudaGraph {
  std::vector<std::function<cudaError_t()>> nodes;
};
// Nothing is done before somebody waits for it, so that it shows who should have.
struct CudaStream {
  std::unique_ptr<CudaGraph> capture;
  std::deque<std::function<cudaError_t()>> todo;
  size_t done = 0;
};
struct CudaEvent {
  CudaStream* stream = nullptr;  // null: never recorded
  size_t after = 0;              // so much of what the stream was told
};

namespace {

struct Runtime {
  size_t memory_bytes = size_t{1} << 30;
  std::map<void*, size_t> allocations;
  std::set<CudaStream*> streams;
  cudaError_t error = cudaSuccess;
};
Runtime& TheRuntime() {
  static Runtime runtime;
  return runtime;
}

// Until `count` of what the stream was told is done.
cudaError_t Run(CudaStream& stream, size_t count) {
  cudaError_t& error = TheRuntime().error;
  for (; stream.done < count && error == cudaSuccess; ++stream.done) {
    const auto node = std::move(stream.todo.front());
    stream.todo.pop_front();
    error = node();
  }
  return error;
}
cudaError_t RunAll(CudaStream& stream) { return Run(stream, stream.done + stream.todo.size()); }

cudaError_t Allocate(void** p, size_t bytes) {
  Runtime& runtime = TheRuntime();
  if (runtime.error != cudaSuccess) return runtime.error;
  if (CudaBytesAllocated() + bytes > runtime.memory_bytes) return cudaErrorMemoryAllocation;
  *p = ::operator new(bytes, std::align_val_t{256});
  CudaFillWithNoise(*p, bytes);
  runtime.allocations[*p] = bytes;
  return cudaSuccess;
}

cudaError_t Free(void* p) {
  if (p == nullptr) return cudaSuccess;
  for (CudaStream* stream : TheRuntime().streams) (void)RunAll(*stream);
  if (TheRuntime().allocations.erase(p) == 0) return cudaErrorInvalidValue;
  ::operator delete(p, std::align_val_t{256});
  return cudaSuccess;
}

}  // namespace

void SetCudaMemoryBytes(size_t bytes) { TheRuntime().memory_bytes = bytes; }
size_t CudaBytesAllocated() {
  size_t bytes = 0;
  for (const auto& [p, size] : TheRuntime().allocations) bytes += size;
  return bytes;
}
void SetCudaError(cudaError_t error) { TheRuntime().error = error; }

cudaError_t CudaEnqueue(cudaStream_t stream, std::function<cudaError_t()> node) {
  if (TheRuntime().error != cudaSuccess) return TheRuntime().error;
  if (stream == nullptr) return node();
  if (stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(node));
  } else {
    stream->todo.push_back(std::move(node));
  }
  return cudaSuccess;
}

}  // namespace sterna::testing

using sterna::testing::TheRuntime;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "unknown error";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return TheRuntime().error; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return TheRuntime().error;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? TheRuntime().error : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated");
  properties->major = 9;
  properties->multiProcessorCount = 4;
  properties->totalGlobalMem = TheRuntime().memory_bytes;
  properties->sharedMemPerBlockOptin = 227 << 10;
  return TheRuntime().error;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  if (device != 0 || bytes < 13) return cudaErrorInvalidValue;
  std::snprintf(id, static_cast<size_t>(bytes), "0000:1B:00.0");
  return TheRuntime().error;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = TheRuntime().memory_bytes;
  *free = *total - std::min(*total, sterna::testing::CudaBytesAllocated());
  return TheRuntime().error;
}
cudaError_t cudaMalloc(void** p, size_t bytes) { return sterna::testing::Allocate(p, bytes); }
cudaError_t cudaFree(void* p) { return sterna::testing::Free(p); }
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  if (TheRuntime().error != cudaSuccess) return TheRuntime().error;
  *p = ::operator new(bytes, std::align_val_t{256});
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  if (p != nullptr) ::operator delete(p, std::align_val_t{256});
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return sterna::testing::CudaEnqueue(stream, [=] {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return sterna::testing::CudaEnqueue(stream, [=] {
    std::memset(p, value, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new sterna::testing::CudaStream;
  TheRuntime().streams.insert(*stream);
  return TheRuntime().error;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t error = sterna::testing::RunAll(*stream);
  TheRuntime().streams.erase(stream);
  delete stream;
  return error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return sterna::testing::RunAll(*stream); }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capture != nullptr) return cudaErrorInvalidValue;
  stream->capture = std::make_unique<sterna::testing::CudaGraph>();
  return TheRuntime().error;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->capture == nullptr) return cudaErrorInvalidValue;
  *graph = stream->capture.release();
  return TheRuntime().error;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new sterna::testing::CudaGraph(*graph);
  return TheRuntime().error;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return TheRuntime().error; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& node : exec->nodes) (void)sterna::testing::CudaEnqueue(stream, node);
  return TheRuntime().error;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new sterna::testing::CudaEvent;
  return TheRuntime().error;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {.stream = stream, .after = stream->done + stream->todo.size()};
  return TheRuntime().error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream == nullptr) return TheRuntime().error;
  return sterna::testing::Run(*event->stream, event->after);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return TheRuntime().error;
}

// Records what a program does on the GPU, without a change to the program: a library that the
// driver loads into it when it starts CUDA.
//
//     export CUDA_INJECTION64_PATH=$PWD/libsterna_timeline.so STERNA_TIMELINE_FILE=steps.tsv
//     sterna-bench --device cuda --shape 2b-4t --prompt-tokens '' --batch 64
//
// Kernels, copies and memory sets are kept in memory and written when the program exits (one that
// is killed leaves nothing), as timeline_log.h describes. The environment is the only thing such a
// library is given:
//
//     STERNA_TIMELINE_FILE      where to; sterna-timeline.tsv in the working directory
//     STERNA_TIMELINE_DETAIL    nodes (the default): every kernel, those in graphs, too. graphs:
//                               a launch of a graph as a whole, which disturbs the program less
//     STERNA_TIMELINE_RECORDS   how many of the last records are kept; 100000 (some 6 MB of text)
//     STERNA_TIMELINE_START_MS  what begins earlier is left out; 0, counted from the start of CUDA
//     STERNA_TIMELINE_STOP_MS   what begins later is left out
//
// Whatever fails is said on standard error, and the program runs as it would have.
#include <cupti.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include "bench/gpu/timeline_log.h"

namespace sterna {
namespace {

struct Recorder {
  TimelineOptions options;
  TimelineLog log;
};
// CUPTI calls back without a context of the caller's. Never freed: it may do so until the very end.
Recorder* recorder = nullptr;

constexpr size_t kBufferBytes = size_t{4} << 20;

bool Succeeds(CUptiResult result, const char* what) {
  if (result == CUPTI_SUCCESS) return true;
  const char* text = nullptr;
  (void)cuptiGetResultString(result, &text);
  std::fprintf(stderr, "sterna_timeline: %s: %s; nothing is recorded\n", what,
               text != nullptr ? text : "unknown error");
  return false;
}

std::string_view CopyName(uint8_t kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD:
      return "copy host to device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH:
      return "copy device to host";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD:
      return "copy on the device";
    default:
      return "copy";
  }
}

// The fields that all records of CUPTI have under the same names.
template <typename Activity>
TimelineRecord RecordOf(const Activity& a, TimelineRecord::Kind kind) {
  return {.kind = kind,
          .start_ns = static_cast<int64_t>(a.start),
          .end_ns = static_cast<int64_t>(a.end),
          .stream = a.streamId,
          .launch = a.correlationId,
          .graph = a.graphId};
}

void Add(const CUpti_Activity* activity, TimelineLog& log) {
  switch (activity->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto& a = *reinterpret_cast<const CUpti_ActivityKernel10*>(activity);
      log.Add(RecordOf(a, TimelineRecord::Kind::kKernel), a.name != nullptr ? a.name : "kernel");
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const auto& a = *reinterpret_cast<const CUpti_ActivityMemcpy6*>(activity);
      TimelineRecord record = RecordOf(a, TimelineRecord::Kind::kCopy);
      record.bytes = static_cast<int64_t>(a.bytes);
      log.Add(record, CopyName(a.copyKind));
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
      const auto& a = *reinterpret_cast<const CUpti_ActivityMemset4*>(activity);
      TimelineRecord record = RecordOf(a, TimelineRecord::Kind::kSet);
      record.bytes = static_cast<int64_t>(a.bytes);
      log.Add(record, "memory set");
      break;
    }
    case CUPTI_ACTIVITY_KIND_GRAPH_TRACE: {
      const auto& a = *reinterpret_cast<const CUpti_ActivityGraphTrace2*>(activity);
      log.Add(RecordOf(a, TimelineRecord::Kind::kGraph), "graph");
      break;
    }
    default:
      break;
  }
}

void CUPTIAPI GiveBuffer(uint8_t** buffer, size_t* bytes, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::malloc(kBufferBytes));  // aligned for 16 bytes; 8 are asked
  *bytes = *buffer != nullptr ? kBufferBytes : 0;
  *most_records = 0;  // as many as fit
}

void CUPTIAPI TakeBuffer(CUcontext context, uint32_t stream, uint8_t* buffer, size_t /*bytes*/,
                         size_t valid_bytes) {
  CUpti_Activity* activity = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid_bytes, &activity) == CUPTI_SUCCESS) {
    Add(activity, recorder->log);
  }
  std::free(buffer);
  size_t lost = 0;
  if (cuptiActivityGetNumDroppedRecords(context, stream, &lost) == CUPTI_SUCCESS) {
    recorder->log.AddLost(static_cast<int64_t>(lost));
  }
}

void WriteAtExit() {
  (void)cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  std::ofstream file(recorder->options.file);
  recorder->log.Write(file);
  file.close();
  if (!file) {
    std::fprintf(stderr, "sterna_timeline: cannot write %s\n", recorder->options.file.c_str());
  }
}

bool Start() {
  TimelineOptions options;
  std::string error;
  if (!ParseTimelineOptions([](const char* name) { return std::getenv(name); }, options, error)) {
    std::fprintf(stderr, "sterna_timeline: %s; nothing is recorded\n", error.c_str());
    return false;
  }
  uint64_t now_ns = 0;
  if (!Succeeds(cuptiGetTimestamp(&now_ns), "the clock")) return false;
  recorder = new Recorder{.options = options, .log{options, static_cast<int64_t>(now_ns)}};
  if (!Succeeds(cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer), "CUPTI")) return false;
  for (const CUpti_ActivityKind kind :
       {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
        CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_GRAPH_TRACE}) {
    // With it the nodes of graphs are not reported one by one.
    if (kind == CUPTI_ACTIVITY_KIND_GRAPH_TRACE && !options.whole_graphs) continue;
    if (!Succeeds(cuptiActivityEnable(kind), "asking for records")) return false;
  }
  return std::atexit(WriteAtExit) == 0;
}

}  // namespace
}  // namespace sterna

// The driver's entry into such a library. 1: go on, whatever came of it.
extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  if (sterna::recorder == nullptr) (void)sterna::Start();
  return 1;
}

// What a GPU did and when, kept in memory and written to a file as text: the part of the recorder
// (timeline_recorder.cc) that knows nothing of CUPTI. bench/gpu/timeline.py reads the file.
//
// The file has lines of fields that tabs separate, in this order:
//
//     sterna-timeline 1                                     the format's version
//     note    WORD    NUMBER                                what is not in the file, see Write
//     name    ID      TEXT                                  a kernel, or what else was done
//     kernel|copy|set|graph START END STREAM LAUNCH GRAPH BYTES ID
//
// START and END are nanoseconds of CUPTI's clock since the log began. Everything asked for by one
// call of the CUDA API has the same LAUNCH, so all that one launch of a graph does. GRAPH is 0 for
// what is in no graph, BYTES 0 for kernels.
// Thread contract: Add and AddLost from any thread, Write when no more is added.
#ifndef STERNA_BENCH_GPU_TIMELINE_LOG_H_
#define STERNA_BENCH_GPU_TIMELINE_LOG_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <iosfwd>
#include <limits>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace sterna {

struct TimelineOptions {
  std::string file = "sterna-timeline.tsv";
  // Whether each launch of a graph is one record instead of one for each of its nodes: it costs the
  // program less, and shows nothing of the gaps inside.
  bool whole_graphs = false;
  // Kept are the last that many records that began in [start_ns, stop_ns).
  int64_t most_records = 100'000;
  int64_t start_ns = 0;
  int64_t stop_ns = std::numeric_limits<int64_t>::max();
};

// Of the variables that timeline_recorder.cc documents, as `get_variable` (getenv) has them. False
// with a sentence in `error` that names the variable where a value is not one.
bool ParseTimelineOptions(const std::function<const char*(const char*)>& get_variable,
                          TimelineOptions& options, std::string& error);

struct TimelineRecord {
  enum class Kind : uint8_t { kKernel, kCopy, kSet, kGraph };
  Kind kind = Kind::kKernel;
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  uint32_t stream = 0;
  uint32_t launch = 0;
  uint32_t graph = 0;
  int64_t bytes = 0;
};

class TimelineLog {
 public:
  // `origin_ns`: what the clock of the records says now.
  TimelineLog(const TimelineOptions& options, int64_t origin_ns)
      : options_(options), origin_ns_(origin_ns) {}

  // `record` in the clock's time; `name` as the linker has it, or in words.
  void Add(TimelineRecord record, std::string_view name);
  // `records` more have been lost before they came here.
  void AddLost(int64_t records);

  // Notes: "lost", "without_time" (of those no time is known), "outside" (began before start_ns or
  // after stop_ns) and "older" (than the last most_records).
  void Write(std::ostream& out) const;

 private:
  struct Entry {
    TimelineRecord record;
    int64_t name;
  };

  const TimelineOptions options_;
  const int64_t origin_ns_;
  mutable std::mutex mutex_;  // std::mutex, as this library has nothing of the product in it
  std::deque<Entry> entries_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, int64_t> name_ids_;
  int64_t lost_ = 0;
  int64_t without_time_ = 0;
  int64_t outside_ = 0;
  int64_t older_ = 0;
};

}  // namespace sterna

#endif  // STERNA_BENCH_GPU_TIMELINE_LOG_H_

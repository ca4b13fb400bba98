// The recorder of GPU timelines against an invented CUPTI: what it asks for, and that records of
// every kind come out of the file at exit.
#include <cupti.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

extern "C" int InitializeInjection();

namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// CUPTI's C functions take no context, so what is invented is static; each test runs in a process
// of its own.
struct FakeCupti {
  CUptiResult clock_result = CUPTI_SUCCESS;
  CUpti_BuffersCallbackRequestFunc give = nullptr;
  CUpti_BuffersCallbackCompleteFunc take = nullptr;
  std::set<CUpti_ActivityKind> enabled;
  std::vector<const CUpti_Activity*> records;  // that one buffer holds
  size_t next = 0;
};
FakeCupti cupti;

// A record as CUPTI would write it.
template <typename Activity>
const CUpti_Activity* Made(CUpti_ActivityKind kind, uint64_t start, uint32_t graph) {
  auto* a = static_cast<Activity*>(std::calloc(1, sizeof(Activity)));
  a->kind = kind;
  a->start = start;
  a->end = start + 5;
  a->streamId = 13;
  a->correlationId = 77;
  a->graphId = graph;
  return reinterpret_cast<CUpti_Activity*>(a);
}

// What the fake has recorded when the program ends.
void RecordOneOfEach() {
  auto* kernel = Made<CUpti_ActivityKernel10>(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 1010, 3);
  const_cast<CUpti_ActivityKernel10*>(reinterpret_cast<const CUpti_ActivityKernel10*>(kernel))
      ->name = "_ZN6sterna4NormEv";
  auto* copy = Made<CUpti_ActivityMemcpy6>(CUPTI_ACTIVITY_KIND_MEMCPY, 1020, 0);
  auto* fields =
      const_cast<CUpti_ActivityMemcpy6*>(reinterpret_cast<const CUpti_ActivityMemcpy6*>(copy));
  fields->copyKind = CUPTI_ACTIVITY_MEMCPY_KIND_DTOH;
  fields->bytes = 640;
  cupti.records = {kernel, copy, Made<CUpti_ActivityMemset4>(CUPTI_ACTIVITY_KIND_MEMSET, 1030, 0),
                   Made<CUpti_ActivityGraphTrace2>(CUPTI_ACTIVITY_KIND_GRAPH_TRACE, 1040, 4)};
}

class TimelineRecorderTest : public ::testing::Test {
 protected:
  TimelineRecorderTest() {
    file_ = std::filesystem::temp_directory_path() /
            ("timeline_recorder_test_" + std::to_string(getpid()));
    setenv("STERNA_TIMELINE_FILE", file_.c_str(), 1);
    unsetenv("STERNA_TIMELINE_DETAIL");
    unsetenv("STERNA_TIMELINE_RECORDS");
  }
  ~TimelineRecorderTest() override { std::filesystem::remove(file_); }

  std::string Written() const {
    std::ostringstream text;
    text << std::ifstream(file_).rdbuf();
    return text.str();
  }

  std::filesystem::path file_;
};

// What a program does under the recorder, in a process of its own.
[[noreturn]] void RunProgram() {
  const bool went_on = InitializeInjection() == 1 && InitializeInjection() == 1;
  for (const CUpti_ActivityKind kind : cupti.enabled) std::fprintf(stderr, "kind %d\n", kind);
  std::fprintf(stderr, "the program's end\n");
  std::exit(went_on ? 7 : 1);
}

TEST_F(TimelineRecorderTest, RecordsOfEveryKindAreWrittenAtExit) {
  RecordOneOfEach();
  EXPECT_EXIT(RunProgram(), ::testing::ExitedWithCode(7), "the program's end");
  const std::string text = Written();
  EXPECT_THAT(text, HasSubstr("note\tlost\t2\n"));
  EXPECT_THAT(text, HasSubstr("name\t0\tsterna::Norm()\n"));
  EXPECT_THAT(text, HasSubstr("name\t1\tcopy device to host\n"));
  EXPECT_THAT(text, HasSubstr("kernel\t10\t15\t13\t77\t3\t0\t0\n"));
  EXPECT_THAT(text, HasSubstr("copy\t20\t25\t13\t77\t0\t640\t1\n"));
  EXPECT_THAT(text, HasSubstr("set\t30\t35\t13\t77\t0\t0\t2\n"));
  EXPECT_THAT(text, HasSubstr("graph\t40\t45\t13\t77\t4\t0\t3\n"));
}

TEST_F(TimelineRecorderTest, GraphsAsAWholeAreAskedForOnlyByName) {
  EXPECT_EXIT(RunProgram(), ::testing::ExitedWithCode(7),
              ::testing::AllOf(HasSubstr("kind 10\n"), Not(HasSubstr("kind 51\n"))));
  setenv("STERNA_TIMELINE_DETAIL", "graphs", 1);
  EXPECT_EXIT(RunProgram(), ::testing::ExitedWithCode(7),
              ::testing::AllOf(HasSubstr("kind 10\n"), HasSubstr("kind 51\n")));
}

TEST_F(TimelineRecorderTest, WhatFailsIsSaidAndTheProgramRuns) {
  setenv("STERNA_TIMELINE_RECORDS", "many", 1);
  EXPECT_EXIT(RunProgram(), ::testing::ExitedWithCode(7), "RECORDS is \"many\"");
  unsetenv("STERNA_TIMELINE_RECORDS");
  cupti.clock_result = CUPTI_ERROR_NOT_INITIALIZED;
  EXPECT_EXIT(RunProgram(), ::testing::ExitedWithCode(7), "clock: it said no; nothing is recorded");
  EXPECT_FALSE(std::filesystem::exists(file_));
  cupti.clock_result = CUPTI_SUCCESS;
  setenv("STERNA_TIMELINE_FILE", "/nowhere/x", 1);
  EXPECT_EXIT(RunProgram(), ::testing::ExitedWithCode(7), "cannot write /nowhere/x");
}

}  // namespace

// The functions of CUPTI that the recorder calls.
CUptiResult cuptiGetResultString(CUptiResult, const char** text) {
  *text = "it said no";
  return CUPTI_SUCCESS;
}
CUptiResult cuptiGetTimestamp(uint64_t* timestamp) {
  *timestamp = 1000;
  return cupti.clock_result;
}
CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc give,
                                           CUpti_BuffersCallbackCompleteFunc take) {
  cupti.give = give;
  cupti.take = take;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind) {
  cupti.enabled.insert(kind);
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityFlushAll(uint32_t) {
  uint8_t* buffer = nullptr;
  size_t bytes = 0, most_records = 1;
  cupti.give(&buffer, &bytes, &most_records);
  if (buffer == nullptr || most_records != 0) return CUPTI_ERROR_OUT_OF_MEMORY;
  cupti.take(nullptr, 0, buffer, bytes, bytes);
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityGetNextRecord(uint8_t*, size_t, CUpti_Activity** record) {
  if (cupti.next == cupti.records.size()) return CUPTI_ERROR_MAX_LIMIT_REACHED;
  *record = const_cast<CUpti_Activity*>(cupti.records[cupti.next++]);
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext, uint32_t, size_t* lost) {
  *lost = 2;
  return CUPTI_SUCCESS;
}

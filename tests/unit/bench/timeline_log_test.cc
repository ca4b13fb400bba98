// The recorder of GPU timelines without CUPTI: its options, what it keeps, and the file's lines,
// which tests/unit/bench/test_timeline.py reads.
#include "bench/gpu/timeline_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>

namespace sterna {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Text(const TimelineLog& log) {
  std::ostringstream text;
  log.Write(text);
  return text.str();
}

struct Parsed {
  bool ok;
  TimelineOptions options;
  std::string error;
};
Parsed Parse(const std::map<std::string, std::string>& variables) {
  Parsed parsed;
  parsed.ok = ParseTimelineOptions(
      [&](const char* name) {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
      },
      parsed.options, parsed.error);
  return parsed;
}

TEST(TimelineOptionsTest, DefaultsKeepTheLastOfEverything) {
  const Parsed parsed = Parse({});
  EXPECT_TRUE(parsed.ok);
  EXPECT_EQ(parsed.options.file, "sterna-timeline.tsv");
  EXPECT_FALSE(parsed.options.whole_graphs);
  EXPECT_EQ(parsed.options.most_records, 100'000);
  EXPECT_EQ(parsed.options.start_ns, 0);
}

TEST(TimelineOptionsTest, TakesEveryVariable) {
  const Parsed parsed = Parse({{"STERNA_TIMELINE_FILE", "/tmp/x"},
                               {"STERNA_TIMELINE_DETAIL", "graphs"},
                               {"STERNA_TIMELINE_RECORDS", "7"},
                               {"STERNA_TIMELINE_START_MS", "20"},
                               {"STERNA_TIMELINE_STOP_MS", "30"}});
  EXPECT_TRUE(parsed.ok) << parsed.error;
  EXPECT_EQ(parsed.options.file, "/tmp/x");
  EXPECT_TRUE(parsed.options.whole_graphs);
  EXPECT_EQ(parsed.options.most_records, 7);
  EXPECT_EQ(parsed.options.start_ns, 20'000'000);
  EXPECT_EQ(parsed.options.stop_ns, 30'000'000);
}

TEST(TimelineOptionsTest, NamesTheVariableThatIsWrong) {
  EXPECT_THAT(Parse({{"STERNA_TIMELINE_DETAIL", "all"}}).error,
              HasSubstr("STERNA_TIMELINE_DETAIL is \"all\""));
  for (const char* const wrong : {"", "-1", "3x", "1e3", "99999999999999999999", "2000000000"}) {
    const Parsed parsed = Parse({{"STERNA_TIMELINE_RECORDS", wrong}});
    EXPECT_FALSE(parsed.ok) << wrong;
    EXPECT_THAT(parsed.error, HasSubstr("STERNA_TIMELINE_RECORDS"));
  }
}

TEST(TimelineLogTest, WritesLinesThatTellEverything) {
  TimelineLog log({}, 1'000);
  log.Add({.start_ns = 1'100, .end_ns = 1'250, .stream = 13, .launch = 5, .graph = 2},
          "_ZN6sterna4cuda10NormKernelILi4EEEvf");
  log.Add({.kind = TimelineRecord::Kind::kCopy,
           .start_ns = 1'300,
           .end_ns = 1'310,
           .stream = 13,
           .launch = 6,
           .bytes = 512},
          "copy device to host");
  log.Add({.kind = TimelineRecord::Kind::kSet, .start_ns = 1'400, .end_ns = 1'401}, "memory set");
  log.Add({.kind = TimelineRecord::Kind::kGraph, .start_ns = 1'500, .end_ns = 1'600, .graph = 2},
          "a\tname\n");
  log.AddLost(3);
  EXPECT_EQ(Text(log),
            "sterna-timeline\t1\n"
            "note\tlost\t3\n"
            "note\twithout_time\t0\n"
            "note\toutside\t0\n"
            "note\tolder\t0\n"
            "name\t0\tvoid sterna::cuda::NormKernel<4>(float)\n"
            "name\t1\tcopy device to host\n"
            "name\t2\tmemory set\n"
            "name\t3\ta name \n"
            "kernel\t100\t250\t13\t5\t2\t0\t0\n"
            "copy\t300\t310\t13\t6\t0\t512\t1\n"
            "set\t400\t401\t0\t0\t0\t0\t2\n"
            "graph\t500\t600\t0\t0\t2\t0\t3\n");
}

TEST(TimelineLogTest, KeepsTheLastOfTheWindowAndCountsTheRest) {
  TimelineLog log({.most_records = 2, .start_ns = 10, .stop_ns = 50}, 100);
  for (int64_t start_ns = 100; start_ns < 200; start_ns += 10) {
    log.Add({.start_ns = start_ns, .end_ns = start_ns + 5}, start_ns == 110 ? "early" : "k");
  }
  log.Add({.start_ns = 0, .end_ns = 0}, "k");
  const std::string text = Text(log);
  EXPECT_THAT(text, HasSubstr("note\twithout_time\t1\n"));
  EXPECT_THAT(text, HasSubstr("note\toutside\t6\n"));  // 0, and 50 to 90
  EXPECT_THAT(text, HasSubstr("note\tolder\t2\n"));
  EXPECT_THAT(text, HasSubstr("kernel\t30\t35\t"));
  EXPECT_THAT(text, HasSubstr("kernel\t40\t45\t"));
  EXPECT_THAT(text, Not(HasSubstr("kernel\t20\t")));
  EXPECT_THAT(text, Not(HasSubstr("early")));  // names of what is kept
}

TEST(TimelineLogTest, AnEmptyOneIsAFileAllTheSame) {
  EXPECT_THAT(Text(TimelineLog({}, 0)), HasSubstr("sterna-timeline\t1\nnote\tlost\t0\n"));
}

}  // namespace
}  // namespace sterna

#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "server/closest_name.h"
#include "server/config.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Options {
  bool loud = false;
  int64_t count = 3;
  double ratio = 0.5;
  std::string color = "red";
  std::string text;
};

std::vector<Flag> Table(Options& o) {
  return {{.name = "loud", .value = &o.loud, .help = "Says more."},
          {.name = "count", .value = &o.count, .help = "How many.", .min = 0, .max = 10},
          {.name = "ratio", .value = &o.ratio, .help = "A share.", .min = 0, .max = 1},
          {.name = "color", .value = &o.color, .help = "Which.", .choices = {"red", "blue"}},
          {.name = "text", .value = &o.text, .help = "Any a|b."}};
}

Status Parse(std::vector<std::string> args, Options* o) { return ParseFlags(args, Table(*o)); }

TEST(Flags, SetsEveryKindInBothForms) {
  Options o;
  ASSERT_TRUE(
      Parse({"--loud", "--count", "7", "--ratio=0.25", "--color=blue", "--text", "a=b"}, &o).ok());
  EXPECT_TRUE(o.loud);
  EXPECT_EQ(o.count, 7);
  EXPECT_EQ(o.ratio, 0.25);
  EXPECT_EQ(o.color, "blue");
  EXPECT_EQ(o.text, "a=b");
  ASSERT_TRUE(Parse({"--loud=false"}, &o).ok());
  EXPECT_FALSE(o.loud);
}

TEST(Flags, ErrorsNameTheFlagAndWhatIsRight) {
  const struct {
    std::vector<std::string> args;
    std::string words;
  } kCases[] = {
      {{"--cuont", "1"}, "unknown flag --cuont; did you mean --count?"},
      {{"--zzzzzzzzz"}, "unknown flag --zzzzzzzzz; --help"},
      {{"--count", "11"}, "--count is '11'; it must be an integer from 0 to 10"},
      {{"--count", "-1"}, "from 0 to 10"},
      {{"--count", "2.5"}, "an integer"},
      {{"--count", "99999999999999999999"}, "an integer"},
      {{"--count"}, "--count needs a value"},
      {{"--ratio", "nan"}, "--ratio is 'nan'; it must be a number from 0 to 1"},
      {{"--color", "green"}, "one of red, blue"},
      {{"--loud=maybe"}, "true or false"},
      {{"count"}, "unexpected argument 'count'"},
      {{"--"}, "unexpected argument"},
  };
  for (const auto& c : kCases) {
    Options o;
    const Status status = Parse(c.args, &o);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.words;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.words));
  }
}

TEST(Flags, HelpShowsRangeDefaultAndText) {
  Options o;
  EXPECT_THAT(FlagsAsText(Table(o)),
              AllOf(HasSubstr("--count  (an integer from 0 to 10; default 3)"),
                    HasSubstr("How many."), HasSubstr("one of red, blue; default red")));
  EXPECT_THAT(FlagsAsMarkdown(Table(o)),
              AllOf(HasSubstr("| `--ratio` | a number from 0 to 1 | `0.5` | A share. |"),
                    HasSubstr("Any a\\|b.")));
}

TEST(ClosestName, FindsTypingErrorsOnly) {
  const std::vector<std::string> names = {"temperature", "top_p", "top_k"};
  EXPECT_EQ(ClosestName("temprature", names), "temperature");
  EXPECT_EQ(ClosestName("topk", names), "top_k");
  EXPECT_EQ(ClosestName("banana", names), "");
  EXPECT_EQ(ClosestName(std::string(100000, 'x'), names), "");
}

std::filesystem::path MakeModel(const std::filesystem::path& dir) {
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "config.json") << "{}";
  return dir;
}

TEST(ServerConfig, DefaultsAndServedName) {
  const testing::TempDir temp;
  const auto model = MakeModel(std::filesystem::path(temp.path()) / "my-model");
  const std::vector<std::string> args = {"--model", model.string() + "/", "--http-port=0"};
  const StatusOr<ServerConfig> config = ParseServerConfig(args);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->served_model_name, "my-model");
  EXPECT_EQ(config->host, "127.0.0.1");
  EXPECT_EQ(config->http_port, 0);
  EXPECT_EQ(config->grpc_port, 50051);
  EXPECT_TRUE(config->cors_allow_origin.empty());
}

TEST(ServerConfig, RefusesWhatCannotWork) {
  const testing::TempDir temp;
  const std::string model = temp.path();
  const struct {
    std::vector<std::string> args;
    std::string words;
  } kCases[] = {
      {{"--model", model, "--http-port=9", "--grpc-port=9"}, "both 9; they must differ"},
      {{"--model", model, "--host", ""}, "--host is empty"},
      {{"--model", model + "/none"}, "neither a directory nor a file"},
  };
  for (const auto& c : kCases) {
    const StatusOr<ServerConfig> config = ParseServerConfig(c.args);
    ASSERT_FALSE(config.ok()) << c.words;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(c.words));
  }
}

TEST(ServerConfig, EveryRuntimeFlagReachesTheRuntime) {
  const testing::TempDir temp;
  const std::vector<std::string> args = {"--model",
                                         temp.path(),
                                         "--device=cuda",
                                         "--device-index=2",
                                         "--gpu-memory-fraction=0.5",
                                         "--threads=3",
                                         "--cpu-isa=scalar",
                                         "--kv-cache-mib=7",
                                         "--kv-cache-dtype=int8",
                                         "--max-context=99",
                                         "--max-step-tokens=11",
                                         "--max-chunk-tokens=5",
                                         "--max-sequences=6",
                                         "--max-queue=8",
                                         "--async-scheduling=false",
                                         "--energy-source=modelled",
                                         "--energy-watts-per-core=4.5",
                                         "--energy-idle-watts=2.5"};
  const StatusOr<ServerConfig> config = ParseServerConfig(args);
  ASSERT_TRUE(config.ok()) << config.status();
  const RuntimeOptions o = ToRuntimeOptions(*config);
  EXPECT_EQ(o.model, temp.path());
  EXPECT_EQ(o.device.kind, DeviceKind::kCuda);
  EXPECT_EQ(o.device.cuda.device, 2);
  EXPECT_EQ(o.device.cpu.num_threads, 3);
  EXPECT_EQ(o.device.cpu.isa, "scalar");
  EXPECT_EQ(o.device_memory_fraction, 0.5);
  EXPECT_EQ(o.kv_cache_mib, 7);
  EXPECT_EQ(o.engine.kv_type, KvType::kI8);
  EXPECT_EQ(o.engine.max_context_tokens, 99);
  EXPECT_EQ(o.engine.max_step_tokens, 11);
  EXPECT_EQ(o.engine.max_chunk_tokens, 5);
  EXPECT_EQ(o.engine.max_sequences, 6);
  EXPECT_EQ(o.engine.max_queue, 8);
  EXPECT_FALSE(o.engine.async_scheduling);
  EXPECT_EQ(o.energy.source, "modelled");
  EXPECT_EQ(o.energy.watts_per_core, 4.5);
  EXPECT_EQ(o.energy.idle_watts, 2.5);
}

TEST(ServerConfig, EveryKvTypeHasAName) {
  const testing::TempDir temp;
  for (const KvType type : kKvTypes) {
    const std::vector<std::string> args = {"--model", temp.path(), "--kv-cache-dtype",
                                           KvTypeName(type)};
    const StatusOr<ServerConfig> config = ParseServerConfig(args);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(ToRuntimeOptions(*config).engine.kv_type, type) << KvTypeName(type);
  }
}

TEST(ServerConfig, ByDefaultTheCpuComputes) {
  const testing::TempDir temp;
  const std::vector<std::string> args = {"--model", temp.path()};
  const StatusOr<ServerConfig> config = ParseServerConfig(args);
  ASSERT_TRUE(config.ok()) << config.status();
  const RuntimeOptions o = ToRuntimeOptions(*config);
  EXPECT_EQ(o.device.kind, DeviceKind::kCpu);
  EXPECT_EQ(o.kv_cache_mib, 0);
}

TEST(FindDefaultModel, LooksUpwardsForSourceTreeAndInstallation) {
  const testing::TempDir temp;
  const std::filesystem::path root = temp.path();
  std::filesystem::create_directories(root / "build/release/server");
  const std::string program = (root / "build/release/server/sterna").string();
  EXPECT_EQ(FindDefaultModel(program).status().code(), absl::StatusCode::kNotFound);
  const auto installed = MakeModel(root / "share/sterna/models/stories");
  EXPECT_EQ(*FindDefaultModel(program), installed.string());
  const auto source = MakeModel(root / "models/stories");
  EXPECT_EQ(*FindDefaultModel(program), source.string());
}

}  // namespace
}  // namespace sterna

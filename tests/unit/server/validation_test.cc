#include "server/validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "engine/errors.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;

constexpr ModelLimits kLimits = {.vocab_size = 100, .max_context_tokens = 50};

StatusOr<Request> Build(const GenerationParameters& p, const GenerationDefaults& defaults = {},
                        std::optional<int64_t> default_max_tokens = std::nullopt) {
  return BuildRequest(p, defaults, kLimits, {1, 2, 3}, default_max_tokens);
}

TEST(BuildRequest, RangesOfEveryParameter) {
  using Set = std::function<void(GenerationParameters&, double)>;
  const struct {
    std::string param;
    Set set;
    std::vector<double> good;
    std::vector<double> bad;
  } kCases[] = {
      {"temperature", [](auto& p, double v) { p.temperature = v; }, {0, 0.7, 2}, {-0.1, 2.1, NAN}},
      {"top_k", [](auto& p, double v) { p.top_k = static_cast<int64_t>(v); }, {0, 40}, {-1, 1e15}},
      {"top_p", [](auto& p, double v) { p.top_p = v; }, {0.1, 1}, {0, 1.1, NAN}},
      {"min_p", [](auto& p, double v) { p.min_p = v; }, {0, 1}, {-0.1, 1.1}},
      {"repetition_penalty",
       [](auto& p, double v) { p.repetition_penalty = v; },
       {0.1, 2},
       {0, 2.1, INFINITY}},
      {"presence_penalty", [](auto& p, double v) { p.presence_penalty = v; }, {-2, 2}, {-2.1, 2.1}},
      {"frequency_penalty",
       [](auto& p, double v) { p.frequency_penalty = v; },
       {-2, 2},
       {-2.1, 2.1}},
      {"logprobs",
       [](auto& p, double v) { p.num_logprobs = static_cast<int64_t>(v); },
       {0, 20},
       {-1, 21}},
      {"max_tokens",
       [](auto& p, double v) { p.max_tokens = static_cast<int64_t>(v); },
       {1, 1000},
       {0, -1, 1e12}},
      {"max_tokens",
       [](auto& p, double v) {
         p.max_tokens = static_cast<int64_t>(v);
         p.allows_no_output = true;
       },
       {0, 1000},
       {-1, 1e12}},
      {"prompt_logprobs",
       [](auto& p, double v) { p.num_prompt_logprobs = static_cast<int64_t>(v); },
       {0, 20},
       {-1, 21}},
      {"logit_bias",
       [](auto& p, double v) {
         p.logit_bias = {{5, v}};
       },
       {-100, 100},
       {-101, 101, NAN}},
  };
  for (const auto& c : kCases) {
    for (const double value : c.good) {
      GenerationParameters p;
      c.set(p, value);
      EXPECT_TRUE(Build(p).ok()) << c.param << " " << value << ": " << Build(p).status();
    }
    for (const double value : c.bad) {
      GenerationParameters p;
      c.set(p, value);
      const Status status = Build(p).status();
      EXPECT_EQ(ErrorLabelOf(status), ErrorLabel::kInvalidRequest) << c.param << " " << value;
      EXPECT_EQ(ErrorParamOf(status), c.param) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(c.param));
    }
  }
}

TEST(BuildRequest, ListsAreChecked) {
  const auto param = [](const GenerationParameters& p) { return ErrorParamOf(Build(p).status()); };
  GenerationParameters p;
  p.logit_bias = {{100, 1.0}};
  EXPECT_EQ(param(p), "logit_bias");
  p.logit_bias = {{4, 1.0}, {4, 2.0}};
  EXPECT_EQ(param(p), "logit_bias");
  p = {};
  p.stop = {"a", ""};
  EXPECT_EQ(param(p), "stop");
  p.stop = std::vector<std::string>(17, "a");
  EXPECT_EQ(param(p), "stop");
  p.stop = {std::string(1025, 'a')};
  EXPECT_EQ(param(p), "stop");
  p.stop = {"\xff"};
  EXPECT_EQ(param(p), "stop");
  p = {};
  p.stop_token_ids = {-1};
  EXPECT_EQ(param(p), "stop_token_ids");
}

TEST(BuildRequest, TakesOverEverything) {
  GenerationParameters p;
  p.temperature = 0.5;
  p.top_k = 7;
  p.logit_bias = {{4, -3.0}};
  p.seed = 99;
  p.num_logprobs = 2;
  p.stop = {"END"};
  p.stop_token_ids = {9};
  p.ignore_eos = true;
  p.include_stop = true;
  p.priority = -5;
  const StatusOr<Request> request = Build(p);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 7);
  EXPECT_EQ(request->sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{4, -3.0f}}));
  EXPECT_EQ(request->sampling.seed, 99u);
  EXPECT_EQ(request->sampling.num_logprobs, 2);
  EXPECT_EQ(request->stop.stop_strings, std::vector<std::string>{"END"});
  EXPECT_EQ(request->stop.stop_token_ids, std::vector<int32_t>{9});
  EXPECT_TRUE(request->stop.ignore_eos && request->stop.include_stop_string);
  EXPECT_EQ(request->priority, -5);
  EXPECT_EQ(request->prompt, (std::vector<int32_t>{1, 2, 3}));
}

TEST(BuildRequest, DefaultsComeFromTheModelWhereTheClientIsSilent) {
  const GenerationDefaults defaults = {.temperature = 0.6, .top_k = 20, .top_p = 0.9};
  GenerationParameters p;
  p.top_k = 0;
  const StatusOr<Request> request = Build(p, defaults);
  EXPECT_EQ(request->sampling.temperature, 0.6f);
  EXPECT_EQ(request->sampling.top_k, 0);
  EXPECT_EQ(request->sampling.top_p, 0.9f);
  EXPECT_EQ(request->sampling.min_p, 0.0f);
  EXPECT_EQ(request->sampling.num_logprobs, -1);
}

TEST(BuildRequest, MaxTokensDefaultsToWhatFits) {
  EXPECT_EQ(Build({})->stop.max_tokens, 47);
  EXPECT_EQ(Build({}, {}, 16)->stop.max_tokens, 16);
  EXPECT_EQ(Build({}, {}, 1000)->stop.max_tokens, 47);
  // A full context is the engine's to refuse, with the numbers.
  const StatusOr<Request> full =
      BuildRequest({}, {}, kLimits, std::vector<int32_t>(60, 1), std::nullopt);
  EXPECT_EQ(full->stop.max_tokens, 1);
}

TEST(BuildRequest, DrawsADifferentSeedEachTime) {
  EXPECT_NE(Build({})->sampling.seed, Build({})->sampling.seed);
  EXPECT_NE(RandomId("x-"), RandomId("x-"));
  EXPECT_EQ(RandomId("x-").size(), 26u);
}

TEST(ReadGenerationDefaults, ReadsFileAndNamesWhatIsWrong) {
  const testing::TempDir temp;
  const std::string dir = temp.path();
  const auto write = [&dir](const std::string& text) {
    std::ofstream(dir + "/generation_config.json") << text;
  };
  EXPECT_FALSE(ReadGenerationDefaults(dir)->temperature.has_value());
  write(R"({"temperature": 0.6, "top_k": 50, "top_p": null, "do_sample": true})");
  EXPECT_EQ(ReadGenerationDefaults(dir)->temperature, 0.6);
  EXPECT_EQ(ReadGenerationDefaults(dir)->top_k, 50);
  EXPECT_FALSE(ReadGenerationDefaults(dir)->top_p.has_value());
  write(R"({"temperature": 7})");
  EXPECT_THAT(std::string(ReadGenerationDefaults(dir).status().message()),
              HasSubstr("generation_config.json: temperature is 7"));
  write("[");
  EXPECT_FALSE(ReadGenerationDefaults(dir).ok());
}

}  // namespace
}  // namespace sterna

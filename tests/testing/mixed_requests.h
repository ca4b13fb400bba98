// Requests of every kind for the tiny model, ways to run them, and what must be the same however
// they run.
#ifndef STERNA_TESTS_TESTING_MIXED_REQUESTS_H_
#define STERNA_TESTS_TESTING_MIXED_REQUESTS_H_

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/testing/tiny_model.h"

namespace sterna::testing {

inline std::vector<int32_t> Prompt(int64_t length, int32_t salt) {
  std::vector<int32_t> prompt = {256};
  for (int64_t i = 1; i < length; ++i) {
    prompt.push_back(static_cast<int32_t>((i * 37 + salt * 101 + i * i) % 256));
  }
  return prompt;
}

inline Request Greedy(int64_t prompt_length, int32_t max_tokens, int32_t salt = 0) {
  Request request;
  request.id = "test";
  request.prompt = Prompt(prompt_length, salt);
  request.sampling.temperature = 0.0f;
  request.stop.max_tokens = max_tokens;
  request.stop.ignore_eos = true;
  return request;
}

// Lengths, sampling and priorities of every kind.
inline std::vector<Request> MixedRequests(int count) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request request = Greedy(1 + i * 53 % 190, 1 + i * 29 % 60, i);
    SamplingOptions& s = request.sampling;
    s.seed = 1000 + i;
    s.num_logprobs = i % 3 == 0 ? -1 : i % 4;
    if (i % 4 != 0) s.temperature = 0.5f + 0.1f * static_cast<float>(i % 9);
    if (i % 5 == 1) s.top_k = 7;
    if (i % 5 == 2) s.top_p = 0.8f;
    if (i % 5 == 3) s.min_p = 0.05f;
    if (i % 6 == 1) s.repetition_penalty = 1.3f;
    if (i % 6 == 2) s.frequency_penalty = 0.7f;
    if (i % 6 == 3) s.presence_penalty = -0.4f;
    if (i % 7 == 0) s.logit_bias = {{65, 3.0f}, {66, -100.0f}};
    if (i % 4 == 2) s.num_prompt_logprobs = i % 3;
    if (i % 8 == 6) request.stop.max_tokens = 0;
    request.priority = i % 3;
    requests.push_back(std::move(request));
  }
  return requests;
}

// No request is past its first steps before all have come, however slow this thread is.
inline std::vector<Output> RunTogether(TinyEngine& tiny, const std::vector<Request>& requests) {
  std::vector<std::shared_ptr<TokenStream>> streams;
  tiny.listener().Hold();
  for (const Request& request : requests) streams.push_back(*tiny.engine().Submit(request));
  tiny.listener().Release();
  std::vector<Output> outputs;
  for (const auto& stream : streams) outputs.push_back(ReadAll(*stream));
  return outputs;
}

inline std::vector<Output> RunAlone(TinyEngine& tiny, const std::vector<Request>& requests) {
  std::vector<Output> outputs;
  for (const Request& request : requests) {
    outputs.push_back(ReadAll(**tiny.engine().Submit(request)));
  }
  return outputs;
}

inline void ExpectSameBits(const std::vector<OutputToken>& expected,
                           const std::vector<OutputToken>& actual, const std::string& where) {
  ASSERT_EQ(expected.size(), actual.size()) << where;
  for (size_t t = 0; t < expected.size(); ++t) {
    const OutputToken& e = expected[t];
    const OutputToken& a = actual[t];
    ASSERT_EQ(e.id, a.id) << where << ", token " << t;
    ASSERT_EQ(std::bit_cast<uint32_t>(e.logprob), std::bit_cast<uint32_t>(a.logprob))
        << where << ", token " << t;
    ASSERT_EQ(e.top.size(), a.top.size());
    for (size_t k = 0; k < e.top.size(); ++k) {
      ASSERT_EQ(e.top[k].token, a.top[k].token) << where << ", token " << t;
      ASSERT_EQ(std::bit_cast<uint32_t>(e.top[k].logprob),
                std::bit_cast<uint32_t>(a.top[k].logprob))
          << where << ", token " << t;
    }
  }
}

inline void ExpectSameBits(const std::vector<Output>& expected, const std::vector<Output>& actual,
                           const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::string where = what + ", request " + std::to_string(i);
    EXPECT_EQ(expected[i].text, actual[i].text) << where;
    ExpectSameBits(expected[i].prompt_logprobs, actual[i].prompt_logprobs, where + ", prompt");
    ExpectSameBits(expected[i].tokens, actual[i].tokens, where);
  }
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_MIXED_REQUESTS_H_

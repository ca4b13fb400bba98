#include "loadtest/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sterna {
namespace {

using ::testing::HasSubstr;

StatusOr<LoadtestOptions> Parse(const std::vector<std::string>& args) {
  return ParseLoadtestOptions(args);
}

TEST(LoadtestOptionsTest, TakesBothSpellingsAndBareBooleans) {
  const auto o = Parse({"--url=http://host:81", "--concurrency", "8", "--rate=2.5", "--ignore-eos",
                        "--check-counters=false", "--endpoint", "chat", "--requests=7"});
  ASSERT_TRUE(o.ok()) << o.status();
  EXPECT_EQ(o->url, "http://host:81");
  EXPECT_EQ(o->concurrency, 8);
  EXPECT_EQ(o->rate, 2.5);
  EXPECT_TRUE(o->ignore_eos);
  EXPECT_FALSE(o->check_counters);
  EXPECT_EQ(o->endpoint, "chat");
  EXPECT_EQ(o->requests, 7);
}

TEST(LoadtestOptionsTest, IsBoundedWithoutLimits) {
  EXPECT_EQ(Parse({})->requests, 100);
  EXPECT_EQ(Parse({"--duration=3"})->requests, 0);
}

TEST(LoadtestOptionsTest, SaysWhatIsWrongAndWhatWouldBeRight) {
  const auto message = [](const std::vector<std::string>& args) {
    return std::string(Parse(args).status().message());
  };
  EXPECT_THAT(message({"--concurrency", "0"}),
              HasSubstr("--concurrency is '0'; it must be an integer of at least 1"));
  EXPECT_THAT(message({"--concurrency=two"}), HasSubstr("must be an integer"));
  EXPECT_THAT(message({"--rate=nan"}), HasSubstr("must be a number of at least 0"));
  EXPECT_THAT(message({"--ignore-eos=yes"}), HasSubstr("must be true or false"));
  EXPECT_THAT(message({"--speed=1"}), HasSubstr("there is no flag --speed"));
  EXPECT_THAT(message({"--seed"}), HasSubstr("--seed needs a value"));
  EXPECT_THAT(message({"run"}), HasSubstr("'run' is not a flag"));
  EXPECT_THAT(message({"--endpoint=embeddings"}), HasSubstr("must be completions or chat"));
  EXPECT_THAT(message({"--url=https://host"}), HasSubstr("must be http://host"));
}

TEST(LoadtestOptionsTest, HelpNamesEveryFlagWithItsDefault) {
  const std::string help = LoadtestHelp();
  for (const std::string flag : {"--url", "--rate", "--json", "--slo-e2e-ms", "--check-counters"}) {
    EXPECT_THAT(help, HasSubstr("  " + flag + " "));
  }
  EXPECT_THAT(help, HasSubstr("where the server is [http://127.0.0.1:8000]"));
}

TEST(ParseUrlTest, SplitsHostAndPort) {
  const auto parsed = [](const std::string& url) {
    const auto endpoint = ParseUrl(url);
    return endpoint.ok() ? endpoint->host + "|" + endpoint->port : "error";
  };
  EXPECT_EQ(parsed("http://127.0.0.1:8000"), "127.0.0.1|8000");
  EXPECT_EQ(parsed("http://localhost/"), "localhost|80");
  EXPECT_EQ(parsed("http://[::1]:8000"), "::1|8000");
  EXPECT_EQ(parsed("http://[::1]"), "::1|80");
  for (const std::string bad : {"", "localhost:8000", "http://", "http://h:0", "http://h:70000",
                                "http://h:x", "http://h/v1", "https://h"}) {
    EXPECT_EQ(parsed(bad), "error") << bad;
  }
}

}  // namespace
}  // namespace sterna

// Rendering against what Transformers renders (tests/golden/make_chat_template_goldens.py).
#include "engine/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

const Json& Goldens() {
  static const Json* const kGoldens = [] {
    std::ifstream file(testing::SourcePath("tests/golden/data/chat_templates.json"));
    return new Json(Json::parse(file));
  }();
  return *kGoldens;
}

// FNV-1a, as the script that made the goldens computes it.
std::string Fingerprint(const std::string& text) {
  uint64_t value = 0xCBF29CE484222325u;
  for (const char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  char buffer[17];
  std::snprintf(buffer, sizeof(buffer), "%016llx", static_cast<unsigned long long>(value));
  return buffer;
}

StatusOr<std::string> Render(const std::string& source, const std::string& bos,
                             const std::string& eos, const ChatTemplateInput& input) {
  STERNA_ASSIGN_OR_RETURN(const ChatTemplate chat_template,
                          ChatTemplate::Compile(source, bos, eos));
  return chat_template.Render(input);
}

// The message with which a template that only uses `expression` is refused or fails; empty if not.
std::string ErrorOf(const std::string& source, const std::string& messages = "[]") {
  ChatTemplateInput input;
  input.messages_json = messages;
  return std::string(Render(source, "", "", input).status().message());
}

ChatTemplateInput InputOf(const Json& messages, const Json& tools, const Json& extra) {
  ChatTemplateInput input;
  input.messages_json = messages.dump();
  if (!tools.is_null()) input.tools_json = tools.dump();
  for (const auto& [name, value] : extra.items()) input.extra_json[name] = value.dump();
  input.now_unix_seconds = Goldens()["now"];
  return input;
}

// Whether `got` is what Transformers did: the text, the same message raised, or a failure.
bool Agrees(const StatusOr<std::string>& got, const Json& want) {
  if (want.contains("text")) return got.ok() && *got == want["text"];
  if (want.contains("fingerprint")) return got.ok() && Fingerprint(*got) == want["fingerprint"];
  if (want.contains("raised")) return got.status().message() == want["raised"].get<std::string>();
  return !got.ok();
}

std::string Show(const StatusOr<std::string>& got) {
  return got.ok() ? "\"" + *got + "\"" : got.status().ToString();
}

TEST(ChatTemplateTest, ConstructsRenderAsTransformersRendersThem) {
  const Json& constructs = Goldens()["constructs"];
  int refused = 0;
  for (const Json& golden : constructs["templates"]) {
    const ChatTemplateInput input =
        InputOf(constructs["messages"], nullptr, constructs["variables"]);
    const auto got = Render(golden["template"], "<s>", "</s>", input);
    EXPECT_TRUE(Agrees(got, golden)) << golden.dump() << "\ngot " << Show(got);
    refused += golden.contains("fails");
  }
  EXPECT_GE(constructs["templates"].size(), 150u);
  EXPECT_GE(refused, 50);
}

// A published template's text: a .jinja file, or the one in a tokenizer_config.json.
std::string PublishedTemplate(const std::string& path) {
  const auto text = ReadTextFile(path);
  if (!text.ok() || !path.ends_with(".json")) return text.value_or("");
  return Json::parse(*text)["chat_template"];
}

TEST(ChatTemplateTest, PublishedTemplatesRenderAsTransformersRendersThem) {
  if (testing::SharedDataPath("chat_templates").empty()) {
    GTEST_SKIP() << "no reference data: the published chat templates are not rendered";
  }
  int exact_files = 0, exact_tokenizers = 0, rendered = 0;
  std::vector<std::string> lacking;  // templates with a construct the subset lacks
  for (const Json& published : Goldens()["published"]) {
    const std::string name = published["path"];
    const std::string source = PublishedTemplate(testing::SharedDataPath(name));
    ASSERT_EQ(Fingerprint(source), published["template_fingerprint"]) << name << " has changed";
    const auto compiled = ChatTemplate::Compile(source, published["bos"], published["eos"]);
    if (!compiled.ok()) {
      lacking.push_back(name + ": " + std::string(compiled.status().message()));
      continue;
    }
    bool exact = true;
    for (size_t i = 0; i < Goldens()["cases"].size(); ++i) {
      const Json& c = Goldens()["cases"][i];
      ChatTemplateInput input = InputOf(c["messages"], c["tools"], c["extra"]);
      input.add_generation_prompt = c["add_generation_prompt"];
      const auto got = compiled->Render(input);
      const bool agrees = Agrees(got, published["outcomes"][i]);
      EXPECT_TRUE(agrees) << name << ", case " << c["name"] << ", wanted "
                          << published["outcomes"][i] << ", got " << Show(got);
      exact &= agrees;
      rendered += got.ok();
    }
    (name.starts_with("tokenizers/") ? exact_tokenizers : exact_files) += exact;
  }
  EXPECT_EQ(exact_files, 15);
  EXPECT_EQ(exact_tokenizers, 2);  // the Llama 2 tokenizer has no template
  EXPECT_GT(rendered, 800);
  EXPECT_THAT(lacking, ::testing::IsEmpty());
}

TEST(ChatTemplateTest, NamesTheConstructItLacks) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\nb\n{{ x | groupby('k') }}", "line 3: the filter 'groupby' is not supported"},
      {"{{ x is sturdy }}", "line 1: the test 'sturdy' is not supported"},
      {"{% include 'other' %}", "line 1: the statement 'include' is not supported"},
      {"\n{% call m() %}{% endcall %}", "line 2: the statement 'call' is not supported"},
      {"{% block b %}{% endblock %}", "the statement 'block' is not supported"},
      {"{% for x in y recursive %}{% endfor %}", "a recursive loop is not supported"},
      {"{{ f(*args) }}", "*args and **kwargs in calls are not supported"},
      {"{{ 'a'.encode() }}", "line 1: the method 'str.encode' is not supported"},
      {"{{ '%s' % 1 }}", "formatting with % on a string is not supported"},
      {"{{ [].append(1) }}", "'list.append' is not allowed"},
      {"{{ 99999999999999999999 }}", "beyond 64 bits"},
      {"{{ 9223372036854775807 + 1 }}", "beyond 64 bits"},
      {"\n\n{{ nope.x }}", "line 3: 'nope' is undefined"},
      {"{{ cycler('a') }}", "'cycler' is undefined"},
  };
  for (const auto& [source, message] : cases) EXPECT_THAT(ErrorOf(source), HasSubstr(message));
}

TEST(ChatTemplateTest, RefusesBadInput) {
  const auto compiled = ChatTemplate::Compile("{{ messages }}", "", "");
  ASSERT_TRUE(compiled.ok());
  const auto error = [&](const std::string& messages, const std::string& tools = "") {
    ChatTemplateInput input;
    input.messages_json = messages;
    input.tools_json = tools;
    const auto got = compiled->Render(input);
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument) << messages;
    return std::string(got.status().message());
  };
  EXPECT_THAT(error("[{\"role\":"), HasSubstr("messages: it is no JSON at byte"));
  EXPECT_THAT(error("{}"), HasSubstr("messages must be a list"));
  EXPECT_THAT(error("[{}, 5]"), HasSubstr("messages[1] must be an object"));
  EXPECT_THAT(error("[]", "{}"), HasSubstr("tools must be a list"));
  EXPECT_THAT(error("[{\"a\": \"\xFF\"}]"), HasSubstr("it is no JSON"));
  EXPECT_THAT(error("[{\"a\": 123456789012345678901234567890}]"), HasSubstr("beyond 64 bits"));
  EXPECT_THAT(error(std::string(10000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(std::string(ChatTemplate::Compile("a\xFF", "", "").status().message()),
              HasSubstr("not valid UTF-8 at byte 1"));
}

std::string Repeat(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

// Each of these would, without bounds, run out of stack, memory or time.
TEST(ChatTemplateTest, HostileTemplatesEndInAnError) {
  const std::string deep = Repeat("(", 10000), many = Repeat("{% if 1 %}", 10000);
  const std::string big = "{% set s = 'x' * 4000000 %}";
  for (const std::string& source : {
           "{{ " + deep + "1" + Repeat(")", 10000) + " }}",
           "{{ " + Repeat("[", 10000) + Repeat("]", 10000) + " }}",
           "{{ " + Repeat("not ", 10000) + "1 }}",
           "{{ " + Repeat("-", 10000) + "1 }}",
           "{{ 1" + Repeat(" + 1", 10000) + " }}",
           "{{ x" + Repeat(".a", 10000) + " }}",
           "{{ x" + Repeat("|trim", 10000) + " }}",
           "{{ 1" + Repeat(" if 1 else 1", 10000) + " }}",
           many + Repeat("{% endif %}", 10000),
           "{% set " + deep + "a" + Repeat(")", 10000) + " = 1 %}",
           std::string("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"),
           std::string("{% set n = namespace(s='x') %}{% for i in range(99) %}"
                       "{% set n.s = n.s ~ n.s %}{% endfor %}"),
           std::string("{% set n = namespace(l=[]) %}{% for i in range(99999) %}"
                       "{% set n.l = [n.l] %}{% endfor %}{{ n.l }}"),
           std::string("{% set n = namespace(l=[1]) %}{% for i in range(150) %}"
                       "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}"),
           std::string("{% for a in range(100000) %}{% for b in range(100000) %}"
                       "{% endfor %}{% endfor %}"),
           std::string("{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}"),
           std::string("{{ 'x' * 99999999999 }}"),
           std::string("{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}"),
           std::string("{{ ('x\n' * 1000000) | indent('y' * 100000) }}"),
           std::string("{{ [1] | tojson(indent=99999999) }}"),
           std::string("{{ 2 ** 99999999999 }}"),
           // Work or memory that one step must not have for nothing.
           big + "{% for i in range(99999) %}{% set x = s.startswith(s) %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = s.isspace() %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = s.removeprefix(s) %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = {s: 1} %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = {}[s] %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = {}.get(s) %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = [s].index(s) %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = [s].count(s) %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = loop.changed(s) %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = [s] is eq [s] %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = [s] is lt [s] %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = [s] | min %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = [s] | sort %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = {'a': s} | dictsort(by='value') %}{% "
                 "endfor %}",
           big + "{% for i in range(99999) %}{% set x = [s] | trim(s ~ '[]\\'') %}{% endfor %}",
           big + "{{ [{}] | map(attribute=s | replace('x', '.'), default={}) | list }}",
           big + "{% for i in range(99999) %}{% set x = s.strip('x') %}{% endfor %}",
           big + "{% for i in range(99999) %}{% set x = strftime_now(s.replace('x', '%Z')) %}{% "
                 "endfor %}",
           big + "{{ s.replace('x', 'xy').split('y') | length }}{% for c in s %}{% endfor %}",
           std::string(
               "{% set d = dict(a=1, b=2, c=3, d=4, e=5, f=6, g=7, h=8, i=9, j=10) %}"
               "{% set n = namespace() %}{% for i in range(100000) %}"
               "{% for j in range(100) %}{% set n.n = namespace(d) %}{% endfor %}{% endfor %}"),
           std::string("{% for i in range(100000) %}{% for j in range(100) %}"
                       "{% macro m() %}{% endmacro %}{% endfor %}{% endfor %}"),
       }) {
    EXPECT_NE(ErrorOf(source), "") << source.substr(0, 200);
  }
  // Linear, each of them: this took minutes.
  EXPECT_EQ(ErrorOf("{{ ('x ' * 300000).rsplit() | length }}"), "");
  EXPECT_EQ(ErrorOf("{% set s = 'x' * 100000 %}{% set c = s.replace('x', '\u00e9') %}"
                    "{{ s.strip(c ~ 'x') | length }}"),
            "");
  // Large but fair: what a long conversation needs is far within the bounds.
  std::string messages = "[";
  for (int i = 0; i < 2000; ++i) {
    messages += std::string(i > 0 ? "," : "") + R"({"role": "user", "content": ")" +
                std::string(500, 'x') + "\"}";
  }
  EXPECT_EQ(ErrorOf("{% for m in messages %}{{ m.role ~ ': ' ~ m.content | trim }}{% endfor %}",
                    messages + "]"),
            "");
}

// Comparing at each place anew takes minutes.
TEST(ChatTemplateTest, SearchesForLongTextsAreLinear) {
  const std::clock_t start = std::clock();
  EXPECT_EQ(ErrorOf("{% set s = 'x' * 2000000 %}{% set a = 'x' * 1000000 ~ 'y' %}"
                    "{% set b = 'y' ~ 'x' * 1000000 %}"
                    "{{ a in s }}{{ s.find(a) }}{{ s.count(a) }}{{ s.replace(a, '') | length }}"
                    "{{ s.split(a) | length }}{{ s.rfind(b) }}{{ s.rsplit(b) | length }}"),
            "");
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10);
  ChatTemplateInput input;
  input.messages_json = "[]";
  const std::string text = "'\xC3\xA9xx\xC3\xA8xxx\xC3\xA9'";
  EXPECT_EQ(*Render("{% set s = " + text +
                        " %}{{ s.find('xx') }} {{ s.rfind('xx') }} {{ s.find('q') }} "
                        "{{ s.rfind('q') }} {{ s.rfind('') }} {{ s.count('xx') }} "
                        "{{ s.split('xx') | join('-') }} {{ s.rsplit('xx') | join('-') }} "
                        "{{ s.rsplit('xx', 1) | join('-') }} {{ '' in s }} {{ 'xxxx' in s }} "
                        "{{ s.replace('xx', 'q') }}",
                    "", "", input),
            "1 5 -1 -1 8 2 \xC3\xA9-\xC3\xA8-x\xC3\xA9 \xC3\xA9-\xC3\xA8x-\xC3\xA9 "
            "\xC3\xA9xx\xC3\xA8x-\xC3\xA9 True False \xC3\xA9q\xC3\xA8qx\xC3\xA9");
}

TEST(ChatTemplateTest, RandomTemplatesNeverCrash) {
  const std::vector<std::string> pieces = {
      "{{",    "}}", "{%",  "%}",   "{#",   "#}",      "-",       " if ",    " for ",    " in ",
      " set ", "x",  "'a'", "1",    "2.5",  "(",       ")",       "[",       "]",        "{",
      "}",     ".",  "|",   "trim", " is ", "defined", " endif ", " else ",  "endfor",   "messages",
      "+",     "~",  "==",  ":",    ",",    "\n",      " ",       "macro m", "endmacro", "tojson",
  };
  uint64_t state = 1;
  for (int round = 0; round < 20000; ++round) {
    std::string source;
    for (int i = 0; i < 12; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      source += pieces[(state >> 33) % pieces.size()];
    }
    ErrorOf(source);
  }
}

class LoadChatTemplateTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(directory_); }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name) << text;
  }
  std::string Load() {
    const auto loaded = LoadChatTemplate(directory_);
    if (!loaded.ok()) return loaded.status().ToString();
    ChatTemplateInput input;
    input.messages_json = "[]";
    return loaded->Render(input).value_or("cannot render");
  }

  // One per test, as tests run in parallel.
  const std::string directory_ = ::testing::TempDir() + "/load_chat_template_test_" +
                                 ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(LoadChatTemplateTest, PrefersTheFileThenTheConfig) {
  EXPECT_THAT(Load(), HasSubstr("NOT_FOUND"));
  Write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_THAT(Load(), HasSubstr("has no chat template"));
  Write("tokenizer_config.json",
        R"({"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }} config"})");
  EXPECT_EQ(Load(), "<s> config");
  Write("tokenizer_config.json", R"({"eos_token": "</s>", "chat_template": [
      {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "d{{ eos_token }}"}]})");
  EXPECT_EQ(Load(), "d</s>");
  Write("chat_template.jinja", "from the file\n");
  EXPECT_EQ(Load(), "from the file");
}

TEST_F(LoadChatTemplateTest, ErrorsNameFileAndField) {
  Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(Load(), HasSubstr("tokenizer_config.json: chat_template is 5"));
  Write("tokenizer_config.json", R"({"chat_template": "{{ x")");
  EXPECT_THAT(Load(), HasSubstr("tokenizer_config.json is not valid JSON"));
  Write("tokenizer_config.json", R"({"chat_template": "{{ x | groupby }}"})");
  EXPECT_THAT(Load(), HasSubstr("the filter 'groupby' is not supported"));
}

}  // namespace
}  // namespace sterna

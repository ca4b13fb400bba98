// A chat template, rendered with several conversations; and after a byte 0 the messages of another,
// as JSON.
#include <array>
#include <string>

#include "engine/text/chat_template.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

constexpr std::array<const char*, 3> kMessages = {
    R"([])",
    R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " caf\u00e9 <s>\n"},
        {"role": "assistant", "content": "<think>Hm.</think>Yes.", "reasoning_content": "Hm."},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]}])",
    R"([{"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
          "function": {"name": "now", "arguments": {"zone": "UTC", "precise": true}}}]},
        {"role": "tool", "tool_call_id": "1", "name": "now", "content": "12:00"}])"};
constexpr char kTools[] =
    R"([{"type": "function", "function": {"name": "now", "description": "The time.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}},
                       "required": ["zone"]}}}])";
// Variables of the small templates that the fuzzer begins with.
constexpr std::array<std::array<const char*, 2>, 5> kVariables = {
    {{"number", "7"},
     {"words", R"(["b", "A", "c", "a", "B"])"},
     {"nested", R"({"k": [1, {"x": null, "y": true}], "items": 2.5})"},
     {"people", R"([{"name": "Ann", "age": 31, "tags": ["x"]}, {"name": "bob"}])"},
     {"text", R"("  \u00dcn\u00ef <b>\"q\"</b>\n\tline two\u2028 ")"}}};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sterna;
  const auto [source, messages] = testing::SplitAtZero(testing::AsText(data, size));
  const auto compiled = ChatTemplate::Compile(source, "<s>", "</s>");
  if (!compiled.ok()) return 0;
  ChatTemplateInput input;
  input.now_unix_seconds = 1'700'000'000;
  for (const auto& [name, json] : kVariables) input.extra_json[name] = json;
  for (const char* conversation : kMessages) {
    input.messages_json = conversation;
    compiled->Render(input).status().IgnoreError();
    input.tools_json = kTools;
    input.add_generation_prompt = !input.add_generation_prompt;
  }
  if (messages.empty()) return 0;
  input.messages_json = messages;
  compiled->Render(input).status().IgnoreError();
  return 0;
}

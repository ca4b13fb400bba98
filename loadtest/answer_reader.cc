#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "loadtest/run.h"

namespace sterna {
namespace {

using Json = nlohmann::json;

// The text that a completion or chat chunk brings.
std::string TextOf(const Json& event) {
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty()) return "";
  const Json& choice = (*choices)[0];
  if (!choice.is_object()) return "";
  const Json* holder = &choice;
  const char* field = "text";
  if (choice.contains("delta") && choice["delta"].is_object()) {
    holder = &choice["delta"];
    field = "content";
  }
  const auto text = holder->find(field);
  return text != holder->end() && text->is_string() ? text->get<std::string>() : "";
}

std::string ErrorCodeOf(const Json& body) {
  const auto error = body.find("error");
  if (error == body.end() || !error->is_object()) return "";
  const auto code = error->find("code");
  return code != error->end() && code->is_string() ? code->get<std::string>() : "";
}

int64_t CountOf(const Json& usage, const char* field) {
  const auto value = usage.find(field);
  return value != usage.end() && value->is_number() ? value->get<int64_t>() : 0;
}

}  // namespace

AnswerReader::AnswerReader() : parser_([this](std::string_view data) { OnEvent(data); }) {}

void AnswerReader::Feed(std::string_view bytes, double now_seconds) {
  constexpr size_t kKept = 4096;
  if (start_.size() < kKept) start_.append(bytes.substr(0, kKept - start_.size()));
  now_seconds_ = now_seconds;
  parser_.Feed(bytes);
}

void AnswerReader::Fail(const std::string& kind, const std::string& detail) {
  if (!result_.ok()) return;  // the first error is the cause
  result_.error = kind;
  result_.error_detail = detail.substr(0, 300);
}

void AnswerReader::OnEvent(std::string_view data) {
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  const Json event = Json::parse(data, nullptr, /*allow_exceptions=*/false);
  if (!event.is_object()) return Fail("malformed event", std::string(data));
  if (event.contains("error")) {
    return Fail(absl::StrCat("error in stream ", ErrorCodeOf(event)), std::string(data));
  }
  if (!TextOf(event).empty()) {
    if (result_.pieces == 0) {
      result_.ttft_seconds = now_seconds_;
    } else {
      result_.gaps_seconds.push_back(now_seconds_ - last_piece_seconds_);
    }
    last_piece_seconds_ = now_seconds_;
    ++result_.pieces;
  }
  const auto usage = event.find("usage");
  if (usage == event.end() || !usage->is_object()) return;
  has_usage_ = true;
  result_.prompt_tokens = CountOf(*usage, "prompt_tokens");
  result_.output_tokens = CountOf(*usage, "completion_tokens");
  result_.energy_millijoules = CountOf(*usage, "energy_millijoules");
  const auto method = usage->find("energy_method");
  if (method != usage->end() && method->is_string()) {
    result_.energy_method = method->get<std::string>();
  }
}

RequestResult AnswerReader::Finish(int code, double now_seconds) {
  result_.e2e_seconds = now_seconds;
  if (code != 200) {
    const Json body = Json::parse(start_, nullptr, /*allow_exceptions=*/false);
    const std::string label = body.is_object() ? ErrorCodeOf(body) : "";
    Fail(absl::StrCat("http ", code, label.empty() ? "" : " ", label), start_);
  } else if (!done_) {
    Fail("stream without [DONE]", start_);
  } else if (!has_usage_) {
    Fail("stream without usage", start_);
  } else if (result_.pieces > result_.output_tokens + 1) {
    // (One more may flush what was held back.) A server that counts fewer tokens than it sends
    // pieces of text miscounts.
    Fail("more pieces of text than tokens",
         absl::StrCat(result_.pieces, " pieces, ", result_.output_tokens, " tokens"));
  }
  // An answer of special tokens only has no text; its first token came with its end.
  if (result_.pieces == 0) result_.ttft_seconds = now_seconds;
  return result_;
}

}  // namespace sterna

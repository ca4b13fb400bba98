// Reads request bodies: JSON with limits that keep hostile input cheap, and objects whose fields
// are asked for by name and type, so that every error names the path of the field at fault.
#ifndef STERNA_SERVER_HTTP_JSON_READER_H_
#define STERNA_SERVER_HTTP_JSON_READER_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sterna {

// Deeper nesting, or more members in one object, is refused before anything is built.
inline constexpr int kMaxJsonDepth = 64;
inline constexpr int64_t kMaxJsonMembers = 1024;

// Members keep their order, because tool definitions reach chat templates as they were sent.
// kInvalidRequest for what is no JSON (with the position), no UTF-8, too deep, or holds a member
// twice. The result is an object. `what` names the text in messages.
StatusOr<nlohmann::ordered_json> ParseJsonObject(std::string_view text,
                                                 std::string_view what = "the body");

// The members of one JSON object. A member that is null counts as absent. The first error wins and
// is told by Finish; after it, reads do nothing.
// Lifetime: the object must outlive the reader. Thread contract: one thread.
class JsonObjectReader {
 public:
  // `path`: of the object, for messages: "" or "stream_options".
  JsonObjectReader(const nlohmann::ordered_json& object, std::string path);

  void Read(std::string_view name, std::optional<bool>* out);
  void Read(std::string_view name, std::optional<int64_t>* out);
  void Read(std::string_view name, std::optional<double>* out);
  void Read(std::string_view name, std::optional<std::string>* out);
  void Read(std::string_view name, std::vector<int64_t>* out);
  void Read(std::string_view name, bool* out);
  // A member of any type, for a caller that looks itself; null when absent.
  const nlohmann::ordered_json* Get(std::string_view name);

  // Known and harmless: any value is accepted and changes nothing.
  void Ignore(std::span<const std::string_view> names);
  // Known, but only as null or one of `neutral` (JSON texts), which change nothing.
  void RefuseUnless(std::string_view name, std::span<const std::string_view> neutral,
                    std::string_view supported);

  // "name" within this object, as messages call it.
  std::string PathOf(std::string_view name) const;
  // Keeps the first error.
  void Fail(std::string_view name, std::string_view message);
  void Fail(Status status);
  bool failed() const { return !status_.ok(); }

  // The first error, or one for a member that nobody asked for.
  Status Finish();

 private:
  void TypeError(std::string_view name, const nlohmann::ordered_json& value,
                 std::string_view expected);

  const nlohmann::ordered_json& object_;
  const std::string path_;
  std::vector<std::string> known_;
  Status status_;
};

// What a value is, for messages: "a string", "an array", ...
std::string JsonTypeText(const nlohmann::ordered_json& value);

// As text, invalid UTF-8 replaced, so that it never throws.
std::string JsonText(const nlohmann::ordered_json& value);

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_JSON_READER_H_

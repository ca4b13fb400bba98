// The text of HTTP: response heads, chunks, and the parts of a target.
#ifndef STERNA_SERVER_HTTP_HTTP_TEXT_H_
#define STERNA_SERVER_HTTP_HTTP_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/http/http_types.h"

namespace sterna {

// How a body's end is found.
enum class BodyFraming { kLength, kChunked, kUntilClose };

// The status line and headers up to and including the empty line, HTTP/1.1. Line breaks and other
// control characters in header values are left out, so that no value can add a header.
std::string ResponseHead(const HttpResponse& response, BodyFraming framing, int64_t content_length,
                         bool keep_alive);

// `data` as one chunk; empty for empty data, because an empty chunk would end the body.
std::string Chunk(std::string_view data);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

// The path of a target, percent-decoded, without the query; nullopt for a broken escape or NUL.
std::optional<std::string> TargetPath(std::string_view target);

bool EqualsIgnoreCase(std::string_view a, std::string_view b);

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_HTTP_TEXT_H_

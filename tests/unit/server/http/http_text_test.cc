#include "server/http/http_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http/generation_source.h"

namespace sterna {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(HttpText, HeadOfAWholeResponse) {
  const HttpResponse response = {
      .code = 429,
      .headers = {{"Content-Type", "application/json"}, {"Retry-After", "1"}},
      .body = ""};
  EXPECT_THAT(ResponseHead(response, BodyFraming::kLength, 12, true),
              AllOf(StartsWith("HTTP/1.1 429 Too Many Requests\r\nDate: "),
                    HasSubstr("\r\nRetry-After: 1\r\n"), HasSubstr("\r\nContent-Length: 12\r\n"),
                    HasSubstr("\r\nConnection: keep-alive\r\n"), EndsWith("\r\n\r\n")));
}

TEST(HttpText, HeadOfAStream) {
  EXPECT_THAT(ResponseHead({}, BodyFraming::kChunked, 0, true),
              AllOf(HasSubstr("Transfer-Encoding: chunked"), Not(HasSubstr("Content-Length"))));
  EXPECT_THAT(ResponseHead({}, BodyFraming::kUntilClose, 0, true),
              AllOf(HasSubstr("Connection: close"), Not(HasSubstr("chunked"))));
  EXPECT_THAT(ResponseHead({.code = 204, .headers = {}, .body = ""}, BodyFraming::kLength, 0, true),
              Not(HasSubstr("Content-Length")));
}

TEST(HttpText, ValuesCannotAddHeaders) {
  const HttpResponse response = {.code = 200, .headers = {{"X", "a\r\nEvil: b"}}, .body = ""};
  const std::string head = ResponseHead(response, BodyFraming::kLength, 0, true);
  EXPECT_THAT(head, HasSubstr("\r\nX: aEvil: b\r\n"));
  EXPECT_THAT(head, Not(HasSubstr("\r\nEvil")));
}

TEST(HttpText, Chunks) {
  EXPECT_EQ(Chunk("hello world, hello"), "12\r\nhello world, hello\r\n");
  EXPECT_EQ(Chunk(""), "");
}

TEST(HttpText, TargetPaths) {
  EXPECT_EQ(TargetPath("/v1/models/a%2Fb%20c?x=1#y"), "/v1/models/a/b c");
  EXPECT_EQ(TargetPath("/?%zz"), "/");
  for (const char* broken : {"/%", "/%4", "/%zz", "/%00"}) {
    EXPECT_EQ(TargetPath(broken), std::nullopt) << broken;
  }
}

TEST(HttpText, HeadersAreFoundInAnyCase) {
  const HttpRequest request = {
      .method = "GET", .target = "/", .headers = {{"X-Request-ID", "7"}}, .body = ""};
  EXPECT_EQ(request.Header("x-request-id"), "7");
  EXPECT_EQ(request.Header("x-request"), "");
}

TEST(HttpText, ServerSentEvents) { EXPECT_EQ(ServerSentEvent("[DONE]"), "data: [DONE]\n\n"); }

}  // namespace
}  // namespace sterna

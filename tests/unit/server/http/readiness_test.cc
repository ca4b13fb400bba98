// What the probes answer before there is a model, and when there never will be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/http/api_handler.h"
#include "server/model_service.h"

namespace sterna {
namespace {

using Json = nlohmann::json;

TEST(ReadinessTest, TellsHowFarALoadIsAndWhyItFailed) {
  MetricsRegistry metrics;
  ModelService service("m", &metrics);
  const std::unique_ptr<HttpHandler> handler = MakeApiHandler(&service, "");
  const auto get = [&](const std::string& target) {
    return handler->Handle({.method = "GET", .target = target, .headers = {}, .body = {}}).response;
  };
  service.SetLoadProgress(300, 1000);
  EXPECT_EQ(get("/health/ready").code, 503);
  EXPECT_EQ(Json::parse(get("/health/ready").body),
            Json({{"status", "loading"}, {"loaded_bytes", 300}, {"total_bytes", 1000}}));
  EXPECT_EQ(get("/health/live").code, 200);
  EXPECT_THAT(get("/v1/models").body, ::testing::HasSubstr("still loading"));

  // Names of tensors are whatever a file says.
  service.SetLoadFailure(absl::DataLossError("tensor '\xff' is corrupt"));
  EXPECT_EQ(get("/health/ready").code, 503);
  EXPECT_EQ(Json::parse(get("/health/ready").body),
            Json({{"status", "load_failed"}, {"reason", "tensor '\ufffd' is corrupt"}}));
  EXPECT_EQ(get("/health/live").code, 200);
  EXPECT_EQ(get("/v1/models").code, 503);
  EXPECT_THAT(get("/v1/models").body, ::testing::HasSubstr("could not be loaded"));
  service.StartDraining();
  EXPECT_EQ(Json::parse(get("/health/ready").body), Json({{"status", "draining"}}));
}

}  // namespace
}  // namespace sterna

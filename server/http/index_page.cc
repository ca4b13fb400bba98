#include "server/http/index_page.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sterna {

std::string IndexPage(std::string_view model_name) {
  const std::string name = absl::StrReplaceAll(
      std::string(model_name), {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
  return absl::StrCat(R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sterna</title></head><body>
<h1>Sterna )",
                      STERNA_VERSION, R"(</h1>
<p>Serving <b>)",
                      name, R"(</b>.</p>
<ul>
<li>POST /v1/completions, POST /v1/chat/completions (OpenAI's API)</li>
<li><a href="/v1/models">GET /v1/models</a></li>
<li>POST /tokenize, POST /detokenize</li>
<li><a href="/health/live">GET /health/live</a>, <a href="/health/ready">GET /health/ready</a></li>
<li><a href="/metrics">GET /metrics</a> (Prometheus)</li>
</ul>
</body></html>
)");
}

}  // namespace sterna

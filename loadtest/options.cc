#include "loadtest/options.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <variant>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sterna {
namespace {

// A row: the flag's name, the field it fills, the least value of a number, and its help.
struct FlagRow {
  const char* name;
  std::variant<std::string*, int64_t*, double*, bool*> field;
  double least;
  const char* help;
};

std::vector<FlagRow> FlagTable(LoadtestOptions& o) {
  return {
      {"url", &o.url, 0, "where the server is"},
      {"model", &o.model, 0, "model to ask for; empty: the first of /v1/models"},
      {"endpoint", &o.endpoint, 0, "completions or chat"},
      {"concurrency", &o.concurrency, 1, "closed loop: clients, each with one request at a time"},
      {"rate", &o.rate, 0, "open loop: Poisson arrivals a second; 0: closed loop"},
      {"max-in-flight", &o.max_in_flight, 1, "open loop: requests that may be open at once"},
      {"requests", &o.requests, 0, "requests to send; 0: no limit but --duration"},
      {"duration", &o.duration_seconds, 0,
       "seconds in which requests are sent; 0: no limit but --requests"},
      {"warmup", &o.warmup, 0, "requests to send before anything is measured"},
      {"prompt-tokens", &o.prompt_tokens, 1, "tokens of each made-up prompt"},
      {"prompts", &o.prompts_file, 0,
       "file of prompts instead: one a line, plain or {\"prompt\": ...}"},
      {"max-tokens", &o.max_tokens, 1, "output tokens at most"},
      {"temperature", &o.temperature, 0, "sampling temperature"},
      {"seed", &o.seed, 0, "of prompts, arrivals and sampling"},
      {"ignore-eos", &o.ignore_eos, 0, "go on to --max-tokens whatever the model says"},
      {"timeout", &o.timeout_seconds, 0.001, "seconds a request may take"},
      {"slo-ttft-ms", &o.slo_ttft_ms, 0, "goodput: first token within; 0: whatever"},
      {"slo-e2e-ms", &o.slo_e2e_ms, 0, "goodput: whole answer within; 0: whatever"},
      {"json", &o.json, 0, "write the report there as JSON; -: to standard output"},
      {"check-counters", &o.check_counters, 0,
       "exit with 1 when the server's counters differ from what the clients saw"},
      {"help", &o.help, 0, "print this"},
  };
}

std::string ValueText(const FlagRow& row) {
  if (auto* const* text = std::get_if<std::string*>(&row.field)) {
    return (*text)->empty() ? "\"\"" : **text;
  }
  if (auto* const* whole = std::get_if<int64_t*>(&row.field)) return absl::StrCat(**whole);
  if (auto* const* number = std::get_if<double*>(&row.field)) return absl::StrCat(**number);
  return *std::get<bool*>(row.field) ? "true" : "false";
}

Status SetField(const FlagRow& row, const std::string& value) {
  const auto expected = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", row.name, " is '", value, "'; it must be ", what));
  };
  if (auto* const* text = std::get_if<std::string*>(&row.field)) {
    **text = value;
  } else if (auto* const* whole = std::get_if<int64_t*>(&row.field)) {
    int64_t parsed = 0;
    if (!absl::SimpleAtoi(value, &parsed) || static_cast<double>(parsed) < row.least) {
      return expected(absl::StrCat("an integer of at least ", row.least));
    }
    **whole = parsed;
  } else if (auto* const* number = std::get_if<double*>(&row.field)) {
    double parsed = 0;
    if (!absl::SimpleAtod(value, &parsed) || !std::isfinite(parsed) || parsed < row.least) {
      return expected(absl::StrCat("a number of at least ", row.least));
    }
    **number = parsed;
  } else {
    if (value != "true" && value != "false") return expected("true or false");
    *std::get<bool*>(row.field) = value == "true";
  }
  return absl::OkStatus();
}

Status CheckTogether(LoadtestOptions& options) {
  STERNA_RETURN_IF_ERROR(ParseUrl(options.url).status());
  if (options.endpoint != "completions" && options.endpoint != "chat") {
    return absl::InvalidArgumentError(
        absl::StrCat("--endpoint is '", options.endpoint, "'; it must be completions or chat"));
  }
  if (options.requests == 0 && options.duration_seconds == 0) options.requests = 100;
  return absl::OkStatus();
}

}  // namespace

StatusOr<LoadtestOptions> ParseLoadtestOptions(std::span<const std::string> args) {
  LoadtestOptions options;
  const std::vector<FlagRow> table = FlagTable(options);
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (!arg.starts_with("--")) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", arg, "' is not a flag; all arguments are --flags (see --help)"));
    }
    const size_t equals = arg.find('=');
    const std::string name = arg.substr(2, equals == std::string::npos ? equals : equals - 2);
    const FlagRow* row = nullptr;
    for (const FlagRow& candidate : table) {
      if (name == candidate.name) row = &candidate;
    }
    if (row == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("there is no flag --", name, " (see --help)"));
    }
    std::string value;
    if (equals != std::string::npos) {
      value = arg.substr(equals + 1);
    } else if (std::holds_alternative<bool*>(row->field)) {
      value = "true";
    } else if (i + 1 < args.size()) {
      value = args[++i];
    } else {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
    }
    STERNA_RETURN_IF_ERROR(SetField(*row, value));
  }
  STERNA_RETURN_IF_ERROR(CheckTogether(options));
  return options;
}

StatusOr<Endpoint> ParseUrl(const std::string& url) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("--url is '", url, "'; it must be http://host or http://host:port"));
  };
  constexpr char kScheme[] = "http://";
  if (!url.starts_with(kScheme)) return wrong();
  std::string rest = url.substr(sizeof(kScheme) - 1);
  if (rest.ends_with('/')) rest.pop_back();
  Endpoint endpoint{.host = rest, .port = "80"};
  // "[::1]:8000" keeps its colons inside the brackets.
  const size_t bracket = rest.find(']');
  const size_t colon = rest.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon != std::string::npos) {
    endpoint.host = rest.substr(0, colon);
    endpoint.port = rest.substr(colon + 1);
  }
  if (endpoint.host.starts_with('[') && endpoint.host.ends_with(']')) {
    endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
  }
  int port = 0;
  const bool plain = endpoint.host.find_first_of("/?#@ ") == std::string::npos;
  if (endpoint.host.empty() || !plain || !absl::SimpleAtoi(endpoint.port, &port) || port < 1 ||
      port > 65535) {
    return wrong();
  }
  return endpoint;
}

std::string LoadtestHelp() {
  std::string text =
      "sterna-loadtest sends requests to an OpenAI-style server and measures what comes back.\n\n"
      "  sterna-loadtest --concurrency 16 --requests 200          closed loop\n"
      "  sterna-loadtest --rate 5 --duration 60                   open loop, Poisson arrivals\n\n";
  LoadtestOptions defaults;
  for (const FlagRow& row : FlagTable(defaults)) {
    absl::StrAppendFormat(&text, "  --%-16s %s [%s]\n", row.name, row.help, ValueText(row));
  }
  absl::StrAppend(
      &text,
      "\nWithout --requests and --duration 100 requests are sent. Exit status: 0; 1 when"
      " the server\ncannot be used, no request succeeded, or --check-counters found a"
      " difference; 2 for a bad flag.\nOn interrupt requests in flight are dropped and"
      " what was measured is printed.\n");
  return text;
}

}  // namespace sterna

// What the load generator is told: a plain struct whose initialisers are the defaults, and the
// table of flags that fills it and writes the help.
#ifndef STERNA_LOADTEST_OPTIONS_H_
#define STERNA_LOADTEST_OPTIONS_H_

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace sterna {

struct LoadtestOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string model;                     // empty: the first of /v1/models
  std::string endpoint = "completions";  // or "chat"
  int64_t concurrency = 4;               // closed loop: clients, each with one request at a time
  double rate = 0;                       // open loop: arrivals a second; 0: closed loop
  int64_t max_in_flight = 256;           // open loop: requests that may be open at once
  int64_t requests = 0;                  // 0: no limit but the duration
  double duration_seconds = 0;           // 0: no limit but the requests
  int64_t warmup = 0;                    // requests before anything is measured
  int64_t prompt_tokens = 64;            // of made-up prompts
  std::string prompts_file;              // instead: a prompt a line, plain or JSON
  int64_t max_tokens = 64;
  double temperature = 1.0;
  int64_t seed = 0;
  bool ignore_eos = false;
  double timeout_seconds = 600;  // of one request
  double slo_ttft_ms = 0;        // 0: none; both: a request is good within all that are set
  double slo_e2e_ms = 0;
  std::string json;  // file for the report; "-" is standard output
  bool check_counters = false;
  bool help = false;
};

// Where the server is, out of LoadtestOptions::url.
struct Endpoint {
  std::string host;
  std::string port;
};

// InvalidArgument naming the flag and what it takes. `args` are those after the program's name.
StatusOr<LoadtestOptions> ParseLoadtestOptions(std::span<const std::string> args);

// "http://host[:port]"; nothing but plain HTTP is spoken.
StatusOr<Endpoint> ParseUrl(const std::string& url);

// The text of --help.
std::string LoadtestHelp();

}  // namespace sterna

#endif  // STERNA_LOADTEST_OPTIONS_H_

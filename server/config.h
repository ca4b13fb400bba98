// What the commands can be told on the command line: plain structs whose initialisers are the
// defaults, and the table of flags that fills them (server/flags.h). Parsed and validated once;
// immutable from then on.
#ifndef STERNA_SERVER_CONFIG_H_
#define STERNA_SERVER_CONFIG_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/runtime.h"
#include "server/flags.h"

namespace sterna {

// How the output head is kept in memory.
struct HeadConfig {
  std::string dtype = "checkpoint";
  std::string shortlist = "auto";
};

// What computes.
struct DeviceConfig {
  std::string kind = "cpu";
  int64_t index = 0;
  int64_t threads = 0;
  std::string cpu_isa = "auto";
};

// Options of every command that loads a model.
struct RuntimeConfig {
  std::string model;
  std::string i2s_layout = "x86";
  DeviceConfig device;
  int64_t kv_cache_mib = 0;
  double gpu_memory_fraction = 0.9;
  std::string kv_cache_dtype = "f16";
  HeadConfig head;
  int64_t max_context = 0;
  int64_t max_step_tokens = 0;
  double step_seconds = 0.25;
  int64_t max_chunk_tokens = 0;
  int64_t max_sequences = 64;
  bool async_scheduling = true;
  int64_t max_queue = 256;
  std::string energy_source = "auto";
  double energy_watts_per_core = 0.0;
  double energy_idle_watts = 0.0;
  std::string lint_refuses = "errors";
};

// Options of `sterna serve`.
struct ServerConfig : RuntimeConfig {
  std::string served_model_name;
  std::string host = "127.0.0.1";
  int64_t http_port = 8000;
  int64_t grpc_port = 50051;
  int64_t http_threads = 2;
  int64_t worker_threads = 2;
  int64_t max_connections = 1024;
  int64_t max_body_mib = 8;
  double read_timeout_seconds = 30;
  double idle_timeout_seconds = 75;
  double write_timeout_seconds = 30;
  double drain_timeout_seconds = 30;
  std::string cors_allow_origin;
  bool exit_on_load_failure = false;
};

// The rows of the two structs above, bound to `config`, which must outlive them.
std::vector<Flag> RuntimeFlags(RuntimeConfig& config);
std::vector<Flag> ServerFlags(ServerConfig& config);

// Fills in what depends on other fields or on the machine: the model (FindDefaultModel) and
// the served name. InvalidArgument naming the flag.
Status ResolveModel(RuntimeConfig& config);
StatusOr<ServerConfig> ParseServerConfig(std::span<const std::string> args);

// Flags that more commands than those have; their values are one of their choices.
std::vector<Flag> DeviceFlags(DeviceConfig& device);
DeviceOptions DeviceOptionsOf(const DeviceConfig& device);
Flag KvCacheDtypeFlag(std::string& dtype);
Flag AsyncSchedulingFlag(bool& async_scheduling);
KvType KvTypeOf(const std::string& dtype);
Flag I2sLayoutFlag(std::string& layout);
I2sLayout I2sLayoutOf(const std::string& layout);
Flag HeadDtypeFlag(HeadConfig& head);
Flag HeadShortlistFlag(HeadConfig& head);
HeadOptions HeadOptionsOf(const HeadConfig& head);

// In the engine's terms.
RuntimeOptions ToRuntimeOptions(const RuntimeConfig& config);

// The model that ships with the project, by the place of the running program: of the directory it
// lies in and every directory above, the first that holds models/stories/config.json (a source tree
// with its build folders) or share/sterna/models/stories/config.json (an installation). NotFound,
// saying where was looked.
StatusOr<std::string> FindDefaultModel(const std::string& program_path);

// The path of the running program.
std::string ProgramPath();

}  // namespace sterna

#endif  // STERNA_SERVER_CONFIG_H_

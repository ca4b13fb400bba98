#include "server/config.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/tensor.h"
#include "server/load_progress.h"

namespace sterna {

namespace fs = std::filesystem;

std::vector<Flag> DeviceFlags(DeviceConfig& device) {
  return {
      {.name = "device",
       .value = &device.kind,
       .help = "What computes: the CPU, or an NVIDIA GPU of compute capability 8.0 or newer with a "
               "driver for CUDA 13. There is no fallback from one to the other.",
       .choices = {"cpu", "cuda"}},
      {.name = "device-index",
       .value = &device.index,
       .help = "Which GPU, as the driver counts them from 0; one process uses one.",
       .min = 0,
       .max = 1023},
      {.name = "threads",
       .value = &device.threads,
       .help = "CPU threads that compute; 0: one per physical core this process may use.",
       .min = 0,
       .max = 1024},
      {.name = "cpu-isa",
       .value = &device.cpu_isa,
       .help = "Instruction set of the CPU kernels; auto: the best this machine has.",
       .choices = {"auto", "scalar", "avx2", "avx_vnni", "avx512_vnni", "amx"}},
  };
}

DeviceOptions DeviceOptionsOf(const DeviceConfig& device) {
  return {.kind = device.kind == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu,
          .cpu = {.num_threads = static_cast<int>(device.threads), .isa = device.cpu_isa},
          .cuda = {.device = static_cast<int>(device.index)}};
}

Flag KvCacheDtypeFlag(std::string& dtype) {
  std::vector<std::string> choices;
  for (const KvType type : kKvTypes) choices.emplace_back(KvTypeName(type));
  return {.name = "kv-cache-dtype",
          .value = &dtype,
          .help =
              "How keys and values are stored; f32 (CPU only) takes twice the memory of f16, int8 "
              "(with a scale for each token and head) about half. With --device cuda also bf16, of "
              "f16's size and f32's range, and fp8 (e4m3), of int8's size: both round more.",
          .choices = std::move(choices)};
}

Flag AsyncSchedulingFlag(bool& async_scheduling) {
  return {.name = "async-scheduling",
          .value = &async_scheduling,
          .help = "On a GPU: plan a step while the one before it runs. The tokens are the same."};
}

KvType KvTypeOf(const std::string& dtype) {
  const auto* type = std::ranges::find(kKvTypes, dtype, KvTypeName);
  STERNA_CHECK(type != std::end(kKvTypes));  // the flag's choices
  return *type;
}

Flag HeadDtypeFlag(HeadConfig& head) {
  return {.name = "head-dtype",
          .value = &head.dtype,
          .help =
              "How the output head is kept; checkpoint: exactly as it is stored there, int8: "
              "rounded, with a scale per row, which halves the bytes of a bf16 head.",
          .choices = {"checkpoint", "int8"}};
}

Flag HeadShortlistFlag(HeadConfig& head) {
  return {.name = "head-shortlist",
          .value = &head.shortlist,
          .help =
              "Keep an int8 copy beside the head, half a bf16 head's size, by which requests that "
              "draw from few tokens (greedy, top_k, min_p; no logprobs) find the rows they read "
              "exactly: the same tokens for half the memory traffic (three eighths for up to four "
              "greedy requests), if all requests of a step are such. auto: for heads of 64 MiB and "
              "more where the CPU gains by it (VNNI; AVX2 for one request at a time).",
          .choices = {"auto", "on", "off"}};
}

HeadOptions HeadOptionsOf(const HeadConfig& head) {
  return {.type = head.dtype == "int8" ? HeadType::kInt8 : HeadType::kAsStored,
          .shortlist = head.shortlist == "on"     ? ShortlistUse::kOn
                       : head.shortlist == "auto" ? ShortlistUse::kAuto
                                                  : ShortlistUse::kOff};
}

std::vector<Flag> RuntimeFlags(RuntimeConfig& c) {
  std::vector<Flag> flags = {
      {.name = "model",
       .value = &c.model,
       .help = "The checkpoint: a directory in Hugging Face's layout, or a GGUF file, the first of "
               "several. Without it, the model that ships with Sterna."},
      I2sLayoutFlag(c.i2s_layout),
  };
  const std::vector<Flag> device = DeviceFlags(c.device);
  flags.insert(flags.end(), device.begin(), device.end());
  const std::vector<Flag> others = {
      {.name = "kv-cache-mib",
       .value = &c.kv_cache_mib,
       .help =
           "Memory for keys and values of all running requests, in MiB; 0: 1024 on the CPU, on a "
           "GPU what --gpu-memory-fraction leaves. What could never be used is not taken.",
       .min = 0,
       .max = 1 << 24},
      {.name = "gpu-memory-fraction",
       .value = &c.gpu_memory_fraction,
       .help = "With --device cuda: how much of the GPU's memory may be used, others' use of it "
               "included; what weights and work buffers leave of it is for keys and values.",
       .min = 0.01,
       .max = 1},
      KvCacheDtypeFlag(c.kv_cache_dtype),
      HeadDtypeFlag(c.head),
      HeadShortlistFlag(c.head),
      {.name = "max-context",
       .value = &c.max_context,
       .help = "Most tokens of prompt and output of one request; 0: the model's own limit.",
       .min = 0,
       .max = 1 << 24},
      {.name = "max-step-tokens",
       .value = &c.max_step_tokens,
       .help =
           "Token budget of one step, prompts and outputs of all requests together; 0: one for "
           "each of --max-sequences and the prompt tokens that take --step-seconds, measured at "
           "start.",
       .min = 0,
       .max = 1 << 16},
      {.name = "step-seconds",
       .value = &c.step_seconds,
       .help = "With --max-step-tokens 0: about how long the prompts of a step may take beside "
               "requests that decode.",
       .min = 0.001,
       .max = 60},
      {.name = "max-chunk-tokens",
       .value = &c.max_chunk_tokens,
       .help = "Most prompt tokens of one request in one step; 0: as many as the step has.",
       .min = 0,
       .max = 1 << 16},
      {.name = "max-sequences",
       .value = &c.max_sequences,
       .help = "Requests that run at once; more wait.",
       .min = 1,
       .max = 1 << 14},
      AsyncSchedulingFlag(c.async_scheduling),
      {.name = "max-queue",
       .value = &c.max_queue,
       .help = "Requests that wait at once; more are refused with 429 or RESOURCE_EXHAUSTED.",
       .min = 1,
       .max = 1 << 20},
      {.name = "lint-refuses",
       .value = &c.lint_refuses,
       .help = "Which findings of the checks on a loaded checkpoint (docs/formats.md) refuse it: "
               "errors, which no trained model has, or warnings as well. Others are logged.",
       .choices = {"nothing", "errors", "warnings"}},
      {.name = "energy-source",
       .value = &c.energy_source,
       .help = "Where joules come from; auto: a counter where there is one, else the model of "
               "docs/energy.md.",
       .choices = {"auto", "nvml", "rapl", "modelled"}},
      {.name = "energy-watts-per-core",
       .value = &c.energy_watts_per_core,
       .help = "For modelled energy: watts of a fully used core; 0: the documented default.",
       .min = 0,
       .max = 1000},
      {.name = "energy-idle-watts",
       .value = &c.energy_idle_watts,
       .help = "For modelled energy: watts of this process's share of the machine at rest; 0: the "
               "documented default.",
       .min = 0,
       .max = 10000},
  };
  flags.insert(flags.end(), others.begin(), others.end());
  return flags;
}

std::vector<Flag> ServerFlags(ServerConfig& c) {
  std::vector<Flag> flags = RuntimeFlags(c);
  const std::vector<Flag> own = {
      {.name = "served-model-name",
       .value = &c.served_model_name,
       .help = "The name clients use. Without it, the last part of the model directory."},
      {.name = "host",
       .value = &c.host,
       .help = "Address to listen on, IPv4 or IPv6; 0.0.0.0 or :: for all."},
      {.name = "http-port",
       .value = &c.http_port,
       .help = "Port of the HTTP API; 0: a free one, which is printed.",
       .min = 0,
       .max = 65535},
      {.name = "grpc-port",
       .value = &c.grpc_port,
       .help = "Port of the gRPC API; 0: a free one, which is printed.",
       .min = 0,
       .max = 65535},
      {.name = "http-threads",
       .value = &c.http_threads,
       .help = "Threads that read and write HTTP connections.",
       .min = 1,
       .max = 256},
      {.name = "worker-threads",
       .value = &c.worker_threads,
       .help = "Threads that parse, tokenise and render templates.",
       .min = 1,
       .max = 256},
      {.name = "max-connections",
       .value = &c.max_connections,
       .help = "HTTP connections at once; more get 503 and are closed.",
       .min = 1,
       .max = 1 << 20},
      {.name = "max-body-mib",
       .value = &c.max_body_mib,
       .help = "Largest HTTP body or gRPC message, in MiB.",
       .min = 1,
       .max = 1024},
      {.name = "read-timeout-seconds",
       .value = &c.read_timeout_seconds,
       .help = "How long a client may take to send the head of a request, and again for its body.",
       .min = 0.1,
       .max = 3600},
      {.name = "idle-timeout-seconds",
       .value = &c.idle_timeout_seconds,
       .help = "How long a connection may stay open without a request.",
       .min = 0.1,
       .max = 86400},
      {.name = "write-timeout-seconds",
       .value = &c.write_timeout_seconds,
       .help = "How long a client may leave a piece of a response unread before its request is "
               "cancelled.",
       .min = 0.1,
       .max = 3600},
      {.name = "drain-timeout-seconds",
       .value = &c.drain_timeout_seconds,
       .help = "After SIGTERM or SIGINT: how long running requests may go on before they are "
               "cancelled.",
       .min = 0,
       .max = 86400},
      {.name = "cors-allow-origin",
       .value = &c.cors_allow_origin,
       .help = "Origins whose web pages may call the HTTP API: '*', or a comma-separated list such "
               "as https://example.org. Empty: none."},
      {.name = "exit-on-load-failure",
       .value = &c.exit_on_load_failure,
       .help = "Exit at once, with code 1, when the model cannot be loaded. Without it the server "
               "stays up, alive but not ready, and /health/ready says why, until it is told to "
               "stop; the code is 1 all the same."},
  };
  flags.insert(flags.end(), own.begin(), own.end());
  return flags;
}

std::string ProgramPath() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).string();
}

StatusOr<std::string> FindDefaultModel(const std::string& program_path) {
  std::error_code error;
  for (fs::path dir = fs::path(program_path).parent_path(); !dir.empty(); dir = dir.parent_path()) {
    for (const char* place : {"models/stories", "share/sterna/models/stories"}) {
      if (fs::exists(dir / place / "config.json", error)) return (dir / place).string();
    }
    if (dir == dir.root_path()) break;
  }
  return absl::NotFoundError(
      absl::StrCat("no models/stories or share/sterna/models/stories in any directory above ",
                   program_path, "; name a checkpoint directory with --model"));
}

Status ResolveModel(RuntimeConfig& config) {
  if (config.model.empty()) {
    STERNA_ASSIGN_OR_RETURN(config.model, FindDefaultModel(ProgramPath()));
  }
  std::error_code error;
  if (!fs::is_directory(config.model, error) && !fs::is_regular_file(config.model, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model is '", config.model,
                     "', which is neither a directory nor a file; it must be a directory that "
                     "holds config.json, a tokenizer and safetensors files, or a GGUF file"));
  }
  return absl::OkStatus();
}

StatusOr<ServerConfig> ParseServerConfig(std::span<const std::string> args) {
  ServerConfig config;
  STERNA_RETURN_IF_ERROR(ParseFlags(args, ServerFlags(config)));
  if (config.http_port != 0 && config.http_port == config.grpc_port) {
    return absl::InvalidArgumentError(absl::StrCat("--http-port and --grpc-port are both ",
                                                   config.http_port, "; they must differ"));
  }
  if (config.host.empty())
    return absl::InvalidArgumentError("--host is empty; it must be an address");
  STERNA_RETURN_IF_ERROR(ResolveModel(config));
  if (config.served_model_name.empty()) {
    const fs::path path = fs::absolute(config.model).lexically_normal();
    config.served_model_name = path.extension() == ".gguf" ? path.stem().string()
                               : path.has_filename()       ? path.filename().string()
                                                           : path.parent_path().filename().string();
  }
  return config;
}

Flag I2sLayoutFlag(std::string& layout) {
  return {.name = "i2s-layout",
          .value = &layout,
          .help =
              "Which build of BitNet wrote a GGUF file with I2_S weights, which the file does not "
              "tell: one for x86 packs blocks of 128, one for ARM blocks of 64.",
          .choices = {"x86", "arm"}};
}

I2sLayout I2sLayoutOf(const std::string& layout) {
  return layout == "arm" ? I2sLayout::kArm : I2sLayout::kX86;
}

// More than any step has.
constexpr int64_t kAnyTokens = int64_t{1} << 32;

RuntimeOptions ToRuntimeOptions(const RuntimeConfig& c) {
  return {
      .model = c.model,
      .i2s_layout = I2sLayoutOf(c.i2s_layout),
      .head = HeadOptionsOf(c.head),
      .device = DeviceOptionsOf(c.device),
      .energy = {.source = c.energy_source,
                 .watts_per_core = c.energy_watts_per_core,
                 .idle_watts = c.energy_idle_watts},
      .engine = {.max_step_tokens = c.max_step_tokens,
                 .max_chunk_tokens = c.max_chunk_tokens > 0 ? c.max_chunk_tokens : kAnyTokens,
                 .max_sequences = c.max_sequences,
                 .max_queue = c.max_queue,
                 .num_kv_blocks = 0,
                 .kv_type = KvTypeOf(c.kv_cache_dtype),
                 .max_context_tokens = c.max_context,
                 .async_scheduling = c.async_scheduling},
      .kv_cache_mib = c.kv_cache_mib,
      .device_memory_fraction = c.gpu_memory_fraction,
      .step_seconds = c.step_seconds,
      .lint_refusal = c.lint_refuses == "nothing"    ? LintRefusal::kNothing
                      : c.lint_refuses == "warnings" ? LintRefusal::kWarnings
                                                     : LintRefusal::kErrors,
      .progress = TerminalProgress(),
  };
}

}  // namespace sterna

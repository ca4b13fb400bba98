// `sterna inspect`: loads a checkpoint as `serve` would and tells what it is, or what is wrong with
// it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/cache/block_table.h"
#include "engine/cache/kv_cache.h"
#include "engine/checkpoint_lint.h"
#include "engine/model/model_files.h"
#include "server/command.h"
#include "server/config.h"
#include "server/validation.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kTemplateBytesShown = 60;

struct InspectConfig : RuntimeConfig {
  bool json = false;
  bool lint = false;
  int64_t context = 0;
  int64_t batch = 1;
};

std::vector<Flag> InspectFlags(InspectConfig& c) {
  std::vector<Flag> flags = RuntimeFlags(c);
  const std::vector<Flag> own = {
      {.name = "json", .value = &c.json, .help = "Print JSON instead of text."},
      {.name = "lint",
       .value = &c.lint,
       .help =
           "Print what is wrong with the checkpoint instead, whether it loads or not; exit with "
           "1 if there is anything that --lint-refuses is about."},
      {.name = "context",
       .value = &c.context,
       .help = "Tokens of a request, for the memory that keys and values take; 0: the most it can "
               "have.",
       .min = 0,
       .max = 1 << 24},
      {.name = "batch",
       .value = &c.batch,
       .help = "Requests at once, for the same.",
       .min = 1,
       .max = 1 << 20},
  };
  flags.insert(flags.end(), own.begin(), own.end());
  return flags;
}

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

// The files that hold the weights.
Json DescribeFiles(const std::string& model) {
  namespace fs = std::filesystem;
  std::vector<std::string> names;
  const StatusOr<ModelFiles> files = ModelFiles::Open(model);
  const GgufCheckpoint* gguf = files.ok() ? files->gguf() : nullptr;
  if (gguf != nullptr) {
    for (const GgufFile& file : gguf->files()) names.push_back(file.path());
  } else {
    std::error_code error;
    for (fs::directory_iterator it(model, error), end; !error && it != end; it.increment(error)) {
      if (it->path().extension() == ".safetensors") names.push_back(it->path().string());
    }
    std::ranges::sort(names);
  }
  Json described = Json::array();
  for (const std::string& name : names) {
    std::error_code error;
    described.push_back({{"name", fs::path(name).filename().string()},
                         {"bytes", static_cast<int64_t>(fs::file_size(name, error))}});
  }
  return {{"container", gguf != nullptr ? "GGUF" : "safetensors"}, {"files", described}};
}

Json DescribeTensors(const std::vector<TensorClass>& classes) {
  Json described = Json::array();
  TensorClass all{.name = "all"};
  const auto add = [&](const TensorClass& one) {
    described.push_back({{"class", one.name},
                         {"parameters", one.parameters},
                         {"bytes", one.bytes},
                         {"bits_per_weight", std::round(one.bits_per_weight() * 1000) / 1000}});
  };
  for (const TensorClass& one : classes) {
    add(one);
    all.parameters += one.parameters;
    all.bytes += one.bytes;
  }
  add(all);
  return described;
}

// What weights, work buffers (of --max-step-tokens and --max-sequences), keys and values take for
// so many requests of so many tokens.
Json MemoryAt(const InspectConfig& config, const Runtime& runtime) {
  const ModelInfo& info = runtime.info();
  const int64_t context = config.context > 0 ? config.context : info.max_context_tokens;
  const int64_t weights = info.ternary_bytes + info.dense_bytes;
  const int64_t kv =
      config.batch * BlockTable::BlocksFor(context) *
      KvCache<float>::BytesPerBlock(runtime.config(), KvTypeOf(config.kv_cache_dtype));
  return {{"context_tokens", context}, {"batch", config.batch},
          {"weights_bytes", weights},  {"work_bytes", info.work_bytes},
          {"kv_cache_bytes", kv},      {"total_bytes", weights + info.work_bytes + kv}};
}

Json DescribeTokenizer(const Runtime& runtime) {
  const Tokenizer& tokenizer = runtime.tokenizer();
  Json end_tokens = Json::array();
  for (const int32_t id : runtime.config().eos_token_ids) {
    end_tokens.push_back({{"id", id}, {"token", tokenizer.IdToToken(id)}});
  }
  const std::optional<int32_t> bos = tokenizer.bos_id();
  return {{"kind", std::string(tokenizer.kind())},
          {"vocab_size", tokenizer.vocab_size()},
          {"bos_id", OrNull(bos)},
          {"bos_token", bos ? Json(tokenizer.IdToToken(*bos)) : Json(nullptr)},
          {"end_tokens", std::move(end_tokens)}};
}

Json DescribeTemplate(const ChatTemplate* chat_template) {
  if (chat_template == nullptr) return nullptr;
  const std::string& source = chat_template->source();
  return {{"bytes", source.size()}, {"begins_with", source.substr(0, kTemplateBytesShown)}};
}

Json DescribeProducts(const ModelInfo& info) {
  Json products = Json::object();
  for (const ModelInfo::Product& product : info.products) {
    Json& paths = products[product.name];
    for (const ProductPath& path : product.paths) {
      paths[absl::StrCat("from_", path.from_tokens, "_tokens")] = path.name;
    }
  }
  return products;
}

Json FindingsAsJson(const std::vector<LintFinding>& findings) {
  Json described = Json::array();
  for (const LintFinding& finding : findings) {
    const bool is_error = finding.severity == LintFinding::Severity::kError;
    described.push_back({{"severity", is_error ? "error" : "warning"},
                         {"tensor", finding.tensor},
                         {"message", finding.message}});
  }
  return described;
}

Json Describe(const InspectConfig& config, const Runtime& runtime,
              const GenerationDefaults& defaults) {
  const ModelConfig& c = runtime.config();
  const ModelInfo& info = runtime.info();
  Json tuning = Json::object();
  for (const Tuning& t : info.tuning) tuning[t.name] = t.value;
  return {
      {"model", config.model},
      {"family", info.family},
      {"architecture", info.architecture},
      {"parameters", info.parameters},
      {"device", info.device},
      {"load_milliseconds", info.load_ns / 1'000'000},
      {"fingerprint", absl::StrFormat("%016x", info.fingerprint.value_or(0))},
      {"weights", DescribeFiles(config.model)},
      {"shape",
       {{"layers", c.num_layers},
        {"hidden_size", c.hidden_size},
        {"ffn_size", c.ffn_size},
        {"heads", c.num_heads},
        {"kv_heads", c.num_kv_heads},
        {"head_dim", c.head_dim},
        {"vocab_size", c.vocab_size},
        {"tied_embeddings", c.tie_embeddings},
        {"max_positions", c.max_positions},
        {"rope_theta", c.rope.theta}}},
      {"tensors", DescribeTensors(info.tensor_classes)},
      {"memory_at", MemoryAt(config, runtime)},
      {"memory",
       {{"ternary_bytes", info.ternary_bytes},
        {"dense_bytes", info.dense_bytes},
        {"head_dtype", info.head_dtype},
        {"head_bytes", info.head_bytes},
        {"head_shortlist_bytes", info.head_shortlist_bytes},
        {"kv_cache_dtype", config.kv_cache_dtype},
        {"kv_cache_bytes", info.kv_cache_bytes},
        {"kv_blocks", info.num_kv_blocks},
        {"max_context_tokens", info.max_context_tokens},
        {"peak_resident_bytes", info.peak_resident_bytes}}},
      {"products", DescribeProducts(info)},
      {"step", {{"max_tokens", info.max_step_tokens}, {"tuning", std::move(tuning)}}},
      {"energy",
       {{"method", runtime.energy_meter().method()}, {"scope", runtime.energy_meter().scope()}}},
      {"tokenizer", DescribeTokenizer(runtime)},
      {"chat_template", DescribeTemplate(runtime.chat_template())},
      {"generation_defaults",
       {{"temperature", OrNull(defaults.temperature)},
        {"top_k", OrNull(defaults.top_k)},
        {"top_p", OrNull(defaults.top_p)},
        {"min_p", OrNull(defaults.min_p)},
        {"repetition_penalty", OrNull(defaults.repetition_penalty)}}},
      {"findings", FindingsAsJson(info.findings)},
  };
}

std::string ValueAsText(const std::string& name, const Json& value) {
  if (value.is_null()) return "none";
  if (value.is_string()) {
    const std::string quoted = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    const std::string& plain = value.get_ref<const std::string&>();
    // What cannot stand in a line of text stays escaped.
    return quoted.size() == plain.size() + 2 ? plain : quoted;
  }
  constexpr double kMib = 1 << 20;
  if (name.ends_with("bytes") && value.is_number_integer() && value.get<double>() >= kMib) {
    return absl::StrFormat("%d (%.1f MiB)", value.get<int64_t>(), value.get<double>() / kMib);
  }
  return value.is_number_float() ? absl::StrFormat("%.6g", value.get<double>()) : value.dump();
}

// Objects of the same fields, as a table with a column for each.
void AppendTable(const Json& rows, const std::string& indent, std::string* out) {
  std::vector<std::vector<std::string>> cells(1);
  for (const auto& [name, value] : rows[0].items()) cells[0].push_back(name);
  for (const Json& row : rows) {
    cells.emplace_back();
    for (const auto& [name, value] : row.items()) cells.back().push_back(ValueAsText(name, value));
  }
  for (const std::vector<std::string>& row : cells) {
    absl::StrAppend(out, indent);
    for (size_t column = 0; column < row.size(); ++column) {
      size_t width = 0;
      for (const std::vector<std::string>& other : cells) {
        width = std::max(width, other[column].size());
      }
      const bool is_last = column + 1 == row.size();
      absl::StrAppend(out, row[column],
                      std::string(is_last ? 0 : width - row[column].size() + 2, ' '));
    }
    absl::StrAppend(out, "\n");
  }
}

// A line a field, values aligned; nested objects and lists indented below their names.
void AppendText(const Json& object, const std::string& indent, std::string* out) {
  size_t width = 0;
  for (const auto& [name, value] : object.items()) {
    if (!value.is_structured()) width = std::max(width, name.size());
  }
  for (const auto& [name, value] : object.items()) {
    if (!value.is_structured()) {
      absl::StrAppend(out, indent, name, std::string(width - name.size() + 2, ' '),
                      ValueAsText(name, value), "\n");
      continue;
    }
    if (indent.empty()) absl::StrAppend(out, "\n");
    absl::StrAppend(out, indent, name, "\n");
    if (value.empty()) {
      absl::StrAppend(out, indent, "  none\n");
    } else if (value.is_object()) {
      AppendText(value, indent + "  ", out);
    } else {
      AppendTable(value, indent + "  ", out);
    }
  }
}

void Print(const std::string& text) { std::fputs(text.c_str(), stdout); }

std::string JsonText(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int PrintFindings(const InspectConfig& config) {
  const RuntimeOptions options = ToRuntimeOptions(config);
  const std::vector<LintFinding> findings =
      LintModel(config.model, {.head = options.head, .i2s_layout = options.i2s_layout});
  if (config.json) {
    Print(JsonText({{"model", config.model}, {"findings", FindingsAsJson(findings)}}));
  } else {
    for (const LintFinding& finding : findings) Print(LintText(finding) + "\n");
    if (findings.empty()) Print("no findings\n");
  }
  return RefuseFindings(findings, options.lint_refusal).ok() ? kExitOk : kExitFailure;
}

int RunInspect(std::span<const std::string> args) {
  InspectConfig config;
  Status status = ParseFlags(args, InspectFlags(config));
  if (status.ok()) status = ResolveModel(config);
  if (!status.ok()) return UsageError(status);
  if (config.lint) return PrintFindings(config);
  const StatusOr<GenerationDefaults> defaults = ReadGenerationDefaults(config.model);
  if (!defaults.ok()) return Failure(defaults.status());
  RuntimeOptions options = ToRuntimeOptions(config);
  options.fingerprint = true;
  const StatusOr<std::unique_ptr<Runtime>> runtime =
      Runtime::Create(options, nullptr, &Clock::Steady());
  if (!runtime.ok()) return Failure(runtime.status());
  const int64_t most = (*runtime)->info().max_context_tokens;
  if (config.context > most) {
    return UsageError(absl::InvalidArgumentError(absl::StrCat(
        "--context is ", config.context, ", but a request has at most ", most, " tokens")));
  }
  const Json description = Describe(config, **runtime, *defaults);
  std::string text;
  AppendText(description, "", &text);
  Print(config.json ? JsonText(description) : text);
  return kExitOk;
}

std::string DescribeInspectFlags(bool markdown) {
  InspectConfig config;
  return DescribeFlags(InspectFlags(config), markdown);
}

}  // namespace

Command InspectCommand() {
  return {.name = "inspect",
          .summary = "Loads a model and tells its family, shape, memory, device and tokenizer.",
          .run = &RunInspect,
          .describe_flags = &DescribeInspectFlags};
}

}  // namespace sterna

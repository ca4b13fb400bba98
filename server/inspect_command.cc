// `sterna inspect`: loads a checkpoint as `serve` would and tells what it is.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/command.h"
#include "server/config.h"
#include "server/validation.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

struct InspectConfig : RuntimeConfig {
  bool json = false;
};

std::vector<Flag> InspectFlags(InspectConfig& c) {
  std::vector<Flag> flags = RuntimeFlags(c);
  flags.push_back({.name = "json", .value = &c.json, .help = "Print JSON instead of text."});
  return flags;
}

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

Json Describe(const RuntimeConfig& config, const Runtime& runtime,
              const GenerationDefaults& defaults) {
  const ModelConfig& c = runtime.config();
  const ModelInfo& info = runtime.info();
  const Tokenizer& tokenizer = runtime.tokenizer();
  Json eos = Json::array();
  for (const int32_t id : c.eos_token_ids) {
    eos.push_back({{"id", id}, {"token", tokenizer.IdToToken(id)}});
  }
  Json tuning = Json::object();
  for (const Tuning& t : info.tuning) tuning[t.name] = t.value;
  Json products = Json::object();
  for (const ModelInfo::Product& product : info.products) {
    Json& paths = products[product.name];
    for (const ProductPath& path : product.paths) {
      paths[absl::StrCat("from_", path.from_tokens, "_tokens")] = path.name;
    }
  }
  return {
      {"model", config.model},
      {"family", info.family},
      {"architecture", info.architecture},
      {"parameters", info.parameters},
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
      {"device", info.device},
      {"products", std::move(products)},
      {"step", {{"max_tokens", info.max_step_tokens}, {"tuning", std::move(tuning)}}},
      {"energy",
       {{"method", runtime.energy_meter().method()}, {"scope", runtime.energy_meter().scope()}}},
      {"tokenizer",
       {{"vocab_size", tokenizer.vocab_size()},
        {"bos_id", OrNull(tokenizer.bos_id())},
        {"end_tokens", std::move(eos)}}},
      {"chat_template", runtime.chat_template() != nullptr},
      {"generation_defaults",
       {{"temperature", OrNull(defaults.temperature)},
        {"top_k", OrNull(defaults.top_k)},
        {"top_p", OrNull(defaults.top_p)},
        {"min_p", OrNull(defaults.min_p)},
        {"repetition_penalty", OrNull(defaults.repetition_penalty)}}},
      {"load_milliseconds", info.load_ns / 1'000'000},
  };
}

// "name: value", nested objects indented.
void AppendText(const Json& object, const std::string& indent, std::string* out) {
  for (const auto& [name, value] : object.items()) {
    if (value.is_object()) {
      absl::StrAppend(out, indent, name, ":\n");
      AppendText(value, indent + "  ", out);
      continue;
    }
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    absl::StrAppend(out, indent, name, ": ", value.is_null() ? "none" : text, "\n");
  }
}

int RunInspect(std::span<const std::string> args) {
  InspectConfig config;
  Status status = ParseFlags(args, InspectFlags(config));
  if (status.ok()) status = ResolveModel(config);
  if (!status.ok()) return UsageError(status);
  const StatusOr<GenerationDefaults> defaults = ReadGenerationDefaults(config.model);
  if (!defaults.ok()) return Failure(defaults.status());
  const StatusOr<std::unique_ptr<Runtime>> runtime =
      Runtime::Create(ToRuntimeOptions(config), nullptr, &Clock::Steady());
  if (!runtime.ok()) return Failure(runtime.status());
  const Json description = Describe(config, **runtime, *defaults);
  std::string text;
  if (config.json) {
    text = description.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  } else {
    AppendText(description, "", &text);
  }
  std::fputs(text.c_str(), stdout);
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

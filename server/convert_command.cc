// `sterna convert`: writes a model anew, in the Hugging Face packed form or as GGUF, or rounds one
// in full precision to ternary weights.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/model/convert.h"
#include "engine/model/model_files.h"
#include "engine/text/gguf_tokenizer_export.h"
#include "server/command.h"
#include "server/config.h"

namespace sterna {
namespace {

struct ConvertConfig {
  std::string model;
  std::string output;
  std::string format = "gguf-tq2_0";
  std::string ternarize = "no";
  std::string tokenizer;
  std::string i2s_layout = "x86";
};

struct UnitName {
  const char* name;  // as the flag has it
  TernarizeUnit unit;
};
constexpr UnitName kTernarizeUnits[] = {
    {"tensor", {ScaleGranularity::kTensor, 0}},
    {"row", {ScaleGranularity::kRow, 0}},
    {"group-64", {ScaleGranularity::kGroup, 64}},
    {"group-128", {ScaleGranularity::kGroup, 128}},
};

std::vector<Flag> ConvertFlags(ConvertConfig& c) {
  std::vector<std::string> formats;
  for (const FormatName& format : kConvertFormats) formats.emplace_back(format.name);
  std::vector<std::string> units = {"no"};
  for (const UnitName& unit : kTernarizeUnits) units.emplace_back(unit.name);
  return {
      {.name = "model",
       .value = &c.model,
       .help = "What to convert: a Hugging Face directory or a GGUF file."},
      {.name = "output",
       .value = &c.output,
       .help = "What to write: a file for the gguf formats, a directory for the others. Nothing "
               "that is there is overwritten."},
      {.name = "format",
       .value = &c.format,
       .help = "hf-packed: a directory with four ternary weights a byte and a scale per tensor; "
               "hf-unpacked: one with F16 values -s, 0 and s; gguf-...: a GGUF file with ternary "
               "tensors of that type, of q2_0 in groups of so many weights.",
       .choices = formats},
      {.name = "ternarize",
       .value = &c.ternarize,
       .help = "For a model in full precision: round the weights of its layers to -1, 0 and +1 "
               "times their mean magnitude in each tensor, row or group. Without fine-tuning this "
               "damages the model.",
       .choices = units},
      {.name = "tokenizer",
       .value = &c.tokenizer,
       .help = "Hugging Face directory with the tokenizer, if it is not to be the model's own; "
               "needed from GGUF to a directory."},
      I2sLayoutFlag(c.i2s_layout),
  };
}

StatusOr<ConvertOptions> ToOptions(const ConvertConfig& config) {
  ConvertOptions options;
  for (const auto& [flag, value] : {std::pair("model", config.model), {"output", config.output}}) {
    if (value.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, " is missing"));
    }
  }
  options.model = config.model;
  options.output = config.output;
  options.i2s_layout = I2sLayoutOf(config.i2s_layout);
  for (const FormatName& format : kConvertFormats) {
    if (format.name == config.format) options.format = format.format;
  }
  for (const UnitName& unit : kTernarizeUnits) {
    if (unit.name == config.ternarize) options.ternarize = unit.unit;
  }
  if (options.ternarize.has_value() && options.format == ConvertFormat::kHfPacked &&
      options.ternarize->granularity != ScaleGranularity::kTensor) {
    return absl::InvalidArgumentError(
        absl::StrCat("--ternarize ", config.ternarize, " needs room for more scales than one per ",
                     "tensor, which is all that --format hf-packed has: use hf-unpacked, "
                     "gguf-q2_0-64 or gguf-q2_0-128"));
  }
  return options;
}

// The tokenizer, from where the flags say it comes.
Status FindTokenizer(const ConvertConfig& config, ConvertOptions& options) {
  STERNA_ASSIGN_OR_RETURN(const ModelFiles files, ModelFiles::Open(options.model));
  const GgufCheckpoint* gguf = files.gguf();
  options.tokenizer_dir = config.tokenizer;
  if (config.tokenizer.empty() && gguf == nullptr) options.tokenizer_dir = files.path();
  if (!IsGguf(options.format)) {
    if (!options.tokenizer_dir.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        options.model, " has its tokenizer as GGUF metadata, which are not turned into Hugging ",
        "Face files: give --tokenizer with a directory that has them"));
  }
  if (options.tokenizer_dir.empty()) {
    STERNA_ASSIGN_OR_RETURN(options.tokenizer, CopyOf(gguf->metadata(), "tokenizer."));
    return absl::OkStatus();
  }
  STERNA_ASSIGN_OR_RETURN(const ModelConfig model, ReadModelConfig(files));
  STERNA_ASSIGN_OR_RETURN(
      options.tokenizer,
      GgufTokenizerMetadata(options.tokenizer_dir, model.vocab_size, model.eos_token_ids));
  return absl::OkStatus();
}

void PrintReport(const ConvertOptions& options, const ConvertReport& report) {
  TernarizeError all;
  for (const auto& [name, error] : report.ternarized) {
    std::printf("%-40s relative squared error %.4f\n", name.c_str(), error.relative());
    all.Add(error);
  }
  if (!report.ternarized.empty()) {
    std::printf("%-40s relative squared error %.4f\n", "all of them", all.relative());
  }
  std::printf("wrote %s: %.1f MB, %lld ternary tensors as %s\n", options.output.c_str(),
              static_cast<double>(report.bytes) / 1e6,
              static_cast<long long>(report.ternary_tensors), NameOf(options.format));
  if (!report.ternarized.empty()) return;
  if (report.largest_scale_change > 0) {
    std::printf(
        "all weights are the same; scales are rounded as the format has them, by %.2g %% "
        "at most (%s)\n",
        100 * report.largest_scale_change, report.scale_change_tensor.c_str());
  } else {
    std::printf("all weights and scales are the same\n");
  }
}

int RunConvert(std::span<const std::string> args) {
  ConvertConfig config;
  const Status parsed = ParseFlags(args, ConvertFlags(config));
  if (!parsed.ok()) return UsageError(parsed);
  StatusOr<ConvertOptions> options = ToOptions(config);
  if (!options.ok()) return UsageError(options.status());
  const Status tokenizer = FindTokenizer(config, *options);
  if (!tokenizer.ok()) return Failure(tokenizer);
  const StatusOr<ConvertReport> report = ConvertModel(*options);
  if (!report.ok()) return Failure(report.status());
  PrintReport(*options, *report);
  if (options->ternarize.has_value()) {
    std::fprintf(stderr, "sterna: warning: %s\n", TernarizeWarning(*options->ternarize).c_str());
  }
  return kExitOk;
}

std::string DescribeConvertFlags(bool markdown) {
  ConvertConfig config;
  return DescribeFlags(ConvertFlags(config), markdown);
}

}  // namespace

Command ConvertCommand() {
  return {.name = "convert",
          .summary = "Writes a model in another form: Hugging Face packed or GGUF.",
          .run = &RunConvert,
          .describe_flags = &DescribeConvertFlags};
}

}  // namespace sterna

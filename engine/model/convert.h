// `sterna convert`: writes a model anew, as a Hugging Face directory or a GGUF file, from whatever
// form the loader reads; tensor by tensor, so that memory holds about one of them at a time.
//
// Ternary weights are carried over as they are: the same codes, and the same scales where the form
// holds them. GGUF and unpacked weights have scales in half precision; others are rounded to it,
// and the report says by how much at most. What a form cannot hold, such as a scale per row where
// there is room for one per tensor, is refused with the tensor and the forms that can; so is,
// before anything is written, what LoadCheckpoint would refuse for contradicting its config. Other
// matrices keep the narrowest type, of BF16, F16 and F32, that holds all their values; so do
// vectors in safetensors files, while GGUF has them in F32.
//
// Thread contract: for one thread.
#ifndef STERNA_ENGINE_MODEL_CONVERT_H_
#define STERNA_ENGINE_MODEL_CONVERT_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/model/gguf_metadata.h"
#include "engine/model/gguf_ternary.h"
#include "engine/model/gguf_value.h"
#include "engine/model/ternarize.h"

namespace sterna {

enum class ConvertFormat {
  kHfPacked,    // a directory: U8, four rows a byte, and weight_scale (family A or B)
  kHfUnpacked,  // a directory: F16 values -s, 0 and s (family D or E)
  kTq1_0,       // a GGUF file with this type of ternary tensors, and so on
  kTq2_0,
  kQ2_0Of64,   // in groups of 64, as the main line of llama.cpp has it
  kQ2_0Of128,  // as a fork of it has it, under the same number
};

struct FormatName {
  ConvertFormat format;
  const char* name;  // as the flag has it
};
inline constexpr FormatName kConvertFormats[] = {
    {ConvertFormat::kHfPacked, "hf-packed"},    {ConvertFormat::kHfUnpacked, "hf-unpacked"},
    {ConvertFormat::kTq1_0, "gguf-tq1_0"},      {ConvertFormat::kTq2_0, "gguf-tq2_0"},
    {ConvertFormat::kQ2_0Of64, "gguf-q2_0-64"}, {ConvertFormat::kQ2_0Of128, "gguf-q2_0-128"},
};
const char* NameOf(ConvertFormat format);
bool IsGguf(ConvertFormat format);

// What shares a scale.
struct TernarizeUnit {
  ScaleGranularity granularity = ScaleGranularity::kTensor;
  int64_t group_size = 0;  // of kGroup
};

struct ConvertOptions {
  std::string model;   // as ModelFiles::Open takes it
  std::string output;  // of GGUF a file, of the others a directory; must not be there, or be empty
  ConvertFormat format = ConvertFormat::kTq2_0;
  // For a model in full precision: what it is rounded to. Damages the model.
  std::optional<TernarizeUnit> ternarize;
  I2sLayout i2s_layout = I2sLayout::kX86;
  // For GGUF: the tokenizer as its metadata have it.
  std::vector<GgufKeyValue> tokenizer;
  // For the others: the Hugging Face directory whose tokenizer and generation config are copied.
  std::string tokenizer_dir;
};

struct ConvertReport {
  int64_t bytes = 0;            // of the file or files with tensors
  int64_t ternary_tensors = 0;  // that were written
  // The largest |scale as written / scale - 1|, and of which tensor; 0 when all are exact.
  double largest_scale_change = 0;
  std::string scale_change_tensor;
  // With `ternarize`: each tensor's, in the model's order.
  std::vector<std::pair<std::string, TernarizeError>> ternarized;
};

// InvalidArgument for what the format cannot hold, CheckAgreement's errors, AlreadyExists for an
// output that is there, errors of reading and of OutputFile as they are. After an error there is no
// output file, or no config.json in the output directory, without which it is no model.
StatusOr<ConvertReport> ConvertModel(const ConvertOptions& options);

// The values of the keys that begin with `prefix`, to be written again. Unimplemented, with the
// key, for one of another type than those of GgufKeyValue.
StatusOr<std::vector<GgufKeyValue>> CopyOf(const GgufMetadata& metadata, std::string_view prefix);

// The sentence that goes with every model that was ternarised, on the screen and into its files.
std::string TernarizeWarning(const TernarizeUnit& unit);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_CONVERT_H_

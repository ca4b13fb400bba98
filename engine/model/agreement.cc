#include "engine/model/agreement.h"

#include <algorithm>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/model/model_tensors.h"
#include "engine/model/weight_names.h"

namespace sterna {
namespace {

// What layers have in some models and not in others.
struct OptionalPart {
  bool ModelConfig::*has;
  const char* denial;  // how the config says that they have not
};
constexpr OptionalPart kOptionalParts[] = {
    {&ModelConfig::attention_bias, "does not set attention_bias"},
    {&ModelConfig::mlp_bias, "does not set mlp_bias"},
    {&ModelConfig::linear_rms_norm, "does not set use_rms_norm"},
    {&ModelConfig::qk_norm, "is not of model_type qwen3"},
};

Status CheckDenied(const WeightSource& source, const ModelConfig& config) {
  std::set<std::string> implied;
  for (const ModelTensor& tensor : TensorsOf(config)) implied.insert(tensor.name);
  for (const OptionalPart& part : kOptionalParts) {
    if (config.*part.has) continue;
    ModelConfig with = config;
    with.*part.has = true;
    for (const ModelTensor& tensor : TensorsOf(with)) {
      if (implied.contains(tensor.name) || !source.Has(tensor.name)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "the config ", part.denial, ", but ", source.path(), " has tensor '", tensor.name, "'"));
    }
  }
  return absl::OkStatus();
}

// Row by row, of which few stay in memory.
bool SameBytes(const StoredMatrix& a, const StoredMatrix& b) {
  if (a.type != b.type || a.bytes.size() != b.bytes.size()) return false;
  const RowForgetter forget_a(a.bytes, a.rows);
  const RowForgetter forget_b(b.bytes, b.rows);
  const auto row_of = [](const StoredMatrix& matrix, int64_t row) {
    const size_t row_bytes = matrix.bytes.size() / static_cast<size_t>(matrix.rows);
    const bool last = row + 1 == matrix.rows;  // with what types may have after all rows
    return matrix.bytes.subspan(static_cast<size_t>(row) * row_bytes,
                                last ? std::dynamic_extent : row_bytes);
  };
  for (int64_t row = 0; row < a.rows; ++row) {
    if (!std::ranges::equal(row_of(a, row), row_of(b, row))) return false;
    forget_a.AfterRow(row);
    forget_b.AfterRow(row);
  }
  return true;
}

// A tied embedding and a head besides must be one matrix: some tools store it twice. Anything else
// is another model than the config says.
Status CheckHead(WeightSource& source, const ModelConfig& config) {
  const bool has_head = source.Has(kHeadName);
  if (!config.tie_embeddings) {
    if (has_head) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("config.json does not set tie_word_embeddings, but ",
                                            source.path(), " lacks tensor '", kHeadName, "'"));
  }
  if (!has_head) return absl::OkStatus();
  const int64_t rows = config.vocab_size, cols = config.hidden_size;
  STERNA_ASSIGN_OR_RETURN(const StoredMatrix embedding, source.Matrix(kEmbeddingName, rows, cols));
  STERNA_ASSIGN_OR_RETURN(const StoredMatrix head, source.Matrix(kHeadName, rows, cols));
  if (SameBytes(head, embedding)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("config.json sets tie_word_embeddings, but ",
                                                 head.where, " differs from '", kEmbeddingName,
                                                 "'"));
}

}  // namespace

Status CheckAgreement(WeightSource& source, const ModelConfig& config) {
  STERNA_RETURN_IF_ERROR(CheckDenied(source, config));
  return CheckHead(source, config);
}

}  // namespace sterna

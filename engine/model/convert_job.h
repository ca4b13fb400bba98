// What the writers of convert.h's formats share: the model that is read, and where it is put.
#ifndef STERNA_ENGINE_MODEL_CONVERT_JOB_H_
#define STERNA_ENGINE_MODEL_CONVERT_JOB_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/model/config.h"
#include "engine/model/convert.h"
#include "engine/model/gguf.h"
#include "engine/model/model_files.h"
#include "engine/model/model_tensors.h"
#include "engine/model/safetensors.h"
#include "engine/model/weight_source.h"

namespace sterna {

// Takes the bytes that come next.
using ByteSink = std::function<Status(std::span<const uint8_t> bytes)>;

// One run of `convert`. Refers to what it is made of. For one thread.
class ConvertJob {
 public:
  ConvertJob(const ConvertOptions& options, const ModelFiles& files, const ModelConfig& config,
             WeightSource& source)
      : options_(options), files_(files), config_(config), source_(source) {}

  const ConvertOptions& options() const { return options_; }
  const ModelFiles& files() const { return files_; }
  const ModelConfig& config() const { return config_; }
  WeightSource& source() { return source_; }
  ConvertReport& report() { return report_; }

  // All tensors that are to be written: embedding and head as ternary ones where they are that and
  // the format has such.
  StatusOr<std::vector<ModelTensor>> Tensors();
  // The tensor's weights, rounded to ternary ones if that is asked for; counted in the report.
  StatusOr<TernaryMatrix> ReadTernary(const ModelTensor& tensor);
  StatusOr<StoredMatrix> ReadMatrix(const ModelTensor& tensor) {
    return source_.Matrix(tensor.name, tensor.rows, tensor.cols);
  }
  StatusOr<std::vector<float>> ReadVector(const ModelTensor& tensor) {
    return source_.Vector(tensor.name, tensor.cols);
  }

  // InvalidArgument when the format has no room for a model of this config, or for this tensor's
  // scales. Names the formats that hold what is known by then.
  Status CheckRoom();
  Status CheckRoom(const ModelTensor& tensor, const TernaryMatrix& w) const;

  // `scale` of `tensor`, for which there is room, in half precision; notes in the report how far
  // from it that is.
  uint16_t HalfScale(const ModelTensor& tensor, double scale);
  void NoteScaleChange(const ModelTensor& tensor, double scale, double written);

 private:
  // That the format cannot hold `what` of `who`, and what holds the model and, unless null, `w`.
  Status Refuse(const std::string& who, const std::string& what, const TernaryMatrix* w) const;

  const ConvertOptions& options_;
  const ModelFiles& files_;
  const ModelConfig& config_;
  WeightSource& source_;
  ConvertReport report_;
};

// What `format` has no room for, as a message goes on after "has"; empty where there is
// room for all but the weights of such a model, or for the scales of `w`.
std::string NoRoom(ConvertFormat format, const ModelConfig& config);
std::string NoRoom(ConvertFormat format, const TernaryMatrix& w);

// What computes such a model: `bitnet` is the main line's, of family C; `bitnet-b1.58` that of
// BitNet's fork, of family A.
std::string GgufArchitecture(const ModelConfig& config);
// Of the ternary tensors of a GGUF format.
const GgufPacking& GgufPackingOf(ConvertFormat format);
// Of hf-packed.
inline constexpr int64_t kPackedRowsPerByte = 4;

// The narrowest of BF16, F16 and F32 that holds all values.
TensorType NarrowestType(std::span<const float> values);
TensorType NarrowestType(const StoredMatrix& matrix);
// `values`, which `type` (BF16, F16 or F32) holds, as bytes behind those in `out`.
void AppendFloats(TensorType type, std::span<const float> values, std::vector<uint8_t>& out);
// All rows of the matrix, in `type`.
Status WriteMatrix(const StoredMatrix& matrix, TensorType type, const ByteSink& sink);

// The scale of the weights of `row` from column `col` on.
double ScaleAt(const TernaryMatrix& w, int64_t row, int64_t col);

// Row `packed_row` of the U8 form (families A and B) into `out` [cols]: bits 2i, 2i + 1 of byte c
// are the code of weight (i * rows / 4 + packed_row, c). w has a multiple of 4 rows.
void PackFourRows(const TernaryMatrix& w, int64_t packed_row, std::span<uint8_t> out);

// Each writes all files of its format; options().output is the file or the directory, which
// exists.
Status WriteGgufModel(ConvertJob& job);
Status WriteHfModel(ConvertJob& job);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_CONVERT_JOB_H_

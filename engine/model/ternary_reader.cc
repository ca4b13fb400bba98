#include "engine/model/ternary_reader.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/mapped_file.h"
#include "engine/model/scale_groups.h"
#include "engine/model/ternarize.h"

namespace sterna {
namespace {

constexpr int64_t kRowsPerByte = 4;  // of the packed form

// `where`: "PATH: tensor 'NAME'".
Status AllZero(const std::string& where) {
  return absl::DataLossError(absl::StrCat(
      where,
      ": all its weights are zero, which no trained layer is: the file was damaged when it "
      "was made (re-uploads of such checkpoints are known); fetch it again"));
}

std::string Where(const std::string& name, const TensorView& view) {
  return absl::StrCat(view.file, ": tensor '", name, "'");
}

Status CodeThree(const std::string& name, const TensorView& view, int64_t packed_row,
                 std::span<const uint8_t> bytes) {
  for (size_t col = 0; col < bytes.size(); ++col) {
    for (int64_t i = 0; i < kRowsPerByte; ++i) {
      if ((bytes[col] >> (2 * i) & 3) != 3) continue;
      return absl::DataLossError(absl::StrCat(
          view.file, ": tensor '", name, "' holds code 3 at row ", i * view.shape[0] + packed_row,
          ", column ", col, "; the codes of -1, 0 and 1 are 0, 1 and 2: the file is corrupt"));
    }
  }
  return absl::OkStatus();
}

// The error of values of row `row` from column `first` on, which are not -s, 0 and s.
Status NotTernary(const std::string& where, int64_t row, int64_t first,
                  std::span<const float> values) {
  float scale = 0;
  for (const float value : values) {
    const float magnitude = std::abs(value);
    if (!std::isfinite(magnitude)) {
      return absl::DataLossError(
          absl::StrCat(where, " holds ", value, " in row ", row, ", but must be finite"));
    }
    if (scale == 0) scale = magnitude;
    if (magnitude == 0 || magnitude == scale) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        where, " holds the magnitudes ", scale, " and ", magnitude, " in row ", row, ", columns ",
        first, " to ", first + static_cast<int64_t>(values.size()) - 1,
        ", but where nothing says how to quantise (families D and E) the values of a row, or ",
        "where the columns are a multiple of ", kTernaryBlockCols,
        " of so many of them, must be -s, 0 and s: weights in full precision are not supported"));
  }
  STERNA_CHECK(false);  // RecoverGroup had found one
}

// Sets codes [values.size()] to those of `values`, which are of row `row` from column `first` on.
// Returns their scale, 0 when all are zero. Without branches, for compilers to vectorise: a model
// has billions of values.
StatusOr<float> RecoverGroup(const std::string& where, int64_t row, int64_t first,
                             std::span<const float> values, std::span<uint8_t> codes) {
  constexpr uint32_t kMagnitude = 0x7fffffff;
  constexpr uint32_t kInfinity = 0x7f800000;
  // Magnitudes that are all 0 or s have the bits of s together.
  uint32_t scale = 0;
  for (const float value : values) scale |= std::bit_cast<uint32_t>(value) & kMagnitude;
  uint32_t others = 0;
  for (size_t c = 0; c < values.size(); ++c) {
    const auto bits = std::bit_cast<uint32_t>(values[c]);
    const uint32_t magnitude = bits & kMagnitude;
    const uint32_t nonzero = magnitude != 0 ? 1 : 0;
    others |= (magnitude ^ scale) & (0 - nonzero);
    codes[c] = static_cast<uint8_t>(1 + nonzero - 2 * (nonzero & bits >> 31));
  }
  if (others != 0 || scale >= kInfinity) return NotTernary(where, row, first, values);
  return std::bit_cast<float>(scale);
}

}  // namespace

StatusOr<TernaryMatrix> ReadPacked(TensorReader& reader, const std::string& name, int64_t rows,
                                   int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(const TensorView* view, reader.Get(name));
  if (rows % kRowsPerByte != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json gives tensor '", name, "' ", rows,
                     " rows, but packed weights come in multiples of ", kRowsPerByte));
  }
  const std::vector<int64_t> shape = {rows / kRowsPerByte, cols};
  if (view->type != TensorType::kU8 || view->shape != shape) {
    return TensorReader::Mismatch(
        name, *view, absl::StrCat("packed weights, U8 [", absl::StrJoin(shape, ", "), "]"));
  }
  TernaryMatrix w(rows, cols);
  const RowForgetter forgetter(view->bytes, shape[0]);
  uint8_t nonzero = 0;
  for (int64_t r = 0; r < shape[0]; ++r) {
    const auto bytes =
        view->bytes.subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols));
    uint8_t code_three = 0;
    for (const uint8_t byte : bytes) {
      code_three |= static_cast<uint8_t>(byte & (byte >> 1) & 0x55);
      nonzero |= static_cast<uint8_t>(byte ^ kTernaryPaddingByte);
    }
    if (code_three != 0) return CodeThree(name, *view, r, bytes);
    for (int i = 0; i < kRowsPerByte; ++i) w.SetRowCodes(i * shape[0] + r, bytes, 2 * i);
    forgetter.AfterRow(r);
  }
  if (nonzero == 0) return AllZero(Where(name, *view));
  return w;
}

StatusOr<TernaryMatrix> ReadLatent(TensorReader& reader, const std::string& name, int64_t rows,
                                   int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(const TensorView* view, reader.GetFloat(name, {rows, cols}));
  std::vector<float> row(static_cast<size_t>(cols));
  const RowForgetter forgetter(view->bytes, rows);
  // The mean is taken in double: it has to be right for a tensor of any size.
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    ReadFloats(*view, r * cols, row);
    sum += AbsSum(row);
    forgetter.AfterRow(r);
  }
  if (!std::isfinite(sum)) {
    return absl::DataLossError(
        absl::StrCat(view->file, ": tensor '", name, "' holds values that are not finite"));
  }
  if (sum == 0) return AllZero(Where(name, *view));
  const double mean = sum / (static_cast<double>(rows) * static_cast<double>(cols));
  const double inverse_scale = 1.0 / std::max(mean, 1e-5);

  TernaryMatrix w(rows, cols);
  std::vector<uint8_t> codes(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) {
    ReadFloats(*view, r * cols, row);
    RoundToTernary(row, inverse_scale, codes);
    w.SetRowCodes(r, codes, 0);
    forgetter.AfterRow(r);
  }
  w.SetTensorScale(1.0 / inverse_scale);
  return w;
}

StatusOr<TernaryMatrix> ReadUnpacked(const StoredMatrix& stored, const RowOrder& row_order) {
  // Of the smallest groups that products can have, unless they would not fill the row.
  const int64_t cols = stored.cols;
  const int64_t group_size = cols % kTernaryBlockCols == 0 ? kTernaryBlockCols : cols;
  const int64_t groups = cols / group_size;
  TernaryMatrix w(stored.rows, cols);
  std::vector<float> row(static_cast<size_t>(cols));
  std::vector<uint8_t> codes(row.size());
  std::vector<float> scales(static_cast<size_t>(stored.rows * groups));
  const RowForgetter forgetter(stored.bytes, stored.rows);
  for (int64_t r = 0; r < stored.rows; ++r) {
    stored.read_row(r, row);
    const int64_t to = row_order ? row_order(r) : r;
    for (int64_t group = 0; group < groups; ++group) {
      const auto at = static_cast<size_t>(group * group_size);
      const auto size = static_cast<size_t>(group_size);
      STERNA_ASSIGN_OR_RETURN(
          scales[static_cast<size_t>(to * groups + group)],
          RecoverGroup(stored.where, r, group * group_size, std::span(row).subspan(at, size),
                       std::span(codes).subspan(at, size)));
    }
    w.SetRowCodes(to, codes, 0);
    forgetter.AfterRow(r);
  }
  if (*std::ranges::max_element(scales) == 0) return AllZero(stored.where);
  SetCoarsestScales(std::move(scales), group_size, w);
  return w;
}

StatusOr<double> ReadWeightScale(TensorReader& reader, const std::string& name) {
  STERNA_ASSIGN_OR_RETURN(const TensorView* view, reader.Get(name));
  if (!IsFloatTensor(view->type) || view->shape.size() > 1 || view->num_elements() != 1) {
    return TensorReader::Mismatch(name, *view, "one scale: BF16, F16 or F32 [1] or []");
  }
  float scale = 0;
  ReadFloats(*view, 0, {&scale, 1});
  if (!std::isfinite(scale) || scale <= 0) {
    return absl::DataLossError(absl::StrCat(view->file, ": tensor '", name, "' holds the scale ",
                                            scale, ", but a scale is finite and above zero"));
  }
  return scale;
}

}  // namespace sterna

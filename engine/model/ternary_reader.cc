#include "engine/model/ternary_reader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/mapped_file.h"

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

// The sum of |x|, in eight interleaved partial sums, so that it vectorises and its order is fixed.
double AbsSum(std::span<const float> x) {
  std::array<double, 8> lanes{};
  size_t i = 0;
  for (; i + lanes.size() <= x.size(); i += lanes.size()) {
    for (size_t lane = 0; lane < lanes.size(); ++lane) lanes[lane] += std::abs(x[i + lane]);
  }
  for (; i < x.size(); ++i) lanes[0] += std::abs(x[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// Sets codes [cols] to those of a ternary row and returns its scale, 0 when it is all zero.
StatusOr<float> RecoverRow(const std::string& where, int64_t number, std::span<const float> row,
                           std::span<uint8_t> codes) {
  float scale = 0;
  for (size_t c = 0; c < row.size(); ++c) {
    const float magnitude = std::abs(row[c]);
    if (!std::isfinite(magnitude)) {
      return absl::DataLossError(
          absl::StrCat(where, " holds ", row[c], " in row ", number, ", but must be finite"));
    }
    if (scale == 0) scale = magnitude;
    if (magnitude != 0 && magnitude != scale) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " holds the magnitudes ", scale, " and ", magnitude, " in row ",
                       number, ", but weights that nothing says how to quantise (family D) must ",
                       "be -s, 0 and s in each row: full precision is not supported"));
    }
    codes[c] = static_cast<uint8_t>(1 + (row[c] > 0 ? 1 : 0) - (row[c] < 0 ? 1 : 0));
  }
  return scale;
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
  }
  if (nonzero == 0) return AllZero(Where(name, *view));
  MappedFile::Forget(view->bytes);
  return w;
}

StatusOr<TernaryMatrix> ReadLatent(TensorReader& reader, const std::string& name, int64_t rows,
                                   int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(const TensorView* view, reader.GetFloat(name, {rows, cols}));
  std::vector<float> row(static_cast<size_t>(cols));
  // The mean is taken in double: it has to be right for a tensor of any size.
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    ReadFloats(*view, r * cols, row);
    sum += AbsSum(row);
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
    for (size_t c = 0; c < row.size(); ++c) {
      // Rounding half to even and clamping to one leaves just these two comparisons.
      const double x = row[c] * inverse_scale;
      codes[c] = static_cast<uint8_t>(1 + (x > 0.5 ? 1 : 0) - (x < -0.5 ? 1 : 0));
    }
    w.SetRowCodes(r, codes, 0);
  }
  w.SetTensorScale(1.0 / inverse_scale);
  MappedFile::Forget(view->bytes);
  return w;
}

StatusOr<TernaryMatrix> ReadUnpacked(const StoredMatrix& stored, const RowOrder& row_order) {
  TernaryMatrix w(stored.rows, stored.cols);
  std::vector<float> row(static_cast<size_t>(stored.cols));
  std::vector<uint8_t> codes(row.size());
  std::vector<float> scales(static_cast<size_t>(stored.rows));
  for (int64_t r = 0; r < stored.rows; ++r) {
    stored.read_row(r, row);
    const int64_t to = row_order ? row_order(r) : r;
    STERNA_ASSIGN_OR_RETURN(scales[static_cast<size_t>(to)],
                            RecoverRow(stored.where, r, row, codes));
    w.SetRowCodes(to, codes, 0);
  }
  const float largest = *std::ranges::max_element(scales);
  if (largest == 0) return AllZero(stored.where);
  // A row of zeros has no scale of its own, and any gives the same.
  std::ranges::replace(scales, 0.0f, largest);
  if (*std::ranges::min_element(scales) == largest) {
    w.SetTensorScale(largest);
  } else {
    w.SetRowScales(scales);
  }
  MappedFile::Forget(stored.bytes);
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

#include "engine/model/scale_groups.h"

#include <algorithm>
#include <span>

#include "base/check.h"

namespace sterna {
namespace {

// Scales that can be one.
bool Agree(float a, float b) { return a == b || a == 0 || b == 0; }

// What all but 0 are equal to; 0 when there is nothing else; -1 when they differ.
float CommonScale(std::span<const float> scales) {
  float common = 0;
  for (const float scale : scales) {
    if (!Agree(common, scale)) return -1;
    if (scale != 0) common = scale;
  }
  return common;
}

// Makes one of each two scales, if they agree everywhere.
bool MergePairs(std::vector<float>& scales) {
  for (size_t i = 0; i < scales.size(); i += 2) {
    if (!Agree(scales[i], scales[i + 1])) return false;
  }
  for (size_t i = 0; i < scales.size(); i += 2) {
    scales[i / 2] = scales[i] != 0 ? scales[i] : scales[i + 1];
  }
  scales.resize(scales.size() / 2);
  return true;
}

// The same scales for each group of `size` columns, which is no larger than what they cover now.
void SpreadScales(int64_t size, TernaryMatrix& matrix) {
  const bool grouped = matrix.granularity() == ScaleGranularity::kGroup;
  if (grouped && matrix.group_size() == size) return;
  const int64_t groups = CeilDiv(matrix.cols(), size);
  std::vector<float> scales(static_cast<size_t>(matrix.rows() * groups));
  for (int64_t row = 0; row < matrix.rows(); ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      scales[static_cast<size_t>(row * groups + group)] =
          matrix.granularity() == ScaleGranularity::kTensor
              ? static_cast<float>(matrix.tensor_scale())
              : matrix.scale(row, grouped ? group * size / matrix.group_size() : 0);
    }
  }
  matrix.SetGroupScales(scales, size);
}

}  // namespace

void SetCoarsestScales(std::vector<float> scales, int64_t group_size, TernaryMatrix& matrix) {
  const auto groups = static_cast<size_t>(matrix.cols() / group_size);
  STERNA_CHECK(scales.size() == static_cast<size_t>(matrix.rows()) * groups);
  if (const float scale = CommonScale(scales); scale >= 0) {
    // Of a matrix of zeros any will do.
    matrix.SetTensorScale(scale == 0 ? 1 : scale);
    return;
  }
  std::vector<float> of_rows;
  for (size_t first = 0; first < scales.size(); first += groups) {
    of_rows.push_back(CommonScale(std::span(scales).subspan(first, groups)));
  }
  if (*std::ranges::min_element(of_rows) >= 0) {
    matrix.SetRowScales(of_rows);
    return;
  }
  for (size_t left = groups; left % 2 == 0 && MergePairs(scales); left /= 2) group_size *= 2;
  matrix.SetGroupScales(scales, group_size);
}

int64_t UnifyScaleGroups(ModelWeights& weights) {
  std::vector<TernaryMatrix*> matrices;
  for (TernaryMatrix* matrix : {&weights.ternary_embedding, &weights.untied_ternary_head}) {
    if (!matrix->empty()) matrices.push_back(matrix);
  }
  for (LayerWeights& layer : weights.layers) {
    for (TernaryLinearWeights* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      matrices.push_back(&linear->w);
    }
  }
  int64_t smallest = 0;
  for (const TernaryMatrix* matrix : matrices) {
    if (matrix->granularity() != ScaleGranularity::kGroup) continue;
    smallest = smallest == 0 ? matrix->group_size() : std::min(smallest, matrix->group_size());
  }
  if (smallest == 0) return 0;
  for (TernaryMatrix* matrix : matrices) SpreadScales(smallest, *matrix);
  return smallest;
}

}  // namespace sterna

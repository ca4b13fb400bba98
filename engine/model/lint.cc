#include "engine/model/lint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/model/gguf_source.h"
#include "engine/model/safetensors_source.h"
#include "engine/model/ternary_statistics.h"
#include "engine/model/weight_names.h"

namespace sterna {
namespace {

using enum LintFinding::Severity;

// Chance makes anything of a few weights; of so many, nothing below.
constexpr int64_t kFewestWeights = 64;
constexpr int64_t kFewestForShares = 1024;

// Quantised by its mean magnitude, a normal distribution has 31 % zeros; published models have 30
// to 60 %. A matrix with more than this is pruned or damaged; with fewer, binary or misread.
constexpr double kMostZeros = 0.9;
constexpr double kFewestZeros = 0.02;
// Of what is not zero, +1 and -1 have each a half within a few thousandths.
constexpr double kFewestOfASign = 0.35;
// Rows or columns of zeros: outputs or inputs that are dead. Damage comes by the page or the shard.
constexpr double kMostZeroRows = 0.25;

// A scale times the root of the inputs: 1 keeps the variance of what goes through, which models
// trained from scratch in full precision have within a small factor (0.5 to 4). BitNet b1.58 2B-4T
// has scales of 1 to 2, thus up to 200, which sub-norms allow for.
constexpr double kLeastUnitScale = 1.0 / 64;
constexpr double kMostUnitScale = 1024;

// Codes take 2 bits, and one scale for 64 of them half a bit.
constexpr double kMostBitsPerWeight = 2.6;

// Norms and biases of trained models are below a few hundred.
constexpr float kLargestValue = 1e4f;
constexpr double kMostZerosInNorm = 0.5;

// Vocabularies are padded to a round number, not by half.
constexpr double kMostZeroEmbeddings = 0.5;
constexpr int64_t kRowsPerTask = 256;

// `name`, one of Hugging Face's in family A, as the files have it.
std::string NameInFiles(const std::string& name, TensorNames names, const ModelConfig& config) {
  if (names == TensorNames::kGguf) return GgufTensorName(name);
  return SafetensorsName(name, config);
}

// Where the scale of linear `name` is.
std::string ScaleName(const std::string& name, TensorNames names, const ModelConfig& config) {
  const bool apart =
      names == TensorNames::kHuggingFace && (config.family == CheckpointFamily::kBitNetPacked ||
                                             config.family == CheckpointFamily::kBitLinear);
  return NameInFiles(name + (apart ? ".weight_scale" : ".weight"), names, config);
}

std::string Percent(int64_t part, int64_t whole) {
  return absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

double Share(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

constexpr char kFetchAgain[] =
    "; the file was damaged when it was made or copied: compare it with its source";

void LintCodes(const std::string& name, const TernaryStatistics& s, LintReport& report) {
  const int64_t plus = s.plus, minus = s.minus(), nonzeros = s.nonzeros();
  if (nonzeros == 0) {
    report.Add("zero", kError, name,
               absl::StrCat("all its weights are zero, which no trained layer is", kFetchAgain));
    return;
  }
  if (plus == s.weights || minus == s.weights) {
    report.Add("constant", kError, name,
               absl::StrCat("all its weights are ", plus > 0 ? "+1" : "-1",
                            ", which no trained layer is", kFetchAgain));
    return;
  }
  if (nonzeros >= kFewestWeights && (plus == 0 || minus == 0)) {
    report.Add("sign", kError, name,
               absl::StrCat("has no weight ", plus == 0 ? "+1" : "-1", " beside ", nonzeros, " of ",
                            plus == 0 ? "-1" : "+1", "; trained layers have as many of each",
                            kFetchAgain));
    return;
  }
  if (s.weights < kFewestForShares) return;
  if (Share(s.zeros, s.weights) > kMostZeros || Share(s.zeros, s.weights) < kFewestZeros) {
    report.Add("zeros", kWarning, name,
               absl::StrCat(Percent(s.zeros, s.weights), " of its weights are zero; trained ",
                            "ternary layers have 30 to 60 %"));
  }
  if (Share(std::min(plus, minus), nonzeros) < kFewestOfASign) {
    report.Add("balance", kWarning, name,
               absl::StrCat("has ", plus, " weights +1 and ", minus,
                            " weights -1; trained layers have as many of each within a percent"));
  }
  const auto dead = [&](const char* what, int64_t zero, int64_t all) {
    if (Share(zero, all) < kMostZeroRows) return;
    report.Add(what, kWarning, name,
               absl::StrCat(zero, " of its ", all, " ", what,
                            " are all zero; trained layers have next to none", kFetchAgain));
  };
  dead("rows", s.zero_rows, s.rows);
  dead("columns", s.zero_cols, s.cols);
}

// The median; scales of rows or groups differ by small factors.
double TypicalScale(const TernaryMatrix& w) {
  if (w.granularity() == ScaleGranularity::kTensor) return w.tensor_scale();
  std::vector<float> scales;
  for (int64_t row = 0; row < w.rows(); ++row) {
    for (int64_t group = 0; group < w.num_groups(); ++group) scales.push_back(w.scale(row, group));
  }
  const auto middle = scales.begin() + std::ssize(scales) / 2;
  std::ranges::nth_element(scales, middle);
  return *middle;
}

bool IsPlausibleScale(double scale, int64_t inputs) {
  const double unit = scale * std::sqrt(static_cast<double>(inputs));
  return unit >= kLeastUnitScale && unit <= kMostUnitScale;
}

void LintScale(const std::string& name, const TernaryMatrix& w, const ModelConfig& config,
               LintReport& report) {
  const double scale = TypicalScale(w);
  if (IsPlausibleScale(scale, w.cols())) return;
  const double expected = 1.0 / std::sqrt(static_cast<double>(w.cols()));
  std::string message = absl::StrFormat(
      "its weights are multiplied by %.3g, where layers of %d inputs have about %.3g", scale,
      w.cols(), expected);
  if (IsPlausibleScale(1.0 / scale, w.cols())) {
    const bool divides = config.family == CheckpointFamily::kBitLinear;
    absl::StrAppendFormat(
        &message,
        "; the inverse, %.3g, would be plausible: the convention is at odds with "
        "the weights (%s)",
        1.0 / scale,
        divides ? "family B: stored scales divide, unless linear_class is autobitlinear"
                : "scales as they are stored multiply, and these seem to divide");
  } else {
    absl::StrAppend(&message, ", within a factor of some hundreds");
  }
  report.Add("scale", kWarning, name, std::move(message));
}

void LintVector(const std::string& name, std::span<const float> values, bool is_norm,
                LintReport& report) {
  const auto zeros = std::ranges::count(values, 0.0f);
  if (is_norm && zeros == std::ssize(values)) {
    report.Add("zero norm", kError, name,
               absl::StrCat("all its values are zero, so that nothing passes it", kFetchAgain));
    return;
  }
  if (is_norm && Share(zeros, std::ssize(values)) > kMostZerosInNorm) {
    report.Add("zeros in norm", kWarning, name,
               absl::StrCat(zeros, " of its ", values.size(),
                            " values are zero; trained norms have next to none", kFetchAgain));
  }
  const float largest = LargestMagnitude(values);
  if (largest > kLargestValue) {
    report.Add("magnitude", kWarning, name,
               absl::StrCat("has a value of magnitude ", largest,
                            "; those of trained models are below a few hundred"));
  }
}

// What is odd about rows of a dense matrix.
struct DenseStatistics {
  int64_t zero_rows = 0;
  int64_t constant_rows = 0;  // of one value that is not zero
  int64_t bad_row = -1;       // the first with a value that is not finite
  float largest = 0;
};

// Of one row: the largest magnitude, and whether its values differ.
void AddRow(int64_t row, float largest, bool differs, DenseStatistics& s) {
  if (!std::isfinite(largest)) {
    if (s.bad_row < 0) s.bad_row = row;
    return;
  }
  s.largest = std::max(s.largest, largest);
  if (largest == 0) {
    ++s.zero_rows;
  } else if (!differs) {
    ++s.constant_rows;
  }
}

// What is told of 32 bf16 values at a time, lane by lane, so that it vectorises. Magnitudes of
// bf16 are ordered as their bits are, infinity and NaN above all.
struct Bf16Lanes {
  static constexpr size_t kLanes = 32;
  std::array<int16_t, kLanes> first{}, largest{}, differs{};

  void Add(const void* line) {
    std::array<int16_t, kLanes> values;
    std::memcpy(values.data(), line, sizeof(values));
    for (size_t i = 0; i < kLanes; ++i) {
      const auto magnitude = static_cast<int16_t>(values[i] & 0x7fff);
      largest[i] = std::max(largest[i], magnitude);
      differs[i] = static_cast<int16_t>(differs[i] | (values[i] ^ first[i]));
    }
  }
};

float Bf16Magnitude(int16_t bits) { return Bf16ToFloat(static_cast<uint16_t>(bits)); }

// A row block of kTiles, of an even number of columns.
void CountBf16Tiles(const DenseMatrix& m, int64_t block, DenseStatistics& s) {
  constexpr int64_t kInLine = 2;  // columns of one row
  const auto* lines =
      static_cast<const uint8_t*>(m.data) + block * m.col_blocks() * kDenseTileBytes;
  Bf16Lanes lanes;
  std::memcpy(lanes.first.data(), lines, sizeof(lanes.first));
  for (size_t i = 0; i < Bf16Lanes::kLanes; i += kInLine) lanes.first[i + 1] = lanes.first[i];
  for (int64_t i = 0; i < m.cols / kInLine; ++i) lanes.Add(lines + i * kDenseLineBytes);
  const int64_t first = block * kDenseTileRows;
  for (int64_t row = first; row < std::min(first + kDenseTileRows, m.rows); ++row) {
    const auto i = static_cast<size_t>((row - first) * kInLine);
    AddRow(row, Bf16Magnitude(std::max(lanes.largest[i], lanes.largest[i + 1])),
           (lanes.differs[i] | lanes.differs[i + 1]) != 0, s);
  }
}

void CountBf16Row(const DenseMatrix& m, int64_t row, DenseStatistics& s) {
  const auto* values = static_cast<const int16_t*>(m.data) + row * m.cols;
  Bf16Lanes lanes;
  lanes.first.fill(values[0]);
  int64_t i = 0;
  constexpr int64_t kLanes = Bf16Lanes::kLanes;
  for (; i + kLanes <= m.cols; i += kLanes) lanes.Add(values + i);
  std::array<int16_t, Bf16Lanes::kLanes> rest = lanes.first;
  std::copy(values + i, values + m.cols, rest.begin());
  lanes.Add(rest.data());
  AddRow(row, Bf16Magnitude(std::ranges::max(lanes.largest)),
         std::ranges::any_of(lanes.differs, [](int16_t x) { return x != 0; }), s);
}

// Rows [first, end), where `first` begins a tile.
DenseStatistics CountDenseRows(const DenseMatrix& matrix, int64_t first, int64_t end) {
  DenseStatistics s;
  const bool bf16 = matrix.type == DenseType::kBf16;
  if (bf16 && matrix.layout == DenseLayout::kTiles && matrix.cols % 2 == 0) {
    for (int64_t block = first / kDenseTileRows; block * kDenseTileRows < end; ++block) {
      CountBf16Tiles(matrix, block, s);
    }
    return s;
  }
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (int64_t r = first; r < end; ++r) {
    if (bf16 && matrix.layout == DenseLayout::kRows) {
      CountBf16Row(matrix, r, s);
      continue;
    }
    matrix.CopyRow(r, row.data());
    AddRow(r, LargestMagnitude(row),
           std::ranges::any_of(row, [&](float value) { return value != row[0]; }), s);
  }
  return s;
}

// Whether the matrix lies in a mapped file, whose pages are not to stay because they were looked
// at.
bool IsMapped(const DenseMatrix& matrix, const ModelWeights& weights) {
  return std::ranges::any_of(weights.mapped_files, [&](const MappedFile& file) {
    const std::span<const uint8_t> bytes = file.bytes();
    return !std::less<>()(matrix.data, bytes.data()) &&
           std::less<>()(matrix.data, bytes.data() + bytes.size());
  });
}

DenseStatistics CountDense(const DenseMatrix& matrix, bool is_mapped, ThreadPool& pool) {
  std::vector<DenseStatistics> tasks(static_cast<size_t>(CeilDiv(matrix.rows, kRowsPerTask)));
  const int64_t row_bytes = matrix.data_bytes() / matrix.rows;
  pool.ParallelFor(std::ssize(tasks), [&](int64_t i) {
    const int64_t first = i * kRowsPerTask;
    const int64_t end = std::min(first + kRowsPerTask, matrix.rows);
    tasks[static_cast<size_t>(i)] = CountDenseRows(matrix, first, end);
    if (!is_mapped) return;
    MappedFile::Forget({static_cast<const uint8_t*>(matrix.data) + first * row_bytes,
                        static_cast<size_t>((end - first) * row_bytes)});
  });
  DenseStatistics all;
  for (const DenseStatistics& task : tasks) {
    all.zero_rows += task.zero_rows;
    all.constant_rows += task.constant_rows;
    if (all.bad_row < 0) all.bad_row = task.bad_row;
    all.largest = std::max(all.largest, task.largest);
  }
  return all;
}

void LintDense(const std::string& name, const DenseMatrix& matrix, bool is_mapped, ThreadPool& pool,
               LintReport& report) {
  const DenseStatistics s = CountDense(matrix, is_mapped, pool);
  if (s.bad_row >= 0) {
    report.Add("not finite", kError, name,
               absl::StrCat("row ", s.bad_row, " holds a value that is not finite; all must be",
                            kFetchAgain));
  }
  const int64_t odd = s.zero_rows + s.constant_rows;
  if (odd == matrix.rows) {
    report.Add("constant", kError, name,
               absl::StrCat("each of its rows is all one value, mostly zero, so that no token ",
                            "differs from another", kFetchAgain));
  } else if (Share(odd, matrix.rows) > kMostZeroEmbeddings) {
    report.Add("zero rows", kWarning, name,
               absl::StrCat(odd, " of its ", matrix.rows,
                            " rows are all zero or all one value; only rows that pad a ",
                            "vocabulary are"));
  }
  if (s.largest > kLargestValue) {
    report.Add("magnitude", kWarning, name,
               absl::StrCat("has a value of magnitude ", s.largest,
                            "; those of trained models are below a hundred"));
  }
}

// Bits that a weight takes with its share of the scales, over all ternary matrices.
void LintBitsPerWeight(const ModelWeights& weights, LintReport& report) {
  double bits = 0, count = 0;
  for (const LayerWeights& layer : weights.layers) {
    for (const TernaryLinearWeights* linear : layer.linears()) {
      const TernaryMatrix& w = linear->w;
      const bool one_scale = w.granularity() == ScaleGranularity::kTensor;
      const int64_t scales = one_scale ? 1 : w.rows() * w.num_groups();
      const auto size = static_cast<double>(w.rows() * w.cols());
      count += size;
      bits += 2 * size + 32 * static_cast<double>(scales);
    }
  }
  if (bits / count <= kMostBitsPerWeight) return;
  report.Add("bits", kWarning, "checkpoint",
             absl::StrFormat("its ternary weights take %.2f bits each with their scales; a ternary "
                             "model has one scale for 64 weights or more, thus at most 2.5",
                             bits / count));
}

// One ternary matrix as it was counted.
struct CountedTernary {
  NamedTernary matrix;
  bool is_table;  // embedding or head
  TernaryStatistics statistics;
};

std::vector<CountedTernary> CountAllTernary(const ModelWeights& weights, ThreadPool& pool) {
  std::vector<CountedTernary> counted;
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    for (const NamedLinear& linear : NamedLinears(weights.layers[i], static_cast<int64_t>(i))) {
      counted.push_back(
          {.matrix = {linear.name, &linear.weights->w}, .is_table = false, .statistics = {}});
    }
  }
  for (const NamedTernary& table : TernaryTables(weights)) {
    counted.push_back({.matrix = table, .is_table = true, .statistics = {}});
  }
  pool.ParallelFor(std::ssize(counted), [&](int64_t i) {
    CountedTernary& one = counted[static_cast<size_t>(i)];
    one.statistics = CountTernary(*one.matrix.w);
  });
  return counted;
}

}  // namespace

std::string LintText(const LintFinding& finding) {
  return absl::StrCat(finding.severity == kError ? "error: '" : "warning: '", finding.tensor,
                      "': ", finding.message);
}

void LintReport::Add(std::string_view kind, LintFinding::Severity severity, std::string tensor,
                     std::string message) {
  auto it = std::ranges::find(kinds_, kind, &Kind::name);
  if (it == kinds_.end()) it = kinds_.insert(it, {.name = std::string(kind)});
  if (++it->count > kMostOfAKind) return;
  it->last = findings_.size();
  findings_.push_back({severity, std::move(tensor), std::move(message)});
}

std::vector<LintFinding> LintReport::Findings() && {
  for (const Kind& kind : kinds_) {
    if (kind.count <= kMostOfAKind) continue;
    absl::StrAppend(&findings_[kind.last].message, " (and ", kind.count - kMostOfAKind,
                    " more like it)");
  }
  std::ranges::stable_sort(findings_, {}, &LintFinding::severity);
  return std::move(findings_);
}

void LintWeights(const Checkpoint& checkpoint, TensorNames names, ThreadPool& pool,
                 LintReport& report) {
  const ModelConfig& config = checkpoint.config;
  const ModelWeights& weights = checkpoint.weights;
  const auto in_files = [&](const std::string& name) { return NameInFiles(name, names, config); };
  const auto lint_dense = [&](const char* name, const DenseMatrix& matrix) {
    if (matrix.rows == 0) return;  // it is ternary
    LintDense(in_files(name), matrix, IsMapped(matrix, weights), pool, report);
  };
  lint_dense(kEmbeddingName, weights.embedding);
  if (!weights.tied) lint_dense(kHeadName, weights.head);

  const std::vector<CountedTernary> counted = CountAllTernary(weights, pool);
  // By rows, columns, zeros and +1; of those that agree in all of it the codes are compared.
  std::map<std::tuple<int64_t, int64_t, int64_t, int64_t>, const CountedTernary*> seen;
  for (const CountedTernary& one : counted) {
    const std::string name = in_files(one.matrix.name + ".weight");
    const TernaryMatrix& w = *one.matrix.w;
    LintCodes(name, one.statistics, report);
    // What an embedding's scale should be no norm of its inputs says.
    if (!one.is_table) LintScale(ScaleName(one.matrix.name, names, config), w, config, report);
    if (one.statistics.nonzeros() == 0) continue;
    const TernaryStatistics& n = one.statistics;
    const auto [it, is_new] = seen.try_emplace({n.rows, n.cols, n.zeros, n.plus}, &one);
    if (is_new) continue;
    const TernaryMatrix& other = *it->second->matrix.w;
    if (!std::equal(w.packed(), w.packed() + w.packed_bytes(), other.packed())) continue;
    report.Add(
        "copy", kWarning, name,
        absl::StrCat("has the very weights of '", in_files(it->second->matrix.name + ".weight"),
                     "'; trained layers differ: one may have been copied over the other"));
  }
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    for (const NamedVector& v : NamedVectors(weights.layers[i], static_cast<int64_t>(i))) {
      LintVector(in_files(v.name), v.values, v.is_norm, report);
    }
  }
  LintVector(in_files(kFinalNormName), weights.final_norm, true, report);
  LintBitsPerWeight(weights, report);
  for (const std::string& name : checkpoint.unused_tensors) {
    report.Add("unused", kWarning, name,
               "is not used: the config describes no model that has it, and one that does may give "
               "other answers");
  }
}

Status RefuseFindings(const std::vector<LintFinding>& findings, LintRefusal refusal) {
  constexpr size_t kMostShown = 5;
  std::vector<std::string> shown;
  size_t count = 0;
  for (const LintFinding& finding : findings) {
    const bool refused = refusal == LintRefusal::kWarnings ||
                         (refusal == LintRefusal::kErrors && finding.severity == kError);
    if (!refused) continue;
    if (++count <= kMostShown) shown.push_back(LintText(finding));
  }
  if (count == 0) return absl::OkStatus();
  if (count > kMostShown) shown.push_back(absl::StrCat("and ", count - kMostShown, " more"));
  return absl::InvalidArgumentError(
      absl::StrCat("the checkpoint is not fit to be served: ", absl::StrJoin(shown, "; ")));
}

}  // namespace sterna

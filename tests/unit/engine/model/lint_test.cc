// Lint on good models, and at the edges of what it finds; broken_checkpoints_test.cc has the
// faults.
#include "engine/model/lint.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using Severity = LintFinding::Severity;

std::vector<LintFinding> Lint(const Checkpoint& checkpoint,
                              TensorNames names = TensorNames::kHuggingFace) {
  ThreadPool pool(2);
  LintReport report;
  LintWeights(checkpoint, names, pool, report);
  return std::move(report).Findings();
}

Checkpoint Good(CheckpointFamily family = CheckpointFamily::kBitNetPacked) {
  const testing::TempDir dir;
  StatusOr<Checkpoint> loaded = testing::LargerTest(family).Load(dir);
  STERNA_CHECK(loaded.ok());
  return *std::move(loaded);
}

TEST(LintTest, GoodModelsHaveNoFindings) {
  for (const CheckpointFamily family :
       {CheckpointFamily::kBitNetPacked, CheckpointFamily::kBitNetLatent,
        CheckpointFamily::kBitLinear, CheckpointFamily::kInnerNorms, CheckpointFamily::kUnpacked}) {
    const Checkpoint checkpoint = Good(family);
    for (const LintFinding& finding : Lint(checkpoint)) {
      ADD_FAILURE() << FamilyName(family) << ": " << LintText(finding);
    }
  }
}

// Scales as published models have them.
TEST(LintTest, ScalesOfPublishedModelsArePlausible) {
  Checkpoint checkpoint = Good();
  TernaryMatrix& w = checkpoint.weights.layers[0].down.w;  // 512 inputs
  const auto findings = [&](double unit_scale) {
    w.SetTensorScale(unit_scale / std::sqrt(512.0));
    return Lint(checkpoint).size();
  };
  for (const double unit : {0.3, 1.0, 4.0, 200.0}) EXPECT_EQ(findings(unit), 0u) << unit;
  for (const double unit : {1e-3, 2e3, 1e9}) EXPECT_EQ(findings(unit), 1u) << unit;
  // Rows: the middle one counts.
  std::vector<float> scales(static_cast<size_t>(w.rows()), 0.05f);
  scales[0] = 1e6f;
  w.SetRowScales(scales);
  EXPECT_EQ(Lint(checkpoint).size(), 0u);
}

TEST(LintTest, SharesHaveLimits) {
  Checkpoint checkpoint = Good();
  TernaryMatrix& w = checkpoint.weights.layers[1].up.w;  // 512 rows, 256 columns
  std::mt19937 random(4);
  // Zeros and plus in thousandths of all and of the others.
  const auto lint = [&](unsigned zeros, unsigned plus) {
    for (int64_t row = 0; row < w.rows(); ++row) {
      for (int64_t col = 0; col < w.cols(); ++col) {
        const bool zero = random() % 1000 < zeros;
        w.Set(row, col, zero ? 0 : random() % 1000 < plus ? 1 : -1);
      }
    }
    return Lint(checkpoint);
  };
  EXPECT_EQ(lint(850, 500).size(), 0u);
  EXPECT_EQ(lint(40, 500).size(), 0u);
  EXPECT_EQ(lint(300, 420).size(), 0u);
  EXPECT_THAT(LintText(lint(950, 500).at(0)), HasSubstr(" % of its weights are zero"));
  EXPECT_THAT(LintText(lint(5, 500).at(0)), HasSubstr(" % of its weights are zero"));
  EXPECT_THAT(LintText(lint(300, 250).at(0)), HasSubstr("weights -1; trained layers"));
  EXPECT_THAT(LintText(lint(300, 750).at(0)),
              HasSubstr("warning: 'model.layers.1.mlp.up_proj.weight'"));

  lint(300, 500);
  const auto clear_rows = [&](int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < w.cols(); ++col) w.Set(row, col, 0);
    }
    return Lint(checkpoint);
  };
  EXPECT_EQ(clear_rows(100).size(), 0u);
  EXPECT_THAT(LintText(clear_rows(128).at(0)), HasSubstr("128 of its 512 rows are all zero"));
}

TEST(LintTest, ScalesOfFewWeightsAreMoreThanATernaryModelHas) {
  // A scale for each row of 20 to 36 weights is a bit a weight and more.
  StatusOr<Checkpoint> small =
      testing::MakeTest(CheckpointFamily::kUnpacked).Load(testing::TempDir());
  ASSERT_TRUE(small.ok()) << small.status();
  const auto is_of_bits = [](const LintFinding& finding) {
    return LintText(finding).find("bits each with their scales") != std::string::npos;
  };
  EXPECT_EQ(std::ranges::count_if(Lint(*small), is_of_bits), 1);
  const Checkpoint larger = Good(CheckpointFamily::kUnpacked);
  EXPECT_EQ(std::ranges::count_if(Lint(larger), is_of_bits), 0);
}

TEST(LintTest, NamesTensorsThatNothingUses) {
  const testing::TempDir dir;
  testing::TestCheckpoint model = testing::LargerTest(CheckpointFamily::kBitNetPacked);
  const std::vector<float> one = {1};
  model.tensors["model.layers.0.self_attn.gate"] = testing::FloatTensor("F32", {1}, one);
  model.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] =
      testing::FloatTensor("F32", {1}, one);  // which old files have
  const StatusOr<Checkpoint> loaded = model.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::vector<LintFinding> findings = Lint(*loaded);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_THAT(LintText(findings[0]),
              HasSubstr("warning: 'model.layers.0.self_attn.gate': is not used"));
}

TEST(LintTest, NamesAreThoseOfTheFiles) {
  Checkpoint checkpoint = Good(CheckpointFamily::kInnerNorms);
  LayerWeights& layer = checkpoint.weights.layers[1];
  layer.attn_sub_norm = std::vector<float>(static_cast<size_t>(layer.attn_sub_norm.size()), 0.0f);
  EXPECT_EQ(Lint(checkpoint).at(0).tensor, "model.layers.1.self_attn.inner_attn_ln.weight");
  EXPECT_EQ(Lint(checkpoint, TensorNames::kGguf).at(0).tensor, "blk.1.attn_sub_norm.weight");
}

// Rows, and tiles with and without columns that pad, of numbers of 16 bits; of 32 bits rows.
TEST(LintTest, EveryFormOfAnEmbeddingIsCounted) {
  constexpr int64_t kRows = 530;
  for (const int64_t cols : {64, 40, 35}) {
    std::vector<std::vector<uint16_t>> rows(kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        rows[r].push_back(static_cast<uint16_t>(0x3f80 + (r + c) % 50));
      }
    }
    const auto lint = [&](bool tiles) {
      Checkpoint checkpoint = Good();
      ThreadPool pool(2);
      DenseMatrix& embedding = checkpoint.weights.embedding;
      std::vector<uint16_t> flat;
      for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
      embedding = {.type = DenseType::kBf16, .data = flat.data(), .rows = kRows, .cols = cols};
      if (tiles) {
        embedding = MakeDenseTiles(
            kRows, cols, pool,
            [&](int64_t row, std::span<uint16_t> out) {
              std::ranges::copy(rows[row], out.begin());
            },
            checkpoint.weights.buffers);
      }
      std::string text;
      for (const LintFinding& finding : Lint(checkpoint)) text += LintText(finding) + "\n";
      return text;
    };
    for (const bool tiles : {false, true}) {
      SCOPED_TRACE(::testing::Message() << cols << " columns, tiles " << tiles);
      const auto good = rows;
      EXPECT_EQ(lint(tiles), "");
      rows[kRows - 1].back() = 0xff80;  // -infinity
      EXPECT_THAT(lint(tiles), HasSubstr("row 529 holds"));
      rows[3].front() = 0x7fc1;  // NaN
      EXPECT_THAT(lint(tiles), HasSubstr("row 3 holds"));
      rows = good;
      rows[17][1] = 0xc700;  // -32768
      EXPECT_THAT(lint(tiles), HasSubstr("32768"));
      // Zeros of both signs, and rows of one value.
      for (int64_t r = 0; r < 300; ++r) {
        rows[r].assign(rows[r].size(), r % 2 == 0 ? 0x8000 : 0x4000);
      }
      EXPECT_THAT(lint(tiles), HasSubstr("300 of its 530 rows"));
      rows[0].back() = 1;
      rows[1].back() = 0x4001;
      EXPECT_THAT(lint(tiles), HasSubstr("298 of its 530 rows"));
      rows = good;
    }
  }
}

TEST(LintTest, ReportsAFewOfAKind) {
  LintReport report;
  report.Add("other", Severity::kWarning, "w", "odd");
  for (int i = 0; i < 10; ++i) report.Add("kind", Severity::kError, absl::StrCat("t", i), "bad");
  const std::vector<LintFinding> findings = std::move(report).Findings();
  ASSERT_EQ(findings.size(), 4u);
  EXPECT_EQ(LintText(findings[0]), "error: 't0': bad");
  EXPECT_EQ(LintText(findings[2]), "error: 't2': bad (and 7 more like it)");
  EXPECT_EQ(LintText(findings[3]), "warning: 'w': odd");

  EXPECT_TRUE(RefuseFindings(findings, LintRefusal::kNothing).ok());
  EXPECT_THAT(RefuseFindings(findings, LintRefusal::kErrors).message(),
              ::testing::AllOf(HasSubstr("'t1': bad"), ::testing::Not(HasSubstr("'w'"))));
  EXPECT_THAT(RefuseFindings(findings, LintRefusal::kWarnings).message(), HasSubstr("'w'"));
  EXPECT_TRUE(RefuseFindings({findings[3]}, LintRefusal::kErrors).ok());
  const std::vector<LintFinding> many(8, findings[0]);
  EXPECT_THAT(RefuseFindings(many, LintRefusal::kErrors).message(), HasSubstr("and 3 more"));
}

}  // namespace
}  // namespace sterna

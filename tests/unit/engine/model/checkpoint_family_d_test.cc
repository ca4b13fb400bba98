// LoadCheckpoint of family D: weights that are ternary already, with a scale for each row.
#include <cmath>
#include <functional>
#include <limits>

#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using testing::ByteTensor;
using testing::ExpectRefused;
using testing::FloatTensor;
using testing::kFfn;
using testing::kHidden;
using testing::MakeTest;
using testing::OneFloat;
using testing::TempDir;
using testing::TestCheckpoint;
using testing::Values;

constexpr char kUp[] = "model.layers.1.mlp.up_proj.weight";

// [kFfn, kHidden] ternary values, row r times scale(r).
std::vector<float> Rows(const std::function<float(int64_t)>& scale) {
  std::vector<float> values;
  for (int64_t i = 0; i < kFfn * kHidden; ++i) {
    values.push_back(static_cast<float>(i * i % 3 + i % 2 - 1) * scale(i / kHidden));
  }
  return values;
}

TEST(LoadFamilyDTest, CodesAndScalesAreRecoveredExactly) {
  // Row 7 is all zero; the others have one of three scales.
  const std::vector<float> values = Rows([](int64_t r) {
    return r == 7 ? 0.0f : r < 12 ? 0.3125f : r < 24 ? 0.25f : 0x1p-10f;
  });
  for (const char* type : {"F16", "BF16", "F32"}) {
    SCOPED_TRACE(type);
    TestCheckpoint test = MakeTest(CheckpointFamily::kUnpacked);
    test.tensors[kUp] = FloatTensor(type, {kFfn, kHidden}, values);
    const TempDir dir;
    const auto loaded = test.Load(dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(FamilyName(loaded->config.family), "D");
    EXPECT_TRUE(loaded->weights.layers[1].ffn_sub_norm.empty());
    const TernaryMatrix& w = loaded->weights.layers[1].up.w;
    ASSERT_EQ(w.granularity(), ScaleGranularity::kRow);
    for (int64_t r = 0; r < kFfn; ++r) {
      for (int64_t c = 0; c < kHidden; ++c) {
        const float w_rc = static_cast<float>(w.At(r, c));
        ASSERT_EQ(w_rc * w.scale(r, 0), values[static_cast<size_t>(r * kHidden + c)])
            << r << " " << c;
      }
    }
  }
}

TEST(LoadFamilyDTest, EqualRowsHaveOneScale) {
  TestCheckpoint test = MakeTest(CheckpointFamily::kUnpacked);
  test.tensors[kUp] =
      FloatTensor("F16", {kFfn, kHidden}, Rows([](int64_t r) { return r == 3 ? 0.0f : 0.375f; }));
  const TempDir dir;
  const auto loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const TernaryMatrix& w = loaded->weights.layers[1].up.w;
  EXPECT_EQ(w.granularity(), ScaleGranularity::kTensor);
  EXPECT_EQ(w.tensor_scale(), 0.375);
  EXPECT_EQ(w.At(3, 0), 0);
}

TEST(LoadFamilyDTest, RefusesWhatIsNotTernaryInEveryRow) {
  using T = TestCheckpoint;
  const auto with = [](size_t index, float value) {
    return [=](T& t) {
      std::vector<float> values = Rows([](int64_t) { return 0.5f; });
      values[index] = value;
      t.tensors[kUp] = FloatTensor("F32", {kFfn, kHidden}, values);
    };
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  ExpectRefused(
      CheckpointFamily::kUnpacked,
      {{"a value of another magnitude",
        with(5 * kHidden + 3, std::nextafterf(0.5f, 0)),
        kInvalid,
        {kUp, "in row 5, columns 0 to 19", "0.5", "(families D and E)"}},
       {"the same, negative, in the last place",
        with(kFfn * kHidden - 1, -0.25f),
        kInvalid,
        {kUp, "in row 35, columns 0 to 19", "0.25"}},
       {"not a number",
        with(2 * kHidden, std::numeric_limits<float>::quiet_NaN()),
        kDataLoss,
        {kUp, "in row 2", "finite"}},
       {"infinite",
        with(2 * kHidden, std::numeric_limits<float>::infinity()),
        kDataLoss,
        {kUp, "in row 2", "finite"}},
       {"full precision",
        [](T& t) {
          t.tensors[kUp] = FloatTensor("F16", {kFfn, kHidden}, Values(kFfn * kHidden, 1));
        },
        kInvalid,
        {kUp, "in row 0", "full precision"}},
       {"zeros",
        [](T& t) {
          t.tensors[kUp] = FloatTensor("F16", {kFfn, kHidden}, std::vector<float>(kFfn * kHidden));
        },
        kDataLoss,
        {"all its weights are zero", kUp}},
       {"packed",
        [](T& t) {
          t.tensors[kUp] =
              ByteTensor({kFfn / 4, kHidden}, std::vector<uint8_t>(kFfn / 4 * kHidden));
        },
        kInvalid,
        {kUp, "U8 [9, 20]"}},
       {"a stored scale",
        [](T& t) { t.tensors["model.layers.1.mlp.up_proj.weight_scale"] = OneFloat(1); },
        kInvalid,
        {"no quantization_config (family D)", "up_proj.weight_scale"}},
       {"sub-norms",
        [](T& t) {
          t.tensors["model.layers.0.mlp.ffn_layernorm.weight"] =
              FloatTensor("F16", {kFfn}, Values(kFfn, 1));
        },
        kInvalid,
        {"no sub-norms", "has 'model.layers.0.mlp.ffn_layernorm.weight'"}}});
}

}  // namespace
}  // namespace sterna

// What loading tests do not see: values at the edges of being ternary, resident memory, threads.
#include "engine/model/ternary_reader.h"

#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/thread_pool.h"
#include "engine/model/safetensors.h"
#include "tests/testing/memory_limit.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using testing::FloatTensor;
using ::testing::HasSubstr;
using testing::PeakMemory;
using testing::TempDir;
using testing::TensorData;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

StatusOr<TernaryMatrix> ReadRow(const std::vector<float>& values) {
  return ReadUnpacked(
      {.rows = 1,
       .cols = static_cast<int64_t>(values.size()),
       .read_row = [&](int64_t, std::span<float> row) { std::ranges::copy(values, row.begin()); },
       .where = "F: tensor 'T'"});
}

TEST(ReadUnpackedTest, RecoversEverySignOfEveryScale) {
  for (const float scale : {1.0f, 0.3f, std::numeric_limits<float>::denorm_min(),
                            std::numeric_limits<float>::min(), std::numeric_limits<float>::max()}) {
    std::vector<float> values;
    for (int i = 0; i < 77; ++i) values.push_back(i % 4 == 0 ? -0.0f : i % 4 == 1 ? 0.0f : scale);
    for (int i = 3; i < 77; i += 4) values[static_cast<size_t>(i)] = -scale;
    const StatusOr<TernaryMatrix> w = ReadRow(values);
    ASSERT_TRUE(w.ok()) << w.status();
    EXPECT_EQ(w->tensor_scale(), scale);
    for (int i = 0; i < 77; ++i) {
      EXPECT_EQ(w->At(0, i), i % 4 < 2 ? 0 : i % 4 == 2 ? 1 : -1) << scale << " " << i;
    }
  }
}

TEST(ReadUnpackedTest, RefusesOtherValuesWithTheFirstOfThem) {
  struct Case {
    std::vector<float> values;
    absl::StatusCode code;
    const char* message;
  };
  const Case cases[] = {
      {{0, 1, -1.5f, 2}, absl::StatusCode::kInvalidArgument, "magnitudes 1 and 1.5 in row 0"},
      {{0, 1.5f, -1, 0}, absl::StatusCode::kInvalidArgument, "magnitudes 1.5 and 1 in row 0"},
      {{2, 3, 0, 1}, absl::StatusCode::kInvalidArgument, "2 and 3 in row 0, columns 0 to 3,"},
      // Whose bits together are those of infinity.
      {{std::bit_cast<float>(0x7f000000), std::bit_cast<float>(0x00800000)},
       absl::StatusCode::kInvalidArgument,
       "magnitudes 1.70141e+38 and 1.17549e-38"},
      {{0, 1, kInf, 1}, absl::StatusCode::kDataLoss, "holds inf in row 0"},
      {{-kInf, -kInf}, absl::StatusCode::kDataLoss, "holds -inf in row 0"},
      {{kNan, kNan}, absl::StatusCode::kDataLoss, "holds nan in row 0"},
      {{1, kNan, 2}, absl::StatusCode::kDataLoss, "holds nan in row 0"},
      {{1, 2, kNan}, absl::StatusCode::kInvalidArgument, "magnitudes 1 and 2"},
      {{0, -0.0f}, absl::StatusCode::kDataLoss, "all its weights are zero"},
  };
  for (const Case& c : cases) {
    const Status status = ReadRow(c.values).status();
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(status.message(), HasSubstr("F: tensor 'T'"));
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
}

TEST(ReadFloatsTest, HalvesAreConvertedAtAnyAddress) {
  std::vector<uint8_t> bytes(1);  // odd
  for (uint32_t half = 0; half < 0x10000; ++half) {
    bytes.push_back(static_cast<uint8_t>(half & 0xff));
    bytes.push_back(static_cast<uint8_t>(half >> 8));
  }
  const TensorView view = {.type = TensorType::kF16, .bytes = std::span(bytes).subspan(1)};
  std::vector<float> values(0x10000);
  ReadFloats(view, 0, values);
  for (int half = 0; half < 0x10000; ++half) {
    const int exponent = half >> 10 & 31;
    const int mantissa = half & 0x3ff;
    const float value = values[static_cast<size_t>(half)];
    EXPECT_EQ(std::signbit(value), half >= 0x8000);
    if (exponent == 31) {
      EXPECT_TRUE(mantissa == 0 ? std::isinf(value) : std::isnan(value)) << half;
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(std::abs(value), magnitude) << half;
  }
}

// A tensor far larger than what it is packed into, or than what may be resident of it.
class ResidentMemoryTest : public ::testing::Test {
 protected:
  static constexpr int64_t kAllowedBytes = 12 << 20;
  static constexpr int64_t kCols = 8192;
  static constexpr int64_t kRows = 2048;

  void SetUp() override {
    if (STERNA_TEST_SANITIZED) GTEST_SKIP() << "sanitizers have memory of their own";
  }
  // One tensor "T" that repeats `pair` of bytes.
  void Write(const std::string& type, int64_t rows, int64_t bytes, const char* pair) {
    std::string data;
    while (std::ssize(data) < bytes) data.append(pair, 2);
    dir_.Write(
        "model.safetensors",
        testing::SafetensorsBytes(absl::StrCat("{\"T\":{\"dtype\":\"", type, "\",\"shape\":[", rows,
                                               ",", kCols, "],\"data_offsets\":[0,", bytes, "]}}"),
                                  data));
  }
  // Reads "T" and compares what was resident at once with what is left of it.
  template <typename Read>
  void ExpectLittleBesideWeights(Read read) {
    const StatusOr<SafetensorsCheckpoint> tensors = SafetensorsCheckpoint::Open(dir_.path());
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    TensorReader reader(*tensors);
    const PeakMemory peak;
    const StatusOr<TernaryMatrix> w = read(reader);
    ASSERT_TRUE(w.ok()) << w.status();
    EXPECT_GT(std::ssize(tensors->Find("T")->bytes), 2 * kAllowedBytes);
    EXPECT_LE(peak.growth_bytes(), w->packed_bytes() + kAllowedBytes);
  }
  TempDir dir_;
};

TEST_F(ResidentMemoryTest, ReadingUnpackedWeights) {
  Write("F16", kRows, kRows * kCols * 2, "\x00\x3c");
  ExpectLittleBesideWeights([](TensorReader& reader) {
    return ReadUnpacked(StoreOf(**reader.Get("T"), "F: tensor 'T'"));
  });
}

TEST_F(ResidentMemoryTest, ReadingLatentWeights) {
  Write("BF16", kRows, kRows * kCols * 2, "\x80\x3f");
  ExpectLittleBesideWeights(
      [](TensorReader& reader) { return ReadLatent(reader, "T", kRows, kCols); });
}

TEST_F(ResidentMemoryTest, ReadingPackedWeights) {
  Write("U8", 2 * kRows, 2 * kRows * kCols, "\x54\x56");
  ExpectLittleBesideWeights(
      [](TensorReader& reader) { return ReadPacked(reader, "T", 8 * kRows, kCols); });
}

// An embedding that becomes F32 in memory, and the same once more as the head it is tied to.
TEST_F(ResidentMemoryTest, LoadingAnEmbeddingAndItsCopy) {
  constexpr int64_t kWords = 700'000;
  testing::TestCheckpoint test = testing::MakeTest(CheckpointFamily::kBitNetPacked);
  test.config["vocab_size"] = kWords;
  const TensorData table = FloatTensor("F16", {kWords, testing::kHidden},
                                       testing::Values(kWords * testing::kHidden, 0.5f));
  test.tensors["model.embed_tokens.weight"] = table;
  test.tensors["lm_head.weight"] = table;
  dir_.Write("config.json", test.config.dump());
  dir_.Write("model.safetensors", testing::SafetensorsFileBytes(test.tensors));
  const PeakMemory peak;
  const StatusOr<Checkpoint> loaded = LoadCheckpoint(dir_.path(), {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  // The two are compared with each other.
  EXPECT_GT(std::ssize(table.bytes), 2 * kAllowedBytes);
  EXPECT_LE(peak.growth_bytes(), loaded->weights.dense_bytes() + 2 * kAllowedBytes);
}

// Neighbours in a file share pages, which one forgets while another reads them.
TEST(ReadUnpackedTest, ThreadsThatForgetPagesOfOthersReadTheSame) {
  constexpr int64_t kTensors = 8, kRows = 2100, kCols = 1021;
  std::map<std::string, TensorData> tensors;
  for (int64_t t = 0; t < kTensors; ++t) {
    std::vector<float> values(static_cast<size_t>(kRows * kCols));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(static_cast<int>((i * i + i / 1021 + t) % 3) - 1);
    }
    tensors[absl::StrCat("T", t)] = FloatTensor("BF16", {kRows, kCols}, values);
  }
  const TempDir dir;
  dir.Write("model.safetensors", testing::SafetensorsFileBytes(tensors));
  const StatusOr<SafetensorsCheckpoint> file = SafetensorsCheckpoint::Open(dir.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto read = [&](int64_t t) {
    const StatusOr<TernaryMatrix> w =
        ReadUnpacked(StoreOf(*file->Find(absl::StrCat("T", t)), "F: tensor 'T'"));
    return w.ok() ? std::vector<uint8_t>(w->packed(), w->packed() + w->packed_bytes())
                  : std::vector<uint8_t>();
  };
  std::vector<std::vector<uint8_t>> alone;
  for (int64_t t = 0; t < kTensors; ++t) alone.push_back(read(t));
  ASSERT_FALSE(alone[0].empty());
  ASSERT_NE(alone[0], alone[1]);
  ThreadPool pool(kTensors);
  std::vector<std::vector<uint8_t>> together(kTensors);
  pool.ParallelFor(kTensors, [&](int64_t t) { together[static_cast<size_t>(t)] = read(t); });
  EXPECT_EQ(together, alone);
}

}  // namespace
}  // namespace sterna

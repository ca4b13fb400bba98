#include "engine/model/fingerprint.h"

#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/gguf_model.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using testing::GgufPacking;
using testing::LargerTest;
using testing::TempDir;
using testing::TestCheckpoint;

uint64_t FingerprintOf(const Checkpoint& checkpoint, int threads = 2) {
  ThreadPool pool(threads);
  return Fingerprint(checkpoint.weights, pool);
}

uint64_t FingerprintOf(const TestCheckpoint& test) {
  const StatusOr<Checkpoint> loaded = test.Load(TempDir());
  STERNA_CHECK(loaded.ok());
  return FingerprintOf(*loaded);
}

TEST(HashBytesTest, IsXxh64) {
  std::vector<uint8_t> bytes(200);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7 + 3);
  // From the xxhash package of Python.
  EXPECT_EQ(HashBytes(std::span(bytes).first(32)), 0x23c3c17ef790fd97);
  EXPECT_EQ(HashBytes(std::span(bytes).first(64), 5), 0xac7714c41ec053a0);
  EXPECT_EQ(HashBytes(bytes), 0xa6cb3c09bc829b24);
}

TEST(FingerprintTest, IsTheSameFromEveryContainer) {
  const TempDir dir;
  const StatusOr<Checkpoint> loaded = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const uint64_t wanted = FingerprintOf(*loaded);
  EXPECT_EQ(FingerprintOf(*loaded, 1), wanted);
  for (const GgufPacking packing :
       {GgufPacking::kTq1_0, GgufPacking::kTq2_0, GgufPacking::kQ2_0Group64, GgufPacking::kF16}) {
    const std::string path = dir.Write(
        "m.gguf", testing::GgufFileBytes(testing::GgufModelOf(*loaded, "llama", packing)));
    const StatusOr<Checkpoint> gguf = LoadCheckpoint(path);
    ASSERT_TRUE(gguf.ok()) << gguf.status();
    EXPECT_EQ(FingerprintOf(*gguf), wanted) << static_cast<int>(packing);
  }
}

TEST(FingerprintTest, NoticesEveryTensor) {
  const TestCheckpoint good = LargerTest(CheckpointFamily::kBitNetPacked);
  std::set<uint64_t> seen = {FingerprintOf(good)};
  for (const auto& [name, tensor] : good.tensors) {
    TestCheckpoint changed = good;
    // The lowest bits of a float's second byte, or of four codes: 0 and 2 are each other's, 1
    // stays.
    std::string& bytes = changed.tensors[name].bytes;
    if (tensor.dtype == "U8") {
      for (char& byte : bytes) {
        if ((byte & 3) == 1) continue;
        byte = static_cast<char>(byte ^ 2);
        break;
      }
    } else {
      bytes[bytes.size() - 2] = static_cast<char>(bytes[bytes.size() - 2] ^ 1);
    }
    EXPECT_TRUE(seen.insert(FingerprintOf(changed)).second) << name;
  }
  // Two tensors that changed places.
  TestCheckpoint swapped = good;
  std::swap(swapped.tensors["model.layers.0.mlp.up_proj.weight"],
            swapped.tensors["model.layers.0.mlp.gate_proj.weight"]);
  EXPECT_TRUE(seen.insert(FingerprintOf(swapped)).second);
}

}  // namespace
}  // namespace sterna

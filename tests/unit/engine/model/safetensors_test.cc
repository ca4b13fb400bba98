#include "engine/model/safetensors.h"

#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using testing::ByteTensor;
using ::testing::ElementsAre;
using testing::FloatTensor;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::SafetensorsBytes;
using testing::SafetensorsFileBytes;
using testing::TempDir;
using testing::TensorData;

std::map<std::string, TensorData> SmallTensors() {
  const float floats[] = {1, -2, 0.5, 4, -0.25, 8};
  const uint8_t bytes[] = {1, 2, 3, 4, 5};
  return {{"a.bf16", FloatTensor("BF16", {2, 3}, floats)},
          {"b.f32", FloatTensor("F32", {6}, floats)},
          {"c.u8", ByteTensor({5, 1}, bytes)},
          {"d.f16 \\\"quoted\\\" \\u00e9", FloatTensor("F16", {3, 2}, floats)},
          {"e.scalar", FloatTensor("F32", {}, {floats, 1})},
          {"f.none", ByteTensor({0, 7}, {})}};
}

TEST(SafetensorsFileTest, ReadsTypesShapesAndBytes) {
  const TempDir dir;
  const std::string path = dir.Write("m.safetensors", SafetensorsFileBytes(SmallTensors()));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 6u);
  const TensorView* bf16 = file->Find("a.bf16");
  ASSERT_NE(bf16, nullptr);
  EXPECT_EQ(bf16->type, TensorType::kBf16);
  EXPECT_EQ(bf16->type_name, "BF16");
  EXPECT_THAT(bf16->shape, ElementsAre(2, 3));
  EXPECT_EQ(bf16->ShapeString(), "[2, 3]");
  EXPECT_EQ(bf16->num_elements(), 6);
  EXPECT_EQ(bf16->file, path);
  // 1.0 and -2.0 in bfloat16.
  EXPECT_THAT(bf16->bytes.subspan(0, 4), ElementsAre(0x80, 0x3f, 0x00, 0xc0));
  EXPECT_THAT(file->Find("c.u8")->bytes, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(file->Find("b.f32")->type, TensorType::kF32);
  EXPECT_NE(file->Find("d.f16 \"quoted\" \u00e9"), nullptr);
  EXPECT_TRUE(file->Find("e.scalar")->shape.empty());
  EXPECT_EQ(file->Find("e.scalar")->num_elements(), 1);
  EXPECT_EQ(file->Find("f.none")->bytes.size(), 0u);
  EXPECT_EQ(file->Find("absent"), nullptr);
}

TEST(SafetensorsFileTest, AcceptsMetadataPaddingAndTypesItDoesNotCompute) {
  const TempDir dir;
  const std::string header =
      R"({"__metadata__":{"format":"pt","note":"x"},"i":{"dtype":"I64","shape":[1],)"
      R"("data_offsets":[0,8]}}   )";
  const auto file =
      SafetensorsFile::Open(dir.Write("m.safetensors", SafetensorsBytes(header, "12345678")));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 1u);
  EXPECT_EQ(file->Find("i")->type, TensorType::kOther);
  EXPECT_EQ(file->Find("i")->type_name, "I64");
}

// As later versions of the format have them, of less than a byte too.
TEST(SafetensorsFileTest, TypesItDoesNotKnowAreThereToBeRefusedByName) {
  const TempDir dir;
  const std::string header = R"({"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"F4","shape":[2,4],"data_offsets":[4,8]}})";
  const auto file =
      SafetensorsFile::Open(dir.Write("m.safetensors", SafetensorsBytes(header, "12345678")));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Find("a")->type, TensorType::kOther);
  EXPECT_EQ(file->Find("a")->type_name, "F8_E8M0");
  EXPECT_EQ(file->Find("b")->type_name, "F4");
  EXPECT_EQ(file->Find("b")->bytes.size(), 4u);
}

// A file of so many tensors without a byte each.
std::string Crowd(size_t count) {
  std::string header = "{";
  for (size_t i = 0; i < count; ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"", count, ".", i,
                    R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  }
  return SafetensorsBytes(header + "}", "");
}

TEST(SafetensorsFileTest, RefusesMoreTensorsThanAnyModelHas) {
  const TempDir dir;
  const auto most = SafetensorsFile::Open(dir.Write("most.safetensors", Crowd(kMaxTensors)));
  ASSERT_TRUE(most.ok()) << most.status();
  EXPECT_EQ(most->tensors().size(), kMaxTensors);
  const Status status =
      SafetensorsFile::Open(dir.Write("more.safetensors", Crowd(kMaxTensors + 1))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), HasSubstr("more.safetensors has a malformed"));
  EXPECT_THAT(status.message(), HasSubstr("it has more than 65536 tensors"));
}

struct BadHeader {
  const char* header;
  const char* data;
  const char* message;
};

TEST(SafetensorsFileTest, RefusesBadHeadersNamingTheTensor) {
  const BadHeader cases[] = {
      {"", "", "not JSON"},
      {"[]", "", "a list at the top"},
      {"7", "", "a number at the top"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2])", "xy", "not JSON"},
      {R"({"t":5})", "", "a number under 't'"},
      {R"({"t":{"dtype":"U8","shape":[2]}})", "xy", "tensor 't' must have"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"shape":[2]}})", "xy", "tensor 't'"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("t":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       "xy", "'t' appears twice"},
      {R"({"t":{"dtype":"U9","shape":[4294967296,4294967296],"data_offsets":[0,2]}})", "xy",
       "dtype U9 and shape [4294967296, 4294967296], which takes more than 2^63"},
      {R"({"t":{"dtype":"U9","shape":[2],"data_offsets":[0,3]}})", "xy", "truncated"},
      {R"({"t":{"dtype":8,"shape":[2],"data_offsets":[0,2]}})", "xy", "a number in tensor 't'"},
      {R"({"t":{"dtype":"U8","shape":2,"data_offsets":[0,2]}})", "xy", "under 'shape'"},
      {R"({"t":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}})", "xy", "a negative number"},
      {R"({"t":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}})", "xy", "a fraction"},
      {R"({"t":{"dtype":"U8","shape":[[2]],"data_offsets":[0,2]}})", "xy", "a list in tensor 't'"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0]}})", "xy", "1 data_offsets"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,1,2]}})", "xy", "3 data_offsets"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}})", "xy", "bytes [2, 0)"},
      {R"({"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "xy", "truncated"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[18446744073709551614,18446744073709551615]}})",
       "xy", "data section of 2 bytes"},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,2]}})", "xy", "takes 8 bytes, but 2"},
      {R"({"t":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "",
       "more than 2^63"},
      {R"({"t":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}})", "", "'t'"},
      {R"({"t":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", "x",
       "so many numbers"},
      {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("u":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       "xyz", "overlap"},
      {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("u":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
       "xyz", "leave a hole"},
      {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "xyz", "tensors end at byte 1"},
      {R"({"__metadata__":{"deep":{"er":1}}})", "", "an object under 'deep'"},
      {"{\"\xff\":{}}", "", "not JSON"},
  };
  const TempDir dir;
  for (const BadHeader& bad : cases) {
    SCOPED_TRACE(bad.header);
    const std::string path = dir.Write("bad.safetensors", SafetensorsBytes(bad.header, bad.data));
    const Status status = SafetensorsFile::Open(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(), HasSubstr(path));
    EXPECT_THAT(status.message(), HasSubstr(bad.message));
  }
}

TEST(SafetensorsFileTest, DeepNestingIsAnErrorAndNotAStackOverflow) {
  const TempDir dir;
  const std::string header = R"({"t":{"dtype":"U8","shape":)" + std::string(5'000'000, '[');
  const Status status =
      SafetensorsFile::Open(dir.Write("m.safetensors", SafetensorsBytes(header, ""))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

TEST(SafetensorsFileTest, AbsurdHeaderLengthIsRefused) {
  const TempDir dir;
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'001}, ~uint64_t{0}}) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    const Status status = SafetensorsFile::Open(dir.Write("m.safetensors", bytes + "{}")).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("says its header has ", length)));
  }
}

TEST(SafetensorsFileTest, EveryTruncationIsRefused) {
  const TempDir dir;
  const std::string whole = SafetensorsFileBytes(SmallTensors());
  for (size_t size = 0; size < whole.size(); ++size) {
    const Status status =
        SafetensorsFile::Open(dir.Write("m.safetensors", whole.substr(0, size))).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << "at " << size << ": " << status;
  }
}

TEST(SafetensorsFileTest, RandomByteFlipsNeverReadOutOfBounds) {
  const TempDir dir;
  const std::string whole = SafetensorsFileBytes(SmallTensors());
  std::mt19937 random(7);
  int refused = 0;
  uint64_t sum = 0;
  for (int round = 0; round < 600; ++round) {
    std::string bytes = whole;
    const int flips = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < flips; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    const auto file = SafetensorsFile::Open(dir.Write("m.safetensors", bytes));
    refused += file.ok() ? 0 : 1;
    if (!file.ok()) continue;
    for (const auto& [name, view] : file->tensors()) {
      for (const uint8_t byte : view.bytes) sum += byte;
    }
  }
  EXPECT_GT(sum, 0u);
  EXPECT_GT(refused, 200);
}

TEST(SafetensorsFileTest, MissingFileIsNotFound) {
  const TempDir dir;
  EXPECT_EQ(SafetensorsFile::Open(dir.path() + "/none").status().code(),
            absl::StatusCode::kNotFound);
}

class ShardedTest : public ::testing::Test {
 protected:
  ShardedTest() {
    const uint8_t bytes[] = {1, 2, 3, 4};
    dir_.Write("one.safetensors", SafetensorsFileBytes({{"a", ByteTensor({2}, {bytes, 2})},
                                                        {"x", ByteTensor({1}, {bytes, 1})}}));
    dir_.Write("two.safetensors", SafetensorsFileBytes({{"b", ByteTensor({4}, bytes)}}));
  }
  StatusOr<SafetensorsCheckpoint> OpenWith(const std::string& index) {
    dir_.Write("model.safetensors.index.json", index);
    return SafetensorsCheckpoint::Open(dir_.path());
  }
  TempDir dir_;
};

TEST_F(ShardedTest, FindsTensorsInTheirShards) {
  auto checkpoint = OpenWith(
      R"({"metadata":{"total_size":6},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b"));
  EXPECT_THAT(checkpoint->Find("a")->bytes, ElementsAre(1, 2));
  EXPECT_THAT(checkpoint->Find("b")->bytes, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(checkpoint->Find("x"), nullptr);

  const std::span<const uint8_t> b = checkpoint->Find("b")->bytes;
  const auto kept = KeepHolding((*std::move(checkpoint)).TakeFiles(), {b.data()});
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_THAT(kept[0].path(), HasSubstr("two.safetensors"));
  EXPECT_THAT(b, ElementsAre(1, 2, 3, 4));
}

TEST_F(ShardedTest, RefusesMoreTensorsThanAnyModelHasInAllShards) {
  // The other shard has two.
  const auto open = [this](size_t count) {
    dir_.Write("three.safetensors", Crowd(count));
    return OpenWith(absl::StrCat(R"({"weight_map":{"a":"one.safetensors",")", count,
                                 R"(.0":"three.safetensors"}})"))
        .status();
  };
  EXPECT_TRUE(open(kMaxTensors - 2).ok());
  const Status status = open(kMaxTensors - 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), HasSubstr("index.json have more than 65536 tensors"));
}

TEST_F(ShardedTest, RefusesBadIndexes) {
  struct Case {
    const char* index;
    absl::StatusCode code;
    const char* message;
  };
  const Case cases[] = {
      {"", absl::StatusCode::kInvalidArgument, "not a JSON object"},
      {"[]", absl::StatusCode::kInvalidArgument, "not a JSON object"},
      {"{}", absl::StatusCode::kInvalidArgument, "weight_map"},
      {R"({"weight_map":[]})", absl::StatusCode::kInvalidArgument, "weight_map"},
      {R"({"weight_map":{}})", absl::StatusCode::kInvalidArgument, "weight_map"},
      {R"({"weight_map":{"a":1}})", absl::StatusCode::kInvalidArgument, "shard of tensor 'a' is 1"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", absl::StatusCode::kInvalidArgument,
       "../one.safetensors"},
      {R"({"weight_map":{"a":"/etc/one.safetensors"}})", absl::StatusCode::kInvalidArgument,
       "beside it"},
      {R"({"weight_map":{"a":"sub\\one.safetensors"}})", absl::StatusCode::kInvalidArgument,
       "beside it"},
      {R"({"weight_map":{"a":"one\u0000.safetensors"}})", absl::StatusCode::kInvalidArgument,
       "beside it"},
      {R"({"weight_map":{"a":"config.json"}})", absl::StatusCode::kInvalidArgument, "beside it"},
      {R"({"weight_map":{"a":"three.safetensors"}})", absl::StatusCode::kNotFound,
       "three.safetensors"},
      {R"({"weight_map":{"b":"one.safetensors"}})", absl::StatusCode::kDataLoss,
       "puts tensor 'b' into one.safetensors"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.index);
    const Status status = OpenWith(c.index).status();
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(status.message(), HasSubstr("model.safetensors.index.json"));
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
  const Status deep = OpenWith(std::string(100'000, '[')).status();
  EXPECT_EQ(deep.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(deep.message(), HasSubstr("levels of brackets"));
}

TEST(SafetensorsCheckpointTest, DirectoryWithoutWeightsIsNotFound) {
  const TempDir dir;
  const Status status = SafetensorsCheckpoint::Open(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("neither model.safetensors nor"));
  EXPECT_THAT(status.message(), Not(HasSubstr("pickle")));
}

TEST(SafetensorsCheckpointTest, PickledWeightsAreRefusedWithWhatToDo) {
  for (const std::string name : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    const TempDir dir;
    dir.Write(name, "x");
    const Status status = SafetensorsCheckpoint::Open(dir.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(status.message(), HasSubstr("convert " + name + " to safetensors"));
  }
}

}  // namespace
}  // namespace sterna

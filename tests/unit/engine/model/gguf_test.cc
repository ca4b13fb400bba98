#include "engine/model/gguf.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/paths.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using testing::GgufContents;
using testing::GgufFileBytes;
using testing::GgufHeaderBytes;
using testing::GgufList;
using testing::GgufNumber;
using testing::GgufText;
using ::testing::HasSubstr;
using ::testing::StrEq;
using testing::TempDir;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kF16 = 1;
constexpr uint32_t kTq2_0 = 35;
constexpr uint32_t kI2s = 36;
constexpr uint32_t kQ2_0 = 42;

// Two keys, then a [2, 3] matrix 'a.f32' of 24 bytes and a row 'b.f16' of 5 halves.
GgufContents Small() {
  return {.metadata = {{"general.architecture", GgufText("bitnet-b1.58")},
                       {"n", GgufNumber(uint32_t{7})}},
          .tensors = {{"a.f32", kF32, {3, 2}, std::string(24, 'a'), {}},
                      {"b.f16", kF16, {5}, std::string(10, 'b'), {}}}};
}

TEST(GgufFileTest, ReadsTensorsWithTheirShapesOutermostFirst) {
  const TempDir dir;
  GgufContents contents = Small();
  contents.tensors.push_back(
      {"c.tq2", kTq2_0, {512, 3, 2, 4}, std::string(2 * 3 * 2 * 4 * 66, 'c'), {}});
  contents.tensors.push_back({"d.i2s", kI2s, {64, 4}, std::string(64 + 32, 'd'), {}});
  contents.tensors.push_back({"e.q4_k", 12, {256}, std::string(144, 'e'), {}});
  for (const uint32_t version : {2u, 3u}) {
    contents.version = version;
    const std::string path = dir.Write("m.gguf", GgufFileBytes(contents));
    const auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->path(), path);
    EXPECT_EQ(file->version(), version);
    EXPECT_EQ(file->alignment(), 32);
    ASSERT_EQ(file->tensors().size(), 5u);
    const GgufTensor* a = file->Find("a.f32");
    ASSERT_NE(a, nullptr);
    EXPECT_EQ(a->name, "a.f32");
    EXPECT_EQ(a->type, GgufTensorType::kF32);
    EXPECT_THAT(a->type_name, StrEq("F32"));
    EXPECT_THAT(a->shape, ElementsAre(2, 3));
    EXPECT_EQ(a->ShapeString(), "[2, 3]");
    EXPECT_EQ(a->rows, 2);
    EXPECT_EQ(a->cols, 3);
    EXPECT_EQ(a->Where(), path + ": tensor 'a.f32' ");
    EXPECT_EQ(a->bytes.size(), 24u);
    EXPECT_EQ(a->bytes[23], 'a');
    const GgufTensor* b = file->Find("b.f16");
    EXPECT_THAT(b->shape, ElementsAre(5));
    EXPECT_EQ(b->rows, 1);
    EXPECT_EQ(b->bytes.size(), 10u);
    EXPECT_EQ(b->bytes[0], 'b');
    const GgufTensor* c = file->Find("c.tq2");
    EXPECT_THAT(c->shape, ElementsAre(4, 2, 3, 512));
    EXPECT_EQ(c->rows, 24);
    EXPECT_EQ(c->cols, 512);
    EXPECT_EQ(c->block_elements, 256);
    EXPECT_EQ(c->block_bytes, 66);
    EXPECT_EQ(c->bytes.size(), 48u * 66);
    EXPECT_EQ(file->Find("d.i2s")->bytes.size(), 96u);
    EXPECT_THAT(file->Find("e.q4_k")->type_name, StrEq("Q4_K"));
    EXPECT_EQ(file->Find("absent"), nullptr);
  }
}

TEST(GgufFileTest, HeedsTheAlignmentOfTheFile) {
  const TempDir dir;
  for (const uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    GgufContents contents = Small();
    contents.alignment = alignment;
    contents.metadata.emplace_back("general.alignment", GgufNumber(alignment));
    const auto file = GgufFile::Open(dir.Write("m.gguf", GgufFileBytes(contents)));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->alignment(), alignment);
    EXPECT_EQ(file->Find("a.f32")->bytes[0], 'a');
    EXPECT_EQ(file->Find("b.f16")->bytes[0], 'b');
    EXPECT_EQ(file->Find("b.f16")->bytes[9], 'b');
  }
}

TEST(GgufFileTest, TensorsMayLieInAnotherOrderThanTheyAreListed) {
  const TempDir dir;
  GgufContents contents = Small();
  contents.tensors[0].offset = 32;
  contents.tensors[1].offset = 0;
  contents.tensors[0].bytes.swap(contents.tensors[1].bytes);
  const auto file = GgufFile::Open(dir.Write("m.gguf", GgufFileBytes(contents)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Find("a.f32")->bytes[23], 'a');
  EXPECT_EQ(file->Find("b.f16")->bytes[9], 'b');
}

TEST(GgufFileTest, VocabulariesHaveNoTensors) {
  const TempDir dir;
  GgufContents contents = Small();
  contents.tensors.clear();
  const auto file = GgufFile::Open(dir.Write("m.gguf", GgufHeaderBytes(contents)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(*file->metadata().Integer("n"), 7);
}

TEST(GgufFileTest, ReadsPublishedVocabularies) {
  for (const char* name : {"llama-spm", "gpt-2"}) {
    const std::string path =
        testing::SharedDataPath(absl::StrCat("tokenizers/vectors/ggml-vocab-", name, ".gguf"));
    if (path.empty()) GTEST_SKIP() << "published GGUF vocabularies are not there";
    const auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    const auto tokens = file->metadata().Strings("tokenizer.ggml.tokens");
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_GE(tokens->size(), 32000u);
    const auto types = file->metadata().Integers("tokenizer.ggml.token_type");
    ASSERT_TRUE(types.ok()) << types.status();
    EXPECT_EQ(types->size(), tokens->size());
  }
}

// Both layouts that go by the number of Q2_0, alone, among others and last of an unpadded file.
TEST(GgufFileTest, TellsTheGroupsOfQ2_0BySize) {
  const TempDir dir;
  for (const int64_t group : {64, 128}) {
    for (const bool pad : {false, true}) {
      GgufContents contents = Small();
      contents.pad_last = pad;
      const int64_t bytes = 4 * 512 / group * (2 + group / 4);
      contents.tensors.insert(contents.tensors.begin() + 1,
                              {"q", kQ2_0, {512, 4}, std::string(bytes, 'q'), {}});
      // Too small to tell by itself: 36 or 34 bytes, padded to 64.
      contents.tensors.push_back({"r", kQ2_0, {128}, std::string(group == 64 ? 36 : 34, 'r'), {}});
      const auto file = GgufFile::Open(dir.Write("m.gguf", GgufFileBytes(contents)));
      ASSERT_TRUE(file.ok()) << file.status();
      for (const char* name : {"q", "r"}) {
        EXPECT_EQ(file->Find(name)->block_elements, group);
        EXPECT_EQ(file->Find(name)->block_bytes, 2 + group / 4);
      }
      EXPECT_EQ(static_cast<int64_t>(file->Find("q")->bytes.size()), bytes);
      EXPECT_EQ(file->Find("r")->bytes.size(), group == 64 ? 36u : 34u);
    }
  }
  GgufContents tiny{.metadata = {}, .tensors = {{"q", kQ2_0, {128}, std::string(40, 'q'), {}}}};
  const auto file = GgufFile::Open(dir.Write("m.gguf", GgufFileBytes(tiny)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Find("q")->block_elements, 64);
}

// What follows the last tensor does not make the others look like those of the other layout.
TEST(GgufFileTest, BytesBehindQ2_0AreThoseOfTheLast) {
  const TempDir dir;
  for (const int64_t group : {64, 128}) {
    SCOPED_TRACE(group);
    const std::string matrix(4 * 512 / group * (2 + group / 4), 'q');
    GgufContents contents{.metadata = {},
                          .tensors = {{"q", kQ2_0, {512, 4}, matrix, {}},
                                      {"r", kQ2_0, {512, 4}, matrix + std::string(64, 0), {}}}};
    const Status status = GgufFile::Open(dir.Write("m.gguf", GgufFileBytes(contents))).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(),
                HasSubstr(absl::StrCat("tensor 'r' has type Q2_0 and shape [4, 512], which takes ",
                                       matrix.size(), " bytes (in groups of ", group)));
    EXPECT_THAT(status.message(), HasSubstr("bytes of no tensor"));
  }
}

TEST(GgufFileTest, RefusesTypesOfBitNetsKernelsNamingTheWayOut) {
  const TempDir dir;
  const auto status_of = [&](uint32_t type, const char* architecture) {
    GgufContents contents = Small();
    contents.metadata[0].second = GgufText(architecture);
    contents.tensors[1] = {"b.tl", type, {128, 4}, std::string(272, 't'), {}};
    return GgufFile::Open(dir.Write("m.gguf", GgufFileBytes(contents))).status();
  };
  for (const char* architecture : {"bitnet", "bitnet-25", "bitnet-b1.58"}) {
    for (const auto& [type, name] :
         {std::pair{38, "type 38, which is TL1"}, {39, "39, which is TL2"}}) {
      const Status status = status_of(type, architecture);
      EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
      for (const char* part : {"m.gguf", "tensor 'b.tl'", name, "I2_S", "-q i2_s"}) {
        EXPECT_THAT(status.message(), HasSubstr(part));
      }
    }
  }
  EXPECT_THAT(status_of(38, "llama").message(), HasSubstr("TL1"));
  // The main line's MXFP4, which has its size.
  EXPECT_TRUE(status_of(39, "llama").ok()) << status_of(39, "llama");
}

struct Broken {
  const char* what;
  std::function<void(GgufContents&)> breaks;
  std::vector<const char*> messages;
  absl::StatusCode code = absl::StatusCode::kDataLoss;
};

std::string Raw(std::initializer_list<uint64_t> numbers) {
  std::string bytes;
  for (const uint64_t number : numbers) {
    bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
  }
  return bytes;
}

std::vector<Broken> BrokenHeaders() {
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  return {
      {"magic", [](auto& f) { f.magic = "GGML"; }, {"begins with 'GGML'", "'GGUF'"}},
      {"v1", [](auto& f) { f.version = 1; }, {"version 1", "versions 2 and 3"}, kUnimplemented},
      {"v0", [](auto& f) { f.version = 0; }, {"version 0"}, kUnimplemented},
      {"v4", [](auto& f) { f.version = 4; }, {"version 4"}, kUnimplemented},
      {"endian", [](auto& f) { f.version = 3u << 24; }, {"big-endian"}, kUnimplemented},
      {"too many keys",
       [](auto& f) { f.num_keys = uint64_t{1} << 60; },
       {"metadata keys", "1152921504606846976"}},
      {"too many tensors",
       [](auto& f) { f.num_tensors = ~uint64_t{0}; },
       {"18446744073709551615 tensors"}},
      {"a key more", [](auto& f) { f.num_keys = 3; }, {"tensor 0", "truncated"}},
      {"a key fewer", [](auto& f) { f.num_keys = 1; }, {"tensor"}},
      {"a tensor more", [](auto& f) { f.num_tensors = 3; }, {"tensor 2 has a name of 0 bytes"}},
      {"a tensor fewer", [](auto& f) { f.num_tensors = 1; }, {"'a.f32'", "bytes of no tensor"}},
      {"no key", [](auto& f) { f.metadata[1].first = ""; }, {"metadata key 1", "name of 0 bytes"}},
      {"long key",
       [](auto& f) { f.metadata[1].first = std::string(65536, 'k'); },
       {"metadata key 1", "65536"}},
      {"key twice",
       [](auto& f) { f.metadata.push_back(f.metadata[1]); },
       {"metadata 'n' appears twice"}},
      {"value type",
       [](auto& f) { f.metadata[1].second.type = 13; },
       {"metadata 'n'", "value type 13", "0 to 12"}},
      {"bool",
       [](auto& f) {
         f.metadata[1].second = {7, "\2"};
       },
       {"metadata 'n'", "bool of value 2"}},
      {"bools",
       [](auto& f) {
         f.metadata[1].second = GgufList({{7, "\1"}, {7, "\3"}});
       },
       {"metadata 'n'", "bool of value 3"}},
      {"long string",
       [](auto& f) {
         f.metadata[1].second = {8, Raw({~uint64_t{0}})};
       },
       {"metadata 'n'", "takes 18446744073709551615 bytes"}},
      {"long array",
       [](auto& f) {
         f.metadata[1].second = {9, std::string("\4\0\0\0", 4) + Raw({uint64_t{1} << 62})};
       },
       {"metadata 'n'", "4611686018427387904 uint32 values"}},
      {"array of type 99",
       [](auto& f) { f.metadata[1].second = GgufList({}, 99); },
       {"metadata 'n'", "value type 99"}},
      {"string in array",
       [](auto& f) {
         f.metadata[1].second = GgufList({GgufText("x"), {8, Raw({1000})}});
       },
       {"metadata 'n'", "takes 1000 bytes"}},
      {"nesting",
       [](auto& f) {
         for (int i = 0; i < 9; ++i) f.metadata[1].second = GgufList({f.metadata[1].second});
       },
       {"metadata 'n'", "nests arrays more than 8"}},
      {"alignment type",
       [](auto& f) { f.metadata.emplace_back("general.alignment", GgufNumber(uint64_t{32})); },
       {"'general.alignment' is a uint64", "must be a uint32"}},
      {"alignment value",
       [](auto& f) { f.metadata.emplace_back("general.alignment", GgufNumber(uint32_t{48})); },
       {"general.alignment", "48", "power of two"}},
      {"alignment 0",
       [](auto& f) { f.metadata.emplace_back("general.alignment", GgufNumber(uint32_t{0})); },
       {"general.alignment", "of value 0"}},
      {"alignment ignored",
       [](auto& f) { f.metadata.emplace_back("general.alignment", GgufNumber(uint32_t{64})); },
       {"'b.f16' begins at byte 32", "alignment of 64"}},
  };
}

std::vector<Broken> BrokenTensors() {
  return {
      {"no name", [](auto& f) { f.tensors[1].name = ""; }, {"tensor 1 has a name of 0 bytes"}},
      {"long name",
       [](auto& f) { f.tensors[1].name = std::string(65, 'n'); },
       {"tensor 1", "65 bytes", "1 to 64"}},
      {"name twice",
       [](auto& f) { f.tensors[1].name = "a.f32"; },
       {"tensor 'a.f32' appears twice"}},
      {"no dims",
       [](auto& f) { f.tensors[1].dims = {}; },
       {"tensor 'b.f16' has 0 dimensions", "1 to 4"}},
      {"5 dims",
       [](auto& f) {
         f.tensors[1].dims = {5, 1, 1, 1, 1};
       },
       {"'b.f16' has 5 dimensions"}},
      {"dim 0",
       [](auto& f) {
         f.tensors[1].dims = {5, 0};
       },
       {"'b.f16'", "dimension 0"}},
      {"dim 2^63",
       [](auto& f) { f.tensors[1].dims = {uint64_t{1} << 63}; },
       {"'b.f16'", "9223372036854775808"}},
      {"product",
       [](auto& f) {
         f.tensors[1].dims = {uint64_t{1} << 32, uint64_t{1} << 32};
       },
       {"'b.f16'", "dimension 4294967296"}},
      {"product to 0",
       [](auto& f) {
         f.tensors[1].dims = {uint64_t{1} << 32, uint64_t{1} << 31, 2};
       },
       {"'b.f16'", "dimension 2"}},
      {"bytes",
       [](auto& f) {
         f.tensors[1].dims = {uint64_t{1} << 62, 1};
       },
       {"'b.f16'", "more than 2^63 bytes"}},
      {"type", [](auto& f) { f.tensors[1].type = 43; }, {"'b.f16' has type 43"}},
      {"removed type", [](auto& f) { f.tensors[1].type = 4; }, {"'b.f16' has type 4,"}},
      {"half a block",
       [](auto& f) {
         f.tensors[1].type = kTq2_0;
         f.tensors[1].dims = {128, 2};
       },
       {"'b.f16'", "TQ2_0", "[2, 128]", "columns must be a multiple of 256"}},
      {"half an I2_S block",
       [](auto& f) {
         f.tensors[1].type = kI2s;
         f.tensors[1].dims = {64, 3};
       },
       {"'b.f16'", "I2_S", "elements must be a multiple of 128"}},
      {"misaligned",
       [](auto& f) { f.tensors[1].offset = 16; },
       {"'b.f16' begins at byte 16", "alignment of 32"}},
      {"outside",
       [](auto& f) { f.tensors[1].offset = 96; },
       {"'b.f16' begins at byte 96 of a data section of 64"}},
      {"far outside",
       [](auto& f) { f.tensors[1].offset = ~uint64_t{31}; },
       {"'b.f16' begins at byte 18446744073709551584"}},
      {"at the end", [](auto& f) { f.tensors[1].offset = 64; }, {"'a.f32'", "bytes of no tensor"}},
      {"on another",
       [](auto& f) { f.tensors[1].offset = 0; },
       {"'a.f32'", "tensor 'b.f16': they overlap"}},
      {"into another",
       [](auto& f) {
         f.tensors[0].dims = {3, 3};
       },
       {"'a.f32'", "[3, 3]", "takes 36 bytes", "has 32 bytes to tensor 'b.f16': they overlap"}},
      {"more tensors than any model has",
       [](auto& f) {
         f.num_tensors = 65'537;
         f.tensors[0].bytes = std::string(3 << 20, 'a');
       },
       {"65537 tensors, where at most 65536 are read"}},
      {"more keys than any model has",
       [](auto& f) {
         f.num_keys = 65'537;
         f.tensors[0].bytes = std::string(3 << 20, 'a');
       },
       {"65537 metadata keys, where at most 65536 are read"}},
      {"over the end",
       [](auto& f) { f.tensors[1].dims = {17}; },
       {"'b.f16'", "takes 34 bytes, but has 32 bytes to the end of the file", "truncated"}},
      {"hole before all",
       [](auto& f) { f.tensors[0].offset = 32; },
       {"'a.f32' is the first", "begins at byte 32"}},
      {"hole between",
       [](auto& f) { f.tensors[0].bytes += std::string(32, 'x'); },
       {"'a.f32'", "bytes of no tensor"}},
      {"something behind",
       [](auto& f) { f.tensors[1].bytes += std::string(32, 'x'); },
       {"'b.f16'", "to the end of the file", "bytes of no tensor"}},
      {"Q2_0 of neither size",
       [](auto& f) {
         f.tensors[1] = {"q", kQ2_0, {512, 4}, std::string(600, 'q'), {}};
       },
       {"'q'", "takes 576 bytes (in groups of 64, and no other fits"}},
  };
}

TEST(GgufFileTest, RefusesBrokenFilesNamingWhatIsBroken) {
  const TempDir dir;
  std::vector<Broken> cases = BrokenHeaders();
  for (Broken& broken : BrokenTensors()) cases.push_back(std::move(broken));
  for (const Broken& broken : cases) {
    SCOPED_TRACE(broken.what);
    GgufContents contents = Small();
    broken.breaks(contents);
    const std::string path = dir.Write("bad.gguf", GgufFileBytes(contents));
    const Status status = GgufFile::Open(path).status();
    EXPECT_EQ(status.code(), broken.code) << status;
    const std::string said(status.message());
    EXPECT_THAT(said, HasSubstr(path));
    for (const char* message : broken.messages) EXPECT_THAT(said, HasSubstr(message));
  }
}

TEST(GgufFileTest, EveryTruncationIsRefused) {
  const TempDir dir;
  GgufContents contents = Small();
  contents.metadata.emplace_back("list", GgufList({GgufText("one"), GgufText("two")}));
  contents.pad_last = false;
  const std::string whole = GgufFileBytes(contents);
  ASSERT_TRUE(GgufFile::Open(dir.Write("m.gguf", whole)).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string path = dir.Write("m.gguf", whole.substr(0, size));
    const Status status = GgufFile::Open(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << "at " << size << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr(path));
  }
}

TEST(GgufFileTest, MissingFileIsNotFound) {
  const TempDir dir;
  EXPECT_EQ(GgufFile::Open(dir.path() + "/none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sterna

#include "engine/model/gguf_metadata.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using testing::GgufBytes;
using testing::GgufList;
using testing::GgufNumber;
using testing::GgufText;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The metadata part of a file, which must outlive what is read from it.
class GgufMetadataTest : public ::testing::Test {
 protected:
  GgufMetadata Read(std::vector<std::pair<std::string, GgufBytes>> metadata) {
    bytes_ = testing::GgufFileBytes({.metadata = std::move(metadata), .tensors = {}});
    GgufCursor cursor({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()});
    EXPECT_TRUE(cursor.Take(16, "header").ok());
    const auto count = cursor.Read<uint64_t>("count");
    auto read = GgufMetadata::Read(cursor, *count, "the file");
    EXPECT_TRUE(read.ok()) << read.status();
    return *std::move(read);
  }
  std::string bytes_;
};

template <typename T>
std::pair<std::string, GgufBytes> Extreme(const char* key, bool lowest) {
  using Limits = std::numeric_limits<T>;
  return {key, GgufNumber<T>(lowest ? Limits::lowest() : Limits::max())};
}

TEST_F(GgufMetadataTest, ReadsIntegersOfEveryWidth) {
  const GgufMetadata m = Read({Extreme<uint8_t>("u8", false),
                               Extreme<int8_t>("i8", true),
                               Extreme<uint16_t>("u16", false),
                               Extreme<int16_t>("i16", true),
                               Extreme<uint32_t>("u32", false),
                               Extreme<int32_t>("i32", true),
                               Extreme<int64_t>("i64", true),
                               Extreme<uint64_t>("u64", false),
                               {"u63", GgufNumber(uint64_t{INT64_MAX})}});
  EXPECT_EQ(*m.Integer("u8"), 255);
  EXPECT_EQ(*m.Integer("i8"), -128);
  EXPECT_EQ(*m.Integer("u16"), 65535);
  EXPECT_EQ(*m.Integer("i16"), -32768);
  EXPECT_EQ(*m.Integer("u32"), 4294967295);
  EXPECT_EQ(*m.Integer("i32"), std::numeric_limits<int32_t>::lowest());
  EXPECT_EQ(*m.Integer("i64"), std::numeric_limits<int64_t>::lowest());
  EXPECT_EQ(*m.Integer("u63"), INT64_MAX);
  EXPECT_THAT(m.Integer("u64").status().message(),
              HasSubstr("the file: metadata 'u64' is a uint64, but should be an integer below"));
  EXPECT_EQ(m.values().size(), 9u);
}

TEST_F(GgufMetadataTest, ReadsFloatsBoolsAndStrings) {
  const GgufMetadata m = Read({{"f32", GgufNumber(1e-5f)},
                               {"f64", GgufNumber(1e-300)},
                               {"yes", GgufNumber(true)},
                               {"no", GgufNumber(false)},
                               {"text", GgufText(std::string("a\0b", 3))},
                               {"empty", GgufText("")}});
  EXPECT_EQ(*m.Float("f32"), 1e-5f);
  EXPECT_EQ(*m.Float("f64"), 1e-300);
  EXPECT_TRUE(*m.Bool("yes"));
  EXPECT_FALSE(*m.Bool("no"));
  EXPECT_EQ(*m.String("text"), std::string_view("a\0b", 3));
  EXPECT_EQ(*m.String("empty"), "");
}

TEST_F(GgufMetadataTest, ReadsArrays) {
  const GgufMetadata m =
      Read({{"i", GgufList({GgufNumber(int16_t{-3}), GgufNumber(int16_t{5})})},
            {"u", GgufList({GgufNumber(uint64_t{1}), GgufNumber(uint64_t{1} << 63)})},
            {"f", GgufList({GgufNumber(0.5f), GgufNumber(-2.0f)})},
            {"d", GgufList({GgufNumber(0.1)})},
            {"s", GgufList({GgufText("one"), GgufText(""), GgufText("three")})},
            {"b", GgufList({GgufNumber(true), GgufNumber(false)})},
            {"none", GgufList({}, 8)}});
  EXPECT_THAT(*m.Integers("i"), ElementsAre(-3, 5));
  EXPECT_THAT(m.Integers("u").status().message(), HasSubstr("integers below 2^63"));
  EXPECT_THAT(*m.Floats("f"), ElementsAre(0.5, -2));
  EXPECT_THAT(*m.Floats("d"), ElementsAre(0.1));
  EXPECT_THAT(*m.Strings("s"), ElementsAre("one", "", "three"));
  EXPECT_THAT(*m.Strings("none"), IsEmpty());
  EXPECT_EQ(m.Integers("none").status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<GgufValue> bools = m.Find("b")->Elements();
  ASSERT_EQ(bools.size(), 2u);
  EXPECT_EQ(bools[0].type, GgufValueType::kBool);
  EXPECT_THAT(bools[0].bytes, ElementsAre(1));
  EXPECT_THAT(bools[1].bytes, ElementsAre(0));
}

TEST_F(GgufMetadataTest, ReadsArraysOfArrays) {
  const GgufBytes strings = GgufList({GgufText("x"), GgufText("yz")});
  GgufBytes deep = GgufList({GgufNumber(uint8_t{9})});
  for (int i = 0; i < 7; ++i) deep = GgufList({deep});
  const GgufMetadata m = Read({{"a", GgufList({strings, GgufList({}, 4), strings})},
                               {"deep", deep},
                               {"after", GgufNumber(uint8_t{1})}});
  const std::vector<GgufValue> arrays = m.Find("a")->Elements();
  ASSERT_EQ(arrays.size(), 3u);
  EXPECT_EQ(arrays[1].Description(), "an array of 0 uint32 values");
  const std::vector<GgufValue> inner = arrays[2].Elements();
  ASSERT_EQ(inner.size(), 2u);
  EXPECT_THAT(inner[1].bytes, ElementsAre('y', 'z'));
  EXPECT_THAT(inner[1].Elements(), IsEmpty());
  std::vector<GgufValue> elements = {*m.Find("deep")};
  for (int i = 0; i < 8; ++i) elements = elements.at(0).Elements();
  EXPECT_THAT(elements.at(0).bytes, ElementsAre(9));
  EXPECT_EQ(*m.Integer("after"), 1);
}

TEST_F(GgufMetadataTest, LookupsSayWhatIsWantedAndWhatIsThere) {
  const GgufMetadata m = Read({{"s", GgufText("x")},
                               {"i", GgufNumber(int32_t{1})},
                               {"f", GgufNumber(1.0f)},
                               {"l", GgufList({GgufText("x")})}});
  const std::pair<Status, const char*> cases[] = {
      {m.Integer("s").status(), "'s' is a string, but should be an integer"},
      {m.Integer("f").status(), "'f' is a float32, but should be an integer"},
      {m.Float("i").status(), "'i' is an int32, but should be a float"},
      {m.Bool("i").status(), "'i' is an int32, but should be a bool"},
      {m.String("l").status(), "'l' is an array of 1 string values, but should be a string"},
      {m.Strings("s").status(), "'s' is a string, but should be an array of strings"},
      {m.Integers("l").status(), "string values, but should be an array of integers"},
      {m.Floats("l").status(), "string values, but should be an array of floats"},
  };
  for (const auto& [status, message] : cases) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(message));
    EXPECT_THAT(status.message(), HasSubstr("the file: metadata"));
  }
  for (const Status& status :
       {m.Integer("none").status(), m.Float("none").status(), m.Bool("none").status(),
        m.String("none").status(), m.Strings("none").status(), m.Integers("none").status(),
        m.Floats("none").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
    EXPECT_THAT(status.message(), HasSubstr("the file: there is no metadata 'none'"));
  }
  EXPECT_EQ(m.Find("none"), nullptr);
}

}  // namespace
}  // namespace sterna

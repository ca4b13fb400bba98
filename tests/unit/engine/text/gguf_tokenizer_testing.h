// GGUF files that hold nothing but a tokenizer, and what it takes for two tokenizers to be the
// same.
#ifndef STERNA_TESTS_UNIT_ENGINE_TEXT_GGUF_TOKENIZER_TESTING_H_
#define STERNA_TESTS_UNIT_ENGINE_TEXT_GGUF_TOKENIZER_TESTING_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "engine/model/gguf.h"
#include "engine/model/gguf_value.h"
#include "engine/text/gguf_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/temp_dir.h"

namespace sterna {

// A file with this metadata, open while the object lives.
class GgufOnDisk {
 public:
  explicit GgufOnDisk(std::span<const GgufKeyValue> metadata) {
    testing::GgufContents contents;
    for (const GgufKeyValue& pair : metadata) {
      contents.metadata.push_back(testing::GgufPair(pair));
    }
    Open(contents);
  }
  explicit GgufOnDisk(const testing::GgufContents& contents) { Open(contents); }

  const GgufMetadata& metadata() const { return file_->metadata(); }

 private:
  void Open(const testing::GgufContents& contents) {
    file_ = GgufFile::Open(directory_.Write("vocab.gguf", testing::GgufFileBytes(contents)));
    STERNA_CHECK(file_.ok());
  }

  testing::TempDir directory_;
  StatusOr<GgufFile> file_;
};

// The value of `key`, to be changed.
template <typename T>
T& ValueOf(std::vector<GgufKeyValue>& metadata, const std::string& key) {
  for (auto& [name, value] : metadata) {
    if (name == key) return std::get<T>(value);
  }
  STERNA_CHECK(false);
}

inline void Erase(std::vector<GgufKeyValue>& metadata, const std::string& key) {
  std::erase_if(metadata, [&](const GgufKeyValue& pair) { return pair.first == key; });
}

// A SentencePiece character map, as CheckCharsmap draws it, that maps "A" to "a".
struct SmallCharsmap {
  std::vector<uint32_t> units = std::vector<uint32_t>(256);
  std::string texts = std::string("a\0", 2);

  SmallCharsmap() {
    units[0] = 1U << 10;                        // children at 1 ^ byte
    units[1 ^ 'A'] = 'A' | 1U << 8 | 2U << 10;  // the value at that ^ 2
    units[1 ^ 'A' ^ 2] = 1U << 31;              // texts + 0
  }
  std::string Bytes() const {
    const auto size = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
    std::string bytes(sizeof(size) + size, '\0');
    std::memcpy(bytes.data(), &size, sizeof(size));
    std::memcpy(bytes.data() + sizeof(size), units.data(), size);
    return bytes + texts;
  }
};

inline void ExpectSameTokenizer(const Tokenizer& got, const Tokenizer& want,
                                const std::vector<std::string>& texts) {
  EXPECT_EQ(got.bos_id(), want.bos_id());
  EXPECT_EQ(got.vocab_size(), want.vocab_size());
  EXPECT_EQ(got.StripsLeadingSpace(), want.StripsLeadingSpace());
  for (int32_t id = -1; id <= want.vocab_size(); ++id) {
    ASSERT_EQ(got.IdToToken(id), want.IdToToken(id)) << id;
    ASSERT_EQ(got.TokenBytes(id), want.TokenBytes(id)) << id;
    ASSERT_EQ(got.IsSpecial(id), want.IsSpecial(id)) << id;
    ASSERT_EQ(got.TokenToId(got.IdToToken(id)), want.TokenToId(want.IdToToken(id))) << id;
  }
  for (const std::string& text : texts) {
    for (const bool add_special : {false, true}) {
      for (const bool parse_special : {false, true}) {
        const auto ids = got.Encode(text, add_special, parse_special);
        const auto want_ids = want.Encode(text, add_special, parse_special);
        ASSERT_TRUE(ids.ok() && want_ids.ok()) << text;
        ASSERT_EQ(*ids, *want_ids) << text;
        ASSERT_EQ(Decode(got, *ids), Decode(want, *ids)) << text;
      }
    }
  }
}

}  // namespace sterna

#endif  // STERNA_TESTS_UNIT_ENGINE_TEXT_GGUF_TOKENIZER_TESTING_H_

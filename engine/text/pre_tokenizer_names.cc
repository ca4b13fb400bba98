#include "engine/text/pre_tokenizer_names.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

// As the models' tokenizer.json files have them.
constexpr char kLlama3Words[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2Words[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                               R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kThreeDigits[] = "[0-9][0-9][0-9]";
// Not quite kPunctuationRegex: llama.cpp leaves the grave accent out here.
constexpr char kDefaultPunctuation[] = R"([\p{P}\$\+<=>\^~\|]+)";

PreTokenizerStep Cut(std::string regex) {
  return {PreTokenizerStep::kSplit, std::move(regex), true, true};
}

PreTokenizerStep MapBytes() { return {PreTokenizerStep::kByteMap, ""}; }

// Of several names for the same, the one that comes first is written.
std::vector<NamedPreTokenizer> AllPreTokenizers() {
  const std::vector<PreTokenizerStep> gpt2 = {Cut(kGpt2WordsRegex), MapBytes()};
  const std::vector<PreTokenizerStep> llama3 = {Cut(kLlama3Words), MapBytes()};
  const std::vector<PreTokenizerStep> qwen2 = {Cut(kQwen2Words), MapBytes()};
  const std::vector<PreTokenizerStep> digits = {Cut(kNumberRegex), Cut(kGpt2WordsRegex),
                                                MapBytes()};
  const std::string punctuation = absl::StrCat(kPunctuationRegex, "+");
  const std::string number = absl::StrCat(kNumberRegex, "+");
  // The last two steps see mapped bytes: that is how the models were trained.
  const std::vector<PreTokenizerStep> falcon = {Cut(punctuation), Cut(kGpt2WordsRegex), MapBytes(),
                                                Cut(number), Cut(kThreeDigits)};
  const std::vector<PreTokenizerStep> by_default = {Cut(kDefaultPunctuation), Cut(kGpt2WordsRegex),
                                                    Cut(number), Cut(kThreeDigits), MapBytes()};
  std::vector<NamedPreTokenizer> all;
  for (const char* name : {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon_e", "falcon-h1"}) {
    all.push_back({name, llama3, /*nfc=*/false, /*ignore_merges=*/true, /*adds_bos=*/true});
  }
  all.push_back({"smaug-bpe", llama3});
  all.push_back({"qwen2", qwen2, /*nfc=*/true});
  all.push_back({"gpt-2", gpt2});
  for (const char* name : {"mpt", "olmo"}) all.push_back({name, gpt2, /*nfc=*/true});  // GPT-NeoX
  for (const char* name : {"smollm", "starcoder"}) all.push_back({name, digits});
  all.push_back({"falcon", falcon});
  all.push_back({"default", by_default});
  return all;
}

}  // namespace

std::optional<NamedPreTokenizer> FindPreTokenizer(std::string_view name) {
  for (NamedPreTokenizer& known : AllPreTokenizers()) {
    if (known.name == name) return std::move(known);
  }
  return std::nullopt;
}

std::optional<std::string_view> PreTokenizerName(const std::vector<PreTokenizerStep>& steps,
                                                 bool nfc, bool ignore_merges) {
  for (const NamedPreTokenizer& known : AllPreTokenizers()) {
    if (known.steps == steps && known.nfc == nfc && known.ignore_merges == ignore_merges) {
      return known.name;
    }
  }
  return std::nullopt;
}

std::string PreTokenizerNames() {
  const std::vector<NamedPreTokenizer> all = AllPreTokenizers();
  std::string names;
  for (size_t i = 0; i < all.size(); ++i) {
    absl::StrAppend(&names,
                    i == 0               ? ""
                    : i + 1 < all.size() ? ", "
                                         : " and ",
                    std::string(all[i].name));
  }
  return names;
}

}  // namespace sterna

#include "engine/model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "engine/model/json_text.h"
#include "nlohmann/json.hpp"

namespace sterna {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr int64_t kMaxIndexBytes = 8 << 20;
constexpr size_t kMaxRank = 8;
constexpr char kMetadataKey[] = "__metadata__";
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

struct TypeInfo {
  std::string_view name;
  int64_t bytes;
  TensorType type;
};
constexpr TypeInfo kTypes[] = {
    {"BF16", 2, TensorType::kBf16},     {"F16", 2, TensorType::kF16},
    {"F32", 4, TensorType::kF32},       {"U8", 1, TensorType::kU8},
    {"BOOL", 1, TensorType::kOther},    {"I8", 1, TensorType::kOther},
    {"F8_E5M2", 1, TensorType::kOther}, {"F8_E4M3", 1, TensorType::kOther},
    {"I16", 2, TensorType::kOther},     {"U16", 2, TensorType::kOther},
    {"I32", 4, TensorType::kOther},     {"U32", 4, TensorType::kOther},
    {"F64", 8, TensorType::kOther},     {"I64", 8, TensorType::kOther},
    {"U64", 8, TensorType::kOther},     {"C64", 8, TensorType::kOther},
};

const TypeInfo* FindType(std::string_view name) {
  for (const TypeInfo& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

std::string TooManyTensors() {
  return absl::StrCat("more than ", kMaxTensors, " tensors, where models have a few thousand");
}

// One tensor as the header describes it.
struct HeaderEntry {
  std::string name;
  std::optional<std::string> type_name;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;  // begin and end, from the end of the header
};

// Takes the header's JSON apart while it is parsed: {"name": {"dtype": string, "shape": [counts],
// "data_offsets": [begin, end]}, ..., "__metadata__": {string: string}}. A DOM would lose duplicate
// names and let a hostile header take many times its size in memory.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  const std::vector<HeaderEntry>& entries() const { return entries_; }
  const std::string& error() const { return error_; }

  bool start_object(size_t) override {
    if (depth_ == 0) return Enter();
    if (depth_ == 1) {
      in_metadata_ = key_ == kMetadataKey;
      if (in_metadata_) return Enter();
      if (entries_.size() == kMaxTensors) return Fail(absl::StrCat("it has ", TooManyTensors()));
      entries_.push_back({.name = key_, .type_name = {}, .shape = {}, .offsets = {}});
      return Enter();
    }
    return Unexpected("an object");
  }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata_) {
      const HeaderEntry& entry = entries_.back();
      if (!entry.type_name || !entry.shape || !entry.offsets) {
        return Fail(absl::StrCat("tensor '", Shown(entry.name),
                                 "' must have \"dtype\", \"shape\" and \"data_offsets\""));
      }
    }
    --depth_;
    return true;
  }
  bool key(std::string& name) override {
    if (depth_ == 1 && !names_.insert(name).second) {
      return Fail(absl::StrCat("'", Shown(name), "' appears twice"));
    }
    key_ = name;
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ == 2 && key_ == "dtype" && !entries_.back().type_name) {
      entries_.back().type_name = value;
      return true;
    }
    return Unexpected("a string");
  }
  bool start_array(size_t) override {
    if (depth_ == 2 && !in_metadata_) {
      if (key_ == "shape") list_ = &entries_.back().shape;
      if (key_ == "data_offsets") list_ = &entries_.back().offsets;
      if (list_ != nullptr && !list_->has_value()) {
        list_->emplace();
        return Enter();
      }
    }
    return Unexpected("a list");
  }
  bool end_array() override {
    list_ = nullptr;
    --depth_;
    return true;
  }
  bool number_unsigned(uint64_t value) override {
    if (depth_ != 3 || list_ == nullptr) return Unexpected("a number");
    if ((*list_)->size() >= kMaxRank) return Unexpected("a list of so many numbers");
    (*list_)->push_back(value);
    return true;
  }
  bool number_integer(int64_t) override { return Unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { return Unexpected("a fraction"); }
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(nlohmann::json::binary_t&) override { return Unexpected("binary data"); }
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("it is not JSON at byte ", position, " near '", Shown(token), "'"));
  }

 private:
  bool Enter() {
    ++depth_;
    return true;
  }
  bool Fail(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }
  bool Unexpected(const std::string& what) {
    std::string where = depth_ == 0 ? "at the top" : absl::StrCat("under '", Shown(key_), "'");
    if (depth_ >= 2 && !in_metadata_) {
      where = absl::StrCat("in tensor '", Shown(entries_.back().name), "', ", where);
    }
    return Fail(absl::StrCat("there is ", what, " ", where, ", where the format has none"));
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  std::string key_;
  std::set<std::string> names_;
  std::vector<HeaderEntry> entries_;
  std::optional<std::vector<uint64_t>>* list_ = nullptr;
  std::string error_;
};

// shape's product times the element size; nullopt when it overflows.
std::optional<int64_t> TensorBytes(const std::vector<uint64_t>& shape, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (const uint64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) return std::nullopt;
  }
  return bytes;
}

// Checks one header entry against its own claims and the size of the data section.
StatusOr<TensorView> MakeView(const HeaderEntry& entry, std::span<const uint8_t> data,
                              const std::string& path) {
  const std::string where = absl::StrCat(path, ": tensor '", Shown(entry.name), "' ");
  // What the format has gained since is only refused where it is needed.
  const TypeInfo* known = FindType(*entry.type_name);
  if (entry.offsets->size() != 2) {
    return absl::DataLossError(absl::StrCat(where, "has ", entry.offsets->size(),
                                            " data_offsets instead of a begin and an end"));
  }
  const uint64_t begin = (*entry.offsets)[0];
  const uint64_t end = (*entry.offsets)[1];
  if (begin > end || end > data.size()) {
    return absl::DataLossError(absl::StrCat(where, "lies at bytes [", begin, ", ", end,
                                            ") of a data section of ", data.size(),
                                            " bytes: the file is truncated or corrupt"));
  }
  TensorView view{.type = known != nullptr ? known->type : TensorType::kOther,
                  .type_name = Shown(*entry.type_name),
                  .shape = {},
                  .bytes = data.subspan(begin, end - begin),
                  .file = path};
  // Elements of another type may be of any size, less than a byte too.
  const std::optional<int64_t> bytes =
      TensorBytes(*entry.shape, known != nullptr ? known->bytes : 1);
  if (!bytes.has_value() || (known != nullptr && static_cast<uint64_t>(*bytes) != end - begin)) {
    return absl::DataLossError(absl::StrCat(where, "has dtype ", view.type_name, " and shape [",
                                            absl::StrJoin(*entry.shape, ", "), "], which takes ",
                                            bytes ? absl::StrCat(*bytes) : "more than 2^63",
                                            " bytes, but ", end - begin, " bytes in the file"));
  }
  for (const uint64_t dim : *entry.shape) {
    // A dimension beside a zero escapes the product's overflow check.
    if (dim > static_cast<uint64_t>(INT64_MAX)) {
      return absl::DataLossError(absl::StrCat(where, "has an absurd dimension ", dim));
    }
    view.shape.push_back(static_cast<int64_t>(dim));
  }
  return view;
}

// The format has no holes: in order of their offsets, tensors follow one another to the last byte.
Status CheckContiguous(const std::map<std::string, TensorView, std::less<>>& tensors,
                       std::span<const uint8_t> data, const std::string& path) {
  struct Range {
    int64_t begin, end;
    const std::string* name;
  };
  std::vector<Range> ranges;
  for (const auto& [name, view] : tensors) {
    const int64_t begin = view.bytes.data() - data.data();
    ranges.push_back({begin, begin + static_cast<int64_t>(view.bytes.size()), &name});
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t expected = 0;
  for (const Range& range : ranges) {
    if (range.begin != expected) {
      return absl::DataLossError(
          absl::StrCat(path, ": tensor '", Shown(*range.name), "' begins at byte ", range.begin,
                       " but the one before it ends at ", expected, ": tensors ",
                       range.begin < expected ? "overlap" : "leave a hole"));
    }
    expected = range.end;
  }
  if (expected != static_cast<int64_t>(data.size())) {
    return absl::DataLossError(absl::StrCat(
        path, " has ", data.size(), " bytes of data, but its tensors end at byte ", expected));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t TensorView::num_elements() const {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::string TensorView::ShapeString() const {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  SafetensorsFile file(std::move(mapped));
  const std::span<const uint8_t> bytes = file.file_.bytes();
  if (bytes.size() < kLengthBytes) {
    return absl::DataLossError(absl::StrCat(path, " has ", bytes.size(), " bytes: a safetensors ",
                                            "file begins with an 8-byte header length"));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kLengthBytes) {
    return absl::DataLossError(absl::StrCat(
        path, " says its header has ", header_bytes, " bytes, but the file has ", bytes.size(),
        " and a header at most ", kMaxHeaderBytes, ": truncated, or not a safetensors file"));
  }
  const auto header = bytes.subspan(kLengthBytes, header_bytes);
  const auto data = bytes.subspan(kLengthBytes + header_bytes);
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler)) {
    return absl::DataLossError(
        absl::StrCat(path, " has a malformed safetensors header: ", handler.error()));
  }
  for (const HeaderEntry& entry : handler.entries()) {
    STERNA_ASSIGN_OR_RETURN(TensorView view, MakeView(entry, data, path));
    file.tensors_.emplace(entry.name, std::move(view));
  }
  STERNA_RETURN_IF_ERROR(CheckContiguous(file.tensors_, data, path));
  return file;
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

namespace {

// A shard is a plain file name beside the index: nothing that could lead out of the directory.
bool IsPlainShardName(std::string_view name) {
  return name.ends_with(".safetensors") &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

// The index's weight_map: tensor name to shard file name.
StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(const std::string text, ReadJsonText(path, kMaxIndexBytes));
  const auto index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto malformed = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is malformed: ", what));
  };
  if (!index.is_object()) return malformed("it is not a JSON object");
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    return malformed("\"weight_map\" must be an object of tensor names and shard files");
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : weight_map->items()) {
    if (!shard.is_string() || !IsPlainShardName(shard.get_ref<const std::string&>())) {
      return malformed(absl::StrCat("the shard of tensor '", Shown(name), "' is ",
                                    Shown(shard.dump(-1, ' ', true)),
                                    ", but must be the name of a .safetensors file beside it"));
    }
    shard_of.emplace(name, shard.get<std::string>());
  }
  return shard_of;
}

// What to do where the weights are there in the older form, else nothing.
std::string HintAtPickledWeights(const std::string& model_dir) {
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    std::error_code ignored;
    if (!std::filesystem::exists(absl::StrCat(model_dir, "/", name), ignored)) continue;
    return absl::StrCat("; convert ", name,
                        " to safetensors (docs/formats.md says how): it is pickled, and a pickle "
                        "can run any code when it is read");
  }
  return "";
}

}  // namespace

StatusOr<SafetensorsCheckpoint> SafetensorsCheckpoint::Open(const std::string& model_dir) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const std::string single = absl::StrCat(model_dir, "/", kSingleFile);
  const std::string index = absl::StrCat(model_dir, "/", kIndexFile);
  SafetensorsCheckpoint checkpoint;
  if (fs::exists(single, ignored)) {
    STERNA_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(single));
    checkpoint.path_ = single;
    checkpoint.files_.push_back(std::move(file));
    for (const auto& [name, view] : checkpoint.files_[0].tensors()) {
      checkpoint.tensors_.emplace(name, &view);
    }
    return checkpoint;
  }
  if (!fs::exists(index, ignored)) {
    return absl::NotFoundError(absl::StrCat(model_dir, " has neither ", kSingleFile, " nor ",
                                            kIndexFile, ": weights are read from safetensors",
                                            HintAtPickledWeights(model_dir)));
  }
  checkpoint.path_ = index;
  STERNA_ASSIGN_OR_RETURN(const auto shard_of, ReadIndex(index));
  std::map<std::string, size_t> file_of;  // shard name to index in files_
  size_t num_tensors = 0;
  for (const auto& [name, shard] : shard_of) file_of.emplace(shard, 0);
  for (auto& [shard, number] : file_of) {
    const std::string path = absl::StrCat(model_dir, "/", shard);
    if (!fs::exists(path, ignored)) {
      return absl::NotFoundError(
          absl::StrCat("shard ", path, ", named in ", index, ", is missing"));
    }
    STERNA_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    num_tensors += file.tensors().size();
    if (num_tensors > kMaxTensors) {
      return absl::DataLossError(absl::StrCat("the shards of ", index, " have ", TooManyTensors()));
    }
    number = checkpoint.files_.size();
    checkpoint.files_.push_back(std::move(file));
  }
  for (const auto& [name, shard] : shard_of) {
    const SafetensorsFile& file = checkpoint.files_[file_of[shard]];
    const TensorView* view = file.Find(name);
    if (view == nullptr) {
      return absl::DataLossError(absl::StrCat(index, " puts tensor '", Shown(name), "' into ",
                                              shard, ", which does not have it"));
    }
    checkpoint.tensors_.emplace(name, view);
  }
  return checkpoint;
}

const TensorView* SafetensorsCheckpoint::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : it->second;
}

std::vector<std::string> SafetensorsCheckpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, view] : tensors_) names.push_back(name);
  return names;
}

std::vector<MappedFile> SafetensorsCheckpoint::TakeFiles() && {
  std::vector<MappedFile> taken;
  for (SafetensorsFile& file : files_) taken.push_back(std::move(file).TakeFile());
  tensors_.clear();
  files_.clear();
  return taken;
}

}  // namespace sterna

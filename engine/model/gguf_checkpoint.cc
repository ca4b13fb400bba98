// Models that are split over several GGUF files.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/model/gguf.h"
#include "engine/model/json_text.h"

namespace sterna {
namespace {

constexpr char kSplitNumber[] = "split.no";  // of this file, from 0
constexpr char kSplitCount[] = "split.count";
constexpr char kSplitTensors[] = "split.tensors.count";  // in all files together
constexpr char kArchitecture[] = "general.architecture";
constexpr int64_t kMaxFiles = 65535;  // the count's type in files

// What the name of file `number`, from 0, of `count` ends with.
std::string SplitSuffix(int64_t number, int64_t count) {
  return absl::StrFormat("-%05d-of-%05d.gguf", number + 1, count);
}

// Of how many files `first` says to be the first; 1 when it says nothing, or 0, as files say that
// llama.cpp has merged again.
StatusOr<int64_t> NumFiles(const GgufFile& first) {
  if (first.metadata().Find(kSplitCount) == nullptr) return 1;
  STERNA_ASSIGN_OR_RETURN(const int64_t count, first.metadata().Integer(kSplitCount));
  if (count == 0) return 1;
  STERNA_ASSIGN_OR_RETURN(const int64_t number, first.metadata().Integer(kSplitNumber));
  if (count < 1 || count > kMaxFiles || number < 0 || number >= count) {
    return absl::DataLossError(absl::StrCat(
        first.path(), ": metadata '", kSplitNumber, "' is ", number, " and '", kSplitCount, "' ",
        count, ": the number must be below the count, and that at ", "most ", kMaxFiles));
  }
  if (number != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(first.path(), " is file ", number + 1, " of ", count,
                     " of a model: open the first, whose name ends with ", SplitSuffix(0, count)));
  }
  return count;
}

// That `file` is number `number` of the `count` that begin with `first`.
Status CheckBelongs(const GgufFile& file, const GgufFile& first, int64_t number, int64_t count) {
  STERNA_ASSIGN_OR_RETURN(const int64_t its_count, file.metadata().Integer(kSplitCount));
  STERNA_ASSIGN_OR_RETURN(const int64_t its_number, file.metadata().Integer(kSplitNumber));
  if (its_count != count || its_number != number) {
    return absl::DataLossError(absl::StrCat(
        file.path(), ": metadata '", kSplitNumber, "' is ", its_number, " and '", kSplitCount, "' ",
        its_count, ", but beside ", first.path(), " they must be ", number, " and ", count));
  }
  if (file.metadata().Find(kArchitecture) == nullptr) return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(const auto its, file.metadata().String(kArchitecture));
  STERNA_ASSIGN_OR_RETURN(const auto wanted, first.metadata().String(kArchitecture));
  if (its != wanted) {
    return absl::DataLossError(absl::StrCat(file.path(), ": metadata '", kArchitecture, "' is '",
                                            Shown(its), "', but in ", first.path(), " it is '",
                                            Shown(wanted), "': they are of different models"));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<GgufCheckpoint> GgufCheckpoint::Open(const std::string& path) {
  GgufCheckpoint checkpoint;
  std::vector<GgufFile>& files = checkpoint.files_;
  STERNA_ASSIGN_OR_RETURN(GgufFile opened, GgufFile::Open(path));
  files.push_back(std::move(opened));
  STERNA_ASSIGN_OR_RETURN(const int64_t count, NumFiles(files[0]));
  const std::string suffix = SplitSuffix(0, count);
  if (count > 1 && !path.ends_with(suffix)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " says it is the first of ", count, " files of a model: its name must end with ",
        suffix, ", and the others' likewise, so that they can be found"));
  }
  for (int64_t number = 1; number < count; ++number) {
    const std::string other =
        absl::StrCat(path.substr(0, path.size() - suffix.size()), SplitSuffix(number, count));
    StatusOr<GgufFile> file = GgufFile::Open(other);
    if (!file.ok()) {
      return Annotate(file.status(), absl::StrCat("file ", number + 1, " of the ", count, " that ",
                                                  path, " names"));
    }
    STERNA_RETURN_IF_ERROR(CheckBelongs(*file, files[0], number, count));
    files.push_back(*std::move(file));
  }
  for (const GgufFile& file : files) {
    for (const auto& [name, tensor] : file.tensors()) {
      const auto [it, is_new] = checkpoint.tensors_.emplace(name, &tensor);
      if (is_new) continue;
      return absl::DataLossError(absl::StrCat(tensor.Where(), "is in ", it->second->file, " too"));
    }
  }
  if (files[0].metadata().Find(kSplitCount) != nullptr) {
    STERNA_ASSIGN_OR_RETURN(const int64_t wanted, files[0].metadata().Integer(kSplitTensors));
    if (wanted != static_cast<int64_t>(checkpoint.tensors_.size())) {
      return absl::DataLossError(absl::StrCat(path, ": metadata '", kSplitTensors, "' is ", wanted,
                                              ", but its ", count, " files hold ",
                                              checkpoint.tensors_.size(), " tensors"));
    }
  }
  return checkpoint;
}

const GgufTensor* GgufCheckpoint::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : it->second;
}

std::vector<std::string> GgufCheckpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.emplace_back(name);
  return names;
}

std::vector<MappedFile> GgufCheckpoint::TakeFiles() && {
  std::vector<MappedFile> taken;
  for (GgufFile& file : files_) taken.push_back(std::move(file).TakeFile());
  tensors_.clear();
  files_.clear();
  return taken;
}

}  // namespace sterna

#include "engine/model/model_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/gguf_config.h"
#include "engine/model/gguf_source.h"
#include "engine/model/safetensors_source.h"

namespace sterna {
namespace {

namespace fs = std::filesystem;

constexpr char kGgufSuffix[] = ".gguf";

// Whether `name` is of another file than the first of those a model is split into.
bool IsLaterSplit(std::string_view name) {
  constexpr std::string_view kFirst = "-00001-of-";
  constexpr size_t kNumberOfFiles = 5;
  const size_t tail = kFirst.size() + kNumberOfFiles + sizeof(kGgufSuffix) - 1;
  if (name.size() < tail) return false;
  const std::string_view split = name.substr(name.size() - tail, kFirst.size());
  return split[0] == '-' && split.ends_with("-of-") && split != kFirst;
}

// The GGUF files in `directory` that a model may begin with, by name.
std::vector<std::string> GgufFilesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(kGgufSuffix) && !IsLaterSplit(name)) names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace

StatusOr<ModelFiles> ModelFiles::Open(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(absl::StrCat("there is no '", path,
                                            "'; a model is a directory with config.json, ",
                                            "a tokenizer and safetensors files, or a GGUF file"));
  }
  std::string file = path;
  if (fs::is_directory(status)) {
    const std::vector<std::string> names = GgufFilesIn(path);
    if (fs::exists(path + "/config.json", error) || names.empty()) return ModelFiles(path, {});
    if (names.size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " holds several GGUF models; name one: ", absl::StrJoin(names, ", ")));
    }
    file = absl::StrCat(path, "/", names[0]);
  }
  STERNA_ASSIGN_OR_RETURN(GgufCheckpoint gguf, GgufCheckpoint::Open(file));
  return ModelFiles(std::move(file), std::move(gguf));
}

StatusOr<ModelConfig> ReadModelConfig(const ModelFiles& files) {
  if (files.gguf() != nullptr) return ReadGgufConfig(*files.gguf());
  return ReadModelConfig(files.path());
}

StatusOr<std::unique_ptr<WeightSource>> OpenWeights(const ModelFiles& files,
                                                    const ModelConfig& config,
                                                    I2sLayout i2s_layout) {
  if (files.gguf() != nullptr) return OpenGgufSource(files.path(), config, i2s_layout);
  return OpenSafetensorsSource(files.path(), config);
}

}  // namespace sterna

// Where a model's weights come from: the tensors of one checkpoint, found by name and read in this
// engine's terms, whatever container they are in and however they are stored.
//
// Names are those of Hugging Face's checkpoints in every container, and family A's where families
// differ: "model.layers.3.self_attn.q_proj" of a linear (its tensors have suffixes),
// "model.layers.3.self_attn.attn_sub_norm.weight" of a tensor.
//
// Errors name the file and the tensor as the file calls it: NotFound for one that is not there,
// InvalidArgument for one of another type or shape than the config implies, DataLoss for values
// that no model has.
//
// Lifetime: views point into mapped files, which live as long as the source or what
// TakeMappedFiles gave away. Thread contract: any thread may read while others do.
#ifndef STERNA_ENGINE_MODEL_WEIGHT_SOURCE_H_
#define STERNA_ENGINE_MODEL_WEIGHT_SOURCE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/status.h"
#include "kernels/dense_format.h"
#include "kernels/ternary_format.h"

namespace sterna {

// A matrix of numbers where a file holds it: an embedding or an output head.
struct StoredMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  // The smallest type that holds every value exactly: kBf16 or kF32.
  DenseType type = DenseType::kF32;
  // Row `row` as floats, into `values` [cols]. Any thread.
  std::function<void(int64_t row, std::span<float> values)> read_row;
  std::span<const uint8_t> bytes;  // all rows, each as many bytes
  // Whether `bytes` are rows of `type` that ops can read where they are. Those of a kBf16 matrix
  // are rows of it in any case, if not at an address that ops take.
  bool in_place = false;
  std::string where;  // "PATH: tensor 'NAME'", for messages
};

// Which row of a matrix row `row` of a tensor is; empty where it is the same.
using RowOrder = std::function<int64_t(int64_t row)>;

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // What messages call all of it: the path of a file.
  virtual const std::string& path() const = 0;

  virtual bool Has(const std::string& name) const = 0;
  // A vector of `size` finite values.
  virtual StatusOr<std::vector<float>> Vector(const std::string& name, int64_t size) = 0;
  // The weights [rows, cols] of the linear `name`, with their scales.
  virtual StatusOr<TernaryMatrix> Ternary(const std::string& name, int64_t rows, int64_t cols) = 0;
  // An embedding or a head whose values are ternary; an empty matrix where they are others. `name`
  // is the whole tensor's.
  virtual StatusOr<TernaryMatrix> TernaryTable(const std::string& name, int64_t rows,
                                               int64_t cols) = 0;
  // An embedding or a head of numbers of any kind.
  virtual StatusOr<StoredMatrix> Matrix(const std::string& name, int64_t rows, int64_t cols) = 0;

  // After everything is read: the tensors, by the file's own names, that nothing has asked for and
  // that are not known to be of no account.
  virtual std::vector<std::string> Unused() = 0;

  // Gives away the mappings that hold any of `kept`; the others go with the source, which is of no
  // use afterwards.
  virtual std::vector<MappedFile> TakeMappedFiles(const std::set<const void*>& kept) = 0;

  // Bytes of tensors, and how many of them have been read.
  virtual int64_t total_bytes() const = 0;
  int64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

 protected:
  void CountRead(std::span<const uint8_t> bytes) {
    bytes_read_.fetch_add(static_cast<int64_t>(bytes.size()), std::memory_order_relaxed);
  }

 private:
  std::atomic<int64_t> bytes_read_{0};
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_WEIGHT_SOURCE_H_

// What is wrong with a checkpoint that loads: weights that no trained ternary model has, and a
// tokenizer or template that does not go with them. What a loader can tell from one tensor, it
// refuses itself (docs/formats.md, "What is checked").
//
// Thresholds are far from everything that published models have; each is explained where it stands.
//
// Thread contract: free functions; what they look at must not change meanwhile.
#ifndef STERNA_ENGINE_MODEL_LINT_H_
#define STERNA_ENGINE_MODEL_LINT_H_

#include <cstddef>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "engine/model/weights.h"

namespace sterna {

struct LintFinding {
  enum class Severity {
    kError,    // no trained model is like that
    kWarning,  // hardly any is
  };
  Severity severity = Severity::kWarning;
  std::string tensor;   // as the file calls it, or "tokenizer", "chat template", "checkpoint"
  std::string message;  // what was found and what would be right
};

// "error: tensor 'NAME': MESSAGE"
std::string LintText(const LintFinding& finding);

// Collects findings, a few of each kind: what is wrong with one tensor often is with all.
class LintReport {
 public:
  static constexpr size_t kMostOfAKind = 3;

  // `kind` is for counting alone.
  void Add(std::string_view kind, LintFinding::Severity severity, std::string tensor,
           std::string message);
  // Errors first, else in the order of adding; the last of a kind says how many more there are.
  std::vector<LintFinding> Findings() &&;

 private:
  struct Kind {
    std::string name;
    size_t last = 0;  // its last finding's place in findings_
    size_t count = 0;
  };
  std::vector<Kind> kinds_;
  std::vector<LintFinding> findings_;
};

// Which names messages use.
enum class TensorNames { kHuggingFace, kGguf };

// The weights, before PlaceWeights: every matrix for its share of zeros, its balance of signs, its
// scales, rows and columns of zeros and copies of another matrix; norms and biases for zeros and
// magnitudes; embedding and head for values that are not finite and rows of zeros. Reads all of
// them once.
void LintWeights(const Checkpoint& checkpoint, TensorNames names, ThreadPool& pool,
                 LintReport& report);

// Which findings refuse a load.
enum class LintRefusal { kNothing, kErrors, kWarnings };

// InvalidArgument with the first few of `findings` that `refusal` is about and their number; OK
// where there are none.
Status RefuseFindings(const std::vector<LintFinding>& findings, LintRefusal refusal);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_LINT_H_

// Lint of a whole checkpoint: its weights (engine/model/lint.h), and whether tokenizer and template
// go with them.
//
// Thread contract: free functions; what they look at must not change meanwhile.
#ifndef STERNA_ENGINE_CHECKPOINT_LINT_H_
#define STERNA_ENGINE_CHECKPOINT_LINT_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "engine/model/lint.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace sterna {

// InvalidArgument when the tokenizer has tokens that the model has no embedding for. `model`, its
// path, is for the message.
Status CheckVocabulary(const Tokenizer& tokenizer, const ModelConfig& config,
                       const std::string& model);

// Of a checkpoint before PlaceWeights; `tokenizer` and `chat_template` may be null.
std::vector<LintFinding> LintLoaded(const Checkpoint& checkpoint, TensorNames names,
                                    const Tokenizer* tokenizer, const ChatTemplate* chat_template);

// Loads what `model` names, as ModelFiles::Open takes it, with `options` and lints it. What does
// not load is an error among the findings.
std::vector<LintFinding> LintModel(const std::string& model, const LoadOptions& options);

}  // namespace sterna

#endif  // STERNA_ENGINE_CHECKPOINT_LINT_H_

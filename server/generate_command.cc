// `sterna generate`: one prompt, or a conversation in the terminal, without a server.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/command.h"
#include "server/config.h"
#include "server/prompt.h"
#include "server/validation.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateConfig : RuntimeConfig {
  std::string prompt;
  bool chat = false;
  std::string system;
  int64_t max_tokens = 256;
  double temperature = -1;
  int64_t top_k = -1;
  double top_p = -1;
  double min_p = -1;
  double repetition_penalty = -1;
  int64_t seed = -1;
  std::string stop;
};

std::vector<Flag> GenerateFlags(GenerateConfig& c) {
  std::vector<Flag> flags = RuntimeFlags(c);
  const std::vector<Flag> own = {
      {.name = "prompt",
       .value = &c.prompt,
       .help =
           "The text to continue. Without it, a conversation where standard input is a terminal, "
           "else the prompt is read from there."},
      {.name = "chat",
       .value = &c.chat,
       .help = "Treat --prompt as a message and answer through the model's chat template; without "
               "--prompt, converse line by line."},
      {.name = "system", .value = &c.system, .help = "With --chat: the system message."},
      {.name = "max-tokens",
       .value = &c.max_tokens,
       .help = "Most tokens of one answer; cut to what the context leaves.",
       .min = 1,
       .max = 1 << 24},
      {.name = "temperature",
       .value = &c.temperature,
       .help = "0: greedy; -1: the model's own recommendation, else 1.",
       .min = -1,
       .max = 2},
      {.name = "top-k",
       .value = &c.top_k,
       .help = "Draw from the k most likely tokens; 0: off; -1: the model's recommendation.",
       .min = -1,
       .max = 1 << 30},
      {.name = "top-p",
       .value = &c.top_p,
       .help = "Draw from the most likely tokens of this probability together; -1: the model's "
               "recommendation.",
       .min = -1,
       .max = 1},
      {.name = "min-p",
       .value = &c.min_p,
       .help = "Leave out tokens less likely than this share of the likeliest; -1: the model's "
               "recommendation.",
       .min = -1,
       .max = 1},
      {.name = "repetition-penalty",
       .value = &c.repetition_penalty,
       .help = "Above 1: repeat less; -1: the model's recommendation.",
       .min = -1,
       .max = 2},
      {.name = "seed",
       .value = &c.seed,
       .help = "Same seed, same text; -1: a new one every time.",
       .min = -1},
      {.name = "stop", .value = &c.stop, .help = "Text that ends the answer."},
  };
  flags.insert(flags.end(), own.begin(), own.end());
  return flags;
}

// -1 stands for "not given".
template <typename T>
std::optional<T> IfGiven(T value) {
  return value < 0 ? std::nullopt : std::optional<T>(value);
}

GenerationParameters ParametersOf(const GenerateConfig& c) {
  GenerationParameters p;
  p.temperature = IfGiven(c.temperature);
  p.top_k = IfGiven(c.top_k);
  p.top_p = IfGiven(c.top_p);
  p.min_p = IfGiven(c.min_p);
  p.repetition_penalty = IfGiven(c.repetition_penalty);
  if (c.seed >= 0) p.seed = static_cast<uint64_t>(c.seed);
  if (!c.stop.empty()) p.stop = {c.stop};
  return p;
}

class Generator {
 public:
  Generator(const GenerateConfig& config, Runtime* runtime, const GenerationDefaults& defaults)
      : config_(config), runtime_(*runtime), defaults_(defaults) {}

  // Continues `prompt`.
  Status Complete(const std::string& prompt) {
    STERNA_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                            EncodePrompt(runtime_, prompt, true, "--prompt"));
    return Stream(std::move(ids)).status();
  }
  // Answers one message; remembers both.
  Status Reply(const std::string& message);
  // Answers line by line until the input ends.
  Status Converse();

 private:
  // Prints what is generated as it comes, then its usage on standard error; the text.
  StatusOr<std::string> Stream(std::vector<int32_t> prompt);

  const GenerateConfig& config_;
  Runtime& runtime_;
  const GenerationDefaults defaults_;
  Json messages_ = Json::array();
};

StatusOr<std::string> Generator::Stream(std::vector<int32_t> prompt) {
  const ModelLimits limits = {.vocab_size = runtime_.info().vocab_size,
                              .max_context_tokens = runtime_.info().max_context_tokens};
  STERNA_ASSIGN_OR_RETURN(Request request, BuildRequest(ParametersOf(config_), defaults_, limits,
                                                        std::move(prompt), config_.max_tokens));
  request.id = RandomId("cli-");
  STERNA_ASSIGN_OR_RETURN(const std::shared_ptr<TokenStream> stream,
                          runtime_.engine().Submit(std::move(request)));
  std::string text;
  while (true) {
    const StreamUpdate update = stream->WaitAndTake();
    std::fputs(update.text.c_str(), stdout);
    std::fflush(stdout);
    text += update.text;
    if (!update.end.has_value()) continue;
    std::fputs("\n", stdout);
    if (!update.end->error.ok()) return update.end->error;
    const Usage& usage = update.end->usage;
    std::fprintf(stderr, "[%lld + %lld tokens, %lld mJ (%s), %s]\n",
                 static_cast<long long>(usage.prompt_tokens),
                 static_cast<long long>(usage.completion_tokens),
                 static_cast<long long>((usage.energy_nj + 500'000) / 1'000'000),
                 usage.energy_method.c_str(),
                 std::string(FinishReasonName(update.end->reason)).c_str());
    return text;
  }
}

Status Generator::Reply(const std::string& message) {
  if (messages_.empty() && !config_.system.empty()) {
    messages_.push_back({{"role", "system"}, {"content", config_.system}});
  }
  messages_.push_back({{"role", "user"}, {"content", message}});
  ChatTemplateInput input;
  input.messages_json = messages_.dump(-1, ' ', false, Json::error_handler_t::replace);
  STERNA_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          EncodeChat(runtime_, std::move(input), false, std::time(nullptr)));
  STERNA_ASSIGN_OR_RETURN(const std::string answer, Stream(std::move(ids)));
  messages_.push_back({{"role", "assistant"}, {"content", answer}});
  return absl::OkStatus();
}

Status Generator::Converse() {
  std::fputs("Type a message and Enter; Ctrl-D ends.\n", stderr);
  std::string line;
  while (std::fputs("> ", stderr), std::getline(std::cin, line)) {
    if (line.empty()) continue;
    STERNA_RETURN_IF_ERROR(Reply(line));
  }
  std::fputs("\n", stderr);
  return absl::OkStatus();
}

int RunGenerate(std::span<const std::string> args) {
  GenerateConfig config;
  Status status = ParseFlags(args, GenerateFlags(config));
  if (status.ok()) status = ResolveModel(config);
  if (!status.ok()) return UsageError(status);
  const StatusOr<GenerationDefaults> defaults = ReadGenerationDefaults(config.model);
  if (!defaults.ok()) return Failure(defaults.status());
  const StatusOr<std::unique_ptr<Runtime>> runtime =
      Runtime::Create(ToRuntimeOptions(config), nullptr, &Clock::Steady());
  if (!runtime.ok()) return Failure(runtime.status());
  Generator generator(config, runtime->get(), *defaults);
  if (config.prompt.empty() && (config.chat || isatty(STDIN_FILENO) != 0)) {
    status = generator.Converse();
  } else {
    if (config.prompt.empty()) {
      config.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
    }
    status = config.chat ? generator.Reply(config.prompt) : generator.Complete(config.prompt);
  }
  return status.ok() ? kExitOk : Failure(status);
}

std::string DescribeGenerateFlags(bool markdown) {
  GenerateConfig config;
  return DescribeFlags(GenerateFlags(config), markdown);
}

}  // namespace

Command GenerateCommand() {
  return {.name = "generate",
          .summary = "Continues one prompt, or converses in the terminal.",
          .run = &RunGenerate,
          .describe_flags = &DescribeGenerateFlags};
}

}  // namespace sterna

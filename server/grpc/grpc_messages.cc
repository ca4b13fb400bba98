#include "server/grpc/grpc_messages.h"

#include <algorithm>

namespace sterna {
namespace {

template <typename T, typename U>
void SetIf(bool has, U value, std::optional<T>* out) {
  if (has) *out = static_cast<T>(value);
}

v1::Finish::Reason ReasonOf(FinishReason reason) {
  return reason == FinishReason::kLength ? v1::Finish::REASON_LENGTH : v1::Finish::REASON_STOP;
}

void FillFinish(const Completion& end, v1::Finish* finish) {
  finish->set_reason(ReasonOf(end.reason));
  if (end.stop_string.has_value()) finish->set_stop_string(*end.stop_string);
  if (end.stop_token.has_value()) finish->set_stop_token_id(*end.stop_token);
  v1::Usage* usage = finish->mutable_usage();
  usage->set_prompt_tokens(end.usage.prompt_tokens);
  usage->set_completion_tokens(end.usage.completion_tokens);
  usage->set_energy_millijoules((end.usage.energy_nj + 500'000) / 1'000'000);
  usage->set_energy_method(end.usage.energy_method);
}

void FillToken(const Tokenizer& tokenizer, const OutputToken& token, bool with_logprobs,
               v1::OutputToken* out) {
  out->set_id(token.id);
  if (with_logprobs) out->set_logprob(token.logprob);
  for (const TokenLogprob& t : token.top) {
    v1::TokenLogprob* top = out->add_top_logprobs();
    top->set_token_id(t.token);
    top->set_logprob(t.logprob);
    top->set_token(tokenizer.TokenBytes(t.token));
  }
}

}  // namespace

GenerationParameters ParametersOf(const v1::GenerateRequest& request) {
  GenerationParameters out;
  const v1::SamplingParameters& s = request.sampling();
  SetIf(s.has_temperature(), s.temperature(), &out.temperature);
  SetIf(s.has_top_k(), s.top_k(), &out.top_k);
  SetIf(s.has_top_p(), s.top_p(), &out.top_p);
  SetIf(s.has_min_p(), s.min_p(), &out.min_p);
  SetIf(s.has_repetition_penalty(), s.repetition_penalty(), &out.repetition_penalty);
  SetIf(s.has_presence_penalty(), s.presence_penalty(), &out.presence_penalty);
  SetIf(s.has_frequency_penalty(), s.frequency_penalty(), &out.frequency_penalty);
  for (const auto& [token, bias] : s.logit_bias()) {
    out.logit_bias.emplace_back(token, static_cast<double>(bias));
  }
  SetIf(s.has_seed(), s.seed(), &out.seed);
  SetIf(s.has_logprobs(), s.logprobs(), &out.num_logprobs);
  SetIf(s.has_prompt_logprobs(), s.prompt_logprobs(), &out.num_prompt_logprobs);
  out.allows_no_output = s.has_prompt_logprobs();
  const v1::StopParameters& stop = request.stop();
  SetIf(stop.has_max_tokens(), stop.max_tokens(), &out.max_tokens);
  out.stop.assign(stop.stop().begin(), stop.stop().end());
  out.stop_token_ids.assign(stop.stop_token_ids().begin(), stop.stop_token_ids().end());
  out.ignore_eos = stop.ignore_eos();
  out.include_stop = stop.include_stop();
  out.priority = request.priority();
  return out;
}

void FillResponse(const Tokenizer& tokenizer, const StreamUpdate& update, bool with_logprobs,
                  v1::GenerateResponse* response) {
  response->set_text(update.text);
  for (const OutputToken& token : update.prompt_logprobs) {
    FillToken(tokenizer, token, /*with_logprobs=*/true, response->add_prompt_tokens());
  }
  for (const OutputToken& token : update.tokens) {
    FillToken(tokenizer, token, with_logprobs, response->add_tokens());
  }
  if (update.end.has_value()) FillFinish(*update.end, response->mutable_finish());
}

void FillModel(const std::string& name, const Runtime& runtime, v1::GetModelResponse* response) {
  const ModelInfo& info = runtime.info();
  response->set_name(name);
  response->set_family(info.family);
  response->set_architecture(info.architecture);
  response->set_device(info.device);
  response->set_parameters(info.parameters);
  response->set_ternary_bytes(info.ternary_bytes);
  response->set_dense_bytes(info.dense_bytes);
  response->set_kv_cache_bytes(info.kv_cache_bytes);
  response->set_max_context_tokens(info.max_context_tokens);
  response->set_vocab_size(info.vocab_size);
  response->set_version(STERNA_VERSION);
  response->set_energy_method(runtime.energy_meter().method());
  response->set_energy_scope(runtime.energy_meter().scope());
}

grpc::Status ToGrpcStatus(const Status& status) {
  // The numbers of the two enums are the same by design.
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

std::string MetadataValue(const std::string& text) {
  std::string out = text;
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c < 0x20 || c == 0x7f; }, '?');
  return out;
}

std::string GrpcCodeName(grpc::StatusCode code) {
  return code == grpc::StatusCode::OK
             ? "OK"
             : absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace sterna

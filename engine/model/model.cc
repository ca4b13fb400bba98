#include "engine/model/model.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sterna {
namespace {

// The norm in front of an inner linear: the block's sub-norm (BitNet), else the linear's own.
struct InnerNorm {
  std::span<const float> weight;
  double eps;
};

InnerNorm InnerNormOf(const ModelConfig& config, const std::vector<float>& sub_norm,
                      const TernaryLinearWeights& linear) {
  if (!sub_norm.empty()) return {sub_norm, config.rms_norm_eps};
  return {linear.in_norm, config.linear_rms_norm_eps};
}

}  // namespace

template <typename F>
Model<F>::QuantizedWorkspace::QuantizedWorkspace(int64_t rows, int64_t cols)
    : q(rows * RoundUp(cols, kTernaryBlockCols)), scale(rows), sum(rows) {}

template <typename F>
QuantizedMat<F> Model<F>::QuantizedWorkspace::Rows(int64_t rows, int64_t cols) {
  return {.q = q.data(),
          .stride = RoundUp(cols, kTernaryBlockCols),
          .scale = scale.data(),
          .sum = sum.data(),
          .rows = rows,
          .cols = cols,
          .group_size = cols};
}

template <typename F>
Model<F>::Model(const ModelConfig* config, const ModelWeights* weights, Ops<F>* ops,
                int64_t max_step_tokens, int64_t max_logit_rows)
    : config_(config),
      weights_(weights),
      ops_(ops),
      max_step_tokens_(max_step_tokens),
      max_logit_rows_(max_logit_rows),
      inv_freq_(config->rope.InverseFrequencies(config->head_dim)),
      x_(max_step_tokens, config->hidden_size),
      normed_(max_step_tokens, config->hidden_size),
      q_(max_step_tokens, config->num_heads * config->head_dim),
      k_(max_step_tokens, config->num_kv_heads * config->head_dim),
      v_(max_step_tokens, config->num_kv_heads * config->head_dim),
      attention_(max_step_tokens, config->num_heads * config->head_dim),
      ffn_(max_step_tokens, config->ffn_size),
      cos_(max_step_tokens, config->head_dim / 2),
      sin_(max_step_tokens, config->head_dim / 2),
      quantized_(max_step_tokens, std::max({config->hidden_size, config->ffn_size,
                                            config->num_heads * config->head_dim})),
      last_x_(max_logit_rows, config->hidden_size),
      last_q_(max_logit_rows, config->num_heads * config->head_dim),
      logits_(max_logit_rows, config->vocab_size) {
  if (!config->linear_rms_norm) return;
  for (int i = 0; i < 3; ++i) linear_inputs_.emplace_back(max_step_tokens, config->hidden_size);
}

template <typename F>
StatusOr<Mat<const F>> Model<F>::Forward(const StepBatch& batch, KvCache<F>& cache,
                                         std::span<const SampleParams> samples) {
  const int64_t tokens = batch.num_tokens();
  const int64_t rows = batch.num_logits();
  STERNA_CHECK(tokens >= 1 && tokens <= max_step_tokens_ && rows <= tokens &&
               rows <= max_logit_rows_);

  const Mat<F> x = x_.Rows(tokens);
  ops_->EmbedTokens({.token_ids = batch.token_ids, .table = weights_->embedding, .x = x});
  ops_->RotaryTable({.positions = batch.positions,
                     .inv_freq = inv_freq_,
                     .cos = cos_.Rows(tokens),
                     .sin = sin_.Rows(tokens)});
  ActiveTokens active = {
      .x = x, .q = q_.Rows(tokens), .positions = batch.positions, .sequence = batch.sequence};
  for (int64_t layer = 0; layer < config_->num_layers; ++layer) {
    ProjectQkv(weights_->layers[layer], batch, cache.Layer(layer));
    if (layer + 1 == config_->num_layers) active = LogitTokens(batch);
    if (active.x.rows == 0) break;
    Attention(weights_->layers[layer], active, batch, cache.Layer(layer));
    FeedForward(weights_->layers[layer], active.x);
  }

  const Mat<F> logits = logits_.Rows(rows);
  if (rows > 0) {
    const Mat<F> last = active.x;
    ops_->RmsNorm({.x = AsConst(last), .weight = weights_->final_norm, .eps = eps(), .y = last});
    if (samples.empty() || weights_->shortlist.empty()) {
      ops_->DenseLinear({.x = AsConst(last), .w = weights_->head, .y = logits});
    } else {
      ops_->ShortlistLinear({.x = AsConst(last),
                             .w = weights_->head,
                             .shortlist = weights_->shortlist,
                             .params = samples,
                             .y = logits});
    }
  }
  STERNA_RETURN_IF_ERROR(ops_->Finish());
  return AsConst(logits);
}

template <typename F>
void Model<F>::ProjectQkv(const LayerWeights& layer, const StepBatch& batch, const KvView<F>& kv) {
  const int64_t tokens = batch.num_tokens();
  const Mat<F> q = q_.Rows(tokens);
  const Mat<F> k = k_.Rows(tokens);
  const Mat<F> v = v_.Rows(tokens);
  const auto [q_in, k_in, v_in] =
      NormedInputs<3>(AsConst(x_.Rows(tokens)), layer.input_norm, {&layer.q, &layer.k, &layer.v});
  ops_->TernaryLinears(
      std::array{Product(layer.q, q_in, q), Product(layer.k, k_in, k), Product(layer.v, v_in, v)});
  ops_->RopeAppendKv({.q = q,
                      .k = k,
                      .v = AsConst(v),
                      .cos = AsConst(cos_.Rows(tokens)),
                      .sin = AsConst(sin_.Rows(tokens)),
                      .slots = batch.slots,
                      .norm_eps = eps(),
                      .kv = kv});
}

template <typename F>
typename Model<F>::ActiveTokens Model<F>::LogitTokens(const StepBatch& batch) {
  const Mat<F> x = last_x_.Rows(batch.num_logits());
  const Mat<F> q = last_q_.Rows(batch.num_logits());
  if (x.rows > 0) {
    ops_->GatherRows({.x = AsConst(x_.Rows(batch.num_tokens())), .rows = batch.logit_rows, .y = x});
    ops_->GatherRows({.x = AsConst(q_.Rows(batch.num_tokens())), .rows = batch.logit_rows, .y = q});
  }
  last_positions_.clear();
  last_sequence_.clear();
  for (const int32_t row : batch.logit_rows) {
    last_positions_.push_back(batch.positions[row]);
    last_sequence_.push_back(batch.sequence[row]);
  }
  return {.x = x, .q = q, .positions = last_positions_, .sequence = last_sequence_};
}

template <typename F>
void Model<F>::Attention(const LayerWeights& layer, const ActiveTokens& tokens,
                         const StepBatch& batch, const KvView<F>& kv) {
  const Mat<F> attention = attention_.Rows(tokens.x.rows);
  ops_->PagedAttention(
      {.q = AsConst(tokens.q),
       .kv = kv,
       .positions = tokens.positions,
       .sequence = tokens.sequence,
       .block_tables = {batch.block_tables.data(), batch.num_sequences, batch.max_blocks},
       .scale = F(1) / std::sqrt(static_cast<F>(config_->head_dim)),
       .o = attention});
  const InnerNorm norm = InnerNormOf(*config_, layer.attn_sub_norm, layer.o);
  const QuantizedMat<F> quantized = quantized_.Rows(attention.rows, attention.cols);
  ops_->RmsNormQuantize({.x = AsConst(attention),
                         .weight = norm.weight,
                         .eps = static_cast<F>(norm.eps),
                         .out = quantized});
  ops_->TernaryLinear(Product(layer.o, quantized, tokens.x, /*accumulate=*/true));
}

template <typename F>
void Model<F>::FeedForward(const LayerWeights& layer, Mat<F> x) {
  const Mat<F> h = ffn_.Rows(x.rows);
  const auto [gate_in, up_in] =
      NormedInputs<2>(AsConst(x), layer.post_attention_norm, {&layer.gate, &layer.up});
  ops_->GatedLinear({.gate = {.q = gate_in, .w = &layer.gate.w, .bias = layer.gate.bias},
                     .up = {.q = up_in, .w = &layer.up.w, .bias = layer.up.bias},
                     .activation = config_->activation,
                     .h = h});
  const InnerNorm norm = InnerNormOf(*config_, layer.ffn_sub_norm, layer.down);
  const QuantizedMat<F> quantized = quantized_.Rows(h.rows, h.cols);
  ops_->RmsNormQuantize(
      {.x = AsConst(h), .weight = norm.weight, .eps = static_cast<F>(norm.eps), .out = quantized});
  ops_->TernaryLinear(Product(layer.down, quantized, x, /*accumulate=*/true));
}

template <typename F>
template <size_t kLinears>
std::array<QuantizedMat<F>, kLinears> Model<F>::NormedInputs(
    Mat<const F> x, std::span<const float> norm,
    const std::array<const TernaryLinearWeights*, kLinears>& linears) {
  std::array<QuantizedMat<F>, kLinears> inputs;
  if (!config_->linear_rms_norm) {
    inputs.fill(quantized_.Rows(x.rows, x.cols));
    ops_->RmsNormQuantize({.x = x, .weight = norm, .eps = eps(), .out = inputs[0]});
    return inputs;
  }
  const Mat<F> normed = normed_.Rows(x.rows);
  ops_->RmsNorm({.x = x, .weight = norm, .eps = eps(), .y = normed});
  for (size_t i = 0; i < kLinears; ++i) {
    inputs[i] = linear_inputs_[i].Rows(x.rows, x.cols);
    ops_->RmsNormQuantize({.x = AsConst(normed),
                           .weight = linears[i]->in_norm,
                           .eps = static_cast<F>(config_->linear_rms_norm_eps),
                           .out = inputs[i]});
  }
  return inputs;
}

template <typename F>
EnergyCostModel Model<F>::energy_costs(KvType kv_type) const {
  const double head_elements = static_cast<double>(weights_->head.rows * weights_->head.cols);
  double ternary_elements = 0;
  for (const LayerWeights& layer : weights_->layers) {
    for (const auto* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      ternary_elements += static_cast<double>(linear->w.rows() * linear->w.cols());
    }
  }
  // A few sequences read less of the head; their shares stay the same.
  return {.weight_bytes = static_cast<double>(weights_->step_bytes(kMostHighBitsRows + 1)),
          .macs_per_token = ternary_elements + head_elements,
          .kv_bytes_per_context_token =
              static_cast<double>(KvCache<F>::BytesPerBlock(*config_, kv_type)) / kKvBlockTokens};
}

template class Model<float>;
template class Model<double>;

}  // namespace sterna

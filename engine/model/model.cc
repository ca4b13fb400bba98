#include "engine/model/model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <ranges>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/cache/block_table.h"

namespace sterna {
namespace {

// The norm in front of an inner linear: the block's sub-norm (BitNet), else the linear's own.
struct InnerNorm {
  std::span<const float> weight;
  double eps;
};

InnerNorm InnerNormOf(const ModelConfig& config, const WeightVector& sub_norm,
                      const TernaryLinearWeights& linear) {
  if (!sub_norm.empty()) return {sub_norm, config.rms_norm_eps};
  return {linear.in_norm, config.linear_rms_norm_eps};
}

bool AllBelow(std::span<const int32_t> values, int64_t end) {
  return std::ranges::all_of(values, [end](int32_t value) { return value >= 0 && value < end; });
}

// Steps of more tokens take a device long enough that telling it costs nothing.
constexpr int64_t kMostRecordedTokens = 256;

// So that few sizes occur, and little is computed for nothing.
int64_t RoundUpToRecord(int64_t tokens) {
  if (tokens <= 8) return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens)));
  return RoundUp(tokens, tokens <= 64 ? 8 : 32);
}

}  // namespace

template <typename F>
Status Model<F>::Workspace::Allocate(Ops<F>& ops, int64_t rows, int64_t num_cols) {
  STERNA_ASSIGN_OR_RETURN(data, AllocateArray<F>(ops, rows * num_cols));
  cols = num_cols;
  return absl::OkStatus();
}

template <typename F>
Status Model<F>::QuantizedWorkspace::Allocate(Ops<F>& ops, int64_t rows, int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(q, AllocateArray<int8_t>(ops, rows * RoundUp(cols, kTernaryBlockCols)));
  const int64_t groups = rows * (group_size > 0 ? CeilDiv(cols, group_size) : 1);
  STERNA_ASSIGN_OR_RETURN(scale, AllocateArray<F>(ops, groups));
  STERNA_ASSIGN_OR_RETURN(sum, AllocateArray<int32_t>(ops, groups));
  return absl::OkStatus();
}

template <typename F>
QuantizedMat<F> Model<F>::QuantizedWorkspace::Rows(int64_t rows, int64_t cols) {
  return {.q = q.data(),
          .stride = RoundUp(cols, kTernaryBlockCols),
          .scale = scale.data(),
          .sum = sum.data(),
          .rows = rows,
          .cols = cols,
          .group_size = group_size > 0 ? group_size : cols};
}

template <typename F>
StatusOr<Model<F>> Model<F>::Create(const ModelConfig* config, const ModelWeights* weights,
                                    Ops<F>* ops, const StepLimits& limits) {
  const auto create = [&]() -> StatusOr<Model> {
    STERNA_ASSIGN_OR_RETURN(StepArrays<F> arrays, StepArrays<F>::Create(limits, ops));
    Model model(config, weights, ops, limits, std::move(arrays));
    STERNA_RETURN_IF_ERROR(model.AllocateWorkspaces());
    return model;
  };
  StatusOr<Model> model = create();
  if (model.ok()) return model;
  return Annotate(model.status(),
                  absl::StrCat("work buffers for steps of ", limits.tokens, " tokens with ",
                               limits.logit_rows, " rows of logits"));
}

template <typename F>
Status Model<F>::AllocateWorkspaces() {
  const int64_t tokens = limits_.tokens;
  const int64_t hidden = config_->hidden_size;
  const int64_t heads = config_->num_heads * config_->head_dim;
  const int64_t kv_heads = config_->num_kv_heads * config_->head_dim;
  struct Size {
    Workspace* workspace;
    int64_t rows;
    int64_t cols;
  };
  for (const Size& size : {Size{&x_, tokens, hidden},
                           {&normed_, tokens, hidden},
                           {&q_, tokens, heads},
                           {&k_, tokens, kv_heads},
                           {&v_, tokens, kv_heads},
                           {&attention_, tokens, heads},
                           {&ffn_, tokens, config_->ffn_size},
                           {&cos_, tokens, config_->head_dim / 2},
                           {&sin_, tokens, config_->head_dim / 2},
                           {&last_x_, limits_.logit_rows, hidden},
                           {&last_q_, limits_.logit_rows, heads},
                           {&logits_, limits_.logit_rows, config_->vocab_size}}) {
    STERNA_RETURN_IF_ERROR(size.workspace->Allocate(*ops_, size.rows, size.cols));
    work_bytes_ += size.workspace->data.size_bytes();
  }
  STERNA_ASSIGN_OR_RETURN(
      drawn_, AllocateArray<int32_t>(*ops_, ops_->runs_ahead() ? limits_.logit_rows : 0));
  linear_inputs_.resize(config_->linear_rms_norm ? 3 : 0);
  quantized_.group_size = config_->scale_group_size;
  for (QuantizedWorkspace& inputs : linear_inputs_) {
    inputs.group_size = config_->scale_group_size;
    STERNA_RETURN_IF_ERROR(inputs.Allocate(*ops_, tokens, hidden));
    work_bytes_ += inputs.size_bytes();
  }
  STERNA_RETURN_IF_ERROR(ops_->Reserve({.tokens = tokens,
                                        .logit_rows = limits_.logit_rows,
                                        .max_blocks = BlockTable::BlocksFor(limits_.context_tokens),
                                        .heads = config_->num_heads,
                                        .kv_heads = config_->num_kv_heads,
                                        .head_dim = config_->head_dim,
                                        .head = weights_->head}));
  const std::vector<double> inv_freq = config_->rope.InverseFrequencies(config_->head_dim);
  STERNA_ASSIGN_OR_RETURN(inv_freq_, AllocateArray<double>(*ops_, std::ssize(inv_freq)));
  ops_->CopyToDevice(inv_freq_.data(), inv_freq.data(),
                     std::ssize(inv_freq) * static_cast<int64_t>(sizeof(double)));
  STERNA_RETURN_IF_ERROR(
      quantized_.Allocate(*ops_, tokens, std::max({hidden, config_->ffn_size, heads})));
  work_bytes_ += quantized_.size_bytes() + drawn_.size_bytes();
  return absl::OkStatus();
}

template <typename F>
void Model<F>::CheckBatch(const StepBatch& batch, int64_t num_kv_blocks) const {
  const int64_t tokens = batch.num_tokens();
  STERNA_CHECK(tokens >= 1 && tokens <= limits_.tokens);
  STERNA_CHECK(batch.num_logits() <= tokens && batch.num_logits() <= limits_.logit_rows);
  STERNA_CHECK(std::ssize(batch.positions) == tokens && std::ssize(batch.slots) == tokens &&
               std::ssize(batch.sequence) == tokens);
  STERNA_CHECK(batch.num_sequences <= limits_.sequences &&
               batch.max_blocks <= BlockTable::BlocksFor(limits_.context_tokens));
  STERNA_CHECK(std::ssize(batch.block_tables) == batch.num_sequences * batch.max_blocks);
  STERNA_CHECK(std::ranges::all_of(batch.token_ids, [&](int32_t id) {
    return IsDrawnToken(id) ? RowOfDrawnToken(id) < num_drawn_
                            : id >= 0 && id < config_->vocab_size;
  }));
  STERNA_CHECK(AllBelow(batch.positions, batch.max_blocks * kKvBlockTokens));
  STERNA_CHECK(AllBelow(batch.slots, num_kv_blocks * kKvBlockTokens));
  STERNA_CHECK(AllBelow(batch.sequence, batch.num_sequences));
  STERNA_CHECK(AllBelow(batch.block_tables, num_kv_blocks));
  STERNA_CHECK(AllBelow(batch.logit_rows, tokens));
}

template <typename F>
Mat<const F> Model<F>::Forward(const StepBatch& batch, KvCache<F>& cache,
                               std::span<const SampleParams> samples) {
  CheckBatch(batch, cache.num_blocks());
  if (CanRecord(batch)) {
    RecordingOf(arrays_.Upload(PaddedToRecord(batch)), cache).Run();
  } else {
    Compute(arrays_.Upload(batch), cache, samples, /*all_have_logits=*/false);
  }
  return AsConst(logits_.Rows(batch.num_logits()));
}

template <typename F>
void Model<F>::Sample(std::span<const SampleParams> params, std::span<SampleResult> results) {
  const int64_t rows = std::ssize(params);
  STERNA_CHECK(rows <= limits_.logit_rows);
  ops_->Sample({.logits = AsConst(logits_.Rows(rows)),
                .params = params,
                .results = results,
                .drawn = drawn_.span()});
  num_drawn_ = std::min(rows, drawn_.size());
}

template <typename F>
bool Model<F>::CanRecord(const StepBatch& batch) const {
  return ops_->records() && batch.num_logits() == batch.num_tokens() &&
         batch.num_tokens() <= most_recorded_tokens() &&
         std::ranges::equal(batch.logit_rows,
                            std::views::iota(int32_t{0}, static_cast<int32_t>(batch.num_tokens())));
}

template <typename F>
int64_t Model<F>::most_recorded_tokens() const {
  return std::min({kMostRecordedTokens, limits_.tokens, limits_.logit_rows, limits_.sequences});
}

template <typename F>
StepBatch Model<F>::Padded(StepBatch batch, int64_t tokens, int64_t blocks) const {
  for (auto i = static_cast<int32_t>(batch.num_tokens()); i < tokens; ++i) {
    for (auto* values : {&batch.token_ids, &batch.positions, &batch.slots}) values->push_back(-1);
    batch.sequence.push_back(0);
    batch.logit_rows.push_back(i);
  }
  // One row of the table for each token: what a recording names is as large for all its steps.
  const int64_t sequences = std::max(batch.num_sequences, std::min(tokens, limits_.sequences));
  std::vector<int32_t> tables(static_cast<size_t>(sequences * blocks));
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    std::copy_n(batch.block_tables.begin() + s * batch.max_blocks, batch.max_blocks,
                tables.begin() + s * blocks);
  }
  batch.block_tables = std::move(tables);
  batch.num_sequences = sequences;
  batch.max_blocks = blocks;
  return batch;
}

template <typename F>
StepBatch Model<F>::PaddedToRecord(StepBatch batch) const {
  const int64_t tokens = batch.num_tokens();
  const auto blocks = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(batch.max_blocks)));
  return Padded(std::move(batch),
                std::max(tokens, std::min(most_recorded_tokens(), RoundUpToRecord(tokens))),
                std::min(blocks, BlockTable::BlocksFor(limits_.context_tokens)));
}

template <typename F>
Recording& Model<F>::RecordingOf(const Step& step, KvCache<F>& cache) {
  const KvView<F> kv = cache.Layer(0);
  std::unique_ptr<Recording>& recording = recordings_[{
      std::ssize(step.token_ids), step.block_tables.cols, kv.k, kv.v, kv.num_blocks, kv.type}];
  if (recording == nullptr) {
    recording = ops_->Record([&] { Compute(step, cache, {}, /*all_have_logits=*/true); });
  }
  return *recording;
}

template <typename F>
void Model<F>::RecordDecodeSteps(KvCache<F>& cache, int64_t context_tokens) {
  if (!ops_->records()) return;
  const int64_t most_blocks = BlockTable::BlocksFor(limits_.context_tokens);
  for (int64_t tokens = 0; tokens < most_recorded_tokens();) {
    tokens = std::min(most_recorded_tokens(), RoundUpToRecord(tokens + 1));
    for (int64_t blocks = 1; blocks < 2 * BlockTable::BlocksFor(context_tokens); blocks *= 2) {
      // Padding alone, which writes nothing to the cache.
      RecordingOf(arrays_.Upload(Padded({}, tokens, std::min(blocks, most_blocks))), cache);
    }
  }
}

template <typename F>
void Model<F>::Compute(const Step& step, KvCache<F>& cache, std::span<const SampleParams> samples,
                       bool all_have_logits) {
  const int64_t tokens = std::ssize(step.token_ids);
  const Mat<F> x = x_.Rows(tokens);
  const TernaryMatrix& ternary_table = weights_->ternary_embedding;
  ops_->EmbedTokens({.token_ids = step.token_ids,
                     .drawn = drawn_.span(),
                     .table = weights_->embedding,
                     .ternary_table = ternary_table.empty() ? nullptr : &ternary_table,
                     .x = x});
  ops_->RotaryTable({.positions = step.positions,
                     .inv_freq = inv_freq_.span(),
                     .factor = config_->rope.attention_factor,
                     .cos = cos_.Rows(tokens),
                     .sin = sin_.Rows(tokens)});
  ActiveTokens active = {
      .x = x, .q = q_.Rows(tokens), .positions = step.positions, .sequence = step.sequence};
  for (int64_t layer = 0; layer < config_->num_layers; ++layer) {
    ProjectQkv(weights_->layers[layer], step, cache.Layer(layer));
    if (layer + 1 == config_->num_layers && !all_have_logits) active = LogitTokens(step);
    if (active.x.rows == 0) break;
    Attention(weights_->layers[layer], active, step.block_tables, cache.Layer(layer));
    FeedForward(weights_->layers[layer], active.x);
  }

  if (active.x.rows > 0) ComputeLogits(active.x, samples);
}

template <typename F>
void Model<F>::ComputeLogits(Mat<F> last, std::span<const SampleParams> samples) {
  const Mat<F> logits = logits_.Rows(last.rows);
  if (const TernaryMatrix* head = weights_->ternary_head()) {
    const QuantizedMat<F> quantized = quantized_.Rows(last.rows, last.cols);
    ops_->RmsNormQuantize(
        {.x = AsConst(last), .weight = weights_->final_norm, .eps = eps(), .out = quantized});
    ops_->TernaryLinear({.q = quantized, .w = head, .bias = {}, .y = logits});
    return;
  }
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

template <typename F>
void Model<F>::ProjectQkv(const LayerWeights& layer, const Step& step, const KvView<F>& kv) {
  const int64_t tokens = std::ssize(step.token_ids);
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
                      .slots = step.slots,
                      .q_norm = layer.q_norm,
                      .k_norm = layer.k_norm,
                      .norm_eps = eps(),
                      .kv = kv});
}

template <typename F>
typename Model<F>::ActiveTokens Model<F>::LogitTokens(const Step& step) {
  const int64_t tokens = std::ssize(step.token_ids);
  const Mat<F> x = last_x_.Rows(std::ssize(step.logit_rows));
  const Mat<F> q = last_q_.Rows(x.rows);
  if (x.rows > 0) {
    ops_->GatherRows({.x = AsConst(x_.Rows(tokens)), .rows = step.logit_rows, .y = x});
    ops_->GatherRows({.x = AsConst(q_.Rows(tokens)), .rows = step.logit_rows, .y = q});
  }
  return {.x = x, .q = q, .positions = step.logit_positions, .sequence = step.logit_sequence};
}

template <typename F>
void Model<F>::Attention(const LayerWeights& layer, const ActiveTokens& tokens,
                         Mat<const int32_t> block_tables, const KvView<F>& kv) {
  const Mat<F> attention = attention_.Rows(tokens.x.rows);
  ops_->PagedAttention({.q = AsConst(tokens.q),
                        .kv = kv,
                        .positions = tokens.positions,
                        .sequence = tokens.sequence,
                        .block_tables = block_tables,
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
  const auto head_elements = static_cast<double>(config_->vocab_size * config_->hidden_size);
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

#include "kernels/cuda/cuda_ops.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/dense_fragment_format.h"
#include "kernels/cuda/dense_linear.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/norm_quantize.h"
#include "kernels/cuda/rope.h"

namespace sterna::cuda {
namespace {

int32_t Int(int64_t n) { return static_cast<int32_t>(n); }

DenseWeights WeightsOf(const DenseMatrix& m) {
  STERNA_CHECK(m.layout ==
               (m.type == DenseType::kF32 ? DenseLayout::kRows : DenseLayout::kFragments));
  return {
      .type = m.type, .data = m.data, .scales = m.scales, .rows = Int(m.rows), .cols = Int(m.cols)};
}

const float* OrNull(std::span<const float> values) {
  return values.empty() ? nullptr : values.data();
}

TernaryTable TableOf(const TernaryMatrix& w) {
  STERNA_CHECK(w.layout() == TernaryLayout::kFragments16x128);
  return {.packed = w.packed(),
          .scales = OrNull(w.scales()),
          .scale = static_cast<float>(w.tensor_scale()),
          .rows = Int(w.rows()),
          .cols = Int(w.cols()),
          .group_cols = Int(w.group_size())};
}

class GraphRecording final : public Recording {
 public:
  // `ran` is told before each run.
  GraphRecording(Device* device, cudaGraphExec_t graph, std::function<void()> ran)
      : device_(device), graph_(graph), ran_(std::move(ran)) {}
  ~GraphRecording() override {
    if (graph_ != nullptr) (void)cudaGraphExecDestroy(graph_);
  }
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;

  void Run() override {
    ran_();
    device_->Do("running a recorded step",
                [&] { return cudaGraphLaunch(graph_, device_->stream()); });
  }

 private:
  Device* device_;
  cudaGraphExec_t graph_;
  std::function<void()> ran_;
};

}  // namespace

StatusOr<std::unique_ptr<CudaOps>> CudaOps::Create(const CudaOptions& options) {
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<Device> device, Device::Open(options.device));
  return std::unique_ptr<CudaOps>(new CudaOps(options, std::move(device)));
}

void CudaOps::CopyToDevice(void* device, const void* host, int64_t bytes) {
  planned_.reset();
  device_->CopyToDevice(device, host, bytes);
}

Status CudaOps::CopyToHost(void* host, const void* device, int64_t bytes) {
  STERNA_RETURN_IF_ERROR(device_->CopyToHost(host, device, bytes));
  return Finish();
}

StatusOr<PlacedDense> CudaOps::Place(const DenseMatrix& host) {
  DenseMatrix view = host;
  view.layout = host.type == DenseType::kF32 ? DenseLayout::kRows : DenseLayout::kFragments;
  STERNA_ASSIGN_OR_RETURN(DeviceMemory memory, Allocate(view.bytes()));
  auto* const data = static_cast<uint8_t*>(memory.data());
  if (host.type == DenseType::kF32 && host.layout == DenseLayout::kRows) {
    CopyToDevice(data, host.data, view.data_bytes());
  } else {
    const int64_t block_bytes = DensePackedBytes(host.type, kDenseFragmentRows, host.cols);
    const int64_t at_once = std::max<int64_t>(1, (int64_t{4} << 20) / block_bytes);
    std::vector<uint8_t> part(
        static_cast<size_t>(std::min(at_once, host.row_blocks()) * block_bytes));
    for (int64_t first = 0; first < host.row_blocks(); first += at_once) {
      const int64_t blocks = std::min(at_once, host.row_blocks() - first);
      PackDenseFragments(host, first, blocks, part.data());
      CopyToDevice(data + first * block_bytes, part.data(), DensePackedBytes(host, first, blocks));
    }
  }
  view.data = data;
  if (host.scales != nullptr) {
    CopyToDevice(data + view.data_bytes(), host.scales, view.bytes() - view.data_bytes());
    view.scales = reinterpret_cast<const float*>(data + view.data_bytes());
  }
  return PlacedDense{.view = view, .memory = std::move(memory)};
}

void CudaOps::EmbedTokens(const EmbedTokensParams<float>& p) {
  EmbedTokensArgs args = {.token_ids = p.token_ids.data(),
                          .drawn = p.drawn.data(),
                          .tokens = Int(p.x.rows),
                          .table = {},
                          .ternary_table = {},
                          .x = p.x.data};
  STERNA_CHECK(std::ssize(p.token_ids) == p.x.rows);
  if (p.ternary_table != nullptr) {
    args.ternary_table = TableOf(*p.ternary_table);
    STERNA_CHECK(args.ternary_table.cols == p.x.cols);
  } else {
    args.table = WeightsOf(p.table);
    STERNA_CHECK(args.table.cols == p.x.cols);
  }
  device_->Do("embedding tokens", [&] { return LaunchEmbedTokens(args, device_->stream()); });
}

void CudaOps::RmsNorm(const RmsNormParams<float>& p) {
  STERNA_CHECK(std::ssize(p.weight) == p.x.cols && p.y.rows == p.x.rows && p.y.cols == p.x.cols);
  device_->Do("a norm", [&] {
    return LaunchRmsNorm({.x = p.x.data,
                          .weight = p.weight.data(),
                          .eps = p.eps,
                          .tokens = Int(p.x.rows),
                          .cols = Int(p.x.cols),
                          .y = p.y.data},
                         device_->stream());
  });
}

void CudaOps::RmsNormQuantize(const RmsNormQuantizeParams<float>& p) {
  STERNA_CHECK(p.weight.empty() || std::ssize(p.weight) == p.x.cols);
  STERNA_CHECK(p.out.rows == p.x.rows && p.out.cols == p.x.cols);
  device_->Do("quantising activations", [&] {
    return LaunchRmsNormQuantize({.x = p.x.data,
                                  .weight = OrNull(p.weight),
                                  .eps = p.eps,
                                  .tokens = Int(p.x.rows),
                                  .cols = Int(p.x.cols),
                                  .num_groups = Int(p.out.num_groups()),
                                  .group_cols = Int(p.out.group_size),
                                  .q_stride = Int(p.out.stride),
                                  .q = p.out.q,
                                  .s = p.out.scale,
                                  .sum = p.out.sum},
                                 device_->stream());
  });
}

void CudaOps::DenseLinear(const DenseLinearParams<float>& p) {
  STERNA_CHECK(p.x.cols == p.w.cols && p.y.rows == p.x.rows && p.y.cols == p.w.rows);
  if (!Ensure(dense_scratch_, DenseWorkspaceBytes(p.w.type, p.x.rows, p.w.cols))) return;
  device_->Do("the output head", [&] {
    return LaunchDenseLinear({.x = p.x.data,
                              .tokens = Int(p.x.rows),
                              .w = WeightsOf(p.w),
                              .workspace = dense_scratch_.data(),
                              .y = p.y.data},
                             device_->stream());
  });
}

void CudaOps::RotaryTable(const RotaryTableParams<float>& p) {
  STERNA_CHECK(std::ssize(p.positions) == p.cos.rows && std::ssize(p.inv_freq) == p.cos.cols);
  device_->Do("the rotary table", [&] {
    return LaunchRotaryTable({.positions = p.positions.data(),
                              .inv_freq = p.inv_freq.data(),
                              .factor = p.factor,
                              .tokens = Int(p.cos.rows),
                              .half_dim = Int(p.cos.cols),
                              .cos = p.cos.data,
                              .sin = p.sin.data},
                             device_->stream());
  });
}

void CudaOps::RopeAppendKv(const RopeAppendKvParams<float>& p) {
  const int64_t hd = p.kv.head_dim;
  STERNA_CHECK(hd > 0 && p.q.cols % hd == 0 && p.k.cols == p.kv.num_kv_heads * hd);
  STERNA_CHECK(p.k.rows == p.q.rows && p.v.rows == p.q.rows && p.v.cols == p.k.cols);
  STERNA_CHECK(std::ssize(p.slots) == p.q.rows && p.cos.rows == p.q.rows && p.cos.cols == hd / 2);
  STERNA_CHECK(p.q_norm.empty() || std::ssize(p.q_norm) == hd);
  STERNA_CHECK(p.k_norm.empty() || std::ssize(p.k_norm) == hd);
  device_->Do("writing keys and values", [&] {
    return LaunchRopeAppendKv({.q = p.q.data,
                               .k = p.k.data,
                               .v = p.v.data,
                               .cos = p.cos.data,
                               .sin = p.sin.data,
                               .slots = p.slots.data(),
                               .q_norm = OrNull(p.q_norm),
                               .k_norm = OrNull(p.k_norm),
                               .norm_eps = p.norm_eps,
                               .type = p.kv.type,
                               .kv_k = p.kv.k,
                               .kv_v = p.kv.v,
                               .tokens = Int(p.q.rows),
                               .heads = Int(p.q.cols / hd),
                               .kv_heads = Int(p.kv.num_kv_heads),
                               .head_dim = Int(hd)},
                              device_->stream());
  });
}

void CudaOps::PlanAttention(const AttentionStep& step) {
  if (planned_ && planned_->positions == step.positions && planned_->sequence == step.sequence &&
      planned_->tokens == step.tokens && planned_->workspace == step.workspace &&
      planned_->shape == step.shape) {
    return;
  }
  planned_ = step;
  device_->Do("planning attention", [&] { return LaunchAttentionPlan(step, device_->stream()); });
}

void CudaOps::PagedAttention(const PagedAttentionParams<float>& p) {
  const int64_t hd = p.kv.head_dim;
  STERNA_CHECK(hd > 0 && p.q.cols % hd == 0 && p.o.rows == p.q.rows && p.o.cols == p.q.cols);
  STERNA_CHECK(std::ssize(p.positions) == p.q.rows && std::ssize(p.sequence) == p.q.rows);
  const AttentionShape shape = {.heads = Int(p.q.cols / hd),
                                .kv_heads = Int(p.kv.num_kv_heads),
                                .head_dim = Int(hd),
                                .max_blocks = Int(p.block_tables.cols),
                                .window = p.window};
  if (!Ensure(attention_scratch_,
              static_cast<int64_t>(AttentionWorkspaceBytes(shape, Int(p.q.rows))))) {
    return;
  }
  const AttentionStep step = {.shape = shape,
                              .positions = p.positions.data(),
                              .sequence = p.sequence.data(),
                              .tokens = Int(p.q.rows),
                              .workspace = attention_scratch_.data()};
  PlanAttention(step);
  device_->Do("attention", [&] {
    return LaunchAttention({.step = step,
                            .q = p.q.data,
                            .type = p.kv.type,
                            .k = p.kv.k,
                            .v = p.kv.v,
                            .block_tables = p.block_tables.data,
                            .scale = p.scale,
                            .o = p.o.data},
                           device_->stream());
  });
}

void CudaOps::GatherRows(const GatherRowsParams<float>& p) {
  STERNA_CHECK(std::ssize(p.rows) == p.y.rows && p.x.cols == p.y.cols);
  device_->Do("gathering rows", [&] {
    return LaunchGatherRows({.x = p.x.data,
                             .rows = p.rows.data(),
                             .num_rows = Int(p.y.rows),
                             .cols = Int(p.x.cols),
                             .y = p.y.data},
                            device_->stream());
  });
}

void CudaOps::Sample(const SampleOpParams<float>& p) {
  STERNA_CHECK(std::ssize(p.params) == p.logits.rows && p.results.size() == p.params.size());
  STERNA_CHECK(p.drawn.empty() || p.drawn.size() >= p.params.size());
  STERNA_CHECK(num_marked_ < kMostMarks);
  Section& section = sections_[open_section()];
  STERNA_CHECK(!section.sampled);
  const int32_t vocabulary = Int(p.logits.cols);
  host_staging_.resize(SampleStagingBytes(p.params));
  const SampleWork work = StageSampleParams(p.params, vocabulary, host_staging_);
  const auto result_bytes = static_cast<int64_t>(SampleResultBytes(p.logits.rows, work.logprobs));
  if (!Ensure(sample_staging_, std::ssize(host_staging_)) ||
      !Ensure(sample_scratch_, static_cast<int64_t>(SampleWorkspaceBytes(p.logits.rows))) ||
      !Ensure(sample_results_, result_bytes)) {
    return;
  }
  CopyToDevice(sample_staging_.data(), host_staging_.data(), std::ssize(host_staging_));
  device_->Do("sampling", [&] {
    return LaunchSample({.logits = const_cast<float*>(p.logits.data),  // as SampleOpParams allows
                         .mask = nullptr,
                         .staging = static_cast<uint8_t*>(sample_staging_.data()),
                         .workspace = static_cast<uint8_t*>(sample_scratch_.data()),
                         .results = static_cast<uint8_t*>(sample_results_.data()),
                         .drawn = p.drawn.data(),
                         .rows = Int(p.logits.rows),
                         .vocabulary = vocabulary,
                         .work = work},
                        device_->stream());
  });
  device_->CopyToPinned(sample_results_.data(), result_bytes, section.results);
  section.sampled = {.params = {p.params.begin(), p.params.end()},
                     .to = p.results,
                     .vocabulary = vocabulary,
                     .bytes = result_bytes};
}

void CudaOps::End(Section& section, bool arrived) {
  if (!section.sampled) return;
  const Sampled sampled = *std::exchange(section.sampled, std::nullopt);
  if (!arrived) return;
  ReadSampleResults(
      {static_cast<const uint8_t*>(section.results.data()), static_cast<size_t>(sampled.bytes)},
      sampled.params, sampled.vocabulary, sampled.to);
}

void CudaOps::Mark() {
  STERNA_CHECK(num_marked_ < kMostMarks);
  device_->Mark(open_section());
  ++num_marked_;
}

Status CudaOps::Wait() {
  STERNA_CHECK(num_marked_ > 0);
  const size_t section = std::exchange(first_marked_, (first_marked_ + 1) % kMostMarks);
  --num_marked_;
  Status status = device_->WaitFor(section);
  End(sections_[section], status.ok());
  return status;
}

Status CudaOps::Finish() {
  num_marked_ = 0;
  Status status = device_->Finish();
  for (Section& section : sections_) End(section, status.ok());
  return status;
}

Status CudaOps::Grow(Scratch& scratch, int64_t bytes) {
  if (bytes <= scratch.bytes) return absl::OkStatus();
  // What was there before stays, so it must not become many.
  bytes = std::max(bytes, 2 * scratch.bytes);
  STERNA_ASSIGN_OR_RETURN(DeviceMemory memory, Allocate(bytes));
  scratch.memories.push_back(std::move(memory));
  scratch.bytes = bytes;
  return absl::OkStatus();
}

bool CudaOps::Ensure(Scratch& scratch, int64_t bytes) {
  const Status status = Grow(scratch, bytes);
  if (!status.ok()) device_->Fail(status);
  return status.ok();
}

Status CudaOps::Reserve(const StepShape& largest) {
  const AttentionShape shape = {.heads = Int(largest.heads),
                                .kv_heads = Int(largest.kv_heads),
                                .head_dim = Int(largest.head_dim),
                                .max_blocks = Int(largest.max_blocks)};
  const size_t attention_bytes = AttentionWorkspaceBytes(shape, Int(largest.tokens));
  if (attention_bytes == 0) {
    return absl::UnimplementedError(
        absl::StrCat("attention on CUDA devices takes heads of a multiple of 8 up to 256 numbers; "
                     "this model's have ",
                     largest.head_dim));
  }
  STERNA_RETURN_IF_ERROR(Grow(attention_scratch_, static_cast<int64_t>(attention_bytes)));
  STERNA_RETURN_IF_ERROR(Grow(ternary_scratch_, MostMmaWorkspaceBytes(device_->traits())));
  // Bias and token counts of requests that have many of them may take more than this.
  constexpr int64_t kStagingBytesOfRow = 4096;
  const int64_t rows = largest.logit_rows;
  STERNA_RETURN_IF_ERROR(Grow(sample_staging_, rows * kStagingBytesOfRow));
  STERNA_RETURN_IF_ERROR(Grow(sample_scratch_, static_cast<int64_t>(SampleWorkspaceBytes(rows))));
  const auto result_bytes = static_cast<int64_t>(SampleResultBytes(rows, /*logprobs=*/true));
  STERNA_RETURN_IF_ERROR(Grow(sample_results_, result_bytes));
  for (Section& section : sections_) {
    device_->Do("making room for results", [&] { return section.results.Resize(result_bytes); });
  }
  return Grow(dense_scratch_, DenseWorkspaceBytes(largest.head.type, rows, largest.head.cols));
}

std::unique_ptr<Recording> CudaOps::Record(const std::function<void()>& body) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  // Kernels are loaded when they are first asked for, which a recording must not have to wait for.
  body();
  planned_.reset();  // a recording plans for itself
  device_->Do("recording a step", [&] {
    return cudaStreamBeginCapture(device_->stream(), cudaStreamCaptureModeThreadLocal);
  });
  body();
  device_->Do("recording a step", [&] { return cudaStreamEndCapture(device_->stream(), &graph); });
  device_->Do("recording a step", [&] { return cudaGraphInstantiate(&executable, graph, 0); });
  device_->Do("recording a step", [&] { return cudaGraphUpload(executable, device_->stream()); });
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  planned_.reset();
  return std::make_unique<GraphRecording>(device_.get(), executable, [this] { planned_.reset(); });
}

}  // namespace sterna::cuda

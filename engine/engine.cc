#include "engine/engine.h"

#include <algorithm>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/process_threads.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/kv_cache.h"
#include "engine/energy/energy_ledger.h"
#include "engine/generation.h"
#include "engine/schedule/scheduler.h"

namespace sterna {
namespace {

// While idle the meter runs on; metrics should not show it a minute late.
constexpr std::chrono::seconds kIdleHeartbeat(1);

Status CheckOptions(const EngineOptions& o) {
  const std::pair<int64_t, const char*> counts[] = {{o.max_step_tokens, "max_step_tokens"},
                                                    {o.max_chunk_tokens, "max_chunk_tokens"},
                                                    {o.max_sequences, "max_sequences"},
                                                    {o.max_scored_tokens, "max_scored_tokens"},
                                                    {o.max_queue, "max_queue"},
                                                    {o.num_kv_blocks, "num_kv_blocks"}};
  for (const auto& [value, name] : counts) {
    if (value >= 1) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it must be at least 1"));
  }
  if (o.max_step_prompt_tokens >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("max_step_prompt_tokens is ",
                                                 o.max_step_prompt_tokens,
                                                 "; it must be at least 1, or 0 for no bound"));
}

struct Arrival {
  Request request;
  std::shared_ptr<TokenStream> stream;
  int64_t arrival_ns;
};

// What other threads tell the engine thread. Shared with the cancel callbacks of all streams, which
// may outlive the engine.
struct Inbox {
  // One look into the inbox: cancellations cover every arrival taken with them or before.
  struct Contents {
    std::deque<Arrival> arrivals;
    bool check_cancelled;
    bool cancel_all;
    bool stop;
  };

  Mutex mutex;
  CondVar wake;  // the engine thread waits on it
  CondVar idle;  // WaitUntilIdle waits on it
  std::deque<Arrival> arrivals STERNA_GUARDED_BY(mutex);
  // Accepted and never scheduled yet: what max_queue bounds.
  int64_t num_queued STERNA_GUARDED_BY(mutex) = 0;
  // Accepted and not ended.
  int64_t num_active STERNA_GUARDED_BY(mutex) = 0;
  bool accepting STERNA_GUARDED_BY(mutex) = true;
  bool healthy STERNA_GUARDED_BY(mutex) = true;
  bool stop STERNA_GUARDED_BY(mutex) = false;
  bool cancel_all STERNA_GUARDED_BY(mutex) = false;
  bool check_cancelled STERNA_GUARDED_BY(mutex) = false;

  Contents Take() STERNA_REQUIRES(mutex) {
    return {.arrivals = std::exchange(arrivals, {}),
            .check_cancelled = std::exchange(check_cancelled, false),
            .cancel_all = std::exchange(cancel_all, false),
            .stop = stop};
  }
};

// A row of a step's logits, and of its Sample.
struct StepRow {
  Generation* generation;
  int64_t position;  // of the token that it tells of
  bool draws() const { return position >= generation->num_prompt_tokens(); }
};

// A step that the device was asked for.
struct StepInFlight {
  StepPlan plan;
  std::vector<StepWork> work;  // of plan.work
  std::vector<StepRow> rows;
  std::vector<SampleResult> results;
  bool ahead;  // the next step may be asked for before this one is done
  int64_t start_ns;
  StepStats stats;
  // Requests that ended meanwhile, which the step may still name.
  std::vector<std::unique_ptr<Generation>> ended;
};

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, Model<float>* model, KvCache<float> cache,
             const Tokenizer* tokenizer, EnergyMeter* meter, StatsListener* listener,
             const Clock* clock)
      : options_(options),
        model_(model),
        tokenizer_(tokenizer),
        meter_(meter),
        listener_(listener),
        clock_(clock),
        pool_(options.num_kv_blocks),
        cache_(std::move(cache)),
        scheduler_({.max_step_tokens = options.max_step_tokens,
                    .max_step_prompt_tokens = options.max_step_prompt_tokens > 0
                                                  ? options.max_step_prompt_tokens
                                                  : options.max_step_tokens,
                    .max_chunk_tokens = options.max_chunk_tokens,
                    .max_sequences = options.max_sequences,
                    .max_scored_tokens = options.max_scored_tokens},
                   &pool_),
        ledger_(meter, clock, model->energy_costs(options.kv_type)),
        max_context_tokens_(LargestStep(options, model->config()).context_tokens),
        thread_([this] {
          NameThisThread("sterna-engine");
          Main();
        }) {}

  ~EngineImpl() override {
    {
      MutexLock lock(inbox_->mutex);
      inbox_->accepting = false;
      inbox_->stop = true;
    }
    inbox_->wake.NotifyAll();
    thread_.join();
  }

  StatusOr<std::shared_ptr<TokenStream>> Submit(Request request) override;
  void StopAccepting() override {
    MutexLock lock(inbox_->mutex);
    inbox_->accepting = false;
  }
  bool WaitUntilIdle(std::chrono::nanoseconds timeout) override;
  void CancelAll() override;
  int64_t max_context_tokens() const override { return max_context_tokens_; }
  bool healthy() const override {
    MutexLock lock(inbox_->mutex);
    return inbox_->healthy;
  }

 private:
  void Refused(const Status& status) {
    if (listener_ != nullptr) listener_->OnRefused(ErrorLabelOf(status));
  }

  // The engine thread.
  void Main();
  // Blocks only when there is nothing to run.
  Inbox::Contents WaitForWork();
  void Add(std::deque<Arrival> arrivals);
  void EndCancelled(bool all);
  // Asks for the next step and ends the one before; or, without asynchronous scheduling, does one.
  void Step();
  // Plans a step and asks the device for it; nothing where every sequence waits for the step in
  // flight.
  std::optional<StepInFlight> Launch();
  void RunForward(StepInFlight& step);
  // Waits for the step and tells its requests what it brought.
  void Commit(StepInFlight step);
  void ShareEnergy(StepInFlight& step);
  void AcceptTokens(StepInFlight& step, int64_t now_ns);
  void Finish(Generation* generation, Completion completion);
  void FailEverything(const Status& status);
  void Report(StepStats stats);
  void CheckIntegrityNow() const;

  const EngineOptions options_;
  Model<float>* const model_;
  const Tokenizer* const tokenizer_;
  EnergyMeter* const meter_;
  StatsListener* const listener_;
  const Clock* const clock_;

  // Engine thread only.
  BlockPool pool_;
  KvCache<float> cache_;
  Scheduler scheduler_;
  EnergyLedger ledger_;
  absl::flat_hash_map<const Sequence*, std::unique_ptr<Generation>> generations_;
  uint64_t next_order_ = 0;
  bool was_idle_ = true;
  std::vector<SampleParams> sample_params_;
  std::optional<StepInFlight> in_flight_;
  int64_t last_step_end_ns_ = 0;
  const int64_t max_context_tokens_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::thread thread_;  // last: it uses everything above
};

StatusOr<std::shared_ptr<TokenStream>> EngineImpl::Submit(Request request) {
  Status status = CheckRequest(request, model_->config().vocab_size, max_context_tokens_);
  auto stream = std::make_shared<TokenStream>();
  if (status.ok()) {
    stream->SetCancelCallback([inbox = inbox_] {
      MutexLock lock(inbox->mutex);
      inbox->check_cancelled = true;
      inbox->wake.NotifyAll();
    });
    MutexLock lock(inbox_->mutex);
    if (!inbox_->healthy) {
      status = MakeError(ErrorLabel::kInternal, "the engine has stopped after a device failure");
    } else if (!inbox_->accepting) {
      status = MakeError(ErrorLabel::kDraining, "the server is shutting down");
    } else if (inbox_->num_queued >= options_.max_queue) {
      status = MakeError(ErrorLabel::kQueueFull,
                         absl::StrCat("the queue is full with ", inbox_->num_queued,
                                      " waiting requests; try again later"));
    } else {
      ++inbox_->num_queued;
      ++inbox_->num_active;
      inbox_->arrivals.push_back({std::move(request), stream, clock_->NowNs()});
      inbox_->wake.NotifyAll();
    }
  }
  if (!status.ok()) {
    Refused(status);
    return status;
  }
  return stream;
}

bool EngineImpl::WaitUntilIdle(std::chrono::nanoseconds timeout) {
  // Real time, whatever clock_ says: this waits for a thread, not for a schedule.
  const auto end = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(inbox_->mutex);
  while (inbox_->num_active > 0) {
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return false;
    inbox_->idle.WaitFor(inbox_->mutex, left);
  }
  return true;
}

void EngineImpl::CancelAll() {
  MutexLock lock(inbox_->mutex);
  inbox_->cancel_all = true;
  inbox_->wake.NotifyAll();
}

void EngineImpl::Main() {
  while (true) {
    Inbox::Contents contents = WaitForWork();
    if (contents.stop) contents.cancel_all = true;
    Add(std::move(contents.arrivals));
    if (contents.check_cancelled || contents.cancel_all) EndCancelled(contents.cancel_all);
    if (!generations_.empty() || in_flight_) Step();
    if (contents.stop) return;
  }
}

Inbox::Contents EngineImpl::WaitForWork() {
  MutexLock lock(inbox_->mutex);
  while (generations_.empty() && !in_flight_ && inbox_->arrivals.empty() && !inbox_->stop) {
    if (inbox_->wake.WaitFor(inbox_->mutex, kIdleHeartbeat)) continue;
    inbox_->mutex.Unlock();
    CheckIntegrityNow();
    ledger_.Settle();
    Report({});
    inbox_->mutex.Lock();
  }
  return inbox_->Take();
}

void EngineImpl::Add(std::deque<Arrival> arrivals) {
  for (Arrival& arrival : arrivals) {
    auto generation = std::make_unique<Generation>(
        std::move(arrival.request), std::move(arrival.stream), arrival.arrival_ns, next_order_++,
        &pool_, tokenizer_, model_->config().eos_token_ids);
    scheduler_.Add(generation.get());
    const Sequence* key = generation.get();
    generations_.emplace(key, std::move(generation));
  }
}

void EngineImpl::EndCancelled(bool all) {
  std::vector<Generation*> ended;
  for (const auto& [key, generation] : generations_) {
    if (all || generation->stream().cancelled()) ended.push_back(generation.get());
  }
  for (Generation* generation : ended) {
    Finish(generation, {.reason = FinishReason::kCancelled,
                        .error = MakeError(ErrorLabel::kCancelled, "the request was cancelled")});
  }
  // Gauges show the blocks that came back even if no step follows.
  if (!ended.empty()) Report({});
}

void EngineImpl::Step() {
  std::optional<StepInFlight> step = Launch();
  std::swap(step, in_flight_);  // it is now the one before
  if (step) Commit(*std::move(step));
  if (in_flight_ && !in_flight_->ahead) Commit(*std::exchange(in_flight_, std::nullopt));
}

std::optional<StepInFlight> EngineImpl::Launch() {
  const int64_t start_ns = clock_->NowNs();
  // The energy of a step in flight is still being counted.
  if (!in_flight_) ledger_.BeginStep(was_idle_);
  StepInFlight step = {.plan = scheduler_.Plan(), .start_ns = start_ns};
  step.stats.preemptions = static_cast<int64_t>(step.plan.preempted.size());
  if (step.plan.work.empty()) {
    // Without a step in flight there is always something to do: the first in order fits
    // (scheduler.h).
    STERNA_CHECK(in_flight_);
    in_flight_->stats.preemptions += step.stats.preemptions;
    return std::nullopt;
  }
  step.ahead = options_.async_scheduling && model_->ops().runs_ahead();
  for (const ScheduledSequence& w : step.plan.work) {
    auto* generation = static_cast<Generation*>(w.sequence);
    step.work.push_back(generation->WorkOf(w.num_tokens));
    const StepTokens counts = generation->CountTokens(w.num_tokens);
    step.stats.prompt_tokens += counts.prompt;
    step.stats.recomputed_tokens += counts.recomputed;
    const int64_t end = w.sequence->num_computed() + w.num_tokens;
    for (int64_t row = end - w.sequence->NumLogits(w.num_tokens); row < end; ++row) {
      step.rows.push_back({generation, row + 1});
    }
  }
  RunForward(step);
  for (const ScheduledSequence& w : step.plan.work) w.sequence->Advance(w.num_tokens);
  for (size_t row = 0; step.ahead && row < step.rows.size(); ++row) {
    Generation* generation = step.rows[row].generation;
    if (step.rows[row].draws() && generation->may_go_on()) {
      generation->ExpectToken(DrawnToken(static_cast<int64_t>(row)));
    }
  }
  for (Sequence* sequence : step.plan.admitted) {
    auto* generation = static_cast<Generation*>(sequence);
    if (!generation->MarkScheduled()) continue;
    step.stats.queue_ns.push_back(step.start_ns - generation->arrival_ns());
    MutexLock lock(inbox_->mutex);
    --inbox_->num_queued;
  }
  return step;
}

void EngineImpl::RunForward(StepInFlight& step) {
  sample_params_.clear();
  for (const StepRow& row : step.rows) {
    sample_params_.push_back(row.generation->SampleOf(row.position));
  }
  model_->Forward(BuildStepBatch(step.plan), cache_, sample_params_);
  step.results.resize(step.rows.size());
  if (!step.rows.empty()) model_->Sample(sample_params_, step.results);
  model_->ops().Mark();
}

void EngineImpl::Commit(StepInFlight step) {
  const Status status = model_->ops().Wait();
  ShareEnergy(step);
  if (!status.ok()) {
    FailEverything(status);
    return;
  }
  const int64_t now_ns = clock_->NowNs();
  step.stats.duration_ns = now_ns - std::max(step.start_ns, last_step_end_ns_);
  last_step_end_ns_ = now_ns;
  AcceptTokens(step, now_ns);
  if (options_.check_integrity) CheckIntegrityNow();
  Report(std::move(step.stats));
}

void EngineImpl::ShareEnergy(StepInFlight& step) {
  const auto request = [&](size_t i) {
    return static_cast<Generation*>(step.plan.work[i].sequence);
  };
  for (size_t i = 0; i < step.work.size(); ++i) {
    step.work[i].request_ended = request(i)->state() == SequenceState::kFinished;
  }
  std::vector<int64_t> shares(step.work.size());
  ledger_.EndStep(step.work, shares);
  for (size_t i = 0; i < shares.size(); ++i) request(i)->AddEnergy(shares[i]);
}

void EngineImpl::AcceptTokens(StepInFlight& step, int64_t now_ns) {
  for (size_t i = 0; i < step.rows.size(); ++i) {
    Generation* generation = step.rows[i].generation;
    if (generation->state() == SequenceState::kFinished) continue;
    if (!step.rows[i].draws()) {
      generation->AcceptPromptLogprob(std::move(step.results[i]));
      continue;
    }
    if (generation->has_output()) {
      ++step.stats.output_tokens;
      const int64_t since_ns = generation->MarkToken(now_ns);
      (generation->num_output_tokens() == 0 ? step.stats.ttft_ns : step.stats.inter_token_ns)
          .push_back(since_ns);
    }
    if (std::optional<Completion> end = generation->Accept(std::move(step.results[i]))) {
      Finish(generation, *std::move(end));
    }
  }
}

void EngineImpl::Finish(Generation* generation, Completion completion) {
  const bool was_queued = generation->MarkScheduled();
  generation->Finish();
  scheduler_.Remove(generation);
  completion.usage = generation->UsageSoFar(meter_->method());
  if (listener_ != nullptr) {
    listener_->OnFinish({.reason = completion.reason,
                         .error = ErrorLabelOf(completion.error),
                         .usage = completion.usage,
                         .e2e_ns = clock_->NowNs() - generation->arrival_ns()});
  }
  generation->PushEnd(std::move(completion));
  auto ended = generations_.extract(generation);
  if (in_flight_) in_flight_->ended.push_back(std::move(ended.mapped()));
  MutexLock lock(inbox_->mutex);
  if (was_queued) --inbox_->num_queued;
  if (--inbox_->num_active == 0) inbox_->idle.NotifyAll();
}

void EngineImpl::FailEverything(const Status& status) {
  STERNA_LOG(kError, "the device failed, no request can be served any more: ", status.ToString());
  {
    MutexLock lock(inbox_->mutex);
    inbox_->healthy = false;
  }
  while (!generations_.empty()) {
    Finish(generations_.begin()->second.get(),
           {.reason = FinishReason::kFailed,
            .error = MakeError(ErrorLabel::kInternal, std::string(status.message()))});
  }
  if (in_flight_) (void)model_->ops().Finish();  // nothing writes its results any more
  in_flight_.reset();
}

void EngineImpl::Report(StepStats stats) {
  was_idle_ = generations_.empty();
  if (listener_ == nullptr) return;
  stats.running = scheduler_.num_running();
  stats.waiting = scheduler_.num_waiting();
  stats.kv_blocks_used = pool_.num_used();
  stats.kv_blocks_total = pool_.num_blocks();
  stats.energy = ledger_.totals();
  listener_->OnStep(stats);
}

void EngineImpl::CheckIntegrityNow() const {
  const Status status = scheduler_.CheckIntegrity();
  if (status.ok()) return;
  STERNA_LOG(kError, "KV block accounting is broken: ", status.ToString());
  STERNA_CHECK(status.ok());
}

}  // namespace

StepLimits LargestStep(const EngineOptions& options, const ModelConfig& config) {
  int64_t context = std::min(config.max_positions, options.num_kv_blocks * kKvBlockTokens);
  if (options.max_context_tokens > 0) context = std::min(context, options.max_context_tokens);
  return {.tokens = options.max_step_tokens,
          .logit_rows =
              options.max_sequences + std::min(options.max_scored_tokens, options.max_step_tokens),
          .sequences = options.max_sequences,
          .context_tokens = context};
}

StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options, Model<float>* model,
                                                 const Tokenizer* tokenizer, EnergyMeter* meter,
                                                 StatsListener* listener, const Clock* clock) {
  STERNA_RETURN_IF_ERROR(CheckOptions(options));
  const StepLimits largest = LargestStep(options, model->config());
  if (!model->limits().Covers(largest)) {
    const auto describe = [](const StepLimits& limits) {
      return absl::StrCat(limits.tokens, " tokens, ", limits.logit_rows, " rows of logits and ",
                          limits.sequences, " sequences of ", limits.context_tokens, " tokens");
    };
    return absl::InvalidArgumentError(absl::StrCat("the model's buffers hold steps of ",
                                                   describe(model->limits()),
                                                   "; the options ask for ", describe(largest)));
  }
  STERNA_ASSIGN_OR_RETURN(KvCache<float> cache,
                          KvCache<float>::Create(model->config(), options.kv_type,
                                                 options.num_kv_blocks, model->ops()));
  if (options.record_at_start) {
    model->RecordDecodeSteps(cache, largest.context_tokens);
    STERNA_RETURN_IF_ERROR(
        Annotate(model->ops().Finish(),
                 "recording the steps of decoding, which takes memory beside the K/V cache"));
  }
  return std::make_unique<EngineImpl>(options, model, std::move(cache), tokenizer, meter, listener,
                                      clock);
}

}  // namespace sterna

// Blocks of threads as fibers.
#include "tests/testing/cuda_emulation.h"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace sterna::testing {

namespace {

namespace context = boost::context;

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 64 << 10;

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool valid;
};

struct Thread {
  uint3 index;
  int number;
  context::fiber fiber;
  bool done = false;
  const char* waits_for = "";
  bool waited_for_previous = false;
  uint64_t exchanges = 0;  // of its warp, that it took part in
  std::vector<Copy> open_copies;
  std::vector<std::vector<Copy>> committed_copies;
  std::vector<std::function<void()>> open_products;
  std::vector<std::vector<std::function<void()>>> committed_products;
  std::function<bool()> done_waiting;  // see Block::WaitUntil
};

// Threads that wait for one another.
struct Barrier {
  int arrived = 0;
  std::vector<int> waiting;
};

struct Warp {
  Barrier barrier;
  const char* what = nullptr;
  // Who is ahead by one exchange writes beside what others still read.
  alignas(64) std::byte data[2][kWarp * kCudaLaneBytes];
};

// One block while it runs.
class Block {
 public:
  Block(const CudaLaunchShape& shape, std::mt19937_64* order) : shape_(shape), order_(order) {
    const dim3& block = shape.block;
    const int count = static_cast<int>(block.x * block.y * block.z);
    STERNA_CHECK(count >= 1 && count <= 1024);
    for (int i = 0; i < count; ++i) {
      const auto u = static_cast<unsigned>(i);
      threads_.push_back({.index = {u % block.x, u / block.x % block.y, u / block.x / block.y},
                          .number = i,
                          .fiber = {},
                          .open_copies = {},
                          .committed_copies = {},
                          .open_products = {},
                          .committed_products = {},
                          .done_waiting = {}});
    }
    warps_.resize(static_cast<size_t>((count + kWarp - 1) / kWarp));
    // Exactly as long as asked for. On 1024 bytes, as the device has it.
    shared_ = static_cast<uint8_t*>(::operator new(shape.shared_bytes, std::align_val_t{1024}));
  }
  ~Block() { ::operator delete(shared_, std::align_val_t{1024}); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Begins with block `index` of the grid, which Step does thread by thread.
  void Start(const uint3& index, const std::function<void()>& body);
  // Lets one thread go on until it waits or ends; false once all have ended.
  bool Step();

  Thread& current() { return threads_[static_cast<size_t>(current_)]; }
  Warp& warp() { return warps_[static_cast<size_t>(current_ / kWarp)]; }
  // The current thread waits until `expected` threads are at `barrier`.
  void WaitAt(Barrier& barrier, int expected, const char* what);
  void WaitUntil(const char* what, std::function<bool()> done);
  // Others may run, of this block and of those beside it.
  void Yield() {
    ready_.push_back(current_);
    scheduler_ = std::move(scheduler_).resume();
  }
  void Later(std::function<void()> work) { background_.push_back(std::move(work)); }
  int running() const { return running_; }
  Barrier& barrier(int id) { return barriers_[id]; }
  uint8_t* shared() { return shared_; }
  const uint3& index() const { return index_; }
  const CudaLaunchShape& shape() const { return shape_; }

 private:
  void Release(Barrier& barrier) {
    ready_.insert(ready_.end(), barrier.waiting.begin(), barrier.waiting.end());
    barrier.waiting.clear();
    barrier.arrived = 0;
  }
  // Whoever waited for what has come about may go on.
  void WakePollers();
  void EndThread(Thread& thread);
  void EndBlock();
  // Of the threads in ready_. Half of the blocks prefer who became ready last: a warp then runs as
  // far ahead of the others as barriers let it, which no fair choice brings about.
  size_t PickReady() {
    if (order_ == nullptr) return 0;
    const uint64_t random = (*order_)();
    return run_ahead_ && random % 64 != 0 ? ready_.size() - 1 : random / 64 % ready_.size();
  }
  [[noreturn]] void ReportStuck() const;

  CudaLaunchShape shape_;
  std::mt19937_64* order_;  // null: by number
  bool run_ahead_ = false;
  uint3 index_ = {};
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::map<int, Barrier> barriers_;
  std::vector<int> ready_;
  std::vector<int> polling_;
  std::vector<std::function<void()>> background_;
  int current_ = 0;
  int running_ = 0;
  uint8_t* shared_;
  context::fiber scheduler_;
  context::pooled_fixedsize_stack stacks_{kStackBytes};
};

struct Machine {
  Block* block = nullptr;  // of which a thread runs
  uint64_t order_seed = 0;
  std::mt19937_64 order;
  std::mt19937_64 noise{12345};
};
Machine& TheMachine() {
  static Machine machine;
  return machine;
}
Block& TheBlock() {
  STERNA_CHECK(TheMachine().block != nullptr);
  return *TheMachine().block;
}

void Block::Start(const uint3& index, const std::function<void()>& body) {
  index_ = index;
  CudaFillWithNoise(shared_, shape_.shared_bytes);
  running_ = static_cast<int>(threads_.size());
  run_ahead_ = order_ != nullptr && (*order_)() % 2 == 0;
  ready_.clear();
  for (Thread& thread : threads_) {
    thread.done = false;
    thread.waited_for_previous = false;
    thread.fiber = context::fiber(std::allocator_arg, stacks_,
                                  [this, &thread, &body](context::fiber&& scheduler) {
                                    scheduler_ = std::move(scheduler);
                                    body();
                                    thread.done = true;
                                    return std::move(scheduler_);
                                  });
    ready_.push_back(thread.number);
  }
}

bool Block::Step() {
  if (ready_.empty()) WakePollers();
  while (ready_.empty() && !background_.empty()) {
    background_.front()();
    background_.erase(background_.begin());
    WakePollers();
  }
  if (ready_.empty()) ReportStuck();
  const size_t pick = PickReady();
  current_ = ready_[pick];
  if (order_ == nullptr) {
    ready_.erase(ready_.begin());
  } else {
    std::swap(ready_[pick], ready_.back());
    ready_.pop_back();
  }
  Thread& thread = current();
  thread.fiber = std::move(thread.fiber).resume();
  if (thread.done) EndThread(thread);
  if (running_ == 0) EndBlock();
  return running_ > 0;
}

void Block::EndThread(Thread& thread) {
  // Nothing is left that was never waited for.
  STERNA_CHECK(thread.open_copies.empty() && thread.committed_copies.empty());
  STERNA_CHECK(thread.open_products.empty() && thread.committed_products.empty());
  --running_;
  // Threads that have ended count as being at __syncthreads.
  Barrier& all = barriers_[0];
  if (all.arrived > 0 && all.arrived == running_) Release(all);
}

void Block::EndBlock() {
  for (const auto& [id, barrier] : barriers_) STERNA_CHECK(barrier.arrived == 0);
  STERNA_CHECK(background_.empty());  // copies that nobody waited for
  // Who waits for this kernel's end relies on the end of the one before it as well.
  STERNA_CHECK(!shape_.overlap || std::ranges::any_of(threads_, &Thread::waited_for_previous));
}

void Block::WakePollers() {
  std::erase_if(polling_, [this](int number) {
    if (!threads_[static_cast<size_t>(number)].done_waiting()) return false;
    ready_.push_back(number);
    return true;
  });
}

void Block::WaitUntil(const char* what, std::function<bool()> done) {
  if (done()) return;
  Thread& thread = current();
  thread.done_waiting = std::move(done);
  thread.waits_for = what;
  polling_.push_back(thread.number);
  scheduler_ = std::move(scheduler_).resume();
  thread.waits_for = "";
}

void Block::WaitAt(Barrier& barrier, int expected, const char* what) {
  Thread& thread = current();
  if (++barrier.arrived == expected) {
    Release(barrier);
    // Who came last has no head start.
  } else {
    barrier.waiting.push_back(thread.number);
    thread.waits_for = what;
    scheduler_ = std::move(scheduler_).resume();
    // Whoever resumed this thread is the scheduler, and current_ is this thread again.
    thread.waits_for = "";
  }
}

void Block::ReportStuck() const {
  std::map<std::string, int> waits;
  for (const Thread& thread : threads_) {
    if (!thread.done) ++waits[thread.waits_for];
  }
  std::fprintf(stderr, "block (%u, %u, %u) cannot go on:", index_.x, index_.y, index_.z);
  for (const auto& [what, count] : waits) {
    std::fprintf(stderr, " %d threads wait at %s;", count, what.c_str());
  }
  std::fprintf(stderr, " %zu have ended\n", threads_.size() - static_cast<size_t>(running_));
  std::abort();
}

}  // namespace

void CudaFillWithNoise(void* p, size_t bytes) {
  auto* to = static_cast<std::byte*>(p);
  std::mt19937_64& noise = TheMachine().noise;
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = noise();
    std::memcpy(to + i, &word, std::min<size_t>(8, bytes - i));
  }
}

void SetCudaThreadOrder(uint64_t seed) {
  TheMachine().order_seed = seed;
  TheMachine().order.seed(seed);
}
const uint3& CudaThreadIdx() { return TheBlock().current().index; }
const uint3& CudaBlockIdx() { return TheBlock().index(); }
const dim3& CudaBlockDim() { return TheBlock().shape().block; }
const dim3& CudaGridDim() { return TheBlock().shape().grid; }
uint8_t* CudaSharedMemory() { return TheBlock().shared(); }
int CudaLane() { return TheBlock().current().number % kWarp; }

void CudaSyncThreads() {
  Block& block = TheBlock();
  block.WaitAt(block.barrier(0), block.running(), "__syncthreads");
}

void CudaWaitForPreviousKernel() { TheBlock().current().waited_for_previous = true; }

void CudaFence() {
  Block& block = TheBlock();
  // What is handed over before is where blocks of the kernel before may still hand over.
  STERNA_CHECK(!block.shape().overlap || block.current().waited_for_previous);
  block.Yield();
}

const std::byte* CudaExchange(const char* what, const void* data, size_t bytes) {
  STERNA_CHECK(bytes <= kCudaLaneBytes);
  Block& block = TheBlock();
  Warp& warp = block.warp();
  Thread& thread = block.current();
  if (warp.barrier.arrived == 0) warp.what = what;
  STERNA_CHECK(std::strcmp(warp.what, what) == 0);  // else lanes are at different collectives
  std::byte* all = warp.data[thread.exchanges++ % 2];
  if (bytes > 0) std::memcpy(all + static_cast<size_t>(CudaLane()) * kCudaLaneBytes, data, bytes);
  block.WaitAt(warp.barrier, kWarp, what);
  return all;
}

void CudaCopyAsync(void* shared, const void* global, size_t bytes, bool valid) {
  STERNA_CHECK(reinterpret_cast<uintptr_t>(shared) % bytes == 0);
  STERNA_CHECK(!valid || reinterpret_cast<uintptr_t>(global) % bytes == 0);
  // Until it is there, what lies there is of no use to anyone.
  CudaFillWithNoise(shared, bytes);
  TheBlock().current().open_copies.push_back({shared, global, bytes, valid});
}

void CudaCommitCopies() {
  Thread& thread = TheBlock().current();
  thread.committed_copies.push_back(std::exchange(thread.open_copies, {}));
}

void CudaWaitForCopies(int newest) {
  auto& groups = TheBlock().current().committed_copies;
  while (std::ssize(groups) > newest) {
    for (const Copy& copy : groups.front()) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
    }
    groups.erase(groups.begin());
  }
}

void CudaWaitUntil(const char* what, std::function<bool()> done) {
  TheBlock().WaitUntil(what, std::move(done));
}
void CudaLater(std::function<void()> work) { TheBlock().Later(std::move(work)); }

void CudaLaterProduct(std::function<void()> product) {
  TheBlock().current().open_products.push_back(std::move(product));
}
void CudaCommitProducts() {
  Thread& thread = TheBlock().current();
  thread.committed_products.push_back(std::exchange(thread.open_products, {}));
}
void CudaWaitForProducts(int newest) {
  auto& groups = TheBlock().current().committed_products;
  while (std::ssize(groups) > newest) {
    for (const auto& product : groups.front()) product();
    groups.erase(groups.begin());
  }
}

namespace {

// Runs all blocks, a few side by side where there is an order.
void RunBlocks(const CudaLaunchShape& shape, const std::function<void()>& thread) {
  Machine& machine = TheMachine();
  std::mt19937_64* const order = machine.order_seed == 0 ? nullptr : &machine.order;
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < shape.grid.z; ++z) {
    for (unsigned y = 0; y < shape.grid.y; ++y) {
      for (unsigned x = 0; x < shape.grid.x; ++x) blocks.push_back({x, y, z});
    }
  }
  if (order != nullptr) std::shuffle(blocks.begin(), blocks.end(), *order);
  constexpr size_t kMostSideBySide = 3;
  const size_t side_by_side = order == nullptr ? 1 : 1 + (*order)() % kMostSideBySide;
  size_t next = 0;
  std::vector<std::unique_ptr<Block>> running;
  for (; next < std::min(side_by_side, blocks.size()); ++next) {
    running.push_back(std::make_unique<Block>(shape, order));
    running.back()->Start(blocks[next], thread);
  }
  for (size_t turn = 0; !running.empty();) {
    if (running.size() > 1 && (*order)() % 8 == 0) turn = (*order)();
    turn %= running.size();
    machine.block = running[turn].get();
    if (machine.block->Step()) continue;
    if (next < blocks.size()) {
      machine.block->Start(blocks[next++], thread);
    } else {
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(turn));
    }
  }
  machine.block = nullptr;
}

}  // namespace

cudaError_t CudaLaunch(const CudaLaunchShape& shape, cudaStream_t stream,
                       std::function<void()> thread) {
  constexpr size_t kMostSharedBytes = 227 << 10;  // of a block on sm_90; sm_80 has 163 KiB
  const auto& [grid, block, shared_bytes, overlap] = shape;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
      threads == 0 || threads > 1024 || shared_bytes > kMostSharedBytes) {
    return cudaErrorInvalidConfiguration;
  }
  return CudaEnqueue(stream, [=] {
    STERNA_CHECK(TheMachine().block == nullptr);
    RunBlocks(shape, thread);
    return cudaSuccess;
  });
}

}  // namespace sterna::testing

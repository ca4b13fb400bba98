#include "tests/testing/cuda_emulation.h"

#include <array>
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

// What a stream was told while it was being captured; nothing else waits in one.
struct CudaGraph {
  std::vector<std::function<cudaError_t()>> nodes;
};
struct CudaStream {
  std::unique_ptr<CudaGraph> capture;
};
struct CudaEvent {
  bool recorded = false;
};

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
  Block(const dim3& grid, const dim3& block, size_t shared_bytes, std::mt19937_64* order)
      : grid_(grid), block_(block), order_(order) {
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
    shared_bytes_ = shared_bytes;
    shared_ = static_cast<uint8_t*>(::operator new(shared_bytes, std::align_val_t{1024}));
  }
  ~Block() { ::operator delete(shared_, std::align_val_t{1024}); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void Run(const uint3& index, const std::function<void()>& body);

  Thread& current() { return threads_[static_cast<size_t>(current_)]; }
  Warp& warp() { return warps_[static_cast<size_t>(current_ / kWarp)]; }
  // The current thread waits until `expected` threads are at `barrier`.
  void WaitAt(Barrier& barrier, int expected, const char* what);
  void WaitUntil(const char* what, std::function<bool()> done);
  void Later(std::function<void()> work) { background_.push_back(std::move(work)); }
  int running() const { return running_; }
  Barrier& barrier(int id) { return barriers_[id]; }
  uint8_t* shared() { return shared_; }
  const uint3& index() const { return index_; }
  const dim3& grid() const { return grid_; }
  const dim3& block() const { return block_; }

 private:
  void Release(Barrier& barrier) {
    ready_.insert(ready_.end(), barrier.waiting.begin(), barrier.waiting.end());
    barrier.waiting.clear();
    barrier.arrived = 0;
  }
  // Whoever waited for what has come about may go on.
  void WakePollers();
  // Of the threads in ready_. Half of the blocks prefer who became ready last: a warp then runs as
  // far ahead of the others as barriers let it, which no fair choice brings about.
  size_t PickReady() {
    if (order_ == nullptr) return 0;
    const uint64_t random = (*order_)();
    return run_ahead_ && random % 64 != 0 ? ready_.size() - 1 : random / 64 % ready_.size();
  }
  [[noreturn]] void ReportStuck() const;

  dim3 grid_;
  dim3 block_;
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
  size_t shared_bytes_;
  context::fiber scheduler_;
  context::pooled_fixedsize_stack stacks_{kStackBytes};
};

struct Machine {
  Block* block = nullptr;  // that runs
  uint64_t order_seed = 0;
  std::mt19937_64 order;
  std::mt19937_64 noise{12345};
  size_t memory_bytes = size_t{1} << 30;
  std::map<void*, size_t> allocations;
  cudaError_t error = cudaSuccess;
};
Machine& TheMachine() {
  static Machine machine;
  return machine;
}
Block& TheBlock() {
  STERNA_CHECK(TheMachine().block != nullptr);
  return *TheMachine().block;
}

void FillWithNoise(void* p, size_t bytes) {
  auto* to = static_cast<std::byte*>(p);
  std::mt19937_64& noise = TheMachine().noise;
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = noise();
    std::memcpy(to + i, &word, std::min<size_t>(8, bytes - i));
  }
}

void Block::Run(const uint3& index, const std::function<void()>& body) {
  index_ = index;
  FillWithNoise(shared_, shared_bytes_);
  running_ = static_cast<int>(threads_.size());
  run_ahead_ = order_ != nullptr && (*order_)() % 2 == 0;
  ready_.clear();
  for (Thread& thread : threads_) {
    thread.done = false;
    thread.fiber = context::fiber(std::allocator_arg, stacks_,
                                  [this, &thread, &body](context::fiber&& scheduler) {
                                    scheduler_ = std::move(scheduler);
                                    body();
                                    thread.done = true;
                                    return std::move(scheduler_);
                                  });
    ready_.push_back(thread.number);
  }
  while (running_ > 0) {
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
    if (!thread.done) continue;
    // Nothing is left that was never waited for.
    STERNA_CHECK(thread.open_copies.empty() && thread.committed_copies.empty());
    STERNA_CHECK(thread.open_products.empty() && thread.committed_products.empty());
    --running_;
    // Threads that have ended count as being at __syncthreads.
    Barrier& all = barriers_[0];
    if (all.arrived > 0 && all.arrived == running_) Release(all);
  }
  for (const auto& [id, barrier] : barriers_) STERNA_CHECK(barrier.arrived == 0);
  STERNA_CHECK(background_.empty());  // copies that nobody waited for
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

// Does `node` now, or when the graph that is being captured is launched.
cudaError_t Enqueue(cudaStream_t stream, std::function<cudaError_t()> node) {
  if (TheMachine().error != cudaSuccess) return TheMachine().error;
  if (stream != nullptr && stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(node));
    return cudaSuccess;
  }
  return node();
}

cudaError_t Allocate(void** p, size_t bytes) {
  Machine& machine = TheMachine();
  if (machine.error != cudaSuccess) return machine.error;
  if (CudaBytesAllocated() + bytes > machine.memory_bytes) return cudaErrorMemoryAllocation;
  *p = ::operator new(bytes, std::align_val_t{256});
  FillWithNoise(*p, bytes);
  machine.allocations[*p] = bytes;
  return cudaSuccess;
}

cudaError_t Free(void* p) {
  if (p == nullptr) return cudaSuccess;
  if (TheMachine().allocations.erase(p) == 0) return cudaErrorInvalidValue;
  ::operator delete(p, std::align_val_t{256});
  return cudaSuccess;
}

}  // namespace

void SetCudaThreadOrder(uint64_t seed) {
  TheMachine().order_seed = seed;
  TheMachine().order.seed(seed);
}
void SetCudaMemoryBytes(size_t bytes) { TheMachine().memory_bytes = bytes; }
size_t CudaBytesAllocated() {
  size_t bytes = 0;
  for (const auto& [p, size] : TheMachine().allocations) bytes += size;
  return bytes;
}
void SetCudaError(cudaError_t error) { TheMachine().error = error; }

const uint3& CudaThreadIdx() { return TheBlock().current().index; }
const uint3& CudaBlockIdx() { return TheBlock().index(); }
const dim3& CudaBlockDim() { return TheBlock().block(); }
const dim3& CudaGridDim() { return TheBlock().grid(); }
uint8_t* CudaSharedMemory() { return TheBlock().shared(); }
int CudaLane() { return TheBlock().current().number % kWarp; }

void CudaSyncThreads() {
  Block& block = TheBlock();
  block.WaitAt(block.barrier(0), block.running(), "__syncthreads");
}

void CudaNamedBarrier(int id, int threads) {
  STERNA_CHECK(id >= 1 && id <= 15 && threads > 0 && threads % kWarp == 0);
  Block& block = TheBlock();
  block.WaitAt(block.barrier(id), threads, "NamedBarrier");
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
  FillWithNoise(shared, bytes);
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

cudaError_t CudaLaunch(const dim3& grid, const dim3& block, size_t shared_bytes,
                       cudaStream_t stream, std::function<void()> thread) {
  constexpr size_t kMostSharedBytes = 227 << 10;  // of a block on sm_90; sm_80 has 163 KiB
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
      threads == 0 || threads > 1024 || shared_bytes > kMostSharedBytes) {
    return cudaErrorInvalidConfiguration;
  }
  return Enqueue(stream, [=] {
    Machine& machine = TheMachine();
    STERNA_CHECK(machine.block == nullptr);
    Block running(grid, block, shared_bytes, machine.order_seed == 0 ? nullptr : &machine.order);
    machine.block = &running;
    std::vector<uint3> blocks;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
      }
    }
    if (machine.order_seed != 0) std::shuffle(blocks.begin(), blocks.end(), machine.order);
    for (const uint3& index : blocks) running.Run(index, thread);
    machine.block = nullptr;
    return cudaSuccess;
  });
}

}  // namespace sterna::testing

namespace sterna::cuda {
namespace {

using testing::kCudaLaneBytes;

struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
};
const Fragments& FragmentsOf(const std::byte* all, int lane) {
  return *reinterpret_cast<const Fragments*>(all + static_cast<size_t>(lane) * kCudaLaneBytes);
}

// Calls body(i, row, col) for the four elements of D that this lane has.
template <typename Body>
void ForOwnElements(const Body& body) {
  const int lane = testing::CudaLane();
  for (int i = 0; i < 4; ++i) body(i, lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
}

// Element (row, k) of A and (k, col) of B, of `kBytes` bytes each, wherever it lies.
template <int kBytes>
uint32_t ElementOfA(const std::byte* all, int row, int k) {
  constexpr int kInRegister = 4 / kBytes;
  const int lane = row % 8 * 4 + k / kInRegister % 4;
  const int reg = row / 8 + k / (4 * kInRegister) * 2;
  return FragmentsOf(all, lane).a[reg] >> (k % kInRegister * kBytes * 8);
}
template <int kBytes>
uint32_t ElementOfB(const std::byte* all, int k, int col) {
  constexpr int kInRegister = 4 / kBytes;
  const int lane = col * 4 + k / kInRegister % 4;
  return FragmentsOf(all, lane).b[k / (4 * kInRegister)] >> (k % kInRegister * kBytes * 8);
}

template <typename A>
void MmaBytes(const char* what, int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Fragments own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const std::byte* all = testing::CudaExchange(what, &own, sizeof(own));
  ForOwnElements([&](int i, int row, int col) {
    int32_t sum = 0;
    for (int k = 0; k < 32; ++k) {
      sum += static_cast<A>(ElementOfA<1>(all, row, k)) *
             static_cast<int8_t>(ElementOfB<1>(all, k, col));
    }
    d[i] += sum;
  });
}

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

template <typename ToFloat>
void MmaHalves(const char* what, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
               const ToFloat& to_float) {
  const Fragments own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const std::byte* all = testing::CudaExchange(what, &own, sizeof(own));
  ForOwnElements([&](int i, int row, int col) {
    float sum = d[i];
    for (int k = 0; k < 16; ++k) {
      sum += to_float(static_cast<uint16_t>(ElementOfA<2>(all, row, k))) *
             to_float(static_cast<uint16_t>(ElementOfB<2>(all, k, col)));
    }
    d[i] = sum;
  });
}

void Load8x8s(const char* what, uint32_t (&r)[4], const void* shared_row, bool transposed) {
  STERNA_CHECK(reinterpret_cast<uintptr_t>(shared_row) % 16 == 0);
  const std::byte* all = testing::CudaExchange(what, &shared_row, sizeof(shared_row));
  const int lane = testing::CudaLane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    r[matrix] = 0;
    for (int i = 0; i < 2; ++i) {
      int row = lane / 4;
      int col = lane % 4 * 2 + i;
      if (transposed) std::swap(row, col);
      const uint16_t* elements;
      std::memcpy(&elements, all + static_cast<size_t>(matrix * 8 + row) * kCudaLaneBytes,
                  sizeof(elements));
      r[matrix] |= uint32_t{elements[col]} << (16 * i);
    }
  }
  // Nobody may write there before all have read; the hardware reads at once.
  testing::CudaExchange(what, nullptr, 0);
}

}  // namespace

void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaBytes<uint8_t>("MmaU8S8", d, a, b0, b1);
}
void MmaS8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaBytes<int8_t>("MmaS8S8", d, a, b0, b1);
}
void MmaF16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaHalves("MmaF16", d, a, b0, b1, HalfToFloat);
}
void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MmaHalves("MmaBf16", d, a, b0, b1, Bf16ToFloat);
}
void LoadMatrices(uint32_t (&r)[4], const void* shared_row) {
  Load8x8s("LoadMatrices", r, shared_row, false);
}
void LoadMatricesTransposed(uint32_t (&r)[4], const void* shared_row) {
  Load8x8s("LoadMatricesTransposed", r, shared_row, true);
}

void InitBarrier(MemoryBarrier* barrier, int count) {
  STERNA_CHECK(count >= 1 && count <= 255);
  const auto n = static_cast<uint8_t>(count);
  *barrier = {0, n, n, kInitialised, 0};
}

namespace {

void EndPhaseIfComplete(MemoryBarrier* barrier) {
  if (barrier->to_arrive > 0 || barrier->bytes_to_come != 0) return;
  barrier->parity ^= 1;
  barrier->to_arrive = barrier->count;
}

}  // namespace

void ArriveExpecting(MemoryBarrier* barrier, uint32_t bytes) {
  STERNA_CHECK(barrier->initialised == kInitialised && barrier->to_arrive > 0);
  barrier->bytes_to_come += static_cast<int32_t>(bytes);
  --barrier->to_arrive;
  EndPhaseIfComplete(barrier);
}
void ArriveAt(MemoryBarrier* barrier) { ArriveExpecting(barrier, 0); }

void WaitAt(MemoryBarrier* barrier, uint32_t parity) {
  STERNA_CHECK(barrier->initialised == kInitialised);
  testing::CudaWaitUntil("WaitAt", [=] { return barrier->parity != parity; });
}

cudaError_t MakeTensorMap(const void* base, int64_t rows, int64_t row_bytes, int box_rows,
                          TensorMap* tensor) {
  if (reinterpret_cast<uintptr_t>(base) % 16 != 0 || row_bytes % 16 != 0 || rows < 1 ||
      box_rows < 1 || box_rows > 256) {
    return cudaErrorInvalidValue;
  }
  *tensor = {static_cast<const uint8_t*>(base), rows, row_bytes, box_rows};
  return cudaSuccess;
}

void CopyBoxAsync(void* shared, const TensorMap* tensor, int row, int byte,
                  MemoryBarrier* barrier) {
  STERNA_CHECK(reinterpret_cast<uintptr_t>(shared) % 1024 == 0 && byte % 16 == 0);
  auto* to = static_cast<uint8_t*>(shared);
  const TensorMap map = *tensor;
  testing::FillWithNoise(to, static_cast<size_t>(map.box_rows) * kTensorBoxBytes);
  testing::CudaLater([=] {
    for (int r = 0; r < map.box_rows; ++r) {
      for (int i = 0; i < kTensorBoxBytes; ++i) {
        const bool there = row + r < map.rows && byte + i < map.row_bytes;
        to[r * kTensorBoxBytes + ((i / 16) ^ (r % 8)) * 16 + i % 16] =
            there ? map.base[(row + r) * map.row_bytes + byte + i] : uint8_t{0};
      }
    }
    barrier->bytes_to_come -= map.box_rows * kTensorBoxBytes;
    EndPhaseIfComplete(barrier);
  });
}

void CommitProducts() {
  testing::Thread& thread = testing::TheBlock().current();
  thread.committed_products.push_back(std::exchange(thread.open_products, {}));
}

void WaitForProducts(int newest) {
  auto& groups = testing::TheBlock().current().committed_products;
  while (std::ssize(groups) > newest) {
    for (const auto& product : groups.front()) product();
    groups.erase(groups.begin());
  }
}

void WarpgroupMmaU8S8(int32_t (&d)[kWgmmaTokens / 2], const uint32_t (&a)[4], const void* box,
                      int k_tile) {
  STERNA_CHECK(reinterpret_cast<uintptr_t>(box) % 1024 == 0 && k_tile >= 0 && k_tile < 4);
  const std::byte* all = testing::CudaExchange("WarpgroupMmaU8S8", a, sizeof(a));
  const int lane = testing::CudaLane();
  // The two rows of A of which this lane has elements of D.
  std::array<std::array<uint8_t, 32>, 2> rows;
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < 32; ++k) {
      rows[static_cast<size_t>(half)][static_cast<size_t>(k)] =
          static_cast<uint8_t>(ElementOfA<1>(all, lane / 4 + 8 * half, k));
    }
  }
  int32_t* out = d;
  const auto* from = static_cast<const uint8_t*>(box);
  // When it is waited for: what lies in the box by then is what is multiplied.
  testing::TheBlock().current().open_products.emplace_back([=] {
    for (int i = 0; i < kWgmmaTokens / 2; ++i) {
      const int token = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const auto& row = rows[static_cast<size_t>(i / 2 % 2)];
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) {
        const int chunk = (k_tile * 2 + k / 16) ^ (token % 8);
        sum += row[static_cast<size_t>(k)] *
               static_cast<int8_t>(from[token * kTensorBoxBytes + chunk * 16 + k % 16]);
      }
      out[i] += sum;
    }
  });
}

}  // namespace sterna::cuda

// --- The runtime.

using sterna::testing::TheMachine;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "unknown error";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return TheMachine().error; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return TheMachine().error;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? TheMachine().error : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated");
  properties->major = 9;
  properties->multiProcessorCount = 4;
  properties->totalGlobalMem = TheMachine().memory_bytes;
  properties->sharedMemPerBlockOptin = 227 << 10;
  return TheMachine().error;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = TheMachine().memory_bytes;
  *free = *total - std::min(*total, sterna::testing::CudaBytesAllocated());
  return TheMachine().error;
}
cudaError_t cudaMalloc(void** p, size_t bytes) { return sterna::testing::Allocate(p, bytes); }
cudaError_t cudaFree(void* p) { return sterna::testing::Free(p); }
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  if (TheMachine().error != cudaSuccess) return TheMachine().error;
  *p = ::operator new(bytes, std::align_val_t{256});
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  if (p != nullptr) ::operator delete(p, std::align_val_t{256});
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return sterna::testing::Enqueue(stream, [=] {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return sterna::testing::Enqueue(stream, [=] {
    std::memset(p, value, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new sterna::testing::CudaStream;
  return TheMachine().error;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return TheMachine().error; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capture != nullptr) return cudaErrorInvalidValue;
  stream->capture = std::make_unique<sterna::testing::CudaGraph>();
  return TheMachine().error;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->capture == nullptr) return cudaErrorInvalidValue;
  *graph = stream->capture.release();
  return TheMachine().error;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new sterna::testing::CudaGraph(*graph);
  return TheMachine().error;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& node : exec->nodes) {
    if (TheMachine().error != cudaSuccess) return TheMachine().error;
    if (const cudaError_t error = node(); error != cudaSuccess) return error;
  }
  return TheMachine().error;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new sterna::testing::CudaEvent;
  return TheMachine().error;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->recorded = true;
  return TheMachine().error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return TheMachine().error; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return TheMachine().error;
}

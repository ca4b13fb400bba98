// The matrix instructions by their documented fragments, and what goes on in the background.
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "kernels/bfloat16.h"
#include "tests/testing/cuda_emulation.h"

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
  testing::CudaFillWithNoise(to, static_cast<size_t>(map.box_rows) * kTensorBoxBytes);
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
  testing::CudaLaterProduct([=] {
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

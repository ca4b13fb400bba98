#include "kernels/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/devices.h"

namespace sterna {
namespace cpu {
namespace {

#if defined(__x86_64__)
// What CPUID says (Intel SDM, volume 2A); zeros for a leaf that is not there.
struct Cpuid {
  Cpuid(unsigned leaf, unsigned subleaf) {
    __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx);
  }
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
bool HasBit(unsigned word, int bit) { return (word >> bit & 1) != 0; }

// The compiler's checks read cpuid and also XCR0: registers that the operating system does not save
// count as missing. What clang 16 has no name for is read here: F16C and AVX-VNNI have the
// registers of AVX2, and those of AMX the operating system is asked for.
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         HasBit(Cpuid(1, 0).ecx, 29);
}

bool HasAvxVnni() { return HasAvx2() && HasBit(Cpuid(7, 1).eax, 4); }

bool HasAvx512Vnni() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

// Linux gives a process the tiles' 8 KiB of registers only when it asks (arch_prctl(2)).
bool HasAmx() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  constexpr int kBf16Bit = 22, kTileBit = 24, kInt8Bit = 25;
  const unsigned features = Cpuid(7, 0).edx;
  static const bool has = HasAvx512Vnni() && HasBit(features, kTileBit) &&
                          HasBit(features, kInt8Bit) && HasBit(features, kBf16Bit) &&
                          syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return has;
}
#endif

}  // namespace

std::vector<const CpuKernels*> AvailableKernels() {
  std::vector<const CpuKernels*> tables = {&ScalarKernels()};
#if defined(__x86_64__)
  if (HasAvx2()) tables.push_back(&Avx2Kernels());
  if (HasAvxVnni()) tables.push_back(&AvxVnniKernels());
  if (HasAvx512Vnni()) tables.push_back(&Avx512VnniKernels());
  if (HasAmx()) tables.push_back(&AmxKernels());
#endif
  return tables;
}

StatusOr<const CpuKernels*> ChooseKernels(std::string_view isa) {
  const std::vector<const CpuKernels*> tables = AvailableKernels();
  if (isa == "auto") return tables.back();
  std::string choices = "auto";
  for (const CpuKernels* table : tables) {
    if (isa == table->name) return table;
    absl::StrAppend(&choices, ", ", table->name);
  }
  return absl::InvalidArgumentError(absl::StrCat("CPU instruction set \"", std::string(isa),
                                                 "\" is unknown or missing on this machine, "
                                                 "which offers: ",
                                                 choices));
}

}  // namespace cpu

std::vector<std::string> CpuIsaLevels() {
  std::vector<std::string> names;
  for (const cpu::CpuKernels* table : cpu::AvailableKernels()) names.emplace_back(table->name);
  return names;
}

}  // namespace sterna

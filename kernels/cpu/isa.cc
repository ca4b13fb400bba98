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
// The compiler's checks read cpuid and also XCR0: registers that the operating system does not save
// count as missing.
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

// Clang 16 has no name for it: bit 4 of eax in leaf 7, subleaf 1 (Intel SDM, volume 2A, CPUID). Its
// registers are AVX2's.
bool HasAvxVnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return HasAvx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
         (eax & (1u << 4)) != 0;
}

bool HasAvx512Vnni() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

// Linux gives a process the tiles' 8 KiB of registers only when it asks (arch_prctl(2)).
bool HasAmx() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool has = HasAvx512Vnni() && __builtin_cpu_supports("amx-tile") &&
                          __builtin_cpu_supports("amx-int8") &&
                          __builtin_cpu_supports("amx-bf16") &&
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

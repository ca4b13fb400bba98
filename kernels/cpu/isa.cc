#include "kernels/cpu/isa.h"

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

bool HasAvx512Vnni() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

std::vector<const CpuKernels*> AvailableKernels() {
  std::vector<const CpuKernels*> tables = {&ScalarKernels()};
#if defined(__x86_64__)
  if (HasAvx2()) tables.push_back(&Avx2Kernels());
  if (HasAvx512Vnni()) tables.push_back(&Avx512VnniKernels());
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

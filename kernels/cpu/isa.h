// The instruction-set levels of the CPU backend.
//
// Thread contract: pure functions of the machine.
#ifndef STERNA_KERNELS_CPU_ISA_H_
#define STERNA_KERNELS_CPU_ISA_H_

#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/cpu/kernel_table.h"

namespace sterna::cpu {

// Kernel tables that this machine and its operating system can run, worst first.
std::vector<const CpuKernels*> AvailableKernels();

// The table called `isa`, or the best for "auto". InvalidArgument naming the choices otherwise.
StatusOr<const CpuKernels*> ChooseKernels(std::string_view isa);

}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_ISA_H_

// How many processor cores this process may really use.
//
// Thread contract: reads /proc and /sys on each call; keeps nothing.
#ifndef STERNA_KERNELS_CPU_TOPOLOGY_H_
#define STERNA_KERNELS_CPU_TOPOLOGY_H_

namespace sterna::cpu {

// Physical cores in the process's affinity mask (hyper-threads of one core count once, because two
// of them share the vector units that the kernels fill), and no more than the container's CPU quota
// allows, since threads beyond it only get throttled. At least 1.
int UsableCores();

}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_TOPOLOGY_H_

#include "base/numa.h"

#include <dirent.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/logging.h"

namespace sterna {
namespace {

constexpr int kBitsPerWord = CHAR_BIT * sizeof(unsigned long);
// As many as Linux can be built for (CONFIG_NODES_SHIFT is at most 10).
constexpr int kMostNodes = 1024;

// As set_mempolicy(2) and its kin take it.
struct NodeMask {
  std::array<unsigned long, kMostNodes / kBitsPerWord> words = {};
  // The kernel reads one bit less than it is told.
  static constexpr unsigned long kBits = kMostNodes + 1;

  void Add(int node) { words[node / kBitsPerWord] |= 1UL << (node % kBitsPerWord); }
  bool Has(int node) const {
    return (words[node / kBitsPerWord] >> (node % kBitsPerWord) & 1) != 0;
  }
};

// sysfs links the directory of a processor to that of its node, as "node0". -1 if it does not.
int NodeOfProcessor(int cpu) {
  const std::string path = absl::StrCat("/sys/devices/system/cpu/cpu", cpu);
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (directory == nullptr) return -1;
  while (const dirent* entry = readdir(directory.get())) {
    std::string_view name = entry->d_name;
    constexpr std::string_view kPrefix = "node";
    if (!name.starts_with(kPrefix)) continue;
    name.remove_prefix(kPrefix.size());
    int node = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), node);
    if (error == std::errc() && end == name.data() + name.size() && node < kMostNodes) return node;
  }
  return -1;
}

std::vector<int> FindUsedMemoryNodes() {
  int policy = MPOL_DEFAULT;
  NodeMask allowed, unused;
  if (syscall(SYS_get_mempolicy, &policy, unused.words.data(), NodeMask::kBits, nullptr, 0) != 0 ||
      syscall(SYS_get_mempolicy, nullptr, allowed.words.data(), NodeMask::kBits, nullptr,
              MPOL_F_MEMS_ALLOWED) != 0) {
    // Filtered, as mbind will be: let it be tried, so that several nodes do not go unnoticed.
    if (errno != EPERM) return {};
    allowed.words.fill(~0UL);
  }
  cpu_set_t processors;
  CPU_ZERO(&processors);
  if (policy != MPOL_DEFAULT || sched_getaffinity(0, sizeof(processors), &processors) != 0) {
    return {};
  }
  std::set<int> nodes;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &processors)) continue;
    const int node = NodeOfProcessor(cpu);
    if (node >= 0 && allowed.Has(node)) nodes.insert(node);
  }
  return {nodes.begin(), nodes.end()};
}

}  // namespace

const std::vector<int>& UsedMemoryNodes() {
  static const auto* const nodes = new std::vector<int>(FindUsedMemoryNodes());
  return *nodes;
}

int InterleaveMemory(void* p, size_t bytes, std::span<const int> nodes) {
  NodeMask mask;
  for (const int node : nodes) mask.Add(node);
  const long result =
      syscall(SYS_mbind, p, bytes, MPOL_INTERLEAVE, mask.words.data(), NodeMask::kBits, 0);
  return result == 0 ? 0 : errno;
}

void SpreadOverUsedNodes(void* p, size_t bytes) {
  const std::vector<int>& nodes = UsedMemoryNodes();
  if (nodes.size() < 2) return;
  const int error = InterleaveMemory(p, bytes, nodes);
  if (error == 0) return;
  static std::once_flag once;
  std::call_once(once, [&] {
    STERNA_LOG(kWarning, "weights and K/V lie where a thread touches them first, not spread over ",
               nodes.size(), " memory nodes: mbind: ", std::strerror(error));
  });
}

}  // namespace sterna

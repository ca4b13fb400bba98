// Every checkpoint of the corpus of broken ones is refused or warned about, with the right name in
// the message, and takes no memory that its files do not justify.
#include "tests/unit/engine/broken_checkpoints.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <new>

#include "engine/checkpoint_lint.h"
#include "gtest/gtest.h"
#include "tests/testing/memory_limit.h"

namespace sterna {
namespace {

using testing::Fault;
using Severity = LintFinding::Severity;

// Address space, most of it stacks and heaps of threads; a claim that is believed takes more.
constexpr int64_t kAllowedAddresses = int64_t{2} << 30;
// Resident memory beside a multiple of the files' size: what code and threads take.
constexpr int64_t kAllowedBytes = 16 << 20;
constexpr int64_t kAllowedTimes = 4;

int64_t BytesIn(const std::string& directory) {
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

std::string AllOf(const std::vector<LintFinding>& findings) {
  std::string all = "found:";
  for (const LintFinding& finding : findings) all += "\n  " + LintText(finding);
  return all;
}

bool IsNamed(const Fault& fault, const std::vector<LintFinding>& findings) {
  const auto has = [](const std::string& text) {
    return [&text](const std::string& message) { return text.find(message) != std::string::npos; };
  };
  const bool errors = std::ranges::any_of(
      findings, [](const LintFinding& finding) { return finding.severity == Severity::kError; });
  // What is only to be warned about must load.
  if (errors != (fault.severity == Severity::kError)) return false;
  return std::ranges::any_of(findings, [&](const LintFinding& finding) {
    return finding.severity == fault.severity &&
           std::ranges::all_of(fault.messages, has(LintText(finding)));
  });
}

std::vector<LintFinding> Lint(const Fault& fault) {
  const testing::TempDir dir;
  const std::string model = fault.make(dir);
  const int64_t allowed = kAllowedBytes + kAllowedTimes * BytesIn(dir.path());
  const testing::MemoryLimit limit(kAllowedAddresses);
  const testing::PeakMemory peak;
  try {
    std::vector<LintFinding> findings = LintModel(model, {});
    if (!STERNA_TEST_SANITIZED) {
      EXPECT_LE(peak.growth_bytes(), allowed) << fault.name;
    }
    return findings;
  } catch (const std::bad_alloc&) {
    ADD_FAILURE() << fault.name << ": more memory than the files justify";
    return {};
  }
}

TEST(BrokenCheckpointsTest, TheGoodOnesHaveNoFindings) {
  std::vector<Fault> all = testing::GoodSafetensors();
  for (Fault& good : testing::GoodGguf()) all.push_back(std::move(good));
  for (const Fault& good : all) {
    const std::vector<LintFinding> findings = Lint(good);
    EXPECT_TRUE(findings.empty()) << good.name << ": " << AllOf(findings);
  }
}

TEST(BrokenCheckpointsTest, EveryFaultIsFoundAndNamed) {
  std::vector<Fault> faults = testing::SafetensorsFaults();
  for (Fault& fault : testing::GgufFaults()) faults.push_back(std::move(fault));
  EXPECT_GE(faults.size(), 40u);
  size_t found = 0;
  for (const Fault& fault : faults) {
    const std::vector<LintFinding> findings = Lint(fault);
    const bool is_named = IsNamed(fault, findings);
    found += is_named ? 1 : 0;
    EXPECT_TRUE(is_named) << fault.name << ": " << AllOf(findings);
    std::printf("%-8s %-44s %s\n", fault.severity == Severity::kError ? "refused" : "warned",
                fault.name.c_str(), is_named ? "found" : "NOT FOUND");
  }
  std::printf("%zu of %zu broken checkpoints found\n", found, faults.size());
}

}  // namespace
}  // namespace sterna

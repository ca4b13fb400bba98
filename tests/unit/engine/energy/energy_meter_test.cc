// The sources: the model, RAPL over an invented /sys, NVML over invented functions.
#include "engine/energy/energy_meter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/process_threads.h"
#include "engine/energy/modelled_meter.h"
#include "engine/energy/nvml_meter.h"
#include "engine/energy/rapl_meter.h"

namespace sterna {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

const std::string kOnCpu;
// Where no machine has a GPU.
const std::string kNoGpu = "ffff:ff:1f.7";

TEST(ModelledMeterTest, IsWattsTimesCpuTimePlusRest) {
  FakeClock clock(1000);
  int64_t cpu_ns = 500;
  ModelledMeter meter(8.0, 2.5, clock, [&] { return cpu_ns; });
  EXPECT_EQ(*meter.ReadNanojoules(), 0);
  clock.AdvanceNs(1'000'000);
  EXPECT_EQ(*meter.ReadNanojoules(), 2'500'000);
  cpu_ns += 3'000'000;  // three cores
  EXPECT_EQ(*meter.ReadNanojoules(), 2'500'000 + 24'000'000);
  EXPECT_EQ(meter.method(), "modelled");
  EXPECT_EQ(meter.scope(), "process cpu time x 8.0 W + elapsed time x 2.5 W");
  EXPECT_EQ(meter.update_interval_ns(), 0);
}

TEST(ModelledMeterTest, ProcessCpuTimeCountsWorkAndNotSleep) {
  const int64_t start_ns = ProcessCpuNs();
  const int64_t wall_ns = Clock::Steady().NowNs();
  while (ProcessCpuNs() - start_ns < 5'000'000) {
  }
  EXPECT_GE(Clock::Steady().NowNs() - wall_ns, 4'000'000);
  const int64_t before_sleep_ns = ProcessCpuNs();
  usleep(50'000);
  EXPECT_LT(ProcessCpuNs() - before_sleep_ns, 40'000'000);
}

TEST(CreateEnergyMeterTest, RefusesWhatItDoesNotKnow) {
  FakeClock clock;
  const auto create = [&](EnergyMeterOptions options) {
    return CreateEnergyMeter(options, kOnCpu, clock).status();
  };
  EXPECT_THAT(create({.source = "coal"}).message(),
              HasSubstr("'coal' is unknown; it is one of auto, nvml, rapl, modelled"));
  EXPECT_THAT(create({.source = "modelled", .watts_per_core = -1}).message(),
              HasSubstr("watts per core is -1"));
  EXPECT_THAT(create({.source = "modelled", .idle_watts = 0.0 / 0.0}).message(),
              HasSubstr("idle watts"));
  EXPECT_THAT(create({.source = "nvml"}).message(), HasSubstr("the model runs on the CPU"));
}

TEST(CreateEnergyMeterTest, ModelTakesItsConstants) {
  FakeClock clock;
  auto meter = CreateEnergyMeter({.source = "modelled", .watts_per_core = 12.0, .idle_watts = 30.0},
                                 kOnCpu, clock);
  ASSERT_TRUE(meter.ok()) << meter.status();
  EXPECT_EQ((*meter)->scope(), "process cpu time x 12.0 W + elapsed time x 30.0 W");
  meter = CreateEnergyMeter({.source = "modelled"}, kOnCpu, clock);
  ASSERT_TRUE(meter.ok()) << meter.status();
  EXPECT_THAT((*meter)->scope(), HasSubstr("process cpu time x 6.0 W"));
}

TEST(CreateEnergyMeterTest, AutoAlwaysFindsASource) {
  FakeClock clock;
  auto meter = CreateEnergyMeter({}, kOnCpu, clock);
  ASSERT_TRUE(meter.ok()) << meter.status();
  EXPECT_THAT((*meter)->method(), AnyOf("rapl", "modelled"));
  EXPECT_TRUE((*meter)->ReadNanojoules().ok());
}

TEST(CreateEnergyMeterTest, WhatDoesNotCountTheGpuOfTheModelSaysSo) {
  FakeClock clock;
  for (const char* const source : {"auto", "modelled"}) {
    ::testing::internal::CaptureStderr();
    auto meter = CreateEnergyMeter({.source = source}, kNoGpu, clock);
    const std::string log = ::testing::internal::GetCapturedStderr();
    ASSERT_TRUE(meter.ok()) << meter.status();
    EXPECT_THAT((*meter)->method(), AnyOf("rapl_cpu_only", "modelled_cpu_only"));
    EXPECT_THAT((*meter)->scope(), HasSubstr("; not the gpu"));
    EXPECT_TRUE((*meter)->ReadNanojoules().ok());
    EXPECT_THAT(log, HasSubstr(" W "));
    EXPECT_THAT(log, HasSubstr("the CPU's alone"));
    EXPECT_THAT(log, source == std::string("auto") ? HasSubstr("no nvml: ") : HasSubstr("energy"));
  }
}

TEST(CreateEnergyMeterTest, NvmlByNameNeverFallsBack) {
  FakeClock clock;
  EXPECT_FALSE(CreateEnergyMeter({.source = "nvml"}, kNoGpu, clock).ok());
}

class RaplMeterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / ("rapl_test_" + std::to_string(getpid()));
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_ / "class/powercap");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / "class/powercap" / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  void AddZone(const std::string& zone, const std::string& name, int64_t energy_uj,
               int64_t range_uj) {
    Write(zone + "/name", name);
    Write(zone + "/energy_uj", std::to_string(energy_uj));
    Write(zone + "/max_energy_range_uj", std::to_string(range_uj));
  }
  void SetEnergy(const std::string& zone, int64_t energy_uj) {
    Write(zone + "/energy_uj", std::to_string(energy_uj));
  }

  std::filesystem::path root_;
};

TEST_F(RaplMeterTest, AddsPackagesAndTheirDramAndNothingTwice) {
  AddZone("intel-rapl:0", "package-0", 100, 1000);
  AddZone("intel-rapl:0/intel-rapl:0:0", "core", 50, 1000);
  AddZone("intel-rapl:0/intel-rapl:0:1", "dram", 10, 500);
  AddZone("intel-rapl:0:1", "dram", 10, 500);  // the class directory lists sub-zones, too
  AddZone("intel-rapl:1", "package-1", 900, 1000);
  AddZone("intel-rapl:2", "psys", 0, 1000);
  AddZone("intel-rapl-mmio:0", "package-0", 0, 1000);
  auto meter = RaplMeter::Create(root_.string());
  ASSERT_TRUE(meter.ok()) << meter.status();
  EXPECT_EQ((*meter)->method(), "rapl");
  EXPECT_EQ((*meter)->scope(), "cpu package + dram");
  EXPECT_EQ(*(*meter)->ReadNanojoules(), 0);

  SetEnergy("intel-rapl:0", 130);
  SetEnergy("intel-rapl:0/intel-rapl:0:0", 70);
  SetEnergy("intel-rapl:0/intel-rapl:0:1", 12);
  SetEnergy("intel-rapl:0:1", 12);
  SetEnergy("intel-rapl:1", 905);
  SetEnergy("intel-rapl:2", 500);
  SetEnergy("intel-rapl-mmio:0", 500);
  EXPECT_EQ(*(*meter)->ReadNanojoules(), (30 + 2 + 5) * 1000);
}

TEST_F(RaplMeterTest, CountersWrapEachAtItsOwnRange) {
  AddZone("intel-rapl:0", "package-0", 990, 1000);
  AddZone("intel-rapl:1", "package-1", 490, 500);
  auto meter = RaplMeter::Create(root_.string());
  ASSERT_TRUE(meter.ok()) << meter.status();
  EXPECT_EQ((*meter)->scope(), "cpu package");
  SetEnergy("intel-rapl:0", 15);
  EXPECT_EQ(*(*meter)->ReadNanojoules(), 25'000);
  SetEnergy("intel-rapl:1", 0);
  EXPECT_EQ(*(*meter)->ReadNanojoules(), 35'000);
  SetEnergy("intel-rapl:0", 14);  // nearly once around
  EXPECT_EQ(*(*meter)->ReadNanojoules(), 35'000 + 999'000);
}

TEST_F(RaplMeterTest, AReadFailureIsReportedAndOthersKeepUp) {
  AddZone("intel-rapl:0", "package-0", 0, 1000);
  AddZone("intel-rapl:1", "package-1", 0, 1000);
  auto meter = RaplMeter::Create(root_.string());
  ASSERT_TRUE(meter.ok()) << meter.status();
  Write("intel-rapl:0/energy_uj", "none");
  SetEnergy("intel-rapl:1", 600);
  const auto failed = (*meter)->ReadNanojoules();
  EXPECT_THAT(failed.status().message(), HasSubstr("'none' is not a count of microjoules"));
  SetEnergy("intel-rapl:0", 7);
  SetEnergy("intel-rapl:1", 100);  // wrapped since
  EXPECT_EQ(*(*meter)->ReadNanojoules(), (7 + 1100) * 1000);
}

TEST_F(RaplMeterTest, SaysWhyThereIsNone) {
  EXPECT_THAT(RaplMeter::Create(root_.string()).status().message(), HasSubstr("no RAPL package"));
  EXPECT_THAT(RaplMeter::Create((root_ / "nowhere").string()).status().message(),
              HasSubstr("no RAPL package"));
}

TEST_F(RaplMeterTest, SaysWhoMayRead) {
  if (geteuid() == 0) GTEST_SKIP() << "runs as root, who may read everything";
  AddZone("intel-rapl:0", "package-0", 0, 1000);
  chmod((root_ / "class/powercap/intel-rapl:0/energy_uj").c_str(), 0);
  const Status status = RaplMeter::Create(root_.string()).status();
  EXPECT_TRUE(absl::IsPermissionDenied(status));
  EXPECT_THAT(status.message(), HasSubstr("run as root or grant read permission"));
}

// NVML's C functions take no context, so the invented GPU is static; each test sets it up anew.
struct FakeGpu {
  int init_result = 0;
  std::string pci_bus_id = "0000:1b:00.0";
  unsigned int mig = 0;
  int mig_result = 0;
  int energy_result = 0;
  unsigned long long energy_mj = 0;
  int users = 0;
};
FakeGpu gpu;

NvmlApi FakeNvml() {
  gpu = FakeGpu();
  return {.init =
              [] {
                if (gpu.init_result == 0) ++gpu.users;
                return gpu.init_result;
              },
          .shutdown = [] { return --gpu.users, 0; },
          .device_by_pci_bus_id =
              [](const char* pci_bus_id, NvmlApi::Device* device) {
                *device = &gpu;
                return gpu.pci_bus_id == pci_bus_id ? 0 : 2;
              },
          .mig_mode =
              [](NvmlApi::Device, unsigned int* current, unsigned int* pending) {
                *current = *pending = gpu.mig;
                return gpu.mig_result;
              },
          .total_energy =
              [](NvmlApi::Device, unsigned long long* mj) {
                *mj = gpu.energy_mj;
                return gpu.energy_result;
              },
          .error_string = [](int) { return "it said no"; }};
}

TEST(NvmlMeterTest, CountsFromItsStartInMillijoules) {
  const NvmlApi api = FakeNvml();
  gpu.energy_mj = 123'456'789'012;
  {
    auto meter = NvmlMeter::Create(api, gpu.pci_bus_id);
    ASSERT_TRUE(meter.ok()) << meter.status();
    EXPECT_EQ((*meter)->method(), "nvml");
    EXPECT_EQ((*meter)->scope(), "gpu board");
    EXPECT_EQ((*meter)->update_interval_ns(), 100'000'000);
    EXPECT_EQ(*(*meter)->ReadNanojoules(), 0);
    gpu.energy_mj += 41;
    EXPECT_EQ(*(*meter)->ReadNanojoules(), 41'000'000);
    gpu.energy_mj = 9;  // the driver was loaded anew
    EXPECT_EQ(*(*meter)->ReadNanojoules(), 50'000'000);
    gpu.energy_result = 999;
    EXPECT_THAT((*meter)->ReadNanojoules().status().message(), HasSubstr("it said no"));
    gpu.energy_result = 0;
    gpu.energy_mj = 10;
    EXPECT_EQ(*(*meter)->ReadNanojoules(), 51'000'000);
    EXPECT_EQ(gpu.users, 1);
  }
  EXPECT_EQ(gpu.users, 0);
}

TEST(NvmlMeterTest, RefusesWhatHasNoCounterAndLetsGoOfNvml) {
  const NvmlApi api = FakeNvml();
  EXPECT_THAT(NvmlMeter::Create(api, "0000:1c:00.0").status().message(),
              HasSubstr("no GPU at 0000:1c:00.0: it said no"));
  gpu.mig = 1;
  EXPECT_THAT(NvmlMeter::Create(api, gpu.pci_bus_id).status().message(), HasSubstr("split by MIG"));
  gpu.mig = 0;
  gpu.energy_result = 3;
  EXPECT_THAT(NvmlMeter::Create(api, gpu.pci_bus_id).status().message(),
              HasSubstr("no energy counter"));
  EXPECT_EQ(gpu.users, 0);
  gpu.init_result = 9;
  EXPECT_THAT(NvmlMeter::Create(api, gpu.pci_bus_id).status().message(),
              HasSubstr("NVML does not start"));
  EXPECT_EQ(gpu.users, 0);
}

TEST(NvmlMeterTest, AGpuThatDoesNotKnowMigIsTaken) {
  const NvmlApi api = FakeNvml();
  gpu.mig_result = 3;
  EXPECT_TRUE(NvmlMeter::Create(api, gpu.pci_bus_id).ok());
}

TEST(NvmlApiTest, SaysWhatIsMissing) {
  EXPECT_THAT(NvmlApi::Load("libno-such-thing.so.1").status().message(),
              HasSubstr("cannot open libno-such-thing.so.1"));
  EXPECT_THAT(NvmlApi::Load("libm.so.6").status().message(),
              HasSubstr("libm.so.6 lacks nvmlInit_v2"));
}

}  // namespace
}  // namespace sterna

// How much memory there is, out of files as the kernel shows them.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "daemon/data/host_memory.h"

namespace booster::daemon::data {
namespace {

constexpr uint64_t kMiB = 1 << 20;

/// A host with 1000 MiB of memory, of which 800 are available.
class HostMemoryFiles : public testing::Test {
 protected:
  HostMemoryFiles() {
    char name[] = "/tmp/booster-memory-XXXXXX";
    root_ = ::mkdtemp(name);
    write("proc/meminfo", "MemTotal: 1024000 kB\nMemFree: 1 kB\nMemAvailable: 819200 kB\n");
  }
  ~HostMemoryFiles() override { std::filesystem::remove_all(root_); }

  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  /// A cgroup of version 2, in MiB.
  void group(const std::string& name, const std::string& most, uint64_t used,
             uint64_t cached) const {
    const std::string at = "sys/fs/cgroup" + name + "/memory.";
    write(at + "max", most + "\n");
    write(at + "high", "max\n");
    write(at + "current", std::to_string(used * kMiB) + "\n");
    write(at + "stat",
          "anon 1\ninactive_file " + std::to_string(cached * kMiB) + "\nactive_file 0\n");
  }
  static std::string mib(uint64_t number) { return std::to_string(number * kMiB); }

  void expect(uint64_t total, uint64_t available) const {
    const auto memory = host_memory(root_);
    ASSERT_TRUE(memory);
    EXPECT_EQ(memory->total / kMiB, total);
    EXPECT_EQ(memory->available / kMiB, available);
  }

  std::filesystem::path root_;
};

TEST_F(HostMemoryFiles, WithoutCgroupsItIsTheHosts) {
  expect(1000, 800);
  write("proc/self/cgroup", "0::/\n");
  expect(1000, 800);
}

TEST_F(HostMemoryFiles, NothingIsSaidWhereTheKernelSaysNothing) {
  write("proc/meminfo", "MemTotal: 1024000 kB\n");
  EXPECT_FALSE(host_memory(root_));
}

TEST_F(HostMemoryFiles, AGroupMayHaveLess) {
  write("proc/self/cgroup", "0::/system.slice/it.service\n");
  group("/system.slice", "max", 700, 0);
  group("/system.slice/it.service", mib(400), 300, 250);
  expect(400, 350);
  write("sys/fs/cgroup/system.slice/it.service/memory.high", mib(200) + "\n");
  expect(200, 150);
}

TEST_F(HostMemoryFiles, AGroupAboveThatMayHaveMoreMayHaveLessLeft) {
  write("proc/self/cgroup", "0::/system.slice/it.service\n");
  group("/system.slice", mib(600), 590, 10);
  group("/system.slice/it.service", mib(400), 50, 0);
  expect(400, 20);
}

/// Its memory cgroup is the root of what it sees.
TEST_F(HostMemoryFiles, AContainerWithItsOwnNamespaceHasItsLimit) {
  write("proc/self/cgroup", "0::/\n");
  group("", mib(300), 100, 0);
  expect(300, 200);
  group("", mib(300), 301, 0);
  expect(300, 0);
}

TEST_F(HostMemoryFiles, TheSameWithVersionOne) {
  write("proc/self/cgroup", "9:name=systemd:/\n4:memory:/a/b\n0::/\n");
  const auto group_v1 = [this](const std::string& name, uint64_t most, uint64_t used) {
    const std::string at = "sys/fs/cgroup/memory" + name + "/memory.";
    write(at + "limit_in_bytes", std::to_string(most));
    write(at + "usage_in_bytes", std::to_string(used));
    write(at + "stat", "total_inactive_file 0\ntotal_active_file " + mib(10) + "\n");
  };
  constexpr uint64_t kUnlimited = 9223372036854771712U;
  group_v1("", kUnlimited, 700 * kMiB);
  group_v1("/a", kUnlimited, 500 * kMiB);
  group_v1("/a/b", 400 * kMiB, 100 * kMiB);
  expect(400, 310);
  group_v1("/a", 600 * kMiB, 500 * kMiB);
  expect(400, 110);
  group_v1("", 200 * kMiB, 110 * kMiB);
  expect(200, 100);
}

}  // namespace
}  // namespace booster::daemon::data

#include "daemon/data/host_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace booster::daemon::data {
namespace {

/// What the file begins with, if that is a number: limits that are not set say "max".
std::optional<uint64_t> number_in(const std::filesystem::path& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  if (!(file >> number)) return std::nullopt;
  return number;
}

/// Where this process's cgroup is; empty without cgroup v2.
std::filesystem::path own_cgroup() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    constexpr std::string_view kUnified = "0::/";
    if (line.starts_with(kUnified)) {
      return std::filesystem::path("/sys/fs/cgroup") / line.substr(kUnified.size());
    }
  }
  return {};
}

}  // namespace

HostMemory host_memory() {
  HostMemory memory;
  std::ifstream file("/proc/meminfo");
  std::string name;
  uint64_t kib = 0;
  while (memory.available == 0 && file >> name >> kib) {
    if (name == "MemTotal:") memory.total = kib << 10;
    if (name == "MemAvailable:") memory.available = kib << 10;
    std::string unit;
    std::getline(file, unit);
  }
  if (memory.total == 0 || memory.available == 0) return {};
  const std::filesystem::path root = "/sys/fs/cgroup";
  for (auto group = own_cgroup(); group.string().size() > root.string().size();
       group = group.parent_path()) {
    for (const char* limit : {"memory.max", "memory.high"}) {
      const auto most = number_in(group / limit);
      if (!most) continue;
      const uint64_t used = number_in(group / "memory.current").value_or(0);
      memory.total = std::min(memory.total, *most);
      memory.available = std::min(memory.available, *most > used ? *most - used : 0);
    }
  }
  return memory;
}

}  // namespace booster::daemon::data

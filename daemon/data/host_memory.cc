#include "daemon/data/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

namespace booster::daemon::data {
namespace {

using std::filesystem::path;

/// Where the names of what a memory cgroup has and may have are other ones.
struct Version {
  const char* line;     // of /proc/self/cgroup, behind its number
  const char* mounted;  // where its root is: that of the host, or of the container
  std::initializer_list<const char*> limits;
  const char* usage;
  std::initializer_list<const char*> caches;  // in memory.stat: what the kernel can take back
};

const Version kVersions[] = {
    {"::",
     "sys/fs/cgroup",
     {"memory.max", "memory.high"},
     "memory.current",
     {"inactive_file", "active_file"}},
    {":memory:",
     "sys/fs/cgroup/memory",
     {"memory.limit_in_bytes"},
     "memory.usage_in_bytes",
     {"total_inactive_file", "total_active_file"}},
};

/// What the file begins with, if that is a number: limits that are not set say "max".
std::optional<uint64_t> number_in(const path& file_path) {
  std::ifstream file(file_path);
  uint64_t number = 0;
  if (!(file >> number)) return std::nullopt;
  return number;
}

/// The sum of those lines of a file of names and numbers.
uint64_t sum_in(const path& file_path, std::initializer_list<const char*> names) {
  std::ifstream file(file_path);
  std::string name;
  uint64_t number = 0;
  uint64_t sum = 0;
  while (file >> name >> number) {
    if (std::find(names.begin(), names.end(), name) != names.end()) sum += number;
  }
  return sum;
}

/// This process's cgroup, below the root of its hierarchy; nothing if there is none of that
/// version.
std::optional<path> own_cgroup(const Version& version, const path& root) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t number_ends = std::min(line.find(':'), line.size());
    const std::string_view rest = std::string_view(line).substr(number_ends);
    if (rest.starts_with(version.line)) {
      // A cgroup that lies outside of the root that this process sees is shown as "/../…".
      return path(rest.substr(std::string_view(version.line).size()))
          .lexically_normal()
          .relative_path();
    }
  }
  return std::nullopt;
}

/// By the limits of one cgroup, of which the host's root has none. Who may have more than another
/// may have less of it left.
void limit_by_cgroup(const Version& version, const path& group, HostMemory& memory) {
  for (const char* limit : version.limits) {
    const auto most = number_in(group / limit);
    if (!most) continue;
    const uint64_t used = number_in(group / version.usage).value_or(0);
    const uint64_t needed = used - std::min(used, sum_in(group / "memory.stat", version.caches));
    memory.total = std::min(memory.total, *most);
    memory.available = std::min(memory.available, *most > needed ? *most - needed : 0);
  }
}

void limit_by_cgroups(const Version& version, const path& root, HostMemory& memory) {
  const auto own = own_cgroup(version, root);
  if (!own) return;
  path group = root / version.mounted;
  limit_by_cgroup(version, group, memory);
  for (const path& name : *own) limit_by_cgroup(version, group /= name, memory);
}

}  // namespace

std::optional<HostMemory> host_memory(const path& root) {
  std::ifstream file(root / "proc/meminfo");
  std::optional<uint64_t> total;
  std::optional<uint64_t> available;
  std::string name;
  uint64_t kib = 0;
  while (!available && file >> name >> kib) {
    if (name == "MemTotal:") total = kib << 10;
    if (name == "MemAvailable:") available = kib << 10;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  if (!total || !available) return std::nullopt;
  HostMemory memory{*total, *available};
  for (const Version& version : kVersions) limit_by_cgroups(version, root, memory);
  return memory;
}

}  // namespace booster::daemon::data

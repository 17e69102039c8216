// How much memory there is, and how much of it nobody needs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace booster::daemon::data {

/// In bytes.
struct HostMemory {
  /// Of the host, or less if this process's cgroup, or one above it, may not have so much.
  uint64_t total = 0;
  /// Of it, what programs could have without anything being swapped out (MemAvailable, see
  /// proc(5)), and what the cgroups have left besides what the kernel caches for them.
  uint64_t available = 0;
};

/// Nothing if the kernel does not tell. `root` is where /proc and /sys are.
std::optional<HostMemory> host_memory(const std::filesystem::path& root = "/");

}  // namespace booster::daemon::data

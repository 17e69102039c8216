// How much memory there is, and how much of it nobody needs.
#pragma once

#include <cstdint>

namespace booster::daemon::data {

/// In bytes; both 0 if the kernel does not tell.
struct HostMemory {
  /// Of the host, or less if this process's cgroup, or one above it, may not have so much
  /// (memory.max and memory.high of cgroup v2).
  uint64_t total = 0;
  /// Of it, what programs could have without anything being swapped out (MemAvailable, see
  /// proc(5)), and what the cgroups have left.
  uint64_t available = 0;
};

HostMemory host_memory();

}  // namespace booster::daemon::data

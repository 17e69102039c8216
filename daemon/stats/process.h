// What this process costs, as the kernel tells it. Used for the admin socket and for what building
// a libgfapi context costs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace booster::daemon::stats {

struct ProcessCost {
  uint32_t threads = 0;
  uint64_t resident_bytes = 0;
  uint32_t descriptors = 0;
  uint32_t connections = 0;  // established TCP connections of this process
  double cpu_seconds = 0;
};

/// Reads /proc. Takes about a millisecond; may be called from any thread. What cannot be read is 0.
ProcessCost process_cost();

/// A whole file of procfs or sysfs, up to `limit` bytes; empty if it cannot be read.
std::string read_small_file(const char* path, size_t limit = size_t{1} << 20);

}  // namespace booster::daemon::stats

// What the recovery agent does when the daemon has died: logs are written out through FUSE, FUSE is
// fenced, openers are let go.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "daemon/unique_fd.h"

namespace booster::daemon::control {

/// What one session leaves behind.
struct Estate {
  struct Held {
    uint32_t slot = 0;
    uint32_t generation = 0;
    UniqueFd descriptor;
  };
  UniqueFd memory;
  std::vector<Held> files;    // O_PATH
  std::vector<Held> watches;  // fanotify groups: who opens the file waits
};

/// Ends the process when all is done. Each log has a thread, so that one whose bricks hang
/// holds up nobody else.
[[noreturn]] void take_over(std::unordered_map<uint64_t, Estate>&& estates);

}  // namespace booster::daemon::control

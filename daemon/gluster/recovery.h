// What somebody who survives the daemon has to hold for it, so that what programs have written into
// their logs reaches the bricks, and nobody opens one of those files before it has.
#pragma once

#include <cstdint>
#include <memory>

namespace booster::daemon::gluster {

/// A handle slot of a session, which a delegation is for.
struct GuardedSlot {
  uint64_t session = 0;
  uint32_t slot = 0;
  uint32_t generation = 0;
};

/// Any thread with the common descriptors. What is guarded stays so until what is returned goes,
/// which may be on any thread; null: it cannot be guarded.
class Recovery {
 public:
  using Guard = std::shared_ptr<const void>;
  virtual ~Recovery() = default;
  /// The memory of a session.
  virtual Guard guard_memory(uint64_t session, int memory) = 0;
  /// What the slot is for: an O_PATH descriptor.
  virtual Guard guard_file(const GuardedSlot& slot, int file) = 0;
  /// The group that holds up who opens it: he waits until this has gone, too.
  virtual Guard guard_watch(const GuardedSlot& slot, int group) = 0;
};

}  // namespace booster::daemon::gluster

// The recovery agent: a process of the daemon's that outlives it. It holds a copy of what every
// delegation for writing hangs on (session memory, file, fanotify group), and does nothing as long
// as the daemon lives. When that has died, whoever opens such a file still waits, since a group
// ends with its last descriptor; the agent writes out through FUSE what is unanswered in the logs,
// makes FUSE forget what it held, and lets everybody go. So the writes of a program that was killed
// together with the daemon are not lost, and none is done again over somebody's newer bytes.
//
// It believes nothing that it reads in a session's memory, as the daemon does not.
#pragma once

#include <cstdint>
#include <memory>

#include "daemon/gluster/recovery.h"
#include "daemon/gluster/worker.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

class RecoveryAgent final : public gluster::Recovery {
 public:
  /// Forks it. To be called while the process has one thread.
  RecoveryAgent();

  /// To be called once there may be threads, before the first guard.
  void start();

  Guard guard_memory(uint64_t session, int memory) override;
  Guard guard_file(const gluster::GuardedSlot& slot, int file) override;
  Guard guard_watch(const gluster::GuardedSlot& slot, int group) override;

 private:
  /// Outlives this, for guards that go late.
  struct Connection;
  Guard guard(uint32_t what, const gluster::GuardedSlot& slot, int descriptor);

  const std::shared_ptr<Connection> connection_;
};

}  // namespace booster::daemon::control

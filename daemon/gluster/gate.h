// Tells pumps whether a thread hangs inside libgfapi for a mount, so that they leave further calls
// to the mount's own threads. Gates are never destroyed: a pump may look at one late.
#pragma once

#include <atomic>

namespace booster::daemon::gluster {

class Gate {
 public:
  /// Any thread; only a hint, so relaxed.
  bool stalled() const { return stalled_.load(std::memory_order_relaxed) > 0; }
  /// Once for each thread that was found to hang, and once when it has come back. The order of the
  /// two does not matter.
  void stall() { stalled_.fetch_add(1, std::memory_order_relaxed); }
  void resume() { stalled_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  std::atomic<int> stalled_{0};
};

}  // namespace booster::daemon::gluster

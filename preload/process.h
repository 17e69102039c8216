// What the shim knows of the process it is a guest in: its settings, whether it is allowed to do
// anything at all, whether it has become a forked child, and whether a thread is already inside.
#pragma once

#include <cstdint>

namespace booster::preload {

struct Settings {
  char log_path[256];
  char socket_path[108];
  bool eager;     // GLFS_BOOSTER_ENGAGE=eager
  bool disabled;  // AT_SECURE
};

/// Read from the environment at the first call. Thread-safe.
const Settings& settings();

/// Processors that this process may run on.
unsigned processors();

/// Per thread. `depth` > 0: this thread is inside the shim, so a call that arrives now comes from a
/// signal handler and goes to the kernel. `vfork_child`: this is a vfork child borrowing its
/// parent's memory; it must not touch the shim's state.
struct ThreadState {
  uint32_t depth;
  bool vfork_child;
};
// __thread: no dynamic initialisation, hence no wrapper function to call at every use.
extern __thread ThreadState t_thread __attribute__((tls_model("initial-exec")));

/// Opens the shim for one call. When not `inside`, the call goes to the kernel as it is. The first
/// entry in a forked child (also after a raw clone: the kernel wipes a marker page) makes a new,
/// empty state of the shim before anything else is looked at.
class Entry {
 public:
  Entry();
  ~Entry() {
    if (inside_) --t_thread.depth;
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  explicit operator bool() const { return inside_; }

 private:
  bool inside_ = false;
};

/// After exit has run the destructors, nothing is boosted any more.
void stop_boosting();

}  // namespace booster::preload

// What the shim knows of the process it is a guest in: its settings, whether it is allowed to do
// anything at all, whether it has become a forked child, and whether a thread is already inside.
#pragma once

#include <atomic>
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
  /// Of vfork (interpose_process.cc): whether descriptors are being shared meanwhile, whether the
  /// child has yet to run, the process that waits for it, and its signal mask.
  bool vfork_shares;
  bool vfork_fresh;
  int vfork_parent;
  uint64_t vfork_mask;
  /// Uninterrupted objects that live.
  uint32_t uninterrupted;
  /// Signals have been put off until the thread leaves the shim; `mask` is its own (signals.h).
  bool put_off;
  uint64_t mask;
  /// Where a fault in a copy goes on; null while there is none.
  void** landing;
};
// __thread: no dynamic initialisation, hence no wrapper function to call at every use.
extern __thread ThreadState t_thread __attribute__((tls_model("initial-exec")));

/// The signals that were put off come now (signals.cc).
void leave_shim();
/// If it is time for that.
inline void let_signals_come() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (t_thread.put_off && t_thread.depth == 0 && t_thread.uninterrupted == 0) [[unlikely]]
    leave_shim();
}

/// Around a call that the kernel does between two halves of the shim's, on a file, where a handler
/// would have to wait with FUSE, too: none comes in between.
class Uninterrupted {
 public:
  Uninterrupted() {
    ++t_thread.uninterrupted;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  ~Uninterrupted() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    --t_thread.uninterrupted;
    let_signals_come();
  }
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
};

/// Opens the shim for one call. When not `inside`, the call goes to the kernel as it is. The first
/// entry in a forked child (also after a raw clone: the kernel wipes a marker page) makes a new,
/// empty state of the shim before anything else is looked at.
class Entry {
 public:
  Entry();
  ~Entry() {
    if (inside_) leave();
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  explicit operator bool() const { return inside_; }

 private:
  void leave() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (--t_thread.depth != 0) return;
    let_signals_come();
    if (cancel_type_ != kNotChanged) [[unlikely]]
      restore_cancel_type();
  }
  void restore_cancel_type() const;

  static constexpr int kNotChanged = -1;
  bool inside_ = false;
  int cancel_type_ = kNotChanged;
};

/// A thread of the process can be cancelled anywhere from now on: not within the shim.
void note_asynchronous_cancel();

/// After exit has run the destructors, nothing is boosted any more.
void stop_boosting();

}  // namespace booster::preload

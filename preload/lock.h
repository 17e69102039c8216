// A mutex for the shim's own state. Not pthread's: it can be reset in a forked child whatever state
// the parent's other threads left it in, and it calls nothing that could be interposed.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/futex.h"
#include "preload/raw.h"

namespace booster::preload {

/// Three states (0 free, 1 held, 2 held and somebody sleeps). The acquire of lock() is the partner
/// of the release in unlock(). Not recursive: a signal handler never takes one, see ThreadState.
class Mutex {
 public:
  void lock() {
    uint32_t seen = 0;
    if (state_.compare_exchange_strong(seen, 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
      return;
    }
    while (state_.exchange(2, std::memory_order_acquire) != 0) {
      common::futex_wait(state_, 2, 1000);
    }
  }

  /// False when the lock was not to be had within `timeout_ms`.
  bool lock_for(uint32_t timeout_ms) {
    uint32_t seen = 0;
    if (state_.compare_exchange_strong(seen, 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
      return true;
    }
    const uint64_t deadline = raw::now_us() + uint64_t{timeout_ms} * 1000;
    while (state_.exchange(2, std::memory_order_acquire) != 0) {
      if (raw::now_us() >= deadline) return false;
      common::futex_wait(state_, 2, 10);
    }
    return true;
  }

  void unlock() {
    if (state_.exchange(0, std::memory_order_release) == 2) common::futex_wake_all(state_);
  }

  /// Only in a child that has one thread: whoever held it does not exist here.
  void reset() { state_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<uint32_t> state_{0};
};

class LockGuard {
 public:
  explicit LockGuard(Mutex& mutex) : mutex_(&mutex) { mutex.lock(); }
  ~LockGuard() { unlock(); }
  /// Before the end of the scope.
  void unlock() {
    if (mutex_ != nullptr) mutex_->unlock();
    mutex_ = nullptr;
  }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  Mutex* mutex_;
};

}  // namespace booster::preload

// Futexes on shared memory, by bare system call: usable in the shim and in the daemon, from any
// thread and from signal handlers. Never touches errno.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include <atomic>
#include <cstdint>

#include "common/raw_syscall.h"

namespace booster::common {

/// Sleeps while `word == seen`, at most `timeout_ms`. Spurious returns happen: the caller looks
/// again. FUTEX_WAIT without FUTEX_PRIVATE_FLAG, since the waker is another process.
inline void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, uint32_t timeout_ms) {
  timespec timeout{static_cast<time_t>(timeout_ms / 1000),
                   static_cast<long>(timeout_ms % 1000) * 1'000'000};
  raw_syscall(SYS_futex, reinterpret_cast<long>(&word), FUTEX_WAIT, static_cast<long>(seen),
              reinterpret_cast<long>(&timeout), 0, 0);
}

/// Wakes every sleeper on `word`.
inline void futex_wake_all(std::atomic<uint32_t>& word) {
  raw_syscall(SYS_futex, reinterpret_cast<long>(&word), FUTEX_WAKE, 0x7fffffff, 0, 0, 0);
}

/// Tells the processor that this is a spin loop.
inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace booster::common

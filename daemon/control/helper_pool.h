// Processes that ask the kernel, for the daemon, about descriptors of its clients, because what
// they ask can hang beyond SIGKILL. They hold nothing, and nobody has to wait for one that does.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

class HelperPool {
 public:
  struct Limits {
    unsigned helpers;
    unsigned for_each_uid;               // at the same time; root has as many as there are
    std::chrono::milliseconds patience;  // with one; then it is said to hang
  };
  /// Forks them; they end with this process. `serve` runs with a helper's end of the connection: it
  /// takes a packet with a descriptor at a time, and answers with one that is not empty. `name`: at
  /// most 15 bytes. To be called while the process has one thread.
  HelperPool(const char* name, Limits limits, void (*serve)(int socket));

  static constexpr size_t kMaxAnswer = 4096;

  /// Asks one, on the account of `uid`. Waits at most ten seconds for its turn and then so long as
  /// the limits say for the answer: ETIMEDOUT. A user on whose account a helper hangs is refused
  /// until it is back (EBUSY), and has few at a time, so that it takes many to hold them all. Any
  /// thread.
  Result<std::string> ask(uid_t uid, const std::string& question, int descriptor);

 private:
  struct Helper {
    UniqueFd socket;
    bool busy = false;
    bool stuck = false;  // busy, and nobody waits for the answer any more
    uid_t uid = 0;       // on whose account, while busy
  };
  using Clock = std::chrono::steady_clock;

  Helper* reserve(uid_t uid, Clock::time_point deadline, int& error);
  void look_after_the_stuck();
  enum class State { kIdle, kStuck, kLost };
  void give_back(Helper& helper, State state);

  const char* const name_;
  const Limits limits_;
  std::mutex mutex_;  // guards what follows; not held while a helper is asked
  std::condition_variable freed_;
  std::vector<Helper> helpers_;
};

}  // namespace booster::daemon::control

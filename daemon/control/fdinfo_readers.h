// Processes that read /proc/PID/fdinfo/N for the daemon, because that read can hang.
//
// The kernel asks the file behind N what it has to show, and some kinds take a lock for it that a
// hostile program can hold for ever: that of an epoll, by waiting on it with a buffer in a mapping
// of a FUSE file that never answers. Whoever waits for the lock cannot be killed. The daemon checks
// first what kind of file N is, but N can change between two looks, and only fdinfo tells access
// mode, mount and inode of one and the same descriptor. So the one that hangs is a process which
// holds nothing and which nobody has to wait for.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "daemon/control/peer.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

class FdinfoReaders {
 public:
  /// Forks `count` readers, which end with this process. To be called while the process has one
  /// thread.
  explicit FdinfoReaders(unsigned count);

  /// fdinfo of descriptor `number` of the process whose /proc directory is `proc_dir`, which `uid`
  /// owns. Waits at most ten seconds for its turn and then one for the answer: ETIMEDOUT. A user on
  /// whose account a reader hangs is refused until it is back (EBUSY), and has one reader at a
  /// time, so that it takes many to hold them all. Any thread.
  Result<FdInfo> read(uid_t uid, int proc_dir, uint32_t number);

 private:
  struct Reader {
    UniqueFd socket;
    bool busy = false;
    bool stuck = false;  // busy, and nobody waits for the answer any more
    uid_t uid = 0;       // on whose account, while busy
  };
  using Clock = std::chrono::steady_clock;

  Reader* reserve(uid_t uid, Clock::time_point deadline, int& error);
  void look_after_the_stuck();
  enum class State { kIdle, kStuck, kLost };
  void give_back(Reader& reader, State state);

  std::mutex mutex_;  // guards what follows; not held while a reader reads
  std::condition_variable freed_;
  std::vector<Reader> readers_;
};

}  // namespace booster::daemon::control

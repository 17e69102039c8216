// Processes that read /proc/PID/fdinfo/N for the daemon, because that read can hang.
//
// The kernel asks the file behind N what it has to show, and some kinds take a lock for it that a
// hostile program can hold for ever: that of an epoll, by waiting on it with a buffer in a mapping
// of a FUSE file that never answers. Whoever waits for the lock cannot be killed. The daemon checks
// first what kind of file N is, but N can change between two looks, and only fdinfo tells access
// mode, mount and inode of one and the same descriptor.
#pragma once

#include <cstdint>

#include "daemon/control/helper_pool.h"
#include "daemon/control/peer.h"

namespace booster::daemon::control {

class FdinfoReaders {
 public:
  /// To be called while the process has one thread.
  FdinfoReaders();

  /// fdinfo of descriptor `number` of the process whose /proc directory is `proc_dir`, which `uid`
  /// owns. Waits, and fails, as HelperPool::ask() does; ENOENT: there is none. Any thread.
  Result<FdInfo> read(uid_t uid, int proc_dir, uint32_t number);

 private:
  HelperPool pool_;
};

}  // namespace booster::daemon::control

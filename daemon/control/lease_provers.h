// Processes that find out whether one description of a client is the only one that a file has on
// this host, by the kernel's own word: it gives a write lease to no other (check_conflicting_open
// in fs/locks.c). The lease has to be asked on that description, so a prover takes a copy of the
// client's descriptor (pidfd_getfd(2)), asks, gives the lease back at once, and closes the copy,
// which flushes what FUSE held back of the file. The program's own leases and signal settings are
// not touched, and files of other owners are no exception.
//
// Closing a descriptor that has become another file's meanwhile can hang, hence processes.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "common/reason.h"
#include "daemon/control/helper_pool.h"
#include "daemon/control/peer.h"
#include "daemon/gluster/file.h"

namespace booster::daemon::control {

class LeaseProvers {
 public:
  /// To be called while the process has one thread.
  LeaseProvers();

  /// Whether descriptor `number` of `peer` is of that file, and its description the only one; what
  /// FUSE had held back of it is on the bricks then. Waits as HelperPool::ask() does. Any thread.
  gluster::Alone prove(const Peer& peer, uint32_t number, dev_t dev, uint64_t inode);

 private:
  HelperPool pool_;
};

}  // namespace booster::daemon::control

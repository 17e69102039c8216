// The proof that a client holds a descriptor: what may be engaged, learned from the kernel alone.
// docs/architecture.md, "Engaging a file", step 3. Nothing here asks FUSE, so it never blocks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/reason.h"
#include "daemon/control/mountinfo.h"
#include "daemon/control/peer.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

struct Proof {
  dev_t dev = 0;
  uint64_t inode = 0;
  int access_mode = 0;            // O_RDONLY, O_WRONLY or O_RDWR
  std::vector<MountLine> mounts;  // every place where the device is mounted; at least one
};

/// Checks that `file` (an O_PATH descriptor that came from the peer) is the file behind the peer's
/// descriptor `fd_number`, and that its mount is genuine. The packet's sender and nonce have been
/// checked by the caller.
Result<Proof, common::Reason> prove(const Peer& peer, const UniqueFd& file, uint32_t fd_number,
                                    const MountTable& mount_table);

}  // namespace booster::daemon::control

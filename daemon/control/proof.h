// The proof that a client holds a descriptor: what may be engaged, learned from the kernel alone.
// docs/architecture.md, "Engaging a file", steps 3 and 4. Nothing here asks FUSE.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/reason.h"
#include "daemon/control/fdinfo_readers.h"
#include "daemon/control/mountinfo.h"
#include "daemon/control/peer.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

/// What a program says its descriptor is. Believed in nothing: a descriptor that is another file
/// by now is no longer the one that was meant.
struct Claim {
  uint32_t fd_number = 0;
  dev_t dev = 0;
  uint64_t inode = 0;
  uid_t sender = 0;  // the kernel's word: whose process has sent it
};

struct Proof {
  UniqueFd file;  // O_PATH
  uint64_t mount_id = 0;
  std::vector<MountLine> mounts;          // every place where the device is mounted; at least one
  std::vector<std::string> mount_points;  // that show its root, and that the daemon can go to
};

/// The first half: the peer's descriptor is open on the claimed file, a regular one on a genuine
/// mount. The packet's sender and nonce have been checked by the caller. Never blocks.
Result<Proof, common::Reason> prove_file(const Peer& peer, const Claim& claim,
                                         const MountTable& mount_table);

/// The second half: how the peer has opened what `prove_file` found: O_RDONLY, O_WRONLY or O_RDWR.
/// Waits for a reader: eleven seconds at the most.
Result<int, common::Reason> prove_access(const Peer& peer, const Claim& claim, uint64_t mount_id,
                                         FdinfoReaders& readers);

}  // namespace booster::daemon::control

// Compares what the client sent with what the kernel says about it.
#include "daemon/control/proof.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace booster::daemon::control {

using common::Reason;

Result<Proof, Reason> prove(const Peer& peer, const UniqueFd& file, uint32_t fd_number,
                            const MountTable& mount_table) {
  // Only O_PATH: closing anything else would send FUSE a FLUSH, on which a hostile FUSE server
  // holds the daemon (DESIGN section 4).
  const int flags = ::fcntl(file.get(), F_GETFL);
  if (flags < 0 || (flags & O_PATH) == 0) return Failure{Reason::kNotProven};

  struct statx status {};
  if (::statx(file.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID,
              &status) != 0 ||
      (status.stx_mask & STATX_MNT_ID) == 0) {
    return Failure{Reason::kNotProven};
  }
  if (!S_ISREG(status.stx_mode)) return Failure{Reason::kNotRegular};
  if (status.stx_nlink == 0) return Failure{Reason::kUnlinked};

  // The descriptor pins its mount, so its device cannot be another's by now.
  Proof proof;
  proof.dev = makedev(status.stx_dev_major, status.stx_dev_minor);
  proof.inode = status.stx_ino;
  const auto table = mount_table.read();
  if (!table) return Failure{Reason::kNotProven};
  proof.mounts = lines_of_device(*table, proof.dev);
  if (!is_genuine(proof.mounts)) return Failure{Reason::kNotGenuine};

  const auto info = read_fdinfo(peer, fd_number);
  if (!info || !info->has_flags || !info->has_mount_id || !info->has_inode) {
    return Failure{Reason::kNotProven};
  }
  if ((info->flags & O_PATH) != 0 || info->mount_id != status.stx_mnt_id ||
      info->inode != proof.inode) {
    return Failure{Reason::kNotProven};
  }
  proof.access_mode = static_cast<int>(info->flags & O_ACCMODE);
  if (proof.access_mode != O_RDONLY && proof.access_mode != O_WRONLY &&
      proof.access_mode != O_RDWR) {
    return Failure{Reason::kNotProven};
  }

  // After fdinfo, so that a process which meanwhile became a set-user-id program, and opened the
  // number itself, is not taken for the user who sent this.
  const auto owner = owner_of(peer);
  if (!owner || (peer.uid != 0 && *owner != peer.uid) || !peer.alive()) {
    return Failure{Reason::kNotProven};
  }
  return proof;
}

}  // namespace booster::daemon::control

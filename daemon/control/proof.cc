// Compares what the client sent with what the kernel says about it.
#include "daemon/control/proof.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <utility>

namespace booster::daemon::control {

using common::Reason;

Result<Proof, Reason> prove_file(const Peer& peer, const Claim& claim,
                                 const MountTable& mount_table) {
  auto file = reopen(peer, claim.fd_number);
  if (!file) return Failure{Reason::kNotProven};
  struct statx status {};
  if (::statx(file->get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID,
              &status) != 0) {
    // A FUSE mount without allow_other lets nobody but its user in, root included. Nobody mounts
    // GlusterFS like that.
    return Failure{errno == EACCES ? Reason::kNotGenuine : Reason::kNotProven};
  }
  const dev_t dev = makedev(status.stx_dev_major, status.stx_dev_minor);
  if ((status.stx_mask & STATX_MNT_ID) == 0 || dev != claim.dev || status.stx_ino != claim.inode) {
    return Failure{Reason::kNotProven};
  }
  if (!S_ISREG(status.stx_mode)) return Failure{Reason::kNotRegular};
  if (status.stx_nlink == 0) return Failure{Reason::kUnlinked};

  // The descriptor pins its mount, so its device cannot be another's by now.
  const auto table = mount_table.read();
  if (!table) return Failure{Reason::kNotProven};
  Proof proof{
      .file = std::move(*file), .mount_id = status.stx_mnt_id, .mounts = {}, .mount_points = {}};
  proof.mounts = lines_of_device(*table, dev);
  if (!is_genuine(proof.mounts)) return Failure{Reason::kNotGenuine};
  // Where it can be written comes first: the daemon's own mount is a copy of that place.
  for (const bool read_only : {false, true}) {
    for (const MountLine& line : proof.mounts) {
      if (line.root == "/" && has_option(line.options, "ro") == read_only &&
          !below_users_fuse(*table, line.mount_point)) {
        proof.mount_points.push_back(line.mount_point);
      }
    }
  }
  return proof;
}

Result<int, Reason> prove_access(const Peer& peer, const Claim& claim, uint64_t mount_id,
                                 FdinfoReaders& readers) {
  const auto info = readers.read(peer.uid, peer.proc_dir.get(), claim.fd_number);
  if (!info || !info->has_flags || !info->has_mount_id || !info->has_inode) {
    return Failure{Reason::kNotProven};
  }
  // The number may have become another descriptor since prove_file. If that is of the same file, it
  // is as good; if not, mount and inode tell.
  if ((info->flags & O_PATH) != 0 || info->mount_id != mount_id || info->inode != claim.inode) {
    return Failure{Reason::kNotProven};
  }
  const int mode = static_cast<int>(info->flags & O_ACCMODE);
  if (mode != O_RDONLY && mode != O_WRONLY && mode != O_RDWR) return Failure{Reason::kNotProven};

  // After both, so that a process which meanwhile became a set-user-id program, and opened the
  // number itself, is not taken for the user who sent this.
  // Root's own programs act for many users; one that was root when it connected is what it is now.
  const uid_t meant = peer.uid != 0 ? peer.uid : claim.sender;
  const auto owner = owner_of(peer);
  if (!owner || (meant != 0 && *owner != meant) || !peer.alive()) {
    return Failure{Reason::kNotProven};
  }
  return mode;
}

}  // namespace booster::daemon::control

// Who is at the other end of a session's socket, held so that a reused process number cannot be
// mistaken for it: a pidfd, and the process's /proc directory opened while the pidfd says "alive".
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

struct Peer {
  pid_t pid = 0;  // in the daemon's PID namespace
  uid_t uid = 0;
  UniqueFd pidfd;
  UniqueFd proc_dir;  // /proc/PID
  std::string command;

  /// False once the process has ended. Never blocks.
  bool alive() const;
};

/// Identifies the process that connected `socket`. ESRCH if it is gone or not visible from the
/// daemon's PID namespace.
Result<Peer> identify_peer(int socket);

/// Only the user of the peer of `socket`, without taking hold of the process.
Result<uid_t> peer_uid(int socket);

/// What /proc/PID/fdinfo/N says about a descriptor. Fields that are absent stay at their initial
/// value.
struct FdInfo {
  bool has_flags = false;
  unsigned flags = 0;  // as for open(2)
  bool has_mount_id = false;
  uint64_t mount_id = 0;
  bool has_inode = false;  // since Linux 5.14
  uint64_t inode = 0;
};
FdInfo parse_fdinfo(std::string_view text);

/// Descriptor `number` of the peer, re-opened with O_PATH through /proc/PID/fd: closing that sends
/// nothing to anybody. The file system behind it is not asked, so this never blocks.
Result<UniqueFd> reopen(const Peer& peer, uint32_t number);

/// Who owns the process now: changes when it becomes a set-user-id program.
Result<uid_t> owner_of(const Peer& peer);

}  // namespace booster::daemon::control

// One packet on a session's socket with what the kernel attaches to it.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <string>

#include "common/abi.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

struct Packet {
  enum class Kind { kNone, kData, kEnd };
  Kind kind = Kind::kNone;
  std::array<char, common::kMaxPacket> bytes{};
  size_t size = 0;
  bool truncated = false;  // the packet was longer, or brought descriptors
  // Of SCM_CREDENTIALS.
  pid_t sender = 0;  // 0 if there were none
  uid_t sender_uid = 0;
};

/// Receives what is there: kNone if nothing is, kEnd if the peer has hung up. Never blocks. Takes
/// no descriptors: closing one may send a FLUSH to a FUSE server that never answers, on which the
/// closing thread, or process, hangs beyond SIGKILL.
Packet receive(int socket);

/// Waits for a packet of exactly `size` bytes, and takes the descriptor that comes with it, if one
/// does, between processes of the daemon's own. False at the end of the connection.
bool receive_exactly(int socket, void* bytes, size_t size, UniqueFd& descriptor);
/// The same; false also if no descriptor has come.
bool receive_with_descriptor(int socket, void* bytes, size_t size, UniqueFd& descriptor);

/// Makes the kernel refuse descriptors that are sent to `socket`, or to what it accepts, with
/// EPERM. Since Linux 6.16. Older kernels take them, and drop them when `receive` has no room for
/// them, which sends no FLUSH.
void refuse_descriptors(int socket);

/// Sends one packet, with `descriptor` unless it is -1. Never blocks and raises no SIGPIPE: false
/// if it could not be sent at once.
bool send(int socket, const std::string& bytes, int descriptor);

}  // namespace booster::daemon::control

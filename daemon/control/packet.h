// One packet on a session's socket with what the kernel attaches to it.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "common/abi.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

struct Packet {
  enum class Kind { kNone, kData, kEnd };
  Kind kind = Kind::kNone;
  std::array<char, common::kMaxPacket> bytes{};
  size_t size = 0;
  bool truncated = false;  // the packet was longer, or brought more descriptors
  pid_t sender = 0;        // of SCM_CREDENTIALS; 0 if there were none
  std::vector<UniqueFd> descriptors;
};

/// Receives what is there: kNone if nothing is, kEnd if the peer has hung up. Never blocks.
Packet receive(int socket);

/// Sends one packet, with `descriptor` unless it is -1. Never blocks and raises no SIGPIPE: false
/// if it could not be sent at once.
bool send(int socket, const std::string& bytes, int descriptor);

}  // namespace booster::daemon::control

// The two listening sockets: passed by systemd, or made here.
#pragma once

#include "daemon/config.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

struct Listeners {
  UniqueFd control;  // SOCK_SEQPACKET
  UniqueFd admin;    // SOCK_STREAM
  // Paths of sockets that were made here, to be removed at the end; empty if systemd passed them.
  std::string made_control;
  std::string made_admin;
};

/// Takes the sockets named "control" and "admin" from systemd; makes those that it has not passed.
/// A socket file that nobody answers on is replaced; fails if somebody does.
Outcome<Listeners> open_listeners(const Config& config);

}  // namespace booster::daemon::control

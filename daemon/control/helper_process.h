// Small processes, forked before the daemon has threads, that do for it what can hang beyond
// SIGKILL. They hold nothing of the daemon's but one end of a connection, and nobody waits for
// their end.
#pragma once

#include "daemon/unique_fd.h"

namespace booster::daemon::control {

/// Starts one, which runs `serve` with its end of the connection (SOCK_SEQPACKET) and ends with
/// this process, if it can. `name`: at most 15 bytes. To be called while the process has one
/// thread. Throws std::system_error.
UniqueFd start_helper(const char* name, void (*serve)(int socket));

}  // namespace booster::daemon::control

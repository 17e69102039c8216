// Small processes, forked before the daemon has threads, that do for it what can hang beyond
// SIGKILL, or has to be done when it is no more. They hold nothing of the daemon's but one end of a
// connection, and nobody waits for their end.
#pragma once

#include "daemon/unique_fd.h"

namespace booster::daemon::control {

enum class HelperLife {
  kEndsWithTheDaemon,  // if it can
  kOutlivesTheDaemon,  // until `serve` returns, and logs where the daemon does
};

/// Starts one, which runs `serve` with its end of the connection (SOCK_SEQPACKET). `name`: at most
/// 15 bytes. To be called while the process has one thread. Throws std::system_error.
UniqueFd start_helper(const char* name, void (*serve)(int socket),
                      HelperLife life = HelperLife::kEndsWithTheDaemon);

}  // namespace booster::daemon::control

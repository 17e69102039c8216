// Every environment variable that the shim reads, with its meaning and default. They are read once,
// when a process first touches a GlusterFS file; a program started with AT_SECURE reads none.
#pragma once

namespace booster::preload::env {

/// File that the shim appends its log to. Default: /dev/stderr. Normal operation logs nothing.
inline constexpr const char kLogFile[] = "GLFS_BOOSTER_LOGFILE";

/// Control socket of boosterd. Default: /run/booster/control.sock. The shim talks to it only when
/// its peer is root, whatever the path.
inline constexpr const char kSocket[] = "GLFS_BOOSTER_SOCKET";

/// When a file is engaged. "auto" (default): as the daemon's policy says, without waiting.
/// "eager": at the first call, and the call waits (at most 60 s) until the daemon has answered;
/// for tests and benchmarks, where the first byte must already be boosted.
inline constexpr const char kEngage[] = "GLFS_BOOSTER_ENGAGE";

}  // namespace booster::preload::env

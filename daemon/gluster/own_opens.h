// Who opens a file that is watched.
#pragma once

#include <sys/types.h>

namespace booster::daemon::gluster {

/// Whether a thread is booster's own: of this process, or of another boosterd (a recovery agent, a
/// daemon that was started meanwhile), which is to be let by, since it would wait for whoever waits
/// for it. `thread` is what a fanotify group with FAN_REPORT_TID tells.
bool is_boosters_own(pid_t thread);

}  // namespace booster::daemon::gluster

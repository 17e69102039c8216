// What takes CAP_SYS_ADMIN, which the daemon gives up before it talks to anybody.
#pragma once

#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::gluster {

/// Any thread; nothing here waits for a mount.
class Privileges {
 public:
  virtual ~Privileges() = default;
  /// A fanotify group that holds up whoever opens what is marked in it, and tells the thread that
  /// does. EMFILE: root has as many as fs.fanotify.max_user_groups allows on this host.
  virtual Result<UniqueFd> make_open_watch() = 0;
  /// The mount that `root`, an O_PATH descriptor, is on, mounted once more, where no path leads and
  /// from where nobody else's umount is held up.
  virtual Result<UniqueFd> clone_mount(int root) = 0;
};

}  // namespace booster::daemon::gluster

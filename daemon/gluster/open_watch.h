// Holds up whoever opens one file: a fanotify permission mark on its inode, in a group of its own.
//
// The kernel holds an opener until his event is answered, or until the group is closed; then he
// goes on into FUSE's own open, as if nobody had ever held him. Reading an event, however, opens
// the file for the reader first, and where that fails the kernel refuses the opener with EPERM: a
// brick that has just died, a file that another host has replaced. So an opener is only ever hurt
// by reading. A watch polls; it reads when it is told that the bricks answer (read()), which it
// need only be when the daemon itself has to open the file meanwhile, and else it just lets go
// (docs/open-watch.md).
//
// No thread of the daemon's may keep a group from being closed when that is due, not even one that
// waits in the kernel for ever: each is in the descriptor table of one thread, and of no other.
// (The recovery agent has it as well, so that openers wait on when the daemon has died.) Closing
// what an event has opened can wait for the kernel's lock on the file, which a hostile program can
// hold, and is done after the group is gone.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "daemon/gluster/privileges.h"
#include "daemon/gluster/recovery.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::gluster {

/// One file's. Any thread. Its end lets everybody go.
class OpenWatch {
 public:
  /// Marks `file`, an O_PATH descriptor. `opened` is called once, on a thread without the common
  /// descriptors, when somebody waits to open it; must not block; false: he need not wait, and
  /// nobody is held up from then on. `guard` is given the group, so that it outlives the daemon;
  /// what it returns goes when nobody is held up any more, on a thread without the common
  /// descriptors. May wait for FUSE. Fails with EMFILE when the host has no
  /// more groups.
  static Result<std::shared_ptr<OpenWatch>> start(
      Privileges& privileges, int file, std::function<bool()> opened,
      const std::function<Recovery::Guard(int group)>& guard);
  ~OpenWatch();
  OpenWatch(const OpenWatch&) = delete;
  OpenWatch& operator=(const OpenWatch&) = delete;

  /// The bricks answer for the file: from now on the daemon's own threads can open it, and all
  /// others wait.
  void read() const;

 private:
  struct Thread;
  explicit OpenWatch(UniqueFd orders) : orders_(std::move(orders)) {}

  const UniqueFd orders_;  // the thread ends with it
};

}  // namespace booster::daemon::gluster

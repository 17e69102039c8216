// Tells when somebody on this host opens a file of a mount for writing, before he can: a fanotify
// permission mark on each watched inode.
//
// The kernel holds up whoever opens a watched file until he is answered, or until the fanotify
// group is closed. So nothing may keep it from being closed when the daemon ends, not even a thread
// that waits in the kernel for ever: the group is in the descriptor table of one thread, which
// answers, and of no other. Reading an event opens the file, as its opener will; closing it again
// waits for the kernel's lock on the file, which a hostile program can hold, and is left to a
// thread that has nothing else.
//
// An opener for whom something has to be done first (OpenListener) is answered later. The kernel
// knows him by the number of the event's descriptor. The descriptor itself is closed with the
// others, and its number is kept from being used again meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/page_cache.h"
#include "daemon/gluster/file.h"
#include "daemon/gluster/worker.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::gluster {

class OpenWatch;

/// fanotify groups for later. Only making them takes CAP_SYS_ADMIN, which the daemon gives up
/// before it talks to anybody.
class WatchGroups {
 public:
  struct Group {
    UniqueFd fd;
    uint32_t number = 0;  // place in Watches
  };

  /// So many, at most kWatches, or as many as there are to be had; a failure is logged. `watches`,
  /// which is all zero, stays mapped for as long as the process lives.
  WatchGroups(unsigned count, common::Watches& watches);
  /// One that nobody has had; empty when there is none left. Any thread.
  Group take();
  /// Keeps a watch whose mount has gone, for the next mount. Any thread.
  void park(std::shared_ptr<OpenWatch> watch);
  /// One of those, which still serves, or null. Any thread.
  std::shared_ptr<OpenWatch> unpark();
  bool empty();
  common::Watches& watches() { return watches_; }

 private:
  common::Watches& watches_;
  std::mutex mutex_;
  std::vector<Group> groups_;
  std::vector<std::shared_ptr<OpenWatch>> parked_;
};

/// One for each mount. Any thread.
class OpenWatch {
 public:
  /// One that is parked, or a new one; null when there is no group left. What must not be let go on
  /// a thread without the common descriptors is let go on `elsewhere`. `wakes` never waits for
  /// anything.
  static std::shared_ptr<OpenWatch> start(WatchGroups& groups, std::shared_ptr<Worker> elsewhere,
                                          std::shared_ptr<Worker> wakes);
  ~OpenWatch();
  OpenWatch(const OpenWatch&) = delete;
  OpenWatch& operator=(const OpenWatch&) = delete;

  /// `file`: an O_PATH descriptor of the inode. `done` is called once, on `elsewhere`, or never
  /// when FUSE does not answer: true when the inode's WriterListener hears of whoever opens it from
  /// now on.
  void add(UniqueFd file, const std::shared_ptr<Inode>& inode, std::function<void(bool)> done);
  /// Opening the file costs nobody anything any more, unless it has been added again meanwhile.
  void remove(UniqueFd file, const Inode& inode);

  /// Its place in Watches, where programs see that it lives.
  uint32_t number() const { return number_; }
  /// False once it has given up: nobody is heard of any more.
  bool serves() const;

 private:
  struct State;
  OpenWatch(std::shared_ptr<State> state, UniqueFd wake, uint32_t number)
      : state_(std::move(state)), wake_(std::move(wake)), number_(number) {}
  friend class WatchGroups;
  void ring() const;
  /// Forgets all that it watches, and serves another mount. False if it has given up.
  bool reassign(std::shared_ptr<Worker> elsewhere);
  /// Whoever was kept waiting under that number goes on.
  void let_go(uint64_t held);

  const std::shared_ptr<State> state_;  // shared with the threads, which may hang in FUSE
  const UniqueFd wake_;
  const uint32_t number_;
};

/// Whether the system call that a thread is in, as /proc/TID/syscall shows it, can open a file for
/// writing. Anything but a known way to open for reading can.
bool opens_for_writing(const std::string& syscall_line);
/// Whether it cuts the file although it opens it for reading: then the kernel knows of no writer.
bool cuts_while_reading(const std::string& syscall_line);

}  // namespace booster::daemon::gluster

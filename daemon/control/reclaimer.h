// Takes the memory of ended sessions away from whoever has kept a descriptor of it.
//
// The pages that the daemon has filled are charged to the daemon, and a client can pass the
// descriptor on before it ends. Punching a hole takes the kernel's lock on the file, which a
// hostile client can hold for ever (a write(2) to it from memory that never comes): so a process
// does it, one for each session that has ended, and one that hangs is left alone.
#pragma once

#include "daemon/unique_fd.h"

namespace booster::daemon::control {

class Reclaimer {
 public:
  /// Forks. To be called while the process has one thread.
  Reclaimer();

  /// Returns at once. Not done when there is too much to do or too many hang: the memory then goes
  /// when the last descriptor goes. Any thread.
  void reclaim(UniqueFd memory) const noexcept;

 private:
  UniqueFd socket_;
};

}  // namespace booster::daemon::control

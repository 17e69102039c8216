// A process that keeps CAP_SYS_ADMIN for the daemon, and does two things with it. It is the
// daemon's child, has nothing but one end of a connection, and nobody else can talk to it.
#pragma once

#include <mutex>

#include "daemon/gluster/privileges.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::control {

class PrivilegedHelper final : public gluster::Privileges {
 public:
  /// Forks. To be called while the process has one thread, and CAP_SYS_ADMIN.
  PrivilegedHelper();

  Result<UniqueFd> make_open_watch() override;
  Result<UniqueFd> clone_mount(int root) override;

 private:
  Result<UniqueFd> ask(char what, int descriptor);

  const UniqueFd socket_;
  std::mutex mutex_;  // one question at a time
  bool lost_ = false;
};

}  // namespace booster::daemon::control

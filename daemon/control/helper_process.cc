#include "daemon/control/helper_process.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <system_error>

namespace booster::daemon::control {

UniqueFd start_helper(const char* name, void (*serve)(int socket), HelperLife life) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    throw std::system_error(errno, std::generic_category(), "socketpair");
  }
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const pid_t daemon = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (pid != 0) return ours;

  const bool outlives = life == HelperLife::kOutlivesTheDaemon;
  if (!outlives) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != daemon) ::_exit(0);
  }
  // The daemon ends its helpers by ending: a SIGTERM to the whole control group must not take them
  // from it before.
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) std::signal(signal, SIG_IGN);
  ::prctl(PR_SET_NAME, name);
  const int socket = theirs.get();
  const auto close_between = [](int first, int last) {
    if (first <= last) ::close_range(static_cast<unsigned>(first), static_cast<unsigned>(last), 0);
  };
  if (!outlives) close_between(0, std::min(socket - 1, STDERR_FILENO));
  close_between(STDERR_FILENO + 1, socket - 1);
  ::close_range(static_cast<unsigned>(socket) + 1, ~0U, 0);
  serve(socket);
  ::_exit(0);
}

}  // namespace booster::daemon::control

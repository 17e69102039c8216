#include "daemon/control/privileged_helper.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/capability.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>

#include "daemon/control/helper_process.h"
#include "daemon/control/packet.h"

namespace booster::daemon::control {
namespace {

constexpr char kOpenWatch = 'w';
constexpr char kCloneMount = 'm';

/// All but CAP_SYS_ADMIN go.
void keep_one_capability() {
  const std::unique_ptr<_cap_struct, int (*)(void*)> capabilities(::cap_init(), ::cap_free);
  const cap_value_t value = CAP_SYS_ADMIN;
  for (const cap_flag_t flag : {CAP_EFFECTIVE, CAP_PERMITTED}) {
    if (capabilities) ::cap_set_flag(capabilities.get(), flag, 1, &value, CAP_SET);
  }
  if (!capabilities || ::cap_set_proc(capabilities.get()) != 0) ::_exit(1);
}

UniqueFd make(char what, int descriptor) {
  if (what == kOpenWatch) {
    return UniqueFd(::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK |
                                        FAN_REPORT_TID | FAN_UNLIMITED_MARKS | FAN_UNLIMITED_QUEUE,
                                    O_RDONLY | O_LARGEFILE | O_CLOEXEC));
  }
  return UniqueFd(::open_tree(descriptor, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
}

void serve(int socket) {
  keep_one_capability();
  while (true) {
    char what = 0;
    UniqueFd descriptor;
    if (!receive_exactly(socket, &what, 1, descriptor)) return;
    const UniqueFd made = make(what, descriptor.get());
    const int error = made ? 0 : errno;
    std::string answer(sizeof error, '\0');
    std::memcpy(answer.data(), &error, sizeof error);
    if (!send(socket, answer, made.get())) return;
  }
}

}  // namespace

PrivilegedHelper::PrivilegedHelper() : socket_(start_helper("boosterd-priv", serve)) {
  const timeval patience{5, 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

Result<UniqueFd> PrivilegedHelper::ask(char what, int descriptor) {
  const std::lock_guard lock(mutex_);
  int error = EIO;
  UniqueFd made;
  const auto failed = [](int why) {
    return Failure{std::error_code(why, std::generic_category())};
  };
  if (lost_) return failed(EPIPE);
  if (!send(socket_.get(), std::string(1, what), descriptor) ||
      !receive_exactly(socket_.get(), &error, sizeof error, made)) {
    // What it answers later would be taken for the answer to another question.
    lost_ = true;
    spdlog::error("event=helper-lost remedy=\"restart boosterd: nothing new is boosted\"");
    return failed(EPIPE);
  }
  if (error != 0 || !made) return failed(error != 0 ? error : EIO);
  return made;
}

Result<UniqueFd> PrivilegedHelper::make_open_watch() {
  return ask(kOpenWatch, -1);
}

Result<UniqueFd> PrivilegedHelper::clone_mount(int root) {
  return ask(kCloneMount, root);
}

}  // namespace booster::daemon::control

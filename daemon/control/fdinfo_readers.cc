// A reader takes a packet with a number and a /proc directory, and answers with what it has read.
#include "daemon/control/fdinfo_readers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "daemon/control/packet.h"

namespace booster::daemon::control {
namespace {

/// The life of a reader. An empty answer would look like the end of the connection, hence one byte
/// before the text.
void serve(int socket) {
  while (true) {
    uint32_t number = 0;
    UniqueFd proc_dir;
    if (!receive_with_descriptor(socket, &number, sizeof number, proc_dir)) return;
    char answer[HelperPool::kMaxAnswer] = "";
    ssize_t n = -1;
    const UniqueFd file(::openat(proc_dir.get(), fmt::format("fdinfo/{}", number).c_str(),
                                 O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (file) n = ::read(file.get(), answer + 1, sizeof answer - 1);
    if (::send(socket, answer, 1 + static_cast<size_t>(std::max<ssize_t>(n, 0)), MSG_NOSIGNAL) < 0)
      return;
  }
}

}  // namespace

FdinfoReaders::FdinfoReaders() : pool_("boosterd-fdinfo", {4, 1, std::chrono::seconds(1)}, serve) {}

Result<FdInfo> FdinfoReaders::read(uid_t uid, int proc_dir, uint32_t number) {
  const auto answer =
      pool_.ask(uid, std::string(reinterpret_cast<const char*>(&number), sizeof number), proc_dir);
  if (!answer) return Failure{answer.error()};
  if (answer->size() == 1) return Failure{std::error_code(ENOENT, std::generic_category())};
  return parse_fdinfo(std::string_view(*answer).substr(1));
}

}  // namespace booster::daemon::control

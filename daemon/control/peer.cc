// Reads a peer's identity and descriptors from the kernel.
#include "daemon/control/peer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

// linux/socket.h of 6.5; glibc 2.36 does not know it.
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace booster::daemon::control {
namespace {

/// procfs files of one process are short.
Result<std::string> read_at(int dir, const char* name) {
  UniqueFd fd(::openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return errno_failure();
  std::string text(4096, '\0');
  const ssize_t n = ::read(fd.get(), text.data(), text.size());
  if (n < 0) return errno_failure();
  text.resize(static_cast<size_t>(n));
  return text;
}

Failure<std::error_code> gone() {
  return Failure{std::error_code(ESRCH, std::generic_category())};
}

UniqueFd open_pidfd(int socket, pid_t pid) {
  int fd = -1;
  socklen_t size = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0) return UniqueFd(fd);
  // An older kernel. If the process has ended and its number is used again already, this takes hold
  // of a stranger, who does not know the nonce and therefore cannot engage anything.
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

}  // namespace

bool Peer::alive() const {
  pollfd poll_fd{pidfd.get(), POLLIN, 0};
  return ::poll(&poll_fd, 1, 0) == 0;
}

Result<uid_t> peer_uid(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return errno_failure();
  }
  return credentials.uid;
}

Result<Peer> identify_peer(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return errno_failure();
  }
  if (credentials.pid <= 0) return gone();
  Peer peer;
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;
  peer.pidfd = open_pidfd(socket, peer.pid);
  if (!peer.pidfd) return errno_failure();
  peer.proc_dir = UniqueFd(
      ::open(fmt::format("/proc/{}", peer.pid).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!peer.proc_dir) return errno_failure();
  // Alive after the directory was opened: then the directory is this process's and no successor's.
  if (!peer.alive()) return gone();
  if (auto command = read_at(peer.proc_dir.get(), "comm")) {
    peer.command = *command;
    while (!peer.command.empty() && peer.command.back() == '\n') peer.command.pop_back();
    // Chosen by the program, and on its way to logs and terminals.
    std::replace_if(
        peer.command.begin(), peer.command.end(),
        [](unsigned char c) { return c <= ' ' || c >= 0x7f || c == '"'; }, '?');
  }
  return peer;
}

FdInfo parse_fdinfo(std::string_view text) {
  FdInfo info;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view name = line.substr(0, colon);
    const size_t start = std::min(line.find_first_not_of(" \t", colon + 1), line.size());
    const std::string_view value = line.substr(start);
    const auto number = [value](auto& out, int base) {
      const auto [stop, error] =
          std::from_chars(value.data(), value.data() + value.size(), out, base);
      return error == std::errc() && !value.empty() && stop == value.data() + value.size();
    };
    if (name == "flags") info.has_flags = number(info.flags, 8);
    if (name == "mnt_id") info.has_mount_id = number(info.mount_id, 10);
    if (name == "ino") info.has_inode = number(info.inode, 10);
  }
  return info;
}

Result<UniqueFd> reopen(const Peer& peer, uint32_t number) {
  UniqueFd file(
      ::openat(peer.proc_dir.get(), fmt::format("fd/{}", number).c_str(), O_PATH | O_CLOEXEC));
  if (!file) return errno_failure();
  return file;
}

Result<uid_t> owner_of(const Peer& peer) {
  struct stat status {};
  if (::fstatat(peer.proc_dir.get(), "status", &status, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno_failure();
  }
  return status.st_uid;
}

}  // namespace booster::daemon::control

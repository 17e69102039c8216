// Listening sockets.
#include "daemon/control/sockets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

namespace booster::daemon::control {
namespace {

std::string reason() {
  return strerrordesc_np(errno);
}

bool to_address(const std::string& path, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  return true;
}

/// Somebody accepts connections there.
bool is_live(const sockaddr_un& address, int type) {
  const UniqueFd probe(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return false;
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
         errno == EAGAIN;  // its queue is full
}

Outcome<UniqueFd> make_listener(const std::string& path, int type, mode_t mode, const char* group) {
  sockaddr_un address{};
  if (!to_address(path, address)) return Failure{fmt::format("{}: the path is too long", path)};
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  // chmod, since the daemon's umask is for files that nobody else needs; every user connects here.
  const bool made = !directory.empty() && ::mkdir(directory.c_str(), 0755) == 0;
  if (made) ::chmod(directory.c_str(), 0755);
  if (!made && !directory.empty() && errno != EEXIST) {
    return Failure{fmt::format("{}: cannot be made: {}", directory.string(), reason())};
  }
  if (is_live(address, type)) {
    return Failure{fmt::format(
        "{}: boosterd is already running; stop it first, or choose another path", path)};
  }
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) return Failure{fmt::format("{}: is not a socket", path)};
    ::unlink(path.c_str());
  }
  UniqueFd listener(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // Until its mode and group are right only root may connect.
  const mode_t before = ::umask(0177);
  const bool bound = listener && ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
                                        sizeof address) == 0;
  const std::string bind_error = reason();
  ::umask(before);
  if (!bound) return Failure{fmt::format("{}: {}", path, bind_error)};
  if (group) {
    // Before any other thread exists; NOLINTNEXTLINE(concurrency-mt-unsafe)
    const struct group* entry = ::getgrnam(group);
    if (entry && ::chown(path.c_str(), 0, entry->gr_gid) != 0) {
      return Failure{fmt::format("{}: cannot be given to group {}: {}", path, group, reason())};
    }
  }
  if (::chmod(path.c_str(), mode) != 0 || ::listen(listener.get(), SOMAXCONN) != 0) {
    return Failure{fmt::format("{}: {}", path, reason())};
  }
  return listener;
}

Outcome<bool> take_from_systemd(Listeners& listeners) {
  char** names = nullptr;
  const int count = ::sd_listen_fds_with_names(1, &names);
  if (count < 0) return Failure{fmt::format("sd_listen_fds: {}", strerrordesc_np(-count))};
  for (int i = 0; i < count; ++i) {
    UniqueFd fd(SD_LISTEN_FDS_START + i);
    const std::string_view name = names[i];
    const int type = name == "admin" ? SOCK_STREAM : SOCK_SEQPACKET;
    if (name != "control" && name != "admin") continue;  // closed
    if (::sd_is_socket_unix(fd.get(), type, 1, nullptr, 0) <= 0) {
      return Failure{fmt::format("systemd passed a socket '{}' of another type", name)};
    }
    const int flags = ::fcntl(fd.get(), F_GETFL);
    ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK);
    (name == "admin" ? listeners.admin : listeners.control) = std::move(fd);
  }
  for (int i = 0; i < count; ++i) std::free(names[i]);
  std::free(names);
  return true;
}

}  // namespace

Outcome<Listeners> open_listeners(const Config& config) {
  Listeners listeners;
  if (const auto taken = take_from_systemd(listeners); !taken) return Failure{taken.error()};
  if (!listeners.control) {
    auto made = make_listener(config.control_socket, SOCK_SEQPACKET, 0666, nullptr);
    if (!made) return Failure{made.error()};
    listeners.control = std::move(*made);
    listeners.made_control = config.control_socket;
  }
  if (!listeners.admin) {
    auto made = make_listener(config.admin_socket, SOCK_STREAM, 0660, config.admin_group.c_str());
    if (!made) {
      if (!listeners.made_control.empty()) ::unlink(listeners.made_control.c_str());
      return Failure{made.error()};
    }
    listeners.admin = std::move(*made);
    listeners.made_admin = config.admin_socket;
  }
  return listeners;
}

}  // namespace booster::daemon::control

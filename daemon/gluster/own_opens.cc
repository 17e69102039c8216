#include "daemon/gluster/own_opens.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>

namespace booster::daemon::gluster {
namespace {

/// Of the program that a thread runs; after an upgrade it is another file of the same name.
std::string program_of(const std::string& process) {
  std::array<char, 4096> path{};
  const ssize_t length = ::readlink((process + "/exe").c_str(), path.data(), path.size());
  if (length <= 0) return "";
  std::string name(path.data(), static_cast<size_t>(length));
  constexpr std::string_view kDeleted = " (deleted)";
  if (name.ends_with(kDeleted)) name.resize(name.size() - kDeleted.size());
  return name.substr(name.rfind('/') + 1);
}

}  // namespace

bool is_boosters_own(pid_t thread) {
  if (::tgkill(::getpid(), thread, 0) == 0) return true;
  // Root may do as it likes; nobody else is believed by his program's name.
  const std::string process = fmt::format("/proc/{}", thread);
  struct stat status {};
  if (thread <= 0 || ::stat(process.c_str(), &status) != 0 || status.st_uid != 0) return false;
  return program_of(process) == "boosterd";
}

}  // namespace booster::daemon::gluster

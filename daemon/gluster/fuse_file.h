// What the daemon and its recovery agent ask FUSE of a file that they hold.
#pragma once

#include <sys/xattr.h>

#include <cerrno>
#include <chrono>

#include "common/fence.h"

namespace booster::daemon::gluster {

/// The file has no name any more.
inline bool is_gone(int error) {
  return error == ENOENT || error == ESTALE;
}

/// Whether the bricks know the file at `path`, and answer: 0, or an errno. May wait as long as FUSE
/// does. statx would be answered by caches, for a file that another host has replaced, too; so the
/// bricks are asked for what nobody has.
inline int ask_bricks_through_fuse(const char* path) {
  constexpr const char* kNoAttribute = "user.booster.no-such-attribute";
  if (::getxattr(path, kNoAttribute, nullptr, 0) >= 0) return EEXIST;
  return errno == ENODATA ? 0 : errno;
}

/// common::fence, tried again where it fails, of a file that nobody on this host writes meanwhile,
/// as long as it does not take so long that openers are let go. 0 or -errno.
inline long fence_again_and_again(int fd, uint64_t offset) {
  constexpr int kAttempts = 3;
  constexpr std::chrono::seconds kQuiet{2};
  const auto start = std::chrono::steady_clock::now();
  const auto quiet = [=] { return std::chrono::steady_clock::now() - start < kQuiet; };
  long result = -EIO;
  for (int i = 0; i < kAttempts && result != 0; ++i) {
    result = common::fence(fd, offset, quiet);
  }
  return result;
}

}  // namespace booster::daemon::gluster

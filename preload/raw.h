// The few kernel calls that the shim makes for itself, by bare system call: they can be neither
// interposed nor cancelled and leave errno alone. Results are the kernel's: a value or -errno.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "common/fence.h"
#include "common/raw_syscall.h"

/// For variables that many calls of every program look at: they lie together, in the page that
/// loading the library has touched already, and not among what is zero at first.
#define BOOSTER_AT_HAND [[gnu::section(".data")]]

namespace booster::preload::raw {

using common::attributes;
using common::is_error;
using common::raw_syscall;
using common::sleep_ms;
using common::sleep_us;
using common::word;

/// Which file a descriptor names. Two descriptors with equal values name the same inode.
struct FileId {
  uint32_t dev_major = 0;
  uint32_t dev_minor = 0;
  uint64_t inode = 0;
  uint16_t mode = 0;  // with the file type
  bool operator==(const FileId& other) const {
    return dev_major == other.dev_major && dev_minor == other.dev_minor && inode == other.inode;
  }
};

/// Identity of the file at `path` (statx(2); `flags`: AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH) without
/// asking its file system.
inline bool identify(int directory, const char* path, int flags, FileId& id) {
  struct statx st;
  long result = raw_syscall(SYS_statx, directory, word(path), flags | AT_STATX_DONT_SYNC,
                            STATX_TYPE | STATX_MODE | STATX_INO, word(&st));
  if (is_error(result)) return false;
  id = {st.stx_dev_major, st.stx_dev_minor, st.stx_ino, st.stx_mode};
  return true;
}
/// The same of an open file.
inline bool identify(int fd, FileId& id) {
  return identify(fd, "", AT_EMPTY_PATH, id);
}

/// As libc returns it.
inline int as_libc(long result) {
  if (!is_error(result)) return static_cast<int>(result);
  errno = static_cast<int>(-result);
  return -1;
}

inline long seek(int fd, int64_t offset, int whence) {
  return raw_syscall(SYS_lseek, fd, offset, whence);
}
inline long pread(int fd, void* buffer, size_t length, int64_t offset) {
  return raw_syscall(SYS_pread64, fd, word(buffer), static_cast<long>(length), offset);
}
inline long pwrite(int fd, const void* buffer, size_t length, int64_t offset) {
  return raw_syscall(SYS_pwrite64, fd, word(buffer), static_cast<long>(length), offset);
}
inline long status_flags(int fd) {
  return raw_syscall(SYS_fcntl, fd, F_GETFL);
}
/// Whether the program's memory may be read, for what the shim looks at before the kernel does: a
/// bad address is an error of the call, and no reason to end the program. Remembers one page.
class Readable {
 public:
  bool has(const void* start, size_t size) {
    constexpr uintptr_t kPage = 4096;
    const auto begin = reinterpret_cast<uintptr_t>(start);
    if (size > UINTPTR_MAX - begin) return false;
    for (uintptr_t page = begin & ~(kPage - 1); page < begin + size; page += kPage) {
      if (page == known_) continue;
      if (page == 0) return false;  // would be no mask at all
      // The kernel fetches the mask, and then finds that it cannot be told what to do with it.
      constexpr long kNoOperation = -1;
      constexpr long kMaskBytes = 8;
      constexpr long kBadAddress = -14;  // EFAULT
      if (raw_syscall(SYS_rt_sigprocmask, kNoOperation, static_cast<long>(page), 0, kMaskBytes) ==
          kBadAddress) {
        return false;
      }
      known_ = page;
    }
    return true;
  }

 private:
  uintptr_t known_ = 1;  // where no page begins
};

inline void close(int fd) {
  raw_syscall(SYS_close, fd);
}

/// For descriptors of the shim's own: a number that programs hardly count on, just below the usual
/// limit, or the process's own. Never far up, since the kernel's table grows with the highest
/// number; never one of the standard three.
inline int high_number() {
  rlimit limit{};
  if (is_error(raw_syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, word(&limit)))) return 3;
  const rlim_t bound = limit.rlim_cur < 1024 ? limit.rlim_cur : 1024;
  return bound > 64 ? static_cast<int>(bound - 24) : 3;
}

inline bool has_file_size_limit() {
  rlimit limit{};
  long result = raw_syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, word(&limit));
  return is_error(result) || limit.rlim_cur != RLIM_INFINITY;
}

inline uint64_t now_us() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

/// Looks again and again at something that is not told: an eighth late at most, whatever it takes,
/// and seldom when it takes long.
class Patience {
 public:
  void sleep() const {
    const uint64_t pause = elapsed_us() / 8;
    sleep_us(pause < kLeastUs ? kLeastUs : pause < kMostUs ? pause : kMostUs);
  }
  uint64_t elapsed_us() const { return now_us() - start_us_; }

 private:
  static constexpr uint64_t kLeastUs = 20;
  /// A hundred programs that look all the time leave the daemon no processor to answer with.
  static constexpr uint64_t kMostUs = 5000;
  const uint64_t start_us_ = now_us();
};

/// The first whole millisecond that is still to come.
inline uint64_t next_ms() {
  return now_us() / 1000 + 1;
}
/// Cheaper, a few milliseconds coarse.
inline uint64_t coarse_now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace booster::preload::raw

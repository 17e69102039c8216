// The few kernel calls that the shim makes for itself, by bare system call: they can be neither
// interposed nor cancelled and leave errno alone. Results are the kernel's: a value or -errno.
#pragma once

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "common/raw_syscall.h"

namespace booster::preload::raw {

using common::is_error;
using common::raw_syscall;

template <typename T>
long word(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

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

/// Identity of an open file without asking its file system (statx(2), AT_STATX_DONT_SYNC).
inline bool identify(int fd, FileId& id) {
  struct statx st;
  long result = raw_syscall(SYS_statx, fd, word(""), AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
                            STATX_TYPE | STATX_MODE | STATX_INO, word(&st));
  if (is_error(result)) return false;
  id = {st.stx_dev_major, st.stx_dev_minor, st.stx_ino, st.stx_mode};
  return true;
}

/// Asks the file system for fresh attributes. On FUSE this orders after every earlier write of the
/// inode, write-behind included (DESIGN: draining FUSE's write-behind).
inline bool sync_attributes(int fd) {
  struct statx st;
  return !is_error(raw_syscall(SYS_statx, fd, word(""), AT_EMPTY_PATH | AT_STATX_FORCE_SYNC,
                               STATX_BASIC_STATS, word(&st)));
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
inline void close(int fd) {
  raw_syscall(SYS_close, fd);
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
/// Cheaper, a few milliseconds coarse.
inline uint64_t coarse_now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

inline void sleep_ms(uint64_t ms) {
  timespec left{static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000) * 1'000'000};
  while (raw_syscall(SYS_nanosleep, word(&left), word(&left)) == -4 /* EINTR */) {
  }
}

}  // namespace booster::preload::raw

// Interposers of what looks at or changes a file by other ways than read and write: settled first,
// then the kernel does it.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#include <optional>
#include <type_traits>

#include "preload/interpose.h"

using namespace booster::preload;

namespace {

/// Size and times of a file that this process has written: asked again after a fence when the first
/// answer turns out to be of such a file.
template <typename Stat, typename Ask>
int fresh_stat(Stat* st, Ask ask) {
  // Another thread may settle between the asking and the looking: what was dirty before counts.
  const bool dirty = maybe_dirty();
  const int result = ask();
  if (result != 0 || (!dirty && !maybe_dirty())) return result;
  Entry entry;
  if (!entry) return result;
  raw::FileId id;
  if constexpr (std::is_same_v<Stat, struct statx>) {
    id = {st->stx_dev_major, st->stx_dev_minor, st->stx_ino, 0};
  } else {
    id = {major(st->st_dev), minor(st->st_dev), st->st_ino, 0};
  }
  return settle_identity(id) ? ask() : result;
}

/// Around a call by which the kernel changes the file of `fd`.
template <typename Change>
auto change(int fd, Change call) {
  std::optional<Uninterrupted> uninterrupted;
  if (g_files.kind(fd) == FileTable::kTracked) uninterrupted.emplace();
  const FileChange change(fd);
  return call();
}

/// Around a call by which the kernel moves bytes from one file to another.
template <typename Copy>
ssize_t copy_between(int from, int to, Copy call) {
  before_kernel_look(from);
  before_offset_use(from);
  const FileChange change(to);
  return call();
}

/// Around a call that changes attributes of the file at `path`, which this process may have
/// written.
template <typename Call>
auto change_at(int directory, const char* path, int flags, Call call) {
  before_kernel_look(directory, path, flags);
  return call();
}

}  // namespace

#define BOOSTER_STAT(name, type)                                    \
  BOOSTER_NEXT(int, name, (const char*, struct type*))              \
  BOOSTER_EXPORT int name(const char* path, struct type* st) {      \
    return fresh_stat(st, [=] { return next_##name()(path, st); }); \
  }
#define BOOSTER_FSTAT(name, type)                                 \
  BOOSTER_NEXT(int, name, (int, struct type*))                    \
  BOOSTER_EXPORT int name(int fd, struct type* st) {              \
    return fresh_stat(st, [=] { return next_##name()(fd, st); }); \
  }
#define BOOSTER_FSTATAT(name, type)                                                      \
  BOOSTER_NEXT(int, name, (int, const char*, struct type*, int))                         \
  BOOSTER_EXPORT int name(int directory, const char* path, struct type* st, int flags) { \
    return fresh_stat(st, [=] { return next_##name()(directory, path, st, flags); });    \
  }
// The names that programs linked against glibc before 2.33 use.
#define BOOSTER_XSTAT(name, type)                                            \
  BOOSTER_NEXT(int, name, (int, const char*, struct type*))                  \
  BOOSTER_EXPORT int name(int version, const char* path, struct type* st) {  \
    return fresh_stat(st, [=] { return next_##name()(version, path, st); }); \
  }
#define BOOSTER_FXSTAT(name, type)                                         \
  BOOSTER_NEXT(int, name, (int, int, struct type*))                        \
  BOOSTER_EXPORT int name(int version, int fd, struct type* st) {          \
    return fresh_stat(st, [=] { return next_##name()(version, fd, st); }); \
  }
#define BOOSTER_FXSTATAT(name, type)                                                           \
  BOOSTER_NEXT(int, name, (int, int, const char*, struct type*, int))                          \
  BOOSTER_EXPORT int name(int version, int directory, const char* path, struct type* st,       \
                          int flags) {                                                         \
    return fresh_stat(st, [=] { return next_##name()(version, directory, path, st, flags); }); \
  }
BOOSTER_STAT(stat, stat)
BOOSTER_STAT(stat64, stat64)
BOOSTER_STAT(lstat, stat)
BOOSTER_STAT(lstat64, stat64)
BOOSTER_FSTAT(fstat, stat)
BOOSTER_FSTAT(fstat64, stat64)
BOOSTER_FSTATAT(fstatat, stat)
BOOSTER_FSTATAT(fstatat64, stat64)
BOOSTER_XSTAT(__xstat, stat)
BOOSTER_XSTAT(__xstat64, stat64)
BOOSTER_XSTAT(__lxstat, stat)
BOOSTER_XSTAT(__lxstat64, stat64)
BOOSTER_FXSTAT(__fxstat, stat)
BOOSTER_FXSTAT(__fxstat64, stat64)
BOOSTER_FXSTATAT(__fxstatat, stat)
BOOSTER_FXSTATAT(__fxstatat64, stat64)

BOOSTER_NEXT(int, statx, (int, const char*, int, unsigned, struct statx*))
BOOSTER_EXPORT int statx(int directory, const char* path, int flags, unsigned mask,
                         struct statx* st) {
  return fresh_stat(st, [=] { return next_statx()(directory, path, flags, mask | STATX_INO, st); });
}

BOOSTER_NEXT(off_t, lseek, (int, off_t, int))
BOOSTER_EXPORT off_t lseek(int fd, off_t offset, int whence) {
  // SEEK_SET and SEEK_CUR look at nothing but the offset; the others look at the file.
  if (whence != SEEK_SET && whence != SEEK_CUR) before_kernel_look(fd);
  if (g_files.kind(fd) == FileTable::kForeign) return next_lseek()(fd, offset, whence);
  const OffsetLock lock(fd);
  const off_t after = next_lseek()(fd, lock.for_kernel(offset, whence), whence);
  lock.note(after);
  return after;
}
BOOSTER_EXPORT off_t lseek64(int fd, off_t offset, int whence) {
  return lseek(fd, offset, whence);
}
BOOSTER_EXPORT off_t llseek(int fd, off_t offset, int whence) {
  return lseek(fd, offset, whence);
}
BOOSTER_EXPORT off_t __lseek(int fd, off_t offset, int whence) {
  return lseek(fd, offset, whence);
}

namespace {

/// The result of a call that is told of earlier writes that could not be kept.
int told(int fd, int result) {
  const long error = deferred_error(fd);
  if (error == 0 || result != 0) return result;
  errno = static_cast<int>(-error);
  return -1;
}

}  // namespace

#define BOOSTER_SYNC(name, data_only)                                     \
  BOOSTER_NEXT(int, name, (int))                                          \
  BOOSTER_EXPORT int name(int fd) {                                       \
    return told(fd, sync_boosted(fd, data_only) ? 0 : next_##name()(fd)); \
  }
BOOSTER_SYNC(fsync, false)
BOOSTER_SYNC(fdatasync, true)
BOOSTER_NEXT(int, syncfs, (int))
BOOSTER_EXPORT int syncfs(int fd) {
  settle_process();
  return next_syncfs()(fd);
}
BOOSTER_NEXT(void, sync, (void))
BOOSTER_EXPORT void sync(void) {
  settle_process();
  next_sync()();
}

BOOSTER_NEXT(int, ftruncate, (int, off_t))
BOOSTER_EXPORT int ftruncate(int fd, off_t length) {
  return change(fd, [=] { return next_ftruncate()(fd, length); });
}
BOOSTER_EXPORT int ftruncate64(int fd, off_t length) {
  return ftruncate(fd, length);
}
BOOSTER_NEXT(int, truncate, (const char*, off_t))
BOOSTER_EXPORT int truncate(const char* path, off_t length) {
  const Uninterrupted uninterrupted;
  const PathChange change(path);
  const int result = next_truncate()(path, length);
  after_path_change();
  return result;
}
BOOSTER_EXPORT int truncate64(const char* path, off_t length) {
  return truncate(path, length);
}
BOOSTER_EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
  // Not by libc's, in which a thread may be cancelled.
  return change(
      fd, [=] { return raw::as_libc(raw::raw_syscall(SYS_fallocate, fd, mode, offset, length)); });
}
BOOSTER_EXPORT int fallocate64(int fd, int mode, off_t offset, off_t length) {
  return fallocate(fd, mode, offset, length);
}
BOOSTER_NEXT(int, posix_fallocate, (int, off_t, off_t))
BOOSTER_EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
  return change(fd, [=] { return next_posix_fallocate()(fd, offset, length); });
}
BOOSTER_EXPORT int posix_fallocate64(int fd, off_t offset, off_t length) {
  return posix_fallocate(fd, offset, length);
}

BOOSTER_NEXT(void*, mmap, (void*, size_t, int, int, int, off_t))
BOOSTER_EXPORT void* mmap(void* address, size_t length, int protection, int flags, int fd,
                          off_t offset) {
  if (fd >= 0 && (flags & MAP_ANONYMOUS) == 0) note_mapping(fd);
  return next_mmap()(address, length, protection, flags, fd, offset);
}
BOOSTER_EXPORT void* mmap64(void* address, size_t length, int protection, int flags, int fd,
                            off_t offset) {
  return mmap(address, length, protection, flags, fd, offset);
}

BOOSTER_NEXT(ssize_t, sendfile, (int, int, off_t*, size_t))
BOOSTER_EXPORT ssize_t sendfile(int to, int from, off_t* offset, size_t length) {
  return copy_between(from, to, [=] { return next_sendfile()(to, from, offset, length); });
}
BOOSTER_EXPORT ssize_t sendfile64(int to, int from, off_t* offset, size_t length) {
  return sendfile(to, from, offset, length);
}
BOOSTER_NEXT(ssize_t, copy_file_range, (int, off_t*, int, off_t*, size_t, unsigned))
BOOSTER_EXPORT ssize_t copy_file_range(int from, off_t* from_offset, int to, off_t* to_offset,
                                       size_t length, unsigned flags) {
  return copy_between(from, to, [=] {
    return next_copy_file_range()(from, from_offset, to, to_offset, length, flags);
  });
}
BOOSTER_NEXT(ssize_t, splice, (int, off_t*, int, off_t*, size_t, unsigned))
BOOSTER_EXPORT ssize_t splice(int from, off_t* from_offset, int to, off_t* to_offset, size_t length,
                              unsigned flags) {
  return copy_between(
      from, to, [=] { return next_splice()(from, from_offset, to, to_offset, length, flags); });
}

// Times and modes: a fence after them would set the modification time anew, so it comes before.
BOOSTER_NEXT(int, futimens, (int, const timespec*))
BOOSTER_EXPORT int futimens(int fd, const timespec* times) {
  before_kernel_look(fd);
  return next_futimens()(fd, times);
}
BOOSTER_NEXT(int, utimensat, (int, const char*, const timespec*, int))
BOOSTER_EXPORT int utimensat(int directory, const char* path, const timespec* times, int flags) {
  return change_at(directory, path, flags,
                   [=] { return next_utimensat()(directory, path, times, flags); });
}
BOOSTER_NEXT(int, utime, (const char*, const utimbuf*))
BOOSTER_EXPORT int utime(const char* path, const utimbuf* times) {
  return change_at(AT_FDCWD, path, 0, [=] { return next_utime()(path, times); });
}
BOOSTER_NEXT(int, utimes, (const char*, const timeval*))
BOOSTER_EXPORT int utimes(const char* path, const timeval* times) {
  return change_at(AT_FDCWD, path, 0, [=] { return next_utimes()(path, times); });
}
BOOSTER_NEXT(int, lutimes, (const char*, const timeval*))
BOOSTER_EXPORT int lutimes(const char* path, const timeval* times) {
  return change_at(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW,
                   [=] { return next_lutimes()(path, times); });
}
BOOSTER_NEXT(int, futimes, (int, const timeval*))
BOOSTER_EXPORT int futimes(int fd, const timeval* times) {
  before_kernel_look(fd);
  return next_futimes()(fd, times);
}
BOOSTER_NEXT(int, futimesat, (int, const char*, const timeval*))
BOOSTER_EXPORT int futimesat(int directory, const char* path, const timeval* times) {
  return change_at(directory, path, 0, [=] { return next_futimesat()(directory, path, times); });
}
BOOSTER_NEXT(int, fchmod, (int, mode_t))
BOOSTER_EXPORT int fchmod(int fd, mode_t mode) {
  before_kernel_look(fd);
  return next_fchmod()(fd, mode);
}
BOOSTER_NEXT(int, chmod, (const char*, mode_t))
BOOSTER_EXPORT int chmod(const char* path, mode_t mode) {
  return change_at(AT_FDCWD, path, 0, [=] { return next_chmod()(path, mode); });
}
BOOSTER_NEXT(int, fchmodat, (int, const char*, mode_t, int))
BOOSTER_EXPORT int fchmodat(int directory, const char* path, mode_t mode, int flags) {
  return change_at(directory, path, flags,
                   [=] { return next_fchmodat()(directory, path, mode, flags); });
}
BOOSTER_NEXT(int, fchown, (int, uid_t, gid_t))
BOOSTER_EXPORT int fchown(int fd, uid_t user, gid_t group) {
  before_kernel_look(fd);
  return next_fchown()(fd, user, group);
}
BOOSTER_NEXT(int, chown, (const char*, uid_t, gid_t))
BOOSTER_EXPORT int chown(const char* path, uid_t user, gid_t group) {
  return change_at(AT_FDCWD, path, 0, [=] { return next_chown()(path, user, group); });
}
BOOSTER_NEXT(int, fchownat, (int, const char*, uid_t, gid_t, int))
BOOSTER_EXPORT int fchownat(int directory, const char* path, uid_t user, gid_t group, int flags) {
  return change_at(directory, path, flags,
                   [=] { return next_fchownat()(directory, path, user, group, flags); });
}
BOOSTER_NEXT(int, fsetxattr, (int, const char*, const void*, size_t, int))
BOOSTER_EXPORT int fsetxattr(int fd, const char* name, const void* value, size_t size, int flags) {
  before_kernel_look(fd);
  return next_fsetxattr()(fd, name, value, size, flags);
}
BOOSTER_NEXT(int, setxattr, (const char*, const char*, const void*, size_t, int))
BOOSTER_EXPORT int setxattr(const char* path, const char* name, const void* value, size_t size,
                            int flags) {
  return change_at(AT_FDCWD, path, 0,
                   [=] { return next_setxattr()(path, name, value, size, flags); });
}

// Interposers of what makes, copies and ends descriptors: the kernel does it, the table follows.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <type_traits>

#include "preload/interpose.h"

using namespace booster::preload;

namespace {

int opened(int fd) {
  if (fd >= 0) note_opened(fd);
  return fd;
}

/// open's third argument, which is there only when a file may be made.
mode_t mode_argument(int flags, va_list arguments) {
  const bool has_mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return has_mode ? va_arg(arguments, mode_t) : 0;
}

/// Ends numbers one by one around the shim's socket, which is somewhere in the range.
template <typename CloseRange>
int close_around_own(unsigned first, unsigned last, CloseRange close_range) {
  const int own = own_descriptor();
  const auto held = static_cast<unsigned>(own);
  if (own < 0 || held < first || held > last) return close_range(first, last);
  if (held > first && close_range(first, held - 1) != 0) return -1;
  return held < last ? close_range(held + 1, last) : 0;
}

/// Whether any of the messages hands on descriptors. Of what cannot be read, or has a length that
/// cannot be, the kernel sends nothing, nor what comes after it.
template <typename Message>
bool carries_descriptors(const Message* messages, unsigned count) {
  // Asked of the kernel, and no more of it when the program may not ask for much.
  const Entry entry;
  if (!entry) return false;
  raw::Readable memory;
  for (const Message* one = messages; one != messages + count; ++one) {
    if (!memory.has(one, sizeof *one)) return false;
    const msghdr* message;
    if constexpr (std::is_same_v<Message, mmsghdr>) {
      message = &one->msg_hdr;
    } else {
      message = one;
    }
    const auto* control = static_cast<const char*>(message->msg_control);
    size_t left = message->msg_controllen;
    if (control == nullptr || left > INT32_MAX) continue;
    if (!memory.has(control, left)) return false;
    while (left >= sizeof(cmsghdr)) {
      cmsghdr header;
      memcpy(&header, control, sizeof header);
      if (header.cmsg_len < sizeof header || header.cmsg_len > left) break;
      if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_RIGHTS) return true;
      const size_t step = CMSG_ALIGN(header.cmsg_len);
      if (step > left) break;
      control += step;
      left -= step;
    }
  }
  return false;
}

}  // namespace

BOOSTER_NEXT(int, open, (const char*, int, ...))
BOOSTER_NEXT(int, open64, (const char*, int, ...))
BOOSTER_NEXT(int, openat, (int, const char*, int, ...))
BOOSTER_NEXT(int, openat64, (int, const char*, int, ...))
BOOSTER_NEXT(int, creat, (const char*, mode_t))
BOOSTER_NEXT(int, creat64, (const char*, mode_t))
BOOSTER_NEXT(int, __open_2, (const char*, int))
BOOSTER_NEXT(int, __open64_2, (const char*, int))
BOOSTER_NEXT(int, __openat_2, (int, const char*, int))
BOOSTER_NEXT(int, __openat64_2, (int, const char*, int))
BOOSTER_NEXT(int, close, (int))
BOOSTER_NEXT(int, close_range, (unsigned, unsigned, int))
BOOSTER_NEXT(void, closefrom, (int))
BOOSTER_NEXT(int, dup, (int))
BOOSTER_NEXT(int, dup2, (int, int))
BOOSTER_NEXT(int, dup3, (int, int, int))
BOOSTER_NEXT(int, fcntl, (int, int, ...))
BOOSTER_NEXT(int, fcntl64, (int, int, ...))
BOOSTER_NEXT(int, flock, (int, int))
BOOSTER_NEXT(int, lockf, (int, int, off_t))
BOOSTER_NEXT(int, ioctl, (int, unsigned long, ...))
BOOSTER_NEXT(ssize_t, sendmsg, (int, const msghdr*, int))
BOOSTER_NEXT(ssize_t, recvmsg, (int, msghdr*, int))
BOOSTER_NEXT(int, recvmmsg, (int, mmsghdr*, unsigned, int, timespec*))
BOOSTER_NEXT(int, pidfd_getfd, (int, int, unsigned))
BOOSTER_NEXT(int, closedir, (DIR*))
BOOSTER_NEXT(int, sendmmsg, (int, mmsghdr*, unsigned, int))

#define BOOSTER_OPEN(name)                                    \
  BOOSTER_EXPORT int name(const char* path, int flags, ...) { \
    va_list arguments;                                        \
    va_start(arguments, flags);                               \
    const mode_t mode = mode_argument(flags, arguments);      \
    va_end(arguments);                                        \
    return opened(next_##name()(path, flags, mode));          \
  }
#define BOOSTER_OPENAT(name)                                                 \
  BOOSTER_EXPORT int name(int directory, const char* path, int flags, ...) { \
    va_list arguments;                                                       \
    va_start(arguments, flags);                                              \
    const mode_t mode = mode_argument(flags, arguments);                     \
    va_end(arguments);                                                       \
    return opened(next_##name()(directory, path, flags, mode));              \
  }
BOOSTER_OPEN(open)
BOOSTER_OPEN(open64)
BOOSTER_OPENAT(openat)
BOOSTER_OPENAT(openat64)
BOOSTER_EXPORT int __open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_argument(flags, arguments);
  va_end(arguments);
  return open(path, flags, mode);
}
BOOSTER_EXPORT int __open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_argument(flags, arguments);
  va_end(arguments);
  return open64(path, flags, mode);
}
BOOSTER_EXPORT int __open_2(const char* path, int flags) {
  return opened(next___open_2()(path, flags));
}
BOOSTER_EXPORT int __open64_2(const char* path, int flags) {
  return opened(next___open64_2()(path, flags));
}
BOOSTER_EXPORT int __openat_2(int directory, const char* path, int flags) {
  return opened(next___openat_2()(directory, path, flags));
}
BOOSTER_EXPORT int __openat64_2(int directory, const char* path, int flags) {
  return opened(next___openat64_2()(directory, path, flags));
}
BOOSTER_EXPORT int creat(const char* path, mode_t mode) {
  return opened(next_creat()(path, mode));
}
BOOSTER_EXPORT int creat64(const char* path, mode_t mode) {
  return opened(next_creat64()(path, mode));
}

int booster::preload::close_number(int fd, bool cancellable) {
  if (is_own(fd)) {
    errno = EBADF;  // what a program that closes every number expects of one that it never opened
    return -1;
  }
  // No handler may come, and leave for good, while the number is neither.
  // Nor may the thread be cancelled there.
  std::optional<Uninterrupted> uninterrupted;
  if (g_files.kind(fd) == FileTable::kTracked) {
    if (cancellable && t_thread.depth == 0 && !t_thread.vfork_child) pthread_testcancel();
    uninterrupted.emplace();
  }
  const long error = before_close(fd);
  const int result = uninterrupted || !cancellable ? raw::as_libc(raw::raw_syscall(SYS_close, fd))
                                                   : next_close()(fd);
  after_close(fd);
  if (error == 0 || result != 0) return result;
  errno = static_cast<int>(-error);
  return -1;
}
BOOSTER_EXPORT int close(int fd) {
  return close_number(fd, true);
}
BOOSTER_EXPORT int __close(int fd) {
  return close(fd);
}

BOOSTER_EXPORT int close_range(unsigned first, unsigned last, int flags) {
  const bool closes = (flags & ~static_cast<int>(CLOSE_RANGE_UNSHARE)) == 0 && first <= last;
  if (t_thread.vfork_child || !closes) return next_close_range()(first, last, flags);
  const Uninterrupted uninterrupted;
  settle_process();
  before_range_ends(first, last, own_descriptor());
  const int result = close_around_own(first, last, [flags](unsigned from, unsigned to) {
    return next_close_range()(from, to, flags);
  });
  after_range_ended(first, last, own_descriptor());
  return result;
}

BOOSTER_EXPORT void closefrom(int low) {
  if (t_thread.vfork_child) return next_closefrom()(low);
  const unsigned first = low < 0 ? 0 : static_cast<unsigned>(low);
  const Uninterrupted uninterrupted;
  settle_process();
  before_range_ends(first, ~0U, own_descriptor());
  close_around_own(first, ~0U, [](unsigned from, unsigned to) {
    if (to == ~0U) {
      next_closefrom()(static_cast<int>(from));
      return 0;
    }
    return next_close_range()(from, to, 0);
  });
  after_range_ended(first, ~0U, own_descriptor());
}

BOOSTER_EXPORT int dup(int from) {
  const int to = next_dup()(from);
  if (to >= 0) note_duplicated(from, to);
  return to;
}

namespace {

template <typename Dup>
int dup_onto(int from, int to, Dup dup) {
  // The kernel refuses what is not open, and `to` stays what it was.
  if (from == to || raw::is_error(raw::raw_syscall(SYS_fcntl, from, F_GETFD))) return dup();
  if (is_own(to)) move_own_descriptor();
  std::optional<Uninterrupted> uninterrupted;
  if (g_files.kind(to) == FileTable::kTracked) uninterrupted.emplace();
  before_close(to);
  const int result = dup();
  if (result >= 0) {
    note_duplicated(from, to);
  } else {
    after_close(to);
  }
  return result;
}

}  // namespace

BOOSTER_EXPORT int dup2(int from, int to) {
  return dup_onto(from, to, [=] { return next_dup2()(from, to); });
}
BOOSTER_EXPORT int __dup2(int from, int to) {
  return dup2(from, to);
}
BOOSTER_EXPORT int dup3(int from, int to, int flags) {
  return dup_onto(from, to, [=] { return next_dup3()(from, to, flags); });
}

namespace {

template <typename Fcntl>
int follow_fcntl(int fd, int command, void* argument, Fcntl next) {
  switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC: {
      const int to = next(fd, command, argument);
      if (to >= 0) note_duplicated(fd, to);
      return to;
    }
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_SETLK:
    case F_OFD_SETLKW: {
      before_offset_use(fd);  // where it may begin
      before_lock(fd);
      const int result = next(fd, command, argument);
      after_lock();
      return result;
    }
    case F_GETLK:
    case F_OFD_GETLK: before_offset_use(fd); break;
    case F_SETLEASE: {
      const FileChange change(fd);  // it is the program's own from now on
      return next(fd, command, argument);
    }
    case F_SETFL: {
      const auto flags = static_cast<int>(reinterpret_cast<intptr_t>(argument));
      // With these nothing is logged, and what was must not be written anew after them.
      std::optional<FileChange> change;
      if ((flags & (O_APPEND | O_DIRECT)) != 0) change.emplace(fd);
      const int result = next(fd, command, argument);
      if (result == 0) note_status_flags(fd, flags);
      return result;
    }
    default: break;
  }
  return next(fd, command, argument);
}

}  // namespace

// The argument is an int or a pointer; both arrive in one register, as libc itself assumes.
BOOSTER_EXPORT int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  return follow_fcntl(fd, command, argument, next_fcntl());
}
BOOSTER_EXPORT int __fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  return follow_fcntl(fd, command, argument, next_fcntl());
}
BOOSTER_EXPORT int fcntl64(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  return follow_fcntl(fd, command, argument, next_fcntl64());
}

BOOSTER_EXPORT int flock(int fd, int operation) {
  before_lock(fd);
  const int result = next_flock()(fd, operation);
  after_lock();
  return result;
}
BOOSTER_EXPORT int lockf(int fd, int command, off_t length) {
  before_offset_use(fd);
  before_lock(fd);
  const int result = next_lockf()(fd, command, length);
  after_lock();
  return result;
}
BOOSTER_EXPORT int lockf64(int fd, int command, off_t length) {
  return lockf(fd, command, length);
}

/// FIONREAD: how much the file has behind the offset.
BOOSTER_EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request == FIONREAD && !t_thread.vfork_child) {
    before_kernel_look(fd);
    before_offset_use(fd);
  }
  return next_ioctl()(fd, request, argument);
}

BOOSTER_EXPORT ssize_t sendmsg(int socket, const msghdr* message, int flags) {
  if (!carries_descriptors(message, 1)) return next_sendmsg()(socket, message, flags);
  const Sharing sharing;
  return next_sendmsg()(socket, message, flags);
}
BOOSTER_EXPORT int sendmmsg(int socket, mmsghdr* messages, unsigned count, int flags) {
  // The kernel sends no more of them in one call.
  const unsigned most = count < IOV_MAX ? count : IOV_MAX;
  if (!carries_descriptors(messages, most)) return next_sendmmsg()(socket, messages, count, flags);
  const Sharing sharing;
  return next_sendmmsg()(socket, messages, count, flags);
}

namespace {

/// The kernel has filled it in.
void forget_received(msghdr& message) {
  if (message.msg_control == nullptr || message.msg_controllen < sizeof(cmsghdr)) return;
  for (cmsghdr* one = CMSG_FIRSTHDR(&message); one != nullptr; one = CMSG_NXTHDR(&message, one)) {
    if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= one->cmsg_len; at += sizeof(int)) {
      int fd = -1;
      memcpy(&fd, reinterpret_cast<const char*>(one) + at, sizeof fd);
      forget_number(fd);
    }
  }
}

}  // namespace

BOOSTER_EXPORT ssize_t recvmsg(int socket, msghdr* message, int flags) {
  const ssize_t got = next_recvmsg()(socket, message, flags);
  if (got >= 0) forget_received(*message);
  return got;
}
BOOSTER_EXPORT int recvmmsg(int socket, mmsghdr* messages, unsigned count, int flags,
                            timespec* timeout) {
  const int got = next_recvmmsg()(socket, messages, count, flags, timeout);
  for (int i = 0; i < got; ++i) forget_received(messages[i].msg_hdr);
  return got;
}
// Not from <sys/pidfd.h>, which declares it as C++.
BOOSTER_EXPORT int pidfd_getfd(int pidfd, int number, unsigned flags) {
  const int fd = next_pidfd_getfd()(pidfd, number, flags);
  if (fd >= 0) forget_number(fd);
  return fd;
}
/// libc closes what the program may have opened itself (fdopendir).
BOOSTER_EXPORT int closedir(DIR* directory) {
  if (directory != nullptr) forget_number(dirfd(directory));
  return next_closedir()(directory);
}

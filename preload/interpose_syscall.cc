// Interposer of syscall(2)'s libc wrapper: programs that call the kernel by number for a call that
// has a name here get the same treatment as if they had used the name.
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/boosted_write.h"
#include "preload/interpose.h"

using namespace booster::preload;

BOOSTER_NEXT(long, syscall, (long, ...))

namespace {

template <typename T>
T pointer(long word) {
  return reinterpret_cast<T>(word);
}

/// Of what cannot be read the kernel begins nothing, nor what comes after it.
void note_submitted(const iocb* const* blocks, long count) {
  raw::Readable list;
  raw::Readable memory;
  for (long i = 0; i < count; ++i) {
    if (!list.has(blocks + i, sizeof(void*)) || !memory.has(blocks[i], sizeof(iocb))) return;
    note_async(static_cast<int>(blocks[i]->aio_fildes));
  }
}

}  // namespace

BOOSTER_EXPORT long syscall(long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  const long a = va_arg(arguments, long);
  const long b = va_arg(arguments, long);
  const long c = va_arg(arguments, long);
  const long d = va_arg(arguments, long);
  const long e = va_arg(arguments, long);
  const long f = va_arg(arguments, long);
  va_end(arguments);

  const int fd = static_cast<int>(a);
  switch (number) {
    case SYS_read: return ::read(fd, pointer<void*>(b), static_cast<size_t>(c));
    case SYS_write: return ::write(fd, pointer<const void*>(b), static_cast<size_t>(c));
    case SYS_pread64: return ::pread(fd, pointer<void*>(b), static_cast<size_t>(c), d);
    case SYS_pwrite64: return ::pwrite(fd, pointer<const void*>(b), static_cast<size_t>(c), d);
    case SYS_readv: return ::readv(fd, pointer<const iovec*>(b), static_cast<int>(c));
    case SYS_writev: return ::writev(fd, pointer<const iovec*>(b), static_cast<int>(c));
    case SYS_preadv: return ::preadv(fd, pointer<const iovec*>(b), static_cast<int>(c), d);
    case SYS_pwritev: return ::pwritev(fd, pointer<const iovec*>(b), static_cast<int>(c), d);
    case SYS_preadv2:  // the offset comes in two words, of which the first has all of it
      return ::preadv2(fd, pointer<const iovec*>(b), static_cast<int>(c), d, static_cast<int>(f));
    case SYS_pwritev2:
      return ::pwritev2(fd, pointer<const iovec*>(b), static_cast<int>(c), d, static_cast<int>(f));
    case SYS_close: return ::close(fd);
    case SYS_close_range:
      return ::close_range(static_cast<unsigned>(a), static_cast<unsigned>(b), static_cast<int>(c));
    case SYS_dup: return ::dup(fd);
#ifdef SYS_dup2
    case SYS_dup2: return ::dup2(fd, static_cast<int>(b));
#endif
    case SYS_dup3: return ::dup3(fd, static_cast<int>(b), static_cast<int>(c));
    case SYS_fcntl: return ::fcntl(fd, static_cast<int>(b), c);
    case SYS_ioctl: return ::ioctl(fd, static_cast<unsigned long>(b), c);
    case SYS_flock: return ::flock(fd, static_cast<int>(b));
    case SYS_lseek: return ::lseek(fd, b, static_cast<int>(c));
    case SYS_fsync: return ::fsync(fd);
    case SYS_fdatasync: return ::fdatasync(fd);
    case SYS_ftruncate: return ::ftruncate(fd, b);
    case SYS_truncate: return ::truncate(pointer<const char*>(a), b);
    case SYS_fallocate: return ::fallocate(fd, static_cast<int>(b), c, d);
    case SYS_sendmsg: return ::sendmsg(fd, pointer<const msghdr*>(b), static_cast<int>(c));
    case SYS_recvmsg: return ::recvmsg(fd, pointer<msghdr*>(b), static_cast<int>(c));
    case SYS_recvmmsg:
      return ::recvmmsg(fd, pointer<mmsghdr*>(b), static_cast<unsigned>(c), static_cast<int>(d),
                        pointer<timespec*>(e));
    case SYS_pidfd_getfd: {
      const long got = next_syscall()(number, a, b, c, d, e, f);
      if (got >= 0) forget_number(static_cast<int>(got));
      return got;
    }
    case SYS_sendmmsg:
      return ::sendmmsg(fd, pointer<mmsghdr*>(b), static_cast<unsigned>(c), static_cast<int>(d));
    case SYS_mmap:
      return reinterpret_cast<long>(::mmap(pointer<void*>(a), static_cast<size_t>(b),
                                           static_cast<int>(c), static_cast<int>(d),
                                           static_cast<int>(e), f));
#ifdef SYS_open
    case SYS_open:
      return ::open(pointer<const char*>(a), static_cast<int>(b), static_cast<mode_t>(c));
    case SYS_creat: return ::creat(pointer<const char*>(a), static_cast<mode_t>(b));
#endif
    case SYS_openat:
      return ::openat(fd, pointer<const char*>(b), static_cast<int>(c), static_cast<mode_t>(d));
    case SYS_openat2: {
      const long opened = next_syscall()(number, a, b, c, d, e, f);
      if (opened >= 0) note_opened(static_cast<int>(opened));
      return opened;
    }
    case SYS_sendfile:
      return ::sendfile(fd, static_cast<int>(b), pointer<off_t*>(c), static_cast<size_t>(d));
    case SYS_copy_file_range:
    case SYS_splice:
      before_kernel_look(fd);
      before_offset_use(fd);
      {
        const FileChange change(static_cast<int>(c));
        return next_syscall()(number, a, b, c, d, e, f);
      }
    case SYS_io_submit:  // libaio calls it so
      note_submitted(pointer<const iocb* const*>(c), b);
      settle_process();
      break;
    case SYS_io_uring_setup: {
      // What is done through it is not seen: nothing is delegated any more.
      const Sharing sharing;
      const long ring = next_syscall()(number, a, b, c, d, e, f);
      if (ring >= 0) share_for_good();
      return ring;
    }
    case SYS_io_uring_enter:
    case SYS_io_uring_register:
    case SYS_clone:
    case SYS_clone3:
#ifdef SYS_fork
    case SYS_fork:
    case SYS_vfork:
#endif
      // Not around it: vfork returns twice.
      { const Sharing sharing; }
      if (number == SYS_clone3 ||
          (number == SYS_clone && shares_with_caller(static_cast<unsigned long>(a)))) {
        before_unseen_threads();
      }
      break;
    case SYS_prctl: return ::prctl(static_cast<int>(a), b, c, d, e);
    case SYS_seccomp:
      if (a == SECCOMP_SET_MODE_STRICT || (a == SECCOMP_SET_MODE_FILTER && c != 0)) {
        before_seccomp();
      }
      break;
    case SYS_execve:
    case SYS_execveat:
    case SYS_exit_group: {
      const Leaving leaving;
      return next_syscall()(number, a, b, c, d, e, f);
    }
    case SYS_setrlimit:
    case SYS_prlimit64: {
      const long result = next_syscall()(number, a, b, c, d, e, f);
      note_limits_changed();
      return result;
    }
    case SYS_statx:
    case SYS_fstat:
    case SYS_newfstatat:
#ifdef SYS_stat
    case SYS_stat:
    case SYS_lstat:
    case SYS_chmod:
    case SYS_chown:
    case SYS_lchown:
    case SYS_utime:
    case SYS_utimes:
    case SYS_futimesat:
#endif
    case SYS_exit:
    case SYS_utimensat:
    case SYS_fchmod:
    case SYS_fchmodat:
    case SYS_fchown:
    case SYS_fchownat:
    case SYS_fsetxattr:
    case SYS_setxattr:
    case SYS_sync:
    case SYS_syncfs: settle_process(); break;
    default: break;
  }
  return next_syscall()(number, a, b, c, d, e, f);
}
